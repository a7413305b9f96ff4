//! How much room the disk has.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lavant_proto::relay::evict::Standing;

/// One part in so many of the disk stays free for what is the operator's own.
const OWN_PART: u64 = 20;

/// A disk.
#[derive(Clone)]
pub struct Disk(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<[AtomicU64; 2]>),
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
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// One that is as large and as full as [`Disk::set`] says, for tests.
    #[must_use]
    pub fn manual(space: Space) -> Self {
        let numbers = [space.free, space.total].map(AtomicU64::new);
        Self(Source::Manual(Arc::new(numbers)))
    }

    /// Changes a manual disk.
    pub fn set(&self, space: Space) {
        if let Source::Manual(numbers) = &self.0 {
            numbers[0].store(space.free, Ordering::SeqCst);
            numbers[1].store(space.total, Ordering::SeqCst);
        }
    }

    /// What there is of the disk that holds `folder`; everything when it does not say.
    #[must_use]
    pub fn space(&self, folder: &Path) -> Space {
        match &self.0 {
            Source::Manual(numbers) => Space {
                free: numbers[0].load(Ordering::SeqCst),
                total: numbers[1].load(Ordering::SeqCst),
            },
            Source::System => {
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
        }
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
        match &self.0 {
            Source::System => write!(f, "Disk"),
            Source::Manual(numbers) => write!(f, "Disk({numbers:?})"),
        }
    }
}
