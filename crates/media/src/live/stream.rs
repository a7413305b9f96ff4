//! One line of time: where parts and segments are cut.

use super::line::Line;
use super::plan::Config;
use crate::TICKS_PER_SECOND;
use crate::cmaf::mux::{self, Run};
use crate::frame::Frame;

/// How far the others may run ahead of the reference track before parts go on without it.
const LAG: u64 = TICKS_PER_SECOND;
/// How much longer than its target a segment may be: durations are rounded to whole seconds before
/// they are compared (RFC 8216bis section 4.4.3.1).
const ROUNDING: u64 = TICKS_PER_SECOND * 4 / 10;

/// The most samples that wait for their part: a part of a second has some hundreds.
const WAITING_MAX: usize = 16 << 10;

/// What is decided.
#[derive(Debug)]
pub(super) enum Cut {
    Ready {
        target_duration: u64,
        part_target: u64,
    },
    Begin {
        start: u64,
        discontinuity: bool,
    },
    Part {
        runs: Vec<Run>,
        duration: u64,
        independent: bool,
    },
    End {
        duration: u64,
        independent: bool,
    },
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            track,
            time,
            samples,
        } = self;
        write!(
            f,
            "{} samples of track {track} from {time} on",
            samples.len()
        )
    }
}

/// The tracks of an init segment while they run.
#[derive(Debug)]
pub(super) struct Stream {
    config: Config,
    lines: Vec<Line>,
    /// The line that segments are cut by.
    leader: usize,
    /// What is taken from decode times, and the tick that nothing may stand before.
    offset: i64,
    begin: u64,
    /// Seconds and ticks, once a playlist can be written.
    ready: Option<(u64, u64)>,
    /// The part target, once it is known.
    part_target: Option<u64>,
    /// Pictures between key frames, as the encoder says.
    hint: Option<u64>,
    /// Ticks of the first key frame, and the largest distance of two.
    first_key: Option<u64>,
    last_key: u64,
    distance: u64,
    /// Ticks of the latest frame of the leader, and its distance to the one before.
    now: Option<u64>,
    interval: u64,
    part_start: u64,
    /// Where the latest part ended; a hole is between this and the next one.
    part_end: u64,
    segment_start: u64,
    /// Whether a part of the segment is out, and whether it can be decoded by itself.
    open: bool,
    independent: bool,
    discontinuity: bool,
    /// Bytes of the open segment, and of its open part.
    bytes: usize,
    waiting: usize,
}

impl Stream {
    pub(super) fn new(
        config: Config,
        scales: &[u32],
        leader: usize,
        ready: Option<(u64, u64)>,
    ) -> Self {
        Self {
            config,
            lines: scales.iter().map(|scale| Line::new(*scale)).collect(),
            leader,
            offset: 0,
            begin: 0,
            ready,
            part_target: ready.map(|(_, target)| target),
            hint: None,
            first_key: None,
            last_key: 0,
            distance: 0,
            now: None,
            interval: 0,
            part_start: 0,
            part_end: 0,
            segment_start: 0,
            open: false,
            independent: false,
            discontinuity: false,
            bytes: 0,
            waiting: 0,
        }
    }

    /// The frame of the decode time `dts` is the first, and stands at `resume` ticks.
    pub(super) fn begin(&mut self, dts: i64, resume: u64, discontinuity: bool, hint: Option<u64>) {
        self.offset = dts.saturating_sub(resume.cast_signed());
        self.begin = resume;
        self.part_start = resume;
        self.segment_start = resume;
        self.discontinuity = discontinuity;
        self.hint = hint;
    }

    /// Takes the next frame of a line.
    /// False when the frame was left out.
    pub(super) fn push(&mut self, line: usize, frame: Frame, cuts: &mut Vec<Cut>) -> bool {
        // What comes from before the first picture has nothing to be heard with.
        let at = u64::try_from(frame.dts.saturating_sub(self.offset));
        let Some(at) = at.ok().filter(|at| *at >= self.begin) else {
            return true;
        };
        let key = frame.key;
        let Some(track) = self.lines.get_mut(line) else {
            return false;
        };
        let size = frame.data.len();
        // Where time does not go on, no part ends: what is too much is left out.
        if track.samples.len() >= WAITING_MAX || self.waiting + size > self.config.max_bytes {
            return false;
        }
        let Some(now) = track.push(frame, at) else {
            return false;
        };
        self.waiting += size;
        if line == self.leader {
            self.led(now, key, cuts);
        } else if let Some(until) = now.checked_sub(LAG) {
            // The leader is silent; it may come back with what is late by less.
            self.announce(until, cuts);
            self.slice(until, cuts);
        }
        true
    }

    /// A frame of the leader stands at `now`: what is before it can be cut.
    fn led(&mut self, now: u64, key: bool, cuts: &mut Vec<Cut>) {
        if let Some(before) = self.now.replace(now) {
            self.interval = now.saturating_sub(before);
        }
        if key {
            self.key(now, cuts);
        }
        let elapsed = now.saturating_sub(self.segment_start);
        if key && elapsed > 0 && self.ends_here(elapsed) {
            self.slice(now, cuts);
            self.part(now, cuts);
            // Its limit, or a hole, may have ended the segment already.
            if self.open {
                self.end_segment(now, cuts);
            }
            return;
        }
        self.announce(now, cuts);
        self.slice(now, cuts);
        let is_large = self.waiting > self.config.max_bytes / 4;
        if is_large {
            self.fix_parts();
        }
        let Some(target) = self.part_target else {
            return;
        };
        let filled = now.saturating_sub(self.part_start);
        // Whole frames, as many as fit; where the next one comes later than expected, `slice` cuts.
        let full = filled * 100 >= target * 85 && filled + self.interval > target;
        if full || is_large {
            self.part(now, cuts);
            self.bound(now, cuts);
        }
    }

    /// Whether the open segment of that length ends at a key frame.
    fn ends_here(&self, elapsed: u64) -> bool {
        if self.config.is_due(elapsed) {
            return true;
        }
        // A short segment is better than one that must end at a picture which cannot be decoded
        // alone. Twice the part target is as short as it may be, or a stream of key frames only
        // would have a segment for each.
        let Some((seconds, target)) = self.ready else {
            return false;
        };
        let next = elapsed.saturating_add(self.distance);
        self.distance > target && elapsed > 2 * target && next > limit(seconds)
    }

    fn key(&mut self, now: u64, cuts: &mut Vec<Cut>) {
        if self.first_key.is_some() {
            let distance = now.saturating_sub(self.last_key);
            // The longer of late ones: a single long one does not make segments short for ever.
            self.distance = distance.max(self.distance / 2);
            self.last_key = now;
            if self.ready.is_none() && distance > 0 {
                self.fix_parts();
                self.set_ready(self.config.target_duration(distance), cuts);
            }
        } else {
            self.first_key = Some(now);
            self.last_key = now;
        }
    }

    /// Fixes the part target by the distance of the frames so far, if there is one.
    fn fix_parts(&mut self) {
        if self.part_target.is_none() && self.interval > 0 {
            self.part_target = Some(self.config.part_target(self.interval));
        }
    }

    /// Says that a playlist can be written, as soon as enough is known for it.
    fn announce(&mut self, now: u64, cuts: &mut Vec<Cut>) {
        if self.part_start.saturating_add(self.config.part * 85 / 100) <= now {
            self.fix_parts();
        }
        let (None, Some(_), Some(first)) = (self.ready, self.part_target, self.first_key) else {
            return;
        };
        if let Some(target) = self.config.target {
            return self.set_ready(target, cuts);
        }
        let hint = self.hint.map(|count| count.saturating_mul(self.interval));
        // The encoder may put in more key frames than it says, so only a short distance is taken
        // from it before there is a second one.
        if let Some(distance) = hint
            && distance > 0
            && self.config.target_duration(distance) * TICKS_PER_SECOND <= self.config.segment
        {
            self.set_ready(self.config.target_duration(distance), cuts);
        } else if now.saturating_sub(first) > self.config.patience() {
            self.set_ready(self.config.guess(hint), cuts);
        }
    }

    fn set_ready(&mut self, target_duration: u64, cuts: &mut Vec<Cut>) {
        // A playlist's target duration never changes.
        let target_duration = self.config.target.unwrap_or(target_duration);
        let part_target = self
            .part_target
            .unwrap_or_else(|| self.config.part_target(0));
        self.part_target = Some(part_target);
        self.ready = Some((target_duration, part_target));
        cuts.push(Cut::Ready {
            target_duration,
            part_target,
        });
    }

    /// Cuts parts of full length while the open one is longer than that at `now`.
    fn slice(&mut self, now: u64, cuts: &mut Vec<Cut>) {
        let Some(target) = self.part_target else {
            return;
        };
        while now.saturating_sub(self.part_start) > target {
            let end = self.part_start + target;
            if self.part(end, cuts) {
                self.bound(end, cuts);
                continue;
            }
            // Nothing came for a part's time: a hole, which no part has. The segment that it is in
            // is as much longer, unless none may be so long with the part behind it.
            let waiting = self.lines.iter().filter_map(Line::first).min();
            let Some(hole_end) = waiting.map(|first| first.clamp(end, now)) else {
                // The last frame lasts longer than a part.
                break;
            };
            let length = hole_end.saturating_sub(self.segment_start);
            if self
                .ready
                .is_some_and(|(seconds, target)| length + target > limit(seconds))
            {
                self.end_segment(self.part_end, cuts);
                self.discontinuity = true;
                self.segment_start = hole_end;
            }
            self.part_start = hole_end;
        }
    }

    /// Ends a part before `end`; false when there is nothing in it.
    fn part(&mut self, end: u64, cuts: &mut Vec<Cut>) -> bool {
        let mut runs = Vec::new();
        let mut independent = false;
        let mut size = 0;
        for (index, line) in self.lines.iter_mut().enumerate() {
            let samples = line.before(end);
            let Some(first) = samples.first() else {
                continue;
            };
            if index == self.leader {
                independent = first.key;
            }
            let time = first.time;
            let samples: Vec<_> = samples
                .into_iter()
                .map(|sample| {
                    size += sample.data.len();
                    mux::Sample {
                        duration: sample.duration,
                        offset: sample.offset,
                        key: sample.key,
                        data: sample.data,
                    }
                })
                .collect();
            runs.push(Run {
                track: mux::numbered(index),
                time,
                samples,
            });
        }
        if runs.is_empty() {
            return false;
        }
        if !self.open {
            self.open = true;
            self.independent = independent;
            self.bytes = 0;
            cuts.push(Cut::Begin {
                start: self.segment_start,
                discontinuity: std::mem::take(&mut self.discontinuity),
            });
        }
        self.waiting = self.waiting.saturating_sub(size);
        self.bytes += size;
        let target = self.part_target.unwrap_or(u64::MAX);
        cuts.push(Cut::Part {
            runs,
            duration: end.saturating_sub(self.part_start).min(target),
            independent,
        });
        self.part_start = end;
        self.part_end = end;
        true
    }

    /// Ends the segment where the next part would make it too long.
    fn bound(&mut self, at: u64, cuts: &mut Vec<Cut>) {
        let Some((seconds, target)) = self.ready else {
            return;
        };
        let next = at.saturating_sub(self.segment_start) + target;
        if next > limit(seconds) || self.bytes > self.config.max_bytes * 3 / 4 {
            self.end_segment(at, cuts);
        }
    }

    fn end_segment(&mut self, end: u64, cuts: &mut Vec<Cut>) {
        if self.open {
            cuts.push(Cut::End {
                duration: end.saturating_sub(self.segment_start),
                independent: self.independent,
            });
        }
        self.segment_start = end;
        self.part_start = end;
        self.open = false;
    }

    /// Ends all that is open. Gives the tick at which it ends.
    pub(super) fn end(&mut self, cuts: &mut Vec<Cut>) -> u64 {
        let ends = self.lines.iter_mut().filter_map(Line::end);
        let end = ends.max().unwrap_or(self.part_start).max(self.part_start);
        if self.ready.is_none() {
            self.fix_parts();
            let length = end.saturating_sub(self.segment_start);
            self.set_ready(self.config.target_duration(length), cuts);
        }
        self.slice(end, cuts);
        let rest = self.part(end, cuts);
        self.end_segment(if rest { end } else { self.part_start }, cuts);
        end
    }
}

/// The longest segment for a target duration.
fn limit(seconds: u64) -> u64 {
    seconds * TICKS_PER_SECOND + ROUNDING
}
