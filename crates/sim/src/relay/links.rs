//! The links of a simulated world: one parcel at a time, messages before segments.

use std::time::Duration;

use lavant_proto::contact::message::ContactMessage;
use lavant_proto::delivery::{Delivery, Input};
use lavant_proto::message::Message;
use lavant_proto::numbers::ContactNo;
use lavant_proto::relay::message::RelayMessage;
use lavant_proto::runs::Run;
use lavant_proto::verify::{CHUNK_GROUP_BYTES, group_count};

use super::queue::Event;
use super::world::{Contact, Data, Direction, PROOF_BYTES, Parcel, RECORD_BYTES, World};

/// Bytes of a chunk group on a link, with proofs and framing.
const GROUP_BYTES: u64 = CHUNK_GROUP_BYTES + 80;

impl World {
    /// Gives out the chunk groups that came before the link broke; the rest of what was being sent
    /// is lost. Whether anything was.
    pub(super) fn break_off(
        &mut self,
        number: u32,
        contact: &Contact,
        side: usize,
        direction: &Direction,
    ) -> bool {
        let Some((Parcel::Data(data), since)) = &direction.sending else {
            return !direction.data.is_empty();
        };
        let micros = self.now.since(*since).as_micros();
        let rate = u128::from(self.setup.rate.unwrap_or(u64::MAX));
        // Frames that came whole are verified one by one and kept, so a cut costs less than one of
        // them.
        let bytes = (micros * rate / 1_000_000) as u64;
        let whole = (bytes / GROUP_BYTES).min(data.groups.count());
        self.outcome.lost_bytes += bytes.saturating_sub(whole * GROUP_BYTES);
        if whole > 0 {
            let start = data.groups.start;
            let came = Data {
                groups: Run::new(start, start + whole),
                ..*data
            };
            self.data(number, contact.ends[1 - side], came);
        }
        true
    }

    pub(super) fn link(&mut self, contact: ContactNo, node: u32, parcel: Parcel) {
        let Some(it) = self.contacts.get_mut(contact.0) else {
            return;
        };
        let side = usize::from(it.ends[0] != node);
        if self.setup.rate.is_none() && self.setup.delay.is_zero() {
            if let Parcel::Data(data) = &parcel {
                let bytes = Delivery::serving_bytes(&data.groups);
                let sent = Input::Sent { contact, bytes };
                // Only noted: this is called while the outputs of that node are worked off.
                self.nodes[node as usize].handle(self.now, sent);
            }
            let parcel = self.queue.parcels.put(parcel);
            let arrive = Event::Arrive(contact.0, side as u8, parcel);
            self.ready.push_back(arrive);
            return;
        }
        match parcel {
            Parcel::Message(message) => it.directions[side].messages.push_back(message),
            data @ Parcel::Data(_) => it.directions[side].data.push_back(data),
        }
        self.next_parcel(contact.0, side);
    }

    /// Puts the next parcel onto a link that has nothing to do: messages before segments.
    pub(super) fn next_parcel(&mut self, number: u32, side: usize) {
        let Some(contact) = self.contacts.get(number) else {
            return;
        };
        let ends = contact.ends;
        let direction = &contact.directions[side];
        let is_idle = direction.messages.is_empty() && direction.data.is_empty();
        // The medium comes last: it is taken only when there is something to send.
        if direction.sending.is_some() || is_idle || !self.take_medium(ends, (number, side)) {
            return;
        }
        // Looked up once more, as the medium needs the whole world in between.
        let Some(contact) = self.contacts.get_mut(number) else {
            return;
        };
        let direction = &mut contact.directions[side];
        let message = direction.messages.pop_front().map(Parcel::Message);
        let Some(parcel) = message.or_else(|| direction.data.pop_front()) else {
            return;
        };
        let bytes = match &parcel {
            Parcel::Message(message) => message_bytes(message),
            Parcel::Data(data) => data.groups.count() * GROUP_BYTES,
        };
        if let Parcel::Message(message) = &parcel {
            self.outcome.message_bytes += bytes;
            if tells(message) {
                self.outcome.told_bytes += bytes;
            }
        }
        direction.sending = Some((parcel, self.now));
        let rate = self.setup.rate.unwrap_or(u64::MAX).max(1);
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.at(self.now.after(takes), Event::Sent(number, side as u8));
    }

    pub(super) fn sent(&mut self, number: u32, side: usize) {
        let Some(contact) = self.contacts.get_mut(number) else {
            return;
        };
        let ends = contact.ends;
        let node = ends[side];
        let Some((parcel, _)) = contact.directions[side].sending.take() else {
            return;
        };
        if let Parcel::Data(data) = &parcel {
            let bytes = Delivery::serving_bytes(&data.groups);
            let contact = ContactNo(number);
            self.input(node, Input::Sent { contact, bytes });
        }
        let at = self.now.after(self.setup.delay);
        let parcel = self.queue.parcels.put(parcel);
        self.at(at, Event::Arrive(number, side as u8, parcel));
        // Others that wait come before the next parcel of the same contact.
        self.release_medium(ends, side);
        self.next_parcel(number, side);
    }

    /// A contact ended: what it was sending does not keep others waiting.
    pub(super) fn stop_sending(&mut self, contact: &Contact) {
        for (side, direction) in contact.directions.iter().enumerate() {
            if direction.sending.is_some() {
                self.release_medium(contact.ends, side);
            }
        }
    }

    pub(super) fn arrive(&mut self, number: u32, side: usize, parcel: Parcel) {
        let Some(contact) = self.contacts.get(number) else {
            return;
        };
        let to = contact.ends[1 - side];
        match parcel {
            Parcel::Message(message) => {
                let came = Input::Message {
                    contact: ContactNo(number),
                    message,
                };
                self.input(to, came);
            }
            Parcel::Data(data) => self.data(number, to, data),
        }
    }

    /// Chunk groups came to a node: verified and kept, or found damaged.
    pub(super) fn data(&mut self, number: u32, to: u32, data: Data) {
        let Data {
            request,
            content,
            sequence,
            groups,
            bad,
        } = data;
        if !self.nodes[to as usize].up {
            return;
        }
        let contact = ContactNo(number);
        if bad {
            // Nothing more of an answer is taken once a part of it was wrong.
            self.nodes[to as usize].forget_answer(contact, request);
            return self.input(to, Input::Damaged { contact, request });
        }
        let bytes = groups.count() * CHUNK_GROUP_BYTES;
        if !self.nodes[to as usize].expects(contact, request) {
            // It was given up, and came too late to be of use.
            self.outcome.payload_bytes += bytes;
            self.outcome.duplicate_bytes += bytes;
            return;
        }
        let all = group_count(self.setup.universe.specs[content as usize].length);
        assert!(groups.end <= all, "more was asked for than there is");
        let it = &mut self.nodes[to as usize];
        let held = it.held.get(&content);
        if held.is_some_and(|held| held.here.contains(sequence)) {
            self.outcome.duplicate_bytes += bytes;
        }
        self.outcome.payload_bytes += bytes;
        // Room is made as parts come, and not when they are asked for.
        if self.setup.universe.is_addressed() && !self.make_room(to, (content, sequence), bytes) {
            let place = self.nodes[to as usize].place(&self.setup.universe, content, sequence);
            let forever = false;
            return self.input(to, Input::Refused { place, forever });
        }
        let (universe, now) = (&self.setup.universe, self.now);
        self.nodes[to as usize].keep(universe, (content, sequence), groups, now);
        let arrived = Input::Arrived {
            contact,
            request,
            groups,
        };
        self.input(to, arrived);
    }
}

/// Whether a message tells what is there.
const fn tells(message: &Message) -> bool {
    matches!(
        message,
        Message::Contact(ContactMessage::Hello(_))
            | Message::Relay(
                RelayMessage::Ranges(_)
                    | RelayMessage::Lacking(_)
                    | RelayMessage::Summaries(_)
                    | RelayMessage::Echoes(_)
            )
    )
}

fn message_bytes(message: &Message) -> u64 {
    let extra = match message {
        Message::Relay(RelayMessage::Rows(..)) => PROOF_BYTES,
        Message::Relay(RelayMessage::Records(.., records)) => RECORD_BYTES * records.len() as u64,
        Message::Relay(RelayMessage::Manifest(..)) => 600,
        _ => 0,
    };
    extra + message.encode().len() as u64 + 4
}
