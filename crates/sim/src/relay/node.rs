//! One node of a simulation: the core of `lavant-proto` on a store that is only counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lavant_proto::content::Kind;
use lavant_proto::delivery::{Delivery, Facts, Input, Known};
use lavant_proto::ids::{Rendition, Root};
use lavant_proto::numbers::{ContactNo, ContentNo, Place, RequestNo};
use lavant_proto::relay::evict::{EvictionRank, Holding};
use lavant_proto::relay::message::TrackName;
use lavant_proto::runs::{GroupRun, GroupRuns, SequenceRun, SequenceRuns};
use lavant_proto::time::Time;
use lavant_proto::verify::{CHUNK_GROUP_BYTES, group_count};

use super::universe::{Setup, Spec, Universe};
use crate::random::Random;

/// What a node has of one content.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) here: SequenceRuns,
    /// Chunk groups of segments that are not whole.
    partial: BTreeMap<u64, GroupRuns>,
    /// Its records are all known.
    pub(super) admitted: bool,
    /// On how many other nodes segments are.
    copies: BTreeMap<u64, u16>,
    /// Segments that ever were here.
    ever: SequenceRuns,
    /// It was removed or has expired.
    gone: bool,
}

/// After how long a part of a segment is taken for one that nobody is sending.
const RESTS: Duration = Duration::from_secs(10);

/// What had to go for something else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Victim {
    Whole(u32, u64),
    Part(u32, u64),
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: u32,
    pub(super) core: Delivery,
    pub(super) up: bool,
    /// Added to the time of the world; what is wrong with its clock.
    pub(super) clock: i64,
    pub(super) lies: bool,
    pub(super) held: BTreeMap<u32, Held>,
    /// Contents that came to be among those since the world last looked.
    pub(super) new: Vec<u32>,
    /// Contents by the core's numbers.
    contents: BTreeMap<ContentNo, u32>,
    /// The core's numbers by contents.
    numbers: BTreeMap<u32, ContentNo>,
    /// Answers that are expected.
    expected: BTreeSet<(ContactNo, RequestNo)>,
    capacity: Option<u64>,
    pub(super) used: u64,
    evictable: BTreeSet<(EvictionRank, u32, u64)>,
    /// When something came last of segments that are here in part, where that counts.
    parts: BTreeMap<(u32, u64), Time>,
    /// When the core wants to be called, as it was last asked.
    pub(super) timer: Time,
}

fn track() -> TrackName {
    TrackName {
        rendition: Rendition::main(),
        kind: Kind::Media,
    }
}

/// A payload of the simulation: it has no bytes, but a name.
fn root(content: u32, sequence: u64) -> Root {
    let mut root = [0; 32];
    root[..4].copy_from_slice(&content.to_le_bytes());
    root[4..12].copy_from_slice(&sequence.to_le_bytes());
    Root(root)
}

impl Node {
    pub(super) fn new(number: u32, setup: &Setup, clock: i64) -> Self {
        Self {
            number,
            core: Delivery::new(setup.config_of(number), Time(0)),
            up: true,
            clock,
            lies: false,
            held: BTreeMap::new(),
            new: Vec::new(),
            contents: BTreeMap::new(),
            numbers: BTreeMap::new(),
            expected: BTreeSet::new(),
            capacity: setup.capacity_of(number),
            used: 0,
            evictable: BTreeSet::new(),
            parts: BTreeMap::new(),
            timer: Time::MAX,
        }
    }

    fn hold(&mut self, content: u32) -> &mut Held {
        self.held.entry(content).or_insert_with(|| {
            self.new.push(content);
            Held::default()
        })
    }

    /// The time as this node's clock shows it.
    pub(super) fn time(&self, now: Time) -> Time {
        Time(now.0.saturating_add_signed(self.clock))
    }

    pub(super) fn handle(&mut self, now: Time, input: Input) {
        let now = self.time(now);
        self.core.handle(now, input);
    }

    /// The content that the core calls by a number.
    pub(super) fn content(&mut self, universe: &Universe, no: ContentNo) -> Option<u32> {
        if let Some(content) = self.contents.get(&no) {
            return Some(*content);
        }
        let content = universe.number(self.core.key(no)?)?;
        self.contents.insert(no, content);
        self.numbers.insert(content, no);
        Some(content)
    }

    /// The core's number for a content.
    pub(super) fn no(&mut self, universe: &Universe, content: u32) -> ContentNo {
        // The core may have forgotten the content, and gives it another number then.
        if let Some(no) = self.numbers.get(&content)
            && self.core.key(*no).is_some()
        {
            return *no;
        }
        let no = self.core.no(universe.key(content));
        self.core.track(no, &track());
        self.numbers.insert(content, no);
        self.contents.insert(no, content);
        no
    }

    pub(super) fn facts(&self, universe: &Universe, content: u32) -> Facts {
        let spec = &universe.specs[content as usize];
        let admitted = self.held.get(&content).is_some_and(|held| held.admitted);
        // No manifest exists: any hash that each content has for itself will do.
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&content.to_le_bytes());
        Facts {
            priority: spec.priority,
            expires: spec.expires(),
            manifest: admitted.then_some((hash, spec.created)),
            to: spec
                .to
                .map(|to| universe.node_key(to))
                .into_iter()
                .collect(),
            own: spec.publisher == self.number,
            complete: self
                .held
                .get(&content)
                .is_some_and(|held| held.admitted && held.here.count() == spec.segments),
        }
    }

    /// The records of a content are known, or its first segment is there.
    pub(super) fn admit(&mut self, universe: &Universe, content: u32, now: Time) {
        let spec = &universe.specs[content as usize];
        let no = self.no(universe, content);
        self.hold(content).admitted = spec.is_finished();
        let facts = self.facts(universe, content);
        self.handle(now, Input::Content { content: no, facts });
    }

    /// This node publishes segments.
    pub(super) fn publish(
        &mut self,
        universe: &Universe,
        content: u32,
        run: SequenceRun,
        now: Time,
    ) {
        // A growing content is published in many steps, and entered with the first.
        let spec = &universe.specs[content as usize];
        if !self.held.contains_key(&content) {
            self.admit(universe, content, now);
        }
        let held = self.hold(content);
        held.here.insert(run.start, run.end);
        self.used += run.count() * spec.length;
        for sequence in run.start..run.end {
            if let Some(rank) = self.rank(spec, sequence, 0) {
                self.evictable.insert((rank, content, sequence));
            }
        }
        let no = self.no(universe, content);
        let track = self.core.track(no, &track()).unwrap_or_default();
        let stored = Input::Stored {
            content: no,
            track,
            run,
        };
        self.handle(now, stored);
    }

    /// A content's time is over.
    pub(super) fn expire(&mut self, universe: &Universe, content: u32, now: Time) {
        let Some(held) = self.held.get_mut(&content) else {
            return;
        };
        let length = universe.specs[content as usize].length;
        let here = std::mem::take(&mut held.here);
        self.used -= here.count() * length;
        let parts: Vec<u64> = held.partial.keys().copied().collect();
        held.gone = true;
        for sequence in parts {
            self.drop_part((content, sequence));
        }
        self.evictable.retain(|(_, other, _)| *other != content);
        if let Some(no) = self.numbers.get(&content).copied() {
            self.handle(now, Input::Removed { content: no });
        }
    }

    /// What the store knows of segments that the core wants to fetch.
    pub(super) fn recall(&self, universe: &Universe, content: u32, run: SequenceRun) -> Vec<Known> {
        let spec = &universe.specs[content as usize];
        let held = self.held.get(&content);
        // Records are not simulated: whoever may ask is told the truth.
        let known = (run.start..run.end.min(spec.segments)).map(|sequence| Known {
            sequence,
            root: root(content, sequence),
            length: spec.length,
            have: held
                .and_then(|held| held.partial.get(&sequence).cloned())
                .unwrap_or_default(),
        });
        known.collect()
    }

    /// An answer is expected from now on.
    pub(super) fn expect(&mut self, contact: ContactNo, request: RequestNo) {
        self.expected.insert((contact, request));
    }

    /// An answer is not expected any more. Whether it was.
    pub(super) fn forget_answer(&mut self, contact: ContactNo, request: RequestNo) -> bool {
        self.expected.remove(&(contact, request))
    }

    pub(super) fn expects(&self, contact: ContactNo, request: RequestNo) -> bool {
        self.expected.contains(&(contact, request))
    }

    /// A contact ended.
    pub(super) fn expect_nothing(&mut self, contact: ContactNo) {
        self.expected.retain(|(other, _)| *other != contact);
    }

    /// Chunk groups came. Parts of contents that are for one node count.
    pub(super) fn keep(
        &mut self,
        universe: &Universe,
        (content, sequence): (u32, u64),
        groups: GroupRun,
        now: Time,
    ) {
        let held = self.hold(content);
        // It came another way meanwhile.
        if held.here.contains(sequence) {
            return;
        }
        let part = held.partial.entry(sequence).or_default();
        let before = part.count();
        part.insert(groups.start, groups.end);
        // Only messages are so large, and stores so small, that parts of them matter.
        if universe.is_addressed() {
            self.used += (part.count() - before) * CHUNK_GROUP_BYTES;
            self.parts.insert((content, sequence), now);
        }
    }

    /// Whether a whole segment may become part of the store, as far as its content goes.
    pub(super) fn may_adopt(&self, universe: &Universe, at: (u32, u64)) -> bool {
        let held = self.held.get(&at.0);
        if held.is_some_and(|held| held.gone || held.here.contains(at.1)) {
            return false;
        }
        assert!(
            self.is_whole(universe, at),
            "an incomplete segment was to be adopted"
        );
        true
    }

    /// Makes a segment part of the store, for which there is room.
    pub(super) fn adopt(&mut self, universe: &Universe, (content, sequence): (u32, u64)) {
        let spec = &universe.specs[content as usize];
        let held = self.held.get(&content);
        // Whoever gave it has it.
        let copies = held.and_then(|held| held.copies.get(&sequence).copied());
        if let Some(rank) = self.rank(spec, sequence, copies.unwrap_or(1)) {
            self.evictable.insert((rank, content, sequence));
        }
        self.used += spec.length;
        let held = self.hold(content);
        held.partial.remove(&sequence);
        held.here.insert(sequence, sequence + 1);
    }

    fn rank(&self, spec: &Spec, sequence: u64, copies: u16) -> Option<EvictionRank> {
        // Where its own counts against the limit, it goes as others' does, but last: no node
        // carried it here.
        let own = spec.publisher == self.number && spec.to.is_none();
        EvictionRank::of(&Holding {
            priority: spec.priority,
            copies,
            created: spec.published(sequence),
            sequence,
            // Without a limit nothing ever goes, and no queue is kept.
            pinned: own || self.capacity.is_none(),
        })
    }

    /// Makes room for bytes of a content. What had to go, and whether there is room now.
    ///
    /// What is everywhere goes first, then parts of segments, those to which nothing came for
    /// longest, but not the segment that the room is for.
    pub(super) fn make_room(
        &mut self,
        universe: &Universe,
        (for_what, bytes): ((u32, u64), u64),
        now: Time,
    ) -> (Vec<Victim>, bool) {
        let spec = &universe.specs[for_what.0 as usize];
        let mut victims = Vec::new();
        let limit = self
            .capacity
            .unwrap_or(u64::MAX)
            .saturating_add(self.own(universe));
        while self.used + bytes > limit {
            let useless = self.evictable.first().filter(|it| it.0.is_everywhere());
            let others = self.parts.iter().filter(|_| useless.is_none());
            let others = others.filter(|(at, came)| {
                let rests = now.since(**came) >= RESTS;
                rests && **at != for_what && !self.is_whole(universe, **at)
            });
            if let Some(at) = others.min_by_key(|(_, came)| **came).map(|(at, _)| *at) {
                self.drop_part(at);
                victims.push(Victim::Part(at.0, at.1));
                continue;
            }
            let first = self.evictable.first().copied();
            // Nothing goes for what has a lower priority.
            let Some((_, other, sequence)) = first.filter(|it| it.0.yields_to(spec.priority))
            else {
                return (victims, false);
            };
            self.evictable.pop_first();
            let held = self.held.entry(other).or_default();
            held.here.remove(sequence, sequence + 1);
            self.used -= universe.specs[other as usize].length;
            victims.push(Victim::Whole(other, sequence));
        }
        (victims, true)
    }

    /// Whether every chunk group of a segment is here that was not adopted.
    fn is_whole(&self, universe: &Universe, (content, sequence): (u32, u64)) -> bool {
        let all = group_count(universe.specs[content as usize].length);
        let held = self.held.get(&content);
        let part = held.and_then(|held| held.partial.get(&sequence));
        part.is_some_and(|groups| groups.count() == all)
    }

    /// Forgets what is here of a segment that was not adopted.
    pub(super) fn drop_part(&mut self, at: (u32, u64)) {
        // Only parts that were counted are taken off again.
        if self.parts.remove(&at).is_none() {
            return;
        }
        let held = self.held.get_mut(&at.0);
        let part = held.and_then(|held| held.partial.remove(&at.1));
        self.used -= part.map_or(0, |groups| groups.count() * CHUNK_GROUP_BYTES);
    }

    /// Bytes of what this node publishes itself, for which its capacity does not count.
    fn own(&self, universe: &Universe) -> u64 {
        let own = self.held.iter().filter_map(|(content, held)| {
            let spec = &universe.specs[*content as usize];
            let counts = spec.publisher == self.number && spec.to.is_none();
            counts.then(|| held.here.count() * spec.length)
        });
        own.sum()
    }

    /// On how many other nodes segments are.
    pub(super) fn copies(
        &mut self,
        universe: &Universe,
        content: u32,
        copies: &[(SequenceRun, u16)],
    ) {
        let spec = &universe.specs[content as usize];
        if self.capacity.is_none() || (spec.publisher == self.number && spec.to.is_none()) {
            return;
        }
        for (run, count) in copies {
            for sequence in run.start..run.end {
                let Some(held) = self.held.get_mut(&content) else {
                    return;
                };
                if !held.here.contains(sequence) {
                    continue;
                }
                // As it was ranked when it came: with one copy, of whoever gave it.
                let first = u16::from(spec.publisher != self.number);
                let before = held.copies.insert(sequence, *count).unwrap_or(first);
                if before == *count {
                    continue;
                }
                if let Some(rank) = self.rank(spec, sequence, before) {
                    self.evictable.remove(&(rank, content, sequence));
                }
                if let Some(rank) = self.rank(spec, sequence, *count) {
                    self.evictable.insert((rank, content, sequence));
                }
            }
        }
    }

    /// Loses a segment of another's content, if there is one.
    pub(super) fn lose_any(
        &mut self,
        universe: &Universe,
        random: &mut Random,
    ) -> Option<(u32, u64)> {
        let others = |(content, held): &(&u32, &mut Held)| {
            universe.specs[**content as usize].publisher != self.number && !held.here.is_empty()
        };
        // What is its own it could not fetch again.
        let mut held: Vec<_> = self.held.iter_mut().filter(others).collect();
        if held.is_empty() {
            return None;
        }
        let (content, held) = held.swap_remove(random.below(held.len() as u64) as usize);
        let at = random.below(held.here.count()) as usize;
        let sequence = held.here.iter().nth(at)?;
        held.here.remove(sequence, sequence + 1);
        self.used -= universe.specs[*content as usize].length;
        let content = *content;
        self.evictable
            .retain(|(_, other, lost)| (*other, *lost) != (content, sequence));
        Some((content, sequence))
    }

    /// Notes that a segment came; whether it is for the first time.
    pub(super) fn first_time(&mut self, content: u32, sequence: u64) -> bool {
        let held = self.hold(content);
        let new = !held.ever.contains(sequence);
        held.ever.insert(sequence, sequence + 1);
        new
    }

    /// The process ends; what was stored stays.
    pub(super) fn crash(&mut self) {
        self.up = false;
    }

    /// The process starts again on what is stored.
    pub(super) fn restart(&mut self, setup: &Setup, now: Time) {
        let universe = &setup.universe;
        self.core = Delivery::new(setup.config_of(self.number), self.time(now));
        (self.up, self.timer) = (true, Time::MAX);
        // Numbers are those of a core that is gone.
        self.contents.clear();
        self.numbers.clear();
        self.expected.clear();
        let contents: Vec<u32> = self.held.keys().copied().collect();
        for content in contents {
            let Some(held) = self.held.get(&content) else {
                continue;
            };
            let (runs, gone) = (held.here.clone(), held.gone);
            let admitted = held.admitted;
            if gone {
                let no = self.no(universe, content);
                // A store remembers what was removed, and says so at its start.
                let refused = Input::RefusedContent {
                    content: no,
                    forever: true,
                };
                self.handle(now, refused);
                continue;
            }
            if !admitted && runs.is_empty() {
                continue;
            }
            let no = self.no(universe, content);
            let facts = self.facts(universe, content);
            self.handle(now, Input::Content { content: no, facts });
            let track = self.core.track(no, &track()).unwrap_or_default();
            for run in runs.runs() {
                let stored = Input::Stored {
                    content: no,
                    track,
                    run: *run,
                };
                self.handle(now, stored);
            }
        }
    }

    /// The place that the core knows a segment by.
    pub(super) fn place(&mut self, universe: &Universe, content: u32, sequence: u64) -> Place {
        let no = self.no(universe, content);
        let track = self.core.track(no, &track()).unwrap_or_default();
        Place {
            content: no,
            track,
            sequence,
        }
    }
}
