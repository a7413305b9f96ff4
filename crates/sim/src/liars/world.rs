//! A small world in virtual time: honest nodes, one liar, and the links between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use lavant_proto::contact::Arrival;
use lavant_proto::contact::budget::{Claims, SourceAddr};
use lavant_proto::contact::patience::Profile;
use lavant_proto::delivery::{Delivery, Input};
use lavant_proto::ids::{PublisherKey, SigningKey};
use lavant_proto::message::Message;
use lavant_proto::numbers::ContactNo;
use lavant_proto::runs::Run;
use lavant_proto::time::Time;

use super::film::{BEGUN, Film, Frame};
use super::liar::{Said, Script, TICKS};
use super::node::{Effect, Node};
use super::plan::Plan;
use super::store::Store;

/// Bytes that came and were not read, before a link takes no more.
const UNREAD_MAX: u64 = 256 << 10;
/// Bytes that wait on the liar's side, before it says no more.
const UNSENT_MAX: u64 = 256 << 10;
/// After how long a liar comes back that was left.
const BACK: Duration = Duration::from_secs(5);
/// How long a liar is busy.
const BUSY: Duration = Duration::from_secs(15);
/// How long is waited after everything has arrived, and for it to arrive.
const AFTER: Duration = Duration::from_secs(20);
const GIVEN_UP: Duration = Duration::from_secs(900);
/// Claims of honest nodes are this small here, and their contents this few.
const HONEST_BYTES: usize = 1 << 16;
const HONEST_CONTENTS: usize = 8;

#[derive(Debug)]
enum Event {
    Up(u32),
    Down(u32, usize),
    Timer(usize),
    /// A direction of a link has taken a frame.
    Taken(u32, usize, Frame),
    Arrive(u32, usize, Frame),
    /// A side reads again.
    Resume(u32, usize),
    /// A question was read.
    Read(usize, ContactNo),
    Publish,
    Tick,
}

/// What one side sends, and what of it the other one has not read.
#[derive(Debug, Default)]
struct Direction {
    control: VecDeque<Frame>,
    data: VecDeque<Frame>,
    waiting: u64,
    busy: bool,
    unread: VecDeque<Frame>,
    unread_bytes: u64,
    paused: Time,
}

#[derive(Debug)]
struct Link {
    /// The nodes; the first one dialled.
    ends: [usize; 2],
    up: bool,
    directions: [Direction; 2],
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the film was whole at each reader.
    pub(super) arrived: BTreeMap<usize, Time>,
    /// Why honest nodes ended contacts with the liar, and how often.
    pub(super) left: BTreeMap<String, u32>,
    /// Most bytes that claims took at one node.
    pub(super) claimed: usize,
    /// Most contents that one node knew.
    pub(super) contents: usize,
    /// How often stores failed.
    pub(super) failed: u32,
    /// Hash of everything that crossed a link.
    pub(super) trace: String,
}

/// A running world. The liar is the last node, when there is one.
pub(super) struct World {
    plan: Plan,
    film: Rc<Film>,
    nodes: Vec<Node>,
    timers: Vec<Time>,
    script: Option<Script>,
    links: Vec<Link>,
    /// What is due at one time happens in the order in which it was planned.
    queue: BTreeMap<(Time, u64), Event>,
    order: u64,
    now: Time,
    seen: Seen,
    broken: Option<String>,
    hasher: blake3::Hasher,
}

/// The key of an honest node; the first one publishes.
pub(super) fn key(node: usize) -> SigningKey {
    SigningKey::from_seed(&[1 + node as u8; 32])
}

impl World {
    pub(super) fn new(plan: Plan, film: Rc<Film>, script: Option<Script>) -> Self {
        let nodes = (0..plan.honest).map(|node| {
            let key = key(node);
            let random = plan.random_of(node);
            let store = Store::new(key.publisher(), plan.limit, plan.failures, random);
            Node::new(&key, store, BEGUN)
        });
        let mut world = Self {
            nodes: nodes.collect(),
            timers: vec![Time::MAX; plan.honest],
            film,
            script,
            links: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            now: BEGUN,
            seen: Seen::default(),
            broken: None,
            hasher: blake3::Hasher::new(),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.at(BEGUN.after(self.plan.published), Event::Publish);
        let liar = self.plan.honest;
        for (a, b, after) in self.plan.links.clone() {
            if self.script.is_some() || (a != liar && b != liar) {
                self.connect([a, b], BEGUN.after(after));
            }
        }
        if self.script.is_some() {
            self.at(BEGUN, Event::Tick);
        }
    }

    fn connect(&mut self, ends: [usize; 2], at: Time) {
        let directions = [Direction::default(), Direction::default()];
        let up = false;
        self.links.push(Link {
            ends,
            up,
            directions,
        });
        self.at(at, Event::Up(self.links.len() as u32 - 1));
    }

    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), event);
    }

    /// Lets everything happen. An error is a rule that was broken.
    pub(super) fn run(mut self) -> Result<Seen, String> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            let last = self.seen.arrived.values().max().copied();
            let all = self.seen.arrived.len() + 1 == self.nodes.len();
            // The world goes on for a while: whoever is slowed down or left is seen afterwards,
            // too.
            if all && at > last.unwrap_or(BEGUN).after(AFTER) {
                break;
            }
            if at > BEGUN.after(GIVEN_UP) {
                return Err(format!(
                    "the film is at {:?} alone",
                    self.seen.arrived.keys()
                ));
            }
            self.now = at;
            self.happen(event);
            if let Some(broken) = self.broken.take() {
                return Err(broken);
            }
        }
        for node in &self.nodes {
            node.store.check(self.now)?;
            self.seen.failed += node.store.failed;
        }
        self.seen.trace = self.hasher.finalize().to_hex().to_string();
        Ok(self.seen)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Up(link) => self.up(link),
            Event::Down(link, side) => {
                let node = self.links[link as usize].ends[side];
                self.down(link, node);
            }
            Event::Timer(node) => {
                // Another time may have been set since.
                if self.timers[node] <= self.now {
                    self.timers[node] = Time::MAX;
                    self.input(node, Input::Tick);
                }
            }
            Event::Taken(link, side, frame) => self.taken(link, side, frame),
            Event::Arrive(link, side, frame) => self.arrive(link, side, frame),
            Event::Resume(link, side) => self.resume(link, side),
            Event::Read(node, contact) => {
                self.nodes[node].was_read(self.now, contact);
                self.settle(node);
            }
            Event::Publish => {
                self.nodes[0].publish(self.now, &self.film);
                self.settle(0);
            }
            Event::Tick => self.tick(),
        }
    }

    fn up(&mut self, number: u32) {
        let link = &mut self.links[number as usize];
        link.up = true;
        let ends = link.ends;
        for side in 0..2 {
            let (node, other) = (ends[side], ends[1 - side]);
            if node == self.plan.honest {
                if let Some(script) = &mut self.script {
                    script.up(number, side == 0);
                }
                self.liar_speaks();
                continue;
            }
            let arrival = Arrival {
                node: self.public_key(other),
                dialled: side == 0,
                source: Some(SourceAddr::of(Ipv4Addr::new(10, 0, 0, other as u8).into())),
                profile: Profile::default(),
            };
            let contact = ContactNo(number);
            self.input(node, Input::Up { contact, arrival });
        }
    }

    fn public_key(&self, node: usize) -> PublisherKey {
        match &self.script {
            Some(script) if node == self.plan.honest => script.key.publisher(),
            _ => key(node).publisher(),
        }
    }

    /// A side notices that a link is gone.
    fn down(&mut self, link: u32, node: usize) {
        if node == self.plan.honest {
            if let Some(script) = &mut self.script {
                script.down(link);
            }
            // It dials again, from its side.
            // Under a new number, as a driver gives to each link.
            let ends = self.links[link as usize].ends;
            let other = ends[0] + ends[1] - node;
            self.connect([node, other], self.now.after(BACK));
            return;
        }
        let contact = ContactNo(link);
        self.nodes[node].forget_contact(contact);
        self.input(node, Input::Down { contact });
    }

    /// A side ends a link; the other one notices when that has crossed it.
    fn cut(&mut self, link: u32, by: usize) {
        let it = &mut self.links[link as usize];
        if !std::mem::take(&mut it.up) {
            return;
        }
        let side = usize::from(it.ends[0] == by);
        // What is on the way is lost with the link.
        it.directions = [Direction::default(), Direction::default()];
        let at = self.now.after(self.plan.delay);
        self.at(at, Event::Down(link, side));
    }

    fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].input(self.now, input);
        self.settle(node);
    }

    /// Does what a node wants done, and looks whether every rule holds.
    fn settle(&mut self, node: usize) {
        for effect in std::mem::take(&mut self.nodes[node].effects) {
            match effect {
                Effect::Send(contact, frame) => self.send(contact.0, node, frame),
                Effect::Close(contact, why) => self.closed(contact.0, node, why),
                Effect::Slow(contact, until) => {
                    self.nodes[node].library.slow(contact, until);
                    let link = &mut self.links[contact.0 as usize];
                    let side = usize::from(link.ends[1] == node);
                    let paused = &mut link.directions[1 - side].paused;
                    // A shorter pause does not end a longer one.
                    *paused = until.max(*paused);
                    let until = *paused;
                    self.at(until, Event::Resume(contact.0, side));
                }
                Effect::Read(contact, takes) => {
                    let at = self.now.after(takes);
                    self.at(at, Event::Read(node, contact));
                }
            }
        }
        let deadline = self.nodes[node].core.deadline();
        if deadline < self.timers[node] {
            self.timers[node] = deadline;
            self.at(deadline, Event::Timer(node));
        }
        self.look(node);
    }

    fn closed(&mut self, link: u32, by: usize, why: String) {
        let liar = self.plan.honest;
        // Nothing that a liar does may part honest nodes.
        if self.links[link as usize].ends.contains(&liar) {
            *self.seen.left.entry(why).or_default() += 1;
        } else {
            self.break_rule(format!("node {by} ended an honest contact: {why}"));
        }
        self.cut(link, by);
    }

    fn break_rule(&mut self, what: String) {
        let at = self.now.since(BEGUN).as_secs_f64();
        self.broken
            // The first rule that breaks is the cause of others.
            .get_or_insert(format!("after {at:.3} s: {what}"));
    }

    /// Whether a node keeps within its limits.
    fn look(&mut self, node: usize) {
        let it = &self.nodes[node];
        let (claimed, contents) = (it.core.claimed(), it.core.contents());
        self.seen.claimed = self.seen.claimed.max(claimed);
        self.seen.contents = self.seen.contents.max(contents);
        if claimed > Claims::BYTES_MAX + HONEST_BYTES {
            self.break_rule(format!("claims take {claimed} bytes at node {node}"));
        }
        // The film's publisher trusts its own key, whose names the liar invents.
        let most = match node {
            0 => Claims::UNPROVEN_WITH_TRUSTED_MAX,
            _ => Claims::UNPROVEN_MAX,
        };
        if contents > most + HONEST_CONTENTS {
            self.break_rule(format!("node {node} knows {contents} contents"));
        }
        let it = &self.nodes[node];
        // A publisher has its own film, whatever the limit is.
        if it.store.used > self.plan.limit.max(self.film.bytes()) {
            let used = it.store.used;
            self.break_rule(format!("the store of node {node} has {used} bytes"));
        }
        // Each payload may be looked at again once in ten minutes.
        if self.nodes[node].hashed > 2 * self.film.bytes() {
            self.break_rule(format!("node {node} hashes the same again and again"));
        }
        let name = |it: lavant_proto::delivery::ContactInfo| it.name;
        if self.nodes[node]
            .core
            .contacts()
            .map(name)
            .any(|it| it.contains(char::is_control))
        {
            self.break_rule("a name moves a terminal's cursor".into());
        }
        self.look_for_film(node);
    }

    fn look_for_film(&mut self, node: usize) {
        if node == 0 || self.seen.arrived.contains_key(&node) {
            return;
        }
        let store = &self.nodes[node].store;
        let here = store.contents.get(&self.film.key).map(|it| it.here.len());
        if here != Some(self.film.records.len()) {
            return;
        }
        // Byte by byte, beside all that the core and the store have checked.
        for (record, blob) in self.film.records.iter().zip(&self.film.blobs) {
            let stored = store.blob(&record.root, record.length);
            if stored.is_none_or(|stored| stored.payload != blob.payload) {
                return self.break_rule(format!("the film of node {node} is another one"));
            }
        }
        self.seen.arrived.insert(node, self.now);
    }

    fn send(&mut self, link: u32, node: usize, frame: Frame) {
        let it = &mut self.links[link as usize];
        if !it.up {
            return;
        }
        let side = usize::from(it.ends[1] == node);
        let direction = &mut it.directions[side];
        direction.waiting += frame.bytes();
        match frame {
            Frame::Control(_) => direction.control.push_back(frame),
            Frame::Data { .. } => direction.data.push_back(frame),
        }
        self.transmit(link, side);
    }

    /// Puts the next frame onto a link that has nothing to do and whose other side reads.
    fn transmit(&mut self, link: u32, side: usize) {
        let direction = &mut self.links[link as usize].directions[side];
        // Like the windows of a transport: who is read slowly waits on its own side.
        if direction.busy || direction.unread_bytes > UNREAD_MAX {
            return;
        }
        let control = direction.control.pop_front();
        let Some(frame) = control.or_else(|| direction.data.pop_front()) else {
            return;
        };
        direction.busy = true;
        direction.waiting -= frame.bytes();
        let takes = Duration::from_micros(frame.bytes() * 1_000_000 / self.plan.rate);
        self.at(self.now.after(takes), Event::Taken(link, side, frame));
    }

    fn taken(&mut self, link: u32, side: usize, frame: Frame) {
        let it = &mut self.links[link as usize];
        if !it.up {
            return;
        }
        it.directions[side].busy = false;
        let node = it.ends[side];
        // A frame has one chunk group, and the core counts by those.
        if matches!(frame, Frame::Data { .. }) && node != self.plan.honest {
            let contact = ContactNo(link);
            let bytes = Delivery::serving_bytes(&Run::new(0, 1));
            self.input(node, Input::Sent { contact, bytes });
        }
        let at = self.now.after(self.plan.delay);
        self.at(at, Event::Arrive(link, side, frame));
        self.transmit(link, side);
    }

    fn arrive(&mut self, link: u32, side: usize, frame: Frame) {
        let it = &mut self.links[link as usize];
        if !it.up {
            return;
        }
        let direction = &mut it.directions[side];
        // What came before is read first, also once the pause is over.
        if self.now < direction.paused || !direction.unread.is_empty() {
            direction.unread_bytes += frame.bytes();
            direction.unread.push_back(frame);
            return;
        }
        self.deliver(link, side, frame);
    }

    /// The side that was slowed down reads what came meanwhile.
    fn resume(&mut self, link: u32, side: usize) {
        loop {
            let it = &mut self.links[link as usize];
            let direction = &mut it.directions[1 - side];
            // What is read may slow it down again.
            if !it.up || self.now < direction.paused {
                break;
            }
            let Some(frame) = direction.unread.pop_front() else {
                break;
            };
            direction.unread_bytes -= frame.bytes();
            self.deliver(link, 1 - side, frame);
        }
        let node = self.links[link as usize].ends[side];
        if node != self.plan.honest {
            self.nodes[node].resume(self.now);
            self.settle(node);
        }
        self.transmit(link, 1 - side);
    }

    fn deliver(&mut self, link: u32, side: usize, frame: Frame) {
        let ends = self.links[link as usize].ends;
        let (to, contact) = (ends[1 - side], ContactNo(link));
        // All that crosses a link counts: a run that repeats itself does so to the byte.
        self.hasher
            .update(&self.now.0.to_le_bytes())
            .update(&[to as u8]);
        match frame {
            Frame::Control(bytes) => {
                self.hasher.update(&bytes);
                let message = Message::decode(&bytes);
                if to == self.plan.honest {
                    if let (Ok(message), Some(script)) = (message, &mut self.script) {
                        script.hear(link, side == 1, message);
                    }
                    return self.liar_speaks();
                }
                // As a node does: what cannot be decoded is a lie.
                let input = match message {
                    Ok(message) => Input::Message {
                        contact,
                        message: Box::new(message),
                    },
                    Err(error) => Input::Lied {
                        contact,
                        why: format!("it sent what is no message: {error}"),
                    },
                };
                self.input(to, input);
            }
            Frame::Data { request, bytes } => {
                if to != self.plan.honest {
                    self.nodes[to].data(self.now, contact, request, &bytes);
                    self.settle(to);
                }
            }
        }
    }

    fn liar_speaks(&mut self) {
        let said = self.script.as_mut().map(Script::take_said);
        for (link, said) in said.unwrap_or_default() {
            match said {
                Said::Frame(frame) => self.send(link, self.plan.honest, frame),
                Said::Close => {
                    self.cut(link, self.plan.honest);
                    self.down(link, self.plan.honest);
                }
            }
        }
    }

    fn tick(&mut self) {
        let liar = self.plan.honest;
        let mut ready = BTreeSet::new();
        for (number, link) in self.links.iter().enumerate() {
            let side = usize::from(link.ends[1] == liar);
            // It says no more than its links take, or its side would take all memory.
            let takes_more = link.directions[side].waiting < UNSENT_MAX;
            if link.up && link.ends[side] == liar && takes_more {
                ready.insert(number as u32);
            }
        }
        for link in ready {
            if let Some(script) = &mut self.script {
                script.tick(link);
            }
            self.liar_speaks();
        }
        let busy = self.plan.busy && self.now.since(BEGUN) < BUSY;
        if busy {
            let at = self.now.after(Duration::from_secs(1) / TICKS as u32);
            self.at(at, Event::Tick);
        }
    }
}
