//! What others ask for: whether they may have it, and how many copies go with it.

use std::collections::{BTreeMap, BTreeSet};

use super::Relay;
use super::session::Session;
use crate::content::Priority;
use crate::delivery::{Base, Output};
use crate::numbers::{ContactNo, ContentNo, Place, RequestNo};
use crate::piece::message::PieceMessage;
use crate::runs::{GroupRun, Run};
use crate::uplink::{Class, Job, Serving};

/// Segments that one contact may call damaged: each is read and hashed again.
const DOUBTS_MAX: u32 = 16;

impl Relay {
    /// A contact asks for chunk groups.
    pub(super) fn get(
        &mut self,
        base: &mut Base,
        no: ContactNo,
        (request, place, groups): (RequestNo, Place, GroupRun),
    ) {
        if !self.may_ask(base, no, place.content) {
            return;
        }
        let entry = self.entries.get(&place.content);
        let track = entry.and_then(|entry| entry.tracks.get(place.track.at()));
        let here = track.is_some_and(|track| {
            // What is still coming is passed on already, by chunk groups.
            let pending = track.more.pending.get(&place.sequence);
            let part = pending.and_then(|pending| base.pieces.get(pending.piece));
            track.here.contains(place.sequence)
                || part.is_some_and(|it| it.have().covers(groups.start, groups.end))
        });
        // Said at once, so that the other side asks somebody else without waiting. Copies are
        // granted only of what is here.
        if !here || !self.grant(base, no, place.content) {
            return base.send(no, PieceMessage::Gone(request));
        }
        let priority = self.entries.get(&place.content).map(|it| it.priority);
        let job = Job {
            request,
            place,
            class: Class::Relay,
            // By priority alone, also when it is for the asker: anybody may publish something for a
            // node, and would go before others there.
            rank: serving_rank(priority.unwrap_or(Priority::Vod)),
            asked: groups,
        };
        // An honest node keeps far below this.
        if !base.uplink.push(no, job) {
            return base.leave(no, "it asks for too much at a time".into());
        }
        base.work.insert(no);
    }

    /// Whether a contact was told of a content that it asks for; one that was not is left.
    pub(super) fn may_ask(&self, base: &mut Base, no: ContactNo, at: ContentNo) -> bool {
        let session = self.sessions.get(&no);
        let may = session.is_some_and(|session| session.may_ask(at));
        if !may {
            base.leave(no, "it asked for a content that it was not told of".into());
        }
        may
    }

    /// Gives a contact half of the copies that are left (binary spray, Spyropoulos et al. 2005).
    /// Whether it may have the content.
    fn grant(&mut self, base: &Base, no: ContactNo, at: ContentNo) -> bool {
        let (Some(session), Some(contact)) = (self.sessions.get_mut(&no), base.contacts.get(no))
        else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&at) else {
            return false;
        };
        // Granted once for a content: all requests of a contact are for the same copies.
        let Session { granted, .. } = session;
        // The end of its way makes no copies of its own, so that it takes none from others.
        let limited = base.config.copies[usize::from(entry.priority.rank())] > 0;
        let is_end = contact.interest.names(&entry.key) || entry.is_for(&contact.node);
        if !limited || is_end || granted.contains_key(&at) {
            return true;
        }
        // The last copy is for the end of its way.
        if entry.copies_left <= 1 {
            return false;
        }
        let copies = entry.copies_left / 2;
        entry.copies_left -= copies;
        granted.insert(at, copies);
        true
    }

    /// Takes copies back of contents that a contact did not get before it ended.
    pub(super) fn take_back(
        &mut self,
        granted: BTreeMap<ContentNo, u16>,
        unsent: &BTreeSet<ContentNo>,
    ) {
        for (at, copies) in granted {
            if unsent.contains(&at)
                && let Some(entry) = self.entries.get_mut(&at)
            {
                entry.copies_left = entry.copies_left.saturating_add(copies);
            }
        }
    }

    /// All of an answer went to a link.
    pub(crate) fn served(&mut self, base: &Base, done: Serving) {
        let Some(label) = base.contacts.get(done.contact).map(|it| it.label()) else {
            return;
        };
        let place = done.place;
        if let Some(entry) = self.entries.get_mut(&place.content)
            // Rarity is kept of finished contents alone; others go by sequence.
            && entry.manifest.is_some()
            && let Some(track) = entry.tracks.get_mut(place.track.at())
        {
            track
                .more
                .rarity
                .gave(self.meetings, Run::one(place.sequence));
        }
        if base.config.count_copies
            && let Some(track) = self.track_mut(place)
        {
            track.saw_more(label, Run::one(place.sequence));
            self.counted.insert(place.content);
        }
    }

    /// A contact says that a segment of ours is damaged.
    pub(super) fn doubted(&mut self, base: &mut Base, no: ContactNo, place: Place) {
        let Some(contact) = base.contacts.get_mut(no) else {
            return;
        };
        contact.doubts += 1;
        if contact.doubts > DOUBTS_MAX {
            return base.leave(no, "it doubts too much of what it gets".into());
        }
        if self.may_ask(base, no, place.content) {
            base.out.push_back(Output::Doubt { place });
        }
    }
}

/// The rank of a priority among what is served: 0 goes first.
const fn serving_rank(priority: Priority) -> u8 {
    2 - priority.rank()
}
