//! Making room: in the order of eviction, within the share of a priority and of a publisher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lavant_proto::content::{Priority, SegmentRecord, Verified};
use lavant_proto::ids::{PublisherKey, Root};
use lavant_proto::relay::evict::{EvictionRank, Shares, bytes_to_free};
use redb::ReadableTable;

use super::catalog::Content;
use super::error::StoreError;
use super::expire::{expire_for_room, lose};
use super::partial::Partial;
use super::rows::{SegmentKey, SegmentRow, split_eviction};
use super::tx::{Tx, rank};
use super::{Settings, Store, payload};

/// What must go for something to come.
#[derive(Default)]
struct Victims {
    /// In the order in which they go.
    keys: Vec<SegmentKey>,
    chosen: BTreeSet<[u8; SegmentKey::BYTES]>,
    /// Segments that share a payload free something only together.
    sharing: BTreeMap<Root, Vec<(SegmentKey, u8)>>,
    /// Bytes of payload files that become free.
    freed: u64,
    /// Bytes by which each priority holds less.
    of_class: [u64; 3],
}

impl Victims {
    /// Adds a segment of a priority; it goes with the last one that shares its payload.
    fn add(
        &mut self,
        tx: &Tx<'_>,
        key: SegmentKey,
        class: u8,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        if !self.chosen.insert(key.to_bytes()) {
            return Ok(());
        }
        let uses = tx
            .payloads
            .get(row.root.0.as_slice())?
            .map_or(0, |uses| uses.value().0);
        let together = self.sharing.entry(row.root).or_default();
        together.push((key, class));
        if together.len() as u64 >= u64::from(uses) {
            let bytes = payload::disk_bytes(row.length);
            for (key, class) in self.sharing.remove(&row.root).unwrap_or_default() {
                self.keys.push(key);
                self.of_class[usize::from(class).min(2)] += bytes;
            }
            self.freed += bytes;
        }
        Ok(())
    }

    /// Adds what goes next, of one priority or of those that yield to another, until it is enough.
    fn gather(
        &mut self,
        tx: &Tx<'_>,
        which: Which,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), StoreError> {
        let starts = match which {
            Which::Of(class) => EvictionRank::starts(class)
                .map(|start| vec![start])
                .to_vec(),
            Which::YieldingTo(_) => vec![Vec::new()],
        };
        for from in starts {
            self.gather_from(tx, which, &from, &enough)?;
        }
        Ok(())
    }

    fn gather_from(
        &mut self,
        tx: &Tx<'_>,
        which: Which,
        from: &[u8],
        enough: &impl Fn(&Self) -> bool,
    ) -> Result<(), StoreError> {
        for entry in tx.eviction.range(from..)? {
            if enough(self) {
                break;
            }
            let (key, _) = entry?;
            let (rank, key) = split_eviction(key.value())?;
            if !which.takes(&rank) {
                break;
            }
            if let Some(row) = tx.segment(key)? {
                self.add(tx, key, rank.class(), &row)?;
            }
        }
        Ok(())
    }

    fn go(self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for key in self.keys {
            tx.dropped.evicted += 1;
            lose(tx, key, false)?;
        }
        Ok(())
    }
}

/// Which segments may go.
#[derive(Clone, Copy)]
enum Which {
    Of(Priority),
    YieldingTo(Priority),
}

impl Which {
    fn takes(self, rank: &EvictionRank) -> bool {
        match self {
            Self::Of(class) => rank.class() == class.rank(),
            Self::YieldingTo(incoming) => rank.yields_to(incoming),
        }
    }
}

/// Makes room for `incoming` bytes of a segment of `priority`: first by what expired, then in its
/// own priority if that has more than its share, then by what other priorities have beyond theirs,
/// then in the order of eviction. Refuses without evicting anything when it cannot succeed.
pub(super) fn make_room(
    tx: &mut Tx<'_>,
    incoming: u64,
    priority: Priority,
) -> Result<(), StoreError> {
    expire_for_room(tx, incoming)?;
    let Some(limit) = tx.settings.limit.filter(|_| incoming > 0) else {
        return Ok(());
    };
    let shares = Shares {
        limit,
        percent: tx.settings.class_share,
    };
    let used = tx.used.saturating_add(tx.staged);
    let full = StoreError::Full {
        limit,
        wanted: incoming,
    };
    let needed = bytes_to_free(used, incoming, limit).ok_or_else(|| full.clone())?;
    let held = tx.catalog.class_bytes();
    let mut victims = Victims::default();
    let own = usize::from(priority.rank());
    let beyond = shares.excess(held, priority, incoming);
    if beyond > 0 {
        victims.gather(tx, Which::Of(priority), |v| v.of_class[own] >= beyond)?;
    }
    for class in Priority::ALL.into_iter().filter(|class| *class != priority) {
        let beyond = shares.excess(held, class, 0);
        let rank = usize::from(class.rank());
        if beyond > 0 && victims.freed < needed {
            victims.gather(tx, Which::Of(class), |v| {
                v.of_class[rank] >= beyond || v.freed >= needed
            })?;
        }
    }
    victims.gather(tx, Which::YieldingTo(priority), |v| v.freed >= needed)?;
    if victims.freed < needed {
        return Err(full);
    }
    victims.go(tx)
}

/// Makes room within what a publisher that the operator does not trust may take. Only its own
/// segments go for it; refuses without evicting anything when that is not enough.
pub(super) fn make_share_room(
    tx: &mut Tx<'_>,
    publisher: &PublisherKey,
    incoming: u64,
    priority: Priority,
) -> Result<(), StoreError> {
    let Some(share) = share_of(tx, publisher) else {
        return Ok(());
    };
    let held = tx.catalog.publisher_bytes(publisher);
    let Some(needed) = bytes_to_free(held, incoming, share) else {
        return Err(beyond_share(publisher, share));
    };
    if incoming == 0 || needed == 0 {
        return Ok(());
    }
    let victims = own_victims(tx, publisher, needed, priority)?;
    let going: u64 = victims.iter().map(|(_, bytes)| bytes).sum();
    if going < needed {
        return Err(beyond_share(publisher, share));
    }
    for (key, _) in victims {
        tx.dropped.evicted += 1;
        lose(tx, key, false)?;
    }
    Ok(())
}

/// Bytes that a publisher may take; `None` when it is trusted or nothing is limited.
fn share_of(tx: &Tx<'_>, publisher: &PublisherKey) -> Option<u64> {
    let limit = tx.settings.limit?;
    let percent = tx.untrusted_share(publisher)?;
    Some(percent_of(limit, percent))
}

fn beyond_share(publisher: &PublisherKey, share: u64) -> StoreError {
    StoreError::Share {
        publisher: *publisher,
        share,
    }
}

/// Segments of a publisher to go for `needed` bytes: those of its lowest content first, in each in
/// the order of eviction.
fn own_victims(
    tx: &Tx<'_>,
    publisher: &PublisherKey,
    needed: u64,
    priority: Priority,
) -> Result<Vec<(SegmentKey, u64)>, StoreError> {
    let mut contents: Vec<&Content> = tx
        .catalog
        .all()
        .map(|content| &**content)
        .filter(|content| content.key.publisher == *publisher)
        .filter(|content| !content.pinned && content.priority <= priority)
        .collect();
    contents.sort_by_key(|content| (content.priority, content.created, content.no));
    let mut victims = Vec::new();
    let mut freed = 0;
    for content in contents {
        let mut rows: Vec<_> = tx
            .rows(content.no, None)?
            .into_iter()
            .filter_map(|(key, row)| Some((rank(content, key, &row)?, key, row.length)))
            .collect();
        rows.sort_unstable_by_key(|(rank, ..)| *rank);
        for (_, key, length) in rows {
            if freed >= needed {
                return Ok(victims);
            }
            let bytes = payload::disk_bytes(length);
            freed += bytes;
            victims.push((key, bytes));
        }
    }
    Ok(victims)
}

impl Store {
    /// The partial payload of a record, as [`Store::partial`] gives it. Refused before anything is
    /// fetched when the segment would be: because its content was removed or has a later version,
    /// or because its publisher is not trusted and has its share. Blocks.
    pub fn partial_of(&self, record: &Verified<SegmentRecord>) -> Result<Arc<Partial>, StoreError> {
        let key = &record.content;
        self.check_comes_back(key)?;
        let limit = self.settings().limit;
        let bytes = payload::disk_bytes(record.length);
        let share = untrusted_share(self.settings(), Some(self.shared.own), &key.publisher);
        if let (Some(limit), Some(percent)) = (limit, share) {
            let held = self.catalog().publisher_bytes(&key.publisher);
            if held.saturating_add(bytes) > percent_of(limit, percent) {
                let (publisher, priority) = (key.publisher, record.priority);
                self.write(move |tx| make_share_room(tx, &publisher, bytes, priority))?;
            }
        }
        self.partial(
            &record.root,
            record.length,
            record.priority,
            record.expires(),
        )
    }
}

fn percent_of(limit: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(limit) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// Percent of everything that a publisher may take; `None` when it is trusted.
fn untrusted_share(
    settings: &Settings,
    own: Option<PublisherKey>,
    publisher: &PublisherKey,
) -> Option<u8> {
    let share = settings.publisher_share?;
    let trusted = own == Some(*publisher) || settings.trusted.contains(publisher);
    (!trusted).then_some(share)
}

impl Tx<'_> {
    /// Percent of everything that a publisher may take; `None` when it is trusted.
    pub(super) fn untrusted_share(&self, publisher: &PublisherKey) -> Option<u8> {
        untrusted_share(self.settings, self.own, publisher)
    }
}
