//! Payloads that arrive in pieces: what came stays, over broken links and restarts.
//!
//! A partial payload's file has the shape of a whole one, with holes. Nothing is flushed and the
//! index knows nothing of it: a start looks through the file again, and what a stop tore is simply
//! not valid. While a partial payload is known, the room that it will take counts as taken.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::ids::Root;
use lavant_proto::limits::SEGMENT_BYTES_MAX;
use lavant_proto::time::Time;
use lavant_proto::verify::{HaveRanges, VerifiedFrame, group_count, outboard_length, valid_groups};

use super::error::StoreError;
use super::layout::Layout;
use super::pieces::{PastCache, Pieces};
use super::recover::files_below;
use super::{Clock, Shared, Store, lock, payload, room};

/// Most partial payloads at a time; the one that waits for the longest time gives way.
const PARTIALS_MAX: usize = 4096;
/// How long one stays to which nothing comes.
const IDLE_MAX: Duration = Duration::from_secs(30 * 86_400);

type Key = (Root, u64);

/// A payload of which some chunk groups are still missing, open for writing. Clones of the handle
/// share it.
pub struct Partial {
    key: Key,
    file: File,
    slot: Arc<Slot>,
    clock: Clock,
    past_cache: Arc<PastCache>,
}

/// What is known of a partial payload, whether its file is open or not.
struct Slot {
    held: Mutex<Held>,
    /// When something of it came last, in microseconds.
    touched: AtomicU64,
    /// When its record expires, in microseconds.
    expires: AtomicU64,
    /// Rank of its priority.
    priority: AtomicU8,
}

#[derive(Default)]
struct Held {
    /// Not known until the file was looked through.
    have: Option<HaveRanges>,
    /// Bytes that count as taken.
    reserved: u64,
    /// Bytes that a transaction took over, until its commit.
    taken: u64,
    /// Whether the footer is written and all of it is flushed.
    sealed: bool,
}

struct Entry {
    slot: Arc<Slot>,
    open: Weak<Partial>,
}

/// The partial payloads of a store. While its lock is held, no lock of a [`Slot`] is waited for.
pub(super) struct Partials {
    entries: Mutex<BTreeMap<Key, Entry>>,
    past_cache: Arc<PastCache>,
}

impl Default for Partials {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            past_cache: Arc::new(PastCache::new()),
        }
    }
}

impl Slot {
    fn new(touched: Time, reserved: u64) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new(Held {
                reserved,
                ..Held::default()
            }),
            touched: AtomicU64::new(touched.0),
            expires: AtomicU64::new(u64::MAX),
            priority: AtomicU8::new(Priority::Vod.rank()),
        })
    }

    fn is_stale(&self, now: Time) -> bool {
        let touched = Time(self.touched.load(Ordering::Relaxed));
        now.since(touched) >= IDLE_MAX || Time(self.expires.load(Ordering::Relaxed)) <= now
    }
}

impl Entry {
    /// Nobody else holds the slot: who does got it while the registry was locked.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.slot) == 1
    }
}

impl Partials {
    /// Takes up the files of the last process; what is no partial payload's or too old goes.
    /// Returns the bytes that they take, too.
    pub(super) fn take_up(layout: &Layout, now: Time) -> (Self, u64) {
        let mut found = Vec::new();
        for path in files_below(&layout.partials()) {
            let size = fs::metadata(&path).map(|data| (modified(&data), data.blocks() * 512));
            match (named(&path), size) {
                (Some(key), Ok((touched, bytes))) if now.since(touched) < IDLE_MAX => {
                    found.push((touched, key, bytes.min(payload::disk_bytes(key.1))));
                }
                _ => drop(fs::remove_file(path)),
            }
        }
        found.sort_unstable_by_key(|(touched, ..)| std::cmp::Reverse(*touched));
        for (_, (root, length), _) in found.drain(found.len().min(PARTIALS_MAX)..) {
            let _ = fs::remove_file(layout.partial(&root, length));
        }
        let bytes = found.iter().map(|(.., bytes)| bytes).sum();
        let entries = found.into_iter().map(|(touched, key, bytes)| {
            let slot = Slot::new(touched, bytes);
            let open = Weak::new();
            (key, Entry { slot, open })
        });
        let partials = Self::default();
        *lock(&partials.entries) = entries.collect();
        (partials, bytes)
    }
}

fn modified(data: &fs::Metadata) -> Time {
    let since = data.modified().ok();
    let since = since.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(Time(0), |since| Time(0).after(since))
}

/// What the name of a partial payload's file says.
pub(super) fn named(path: &Path) -> Option<Key> {
    let (root, length) = path.file_name()?.to_str()?.split_once('.')?;
    let length = length.parse().ok()?;
    check_length(length).ok()?;
    Some((root.parse().ok()?, length))
}

fn check_length(length: u64) -> Result<(), StoreError> {
    if length == 0 || length > SEGMENT_BYTES_MAX {
        return Err(StoreError::Invalid(
            "a segment must not be empty, nor longer than 1 GiB".into(),
        ));
    }
    Ok(())
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

    /// Keeps one frame; see [`Partial::write_all`].
    pub fn write(&self, frame: &VerifiedFrame<'_>) -> io::Result<()> {
        self.write_all(std::slice::from_ref(frame))
    }

    /// Keeps the chunk groups of verified frames of this payload. They survive the end of the
    /// process; those of consecutive frames are written together.
    pub fn write_all(&self, frames: &[VerifiedFrame<'_>]) -> io::Result<()> {
        let ours = |frame: &VerifiedFrame<'_>| (*frame.root(), frame.length()) == self.key;
        if !frames.iter().all(ours) {
            let text = "the frame belongs to another segment";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let fresh: Vec<&VerifiedFrame<'_>> = {
            let held = lock(&self.slot.held);
            let have = held.have.as_ref();
            let new = |frame: &&VerifiedFrame<'_>| !have.is_some_and(|h| h.contains(frame.group()));
            frames.iter().filter(new).collect()
        };
        // What is watched while it comes will be read at once.
        let on_demand = self.slot.priority.load(Ordering::Relaxed) == Priority::Vod.rank();
        let mut pieces = Pieces::new(&self.file, on_demand.then_some(&*self.past_cache));
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
        self.file.set_len(end)?;
        self.file.write_all_at(footer, end)?;
        self.file.sync_data()?;
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
        let bytes = std::mem::take(&mut held.reserved);
        held.taken += bytes;
        bytes
    }

    /// Takes them back when the transaction came to nothing.
    pub(super) fn give_back(&self) {
        let mut held = lock(&self.slot.held);
        held.reserved += std::mem::take(&mut held.taken);
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partial({}, {} bytes)", self.key.0, self.key.1)
    }
}

impl Store {
    /// The partial payload `root` of `length` bytes, made when nothing of it is here yet. Blocks.
    ///
    /// Its room counts as taken by a segment of `priority`, for which others may have to go. It is
    /// let go when it `expires`, when nothing came for 30 days, or when there are 4096 newer ones.
    pub fn partial(
        &self,
        root: &Root,
        length: u64,
        priority: Priority,
        expires: Time,
    ) -> Result<Arc<Partial>, StoreError> {
        check_length(length)?;
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        let key = (*root, length);
        let now = self.settings().clock.now();
        let (slot, open) = self.slot(key, now)?;
        slot.touched.store(now.0, Ordering::Relaxed);
        slot.expires.store(expires.0, Ordering::Relaxed);
        slot.priority.store(priority.rank(), Ordering::Relaxed);
        if let Some(open) = open {
            return Ok(open);
        }
        let opened = self.open_partial(key, &slot, Some(priority));
        if opened.is_err() {
            let mut partials = lock(&self.shared.partials.entries);
            let unused = partials
                .get(&key)
                .is_some_and(|entry| Arc::ptr_eq(&entry.slot, &slot));
            drop(slot);
            let looked = |entry: &Entry| entry.is_idle() && lock(&entry.slot.held).have.is_none();
            if unused && partials.get(&key).is_some_and(looked) {
                self.let_go(&mut partials, key);
            }
        }
        opened
    }

    /// The slot of a partial payload, made when there is none, and its handle if it is open.
    fn slot(&self, key: Key, now: Time) -> Result<(Arc<Slot>, Option<Arc<Partial>>), StoreError> {
        let mut partials = lock(&self.shared.partials.entries);
        if let Some(entry) = partials.get(&key) {
            return Ok((entry.slot.clone(), entry.open.upgrade()));
        }
        if partials.len() >= PARTIALS_MAX {
            let Some(stalest) = stalest(&partials, Priority::Live) else {
                return Err(StoreError::Busy(format!(
                    "{PARTIALS_MAX} segments are arriving, which is the limit; try again when \
                     some have come"
                )));
            };
            self.let_go(&mut partials, stalest);
        }
        let slot = Slot::new(now, 0);
        let entry = Entry {
            slot: slot.clone(),
            open: Weak::new(),
        };
        partials.insert(key, entry);
        Ok((slot, None))
    }

    /// Opens the file of a slot, unless somebody did meanwhile, and looks through it once. It is
    /// made, and its room taken, when a priority is given.
    fn open_partial(
        &self,
        key: Key,
        slot: &Arc<Slot>,
        priority: Option<Priority>,
    ) -> Result<Arc<Partial>, StoreError> {
        let unopened = |error| StoreError::io("open part of a segment", &error);
        let mut held = lock(&slot.held);
        let known = {
            let partials = lock(&self.shared.partials.entries);
            let entry = partials.get(&key);
            entry
                .filter(|entry| Arc::ptr_eq(&entry.slot, slot))
                .map(|entry| entry.open.upgrade())
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
        if let Some(priority) = priority {
            let lacking = payload::disk_bytes(key.1).saturating_sub(held.reserved);
            self.reserve_partial(lacking, priority)?;
            held.reserved += lacking;
        }
        let path = self.settings().layout.partial(&key.0, key.1);
        let file = File::options()
            .create(priority.is_some())
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(unopened)?;
        let size = file.metadata().map_err(unopened)?.len();
        if size < payload::disk_bytes(key.1) {
            file.set_len(payload::disk_bytes(key.1)).map_err(unopened)?;
        }
        if held.have.is_none() {
            held.have = Some(match size {
                0 => HaveRanges::new(),
                _ => look_through(&file, key),
            });
        }
        let partial = Arc::new(Partial {
            key,
            file,
            slot: slot.clone(),
            clock: self.settings().clock.clone(),
            past_cache: Arc::clone(&self.shared.partials.past_cache),
        });
        if let Some(entry) = lock(&self.shared.partials.entries).get_mut(&key) {
            entry.open = Arc::downgrade(&partial);
        }
        Ok(partial)
    }

    /// The partial payload, if something of it is here.
    pub(super) fn known_partial(&self, key: Key) -> Result<Option<Arc<Partial>>, StoreError> {
        let found = {
            let partials = lock(&self.shared.partials.entries);
            let entry = partials.get(&key);
            entry.map(|entry| (entry.slot.clone(), entry.open.upgrade()))
        };
        match found {
            None => Ok(None),
            Some((_, Some(open))) => Ok(Some(open)),
            Some((slot, None)) => {
                let opened = self.open_partial(key, &slot, None);
                drop(slot);
                let gone = !self.settings().layout.partial(&key.0, key.1).exists();
                if opened.is_err() && gone {
                    self.forget_partial(key);
                    return Ok(None);
                }
                opened.map(Some)
            }
        }
    }

    /// Counts bytes as taken and makes room for them.
    fn reserve_partial(&self, bytes: u64, priority: Priority) -> Result<(), StoreError> {
        self.check_disk(bytes)?;
        let Shared { staged, .. } = &*self.shared;
        staged.fetch_add(bytes, Ordering::AcqRel);
        let mut outcome = self.make_staged_room(bytes, priority);
        if matches!(outcome, Err(StoreError::Full { .. })) && self.drop_stalest(bytes, priority) {
            outcome = self.make_staged_room(bytes, priority);
        }
        if outcome.is_err() {
            staged.fetch_sub(bytes, Ordering::AcqRel);
        }
        outcome
    }

    /// Makes room for bytes that count as staged already.
    fn make_staged_room(&self, bytes: u64, priority: Priority) -> Result<(), StoreError> {
        let Shared { used, staged, .. } = &*self.shared;
        let taken = used.load(Ordering::Acquire) + staged.load(Ordering::Acquire);
        if self.settings().limit.is_none_or(|limit| taken <= limit) {
            return Ok(());
        }
        self.write(move |tx| {
            tx.staged = tx.staged.saturating_sub(bytes);
            let made = room::make_room(tx, bytes, priority);
            tx.staged += bytes;
            made
        })
    }

    /// Drops the stalest partial payloads that nobody uses, of no higher priority, until so many
    /// bytes are free; whether any went.
    fn drop_stalest(&self, bytes: u64, priority: Priority) -> bool {
        let mut partials = lock(&self.shared.partials.entries);
        let mut freed = 0;
        let mut any = false;
        while freed < bytes {
            let Some(key) = stalest(&partials, priority) else {
                break;
            };
            freed += self.let_go(&mut partials, key);
            any = true;
        }
        any
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
            self.let_go(&mut partials, key);
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
            self.remove_partial(&mut partials, key)
        };
        removed.map(|slot| self.release(&slot));
    }

    /// Removes an entry that nobody uses. Returns the bytes that no longer count as taken.
    fn let_go(&self, partials: &mut BTreeMap<Key, Entry>, key: Key) -> u64 {
        let removed = self.remove_partial(partials, key);
        removed.map_or(0, |slot| self.release(&slot))
    }

    /// Removes an entry with its file.
    fn remove_partial(&self, partials: &mut BTreeMap<Key, Entry>, key: Key) -> Option<Arc<Slot>> {
        let entry = partials.remove(&key)?;
        let _ = fs::remove_file(self.settings().layout.partial(&key.0, key.1));
        Some(entry.slot)
    }

    fn release(&self, slot: &Slot) -> u64 {
        let bytes = std::mem::take(&mut lock(&slot.held).reserved);
        self.shared.staged.fetch_sub(bytes, Ordering::AcqRel);
        bytes
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
            let valid = look_through(&partial.file, key);
            damaged |= held.have.as_ref() != Some(&valid);
            held.have = Some(valid);
        }
        Ok(damaged)
    }
}

/// The one to which nothing came for the longest time, of those that nobody uses.
fn stalest(partials: &BTreeMap<Key, Entry>, priority: Priority) -> Option<Key> {
    let idle = partials.iter().filter(|(_, entry)| {
        entry.is_idle() && entry.slot.priority.load(Ordering::Relaxed) <= priority.rank()
    });
    idle.min_by_key(|(_, entry)| entry.slot.touched.load(Ordering::Relaxed))
        .map(|(key, _)| *key)
}

fn look_through(file: &File, (root, length): Key) -> HaveRanges {
    let mut outboard = vec![0; usize::try_from(outboard_length(length)).unwrap_or(0)];
    match file.read_exact_at(&mut outboard, length) {
        Ok(()) => valid_groups(&file, &&outboard[..], &root, length),
        Err(_) => HaveRanges::new(),
    }
}

/// Where the file of a partial payload is.
pub(super) fn path_of(layout: &Layout, partial: &Partial) -> PathBuf {
    layout.partial(&partial.key.0, partial.key.1)
}
