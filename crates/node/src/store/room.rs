//! Making room: in the order of eviction, within the share of a priority, of a publisher, and of
//! all strangers together.

use std::collections::{BTreeMap, BTreeSet};

use lavant_proto::content::{Kind, Priority};
use lavant_proto::ids::{PublisherKey, Root};
use lavant_proto::relay::evict::{EvictionRank, Shares, Standing, bytes_to_free};
use redb::ReadableTable;

use super::catalog::{Catalog, Content};
use super::error::StoreError;
use super::expire::{expire_for_room, lose};
use super::limit::{Claim, Limit, percent_of};
use super::partials::Partials;
use super::payload;
use super::rows::{SegmentKey, SegmentRow, split_eviction};
use super::settings::Settings;
use super::tx::{Tx, Why};

/// How many segments of a rendition are looked at together when some of a publisher's own go: a
/// thousandth of a second. In tests contents are short.
const OLDEST: usize = if cfg!(test) { 3 } else { 256 };

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Bytes of payload files that come.
    pub(super) files: u64,
    /// Bytes that the publisher holds more, also when they are here as somebody else's.
    pub(super) held: u64,
}

impl Wanted {
    pub(super) const fn bytes(bytes: u64) -> Self {
        Self {
            files: bytes,
            held: bytes,
        }
    }
}

/// What must go for something to come.
#[derive(Default)]
pub(super) struct Victims {
    /// In the order in which they go.
    keys: Vec<SegmentKey>,
    chosen: BTreeSet<[u8; SegmentKey::BYTES]>,
    /// Segments that share a payload free something only together.
    sharing: BTreeMap<Root, Sharing>,
    /// Bytes of payload files that become free.
    freed: u64,
    /// Bytes by which each priority holds less.
    of_class: [u64; 3],
    /// Bytes by which their publishers hold less.
    released: u64,
}

/// Segments with one payload.
#[derive(Default)]
struct Sharing {
    chosen: u64,
    /// Those that go with the last one only.
    waiting: Vec<(SegmentKey, u8)>,
}

impl Victims {
    /// Adds a segment of a priority; it goes with the last one that shares its payload, or at once
    /// when it is `forced`.
    fn add(
        &mut self,
        tx: &Tx<'_>,
        (key, class): (SegmentKey, u8),
        row: &SegmentRow,
        forced: bool,
    ) -> Result<(), StoreError> {
        if !self.chosen.insert(key.to_bytes()) {
            return Ok(());
        }
        let uses = tx
            .tables()
            .payloads
            .get(row.root.0.as_slice())?
            .map_or(0, |uses| uses.value().0);
        let bytes = payload::disk_bytes(row.length);
        let together = self.sharing.entry(row.root).or_default();
        together.chosen += 1;
        together.waiting.push((key, class));
        let last = together.chosen >= u64::from(uses);
        if last || forced {
            let going = std::mem::take(&mut together.waiting);
            for (key, class) in going {
                self.keys.push(key);
                self.of_class[usize::from(class).min(2)] += bytes;
                self.released += bytes;
            }
        }
        if last {
            self.freed += bytes;
        }
        Ok(())
    }

    /// Adds what goes next until it is enough.
    fn gather(
        &mut self,
        tx: &Tx<'_>,
        which: Which,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), StoreError> {
        for from in which.starts() {
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
        for entry in tx.tables().eviction.range(from..)? {
            if enough(self) {
                break;
            }
            let (key, _) = entry?;
            let starts = key.value().starts_with(from);
            let (rank, key) = split_eviction(key.value())?;
            if !starts || !which.takes(&rank) {
                break;
            }
            let content = tx.catalog().get(key.content_no);
            if let (Some(content), Some(row)) = (content, tx.segment(key)?)
                && tx.rank(content, key, &row) == Some(rank)
            {
                self.add(tx, (key, rank.class()), &row, false)?;
            }
        }
        Ok(())
    }

    fn go(self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for key in self.keys {
            lose(tx, key, Why::Evicted)?;
        }
        Ok(())
    }
}

/// Which segments may go.
#[derive(Clone, Copy)]
enum Which {
    /// Those of a priority, of publishers of no higher standing.
    Of(Priority, Standing),
    /// Those of publishers of lower standing.
    Below(Standing),
    YieldingTo(Standing, Priority),
}

impl Which {
    /// The beginnings of the parts of the queue where they stand.
    fn starts(self) -> Vec<Vec<u8>> {
        let Self::Of(class, highest) = self else {
            return vec![Vec::new()];
        };
        let standings = Standing::ALL.into_iter().filter(|s| *s <= highest);
        let starts = standings.flat_map(|standing| EvictionRank::starts(class, standing));
        starts.map(|start| vec![start]).collect()
    }

    const fn takes(self, rank: &EvictionRank) -> bool {
        match self {
            Self::Of(class, _) => rank.class() == class.rank(),
            Self::Below(standing) => rank.is_below(standing),
            Self::YieldingTo(standing, incoming) => rank.yields_to_one_of(standing, incoming),
        }
    }
}

/// Makes room for what a claim wants; see [`victims`]. Refuses without evicting anything when it
/// cannot succeed.
pub(super) fn make_room(tx: &mut Tx<'_>, wanted: Wanted, claim: &Claim) -> Result<(), StoreError> {
    expire_for_room(tx, wanted.files)?;
    victims(tx, wanted, claim)?.go(tx)
}

/// What goes for a claim: first what its publisher, and all strangers together, hold beyond their
/// shares; then in its own priority if that has more than its share; then of publishers of lower
/// standing; then what other priorities have beyond their shares; then in the order of eviction.
pub(super) fn victims(
    tx: &mut Tx<'_>,
    wanted: Wanted,
    claim: &Claim,
) -> Result<Victims, StoreError> {
    let mut victims = Victims::default();
    let Some(limit) = tx.limit() else {
        return Ok(victims);
    };
    // What is to go is chosen in the queue, so that has to be as it should.
    if lacks_room(tx, limit, wanted, claim) {
        while tx.requeue_some()? {}
    }
    gather_shares(tx, wanted.held, claim, &mut victims)?;
    if wanted.files > 0 {
        gather_room(tx, wanted.files, (claim, limit), &mut victims)?;
    }
    Ok(victims)
}

/// Whether something may have to go.
fn lacks_room(tx: &Tx<'_>, limit: Limit, wanted: Wanted, claim: &Claim) -> bool {
    let held = (tx.catalog(), tx.partials());
    let held = Held::of(tx.settings(), Some(limit), held, claim);
    let mut parts = [held.publisher, held.strangers].into_iter().flatten();
    let shares = Shares {
        limit: limit.bytes,
        percent: tx.settings().class_share,
    };
    let of_class = tx.catalog().class_bytes();
    tx.taken().saturating_add(wanted.files) > limit.bytes
        || parts.any(|part| !part.takes(wanted.held))
        || shares.excess(of_class, claim.priority, wanted.files) > 0
}

fn gather_room(
    tx: &Tx<'_>,
    incoming: u64,
    (claim, limit): (&Claim, Limit),
    victims: &mut Victims,
) -> Result<(), StoreError> {
    let Claim {
        standing, priority, ..
    } = *claim;
    let used = tx.taken();
    if claim.is_free_of(limit) {
        let needed = used.saturating_add(incoming).saturating_sub(limit.bytes);
        return victims.gather(tx, Which::Below(standing), |v| v.freed >= needed);
    }
    let full = StoreError::Full {
        limit: limit.bytes,
        wanted: incoming,
    };
    let needed = bytes_to_free(used, incoming, limit.bytes).ok_or_else(|| full.clone())?;
    let shares = Shares {
        limit: limit.bytes,
        percent: tx.settings().class_share,
    };
    let held = tx.catalog().class_bytes();
    let own = usize::from(priority.rank());
    let beyond = shares.excess(held, priority, incoming);
    if beyond > 0 {
        let of_class = Which::Of(priority, standing);
        victims.gather(tx, of_class, |v| v.of_class[own] >= beyond)?;
    }
    victims.gather(tx, Which::Below(standing), |v| v.freed >= needed)?;
    for class in Priority::ALL.into_iter().filter(|class| *class != priority) {
        let beyond = shares.excess(held, class, 0);
        let rank = usize::from(class.rank());
        if beyond > 0 && victims.freed < needed {
            victims.gather(tx, Which::Of(class, standing), |v| {
                v.of_class[rank] >= beyond || v.freed >= needed
            })?;
        }
    }
    let yielding = Which::YieldingTo(standing, priority);
    victims.gather(tx, yielding, |v| v.freed >= needed)?;
    if victims.freed < needed {
        return Err(full);
    }
    Ok(())
}

/// Adds what goes within what a publisher that the operator does not trust may take, of its own
/// segments alone, and within what all of them together may take.
fn gather_shares(
    tx: &Tx<'_>,
    incoming: u64,
    claim: &Claim,
    victims: &mut Victims,
) -> Result<(), StoreError> {
    let held = Held::of(
        tx.settings(),
        tx.limit(),
        (tx.catalog(), tx.partials()),
        claim,
    );
    if let (Some(of), Some(publisher)) = (held.publisher, claim.publisher) {
        let beyond = StoreError::Share {
            publisher,
            share: of.share,
        };
        let needed = bytes_to_free(of.bytes, incoming, of.share).ok_or_else(|| beyond.clone())?;
        if needed > 0 {
            add_own(tx, &publisher, (needed, claim.priority), victims)?;
            if victims.released < needed {
                return Err(beyond);
            }
        }
    }
    if let Some(all) = held.strangers {
        let beyond = StoreError::Strangers { share: all.share };
        let needed = bytes_to_free(all.bytes, incoming, all.share).ok_or_else(|| beyond.clone())?;
        let yielding = Which::YieldingTo(Standing::Stranger, claim.priority);
        victims.gather(tx, yielding, |v| v.released >= needed)?;
        if victims.released < needed {
            return Err(beyond);
        }
    }
    Ok(())
}

/// What is held of a share.
#[derive(Clone, Copy)]
struct Part {
    bytes: u64,
    share: u64,
}

impl Part {
    const fn takes(self, incoming: u64) -> bool {
        self.bytes.saturating_add(incoming) <= self.share
    }
}

/// The shares that a claim has to keep within.
struct Held {
    publisher: Option<Part>,
    strangers: Option<Part>,
}

impl Held {
    fn of(
        settings: &Settings,
        limit: Option<Limit>,
        (catalog, partials): (&Catalog, Option<&Partials>),
        claim: &Claim,
    ) -> Self {
        let limit = limit.filter(|_| claim.standing == Standing::Stranger);
        let share = |percent: Option<u8>| Some(percent_of(limit?.bytes, percent?));
        let arriving = |of| partials.map_or(0, |partials| partials.arriving(of));
        let publisher = claim.publisher.as_ref();
        let of_publisher = publisher.zip(share(settings.publisher_share));
        Self {
            publisher: of_publisher.map(|(publisher, share)| Part {
                bytes: catalog.of_publisher(publisher).bytes + arriving(Some(publisher)),
                share,
            }),
            strangers: share(settings.strangers_share).map(|share| Part {
                bytes: catalog.of_standing(Standing::Stranger).bytes + arriving(None),
                share,
            }),
        }
    }
}

/// Whether something fits as it is, without anything going: into the limit, of which `taken` bytes
/// are taken, and into all shares.
pub(super) fn fits(
    settings: &Settings,
    (limit, taken): (Option<Limit>, u64),
    held: (&Catalog, &Partials),
    (incoming, claim): (u64, &Claim),
) -> bool {
    let Some(limit) = limit else {
        return true;
    };
    let shares = Held::of(settings, Some(limit), (held.0, Some(held.1)), claim);
    let parts = [shares.publisher, shares.strangers];
    taken.saturating_add(incoming) <= limit.bytes
        && parts.iter().flatten().all(|part| part.takes(incoming))
}

/// Adds segments of a publisher for `needed` bytes: those of its lowest content first. Of that, the
/// oldest of each rendition are looked at together, and go in the order of eviction.
fn add_own(
    tx: &Tx<'_>,
    publisher: &PublisherKey,
    (needed, priority): (u64, Priority),
    victims: &mut Victims,
) -> Result<(), StoreError> {
    for content in tx.catalog().yielding(*publisher, priority) {
        let mut others = vec![Some(0); content.renditions.len()];
        while others.iter().any(Option::is_some) {
            if victims.released >= needed {
                return Ok(());
            }
            let mut oldest = Vec::new();
            for (no, from) in others.iter_mut().enumerate() {
                if let Some(first) = *from {
                    let some = oldest_of(tx, content, (no as u16, first))?;
                    *from = some
                        .last()
                        .and_then(|(_, key, _)| key.sequence.checked_add(1));
                    oldest.extend(some);
                }
            }
            oldest.sort_unstable_by_key(|(rank, ..)| *rank);
            for (rank, key, row) in oldest {
                if victims.released >= needed {
                    return Ok(());
                }
                victims.add(tx, (key, rank.class()), &row, true)?;
            }
        }
    }
    Ok(())
}

/// Segments of a rendition that are here and may go, from a sequence on, at most [`OLDEST`].
fn oldest_of(
    tx: &Tx<'_>,
    content: &Content,
    (rendition_no, first): (u16, u64),
) -> Result<Vec<(EvictionRank, SegmentKey, SegmentRow)>, StoreError> {
    let range = SegmentKey::range(content.no, Some((rendition_no, Kind::Media)));
    let from = SegmentKey {
        sequence: first,
        ..SegmentKey::from_bytes(range.start())?
    };
    let from = from.to_bytes();
    let rows = tx
        .tables()
        .segments
        .range(from.as_slice()..=range.end().as_slice())?;
    let mut oldest = Vec::new();
    for entry in rows {
        let (key, row) = entry?;
        let (key, row) = (
            SegmentKey::from_bytes(key.value())?,
            SegmentRow::decode(row.value())?,
        );
        if let Some(rank) = tx.rank(content, key, &row) {
            oldest.push((rank, key, row));
            if oldest.len() == OLDEST {
                break;
            }
        }
    }
    Ok(oldest)
}
