//! What a store knows of one content, and how the index holds it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lavant_proto::content::{MimeType, Priority, RenditionInfo, SegmentRecord, SignedManifest};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition, Root};
use lavant_proto::relay::learn::manifest_hash;
use lavant_proto::time::Time;
use serde::{Deserialize, Serialize};

use crate::store::error::StoreError;

/// Whether more segments may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Segments are still being added.
    Open,
    /// All of it is known.
    Finished,
}

/// One version of one content.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// Its number in this store, in order of arrival.
    pub no: u64,
    /// Publisher, id, version.
    pub key: ContentKey,
    /// Shown to people.
    pub title: String,
    /// How urgent.
    pub priority: Priority,
    /// When it was made.
    pub created: Time,
    /// For how long its segments are of use.
    pub ttl: Duration,
    /// When its last segment expires.
    pub expires: Time,
    /// When all of it expires together, once it is finished or superseded.
    pub hold_until: Option<Time>,
    /// When its last segment came.
    pub last_arrival: Time,
    /// `EXT-X-TARGETDURATION`: the ceiling of its segments' durations, fixed at the start.
    pub target_duration: u32,
    /// Open or finished.
    pub state: State,
    /// Whether a later version has taken its place.
    pub superseded: bool,
    /// Whether the operator wants it kept.
    pub pinned: bool,
    /// Bytes of payload files that its segments have; one that two segments share counts twice.
    pub held_bytes: u64,
    /// What it was made from: a fingerprint that the ingesting program chose.
    pub source: String,
    /// What others are told of its manifest, once it is finished.
    pub manifest: Option<Arc<ManifestFacts>>,
    /// Its renditions, first the one that a plain path means.
    pub renditions: Vec<RenditionState>,
    /// Another number after each change, never the same again in this process.
    pub generation: u64,
}

/// What has to be known of a manifest without reading its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFacts {
    /// See [`manifest_hash`].
    pub hash: [u8; 32],
    /// When it was made.
    pub created: Time,
    /// The nodes that the content is for; none when it is for everybody.
    pub to: Vec<PublisherKey>,
}

impl ManifestFacts {
    /// Those of a manifest that was verified.
    pub(in crate::store) fn of(signed: &SignedManifest) -> Self {
        let SignedManifest {
            manifest,
            signature,
            ..
        } = signed;
        Self {
            hash: manifest_hash(&manifest.encode(), signature),
            created: manifest.created,
            to: manifest.to.clone(),
        }
    }
}

/// What the bytes of a segment show of its rendition. Whoever hands them to the store looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// As a master playlist says them; empty when it is not known.
    pub codecs: String,
    /// Width and height in pixels; 0 without video.
    pub size: (u32, u32),
}

/// What is known of one rendition.
#[derive(Clone, Debug, PartialEq)]
pub struct RenditionState {
    /// What a master playlist says of it, and sums over the segments that were ever added.
    pub info: RenditionInfo,
    /// The first sequence of its playlist (`EXT-X-MEDIA-SEQUENCE`); never goes back.
    pub first: u64,
    /// How many discontinuities left the playlist (`EXT-X-DISCONTINUITY-SEQUENCE`).
    pub discontinuities_gone: u64,
    /// One more than the highest sequence.
    pub next: u64,
    /// One more than the highest sequence that ever was here: what comes after may still be on its
    /// way, what comes before and is not here is a gap.
    pub reached: u64,
    /// How many segments are here.
    pub present: u64,
    /// Sum of their durations, in ticks.
    pub present_duration: u64,
    /// Sum of their lengths, in bytes.
    pub present_bytes: u64,
}

impl RenditionState {
    pub(in crate::store) fn new(name: Rendition, mime: MimeType) -> Self {
        Self {
            info: RenditionInfo {
                name,
                mime,
                bandwidth: 0,
                average_bandwidth: 0,
                codecs: String::new(),
                width: 0,
                height: 0,
                frame_rate_milli: 0,
                inits: 0,
                first: 0,
                segments: 0,
                duration: 0,
                bytes: 0,
            },
            first: 0,
            discontinuities_gone: 0,
            next: 0,
            reached: 0,
            present: 0,
            present_duration: 0,
            present_bytes: 0,
        }
    }

    /// Whether every segment from the first on is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.present == self.next.saturating_sub(self.first)
    }
}

impl Content {
    /// A growing content of which this is the first record.
    pub(in crate::store) fn growing(no: u64, first: &SegmentRecord, last_arrival: Time) -> Self {
        Self {
            no,
            key: first.content.clone(),
            title: first.title.clone(),
            priority: first.priority,
            created: first.created,
            ttl: first.ttl,
            expires: Time(0),
            hold_until: None,
            last_arrival,
            target_duration: first.target_duration,
            state: State::Open,
            superseded: false,
            pinned: false,
            held_bytes: 0,
            source: String::new(),
            manifest: None,
            renditions: Vec::new(),
            generation: 0,
        }
    }

    /// Whether it is finished and all of it is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Finished && self.renditions.iter().all(RenditionState::is_whole)
    }

    /// How many segments are here, of all renditions.
    #[must_use]
    pub fn segment_count(&self) -> u64 {
        self.renditions.iter().map(|r| r.present).sum()
    }

    /// Bytes that are here, of all renditions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.renditions.iter().map(|r| r.present_bytes).sum()
    }

    /// The number of the rendition of that name.
    #[must_use]
    pub fn rendition_no(&self, name: &str) -> Option<u16> {
        let at = self
            .renditions
            .iter()
            .position(|r| r.info.name.as_str() == name)?;
        u16::try_from(at).ok()
    }
}

/// A number for [`Content::generation`].
pub(in crate::store) fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A content as it is written in the index.
#[derive(Serialize, Deserialize)]
struct ContentRow<'a> {
    // Borrowed where nothing is escaped: all rows are read at each start.
    #[serde(borrow)]
    publisher: Cow<'a, str>,
    #[serde(borrow)]
    content_id: Cow<'a, str>,
    version: u32,
    #[serde(borrow)]
    title: Cow<'a, str>,
    priority: Priority,
    created_us: u64,
    ttl_seconds: u64,
    expires_us: u64,
    hold_until_us: Option<u64>,
    last_arrival_us: u64,
    target_duration: u32,
    state: State,
    superseded: bool,
    pinned: bool,
    #[serde(default)]
    held_bytes: u64,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    manifest: Option<ManifestRow<'a>>,
    #[serde(borrow)]
    renditions: Vec<RenditionRow<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ManifestRow<'a> {
    #[serde(borrow)]
    hash: Cow<'a, str>,
    created_us: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct RenditionRow<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    mime: Cow<'a, str>,
    bandwidth: u64,
    average_bandwidth: u64,
    #[serde(borrow)]
    codecs: Cow<'a, str>,
    width: u32,
    height: u32,
    frame_rate_milli: u32,
    inits: u64,
    first_at_end: u64,
    segments: u64,
    duration: u64,
    bytes: u64,
    first: u64,
    discontinuities_gone: u64,
    next: u64,
    #[serde(default)]
    reached: Option<u64>,
    present: u64,
    present_duration: u64,
    present_bytes: u64,
}

impl Content {
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let row = ContentRow {
            publisher: self.key.publisher.to_string().into(),
            content_id: self.key.content_id.as_str().into(),
            version: self.key.version,
            title: self.title.as_str().into(),
            priority: self.priority,
            created_us: self.created.0,
            ttl_seconds: self.ttl.as_secs(),
            expires_us: self.expires.0,
            hold_until_us: self.hold_until.map(|time| time.0),
            last_arrival_us: self.last_arrival.0,
            target_duration: self.target_duration,
            state: self.state,
            superseded: self.superseded,
            pinned: self.pinned,
            held_bytes: self.held_bytes,
            source: self.source.as_str().into(),
            manifest: self.manifest.as_deref().map(ManifestRow::of),
            renditions: self.renditions.iter().map(RenditionRow::of).collect(),
        };
        serde_json::to_vec(&row).unwrap_or_default()
    }

    pub(in crate::store) fn decode(no: u64, bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = |what: String| StoreError::Index(format!("content {no}: {what}"));
        let row: ContentRow<'_> =
            serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        let key = ContentKey {
            // It was checked when it came: that it is on the curve takes longer than all else here.
            publisher: PublisherKey::from_hex_unchecked(&row.publisher)
                .ok_or_else(|| damaged("publisher".into()))?,
            content_id: ContentId::new(&row.content_id).map_err(|e| damaged(e.to_string()))?,
            version: row.version,
        };
        // Exactly as long: what is collected from results has room for four.
        let mut renditions = Vec::with_capacity(row.renditions.len());
        for rendition in row.renditions {
            renditions.push(rendition.read().map_err(damaged)?);
        }
        Ok(Self {
            no,
            key,
            title: row.title.into_owned(),
            priority: row.priority,
            created: Time(row.created_us),
            ttl: Duration::from_secs(row.ttl_seconds),
            expires: Time(row.expires_us),
            hold_until: row.hold_until_us.map(Time),
            last_arrival: Time(row.last_arrival_us),
            target_duration: row.target_duration,
            state: row.state,
            superseded: row.superseded,
            pinned: row.pinned,
            held_bytes: row.held_bytes,
            source: row.source.into_owned(),
            manifest: row.manifest.and_then(ManifestRow::read).map(Arc::new),
            renditions,
            generation: next_generation(),
        })
    }
}

impl ManifestRow<'_> {
    fn of(facts: &ManifestFacts) -> Self {
        Self {
            hash: Root(facts.hash).to_string().into(),
            created_us: facts.created.0,
            to: facts.to.iter().map(PublisherKey::to_string).collect(),
        }
    }

    /// Nothing when it is damaged: then the file is asked.
    fn read(self) -> Option<ManifestFacts> {
        let to = self.to.iter();
        let to: Option<_> = to
            .map(|key| PublisherKey::from_hex_unchecked(key))
            .collect();
        Some(ManifestFacts {
            hash: self.hash.parse::<Root>().ok()?.0,
            created: Time(self.created_us),
            to: to?,
        })
    }
}

impl<'a> RenditionRow<'a> {
    fn of(state: &'a RenditionState) -> Self {
        let info = &state.info;
        Self {
            name: info.name.as_str().into(),
            mime: info.mime.to_string().into(),
            bandwidth: info.bandwidth,
            average_bandwidth: info.average_bandwidth,
            codecs: info.codecs.as_str().into(),
            width: info.width,
            height: info.height,
            frame_rate_milli: info.frame_rate_milli,
            inits: info.inits,
            first_at_end: info.first,
            segments: info.segments,
            duration: info.duration,
            bytes: info.bytes,
            first: state.first,
            discontinuities_gone: state.discontinuities_gone,
            next: state.next,
            reached: Some(state.reached),
            present: state.present,
            present_duration: state.present_duration,
            present_bytes: state.present_bytes,
        }
    }

    fn read(self) -> Result<RenditionState, String> {
        let name = Rendition::new(&self.name).map_err(|error| error.to_string())?;
        let mime = self.mime.parse().map_err(|_| "MIME type".to_owned())?;
        Ok(RenditionState {
            info: RenditionInfo {
                name,
                mime,
                bandwidth: self.bandwidth,
                average_bandwidth: self.average_bandwidth,
                codecs: self.codecs.into_owned(),
                width: self.width,
                height: self.height,
                frame_rate_milli: self.frame_rate_milli,
                inits: self.inits,
                first: self.first_at_end,
                segments: self.segments,
                duration: self.duration,
                bytes: self.bytes,
            },
            first: self.first,
            discontinuities_gone: self.discontinuities_gone,
            next: self.next,
            reached: self.reached.unwrap_or(self.next),
            present: self.present,
            present_duration: self.present_duration,
            present_bytes: self.present_bytes,
        })
    }
}
