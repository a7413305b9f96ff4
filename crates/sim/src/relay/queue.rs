//! The queue of what happens next.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use lavant_proto::time::Time;

use super::arena::Arena;
use super::universe::Meeting;
use super::world::Parcel;

/// Something that happens.
/// Small, as millions may wait: what is large lies in an arena, and its place stands here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Begin(u32),
    End(u32),
    Publish(u32, u64),
    Expire(u32),
    Crash(u32),
    Restart(u32),
    Tear(u32),
    Watch(u32),
    Timer(u32),
    /// What a direction of a contact was sending is sent.
    Sent(u32, u8),
    /// The parcel with that place came over a direction of a contact.
    Arrive(u32, u8, u32),
}

struct Due {
    at: Time,
    /// What is due at one time happens in the order in which it was planned: a run has to repeat
    /// itself.
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What happens next, and what is on its way then.
pub(super) struct Queue {
    heap: BinaryHeap<Due>,
    order: u64,
    /// Meetings that have not begun, the next one last: only what goes on is in the heap.
    coming: Vec<u32>,
    pub(super) parcels: Arena<Parcel>,
}

impl Queue {
    pub(super) fn new(meetings: &[Meeting]) -> Self {
        let mut coming: Vec<u32> = (0..meetings.len() as u32).collect();
        coming.sort_unstable_by_key(|number| Reverse((meetings[*number as usize].from, *number)));
        Self {
            heap: BinaryHeap::new(),
            // The numbers below belong to meetings.
            order: Self::begins(meetings.len() as u32),
            coming,
            parcels: Arena::default(),
        }
    }

    /// At one time meetings come before all else, in their order; each begins, then it ends.
    const fn begins(meeting: u32) -> u64 {
        2 * meeting as u64
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        let order = match event {
            Event::End(meeting) => Self::begins(meeting) + 1,
            _ => {
                self.order += 1;
                self.order
            }
        };
        self.heap.push(Due { at, order, event });
    }

    pub(super) fn next(&mut self, meetings: &[Meeting]) -> Option<(Time, Event)> {
        if let Some(number) = self.coming.last().copied() {
            let from = meetings[number as usize].from;
            // As if it stood in the heap, which it enters only by its end.
            let begins = (from, Self::begins(number));
            let first = self.heap.peek();
            if first.is_none_or(|first| begins < (first.at, first.order)) {
                self.coming.pop();
                return Some((from, Event::Begin(number)));
            }
        }
        self.heap.pop().map(|due| (due.at, due.event))
    }
}
