//! A client of a node's uploads: a transaction in which nothing is visible before the commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lavant_proto::ids::{ContentId, Root};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::http::StatusCode;

use super::super::client::{Client, ClientError};
use super::error::IngestError;
use super::segments::{Fact, Piece};

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

/// What an ingest asks of a node, over connections that are kept.
impl Client {
    /// Opens or resumes an upload.
    pub(super) fn open(&self, opening: &Opening<'_>) -> Result<Opened, ClientError> {
        let body =
            serde_json::to_string(opening).map_err(|error| self.strange(error.to_string()))?;
        let mut answer = self.run("POST", "/uploads", Some("application/json"), body)?;
        // A conflict that names the content says that the same source is here; any other is an
        // error.
        if answer.status() == StatusCode::CONFLICT {
            let (refused, said) = self.refusal(&mut answer);
            let existing = said.get("existing").and_then(|it| it.get("content_id"));
            return match existing.and_then(Value::as_str) {
                Some(id) => Ok(Opened::Published {
                    content_id: id.to_owned(),
                }),
                None => Err(refused),
            };
        }
        self.answer(answer).map(Opened::Upload)
    }

    /// Sends one piece; sending it again does no harm.
    fn put(&self, id: &str, rendition: &str, piece: &Piece) -> Result<(), ClientError> {
        let Fact {
            duration,
            discontinuity,
            init,
            ..
        } = piece.fact;
        let mut path = format!(
            "/uploads/{id}/segments/{rendition}/{}?duration={duration}&discontinuity={}",
            piece.fact.name(),
            u8::from(discontinuity),
        );
        if let Some(init) = init {
            path.push_str(&format!("&init={init}"));
        }
        let body = ("application/octet-stream", &piece.data[..]);
        let stored: Stored = self.call_with_bytes("PUT", &path, body)?;
        // What was changed on its way shows here, and not only when somebody plays it.
        if stored.root != piece.fact.root.to_string() {
            return Err(self.strange("it stored other bytes than were sent".to_owned()));
        }
        Ok(())
    }

    /// Publishes what was uploaded; the answer is the catalog's entry.
    pub(super) fn commit(&self, id: &str, commit: &Commit) -> Result<Value, ClientError> {
        let body = serde_json::to_value(commit).map_err(|error| self.strange(error.to_string()))?;
        self.call_with("POST", &format!("/uploads/{id}/commit"), &body)
    }

    /// Rolls an upload back.
    pub(super) fn delete(&self, id: &str) -> Result<(), ClientError> {
        let deleted: Result<Value, _> = self.call("DELETE", &format!("/uploads/{id}"));
        deleted.map(drop)
    }

    /// What the node says of a content; none when it has none of that reference.
    pub(super) fn content(&self, reference: &str) -> Result<Option<Value>, ClientError> {
        if_there(self.get(&format!("/content/{reference}")))
    }

    /// A text; none where the node has none.
    pub(super) fn text_if_there(&self, path: &str) -> Result<Option<String>, ClientError> {
        if_there(self.text("GET", path))
    }

    /// Keeps a content from eviction and expiry.
    pub(super) fn pin(&self, id: &ContentId) -> Result<(), ClientError> {
        let pinned: Result<Value, _> = self.call("PUT", &format!("/content/{}/pin", id.to_url()));
        pinned.map(drop)
    }

    /// Publishes one segment of a growing content.
    pub(super) fn append(
        &self,
        query: &[(&'static str, String)],
        mime: &str,
        data: &[u8],
    ) -> Result<(), ClientError> {
        let mut encoded = form_urlencoded::Serializer::new(String::new());
        encoded.extend_pairs(query);
        let path = format!("/ingest?{}", encoded.finish());
        let stored: Result<Value, _> = self.call_with_bytes("POST", &path, (mime, data));
        stored.map(drop)
    }
}

fn if_there<T>(found: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match found {
        Err(ClientError::Refused { status: 404, .. }) => Ok(None),
        found => found.map(Some),
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
    attempt: impl Fn() -> Result<(), ClientError>,
) -> Result<(), IngestError> {
    // Only where nobody answered: a node that refused would refuse again.
    for pause in PAUSES {
        match attempt() {
            Err(ClientError::Unreachable { .. }) => std::thread::sleep(pause),
            other => return Ok(other?),
        }
        if stop.load(Ordering::Relaxed) {
            return Err(IngestError::Cancelled);
        }
    }
    Ok(attempt()?)
}
