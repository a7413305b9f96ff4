//! Frames of elementary streams: what a live source sends, before it is packed.
//!
//! A [`Demuxer`] takes the bytes of a container or a protocol and gives [`Item`]s: tracks as they
//! become known, and their frames in the order in which they came. Nothing is decoded.

use bytes::Bytes;

use crate::cmaf::sample;
use crate::{Error, Kind, StreamInfo};

/// The most tracks of a source.
pub const TRACKS_MAX: usize = 8;

/// What a source says of one elementary stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    /// Codec, size, rate and channels, as far as the headers tell.
    pub info: StreamInfo,
    /// The sample entry: a box of an `stsd` (ISO/IEC 14496-12 section 8.5.2), whole. Two tracks
    /// with the same entry can be joined without a discontinuity.
    pub entry: Bytes,
    /// Units of a second in which this track is packed: the sample rate for audio, so that
    /// lengths of frames are whole numbers.
    pub timescale: u32,
}

impl Track {
    /// H.264 by its `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 5.3.3.1). Frames
    /// have units with their lengths before them, of as many bytes as the record says.
    ///
    /// # Errors
    /// When the record is damaged or has no sequence parameter set.
    pub fn h264(config: &[u8]) -> Result<Self, Error> {
        sample::video(b"avc1", b"avcC", config)
    }

    /// HEVC by its `HEVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 8.3.3.1).
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn hevc(config: &[u8]) -> Result<Self, Error> {
        sample::video(b"hvc1", b"hvcC", config)
    }

    /// AV1 by its `AV1CodecConfigurationRecord`. Frames are temporal units of open bitstream
    /// units, without temporal delimiters.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn av1(config: &[u8]) -> Result<Self, Error> {
        sample::video(b"av01", b"av1C", config)
    }

    /// VP9 by its `VPCodecConfigurationRecord`, with version and flags before it.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn vp9(config: &[u8]) -> Result<Self, Error> {
        sample::video(b"vp09", b"vpcC", config)
    }

    /// AAC by its `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1). Frames are raw, without
    /// ADTS headers.
    ///
    /// # Errors
    /// When the description is damaged.
    pub fn aac(config: &[u8]) -> Result<Self, Error> {
        sample::aac(config)
    }

    /// Opus by its identification header (RFC 7845 section 5.1: `OpusHead`, with or without the
    /// eight magic bytes).
    ///
    /// # Errors
    /// When the header is damaged.
    pub fn opus(head: &[u8]) -> Result<Self, Error> {
        sample::opus(head)
    }

    /// Video or audio.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.info.kind
    }
}

/// One access unit: a picture, or the audio samples that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of its track.
    pub track: usize,
    /// Decode time in ticks of 90 kHz, unwrapped; a source that jumps shows its jumps here.
    pub dts: i64,
    /// Presentation time in ticks of 90 kHz, in the line of `dts`.
    pub pts: i64,
    /// Samples that it lasts, in units of its track's time scale, where its codec says so (audio);
    /// 0 where only the next frame shows it.
    pub samples: u32,
    /// Whether decoding can begin here. Always true for audio.
    pub key: bool,
    /// Its bytes, as an MP4 sample has them.
    pub data: Bytes,
}

/// What a demuxer gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// How many tracks the source says that it has; they follow, or some of them.
    Expected(usize),
    /// A track became known, or is coded in another way from here on. Its number is below
    /// [`TRACKS_MAX`]; it comes before the track's first frame.
    Track(usize, Track),
    /// A stream of the source that is not taken: its codec, for people.
    LeftOut(String),
    /// The next frame.
    Frame(Frame),
}

/// Takes a source apart.
///
/// Call `push` with bytes as they come, and `pop` until it gives `None` after each `push`. After an
/// error no more input is taken; what was found before can still be popped.
pub trait Demuxer {
    /// Takes the next bytes, in pieces of any size.
    ///
    /// # Errors
    /// See [`Error`].
    fn push(&mut self, data: &[u8]) -> Result<(), Error>;

    /// The next item, in order.
    fn pop(&mut self) -> Option<Item>;

    /// Ends the source: what is held back is given by `pop`.
    ///
    /// # Errors
    /// See [`Error`]; also when no track was found in the whole source.
    fn finish(&mut self) -> Result<(), Error>;
}
