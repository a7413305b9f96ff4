//! Who may come in: how many handshakes are under way, in all and from one source.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines of the log about refusals.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Counts unfinished handshakes.
#[derive(Debug)]
pub(super) struct Admission {
    most: usize,
    most_per_source: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    unfinished: usize,
    by_source: HashMap<IpAddr, usize>,
    refused: u64,
    unlogged: u64,
    logged: Option<Instant>,
}

/// A handshake under way; it is over when this is dropped.
pub(super) struct Permit {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    pub(super) fn new(most: usize, most_per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_source,
            state: Mutex::default(),
        })
    }

    /// Lets one in, or says why not.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Permit, &'static str> {
        let source = source_of(ip);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.unfinished >= self.most {
            return Err("too many handshakes are under way");
        }
        let of_source = state.by_source.entry(source).or_default();
        if *of_source >= self.most_per_source {
            return Err("too many handshakes from this address are under way");
        }
        *of_source += 1;
        state.unfinished += 1;
        Ok(Permit {
            admission: Arc::clone(self),
            source,
        })
    }

    /// Whether so many are under way that only those are let in that show their address is theirs.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unfinished * 2 >= self.most
    }

    /// Counts one that did not become a link, and logs it unless one was logged just now.
    pub(super) fn refuse(&self, remote: impl fmt::Display, reason: impl fmt::Display) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused += 1;
        let now = Instant::now();
        let recent = |logged: Instant| now.duration_since(logged) < LOG_EVERY;
        if state.logged.is_some_and(recent) {
            state.unlogged += 1;
            return;
        }
        state.logged = Some(now);
        let more = std::mem::take(&mut state.unlogged);
        drop(state);
        tracing::info!(%remote, %reason, more, "no link was made");
    }

    /// How many did not become links.
    pub(super) fn refused(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let state = self.admission.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.unfinished -= 1;
        if let Some(count) = state.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                state.by_source.remove(&self.source);
            }
        }
    }
}

/// An IPv4 address, or the network of an IPv6 address: a host has a whole /64 to choose from.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_bounded_in_all_and_by_source() {
        let admission = Admission::new(4, 2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = admission.enter(ip("10.0.0.1")).unwrap();
        let _two = admission.enter(ip("::ffff:10.0.0.1")).unwrap();
        assert!(admission.enter(ip("10.0.0.1")).is_err());
        let _three = admission.enter(ip("2001:db8::1")).unwrap();
        let _four = admission.enter(ip("2001:db8::2")).unwrap();
        assert!(admission.enter(ip("10.0.0.2")).is_err(), "four in all");
        drop(one);
        let same_network = admission.enter(ip("2001:db8::3"));
        assert!(same_network.is_err(), "two of one network");
        drop(admission.enter(ip("10.0.0.1")).unwrap());
        assert_eq!(admission.state.lock().unwrap().by_source.len(), 2);
    }
}
