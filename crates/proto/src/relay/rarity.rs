//! How rare the segments of a track are among the nodes that are met.
//!
//! What most others lack is worth most on a short meeting: it makes both nodes useful to whomever
//! they meet next. No node sees all others, so each keeps, for every part of a track, about which
//! share of the nodes has it, lets that follow what the nodes it meets have, and blends it with
//! what they say of those that they met, as in averaging by gossip. What was seen long ago fades.
//!
//! A track is cut into at most [`BLOCKS_MAX`] blocks of equally many segments, so that neither
//! memory nor a step grows with the length of a track.

use crate::limits::SEQUENCE_MAX;
use crate::runs::{Run, SequenceRun, SequenceRuns};
use crate::wire::{DecodeError, Reader, Writer};

/// Most blocks of a track: 256 bytes each track that is finished, 10 MB for 40,000 contents.
const BLOCKS_MAX: usize = 128;
/// A block is at most as long as all tracks may be.
const SHIFT_MAX: u32 = SEQUENCE_MAX.ilog2() + 1;
/// By what part of the way a share moves to what one meeting shows.
const STEP: u32 = 8;
/// After so many meetings with nodes that have nothing of a track its shares are as good as zero.
/// (7/8)^64 is about 1/5,000.
const FADE_MAX: u32 = 64;
/// Bytes that a share and the number of blocks that have it take in a message, at most.
/// A count of up to 128 takes two.
const SAID_BYTES: usize = 3;

/// The share of the nodes that have a part of a track: all at the greatest.
pub(super) type Share = u16;

/// Shares by blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rarity {
    /// A block is two to the power of this many segments.
    shift: u32,
    /// Number of the first block, counted from the start of the track.
    first: u64,
    shares: Vec<Share>,
    /// The last meeting that told something.
    latest: u32,
}

/// What a node says of its shares: a message takes them in 8 bits, finer where they are small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    shift: u32,
    first: u64,
    /// Numbers of blocks that follow each other, and the root of their share.
    runs: Vec<(u64, u8)>,
}

impl Rarity {
    /// Nothing was seen.
    pub(super) const NONE: Self = Self {
        shift: 0,
        first: 0,
        shares: Vec::new(),
        latest: 0,
    };

    /// The share of nodes that have a segment.
    pub(super) fn share(&self, sequence: u64) -> Share {
        let block = (sequence >> self.shift).checked_sub(self.first);
        let at = block.and_then(|block| usize::try_from(block).ok());
        at.and_then(|at| self.shares.get(at)).copied().unwrap_or(0)
    }

    /// The segments around one of which the same is known.
    pub(super) fn block(&self, sequence: u64) -> SequenceRun {
        let start = sequence >> self.shift << self.shift;
        Run::new(start, start.saturating_add(1 << self.shift))
    }

    /// The least share among segments.
    pub(super) fn least(&self, among: &SequenceRuns) -> Option<Share> {
        let of_run = |run: &SequenceRun| {
            let (lo, hi) = (run.start >> self.shift, (run.end - 1) >> self.shift);
            let known = self.first + self.shares.len() as u64;
            // A part of it lies where nothing was ever seen: that is the rarest there can be.
            if lo < self.first || hi >= known {
                return Some(0);
            }
            let lo = usize::try_from(lo - self.first).ok()?;
            let hi = usize::try_from(hi - self.first).ok()?;
            self.shares.get(lo..=hi)?.iter().copied().min()
        };
        among.runs().iter().filter_map(of_run).min()
    }

    /// What is left of a share after the meetings with nodes that had nothing of the track.
    pub(super) fn fade(&self, share: Share, meeting: u32) -> Share {
        // However long ago it was, the steps are bounded.
        let missed = meeting.saturating_sub(self.latest).min(FADE_MAX);
        (0..missed).fold(share, |share, _| step(share, 0))
    }

    /// A node was met that has these segments, and says that of those that it met. It is the
    /// meeting of that number.
    pub(super) fn met(&mut self, meeting: u32, there: &SequenceRuns, said: Option<&Said>) {
        // This meeting tells something, so only those before it let shares fade.
        self.advance(meeting.saturating_sub(1));
        self.latest = self.latest.max(meeting);
        if let (Some(first), Some(last)) = (there.runs().first(), there.runs().last()) {
            self.cover(Run::new(first.start, last.end));
        }
        if let Some(said) = said.filter(|said| !said.runs.is_empty()) {
            self.blend(said);
        }
        // After `cover` and `blend`, which may make blocks coarser.
        let (shift, first) = (self.shift, self.first);
        let mut from = 0;
        for (at, share) in self.shares.iter_mut().enumerate() {
            let start = (first + at as u64) << shift;
            let end = start + (1 << shift);
            // Runs and blocks both rise: each run is passed once.
            while there.runs().get(from).is_some_and(|run| run.end <= start) {
                from += 1;
            }
            let inside = there.runs()[from..].iter();
            let inside = inside.take_while(|run| run.start < end);
            let has: u64 = inside
                .map(|run| run.end.min(end) - run.start.max(start))
                .sum();
            let seen = (u128::from(has) * u128::from(Share::MAX)) >> shift;
            *share = step(*share, seen as u32);
        }
    }

    /// Lets all shares fade for meetings that told nothing.
    fn advance(&mut self, meeting: u32) {
        for at in 0..self.shares.len() {
            self.shares[at] = self.fade(self.shares[at], meeting);
        }
        self.latest = self.latest.max(meeting);
    }

    /// A node got segments from here.
    pub(super) fn gave(&mut self, meeting: u32, run: SequenceRun) {
        self.advance(meeting);
        self.cover(run);
        let (lo, hi) = (run.start >> self.shift, (run.end - 1) >> self.shift);
        for block in lo..=hi {
            let start = block << self.shift;
            let within = run.end.min(start + (1 << self.shift)) - run.start.max(start);
            let at = usize::try_from(block.saturating_sub(self.first));
            if let Some(share) = at.ok().and_then(|at| self.shares.get_mut(at)) {
                // One step towards all, by the part of the block that was given.
                let rest = u64::from(Share::MAX - *share) / u64::from(STEP);
                *share += ((rest * within) >> self.shift) as Share;
            }
        }
    }

    /// What others are told.
    pub(super) fn said(&self) -> Said {
        let mut runs: Vec<(u64, u8)> = Vec::new();
        for share in &self.shares {
            // A root keeps small shares apart in 8 bits: what is rare is what decides.
            let root = share.isqrt() as u8;
            match runs.last_mut() {
                Some((count, last)) if *last == root => *count += 1,
                _ => runs.push((1, root)),
            }
        }
        // Zeros are what is taken where nothing is said, so nothing is said of them.
        if runs.iter().all(|(_, root)| *root == 0) {
            return Said::default();
        }
        Said {
            shift: self.shift,
            first: self.first,
            runs,
        }
    }

    /// Meets what another node says half way. Where nothing is known, half of it is enough: what
    /// nobody near has is rarer here than there.
    fn blend(&mut self, said: &Said) {
        let blocks: u64 = said.runs.iter().map(|(count, _)| count).sum();
        let end = (said.first + blocks) << said.shift;
        self.cover(Run::new(said.first << said.shift, end));
        // The other side may cut its track in other blocks: shares are looked up by segment.
        let heard = said.unpacked();
        for (at, share) in self.shares.iter_mut().enumerate() {
            let sequence = (self.first + at as u64) << self.shift;
            let theirs = u32::from(heard.share(sequence));
            *share = u32::midpoint(u32::from(*share), theirs) as Share;
        }
    }

    /// Makes sure that there are blocks for segments; blocks grow when there are too many.
    fn cover(&mut self, run: SequenceRun) {
        if run.count() == 0 {
            return;
        }
        loop {
            let (lo, hi) = (run.start >> self.shift, ((run.end - 1) >> self.shift) + 1);
            let (lo, hi) = if self.shares.is_empty() {
                (lo, hi)
            } else {
                let known = self.first + self.shares.len() as u64;
                (lo.min(self.first), hi.max(known))
            };
            // Each turn halves what is to be covered, so this ends.
            if hi - lo <= BLOCKS_MAX as u64 {
                let before = if self.shares.is_empty() {
                    0
                } else {
                    self.first - lo
                };
                let new = std::iter::repeat_n(0, usize::try_from(before).unwrap_or(0));
                self.shares.splice(0..0, new);
                self.first = lo;
                self.shares.resize((hi - lo) as usize, 0);
                return;
            }
            self.coarsen();
        }
    }

    /// Makes one block of each two.
    fn coarsen(&mut self) {
        // Pairs begin at even blocks: an odd one gets a neighbour of which nothing is known.
        if self.first % 2 == 1 && !self.shares.is_empty() {
            self.shares.insert(0, 0);
        }
        let pairs = self.shares.chunks(2);
        let mean = |pair: &[Share]| {
            let sum: u32 = pair.iter().map(|share| u32::from(*share)).sum();
            (sum / 2) as Share
        };
        self.shares = pairs.map(mean).collect();
        (self.first, self.shift) = (self.first / 2, self.shift + 1);
    }
}

/// Moves a share a part of the way.
const fn step(share: Share, seen: u32) -> Share {
    ((share as u32 * (STEP - 1) + seen) / STEP) as Share
}

impl Said {
    fn unpacked(&self) -> Rarity {
        let shares = self.runs.iter().flat_map(|(count, root)| {
            let share = Share::from(*root) * Share::from(*root);
            std::iter::repeat_n(share, usize::try_from(*count).unwrap_or(0))
        });
        Rarity {
            shift: self.shift,
            first: self.first,
            shares: shares.take(BLOCKS_MAX).collect(),
            latest: 0,
        }
    }

    /// About how many bytes it takes in a message, rather more than less.
    pub(super) const fn size(&self) -> usize {
        12 + SAID_BYTES * self.runs.len()
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.number(self.runs.len() as u64);
        if self.runs.is_empty() {
            return;
        }
        w.number(u64::from(self.shift)).number(self.first);
        for (count, root) in &self.runs {
            w.number(*count).byte(*root);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.number("shares", BLOCKS_MAX as u64)?;
        if count == 0 {
            return Ok(Self::default());
        }
        let shift = r.number("shift", u64::from(SHIFT_MAX))? as u32;
        let first = r.number("block", SEQUENCE_MAX >> shift)?;
        // Blocks are bounded in all, as they are unpacked, and end where sequences do, so that
        // nothing overflows when their numbers are shifted back.
        let mut left = (BLOCKS_MAX as u64).min((SEQUENCE_MAX >> shift) + 1 - first);
        let mut runs = Vec::new();
        for _ in 0..count {
            let blocks = r.number("blocks", left)?;
            if blocks == 0 {
                return Err(DecodeError::Invalid("blocks"));
            }
            left -= blocks;
            runs.push((blocks, r.byte("share")?));
        }
        Ok(Self { shift, first, runs })
    }
}

/// About how many bytes all tracks of a content take.
pub(super) fn size_of(said: &[Said]) -> usize {
    said.iter().map(Said::size).sum()
}

pub(super) fn write_said(said: &[Said], w: &mut Writer) {
    w.number(said.len() as u64);
    for said in said {
        said.write(w);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_few_nodes_have_is_rare() {
        let mut rarity = Rarity::default();
        for _ in 0..20 {
            rarity.met(0, &SequenceRuns::of(0, 50), None);
            rarity.met(0, &SequenceRuns::of(0, 100), None);
        }
        assert!(rarity.share(10) > rarity.share(60));
        assert!(rarity.share(60) > 20_000, "half of the nodes have it");
        assert_eq!(rarity.share(100), 0);
        assert_eq!(
            rarity.least(&SequenceRuns::of(0, 50)),
            Some(rarity.share(0))
        );
        assert_eq!(rarity.least(&SequenceRuns::of(99, 101)), Some(0));
    }

    #[test]
    fn what_was_given_is_less_rare_and_others_hear_of_it() {
        let mut source = Rarity::default();
        source.gave(0, Run::new(3, 5));
        let mut other = Rarity::default();
        other.met(0, &SequenceRuns::of(0, 10), Some(&source.said()));
        assert!(other.share(3) > other.share(2));
        assert_eq!(other.share(2), other.share(5));
    }

    #[test]
    fn what_was_seen_long_ago_fades() {
        let mut rarity = Rarity::default();
        rarity.met(0, &SequenceRuns::of(0, 10), None);
        let before = rarity.share(4);
        for _ in 0..40 {
            rarity.met(0, &SequenceRuns::of(5, 10), None);
        }
        assert!(rarity.share(4) < before / 50, "{}", rarity.share(4));
    }

    #[test]
    fn a_long_track_takes_no_more_room_than_a_short_one() {
        let mut rarity = Rarity::default();
        rarity.met(0, &SequenceRuns::of(70, 80), None);
        rarity.met(0, &SequenceRuns::of(1_000_000, 1_200_000), None);
        rarity.gave(0, Run::new(0, 1_200_000));
        assert!(rarity.shares.len() <= BLOCKS_MAX);
        assert!(rarity.share(1_100_000) > rarity.share(500_000));
        let mut w = Writer::new();
        rarity.said().write(&mut w);
        assert!(w.finish().len() < 400);
    }

    proptest! {
        #[test]
        fn what_is_said_round_trips_and_arbitrary_bytes_never_panic(
            runs in proptest::collection::vec((0u64..100_000, 1u64..5000), 1..20),
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut rarity = Rarity::default();
            for (start, count) in runs {
                rarity.met(0, &SequenceRuns::of(start, start + count), None);
                rarity.gave(0, Run::new(start, start + 1));
            }
            let said = rarity.said();
            let mut w = Writer::new();
            said.write(&mut w);
            let written = w.finish();
            prop_assert_eq!(Said::read(&mut Reader::new(&written)), Ok(said));
            if let Ok(said) = Said::read(&mut Reader::new(&bytes)) {
                rarity.met(0, &SequenceRuns::of(0, 9), Some(&said));
                prop_assert!(rarity.shares.len() <= BLOCKS_MAX);
            }
        }
    }
}
