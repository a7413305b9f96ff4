//! Where the store's time comes from.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use lavant_proto::time::Time;

/// A source of wall-clock time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The operating system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `time` until [`Clock::set`] moves it, for tests.
    #[must_use]
    pub fn manual(time: Time) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(time.0))))
    }

    /// Moves a manual clock, to either side.
    pub fn set(&self, time: Time) {
        if let Source::Manual(now) = &self.0 {
            now.store(time.0, Ordering::SeqCst);
        }
    }

    /// The time now; the epoch if the clock stands before it.
    #[must_use]
    pub fn now(&self) -> Time {
        match &self.0 {
            Source::Manual(now) => Time(now.load(Ordering::SeqCst)),
            Source::System => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Time(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.now())
    }
}
