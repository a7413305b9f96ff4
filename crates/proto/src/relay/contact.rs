//! One contact: what the other node said, what was asked of it, what it asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bucket::Bucket;
use super::hello::Interest;
use super::message::{Message, groups_of};
use super::reconcile::Item;
use crate::ids::PublisherKey;
use crate::runs::{Run, Runs};
use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;

/// Bytes asked for and not yet here: at the start, at least, at most.
const WINDOW_START: u64 = 512 << 10;
const WINDOW_MIN: u64 = 4 * CHUNK_GROUP_BYTES;
const WINDOW_MAX: u64 = 16 << 20;
/// Most segments that a contact may call damaged: each is read and hashed again.
const DOUBTS_MAX: u32 = 16;
/// Most messages in a second: 16 MiB in requests for single chunk groups take a thousand, news of
/// small segments on a fast link ten times as many.
const MESSAGES_MAX: u32 = 20_000;
/// Over which time the rate of arrival is measured.
const RATE_SPAN: Duration = Duration::from_millis(100);

/// How long is waited for a contact, and for how long one is avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For its hello.
    pub hello: Duration,
    /// For its link to take what was handed to it.
    pub stuck: Duration,
    /// For something of what it offered.
    pub nothing: Duration,
    /// How long a node is left alone that lied.
    pub left: Duration,
}

impl Patience {
    /// What is taken unless something else is said.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            hello: Duration::from_secs(10),
            stuck: Duration::from_secs(30),
            nothing: Duration::from_secs(60),
            left: Duration::from_secs(600),
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

/// A segment, by numbers of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The content's number.
    pub no: u32,
    /// The track's number.
    pub track: u16,
    /// The segment's position.
    pub sequence: u64,
}

/// What the other node has of one content.
#[derive(Debug, Default)]
pub(super) struct Remote {
    /// Its number for the content.
    pub(super) no: u32,
    pub(super) manifest: Option<[u8; 32]>,
    pub(super) hops: u8,
    pub(super) copies: u16,
    /// Its tracks, in its order: our number, and what is there.
    pub(super) tracks: Vec<(u16, Runs)>,
    /// Segments that are there in part, by our track number and sequence.
    pub(super) partials: BTreeMap<(u16, u64), Runs>,
}

impl Remote {
    /// Its number for our track, and what it has of it.
    pub(super) fn track(&self, ours: u16) -> Option<(u16, &Runs)> {
        let at = self.tracks.iter().position(|(track, _)| *track == ours)?;
        Some((at as u16, &self.tracks[at].1))
    }

    /// Takes a segment for gone there.
    pub(super) fn lost(&mut self, ours: u16, run: Run) {
        for (track, here) in &mut self.tracks {
            if *track == ours {
                here.remove(run.start, run.end);
            }
        }
        self.partials
            .retain(|(track, at), _| *track != ours || !(run.start..run.end).contains(at));
    }
}

/// Something that was asked of the other node.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) place: Place,
    /// What has not come yet.
    pub(super) groups: Run,
}

/// Something that the other node asked for.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: u32,
    pub(super) place: Place,
    pub(super) asked: Run,
    /// What is left of it.
    pub(super) groups: Run,
}

/// One contact.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) node: PublisherKey,
    pub(super) dialled: bool,
    pub(super) since: Time,
    /// Its hello came and was accepted.
    pub(super) ready: bool,
    pub(super) name: String,
    pub(super) interest: Interest,
    /// What was here when the contact began, for reconciling.
    pub(super) items: Option<Vec<(Item, u32)>>,
    pub(super) reconciled: u32,
    pub(super) remote: BTreeMap<u32, Remote>,
    /// Our numbers by its numbers; none for contents that are of no interest.
    pub(super) numbers: BTreeMap<u32, Option<u32>>,
    /// Contents that it was told of, with how many tracks.
    pub(super) told: BTreeMap<u32, usize>,
    /// Contents that it was told of and that went: what it asks of them before it knows is no lie.
    pub(super) withdrawn: BTreeSet<u32>,
    /// Contents of which records or a manifest were asked for: how many answers it owes, and since
    /// when.
    pub(super) owed: BTreeMap<u32, (u32, Time)>,
    /// Contents that it is to be told of.
    pub(super) tell: BTreeSet<u32>,
    /// Segments that came since it was told of their content.
    pub(super) news: BTreeMap<(u32, u16), Runs>,
    /// Contents of which it has something that is lacking here, by rank.
    pub(super) offers: BTreeSet<(Rank, u32)>,
    ranks: BTreeMap<u32, Rank>,
    pub(super) requests: BTreeMap<u32, Request>,
    pub(super) next_request: u32,
    pub(super) flow: Flow,
    pub(super) jobs: BTreeMap<(u8, u64), Job>,
    pub(super) next_job: u64,
    /// Bytes handed to the link that it has not taken yet, and since when.
    pub(super) in_link: u64,
    pub(super) taken: Time,
    /// Contents of which a share of the copies was granted.
    pub(super) granted: BTreeSet<u32>,
    pub(super) upload: Bucket,
    pub(super) download: Bucket,
    pub(super) heard: Time,
    pub(super) pinged: Time,
    pub(super) strikes: u32,
    /// How often it said that something of ours is damaged.
    doubts: u32,
    /// Messages of the current second, and when it began.
    spoken: (u32, Time),
    pub(super) stats: Stats,
}

/// Counts of one contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of payload that came, verified.
    pub received: u64,
    /// Bytes of payload that were sent.
    pub sent: u64,
    /// Bytes of payload that came although they were here.
    pub duplicate: u64,
    /// Segments that came whole.
    pub segments: u64,
}

impl Contact {
    pub(super) fn new(
        node: PublisherKey,
        dialled: bool,
        now: Time,
        (upload, download): (Option<u64>, Option<u64>),
    ) -> Self {
        Self {
            node,
            dialled,
            since: now,
            ready: false,
            name: String::new(),
            interest: Interest::default(),
            items: None,
            reconciled: 0,
            remote: BTreeMap::new(),
            numbers: BTreeMap::new(),
            told: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            owed: BTreeMap::new(),
            tell: BTreeSet::new(),
            news: BTreeMap::new(),
            offers: BTreeSet::new(),
            ranks: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            flow: Flow::new(now),
            jobs: BTreeMap::new(),
            next_job: 0,
            in_link: 0,
            taken: now,
            granted: BTreeSet::new(),
            upload: Bucket::new(upload, now),
            download: Bucket::new(download, now),
            heard: now,
            pinged: now,
            strikes: 0,
            doubts: 0,
            spoken: (0, now),
            stats: Stats::default(),
        }
    }

    /// Counts a segment of ours that it calls damaged; whether there are too many of them.
    pub(super) const fn doubts_too_much(&mut self) -> bool {
        self.doubts += 1;
        self.doubts > DOUBTS_MAX
    }

    /// A short name of the other node, for remembering what it has.
    pub(super) fn label(&self) -> u32 {
        let start = self.node.0.first_chunk();
        start.map_or(0, |four| u32::from_le_bytes(*four))
    }

    /// Counts a message; whether there are too many of them. A question that is answered from the
    /// disk counts for more.
    pub(super) fn is_flooding(&mut self, now: Time, message: &Message) -> bool {
        if now.since(self.spoken.1) >= Duration::from_secs(1) {
            self.spoken = (0, now);
        }
        self.spoken.0 += match message {
            Message::GetManifest(_) | Message::GetRows(..) | Message::GetRecords(..) => 2,
            _ => 1,
        };
        self.spoken.0 > MESSAGES_MAX
    }

    /// Whether it was told of a content, though it may be gone meanwhile.
    pub(super) fn may_ask(&self, at: u32) -> bool {
        self.told.contains_key(&at) || self.withdrawn.contains(&at)
    }

    /// Notes that records or a manifest of a content were asked for.
    pub(super) fn owes(&mut self, at: u32, now: Time) {
        self.owed.entry(at).or_insert((0, now)).0 += 1;
    }

    /// Takes such an answer. False when none is owed.
    pub(super) fn answered(&mut self, at: u32, now: Time) -> bool {
        let Some((count, since)) = self.owed.get_mut(&at) else {
            return false;
        };
        (*count, *since) = (*count - 1, now);
        if *count == 0 {
            self.owed.remove(&at);
        }
        true
    }

    /// Why it has to end, or when to look again.
    pub(super) fn trouble(
        &self,
        now: Time,
        keep_alive: Duration,
        patience: &Patience,
    ) -> Result<Time, &'static str> {
        if !self.ready {
            let by = self.since.after(patience.hello);
            return if now >= by {
                Err("it did not say hello in time")
            } else {
                Ok(by)
            };
        }
        let mut by = self.heard.after(keep_alive * 7 / 2);
        if now >= by {
            return Err("it was silent for too long");
        }
        if self.in_link > 0 {
            let stuck = self.taken.after(patience.stuck);
            if now >= stuck {
                return Err("it does not read what it asked for");
            }
            by = by.min(stuck);
        }
        let asked = (self.flow.outstanding > 0).then_some(self.flow.progress);
        let owed = self.owed.values().map(|(_, since)| *since).min();
        if let Some(since) = asked.into_iter().chain(owed).min() {
            let nothing = since.after(patience.nothing);
            if now >= nothing {
                return Err("nothing came of what it offered");
            }
            by = by.min(nothing);
        }
        Ok(by)
    }

    /// Takes a content in or out of the offers.
    pub(super) fn offer(&mut self, no: u32, rank: Option<Rank>) {
        if let Some(before) = self.ranks.remove(&no) {
            self.offers.remove(&(before, no));
        }
        if let Some(rank) = rank {
            self.offers.insert((rank, no));
            self.ranks.insert(no, rank);
        }
    }
}

/// The place of a content among those that are fetched: by urgency, then by an order that differs
/// from node to node, so that nodes get different contents first and have them for each other.
pub(super) type Rank = (u8, u32);

/// How much may be asked for at a time: twice what arrives during a round trip.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) outstanding: u64,
    pub(super) window: u64,
    /// Bytes a second.
    pub(super) rate: u64,
    arrived: u64,
    measured: Time,
    /// When something came last, or was asked for while nothing was outstanding.
    pub(super) progress: Time,
    pub(super) round_trip: Duration,
}

impl Flow {
    const fn new(now: Time) -> Self {
        Self {
            outstanding: 0,
            window: WINDOW_START,
            rate: 0,
            arrived: 0,
            measured: now,
            progress: now,
            round_trip: Duration::from_millis(100),
        }
    }

    /// Whether a quarter of the window is free, or so many chunk groups.
    pub(super) fn has_room(&self, groups: u64) -> bool {
        let part = (self.window / 4).min(groups * CHUNK_GROUP_BYTES);
        self.outstanding == 0 || self.outstanding + part <= self.window
    }

    pub(super) const fn asked(&mut self, bytes: u64, now: Time) {
        if self.outstanding == 0 {
            self.progress = now;
            self.measured = now;
            self.arrived = 0;
        }
        self.outstanding += bytes;
    }

    pub(super) const fn dropped(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    pub(super) fn came(&mut self, bytes: u64, now: Time) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.progress = now;
        self.arrived += bytes;
        let span = now.since(self.measured);
        if span < RATE_SPAN {
            return;
        }
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rate = self.arrived.saturating_mul(1_000_000) / micros;
        (self.arrived, self.measured) = (0, now);
        let trip = self.round_trip.max(RATE_SPAN);
        let trip = u64::try_from(trip.as_micros()).unwrap_or(u64::MAX);
        let during = u128::from(self.rate) * u128::from(trip) / 1_000_000;
        let wanted = 2 * u64::try_from(during).unwrap_or(WINDOW_MAX) + WINDOW_MIN;
        self.window = wanted.clamp(WINDOW_MIN, WINDOW_MAX);
    }
}

/// Bytes that a run of chunk groups of a payload takes.
pub(super) fn bytes_of(groups: Run, length: u64) -> u64 {
    let end = groups_of(length).end.min(groups.end);
    let to = (end * CHUNK_GROUP_BYTES).min(length);
    to.saturating_sub(groups.start * CHUNK_GROUP_BYTES)
}
