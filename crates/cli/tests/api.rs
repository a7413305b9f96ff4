//! The HTTP API: what cosmosd's clients rely on, what HTTP promises.

mod common;

use common::http::{Reply, base64};
use common::{Node, Random, payload, refused, until};
use serde_json::{Value, json};

/// cosmosd's body of `POST /ingest`.
fn body(id: &str, sequence: u64, priority: &str, bytes: &[u8]) -> Value {
    json!({
        "content_id": id, "content_title": "A Film", "sequence": sequence,
        "mime_type": "video/mp2t", "priority": priority, "payload_b64": base64(bytes),
    })
}

fn post(node: &Node, body: &Value) -> Reply {
    let kind = [("content-type", "application/json")];
    node.call("POST", "/ingest", &kind, body.to_string().as_bytes())
}

#[track_caller]
fn is_time(value: &Value) {
    let text = value.as_str().unwrap();
    let form: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert_eq!(form, "9999-99-99T99:99:99Z");
}

#[test]
fn clients_of_cosmosd_find_what_they_know() {
    let node = Node::start(&["--node-id", "ship-7"]);
    let health = node.json("/health");
    assert_eq!(health["ok"], true);
    assert_eq!(health["node_id"], "ship-7");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(health["publisher"].as_str().unwrap().len(), 64);
    assert_eq!(node.json("/catalog"), json!([]));

    let bytes = payload(1, 20_000);
    let first = post(&node, &body("film", 0, "vod", &bytes)).ok();
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(
        first.json(),
        json!({"bundle_id": "film/00000", "stored": true})
    );
    let again = post(&node, &body("film", 0, "vod", &bytes)).ok();
    assert_eq!(
        again.json(),
        json!({"bundle_id": "film/00000", "stored": false})
    );
    let far = post(&node, &body("far", 123_456, "live", &bytes)).ok();
    assert_eq!(
        far.json(),
        json!({"bundle_id": "far/123456", "stored": true})
    );
    post(&node, &body("a", 0, "near_live", &bytes)).ok();

    let catalog = node.json("/catalog");
    let ids: Vec<_> = catalog
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["content_id"])
        .collect();
    assert_eq!(ids, ["a", "far", "film"]);
    let priorities: Vec<_> = catalog
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["priority"])
        .collect();
    assert_eq!(priorities, ["near_live", "live", "vod"]);
    let film = &catalog[2];
    assert_eq!(film["title"], "A Film");
    assert_eq!(film["segment_count"], 1);
    is_time(&film["expires_at"]);
    is_time(&film["created"]);

    let playlist = node.get("/play/film").ok();
    assert_eq!(
        playlist.header("content-type"),
        "application/vnd.apple.mpegurl"
    );
    assert_eq!(
        playlist.text(),
        node.get("/play/film/index.m3u8").ok().text()
    );
    let segment = node.get("/segment/film/0").ok();
    assert_eq!(segment.header("content-type"), "video/mp2t");
    assert!(segment.body == bytes);
}

#[test]
fn a_body_that_is_wrong_is_refused_in_a_sentence() {
    let node = Node::start(&["--segment-limit", "100k", "--ingest-memory", "1M"]);
    let good = || body("film", 0, "vod", b"segment");
    let with = |key: &str, value: Value| {
        let mut body = good();
        body[key] = value;
        post(&node, &body)
    };
    let kind = [("content-type", "application/json")];
    refused(
        node.call("POST", "/ingest", &kind, b"{\"content_id\":"),
        400,
        "JSON",
    );
    refused(
        node.call("POST", "/ingest", &kind, b"{}"),
        400,
        "content_id",
    );
    refused(with("payload_b64", json!("***")), 400, "base64");
    refused(with("payload_b64", json!("")), 400, "empty");
    refused(with("priority", json!("soon")), 400, "soon");
    refused(with("mime_type", json!("text/html")), 400, "text/html");
    refused(with("sequence", json!(-1)), 400, "-1");
    refused(with("sequence", json!(u64::MAX)), 400, "sequence");
    for id in ["", "../etc/passwd", "a/b", "a b", "a\u{202e}b"] {
        refused(with("content_id", json!(id)), 400, "");
    }
    let large = base64(&payload(1, 100_001));
    refused(with("payload_b64", json!(large)), 413, "100000");
    refused(
        node.post("content_id=film&sequence=0", &payload(1, 100_001)),
        413,
        "100000",
    );
    refused(node.post("content_id=film", b"x"), 400, "sequence");
    refused(
        node.post("content_id=film&sequence=0&duration=0", b"x"),
        400,
        "duration",
    );
    assert!(node.contents().is_empty());

    with("payload_b64", json!(base64(b"segment"))).ok();
    refused(with("payload_b64", json!(base64(b"another"))), 409, "film");
    let limit = payload(1, 100_000);
    node.post("content_id=film&sequence=1", &limit).ok();
    let upload = json!({"title": "x", "source": "", "renditions": []}).to_string();
    refused(
        node.call("POST", "/uploads", &kind, upload.as_bytes()),
        422,
        "rendition",
    );
}

#[test]
fn what_is_not_there_is_said_not_to_be_there() {
    let node = Node::start(&[]);
    node.post("content_id=film&sequence=0&duration=1", b"segment")
        .ok();
    for path in [
        "/nothing",
        "/play/none",
        "/play/none/index.m3u8",
        "/play/film/none.m3u8",
        "/play/film/index.mpd",
        "/segment/film/1",
        "/segment/film/x",
        "/segment/none/0",
        "/segment/film/2/main/0.ts",
        "/segment/film/1/none/0.ts",
        "/segment/film/1/main/init-0.mp4",
        "/content/none",
        "/content/film/none",
        "/uploads/00000000000000000000000000000000",
        "/assets/none.js",
    ] {
        let reply = node.get(path);
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
        reply.sentence();
    }
    for (method, path) in [
        ("DELETE", "/catalog"),
        ("POST", "/health"),
        ("GET", "/ingest"),
        ("PUT", "/play/film"),
        ("POST", "/content/film"),
    ] {
        let reply = node.call(method, path, &[], &[]);
        assert_eq!(reply.status, 405, "{method} {path}: {}", reply.text());
        reply.sentence();
    }
    let query = "/uploads/x/segments/main/0?duration=long";
    refused(node.call("PUT", query, &[], b"x"), 400, "duration");
    for path in ["/play/%2e%2e%2fetc", "/segment/a%00b/0", "/content/%ff"] {
        let reply = node.get(path);
        assert!(
            matches!(reply.status, 400 | 404),
            "{path}: {}",
            reply.status
        );
        reply.sentence();
    }
}

#[test]
fn a_content_is_removed_as_a_whole() {
    let node = Node::start(&[]);
    for sequence in 0..3 {
        let query = format!("content_id=film&sequence={sequence}&duration=1");
        node.post(&query, &payload(sequence, 1000)).ok();
    }
    let pin = |method| node.call(method, "/content/film/pin", &[], &[]).ok().json();
    assert_eq!(pin("PUT"), json!({"pinned": true}));
    assert_eq!(node.json("/content/film")["pinned"], true);
    assert_eq!(pin("DELETE"), json!({"pinned": false}));
    let gone = node.call("DELETE", "/content/film", &[], &[]).ok().json();
    assert_eq!(gone, json!({"deleted_segments": 3, "freed_bytes": 3000}));
    for path in [
        "/content/film",
        "/play/film",
        "/segment/film/0",
        "/segment/film/1/main/0.ts",
    ] {
        refused(node.get(path), 404, "film");
    }
    assert_eq!(node.call("DELETE", "/content/film", &[], &[]).status, 404);
    assert!(node.contents().is_empty());
    assert_eq!(node.json("/status")["store"]["bytes"], 0);
}

#[test]
fn a_download_goes_on_when_its_content_is_removed() {
    let node = Node::start(&[]);
    let bytes = payload(1, 20_000_000);
    node.post("content_id=film&sequence=0&duration=1", &bytes)
        .ok();
    let mut viewer = node.connect();
    viewer
        .send("GET", "/segment/film/0", &[("connection", "close")], &[])
        .unwrap();
    assert_eq!(viewer.head().unwrap().status, 200);
    node.call("DELETE", "/content/film", &[], &[]).ok();
    assert_eq!(node.get("/segment/film/0").status, 404);
    assert!(viewer.rest().unwrap() == bytes);
}

#[test]
fn names_of_every_script_work_in_paths() {
    let node = Node::start(&[]);
    let id = "\u{6620}\u{753b}-\u{444}\u{438}\u{43b}\u{44c}\u{43c}";
    post(&node, &body(id, 0, "vod", b"segment")).ok();
    let entry = &node.json("/catalog")[0];
    assert_eq!(entry["content_id"], id);
    let url = entry["play_url"].as_str().unwrap();
    assert!(url.is_ascii());
    let playlist = common::playlist::Playlist::parse(&node.get(url).ok().text());
    assert_eq!(node.bytes(&playlist.entries[0].uri), b"segment");
    let publisher = entry["publisher"].as_str().unwrap();
    let named = url.replacen("/play/", &format!("/play/{publisher}/"), 1);
    assert_eq!(node.get(&named).ok().text(), playlist.text);
    assert_eq!(node.call("DELETE", &url[5..], &[], &[]).status, 405);
}

/// A node with a film on disk, a live stream in memory, and their bytes.
fn two_contents() -> (Node, Vec<u8>, Vec<u8>) {
    let node = Node::start(&[]);
    let (film, live) = (payload(1, 1_500_000), payload(2, 70_000));
    node.post("content_id=film&sequence=0&duration=1", &film)
        .ok();
    node.post("content_id=live&priority=live&sequence=0&duration=1", &live)
        .ok();
    (node, film, live)
}

#[test]
fn ranges_and_validators_do_what_http_says() {
    let (node, film, live) = two_contents();
    for (path, bytes) in [
        ("/segment/film/1/main/0.ts", film),
        ("/segment/live/1/main/0.ts", live),
    ] {
        let whole = node.get(path).ok();
        assert!(whole.body == bytes);
        let length = bytes.len();
        let etag = whole.header("etag").to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert_eq!(whole.header("accept-ranges"), "bytes");
        assert!(whole.header("cache-control").contains("immutable"));
        let get = |headers: &[(&str, &str)]| node.call("GET", path, headers, &[]);
        for (range, from, to) in [
            ("bytes=0-0".to_owned(), 0, 1),
            ("bytes=100-60099".to_owned(), 100, 60_100),
            (format!("bytes={}-", length - 7), length - 7, length),
            ("bytes=-9".to_owned(), length - 9, length),
            ("bytes=1-99999999".to_owned(), 1, length),
        ] {
            let part = get(&[("range", &range)]).is(206);
            let told = format!("bytes {from}-{}/{length}", to - 1);
            assert_eq!(part.header("content-range"), told);
            assert!(part.body == bytes[from..to], "{range}");
        }
        let after = format!("bytes={length}-");
        let none = get(&[("range", &after)]).is(416);
        assert_eq!(none.header("content-range"), format!("bytes */{length}"));
        none.sentence();
        assert_eq!(get(&[("if-none-match", &etag)]).status, 304);
        assert_eq!(get(&[("if-none-match", "\"other\"")]).status, 200);
        let listed = format!("\"other\", {etag}");
        assert_eq!(get(&[("if-none-match", &listed)]).status, 304);
        assert_eq!(get(&[("if-none-match", &format!("W/{etag}"))]).status, 304);
        assert_eq!(get(&[("if-none-match", "*")]).status, 304);
        assert_eq!(
            get(&[("range", "bytes=0-9"), ("if-range", &etag)]).status,
            206
        );
        let changed = get(&[("range", "bytes=0-9"), ("if-range", "\"other\"")]).ok();
        assert!(changed.body == bytes);
        let head = node.call("HEAD", path, &[], &[]).ok();
        assert_eq!(head.header("content-length"), length.to_string());
        assert_eq!(head.header("etag"), etag);
    }
    let playlist = node.get("/play/film").ok();
    let tag = [("if-none-match", playlist.header("etag"))];
    assert_eq!(node.call("GET", "/play/film", &tag, &[]).status, 304);
    assert_eq!(playlist.header("cache-control"), "no-cache");
    let head = node.call("HEAD", "/play/film", &[], &[]).ok();
    assert_eq!(
        head.header("content-length"),
        playlist.body.len().to_string()
    );
}

#[test]
fn pipelined_requests_are_answered_in_order_and_to_the_byte() {
    let (node, film, live) = two_contents();
    let playlist = node.get("/play/film").ok().body;
    let mut random = Random(7);
    let asked: Vec<(&str, &str, String, u16, Vec<u8>)> = (0..120)
        .map(|_| {
            let none = String::new();
            let from = random.below(film.len() as u64 - 1) as usize;
            let to = from + 1 + random.below((film.len() - from) as u64 - 1) as usize;
            let range = |from: usize, to: usize| format!("bytes={from}-{}", to - 1);
            match random.below(7) {
                0 => ("GET", "/play/film", none, 200, playlist.clone()),
                1 => ("GET", "/segment/film/0", none, 200, film.clone()),
                2 => ("GET", "/segment/live/0", none, 200, live.clone()),
                3 => ("HEAD", "/segment/film/0", none, 200, Vec::new()),
                4 => (
                    "GET",
                    "/segment/live/0",
                    range(5, 9),
                    206,
                    live[5..9].to_vec(),
                ),
                5 => ("GET", "/play/film", none, 200, playlist.clone()),
                _ => (
                    "GET",
                    "/segment/film/0",
                    range(from, to),
                    206,
                    film[from..to].to_vec(),
                ),
            }
        })
        .collect();
    let mut requests = Vec::new();
    for (method, path, range, ..) in &asked {
        let range = match range.as_str() {
            "" => String::new(),
            range => format!("range: {range}\r\n"),
        };
        requests
            .extend(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{range}\r\n").bytes());
    }
    let mut connection = node.connect();
    // All of them fit into the sockets' buffers, so nobody has to read meanwhile.
    connection.raw(&requests).unwrap();
    for (at, (method, path, range, status, bytes)) in asked.iter().enumerate() {
        let reply = connection.read(method).unwrap();
        assert_eq!(reply.status, *status, "{at}: {method} {path} {range}");
        assert!(
            reply.body == *bytes,
            "{at}: other bytes of {method} {path} {range}"
        );
    }
    // The connection is still good, also for something that is refused.
    assert_eq!(connection.get("/nothing").status, 404);
    connection.get("/health").ok();
}

#[test]
fn one_connection_may_send_and_fetch_in_turn() {
    let node = Node::start(&[]);
    let mut connection = node.connect();
    for sequence in 0..20 {
        let path = format!("/ingest?content_id=film&sequence={sequence}&duration=1");
        let bytes = payload(sequence, 30_000);
        let chunks: Vec<u8> = bytes
            .chunks(7001)
            .flat_map(|chunk| {
                [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()
            })
            .chain(*b"0\r\n\r\n")
            .collect();
        let headers = [
            ("content-type", "video/mp2t"),
            ("transfer-encoding", "chunked"),
        ];
        connection.call("POST", &path, &headers, &chunks).ok();
        let back = connection.get(&format!("/segment/film/{sequence}")).ok();
        assert!(back.body == bytes);
        let playlist = connection.get("/play/film").ok();
        assert!(playlist.text().contains(&format!("/{sequence}.ts")));
    }
}

#[test]
fn a_segment_of_ten_megabytes_is_taken_either_way() {
    let node = Node::start(&[]);
    let bytes = payload(3, 10_000_000);
    post(&node, &body("json", 0, "vod", &bytes)).ok();
    node.post("content_id=raw&sequence=0", &bytes).ok();
    // curl asks with `Expect: 100-continue` before it sends so much.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("segment.ts");
    std::fs::write(&file, &bytes).unwrap();
    let data = format!("@{}", common::text(&file));
    let url = format!("{}/ingest?content_id=curl&sequence=0", node.url);
    let kind = "content-type: video/mp2t";
    let flags = [
        "-sS",
        "--fail",
        "--noproxy",
        "*",
        "-H",
        kind,
        "--data-binary",
        &data,
        &url,
    ];
    common::program::run("curl", &flags);
    assert!(node.bytes("/segment/curl/0") == bytes);
    assert!(node.bytes("/segment/json/0") == bytes);
    assert!(node.bytes("/segment/raw/0") == bytes);
}

/// A stream of events.
struct Events {
    connection: common::http::Connection,
    text: String,
}

impl Events {
    /// Reads until an event is as asked.
    fn wait_for(&mut self, name: &str, mut good: impl FnMut(&Value) -> bool) {
        until("an event", || {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |key: &str| event.lines().find_map(|line| line.strip_prefix(key));
                let is_named = field("event:").map(str::trim) == Some(name);
                let data = field("data:").map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                if is_named && good(&data.unwrap_or_default()) {
                    return Some(());
                }
            }
            let chunk = self.connection.chunk().unwrap();
            let chunk = chunk.expect("the stream goes on");
            self.text.push_str(&String::from_utf8_lossy(&chunk));
            None
        });
    }
}

#[test]
fn changes_are_pushed_to_whoever_listens() {
    let node = Node::start(&[]);
    let mut connection = node.connect();
    connection.send("GET", "/events", &[], &[]).unwrap();
    let head = connection.head().unwrap();
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, "text/event-stream")
    );
    let text = String::new();
    let mut events = Events { connection, text };
    events.wait_for("catalog", |catalog| *catalog == json!([]));
    events.wait_for("status", |status| status["store"]["segments"] == 0);
    node.post("content_id=film&sequence=0&duration=1", b"segment")
        .ok();
    events.wait_for("changes", |changes| {
        changes["changed"][0]["content_id"] == "film" && changes["gone"] == json!([])
    });
    events.wait_for("status", |status| status["store"]["segments"] == 1);
    // Who comes later gets all of it at first, and both hear what changes.
    let mut connection = node.connect();
    connection.send("GET", "/events", &[], &[]).unwrap();
    connection.head().unwrap();
    let text = String::new();
    let mut later = Events { connection, text };
    later.wait_for("catalog", |catalog| catalog[0]["content_id"] == "film");
    node.post("content_id=other&sequence=0&duration=1", b"another")
        .ok();
    node.call("DELETE", "/content/film", &[], &[]).ok();
    for events in [&mut events, &mut later] {
        let (mut here, mut gone) = (false, false);
        events.wait_for("changes", |changes| {
            let changed = changes["changed"].as_array().unwrap();
            here |= changed.iter().any(|entry| entry["content_id"] == "other");
            gone |= changes["gone"]
                .as_array()
                .unwrap()
                .iter()
                .any(|it| (&it["content_id"], &it["version"]) == (&json!("film"), &json!(1)));
            here && gone
        });
    }
}

#[test]
fn a_long_catalogue_is_read_in_parts() {
    let node = Node::start(&[]);
    for no in 0..25 {
        let title = ["Harbour", "\u{c9}t\u{e9}", "Tide"][no % 3];
        let title: String = title.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let query = format!("content_id=c{no:02}&content_title={title}&sequence=0&duration=1");
        node.post(&query, format!("segment {no}").as_bytes()).ok();
    }
    let ids = |reply: &Reply| -> Vec<String> {
        let entries = reply.json();
        let entries = entries.as_array().unwrap().iter();
        let ids = entries.map(|entry| entry["content_id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let all = node.get("/catalog").ok();
    assert_eq!((ids(&all).len(), all.header("link")), (25, ""));
    // Each part says where the next one is.
    let (mut path, mut read) = ("/catalog?limit=10".to_owned(), Vec::new());
    let mut parts = 0;
    while !path.is_empty() {
        let part = node.get(&path).ok();
        assert_eq!(part.header("x-total-count"), "25");
        read.extend(ids(&part));
        let link = part.header("link");
        path = link
            .strip_prefix('<')
            .map_or("", |rest| rest.split('>').next().unwrap())
            .to_owned();
        parts += 1;
    }
    assert_eq!((read, parts), (ids(&all), 3));
    let newest = node.get("/catalog?newest=true&limit=2").ok();
    assert_eq!(newest.json()[0]["content_id"], "c24");
    // Words without case and accents; all of them have to be there.
    let found = node.get("/catalog?search=ETE%20c1&limit=100").ok();
    assert_eq!(ids(&found), ["c10", "c13", "c16", "c19"]);
    assert_eq!(found.header("x-total-count"), "4");
    node.post("content_id=caf%C3%A9&sequence=0&duration=1", b"a")
        .ok();
    assert_eq!(ids(&node.get("/catalog?search=Cafe").ok()), ["caf\u{e9}"]);
    assert_eq!(ids(&node.get("/catalog?search=nothing").ok()), [""; 0]);
    // Who asks for none is not told to ask for more.
    let none = node.get("/catalog?limit=0").ok();
    assert_eq!((ids(&none).len(), none.header("link")), (0, ""));
    assert_eq!(ids(&node.get("/catalog?offset=1000").ok()), [""; 0]);
    node.get("/catalog?limit=many").is(400);

    // What is held already is not sent again, until something changes.
    let tag = node.get("/catalog").ok().header("etag").to_owned();
    let held = [("if-none-match", tag.as_str())];
    let same = node.call("GET", "/catalog", &held, &[]).is(304);
    assert!(same.body.is_empty());
    node.call("GET", "/catalog?limit=10", &held, &[]).ok();
    node.post("content_id=new&sequence=0&duration=1", b"new")
        .ok();
    node.call("GET", "/catalog", &held, &[]).ok();

    let zipped = node
        .call("GET", "/catalog", &[("accept-encoding", "br, gzip")], &[])
        .ok();
    assert_eq!(zipped.header("content-encoding"), "gzip");
    let plain = node
        .call("GET", "/catalog", &[("accept-encoding", "gzip;q=0")], &[])
        .ok();
    assert_eq!(plain.header("content-encoding"), "");
    assert!(zipped.body.len() * 4 < plain.body.len());
    let mut unzipped = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::GzDecoder::new(&zipped.body[..]),
        &mut unzipped,
    )
    .unwrap();
    assert_eq!(unzipped, plain.body);
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let (node, ..) = two_contents();
    node.get("/segment/film/0").ok();
    node.get("/play/film").ok();
    node.get("/nothing").is(404);
    let reply = node.get("/metrics").ok();
    assert!(
        reply
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    let text = reply.text();
    let mut typed = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.push(rest.split(' ').next().unwrap());
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            assert_eq!(name.split('{').next(), typed.last().copied(), "{line}");
        }
    }
    for line in [
        "lavant_playlists_total 1",
        "lavant_segments_total 1",
        "lavant_segment_bytes_total 1500000",
        "lavant_ingested_segments_total 2",
        "lavant_store_segments 2",
        "lavant_responses_total{status=\"4xx\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}

#[test]
fn the_description_of_the_api_lists_every_path() {
    let node = Node::start(&[]);
    let document = node.json("/openapi.json");
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut listed: Vec<String> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        listed.extend(
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(|method| format!("{method} {path}")),
        );
    }
    listed.sort();
    let wanted = [
        "delete /content/{reference}",
        "delete /content/{reference}/pin",
        "delete /peers",
        "delete /uploads/{id}",
        "get /api/v1/live",
        "get /api/v1/live/{name}",
        "get /catalog",
        "get /content/{reference}",
        "get /events",
        "get /health",
        "get /metrics",
        "get /openapi.json",
        "get /peers",
        "get /play/{reference}",
        "get /play/{reference}/index.m3u8",
        "get /play/{reference}/{rendition}.m3u8",
        "get /segment/{reference}/{sequence}",
        "get /segment/{reference}/{version}/{rendition}/{name}",
        "get /status",
        "get /uploads",
        "get /uploads/{id}",
        "post /api/v1/live/{name}/key",
        "post /api/v1/live/{name}/pull",
        "post /api/v1/live/{name}/{action}",
        "post /ingest",
        "post /ingest/{content_id}/finish",
        "post /peers",
        "post /snapshot",
        "post /uploads",
        "post /uploads/{id}/commit",
        "put /api/v1/live/{name}",
        "put /api/v1/live/{name}/forward",
        "put /content/{reference}/pin",
        "put /uploads/{id}/segments/{rendition}/{name}",
    ];
    assert_eq!(listed, wanted);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, about) in methods.as_object().unwrap() {
            assert!(about["responses"].is_object(), "{method} {path}");
        }
    }
    // What it refers to is in it.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn an_upload_is_visible_only_as_a_whole() {
    let node = Node::start(&[]);
    let kind = [("content-type", "application/json")];
    let send = |method: &str, path: &str, body: Value| {
        node.call(method, path, &kind, body.to_string().as_bytes())
    };
    let begin = json!({
        "title": "My Film", "source": "a source", "expected_seconds": 2.0,
        "renditions": [{"name": "main", "mime_type": "video/mp2t"}],
    });
    let upload = send("POST", "/uploads", begin.clone()).is(201).json();
    assert_eq!(
        (&upload["content_id"], &upload["resumed"]),
        (&json!("my_film"), &json!(false))
    );
    let base = format!("/uploads/{}", upload["upload_id"].as_str().unwrap());
    let put = |number: u64, bytes: &[u8]| {
        let path = format!("{base}/segments/main/{number}?duration=90000");
        node.call("PUT", &path, &[], bytes)
    };
    assert_eq!(put(0, b"first").ok().json()["stored"], true);
    assert_eq!(put(0, b"first").ok().json()["stored"], false);
    let again = send("POST", "/uploads", begin.clone()).ok().json();
    assert_eq!(
        (&again["resumed"], &again["upload_id"]),
        (&json!(true), &upload["upload_id"])
    );
    assert_eq!(again["segments"][0]["length"], 5);
    let commit = json!({"target_duration": 1, "renditions": [
        {"name": "main", "bandwidth": 40, "average_bandwidth": 40, "segments": 2}]});
    let commit_path = format!("{base}/commit");
    refused(send("POST", &commit_path, commit.clone()), 409, "1");
    assert!(node.contents().is_empty());
    assert_eq!(node.json("/status")["uploads"][0]["segments"], 1);
    put(1, b"second").ok();
    let entry = send("POST", &commit_path, commit).ok().json();
    assert_eq!(
        (&entry["complete"], &entry["segment_count"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(node.bytes("/segment/my_film/1"), b"second");
    let here = send("POST", "/uploads", begin).is(409);
    here.sentence();
    assert_eq!(
        here.json()["existing"],
        json!({"content_id": "my_film", "version": 1})
    );

    let other = json!({"title": "x", "renditions": [{"name": "main", "mime_type": "video/mp2t"}]});
    let upload = send("POST", "/uploads", other).is(201).json();
    let base = format!("/uploads/{}", upload["upload_id"].as_str().unwrap());
    let gone = node.call("DELETE", &base, &[], &[]).ok().json();
    assert_eq!(gone, json!({"deleted": true}));
    assert_eq!(node.get(&base).status, 404);
}

#[test]
fn the_page_is_served_with_its_policy() {
    let node = Node::start(&[]);
    let page = node.get("/").ok();
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'self'")
    );
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert!(page.text().contains("<html"));
    for word in page
        .text()
        .split('"')
        .filter(|word| word.contains("assets/"))
    {
        let path = word.trim_start_matches('.');
        let asset = node.get(path).ok();
        assert!(
            asset.header("cache-control").contains("immutable"),
            "{path}"
        );
    }
}
