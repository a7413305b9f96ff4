//! `/peers`: the nodes that this one meets.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::App;
use super::dto::{PeerBody, PeerEntry};
use super::error::ApiError;
use super::pool::SeesAll;
use crate::config::{Target, TargetError};
use crate::delivery::Handle;

fn relay(app: &App) -> Result<&Handle, ApiError> {
    app.relay.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "this node meets no others; start it without --no-relay",
        )
    })
}

fn target(body: &PeerBody) -> Result<Target, ApiError> {
    let text = if body.address.is_empty() {
        &body.relay_addr
    } else {
        &body.address
    };
    text.parse()
        .map_err(|error: TargetError| ApiError::bad_request(error.to_string()))
}

#[utoipa::path(get, path = "/peers", responses((status = 200, body = Vec<PeerEntry>)))]
pub(super) async fn list(
    State(app): State<App>,
    Extension(SeesAll(sees_all)): Extension<SeesAll>,
) -> Json<Vec<PeerEntry>> {
    let Some(relay) = &app.relay else {
        return Json(Vec::new());
    };
    let now = app.store.settings().clock.now();
    let peers = relay.peers().await;
    let entries = peers.iter().map(|peer| PeerEntry::of(peer, now));
    Json(match sees_all {
        true => entries.collect(),
        false => entries.map(PeerEntry::without_addresses).collect(),
    })
}

#[utoipa::path(
    post, path = "/peers", request_body = PeerBody,
    responses(
        (status = 200, description = "It is dialled at once"),
        (status = 400, body = super::dto::ErrorReply),
        (status = 409, description = "This node meets no others", body = super::dto::ErrorReply)
    )
)]
pub(super) async fn add(
    State(app): State<App>,
    Json(body): Json<PeerBody>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let target = target(&body)?;
    let added = relay(&app)?.name(target).await;
    Ok(Json(serde_json::json!({ "added": added })))
}

#[utoipa::path(
    delete, path = "/peers", request_body = PeerBody,
    responses(
        (status = 200, description = "It is forgotten"),
        (status = 404, description = "It was not named", body = super::dto::ErrorReply)
    )
)]
pub(super) async fn remove(
    State(app): State<App>,
    Json(body): Json<PeerBody>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let target = target(&body)?;
    let text = target.to_string();
    if relay(&app)?.forget(target).await {
        Ok(Json(serde_json::json!({ "removed": true })))
    } else {
        let why = format!("no peer {text:?} was named; 'lavant peers' lists them");
        Err(ApiError::not_found(why))
    }
}
