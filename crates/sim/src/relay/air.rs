//! What contacts of one node share: an uplink, or one air for all that is sent and heard.

use std::collections::VecDeque;

use super::world::World;

/// What a node shares among its contacts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Nothing: each contact has the whole rate in each direction.
    #[default]
    Nothing,
    /// What it sends: one parcel at a time.
    Uplink,
    /// One radio: while it sends or hears a parcel, it can do nothing else.
    Air,
}

/// The radio, or the uplink, of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Medium {
    busy: bool,
    /// Directions of contacts that wait for it.
    waiting: VecDeque<(u32, usize)>,
}

impl World {
    /// The nodes whose medium a direction of a contact takes.
    fn users(&self, ends: [u32; 2], side: usize) -> Vec<u32> {
        match self.setup.share {
            Share::Nothing => Vec::new(),
            Share::Uplink => vec![ends[side]],
            Share::Air => ends.to_vec(),
        }
    }

    /// Takes the medium for a direction of a contact; one that does not get it waits.
    pub(super) fn take_medium(&mut self, ends: [u32; 2], at: (u32, usize)) -> bool {
        let users = self.users(ends, at.1);
        // All or none: a direction that held one medium while it waits for another could stop both.
        let busy = users.iter().find(|node| self.media[**node as usize].busy);
        if let Some(node) = busy {
            let waiting = &mut self.media[*node as usize].waiting;
            // It asks again with each parcel that it gets.
            if !waiting.contains(&at) {
                waiting.push_back(at);
            }
            return false;
        }
        for node in users {
            self.media[node as usize].busy = true;
        }
        true
    }

    /// Lets the medium go, and lets those send that wait for it.
    pub(super) fn release_medium(&mut self, ends: [u32; 2], side: usize) {
        let users = self.users(ends, side);
        for node in &users {
            self.media[*node as usize].busy = false;
        }
        for node in users {
            // One that begins makes the medium busy again; one that waits for the other end's goes
            // into that one's queue.
            while !self.media[node as usize].busy {
                let Some((contact, side)) = self.media[node as usize].waiting.pop_front() else {
                    break;
                };
                self.next_parcel(contact, side);
            }
        }
    }
}
