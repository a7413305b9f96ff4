//! Live streams that go wrong: damaged and odd input, nodes that end, sources that are silent.

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::media::{AAC, H264, PICTURE, TONE, count, film, film_of, frames, mp4, transport};
use common::program::Program;
use common::{Node, assert_sentence, refused, text, until, within};
use serde_json::Value;

/// Publishes bytes at once; the stream then waits for its publisher.
fn send(node: &Node, name: &str, body: &[u8]) -> common::http::Reply {
    node.call("PUT", &format!("/api/v1/live/{name}"), &[], body)
}

fn state(node: &Node, name: &str) -> Value {
    node.json(&format!("/api/v1/live/{name}"))
}

/// Waits until so many seconds of a stream came.
fn came(node: &Node, name: &str, seconds: f64) {
    until("a stream to come", || {
        let reply = node.get(&format!("/api/v1/live/{name}"));
        let came = (reply.status == 200).then(|| reply.json()["seconds"].as_f64())??;
        (came >= seconds).then_some(())
    });
}

/// A node whose address stays the same when it is started again.
fn lasting_node(flags: &[&str]) -> Node {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let port = listener.local_addr().expect("it has an address").port();
    drop(listener);
    Node::start(&[&["--port", &port.to_string()][..], flags].concat())
}

/// ffmpeg, which publishes a film as it is played.
fn publisher(node: &Node, name: &str, seconds: u32) -> Program {
    let mut command = Command::new("ffmpeg");
    let to = format!("{}/api/v1/live/{name}", node.url);
    command.args(["-nostdin", "-v", "warning", "-re", "-i"]);
    command.arg(transport(seconds));
    command.args([
        "-c",
        "copy",
        "-muxdelay",
        "0",
        "-method",
        "PUT",
        "-f",
        "mpegts",
    ]);
    command.arg(to).stdin(Stdio::null());
    Program::spawn(command)
}

/// H.264 and AAC in fragmented MP4.
fn fragmented(seconds: u32) -> Vec<u8> {
    let args = "-i {} -c copy -movflags +frag_keyframe+empty_moov+default_base_moof -f mp4";
    std::fs::read(film_of("fragmented.mp4", &mp4(seconds), args)).expect("ffmpeg wrote it")
}

fn folder() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().to_owned();
    (folder, move |name: &str| path.join(name))
}

#[test]
fn a_stream_is_fetched_while_it_runs_and_when_it_has_just_ended() {
    let node = Node::start(&[]);
    let (_folder, file) = folder();
    let running = publisher(&node, "cam", 30);
    came(&node, "cam", 7.0);
    let to = file("running.mp4");
    let got = node.lavant(&["get", "cam", "-o", text(&to)]).ok();
    assert!(got.err.contains("still grows"), "{}", got.err);
    assert!(count(text(&to), "v") >= 50);
    drop(running);
    let film = transport(45);
    send(&node, "film", &std::fs::read(&film).unwrap()).ok();
    node.call("POST", "/api/v1/live/film/finish", &[], &[]).ok();
    let to = file("film.ts");
    let got = node.lavant(&["get", "film", "-o", text(&to)]).ok();
    assert!(got.err.contains("is fragmented MP4"), "{}", got.err);
    assert!(!got.err.contains("still grows"), "{}", got.err);
    // From its beginning, which left the window long ago.
    assert_eq!(frames(text(&to), "v"), frames(text(&film), "v"));
}

#[test]
fn whoever_watches_waits_for_a_node_that_comes_back() {
    let mut node = lasting_node(&["--grace", "8s"]);
    let (_folder, file) = folder();
    let mut publisher = publisher(&node, "cam", 60);
    came(&node, "cam", 3.0);
    let to = file("cam.mp4");
    let watch = node.command_on(&["watch", "cam", "-o", text(&to)]).spawn();
    until("something to be written", || {
        std::fs::metadata(&to)
            .is_ok_and(|it| it.len() > 0)
            .then_some(())
    });
    node.kill9();
    publisher.kill9();
    node.start_again();
    let asked = |node: &Node| {
        let text = node.get("/metrics").ok().text();
        let line = text
            .lines()
            .find(|line| line.starts_with("lavant_playlists_total "));
        let number = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
        number.expect("playlists are counted")
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = asked(&node);
    std::thread::sleep(Duration::from_secs(3));
    let often = asked(&node) - before;
    assert!(often <= 10.0, "{often} playlists in three seconds");
    // It ends with the stream, which nobody publishes any more.
    let said = watch.wait().ok().err;
    assert!(said.contains("written"), "{said}");
}

#[test]
fn a_publisher_goes_on_when_its_node_comes_back() {
    let mut node = lasting_node(&["--grace", "30s"]);
    for (name, bytes) in [
        ("ts", std::fs::read(transport(12)).unwrap()),
        ("mp4", fragmented(12)),
    ] {
        let mut live = node.command_on(&["live", name, "-"]).spawn();
        let mut stdin = live.stdin.take().unwrap();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        stdin.write_all(first).unwrap();
        // What is only in memory goes with the node.
        until("two segments to be stored", || {
            let reply = node.get(&format!("/api/v1/live/{name}"));
            let stored = (reply.status == 200).then(|| reply.json()["stored"].as_u64())??;
            (stored >= 2).then_some(())
        });
        node.kill9();
        node.start_again();
        // Whatever comes, and not all of it at once.
        for piece in rest.chunks(rest.len() / 20 + 1) {
            stdin.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(stdin);
        let done = live.wait().ok();
        assert!(done.err.contains("the connection was lost"), "{}", done.err);
        assert!(
            done.err.contains(&format!("publishing {name} again")),
            "{}",
            done.err
        );
        let url = format!("{}?window=all", node.play_url(name));
        let pictures = count(&url, "v");
        assert!(
            (170..=300).contains(&pictures),
            "{name}: {pictures} pictures"
        );
    }
}

#[test]
fn a_source_may_be_silent_for_longer_than_a_request() {
    let node = Node::start(&[]);
    let bytes = fragmented(8);
    let mut live = node.command_on(&["live", "cam", "-"]).spawn();
    let mut stdin = live.stdin.take().unwrap();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    stdin.write_all(first).unwrap();
    came(&node, "cam", 2.0);
    std::thread::sleep(Duration::from_secs(22));
    stdin.write_all(rest).unwrap();
    drop(stdin);
    let done = live.wait().ok();
    assert!(!done.err.contains("lost"), "{}", done.err);
    let pictures = count(&format!("{}?window=all", node.play_url("cam")), "v");
    // At most a fragment of a second is lost where it was divided.
    assert!(pictures >= 150, "{pictures} pictures");
}

#[test]
fn a_publisher_that_is_refused_for_good_ends() {
    let node = Node::start(&[]);
    let mut live = node.command_on(&["live", "cam", "-"]).spawn();
    let mut stdin = live.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        // Until it is no longer read.
        let bytes = std::fs::read(transport(10)).unwrap();
        let pieces = bytes.chunks(20_000).cycle();
        for piece in pieces {
            if stdin.write_all(piece).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    came(&node, "cam", 3.0);
    node.call("POST", "/api/v1/live/cam/stop", &[], &[]).ok();
    let done = live.wait_within(Duration::from_secs(60)).exits(3);
    assert!(done.reason().contains("stopped"), "{}", done.err);
    feeding.join().unwrap();
}

#[test]
fn wrong_input_is_named_and_ends_with_2() {
    let node = Node::start(&[]);
    let (_folder, file) = folder();
    let mkv = film_of("film.mkv", &mp4(3), "-i {} -c copy");
    let mpeg2 = film(
        "mpeg2.ts",
        &format!("{PICTURE} {TONE} -t 3 -c:v mpeg2video -c:a mp2 -f mpegts"),
    );
    let header = fragmented(3);
    let header = &header[..header.windows(4).position(|it| it == b"moof").unwrap() - 4];
    let read = |path: &PathBuf| std::fs::read(path).unwrap();
    for (input, word) in [
        (read(&mkv), "looks like Matroska"),
        (read(&mp4(3)), "not fragmented"),
        (read(&mpeg2), "known codec"),
        (Vec::new(), "empty"),
        (
            common::payload(3, 100_000),
            "neither MPEG-TS nor fragmented MP4",
        ),
        (b"Dear all, ".repeat(1000), "looks like text"),
        (header.to_vec(), "no frames"),
    ] {
        let run = node.command_on(&["live", "cam", "-"]).input(input).run();
        let reason = run.exits(2).reason();
        assert_sentence(&reason);
        assert!(reason.contains(word), "{reason}");
    }
    let empty = file("empty.mp4");
    std::fs::write(&empty, b"").unwrap();
    for (path, word) in [
        (text(&file(".")).to_owned(), "is a folder"),
        (text(&empty).to_owned(), "no film"),
        (text(&mpeg2).to_owned(), "mpeg2video video, mp2 audio only"),
    ] {
        let said = node.lavant(&["live", "cam", &path]).exits(2).err;
        assert_sentence(&said);
        assert!(
            said.contains(word) && !said.contains("publishing"),
            "{said}"
        );
    }
    let long = "x".repeat(70_000);
    for (args, word) in [
        (
            &["live", "cam", "-", "--title", &long][..],
            "at most 512 bytes",
        ),
        (&["live", "key", "\u{e4}/\u{f6}"], "letters and digits"),
        (&["live", "stop", "a b"], "letters and digits"),
        (&["get", &long, "-o", "never.mp4"], "shorten"),
    ] {
        let said = node.lavant(args).exits(2).err;
        assert_sentence(&said);
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_film_of_other_codecs_is_published_and_what_is_left_out_is_told() {
    let node = Node::start(&[]);
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 25 -c:a libopus";
    let webm = film("film.webm", &format!("{PICTURE} {TONE} -t 4 {vp9}"));
    node.lavant(&["live", "webm", text(&webm)]).ok();
    let codecs = state(&node, "webm")["codecs"].to_string();
    assert!(
        codecs.contains("vp09") && codecs.contains("opus"),
        "{codecs}"
    );
    let url = format!("{}?window=all", node.play_url("webm"));
    assert_eq!((count(&url, "v"), count(&url, "a") > 190), (100, true));
    let args = format!("{PICTURE} {TONE} -t 4 {H264} -c:a libmp3lame");
    node.lavant(&["live", "mkv", text(&film("mp3.mkv", &args))])
        .ok();
    assert!(count(&format!("{}?window=all", node.play_url("mkv")), "a") > 100);
    let args = format!("{PICTURE} {TONE} -t 4 {H264} -c:a ac3 -f mpegts");
    let silent = std::fs::read(film("ac3.ts", &args)).unwrap();
    let run = node
        .command_on(&["live", "silent", "-"])
        .input(silent)
        .run();
    let said = run.ok().err;
    assert!(said.contains("left out: ac-3 audio"), "{said}");
    assert_eq!(state(&node, "silent")["left_out"][0], "ac-3 audio");
    let args = format!("{PICTURE} {TONE} {TONE} -t 2 -map 0 -map 1 -map 2 {H264} {AAC}");
    let two = film("two.mp4", &args);
    let said = node.lavant(&["live", "two", text(&two)]).ok().err;
    assert!(said.contains("left out: a further aac audio"), "{said}");
}

#[test]
fn damage_in_the_midst_costs_a_moment_and_not_the_rest() {
    let node = Node::start(&[]);
    let (ts, mp4) = (std::fs::read(transport(10)).unwrap(), fragmented(10));
    let half = mp4.len() / 2;
    let holed = [&mp4[..half], &mp4[half + 300..]].concat();
    let mut scrambled = ts.clone();
    let of_video = |it: &[u8]| it[1] & 0x1f == 1 && it[2] == 0;
    let packets: Vec<_> = ts.chunks(188).map(of_video).collect();
    let at = packets.iter().rposition(|is| *is).unwrap() / 2 * 188;
    scrambled[at + 3] |= 0x80;
    for (name, bytes) in [
        ("holed", holed),
        ("scrambled", scrambled),
        ("odd", ts[17..].to_vec()),
    ] {
        send(&node, name, &bytes).ok();
        node.call("POST", &format!("/api/v1/live/{name}/finish"), &[], &[])
            .ok();
        let pictures = count(&format!("{}?window=all", node.play_url(name)), "v");
        assert!(pictures >= 200, "{name}: {pictures} pictures");
    }
    let header = &mp4[..mp4.windows(4).position(|it| it == b"moof").unwrap() - 4];
    refused(send(&node, "header", header), 422, "no frames");
    let endless = [header, b"\x7f\xff\xff\xffmdat", &[0; 5000]].concat();
    refused(send(&node, "endless", &endless), 422, "too large");
    within(Duration::from_secs(5), "the streams", || {
        (node.json("/api/v1/live").as_array()?.len() >= 3).then_some(())
    });
}
