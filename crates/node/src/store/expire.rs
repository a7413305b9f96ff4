//! Letting segments go: by deadline, because their file is torn.

use std::io;
use std::path::Path;

use lavant_proto::content::Kind;
use lavant_proto::ids::Root;
use redb::ReadableTable;

use super::catalog::{Content, State};
use super::disk::Disk;
use super::error::StoreError;
use super::payload;
use super::rows::{SegmentKey, SegmentRow, split_deadline};
use super::settings::Settings;
use super::tx::{Tx, Why, deadline};

/// Most rows that go in one commit by themselves, so that a commit stays short; or for each
/// operation in it, so that what goes keeps up with what comes.
const ROWS_MAX: usize = 48;
const ROWS_OF_OPERATION: usize = 2;

/// Drops what is left of removed contents, moves what stands wrongly in the queues, and drops what
/// is past its deadline. What is not done then, the next commit does.
pub(super) fn expire_due(tx: &mut Tx<'_>, operations: usize) -> Result<(), StoreError> {
    let most = ROWS_MAX.max(ROWS_OF_OPERATION * operations);
    while tx.rows_gone() < most {
        if !tx.clear_some()? && !tx.requeue_some()? && !expire_next(tx)? {
            break;
        }
        // What expired was perhaps no row any more: it costs something all the same.
        tx.count_gone();
    }
    Ok(())
}

/// Drops the segment with the earliest deadline, or its whole content, if that is past.
fn expire_next(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    let (due, key) = match tx.tables().deadlines.first()? {
        Some((key, _)) => split_deadline(key.value())?,
        None => return Ok(false),
    };
    if due > tx.now() {
        return Ok(false);
    }
    tx.pass_deadline(due, key)?;
    let Some(content) = tx
        .catalog()
        .get(key.content_no)
        .map(|content| Content::clone(content))
    else {
        return Ok(true);
    };
    match tx.segment(key)? {
        Some(row) if deadline(&content, key, &row) == Some(due) => {
            expire_one(tx, content, key, row)?;
        }
        _ => {}
    }
    Ok(true)
}

fn expire_one(
    tx: &mut Tx<'_>,
    mut content: Content,
    key: SegmentKey,
    row: SegmentRow,
) -> Result<(), StoreError> {
    if content.hold_until.is_some() {
        tx.count_expired(content.segment_count());
        return tx.remove_content(content.no);
    }
    tx.leave(&mut content, (key, &row), Why::Expired)?;
    advance(tx, &mut content, key.rendition_no)?;
    if content.segment_count() == 0 && content.expires <= tx.now() {
        return tx.remove_content(content.no);
    }
    tx.put_content(content)
}

/// Moves the start of a growing playlist past the expired segments at its front. One that expires
/// behind a later one stays as a gap until the front has come to it, so that its discontinuity is
/// counted when it leaves the playlist.
fn advance(tx: &mut Tx<'_>, content: &mut Content, rendition_no: u16) -> Result<(), StoreError> {
    let mut moved = false;
    let front = loop {
        let Some((key, row)) = tx.front(content.no, rendition_no)? else {
            break None;
        };
        let due = deadline(content, key, &row).is_some_and(|deadline| deadline <= tx.now());
        if row.present || !due {
            break Some(key.sequence);
        }
        tx.withdraw(content, (key, &row))?;
        let state = &mut content.renditions[usize::from(rendition_no)];
        state.discontinuities_gone += u64::from(row.discontinuity);
        moved = true;
    };
    if moved {
        let state = &mut content.renditions[usize::from(rendition_no)];
        state.first = front.unwrap_or(state.next).max(state.first);
    }
    Ok(())
}

/// Drops what is past its deadline, however much it is, when `incoming` bytes need the room.
pub(super) fn expire_for_room(tx: &mut Tx<'_>, incoming: u64) -> Result<(), StoreError> {
    while tx.lacks(incoming) && (tx.clear_some()? || expire_next(tx)?) {}
    Ok(())
}

/// Drops a payload whose segment stays known, so that the playlist shows a gap.
pub(super) fn lose(tx: &mut Tx<'_>, key: SegmentKey, why: Why) -> Result<(), StoreError> {
    let mut content = tx.content(key.content_no)?;
    let Some(row) = tx.segment(key)? else {
        return Ok(());
    };
    if !row.present {
        return Ok(());
    }
    tx.leave(&mut content, (key, &row), why)?;
    // A growing content keeps its place in the playlist until its last deadline.
    let gone = content.state == State::Finished && content.segment_count() == 0;
    if gone && !content.pinned {
        return tx.remove_content(content.no);
    }
    tx.put_content(content)
}

/// Drops a segment whose payload is torn, damaged or gone; whether it is.
pub(super) fn lose_payload(
    tx: &mut Tx<'_>,
    key: SegmentKey,
    root: &Root,
) -> Result<bool, StoreError> {
    let Some(row) = tx
        .segment(key)?
        .filter(|row| row.present && row.root == *root)
    else {
        return Ok(false);
    };
    let path = tx.settings().layout.payload(root);
    // The file may have come, or come back, since it was missed.
    if tx.is_placed(&path) || is_usable(&tx.settings().disk, &path, &row)? {
        return Ok(false);
    }
    lose(tx, key, Why::Torn)?;
    Ok(true)
}

/// Takes the file of a damaged payload away, so that each of its segments is dropped when it is
/// looked at next. Whether it was damaged.
pub(super) fn discard_damaged(
    tx: &mut Tx<'_>,
    root: &Root,
    length: u64,
) -> Result<bool, StoreError> {
    let Settings { disk, layout, .. } = tx.settings();
    let path = layout.payload(root);
    // It may have come again since it was looked at.
    if tx.is_placed(&path) || is_good(disk, &path, root, length)? {
        return Ok(false);
    }
    match disk.files.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove a damaged segment", error))
        }
        _ => Ok(true),
    }
}

/// Whether a payload file is what its row says. Fails when that cannot be known now.
pub(super) fn is_usable(disk: &Disk, path: &Path, row: &SegmentRow) -> Result<bool, StoreError> {
    is_good(disk, path, &row.root, row.length)
}

/// Whether a payload file is what `root` names. Fails when that cannot be known now.
pub(super) fn is_good(
    disk: &Disk,
    path: &Path,
    root: &Root,
    length: u64,
) -> Result<bool, StoreError> {
    let unreadable = rustix::io::Errno::IO.raw_os_error();
    let opened = disk.open(path);
    let checked = opened.and_then(|file| payload::is_intact(&*file, root, length));
    match checked {
        Ok(intact) => Ok(intact),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.raw_os_error() == Some(unreadable) => Ok(false),
        Err(error) => Err(StoreError::io("read a segment", error)),
    }
}

impl Tx<'_> {
    /// Whether `incoming` bytes more would exceed the limit.
    fn lacks(&self, incoming: u64) -> bool {
        let wanted = self.taken().saturating_add(incoming);
        self.limit().is_some_and(|limit| wanted > limit.bytes)
    }

    /// The first media segment that is known of a rendition.
    fn front(
        &self,
        content_no: u64,
        rendition_no: u16,
    ) -> Result<Option<(SegmentKey, SegmentRow)>, StoreError> {
        let range = SegmentKey::range(content_no, Some((rendition_no, Kind::Media)));
        let segments = &self.tables().segments;
        let mut rows = segments.range(range.start().as_slice()..=range.end().as_slice())?;
        let Some(entry) = rows.next() else {
            return Ok(None);
        };
        let (key, row) = entry?;
        Ok(Some((
            SegmentKey::from_bytes(key.value())?,
            SegmentRow::decode(row.value())?,
        )))
    }
}
