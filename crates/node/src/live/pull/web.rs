//! HTTP as a client: playlists, segments, and streams without an end.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::RANGE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use super::Fault;
use super::address::{self, Guard};
use crate::live::SILENCE_MAX;

/// How long a server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The most redirects in a row.
const REDIRECTS_MAX: usize = 5;
/// The largest playlist: a day of segments of two seconds has 5 MB.
const TEXT_MAX: usize = 8 << 20;

/// A client that asks only whom it may.
#[derive(Clone)]
pub(super) struct Web {
    client: Client,
    with_private: bool,
}

impl Web {
    pub(super) fn new(with_private: bool) -> Result<Self, Fault> {
        // The client takes the provider of the process; another one may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redirect = Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS_MAX {
                return attempt.error("it redirects without end");
            }
            match check(attempt.url(), with_private) {
                Ok(()) => attempt.follow(),
                Err(reason) => attempt.error(reason),
            }
        });
        let client = Client::builder()
            .user_agent(concat!("lavant/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(ANSWER_MAX)
            .read_timeout(SILENCE_MAX)
            .redirect(redirect)
            .dns_resolver(Arc::new(Guard { with_private }))
            // A proxy would look names up itself, past the guard.
            .no_proxy()
            .build()
            .map_err(|error| Fault::Source(reason(&error)))?;
        Ok(Self {
            client,
            with_private,
        })
    }

    /// Asks for a resource, or for `range` of it: (offset, length).
    pub(super) async fn get(
        &self,
        url: &Url,
        range: Option<(u64, u64)>,
    ) -> Result<Response, Fault> {
        check(url, self.with_private).map_err(Fault::Source)?;
        let mut request = self.client.get(url.clone());
        if let Some((offset, length)) = range {
            let last = offset.saturating_add(length).saturating_sub(1);
            request = request.header(RANGE, format!("bytes={offset}-{last}"));
        }
        let answer = tokio::time::timeout(ANSWER_MAX, request.send()).await;
        let answer = answer
            .map_err(|_| Fault::Source("the server did not answer for 10 seconds".into()))?
            .map_err(|error| Fault::Source(reason(&error)))?;
        match (answer.status(), range) {
            (StatusCode::OK, None) | (StatusCode::PARTIAL_CONTENT, Some(_)) => Ok(answer),
            (status, _) => Err(Fault::Status(status.as_u16())),
        }
    }

    /// The next bytes of a body.
    pub(super) async fn chunk(answer: &mut Response) -> Result<Option<Bytes>, Fault> {
        let chunk = answer.chunk().await;
        chunk.map_err(|error| Fault::Source(reason(&error)))
    }

    /// All of a body that begins with `head`, as text.
    pub(super) async fn text(mut answer: Response, head: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let mut text = head;
        while let Some(chunk) = Self::chunk(&mut answer).await? {
            if text.len() + chunk.len() > TEXT_MAX {
                return Err(Fault::Source("its playlist is larger than 8 MB".into()));
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }
}

/// Whether a URL may be asked, as far as it says so itself: a name is looked up later.
fn check(url: &Url, with_private: bool) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("it leads to {}:, not to http(s)", url.scheme()));
    }
    let host = url.host_str().unwrap_or_default();
    let number = host.trim_matches(['[', ']']).parse::<IpAddr>();
    match number {
        Ok(ip) if !with_private && !address::is_public(ip) => Err(address::refusal(host)),
        _ => Ok(()),
    }
}

/// The innermost reason, which is the one that says something, without the URL: it may have a
/// password in it.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the server said nothing for 20 seconds".into();
    }
    let mut innermost = error.source();
    while let Some(next) = innermost.and_then(|error| error.source()) {
        innermost = Some(next);
    }
    innermost.map_or_else(|| "the request failed".into(), ToString::to_string)
}
