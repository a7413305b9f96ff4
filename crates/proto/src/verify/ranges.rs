//! Have-ranges: which chunk groups of a payload are here.

use crate::limits::HAVE_INTERVALS_MAX;
use crate::runs::GroupRuns;
use crate::wire::{DecodeError, Reader, Writer};

/// A run of chunk groups.
pub use crate::runs::GroupRun as GroupRange;

/// Why ranges were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many separate ranges; the limit is {HAVE_INTERVALS_MAX}")]
pub struct RangesError;

/// A set of chunk groups, in a limited number of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaveRanges(GroupRuns);

impl HaveRanges {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(GroupRuns::new())
    }

    /// The groups from 0 up to `count`.
    #[must_use]
    pub fn full(count: u64) -> Self {
        Self(GroupRuns::of(0, count))
    }

    /// Adds the groups `start..end`.
    pub fn insert(&mut self, start: u64, end: u64) -> Result<(), RangesError> {
        // At the limit an insertion may still join runs. Whether it does is tried on a copy.
        if self.0.runs().len() >= HAVE_INTERVALS_MAX {
            let mut more = self.0.clone();
            more.insert(start, end);
            if more.runs().len() > HAVE_INTERVALS_MAX {
                return Err(RangesError);
            }
        }
        self.0.insert(start, end);
        Ok(())
    }

    /// Whether chunk group `group` is here.
    #[must_use]
    pub fn contains(&self, group: u64) -> bool {
        self.0.contains(group)
    }

    /// How many chunk groups are here.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[GroupRange] {
        self.0.runs()
    }

    /// As a set without a limit.
    #[must_use]
    pub const fn as_runs(&self) -> &GroupRuns {
        &self.0
    }

    /// The runs of `0..count` that are not here, in order.
    #[must_use]
    pub fn missing(&self, count: u64) -> Self {
        Self(GroupRuns::of(0, count).without(&self.0))
    }

    /// The canonical bytes: the number of runs, then for each the gap before it and its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.0.write(&mut w);
        w.finish()
    }

    /// The inverse of [`HaveRanges::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        // The end of a run is one more than its last number, and has to be a number, too.
        let runs = GroupRuns::read(&mut r, u64::MAX - 1, HAVE_INTERVALS_MAX)?;
        r.end()?;
        Ok(Self(runs))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(inserts in proptest::collection::vec((0u64..80, 0u64..12), 0..30)) {
            let mut ranges = HaveRanges::new();
            let mut set = BTreeSet::new();
            for (start, length) in inserts {
                ranges.insert(start, start + length).unwrap();
                set.extend(start..start + length);
            }
            prop_assert_eq!(ranges.count(), set.len() as u64);
            for group in 0..100 {
                prop_assert_eq!(ranges.contains(group), set.contains(&group));
                prop_assert_eq!(ranges.missing(100).contains(group), !set.contains(&group));
            }
            prop_assert_eq!(HaveRanges::decode(&ranges.encode()), Ok(ranges.clone()));
            for pair in ranges.runs().windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
        }

        #[test]
        fn arbitrary_bytes_decode_canonically(
            bytes in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            if let Ok(ranges) = HaveRanges::decode(&bytes) {
                prop_assert_eq!(ranges.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_number_of_runs_is_limited() {
        let mut ranges = HaveRanges::new();
        for run in 0..HAVE_INTERVALS_MAX as u64 {
            ranges.insert(run * 2, run * 2 + 1).unwrap();
        }
        assert_eq!(ranges.insert(1 << 40, (1 << 40) + 1), Err(RangesError));
        assert_eq!(ranges.insert(0, 1 << 41), Ok(()));
        assert_eq!(ranges.runs().len(), 1);
    }
}
