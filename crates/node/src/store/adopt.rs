//! Making stored segments of payloads that came over a link, and passing payloads on.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::sync::Arc;

use bytes::Bytes;
use lavant_proto::content::{Kind, Priority, Proof, SegmentRecord, Verified};
use lavant_proto::ids::Root;
use lavant_proto::verify::{HaveRanges, group_count, outboard_length};
use redb::ReadableTable;

use super::append::check_payload;
use super::catalog::Shown;
use super::disk::{DiskFile, OpenFile};
use super::engine::Store;
use super::error::StoreError;
use super::insert::{Arrival, describe_rendition, insert};
use super::locked::lock;
use super::partial::{Partial, path_of};
use super::pieces::read_pieces;
use super::rows::{PAYLOADS, SEGMENTS, SegmentKey, SegmentRow};
use super::settings::Settings;
use super::tx::Tx;
use super::{expire, payload};

/// Most rows of the index that are read to find the segments of a damaged payload: some hundredths
/// of a second. In tests stores are small.
const LOOKED_AT_MAX: usize = if cfg!(test) { 16 } else { 20_000 };
/// Most segments of it that are dropped at once, each with a commit of its own.
const DROPPED_MAX: usize = 64;

/// A payload that is here, whole or in part, open for passing it on.
#[derive(Clone, Debug)]
pub struct SliceFile {
    /// The file; the payload stands at its start.
    pub(super) file: DiskFile,
    /// Its outboard, of which only the nodes above the chunk groups that are here are filled in.
    pub outboard: Vec<u8>,
    /// Length of the payload in bytes.
    pub length: u64,
    /// The chunk groups that are here.
    pub have: HaveRanges,
}

impl SliceFile {
    /// Fills `pieces` with the bytes that stand in the payload from `at` on.
    pub fn read(&self, at: u64, pieces: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        read_pieces(&*self.file, at, pieces)
    }
}

impl Store {
    /// Which chunk groups of a payload are here: `None` when nothing is known of it.
    pub fn have(&self, root: &Root, length: u64) -> Result<Option<HaveRanges>, StoreError> {
        if self.payload_length(root)? == Some(length) {
            return Ok(Some(HaveRanges::full(group_count(length))));
        }
        let partial = self.known_partial((*root, length))?;
        Ok(partial.map(|partial| partial.have()))
    }

    /// Length of a payload that is here as a whole.
    fn payload_length(&self, root: &Root) -> Result<Option<u64>, StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let payloads = index.begin_read()?.open_table(PAYLOADS)?;
        let row = payloads.get(root.0.as_slice())?;
        Ok(row.map(|row| row.value().1))
    }

    /// Opens a payload, whole or partial, for passing it on. Nothing is hashed: who gets it does.
    pub fn slice_file(&self, root: &Root, length: u64) -> Result<SliceFile, StoreError> {
        let unread = |error| StoreError::io("read a segment", error);
        let (file, have) = if self.payload_length(root)? == Some(length) {
            let Settings { disk, layout, .. } = self.settings();
            let file = disk
                .open(&layout.payload(root))
                .map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => StoreError::NotFound(format!("segment {root}")),
                    _ => unread(error),
                })?;
            (file, HaveRanges::full(group_count(length)))
        } else {
            let partial = self
                .known_partial((*root, length))?
                .ok_or_else(|| StoreError::NotFound(format!("segment {root}")))?;
            // What is here by now is in the outboard that is read after it.
            let have = partial.have();
            (Arc::clone(partial.file()), have)
        };
        let mut outboard = vec![0; usize::try_from(outboard_length(length)).unwrap_or(0)];
        file.read_exact_at(length, &mut outboard).map_err(unread)?;
        Ok(SliceFile {
            file,
            outboard,
            length,
            have,
        })
    }

    /// Makes a stored segment of a payload of which every chunk group is here. Blocks.
    ///
    /// Without its publisher's signature, the manifest that vouches for the record must be here.
    /// `playlist_start` is the lowest sequence that is expected, where the playlist of a stream
    /// starts if this is the first segment of its rendition. `shown` is kept when the rendition
    /// lacks it. Returns whether the segment was new; what is refused leaves the chunk groups where
    /// they are.
    pub fn adopt(
        &self,
        record: Verified<SegmentRecord>,
        proof: Proof,
        playlist_start: Option<u64>,
        shown: Shown,
    ) -> Result<bool, StoreError> {
        check_payload(record.length, record.duration, record.init)?;
        let (root, length) = (record.root, record.length);
        let partial = match self.payload_length(&root)? {
            Some(_) => None,
            None => Some(self.whole_partial(&root, length, &record, &proof)?),
        };
        let known = partial.clone();
        let live = record.priority == Priority::Live;
        let outcome = self.write(move |tx| {
            check_time(tx, &record)?;
            let held = take_over(tx, &root, partial);
            let mut arrival = Arrival {
                file: None,
                playlist_start,
            };
            if let Some((partial, _)) = &held {
                arrival.file = Some(path_of(&tx.settings().layout, partial));
            }
            let inserted = insert(tx, &record, &proof, arrival);
            // What did not become a payload file is still a partial one.
            if let (Ok(false) | Err(_), Some((partial, bytes))) = (&inserted, held) {
                tx.restage(bytes);
                partial.give_back();
            }
            if inserted? {
                describe_rendition(tx, &record, shown)?;
                return Ok(true);
            }
            Ok(false)
        });
        match (&outcome, &known) {
            (Ok(new), partial) => {
                if let Some(partial) = partial.as_ref().filter(|_| live && *new) {
                    self.warm(partial);
                }
                self.forget_partial((root, length));
            }
            (Err(_), Some(partial)) => {
                partial.unseal();
                partial.give_back();
            }
            (Err(_), None) => {}
        }
        outcome
    }

    /// A partial payload that is complete, with its footer, durable.
    fn whole_partial(
        &self,
        root: &Root,
        length: u64,
        record: &SegmentRecord,
        proof: &Proof,
    ) -> Result<Arc<Partial>, StoreError> {
        let partial = self.known_partial((*root, length))?;
        let Some(partial) = partial.filter(|partial| partial.is_whole()) else {
            return Err(StoreError::Conflict(
                "parts of the segment have not come yet".into(),
            ));
        };
        let footer = payload::footer_bytes(length, record, proof);
        partial
            .seal(&footer)
            .map_err(|error| StoreError::io("complete a segment", error))?;
        Ok(partial)
    }

    /// Holds a live segment in memory, since many viewers will ask for it at once.
    fn warm(&self, partial: &Partial) {
        if partial.length() > self.settings().hot_memory {
            return;
        }
        if let Ok(bytes) = read_whole(&**partial.file(), partial.length()) {
            lock(&self.shared.hot).insert(*partial.root(), bytes);
        }
    }

    /// Looks at a payload of which a peer says that its bytes are damaged, and drops what is.
    /// Blocks; reads all of it. Returns whether something was damaged.
    pub fn doubt(&self, root: &Root) -> Result<bool, StoreError> {
        let mut damaged = self.recheck_partials(root)?;
        let Some(length) = self.payload_length(root)? else {
            return Ok(damaged);
        };
        let path = self.settings().layout.payload(root);
        if expire::is_good(&self.settings().disk, &path, root, length)? || self.is_read_only() {
            return Ok(damaged);
        }
        tracing::error!(%root, "a segment is dropped: its bytes are damaged");
        let (keys, are_all) = self.keys_of(root)?;
        for key in keys {
            let root = *root;
            damaged |= self.write(move |tx| expire::lose_payload(tx, key, &root))?;
        }
        if !are_all {
            let root = *root;
            damaged |= self.write(move |tx| expire::discard_damaged(tx, &root, length))?;
        }
        Ok(damaged)
    }

    /// Segments that have a payload, and whether these are all. Its own footer says of which it
    /// came. Of one that several share the others are looked for among the versions of that
    /// content, and then among all segments, of which no more than [`LOOKED_AT_MAX`] are read.
    fn keys_of(&self, root: &Root) -> Result<(Vec<SegmentKey>, bool), StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let read = index.begin_read()?;
        let (table, payloads) = (read.open_table(SEGMENTS)?, read.open_table(PAYLOADS)?);
        let uses = payloads.get(root.0.as_slice())?;
        let uses = uses.map_or(0, |row| row.value().0) as usize;
        let wanted = uses.min(DROPPED_MAX);
        let mut keys = BTreeSet::new();
        let mut ranges = Vec::new();
        if let Some(key) = self.key_in_footer(root) {
            if let Some(row) = table.get(key.to_bytes().as_slice())?
                && has(row.value(), root)?
            {
                keys.insert(key);
            }
            let catalog = self.catalog();
            let of = catalog.get(key.content_no);
            let versions = of
                .into_iter()
                .flat_map(|content| catalog.named(&content.key.content_id));
            ranges.extend(versions.map(|content| SegmentKey::range(content.no, None)));
        }
        ranges.push(SegmentKey::everything());
        let mut left = LOOKED_AT_MAX;
        for range in ranges {
            let rows = table.range(range.start().as_slice()..=range.end().as_slice())?;
            for entry in rows.take(left) {
                if keys.len() >= wanted {
                    break;
                }
                left -= 1;
                let (key, row) = entry?;
                if has(row.value(), root)? {
                    keys.insert(SegmentKey::from_bytes(key.value())?);
                }
            }
        }
        let are_all = keys.len() >= uses;
        Ok((keys.into_iter().collect(), are_all))
    }

    /// The segment that the file of a payload says that it is.
    fn key_in_footer(&self, root: &Root) -> Option<SegmentKey> {
        let Settings { disk, layout, .. } = self.settings();
        let file = disk.open(&layout.payload(root)).ok()?;
        let footer = payload::read_footer(&*file).ok()??;
        let record = SegmentRecord::decode(&footer.record).ok()?;
        // The row is what counts: a signature is not asked for.
        let record = record.claim();
        let (catalog, key) = (self.catalog(), &record.content);
        let content = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version))?;
        Some(SegmentKey {
            content_no: content.no,
            rendition_no: content.rendition_no(record.rendition.as_str())?,
            kind: record.kind,
            sequence: record.sequence,
        })
    }
}

/// Whether an encoded row is of a segment that is here with that payload.
fn has(row: &[u8], root: &Root) -> Result<bool, StoreError> {
    let row = SegmentRow::decode(row)?;
    Ok(row.present && row.root == *root)
}

/// Takes the bytes of a partial payload over into the transaction, unless the payload is here.
fn take_over(
    tx: &mut Tx<'_>,
    root: &Root,
    partial: Option<Arc<Partial>>,
) -> Option<(Arc<Partial>, u64)> {
    let known = tx.tables().payloads.get(root.0.as_slice());
    if known.is_ok_and(|row| row.is_some()) {
        return None;
    }
    let partial = partial?;
    let bytes = partial.take_reserved();
    tx.unstage(bytes);
    Some((partial, bytes))
}

/// Refuses what would be let go at once.
fn check_time(tx: &Tx<'_>, record: &SegmentRecord) -> Result<(), StoreError> {
    let key = &record.content;
    let content = tx
        .catalog()
        .find(Some(&key.publisher), &key.content_id, Some(key.version));
    let held = content.and_then(|content| content.hold_until);
    let stays = content.is_some_and(|content| content.pinned) || record.kind == Kind::Init;
    if !stays && held.unwrap_or_else(|| record.expires()) <= tx.now() {
        return Err(StoreError::Conflict(format!(
            "the time of segment {} of {:?} is over",
            record.sequence,
            key.content_id.as_str()
        )));
    }
    Ok(())
}

fn read_whole(file: &dyn OpenFile, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes.into())
}
