//! Nodes on networks that fail. Three nodes on two networks that never touch: contents cross both,
//! carried by the node between, though a link is slow and fails. Two nodes that were cut off and
//! meet again: every second of a contact is used.
//!
//! The networks are made of namespaces, in which this test starts itself again. Where the system
//! allows no namespaces (some containers), there is nothing to test with.

#![allow(clippy::print_stdout)]

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Node, payload, until, within};
use lavant_proto::time::Time;
use lavant_sim::relay::report;
use lavant_sim::relay::trace::Trace;
use lavant_sim::relay::universe::Meeting;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const ROLE: &str = "NAMESPACES_TEST_ROLE";
const CROSS: &str = "contents_cross_networks_that_never_touch";
const CUT: &str = "a_contact_that_comes_back_carries_at_once";
const PREDICTED: &str = "a_link_that_is_cut_carries_what_the_simulator_predicts";
const BUSY: &str = "what_is_live_overtakes_bulk_on_a_slow_link";
const SEGMENTS: u64 = 6;
const LENGTH: usize = 1_500_000;
/// Live segments that are published while a film crosses, and their bytes: one chunk group.
const LIVE_SEGMENTS: u64 = 9;
const LIVE_LENGTH: usize = 12_000;
/// How long one of them may take, on a machine that has other things to do.
const LIVE_MAX: Duration = Duration::from_millis(400);
/// A link that is up and down in turn: how often, for how many seconds, and what it carries.
const CUTS: u64 = 6;
const UP: u64 = 6;
const DOWN: u64 = 4;
const CUT_RATE: u64 = 250_000;
/// How long a link takes to come up after its interface: it is noticed, dialled and proven.
const LINK_UP: Duration = Duration::from_millis(20);
/// The film that crosses it.
const LONG: u64 = 30;
const LONG_LENGTH: usize = 500_000;
/// For how long two nodes are cut off.
const AWAY: Duration = Duration::from_secs(12);
/// As what the ends of a link are told to send at most: 2 MB/s.
const RATE: &str = "16mbit";

/// Runs a program that has to go well.
#[track_caller]
fn sh(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.is_ok_and(|status| status.success()), "{line}");
}

/// Does something inside of a namespace: what it opens and starts stays there.
fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let namespace = File::open(format!("/run/netns/{namespace}")).expect("it is there");
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).expect("it is ours");
        act()
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn again_in_new_namespaces(test: &str, role: &str) -> Command {
    let mut command = Command::new("unshare");
    let own = std::env::current_exe().expect("this is a program");
    command.args(["--user", "--map-root-user", "--net", "--mount"]);
    command.arg(own).args(["--exact", test, "--nocapture"]);
    command.env(ROLE, role);
    command
}

/// Three hosts: `a` and `b` on one bridge, `b` and `c` on another, which is down.
fn make_networks() {
    sh("mount -t tmpfs none /run");
    for host in ["a", "b", "c"] {
        sh(&format!("ip netns add {host}"));
        sh(&format!("ip -n {host} link set lo up"));
    }
    for (network, hosts) in [(1, ["a", "b"]), (2, ["b", "c"])] {
        sh(&format!("ip link add name bridge{network} type bridge"));
        for (number, host) in hosts.iter().enumerate() {
            let (near, far) = (format!("{host}{network}"), format!("port-{host}{network}"));
            sh(&format!(
                "ip link add name {near} type veth peer name {far}"
            ));
            sh(&format!("ip link set {near} netns {host}"));
            sh(&format!("ip link set {far} master bridge{network} up"));
            let address = format!("10.55.{network}.{}/24", number + 1);
            sh(&format!("ip -n {host} addr add {address} dev {near}"));
            sh(&format!("ip -n {host} link set {near} up"));
            // What announces nodes goes where the system sends multicast.
            sh(&format!(
                "ip -n {host} route add 224.0.0.0/4 dev {near} metric {network}"
            ));
        }
    }
    sh("ip link set bridge1 up");
    for (host, link) in [("a", "a1"), ("b", "b1")] {
        let shape = format!("root tbf rate {RATE} burst 64kb latency 200ms");
        sh(&format!(
            "ip netns exec {host} tc qdisc add dev {link} {shape}"
        ));
    }
}

/// Bytes of segments that a node got from its peers.
fn received(host: &str, node: &Node) -> u64 {
    let peers = inside(host, || node.peers());
    let bytes = peers.iter().map(|peer| peer["received_bytes"].as_u64());
    bytes.map(Option::unwrap_or_default).sum()
}

/// Takes a link down once so many bytes have come, until nothing comes any more, and up again.
fn interrupt(node: &Node, bytes: u64, down: &str, up: &str) {
    let before = until("some bytes", || {
        Some(received("b", node)).filter(|received| *received >= bytes)
    });
    assert!(before < SEGMENTS * LENGTH as u64, "it is not all there yet");
    sh(down);
    let mut last = (0, 0);
    until("nothing to come", || {
        let now = received("b", node);
        last = if now == last.0 {
            (now, last.1 + 1)
        } else {
            (now, 0)
        };
        (last.1 > 30).then_some(())
    });
    assert!(last.0 < SEGMENTS * LENGTH as u64, "it was interrupted");
    sh(up);
}

/// Runs a test in namespaces of its own, if this system allows them.
fn in_namespaces(test: &str, run: impl FnOnce()) {
    match std::env::var(ROLE).as_deref() {
        Ok("try") => {
            sh("mount -t tmpfs none /run");
            sh("ip netns add a");
            inside("a", || ());
        }
        Ok(_) => run(),
        Err(_) => {
            let mut tried = again_in_new_namespaces(test, "try");
            tried.stdout(Stdio::null()).stderr(Stdio::null());
            if !tried.status().is_ok_and(|status| status.success()) {
                println!("not tested: this system allows no network namespaces");
                return;
            }
            let done = again_in_new_namespaces(test, "run")
                .output()
                .expect("it was tried");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{said}");
            let told = String::from_utf8_lossy(&done.stdout);
            told.lines()
                .filter(|line| line.starts_with("measured:"))
                .for_each(|line| println!("{line}"));
        }
    }
}

#[test]
fn contents_cross_networks_that_never_touch() {
    in_namespaces(CROSS, cross);
}

#[test]
fn a_contact_that_comes_back_carries_at_once() {
    in_namespaces(CUT, cut_off);
}

#[test]
fn a_link_that_is_cut_carries_what_the_simulator_predicts() {
    in_namespaces(PREDICTED, predicted);
}

/// What the simulator says that crosses in so many meetings.
fn prediction(cuts: u64) -> u64 {
    let meetings = (0..cuts).map(|cut| Meeting {
        from: Time::from_seconds(cut * (UP + DOWN)),
        to: Time::from_seconds(cut * (UP + DOWN) + UP),
        a: 0,
        b: 1,
    });
    let trace = Trace {
        meetings: meetings.collect(),
        names: vec!["a".into(), "b".into()],
    };
    let report = report::run(&report::Options {
        trace: Some(trace),
        contents: 1,
        segments: LONG,
        length: LONG_LENGTH as u64,
        rate: Some(CUT_RATE),
        link_up: LINK_UP,
        publish_until: 0,
        compare: false,
        ..report::Options::default()
    })
    .unwrap();
    report.relay.payload_bytes - report.relay.duplicate_bytes
}

/// A film crosses a wire of 2 Mbit/s that is cut again and again. What came at half of the time and
/// at the end is what the simulator makes of the same times, within a tenth.
fn predicted() {
    make_wire("rate 2mbit burst 16kb latency 200ms");
    sh("ip -n b link set b1 down");
    let flags = ["--relay-port", "7778", "--no-discovery"];
    let a = inside("a", || Node::start(&flags));
    let dial = [&flags[..], &["--peer", "10.55.1.1:7778"]].concat();
    let b = inside("b", || Node::start(&dial));
    inside("a", || publish(&a, LONG, LONG_LENGTH));
    let begun = Instant::now();
    let at = |seconds: u64| {
        until("the time of the next change", || {
            (begun.elapsed() >= Duration::from_secs(seconds)).then_some(())
        });
    };
    for cut in 0..CUTS {
        at(cut * (UP + DOWN));
        sh("ip -n b link set b1 up");
        let (up, before) = (Instant::now(), received("b", &b));
        until("the first bytes", || {
            (received("b", &b) > before).then_some(())
        });
        let first = up.elapsed();
        at(cut * (UP + DOWN) + UP);
        sh("ip -n b link set b1 down");
        let (came, says) = (received("b", &b), prediction(cut + 1));
        let part = came as f64 / says as f64;
        println!("measured: {came} bytes, predicted {says}: {part:.3}; the first after {first:?}");
        if cut + 1 == CUTS / 2 || cut + 1 == CUTS {
            assert!((0.9..1.1).contains(&part), "{came} bytes, predicted {says}");
        }
    }
    assert!(received("b", &b) < LONG * LONG_LENGTH as u64);
}

#[test]
fn what_is_live_overtakes_bulk_on_a_slow_link() {
    in_namespaces(BUSY, || {
        make_wire("rate 3mbit burst 4kb latency 20ms");
        for link in ["tcp", "quic"] {
            overtake(link);
        }
    });
}

/// Two hosts on one wire, whose ends send so fast at most.
fn make_wire(shape: &str) {
    sh("mount -t tmpfs none /run");
    for host in ["a", "b"] {
        sh(&format!("ip netns add {host}"));
        sh(&format!("ip -n {host} link set lo up"));
    }
    sh("ip link add name a1 type veth peer name b1");
    for (number, host) in [(1, "a"), (2, "b")] {
        sh(&format!("ip link set {host}1 netns {host}"));
        sh(&format!(
            "ip -n {host} addr add 10.55.1.{number}/24 dev {host}1"
        ));
        sh(&format!("ip -n {host} link set {host}1 up"));
        sh(&format!(
            "ip netns exec {host} tc qdisc add dev {host}1 root tbf {shape}"
        ));
    }
}

/// While a film crosses at 3 Mbit/s, small live segments are published. How long is it until the
/// other node has one? It is told of it, asks, and gets one chunk group, which takes 44 ms: what is
/// said and what is given each wait behind a chunk group of the film, as one that has begun is not
/// broken off.
fn overtake(link: &str) {
    let flags = ["--relay-port", "7778", "--no-discovery", "--link", link];
    let a = inside("a", || Node::start(&flags));
    let dial = [&flags[..], &["--peer", "10.55.1.1:7778"]].concat();
    let b = inside("b", || Node::start(&dial));
    inside("a", || publish_film(&a));
    until("some bytes", || {
        (received("b", &b) >= 500_000).then_some(())
    });
    let mut took: Vec<Duration> = Vec::new();
    for sequence in 0..LIVE_SEGMENTS {
        let query = format!(
            "content_id=now&priority=live&duration=2&target_duration=2&sequence={sequence}"
        );
        let live = payload(100 + sequence, LIVE_LENGTH);
        let begun = Instant::now();
        inside("a", || a.post(&query, &live).ok());
        let path = format!("/segment/now/1/main/{sequence}.ts");
        inside("b", || {
            until("the live segment", || {
                (b.get(&path).status == 200).then_some(())
            });
        });
        took.push(begun.elapsed());
        // The film goes on: what was kept back for the live one is not all that crosses.
        let before = received("b", &b);
        until("more of the film", || {
            (received("b", &b) >= before + 100_000).then_some(())
        });
    }
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("measured: {link}: a live segment is there after {median:?}, at worst {worst:?}");
    assert!(median < LIVE_MAX, "{link}: {took:?}");
    let entry = inside("b", || b.get("/content/film"));
    assert!(entry.json()["complete"] != true, "the film is on its way");
}

/// Two hosts on one wire of 2 Mbit/s. Two ways to cut it: the interface of the one that dials goes
/// and comes, or that of the other one; each time both see that there is no carrier.
fn cut_off() {
    make_wire("rate 2mbit burst 16kb latency 200ms");
    let flags = ["--relay-port", "7778", "--no-discovery"];
    let a = inside("a", || Node::start(&flags));
    let dial = [&flags[..], &["--peer", "10.55.1.1:7778"]].concat();
    let b = inside("b", || Node::start(&dial));
    inside("a", || publish_film(&a));
    let connected = |host: &str, node: &Node| {
        let peers = inside(host, || node.peers());
        peers.iter().any(|peer| peer["state"] == "connected")
    };
    for host in ["b", "a"] {
        let before = received("b", &b);
        until("some bytes", || {
            (received("b", &b) >= before + 100_000).then_some(())
        });
        sh(&format!("ip -n {host} link set {host}1 down"));
        let away = Instant::now();
        let both = || !connected("a", &a) && !connected("b", &b);
        within(Duration::from_secs(3), "an end of the contact", || {
            both().then_some(())
        });
        // Long enough for the pauses between dials to have grown.
        until("the time away", || (away.elapsed() > AWAY).then_some(()));
        let before = received("b", &b);
        sh(&format!("ip -n {host} link set {host}1 up"));
        let back = Instant::now();
        until("the first bytes", || {
            (received("b", &b) > before).then_some(())
        });
        let took = back.elapsed();
        println!("measured: first bytes {took:?} after the interface of {host} was up again");
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

fn publish_film(node: &Node) {
    publish(node, SEGMENTS, LENGTH);
}

fn publish(node: &Node, segments: u64, length: usize) {
    for sequence in 0..segments {
        let query = format!(
            "content_id=film&priority=vod&duration=2&target_duration=2&sequence={sequence}"
        );
        node.post(&query, &payload(sequence, length)).ok();
    }
    node.call("POST", "/ingest/film/finish", &[], &[]).ok();
}

fn cross() {
    make_networks();
    let flags = ["--relay-port", "7778"];
    let a = inside("a", || Node::start(&flags));
    let b = inside("b", || Node::start(&flags));
    let c = inside("c", || Node::start(&flags));
    inside("a", || publish_film(&a));
    // First the wire, then the device: either is what a node sees of a bad link.
    let (down, up) = ("ip link set port-b1 down", "ip link set port-b1 up");
    interrupt(&b, 1_000_000, down, up);
    let (down, up) = ("ip -n b link set b1 down", "ip -n b link set b1 up");
    interrupt(&b, 4_000_000, down, up);
    let patience = Duration::from_secs(120);
    within(patience, "all of the film", || {
        let entry = inside("b", || b.get("/content/film"));
        (entry.status == 200 && entry.json()["complete"] == true).then_some(())
    });
    assert!(inside("c", || c.contents()).is_empty(), "c met nobody yet");
    // The first network goes, then the second one comes.
    sh("ip link set bridge1 down");
    sh("ip link set bridge2 up");
    within(patience, "all of the film", || {
        let entry = inside("c", || c.get("/content/film"));
        (entry.status == 200 && entry.json()["complete"] == true).then_some(())
    });
    let origin = inside("c", || c.json("/content/film"))["publisher"].clone();
    assert_eq!(origin, a.ready["publisher"]);
    for sequence in 0..SEGMENTS {
        let path = format!("/segment/film/1/main/{sequence}.ts");
        let bytes = inside("c", || c.bytes(&path));
        assert!(bytes == payload(sequence, LENGTH), "segment {sequence}");
    }
    let peers = inside("c", || c.peers());
    assert_eq!(peers.len(), 1, "{peers:?}");
    assert_eq!(peers[0]["node"], b.ready["publisher"]);
}
