//! The place of a publisher.

use std::sync::Arc;
use std::time::Instant;

use lavant_media::frame::Item;

use super::stream::{Ended, Stream};

/// The place of a publisher; it is given up when this is dropped.
pub struct Publisher {
    stream: Arc<Stream>,
    session: u64,
    begun: Instant,
}

impl Publisher {
    pub(super) const fn new(stream: Arc<Stream>, session: u64, begun: Instant) -> Self {
        Self {
            stream,
            session,
            begun,
        }
    }
}

impl Publisher {
    /// Takes what came.
    ///
    /// # Errors
    /// See [`Ended`]: the publisher is no longer heard.
    pub fn push(&self, item: Item) -> Result<(), Ended> {
        self.stream.push(self.session, item, Instant::now())
    }

    /// What comes next does not go on with what came: a discontinuity.
    ///
    /// # Errors
    /// See [`Ended`].
    pub fn discontinue(&self) -> Result<(), Ended> {
        self.stream.discontinue(self.session)
    }

    /// Notes why the publisher is cut off, for whoever asks.
    pub fn failed(&self, reason: &str) {
        tracing::info!(stream = %self.stream.name(), reason, "a publisher was cut off");
        self.stream.note_error(self.session, reason);
    }

    /// Waits until more may be pushed. Whoever sends as things happen never waits.
    pub async fn ready(&self) {
        self.stream.ready(self.session, self.begun).await;
    }

    /// Waits until the publisher is no longer heard.
    pub async fn replaced(&self) -> Ended {
        self.stream.replaced(self.session).await
    }

    /// The stream that it publishes.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stream.leave(self.session, Instant::now());
    }
}
