//! `/play/...`: playlists.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::ApiError;
use super::etag;
use super::reference::Reference;
use crate::store::Store;

const PLAYLIST_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.apple.mpegurl");

#[utoipa::path(
    get, path = "/play/{reference}/index.m3u8",
    params(("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID")),
    responses(
        (status = 200, description = "Playlist", content_type = "application/vnd.apple.mpegurl"),
        (status = 404, body = super::dto::ErrorReply)
    )
)]
pub(super) async fn play(
    State(app): State<App>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let catalog = app.store.catalog();
    let reference = Reference::parse(&path)?;
    let content = reference.find(&catalog, None)?;
    let rendition_no = match reference.rest.as_slice() {
        [] | ["index.m3u8"] => (content.renditions.len() == 1).then_some(0),
        [name] if name.ends_with(".m3u8") => {
            let name = name.trim_end_matches(".m3u8");
            let found = content.rendition_no(name);
            Some(found.ok_or_else(|| ApiError::not_found(format!("no rendition {name:?}")))?)
        }
        _ => return Err(ApiError::not_found("a playlist is /play/REF/index.m3u8")),
    };
    // What is ready is answered without a thread that may block, as it is for almost every request.
    let playlist = match app.ready.held(&content, rendition_no) {
        Some(playlist) => playlist,
        None => {
            let state = app.clone();
            let made =
                move |store: &Store| Ok(state.ready.get(store, &catalog, &content, rendition_no));
            app.blocking(made).await??
        }
    };
    app.counters.playlists.add(1);
    if etag::is_held(&headers, &playlist.etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, playlist.etag)]).into_response());
    }
    let mut response = playlist.text.into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, PLAYLIST_TYPE);
    // It may change with the next segment; the entity tag makes asking again cheap.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::from_str(&playlist.etag) {
        fields.insert(header::ETAG, etag);
    }
    Ok(response)
}
