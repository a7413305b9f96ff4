//! Live streams as publishers and players see them: ffmpeg publishes, players reload.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use common::media::{PICTURE, TONE, count, film, frames, transport};
use common::playlist::{Playlist, strict};
use common::program::Program;
use common::{Node, PATIENCE, assert_sentence, refused, text, until};
use serde_json::Value;

/// ffmpeg with arguments divided by spaces, and one file or address behind them.
fn ffmpeg(args: &str, output: &str) -> Program {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "warning"]);
    command.args(args.split_whitespace()).arg(output);
    command.stdin(Stdio::null());
    Program::spawn(command)
}

/// Publishes a file as it is played, by HTTP.
fn put(node: &Node, name: &str, film: &Path) -> Program {
    let args = format!(
        "-re -i {} -c copy -muxdelay 0 -method PUT -f mpegts",
        text(film)
    );
    ffmpeg(&args, &format!("{}/api/v1/live/{name}", node.url))
}

/// Publishes a file as it is played, by RTMP.
fn rtmp(film: &Path, address: &str) -> Program {
    ffmpeg(&format!("-re -i {} -c copy -f flv", text(film)), address)
}

/// Publishes bytes at once; the stream then waits for its publisher.
fn send(node: &Node, name: &str, body: &[u8]) -> common::http::Reply {
    node.call("PUT", &format!("/api/v1/live/{name}"), &[], body)
}

fn state(node: &Node, name: &str) -> Value {
    node.json(&format!("/api/v1/live/{name}"))
}

/// A free port of this machine.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address").port()
}

/// A node that listens for RTMP, and the port.
fn rtmp_node(flags: &[&str]) -> (Node, u16) {
    let port = free_port();
    let listen = port.to_string();
    let node = Node::start(&[&["--rtmp", &listen][..], flags].concat());
    (node, port)
}

/// Where a name is published by RTMP.
fn address(node: &Node, name: &str) -> String {
    let key = node.lavant(&["live", "key", name, "--json"]).ok().json();
    let part = |name: &str| key[name].as_str().expect("it is there").to_owned();
    format!("{}/{}", part("rtmp"), part("key"))
}

/// The playlist, once it lists so many segments.
fn listed(node: &Node, name: &str, segments: usize) -> Playlist {
    until("segments of a live stream", || {
        let reply = node.get(&format!("/play/{name}/index.m3u8"));
        let list = (reply.status == 200).then(|| Playlist::parse(&reply.text()))?;
        (list.entries.len() >= segments).then_some(list)
    })
}

/// URIs and lengths of the parts of a playlist.
fn parts(list: &Playlist) -> Vec<(String, f64)> {
    let lines = list.text.lines();
    let parts = lines.filter_map(|line| line.strip_prefix("#EXT-X-PART:DURATION="));
    parts
        .map(|part| {
            let seconds = part.split(',').next().expect("it has a length");
            let uri = part.split('"').nth(1).expect("it has a URI");
            (
                uri.to_owned(),
                seconds.parse().expect("a length is a number"),
            )
        })
        .collect()
}

/// What stands behind `/` of a URI, as numbers: segment and part.
fn numbers(uri: &str) -> (u64, u64) {
    let name = uri.rsplit('/').next().expect("a URI has a name");
    let mut words = name.split('.').map(str::parse);
    let mut next = || words.next().expect("two").expect("a number");
    (next(), next())
}

/// What a player of low latency has got so far.
#[derive(Default)]
struct Player {
    texts: Vec<String>,
    got: BTreeMap<String, Vec<u8>>,
    lengths: BTreeMap<(u64, u64), f64>,
    first: u64,
    constant: Option<(String, u64)>,
}

impl Player {
    /// Takes a playlist, and fetches what it lists.
    fn take(&mut self, node: &Node, list: &Playlist) {
        let first = list.number("MEDIA-SEQUENCE");
        assert!(first >= self.first, "{} became {first}", self.first);
        self.first = first;
        let maps = list.entries.iter().filter_map(|entry| entry.map.clone());
        let uris = list.entries.iter().map(|entry| entry.uri.clone());
        let listed = parts(list);
        for uri in maps
            .chain(uris)
            .chain(listed.iter().map(|part| part.0.clone()))
        {
            let fetch = || node.get(&uri).ok().body;
            self.got.entry(uri.clone()).or_insert_with(fetch);
        }
        for (uri, seconds) in listed {
            self.lengths.insert(numbers(&uri), seconds);
        }
        if let Some(info) = list.tag("PART-INF") {
            let constant = (info.to_owned(), list.number("TARGETDURATION"));
            let before = self.constant.get_or_insert_with(|| constant.clone());
            assert_eq!(*before, constant);
        }
        self.texts.push(list.text.clone());
    }

    /// Asserts what holds for all that it saw.
    fn check(&self) {
        let (info, _) = self.constant.as_ref().expect("low latency was offered");
        let target: f64 = info.split('=').nth(1).unwrap().parse().unwrap();
        for ((segment, part), seconds) in &self.lengths {
            assert!(*seconds <= target + 1e-4, "{segment}.{part}: {seconds} s");
            let is_last = !self.lengths.contains_key(&(*segment, part + 1));
            assert!(
                is_last || *seconds >= 0.85 * target,
                "{segment}.{part}: {seconds} s"
            );
        }
        let mut whole = 0;
        let newest = self.lengths.keys().next_back().map(|(segment, _)| *segment);
        for (uri, bytes) in &self.got {
            let Some(stem) = uri.strip_suffix(".m4s") else {
                continue;
            };
            let pieces = (0..).map_while(|part| self.got.get(&format!("{stem}.{part}.m4s")));
            let pieces: Vec<u8> = pieces.flatten().copied().collect();
            if pieces.is_empty() {
                continue;
            }
            assert!(bytes.starts_with(&pieces), "parts of {uri} are others");
            // The last parts of all may come after the last reload.
            let is_newest = newest.is_some_and(|no| stem.ends_with(&format!("/{no}")));
            assert!(is_newest || pieces.len() == bytes.len(), "{uri} has more");
            whole += usize::from(!is_newest);
        }
        assert!(whole >= 2, "{whole} segments came with their parts");
        let folder = tempfile::tempdir().unwrap();
        let files = self.texts.iter().enumerate().map(|(n, text)| {
            let path = folder.path().join(format!("{n}.m3u8"));
            std::fs::write(&path, text).unwrap();
            path
        });
        let files: Vec<_> = files.collect();
        strict(&files.iter().map(|path| text(path)).collect::<Vec<_>>());
    }
}

#[test]
fn a_player_of_low_latency_gets_part_after_part() {
    let node = Node::start(&[]);
    let mut publisher = put(&node, "cam", &transport(19));
    let mut list = listed(&node, "cam", 1);
    let mut player = Player::default();
    let mut skipped = 0;
    while publisher.is_running() {
        player.take(&node, &list);
        let Some(hint) = list
            .tag("PRELOAD-HINT")
            .and_then(|hint| hint.split('"').nth(1))
        else {
            list = node.playlist("cam/index.m3u8");
            continue;
        };
        let (msn, part) = numbers(hint);
        let next = format!("/play/cam/index.m3u8?_HLS_msn={msn}&_HLS_part={part}");
        list = Playlist::parse(&node.get(&next).ok().text());
        if list.entries.len() >= 8 && list.tag("PRELOAD-HINT").is_some() {
            let news = node.get(&format!("{next}&_HLS_skip=YES")).ok().text();
            skipped += usize::from(news.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS="));
        }
    }
    player.check();
    assert!(skipped > 0, "no delta update: {}", list.text);
    publisher.wait().ok();
    let path = "/play/cam/index.m3u8";
    refused(node.get(&format!("{path}?_HLS_part=0")), 400, "_HLS_msn");
    refused(node.get(&format!("{path}?_HLS_msn=1000")), 400, "too far");
}

#[test]
fn a_stream_waits_for_its_publisher_until_it_is_finished() {
    let node = Node::start(&[]);
    send(&node, "cam", &std::fs::read(transport(30)).unwrap()).ok();
    let list = listed(&node, "cam", 12);
    assert_eq!(list.sequences()[0], 0);
    assert!(!list.has_end(), "its publisher may come back");
    assert_eq!(state(&node, "cam")["state"], "waiting");
    let done = node
        .call("POST", "/api/v1/live/cam/finish", &[], &[])
        .ok()
        .json();
    assert_eq!(done["state"], "ended");
    assert!(node.playlist("cam/index.m3u8").has_end());
    strict(&[&node.play_url("cam")]);
}

#[test]
fn a_stream_that_a_restart_cut_off_is_finished_after_the_grace() {
    let mut node = Node::start(&["--grace", "2s"]);
    send(&node, "cam", &std::fs::read(transport(10)).unwrap()).ok();
    node.stop();
    node.start_again();
    let before = node.playlist("cam");
    assert!(
        !before.has_end() && before.entries.len() >= 4,
        "{}",
        before.text
    );
    let ended = until("the end", || {
        let list = node.playlist("cam");
        list.has_end().then_some(list)
    });
    assert_eq!(ended.sequences(), before.sequences());
    assert_eq!(count(&node.play_url("cam"), "v"), 250);
}

#[test]
fn a_publisher_that_comes_back_after_a_restart_goes_on() {
    let mut node = Node::start(&["--grace", "30s"]);
    let bytes = std::fs::read(transport(6)).unwrap();
    send(&node, "cam", &bytes).ok();
    node.stop();
    node.start_again();
    send(&node, "cam", &bytes).ok();
    node.call("POST", "/api/v1/live/cam/finish", &[], &[]).ok();
    let list = node.get("/play/cam/index.m3u8?window=all").ok().text();
    let list = Playlist::parse(&list);
    let breaks = list
        .entries
        .iter()
        .filter(|entry| entry.discontinuity)
        .count();
    assert_eq!(breaks, 1, "{}", list.text);
    assert!(list.has_end());
    let url = format!("{}?window=all", node.play_url("cam"));
    assert_eq!(count(&url, "v"), 300);
}

#[test]
fn a_replay_has_every_frame() {
    let node = Node::start(&[]);
    let film = transport(10);
    let bytes = std::fs::read(&film).unwrap();
    let run = node.command_on(&["live", "cam", "-"]).input(bytes);
    run.run().ok();
    let url = format!("{}?window=all", node.play_url("cam"));
    assert_eq!(frames(&url, "v"), frames(text(&film), "v"));
    assert_eq!(count(&url, "a"), count(text(&film), "a"));
    let again = node.command_on(&["live", "cam", "-", "--json"]);
    let again = again.input(std::fs::read(&film).unwrap()).run().ok().json();
    assert_eq!(again["version"], 2);
}

#[test]
fn rtmp_takes_who_has_the_key_and_nobody_else() {
    let (node, port) = rtmp_node(&[]);
    let film = film(
        "rtmp.mp4",
        &format!(
            "{PICTURE} {TONE} -t 6 {} {}",
            common::media::H264,
            common::media::AAC
        ),
    );
    let wrong = rtmp(&film, &format!("rtmp://127.0.0.1:{port}/live/cam-wrong")).wait();
    assert_ne!(wrong.code, Some(0));
    assert!(
        wrong.err.contains("the stream key is wrong"),
        "{}",
        wrong.err
    );
    let to = address(&node, "cam");
    let first = rtmp(&film, &to);
    until("a publisher", || {
        let reply = node.get("/api/v1/live/cam");
        (reply.status == 200 && reply.json()["frames"].as_u64()? > 0).then_some(())
    });
    let second = rtmp(&film, &to).wait();
    assert_ne!(second.code, Some(0));
    assert!(second.err.contains("being published"), "{}", second.err);
    first.wait().ok();
    node.call("POST", "/api/v1/live/cam/finish", &[], &[]).ok();
    let url = format!("{}?window=all", node.play_url("cam"));
    assert_eq!(frames(&url, "v"), frames(text(&film), "v"));
}

#[test]
fn a_publisher_that_comes_back_goes_on_and_one_that_does_not_ends_the_stream() {
    let (node, _) = rtmp_node(&["--grace", "3s"]);
    let (film, to) = (common::media::mp4(10), address(&node, "cam"));
    let mut first = rtmp(&film, &to);
    let before = listed(&node, "cam", 1);
    first.kill9();
    until("the publisher to be missed", || {
        (state(&node, "cam")["state"] == "waiting").then_some(())
    });
    let mut second = rtmp(&film, &to);
    let after = until("a discontinuity", || {
        let list = node.playlist("cam/index.m3u8");
        list.entries
            .iter()
            .any(|entry| entry.discontinuity)
            .then_some(list)
    });
    assert!(after.entries.len() > before.entries.len(), "{}", after.text);
    let until_now = 0..after.entries.len() as u64;
    assert_eq!(after.sequences(), until_now.collect::<Vec<_>>());
    second.kill9();
    let ended = until("the end", || {
        let list = node.playlist("cam/index.m3u8");
        list.has_end().then_some(list)
    });
    assert!(ended.entries.len() >= after.entries.len());
    strict(&[&node.play_url("cam")]);
}

#[test]
fn a_stream_is_paused_resumed_listed_and_stopped() {
    let node = Node::start(&[]);
    let publisher = put(&node, "cam", &transport(30));
    listed(&node, "cam", 1);
    for (verb, wanted) in [("pause", "paused"), ("resume", "live")] {
        node.lavant(&["live", verb, "cam"]).ok();
        assert_eq!(state(&node, "cam")["state"], wanted);
        let list = node.lavant(&["live", "list"]).ok().text();
        assert!(list.contains("cam") && list.contains(wanted), "{list}");
    }
    node.call("POST", "/api/v1/live/cam/stop", &[], &[]).ok();
    assert!(node.playlist("cam/index.m3u8").has_end());
    publisher.wait();
    refused(send(&node, "cam", b"x"), 409, "stopped");
}

#[test]
fn what_is_no_stream_is_refused_with_a_sentence() {
    let (node, port) = rtmp_node(&[]);
    let whole = std::fs::read(common::media::mp4(3)).unwrap();
    let bodies: [(&str, Vec<u8>); 4] = [
        ("garbage", common::payload(7, 100_000)),
        ("empty", Vec::new()),
        ("plain", whole),
        ("words", b"This is a letter. ".repeat(100)),
    ];
    for (name, body) in bodies {
        let reply = send(&node, name, &body).is(422);
        assert_sentence(&reply.sentence());
    }
    let tone = film(
        "tone.ts",
        &format!("{TONE} -t 6 {} -f mpegts", common::media::AAC),
    );
    send(&node, "tone", &std::fs::read(tone).unwrap()).ok();
    listed(&node, "tone", 1);
    // A handshake, and then a chunk size of 2^31.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = [&[3][..], &[0; 1536 * 2]].concat();
    stream.write_all(&hello).unwrap();
    let size = [2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0x80, 0, 0, 0];
    stream.write_all(&size).unwrap();
    let mut answer = Vec::new();
    // It is closed; whether what it said arrives before is up to the system.
    let _ = stream.read_to_end(&mut answer);
    let idle: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    send(&node, "film", &std::fs::read(transport(5)).unwrap()).ok();
    listed(&node, "film", 1);
    drop(idle);
    let mut node = node;
    let said = node.stop();
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn a_store_that_takes_nothing_delays_nobody_who_watches() {
    // As full as a disk can be: more is to stay free than it has.
    let node = Node::start(&["--min-free", "1000T"]);
    send(&node, "cam", &std::fs::read(transport(10)).unwrap()).ok();
    let list = listed(&node, "cam", 4);
    for uri in list.entries.iter().map(|entry| &entry.uri) {
        node.get(uri).ok();
    }
    let told = until("the fault to be told", || {
        let told = state(&node, "cam");
        told["fault"].is_string().then_some(told)
    });
    let fault = told["fault"].as_str().unwrap();
    assert!(fault.contains("full"), "{fault}");
    assert_eq!(told["stored"], 0);
    assert_eq!(node.get("/content/cam").status, 404);
    let health = until("health to say so", || {
        let reply = node.get("/health");
        let told = reply.json();
        told["failed"]["live"].is_string().then_some(told)
    });
    let reason = health["failed"]["live"].as_str().unwrap();
    assert!(
        reason.contains("cam") && reason.contains("full"),
        "{health}"
    );
    // Whoever publishes from the shell hears what the replay lacks.
    let film = std::fs::read(transport(5)).unwrap();
    let done = node.command_on(&["live", "other", "-"]).input(film).run();
    let said = done.exits(1).err;
    assert!(said.contains("not in the replay"), "{said}");
}

#[test]
fn the_shell_says_what_is_wrong_before_it_publishes() {
    let node = Node::start(&[]);
    for wrong in [
        &["live", "cam", "no-such-file.mp4"][..],
        &["live", "a name", "-"],
        &["live", "cam", "gopher://camera"],
    ] {
        let said = node.command_on(wrong).input(Vec::new()).run().exits(2).err;
        assert_sentence(&said);
    }
    let held = put(&node, "cam", &transport(30));
    listed(&node, "cam", 1);
    // More than a connection holds: the refusal has to come before it.
    let many = std::fs::read(transport(30)).unwrap().repeat(20);
    let refused = node.command_on(&["live", "cam", "-", "--json"]).input(many);
    let said = refused.run().exits(3).err;
    assert!(said.contains("being published"), "{said}");
    drop(held);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none.mp4");
    node.lavant(&["watch", "nothing", "-o", text(&file)])
        .exits(3);
    assert!(!file.exists());
}
