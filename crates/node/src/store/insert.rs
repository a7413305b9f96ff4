//! Entering a segment into the index.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lavant_proto::content::{Kind, Priority, Proof, SegmentRecord, Verified};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey};
use lavant_proto::limits::{CODECS_BYTES_MAX, RENDITIONS_MAX, STORED_MAX};
use lavant_proto::relay::evict::Standing;
use lavant_proto::relay::learn::is_early;
use lavant_proto::time::{TICKS_PER_SECOND, Time};
use redb::ReadableTable;

use super::catalog::{Catalog, Content, RenditionState, Shown, State};
use super::change::Change;
use super::convert::{is_of, rounded_seconds, row_of};
use super::error::StoreError;
use super::limit::Claim;
use super::locked::lock;
use super::removals::check_comes_back;
use super::room::{self, Wanted};
use super::rows::{SegmentKey, SegmentRow};
use super::supersede::supersede;
use super::tx::Tx;
use super::{expire, payload};

/// How far ahead of the last sequence a segment may be.
const SEQUENCE_JUMP_MAX: u64 = 10_000;
/// Most entries of a playlist: two days of one-second segments.
const PLAYLIST_MAX: u64 = 200_000;
/// Init segments of a rendition are numbered below this.
pub(super) const INITS_MAX: u64 = 1000;
/// How often look-alikes are warned of.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How a segment comes.
pub(super) struct Arrival {
    /// Where its payload waits; none when it is here as another segment's.
    pub(super) file: Option<PathBuf>,
    /// Where the playlist starts when it is the first of a stream; at itself when not given.
    pub(super) playlist_start: Option<u64>,
}

impl Arrival {
    pub(super) const fn of(file: PathBuf) -> Self {
        Self {
            file: Some(file),
            playlist_start: None,
        }
    }
}

/// Enters a verified record into the index. Checks first, then
/// writes; returns whether it was new.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    record: &Verified<SegmentRecord>,
    proof: &Proof,
    arrival: Arrival,
) -> Result<bool, StoreError> {
    let bytes = if arrival.file.is_some() {
        payload::disk_bytes(record.length)
    } else {
        0
    };
    check_date(record.created, tx.now(), &record.content.content_id)?;
    expire::expire_for_room(tx, bytes)?;
    let start = arrival.playlist_start;
    let (content, place) = place_of(tx, record, start)?;
    let held = if content.no == 0 {
        None
    } else {
        tx.segment(place)?
    };
    check_held(&content, record, proof, held.as_ref())?;
    if held.as_ref().is_some_and(|held| held.present) {
        return Ok(false);
    }
    check_place(&content, record, place.rendition_no, held.is_some())?;
    if arrival.file.is_none() {
        check_here(tx, record)?;
    }
    let claim = Claim::of(tx.catalog(), &record.content.publisher, record.priority);
    let wanted = Wanted {
        files: bytes,
        held: payload::disk_bytes(record.length),
    };
    room::make_room(tx, wanted, &claim)?;
    // Making room may have changed the counters of this very content.
    let (mut content, mut place) = place_of(tx, record, start)?;
    if content.no == 0 && held.is_some() {
        return Err(StoreError::NotFound(format!(
            "content {:?}",
            content.key.content_id.as_str()
        )));
    }
    if content.no == 0 {
        begin(tx, &mut content)?;
        place.content_no = content.no;
    }
    // A finished content's manifest says what its records are.
    let known = held.as_ref().filter(|_| content.state == State::Finished);
    let row = known.map_or_else(
        || row_of(record, proof).come(tx.now()),
        |known| SegmentRow {
            present: true,
            ..known.clone()
        },
    );
    content.last_arrival = content.last_arrival.max(tx.now());
    if content.hold_until.is_none() {
        content.expires = content.expires.max(row.expires());
    }
    let known = (held.as_ref(), held.is_some());
    tx.enter(&mut content, (place, &row), known, arrival.file)?;
    tx.put_content(content)?;
    Ok(true)
}

/// Gives a new content its number; it takes the place of earlier versions.
fn begin(tx: &mut Tx<'_>, content: &mut Content) -> Result<(), StoreError> {
    content.no = tx.next_content_no()?;
    content.pinned = supersede(tx, content)?;
    if content.pinned {
        tx.pin(&content.key);
    }
    let content_no = content.no;
    tx.tell(Change::Admitted { content_no });
    Ok(())
}

/// The content that a record belongs to, and its place there.
fn place_of(
    tx: &Tx<'_>,
    record: &SegmentRecord,
    start: Option<u64>,
) -> Result<(Content, SegmentKey), StoreError> {
    let mut content = content_of(tx, record)?;
    let rendition_no = rendition_of(&mut content, record, start)?;
    let SegmentRecord { kind, sequence, .. } = *record;
    let place = SegmentKey {
        content_no: content.no,
        rendition_no,
        kind,
        sequence,
    };
    Ok((content, place))
}

/// Refuses other bytes for a segment that is known, and one that the content does not have.
fn check_held(
    content: &Content,
    record: &SegmentRecord,
    proof: &Proof,
    held: Option<&SegmentRow>,
) -> Result<(), StoreError> {
    let id = record.content.content_id.as_str();
    if held.is_some_and(|held| held.root != record.root) {
        return Err(StoreError::Conflict(format!(
            "segment {} of {id:?} is here with other bytes; a published segment never changes",
            record.sequence,
        )));
    }
    match content.state {
        State::Finished if held.is_none() => Err(finished(content)),
        State::Open if *proof == Proof::Manifest => Err(StoreError::Conflict(format!(
            "the manifest of {id:?}, which vouches for this segment, is not here"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a record whose payload is not here, or of another length than it says.
fn check_here(tx: &Tx<'_>, record: &SegmentRecord) -> Result<(), StoreError> {
    match tx
        .tables()
        .payloads
        .get(record.root.0.as_slice())?
        .map(|row| row.value().1)
    {
        Some(length) if length == record.length => Ok(()),
        Some(length) => Err(StoreError::Invalid(format!(
            "segment {} has {length} bytes, not {} as its record says",
            record.sequence, record.length
        ))),
        None => Err(StoreError::NotFound(format!("segment {}", record.root))),
    }
}

fn finished(content: &Content) -> StoreError {
    StoreError::Conflict(format!(
        "{:?} is finished and takes no more segments; remove it first, or use another content_id",
        content.key.content_id.as_str()
    ))
}

/// The content that the record belongs to; one with number 0 when it is new.
fn content_of(tx: &Tx<'_>, record: &SegmentRecord) -> Result<Content, StoreError> {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = &record.content;
    if let Some(content) = tx
        .catalog()
        .find(Some(publisher), content_id, Some(*version))
    {
        if !is_of(record, content) {
            return Err(StoreError::Conflict(format!(
                "{:?} has another title, priority or target duration than this segment says",
                content_id.as_str()
            )));
        }
        return Ok(Content::clone(content));
    }
    check_new_content(tx, publisher, content_id)?;
    check_comes_back(tx, &record.content)?;
    Ok(Content::growing(0, record, tx.now()))
}

/// Refuses what is dated further ahead than clocks differ: it would outlive everything else.
pub(super) fn check_date(created: Time, now: Time, id: &ContentId) -> Result<(), StoreError> {
    if !is_early(created, now) {
        return Ok(());
    }
    let days = created.since(now).as_secs() / 86_400;
    Err(StoreError::Conflict(format!(
        "{:?} is dated {days} days ahead of the clock of this computer; nothing is taken that is \
         dated more than a day ahead: set the clocks right",
        id.as_str()
    )))
}

/// The content for which a new one would be taken, if that is refused: one of the same publisher,
/// or, for what is the node's own, one of those that it trusts. Others may choose what they like,
/// so they can keep nobody's name from being used.
pub(super) fn like_this<'a>(
    catalog: &'a Catalog,
    publisher: &PublisherKey,
    id: &ContentId,
) -> Option<&'a Content> {
    let own = catalog.standing(publisher) == Standing::Own;
    let trusted = |other: &PublisherKey| own && catalog.standing(other) > Standing::Stranger;
    catalog.look_alike(id, |other| other == publisher || trusted(other))
}

/// Refuses an id that cannot be told from one that is here; see [`like_this`].
pub(super) fn refuse_look_alike(
    catalog: &Catalog,
    publisher: &PublisherKey,
    id: &ContentId,
) -> Result<(), StoreError> {
    let Some(other) = like_this(catalog, publisher, id) else {
        warn_of_look_alike(catalog, publisher, id);
        return Ok(());
    };
    let other = &other.key.content_id;
    Err(StoreError::Conflict(format!(
        "content_id {:?} looks like {:?}, which is here; choose one that can be told apart",
        id.as_str(),
        other.as_str()
    )))
}

/// Says that two publishers have contents that look alike, once in a while.
fn warn_of_look_alike(catalog: &Catalog, publisher: &PublisherKey, id: &ContentId) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let Some(other) = catalog.look_alike(id, |other| other != publisher) else {
        return;
    };
    let mut last = lock(&LAST);
    if last.is_some_and(|last| last.elapsed() < WARN_EVERY) {
        return;
    }
    *last = Some(Instant::now());
    let (id, theirs) = (id.as_str(), other.key.content_id.as_str());
    tracing::warn!(%publisher, of = %other.key.publisher, "content {id:?} looks like {theirs:?}");
}

/// Refuses a new content whose id looks like another's, or that is one too many.
pub(super) fn check_new_id(
    tx: &Tx<'_>,
    publisher: &PublisherKey,
    id: &ContentId,
) -> Result<(), StoreError> {
    refuse_look_alike(tx.catalog(), publisher, id)?;
    if tx.catalog().len() >= STORED_MAX {
        return Err(StoreError::Busy(format!(
            "the store has {STORED_MAX} contents, which is its limit; remove some"
        )));
    }
    Ok(())
}

/// Refuses a content that must not be new: see [`check_new_id`]; or one too many of a publisher
/// that the operator does not trust.
pub(super) fn check_new_content(
    tx: &Tx<'_>,
    publisher: &PublisherKey,
    id: &ContentId,
) -> Result<(), StoreError> {
    check_new_id(tx, publisher, id)?;
    if tx.catalog().standing(publisher) > Standing::Stranger {
        return Ok(());
    }
    let most = |percent: u8| STORED_MAX as u64 * u64::from(percent) / 100;
    if let Some(most) = tx.settings().publisher_share.map(most)
        && tx.catalog().of_publisher(publisher).contents >= most
    {
        return Err(StoreError::Busy(format!(
            "publisher {publisher} has {most} contents here, which is its share; trust it, or \
             raise the share"
        )));
    }
    if let Some(most) = tx.settings().strangers_share.map(most)
        && tx.catalog().of_standing(Standing::Stranger).contents >= most
    {
        return Err(StoreError::Busy(format!(
            "publishers that are not trusted have {most} contents here, which is their share; \
             trust some, or raise the share"
        )));
    }
    Ok(())
}

fn rendition_of(
    content: &mut Content,
    record: &SegmentRecord,
    start: Option<u64>,
) -> Result<u16, StoreError> {
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
        start_playlist(&mut content.renditions[usize::from(no)], record, start);
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
    start_playlist(&mut state, record, start);
    content.renditions.push(state);
    Ok((content.renditions.len() - 1) as u16)
}

/// A stream's playlist starts with the first segment that comes, or where it is said to, if that is
/// not too far before it; one on demand at 0.
fn start_playlist(state: &mut RenditionState, record: &SegmentRecord, start: Option<u64>) {
    let starts = state.info.segments == 0 && record.kind == Kind::Media;
    if starts && record.priority != Priority::Vod {
        let earliest = record.sequence.saturating_sub(SEQUENCE_JUMP_MAX);
        let first = start.map_or(record.sequence, |start| start.max(earliest));
        let first = first.min(record.sequence);
        (state.first, state.next, state.reached) = (first, first, first);
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
    let rounded = rounded_seconds(record.duration);
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

/// Notes codecs and size of the rendition when a segment shows them for the first time.
pub(super) fn describe_rendition(
    tx: &mut Tx<'_>,
    record: &SegmentRecord,
    shown: Shown,
) -> Result<(), StoreError> {
    let ContentKey {
        publisher,
        content_id,
        version,
    } = &record.content;
    let Some(content) = tx
        .catalog()
        .find(Some(publisher), content_id, Some(*version))
    else {
        return Ok(());
    };
    let Some(no) = content.rendition_no(record.rendition.as_str()) else {
        return Ok(());
    };
    let info = &content.renditions[usize::from(no)].info;
    let Shown { codecs, size } = shown;
    let legal = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
    let usable = codecs.len() <= CODECS_BYTES_MAX && codecs.bytes().all(legal);
    if codecs.is_empty() || !usable || !info.codecs.is_empty() {
        return Ok(());
    }
    let mut content = Content::clone(content);
    let info = &mut content.renditions[usize::from(no)].info;
    (info.codecs, (info.width, info.height)) = (codecs, size);
    tx.put_content(content)
}
