//! Have-ranges: which chunk groups of a payload are here.

use crate::limits::HAVE_INTERVALS_MAX;
use crate::wire::{DecodeError, Reader, Writer};

/// A run of chunk groups: from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupRange {
    /// First chunk group.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
}

/// Why ranges were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many separate ranges; the limit is {HAVE_INTERVALS_MAX}")]
pub struct RangesError;

/// A set of chunk groups, kept as sorted runs that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaveRanges(Vec<GroupRange>);

impl HaveRanges {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The groups from 0 up to `count`.
    #[must_use]
    pub fn full(count: u64) -> Self {
        let all = GroupRange {
            start: 0,
            end: count,
        };
        Self(if count == 0 { Vec::new() } else { vec![all] })
    }

    /// Adds the groups `start..end`.
    pub fn insert(&mut self, start: u64, end: u64) -> Result<(), RangesError> {
        if start >= end {
            return Ok(());
        }
        let first = self.0.partition_point(|run| run.end < start);
        let last = self.0.partition_point(|run| run.start <= end);
        let merged = self.0[first..last]
            .iter()
            .fold(GroupRange { start, end }, |all, run| GroupRange {
                start: all.start.min(run.start),
                end: all.end.max(run.end),
            });
        if first == last && self.0.len() >= HAVE_INTERVALS_MAX {
            return Err(RangesError);
        }
        self.0.splice(first..last, [merged]);
        Ok(())
    }

    /// Whether chunk group `group` is here.
    #[must_use]
    pub fn contains(&self, group: u64) -> bool {
        let at = self.0.partition_point(|run| run.end <= group);
        self.0.get(at).is_some_and(|run| run.start <= group)
    }

    /// How many chunk groups are here.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|run| run.end - run.start).sum()
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[GroupRange] {
        &self.0
    }

    /// The runs of `0..count` that are not here, in order.
    #[must_use]
    pub fn missing(&self, count: u64) -> Self {
        let mut gaps = Vec::new();
        let mut from = 0;
        for run in &self.0 {
            if run.start.min(count) > from {
                gaps.push(GroupRange {
                    start: from,
                    end: run.start.min(count),
                });
            }
            from = run.end;
        }
        if from < count {
            gaps.push(GroupRange {
                start: from,
                end: count,
            });
        }
        Self(gaps)
    }

    /// The canonical bytes: the number of runs, then for each the gap before it and its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.number(self.0.len() as u64);
        let mut from = 0;
        for run in &self.0 {
            w.number(run.start - from).number(run.end - run.start);
            from = run.end;
        }
        w.finish()
    }

    /// The inverse of [`HaveRanges::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let count = r.number("runs", HAVE_INTERVALS_MAX as u64)?;
        let mut runs = Vec::new();
        let mut from = 0u64;
        for index in 0..count {
            let gap = r.number("gap", u64::MAX)?;
            let length = r.number("run", u64::MAX)?;
            if length == 0 || (gap == 0 && index > 0) {
                return Err(DecodeError::Invalid("run"));
            }
            let start = from.checked_add(gap).ok_or(DecodeError::Limit("gap"))?;
            let end = start.checked_add(length).ok_or(DecodeError::Limit("run"))?;
            runs.push(GroupRange { start, end });
            from = end;
        }
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
