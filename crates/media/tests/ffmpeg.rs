//! Cuts media that ffmpeg made, and has ffmpeg decode the segments.

mod common;

use std::path::{Path, PathBuf};

use common::{begins_with_key, drive, folder, hashes, make, segments, target};
use lavant_media::hls::{MediaPlaylist, MediaSegment};
use lavant_media::{
    Error, Event, Format, Inspection, Kind, Segment, TICKS_PER_SECOND, cmaf, sniff, ts,
};

const VIDEO: &str = "-f lavfi -i testsrc2=size=320x180:rate=25:duration=10";
const SOUND: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000:duration=10";
const H264: &str = "-c:v libx264 -preset ultrafast -level 1.3 -bf 2 -g 50 -pix_fmt yuv420p";
const FRAGMENTS: &str = "-f mp4 -movflags +empty_moov+default_base_moof+frag_keyframe";

/// What a stream must become.
struct Expected {
    /// Ticks of the whole stream, and of a frame.
    total: u64,
    frame: u64,
    segments: usize,
    codecs: &'static str,
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.duration).sum()
}

/// The same events must come however the input is divided.
fn check_division(format: Format, data: &[u8], config: lavant_media::Config) {
    let whole = drive(format, config, data, data.len());
    for piece in [1, 187, 189, 64 << 10] {
        assert!(
            drive(format, config, data, piece) == whole,
            "pieces of {piece} bytes"
        );
    }
}

fn check_times(found: &[Segment], expected: &Expected) {
    let sum = total(found);
    assert!(
        sum.abs_diff(expected.total) <= expected.frame,
        "{sum} ticks instead of {}",
        expected.total
    );
    assert_eq!(found.len(), expected.segments);
    let mut start = 0;
    for segment in found {
        assert_eq!(segment.start, start);
        assert!(!segment.discontinuity);
        start += segment.duration;
    }
}

fn check_inspection(inspection: &Inspection, segment: &Segment, expected: &Expected) {
    assert!(inspection.starts_with_key_frame);
    let apart = inspection.duration.abs_diff(segment.duration);
    assert!(
        apart <= expected.frame,
        "{} of {}",
        inspection.duration,
        segment.duration
    );
    assert_eq!(inspection.codecs().as_deref(), Some(expected.codecs));
}

/// Continuity counters of every stream must run on over all segments.
fn check_continuity(data: &[u8]) {
    let mut last = std::collections::BTreeMap::new();
    for packet in data.chunks(188) {
        let pid = u16::from_be_bytes([packet[1], packet[2]]) & 0x1fff;
        let (counter, payload) = (packet[3] & 15, packet[3] & 0x10 != 0);
        if let Some(last) = last.insert(pid, counter) {
            assert_eq!(counter, (last + u8::from(payload)) & 15, "stream {pid:#x}");
        }
    }
}

fn check_ts(name: &str, args: &str, millis: u64, expected: &Expected) -> Vec<Segment> {
    let folder = folder(name);
    let source = folder.join("source.ts");
    let data = make(&source, &format!("{args} -f mpegts"));
    assert_eq!(sniff(&data), Some(Format::TransportStream));
    let config = target(millis);
    let found = segments(Format::TransportStream, config, &data);
    check_times(&found, expected);
    let has_video = args.contains("-c:v");
    let joined: Vec<u8> = found
        .iter()
        .flat_map(|segment| segment.data.to_vec())
        .collect();
    check_continuity(&joined);
    std::fs::write(folder.join("joined.ts"), &joined).unwrap();
    let (before, after) = (hashes(&source), hashes(&folder.join("joined.ts")));
    assert!(!before.is_empty());
    assert!(
        before == after,
        "{} frames of {}",
        after.len(),
        before.len()
    );
    for segment in &found {
        let path = folder.join("segment.ts");
        std::fs::write(&path, &segment.data).unwrap();
        assert!(!has_video || begins_with_key(&path));
        check_inspection(&ts::inspect(&segment.data).unwrap(), segment, expected);
    }
    check_division(Format::TransportStream, &data, config);
    found
}

fn write_joined(path: &Path, init: &[u8], parts: &[&Segment]) {
    let mut all = init.to_vec();
    parts
        .iter()
        .for_each(|segment| all.extend_from_slice(&segment.data));
    std::fs::write(path, all).unwrap();
}

fn check_cmaf(name: &str, args: &str, millis: u64, expected: &Expected) {
    let folder = folder(name);
    let source = folder.join("source.mp4");
    let data = make(&source, args);
    assert_eq!(sniff(&data), Some(Format::Cmaf));
    let config = target(millis);
    let (events, result) = drive(Format::Cmaf, config, &data, 64 << 10);
    assert_eq!(result, Ok(()));
    let Some(Event::Init(init)) = events.first() else {
        panic!("no init segment first")
    };
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::Init(_)))
            .count(),
        1
    );
    let found = segments(Format::Cmaf, config, &data);
    check_times(&found, expected);
    let codecs: Vec<_> = cmaf::inspect_init(init)
        .unwrap()
        .into_iter()
        .map(|s| s.codec)
        .collect();
    assert_eq!(codecs.join(","), expected.codecs);
    write_joined(
        &folder.join("joined.mp4"),
        init,
        &found.iter().collect::<Vec<_>>(),
    );
    let (before, after) = (hashes(&source), hashes(&folder.join("joined.mp4")));
    assert!(!before.is_empty());
    assert!(
        before == after,
        "{} frames of {}",
        after.len(),
        before.len()
    );
    for segment in &found {
        let path = folder.join("segment.mp4");
        write_joined(&path, init, &[segment]);
        assert!(!args.contains("-c:v") || begins_with_key(&path));
        let inspection = cmaf::inspect(Some(init), &segment.data).unwrap();
        check_inspection(&inspection, segment, expected);
        assert_eq!(
            cmaf::inspect(None, &std::fs::read(&path).unwrap()),
            Ok(inspection)
        );
        assert_eq!(cmaf::inspect(None, &segment.data), Err(Error::NoInit));
    }
    check_division(Format::Cmaf, &data, config);
}

#[test]
fn h264_with_b_frames_and_aac_at_25() {
    let args = format!("{VIDEO} {SOUND} {H264} -c:a aac -b:a 96k");
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 5,
        codecs: "avc1.4d400d,mp4a.40.2",
    };
    let found = check_ts("h264_25", &args, 2000, &expected);
    assert!(found.iter().all(|segment| segment.duration == 180_000));
    let streams = ts::inspect(&found[0].data).unwrap().streams;
    assert_eq!(
        (streams[0].width, streams[0].height),
        (Some(320), Some(180))
    );
    assert_eq!(streams[0].frame_rate, Some(25.0));
    assert_eq!(
        (streams[1].sample_rate, streams[1].channels),
        (Some(48_000), Some(1))
    );
}

#[test]
fn h264_at_30000_1001_with_44100_hz() {
    let args = format!(
        "-f lavfi -i testsrc2=size=322x182:rate=30000/1001:duration=10 \
         -f lavfi -i sine=sample_rate=44100:duration=10 {H264} -c:a aac -ac 2"
    );
    let expected = Expected {
        total: 900_900,
        frame: 3004,
        segments: 3,
        codecs: "avc1.4d400d,mp4a.40.2",
    };
    let found = check_ts("h264_ntsc", &args, 3000, &expected);
    let streams = ts::inspect(&found[0].data).unwrap().streams;
    assert_eq!(
        (streams[0].width, streams[0].height),
        (Some(322), Some(182))
    );
    assert!((streams[0].frame_rate.unwrap() - 29.97).abs() < 0.001);
    assert_eq!(
        (streams[1].sample_rate, streams[1].channels),
        (Some(44_100), Some(2))
    );
}

#[test]
fn hevc_in_a_transport_stream() {
    let args = format!(
        "{VIDEO} {SOUND} -c:v libx265 -preset ultrafast -x265-params \
         log-level=none:keyint=50:min-keyint=50 -pix_fmt yuv420p -c:a aac"
    );
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 3,
        codecs: "hvc1.1.6.L60.90,mp4a.40.2",
    };
    let found = check_ts("hevc_ts", &args, 4000, &expected);
    let streams = ts::inspect(&found[0].data).unwrap().streams;
    assert_eq!(
        (streams[0].width, streams[0].height),
        (Some(320), Some(180))
    );
    assert!((streams[0].frame_rate.unwrap() - 25.0).abs() < 0.5);
}

#[test]
fn mpeg2_video_with_mp2() {
    let args = format!("{VIDEO} {SOUND} -c:v mpeg2video -g 12 -bf 2 -b:v 1M -c:a mp2 -b:a 64k");
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 5,
        codecs: "mp4v.61,mp4a.40.33",
    };
    check_ts("mpeg2", &args, 2000, &expected);
}

#[test]
fn aac_alone() {
    let args = format!("{SOUND} -c:a aac -b:a 96k");
    // The encoder adds 1024 samples before the sound.
    let expected = Expected {
        total: 900_000,
        frame: 2 * 1920,
        segments: 5,
        codecs: "mp4a.40.2",
    };
    check_ts(
        "aac",
        &args,
        2000,
        &Expected {
            frame: 16_000,
            ..expected
        },
    );
}

#[test]
fn mp3_alone() {
    let args = "-f lavfi -i sine=sample_rate=44100:duration=10 -c:a libmp3lame -b:a 128k";
    let expected = Expected {
        total: 900_000,
        frame: 16_000,
        segments: 5,
        codecs: "mp4a.40.34",
    };
    check_ts("mp3", args, 2000, &expected);
}

#[test]
fn the_sum_of_an_audio_stream_is_exact() {
    for (name, codec, frame) in [
        ("aac", "aac", 1920),
        ("mp3", "libmp3lame", 2160),
        ("ac3", "ac3", 2880),
    ] {
        let path = folder("exact").join(format!("{name}.ts"));
        let data = make(&path, &format!("{SOUND} -c:a {codec} -b:a 96k -f mpegts"));
        let frames = hashes(&path).len() as u64;
        let sum = total(&segments(Format::TransportStream, target(2000), &data));
        assert!(
            sum.abs_diff(frames * frame) <= frame,
            "{name}: {sum} of {frames} frames"
        );
    }
}

#[test]
fn video_alone() {
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 5,
        codecs: "avc1.4d400d",
    };
    check_ts("video", &format!("{VIDEO} {H264}"), 2000, &expected);
}

#[test]
fn time_stamps_that_wrap() {
    let args = format!("{VIDEO} {SOUND} {H264} -c:a aac -output_ts_offset 95438");
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 5,
        codecs: "avc1.4d400d,mp4a.40.2",
    };
    check_ts("wrap", &args, 2000, &expected);
}

#[test]
fn two_streams_one_after_the_other() {
    let folder = folder("joined_streams");
    let first = make(
        &folder.join("1.ts"),
        &format!("{VIDEO} {SOUND} {H264} -c:a aac -f mpegts"),
    );
    let second = make(
        &folder.join("2.ts"),
        "-f lavfi -i testsrc2=size=160x90:rate=25:duration=6 -c:v mpeg2video -g 10 -f mpegts",
    );
    let same = make(
        &folder.join("3.ts"),
        &format!("{VIDEO} {SOUND} {H264} -c:a aac -f mpegts"),
    );
    let data = [first, second, same.clone(), same].concat();
    let found = segments(Format::TransportStream, target(2000), &data);
    let breaks: Vec<_> = found.iter().map(|segment| segment.discontinuity).collect();
    assert_eq!(breaks.len(), 18);
    assert_eq!(
        breaks
            .iter()
            .enumerate()
            .filter(|(_, b)| **b)
            .map(|(at, _)| at)
            .collect::<Vec<_>>(),
        [5, 8, 13]
    );
    assert!(total(&found).abs_diff(36 * TICKS_PER_SECOND) <= 4 * 3600);
    for segment in &found {
        assert!(ts::inspect(&segment.data).unwrap().starts_with_key_frame);
    }
    check_division(Format::TransportStream, &data, target(2000));
}

#[test]
fn garbage_in_the_middle() {
    let path = folder("garbage").join("source.ts");
    let mut data = make(&path, &format!("{VIDEO} {SOUND} {H264} -c:a aac -f mpegts"));
    let garbage: Vec<u8> = (0..5000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let middle = data.len() / 2;
    data.splice(middle..middle, garbage.iter().copied());
    data.splice(0..0, garbage);
    let found = segments(Format::TransportStream, target(2000), &data);
    assert_eq!(found.len(), 5);
    assert!(total(&found).abs_diff(900_000) <= 3600);
    assert!(
        found
            .iter()
            .all(|s| s.data.chunks(188).all(|packet| packet[0] == 0x47))
    );
    check_division(Format::TransportStream, &data, target(2000));
}

#[test]
fn a_stream_without_key_frames_is_refused() {
    let path = folder("gap").join("source.ts");
    let data = make(&path, &format!("{VIDEO} {H264} -g 1000 -f mpegts"));
    let config = lavant_media::Config {
        max_duration: 3 * TICKS_PER_SECOND,
        ..target(2000)
    };
    let (events, result) = drive(Format::TransportStream, config, &data, 1000);
    assert!(events.is_empty());
    assert!(
        matches!(result, Err(Error::KeyFrameGap { .. })),
        "{result:?}"
    );
    let config = lavant_media::Config {
        max_bytes: 10_000,
        ..target(2000)
    };
    let (_, result) = drive(Format::TransportStream, config, &data, 1000);
    assert_eq!(result, Err(Error::SegmentTooLarge { max: 10_000 }));
}

#[test]
fn h264_and_aac_in_fragments() {
    let args = format!("{VIDEO} {SOUND} {H264} -c:a aac {FRAGMENTS}");
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 3,
        codecs: "avc1.4d400d,mp4a.40.2",
    };
    check_cmaf("h264_mp4", &args, 4000, &expected);
}

#[test]
fn hevc_in_fragments() {
    let args = format!(
        "{VIDEO} {SOUND} -c:v libx265 -preset ultrafast -tag:v hvc1 -x265-params \
         log-level=none:keyint=50:min-keyint=50 -pix_fmt yuv420p -c:a aac {FRAGMENTS}"
    );
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 5,
        codecs: "hvc1.1.6.L60.90,mp4a.40.2",
    };
    check_cmaf("hevc_mp4", &args, 2000, &expected);
}

#[test]
fn vp9_and_opus_in_fragments() {
    let args = format!(
        "-f lavfi -i testsrc2=size=160x90:rate=25:duration=4 -f lavfi -i \
         sine=sample_rate=48000:duration=4 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 \
         -g 25 -pix_fmt yuv420p -c:a libopus -strict -2 {FRAGMENTS}"
    );
    let expected = Expected {
        total: 360_000,
        frame: 3600,
        segments: 2,
        codecs: "vp09.00.10.08,opus",
    };
    check_cmaf("vp9_mp4", &args, 2000, &expected);
}

#[test]
fn av1_in_fragments() {
    let args = format!(
        "-f lavfi -i testsrc2=size=160x90:rate=25:duration=1 -c:v libsvtav1 -preset 12 -g 10 \
         -pix_fmt yuv420p {FRAGMENTS}"
    );
    let expected = Expected {
        total: 90_000,
        frame: 3600,
        segments: 2,
        codecs: "av01.0.00M.08",
    };
    check_cmaf("av1_mp4", &args, 700, &expected);
}

#[test]
fn aac_alone_in_fragments() {
    let args = format!(
        "{SOUND} -c:a aac -f mp4 -movflags +empty_moov+default_base_moof -frag_duration 500000"
    );
    let expected = Expected {
        total: 901_920,
        frame: 3840,
        segments: 5,
        codecs: "mp4a.40.2",
    };
    check_cmaf("aac_mp4", &args, 2000, &expected);
}

#[test]
fn separate_fragments_and_indexes() {
    let args = format!(
        "{VIDEO} {SOUND} {H264} -c:a aac -f mp4 -movflags \
         +empty_moov+default_base_moof+frag_keyframe+separate_moof+dash+skip_trailer"
    );
    let expected = Expected {
        total: 900_000,
        frame: 3600,
        segments: 5,
        codecs: "avc1.4d400d,mp4a.40.2",
    };
    check_cmaf("separate_mp4", &args, 2000, &expected);
}

#[test]
fn fragmented_streams_one_after_the_other() {
    let folder = folder("joined_mp4");
    let first = make(
        &folder.join("1.mp4"),
        &format!("{VIDEO} {H264} {FRAGMENTS}"),
    );
    let other = make(
        &folder.join("2.mp4"),
        &format!("{VIDEO} {H264} -s 160x90 {FRAGMENTS}"),
    );
    let data = [first.clone(), first, other].concat();
    let (events, result) = drive(Format::Cmaf, target(2000), &data, 1000);
    assert_eq!(result, Ok(()));
    let kinds: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Init(_) => 'i',
            Event::Segment(segment) if segment.discontinuity => 'D',
            Event::Segment(_) => 's',
        })
        .collect();
    assert_eq!(kinds.iter().collect::<String>(), "isssssDssssiDssss");
}

#[test]
fn plain_mp4_is_refused_with_advice() {
    let folder = folder("plain");
    for (name, flags) in [
        ("plain", ""),
        ("fast", "-movflags +faststart"),
        ("hybrid", "-movflags +frag_keyframe"),
    ] {
        let data = make(
            &folder.join(format!("{name}.mp4")),
            &format!("{VIDEO} {H264} {flags} -f mp4"),
        );
        let (events, result) = drive(Format::Cmaf, target(2000), &data, 1000);
        assert_eq!(
            (events.len(), result),
            (0, Err(Error::NotFragmented)),
            "{name}"
        );
    }
}

#[test]
fn a_file_that_is_cut_off_keeps_its_whole_fragments() {
    let path = folder("cut_off").join("source.mp4");
    let data = make(&path, &format!("{VIDEO} {H264} {FRAGMENTS}"));
    let (events, result) = drive(
        Format::Cmaf,
        target(4000),
        &data[..data.len() * 6 / 10],
        1000,
    );
    assert!(matches!(result, Err(Error::Malformed { .. })));
    let last = events.last();
    let Some(Event::Segment(segment)) = last else {
        panic!("no segment")
    };
    assert_eq!(segment.duration % 180_000, 0);
    let Some(Event::Init(init)) = events.first() else {
        panic!("no init")
    };
    let inspection = cmaf::inspect(Some(init), &segment.data).unwrap();
    assert_eq!(inspection.duration, segment.duration);
    assert_eq!(
        inspection.video().map(|video| video.kind),
        Some(Kind::Video)
    );
}

/// Writes segments and a playlist that names them; gives the playlist's path.
fn publish(folder: &Path, init: Option<&[u8]>, found: &[Segment]) -> PathBuf {
    let extension = if init.is_some() { "m4s" } else { "ts" };
    let init = init.map(|bytes| {
        std::fs::write(folder.join("init.mp4"), bytes).unwrap();
        "init.mp4".to_owned()
    });
    let mut list = MediaPlaylist {
        target_duration: 6,
        end: true,
        ..MediaPlaylist::default()
    };
    list.independent_segments = true;
    for (index, segment) in found.iter().enumerate() {
        let uri = format!("{index}.{extension}");
        std::fs::write(folder.join(&uri), &segment.data).unwrap();
        list.segments.push(MediaSegment {
            uri,
            duration: segment.duration,
            discontinuity: segment.discontinuity,
            gap: false,
            init: init.clone(),
            ..MediaSegment::default()
        });
    }
    let path = folder.join("index.m3u8");
    std::fs::write(&path, list.render().unwrap()).unwrap();
    path
}

#[test]
fn ffmpeg_plays_the_playlist_of_a_transport_stream() {
    let folder = folder("playlist_ts");
    let source = folder.join("source.ts");
    let data = make(
        &source,
        &format!("{VIDEO} {SOUND} {H264} -c:a aac -f mpegts"),
    );
    let found = segments(Format::TransportStream, target(2000), &data);
    assert!(hashes(&publish(&folder, None, &found)) == hashes(&source));
}

#[test]
fn ffmpeg_plays_the_playlist_of_fragments() {
    let folder = folder("playlist_mp4");
    let source = folder.join("source.mp4");
    let data = make(
        &source,
        &format!("{VIDEO} {SOUND} {H264} -c:a aac {FRAGMENTS}"),
    );
    let (events, _) = drive(Format::Cmaf, target(2000), &data, 64 << 10);
    let Some(Event::Init(init)) = events.first() else {
        panic!("no init segment first")
    };
    let found = segments(Format::Cmaf, target(2000), &data);
    assert!(hashes(&publish(&folder, Some(init), &found)) == hashes(&source));
}
