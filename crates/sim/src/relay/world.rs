//! The world of a simulation: nodes, meetings, links, and the queue of what happens next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lavant_proto::contact::Arrival;
use lavant_proto::delivery::{Input, Output};
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, ContentNo, RequestNo};
use lavant_proto::relay::message::RelayMessage;
use lavant_proto::runs::{GroupRun, Run};
use lavant_proto::time::Time;
use lavant_proto::uplink::Serving;

use super::air::Medium;
use super::arena::Contacts;
use super::node::Node;
use super::queue::{Event, Queue};
use super::universe::Setup;
use crate::random::Random;

/// Bytes of a record, and of what proves rows, as they are counted.
pub(super) const RECORD_BYTES: u64 = 260;
// Two hashes of 32 bytes for each of 20 levels are 1,280.
pub(super) const PROOF_BYTES: u64 = 1300;
/// How long a crashed node is away.
const AWAY: Duration = Duration::from_secs(60);

/// What crosses a link.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Message(Box<Message>),
    Data(Data),
}

/// Chunk groups for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    pub(super) request: RequestNo,
    pub(super) content: u32,
    pub(super) sequence: u64,
    pub(super) groups: GroupRun,
    /// They are not what was signed.
    pub(super) bad: bool,
}

/// One direction of a contact.
#[derive(Debug, Default)]
pub(super) struct Direction {
    pub(super) messages: VecDeque<Box<Message>>,
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
    pub(super) contacts: Contacts,
    /// What the contacts of each node share.
    pub(super) media: Vec<Medium>,
    pub(super) queue: Queue,
    pub(super) ready: VecDeque<Event>,
    /// Which nodes ever had something of each content.
    holders: Vec<BTreeSet<u32>>,
    pub(super) now: Time,
    random: Random,
    pub(super) outcome: Outcome,
    pub(super) hasher: blake3::Hasher,
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
                // Drawn for each node also where clocks are right, so that chance stays in step.
                let clock = random.below(2 * skew + 1) as i64 - skew as i64;
                let mut node = Node::new(number, &setup, clock);
                node.lies = faults.liars > 0 && u64::from(number) % faults.liars == 1;
                node
            })
            .collect();
        let mut world = Self {
            nodes,
            contacts: Contacts::new(setup.nodes, setup.meetings.len()),
            media: vec![Medium::default(); setup.nodes as usize],
            queue: Queue::new(&setup.meetings),
            ready: VecDeque::new(),
            holders: vec![BTreeSet::new(); setup.universe.specs.len()],
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
        self.queue.at(at.max(self.now), event);
    }

    /// Lets everything happen.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        self.go();
        self.outcome.trace = self.hasher.finalize().to_hex().to_string();
        self.outcome
    }

    pub(super) fn go(&mut self) {
        while let Some((at, event)) = self.queue.next(&self.setup.meetings) {
            if at > self.setup.end {
                break;
            }
            self.now = at;
            self.happen(event);
            // What takes no time is queued, too: two nodes that answer each other at once would
            // call each other without end.
            while let Some(event) = self.ready.pop_front() {
                self.happen(event);
            }
        }
        for content in 0..self.setup.universe.specs.len() as u32 {
            // Those that expired were counted then, before they went.
            if self.setup.universe.specs[content as usize].expires() > self.setup.end {
                self.count_reached(content);
            }
        }
    }

    fn count_reached(&mut self, content: u32) {
        let contents = self.setup.universe.specs.len();
        self.outcome.reached.resize(self.nodes.len() * contents, 0);
        // Only who ever had something of it: a world has many nodes and contents.
        for node in &self.holders[content as usize] {
            let held = self.nodes[*node as usize].held.get(&content);
            let at = *node as usize * contents + content as usize;
            self.outcome.reached[at] = held.map_or(0, |held| held.here.count()) as u32;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(contact) => self.begin(contact),
            Event::End(contact) => self.end(contact),
            Event::Publish(content, sequence) => self.publish(content, sequence),
            Event::Expire(content) => self.expire(content),
            Event::Crash(node) => self.crash(node),
            Event::Tear(node) => self.tear(node),
            Event::Watch(number) => {
                let view = self.setup.views[number as usize];
                let it = &mut self.nodes[view.node as usize];
                let no = it.no(&self.setup.universe, view.content);
                let watched = Input::Watched {
                    content: no,
                    sequence: view.sequence,
                };
                self.input(view.node, watched);
            }
            Event::Restart(node) => {
                self.nodes[node as usize].restart(&self.setup, self.now);
                self.drain(node);
            }
            Event::Timer(node) => {
                // Another time may have been set since: only the latest one counts.
                if self.nodes[node as usize].timer <= self.now {
                    self.nodes[node as usize].timer = Time::MAX;
                    self.input(node, Input::Tick);
                }
            }
            Event::Sent(contact, side) => self.sent(contact, side.into()),
            Event::Arrive(contact, side, parcel) => {
                if let Some(parcel) = self.queue.parcels.take(parcel) {
                    self.arrive(contact, side.into(), parcel);
                }
            }
        }
    }

    fn expire(&mut self, content: u32) {
        // Counted before it goes.
        self.count_reached(content);
        for node in self.holders[content as usize].clone() {
            let universe = &self.setup.universe;
            self.nodes[node as usize].expire(universe, content, self.now);
            self.drain(node);
        }
    }

    fn begin(&mut self, number: u32) {
        let meeting = self.setup.meetings[number as usize];
        let ends = [meeting.a, meeting.b];
        // A node that is away misses the whole meeting.
        if ends.iter().any(|end| !self.nodes[*end as usize].up) {
            return;
        }
        let profile = self.setup.profile();
        let contact = Contact {
            ends,
            directions: [Direction::default(), Direction::default()],
        };
        // Both sides are in place before the first one speaks.
        self.contacts.insert(number, contact);
        self.at(meeting.to, Event::End(number));
        for side in 0..2 {
            let up = Input::Up {
                contact: ContactNo(number),
                arrival: Arrival {
                    node: self.setup.universe.node_key(ends[1 - side]),
                    dialled: side == 0,
                    source: None,
                    profile,
                },
            };
            self.input(ends[side], up);
        }
    }

    fn end(&mut self, number: u32) {
        let Some(contact) = self.contacts.remove(number) else {
            return;
        };
        let mut broken = false;
        // What came before the link broke is handed over while both still know the contact.
        for (side, direction) in contact.directions.iter().enumerate() {
            broken |= self.break_off(number, &contact, side, direction);
        }
        self.outcome.broken += u64::from(broken);
        for end in contact.ends {
            self.went_down(end, ContactNo(number));
        }
        // Last, as those that wait for the medium send at once.
        self.stop_sending(&contact);
    }

    fn publish(&mut self, content: u32, sequence: u64) {
        let spec = self.setup.universe.specs[content as usize];
        let run = if spec.is_finished() {
            Run::new(0, spec.segments)
        } else {
            Run::new(sequence, sequence + 1)
        };
        let node = spec.publisher;
        let bytes = run.count() * spec.length;
        let is_full = spec.to.is_some() && !self.make_room(node, (content, run.start), bytes);
        if is_full {
            return;
        }
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
        // Links break before the process ends: what came until then is kept.
        for number in self.contacts.of(node) {
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
        let torn = Input::Dropped {
            content: place.content,
            track: place.track,
            run,
            torn: true,
        };
        self.input(node, torn);
    }

    pub(super) fn input(&mut self, node: u32, input: Input) {
        let now = self.now;
        let it = &mut self.nodes[node as usize];
        if it.up {
            it.handle(now, input);
            self.drain(node);
        }
    }

    /// Does what the core of a node wants done.
    fn drain(&mut self, node: u32) {
        self.work_off(node);
        for content in std::mem::take(&mut self.nodes[node as usize].new) {
            self.holders[content as usize].insert(node);
        }
    }

    fn work_off(&mut self, node: u32) {
        if !self.nodes[node as usize].up {
            return;
        }
        while let Some(output) = self.nodes[node as usize].core.poll() {
            self.output(node, output);
        }
        let it = &mut self.nodes[node as usize];
        let deadline = it.core.deadline();
        if deadline == Time::MAX {
            return;
        }
        // The core reckons by the clock of its node, the queue by that of the world.
        let at = Time(deadline.0.saturating_add_signed(-it.clock)).max(self.now);
        // A later one is set when the earlier one has come.
        if at < it.timer {
            it.timer = at;
            self.at(at, Event::Timer(node));
        }
    }

    fn output(&mut self, node: u32, output: Output) {
        match output {
            Output::Send { contact, message } => self.send(contact, node, message),
            Output::Close { contact, why, .. } => {
                *self.outcome.closed.entry(why).or_default() += 1;
                self.hang_up(contact.0, node);
            }
            Output::Serve(serving) => self.serve(node, serving),
            Output::Ask {
                contact,
                request,
                place,
                message,
                ..
            } => {
                if self.fails() {
                    let forever = false;
                    return self.handle(node, Input::Refused { place, forever });
                }
                // Expected before it is asked for: without a delay the answer comes at once.
                self.nodes[node as usize].expect(contact, request);
                self.send(contact, node, message);
            }
            Output::Unask { contact, request } => {
                self.nodes[node as usize].forget_answer(contact, request);
            }
            Output::Recall {
                content: no,
                track,
                run,
            } => {
                let Some(content) = self.content(node, no) else {
                    return;
                };
                let known = self.nodes[node as usize].recall(&self.setup.universe, content, run);
                let learned = Input::Learned {
                    from: None,
                    content: no,
                    track,
                    run,
                    known,
                };
                self.handle(node, learned);
            }
            Output::Adopt { place, .. } => self.adopt(node, place),
            Output::Copies {
                content: no,
                copies,
                ..
            } => {
                if let Some(content) = self.content(node, no) {
                    let universe = &self.setup.universe;
                    self.nodes[node as usize].copies(universe, content, &copies);
                }
            }
            // Records and payloads are looked up in the universe, and nobody floods: nothing is to
            // be done.
            Output::Ready { .. }
            | Output::Slow { .. }
            | Output::Forget { .. }
            | Output::Doubt { .. }
            | Output::Forgotten { .. } => {}
            other => self.about_contents(node, other),
        }
    }

    fn serve(&mut self, node: u32, serving: Serving) {
        let it = &mut self.nodes[node as usize];
        let Some(content) = it.content(&self.setup.universe, serving.place.content) else {
            return;
        };
        // Only liars draw a chance, so others send the same whatever liars do.
        let bad = it.lies && self.random.below(1000) < self.setup.faults.lies;
        let data = Data {
            request: serving.request,
            content,
            sequence: serving.place.sequence,
            groups: serving.groups,
            bad,
        };
        self.link(serving.contact, node, Parcel::Data(data));
    }

    /// Hands something to a node's core while its outputs are being worked through.
    pub(super) fn handle(&mut self, node: u32, input: Input) {
        self.nodes[node as usize].handle(self.now, input);
    }

    pub(super) fn content(&mut self, node: u32, no: ContentNo) -> Option<u32> {
        self.nodes[node as usize].content(&self.setup.universe, no)
    }

    /// The side that ends a contact goes at once, the other one when it notices.
    fn hang_up(&mut self, number: u32, by: u32) {
        // The core that ended it is told nothing: it has forgotten the contact already.
        if let Some(contact) = self.contacts.remove(number) {
            let other = contact.ends.into_iter().find(|end| *end != by);
            if let Some(other) = other {
                self.went_down(other, ContactNo(number));
            }
            self.stop_sending(&contact);
        }
    }

    fn went_down(&mut self, node: u32, contact: ContactNo) {
        self.nodes[node as usize].expect_nothing(contact);
        self.input(node, Input::Down { contact });
    }

    /// Whether the store cannot take something now.
    pub(super) fn fails(&mut self) -> bool {
        let failures = self.setup.faults.failures;
        // Where nothing fails no chance is drawn.
        failures > 0 && self.random.below(1000) < failures
    }

    pub(super) fn say(&mut self, contact: ContactNo, node: u32, message: RelayMessage) {
        self.send(contact, node, Box::new(message.into()));
    }

    fn send(&mut self, contact: ContactNo, node: u32, message: Box<Message>) {
        self.outcome.messages += 1;
        self.link(contact, node, Parcel::Message(message));
    }
}
