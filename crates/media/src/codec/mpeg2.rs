//! MPEG-1 and MPEG-2 video sequence headers.

use super::StreamInfo;

/// Finds the sequence header in a byte stream.
pub(crate) fn find(stream: &[u8]) -> Option<StreamInfo> {
    let header = super::units(stream).find(|unit| unit.first() == Some(&0xb3))?;
    let [_, a, b, c, rates, ..] = *header else {
        return None;
    };
    let width = u32::from(a) << 4 | u32::from(b >> 4);
    let height = u32::from(b & 15) << 8 | u32::from(c);
    let mut info = StreamInfo::video("mp4v.61").size(width, height);
    info.frame_rate = match rates & 15 {
        1 => Some(24000.0 / 1001.0),
        2 => Some(24.0),
        3 => Some(25.0),
        4 => Some(30000.0 / 1001.0),
        5 => Some(30.0),
        6 => Some(50.0),
        7 => Some(60000.0 / 1001.0),
        8 => Some(60.0),
        _ => None,
    };
    Some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_sequence_header() {
        let info = find(&[0, 0, 1, 0xb3, 0x2d, 0x02, 0x40, 0x33, 0xff]).unwrap();
        assert_eq!(
            (info.width, info.height, info.frame_rate),
            (Some(720), Some(576), Some(25.0))
        );
        assert_eq!(find(&[0, 0, 1, 0xb3, 0x2d]), None);
    }
}
