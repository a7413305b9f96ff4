//! How a store behaves.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::ids::PublisherKey;

use super::clock::Clock;
use super::disk::Disk;
use super::layout::Layout;

/// A third of a second of reading.
const LARGE_INDEX: u64 = 256 << 20;

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its files are.
    pub layout: Layout,
    /// Most bytes of payload files (`--store-limit`).
    pub limit: Option<u64>,
    /// Without such a limit, the percent of what the disk has free at the start that others may
    /// take beside what is here.
    pub disk_share: Option<u8>,
    /// Percent of that limit that on-demand, near-live and live segments may take: one that would
    /// be beyond lets others of its priority go first.
    pub class_share: [u8; 3],
    /// Percent of the limits on bytes and contents that a publisher may take which is neither the
    /// node's own nor trusted.
    pub publisher_share: Option<u8>,
    /// Percent of the same that all such publishers may take together.
    pub strangers_share: Option<u8>,
    /// Publishers that may take as much as there is.
    pub trusted: BTreeSet<PublisherKey>,
    /// Bytes of the disk that are never used, so that the index can always be written. Strangers
    /// leave more.
    pub min_free: u64,
    /// Most bytes of recent live segments held in memory.
    pub hot_memory: u64,
    /// Most bytes of the index held in memory.
    pub index_memory: u64,
    /// The bytes from which on an index is large: a start does not check its pages, and each commit
    /// says which of them are free, so that no start reads all of it.
    pub large_index: u64,
    /// Whether the start checks all pages of the index, however many there are.
    pub check_index: bool,
    /// After how long without a segment an upload is rolled back.
    pub upload_idle: Duration,
    /// After how long without a segment a growing on-demand content is taken as finished.
    pub finish_after: Duration,
    /// Time to live of live, near-live and on-demand segments.
    pub ttl: [Duration; 3],
    /// Where the time comes from.
    pub clock: Clock,
    /// Who knows what the disk has free.
    pub disk: Disk,
}

impl Settings {
    /// The defaults, for a store in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            layout: Layout::new(folder),
            limit: None,
            disk_share: None,
            class_share: [100, 30, 20],
            publisher_share: None,
            strangers_share: None,
            trusted: BTreeSet::new(),
            min_free: 64 << 20,
            hot_memory: 32 << 20,
            index_memory: 16 << 20,
            large_index: LARGE_INDEX,
            check_index: false,
            upload_idle: Duration::from_secs(3600),
            finish_after: Duration::from_secs(300),
            ttl: Priority::ALL.map(Priority::default_ttl),
            clock: Clock::system(),
            disk: Disk::system(),
        }
    }

    /// The time to live for segments of that priority.
    #[must_use]
    pub fn ttl_of(&self, priority: Priority) -> Duration {
        self.ttl[usize::from(priority.rank())]
    }
}
