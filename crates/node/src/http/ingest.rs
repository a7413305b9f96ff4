//! `/ingest`: one segment at a time, as cosmosd's clients send it.

use std::str::FromStr;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lavant_media::{cmaf, ts};
use lavant_proto::content::{Kind, MimeType};
use lavant_proto::ids::{ContentId, Rendition};
use lavant_proto::limits::SEQUENCE_MAX;
use lavant_proto::time::TICKS_PER_SECOND;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::App;
use super::body;
use super::dto::{CatalogEntry, IngestBody, IngestMore, IngestQuery, IngestReply};
use super::error::ApiError;
use super::reference::Reference;
use super::uploads::{addressees, priority};
use crate::shown;
use crate::store::{NewSegment, Shown, Store};

/// The length that is taken when none is given and the bytes do not show it; what cosmosd writes
/// for every segment.
const UNKNOWN_DURATION: u64 = 10 * TICKS_PER_SECOND;

/// A segment and whether it is the last.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) segment: NewSegment,
    measure: bool,
    last: bool,
}

#[utoipa::path(
    post, path = "/ingest", params(IngestQuery),
    request_body(content = IngestBody, description = "JSON as above, or the segment itself with \
        its media type and the rest in the query"),
    responses((status = 200, body = IngestReply), (status = 409, body = super::dto::ErrorReply),
              (status = 413, body = super::dto::ErrorReply))
)]
pub(super) async fn ingest(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    request: Body,
) -> Result<Json<IngestReply>, ApiError> {
    let limit = app.config.segment_limit.0;
    let mime = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let mime = mime.map(str::to_owned);
    let raw = mime
        .as_deref()
        .is_some_and(|mime| MimeType::from_str(mime).is_ok());
    // Base64 and the fields around it make a third more of a segment; it is measured again below.
    let limit = if raw {
        limit
    } else {
        body::json_with_segment(limit)
    };
    let received = body::receive(Some(&app.ingest_memory), &headers, request, limit).await?;
    // `received` lives on until the segment is stored: its share of memory is held for as long.
    let bytes = received.bytes.clone();
    let work = app.clone();
    // Base64, hashing and waiting for the commit all take their time.
    let done = app.store.run(move |store| {
        let sent = match mime.filter(|_| raw) {
            Some(mime) => from_query(query.as_deref().unwrap_or_default(), &mime, bytes)?,
            None => from_json(&bytes)?,
        };
        keep(&work, store, sent)
    });
    done.await?.map(Json)
}

/// Stores what was sent. Blocks.
fn keep(app: &App, store: &Store, sent: Sent) -> Result<IngestReply, ApiError> {
    let Sent {
        mut segment,
        measure,
        last,
    } = sent;
    if segment.payload.len() as u64 > app.config.segment_limit.0 {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the segment is larger than {} bytes",
                app.config.segment_limit.0
            ),
        ));
    }
    // Before the segment is signed, as its record says how long it is.
    describe(store, &mut segment, measure)?;
    let bundle_id = format!("{}/{:05}", segment.content_id, segment.sequence);
    let (id, length) = (segment.content_id.clone(), segment.payload.len() as u64);
    let stored = store.append(segment)?;
    app.counters.ingested.add(u64::from(stored));
    app.counters
        .ingested_bytes
        .add(if stored { length } else { 0 });
    if last {
        store.finish(&id)?;
    }
    Ok(IngestReply { bundle_id, stored })
}

/// Fills in what the bytes themselves say: length, codecs, size of the picture.
fn describe(store: &Store, segment: &mut NewSegment, measure: bool) -> Result<(), ApiError> {
    // An init segment has no length.
    if segment.kind == Kind::Init {
        return Ok(());
    }
    let inspected = match segment.mime {
        MimeType::TransportStream => ts::inspect(&segment.payload),
        MimeType::Mp4 | MimeType::Mp4Audio => {
            let init = init_of(store, segment)?;
            cmaf::inspect(init.as_deref(), &segment.payload)
        }
    };
    match inspected {
        Ok(inspection) => {
            if measure {
                segment.duration = inspection.duration;
            }
            segment.shown = shown::of(&inspection);
        }
        Err(error) if measure => {
            tracing::warn!(%error, content = %segment.content_id, sequence = segment.sequence,
                "the length of a segment cannot be measured; 10 s are taken");
            segment.duration = UNKNOWN_DURATION;
        }
        // The length was given, and only codecs and size are missing: the segment is good without.
        Err(_) => {}
    }
    Ok(())
}

/// The init segment that a CMAF segment names.
fn init_of(store: &Store, segment: &NewSegment) -> Result<Option<Bytes>, ApiError> {
    let catalog = store.catalog();
    // The newest version, to which a segment is appended.
    let content = catalog.find(Some(&store.publisher()), &segment.content_id, None);
    let found = content.and_then(|content| {
        let no = content.rendition_no(segment.rendition.as_str())?;
        Some((content, no, segment.init?))
    });
    if let Some((content, no, init)) = found
        && let Some(init) = store.segment(content, no, Kind::Init, init)?
    {
        // Verified, as what it says of the codecs becomes part of signed records.
        return Ok(Some(store.read_verified(&init)?));
    }
    Err(ApiError::new(
        StatusCode::CONFLICT,
        "a CMAF segment needs its init segment first: send it with kind=init and sequence=0",
    ))
}

/// Decodes cosmosd's JSON body.
pub(super) fn from_json(bytes: &[u8]) -> Result<Sent, ApiError> {
    let body: IngestBody = body::json(bytes)?;
    let payload = STANDARD
        .decode(&body.payload_b64)
        .map_err(|error| ApiError::bad_request(format!("payload_b64 is not base64: {error}")))?;
    let mime = body.mime_type.as_deref().unwrap_or("video/mp2t");
    let head = Head {
        content_id: &body.content_id,
        title: body.content_title.as_deref(),
        sequence: body.sequence,
        mime,
        priority: body.priority.as_deref(),
    };
    sent(head, body.more, payload.into())
}

/// Takes a raw body with its description in the query.
pub(super) fn from_query(query: &str, mime: &str, payload: Bytes) -> Result<Sent, ApiError> {
    let query: IngestQuery = serde_urlencoded(query)?;
    let head = Head {
        content_id: &query.content_id,
        title: query.content_title.as_deref(),
        sequence: query.sequence,
        mime,
        priority: query.priority.as_deref(),
    };
    let more = IngestMore {
        rendition: query.rendition.clone(),
        duration: query.duration,
        discontinuity: query.discontinuity,
        kind: query.kind.clone(),
        init: query.init,
        target_duration: query.target_duration,
        last: query.last,
    };
    sent(head, more, payload)
}

fn serde_urlencoded<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    // axum reads a query only out of a whole URI.
    let uri = format!("/ingest?{query}")
        .parse()
        .map_err(|_| ApiError::bad_request("the query is not a query"))?;
    Query::try_from_uri(&uri)
        .map(|Query(query)| query)
        .map_err(|error| {
            ApiError::bad_request(format!("the query is wrong: {}", error.body_text()))
        })
}

/// The fields that both forms have.
struct Head<'a> {
    content_id: &'a str,
    title: Option<&'a str>,
    sequence: u64,
    mime: &'a str,
    priority: Option<&'a str>,
}

fn sent(head: Head<'_>, more: IngestMore, payload: Bytes) -> Result<Sent, ApiError> {
    let refused = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
    let kind = match more.kind.as_deref() {
        None | Some("media") => Kind::Media,
        Some("init") => Kind::Init,
        Some(other) => return Err(refused(&format!("kind is media or init, not {other:?}"))),
    };
    let mime: MimeType = head.mime.parse().map_err(|error| refused(&error))?;
    if payload.is_empty() {
        return Err(refused(&"the segment is empty"));
    }
    if head.sequence > SEQUENCE_MAX {
        return Err(refused(&format!("sequence is at most {SEQUENCE_MAX}")));
    }
    let init = (kind == Kind::Media && mime.needs_init()).then(|| more.init.unwrap_or(0));
    let segment = NewSegment {
        version: None,
        ttl: None,
        content_id: ContentId::new(head.content_id).map_err(|error| refused(&error))?,
        title: head.title.unwrap_or(head.content_id).to_owned(),
        priority: priority(head.priority)?,
        target_duration: target(more.target_duration)?,
        rendition: Rendition::new(more.rendition.as_deref().unwrap_or(Rendition::MAIN))
            .map_err(|error| refused(&error))?,
        kind,
        sequence: head.sequence,
        duration: ticks(more.duration)?,
        discontinuity: more.discontinuity.unwrap_or(false),
        independent: true,
        init,
        mime,
        shown: Shown::default(),
        payload,
    };
    Ok(Sent {
        segment,
        measure: more.duration.is_none(),
        last: more.last.unwrap_or(false),
    })
}

fn target(seconds: Option<u32>) -> Result<Option<u32>, ApiError> {
    match seconds {
        Some(0 | 3601..) => Err(ApiError::bad_request(
            "target_duration is 1 to 3600 seconds",
        )),
        other => Ok(other),
    }
}

fn ticks(seconds: Option<f64>) -> Result<u64, ApiError> {
    match seconds {
        None => Ok(0),
        Some(seconds) if seconds.is_finite() && seconds > 0.0 && seconds <= 3600.0 => {
            Ok((seconds * TICKS_PER_SECOND as f64).round() as u64)
        }
        Some(_) => Err(ApiError::bad_request(
            "duration is more than 0 and at most 3600 seconds",
        )),
    }
}

/// The query of `POST /ingest/{content_id}/finish`.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FinishQuery {
    /// Keys of the nodes that it is for, with commas between; everybody when there are none.
    pub to: Option<String>,
}

#[utoipa::path(
    post, path = "/ingest/{content_id}/finish", params(("content_id" = String, Path), FinishQuery),
    responses((status = 200, body = CatalogEntry), (status = 409, body = super::dto::ErrorReply))
)]
pub(super) async fn finish(
    State(app): State<App>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<CatalogEntry>, ApiError> {
    let reference = Reference::parse(&path)?;
    let query: FinishQuery = serde_urlencoded(query.as_deref().unwrap_or_default())?;
    let to = query.to.unwrap_or_default();
    let to = addressees(to.split(',').filter(|key| !key.is_empty()))?;
    let own = app.store.publisher();
    if reference.rest != ["finish"] || reference.publisher.is_some_and(|key| key != own) {
        return Err(ApiError::not_found(
            "POST works on /ingest and /ingest/CONTENT_ID/finish",
        ));
    }
    let key = app
        .blocking(move |store| store.finish_for(&reference.content_id, to))
        .await?;
    let catalog = app.store.catalog();
    let content = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
    let content = content.ok_or_else(|| ApiError::not_found("the content is gone already"))?;
    Ok(Json(CatalogEntry::of(&catalog, content)))
}

/// Decodes `bytes` as every body and query that this file takes, for fuzzing.
pub fn fuzz_body(bytes: &[u8]) {
    let _ = from_json(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = from_query(text, "video/mp2t", Bytes::from_static(b"x"));
    let _ = super::uploads::fuzz_body(bytes);
    let _ = super::range::parse(Some(text), bytes.len() as u64);
    let _ = Reference::parse(text);
}
