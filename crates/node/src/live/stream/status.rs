//! What is known of a stream, for people.

use std::time::Instant;

use lavant_proto::ids::ContentId;
use lavant_proto::time::Time;

use super::{State, Stream};
use crate::shown;

/// What is known of a stream, for people.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: ContentId,
    /// Its version, which counts broadcasts.
    pub version: u32,
    /// How it is.
    pub state: State,
    /// How its publisher is connected, such as `rtmp`.
    pub by: String,
    /// When this broadcast began.
    pub since: Time,
    /// Codecs, as RFC 6381 names them; empty while they are not known.
    pub codecs: String,
    /// Width and height in pixels; 0 without video.
    pub size: (u32, u32),
    /// Bits a second, lately.
    pub bit_rate: u64,
    /// Ticks between key frames, lately.
    pub key_distance: u64,
    /// Frames that came.
    pub frames: u64,
    /// Frames that were left out because of their times.
    pub dropped: u64,
    /// Seconds by which the media of the publisher that is heard runs ahead of the clock; less
    /// than 0 when it comes too slowly, which viewers see as stalls.
    pub drift: Option<f64>,
    /// Media time of all that came, in ticks.
    pub duration: u64,
    /// Segments that are in the store, and those that never came there.
    pub stored: u64,
    /// Segments that the replay lacks, because the disk took none.
    pub lost: u64,
    /// Why the disk takes none, if it does not.
    pub fault: Option<String>,
    /// Why the latest publisher was cut off, if it was.
    pub error: Option<String>,
    /// What its publisher sends and is not taken, for people.
    pub left_out: Vec<String>,
    /// Target duration in seconds, once it is known.
    pub target_duration: Option<u64>,
    /// Part target in ticks, once it is known.
    pub part_target: Option<u64>,
    /// Whether parts come steadily enough to be promised, so that low latency is offered.
    pub is_low: bool,
}

impl Stream {
    /// What is known of it.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = self.lock();
        let shown = shown::of_streams(&inner.streams);
        let targets = inner.window.targets;
        Status {
            name: self.name.clone(),
            version: self.key.version,
            state: inner.state,
            by: inner.by.clone(),
            since: self.since,
            codecs: shown.codecs,
            size: shown.size,
            bit_rate: inner.rate.bits,
            key_distance: inner.key_distance,
            frames: inner.frames,
            dropped: inner.packager.dropped(),
            drift: inner.drift(Instant::now()),
            duration: inner.duration,
            stored: inner.stored,
            lost: inner.lost,
            fault: inner.fault.clone(),
            error: inner.error.clone(),
            left_out: inner.left_out.clone(),
            target_duration: targets.map(|(seconds, _)| seconds),
            part_target: targets.map(|(_, part)| part),
            is_low: inner.is_low(),
        }
    }
}
