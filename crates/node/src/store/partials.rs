//! The partial payloads of a store: which there are, whether their files are open or not, and what
//! they count for.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::ids::{PublisherKey, Root};
use lavant_proto::limits::SEGMENT_BYTES_MAX;
use lavant_proto::relay::evict::Standing;
use lavant_proto::time::Time;
use lavant_proto::verify::HaveRanges;

use super::error::StoreError;
use super::limit::Claim;
use super::locked::lock;
use super::payload;
use super::pieces::PastCache;
use super::settings::Settings;

/// Most partial payloads at a time; the one that waits for the longest time gives way.
pub(super) const PARTIALS_MAX: usize = 4096;

pub(super) type Key = (Root, u64);

/// The partial payloads of a store. While its lock is held, no lock of a [`Slot`] is waited for.
pub(super) struct Partials {
    pub(super) entries: Mutex<BTreeMap<Key, Entry>>,
    pub(super) past_cache: Arc<PastCache>,
}

impl Default for Partials {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            past_cache: Arc::new(PastCache::new()),
        }
    }
}

impl Partials {
    /// Takes up the files of the last process; what is no partial payload's or too old goes.
    /// Returns the bytes that they take, too.
    pub(super) fn take_up(settings: &Settings) -> (Self, u64) {
        let Settings { disk, layout, .. } = settings;
        let now = settings.clock.now();
        let mut found = Vec::new();
        for path in disk.files_below(&layout.partials()) {
            match (named(&path), disk.files.facts(&path)) {
                (Some(key), Ok(facts)) if now.since(facts.modified) < IDLE_MAX => {
                    let bytes = facts.taken.min(payload::disk_bytes(key.1));
                    found.push((facts.modified, key, bytes));
                }
                _ => drop(disk.files.remove(&path)),
            }
        }
        found.sort_unstable_by_key(|(touched, ..)| std::cmp::Reverse(*touched));
        for (_, (root, length), _) in found.drain(found.len().min(PARTIALS_MAX)..) {
            let _ = disk.files.remove(&layout.partial(&root, length));
        }
        let bytes = found.iter().map(|(.., bytes)| bytes).sum();
        let entries = found.into_iter().map(|(touched, key, bytes)| {
            let slot = Slot::new(touched, bytes);
            let open = nobody();
            (key, Entry { slot, open })
        });
        let partials = Self::default();
        *lock(&partials.entries) = entries.collect();
        (partials, bytes)
    }
}

/// What the name of a partial payload's file says.
pub(super) fn named(path: &Path) -> Option<Key> {
    let (root, length) = path.file_name()?.to_str()?.split_once('.')?;
    let length = length.parse().ok()?;
    check_length(length).ok()?;
    Some((root.parse().ok()?, length))
}

pub(super) fn check_length(length: u64) -> Result<(), StoreError> {
    if length == 0 || length > SEGMENT_BYTES_MAX {
        return Err(StoreError::Invalid(
            "a segment must not be empty, nor longer than 1 GiB".into(),
        ));
    }
    Ok(())
}

/// How long one stays to which nothing comes.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// What is known of a partial payload, whether its file is open or not.
pub(super) struct Slot {
    pub(super) held: Mutex<Held>,
    /// Held by whoever asks for room. The writer never waits for it.
    pub(super) growing: Mutex<()>,
    /// The bytes that count as taken, to be read without a lock.
    pub(super) counted: AtomicU64,
    /// When something of it came last, in microseconds.
    pub(super) touched: AtomicU64,
    /// When its record expires, in microseconds.
    pub(super) expires: AtomicU64,
    /// For whom it is; none since the start. Held for a moment only.
    claim: Mutex<Option<Claim>>,
}

#[derive(Default)]
pub(super) struct Held {
    /// Not known until the file was looked through.
    pub(super) have: Option<HaveRanges>,
    /// Bytes that count as taken.
    pub(super) reserved: u64,
    /// Bytes that a transaction took over, until its commit.
    pub(super) taken: u64,
    /// Whether the footer is written and all of it is flushed.
    pub(super) sealed: bool,
    /// Whether it is no longer known: nothing of it counts.
    pub(super) gone: bool,
}

pub(super) struct Entry {
    pub(super) slot: Arc<Slot>,
    /// Whoever has it open, as what it is to them.
    pub(super) open: Weak<dyn Any + Send + Sync>,
}

impl Slot {
    pub(super) fn new(touched: Time, reserved: u64) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new(Held {
                reserved,
                ..Held::default()
            }),
            growing: Mutex::default(),
            counted: AtomicU64::new(reserved),
            touched: AtomicU64::new(touched.0),
            expires: AtomicU64::new(u64::MAX),
            claim: Mutex::default(),
        })
    }

    /// For whom it is: a stranger as long as nobody asked for it since the start.
    pub(super) fn claim(&self) -> Claim {
        lock(&self.claim).unwrap_or(Claim {
            publisher: None,
            standing: Standing::Stranger,
            priority: Priority::Vod,
        })
    }

    /// Notes for whom it is: for the one of highest standing that ever asked for it.
    pub(super) fn claim_for(&self, claim: Claim, always: bool) {
        let mut before = lock(&self.claim);
        *before = Some(match *before {
            Some(known) if !always || known.standing > claim.standing => Claim {
                priority: claim.priority,
                ..known
            },
            _ => claim,
        });
    }

    /// How many bytes more have to count until so many do. Nothing
    /// when it is gone.
    pub(super) fn lacks(&self, bytes: u64) -> u64 {
        let held = lock(&self.held);
        match held.gone {
            true => 0,
            false => bytes.saturating_sub(held.reserved + held.taken),
        }
    }

    /// Counts more bytes as taken; refused when it is gone.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut held = lock(&self.held);
        if !held.gone {
            self.count(&mut held, |reserved| reserved + bytes);
        }
        !held.gone
    }

    pub(super) fn count(&self, held: &mut Held, change: impl FnOnce(u64) -> u64) {
        held.reserved = change(held.reserved);
        self.counted.store(held.reserved, Ordering::Relaxed);
    }

    pub(super) fn is_stale(&self, now: Time) -> bool {
        let touched = Time(self.touched.load(Ordering::Relaxed));
        now.since(touched) >= IDLE_MAX || Time(self.expires.load(Ordering::Relaxed)) <= now
    }
}

impl Entry {
    /// Nobody else holds the slot: who does got it while the registry was locked.
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.slot) == 1
    }
}

/// The one to which nothing came for the longest time, of those that nobody uses and that may go.
pub(super) fn stalest(
    partials: &BTreeMap<Key, Entry>,
    may_go: impl Fn(&Slot) -> bool,
) -> Option<Key> {
    let idle = partials
        .iter()
        .filter(|(_, entry)| entry.is_idle() && may_go(&entry.slot));
    idle.min_by_key(|(_, entry)| entry.slot.touched.load(Ordering::Relaxed))
        .map(|(key, _)| *key)
}

impl Slot {
    /// Whether it takes room that another one may have.
    pub(super) fn yields_to(&self, claim: &Claim) -> bool {
        let own = self.claim();
        let lower = own.standing < claim.standing;
        let same = own.standing == claim.standing && own.priority <= claim.priority;
        self.counted.load(Ordering::Relaxed) > 0 && (lower || same)
    }
}

impl Partials {
    /// Bytes that arrive of a publisher that is not trusted, or of all that are not.
    pub(super) fn arriving(&self, of: Option<&PublisherKey>) -> u64 {
        let counts = |claim: Claim| {
            claim.standing == Standing::Stranger && (of.is_none() || claim.publisher.as_ref() == of)
        };
        let entries = lock(&self.entries);
        let slots = entries.values().map(|entry| &entry.slot);
        let counted = slots.filter(|slot| counts(slot.claim()));
        counted
            .map(|slot| slot.counted.load(Ordering::Relaxed))
            .sum()
    }

    /// Bytes that all of them count for.
    #[cfg(test)]
    pub(super) fn counted(&self) -> u64 {
        let entries = lock(&self.entries);
        let counted = entries
            .values()
            .map(|entry| entry.slot.counted.load(Ordering::Relaxed));
        counted.sum()
    }

    /// Bytes that would be free if every idle one went that may.
    pub(super) fn may_go(&self, claim: &Claim) -> u64 {
        let entries = lock(&self.entries);
        let idle = entries.values().filter(|entry| entry.is_idle());
        let going = idle.filter(|entry| entry.slot.yields_to(claim));
        going
            .map(|entry| entry.slot.counted.load(Ordering::Relaxed))
            .sum()
    }
}

/// An entry that nobody has open.
pub(super) fn nobody() -> Weak<dyn Any + Send + Sync> {
    Weak::<()>::new()
}
