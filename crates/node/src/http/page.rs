//! The page: files that the build put into the program.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::ApiError;

mod assets {
    include!(concat!(env!("OUT_DIR"), "/assets.rs"));
}

/// A file of the page.
struct Asset {
    path: &'static str,
    mime: &'static str,
    bytes: &'static [u8],
    gzip: Option<&'static [u8]>,
}

/// Nothing from anywhere else: the page works on a closed network, and cannot leak.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; \
                      style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; \
                      connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";

pub(super) async fn index(State(_): State<App>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve("index.html", &headers)
}

pub(super) async fn asset(
    State(_): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    serve(uri.path().trim_start_matches('/'), &headers)
}

fn serve(path: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let asset = assets::ASSETS
        .iter()
        .find(|asset| asset.path == path)
        .ok_or_else(|| {
            ApiError::not_found("there is nothing at this path; /openapi.json lists what there is")
        })?;
    let accepted = headers
        .get(header::ACCEPT_ENCODING)
        .and_then(|value| value.to_str().ok());
    // Packed once by the build, and not for each answer.
    let gzip = asset
        .gzip
        .filter(|_| accepted.is_some_and(|list| list.contains("gzip")));
    let mut response = (StatusCode::OK, gzip.unwrap_or(asset.bytes)).into_response();
    let fields = response.headers_mut();
    let fixed = HeaderValue::from_static;
    fields.insert(header::CONTENT_TYPE, fixed(asset.mime));
    fields.insert(header::CONTENT_SECURITY_POLICY, fixed(POLICY));
    fields.insert(header::REFERRER_POLICY, fixed("no-referrer"));
    fields.insert(header::VARY, fixed("accept-encoding"));
    if gzip.is_some() {
        fields.insert(header::CONTENT_ENCODING, fixed("gzip"));
    }
    // Names under assets/ hold a hash of the file; the others stay the same when it changes.
    let cache = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    fields.insert(header::CACHE_CONTROL, fixed(cache));
    Ok(response)
}
