//! Decode times of one stream: unwrapped, with jumps found.

use crate::TICKS_PER_SECOND;

/// A step forward over this many ticks is a jump.
const FORWARD: u64 = 10 * TICKS_PER_SECOND;
/// A step back over this many ticks is a jump; less is disorder (pictures without decode times).
const BACKWARD: u64 = TICKS_PER_SECOND / 2;
/// Where unwrapped time begins, so that small steps back never reach zero.
const ORIGIN: u64 = 1 << 40;

/// How a time stamp follows the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// In the same timeline.
    Next,
    /// Too far away: another timeline begins. The timeline still stands at the old place.
    Jump,
}

/// The decode time of a stream whose time stamps have a number of bits.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    bits: u32,
    raw: Option<u64>,
    now: u64,
    interval: u64,
}

impl Timeline {
    /// Time stamps that wrap after `bits` bits (1 to 64).
    pub(crate) fn new(bits: u32) -> Self {
        Self {
            bits: bits.clamp(1, 64),
            raw: None,
            now: ORIGIN,
            interval: 0,
        }
    }

    /// Takes the next time stamp.
    pub(crate) fn advance(&mut self, raw: u64) -> Step {
        let Some(last) = self.raw else {
            self.raw = Some(raw);
            return Step::Next;
        };
        // The distance modulo 2^bits with its sign: a counter that wraps takes a small step.
        let shift = 64 - self.bits;
        let delta = (raw.wrapping_sub(last) << shift).cast_signed() >> shift;
        let limit = if delta < 0 { BACKWARD } else { FORWARD };
        if delta.unsigned_abs() > limit {
            return Step::Jump;
        }
        self.raw = Some(raw);
        self.now = self.now.saturating_add_signed(delta);
        // Pictures without decode times come out of order; a step back is no distance between
        // frames.
        if delta > 0 {
            self.interval = delta.unsigned_abs();
        }
        Step::Next
    }

    /// Begins another timeline at the next time stamp. The frame interval is kept as the best
    /// guess for a timeline of a single frame.
    pub(crate) fn restart(&mut self) {
        self.raw = None;
    }

    /// The unwrapped time of the latest time stamp.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// The latest distance of two time stamps; zero when there was only one.
    pub(crate) fn interval(&self) -> u64 {
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwraps_33_bits() {
        let mut line = Timeline::new(33);
        assert_eq!(line.advance((1 << 33) - 3_600), Step::Next);
        let start = line.now();
        assert_eq!(line.advance(0), Step::Next);
        assert_eq!(line.now() - start, 3_600);
        assert_eq!(line.interval(), 3_600);
    }

    #[test]
    fn finds_jumps_and_bears_disorder() {
        let mut line = Timeline::new(33);
        line.advance(900_000);
        assert_eq!(line.advance(900_000 + FORWARD + 1), Step::Jump);
        assert_eq!(line.advance(900_000 - BACKWARD - 1), Step::Jump);
        assert_eq!(line.advance(900_000 - BACKWARD), Step::Next);
        assert_eq!(line.advance(900_000 + 3_600), Step::Next);
        line.restart();
        assert_eq!(line.advance(5), Step::Next);
    }

    #[test]
    fn extreme_time_stamps_do_not_overflow() {
        let mut line = Timeline::new(64);
        for raw in [0, u64::MAX, 1 << 63, 1, u64::MAX / 2] {
            line.advance(raw);
        }
    }
}
