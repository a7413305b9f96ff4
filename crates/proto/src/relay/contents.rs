//! Which contents are known, here or elsewhere, and whose word for them counts.
//!
//! A content that the store has, or of which something signed was seen, is proven. What is known by
//! the word of one contact alone counts against that contact, and goes first when there are as many
//! contents as there may be.

use std::time::Duration;

use super::Relay;
use super::entry::{Entry, name_of, short};
use super::message::TrackName;
use crate::contact::budget::Claims;
use crate::content::Priority;
use crate::delivery::{Base, Facts, Output};
use crate::ids::{ContentKey, PublisherKey};
use crate::limits::CONTENTS_MAX;
use crate::numbers::{ContactNo, ContentNo, TrackNo};
use crate::relay::receipt::Receipt;
use crate::time::Time;

/// How often it is looked which contents may be forgotten, when there are too many.
/// All of them are looked at for it, so somebody who keeps the table full costs that once in this
/// time.
const SWEEP: Duration = Duration::from_secs(1);

impl Relay {
    pub(crate) fn no(&mut self, own: &PublisherKey, key: &ContentKey) -> ContentNo {
        if let Some(no) = self.known(key) {
            return no;
        }
        // Priority and expiry stand until the store says what they are.
        self.insert(Entry::new(key.clone(), Priority::Vod, Time::MAX, own))
    }

    fn insert(&mut self, entry: Entry) -> ContentNo {
        // Told and forgotten contents use up numbers: whoever does that for weeks finds that they
        // begin anew, and one that is in use is passed over.
        while self.entries.contains_key(&ContentNo(self.next_no)) {
            self.next_no = self.next_no.wrapping_add(1);
        }
        let no = ContentNo(self.next_no);
        self.next_no = self.next_no.wrapping_add(1);
        self.names.insert(entry.name, no);
        // Boxed, or the half of a node of the tree that is empty would be as large as entries are.
        self.entries.insert(no, Box::new(entry));
        no
    }

    /// The number of a content that is known.
    pub(super) fn known(&self, key: &ContentKey) -> Option<ContentNo> {
        self.names.get(&name_of(key)).copied()
    }

    pub(crate) fn key(&self, no: ContentNo) -> Option<&ContentKey> {
        self.entries.get(&no).map(|entry| &entry.key)
    }

    pub(crate) fn track(&mut self, no: ContentNo, name: &TrackName) -> Option<TrackNo> {
        self.entries.get_mut(&no)?.track(name)
    }

    pub(crate) fn track_name(&self, no: ContentNo, track: TrackNo) -> Option<&TrackName> {
        let track = self.entries.get(&no)?.tracks.get(track.at());
        track.map(|track| &track.name)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) const fn claimed(&self) -> usize {
        self.claimed
    }

    /// Forgets contents of which nothing is here and that nobody offers any more.
    pub(super) fn forget_idle(&mut self, base: &mut Base, contents: Vec<ContentNo>) {
        for no in contents {
            // What was refused stays known, or the next contact that offers it would be asked for
            // it.
            let entry = self.entries.get(&no);
            if entry.is_some_and(|entry| entry.is_idle(&base.pieces) && !entry.refused) {
                self.forget(base, no);
            }
        }
    }

    /// Makes room for new contents: forgets those that are gone from here and not offered. The
    /// store remembers what must not come back.
    fn forget_gone(&mut self, base: &mut Base) {
        if base.now < self.next_sweep {
            return;
        }
        self.next_sweep = base.now.after(SWEEP);
        let entries = self.entries.iter();
        let idle = entries.filter(|(_, entry)| entry.is_idle(&base.pieces));
        for no in idle.map(|(no, _)| *no).collect::<Vec<_>>() {
            self.forget(base, no);
        }
    }

    /// Forgets a content, unless a contact offers it.
    fn forget(&mut self, base: &mut Base, no: ContentNo) {
        // Sessions name contents by this number: it has to stay one of them for as long as they do.
        if self.sessions.values().any(|it| it.remote.contains_key(&no)) {
            return;
        }
        let Some(entry) = self.entries.remove(&no) else {
            return;
        };
        self.release_claim(entry.claimed);
        self.names.remove(&entry.name);
        self.paused.remove(&no);
        // The driver keeps a record of each segment that waits: it forgets those, too.
        for (track, mut it) in entry.tracks.into_iter().enumerate() {
            let pending = it.more.get_mut().map(|it| std::mem::take(&mut it.pending));
            for (sequence, pending) in pending.unwrap_or_default() {
                let place = crate::numbers::Place {
                    content: no,
                    track: TrackNo(track as u16),
                    sequence,
                };
                self.let_go(base, place, pending.piece);
            }
        }
        base.out.push_back(Output::Forgotten { content: no });
    }

    /// The number of a content that a contact offers; none when it is of no interest here, or when
    /// there is no room for it now.
    pub(super) fn offered(
        &mut self,
        base: &mut Base,
        no: ContactNo,
        (key, to): (&ContentKey, &[PublisherKey]),
        (priority, expires): (Priority, Time),
    ) -> Option<ContentNo> {
        if let Some(at) = self.known(key) {
            return Some(at);
        }
        let config = &base.config;
        // A stranger that names this node does not decide what it takes.
        let is_for_own = to.contains(&config.own) && config.is_trusted(&key.publisher);
        if !config.interest.covers(key) && !is_for_own {
            return None;
        }
        let trusted = base.config.is_trusted(&key.publisher);
        let unproven = self.sessions.get(&no)?.claims.unproven;
        let most = if trusted {
            Claims::UNPROVEN_WITH_TRUSTED_MAX
        } else {
            Claims::UNPROVEN_MAX
        };
        // The quota comes before the table: only who keeps to it may take the place of others.
        if unproven >= most {
            return self.defer(no, key);
        }
        // First goes what nobody offers, then what somebody has too much of.
        // What the store has is bounded by the store.
        let is_full = |relay: &Self| relay.entries.len() - relay.stored >= CONTENTS_MAX;
        if is_full(self) {
            self.forget_gone(base);
        }
        if is_full(self) && !self.displace(base, no, trusted) {
            return self.defer(no, key);
        }
        let mut entry = Entry::new(key.clone(), priority, expires, &base.config.own);
        entry.claimed = Some(no);
        if let Some(session) = self.sessions.get_mut(&no) {
            session.claims.unproven += 1;
        }
        Some(self.insert(entry))
    }

    /// Asks for a content again once there is room. Its number there is unknown until then.
    fn defer(&mut self, no: ContactNo, key: &ContentKey) -> Option<ContentNo> {
        let session = self.sessions.get_mut(&no)?;
        if session.deferred.len() < CONTENTS_MAX {
            session.deferred.insert(short(&name_of(key)));
        }
        None
    }

    /// Lets an unproven content go for another one: of the contact that has most of them. Whether
    /// one went.
    fn displace(&mut self, base: &mut Base, no: ContactNo, trusted: bool) -> bool {
        let most = self
            .sessions
            .iter()
            .max_by_key(|(_, it)| it.claims.unproven);
        let Some((most, count)) = most.map(|(no, it)| (*no, it.claims.unproven)) else {
            return false;
        };
        let own = self.sessions.get(&no).map_or(0, |it| it.claims.unproven);
        // From one that has hardly more it would come back at once, and so to and fro.
        if count == 0 || (!trusted && count <= own + 1) {
            return false;
        }
        let of_most = |entry: &Entry| entry.claimed == Some(most) && entry.is_idle(&base.pieces);
        let mut latest = self.entries.iter().rev();
        let found = latest.find(|(_, entry)| of_most(entry));
        let Some(at) = found.map(|(at, _)| *at) else {
            return false;
        };
        // All who told of it are asked again once there is room: it may be true.
        let key = self.entries.get(&at).map(|entry| entry.key.clone());
        let offering: Vec<ContactNo> = self.sessions.keys().copied().collect();
        for contact in offering {
            if let Some(session) = self.sessions.get_mut(&contact)
                && session.remote.contains_key(&at)
            {
                self.claimed = self.claimed.saturating_sub(session.forget(at));
                if let Some(key) = &key {
                    self.defer(contact, key);
                }
            }
        }
        self.forget(base, at);
        true
    }

    /// Something signed was seen of a content: nobody's word is needed for it any more.
    pub(super) fn proven(&mut self, base: &mut Base, at: ContentNo) {
        let claimed = self.entries.get_mut(&at).map(|it| it.claimed.take());
        if let Some(Some(no)) = claimed {
            self.release_claim(Some(no));
            // It has room for one more: what was put off is asked for.
            base.work.insert(no);
        }
    }

    fn release_claim(&mut self, claimed: Option<ContactNo>) {
        if let Some(session) = claimed.and_then(|no| self.sessions.get_mut(&no)) {
            session.claims.unproven = session.claims.unproven.saturating_sub(1);
        }
    }

    /// The contact went by whose word a content is known: another one that offers it stands in.
    pub(super) fn claim_again(&mut self, at: ContentNo) {
        let mut offering = self.sessions.iter_mut();
        let next = offering.find(|(_, it)| it.remote.contains_key(&at));
        let next = next.map(|(no, session)| {
            // Beyond its quota, if need be: it told of a content that was known.
            session.claims.unproven += 1;
            *no
        });
        if let Some(entry) = self.entries.get_mut(&at) {
            entry.claimed = next;
        }
    }

    /// The store has a content.
    pub(super) fn content(&mut self, base: &mut Base, no: ContentNo, facts: &Facts) {
        self.proven(base, no);
        let Some(entry) = self.entries.get_mut(&no) else {
            return;
        };
        let before = (entry.stored, entry.manifest);
        self.stored += usize::from(!entry.stored);
        entry.update(facts);
        // Hops and copies are not stored. What was here at the start and is not its own came over
        // one node at least, and one copy is left of it.
        if !before.0 {
            let limit = base.config.copies[usize::from(facts.priority.rank())];
            if facts.own {
                (entry.hops, entry.copies_left) = (0, limit);
            } else if entry.hops == 0 {
                (entry.hops, entry.copies_left) = (1, entry.copies_left.max(1));
            }
        }
        let mut news = before.1 != entry.manifest;
        // A receipt is for those who should have it. Without that bound there would be one of each
        // node.
        let own = base.config.own;
        if let (Some((hash, _)), true, Some(signer)) =
            (entry.manifest, facts.complete, &base.config.signer)
            && (base.config.group.contains(&own) || entry.is_for(&own))
            && !entry.receipts.contains_key(&own)
        {
            let Receipt { node, signature } = Receipt::sign(signer, &entry.key, &hash);
            entry.receipts.insert(node, signature);
            entry.changed();
            news = true;
        }
        if news {
            // Receipts that waited for the manifest come last: it says of whom they have to be.
            self.look_everywhere(base, no);
            self.retell(base, no);
            self.receive_early(base, no);
        }
        self.dirty.insert(no);
    }

    pub(super) fn watched(&mut self, base: &Base, no: ContentNo, sequence: u64) {
        if let Some(entry) = self.entries.get_mut(&no) {
            entry.watch(sequence, base.now);
            self.dirty.insert(no);
        }
    }
}
