//! The page of a node in Chromium: what a viewer without a player sees.

mod common;

use std::process::{Command, Stdio};

use common::media::{AAC, PICTURE, TONE, film, mp4, transport};
use common::playlist::web;
use common::program::Program;
use common::{Node, text, until};
use serde_json::Value;

/// Plays a content in the node's page and asserts that all is well.
#[track_caller]
fn play(node: &Node, reference: &str, seconds: &str) -> Value {
    let mut command = Command::new("node");
    command.arg(web().join("tests/play.mjs"));
    command.args([&node.url, reference, "--seconds", seconds, "--json"]);
    command.stdin(Stdio::null());
    let done = Program::spawn(command).wait();
    let result = done.json();
    assert_eq!(done.code, Some(0), "{result} {}", done.err);
    assert_eq!(result["ok"], true, "{result}");
    assert_eq!(
        result["consoleErrors"],
        Value::Array(Vec::new()),
        "{result}"
    );
    assert_eq!(
        result["foreignRequests"],
        Value::Array(Vec::new()),
        "{result}"
    );
    result
}

fn is_built() {
    let page = common::repository().join("web/dist/index.html");
    assert!(
        page.is_file(),
        "the page is not built: run scripts/web.sh, then build again"
    );
}

#[test]
fn a_film_in_transport_stream_plays_in_the_page() {
    is_built();
    let node = Node::start(&[]);
    node.ingest(&[
        text(&mp4(6)),
        "--content-id",
        "film",
        "--segment-seconds",
        "2",
    ]);
    let result = play(&node, "film", "3");
    assert!(
        result["totalVideoFrames"].as_u64().unwrap() > 30,
        "{result}"
    );
    assert!(
        (result["duration"].as_f64().unwrap() - 6.0).abs() < 0.2,
        "{result}"
    );
}

#[test]
fn a_live_stream_plays_behind_its_publisher_by_less_than_whole_segments_take() {
    is_built();
    let node = Node::start(&[]);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-nostdin", "-v", "error", "-re", "-i", text(&transport(40))]);
    ffmpeg.args(["-c", "copy", "-method", "PUT", "-f", "mpegts"]);
    ffmpeg.arg(format!("{}/api/v1/live/cam", node.url));
    ffmpeg.stdin(Stdio::null());
    let publisher = Program::spawn(ffmpeg);
    until("a segment", || {
        (node.get("/play/cam/index.m3u8").status == 200).then_some(())
    });
    let result = play(&node, "cam", "5");
    // A player of whole segments of two seconds is three of them behind.
    assert!(result["latency"].as_f64().unwrap() < 6.0, "{result}");
    drop(publisher);
}

#[test]
fn a_film_in_cmaf_plays_in_the_page() {
    is_built();
    let args = format!(
        "{PICTURE} {TONE} -t 4 -g 25 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"
    );
    let file = film("vp9-4.webm", &args);
    let node = Node::start(&[]);
    let flags = ["--content-id", "film", "--copy", "--segment-seconds", "1"];
    node.ingest(&[&[text(&file)][..], &flags].concat());
    assert_eq!(
        node.json("/content/film")["renditions"][0]["mime_type"],
        "video/mp4"
    );
    let result = play(&node, "film", "2");
    assert!(
        result["totalVideoFrames"].as_u64().unwrap() > 20,
        "{result}"
    );
}

#[test]
fn audio_alone_plays_in_the_page() {
    is_built();
    let node = Node::start(&[]);
    // A title beyond ASCII becomes an id that is percent-encoded in URLs.
    let file = film("tone.m4a", &format!("{TONE} -t 4 {AAC}"));
    let result = node.ingest(&[text(&file), "--title", "T\u{f6}ne \u{97f3}"]);
    let url = result["content"]["play_url"].as_str().unwrap();
    let reference = url.strip_prefix("/play/").unwrap();
    let reference = reference.strip_suffix("/index.m3u8").unwrap();
    assert!(reference.contains('%'), "{reference}");
    let result = play(&node, reference, "2");
    assert_eq!(result["totalVideoFrames"], 0, "{result}");
}

#[test]
fn a_film_that_is_still_arriving_plays_without_a_stall() {
    is_built();
    let a = Node::relaying(&[]);
    a.ingest(&[
        text(&mp4(16)),
        "--content-id",
        "film",
        "--segment-seconds",
        "1",
    ]);
    // It arrives half as fast again as it plays.
    let bytes = a.json("/content/film")["bytes"].as_u64().unwrap();
    let rate = (bytes * 3 / 2 / 16).to_string();
    let b = Node::relaying(&["--download-limit", &rate, "--peer", &a.relay_address()]);
    let start = [
        "play",
        "film",
        "--json",
        "--start-after",
        "4",
        "--wait",
        "40",
    ];
    let started = b.lavant(&start).ok().json();
    assert!(
        started["ready_seconds"].as_f64().unwrap() < 14.0,
        "{started}"
    );
    let result = play(&b, "film", "13");
    assert_eq!(result["stalls"], 0, "{result}");
    assert!(
        result["totalVideoFrames"].as_u64().unwrap() > 200,
        "{result}"
    );
    b.has_all("film");
}
