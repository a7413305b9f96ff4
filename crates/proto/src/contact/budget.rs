//! What a contact may cost before it has proven anything: work, and memory for what it claims.
//!
//! Work is paid for with time. Who uses up its budget is read more slowly, so that its own queue
//! grows and nobody else's; only who goes on far beyond it is left.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::bucket::Bucket;
use crate::time::Time;

/// Microseconds of work in a second that one contact gets, and that all contacts from one address
/// get together: a tenth and a fifth of a core. What a full-speed transfer of ordinary segments
/// costs here is far below (a request names a megabyte).
const CONTACT_RATE: u64 = 100_000;
const SOURCE_RATE: u64 = 200_000;
/// What may be saved up: reconciling 40,000 contents at once takes about a second.
const BURST: Duration = Duration::from_secs(10);
/// The debt at which a contact is left instead of slowed down.
const DEBT_MAX: Duration = Duration::from_secs(60);

/// Where a contact comes from: an IPv4 address, or the network of an IPv6 address, as a host has a
/// whole /64 to choose from. What one source may have is counted by this; addresses of this machine
/// count like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceAddr(IpAddr);

impl SourceAddr {
    /// The source of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        // An IPv4 address that comes in the form of IPv6 is no second source.
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            ip => ip,
        })
    }
}

impl fmt::Display for SourceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// Microseconds of work that may be done, refilled with time.
#[derive(Clone, Copy, Debug)]
pub struct Work(Bucket);

impl Work {
    /// The work that may be done for one contact.
    #[must_use]
    pub fn of_contact(now: Time) -> Self {
        Self(Bucket::with_burst(CONTACT_RATE, BURST, now))
    }

    /// The work that may be done for all contacts of one source.
    #[must_use]
    pub fn of_source(now: Time) -> Self {
        Self(Bucket::with_burst(SOURCE_RATE, BURST, now))
    }

    /// Notes work. Returns for how long its cause is to be read no further.
    pub fn spend(&mut self, now: Time, micros: u64) -> Duration {
        self.0.take(now, micros);
        self.0.debt(now)
    }
}

/// Whether a contact that has to wait for so long is to be left.
#[must_use]
pub fn is_beyond(wait: Duration) -> bool {
    wait > DEBT_MAX
}

/// Bytes of memory that a contact's claims take, and its entries that nobody has proven.
///
/// A content with one track in one run is counted with 160 bytes, so 40,000 of them fit; a run more
/// with 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Bytes of what it says that it has.
    pub bytes: usize,
    /// Contents that are known by its word alone.
    pub unproven: usize,
}

impl Claims {
    /// Most bytes of one contact.
    pub const BYTES_MAX: usize = 8 << 20;
    /// Most bytes of all contacts together.
    pub const ALL_MAX: usize = 64 << 20;
    /// Most contents of one contact that nobody has proven. A node that has more is asked for the
    /// rest as these are.
    pub const UNPROVEN_MAX: usize = 2_000;
    /// The same where the next one is named as one of a trusted publisher. Anybody can name its
    /// key, so those have no more than a share of their own, which strangers' cannot take.
    pub const UNPROVEN_WITH_TRUSTED_MAX: usize = 4_000;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spends_more_than_it_gets_is_slowed_down_by_as_much() {
        let mut work = Work::of_contact(Time(0));
        assert_eq!(work.spend(Time(0), 1_000_000), Duration::ZERO);
        assert_eq!(work.spend(Time(0), 50_000), Duration::from_millis(500));
        assert_eq!(work.spend(Time::from_seconds(1), 0), Duration::ZERO);
        let wait = work.spend(Time::from_seconds(1), 10_000_000);
        assert!(is_beyond(wait), "{wait:?}");
        let rested = work.spend(Time::from_seconds(500), 0);
        assert_eq!(rested, Duration::ZERO);
        assert!(work.spend(Time::from_seconds(500), 1_000_000).is_zero());
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let source = |text: &str| SourceAddr::of(text.parse().unwrap());
        for (one, other, same) in [
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("127.0.0.1", "127.0.0.2", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(source(one) == source(other), same, "{one} {other}");
        }
        assert_eq!(source("::ffff:10.0.0.1").to_string(), "10.0.0.1");
        assert_eq!(source("2001:db8:1:2:3::4").to_string(), "2001:db8:1:2::/64");
    }
}
