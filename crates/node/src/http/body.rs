//! Reading request bodies within limits of size, time and memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use lavant_media::Pool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::ApiError;

/// How long a sender may pause inside a body.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a body may take in all, however slow the link.
const BODY_TIME_MAX: Duration = Duration::from_secs(3600);
/// How long a segment waits for its share of memory.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest JSON body that holds no segment.
pub(super) const JSON_MAX: u64 = 1 << 20;

/// Longest JSON body that holds a segment of `limit` bytes in base64.
pub(super) const fn json_with_segment(limit: u64) -> u64 {
    limit.div_ceil(3) * 4 + JSON_MAX
}

/// A body in memory; its share of the memory for segments is given back when this is dropped.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn receive(
    memory: Option<(&Arc<Semaphore>, &Pool)>,
    headers: &HeaderMap,
    body: Body,
    limit: u64,
) -> Result<Received, ApiError> {
    let announced = content_length(headers);
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let expected = announced.unwrap_or(limit);
    let permit = match memory {
        Some((memory, _)) => Some(share(memory, expected).await?),
        None => None,
    };
    let capacity = usize::try_from(announced.unwrap_or(64 * 1024)).unwrap_or_default();
    let pool = memory.map(|(_, pool)| pool.clone()).unwrap_or_default();
    let mut bytes = pool.take(capacity);
    let mut body = body;
    let end = Instant::now() + BODY_TIME_MAX;
    loop {
        let pause = end.min(Instant::now() + PAUSE_MAX);
        let frame = tokio::time::timeout_at(pause, body.frame())
            .await
            .map_err(|_| {
                ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not come to its end",
                )
            })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("the body was cut off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() as u64 + data.len() as u64 > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Received {
        bytes: pool.lend(bytes),
        _permit: permit,
    })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn share(memory: &Arc<Semaphore>, bytes: u64) -> Result<OwnedSemaphorePermit, ApiError> {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    let wait = tokio::time::timeout(WAIT_MAX, memory.clone().acquire_many_owned(kib)).await;
    match wait {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many segments come at once for ingest_memory; send fewer at a time",
        )),
    }
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "the body is larger than {limit} bytes; cut shorter segments or raise --segment-limit"
        ),
    )
}

/// Parses a JSON body; the error says where it is wrong.
pub(super) fn json<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::bad_request(format!("the JSON body is wrong: {error}")))
}
