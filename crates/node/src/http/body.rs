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

/// How long a sender may pause inside a body, and when it must have come at the least rate.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The least bytes a second that a body comes at after that, on average. Slower than any video can
/// be sent; what is larger than 56 MiB has to be faster, to end within [`BODY_TIME_MAX`].
const RATE_MIN: u64 = 16 << 10;
/// How long a body may take in all, however large.
const BODY_TIME_MAX: Duration = Duration::from_secs(3600);
/// How long a segment waits for its share of memory.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest JSON body that holds no segment.
pub(super) const JSON_MAX: u64 = 1 << 20;

/// Longest JSON body that holds a segment of `limit` bytes in base64.
pub(super) const fn json_with_segment(limit: u64) -> u64 {
    limit.div_ceil(3) * 4 + JSON_MAX
}

/// Bytes by which the share of a body of unknown length grows as it comes.
const STEP: u64 = 1 << 20;

/// The memory for segments on their way in, and buffers.
///
/// A quarter is for small bodies alone, so that a large one that waits for its share, or a few
/// that come slowly, hold up nobody else. Of the 256 MiB of the default, 64 MiB carry at least
/// four segments of 16 MiB.
pub(super) struct Memory {
    /// One permit for each KiB.
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    small_max: u64,
    pool: Pool,
}

impl Memory {
    /// `bytes` in all, or more where the largest body would not fit and wait for ever.
    pub(super) fn new(bytes: u64, segment_limit: u64) -> Self {
        let small = bytes / 4;
        let large = (bytes - small).max(json_with_segment(segment_limit));
        let permits = |bytes: u64| {
            let kib = usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS)))
        };
        Self {
            large: permits(large),
            small: permits(small),
            small_max: small / 4,
            pool: Pool::default(),
        }
    }

    /// A share for a body of a length.
    async fn share(&self, bytes: u64) -> Result<OwnedSemaphorePermit, ApiError> {
        let lane = if bytes <= self.small_max {
            &self.small
        } else {
            &self.large
        };
        share(lane, bytes).await
    }

    /// A larger share in the place of one that has become too small.
    async fn grow(
        &self,
        permit: &mut Option<OwnedSemaphorePermit>,
        bytes: u64,
    ) -> Result<(), ApiError> {
        let is_large = |permit: &OwnedSemaphorePermit| Arc::ptr_eq(permit.semaphore(), &self.large);
        // Only within the lane that the share is from: permits of two semaphores cannot be one.
        match permit {
            Some(permit) if bytes <= self.small_max || is_large(permit) => {
                let lane = permit.semaphore().clone();
                // Added to what it holds, which never falls below the bytes that are here.
                permit.merge(share(&lane, STEP).await?);
            }
            // The small lane gets its part back once this share is there.
            permit => *permit = Some(share(&self.large, bytes).await?),
        }
        Ok(())
    }
}

/// A body in memory; its share of the memory for segments is given back when this is dropped.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn receive(
    memory: Option<&Memory>,
    headers: &HeaderMap,
    body: Body,
    limit: u64,
) -> Result<Received, ApiError> {
    let announced = content_length(headers);
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    // What is announced must fit as a whole; what is not takes no more than has come.
    let mut permit = match memory {
        Some(memory) => Some(memory.share(announced.unwrap_or(STEP.min(limit))).await?),
        None => None,
    };
    let mut shared = announced.unwrap_or(STEP);
    // The share was given for all of it, so one buffer does and nothing is copied as it grows.
    let capacity = usize::try_from(announced.unwrap_or(64 * 1024)).unwrap_or_default();
    let pool = memory.map(|memory| memory.pool.clone()).unwrap_or_default();
    let mut bytes = pool.take(capacity);
    let mut body = body;
    let mut begun = Instant::now();
    loop {
        // A pause ends it, and a trickle, too: one byte each 19 s would hold memory for days.
        let due = PAUSE_MAX + Duration::from_secs(bytes.len() as u64 / RATE_MIN);
        let pause = (Instant::now() + PAUSE_MAX).min(begun + due.min(BODY_TIME_MAX));
        let frame = tokio::time::timeout_at(pause, body.frame())
            .await
            .map_err(|_| {
                ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body came too slowly, or not to its end; send shorter segments",
                )
            })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("the body was cut off"))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        // A body that announces no length is bounded as it comes.
        if bytes.len() as u64 + data.len() as u64 > limit {
            return Err(too_large(limit));
        }
        let wanted = bytes.len() as u64 + data.len() as u64;
        if let (Some(memory), true) = (memory, wanted > shared) {
            let waits = Instant::now();
            // A frame is shorter than a step: a connection reads 64 KiB at once.
            shared += STEP;
            memory.grow(&mut permit, shared).await?;
            // The time that this node makes it wait is not counted against the sender.
            begun += waits.elapsed();
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
    // Shares are given in turn, so that small ones do not keep a large one waiting for ever.
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    /// A body that gives `size` bytes every `pause`, without an end.
    fn endless(size: usize, pause: Duration) -> Body {
        let frame = Bytes::from(vec![0; size]);
        Body::from_stream(stream::unfold(frame, move |frame| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, Infallible>(frame.clone()), frame))
        }))
    }

    async fn status(memory: &Memory, body: Body) -> Option<StatusCode> {
        let received = receive(Some(memory), &HeaderMap::new(), body, 4 << 20).await;
        received.err().map(|error| error.status)
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_cut_although_it_never_pauses() {
        let memory = Memory::new(16 << 20, 4 << 20);
        let begun = Instant::now();
        let body = endless(1, Duration::from_millis(500));
        let cut = status(&memory, body).await;
        assert_eq!(cut, Some(StatusCode::REQUEST_TIMEOUT));
        assert!(begun.elapsed() < PAUSE_MAX * 2);
    }

    #[tokio::test]
    async fn bodies_of_unknown_length_hold_what_has_come_and_give_it_back() {
        let memory = Memory::new(16 << 20, 4 << 20);
        let left = |lane: &Semaphore| lane.available_permits() as u64;
        let free = (left(&memory.small), left(&memory.large));
        // Beyond a quarter of the part for small bodies, 1 MiB, it moves to the large ones.
        assert_eq!((free, memory.small_max), ((4 << 10, 12 << 10), 1 << 20));
        for (length, held) in [
            (10, (1 << 10, 0)),
            (1 << 20, (1 << 10, 0)),
            (3 << 20, (0, 3 << 10)),
        ] {
            let frames = vec![Ok::<_, Infallible>(Bytes::from(vec![0; 256 << 10])); length >> 18];
            let last = Ok(Bytes::from(vec![0; length % (256 << 10)]));
            let body = Body::from_stream(stream::iter(frames.into_iter().chain([last])));
            let received = receive(Some(&memory), &HeaderMap::new(), body, 4 << 20).await;
            let received = received.map_err(|error| error.message).unwrap();
            assert_eq!(received.bytes.len(), length);
            let now = (left(&memory.small), left(&memory.large));
            assert_eq!((free.0 - now.0, free.1 - now.1), held, "{length}");
        }
        assert_eq!((left(&memory.small), left(&memory.large)), free);
        let body = endless(256 << 10, Duration::ZERO);
        assert_eq!(
            status(&memory, body).await,
            Some(StatusCode::PAYLOAD_TOO_LARGE)
        );
        assert_eq!((left(&memory.small), left(&memory.large)), free);
    }
}
