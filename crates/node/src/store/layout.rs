//! Where things are inside the store's folder.
//!
//! ```text
//! lock            held while a process uses the store; holds its process id until that closes it
//! index.redb      what is here (made again from the payload files when damaged)
//! segments/a/..   payload files by BLAKE3 root
//! partial/..      payload files of which some chunk groups are still missing, as ROOT.LENGTH
//! incoming/..     payload files on their way in; emptied at every start
//! manifests/..    signed manifests of finished contents, with their records
//! pins/..         names of pinned contents, for when the index must be made again
//! snapshot/..     second names of all that is here, while a backup is made
//! reserve         room for removals on a disk that is full, in a large store
//! restore.part    says that a backup is being brought back
//! node.key        the node's secret key
//! live.key        the secret that stream keys are made from
//! known_peers     keys of hosts that were dialled without one
//! ```

use std::io;
use std::path::{Path, PathBuf};

use lavant_proto::ids::{ContentKey, Root};

use super::disk::Disk;

/// How the names of manifests and of pins in `incoming/` begin.
const INCOMING_MANIFEST: &str = "manifest-";
const INCOMING_PIN: &str = "pin-";

/// The paths of a store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    /// The node's secret key.
    pub fn node_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// The secret that stream keys are made from.
    pub fn live_key(&self) -> PathBuf {
        self.root.join("live.key")
    }

    /// Keys of hosts that were dialled without one.
    pub fn known_peers(&self) -> PathBuf {
        self.root.join("known_peers")
    }

    /// The token that the API asks for when it is bound beyond loopback and none was configured.
    pub fn api_token(&self) -> PathBuf {
        self.root.join("api.token")
    }

    pub(super) fn segments(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub(super) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    pub(super) fn payload(&self, root: &Root) -> PathBuf {
        let name = root.to_string();
        self.segments().join(&name[..1]).join(&name[1..])
    }

    pub(super) fn partial(&self, root: &Root, length: u64) -> PathBuf {
        self.partials().join(format!("{root}.{length}"))
    }

    pub(super) fn manifest(&self, content_no: u64) -> PathBuf {
        self.manifests().join(format!("{content_no:016x}"))
    }

    /// Where a manifest waits until the index says that its content is finished; `fresh` is a name
    /// in `incoming/` that nothing else has.
    pub(super) fn incoming_manifest(&self, fresh: &Path) -> PathBuf {
        let name = fresh.file_name().unwrap_or_default().to_string_lossy();
        self.incoming().join(format!("{INCOMING_MANIFEST}{name}"))
    }

    /// Whether a file in `incoming/` is a manifest.
    pub(super) fn is_incoming_manifest(path: &Path) -> bool {
        starts_with(path, INCOMING_MANIFEST)
    }

    /// Where the pin of a content waits for its place.
    pub(super) fn incoming_pin(&self, content: &ContentKey) -> PathBuf {
        let name = pin_name(content);
        self.incoming().join(format!("{INCOMING_PIN}{name}"))
    }

    /// Whether a file in `incoming/` is a payload.
    pub(super) fn is_incoming_payload(path: &Path) -> bool {
        !Self::is_incoming_manifest(path) && !starts_with(path, INCOMING_PIN)
    }

    /// Where what a backup is made from is kept together.
    #[must_use]
    pub fn snapshot(&self) -> PathBuf {
        self.root.join("snapshot")
    }

    /// Room on the disk that is kept for removals.
    pub(super) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// Says that the folder is a backup.
    pub(super) fn backup(&self) -> PathBuf {
        self.root.join("backup.json")
    }

    /// Says that a backup is being brought back.
    pub(super) fn restoring(&self) -> PathBuf {
        self.root.join("restore.part")
    }

    pub(super) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(super) fn pin(&self, content: &ContentKey) -> PathBuf {
        self.pins().join(pin_name(content))
    }

    /// Makes the folders. Those below `segments` are few, because an empty one takes a block.
    pub(super) fn create(&self, disk: &Disk) -> io::Result<()> {
        let folders = [
            self.segments(),
            self.incoming(),
            self.partials(),
            self.manifests(),
            self.pins(),
        ];
        for folder in folders {
            disk.files.make_folder(&folder)?;
        }
        for digit in 0..16 {
            let folder = self.segments().join(format!("{digit:x}"));
            disk.files.make_folder(&folder)?;
        }
        disk.files.flush_folder(&self.segments())?;
        disk.files.flush_folder(&self.root)
    }

    /// Makes durable what was done to the names of files.
    pub(super) fn flush(&self, disk: &Disk) -> io::Result<()> {
        for digit in 0..16 {
            let folder = self.segments().join(format!("{digit:x}"));
            disk.files.flush_folder(&folder)?;
        }
        let others = [
            self.incoming(),
            self.partials(),
            self.manifests(),
            self.pins(),
        ];
        let mut others = others.iter();
        others.try_for_each(|folder| disk.files.flush_folder(folder))
    }
}

/// The root that a payload file's path stands for.
pub(super) fn root_of_path(path: &Path) -> Option<Root> {
    let name = path.file_name()?.to_str()?;
    let folder = path.parent()?.file_name()?.to_str()?;
    format!("{folder}{name}").parse().ok()
}

fn starts_with(path: &Path, start: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(start))
}

/// An id may be longer than a name of a file.
fn pin_name(content: &ContentKey) -> String {
    blake3::hash(pin_line(content).as_bytes()).to_hex()[..32].to_owned()
}

/// What the file of a pin says.
pub(super) fn pin_line(content: &ContentKey) -> String {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = content;
    format!("{publisher}/{content_id}/{version}")
}

/// The mode of a folder that others can look into.
pub(super) fn exposed(disk: &Disk, folder: &Path) -> Option<u32> {
    let mode = disk.files.facts(folder).ok()?.mode;
    (mode & 0o077 != 0).then_some(mode)
}

/// Makes the store's own folder, durably.
pub(super) fn make_root(disk: &Disk, root: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let above = |folder: &&Path| !disk.exists(folder);
    let missing = root.ancestors().take_while(above).count();
    disk.files.make_folder(root)?;
    // The first one always: the process that made the folder may have been stopped.
    for folder in root.ancestors().skip(1).take(missing.max(1)) {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        match disk.files.flush_folder(folder) {
            Ok(()) => {}
            // It cannot be told to, as one that belongs to somebody else, or to a system that is
            // only read; a store may be mounted there.
            Err(error)
                if matches!(
                    error.kind(),
                    InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
