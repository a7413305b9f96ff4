//! What goes first when a store is full.
//!
//! Expired segments go before all others, by their deadline. After them the order is: what every
//! node of the group has, then lowest priority, then most copies known elsewhere, then oldest;
//! within one content the last segment goes first, so that what stays plays from the start. Pinned
//! segments never go.
//!
//! Whose a segment is comes before all of that: a stranger's goes before a trusted publisher's, and
//! the node's own goes last. None ever goes for one of lower standing.
//!
//! A priority that has more than its share of the store makes room within itself first, and gives
//! way before all others, so that streams that nobody ends do not push films out.

use crate::content::Priority;
use crate::time::Time;

/// A number of copies that stands for "on every node of the group".
pub const EVERYWHERE: u16 = u16::MAX;

/// Added to the first byte of what is not everywhere.
/// Priorities 0 to 2 are below it, in two bits.
const NOT_EVERYWHERE: u8 = 4;
/// Added to the first byte for each step of standing.
/// The three bits below it hold the priority and whether it is everywhere.
const STANDING: u8 = 8;

/// What a publisher is to the operator of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Anybody.
    #[default]
    Stranger,
    /// The operator trusts it.
    Trusted,
    /// The node itself.
    Own,
}

impl Standing {
    /// All of them, the lowest first.
    pub const ALL: [Self; 3] = [Self::Stranger, Self::Trusted, Self::Own];
}

/// What the policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Priority of the segment's content.
    pub priority: Priority,
    /// On how many other nodes it is known to be.
    pub copies: u16,
    /// When it was made.
    pub created: Time,
    /// Its position in the rendition.
    pub sequence: u64,
    /// Whether the operator wants it kept.
    pub pinned: bool,
}

/// A place in the queue of eviction; the smallest goes first. Its bytes sort as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvictionRank {
    // Fields are compared in this order, which is that of eviction.
    standing: u8,
    not_everywhere: bool,
    priority: u8,
    copies_inverse: u16,
    created: u64,
    sequence_inverse: u64,
}

impl EvictionRank {
    /// Length of [`EvictionRank::to_bytes`].
    pub const BYTES: usize = 19;

    /// The rank of a stranger's holding; none when it is pinned.
    #[must_use]
    pub fn of(holding: &Holding) -> Option<Self> {
        (!holding.pinned).then_some(Self {
            standing: Standing::Stranger as u8,
            not_everywhere: holding.copies != EVERYWHERE,
            priority: holding.priority.rank(),
            // The smallest rank goes first: so most copies, and the end of a content, have to be
            // small.
            copies_inverse: u16::MAX - holding.copies,
            created: holding.created.0,
            sequence_inverse: u64::MAX - holding.sequence,
        })
    }

    /// The same for a publisher of that standing.
    #[must_use]
    pub const fn with_standing(self, standing: Standing) -> Self {
        Self {
            standing: standing as u8,
            ..self
        }
    }

    /// Whether room for a segment of `incoming` priority may be made with this one, of a publisher
    /// of the same standing: never with one of higher priority, unless every node of the group has
    /// it.
    #[must_use]
    pub const fn yields_to(&self, incoming: Priority) -> bool {
        !self.not_everywhere || self.priority <= incoming.rank()
    }

    /// Whether room may be made with this one for a segment of a publisher of that standing. What
    /// yields is the beginning of the queue.
    #[must_use]
    pub const fn yields_to_one_of(&self, standing: Standing, incoming: Priority) -> bool {
        let theirs = standing as u8;
        self.standing < theirs || (self.standing == theirs && self.yields_to(incoming))
    }

    /// Whether every node that should have it does: it is of no use here any more.
    #[must_use]
    pub const fn is_everywhere(&self) -> bool {
        !self.not_everywhere
    }

    /// Whether its publisher's standing is lower than that.
    #[must_use]
    pub const fn is_below(&self, standing: Standing) -> bool {
        self.standing < standing as u8
    }

    /// Rank of the priority.
    #[must_use]
    pub const fn class(&self) -> u8 {
        self.priority
    }

    /// The first bytes of the ranks of a priority and a standing: of what is everywhere, and of all
    /// else.
    #[must_use]
    pub const fn starts(class: Priority, standing: Standing) -> [u8; 2] {
        let first = class.rank() + STANDING * standing as u8;
        [first, first + NOT_EVERYWHERE]
    }

    /// Big-endian bytes, in the order of the ranks.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.priority + STANDING * self.standing;
        if self.not_everywhere {
            bytes[0] += NOT_EVERYWHERE;
        }
        // Big-endian, so that the index, which compares bytes, has them in the order of the ranks.
        bytes[1..3].copy_from_slice(&self.copies_inverse.to_be_bytes());
        bytes[3..11].copy_from_slice(&self.created.to_be_bytes());
        bytes[11..].copy_from_slice(&self.sequence_inverse.to_be_bytes());
        bytes
    }

    /// The inverse of [`EvictionRank::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |from: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[from..from + 8]);
            u64::from_be_bytes(eight)
        };
        Self {
            standing: bytes[0] / STANDING,
            not_everywhere: bytes[0] % STANDING >= NOT_EVERYWHERE,
            priority: bytes[0] % NOT_EVERYWHERE,
            copies_inverse: u16::from_be_bytes([bytes[1], bytes[2]]),
            created: number(3),
            sequence_inverse: number(11),
        }
    }
}

/// How much of a store's limit each priority may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Most bytes of the store.
    pub limit: u64,
    /// Percent of it, by the rank of the priority.
    pub percent: [u8; 3],
}

impl Shares {
    /// Most bytes of a priority. One that may take all of the store is held by its limit alone:
    /// here, what two segments share counts twice.
    #[must_use]
    pub const fn of(&self, priority: Priority) -> u64 {
        let percent = self.percent[priority.rank() as usize];
        if percent >= 100 {
            return u64::MAX;
        }
        // In 128 bits, as a limit may be as large as a number can be.
        (self.limit as u128 * percent as u128 / 100) as u64
    }

    /// How many bytes of a priority are beyond its share when `incoming` more come. They go first:
    /// for what comes of that priority, and for any other when the store is full.
    #[must_use]
    pub const fn excess(&self, used: [u64; 3], priority: Priority, incoming: u64) -> u64 {
        let held = used[priority.rank() as usize].saturating_add(incoming);
        held.saturating_sub(self.of(priority))
    }
}

/// How many bytes must go before `incoming` more bytes fit into `limit`.
///
/// `None` when they can never fit, however much goes.
#[must_use]
pub const fn bytes_to_free(used: u64, incoming: u64, limit: u64) -> Option<u64> {
    // What never fits must not make others go.
    if incoming > limit {
        return None;
    }
    Some(used.saturating_add(incoming).saturating_sub(limit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(priority: Priority, copies: u16, created: u64, sequence: u64) -> Holding {
        Holding {
            priority,
            copies,
            created: Time(created),
            sequence,
            pinned: false,
        }
    }

    #[test]
    fn the_order_is_priority_copies_age_then_the_tail() {
        use Priority::{Live, NearLive, Vod};
        let queue = [
            holding(Vod, 3, 50, 0),
            holding(Vod, 1, 10, 9),
            holding(Vod, 1, 10, 8),
            holding(Vod, 1, 20, 0),
            holding(Vod, 0, 1, 0),
            holding(NearLive, 9, 1, 0),
            holding(Live, 9, 1, 0),
        ];
        let everywhere = EvictionRank::of(&holding(Live, EVERYWHERE, 1, 0)).unwrap();
        assert!(everywhere < EvictionRank::of(&queue[0]).unwrap());
        assert!(everywhere.yields_to(Vod));
        let ranks = queue.map(|holding| EvictionRank::of(&holding).unwrap());
        assert!(ranks.is_sorted(), "{ranks:?}");
        assert!(ranks.map(EvictionRank::to_bytes).is_sorted());
    }

    #[test]
    fn pinned_never_goes_and_higher_priority_never_yields() {
        let mut pinned = holding(Priority::Vod, 0, 0, 0);
        pinned.pinned = true;
        assert_eq!(EvictionRank::of(&pinned), None);
        let live = EvictionRank::of(&holding(Priority::Live, 0, 0, 0)).unwrap();
        assert!(!live.yields_to(Priority::Vod));
        assert!(live.yields_to(Priority::Live));
    }

    #[test]
    fn whose_it_is_comes_before_everything_else() {
        use Standing::{Own, Stranger, Trusted};
        let (film, stream) = (
            EvictionRank::of(&holding(Priority::Vod, 0, 0, 0)).unwrap(),
            EvictionRank::of(&holding(Priority::Live, 0, 0, 0)).unwrap(),
        );
        let everywhere = EvictionRank::of(&holding(Priority::Vod, EVERYWHERE, 0, 0)).unwrap();
        let queue = [
            film,
            stream,
            everywhere.with_standing(Trusted),
            film.with_standing(Trusted),
            everywhere.with_standing(Own),
            film.with_standing(Own),
            stream.with_standing(Own),
        ];
        assert!(queue.is_sorted(), "{queue:?}");
        assert!(queue.map(EvictionRank::to_bytes).is_sorted());
        for (standing, priority, yielding) in [
            (Stranger, Priority::Vod, 1),
            (Stranger, Priority::Live, 2),
            (Trusted, Priority::Vod, 4),
            (Own, Priority::Vod, 6),
            (Own, Priority::Live, 7),
        ] {
            let yields = queue.map(|rank| rank.yields_to_one_of(standing, priority));
            assert_eq!(
                yields,
                [0, 1, 2, 3, 4, 5, 6].map(|n| n < yielding),
                "{standing:?}"
            );
        }
        assert!(film.is_below(Trusted) && !film.with_standing(Own).is_below(Own));
        let starts = EvictionRank::starts(Priority::Vod, Own);
        assert_eq!(starts[0], everywhere.with_standing(Own).to_bytes()[0]);
        assert_eq!(starts[1], film.with_standing(Own).to_bytes()[0]);
    }

    #[test]
    fn room_is_counted_without_overflow() {
        assert_eq!(bytes_to_free(90, 20, 100), Some(10));
        assert_eq!(bytes_to_free(10, 20, 100), Some(0));
        assert_eq!(bytes_to_free(0, 101, 100), None);
        assert_eq!(bytes_to_free(u64::MAX, 5, u64::MAX), Some(0));
    }

    #[test]
    fn a_share_is_a_part_of_the_limit() {
        let shares = Shares {
            limit: 1000,
            percent: [100, 30, 20],
        };
        assert_eq!(shares.of(Priority::Live), 200);
        let used = [900, 300, 150];
        assert_eq!(shares.excess(used, Priority::Live, 50), 0);
        assert_eq!(shares.excess(used, Priority::Live, 60), 10);
        assert_eq!(shares.excess(used, Priority::NearLive, 7), 7);
        assert_eq!(shares.excess(used, Priority::Vod, 100), 0);
        let whole = Shares {
            limit: u64::MAX,
            percent: [100, 255, 0],
        };
        assert_eq!(whole.of(Priority::Vod), u64::MAX);
        assert_eq!(whole.of(Priority::NearLive), u64::MAX);
        assert_eq!(whole.of(Priority::Live), 0);
        assert_eq!(whole.excess([0, 0, u64::MAX], Priority::Live, 5), u64::MAX);
    }

    proptest! {
        #[test]
        fn bytes_round_trip_and_sort_like_ranks(
            a in (0usize..3, 0u8..3, any::<u16>(), any::<u64>(), any::<u64>()),
            b in (0usize..3, 0u8..3, any::<u16>(), any::<u64>(), any::<u64>()),
        ) {
            let rank = |(standing, p, copies, created, sequence)| {
                let held = holding(Priority::from_rank(p).unwrap(), copies, created, sequence);
                EvictionRank::of(&held).unwrap().with_standing(Standing::ALL[standing])
            };
            let (a, b) = (rank(a), rank(b));
            prop_assert_eq!(EvictionRank::from_bytes(&a.to_bytes()), a);
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
        }
    }
}
