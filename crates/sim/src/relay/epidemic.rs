//! Epidemic routing (Vahdat and Becker, 2000), to compare with: the oldest is dropped, a transfer
//! that was cut starts again. Two orders: plain, and rarest first, each segment once.

use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use lavant_proto::time::Time;
use lavant_proto::verify::CHUNK_GROUP_BYTES;

use super::universe::Setup;
use super::world::Outcome;
use crate::random::Random;

/// What a node sends next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any segment that the other side lacks, though it may be on its way to it over another
    /// meeting.
    Random,
    /// Of the segments that the other side lacks and that nobody sends it now, one that the fewest
    /// nodes of the whole world have at this moment; chance decides between equals. Both sides know
    /// at once and for nothing what the other one has and how rare each segment is, so this is
    /// greedy with knowledge that no node has. Links, buffers and drops are those of the plain one,
    /// and what was sent of a segment when a meeting ended is lost.
    RarestOnce,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin(usize),
    End(usize),
    Publish(u32, u64),
    Expire(u32),
    /// A direction of a meeting has sent a segment.
    Sent(usize, usize, u64),
}

struct Node {
    /// A bit for each segment: what one node has and another one lacks is found 64 at a time.
    held: Vec<u64>,
    /// What may go for others, the oldest first. What it published itself is not among it.
    order: VecDeque<u32>,
    used: u64,
    /// What was dropped and comes again is not delivered once more.
    ever: Vec<u64>,
    /// Segments that are on their way to it.
    coming: Vec<u64>,
    meetings: BTreeSet<usize>,
}

struct Epidemic<'a> {
    setup: &'a Setup,
    rule: Order,
    /// How many nodes have each segment.
    copies: Vec<u32>,
    nodes: Vec<Node>,
    /// The first segment of each content.
    first: Vec<u32>,
    content_of: Vec<u32>,
    /// What each direction of a meeting sends now, with a stamp.
    sending: Vec<[Option<(u32, u64, Time)>; 2]>,
    up: Vec<bool>,
    queue: BinaryHeap<std::cmp::Reverse<(Time, u64, Event)>>,
    order: u64,
    random: Random,
    outcome: Outcome,
    now: Time,
}

/// Runs epidemic routing on the same meetings, contents, links and buffers.
#[must_use]
pub fn run(setup: &Setup, rule: Order) -> Outcome {
    let mut epidemic = Epidemic::new(setup, rule);
    while let Some(std::cmp::Reverse((at, _, event))) = epidemic.queue.pop() {
        if at > setup.end {
            break;
        }
        epidemic.now = at;
        epidemic.happen(event);
    }
    epidemic.outcome
}

impl<'a> Epidemic<'a> {
    fn new(setup: &'a Setup, rule: Order) -> Self {
        let (mut first, mut content_of) = (Vec::new(), Vec::new());
        for (content, spec) in setup.universe.specs.iter().enumerate() {
            first.push(content_of.len() as u32);
            content_of.extend((0..spec.segments).map(|_| content as u32));
        }
        let words = content_of.len().div_ceil(64);
        let nodes = (0..setup.nodes).map(|_| Node {
            held: vec![0; words],
            order: VecDeque::new(),
            used: 0,
            ever: vec![0; words],
            coming: vec![0; words],
            meetings: BTreeSet::new(),
        });
        let mut epidemic = Self {
            setup,
            rule,
            copies: vec![0; content_of.len()],
            nodes: nodes.collect(),
            first,
            content_of,
            sending: vec![[None, None]; setup.meetings.len()],
            up: vec![false; setup.meetings.len()],
            queue: BinaryHeap::new(),
            order: 0,
            random: Random::new(setup.seed),
            outcome: Outcome {
                meetings: setup.meetings.len() as u64,
                ..Outcome::default()
            },
            now: Time(0),
        };
        for (number, meeting) in setup.meetings.iter().enumerate() {
            epidemic.at(meeting.from, Event::Begin(number));
            epidemic.at(meeting.to, Event::End(number));
        }
        for (content, spec) in setup.universe.specs.iter().enumerate() {
            epidemic.at(spec.created, Event::Publish(content as u32, 0));
            epidemic.at(spec.expires(), Event::Expire(content as u32));
        }
        epidemic
    }

    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue
            .push(std::cmp::Reverse((at.max(self.now), self.order, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(number) => {
                let meeting = self.setup.meetings[number];
                self.up[number] = true;
                for (side, node) in [meeting.a, meeting.b].into_iter().enumerate() {
                    self.nodes[node as usize].meetings.insert(number);
                    self.send(number, side);
                }
                self.send(number, 0);
            }
            Event::End(number) => self.end(number),
            Event::Publish(content, sequence) => self.publish(content, sequence),
            Event::Expire(content) => self.expire(content),
            Event::Sent(number, side, stamp) => self.sent(number, side, stamp),
        }
    }

    fn end(&mut self, number: usize) {
        self.up[number] = false;
        let meeting = self.setup.meetings[number];
        let mut broken = false;
        for side in 0..2 {
            if let Some((segment, _, since)) = self.sending[number][side].take() {
                // All that was sent of it is lost: this routing knows no parts.
                broken = true;
                let to = [meeting.b, meeting.a][side] as usize;
                self.nodes[to].coming[segment as usize / 64] &= !(1 << (segment % 64));
                let rate = u128::from(self.setup.rate.unwrap_or(u64::MAX));
                let micros = self.now.since(since).as_micros();
                self.outcome.lost_bytes += (micros * rate / 1_000_000) as u64;
            }
        }
        self.outcome.broken += u64::from(broken);
        for node in [meeting.a, meeting.b] {
            self.nodes[node as usize].meetings.remove(&number);
        }
    }

    fn publish(&mut self, content: u32, sequence: u64) {
        let spec = self.setup.universe.specs[content as usize];
        let end = if spec.is_finished() {
            spec.segments
        } else {
            sequence + 1
        };
        for at in sequence..end {
            let segment = self.first[content as usize] + at as u32;
            let node = &mut self.nodes[spec.publisher as usize];
            // What it publishes takes no room, as in the world of the relay.
            node.held[segment as usize / 64] |= 1 << (segment % 64);
            self.copies[segment as usize] += 1;
        }
        self.wake(spec.publisher);
        if end < spec.segments {
            self.at(spec.published(end), Event::Publish(content, end));
        }
    }

    fn expire(&mut self, content: u32) {
        let spec = self.setup.universe.specs[content as usize];
        for (number, node) in self.nodes.iter_mut().enumerate() {
            for at in 0..spec.segments {
                let segment = self.first[content as usize] + at as u32;
                let mask = 1 << (segment % 64);
                let word = &mut node.held[segment as usize / 64];
                if *word & mask != 0 && number as u32 != spec.publisher {
                    node.used -= spec.length;
                }
                *word &= !mask;
            }
            let content_of = &self.content_of;
            node.order
                .retain(|segment| content_of[*segment as usize] != content);
        }
    }

    fn wake(&mut self, node: u32) {
        let meetings: Vec<usize> = self.nodes[node as usize].meetings.iter().copied().collect();
        for number in meetings {
            let side = usize::from(self.setup.meetings[number].a != node);
            self.send(number, side);
        }
    }

    /// A random segment that the other side lacks.
    fn random(&mut self, from: usize, to: usize) -> Option<u32> {
        let words = self.nodes[from].held.len();
        let start = self.random.below(words as u64) as usize;
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let (at, lacking) = (0..words).find_map(|offset| {
            // Any word, then any segment of it: not quite even, but without counting all.
            let at = (start + offset) % words;
            let lacking = from.held[at] & !to.held[at];
            (lacking != 0).then_some((at, lacking))
        })?;
        let mut skip = self.random.below(u64::from(lacking.count_ones()));
        let mut bits = lacking;
        while skip > 0 {
            // The lowest bit goes.
            bits &= bits - 1;
            skip -= 1;
        }
        Some(at as u32 * 64 + bits.trailing_zeros())
    }

    /// The rarest segment that the other side lacks and nobody sends it.
    fn rarest(&mut self, from: usize, to: usize) -> Option<u32> {
        let (mut best, mut equals) = (None, 0);
        for at in 0..self.nodes[from].held.len() {
            let (from, to) = (&self.nodes[from], &self.nodes[to]);
            let mut bits = from.held[at] & !to.held[at] & !to.coming[at];
            while bits != 0 {
                let segment = at as u32 * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                let copies = self.copies[segment as usize];
                if best.is_none_or(|(least, _)| copies < least) {
                    (best, equals) = (Some((copies, segment)), 1);
                } else if best.is_some_and(|(least, _)| copies == least) {
                    equals += 1;
                    // Of all that are equal each stays with the same chance, after one look at
                    // them.
                    if self.random.below(equals) == 0 {
                        best = Some((copies, segment));
                    }
                }
            }
        }
        best.map(|(_, segment)| segment)
    }

    /// Starts to send a segment that the other side lacks.
    fn send(&mut self, number: usize, side: usize) {
        let meeting = self.setup.meetings[number];
        let ends = [meeting.a as usize, meeting.b as usize];
        if !self.up[number] || self.sending[number][side].is_some() {
            return;
        }
        let found = match self.rule {
            Order::Random => self.random(ends[side], ends[1 - side]),
            Order::RarestOnce => self.rarest(ends[side], ends[1 - side]),
        };
        let Some(segment) = found else {
            return;
        };
        self.nodes[ends[1 - side]].coming[segment as usize / 64] |= 1 << (segment % 64);
        let spec = self.setup.universe.specs[self.content_of[segment as usize] as usize];
        let micros = match self.setup.rate {
            Some(rate) => u128::from(spec.length) * 1_000_000 / u128::from(rate.max(1)),
            None => 0,
        };
        let takes = std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.order += 1;
        // A transfer that was cut has an event left: the stamp tells it from that of the next one.
        let stamp = self.order;
        self.sending[number][side] = Some((segment, stamp, self.now));
        let done = self.now.after(takes).after(self.setup.delay);
        self.at(done, Event::Sent(number, side, stamp));
    }

    fn sent(&mut self, number: usize, side: usize, stamp: u64) {
        let meeting = self.setup.meetings[number];
        match self.sending[number][side] {
            Some((segment, held, _)) if held == stamp => {
                self.sending[number][side] = None;
                let to = [meeting.b, meeting.a][side];
                self.arrive(to, segment);
                self.send(number, side);
            }
            _ => {}
        }
    }

    fn arrive(&mut self, to: u32, segment: u32) {
        let content = self.content_of[segment as usize];
        let spec = self.setup.universe.specs[content as usize];
        let (word, mask) = (segment as usize / 64, 1u64 << (segment % 64));
        self.nodes[to as usize].coming[word] &= !mask;
        let groups = spec.length.div_ceil(CHUNK_GROUP_BYTES);
        self.outcome.payload_bytes += groups * CHUNK_GROUP_BYTES;
        // It was on its way when its time was over.
        if self.now >= spec.expires() {
            return;
        }
        let node = &mut self.nodes[to as usize];
        if node.held[word] & mask != 0 {
            self.outcome.duplicate_bytes += spec.length;
            return;
        }
        let limit = self.setup.capacity.unwrap_or(u64::MAX);
        while node.used + spec.length > limit {
            // A store that is smaller than a segment never has room.
            let Some(oldest) = node.order.pop_front() else {
                return;
            };
            let length =
                self.setup.universe.specs[self.content_of[oldest as usize] as usize].length;
            node.held[oldest as usize / 64] &= !(1 << (oldest % 64));
            self.copies[oldest as usize] -= 1;
            node.used -= length;
            self.outcome.evicted += 1;
        }
        node.held[word] |= mask;
        self.copies[segment as usize] += 1;
        if spec.publisher != to {
            node.used += spec.length;
            node.order.push_back(segment);
            if node.ever[word] & mask == 0 {
                node.ever[word] |= mask;
                let sequence = u64::from(segment - self.first[content as usize]);
                let delay = self.now.since(spec.published(sequence));
                self.outcome.delivered += 1;
                self.outcome.delay_seconds += delay.as_secs();
            }
        }
        self.wake(to);
    }
}
