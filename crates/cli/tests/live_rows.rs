//! What sources do that broke other servers, one row each: published to a node by ffmpeg, and the
//! replay compared picture by picture. The names behind the rows are of the reports.

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::media::{AAC, H264, PICTURE, TONE, count, film, film_of, frames, mp4};
use common::playlist::{Playlist, strict};
use common::program::Program;
use common::{Node, text, until};

/// ffmpeg that copies a film to an address.
fn copy(film: &Path, more: &str, to: &str) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i", text(film), "-c", "copy"]);
    command.args(more.split_whitespace()).arg(to);
    command.stdin(Stdio::null());
    Program::spawn(command).wait().ok();
}

/// Publishes by HTTP in MPEG-TS, and gives the address of the replay.
fn put(node: &Node, name: &str, film: &Path, more: &str) -> String {
    let to = format!("{}/api/v1/live/{name}", node.url);
    copy(
        film,
        &format!("{more} -muxdelay 0 -method PUT -f mpegts"),
        &to,
    );
    over(node, name)
}

/// Ends the stream, once all that was sent has been read; the address of its replay.
fn over(node: &Node, name: &str) -> String {
    until("its publisher is gone", || {
        let entry = node.json(&format!("/api/v1/live/{name}"));
        (entry["state"] == "waiting").then_some(())
    });
    let path = format!("/api/v1/live/{name}/finish");
    node.call("POST", &path, &[], &[]).ok();
    format!("{}/play/{name}/index.m3u8", node.url)
}

/// The replay's playlist, which a strict parser accepts.
fn list(node: &Node, name: &str) -> Playlist {
    let path = format!("/play/{name}/main.m3u8");
    strict(&[&format!("{}{path}", node.url)]);
    Playlist::parse(&node.get(&path).ok().text())
}

fn assert_same(replay: &str, film: &Path, row: &str) {
    assert_eq!(frames(replay, "v"), frames(text(film), "v"), "{row}");
}

#[test]
fn rtmp_times_go_on_past_every_limit_of_their_bits() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it has one").port()
    };
    let node = Node::start(&["--rtmp", &port.to_string()]);
    let film = mp4(6);
    // Node-Media-Server#25, mediamtx#2808, obs-studio#10097: 2^24 ms comes after 2.2 s, or 2^31 ms.
    for (name, offset) in [("bits-24", "16775"), ("bits-31", "2147481.5")] {
        let key = node.lavant(&["live", "key", name, "--json"]).ok().json();
        let part = |part: &str| key[part].as_str().expect("it is told").to_owned();
        let to = format!("{}/{}", part("rtmp"), part("key"));
        copy(&film, &format!("-output_ts_offset {offset} -f flv"), &to);
        let replay = over(&node, name);
        assert_same(&replay, &film, name);
        let list = node.get(&format!("/play/{name}/main.m3u8")).ok().text();
        assert!(!list.contains("#EXT-X-DISCONTINUITY"), "{name}: {list}");
    }
}

#[test]
fn what_sources_do_with_time_and_headers_changes_no_picture() {
    let node = Node::start(&[]);
    let plain = mp4(6);
    // hls.js#483, #7752: 33 bits wrap within the stream.
    let replay = put(&node, "wrap", &plain, "-output_ts_offset 95440");
    assert_same(&replay, &plain, "wrap");
    // srs#4695: parameter sets before every picture; a segment still begins with one that needs no
    // other, so that each can be decoded alone.
    let odd = format!("{PICTURE} {TONE} -t 8 {H264} -g 35 {AAC}");
    let odd = film("odd.mp4", &odd);
    let replay = put(
        &node,
        "sets",
        &odd,
        "-bsf:v h264_mp4toannexb,dump_extra=freq=all",
    );
    assert_same(&replay, &odd, "sets");
    let cut = list(&node, "sets");
    let init = node.bytes("/segment/sets/1/main/init-0.mp4");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("alone.mp4");
    let mut alone = 0;
    for entry in &cut.entries {
        let bytes = [init.clone(), node.bytes(&entry.uri)].concat();
        std::fs::write(&file, bytes).expect("it can be written");
        alone += frames(text(&file), "v").len();
    }
    assert_eq!(alone, 200, "every picture of every segment, alone");
    // streamplace#1282: a key frame each 40 ms makes no segments of 40 ms.
    let keys = film(
        "keys.mp4",
        &format!("{PICTURE} {TONE} -t 6 {H264} -g 1 -bf 0 {AAC}"),
    );
    let replay = put(&node, "keys", &keys, "");
    assert_same(&replay, &keys, "keys");
    let cut = list(&node, "keys");
    let (_, but_last) = cut.entries.split_last().expect("it has entries");
    assert!(
        but_last.iter().all(|entry| entry.seconds > 1.9),
        "{but_last:?}"
    );
    // mediamtx#1621, srs#3464.
    let hevc = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=50";
    let hevc = film(
        "hevc.mp4",
        &format!("{PICTURE} {TONE} -t 4 {hevc} -tag:v hvc1 {AAC}"),
    );
    let replay = put(&node, "hevc", &hevc, "");
    assert_same(&replay, &hevc, "hevc");
}

#[test]
fn sound_alone_and_a_new_size_are_played_to_their_end() {
    let node = Node::start(&[]);
    // Ant-Media-Server#384.
    let tone = film("tone.ts", &format!("{TONE} -t 6 {AAC} -f mpegts"));
    let replay = put(&node, "tone", &tone, "");
    assert_eq!(count(&replay, "a"), count(text(&tone), "a"));
    // hls.js#4231: another size comes behind a discontinuity, with an init segment of its own.
    let small = transport("small", "320x180");
    let large = transport("large", "640x360");
    let both = [&small, &large].map(|it| std::fs::read(it).expect("ffmpeg wrote it"));
    node.call("PUT", "/api/v1/live/sizes", &[], &both.concat())
        .ok();
    let replay = over(&node, "sizes");
    assert_eq!(count(&replay, "v"), 200);
    let list = node.get("/play/sizes/main.m3u8").ok().text();
    assert_eq!(list.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{list}");
    assert_eq!(list.matches("#EXT-X-MAP").count(), 2, "{list}");
}

fn transport(name: &str, size: &str) -> PathBuf {
    let picture = PICTURE.replace("320x180", size);
    let source = film(&format!("{name}.mp4"), &format!("{picture} -t 4 {H264}"));
    film_of(
        &format!("{name}.ts"),
        &source,
        "-i {} -c copy -muxdelay 0 -f mpegts",
    )
}
