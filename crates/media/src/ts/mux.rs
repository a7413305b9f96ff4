//! Frames as an MPEG transport stream (ISO/IEC 13818-1), for programs that take no other.

use bytes::Bytes;

use super::packet::{LEN, SYNC};
use super::tables::crc;
use crate::cmaf::Configuration;
use crate::frame::{Frame, Item, TRACKS_MAX, Track};
use crate::{Error, Kind, TICKS_PER_SECOND};

const PMT_PID: u16 = 0x1000;
const FIRST_PID: u16 = 0x100;
/// How long before its decode time a frame arrives: receivers need time to fill their buffers.
const DELAY: i64 = TICKS_PER_SECOND.cast_signed() / 2;
/// Tables are repeated as often, at the least, so that one can begin to watch.
const TABLES_EVERY: i64 = TICKS_PER_SECOND.cast_signed() / 2;
/// Bytes of a packet behind its header.
const BODY: usize = LEN - 4;

/// Writes frames as packets of a transport stream with one programme.
///
/// H.264, HEVC and AAC have a place in it; a track of another codec is an error, as a stream that
/// silently lacks its sound helps nobody.
#[derive(Debug, Default)]
pub struct Muxer {
    tracks: [Option<Out>; TRACKS_MAX],
    /// Version of the table of tracks.
    version: u8,
    /// Continuity counters of the two tables.
    tables: [u8; 2],
    told: Option<i64>,
    out: Vec<u8>,
}

#[derive(Debug)]
struct Out {
    track: Track,
    config: Configuration,
    counter: u8,
}

impl Out {
    const fn stream_type(&self) -> u8 {
        match self.config {
            Configuration::H264 { .. } => 0x1b,
            Configuration::Hevc { .. } => 0x24,
            Configuration::Aac { .. } => 0x0f,
        }
    }

    /// The bytes of a frame as a transport stream has them.
    fn elementary(&self, frame: &Frame) -> Vec<u8> {
        let mut data = Vec::with_capacity(frame.data.len() + 128);
        match &self.config {
            Configuration::H264 { length, sets } => {
                // An access unit delimiter, which is a must here (section 2.14.1).
                annex_b(&mut data, &[0x09, 0xf0]);
                video(&mut data, frame, *length, sets);
            }
            Configuration::Hevc { length, sets } => {
                annex_b(&mut data, &[0x46, 0x01, 0x50]);
                video(&mut data, frame, *length, sets);
            }
            Configuration::Aac {
                kind,
                rate,
                channels,
            } => {
                adts(&mut data, *kind, *rate, *channels, frame.data.len());
                data.extend_from_slice(&frame.data);
            }
        }
        data
    }
}

impl Muxer {
    /// The packets that were made since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes what a demuxer gives.
    ///
    /// # Errors
    /// [`Error::NotForTransportStream`] for a codec that has no place in it.
    pub fn push(&mut self, item: Item) -> Result<(), Error> {
        match item {
            Item::Track(number, track) => self.track(number, track),
            Item::Frame(frame) => {
                self.frame(&frame);
                Ok(())
            }
            Item::Expected(_) | Item::LeftOut(_) => Ok(()),
        }
    }

    fn track(&mut self, number: usize, track: Track) -> Result<(), Error> {
        let Some(slot) = self.tracks.get_mut(number) else {
            return Ok(());
        };
        if slot
            .as_ref()
            .is_some_and(|old| old.track.entry == track.entry)
        {
            return Ok(());
        }
        let Some(config) = Configuration::of(&track.entry) else {
            return Err(Error::NotForTransportStream(name(&track)));
        };
        let counter = slot.as_ref().map_or(0, |old| old.counter);
        *slot = Some(Out {
            track,
            config,
            counter,
        });
        self.version = (self.version + 1) & 31;
        self.told = None;
        Ok(())
    }

    fn frame(&mut self, frame: &Frame) {
        let leader = self.leader();
        let is_leader = leader == Some(frame.track);
        let Some(out) = self.tracks.get(frame.track).and_then(Option::as_ref) else {
            return;
        };
        let is_video = out.track.kind() == Kind::Video;
        let is_due = self
            .told
            .is_none_or(|told| frame.dts - told >= TABLES_EVERY || frame.dts < told);
        if is_due || (is_video && frame.key) {
            self.write_tables();
            self.told = Some(frame.dts);
        }
        let Some(out) = self.tracks.get_mut(frame.track).and_then(Option::as_mut) else {
            return;
        };
        let data = out.elementary(frame);
        let pes = pes(frame, is_video, &data);
        let pid = pid_of(frame.track);
        let clock = is_leader.then_some(frame.dts);
        let marks = Marks {
            clock,
            is_random: frame.key && (is_video || is_leader),
        };
        packets(&mut self.out, pid, &mut out.counter, &marks, &pes);
    }

    /// The track that carries the clock: the first of video, else of sound.
    fn leader(&self) -> Option<usize> {
        let of = |kind| {
            let mut tracks = self.tracks.iter();
            tracks.position(|it| it.as_ref().is_some_and(|it| it.track.kind() == kind))
        };
        of(Kind::Video).or_else(|| of(Kind::Audio))
    }

    fn write_tables(&mut self) {
        let programmes = [0, 1, 0xe0 | (PMT_PID >> 8) as u8, PMT_PID as u8];
        let pat = section(0, 1, 0, &programmes);
        let clock_pid = pid_of(self.leader().unwrap_or(0));
        let mut body = vec![0xe0 | (clock_pid >> 8) as u8, clock_pid as u8, 0xf0, 0];
        for (number, out) in self.tracks.iter().enumerate() {
            if let Some(out) = out {
                let pid = pid_of(number);
                let place = [0xe0 | (pid >> 8) as u8, pid as u8, 0xf0, 0];
                body.push(out.stream_type());
                body.extend(place);
            }
        }
        let pmt = section(2, 1, self.version, &body);
        for (index, (pid, table)) in [(0, pat), (PMT_PID, pmt)].into_iter().enumerate() {
            if let Some(counter) = self.tables.get_mut(index) {
                packets(&mut self.out, pid, counter, &Marks::default(), &table);
            }
        }
    }
}

/// What people call the codec of a track.
fn name(track: &Track) -> &'static str {
    match track.entry.get(4..8) {
        Some(b"Opus") => "Opus",
        Some(b"av01") => "AV1",
        Some(b"vp08" | b"vp09") => "VP9",
        Some(b"fLaC") => "FLAC",
        _ => "a codec of this stream",
    }
}

const fn pid_of(track: usize) -> u16 {
    FIRST_PID + track as u16
}

/// A section with its pointer and check sum (section 2.4.4).
fn section(table: u8, id: u16, version: u8, body: &[u8]) -> Vec<u8> {
    // Behind the length: five bytes, the body, the check sum.
    let length = body.len() + 9;
    let mut section = vec![table, 0xb0 | (length >> 8) as u8, length as u8];
    section.extend(id.to_be_bytes());
    section.extend([0xc1 | version << 1, 0, 0]);
    section.extend_from_slice(body);
    let sum = crc(&section);
    section.extend(sum.to_be_bytes());
    section.insert(0, 0);
    section
}

/// What the first packet of a unit says beside it.
#[derive(Default)]
struct Marks {
    clock: Option<i64>,
    is_random: bool,
}

/// Writes a section or a PES packet as transport packets (section 2.4.3).
fn packets(out: &mut Vec<u8>, pid: u16, counter: &mut u8, marks: &Marks, data: &[u8]) {
    let is_table = pid == 0 || pid == PMT_PID;
    let mut rest = data;
    let mut is_first = true;
    while is_first || !rest.is_empty() {
        let mut field = Vec::new();
        if is_first && (marks.clock.is_some() || marks.is_random) {
            let flags = u8::from(marks.is_random) << 6 | u8::from(marks.clock.is_some()) << 4;
            field.push(flags);
            if let Some(clock) = marks.clock {
                // 33 bits of 90 kHz, six that are reserved, nine of 27 MHz.
                let base = masked(clock);
                let bytes = (base << 15 | 0x7e00).to_be_bytes();
                field.extend(bytes.get(2..).unwrap_or_default());
            }
        }
        let has_field = !field.is_empty();
        let room = BODY - if has_field { field.len() + 1 } else { 0 };
        let count = rest.len().min(room);
        let stuffing = room - count;
        out.extend([
            SYNC,
            u8::from(is_first) << 6 | (pid >> 8) as u8,
            pid as u8,
            if has_field || (stuffing > 0 && !is_table) {
                0x30
            } else {
                0x10
            } | *counter,
        ]);
        *counter = (*counter + 1) & 15;
        if is_table {
            out.extend_from_slice(rest);
            out.resize(out.len() + stuffing, 0xff);
        } else {
            adaptation(out, &field, stuffing);
            out.extend_from_slice(rest.get(..count).unwrap_or_default());
        }
        rest = rest.get(count..).unwrap_or_default();
        is_first = false;
    }
}

/// The adaptation field, with `stuffing` bytes more than the packet would have without any.
fn adaptation(out: &mut Vec<u8>, field: &[u8], stuffing: usize) {
    if field.is_empty() {
        // One byte of stuffing is a length of 0; the flags are the second.
        let Some(length) = stuffing.checked_sub(1) else {
            return;
        };
        out.push(length as u8);
        if length > 0 {
            out.push(0);
            out.resize(out.len() + length - 1, 0xff);
        }
        return;
    }
    out.push((field.len() + stuffing) as u8);
    out.extend_from_slice(field);
    out.resize(out.len() + stuffing, 0xff);
}

/// A PES packet with both time stamps (section 2.4.3.6).
fn pes(frame: &Frame, is_video: bool, data: &[u8]) -> Vec<u8> {
    let mut pes = Vec::with_capacity(data.len() + 19);
    pes.extend([0, 0, 1, if is_video { 0xe0 } else { 0xc0 }]);
    let has_dts = frame.dts != frame.pts;
    let header = if has_dts { 10 } else { 5 };
    // Of video the length may be left open, and has to be where it does not fit.
    let length = u16::try_from(data.len() + 3 + header).ok();
    pes.extend(length.filter(|_| !is_video).unwrap_or(0).to_be_bytes());
    pes.extend([0x84, if has_dts { 0xc0 } else { 0x80 }, header as u8]);
    stamp(&mut pes, if has_dts { 3 } else { 2 }, frame.pts + DELAY);
    if has_dts {
        stamp(&mut pes, 1, frame.dts + DELAY);
    }
    pes.extend_from_slice(data);
    pes
}

fn stamp(out: &mut Vec<u8>, mark: u8, time: i64) {
    let time = masked(time);
    out.push(mark << 4 | (time >> 29) as u8 & 0x0e | 1);
    out.push((time >> 22) as u8);
    out.push((time >> 14) as u8 | 1);
    out.push((time >> 7) as u8);
    out.push((time << 1) as u8 | 1);
}

/// The 33 bits of a time stamp.
const fn masked(time: i64) -> u64 {
    time.cast_unsigned() & 0x1_ffff_ffff
}

fn annex_b(out: &mut Vec<u8>, unit: &[u8]) {
    out.extend([0, 0, 0, 1]);
    out.extend_from_slice(unit);
}

fn video(out: &mut Vec<u8>, frame: &Frame, length: usize, sets: &[Bytes]) {
    if frame.key {
        for set in sets {
            annex_b(out, set);
        }
    }
    let mut rest = frame.data.as_ref();
    while let Some((size, after)) = rest.split_at_checked(length) {
        let size = size
            .iter()
            .fold(0, |size, byte| size << 8 | usize::from(*byte));
        let unit = after.get(..size.min(after.len())).unwrap_or_default();
        annex_b(out, unit);
        rest = after.get(unit.len()..).unwrap_or_default();
    }
}

/// A header of seven bytes (ISO/IEC 14496-3 section 1.A.2.2).
fn adts(out: &mut Vec<u8>, kind: u8, rate: u8, channels: u8, length: usize) {
    let length = length + 7;
    out.extend([
        0xff,
        0xf1,
        (kind - 1) << 6 | rate << 2 | channels >> 2,
        (channels & 3) << 6 | (length >> 11) as u8 & 3,
        (length >> 3) as u8,
        (length << 5) as u8 | 0x1f,
        0xfc,
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Demuxer as _;
    use crate::ts::Demuxer;

    const SPS: [u8; 27] = [
        0x67, 0x64, 0, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0, 0, 3, 0, 4,
        0, 0, 3, 0, 0xc8, 0x3c, 0x60, 0xc6, 0x58,
    ];

    fn tracks() -> [Item; 2] {
        let mut config = vec![1, 0x64, 0, 0x28, 0xff, 0xe1, 0, SPS.len() as u8];
        config.extend(SPS);
        config.extend([1, 0, 2, 0x68, 0xee]);
        [
            Item::Track(0, Track::h264(&config).unwrap()),
            Item::Track(1, Track::aac(&[0x11, 0x90]).unwrap()),
        ]
    }

    /// A picture of so many bytes, and sound that lasts as long.
    fn frames(number: i64, length: usize) -> [Frame; 2] {
        let kind = if number % 10 == 0 { 0x65 } else { 0x41 };
        let mut picture = (length as u32).to_be_bytes().to_vec();
        picture.push(kind);
        picture.extend((1..length).map(|at| (at % 251) as u8 + 1));
        let frame = |track, key, pts, data: Vec<u8>| Frame {
            track,
            dts: number * 1920,
            pts,
            samples: 0,
            key,
            data: data.into(),
        };
        let sound = vec![number as u8 | 1; 100 + length % 57];
        [
            frame(0, number % 10 == 0, number * 1920 + 3600, picture),
            frame(1, true, number * 1920, sound),
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut muxer = Muxer::default();
        for track in tracks() {
            muxer.push(track).unwrap();
        }
        // Lengths around those of a packet, where stuffing is the hardest, and one of many packets.
        let lengths = (100..480).chain([70_000]);
        let all: Vec<Frame> = lengths
            .enumerate()
            .flat_map(|(number, length)| frames(number as i64, length))
            .collect();
        let mut bytes = Vec::new();
        for frame in &all {
            muxer.push(Item::Frame(frame.clone())).unwrap();
            bytes.extend(muxer.take());
        }
        assert!(bytes.len().is_multiple_of(LEN));
        assert!(bytes.chunks(LEN).all(|packet| packet[0] == SYNC));
        let mut demuxer = Demuxer::default();
        demuxer.push(&bytes).unwrap();
        demuxer.finish().unwrap();
        let mut read = Vec::new();
        let mut entries = 0;
        while let Some(item) = demuxer.pop() {
            match item {
                Item::Frame(frame) => read.push(frame),
                Item::Track(..) => entries += 1,
                _ => {}
            }
        }
        assert_eq!(entries, 2);
        for track in 0..2 {
            let of = |frames: &[Frame]| -> Vec<(Bytes, bool, i64)> {
                let mine = frames.iter().filter(|frame| frame.track == track);
                mine.map(|it| (it.data.clone(), it.key, it.pts - it.dts))
                    .collect()
            };
            assert_eq!(of(&read), of(&all), "track {track}");
        }
        let times: Vec<i64> = read
            .iter()
            .filter(|it| it.track == 0)
            .map(|it| it.dts)
            .collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1920));
    }

    #[test]
    fn what_has_no_place_is_refused_by_its_name() {
        let opus = Track::opus(b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0").unwrap();
        let error = Muxer::default().push(Item::Track(0, opus)).unwrap_err();
        assert!(
            error.to_string().starts_with("Opus has no place"),
            "{error}"
        );
    }
}
