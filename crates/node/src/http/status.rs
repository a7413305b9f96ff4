//! `/health` and `/status`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::App;
use super::dto::{StatusReply, StoreStatus, UploadStatus};
use super::error::ApiError;
use super::pool::SeesAll;
use crate::health::Failure;
use crate::store::Store;

#[utoipa::path(
    get, path = "/health",
    responses(
        (status = 200, description = "The node runs"),
        (status = 503, description = "A part of the node does not work; `error` and `failed` say \
                                      which, and why", body = super::dto::ErrorReply)
    )
)]
pub(super) async fn health(State(app): State<App>) -> Response {
    // From memory alone: this must answer when the disk or the index does not.
    let failures = app.health.failures();
    let mut body = serde_json::json!({
        "ok": failures.is_empty(),
        "node_id": app.config.node_id,
        "version": env!("CARGO_PKG_VERSION"),
        "publisher": app.store.publisher().to_string(),
    });
    if failures.is_empty() {
        return Json(body).into_response();
    }
    body["error"] = sentence(&failures).into();
    for Failure { part, reason } in failures {
        body["failed"][part] = reason.into();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// What does not work, in a sentence.
fn sentence(failures: &[Failure]) -> String {
    let parts = failures
        .iter()
        .map(|Failure { part, reason }| format!("{part} ({reason})"));
    let parts: Vec<_> = parts.collect();
    format!("a part of the node does not work: {}", parts.join(", "))
}

#[utoipa::path(get, path = "/status", responses((status = 200, body = StatusReply)))]
pub(super) async fn status(
    State(app): State<App>,
    Extension(sees_all): Extension<SeesAll>,
) -> Result<Json<StatusReply>, ApiError> {
    Ok(Json(of(&app, sees_all).await?))
}

/// The state of the node. Folders, which warnings name as well, are for its operator.
pub(super) async fn of(app: &App, sees_all: SeesAll) -> Result<StatusReply, ApiError> {
    let state = app.clone();
    app.blocking(move |store| Ok(read(&state, store, sees_all)))
        .await
}

/// Reads it. Blocks.
fn read(app: &App, store: &Store, SeesAll(sees_all): SeesAll) -> StatusReply {
    let stats = store.stats();
    let folder = store.settings().layout.root();
    let path = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    StatusReply {
        node_id: app.config.node_id.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        publisher: store.publisher().to_string(),
        uptime_seconds: app.started.elapsed().as_secs_f64(),
        store: StoreStatus {
            path: if sees_all {
                path.display().to_string()
            } else {
                String::new()
            },
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
        relay_port: app.relay.as_ref().map(crate::delivery::Handle::port),
        warnings: if sees_all {
            warnings(app, store)
        } else {
            Vec::new()
        },
        auth_required: app.auth_required,
    }
}

fn warnings(app: &App, store: &Store) -> Vec<String> {
    let mut warnings = store.warnings();
    if let Some(relay) = &app.relay {
        warnings.extend_from_slice(relay.warnings());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::super::{AppState, router};
    use super::*;
    use crate::health::Health;
    use crate::store::AsyncStore;

    async fn ask(app: &App) -> (StatusCode, Value) {
        let request = Request::get("/health").body(Body::empty()).unwrap();
        let response = router(app.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn health_tells_which_part_has_ended_until_it_works_again() {
        let folder = tempfile::tempdir().unwrap();
        let layer = crate::config::Layer {
            store: Some(folder.path().join("store")),
            node_id: Some("ship".into()),
            ..Default::default()
        };
        let config = layer.resolve().unwrap();
        let store = crate::run::open_store(&config).unwrap();
        let publisher = store.publisher().to_string();
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        let health = Health::default();
        let relay = health.part("relay");
        let held = AsyncStore::new(store.clone());
        let settings = crate::run::live_settings(&config, &store).unwrap();
        let live = crate::live::Live::new(held.clone(), settings);
        let studio = crate::live::Studio::new(live);
        let app = AppState::new(held, studio, config, None, health, false, stopping).into();

        let well = json!({ "ok": true, "node_id": "ship", "publisher": publisher,
            "version": env!("CARGO_PKG_VERSION") });
        assert_eq!(ask(&app).await, (StatusCode::OK, well.clone()));

        relay.fail("it ended and is started again");
        let (status, body) = ask(&app).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (&body["ok"], &body["publisher"]),
            (&json!(false), &json!(publisher))
        );
        assert_eq!(
            body["failed"],
            json!({ "relay": "it ended and is started again" })
        );
        let sentence = "a part of the node does not work: relay (it ended and is started again)";
        assert_eq!(body["error"], sentence);

        relay.ok();
        assert_eq!(ask(&app).await, (StatusCode::OK, well));
    }
}
