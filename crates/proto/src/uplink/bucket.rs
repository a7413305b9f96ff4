//! Token buckets: a rate that is never exceeded, with a burst of a tenth of a second.

use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;

/// Bytes that may pass, at a rate; without a rate everything passes.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Bytes a second.
    rate: Option<u64>,
    /// Millionths of bytes that may pass now; below zero after a debit beyond what was there.
    level: i128,
    filled: Time,
}

const MICROS: i128 = 1_000_000;

impl Bucket {
    /// A full bucket of `rate` bytes a second.
    #[must_use]
    pub fn new(rate: Option<u64>, now: Time) -> Self {
        let mut bucket = Self {
            rate,
            level: 0,
            filled: now,
        };
        bucket.level = bucket.capacity();
        bucket
    }

    /// A tenth of a second, but at least what proves and holds four chunk groups.
    fn capacity(&self) -> i128 {
        let rate = i128::from(self.rate.unwrap_or(0));
        (rate * MICROS / 10).max(i128::from(4 * CHUNK_GROUP_BYTES + 4096) * MICROS)
    }

    fn fill(&mut self, now: Time) {
        let passed = now.since(self.filled).as_micros();
        self.filled = self.filled.max(now);
        let rate = i128::from(self.rate.unwrap_or(0));
        let gained = rate.saturating_mul(i128::try_from(passed).unwrap_or(i128::MAX));
        self.level = self.level.saturating_add(gained).min(self.capacity());
    }

    /// How many bytes may pass now.
    pub fn allows(&mut self, now: Time) -> u64 {
        if self.rate.is_none() {
            return u64::MAX;
        }
        self.fill(now);
        u64::try_from(self.level.max(0) / MICROS).unwrap_or(u64::MAX)
    }

    /// Takes bytes out, even beyond what is there.
    pub fn take(&mut self, now: Time, bytes: u64) {
        if self.rate.is_some() {
            self.fill(now);
            self.level -= i128::from(bytes) * MICROS;
        }
    }

    /// Puts bytes back that did not pass after all.
    pub fn give_back(&mut self, now: Time, bytes: u64) {
        if self.rate.is_some() {
            self.fill(now);
            let level = self.level + i128::from(bytes) * MICROS;
            self.level = level.min(self.capacity());
        }
    }

    /// When `bytes` may pass; now when they may already, or when there is no limit.
    pub fn when(&mut self, now: Time, bytes: u64) -> Time {
        let Some(rate) = self.rate else { return now };
        self.fill(now);
        let wanted = (i128::from(bytes) * MICROS).min(self.capacity());
        let missing = wanted - self.level;
        if missing <= 0 {
            return now;
        }
        let micros = (missing + i128::from(rate.max(1)) - 1) / i128::from(rate.max(1));
        Time(
            now.0
                .saturating_add(u64::try_from(micros).unwrap_or(u64::MAX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let start = Time::from_seconds(5);
        let mut bucket = Bucket::new(Some(1_000_000), start);
        let (mut now, mut passed) = (start, 0);
        while now < start.after(std::time::Duration::from_secs(10)) {
            let bytes = bucket.allows(now).min(20_000);
            bucket.take(now, bytes);
            passed += bytes;
            now = bucket.when(now, 20_000).max(Time(now.0 + 1));
        }
        assert!((9_900_000..10_150_000).contains(&passed), "{passed}");
    }

    #[test]
    fn without_a_rate_everything_passes_at_once() {
        let mut bucket = Bucket::new(None, Time(0));
        bucket.take(Time(0), u64::MAX);
        assert_eq!(bucket.allows(Time(0)), u64::MAX);
        assert_eq!(bucket.when(Time(7), 9), Time(7));
    }

    #[test]
    fn a_debt_is_paid_before_more_passes() {
        let mut bucket = Bucket::new(Some(1000), Time(0));
        bucket.take(Time(0), 1_000_000);
        assert_eq!(bucket.allows(Time(0)), 0);
        let when = bucket.when(Time(0), 1);
        assert!(when > Time::from_seconds(900), "{when:?}");
        assert!(bucket.allows(when) >= 1);
    }
}
