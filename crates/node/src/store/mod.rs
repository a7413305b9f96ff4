//! The store: payload files by hash, an index of what is here, and a catalogue in memory.
//!
//! What is acknowledged is durable: payload files are flushed before the index, and the index
//! before the answer. What is not acknowledged leaves nothing behind: payloads arrive in
//! `incoming/`, and every start empties it. The store decides nothing; the order of eviction and
//! the rules of verification are in `lavant-proto`.

// From the ground up: a module uses only those that stand before it; `xtask/src/tidy/layers.rs` has
// the order and checks it.

// What is known, without a disk.
mod catalog;
mod change;
mod clock;
mod convert;
mod error;
mod locked;
mod rows;
mod standing;

// Files, of which all is done through a `Disk`.
mod disk;
mod flush;
mod layout;
mod manifest;
mod payload;
mod pieces;
mod place;
mod settings;

// The index, and its one kind of transaction.
mod counts;
mod effects;
mod index;
mod limit;
mod partials;
mod queues;
mod tx;

// What is done in a transaction.
mod expire;
mod insert;
mod removals;
mod room;
mod supersede;

// The writer, and what is asked of it.
mod admit;
mod adopt;
mod append;
mod engine;
mod feed;
mod finish;
mod hot;
mod lock_file;
mod partial;
mod publish;
mod reserve;
mod shared;
mod stage;
mod upload;
mod uploads;
mod writer;

// The start, and work on a store itself.
mod backup;
mod check;
mod open;
mod rebuild;
mod recover;
mod snapshot;

// Reading, and the handle for async code.
mod handle;
mod read;

#[cfg(test)]
mod tests;

pub use adopt::SliceFile;
pub use append::{Growing, NewSegment};
pub use backup::{BackupError, BackupReport, Progress, back_up, restore};
pub use catalog::{Catalog, Changed, Content, ManifestFacts, RenditionState, Shown, State};
pub use change::Change;
pub use check::{CheckReport, GcReport};
pub use clock::Clock;
pub use disk::{Disk, Space};
pub use engine::Store;
pub use error::{OpenError, StoreError};
pub use feed::Held;
pub use handle::AsyncStore;
pub use layout::Layout;
pub use open::refuse_other;
pub use partial::Partial;
pub use read::{PayloadFile, Segment};
pub use rows::SegmentRow;
pub use settings::Settings;
pub use snapshot::{Snapshot, SnapshotFacts};
pub use tx::Dropped;
pub use uploads::{
    Commit, CommitRendition, NewUpload, StagedSegment, UploadInfo, UploadProgress, UploadSegment,
};

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use lavant_proto::time::Time;
use locked::lock;

/// How far the clock may be behind the newest segment before the operator is told, in seconds.
const CLOCK_TOLERANCE: u64 = 5;

/// 2020-01-01T00:00:00Z: this program is younger.
const CLOCK_FLOOR: Time = Time(1_577_836_800_000_000);

/// After how many minutes of one backup the operator is told.
const SNAPSHOT_LONG: u64 = 10;

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
    /// A counter that grows with every change of the catalogue or an upload.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
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
        if self.settings().clock.now() < CLOCK_FLOOR {
            warnings.push(format!(
                "the clock says {}, which cannot be: set it, or what is published until then \
                 expires as soon as it is right",
                self.settings().clock.now().rfc3339()
            ));
        }
        if behind > CLOCK_TOLERANCE {
            warnings.push(format!(
                "the clock is {behind} s behind the newest segment in the store; segments stay \
                 longer until it is right"
            ));
        }
        warnings.extend(self.disk_fault());
        let since = lock(&self.shared.waiting).as_ref().map(|it| it.since);
        let minutes = since.map_or(0, |since| since.elapsed().as_secs() / 60);
        if minutes >= SNAPSHOT_LONG {
            warnings.push(format!(
                "a backup is being made since {minutes} minutes; files of what was removed since \
                 then are still there, and no other backup can be made"
            ));
        }
        warnings
    }

    /// Tries to write the index when something could not be written, so that [`Store::disk_fault`]
    /// says how the disk is now. Blocks.
    pub fn recheck_disk(&self) {
        let failed = lock(&self.shared.unwritten).is_some();
        if failed {
            // The writer notes the outcome.
            let _ = self.write(|_| Ok(()));
        }
    }

    /// What is wrong with the disk, if anything is: it could not be written when that was last
    /// tried, or it has less free than is kept in reserve.
    #[must_use]
    pub fn disk_fault(&self) -> Option<String> {
        if let Some(error) = &*lock(&self.shared.unwritten)
            && !error.is_disk_full()
        {
            return Some(format!(
                "the disk that holds the store cannot be written: {error}; what is here is served, \
                 and it is tried again"
            ));
        }
        let Settings {
            disk,
            layout,
            min_free,
            ..
        } = self.settings();
        let free = disk.space(layout.root()).free;
        (free < *min_free).then(|| {
            format!(
                "the disk that holds the store has {free} bytes free and {min_free} are kept in \
                 reserve: nothing more is taken; free some space, or remove content before the \
                 disk is full to the last byte"
            )
        })
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
}
