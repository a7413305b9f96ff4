//! Errors as callers see them: a status and one sentence.

use axum::Json;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::playlist::Unplayable;
use crate::store::StoreError;

/// An answer that says what was wrong and what to do.
#[derive(Debug)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The sentence.
    pub message: String,
    /// Id and version of the content that is in the way.
    existing: Option<(String, u32)>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            existing: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({ "error": self.message });
        if let Some((content_id, version)) = self.existing {
            body["existing"] = serde_json::json!({ "content_id": content_id, "version": version });
        }
        let body = Json(body);
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from_static("5");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            full if full.is_disk_full() => StatusCode::INSUFFICIENT_STORAGE,
            closed if closed.is_read_only() => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Full { .. }
            | StoreError::Share { .. }
            | StoreError::Strangers { .. }
            | StoreError::DiskFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::ReadOnly | StoreError::Busy(_) | StoreError::Closed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            StoreError::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::NotFound(_) => StatusCode::NOT_FOUND,
            StoreError::Conflict(_) | StoreError::Published { .. } | StoreError::Removed(_) => {
                StatusCode::CONFLICT
            }
            StoreError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            StoreError::Io { .. } | StoreError::Index(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // Only faults of this node; what a caller does wrong is no line of its log.
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%error, "a request failed");
        }
        let refusal = Self::new(status, error.to_string());
        let existing = match error {
            StoreError::Published {
                content_id,
                version,
            } => Some((content_id, version)),
            _ => None,
        };
        Self {
            existing,
            ..refusal
        }
    }
}

impl From<Unplayable> for ApiError {
    fn from(error: Unplayable) -> Self {
        match error {
            Unplayable::Empty(_) => Self::not_found(error.to_string()),
            Unplayable::Store(error) => error.into(),
            Unplayable::Render(..) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method; see /openapi.json",
    )
}

/// Longest refusal of the framework that is passed on.
const REFUSAL_MAX: usize = 1024;

/// Makes a sentence in JSON of a refusal that the framework wrote as plain text, as it does for
/// paths and queries that it cannot decode.
pub(super) async fn in_json(response: Response) -> Response {
    let is_text = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
    let kind = response.headers().get(header::CONTENT_TYPE);
    if !response.status().is_client_error() || !kind.is_some_and(is_text) {
        return response;
    }
    let (head, body) = response.into_parts();
    // It may repeat a long path of the caller's; what is longer is left out altogether.
    let text = to_bytes(body, REFUSAL_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\n', " ");
    ApiError::new(head.status, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn what_the_disk_refuses_is_told_by_its_kind() {
        let said = |kind, text| {
            let error = StoreError::io("write a segment", Error::new(kind, text));
            let answer = ApiError::from(error);
            (answer.status.as_u16(), answer.message)
        };
        let (status, text) = said(ErrorKind::StorageFull, "No space left on device");
        assert_eq!(status, 507);
        assert!(
            text.starts_with("the disk that holds the store is full ("),
            "{text}"
        );
        assert_eq!(said(ErrorKind::QuotaExceeded, "Disk quota exceeded").0, 507);
        let (status, text) = said(ErrorKind::ReadOnlyFilesystem, "Read-only file system");
        assert_eq!(status, 503);
        assert!(text.starts_with("the store is read-only"), "{text}");
        let (status, text) = said(ErrorKind::PermissionDenied, "Permission denied");
        assert_eq!(status, 503);
        assert_eq!(
            text,
            "the store could not write a segment: Permission denied"
        );
        assert_eq!(said(ErrorKind::Other, "Input/output error").0, 500);
    }
}
