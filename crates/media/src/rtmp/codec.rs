//! The codecs that are taken, what their headers become, and names of those that are not.

use bytes::{Buf, Bytes};

use crate::codec::bits::Bits;
use crate::frame::Track;
use crate::{Error, Kind};

/// A codec that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    H264,
    Hevc,
    Av1,
    Vp9,
    Aac,
    Opus,
}

impl Codec {
    pub(super) fn video(name: &[u8; 4]) -> Option<Self> {
        Some(match name {
            b"avc1" => Self::H264,
            b"hvc1" => Self::Hevc,
            b"av01" => Self::Av1,
            b"vp09" => Self::Vp9,
            _ => return None,
        })
    }

    pub(super) fn audio(name: &[u8; 4]) -> Option<Self> {
        Some(match name {
            b"mp4a" => Self::Aac,
            b"Opus" => Self::Opus,
            _ => return None,
        })
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::H264 | Self::Hevc | Self::Av1 | Self::Vp9 => Kind::Video,
            Self::Aac | Self::Opus => Kind::Audio,
        }
    }

    /// The track that a header begins. `size` is used where the header does not tell it.
    pub(super) fn track(self, config: &[u8], size: Option<(u32, u32)>) -> Result<Track, Error> {
        let mut track = match self {
            Self::H264 => Track::h264(config)?,
            Self::Hevc => Track::hevc(config)?,
            Self::Av1 => Track::av1(config)?,
            Self::Vp9 => match config {
                [0 | 1, 0, 0, 0, _, _, _, _, ..] if config.len() >= 12 => Track::vp9(config)?,
                // Some write the record without the version and the flags of its box.
                _ => Track::vp9(&[&[1, 0, 0, 0], config].concat())?,
            },
            Self::Aac => Track::aac(config)?,
            Self::Opus => Track::opus(config)?,
        };
        if let (Kind::Video, None, Some(size)) = (self.kind(), track.info.width, size) {
            resize(&mut track, size);
        }
        Ok(track)
    }

    /// Samples of each frame, in units of the track's time scale; 0 where they differ.
    pub(super) fn samples(self, config: &[u8]) -> u32 {
        match self {
            Self::Aac => aac_samples(config).unwrap_or(0),
            _ => 0,
        }
    }

    /// What of a message's bytes is the frame.
    pub(super) fn frame(self, data: Bytes) -> Bytes {
        match self {
            Self::Av1 => without_delimiter(data),
            _ => data,
        }
    }
}

/// Writes a size into a sample entry that has none.
fn resize(track: &mut Track, size: (u32, u32)) {
    let (Ok(width), Ok(height)) = (u16::try_from(size.0), u16::try_from(size.1)) else {
        return;
    };
    let mut entry = track.entry.to_vec();
    // Behind the box's head, 8 bytes of every entry and 16 of video (ISO/IEC 14496-12 section
    // 12.1.3).
    if let Some(field) = entry.get_mut(32..36) {
        field[..2].copy_from_slice(&width.to_be_bytes());
        field[2..].copy_from_slice(&height.to_be_bytes());
        track.entry = entry.into();
        track.info.width = Some(width.into());
        track.info.height = Some(height.into());
    }
}

/// Samples of an AAC frame at the rate of its core coder, which the track counts in: the bands
/// above that some add double the rate and the samples alike (ISO/IEC 14496-3 section 4.5.2.1).
fn aac_samples(config: &[u8]) -> Option<u32> {
    let mut bits = Bits::new(config);
    let mut object = audio_object(&mut bits)?;
    audio_rate(&mut bits)?;
    // The channels.
    bits.skip(4)?;
    // The bands above come first, and say the core's type behind their own rate.
    if matches!(object, 5 | 29) {
        audio_rate(&mut bits)?;
        object = audio_object(&mut bits)?;
    }
    let short = bits.bit()?;
    Some(match (object, short) {
        (1..=4 | 6 | 7 | 17 | 19..=22, false) => 1024,
        (1..=4 | 6 | 7 | 17 | 19..=22, true) => 960,
        // For little delay.
        (23 | 39, false) => 512,
        (23 | 39, true) => 480,
        _ => return None,
    })
}

fn audio_object(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.bits(5)? {
        31 => Some(32 + bits.bits(6)?),
        object => Some(object),
    }
}

fn audio_rate(bits: &mut Bits<'_>) -> Option<()> {
    match bits.bits(4)? {
        15 => bits.skip(24),
        _ => Some(()),
    }
}

/// Samples of an Opus packet at 48 kHz (RFC 6716 section 3.1); 0 where it is damaged.
pub(super) fn opus_samples(packet: &[u8]) -> u32 {
    let Some(&first) = packet.first() else {
        return 0;
    };
    let config = u32::from(first >> 3);
    // By steps of 2.5 ms, which are 120 samples.
    let steps = match config {
        // Speech: 10, 20, 40 or 60 ms; both: 10 or 20 ms; music: 2.5 to 20 ms.
        0..12 => [4, 8, 16, 24][config as usize % 4],
        12..16 => [4, 8][config as usize % 2],
        _ => 1 << (config % 4),
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1).map_or(0, |count| u32::from(count & 63)),
    };
    let steps = steps * frames;
    // A packet has 120 ms at most.
    if steps > 48 { 0 } else { steps * 120 }
}

/// Leaves out temporal delimiters at the start, which are not kept in MP4 (AV1 in ISOBMFF
/// section 2.4).
fn without_delimiter(mut data: Bytes) -> Bytes {
    // A unit of type 2, with an extension or not, that says its length: 0.
    loop {
        let len = match *data {
            [head, 0, ..] if head & 0x7e == 0x12 => 2,
            [head, _, 0, ..] if head & 0x7e == 0x16 => 3,
            _ => return data,
        };
        data.advance(len);
    }
}

/// A codec's name of four letters, as far as it can be printed.
pub(super) fn fourcc(name: &[u8; 4]) -> String {
    let known = match name {
        b".mp3" => "MP3",
        b"fLaC" => "FLAC",
        b"ac-3" => "AC-3",
        b"ec-3" => "E-AC-3",
        b"vp08" => "VP8",
        b"vvc1" => "VVC",
        _ => {
            let letter = |byte: &u8| match byte.is_ascii_graphic() {
                true => char::from(*byte),
                false => '?',
            };
            return name.iter().map(letter).collect();
        }
    };
    known.to_owned()
}

/// A video codec that has a number in FLV.
pub(super) fn legacy_video(number: u8) -> String {
    match number {
        2 => "Sorenson H.263".into(),
        3 | 6 => "Screen Video".into(),
        4 | 5 => "VP6".into(),
        _ => format!("number {number}"),
    }
}

/// An audio codec that has a number in FLV.
pub(super) fn legacy_audio(number: u8) -> String {
    match number {
        0 | 3 => "PCM".into(),
        1 => "ADPCM".into(),
        2 | 14 => "MP3".into(),
        4..=6 => "Nellymoser".into(),
        7 | 8 => "G.711".into(),
        11 => "Speex".into(),
        _ => format!("number {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aac_frames_have_the_samples_of_the_core() {
        // LC 44.1 kHz stereo; the same with frames of 960.
        assert_eq!(aac_samples(&[0x12, 0x10]), Some(1024));
        assert_eq!(aac_samples(&[0x12, 0x14]), Some(960));
        // Bands above: 24 kHz coded, 48 kHz heard.
        let he = [0x2b, 0x11, 0x88, 0x00];
        assert_eq!(aac_samples(&he), Some(1024));
        assert_eq!(Codec::Aac.track(&he, None).unwrap().timescale, 24_000);
        // A type that this does not know.
        assert_eq!(aac_samples(&[0xf9, 0x46, 0x40, 0]), None);
        assert_eq!(aac_samples(&[]), None);
    }

    #[test]
    fn opus_packets_say_how_long_they_are() {
        // 20 ms of music, alone, twice, and three times.
        assert_eq!(opus_samples(&[0xfc]), 960);
        assert_eq!(opus_samples(&[0xfd]), 1920);
        assert_eq!(opus_samples(&[0xff, 3]), 2880);
        // 2.5 ms of music, 60 ms of speech, 10 ms of both.
        assert_eq!(opus_samples(&[0xe0]), 120);
        assert_eq!(opus_samples(&[0x18]), 2880);
        assert_eq!(opus_samples(&[0x60]), 480);
        assert_eq!(opus_samples(&[0x1b, 63]), 0);
        assert_eq!(opus_samples(&[]), 0);
    }

    #[test]
    fn a_size_is_taken_from_the_metadata_where_the_codec_does_not_say_it() {
        let record = [0, 10, 0x82, 1, 1, 1, 0, 0];
        let boxed = [&[1, 0, 0, 0], &record[..]].concat();
        let track = Codec::Vp9.track(&record, Some((640, 360))).unwrap();
        assert_eq!(track.info.codec, "vp09.00.10.08");
        assert_eq!(
            (track.info.width, track.info.height),
            (Some(640), Some(360))
        );
        assert_eq!(track.entry[32..36], [2, 0x80, 1, 0x68]);
        assert_eq!(Codec::Vp9.track(&boxed, Some((640, 360))).unwrap(), track);
        let track = Codec::Vp9.track(&boxed, None).unwrap();
        assert_eq!(
            (track.info.width, &track.entry[32..36]),
            (None, &[0; 4][..])
        );
    }

    #[test]
    fn temporal_delimiters_are_left_out() {
        let frame = |bytes: &'static [u8]| Codec::Av1.frame(Bytes::from_static(bytes));
        assert_eq!(frame(&[0x12, 0, 0x0a, 1, 2]), &[0x0a, 1, 2][..]);
        assert_eq!(frame(&[0x16, 8, 0, 0x32, 1]), &[0x32, 1][..]);
        assert_eq!(frame(&[0x32, 0, 1]), &[0x32, 0, 1][..]);
        assert_eq!(frame(&[0x12]), &[0x12][..]);
    }
}
