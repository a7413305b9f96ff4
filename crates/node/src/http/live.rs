//! `/api/v1/live`: live streams, as their publishers and the operator see them.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use lavant_proto::ids::ContentId;
use lavant_proto::time::ticks_to_seconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::error::ApiError;
use crate::live::{
    Ended, Publisher, Refused, SILENCE_MAX, Source, State as StreamState, Status, Stream,
};
use crate::store::StoreError;

/// What is told of a live stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LiveEntry {
    /// Its name, which is its content_id.
    pub name: String,
    /// Version of the content; a new broadcast under an old name has the next one.
    pub version: u32,
    /// `live`, `paused`, `waiting` (for its publisher to come back) or `ended`.
    pub state: &'static str,
    /// How its publisher is connected: `http`, `rtmp`, or empty.
    pub by: String,
    /// When this broadcast began.
    pub since: String,
    /// Where to watch it.
    pub play: String,
    /// Codecs by RFC 6381, with commas between; empty while they are not known.
    pub codecs: String,
    /// Width in pixels; 0 without video.
    pub width: u32,
    /// Height in pixels; 0 without video.
    pub height: u32,
    /// Bits a second, lately.
    pub bit_rate: u64,
    /// Seconds between key frames, lately.
    pub key_seconds: f64,
    /// Frames that came.
    pub frames: u64,
    /// Seconds of media that came.
    pub seconds: f64,
    /// Segments that are in the store.
    pub stored: u64,
    /// Segments that the replay lacks, because the store took none.
    pub lost: u64,
    /// Why the store takes none, if it does not.
    pub fault: Option<String>,
    /// Target duration in seconds; none before the first segment.
    pub target_duration: Option<u64>,
    /// Part target in seconds; none before the first segment.
    pub part_target: Option<f64>,
    /// Why the latest publisher was cut off, if it was.
    pub error: Option<String>,
    /// Whether low latency is offered: parts come steadily.
    pub low_latency: bool,
}

impl LiveEntry {
    fn of(app: &App, stream: &Stream) -> Self {
        let Status {
            name,
            version,
            state,
            by,
            since,
            codecs,
            size: (width, height),
            bit_rate,
            key_distance,
            frames,
            duration,
            stored,
            lost,
            fault,
            error,
            target_duration,
            part_target,
            is_low,
        } = stream.status();
        let publisher = app.store.publisher();
        let catalog = app.store.catalog();
        let reference = crate::playlist::reference_of(&catalog, &publisher, &name);
        Self {
            name: name.to_string(),
            version,
            state: match state {
                StreamState::Live => "live",
                StreamState::Paused => "paused",
                StreamState::Waiting => "waiting",
                StreamState::Ended => "ended",
            },
            by,
            since: since.rfc3339(),
            play: format!("/play/{reference}/index.m3u8"),
            codecs,
            width,
            height,
            bit_rate,
            key_seconds: ticks_to_seconds(key_distance),
            frames,
            seconds: ticks_to_seconds(duration),
            stored,
            lost,
            fault,
            error,
            target_duration,
            part_target: part_target.map(ticks_to_seconds),
            low_latency: is_low,
        }
    }
}

/// The query of `PUT /api/v1/live/{name}`.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishQuery {
    /// Title of the content; its name when there is none.
    pub title: Option<String>,
}

#[utoipa::path(
    get, path = "/api/v1/live",
    responses((status = 200, description = "All streams, by name", body = Vec<LiveEntry>))
)]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<LiveEntry>> {
    let streams = app.live.streams();
    let entries = streams.iter().map(|stream| LiveEntry::of(&app, stream));
    Json(entries.collect())
}

#[utoipa::path(
    get, path = "/api/v1/live/{name}", params(("name" = String, Path)),
    responses((status = 200, body = LiveEntry), (status = 404, body = super::dto::ErrorReply))
)]
pub(super) async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<LiveEntry>, ApiError> {
    let stream = find(&app, &parse(&name)?)?;
    Ok(Json(LiveEntry::of(&app, &stream)))
}

#[utoipa::path(
    put, path = "/api/v1/live/{name}", params(("name" = String, Path), PublishQuery),
    request_body(description = "MPEG-TS or fragmented MP4, as it comes"),
    responses((status = 200, description = "The source ended", body = LiveEntry),
              (status = 409, description = "Another one does", body = super::dto::ErrorReply),
              (status = 422, description = "It is no stream", body = super::dto::ErrorReply))
)]
pub(super) async fn publish(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Result<Query<PublishQuery>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Result<Json<LiveEntry>, ApiError> {
    let name = parse(&name)?;
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!("the query is wrong: {}", error.body_text()))
    })?;
    let publisher = app
        .live
        .publish(&name, query.title.as_deref(), "http")
        .await?;
    let mut stopping = app.stopping.clone();
    tokio::select! {
        taken = take(&publisher, body) => {
            taken.inspect_err(|error| publisher.failed(&error.message))?;
        }
        ended = publisher.replaced() => return Err(ended.into()),
        _ = stopping.wait_for(|stop| *stop) => return Err(Ended::Closed.into()),
    }
    Ok(Json(LiveEntry::of(&app, publisher.stream())))
}

/// Reads a body to its end.
async fn take(publisher: &Publisher, mut body: Body) -> Result<(), ApiError> {
    let mut source = Source::default();
    loop {
        let frame = tokio::time::timeout(SILENCE_MAX, body.frame()).await;
        let frame = frame.map_err(|_| {
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "nothing came for 20 seconds; publish again under the same name to go on",
            )
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("the body was cut off"))?;
        if let Ok(data) = frame.into_data() {
            source.push(&data, |item| publisher.push(item))?;
        }
    }
    Ok(source.finish(|item| publisher.push(item))?)
}

#[utoipa::path(
    post, path = "/api/v1/live/{name}/{action}",
    params(("name" = String, Path), ("action" = String, Path,
        description = "pause, resume, finish; or stop, and keep its publisher away for a minute")),
    responses((status = 200, body = LiveEntry), (status = 404, body = super::dto::ErrorReply))
)]
pub(super) async fn act(
    State(app): State<App>,
    Path((name, action)): Path<(String, String)>,
) -> Result<Json<LiveEntry>, ApiError> {
    let name = parse(&name)?;
    let stream = find(&app, &name)?;
    match action.as_str() {
        "pause" => stream.pause(true)?,
        "resume" => stream.pause(false)?,
        // One that has ended meanwhile is stopped.
        "stop" => drop(app.live.stop(&name)),
        // The answer says what is in the store, as soon as all is.
        "finish" => stream.finish().await,
        other => {
            return Err(ApiError::not_found(format!(
                "a live stream can be told to pause, resume, finish or stop, not to {other:?}"
            )));
        }
    }
    Ok(Json(LiveEntry::of(&app, &stream)))
}

/// What an encoder needs to publish by RTMP.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct KeyReply {
    /// Its name.
    pub name: String,
    /// The stream key: a secret of whoever may publish under the name.
    pub key: String,
    /// The address of the server; none when the node does not listen for RTMP (`--rtmp`).
    pub rtmp: Option<String>,
}

#[utoipa::path(
    post, path = "/api/v1/live/{name}/key", params(("name" = String, Path)),
    responses((status = 200, body = KeyReply))
)]
pub(super) async fn key(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<KeyReply>, ApiError> {
    let name = parse(&name)?;
    let (live, of) = (app.live.clone(), name.clone());
    let key = tokio::task::spawn_blocking(move || live.stream_key(&of)).await;
    let key = key
        .map_err(|_| StoreError::Closed)?
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let rtmp = app.config.live.rtmp.map(|address| {
        // Nobody can connect to "all addresses".
        let host = match address.ip() {
            ip if ip.is_unspecified() => crate::config::host_name(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        format!("rtmp://{host}:{}/live", address.port())
    });
    Ok(Json(KeyReply {
        name: name.to_string(),
        key,
        rtmp,
    }))
}

fn parse(name: &str) -> Result<ContentId, ApiError> {
    ContentId::new(name).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn find(app: &App, name: &ContentId) -> Result<Arc<Stream>, ApiError> {
    app.live.stream(name).ok_or_else(|| {
        ApiError::not_found(format!(
            "nobody publishes {:?} now; /catalog lists what was published",
            name.as_str()
        ))
    })
}

impl From<Refused> for ApiError {
    fn from(error: Refused) -> Self {
        let status = match error {
            Refused::Store(error) => return error.into(),
            Refused::Busy(_) | Refused::Stopped(_) => StatusCode::CONFLICT,
            Refused::TooMany | Refused::Closed => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Ended> for ApiError {
    fn from(error: Ended) -> Self {
        let status = match error {
            Ended::Media(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Ended::Closed => StatusCode::SERVICE_UNAVAILABLE,
            Ended::TakenOver | Ended::Finished | Ended::Stopped | Ended::Gone | Ended::Store(_) => {
                StatusCode::CONFLICT
            }
        };
        Self::new(status, error.to_string())
    }
}
