//! What all ways of delivery share: configuration, time, contacts, uplink, pieces, and the queue of
//! what is to be done.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::config::Config;
use super::io::Output;
use crate::contact::budget::is_beyond;
use crate::contact::hello::{Hello, VERSION};
use crate::contact::message::ContactMessage;
use crate::contact::{Arrival, Contacts, Look, Stats};
use crate::message::Message;
use crate::numbers::{ContactNo, ContentNo, RequestNo};
use crate::piece::{Pieces, Want};
use crate::time::Time;
use crate::uplink::{Next, Serving, Uplink};

/// A pause that is not worth a message to the driver.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Microseconds of work for a piece that nobody asked for.
const PUSHED_COST: u64 = 3;

/// What all ways of delivery share.
#[derive(Debug)]
pub struct Base {
    pub(crate) config: Config,
    pub(crate) now: Time,
    pub(crate) out: VecDeque<Output>,
    pub(crate) contacts: Contacts,
    pub(crate) uplink: Uplink,
    pub(crate) pieces: Pieces,
    /// Contacts that may ask for more, may be served more, or are to be told something.
    pub(crate) work: BTreeSet<ContactNo>,
    /// When a limit allows more, or a pause is over.
    pub(crate) wake: Time,
    /// When a contact, or what it owes, has to be looked at.
    pub(crate) timer: Time,
    /// Until when the store counts as full: it let something go for something else of late.
    pub(crate) crowded: Time,
    /// Contacts that ended and that the ways have not heard of.
    pub(crate) ended: Vec<(ContactNo, BTreeSet<ContentNo>)>,
}

impl Base {
    pub(super) fn new(mut config: Config, now: Time) -> Self {
        // Others are told only of what is of interest here: without its own key a node that takes
        // nothing would keep its own contents to itself.
        config.interest.publishers.insert(config.own);
        Self {
            now,
            out: VecDeque::new(),
            contacts: Contacts::default(),
            uplink: Uplink::new(config.upload, config.quantum, now),
            pieces: Pieces::new(config.download, now),
            work: BTreeSet::new(),
            wake: Time::MAX,
            timer: Time::MAX,
            crowded: Time(0),
            ended: Vec::new(),
            config,
        }
    }

    pub(crate) fn send(&mut self, contact: ContactNo, message: impl Into<Message>) {
        let message = Box::new(message.into());
        self.out.push_back(Output::Send { contact, message });
    }

    pub(crate) fn ask_for(
        &mut self,
        contact: ContactNo,
        request: RequestNo,
        want: &Want,
        message: Message,
    ) {
        self.out.push_back(Output::Ask {
            contact,
            request,
            place: want.place,
            groups: want.groups,
            message: Box::new(message),
        });
    }

    /// Makes sure that contacts and what they owe are looked at by then.
    pub(crate) fn schedule(&mut self, by: Time) {
        self.timer = self.timer.min(by);
    }

    /// Makes sure that all work is looked at by then.
    pub(crate) fn wake_at(&mut self, by: Time) {
        self.wake = self.wake.min(by);
    }

    /// Something may be asked of all contacts now.
    pub(crate) fn work_for_all(&mut self) {
        self.work.extend(self.contacts.numbers());
    }

    pub(super) fn up(&mut self, no: ContactNo, arrival: Arrival) {
        let allowed = self.config.allow.as_ref();
        let node = arrival.node;
        if node == self.config.own || allowed.is_some_and(|allow| !allow.contains(&node)) {
            return self.refuse(no, "this node is not allowed here".to_owned());
        }
        let (own, patience) = (self.config.own, self.config.patience);
        let admitted = self.contacts.admit(no, arrival, &own, &patience, self.now);
        let ends = match admitted {
            Ok(ends) => ends,
            Err(why) => return self.refuse(no, why),
        };
        for (end, why) in ends {
            self.close(end, why);
        }
        let (config, rate) = (&self.config, arrival.profile.rate);
        self.uplink.open(no, (config.peer_upload, rate), self.now);
        let limits = (config.peer_download, rate);
        self.pieces.open_contact(no, limits, self.now);
        // Whoever says nothing is looked at when its time for a hello is over.
        let hello = self.contacts.get(no).map(|it| it.patience.hello);
        self.schedule(self.now.after(hello.unwrap_or_default()));
        // Only the dialler begins: whoever is dialled up learns nothing before it has proven the
        // token.
        if arrival.dialled {
            self.say_hello(no);
        }
    }

    /// Ends a contact that was never admitted.
    fn refuse(&mut self, no: ContactNo, why: String) {
        self.out.push_back(Output::Close {
            contact: no,
            why,
            stats: Stats::default(),
        });
    }

    fn say_hello(&mut self, no: ContactNo) {
        let Some(contact) = self.contacts.get(no) else {
            return;
        };
        let config = &self.config;
        let proof = config.token.as_ref();
        let proof = proof.map(|token| token.proof(&config.own, &contact.node));
        let hello = Hello::new(config.name.clone(), config.interest.clone(), proof);
        self.send(no, ContactMessage::Hello(hello));
    }

    /// A contact said hello. Whether it may stay.
    pub(super) fn hello(&mut self, no: ContactNo, hello: Hello) -> bool {
        let Some(contact) = self.contacts.get_mut(no) else {
            return false;
        };
        let node = contact.node;
        if contact.ready {
            self.leave(no, "it said hello twice".into());
            return false;
        }
        // The token comes before the slot: who has not proven it takes none from others.
        if let Some(why) = self.objection(no, &hello) {
            self.close(no, why);
            return false;
        }
        // Only the ways of it are compared.
        let own = Hello::new(String::new(), self.config.interest.clone(), None);
        let known = self.config.is_trusted(&node);
        if let Some(why) = self.contacts.refusal(no, known) {
            self.close(no, why);
            return false;
        }
        let now = self.now;
        let Some(contact) = self.contacts.get_mut(no) else {
            return false;
        };
        (contact.ready, contact.name, contact.interest) = (true, hello.name, hello.interest);
        contact.ways = own.ways.intersection(&hello.ways).copied().collect();
        contact.hear(now);
        let dialled = contact.dialled;
        // The dialler said its hello when the link came up, so this was one round trip. The other
        // side has asked nothing yet.
        if dialled {
            contact.trip = Some(now.since(contact.since));
        }
        let keep_alive = contact.patience.keep_alive;
        self.schedule(now.after(keep_alive));
        // The dialler is in: only this answer tells it anything of this node.
        if !dialled {
            self.say_hello(no);
        }
        self.out.push_back(Output::Ready { contact: no });
        true
    }

    /// Why a contact is not let in, as it introduces itself.
    fn objection(&self, no: ContactNo, hello: &Hello) -> Option<String> {
        let node = self.contacts.get(no)?.node;
        if hello.version != VERSION {
            return Some(format!(
                "it speaks version {} of the protocol, this node version {VERSION}; update the \
                 older one",
                hello.version
            ));
        }
        let why = match (&self.config.token, hello.proof) {
            (None, None) => return None,
            (Some(token), Some(proof)) if token.accepts(&proof, &node, &self.config.own) => {
                return None;
            }
            (Some(_), Some(_)) => "its --relay-token is another one than here",
            (Some(_), None) => "it has no --relay-token, and one is needed here",
            (None, Some(_)) => "it has a --relay-token, and none is set here",
        };
        Some(why.into())
    }

    /// A message of the contact itself. Whether the contact has become ready by it.
    pub(super) fn contact_message(&mut self, no: ContactNo, message: ContactMessage) -> bool {
        match message {
            ContactMessage::Hello(hello) => return self.hello(no, hello),
            ContactMessage::TooOld => {
                let why = format!(
                    "it speaks version 1 of the protocol, this node version {VERSION}; update it"
                );
                // It takes this node's hello for no message and leaves it alone for a while; what
                // the operator has to know would be overwritten by that.
                self.leave(no, why);
            }
            ContactMessage::Ping(stamp) => self.send(no, ContactMessage::Pong(stamp)),
            ContactMessage::Pong(stamp) => {
                let now = self.now;
                if let Some(contact) = self.contacts.get_mut(no) {
                    contact.pong(now, Time(stamp));
                }
            }
        }
        false
    }

    /// Counts work that a contact causes. False when it is left for it.
    pub(crate) fn spend(&mut self, no: ContactNo, micros: u64) -> bool {
        let wait = self.contacts.spend(no, self.now, micros);
        if is_beyond(wait) {
            self.leave(no, "it floods this node with messages".into());
            return false;
        }
        if wait >= PAUSE_MIN {
            let until = self.now.after(wait);
            self.out.push_back(Output::Slow { contact: no, until });
        }
        true
    }

    /// A piece came that nobody asked for. No way that is agreed on pushes any, so it is no more
    /// than work for whoever sent it.
    pub(crate) fn pushed(&mut self, no: ContactNo) {
        let Some(contact) = self.contacts.get_mut(no) else {
            return;
        };
        contact.hear(self.now);
        if !contact.ready {
            return self.leave(no, "it spoke before it said hello".into());
        }
        if self.spend(no, PUSHED_COST) {
            self.ignored(no);
        }
    }

    /// Something came that was not agreed on: a later version may send it to whoever listens.
    pub(crate) fn ignored(&mut self, no: ContactNo) {
        if let Some(contact) = self.contacts.get_mut(no) {
            contact.stats.ignored += 1;
        }
    }

    /// Ends a contact for a reason that may pass.
    pub(crate) fn close(&mut self, no: ContactNo, why: String) {
        // It may have ended in the same step, by what came before.
        if let Some(contact) = self.contacts.get(no) {
            let stats = contact.stats;
            self.out.push_back(Output::Close {
                contact: no,
                why,
                stats,
            });
            self.down(no);
        }
    }

    /// Ends a contact with a node that broke the rules, and keeps away from it for a while.
    pub(crate) fn leave(&mut self, no: ContactNo, why: String) {
        let Some(contact) = self.contacts.get(no) else {
            return;
        };
        let (node, now) = (contact.node, self.now);
        // The node is remembered by its key, or it would be back with its next link.
        let until = now.after(self.config.patience.left);
        self.contacts.shun(node, until, why.clone(), now);
        self.close(no, why);
    }

    pub(super) fn down(&mut self, no: ContactNo) {
        if self.contacts.remove(no).is_none() {
            return;
        }
        let unsent = self.uplink.close(no);
        self.pieces.close_contact(no, self.now);
        self.work.remove(&no);
        // What was asked of it may be asked of the others now.
        self.work_for_all();
        // The ways are not known here, and one of them may be the caller: they hear of it after the
        // step.
        self.ended.push((no, unsent));
    }

    /// Asks quiet contacts for a sign of life and ends those that are dead, stuck or useless.
    /// Returns when to look again, and whether any was quiet.
    pub(super) fn look_at_contacts(&mut self) -> (Time, bool) {
        let now = self.now;
        let (mut next, mut quiet) = (Time::MAX, false);
        for no in self.contacts.numbers() {
            let taken = self.uplink.taken(no);
            let Some(contact) = self.contacts.get_mut(no) else {
                continue;
            };
            match contact.look(now, taken) {
                Look::Later(by) => next = next.min(by),
                Look::Ping => {
                    contact.ping(now);
                    // It owes nothing and says nothing: there is time for what can wait.
                    quiet |= contact.waiting.is_none();
                    // When it is dead, should it not answer.
                    if let Look::Later(by) = contact.look(now, taken) {
                        next = next.min(by);
                    }
                    // The stamp comes back with the answer: it gives the round trip, and tells this
                    // answer from an older one.
                    self.send(no, ContactMessage::Ping(now.0));
                }
                Look::End(why) => self.close(no, why.into()),
            }
        }
        (next, quiet)
    }

    /// Serves every contact in turn, as long as links and limits allow. Returns whom the last of
    /// which answer went to.
    pub(super) fn serve(&mut self) -> Vec<Serving> {
        let mut done = Vec::new();
        loop {
            match self.uplink.next(self.now) {
                Next::Serve(serving) => {
                    if let Some(contact) = self.contacts.get_mut(serving.contact) {
                        let bytes = serving.groups.count() * crate::verify::CHUNK_GROUP_BYTES;
                        contact.stats.sent += bytes;
                        // The link has to take it from now on: it is looked at when it did not.
                        let stuck = contact.patience.stuck.min(contact.patience.alive);
                        self.timer = self.timer.min(self.now.after(stuck));
                    }
                    self.out.push_back(Output::Serve(serving));
                    if serving.last {
                        done.push(serving);
                    }
                }
                Next::Wait(until) => {
                    self.wake_at(until);
                    return done;
                }
                Next::Idle => return done,
            }
        }
    }
}
