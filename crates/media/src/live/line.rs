//! The times of one track: from what its source says to what is packed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::TICKS_PER_SECOND;
use crate::frame::Frame;

/// How many frames in a row must be off by a frame or more before the track is set right: single
/// ones only come at an odd time.
const PATIENCE: u32 = 16;
/// A track that is off by this many ticks is set right at once.
const FAR: i64 = TICKS_PER_SECOND as i64 / 5;

/// A frame with its place in the output.
#[derive(Debug)]
pub(super) struct Sample {
    /// Decode time in units of the track.
    pub(super) time: u64,
    /// Units until the next sample; 0 while that is not known.
    pub(super) duration: u32,
    /// Presentation time after the decode time, in units.
    pub(super) offset: i32,
    pub(super) key: bool,
    pub(super) data: Bytes,
}

/// The line of time of one track.
#[derive(Debug)]
pub(super) struct Line {
    timescale: u64,
    /// Samples that wait for their part.
    pub(super) samples: VecDeque<Sample>,
    /// Where the next sample stands if it follows without a gap; `None` before the first.
    next: Option<u64>,
    /// The latest length of a sample.
    pub(super) interval: u32,
    /// Frames in a row that were off, with the sign of how.
    off: i32,
}

impl Line {
    pub(super) fn new(timescale: u32) -> Self {
        Self {
            timescale: timescale.max(1).into(),
            samples: VecDeque::new(),
            next: None,
            interval: 0,
            off: 0,
        }
    }

    /// Ticks as units of this track.
    fn units(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * u128::from(self.timescale) / u128::from(TICKS_PER_SECOND)) as u64
    }

    /// Units of this track as ticks.
    pub(super) fn ticks(&self, units: u64) -> u64 {
        (u128::from(units) * u128::from(TICKS_PER_SECOND) / u128::from(self.timescale)) as u64
    }

    /// Takes the next frame, which stands `at` ticks after the beginning of the output. Gives the
    /// tick at which it stands now; `None` when it was one too many.
    pub(super) fn push(&mut self, frame: Frame, at: u64) -> Option<u64> {
        let place = self.units(at);
        let time = match (self.next, frame.samples) {
            (None, _) => place,
            // Only its successor shows how long a picture lasts.
            (Some(next), 0) => {
                // Pictures without decode times come out of order; time goes on all the same.
                let time = place.max(next);
                self.close(time);
                time
            }
            (Some(next), samples) => self.steady(next, place, samples)?,
        };
        let shift = frame.pts.saturating_sub(frame.dts);
        // Beyond half a minute it is no order of pictures but damage.
        let shift = shift.clamp(-30 * FAR * 5, 30 * FAR * 5);
        let offset = i128::from(shift) * i128::from(self.timescale);
        let offset = (offset / i128::from(TICKS_PER_SECOND)) as i32;
        if frame.samples > 0 {
            self.interval = frame.samples;
        }
        // At least a unit, so that no two samples stand at one time.
        let lasts = u64::from(frame.samples.max(1));
        self.next = Some(time.saturating_add(lasts));
        self.samples.push_back(Sample {
            time,
            duration: frame.samples,
            offset,
            key: frame.key,
            data: frame.data,
        });
        Some(self.ticks(time))
    }

    /// Where a frame of known length stands; `None` when it is one too many.
    fn steady(&mut self, next: u64, place: u64, samples: u32) -> Option<u64> {
        let diff = place.cast_signed().saturating_sub(next.cast_signed());
        let far = self.units(FAR.unsigned_abs()).cast_signed();
        let frame = i64::from(samples);
        if diff.abs() < frame {
            self.off = 0;
            return Some(next);
        }
        let sign = if diff > 0 { 1 } else { -1 };
        self.off = if self.off.signum() == sign {
            self.off + sign
        } else {
            sign
        };
        if diff.abs() < far && self.off.unsigned_abs() < PATIENCE {
            return Some(next);
        }
        if diff < 0 {
            return None;
        }
        self.off = 0;
        self.close(place);
        Some(place)
    }

    /// Says of the latest sample that it lasts until `time`.
    fn close(&mut self, time: u64) {
        if let Some(last) = self.samples.back_mut() {
            let lasts = time.saturating_sub(last.time).max(1);
            last.duration = u32::try_from(lasts).unwrap_or(u32::MAX);
            self.interval = last.duration;
        }
    }

    /// Ends the track: its last sample lasts as long as the one before it. Gives the tick at which
    /// it ends.
    pub(super) fn end(&mut self) -> Option<u64> {
        let usual = match self.interval {
            // A single picture: any length is as good; this is 25 a second.
            0 => u32::try_from(self.timescale / 25).unwrap_or(1).max(1),
            // After a hole, the one before it lasted as long as that.
            interval => interval.min(u32::try_from(self.timescale).unwrap_or(u32::MAX)),
        };
        let last = self.samples.back_mut()?;
        if last.duration == 0 {
            last.duration = usual;
        }
        let end = last.time.saturating_add(last.duration.into());
        self.next = Some(end);
        Some(self.ticks(end))
    }

    /// The tick at which the first sample that waits begins.
    pub(super) fn first(&self) -> Option<u64> {
        self.samples.front().map(|sample| self.ticks(sample.time))
    }

    /// Takes the samples that begin before a tick out.
    pub(super) fn before(&mut self, tick: u64) -> Vec<Sample> {
        let timescale = u128::from(self.timescale);
        let begins_before = |sample: &Sample| {
            u128::from(sample.time) * u128::from(TICKS_PER_SECOND) < u128::from(tick) * timescale
        };
        let count = self
            .samples
            .iter()
            .take_while(|sample| begins_before(sample))
            .count();
        self.samples.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(samples: u32) -> Frame {
        Frame {
            track: 0,
            dts: 0,
            pts: 0,
            samples,
            key: true,
            data: Bytes::new(),
        }
    }

    #[test]
    fn milliseconds_make_no_gaps_in_sound() {
        let mut line = Line::new(44_100);
        for n in 0..10_000u64 {
            // As RTMP has it: whole milliseconds, so up to 45 units away.
            let placed = line.push(frame(1024), n * 1024 * 1000 / 44_100 * 90);
            assert!(placed.is_some());
        }
        let times: Vec<u64> = line.samples.iter().map(|sample| sample.time).collect();
        assert!(times.windows(2).all(|two| two[1] - two[0] == 1024));
    }

    #[test]
    fn a_clock_that_drifts_is_followed_within_a_frame() {
        // Sound that comes 0.1 % too fast, and too slowly, for an hour.
        for (rate, drops) in [(48_048u64, true), (47_952, false)] {
            let mut line = Line::new(48_000);
            let (mut worst, mut dropped) = (0, 0);
            for n in 0..168_750u64 {
                let at = n * 1024 * 90_000 / rate;
                dropped += u32::from(line.push(frame(1024), at).is_none());
                let last = line.samples.back().unwrap().time;
                worst = worst.max((line.units(at).cast_signed() - last.cast_signed()).abs());
                line.samples.drain(..line.samples.len() - 1);
            }
            assert_eq!(dropped > 0, drops);
            // A frame, and what it drifts while that is not believed yet.
            assert!(worst <= 1024 + 32, "{worst}");
        }
    }

    #[test]
    fn a_hole_is_kept_and_pictures_out_of_order_are_not() {
        let mut line = Line::new(48_000);
        line.push(frame(1024), 0);
        line.push(frame(1024), 90_000);
        assert_eq!(line.samples[0].duration, 48_000);
        assert_eq!(line.samples[1].time, 48_000);
        let mut line = Line::new(90_000);
        for at in [0, 3_600, 3_000, 10_800] {
            line.push(frame(0), at);
        }
        let times: Vec<_> = line.samples.iter().map(|s| (s.time, s.duration)).collect();
        assert_eq!(times, [(0, 3_600), (3_600, 1), (3_601, 7_199), (10_800, 0)]);
        assert_eq!(line.end(), Some(17_999));
    }
}
