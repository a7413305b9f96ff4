//! All ways of delivery, as one value that is stepped.
//!
//! [`Delivery`] holds the machines that all ways share (contacts, uplink, pieces: [`Base`]) and the
//! ways themselves, each a value of its own that knows only the shared ones.
//!
//! # How it is driven
//!
//! 1. [`Delivery::handle`] takes one [`Input`] after another; nothing is done by it but noted.
//! 2. [`Delivery::poll`] gives what is to be done, until it gives nothing more. It is here that
//!    what is asked, told and served is worked out, once for all inputs since the last time, so a
//!    driver that takes what has come and then polls does less work than one that polls after each.
//! 3. [`Delivery::deadline`] says when [`Input::Tick`] is due if nothing happens before.
//!
//! Time never goes back: an input of an earlier time counts as one of the latest.
//!
//! ```
//! use lavant_proto::contact::Arrival;
//! use lavant_proto::contact::patience::Profile;
//! use lavant_proto::delivery::{Config, Delivery, Input, Output};
//! use lavant_proto::ids::PublisherKey;
//! use lavant_proto::numbers::ContactNo;
//! use lavant_proto::time::Time;
//!
//! /// One side: what it is and when it wants to be called.
//! fn node(key: u8) -> Delivery {
//!     Delivery::new(Config::new(PublisherKey([key; 32])), Time(0))
//! }
//!
//! // Two nodes and a link between them that takes no time.
//! let mut nodes = [node(1), node(2)];
//! let link = ContactNo(0);
//! for side in 0..2 {
//!     let arrival = Arrival {
//!         node: PublisherKey([2 - side as u8; 32]),
//!         dialled: side == 0,
//!         source: None,
//!         profile: Profile::default(),
//!     };
//!     nodes[side].handle(Time(0), Input::Up { contact: link, arrival });
//! }
//! let mut ready = 0;
//! let mut quiet = 0;
//! while quiet < 2 {
//!     quiet = 0;
//!     for side in 0..2 {
//!         let mut said = Vec::new();
//!         while let Some(output) = nodes[side].poll() {
//!             match output {
//!                 Output::Send { message, .. } => said.push(message),
//!                 Output::Ready { .. } => ready += 1,
//!                 // A driver serves, verifies, stores and closes here.
//!                 other => panic!("{other:?}"),
//!             }
//!         }
//!         quiet += usize::from(said.is_empty());
//!         for message in said {
//!             nodes[1 - side].handle(Time(0), Input::Message { contact: link, message });
//!         }
//!     }
//! }
//! assert_eq!(ready, 2);
//! // Nothing happens until somebody has to be asked for a sign of life.
//! assert!(nodes[0].deadline() > Time(0));
//! ```

mod base;
mod config;
mod io;
#[cfg(test)]
mod tests;

pub use base::Base;
pub use config::Config;
pub use io::{Facts, Input, Known, Output};

use std::time::Duration;

use crate::contact::{Shunned, Stats};
use crate::ids::{ContentKey, PublisherKey};
use crate::message::Message;
use crate::numbers::{ContactNo, ContentNo, TrackNo};
use crate::piece::message::PieceMessage;
use crate::relay::Relay;
use crate::relay::message::{RelayMessage, TrackName};
use crate::runs::GroupRun;
use crate::time::Time;
use crate::uplink::GROUP_ON_LINK;

/// What can be seen of a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactInfo {
    /// Its number.
    pub contact: ContactNo,
    /// The other node.
    pub node: PublisherKey,
    /// The other node's name.
    pub name: String,
    /// Whether both have said hello.
    pub ready: bool,
    /// Since when.
    pub since: Time,
    /// The time of a round trip, once it was measured.
    pub round_trip: Option<Duration>,
    /// Bytes a second that arrived of late.
    pub rate: u64,
    /// Contents of which it has something that is lacking here.
    pub wanted: usize,
    /// Counts.
    pub stats: Stats,
}

/// All ways of delivery of one node.
#[derive(Debug)]
pub struct Delivery {
    base: Base,
    relay: Relay,
}

impl Delivery {
    /// A node that knows nothing yet.
    #[must_use]
    pub fn new(config: Config, now: Time) -> Self {
        Self {
            base: Base::new(config, now),
            relay: Relay::default(),
        }
    }

    /// The number of a content, which stays until it is [`Output::Forgotten`].
    pub fn no(&mut self, key: &ContentKey) -> ContentNo {
        self.relay.no(&self.base.config.own, key)
    }

    /// The content with that number.
    #[must_use]
    pub fn key(&self, content: ContentNo) -> Option<&ContentKey> {
        self.relay.key(content)
    }

    /// The number of a track of a content; it is added when it is new. None for a content that is
    /// not known, or has as many tracks as it may.
    pub fn track(&mut self, content: ContentNo, name: &TrackName) -> Option<TrackNo> {
        self.relay.track(content, name)
    }

    /// The track with that number.
    #[must_use]
    pub fn track_name(&self, content: ContentNo, track: TrackNo) -> Option<&TrackName> {
        self.relay.track_name(content, track)
    }

    /// How many contents are known, here or elsewhere.
    #[must_use]
    pub fn contents(&self) -> usize {
        self.relay.len()
    }

    /// Bytes of memory that the claims of all contacts take, rather more than less.
    #[must_use]
    pub const fn claimed(&self) -> usize {
        self.relay.claimed()
    }

    /// How the contacts are.
    pub fn contacts(&self) -> impl Iterator<Item = ContactInfo> + '_ {
        let now = self.base.now;
        self.base
            .contacts
            .iter()
            .map(move |(no, contact)| ContactInfo {
                contact: no,
                node: contact.node,
                name: contact.name.clone(),
                ready: contact.ready,
                since: contact.since,
                round_trip: contact.trip,
                rate: self.base.pieces.rate(no, now),
                wanted: self.relay.wanted(no),
                stats: contact.stats,
            })
    }

    /// Why a node is left alone, if it is.
    #[must_use]
    pub fn shunned(&self, node: &PublisherKey) -> Option<&Shunned> {
        self.base.contacts.shunned(node, self.base.now)
    }

    /// How many bytes a [`crate::uplink::Serving`] of so many chunk groups counts for; to be
    /// reported with [`Input::Sent`] once the link took them.
    #[must_use]
    pub const fn serving_bytes(groups: &GroupRun) -> u64 {
        groups.count() * GROUP_ON_LINK
    }

    /// When the next [`Input::Tick`] is due. To be asked after [`Delivery::poll`] gave nothing.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.base.timer.min(self.base.wake)
    }

    /// Something to do, if there is anything.
    pub fn poll(&mut self) -> Option<Output> {
        if self.base.out.is_empty() {
            self.work();
        }
        self.base.out.pop_front()
    }

    /// Takes an input. What follows from it is then to be had from [`Delivery::poll`].
    pub fn handle(&mut self, now: Time, input: Input) {
        self.base.now = self.base.now.max(now);
        let (relay, base) = (&mut self.relay, &mut self.base);
        match input {
            Input::Up { contact, arrival } => base.up(contact, arrival),
            Input::Down { contact } => base.down(contact),
            Input::Message { contact, message } => self.message(contact, *message),
            Input::Arrived {
                contact,
                request,
                groups,
            } => relay.arrived(base, contact, request, groups),
            Input::Pushed { contact, .. } => base.pushed(contact),
            Input::Damaged { contact, request } => relay.damaged(base, contact, request),
            Input::Sent { contact, bytes } => {
                base.uplink.sent(contact, bytes, base.now);
                // Its link has room for more.
                base.work.insert(contact);
            }
            // Whether it was ended for it is seen from `ended` below.
            Input::Spent { contact, micros } => drop(base.spend(contact, micros)),
            Input::Lied { contact, why } => base.leave(contact, why),
            Input::Tick => {}
            other => relay.store_said(base, other),
        }
        // The ways forget contacts that ended before anything is worked out on them.
        self.end_contacts();
        if self.base.now >= self.base.timer {
            self.look();
        }
        if self.base.now >= self.base.wake {
            // Cleared first: `resume` sets the next time.
            self.base.wake = Time::MAX;
            self.base.work_for_all();
            self.relay.resume(&mut self.base);
        }
    }

    /// Tells the ways of contacts that ended.
    fn end_contacts(&mut self) {
        while let Some((contact, unsent)) = self.base.ended.pop() {
            self.relay.down(&mut self.base, contact, &unsent);
        }
    }

    /// Looks at contacts, and at what they owe.
    fn look(&mut self) {
        // All that is looked at below says anew when it is to be looked at again.
        self.base.timer = Time::MAX;
        // Dead contacts go before requests are passed on: what they owed is free then, and nobody
        // counts as having withheld it.
        let (next, quiet) = self.base.look_at_contacts();
        self.base.schedule(next);
        self.end_contacts();
        if quiet {
            self.relay.count_copies(&mut self.base);
        }
        // Whoever withheld too often is left by this, so ends are looked at once more.
        self.relay.overdue(&mut self.base);
        self.end_contacts();
        self.base.schedule(self.base.pieces.next_due());
    }

    /// Works out what is asked, told and served.
    fn work(&mut self) {
        // Offers first: what is asked for below is chosen by them.
        self.relay.settle(&mut self.base);
        if self.base.work.is_empty() {
            return;
        }
        // Taken as a whole: what gets work meanwhile has its turn in the next round.
        for contact in std::mem::take(&mut self.base.work) {
            self.relay.tell(&mut self.base, contact);
            self.base.fill(contact, &mut self.relay);
        }
        // Once for all contacts: the uplink gives turns among them.
        for done in self.base.serve() {
            self.relay.served(&self.base, done);
        }
        self.end_contacts();
    }

    fn message(&mut self, no: ContactNo, message: Message) {
        let (relay, base) = (&mut self.relay, &mut self.base);
        let Some(contact) = base.contacts.get_mut(no) else {
            return;
        };
        // Whatever it says is a sign of life, also what is refused below.
        contact.hear(base.now);
        let agreed = contact.ways.contains(&message.way());
        let ready = contact.ready;
        // Paid before it is looked at: who is far beyond its budget causes no work by what it says.
        if !base.spend(no, cost(&message)) {
            return;
        }
        match message {
            Message::Contact(said) => {
                // A node of the first version has to be told that it is too old, and not that it
                // spoke too early.
                let hello = matches!(said, crate::contact::message::ContactMessage::Hello(_));
                let old = matches!(said, crate::contact::message::ContactMessage::TooOld);
                if !ready && !hello && !old {
                    return base.leave(no, "it spoke before it said hello".into());
                }
                if base.contact_message(no, said) {
                    relay.ready(base, no);
                }
            }
            // Before its hello a contact speaks for itself alone: it has proven nothing, and is
            // told nothing.
            _ if !ready => base.leave(no, "it spoke before it said hello".into()),
            Message::Piece(PieceMessage::Gone(request)) if agreed => relay.gone(base, no, request),
            Message::Piece(PieceMessage::Cancel(request)) if agreed => {
                base.uplink.cancel(no, request);
            }
            Message::Relay(said) if agreed => relay.message(base, no, said),
            // Not agreed on, or not known here: a later version may speak so to whoever listens.
            _ => base.ignored(no),
        }
    }
}

/// About how many microseconds of work a message causes; what is read from the store for it is
/// counted by the driver ([`Input::Spent`]).
fn cost(message: &Message) -> u64 {
    let Message::Relay(message) = message else {
        return 3;
    };
    // Each receipt and each record costs a check of a signature; runs are copied and compared.
    let runs = |runs: usize| runs as u64 / 8;
    match message {
        RelayMessage::Get { .. } | RelayMessage::Have(..) | RelayMessage::Lost(..) => 4,
        RelayMessage::Removed(_) => 20,
        RelayMessage::Summaries(list) => {
            let each = list.iter().map(|it| {
                let all: usize = it.tracks.iter().map(|(_, here)| here.runs().len()).sum();
                12 + 60 * it.receipts.len() as u64 + runs(all)
            });
            each.sum()
        }
        RelayMessage::Echoes(list) => {
            let each = list.iter().map(|it| {
                let all: usize = it.tracks.iter().map(|(_, here)| here.runs().len()).sum();
                8 + runs(all)
            });
            each.sum()
        }
        RelayMessage::Ranges(_) | RelayMessage::Lacking(_) => 30,
        RelayMessage::GetManifest(_) | RelayMessage::GetRecords(..) => 50,
        RelayMessage::GetRows(..) | RelayMessage::Damaged(..) => 100,
        RelayMessage::Manifest(..) => 150,
        RelayMessage::Rows(_, _, rows, _) => 10 + 3 * rows.len() as u64,
        RelayMessage::Records(.., records) => 10 + 80 * records.len() as u64,
    }
}
