//! Backups: a folder that is a store of its own, brought up to a snapshot of another, and back.
//!
//! Payload files are named by their hash and never change, so that a later backup adds what is new
//! and removes what went; at every moment the folder's index names only files that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use lavant_proto::ids::Root;
use redb::{ReadOnlyDatabase, ReadableDatabase, ReadableTable};

use super::catalog::{Content, State};
use super::disk::Disk;
use super::error::OpenError;
use super::error::StoreError;
use super::layout::{self, Layout};
use super::lock_file::Lock;
use super::payload;
use super::rows::{CONTENTS, PAYLOADS};
use super::snapshot::{Part, SnapshotFacts, link_or_copy};

/// The file that says that it is one which was begun.
const BEGUN: &str = "backup.part";
/// Files beside the index that a store needs to be the same one.
const KEYS: [&str; 4] = ["node.key", "known_peers", "api.token", "live.key"];

/// What a backup, or what brings one back, did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Files that were copied.
    pub copied: u64,
    /// Files that got a second name instead: they are on the same disk.
    pub linked: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Files that were there already.
    pub kept: u64,
    /// Files that were removed.
    pub removed: u64,
    /// Payload files that are not there, or are too short.
    pub missing: u64,
}

/// Why a backup failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder cannot be used.
    #[error("{path} {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// What the backup is made from is not there any more.
    #[error(
        "the node ended or was started again while the backup was made; run the same command again"
    )]
    Gone,
    /// Another process uses the folder, or it cannot be locked.
    #[error(transparent)]
    Lock(#[from] OpenError),
    /// The caller ended it. What was done stays, and is gone on with the next time.
    #[error("interrupted; the same command goes on where this ended")]
    Interrupted,
}

impl BackupError {
    fn folder(path: &Path, reason: &str) -> Self {
        Self::Folder {
            path: path.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::folder(
                path,
                "does not fit: its disk is full; make room there, or give a folder on another one",
            ),
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                Self::folder(path, "is in the way: it is no folder, or lies below a file")
            }
            _ => Self::Io {
                path: path.to_owned(),
                source: error,
            },
        }
    }
}

/// What is told how many of how many files are done, and says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Brings a folder up to the snapshot of a store. Files get a second name there, or are copied when
/// `copy` says so or the folder is on another disk. Blocks.
pub fn back_up(
    store: &Layout,
    facts: &SnapshotFacts,
    target: &Path,
    copy: bool,
    progress: Progress<'_>,
) -> Result<BackupReport, BackupError> {
    let disk = Disk::system();
    let files = &*disk.files;
    refuse_nested(store.root(), target)?;
    let to = Layout::new(target);
    let (whole, begun) = (to.backup(), target.join(BEGUN));
    let is_own = disk.exists(&whole) || disk.exists(&begun);
    if !is_own && !is_empty(&disk, target)? {
        let reason = "is neither empty nor a backup; give another folder";
        return Err(BackupError::folder(target, reason));
    }
    layout::make_root(&disk, target).map_err(BackupError::io(target))?;
    let _lock = lock_backup(&disk, &to)?;
    if !is_own {
        let made = disk.write(&begun, b"");
        made.map_err(BackupError::io(&begun))?;
    }
    to.create(&disk).map_err(BackupError::io(target))?;
    let mut copier = Copier::new(&disk, copy);
    let snapshot = store.snapshot();
    let parts = parts_of(&disk, &snapshot, &to);
    let wanted: BTreeSet<&PathBuf> = parts.iter().map(|(place, _)| place).collect();
    clear_way(&disk, &to, &begun, &wanted)?;
    for (done, (place, file)) in parts.iter().enumerate() {
        match copier.bring(file, place) {
            Err(_) if !disk.exists(file) => return Err(BackupError::Gone),
            brought => brought?,
        }
        if !progress(done as u64, parts.len() as u64) {
            return Err(BackupError::Interrupted);
        }
    }
    if !disk.exists(&snapshot.join("index.redb")) {
        return Err(BackupError::Gone);
    }
    for name in KEYS {
        copier.renew(&store.root().join(name), &target.join(name))?;
    }
    to.flush(&disk).map_err(BackupError::io(target))?;
    // From here on the folder is what the snapshot is; until here it was what it was before.
    copier.renew(&snapshot.join("index.redb"), &to.index())?;
    let said = serde_json::json!({
        "lavant_backup": 1,
        "contents": facts.contents, "segments": facts.segments,
        "payloads": facts.payloads, "bytes": facts.bytes,
    });
    let written = disk.write(&whole, format!("{said}\n").as_bytes());
    written.map_err(BackupError::io(&whole))?;
    let _ = files.remove(&begun);
    files
        .flush_folder(target)
        .map_err(BackupError::io(target))?;
    let mut report = copier.report;
    report.removed = remove_others(&disk, &to, |place| wanted.contains(place))?;
    progress(parts.len() as u64, parts.len() as u64);
    Ok(report)
}

/// What a snapshot holds beside its index, with the places that it has in a backup.
fn parts_of(disk: &Disk, snapshot: &Path, to: &Layout) -> Vec<(PathBuf, PathBuf)> {
    let place_of = |file: &PathBuf| {
        let part = Part::of(file.file_name()?.to_str()?)?;
        Some(part.place(to))
    };
    let files = disk.files_below(snapshot).into_iter();
    files
        .filter_map(|file| Some((place_of(&file)?, file)))
        .collect()
}

/// Removes what a backup left that was cut, and that neither the one before nor this one needs:
/// where there is little room, it would take it for ever.
fn clear_way(
    disk: &Disk,
    to: &Layout,
    begun: &Path,
    wanted: &BTreeSet<&PathBuf>,
) -> Result<(), BackupError> {
    if disk.exists(begun) || !disk.exists(&to.index()) {
        remove_others(disk, to, |place| wanted.contains(place))?;
    } else if let Ok(named) = Named::read(to) {
        let is_needed = |place: &PathBuf| wanted.contains(place) || named.places.contains(place);
        remove_others(disk, to, is_needed)?;
    }
    Ok(())
}

/// Makes a store of a backup, in a folder in which none is. Blocks.
pub fn restore(
    backup: &Path,
    store: &Layout,
    progress: Progress<'_>,
) -> Result<BackupReport, BackupError> {
    let disk = Disk::system();
    let files = &*disk.files;
    let from = Layout::new(backup);
    check_whole(&disk, &from)?;
    refuse_nested(backup, store.root())?;
    let begun = store.restoring();
    if !disk.exists(&begun) && !is_empty(&disk, store.root())? {
        let reason = "is not empty; give --store a folder that is, or move this one away first";
        return Err(BackupError::folder(store.root(), reason));
    }
    layout::make_root(&disk, store.root()).map_err(BackupError::io(store.root()))?;
    let _lock = Lock::take(&disk, store)?;
    // Nobody writes to it, or removes from it, meanwhile.
    let _other = match Lock::take(&disk, &from) {
        Ok(lock) => Some(lock),
        Err(error @ OpenError::InUse { .. }) => return Err(error.into()),
        // A disk that is only read needs none.
        Err(_) => None,
    };
    disk.write(&begun, b"").map_err(BackupError::io(&begun))?;
    store.create(&disk).map_err(BackupError::io(store.root()))?;
    // Never a second name: what is restored must not depend on the disk that the backup is on.
    let mut copier = Copier::new(&disk, true);
    // What the index does not name, a backup that was cut has left there. When it cannot be read,
    // the store makes it again from all that is there.
    let named = Named::read(&from).ok();
    let all = match &named {
        Some(named) => named.places.iter().cloned().collect(),
        None => places(&disk, &from),
    };
    for (done, file) in all.iter().enumerate() {
        let Ok(relative) = file.strip_prefix(backup) else {
            continue;
        };
        let least = named.as_ref().and_then(|named| named.lengths.get(file));
        let length = disk.files.facts(file).map(|facts| facts.length).ok();
        if length.is_none() || least.is_some_and(|least| length < Some(*least)) {
            copier.report.missing += u64::from(least.is_some());
            continue;
        }
        copier.bring(file, &store.root().join(relative))?;
        if !progress(done as u64, all.len() as u64) {
            return Err(BackupError::Interrupted);
        }
    }
    for name in KEYS {
        copier.renew(&backup.join(name), &store.root().join(name))?;
    }
    store.flush(&disk).map_err(BackupError::io(store.root()))?;
    copier.renew(&from.index(), &store.index())?;
    let flushed = files.flush_folder(store.root());
    flushed.map_err(BackupError::io(store.root()))?;
    files.remove(&begun).map_err(BackupError::io(&begun))?;
    let flushed = files.flush_folder(store.root());
    flushed.map_err(BackupError::io(store.root()))?;
    progress(all.len() as u64, all.len() as u64);
    Ok(copier.report)
}

/// Brings files to their places.
struct Copier<'a> {
    disk: &'a Disk,
    copy: bool,
    report: BackupReport,
}

impl<'a> Copier<'a> {
    fn new(disk: &'a Disk, copy: bool) -> Self {
        let report = BackupReport::default();
        Self { disk, copy, report }
    }

    /// One whose name says what is in it: what is there of the same length is the same, but a
    /// second name of the file itself where it has to be another.
    fn bring(&mut self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let facts = self.disk.files.facts(from);
        let facts = facts.map_err(BackupError::io(from))?;
        if let Ok(there) = self.disk.files.facts(to) {
            let is_apart = !self.copy || there.id != facts.id;
            if there.length == facts.length && is_apart {
                self.report.kept += 1;
                return Ok(());
            }
            let removed = self.disk.files.remove(to);
            removed.map_err(BackupError::io(to))?;
        }
        match link_or_copy(self.disk, from, to, self.copy) {
            Ok(true) => self.report.linked += 1,
            Ok(false) => self.report.copied += 1,
            Err(error) => return Err(BackupError::io(to)(error)),
        }
        self.report.bytes += facts.length;
        Ok(())
    }

    /// One that changes: always copied, over what is there. One that is not there is passed over.
    fn renew(&self, from: &Path, to: &Path) -> Result<(), BackupError> {
        if !self.disk.exists(from) {
            return Ok(());
        }
        let copied = link_or_copy(self.disk, from, to, true);
        copied.map(|_| ()).map_err(BackupError::io(to))
    }
}

/// What the index of a backup names.
struct Named {
    places: BTreeSet<PathBuf>,
    /// The least length of the files of payloads.
    lengths: BTreeMap<PathBuf, u64>,
}

impl Named {
    /// Reads it; any fault means that it cannot be known.
    fn read(backup: &Layout) -> Result<Self, StoreError> {
        let failed = |error: redb::DatabaseError| StoreError::from(error);
        let index = ReadOnlyDatabase::open(backup.index()).map_err(failed)?;
        let read = index.begin_read()?;
        let mut lengths = BTreeMap::new();
        for entry in read.open_table(PAYLOADS)?.iter()? {
            let (root, uses) = entry?;
            if let Ok(root) = <[u8; 32]>::try_from(root.value()) {
                let least = payload::disk_bytes(uses.value().1);
                lengths.insert(backup.payload(&Root(root)), least);
            }
        }
        let mut places: BTreeSet<PathBuf> = lengths.keys().cloned().collect();
        for entry in read.open_table(CONTENTS)?.iter()? {
            let (no, row) = entry?;
            let content = Content::decode(no.value(), row.value())?;
            if content.state == State::Finished {
                places.insert(backup.manifest(content.no));
            }
            if content.pinned {
                places.insert(backup.pin(&content.key));
            }
        }
        Ok(Self { places, lengths })
    }
}

/// Removes payloads, manifests and pins that are not needed. Returns how many.
fn remove_others(
    disk: &Disk,
    layout: &Layout,
    is_needed: impl Fn(&PathBuf) -> bool,
) -> Result<u64, BackupError> {
    let mut removed = 0;
    for file in places(disk, layout) {
        if !is_needed(&file) {
            let gone = disk.files.remove(&file);
            gone.map_err(BackupError::io(&file))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Refuses a folder that is no whole backup which this program can bring back.
fn check_whole(disk: &Disk, from: &Layout) -> Result<(), BackupError> {
    let backup = from.root();
    let whole = from.backup();
    let refused = |reason: &str| Err(BackupError::folder(backup, reason));
    let said = match disk.read(&whole) {
        Ok(said) => said,
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BackupError::io(&whole)(error));
        }
        Err(_) if disk.exists(&backup.join(BEGUN)) => {
            return refused(
                "is a backup that was not finished; run 'lavant store backup' into it again",
            );
        }
        Err(_) => return refused("is no backup of a store"),
    };
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    if said["lavant_backup"] != 1 {
        return refused("is no backup that this lavant knows: its backup.json has another form");
    }
    if !disk.exists(&from.node_key()) {
        return refused(
            "has no node.key, without which the store would be that of another node; put it back, \
             or bring one with 'lavant key export'",
        );
    }
    Ok(())
}

/// Keeps other backups out of a folder, and nodes.
fn lock_backup(disk: &Disk, to: &Layout) -> Result<Lock, BackupError> {
    Lock::take(disk, to).map_err(|error| match error {
        OpenError::InUse { path, pid } => BackupError::Folder {
            path,
            reason: format!(
                "is in use by process {pid}: by another backup, or as the store of a node; wait \
                 until that has ended, or give another folder"
            ),
        },
        other => other.into(),
    })
}

/// All payloads, manifests and pins of a store.
fn places(disk: &Disk, layout: &Layout) -> Vec<PathBuf> {
    let folders = disk.files.list(&layout.segments()).unwrap_or_default();
    let folders = folders
        .into_iter()
        .chain([layout.manifests(), layout.pins()]);
    folders
        .flat_map(|folder| disk.files_below(&folder))
        .collect()
}

/// Whether nothing is in a folder but a lock, or it is not there.
fn is_empty(disk: &Disk, folder: &Path) -> Result<bool, BackupError> {
    let is_lock = |path: &PathBuf| path.file_name().is_some_and(|name| name == "lock");
    match disk.files.list(folder) {
        Ok(entries) => Ok(entries.iter().all(is_lock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(BackupError::io(folder)(error)),
    }
}

/// A backup inside the store would be part of it, and the other way round.
fn refuse_nested(one: &Path, other: &Path) -> Result<(), BackupError> {
    let real = |path: &Path| {
        // What is not there yet is judged by what is.
        let there = path.ancestors().find_map(|above| {
            let rest = path.strip_prefix(above).ok()?;
            let above = if above.as_os_str().is_empty() {
                Path::new(".")
            } else {
                above
            };
            Some(above.canonicalize().ok()?.join(rest))
        });
        there.unwrap_or_else(|| path.to_owned())
    };
    let (one, other_real) = (real(one), real(other));
    if one.starts_with(&other_real) || other_real.starts_with(&one) {
        let reason =
            "lies in the folder that it is made from, or the other way round; give one outside";
        return Err(BackupError::folder(other, reason));
    }
    Ok(())
}
