//! A store as it is at one moment, kept together while work goes on: what a backup is made from.
//!
//! The index is copied out of one read transaction into `snapshot/`, and each file that it names
//! gets a second name there, under its hash or number. What goes in the meantime keeps its file
//! until its second name is there, so that nothing is missing which the copied index names.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use lavant_proto::ids::Root;
use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::catalog::{Content, State};
use super::disk::{Access, Disk};
use super::engine::Store;
use super::error::StoreError;
use super::index::Index;
use super::layout::Layout;
use super::locked::lock;
use super::payload;
use super::rows::{
    ARRIVALS, CONTENTS, DEADLINES, EVICTION, GARBAGE, LEFTOVERS, META, PAYLOADS, REMOVALS,
    REQUEUES, SEGMENTS, VERSIONS,
};
use super::settings::Settings;
use super::shared::Waiting;
use super::tx::Tx;

/// How many files are named between two reports of progress.
const REPORT_EVERY: u64 = 64;
/// Bytes that are copied at a time.
const COPY_PIECE: usize = 1 << 20;

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// Contents, all versions counted.
    pub contents: u64,
    /// Segments that are here.
    pub segments: u64,
    /// Payload files.
    pub payloads: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Payload files that the store lacks, or that are too short.
    pub missing: u64,
}

/// A snapshot, which goes when this is dropped. That blocks.
pub struct Snapshot {
    store: Store,
    /// What it holds.
    pub facts: SnapshotFacts,
}

impl Snapshot {
    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.store.settings().layout.snapshot()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.store.release_snapshot();
    }
}

impl Store {
    /// Makes a snapshot; there is one at a time. Blocks, while others write.
    ///
    /// `progress` is told how many of how many payload files are done, and ends the work with
    /// [`StoreError::Interrupted`] when it is false.
    pub fn snapshot(&self, progress: impl FnMut(u64, u64) -> bool) -> Result<Snapshot, StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        {
            let mut waiting = lock(&self.shared.waiting);
            if let Some(held) = &*waiting {
                return Err(StoreError::Busy(format!(
                    "a backup is being made from this store since {} s; wait until it has ended, \
                     or end the program that makes it",
                    held.since.elapsed().as_secs()
                )));
            }
            // Before the index is read: what it names is not removed from here on.
            *waiting = Some(Waiting::default());
        }
        // Dropped on every way out from here: what waits never waits longer than this.
        let mut snapshot = Snapshot {
            store: self.clone(),
            facts: SnapshotFacts::default(),
        };
        snapshot.facts = self.fill_snapshot(progress)?;
        Ok(snapshot)
    }

    fn fill_snapshot(
        &self,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<SnapshotFacts, StoreError> {
        let Settings { disk, layout, .. } = self.settings();
        let folder = layout.snapshot();
        let failed = |error: io::Error| StoreError::io("make a snapshot of the store", error);
        disk.files.make_folder(&folder).map_err(failed)?;
        disk.clear(&folder);
        let read = {
            let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
            index.begin_read()?
        };
        let total = copy_index(self.settings(), &read)?;
        let mut facts = SnapshotFacts::default();
        // One after another: all of them at once would take as much memory as the catalogue.
        for entry in read.open_table(CONTENTS)?.iter()? {
            let (no, row) = entry?;
            let content = Content::decode(no.value(), row.value())?;
            name_others(disk, layout, &content).map_err(failed)?;
            facts.contents += 1;
            facts.segments += content.segment_count();
        }
        for entry in read.open_table(PAYLOADS)?.iter()? {
            let (root, uses) = entry?;
            let Ok(root) = <[u8; 32]>::try_from(root.value()) else {
                continue;
            };
            let root = Root(root);
            let place = layout.payload(&root);
            let named = name_again(disk, &place, &folder.join(root.to_string()));
            let named = named.map_err(|error| {
                StoreError::io(format!("take {} into the backup", place.display()), error)
            })?;
            let length = disk.files.facts(&place).map_or(0, |facts| facts.length);
            // What was damaged otherwise is noticed when it is read, here or from the copy.
            if length < payload::disk_bytes(uses.value().1) {
                facts.missing += 1;
            }
            if named {
                facts.payloads += 1;
                facts.bytes += uses.value().1;
            }
            if facts.payloads.is_multiple_of(REPORT_EVERY) && !progress(facts.payloads, total) {
                return Err(StoreError::Interrupted);
            }
        }
        progress(total, total);
        Ok(facts)
    }

    /// Removes the second names, and what waited for it.
    fn release_snapshot(&self) {
        let Settings { disk, layout, .. } = self.settings();
        disk.clear(&layout.snapshot());
        let Some(waiting) = lock(&self.shared.waiting).take() else {
            return;
        };
        if waiting.roots.is_empty() && waiting.files.is_empty() {
            return;
        }
        // What cannot be removed now is removed by the next start.
        let _ = self.write(move |tx| let_go(tx, waiting));
    }
}

/// Removes what waited, unless it is of use again.
fn let_go(tx: &mut Tx<'_>, waiting: Waiting) -> Result<(), StoreError> {
    for root in waiting.roots {
        tx.remove_again(root)?;
    }
    let layout = &tx.settings().layout;
    let mut files = waiting.files;
    // A content may have been pinned again. The name of a manifest is never used again.
    if files.iter().any(|file| file.starts_with(layout.pins())) {
        let pinned = tx.catalog().all().filter(|content| content.pinned);
        let pinned: BTreeSet<PathBuf> = pinned.map(|content| layout.pin(&content.key)).collect();
        files.retain(|file| !pinned.contains(file));
    }
    files.into_iter().for_each(|file| tx.remove_file(file));
    Ok(())
}

/// What stands in a snapshot beside its index, and what it is.
pub(super) enum Part {
    Payload(Root),
    Manifest(u64),
    Pin(String),
}

impl Part {
    /// By its name in a snapshot.
    pub(super) fn of(name: &str) -> Option<Self> {
        if let Some(no) = name.strip_prefix(MANIFEST) {
            return Some(Self::Manifest(u64::from_str_radix(no, 16).ok()?));
        }
        if let Some(pin) = name.strip_prefix(PIN) {
            return Some(Self::Pin(pin.to_owned()));
        }
        name.parse().ok().map(Self::Payload)
    }

    /// Its place in a store.
    pub(super) fn place(&self, layout: &Layout) -> PathBuf {
        match self {
            Self::Payload(root) => layout.payload(root),
            Self::Manifest(no) => layout.manifest(*no),
            Self::Pin(name) => layout.pins().join(name),
        }
    }
}

const MANIFEST: &str = "manifest-";
const PIN: &str = "pin-";

/// Names the manifest and the pin of a content.
fn name_others(disk: &Disk, layout: &Layout, content: &Content) -> io::Result<()> {
    let folder = layout.snapshot();
    if content.state == State::Finished {
        let name = folder.join(format!("{MANIFEST}{:016x}", content.no));
        name_again(disk, &layout.manifest(content.no), &name)?;
    }
    if content.pinned {
        let pin = layout.pin(&content.key);
        if let Some(name) = pin.file_name().and_then(|name| name.to_str()) {
            name_again(disk, &pin, &folder.join(format!("{PIN}{name}")))?;
        }
    }
    Ok(())
}

/// Gives a file a second name, or copies it where the file system knows none. Whether it was there.
fn name_again(disk: &Disk, file: &Path, name: &Path) -> io::Result<bool> {
    match link_or_copy(disk, file, name, false) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a file another name, or copies it durably: where it has to be another one, or where the
/// file system knows no second names. Whether it was linked.
pub(super) fn link_or_copy(disk: &Disk, from: &Path, to: &Path, copy: bool) -> io::Result<bool> {
    if !copy {
        match disk.files.link(from, to) {
            Ok(()) => return Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::AlreadyExists
                        | io::ErrorKind::StorageFull
                        | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                return Err(error);
            }
            // Another file system, one without links, or one with too many.
            Err(_) => {}
        }
    }
    let source = disk.open(from)?;
    let part = to.with_extension("part");
    let target = disk.files.open(&part, Access::Anew)?;
    let mut piece = vec![0; COPY_PIECE];
    let mut at = 0;
    loop {
        let read = source.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        target.write_all_at(at, &piece[..read])?;
        at += read as u64;
    }
    target.flush()?;
    disk.files.rename(&part, to)?;
    Ok(false)
}

/// Copies the tables of an index, but for what is to be removed. Returns how many payloads it has.
fn copy_index(settings: &Settings, read: &ReadTransaction) -> Result<u64, StoreError> {
    let Settings { disk, layout, .. } = settings;
    let path = layout.snapshot().join("index.redb");
    let made = disk.files.open(&path, Access::New);
    made.map_err(|error| StoreError::io("make a snapshot of the store", error))?;
    let mut builder = redb::Builder::new();
    builder.set_cache_size(usize::try_from(settings.index_memory).unwrap_or(usize::MAX));
    let opened = disk.files.index(&path, &builder);
    let index = Index::Writable(opened?);
    let write = index.begin_write()?;
    copy(read, &write, META)?;
    copy(read, &write, CONTENTS)?;
    copy(read, &write, SEGMENTS)?;
    copy(read, &write, DEADLINES)?;
    copy(read, &write, EVICTION)?;
    let payloads = copy(read, &write, PAYLOADS)?;
    copy(read, &write, VERSIONS)?;
    copy(read, &write, REMOVALS)?;
    copy(read, &write, LEFTOVERS)?;
    copy(read, &write, ARRIVALS)?;
    copy(read, &write, REQUEUES)?;
    // What is to be removed has no second name, so there is nothing of it to remove.
    write.open_table(GARBAGE)?;
    write.commit()?;
    Ok(payloads)
}

/// Copies a table. Returns how many rows it has.
fn copy<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    write: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<u64, StoreError> {
    let from = match read.open_table(table) {
        Ok(from) => from,
        // An index of an earlier version lacks some.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut to = write.open_table(table)?;
    let mut count = 0;
    for entry in from.iter()? {
        let (key, value) = entry?;
        to.insert(key.value(), value.value())?;
        count += 1;
    }
    Ok(count)
}
