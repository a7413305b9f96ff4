//! How long is waited for a contact, by what its link can do.

use std::time::Duration;

use crate::limits::MESSAGE_BYTES_MAX;

/// What a link can do. It stretches every time-out, so that a radio of 300 bit/s and a link to Mars
/// are slow and not broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Bytes a second that it carries, where that is known beforehand.
    pub rate: Option<u64>,
    /// Time that a byte takes to the other side, where it is longer than what time-outs allow for.
    pub delay: Duration,
    /// Only one side can send at a time.
    pub half_duplex: bool,
    /// Bytes of the longest message that it carries well: what is said is said in messages of so
    /// many bytes, where they can be cut.
    pub mtu: Option<u32>,
    /// Each byte costs money: only what is for this node goes over it, and nothing that it would
    /// carry for others.
    pub metered: bool,
}

/// Bytes of a batch in a message: two fit into the longest message.
const BATCH_BYTES_MAX: usize = 24 * 1024;
const _: () = assert!(2 * BATCH_BYTES_MAX < MESSAGE_BYTES_MAX);
/// At least; one content of many tracks takes more, and goes alone.
pub const BATCH_BYTES_MIN: usize = 256;
/// How long a batch may keep a slow link from what is more urgent.
const BATCH_SECONDS: u64 = 4;

impl Profile {
    /// The time for `bytes` to cross and for the answer to come back, beyond what an ordinary link
    /// takes.
    #[must_use]
    pub fn round_trip(&self, bytes: u64) -> Duration {
        let rate = self.rate.map_or(Duration::ZERO, |rate| {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        });
        // Whoever has to wait for its turn waits for as long as the other one sends.
        let turns = if self.half_duplex { 2 } else { 1 };
        (self.delay * 2).saturating_add(rate.saturating_mul(turns))
    }

    /// Most bytes that are gathered into one message.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        let by_rate = self.rate.map(|rate| rate.saturating_mul(BATCH_SECONDS));
        let least = [by_rate, self.mtu.map(u64::from)].into_iter().flatten();
        let bytes = least.min().unwrap_or(u64::MAX);
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX)
    }
}

/// How long is waited for a contact, and for how long one is avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For its hello.
    pub hello: Duration,
    /// For its link to take what was handed to it.
    pub stuck: Duration,
    /// For anything of what it offered, before the contact ends.
    pub nothing: Duration,
    /// For an answer, before another contact is asked: at least and at most. Between the two it is
    /// a few round trips.
    pub answer: (Duration, Duration),
    /// How long a node is left alone that lied.
    pub left: Duration,
    /// After how long a quiet contact that owes nothing is asked for a sign of life.
    pub keep_alive: Duration,
    /// After how long one that owes something is asked.
    pub probe: Duration,
    /// For the sign of life.
    pub alive: Duration,
}

/// Bytes that may be in front of an answer on a link of a stated rate: a chunk group and messages.
const IN_FRONT: u64 = 24 * 1024;

impl Patience {
    /// What is taken unless something else is said.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            hello: Duration::from_secs(10),
            stuck: Duration::from_secs(30),
            nothing: Duration::from_secs(60),
            answer: (Duration::from_secs(1), Duration::from_secs(5)),
            left: Duration::from_secs(600),
            keep_alive: Duration::from_secs(10),
            probe: Duration::from_millis(500),
            alive: Duration::from_secs(5),
        }
    }

    /// The same for a link with a profile.
    #[must_use]
    pub fn on(&self, profile: &Profile) -> Self {
        let more = profile.round_trip(IN_FRONT);
        let longer = |time: Duration| time.saturating_add(more);
        Self {
            hello: longer(self.hello),
            stuck: longer(self.stuck),
            nothing: longer(self.nothing),
            answer: (longer(self.answer.0), longer(self.answer.1)),
            // A slow link is no reason to avoid a liar for longer.
            left: self.left,
            keep_alive: longer(self.keep_alive),
            probe: longer(self.probe),
            alive: longer(self.alive),
        }
    }

    /// How long an answer may take from a contact with that round trip.
    #[must_use]
    pub fn answer_within(&self, round_trip: Duration) -> Duration {
        // `clamp` panics on bounds in the wrong order, which the driver could set.
        let (least, most) = self.answer;
        (round_trip * 4).clamp(least, most.max(least))
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_and_far_links_get_the_time_that_they_need() {
        let radio = Profile {
            rate: Some(37),
            half_duplex: true,
            ..Profile::default()
        };
        // A chunk group takes 7.4 minutes at 300 bit/s.
        let patience = Patience::new().on(&radio);
        assert!(patience.alive > Duration::from_secs(16_384 / 37));
        let mars = Profile {
            delay: Duration::from_secs(20 * 60),
            ..Profile::default()
        };
        let patience = Patience::new().on(&mars);
        assert!(patience.hello > Duration::from_secs(40 * 60));
        assert!(patience.answer.0 > Duration::from_secs(40 * 60));
        assert_eq!(Patience::new().on(&Profile::default()), Patience::new());
    }

    #[test]
    fn a_message_keeps_no_link_busy_for_long() {
        let bytes = |rate, mtu| {
            let profile = Profile {
                rate,
                mtu,
                ..Profile::default()
            };
            profile.batch_bytes()
        };
        assert_eq!(bytes(None, None), BATCH_BYTES_MAX);
        assert_eq!(bytes(Some(1200), None), 4800);
        assert_eq!(bytes(Some(1200), Some(1000)), 1000);
        assert_eq!(bytes(Some(37), Some(20)), BATCH_BYTES_MIN);
        assert_eq!(bytes(Some(u64::MAX), None), BATCH_BYTES_MAX);
    }

    #[test]
    fn an_answer_is_waited_for_in_round_trips_within_bounds() {
        let patience = Patience::new();
        let within = |millis| patience.answer_within(Duration::from_millis(millis));
        assert_eq!(within(1), Duration::from_secs(1));
        assert_eq!(within(600), Duration::from_millis(2400));
        assert_eq!(within(9000), Duration::from_secs(5));
    }
}
