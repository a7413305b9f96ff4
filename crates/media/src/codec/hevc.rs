//! HEVC sequence parameter sets.

use super::StreamInfo;
use super::bits::{Bits, unescape};

/// Profile, tier and level, as in a parameter set and in an MP4 configuration (12 bytes).
pub(crate) fn codec(ptl: &[u8; 12]) -> String {
    let [head, c0, c1, c2, c3, constraints @ .., level] = *ptl;
    let space = ["", "A", "B", "C"][usize::from(head >> 6)];
    let tier = if head & 0x20 == 0 { 'L' } else { 'H' };
    let profile = head & 0x1f;
    // Reversed and without trailing zeros, as ISO/IEC 14496-15 (annex E) writes it.
    let compatible = u32::from_be_bytes([c0, c1, c2, c3]).reverse_bits();
    let mut codec = format!("hvc1.{space}{profile}.{compatible:X}.{tier}{level}");
    let used = constraints
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    for byte in constraints.iter().take(used) {
        codec.push_str(&format!(".{byte:X}"));
    }
    codec
}

/// Finds the parameter set in a byte stream.
pub(crate) fn find(stream: &[u8]) -> Option<StreamInfo> {
    let is_set = |unit: &&[u8]| unit.first().is_some_and(|byte| byte >> 1 & 0x3f == 33);
    super::units(stream).find(is_set).and_then(parse)
}

/// Reads a sequence parameter set, from its two header bytes on.
pub(crate) fn parse(unit: &[u8]) -> Option<StreamInfo> {
    let set = unescape(unit);
    let [_, _, layers, rest @ ..] = set.as_slice() else {
        return None;
    };
    let (ptl, rest) = rest.split_first_chunk::<12>()?;
    let info = StreamInfo::video(codec(ptl));
    Some(
        match picture(usize::from(layers >> 1 & 7), &mut Bits::new(rest)) {
            Some(picture) => info.size(picture.width, picture.height),
            None => info,
        },
    )
}

/// The `HEVCDecoderConfigurationRecord` (ISO/IEC 14496-15 section 8.3.3.1) of parameter sets: one
/// of each kind, from their header bytes on.
pub(crate) fn config(video: &[u8], sequence: &[u8], pictures: &[u8]) -> Option<Vec<u8>> {
    let set = unescape(sequence);
    let [_, _, layers, rest @ ..] = set.as_slice() else {
        return None;
    };
    let (ptl, rest) = rest.split_first_chunk::<12>()?;
    let picture = picture(usize::from(layers >> 1 & 7), &mut Bits::new(rest))?;
    let mut out = vec![1];
    out.extend_from_slice(ptl);
    // Segmentation and parallelism are not told; the upper bits of each field are ones.
    out.extend([0xf0, 0, 0xfc]);
    out.push(0xfc | picture.chroma.min(3) as u8);
    out.push(0xf8 | picture.depth.0.min(7) as u8);
    out.push(0xf8 | picture.depth.1.min(7) as u8);
    // No rate; one temporal layer, nested; lengths of four bytes; three arrays of units.
    out.extend([0, 0, 0x0f, 3]);
    for (kind, unit) in [(32, video), (33, sequence), (34, pictures)] {
        out.extend([0x80 | kind, 0, 1]);
        out.extend(u16::try_from(unit.len()).ok()?.to_be_bytes());
        out.extend_from_slice(unit);
    }
    Some(out)
}

/// What a sequence parameter set says of pictures.
struct Picture {
    width: u32,
    height: u32,
    chroma: u32,
    /// Bits above 8 of brightness and of colour.
    depth: (u32, u32),
}

fn picture(layers: usize, bits: &mut Bits<'_>) -> Option<Picture> {
    // Each layer below the top has 88 bits of profile and 8 of level, where its flags say so.
    let mut skip = 0;
    for _ in 0..layers {
        skip += if bits.bit()? { 88 } else { 0 };
        skip += if bits.bit()? { 8 } else { 0 };
    }
    // The flags are filled up to eight pairs.
    if layers > 0 {
        bits.skip(2 * (8 - layers))?;
    }
    bits.skip(skip)?;
    bits.ue()?;
    let chroma = bits.ue()?;
    let separate = chroma == 3 && bits.bit()?;
    let (mut width, mut height) = (bits.ue()?, bits.ue()?);
    if bits.bit()? {
        (width, height) = cropped(width, height, chroma, separate, bits)?;
    }
    // Both are at the very end of what is read here: a set that is cut off has none.
    let depth = (bits.ue().unwrap_or(0), bits.ue().unwrap_or(0));
    Some(Picture {
        width,
        height,
        chroma,
        depth,
    })
}

/// The size after the window that is shown has been cut out.
fn cropped(
    width: u32,
    height: u32,
    chroma: u32,
    separate: bool,
    bits: &mut Bits<'_>,
) -> Option<(u32, u32)> {
    let unit_x = if matches!(chroma, 1 | 2) && !separate {
        2
    } else {
        1
    };
    let unit_y = if chroma == 1 { 2 } else { 1 };
    let x = bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_x)?;
    let y = bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit_y)?;
    Some((width.checked_sub(x)?, height.checked_sub(y)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_main_profile() {
        let ptl = [1, 0x60, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 93];
        assert_eq!(codec(&ptl), "hvc1.1.6.L93.B0");
        let high = [0x62, 0x20, 0, 0, 0, 0x90, 0, 1, 0, 0, 0, 120];
        assert_eq!(codec(&high), "hvc1.A2.4.H120.90.0.1");
    }

    #[test]
    fn a_short_set_is_refused() {
        assert_eq!(parse(&[0x42, 1, 1, 1]), None);
        assert_eq!(find(&[0, 0, 1, 0x42]), None);
    }
}
