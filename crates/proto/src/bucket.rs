//! Token buckets: a rate that is not exceeded, but for a burst that may be saved up.

use std::time::Duration;

use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;

/// Tokens that may be taken, at a rate: bytes that pass, or microseconds of work. Without a rate
/// everything may be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Tokens a second.
    rate: Option<u64>,
    /// Millionths of tokens that may be taken now, and most of them; below zero after a debit
    /// beyond what was there.
    /// So fine that calls a microsecond apart lose nothing to rounding; in 128 bits, as a rate
    /// times microseconds goes beyond 64.
    level: i128,
    most: i128,
    filled: Time,
}

const MICROS: i128 = 1_000_000;

impl Bucket {
    /// A full bucket of `rate` bytes a second. It holds a tenth of a second, but at least what
    /// proves and holds four chunk groups.
    #[must_use]
    pub(crate) fn of_bytes(rate: Option<u64>, now: Time) -> Self {
        let tenth = i128::from(rate.unwrap_or(0)) * MICROS / 10;
        // A bucket that held less than one chunk group costs would never let one pass. 4,096 bytes
        // are the proofs of four, each at most 16 inner nodes of 64 bytes.
        let least = i128::from(4 * CHUNK_GROUP_BYTES + 4096) * MICROS;
        Self::full(rate, tenth.max(least), now)
    }

    /// A full bucket of `rate` tokens a second that holds what comes within `burst`.
    #[must_use]
    pub(crate) fn with_burst(rate: u64, burst: Duration, now: Time) -> Self {
        let burst = i128::try_from(burst.as_micros()).unwrap_or(i128::MAX);
        Self::full(Some(rate), i128::from(rate).saturating_mul(burst), now)
    }

    const fn full(rate: Option<u64>, most: i128, now: Time) -> Self {
        Self {
            rate,
            level: most,
            most,
            filled: now,
        }
    }

    fn fill(&mut self, now: Time) {
        // A clock that was set back gives nothing twice: the time up to `filled` was given out.
        let passed = now.since(self.filled).as_micros();
        self.filled = self.filled.max(now);
        let rate = i128::from(self.rate.unwrap_or(0));
        let gained = rate.saturating_mul(i128::try_from(passed).unwrap_or(i128::MAX));
        self.level = self.level.saturating_add(gained).min(self.most);
    }

    /// How many tokens may be taken now.
    pub(crate) fn allows(&mut self, now: Time) -> u64 {
        if self.rate.is_none() {
            return u64::MAX;
        }
        self.fill(now);
        u64::try_from(self.level.max(0) / MICROS).unwrap_or(u64::MAX)
    }

    /// Takes tokens out, even beyond what is there.
    pub(crate) fn take(&mut self, now: Time, tokens: u64) {
        if self.rate.is_some() {
            self.fill(now);
            // What is measured afterwards was spent already: the level goes below zero, and whoever
            // spent it waits until that is paid.
            self.level -= i128::from(tokens) * MICROS;
        }
    }

    /// Puts tokens back that were not used after all.
    pub(crate) fn give_back(&mut self, now: Time, tokens: u64) {
        if self.rate.is_some() {
            self.fill(now);
            // Never above what it holds, or more than the burst could pass at once.
            let level = self.level + i128::from(tokens) * MICROS;
            self.level = level.min(self.most);
        }
    }

    /// When so many tokens may be taken; now when they may already, or when there is no limit.
    pub(crate) fn when(&mut self, now: Time, tokens: u64) -> Time {
        let Some(rate) = self.rate else { return now };
        self.fill(now);
        // More than it holds never comes: who wants more may go on once it is full.
        let wanted = (i128::from(tokens) * MICROS).min(self.most);
        let missing = wanted - self.level;
        if missing <= 0 {
            return now;
        }
        // Rounded up: a moment too early there would be too little, and the caller would ask again.
        // A rate of 0 counts as 1, so that nothing is divided by zero.
        let micros = (missing + i128::from(rate.max(1)) - 1) / i128::from(rate.max(1));
        Time(
            now.0
                .saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)),
        )
    }

    /// How long it takes until what was taken beyond what was there is paid.
    pub(crate) fn debt(&mut self, now: Time) -> Duration {
        // No tokens are wanted, so this is when the level is back at zero.
        let when = self.when(now, 0);
        when.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let start = Time::from_seconds(5);
        let mut bucket = Bucket::of_bytes(Some(1_000_000), start);
        let (mut now, mut passed) = (start, 0);
        while now < start.after(Duration::from_secs(10)) {
            let bytes = bucket.allows(now).min(20_000);
            bucket.take(now, bytes);
            passed += bytes;
            now = bucket.when(now, 20_000).max(Time(now.0 + 1));
        }
        assert!((9_900_000..10_150_000).contains(&passed), "{passed}");
    }

    #[test]
    fn without_a_rate_everything_passes_at_once() {
        let mut bucket = Bucket::of_bytes(None, Time(0));
        bucket.take(Time(0), u64::MAX);
        assert_eq!(bucket.allows(Time(0)), u64::MAX);
        assert_eq!(bucket.when(Time(7), 9), Time(7));
    }

    #[test]
    fn a_debt_is_paid_before_more_passes() {
        let mut bucket = Bucket::of_bytes(Some(1000), Time(0));
        bucket.take(Time(0), 1_000_000);
        assert_eq!(bucket.allows(Time(0)), 0);
        let when = bucket.when(Time(0), 1);
        assert!(when > Time::from_seconds(900), "{when:?}");
        assert!(bucket.allows(when) >= 1);
    }
}
