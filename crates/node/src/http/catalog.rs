//! `/catalog` and `/content/...`.

mod search;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use lavant_proto::content::Priority;
use lavant_proto::relay::evict::EVERYWHERE;
use lavant_proto::time::{Time, ticks_to_seconds};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use search::Words;

use super::dto::{CatalogEntry, CatalogQuery};
use super::error::ApiError;
use super::reference::Reference;
use super::{App, etag};
use crate::store::{Catalog, Content, State as Growth, StoreError};

/// What is shorter fits into a packet or two and is not compressed.
const GZIP_MIN: usize = 1024;
/// Parts of the catalogue that are written down at a time, and that are kept.
const MAKING_MAX: usize = 2;
const KEPT_MAX: usize = 4;
/// A part of at most so many bytes is a short one: a hundred contents.
const SHORT_MAX: usize = 64 * 1024;
/// Most kilobytes of short parts that are kept or on their way out, and of long ones. Readers may
/// be slow, and have a minute for what they asked; the long ones do not keep short ones waiting.
const SHORT_KB: u32 = 32 * 1024;
const LONG_KB: u32 = 64 * 1024;

#[utoipa::path(
    get, path = "/catalog", params(CatalogQuery),
    responses(
        (status = 200, body = [CatalogEntry], description = "The current contents by id, or the \
            newest first. `X-Total-Count` is how many there are or match the search; a `Link` with \
            rel=next is there when more follow."),
        (status = 304, description = "`If-None-Match` names what would be sent")
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<CatalogQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let catalog = app.store.catalog();
    let etag = etag_of(&app, catalog.generation(), &query);
    if etag::is_held(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let gzip = accepts_gzip(&headers);
    let made = app.parts.get((etag.clone(), gzip), || {
        app.store.run(move |_| part(&catalog, &query, gzip))
    });
    let Made {
        body,
        total,
        next,
        zipped,
    } = made.await?;
    let mut response = body.into_response();
    let headers = response.headers_mut();
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/json".to_owned());
    set(header::ETAG, etag);
    set(header::VARY, "accept-encoding".to_owned());
    set(HeaderName::from_static("x-total-count"), total.to_string());
    if zipped {
        set(header::CONTENT_ENCODING, "gzip".to_owned());
    }
    if let Some(next) = next {
        set(header::LINK, format!("<{next}>; rel=\"next\""));
    }
    Ok(response)
}

/// Parts of the catalogue that were written down: a long one takes a second and megabytes, and
/// whoever asks for it again, at the same time or later, gets the same bytes.
pub(super) struct Parts {
    making: Semaphore,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    kept: Mutex<VecDeque<(PartKey, Made)>>,
}

/// The entity tag, and whether it is compressed.
type PartKey = (String, bool);

impl Default for Parts {
    fn default() -> Self {
        Self {
            making: Semaphore::new(MAKING_MAX),
            short: Arc::new(Semaphore::new(SHORT_KB as usize)),
            long: Arc::new(Semaphore::new(LONG_KB as usize)),
            kept: Mutex::default(),
        }
    }
}

impl Parts {
    async fn get<F: Future<Output = Result<Made, StoreError>>>(
        &self,
        key: PartKey,
        make: impl FnOnce() -> F,
    ) -> Result<Made, ApiError> {
        if let Some(made) = self.kept(&key) {
            return Ok(made);
        }
        let _turn = self
            .making
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        // Somebody else may have made it meanwhile.
        if let Some(made) = self.kept(&key) {
            return Ok(made);
        }
        let mut made = make().await?;
        made.body = self.count(made.body)?;
        let mut kept = self.lock();
        kept.truncate(KEPT_MAX - 1);
        kept.push_front((key, made.clone()));
        Ok(made)
    }

    /// Counts a body for as long as somebody has it. Refused when there are too many already.
    fn count(&self, body: Bytes) -> Result<Bytes, ApiError> {
        let (of, most) = match body.len() {
            ..=SHORT_MAX => (&self.short, SHORT_KB),
            _ => (&self.long, LONG_KB),
        };
        // However long the catalogue is, it can be sent to one reader.
        let size = u32::try_from(body.len().div_ceil(1024)).unwrap_or(most);
        let size = size.min(most);
        let mut taken = Arc::clone(of).try_acquire_many_owned(size);
        if taken.is_err() {
            // What is kept for others may be what takes the room.
            self.lock().clear();
            taken = Arc::clone(of).try_acquire_many_owned(size);
        }
        let Ok(counted) = taken else {
            return Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too much of the catalogue is on its way to slow readers; ask for less at a time, \
                 such as /catalog?limit=100, or try again later",
            ));
        };
        Ok(Bytes::from_owner(Counted {
            body,
            _counted: counted,
        }))
    }

    fn kept(&self, key: &PartKey) -> Option<Made> {
        let kept = self.lock();
        let found = kept.iter().find(|(other, _)| other == key);
        found.map(|(_, made)| made.clone())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(PartKey, Made)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that count while they are there.
struct Counted {
    body: Bytes,
    _counted: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Made {
    body: Bytes,
    total: usize,
    next: Option<String>,
    zipped: bool,
}

fn part(catalog: &Catalog, query: &CatalogQuery, gzip: bool) -> Made {
    let Found { contents, total } = find(catalog, query);
    let entries: Vec<_> = contents
        .iter()
        .map(|content| CatalogEntry::of(catalog, content))
        .collect();
    let end = query.offset.saturating_add(entries.len());
    // A part without contents has none after it, or who asks for nothing would ask for ever.
    let next = (end < total && !entries.is_empty()).then(|| query.next(end));
    let plain = serde_json::to_vec(&entries).unwrap_or_default();
    let zipped = gzip && plain.len() >= GZIP_MIN;
    let body = if zipped { zip(&plain) } else { plain };
    Made {
        body: body.into(),
        total,
        next,
        zipped,
    }
}

/// Contents of the catalogue that were asked for.
pub(super) struct Found {
    pub(super) contents: Vec<Arc<Content>>,
    /// How many there are or match, of which these are a part.
    pub(super) total: usize,
}

/// The current contents that have something to play: those that match, in the order that was asked
/// for, from the offset on.
pub(super) fn find(catalog: &Catalog, query: &CatalogQuery) -> Found {
    let mut words = Words::of(&query.search);
    let mut all: Vec<&Arc<Content>> = if words.is_empty() && !query.newest {
        catalog.by_id().filter(|it| is_shown(it)).collect()
    } else {
        // In order of arrival, which costs no look-up of each; what is found is sorted after it.
        let all = catalog.all();
        all.filter(|it| words.are_in(it) && is_shown(it)).collect()
    };
    let total = all.len();
    if query.newest {
        // Only as much is sorted as is asked for.
        let end = query
            .offset
            .saturating_add(query.limit.unwrap_or(usize::MAX));
        if end > 0 && end < total {
            all.select_nth_unstable_by_key(end - 1, newest_first);
            all.truncate(end);
        }
        all.sort_unstable_by_key(newest_first);
    } else if !words.is_empty() {
        all.sort_by(|a, b| a.key.content_id.cmp(&b.key.content_id));
    }
    let limit = query.limit.unwrap_or(usize::MAX);
    let contents = all.into_iter().skip(query.offset).take(limit).cloned();
    Found {
        contents: contents.collect(),
        total,
    }
}

/// What is live goes first, then the newest.
fn newest_first(content: &&Arc<Content>) -> (bool, Reverse<Time>, u64) {
    let live = content.state == Growth::Open && content.priority == Priority::Live;
    (!live, Reverse(content.created), content.no)
}

/// Of a content that was only announced nothing can be played yet.
pub(super) fn is_shown(content: &Content) -> bool {
    !content.superseded && content.segment_count() > 0
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(header::ACCEPT_ENCODING).iter();
    let texts = given.filter_map(|value| value.to_str().ok());
    let mut codings = texts.flat_map(|list| list.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        matches!(name, "gzip" | "x-gzip" | "*") && !refused
    })
}

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// The same only for the same part of the same catalogue of one run of the node.
fn etag_of(app: &App, generation: u64, query: &CatalogQuery) -> String {
    let text = format!("{:?} {generation} {query:?}", app.started);
    format!("\"{}\"", &blake3::hash(text.as_bytes()).to_hex()[..32])
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn however_many_ask_for_a_part_it_is_written_down_once() {
        let parts = Arc::new(Parts::default());
        let made = Arc::new(AtomicUsize::new(0));
        let ask = |tag: usize| {
            let (parts, made) = (Arc::clone(&parts), Arc::clone(&made));
            tokio::spawn(async move {
                let make = || async {
                    made.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    let body = Bytes::from(tag.to_string());
                    Ok(Made {
                        body,
                        total: 1,
                        next: None,
                        zipped: false,
                    })
                };
                parts
                    .get((tag.to_string(), false), make)
                    .await
                    .unwrap()
                    .body
            })
        };
        for body in futures_util::future::join_all((0..1000).map(|_| ask(1))).await {
            assert_eq!(body.unwrap(), "1");
        }
        assert!(made.load(Ordering::SeqCst) <= MAKING_MAX);
        for tag in 2..10 {
            assert_eq!(ask(tag).await.unwrap(), tag.to_string());
            assert!(parts.lock().len() <= KEPT_MAX);
        }
    }

    #[test]
    fn what_a_client_accepts_is_read_as_it_is_written() {
        let accepts = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(text));
            accepts_gzip(&headers)
        };
        for text in ["gzip", "br, gzip;q=0.5", "*", "deflate,x-gzip"] {
            assert!(accepts(text), "{text}");
        }
        for text in ["", "br", "gzip;q=0", "gzip; q=0.000", "gzippy"] {
            assert!(!accepts(text), "{text}");
        }
    }

    #[tokio::test]
    async fn parts_on_their_way_to_slow_readers_are_bounded() {
        let parts = Parts::default();
        let ask = async |no: usize, bytes: usize| {
            let made = Made {
                body: vec![0; bytes].into(),
                total: 0,
                next: None,
                zipped: false,
            };
            parts
                .get((no.to_string(), false), || async { Ok(made) })
                .await
        };
        let mut held = Vec::new();
        let refused = loop {
            match ask(held.len(), 3 << 20).await {
                Ok(made) => held.push(made.body),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.message.contains("limit=100"), "{}", refused.message);
        assert_eq!(held.len(), LONG_KB as usize / (3 << 10));
        // Who asks for little is not kept out by them.
        assert!(ask(1000, SHORT_MAX).await.is_ok());
        drop(held);
        // One may be longer than all that there may be.
        let long = ask(1001, 100 << 20).await.unwrap();
        assert!(ask(1002, 3 << 20).await.is_err());
        drop(long);
        assert!(
            ask(1003, 3 << 20).await.is_ok(),
            "what is kept for others gives way"
        );
    }
}
