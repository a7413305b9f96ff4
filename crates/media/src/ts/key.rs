//! Finds out whether a picture is one to begin a segment with.

use super::Coding;
use crate::codec::h264;

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
    /// A parameter set came, and whether the next byte tells what a slice behind it is.
    has_sets: bool,
    is_slice: bool,
}

impl KeyScan {
    pub(super) fn new(coding: Coding) -> Self {
        Self {
            coding,
            // No start code can be seen in it before three bytes have come.
            window: u32::MAX,
            seen: 0,
            has_sets: false,
            is_slice: false,
        }
    }

    /// Takes the next bytes of the picture.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Verdict {
        // Each frame of audio can be decoded by itself.
        if self.coding.is_audio() {
            return Verdict::Key;
        }
        for &byte in bytes {
            if self.is_slice {
                return match h264::begins_intra(byte) {
                    true => Verdict::Key,
                    false => Verdict::Plain,
                };
            }
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
    fn judge(&mut self, byte: u8) -> Verdict {
        match self.coding {
            // 5 is an IDR picture, 7 a parameter set, which stands before pictures to begin with:
            // streams of open groups of pictures have no 5. 1 to 4 are slices of other pictures.
            // Some encoders repeat their sets before all of them, so that the slice decides.
            Coding::H264 => match byte & 0x1f {
                5 => Verdict::Key,
                1 if self.has_sets => {
                    self.is_slice = true;
                    Verdict::Open
                }
                1..=4 => Verdict::Plain,
                kind => {
                    self.has_sets |= kind == 7;
                    Verdict::Open
                }
            },
            Coding::Hevc => match byte >> 1 & 0x3f {
                // 16 to 23 are random access points, below 16 slices of other pictures.
                16..=23 => Verdict::Key,
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
        // Sets before a slice that needs others, before one that needs none, and before an IDR.
        let sets = [0, 0, 1, 0x67, 0x64, 0, 0, 1, 0x68, 0xee, 0, 0, 1];
        for (slice, verdict) in [
            (&[0x41, 0x9a][..], Verdict::Plain),
            (&[0x41, 0x88], Verdict::Key),
            (&[0x65], Verdict::Key),
            (&[0x41], Verdict::Open),
        ] {
            assert_eq!(scan(Coding::H264, &[&sets[..], slice].concat()), verdict);
        }
        assert_eq!(
            scan(Coding::Hevc, &[0, 0, 1, 0x40, 1, 0, 0, 1, 0x26]),
            Verdict::Key
        );
        assert_eq!(
            scan(Coding::Hevc, &[0, 0, 1, 0x40, 1, 0, 0, 1, 0x02]),
            Verdict::Plain
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
