//! Segments that are not stored yet, and stored ones that are doubted.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::ids::Root;
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, Place, RequestNo};
use lavant_proto::runs::GroupRun;
use tokio::time::Instant;

use crate::store::{Partial, StoreError};

/// Payloads that were looked at of late, and for how long they are not looked at again: a contact
/// can call any segment damaged for a few bytes, and each look hashes a whole payload.
const LOOKED_MAX: usize = 1024;
const LOOKED_FOR: Duration = Duration::from_secs(600);

/// A segment whose record was verified and that is not stored yet.
pub(super) struct Pending {
    pub(super) record: Verified<SegmentRecord>,
    pub(super) proof: Proof,
    pub(super) room: Room,
}

/// Where the chunk groups of a segment go.
pub(super) enum Room {
    /// It was not asked for yet.
    None,
    /// The store is making room; these are to be asked then.
    Opening(Vec<Asking>),
    Open(Arc<Partial>),
}

/// Something that is to be asked of a contact.
pub(super) struct Asking {
    pub(super) contact: ContactNo,
    pub(super) request: RequestNo,
    pub(super) groups: GroupRun,
    pub(super) message: Box<Message>,
}

impl Pending {
    pub(super) const fn new(record: Verified<SegmentRecord>, proof: Proof) -> Self {
        Self {
            record,
            proof,
            room: Room::None,
        }
    }
}

/// Payloads that peers doubt: one is looked at at a time, each once in a while.
#[derive(Default)]
pub(super) struct Doubts {
    pub(super) waiting: VecDeque<Place>,
    pub(super) looking: bool,
    looked: VecDeque<(Root, Instant)>,
    known: BTreeSet<[u8; 32]>,
}

impl Doubts {
    pub(super) fn is_fresh(&mut self, root: &Root, now: Instant) -> bool {
        // In the order of time, so the oldest is in front. Both hold the same roots.
        while let Some((old, at)) = self.looked.front().copied()
            && (now.duration_since(at) > LOOKED_FOR || self.looked.len() >= LOOKED_MAX)
        {
            self.looked.pop_front();
            self.known.remove(&old.0);
        }
        let fresh = self.known.insert(root.0);
        if fresh {
            self.looked.push_back((*root, now));
        }
        fresh
    }
}

/// Whether a segment that was refused will be refused again. Where there was no room for it there
/// may be some later, also within a share: what is here of its publisher goes, too.
pub(super) const fn is_final(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Invalid(_)
            | StoreError::Conflict(_)
            | StoreError::Removed(_)
            | StoreError::NotFound(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_now_is_welcome_later() {
        let publisher = lavant_proto::ids::PublisherKey([1; 32]);
        for no_room in [
            StoreError::Full {
                limit: 1,
                wanted: 2,
            },
            StoreError::Share {
                publisher,
                share: 1,
            },
            StoreError::Strangers { share: 1 },
            StoreError::DiskFull { free: 1, kept: 2 },
        ] {
            assert!(!is_final(&no_room), "{no_room}");
        }
        assert!(is_final(&StoreError::Removed("film".into())));
    }

    #[test]
    fn a_payload_that_was_looked_at_is_not_looked_at_again_for_a_while() {
        let mut doubts = Doubts::default();
        let now = Instant::now();
        let root = |n: u16| {
            let mut root = [0; 32];
            root[..2].copy_from_slice(&n.to_le_bytes());
            Root(root)
        };
        assert!(doubts.is_fresh(&root(1), now));
        assert!(!doubts.is_fresh(&root(1), now + LOOKED_FOR / 2));
        assert!(doubts.is_fresh(&root(1), now + LOOKED_FOR * 2));
        // However many are doubted, few are remembered.
        for n in 0..5_000 {
            doubts.is_fresh(&root(n), now + LOOKED_FOR * 2);
        }
        assert!(doubts.looked.len() <= LOOKED_MAX && doubts.known.len() <= LOOKED_MAX);
    }
}
