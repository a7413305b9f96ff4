//! The world of a simulation: nodes, meetings, links, and the queue of what happens next.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use lavant_proto::ids::Signature;
use lavant_proto::relay::message::Message;
use lavant_proto::relay::{ContactNo, Input, Output};
use lavant_proto::runs::Run;
use lavant_proto::time::Time;

use super::node::Node;
use super::universe::{Setup, node_key};
use crate::random::Random;

/// Bytes of a row, a record, and of what proves rows, as they are counted.
pub(super) const ROW_BYTES: u64 = 60;
pub(super) const RECORD_BYTES: u64 = 260;
pub(super) const PROOF_BYTES: u64 = 1300;
/// How long a crashed node is away.
const AWAY: Duration = Duration::from_secs(60);

/// What crosses a link.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Message(Message),
    /// Chunk groups for a request: content, segment, groups; damaged or not.
    Data(u32, u32, u64, Run, bool),
}

#[derive(Debug)]
pub(super) enum Event {
    Begin(u32),
    End(u32),
    Publish(u32, u64),
    Expire(u32),
    Crash(u32),
    Restart(u32),
    Tear(u32),
    Watch(u32),
    Timer(u32),
    /// What a direction of a contact was sending is sent.
    Sent(u32, usize),
    Arrive(u32, usize, Parcel),
}

struct Due {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One direction of a contact.
#[derive(Debug, Default)]
pub(super) struct Direction {
    pub(super) messages: VecDeque<Message>,
    pub(super) data: VecDeque<Parcel>,
    /// What is on its way onto the link, and since when.
    pub(super) sending: Option<(Parcel, Time)>,
}

#[derive(Debug)]
pub(super) struct Contact {
    /// The nodes; the first one dialled.
    pub(super) ends: [u32; 2],
    pub(super) directions: [Direction; 2],
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Segments that came to a node that did not publish them, for the first time.
    pub delivered: u64,
    /// Their time from publication to arrival, summed, in seconds.
    pub delay_seconds: u64,
    /// Payload bytes that came, whole chunk groups.
    pub payload_bytes: u64,
    /// Payload bytes that came although they were there.
    pub duplicate_bytes: u64,
    /// Bytes that were on a link when it broke and were lost.
    pub lost_bytes: u64,
    /// Meetings that ended while segments were on the link.
    pub broken: u64,
    /// Meetings.
    pub meetings: u64,
    /// Bytes of messages.
    pub message_bytes: u64,
    /// Bytes of those messages that tell what is there.
    pub told_bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Contacts that were ended for a reason, by the reason.
    pub closed: BTreeMap<String, u64>,
    /// Segments that nodes let go for others.
    pub evicted: u64,
    /// Of each node, how many segments it had of each content when the content expired or the run
    /// ended. Empty when not asked for.
    pub reached: Vec<u32>,
    /// Hash of all deliveries.
    pub trace: String,
}

/// A running simulation.
pub struct World {
    pub(super) setup: Setup,
    pub(super) nodes: Vec<Node>,
    pub(super) contacts: BTreeMap<u32, Contact>,
    queue: BinaryHeap<Due>,
    pub(super) ready: VecDeque<Event>,
    order: u64,
    pub(super) now: Time,
    random: Random,
    pub(super) outcome: Outcome,
    hasher: blake3::Hasher,
}

impl World {
    /// A world in which nothing has happened yet.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let mut random = Random::new(setup.seed);
        let faults = setup.faults;
        let skew = u64::try_from(faults.clocks.as_micros()).unwrap_or(0);
        let nodes = (0..setup.nodes)
            .map(|number| {
                let clock = random.below(2 * skew + 1) as i64 - skew as i64;
                let mut node = Node::new(number, &setup.config, setup.capacity, clock);
                node.lies = faults.liars > 0 && u64::from(number) % faults.liars == 1;
                node
            })
            .collect();
        let mut world = Self {
            nodes,
            contacts: BTreeMap::new(),
            queue: BinaryHeap::new(),
            ready: VecDeque::new(),
            order: 0,
            now: Time(0),
            outcome: Outcome {
                meetings: setup.meetings.len() as u64,
                ..Outcome::default()
            },
            hasher: blake3::Hasher::new(),
            random,
            setup,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        for (number, meeting) in self.setup.meetings.clone().into_iter().enumerate() {
            self.at(meeting.from, Event::Begin(number as u32));
            self.at(meeting.to, Event::End(number as u32));
        }
        for (content, spec) in self.setup.universe.specs.clone().into_iter().enumerate() {
            let content = content as u32;
            self.at(spec.created, Event::Publish(content, 0));
            self.at(spec.expires(), Event::Expire(content));
        }
        let until = self.setup.faults.until.unwrap_or(self.setup.end);
        for _ in 0..self.setup.faults.crashes {
            let at = Time(self.random.below(until.0));
            let node = self.random.below(u64::from(self.setup.nodes)) as u32;
            self.at(at, Event::Crash(node));
        }
        for _ in 0..self.setup.faults.torn {
            let at = Time(self.random.below(until.0));
            let node = self.random.below(u64::from(self.setup.nodes)) as u32;
            self.at(at, Event::Tear(node));
        }
        for (number, view) in self.setup.views.clone().into_iter().enumerate() {
            self.at(view.at, Event::Watch(number as u32));
        }
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.push(Due {
            at: at.max(self.now),
            order: self.order,
            event,
        });
    }

    /// Lets everything happen.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        self.go();
        self.outcome.trace = self.hasher.finalize().to_hex().to_string();
        self.outcome
    }

    pub(super) fn go(&mut self) {
        while let Some(due) = self.queue.pop() {
            if due.at > self.setup.end {
                break;
            }
            self.now = due.at;
            self.happen(due.event);
            while let Some(event) = self.ready.pop_front() {
                self.happen(event);
            }
        }
        for content in 0..self.setup.universe.specs.len() as u32 {
            if self.setup.universe.specs[content as usize].expires() > self.setup.end {
                self.count_reached(content);
            }
        }
    }

    fn count_reached(&mut self, content: u32) {
        let contents = self.setup.universe.specs.len();
        self.outcome.reached.resize(self.nodes.len() * contents, 0);
        for node in &self.nodes {
            let here = node.held.get(&content).map_or(0, |held| held.here.count());
            let at = node.number as usize * contents + content as usize;
            self.outcome.reached[at] = here as u32;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(contact) => self.begin(contact),
            Event::End(contact) => self.end(contact),
            Event::Publish(content, sequence) => self.publish(content, sequence),
            Event::Expire(content) => {
                self.count_reached(content);
                for node in 0..self.nodes.len() as u32 {
                    if self.nodes[node as usize].held.contains_key(&content) {
                        let now = self.now;
                        let universe = &self.setup.universe;
                        self.nodes[node as usize].expire(universe, content, now);
                        self.drain(node);
                    }
                }
            }
            Event::Crash(node) => self.crash(node),
            Event::Tear(node) => self.tear(node),
            Event::Watch(number) => {
                let view = self.setup.views[number as usize];
                let it = &mut self.nodes[view.node as usize];
                let no = it.no(&self.setup.universe, view.content);
                self.input(view.node, Input::Watched(no, view.sequence));
            }
            Event::Restart(node) => {
                let (universe, config) = (&self.setup.universe, &self.setup.config);
                self.nodes[node as usize].restart(universe, config, self.now);
                self.drain(node);
            }
            Event::Timer(node) => {
                if self.nodes[node as usize].timer <= self.now {
                    self.nodes[node as usize].timer = Time::MAX;
                    self.input(node, Input::Tick);
                }
            }
            Event::Sent(contact, side) => self.sent(contact, side),
            Event::Arrive(contact, side, parcel) => self.arrive(contact, side, parcel),
        }
    }

    fn begin(&mut self, number: u32) {
        let meeting = self.setup.meetings[number as usize];
        let ends = [meeting.a, meeting.b];
        if ends.iter().any(|end| !self.nodes[*end as usize].up) {
            return;
        }
        let contact = Contact {
            ends,
            directions: [Direction::default(), Direction::default()],
        };
        self.contacts.insert(number, contact);
        for side in 0..2 {
            let up = Input::Up {
                contact: ContactNo(number),
                node: node_key(ends[1 - side]),
                dialled: side == 0,
            };
            self.input(ends[side], up);
        }
    }

    fn end(&mut self, number: u32) {
        let Some(contact) = self.contacts.remove(&number) else {
            return;
        };
        let mut broken = false;
        for (side, direction) in contact.directions.iter().enumerate() {
            broken |= self.break_off(number, &contact, side, direction);
        }
        self.outcome.broken += u64::from(broken);
        for end in contact.ends {
            self.input(end, Input::Down(ContactNo(number)));
        }
    }

    fn publish(&mut self, content: u32, sequence: u64) {
        let spec = self.setup.universe.specs[content as usize];
        let run = if spec.is_finished() {
            Run::new(0, spec.segments)
        } else {
            Run::new(sequence, sequence + 1)
        };
        let node = spec.publisher;
        self.nodes[node as usize].publish(&self.setup.universe, content, run, self.now);
        self.drain(node);
        if run.end < spec.segments {
            self.at(spec.published(run.end), Event::Publish(content, run.end));
        }
    }

    fn crash(&mut self, node: u32) {
        if !self.nodes[node as usize].up {
            return;
        }
        let its: Vec<u32> = self
            .contacts
            .iter()
            .filter(|(_, contact)| contact.ends.contains(&node))
            .map(|(number, _)| *number)
            .collect();
        for number in its {
            self.end(number);
        }
        self.nodes[node as usize].crash();
        self.at(self.now.after(AWAY), Event::Restart(node));
    }

    /// A segment that came to a node is found damaged.
    fn tear(&mut self, node: u32) {
        let it = &mut self.nodes[node as usize];
        let Some((content, sequence)) = it.lose_any(&self.setup.universe, &mut self.random) else {
            return;
        };
        let place = it.place(&self.setup.universe, content, sequence);
        let run = Run::new(sequence, sequence + 1);
        self.input(node, Input::Torn(place.no, place.track, run));
    }

    pub(super) fn input(&mut self, node: u32, input: Input) {
        let now = self.now;
        let it = &mut self.nodes[node as usize];
        if it.up {
            it.handle(now, input);
            self.drain(node);
        }
    }

    /// Does what the relay of a node wants done.
    fn drain(&mut self, node: u32) {
        if !self.nodes[node as usize].up {
            return;
        }
        while let Some(output) = self.nodes[node as usize].relay.poll() {
            self.output(node, output);
        }
        let it = &mut self.nodes[node as usize];
        let deadline = it.relay.deadline();
        if deadline == Time::MAX {
            return;
        }
        let at = Time(deadline.0.saturating_add_signed(-it.clock)).max(self.now);
        if at < it.timer {
            it.timer = at;
            self.at(at, Event::Timer(node));
        }
    }

    fn output(&mut self, node: u32, output: Output) {
        match output {
            Output::Send(contact, message) => self.send(contact, node, message),
            Output::Close(contact, why) => {
                *self.outcome.closed.entry(why).or_default() += 1;
                self.hang_up(contact.0, node);
            }
            Output::Serve {
                contact,
                request,
                place,
                groups,
                ..
            } => {
                let it = &mut self.nodes[node as usize];
                let Some(content) = it.content(&self.setup.universe, place.no) else {
                    return;
                };
                let bad = it.lies && self.random.below(1000) < self.setup.faults.lies;
                let parcel = Parcel::Data(request, content, place.sequence, groups, bad);
                self.link(contact, node, parcel);
            }
            Output::SendManifest(contact, no) => {
                let manifest = Message::Manifest(no, Vec::new(), Signature([0; 64]));
                self.send(contact, node, manifest);
            }
            Output::SendRows(contact, no, run) => {
                self.outcome.message_bytes += PROOF_BYTES + run.count() * ROW_BYTES;
                let rows = Message::Rows(no, run.start, Vec::new(), Vec::new());
                self.send(contact, node, rows);
            }
            Output::SendRecords(contact, no, track, run) => {
                self.send_records(contact, node, (no, track, run));
            }
            Output::LearnManifest(_, no, ..) => self.learn_manifest(node, no),
            Output::LearnRows(_, no, from, ..) => self.learn_rows(node, no, from),
            Output::LearnRecords(contact, no, track, run, records) => {
                let Some(content) = self.content(node, no) else {
                    return;
                };
                let sent: Vec<u64> = records.iter().map(|(_, s)| u64::from(s.0[0])).collect();
                let mut known =
                    self.nodes[node as usize].recall(&self.setup.universe, content, run);
                known.retain(|known| sent.contains(&(known.sequence - run.start)));
                let learned = Input::Learned(Some(contact), no, track, run, known);
                self.nodes[node as usize].handle(self.now, learned);
            }
            Output::Recall(no, track, run) => {
                let Some(content) = self.content(node, no) else {
                    return;
                };
                let known = self.nodes[node as usize].recall(&self.setup.universe, content, run);
                let learned = Input::Learned(None, no, track, run, known);
                self.nodes[node as usize].handle(self.now, learned);
            }
            Output::Adopt(place, _) => self.adopt(node, place.no, place.sequence),
            Output::Copies(no, _, copies) => {
                if let Some(content) = self.content(node, no) {
                    let universe = &self.setup.universe;
                    self.nodes[node as usize].copies(universe, content, &copies);
                }
            }
            Output::Expect { .. } | Output::Doubt(_) | Output::Forgotten(_) => {}
        }
    }

    fn content(&mut self, node: u32, no: u32) -> Option<u32> {
        self.nodes[node as usize].content(&self.setup.universe, no)
    }

    /// The side that ends a contact goes at once, the other one when it notices.
    fn hang_up(&mut self, number: u32, by: u32) {
        if let Some(contact) = self.contacts.remove(&number) {
            let other = contact.ends.into_iter().find(|end| *end != by);
            if let Some(other) = other {
                self.input(other, Input::Down(ContactNo(number)));
            }
        }
    }

    fn send_records(&mut self, contact: ContactNo, node: u32, asked: (u32, u16, Run)) {
        let (no, track, run) = asked;
        let Some(content) = self.content(node, no) else {
            return;
        };
        let Some(held) = self.nodes[node as usize].held.get(&content) else {
            return;
        };
        let here = (run.start..run.end).filter(|sequence| held.here.contains(*sequence));
        let records: Vec<_> = here
            .map(|sequence| (Vec::new(), Signature([(sequence - run.start) as u8; 64])))
            .collect();
        self.outcome.message_bytes += RECORD_BYTES * records.len() as u64;
        self.send(contact, node, Message::Records(no, track, run, records));
    }

    fn learn_manifest(&mut self, node: u32, no: u32) {
        let Some(content) = self.content(node, no) else {
            return;
        };
        let total = self.setup.universe.specs[content as usize].segments;
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&content.to_le_bytes());
        let it = &mut self.nodes[node as usize];
        it.handle(self.now, Input::Manifest(no, hash, total, 0));
    }

    fn learn_rows(&mut self, node: u32, no: u32, from: u64) {
        let Some(content) = self.content(node, no) else {
            return;
        };
        let total = self.setup.universe.specs[content as usize].segments;
        let known = (from + lavant_proto::relay::message::ROWS_MAX).min(total);
        if known < total {
            self.nodes[node as usize].handle(self.now, Input::Rows(no, known));
        } else if self.fails() {
            self.nodes[node as usize].handle(self.now, Input::FailedContent(no));
        } else {
            self.nodes[node as usize].admit(&self.setup.universe, content, self.now);
        }
    }

    /// Whether the store cannot take something now.
    fn fails(&mut self) -> bool {
        let failures = self.setup.faults.failures;
        failures > 0 && self.random.below(1000) < failures
    }

    fn adopt(&mut self, node: u32, no: u32, sequence: u64) {
        let Some(content) = self.content(node, no) else {
            return;
        };
        let now = self.now;
        let fails = self.fails();
        let universe = &self.setup.universe;
        let it = &mut self.nodes[node as usize];
        let place = it.place(universe, content, sequence);
        if fails {
            it.handle(now, Input::Failed(place));
            return;
        }
        let spec = universe.specs[content as usize];
        let Some(victims) = it.adopt(universe, content, sequence) else {
            it.handle(now, Input::Refused(place));
            return;
        };
        if let Some(capacity) = self.setup.capacity
            && spec.publisher != node
        {
            let own: u64 = universe
                .specs
                .iter()
                .filter(|spec| spec.publisher == node)
                .map(|spec| spec.segments * spec.length)
                .sum();
            assert!(it.used <= capacity + own, "a store is over its limit");
        }
        self.outcome.evicted += victims.len() as u64;
        for (other, sequence) in victims {
            let gone = it.place(universe, other, sequence);
            let run = Run::new(sequence, sequence + 1);
            it.handle(now, Input::Dropped(gone.no, gone.track, run));
        }
        if it
            .held
            .get(&content)
            .is_some_and(|held| held.here.count() == 1)
            && !spec.is_finished()
        {
            it.admit(universe, content, now);
        }
        let run = Run::new(sequence, sequence + 1);
        it.handle(now, Input::Stored(place.no, place.track, run));
        if it.first_time(content, sequence) {
            self.outcome.delivered += 1;
            self.outcome.delay_seconds += now.since(spec.published(sequence)).as_secs();
        }
        for number in [now.0, u64::from(node), u64::from(content), sequence] {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    fn send(&mut self, contact: ContactNo, node: u32, message: Message) {
        self.outcome.messages += 1;
        self.link(contact, node, Parcel::Message(message));
    }
}
