//! Contents that are for some nodes, which their publisher names in the manifest.
//!
//! Everybody carries them, but a few copies are enough: more would take room and air from other
//! contents. Binary spray bounds them (Spyropoulos et al. 2005). What came over the fewest nodes is
//! fetched first and let go last, as MaxProp does (Burgess et al. 2006): it is the youngest, and
//! fewer nodes have it. The receipts of those it is for go to all who carry it, and then nobody
//! fetches it any more and it goes first when a store is full.

use super::Relay;
use super::entry::Entry;
use super::message::ManifestHint;
use super::receipt::Receipt;
use crate::delivery::{Base, Config, Facts};
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

    /// How many nodes carried it here, when it is for some nodes: each kept a copy.
    pub(super) fn carried_by(&self) -> Option<u16> {
        (!self.to.is_empty()).then_some(u16::from(self.hops))
    }

    /// How many copies a publisher makes of it; 0 for any number.
    pub(super) fn copies_limit(&self, config: &Config) -> u16 {
        match config.copies[usize::from(self.priority.rank())] {
            0 if !self.to.is_empty() => config.addressed_copies,
            limit => limit,
        }
    }
}

impl Relay {
    /// Says for whom a content is that the store has.
    pub(super) fn address(&mut self, base: &Base, at: ContentNo, facts: &Facts) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        if entry.to == facts.to {
            return;
        }
        entry.to.clone_from(&facts.to);
        // A growing content is for everybody and has no limit; its manifest may set one.
        if facts.own {
            entry.copies_left = entry.copies_limit(&base.config);
        }
    }

    /// Takes the receipts that came before the manifest was known.
    pub(super) fn receive_early(&mut self, base: &mut Base, at: ContentNo) {
        let hint = self.entries.get(&at).and_then(Entry::hint);
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
            let hash = entry.manifest.map(|(hash, _)| hash).unwrap_or_default();
            if receipt.verify(&entry.key, &hash).is_err() {
                return base.leave(no, "a receipt is not signed by the node it names".into());
            }
            entry.receipts.insert(receipt.node, receipt.signature);
            entry.changed();
            new = true;
        }
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
            track.asked.clear();
            for (sequence, pending) in std::mem::take(&mut track.pending) {
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
