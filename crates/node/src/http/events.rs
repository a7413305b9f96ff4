//! `/events`: the catalogue and the status, pushed when they change (Server-Sent Events).

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::ApiError;
use super::pool::{Caller, SeesAll, StreamPlace};
use super::{App, catalog, status};

/// Shortest time between two events of one kind.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time between two status events.
const BEAT: Duration = Duration::from_secs(2);
/// How long a stream lasts. Browsers begin a new one by themselves; whoever forgot theirs does not.
const LIFE: Duration = Duration::from_secs(3600);

struct Feed {
    app: App,
    changes: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    /// The hash of the catalogue that was sent: the text itself may have megabytes.
    catalog: Option<blake3::Hash>,
    next: Instant,
    end: Instant,
    queued: Option<Event>,
    sees_all: SeesAll,
    _place: StreamPlace,
}

#[utoipa::path(
    get, path = "/events",
    responses((status = 200, content_type = "text/event-stream"),
              (status = 503, description = "Too many are open", body = super::dto::ErrorReply))
)]
pub(super) async fn events(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(sees_all): Extension<SeesAll>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let Some(place) = app.pool.stream(&caller) else {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many event streams are open; close some pages, or ask for /status and /catalog",
        ));
    };
    // The first event comes at once, and not with the next change.
    let mut changes = app.store.changes();
    changes.mark_changed();
    let feed = Feed {
        changes,
        stopping: app.stopping.clone(),
        app,
        catalog: None,
        next: Instant::now(),
        end: Instant::now() + LIFE,
        queued: None,
        sees_all,
        _place: place,
    };
    Ok(Sse::new(stream::unfold(feed, step)).keep_alive(KeepAlive::default()))
}

/// Waits for a change or the next beat; a new catalogue goes before the status.
async fn step(mut feed: Feed) -> Option<(Result<Event, Infallible>, Feed)> {
    if let Some(event) = feed.queued.take() {
        return Some((Ok(event), feed));
    }
    if Instant::now() >= feed.end {
        return None;
    }
    // However often the store changes: what happens meanwhile is told by one event.
    sleep_until(feed.next).await;
    tokio::select! {
        _ = feed.stopping.wait_for(|stop| *stop) => return None,
        // Without a change the status still goes out: free space and uploads move without one.
        _ = timeout(BEAT - PAUSE, feed.changes.changed()) => {}
    }
    // Before anything is read: a change that comes during that wakes the next turn.
    feed.changes.mark_unchanged();
    feed.next = Instant::now() + PAUSE;
    let status = json(&status::of(&feed.app, feed.sees_all).await.ok()?);
    let status = Event::default().event("status").data(status);
    let catalog = json(&catalog::entries(&feed.app));
    // Most changes are of segments and uploads; the catalogue, which may be long, often stays the
    // same.
    let hash = Some(blake3::hash(catalog.as_bytes()));
    if hash == feed.catalog {
        return Some((Ok(status), feed));
    }
    feed.catalog = hash;
    feed.queued = Some(status);
    Some((Ok(Event::default().event("catalog").data(catalog)), feed))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
