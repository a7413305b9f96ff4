//! A store as async code holds it.
//!
//! Whatever reads a file, hashes, or waits for the writer or for a lock of a [`Store`] blocks its
//! thread, and with it every task that runs there. So async code gets no [`Store`], only this: what
//! is in memory is to be had at once, everything else runs on a thread that may block.

use std::sync::Arc;

use bytes::Bytes;
use lavant_proto::ids::{PublisherKey, Root};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::catalog::Catalog;
use super::change::Change;
use super::engine::Store;
use super::error::StoreError;
use super::settings::Settings;

/// A handle of a store for async code; clones share it.
#[derive(Clone)]
pub struct AsyncStore(Store);

impl AsyncStore {
    /// A handle for async code.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self(store)
    }

    /// Runs work that may block, on a thread that may. What it returns comes back; `Closed` when
    /// the work panicked, or when the node is ending.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.0.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|_| StoreError::Closed)
    }

    /// The same for work that may fail.
    pub async fn attempt<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(work).await?
    }

    /// See [`Store::settings`].
    #[must_use]
    pub fn settings(&self) -> &Settings {
        self.0.settings()
    }

    /// See [`Store::publisher`].
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        self.0.publisher()
    }

    /// See [`Store::catalog`].
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.0.catalog()
    }

    /// See [`Store::changes`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes()
    }

    /// See [`Store::hot`].
    #[must_use]
    pub fn hot(&self, root: &Root) -> Option<Bytes> {
        self.0.hot(root)
    }

    /// See [`Store::subscribe`].
    #[must_use]
    pub fn subscribe(&self) -> UnboundedReceiver<Vec<Change>> {
        self.0.subscribe()
    }
}
