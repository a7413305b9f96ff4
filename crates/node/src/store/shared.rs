//! What all handles of a store and its writer share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use lavant_proto::ids::Root;
use lavant_proto::relay::evict::Standing;
use tokio::sync::watch;

use super::catalog::Catalog;
use super::change::Listeners;
use super::error::StoreError;
use super::hot::Hot;
use super::index::Index;
use super::limit::Limit;
use super::lock_file::Lock;
use super::locked::lock;
use super::partials::Partials;
use super::settings::Settings;
use super::standing::Standings;
use super::tx::{Dropped, Ground};

/// What is shared between handles and the writer thread.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) is_writable: bool,
    pub(super) standings: Arc<Standings>,
    pub(super) limit: Option<Limit>,
    pub(super) index: RwLock<Index>,
    pub(super) catalog: RwLock<Arc<Catalog>>,
    /// Bytes of payload files.
    pub(super) used: AtomicU64,
    /// Bytes that uploads hold, and partial payloads.
    pub(super) staged: AtomicU64,
    pub(super) partials: Partials,
    pub(super) dropped: Mutex<Dropped>,
    pub(super) hot: Mutex<Hot>,
    /// What waits for the end of a snapshot; none while there is no snapshot.
    pub(super) waiting: Mutex<Option<Waiting>>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) listeners: Mutex<Listeners>,
    pub(super) warnings: Mutex<Vec<String>>,
    /// Why the disk could not be written when that was last tried; none when it could.
    pub(super) unwritten: Mutex<Option<StoreError>>,
    pub(super) lock: Lock,
}

impl Shared {
    /// Refuses `incoming` bytes when the disk has no room for them beyond the reserve.
    pub(super) fn check_disk(&self, incoming: u64, standing: Standing) -> Result<(), StoreError> {
        let space = self.settings.disk.space(self.settings.layout.root());
        let (free, kept) = (space.free, space.kept(self.settings.min_free, standing));
        if free < incoming.saturating_add(kept) {
            return Err(StoreError::DiskFull { free, kept });
        }
        Ok(())
    }

    /// Remembers whether the disk could be written, for whoever asks how it is.
    pub(super) fn note_written(&self, outcome: Result<(), &StoreError>) {
        let failed = outcome.err();
        // What breaks a rule says nothing of the disk.
        if failed.is_none_or(|error| error.io_kind().is_some()) {
            if failed.is_some() {
                self.lock.note_failed();
            }
            *lock(&self.unwritten) = failed.cloned();
        }
    }

    /// The error for a file that could not be written.
    pub(super) fn unwritten(&self, doing: &str, error: io::Error) -> StoreError {
        let error = StoreError::io(doing, error);
        self.note_written(Err(&error));
        error
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn publish(&self, catalog: Catalog, used: u64, unstaged: u64, dropped: Dropped) {
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

    /// What the next transaction goes on from.
    pub(super) fn ground(&self) -> Ground<'_> {
        Ground {
            settings: &self.settings,
            standings: &self.standings,
            catalog: self.catalog().as_ref().clone(),
            used: self.used.load(Ordering::Acquire),
            staged: self.staged.load(Ordering::Acquire),
            limit: self.limit,
            partials: &self.partials,
        }
    }

    /// Removes a payload's file; the next start removes it when this fails. Whether it is gone.
    pub(super) fn forget(&self, root: &Root) -> bool {
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
        if self.is_writable && layout.flush(disk).is_ok() {
            self.lock.note_closed();
        }
    }
}

/// What waits for the end of a snapshot before it is removed.
#[derive(Debug)]
pub(super) struct Waiting {
    /// When the snapshot was begun.
    pub(super) since: Instant,
    pub(super) roots: Vec<Root>,
    pub(super) files: Vec<PathBuf>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            roots: Vec::new(),
            files: Vec::new(),
        }
    }
}

impl Shared {
    /// Whether a payload that went keeps its file for a snapshot.
    fn root_waits(&self, root: &Root) -> bool {
        let mut waiting = lock(&self.waiting);
        let waits = waiting.as_mut().map(|waiting| waiting.roots.push(*root));
        waits.is_some()
    }

    /// The same of a manifest or a pin.
    pub(super) fn file_waits(&self, file: &Path) -> bool {
        let layout = &self.settings.layout;
        if !file.starts_with(layout.manifests()) && !file.starts_with(layout.pins()) {
            return false;
        }
        let mut waiting = lock(&self.waiting);
        let waits = waiting.as_mut();
        waits.map(|it| it.files.push(file.to_owned())).is_some()
    }
}
