//! `/openapi.json`: the description of the API.

use axum::Json;
use utoipa::OpenApi;

use super::{
    catalog, dto, events, ingest, live, metrics, peers, play, segment, snapshot, status, uploads,
};

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
        snapshot::snapshot,
        metrics::metrics,
        openapi,
        peers::list,
        peers::add,
        peers::remove,
        catalog::list,
        catalog::show,
        catalog::remove,
        catalog::pin,
        unpin,
        play::play,
        play_short,
        play_rendition,
        segment::segment,
        segment_short,
        ingest::ingest,
        ingest::finish,
        live::list,
        live::show,
        live::publish,
        live::act,
        live::key,
        live::pull,
        live::forward,
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

// Paths whose handlers serve another path as well, and are described there.

#[utoipa::path(
    delete, path = "/content/{reference}/pin",
    params(("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID")),
    responses((status = 200, description = "No longer pinned"),
              (status = 404, body = dto::ErrorReply))
)]
#[expect(dead_code, reason = "it only carries a description")]
fn unpin() {}

#[utoipa::path(
    get, path = "/play/{reference}",
    params(("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID")),
    responses((status = 200, description = "As /play/{reference}/index.m3u8"),
              (status = 404, body = dto::ErrorReply))
)]
#[expect(dead_code, reason = "it only carries a description")]
fn play_short() {}

#[utoipa::path(
    get, path = "/play/{reference}/{rendition}.m3u8",
    params(
        ("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID"),
        ("rendition" = String, Path, description = "Name of the rendition"),
    ),
    responses(
        (status = 200, description = "Playlist", content_type = "application/vnd.apple.mpegurl"),
        (status = 404, body = dto::ErrorReply)
    )
)]
#[expect(dead_code, reason = "it only carries a description")]
fn play_rendition() {}

#[utoipa::path(
    get, path = "/segment/{reference}/{sequence}",
    params(
        ("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID"),
        ("sequence" = u64, Path, description = "Of the first rendition of the current version"),
    ),
    responses(
        (status = 200, description = "The segment"), (status = 206, description = "A range of it"),
        (status = 404, body = dto::ErrorReply)
    )
)]
#[expect(dead_code, reason = "it only carries a description")]
fn segment_short() {}
