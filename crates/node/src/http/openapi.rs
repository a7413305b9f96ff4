//! `/openapi.json`: the description of the API.

use axum::Json;
use utoipa::OpenApi;

use super::{catalog, dto, events, ingest, metrics, play, segment, status, uploads};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "lavant",
        description = "The HTTP API of a lavant node. Errors are JSON with one field, `error`. If \
                       the node listens beyond loopback, POST, PUT and DELETE need the header \
                       `Authorization: Bearer TOKEN`.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        status::health,
        status::status,
        events::events,
        metrics::metrics,
        openapi,
        catalog::list,
        catalog::show,
        catalog::remove,
        catalog::pin,
        play::play,
        segment::segment,
        ingest::ingest,
        ingest::finish,
        uploads::list,
        uploads::begin,
        uploads::show,
        uploads::abort,
        uploads::stage,
        uploads::commit,
    ),
    components(schemas(dto::IngestBody, dto::IngestMore, dto::ErrorReply))
)]
struct Document;

/// The description, as JSON.
#[must_use]
pub fn document() -> String {
    Document::openapi().to_pretty_json().unwrap_or_default()
}

#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3")))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
