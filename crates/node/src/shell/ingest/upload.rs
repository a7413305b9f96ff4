//! A client of a node's uploads: a transaction in which nothing is visible before the commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lavant_media::hls::MAX_BYTES;
use lavant_proto::ids::{ContentId, Root};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, RequestBuilder};

use super::super::agent::agent;
use super::error::IngestError;
use super::segments::{Fact, Piece};

/// Bytes of an answer that are read: the list of 200,000 segments.
const ANSWER_BYTES: u64 = 64 << 20;
/// Pauses before a segment is sent again.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// What opens an upload.
#[derive(Debug, Serialize)]
pub(super) struct Opening<'a> {
    pub(super) content_id: Option<&'a str>,
    pub(super) title: &'a str,
    pub(super) priority: &'a str,
    pub(super) publisher: Option<String>,
    /// Equal for what may be resumed, and no other.
    pub(super) source: String,
    pub(super) expected_seconds: Option<f64>,
    pub(super) renditions: Vec<RenditionName<'a>>,
    pub(super) pin: bool,
    pub(super) to: Vec<String>,
}

/// A rendition that is to come.
#[derive(Debug, Serialize)]
pub(super) struct RenditionName<'a> {
    pub(super) name: &'a str,
    pub(super) mime_type: &'a str,
}

/// An open upload.
#[derive(Debug, Deserialize)]
pub(super) struct Upload {
    pub(super) upload_id: String,
    pub(super) content_id: String,
    pub(super) version: u32,
    pub(super) publisher: String,
    pub(super) created_us: u64,
    pub(super) ttl_seconds: u64,
    pub(super) title: String,
    pub(super) priority: String,
    #[serde(default)]
    pub(super) segments: Vec<Held>,
}

/// A segment that the node holds already.
#[derive(Debug, Deserialize)]
pub(super) struct Held {
    rendition: String,
    name: String,
    duration: u64,
    discontinuity: bool,
    init: Option<u64>,
    length: u64,
    root: String,
}

/// What ends an upload.
#[derive(Debug, Serialize)]
pub(super) struct Commit {
    pub(super) target_duration: u32,
    pub(super) renditions: Vec<RenditionSums>,
    pub(super) signature: Option<String>,
}

/// What is said of a rendition at the commit.
#[derive(Debug, Serialize)]
pub(super) struct RenditionSums {
    pub(super) name: String,
    pub(super) bandwidth: u64,
    pub(super) average_bandwidth: u64,
    pub(super) codecs: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frame_rate_milli: u32,
    pub(super) inits: u64,
    pub(super) segments: u64,
}

/// What became of the wish to upload.
pub(super) enum Opened {
    Upload(Upload),
    /// The same source is published already: the reference of the content.
    Published {
        content_id: String,
    },
}

#[derive(Deserialize)]
struct Stored {
    root: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    existing: Option<Existing>,
}

#[derive(Deserialize)]
struct Existing {
    content_id: String,
}

/// Talks to one node over connections that are kept.
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client of the node at `base`.
    pub(super) fn new(base: &str, token: Option<&str>) -> Result<Self, IngestError> {
        let base = base.trim().trim_end_matches('/');
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("http://{base}")
        };
        // This client has no TLS: it would fail with a sentence that helps nobody.
        if !base.starts_with("http://") {
            return Err(IngestError::Usage(format!(
                "{base} is no address of a node: it begins with http://, as in \
                 http://127.0.0.1:7777"
            )));
        }
        Ok(Self {
            agent: agent(),
            base,
            token: token.map(str::to_owned),
        })
    }

    /// The node's address.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Opens or resumes an upload.
    pub(super) fn open(&self, opening: &Opening<'_>) -> Result<Opened, IngestError> {
        let request = self.authorized(self.agent.post(self.url("/uploads")));
        let mut response = request.send_json(opening).map_err(|e| self.failed(e))?;
        // A conflict that names the content says that the same source is here; any other is an
        // error.
        if response.status() == StatusCode::CONFLICT {
            let refusal = self.refusal(&mut response);
            return match refusal.existing {
                Some(Existing { content_id }) => Ok(Opened::Published { content_id }),
                None => Err(self.refused(response.status(), refusal.error)),
            };
        }
        self.answer(response).map(Opened::Upload)
    }

    /// Sends one piece; sending it again does no harm.
    fn put(&self, id: &str, rendition: &str, piece: &Piece) -> Result<(), IngestError> {
        let Fact {
            duration,
            discontinuity,
            init,
            ..
        } = piece.fact;
        let mut url = self.url(&format!(
            "/uploads/{id}/segments/{rendition}/{}?duration={duration}&discontinuity={}",
            piece.fact.name(),
            u8::from(discontinuity),
        ));
        if let Some(init) = init {
            url.push_str(&format!("&init={init}"));
        }
        let request = self.authorized(self.agent.put(url));
        let request = request.header("Content-Type", "application/octet-stream");
        let response = request.send(&piece.data[..]).map_err(|e| self.failed(e))?;
        let stored: Stored = self.answer(response)?;
        // What was changed on its way shows here, and not only when somebody plays it.
        if stored.root != piece.fact.root.to_string() {
            return Err(self.bad_answer("it stored other bytes than were sent"));
        }
        Ok(())
    }

    /// Publishes what was uploaded; the answer is the catalog's entry.
    pub(super) fn commit(&self, id: &str, commit: &Commit) -> Result<Value, IngestError> {
        let request = self.authorized(self.agent.post(self.url(&format!("/uploads/{id}/commit"))));
        self.answer(request.send_json(commit).map_err(|e| self.failed(e))?)
    }

    /// Rolls an upload back.
    pub(super) fn delete(&self, id: &str) -> Result<(), IngestError> {
        let url = self.url(&format!("/uploads/{id}"));
        let mut request = self.agent.delete(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let response = request.call().map_err(|e| self.failed(e))?;
        self.answer(response).map(|_: Value| ())
    }

    /// What the node says of a content.
    pub(super) fn content(&self, reference: &str) -> Result<Value, IngestError> {
        let url = self.url(&format!("/content/{reference}"));
        self.answer(self.agent.get(url).call().map_err(|e| self.failed(e))?)
    }

    /// A JSON answer.
    pub(super) fn get(&self, path: &str) -> Result<Value, IngestError> {
        let response = self.agent.get(self.url(path)).call();
        self.answer(response.map_err(|e| self.failed(e))?)
    }

    /// A text; `None` where the node has none.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, IngestError> {
        let response = self.agent.get(self.url(path)).call();
        let mut response = response.map_err(|e| self.failed(e))?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body = response.body_mut().with_config().limit(MAX_BYTES as u64);
        body.read_to_string().map(Some).map_err(|e| self.failed(e))
    }

    /// A call without a body.
    pub(super) fn post(&self, path: &str) -> Result<Value, IngestError> {
        let request = self.authorized(self.agent.post(self.url(path)));
        self.answer(request.send_empty().map_err(|e| self.failed(e))?)
    }

    /// Keeps a content from eviction and expiry.
    pub(super) fn pin(&self, id: &ContentId) -> Result<(), IngestError> {
        let url = self.url(&format!("/content/{}/pin", id.to_url()));
        let request = self.authorized(self.agent.put(url));
        let response = request.send_empty().map_err(|e| self.failed(e))?;
        self.answer(response).map(|_: Value| ())
    }

    /// Publishes one segment of a growing content.
    pub(super) fn append(
        &self,
        query: &[(&'static str, String)],
        mime: &str,
        data: &[u8],
    ) -> Result<(), IngestError> {
        let mut request = self.authorized(self.agent.post(self.url("/ingest")));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        let request = request.header("Content-Type", mime);
        let response = request.send(data).map_err(|e| self.failed(e))?;
        self.answer(response).map(|_: Value| ())
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn answer<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T, IngestError> {
        if !response.status().is_success() {
            let refusal = self.refusal(&mut response);
            return Err(self.refused(response.status(), refusal.error));
        }
        let body = response.body_mut().with_config().limit(ANSWER_BYTES);
        body.read_json().map_err(|e| self.failed(e))
    }

    fn refusal(&self, response: &mut Response<Body>) -> Refusal {
        let said = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES)
            .read_json::<Refusal>();
        said.unwrap_or_else(|_| Refusal {
            error: format!("it answered {} without a reason", response.status()),
            existing: None,
        })
    }

    fn refused(&self, status: StatusCode, reason: String) -> IngestError {
        let reason = if status == StatusCode::UNAUTHORIZED && self.token.is_none() {
            format!("{reason} (give --token or LAVANT_TOKEN)")
        } else {
            reason
        };
        IngestError::Refused {
            url: self.base.clone(),
            status: status.as_u16(),
            reason,
        }
    }

    /// An answer that no node of ours gives.
    pub(super) fn bad_answer(&self, reason: impl ToString) -> IngestError {
        IngestError::BadAnswer {
            url: self.base.clone(),
            reason: reason.to_string(),
        }
    }

    fn failed(&self, error: ureq::Error) -> IngestError {
        use ureq::Error as E;
        let reason = match error {
            E::Io(e) => e.to_string(),
            E::Timeout(which) => format!("time-out: {which}"),
            E::HostNotFound => "there is no such host".to_owned(),
            E::ConnectionFailed => "the connection failed".to_owned(),
            other => return self.bad_answer(other),
        };
        IngestError::Unreachable {
            url: self.base.clone(),
            reason,
        }
    }
}

/// Where pieces go.
pub(super) trait Sink: Send + Sync {
    /// Takes a piece; false when it was there already.
    fn put(&self, rendition: &str, piece: &Piece, stop: &AtomicBool) -> Result<bool, IngestError>;
}

/// An open upload as the place where pieces go.
pub(super) struct NodeSink {
    client: Arc<Client>,
    upload_id: String,
    held: HashMap<(String, String), Held>,
}

impl NodeSink {
    pub(super) fn new(client: Arc<Client>, upload_id: String, segments: Vec<Held>) -> Self {
        let key = |held: &Held| (held.rendition.clone(), held.name.clone());
        let held = segments
            .into_iter()
            .map(|held| (key(&held), held))
            .collect();
        Self {
            client,
            upload_id,
            held,
        }
    }

    fn holds(&self, rendition: &str, fact: &Fact) -> bool {
        let Some(held) = self.held.get(&(rendition.to_owned(), fact.name())) else {
            return false;
        };
        // All of it: a segment with the same bytes, but another place in time, has another record.
        held.root.parse::<Root>() == Ok(fact.root)
            && held.length == fact.length
            && held.duration == fact.duration
            && held.discontinuity == fact.discontinuity
            && held.init == fact.init
    }
}

impl Sink for NodeSink {
    fn put(&self, rendition: &str, piece: &Piece, stop: &AtomicBool) -> Result<bool, IngestError> {
        if self.holds(rendition, &piece.fact) {
            return Ok(false);
        }
        patiently(stop, || self.client.put(&self.upload_id, rendition, piece))?;
        Ok(true)
    }
}

/// Tries again while the node cannot be reached: it may be restarting.
pub(super) fn patiently(
    stop: &AtomicBool,
    attempt: impl Fn() -> Result<(), IngestError>,
) -> Result<(), IngestError> {
    // Only where nobody answered: a node that refused would refuse again.
    for pause in PAUSES {
        match attempt() {
            Err(IngestError::Unreachable { .. }) => std::thread::sleep(pause),
            other => return other,
        }
        if stop.load(Ordering::Relaxed) {
            return Err(IngestError::Cancelled);
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_put_in_order() {
        let base = |text| Client::new(text, None).map(|client| client.base().to_owned());
        assert_eq!(base("127.0.0.1:7777/").unwrap(), "http://127.0.0.1:7777");
        assert_eq!(base(" http://h:1 ").unwrap(), "http://h:1");
        assert_eq!(base("https://h:1").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn an_absent_node_is_told() {
        // Port 9 of the loopback address: nobody listens there.
        let client = Client::new("http://127.0.0.1:9", None).unwrap();
        let error = client.content("x").unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 3, "{text}");
        assert!(
            text.starts_with("no node answers at http://127.0.0.1:9 ("),
            "{text}"
        );
        assert!(
            text.ends_with("start one with `lavant serve`, or give --daemon"),
            "{text}"
        );
    }
}
