//! The store: payload files by hash, an index of what is here, and a catalogue in memory.
//!
//! What is acknowledged is durable: payload files are flushed before the index, and the index
//! before the answer. What is not acknowledged leaves nothing behind: payloads arrive in
//! `incoming/`, and every start empties it. The store decides nothing; the order of eviction and
//! the rules of verification are in `lavant-proto`.

mod admit;
mod adopt;
mod append;
mod backup;
mod catalog;
mod check;
mod clock;
mod disk;
mod error;
mod expire;
mod feed;
mod flush;
mod handle;
mod hot;
mod insert;
mod layout;
mod manifest;
mod open;
mod partial;
mod payload;
mod pieces;
mod place;
mod publish;
mod queues;
mod read;
mod rebuild;
mod recover;
mod room;
mod rows;
mod slot;
mod snapshot;
mod stage;
mod standing;
mod tx;
mod upload;
mod writer;

#[cfg(test)]
mod tests;

pub use adopt::SliceFile;
pub use append::NewSegment;
pub use backup::{BackupError, BackupReport, Progress, back_up, restore};
pub use catalog::{Catalog, Changed, Content, ManifestFacts, RenditionState, State};
pub use check::{CheckReport, GcReport};
pub use clock::Clock;
pub use disk::{Disk, Space};
pub use error::{OpenError, StoreError};
pub use feed::{Change, Held};
pub use handle::AsyncStore;
pub use layout::Layout;
pub use partial::Partial;
pub use read::{PayloadFile, Segment};
pub use rows::SegmentRow;
pub use snapshot::{Snapshot, SnapshotFacts};
pub use tx::Dropped;
pub use upload::{
    Commit, CommitRendition, NewUpload, StagedSegment, UploadInfo, UploadProgress, UploadSegment,
};

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::ids::{PublisherKey, Root, SigningKey};
use lavant_proto::relay::evict::Standing;
use tokio::sync::{oneshot, watch};

/// How far the clock may be behind the newest segment before the operator is told, in seconds.
const CLOCK_TOLERANCE: u64 = 5;

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

/// What is shared between handles and the writer thread.
struct Shared {
    settings: Settings,
    is_writable: bool,
    standings: Arc<standing::Standings>,
    limit: Option<room::Limit>,
    index: RwLock<open::Index>,
    catalog: RwLock<Arc<Catalog>>,
    /// Bytes of payload files.
    used: AtomicU64,
    /// Bytes that uploads hold, and partial payloads.
    staged: AtomicU64,
    partials: partial::Partials,
    dropped: Mutex<Dropped>,
    hot: Mutex<hot::Hot>,
    /// What waits for the end of a snapshot; none while there is no snapshot.
    waiting: Mutex<Option<snapshot::Waiting>>,
    changes: watch::Sender<u64>,
    listeners: Mutex<feed::Listeners>,
    warnings: Mutex<Vec<String>>,
}

/// A handle to an open store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writer: Option<Arc<writer::Writer>>,
    uploads: Arc<Mutex<upload::Uploads>>,
    key: Arc<SigningKey>,
    _lock: Arc<open::Lock>,
}

/// Numbers about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of payload files.
    pub bytes: u64,
    /// Most bytes allowed: what was set, or a part of the disk.
    pub limit: Option<u64>,
    /// Segments that are here.
    pub segments: u64,
    /// Contents, current versions only.
    pub contents: u64,
    /// Bytes of live segments in memory.
    pub hot_bytes: u64,
    /// Free bytes of the disk.
    pub disk_free: u64,
    /// What was let go since the start.
    pub dropped: Dropped,
}

impl Store {
    /// The store's settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The node's own public key.
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        self.key.publisher()
    }

    /// The node's secret key.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// Everything that is known, at this moment.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog()
    }

    /// A counter that grows with every change of the catalogue or an upload.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether nothing can be written.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.writer.is_none()
    }

    /// What the operator should know.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = lock(&self.shared.warnings).clone();
        let behind = self
            .catalog()
            .last_arrival()
            .since(self.settings().clock.now())
            .as_secs();
        if behind > CLOCK_TOLERANCE {
            warnings.push(format!(
                "the clock is {behind} s behind the newest segment in the store; segments stay \
                 longer until it is right"
            ));
        }
        warnings
    }

    /// Numbers for status pages and metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let catalog = self.catalog();
        Stats {
            bytes: self.shared.used.load(Ordering::Acquire),
            limit: self.shared.limit.map(|limit| limit.bytes),
            segments: catalog.segment_count(),
            contents: catalog.current_count(),
            hot_bytes: lock(&self.shared.hot).bytes(),
            disk_free: self
                .settings()
                .disk
                .space(self.settings().layout.root())
                .free,
            dropped: *lock(&self.shared.dropped),
        }
    }

    /// Runs an operation on the writer thread; refused when the store is read-only.
    fn submit<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut tx::Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let writer = self.writer.as_ref().ok_or(StoreError::ReadOnly)?;
        Ok(writer.submit(operation))
    }

    /// Like [`Store::submit`], waiting for the outcome. Not for async code.
    fn write<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut tx::Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit(operation)?
            .blocking_recv()
            .unwrap_or(Err(StoreError::Closed))
    }
}

impl Shared {
    /// Refuses `incoming` bytes when the disk has no room for them beyond the reserve.
    fn check_disk(&self, incoming: u64, standing: Standing) -> Result<(), StoreError> {
        let space = self.settings.disk.space(self.settings.layout.root());
        let (free, kept) = (space.free, space.kept(self.settings.min_free, standing));
        if free < incoming.saturating_add(kept) {
            return Err(StoreError::DiskFull { free, kept });
        }
        Ok(())
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn publish(&self, catalog: Catalog, used: u64, unstaged: u64, dropped: Dropped) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        self.used.store(used, Ordering::Release);
        self.staged.fetch_sub(unstaged, Ordering::AcqRel);
        let mut total = lock(&self.dropped);
        total.expired += dropped.expired;
        total.evicted += dropped.evicted;
        total.torn += dropped.torn;
        drop(total);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Removes a payload's file; the next start removes it when this fails. Whether it is gone.
    fn forget(&self, root: &Root) -> bool {
        lock(&self.hot).remove(root);
        if self.root_waits(root) {
            return false;
        }
        let Settings { disk, layout, .. } = &self.settings;
        let path = layout.payload(root);
        disk.files.remove(&path).is_ok() || !disk.exists(&path)
    }
}

impl Drop for Shared {
    /// Makes durable what was done to names after the last commit. The index is closed after it,
    /// and a start believes one that was closed.
    fn drop(&mut self) {
        let Settings { disk, layout, .. } = &self.settings;
        if self.is_writable {
            let _ = layout.flush(disk);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
