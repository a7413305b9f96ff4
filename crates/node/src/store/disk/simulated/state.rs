//! What is on a simulated disk, and what may be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lavant_proto::time::Time;

use super::super::super::Clock;
use super::super::Facts;
use super::Faults;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// What a file takes room by.
const BLOCK: usize = 4096;

/// A small generator (SplitMix64), so that a failing seed can be run again.
pub(in crate::store) struct Random(pub(in crate::store) u64);

impl Random {
    pub(in crate::store) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
pub(super) struct State {
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) next: u64,
    /// Every file and folder by its name.
    pub(super) names: BTreeMap<PathBuf, u64>,
    /// The same as it is on the disk for certain.
    pub(super) durable: BTreeMap<PathBuf, u64>,
    /// What was done to names and may not be on the disk yet.
    pub(super) pending: Vec<Change>,
    pub(super) locked: BTreeSet<u64>,
    /// Changes so far.
    pub(super) done: u64,
    /// Flushes so far.
    pub(super) flushes: u64,
    /// Flushes that wait for the next one of the index, and those that have waited for it.
    pub(super) late: Vec<Flush>,
    pub(super) overdue: Vec<Flush>,
    /// With which change the power goes.
    pub(super) end: Option<u64>,
    pub(super) is_off: bool,
    /// How many times the power came back.
    pub(super) boot: u64,
}

/// A file or folder.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) is_folder: bool,
    pub(super) born: PathBuf,
    pub(super) modified: Time,
    pub(super) bytes: Vec<u8>,
    /// The parts of it that take room: it may have holes.
    pub(super) blocks: BTreeSet<usize>,
    /// As it is on the disk for certain.
    pub(super) durable: Vec<u8>,
    /// What was done to its bytes and may not be on the disk yet.
    pub(super) pending: Vec<Write>,
}

#[derive(Clone)]
pub(super) enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
    /// Only the length that the bytes gave the file is there; zeros are where it was shorter.
    Zeros(usize),
}

/// Something that was done to names.
#[derive(Clone)]
pub(super) enum Change {
    Named(PathBuf, u64),
    Unnamed(PathBuf, u64),
    Renamed(PathBuf, PathBuf, u64),
}

/// A flush that was asked for.
#[derive(Clone)]
pub(super) enum Flush {
    File(u64),
    Folder(PathBuf),
}

impl Write {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Zeros(end) => bytes.resize(bytes.len().max(*end), 0),
            Self::Bytes(at, new) => {
                let end = at + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(new);
            }
        }
    }

    /// What a cut leaves of it.
    pub(super) fn after_cut(self, random: &mut Random) -> Option<Self> {
        match (self, random.below(8)) {
            (_, 0..2) => None,
            (Self::Bytes(at, new), 2) => Some(Self::Zeros(at + new.len())),
            (Self::Bytes(at, mut new), 3..5) => {
                // Up to the end of some sector of the disk.
                let first = SECTOR - at % SECTOR;
                let sectors = new.len().saturating_sub(first).div_ceil(SECTOR) as u64;
                let kept = first + random.below(sectors + 1) as usize * SECTOR;
                new.truncate(kept.min(new.len()));
                Some(Self::Bytes(at, new))
            }
            (write, _) => Some(write),
        }
    }
}

impl Change {
    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        let leave = |names: &mut BTreeMap<PathBuf, u64>, name: &PathBuf, node: u64| {
            if names.get(name) == Some(&node) {
                names.remove(name);
            }
        };
        match self {
            Self::Named(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Unnamed(name, node) => leave(names, name, *node),
            Self::Renamed(from, to, node) => {
                leave(names, from, *node);
                names.insert(to.clone(), *node);
            }
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &PathBuf> {
        let (one, other) = match self {
            Self::Named(name, _) | Self::Unnamed(name, _) => (name, None),
            Self::Renamed(from, to, _) => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }
}
/// The blocks that a range of bytes touches.
fn blocks(bytes: Range<usize>) -> impl Iterator<Item = usize> {
    bytes.start / BLOCK..bytes.end.div_ceil(BLOCK)
}

fn code(code: rustix::io::Errno) -> io::Error {
    code.into()
}
impl State {
    pub(super) fn node(&mut self, path: &Path, is_folder: bool) -> u64 {
        self.next += 1;
        let node = Node {
            is_folder,
            born: path.to_owned(),
            modified: self.clock.now(),
            bytes: Vec::new(),
            blocks: BTreeSet::new(),
            durable: Vec::new(),
            pending: Vec::new(),
        };
        self.nodes.insert(self.next, node);
        self.next
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        match self.is_off {
            true => Err(code(rustix::io::Errno::IO)),
            false => Ok(()),
        }
    }

    pub(super) fn check_writable(&self) -> io::Result<()> {
        match self.faults.read_only {
            true => Err(code(rustix::io::Errno::ROFS)),
            false => Ok(()),
        }
    }

    pub(super) fn begin_read(&mut self) -> io::Result<()> {
        self.check_power()?;
        match self.random.below(1000) < self.faults.read {
            true => Err(code(rustix::io::Errno::IO)),
            false => Ok(()),
        }
    }

    /// Begins a change of names or bytes. When the power goes with it, chance decides whether the
    /// system still began with it.
    pub(super) fn begin_change(&mut self, takes_room: bool) -> io::Result<()> {
        self.check_power()?;
        self.check_writable()?;
        self.count();
        if self.is_off && self.random.below(2) == 0 {
            return Err(code(rustix::io::Errno::IO));
        }
        match takes_room && self.random.below(1000) < self.faults.full {
            true => Err(code(rustix::io::Errno::NOSPC)),
            false => Ok(()),
        }
    }

    /// The bytes that all files take that have a name.
    pub(super) fn taken(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let nodes = named.iter().filter_map(|node| self.nodes.get(node));
        nodes.map(|node| (node.blocks.len() * BLOCK) as u64).sum()
    }

    /// Refuses bytes for which there is no room; what is written over takes none.
    pub(super) fn check_room(&self, node: u64, bytes: Range<usize>) -> io::Result<()> {
        let Some(room) = self.faults.room else {
            return Ok(());
        };
        let held = &self.nodes[&node].blocks;
        let new = blocks(bytes).filter(|block| !held.contains(block)).count();
        match new > 0 && self.taken() + (new * BLOCK) as u64 > room {
            true => Err(code(rustix::io::Errno::NOSPC)),
            false => Ok(()),
        }
    }

    pub(super) fn begin_flush(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.check_writable()?;
        self.count();
        self.check_power()?;
        self.flushes += 1;
        match self.random.below(1000) < self.faults.flush {
            true => Err(code(rustix::io::Errno::IO)),
            false => Ok(()),
        }
    }

    pub(super) fn count(&mut self) {
        self.done += 1;
        self.is_off = self.end.is_some_and(|end| self.done >= end);
        if self.is_off {
            return;
        }
        for flush in std::mem::take(&mut self.overdue) {
            match flush {
                Flush::File(node) => self.flush_bytes(node),
                Flush::Folder(folder) => self.flush_names(&folder),
            }
        }
    }

    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    pub(super) fn named(&mut self, path: &Path, is_folder: bool) -> io::Result<u64> {
        let above = path.parent().unwrap_or(Path::new("/"));
        self.find(above)?;
        let node = self.node(path, is_folder);
        self.change(Change::Named(path.to_owned(), node));
        Ok(node)
    }

    pub(super) fn write(&mut self, node: u64, write: Write) {
        let modified = self.clock.now();
        if let Some(node) = self.nodes.get_mut(&node) {
            match &write {
                Write::Bytes(at, new) => node.blocks.extend(blocks(*at..*at + new.len())),
                Write::Length(length) => node.blocks.retain(|block| block * BLOCK < *length),
                Write::Zeros(_) => {}
            }
            write.apply(&mut node.bytes);
            node.pending.push(write);
            node.modified = modified;
        }
    }

    /// Makes the bytes of a file durable.
    pub(super) fn flush_bytes(&mut self, node: u64) {
        if let Some(node) = self.nodes.get_mut(&node) {
            for write in std::mem::take(&mut node.pending) {
                write.apply(&mut node.durable);
            }
        }
    }

    /// Makes what was done to the names in a folder durable; what was done to one of these names
    /// before goes with it, since a name has one state.
    pub(super) fn flush_names(&mut self, folder: &Path) {
        let mut reached = BTreeSet::new();
        let mut going = vec![false; self.pending.len()];
        for (change, goes) in self.pending.iter().zip(&mut going).rev() {
            let here = |name: &PathBuf| name.parent() == Some(folder) || reached.contains(name);
            *goes = change.names().any(here);
            if *goes {
                reached.extend(change.names().cloned());
            }
        }
        let mut kept = Vec::new();
        for (change, goes) in std::mem::take(&mut self.pending).into_iter().zip(going) {
            match goes {
                true => change.apply(&mut self.durable),
                false => kept.push(change),
            }
        }
        self.pending = kept;
    }

    pub(super) fn facts(&self, no: u64) -> Facts {
        let node = &self.nodes[&no];
        Facts {
            length: node.bytes.len() as u64,
            taken: node.bytes.len() as u64,
            modified: node.modified,
            mode: 0o600,
            is_file: !node.is_folder,
            id: (1, no),
        }
    }
}
