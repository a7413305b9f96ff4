//! Packs streams, made up and by ffmpeg: nothing is lost, nothing comes twice, the lengths hold,
//! and ffmpeg decodes what comes out.

mod common;

use bytes::Bytes;
use common::packed::{Packed, frames, items, pack, packets, ts_items};
use common::{folder, hashes, make};
use lavant_media::frame::{Frame, Item, Track};
use lavant_media::live::{self, Config, Packager};
use lavant_media::{TICKS_PER_SECOND, cmaf};
use proptest::prelude::*;

/// What happens to a stream beside its going on.
#[derive(Debug, Clone, Copy)]
enum Incident {
    /// Nothing comes for so many ticks, of both tracks, of pictures, or of sound.
    Hole(u64, [bool; 2]),
    /// Time goes on elsewhere, at a key frame.
    Jump(i64),
    /// A frame comes from so many ticks away.
    Stray(usize, i64),
}

/// A stream that is made up.
#[derive(Debug, Clone)]
struct Source {
    /// Ticks of a picture, and pictures from key frame to key frame, by turns.
    interval: u64,
    groups: Vec<usize>,
    /// Whether pictures come out of order, whether there is sound, and whether times are whole
    /// milliseconds.
    reordered: bool,
    sound: bool,
    rounded: bool,
    /// The first decode time, and ticks that the stream lasts.
    begin: i64,
    length: u64,
    /// When they happen, in ticks from the beginning.
    incidents: Vec<(u64, Incident)>,
}

/// What is sent, and the numbers of the frames that must come out, by track.
struct Sent {
    items: Vec<Item>,
    expected: [Vec<u64>; 2],
}

impl Source {
    fn send(&self) -> Sent {
        let (video, audio) = (picture_track(), sound_track());
        let mut sent = Sent {
            items: vec![Item::Expected(1 + usize::from(self.sound))],
            expected: [Vec::new(), Vec::new()],
        };
        sent.items.push(Item::Track(0, video));
        if self.sound {
            sent.items.push(Item::Track(1, audio));
        }
        let mut incidents = self.incidents.clone();
        incidents.sort_by_key(|(at, _)| *at);
        let mut incidents = incidents.into_iter().peekable();
        let (mut shift, mut silent) = (self.begin, [0, 0]);
        let (mut picture, mut sounds, mut group, mut number) = (0, 0, 0, 0);
        // Where the line of time begins: sound before its first picture is left out.
        let (mut first, mut early) = (None, Vec::new());
        let (mut left, mut quiet) = (0, 0);
        loop {
            let times = [
                picture * self.interval,
                sounds * 1024 * TICKS_PER_SECOND / 48_000,
            ];
            let track = usize::from(self.sound && times[1] < times[0]);
            let now = times[track];
            if now >= self.length {
                return sent;
            }
            number += 1;
            if let Some((_, incident)) = incidents.next_if(|(at, _)| *at <= now) {
                // What begins another line shows with the second frame.
                let lasts = match incident {
                    Incident::Hole(ticks, _) => ticks,
                    _ => 0,
                };
                match incident {
                    _ if now + lasts + 180_000 > self.length => {}
                    // Two that meet are another one.
                    _ if now < quiet => {}
                    Incident::Hole(ticks, tracks) => {
                        for (silent, _) in silent.iter_mut().zip(tracks).filter(|(_, it)| *it) {
                            *silent = now + ticks;
                        }
                    }
                    Incident::Jump(ticks) => {
                        shift += ticks;
                        (left, first) = (0, None);
                        early.clear();
                    }
                    Incident::Stray(track, ticks) if track == 0 || self.sound => {
                        let dts = self.time(now, shift) + ticks;
                        sent.push(track, number, dts, 0, false);
                        number += 1;
                    }
                    Incident::Stray(..) => {}
                }
                quiet = quiet.max(now + lasts + 180_000);
            }
            let dts = self.time(now, shift);
            let silent = now < silent[track];
            if track == 1 {
                sounds += 1;
                if !silent {
                    sent.push(1, number, dts, 0, true);
                    match first {
                        Some(first) if dts < first => {}
                        Some(_) => sent.expected[1].push(number),
                        None => early.push((number, dts)),
                    }
                }
                continue;
            }
            picture += 1;
            let key = left == 0;
            if silent {
                // The hole ends with whatever comes, but for the beginning of a line.
                left = if first.is_some() { left.max(1) - 1 } else { 0 };
                continue;
            }
            if key {
                left = self.groups[group % self.groups.len()];
                group += 1;
            }
            left -= 1;
            let first = *first.get_or_insert(dts);
            let kept = early.drain(..).filter(|(_, dts)| *dts >= first);
            sent.expected[1].extend(kept.map(|(number, _)| number));
            let late = if self.reordered {
                [1, 3, 0][left % 3]
            } else {
                0
            };
            sent.push(0, number, dts, late * self.interval.cast_signed(), key);
            sent.expected[0].push(number);
        }
    }

    fn time(&self, ticks: u64, shift: i64) -> i64 {
        let ticks = if self.rounded { ticks / 90 * 90 } else { ticks };
        ticks.cast_signed() + shift
    }
}

impl Sent {
    fn push(&mut self, track: usize, number: u64, dts: i64, late: i64, key: bool) {
        self.items.push(Item::Frame(Frame {
            track,
            dts,
            pts: dts + late,
            samples: if track == 1 { 1024 } else { 0 },
            key,
            data: Bytes::copy_from_slice(&number.to_be_bytes()),
        }));
    }
}

fn picture_track() -> Track {
    let mut config = vec![1, 0x64, 0, 0x28, 0xff, 0xe1, 0, 26];
    config.extend([
        0x67, 0x64, 0, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0xc0, 0x44, 0, 0, 3, 0, 4,
        0, 0, 3, 0, 0xc8, 0x3c, 0x60, 0xc6,
    ]);
    config.extend([1, 0, 2, 0x68, 0xee]);
    Track::h264(&config).unwrap()
}

fn sound_track() -> Track {
    Track::aac(&[0x11, 0x90]).unwrap()
}

fn source() -> impl Strategy<Value = Source> {
    let interval = prop_oneof![
        Just(1500u64),
        Just(1800),
        Just(3000),
        Just(3003),
        Just(3600),
        Just(3754),
        Just(7500),
        Just(18_000),
    ];
    let groups = prop_oneof![
        Just(vec![1]),
        Just(vec![60]),
        Just(vec![250]),
        proptest::collection::vec(1usize..300, 1..6),
    ];
    let far = 11 * 90_000i64..40_000_000;
    let far = prop_oneof![far.clone(), far.prop_map(|ticks| -ticks)];
    let tracks = prop_oneof![Just([true; 2]), Just([true, false]), Just([false, true])];
    let incident = prop_oneof![
        (90_000u64 / 4..9 * 90_000, tracks).prop_map(|(ticks, it)| Incident::Hole(ticks, it)),
        far.clone().prop_map(Incident::Jump),
        (0usize..2, far).prop_map(|(track, ticks)| Incident::Stray(track, ticks)),
    ];
    let length = 3 * 90_000u64..30 * 90_000;
    let incidents = proptest::collection::vec((0u64..30 * 90_000, incident), 0..4);
    (
        (interval, groups, -90_000i64..(1 << 33)),
        any::<[bool; 3]>(),
        (length, incidents),
    )
        .prop_map(
            |((interval, groups, begin), [reordered, sound, rounded], (length, incidents))| {
                Source {
                    interval,
                    groups,
                    reordered,
                    sound,
                    rounded,
                    begin,
                    length,
                    incidents,
                }
            },
        )
}

fn config() -> impl Strategy<Value = Config> {
    (18_000u64..90_000, 90_000u64..6 * 90_000).prop_map(|(part, segment)| Config {
        part,
        segment,
        ..Config::default()
    })
}

/// The numbers of the frames of a track, as they came out.
fn numbers(packed: &Packed, track: usize) -> Vec<u64> {
    let frames = packed.frames().into_iter();
    let own = frames.filter(|frame| frame.track == track);
    own.map(|frame| u64::from_be_bytes(*frame.data.first_chunk().unwrap()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn every_frame_comes_out_once(source in source(), config in config()) {
        let sent = source.send();
        let packed = pack(config, sent.items);
        for track in 0..2 {
            let (found, expected) = (numbers(&packed, track), &sent.expected[track]);
            let apart = found.iter().zip(expected).position(|(a, b)| a != b);
            let (have, want) = (found.len(), expected.len());
            prop_assert!(
                found == *expected,
                "track {track}: {have} frames of {want}, another at {apart:?}"
            );
        }
    }
}

#[test]
fn a_picture_every_dozen_seconds_is_kept() {
    for (seconds, sound) in [(12, true), (12, false), (25, true), (25, false)] {
        let source = Source {
            interval: seconds * TICKS_PER_SECOND,
            groups: vec![1],
            reordered: false,
            sound,
            rounded: false,
            begin: 1_000_000,
            length: 150 * TICKS_PER_SECOND,
            incidents: Vec::new(),
        };
        let sent = source.send();
        let packed = pack(Config::default(), sent.items);
        for track in 0..2 {
            let found = numbers(&packed, track);
            assert_eq!(found, sent.expected[track], "{seconds} s, {sound}, {track}");
        }
        let breaks = packed.segments.iter().filter(|it| it.discontinuity);
        assert_eq!(breaks.count(), 0, "{seconds} s, {sound}");
    }
}

#[test]
fn a_hole_while_the_target_is_not_known_makes_no_long_segment() {
    let source = Source {
        interval: 18_000,
        groups: vec![60],
        reordered: false,
        sound: true,
        rounded: false,
        begin: 0,
        length: 1062001,
        incidents: vec![(426241, Incident::Hole(606721, [true; 2]))],
    };
    let config = Config {
        part: 18_000,
        segment: 405_000,
        ..Config::default()
    };
    pack(config, source.send().items);
}

#[test]
fn a_source_whose_time_stands_still_takes_no_more_memory() {
    for (track, size, count) in [(0, 0, 100_000), (0, 1 << 10, 20_000), (1, 1 << 10, 20_000)] {
        let config = Config {
            max_bytes: 1 << 20,
            ..Config::default()
        };
        let mut packager = Packager::new(config);
        packager.push(Item::Track(0, picture_track())).unwrap();
        packager.push(Item::Track(1, sound_track())).unwrap();
        let data = Bytes::from(vec![0; size]);
        let mut worst = 0;
        for n in 0..count {
            let track = if n == 0 { 0 } else { track };
            let data = data.clone();
            let samples = 0;
            let (dts, pts, key) = (0, 0, n == 0);
            let frame = Frame {
                track,
                dts,
                pts,
                samples,
                key,
                data,
            };
            packager.push(Item::Frame(frame)).unwrap();
            while let Some(event) = packager.pop() {
                if let live::Event::Part(part) = event {
                    worst = worst.max(part.data.len());
                }
            }
        }
        packager.flush();
        while let Some(event) = packager.pop() {
            if let live::Event::Part(part) = event {
                worst = worst.max(part.data.len());
            }
        }
        // A sample has 16 bytes of header at most.
        assert!(
            worst <= (1 << 20) + (16 << 14) + 4096,
            "a part of {worst} bytes"
        );
    }
}

const SOUND: &str = "-f lavfi -i sine=sample_rate=48000:duration=6 -c:a aac";
const FRAGMENTS: &str = "-f mp4 -movflags +empty_moov+default_base_moof+frag_keyframe";

/// A source of ffmpeg must come out of the packager with every frame.
fn check_ffmpeg(name: &str, rate: u32, codec: &str, sound: &str) {
    let video = format!("-f lavfi -i testsrc2=size=160x90:rate={rate}:duration=6");
    let codec = format!("{codec} -pix_fmt yuv420p -g {}", rate * 2);
    for format in ["mpegts", "mp4"] {
        let path = folder(name).join("source").with_extension(format);
        let container = match format {
            "mp4" => FRAGMENTS,
            _ => "-f mpegts",
        };
        let file = make(&path, &format!("{video} {sound} {codec} {container}"));
        let found = match format {
            "mp4" => items(&mut cmaf::Demuxer::default(), &file, 64 << 10),
            _ => ts_items(&file),
        };
        let sent = frames(&found).len();
        let packed = pack(Config::default(), found);
        let (pictures, sounds) = packets(&path);
        assert_eq!((pictures as u32, sent), (rate * 6, pictures + sounds));
        assert!(packed.segments.iter().all(|segment| segment.independent));
        assert_eq!(packed.frames().len(), sent);
        let out = path.with_extension("out.mp4");
        let (source, found) = (hashes(&path), packed.hashes(&out));
        assert!(
            found == source,
            "{format}: {} of {}",
            found.len(),
            source.len()
        );
        assert_eq!(packets(&out), (pictures, sounds));
        let last = packed.segments.last().unwrap();
        let (end, frame) = (last.start + last.duration, 90_000 / u64::from(rate));
        // Pictures are decoded up to two before they are shown, and sound ends in a whole frame.
        let most = 540_000 + 2 * frame + 4000;
        assert!((540_000 - frame..most).contains(&end), "{format}: {end}");
    }
}

#[test]
fn h264_with_pictures_out_of_order_and_aac_are_decoded() {
    let codec = "-c:v libx264 -preset ultrafast -bf 2";
    check_ffmpeg("live_h264", 25, codec, SOUND);
    check_ffmpeg("live_60", 60, codec, SOUND);
}

#[test]
fn hevc_is_decoded() {
    let codec = "-c:v libx265 -preset ultrafast -bf 2 -x265-params log-level=0 -tag:v hvc1";
    check_ffmpeg("live_hevc", 24, codec, SOUND);
}

#[test]
fn rare_pictures_beside_sound_are_decoded() {
    let folder = folder("live_rare");
    let args = "-f lavfi -i testsrc2=s=320x180:r=1/12 -f lavfi -i sine=r=48000 -t 70 \
                -c:v libx264 -preset ultrafast -g 1 -pix_fmt yuv420p -c:a aac \
                -max_interleave_delta 0 -f mpegts";
    let source = folder.join("source.ts");
    let data = make(&source, args);
    let packed = pack(Config::default(), ts_items(&data));
    let (sent, came) = (hashes(&source), packed.hashes(&folder.join("packed.mp4")));
    let pictures = |all: &[(String, String)]| all.iter().filter(|it| it.0 == "0").count();
    assert_eq!(pictures(&came), pictures(&sent));
    // Sound that comes before the first picture is left out.
    assert!(
        came.len() + 10 >= sent.len(),
        "{} of {}",
        came.len(),
        sent.len()
    );
}

#[test]
fn pictures_alone_are_decoded() {
    check_ffmpeg("live_alone", 30, "-c:v libx264 -preset ultrafast", "");
}
