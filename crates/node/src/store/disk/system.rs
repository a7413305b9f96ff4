//! The disk of the operating system.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use lavant_proto::time::Time;
use redb::{Builder, Database, DatabaseError, ReadOnlyDatabase};

use super::{Access, DiskFile, Facts, Files, OpenFile, Space};

/// Calls of the operating system, one for each thing that is asked.
#[derive(Debug)]
pub(super) struct System;

impl Files for System {
    fn open(&self, path: &Path, access: Access) -> io::Result<DiskFile> {
        let mut options = File::options();
        options.mode(0o600);
        match access {
            Access::Read => options.read(true),
            Access::New => options.read(true).write(true).create_new(true),
            Access::Anew => options.write(true).create(true).truncate(true),
            Access::Change { make } => options.read(true).write(true).create(make),
        };
        Ok(Arc::new(options.open(path)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DiskFile>> {
        let mut options = File::options();
        options.create(true).mode(0o600).read(true).write(true);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn facts(&self, path: &Path) -> io::Result<Facts> {
        fs::metadata(path).map(|data| facts_of(&data))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder)?.flatten();
        Ok(entries.map(|entry| entry.path()).collect())
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        fs::hard_link(file, name)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn flush_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn space(&self, folder: &Path) -> Space {
        let stat = rustix::fs::statvfs(folder);
        let unknown = Space {
            free: u64::MAX,
            total: 0,
        };
        stat.map_or(unknown, |stat| Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn boot(&self) -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
    }

    fn index(&self, path: &Path, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create(path)
    }

    fn index_to_read(&self, path: &Path) -> Result<ReadOnlyDatabase, DatabaseError> {
        ReadOnlyDatabase::open(path)
    }
}

impl OpenFile for File {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, at)
    }

    fn read_pieces(&self, pieces: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::preadv(self, pieces, at)?)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, at)
    }

    fn write_pieces(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(self, pieces, at)?)
    }

    /// `RWF_DONTCACHE` of Linux 6.14.
    #[cfg(target_os = "linux")]
    fn write_past_cache(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let flags = rustix::io::ReadWriteFlags::from_bits_retain(0x80);
        Ok(rustix::io::pwritev2(self, pieces, at, flags)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn write_past_cache(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn facts(&self) -> io::Result<Facts> {
        self.metadata().map(|data| facts_of(&data))
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn to_system(self: Arc<Self>) -> io::Result<Arc<File>> {
        Ok(self)
    }
}

fn facts_of(data: &Metadata) -> Facts {
    let since = data.modified().ok();
    let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Facts {
        length: data.len(),
        taken: data.blocks() * 512,
        modified: since.map_or(Time(0), |since| Time(0).after(since)),
        mode: data.permissions().mode() & 0o777,
        is_file: data.is_file(),
        id: (data.dev(), data.ino()),
    }
}
