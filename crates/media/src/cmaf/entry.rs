//! Sample entries: what a track of an init segment is coded with.

use super::boxes::{self, Children, Reader};
use crate::codec::{StreamInfo, audio, h264, hevc};
use crate::{Error, Kind};

/// Describes a track by its first sample entry.
pub(super) fn describe(stsd: &[u8], kind: Kind) -> Result<Option<StreamInfo>, Error> {
    let mut reader = Reader::new(stsd);
    // Version, flags and the number of entries.
    reader.skip(8)?;
    let Some(entry) = Children::of(reader.rest()).next() else {
        return Ok(None);
    };
    let (name, body) = entry?;
    match kind {
        Kind::Video => video(&name, body).map(Some),
        Kind::Audio => sound(&name, body).map(Some),
    }
}

/// The first sample entry, whole; empty when there is none.
pub(super) fn first(stsd: &[u8]) -> &[u8] {
    let all = stsd.get(8..).unwrap_or_default();
    let size = all
        .first_chunk::<4>()
        .map_or(0, |size| u32::from_be_bytes(*size));
    all.get(..size as usize).unwrap_or_default()
}

fn video(name: &[u8; 4], body: &[u8]) -> Result<StreamInfo, Error> {
    let mut reader = Reader::new(body);
    // The fixed part has 78 bytes, with the size of the picture after 24 (ISO/IEC 14496-12 section
    // 12.1.3).
    reader.skip(24)?;
    let (width, height) = (reader.u16()?, reader.u16()?);
    reader.skip(50)?;
    let parts = reader.rest();
    let info = match name {
        b"avc1" | b"avc3" => boxes::find(parts, b"avcC")?.and_then(avc),
        b"hvc1" | b"hev1" => boxes::find(parts, b"hvcC")?.and_then(|body| hevc(name, body)),
        b"vp08" | b"vp09" => boxes::find(parts, b"vpcC")?.and_then(|body| vpx(name, body)),
        b"av01" => boxes::find(parts, b"av1C")?.and_then(av1),
        _ => None,
    };
    let info = info.unwrap_or_else(|| StreamInfo::video(fourcc(name)));
    // The parameter set says the size after cropping; the entry is for codecs that were not read.
    Ok(match (info.width, width) {
        (Some(_), _) | (None, 0) => info,
        _ => info.size(width.into(), height.into()),
    })
}

fn fourcc(name: &[u8; 4]) -> String {
    name.iter()
        // It becomes part of a quoted string in a playlist.
        .filter(|byte| byte.is_ascii_graphic() && **byte != b'"')
        .map(|b| *b as char)
        .collect()
}

fn avc(body: &[u8]) -> Option<StreamInfo> {
    let [_, profile, constraints, level, _, count, rest @ ..] = body else {
        return None;
    };
    let set = match (count & 31, rest) {
        (1.., [high, low, rest @ ..]) => rest.get(..usize::from(*high) << 8 | usize::from(*low)),
        _ => None,
    };
    let plain = || StreamInfo::video(h264::codec(*profile, *constraints, *level));
    Some(set.and_then(h264::parse).unwrap_or_else(plain))
}

fn hevc(name: &[u8; 4], body: &[u8]) -> Option<StreamInfo> {
    let ptl = body.get(1..)?.first_chunk::<12>()?;
    let mut info = hevc_set(body).unwrap_or_else(|| StreamInfo::video(""));
    // The name tells where the parameter sets are (`hev1`: also in the stream), which players mind.
    info.codec = hevc::codec(ptl).replacen("hvc1", &fourcc(name), 1);
    Some(info)
}

/// The sequence parameter set in an HEVC configuration.
fn hevc_set(body: &[u8]) -> Option<StreamInfo> {
    // Arrays of units by kind stand behind 22 fixed bytes; 33 is a sequence parameter set.
    let mut reader = Reader::new(body.get(22..)?);
    for _ in 0..reader.u8().ok()? {
        let kind = reader.u8().ok()? & 0x3f;
        for _ in 0..reader.u16().ok()? {
            let len = usize::from(reader.u16().ok()?);
            let unit = reader.rest().get(..len)?;
            if kind == 33 {
                return hevc::parse(unit);
            }
            reader.skip(len).ok()?;
        }
    }
    None
}

fn vpx(name: &[u8; 4], body: &[u8]) -> Option<StreamInfo> {
    let [_, _, _, _, profile, level, depth, ..] = *body else {
        return None;
    };
    let name = fourcc(name);
    Some(StreamInfo::video(format!(
        "{name}.{profile:02}.{level:02}.{:02}",
        depth >> 4
    )))
}

fn av1(body: &[u8]) -> Option<StreamInfo> {
    let [_, profile, depth, ..] = *body else {
        return None;
    };
    let tier = if depth & 0x80 == 0 { 'M' } else { 'H' };
    let bits = match (depth & 0x40, depth & 0x20) {
        (0, _) => 8,
        (_, 0) => 10,
        _ => 12,
    };
    let (profile, level) = (profile >> 5, profile & 31);
    Some(StreamInfo::video(format!(
        "av01.{profile}.{level:02}{tier}.{bits:02}"
    )))
}

fn sound(name: &[u8; 4], body: &[u8]) -> Result<StreamInfo, Error> {
    let mut reader = Reader::new(body);
    reader.skip(8)?;
    let version = reader.u16()?;
    reader.skip(6)?;
    let channels = u32::from(reader.u16()?);
    reader.skip(6)?;
    let rate = reader.u32()? >> 16;
    // QuickTime's later versions of the entry are longer.
    match version {
        1 => reader.skip(16)?,
        2 => reader.skip(36)?,
        _ => {}
    }
    let parts = reader.rest();
    let info = |codec: &str| StreamInfo::audio(codec).sound(rate, channels);
    Ok(match name {
        b"mp4a" => boxes::find(parts, b"esds")?
            .and_then(|body| esds(body, rate, channels))
            .unwrap_or_else(|| info("mp4a.40.2")),
        b"Opus" => {
            let found = boxes::find(parts, b"dOps")?.and_then(|body| body.get(1).copied());
            StreamInfo::audio("opus").sound(48_000, found.map_or(channels, u32::from))
        }
        b".mp3" => info("mp4a.40.34"),
        b"fLaC" => info("flac"),
        _ => info(&fourcc(name)),
    })
}

/// The AudioSpecificConfig of an `mp4a` entry, whole.
pub(super) fn specific(entry: &[u8]) -> Option<&[u8]> {
    let (_, body) = Children::of(entry).next()?.ok()?;
    let mut reader = Reader::new(body);
    reader.skip(8).ok()?;
    let version = reader.u16().ok()?;
    reader.skip(18).ok()?;
    match version {
        1 => reader.skip(16).ok()?,
        2 => reader.skip(36).ok()?,
        _ => {}
    }
    let config = decoder(boxes::find(reader.rest(), b"esds").ok()??)?;
    // MPEG-4 audio and the AAC of MPEG-2.
    if !matches!(config.first()?, 0x40 | 0x66..=0x68) {
        return None;
    }
    descriptor(config.get(13..)?, 5)
}

/// The decoder's configuration in the descriptors of an MPEG-4 audio track.
fn decoder(body: &[u8]) -> Option<&[u8]> {
    let stream = descriptor(body.get(4..)?, 3)?;
    let flags = *stream.get(2)?;
    let mut at = 3;
    at += if flags & 0x80 != 0 { 2 } else { 0 };
    if flags & 0x40 != 0 {
        at += 1 + usize::from(*stream.get(at)?);
    }
    at += if flags & 0x20 != 0 { 2 } else { 0 };
    descriptor(stream.get(at..)?, 4)
}

/// Reads the descriptors of an MPEG-4 audio track.
fn esds(body: &[u8], rate: u32, channels: u32) -> Option<StreamInfo> {
    let config = decoder(body)?;
    let object = *config.first()?;
    let info = |codec: String| StreamInfo::audio(codec).sound(rate, channels);
    match object {
        0x40 => {}
        0x69 | 0x6b => return Some(info("mp4a.40.34".into())),
        _ => return Some(info(format!("mp4a.{object:02X}"))),
    }
    // A description without it is of AAC-LC, by far the most common.
    let specific = config
        .get(13..)
        .and_then(|rest| descriptor(rest, 5))
        .unwrap_or_default();
    let (kind, found, count) = audio_config(specific).unwrap_or((2, rate, channels));
    Some(StreamInfo::audio(format!("mp4a.40.{kind}")).sound(found, count))
}

/// Object type, sample rate and channels of an AudioSpecificConfig.
pub(super) fn audio_config(bytes: &[u8]) -> Option<(u32, u32, u32)> {
    let mut bits = crate::codec::bits::Bits::new(bytes);
    let mut kind = bits.bits(5)?;
    // Kinds from 32 on are written with 6 more bits.
    if kind == 31 {
        kind = 32 + bits.bits(6)?;
    }
    let rate = match bits.bits(4)? {
        15 => bits.bits(24)?,
        index => *audio::AAC_RATES.get(index as usize)?,
    };
    let channels = match bits.bits(4)? {
        // 7 stands for 7.1.
        7 => 8,
        channels => channels,
    };
    Some((kind, rate, channels))
}

/// The body of the descriptor that `bytes` begin with, if it has this tag.
fn descriptor(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (found, mut rest) = bytes.split_first()?;
    let mut len = 0usize;
    // A length has at most four bytes of 7 bits (ISO/IEC 14496-1 section 8.3.3).
    for _ in 0..4 {
        let (byte, after) = rest.split_first()?;
        len = len << 7 | usize::from(byte & 0x7f);
        rest = after;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if *found == tag {
        // What is there is read, also where the length says more.
        rest.get(..len.min(rest.len()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_codecs() {
        assert_eq!(
            vpx(b"vp09", &[1, 0, 0, 0, 0, 10, 0x82]).unwrap().codec,
            "vp09.00.10.08"
        );
        assert_eq!(av1(&[0x81, 0x04, 0x0c, 0]).unwrap().codec, "av01.0.04M.08");
        assert_eq!(av1(&[0x81, 0x2d, 0xec, 0]).unwrap().codec, "av01.1.13H.12");
        assert_eq!(
            avc(&[1, 0x64, 0, 0x1f, 0xff, 0xe0]).unwrap().codec,
            "avc1.64001f"
        );
    }

    #[test]
    fn reads_audio_descriptors() {
        let body = [
            0, 0, 0, 0, 3, 0x80, 0x80, 0x80, 0x22, 0, 1, 0, 4, 0x80, 0x80, 0x80, 0x14, 0x40, 0x15,
            0, 0, 0, 0, 1, 0xf4, 0, 0, 1, 0xf4, 0, 5, 0x80, 0x80, 0x80, 2, 0x12, 0x10, 6, 1, 2,
        ];
        let info = esds(&body, 1, 1).unwrap();
        assert_eq!(info.codec, "mp4a.40.2");
        assert_eq!((info.sample_rate, info.channels), (Some(44100), Some(2)));
        assert_eq!(esds(&body[..9], 1, 1), None);
    }
}
