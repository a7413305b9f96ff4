//! Adding one segment to a content that is still growing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lavant_proto::content::{
    Kind, MimeType, Priority, Proof, RenditionInfo, SegmentRecord, Verified, clean_title,
};
use lavant_proto::ids::{ContentId, ContentKey, Rendition, Root};
use lavant_proto::limits::{
    CODECS_BYTES_MAX, RENDITIONS_MAX, SEGMENT_BYTES_MAX, SEGMENT_TICKS_MAX, SEQUENCE_MAX,
};
use lavant_proto::time::{TICKS_PER_SECOND, Time};
use redb::ReadableTable;

use super::catalog::{Content, RenditionState, State};
use super::error::StoreError;
use super::rows::{SegmentKey, SegmentRow, version_key};
use super::tx::Tx;
use super::{Store, expire, lock, payload};

/// How far ahead of the last sequence a segment may be.
const SEQUENCE_JUMP_MAX: u64 = 10_000;
/// Most entries of a playlist: two days of one-second segments.
const PLAYLIST_MAX: u64 = 200_000;
/// Most contents in one store.
const CONTENTS_MAX: usize = 20_000;
/// Init segments of a rendition are numbered below this.
pub(super) const INITS_MAX: u64 = 1000;
/// Highest bit rate that a manifest can say.
const BITRATE_MAX: u64 = 1 << 40;
/// How often a segment is described anew because its content changed meanwhile.
const DESCRIBE_TRIES: usize = 8;

/// A segment that this node is to sign and keep.
#[derive(Clone, Debug)]
pub struct NewSegment {
    /// The content, of this node's own key.
    pub content_id: ContentId,
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
    /// The init segment that it needs.
    pub init: Option<u64>,
    /// What its bytes are.
    pub mime: MimeType,
    /// What a master playlist should say of the rendition, as far as this segment shows it.
    pub codecs: String,
    /// Width and height in pixels; 0 without video.
    pub size: (u32, u32),
    /// The bytes.
    pub payload: Bytes,
}

impl Store {
    /// Signs a segment with the node's key and stores it durably. Blocks.
    ///
    /// Returns whether it was new; the same segment a second time changes nothing.
    pub fn append(&self, new: NewSegment) -> Result<bool, StoreError> {
        check_new(&new)?;
        self.check_disk(new.payload.len() as u64)?;
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
        let unwritten = |error| StoreError::io("write a segment", &error);
        let file = self.incoming_file();
        let draft = payload::Draft::write(&file, &new.payload).map_err(unwritten)?;
        let record = self.describe(new, draft.root())?;
        let (record, proof) = record
            .sign(&self.key)
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        let written = draft.finish(&record, &proof);
        if let Err(error) = written.and_then(|file| file.sync_data()) {
            let _ = std::fs::remove_file(file);
            return Err(unwritten(error));
        }
        let (root, live) = (record.root, record.priority == Priority::Live);
        let (place, target) = (file.clone(), new.target_duration);
        let facts = (new.codecs.clone(), new.size);
        let outcome = self.write(move |tx| {
            if is_outdated(tx, &record)? {
                return Ok(None);
            }
            let state = insert(tx, &record, &proof, place, target)?;
            describe_rendition(tx, &record, facts)?;
            Ok(Some(state))
        });
        if outcome != Ok(Some(true)) {
            let _ = std::fs::remove_file(file);
        } else if live {
            // A copy of its own length: the payload may stand in a larger buffer.
            let payload = Bytes::copy_from_slice(&new.payload);
            lock(&self.shared.hot).insert(root, payload);
        }
        outcome
    }

    /// The record of a new segment, in the version of its content that is growing.
    fn describe(&self, new: &NewSegment, root: Root) -> Result<SegmentRecord, StoreError> {
        let publisher = self.publisher();
        let catalog = self.catalog();
        let existing = catalog.find(Some(&publisher), &new.content_id, None);
        let title = clean_title(&new.title);
        let title = if title.is_empty() {
            new.content_id.to_string()
        } else {
            title
        };
        let now = self.settings().clock.now();
        let version = match existing {
            Some(content) => content.key.version,
            None => self
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
            rendition: new.rendition.clone(),
            kind: new.kind,
            sequence: new.sequence,
            duration: new.duration,
            discontinuity: new.discontinuity,
            init: new.init,
            mime: new.mime,
            priority: existing.map_or(new.priority, |content| content.priority),
            created: existing.map_or(now, |content| now.max(content.last_arrival)),
            ttl: existing.map_or_else(
                || self.settings().ttl_of(new.priority),
                |content| content.ttl,
            ),
            length: new.payload.len() as u64,
            root,
        })
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
    let Some(content) = tx.catalog.find(Some(publisher), content_id, None) else {
        let key = version_key(publisher, content_id);
        let gone = tx.versions.get(key.as_slice())?;
        return Ok(gone.is_some_and(|highest| highest.value() >= *version));
    };
    Ok(content.key.version != *version || content.ttl != record.ttl || !is_of(record, content))
}

/// Whether a record says of its content what the others do: from the content's facts and its own
/// row the record must come out as it was signed.
fn is_of(record: &SegmentRecord, content: &Content) -> bool {
    content.title == record.title && content.priority == record.priority
}

/// Enters a verified record whose payload waits at `file` into the index. Checks first, then
/// writes; returns whether it was new.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    record: &Verified<SegmentRecord>,
    proof: &Proof,
    file: PathBuf,
    target_duration: Option<u32>,
) -> Result<bool, StoreError> {
    let room = payload::disk_bytes(record.length);
    expire::expire_for_room(tx, room)?;
    let (content, place) = place_of(tx, record, target_duration)?;
    let held = if content.no == 0 {
        None
    } else {
        tx.segment(place)?
    };
    if let Some(held) = &held {
        if held.root != record.root {
            return Err(StoreError::Conflict(format!(
                "segment {} of {:?} is here with other bytes; a published segment never changes",
                record.sequence,
                record.content.content_id.as_str()
            )));
        }
        if held.present {
            return Ok(false);
        }
    }
    if content.state == State::Finished && held.is_none() {
        return Err(finished(&content));
    }
    check_place(&content, record, place.rendition_no, held.is_some())?;
    expire::make_room(tx, room, record.priority)?;
    // Making room may have changed the counters of this very content.
    let (mut content, mut place) = place_of(tx, record, target_duration)?;
    if content.no == 0 && held.is_some() {
        return Err(StoreError::NotFound(format!(
            "content {:?}",
            content.key.content_id.as_str()
        )));
    }
    if content.no == 0 {
        content.no = tx.next_content_no()?;
        place.content_no = content.no;
    }
    // A finished content's manifest says what its records are.
    let known = held.as_ref().filter(|_| content.state == State::Finished);
    let row = known.map_or_else(
        || row_of(record, proof),
        |known| SegmentRow {
            present: true,
            ..known.clone()
        },
    );
    if let Some(held) = &held {
        tx.dequeue(&content, place, held)?;
    }
    count(&mut content, place, &row, held.is_some());
    content.last_arrival = content.last_arrival.max(tx.now);
    if content.hold_until.is_none() {
        content.expires = content.expires.max(row.expires());
    }
    tx.add_payload(&row.root, row.length, file)?;
    tx.put_segment(place, &row)?;
    tx.enqueue(&content, place, &row)?;
    tx.put_content(content)?;
    Ok(true)
}

/// The content that a record belongs to, and its place there.
fn place_of(
    tx: &Tx<'_>,
    record: &SegmentRecord,
    target_duration: Option<u32>,
) -> Result<(Content, SegmentKey), StoreError> {
    let mut content = content_of(tx, record, target_duration)?;
    let rendition_no = rendition_of(&mut content, record)?;
    let SegmentRecord { kind, sequence, .. } = *record;
    let place = SegmentKey {
        content_no: content.no,
        rendition_no,
        kind,
        sequence,
    };
    Ok((content, place))
}

fn finished(content: &Content) -> StoreError {
    StoreError::Conflict(format!(
        "{:?} is finished and takes no more segments; remove it first, or use another content_id",
        content.key.content_id.as_str()
    ))
}

pub(super) fn row_of(record: &SegmentRecord, proof: &Proof) -> SegmentRow {
    SegmentRow {
        duration: record.duration,
        discontinuity: record.discontinuity,
        init: record.init,
        created: record.created,
        ttl: record.ttl,
        length: record.length,
        root: record.root,
        present: true,
        signature: match proof {
            Proof::Signature(signature) => Some(*signature),
            Proof::Manifest => None,
        },
    }
}

/// The content that the record belongs to; one with number 0 when it is new.
fn content_of(
    tx: &Tx<'_>,
    record: &SegmentRecord,
    target_duration: Option<u32>,
) -> Result<Content, StoreError> {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = &record.content;
    if let Some(content) = tx.catalog.find(Some(publisher), content_id, Some(*version)) {
        if !is_of(record, content) {
            return Err(StoreError::Conflict(format!(
                "{:?} has another title or priority than this segment says",
                content_id.as_str()
            )));
        }
        return Ok(Content::clone(content));
    }
    check_new_id(tx, content_id)?;
    Ok(Content {
        no: 0,
        key: record.content.clone(),
        title: record.title.clone(),
        priority: record.priority,
        created: record.created,
        ttl: record.ttl,
        expires: Time(0),
        hold_until: None,
        last_arrival: tx.now,
        target_duration: target_duration.unwrap_or_else(|| default_target(record)),
        state: State::Open,
        superseded: false,
        pinned: false,
        source: String::new(),
        renditions: Vec::new(),
        generation: 0,
    })
}

/// Refuses an id that cannot be told from one that is here.
pub(super) fn check_new_id(tx: &Tx<'_>, id: &ContentId) -> Result<(), StoreError> {
    if let Some(other) = tx.catalog.look_alike(id) {
        return Err(StoreError::Conflict(format!(
            "content_id {:?} looks like {:?}, which is here; choose one that can be told apart",
            id.as_str(),
            other.as_str()
        )));
    }
    if tx.catalog.len() >= CONTENTS_MAX {
        return Err(StoreError::Busy(format!(
            "the store has {CONTENTS_MAX} contents, which is its limit; remove some"
        )));
    }
    Ok(())
}

/// A ceiling that later segments of the stream will hardly exceed.
pub(super) fn default_target(first: &SegmentRecord) -> u32 {
    let seconds = u32::try_from(first.duration.div_ceil(TICKS_PER_SECOND)).unwrap_or(u32::MAX);
    let ceiling = match first.priority {
        Priority::Vod => seconds.saturating_mul(3).max(30),
        Priority::Live | Priority::NearLive => seconds.saturating_mul(2).max(10),
    };
    ceiling.min(3600)
}

fn rendition_of(content: &mut Content, record: &SegmentRecord) -> Result<u16, StoreError> {
    if let Some(no) = content.rendition_no(record.rendition.as_str()) {
        let mime = content.renditions[usize::from(no)].info.mime;
        if mime != record.mime {
            return Err(StoreError::Conflict(format!(
                "rendition {} of {:?} is {mime}; a segment of {} cannot follow",
                record.rendition,
                record.content.content_id.as_str(),
                record.mime
            )));
        }
        start_playlist(&mut content.renditions[usize::from(no)], record);
        return Ok(no);
    }
    if content.state == State::Finished {
        return Err(finished(content));
    }
    if content.renditions.len() >= RENDITIONS_MAX {
        return Err(StoreError::Invalid(format!(
            "a content has at most {RENDITIONS_MAX} renditions"
        )));
    }
    let mut state = RenditionState::new(record.rendition.clone(), record.mime);
    start_playlist(&mut state, record);
    content.renditions.push(state);
    Ok((content.renditions.len() - 1) as u16)
}

/// A stream's playlist starts with the first segment that comes; one on demand at 0.
fn start_playlist(state: &mut RenditionState, record: &SegmentRecord) {
    let starts = state.info.segments == 0 && record.kind == Kind::Media;
    if starts && record.priority != Priority::Vod {
        (state.first, state.next) = (record.sequence, record.sequence);
    }
}

/// Checks position and duration against what the playlist already promised.
fn check_place(
    content: &Content,
    record: &SegmentRecord,
    rendition_no: u16,
    known: bool,
) -> Result<(), StoreError> {
    let state = &content.renditions[usize::from(rendition_no)];
    let id = content.key.content_id.as_str();
    if record.kind == Kind::Init {
        return if record.sequence < INITS_MAX {
            Ok(())
        } else {
            Err(StoreError::Invalid(format!(
                "init segments are numbered below {INITS_MAX}"
            )))
        };
    }
    let RenditionState { first, next, .. } = *state;
    let sequence = record.sequence;
    if sequence < first {
        return Err(StoreError::Conflict(format!(
            "segment {sequence} of {id:?} comes before the first of its playlist ({first}), which \
             never goes back"
        )));
    }
    if sequence.saturating_sub(next) > SEQUENCE_JUMP_MAX || sequence - first >= PLAYLIST_MAX {
        return Err(StoreError::Invalid(format!(
            "segment {sequence} of {id:?} is too far from the others ({first} to {next}); \
             sequences go up one by one"
        )));
    }
    let ceiling = Duration::from_secs(u64::from(content.target_duration));
    let rounded = (record.duration + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND;
    if rounded > ceiling.as_secs() && !known {
        return Err(StoreError::Invalid(format!(
            "segment {sequence} of {id:?} lasts {:.3} s, longer than the playlist's target \
             duration of {} s, which is fixed by the first segment; cut shorter segments, or start \
             the content with a larger target_duration",
            record.duration as f64 / TICKS_PER_SECOND as f64,
            ceiling.as_secs()
        )));
    }
    Ok(())
}

/// Counts a segment that came, or came back.
pub(super) fn count(content: &mut Content, key: SegmentKey, row: &SegmentRow, came_back: bool) {
    let state = &mut content.renditions[usize::from(key.rendition_no)];
    if key.kind == Kind::Init {
        state.info.inits = state.info.inits.max(key.sequence + 1);
        return;
    }
    state.next = state.next.max(key.sequence + 1);
    state.present += 1;
    state.present_duration += row.duration;
    state.present_bytes += row.length;
    if came_back {
        return;
    }
    let RenditionInfo {
        bandwidth,
        average_bandwidth,
        segments,
        duration,
        bytes,
        ..
    } = &mut state.info;
    *segments += 1;
    *duration += row.duration;
    *bytes += row.length;
    *bandwidth = (*bandwidth).max(bits_per_second(row.length, row.duration));
    *average_bandwidth = bits_per_second(*bytes, *duration);
}

/// Bit rate of `bytes` in `ticks`, rounded up, no more than a manifest can say; 0 when no time
/// passes.
pub(super) fn bits_per_second(bytes: u64, ticks: u64) -> u64 {
    let bits = u128::from(bytes) * 8 * u128::from(TICKS_PER_SECOND);
    let rate = if ticks == 0 {
        0
    } else {
        bits.div_ceil(ticks.into())
    };
    u64::try_from(rate).unwrap_or(BITRATE_MAX).min(BITRATE_MAX)
}

/// Notes codecs and size of the rendition when a segment shows them for the first time.
fn describe_rendition(
    tx: &mut Tx<'_>,
    record: &SegmentRecord,
    (codecs, (width, height)): (String, (u32, u32)),
) -> Result<(), StoreError> {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = &record.content;
    let Some(content) = tx.catalog.find(Some(publisher), content_id, Some(*version)) else {
        return Ok(());
    };
    let Some(no) = content.rendition_no(record.rendition.as_str()) else {
        return Ok(());
    };
    let info = &content.renditions[usize::from(no)].info;
    let legal = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
    let usable = codecs.len() <= CODECS_BYTES_MAX && codecs.bytes().all(legal);
    if codecs.is_empty() || !usable || !info.codecs.is_empty() {
        return Ok(());
    }
    let mut content = Content::clone(content);
    let info = &mut content.renditions[usize::from(no)].info;
    (info.codecs, info.width, info.height) = (codecs, width, height);
    tx.put_content(content)
}
