//! Contacts from the first dial to their end.

use std::sync::Arc;
use std::time::Duration;

use lavant_proto::contact::Arrival;
use lavant_proto::delivery::Input;
use lavant_proto::numbers::ContactNo;
use lavant_proto::time::Time;
use tokio::sync::watch;
use tokio::time::Instant;

use super::contact::{self, Outbox};
use super::driver::{Driver, Live};
use super::event::Event;
use super::expected::Expectations;
use super::peers::Dial;
use crate::link::{Link, LinkProfile, Sighting};

/// How long a node that found another one leaves dialling to the smaller key.
const LEAVE_TO_OTHER: Duration = Duration::from_secs(2);
/// How long contacts may take for their good-byes.
const GOODBYE: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn sighted(&mut self, sighting: Sighting) {
        let now = self.now();
        match sighting {
            Sighting::Found { key, addresses } => {
                // Both find each other; the smaller key dials first.
                // Two links at once would cost both sides a handshake, of which one is thrown away.
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

    pub(super) fn dial_due(&mut self) {
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

    pub(super) fn up(&mut self, peer: Option<u32>, link: Box<dyn Link>) {
        let no = ContactNo(self.next_contact);
        // They begin anew after 2^32 contacts, when no event of the old ones waits any more.
        self.next_contact = self.next_contact.wrapping_add(1);
        let (node, kind, remote) = (link.peer(), link.kind(), link.remote());
        let (source, meter) = (link.source(), link.meter());
        tracing::debug!(%node, %kind, %remote, dialled = peer.is_some(), "a link is up");
        let (sender, receiver) = link.split();
        let (outbox, queue) = Outbox::new();
        let expected = Expectations::default();
        let (events, store) = (self.events.clone(), self.store.clone());
        let (slow, pace) = watch::channel(None);
        let tools = (events.clone(), store.clone(), self.room.of_contact());
        let receiving = contact::receive(no, receiver, expected.clone(), tools, pace);
        // A panic there would leave a contact that is up and says nothing: it is watched and
        // reported.
        let receiving = tokio::spawn(receiving);
        let abort = receiving.abort_handle();
        let failed = events.clone();
        tokio::spawn(async move {
            if receiving.await.is_err_and(|error| error.is_panic()) {
                let why = "reading from it failed; this is a fault of this node".to_owned();
                let _ = failed.send(Event::Down(no, why)).await;
            }
        });
        let sending = contact::send(no, sender, queue, (events, store), abort);
        let live = Live {
            node,
            outbox,
            expected,
            sending: tokio::spawn(sending),
            meter,
            slow,
            slow_until: None,
        };
        // Before the core hears of it, as its outputs are looked up here.
        self.contacts.insert(no, live);
        let now = self.now();
        self.peers.up(peer, node, no, (kind, remote), now);
        let arrival = Arrival {
            node,
            dialled: peer.is_some(),
            source: Some(source),
            profile: LinkProfile::of(&self.profiles, &node, remote.ip()),
        };
        self.input(Input::Up {
            contact: no,
            arrival,
        });
    }

    pub(super) fn down(&mut self, no: ContactNo, why: String) {
        if let Some(live) = self.contacts.remove(&no) {
            tracing::debug!(node = %live.node, why, "a link is down");
            self.forget_contact(no);
            // The last counts, while the core still has them.
            self.count();
            let now = self.now();
            // The other direction may still be open, and the sending task waits for commands.
            live.outbox.close(why.clone());
            self.peers.down(no, why, now);
            self.input(Input::Down { contact: no });
        }
    }

    fn forget_contact(&mut self, no: ContactNo) {
        self.requests.retain(|(other, _), _| *other != no);
        self.library.close(no);
    }

    /// Ends a contact, of which the last counts were taken.
    pub(super) fn close(&mut self, no: ContactNo, why: String) {
        let Some(live) = self.contacts.remove(&no) else {
            return;
        };
        tracing::debug!(node = %live.node, why, "a link is closed");
        self.forget_contact(no);
        let now = self.now();
        // Before `down`, after which nothing leads from the contact to its peer.
        if let Some(shunned) = self.core.shunned(&live.node) {
            let until = shunned.until;
            self.peers.leave(no, until);
        }
        self.peers.down(no, why.clone(), now);
        live.outbox.close(why);
    }

    /// Ends a contact for a reason of the driver's.
    pub(super) fn end(&mut self, no: ContactNo, why: String) {
        self.count();
        // The core asks for nothing to be closed when it hears of an end, so that it is done here.
        self.close(no, why);
        self.input(Input::Down { contact: no });
    }

    /// A contact has proven what is asked of it.
    pub(super) fn ready(&mut self, no: ContactNo) {
        self.peers.ready(no);
        // Its name, now: when the core ends the contact, it has forgotten it before that is heard
        // of here.
        let info = self.core.contacts().find(|info| info.contact == no);
        if let Some(info) = info {
            self.peers.count(&info);
        }
    }

    /// Brings the counts of peers up to date.
    pub(super) fn count(&mut self) {
        for mut info in self.core.contacts() {
            // What the transport measures has no queue of ours in it.
            let live = self.contacts.get(&info.contact);
            let measured = live.and_then(|live| live.meter.round_trip());
            info.round_trip = measured.or(info.round_trip);
            self.peers.count(&info);
        }
    }

    /// A contact has used up its budget: nothing is read of it, or for it, until then.
    pub(super) fn slow_down(&mut self, no: ContactNo, until: Time) {
        let wait = until.since(self.now());
        // This holds back what it asked already; `read_later` what it has not said yet.
        if let Some(live) = self.contacts.get_mut(&no) {
            live.slow_until = Some(Instant::now() + wait);
        }
        self.read_later(no, until);
    }

    /// Nothing is read of a contact until then.
    pub(super) fn read_later(&self, no: ContactNo, until: Time) {
        let until = Instant::now() + until.since(self.now());
        if let Some(live) = self.contacts.get(&no) {
            // A shorter pause never ends a longer one.
            live.slow
                .send_modify(|slow| *slow = (*slow).max(Some(until)));
        }
    }

    /// Says good-bye to everybody.
    pub(super) async fn stop(self) {
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
}
