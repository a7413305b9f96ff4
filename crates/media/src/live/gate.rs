//! Finds jumps of time stamps, and frames that come from elsewhere.

use crate::TICKS_PER_SECOND;
use crate::frame::{Frame, TRACKS_MAX};

/// A step forward over this many ticks is a jump, unless the other tracks went on meanwhile or the
/// track comes in such steps.
const FORWARD: i64 = 10 * TICKS_PER_SECOND as i64;
/// A step back over this many ticks is a jump; less is disorder.
const BACKWARD: i64 = TICKS_PER_SECOND as i64 / 2;
/// The longest step of a track that comes in regular steps: a picture every ten minutes.
const RHYTHM_MAX: i64 = 600 * TICKS_PER_SECOND as i64;
/// The most frames that wait until it is clear whether time has jumped.
const HELD: usize = 64;

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// It waits: whether time has jumped shows with the next ones.
    Hold,
    /// It continues its track.
    Next(Frame),
    /// These continue their track, which comes in long steps.
    Late(Vec<Frame>),
    /// Time has jumped; these begin another line.
    Jump(Vec<Frame>),
}

/// Watches the decode times of all tracks.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The latest decode time of each track, and the longest step that it comes in.
    last: [Option<i64>; TRACKS_MAX],
    steps: [i64; TRACKS_MAX],
    /// The latest of all tracks, for those that have none of their own.
    latest: Option<i64>,
    held: Vec<Frame>,
    /// Frames that came from elsewhere.
    pub(super) dropped: u64,
}

impl Gate {
    pub(super) fn pass(&mut self, frame: Frame) -> Pass {
        let own = self.last.get(frame.track).copied().flatten();
        let goes_on = match own {
            Some(last) => {
                self.follows(frame.track, last, frame.dts)
                    || frame.dts > last && self.is_near(frame.dts)
            }
            None => self.latest.is_none() || self.is_near(frame.dts),
        };
        if goes_on {
            // The track goes on where it was, so what is held of it came from elsewhere.
            let before = self.held.len();
            self.held.retain(|held| held.track != frame.track);
            self.dropped += (before - self.held.len()) as u64;
            self.note(&frame);
            return Pass::Next(frame);
        }
        if let Some(last) = own
            && let Some(late) = self.rhythm(last, &frame)
        {
            return Pass::Late(late);
        }
        let confirmed = self.held.iter().any(|held| {
            held.track == frame.track && self.follows(frame.track, held.dts, frame.dts)
        });
        if !confirmed {
            if self.held.len() >= HELD {
                self.dropped += self.held.len() as u64;
                self.held.clear();
            }
            self.held.push(frame);
            return Pass::Hold;
        }
        let mut frames = std::mem::take(&mut self.held);
        // Of before the jump, and of neither line.
        let before = frames.len();
        frames.retain(|held| held.dts.abs_diff(frame.dts) < FORWARD.unsigned_abs());
        self.dropped += (before - frames.len()) as u64;
        frames.push(frame);
        self.last = Default::default();
        self.latest = None;
        for frame in &frames {
            self.note(frame);
        }
        Pass::Jump(frames)
    }

    fn follows(&self, track: usize, last: i64, next: i64) -> bool {
        // Twice its usual step: one picture may be lost.
        let step = self.steps.get(track).map_or(0, |step| 2 * step);
        (-BACKWARD..=FORWARD.max(step)).contains(&next.saturating_sub(last))
    }

    /// Whether a time is where the other tracks are. One that was silent, or has just come, goes on
    /// there.
    fn is_near(&self, time: i64) -> bool {
        let reach = FORWARD.unsigned_abs();
        self.latest.is_some_and(|it| it.abs_diff(time) <= reach)
    }

    /// The frames of a track that comes in long steps, if this one is as far behind the one that
    /// is held as that is behind the latest.
    fn rhythm(&mut self, last: i64, frame: &Frame) -> Option<Vec<Frame>> {
        let is_own = |held: &Frame| held.track == frame.track;
        let at = self.held.iter().rposition(is_own)?;
        let middle = self.held.get(at)?.dts;
        let (one, other) = (middle.checked_sub(last)?, frame.dts.checked_sub(middle)?);
        let is_long = (FORWARD..=RHYTHM_MAX).contains(&one);
        if !is_long || (one - other).abs() > one / 4 {
            return None;
        }
        if let Some(step) = self.steps.get_mut(frame.track) {
            *step = one.max(other);
        }
        let frames = vec![self.held.remove(at), frame.clone()];
        self.held.retain(|held| held.track != frame.track);
        for frame in &frames {
            self.note(frame);
        }
        Some(frames)
    }

    fn note(&mut self, frame: &Frame) {
        if let Some(last) = self.last.get_mut(frame.track) {
            *last = Some(frame.dts);
        }
        self.latest = Some(frame.dts);
    }
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
            Pass::Late(frames) => Some((false, frames.iter().map(|frame| frame.dts).collect())),
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
    fn long_steps_in_a_rhythm_are_no_jumps() {
        let second = TICKS_PER_SECOND as i64;
        let at = |n: i64| n * 12 * second;
        let alone: Vec<_> = (0..6).map(|n| (0, at(n))).collect();
        let passed = run(&alone);
        let times: Vec<_> = passed.iter().flat_map(|(_, times)| times.clone()).collect();
        assert_eq!(times, alone.iter().map(|(_, dts)| *dts).collect::<Vec<_>>());
        assert!(passed.iter().all(|(is_jump, _)| !is_jump), "{passed:?}");
        // One of them is lost.
        let gap = run(&[&alone[..], &[(0, at(7))]].concat());
        assert_eq!(gap.last(), Some(&(false, vec![at(7)])));
        // Sound shows that time goes on as it did.
        let both = (0..50).flat_map(|n| {
            let sound = (1, n * second);
            let picture = (n % 12 == 0).then_some((0, n * second));
            picture.into_iter().chain([sound])
        });
        let both: Vec<_> = both.collect();
        let passed = run(&both);
        assert_eq!(passed.len(), both.len());
        assert!(passed.iter().all(|(is_jump, _)| !is_jump), "{passed:?}");
        // One long step that nothing else shows is a jump; two of other lengths are nothing yet.
        let passed = run(&[(0, 0), (0, at(1)), (0, at(1) + 3_000)]);
        assert_eq!(passed.last(), Some(&(true, vec![at(1), at(1) + 3_000])));
        assert_eq!(run(&[(0, 0), (0, at(1)), (0, at(9))]).len(), 1);
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
