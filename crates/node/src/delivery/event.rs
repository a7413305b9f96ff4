//! What tasks report to the driver, and the room for messages that it has not worked through.

use std::sync::Arc;

use lavant_proto::ids::Root;
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, ContentNo, Place, PushNo, RequestNo, TrackNo};
use lavant_proto::runs::{GroupRun, SequenceRun};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::holdings::{Told, Verdict};
use crate::link::Link;
use crate::store::{Partial, StoreError};

/// Something that a task reports.
pub(super) enum Event {
    Message(ContactNo, Box<Message>, Held),
    Arrived(ContactNo, RequestNo, GroupRun),
    Pushed(ContactNo, PushNo),
    Damaged(ContactNo, RequestNo),
    Unwritten(ContactNo, RequestNo),
    Lied(ContactNo, String),
    Sent(ContactNo, u64),
    Down(ContactNo, String),
    Dialled(u32, Result<Box<dyn Link>, String>),
    Told(Vec<Told>),
    Noted(
        Option<ContactNo>,
        (ContentNo, TrackNo),
        SequenceRun,
        Result<Vec<Verdict>, StoreError>,
    ),
    Opened(Place, Result<Arc<Partial>, StoreError>),
    Adopted(Place, Result<bool, StoreError>),
    Admitted(ContentNo, Result<u64, StoreError>),
    /// A question of a contact was read, in so many microseconds.
    Read(ContactNo, u64),
    Doubted(Option<Root>),
    Looked,
}

/// Bytes of messages that were read and that the driver has not worked through: of one contact, and
/// of all. What they say takes up to eight times as much.
const READ_MAX: usize = 256 << 10;
const READ_ALL_MAX: usize = 4 << 20;

/// Room for messages that were read.
#[derive(Clone)]
pub(super) struct ReadingRoom {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Room that a message takes until it was worked through.
pub(super) struct Held {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for ReadingRoom {
    fn default() -> Self {
        Self {
            own: Arc::new(Semaphore::new(READ_MAX)),
            all: Arc::new(Semaphore::new(READ_ALL_MAX)),
        }
    }
}

impl ReadingRoom {
    /// The room of one more contact.
    pub(super) fn of_contact(&self) -> Self {
        Self {
            own: Arc::new(Semaphore::new(READ_MAX)),
            all: Arc::clone(&self.all),
        }
    }

    /// Waits for room for a message of so many bytes.
    pub(super) async fn hold(&self, bytes: usize) -> Option<Held> {
        // More permits than there are would never be given. A message has 64 KiB at most.
        let bytes = u32::try_from(bytes.min(READ_MAX)).unwrap_or(u32::MAX);
        // Its own room first: while a contact waits for that, it holds nothing of what is for all.
        let own = Arc::clone(&self.own).acquire_many_owned(bytes).await.ok()?;
        let all = Arc::clone(&self.all).acquire_many_owned(bytes).await.ok()?;
        Some(Held {
            _own: own,
            _all: all,
        })
    }
}
