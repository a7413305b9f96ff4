//! The file that keeps other processes out of a store.

use super::disk::{Disk, DiskFile};
use super::error::OpenError;
use super::layout::Layout;

/// Keeps other processes out of the store for as long as it lives.
pub(super) struct Lock {
    pub(super) _file: Option<DiskFile>,
}

impl Lock {
    pub(super) fn take(disk: &Disk, layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.lock();
        let taken = disk.files.lock(&path).map_err(OpenError::io(&path))?;
        let Some(file) = taken else {
            return Err(in_use(disk, layout));
        };
        // For the message that another process shows; a full disk must not keep the store closed.
        let _ = file.write_all_at(0, format!("{:<20}\n", std::process::id()).as_bytes());
        Ok(Self { _file: Some(file) })
    }
}

/// The error that names the process in the lock file.
pub(super) fn in_use(disk: &Disk, layout: &Layout) -> OpenError {
    let pid = disk.read(&layout.lock()).unwrap_or_default();
    let pid = String::from_utf8_lossy(&pid);
    let pid = pid.trim();
    let pid = if pid.is_empty() { "unknown" } else { pid };
    OpenError::InUse {
        path: layout.root().to_owned(),
        pid: pid.to_owned(),
    }
}
