//! Publishing a finished content: an upload's commit, or the end of a growing one.

use std::path::PathBuf;

use lavant_proto::content::{
    Kind, Leaf, Manifest, Priority, RenditionInfo, SegmentRecord, SignedManifest, Unverified,
    Verified, merkle_root,
};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Signature, SigningKey};
use lavant_proto::time::TICKS_PER_SECOND;

use super::catalog::{Content, RenditionState, State};
use super::change::Change;
use super::convert::{bits_per_second, content_from, record_of};
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
        self.write(move |tx| {
            let manifest = &signed.manifest;
            check_new_id(
                tx,
                &manifest.content.publisher,
                &manifest.content.content_id,
            )?;
            check_version(tx, &manifest.content)?;
            take_staged(tx, bytes, manifest.priority)?;
            let no = tx.next_content_no()?;
            let rows: Vec<SegmentRow> = staged.iter().map(|(_, row, _)| row.clone()).collect();
            let mut content = content_from(no, manifest, tx.now(), source, pinned);
            tx.put_manifest(&mut content, &signed, &rows);
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
        })
    }

    /// Ends a growing content of the node's own, for everybody. Blocks.
    pub fn finish(&self, id: &ContentId) -> Result<ContentKey, StoreError> {
        self.finish_for(id, Vec::new())
    }

    /// Ends a growing content of the node's own, for these nodes; for everybody when there are
    /// none. Blocks.
    pub fn finish_for(
        &self,
        id: &ContentId,
        to: Vec<PublisherKey>,
    ) -> Result<ContentKey, StoreError> {
        let (signer, named) = (self.key.clone(), to.clone());
        let id = id.clone();
        let key = self.write(move |tx| finish(tx, &signer, &id, &named))?;
        // It may have been finished before, for others; a manifest is signed once.
        let catalog = self.catalog();
        let content = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
        let head = content.and_then(|content| self.manifest_head(content));
        let read = head.and_then(|(manifest, _)| Manifest::decode(&manifest).ok());
        if !to.is_empty() && read.is_some_and(|it| it.claim().to != to) {
            let id = key.content_id.as_str();
            return Err(StoreError::Conflict(format!(
                "{id:?} is finished already, and not for these nodes; remove it first, or use \
                 another content_id"
            )));
        }
        Ok(key)
    }

    /// Ends on-demand contents to which nothing was added for a while and that have no gap.
    pub fn finish_idle(&self) {
        let now = self.settings().clock.now();
        let after = self.settings().finish_after;
        let publisher = self.publisher();
        let catalog = self.catalog();
        let idle = catalog.growing().filter(|content| {
            !content.superseded
                && content.priority == Priority::Vod
                && content.key.publisher == publisher
                && now.since(content.last_arrival) >= after
                && content.renditions.iter().all(RenditionState::is_whole)
        });
        for content in idle {
            match self.finish(&content.key.content_id) {
                Ok(key) => tracing::info!(content = %key.content_id, "finished: nothing came"),
                Err(error) => tracing::warn!(%error, "a growing content could not be finished"),
            }
        }
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
fn sign_or_check(
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
        let rounded = (segment.record.duration + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND;
        if rounded > u64::from(commit.target_duration) {
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
                init,
                length,
                root,
                ..
            } = segment.record;
            let (created, ttl) = (upload.created, upload.ttl);
            let row = SegmentRow {
                duration,
                discontinuity,
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

fn finish(
    tx: &mut Tx<'_>,
    signer: &SigningKey,
    id: &ContentId,
    to: &[PublisherKey],
) -> Result<ContentKey, StoreError> {
    let found = tx
        .catalog()
        .find(Some(&signer.publisher()), id, None)
        .cloned();
    let before = found.ok_or_else(|| StoreError::NotFound(format!("content {:?}", id.as_str())))?;
    if before.state == State::Finished {
        return Ok(before.key.clone());
    }
    let mut after = Content::clone(&before);
    let mut rows = Vec::new();
    for (no, state) in after.renditions.iter_mut().enumerate() {
        rows.extend(finish_rendition(tx, &before, no as u16, state)?);
    }
    let leaves: Vec<Leaf> = rows
        .iter()
        .map(|(key, row)| record_of(&before, *key, row).leaf())
        .collect();
    let manifest = Manifest {
        content: after.key.clone(),
        title: after.title.clone(),
        priority: after.priority,
        created: tx.now().max(after.last_arrival),
        ttl: after.ttl,
        target_duration: after.target_duration,
        to: to.to_vec(),
        renditions: after
            .renditions
            .iter()
            .map(|state| state.info.clone())
            .collect(),
        records_root: merkle_root(&leaves),
    };
    let signed = sign_or_check(signer, manifest, leaves, None)?;
    let rows: Vec<SegmentRow> = rows.into_iter().map(|(_, row)| row).collect();
    tx.put_manifest(&mut after, &signed, &rows);
    after.state = State::Finished;
    after.hold_until = Some(signed.manifest.expires());
    after.expires = signed.manifest.expires();
    let content_no = after.no;
    tx.tell(Change::Admitted { content_no });
    tx.requeue(&before, after)?;
    Ok(before.key.clone())
}

/// Brings the sums of a rendition to what its manifest row says; returns its rows.
fn finish_rendition(
    tx: &Tx<'_>,
    content: &Content,
    no: u16,
    state: &mut RenditionState,
) -> Result<Vec<(SegmentKey, SegmentRow)>, StoreError> {
    let missing = |what: &str, sequence: u64| {
        Err(StoreError::Conflict(format!(
            "{what} {sequence} of {:?} has not come; send it and finish again",
            content.key.content_id.as_str()
        )))
    };
    let mut rows = tx.rows(content.no, Some((no, Kind::Init)))?;
    let inits = rows.len() as u64;
    if let Some(gap) = first_gap(&rows, 0, state.info.inits) {
        return missing("init segment", gap);
    }
    let media = tx.rows(content.no, Some((no, Kind::Media)))?;
    if let Some(gap) = first_gap(&media, state.first, state.next) {
        return missing("segment", gap);
    }
    (state.info.duration, state.info.bytes) = (0, 0);
    for (key, row) in &media {
        if state.info.mime.needs_init() && row.init.is_none_or(|init| init >= inits) {
            return Err(StoreError::Conflict(format!(
                "segment {} of {:?} names no init segment that has come; send it and finish again",
                key.sequence,
                content.key.content_id.as_str()
            )));
        }
        state.info.duration += row.duration;
        state.info.bytes += row.length;
    }
    state.info.first = state.first;
    state.info.segments = state.next - state.first;
    state.info.average_bandwidth = bits_per_second(state.info.bytes, state.info.duration);
    rows.extend(media);
    Ok(rows)
}

/// The first sequence of `from..to` that no row has.
fn first_gap(rows: &[(SegmentKey, SegmentRow)], from: u64, to: u64) -> Option<u64> {
    let held = rows.iter().map(|(key, _)| key.sequence);
    let whole = held
        .zip(from..to)
        .take_while(|(held, wanted)| held == wanted)
        .count() as u64;
    (from + whole < to).then_some(from + whole)
}
