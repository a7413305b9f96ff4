//! The uploads of a store: what waits to become visible all at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, Priority, SegmentRecord};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition, Root, Signature};
use lavant_proto::limits::TARGET_SECONDS_MAX;
use lavant_proto::time::Time;

use super::error::StoreError;
use super::flush::Flusher;

/// What an upload is to become.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// The id wanted; made from the title when absent.
    pub content_id: Option<ContentId>,
    /// Title of the content.
    pub title: String,
    /// Priority of the content.
    pub priority: Priority,
    /// Who signs; the node when absent.
    pub publisher: Option<PublisherKey>,
    /// What it is made from, so that the same thing is not published twice.
    pub source: String,
    /// How long the content will be, when known.
    pub expected_seconds: Option<f64>,
    /// Names and types of its renditions.
    pub renditions: Vec<(Rendition, MimeType)>,
    /// Whether it is to be pinned.
    pub pin: bool,
    /// The nodes that it is for, in the order of their keys; everybody when there are none.
    pub to: Vec<PublisherKey>,
}

/// A segment of an upload, on its way in.
#[derive(Clone, Debug)]
pub struct UploadSegment {
    /// Name of its rendition.
    pub rendition: String,
    /// Media or init.
    pub kind: Kind,
    /// Position in the rendition.
    pub sequence: u64,
    /// Ticks of 90 kHz.
    pub duration: u64,
    /// Whether it starts anew.
    pub discontinuity: bool,
    /// The init segment that it needs.
    pub init: Option<u64>,
    /// The bytes.
    pub payload: Bytes,
}

/// A segment that an upload holds.
#[derive(Clone, Debug)]
pub struct StagedSegment {
    /// Name of its rendition.
    pub rendition: Rendition,
    /// Its record, as the manifest will count it but for the target duration, which is known with
    /// the commit.
    pub record: SegmentRecord,
    pub(super) file: PathBuf,
}

/// What a client needs to know of its upload.
#[derive(Clone, Debug)]
pub struct UploadInfo {
    /// Its name: 32 hex digits.
    pub id: String,
    /// Publisher, id and version that the content will have.
    pub content: ContentKey,
    /// Title of the content.
    pub title: String,
    /// Priority of the content.
    pub priority: Priority,
    /// When it is said to be made.
    pub created: Time,
    /// Its time to live.
    pub ttl: Duration,
    /// Whether an unfinished upload was taken up again.
    pub resumed: bool,
    /// What it holds.
    pub segments: Vec<StagedSegment>,
}

/// How far an upload is.
#[derive(Clone, Debug)]
pub struct UploadProgress {
    /// Its name.
    pub id: String,
    /// Id that the content will have.
    pub content_id: ContentId,
    /// Title of the content.
    pub title: String,
    /// Media segments held.
    pub segments: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Media time held, of the rendition that is ahead, in seconds.
    pub seconds: f64,
    /// How long it will be, when known.
    pub expected_seconds: Option<f64>,
    /// Time since the last segment came.
    pub idle: Duration,
}

/// What closes an upload.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Ceiling of durations in whole seconds.
    pub target_duration: u32,
    /// What the master playlist says, and how many segments there are.
    pub renditions: Vec<CommitRendition>,
    /// The publisher's signature over the manifest, unless the node signs.
    pub signature: Option<Signature>,
}

/// One rendition of a [`Commit`].
#[derive(Clone, Debug)]
pub struct CommitRendition {
    /// Its name.
    pub name: Rendition,
    /// Highest bit rate, in bit/s.
    pub bandwidth: u64,
    /// Mean bit rate, in bit/s.
    pub average_bandwidth: u64,
    /// RFC 6381 codec strings.
    pub codecs: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames per 1000 seconds.
    pub frame_rate_milli: u32,
    /// Number of init segments.
    pub inits: u64,
    /// Number of segments.
    pub segments: u64,
}

/// Place of a segment in an upload.
pub(super) type Place = (u16, Kind, u64);

/// One upload.
pub(super) struct Upload {
    pub(super) new: NewUpload,
    pub(super) content: ContentKey,
    pub(super) created: Time,
    pub(super) ttl: Duration,
    pub(super) segments: BTreeMap<Place, StagedSegment>,
    /// Bytes of the files of its segments.
    pub(super) bytes: u64,
    pub(super) touched: Instant,
    pub(super) flusher: Flusher,
}

/// All uploads of a store.
#[derive(Default)]
pub(super) struct Uploads {
    pub(super) open: BTreeMap<String, Upload>,
    /// What the uploads that are being committed will be.
    pub(super) committing: Vec<ContentKey>,
}

impl Uploads {
    pub(super) fn get(&self, id: &str) -> Result<&Upload, StoreError> {
        self.open.get(id).ok_or_else(|| not_found(id))
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Result<&mut Upload, StoreError> {
        self.open.get_mut(id).ok_or_else(|| not_found(id))
    }

    pub(super) fn take(&mut self, id: &str) -> Result<Upload, StoreError> {
        self.open.remove(id).ok_or_else(|| not_found(id))
    }

    /// Takes an upload out for a commit; its version stays taken until [`Uploads::end_commit`].
    pub(super) fn begin_commit(&mut self, id: &str) -> Result<Upload, StoreError> {
        let upload = self.take(id)?;
        self.committing.push(upload.content.clone());
        Ok(upload)
    }

    pub(super) fn end_commit(&mut self, content: &ContentKey) {
        self.committing.retain(|other| other != content);
    }

    pub(super) fn put_back(&mut self, id: String, mut upload: Upload) {
        upload.touched = Instant::now();
        self.open.insert(id, upload);
    }

    pub(super) fn same(&self, new: &NewUpload, publisher: PublisherKey) -> Option<&str> {
        let same = |upload: &Upload| {
            !new.source.is_empty()
                && upload.new.source == new.source
                && upload.content.publisher == publisher
                && upload.new.title == new.title
                && upload.new.priority == new.priority
                && upload.new.content_id == new.content_id
                && upload.new.renditions == new.renditions
        };
        self.open
            .iter()
            .find(|(_, upload)| same(upload))
            .map(|(id, _)| id.as_str())
    }
}

impl Upload {
    pub(super) fn disk_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn info(&self, id: &str, resumed: bool) -> UploadInfo {
        UploadInfo {
            id: id.to_owned(),
            content: self.content.clone(),
            title: self.new.title.clone(),
            priority: self.new.priority,
            created: self.created,
            ttl: self.ttl,
            resumed,
            segments: self.segments.values().cloned().collect(),
        }
    }

    pub(super) fn progress(&self, id: &str) -> UploadProgress {
        let media = self
            .segments
            .iter()
            .filter(|((_, kind, _), _)| *kind == Kind::Media);
        let mut ticks = vec![0; self.new.renditions.len()];
        let mut segments = 0;
        for ((rendition_no, ..), segment) in media {
            ticks[usize::from(*rendition_no)] += segment.record.duration;
            segments += 1;
        }
        let ahead = ticks.into_iter().max().unwrap_or_default();
        UploadProgress {
            id: id.to_owned(),
            content_id: self.content.content_id.clone(),
            title: self.new.title.clone(),
            segments,
            bytes: self.segments.values().map(|s| s.record.length).sum(),
            seconds: lavant_proto::time::ticks_to_seconds(ahead),
            expected_seconds: self.new.expected_seconds,
            idle: self.touched.elapsed(),
        }
    }

    /// Waits until every file is durable.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        self.flusher.finish()
    }

    pub(super) fn record(
        &self,
        segment: &UploadSegment,
        rendition_no: usize,
        root: Root,
    ) -> SegmentRecord {
        let (rendition, mime) = &self.new.renditions[rendition_no];
        SegmentRecord {
            content: self.content.clone(),
            title: self.new.title.clone(),
            // What any segment fits; the commit says what it is.
            target_duration: TARGET_SECONDS_MAX as u32,
            rendition: rendition.clone(),
            kind: segment.kind,
            sequence: segment.sequence,
            duration: segment.duration,
            discontinuity: segment.discontinuity,
            independent: true,
            init: segment.init,
            mime: *mime,
            priority: self.new.priority,
            created: self.created,
            ttl: self.ttl,
            length: segment.payload.len() as u64,
            root,
        }
    }
}

fn not_found(id: &str) -> StoreError {
    let id: String = id.chars().take(40).collect();
    StoreError::NotFound(format!(
        "upload {id:?} (it was committed, rolled back, or the node was restarted; ingest again)"
    ))
}
