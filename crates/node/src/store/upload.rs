//! Uploads: segments of one content that become visible all at once, or not at all.
//!
//! Segments wait in `incoming/`, so whatever ends the process removes them. Their files are
//! flushed in the background while the next ones come, so that a commit waits for the last only.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use lavant_proto::content::{Kind, Proof, clean_title};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Root};
use lavant_proto::limits::{MANIFEST_RECORDS_MAX, RENDITIONS_MAX};
use lavant_proto::relay::evict::Standing;
use lavant_proto::time::Time;

use super::append::check_payload;
use super::catalog::{Catalog, Content, State};
use super::disk::DiskFile;
use super::engine::Store;
use super::error::StoreError;
use super::flush::Flusher;
use super::insert::{INITS_MAX, check_date, like_this, refuse_look_alike};
use super::locked::lock;
use super::payload;
use super::uploads::{
    NewUpload, Place, StagedSegment, Upload, UploadInfo, UploadProgress, UploadSegment, Uploads,
};

/// Most uploads at a time.
const UPLOADS_MAX: usize = 16;
/// Longest fingerprint of a source, in bytes.
const SOURCE_BYTES_MAX: usize = 200;

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
        let unwritten = |error| self.shared.unwritten("write a segment", error);
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
