//! Finds jumps of time stamps, and frames that come from elsewhere.

use crate::TICKS_PER_SECOND;
use crate::frame::{Frame, TRACKS_MAX};

/// A step forward over this many ticks is a jump.
const FORWARD: i64 = 10 * TICKS_PER_SECOND as i64;
/// A step back over this many ticks is a jump; less is disorder.
const BACKWARD: i64 = TICKS_PER_SECOND as i64 / 2;
/// The most frames that wait until it is clear whether time has jumped.
const HELD: usize = 64;

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// It waits: whether time has jumped shows with the next ones.
    Hold,
    /// It continues its track.
    Next(Frame),
    /// Time has jumped; these begin another line.
    Jump(Vec<Frame>),
}

/// Watches the decode times of all tracks.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The latest decode time of each track.
    last: [Option<i64>; TRACKS_MAX],
    /// The latest of all tracks, for those that have none of their own.
    latest: Option<i64>,
    held: Vec<Frame>,
}

impl Gate {
    pub(super) fn pass(&mut self, frame: Frame) -> Pass {
        let own = self
            .last
            .get(frame.track)
            .copied()
            .flatten()
            .or(self.latest);
        if own.is_none_or(|last| follows(last, frame.dts)) {
            // The track goes on where it was, so what is held of it came from elsewhere.
            self.held.retain(|held| held.track != frame.track);
            self.note(&frame);
            return Pass::Next(frame);
        }
        let confirmed = self
            .held
            .iter()
            .any(|held| held.track == frame.track && follows(held.dts, frame.dts));
        if !confirmed {
            if self.held.len() >= HELD {
                self.held.clear();
            }
            self.held.push(frame);
            return Pass::Hold;
        }
        let mut frames = std::mem::take(&mut self.held);
        // Of before the jump, and of neither line.
        frames.retain(|held| held.dts.abs_diff(frame.dts) < FORWARD.unsigned_abs());
        frames.push(frame);
        self.last = Default::default();
        self.latest = None;
        for frame in &frames {
            self.note(frame);
        }
        Pass::Jump(frames)
    }

    fn note(&mut self, frame: &Frame) {
        if let Some(last) = self.last.get_mut(frame.track) {
            *last = Some(frame.dts);
        }
        self.latest = Some(frame.dts);
    }
}

fn follows(last: i64, next: i64) -> bool {
    (-BACKWARD..=FORWARD).contains(&next.saturating_sub(last))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame(track: usize, dts: i64) -> Frame {
        Frame {
            track,
            dts,
            pts: dts,
            samples: 0,
            key: false,
            data: Bytes::new(),
        }
    }

    fn run(frames: &[(usize, i64)]) -> Vec<(bool, Vec<i64>)> {
        let mut gate = Gate::default();
        let passed = frames
            .iter()
            .map(|(track, dts)| gate.pass(frame(*track, *dts)));
        let out = passed.filter_map(|pass| match pass {
            Pass::Hold => None,
            Pass::Next(frame) => Some((false, vec![frame.dts])),
            Pass::Jump(frames) => Some((true, frames.iter().map(|frame| frame.dts).collect())),
        });
        out.collect()
    }

    #[test]
    fn a_stray_frame_is_dropped() {
        let far = 90_000_000;
        assert_eq!(
            run(&[(0, 0), (0, far), (0, 3_000), (1, 3_000)]),
            [(false, vec![0]), (false, vec![3_000]), (false, vec![3_000])]
        );
    }

    #[test]
    fn a_jump_takes_all_tracks_along() {
        let far = 90_000_000;
        let passed = run(&[
            (0, 0),
            (1, 0),
            (0, far),
            (1, 1_000),
            (1, far),
            (0, far + 3_000),
        ]);
        assert_eq!(passed.last(), Some(&(true, vec![far, far, far + 3_000])));
        assert_eq!(passed.len(), 4);
        // Back to before, as after a wrap that nobody unwrapped.
        let passed = run(&[(0, far), (0, 0), (0, 3_000), (0, 6_000)]);
        assert_eq!(passed.get(1), Some(&(true, vec![0, 3_000])));
        assert_eq!(passed.get(2), Some(&(false, vec![6_000])));
    }

    #[test]
    fn nonsense_is_bounded() {
        let mut gate = Gate::default();
        for n in 0..10_000i64 {
            gate.pass(frame(
                (n % 8) as usize,
                n.wrapping_mul(0x1234_5678_9abc) % (1 << 60),
            ));
            assert!(gate.held.len() <= HELD);
        }
    }
}
