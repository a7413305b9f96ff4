//! A node in memory that speaks the uploads protocol over HTTP/1.1, for tests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Bytes of all uploads together.
const HELD_MAX: usize = 256 << 20;

/// A piece as it came.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) query: BTreeMap<String, String>,
    pub(super) data: Vec<u8>,
}

/// What is there.
#[derive(Default)]
pub(super) struct State {
    /// Opening request and pieces by `rendition/name`, of the upload that is open.
    pub(super) open: Option<(Value, BTreeMap<String, Stored>)>,
    /// The same, and the commit's request, of what was published.
    pub(super) published: Option<(Value, BTreeMap<String, Stored>, Value)>,
    /// Sources published.
    sources: Vec<String>,
    pub(super) puts: usize,
    pub(super) deletes: usize,
    pub(super) opened: usize,
    /// The number of the PUT from which on everything is refused.
    pub(super) refuse_from: Option<usize>,
}

impl State {
    /// Nothing counts as published any more.
    pub(super) fn forget(&mut self) {
        self.sources.clear();
    }
}

/// A node on a port of its own; its threads end with the test program.
pub(super) struct FakeNode {
    pub(super) url: String,
    pub(super) state: Arc<Mutex<State>>,
}

impl FakeNode {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { url, state }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((method, target, body)) = request(&mut reader) {
        let (status, answer) = route(&mut state.lock().unwrap(), &method, &target, body);
        let text = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
        let head = format!("{head}Content-Length: {}\r\n\r\n", text.len());
        if writer.write_all((head + &text).as_bytes()).is_err() {
            return;
        }
    }
}

fn request(reader: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?;
            }
            Some(_) => {}
            None => break,
        }
    }
    assert!(length <= HELD_MAX);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, target, body))
}

fn route(state: &mut State, method: &str, target: &str, body: Vec<u8>) -> (u16, Value) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method, &parts[..]) {
        ("POST", ["uploads"]) => open(state, &serde_json::from_slice(&body).unwrap()),
        ("PUT", ["uploads", _, "segments", rendition, name]) => {
            put(state, &format!("{rendition}/{name}"), query, body)
        }
        ("POST", ["uploads", _, "commit"]) => {
            let (opening, pieces) = state.open.take().unwrap();
            state
                .sources
                .push(opening["source"].as_str().unwrap().to_owned());
            state.published = Some((opening, pieces, serde_json::from_slice(&body).unwrap()));
            (200, entry())
        }
        ("DELETE", ["uploads", _]) => {
            state.deletes += 1;
            state.open = None;
            (200, json!({"deleted": true}))
        }
        ("GET", ["content", "film"]) => (200, entry()),
        _ => (404, json!({"error": format!("no such path {path}")})),
    }
}

fn entry() -> Value {
    json!({"content_id": "film", "play_url": "/play/film/index.m3u8", "segment_count": 1,
        "bytes": 5, "duration_seconds": 1.5})
}

fn open(state: &mut State, opening: &Value) -> (u16, Value) {
    state.opened += 1;
    let source = opening["source"].as_str().unwrap();
    if state.sources.iter().any(|known| known == source) {
        return (
            409,
            json!({"error": "here", "existing": {"content_id": "film", "version": 1}}),
        );
    }
    let resumed = state
        .open
        .as_ref()
        .is_some_and(|(old, _)| old["source"] == opening["source"]);
    if !resumed {
        state.open = Some((opening.clone(), BTreeMap::new()));
    }
    let held = state.open.as_ref().map(|(_, pieces)| {
        pieces
            .iter()
            .map(|(key, stored)| held(key, stored))
            .collect::<Vec<_>>()
    });
    let publisher = opening["publisher"]
        .as_str()
        .map_or_else(|| "0".repeat(64), str::to_owned);
    let answer = json!({
        "upload_id": "0123456789abcdef0123456789abcdef", "content_id": "film", "version": 1,
        "publisher": publisher, "created_us": 1_700_000_000_000_000_u64, "ttl_seconds": 2_592_000,
        "title": opening["title"], "priority": opening["priority"], "resumed": resumed,
        "segments": held,
    });
    (if resumed { 200 } else { 201 }, answer)
}

fn held(key: &str, stored: &Stored) -> Value {
    let (rendition, name) = key.split_once('/').unwrap();
    let number = |name: &str| {
        stored
            .query
            .get(name)
            .map(|text| text.parse::<u64>().unwrap())
    };
    json!({
        "rendition": rendition, "name": name, "duration": number("duration"),
        "discontinuity": number("discontinuity") == Some(1), "init": number("init"),
        "length": stored.data.len(), "root": blake3::hash(&stored.data).to_string(),
    })
}

fn put(state: &mut State, key: &str, query: &str, data: Vec<u8>) -> (u16, Value) {
    state.puts += 1;
    if state.refuse_from.is_some_and(|from| state.puts >= from) {
        return (507, json!({"error": "the disk is full: free some space"}));
    }
    let Some((_, pieces)) = &mut state.open else {
        return (404, json!({"error": "there is no such upload"}));
    };
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let answer = json!({
        "root": blake3::hash(&data).to_string(), "length": data.len(), "stored": true,
    });
    pieces.insert(key.to_owned(), Stored { query, data });
    assert!(
        pieces
            .values()
            .map(|stored| stored.data.len())
            .sum::<usize>()
            <= HELD_MAX
    );
    (200, answer)
}
