//! What is sent next: the most urgent class first, every contact in turn, never above the limits,
//! and never more into a link than it takes within a moment, so that what is urgent does not wait
//! behind what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bucket::Bucket;
use crate::numbers::{ContactNo, ContentNo, Place, RequestNo};
use crate::runs::{GroupRun, Run};
use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;

/// A chunk group with its proofs and framing, as it is counted against the limits.
pub const GROUP_ON_LINK: u64 = CHUNK_GROUP_BYTES + 128;
/// For how long a link may be busy with what was handed to it. At 3 Mbit/s that is one chunk group,
/// which takes 44 ms: a live piece waits no longer.
const IN_LINK: Duration = Duration::from_millis(40);
/// Most bytes that a link holds of what is to be served: enough to keep a fast one busy.
const IN_LINK_MAX: u64 = 2 << 20;
/// What a link gets until it is known what it takes: 0.2 s at 2.5 Mbit/s.
const IN_LINK_START: u64 = 4 * GROUP_ON_LINK;
/// Most unanswered requests of one contact: more than it asks for within its window.
/// This node itself has at most 256 open.
const JOBS_MAX: usize = 2048;

/// How urgent it is to send something. Messages go before all of these, in the link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Pieces of a live stream, as they are made.
    Live,
    /// Pieces that somebody lost and needs at once.
    Repair,
    /// What a viewer of the swarm needs next.
    Swarm,
    /// What is carried from node to node.
    Relay,
}

/// Chunk groups that the other node asked for.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) request: RequestNo,
    pub(crate) place: Place,
    pub(crate) class: Class,
    /// The lowest goes first within its class.
    pub(crate) rank: u8,
    pub(crate) asked: GroupRun,
}

/// Chunk groups that are to go onto a link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// To whom.
    pub contact: ContactNo,
    /// Their number of the request.
    pub request: RequestNo,
    /// The segment.
    pub place: Place,
    /// How urgent it is: what is more urgent may go onto the link first.
    pub class: Class,
    /// The lowest goes first within its class.
    pub rank: u8,
    /// All chunk groups that were asked for with it.
    pub asked: GroupRun,
    /// Those that are to be sent now.
    pub groups: GroupRun,
    /// All that was asked for is sent with these.
    pub last: bool,
}

/// What the uplink has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Serve(Serving),
    /// A limit allows more from then on.
    Wait(Time),
    Idle,
}

/// What one contact is to be sent.
#[derive(Debug)]
struct Lane {
    /// By class, rank and order: the request, and what is left of it.
    jobs: BTreeMap<(Class, u8, u64), (Job, GroupRun)>,
    next: u64,
    /// Bytes handed to the link that it has not taken yet, by class and rank: the link takes the
    /// most urgent first. And when it took some last.
    in_link: BTreeMap<(Class, u8), u64>,
    taken: Time,
    /// The content of which something was handed to it last.
    latest: Option<ContentNo>,
    drain: Drain,
    limit: Bucket,
}

/// How fast a link takes what is handed to it.
#[derive(Debug)]
struct Drain {
    /// Bytes a second; none until it was measured.
    rate: Option<u64>,
    /// Bytes that it took since then without a pause.
    bytes: u64,
    since: Time,
}

/// Over which time a link's rate is measured, or over which bytes if those take less.
const DRAIN_SPAN: Duration = Duration::from_millis(50);

impl Drain {
    const fn begin(&mut self, now: Time) {
        (self.bytes, self.since) = (0, now);
    }

    fn took(&mut self, bytes: u64, now: Time) {
        self.bytes += bytes;
        let span = now.since(self.since);
        if span < DRAIN_SPAN && self.bytes < IN_LINK_START {
            return;
        }
        // All of it may be taken within the microsecond in which it was handed over.
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = self.bytes.saturating_mul(1_000_000) / micros;
        // It slows down at once and speeds up by steps: what was handed over cannot be taken back.
        // The first measure stands as it is.
        let before = self.rate.unwrap_or(rate);
        self.rate = Some(rate.min(before.saturating_mul(2)));
        self.begin(now);
    }

    /// Most bytes that the link may hold.
    fn room(&self) -> u64 {
        let Some(rate) = self.rate else {
            return IN_LINK_START;
        };
        let micros = u64::try_from(IN_LINK.as_micros()).unwrap_or(u64::MAX);
        let bytes = u128::from(rate) * u128::from(micros) / 1_000_000;
        u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .clamp(GROUP_ON_LINK, IN_LINK_MAX)
    }
}

impl Lane {
    /// How urgent the first job is.
    fn first(&self) -> Option<(Class, u8)> {
        let first = self.jobs.first_key_value();
        first.map(|((class, rank, _), _)| (*class, *rank))
    }

    /// How many chunk groups of an urgency its link may be given now: what is less urgent and waits
    /// in the link is overtaken there.
    fn groups(&self, urgency: (Class, u8)) -> u64 {
        let before: u64 = self.in_link.range(..=urgency).map(|(_, bytes)| bytes).sum();
        // An empty link gets one chunk group at least, however slow it is, or nothing would ever
        // go.
        if before == 0 {
            return (self.drain.room() / GROUP_ON_LINK).max(1);
        }
        self.drain.room().saturating_sub(before) / GROUP_ON_LINK
    }

    /// The link took bytes, of the most urgent first.
    fn took(&mut self, mut bytes: u64) {
        // It is not said of what they are. Links send the most urgent first, so those are gone.
        while let Some(mut first) = self.in_link.first_entry() {
            let taken = bytes.min(*first.get());
            *first.get_mut() -= taken;
            bytes -= taken;
            if *first.get() > 0 {
                return;
            }
            first.remove();
        }
    }
}

/// What all contacts are to be sent, under one limit.
#[derive(Debug)]
pub struct Uplink {
    lanes: BTreeMap<ContactNo, Lane>,
    limit: Bucket,
    /// Where the round goes on.
    turn: ContactNo,
    /// Most chunk groups in one go.
    quantum: u64,
}

impl Uplink {
    pub(crate) fn new(limit: Option<u64>, quantum: u64, now: Time) -> Self {
        Self {
            lanes: BTreeMap::new(),
            limit: Bucket::of_bytes(limit, now),
            turn: ContactNo(0),
            quantum,
        }
    }

    /// A contact is up: `rate` is what its link carries, where that is known.
    pub(crate) fn open(
        &mut self,
        contact: ContactNo,
        (limit, rate): (Option<u64>, Option<u64>),
        now: Time,
    ) {
        let lane = Lane {
            jobs: BTreeMap::new(),
            next: 0,
            in_link: BTreeMap::new(),
            taken: now,
            latest: None,
            drain: Drain {
                rate,
                bytes: 0,
                since: now,
            },
            limit: Bucket::of_bytes(limit, now),
        };
        self.lanes.insert(contact, lane);
    }

    /// A contact ended. The contents of what it was not sent, or may not have got.
    pub(crate) fn close(&mut self, contact: ContactNo) -> BTreeSet<ContentNo> {
        let Some(lane) = self.lanes.remove(&contact) else {
            return BTreeSet::new();
        };
        if self.lanes.is_empty() {
            // An empty map that was used keeps memory for eleven.
            self.lanes = BTreeMap::new();
        }
        // What the link held may not have arrived. It held what it takes in 40 ms, which is nearly
        // always of the content that it was given last.
        let waiting = lane.jobs.values().map(|(job, _)| job.place.content);
        let in_link = lane.latest.filter(|_| !lane.in_link.is_empty());
        waiting.chain(in_link).collect()
    }

    /// Queues what a contact asked for. False when it asks for too much at a time.
    pub(crate) fn push(&mut self, contact: ContactNo, job: Job) -> bool {
        let Some(lane) = self.lanes.get_mut(&contact) else {
            // A contact that has ended is not to be ended once more for what it asked.
            return true;
        };
        if lane.jobs.len() >= JOBS_MAX {
            return false;
        }
        // The number keeps requests of one urgency in the order in which they came: by that the
        // other side sees when one was passed over.
        let key = (job.class, job.rank, lane.next);
        lane.next += 1;
        let groups = job.asked;
        lane.jobs.insert(key, (job, groups));
        true
    }

    pub(crate) fn cancel(&mut self, contact: ContactNo, request: RequestNo) {
        if let Some(lane) = self.lanes.get_mut(&contact) {
            lane.jobs.retain(|_, (job, _)| job.request != request);
        }
    }

    /// The link took bytes.
    pub(crate) fn sent(&mut self, contact: ContactNo, bytes: u64, now: Time) {
        if let Some(lane) = self.lanes.get_mut(&contact) {
            lane.took(bytes);
            lane.taken = now;
            lane.drain.took(bytes, now);
        }
    }

    /// When the link of a contact took something last, if it holds something.
    pub(crate) fn taken(&self, contact: ContactNo) -> Option<Time> {
        let lane = self.lanes.get(&contact)?;
        (!lane.in_link.is_empty()).then_some(lane.taken)
    }

    /// What goes onto which link now.
    pub(crate) fn next(&mut self, now: Time) -> Next {
        let mut wait = Time::MAX;
        let allowed = self.limit.allows(now);
        let mut best: Option<((Class, u8), bool, ContactNo, u64)> = None;
        for (no, lane) in &mut self.lanes {
            let Some(urgency) = lane.first() else {
                continue;
            };
            let room = lane.groups(urgency);
            // No time is known when it takes more: `sent` is called then.
            if room == 0 {
                continue;
            }
            let allowed = allowed.min(lane.limit.allows(now));
            if allowed < GROUP_ON_LINK {
                // Both limits have to allow it.
                let own = lane.limit.when(now, GROUP_ON_LINK);
                wait = wait.min(own.max(self.limit.when(now, GROUP_ON_LINK)));
                continue;
            }
            // Never more than a quantum, so that the next contact in turn does not wait for long.
            let groups = room.min(self.quantum).min(allowed / GROUP_ON_LINK);
            // The next one in turn of the most urgent ones.
            let later = *no <= self.turn;
            if best.is_none_or(|(first, after, ..)| (urgency, later) < (first, after)) {
                best = Some((urgency, later, *no, groups));
            }
        }
        match best {
            Some((.., contact, groups)) => {
                self.turn = contact;
                self.serve(contact, groups, now)
            }
            None if wait == Time::MAX => Next::Idle,
            None => Next::Wait(wait),
        }
    }

    fn serve(&mut self, contact: ContactNo, most: u64, now: Time) -> Next {
        let Some(lane) = self.lanes.get_mut(&contact) else {
            return Next::Idle;
        };
        let Some(mut entry) = lane.jobs.first_entry() else {
            return Next::Idle;
        };
        let (job, left) = entry.get_mut();
        let count = most.min(left.count());
        let groups = Run::new(left.start, left.start + count);
        left.start += count;
        let serving = Serving {
            contact,
            request: job.request,
            place: job.place,
            class: job.class,
            rank: job.rank,
            asked: job.asked,
            groups,
            last: left.count() == 0,
        };
        if serving.last {
            entry.remove();
        }
        // A link that had nothing to take says nothing of its rate, and is not stuck: both measures
        // begin with what it gets now.
        if lane.in_link.is_empty() {
            lane.taken = now;
            lane.drain.begin(now);
        }
        // A shorter last chunk group counts in full, too: the driver reports what the link took by
        // the same measure (`Delivery::serving_bytes`).
        let bytes = count * GROUP_ON_LINK;
        *lane
            .in_link
            .entry((serving.class, serving.rank))
            .or_default() += bytes;
        lane.latest = Some(serving.place.content);
        lane.limit.take(now, bytes);
        self.limit.take(now, bytes);
        Next::Serve(serving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{ContentNo, TrackNo};

    fn job(request: u32, class: Class, groups: u64) -> Job {
        Job {
            request: RequestNo(request),
            place: Place {
                content: ContentNo(0),
                track: TrackNo(0),
                sequence: u64::from(request),
            },
            class,
            rank: 0,
            asked: Run::new(0, groups),
        }
    }

    /// Two links of `rate` bytes a second take what is handed to them; when a live piece is asked
    /// for in the middle, how long does it wait until it is on its link?
    fn live_waits(rate: u64, limit: Option<u64>) -> Duration {
        let mut uplink = Uplink::new(limit, 32, Time(0));
        let links = [ContactNo(0), ContactNo(1)];
        for link in links {
            uplink.open(link, (None, None), Time(0));
            for request in 0..100 {
                assert!(uplink.push(link, job(request, Class::Relay, 32)));
            }
        }
        let mut now = Time(0);
        // When each link has taken what it holds, in order, and whether it is the live piece.
        let mut held: Vec<(Time, ContactNo, u64, bool)> = Vec::new();
        let asked = Time::from_seconds(20);
        let mut pushed = false;
        loop {
            if now >= asked && !pushed {
                assert!(uplink.push(ContactNo(1), job(1000, Class::Live, 1)));
                pushed = true;
            }
            let next = uplink.next(now);
            if let Next::Serve(serving) = next {
                let bytes = serving.groups.count() * GROUP_ON_LINK;
                let last = held.iter().filter(|it| it.1 == serving.contact);
                let from = last.map(|it| it.0).max().unwrap_or(now).max(now);
                let took = Time(from.0 + bytes * 1_000_000 / rate);
                let live = serving.request == RequestNo(1000);
                if live {
                    // It has waited until its first byte is on the link.
                    return from.since(asked);
                }
                held.push((took, serving.contact, bytes, live));
                continue;
            }
            let waits = if let Next::Wait(until) = next {
                until
            } else {
                Time::MAX
            };
            held.sort_unstable();
            let first = held.first().copied();
            let until = if pushed { Time::MAX } else { asked };
            now = waits
                .min(first.map_or(Time::MAX, |it| it.0))
                .min(until.max(now));
            if let Some((at, link, bytes, _)) = first.filter(|it| it.0 <= now) {
                held.remove(0);
                uplink.sent(link, bytes, at);
            }
        }
    }

    #[test]
    fn a_live_piece_waits_at_most_50_ms_behind_bulk() {
        // 3 Mbit/s by the link itself, then by the limit of the node.
        for (rate, limit) in [(375_000, None), (50_000_000, Some(375_000))] {
            let waits = live_waits(rate, limit);
            assert!(waits <= Duration::from_millis(50), "{waits:?}");
        }
        assert!(live_waits(500_000_000, None) <= Duration::from_millis(50));
    }

    #[test]
    fn what_is_urgent_does_not_wait_for_a_link_that_is_full_of_bulk() {
        let mut uplink = Uplink::new(None, 32, Time(0));
        let link = ContactNo(0);
        uplink.open(link, (None, Some(375_000)), Time(0));
        let serve = |uplink: &mut Uplink| match uplink.next(Time(0)) {
            Next::Serve(serving) => Some((serving.request.0, serving.groups.count())),
            _ => None,
        };
        uplink.push(link, job(1, Class::Relay, 2));
        assert_eq!(serve(&mut uplink), Some((1, 1)));
        assert_eq!(serve(&mut uplink), None);
        uplink.push(link, job(2, Class::Live, 2));
        assert_eq!(serve(&mut uplink), Some((2, 1)));
        assert_eq!(serve(&mut uplink), None);
        // The link takes the live one first.
        uplink.sent(link, GROUP_ON_LINK, Time(0));
        assert_eq!(serve(&mut uplink), Some((2, 1)));
        uplink.sent(link, GROUP_ON_LINK, Time(0));
        assert_eq!(serve(&mut uplink), None);
        uplink.sent(link, GROUP_ON_LINK, Time(0));
        assert_eq!(serve(&mut uplink), Some((1, 1)));
    }

    #[test]
    fn contacts_of_one_class_take_turns_and_requests_keep_their_order() {
        let mut uplink = Uplink::new(None, 2, Time(0));
        for link in [ContactNo(0), ContactNo(1)] {
            uplink.open(link, (None, None), Time(0));
            for request in 0..2 {
                uplink.push(link, job(request, Class::Swarm, 2));
            }
        }
        let mut order = Vec::new();
        while let Next::Serve(serving) = uplink.next(Time(0)) {
            order.push((serving.contact.0, serving.request.0));
            assert!(serving.last);
        }
        assert_eq!(order, [(1, 0), (0, 0), (1, 1), (0, 1)]);
        // Neither link has taken anything yet.
        assert_eq!(uplink.taken(ContactNo(0)), Some(Time(0)));
        uplink.sent(ContactNo(0), 4 * GROUP_ON_LINK, Time(9));
        assert_eq!(uplink.taken(ContactNo(0)), None);
    }

    #[test]
    fn who_asks_for_too_much_at_a_time_is_told_apart() {
        let mut uplink = Uplink::new(None, 32, Time(0));
        uplink.open(ContactNo(0), (None, None), Time(0));
        let pushed = (0..4000).filter(|n| uplink.push(ContactNo(0), job(*n, Class::Relay, 1)));
        assert_eq!(pushed.count(), JOBS_MAX);
    }
}
