//! Payloads that arrive in pieces: what came stays, over broken links and restarts.
//!
//! A partial payload's file has the shape of a whole one, with holes. Its have-ranges are written
//! to the index only after the chunk groups are flushed, so they never claim too much.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lavant_proto::content::{Priority, Proof, SegmentRecord, Verified};
use lavant_proto::ids::Root;
use lavant_proto::limits::SEGMENT_BYTES_MAX;
use lavant_proto::time::Time;
use lavant_proto::verify::{
    HaveRanges, VerifiedItem, VerifiedSlice, encode_slice, group_count, outboard_length,
};
use redb::ReadableTable;

use super::append::insert;
use super::error::StoreError;
use super::layout::{self, Layout};
use super::rows::{PARTIALS, PAYLOADS};
use super::tx::Tx;
use super::{Store, payload};

/// Most partial payloads at a time; the one that waits for the longest time gives way.
const PARTIALS_MAX: u64 = 4096;

impl Store {
    /// Which chunk groups of a payload are here: `None` when nothing is known of it.
    pub fn have(&self, root: &Root, length: u64) -> Result<Option<HaveRanges>, StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let read = index.begin_read()?;
        if read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some() {
            return Ok(Some(HaveRanges::full(group_count(length))));
        }
        let partials = read.open_table(PARTIALS)?;
        let Some(row) = partials.get(root.0.as_slice())? else {
            return Ok(None);
        };
        Partial::decode(row.value()).map(|partial| Some(partial.have))
    }

    /// Keeps the chunk groups of a verified slice. Durable on return. Blocks.
    ///
    /// The slice must have been verified against this root and length. Returns what is here now.
    pub fn put_slice(
        &self,
        root: &Root,
        length: u64,
        slice: &VerifiedSlice,
    ) -> Result<HaveRanges, StoreError> {
        check_length(length)?;
        let bytes = used(slice.groups(), length);
        self.check_disk(bytes)?;
        self.reserve(bytes, Priority::Vod)?;
        write_items(&self.settings().layout, root, length, slice)
            .map_err(|error| StoreError::io("write part of a segment", &error))?;
        let root = *root;
        let groups = slice.groups().clone();
        self.write(move |tx| add_groups(tx, &root, length, &groups))
    }

    /// A slice of a payload that is here, whole or in part, for passing it on.
    pub fn slice(
        &self,
        root: &Root,
        length: u64,
        groups: &HaveRanges,
    ) -> Result<Vec<u8>, StoreError> {
        check_length(length)?;
        let layout = &self.settings().layout;
        let file = File::open(layout.payload(root))
            .or_else(|_| File::open(layout.partial(root)))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound(format!("segment {root}")),
                _ => StoreError::io("open a segment", &error),
            })?;
        let mut outboard = vec![0; usize::try_from(outboard_length(length)).unwrap_or(0)];
        file.read_exact_at(&mut outboard, length)
            .map_err(|error| StoreError::io("read a segment", &error))?;
        encode_slice(&file, &outboard[..], root, length, groups)
            .map_err(|error| StoreError::Invalid(error.to_string()))
    }

    /// Makes a stored segment of a payload of which every chunk group has come. Blocks.
    ///
    /// The record must carry its publisher's signature. Returns whether the segment was new.
    pub fn adopt(&self, record: Verified<SegmentRecord>, proof: Proof) -> Result<bool, StoreError> {
        let root = record.root;
        let count = group_count(record.length);
        let here = self.have(&root, record.length)?.unwrap_or_default();
        if !here.missing(count).runs().is_empty() {
            return Err(StoreError::Conflict(
                "parts of the segment have not come yet".into(),
            ));
        }
        let layout = &self.settings().layout;
        let whole = layout.payload(&root);
        let from = if whole.exists() {
            whole
        } else {
            layout.partial(&root)
        };
        let file = self.incoming_file();
        let intact = complete(&from, &file, &record, &proof);
        if !matches!(intact, Ok(true)) {
            let _ = fs::remove_file(&file);
        }
        if !intact.map_err(|error| StoreError::io("complete a segment", &error))? {
            self.write(move |tx| forget_partial(tx, &root))?;
            return Err(StoreError::Conflict(
                "the parts of the segment were damaged here and are dropped; fetch them again"
                    .into(),
            ));
        }
        let place = file.clone();
        let outcome = self.write(move |tx| {
            let new = insert(tx, &record, &proof, place, None)?;
            forget_partial(tx, &root)?;
            Ok(new)
        });
        if outcome != Ok(true) {
            let _ = fs::remove_file(file);
        }
        outcome
    }
}

fn check_length(length: u64) -> Result<(), StoreError> {
    if length == 0 || length > SEGMENT_BYTES_MAX {
        return Err(StoreError::Invalid(
            "a segment must not be empty, nor longer than 1 GiB".into(),
        ));
    }
    Ok(())
}

/// Writes payload and outboard pieces to their places and flushes them.
fn write_items(layout: &Layout, root: &Root, length: u64, slice: &VerifiedSlice) -> io::Result<()> {
    let path = layout.partial(root);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    let size = length + outboard_length(length);
    let fresh = file.metadata()?.len() == 0;
    if fresh {
        file.set_len(size)?;
    }
    for item in slice.items() {
        match item {
            VerifiedItem::Payload { offset, bytes } => file.write_all_at(bytes, *offset)?,
            VerifiedItem::Outboard { offset, pair } => file.write_all_at(pair, length + offset)?,
        }
    }
    file.sync_all()?;
    if fresh {
        layout::sync_folder(&layout.partials())
    } else {
        Ok(())
    }
}

/// Copies a complete payload with its outboard into `incoming/` and adds the footer. Whether its
/// bytes are what the record says.
fn complete(from: &Path, to: &Path, record: &SegmentRecord, proof: &Proof) -> io::Result<bool> {
    let size = record.length + outboard_length(record.length);
    let mut file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(to)?;
    io::copy(&mut File::open(from)?.take(size), &mut file)?;
    let footer = payload::footer_bytes(record.length, record, proof);
    file.write_all_at(&footer, size)?;
    file.sync_all()?;
    payload::is_intact(&mut file, &record.root, record.length)
}

fn add_groups(
    tx: &mut Tx<'_>,
    root: &Root,
    length: u64,
    groups: &HaveRanges,
) -> Result<HaveRanges, StoreError> {
    if tx.payloads.get(root.0.as_slice())?.is_some() {
        forget_partial(tx, root)?;
        return Ok(HaveRanges::full(group_count(length)));
    }
    let path = tx.settings.layout.partial(root);
    if tx.surplus.contains(&path) || !path.exists() {
        return Err(StoreError::Busy(
            "the segment's parts were just dropped; send again".into(),
        ));
    }
    let held = match tx.partials.get(root.0.as_slice())? {
        Some(row) => Some(Partial::decode(row.value())?),
        None => None,
    };
    let fresh = held.is_none();
    let mut partial = held.unwrap_or(Partial {
        length,
        touched: tx.now,
        have: HaveRanges::new(),
    });
    if partial.length != length {
        return Err(StoreError::Conflict(
            "this segment is known with another length".into(),
        ));
    }
    let before = partial.used();
    for run in groups.runs() {
        let added = partial.have.insert(run.start, run.end);
        added.map_err(|error| StoreError::Invalid(error.to_string()))?;
    }
    if fresh && redb::ReadableTableMetadata::len(&tx.partials)? >= PARTIALS_MAX {
        forget_stalest(tx)?;
    }
    partial.touched = tx.now;
    tx.used += partial.used().saturating_sub(before);
    tx.partials
        .insert(root.0.as_slice(), partial.encode().as_slice())?;
    Ok(partial.have)
}

/// Drops the partial payload to which nothing came for the longest time.
fn forget_stalest(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let mut stalest: Option<(Time, Root)> = None;
    for entry in tx.partials.iter()? {
        let (root, row) = entry?;
        let touched = Partial::decode(row.value())?.touched;
        let Ok(root) = root.value().try_into() else {
            continue;
        };
        if stalest.is_none_or(|(time, _)| touched < time) {
            stalest = Some((touched, Root(root)));
        }
    }
    stalest.map_or(Ok(()), |(_, root)| forget_partial(tx, &root))
}

pub(super) fn forget_partial(tx: &mut Tx<'_>, root: &Root) -> Result<(), StoreError> {
    let row = tx
        .partials
        .remove(root.0.as_slice())?
        .map(|row| disk_bytes(row.value()));
    tx.used = tx.used.saturating_sub(row.unwrap_or(0));
    tx.surplus.push(tx.settings.layout.partial(root));
    Ok(())
}

fn used(have: &HaveRanges, length: u64) -> u64 {
    (have.count() * lavant_proto::verify::CHUNK_GROUP_BYTES).min(length)
}

/// Bytes that a row of the partial table stands for.
pub(super) fn disk_bytes(row: &[u8]) -> u64 {
    Partial::decode(row).map_or(0, |partial| partial.used())
}

/// A row of the partial table.
struct Partial {
    length: u64,
    /// When something of it came last.
    touched: Time,
    have: HaveRanges,
}

impl Partial {
    fn used(&self) -> u64 {
        used(&self.have, self.length)
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.length.to_le_bytes(), self.touched.0.to_le_bytes()];
        [numbers.as_flattened(), &self.have.encode()].concat()
    }

    fn decode(row: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Index("a partial segment's row is damaged".into());
        let (length, rest) = row.split_first_chunk().ok_or_else(damaged)?;
        let (touched, have) = rest.split_first_chunk().ok_or_else(damaged)?;
        Ok(Self {
            length: u64::from_le_bytes(*length),
            touched: Time(u64::from_le_bytes(*touched)),
            have: HaveRanges::decode(have).map_err(|_| damaged())?,
        })
    }
}
