//! The file that keeps other processes out of a store, and says how the last one ended.

use super::disk::{Disk, DiskFile};
use super::error::OpenError;
use super::layout::Layout;

/// Keeps other processes out of the store for as long as it lives.
pub(super) struct Lock {
    file: Option<DiskFile>,
    last: LastEnd,
}

/// How the last process left a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastEnd {
    /// It closed it, or there was none.
    Closed,
    /// It was killed, no disk had failed, and the system has run since: nothing that was done to
    /// files is undone.
    Killed,
    /// The power may have gone, or the disk failed.
    Cut,
}

impl Lock {
    pub(super) fn take(disk: &Disk, layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.lock();
        let taken = disk.files.lock(&path).map_err(OpenError::io(&path))?;
        let Some(file) = taken else {
            return Err(in_use(disk, layout));
        };
        let boot = disk.files.boot();
        let last = last_end(&disk.read(&path).unwrap_or_default(), boot.as_deref());
        // The process is for the message that another one shows. A full disk must not keep the
        // store closed.
        let text = text_of(&std::process::id().to_string(), &boot.unwrap_or_default());
        let _ = file
            .write_all_at(0, text.as_bytes())
            .and_then(|()| file.flush());
        Ok(Self {
            file: Some(file),
            last,
        })
    }

    /// That of a store which is only read.
    pub(super) const fn none() -> Self {
        Self {
            file: None,
            last: LastEnd::Closed,
        }
    }

    /// How the last process ended.
    pub(super) const fn last_end(&self) -> LastEnd {
        self.last
    }

    /// Notes that the disk failed: what was to be taken back may be there still.
    pub(super) fn note_failed(&self) {
        if let Some(file) = &self.file {
            let process = std::process::id().to_string();
            let _ = file.write_all_at(0, text_of(&process, "").as_bytes());
        }
    }

    /// Notes that the store is closed. What is not written is taken as no close.
    pub(super) fn note_closed(&self) {
        if let Some(file) = &self.file {
            let _ = file.write_all_at(0, text_of("", "").as_bytes());
        }
    }
}

/// Always as long, so that a full disk has room for it once it is there.
fn text_of(process: &str, boot: &str) -> String {
    format!("{process:<20}\n{boot:<40}\n")
}

fn last_end(text: &[u8], boot: Option<&str>) -> LastEnd {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim);
    let (process, of) = (lines.next().unwrap_or_default(), lines.next());
    match (process, of, boot) {
        ("", None | Some(""), _) => LastEnd::Closed,
        (_, Some(of), Some(boot)) if of == boot => LastEnd::Killed,
        _ => LastEnd::Cut,
    }
}

/// The error that names the process in the lock file.
pub(super) fn in_use(disk: &Disk, layout: &Layout) -> OpenError {
    let text = disk.read(&layout.lock()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let pid = text.lines().next().unwrap_or_default().trim();
    let pid = if pid.is_empty() { "unknown" } else { pid };
    OpenError::InUse {
        path: layout.root().to_owned(),
        pid: pid.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_end_is_told_by_the_file() {
        let of = |text: &str, boot| last_end(text.as_bytes(), boot);
        assert_eq!(of("", Some("b1")), LastEnd::Closed);
        assert_eq!(of(&text_of("", ""), Some("b1")), LastEnd::Closed);
        assert_eq!(of(&text_of("7", "b1"), Some("b1")), LastEnd::Killed);
        assert_eq!(of(&text_of("7", "b1"), Some("b2")), LastEnd::Cut);
        // Of a system that does not say, nothing is known; an earlier program wrote no second line.
        assert_eq!(of(&text_of("7", ""), None), LastEnd::Cut);
        assert_eq!(of("7                   \n", Some("b1")), LastEnd::Cut);
    }
}
