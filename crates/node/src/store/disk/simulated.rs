//! A disk in memory that can lose its power.
//!
//! What was flushed stays. Of everything else a cut leaves what chance decides: each write whole,
//! in part (in sectors), as a longer file with zeros, or not at all; each name made, moved or
//! removed, or not; in any order. Names are durable when their folder was flushed; flushing a file
//! says nothing of them.

mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redb::{Builder, Database, DatabaseError, ReadOnlyDatabase, StorageBackend};

pub(in crate::store) use state::Random;
use state::{Change, Flush, State, Write};

use super::super::{Clock, lock};
use super::{Access, Disk, DiskFile, Facts, Files, OpenFile, Space};

/// The bytes of the disk.
const TOTAL: u64 = 1 << 40;

/// A disk in memory; clones are the same one.
#[derive(Clone)]
pub(in crate::store) struct Simulated(Arc<Mutex<State>>);
/// What a disk does wrong.
#[derive(Clone, Copy, Default)]
pub(in crate::store) struct Faults {
    /// Flushes of the files born with such a path that say that they did and did nothing.
    pub(in crate::store) deaf_files: Option<fn(&Path) -> bool>,
    /// The same for folders.
    pub(in crate::store) deaf_folders: Option<fn(&Path) -> bool>,
    /// Flushes of the files born with such a path that are done only after the next one of the
    /// index, as if they were asked for too late.
    pub(in crate::store) late_files: Option<fn(&Path) -> bool>,
    /// The same for folders.
    pub(in crate::store) late_folders: Option<fn(&Path) -> bool>,
    /// Flushes of the files born with such a path that fail.
    pub(in crate::store) broken_files: Option<fn(&Path) -> bool>,
    /// In how many of 1000 cases something that needs room finds none.
    pub(in crate::store) full: u64,
    /// In how many of 1000 cases a flush fails.
    pub(in crate::store) flush: u64,
    /// In how many of 1000 cases a read fails.
    pub(in crate::store) read: u64,
    /// Nothing can be changed.
    pub(in crate::store) read_only: bool,
    /// Most bytes that there is room for.
    pub(in crate::store) room: Option<u64>,
    /// How long each flush takes.
    pub(in crate::store) slow: Duration,
}
impl Simulated {
    /// An empty one with a folder for temporary things at `/`.
    pub(in crate::store) fn new(clock: Clock, seed: u64) -> Self {
        let mut state = State {
            clock,
            random: Random(seed),
            faults: Faults::default(),
            nodes: BTreeMap::new(),
            next: 0,
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            locked: BTreeSet::new(),
            done: 0,
            flushes: 0,
            late: Vec::new(),
            overdue: Vec::new(),
            end: None,
            is_off: false,
            boot: 0,
        };
        let root = state.node(Path::new("/"), true);
        state.names.insert("/".into(), root);
        state.durable.insert("/".into(), root);
        Self(Arc::new(Mutex::new(state)))
    }

    /// What a store is to use.
    pub(in crate::store) fn disk(&self) -> Disk {
        Disk {
            files: Arc::new(self.clone()),
            space: None,
        }
    }

    pub(in crate::store) fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Has the power go with the one of the changes to come.
    pub(in crate::store) fn end_after(&self, changes: u64) {
        let mut state = self.state();
        state.end = Some(state.done + changes);
    }

    /// Takes the power.
    pub(in crate::store) fn turn_off(&self) {
        self.state().is_off = true;
    }

    pub(in crate::store) fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// How many changes there were.
    pub(in crate::store) fn changes(&self) -> u64 {
        self.state().done
    }

    /// The bytes that are taken.
    pub(in crate::store) fn taken(&self) -> u64 {
        self.state().taken()
    }

    /// How many flushes there were.
    pub(in crate::store) fn flushes(&self) -> u64 {
        self.state().flushes
    }

    /// Waits as long as a flush takes; others go on meanwhile.
    fn wait_for_flush(&self) {
        let slow = self.state().faults.slow;
        if !slow.is_zero() {
            std::thread::sleep(slow);
        }
    }

    /// Whether some file below `folder` has bytes that were not flushed.
    pub(in crate::store) fn is_dirty(&self, folder: &Path) -> bool {
        let state = self.state();
        let mut below = state
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(folder));
        below.any(|(_, node)| !state.nodes[node].pending.is_empty())
    }

    /// The files below a folder with their bytes.
    pub(in crate::store) fn files_of(&self, folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let below = state
            .names
            .iter()
            .filter(|(name, _)| name.starts_with(folder));
        let files = below.filter(|(_, node)| !state.nodes[node].is_folder);
        let files = files.map(|(name, node)| (name.clone(), state.nodes[node].bytes.clone()));
        files.collect()
    }

    /// Changes the bytes of a file as damage does.
    pub(in crate::store) fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Ok(node) = state.find(path) {
            let node = state.nodes.get_mut(&node).unwrap();
            change(&mut node.bytes);
            node.durable = node.bytes.clone();
        }
    }

    /// Takes a file away as if it had never been.
    pub(in crate::store) fn lose(&self, path: &Path) {
        let mut state = self.state();
        state.names.remove(path);
        state.durable.remove(path);
    }

    /// The disk as it is now, for another store.
    pub(in crate::store) fn fork(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            clock: state.clock.clone(),
            random: Random(state.done),
            faults: state.faults,
            nodes: state.nodes.clone(),
            next: state.next,
            durable: state.durable.clone(),
            names: state.names.clone(),
            pending: state.pending.clone(),
            locked: BTreeSet::new(),
            done: 0,
            flushes: 0,
            late: Vec::new(),
            overdue: Vec::new(),
            end: None,
            is_off: false,
            boot: state.boot,
        })))
    }

    /// The disk as it is when the power is back.
    pub(in crate::store) fn after_cut(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        let stays = |random: &mut Random, _: &Change| random.below(2) == 0;
        let left = |random: &mut Random, write: Write| write.after_cut(random);
        self.after(&mut random, stays, left)
    }

    /// The same when of what was not flushed all of these names stay, and nothing else.
    pub(in crate::store) fn after_cut_that_leaves(&self, stays: fn(&Path) -> bool) -> Self {
        let stay = |_: &mut Random, change: &Change| change.names().all(|name| stays(name));
        self.after(&mut Random(0), stay, |_, _| None)
    }

    fn after(
        &self,
        random: &mut Random,
        stays: impl Fn(&mut Random, &Change) -> bool,
        left: impl Fn(&mut Random, Write) -> Option<Write>,
    ) -> Self {
        let after = self.fork();
        let mut state = after.state();
        let mut names = std::mem::take(&mut state.durable);
        for change in std::mem::take(&mut state.pending) {
            if stays(random, &change) {
                change.apply(&mut names);
            }
        }
        // What is in a folder that is not there is not there either.
        let whole: BTreeSet<PathBuf> = names.keys().cloned().collect();
        names.retain(|name, _| name.ancestors().all(|above| whole.contains(above)));
        let named: BTreeSet<u64> = names.values().copied().collect();
        for node in state.nodes.values_mut() {
            let mut bytes = std::mem::take(&mut node.durable);
            for write in std::mem::take(&mut node.pending) {
                if let Some(write) = left(random, write) {
                    write.apply(&mut bytes);
                }
            }
            (node.durable, node.bytes) = (bytes.clone(), bytes);
        }
        state.nodes.retain(|no, _| named.contains(no));
        (state.durable, state.names) = (names.clone(), names);
        state.random = Random(random.below(u64::MAX));
        state.boot += 1;
        drop(state);
        after
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}
impl Files for Simulated {
    fn open(&self, path: &Path, access: Access) -> io::Result<DiskFile> {
        let mut state = self.state();
        state.check_power()?;
        let found = state.find(path).ok();
        if found.is_some() && matches!(access, Access::Anew | Access::Change { .. }) {
            state.check_writable()?;
        }
        let make = access != Access::Read && access != Access::Change { make: false };
        let node = match found {
            Some(_) if access == Access::New => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(node) => node,
            None if make => {
                state.begin_change(true)?;
                state.named(path, false)?
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        if found.is_some() && access == Access::Anew {
            state.begin_change(false)?;
            state.write(node, Write::Length(0));
        }
        Ok(Arc::new(Handle::new(self, node)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DiskFile>> {
        self.open(path, Access::Change { make: true })?;
        let (node, free) = {
            let mut state = self.state();
            let node = state.find(path)?;
            (node, state.locked.insert(node))
        };
        let mut file = Handle::new(self, node);
        file.holds = free;
        Ok(free.then(|| -> DiskFile { Arc::new(file) }))
    }

    fn facts(&self, path: &Path) -> io::Result<Facts> {
        let state = self.state();
        state.check_power()?;
        state.find(path).map(|node| state.facts(node))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.state();
        state.begin_read()?;
        state.find(folder)?;
        let inside = state
            .names
            .keys()
            .filter(|name| name.parent() == Some(folder));
        Ok(inside.cloned().collect())
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut missing: Vec<&Path> = folder.ancestors().collect();
        missing.retain(|folder| state.find(folder).is_err());
        for folder in missing.into_iter().rev() {
            state.begin_change(true)?;
            state.named(folder, true)?;
        }
        state.check_power()
    }

    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(file)?;
        state.find(name.parent().unwrap_or(Path::new("/")))?;
        if state.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.begin_change(true)?;
        state.change(Change::Named(name.to_owned(), node));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(from)?;
        state.find(to.parent().unwrap_or(Path::new("/")))?;
        state.begin_change(false)?;
        // Two names of one file stay both.
        if state.find(to).ok() != Some(node) {
            state.change(Change::Renamed(from.to_owned(), to.to_owned(), node));
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(path)?;
        state.begin_change(false)?;
        state.change(Change::Unnamed(path.to_owned(), node));
        Ok(())
    }

    fn flush_folder(&self, folder: &Path) -> io::Result<()> {
        self.wait_for_flush();
        let mut state = self.state();
        state.find(folder)?;
        state.begin_flush()?;
        if state.faults.late_folders.is_some_and(|late| late(folder)) {
            state.late.push(Flush::Folder(folder.to_owned()));
        } else if !state.faults.deaf_folders.is_some_and(|deaf| deaf(folder)) {
            state.flush_names(folder);
        }
        Ok(())
    }

    fn space(&self, _: &Path) -> Space {
        let state = self.state();
        let total = state.faults.room.unwrap_or(TOTAL);
        Space {
            free: total.saturating_sub(state.taken()),
            total,
        }
    }

    fn boot(&self) -> Option<String> {
        Some(self.state().boot.to_string())
    }

    fn index(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        let file = self.open(path, Access::Change { make: false });
        let file = file.map_err(redb::StorageError::Io)?;
        builder.create_with_backend(Backend(file))
    }

    fn index_to_read(&self, _: &Path) -> Result<ReadOnlyDatabase, DatabaseError> {
        Err(redb::StorageError::Io(io::ErrorKind::Unsupported.into()).into())
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Simulated")
    }
}

/// An open file.
struct Handle {
    of: Simulated,
    node: u64,
    /// Whether it holds the lock.
    holds: bool,
}

impl Handle {
    fn new(of: &Simulated, node: u64) -> Self {
        Self {
            of: of.clone(),
            node,
            holds: false,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.holds {
            self.of.state().locked.remove(&self.node);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.node)
    }
}

impl OpenFile for Handle {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.of.state();
        state.begin_read()?;
        let from = &state.nodes[&self.node].bytes;
        let start = (at as usize).min(from.len());
        let length = bytes.len().min(from.len() - start);
        bytes[..length].copy_from_slice(&from[start..start + length]);
        Ok(length)
    }

    fn read_pieces(&self, pieces: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        pieces
            .first_mut()
            .map_or(Ok(0), |first| self.read_at(first, at))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut state = self.of.state();
        state.begin_change(true)?;
        state.check_room(self.node, at as usize..at as usize + bytes.len())?;
        state.write(self.node, Write::Bytes(at as usize, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn write_pieces(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.iter())
            .copied()
            .collect();
        self.write_at(&bytes, at)
    }

    fn write_past_cache(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.write_pieces(pieces, at)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.of.state();
        state.begin_change(true)?;
        state.write(self.node, Write::Length(length as usize));
        Ok(())
    }

    fn facts(&self) -> io::Result<Facts> {
        let state = self.of.state();
        state.check_power()?;
        Ok(state.facts(self.node))
    }

    fn flush(&self) -> io::Result<()> {
        self.of.wait_for_flush();
        let mut state = self.of.state();
        state.begin_flush()?;
        let Some(born) = state.nodes.get(&self.node).map(|node| node.born.clone()) else {
            return Ok(());
        };
        let is_so = |which: Option<fn(&Path) -> bool>| which.is_some_and(|is_so| is_so(&born));
        if is_so(state.faults.broken_files) {
            return Err(rustix::io::Errno::IO.into());
        }
        if is_so(state.faults.late_files) {
            state.late.push(Flush::File(self.node));
        } else if !is_so(state.faults.deaf_files) {
            state.flush_bytes(self.node);
        }
        if born.ends_with("index.redb") {
            let late = std::mem::take(&mut state.late);
            state.overdue.extend(late);
        }
        Ok(())
    }

    fn to_system(self: Arc<Self>) -> io::Result<Arc<File>> {
        let mut file = tempfile::tempfile()?;
        let mut state = self.of.state();
        state.begin_read()?;
        file.write_all(&state.nodes[&self.node].bytes)?;
        Ok(Arc::new(file))
    }
}

/// The index as redb uses it.
#[derive(Debug)]
struct Backend(DiskFile);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.facts()?.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_length(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(offset, data)
    }
}
