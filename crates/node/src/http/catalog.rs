//! `/catalog` and `/content/...`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Method;
use lavant_proto::relay::evict::EVERYWHERE;
use lavant_proto::time::ticks_to_seconds;
use serde_json::json;

use super::App;
use super::dto::CatalogEntry;
use super::error::ApiError;
use super::reference::Reference;

#[utoipa::path(get, path = "/catalog", responses((status = 200, body = [CatalogEntry])))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<CatalogEntry>> {
    Json(entries(&app))
}

/// The current contents that have something to play, by id.
pub(super) fn entries(app: &App) -> Vec<CatalogEntry> {
    let catalog = app.store.catalog();
    let shown = catalog
        .current()
        // Of a content that was only announced nothing can be played yet.
        .filter(|content| content.segment_count() > 0);
    let mut entries: Vec<_> = shown
        .map(|content| CatalogEntry::of(&catalog, content))
        .collect();
    entries.sort_by(|a, b| a.content_id.cmp(&b.content_id));
    entries
}

#[utoipa::path(
    get, path = "/content/{reference}",
    params(("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID")),
    responses((status = 200, body = CatalogEntry), (status = 404, body = super::dto::ErrorReply))
)]
pub(super) async fn show(
    State(app): State<App>,
    Path(path): Path<String>,
) -> Result<Json<CatalogEntry>, ApiError> {
    let catalog = app.store.catalog();
    let reference = Reference::parse(&path)?;
    reference.end()?;
    let content = reference.find(&catalog, None)?;
    let mut entry = CatalogEntry::of(&catalog, &content);
    // These walk over all of its segments, which is too much for a list of all contents.
    let (ticks, copies) = app
        .blocking(move |store| Ok((store.ready_ticks(&content)?, store.copies(&content)?)))
        .await?;
    if !entry.complete {
        entry.ready_seconds = ticks_to_seconds(ticks);
    }
    entry.group_has_it = copies == EVERYWHERE;
    entry.copies_elsewhere = (copies != EVERYWHERE).then_some(copies);
    Ok(Json(entry))
}

#[utoipa::path(
    delete, path = "/content/{reference}",
    params(("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID")),
    responses(
        (status = 200, description = "Removed"),
        (status = 404, body = super::dto::ErrorReply)
    )
)]
pub(super) async fn remove(
    state: State<App>,
    method: Method,
    Path(path): Path<String>,
) -> Result<Json<serde_json::Value>, ApiError> {
    // The router cannot tell the two, as an id is followed by a path of any length.
    if path.ends_with("/pin") {
        return pin(state, method, Path(path)).await;
    }
    let State(app) = state;
    let reference = Reference::parse(&path)?;
    reference.end()?;
    let content = reference.find(&app.store.catalog(), None)?;
    let (segments, bytes) = app.blocking(move |store| store.remove(&content)).await?;
    Ok(Json(
        json!({ "deleted_segments": segments, "freed_bytes": bytes }),
    ))
}

#[utoipa::path(
    put, path = "/content/{reference}/pin",
    params(("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID")),
    responses((status = 200, description = "Pinned"), (status = 404, body = super::dto::ErrorReply))
)]
pub(super) async fn pin(
    State(app): State<App>,
    method: Method,
    Path(path): Path<String>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let reference = Reference::parse(&path)?;
    if reference.rest != ["pin"] {
        return Err(ApiError::not_found(
            "PUT and DELETE work on /content/REF/pin",
        ));
    }
    let pinned = method == Method::PUT;
    let content = reference.find(&app.store.catalog(), None)?;
    app.blocking(move |store| store.pin(content.no, pinned))
        .await?;
    Ok(Json(json!({ "pinned": pinned })))
}
