//! Room for what arrives in pieces. It is taken as chunk groups come, a little ahead of them: what
//! was only announced takes nothing of anybody, since announcing costs nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use lavant_proto::content::Priority;
use lavant_proto::relay::evict::Standing;
use lavant_proto::verify::outboard_length;

use super::engine::Store;
use super::error::StoreError;
use super::limit::Claim;
use super::locked::lock;
use super::partials::{Slot, stalest};
use super::payload;
use super::room::{self, Wanted};
use super::shared::Shared;
use super::writer::Writer;

/// Bytes of a chunk group.
const GROUP_BYTES: u64 = 16 * 1024;
/// Most bytes of the hashes above one: 16 levels for the 65,536 chunk groups of 1 GiB.
const PATH_BYTES: u64 = 16 * 64;
/// Most bytes that are taken ahead of what comes, so that the writer is seldom asked. No more than
/// came already is taken ahead, either.
const AHEAD_MAX: u64 = 1 << 20;

/// The bytes that count as taken by a payload of `length` bytes when so many chunk groups of it are
/// here: all of it when it is whole.
pub(super) fn bytes_of(length: u64, groups: u64) -> u64 {
    let bytes = groups.saturating_mul(GROUP_BYTES).min(length);
    let outboard = groups.saturating_mul(PATH_BYTES);
    let here = bytes + outboard.min(outboard_length(length));
    (here + here.min(AHEAD_MAX)).min(payload::disk_bytes(length))
}

/// Who makes room for a partial payload that is open; it does not keep the store open.
pub(super) struct Stage {
    shared: Weak<Shared>,
    writer: Weak<Writer>,
}

impl Stage {
    pub(super) fn of(store: &Store) -> Self {
        Self {
            shared: Arc::downgrade(&store.shared),
            writer: store.writer.as_ref().map_or_else(Weak::new, Arc::downgrade),
        }
    }

    /// Has at least so many bytes count as taken by a partial payload. Blocks.
    pub(super) fn grow(&self, slot: &Slot, bytes: u64) -> Result<(), StoreError> {
        // Whoever else writes chunk groups of it waits for its room, too.
        let _growing = lock(&slot.growing);
        let lacking = slot.lacks(bytes);
        if lacking == 0 {
            return Ok(());
        }
        let (Some(shared), Some(writer)) = (self.shared.upgrade(), self.writer.upgrade()) else {
            return Err(StoreError::Closed);
        };
        let claim = slot.claim();
        shared.reserve(&writer, lacking, claim)?;
        if !slot.take(lacking) {
            shared.staged.fetch_sub(lacking, Ordering::AcqRel);
        }
        Ok(())
    }
}

impl Store {
    /// Refuses a partial payload for which no room could be made. Nothing goes for it yet.
    pub(super) fn check_room(&self, bytes: u64, claim: Claim) -> Result<(), StoreError> {
        self.shared.check_disk(bytes, claim.standing)?;
        if self.shared.fits(bytes, &claim) {
            return Ok(());
        }
        let may_go = self.shared.partials.may_go(&claim);
        let wanted = Wanted::bytes(bytes.saturating_sub(may_go));
        self.write(move |tx| room::victims(tx, wanted, &claim).map(drop))
    }

    /// Makes room for `incoming` bytes beside what all uploads hold.
    pub(super) fn reserve(&self, incoming: u64, priority: Priority) -> Result<(), StoreError> {
        let Some(limit) = self.shared.limit else {
            return Ok(());
        };
        let Shared { used, staged, .. } = &*self.shared;
        let held = used.load(Ordering::Acquire) + staged.load(Ordering::Acquire);
        if held.saturating_add(incoming) <= limit.bytes {
            return Ok(());
        }
        let claim = Claim::own(priority);
        self.write(move |tx| room::make_room(tx, Wanted::bytes(incoming), &claim))
    }
}

impl Shared {
    fn fits(&self, incoming: u64, claim: &Claim) -> bool {
        let taken = self.used.load(Ordering::Acquire) + self.staged.load(Ordering::Acquire);
        let held = (&*self.catalog(), &self.partials);
        room::fits(&self.settings, (self.limit, taken), held, (incoming, claim))
    }

    /// Counts bytes as taken and makes room for them.
    fn reserve(&self, writer: &Writer, bytes: u64, claim: Claim) -> Result<(), StoreError> {
        self.check_disk(bytes, claim.standing)?;
        let fits = self.fits(bytes, &claim);
        self.staged.fetch_add(bytes, Ordering::AcqRel);
        if fits {
            return Ok(());
        }
        let mut outcome = make_staged_room(writer, bytes, claim);
        let refused = matches!(
            outcome,
            Err(StoreError::Full { .. } | StoreError::Share { .. } | StoreError::Strangers { .. })
        );
        if refused && self.drop_stalest(bytes, &claim) {
            outcome = make_staged_room(writer, bytes, claim);
        }
        if outcome.is_err() {
            self.staged.fetch_sub(bytes, Ordering::AcqRel);
        }
        outcome
    }

    /// Drops the stalest partial payloads that nobody uses, of no higher standing and priority,
    /// until so many bytes are free; whether any went.
    fn drop_stalest(&self, bytes: u64, claim: &Claim) -> bool {
        let mut partials = lock(&self.partials.entries);
        let mut freed = 0;
        let mut any = false;
        while freed < bytes {
            let Some(key) = stalest(&partials, |slot| slot.yields_to(claim)) else {
                break;
            };
            freed += self.let_go(&mut partials, key);
            any = true;
        }
        any
    }

    /// Drops partial payloads of strangers that nobody uses, when there is no room for what the
    /// operator stores; what is whole goes after that.
    pub(super) fn drop_strangers(&self, bytes: u64, priority: Priority) {
        if self.fits(bytes, &Claim::own(priority)) {
            return;
        }
        let mut partials = lock(&self.partials.entries);
        let strangers = |slot: &Slot| {
            let counts = slot.counted.load(Ordering::Relaxed) > 0;
            counts && slot.claim().standing == Standing::Stranger
        };
        let mut freed = 0;
        while freed < bytes {
            let Some(key) = stalest(&partials, strangers) else {
                break;
            };
            freed += self.let_go(&mut partials, key);
        }
    }
}

/// Makes room for bytes that count as staged already.
fn make_staged_room(writer: &Writer, bytes: u64, claim: Claim) -> Result<(), StoreError> {
    let made = writer.submit(move |tx| {
        tx.apart_from(bytes, |tx| {
            room::make_room(tx, Wanted::bytes(bytes), &claim)
        })
    });
    made.blocking_recv().unwrap_or(Err(StoreError::Closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_more_is_taken_than_came_and_all_of_it_at_the_end() {
        for length in [1_u64, 16_384, 300_000, 20_000_000, 1 << 30] {
            let groups = length.div_ceil(GROUP_BYTES);
            let whole = payload::disk_bytes(length);
            assert_eq!(bytes_of(length, groups), whole);
            assert_eq!(bytes_of(length, 0), 0);
            assert!(bytes_of(length, 1) <= 2 * (GROUP_BYTES + PATH_BYTES));
            let half = bytes_of(length, groups / 2);
            assert!(
                half <= whole / 2 + whole / 16 + AHEAD_MAX,
                "{length}: {half}"
            );
        }
    }
}
