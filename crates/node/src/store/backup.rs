//! Backups: a folder that is a store of its own, brought up to a snapshot of another, and back.
//!
//! Payload files are named by their hash and never change, so that a later backup adds what is new
//! and removes what went; at every moment the folder's index names only files that are there.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::error::OpenError;
use super::layout::{self, Layout};
use super::lock_file::Lock;
use super::snapshot::{Part, SnapshotFacts, link_or_copy};

/// The file that says that a folder is a whole backup.
const WHOLE: &str = "backup.json";
/// The file that says that it is one which was begun.
const BEGUN: &str = "backup.part";
/// Files beside the index that a store needs to be the same one.
const KEYS: [&str; 3] = ["node.key", "known_peers", "api.token"];

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
        move |source| Self::Io {
            path: path.to_owned(),
            source,
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
    let (whole, begun) = (target.join(WHOLE), target.join(BEGUN));
    let is_own = disk.exists(&whole) || disk.exists(&begun);
    if !is_own && !is_empty(&disk, target) {
        let reason = "is neither empty nor a backup; give another folder";
        return Err(BackupError::folder(target, reason));
    }
    layout::make_root(&disk, target).map_err(BackupError::io(target))?;
    let _lock = Lock::take(&disk, &to)?;
    if !is_own {
        let made = disk.write(&begun, b"");
        made.map_err(BackupError::io(&begun))?;
    }
    to.create(&disk).map_err(BackupError::io(target))?;
    let mut copier = Copier::new(&disk, copy);
    let snapshot = store.snapshot();
    let parts = disk.files_below(&snapshot);
    let mut wanted = BTreeSet::new();
    for (done, file) in parts.iter().enumerate() {
        let name = file.file_name().and_then(|name| name.to_str());
        let Some(part) = name.and_then(Part::of) else {
            continue;
        };
        let place = part.place(&to);
        copier.bring(file, &place)?;
        wanted.insert(place);
        if !progress(done as u64, parts.len() as u64) {
            return Err(BackupError::Interrupted);
        }
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
    for file in places(&disk, &to) {
        if !wanted.contains(&file) {
            files.remove(&file).map_err(BackupError::io(&file))?;
            report.removed += 1;
        }
    }
    progress(parts.len() as u64, parts.len() as u64);
    Ok(report)
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
    if !disk.exists(&backup.join(WHOLE)) || !disk.exists(&from.index()) {
        let reason = if disk.exists(&backup.join(BEGUN)) {
            "is a backup that was not finished; run 'lavant store backup' into it again"
        } else {
            "is no backup of a store"
        };
        return Err(BackupError::folder(backup, reason));
    }
    refuse_nested(backup, store.root())?;
    let begun = store.restoring();
    if !disk.exists(&begun) && !is_empty(&disk, store.root()) {
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
    let all = places(&disk, &from);
    for (done, file) in all.iter().enumerate() {
        let Ok(relative) = file.strip_prefix(backup) else {
            continue;
        };
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
fn is_empty(disk: &Disk, folder: &Path) -> bool {
    let entries = disk.files.list(folder).unwrap_or_default();
    let is_lock = |path: &PathBuf| path.file_name().is_some_and(|name| name == "lock");
    entries.iter().all(is_lock)
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
        let reason = "lies in the store, or the store in it; give a folder outside";
        return Err(BackupError::folder(other, reason));
    }
    Ok(())
}
