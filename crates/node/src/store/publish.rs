//! Publishing a finished content: an upload's commit, or the end of a growing one.

use std::path::PathBuf;

use lavant_proto::content::{
    Kind, Leaf, Manifest, Priority, RenditionInfo, SegmentRecord, SignedManifest, Unverified,
    Verified, merkle_root,
};
use lavant_proto::ids::{ContentKey, Signature, SigningKey};

use super::change::Change;
use super::convert::{content_from, rounded_seconds};
use super::engine::Store;
use super::error::StoreError;
use super::insert::check_new_id;
use super::limit::Claim;
use super::locked::lock;
use super::room::{self, Wanted};
use super::rows::{SegmentKey, SegmentRow};
use super::supersede::supersede;
use super::tx::Tx;
use super::uploads::{Commit, CommitRendition, StagedSegment, Upload};

impl Store {
    /// Publishes an upload: all of it is visible and durable, or nothing. Blocks.
    ///
    /// A commit that is refused or fails leaves the upload as it was, so that it can be tried again
    /// when what was missing is there; but an upload whose files could not be flushed, or whose
    /// version was published meanwhile, is rolled back.
    pub fn commit_upload(&self, id: &str, commit: Commit) -> Result<ContentKey, StoreError> {
        let mut upload = {
            let mut uploads = lock(&self.uploads);
            check_commit(uploads.get(id)?, &commit)?;
            uploads.begin_commit(id)?
        };
        let manifest = self.manifest_of(&upload, &commit);
        let flushed = upload.flush();
        let hopeless = flushed.is_err();
        let published = flushed
            .and(manifest)
            .and_then(|(manifest, rows)| self.publish(&upload, manifest, rows));
        lock(&self.uploads).end_commit(&upload.content);
        match published {
            Err(error) if hopeless || matches!(error, StoreError::Conflict(_)) => {
                self.discard(upload);
                Err(error)
            }
            Err(error) => {
                lock(&self.uploads).put_back(id.to_owned(), upload);
                Err(error)
            }
            Ok(()) => Ok(upload.content.clone()),
        }
    }

    fn manifest_of(
        &self,
        upload: &Upload,
        commit: &Commit,
    ) -> Result<(Verified<SignedManifest>, Vec<StagedRow>), StoreError> {
        let leaf = |segment: &StagedSegment| {
            let record = SegmentRecord {
                target_duration: commit.target_duration,
                ..segment.record.clone()
            };
            record.leaf()
        };
        let leaves: Vec<Leaf> = upload.segments.values().map(leaf).collect();
        let manifest = Manifest {
            content: upload.content.clone(),
            title: upload.new.title.clone(),
            priority: upload.new.priority,
            created: upload.created,
            ttl: upload.ttl,
            target_duration: commit.target_duration,
            to: upload.new.to.clone(),
            renditions: commit.renditions.iter().map(|r| row(upload, r)).collect(),
            records_root: merkle_root(&leaves),
        };
        let signed = sign_or_check(&self.key, manifest, leaves, commit.signature)?;
        Ok((signed, staged_rows(upload)))
    }

    fn publish(
        &self,
        upload: &Upload,
        signed: Verified<SignedManifest>,
        staged: Vec<StagedRow>,
    ) -> Result<(), StoreError> {
        let bytes = upload.disk_bytes();
        let (source, pinned) = (upload.new.source.clone(), upload.new.pin);
        let rows = staged.iter().map(|(_, row, _)| row);
        let draft = self.draft_manifest(&signed, rows)?;
        let file = draft.path().to_owned();
        let published = self.write(move |tx| {
            let manifest = &signed.manifest;
            check_new_id(
                tx,
                &manifest.content.publisher,
                &manifest.content.content_id,
            )?;
            check_version(tx, &manifest.content)?;
            take_staged(tx, bytes, manifest.priority)?;
            let no = tx.next_content_no()?;
            let mut content = content_from(no, manifest, tx.now(), source, pinned);
            tx.put_manifest(&mut content, &signed, file);
            content.pinned |= supersede(tx, &content)?;
            if content.pinned {
                tx.pin(&content.key);
            }
            tx.tell(Change::Admitted { content_no: no });
            for (place, row, file) in staged {
                let key = SegmentKey {
                    content_no: no,
                    ..place
                };
                tx.enter(&mut content, (key, &row), (None, true), Some(file))?;
            }
            tx.put_content(content)
        });
        draft.settle(published.is_ok());
        published
    }
}

/// Refuses a version that is here, or older than one that is.
fn check_version(tx: &Tx<'_>, key: &ContentKey) -> Result<(), StoreError> {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = key;
    let same = tx.catalog().versions(publisher, content_id);
    match same.map(|content| content.key.version).max() {
        Some(newest) if newest >= *version => Err(StoreError::Conflict(format!(
            "version {newest} of {:?} was published meanwhile; ingest again",
            content_id.as_str()
        ))),
        _ => Ok(()),
    }
}

/// Makes room for an upload's bytes, which so far count as staged.
fn take_staged(tx: &mut Tx<'_>, bytes: u64, priority: Priority) -> Result<(), StoreError> {
    tx.unstage(bytes);
    let made = room::make_room(tx, Wanted::bytes(bytes), &Claim::own(priority));
    if made.is_err() {
        tx.restage(bytes);
    }
    made
}

/// The node signs what is its own; what is another publisher's must come signed.
pub(super) fn sign_or_check(
    key: &SigningKey,
    manifest: Manifest,
    leaves: Vec<Leaf>,
    signature: Option<Signature>,
) -> Result<Verified<SignedManifest>, StoreError> {
    let invalid = |error: &dyn std::fmt::Display| StoreError::Invalid(error.to_string());
    let signature = match signature {
        Some(signature) => signature,
        None => manifest.sign(key).map_err(|_| {
            invalid(&"this content is another publisher's: commit it with a signature by its key")
        })?,
    };
    // Decoding applies every limit to what will be signed or stored.
    let claim: Unverified<Manifest> =
        Manifest::decode(&manifest.encode()).map_err(|error| invalid(&error))?;
    claim
        .verify(signature, leaves)
        .map_err(|error| invalid(&error))
}

/// Refuses a commit when a segment is missing or too long.
fn check_commit(upload: &Upload, commit: &Commit) -> Result<(), StoreError> {
    let ours = upload.new.renditions.iter().map(|(name, _)| name);
    if !commit.renditions.iter().map(|r| &r.name).eq(ours) {
        return Err(StoreError::Invalid(
            "a commit must list the renditions of its upload, in the same order".into(),
        ));
    }
    for (no, rendition) in commit.renditions.iter().enumerate() {
        let name = &rendition.name;
        if rendition.segments == 0 {
            return Err(StoreError::Invalid(format!(
                "rendition {name} has no segment"
            )));
        }
        for (kind, wanted) in [
            (Kind::Init, rendition.inits),
            (Kind::Media, rendition.segments),
        ] {
            check_count(upload, (no as u16, kind), wanted, name.as_str())?;
        }
    }
    for ((.., sequence), segment) in &upload.segments {
        if rounded_seconds(segment.record.duration) > u64::from(commit.target_duration) {
            return Err(StoreError::Invalid(format!(
                "segment {sequence} of {} is longer than the target duration of {} s",
                segment.rendition, commit.target_duration
            )));
        }
    }
    Ok(())
}

fn check_count(
    upload: &Upload,
    (no, kind): (u16, Kind),
    wanted: u64,
    name: &str,
) -> Result<(), StoreError> {
    let what = if kind == Kind::Init {
        "init segment"
    } else {
        "segment"
    };
    let held = upload.segments.range((no, kind, 0)..=(no, kind, u64::MAX));
    let mut expected = 0;
    for ((.., sequence), segment) in held {
        if *sequence != expected {
            break;
        }
        let needs = segment.record.mime.needs_init() && kind == Kind::Media;
        let init = segment.record.init.map(|init| (no, Kind::Init, init));
        if needs && !init.is_some_and(|place| upload.segments.contains_key(&place)) {
            return Err(StoreError::Conflict(format!(
                "segment {sequence} of {name} names no init segment that is here"
            )));
        }
        expected += 1;
    }
    let last = upload
        .segments
        .range((no, kind, 0)..=(no, kind, u64::MAX))
        .next_back();
    if expected < wanted {
        return Err(StoreError::Conflict(format!(
            "{what} {expected} of {name} is missing ({wanted} were announced)"
        )));
    }
    if last.is_some_and(|((.., sequence), _)| *sequence >= wanted) {
        return Err(StoreError::Conflict(format!(
            "more than the {wanted} announced {what}s of {name} are here"
        )));
    }
    Ok(())
}

fn row(upload: &Upload, rendition: &CommitRendition) -> RenditionInfo {
    let media = upload
        .segments
        .iter()
        .filter(|((_, kind, _), s)| *kind == Kind::Media && s.rendition == rendition.name);
    let (mut duration, mut bytes) = (0, 0);
    for (_, segment) in media {
        duration += segment.record.duration;
        bytes += segment.record.length;
    }
    let mime = upload
        .new
        .renditions
        .iter()
        .find(|(name, _)| *name == rendition.name);
    RenditionInfo {
        name: rendition.name.clone(),
        mime: mime.map_or(
            lavant_proto::content::MimeType::TransportStream,
            |(_, mime)| *mime,
        ),
        bandwidth: rendition.bandwidth,
        average_bandwidth: rendition.average_bandwidth,
        codecs: rendition.codecs.clone(),
        width: rendition.width,
        height: rendition.height,
        frame_rate_milli: rendition.frame_rate_milli,
        inits: rendition.inits,
        first: 0,
        segments: rendition.segments,
        duration,
        bytes,
    }
}

type StagedRow = (SegmentKey, SegmentRow, PathBuf);

/// The staged segments, in the order of the manifest.
fn staged_rows(upload: &Upload) -> Vec<StagedRow> {
    let rows = upload
        .segments
        .iter()
        .map(|((rendition_no, kind, sequence), segment)| {
            let key = SegmentKey {
                content_no: 0,
                rendition_no: *rendition_no,
                kind: *kind,
                sequence: *sequence,
            };
            let SegmentRecord {
                duration,
                discontinuity,
                independent,
                init,
                length,
                root,
                ..
            } = segment.record;
            let (created, ttl) = (upload.created, upload.ttl);
            let row = SegmentRow {
                duration,
                discontinuity,
                independent,
                init,
                created,
                ttl,
                length,
                root,
                present: true,
                copies: 0,
                arrived: None,
                signature: None,
            };
            (key, row, segment.file.clone())
        });
    rows.collect()
}
