//! How long the driver's task keeps its thread at a time.
//!
//! Other tasks of the same thread wait for as long. What takes long is work that belongs elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// From which time on a step counts as slow.
const SLOW: Duration = Duration::from_millis(50);

/// Counts of slow steps; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    slow: AtomicU64,
    busy: AtomicU64,
}

impl Pulse {
    /// Steps that took long, whatever for.
    #[must_use]
    pub fn slow(&self) -> u64 {
        self.0.slow.load(Ordering::Relaxed)
    }

    /// Those of them that kept the processor busy for as long. On a loaded machine a short step may
    /// take long; a busy one does too much.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.0.busy.load(Ordering::Relaxed)
    }

    /// The same future, with its steps counted.
    pub(super) const fn watch<F: Future + Unpin>(&self, future: F) -> Watched<'_, F> {
        Watched {
            pulse: self,
            future,
        }
    }
}

/// A future whose steps are counted.
pub(super) struct Watched<'a, F> {
    pulse: &'a Pulse,
    future: F,
}

impl<F: Future + Unpin> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // One poll stays on one thread, so that the thread's time is the step's.
        let (begun, used) = (Instant::now(), thread_time());
        let polled = Pin::new(&mut self.future).poll(cx);
        let took = begun.elapsed();
        if took >= SLOW {
            let busy = thread_time().saturating_sub(used) >= SLOW;
            self.pulse.0.slow.fetch_add(1, Ordering::Relaxed);
            self.pulse
                .0
                .busy
                .fetch_add(u64::from(busy), Ordering::Relaxed);
            tracing::debug!(?took, busy, "a step of the driver took long");
        }
        polled
    }
}

/// The processor's time that this thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // The time of a thread begins at 0 and is never below it.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_keeps_its_thread_is_counted() {
        let pulse = Pulse::default();
        let quick = Box::pin(async { tokio::task::yield_now().await });
        pulse.watch(quick).await;
        assert_eq!(pulse.slow(), 0);
        let idle = Box::pin(async { std::thread::sleep(SLOW) });
        pulse.watch(idle).await;
        assert_eq!((pulse.slow(), pulse.busy()), (1, 0));
        let busy = Box::pin(async {
            let begun = thread_time();
            while thread_time() - begun < SLOW {}
        });
        pulse.watch(busy).await;
        assert_eq!((pulse.slow(), pulse.busy()), (2, 1));
    }
}
