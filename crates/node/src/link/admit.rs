//! Who may come in: how many handshakes are under way, in all and from one source, and which of
//! them goes when there are too many.
//!
//! Nobody is locked out by handshakes that never end: a new one takes the place of an old one. The
//! one that goes is of the newcomer's own source if that has its share, else of the source that has
//! most; there, one that has said nothing goes before one that has begun TLS, and the older before
//! the newer. So a crowd pushes out its own, and an honest handshake has all the time that a pool
//! of a source takes to be filled anew: 64 ms when a thousand a second come from its own address,
//! and its whole limit when they come from others.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::SourceAddr;

/// Time between two lines of the log about refusals.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How far a handshake is; the later, the longer it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It has said nothing that makes sense.
    Silent,
    /// It has begun TLS, or its source is known to be its own.
    Begun,
    /// Its key is proved, and it waits to be taken. It is not pushed out.
    Proved,
}

/// Counts unfinished handshakes.
#[derive(Debug)]
pub(super) struct Admission {
    most: usize,
    most_per_source: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By age: a newer one has a higher number, so that the oldest of equals is found first.
    under_way: BTreeMap<u64, UnderWay>,
    next: u64,
    refused: u64,
    unlogged: u64,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct UnderWay {
    source: SourceAddr,
    stage: Stage,
    gone: Arc<Notify>,
}

/// A handshake under way; it is over when this is dropped.
pub(super) struct Permit {
    admission: Arc<Admission>,
    number: u64,
    gone: Arc<Notify>,
}

impl State {
    /// The one that goes, of those of a source: the one that is least far, then the oldest.
    fn weakest(&self, source: SourceAddr) -> Option<u64> {
        let of_source = self.under_way.iter().filter(|(_, one)| {
            // Whoever proved its key waits for us, not we for it.
            one.source == source && one.stage < Stage::Proved
        });
        let weakest = of_source.min_by_key(|(number, one)| (one.stage, **number));
        weakest.map(|(number, _)| *number)
    }

    fn count(&self, source: SourceAddr) -> usize {
        let same = |one: &&UnderWay| one.source == source;
        self.under_way.values().filter(same).count()
    }

    /// The source of which one goes when there are too many in all: the one that has most, and of
    /// several the one with the weakest.
    fn crowd(&self) -> Option<SourceAddr> {
        let mut counts: BTreeMap<SourceAddr, usize> = BTreeMap::new();
        for one in self.under_way.values() {
            *counts.entry(one.source).or_default() += 1;
        }
        let weakest = |source: &SourceAddr| {
            let number = self.weakest(*source)?;
            Some((self.under_way.get(&number)?.stage, number))
        };
        let with_weakest = counts
            .into_iter()
            .filter_map(|(source, count)| Some((source, count, weakest(&source)?)));
        with_weakest
            .min_by_key(|(_, count, weakest)| (std::cmp::Reverse(*count), *weakest))
            .map(|(source, ..)| source)
    }
}

impl Admission {
    pub(super) fn new(most: usize, most_per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_source,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one in, in the place of another one where there are too many. Says why not when all
    /// that are in its way wait to be taken.
    pub(super) fn enter(
        self: &Arc<Self>,
        ip: IpAddr,
        stage: Stage,
    ) -> Result<Permit, &'static str> {
        let source = SourceAddr::of(ip);
        let mut state = self.state();
        // The share of the source first: whoever has it makes room among its own, also while the
        // pool is not full.
        let crowd = if state.count(source) >= self.most_per_source {
            Some(source)
        } else if state.under_way.len() >= self.most {
            Some(state.crowd().ok_or("too many links wait to be taken")?)
        } else {
            None
        };
        if let Some(crowd) = crowd {
            // Before the newcomer is in, so that it cannot be the one that goes.
            let weakest = state.weakest(crowd);
            let weakest = weakest.ok_or("too many links from this address wait to be taken")?;
            if let Some(one) = state.under_way.remove(&weakest) {
                // The word waits until the handshake's task listens, if it does not yet.
                one.gone.notify_one();
            }
        }
        let number = state.next;
        state.next += 1;
        let gone = Arc::new(Notify::new());
        state.under_way.insert(
            number,
            UnderWay {
                source,
                stage,
                gone: Arc::clone(&gone),
            },
        );
        Ok(Permit {
            admission: Arc::clone(self),
            number,
            gone,
        })
    }

    /// Whether so many are under way that only those are let in that show their address is theirs.
    pub(super) fn is_busy(&self) -> bool {
        self.state().under_way.len() * 4 >= self.most
    }

    /// Counts one that did not become a link, and logs it unless one was logged just now.
    pub(super) fn refuse(&self, remote: impl fmt::Display, reason: impl fmt::Display) {
        let mut state = self.state();
        state.refused += 1;
        let now = Instant::now();
        let recent = |logged: Instant| now.duration_since(logged) < LOG_EVERY;
        if state.logged.is_some_and(recent) {
            state.unlogged += 1;
            return;
        }
        state.logged = Some(now);
        // The lock is given back before the log, which may wait for a terminal.
        let more = std::mem::take(&mut state.unlogged);
        drop(state);
        tracing::info!(%remote, %reason, more, "no link was made");
    }

    /// How many did not become links.
    pub(super) fn refused(&self) -> u64 {
        self.state().refused
    }
}

impl Permit {
    /// Says how far the handshake is.
    pub(super) fn reached(&self, stage: Stage) {
        // It may have been pushed out just now.
        if let Some(one) = self.admission.state().under_way.get_mut(&self.number) {
            one.stage = stage;
        }
    }

    /// Done when another one took its place.
    pub(super) async fn pushed_out(&self) {
        self.gone.notified().await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Nothing is there any more for one that was pushed out.
        self.admission.state().under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn silent(admission: &Arc<Admission>, from: &str) -> Permit {
        admission.enter(ip(from), Stage::Silent).ok().unwrap()
    }

    fn is_out(permit: &Permit) -> bool {
        permit.pushed_out().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_silent_one_of_a_source_makes_room_in_its_share() {
        let admission = Admission::new(100, 3);
        let other = silent(&admission, "10.0.0.2");
        let begun = silent(&admission, "10.0.0.1");
        begun.reached(Stage::Begun);
        let first = silent(&admission, "::ffff:10.0.0.1");
        let second = silent(&admission, "10.0.0.1");
        let third = silent(&admission, "10.0.0.1");
        assert_eq!([&other, &begun, &first].map(is_out), [false, false, true]);
        for permit in [&second, &third] {
            permit.reached(Stage::Begun);
        }
        let fourth = silent(&admission, "10.0.0.1");
        assert_eq!([&begun, &second].map(is_out), [true, false]);
        for permit in [&second, &third, &fourth] {
            permit.reached(Stage::Proved);
        }
        let refused = admission.enter(ip("10.0.0.1"), Stage::Silent);
        assert!(refused.is_err(), "all three wait to be taken");
        drop(second);
        silent(&admission, "10.0.0.1");
    }

    #[test]
    fn the_source_with_most_makes_room_for_all_others() {
        let admission = Admission::new(4, 3);
        let alone = silent(&admission, "10.0.0.1");
        let crowd = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];
        let crowd = crowd.map(|from| silent(&admission, from));
        crowd[0].reached(Stage::Begun);
        let _fresh = silent(&admission, "10.0.0.3");
        assert!(!is_out(&alone), "it is the oldest, but alone");
        assert_eq!([0, 1, 2].map(|at| is_out(&crowd[at])), [false, true, false]);
        assert_eq!(admission.state().under_way.len(), 4);
        drop(crowd);
        drop(alone);
        assert_eq!(admission.state().under_way.len(), 1);
    }
}
