//! Who is refused by the HTTP API, and how: callers without the token, pages of others, bodies
//! without an end, connections that stall.

mod common;

use std::time::Instant;

use common::{Node, PATIENCE, payload, refused};

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

#[test]
fn beyond_loopback_changes_need_the_token() {
    let node = Node::start(&["--bind", "0.0.0.0"]);
    assert_eq!(node.ready["auth_required"], true);
    assert_eq!(node.json("/status")["auth_required"], true);
    let path = node.store.join("api.token");
    let token = std::fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
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
