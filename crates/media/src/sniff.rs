//! Which container the first bytes of a stream belong to.

use crate::frame::Demuxer;
use crate::{Config, Error, Segmenter, cmaf, ts};

/// A container that can be cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// MPEG transport stream, packets of 188 bytes.
    TransportStream,
    /// Fragmented MP4 (CMAF).
    Cmaf,
}

impl Format {
    /// A segmenter for this container.
    #[must_use]
    pub fn segmenter(self, config: Config) -> Box<dyn Segmenter + Send> {
        match self {
            Self::TransportStream => Box::new(ts::Segmenter::new(config)),
            Self::Cmaf => Box::new(cmaf::Segmenter::new(config)),
        }
    }

    /// A demuxer for this container.
    #[must_use]
    pub fn demuxer(self) -> Box<dyn Demuxer + Send> {
        match self {
            Self::TransportStream => Box::new(ts::Demuxer::default()),
            Self::Cmaf => Box::new(cmaf::Demuxer::default()),
        }
    }

    /// The media type of a segment.
    #[must_use]
    pub fn mime_type(self) -> &'static str {
        match self {
            Self::TransportStream => "video/mp2t",
            Self::Cmaf => "video/mp4",
        }
    }
}

/// Bytes at the beginning of a stream that tell its container for certain.
pub const HEAD: usize = 2048;
/// How far from the beginning the first packet of a transport stream may stand: a recording may
/// begin anywhere.
const OFFSET_MAX: usize = 1024;

/// Tells the container from the first bytes of a stream.
///
/// [`HEAD`] bytes are enough for certainty, three packets of 188 where the stream begins with one.
/// A plain MP4 file is told as [`Format::Cmaf`]; the segmenter then says that it is not fragmented.
#[must_use]
pub fn sniff(data: &[u8]) -> Option<Format> {
    if is_transport_stream(data) {
        Some(Format::TransportStream)
    } else if is_mp4(data) {
        Some(Format::Cmaf)
    } else if is_recording(data) {
        Some(Format::TransportStream)
    } else {
        None
    }
}

/// Why a stream that begins with these bytes is none.
#[must_use]
pub fn refusal(data: &[u8]) -> Error {
    let looks = match data {
        [] => return Error::Empty,
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some("Matroska or WebM"),
        [b'F', b'L', b'V', ..] => Some("FLV"),
        [b'R', b'I', b'F', b'F', ..] => Some("AVI or WAV"),
        [b'O', b'g', b'g', b'S', ..] => Some("Ogg"),
        [b'I', b'D', b'3', ..] => Some("MP3"),
        _ if data.starts_with(b"#EXTM3U") => Some("a playlist, whose URL can be given instead"),
        _ if is_of_packets(data, 4, 192) => Some("MPEG-TS in packets of 192 bytes"),
        _ if is_of_packets(data, 0, 204) => Some("MPEG-TS in packets of 204 bytes"),
        _ if data.is_ascii() => Some("text"),
        _ => None,
    };
    Error::Unknown { looks }
}

fn is_transport_stream(data: &[u8]) -> bool {
    // One letter `G` proves nothing, so that up to three packets have to begin with it.
    data.len() >= 188 && data.iter().step_by(188).take(3).all(|byte| *byte == 0x47)
}

/// Whether a transport stream begins further on, or after a damaged packet.
fn is_recording(data: &[u8]) -> bool {
    (1..=OFFSET_MAX).any(|at| is_of_packets(data, at, 188))
}

/// Whether five packets of that length follow each other.
fn is_of_packets(data: &[u8], from: usize, length: usize) -> bool {
    (0..5).all(|no| data.get(from + no * length) == Some(&0x47))
}

fn is_mp4(data: &[u8]) -> bool {
    let Some(([size @ .., a, b, c, d], _)) = data.split_first_chunk::<8>() else {
        return false;
    };
    let size = u32::from_be_bytes(*size);
    // 1 stands for a length of 64 bits behind the type.
    (size >= 8 || size == 1)
        && matches!(
            &[*a, *b, *c, *d],
            b"ftyp" | b"styp" | b"moov" | b"moof" | b"sidx"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_containers() {
        let mut ts = vec![0u8; 188 * 3];
        for at in [0, 188, 376] {
            ts[at] = 0x47;
        }
        assert_eq!(sniff(&ts), Some(Format::TransportStream));
        assert_eq!(sniff(&ts[..188]), Some(Format::TransportStream));
        assert_eq!(sniff(&ts[..100]), None);
        ts[376] = 0;
        assert_eq!(sniff(&ts), None);
        assert_eq!(sniff(b"\0\0\0\x18ftypisom"), Some(Format::Cmaf));
        assert_eq!(sniff(b"\0\0\0\x01moof"), Some(Format::Cmaf));
        assert_eq!(sniff(b"\0\0\0\x02ftyp"), None);
        assert_eq!(sniff(b"RIFF1234WAVE"), None);
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn a_recording_may_begin_anywhere() {
        let mut ts = vec![0u8; 188 * 10];
        for packet in ts.chunks_mut(188) {
            packet[0] = 0x47;
        }
        for skip in [1, 17, 187] {
            assert_eq!(sniff(&ts[skip..]), Some(Format::TransportStream), "{skip}");
        }
        assert_eq!(sniff(&ts[1..900]), None);
        ts[188] = 0;
        assert_eq!(sniff(&ts), Some(Format::TransportStream));
        assert_eq!(sniff(&[0x47; 100]), None);
    }

    #[test]
    fn refusals_say_what_it_looks_like() {
        assert_eq!(refusal(b""), Error::Empty);
        let looks = |data: &[u8]| match refusal(data) {
            Error::Unknown { looks } => looks.unwrap_or("nothing"),
            other => panic!("{other}"),
        };
        assert_eq!(looks(&[0x1a, 0x45, 0xdf, 0xa3, 1]), "Matroska or WebM");
        assert_eq!(looks(b"Dear all,"), "text");
        assert_eq!(looks(&[0xee; 100]), "nothing");
    }

    #[test]
    fn blu_ray_packets_are_not_taken() {
        let mut m2ts = vec![0u8; 192 * 4];
        for packet in m2ts.chunks_mut(192) {
            packet[4] = 0x47;
        }
        assert_eq!(sniff(&m2ts), None);
        m2ts.extend([0, 0, 0, 0, 0x47]);
        let looks = Some("MPEG-TS in packets of 192 bytes");
        assert_eq!(refusal(&m2ts), Error::Unknown { looks });
    }
}
