//! The HTTP API: one file a resource, no logic of delivery.

mod body;
mod catalog;
mod dto;
mod error;
mod etag;
mod events;
mod guard;
mod ingest;
mod live;
mod metrics;
mod openapi;
mod page;
mod peers;
mod play;
mod pool;
mod range;
mod reference;
mod roots;
mod segment;
mod sendfile;
mod serve;
mod snapshot;
mod status;
mod uploads;

pub use dto::{CatalogEntry, PeerEntry, RenditionEntry, StatusReply, StoreStatus, UploadStatus};
pub use error::ApiError;
pub use ingest::fuzz_body;
pub use openapi::document as openapi_document;
pub use serve::{ServeError, Server};
pub use snapshot::SnapshotLine;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::routing::{get, post, put};

use crate::config::Config;
use crate::health::Health;
use crate::live::{Forwards, Live, Pulls, Studio};
use crate::playlist::Ready;
use crate::store::{AsyncStore, Store, StoreError};

/// What every handler can reach.
pub struct AppState {
    pub(crate) store: AsyncStore,
    pub(crate) live: Live,
    /// The streams that it fetches.
    pub(crate) pulls: Pulls,
    /// Where it sends streams on.
    pub(crate) forwards: Forwards,
    pub(crate) config: Config,
    /// The relay, unless the node meets nobody.
    pub(crate) relay: Option<crate::delivery::Handle>,
    /// Whether every part of the node works.
    pub(crate) health: Health,
    pub(crate) started: Instant,
    pub(crate) auth_required: bool,
    ready: Ready,
    roots: roots::Roots,
    parts: catalog::Parts,
    counters: metrics::Counters,
    /// For segments on their way in.
    ingest_memory: body::Memory,
    /// The connections.
    pool: Arc<pool::Pool>,
    stopping: tokio::sync::watch::Receiver<bool>,
}

type App = Arc<AppState>;

impl AppState {
    pub(crate) fn new(
        store: AsyncStore,
        studio: Studio,
        config: Config,
        relay: Option<crate::delivery::Handle>,
        health: Health,
        auth_required: bool,
        stopping: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        Self {
            store,
            live: studio.live,
            pulls: studio.pulls,
            forwards: studio.forwards,
            relay,
            health,
            started: Instant::now(),
            auth_required,
            ready: Ready::default(),
            roots: roots::Roots::default(),
            parts: catalog::Parts::default(),
            counters: metrics::Counters::default(),
            ingest_memory: body::Memory::new(config.ingest_memory.0, config.segment_limit.0),
            pool: pool::Pool::new(config.max_connections),
            config,
            stopping,
        }
    }

    /// Runs what waits for the disk apart from the tasks that serve.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.store.attempt(work).await?)
    }
}

/// All paths of the API.
pub(crate) fn router(state: App) -> Router {
    Router::new()
        .route("/health", get(status::health))
        .route("/status", get(status::status))
        .route("/events", get(events::events))
        .route("/snapshot", post(snapshot::snapshot))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .route(
            "/peers",
            get(peers::list).post(peers::add).delete(peers::remove),
        )
        .route("/catalog", get(catalog::list))
        .route(
            "/content/{*path}",
            get(catalog::show).delete(catalog::remove).put(catalog::pin),
        )
        .route("/play/{*path}", get(play::play))
        .route("/segment/{*path}", get(segment::segment))
        .route("/ingest", post(ingest::ingest))
        .route("/ingest/{*path}", post(ingest::finish))
        .route("/api/v1/live", get(live::list))
        .route("/api/v1/live/{name}", get(live::show).put(live::publish))
        .route("/api/v1/live/{name}/key", post(live::key))
        .route("/api/v1/live/{name}/pull", post(live::pull))
        .route("/api/v1/live/{name}/forward", put(live::forward))
        .route("/api/v1/live/{name}/{action}", post(live::act))
        .route("/uploads", get(uploads::list).post(uploads::begin))
        .route("/uploads/{id}", get(uploads::show).delete(uploads::abort))
        .route(
            "/uploads/{id}/segments/{rendition}/{name}",
            put(uploads::stage),
        )
        .route("/uploads/{id}/commit", post(uploads::commit))
        .route("/", get(page::index))
        .fallback(get(page::asset))
        .method_not_allowed_fallback(error::method_not_allowed)
        .with_state(state)
}
