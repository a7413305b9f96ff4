//! How much is asked of a contact at a time: twice what arrives during a round trip.

use std::time::Duration;

use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;

/// Bytes asked for and not yet here: at the start, at least, at most. Each round trip doubles what
/// is asked for while the link keeps up.
const WINDOW_START: u64 = 256 << 10;
const WINDOW_MIN: u64 = 4 * CHUNK_GROUP_BYTES;
const WINDOW_MAX: u64 = 16 << 20;
/// What is asked for at the start on a link of known rate, in seconds of it.
const START_SECONDS: u64 = 4;
/// Over which time the pace of arrival is measured.
const PACE_SPAN: Duration = Duration::from_millis(100);
/// Over which time the rate is measured that people see.
const RATE_SPAN: Duration = Duration::from_secs(2);

/// What is asked for and arrives.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) outstanding: u64,
    pub(crate) window: u64,
    /// Bytes a second, while something is asked for.
    pub(crate) pace: u64,
    /// Bytes that arrived since the pace was measured last, in how much of the time while something
    /// was asked for, and until when that was counted.
    arrived: u64,
    busy: Duration,
    counted: Time,
    /// Bytes of the current span, of the one before it, and when the current one began.
    rate: (u64, u64, Time),
}

impl Flow {
    /// `rate` is what the link carries, where that is known: no more is asked for at the start than
    /// comes within a few seconds, but at least one chunk group.
    pub(crate) fn new(rate: Option<u64>, now: Time) -> Self {
        let start = rate.map_or(WINDOW_START, |rate| rate.saturating_mul(START_SECONDS));
        Self {
            outstanding: 0,
            window: start.clamp(CHUNK_GROUP_BYTES, WINDOW_START),
            pace: 0,
            arrived: 0,
            busy: Duration::ZERO,
            counted: now,
            rate: (0, 0, now),
        }
    }

    /// Whether a quarter of the window is free besides what is outstanding of it, or so many chunk
    /// groups.
    pub(crate) fn has_room(&self, outstanding: u64, groups: u64) -> bool {
        let part = (self.window / 4).min(groups * CHUNK_GROUP_BYTES);
        outstanding == 0 || outstanding + part <= self.window
    }

    pub(crate) const fn asked(&mut self, bytes: u64, now: Time) {
        // A window that comes all at once leaves nothing outstanding: what was counted of the pace
        // stays, or it would never be known.
        if self.outstanding == 0 {
            self.counted = now;
        }
        self.outstanding += bytes;
    }

    pub(crate) const fn dropped(&mut self, bytes: u64) {
        // A last chunk group counts in full once its payload is forgotten, so a little more may be
        // taken out than was put in.
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// What was asked for did not come in time: less is asked for.
    pub(crate) fn slow_down(&mut self) {
        self.window = (self.window / 2).max(WINDOW_MIN);
    }

    pub(crate) fn came(&mut self, bytes: u64, round_trip: Duration, now: Time) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.arrived += bytes;
        // The span turns first, so that these bytes count in the new one.
        self.turn_rate(now);
        self.rate.0 += bytes;
        self.busy += now.since(self.counted);
        self.counted = now;
        if self.busy < PACE_SPAN {
            return;
        }
        let micros = u64::try_from(self.busy.as_micros()).unwrap_or(u64::MAX);
        self.pace = self.arrived.saturating_mul(1_000_000) / micros.max(1);
        (self.arrived, self.busy) = (0, Duration::ZERO);
        let trip = u64::try_from(round_trip.max(PACE_SPAN).as_micros()).unwrap_or(u64::MAX);
        let during = u128::from(self.pace) * u128::from(trip) / 1_000_000;
        // Twice what came, so that the window doubles for as long as the link keeps up.
        let wanted = 2 * u64::try_from(during).unwrap_or(WINDOW_MAX) + WINDOW_MIN;
        self.window = wanted.clamp(WINDOW_MIN, WINDOW_MAX);
    }

    fn turn_rate(&mut self, now: Time) {
        let span = now.since(self.rate.2);
        if span >= RATE_SPAN {
            // After a longer pause nothing came in the span before this one.
            let before = if span < RATE_SPAN * 2 { self.rate.0 } else { 0 };
            self.rate = (0, before, now);
        }
    }

    /// Bytes a second that arrived of late: those of the last two to four seconds.
    pub(crate) fn rate(&self, now: Time) -> u64 {
        let (current, before, since) = self.rate;
        let span = now.since(since);
        if span >= RATE_SPAN * 2 {
            return 0;
        }
        let micros = (span + RATE_SPAN).as_micros();
        let bytes = u128::from(current + before) * 1_000_000;
        u64::try_from(bytes / micros.max(1)).unwrap_or(u64::MAX)
    }

    /// How long what is outstanding takes at the pace of late; none while that is not known.
    pub(crate) fn takes(&self) -> Option<Duration> {
        let micros = u128::from(self.outstanding) * 1_000_000;
        let micros = micros.checked_div(u128::from(self.pace))?;
        Some(Duration::from_micros(
            u64::try_from(micros).unwrap_or(u64::MAX),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_shown_as_a_trickle() {
        let mut flow = Flow::new(None, Time(0));
        // A segment of 100 KB every two seconds that comes within a millisecond.
        for second in (0..60).step_by(2) {
            let now = Time::from_seconds(second);
            flow.asked(100_000, now);
            let came = Time(now.0 + 1000);
            flow.came(100_000, Duration::from_millis(1), came);
        }
        let rate = flow.rate(Time::from_seconds(59));
        assert!((25_000..75_000).contains(&rate), "{rate}");
        assert_eq!(flow.rate(Time::from_seconds(70)), 0);
    }

    #[test]
    fn a_slow_link_is_asked_for_little_at_a_time() {
        assert_eq!(Flow::new(Some(37), Time(0)).window, CHUNK_GROUP_BYTES);
        assert_eq!(Flow::new(Some(25_000), Time(0)).window, 100_000);
        assert_eq!(Flow::new(Some(u64::MAX), Time(0)).window, WINDOW_START);
    }

    #[test]
    fn the_window_grows_when_each_comes_all_at_once() {
        let mut flow = Flow::new(None, Time(0));
        let mut now = Time(0);
        for _ in 0..100 {
            let window = flow.window;
            flow.asked(window, now);
            now = now.after(Duration::from_millis(6));
            flow.came(window, Duration::from_millis(1), now);
            now = now.after(Duration::from_millis(1));
        }
        assert_eq!(flow.window, WINDOW_MAX);
    }

    #[test]
    fn the_window_follows_what_arrives_in_a_round_trip() {
        let mut flow = Flow::new(None, Time(0));
        let trip = Duration::from_millis(200);
        let mut now = Time(0);
        for _ in 0..100 {
            flow.asked(100_000, now);
            now = now.after(Duration::from_millis(100));
            flow.came(100_000, trip, now);
        }
        // A megabyte a second over 0.2 s, twice.
        assert!((400_000..500_000).contains(&flow.window), "{}", flow.window);
        assert_eq!(flow.outstanding, 0);
        flow.asked(200_000, now);
        assert_eq!(flow.takes(), Some(Duration::from_millis(200)));
        for _ in 0..20 {
            flow.slow_down();
        }
        assert_eq!(flow.window, WINDOW_MIN);
    }
}
