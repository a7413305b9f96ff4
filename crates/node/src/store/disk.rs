//! The disk that a store is on. All that a store does to files goes through it, so that tests can
//! put one in its place that loses its power.

mod frozen;
#[cfg(test)]
pub(super) mod simulated;
mod system;

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lavant_proto::relay::evict::Standing;
use lavant_proto::time::Time;
use lavant_proto::verify::ReadAt;
use redb::{Builder, Database, DatabaseError, ReadOnlyDatabase};

/// One part in so many of the disk stays free for what is the operator's own.
const OWN_PART: u64 = 20;

/// A disk; clones are the same one.
#[derive(Clone)]
pub struct Disk {
    /// What can be done to its files.
    pub(super) files: Arc<dyn Files>,
    /// Free bytes and all bytes, where a test says how many there are.
    space: Option<Arc<[AtomicU64; 2]>>,
}

/// What a store does to files and folders.
pub(super) trait Files: fmt::Debug + Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<DiskFile>;

    /// Makes a file of the lock, unless it is there, and takes it for this process; `None` when
    /// another one has it. It is free again when the file is closed.
    fn lock(&self, path: &Path) -> io::Result<Option<DiskFile>>;

    /// What is known of a file or folder.
    fn facts(&self, path: &Path) -> io::Result<Facts>;

    /// What is in a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes a folder, with those above it, that only its owner can look into, unless it is there.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Gives a file a second name; fails when the name is taken.
    fn link(&self, file: &Path, name: &Path) -> io::Result<()>;

    /// Gives a file another name, which it takes from any other file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a name from its file, which goes with the last one.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn flush_folder(&self, folder: &Path) -> io::Result<()>;

    /// What there is of the disk that holds `folder`; everything when it does not say.
    fn space(&self, folder: &Path) -> Space;

    /// Names the time since the system was started; none where that is not known.
    fn boot(&self) -> Option<String>;

    /// Opens the index, or fills an empty file with one.
    fn index(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError>;

    /// Opens the index of a store that cannot be written.
    fn index_to_read(&self, path: &Path) -> Result<ReadOnlyDatabase, DatabaseError>;
}

/// For what a file is opened. Only its owner can read one that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading.
    Read,
    /// Reading and writing one that must not be there yet.
    New,
    /// Writing one anew: what is there goes.
    Anew,
    /// Reading and writing what is there; it is made where `make` says so.
    Change { make: bool },
}

/// An open file.
pub(super) type DiskFile = Arc<dyn OpenFile>;

/// What a store does to an open file.
pub(super) trait OpenFile: fmt::Debug + Send + Sync {
    /// Reads some bytes from `at` on; none at the end of the file.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Fills the first of the pieces from `at` on. Returns how many bytes it read.
    fn read_pieces(&self, pieces: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize>;

    /// Writes some of the bytes from `at` on.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;

    /// Writes the first of the pieces from `at` on. Returns how many bytes it wrote.
    fn write_pieces(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// The same for what is to leave the page cache once it is on the disk; the error is
    /// `Unsupported` or `InvalidInput` where the system cannot.
    fn write_past_cache(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// Cuts the file, or lengthens it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// What is known of it.
    fn facts(&self) -> io::Result<Facts>;

    /// Makes its bytes durable, and what is needed to find them.
    fn flush(&self) -> io::Result<()>;

    /// A file of the system with its bytes, which the system itself can send.
    fn to_system(self: Arc<Self>) -> io::Result<Arc<File>>;
}

/// What is known of a file or folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Its length in bytes.
    pub(super) length: u64,
    /// The bytes that it takes of the disk, without its holes.
    pub(super) taken: u64,
    /// When it was changed.
    pub(super) modified: Time,
    /// Who may do what with it.
    pub(super) mode: u32,
    /// Whether it is a file, and no folder.
    pub(super) is_file: bool,
    /// The same for all names of one file.
    pub(super) id: (u64, u64),
}

/// What there is of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for this process.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl Disk {
    /// The one that the folder is on.
    #[must_use]
    pub fn system() -> Self {
        Self {
            files: Arc::new(system::System),
            space: None,
        }
    }

    /// One that is as large and as full as [`Disk::set`] says, for tests.
    #[must_use]
    pub fn manual(space: Space) -> Self {
        let numbers = [space.free, space.total].map(AtomicU64::new);
        Self {
            space: Some(Arc::new(numbers)),
            ..Self::system()
        }
    }

    /// Changes a manual disk.
    pub fn set(&self, space: Space) {
        if let Some(numbers) = &self.space {
            numbers[0].store(space.free, Ordering::SeqCst);
            numbers[1].store(space.total, Ordering::SeqCst);
        }
    }

    /// What there is of the disk that holds `folder`; everything when it does not say.
    #[must_use]
    pub fn space(&self, folder: &Path) -> Space {
        match &self.space {
            Some(numbers) => Space {
                free: numbers[0].load(Ordering::SeqCst),
                total: numbers[1].load(Ordering::SeqCst),
            },
            None => self.files.space(folder),
        }
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, path: &Path) -> io::Result<DiskFile> {
        self.files.open(path, Access::Read)
    }

    /// Opens an index to be read, also one that was not closed, on a disk that cannot be
    /// written. What is written to it is forgotten.
    pub(super) fn frozen_index(
        &self,
        path: &Path,
        builder: &Builder,
    ) -> Result<Database, DatabaseError> {
        let file = self.open(path).and_then(frozen::Frozen::new);
        let file = file.map_err(redb::StorageError::Io)?;
        builder.create_with_backend(file)
    }

    /// All bytes of a file.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let length = usize::try_from(file.facts()?.length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes a file anew and makes its bytes durable.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.files.open(path, Access::Anew)?;
        file.write_all_at(0, bytes)?;
        file.flush()
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.files.facts(path).is_ok()
    }

    /// Removes the files of a folder. What cannot be removed stays.
    pub(super) fn clear(&self, folder: &Path) {
        for file in self.files_below(folder) {
            let _ = self.files.remove(&file);
        }
    }

    /// The files of a folder, one level deep.
    pub(super) fn files_below(&self, folder: &Path) -> Vec<PathBuf> {
        let mut files = self.files.list(folder).unwrap_or_default();
        files.retain(|path| self.files.facts(path).is_ok_and(|facts| facts.is_file));
        files
    }
}

impl dyn OpenFile + '_ {
    /// Fills `bytes` from `at` on; fails when the file ends before.
    pub(super) fn read_exact_at(&self, mut at: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.read_at(bytes, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => (bytes, at) = (&mut bytes[read..], at + read as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of the bytes from `at` on.
    pub(super) fn write_all_at(&self, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => (bytes, at) = (&bytes[written..], at + written as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl ReadAt for dyn OpenFile + '_ {
    fn read_at(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        OpenFile::read_at(self, bytes, at)
    }
}

/// Reads a file from its start.
pub(super) struct FromStart<'a> {
    file: &'a dyn OpenFile,
    at: u64,
}

impl<'a> FromStart<'a> {
    pub(super) const fn new(file: &'a dyn OpenFile) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Space {
    /// Bytes that stay free of what comes from a publisher of that standing. Strangers leave more,
    /// so that the operator always has room for something: twice as much, or a twentieth of the
    /// disk.
    #[must_use]
    pub fn kept(self, min_free: u64, standing: Standing) -> u64 {
        match standing {
            Standing::Own | Standing::Trusted => min_free,
            Standing::Stranger => min_free.saturating_add(min_free.max(self.total / OWN_PART)),
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.space {
            None => write!(f, "Disk({:?})", self.files),
            Some(numbers) => write!(f, "Disk({numbers:?})"),
        }
    }
}
