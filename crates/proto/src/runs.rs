//! Sets of numbers kept as runs: which segments of a track, which chunk groups of a payload.
//!
//! What is numbered is part of the type, so that a run of segments cannot be taken for one of
//! chunk groups.

use std::marker::PhantomData;

use crate::wire::{DecodeError, Reader, Writer};

/// Positions of segments in a track.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sequences {
    /// There are no values of it: it only marks types.
    #[default]
    Marker,
}

/// Chunk groups of a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Groups {
    /// There are no values of it: it only marks types.
    #[default]
    Marker,
}

/// Positions of records in a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Positions {
    /// There are no values of it: it only marks types.
    #[default]
    Marker,
}

/// A run of segments.
pub type SequenceRun = Run<Sequences>;
/// A run of chunk groups.
pub type GroupRun = Run<Groups>;
/// A run of records of a manifest.
pub type PositionRun = Run<Positions>;
/// A set of segments.
pub type SequenceRuns = Runs<Sequences>;
/// A set of chunk groups.
pub type GroupRuns = Runs<Groups>;

/// Numbers of one kind from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run<K> {
    /// The first number.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
    kind: PhantomData<K>,
}

impl<K> std::fmt::Debug for Run<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl<K> Run<K> {
    /// The run of these numbers.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            kind: PhantomData,
        }
    }

    /// The run of one number.
    #[must_use]
    pub const fn one(number: u64) -> Self {
        Self::new(number, number.saturating_add(1))
    }

    /// Whether `number` is in it.
    #[must_use]
    pub const fn contains(&self, number: u64) -> bool {
        self.start <= number && number < self.end
    }

    /// How many numbers there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// A set of numbers: sorted runs that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Runs<K>(Vec<Run<K>>);

impl<K: Copy> Runs<K> {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The numbers of one run.
    #[must_use]
    pub fn of(start: u64, end: u64) -> Self {
        let mut runs = Self::new();
        runs.insert(start, end);
        runs
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[Run<K>] {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first runs of a set, at most so many.
    #[must_use]
    pub fn first_runs(&self, most: usize) -> Self {
        Self(self.0.iter().take(most).copied().collect())
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(Run::count).sum()
    }

    /// The lowest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|run| run.start)
    }

    /// Whether `number` is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        // Runs are sorted and apart: only the first that ends behind the number can hold it.
        let at = self.0.partition_point(|run| run.end <= number);
        self.0.get(at).is_some_and(|run| run.start <= number)
    }

    /// Whether all of `start..end` is in it.
    #[must_use]
    pub fn covers(&self, start: u64, end: u64) -> bool {
        // Runs never touch, so what is covered lies within one of them.
        let at = self.0.partition_point(|run| run.end <= start);
        start >= end
            || self
                .0
                .get(at)
                .is_some_and(|run| run.start <= start && run.end >= end)
    }

    /// Adds `start..end`.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Segments of a stream come in order: most insertions make the last run longer.
        if let Some(last) = self.0.last_mut()
            && last.start <= start
            && last.end >= start
        {
            last.end = last.end.max(end);
            return;
        }
        // Runs that only touch are merged, too: two of them would be a second way to write one set.
        let first = self.0.partition_point(|run| run.end < start);
        let last = self.0.partition_point(|run| run.start <= end);
        let merged = self.0[first..last]
            .iter()
            .fold(Run::new(start, end), |all: Run<K>, run| {
                Run::new(all.start.min(run.start), all.end.max(run.end))
            });
        // Most sets have one run and never get another.
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.splice(first..last, [merged]);
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|run| run.end <= start);
        let last = self.0.partition_point(|run| run.start < end);
        if first >= last {
            return;
        }
        let head = Run::<K>::new(self.0[first].start, start);
        let tail = Run::new(end, self.0[last - 1].end);
        // `count` saturates: a head or a tail that is not there has none.
        let rest = [head, tail].into_iter().filter(|run| run.count() > 0);
        self.0.splice(first..last, rest);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for run in &other.0 {
            self.insert(run.start, run.end);
        }
    }

    /// What is in this set and not in `other`, in order.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut others = other.0.iter().peekable();
        for run in &self.0 {
            let mut from = run.start;
            while others.next_if(|gone| gone.end <= from).is_some() {}
            // A run of `other` may reach into the next run, too: that one looks at it again.
            let mut ahead = others.clone();
            while let Some(gone) = ahead.next_if(|gone| gone.start < run.end) {
                if gone.start > from {
                    rest.push(Run::new(from, gone.start));
                }
                from = from.max(gone.end);
            }
            if from < run.end {
                rest.push(Run::new(from, run.end));
            }
        }
        Self(rest)
    }

    /// The numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|run| run.start..run.end)
    }

    /// Writes the number of runs, then for each the gap before it and its length.
    pub fn write(&self, w: &mut Writer) {
        w.number(self.0.len() as u64);
        let mut from = 0;
        for run in &self.0 {
            w.number(run.start - from).number(run.end - run.start);
            from = run.end;
        }
    }

    /// The inverse of [`Runs::write`], for numbers of at most `max`, in at most `runs_max` runs.
    pub fn read(r: &mut Reader<'_>, max: u64, runs_max: usize) -> Result<Self, DecodeError> {
        // The count is a claim: no memory is set aside for it, runs are added as they are read.
        let count = r.number("runs", runs_max as u64)?;
        let mut runs = Vec::new();
        let mut from = 0u64;
        for index in 0..count {
            let gap = r.number("gap", max)?;
            let length = r.number("run", max)?;
            // A run without numbers, or one that touches the one before, would be a second encoding
            // of the set.
            if length == 0 || (gap == 0 && index > 0) {
                return Err(DecodeError::Invalid("run"));
            }
            // An end that was cut at the greatest number would give one run two encodings.
            let start = from.checked_add(gap);
            let end = start.and_then(|start| start.checked_add(length));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(DecodeError::Limit("run"));
            };
            if end > max.saturating_add(1) {
                return Err(DecodeError::Limit("run"));
            }
            runs.push(Run::new(start, end));
            from = end;
        }
        Ok(Self(runs))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(runs: &SequenceRuns) -> BTreeSet<u64> {
        runs.iter().collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            steps in proptest::collection::vec((any::<bool>(), 0u64..80, 0u64..12), 0..40),
            others in proptest::collection::vec((0u64..80, 0u64..12), 0..10),
        ) {
            let (mut runs, mut model) = (SequenceRuns::new(), BTreeSet::new());
            for (add, start, length) in steps {
                if add {
                    runs.insert(start, start + length);
                    model.extend(start..start + length);
                } else {
                    runs.remove(start, start + length);
                    model.retain(|n| !(start..start + length).contains(n));
                }
            }
            prop_assert_eq!(set(&runs), model.clone());
            prop_assert_eq!(runs.count(), model.len() as u64);
            for pair in runs.runs().windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            let mut other = SequenceRuns::new();
            for (start, length) in others {
                other.insert(start, start + length);
            }
            let rest: BTreeSet<u64> = model.difference(&set(&other)).copied().collect();
            prop_assert_eq!(set(&runs.without(&other)), rest);
            for number in 0..100 {
                prop_assert_eq!(runs.contains(number), model.contains(&number));
                let all = (number..number + 3).all(|n| model.contains(&n));
                prop_assert_eq!(runs.covers(number, number + 3), all);
            }
            let mut w = Writer::new();
            runs.write(&mut w);
            let bytes = w.finish();
            prop_assert_eq!(SequenceRuns::read(&mut Reader::new(&bytes), 100, 100), Ok(runs));
        }
    }

    #[test]
    fn numbers_and_runs_beyond_the_limits_are_refused() {
        let mut w = Writer::new();
        SequenceRuns::of(5, 101).write(&mut w);
        let bytes = w.finish();
        assert!(SequenceRuns::read(&mut Reader::new(&bytes), 100, 9).is_ok());
        assert!(SequenceRuns::read(&mut Reader::new(&bytes), 99, 9).is_err());
        assert!(SequenceRuns::read(&mut Reader::new(&bytes), 100, 0).is_err());
    }

    #[test]
    fn a_run_that_ends_beyond_all_numbers_is_refused() {
        let read = |numbers: &[u64]| {
            let mut w = Writer::new();
            numbers.iter().for_each(|n| {
                w.number(*n);
            });
            let bytes = w.finish();
            SequenceRuns::read(&mut Reader::new(&bytes), u64::MAX - 1, 9)
        };
        let max = u64::MAX;
        assert_eq!(read(&[1, 1, max - 1]), Ok(SequenceRuns::of(1, max)));
        assert_eq!(read(&[1, 2, max - 1]), Err(DecodeError::Limit("run")));
        assert_eq!(read(&[2, 0, 9, max - 1, 9]), Err(DecodeError::Limit("run")));
    }
}
