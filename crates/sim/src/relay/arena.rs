//! Places for things that come and go, used again and again.

use super::world::Contact;

/// Things by the number of their place.
#[derive(Debug)]
pub(super) struct Arena<T> {
    places: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Arena<T> {
    pub(super) fn put(&mut self, it: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(it);
            return place;
        }
        self.places.push(Some(it));
        self.places.len() as u32 - 1
    }

    pub(super) fn take(&mut self, place: u32) -> Option<T> {
        let it = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(it)
    }
}

/// Stands for a meeting that is no contact now.
const NONE: u32 = u32::MAX;

/// The contacts that are up. Each has the number of its meeting, which no other one ever gets:
/// nodes keep what they know of a contact by its number.
#[derive(Debug)]
pub(super) struct Contacts {
    arena: Arena<Contact>,
    /// The place of each contact, by its number.
    places: Vec<u32>,
    /// The contacts of each node.
    of_node: Vec<Vec<u32>>,
}

impl Contacts {
    pub(super) fn new(nodes: u32, meetings: usize) -> Self {
        Self {
            arena: Arena::default(),
            places: vec![NONE; meetings],
            of_node: vec![Vec::new(); nodes as usize],
        }
    }

    pub(super) fn insert(&mut self, number: u32, contact: Contact) {
        for end in contact.ends {
            self.of_node[end as usize].push(number);
        }
        self.places[number as usize] = self.arena.put(contact);
    }

    /// The numbers of a node's contacts, from the lowest on.
    pub(super) fn of(&self, node: u32) -> Vec<u32> {
        let mut numbers = self.of_node[node as usize].clone();
        // Not by when they began: what is done to all of them has one order.
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn get(&self, number: u32) -> Option<&Contact> {
        // `NONE` is beyond all places, and so finds nothing.
        let place = self.places[number as usize];
        self.arena.places.get(place as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Contact> {
        let place = self.places[number as usize];
        self.arena.places.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Contact> {
        let place = std::mem::replace(&mut self.places[number as usize], NONE);
        let contact = self.arena.take(place)?;
        for end in contact.ends {
            self.of_node[end as usize].retain(|its| *its != number);
        }
        Some(contact)
    }
}
