//! One node of a simulation: the core of `lavant-proto` on a store that is only counted.

use std::collections::{BTreeMap, BTreeSet};

use lavant_proto::content::Kind;
use lavant_proto::delivery::{Config, Delivery, Facts, Input, Known};
use lavant_proto::ids::{Rendition, Root};
use lavant_proto::numbers::{ContactNo, ContentNo, Place, RequestNo};
use lavant_proto::relay::evict::{EvictionRank, Holding};
use lavant_proto::relay::message::TrackName;
use lavant_proto::runs::{GroupRun, GroupRuns, SequenceRun, SequenceRuns};
use lavant_proto::time::Time;
use lavant_proto::verify::group_count;

use super::universe::{Spec, Universe, node_key};
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
    pub(super) fn new(number: u32, config: &Config, capacity: Option<u64>, clock: i64) -> Self {
        let config = Config {
            own: node_key(number),
            ..config.clone()
        };
        Self {
            number,
            core: Delivery::new(config, Time(0)),
            up: true,
            clock,
            lies: false,
            held: BTreeMap::new(),
            new: Vec::new(),
            contents: BTreeMap::new(),
            numbers: BTreeMap::new(),
            expected: BTreeSet::new(),
            capacity,
            used: 0,
            evictable: BTreeSet::new(),
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

    fn facts(&self, spec: &Spec, content: u32) -> Facts {
        let admitted = self.held.get(&content).is_some_and(|held| held.admitted);
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&content.to_le_bytes());
        Facts {
            priority: spec.priority,
            expires: spec.expires(),
            manifest: admitted.then_some((hash, spec.created)),
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
        let facts = self.facts(spec, content);
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
        let spec = &universe.specs[content as usize];
        if !self.held.contains_key(&content) {
            self.admit(universe, content, now);
        }
        let held = self.hold(content);
        held.here.insert(run.start, run.end);
        self.used += run.count() * spec.length;
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
        held.partial.clear();
        held.gone = true;
        self.evictable.retain(|(_, other, _)| *other != content);
        if let Some(no) = self.numbers.get(&content).copied() {
            self.handle(now, Input::Removed { content: no });
        }
    }

    /// What the store knows of segments that the core wants to fetch.
    pub(super) fn recall(&self, universe: &Universe, content: u32, run: SequenceRun) -> Vec<Known> {
        let spec = &universe.specs[content as usize];
        let held = self.held.get(&content);
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

    /// Chunk groups came.
    pub(super) fn keep(&mut self, content: u32, sequence: u64, groups: GroupRun) {
        let held = self.hold(content);
        if !held.here.contains(sequence) {
            let part = held.partial.entry(sequence).or_default();
            part.insert(groups.start, groups.end);
        }
    }

    /// Makes a segment part of the store. Whether it is; and what had to go for it.
    pub(super) fn adopt(
        &mut self,
        universe: &Universe,
        content: u32,
        sequence: u64,
    ) -> Option<Vec<(u32, u64)>> {
        let spec = &universe.specs[content as usize];
        let held = self.hold(content);
        if held.gone || held.here.contains(sequence) {
            return None;
        }
        let all = group_count(spec.length);
        let whole = held.partial.get(&sequence).map(GroupRuns::count) == Some(all);
        assert!(whole, "an incomplete segment was to be adopted");
        let victims = self.make_room(universe, content)?;
        // Whoever gave it has it.
        let copies = self
            .held
            .get(&content)
            .and_then(|held| held.copies.get(&sequence).copied())
            .unwrap_or(1);
        if let Some(rank) = self.rank(spec, sequence, copies) {
            self.evictable.insert((rank, content, sequence));
        }
        self.used += spec.length;
        let held = self.hold(content);
        held.partial.remove(&sequence);
        held.here.insert(sequence, sequence + 1);
        Some(victims)
    }

    fn rank(&self, spec: &Spec, sequence: u64, copies: u16) -> Option<EvictionRank> {
        let own = spec.publisher == self.number;
        EvictionRank::of(&Holding {
            priority: spec.priority,
            copies,
            created: spec.published(sequence),
            sequence,
            pinned: own || self.capacity.is_none(),
        })
    }

    fn make_room(&mut self, universe: &Universe, content: u32) -> Option<Vec<(u32, u64)>> {
        let spec = &universe.specs[content as usize];
        let mut victims = Vec::new();
        let limit = self
            .capacity
            .unwrap_or(u64::MAX)
            .saturating_add(self.own(universe));
        while self.used + spec.length > limit {
            let (rank, other, sequence) = *self.evictable.first()?;
            if !rank.yields_to(spec.priority) {
                return None;
            }
            self.evictable.pop_first();
            let held = self.held.get_mut(&other)?;
            held.here.remove(sequence, sequence + 1);
            self.used -= universe.specs[other as usize].length;
            victims.push((other, sequence));
        }
        Some(victims)
    }

    /// Bytes of what this node publishes itself, for which its capacity does not count.
    fn own(&self, universe: &Universe) -> u64 {
        let own = self.held.iter().filter_map(|(content, held)| {
            let spec = &universe.specs[*content as usize];
            (spec.publisher == self.number).then(|| held.here.count() * spec.length)
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
        if self.capacity.is_none() || spec.publisher == self.number {
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
                let before = held.copies.insert(sequence, *count).unwrap_or(1);
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
    pub(super) fn restart(&mut self, universe: &Universe, config: &Config, now: Time) {
        let config = Config {
            own: node_key(self.number),
            ..config.clone()
        };
        self.core = Delivery::new(config, self.time(now));
        (self.up, self.timer) = (true, Time::MAX);
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
            let facts = self.facts(&universe.specs[content as usize], content);
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
