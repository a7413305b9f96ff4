//! The task that drives the relay: links, store and clock go in, what the relay wants done comes
//! out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::ids::PublisherKey;
use lavant_proto::relay::message::Message;
use lavant_proto::relay::{ContactNo, Input, Output, Place, Relay};
use lavant_proto::runs::Run;
use lavant_proto::time::Time;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::contact::{self, Expectations, Outbox};
use super::holdings::{Holdings, rendition};
use super::learn::{Assemblies, Sheets};
use super::peers::{Dial, Peers};
use super::segments::is_final;
use super::{Ask, Settings};
use crate::link::{Discovery, Link, Links, Sighting};
use crate::store::{Change, Partial, Store, StoreError};

/// Most events that are worked through before time and links are looked at again.
const EVENTS_AT_ONCE: usize = 256;
/// How long a node that found another one leaves dialling to the smaller key.
const LEAVE_TO_OTHER: Duration = Duration::from_secs(2);
/// How often copies elsewhere are written to the store.
const COPIES_EVERY: Duration = Duration::from_secs(2);
/// Most bytes of messages that wait for a contact to read them: what is said of 40,000 contents.
const WAITING_MAX: usize = 16 << 20;
/// How long contacts may take for their good-byes.
const GOODBYE: Duration = Duration::from_secs(2);

/// Something that a task of the relay reports.
pub(super) enum Event {
    Message(ContactNo, Message),
    Arrived(ContactNo, u32, Run),
    Damaged(ContactNo, u32),
    Unwritten(ContactNo, u32),
    Lied(ContactNo, String),
    Sent(ContactNo, u64),
    Down(ContactNo, String),
    Dialled(u32, Result<Box<dyn Link>, String>),
    Adopted(Place, Result<bool, StoreError>),
    Admitted(u32, Result<u64, StoreError>),
}

/// A contact that is up.
pub(super) struct Live {
    node: PublisherKey,
    pub(super) outbox: Outbox,
    pub(super) expected: Expectations,
    sending: JoinHandle<()>,
}

/// A segment whose record was verified and that is not stored yet.
pub(super) struct Pending {
    pub(super) record: Verified<SegmentRecord>,
    pub(super) proof: Proof,
    pub(super) partial: Option<Arc<Partial>>,
}

pub(super) struct Driver {
    pub(super) store: Store,
    pub(super) relay: Relay,
    pub(super) holdings: Holdings,
    pub(super) assemblies: Assemblies,
    pub(super) sheets: Sheets,
    pub(super) pending: BTreeMap<Place, Pending>,
    pub(super) peers: Peers,
    links: Arc<Links>,
    pub(super) contacts: BTreeMap<ContactNo, Live>,
    /// Which segment a request of ours is for.
    pub(super) requests: BTreeMap<(ContactNo, u32), Place>,
    next_contact: u32,
    pub(super) events: Sender<Event>,
    copies: BTreeMap<(u32, u16), Vec<(Run, u16)>>,
    copies_at: Instant,
    started: (Instant, Time),
}

impl Driver {
    pub(super) fn new(
        store: Store,
        links: Arc<Links>,
        settings: Settings,
        events: Sender<Event>,
        seed: u64,
    ) -> Self {
        let now = store.settings().clock.now();
        let mut peers = Peers::new(seed);
        for target in &settings.peers {
            peers.name(target.clone(), now);
        }
        Self {
            relay: Relay::new(settings.relay, now),
            holdings: Holdings::default(),
            assemblies: Assemblies::default(),
            sheets: Sheets::default(),
            pending: BTreeMap::new(),
            peers,
            links,
            contacts: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_contact: 0,
            events,
            copies: BTreeMap::new(),
            copies_at: Instant::now(),
            started: (Instant::now(), now),
            store,
        }
    }

    /// The time that the relay sees: it never goes back, whatever is done to the clock.
    pub(super) fn now(&self) -> Time {
        self.started.1.after(self.started.0.elapsed())
    }

    /// When something is due that nothing else tells of.
    fn deadline(&self) -> Instant {
        let due = self
            .relay
            .deadline()
            .min(self.peers.next().unwrap_or(Time::MAX));
        let wait = due.since(self.now()).min(Duration::from_secs(3600));
        let copies = if self.copies.is_empty() {
            Duration::MAX
        } else {
            COPIES_EVERY.saturating_sub(self.copies_at.elapsed())
        };
        Instant::now() + wait.min(copies)
    }

    /// Runs until nobody can ask anything any more, or until asked to stop.
    pub(super) async fn run(
        mut self,
        mut events: Receiver<Event>,
        mut asks: Receiver<Ask>,
        mut changes: UnboundedReceiver<Vec<Change>>,
        mut discovery: Option<Discovery>,
    ) {
        let now = self.now();
        self.holdings.begin(&self.store, &mut self.relay, now);
        let links = Arc::clone(&self.links);
        loop {
            self.dial_due();
            self.do_outputs();
            let deadline = self.deadline();
            tokio::select! {
                event = events.recv() => {
                    let mut next = event;
                    for _ in 0..EVENTS_AT_ONCE {
                        let Some(event) = next else { break };
                        self.event(event);
                        next = events.try_recv().ok();
                    }
                    if let Some(event) = next {
                        self.event(event);
                    }
                }
                Some(batch) = changes.recv() => self.changed(batch),
                Some(link) = links.accept() => self.up(None, link),
                ask = asks.recv() => match ask {
                    None | Some(Ask::Stop) => break,
                    Some(ask) => self.ask(ask),
                },
                sighting = next_sighting(&mut discovery) => match sighting {
                    Some(sighting) => self.sighted(sighting),
                    None => discovery = None,
                },
                () = tokio::time::sleep_until(deadline) => {
                    let now = self.now();
                    self.relay.handle(now, Input::Tick);
                    self.write_copies();
                }
            }
        }
        self.stop().await;
    }

    /// Says good-bye to everybody.
    async fn stop(self) {
        let mut ends = Vec::new();
        for live in self.contacts.into_values() {
            live.outbox.close(contact::STOPS.into());
            ends.push(live.sending);
        }
        let all = async {
            for end in ends {
                let _ = end.await;
            }
            self.links.close().await;
        };
        if tokio::time::timeout(GOODBYE, all).await.is_err() {
            tracing::warn!("some contacts did not take the good-bye in time");
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.relay.handle(now, input);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Message(no, message) => {
                if let Message::Gone(request) = &message {
                    self.forget_request(no, *request);
                }
                let unread = |live: &Live| live.outbox.waiting() > WAITING_MAX;
                if self.contacts.get(&no).is_some_and(unread) {
                    self.close(no, "it does not read what it asked for".into());
                    self.input(Input::Down(no));
                } else {
                    self.input(Input::Message(no, message));
                }
            }
            Event::Arrived(no, request, groups) => {
                self.input(Input::Arrived(no, request, groups));
            }
            Event::Damaged(no, request) => {
                self.forget_request(no, request);
                self.input(Input::Damaged(no, request));
            }
            Event::Unwritten(no, request) => {
                if let Some(place) = self.forget_request(no, request) {
                    self.pending.remove(&place);
                    self.input(Input::Failed(place));
                }
            }
            Event::Lied(no, why) => self.lied(no, why),
            Event::Sent(no, bytes) => self.input(Input::Sent(no, bytes)),
            Event::Down(no, why) => self.down(no, why),
            Event::Dialled(peer, Ok(link)) => self.up(Some(peer), link),
            Event::Dialled(peer, Err(why)) => {
                tracing::debug!(peer, why, "a dial failed");
                let now = self.now();
                self.peers.failed(peer, why, now);
            }
            Event::Adopted(place, outcome) => self.adopted(place, outcome),
            Event::Admitted(no, Err(error)) => {
                tracing::warn!(%error, "a finished content cannot be taken");
                self.input(if is_final(&error) {
                    Input::RefusedContent(no)
                } else {
                    Input::FailedContent(no)
                });
            }
            // The store's feed tells of it.
            Event::Admitted(_, Ok(_)) => {}
        }
        self.do_outputs();
    }

    pub(super) fn lied(&mut self, no: ContactNo, why: String) {
        if let Some(live) = self.contacts.get(&no) {
            tracing::warn!(node = %live.node, why, "a peer is left alone");
        }
        self.input(Input::Lied(no, why));
    }

    fn forget_request(&mut self, no: ContactNo, request: u32) -> Option<Place> {
        if let Some(live) = self.contacts.get(&no) {
            live.expected.remove(request);
        }
        self.requests.remove(&(no, request))
    }

    fn changed(&mut self, batch: Vec<Change>) {
        let now = self.now();
        for change in &batch {
            if let Change::Admitted { content_no } | Change::Removed { content_no, .. } = change {
                self.sheets.forget(*content_no);
                if let Some(no) = self.holdings.relayed(*content_no) {
                    self.assemblies.forget(no);
                    let gone = matches!(change, Change::Removed { .. });
                    self.pending.retain(|place, _| !gone || place.no != no);
                }
            }
        }
        self.holdings
            .changes(&self.store, &mut self.relay, batch, now);
    }

    fn sighted(&mut self, sighting: Sighting) {
        let now = self.now();
        match sighting {
            Sighting::Found { key, addresses } => {
                // Both find each other; the smaller key dials first.
                let soon = if self.links.key() < key {
                    now
                } else {
                    now.after(LEAVE_TO_OTHER)
                };
                self.peers.found(key, addresses, soon);
            }
            Sighting::Lost { key } => self.peers.lost(&key),
        }
    }

    fn dial_due(&mut self) {
        while let Some((peer, dial)) = self.peers.due(self.now()) {
            let links = Arc::clone(&self.links);
            let events = self.events.clone();
            tokio::spawn(async move {
                let dialled = match &dial {
                    Dial::Target(target) => links.dial(target).await,
                    Dial::Key(key, addresses) => links.dial_key(*key, addresses).await,
                };
                let dialled = dialled.map_err(|error| error.to_string());
                let _ = events.send(Event::Dialled(peer, dialled)).await;
            });
        }
    }

    fn up(&mut self, peer: Option<u32>, link: Box<dyn Link>) {
        let no = ContactNo(self.next_contact);
        self.next_contact = self.next_contact.wrapping_add(1);
        let (node, kind, remote) = (link.peer(), link.kind(), link.remote());
        tracing::info!(%node, %kind, %remote, dialled = peer.is_some(), "a link is up");
        let (sender, receiver) = link.split();
        let (outbox, queue) = Outbox::new();
        let expected = Expectations::default();
        let events = self.events.clone();
        let sending = contact::send(no, sender, queue, events.clone(), self.store.clone());
        let live = Live {
            node,
            outbox,
            expected: expected.clone(),
            sending: tokio::spawn(sending),
        };
        tokio::spawn(contact::receive(no, receiver, expected, events));
        self.contacts.insert(no, live);
        let now = self.now();
        self.peers.up(peer, node, no, (kind, remote), now);
        self.input(Input::Up {
            contact: no,
            node,
            dialled: peer.is_some(),
        });
    }

    fn down(&mut self, no: ContactNo, why: String) {
        if let Some(live) = self.contacts.remove(&no) {
            tracing::info!(node = %live.node, why, "a link is down");
            self.requests.retain(|(other, _), _| *other != no);
            self.count();
            let now = self.now();
            live.outbox.close(why.clone());
            self.peers.down(no, why, now);
            self.input(Input::Down(no));
        }
    }

    /// Ends a contact for a reason of the relay's.
    fn close(&mut self, no: ContactNo, why: String) {
        let Some(live) = self.contacts.remove(&no) else {
            return;
        };
        tracing::info!(node = %live.node, why, "a link is closed");
        self.requests.retain(|(other, _), _| *other != no);
        let now = self.now();
        if let Some(left) = self.relay.left(&live.node) {
            let until = left.until;
            self.peers.leave(no, until);
        }
        self.peers.down(no, why.clone(), now);
        live.outbox.close(why);
    }

    /// Brings the counts of peers up to date.
    fn count(&mut self) {
        for info in self.relay.contacts() {
            self.peers.count(&info);
        }
    }

    fn ask(&mut self, ask: Ask) {
        let now = self.now();
        match ask {
            Ask::Peers(answer) => {
                self.count();
                let _ = answer.send(self.peers.all.clone());
            }
            Ask::Name(target, answer) => {
                let added = self.peers.name(target, now);
                let _ = answer.send(added);
            }
            Ask::Forget(target, answer) => {
                let known = self.peers.forget(&target);
                let _ = answer.send(known.is_some());
                for contact in known.into_iter().flatten() {
                    self.close(contact, "the operator removed this peer".into());
                    self.input(Input::Down(contact));
                }
            }
            Ask::Watched(content_no, sequence) => {
                if let Some(no) = self.holdings.relayed(content_no) {
                    self.input(Input::Watched(no, sequence));
                }
            }
            Ask::Stop => {}
        }
    }

    pub(super) fn do_outputs(&mut self) {
        while let Some(output) = self.relay.poll() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send(no, message) => self.send(no, &message),
            Output::Close(no, why) => self.close(no, why),
            Output::Serve {
                contact,
                request,
                place,
                asked,
                groups,
                last,
            } => self.serve(contact, place, (request, asked, groups, last)),
            Output::Expect {
                contact,
                request,
                place,
                groups,
            } => self.expect(contact, request, place, groups),
            Output::SendManifest(no, at) => self.send_manifest(no, at),
            Output::SendRows(no, at, run) => self.send_rows(no, at, run),
            Output::SendRecords(no, at, track, run) => self.send_records(no, at, track, run),
            Output::LearnManifest(no, at, manifest, signature) => {
                self.learn_manifest(no, at, &manifest, signature);
            }
            Output::LearnRows(no, at, from, rows, proof) => {
                self.learn_rows(no, at, from, rows, &proof);
            }
            Output::LearnRecords(no, at, track, run, records) => {
                self.learn_records(no, at, track, run, records);
            }
            Output::Recall(at, track, run) => self.recall(at, track, run),
            Output::Adopt(place, start) => self.adopt(place, start),
            Output::Doubt(place) => self.doubt(place),
            Output::Forgotten(no) => {
                self.assemblies.forget(no);
                self.pending.retain(|place, _| place.no != no);
            }
            Output::Copies(no, track, copies) => {
                self.copies.insert((no, track), copies);
            }
        }
    }

    pub(super) fn send(&self, no: ContactNo, message: &Message) {
        if let Some(live) = self.contacts.get(&no) {
            live.outbox.control(message);
        }
    }

    pub(super) fn outbox(&self, no: ContactNo) -> Option<Outbox> {
        self.contacts.get(&no).map(|live| live.outbox.clone())
    }

    fn write_copies(&mut self) {
        if self.copies.is_empty() || self.copies_at.elapsed() < COPIES_EVERY {
            return;
        }
        self.copies_at = Instant::now();
        let mut known = Vec::new();
        for ((no, track), copies) in std::mem::take(&mut self.copies) {
            let Some(content) = self.holdings.stored(&self.store, no) else {
                continue;
            };
            if let Some(within) = rendition(&self.relay, &content, no, track) {
                let copies = copies.into_iter();
                let copies = copies.map(|(run, count)| (run.start..run.end, count));
                known.push((content.no, within, copies.collect()));
            }
        }
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            for (content_no, within, copies) in known {
                if let Err(error) = store.set_copies(content_no, within, copies) {
                    tracing::debug!(%error, "copies elsewhere are not noted");
                }
            }
        });
    }
}

async fn next_sighting(discovery: &mut Option<Discovery>) -> Option<Sighting> {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}
