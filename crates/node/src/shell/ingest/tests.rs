//! Ingests of real media, made by ffmpeg, into a node in memory.

#[path = "fake_node.rs"]
mod fake_node;
#[path = "reach_tests.rs"]
mod reach_tests;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use fake_node::{FakeNode, Stored};

use super::*;

static NEVER: AtomicBool = AtomicBool::new(false);
const X264: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";

/// Makes a clip of `seconds` with an own folder.
struct Clip {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Clip {
    fn new(name: &str, args: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        ffmpeg(&format!("{args} {}", path.display()));
        Self {
            _folder: folder,
            path,
        }
    }

    /// Picture and tone of a given length.
    fn standard(name: &str, seconds: u32, codecs: &str) -> Self {
        Self::new(
            name,
            &format!("{} {} -t {seconds} {codecs}", picture("320x180"), TONE),
        )
    }
}

const TONE: &str = "-f lavfi -i sine=r=48000";

fn picture(size: &str) -> String {
    format!("-f lavfi -i testsrc2=s={size}:r=25")
}

fn ffmpeg(args: &str) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-nostdin", "-v", "error", "-y"])
        .args(args.split_whitespace());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ffmpeg {args}: {errors}");
    output.stdout
}

fn options(node: &FakeNode, path: &Path) -> Options {
    let seconds = 1;
    Options {
        segment_seconds: seconds,
        ..Options::new(Input::File(path.to_owned()), &node.url)
    }
}

fn run(options: &Options) -> Result<(Outcome, Vec<Progress>), IngestError> {
    let mut seen = Vec::new();
    ingest(options, &mut |progress| seen.push(progress), &NEVER).map(|outcome| (outcome, seen))
}

/// What came into the node.
struct Arrived {
    folder: tempfile::TempDir,
    renditions: Vec<String>,
    commit: Value,
    mime: String,
    pieces: std::collections::BTreeMap<String, Stored>,
}

impl Arrived {
    fn in_node(node: &FakeNode) -> Self {
        let (opening, pieces, commit) = node.state.lock().unwrap().published.clone().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let rows = opening["renditions"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let renditions: Vec<_> = rows.iter().map(|row| text(&row["name"])).collect();
        let mime = text(&rows[0]["mime_type"]);
        let arrived = Self {
            folder,
            renditions,
            commit,
            mime,
            pieces,
        };
        arrived.write();
        arrived
    }

    /// Joins the pieces of each rendition into a file, as a player would.
    fn write(&self) {
        for (name, row) in self.renditions.iter().zip(self.rows()) {
            let mut bytes = Vec::new();
            let mut ticks = 0;
            for n in 0..row["inits"].as_u64().unwrap() {
                bytes.extend_from_slice(&self.pieces[&format!("{name}/init-{n}")].data);
            }
            for n in 0..row["segments"].as_u64().unwrap() {
                let piece = &self.pieces[&format!("{name}/{n}")];
                ticks += piece.query["duration"].parse::<u64>().unwrap();
                bytes.extend_from_slice(&piece.data);
            }
            let max = row["bandwidth"].as_u64().unwrap();
            assert!(max >= row["average_bandwidth"].as_u64().unwrap() && ticks > 0);
            std::fs::write(self.folder.path().join(name), bytes).unwrap();
        }
    }

    fn rows(&self) -> Vec<Value> {
        self.commit["renditions"].as_array().unwrap().clone()
    }

    fn file(&self, rendition: &str) -> std::path::PathBuf {
        self.folder.path().join(rendition)
    }

    fn segments(&self) -> u64 {
        self.rows()[0]["segments"].as_u64().unwrap()
    }

    fn main(&self) -> std::path::PathBuf {
        self.file("main")
    }
}

/// Hashes of all decoded frames of a kind, in order.
fn frames(path: &Path, kind: &str) -> Vec<String> {
    let out = format!("-map 0:{kind}:0 -fps_mode passthrough -f framemd5 -");
    let out = if kind == "a" {
        out.replace("-fps_mode passthrough ", "")
    } else {
        out
    };
    let text = ffmpeg(&format!("-i {} {out}", path.display()));
    let text = String::from_utf8(text).unwrap();
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| row.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

/// Hashes of all packets' decoded pictures are equal in the source and in the node.
fn same_pictures(source: &Path, arrived: &Path) {
    let (before, after) = (frames(source, "v"), frames(arrived, "v"));
    assert!(!before.is_empty());
    assert_eq!(before, after, "{}", source.display());
}

fn same_count(source: &Path, arrived: &Path) -> usize {
    let (before, after) = (frames(source, "v").len(), frames(arrived, "v").len());
    assert_eq!(before, after, "{}", source.display());
    after
}

#[test]
fn h264_and_aac_are_copied() {
    let clip = Clip::standard("a.mp4", 4, &format!("{X264} -g 25 -bf 2 -c:a aac"));
    let node = FakeNode::start();
    let (outcome, seen) = run(&options(&node, &clip.path)).unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(outcome.words, "copied video h264, copied audio aac");
    assert_eq!(
        (arrived.mime.as_str(), arrived.segments()),
        ("video/mp2t", 4)
    );
    same_pictures(&clip.path, &arrived.main());
    let tones = frames(&clip.path, "a").len() as i64 - frames(&arrived.main(), "a").len() as i64;
    assert!(tones.abs() <= 1, "{tones}");
    let row = &arrived.rows()[0];
    assert_eq!(
        (row["width"].as_u64(), row["height"].as_u64()),
        (Some(320), Some(180))
    );
    assert_eq!(row["frame_rate_milli"], 25_000);
    assert!(
        row["codecs"].as_str().unwrap().starts_with("avc1."),
        "{row}"
    );
    assert!(
        row["codecs"].as_str().unwrap().ends_with(",mp4a.40.2"),
        "{row}"
    );
    assert_eq!(
        outcome.play_url,
        format!("{}/play/film/index.m3u8", node.url)
    );
    assert!(
        (outcome.media_seconds - 4.0).abs() < 0.1,
        "{}",
        outcome.media_seconds
    );
    assert_eq!(
        seen.iter()
            .filter(|p| matches!(p, Progress::Segment { .. }))
            .count(),
        4
    );
    let Some(Progress::Planned {
        expected_seconds: Some(seconds),
        ..
    }) = seen.first()
    else {
        panic!("{seen:?}")
    };
    assert!((seconds - 4.0).abs() < 0.1);
}

#[test]
fn hevc_goes_into_cmaf() {
    let x265 = "-c:v libx265 -preset ultrafast -x265-params keyint=25:log-level=error";
    let clip = Clip::standard("a.mkv", 2, &format!("{x265} -pix_fmt yuv420p -c:a aac"));
    let node = FakeNode::start();
    let (outcome, _) = run(&options(&node, &clip.path)).unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(outcome.words, "copied video hevc, copied audio aac");
    assert_eq!(
        (arrived.mime.as_str(), arrived.segments()),
        ("video/mp4", 2)
    );
    same_pictures(&clip.path, &arrived.main());
    let row = &arrived.rows()[0];
    assert_eq!(row["inits"], 1);
    assert!(
        row["codecs"].as_str().unwrap().starts_with("hvc1."),
        "{row}"
    );
    assert_eq!(arrived.pieces["main/1"].query["init"], "0");
}

#[test]
fn webm_is_transcoded_or_copied() {
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 25 -c:a libopus";
    let clip = Clip::standard("a.webm", 2, vp9);
    let node = FakeNode::start();
    let (outcome, _) = run(&options(&node, &clip.path)).unwrap();
    let arrived = Arrived::in_node(&node);
    assert!(
        outcome.words.contains("transcoded audio opus to aac"),
        "{}",
        outcome.words
    );
    assert_eq!(
        (arrived.mime.as_str(), arrived.segments()),
        ("video/mp2t", 2)
    );
    assert_eq!(same_count(&clip.path, &arrived.main()), 50);
    let copy = Options {
        mode: Mode::Copy,
        ..options(&node, &clip.path)
    };
    let (outcome, _) = run(&copy).unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(outcome.words, "copied video vp9, copied audio opus");
    assert_eq!(arrived.mime, "video/mp4");
    same_pictures(&clip.path, &arrived.main());
    let codecs = arrived.rows()[0]["codecs"].clone();
    assert!(
        codecs.as_str().unwrap().to_lowercase().ends_with("opus"),
        "{codecs}"
    );
}

#[test]
fn sound_alone_and_pictures_alone_are_fine() {
    let cover = format!("{TONE} {} -t 3 -map 0 -map 1 -frames:v 1", picture("64x64"));
    let args = format!("{cover} -c:a libmp3lame -c:v mjpeg -disposition:v attached_pic");
    let clip = Clip::new("a.mp3", &args);
    let node = FakeNode::start();
    let (outcome, _) = run(&options(&node, &clip.path)).unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(outcome.words, "copied audio mp3");
    assert!((3..=4).contains(&arrived.segments()));
    assert_eq!(arrived.rows()[0]["width"], 0);
    let (before, after) = (
        frames(&clip.path, "a").len(),
        frames(&arrived.main(), "a").len(),
    );
    assert!(before.abs_diff(after) <= 1, "{before} {after}");

    let clip = Clip::new(
        "b.mp4",
        &format!("{} -t 2 {X264} -g 25", picture("320x180")),
    );
    let (outcome, _) = run(&options(&node, &clip.path)).unwrap();
    assert_eq!(outcome.words, "copied video h264");
    same_pictures(&clip.path, &Arrived::in_node(&node).main());

    let clip = Clip::new("c.flac", &format!("{TONE} -t 3"));
    let copy = Options {
        mode: Mode::Copy,
        ..options(&node, &clip.path)
    };
    run(&copy).unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(arrived.mime, "audio/mp4");
    assert_eq!(
        frames(&clip.path, "a").len(),
        frames(&arrived.main(), "a").len()
    );
}

#[test]
fn odd_sizes_and_uneven_frame_rates_keep_their_pictures() {
    let odd = "-f lavfi -i testsrc=s=321x241:r=25 -t 2 -c:v libvpx-vp9 -cpu-used 8 \
        -deadline realtime -pix_fmt yuv444p";
    let clip = Clip::new("odd.webm", odd);
    let node = FakeNode::start();
    run(&options(&node, &clip.path)).unwrap();
    let arrived = Arrived::in_node(&node);
    same_count(&clip.path, &arrived.main());
    let row = &arrived.rows()[0];
    assert_eq!(
        (row["width"].as_u64(), row["height"].as_u64()),
        (Some(322), Some(242))
    );

    let uneven = "-vf select='not(mod(n\\,7))+not(mod(n\\,3))+gt(n\\,60)' -fps_mode vfr";
    let args = format!("{} -t 4 {uneven} {X264} -g 12 -c:a aac", picture("320x180"));
    let clip = Clip::new("vfr.mp4", &args);
    run(&options(&node, &clip.path)).unwrap();
    same_pictures(&clip.path, &Arrived::in_node(&node).main());
    let transcode = Options {
        mode: Mode::Transcode,
        ..options(&node, &clip.path)
    };
    run(&transcode).unwrap();
    let arrived = Arrived::in_node(&node);
    same_count(&clip.path, &arrived.main());
    let (before, after) = (times(&clip.path), times(&arrived.main()));
    let told = arrived.rows()[0]["frame_rate_milli"].as_u64().unwrap();
    assert!((5_000..25_000).contains(&told), "{told}");
    for (before, after) in before.iter().zip(&after) {
        assert!((before - after).abs() < 0.002, "{before} {after}");
    }
}

/// Times of all pictures from the first on, in seconds.
fn times(path: &Path) -> Vec<f64> {
    let mut command = Command::new("ffprobe");
    command.args([
        "-v",
        "error",
        "-select_streams",
        "v",
        "-show_entries",
        "frame=pts_time",
    ]);
    let output = command.args(["-of", "csv=p=0"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let number = |line: &str| line.trim().trim_end_matches(',').parse::<f64>().ok();
    let times: Vec<f64> = text.lines().filter_map(number).collect();
    let first = times.first().copied().unwrap_or(0.0);
    times.iter().map(|time| time - first).collect()
}

#[test]
fn a_second_is_enough() {
    let clip = Clip::standard("short.mp4", 1, &format!("{X264} -c:a aac"));
    let node = FakeNode::start();
    let (outcome, _) = run(&Options::new(Input::File(clip.path.clone()), &node.url)).unwrap();
    assert_eq!(outcome.segments, 1);
    same_pictures(&clip.path, &Arrived::in_node(&node).main());
}

#[test]
fn too_few_key_frames_are_transcoded() {
    let long = format!("{} -t 34 -vf scale=64:36 {X264} -g 9999", picture("64x36"));
    let clip = Clip::new(
        "gap.mp4",
        &format!("{long} -keyint_min 9999 -sc_threshold 0"),
    );
    let node = FakeNode::start();
    let (outcome, seen) = run(&Options::new(Input::File(clip.path.clone()), &node.url)).unwrap();
    let notice = seen.iter().find_map(|progress| match progress {
        Progress::Notice(text) => Some(text.as_str()),
        _ => None,
    });
    assert!(
        notice.unwrap().contains("so the video is transcoded"),
        "{notice:?}"
    );
    assert!(
        outcome.words.contains("its key frames are too far apart"),
        "{}",
        outcome.words
    );
    let arrived = Arrived::in_node(&node);
    assert_eq!(arrived.segments(), 6);
    assert_eq!(same_count(&clip.path, &arrived.main()), 850);
    assert_eq!(node.state.lock().unwrap().deletes, 1);

    let copy = Options {
        mode: Mode::Copy,
        ..Options::new(Input::File(clip.path.clone()), &node.url)
    };
    run(&copy).unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(arrived.segments(), 1);
    same_pictures(&clip.path, &arrived.main());

    let ts = Clip::new("gap.ts", &format!("-i {} -c copy", clip.path.display()));
    let stdin = Options::new(Input::Stdin, &node.url);
    let file = Box::new(std::fs::File::open(&ts.path).unwrap());
    let error = ingest_from(&stdin, Some(file), &mut |_| {}, &NEVER).unwrap_err();
    assert!(
        error.to_string().ends_with("run it again with --transcode"),
        "{error}"
    );
}

#[test]
fn errors_leave_other_ways() {
    use lavant_media::Error;
    let way = Way {
        segment_seconds: 6,
        encode_video: None,
    };
    let large = IngestError::Media(Error::SegmentTooLarge { max: 1 });
    let gap = IngestError::Media(Error::KeyFrameGap {
        at: 0,
        gap: 2,
        max: 1,
    });
    let denser = way.other(&large, true, Mode::Copy).unwrap();
    assert_eq!((denser.segment_seconds, denser.encode_video), (2, None));
    assert_eq!(denser.other(&large, true, Mode::Copy), None);
    let encoded = denser.other(&large, true, Mode::Auto).unwrap();
    assert_eq!(encoded.encode_video, Some("its bit rate is too high"));
    assert_eq!(encoded.other(&large, true, Mode::Auto), None);
    assert!(
        way.other(&gap, true, Mode::Auto)
            .unwrap()
            .encode_video
            .is_some()
    );
    assert_eq!(way.other(&gap, false, Mode::Auto), None);
    assert_eq!(way.other(&gap, true, Mode::Transcode), None);
    assert_eq!(way.other(&IngestError::Cancelled, true, Mode::Auto), None);
}

/// A reader that gives few bytes at a time, as a pipe does.
struct Dribble(std::fs::File);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(1000);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn standard_input_is_cut_or_handed_to_ffmpeg() {
    let clip = Clip::standard("a.ts", 3, &format!("{X264} -g 25 -c:a aac"));
    let node = FakeNode::start();
    let stdin = Options {
        segment_seconds: 1,
        ..Options::new(Input::Stdin, &node.url)
    };
    let feed = |path: &Path| {
        let reader = Box::new(Dribble(std::fs::File::open(path).unwrap()));
        ingest_from(&stdin, Some(reader), &mut |_| {}, &NEVER)
    };
    let outcome = feed(&clip.path).unwrap();
    assert!(
        outcome
            .words
            .starts_with("cut the transport stream as it is (avc1."),
        "{outcome:?}"
    );
    let arrived = Arrived::in_node(&node);
    assert_eq!(arrived.segments(), 3);
    same_pictures(&clip.path, &arrived.main());

    let (outcome, _) = run(&options(&node, &clip.path)).unwrap();
    assert!(
        outcome.words.starts_with("cut the transport stream"),
        "{outcome:?}"
    );
    same_pictures(&clip.path, &Arrived::in_node(&node).main());

    let matroska = Clip::new("b.mkv", &format!("-i {} -c copy", clip.path.display()));
    let outcome = feed(&matroska.path).unwrap();
    assert_eq!(outcome.words, "copied video h264, copied audio aac");
    same_pictures(&clip.path, &Arrived::in_node(&node).main());
}

#[test]
fn wrong_sources_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let node = FakeNode::start();
    let garbage = folder.path().join("garbage.mp4");
    std::fs::write(&garbage, vec![0x55; 100_000]).unwrap();
    let error = run(&options(&node, &garbage)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("Invalid data found"), "{error}");
    let error = run(&options(&node, &folder.path().join("none.mp4"))).unwrap_err();
    assert!(matches!(error, IngestError::NoSuchFile(_)), "{error}");
    let text = folder.path().join("empty.mp4");
    std::fs::write(&text, b"").unwrap();
    assert_eq!(run(&options(&node, &text)).unwrap_err().exit_code(), 2);
    assert_eq!(node.state.lock().unwrap().opened, 0);
}

#[test]
fn ladders_are_aligned() {
    let clip = Clip::standard("a.mp4", 3, &format!("{X264} -g 250 -c:a aac"));
    let node = FakeNode::start();
    let ladder = Ladder::Heights(vec![180, 90]);
    let (outcome, _) = run(&Options {
        ladder,
        ..options(&node, &clip.path)
    })
    .unwrap();
    let arrived = Arrived::in_node(&node);
    assert_eq!(arrived.renditions, ["180p", "90p"]);
    assert!(outcome.words.contains("180p+90p"), "{}", outcome.words);
    assert_eq!(outcome.segments, 6);
    for n in 0..3 {
        let ticks = |name: &str| arrived.pieces[&format!("{name}/{n}")].query["duration"].clone();
        assert_eq!(ticks("180p"), ticks("90p"));
    }
    assert_eq!(arrived.rows()[1]["width"], 160);
    assert_eq!(frames(&arrived.file("90p"), "v").len(), 75);
}

#[test]
fn killed_ingests_resume_and_published_ones_are_known() {
    let clip = Clip::standard("a.mp4", 4, &format!("{X264} -g 25 -c:a aac"));
    let node = FakeNode::start();
    run(&options(&node, &clip.path)).unwrap();
    {
        // As if the program had been killed before the last segment and the commit.
        let mut state = node.state.lock().unwrap();
        let (opening, mut pieces, _) = state.published.take().unwrap();
        pieces.remove("main/3");
        state.open = Some((opening, pieces));
        state.forget();
    }
    let (outcome, seen) = run(&options(&node, &clip.path)).unwrap();
    assert_eq!((outcome.resumed, outcome.segments), (3, 4));
    assert!(
        seen.iter()
            .any(|p| matches!(p, Progress::Planned { resumed: 3, .. }))
    );
    assert_eq!(node.state.lock().unwrap().puts, 5);
    same_pictures(&clip.path, &Arrived::in_node(&node).main());
    let (outcome, _) = run(&options(&node, &clip.path)).unwrap();
    assert!(outcome.already_here && outcome.play_url.ends_with("/play/film/index.m3u8"));
    assert_eq!(node.state.lock().unwrap().puts, 5);
}

/// A stream that stays open and gives nothing.
struct Silence;

impl Read for Silence {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_secs(3600));
        Ok(0)
    }
}

#[test]
fn refusals_and_cancels_are_rolled_back() {
    let clip = Clip::standard("a.mp4", 4, &format!("{X264} -g 25 -c:a aac"));
    let node = FakeNode::start();
    node.state.lock().unwrap().refuse_from = Some(3);
    let error = run(&options(&node, &clip.path)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert_eq!(error.to_string(), "the disk is full: free some space");
    assert_eq!(node.state.lock().unwrap().deletes, 1);
    assert!(node.state.lock().unwrap().open.is_none());

    node.state.lock().unwrap().refuse_from = None;
    let bytes = std::fs::read(&Clip::standard("b.mkv", 2, X264).path).unwrap();
    let begun = Instant::now();
    let stdin = Options {
        mode: Mode::Transcode,
        ..Options::new(Input::Stdin, &node.url)
    };
    let cancel = AtomicBool::new(false);
    let mut stop = |progress| {
        if matches!(progress, Progress::Planned { .. }) {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let endless = Box::new(std::io::Cursor::new(bytes).chain(Silence));
    let error = ingest_from(&stdin, Some(endless), &mut stop, &cancel).unwrap_err();
    assert!(matches!(error, IngestError::Cancelled), "{error}");
    assert_eq!(node.state.lock().unwrap().deletes, 2);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

fn signed_row(
    row: &Value,
    records: &[lavant_proto::content::SegmentRecord],
) -> lavant_proto::content::RenditionInfo {
    let number = |key: &str| row[key].as_u64().unwrap();
    lavant_proto::content::RenditionInfo {
        name: records[0].rendition.clone(),
        mime: records[0].mime,
        bandwidth: number("bandwidth"),
        average_bandwidth: number("average_bandwidth"),
        codecs: row["codecs"].as_str().unwrap().to_owned(),
        width: number("width") as u32,
        height: number("height") as u32,
        frame_rate_milli: number("frame_rate_milli") as u32,
        inits: 0,
        first: 0,
        segments: records.len() as u64,
        duration: records.iter().map(|record| record.duration).sum(),
        bytes: records.iter().map(|record| record.length).sum(),
    }
}

#[test]
fn own_publishers_sign_what_they_have_seen() {
    use lavant_proto::content::{Kind, Manifest, SegmentRecord, merkle_root};
    let clip = Clip::standard("a.mp4", 2, &format!("{X264} -g 25 -c:a aac"));
    let node = FakeNode::start();
    let key = SigningKey::from_seed(&[5; 32]);
    let own = Options {
        publish_as: Some(key.clone()),
        ..options(&node, &clip.path)
    };
    run(&own).unwrap();
    let arrived = Arrived::in_node(&node);
    let row = arrived.rows()[0].clone();
    let content = lavant_proto::ids::ContentKey {
        publisher: key.publisher(),
        content_id: ContentId::new("film").unwrap(),
        version: 1,
    };
    let (title, priority) = ("a".to_owned(), Priority::Vod);
    let created = lavant_proto::time::Time(1_700_000_000_000_000);
    let ttl = Duration::from_secs(2_592_000);
    let mime = lavant_proto::content::MimeType::TransportStream;
    let name = lavant_proto::ids::Rendition::main();
    let target_duration = arrived.commit["target_duration"].as_u64().unwrap() as u32;
    let record = |n: u64| {
        let piece = &arrived.pieces[&format!("main/{n}")];
        SegmentRecord {
            content: content.clone(),
            title: title.clone(),
            target_duration,
            rendition: name.clone(),
            kind: Kind::Media,
            sequence: n,
            duration: piece.query["duration"].parse().unwrap(),
            discontinuity: false,
            independent: true,
            init: None,
            mime,
            priority,
            created,
            ttl,
            length: piece.data.len() as u64,
            root: lavant_proto::ids::Root(*blake3::hash(&piece.data).as_bytes()),
        }
    };
    let records = [record(0), record(1)];
    let leaves: Vec<_> = records.iter().map(SegmentRecord::leaf).collect();
    let manifest = Manifest {
        content: content.clone(),
        title: title.clone(),
        priority,
        created,
        ttl,
        target_duration,
        to: Vec::new(),
        renditions: vec![signed_row(&row, &records)],
        records_root: merkle_root(&leaves),
    };
    let signature = arrived.commit["signature"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let decoded = Manifest::decode(&manifest.encode()).unwrap();
    decoded.verify(signature, leaves).unwrap();
}

/// A sink that counts.
#[derive(Default)]
struct Null(std::sync::atomic::AtomicU64);

impl Sink for Null {
    fn put(&self, _: &str, piece: &segments::Piece, _: &AtomicBool) -> Result<bool, IngestError> {
        self.0.fetch_add(piece.fact.length, Ordering::Relaxed);
        Ok(true)
    }
}

/// Measures how fast the file named by `LAVANT_FILM` is cut, without a node.
#[test]
#[ignore = "a measurement: needs LAVANT_FILM and a release build"]
fn speed_of_a_film() {
    let input = Input::File(std::env::var_os("LAVANT_FILM").unwrap().into());
    let mut source = Source::open(&input, None, &NEVER).unwrap();
    let begun = Instant::now();
    let reach = Arc::new(Reach::of(&input, &[]).unwrap());
    let probe = source.probe(&reach, &NEVER).unwrap();
    let plan = plan::plan(&probe, &Wish::default()).unwrap();
    let sink = Arc::new(Null::default());
    let cut = Cut {
        container: plan.container,
        target_seconds: 6,
        patient: false,
    };
    let job = Job {
        plan: &plan,
        cut,
        reach,
        sink: Arc::<Null>::clone(&sink),
        patience: None,
    };
    let feed = Feed::Ffmpeg {
        input: source.argument(),
        stdin: None,
    };
    let summaries = pipeline::run(&job, feed, &mut |_| {}, &NEVER).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = sink.0.load(Ordering::Relaxed);
    let counts = summaries[0].counts();
    tracing::info!(seconds, bytes);
    std::fs::write(
        std::env::temp_dir().join("lavant-speed.txt"),
        format!("{seconds:.3} s {bytes} bytes {counts:?} segments\n"),
    )
    .unwrap();
}
