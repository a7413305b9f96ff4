//! Which container the first bytes of a stream belong to.

use crate::frame::Demuxer;
use crate::{Config, Segmenter, cmaf, ts};

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

/// Tells the container from the first bytes of a stream.
///
/// 564 bytes (three packets) are enough for certainty. A plain MP4 file is told as
/// [`Format::Cmaf`]; the segmenter then says that it is not fragmented.
#[must_use]
pub fn sniff(data: &[u8]) -> Option<Format> {
    if is_transport_stream(data) {
        Some(Format::TransportStream)
    } else if is_mp4(data) {
        Some(Format::Cmaf)
    } else {
        None
    }
}

fn is_transport_stream(data: &[u8]) -> bool {
    // One letter `G` proves nothing, so that up to three packets have to begin with it.
    data.len() >= 188 && data.iter().step_by(188).take(3).all(|byte| *byte == 0x47)
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
    fn blu_ray_packets_are_not_taken() {
        let mut m2ts = vec![0u8; 192 * 4];
        for packet in m2ts.chunks_mut(192) {
            packet[4] = 0x47;
        }
        assert_eq!(sniff(&m2ts), None);
    }
}
