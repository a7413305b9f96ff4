//! MPEG transport streams (ISO/IEC 13818-1): a segmenter and an inspector.
//!
//! Only the streams of the first program are carried. Its tables are written anew, so that every
//! segment begins with them and their continuity counters run on over the whole output.

mod cutter;
mod demux;
mod inspect;
mod key;
mod mux;
mod packet;
mod segmenter;
mod tables;
mod units;

pub use demux::Demuxer;
pub use inspect::inspect;
pub use mux::Muxer;
pub use segmenter::Segmenter;

use crate::codec::{StreamInfo, audio, h264, hevc, mpeg2};

/// How an elementary stream is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    H264,
    Hevc,
    /// MPEG-1 and MPEG-2 video.
    Mpeg2,
    Adts,
    Latm,
    MpegAudio,
    Ac3,
    Eac3,
    Opus,
    /// Data, subtitles and codecs that are carried but not understood.
    Other,
}

impl Coding {
    fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::Hevc | Self::Mpeg2)
    }

    fn is_audio(self) -> bool {
        !self.is_video() && self != Self::Other
    }

    /// How to read the headers of audio frames, where that is known.
    fn frames(self) -> Option<audio::Header> {
        match self {
            Self::Adts => Some(audio::adts),
            Self::MpegAudio => Some(audio::mpeg),
            Self::Ac3 | Self::Eac3 => Some(audio::ac3),
            _ => None,
        }
    }

    /// Describes a stream from the beginning of its bytes.
    fn describe(self, stream: &[u8]) -> Option<StreamInfo> {
        let found = match self {
            Self::H264 => h264::find(stream),
            Self::Hevc => hevc::find(stream),
            Self::Mpeg2 => mpeg2::find(stream),
            _ => self
                .frames()
                .and_then(|header| header(stream))
                .map(|frame| frame.info()),
        };
        // Headers that are not found or not understood do not make the stream unknown.
        found.or_else(|| self.fallback())
    }

    /// What the tables alone tell.
    fn fallback(self) -> Option<StreamInfo> {
        match self {
            Self::H264 => Some(StreamInfo::video("avc1")),
            Self::Hevc => Some(StreamInfo::video("hvc1")),
            Self::Mpeg2 => Some(StreamInfo::video("mp4v.61")),
            Self::Adts | Self::Latm => Some(StreamInfo::audio("mp4a.40.2")),
            Self::MpegAudio => Some(StreamInfo::audio("mp4a.40.34")),
            Self::Ac3 => Some(StreamInfo::audio("ac-3")),
            Self::Eac3 => Some(StreamInfo::audio("ec-3")),
            Self::Opus => Some(StreamInfo::audio("opus").sound(48_000, 0)),
            Self::Other => None,
        }
    }
}
