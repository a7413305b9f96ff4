//! `/metrics` in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::App;

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
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
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_status[class].add(1);
    }
}

#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        text(&app),
    )
}

fn text(app: &App) -> String {
    let counters = &app.counters;
    let stats = app.store.stats();
    let uploads = app.store.upload_progress().len() as u64;
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(
            out,
            "# HELP lavant_{name} {help}\n# TYPE lavant_{name} {kind}\nlavant_{name} {value}\n"
        );
    };
    metric(
        "playlists_total",
        "counter",
        "Playlists served.",
        counters.playlists.get(),
    );
    metric(
        "segments_total",
        "counter",
        "Segments served.",
        counters.segments.get(),
    );
    metric(
        "segment_bytes_total",
        "counter",
        "Bytes of segments served.",
        counters.segment_bytes.get(),
    );
    metric(
        "ingested_segments_total",
        "counter",
        "Segments taken in.",
        counters.ingested.get(),
    );
    metric(
        "ingested_bytes_total",
        "counter",
        "Bytes taken in.",
        counters.ingested_bytes.get(),
    );
    metric(
        "store_bytes",
        "gauge",
        "Bytes of stored segments.",
        stats.bytes,
    );
    metric(
        "store_limit_bytes",
        "gauge",
        "Most bytes allowed, 0 for no limit.",
        stats.limit.unwrap_or(0),
    );
    metric(
        "store_segments",
        "gauge",
        "Stored segments.",
        stats.segments,
    );
    metric(
        "store_contents",
        "gauge",
        "Stored contents.",
        stats.contents,
    );
    metric(
        "store_hot_bytes",
        "gauge",
        "Bytes of live segments in memory.",
        stats.hot_bytes,
    );
    metric(
        "disk_free_bytes",
        "gauge",
        "Free bytes of the store's disk.",
        stats.disk_free,
    );
    metric(
        "expired_segments_total",
        "counter",
        "Segments whose time was over.",
        stats.dropped.expired,
    );
    metric(
        "evicted_segments_total",
        "counter",
        "Segments that made room for others.",
        stats.dropped.evicted,
    );
    metric(
        "torn_segments_total",
        "counter",
        "Segments dropped as damaged.",
        stats.dropped.torn,
    );
    metric("uploads", "gauge", "Uploads that are running.", uploads);
    metric(
        "uptime_seconds",
        "gauge",
        "Time since the start.",
        app.started.elapsed().as_secs(),
    );
    out.push_str("# HELP lavant_responses_total Answers by class of status.\n");
    out.push_str("# TYPE lavant_responses_total counter\n");
    for (class, count) in counters.by_status.iter().enumerate() {
        let _ = writeln!(
            out,
            "lavant_responses_total{{status=\"{}xx\"}} {}",
            class + 1,
            count.get()
        );
    }
    out
}
