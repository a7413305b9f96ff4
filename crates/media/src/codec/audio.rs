//! Headers of audio frames: ADTS, MPEG audio, AC-3 and E-AC-3.

use super::StreamInfo;
use crate::TICKS_PER_SECOND;

/// The sample rates that AAC names by index.
pub(crate) const AAC_RATES: [u32; 13] = [
    96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350,
];

/// One audio frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    /// Bytes of the frame with its header.
    pub(crate) len: usize,
    /// Samples of a channel; zero for frames that add channels to another frame.
    pub(crate) samples: u32,
    pub(crate) rate: u32,
    pub(crate) channels: u32,
    pub(crate) codec: String,
}

impl Frame {
    pub(crate) fn info(&self) -> StreamInfo {
        StreamInfo::audio(self.codec.clone()).sound(self.rate, self.channels)
    }
}

/// Reads a frame header of one codec.
pub(crate) type Header = fn(&[u8]) -> Option<Frame>;

/// How long the frames of `stream` last, in ticks; `None` when it does not begin with a frame.
pub(crate) fn span(header: Header, mut stream: &[u8]) -> Option<u64> {
    let mut samples = 0u64;
    let mut rate = 0;
    while let Some(frame) = header(stream) {
        samples += u64::from(frame.samples);
        rate = frame.rate;
        // At least one byte, or a header that says 0 would keep it here for ever.
        stream = stream.get(frame.len.max(1)..).unwrap_or_default();
    }
    if rate == 0 || samples == 0 {
        return None;
    }
    Some(samples * TICKS_PER_SECOND / u64::from(rate))
}

/// An ADTS frame of AAC.
pub(crate) fn adts(data: &[u8]) -> Option<Frame> {
    let [0xff, b1, b2, b3, b4, b5, b6, ..] = *data else {
        return None;
    };
    // The layer is always 0, by which it is told from MPEG audio.
    if b1 & 0xf6 != 0xf0 {
        return None;
    }
    let rate = *AAC_RATES.get(usize::from(b2 >> 2 & 15))?;
    let len = usize::from(b3 & 3) << 11 | usize::from(b4) << 3 | usize::from(b5 >> 5);
    let channels = u32::from((b2 & 1) << 2 | b3 >> 6);
    (len >= 7).then(|| Frame {
        len,
        samples: 1024 * (u32::from(b6 & 3) + 1),
        rate,
        channels: if channels == 7 { 8 } else { channels },
        codec: format!("mp4a.40.{}", (b2 >> 6) + 1),
    })
}

/// A frame of MPEG audio, layers I to III.
pub(crate) fn mpeg(data: &[u8]) -> Option<Frame> {
    const RATES: [u32; 3] = [44100, 48000, 32000];
    const KBITS: [[u16; 15]; 5] = [
        [
            0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448,
        ],
        [
            0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
        ],
        [
            0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
        ],
        [
            0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256,
        ],
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let [0xff, b1, b2, b3, ..] = *data else {
        return None;
    };
    let (version, layer) = (b1 >> 3 & 3, 4 - (b1 >> 1 & 3));
    // Both values are reserved.
    if b1 & 0xe0 != 0xe0 || version == 1 || layer == 4 {
        return None;
    }
    let first = version == 3;
    let half = match version {
        3 => 0,
        2 => 1,
        _ => 2,
    };
    let rate = RATES.get(usize::from(b2 >> 2 & 3))? >> half;
    let row = match (first, layer) {
        (true, layer) => usize::from(layer) - 1,
        (false, 1) => 3,
        (false, _) => 4,
    };
    let bits = u32::from(*KBITS[row].get(usize::from(b2 >> 4))?) * 1000;
    let padding = u32::from(b2 >> 1 & 1);
    let samples = match (layer, first) {
        (1, _) => 384,
        (3, false) => 576,
        _ => 1152,
    };
    let len = match layer {
        1 => (12 * bits / rate + padding) * 4,
        _ => samples / 8 * bits / rate + padding,
    };
    // Index 0 is a free rate, whose length no header tells.
    (bits > 0).then(|| Frame {
        len: len as usize,
        samples,
        rate,
        channels: if b3 >> 6 == 3 { 1 } else { 2 },
        codec: format!("mp4a.40.{}", 31 + layer),
    })
}

/// A frame of AC-3 or E-AC-3.
pub(crate) fn ac3(data: &[u8]) -> Option<Frame> {
    const RATES: [u32; 3] = [48000, 44100, 32000];
    let [0x0b, 0x77, b2, b3, b4, b5, b6, ..] = *data else {
        return None;
    };
    // Up to 10 it is AC-3, up to 16 E-AC-3; above there is nothing.
    if b5 >> 3 > 16 {
        return None;
    }
    if b5 >> 3 <= 10 {
        let rate = *RATES.get(usize::from(b4 >> 6))?;
        let mode = b6 >> 5;
        let mut at = 3 + 2 * u32::from(mode & 1 == 1 && mode != 1) + 2 * u32::from(mode & 4 != 0);
        at += 2 * u32::from(mode == 2);
        // The flag for the low frequencies stands behind fields that only some modes have.
        let low = u32::from(b6) << 8 | u32::from(data.get(7).copied().unwrap_or(0));
        return Some(Frame {
            len: ac3_len(rate, b4 & 0x3f)?,
            samples: 1536,
            rate,
            channels: ac3_channels(mode) + (low >> (15 - at) & 1),
            codec: "ac-3".into(),
        });
    }
    let code = usize::from(b4 >> 6);
    let blocks = [1, 2, 3, 6][usize::from(b4 >> 4 & 3)];
    let (rate, blocks) = match RATES.get(code) {
        Some(rate) => (*rate, blocks),
        // Half rates have no field for blocks: it holds the rate, and there are six.
        None => (RATES.get(usize::from(b4 >> 4 & 3))? / 2, 6),
    };
    let dependent = b2 >> 6 == 1;
    Some(Frame {
        len: (usize::from(b2 & 7) << 8 | usize::from(b3)) * 2 + 2,
        samples: if dependent { 0 } else { blocks * 256 },
        rate,
        channels: ac3_channels(b4 >> 1 & 7) + u32::from(b4 & 1),
        codec: "ec-3".into(),
    })
}

fn ac3_channels(mode: u8) -> u32 {
    [2, 1, 2, 3, 3, 4, 4, 5][usize::from(mode & 7)]
}

fn ac3_len(rate: u32, code: u8) -> Option<usize> {
    const KBITS: [u32; 19] = [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640,
    ];
    let kbits = *KBITS.get(usize::from(code / 2))?;
    let odd = if rate == 44100 {
        u32::from(code & 1)
    } else {
        0
    };
    Some((kbits * 96_000 / rate + odd) as usize * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adts_frames_add_up() {
        let mut frame = vec![0xff, 0xf1, 0x50, 0x80, 0x01, 0x7f, 0xfc];
        frame.resize(11, 0);
        let read = adts(&frame).unwrap();
        assert_eq!(
            (read.len, read.samples, read.rate, read.channels),
            (11, 1024, 44100, 2)
        );
        assert_eq!(read.codec, "mp4a.40.2");
        assert_eq!(
            span(adts, &frame.repeat(3)),
            Some(3 * 1024 * 90_000 / 44_100)
        );
        assert_eq!(span(adts, &frame[1..]), None);
    }

    #[test]
    fn mpeg_and_ac3_headers() {
        let mp3 = mpeg(&[0xff, 0xfb, 0x90, 0x00]).unwrap();
        assert_eq!((mp3.len, mp3.samples, mp3.rate), (417, 1152, 44100));
        assert_eq!(mp3.codec, "mp4a.40.34");
        let ac = ac3(&[0x0b, 0x77, 0, 0, 0x1c, 0x40, 0xe1, 0, 0]).unwrap();
        assert_eq!((ac.len, ac.rate, ac.codec.as_str()), (1536, 48000, "ac-3"));
        assert_eq!(ac.channels, 6);
        assert_eq!(ac3_len(44100, 1), Some(140));
        assert_eq!(mpeg(&[0xff, 0xff, 0xff, 0xff]), None);
    }
}
