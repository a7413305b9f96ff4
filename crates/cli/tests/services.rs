//! Services of the operator: told of live streams, asked who may, and sent what is live.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::media::{contains_run, frames, mp4};
use common::program::Program;
use common::{Node, assert_sentence, text, until};
use serde_json::Value;

/// What a call looked like.
#[derive(Clone, Debug)]
struct Call {
    id: String,
    signature: String,
    body: Value,
}

/// A service that answers each call with what `answer` says, and remembers them.
struct Service {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Service {
    fn new(answer: impl Fn(usize, &Call) -> u16 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}/hook", listener.local_addr().expect("it has one"));
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let held = calls.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(call) = read(&stream) else { continue };
                let mut held = held.lock().expect("no test panics with it");
                let status = answer(held.len(), &call);
                held.push(call);
                drop(held);
                let head = "Content-Length: 0\r\nConnection: close";
                let _ = write!(&stream, "HTTP/1.1 {status} x\r\n{head}\r\n\r\n");
            }
        });
        Self { url, calls }
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no test panics with it").clone()
    }

    /// Types of what it was told, without those that it refused to hear.
    fn types(&self) -> Vec<String> {
        let calls = self.calls();
        let mut seen = Vec::new();
        let mut types = Vec::new();
        for call in calls {
            if !seen.contains(&call.id) {
                types.push(call.body["type"].as_str().unwrap_or_default().to_owned());
                seen.push(call.id);
            }
        }
        types
    }
}

fn read(stream: &TcpStream) -> Option<Call> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut id, mut signature) = (0, String::new(), String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "webhook-id" => value.clone_into(&mut id),
            "webhook-signature" => value.clone_into(&mut signature),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).ok()?;
    Some(Call {
        id,
        signature,
        body,
    })
}

const SECRET: &str = "a secret of the tests";

fn put(node: &Node, name: &str, film: &std::path::Path) -> Program {
    let mut command = Command::new("ffmpeg");
    command.args([
        "-nostdin",
        "-v",
        "error",
        "-re",
        "-i",
        text(film),
        "-c",
        "copy",
    ]);
    command.args(["-muxdelay", "0", "-method", "PUT", "-f", "mpegts"]);
    command.arg(format!("{}/api/v1/live/{name}", node.url));
    command.stdin(Stdio::null());
    Program::spawn(command)
}

#[test]
fn a_service_hears_what_happens_once_and_in_order_also_when_it_fails_at_first() {
    // It is away for the first try.
    let service = Service::new(|count, _| if count == 0 { 500 } else { 204 });
    let node = Node::start(&["--hook", &service.url, "--hook-secret", SECRET]);
    let _sender = put(&node, "cam", &mp4(20));
    until("it heard of a segment", || {
        (service.types().len() >= 2).then_some(())
    });
    node.lavant(&["live", "stop", "cam"]).ok();
    let types = until("it heard of the end", || {
        let types = service.types();
        types.contains(&"live.ended".to_owned()).then_some(types)
    });
    assert_eq!(types[..2], ["live.published", "live.first_segment"]);
    let calls = service.calls();
    assert_eq!(
        (&calls[0].id, &calls[0].body),
        (&calls[1].id, &calls[1].body)
    );
    for call in &calls {
        assert_eq!(call.body["stream"], "cam", "{call:?}");
        assert!(
            call.signature.starts_with("v1,") && call.signature.len() == 47,
            "{call:?}"
        );
    }
    let ended = calls.iter().find(|call| call.body["type"] == "live.ended");
    let reason = ended.expect("it was told").body["reason"].clone();
    assert_eq!(reason, "the stream was stopped at this node");
}

#[test]
fn a_service_decides_who_publishes_and_who_watches() {
    let service = Service::new(|_, call| match call.body["action"].as_str() {
        Some("publish") if call.body["stream"] == "good" => 200,
        Some("play") if call.body["token"] == "ticket" => 200,
        _ => 403,
    });
    let flags = ["--authorize", &service.url, "--hook-secret", SECRET];
    let node = Node::start(&flags);
    let refused = node.call("PUT", "/api/v1/live/bad", &[], b"x");
    let sentence = refused.is(403).sentence();
    assert!(sentence.contains("does not allow"), "{sentence}");
    let _sender = put(&node, "good", &mp4(20));
    let list = until("it can be watched", || {
        let reply = node.get("/play/good/index.m3u8?token=ticket");
        (reply.status == 200).then(|| reply.text())
    });
    // What the list names needs no token, from the address that had one.
    let segment = list.lines().find(|line| line.starts_with("/segment/"));
    node.get(segment.expect("it lists one")).ok();
    node.get("/play/good/index.m3u8?token=forged").is(403);
    node.get("/play/other/index.m3u8").is(403);
    let asked = service.calls();
    let play = asked
        .iter()
        .find(|call| call.body["action"] == "play")
        .expect("it was asked");
    assert_eq!(play.body["address"], "127.0.0.1");
}

#[test]
fn a_service_that_is_away_lets_nobody_in() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("it has one"));
    drop(listener);
    let node = Node::start(&["--authorize", &url, "--hook-secret", SECRET]);
    for reply in [
        node.call("PUT", "/api/v1/live/cam", &[], b"x"),
        node.get("/play/cam/index.m3u8"),
        node.get("/segment/cam/0"),
    ] {
        assert_sentence(&reply.is(503).sentence());
    }
    let done = common::program::lavant(&["serve", "--authorize", &url, "--store", "/nowhere"]);
    assert!(done.reason().contains("hook_secret"), "{}", done.reason());
}

#[test]
fn a_stream_is_sent_on_whenever_it_runs() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it has one").port()
    };
    let target = Node::start(&["--rtmp", &port.to_string()]);
    let key = target
        .lavant(&["live", "key", "copy", "--json"])
        .ok()
        .json();
    let url = format!(
        "rtmp://127.0.0.1:{port}/live/{}",
        key["key"].as_str().unwrap()
    );
    let node = Node::start(&[]);
    let refused = node.lavant(&["live", "forward", "cam", "http://example.org/"]);
    assert!(refused.reason().contains("rtmp"), "{}", refused.reason());
    node.lavant(&["live", "forward", "cam", &url]).ok();
    let film = mp4(20);
    let _sender = put(&node, "cam", &film);
    let copy = until("the copy is stored", || {
        let all = target.json("/api/v1/live");
        let copy = all
            .as_array()?
            .iter()
            .find(|it| it["name"] == "copy")?
            .clone();
        (copy["stored"].as_u64()? >= 2).then_some(copy)
    });
    assert_eq!(copy["by"], "rtmp");
    let entry = node.json("/api/v1/live/cam");
    let forward = &entry["forwards"][0];
    assert_eq!(forward["running"], true, "{entry}");
    assert_eq!(
        forward["to"],
        format!("rtmp://127.0.0.1:{port}"),
        "the key stays secret"
    );
    node.lavant(&["live", "forward", "cam"]).ok();
    until("it is sent no more", || {
        let copy = target.json("/api/v1/live/copy");
        (copy["state"] == "waiting").then_some(())
    });
    target.lavant(&["live", "stop", "copy"]).ok();
    let pictures = frames(&format!("{}/play/copy/index.m3u8", target.url), "v");
    assert!(pictures.len() >= 50, "{}", pictures.len());
    assert!(contains_run(&frames(text(&film), "v"), &pictures));
    // Whoever is not there says so, without the stream key.
    node.lavant(&["live", "forward", "cam", "rtmp://127.0.0.1:9/live/secret"])
        .ok();
    let error = until("it fails", || {
        let entry = node.json("/api/v1/live/cam");
        entry["forwards"][0]["error"].as_str().map(str::to_owned)
    });
    assert!(
        !error.contains("secret") && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn rtmp_in_tls_takes_who_has_the_key_and_refuses_what_is_no_tls() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (chain, key) = (
        folder.path().join("chain.pem"),
        folder.path().join("key.pem"),
    );
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made");
    std::fs::write(&chain, made.cert.pem()).expect("it can be written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("it can be written");
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener
            .local_addr()
            .expect("it has one")
            .port()
            .to_string()
    };
    let flags = [
        "--rtmps",
        &port,
        "--tls-cert",
        text(&chain),
        "--tls-key",
        text(&key),
    ];
    let node = Node::start(&flags);
    let printed = node.lavant(&["live", "key", "cam"]).ok().text();
    let url = printed
        .lines()
        .find_map(|line| line.strip_prefix("in one      "));
    let url = url.expect("it is printed").to_owned();
    assert!(url.starts_with("rtmps://"), "{url}");
    let film = mp4(10);
    let send = |url: &str| {
        let mut command = Command::new("ffmpeg");
        command.args([
            "-nostdin",
            "-v",
            "error",
            "-re",
            "-i",
            text(&film),
            "-c",
            "copy",
        ]);
        command.args(["-f", "flv", url]).stdin(Stdio::null());
        Program::spawn(command).wait()
    };
    assert_ne!(send(&url.replace("rtmps://", "rtmp://")).code, Some(0));
    send(&url).ok();
    node.lavant(&["live", "stop", "cam"]).ok();
    let played = frames(&format!("{}/play/cam/index.m3u8", node.url), "v");
    assert_eq!(played, frames(text(&film), "v"));

    // What cannot be used is said at the start.
    for (chain, key) in [(&key, &chain), (&folder.path().join("none.pem"), &key)] {
        let store = folder.path().join("store");
        let mut args = vec![
            "serve",
            "--no-relay",
            "--port",
            "0",
            "--store",
            text(&store),
        ];
        args.extend([
            "--rtmps",
            "0",
            "--tls-cert",
            text(chain),
            "--tls-key",
            text(key),
        ]);
        let done = common::program::lavant(&args);
        assert_ne!(done.code, Some(0));
        assert!(done.reason().contains(".pem"), "{}", done.reason());
    }
}
