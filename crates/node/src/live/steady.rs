//! Whether parts come as steadily as a player of low latency needs them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lavant_proto::time::TICKS_PER_SECOND;

/// Over how long it is judged.
const SPAN: Duration = Duration::from_secs(10);
/// The most parts that are judged: those of ten seconds at the shortest part target, twice.
const PARTS_MAX: usize = 128;
/// With fewer nothing is known: the first ones come together, when a start is over.
const PARTS_MIN: usize = 6;

/// Watches how late parts come against the earliest of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Steady {
    /// When each came, and microseconds between its end in media time and that moment.
    parts: VecDeque<(Instant, i64)>,
    /// What zero stands for.
    since: Option<Instant>,
}

impl Steady {
    /// A part that ends at `end` ticks came.
    pub(super) fn note(&mut self, now: Instant, end: u64) {
        let since = *self.since.get_or_insert(now);
        let came = i64::try_from(now.duration_since(since).as_micros()).unwrap_or(i64::MAX);
        let media = u128::from(end) * 1_000_000 / u128::from(TICKS_PER_SECOND);
        let media = i64::try_from(media).unwrap_or(i64::MAX);
        self.parts.push_back((now, came.saturating_sub(media)));
        while self.parts.len() > PARTS_MAX
            || self
                .parts
                .front()
                .is_some_and(|(came, _)| now.duration_since(*came) > SPAN)
        {
            self.parts.pop_front();
        }
    }

    /// Forgets all: what comes next belongs to another session.
    pub(super) fn reset(&mut self) {
        self.parts.clear();
    }

    /// Whether 95 of 100 parts were late by no more than a part target. A server that promises to
    /// answer with the next part, and has it late, makes some players give up.
    pub(super) fn is_steady(&self, part_target: u64) -> bool {
        if self.parts.len() < PARTS_MIN {
            return true;
        }
        let earliest = self.parts.iter().map(|(_, late)| *late).min().unwrap_or(0);
        let mut late: Vec<i64> = self
            .parts
            .iter()
            .map(|(_, late)| late.saturating_sub(earliest))
            .collect();
        late.sort_unstable();
        let at = (late.len() * 95).div_ceil(100).saturating_sub(1);
        let bound = u128::from(part_target) * 1_000_000 / u128::from(TICKS_PER_SECOND);
        let bound = i64::try_from(bound).unwrap_or(i64::MAX);
        late.get(at).is_none_or(|late| *late <= bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = 30_000;

    /// Parts that each come so many milliseconds after their time.
    fn after(late: &[u64]) -> Steady {
        let (mut steady, start) = (Steady::default(), Instant::now());
        for (n, late) in late.iter().enumerate() {
            let end = (n as u64 + 1) * PART;
            let at = Duration::from_micros(end * 1_000_000 / TICKS_PER_SECOND)
                + Duration::from_millis(*late);
            steady.note(start + at, end);
        }
        steady
    }

    #[test]
    fn a_stall_is_forgotten_after_ten_seconds() {
        assert!(after(&[0; 30]).is_steady(PART));
        assert!(after(&[200, 0, 300, 20].repeat(8)).is_steady(PART));
        // Six parts that came together after a break of two seconds.
        let mut late = vec![0; 20];
        late.extend([2000, 1666, 1333, 1000, 666, 333]);
        assert!(!after(&late).is_steady(PART));
        late.extend([0; 24]);
        assert!(!after(&late).is_steady(PART));
        late.extend([0; 8]);
        assert!(after(&late).is_steady(PART));
    }

    #[test]
    fn bursts_are_not_steady() {
        // Whole segments that come at once, each second part of which is far too early.
        assert!(!after(&[1666, 1333, 1000, 666, 333, 0].repeat(5)).is_steady(PART));
        assert!(after(&[5000]).is_steady(PART));
    }
}
