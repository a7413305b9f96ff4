//! What every segmenter shares: its limits, what it gives out, and what can be wrong.

use bytes::Bytes;

/// Ticks of one second. All times and durations of this crate are counted in ticks.
pub const TICKS_PER_SECOND: u64 = 90_000;

/// How much earlier than the target a cut may come, in ticks: key frames at a nominal distance
/// of the target are often a little early after rounding.
const TOLERANCE: u64 = TICKS_PER_SECOND / 20;

/// How long and how large segments become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// A segment is cut at the first key frame that is this many ticks (less 50 ms) after the
    /// segment's start. Default: 6 s.
    pub target: u64,
    /// The most ticks that a segment may last. A source that has no key frame for longer is
    /// refused. Default: 30 s.
    pub max_duration: u64,
    /// The most bytes that a segment may hold; it also bounds the segmenter's memory.
    /// Default: 64 MiB.
    pub max_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            target: 6 * TICKS_PER_SECOND,
            max_duration: 30 * TICKS_PER_SECOND,
            max_bytes: 64 << 20,
        }
    }
}

impl Config {
    /// True when a segment that has lasted `elapsed` ticks ends at the next key frame.
    pub(crate) fn is_due(&self, elapsed: u64) -> bool {
        elapsed >= self.target.saturating_sub(TOLERANCE)
    }
}

/// What a segmenter gives out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The init segment that all following segments need (CMAF only).
    Init(Bytes),
    /// The next segment.
    Segment(Segment),
}

/// A few seconds of a rendition, decodable without the segments before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Ticks from the first segment's start: the sum of the durations of all segments before.
    pub start: u64,
    /// Ticks that this segment lasts.
    pub duration: u64,
    /// True when time stamps or codecs do not continue those of the segment before.
    pub discontinuity: bool,
    /// The segment's bytes.
    pub data: Bytes,
}

/// Cuts a stream of bytes into segments.
///
/// Call `push` with bytes as they come, `pop` until it gives `None` after each `push`, and
/// `finish` at the end of the stream, followed by `pop` again. After an error the segmenter
/// refuses more input with the same error; what was cut before can still be popped.
pub trait Segmenter {
    /// Takes the next bytes of the stream, in pieces of any size.
    ///
    /// # Errors
    /// See [`Error`].
    fn push(&mut self, data: &[u8]) -> Result<(), Error>;

    /// The next init segment or segment, in order.
    fn pop(&mut self) -> Option<Event>;

    /// Ends the stream: what is held back becomes the last segment.
    ///
    /// # Errors
    /// See [`Error`]; also when no segment could be made from the whole stream.
    fn finish(&mut self) -> Result<(), Error>;
}

/// Why input is refused. Times are in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No key frame came for too long.
    #[error(
        "no key frame for {:.1} s at {:.1} s of the stream (at most {:.1} s): encode with a key \
         frame every few seconds, or transcode", seconds(*gap), seconds(*at), seconds(*max)
    )]
    KeyFrameGap {
        /// Where the gap was noticed, from the first segment's start.
        at: u64,
        /// How long there has been no key frame.
        gap: u64,
        /// The limit.
        max: u64,
    },
    /// A segment grew over its limit.
    #[error(
        "a segment grew over {max} bytes before it could be cut: lower the bit rate, encode with \
         more frequent key frames, or raise the limit"
    )]
    SegmentTooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// The bytes are no MPEG transport stream.
    #[error(
        "no MPEG transport stream packets of 188 bytes were found: send MPEG-TS or fragmented MP4, \
         or convert the source with ffmpeg"
    )]
    NotTransportStream,
    /// A codec that a transport stream has no place for.
    #[error("{0} has no place in an MPEG transport stream: take fragmented MP4 (--format cmaf)")]
    NotForTransportStream(&'static str),
    /// Nothing came.
    #[error("the input is empty: nothing came before its end")]
    Empty,
    /// No container that is known.
    #[error(
        "the input is neither MPEG-TS nor fragmented MP4{}: convert the source with ffmpeg",
        looks_like(*looks)
    )]
    Unknown {
        /// What it looks like, where that is known.
        looks: Option<&'static str>,
    },
    /// No program tables.
    #[error(
        "the transport stream has no usable program table (PAT and PMT): remux the source with \
         ffmpeg -c copy -f mpegts"
    )]
    NoProgram,
    /// No stream of a known codec.
    #[error(
        "no video or audio stream of a known codec was found: transcode the source to H.264 and AAC"
    )]
    NoMedia,
    /// Streams, but no key frame with a time stamp.
    #[error(
        "no key frame with a time stamp was found: check that the source is complete, or transcode"
    )]
    NoKeyFrame,
    /// A header, and nothing behind it.
    #[error("the input has no frames: it ends behind its header, or within its first fragment")]
    NoFrames,
    /// The stream is scrambled.
    #[error("the stream is encrypted by its sender: send it without conditional access or DRM")]
    Encrypted,
    /// The bytes are no MP4 file.
    #[error("the input does not begin with MP4 boxes: send fragmented MP4 or MPEG-TS")]
    NotMp4,
    /// An MP4 file that is not fragmented.
    #[error(
        "the MP4 file is not fragmented: remux it with ffmpeg -c copy -movflags \
         +empty_moov+default_base_moof+frag_keyframe"
    )]
    NotFragmented,
    /// Fragments address their data from the start of the file.
    #[error(
        "the MP4 fragments use absolute file offsets: remux with ffmpeg -c copy -movflags \
         +empty_moov+default_base_moof+frag_keyframe"
    )]
    AbsoluteOffsets,
    /// A fragment without its init segment.
    #[error("the fragment has no init segment (moov): give the init segment with it")]
    NoInit,
    /// A structure of the container is broken.
    #[error("the input is damaged ({what}): send the source again or remux it with ffmpeg")]
    Malformed {
        /// What is broken.
        what: &'static str,
    },
    /// More of something than this crate accepts.
    #[error("the input holds too much ({what}): remux it with ffmpeg and only the needed streams")]
    LimitReached {
        /// What there is too much of.
        what: &'static str,
    },
    /// `push` after `finish`.
    #[error("the stream was finished already: start another segmenter for more input")]
    Finished,
}

impl Error {
    pub(crate) const fn malformed(what: &'static str) -> Self {
        Self::Malformed { what }
    }
}

fn looks_like(what: Option<&str>) -> String {
    what.map_or_else(String::new, |what| format!("; it looks like {what}"))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_due_up_to_50_ms_early() {
        let config = Config::default();
        assert!(!config.is_due(6 * TICKS_PER_SECOND - 4_501));
        assert!(config.is_due(6 * TICKS_PER_SECOND - 4_500));
        assert!(
            Config {
                target: 10,
                ..config
            }
            .is_due(0)
        );
    }

    #[test]
    fn errors_are_one_sentence_with_advice() {
        let gap = Error::KeyFrameGap {
            at: 900_000,
            gap: 2_790_000,
            max: 2_700_000,
        };
        assert_eq!(
            gap.to_string(),
            "no key frame for 31.0 s at 10.0 s of the stream (at most 30.0 s): encode with a key \
             frame every few seconds, or transcode"
        );
    }
}
