//! Access units of elementary streams, as MP4 has them.

use bytes::Bytes;

use super::Coding;
use crate::codec::{audio, h264, hevc, units};
use crate::frame::Track;

/// The most parameter sets of a kind that are kept.
const SETS_MAX: usize = 16;

/// A picture without its parameter sets.
pub(super) struct Picture {
    pub(super) key: bool,
    /// Units with their lengths, of four bytes, before them.
    pub(super) data: Bytes,
}

/// Parameter sets of a stream of video, by their kind.
#[derive(Debug, Default)]
pub(super) struct Sets {
    video: Vec<Vec<u8>>,
    sequence: Vec<Vec<u8>>,
    pictures: Vec<Vec<u8>>,
}

/// What a unit is.
enum Unit {
    Video,
    Sequence,
    Pictures,
    /// A slice of a picture that decoding can begin with, or of another one.
    Slice(bool),
    /// Says where pictures begin and end, which an MP4 sample does by itself.
    Mark,
    Other,
}

fn h264_unit(first: u8) -> Unit {
    match first & 0x1f {
        1..=4 => Unit::Slice(false),
        5 => Unit::Slice(true),
        7 => Unit::Sequence,
        8 => Unit::Pictures,
        9..=12 => Unit::Mark,
        _ => Unit::Other,
    }
}

fn hevc_unit(first: u8) -> Unit {
    match first >> 1 & 0x3f {
        kind @ 0..=31 => Unit::Slice((16..=23).contains(&kind)),
        32 => Unit::Video,
        33 => Unit::Sequence,
        34 => Unit::Pictures,
        35..=38 => Unit::Mark,
        _ => Unit::Other,
    }
}

impl Sets {
    /// Takes a picture's byte stream apart; `None` when there is no picture in it. The flag says
    /// whether parameter sets came with it.
    pub(super) fn picture(&mut self, coding: Coding, stream: &[u8]) -> (Option<Picture>, bool) {
        let kind = if coding == Coding::Hevc {
            hevc_unit
        } else {
            h264_unit
        };
        let mut data = Vec::with_capacity(stream.len() + 64);
        let (mut key, mut slices, mut is_intra) = (false, false, false);
        let mut found = Self::default();
        for unit in units(stream) {
            // Zeros after a unit belong to the next start code.
            let end = unit
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            let unit = unit.get(..end).unwrap_or_default();
            let Some(first) = unit.first() else { continue };
            match kind(*first) {
                Unit::Video => keep(&mut found.video, unit),
                Unit::Sequence => keep(&mut found.sequence, unit),
                Unit::Pictures => keep(&mut found.pictures, unit),
                Unit::Mark => {}
                other => {
                    if let Unit::Slice(begins) = other {
                        if !slices && let Some(byte) = unit.get(1) {
                            is_intra = h264::begins_intra(*byte);
                        }
                        slices = true;
                        key |= begins;
                    }
                    data.extend(u32::try_from(unit.len()).unwrap_or(u32::MAX).to_be_bytes());
                    data.extend_from_slice(unit);
                }
            }
        }
        // Streams of open groups have no instantaneous refresh; parameter sets stand before
        // pictures to begin with. Some encoders repeat them before all others, too.
        key |= !found.sequence.is_empty() && is_intra && coding == Coding::H264;
        let came = self.replace(found);
        let picture = slices.then(|| Picture {
            key,
            data: data.into(),
        });
        (picture, came)
    }

    /// Takes new parameter sets; true when there were any.
    fn replace(&mut self, found: Self) -> bool {
        let mut came = false;
        for (own, new) in [
            (&mut self.video, found.video),
            (&mut self.sequence, found.sequence),
            (&mut self.pictures, found.pictures),
        ] {
            if !new.is_empty() {
                came = true;
                *own = new;
            }
        }
        came
    }

    /// The track that the parameter sets describe, once they are whole.
    pub(super) fn track(&self, coding: Coding) -> Option<Track> {
        match coding {
            Coding::Hevc => {
                let config = hevc::config(
                    self.video.first()?,
                    self.sequence.first()?,
                    self.pictures.first()?,
                )?;
                Track::hevc(&config).ok()
            }
            _ if self.pictures.is_empty() => None,
            _ => Track::h264(&h264::config(&self.sequence, &self.pictures)?).ok(),
        }
    }
}

fn keep(sets: &mut Vec<Vec<u8>>, unit: &[u8]) {
    if sets.len() < SETS_MAX && !sets.iter().any(|set| set == unit) {
        sets.push(unit.to_vec());
    }
}

/// The `AudioSpecificConfig` of an ADTS frame (ISO/IEC 14496-3 section 1.6.2.1), and the bytes of
/// its header.
pub(super) fn adts(frame: &[u8]) -> Option<([u8; 2], usize)> {
    let [_, protection, b2, b3, ..] = *frame else {
        return None;
    };
    let (object, rate) = ((b2 >> 6) + 1, b2 >> 2 & 15);
    let channels = (b2 & 1) << 2 | b3 >> 6;
    let config = [object << 3 | rate >> 1, rate << 7 | channels << 3];
    // A checksum of two bytes, where there is one.
    Some((config, if protection & 1 == 1 { 7 } else { 9 }))
}

/// Frames of AAC out of units that may break off inside of one.
#[derive(Debug, Default)]
pub(super) struct Adts {
    rest: Vec<u8>,
}

/// One frame of AAC, without its header.
pub(super) struct Sound {
    pub(super) config: [u8; 2],
    pub(super) samples: u32,
    pub(super) rate: u32,
    pub(super) data: Bytes,
    /// Whether it began in the unit before.
    pub(super) late: bool,
}

impl Adts {
    pub(super) fn frames(&mut self, unit: &[u8]) -> Vec<Sound> {
        let mut late = !self.rest.is_empty();
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(unit);
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        while rest.len() >= 7 {
            let Some(header) = audio::adts(rest) else {
                // Out of step: the next mark may be a frame.
                let skip = rest.iter().skip(1).position(|byte| *byte == 0xff);
                rest = rest
                    .get(skip.map_or(rest.len(), |skip| skip + 1)..)
                    .unwrap_or_default();
                late = false;
                continue;
            };
            let Some(frame) = rest.get(..header.len) else {
                break;
            };
            if let Some((config, start)) = adts(frame)
                && let Some(data) = frame.get(start..)
            {
                frames.push(Sound {
                    config,
                    samples: header.samples,
                    rate: header.rate,
                    data: Bytes::copy_from_slice(data),
                    late: std::mem::take(&mut late),
                });
            }
            rest = rest.get(header.len..).unwrap_or_default();
        }
        // A frame has at most 8 KiB.
        self.rest = rest
            .get(..rest.len().min(8 << 10))
            .unwrap_or_default()
            .to_vec();
        frames
    }
}
