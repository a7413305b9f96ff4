//! Runs ffmpeg and ffprobe, and drives segmenters.
#![allow(dead_code)]

pub(crate) mod packed;
pub(crate) mod rtmp;

use std::path::{Path, PathBuf};
use std::process::Command;

use lavant_media::{Config, Error, Event, Format, Segment, TICKS_PER_SECOND};

/// A folder of its own for one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("media")
        .join(name);
    std::fs::create_dir_all(&path).expect("the test's folder can be made");
    path
}

/// Runs a program of ffmpeg; gives what it writes to its output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|fault| {
        panic!("these tests need {program}: install the ffmpeg package ({fault})")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?} failed: {errors}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a file with ffmpeg from arguments divided by spaces; gives its bytes.
pub(crate) fn make(path: &Path, args: &str) -> Vec<u8> {
    let mut all = vec!["-v", "error", "-nostdin", "-y"];
    all.extend(args.split_whitespace());
    all.push(path.to_str().expect("the path is text"));
    run("ffmpeg", &all);
    std::fs::read(path).expect("ffmpeg wrote the file")
}

/// The hashes of all decoded frames, stream by stream in the order of decoding.
pub(crate) fn hashes(path: &Path) -> Vec<(String, String)> {
    let path = path.to_str().expect("the path is text");
    let text = run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-xerror",
            "-nostdin",
            "-i",
            path,
            "-map",
            "0:v?",
            "-map",
            "0:a?",
            "-fps_mode",
            "passthrough",
            "-f",
            "framehash",
            "-hash",
            "md5",
            "-",
        ],
    );
    let mut frames: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some((line.split_once(',')?.0, line.rsplit_once(',')?.1)))
        .map(|(stream, hash)| (stream.trim().to_owned(), hash.trim().to_owned()))
        .collect();
    frames.sort_by(|a, b| a.0.cmp(&b.0));
    frames
}

/// True when the first packet of the first video stream is a key frame.
pub(crate) fn begins_with_key(path: &Path) -> bool {
    let path = path.to_str().expect("the path is text");
    let flags = run(
        "ffprobe",
        &[
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-read_intervals",
            "%+#1",
            "-show_entries",
            "packet=flags",
            "-of",
            "csv=p=0",
            path,
        ],
    );
    flags.trim_start().starts_with('K')
}

/// Limits with another target, in milliseconds.
pub(crate) fn target(millis: u64) -> Config {
    Config {
        target: millis * TICKS_PER_SECOND / 1000,
        ..Config::default()
    }
}

/// All events of a stream that is pushed in pieces of `piece` bytes, and how it ended.
pub(crate) fn drive(
    format: Format,
    config: Config,
    data: &[u8],
    piece: usize,
) -> (Vec<Event>, Result<(), Error>) {
    let mut segmenter = format.segmenter(config);
    let mut events = Vec::new();
    for bytes in data.chunks(piece.max(1)) {
        let result = segmenter.push(bytes);
        events.extend(std::iter::from_fn(|| segmenter.pop()));
        if result.is_err() {
            return (events, result);
        }
    }
    let result = segmenter.finish();
    events.extend(std::iter::from_fn(|| segmenter.pop()));
    (events, result)
}

/// The segments of a stream that must be fine.
pub(crate) fn segments(format: Format, config: Config, data: &[u8]) -> Vec<Segment> {
    let (events, result) = drive(format, config, data, 64 << 10);
    assert_eq!(result, Ok(()));
    let only = |event| match event {
        Event::Segment(segment) => Some(segment),
        Event::Init(_) => None,
    };
    events.into_iter().filter_map(only).collect()
}
