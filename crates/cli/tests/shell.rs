//! The commands as a user of a shell meets them: help, JSON, exit codes, signals, keys, the store.

mod common;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::media::mp4;
use common::{Done, Lavant, Node, assert_sentence, lavant, payload, text};
use rustix::process::Signal;
use serde_json::Value;

const COMMANDS: [&str; 12] = [
    "serve", "ingest", "catalog", "status", "get", "play", "rm", "pin", "unpin", "key", "store",
    "doctor",
];

#[test]
fn every_command_explains_itself_by_examples() {
    let help = lavant(&["--help"]).ok().text();
    assert!(
        help.contains("Examples:") && help.contains("Exit codes:"),
        "{help}"
    );
    for command in COMMANDS {
        assert!(
            help.contains(&format!("\n  {command} ")),
            "{command} is not in {help}"
        );
        let own = lavant(&[command, "--help"]).ok().text();
        assert!(own.contains("Examples:"), "{command}: {own}");
        assert!(
            own.contains(&format!("lavant {command}")),
            "{command}: {own}"
        );
    }
    for words in [
        "key show",
        "key new",
        "key export",
        "key import",
        "store check",
        "store gc",
        "store stats",
        "store backup",
        "store restore",
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--help"]).collect();
        lavant(&words).ok();
    }
    let version = lavant(&["--version"]).ok().text();
    assert_eq!(
        version.trim(),
        format!("lavant {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_use_ends_with_2() {
    for words in [
        &[][..],
        &["fly"],
        &["serve", "--prot", "1"],
        &["serve", "--port", "99999"],
        &["serve", "--store-limit", "many"],
        &["catalog", "extra"],
        &["ingest"],
        &["ingest", "a.mp4", "--priority", "soon"],
        &["get"],
        &["store"],
    ] {
        let done = lavant(words).exits(2);
        assert!(done.out.is_empty() && !done.err.is_empty(), "{words:?}");
    }
    let done = lavant(&["serve", "--prot", "1"]);
    assert!(done.err.contains("--port"), "{}", done.err);
}

/// Asserts that a command failed and said why in one sentence.
#[track_caller]
fn failed(done: Done, code: i32, word: &str) {
    let done = done.exits(code);
    assert_sentence(&done.err);
    assert!(done.reason().contains(word), "{}", done.reason());
}

#[test]
fn without_a_node_commands_end_with_3() {
    let nowhere = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let file = mp4(1);
    for words in [
        &["catalog"][..],
        &["status"],
        &["get", "film", "-o", "-"],
        &["play", "film"],
        &["rm", "film"],
        &["pin", "film"],
        &["unpin", "film"],
        &["ingest", text(&file)],
    ] {
        let words = [words, &["--daemon", &nowhere]].concat();
        failed(lavant(&words), 3, "lavant serve");
    }
    let node = Node::start(&[]);
    for words in [
        &["rm", "none"][..],
        &["pin", "none"],
        &["play", "none"],
        &["get", "none"],
    ] {
        failed(node.lavant(words), 3, "none");
    }
}

#[test]
fn a_node_that_is_ready_ends_in_order() {
    for _ in 0..20 {
        Node::start(&[]).stop();
    }
}

#[test]
fn a_node_is_reached_past_the_proxies_of_the_environment() {
    let node = Node::start(&[]);
    let nowhere = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        node.command_on(&["status"]).env(name, &nowhere).run().ok();
    }
}

#[test]
fn every_command_speaks_json() {
    let mut node = Node::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.ts");
    let key = folder.path().join("new.key");
    let backup = folder.path().join("backup.key");
    node.ingest(&[text(&mp4(1)), "--content-id", "film"]);
    let json = |words: &[&str]| -> Value {
        let json = node.lavant(&[words, &["--json"]].concat()).ok().json();
        assert!(json.is_object() || json.is_array(), "{words:?}: {json}");
        json
    };
    assert_eq!(json(&["catalog"])[0]["content_id"], "film");
    assert_eq!(json(&["status"])["store"]["contents"], 1);
    assert_eq!(
        json(&["get", "film", "-o", text(&copy)])["file"],
        text(&copy)
    );
    assert_eq!(json(&["play", "film"])["url"], node.play_url("film"));
    assert_eq!(json(&["pin", "film"])["pinned"], true);
    assert_eq!(json(&["unpin", "film"])["pinned"], false);
    assert_eq!(json(&["rm", "film"])["deleted_segments"], 1);
    let publisher = node.ready["publisher"].as_str().unwrap();
    let store = ["--store", text(&node.store)];
    let own = [&["key", "show"], &store[..]].concat();
    assert_eq!(json(&own)["publisher"], publisher);
    json(&["key", "new", text(&key)]);
    json(&[&["key", "export", text(&backup)], &store[..]].concat());
    assert!(!json(&[&["doctor", "--port", "0"], &store[..]].concat())[0].is_null());
    node.stop();
    for command in ["stats", "check", "gc"] {
        let words = ["store", command, "--json", "--store", text(&node.store)];
        assert!(lavant(&words).ok().json().is_object());
    }
    assert_eq!(
        lavant(&["catalog", "--json", "--daemon", "http://127.0.0.1:1"]).code,
        Some(3)
    );
}

#[test]
fn people_read_what_was_done() {
    let node = Node::start(&[]);
    let empty = node.lavant(&["catalog"]).ok().text();
    assert!(empty.contains("lavant ingest"), "{empty}");
    let done = node
        .lavant(&["ingest", text(&mp4(1)), "--title", "My Film"])
        .ok()
        .text();
    assert!(
        done.contains("my_film is published") && done.contains("play it: mpv "),
        "{done}"
    );
    let listed = node.lavant(&["catalog"]).ok().text();
    assert!(
        listed.contains("my_film") && listed.contains("complete"),
        "{listed}"
    );
    let status = node.lavant(&["status"]).ok().text();
    assert!(status.contains("1 segments of 1 contents"), "{status}");
    let shown = node
        .lavant(&["play", "my_film", "--player", "echo"])
        .ok()
        .text();
    assert!(
        shown.contains(&node.play_url("my_film")) || shown.is_empty(),
        "{shown}"
    );
    assert!(
        node.lavant(&["pin", "my_film"])
            .ok()
            .text()
            .contains("is pinned")
    );
    assert!(
        node.lavant(&["unpin", "my_film"])
            .ok()
            .text()
            .contains("no longer pinned")
    );
    assert!(
        node.lavant(&["rm", "my_film"])
            .ok()
            .text()
            .contains("removed my_film: 1 segments")
    );
}

#[test]
fn a_busy_port_and_a_busy_store_are_said_in_a_sentence() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let port = node.address.port().to_string();
    let second = Node::command(folder.path(), &["--port", &port]).run();
    failed(second, 1, "--port");
    // A node that meets others closes its links in order, and says no more.
    let relaying = ["--port", &port, "--relay-port", "0", "--no-discovery"];
    failed(Node::command(folder.path(), &relaying).run(), 1, "--port");
    let second = Node::command(&node.store, &[]).run();
    assert!(
        second.err.contains(&node.id().to_string()),
        "{}",
        second.err
    );
    failed(second, 1, "--store");
    failed(
        lavant(&["store", "check", "--store", text(&node.store)]),
        1,
        "in use",
    );
    node.get("/health").ok();
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let config = folder.path().join("lavant.toml");
    std::fs::write(&config, "node_id = \"file\"\nport = 1\nttl_live = \"1m\"\n").unwrap();
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let start = |words: &[&str], name: Option<&str>| {
        let base = [
            "serve",
            "--json",
            "--store",
            text(&store),
            "--config",
            text(&config),
        ];
        let mut command = Lavant::new(&[&base, words].concat());
        command = command.env("LAVANT_PORT", port.to_string());
        if let Some(name) = name {
            command = command.env("LAVANT_NODE_ID", name);
        }
        let mut program = command.spawn();
        let ready: Value = serde_json::from_str(&program.first_line()).unwrap();
        assert_eq!(ready["address"], format!("127.0.0.1:{port}"));
        let url = format!("http://127.0.0.1:{port}");
        let status = lavant(&["status", "--json", "--daemon", &url]).ok().json();
        program.signal(Signal::TERM);
        program.wait().ok();
        status["node_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(start(&[], None), "file");
    assert_eq!(start(&[], Some("environment")), "environment");
    assert_eq!(start(&["--node-id", "flag"], Some("environment")), "flag");

    std::fs::write(&config, "prot = 1\n").unwrap();
    let done = lavant(&["serve", "--config", text(&config)]).exits(2);
    assert!(
        done.err.contains("prot") && done.err.contains("lavant.toml"),
        "{}",
        done.err
    );
    failed(
        lavant(&["serve", "--config", "/none.toml"]),
        2,
        "/none.toml",
    );
    failed(
        lavant(&["serve", "--segment-limit", "1G", "--port", "0"]),
        2,
        "ingest_memory",
    );
}

#[test]
fn a_node_ends_in_time_whatever_is_open() {
    let mut node = Node::start(&[]);
    node.post(
        "content_id=film&sequence=0&duration=1",
        &payload(1, 30_000_000),
    )
    .ok();
    let mut events = node.connect();
    events.send("GET", "/events", &[], &[]).unwrap();
    assert_eq!(events.head().unwrap().status, 200);
    // A viewer that reads the head and then takes nothing more.
    let mut viewer = node.connect();
    viewer.send("GET", "/segment/film/0", &[], &[]).unwrap();
    assert_eq!(viewer.head().unwrap().status, 200);
    let mut half = node.connect();
    half.raw(b"POST /ingest HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc")
        .unwrap();
    let _idle = node.connect();
    node.signal(Signal::INT);
    node.ended();
}

#[test]
fn a_download_that_was_begun_is_completed_before_the_end() {
    let mut node = Node::start(&[]);
    let bytes = payload(1, 20_000_000);
    node.post("content_id=film&sequence=0&duration=1", &bytes)
        .ok();
    let mut viewer = node.connect();
    viewer.send("GET", "/segment/film/0", &[], &[]).unwrap();
    let head = viewer.head().unwrap();
    assert_eq!(head.header("content-length"), "20000000");
    node.signal(Signal::TERM);
    let body = viewer.rest().unwrap();
    assert!(body == bytes, "{} of {} bytes", body.len(), bytes.len());
    node.ended();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_exported_and_imported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut node = Node::start(&[]);
    let publisher = node.ready["publisher"].as_str().unwrap().to_owned();
    node.stop();
    assert_eq!(mode(&node.store.join("node.key")), 0o600);
    let (backup, store) = (path("backup.key"), path("other"));
    let export = ["key", "export", text(&backup), "--store", text(&node.store)];
    assert_eq!(lavant(&export).ok().text().trim(), publisher);
    assert_eq!(mode(&backup), 0o600);
    failed(lavant(&export), 1, "backup.key");
    let import = ["key", "import", text(&backup), "--store", text(&store)];
    assert_eq!(lavant(&import).ok().text().trim(), publisher);
    assert_eq!(mode(&store.join("node.key")), 0o600);
    assert_eq!(mode(&store), 0o700);
    failed(lavant(&import), 1, "has a key already");
    let other = Node::on(&store, &[]);
    assert_eq!(other.ready["publisher"], publisher);

    let new = path("new.key");
    let made = lavant(&["key", "new", text(&new)]).ok().text();
    assert_eq!(lavant(&["key", "show", text(&new)]).ok().text(), made);
    assert_ne!(made.trim(), publisher);
    assert_eq!(mode(&new), 0o600);
    std::fs::write(&new, "no key").unwrap();
    failed(lavant(&["key", "show", text(&new)]), 1, "new.key");
    failed(
        lavant(&["key", "show", text(&path("none.key"))]),
        1,
        "none.key",
    );
}

#[test]
fn the_doctor_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let words = ["doctor", "--json", "--port", "0", "--store", text(&store)];
    let found = lavant(&words).ok().json();
    let finding = |found: &Value, what: &str| -> Value {
        let all = found.as_array().unwrap().iter();
        all.clone()
            .find(|f| f["what"] == what)
            .unwrap_or(&Value::Null)
            .clone()
    };
    for what in [
        "ffmpeg", "ffprobe", "encoders", "player", "store", "disk", "port", "clock",
    ] {
        assert_eq!(finding(&found, what)["ok"], true, "{found}");
    }
    assert!(!store.exists(), "a doctor changes nothing");
    let missing = Lavant::new(&words)
        .env("PATH", folder.path())
        .run()
        .ok()
        .json();
    let ffmpeg = finding(&missing, "ffmpeg");
    assert_eq!(
        (&ffmpeg["ok"], &ffmpeg["optional"]),
        (&false.into(), &true.into())
    );
    assert!(
        ffmpeg["detail"]
            .as_str()
            .unwrap()
            .contains("apt-get install ffmpeg")
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || drop(taken.accept()));
    let words = ["doctor", "--port", &port, "--store", text(&store)];
    let said = lavant(&words).exits(1).text();
    assert!(said.contains("WRONG") && said.contains("--port"), "{said}");
}

#[test]
fn the_store_is_checked_cleaned_and_measured() {
    let mut node = Node::start(&[]);
    for sequence in 0..3 {
        let query = format!("content_id=film&sequence={sequence}&duration=1");
        node.post(&query, &payload(sequence, 50_000)).ok();
    }
    node.stop();
    let store = |command: &str| lavant(&["store", command, "--json", "--store", text(&node.store)]);
    let stats = store("stats").ok().json();
    assert_eq!(stats["segments"], 3);
    // Proofs and records take a little as well.
    let bytes = stats["bytes"].as_u64().unwrap();
    assert!((150_000..155_000).contains(&bytes), "{stats}");
    let intact = store("check").ok().json();
    assert_eq!(
        (&intact["intact"], &intact["dropped"]),
        (&3.into(), &0.into())
    );

    let stray = node.store.join("segments/a").join("b".repeat(63));
    std::fs::write(&stray, b"nobody's").unwrap();
    let found = store("check").ok().json();
    assert_eq!(found["unknown_files"], 1, "{found}");
    assert_eq!(store("gc").ok().json()["removed_files"], 1);
    assert!(!stray.exists());

    let files = common::program::run("find", &[text(&node.store.join("segments")), "-type", "f"]);
    let files = files.text();
    let damaged = Path::new(files.lines().next().unwrap());
    let mut bytes = std::fs::read(damaged).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(damaged, bytes).unwrap();
    let found = store("check").exits(1).json();
    assert_eq!(
        (&found["intact"], &found["dropped"]),
        (&2.into(), &1.into())
    );
    assert_eq!(
        store("check").ok().json()["dropped"],
        0,
        "it is dropped once"
    );
    node.start_again();
    let gaps = node.playlist("film").gaps();
    assert_eq!(gaps.iter().filter(|gap| **gap).count(), 1, "{gaps:?}");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let node = Node::start(&[]);
    for number in 0..200 {
        node.post(
            &format!("content_id=film-{number}&sequence=0&duration=1"),
            b"x",
        )
        .ok();
    }
    let program = env!("CARGO_BIN_EXE_lavant");
    let line = format!("{program} catalog --daemon {} | head -n 1", node.url);
    let done = common::program::run("bash", &["-o", "pipefail", "-c", &line]);
    assert_eq!(done.text().lines().count(), 1);
    assert!(done.err.is_empty(), "{}", done.err);
}

#[test]
fn a_token_for_a_group_is_new_each_time_and_let_in_by_the_node() {
    let made = || lavant(&["key", "token"]).ok().text().trim().to_owned();
    let (one, other) = (made(), made());
    assert_ne!(one, other);
    // 32 characters to choose from: 26 of them are 130 bits.
    let chars = one.chars().filter(|c| c.is_ascii_alphanumeric()).count();
    assert!(chars >= 26, "{one}");
    let json = lavant(&["key", "token", "--json"]).ok().json();
    assert_eq!(json["token"].as_str().map(str::len), Some(one.len()));
    let help = lavant(&["key", "token", "--help"]).ok().text();
    assert!(help.contains("lavant serve --relay-token"), "{help}");
    let short = lavant(&["doctor", "--relay-token", "short"]);
    assert_eq!(short.code, Some(2));
}

#[test]
fn what_other_nodes_say_does_not_reach_the_terminal_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let odd = "x\u{1b}]0;owned\u{7}\n\u{202e}y";
    let peer = serde_json::json!([{
        "address": odd, "relay_addr": odd, "name": odd, "error": odd, "source": "named",
        "state": "away", "failures": 0, "received_bytes": 0, "sent_bytes": 0,
        "duplicate_bytes": 0, "received_segments": 0, "rate": 0,
    }]);
    let replies = [(200, peer), (400, serde_json::json!({ "error": odd }))];
    let serving = std::thread::spawn(move || {
        for (status, body) in [&replies[0], &replies[0], &replies[1]] {
            let mut stream = listener.accept().unwrap().0;
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: ");
            let answer = format!("{head}{}\r\n\r\n{body}", body.len());
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    let cleaned = "x\u{fffd}]0;owned\u{fffd}\u{fffd}\u{fffd}y";
    let ask = |args: &[&str]| Lavant::new(args).env("LAVANT_DAEMON", &url).run();
    let shown = ask(&["peers"]).ok().text();
    assert_eq!(shown.lines().count(), 2, "{shown:?}");
    assert_eq!(shown.matches(cleaned).count(), 3, "{shown:?}");
    let json = ask(&["peers", "--json"]).ok();
    assert_eq!(json.json()[0]["name"], odd);
    assert!(!json.text().contains('\u{1b}'));
    let refused = ask(&["peers"]).exits(3);
    assert_eq!(refused.reason(), cleaned);
    serving.join().unwrap();
}
