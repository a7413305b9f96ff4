//! Transport streams made packet by packet.

mod common;

use common::{drive, segments};
use lavant_media::frame::{Demuxer, Item};
use lavant_media::{Config, Error, Event, Format, Segment, ts};

const VIDEO: u16 = 0x100;
const SECOND: u64 = 90_000;
const IDR: [u8; 6] = [0, 0, 1, 0x65, 1, 2];
/// Parameter sets of H.264.
const SETS: [u8; 20] = [
    0, 0, 1, 0x67, 66, 0xc0, 30, 0xd9, 0, 0xa0, 0x47, 0xfe, 0x88, 0, 0, 1, 0x68, 0xce, 6, 0xe2,
];
const PLAIN: [u8; 6] = [0, 0, 1, 0x41, 1, 2];
const CONFIG: Config = Config {
    target: 2 * SECOND,
    max_duration: 8 * SECOND,
    max_bytes: 1 << 20,
};

/// Makes packets with right continuity counters.
#[derive(Default)]
struct Mux {
    out: Vec<u8>,
    counters: std::collections::BTreeMap<u16, u8>,
}

impl Mux {
    /// One packet; the payload is filled up by an adaptation field with these flags.
    fn packet(&mut self, pid: u16, start: bool, flags: u8, payload: &[u8]) {
        let counter = self.counters.entry(pid).or_default();
        let [high, low] = pid.to_be_bytes();
        self.out.extend([
            0x47,
            high | if start { 0x40 } else { 0 },
            low,
            0x30 | *counter,
        ]);
        *counter = (*counter + 1) & 15;
        let fill = 183 - payload.len();
        self.out.push(fill as u8);
        if fill > 0 {
            self.out.push(flags);
            self.out.extend(vec![0xff; fill - 1]);
        }
        self.out.extend(payload);
    }

    fn section(&mut self, pid: u16, table: u8, body: &[u8]) {
        let mut bytes = vec![table];
        bytes.extend((0xb000 | (body.len() as u16 + 9)).to_be_bytes());
        bytes.extend([0, 1, 0xc1, 0, 0]);
        bytes.extend(body);
        bytes.extend(crc(&bytes).to_be_bytes());
        bytes.insert(0, 0);
        self.packet(pid, true, 0, &bytes);
    }

    fn tables(&mut self, streams: &[(u8, u16)]) {
        self.section(0, 0, &[0, 1, 0xf0, 0]);
        let mut body = vec![0xe1, 0, 0xf0, 0];
        for (kind, pid) in streams {
            body.push(*kind);
            body.extend((pid | 0xe000).to_be_bytes());
            body.extend([0xf0, 0]);
        }
        self.section(0x1000, 2, &body);
    }

    fn frame(&mut self, pid: u16, time: u64, flags: u8, body: &[u8]) {
        let mut pes = vec![0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5];
        let t = time % (1 << 33);
        pes.extend([
            0x21 | (t >> 29 & 14) as u8,
            (t >> 22) as u8,
            (t >> 14) as u8 | 1,
            (t >> 7) as u8,
            (t << 1) as u8 | 1,
        ]);
        pes.extend(body);
        for (index, part) in pes.chunks(180).enumerate() {
            self.packet(pid, index == 0, if index == 0 { flags } else { 0 }, part);
        }
    }

    /// Frames at 10 a second, with a key frame every `gop`.
    fn video(&mut self, from: u64, frames: u64, gop: u64) {
        for n in 0..frames {
            let body = if n % gop == 0 { &IDR } else { &PLAIN };
            self.frame(VIDEO, from + n * SECOND / 10, 0, body);
        }
    }
}

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
        })
    })
}

fn cut(mux: &Mux) -> Vec<Segment> {
    segments(Format::TransportStream, CONFIG, &mux.out)
}

fn refusal(mux: &Mux) -> Error {
    drive(Format::TransportStream, CONFIG, &mux.out, 1000)
        .1
        .unwrap_err()
}

fn durations(found: &[Segment]) -> Vec<u64> {
    found
        .iter()
        .map(|segment| segment.duration / 9_000)
        .collect()
}

fn video_only() -> Mux {
    let mut mux = Mux::default();
    mux.tables(&[(0x1b, VIDEO)]);
    mux
}

#[test]
fn key_frames_are_found_without_marks() {
    let mut mux = video_only();
    mux.video(0, 50, 10);
    let found = cut(&mux);
    assert_eq!(durations(&found), [20, 20, 10]);
    assert!(
        found
            .iter()
            .all(|s| ts::inspect(&s.data).unwrap().starts_with_key_frame)
    );
}

#[test]
fn a_key_frame_deep_in_a_picture_is_found_and_cut_before() {
    let mut mux = video_only();
    let deep = |unit: &[u8]| [&[0, 0, 1, 9, 16, 0, 0, 1, 6][..], &[7; 400], unit].concat();
    for n in 0..50 {
        let body = deep(if n % 10 == 0 { &IDR } else { &PLAIN });
        mux.frame(VIDEO, n * 9_000, 0, &body);
        if n % 5 == 0 {
            mux.tables(&[(0x1b, VIDEO)]);
        }
    }
    let found = cut(&mux);
    assert_eq!(durations(&found), [20, 20, 10]);
    let starts = |s: &Segment| {
        s.data
            .chunks(188)
            .filter(|p| p[1] & 0x40 != 0 && p[1] & 31 == 1)
            .count()
    };
    assert_eq!(found.iter().map(starts).collect::<Vec<_>>(), [20, 20, 10]);
    assert!(
        found
            .iter()
            .all(|s| ts::inspect(&s.data).unwrap().starts_with_key_frame)
    );
    let (whole, _) = drive(Format::TransportStream, CONFIG, &mux.out, mux.out.len());
    assert_eq!(
        drive(Format::TransportStream, CONFIG, &mux.out, 11).0,
        whole
    );
}

#[test]
fn marks_are_believed() {
    let mut mux = video_only();
    for n in 0..50 {
        mux.frame(VIDEO, n * 9_000, if n % 25 == 0 { 0x40 } else { 0 }, &PLAIN);
    }
    assert_eq!(durations(&cut(&mux)), [25, 25]);
}

#[test]
fn what_comes_before_the_first_key_frame_is_dropped() {
    let mut mux = Mux::default();
    mux.tables(&[(0x0f, 0x101), (0x1b, VIDEO)]);
    mux.frame(0x101, 0, 0x40, &[1]);
    for n in 0..5 {
        mux.frame(VIDEO, n * 9_000, 0, &PLAIN);
    }
    mux.video(5 * 9_000, 10, 10);
    let found = cut(&mux);
    assert_eq!(durations(&found), [10]);
    assert!(
        found[0]
            .data
            .chunks(188)
            .all(|p| (p[1] & 31, p[2]) != (1, 1))
    );
}

#[test]
fn a_jump_in_time_is_a_discontinuity() {
    let mut mux = video_only();
    mux.video(100 * SECOND, 15, 10);
    mux.video(111 * SECOND + SECOND / 2, 15, 10);
    mux.video(50 * SECOND, 15, 10);
    let found = cut(&mux);
    assert_eq!(durations(&found), [15, 15, 15]);
    let breaks: Vec<_> = found.iter().map(|segment| segment.discontinuity).collect();
    assert_eq!(breaks, [false, true, true]);
    assert_eq!(found[2].start, 3 * SECOND);
}

#[test]
fn other_streams_in_the_table_are_a_discontinuity() {
    let mut mux = video_only();
    mux.video(0, 10, 10);
    mux.tables(&[(0x24, VIDEO)]);
    for n in 10..20 {
        mux.frame(
            VIDEO,
            n * 9_000,
            0,
            &[0, 0, 1, if n == 10 { 0x26 } else { 2 }, 1],
        );
    }
    let found = cut(&mux);
    assert_eq!(durations(&found), [10, 10]);
    assert!(found[1].discontinuity);
    assert_eq!(
        ts::inspect(&found[1].data).unwrap().codecs().as_deref(),
        Some("hvc1")
    );
}

#[test]
fn packets_of_no_use_are_left_out() {
    let mut mux = video_only();
    mux.video(0, 5, 10);
    mux.packet(0x1fff, false, 0, &[0; 100]);
    mux.packet(0x222, true, 0, &[0; 100]);
    let at = mux.out.len();
    mux.packet(VIDEO, false, 0, &[0; 100]);
    mux.out[at + 1] |= 0x80;
    let found = cut(&mux);
    assert_eq!(found[0].data.len(), 188 * 7);
}

#[test]
fn the_first_of_several_programs_is_carried() {
    let mut mux = Mux::default();
    mux.section(0, 0, &[0, 0, 0xe0, 16, 0, 1, 0xf0, 0, 0, 2, 0xf0, 1]);
    mux.section(0x1000, 2, &[0xe1, 0, 0xf0, 0, 0x1b, 0xe1, 0, 0xf0, 0]);
    mux.section(0x1001, 2, &[0xe2, 0, 0xf0, 0, 0x1b, 0xe2, 0, 0xf0, 0]);
    for n in 0..10 {
        mux.frame(0x200, n * 9_000, 0, &IDR);
        mux.frame(VIDEO, n * 9_000, 0, &IDR);
    }
    let found = cut(&mux);
    assert_eq!(found[0].data.len(), 188 * 12);
    assert_eq!(ts::inspect(&found[0].data).unwrap().streams.len(), 1);
}

#[test]
fn refusals_say_what_is_wrong() {
    assert_eq!(
        refusal(&Mux {
            out: vec![1; 5000],
            ..Mux::default()
        }),
        Error::NotTransportStream
    );
    let mut mux = Mux::default();
    mux.video(0, 30, 10);
    assert_eq!(refusal(&mux), Error::NoProgram);
    let mut mux = Mux::default();
    mux.tables(&[(0x99, VIDEO)]);
    mux.video(0, 30, 10);
    assert_eq!(refusal(&mux), Error::NoMedia);
    let mut mux = video_only();
    mux.frame(VIDEO, 0, 0, &PLAIN);
    assert_eq!(refusal(&mux), Error::NoKeyFrame);
    let mut mux = video_only();
    let at = mux.out.len();
    mux.video(0, 1, 1);
    mux.out[at + 3] |= 0x80;
    assert_eq!(refusal(&mux), Error::Encrypted);
    let mut mux = video_only();
    mux.video(0, 82, 100);
    let (gap, max) = (81 * 9_000, 8 * SECOND);
    assert_eq!(refusal(&mux), Error::KeyFrameGap { at: gap, gap, max });
    assert!(matches!(ts::inspect(&[]), Err(Error::NotTransportStream)));
    assert!(matches!(
        ts::inspect(&mux.out[..400]),
        Err(Error::Malformed { .. })
    ));
}

#[test]
fn a_refusal_is_final_and_keeps_what_was_cut() {
    let mut mux = video_only();
    mux.video(0, 40, 10);
    mux.video(4 * SECOND, 110, 1000);
    let mut segmenter = Format::TransportStream.segmenter(CONFIG);
    let first = segmenter.push(&mux.out).unwrap_err();
    assert_eq!(segmenter.push(&[]), Err(first));
    assert_eq!(segmenter.finish(), Err(first));
    assert!(matches!(segmenter.pop(), Some(Event::Segment(s)) if s.duration == 2 * SECOND));
    let mut segmenter = Format::TransportStream.segmenter(CONFIG);
    let mut mux = video_only();
    mux.video(0, 10, 10);
    assert_eq!(
        (segmenter.push(&mux.out), segmenter.finish()),
        (Ok(()), Ok(()))
    );
    assert_eq!(segmenter.push(&[0]), Err(Error::Finished));
}

/// Pictures of a stream, some of whose packets are scrambled, and how it ended.
fn watched(mux: &Mux, scrambled: impl Fn(usize) -> bool) -> (usize, Result<(), Error>) {
    let mut bytes = mux.out.clone();
    let of_video = bytes.chunks_mut(188).filter(|it| it[1] & 0x1f == 1);
    for (_, packet) in of_video.enumerate().filter(|(no, _)| scrambled(*no)) {
        packet[3] |= 0x80;
    }
    let mut demuxer = ts::Demuxer::default();
    let result = demuxer.push(&bytes).and_then(|()| demuxer.finish());
    let items = std::iter::from_fn(|| demuxer.pop());
    let frames = items.filter(|item| matches!(item, Item::Frame(_)));
    (frames.count(), result)
}

#[test]
fn single_scrambled_packets_are_damage_and_many_are_encryption() {
    let mut mux = video_only();
    for n in 0..2000 {
        let body = [&SETS[..], &IDR].concat();
        mux.frame(VIDEO, n * 3_600, 0, &body);
    }
    let (all, result) = watched(&mux, |_| false);
    assert_eq!((all, result), (2000, Ok(())));
    // One in a hundred, and a disturbance of four seconds.
    let (frames, result) = watched(&mux, |no| no % 100 == 50);
    assert_eq!((frames, result), (1980, Ok(())));
    let (frames, result) = watched(&mux, |no| (500..600).contains(&no));
    assert_eq!((frames, result), (1900, Ok(())));
    assert_eq!(watched(&mux, |no| no >= 500), (500, Err(Error::Encrypted)));
    assert_eq!(watched(&mux, |_| true), (0, Err(Error::Encrypted)));
    let mut few = video_only();
    few.frame(VIDEO, 0, 0, &IDR);
    assert_eq!(watched(&few, |_| true), (0, Err(Error::Encrypted)));
}

#[test]
fn a_rare_picture_is_given_before_the_next_one_comes() {
    let mut mux = Mux::default();
    mux.tables(&[(0x1b, VIDEO), (0x0f, 0x101)]);
    mux.frame(VIDEO, 0, 0, &[&SETS[..], &IDR].concat());
    let mut demuxer = ts::Demuxer::default();
    for n in 0..10 {
        mux.frame(0x101, n * SECOND / 10, 0, &[0; 20]);
    }
    demuxer.push(&mux.out).unwrap();
    let items = std::iter::from_fn(|| demuxer.pop());
    let frames: Vec<_> = items.filter(|it| matches!(it, Item::Frame(_))).collect();
    assert_eq!(frames.len(), 1);
}

#[test]
fn what_is_left_out_is_told() {
    let mut mux = Mux::default();
    mux.tables(&[(0x81, 0x101), (0x1b, VIDEO), (0x0f, 0x102), (0x0f, 0x103)]);
    let mut demuxer = ts::Demuxer::default();
    demuxer.push(&mux.out).unwrap();
    let _ = demuxer.finish();
    let items = std::iter::from_fn(|| demuxer.pop());
    let names = items.filter_map(|item| match item {
        Item::LeftOut(name) => Some(name),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["ac-3 audio", "a further mp4a.40.2 audio"]);
}
