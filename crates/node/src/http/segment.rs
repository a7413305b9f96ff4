//! `/segment/...`: the bytes that players fetch.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType};
use lavant_proto::ids::Rendition;

use super::App;
use super::error::ApiError;
use super::etag;
use super::play::{permit, running};
use super::pool::Caller;
use super::range::{self, Wanted};
use super::reference::Reference;
use super::sendfile::{FileBody, FileQueue};
use crate::store::{Content, PayloadFile, Segment, Store, StoreError};

/// The longest time that a segment may be taken from a cache: it never changes, but it expires.
const MAX_AGE_SECONDS: u64 = 365 * 86_400;

/// How long parts and segments of a live stream may be taken from a cache. Their paths are never
/// used for anything else, but nobody asks for old parts.
const LIVE_AGE_SECONDS: u64 = 3600;

#[utoipa::path(
    get, path = "/segment/{reference}/{version}/{rendition}/{name}",
    params(
        ("reference" = String, Path, description = "CONTENT_ID or PUBLISHER/CONTENT_ID"),
        ("version" = u32, Path, description = "Version of the content"),
        ("rendition" = String, Path, description = "Name of the rendition"),
        ("name" = String, Path, description = "0.ts, 0.m4s or init-0.mp4"),
    ),
    responses(
        (status = 200, description = "The segment"), (status = 206, description = "A range of it"),
        (status = 404, body = super::dto::ErrorReply)
    )
)]
pub(super) async fn segment(
    State(app): State<App>,
    Path(path): Path<String>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    if app.live.authority().is_asked() {
        let query = request.uri().query().unwrap_or_default();
        let mut query = form_urlencoded::parse(query.as_bytes());
        let token = query.find(|(name, _)| name == "token");
        let token = token.map(|(_, token)| token);
        permit(&app, &caller, &Reference::parse(&path)?, token.as_deref()).await?;
    }
    if let Some(response) = live(&app, &path, request.headers()).await? {
        return Ok(response);
    }
    // Everything that needs no file is refused first: only then is a thread taken that may block.
    let named = named(&app, &path)?;
    let (content, immutable) = (named.content.clone(), named.immutable);
    let found = app.blocking(move |store| Ok(named.find(store))).await??;
    let headers = request.headers();
    let length = found.row.length;
    let etag = format!("\"{}\"", found.row.root);
    if etag::is_held(headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let (status, from, to) = match wanted(headers, &etag, length) {
        Wanted::Whole => (StatusCode::OK, 0, length),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part.start, part.end),
        Wanted::Unsatisfiable => return Ok(unsatisfiable(length)),
    };
    // The newest live segments, which most viewers ask for at once, need no file.
    let hot = app.store.hot(&found.row.root);
    let head = *request.method() == Method::HEAD;
    let queue = request.extensions().get::<Arc<FileQueue>>().cloned();
    let body = match hot {
        Some(bytes) => Body::from(bytes.slice(from as usize..to as usize)),
        None => cold(&app, &found, from..to, queue, head).await?,
    };
    app.counters.segments.add(1);
    app.counters
        .segment_bytes
        .add(if head { 0 } else { to - from });
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let mime = found.mime.as_str();
    // No cache may keep it for longer than this node does.
    let left = content
        .expires
        .since(app.store.settings().clock.now())
        .as_secs();
    fields(
        response.headers_mut(),
        mime,
        &etag,
        immutable.then_some(left),
    );
    set(
        response.headers_mut(),
        header::CONTENT_LENGTH,
        &(to - from).to_string(),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{length}", to - 1);
        set(response.headers_mut(), header::CONTENT_RANGE, &range);
    }
    Ok(response)
}

/// What is asked for of a live stream, from memory. `None` when it is not there: it may be in the
/// store.
async fn live(app: &App, path: &str, headers: &HeaderMap) -> Result<Option<Response>, ApiError> {
    let reference = Reference::parse(path)?;
    let Some(stream) = running(app, &reference) else {
        return Ok(None);
    };
    let [version, rendition, name] = reference.rest.as_slice() else {
        return Ok(None);
    };
    let is_of = version.parse() == Ok(stream.version()) && *rendition == Rendition::MAIN;
    if !is_of {
        return Ok(None);
    }
    let mut stem = name.split('.');
    let first = stem.next().unwrap_or_default();
    let second = stem.next().unwrap_or_default();
    let is_part = second.parse::<u64>().is_ok();
    let found = match (first.strip_prefix("init-"), first.parse(), second.parse()) {
        (Some(init), ..) => init.parse().ok().and_then(|no| stream.init(no)),
        (None, Ok(no), Ok(part)) => {
            let found = stream.part(no, part).await;
            // No part is in the store.
            let gone = || ApiError::not_found(format!("part {part} of segment {no} is not here"));
            Some(found.ok_or_else(gone)?)
        }
        (None, Ok(no), Err(_)) => stream.segment(no),
        (None, Err(_), _) => None,
    };
    let Some(bytes) = found else {
        return Ok(None);
    };
    // A segment has the same entity tag from here as from the store: its root. No part has one.
    let etag = match is_part {
        true => format!("\"{}\"", reference.rest.join("/")),
        false => format!("\"{}\"", app.roots.of(path, &bytes)),
    };
    let length = bytes.len() as u64;
    let (status, from, to) = match wanted(headers, &etag, length) {
        Wanted::Whole => (StatusCode::OK, 0, length),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part.start, part.end),
        Wanted::Unsatisfiable => return Ok(Some(unsatisfiable(length))),
    };
    app.counters.segments.add(1);
    app.counters.segment_bytes.add(to - from);
    let mut response = Response::new(Body::from(bytes.slice(from as usize..to as usize)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    fields(
        headers,
        MimeType::Mp4.as_str(),
        &etag,
        Some(LIVE_AGE_SECONDS),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{length}", to - 1);
        set(headers, header::CONTENT_RANGE, &range);
    }
    Ok(Some(response))
}

fn wanted(headers: &HeaderMap, etag: &str, length: u64) -> Wanted {
    let matches = |tag: &HeaderValue| tag.as_bytes() == etag.as_bytes();
    // A part of what the caller has of other bytes would not fit: it gets all (RFC 9110 section
    // 13.1.5).
    if !headers.get(header::IF_RANGE).is_none_or(matches) {
        return Wanted::Whole;
    }
    range::parse(
        headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok()),
        length,
    )
}

fn unsatisfiable(length: u64) -> Response {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        format!("the range lies outside of the segment's {length} bytes"),
    );
    let mut response = error.into_response();
    // The caller learns the length by it (RFC 9110 section 15.5.17).
    set(
        response.headers_mut(),
        header::CONTENT_RANGE,
        &format!("bytes */{length}"),
    );
    response
}

/// The segment that a path names.
struct Named {
    content: Arc<Content>,
    rendition_no: Option<u16>,
    kind: Kind,
    sequence: u64,
    /// The path can never mean another one.
    immutable: bool,
}

impl Named {
    /// Looks it up. Blocks.
    fn find(&self, store: &Store) -> Result<Segment, ApiError> {
        let content = &self.content;
        let found = match self.rendition_no {
            Some(no) => store.segment(content, no, self.kind, self.sequence)?,
            None => None,
        };
        found.ok_or_else(|| {
            let id = content.key.content_id.as_str();
            let kind = match self.kind {
                Kind::Init => "init segment",
                Kind::Media => "segment",
            };
            ApiError::not_found(format!("{kind} {} of {id:?} is not here", self.sequence))
        })
    }
}

fn named(app: &App, path: &str) -> Result<Named, ApiError> {
    let catalog = app.store.catalog();
    let reference = Reference::parse(path)?;
    let unknown = || ApiError::not_found("a segment is /segment/REF/VERSION/RENDITION/SEQUENCE.ts");
    let (version, rendition, name) = match reference.rest.as_slice() {
        [name] => (None, None, *name),
        [version, rendition, name] => (
            Some(version.parse().map_err(|_| unknown())?),
            Some(*rendition),
            *name,
        ),
        _ => return Err(unknown()),
    };
    let content = reference.find(&catalog, version)?;
    let stem = name.split('.').next().unwrap_or_default();
    let (kind, number) = match stem.strip_prefix("init-") {
        Some(number) => (Kind::Init, number),
        None => (Kind::Media, stem),
    };
    // The ending is not looked at: the short path has none.
    let sequence: u64 = number.parse().map_err(|_| unknown())?;
    let rendition_no = match rendition {
        None => Some(0),
        Some(rendition) => content.rendition_no(rendition),
    };
    // Also for a segment that is not here: it is then fetched next.
    if kind == Kind::Media
        && let Some(relay) = &app.relay
    {
        relay.watched(content.no, sequence);
    }
    Ok(Named {
        content,
        rendition_no,
        kind,
        sequence,
        immutable: version.is_some(),
    })
}

/// A body from the file: by `sendfile` where the connection can, else in large reads.
async fn cold(
    app: &App,
    found: &Segment,
    range: std::ops::Range<u64>,
    queue: Option<Arc<FileQueue>>,
    head: bool,
) -> Result<Body, ApiError> {
    let found = found.clone();
    // Opened for HEAD, too: it tells whether a GET would succeed.
    let file = app
        .blocking(move |store| store.open_payload(&found))
        .await?;
    if head {
        return Ok(Body::empty());
    }
    // On any other connection the placeholder would be sent as it is, all zeros.
    if let Some(queue) = queue {
        return Ok(Body::new(FileBody::new(file.file, range, queue)));
    }
    let bytes = app.blocking(move |_| read(&file, range)).await?;
    Ok(Body::from(bytes))
}

fn read(file: &PayloadFile, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    file.read(range.start, length)
        .map_err(|error| StoreError::NotFound(format!("the segment could not be read: {error};")))
}

fn fields(headers: &mut HeaderMap, mime: &'static str, etag: &str, left: Option<u64>) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    set(headers, header::ETAG, etag);
    match left {
        Some(left) => {
            let age = left.min(MAX_AGE_SECONDS);
            set(
                headers,
                header::CACHE_CONTROL,
                &format!("public, max-age={age}, immutable"),
            );
        }
        // A path without a version means other bytes after the next version.
        None => set(headers, header::CACHE_CONTROL, "no-cache"),
    }
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
