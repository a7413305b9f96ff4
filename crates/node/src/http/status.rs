//! `/health` and `/status`.

use axum::Json;
use axum::extract::State;

use super::App;
use super::dto::{StatusReply, StoreStatus, UploadStatus};

#[utoipa::path(get, path = "/health", responses((status = 200, description = "The node runs")))]
pub(super) async fn health(State(app): State<App>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "ok": true,
        "node_id": app.config.node_id,
        "version": env!("CARGO_PKG_VERSION"),
        "publisher": app.store.publisher().to_string(),
    }))
}

#[utoipa::path(get, path = "/status", responses((status = 200, body = StatusReply)))]
pub(super) async fn status(State(app): State<App>) -> Json<StatusReply> {
    Json(of(&app))
}

pub(super) fn of(app: &App) -> StatusReply {
    let store = &app.store;
    let stats = store.stats();
    let folder = store.settings().layout.root();
    let path = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    StatusReply {
        node_id: app.config.node_id.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        publisher: store.publisher().to_string(),
        uptime_seconds: app.started.elapsed().as_secs_f64(),
        store: StoreStatus {
            path: path.display().to_string(),
            bytes: stats.bytes,
            limit_bytes: stats.limit,
            segments: stats.segments,
            contents: stats.contents,
            hot_bytes: stats.hot_bytes,
            disk_free_bytes: stats.disk_free,
        },
        uploads: store
            .upload_progress()
            .into_iter()
            .map(UploadStatus::of)
            .collect(),
        read_only: store.is_read_only(),
        relay_port: app.relay.as_ref().map(crate::relay::Handle::port),
        warnings: warnings(app),
        auth_required: app.auth_required,
    }
}

fn warnings(app: &App) -> Vec<String> {
    let mut warnings = app.store.warnings();
    if let Some(relay) = &app.relay {
        warnings.extend_from_slice(relay.warnings());
    }
    warnings
}
