//! The handle of an open store, and how it asks its writer.

use std::sync::{Arc, Mutex};

use lavant_proto::content::Kind;
use lavant_proto::ids::{PublisherKey, SigningKey};
use tokio::sync::oneshot;

use super::catalog::Catalog;
use super::error::StoreError;
use super::rows::{SEGMENTS, SegmentKey, SegmentRow};
use super::settings::Settings;
use super::shared::Shared;
use super::tx::Tx;
use super::uploads::Uploads;
use super::writer::Writer;

/// A handle to an open store; clones share it.
#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Option<Arc<Writer>>,
    pub(super) uploads: Arc<Mutex<Uploads>>,
    pub(super) key: Arc<SigningKey>,
}

impl Store {
    /// The store's settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The node's own public key.
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        self.key.publisher()
    }

    /// The node's secret key.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// Everything that is known, at this moment.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog()
    }

    /// Whether nothing can be written.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.writer.is_none()
    }

    /// The rows of a content as the last commit left them, or those of one kind of one rendition.
    pub(super) fn rows_of(
        &self,
        content_no: u64,
        within: Option<(u16, Kind)>,
    ) -> Result<Vec<(SegmentKey, SegmentRow)>, StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let table = index.begin_read()?.open_table(SEGMENTS)?;
        let range = SegmentKey::range(content_no, within);
        let mut rows = Vec::new();
        for entry in table.range(range.start().as_slice()..=range.end().as_slice())? {
            let (key, row) = entry?;
            let key = SegmentKey::from_bytes(key.value())?;
            rows.push((key, SegmentRow::decode(row.value())?));
        }
        Ok(rows)
    }

    /// Runs an operation on the writer thread; refused when the store is read-only.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
        let writer = self.writer.as_ref().ok_or(StoreError::ReadOnly)?;
        Ok(writer.submit(operation))
    }

    /// Like [`Store::submit`], waiting for the outcome. Not for async code.
    pub(super) fn write<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.submit(operation)?
            .blocking_recv()
            .unwrap_or(Err(StoreError::Closed))
    }
}
