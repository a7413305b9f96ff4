//! `/uploads/...`: contents that become visible all at once.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use lavant_proto::content::{Kind, Priority};
use lavant_proto::ids::{ContentId, PublisherKey, Rendition};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::body::{self, JSON_MAX};
use super::dto::{
    BeginUpload, CatalogEntry, CommitBody, CommitEntry, StagedReply, UploadReply, UploadStatus,
    parse_publisher,
};
use super::error::ApiError;
use crate::identity::random_id;
use crate::store::{Commit, CommitRendition, NewUpload, UploadSegment};

#[utoipa::path(get, path = "/uploads", responses((status = 200, body = [UploadStatus])))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<UploadStatus>>, ApiError> {
    let uploads = app.blocking(|store| Ok(store.upload_progress())).await?;
    Ok(Json(uploads.into_iter().map(UploadStatus::of).collect()))
}

#[utoipa::path(
    post, path = "/uploads", request_body = BeginUpload,
    responses((status = 201, body = UploadReply), (status = 200, body = UploadReply),
              (status = 409, body = super::dto::ErrorReply))
)]
pub(super) async fn begin(
    State(app): State<App>,
    headers: HeaderMap,
    request: Body,
) -> Result<(StatusCode, Json<UploadReply>), ApiError> {
    let received = body::receive(None, &headers, request, JSON_MAX).await?;
    let new = new_upload(body::json(&received.bytes)?)?;
    // Nobody guesses it: whoever knows an upload's name can add to it.
    let id = random_id()
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let info = app
        .blocking(move |store| store.begin_upload(&id, new))
        .await?;
    let status = if info.resumed {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(UploadReply::of(info))))
}

fn new_upload(body: BeginUpload) -> Result<NewUpload, ApiError> {
    let refused = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
    let content_id = match body.content_id {
        Some(id) => Some(ContentId::new(&id).map_err(|error| refused(&error))?),
        None => None,
    };
    let renditions = body.renditions.into_iter().map(|rendition| {
        let name = Rendition::new(&rendition.name).map_err(|error| refused(&error))?;
        let mime = rendition
            .mime_type
            .parse()
            .map_err(|error| refused(&error))?;
        Ok((name, mime))
    });
    Ok(NewUpload {
        content_id,
        title: body.title,
        priority: priority(body.priority.as_deref())?,
        publisher: body.publisher.as_deref().map(parse_publisher).transpose()?,
        source: body.source,
        expected_seconds: body.expected_seconds.filter(|seconds| seconds.is_finite()),
        renditions: renditions.collect::<Result<_, ApiError>>()?,
        pin: body.pin,
        to: addressees(body.to.iter().map(String::as_str))?,
    })
}

/// The nodes that a content is for, by their keys.
pub(super) fn addressees<'a>(
    keys: impl Iterator<Item = &'a str>,
) -> Result<Vec<PublisherKey>, ApiError> {
    let keys: Vec<PublisherKey> = keys.map(parse_publisher).collect::<Result<_, _>>()?;
    lavant_proto::content::addressees(keys)
        .map_err(|error| ApiError::bad_request(error.to_string()))
}

/// The named priority; on demand when none is named.
pub(super) fn priority(name: Option<&str>) -> Result<Priority, ApiError> {
    let Some(name) = name else {
        return Ok(Priority::Vod);
    };
    name.parse()
        .map_err(|error: lavant_proto::content::PriorityError| {
            ApiError::bad_request(error.to_string())
        })
}

#[utoipa::path(
    get, path = "/uploads/{id}", params(("id" = String, Path)),
    responses((status = 200, body = UploadReply), (status = 404, body = super::dto::ErrorReply))
)]
pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<UploadReply>, ApiError> {
    let info = app.blocking(move |store| store.upload(&id)).await?;
    Ok(Json(UploadReply::of(info)))
}

#[utoipa::path(
    delete, path = "/uploads/{id}", params(("id" = String, Path)),
    responses((status = 200, description = "Rolled back"))
)]
pub(super) async fn abort(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, ApiError> {
    app.blocking(move |store| store.abort_upload(&id)).await?;
    Ok(Json(json!({ "deleted": true })))
}

/// Query of a segment upload.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct StageQuery {
    /// Length in ticks of 90 kHz; not for init segments.
    #[serde(default)]
    duration: u64,
    /// 1 when timestamps or coding break before it.
    #[serde(default)]
    discontinuity: u8,
    /// The init segment that it needs.
    init: Option<u64>,
}

#[utoipa::path(
    put, path = "/uploads/{id}/segments/{rendition}/{name}",
    params(
        StageQuery, ("id" = String, Path), ("rendition" = String, Path), ("name" = String, Path)
    ),
    request_body(content_type = "application/octet-stream"),
    responses((status = 200, body = StagedReply), (status = 507, body = super::dto::ErrorReply))
)]
pub(super) async fn stage(
    State(app): State<App>,
    Path((id, rendition, name)): Path<(String, String, String)>,
    Query(query): Query<StageQuery>,
    headers: HeaderMap,
    request: Body,
) -> Result<Json<StagedReply>, ApiError> {
    let limit = app.config.segment_limit.0;
    let (kind, number) = match name.strip_prefix("init-") {
        Some(number) => (Kind::Init, number),
        None => (Kind::Media, name.as_str()),
    };
    let sequence = number.parse().map_err(|_| {
        ApiError::bad_request("a segment is named 0, 1, ... or init-0, init-1, ...")
    })?;
    let received = body::receive(Some(&app.ingest_memory), &headers, request, limit).await?;
    let length = received.bytes.len() as u64;
    let segment = UploadSegment {
        rendition,
        kind,
        sequence,
        duration: query.duration,
        discontinuity: query.discontinuity != 0,
        init: query.init,
        payload: received.bytes.clone(),
    };
    let (root, stored) = app.blocking(move |store| store.stage(&id, segment)).await?;
    app.counters.ingested.add(1);
    app.counters.ingested_bytes.add(length);
    Ok(Json(StagedReply {
        root: root.to_string(),
        length,
        stored,
    }))
}

#[utoipa::path(
    post, path = "/uploads/{id}/commit", request_body = CommitBody, params(("id" = String, Path)),
    responses((status = 200, body = CatalogEntry), (status = 409, body = super::dto::ErrorReply))
)]
pub(super) async fn commit(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    request: Body,
) -> Result<Json<CatalogEntry>, ApiError> {
    let received = body::receive(None, &headers, request, JSON_MAX).await?;
    let commit = commit_of(body::json(&received.bytes)?)?;
    let key = app
        .blocking(move |store| store.commit_upload(&id, commit))
        .await?;
    let catalog = app.store.catalog();
    let content = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
    // It may have been removed, or have gone from a full store, since the commit.
    let content = content.ok_or_else(|| ApiError::not_found("the content is gone already"))?;
    Ok(Json(CatalogEntry::of(&catalog, content)))
}

fn commit_of(body: CommitBody) -> Result<Commit, ApiError> {
    let signature = body
        .signature
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| ApiError::bad_request("a signature is written as 128 hexadecimal digits"))?;
    Ok(Commit {
        target_duration: body.target_duration,
        renditions: body
            .renditions
            .into_iter()
            .map(rendition_of)
            .collect::<Result<_, _>>()?,
        signature,
    })
}

fn rendition_of(entry: CommitEntry) -> Result<CommitRendition, ApiError> {
    let name =
        Rendition::new(&entry.name).map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(CommitRendition {
        name,
        bandwidth: entry.bandwidth,
        average_bandwidth: entry.average_bandwidth,
        codecs: entry.codecs,
        width: entry.width,
        height: entry.height,
        frame_rate_milli: entry.frame_rate_milli,
        inits: entry.inits,
        segments: entry.segments,
    })
}

/// Decodes `bytes` as every body that this file takes, for fuzzing.
pub(super) fn fuzz_body(bytes: &[u8]) -> bool {
    let begun = body::json(bytes).and_then(new_upload).is_ok();
    begun || body::json(bytes).and_then(commit_of).is_ok()
}
