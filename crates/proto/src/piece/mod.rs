//! Fetching verified chunk groups, by the root of the payload that they belong to.
//!
//! One table says which chunk group was asked of whom, for all ways of delivery and for every place
//! that has the same payload, so that nothing is fetched twice. A way says what it wants next, and
//! from whom, as a [`Chooser`].

pub mod flow;
pub mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bucket::Bucket;
use crate::delivery::Base;
use crate::ids::Root;
use crate::message::Message;
use crate::numbers::{ContactNo, Place, RequestNo};
use crate::runs::{GroupRun, GroupRuns, Run};
use crate::time::Time;
use crate::verify::{CHUNK_GROUP_BYTES, group_count};
use flow::Flow;

/// Most requests that wait for a contact's answers.
pub(crate) const REQUESTS_MAX: usize = 256;
/// Most chunk groups in one request.
/// A megabyte: large enough that its proofs and its message do not count.
pub(crate) const REQUEST_GROUPS_MAX: u64 = 64;
/// How many requests in a row a contact may leave unanswered that others had to answer.
const WITHHELD_MAX: u32 = 16;
/// How many times as much a contact has to give to be asked for what trickles from another one.
const FASTER: u64 = 4;

/// A payload that is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceNo(u32);

/// How many urgencies there are of what is asked for; 0 is the highest.
pub const URGENCIES: usize = 4;

/// How many chunk groups may be asked for, by urgency: what is urgent does not wait for a window
/// that is full of what is not, as it overtakes that where it is served.
#[derive(Clone, Copy, Debug)]
pub struct Rooms([u64; URGENCIES]);

impl Rooms {
    /// For one urgency.
    #[must_use]
    pub fn of(&self, urgency: u8) -> u64 {
        self.0[usize::from(urgency).min(URGENCIES - 1)]
    }
}

/// What a way wants to be asked of a contact next.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// How urgent it is: the lowest goes first.
    pub urgency: u8,
    /// The payload.
    pub piece: PieceNo,
    /// The segment that it is asked for as.
    pub place: Place,
    /// The chunk groups.
    pub groups: GroupRun,
}

/// A way of delivery as far as it fetches: it says what comes next, and how that is asked for.
pub trait Chooser {
    /// What to ask a contact for, where there is room; none when there is nothing, or when
    /// something has to be learned first. Only what [`Pieces::open`] names may be chosen.
    fn choose(&mut self, base: &mut Base, contact: ContactNo, rooms: Rooms) -> Option<Want>;

    /// The question, in the other node's numbers. None when it has gone meanwhile.
    fn question(&mut self, contact: ContactNo, want: &Want, request: RequestNo) -> Option<Message>;
}

/// A payload of which some chunk groups are here or on their way.
#[derive(Debug)]
pub(crate) struct Payload {
    /// Root and length. A signed record may give a true root with a false length: it must not get
    /// in the way of the true one.
    key: (Root, u64),
    have: GroupRuns,
    flying: GroupRuns,
    users: BTreeSet<Place>,
}

impl Payload {
    pub(crate) const fn length(&self) -> u64 {
        self.key.1
    }

    pub(crate) const fn have(&self) -> &GroupRuns {
        &self.have
    }

    pub(crate) fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Whether some chunk groups are here or on their way, and there are others.
    pub(crate) fn is_begun(&self) -> bool {
        let known = self.have.count() + self.flying.count();
        known > 0 && known < group_count(self.length())
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.have.count() == group_count(self.length())
    }
}

/// Something that was asked of a contact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) piece: PieceNo,
    pub(crate) place: Place,
    /// What has not come yet.
    pub(crate) groups: GroupRun,
    urgency: u8,
    /// When others may be asked for it.
    due: Time,
    /// When others may be asked for it that give more in less time.
    slow: Time,
}

/// What is asked of one contact.
#[derive(Debug)]
struct Fetch {
    requests: BTreeMap<RequestNo, Request>,
    next: RequestNo,
    flow: Flow,
    limit: Bucket,
    /// When something came last, and the latest request of which.
    progress: (Time, Option<RequestNo>),
    /// Requests that it left unanswered, in a row.
    withheld: u32,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Came {
    /// The segments that have the payload.
    pub(crate) places: Vec<Place>,
    pub(crate) bytes: u64,
    /// How many of them were here already.
    pub(crate) duplicate: u64,
    /// The payload is whole now.
    pub(crate) whole: bool,
    /// Something is still asked of the contact.
    pub(crate) more: bool,
}

/// What became of a request that is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) contact: ContactNo,
    pub(crate) request: RequestNo,
    pub(crate) place: Place,
    /// It may still come as slowly as all else does from there.
    pub(crate) slow: bool,
}

/// All payloads that are being fetched, and of whom.
#[derive(Debug)]
pub struct Pieces {
    payloads: BTreeMap<PieceNo, Payload>,
    by_root: BTreeMap<(Root, u64), PieceNo>,
    next: u32,
    fetches: BTreeMap<ContactNo, Fetch>,
    limit: Bucket,
    /// When requests are due, at the earliest.
    dues: BTreeSet<(Time, ContactNo, RequestNo)>,
}

impl Pieces {
    pub(crate) fn new(limit: Option<u64>, now: Time) -> Self {
        Self {
            payloads: BTreeMap::new(),
            by_root: BTreeMap::new(),
            next: 0,
            fetches: BTreeMap::new(),
            limit: Bucket::of_bytes(limit, now),
            dues: BTreeSet::new(),
        }
    }

    /// A contact is up: `rate` is what its link carries, where that is known.
    pub(crate) fn open_contact(
        &mut self,
        contact: ContactNo,
        (limit, rate): (Option<u64>, Option<u64>),
        now: Time,
    ) {
        let fetch = Fetch {
            requests: BTreeMap::new(),
            next: RequestNo(0),
            flow: Flow::new(rate, now),
            limit: Bucket::of_bytes(limit, now),
            progress: (now, None),
            withheld: 0,
        };
        self.fetches.insert(contact, fetch);
    }

    /// Forgets what was asked of a contact; it may be asked of others.
    pub(crate) fn close_contact(&mut self, contact: ContactNo, now: Time) {
        let Some(fetch) = self.fetches.remove(&contact) else {
            return;
        };
        for request in fetch.requests.values() {
            // Whoever comes, is asked and goes takes nothing of what may be fetched of others.
            let cost = request.groups.count() * crate::uplink::GROUP_ON_LINK;
            self.limit.give_back(now, cost);
            self.land(request);
        }
        if self.fetches.is_empty() {
            // An empty map that was used keeps memory for eleven.
            self.fetches = BTreeMap::new();
        }
    }

    /// A segment is wanted that has this payload, of which some chunk groups are here.
    pub(crate) fn want(&mut self, place: Place, key: (Root, u64), have: &GroupRuns) -> PieceNo {
        if let Some(piece) = self.by_root.get(&key)
            && let Some(payload) = self.payloads.get_mut(piece)
        {
            payload.users.insert(place);
            payload.have.extend(have);
            return *piece;
        }
        let piece = PieceNo(self.next);
        self.next = self.next.wrapping_add(1);
        let payload = Payload {
            key,
            have: have.clone(),
            flying: GroupRuns::new(),
            users: BTreeSet::from([place]),
        };
        self.payloads.insert(piece, payload);
        self.by_root.insert(key, piece);
        piece
    }

    /// A segment is not wanted any more. Returns what is asked of whom for nobody then.
    pub(crate) fn unwant(&mut self, place: Place, piece: PieceNo) -> Vec<(ContactNo, RequestNo)> {
        let Some(payload) = self.payloads.get_mut(&piece) else {
            return Vec::new();
        };
        payload.users.remove(&place);
        if !payload.users.is_empty() {
            return Vec::new();
        }
        // Only what is flying was asked of somebody: else no request has to be looked for.
        let flying = payload.is_flying();
        let key = payload.key;
        self.payloads.remove(&piece);
        self.by_root.remove(&key);
        if !flying {
            return Vec::new();
        }
        let mut useless = Vec::new();
        for (contact, fetch) in &self.fetches {
            let its = fetch.requests.iter().filter(|(_, it)| it.piece == piece);
            useless.extend(its.map(|(request, _)| (*contact, *request)));
        }
        useless
    }

    pub(crate) fn get(&self, piece: PieceNo) -> Option<&Payload> {
        self.payloads.get(&piece)
    }

    /// The chunk groups of a payload that are not here and that nobody was asked for.
    #[must_use]
    pub fn open(&self, piece: PieceNo) -> GroupRuns {
        let Some(payload) = self.payloads.get(&piece) else {
            return GroupRuns::new();
        };
        let all = group_count(payload.length());
        // Asked for every segment that is waited for: counting is cheaper than taking sets apart.
        if payload.have.count() + payload.flying.count() >= all {
            return GroupRuns::new();
        }
        GroupRuns::of(0, all)
            .without(&payload.have)
            .without(&payload.flying)
    }

    /// How many bytes may be asked of a contact besides those that are, by urgency: what its window
    /// holds besides what is as urgent or more so, once a part of that is free or was.
    fn room(&self, contact: ContactNo, filling: &mut [bool; URGENCIES]) -> [u64; URGENCIES] {
        let mut room = [0; URGENCIES];
        let Some(fetch) = self.fetches.get(&contact) else {
            return room;
        };
        if fetch.requests.len() >= REQUESTS_MAX {
            return room;
        }
        let mut outstanding = fetch.flow.outstanding;
        // From the least urgent on: it does not count for those that are more urgent.
        for urgency in (0..URGENCIES).rev() {
            // Once begun, a window is filled up, or each request would be for the little that has
            // just become free.
            filling[urgency] |= fetch.flow.has_room(outstanding, REQUEST_GROUPS_MAX);
            if filling[urgency] && outstanding < fetch.flow.window {
                room[urgency] = (fetch.flow.window - outstanding).min(fetch.flow.window / 2);
            }
            let its = fetch.requests.values();
            let its = its.filter(|it| usize::from(it.urgency) == urgency);
            let groups: u64 = its.map(|it| it.groups.count()).sum();
            outstanding = outstanding.saturating_sub(groups * CHUNK_GROUP_BYTES);
        }
        room
    }

    /// How many bytes the limits allow to be asked of a contact; or from when on.
    fn allows(&mut self, contact: ContactNo, least: u64, now: Time) -> Result<u64, Time> {
        let Some(fetch) = self.fetches.get_mut(&contact) else {
            return Err(Time::MAX);
        };
        let allowed = self.limit.allows(now).min(fetch.limit.allows(now));
        if allowed >= least {
            return Ok(allowed);
        }
        let own = fetch.limit.when(now, least);
        Err(own.max(self.limit.when(now, least)))
    }

    /// Notes that something is asked of a contact. Returns the number of the request, and when it
    /// is due.
    fn ask(
        &mut self,
        contact: ContactNo,
        want: &Want,
        (answer, longest): (Duration, Duration),
        now: Time,
    ) -> Option<(RequestNo, Time)> {
        let payload = self.payloads.get_mut(&want.piece)?;
        let fetch = self.fetches.get_mut(&contact)?;
        let Want { groups, .. } = *want;
        payload.flying.insert(groups.start, groups.end);
        let bytes = bytes_of(groups, payload.length());
        // Counted first: these bytes come behind all others.
        fetch.flow.asked(bytes, now);
        let queued = fetch.flow.takes().unwrap_or(answer);
        // Three times what is outstanding takes: a link that slows down somewhat is not overdue.
        let due = now.after(answer.saturating_add(queued * 3));
        let request = fetch.next;
        fetch.next = request.next();
        let asked = Request {
            piece: want.piece,
            place: want.place,
            groups,
            urgency: want.urgency.min(URGENCIES as u8 - 1),
            due,
            slow: now.after(longest),
        };
        let look = due.min(asked.slow);
        // It was owed nothing: its silence until now says nothing of it.
        if fetch.requests.is_empty() {
            fetch.progress.0 = now;
        }
        fetch.requests.insert(request, asked);
        self.dues.insert((look, contact, request));
        // Taken when it is asked for, as what comes cannot be held back; with proofs and framing,
        // which cross the link, too.
        let cost = groups.count() * crate::uplink::GROUP_ON_LINK;
        fetch.limit.take(now, cost);
        self.limit.take(now, cost);
        Some((request, look))
    }

    /// Chunk groups of a request came and were kept. None when it was given up.
    pub(crate) fn arrived(
        &mut self,
        contact: ContactNo,
        request: RequestNo,
        groups: GroupRun,
        (now, round_trip): (Time, Duration),
    ) -> Option<Came> {
        let fetch = self.fetches.get_mut(&contact)?;
        let asked = fetch.requests.get_mut(&request)?;
        // Frames of a request come in order, so all before these have come or will not.
        asked.groups.start = asked.groups.start.max(groups.end);
        let (piece, place) = (asked.piece, asked.place);
        if asked.groups.count() == 0 {
            fetch.requests.remove(&request);
        }
        // What is withheld counts in a row only: a slow contact gives something now and then.
        fetch.withheld = 0;
        fetch.progress = (now, fetch.progress.1.max(Some(request)));
        let more = !fetch.requests.is_empty();
        let Some(payload) = self.payloads.get_mut(&piece) else {
            // It came another way meanwhile.
            let bytes = groups.count() * CHUNK_GROUP_BYTES;
            fetch.flow.came(bytes, round_trip, now);
            return Some(Came {
                places: vec![place],
                bytes,
                duplicate: bytes,
                whole: false,
                more,
            });
        };
        let bytes = bytes_of(groups, payload.length());
        fetch.flow.came(bytes, round_trip, now);
        let came = GroupRuns::of(groups.start, groups.end);
        let new = came.without(&payload.have).count();
        payload.have.insert(groups.start, groups.end);
        payload.flying.remove(groups.start, groups.end);
        Some(Came {
            places: payload.users.iter().copied().collect(),
            bytes,
            duplicate: (groups.count() - new) * CHUNK_GROUP_BYTES,
            whole: payload.is_whole(),
            more,
        })
    }

    /// Forgets a request; what it asked for may be asked of others. What was set aside for it under
    /// the limits is given back.
    pub(crate) fn release(
        &mut self,
        contact: ContactNo,
        request: RequestNo,
        now: Time,
    ) -> Option<Request> {
        let fetch = self.fetches.get_mut(&contact)?;
        let asked = fetch.requests.remove(&request)?;
        let length = self.payloads.get(&asked.piece).map(Payload::length);
        let most = asked.groups.count() * CHUNK_GROUP_BYTES;
        let bytes = length.map_or(most, |length| bytes_of(asked.groups, length));
        fetch.flow.dropped(bytes);
        let cost = asked.groups.count() * crate::uplink::GROUP_ON_LINK;
        fetch.limit.give_back(now, cost);
        self.limit.give_back(now, cost);
        self.land(&asked);
        Some(asked)
    }

    fn land(&mut self, request: &Request) {
        if let Some(payload) = self.payloads.get_mut(&request.piece) {
            let Run { start, end, .. } = request.groups;
            payload.flying.remove(start, end);
        }
    }

    /// A contact did not answer what another one can: it is asked for less. Whether it did so too
    /// often.
    pub(crate) fn withheld(&mut self, contact: ContactNo) -> bool {
        let Some(fetch) = self.fetches.get_mut(&contact) else {
            return false;
        };
        // It may be slow and no liar: with less asked of it, it can keep up.
        fetch.flow.slow_down();
        fetch.withheld += 1;
        fetch.withheld >= WITHHELD_MAX
    }

    /// The requests that are due: those that were passed over for later ones, and those of contacts
    /// of which nothing has come for as long as an answer may take.
    pub(crate) fn overdue(
        &mut self,
        now: Time,
        answer_within: impl Fn(ContactNo) -> Duration,
    ) -> Vec<Overdue> {
        let mut found = Vec::new();
        while let Some(first) = self.dues.first().copied().filter(|(due, ..)| *due <= now) {
            // Requests that were answered or given up stay among the dues and are passed over here.
            self.dues.remove(&first);
            let (_, contact, request) = first;
            let answer = answer_within(contact);
            let Some(fetch) = self.fetches.get_mut(&contact) else {
                continue;
            };
            let (since, latest) = fetch.progress;
            let Some(asked) = fetch.requests.get_mut(&request) else {
                continue;
            };
            let is_due = asked.due <= now;
            // Answers come in the order of requests, so one to a later request shows that this one
            // was passed over. Else it is late only when nothing at all comes from there.
            let skipped = latest.is_some_and(|latest| latest > request);
            let stalled = is_due && (skipped || now.since(since) >= answer);
            if stalled || asked.slow <= now {
                found.push(Overdue {
                    contact,
                    request,
                    place: asked.place,
                    slow: !stalled,
                });
            }
            // Nobody else may have it: then it is waited for on.
            let again = now.after(answer);
            if is_due {
                asked.due = again;
            }
            let look = if asked.slow <= now { again } else { asked.slow };
            self.dues.insert((look.min(asked.due), contact, request));
        }
        found
    }

    /// Whether a contact gives so much more than another one that what was asked of that one comes
    /// sooner from it. One of which nothing was asked yet is tried.
    pub(crate) fn is_faster(&self, contact: ContactNo, than: ContactNo) -> bool {
        let pace = |no| self.fetches.get(&no).map_or(0, |it| it.flow.pace);
        match pace(contact) {
            0 => !self.asks(contact),
            its => its / FASTER >= pace(than),
        }
    }

    /// When a request is due next.
    pub(crate) fn next_due(&self) -> Time {
        self.dues.first().map_or(Time::MAX, |(due, ..)| *due)
    }

    /// Whether something is asked of a contact.
    pub(crate) fn asks(&self, contact: ContactNo) -> bool {
        let fetch = self.fetches.get(&contact);
        fetch.is_some_and(|fetch| !fetch.requests.is_empty())
    }

    /// Bytes a second that came from a contact of late.
    pub(crate) fn rate(&self, contact: ContactNo, now: Time) -> u64 {
        self.fetches
            .get(&contact)
            .map_or(0, |fetch| fetch.flow.rate(now))
    }
}

impl Base {
    /// Asks a contact for as much as its window holds, once a part of it is free: many small
    /// requests would each carry the whole path of proofs.
    pub(crate) fn fill(&mut self, no: ContactNo, chooser: &mut impl Chooser) {
        if !self.contacts.get(no).is_some_and(|it| it.ready) {
            return;
        }
        let mut filling = [false; URGENCIES];
        loop {
            let room = self.pieces.room(no, &mut filling);
            if room == [0; URGENCIES] {
                return;
            }
            let least = crate::uplink::GROUP_ON_LINK;
            let allowed = match self.pieces.allows(no, least, self.now) {
                Ok(allowed) => allowed,
                // A limit opens by time alone: nothing else would wake this.
                Err(when) => return self.wake_at(when),
            };
            // One chunk group at least: a slow link may have less room than that.
            let groups = |room: u64| {
                let groups = (room / CHUNK_GROUP_BYTES).min(allowed / least);
                u64::from(room > 0) * groups.clamp(1, REQUEST_GROUPS_MAX)
            };
            let Some(want) = chooser.choose(self, no, Rooms(room.map(groups))) else {
                return;
            };
            let now = self.now;
            let Some(contact) = self.contacts.get_mut(no) else {
                return;
            };
            let answer = (contact.answer_within(), contact.patience.answer.1);
            let Some((request, due)) = self.pieces.ask(no, &want, answer, now) else {
                return;
            };
            contact.owes(now);
            self.schedule(due);
            // The question needs the number of its request, so it was noted before it was known
            // whether there is one.
            let Some(message) = chooser.question(no, &want, request) else {
                self.pieces.release(no, request, now);
                return;
            };
            self.ask_for(no, request, &want, message);
        }
    }
}

/// Bytes that a run of chunk groups of a payload takes.
pub(crate) fn bytes_of(groups: GroupRun, length: u64) -> u64 {
    let end = group_count(length).min(groups.end);
    let to = (end * CHUNK_GROUP_BYTES).min(length);
    to.saturating_sub(groups.start * CHUNK_GROUP_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{ContentNo, TrackNo};

    const TRIP: Duration = Duration::from_millis(10);
    const ANSWER: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(5);

    fn place(sequence: u64) -> Place {
        Place {
            content: ContentNo(1),
            track: TrackNo(0),
            sequence,
        }
    }

    fn pieces() -> Pieces {
        let mut pieces = Pieces::new(None, Time(0));
        for contact in 0..2 {
            pieces.open_contact(ContactNo(contact), (None, None), Time(0));
        }
        pieces
    }

    fn ask(pieces: &mut Pieces, contact: u32, piece: PieceNo, groups: GroupRun) -> RequestNo {
        let want = Want {
            urgency: 3,
            piece,
            place: place(1),
            groups,
        };
        let asked = pieces.ask(ContactNo(contact), &want, (ANSWER, LONGEST), Time(0));
        asked.unwrap().0
    }

    #[test]
    fn one_payload_at_two_places_is_fetched_once() {
        let mut pieces = pieces();
        let key = (Root([1; 32]), 3 * CHUNK_GROUP_BYTES);
        let none = GroupRuns::new();
        let piece = pieces.want(place(1), key, &none);
        assert_eq!(pieces.want(place(2), key, &none), piece);
        let request = ask(&mut pieces, 0, piece, Run::new(0, 3));
        assert!(pieces.open(piece).is_empty());
        let now = (Time(5), TRIP);
        let came = pieces.arrived(ContactNo(0), request, Run::new(0, 3), now);
        let came = came.unwrap();
        assert_eq!(came.places, [place(1), place(2)]);
        assert_eq!((came.duplicate, came.whole, came.more), (0, true, false));
    }

    #[test]
    fn what_is_urgent_does_not_wait_for_a_window_that_is_full_of_what_is_not() {
        let mut pieces = pieces();
        let key = (Root([1; 32]), 64 * CHUNK_GROUP_BYTES);
        let piece = pieces.want(place(1), key, &GroupRuns::new());
        let room = |pieces: &Pieces| pieces.room(ContactNo(0), &mut [false; URGENCIES]);
        let all = room(&pieces)[3] / CHUNK_GROUP_BYTES * 2;
        ask(&mut pieces, 0, piece, Run::new(0, all));
        let [watched, live, near_live, vod] = room(&pieces);
        assert_eq!(vod, 0);
        assert!(live > 0 && (watched, near_live) == (live, live));
    }

    #[test]
    fn what_one_contact_does_not_give_another_one_is_asked_for() {
        let mut pieces = pieces();
        let key = (Root([1; 32]), 8 * CHUNK_GROUP_BYTES);
        let piece = pieces.want(place(1), key, &GroupRuns::new());
        let held = ask(&mut pieces, 0, piece, Run::new(0, 4));
        let later = ask(&mut pieces, 0, piece, Run::new(4, 8));
        // The later one is answered and the first one passed over.
        let second = Time::from_seconds(1);
        pieces.arrived(ContactNo(0), later, Run::new(4, 8), (second, TRIP));
        let due = pieces.next_due();
        assert!(due > second && due < Time::from_seconds(8), "{due:?}");
        let overdue = pieces.overdue(due, |_| ANSWER);
        assert_eq!(overdue.len(), 1);
        assert_eq!(overdue[0].request, held);
        assert!(pieces.release(ContactNo(0), held, due).is_some());
        assert_eq!(pieces.open(piece).runs(), [Run::new(0, 4)]);
        assert!(!pieces.withheld(ContactNo(0)));
        ask(&mut pieces, 1, piece, Run::new(0, 4));
        pieces.close_contact(ContactNo(1), Time(0));
        assert_eq!(pieces.open(piece).count(), 4);
    }

    #[test]
    fn what_trickles_from_one_contact_is_asked_of_one_that_gives_more() {
        let mut pieces = pieces();
        let key = (Root([1; 32]), 64 * CHUNK_GROUP_BYTES);
        let piece = pieces.want(place(1), key, &GroupRuns::new());
        let early = ask(&mut pieces, 0, piece, Run::new(0, 1));
        let second = Time::from_seconds(1);
        pieces.arrived(ContactNo(0), early, Run::new(0, 1), (second, TRIP));
        // All else of it takes a minute at that pace.
        let held = ask(&mut pieces, 0, piece, Run::new(1, 60));
        let now = Time::from_seconds(6);
        pieces.arrived(ContactNo(0), held, Run::new(1, 2), (now, TRIP));
        let overdue = pieces.overdue(now, |_| ANSWER);
        assert_eq!((overdue.len(), overdue[0].slow), (1, true));
        let (trickles, other) = (ContactNo(0), ContactNo(1));
        assert!(pieces.is_faster(other, trickles));
        let quick = ask(&mut pieces, 1, piece, Run::new(60, 64));
        assert!(!pieces.is_faster(other, trickles));
        let soon = Time(200_000);
        pieces.arrived(other, quick, Run::new(60, 64), (soon, TRIP));
        assert!(pieces.is_faster(other, trickles));
        assert!(!pieces.is_faster(trickles, other));
        assert_eq!(pieces.overdue(now, |_| ANSWER).len(), 0);
    }

    #[test]
    fn what_nobody_wants_any_more_is_named_so_that_it_can_be_cancelled() {
        let mut pieces = pieces();
        let key = (Root([1; 32]), 8 * CHUNK_GROUP_BYTES);
        let piece = pieces.want(place(1), key, &GroupRuns::new());
        let request = ask(&mut pieces, 1, piece, Run::new(0, 8));
        let useless = pieces.unwant(place(1), piece);
        assert_eq!(useless, [(ContactNo(1), request)]);
        // What comes of it all the same counts as a duplicate and frees the window.
        let now = (Time(5), TRIP);
        let came = pieces.arrived(ContactNo(1), request, Run::new(0, 8), now);
        assert_eq!(came.unwrap().duplicate, 8 * CHUNK_GROUP_BYTES);
    }
}
