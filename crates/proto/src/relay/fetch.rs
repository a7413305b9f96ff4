//! What is fetched next, and from whom.
//!
//! Every contact is asked for as much as arrives within two round trips. Contents go by rank (what
//! is watched here, then live, near-live, on demand), segments by sequence from each playhead on,
//! init segments before all. A chunk group is asked of one contact only.

use std::collections::VecDeque;
use std::ops::Range;

use super::contact::{Contact, Place, Remote, Request, bytes_of};
use super::engine::Relay;
use super::entry::{Entry, Pending, Track};
use super::io::{ContactNo, Known, Output};
use super::message::{Message, RECORDS_MAX, groups_of};
use super::serve::GROUP_ON_LINK;
use super::tell::is_lacking;
use super::upgrade::upgrade;
use crate::content::Kind;
use crate::ids::Signature;
use crate::runs::{Run, Runs};
use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;

/// Most chunk groups in one request.
const REQUEST_GROUPS_MAX: u64 = 64;
/// Most requests that wait for a contact's answers.
const REQUESTS_MAX: usize = 256;
/// How many segments of a track are kept ready to be asked for.
const AHEAD: usize = 32;
/// How many records are read from the store at a time.
const RECALL: u64 = 64;
/// How many contents are looked at when the first ones give nothing to ask for.
const CONTENTS_MAX: usize = 32;
/// After how many damaged answers a contact is left.
const STRIKES_MAX: u32 = 3;
/// Bytes of whole segments that wait for one before them.
const WAITING_MAX: u64 = 64 << 20;

/// What a content gives to ask a contact for.
enum Plan {
    Ask(Place, Run, u64),
    /// Records are on their way, or all that is there was asked of somebody.
    Wait,
    Nothing,
}

impl Relay {
    /// Asks a contact for as much as its window holds, once a part of it is free: many small
    /// requests would each carry the whole path of proofs.
    pub(super) fn fill(&mut self, no: ContactNo) {
        let waits = |contact: &Contact| !contact.flow.has_room(REQUEST_GROUPS_MAX);
        if self.contacts.get(&no).is_none_or(|contact| waits(contact)) {
            return;
        }
        let Some(mut contact) = self.contacts.remove(&no) else {
            return;
        };
        while contact.ready
            && contact.flow.outstanding < contact.flow.window
            && contact.requests.len() < REQUESTS_MAX
        {
            let now = self.now;
            let allowed = self.download.allows(now).min(contact.download.allows(now));
            if allowed < GROUP_ON_LINK {
                let when = self
                    .download
                    .when(now, GROUP_ON_LINK)
                    .max(contact.download.when(now, GROUP_ON_LINK));
                self.wake = self.wake.min(when);
                break;
            }
            let room = contact.flow.window - contact.flow.outstanding;
            let most = (room.min(contact.flow.window / 2) / CHUNK_GROUP_BYTES)
                .min(allowed / GROUP_ON_LINK)
                .clamp(1, REQUEST_GROUPS_MAX);
            let Some((place, groups, length)) = self.next(no, &mut contact, most) else {
                break;
            };
            self.ask(no, &mut contact, place, groups, length);
        }
        self.contacts.insert(no, contact);
    }

    fn ask(
        &mut self,
        no: ContactNo,
        contact: &mut Contact,
        place: Place,
        groups: Run,
        length: u64,
    ) {
        let Some(entry) = self.entries.get_mut(&place.no) else {
            return;
        };
        let Some(remote) = contact.remote.get(&place.no) else {
            return;
        };
        let Some((track, _)) = remote.track(place.track) else {
            return;
        };
        if let Some(pending) = entry
            .tracks
            .get_mut(usize::from(place.track))
            .and_then(|track| track.pending.get_mut(&place.sequence))
        {
            pending.flying.insert(groups.start, groups.end);
        }
        entry.came_by(remote.hops, remote.copies);
        let request = contact.next_request;
        contact.next_request = request.wrapping_add(1);
        contact.requests.insert(request, Request { place, groups });
        contact.flow.asked(bytes_of(groups, length), self.now);
        let cost = groups.count() * GROUP_ON_LINK;
        contact.download.take(self.now, cost);
        self.download.take(self.now, cost);
        self.schedule(self.now.after(self.config.patience.nothing));
        self.out.push_back(Output::Expect {
            contact: no,
            request,
            place,
            groups,
        });
        let message = Message::Get {
            request,
            no: remote.no,
            track,
            sequence: place.sequence,
            groups,
        };
        self.send(no, message);
    }

    /// What to ask a contact for, of at most so many chunk groups.
    fn next(
        &mut self,
        no: ContactNo,
        contact: &mut Contact,
        most: u64,
    ) -> Option<(Place, Run, u64)> {
        let (mut useless, mut owed) = (Vec::new(), Vec::new());
        let mut found = None;
        for (_, at) in contact.offers.iter().take(CONTENTS_MAX) {
            let entry = self.entries.get_mut(at);
            let before = self.out.len();
            let plan = match (entry, contact.remote.get(at)) {
                (Some(entry), Some(remote)) => {
                    plan(no, *at, entry, remote, (self.now, most), &mut self.out)
                }
                _ => Plan::Nothing,
            };
            let asked = self.out.iter().skip(before);
            let asked = asked.filter(|output| matches!(output, Output::Send(..)));
            owed.extend(asked.map(|_| *at));
            match plan {
                Plan::Ask(place, groups, length) => {
                    found = Some((place, groups, length));
                    break;
                }
                Plan::Wait => {}
                Plan::Nothing => useless.push(*at),
            }
        }
        for at in useless {
            contact.offer(at, None);
        }
        for at in owed {
            contact.owes(at, self.now);
            self.schedule(self.now.after(self.config.patience.nothing));
        }
        found
    }

    /// Notes that a contact was asked for records or a manifest.
    pub(super) fn owes(&mut self, no: ContactNo, at: u32) {
        if let Some(contact) = self.contacts.get_mut(&no) {
            contact.owes(at, self.now);
            self.schedule(self.now.after(self.config.patience.nothing));
        }
    }

    /// Our number for a content of which a contact sent records or a manifest; none when it was not
    /// asked for them.
    pub(super) fn asked(&mut self, no: ContactNo, theirs: u32) -> Option<u32> {
        let at = self.ours(no, theirs)?;
        let now = self.now;
        let contact = self.contacts.get_mut(&no)?;
        contact.answered(at, now).then_some(at)
    }

    /// Records of a content that is not finished came.
    pub(super) fn records(
        &mut self,
        no: ContactNo,
        at: u32,
        track: u16,
        run: Run,
        records: Vec<(Vec<u8>, Signature)>,
    ) {
        let Some(at) = self.asked(no, at) else {
            return;
        };
        let ours = self
            .contacts
            .get(&no)
            .and_then(|contact| contact.remote.get(&at))
            .and_then(|remote| Some(remote.tracks.get(usize::from(track))?.0));
        if let Some(ours) = ours {
            let learn = Output::LearnRecords(no, at, ours, run, records);
            self.out.push_back(learn);
        }
    }

    pub(super) fn learned(
        &mut self,
        from: Option<ContactNo>,
        at: u32,
        track: u16,
        run: Run,
        known: Vec<Known>,
    ) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let Some(ours) = entry.tracks.get_mut(usize::from(track)) else {
            return;
        };
        ours.asked
            .retain(|(asked, asked_run)| (*asked, *asked_run) != (from, run));
        let mut rest = Runs::of(run.start, run.end);
        for known in known {
            rest.remove(known.sequence, known.sequence + 1);
            let all = groups_of(known.length);
            let useless = ours.here.contains(known.sequence) || all.count() == 0;
            if useless || !(run.start..run.end).contains(&known.sequence) {
                continue;
            }
            ours.pending.entry(known.sequence).or_insert(Pending {
                length: known.length,
                have: known.have,
                flying: Runs::new(),
                adopting: false,
            });
        }
        // What the answer leaves out is not to be had from there.
        let rest = rest.without(&ours.here);
        for gone in rest.runs() {
            match from.and_then(|no| self.contacts.get_mut(&no)) {
                Some(contact) => {
                    if let Some(remote) = contact.remote.get_mut(&at) {
                        remote.lost(track, *gone);
                    }
                }
                None => ours.refused.insert(gone.start, gone.end),
            }
        }
        self.adopt_ready(at, track);
        self.reoffer(at);
    }

    /// Chunk groups came and were kept.
    pub(super) fn arrived(&mut self, no: ContactNo, request: u32, groups: Run) {
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        contact.heard = self.now;
        let Some(asked) = contact.requests.get_mut(&request) else {
            return;
        };
        let place = asked.place;
        asked.groups.start = asked.groups.start.max(groups.end);
        if asked.groups.count() == 0 {
            contact.requests.remove(&request);
        }
        let track = self
            .entries
            .get_mut(&place.no)
            .and_then(|entry| entry.tracks.get_mut(usize::from(place.track)));
        let pending = track.and_then(|track| track.pending.get_mut(&place.sequence));
        let Some(pending) = pending else {
            // The segment came another way meanwhile.
            let bytes = groups.count() * CHUNK_GROUP_BYTES;
            contact.flow.came(bytes, self.now);
            contact.stats.duplicate += bytes;
            self.work.insert(no);
            return;
        };
        let bytes = bytes_of(groups, pending.length);
        contact.flow.came(bytes, self.now);
        contact.stats.received += bytes;
        let new = Runs::of(groups.start, groups.end).without(&pending.have);
        if new.count() < groups.count() {
            contact.stats.duplicate += (groups.count() - new.count()) * CHUNK_GROUP_BYTES;
        }
        pending.have.insert(groups.start, groups.end);
        pending.flying.remove(groups.start, groups.end);
        self.work.insert(no);
        if pending.is_complete() {
            contact.stats.segments += 1;
            self.adopt_ready(place.no, place.track);
        }
    }

    /// Hands whole segments to the store, in order: one waits for those before it that are on
    /// their way, so that a playlist shows no gap that is about to be filled.
    pub(super) fn adopt_ready(&mut self, at: u32, track: u16) {
        let now = self.now;
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let parts = entry.ahead(now);
        let Some(ours) = entry.tracks.get_mut(usize::from(track)) else {
            return;
        };
        let offered = |sequence: u64| {
            self.contacts.values().any(|contact| {
                let remote = contact.remote.get(&at);
                remote
                    .and_then(|remote| remote.track(track))
                    .is_some_and(|(_, here)| here.contains(sequence))
            })
        };
        let start = ours
            .here
            .first()
            .into_iter()
            .chain(ours.pending.keys().next().copied())
            .min()
            .unwrap_or(0);
        let whole: u64 = ours
            .pending
            .values()
            .filter(|pending| pending.is_complete())
            .map(|pending| pending.length)
            .sum();
        let mut ready = Vec::new();
        for (part, _) in parts {
            for (sequence, pending) in ours.pending.range_mut(part) {
                if pending.is_complete() {
                    if !pending.adopting {
                        pending.adopting = true;
                        ready.push(*sequence);
                    }
                } else if whole < WAITING_MAX && (!pending.flying.is_empty() || offered(*sequence))
                {
                    break;
                }
            }
        }
        for sequence in ready {
            let place = Place {
                no: at,
                track,
                sequence,
            };
            self.out.push_back(Output::Adopt(place, start));
        }
    }

    /// An answer does not match the segment's root: the other side is told and, when it happens
    /// again, left.
    pub(super) fn damaged(&mut self, no: ContactNo, request: u32) {
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        contact.strikes += 1;
        if contact.strikes >= STRIKES_MAX {
            let why = "it sent bytes that do not match what their publisher signed".to_owned();
            return self.leave(no, why);
        }
        let place = contact.requests.get(&request).map(|asked| asked.place);
        self.release(no, request);
        let Some(place) = place else {
            return;
        };
        let contact = self.contacts.get_mut(&no);
        let remote = contact.and_then(|contact| contact.remote.get_mut(&place.no));
        let Some(remote) = remote else {
            return;
        };
        let theirs = remote.track(place.track).map(|(track, _)| track);
        let theirs = theirs.map(|track| (remote.no, track));
        remote.lost(place.track, Run::new(place.sequence, place.sequence + 1));
        if let Some((theirs, track)) = theirs {
            self.send(no, Message::Damaged(theirs, track, place.sequence));
            self.send(no, Message::Cancel(request));
        }
        self.reoffer(place.no);
    }

    /// What was asked for is not there any more.
    pub(super) fn gone(&mut self, no: ContactNo, request: u32) {
        let place = self.release(no, request);
        let Some(place) = place else {
            return;
        };
        if let Some(contact) = self.contacts.get_mut(&no)
            && let Some(remote) = contact.remote.get_mut(&place.no)
        {
            remote.lost(place.track, Run::new(place.sequence, place.sequence + 1));
        }
        self.reoffer(place.no);
        self.adopt_ready(place.no, place.track);
    }

    /// Forgets a request; what it asked for may be asked of others.
    fn release(&mut self, no: ContactNo, request: u32) -> Option<Place> {
        let contact = self.contacts.get_mut(&no)?;
        let asked = contact.requests.remove(&request)?;
        let bytes = asked.groups.count() * CHUNK_GROUP_BYTES;
        contact.flow.dropped(bytes);
        self.unfly(asked.place, asked.groups);
        self.work.extend(self.contacts.keys());
        Some(asked.place)
    }
}

fn plan(
    no: ContactNo,
    at: u32,
    entry: &mut Entry,
    remote: &Remote,
    (now, most): (Time, u64),
    out: &mut VecDeque<Output>,
) -> Plan {
    if entry.refused || entry.expires <= now || !is_lacking(entry, remote) {
        return Plan::Nothing;
    }
    match (entry.manifest, remote.manifest) {
        (None, Some(hash)) => {
            upgrade(no, entry, remote, hash, out);
            return Plan::Wait;
        }
        // Two manifests of one version: the publisher signed both, the first one holds.
        (Some((ours, _)), Some(theirs)) if ours != theirs => return Plan::Nothing,
        _ => {}
    }
    learn(no, at, entry, remote, now, out);
    let parts = entry.ahead(now);
    let tracks = entry.tracks.iter().enumerate();
    let candidates = tracks.filter_map(|(index, track)| {
        let found = candidate(index as u16, track, remote, &parts)?;
        let order = (track.name.kind == Kind::Media, found.order, index);
        let groups = found.groups;
        let groups = Run::new(groups.start, groups.end.min(groups.start + most));
        let place = Place {
            no: at,
            track: index as u16,
            sequence: found.sequence,
        };
        Some((order, place, groups, found.length))
    });
    match candidates.min_by_key(|(order, ..)| *order) {
        Some((_, place, groups, length)) => Plan::Ask(place, groups, length),
        None => Plan::Wait,
    }
}

/// Chunk groups of a segment that may be asked for.
struct Candidate {
    /// Whether it lies before all playheads, and how far ahead of one.
    order: (bool, u64),
    sequence: u64,
    groups: Run,
    length: u64,
}

/// The segment of a track next to a playhead of which the contact has chunk groups that nobody was
/// asked for.
fn candidate(
    index: u16,
    track: &Track,
    remote: &Remote,
    parts: &[(Range<u64>, bool)],
) -> Option<Candidate> {
    let (_, here) = remote.track(index)?;
    let open = |sequence: u64, pending: &Pending| {
        if pending.adopting || pending.is_assigned() {
            return None;
        }
        let mut open = pending.open();
        if !here.contains(sequence) {
            let absent = open.without(remote.partials.get(&(index, sequence))?);
            open = open.without(&absent);
        }
        open.runs().first().copied()
    };
    let firsts = parts.iter().filter_map(|(part, is_ahead)| {
        let mut segments = track.pending.range(part.clone());
        segments.find_map(|(sequence, pending)| {
            Some(Candidate {
                order: (!is_ahead, sequence - part.start),
                sequence: *sequence,
                groups: open(*sequence, pending)?,
                length: pending.length,
            })
        })
    });
    firsts.min_by_key(|found| found.order)
}

/// Asks for records of the segments that come next.
fn learn(
    no: ContactNo,
    at: u32,
    entry: &mut Entry,
    remote: &Remote,
    now: Time,
    out: &mut VecDeque<Output>,
) {
    let parts = entry.ahead(now);
    let finished = entry.manifest.is_some();
    let most = if finished { RECALL } else { RECORDS_MAX };
    for (index, track) in entry.tracks.iter_mut().enumerate() {
        let Some((theirs, here)) = remote.track(index as u16) else {
            continue;
        };
        let mut unknown = None;
        for (part, _) in &parts {
            let waiting = track
                .pending
                .range(part.clone())
                .filter(|(_, pending)| !pending.is_complete())
                .take(AHEAD)
                .count();
            if waiting == AHEAD {
                continue;
            }
            let unknown =
                unknown.get_or_insert_with(|| unlisted(index as u16, track, remote, here));
            let in_part = unknown.runs().iter().find_map(|run| {
                let start = run.start.max(part.start);
                let end = run.end.min(part.end).min(start.saturating_add(most));
                (start < end).then_some(Run::new(start, end))
            });
            let Some(run) = in_part else {
                continue;
            };
            if finished {
                track.asked.push((None, run));
                out.push_back(Output::Recall(at, index as u16, run));
            } else {
                track.asked.push((Some(no), run));
                let message = Message::GetRecords(remote.no, theirs, run);
                out.push_back(Output::Send(no, message));
            }
            break;
        }
    }
}

/// What a contact has of a track, whole or in part, that is neither listed nor asked for.
fn unlisted(index: u16, track: &Track, remote: &Remote, here: &Runs) -> Runs {
    let mut unknown = track.unknown(here);
    for (ours, sequence) in remote.partials.keys() {
        let listed = track.pending.contains_key(sequence) || track.here.contains(*sequence);
        let asked = track
            .asked
            .iter()
            .any(|(_, run)| (run.start..run.end).contains(sequence));
        if *ours == index && !listed && !asked && !track.refused.contains(*sequence) {
            unknown.insert(*sequence, *sequence + 1);
        }
    }
    unknown
}
