//! What a store knows of a partial payload, whether its file is open or not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::relay::evict::Standing;
use lavant_proto::time::Time;
use lavant_proto::verify::HaveRanges;

use super::lock;
use super::partial::Partial;
use super::room::Claim;

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
    pub(super) open: Weak<Partial>,
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
