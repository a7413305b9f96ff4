//! H.264 sequence parameter sets.

use super::StreamInfo;
use super::bits::{Bits, unescape};

/// Profiles whose parameter set tells the chroma format.
const HIGH: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// The codec string of a profile, its constraints and a level.
pub(crate) fn codec(profile: u8, constraints: u8, level: u8) -> String {
    format!("avc1.{profile:02x}{constraints:02x}{level:02x}")
}

/// Finds the parameter set in a byte stream.
pub(crate) fn find(stream: &[u8]) -> Option<StreamInfo> {
    super::units(stream)
        .find(|unit| unit.first().is_some_and(|b| b & 0x1f == 7))
        .and_then(parse)
}

/// Reads a sequence parameter set, from its header byte on.
pub(crate) fn parse(unit: &[u8]) -> Option<StreamInfo> {
    let set = unescape(unit);
    let [_, profile, constraints, level, rest @ ..] = set.as_slice() else {
        return None;
    };
    // What stands at fixed places is told, also when the rest cannot be read.
    let mut info = StreamInfo::video(codec(*profile, *constraints, *level));
    if let Some((width, height, rate)) = picture(*profile, &mut Bits::new(rest)) {
        info = info.size(width, height);
        info.frame_rate = rate;
    }
    Some(info)
}

/// Whether a slice is the first of a picture and needs no other picture, by the first byte behind
/// its unit's header: the number of its first block and its type (ISO/IEC 14496-10 section 7.3.3).
pub(crate) fn begins_intra(byte: u8) -> bool {
    let byte = [byte];
    let mut bits = Bits::new(&byte);
    bits.ue() == Some(0) && matches!(bits.ue(), Some(2 | 4 | 7 | 9))
}

/// The `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 5.3.3.1) of parameter sets, from
/// their header bytes on.
pub(crate) fn config(sequence: &[Vec<u8>], pictures: &[Vec<u8>]) -> Option<Vec<u8>> {
    let [_, profile, constraints, level, ..] = *sequence.first()?.as_slice() else {
        return None;
    };
    // Lengths of four bytes before units.
    let mut out = vec![1, profile, constraints, level, 0xff];
    out.push(
        0xe0 | u8::try_from(sequence.len())
            .ok()
            .filter(|count| *count < 32)?,
    );
    let put = |out: &mut Vec<u8>, unit: &[u8]| {
        out.extend(u16::try_from(unit.len()).ok()?.to_be_bytes());
        out.extend_from_slice(unit);
        Some(())
    };
    for unit in sequence {
        put(&mut out, unit)?;
    }
    out.push(u8::try_from(pictures.len()).ok()?);
    for unit in pictures {
        put(&mut out, unit)?;
    }
    if HIGH.contains(&profile) {
        let set = unescape(sequence.first()?);
        let (chroma, luma_depth, chroma_depth) = depths(&mut Bits::new(set.get(4..)?))?;
        // The upper bits of each field are ones; no extended sets follow.
        out.extend([
            0xfc | chroma.min(3) as u8,
            0xf8 | luma_depth.min(7) as u8,
            0xf8 | chroma_depth.min(7) as u8,
            0,
        ]);
    }
    Some(out)
}

/// The chroma format and the bits above 8 of a set of a high profile.
fn depths(bits: &mut Bits<'_>) -> Option<(u32, u32, u32)> {
    bits.ue()?;
    let chroma = bits.ue()?;
    if chroma == 3 {
        bits.bit()?;
    }
    Some((chroma, bits.ue()?, bits.ue()?))
}

fn picture(profile: u8, bits: &mut Bits<'_>) -> Option<(u32, u32, Option<f64>)> {
    bits.ue()?;
    let chroma = if HIGH.contains(&profile) {
        chroma(bits)?
    } else {
        1
    };
    bits.ue()?;
    order(bits)?;
    bits.ue()?;
    bits.bit()?;
    let across = bits.ue()?.checked_add(1)?.checked_mul(16)?;
    let map = bits.ue()?.checked_add(1)?.checked_mul(16)?;
    let progressive = bits.bit()?;
    if !progressive {
        bits.bit()?;
    }
    let fields = if progressive { 1 } else { 2 };
    let down = map.checked_mul(fields)?;
    bits.bit()?;
    let (mut width, mut height) = (across, down);
    if bits.bit()? {
        // Cropping is counted in samples of colour, which lie further apart than those of
        // brightness.
        let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
        let unit_y = if chroma == 1 { 2 * fields } else { fields };
        let x = bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_x)?;
        let y = bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_y)?;
        width = width.checked_sub(x)?;
        height = height.checked_sub(y)?;
    }
    let rate = if bits.bit()? { timing(bits) } else { None };
    Some((width, height, rate))
}

/// The chroma format; separate planes count as none, as for cropping.
fn chroma(bits: &mut Bits<'_>) -> Option<u32> {
    let format = bits.ue()?;
    let separate = format == 3 && bits.bit()?;
    bits.ue()?;
    bits.ue()?;
    bits.bit()?;
    if bits.bit()? {
        for list in 0..if format == 3 { 12 } else { 8 } {
            if bits.bit()? {
                scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(if separate { 0 } else { format })
}

fn scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    // Read only to get past it.
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Skips how the order of pictures is told.
fn order(bits: &mut Bits<'_>) -> Option<()> {
    match bits.ue()? {
        0 => {
            bits.ue()?;
        }
        1 => {
            bits.bit()?;
            bits.se()?;
            bits.se()?;
            // 255 by the standard; more would be a loop that the input lengthens.
            for _ in 0..bits.ue()?.min(255) {
                bits.se()?;
            }
        }
        _ => {}
    }
    Some(())
}

/// Pictures a second, from the usability information.
fn timing(bits: &mut Bits<'_>) -> Option<f64> {
    // 255 stands for a ratio of pixels that is written out.
    if bits.bit()? && bits.bits(8)? == 255 {
        bits.skip(32)?;
    }
    if bits.bit()? {
        bits.bit()?;
    }
    if bits.bit()? {
        bits.skip(4)?;
        if bits.bit()? {
            bits.skip(24)?;
        }
    }
    if bits.bit()? {
        bits.ue()?;
        bits.ue()?;
    }
    if !bits.bit()? {
        return None;
    }
    let units = bits.bits(32)?;
    let scale = bits.bits(32)?;
    // Two ticks for each picture, one for each field.
    let rate = f64::from(scale) / (2.0 * f64::from(units));
    (rate.is_finite() && rate > 0.0 && rate <= 1000.0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x264, 1920x1080 (cropped from 1088), High, level 4.0, 25 pictures a second.
    const SET: [u8; 28] = [
        0x67, 0x64, 0x00, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0x00, 0x00,
        0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xc8, 0x3c, 0x60, 0xc6, 0x58, 0x00,
    ];

    #[test]
    fn reads_size_after_cropping_and_rate() {
        let info = parse(&SET).unwrap();
        assert_eq!(info.codec, "avc1.640028");
        assert_eq!((info.width, info.height), (Some(1920), Some(1080)));
        assert_eq!(info.frame_rate, Some(25.0));
    }

    #[test]
    fn a_short_set_still_names_the_codec() {
        assert_eq!(parse(&SET[..5]).unwrap().codec, "avc1.640028");
        assert_eq!(parse(&SET[..5]).unwrap().width, None);
        assert_eq!(parse(&SET[..3]), None);
    }
}
