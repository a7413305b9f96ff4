//! `/api/v1/live`: live streams, as their publishers and the operator see them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use http_body_util::BodyExt;
use lavant_proto::ids::ContentId;
use lavant_proto::time::ticks_to_seconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::error::ApiError;
use super::pool::{Caller, SeesAll};
use crate::authority::{Applicant, Denied};
use crate::identity::IdentityError;
use crate::live::{
    BadPull, BadTarget, Ended, Forwards, Origin, Phase, Publisher, Pulled, Refused, SILENCE_MAX,
    Source, State as StreamState, Status, Stream,
};
use crate::store::StoreError;

/// How long a request waits to hear whether a stream can be fetched.
const PULL_WAIT: Duration = Duration::from_secs(15);

/// A target that a stream is sent on to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ForwardEntry {
    /// The server, without path and query.
    pub to: String,
    /// Whether it takes the stream now.
    pub running: bool,
    /// Why it does not, if it failed; it is tried again.
    pub error: Option<String>,
}

/// What is told of a live stream.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct LiveEntry {
    /// Its name, which is its content_id.
    pub name: String,
    /// Version of the content; a new broadcast under an old name has the next one.
    pub version: u32,
    /// `live`, `paused`, `waiting` (for its publisher to come back) or `ended`.
    pub state: &'static str,
    /// How its publisher is connected: `http`, `rtmp`, `srt`, `pull` (by this node), or empty.
    pub by: String,
    /// Where this node fetches it from, without user, password and query; none when it does not,
    /// or whoever asks may not know.
    pub source: Option<String>,
    /// Where it is sent on, for whoever may know.
    pub forwards: Vec<ForwardEntry>,
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
    /// Frames that were left out because of their times.
    pub dropped: u64,
    /// Seconds by which the media runs ahead of the clock; less than 0 when it comes too slowly.
    pub drift: Option<f64>,
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
    /// What its publisher sends and is not taken, such as `ac-3 audio`.
    pub left_out: Vec<String>,
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
            dropped,
            drift,
            duration,
            stored,
            lost,
            fault,
            error,
            left_out,
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
            source: None,
            forwards: Vec::new(),
            since: since.rfc3339(),
            play: format!("/play/{reference}/index.m3u8"),
            codecs,
            width,
            height,
            bit_rate,
            key_seconds: ticks_to_seconds(key_distance),
            frames,
            dropped,
            drift,
            seconds: ticks_to_seconds(duration),
            stored,
            lost,
            fault,
            error,
            left_out,
            target_duration,
            part_target: part_target.map(ticks_to_seconds),
            low_latency: is_low,
        }
    }

    /// One of which nothing came yet.
    fn waiting(app: &App, name: &ContentId) -> Self {
        let catalog = app.store.catalog();
        let reference = crate::playlist::reference_of(&catalog, &app.store.publisher(), name);
        Self {
            name: name.to_string(),
            state: "waiting",
            play: format!("/play/{reference}/index.m3u8"),
            ..Self::default()
        }
    }

    /// What only the operator sees.
    fn completed(mut self, app: &App, name: &ContentId, SeesAll(sees_all): SeesAll) -> Self {
        if sees_all {
            let forwards = app.forwards.of(name).into_iter();
            let entries = forwards.map(|it| ForwardEntry {
                to: it.to,
                running: it.is_running,
                error: it.error,
            });
            self.forwards = entries.collect();
        }
        self
    }

    /// What is known of its source.
    fn pulled(&mut self, pulled: &Pulled, SeesAll(sees_all): SeesAll) {
        self.source = sees_all.then(|| pulled.source.clone());
        if let Phase::Failed(reason) = &pulled.phase {
            self.error = Some(reason.clone());
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
pub(super) async fn list(
    State(app): State<App>,
    Extension(sees_all): Extension<SeesAll>,
) -> Json<Vec<LiveEntry>> {
    let streams = app.live.streams();
    let mut entries: BTreeMap<_, _> = streams
        .iter()
        .map(|stream| {
            let entry = LiveEntry::of(&app, stream).completed(&app, stream.name(), sees_all);
            (stream.name().to_string(), entry)
        })
        .collect();
    for pulled in app.pulls.list() {
        let entry = entries.entry(pulled.name.to_string());
        let entry = entry.or_insert_with(|| LiveEntry::waiting(&app, &pulled.name));
        entry.pulled(&pulled, sees_all);
    }
    Json(entries.into_values().collect())
}

#[utoipa::path(
    get, path = "/api/v1/live/{name}", params(("name" = String, Path)),
    responses((status = 200, body = LiveEntry), (status = 404, body = super::dto::ErrorReply))
)]
pub(super) async fn show(
    State(app): State<App>,
    Extension(sees_all): Extension<SeesAll>,
    Path(name): Path<String>,
) -> Result<Json<LiveEntry>, ApiError> {
    let name = parse(&name)?;
    let mut pulls = app.pulls.list().into_iter();
    let pulled = pulls.find(|pulled| pulled.name == name);
    let mut entry = match (find(&app, &name), &pulled) {
        (Ok(stream), _) => LiveEntry::of(&app, &stream),
        (Err(_), Some(_)) => LiveEntry::waiting(&app, &name),
        (Err(error), None) => return Err(error),
    };
    if let Some(pulled) = &pulled {
        entry.pulled(pulled, sees_all);
    }
    Ok(Json(entry.completed(&app, &name, sees_all)))
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
    Extension(caller): Extension<Caller>,
    query: Result<Query<PublishQuery>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Result<Json<LiveEntry>, ApiError> {
    let name = parse(&name)?;
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!("the query is wrong: {}", error.body_text()))
    })?;
    let asked = app.live.authority().may_publish(Applicant {
        name: name.as_str(),
        by: "http",
        address: Some(caller.address),
        key: None,
    });
    asked
        .await
        .inspect_err(|denied| app.live.refused(name.as_str(), "http", &denied.to_string()))?;
    let publisher = app
        .live
        .publish(&name, query.title.as_deref(), "http")
        .await?;
    let mut stopping = app.stopping.clone();
    // Apart from the request, which ends with its connection: encoders close that with their last
    // byte, and what they sent before it is still on its way.
    let taking = tokio::spawn(async move {
        tokio::select! {
            taken = take(&publisher, body) => {
                taken.inspect_err(|error| publisher.failed(&error.message))
            }
            ended = publisher.replaced() => Err(ended.into()),
            _ = stopping.wait_for(|stop| *stop) => Err(Ended::Closed.into()),
        }
    });
    taking.await.map_err(|_| StoreError::Closed)??;
    // It is waited for from now on, which the answer says.
    let stream = find(&app, &name)?;
    Ok(Json(LiveEntry::of(&app, &stream)))
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
            publisher.ready().await;
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
    let is_end = matches!(action.as_str(), "stop" | "finish");
    // Before the stream ends, or it would be fetched again.
    let was_pulled = is_end && app.pulls.remove(&name);
    let stream = match find(&app, &name) {
        Err(_) if was_pulled => {
            let entry = LiveEntry::waiting(&app, &name);
            let state = "ended";
            return Ok(Json(LiveEntry { state, ..entry }));
        }
        found => found?,
    };
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
    /// The same in TLS (`--rtmps`).
    pub rtmps: Option<String>,
    /// Where it is published by SRT, with the passphrase; none when the node does not listen for
    /// that (`--srt`).
    pub srt: Option<String>,
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
        .map_err(ApiError::secret)?;
    let live = &app.config.live;
    let rtmp = live.rtmp.map(|to| format!("rtmp://{}/live", reachable(to)));
    let rtmps = live.rtmps.as_ref();
    let rtmps = rtmps.map(|(to, ..)| format!("rtmps://{}/live", reachable(*to)));
    let mut listening = live.srt.iter();
    let srt = match listening.find(|(of, _)| *of == name) {
        Some((_, to)) => {
            let passphrase = app.live.passphrase(&name).await.map_err(ApiError::secret)?;
            let to = reachable(*to);
            Some(format!("srt://{to}?passphrase={passphrase}"))
        }
        None => None,
    };
    Ok(Json(KeyReply {
        name: name.to_string(),
        key,
        rtmp,
        rtmps,
        srt,
    }))
}

/// An address that one can connect to, as nobody can to "all addresses".
fn reachable(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("{}:{}", crate::config::host_name(), address.port()),
        false => address.to_string(),
    }
}

/// The body of `POST /api/v1/live/{name}/pull`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PullBody {
    /// What is fetched: an HLS playlist or another stream by http(s), or what ffmpeg opens by
    /// rtsp(s), rtmp(s), srt, rist, udp or rtp.
    pub url: String,
    /// Title of the content; its name when there is none.
    pub title: Option<String>,
    /// Whether addresses may be asked that are not of the open internet.
    #[serde(default)]
    pub allow_private: bool,
}

#[utoipa::path(
    post, path = "/api/v1/live/{name}/pull", params(("name" = String, Path)),
    request_body = PullBody,
    responses((status = 200, description = "It is fetched until it ends or is stopped",
               body = LiveEntry),
              (status = 409, description = "It is already", body = super::dto::ErrorReply),
              (status = 502, description = "It cannot be had", body = super::dto::ErrorReply))
)]
pub(super) async fn pull(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(body): Json<PullBody>,
) -> Result<Json<LiveEntry>, ApiError> {
    let name = parse(&name)?;
    let with_private = body.allow_private || app.config.live.allow_private;
    let origin = Origin::url(&body.url, with_private)?;
    let mut phase = app.pulls.add(name.clone(), body.title, origin)?;
    let begun = phase.wait_for(|phase| *phase != Phase::Asking);
    // What takes longer goes on behind the answer.
    let begun = tokio::time::timeout(PULL_WAIT, begun).await;
    let first = begun.ok().and_then(|phase| phase.ok().map(|it| it.clone()));
    if let Some(Phase::Failed(reason)) = first {
        // Whoever asked hears of it, and can ask again.
        let _ = app.pulls.remove(&name);
        return Err(ApiError::new(StatusCode::BAD_GATEWAY, reason));
    }
    let stream = app.live.stream(&name);
    let entry = stream.map(|stream| LiveEntry::of(&app, &stream));
    Ok(Json(
        entry.unwrap_or_else(|| LiveEntry::waiting(&app, &name)),
    ))
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

/// The body of `PUT /api/v1/live/{name}/forward`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardBody {
    /// URLs of rtmp, rtmps or srt; none to end it.
    pub to: Vec<String>,
}

#[utoipa::path(
    put, path = "/api/v1/live/{name}/forward", params(("name" = String, Path)),
    request_body = ForwardBody,
    responses((status = 200, description = "It is sent to these whenever it runs",
               body = Vec<ForwardEntry>),
              (status = 400, body = super::dto::ErrorReply))
)]
pub(super) async fn forward(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(body): Json<ForwardBody>,
) -> Result<Json<Vec<ForwardEntry>>, ApiError> {
    let name = parse(&name)?;
    let urls = body.to.iter().map(|url| Forwards::target(url));
    let urls: Vec<_> = urls.collect::<Result<_, _>>()?;
    app.forwards.set(&name, &urls)?;
    let entry = LiveEntry::default().completed(&app, &name, SeesAll(true));
    Ok(Json(entry.forwards))
}

impl From<BadTarget> for ApiError {
    fn from(error: BadTarget) -> Self {
        let status = match error {
            BadTarget::Url(_) => StatusCode::BAD_REQUEST,
            BadTarget::TooMany | BadTarget::Closed => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl ApiError {
    fn secret(error: IdentityError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<BadPull> for ApiError {
    fn from(error: BadPull) -> Self {
        let status = match error {
            BadPull::Url(_) => StatusCode::BAD_REQUEST,
            BadPull::Taken(_) => StatusCode::CONFLICT,
            BadPull::TooMany | BadPull::Closed => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refused> for ApiError {
    fn from(error: Refused) -> Self {
        let status = match error {
            Refused::Store(error) => return error.into(),
            Refused::Denied(denied) => return denied.into(),
            Refused::Busy(_) | Refused::Stopped(_) => StatusCode::CONFLICT,
            Refused::TooMany | Refused::Closed => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Denied> for ApiError {
    fn from(error: Denied) -> Self {
        let status = match error {
            Denied::Refused => StatusCode::FORBIDDEN,
            Denied::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Ended> for ApiError {
    fn from(error: Ended) -> Self {
        let status = match error {
            Ended::Media(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Ended::Closed => StatusCode::SERVICE_UNAVAILABLE,
            Ended::TakenOver
            | Ended::Finished
            | Ended::Stopped
            | Ended::Gone
            | Ended::Removed
            | Ended::Store(_) => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}
