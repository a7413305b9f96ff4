//! `/metrics` in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::App;
use super::error::ApiError;
use crate::delivery::{Handle, Peer, PeerState};
use crate::store::{Dropped, Store};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the API counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) playlists: Counter,
    pub(super) segments: Counter,
    pub(super) segment_bytes: Counter,
    pub(super) ingested: Counter,
    pub(super) ingested_bytes: Counter,
    by_status: [Counter; 5],
}

impl Counters {
    pub(super) fn responses(&self, status: StatusCode) {
        // A status beyond five classes must not leave the array.
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_status[class].add(1);
    }
}

#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let stored = app.blocking(|store| Ok(stored(store))).await?;
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((content_type, text(&app, stored, relayed(&app).await)))
}

/// Name, kind, help and value.
type Metric = (&'static str, &'static str, &'static str, u64);

fn text(app: &App, stored: Vec<Metric>, relayed: Vec<Metric>) -> String {
    let mut out = String::new();
    let all = served(app)
        .into_iter()
        .chain(connected(app))
        .chain(stored)
        .chain(relayed);
    for (name, kind, help, value) in all {
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "# HELP lavant_{name} {help}\n# TYPE lavant_{name} {kind}\nlavant_{name} {value}\n"
        );
    }
    out.push_str("# HELP lavant_responses_total Answers by class of status.\n");
    out.push_str("# TYPE lavant_responses_total counter\n");
    for (class, count) in app.counters.by_status.iter().enumerate() {
        let (class, count) = (class + 1, count.get());
        let _ = writeln!(
            out,
            "lavant_responses_total{{status=\"{class}xx\"}} {count}"
        );
    }
    out
}

async fn relayed(app: &App) -> Vec<Metric> {
    let Some(relay) = &app.relay else {
        return Vec::new();
    };
    let peers = relay.peers().await;
    let sum = |of: fn(&Peer) -> u64| peers.iter().map(of).sum();
    let connected = |peer: &&Peer| peer.state == PeerState::Connected;
    let mut metrics = vec![
        (
            "peers",
            "gauge",
            "Other nodes that are known.",
            peers.len() as u64,
        ),
        (
            "peers_connected",
            "gauge",
            "Other nodes with which a contact is up.",
            peers.iter().filter(connected).count() as u64,
        ),
        (
            "relay_received_bytes_total",
            "counter",
            "Bytes of segments that came from other nodes, verified.",
            sum(|peer| peer.stats.received),
        ),
        (
            "relay_sent_bytes_total",
            "counter",
            "Bytes of segments that were sent to other nodes.",
            sum(|peer| peer.stats.sent),
        ),
        (
            "relay_duplicate_bytes_total",
            "counter",
            "Bytes of segments that came although they were here.",
            sum(|peer| peer.stats.duplicate),
        ),
        (
            "relay_received_segments_total",
            "counter",
            "Segments that came whole from other nodes.",
            sum(|peer| peer.stats.segments),
        ),
        (
            "relay_ignored_messages_total",
            "counter",
            "Messages and pieces that were not agreed on, or of kinds that this version does not \
             know.",
            sum(|peer| peer.stats.ignored),
        ),
        (
            "relay_failures",
            "gauge",
            "Dials that failed since the last contact, of all nodes.",
            sum(|peer| u64::from(peer.failures)),
        ),
    ];
    metrics.extend(core(relay).await);
    metrics
}

/// What the core holds, and how long its steps take.
async fn core(relay: &Handle) -> Vec<Metric> {
    let load = relay.load().await;
    vec![
        (
            "relay_contents",
            "gauge",
            "Contents that are known, here or elsewhere.",
            load.contents,
        ),
        (
            "relay_claimed_bytes",
            "gauge",
            "Bytes of memory that what other nodes say takes.",
            load.claimed,
        ),
        (
            "relay_slow_steps_total",
            "counter",
            "Steps of the relay's task that took 50 ms and more.",
            relay.pulse().slow(),
        ),
        (
            "relay_busy_steps_total",
            "counter",
            "Those of them that kept a processor busy for as long.",
            relay.pulse().busy(),
        ),
    ]
}

fn served(app: &App) -> Vec<Metric> {
    let Counters {
        playlists,
        segments,
        segment_bytes,
        ingested,
        ingested_bytes,
        ..
    } = &app.counters;
    let uptime = app.started.elapsed().as_secs();
    vec![
        (
            "playlists_total",
            "counter",
            "Playlists served.",
            playlists.get(),
        ),
        (
            "segments_total",
            "counter",
            "Segments served.",
            segments.get(),
        ),
        (
            "segment_bytes_total",
            "counter",
            "Bytes of segments served.",
            segment_bytes.get(),
        ),
        (
            "ingested_segments_total",
            "counter",
            "Segments taken in.",
            ingested.get(),
        ),
        (
            "ingested_bytes_total",
            "counter",
            "Bytes taken in.",
            ingested_bytes.get(),
        ),
        ("uptime_seconds", "gauge", "Time since the start.", uptime),
    ]
}

fn connected(app: &App) -> Vec<Metric> {
    let (connections, streams) = app.pool.counts();
    vec![
        (
            "connections",
            "gauge",
            "Connections that are open.",
            connections as u64,
        ),
        (
            "connections_refused_total",
            "counter",
            "Connections sent away because too many were in work.",
            app.pool.refused.get(),
        ),
        (
            "connections_ended_total",
            "counter",
            "Quiet connections that gave way to others.",
            app.pool.ended.get(),
        ),
        (
            "event_streams",
            "gauge",
            "Event streams that are open.",
            streams as u64,
        ),
        (
            "event_streams_refused_total",
            "counter",
            "Event streams refused because too many were open.",
            app.pool.streams_refused.get(),
        ),
    ]
}

/// Blocks.
fn stored(store: &Store) -> Vec<Metric> {
    let stats = store.stats();
    let Dropped {
        expired,
        evicted,
        torn,
    } = stats.dropped;
    let uploads = store.upload_progress().len() as u64;
    let limit = stats.limit.unwrap_or(0);
    vec![
        (
            "store_bytes",
            "gauge",
            "Bytes of stored segments.",
            stats.bytes,
        ),
        (
            "store_limit_bytes",
            "gauge",
            "Most bytes allowed, 0 for no limit.",
            limit,
        ),
        (
            "store_segments",
            "gauge",
            "Stored segments.",
            stats.segments,
        ),
        (
            "store_contents",
            "gauge",
            "Stored contents.",
            stats.contents,
        ),
        (
            "store_hot_bytes",
            "gauge",
            "Bytes of live segments in memory.",
            stats.hot_bytes,
        ),
        (
            "disk_free_bytes",
            "gauge",
            "Free bytes of the store's disk.",
            stats.disk_free,
        ),
        (
            "expired_segments_total",
            "counter",
            "Segments whose time was over.",
            expired,
        ),
        (
            "evicted_segments_total",
            "counter",
            "Segments that made room for others.",
            evicted,
        ),
        (
            "torn_segments_total",
            "counter",
            "Segments dropped as damaged.",
            torn,
        ),
        ("uploads", "gauge", "Uploads that are running.", uploads),
    ]
}
