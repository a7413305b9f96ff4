//! Entity tags: whether a caller holds the bytes already (RFC 9110 section 13.1.2).

use axum::http::{HeaderMap, header};

/// Whether `If-None-Match` names `etag`, which is strong. A weak tag matches as well: proxies that
/// compress make tags weak.
pub(super) fn is_held(headers: &HeaderMap, etag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter();
    given
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_weak_tags_and_the_star_match() {
        let held = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            is_held(&headers, "\"abc\"")
        };
        for value in [
            "\"abc\"",
            "W/\"abc\"",
            "\"x\", \"abc\"",
            "\"x\",W/\"abc\"",
            "*",
        ] {
            assert!(held(value), "{value}");
        }
        for value in ["", "abc", "\"ab\"", "\"x\", \"y\"", "W/\"x\""] {
            assert!(!held(value), "{value}");
        }
        assert!(!is_held(&HeaderMap::new(), "\"abc\""));
    }
}
