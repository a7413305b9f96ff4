//! The index while it is open.

use redb::{Database, ReadOnlyDatabase, ReadableDatabase};

use super::error::StoreError;

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

    pub(super) fn begin_write(&self) -> Result<redb::WriteTransaction, StoreError> {
        match self {
            Self::Writable(database) => Ok(database.begin_write()?),
            Self::ReadOnly(_) => Err(StoreError::ReadOnly),
            Self::Frozen(_, reason) => Err(reason.clone()),
            Self::Closed => Err(StoreError::Closed),
        }
    }
}
