//! The task that drives the core: links, store and clock go in, what the core wants done comes out.
//!
//! Nothing here blocks: the task holds an [`AsyncStore`] only, and what reads, hashes or waits for
//! the store runs elsewhere and comes back as an [`Event`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lavant_proto::delivery::{Delivery, Input, Output};
use lavant_proto::ids::PublisherKey;
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, ContentNo, Place, RequestNo, TrackNo};
use lavant_proto::piece::message::PieceMessage;
use lavant_proto::relay::learn::Assemblies;
use lavant_proto::runs::SequenceRun;
use lavant_proto::time::Time;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::contact::Outbox;
use super::event::{Event, ReadingRoom};
use super::expected::Expectations;
use super::holdings::{Holdings, Told, rendition_no};
use super::library::{Library, Sheets};
use super::peers::Peers;
use super::pending::{Asking, Doubts, Pending, is_final};
use super::{Ask, Load, Parts};
use crate::link::{Discovery, LinkMeter, LinkProfile, Links, Sighting};
use crate::store::AsyncStore;

/// Most events that are worked through before time and links are looked at again.
/// Many, as the core works out what follows only once for all of them; not all, as a crowd of
/// contacts that never pause would keep dials and time-outs waiting.
const EVENTS_AT_ONCE: usize = 256;
/// How often copies elsewhere are written to the store.
const COPIES_EVERY: Duration = Duration::from_secs(2);
/// Most bytes of messages that wait for a contact to read them: what is said of 40,000 contents.
const WAITING_MAX: usize = 16 << 20;

/// A contact that is up.
pub(super) struct Live {
    pub(super) node: PublisherKey,
    pub(super) outbox: Outbox,
    pub(super) expected: Expectations,
    pub(super) sending: JoinHandle<()>,
    /// What the link has measured.
    pub(super) meter: LinkMeter,
    // The reading task sees only the latest: pauses do not queue up.
    pub(super) slow: watch::Sender<Option<Instant>>,
    /// Until when nothing is read of it.
    pub(super) slow_until: Option<Instant>,
}

pub(super) struct Driver {
    pub(super) store: AsyncStore,
    pub(super) core: Delivery,
    pub(super) holdings: Holdings,
    pub(super) assemblies: Assemblies,
    pub(super) sheets: Sheets,
    pub(super) library: Library,
    pub(super) room: ReadingRoom,
    pub(super) doubts: Doubts,
    pub(super) pending: BTreeMap<Place, Pending>,
    pub(super) peers: Peers,
    pub(super) links: Arc<Links>,
    pub(super) contacts: BTreeMap<ContactNo, Live>,
    /// Which segment a request of ours is for.
    pub(super) requests: BTreeMap<(ContactNo, RequestNo), Place>,
    pub(super) next_contact: u32,
    /// What is known of links beforehand.
    pub(super) profiles: Vec<LinkProfile>,
    pub(super) events: Sender<Event>,
    copies: BTreeMap<(ContentNo, TrackNo), Vec<(SequenceRun, u16)>>,
    copies_at: Instant,
    started: (Instant, Time),
    /// All that the store holds was told of: nobody is met before.
    begun: bool,
}

impl Driver {
    pub(super) fn new(parts: &Parts, events: Sender<Event>) -> Self {
        let store = parts.store.clone();
        let now = store.settings().clock.now();
        let mut peers = Peers::new(parts.seed);
        // Not those of the settings: the operator may have added and removed peers since the start.
        for target in &parts.named {
            peers.name(target.clone(), now);
        }
        Self {
            core: Delivery::new(parts.settings.relay.clone(), now),
            holdings: Holdings::default(),
            assemblies: Assemblies::default(),
            sheets: Sheets::default(),
            library: Library::default(),
            room: ReadingRoom::default(),
            doubts: Doubts::default(),
            pending: BTreeMap::new(),
            peers,
            links: Arc::clone(&parts.links),
            contacts: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_contact: 0,
            profiles: parts.settings.profiles.clone(),
            events,
            copies: BTreeMap::new(),
            copies_at: Instant::now(),
            started: (Instant::now(), now),
            begun: false,
            store,
        }
    }

    /// The time that the core sees: it never goes back, whatever is done to the clock.
    pub(super) fn now(&self) -> Time {
        self.started.1.after(self.started.0.elapsed())
    }

    /// When something is due that nothing else tells of.
    fn deadline(&self) -> Instant {
        let due = self
            .core
            .deadline()
            .min(self.peers.next().unwrap_or(Time::MAX));
        // An `Instant` cannot be as far ahead as `Time::MAX`, so the wait has an end.
        let wait = due.since(self.now()).min(Duration::from_secs(3600));
        let copies = if self.copies.is_empty() {
            Duration::MAX
        } else {
            COPIES_EVERY.saturating_sub(self.copies_at.elapsed())
        };
        let now = Instant::now();
        let until = now + wait.min(copies);
        // A question that waits for the end of a pause, which may be before all of these.
        let slow = |no: &ContactNo| self.contacts.get(no)?.slow_until;
        let question = self.library.next_of(now, slow);
        question.map_or(until, |question| until.min(question))
    }

    /// Runs until asked to stop, or until nobody can ask anything any more.
    pub(super) async fn run(mut self, mut events: Receiver<Event>, parts: &mut Parts) {
        let links = Arc::clone(&self.links);
        loop {
            // Whoever is met before the core knows what is here would be asked for all of it again.
            if self.begun {
                self.dial_due();
            }
            self.do_outputs();
            let deadline = self.deadline();
            tokio::select! {
                event = events.recv() => {
                    // The first one is waited for, the rest is taken as far as it is there. One
                    // that is left when the count is reached has left the channel already, so it is
                    // worked through, too.
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
                Some(link) = links.accept(), if self.begun => self.up(None, link),
                ask = parts.asks.recv() => match ask {
                    None | Some(Ask::Stop) => break,
                    Some(ask) => self.ask(ask, parts),
                },
                Ok(()) = parts.came.changed() => {
                    let now = self.now();
                    self.peers.network_came(now);
                }
                sighting = next_sighting(&mut parts.discovery) => match sighting {
                    Some(sighting) => self.sighted(sighting),
                    // A search that has ended would be ready at each turn, and this loop would
                    // never rest.
                    None => parts.discovery = None,
                },
                () = tokio::time::sleep_until(deadline) => {
                    self.input(Input::Tick);
                    // Contacts may have paid off their debt of work, and nothing else tells of
                    // that.
                    self.read_next();
                    self.write_copies();
                }
            }
        }
        self.stop().await;
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.core.handle(now, input);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Message(no, message, _held) => self.message(no, message),
            Event::Arrived(contact, request, groups) => self.input(Input::Arrived {
                contact,
                request,
                groups,
            }),
            Event::Pushed(contact, push) => self.input(Input::Pushed { contact, push }),
            Event::Damaged(contact, request) => {
                // Nothing more of this answer is used: what follows a wrong frame cannot be
                // verified.
                self.forget_request(contact, request);
                self.input(Input::Damaged { contact, request });
            }
            Event::Unwritten(no, request) => {
                // The disk is full or broken, so the contact is not blamed. The partial payload is
                // let go, and the store decides anew when the segment is asked for again.
                if let Some(place) = self.forget_request(no, request) {
                    self.pending.remove(&place);
                    let forever = false;
                    self.input(Input::Refused { place, forever });
                }
            }
            Event::Lied(no, why) => self.lied(no, why),
            Event::Sent(contact, bytes) => self.input(Input::Sent { contact, bytes }),
            Event::Down(no, why) => self.down(no, why),
            // The link is cut with what comes of the dial.
            Event::Dialled(peer, _) if self.peers.was_removed(peer) => {}
            Event::Dialled(peer, Ok(link)) => self.up(Some(peer), link),
            Event::Dialled(peer, Err(why)) => {
                tracing::debug!(peer, why, "a dial failed");
                let now = self.now();
                self.peers.failed(peer, why, now);
            }
            Event::Told(told) => self.told(told),
            Event::Noted(from, at, run, known) => self.noted(from, at, run, known),
            Event::Opened(place, partial) => self.opened(place, partial),
            Event::Adopted(place, outcome) => self.adopted(place, outcome),
            Event::Admitted(content, Err(error)) => {
                tracing::warn!(%error, "a finished content cannot be taken");
                let forever = is_final(&error);
                self.input(Input::RefusedContent { content, forever });
            }
            // The store's feed tells of it.
            Event::Admitted(_, Ok(_)) => {}
            Event::Read(contact, micros) => {
                self.input(Input::Spent { contact, micros });
                // What it has to wait for is known before its next question is read.
                self.do_outputs();
                self.was_read(contact);
            }
            Event::Doubted(root) => self.doubted(root),
            Event::Looked => self.looked(),
        }
    }

    fn message(&mut self, contact: ContactNo, message: Box<Message>) {
        // No data will come for it, so what was kept for its answer is free.
        if let Message::Piece(PieceMessage::Gone(request)) = &*message {
            self.forget_request(contact, *request);
        }
        // An outbox has no bound of its own, as the driver waits for no contact. It is looked at
        // here, where a contact asks for more.
        let unread = |live: &Live| live.outbox.waiting() > WAITING_MAX;
        if self.contacts.get(&contact).is_some_and(unread) {
            self.end(contact, "it does not read what it asked for".into());
        } else {
            self.input(Input::Message { contact, message });
        }
    }

    pub(super) fn lied(&mut self, contact: ContactNo, why: String) {
        // The core may have ended the contact already, and reports come from several tasks: one
        // line of the log is enough for a liar.
        if let Some(live) = self.contacts.get(&contact) {
            tracing::warn!(node = %live.node, why, "a peer is left alone");
        }
        self.input(Input::Lied { contact, why });
    }

    pub(super) fn forget_request(&mut self, no: ContactNo, request: RequestNo) -> Option<Place> {
        if let Some(live) = self.contacts.get(&no) {
            live.expected.remove(request);
        }
        self.requests.remove(&(no, request))
    }

    fn told(&mut self, told: Vec<Told>) {
        let now = self.now();
        for told in told {
            match &told {
                Told::Changed(content_no) => {
                    self.sheets.forget(*content_no);
                    if let Some(at) = self.holdings.relayed(*content_no) {
                        self.assemblies.forget(at);
                    }
                }
                Told::Removed(content_no) => {
                    // Before `tell`, which forgets the numbers by which it is found.
                    if let Some(at) = self.holdings.relayed(*content_no) {
                        self.pending.retain(|place, _| place.content != at);
                    }
                }
                Told::Begun => self.begun = true,
                _ => {}
            }
            self.holdings.tell(&mut self.core, told, now);
        }
    }

    fn ask(&mut self, ask: Ask, parts: &mut Parts) {
        let now = self.now();
        match ask {
            Ask::Load(answer) => {
                let _ = answer.send(Load {
                    contents: self.core.contents() as u64,
                    claimed: self.core.claimed() as u64,
                });
            }
            Ask::Peers(answer) => {
                self.count();
                let _ = answer.send(self.peers.all.clone());
            }
            Ask::Name(target, answer) => {
                let added = self.peers.name(target.clone(), now);
                if added {
                    // A driver that is started again has to know it, too.
                    parts.named.push(target);
                }
                let _ = answer.send(added);
            }
            Ask::Forget(target, answer) => {
                parts.named.retain(|named| *named != target);
                let known = self.peers.forget(&target);
                let _ = answer.send(known.is_some());
                // Two, where both sides dialled at once.
                for contact in known.into_iter().flatten() {
                    self.end(contact, "the operator removed this peer".into());
                }
            }
            Ask::Watched(content_no, sequence) => {
                // A content that was superseded is watched, too, and not relayed.
                if let Some(content) = self.holdings.relayed(content_no) {
                    self.input(Input::Watched { content, sequence });
                }
            }
            #[cfg(test)]
            Ask::Panic => panic!("a test wants it"),
            Ask::Stop => {}
        }
    }

    pub(super) fn do_outputs(&mut self) {
        while let Some(output) = self.core.poll() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { contact, message } => {
                if let Some(live) = self.contacts.get(&contact) {
                    live.outbox.control(&message);
                }
            }
            Output::Ready { contact } => {
                if let Some(live) = self.contacts.get(&contact) {
                    tracing::info!(node = %live.node, "a contact is up");
                    self.ready(contact);
                }
            }
            Output::Slow { contact, until } => self.slow_down(contact, until),
            Output::Close {
                contact,
                why,
                stats,
            } => {
                self.peers.counted(contact, stats);
                self.close(contact, why);
            }
            Output::Serve(serving) => self.serve(serving),
            Output::Ask {
                contact,
                request,
                place,
                groups,
                message,
            } => {
                let asking = Asking {
                    contact,
                    request,
                    groups,
                    message,
                };
                self.ask_for(place, asking);
            }
            Output::Unask { contact, request } => self.unask(contact, request),
            Output::Recall {
                content,
                track,
                run,
            } => self.recall(content, track, run),
            Output::Adopt { place, start } => self.adopt(place, start),
            // It holds an open file; what came of it stays in `partial/`.
            Output::Forget { place } => drop(self.pending.remove(&place)),
            Output::Doubt { place } => self.doubt(place),
            Output::Forgotten { content } => {
                self.assemblies.forget(content);
                self.pending.retain(|place, _| place.content != content);
            }
            Output::Copies {
                content,
                track,
                copies,
            } => {
                // Copies change with each segment that moves anywhere, and the store needs them
                // only when it is full: the last word of a while is written.
                self.copies.insert((content, track), copies);
            }
            other => self.about_contents(other),
        }
    }

    /// Questions about contents, and the answers to ours.
    fn about_contents(&mut self, output: Output) {
        match output {
            Output::Answer { contact, question } => self.query(contact, question),
            Output::LearnManifest {
                contact,
                content,
                manifest,
                signature,
            } => self.learn_manifest(contact, content, &manifest, signature),
            Output::LearnRows {
                contact,
                content,
                from,
                rows,
                proof,
            } => self.learn_rows(contact, content, from, (rows, &proof)),
            Output::LearnRecords {
                contact,
                content,
                track,
                run,
                records,
            } => self.learn_records(contact, (content, track), run, records),
            _ => {}
        }
    }

    fn write_copies(&mut self) {
        if self.copies.is_empty() || self.copies_at.elapsed() < COPIES_EVERY {
            return;
        }
        self.copies_at = Instant::now();
        let mut known = Vec::new();
        for ((at, track), copies) in std::mem::take(&mut self.copies) {
            // It may have gone since the core told of it.
            let Some(content) = self.holdings.stored(&self.store, at) else {
                continue;
            };
            let Some(name) = self.core.track_name(at, track) else {
                continue;
            };
            if let Some(no) = rendition_no(&content, name) {
                let copies = copies.into_iter();
                let copies = copies.map(|(run, count)| (run.start..run.end, count));
                known.push((content.no, (no, name.kind), copies.collect()));
            }
        }
        let store = self.store.clone();
        // Nobody waits for it: copies decide only what goes first from a full store, and are told
        // again.
        tokio::spawn(async move {
            let written = store.run(move |store| {
                for (content_no, within, copies) in known {
                    if let Err(error) = store.set_copies(content_no, within, copies) {
                        tracing::debug!(%error, "copies elsewhere are not noted");
                    }
                }
            });
            let _ = written.await;
        });
    }
}

async fn next_sighting(discovery: &mut Option<Discovery>) -> Option<Sighting> {
    match discovery {
        Some(discovery) => discovery.next().await,
        // `None` would end the search at each turn; here the branch is never ready.
        None => std::future::pending().await,
    }
}
