//! The index while it is open.

use redb::{CommitError, Database, ReadOnlyDatabase, ReadableDatabase, WriteTransaction};

use super::error::StoreError;
use super::settings::Settings;

/// The open index.
pub(super) enum Index {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
    /// The disk cannot be written since the store was opened, for that reason: what is there is
    /// read.
    Frozen(Database, StoreError),
    /// Between closing a failed index and opening it again.
    Closed,
}

impl Index {
    pub(super) fn begin_read(&self) -> Result<redb::ReadTransaction, StoreError> {
        match self {
            Self::Writable(database) | Self::Frozen(database, _) => Ok(database.begin_read()?),
            Self::ReadOnly(database) => Ok(database.begin_read()?),
            Self::Closed => Err(StoreError::Closed),
        }
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        match self {
            Self::Writable(database) => Ok(database.begin_write()?),
            Self::ReadOnly(_) => Err(StoreError::ReadOnly),
            Self::Frozen(_, reason) => Err(reason.clone()),
            Self::Closed => Err(StoreError::Closed),
        }
    }
}

/// Whether the index has more bytes than a start reads in a moment.
pub(super) fn is_large(settings: &Settings) -> bool {
    let facts = settings.disk.files.facts(&settings.layout.index());
    facts.is_ok_and(|facts| facts.length > settings.large_index)
}

/// Makes a transaction durable. In a large index it also says which pages are free: else a start
/// after a process that was killed would have to read all of them.
pub(super) fn commit(settings: &Settings, mut write: WriteTransaction) -> Result<(), CommitError> {
    write.set_quick_repair(is_large(settings));
    write.commit()
}
