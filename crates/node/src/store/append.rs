//! Adding one segment to a content that is still growing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, Priority, SegmentRecord, SignedManifest, clean_title};
use lavant_proto::ids::{ContentId, ContentKey, Rendition, Root};
use lavant_proto::limits::{SEGMENT_BYTES_MAX, SEGMENT_TICKS_MAX, SEQUENCE_MAX};
use lavant_proto::relay::evict::Standing;
use lavant_proto::time::TICKS_PER_SECOND;
use redb::ReadableTable;

use super::catalog::{Shown, State};
use super::convert::is_of;
use super::engine::Store;
use super::error::StoreError;
use super::insert::{Arrival, INITS_MAX, describe_rendition, insert};
use super::locked::lock;
use super::rows::{SegmentRow, version_key};
use super::settings::Settings;
use super::tx::Tx;
use super::{manifest, payload};

/// How often a segment is described anew because its content changed meanwhile.
const DESCRIBE_TRIES: usize = 8;

/// A segment that this node is to sign and keep.
#[derive(Clone, Debug)]
pub struct NewSegment {
    /// The content, of this node's own key.
    pub content_id: ContentId,
    /// Its version; where none is given, the current one, or the next when there is none.
    pub version: Option<u32>,
    /// For how long segments are of use; where none is given, as is usual for the priority. That of
    /// the content's first segment stays.
    pub ttl: Option<Duration>,
    /// Title of the content; that of its first segment stays.
    pub title: String,
    /// Priority of the content; that of its first segment stays.
    pub priority: Priority,
    /// Ceiling of durations in seconds, for the first segment of a content.
    pub target_duration: Option<u32>,
    /// The rendition.
    pub rendition: Rendition,
    /// Media or init.
    pub kind: Kind,
    /// Position in the rendition.
    pub sequence: u64,
    /// Ticks of 90 kHz.
    pub duration: u64,
    /// Whether it starts anew.
    pub discontinuity: bool,
    /// Whether it can be decoded alone.
    pub independent: bool,
    /// The init segment that it needs.
    pub init: Option<u64>,
    /// What its bytes are.
    pub mime: MimeType,
    /// What a master playlist should say of the rendition, as far as this segment shows it.
    pub shown: Shown,
    /// The bytes.
    pub payload: Bytes,
}

/// Where the segments of a live stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growing {
    /// Version of its content.
    pub version: u32,
    /// Number of the next segment.
    pub next: u64,
    /// Number of the next init segment.
    pub next_init: u64,
    /// The target duration that it has, in seconds, if it goes on.
    pub target_duration: Option<u32>,
}

impl Store {
    /// Signs a segment with the node's key and stores it durably. Blocks.
    ///
    /// Returns whether it was new; the same segment a second time changes nothing.
    pub fn append(&self, new: NewSegment) -> Result<bool, StoreError> {
        check_new(&new)?;
        self.shared
            .check_disk(new.payload.len() as u64, Standing::Own)?;
        let bytes = payload::disk_bytes(new.payload.len() as u64);
        self.shared.drop_strangers(bytes, new.priority);
        for _ in 0..DESCRIBE_TRIES {
            if let Some(outcome) = self.append_described(&new)? {
                return Ok(outcome);
            }
        }
        Err(StoreError::Busy(
            "the content changes all the time; send the segment again".into(),
        ))
    }

    /// One try to append; `None` when the content changed while its segment was described.
    fn append_described(&self, new: &NewSegment) -> Result<Option<bool>, StoreError> {
        let unwritten = |error| self.shared.unwritten("write a segment", error);
        let file = self.incoming_file();
        let disk = &self.settings().disk;
        let draft = payload::Draft::write(disk, &file, &new.payload).map_err(unwritten)?;
        let record = self.describe(new, draft.root())?;
        let (record, proof) = record
            .sign(&self.key)
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        let written = draft.finish(&record, &proof);
        if let Err(error) = written.and_then(|file| file.flush()) {
            let _ = disk.files.remove(&file);
            return Err(unwritten(error));
        }
        let (root, live) = (record.root, record.priority == Priority::Live);
        let place = file.clone();
        let shown = new.shown.clone();
        let outcome = self.write(move |tx| {
            if is_outdated(tx, &record)? {
                return Ok(None);
            }
            let state = insert(tx, &record, &proof, Arrival::of(place))?;
            describe_rendition(tx, &record, shown)?;
            Ok(Some(state))
        });
        if outcome != Ok(Some(true)) {
            let _ = disk.files.remove(&file);
        } else if live {
            // A copy of its own length: the payload may stand in a larger buffer.
            let payload = Bytes::copy_from_slice(&new.payload);
            lock(&self.shared.hot).insert(root, payload);
        }
        outcome
    }

    /// Where a stream of that name goes on, or begins. Blocks.
    pub fn growing(&self, id: &ContentId) -> Result<Growing, StoreError> {
        let publisher = self.publisher();
        let highest = self.highest_version(&publisher, id)?;
        let catalog = self.catalog();
        let open = catalog
            .find(Some(&publisher), id, None)
            .filter(|content| content.state == State::Open && content.priority == Priority::Live);
        let Some(content) = open else {
            return Ok(Growing {
                version: highest.saturating_add(1),
                next: 0,
                next_init: 0,
                target_duration: None,
            });
        };
        let state = content.renditions.first();
        Ok(Growing {
            version: content.key.version,
            next: state.map_or(0, |state| state.next),
            next_init: state.map_or(0, |state| state.info.inits),
            target_duration: Some(content.target_duration),
        })
    }

    /// The record of a new segment, in the version of its content that is growing.
    fn describe(&self, new: &NewSegment, root: Root) -> Result<SegmentRecord, StoreError> {
        let publisher = self.publisher();
        let catalog = self.catalog();
        let existing = catalog
            .find(Some(&publisher), &new.content_id, None)
            .filter(|content| new.version.is_none_or(|it| it == content.key.version));
        let title = clean_title(&new.title);
        let title = if title.is_empty() {
            new.content_id.to_string()
        } else {
            title
        };
        let now = self.settings().clock.now();
        let version = match (existing, new.version) {
            (Some(content), _) => content.key.version,
            (None, Some(version)) => version,
            (None, None) => self
                .highest_version(&publisher, &new.content_id)?
                .saturating_add(1),
        };
        Ok(SegmentRecord {
            content: ContentKey {
                publisher,
                content_id: new.content_id.clone(),
                version,
            },
            title: existing.map_or(title, |content| content.title.clone()),
            target_duration: existing.map_or_else(
                || {
                    let usual = || default_target(new.priority, new.duration);
                    new.target_duration.unwrap_or_else(usual)
                },
                |content| content.target_duration,
            ),
            rendition: new.rendition.clone(),
            kind: new.kind,
            sequence: new.sequence,
            duration: new.duration,
            discontinuity: new.discontinuity,
            independent: new.independent,
            init: new.init,
            mime: new.mime,
            priority: existing.map_or(new.priority, |content| content.priority),
            created: existing.map_or(now, |content| now.max(content.last_arrival)),
            ttl: existing.map_or_else(
                || {
                    let usual = || self.settings().ttl_of(new.priority);
                    new.ttl.unwrap_or_else(usual)
                },
                |content| content.ttl,
            ),
            length: new.payload.len() as u64,
            root,
        })
    }

    /// A manifest on its way in, durable. `rows` are its records, in its order.
    pub(super) fn draft_manifest<'r>(
        &self,
        signed: &SignedManifest,
        rows: impl Iterator<Item = &'r SegmentRow>,
    ) -> Result<manifest::Draft<'_>, StoreError> {
        let Settings { disk, layout, .. } = self.settings();
        let fresh = self.incoming_file();
        let path = layout.incoming_manifest(&fresh);
        let draft = manifest::Draft::write(disk, path, signed, rows);
        draft.map_err(|error| self.shared.unwritten("write a manifest", error))
    }

    /// A fresh name in `incoming/`.
    pub(super) fn incoming_file(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        self.settings()
            .layout
            .incoming()
            .join(format!("{process}-{number}"))
    }
}

/// Refuses what no record may say.
fn check_new(new: &NewSegment) -> Result<(), StoreError> {
    let invalid = |what: String| Err(StoreError::Invalid(what));
    if new.sequence > SEQUENCE_MAX {
        return invalid(format!("a sequence is at most {SEQUENCE_MAX}"));
    }
    if new
        .target_duration
        .is_some_and(|seconds| !(1..=3600).contains(&seconds))
    {
        return invalid("a target duration is 1 to 3600 s".into());
    }
    check_payload(new.payload.len() as u64, new.duration, new.init)
}

/// Refuses lengths, durations and init segments beyond the limits.
pub(super) fn check_payload(
    length: u64,
    duration: u64,
    init: Option<u64>,
) -> Result<(), StoreError> {
    let invalid = |what: String| Err(StoreError::Invalid(what));
    if length == 0 || length > SEGMENT_BYTES_MAX {
        return invalid("a segment must not be empty, nor longer than 1 GiB".into());
    }
    if duration > SEGMENT_TICKS_MAX {
        return invalid("a segment lasts at most an hour".into());
    }
    if init.is_some_and(|init| init >= INITS_MAX) {
        return invalid(format!("init segments are numbered below {INITS_MAX}"));
    }
    Ok(())
}

/// Whether the content is no longer what a record was made for.
fn is_outdated(tx: &Tx<'_>, record: &SegmentRecord) -> Result<bool, StoreError> {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = &record.content;
    let Some(content) = tx.catalog().find(Some(publisher), content_id, None) else {
        let key = version_key(publisher, content_id);
        let gone = tx.tables().versions.get(key.as_slice())?;
        return Ok(gone.is_some_and(|highest| highest.value() >= *version));
    };
    if content.key.version < *version {
        // It begins a version of its own.
        return Ok(false);
    }
    Ok(content.key.version != *version || content.ttl != record.ttl || !is_of(record, content))
}

/// A ceiling that later segments of the stream will hardly exceed.
fn default_target(priority: Priority, duration: u64) -> u32 {
    let seconds = u32::try_from(duration.div_ceil(TICKS_PER_SECOND)).unwrap_or(u32::MAX);
    let ceiling = match priority {
        Priority::Vod => seconds.saturating_mul(3).max(30),
        Priority::Live | Priority::NearLive => seconds.saturating_mul(2).max(10),
    };
    ceiling.min(3600)
}
