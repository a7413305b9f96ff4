//! What a publisher sends, on its way into the window.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_media::Kind;
use lavant_media::frame::Item;
use lavant_media::live::Event;
use lavant_proto::ids::ContentId;
use lavant_proto::time::{TICKS_PER_SECOND, Time};

use super::{Inner, QUEUE_MAX, State, Write};
use crate::shown;

/// How often a bit rate is measured.
const RATE_SPAN: Duration = Duration::from_secs(2);

/// Bytes and frames over a span.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) since: Instant,
    pub(super) bytes: u64,
    pub(super) bits: u64,
}

/// The most streams of a source that are named as left out.
const LEFT_OUT_MAX: usize = 8;

impl Inner {
    /// Notes a stream of the source that is not taken.
    pub(super) fn leave_out(&mut self, name: &ContentId, what: &str) {
        let is_known = self.left_out.iter().any(|it| it == what);
        if !is_known && self.left_out.len() < LEFT_OUT_MAX {
            tracing::warn!(stream = %name, what, "a part of the source is left out: its codec, or \
                a second of its kind, is not taken");
            self.left_out.push(what.to_owned());
        }
    }

    /// Notes what an item says of the stream's health.
    pub(super) fn note(&mut self, item: &Item, now: Instant, time: Time) {
        let frame = match item {
            Item::Track(no, track) => {
                if let Some(slot) = self.video.get_mut(*no) {
                    *slot = track.kind() == Kind::Video;
                }
                return;
            }
            Item::Frame(frame) => frame,
            Item::Expected(_) | Item::LeftOut(_) => return,
        };
        self.frames += 1;
        self.rate.bytes += frame.data.len() as u64;
        let span = now.duration_since(self.rate.since);
        if span >= RATE_SPAN {
            let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
            self.rate.bits = (self.rate.bytes * 8).saturating_mul(1_000_000) / micros;
            (self.rate.since, self.rate.bytes) = (now, 0);
        }
        let is_video = self.video.get(frame.track).is_some_and(|is| *is);
        let has_video = self.video.contains(&true);
        if !frame.key || is_video != has_video {
            return;
        }
        self.anchor.get_or_insert(time);
        if is_video {
            let last = self.last_key.replace(frame.dts);
            if let Some(step) = last.and_then(|last| u64::try_from(frame.dts - last).ok()) {
                self.key_distance = step;
            }
        }
    }

    pub(super) fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Init { data, streams } => {
                self.window.init(data);
                self.streams = streams;
            }
            Event::Ready {
                target_duration,
                part_target,
            } => {
                self.window
                    .targets
                    .get_or_insert((target_duration, part_target));
            }
            Event::Begin {
                start,
                discontinuity,
            } => {
                let date = self.date(start, discontinuity);
                self.window.begin(start, discontinuity, date);
            }
            Event::Part(part) => {
                self.duration += part.duration;
                self.came += ticks(part.duration);
                // By the first part: what an encoder sends at once at its start is no drift.
                self.begun.get_or_insert((now, self.came));
                if let Some(end) = self.window.part(part) {
                    self.steady.note(now, end);
                }
            }
            Event::End {
                duration,
                independent,
            } => {
                let target = self.window.target_duration();
                let target = u32::try_from(target).unwrap_or(u32::MAX);
                self.write_inits(target);
                if let Some(segment) = self.window.end(duration, independent) {
                    let has_room = self.queued <= QUEUE_MAX;
                    let data = segment.data.clone().filter(|_| has_room);
                    let length = data.as_ref().map_or(0, Bytes::len);
                    let write = Write::Segment {
                        no: segment.no,
                        init: segment.init,
                        duration,
                        target_duration: target,
                        discontinuity: segment.discontinuity,
                        independent,
                        data,
                    };
                    self.write(write, length);
                }
            }
        }
    }

    /// Seconds by which media runs ahead of the clock since the first part of a session.
    pub(super) fn drift(&self, now: Instant) -> Option<f64> {
        let (begun, came) = self.begun.filter(|_| self.state == State::Live)?;
        let media = self.came.saturating_sub(came).as_secs_f64();
        Some(media - now.duration_since(begun).as_secs_f64())
    }

    /// Hands the init segments over that are not written yet. Not as they come: a record says the
    /// target duration, which the first of them stands before.
    fn write_inits(&mut self, target_duration: u32) {
        let shown = shown::of_streams(&self.streams);
        for (no, data) in self.window.new_inits() {
            let write = Write::Init {
                no,
                target_duration,
                shown: shown.clone(),
                data,
            };
            self.write(write, 0);
        }
    }

    /// When the segment that begins at `start` was taken.
    fn date(&mut self, start: u64, discontinuity: bool) -> Time {
        let before = self.window.segments.back().filter(|_| !discontinuity);
        match before {
            // By media time, so that dates never contradict durations.
            Some(before) => before.date.after(ticks(start.saturating_sub(before.start))),
            None => self.anchor.unwrap_or_default(),
        }
    }

    fn write(&mut self, write: Write, length: usize) {
        if let Some(writes) = &self.writes
            && writes.send(write).is_ok()
        {
            self.queued += length;
        }
    }
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_micros(
        u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(TICKS_PER_SECOND))
            .unwrap_or(u64::MAX),
    )
}
