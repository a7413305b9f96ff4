//! Reading: playlists' rows, segments, payload files, pins and removal.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, SegmentRecord, SignedManifest, Verified};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Root, Signature};
use lavant_proto::verify;
use redb::ReadOnlyTable;

use super::catalog::{Content, ManifestFacts};
use super::convert::record_of;
use super::disk::OpenFile;
use super::engine::Store;
use super::error::StoreError;
use super::locked::lock;
use super::removals::note_removal;
use super::rows::{SEGMENTS, SegmentKey, SegmentRow, VERSIONS, version_key};
use super::settings::Settings;
use super::tx::Tx;
use super::{expire, manifest};

/// Rows of which the copies are noted in one commit: a few milliseconds of work.
const COPIES_STEP: usize = 256;

/// A segment that is known, and how to get its bytes.
#[derive(Clone, Debug)]
pub struct Segment {
    key: SegmentKey,
    /// What the index says of it.
    pub row: SegmentRow,
    /// What its bytes are.
    pub mime: MimeType,
}

/// The open file of a payload.
#[derive(Clone, Debug)]
pub struct PayloadFile {
    /// The file; the payload stands at its start.
    pub file: Arc<File>,
    /// Length of the payload in bytes.
    pub length: u64,
}

impl PayloadFile {
    /// Reads a range that lies inside the payload.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        let file: &dyn OpenFile = &*self.file;
        file.read_exact_at(offset, &mut bytes)?;
        Ok(bytes.into())
    }
}

impl Store {
    pub(super) fn segments(
        &self,
    ) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        Ok(index.begin_read()?.open_table(SEGMENTS)?)
    }

    /// The highest version of a content that ever was here; 0 when none was.
    pub(super) fn highest_version(
        &self,
        publisher: &PublisherKey,
        id: &ContentId,
    ) -> Result<u32, StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let versions = index.begin_read()?.open_table(VERSIONS)?;
        let row = versions.get(version_key(publisher, id).as_slice())?;
        Ok(row.map_or(0, |row| row.value()))
    }

    /// The row of a segment, with its key; `None` when it is not known.
    fn row(
        &self,
        content: &Content,
        rendition_no: u16,
        kind: Kind,
        sequence: u64,
    ) -> Result<Option<(SegmentKey, SegmentRow)>, StoreError> {
        if usize::from(rendition_no) >= content.renditions.len() {
            return Ok(None);
        }
        let key = SegmentKey {
            content_no: content.no,
            rendition_no,
            kind,
            sequence,
        };
        // The table must outlive its row: the writer may use the row's page again without it.
        let table = self.segments()?;
        let Some(row) = table.get(key.to_bytes().as_slice())? else {
            return Ok(None);
        };
        Ok(Some((key, SegmentRow::decode(row.value())?)))
    }

    /// One segment; `None` when it is not known or its payload is not here.
    pub fn segment(
        &self,
        content: &Content,
        rendition_no: u16,
        kind: Kind,
        sequence: u64,
    ) -> Result<Option<Segment>, StoreError> {
        let found = self.row(content, rendition_no, kind, sequence)?;
        let found = found.filter(|(_, row)| row.present);
        Ok(found.map(|(key, row)| Segment {
            key,
            row,
            mime: content.renditions[usize::from(rendition_no)].info.mime,
        }))
    }

    /// The known segments of a rendition with their sequences, in order, present or not.
    pub fn rows(
        &self,
        content: &Content,
        rendition_no: u16,
        kind: Kind,
    ) -> Result<Vec<(u64, SegmentRow)>, StoreError> {
        let rows = self.rows_of(content.no, Some((rendition_no, kind)))?;
        Ok(rows
            .into_iter()
            .map(|(key, row)| (key.sequence, row))
            .collect())
    }

    /// The record of a segment that is known, whether its payload is here or not.
    pub fn known_record(
        &self,
        content: &Content,
        rendition_no: u16,
        kind: Kind,
        sequence: u64,
    ) -> Result<Option<SegmentRecord>, StoreError> {
        let found = self.row(content, rendition_no, kind, sequence)?;
        Ok(found.map(|(key, row)| record_of(content, key, &row)))
    }

    /// On how many other nodes the segments are known to be that are here: the least of them.
    pub fn copies(&self, content: &Content) -> Result<u16, StoreError> {
        let range = SegmentKey::range(content.no, None);
        let table = self.segments()?;
        let mut least = None;
        for entry in table.range(range.start().as_slice()..=range.end().as_slice())? {
            let row = SegmentRow::decode(entry?.1.value())?;
            if row.present {
                least = Some(least.map_or(row.copies, |least: u16| least.min(row.copies)));
            }
        }
        Ok(least.unwrap_or(0))
    }

    /// For how long a content plays without a gap from its start, in ticks, in the rendition that
    /// has least. Reads the index up to the first gap.
    pub fn ready_ticks(&self, content: &Content) -> Result<u64, StoreError> {
        let mut least = None;
        for no in 0..content.renditions.len() as u16 {
            let ticks = self.ready_ticks_of(content, no)?;
            least = Some(least.map_or(ticks, |least: u64| least.min(ticks)));
        }
        Ok(least.unwrap_or(0))
    }

    fn ready_ticks_of(&self, content: &Content, rendition_no: u16) -> Result<u64, StoreError> {
        let state = &content.renditions[usize::from(rendition_no)];
        let range = SegmentKey::range(content.no, Some((rendition_no, Kind::Media)));
        let table = self.segments()?;
        let (mut ticks, mut next, mut init) = (0, state.first, None);
        for entry in table.range(range.start().as_slice()..=range.end().as_slice())? {
            let (key, row) = entry?;
            let sequence = SegmentKey::from_bytes(key.value())?.sequence;
            if sequence < state.first {
                continue;
            }
            let row = SegmentRow::decode(row.value())?;
            if sequence != next || !row.present {
                break;
            }
            if let Some(needed) = row.init.filter(|_| row.init != init) {
                if self
                    .segment(content, rendition_no, Kind::Init, needed)?
                    .is_none()
                {
                    break;
                }
                init = Some(needed);
            }
            (ticks, next) = (ticks + row.duration, next + 1);
        }
        Ok(ticks)
    }

    /// The record of a segment, as its publisher signed it.
    #[must_use]
    pub fn record(&self, content: &Content, segment: &Segment) -> SegmentRecord {
        record_of(content, segment.key, &segment.row)
    }

    /// The manifest of a finished content, with signature and leaves, verified again.
    #[must_use]
    pub fn manifest(&self, content: &Content) -> Option<Verified<SignedManifest>> {
        let Settings { disk, layout, .. } = self.settings();
        let stored = manifest::read(disk, &layout.manifest(content.no))?;
        (stored.signed.manifest.content == content.key).then_some(stored.signed)
    }

    /// The manifest of a finished content, encoded, and its signature; its records are not read.
    #[must_use]
    pub fn manifest_head(&self, content: &Content) -> Option<(Vec<u8>, Signature)> {
        let Settings { disk, layout, .. } = self.settings();
        manifest::read_head(disk, &layout.manifest(content.no)).ok()
    }

    /// What others are told of the manifest of a finished content; none when it cannot be read.
    /// Blocks only in a store that cannot be written and is older than these facts.
    #[must_use]
    pub fn manifest_facts(&self, content: &Content) -> Option<Arc<ManifestFacts>> {
        if content.manifest.is_some() {
            return content.manifest.clone();
        }
        let Settings { disk, layout, .. } = self.settings();
        manifest::facts(disk, &layout.manifest(content.no)).map(Arc::new)
    }

    /// A payload that is in memory.
    #[must_use]
    pub fn hot(&self, root: &Root) -> Option<Bytes> {
        lock(&self.shared.hot).get(root)
    }

    /// Opens a segment's payload. A file that is gone or has another length is noticed: the segment
    /// is dropped, and its playlist shows a gap from then on.
    pub fn open_payload(&self, segment: &Segment) -> Result<PayloadFile, StoreError> {
        let root = segment.row.root;
        let length = segment.row.length;
        let path = self.settings().layout.payload(&root);
        let opened = self.settings().disk.open(&path);
        let opened = opened.and_then(|file| Ok((file.facts()?.length, file.to_system()?)));
        match opened {
            Ok((size, file)) if size >= length + verify::outboard_length(length) => {
                Ok(PayloadFile { file, length })
            }
            Ok(_) => Err(self.torn(segment.key, root, "its file is torn")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.torn(segment.key, root, "its file is gone"))
            }
            Err(error) => Err(StoreError::io("open a segment", error)),
        }
    }

    /// Has the writer look at a payload that could not be read, and drop it if it is no good.
    fn torn(&self, key: SegmentKey, root: Root, why: &str) -> StoreError {
        let sequence = key.sequence;
        let row = self.segments().ok().and_then(|table| {
            SegmentRow::decode(table.get(key.to_bytes().as_slice()).ok()??.value()).ok()
        });
        if !row.is_some_and(|row| row.present && row.root == root) {
            return StoreError::NotFound(format!("segment {sequence}"));
        }
        tracing::error!(sequence, %root, "a segment is dropped: {why}");
        let _ = self.submit(move |tx| expire::lose_payload(tx, key, &root));
        StoreError::NotFound(format!("segment {sequence} ({why}, so it was dropped)"))
    }

    /// Reads a whole payload and checks it against its root.
    pub fn read_verified(&self, segment: &Segment) -> Result<Bytes, StoreError> {
        let file = self.open_payload(segment)?;
        let length = usize::try_from(file.length).unwrap_or(usize::MAX);
        match file.read(0, length) {
            Ok(bytes) if verify::matches_root(&bytes, &segment.row.root) => Ok(bytes),
            Ok(_) => Err(self.torn(segment.key, segment.row.root, "its bytes are damaged")),
            Err(_) => Err(self.torn(segment.key, segment.row.root, "its bytes cannot be read")),
        }
    }

    /// Keeps a content from eviction and expiry, or no longer. Blocks.
    pub fn pin(&self, content_no: u64, pinned: bool) -> Result<(), StoreError> {
        self.write(move |tx| {
            let before = tx.content(content_no)?;
            let mut after = before.clone();
            after.pinned = pinned;
            if pinned {
                tx.pin(&after.key);
            } else {
                tx.unpin(&after.key);
            }
            tx.requeue(&before, after)
        })
    }

    /// Notes on how many other nodes segments are known to be, which says what goes first when the
    /// store is full. Blocks; nothing is written when nothing changed.
    pub fn set_copies(
        &self,
        content_no: u64,
        within: (u16, Kind),
        copies: Vec<(Range<u64>, u16)>,
    ) -> Result<(), StoreError> {
        if self.catalog().get(content_no).is_none() {
            return Err(StoreError::NotFound("the content".into()));
        }
        let known = |(key, row): (SegmentKey, SegmentRow)| {
            let (_, copies) = copies.iter().find(|(run, _)| run.contains(&key.sequence))?;
            (*copies != row.copies).then_some((key, *copies))
        };
        let rows = self.rows_of(content_no, Some(within))?.into_iter();
        let changed: Vec<(SegmentKey, u16)> = rows.filter_map(known).collect();
        for some in changed.chunks(COPIES_STEP) {
            let some = some.to_vec();
            self.write(move |tx| note_copies(tx, content_no, &some))?;
        }
        Ok(())
    }

    /// Removes all versions of a content, which then do not come back over a link until
    /// [`Store::forget_removals`]. Blocks. Returns how many segments and bytes went.
    pub fn remove(&self, content: &Content) -> Result<(u64, u64), StoreError> {
        self.write_with_reserve(|| self.remove_once(content.key.clone()))
    }

    fn remove_once(&self, key: ContentKey) -> Result<(u64, u64), StoreError> {
        self.write(move |tx| {
            let versions = tx.catalog().versions(&key.publisher, &key.content_id);
            let all: Vec<Arc<Content>> = versions.cloned().collect();
            if all.is_empty() {
                return Err(StoreError::NotFound(format!(
                    "content {:?}",
                    key.content_id.as_str()
                )));
            }
            let mut gone = (0, 0);
            for content in all {
                note_removal(tx, &content)?;
                gone.0 += content.segment_count();
                gone.1 += content.held_bytes;
                tx.remove_content(content.no)?;
            }
            Ok(gone)
        })
    }
}

fn note_copies(
    tx: &mut Tx<'_>,
    content_no: u64,
    copies: &[(SegmentKey, u16)],
) -> Result<(), StoreError> {
    let content = tx.content(content_no)?;
    for (key, copies) in copies {
        // It may have gone meanwhile.
        let Some(row) = tx.segment(*key)? else {
            continue;
        };
        let counted = SegmentRow {
            copies: *copies,
            ..row.clone()
        };
        tx.revise(&content, *key, (&row, &counted))?;
    }
    Ok(())
}
