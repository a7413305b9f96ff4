//! The links of a simulated world: one parcel at a time, messages before segments.

use std::time::Duration;

use lavant_proto::relay::message::Message;
use lavant_proto::relay::{ContactNo, Input, Relay};
use lavant_proto::runs::Run;
use lavant_proto::verify::{CHUNK_GROUP_BYTES, group_count};

use super::world::{
    Contact, Direction, Event, PROOF_BYTES, Parcel, RECORD_BYTES, ROW_BYTES, World,
};

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
        let Some((Parcel::Data(request, content, sequence, groups, bad), since)) =
            &direction.sending
        else {
            return !direction.data.is_empty();
        };
        let micros = self.now.since(*since).as_micros();
        let rate = u128::from(self.setup.rate.unwrap_or(u64::MAX));
        let bytes = (micros * rate / 1_000_000) as u64;
        let whole = (bytes / GROUP_BYTES).min(groups.count());
        self.outcome.lost_bytes += bytes.saturating_sub(whole * GROUP_BYTES);
        if whole > 0 {
            let came = Run::new(groups.start, groups.start + whole);
            let to = contact.ends[1 - side];
            let parcel = (*request, *content, *sequence, came, *bad);
            self.data(number, to, parcel);
        }
        true
    }

    pub(super) fn link(&mut self, contact: ContactNo, node: u32, parcel: Parcel) {
        let Some(it) = self.contacts.get_mut(&contact.0) else {
            return;
        };
        let side = usize::from(it.ends[0] != node);
        if self.setup.rate.is_none() && self.setup.delay.is_zero() {
            if let Parcel::Data(_, _, _, groups, _) = &parcel {
                let bytes = Relay::serve_bytes(groups);
                self.nodes[node as usize].handle(self.now, Input::Sent(contact, bytes));
            }
            self.ready.push_back(Event::Arrive(contact.0, side, parcel));
            return;
        }
        match parcel {
            Parcel::Message(message) => it.directions[side].messages.push_back(message),
            data @ Parcel::Data(..) => it.directions[side].data.push_back(data),
        }
        self.next_parcel(contact.0, side);
    }

    /// Puts the next parcel onto a link that has nothing to do: messages before segments.
    pub(super) fn next_parcel(&mut self, number: u32, side: usize) {
        let Some(contact) = self.contacts.get_mut(&number) else {
            return;
        };
        let direction = &mut contact.directions[side];
        if direction.sending.is_some() {
            return;
        }
        let message = direction.messages.pop_front().map(Parcel::Message);
        let Some(parcel) = message.or_else(|| direction.data.pop_front()) else {
            return;
        };
        let bytes = match &parcel {
            Parcel::Message(message) => message_bytes(message),
            Parcel::Data(_, _, _, groups, _) => groups.count() * GROUP_BYTES,
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
        self.at(self.now.after(takes), Event::Sent(number, side));
    }

    pub(super) fn sent(&mut self, number: u32, side: usize) {
        let Some(contact) = self.contacts.get_mut(&number) else {
            return;
        };
        let node = contact.ends[side];
        let Some((parcel, _)) = contact.directions[side].sending.take() else {
            return;
        };
        if let Parcel::Data(_, _, _, groups, _) = &parcel {
            let bytes = Relay::serve_bytes(groups);
            self.input(node, Input::Sent(ContactNo(number), bytes));
        }
        let at = self.now.after(self.setup.delay);
        self.at(at, Event::Arrive(number, side, parcel));
        self.next_parcel(number, side);
    }

    pub(super) fn arrive(&mut self, number: u32, side: usize, parcel: Parcel) {
        let Some(contact) = self.contacts.get(&number) else {
            return;
        };
        let to = contact.ends[1 - side];
        match parcel {
            Parcel::Message(message) => {
                self.input(to, Input::Message(ContactNo(number), message));
            }
            Parcel::Data(request, content, sequence, groups, bad) => {
                self.data(number, to, (request, content, sequence, groups, bad));
            }
        }
    }

    /// Chunk groups came to a node: verified and kept, or found damaged.
    pub(super) fn data(&mut self, number: u32, to: u32, parcel: (u32, u32, u64, Run, bool)) {
        let (request, content, sequence, groups, bad) = parcel;
        if !self.nodes[to as usize].up {
            return;
        }
        let contact = ContactNo(number);
        if bad {
            return self.input(to, Input::Damaged(contact, request));
        }
        let all = group_count(self.setup.universe.specs[content as usize].length);
        assert!(groups.end <= all, "more was asked for than there is");
        let it = &mut self.nodes[to as usize];
        let held = it.held.get(&content);
        let bytes = groups.count() * CHUNK_GROUP_BYTES;
        if held.is_some_and(|held| held.here.contains(sequence)) {
            self.outcome.duplicate_bytes += bytes;
        }
        self.outcome.payload_bytes += bytes;
        it.keep(content, sequence, groups);
        self.input(to, Input::Arrived(contact, request, groups));
    }
}

/// Whether a message tells what is there.
const fn tells(message: &Message) -> bool {
    matches!(
        message,
        Message::Hello(_) | Message::Ranges(_) | Message::Lacking(_) | Message::Summaries(_)
    )
}

fn message_bytes(message: &Message) -> u64 {
    let extra = match message {
        Message::Rows(..) => PROOF_BYTES + ROW_BYTES * 64,
        Message::Records(.., records) => RECORD_BYTES * records.len() as u64,
        Message::Manifest(..) => 600,
        _ => 0,
    };
    extra + message.encode().len() as u64 + 4
}
