//! What becomes of what came: records, chunk groups, whole segments, and of what did not come.

use std::time::Duration;

use super::Relay;
use super::entry::Pending;
use super::message::{Question, RelayMessage};
use crate::delivery::{Base, Known, Output};
use crate::numbers::{ContactNo, ContentNo, Place, RequestNo, TrackNo};
use crate::piece::message::PieceMessage;
use crate::piece::{Overdue, PieceNo};
use crate::runs::{GroupRun, Run, SequenceRun, SequenceRuns};
use crate::verify::group_count;

/// After how many damaged answers a contact is left.
const STRIKES_MAX: u32 = 3;
/// Bytes of whole segments that wait for one before them.
const WAITING_MAX: u64 = 64 << 20;
/// For how long a contact is not asked about a content of which it did not answer.
const REST: Duration = Duration::from_secs(5);

impl Relay {
    pub(super) fn learned(
        &mut self,
        base: &mut Base,
        from: Option<ContactNo>,
        (at, track): (ContentNo, TrackNo),
        run: SequenceRun,
        known: Vec<Known>,
    ) {
        if !known.is_empty() {
            self.proven(base, at);
        }
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let Some(ours) = entry.tracks.get_mut(track.at()) else {
            return;
        };
        if let Some(more) = ours.more.get_mut() {
            more.asked.retain(|asked| *asked != (from, run));
        }
        let mut rest = SequenceRuns::of(run.start, run.end);
        for known in known {
            rest.remove(known.sequence, known.sequence + 1);
            // An empty payload has no chunk group that could be asked for, now or later.
            if group_count(known.length) == 0 {
                ours.more.refused.insert(known.sequence, known.sequence + 1);
                continue;
            }
            // It may have come another way meanwhile.
            if ours.here.contains(known.sequence)
                || !run.contains(known.sequence)
                || ours.more.pending.contains_key(&known.sequence)
            {
                continue;
            }
            let place = Place {
                content: at,
                track,
                sequence: known.sequence,
            };
            let key = (known.root, known.length);
            let pending = Pending {
                piece: base.pieces.want(place, key, &known.have),
                length: known.length,
                adopting: false,
            };
            ours.more.pending.insert(known.sequence, pending);
        }
        // What the answer leaves out is not to be had from there.
        // Segments that are here need no record, so their absence says nothing.
        let rest = rest.without(&ours.here);
        for gone in rest.runs() {
            match from {
                Some(no) => {
                    let session = self.sessions.get_mut(&no);
                    if let Some(remote) = session.and_then(|it| it.remote.get_mut(&at)) {
                        remote.lost(track, *gone);
                    }
                }
                // The store knows all records of a finished content: what it leaves out is not part
                // of it.
                None => ours.more.refused.insert(gone.start, gone.end),
            }
        }
        // All chunk groups may be here: from before, or by another segment with the same payload.
        self.adopt_ready(base, at, track);
        self.dirty.insert(at);
    }

    /// Chunk groups came and were kept.
    pub(crate) fn arrived(
        &mut self,
        base: &mut Base,
        no: ContactNo,
        request: RequestNo,
        groups: GroupRun,
    ) {
        let now = base.now;
        let Some(contact) = base.contacts.get_mut(no) else {
            return;
        };
        let when = (now, contact.round_trip());
        let Some(came) = base.pieces.arrived(no, request, groups, when) else {
            // It was given up: a sign of life, and nothing that was owed.
            return contact.hear(now);
        };
        let owes = self.sessions.get(&no).is_some_and(|it| !it.owed.is_empty());
        contact.gave(now, came.more || owes);
        // Duplicates are counted in whole chunk groups, the last of which may be shorter.
        contact.stats.received += came.bytes.saturating_sub(came.duplicate);
        contact.stats.duplicate += came.duplicate;
        contact.stats.segments += u64::from(came.whole);
        base.work.insert(no);
        if came.whole {
            for place in came.places {
                self.adopt_ready(base, place.content, place.track);
            }
        }
    }

    /// Hands whole segments to the store. What goes in order does so here, too: one waits for those
    /// before it that are on their way, so that a playlist shows no gap that is about to be filled.
    /// The others come by rarity, and waiting for those before them would be for hours.
    pub(super) fn adopt_ready(&mut self, base: &mut Base, at: ContentNo, track: TrackNo) {
        let Self {
            entries, sessions, ..
        } = self;
        let Some(entry) = entries.get_mut(&at) else {
            return;
        };
        let parts = entry.ahead(base.now);
        let in_order = entry.in_order(base.now);
        let Some(ours) = entry.tracks.get_mut(track.at()) else {
            return;
        };
        let offered = |sequence: u64| {
            let mut remotes = sessions.values().filter_map(|it| it.remote.get(&at));
            remotes.any(|remote| {
                let here = remote.track(track);
                here.is_some_and(|(_, here)| here.contains(sequence))
            })
        };
        if ours.more.pending.is_empty() {
            return;
        }
        let start = ours
            .here
            .first()
            .into_iter()
            .chain(ours.more.pending.keys().next().copied())
            .min()
            .unwrap_or(0);
        let pieces = &base.pieces;
        let whole = ours.more.pending.values().filter(|it| it.is_whole(pieces));
        let whole: u64 = whole.map(|pending| pending.length).sum();
        let mut ready = Vec::new();
        for (part, _) in parts {
            for (sequence, pending) in ours.more.pending.range_mut(part) {
                if pending.is_whole(pieces) {
                    if !pending.adopting {
                        pending.adopting = true;
                        ready.push(*sequence);
                    }
                } else if in_order
                    // So much whole content is worth more than a playlist without a gap.
                    && whole < WAITING_MAX
                    && (pending.is_flying(pieces) || offered(*sequence))
                {
                    break;
                }
            }
        }
        for sequence in ready {
            let place = Place {
                content: at,
                track,
                sequence,
            };
            base.out.push_back(Output::Adopt { place, start });
        }
    }

    /// A segment is not fetched any more: what was asked for it is taken back, and its record is
    /// forgotten.
    pub(super) fn let_go(&mut self, base: &mut Base, place: Place, piece: PieceNo) {
        for (no, request) in base.pieces.unwant(place, piece) {
            give_up(base, no, request);
            self.calm(base, no);
        }
        base.out.push_back(Output::Forget { place });
    }

    /// Takes a segment out of those that are on their way.
    pub(super) fn settle_pending(&mut self, base: &mut Base, place: Place) {
        let track = self.track_mut(place);
        let more = track.and_then(|track| track.more.get_mut());
        let pending = more.and_then(|more| more.pending.remove(&place.sequence));
        if let Some(pending) = pending {
            self.let_go(base, place, pending.piece);
        }
    }

    /// An answer does not match the segment's root: the other side is told and, when it happens
    /// again, left.
    pub(crate) fn damaged(&mut self, base: &mut Base, no: ContactNo, request: RequestNo) {
        let Some(contact) = base.contacts.get_mut(no) else {
            return;
        };
        contact.strikes += 1;
        if contact.strikes >= STRIKES_MAX {
            let why = "it sent bytes that do not match what their publisher signed".to_owned();
            return base.leave(no, why);
        }
        // Whatever is left of the request would be proven by hashes of which one was wrong.
        let Some(place) = self.release(base, no, request) else {
            return;
        };
        let session = self.sessions.get_mut(&no);
        let Some(remote) = session.and_then(|it| it.remote.get_mut(&place.content)) else {
            return;
        };
        let theirs = remote.track(place.track).map(|(track, _)| track);
        let theirs = theirs.map(|track| (remote.no.asked(), track));
        // It is asked of somebody else, who may have it undamaged.
        remote.lost(place.track, Run::one(place.sequence));
        if let Some((theirs, track)) = theirs {
            base.send(no, RelayMessage::Damaged(theirs, track, place.sequence));
            base.send(no, PieceMessage::Cancel(request));
        }
        self.dirty.insert(place.content);
    }

    /// What was asked for is not there any more.
    pub(crate) fn gone(&mut self, base: &mut Base, no: ContactNo, request: RequestNo) {
        // Also when it was given up here: the driver may still expect it.
        base.out.push_back(Output::Unask {
            contact: no,
            request,
        });
        let Some(place) = self.release(base, no, request) else {
            return;
        };
        self.lost_there(no, place);
        // Whole segments behind it wait no longer when nobody else offers it.
        self.adopt_ready(base, place.content, place.track);
    }

    /// A contact does not have a segment after all.
    fn lost_there(&mut self, no: ContactNo, place: Place) {
        let session = self.sessions.get_mut(&no);
        if let Some(remote) = session.and_then(|it| it.remote.get_mut(&place.content)) {
            remote.lost(place.track, Run::one(place.sequence));
        }
        self.dirty.insert(place.content);
    }

    /// Forgets a request; what it asked for may be asked of others.
    fn release(&mut self, base: &mut Base, no: ContactNo, request: RequestNo) -> Option<Place> {
        let asked = base.pieces.release(no, request, base.now)?;
        self.calm(base, no);
        base.work_for_all();
        Some(asked.place)
    }

    /// Nothing is waited for of a contact that owes nothing any more.
    pub(super) fn calm(&self, base: &mut Base, no: ContactNo) {
        let owes = self.sessions.get(&no).is_some_and(|it| !it.owed.is_empty());
        let asks = base.pieces.asks(no);
        if let Some(contact) = base.contacts.get_mut(no)
            && !owes
            && !asks
        {
            contact.waiting = None;
        }
    }

    /// Asks others for what did not come in time.
    pub(crate) fn overdue(&mut self, base: &mut Base) {
        let Base {
            contacts,
            pieces,
            now,
            ..
        } = &mut *base;
        let now = *now;
        let within = |no| contacts.get(no).map_or(REST, |it| it.answer_within());
        for overdue in pieces.overdue(now, within) {
            self.pass_on(base, overdue);
        }
        let mut failed = Vec::new();
        for (no, session) in &mut self.sessions {
            let due = session.overdue(now);
            failed.extend(due.into_iter().map(|question| (*no, question)));
            if let Some(next) = session.owed.values().min() {
                base.schedule(*next);
            }
        }
        for (no, question) in failed {
            self.unanswered(base, no, &question);
        }
    }

    /// A request is overdue: another contact that has the segment is asked, if there is one.
    fn pass_on(&mut self, base: &mut Base, overdue: Overdue) {
        let Overdue {
            contact,
            request,
            place,
            slow,
        } = overdue;
        let fits = |no: ContactNo| no != contact && (!slow || base.pieces.is_faster(no, contact));
        let others = self.sessions.iter().filter(|(no, _)| fits(**no));
        let mut others = others.filter_map(|(_, it)| it.remote.get(&place.content));
        // Nobody else has it, or would give it sooner: it is waited for on.
        if !others.any(|remote| remote.has(place.track, place.sequence)) {
            return;
        }
        give_up(base, contact, request);
        // Or the same contact would be asked for it again.
        self.lost_there(contact, place);
        self.calm(base, contact);
        base.work_for_all();
        if base.pieces.withheld(contact) {
            base.leave(contact, "it does not give what it says that it has".into());
        }
    }

    /// A question was not answered in time: it may be asked of others, and of the same contact
    /// after a while.
    fn unanswered(&mut self, base: &mut Base, no: ContactNo, question: &Question) {
        let at = question.content();
        if let Some(entry) = self.entries.get_mut(&at) {
            entry.unask_one(no, question);
        }
        let rests = base.now.after(REST);
        if let Some(session) = self.sessions.get_mut(&no)
            && let Some(remote) = session.remote.get_mut(&at)
            && remote.failed(rests)
        {
            self.claimed = self.claimed.saturating_sub(session.forget(at));
            self.forget_idle(base, vec![at]);
        }
        // Nothing else may happen by which it would be asked again.
        base.wake_at(rests);
        self.calm(base, no);
        self.dirty.insert(at);
    }
}

/// Takes back what was asked of a contact, which may be asked for something else instead.
fn give_up(base: &mut Base, no: ContactNo, request: RequestNo) {
    base.pieces.release(no, request, base.now);
    base.work.insert(no);
    base.out.push_back(Output::Unask {
        contact: no,
        request,
    });
    base.send(no, PieceMessage::Cancel(request));
}
