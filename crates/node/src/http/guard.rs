//! Who may call: hosts, origins and tokens are checked before any handler runs.
//!
//! A page on the web must not reach a node through its visitor's browser. So the node answers
//! only to names that are its own (DNS rebinding), takes changes only from pages of its own
//! origin (cross-site requests), and asks for a token when it listens beyond loopback.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use std::net::{IpAddr, Ipv6Addr};

use super::error::ApiError;
use super::pool::Caller;
use crate::config::Config;

/// What is checked of every request.
pub(super) struct Guard {
    names: Vec<String>,
    origins: Vec<String>,
    token: Option<blake3::Hash>,
}

impl Guard {
    /// The rules for a configuration; `token` when one is asked for.
    pub(super) fn new(config: &Config, token: Option<&str>) -> Self {
        // Names are compared in lower case, as hosts and origins are the same however they are
        // written.
        let host = crate::config::host_name().to_ascii_lowercase();
        let mut names = vec!["localhost".to_owned(), format!("{host}.local"), host];
        names.extend(
            config
                .allow_hosts
                .iter()
                .map(|name| name.to_ascii_lowercase()),
        );
        Self {
            names,
            origins: config
                .allow_origins
                .iter()
                .map(|o| o.to_ascii_lowercase())
                .collect(),
            token: token.map(|token| blake3::hash(token.as_bytes())),
        }
    }

    /// Whether the request may go on.
    pub(super) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), ApiError> {
        // For reads, too: a page whose name was bound to this address could read the catalogue.
        let host = self.check_host(uri, headers)?;
        // None of these changes anything. Their answers stay unread by pages of other origins,
        // which get no CORS header.
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        self.check_origin(&host, headers)?;
        self.check_token(headers)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, ApiError> {
        let mut given = headers.get_all(header::HOST).iter();
        // An absolute request line goes before the Host header (RFC 9112 section 3.2.2); two
        // headers are refused (section 3.2), as whoever stands between may have looked at the other
        // one.
        let host = match (uri.authority(), given.next(), given.next()) {
            (_, _, Some(_)) => return Err(ApiError::bad_request("two Host headers were sent")),
            (Some(authority), ..) => authority.as_str(),
            (None, Some(host), None) => host.to_str().unwrap_or_default(),
            (None, None, None) => return Err(ApiError::bad_request("the Host header is missing")),
        };
        let host = host.to_ascii_lowercase();
        let Some(name) = host_part(&host) else {
            let text = format!("{host:?} is no host name with or without a port");
            return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, text));
        };
        // Rebinding needs a name that others control: an address is none, and `.localhost` is this
        // machine.
        let known = name.parse::<IpAddr>().is_ok()
            || name.ends_with(".localhost")
            || self.names.iter().any(|known| known == name);
        if known {
            return Ok(host);
        }
        Err(ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!(
                "this node does not answer to the name {name:?}; if it is the node's own, start it \
                 with --allow-host {name}"
            ),
        ))
    }

    fn check_origin(&self, host: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let refused = || {
            Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "a page of another origin may not change anything here; --allow-origin permits one",
            ))
        };
        // Programs send no Origin. A browser that leaves it out says in Sec-Fetch-Site where the
        // page is from.
        let Some(origin) = headers.get(header::ORIGIN) else {
            let site = headers
                .get("sec-fetch-site")
                .and_then(|site| site.to_str().ok());
            return if matches!(site, Some("cross-site" | "same-site")) {
                refused()
            } else {
                Ok(())
            };
        };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        // `host` was checked before, so an origin that equals it is the node's own. A reverse proxy
        // may speak HTTPS in front of it, so the scheme is left out.
        let own = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        if own == Some(host) || self.origins.contains(&origin) {
            Ok(())
        } else {
            refused()
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(expected) = &self.token else {
            return Ok(());
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::trim);
        // Comparing hashes takes the same time wherever the token differs.
        match given {
            Some(given) if blake3::hash(given.as_bytes()) == *expected => Ok(()),
            Some(_) => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "the API token is wrong",
            )),
            None => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "changing anything here needs the node's API token: send \
                 'Authorization: Bearer TOKEN', or give --token",
            )),
        }
    }

    /// Whether a reader may see what is the operator's alone: folders, and where other nodes are.
    /// Behind a reverse proxy everybody comes from this machine, so what one passes on is no proof.
    pub(super) fn trusts(&self, caller: &Caller, headers: &HeaderMap) -> bool {
        let is_passed_on = ["forwarded", "via", "x-forwarded-for", "x-real-ip"]
            .iter()
            .any(|name| headers.contains_key(*name));
        (caller.is_local() && !is_passed_on)
            || (self.token.is_some() && self.check_token(headers).is_ok())
    }

    /// The headers that let a page of an allowed origin read an answer.
    pub(super) fn cors(&self, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Vec::new();
        };
        // Never `*`: only origins that the operator named.
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if !self.origins.contains(&text) {
            return Vec::new();
        }
        let fixed = HeaderValue::from_static;
        vec![
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
            (header::VARY, fixed("origin")),
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                fixed("GET, HEAD, POST, PUT, DELETE"),
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                fixed("authorization, content-type, range"),
            ),
            (
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                fixed("content-length, content-range, etag"),
            ),
        ]
    }
}

/// The host without its port; an IPv6 address without its brackets. None when it is neither.
fn host_part(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']')?;
            name.parse::<Ipv6Addr>().ok()?;
            (name, port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_port.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    fn guard(token: Option<&str>) -> Guard {
        let layer = Layer {
            allow_host: Some(vec!["films.example".into()]),
            allow_origin: Some(vec!["https://tv.example".into()]),
            ..Layer::default()
        };
        Guard::new(&layer.resolve().unwrap(), token)
    }

    fn check(guard: &Guard, method: Method, headers: &[(&str, &str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let uri = "/ingest".parse().unwrap();
        guard
            .check(&method, &uri, &map)
            .err()
            .map(|error| error.status.as_u16())
    }

    #[test]
    fn only_own_names_are_answered() {
        let guard = guard(None);
        for host in [
            "localhost:7777",
            "127.0.0.1",
            "[::1]:80",
            "FILMS.example",
            "a.localhost",
        ] {
            assert_eq!(
                check(&guard, Method::GET, &[("host", host)]),
                None,
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "",
            "[127.0.0.1]evil.example",
            "[127.0.0.1]",
            "[::1]evil.example",
            "[::1",
            "127.0.0.1:80.evil.example",
            "localhost:80:evil.example",
        ] {
            assert_eq!(
                check(&guard, Method::GET, &[("host", host)]),
                Some(421),
                "{host}"
            );
        }
        assert_eq!(check(&guard, Method::GET, &[]), Some(400));
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check(&guard, Method::GET, &two), Some(400));
    }

    #[test]
    fn changes_come_from_the_own_origin_or_an_allowed_one() {
        let guard = guard(None);
        let host = ("host", "localhost:7777");
        let post = |header| check(&guard, Method::POST, &[host, header]);
        assert_eq!(check(&guard, Method::POST, &[host]), None);
        assert_eq!(post(("origin", "http://localhost:7777")), None);
        assert_eq!(post(("origin", "https://tv.example")), None);
        assert_eq!(post(("origin", "https://evil.example")), Some(403));
        assert_eq!(post(("origin", "null")), Some(403));
        assert_eq!(post(("sec-fetch-site", "cross-site")), Some(403));
    }

    #[test]
    fn a_token_is_asked_for_changes_only() {
        let guard = guard(Some("a secret token 123"));
        let host = ("host", "10.0.0.1:7777");
        assert_eq!(check(&guard, Method::GET, &[host]), None);
        assert_eq!(check(&guard, Method::DELETE, &[host]), Some(401));
        let wrong = ("authorization", "Bearer a secret token 124");
        assert_eq!(check(&guard, Method::DELETE, &[host, wrong]), Some(401));
        let right = ("authorization", "Bearer a secret token 123");
        assert_eq!(check(&guard, Method::DELETE, &[host, right]), None);
    }
}
