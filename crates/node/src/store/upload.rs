//! Uploads: segments of one content that become visible all at once, or not at all.
//!
//! Segments wait in `incoming/`, so whatever ends the process removes them. Their files are
//! flushed in the background while the next ones come, so that a commit waits for the last only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, Priority, Proof, SegmentRecord, clean_title};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition, Root, Signature};
use lavant_proto::limits::{MANIFEST_RECORDS_MAX, RENDITIONS_MAX, TARGET_SECONDS_MAX};
use lavant_proto::relay::evict::Standing;
use lavant_proto::time::Time;

use super::append::check_payload;
use super::catalog::{Catalog, Content, State};
use super::disk::DiskFile;
use super::error::StoreError;
use super::flush::Flusher;
use super::insert::{INITS_MAX, check_date, like_this, refuse_look_alike};
use super::{Store, lock, payload};

/// Most uploads at a time.
const UPLOADS_MAX: usize = 16;
/// Longest fingerprint of a source, in bytes.
const SOURCE_BYTES_MAX: usize = 200;

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
    bytes: u64,
    touched: Instant,
    flusher: Flusher,
}

/// All uploads of a store.
#[derive(Default)]
pub(super) struct Uploads {
    open: BTreeMap<String, Upload>,
    /// What the uploads that are being committed will be.
    committing: Vec<ContentKey>,
}

impl Uploads {
    pub(super) fn get(&self, id: &str) -> Result<&Upload, StoreError> {
        self.open.get(id).ok_or_else(|| not_found(id))
    }

    fn get_mut(&mut self, id: &str) -> Result<&mut Upload, StoreError> {
        self.open.get_mut(id).ok_or_else(|| not_found(id))
    }

    fn take(&mut self, id: &str) -> Result<Upload, StoreError> {
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

    fn same(&self, new: &NewUpload, publisher: PublisherKey) -> Option<&str> {
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

    fn info(&self, id: &str, resumed: bool) -> UploadInfo {
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

    fn progress(&self, id: &str) -> UploadProgress {
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

    fn record(&self, segment: &UploadSegment, rendition_no: usize, root: Root) -> SegmentRecord {
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

impl Store {
    /// Begins an upload, or takes up the one of the same source. `id` is 32 fresh hex digits.
    pub fn begin_upload(&self, id: &str, mut new: NewUpload) -> Result<UploadInfo, StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        check_new(&mut new)?;
        let publisher = new.publisher.unwrap_or_else(|| self.publisher());
        let catalog = self.catalog();
        refuse_published(&catalog, &new, publisher)?;
        let mut uploads = lock(&self.uploads);
        if let Some(id) = uploads.same(&new, publisher).map(str::to_owned) {
            let upload = uploads.get_mut(&id)?;
            upload.touched = Instant::now();
            (upload.new.pin, upload.new.expected_seconds) = (new.pin, new.expected_seconds);
            return Ok(upload.info(&id, true));
        }
        if uploads.open.len() >= UPLOADS_MAX {
            return Err(StoreError::Busy(format!(
                "{UPLOADS_MAX} uploads are running, which is the limit; try again when one is done"
            )));
        }
        let content_id = choose_id(&catalog, &new, publisher)?;
        let before = self.highest_version(&publisher, &content_id)?;
        let version = next_version(&catalog, &uploads, publisher, &content_id, before);
        let before = catalog.find(Some(&publisher), &content_id, None);
        let not_before = before.map_or(Time(0), |content| content.last_arrival);
        let now = self.settings().clock.now();
        let created = now.max(not_before);
        check_date(created, now, &content_id)?;
        let upload = Upload {
            content: ContentKey {
                publisher,
                content_id,
                version,
            },
            created,
            ttl: self.settings().ttl_of(new.priority),
            new,
            segments: BTreeMap::new(),
            bytes: 0,
            touched: Instant::now(),
            flusher: Flusher::default(),
        };
        let info = upload.info(id, false);
        uploads.open.insert(id.to_owned(), upload);
        drop(uploads);
        self.changed();
        Ok(info)
    }

    /// Adds a segment to an upload. Blocks. Returns its root and whether it was new.
    pub fn stage(&self, id: &str, segment: UploadSegment) -> Result<(Root, bool), StoreError> {
        self.shared
            .check_disk(segment.payload.len() as u64, Standing::Own)?;
        let unwritten = |error| StoreError::io("write a segment", &error);
        let (place, priority) = {
            let uploads = lock(&self.uploads);
            let upload = uploads.get(id)?;
            let rendition_no = rendition_no(upload, &segment.rendition)?;
            check_staged(upload, &segment)?;
            let place = (rendition_no as u16, segment.kind, segment.sequence);
            (place, upload.new.priority)
        };
        let length = segment.payload.len() as u64;
        let bytes = payload::disk_bytes(length);
        self.shared.drop_strangers(bytes, priority);
        self.reserve(payload::disk_bytes(length), priority)?;
        let path = self.incoming_file();
        let draft = payload::Draft::write(&self.settings().disk, &path, &segment.payload);
        let draft = draft.map_err(unwritten)?;
        let root = draft.root();
        let record = {
            let uploads = lock(&self.uploads);
            let upload = uploads.get(id)?;
            let record = upload.record(&segment, usize::from(place.0), root);
            let held = upload.segments.get(&place);
            if held.is_some_and(|held| held.record == record) {
                return Ok((root, false));
            }
            record
        };
        let file = draft.finish(&record, &Proof::Manifest).map_err(unwritten)?;
        let staged = StagedSegment {
            rendition: record.rendition.clone(),
            record,
            file: path.clone(),
        };
        match self.hold(id, place, staged) {
            Ok(queue) => {
                let _ = queue.send(file);
            }
            Err(error) => {
                let _ = self.settings().disk.files.remove(&path);
                return Err(error);
            }
        }
        self.changed();
        Ok((root, true))
    }

    /// Enters a written segment into its upload. Returns where its file is flushed.
    fn hold(
        &self,
        id: &str,
        place: Place,
        staged: StagedSegment,
    ) -> Result<SyncSender<DiskFile>, StoreError> {
        let mut uploads = lock(&self.uploads);
        let upload = uploads.get_mut(id)?;
        let queue = upload.flusher.queue()?;
        let bytes = payload::disk_bytes(staged.record.length);
        upload.bytes += bytes;
        self.shared.staged.fetch_add(bytes, Ordering::AcqRel);
        if let Some(old) = upload.segments.insert(place, staged) {
            let bytes = payload::disk_bytes(old.record.length);
            upload.bytes -= bytes;
            self.shared.staged.fetch_sub(bytes, Ordering::AcqRel);
            let _ = self.settings().disk.files.remove(&old.file);
        }
        upload.touched = Instant::now();
        Ok(queue)
    }

    /// What an upload holds.
    pub fn upload(&self, id: &str) -> Result<UploadInfo, StoreError> {
        lock(&self.uploads)
            .get(id)
            .map(|upload| upload.info(id, true))
    }

    /// How far all uploads are.
    #[must_use]
    pub fn upload_progress(&self) -> Vec<UploadProgress> {
        lock(&self.uploads)
            .open
            .iter()
            .map(|(id, upload)| upload.progress(id))
            .collect()
    }

    /// Rolls an upload back.
    pub fn abort_upload(&self, id: &str) -> Result<(), StoreError> {
        let upload = lock(&self.uploads).take(id)?;
        self.discard(upload);
        Ok(())
    }

    /// Rolls back uploads to which nothing came for a long time.
    pub fn abort_idle_uploads(&self) {
        let limit = self.settings().upload_idle;
        let idle: Vec<String> = {
            let uploads = lock(&self.uploads);
            let idle = uploads
                .open
                .iter()
                .filter(|(_, upload)| upload.touched.elapsed() >= limit);
            idle.map(|(id, _)| id.clone()).collect()
        };
        for id in idle {
            tracing::warn!(id, "an upload was idle for too long and is rolled back");
            let _ = self.abort_upload(&id);
        }
    }

    pub(super) fn discard(&self, upload: Upload) {
        for segment in upload.segments.values() {
            let _ = self.settings().disk.files.remove(&segment.file);
        }
        self.shared.staged.fetch_sub(upload.bytes, Ordering::AcqRel);
        self.changed();
    }

    pub(super) fn changed(&self) {
        self.shared.changes.send_modify(|changes| *changes += 1);
    }
}

fn check_new(new: &mut NewUpload) -> Result<(), StoreError> {
    new.title = clean_title(&new.title);
    if new.title.is_empty() {
        return Err(StoreError::Invalid("a title must not be empty".into()));
    }
    if new.source.len() > SOURCE_BYTES_MAX {
        return Err(StoreError::Invalid(format!(
            "source has at most {SOURCE_BYTES_MAX} bytes"
        )));
    }
    if new.renditions.is_empty() || new.renditions.len() > RENDITIONS_MAX {
        return Err(StoreError::Invalid(format!(
            "a content has 1 to {RENDITIONS_MAX} renditions"
        )));
    }
    let mut names: Vec<_> = new.renditions.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StoreError::Invalid(
            "two renditions have the same name".into(),
        ));
    }
    Ok(())
}

/// The same source under the same name is not published a second time.
fn refuse_published(
    catalog: &Catalog,
    new: &NewUpload,
    publisher: PublisherKey,
) -> Result<(), StoreError> {
    let same = |content: &&std::sync::Arc<Content>| {
        !content.superseded
            && content.key.publisher == publisher
            && content.title == new.title
            && new
                .content_id
                .as_ref()
                .is_none_or(|id| *id == content.key.content_id)
            && content.is_complete()
    };
    let Some(content) = catalog.made_from(&new.source).find(same) else {
        return Ok(());
    };
    Err(StoreError::Published {
        content_id: content.key.content_id.to_string(),
        version: content.key.version,
    })
}

fn choose_id(
    catalog: &Catalog,
    new: &NewUpload,
    publisher: PublisherKey,
) -> Result<ContentId, StoreError> {
    if let Some(id) = &new.content_id {
        refuse_look_alike(catalog, &publisher, id)?;
        return Ok(id.clone());
    }
    let id = ContentId::from_title(&new.title);
    let taken = catalog
        .find(Some(&publisher), &id, None)
        .is_some_and(|content| content.title != new.title || content.state == State::Open);
    if taken || like_this(catalog, &publisher, &id).is_some() {
        return Ok(id.distinguished(&new.title));
    }
    Ok(id)
}

fn next_version(
    catalog: &Catalog,
    uploads: &Uploads,
    publisher: PublisherKey,
    id: &ContentId,
    before: u32,
) -> u32 {
    let published = catalog.versions(&publisher, id);
    let published = published.map(|content| &content.key);
    let open = uploads.open.values().map(|upload| &upload.content);
    let coming = open.chain(&uploads.committing);
    let same = coming.filter(|key| key.publisher == publisher && key.content_id == *id);
    published
        .chain(same)
        .map(|key| key.version)
        .fold(before, u32::max)
        .saturating_add(1)
}

fn rendition_no(upload: &Upload, name: &str) -> Result<usize, StoreError> {
    let at = upload
        .new
        .renditions
        .iter()
        .position(|(rendition, _)| rendition.as_str() == name);
    at.ok_or_else(|| StoreError::NotFound(format!("rendition {name:?} of this upload")))
}

fn check_staged(upload: &Upload, segment: &UploadSegment) -> Result<(), StoreError> {
    check_payload(segment.payload.len() as u64, segment.duration, segment.init)?;
    if segment.kind == Kind::Init && segment.sequence >= INITS_MAX {
        return Err(StoreError::Invalid(format!(
            "init segments are numbered below {INITS_MAX}"
        )));
    }
    let most = MANIFEST_RECORDS_MAX as u64;
    if segment.sequence >= most || upload.segments.len() as u64 >= most {
        return Err(StoreError::Invalid(format!(
            "a content has at most {most} segments"
        )));
    }
    Ok(())
}
