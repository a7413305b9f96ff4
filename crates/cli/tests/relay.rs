//! Nodes that meet: contents reach everyone who can be reached, byte for byte.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::media::{count, frames, mp4, pieces};
use common::{Node, assert_sentence, payload, text, until};
use serde_json::Value;

/// Puts made-up segments into a node, as a finished content.
fn publish(node: &Node, id: &str, segments: u64, length: usize) {
    let first = id.bytes().map(u64::from).sum::<u64>() * 1000;
    let mut connection = node.connect();
    for sequence in 0..segments {
        let path = format!(
            "/ingest?content_id={id}&priority=vod&duration=2&target_duration=2&sequence={sequence}"
        );
        let kind = [("content-type", "video/mp2t")];
        let body = payload(first + sequence, length);
        connection.call("POST", &path, &kind, &body).ok();
    }
    node.call("POST", &format!("/ingest/{id}/finish"), &[], &[])
        .ok();
}

#[track_caller]
fn assert_same(a: &Node, b: &Node, id: &str) {
    let listed = a.playlist(id).sequences();
    assert!(!listed.is_empty());
    assert_eq!(b.playlist(id).sequences(), listed);
    for sequence in listed {
        let path = format!("/segment/{id}/1/main/{sequence}.ts");
        assert!(a.bytes(&path) == b.bytes(&path), "segment {sequence}");
    }
}

/// The only peer of a node.
#[track_caller]
fn peer(node: &Node) -> Value {
    let peers = node.peers();
    assert_eq!(peers.len(), 1, "{peers:?}");
    peers[0].clone()
}

/// What the only peer of a node is said to have done wrong.
#[track_caller]
fn trouble(node: &Node) -> String {
    let error = until("an error of the peer", || {
        let peers = node.peers();
        peers.first()?["error"].as_str().map(str::to_owned)
    });
    assert_sentence(&error);
    error
}

fn a_film_plays_the_same(link: &str) {
    let film = mp4(12);
    let a = Node::relaying(&["--link", link]);
    a.ingest(&[
        text(&film),
        "--content-id",
        "film",
        "--segment-seconds",
        "2",
    ]);
    let b = Node::relaying(&["--link", link, "--peer", &a.relay_address()]);
    let entry = b.has_all("film");
    assert_eq!(entry["publisher"], a.ready["publisher"]);
    assert_eq!(peer(&b)["link"], link);
    assert_eq!(peer(&b)["duplicate_bytes"], 0);
    let metrics = b.get("/metrics").ok().text();
    assert!(
        metrics.contains("\nlavant_peers_connected 1\n"),
        "{metrics}"
    );
    for stream in ["v", "a"] {
        let (one, other) = (a.play_url("film"), b.play_url("film"));
        assert_eq!(frames(&one, stream), frames(&other, stream));
    }
}

#[test]
fn a_film_plays_the_same_on_the_other_side_of_a_tcp_link() {
    a_film_plays_the_same("tcp");
}

#[test]
fn a_film_plays_the_same_on_the_other_side_of_a_quic_link() {
    a_film_plays_the_same("quic");
}

#[test]
fn a_content_is_carried_to_a_node_that_its_publisher_never_meets() {
    let mut a = Node::relaying(&[]);
    publish(&a, "film", 12, 200_000);
    let b = Node::relaying(&["--peer", &a.relay_address()]);
    b.has_all("film");
    let kept: Vec<Vec<u8>> = (0..12)
        .map(|n| a.bytes(&format!("/segment/film/1/main/{n}.ts")))
        .collect();
    a.stop();
    let c = Node::relaying(&["--peer", &b.relay_address()]);
    c.has_all("film");
    for (n, bytes) in kept.iter().enumerate() {
        let path = format!("/segment/film/1/main/{n}.ts");
        assert!(c.bytes(&path) == *bytes, "segment {n}");
    }
    assert_eq!(c.json("/content/film")["publisher"], a.ready["publisher"]);
}

#[test]
fn a_stream_flows_on_while_it_is_made() {
    let a = Node::relaying(&[]);
    let b = Node::relaying(&["--peer", &a.relay_address()]);
    let pieces = pieces(8);
    for (sequence, piece) in pieces.iter().enumerate() {
        let query = format!("content_id=live&priority=live&target_duration=1&sequence={sequence}");
        a.post(&query, piece).ok();
        let path = format!("/segment/live/{sequence}");
        until("the segment on the other node", || {
            let reply = b.get(&path);
            (reply.status == 200).then(|| assert!(reply.body == *piece))
        });
    }
    let (one, other) = (a.playlist("live"), b.playlist("live"));
    assert_eq!(other.sequences(), one.sequences());
    assert_eq!(
        other.tag("EXT-X-TARGETDURATION"),
        one.tag("EXT-X-TARGETDURATION")
    );
    assert!(other.gaps().iter().all(|gap| !gap));
    a.call("POST", "/ingest/live/finish", &[], &[]).ok();
    b.has_all("live");
    assert_eq!(
        frames(&a.play_url("live"), "v"),
        frames(&b.play_url("live"), "v")
    );
}

#[test]
fn what_was_removed_does_not_come_back() {
    let a = Node::relaying(&[]);
    publish(&a, "film", 3, 50_000);
    publish(&a, "other", 3, 50_000);
    let mut b = Node::relaying(&["--peer", &a.relay_address()]);
    b.has_all("film");
    b.has_all("other");
    b.lavant(&["rm", "film"]).ok();
    b.stop();
    b.start_again();
    publish(&a, "last", 1, 50_000);
    b.has_all("last");
    let mut contents = b.contents();
    contents.sort_unstable();
    assert_eq!(contents, ["last", "other"]);
    b.stop();
    b.flags.extend(["--want".to_owned(), "film".to_owned()]);
    b.start_again();
    b.has_all("film");
}

#[test]
fn a_segment_that_is_damaged_here_comes_again() {
    let a = Node::relaying(&[]);
    publish(&a, "film", 3, 50_000);
    let b = Node::relaying(&["--peer", &a.relay_address()]);
    b.has_all("film");
    let path = "/segment/film/1/main/1.ts";
    let whole = a.bytes(path);
    let file = b.payload_file(&whole);
    std::fs::write(&file, &whole[..10_000]).unwrap();
    assert_eq!(b.get(path).status, 404);
    until("the segment", || (b.get(path).status == 200).then_some(()));
    assert!(b.bytes(path) == whole);
    b.has_all("film");
}

#[test]
fn only_what_is_of_interest_is_taken() {
    let a = Node::relaying(&[]);
    for id in ["one", "two", "three"] {
        publish(&a, id, 2, 50_000);
    }
    let flags = ["--carry", "none", "--want", "two", "--peer"];
    let b = Node::relaying(&[&flags[..], &[&a.relay_address()]].concat());
    b.has_all("two");
    publish(&a, "four", 2, 50_000);
    publish(&b, "own", 2, 50_000);
    a.has_all("own");
    let mut contents = b.contents();
    contents.sort_unstable();
    assert_eq!(contents, ["own", "two"]);
}

#[test]
fn nodes_with_other_tokens_stay_apart() {
    let a = Node::relaying(&["--relay-token", "the token of one group"]);
    publish(&a, "film", 2, 50_000);
    let address = a.relay_address();
    let b = Node::relaying(&["--relay-token", "the token of another", "--peer", &address]);
    assert!(trouble(&b).contains("--relay-token"), "{}", trouble(&b));
    let c = Node::relaying(&["--peer", &address]);
    assert!(trouble(&c).contains("--relay-token"), "{}", trouble(&c));
    let d = Node::relaying(&[
        "--relay-token",
        "the token of one group",
        "--peer",
        &address,
    ]);
    d.has_all("film");
    assert!(b.contents().is_empty());
    assert!(c.contents().is_empty());
}

#[test]
fn only_allowed_nodes_are_met() {
    let a = Node::relaying(&[]);
    publish(&a, "film", 1, 50_000);
    let key = a.ready["publisher"].as_str().unwrap().to_owned();
    let b = Node::relaying(&["--allow-node", &key, "--peer", &a.relay_address()]);
    b.has_all("film");
    let c = Node::relaying(&["--peer", &b.relay_address()]);
    assert!(trouble(&c).contains("not allowed"), "{}", trouble(&c));
}

#[test]
fn a_changed_key_is_refused_until_the_operator_says_so() {
    let mut a = Node::relaying(&[]);
    let address = a.relay_address();
    let mut b = Node::relaying(&["--link", "tcp", "--peer", &address]);
    until("a contact", || {
        (peer(&b)["state"] == "connected").then_some(())
    });
    b.stop();
    a.stop();
    let port = address.rsplit(':').next().unwrap();
    let other = Node::start(&[
        "--relay-port",
        port,
        "--relay-bind",
        "127.0.0.1",
        "--no-discovery",
    ]);
    b.start_again();
    let error = trouble(&b);
    assert!(error.contains("has changed"), "{error}");
    assert!(error.contains("known_peers"), "{error}");
    let key = other.ready["publisher"].as_str().unwrap();
    b.meets(&format!("{key}@{address}"));
    until("a contact", || {
        let connected = |peer: &&Value| peer["state"] == "connected";
        b.peers().iter().find(connected).map(|_| ())
    });
}

#[test]
fn wrong_peers_are_refused_with_a_sentence() {
    let node = Node::relaying(&[]);
    let kind = [("content-type", "application/json")];
    for address in ["", "ship", "ship:0", "ship:99999", "k@ship:1", "::1:7778"] {
        let body = serde_json::json!({ "address": address }).to_string();
        let reply = node.call("POST", "/peers", &kind, body.as_bytes());
        assert_eq!(reply.status, 400, "{address}");
        assert_sentence(&reply.sentence());
    }
    let body = br#"{"address": "ship:7778"}"#;
    assert_eq!(node.call("DELETE", "/peers", &kind, body).status, 404);
    node.meets("127.0.0.1:9");
    let error = trouble(&node);
    assert!(error.contains("127.0.0.1:9"), "{error}");
    let gone = node.lavant(&["peers", "--remove", "127.0.0.1:9"]).ok();
    assert!(gone.text().contains("forgotten"));
    assert!(node.peers().is_empty());
    let alone = Node::start(&[]);
    let reply = alone.call("POST", "/peers", &kind, body);
    assert!(reply.sentence().contains("--no-relay"));
}

#[test]
fn peers_are_named_by_host_name_and_by_ipv6() {
    let flags = ["--relay-port", "0", "--no-discovery", "--relay-bind", "::1"];
    let six = Node::start(&flags);
    publish(&six, "six", 2, 50_000);
    let port = six.ready["relay_port"].as_u64().unwrap();
    let four = Node::relaying(&[]);
    publish(&four, "four", 2, 50_000);
    let named = four.relay_address().replace("127.0.0.1", "localhost");
    for link in ["tcp", "quic"] {
        let peers = format!("{named},[::1]:{port}");
        let flags = ["--relay-port", "0", "--no-discovery", "--link", link];
        let node = Node::start(&[&flags[..], &["--peer", &peers]].concat());
        node.has_all("four");
        node.has_all("six");
    }
}

/// A way between two nodes that counts what passes, and breaks when it is told to.
struct Wire {
    address: String,
    /// Bytes to the one who dialled.
    passed: Arc<AtomicU64>,
    /// How many bytes may pass on a connection before it breaks.
    limit: Arc<AtomicU64>,
    /// How often it broke.
    cuts: Arc<AtomicU64>,
}

impl Wire {
    fn to(target: &str, limit: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap().to_string(),
            passed: Arc::default(),
            limit: Arc::new(AtomicU64::new(limit)),
            cuts: Arc::default(),
        };
        let (passed, limit) = (wire.passed.clone(), wire.limit.clone());
        let (cuts, target) = (wire.cuts.clone(), target.to_owned());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(&target)) else {
                    return;
                };
                let (up, far_up) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || drain(up, far_up));
                let all = limit.load(Ordering::SeqCst);
                let some = pass(far, near, all, &passed);
                cuts.fetch_add(u64::from(some >= all), Ordering::SeqCst);
            }
        });
        wire
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, limit: u64, passed: &AtomicU64) -> u64 {
    let (mut some, mut buffer) = (0, [0; 8192]);
    while some < limit {
        let most = buffer.len().min((limit - some) as usize);
        match from.read(&mut buffer[..most]) {
            Ok(0) | Err(_) => break,
            Ok(count) if to.write_all(&buffer[..count]).is_err() => break,
            Ok(count) => {
                some += count as u64;
                passed.fetch_add(count as u64, Ordering::SeqCst);
            }
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Write);
    some
}

/// Passes on what the one who dialled says. When the wire is cut it still listens, so that nothing
/// is lost that has passed in the other direction.
fn drain(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 8192];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        let _ = to.write_all(&buffer[..count]);
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_link_that_is_cut_twenty_times_goes_on_where_it_was() {
    const CUTS: u64 = 20;
    let a = Node::relaying(&[]);
    publish(&a, "film", 4, 2_500_000);
    let all = 10_000_000;
    let wire = Wire::to(&a.relay_address(), all / (CUTS + 5));
    let b = Node::relaying(&["--link", "tcp", "--peer", &wire.address]);
    until("the cuts", || {
        (wire.cuts.load(Ordering::SeqCst) >= CUTS).then_some(())
    });
    wire.limit.store(u64::MAX, Ordering::SeqCst);
    b.has_all("film");
    assert_same(&a, &b, "film");
    // Each contact costs its handshake and summaries; of payload, a chunk group with its proof and
    // what the wire held when it was cut is lost.
    let (passed, cuts) = (
        wire.passed.load(Ordering::SeqCst),
        wire.cuts.load(Ordering::SeqCst),
    );
    let proofs = all / 100;
    assert!(
        passed <= all + proofs + (cuts + 1) * (17 * 1024 + 4 * 1024),
        "{passed} bytes passed, {cuts} cuts"
    );
    let peer = peer(&b);
    assert_eq!(peer["duplicate_bytes"], 0);
}

#[test]
fn a_node_that_is_killed_goes_on_where_it_was() {
    let a = Node::relaying(&["--upload-limit", "4M"]);
    publish(&a, "film", 5, 2_000_000);
    let mut b = Node::relaying(&["--peer", &a.relay_address()]);
    let mut sent = 0;
    for part in 1..=3 {
        // A quarter more of it, then kill -9.
        sent = until("some bytes", || {
            let sent = peer_sent(&a);
            (sent >= part * 2_500_000).then_some(sent)
        });
        b.kill9();
        b.start_again();
    }
    assert!(sent < 10_000_000);
    b.has_all("film");
    assert_same(&a, &b, "film");
    // What was in the pipe at each kill is sent again: at most a second at this rate.
    let sent = peer_sent(&a);
    assert!(sent < 10_000_000 + 3 * 1_500_000, "{sent}");
}

/// Bytes of segments that a node sent to all of its peers.
fn peer_sent(node: &Node) -> u64 {
    let sent = node.peers();
    sent.iter()
        .map(|peer| peer["sent_bytes"].as_u64().unwrap_or(0))
        .sum()
}

#[test]
fn ten_nodes_in_a_mesh_get_every_segment_once() {
    let nodes: Vec<Node> = (0..10).map(|_| Node::relaying(&[])).collect();
    for (n, node) in nodes.iter().enumerate() {
        for other in &nodes[..n] {
            node.meets(&other.relay_address());
        }
    }
    publish(&nodes[0], "film", 20, 300_000);
    let (mut received, mut duplicate) = (0, 0);
    for node in &nodes[1..] {
        node.has_all("film");
        for peer in node.peers() {
            received += peer["received_bytes"].as_u64().unwrap();
            duplicate += peer["duplicate_bytes"].as_u64().unwrap();
        }
    }
    assert_same(&nodes[0], &nodes[9], "film");
    let all = 9 * 20 * 300_000;
    assert!(received >= all, "{received}");
    assert!(
        (received - all + duplicate) * 100 <= all,
        "{received} {duplicate}"
    );
}

#[test]
fn a_player_begins_before_all_is_there_and_plays_to_the_end() {
    let a = Node::relaying(&[]);
    let film = mp4(12);
    a.ingest(&[
        text(&film),
        "--content-id",
        "film",
        "--segment-seconds",
        "1",
    ]);
    let bytes = a.json("/content/film")["bytes"].as_u64().unwrap();
    let rate = (bytes / 6).to_string();
    let flags = ["--download-limit", &rate, "--peer"];
    let b = Node::relaying(&[&flags[..], &[&a.relay_address()]].concat());
    let started = b
        .lavant(&[
            "play",
            "film",
            "--json",
            "--wait",
            "30",
            "--start-after",
            "2",
        ])
        .ok()
        .json();
    let entry = b.json("/content/film");
    assert!(
        started["ready_seconds"].as_f64().unwrap() >= 2.0,
        "{started}"
    );
    assert_eq!(entry["complete"], false, "it is still on its way");
    let (one, other) = (a.play_url("film"), b.play_url("film"));
    assert_eq!(count(&other, "v"), count(&one, "v"));
    b.has_all("film");
    assert_eq!(frames(&other, "v"), frames(&one, "v"));
}

#[test]
fn what_a_viewer_seeks_comes_first() {
    let a = Node::relaying(&[]);
    publish(&a, "film", 40, 100_000);
    let flags = ["--download-limit", "400K", "--peer"];
    let b = Node::relaying(&[&flags[..], &[&a.relay_address()]].concat());
    let segment = |sequence: u64| b.get(&format!("/segment/film/1/main/{sequence}.ts")).status;
    until("the film", || {
        (b.get("/content/film").status == 200).then_some(())
    });
    until("segment 30", || (segment(30) == 200).then_some(()));
    let here = b.json("/content/film")["segment_count"].as_u64();
    // Without the viewer it would be the thirty-first.
    assert!(here < Some(20), "{here:?}");
    b.has_all("film");
}

#[test]
fn limits_hold() {
    let a = Node::relaying(&["--upload-limit", "1M"]);
    publish(&a, "film", 3, 1_000_000);
    let begun = std::time::Instant::now();
    let b = Node::relaying(&["--peer", &a.relay_address()]);
    b.has_all("film");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(seconds > 2.5, "3 MB at 1 MB/s took {seconds} s");
}

#[test]
fn what_the_whole_group_has_is_the_first_to_go() {
    let keys = tempfile::tempdir().unwrap();
    let files = [keys.path().join("a"), keys.path().join("b")];
    let group = files.each_ref().map(|file| {
        let made = common::lavant(&["key", "new", text(file), "--json"])
            .ok()
            .json();
        made["publisher"].as_str().unwrap().to_owned()
    });
    let group = group.join(",");
    let stores = tempfile::tempdir().unwrap();
    let start = |name: &str, key: &std::path::Path, more: &[&str]| {
        let store = stores.path().join(name);
        common::lavant(&["key", "import", text(key), "--store", text(&store)]).ok();
        Node::relaying_on(&store, &[&["--group", &group], more].concat())
    };
    // The publisher is in the group and has room for ten segments.
    let a = start("a", &files[0], &["--store-limit", "1040K"]);
    publish(&a, "old", 3, 100_000);
    publish(&a, "film", 3, 100_000);
    let b = start(
        "b",
        &files[1],
        &[
            "--want",
            "film",
            "--carry",
            "none",
            "--peer",
            &a.relay_address(),
        ],
    );
    b.has_all("film");
    until("the receipts", || {
        (a.json("/content/film")["group_has_it"] == true).then_some(())
    });
    assert_eq!(a.json("/content/old")["group_has_it"], false);
    let count = |id: &str| a.json(&format!("/content/{id}"))["segment_count"].as_u64();
    for sequence in 0..6 {
        let query = format!("content_id=more&duration=2&target_duration=2&sequence={sequence}");
        a.post(&query, &payload(sequence, 100_000)).ok();
    }
    assert_eq!(count("old"), Some(3));
    assert_eq!(count("more"), Some(6));
    assert!(count("film") < Some(3), "{:?}", count("film"));
}

#[test]
fn what_is_for_one_node_goes_no_further_once_it_is_there() {
    let mut c = Node::relaying(&[]);
    let key = c.ready["publisher"].as_str().unwrap().to_owned();
    let a = Node::relaying(&[]);
    for sequence in 0..3 {
        let query = format!("content_id=letter&duration=2&target_duration=2&sequence={sequence}");
        a.post(&query, &payload(sequence, 200_000)).ok();
    }
    let wrong = a.call("POST", "/ingest/letter/finish?to=me", &[], &[]);
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let path = format!("/ingest/letter/finish?to={key}");
    a.call("POST", &path, &[], &[]).ok();
    a.call("POST", &path, &[], &[]).ok();
    let other = format!("/ingest/letter/finish?to={}", "7".repeat(64));
    let refused = a.call("POST", &other, &[], &[]);
    assert_eq!(refused.status, 409, "{refused:?}");
    let b = Node::relaying(&["--peer", &a.relay_address()]);
    b.has_all("letter");
    let kept = a.bytes("/segment/letter/1/main/2.ts");
    b.meets(&c.relay_address());
    c.has_all("letter");
    assert!(c.bytes("/segment/letter/1/main/2.ts") == kept);
    // The receipt comes back to the publisher, over the node that carried it.
    until("the receipt", || {
        (a.json("/content/letter")["group_has_it"] == true).then_some(())
    });
    c.stop();
    let d = Node::relaying(&["--peer", &b.relay_address()]);
    publish(&a, "film", 20, 200_000);
    d.has_all("film");
    assert_eq!(d.contents(), ["film"]);
    assert_eq!(d.get("/segment/letter/1/main/0.ts").status, 404);
}
