//! What a sample entry says that other containers need, too.

use bytes::Bytes;

use super::boxes::{self, Children, Reader};
use super::entry;

/// The configuration of a codec that an MPEG transport stream has a place for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Configuration {
    /// Bytes of the lengths before units, and the parameter sets in their order.
    H264 { length: usize, sets: Vec<Bytes> },
    /// The same.
    Hevc { length: usize, sets: Vec<Bytes> },
    /// Object type 1 to 4, index of the sample rate, and configuration of the channels, as an ADTS
    /// header has them.
    Aac { kind: u8, rate: u8, channels: u8 },
}

impl Configuration {
    /// Of a sample entry, whole. `None` for other codecs, and for what is damaged.
    pub(crate) fn of(sample_entry: &[u8]) -> Option<Self> {
        let (name, body) = Children::of(sample_entry).next()?.ok()?;
        match &name {
            b"avc1" | b"avc3" => avc(boxes::find(body.get(78..)?, b"avcC").ok()??),
            b"hvc1" | b"hev1" => hevc(boxes::find(body.get(78..)?, b"hvcC").ok()??),
            b"mp4a" => aac(entry::specific(sample_entry)?),
            _ => None,
        }
    }
}

fn avc(config: &[u8]) -> Option<Configuration> {
    let length = usize::from(config.get(4)? & 3) + 1;
    let mut reader = Reader::new(config.get(5..)?);
    let mut sets = Vec::new();
    for mask in [0x1f, 0xff] {
        for _ in 0..reader.u8().ok()? & mask {
            sets.push(unit(&mut reader)?);
        }
    }
    Some(Configuration::H264 { length, sets })
}

fn hevc(config: &[u8]) -> Option<Configuration> {
    let length = usize::from(config.get(21)? & 3) + 1;
    let mut reader = Reader::new(config.get(22..)?);
    let mut sets = Vec::new();
    for _ in 0..reader.u8().ok()? {
        reader.u8().ok()?;
        for _ in 0..reader.u16().ok()? {
            sets.push(unit(&mut reader)?);
        }
    }
    Some(Configuration::Hevc { length, sets })
}

fn unit(reader: &mut Reader<'_>) -> Option<Bytes> {
    let length = usize::from(reader.u16().ok()?);
    let unit = reader.rest().get(..length)?;
    let unit = Bytes::copy_from_slice(unit);
    reader.skip(length).ok()?;
    Some(unit)
}

fn aac(specific: &[u8]) -> Option<Configuration> {
    let [first, second, ..] = *specific else {
        return None;
    };
    // Kinds that spread the spectrum (SBR, PS) are AAC-LC for whoever reads ADTS.
    let kind = match first >> 3 {
        kind @ 1..=4 => kind,
        5 | 29 => 2,
        _ => return None,
    };
    let (rate, channels) = ((first & 7) << 1 | second >> 7, second >> 3 & 15);
    (rate < 13 && channels < 8).then_some(Configuration::Aac {
        kind,
        rate,
        channels,
    })
}
