//! One write transaction of the index, with the steps that all operations share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lavant_proto::content::{Kind, SignedManifest};
use lavant_proto::ids::{ContentKey, Root};
use lavant_proto::relay::evict::{EvictionRank, Holding};
use lavant_proto::time::Time;
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::catalog::{Catalog, Content, ManifestFacts, next_generation};
use super::change::Change;
use super::error::StoreError;
use super::layout::pin_line;
use super::limit::Limit;
use super::partials::Partials;
use super::rows::{
    CONTENTS, DEADLINES, EVICTION, GARBAGE, LEFTOVERS, META, PAYLOADS, REMOVALS, SEGMENTS,
    SegmentKey, SegmentRow, USED, USED_OF, VERSIONS, deadline_key, eviction_key, version_key,
};
use super::settings::Settings;
use super::standing::Standings;
use super::{manifest, payload};

/// Rows of a removed content that go in one step: some milliseconds of work. In tests contents are
/// short.
const CLEAR_STEP: usize = if cfg!(test) { 3 } else { 32 };

/// The open tables of a write transaction, and what is to be done once it is durable.
pub(super) struct Tx<'t> {
    pub(super) meta: Table<'t, &'static str, u64>,
    pub(super) contents: Table<'t, u64, &'static [u8]>,
    pub(super) segments: Table<'t, &'static [u8], &'static [u8]>,
    pub(super) deadlines: Table<'t, &'static [u8], ()>,
    pub(super) eviction: Table<'t, &'static [u8], ()>,
    pub(super) payloads: Table<'t, &'static [u8], (u32, u64)>,
    pub(super) garbage: Table<'t, &'static [u8], ()>,
    pub(super) versions: Table<'t, &'static [u8], u32>,
    pub(super) removals: Table<'t, &'static [u8], (u32, u64)>,
    /// Contents that are removed and of which rows are left: see [`Tx::clear_some`].
    leftovers: Table<'t, u64, &'static [u8]>,
    /// How many rows went, of which a commit has no more than it takes in some milliseconds.
    pub(super) rows_gone: usize,
    /// The catalogue as it will be.
    pub(super) catalog: Catalog,
    /// Bytes of all payload files as they will be.
    pub(super) used: u64,
    /// Bytes that uploads hold.
    pub(super) staged: u64,
    /// Bytes that this transaction takes over from uploads.
    pub(super) unstaged: u64,
    /// Files of payloads and manifests, by the places that they get.
    pub(super) moves: BTreeMap<PathBuf, PathBuf>,
    /// Payload files to remove.
    pub(super) unlinks: Vec<Root>,
    /// Other files to remove: incoming ones that are not needed, old manifests, old pins.
    pub(super) surplus: Vec<PathBuf>,
    /// Contents for which a pin was written.
    pub(super) pins: Vec<ContentKey>,
    /// How many segments were dropped, by reason.
    pub(super) dropped: Dropped,
    /// What is told to those who listen.
    pub(super) changes: Vec<Change>,
    pub(super) settings: &'t Settings,
    /// Most bytes of payload files; none while an index is made again.
    pub(super) limit: Option<Limit>,
    /// What arrives in pieces; nothing while an index is made again.
    pub(super) partials: Option<&'t Partials>,
    pub(super) now: Time,
}

/// What a transaction goes on from; see the fields of [`Tx`].
pub(super) struct Ground<'t> {
    pub(super) settings: &'t Settings,
    pub(super) standings: &'t Arc<Standings>,
    pub(super) catalog: Catalog,
    pub(super) used: u64,
    pub(super) staged: u64,
    pub(super) limit: Option<Limit>,
    pub(super) partials: &'t Partials,
}

/// What a transaction leaves to be done; see the fields of [`Tx`].
pub(super) struct Done {
    pub(super) catalog: Catalog,
    pub(super) used: u64,
    pub(super) unstaged: u64,
    pub(super) moves: BTreeMap<PathBuf, PathBuf>,
    pub(super) unlinks: Vec<Root>,
    pub(super) surplus: Vec<PathBuf>,
    pub(super) pins: Vec<ContentKey>,
    pub(super) dropped: Dropped,
    pub(super) changes: Vec<Change>,
}

/// Counts of segments that the store let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their time was over.
    pub expired: u64,
    /// They made room for others.
    pub evicted: u64,
    /// Their file was torn or gone.
    pub torn: u64,
}

impl<'t> Tx<'t> {
    /// Opens the tables to go on from what the last transaction left.
    pub(super) fn open(
        write: &'t WriteTransaction,
        ground: Ground<'t>,
    ) -> Result<Self, StoreError> {
        let tx = Self::empty(write, ground.settings, ground.standings)?;
        Ok(Self {
            catalog: ground.catalog,
            used: ground.used,
            staged: ground.staged,
            limit: ground.limit,
            partials: Some(ground.partials),
            ..tx
        })
    }

    /// Opens the tables of an index that holds nothing.
    pub(super) fn empty(
        write: &'t WriteTransaction,
        settings: &'t Settings,
        standings: &Arc<Standings>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            meta: write.open_table(META)?,
            contents: write.open_table(CONTENTS)?,
            segments: write.open_table(SEGMENTS)?,
            deadlines: write.open_table(DEADLINES)?,
            eviction: write.open_table(EVICTION)?,
            payloads: write.open_table(PAYLOADS)?,
            garbage: write.open_table(GARBAGE)?,
            versions: write.open_table(VERSIONS)?,
            removals: write.open_table(REMOVALS)?,
            leftovers: write.open_table(LEFTOVERS)?,
            rows_gone: 0,
            catalog: Catalog::new(Arc::clone(standings)),
            used: 0,
            staged: 0,
            unstaged: 0,
            moves: BTreeMap::new(),
            unlinks: Vec::new(),
            surplus: Vec::new(),
            pins: Vec::new(),
            dropped: Dropped::default(),
            changes: Vec::new(),
            settings,
            limit: None,
            partials: None,
            now: settings.clock.now(),
        })
    }

    /// Notes the bytes of all payload files, so that no start has to add them up.
    pub(super) fn note_used(&mut self) -> Result<(), StoreError> {
        self.meta.insert(USED, self.used)?;
        self.meta.insert(USED_OF, self.payloads.len()?)?;
        Ok(())
    }

    /// Closes the tables; what is left is to be done once the commit succeeded.
    pub(super) fn close(self) -> Done {
        Done {
            catalog: self.catalog,
            used: self.used,
            unstaged: self.unstaged,
            moves: self.moves,
            unlinks: self.unlinks,
            surplus: self.surplus,
            pins: self.pins,
            dropped: self.dropped,
            changes: self.changes,
        }
    }

    /// A number for a new content.
    pub(super) fn next_content_no(&mut self) -> Result<u64, StoreError> {
        let next = self
            .meta
            .get("next_content")?
            .map_or(1, |value| value.value());
        self.meta.insert("next_content", next + 1)?;
        Ok(next)
    }

    /// Writes a content to the index and the catalogue.
    pub(super) fn put_content(&mut self, mut content: Content) -> Result<(), StoreError> {
        content.generation = next_generation();
        if self.catalog.get(content.no).is_none() {
            let ContentKey {
                publisher,
                content_id,
                version,
            } = &content.key;
            let key = version_key(publisher, content_id);
            let highest = self
                .versions
                .get(key.as_slice())?
                .map_or(0, |row| row.value());
            self.versions
                .insert(key.as_slice(), highest.max(*version))?;
        }
        self.contents
            .insert(content.no, content.encode().as_slice())?;
        self.catalog.insert(content);
        Ok(())
    }

    /// A copy of a content, for changing it.
    pub(super) fn content(&self, no: u64) -> Result<Content, StoreError> {
        let found = self
            .catalog
            .get(no)
            .ok_or_else(|| StoreError::NotFound("the content".into()));
        found.map(|content| Content::clone(content))
    }

    pub(super) fn segment(&self, key: SegmentKey) -> Result<Option<SegmentRow>, StoreError> {
        let row = self.segments.get(key.to_bytes().as_slice())?;
        row.map(|row| SegmentRow::decode(row.value())).transpose()
    }

    pub(super) fn put_segment(
        &mut self,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        self.segments
            .insert(key.to_bytes().as_slice(), row.encode().as_slice())?;
        Ok(())
    }

    /// Enters a segment into the queues of expiry and eviction.
    pub(super) fn enqueue(
        &mut self,
        content: &Content,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        if let Some(deadline) = deadline(content, key, row) {
            self.deadlines
                .insert(deadline_key(deadline, key).as_slice(), ())?;
        }
        if let Some(rank) = self.rank(content, key, row) {
            self.eviction
                .insert(eviction_key(rank, key).as_slice(), ())?;
        }
        Ok(())
    }

    /// Takes a segment out of both queues.
    pub(super) fn dequeue(
        &mut self,
        content: &Content,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        if let Some(deadline) = deadline(content, key, row) {
            self.deadlines
                .remove(deadline_key(deadline, key).as_slice())?;
        }
        if let Some(rank) = self.rank(content, key, row) {
            self.eviction.remove(eviction_key(rank, key).as_slice())?;
        }
        Ok(())
    }

    /// Counts one more use of a payload. The file that waits, if there is one, takes the place of
    /// one that is here already: it was verified just now, and the other may have been damaged.
    pub(super) fn add_payload(
        &mut self,
        root: &Root,
        length: u64,
        file: Option<PathBuf>,
    ) -> Result<(), StoreError> {
        let uses = self
            .payloads
            .get(root.0.as_slice())?
            .map_or(0, |row| row.value().0);
        self.payloads
            .insert(root.0.as_slice(), (uses + 1, length))?;
        if uses == 0 {
            self.used += payload::disk_bytes(length);
            self.unlinks.retain(|gone| gone != root);
            self.garbage.remove(root.0.as_slice())?;
        }
        if let Some(file) = file {
            let place = self.settings.layout.payload(root);
            self.surplus.extend(self.moves.insert(place, file));
        }
        Ok(())
    }

    /// Counts one use of a payload less; its file goes with the last.
    pub(super) fn drop_payload(&mut self, root: &Root) -> Result<(), StoreError> {
        let Some((uses, length)) = self.payloads.get(root.0.as_slice())?.map(|row| row.value())
        else {
            return Ok(());
        };
        if uses > 1 {
            self.payloads
                .insert(root.0.as_slice(), (uses - 1, length))?;
            return Ok(());
        }
        self.payloads.remove(root.0.as_slice())?;
        self.used = self.used.saturating_sub(payload::disk_bytes(length));
        self.surplus
            .extend(self.moves.remove(&self.settings.layout.payload(root)));
        self.garbage.insert(root.0.as_slice(), ())?;
        self.unlinks.push(*root);
        Ok(())
    }

    /// The segments of a content, in order.
    pub(super) fn rows(
        &self,
        content_no: u64,
        within: Option<(u16, Kind)>,
    ) -> Result<Vec<(SegmentKey, SegmentRow)>, StoreError> {
        let range = SegmentKey::range(content_no, within);
        let mut rows = Vec::new();
        for entry in self
            .segments
            .range(range.start().as_slice()..=range.end().as_slice())?
        {
            let (key, row) = entry?;
            rows.push((
                SegmentKey::from_bytes(key.value())?,
                SegmentRow::decode(row.value())?,
            ));
        }
        Ok(rows)
    }

    /// Notes in a file that a content is pinned, for when the index must be made again.
    pub(super) fn mark_pinned(&mut self, content: &Content) -> Result<(), StoreError> {
        let path = self.settings.layout.pin(&content.key);
        self.surplus.retain(|file| *file != path);
        self.pins.push(content.key.clone());
        let line = pin_line(&content.key);
        let Settings { disk, layout, .. } = self.settings;
        let written = disk.write(&path, line.as_bytes());
        let named = written.and_then(|()| disk.files.flush_folder(&layout.pins()));
        named.map_err(|error| StoreError::io("write a pin", &error))
    }

    /// Removes a content with all of its segments, of which so many bytes have files. It is gone at
    /// once for everybody; rows and files of a long one go with the next commits, so that nothing
    /// waits for all of them.
    pub(super) fn remove_content(&mut self, no: u64) -> Result<(), StoreError> {
        let content = self.content(no)?;
        self.leftovers.insert(no, content.encode().as_slice())?;
        self.contents.remove(no)?;
        self.catalog.remove(no);
        self.changes.push(Change::Removed {
            content_no: no,
            key: content.key.clone(),
        });
        let layout = &self.settings.layout;
        self.surplus.extend(self.moves.remove(&layout.manifest(no)));
        self.surplus
            .extend([layout.manifest(no), layout.pin(&content.key)]);
        self.clear(&content, CLEAR_STEP)
    }

    /// Takes away some of what is left of removed contents. Whether there was something.
    pub(super) fn clear_some(&mut self) -> Result<bool, StoreError> {
        let first = self.leftovers.first()?;
        let first = first.map(|(no, row)| Content::decode(no.value(), row.value()));
        let Some(content) = first.transpose()? else {
            return Ok(false);
        };
        self.clear(&content, CLEAR_STEP)?;
        Ok(true)
    }

    /// Whether something is left of removed contents.
    pub(super) fn has_leftovers(&self) -> Result<bool, StoreError> {
        Ok(self.leftovers.first()?.is_some())
    }

    /// Takes away rows of a removed content, at most so many.
    fn clear(&mut self, content: &Content, most: usize) -> Result<(), StoreError> {
        let range = SegmentKey::range(content.no, None);
        let range = range.start().as_slice()..=range.end().as_slice();
        let mut rows = Vec::new();
        for entry in self.segments.range(range)?.take(most) {
            let (key, row) = entry?;
            rows.push((
                SegmentKey::from_bytes(key.value())?,
                SegmentRow::decode(row.value())?,
            ));
        }
        for (key, row) in &rows {
            self.dequeue(content, *key, row)?;
            if row.present {
                self.drop_payload(&row.root)?;
            }
            self.segments.remove(key.to_bytes().as_slice())?;
        }
        self.rows_gone += rows.len();
        if rows.len() < most {
            self.leftovers.remove(content.no)?;
        }
        Ok(())
    }

    /// Writes the manifest of a content that is finished with this transaction, and notes in the
    /// content what others are told of it.
    pub(super) fn put_manifest(
        &mut self,
        content: &mut Content,
        signed: &SignedManifest,
        rows: &[SegmentRow],
    ) -> Result<(), StoreError> {
        let no = content.no;
        content.manifest = Some(Arc::new(ManifestFacts::of(signed)));
        let file = self.settings.layout.incoming_manifest(no);
        // One of a content that is gone would keep the place until after the commit.
        let stale = self.settings.layout.manifest(no);
        let _ = self.settings.disk.files.remove(&stale);
        let written = manifest::write(&self.settings.disk, &file, signed, rows);
        written.map_err(|error| StoreError::io("write a manifest", &error))?;
        self.moves.insert(self.settings.layout.manifest(no), file);
        Ok(())
    }

    /// The place of a segment in the queue of eviction; none when it is not here or stays.
    pub(super) fn rank(
        &self,
        content: &Content,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Option<EvictionRank> {
        if !row.present {
            return None;
        }
        let rank = EvictionRank::of(&Holding {
            priority: content.priority,
            copies: row.copies,
            created: row.since(),
            sequence: key.sequence,
            pinned: content.pinned || key.kind == Kind::Init,
        });
        let standing = self.catalog.standing(&content.key.publisher);
        rank.map(|rank| rank.with_standing(standing))
    }

    /// Changes a content in a way that moves its segments in the queues.
    pub(super) fn requeue(&mut self, before: &Content, after: Content) -> Result<(), StoreError> {
        for (key, row) in self.rows(after.no, None)? {
            self.dequeue(before, key, &row)?;
            self.enqueue(&after, key, &row)?;
        }
        self.put_content(after)
    }
}

/// When a segment expires: with its content once that is finished or superseded, else on its own;
/// init segments go with their content, pinned contents stay.
pub(super) fn deadline(content: &Content, key: SegmentKey, row: &SegmentRow) -> Option<Time> {
    let stays = content.pinned || key.kind == Kind::Init;
    (!stays).then(|| content.hold_until.unwrap_or_else(|| row.expires()))
}
