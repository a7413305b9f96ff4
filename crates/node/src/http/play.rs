//! `/play/...`: playlists.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::App;
use super::error::ApiError;
use super::etag;
use super::pool::Caller;
use super::reference::Reference;
use crate::live::{Answer, Ask, NoPlaylist, Stream};
use crate::store::Store;

const PLAYLIST_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.apple.mpegurl");

/// What a player of low latency asks (RFC 8216bis section 6.2.5). Other parameters are not looked
/// at: players and pages add their own.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
pub(super) struct PlayQuery {
    /// The answer waits until it has this segment.
    #[serde(rename = "_HLS_msn")]
    pub msn: Option<u64>,
    /// And this part of it.
    #[serde(rename = "_HLS_part")]
    pub part: Option<u64>,
    /// `YES` or `v2`: segments that the player knows may be left out.
    #[serde(rename = "_HLS_skip")]
    pub skip: Option<String>,
    /// `all`: everything that is kept of a live stream, and not only its newest part.
    pub window: Option<String>,
    /// For the operator's service that decides who may watch (`--authorize`).
    pub token: Option<String>,
}

/// Asks the operator's service whether a content may be watched, if there is one.
pub(super) async fn permit(
    app: &App,
    caller: &Caller,
    reference: &Reference<'_>,
    token: Option<&str>,
) -> Result<(), ApiError> {
    let authority = app.live.authority();
    let name = reference.content_id.as_str();
    Ok(authority.may_play(name, caller.address, token).await?)
}

impl PlayQuery {
    fn ask(&self) -> Ask {
        Ask {
            msn: self.msn,
            part: self.part,
            skip: matches!(self.skip.as_deref(), Some("YES" | "v2")),
        }
    }

    fn wants_all(&self) -> bool {
        self.window.as_deref() == Some("all")
    }
}

/// The live stream that a path means, if it is one of this node's that runs.
pub(super) fn running(app: &App, reference: &Reference<'_>) -> Option<Arc<Stream>> {
    let own = app.store.publisher();
    if reference
        .publisher
        .is_some_and(|publisher| publisher != own)
    {
        return None;
    }
    app.live.stream(&reference.content_id)
}

/// The playlist of a live stream, from memory.
async fn live(app: &App, stream: &Stream, ask: Ask) -> Result<Response, ApiError> {
    let Answer { text, max_age } = stream.playlist(ask).await?;
    app.counters.playlists.add(1);
    let mut response = text.into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, PLAYLIST_TYPE);
    let cache = match max_age.as_secs() {
        0 => "no-cache".to_owned(),
        seconds => format!("public, max-age={seconds}"),
    };
    if let Ok(cache) = HeaderValue::from_str(&cache) {
        fields.insert(header::CACHE_CONTROL, cache);
    }
    Ok(response)
}

#[utoipa::path(
    get, path = "/play/{reference}/index.m3u8",
    params(
        ("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID"),
        PlayQuery
    ),
    responses(
        (status = 200, description = "Playlist", content_type = "application/vnd.apple.mpegurl"),
        (status = 404, body = super::dto::ErrorReply)
    )
)]
pub(super) async fn play(
    State(app): State<App>,
    Path(path): Path<String>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PlayQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!("the query is wrong: {}", error.body_text()))
    })?;
    let reference = Reference::parse(&path)?;
    permit(&app, &caller, &reference, query.token.as_deref()).await?;
    let Some(stream) = running(&app, &reference) else {
        return stored(&app, &reference, &headers).await;
    };
    if query.wants_all() {
        let all = stored(&app, &reference, &headers).await;
        // Before the first segment is stored, what runs is all there is.
        if all.is_ok() {
            return all;
        }
    }
    live(&app, &stream, query.ask()).await
}

/// The playlist of what is in the store.
async fn stored(
    app: &App,
    reference: &Reference<'_>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let catalog = app.store.catalog();
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
    if etag::is_held(headers, &playlist.etag) {
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

impl From<NoPlaylist> for ApiError {
    fn from(error: NoPlaylist) -> Self {
        let status = match error {
            NoPlaylist::Bad(_) => StatusCode::BAD_REQUEST,
            NoPlaylist::Empty(_) => StatusCode::NOT_FOUND,
            NoPlaylist::Render(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}
