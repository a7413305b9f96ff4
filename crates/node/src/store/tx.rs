//! One write transaction of the index, with the steps that all operations share.

mod arrivals;
mod requeue;
mod segments;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lavant_proto::content::SignedManifest;
use lavant_proto::ids::{ContentKey, Root};
use lavant_proto::time::Time;
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

pub(super) use segments::{Why, deadline};

use super::catalog::{Catalog, Content, ManifestFacts, next_generation};
use super::change::Change;
use super::effects::Effects;
use super::error::StoreError;
use super::limit::Limit;
use super::partials::Partials;
use super::rows::{
    ARRIVALS, CONTENTS, DEADLINES, EVICTION, GARBAGE, LEFTOVERS, META, PAYLOADS, REMOVALS,
    REQUEUES, SEGMENTS, USED, USED_OF, VERSIONS, version_key,
};
use super::settings::Settings;
use super::standing::Standings;

/// Rows of a long content that go, or are moved in the queues, in one step: some milliseconds of
/// work. In tests contents are short.
const STEP: usize = if cfg!(test) { 3 } else { 32 };

/// The open tables of a write transaction. Whoever has a [`Tx`] may read them; it alone changes
/// them.
pub(super) struct Tables<'t> {
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
    pub(super) leftovers: Table<'t, u64, &'static [u8]>,
    /// Contents of which only rows are there yet: see [`Tx::begin_arrival`].
    pub(super) arrivals: Table<'t, u64, &'static [u8]>,
    /// Contents of which segments are to be moved in the queues: see [`Tx::requeue`].
    pub(super) requeues: Table<'t, u64, &'static [u8]>,
}

/// A write transaction, and what is to be done once it is durable.
///
/// Its operations keep the queues, the uses of payloads, the counters of contents and what is told
/// of changes in step with each other.
pub(super) struct Tx<'t> {
    tables: Tables<'t>,
    /// How many rows went, of which a commit has no more than it takes in some milliseconds.
    rows_gone: usize,
    /// The catalogue as it will be.
    catalog: Catalog,
    /// Bytes of all payload files as they will be.
    used: u64,
    /// Bytes that uploads hold.
    staged: u64,
    /// Bytes that this transaction takes over from uploads.
    unstaged: u64,
    /// What is done to files around the commit.
    effects: Effects,
    /// How many segments were dropped, by reason.
    dropped: Dropped,
    /// What is told to those who listen.
    changes: Vec<Change>,
    settings: &'t Settings,
    /// Most bytes of payload files; none while an index is made again.
    limit: Option<Limit>,
    /// What arrives in pieces; nothing while an index is made again.
    partials: Option<&'t Partials>,
    now: Time,
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
    pub(super) effects: Effects,
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
        let tables = Tables {
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
            arrivals: write.open_table(ARRIVALS)?,
            requeues: write.open_table(REQUEUES)?,
        };
        Ok(Self {
            tables,
            rows_gone: 0,
            catalog: Catalog::new(Arc::clone(standings)),
            used: 0,
            staged: 0,
            unstaged: 0,
            effects: Effects::default(),
            dropped: Dropped::default(),
            changes: Vec::new(),
            settings,
            limit: None,
            partials: None,
            now: settings.clock.now(),
        })
    }

    /// The tables, to be read.
    pub(super) const fn tables(&self) -> &Tables<'t> {
        &self.tables
    }

    /// The tables, for tests that write what an earlier program did.
    #[cfg(test)]
    pub(super) const fn tables_mut(&mut self) -> &mut Tables<'t> {
        &mut self.tables
    }

    /// The catalogue as it will be.
    pub(super) const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(super) const fn settings(&self) -> &'t Settings {
        self.settings
    }

    /// When it began.
    pub(super) const fn now(&self) -> Time {
        self.now
    }

    pub(super) const fn limit(&self) -> Option<Limit> {
        self.limit
    }

    pub(super) const fn partials(&self) -> Option<&'t Partials> {
        self.partials
    }

    /// Bytes that count as taken: of payload files, and of what waits to become some.
    pub(super) const fn taken(&self) -> u64 {
        self.used.saturating_add(self.staged)
    }

    /// Bytes that waited become payload files with this transaction.
    pub(super) const fn unstage(&mut self, bytes: u64) {
        self.staged = self.staged.saturating_sub(bytes);
        self.unstaged += bytes;
    }

    /// They go on waiting.
    pub(super) const fn restage(&mut self, bytes: u64) {
        self.staged += bytes;
        self.unstaged = self.unstaged.saturating_sub(bytes);
    }

    /// Does something for bytes that wait, which do not count as taken meanwhile.
    pub(super) fn apart_from<T>(&mut self, bytes: u64, work: impl FnOnce(&mut Self) -> T) -> T {
        self.staged = self.staged.saturating_sub(bytes);
        let done = work(self);
        self.staged += bytes;
        done
    }

    /// Has something told to those who listen.
    pub(super) fn tell(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Has a file removed that is not needed any more, after the commit.
    pub(super) fn remove_file(&mut self, file: PathBuf) {
        self.effects.remove(file);
    }

    /// Whether a file gets that place with this transaction.
    pub(super) fn is_placed(&self, place: &Path) -> bool {
        self.effects.is_placed(place)
    }

    /// How many rows went, and one that costs as much.
    pub(super) const fn rows_gone(&self) -> usize {
        self.rows_gone
    }

    pub(super) const fn count_gone(&mut self) {
        self.rows_gone += 1;
    }

    /// Notes that the segments of a content went because their time is over.
    pub(super) const fn count_expired(&mut self, segments: u64) {
        self.dropped.expired += segments;
    }

    /// The file of a payload is gone.
    pub(super) fn forget_garbage(&mut self, root: &Root) -> Result<(), StoreError> {
        self.tables.garbage.remove(root.0.as_slice())?;
        Ok(())
    }

    /// The next payload whose file is to be removed; it is not asked for again.
    pub(super) fn take_garbage(&mut self) -> Result<Option<Root>, StoreError> {
        while let Some((root, _)) = self.tables.garbage.pop_first()? {
            if let Ok(root) = <[u8; 32]>::try_from(root.value()) {
                return Ok(Some(Root(root)));
            }
        }
        Ok(None)
    }

    /// Has the file of a payload removed again, if nothing has used it since it was let go.
    pub(super) fn remove_again(&mut self, root: Root) -> Result<(), StoreError> {
        if self.tables.garbage.get(root.0.as_slice())?.is_some() {
            self.effects.unlink(root);
        }
        Ok(())
    }

    /// Notes a removal, by [`version_key`]: of which version, and until when.
    pub(super) fn put_removal(&mut self, of: &[u8], row: (u32, u64)) -> Result<(), StoreError> {
        self.tables.removals.insert(of, row)?;
        Ok(())
    }

    /// Forgets a removal.
    pub(super) fn forget_removal(&mut self, of: &[u8]) -> Result<(), StoreError> {
        self.tables.removals.remove(of)?;
        Ok(())
    }

    /// Notes a fact about the store.
    pub(super) fn put_fact(&mut self, fact: &'static str, value: u64) -> Result<(), StoreError> {
        self.tables.meta.insert(fact, value)?;
        Ok(())
    }

    /// Notes the bytes of all payload files, so that no start has to add them up.
    pub(super) fn note_used(&mut self) -> Result<(), StoreError> {
        self.tables.meta.insert(USED, self.used)?;
        self.tables
            .meta
            .insert(USED_OF, self.tables.payloads.len()?)?;
        Ok(())
    }

    /// Closes the tables; what is left is to be done once the commit succeeded.
    pub(super) fn close(self) -> Done {
        Done {
            catalog: self.catalog,
            used: self.used,
            unstaged: self.unstaged,
            effects: self.effects,
            dropped: self.dropped,
            changes: self.changes,
        }
    }

    /// A number for a new content.
    pub(super) fn next_content_no(&mut self) -> Result<u64, StoreError> {
        let next = self
            .tables
            .meta
            .get("next_content")?
            .map_or(1, |value| value.value());
        self.tables.meta.insert("next_content", next + 1)?;
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
                .tables
                .versions
                .get(key.as_slice())?
                .map_or(0, |row| row.value());
            self.tables
                .versions
                .insert(key.as_slice(), highest.max(*version))?;
        }
        self.tables
            .contents
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

    /// Notes in a file that a content is pinned, for when the index must be made again.
    pub(super) fn pin(&mut self, content: &ContentKey) {
        self.effects.pin(self.settings, content);
    }

    /// It is pinned no longer.
    pub(super) fn unpin(&mut self, content: &ContentKey) {
        self.effects.unpin(self.settings, content);
    }

    /// Removes a content with all of its segments, of which so many bytes have files. It is gone at
    /// once for everybody; rows and files of a long one go with the next commits, so that nothing
    /// waits for all of them.
    pub(super) fn remove_content(&mut self, no: u64) -> Result<(), StoreError> {
        let content = self.content(no)?;
        self.tables
            .leftovers
            .insert(no, content.encode().as_slice())?;
        self.tables.contents.remove(no)?;
        self.catalog.remove(no);
        self.changes.push(Change::Removed {
            content_no: no,
            key: content.key.clone(),
        });
        let manifest = self.settings.layout.manifest(no);
        self.effects.unplace(manifest.clone());
        self.effects.remove(manifest);
        self.unpin(&content.key);
        self.clear(&content, STEP)
    }

    /// Takes away some of what is left of removed contents. Whether there was something.
    pub(super) fn clear_some(&mut self) -> Result<bool, StoreError> {
        let first = self.tables.leftovers.first()?;
        let first = first.map(|(no, row)| Content::decode(no.value(), row.value()));
        let Some(content) = first.transpose()? else {
            return Ok(false);
        };
        self.clear(&content, STEP)?;
        Ok(true)
    }

    /// Whether something is left of removed contents.
    pub(super) fn has_leftovers(&self) -> Result<bool, StoreError> {
        Ok(self.tables.leftovers.first()?.is_some())
    }

    /// Has the manifest of a content kept that is finished with this transaction and that waits in
    /// `file`, and notes in the content what others are told of it.
    pub(super) fn put_manifest(
        &mut self,
        content: &mut Content,
        signed: &SignedManifest,
        file: PathBuf,
    ) {
        content.manifest = Some(Arc::new(ManifestFacts::of(signed)));
        let place = self.settings.layout.manifest(content.no);
        self.effects.place(place, file);
    }
}
