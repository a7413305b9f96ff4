//! What the API says and takes, as JSON.

mod catalog;

use lavant_proto::ids::PublisherKey;
use lavant_proto::time::Time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(super) use catalog::{CatalogChanges, CatalogQuery, GoneEntry};
pub use catalog::{CatalogEntry, RenditionEntry};

use crate::delivery::{Peer, PeerState, Source};
use crate::store::{UploadInfo, UploadProgress};

/// `GET /status`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusReply {
    /// Name of the node.
    pub node_id: String,
    /// Version of the program.
    pub version: String,
    /// Key of the node.
    pub publisher: String,
    /// Time since the start.
    pub uptime_seconds: f64,
    /// The store.
    pub store: StoreStatus,
    /// Uploads that are running.
    pub uploads: Vec<UploadStatus>,
    /// Whether nothing can be added.
    pub read_only: bool,
    /// The port that links of other nodes come in at; none when it meets nobody.
    #[serde(default)]
    pub relay_port: Option<u16>,
    /// What the operator should know; none for readers who are neither on the node's own machine
    /// nor send the token.
    pub warnings: Vec<String>,
    /// Whether changing anything needs a token.
    pub auth_required: bool,
}

/// The store, in numbers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Its folder; empty for readers who are neither on the node's own machine nor send the token.
    pub path: String,
    /// Bytes of segments.
    pub bytes: u64,
    /// Most bytes allowed.
    pub limit_bytes: Option<u64>,
    /// Segments.
    pub segments: u64,
    /// Contents.
    pub contents: u64,
    /// Bytes of live segments in memory.
    pub hot_bytes: u64,
    /// Free bytes of the disk.
    pub disk_free_bytes: u64,
}

/// An upload that is running.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadStatus {
    /// Its name.
    pub upload_id: String,
    /// Id of the content that it will be.
    pub content_id: String,
    /// Title of that.
    pub title: String,
    /// Segments that came.
    pub segments: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Playing time that came.
    pub duration_seconds: f64,
    /// Playing time that is expected.
    pub expected_seconds: Option<f64>,
    /// Time since the last segment.
    pub idle_seconds: f64,
}

impl UploadStatus {
    pub(crate) fn of(progress: UploadProgress) -> Self {
        Self {
            upload_id: progress.id,
            content_id: progress.content_id.to_string(),
            title: progress.title,
            segments: progress.segments,
            bytes: progress.bytes,
            duration_seconds: progress.seconds,
            expected_seconds: progress.expected_seconds,
            idle_seconds: progress.idle.as_secs_f64(),
        }
    }
}

/// `POST /ingest` as JSON; the first six fields are cosmosd's.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct IngestBody {
    /// Name of the content.
    pub content_id: String,
    /// Title of the content.
    pub content_title: Option<String>,
    /// Position in the rendition.
    pub sequence: u64,
    /// Media type; `video/mp2t` when absent.
    pub mime_type: Option<String>,
    /// `live`, `near_live` or `vod`; `vod` when absent.
    pub priority: Option<String>,
    /// The segment in base64.
    pub payload_b64: String,
    /// The rest.
    #[serde(flatten)]
    #[schema(inline)]
    pub more: IngestMore,
}

/// What a segment by `POST /ingest` may have beyond cosmosd's fields.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct IngestMore {
    /// Name of the rendition; `main` when absent.
    pub rendition: Option<String>,
    /// Length in seconds; measured when absent.
    pub duration: Option<f64>,
    /// Whether timestamps or coding break before it.
    pub discontinuity: Option<bool>,
    /// `media`, or `init` for the header of CMAF segments.
    pub kind: Option<String>,
    /// The init segment that it needs; 0 when absent.
    pub init: Option<u64>,
    /// Ceiling of durations in seconds, for the first segment of a content.
    pub target_duration: Option<u32>,
    /// Whether this is the last segment of its content.
    pub last: Option<bool>,
}

/// Query parameters of `POST /ingest` with a raw body.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct IngestQuery {
    /// Name of the content.
    pub content_id: String,
    /// Title of the content.
    pub content_title: Option<String>,
    /// Position in the rendition.
    pub sequence: u64,
    /// `live`, `near_live` or `vod`.
    pub priority: Option<String>,
    /// Name of the rendition.
    pub rendition: Option<String>,
    /// Length in seconds.
    pub duration: Option<f64>,
    /// Whether timestamps or coding break before it.
    pub discontinuity: Option<bool>,
    /// `media` or `init`.
    pub kind: Option<String>,
    /// The init segment that it needs.
    pub init: Option<u64>,
    /// Ceiling of durations in seconds.
    pub target_duration: Option<u32>,
    /// Whether this is the last segment of its content.
    pub last: Option<bool>,
}

/// Answer to `POST /ingest`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct IngestReply {
    /// `content_id/sequence`, the sequence with at least five digits.
    pub bundle_id: String,
    /// Whether it was new.
    pub stored: bool,
}

/// `POST /uploads`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct BeginUpload {
    /// Name wanted; made from the title when absent.
    pub content_id: Option<String>,
    /// Title of the content.
    pub title: String,
    /// `live`, `near_live` or `vod`.
    pub priority: Option<String>,
    /// Key of who will sign; the node when absent.
    pub publisher: Option<String>,
    /// Fingerprint of the source and how it is encoded.
    #[serde(default)]
    pub source: String,
    /// Playing time that is expected.
    pub expected_seconds: Option<f64>,
    /// Names and types of the renditions.
    pub renditions: Vec<BeginRendition>,
    /// Whether to pin the content.
    #[serde(default)]
    pub pin: bool,
    /// Keys of the nodes that it is for; everybody when there are none.
    #[serde(default)]
    pub to: Vec<String>,
}

/// A rendition of `POST /uploads`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct BeginRendition {
    /// Its name.
    pub name: String,
    /// Media type of its segments.
    pub mime_type: String,
}

/// Answer to `POST /uploads` and `GET /uploads/{id}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct UploadReply {
    /// Its name.
    pub upload_id: String,
    /// Id that the content will have.
    pub content_id: String,
    /// Version that the content will have.
    pub version: u32,
    /// Key of who signs.
    pub publisher: String,
    /// When it is said to be made, in microseconds since 1970.
    pub created_us: u64,
    /// Time to live in seconds.
    pub ttl_seconds: u64,
    /// Title as it will be shown.
    pub title: String,
    /// Priority.
    pub priority: String,
    /// Whether an unfinished upload was taken up again.
    pub resumed: bool,
    /// What is held already.
    pub segments: Vec<StagedEntry>,
}

/// A segment that an upload holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct StagedEntry {
    /// Name of its rendition.
    pub rendition: String,
    /// `0`, `1`, ... or `init-0`, `init-1`, ...
    pub name: String,
    /// Length in ticks of 90 kHz.
    pub duration: u64,
    /// Whether timestamps or coding break before it.
    pub discontinuity: bool,
    /// The init segment that it needs.
    pub init: Option<u64>,
    /// Bytes.
    pub length: u64,
    /// BLAKE3 root, 64 hex digits.
    pub root: String,
}

impl UploadReply {
    pub(crate) fn of(info: UploadInfo) -> Self {
        let segments = info.segments.into_iter().map(|staged| {
            let record = staged.record;
            let init = record.kind == lavant_proto::content::Kind::Init;
            StagedEntry {
                rendition: staged.rendition.to_string(),
                name: format!("{}{}", if init { "init-" } else { "" }, record.sequence),
                duration: record.duration,
                discontinuity: record.discontinuity,
                init: record.init,
                length: record.length,
                root: record.root.to_string(),
            }
        });
        Self {
            segments: segments.collect(),
            upload_id: info.id,
            content_id: info.content.content_id.to_string(),
            version: info.content.version,
            publisher: info.content.publisher.to_string(),
            created_us: info.created.0,
            ttl_seconds: info.ttl.as_secs(),
            title: info.title,
            priority: info.priority.to_string(),
            resumed: info.resumed,
        }
    }
}

/// Answer to `PUT /uploads/{id}/segments/{rendition}/{name}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct StagedReply {
    /// BLAKE3 root, 64 hex digits.
    pub root: String,
    /// Bytes.
    pub length: u64,
    /// Whether it was new.
    pub stored: bool,
}

/// `POST /uploads/{id}/commit`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct CommitBody {
    /// Ceiling of durations in whole seconds.
    pub target_duration: u32,
    /// The renditions, in the order of the upload.
    pub renditions: Vec<CommitEntry>,
    /// The publisher's signature of the manifest, 128 hex digits, unless the node signs.
    pub signature: Option<String>,
}

/// A rendition of a commit.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct CommitEntry {
    /// Its name.
    pub name: String,
    /// Highest bit rate in bit/s.
    pub bandwidth: u64,
    /// Mean bit rate in bit/s.
    pub average_bandwidth: u64,
    /// RFC 6381 codec strings with commas between.
    #[serde(default)]
    pub codecs: String,
    /// Pixels across.
    #[serde(default)]
    pub width: u32,
    /// Pixels down.
    #[serde(default)]
    pub height: u32,
    /// Pictures in 1000 seconds.
    #[serde(default)]
    pub frame_rate_milli: u32,
    /// Number of init segments.
    #[serde(default)]
    pub inits: u64,
    /// Number of segments.
    pub segments: u64,
}

/// An error.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ErrorReply {
    /// What was wrong and what to do.
    pub error: String,
}

/// A publisher's key from its text form.
pub(crate) fn parse_publisher(text: &str) -> Result<PublisherKey, super::ApiError> {
    text.parse().map_err(|_| {
        super::ApiError::bad_request(format!("publisher {text:?} is not 64 hexadecimal digits"))
    })
}

/// A node to meet, or to meet no more.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct PeerBody {
    /// `HOST:PORT` or `KEY@HOST:PORT`.
    #[serde(default)]
    pub(super) address: String,
    /// The same, as cosmosd calls it.
    #[serde(default)]
    pub(super) relay_addr: String,
}

/// A node that this one meets, or tries to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PeerEntry {
    /// As it was named, or where it is; its key or nothing for readers who are neither on the
    /// node's own machine nor send the token.
    pub address: String,
    /// The same, as cosmosd calls it.
    pub relay_addr: String,
    /// Its key, 64 hex digits, once known.
    pub node: Option<String>,
    /// Its name, once it said it.
    pub name: String,
    /// `named`, `found` or `incoming`.
    pub source: String,
    /// `connected`, `dialling`, `waiting` or `away`.
    pub state: String,
    /// `quic` or `tcp`, while connected or last.
    pub link: Option<String>,
    /// Where the other side of the link is.
    pub remote: Option<String>,
    /// Why the last dial or contact ended.
    pub error: Option<String>,
    /// Dials that failed since the last contact.
    pub failures: u32,
    /// Seconds until it is dialled again.
    pub retry_seconds: Option<f64>,
    /// When a contact was last up (RFC 3339).
    pub last_seen: Option<String>,
    /// Bytes of segments that came from it, verified.
    pub received_bytes: u64,
    /// Bytes of segments that were sent to it.
    pub sent_bytes: u64,
    /// Bytes that came although they were here.
    pub duplicate_bytes: u64,
    /// Segments that came whole from it.
    pub received_segments: u64,
    /// Bytes a second that arrive.
    pub rate: u64,
    /// The time of a round trip in milliseconds.
    pub round_trip_ms: Option<f64>,
}

impl PeerEntry {
    /// What anyone may know: not where it is, which reasons tell as well. Its key stands for it.
    pub(super) fn without_addresses(self) -> Self {
        let address = self.node.clone().unwrap_or_default();
        Self {
            relay_addr: address.clone(),
            address,
            remote: None,
            error: None,
            ..self
        }
    }

    pub(super) fn of(peer: &Peer, now: Time) -> Self {
        let word = |source| match source {
            Source::Named => "named",
            Source::Found => "found",
            Source::Incoming => "incoming",
        };
        let state = match peer.state {
            PeerState::Connected => "connected",
            PeerState::Dialling => "dialling",
            PeerState::Waiting => "waiting",
            PeerState::Away => "away",
        };
        Self {
            address: peer.label(),
            relay_addr: peer.label(),
            node: peer.node.map(|key| key.to_string()),
            name: peer.name.clone(),
            source: word(peer.source).into(),
            state: state.into(),
            link: peer.link.map(|(kind, _)| kind.to_string()),
            remote: peer.link.map(|(_, remote)| remote.to_string()),
            error: peer.error.clone(),
            failures: peer.failures,
            retry_seconds: peer.next.map(|next| next.since(now).as_secs_f64()),
            last_seen: peer.last_seen.map(Time::rfc3339),
            received_bytes: peer.stats.received,
            sent_bytes: peer.stats.sent,
            duplicate_bytes: peer.stats.duplicate,
            received_segments: peer.stats.segments,
            rate: peer.rate,
            round_trip_ms: peer.round_trip.map(|trip| trip.as_secs_f64() * 1000.0),
        }
    }
}
