//! Our own time: microseconds since the Unix epoch, handed in by whoever drives the core.

use std::time::Duration;

/// Ticks per second of every media time (MPEG-TS system clock / 300).
pub const TICKS_PER_SECOND: u64 = 90_000;

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The last representable time.
    pub const MAX: Self = Self(u64::MAX);

    /// From whole seconds since the Unix epoch, saturating.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Later by `duration`, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        // A time to live is what somebody says: too long a one must not wrap into the past.
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        // A clock that was set back shows no time passed, and not half a million years.
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Ticks as seconds.
#[must_use]
pub fn ticks_to_seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND as f64
}
