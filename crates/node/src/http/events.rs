//! `/events`: the status and what changes of the catalogue, pushed (Server-Sent Events).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::dto::{CatalogChanges, CatalogEntry, CatalogQuery, GoneEntry};
use super::error::ApiError;
use super::pool::{Caller, SeesAll, StreamPlace};
use super::{App, catalog, status};
use crate::store::{Catalog, Changed, Content};

/// Shortest time between two events of one kind.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time between two status events.
const BEAT: Duration = Duration::from_secs(2);
/// Most contents of the first event, and of one that says what changed. A page shows no more; it
/// asks for others when somebody looks for them.
const CONTENTS_MAX: usize = 500;
/// How long a stream lasts. Browsers begin a new one by themselves; whoever forgot theirs does not.
const LIFE: Duration = Duration::from_secs(3600);

struct Feed {
    app: App,
    changes: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    /// Up to which generation changes of the catalogue were sent; none before its first event.
    told: Option<u64>,
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
        told: None,
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
    let catalog = feed.app.store.catalog();
    let told = feed.told.replace(catalog.generation());
    let event = match told {
        Some(told) if told == catalog.generation() => return Some((Ok(status), feed)),
        Some(told) => changes(&catalog, told),
        None => None,
    };
    let event = match event {
        Some(event) => event,
        None => {
            let made = feed.app.store.run(move |_| first(&catalog)).await;
            Event::default().event("catalog").data(made.ok()?)
        }
    };
    feed.queued = Some(status);
    Some((Ok(event), feed))
}

/// The beginning of the catalogue. How many contents there are in all, the status says.
fn first(catalog: &Catalog) -> String {
    let query = CatalogQuery {
        limit: Some(CONTENTS_MAX),
        newest: true,
        ..CatalogQuery::default()
    };
    let found = catalog::find(catalog, &query);
    let contents = found.contents.iter();
    let entries: Vec<_> = contents
        .map(|content| CatalogEntry::of(catalog, content))
        .collect();
    json(&entries)
}

/// What is other than it was; none when that is so much that the beginning is sent again.
fn changes(catalog: &Catalog, since: u64) -> Option<Event> {
    let Changed { contents, gone } = catalog.changed_since(since)?;
    if contents.len() + gone.len() > CONTENTS_MAX {
        return None;
    }
    let ids = contents.iter().map(|content| &content.key.content_id);
    let ids: BTreeSet<_> = ids.chain(gone.iter().map(|key| &key.content_id)).collect();
    // Which content of an id a short path means may change with each of them.
    let named = ids.iter().flat_map(|id| catalog.named(id));
    let (shown, hidden): (Vec<_>, Vec<_>) = named.partition(|it| catalog::is_shown(it));
    let entry = |content: &Arc<Content>| CatalogEntry::of(catalog, content);
    let gone = gone.into_iter().chain(hidden.iter().map(|it| &it.key));
    let message = CatalogChanges {
        changed: shown.into_iter().map(entry).collect(),
        gone: gone.map(GoneEntry::of).collect(),
    };
    Some(Event::default().event("changes").data(json(&message)))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
