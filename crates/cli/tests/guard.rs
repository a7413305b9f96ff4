//! Who is refused by the HTTP API, and how: callers without the token, pages of others, bodies
//! without an end, connections that stall.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use common::{Node, PATIENCE, payload, refused};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn an_endless_body_is_cut() {
    let node = Node::start(&["--segment-limit", "1M"]);
    let mut connection = node.connect();
    let headers = [
        ("content-type", "video/mp2t"),
        ("transfer-encoding", "chunked"),
    ];
    connection
        .send("POST", "/ingest?content_id=film&sequence=0", &headers, &[])
        .unwrap();
    let chunk = [b"100000\r\n", &payload(1, 1 << 20)[..], b"\r\n"].concat();
    // Whatever the node does not take fills the sockets, and is refused in the end.
    let sent = (0..64)
        .take_while(|_| connection.raw(&chunk).is_ok())
        .count();
    assert!(sent < 64, "the node took {sent} MiB");
    if let Ok(reply) = connection.read("POST") {
        refused(reply, 413, "1000000");
    }
    assert!(node.contents().is_empty());
    node.get("/health").ok();
}

#[test]
fn callers_that_stall_are_cut_off() {
    let node = Node::start(&[]);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = node.connect();
            connection
                .raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
                .unwrap();
            let rest = connection.rest().unwrap_or_default();
            let answer = String::from_utf8_lossy(&rest);
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
                "{answer}"
            );
            assert!(begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
        });
        scope.spawn(|| {
            let mut connection = node.connect();
            let path = "/ingest?content_id=film&sequence=0";
            let headers = [
                ("content-type", "video/mp2t"),
                ("transfer-encoding", "chunked"),
            ];
            connection
                .send("POST", path, &headers, b"5\r\nabc")
                .unwrap();
            if let Ok(reply) = connection.read("POST") {
                refused(reply, 408, "end");
            }
        });
    });
    assert!(
        begun.elapsed() < PATIENCE * 3 / 2,
        "{} s",
        begun.elapsed().as_secs()
    );
    assert!(node.contents().is_empty());
    node.get("/health").ok();
}

/// Connects from another address of this machine.
fn connect_from(source: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket.into())
}

#[test]
fn thousands_of_half_sent_heads_keep_nobody_out() {
    // As many as this machine lets one process open, and far fewer places in the node.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20);
    let count = usize::try_from(files.min(6000)).unwrap() - 200;
    let limit = Rlimit {
        current: Some(files.min(6000)),
        maximum: Some(files),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    // Few enough that they are taken, also on a slow machine, long before a head has had its time:
    // a connection that ends by itself makes no room.
    let places = count / 8;
    let node = Node::start(&["--max-connections", &places.to_string()]);
    let head = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
    let mut held = Vec::new();
    for n in 0..count {
        // From one address, then from many.
        let source = [127, 0, 0, if n < count / 2 { 2 } else { n as u8 | 1 }];
        let mut stream = connect_from(source, node.address).unwrap();
        // A head that the node has given up cannot be sent.
        let _ = stream.write_all(head);
        held.push(stream);
        if n % (count / 8) == count / 8 - 1 {
            let begun = Instant::now();
            node.get("/health").ok();
            assert!(begun.elapsed() < PATIENCE / 4, "after {n}");
        }
    }
    let metrics = node.get("/metrics").ok().text();
    let value = |name: &str| -> usize {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.rsplit(' ').next());
        number.and_then(|text| text.parse().ok()).expect(name)
    };
    assert!(value("lavant_connections_ended_total ") > count / 2);
    assert!(value("lavant_connections ") <= places);
    drop(held);
}

#[test]
fn event_streams_have_a_limit_that_tells_itself() {
    let node = Node::start(&[]);
    let mut held = Vec::new();
    let refusal = loop {
        let mut connection = node.connect();
        connection.send("GET", "/events", &[], &[]).unwrap();
        let head = connection.head().unwrap();
        if head.status != 200 {
            break head;
        }
        held.push(connection);
        assert!(held.len() < 1000, "no limit");
    };
    assert_eq!((refusal.status, held.len()), (503, 192));
    assert_eq!(refusal.header("retry-after"), "5");
    let text = node.get("/metrics").ok().text();
    assert!(text.contains("lavant_event_streams 192\n"), "{text}");
    assert!(
        text.contains("lavant_event_streams_refused_total 1\n"),
        "{text}"
    );
    refused(node.get("/events"), 503, "close some pages");
    held.pop();
    // The node notices soon that it has gone.
    let again = common::until("a place", || {
        let mut connection = node.connect();
        connection.send("GET", "/events", &[], &[]).unwrap();
        (connection.head().unwrap().status == 200).then_some(connection)
    });
    drop((held, again));
}

#[test]
fn endless_bodies_hold_up_no_others() {
    let node = Node::start(&["--segment-limit", "8M", "--ingest-memory", "16M"]);
    let headers = [
        ("content-type", "video/mp2t"),
        ("transfer-encoding", "chunked"),
    ];
    let chunk = [b"10000\r\n", &payload(1, 1 << 16)[..], b"\r\n"].concat();
    let slow: Vec<_> = (0..3)
        .map(|n| {
            let mut connection = node.connect();
            let path = format!("/ingest?content_id=slow{n}&sequence=0");
            connection.send("POST", &path, &headers, &chunk).unwrap();
            connection
        })
        .collect();
    let begun = Instant::now();
    node.post(
        "content_id=film&sequence=0&duration=1",
        &payload(2, 1 << 20),
    )
    .ok();
    node.post(
        "content_id=film&sequence=1&duration=1",
        &payload(3, 4 << 20),
    )
    .ok();
    assert!(begun.elapsed() < PATIENCE / 12, "{:?}", begun.elapsed());
    drop(slow);
    assert_eq!(node.contents(), ["film"]);
}

#[test]
fn beyond_loopback_changes_need_the_token() {
    let node = Node::start(&["--bind", "0.0.0.0"]);
    assert_eq!(node.ready["auth_required"], true);
    assert_eq!(node.json("/status")["auth_required"], true);
    let path = node.store.join("api.token");
    let token = std::fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(node.ready["token_file"], common::text(&path));
    let post = |headers: &[(&str, &str)]| {
        let all = [&[("content-type", "video/mp2t")], headers].concat();
        let path = "/ingest?content_id=film&sequence=0&duration=1";
        node.call("POST", path, &all, b"segment")
    };
    refused(post(&[]), 401, "--token");
    refused(
        post(&[("authorization", "Bearer wrong-wrong-wrong-wrong")]),
        401,
        "wrong",
    );
    assert!(node.contents().is_empty());
    let bearer = format!("Bearer {}", token.trim());
    post(&[("authorization", &bearer)]).ok();
    node.get("/segment/film/0").ok();
    for (method, path) in [
        ("DELETE", "/content/film"),
        ("PUT", "/content/film/pin"),
        ("POST", "/uploads"),
        ("DELETE", "/uploads/x"),
        ("POST", "/ingest/film/finish"),
    ] {
        refused(node.call(method, path, &[], &[]), 401, "token");
    }
    let told = node.lavant(&["rm", "film"]).exits(3);
    assert!(told.reason().contains("--token"), "{}", told.err);
    node.command_on(&["rm", "film"])
        .env("LAVANT_TOKEN", token.trim())
        .run()
        .ok();
}

#[test]
fn a_token_that_was_given_is_not_said_to_be_in_a_file() {
    let mut node = Node::start(&["--bind", "0.0.0.0"]);
    node.stop();
    assert!(node.store.join("api.token").exists());
    let token = "given-by-the-operator";
    let node = Node::on(&node.store, &["--bind", "0.0.0.0", "--api-token", token]);
    assert_eq!(node.ready["auth_required"], true);
    assert_eq!(node.ready["token_file"], serde_json::Value::Null);
}

#[test]
fn readers_from_elsewhere_see_no_folders_and_no_addresses() {
    let peer = "127.0.0.1:1";
    let flags = [
        "--bind",
        "0.0.0.0",
        "--relay-port",
        "0",
        "--relay-bind",
        "127.0.0.1",
    ];
    let node = Node::start(&[&flags[..], &["--no-discovery", "--peer", peer]].concat());
    let token = std::fs::read_to_string(node.store.join("api.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let folder = node.store.display().to_string();
    let seen = |headers: &[(&str, &str)]| {
        let mut events = node.connect();
        events.send("GET", "/events", headers, &[]).unwrap();
        events.head().unwrap();
        let status = (0..2).map(|_| events.chunk().unwrap().unwrap());
        let event = String::from_utf8(status.flatten().collect()).unwrap();
        let get = |path| node.call("GET", path, headers, &[]).ok().text();
        [get("/status"), event, get("/peers")]
    };
    // A reverse proxy on this machine stands for somebody else.
    let elsewhere = ("x-forwarded-for", "10.0.0.9");
    for text in seen(&[elsewhere]) {
        assert!(
            !text.contains(&folder) && !text.contains("127.0.0.1"),
            "{text}"
        );
    }
    for headers in [&[][..], &[elsewhere, ("authorization", &bearer)]] {
        let [status, event, peers] = seen(headers);
        assert!(
            status.contains(&folder) && event.contains(&folder),
            "{status}"
        );
        assert!(peers.contains(peer), "{peers}");
    }
    node.command_on(&["rm", "film", "--token-file", "wrong"])
        .run()
        .exits(1);
    let path = node.store.join("api.token");
    let args = ["rm", "film", "--token-file", common::text(&path)];
    // Known, and nothing of that name is there.
    let told = node.lavant(&args).exits(3);
    assert!(told.reason().contains("film"), "{}", told.err);
}

#[test]
fn pages_of_others_reach_nothing() {
    let flags = [
        "--allow-origin",
        "https://tv.example",
        "--allow-host",
        "films.example",
    ];
    let node = Node::start(&flags);
    let call = |method: &str, headers: &[(&str, &str)]| {
        let all = [&[("content-type", "video/mp2t")], headers].concat();
        let path = match method {
            "POST" => "/ingest?content_id=film&sequence=0&duration=1",
            _ => "/catalog",
        };
        let body: &[u8] = if method == "POST" { b"segment" } else { b"" };
        node.call(method, path, &all, body)
    };
    refused(
        call("GET", &[("host", "evil.example")]),
        421,
        "--allow-host evil.example",
    );
    refused(
        call("POST", &[("origin", "https://evil.example")]),
        403,
        "--allow-origin",
    );
    refused(call("POST", &[("origin", "null")]), 403, "origin");
    refused(
        call("POST", &[("sec-fetch-site", "cross-site")]),
        403,
        "origin",
    );
    assert!(node.contents().is_empty());
    call("GET", &[("host", "films.example")]).ok();
    let foreign = call("GET", &[("origin", "https://evil.example")]).ok();
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    let preflight = call("OPTIONS", &[("origin", "https://tv.example")]).is(204);
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        "https://tv.example"
    );
    assert!(
        preflight
            .header("access-control-allow-methods")
            .contains("DELETE")
    );
    call("POST", &[("origin", "https://tv.example")]).ok();
    let own = format!("http://{}", node.address);
    call("POST", &[("origin", &own)]).ok();
}
