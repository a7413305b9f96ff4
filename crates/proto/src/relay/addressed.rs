//! Contents that are for some nodes, which their publisher names in the manifest.
//!
//! Everybody carries them. What came over the fewest nodes is fetched first and let go last, as
//! MaxProp does (Burgess et al. 2006): it is the youngest, and fewer nodes have it. A node whose
//! store is full does not fetch what it would let go before all else, so that copies are as many as
//! stores and air carry. The receipts of those it is for go to all who carry it; then nobody
//! fetches it any more, and it goes first when a store is full.

use super::Relay;
use super::entry::Entry;
use super::message::ManifestHint;
use super::receipt::Receipt;
use super::session::Remote;
use crate::delivery::{Base, Config};
use crate::ids::PublisherKey;
use crate::numbers::{ContactNo, ContentNo, Place, TrackNo};

impl Entry {
    /// Whether its publisher names that node.
    pub(super) fn is_for(&self, node: &PublisherKey) -> bool {
        self.to.contains(node)
    }

    /// Whether it is for this node, by somebody whom its operator trusts: then it is taken whatever
    /// else is of interest, and before all else.
    pub(super) fn is_own_mail(&self, config: &Config) -> bool {
        self.is_for(&config.own) && config.is_trusted(&self.key.publisher)
    }

    /// Whether it is for some nodes, and all of them have it.
    pub(super) const fn is_delivered(&self) -> bool {
        self.everywhere && !self.to.is_empty()
    }

    /// Whether it may be worth fetching, by over how many nodes it came: see
    /// [`Relay::hops_with_room`].
    pub(super) fn fits(&self, remote: &Remote, room: u8, own: &PublisherKey) -> bool {
        // Without segments it is about receipts, which take no room.
        let mut tracks = remote.tracks.iter();
        let is_mail = !self.to.is_empty() && tracks.any(|(_, here)| !here.is_empty());
        !is_mail || self.is_for(own) || remote.hops.saturating_add(1) < room
    }

    /// How many nodes carried it here, when it is for some nodes: each kept a copy.
    pub(super) fn carried_by(&self) -> Option<u16> {
        (!self.to.is_empty()).then_some(u16::from(self.hops))
    }
}

impl Relay {
    /// Over fewer nodes than so many has to come what is for other nodes, or a full store would let
    /// it go before all that is here: it is not worth fetching.
    pub(super) fn hops_with_room(&mut self, base: &Base) -> u8 {
        if base.now >= base.crowded {
            return u8::MAX;
        }
        // Its own does not go for what others publish, so it says nothing of the room for that.
        let others = self.entries.values().filter(|entry| {
            let here = entry.tracks.iter().any(|track| !track.here.is_empty());
            here && entry.key.publisher != base.config.own
        });
        // Of what is for everybody, or has arrived, it is not known what the store thinks of it.
        let hops = others.map(|entry| {
            let yields = entry.to.is_empty() || entry.is_delivered();
            if yields { u8::MAX } else { entry.hops }
        });
        // Kept until something comes or goes: all contents are looked at for it.
        *self
            .room
            .get_or_insert_with(|| hops.max().unwrap_or(u8::MAX))
    }

    /// Takes the receipts that came before the manifest was known.
    pub(super) fn receive_early(&mut self, base: &mut Base, at: ContentNo) {
        let hint = self.entries.get(&at).and_then(|it| it.hint());
        let Some(hint) = hint else {
            return;
        };
        let mut early = Vec::new();
        for (no, session) in &mut self.sessions {
            if let Some(remote) = session.remote.get_mut(&at)
                && remote.manifest == Some(hint)
            {
                let receipts = std::mem::take(&mut remote.receipts);
                early.push((*no, receipts));
            }
        }
        for (no, receipts) in early {
            self.receive(base, (no, at), &hint, receipts);
        }
    }

    /// Takes receipts of nodes of the group, and of those that a content is for, and spreads those
    /// that are new.
    pub(super) fn receive(
        &mut self,
        base: &mut Base,
        (no, at): (ContactNo, ContentNo),
        manifest: &ManifestHint,
        receipts: Vec<Receipt>,
    ) {
        let mut new = false;
        for receipt in receipts {
            let Some(entry) = self.entries.get_mut(&at) else {
                return;
            };
            let ours = entry.hint().as_ref() == Some(manifest);
            let known = entry.receipts.contains_key(&receipt.node);
            let counts = base.config.group.contains(&receipt.node) || entry.is_for(&receipt.node);
            // Whoever else has it is of no interest, and would cost a check of a signature each.
            if !ours || known || !counts {
                continue;
            }
            // There is one, as its hint is the same.
            let hash = entry.manifest.map(|(hash, _)| hash).unwrap_or_default();
            if receipt.verify(&entry.key, &hash).is_err() {
                return base.leave(no, "a receipt is not signed by the node it names".into());
            }
            entry.receipts.insert(receipt.node, receipt.signature);
            entry.changed();
            new = true;
        }
        // Those who heard of it already have it: a receipt is spread once by each node.
        if new {
            self.look_everywhere(base, at);
            self.retell(base, at);
        }
    }

    /// Notes when all nodes that should have a content do: those that it is for, else the group.
    pub(super) fn look_everywhere(&mut self, base: &mut Base, at: ContentNo) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let has = |node| entry.receipts.contains_key(node);
        let all = if entry.to.is_empty() {
            let group = &base.config.group;
            !group.is_empty() && group.iter().all(has)
        } else {
            entry.to.iter().all(has)
        };
        if !all || entry.everywhere {
            return;
        }
        entry.everywhere = true;
        self.room = None;
        entry.changed();
        // What is on its way would arrive for nobody.
        let gone = if entry.is_delivered() {
            self.take_pending(at)
        } else {
            Vec::new()
        };
        for (place, piece) in gone {
            self.let_go(base, place, piece);
        }
        // Said at once: it is what goes first where the store needs room.
        self.counted.insert(at);
        self.count_copies(base);
        self.dirty.insert(at);
    }

    /// Takes out what is on its way of a content.
    pub(super) fn take_pending(&mut self, at: ContentNo) -> Vec<(Place, crate::piece::PieceNo)> {
        let Some(entry) = self.entries.get_mut(&at) else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        for (index, track) in entry.tracks.iter_mut().enumerate() {
            // What is asked for without being pending would come to be pending again.
            let Some(more) = track.more.get_mut() else {
                continue;
            };
            more.asked.clear();
            for (sequence, pending) in std::mem::take(&mut more.pending) {
                let place = Place {
                    content: at,
                    track: TrackNo(index as u16),
                    sequence,
                };
                gone.push((place, pending.piece));
            }
        }
        gone
    }
}
