//! What can go wrong in the store, said so that an operator knows what to do.

use std::fmt;
use std::io;
use std::mem::discriminant;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lavant_proto::ids::PublisherKey;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error(
        "the store {path} is in use by another lavant (process {pid}); stop that one, or give \
         this one a store of its own with --store"
    )]
    InUse {
        /// The store.
        path: PathBuf,
        /// What the lock file says of its owner.
        pid: String,
    },
    /// The folder is something else, or of a later program.
    #[error("{path} is not a store that this lavant can use: {reason}")]
    Format {
        /// The store.
        path: PathBuf,
        /// What is different.
        reason: String,
    },
    /// The operating system refused.
    #[error("the store {path} could not be opened: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// The index is damaged, and could not be made again.
    #[error("the index of the store could not be opened: {0}")]
    Index(String),
    /// What a start completes or makes again failed.
    #[error("the index of the store could not be opened: {0}")]
    Unfinished(#[source] StoreError),
    /// The index is damaged and the store is read-only, so it cannot be made again.
    #[error(
        "the index of the store {0} is damaged or was not closed, and the store is read-only; \
         make it writable once so that the index can be mended"
    )]
    CorruptReadOnly(PathBuf),
}

impl OpenError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Why the store refused something, or could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The limit is reached and nothing of lower or equal priority can go.
    #[error(
        "the store's limit of {limit} bytes is reached and nothing that may go would make room \
         for {wanted} bytes more; raise --store-limit, remove content, or unpin some"
    )]
    Full {
        /// `--store-limit`.
        limit: u64,
        /// What was to be stored.
        wanted: u64,
    },
    /// A publisher that the operator does not trust has its share.
    #[error(
        "publisher {publisher} has reached its share of {share} bytes of this store and nothing \
         more of it can go; trust it, or raise the share"
    )]
    Share {
        /// The publisher.
        publisher: PublisherKey,
        /// What it may take.
        share: u64,
    },
    /// All publishers that the operator does not trust have their share together.
    #[error(
        "publishers that are not trusted have reached their share of {share} bytes of this store \
         and nothing more of them can go; trust some, or raise the share"
    )]
    Strangers {
        /// What they may take.
        share: u64,
    },
    /// The disk would be full; one that says so itself is [`StoreError::Io`].
    #[error(
        "the disk that holds the store is full ({free} bytes free, {kept} kept in reserve); free \
         some space or remove content"
    )]
    DiskFull {
        /// Free bytes.
        free: u64,
        /// Bytes kept in reserve for the index.
        kept: u64,
    },
    /// The store cannot be written.
    #[error("the store is read-only: its folder or disk does not allow writing")]
    ReadOnly,
    /// Nothing of that name.
    #[error("{0} is not here")]
    NotFound(String),
    /// It contradicts what is here.
    #[error("{0}")]
    Conflict(String),
    /// It was made from the same source before.
    #[error(
        "already here: {content_id:?} version {version} was made from the same source with the \
         same options, so there is nothing to do; remove it first to publish it again"
    )]
    Published {
        /// Id of the content that is here.
        content_id: String,
        /// Its version.
        version: u32,
    },
    /// The operator removed it, so it does not come back over a link.
    #[error("{0}")]
    Removed(String),
    /// It breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// A limit of counts or memory; later it may work.
    #[error("{0}")]
    Busy(String),
    /// The operating system refused.
    #[error("{}", refusal(doing, source))]
    Io {
        /// What was being done.
        doing: String,
        /// The reason given. Whoever shares the commit gets the same one.
        source: Arc<io::Error>,
    },
    /// The index failed.
    #[error("the index of the store failed: {0}")]
    Index(String),
    /// The caller ended it.
    #[error("interrupted")]
    Interrupted,
    /// The node is stopping, or the index is being opened again after a failure.
    #[error("the store is not open at this moment; try again")]
    Closed,
}

impl StoreError {
    /// Whether an operation failed in the middle, so that its transaction must be undone; other
    /// errors are refusals, before which an operation changes nothing.
    pub(super) const fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::DiskFull { .. }
                | Self::ReadOnly
                | Self::Io { .. }
                | Self::Index(_)
                | Self::Closed
        )
    }

    /// Wraps a failed operation on a file.
    pub(crate) fn io(doing: impl Into<String>, error: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source: Arc::new(error),
        }
    }

    /// What kind of refusal the operating system gave, if it was one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the disk has no room, or would have none.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. }) || self.io_kind().is_some_and(is_full)
    }

    /// Whether the store cannot be written, because of its disk or of the rights to its files.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let kind = self.io_kind();
        matches!(self, Self::ReadOnly)
            || matches!(kind, Some(PermissionDenied | ReadOnlyFilesystem))
    }
}

/// Two errors are equal when they say the same; the system's own are not comparable.
impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        discriminant(self) == discriminant(other) && self.to_string() == other.to_string()
    }
}

impl Eq for StoreError {}

const fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A sentence for a refusal; a full or read-only disk has its own, which says what to do.
fn refusal<'a>(doing: &'a str, error: &'a io::Error) -> impl fmt::Display + 'a {
    fmt::from_fn(move |f| match error.kind() {
        kind if is_full(kind) => write!(
            f,
            "the disk that holds the store is full (it could not {doing}); free some space or \
             remove content"
        ),
        io::ErrorKind::ReadOnlyFilesystem => write!(f, "{}", StoreError::ReadOnly),
        _ => write!(f, "the store could not {doing}: {error}"),
    })
}

macro_rules! index_error {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                index_error(error.into())
            }
        }
    )*};
}

index_error!(
    redb::CompactionError,
    redb::DatabaseError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::StorageError
);

fn index_error(error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => StoreError::io("write its index", error),
        other => StoreError::Index(other.to_string()),
    }
}
