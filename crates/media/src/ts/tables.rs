//! Program tables (PAT and PMT): read from sections over any packets, and written anew.

use super::Coding;
use super::packet::{self, LEN, PIDS, Packet, SYNC};

/// The most bytes of a section.
const MAX_SECTION: usize = 1024;
/// The packet identifier of the PAT.
pub(super) const PAT_PID: u16 = 0;

/// Puts sections together from packets.
#[derive(Debug, Default)]
struct Sections {
    /// A section that is not complete.
    part: Vec<u8>,
}

impl Sections {
    /// Takes a packet; gives the sections that it completes and whose checksum is right.
    fn push(&mut self, packet: &Packet) -> Vec<Vec<u8>> {
        let payload = packet::payload(packet);
        let mut done = Vec::new();
        // Without a section that has begun, this is the rest of one whose beginning was missed.
        if !packet::starts_unit(packet) {
            if !self.part.is_empty() {
                self.fill(payload, &mut done);
            }
            return done;
        }
        let Some((pointer, rest)) = payload.split_first() else {
            return done;
        };
        let Some((tail, mut rest)) = rest.split_at_checked(usize::from(*pointer)) else {
            self.part.clear();
            return done;
        };
        if !self.part.is_empty() {
            self.fill(tail, &mut done);
        }
        self.part.clear();
        // Several sections may stand in a packet; 0xff fills up what is left.
        while rest.first().is_some_and(|table| *table != 0xff) {
            rest = self.fill(rest, &mut done);
        }
        done
    }

    /// Adds bytes to the section; gives the bytes after its end.
    fn fill<'a>(&mut self, bytes: &'a [u8], done: &mut Vec<Vec<u8>>) -> &'a [u8] {
        let (head, mut rest) =
            bytes.split_at(bytes.len().min(3usize.saturating_sub(self.part.len())));
        self.part.extend_from_slice(head);
        let [_, high, low, ..] = *self.part.as_slice() else {
            return rest;
        };
        let len = 3 + (usize::from(high & 15) << 8 | usize::from(low));
        // A damaged length: the next packet in which a section begins is the next chance.
        if len > MAX_SECTION {
            self.part.clear();
            return &[];
        }
        let (body, after) = rest.split_at(rest.len().min(len.saturating_sub(self.part.len())));
        self.part.extend_from_slice(body);
        rest = after;
        if self.part.len() >= len {
            let section = std::mem::take(&mut self.part);
            // 12 bytes: a header of 8 and a checksum of 4, on which all readers of sections count.
            if crc(&section) == 0 && section.len() >= 12 {
                done.push(section);
            }
        }
        rest
    }
}

/// An elementary stream of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) pid: u16,
    pub(super) coding: Coding,
    kind: u8,
}

/// What a table packet changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Update {
    /// Nothing: a table is not complete, or not ours.
    Nothing,
    /// The program's table came again, with the same streams.
    Repeated,
    /// The program has other streams.
    Changed,
}

/// The tables of the first program.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pat: Sections,
    pmt: Sections,
    /// Transport stream, program number, PMT identifier.
    program: Option<(u16, u16, u16)>,
    section: Vec<u8>,
    streams: Vec<Stream>,
    clock_pid: u16,
}

impl Tables {
    /// The identifier of the program's PMT.
    pub(super) fn pmt_pid(&self) -> Option<u16> {
        self.program.map(|(_, _, pid)| pid)
    }

    /// The program's streams; none before the first PMT.
    pub(super) fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// Where the program clock is.
    pub(super) fn clock_pid(&self) -> u16 {
        self.clock_pid
    }

    /// The stream that segments are cut by: the first video, else the first audio.
    pub(super) fn reference(&self) -> Option<Stream> {
        let find = |wanted: fn(Coding) -> bool| self.streams.iter().find(|s| wanted(s.coding));
        find(Coding::is_video)
            .or_else(|| find(Coding::is_audio))
            .copied()
    }

    /// Takes a packet of the PAT or the PMT.
    pub(super) fn push(&mut self, packet: &Packet) -> Update {
        if packet::pid(packet) == PAT_PID {
            for section in self.pat.push(packet) {
                self.read_pat(&section);
            }
            return Update::Nothing;
        }
        // A packet may complete several tables; that the streams have changed must not be lost.
        let mut update = Update::Nothing;
        for section in self.pmt.push(packet) {
            match self.read_pmt(section) {
                Update::Nothing => {}
                Update::Repeated if update == Update::Changed => {}
                other => update = other,
            }
        }
        update
    }

    fn read_pat(&mut self, section: &[u8]) {
        let Some(body) = body(section, 0) else { return };
        let stream = u16::from_be_bytes([section[3], section[4]]);
        let programs = body.as_chunks::<4>().0.iter().map(|entry| {
            let [a, b, c, d] = *entry;
            (
                stream,
                u16::from_be_bytes([a, b]),
                u16::from_be_bytes([c, d]) & 0x1fff,
            )
        });
        // Number 0 names the network's table; identifiers below 16 and 0x1fff are reserved.
        let usable = programs.filter(|(_, number, pid)| *number != 0 && (16..0x1fff).contains(pid));
        let usable: Vec<_> = usable.collect();
        // The program that is carried stays, even if it is not the first one any more.
        let same = self
            .program
            .and_then(|(_, old, _)| usable.iter().find(|(_, n, _)| *n == old));
        let Some(program) = same.or_else(|| usable.first()).copied() else {
            return;
        };
        if self.program != Some(program) {
            // What was gathered is of another identifier.
            self.pmt = Sections::default();
            self.program = Some(program);
        }
    }

    fn read_pmt(&mut self, section: Vec<u8>) -> Update {
        let Some((_, number, _)) = self.program else {
            return Update::Nothing;
        };
        // Several programs may share an identifier for their tables.
        if section.get(3..5) != Some(&number.to_be_bytes()) {
            return Update::Nothing;
        }
        let Some([a, b, c, d, rest @ ..]) = body(&section, 2) else {
            return Update::Nothing;
        };
        let info = usize::from(c & 15) << 8 | usize::from(*d);
        let Some(list) = rest.get(info..) else {
            return Update::Nothing;
        };
        let clock_pid = u16::from_be_bytes([*a, *b]) & 0x1fff;
        let streams = streams(list);
        self.clock_pid = clock_pid;
        // Also when the streams are the same: descriptors may have changed, and are written again.
        self.section = section;
        if self.streams == streams {
            return Update::Repeated;
        }
        self.streams = streams;
        Update::Changed
    }
}

/// What is between the header and the checksum of a current section of a table.
fn body(section: &[u8], table: u8) -> Option<&[u8]> {
    // A table that is announced for later does not hold yet.
    let current = section.first() == Some(&table) && section.get(5)? & 1 == 1;
    let end = section.len().checked_sub(4)?;
    if current { section.get(8..end) } else { None }
}

fn streams(mut list: &[u8]) -> Vec<Stream> {
    let mut streams = Vec::new();
    while let [kind, a, b, c, d, rest @ ..] = list {
        let info = usize::from(c & 15) << 8 | usize::from(*d);
        // A length beyond the end counts as all that is there: a damaged list loses its end alone.
        let (info, rest) = rest.split_at_checked(info).unwrap_or((rest, &[]));
        let pid = u16::from_be_bytes([*a, *b]) & 0x1fff;
        if (16..0x1fff).contains(&pid) {
            streams.push(Stream {
                pid,
                coding: coding(*kind, info),
                kind: *kind,
            });
        }
        list = rest;
    }
    streams
}

fn coding(kind: u8, descriptors: &[u8]) -> Coding {
    match kind {
        0x01 | 0x02 => Coding::Mpeg2,
        0x03 | 0x04 => Coding::MpegAudio,
        0x0f => Coding::Adts,
        0x11 => Coding::Latm,
        0x1b => Coding::H264,
        0x24 => Coding::Hevc,
        0x81 => Coding::Ac3,
        0x87 => Coding::Eac3,
        0x06 => private(descriptors),
        _ => Coding::Other,
    }
}

/// Private streams tell their codec by a descriptor.
fn private(mut descriptors: &[u8]) -> Coding {
    while let [tag, len, rest @ ..] = descriptors {
        let (value, rest) = rest
            .split_at_checked(usize::from(*len))
            .unwrap_or((rest, &[]));
        match (tag, value) {
            (0x6a, _) | (0x05, b"AC-3") => return Coding::Ac3,
            (0x7a, _) | (0x05, b"EAC3") => return Coding::Eac3,
            (0x05, b"Opus") => return Coding::Opus,
            (0x05, b"HEVC") => return Coding::Hevc,
            _ => {}
        }
        descriptors = rest;
    }
    Coding::Other
}

/// Writes the tables of a program, counting on where the last ones ended.
#[derive(Debug)]
pub(super) struct Writer {
    // By identifier, as continuity is counted (ISO/IEC 13818-1 section 2.4.3.3).
    counters: Box<[u8]>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            counters: vec![0; PIDS].into(),
        }
    }

    /// Appends PAT and PMT; nothing before the first PMT.
    pub(super) fn write(&mut self, tables: &Tables, out: &mut Vec<u8>) {
        let Some((stream, number, pid)) = tables.program else {
            return;
        };
        if tables.section.is_empty() {
            return;
        }
        // Written anew with this program alone: the others are not in the segment.
        let mut pat = vec![0, 0xb0, 13];
        pat.extend(stream.to_be_bytes());
        pat.extend([0xc1, 0, 0]);
        pat.extend(number.to_be_bytes());
        pat.extend((pid | 0xe000).to_be_bytes());
        pat.extend(crc(&pat).to_be_bytes());
        self.section(PAT_PID, &pat, out);
        self.section(pid, &tables.section, out);
    }

    fn section(&mut self, pid: u16, section: &[u8], out: &mut Vec<u8>) {
        let Some(counter) = self.counters.get_mut(usize::from(pid)) else {
            return;
        };
        // The pointer: the section begins at once.
        let mut bytes = vec![0];
        bytes.extend_from_slice(section);
        for (index, chunk) in bytes.chunks(LEN - 4).enumerate() {
            let [high, low] = pid.to_be_bytes();
            let start = if index == 0 { 0x40 } else { 0 };
            let end = out.len() + LEN;
            out.extend([SYNC, high | start, low, 0x10 | *counter]);
            out.extend_from_slice(chunk);
            out.resize(end, 0xff);
            *counter = (*counter + 1) & 15;
        }
    }
}

/// The checksum of sections (CRC-32/MPEG-2); zero over a section with its right checksum.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A section with header and checksum around `body`.
    pub(crate) fn section(table: u8, id: u16, version: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![table];
        bytes.extend((0xb000 | (body.len() + 9) as u16).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend([0xc1 | version << 1, 0, 0]);
        bytes.extend(body);
        bytes.extend(crc(&bytes).to_be_bytes());
        bytes
    }

    pub(crate) fn pat(programs: &[(u16, u16)]) -> Vec<u8> {
        let entry = |(number, pid): &(u16, u16)| [number.to_be_bytes(), pid.to_be_bytes()].concat();
        section(
            0,
            1,
            0,
            &programs.iter().flat_map(entry).collect::<Vec<_>>(),
        )
    }

    pub(crate) fn pmt(version: u8, streams: &[(u8, u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0xe1, 0, 0xf0, 0];
        for (kind, pid, info) in streams {
            body.push(*kind);
            body.extend((pid | 0xe000).to_be_bytes());
            body.extend((0xf000 | info.len() as u16).to_be_bytes());
            body.extend(*info);
        }
        section(2, 1, version, &body)
    }

    /// Packets that carry a section.
    pub(crate) fn packets(pid: u16, section: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Writer::new().section(pid, section, &mut out);
        out
    }

    fn feed(tables: &mut Tables, bytes: &[u8]) -> Vec<Update> {
        bytes
            .as_chunks::<LEN>()
            .0
            .iter()
            .map(|packet| tables.push(packet))
            .collect()
    }

    #[test]
    fn known_checksum() {
        assert_eq!(crc(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn a_table_over_several_packets_is_read_and_written_back() {
        let mut tables = Tables::default();
        let long = [0x05; 200];
        let table = pmt(0, &[(0x1b, 0x100, &long), (0x0f, 0x101, &long)]);
        feed(&mut tables, &packets(0, &pat(&[(0, 16), (1, 0x1000)])));
        assert_eq!(tables.pmt_pid(), Some(0x1000));
        let bytes = packets(0x1000, &table);
        assert_eq!(bytes.len(), 3 * LEN);
        assert_eq!(feed(&mut tables, &bytes).last(), Some(&Update::Changed));
        assert_eq!(feed(&mut tables, &bytes).last(), Some(&Update::Repeated));
        assert_eq!(
            tables.reference().map(|s| (s.pid, s.coding)),
            Some((0x100, Coding::H264))
        );

        let (mut out, mut writer) = (Vec::new(), Writer::new());
        writer.write(&tables, &mut out);
        writer.write(&tables, &mut out);
        let mut again = Tables::default();
        feed(&mut again, &out);
        assert_eq!(again.streams(), tables.streams());
        let counters: Vec<_> = out.chunks(LEN).map(|p| (p[2], p[3] & 15)).collect();
        assert_eq!(
            counters,
            [
                (0, 0),
                (0, 0),
                (0, 1),
                (0, 2),
                (0, 1),
                (0, 3),
                (0, 4),
                (0, 5)
            ]
        );
    }

    #[test]
    fn wrong_checksums_and_other_programs_are_ignored() {
        let mut tables = Tables::default();
        feed(&mut tables, &packets(0, &pat(&[(1, 0x1000)])));
        let mut bad = pmt(0, &[(0x1b, 0x100, &[])]);
        bad[13] ^= 1;
        assert_eq!(feed(&mut tables, &packets(0x1000, &bad)), [Update::Nothing]);
        let other = section(2, 9, 0, &[0xe1, 0, 0xf0, 0]);
        assert_eq!(
            feed(&mut tables, &packets(0x1000, &other)),
            [Update::Nothing]
        );
    }

    #[test]
    fn a_new_version_with_other_streams_is_a_change() {
        let mut tables = Tables::default();
        feed(&mut tables, &packets(0, &pat(&[(1, 0x1000)])));
        feed(
            &mut tables,
            &packets(0x1000, &pmt(0, &[(0x1b, 0x100, &[])])),
        );
        let second = packets(0x1000, &pmt(1, &[(0x24, 0x100, &[])]));
        assert_eq!(feed(&mut tables, &second), [Update::Changed]);
        let third = packets(0x1000, &pmt(2, &[(0x24, 0x100, &[])]));
        assert_eq!(feed(&mut tables, &third), [Update::Repeated]);
    }

    #[test]
    fn private_streams_tell_their_codec() {
        assert_eq!(coding(6, b"\x05\x04Opus"), Coding::Opus);
        assert_eq!(coding(6, &[0x0a, 0, 0x6a, 1, 0]), Coding::Ac3);
        assert_eq!(coding(6, &[0x59, 9]), Coding::Other);
    }
}
