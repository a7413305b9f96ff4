//! Finds out whether a picture is one to begin a segment with.

use super::Coding;

/// How many bytes of a picture are searched before it is taken as no key frame.
/// The units that decide come before those of the picture itself.
const LIMIT: usize = 64 << 10;

/// What is known of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Decoding can begin here.
    Key,
    /// Decoding cannot begin here.
    Plain,
    /// More bytes of the picture are needed.
    Open,
}

/// Searches the bytes of one picture for the first unit that decides.
#[derive(Debug)]
pub(super) struct KeyScan {
    coding: Coding,
    /// The latest four bytes.
    window: u32,
    seen: usize,
}

impl KeyScan {
    pub(super) fn new(coding: Coding) -> Self {
        Self {
            coding,
            // No start code can be seen in it before three bytes have come.
            window: u32::MAX,
            seen: 0,
        }
    }

    /// Takes the next bytes of the picture.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Verdict {
        // Each frame of audio can be decoded by itself.
        if self.coding.is_audio() {
            return Verdict::Key;
        }
        for &byte in bytes {
            self.window = self.window << 8 | u32::from(byte);
            if self.window >> 8 == 1 {
                let verdict = self.judge(byte);
                if verdict != Verdict::Open {
                    return verdict;
                }
            }
        }
        self.seen += bytes.len();
        if self.seen > LIMIT {
            Verdict::Plain
        } else {
            Verdict::Open
        }
    }

    /// Judges by the first byte after a start code.
    fn judge(&self, byte: u8) -> Verdict {
        match self.coding {
            // 5 is an IDR picture, 7 a parameter set, which stands before pictures to begin with:
            // streams of open groups of pictures have no 5. 1 to 4 are slices of other pictures.
            Coding::H264 => match byte & 0x1f {
                5 | 7 => Verdict::Key,
                1..=4 => Verdict::Plain,
                _ => Verdict::Open,
            },
            Coding::Hevc => match byte >> 1 & 0x3f {
                // 16 to 23 are random access points, 32 and 33 parameter sets, below 16 slices of
                // other pictures.
                16..=23 | 32 | 33 => Verdict::Key,
                0..=15 => Verdict::Plain,
                _ => Verdict::Open,
            },
            // A sequence header stands before an I picture; 0 begins a picture without one.
            _ => match byte {
                0xb3 => Verdict::Key,
                0 => Verdict::Plain,
                _ => Verdict::Open,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(coding: Coding, bytes: &[u8]) -> Verdict {
        let mut one = KeyScan::new(coding);
        let whole = KeyScan::new(coding).feed(bytes);
        let mut last = Verdict::Open;
        for byte in bytes {
            last = one.feed(&[*byte]);
            if last != Verdict::Open {
                break;
            }
        }
        assert_eq!(last, whole, "the answer must not depend on the division");
        whole
    }

    #[test]
    fn tells_key_frames() {
        assert_eq!(
            scan(Coding::H264, &[0, 0, 0, 1, 9, 16, 0, 0, 1, 0x65]),
            Verdict::Key
        );
        assert_eq!(
            scan(Coding::H264, &[0, 0, 1, 9, 16, 0, 0, 1, 0x41]),
            Verdict::Plain
        );
        assert_eq!(
            scan(Coding::H264, &[0, 0, 1, 9, 16, 0, 0, 1]),
            Verdict::Open
        );
        assert_eq!(
            scan(Coding::Hevc, &[0, 0, 1, 0x46, 1, 0, 0, 1, 0x40]),
            Verdict::Key
        );
        assert_eq!(scan(Coding::Hevc, &[0, 0, 1, 0x02]), Verdict::Plain);
        assert_eq!(scan(Coding::Mpeg2, &[0, 0, 1, 0xb3]), Verdict::Key);
        assert_eq!(
            scan(Coding::Mpeg2, &[0, 0, 1, 0xb8, 0, 0, 1, 0]),
            Verdict::Plain
        );
    }

    #[test]
    fn gives_up_at_the_limit() {
        assert_eq!(
            KeyScan::new(Coding::H264).feed(&vec![7; LIMIT + 1]),
            Verdict::Plain
        );
    }
}
