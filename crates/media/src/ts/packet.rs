//! Fields of a transport packet and of a PES header.

/// Bytes of a packet.
pub(super) const LEN: usize = 188;
/// The first byte of every packet.
pub(super) const SYNC: u8 = 0x47;
/// How many packet identifiers there are.
pub(super) const PIDS: usize = 8192;
/// Bits of a time stamp.
pub(super) const TIME_BITS: u32 = 33;

/// One packet.
pub(super) type Packet = [u8; LEN];

/// The packet at the beginning of `data`.
#[inline]
pub(super) fn first(data: &[u8]) -> Option<&Packet> {
    data.first_chunk()
}

#[inline]
pub(super) fn pid(packet: &Packet) -> u16 {
    u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff
}

/// True when a section or PES packet begins in this packet.
#[inline]
pub(super) fn starts_unit(packet: &Packet) -> bool {
    packet[1] & 0x40 != 0
}

/// True when the sender or a demodulator marked the packet as damaged.
#[inline]
pub(super) fn is_damaged(packet: &Packet) -> bool {
    packet[1] & 0x80 != 0
}

pub(super) fn is_scrambled(packet: &Packet) -> bool {
    packet[3] & 0xc0 != 0
}

/// True when the adaptation field marks a random access point.
pub(super) fn is_random_access(packet: &Packet) -> bool {
    packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x40 != 0
}

/// The bytes after the header and the adaptation field.
pub(super) fn payload(packet: &Packet) -> &[u8] {
    // The adaptation field says its length, which may lead beyond the packet.
    let start = match packet[3] & 0x30 {
        0x10 => 4,
        0x30 => 5 + usize::from(packet[4]),
        _ => LEN,
    };
    packet.get(start..).unwrap_or_default()
}

/// The beginning of a PES packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pes<'a> {
    /// The decode time (the presentation time where there is no other), 33 bits.
    pub(super) time: Option<u64>,
    /// The presentation time, 33 bits.
    pub(super) shown: Option<u64>,
    /// What the packet holds of the elementary stream.
    pub(super) body: &'a [u8],
}

/// Reads the PES header at the beginning of a payload.
pub(super) fn pes(payload: &[u8]) -> Option<Pes<'_>> {
    let [0, 0, 1, _, _, _, marks, flags, len, rest @ ..] = payload else {
        return None;
    };
    // Streams of other kinds have no header with times (ISO/IEC 13818-1 section 2.4.3.6).
    if marks & 0xc0 != 0x80 {
        return None;
    }
    let (header, body) = rest
        .split_at_checked(usize::from(*len))
        .unwrap_or((rest, &[]));
    let shown = if flags & 0x80 != 0 {
        stamp(header)
    } else {
        None
    };
    let time = match flags >> 6 {
        2 => shown,
        // Both times are there; the decode time is the second one.
        3 => stamp(header.get(5..).unwrap_or_default()),
        _ => None,
    };
    Some(Pes { time, shown, body })
}

fn stamp(bytes: &[u8]) -> Option<u64> {
    let [a, b, c, d, e, ..] = *bytes else {
        return None;
    };
    // The marker bits: without them it is no time stamp, and a wrong one would look like a jump.
    if a & 1 == 0 || c & 1 == 0 || e & 1 == 0 {
        return None;
    }
    let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
    Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_decode_time() {
        let pts = [
            0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 0x03, 0xaa,
        ];
        assert_eq!(
            pes(&pts),
            Some(Pes {
                time: Some(1),
                shown: Some(1),
                body: &[0xaa]
            })
        );
        let both = [
            0, 0, 1, 0xe0, 0, 0, 0x80, 0xc0, 10, 0x31, 0, 1, 0, 0x01, 0x1f, 0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(
            pes(&both),
            Some(Pes {
                time: Some((1 << 33) - 1),
                shown: Some(0),
                body: &[]
            })
        );
        assert_eq!(
            pes(&both[..15]),
            Some(Pes {
                time: None,
                shown: Some(0),
                body: &[]
            })
        );
        assert_eq!(pes(&[0, 0, 1, 0xe0]), None);
    }

    #[test]
    fn an_adaptation_field_past_the_end_leaves_no_payload() {
        let mut packet = [0; LEN];
        packet[3] = 0x30;
        packet[4] = 255;
        assert!(payload(&packet).is_empty());
        packet[4] = 182;
        assert_eq!(payload(&packet).len(), 1);
    }
}
