//! Payloads that arrive in pieces: what came stays, over broken links and restarts.
//!
//! A partial payload's file has the shape of a whole one, with holes. Nothing is flushed and the
//! index knows nothing of it: a start looks through the file again, and what a stop tore is simply
//! not valid. What of it is here counts as taken; see `stage.rs`.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lavant_proto::content::{Priority, SegmentRecord, Verified};
use lavant_proto::ids::Root;
use lavant_proto::time::Time;
use lavant_proto::verify::{HaveRanges, VerifiedFrame, group_count, outboard_length, valid_groups};

use super::clock::Clock;
use super::disk::{Access, DiskFile, OpenFile};
use super::engine::Store;
use super::error::StoreError;
use super::insert::check_date;
use super::layout::Layout;
use super::limit::Claim;
use super::locked::lock;
use super::partials::{Entry, Key, PARTIALS_MAX, Slot, check_length, nobody, stalest};
use super::payload;
use super::pieces::{PastCache, Pieces};
use super::settings::Settings;
use super::shared::Shared;
use super::stage::{Stage, bytes_of};

/// A payload of which some chunk groups are still missing, open for writing. Clones of the handle
/// share it.
pub struct Partial {
    key: Key,
    file: DiskFile,
    slot: Arc<Slot>,
    clock: Clock,
    past_cache: Arc<PastCache>,
    stage: Stage,
}

impl Partial {
    /// The payload.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.key.0
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.key.1
    }

    /// The chunk groups that are here.
    #[must_use]
    pub fn have(&self) -> HaveRanges {
        lock(&self.slot.held).have.clone().unwrap_or_default()
    }

    /// Whether every chunk group is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let held = lock(&self.slot.held);
        held.have
            .as_ref()
            .is_some_and(|have| have.count() == group_count(self.key.1))
    }

    /// Keeps the chunk groups of verified frames of this payload. They survive the end of the
    /// process; those of consecutive frames are written together. Blocks: room is made for them
    /// before, which fails when nothing may go.
    pub fn write_all(&self, frames: &[VerifiedFrame<'_>]) -> io::Result<()> {
        let ours = |frame: &VerifiedFrame<'_>| (*frame.root(), frame.length()) == self.key;
        if !frames.iter().all(ours) {
            let text = "the frame belongs to another segment";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (fresh, groups) = {
            let held = lock(&self.slot.held);
            let have = held.have.as_ref();
            let new = |frame: &&VerifiedFrame<'_>| !have.is_some_and(|h| h.contains(frame.group()));
            let fresh: Vec<&VerifiedFrame<'_>> = frames.iter().filter(new).collect();
            let groups = have.map_or(0, HaveRanges::count) + fresh.len() as u64;
            (fresh, groups)
        };
        if !fresh.is_empty() {
            let grown = self.stage.grow(&self.slot, bytes_of(self.key.1, groups));
            grown.map_err(io::Error::other)?;
        }
        // What is watched while it comes will be read at once.
        let on_demand = self.slot.claim().priority == Priority::Vod;
        let mut pieces = Pieces::new(&*self.file, on_demand.then_some(&*self.past_cache));
        for frame in &fresh {
            pieces.add(frame.offset(), frame.leaf())?;
        }
        let pairs = fresh.iter().flat_map(|frame| frame.pairs());
        for (offset, pair) in pairs {
            pieces.add(self.key.1 + offset, pair)?;
        }
        pieces.write()?;
        let mut held = lock(&self.slot.held);
        let have = held.have.get_or_insert_default();
        for frame in fresh {
            have.insert(frame.group(), frame.group() + 1)
                .map_err(io::Error::other)?;
        }
        drop(held);
        let now = self.clock.now();
        self.slot.touched.store(now.0, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the footer and makes all of it durable, once.
    pub(super) fn seal(&self, footer: &[u8]) -> io::Result<()> {
        let mut held = lock(&self.slot.held);
        if held.sealed {
            return Ok(());
        }
        let end = payload::disk_bytes(self.key.1);
        self.file.set_length(end)?;
        self.file.write_all_at(end, footer)?;
        self.file.flush()?;
        held.sealed = true;
        Ok(())
    }

    /// The next one who completes it writes a footer of its own.
    pub(super) fn unseal(&self) {
        lock(&self.slot.held).sealed = false;
    }

    /// Hands the bytes that count as taken over to a transaction.
    pub(super) fn take_reserved(&self) -> u64 {
        let mut held = lock(&self.slot.held);
        let bytes = held.reserved;
        self.slot.count(&mut held, |_| 0);
        held.taken += bytes;
        bytes
    }

    /// Takes them back when the transaction came to nothing.
    pub(super) fn give_back(&self) {
        let mut held = lock(&self.slot.held);
        let taken = std::mem::take(&mut held.taken);
        self.slot.count(&mut held, |reserved| reserved + taken);
    }

    pub(super) const fn file(&self) -> &DiskFile {
        &self.file
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partial({}, {} bytes)", self.key.0, self.key.1)
    }
}

impl Store {
    /// The partial payload of a record, made when nothing of it is here yet. Blocks.
    ///
    /// Refused before anything is fetched when the segment would be: because its content was
    /// removed or has a later version, because it is dated far ahead, or because there is no room
    /// that could be made for it.
    ///
    /// It takes room as its chunk groups come, for which others may have to go. It is let go when
    /// it expires, when nothing came for 30 days, or when there are 4096 newer ones.
    pub fn partial_of(&self, record: &Verified<SegmentRecord>) -> Result<Arc<Partial>, StoreError> {
        let of = &record.content;
        self.check_comes_back(of)?;
        check_date(record.created, self.settings().clock.now(), &of.content_id)?;
        let claim = Claim::of(&self.catalog(), &of.publisher, record.priority);
        let key = (record.root, record.length);
        self.claimed_partial(key, (claim, true), record.expires())
    }

    pub(super) fn claimed_partial(
        &self,
        key: Key,
        (claim, always): (Claim, bool),
        expires: Time,
    ) -> Result<Arc<Partial>, StoreError> {
        check_length(key.1)?;
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let now = self.settings().clock.now();
        let (slot, open) = self.slot(key, now, &claim)?;
        slot.touched.store(now.0, Ordering::Relaxed);
        slot.expires.store(expires.0, Ordering::Relaxed);
        slot.claim_for(claim, always);
        if let Some(open) = open {
            return Ok(open);
        }
        let opened = self.open_partial(key, &slot, true);
        if opened.is_err() {
            let mut partials = lock(&self.shared.partials.entries);
            let unused = partials
                .get(&key)
                .is_some_and(|entry| Arc::ptr_eq(&entry.slot, &slot));
            drop(slot);
            let looked = |entry: &Entry| entry.is_idle() && lock(&entry.slot.held).have.is_none();
            if unused && partials.get(&key).is_some_and(looked) {
                self.shared.let_go(&mut partials, key);
            }
        }
        opened
    }

    /// The slot of a partial payload, made when there is none, and its handle if it is open.
    fn slot(
        &self,
        key: Key,
        now: Time,
        claim: &Claim,
    ) -> Result<(Arc<Slot>, Option<Arc<Partial>>), StoreError> {
        let mut partials = lock(&self.shared.partials.entries);
        if let Some(entry) = partials.get(&key) {
            return Ok((entry.slot.clone(), opened(entry)));
        }
        if partials.len() >= PARTIALS_MAX {
            let may_go = |slot: &Slot| slot.claim().standing <= claim.standing;
            let Some(stalest) = stalest(&partials, may_go) else {
                return Err(StoreError::Busy(format!(
                    "{PARTIALS_MAX} segments are arriving, which is the limit; try again when \
                     some have come"
                )));
            };
            self.shared.let_go(&mut partials, stalest);
        }
        let slot = Slot::new(now, 0);
        let entry = Entry {
            slot: slot.clone(),
            open: nobody(),
        };
        partials.insert(key, entry);
        Ok((slot, None))
    }

    /// Opens the file of a slot, unless somebody did meanwhile, and looks through it once. When it
    /// is to be made, room for it has to be possible.
    fn open_partial(
        &self,
        key: Key,
        slot: &Arc<Slot>,
        make: bool,
    ) -> Result<Arc<Partial>, StoreError> {
        let unopened = |error| StoreError::io("open part of a segment", error);
        let mut held = lock(&slot.held);
        let known = {
            let partials = lock(&self.shared.partials.entries);
            let entry = partials.get(&key);
            entry
                .filter(|entry| Arc::ptr_eq(&entry.slot, slot))
                .map(opened)
        };
        match known {
            Some(Some(open)) => return Ok(open),
            Some(None) => {}
            None => {
                return Err(StoreError::Busy(
                    "the segment has just come; try again".into(),
                ));
            }
        }
        if make {
            let lacking = payload::disk_bytes(key.1).saturating_sub(held.reserved);
            self.check_room(lacking, slot.claim())?;
        }
        let Settings { disk, layout, .. } = self.settings();
        let path = layout.partial(&key.0, key.1);
        let file = disk.files.open(&path, Access::Change { make });
        let file = file.map_err(unopened)?;
        let size = file.facts().map_err(unopened)?.length;
        if size < payload::disk_bytes(key.1) {
            let lengthened = file.set_length(payload::disk_bytes(key.1));
            lengthened.map_err(unopened)?;
        }
        if held.have.is_none() {
            held.have = Some(match size {
                0 => HaveRanges::new(),
                _ => look_through(&*file, key),
            });
        }
        let partial = Arc::new(Partial {
            key,
            file,
            slot: slot.clone(),
            clock: self.settings().clock.clone(),
            past_cache: Arc::clone(&self.shared.partials.past_cache),
            stage: Stage::of(self),
        });
        if let Some(entry) = lock(&self.shared.partials.entries).get_mut(&key) {
            let open: Arc<dyn Any + Send + Sync> = partial.clone();
            entry.open = Arc::downgrade(&open);
        }
        Ok(partial)
    }

    /// The partial payload, if something of it is here.
    pub(super) fn known_partial(&self, key: Key) -> Result<Option<Arc<Partial>>, StoreError> {
        let found = {
            let partials = lock(&self.shared.partials.entries);
            let entry = partials.get(&key);
            entry.map(|entry| (entry.slot.clone(), opened(entry)))
        };
        match found {
            None => Ok(None),
            Some((_, Some(open))) => Ok(Some(open)),
            Some((slot, None)) => {
                let opened = self.open_partial(key, &slot, false);
                drop(slot);
                let Settings { disk, layout, .. } = self.settings();
                let gone = !disk.exists(&layout.partial(&key.0, key.1));
                if opened.is_err() && gone {
                    self.forget_partial(key);
                    return Ok(None);
                }
                opened.map(Some)
            }
        }
    }

    /// Drops partial payloads whose record expired or to which nothing came for 30 days.
    pub fn drop_stale_partials(&self) {
        let now = self.settings().clock.now();
        let mut partials = lock(&self.shared.partials.entries);
        let stale: Vec<Key> = partials
            .iter()
            .filter(|(_, entry)| entry.is_idle() && entry.slot.is_stale(now))
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            self.shared.let_go(&mut partials, key);
        }
    }

    /// Removes a partial payload that became whole, or came whole otherwise. One that is being
    /// opened at this moment stays for whoever opens it.
    pub(super) fn forget_partial(&self, key: Key) {
        let removed = {
            let mut partials = lock(&self.shared.partials.entries);
            let opening = partials
                .get(&key)
                .is_some_and(|entry| !entry.is_idle() && entry.open.strong_count() == 0);
            if opening {
                return;
            }
            self.shared.remove_partial(&mut partials, key)
        };
        removed.map(|slot| self.shared.release(&slot));
    }

    /// The partial payloads of which it is known what is here: root, length, chunk groups.
    #[must_use]
    pub fn partials(&self) -> Vec<(Root, u64, HaveRanges)> {
        let slots: Vec<(Key, Arc<Slot>)> = {
            let partials = lock(&self.shared.partials.entries);
            let entries = partials.iter();
            entries.map(|(key, e)| (*key, e.slot.clone())).collect()
        };
        let known = slots.into_iter().filter_map(|((root, length), slot)| {
            let have = lock(&slot.held).have.clone()?;
            Some((root, length, have))
        });
        known.collect()
    }

    /// Looks through the partial payloads of that root again; whether something was damaged.
    pub(super) fn recheck_partials(&self, root: &Root) -> Result<bool, StoreError> {
        let keys: Vec<Key> = {
            let partials = lock(&self.shared.partials.entries);
            let of_root = partials.range((*root, 0)..=(*root, u64::MAX));
            of_root.map(|(key, _)| *key).collect()
        };
        let mut damaged = false;
        for key in keys {
            let Some(partial) = self.known_partial(key)? else {
                continue;
            };
            let mut held = lock(&partial.slot.held);
            let valid = look_through(&*partial.file, key);
            damaged |= held.have.as_ref() != Some(&valid);
            held.have = Some(valid);
        }
        Ok(damaged)
    }
}

/// The handle of a partial payload that is open.
fn opened(entry: &Entry) -> Option<Arc<Partial>> {
    entry.open.upgrade()?.downcast().ok()
}

impl Shared {
    /// Removes an entry that nobody uses. Returns the bytes that no longer count as taken.
    pub(super) fn let_go(&self, partials: &mut BTreeMap<Key, Entry>, key: Key) -> u64 {
        let removed = self.remove_partial(partials, key);
        removed.map_or(0, |slot| self.release(&slot))
    }

    /// Removes an entry with its file.
    fn remove_partial(&self, partials: &mut BTreeMap<Key, Entry>, key: Key) -> Option<Arc<Slot>> {
        let entry = partials.remove(&key)?;
        let Settings { disk, layout, .. } = &self.settings;
        let _ = disk.files.remove(&layout.partial(&key.0, key.1));
        Some(entry.slot)
    }

    fn release(&self, slot: &Slot) -> u64 {
        let mut held = lock(&slot.held);
        let bytes = held.reserved;
        slot.count(&mut held, |_| 0);
        held.gone = true;
        self.staged.fetch_sub(bytes, Ordering::AcqRel);
        bytes
    }
}

fn look_through(file: &dyn OpenFile, (root, length): Key) -> HaveRanges {
    let mut outboard = vec![0; usize::try_from(outboard_length(length)).unwrap_or(0)];
    match file.read_exact_at(length, &mut outboard) {
        Ok(()) => valid_groups(&file, &&outboard[..], &root, length),
        Err(_) => HaveRanges::new(),
    }
}

/// Where the file of a partial payload is.
pub(super) fn path_of(layout: &Layout, partial: &Partial) -> PathBuf {
    layout.partial(&partial.key.0, partial.key.1)
}
