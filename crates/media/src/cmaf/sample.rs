//! Sample entries, written: how a track is described in an init segment.

use bytes::Bytes;

use super::entry;
use super::write::Boxes;
use crate::frame::Track;
use crate::{Error, Kind, StreamInfo};

/// Units of a second for video: all usual frame rates are whole numbers of them.
const VIDEO_TIMESCALE: u32 = 90_000;
/// Opus always counts in this rate (RFC 7845 section 4).
const OPUS_RATE: u32 = 48_000;

/// A track of video: its entry around the codec's own configuration box.
pub(crate) fn video(name: &[u8; 4], kind: &[u8; 4], config: &[u8]) -> Result<Track, Error> {
    if !is_whole(kind, config) {
        return Err(Error::malformed("a codec's configuration is damaged"));
    }
    let entry = |size: (u16, u16)| {
        let mut out = Boxes::default();
        out.nest(name, |out| {
            // Reserved, and the first data reference.
            out.put(&[0, 0, 0, 0, 0, 0, 0, 1]);
            out.put(&[0; 16]);
            out.u16(size.0);
            out.u16(size.1);
            // 72 dots an inch both ways, one picture a sample, no name, 24 bits of colour
            // (ISO/IEC 14496-12 section 12.1.3.2).
            out.u32(0x0048_0000);
            out.u32(0x0048_0000);
            out.u32(0);
            out.u16(1);
            out.put(&[0; 32]);
            out.u16(0x18);
            out.u16(0xffff);
            out.nest(kind, |out| out.put(config));
        });
        out.take()
    };
    // Read back by the reader of others' entries, so that both agree. The size that the parameter
    // set says comes out of it.
    let info = info(&entry((0, 0)), Kind::Video)?;
    let side = |side: Option<u32>| side.and_then(|side| u16::try_from(side).ok()).unwrap_or(0);
    let entry = entry((side(info.width), side(info.height)));
    Ok(Track {
        info,
        entry: entry.into(),
        timescale: VIDEO_TIMESCALE,
    })
}

/// Whether a configuration has its version and its fixed fields, and H.264 its first sequence
/// parameter set: the reader of others' entries is content with less.
fn is_whole(kind: &[u8; 4], config: &[u8]) -> bool {
    match (kind, config) {
        (b"avcC", [1, _, _, _, _, count, high, low, rest @ ..]) => {
            let len = usize::from(*high) << 8 | usize::from(*low);
            count & 31 > 0 && (4..=rest.len()).contains(&len)
        }
        // Old writers say version 0.
        (b"hvcC", [0 | 1, ..]) => config.len() >= 23,
        (b"av1C", [0x81, ..]) => config.len() >= 4,
        (b"vpcC", [0 | 1, 0, 0, 0, ..]) => config.len() >= 12,
        _ => false,
    }
}

/// AAC: an `mp4a` entry with its descriptors (ISO/IEC 14496-14 section 5.6).
pub(crate) fn aac(config: &[u8]) -> Result<Track, Error> {
    // Real ones have 2 to some dozen bytes; the lengths below are written with one byte.
    if config.len() < 2 || config.len() > 64 {
        return Err(Error::malformed(
            "an AAC configuration has no usable length",
        ));
    }
    let (_, rate, channels) =
        entry::audio_config(config).ok_or(Error::malformed("an AAC configuration is damaged"))?;
    let len = config.len() as u8;
    let mut out = Boxes::default();
    sound(&mut out, b"mp4a", channels, rate, |out| {
        out.full(b"esds", 0, 0, |out| {
            out.put(&[3, 23 + len, 0, 0, 0, 4, 15 + len, 0x40, 0x15]);
            // Buffer size and bit rates, which nobody reads.
            out.put(&[0; 11]);
            out.put(&[5, len]);
            out.put(config);
            out.put(&[6, 1, 2]);
        });
    });
    track(out.take(), rate)
}

/// Opus: an `Opus` entry with a `dOps` box.
pub(crate) fn opus(head: &[u8]) -> Result<Track, Error> {
    let head = head.strip_prefix(b"OpusHead").unwrap_or(head);
    let [_, channels, skip @ ..] = head else {
        return Err(Error::malformed("an Opus header is too short"));
    };
    // Little-endian in the header, big-endian in the box (opus-in-isobmff section 4.3.2).
    let [s0, s1, r0, r1, r2, r3, g0, g1, family, rest @ ..] = skip else {
        return Err(Error::malformed("an Opus header is too short"));
    };
    let mapping = match family {
        0 => &[],
        _ => rest
            .get(..2 + usize::from(*channels))
            .ok_or(Error::malformed("an Opus header is too short"))?,
    };
    let mut out = Boxes::default();
    sound(&mut out, b"Opus", (*channels).into(), OPUS_RATE, |out| {
        out.nest(b"dOps", |out| {
            out.put(&[
                0, *channels, *s1, *s0, *r3, *r2, *r1, *r0, *g1, *g0, *family,
            ]);
            out.put(mapping);
        });
    });
    track(out.take(), OPUS_RATE)
}

fn sound(
    out: &mut Boxes,
    name: &[u8; 4],
    channels: u32,
    rate: u32,
    config: impl FnOnce(&mut Boxes),
) {
    out.nest(name, |out| {
        out.put(&[0, 0, 0, 0, 0, 0, 0, 1]);
        out.put(&[0; 8]);
        out.u16(u16::try_from(channels).unwrap_or(2));
        out.u16(16);
        out.u32(0);
        // 16.16 bits: rates above 65,535 do not fit, and the configuration says them.
        out.u32(u16::try_from(rate).map_or(0, u32::from) << 16);
        config(out);
    });
}

fn track(entry: Vec<u8>, rate: u32) -> Result<Track, Error> {
    if rate == 0 {
        return Err(Error::malformed("an audio track's sample rate is zero"));
    }
    let info = info(&entry, Kind::Audio)?;
    Ok(Track {
        info,
        entry: Bytes::from(entry),
        timescale: rate,
    })
}

/// Describes an entry as the reader of init segments does.
fn info(entry: &[u8], kind: Kind) -> Result<StreamInfo, Error> {
    let table = [&[0; 8][..], entry].concat();
    entry::describe(&table, kind)?.ok_or(Error::malformed("a codec's configuration is damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_its_configuration_says() {
        let track = aac(&[0x12, 0x10]).unwrap();
        assert_eq!(track.info.codec, "mp4a.40.2");
        assert_eq!((track.timescale, track.info.channels), (44_100, Some(2)));
        let track = opus(b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0").unwrap();
        assert_eq!(track.info.codec, "opus");
        assert_eq!((track.timescale, track.info.channels), (48_000, Some(2)));
        let sps = [
            0x67, 0x64, 0, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0, 0, 3, 0,
            4, 0, 0, 3, 0, 0xc8, 0x3c, 0x60, 0xc6, 0x58,
        ];
        let mut config = vec![1, 0x64, 0, 0x28, 0xff, 0xe1, 0, sps.len() as u8];
        config.extend(sps);
        config.extend([1, 0, 2, 0x68, 0xee]);
        let track = Track::h264(&config).unwrap();
        assert_eq!(track.info.codec, "avc1.640028");
        assert_eq!(
            (track.info.width, track.info.height),
            (Some(1920), Some(1080))
        );
        // The picture's size stands in the entry, too.
        assert_eq!(track.entry[32..36], [7, 0x80, 4, 0x38]);
    }

    #[test]
    fn damaged_configurations_are_refused() {
        for bad in [
            Track::h264(&[]),
            Track::h264(&[1, 0x64, 0, 0x28, 0xff, 0xe0, 0]),
            Track::h264(&[1, 0x64, 0, 0x28, 0xff, 0xe1, 0, 9, 0x67, 0x64, 0, 0x28]),
            Track::hevc(&[1; 22]),
            Track::av1(&[0x81, 4, 0xc]),
            Track::av1(&[1, 4, 0xc, 0]),
            Track::vp9(&[1, 0, 0, 0, 0, 10, 0x82]),
        ] {
            assert!(bad.is_err(), "{bad:?}");
        }
        assert!(aac(&[]).is_err());
        assert!(aac(&[0xff; 65]).is_err());
        assert!(opus(b"OpusHead").is_err());
        assert!(opus(&[1, 200, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]).is_err());
    }
}
