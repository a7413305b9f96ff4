//! Two nodes and a link between them, of either kind.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_node::link::{
    BindError, CONTROL_BYTES_MAX, DATA_BYTES_MAX, DialError, Frame, Link, LinkConfig, LinkError,
    LinkKind, Links, SourceAddr, Target, Urgency,
};
use lavant_proto::ids::{PublisherKey, SigningKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Far beyond what anything here takes, so that a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(30);
const KINDS: [LinkKind; 2] = [LinkKind::Tcp, LinkKind::Quic];

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn config(seed: u8) -> LinkConfig {
    LinkConfig {
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        ..LinkConfig::new(key(seed))
    }
}

async fn node(seed: u8, kind: LinkKind) -> Links {
    let config = LinkConfig {
        choice: Some(kind),
        ..config(seed)
    };
    Links::bind(config).await.unwrap()
}

fn target(links: &Links, key: Option<PublisherKey>) -> Target {
    Target {
        host: "127.0.0.1".to_owned(),
        port: links.port(),
        key,
    }
}

async fn meet(dialler: &Links, listener: &Links) -> (Box<dyn Link>, Box<dyn Link>) {
    let target = target(listener, Some(listener.key()));
    let (out, inward) = timeout(PATIENCE, async {
        tokio::join!(dialler.dial(&target), listener.accept())
    })
    .await
    .unwrap();
    (out.unwrap(), inward.unwrap())
}

fn data(request: u32, last: bool, length: usize) -> Frame {
    let bytes = (0..length).map(|at| (at as u32 ^ request) as u8).collect();
    Frame::Data {
        request,
        last,
        bytes,
    }
}

/// Some of each, of every length that matters.
fn frames() -> Vec<Frame> {
    let mut frames = vec![
        Frame::Control(Bytes::new()),
        Frame::Control(Bytes::from(vec![1; CONTROL_BYTES_MAX])),
        Frame::Pushed {
            push: 9,
            last: true,
            bytes: Bytes::from(vec![2; DATA_BYTES_MAX]),
        },
        data(u32::MAX, true, 0),
        data(0, false, DATA_BYTES_MAX),
    ];
    for number in 0..1000 {
        frames.push(data(
            number % 7,
            number >= 993,
            16_500 + number as usize % 9,
        ));
        if number % 50 == 0 {
            frames.push(Frame::Control(Bytes::from(number.to_string())));
        }
    }
    frames
}

/// The frames of one order: the control frames, or the data frames of a request.
fn order(frames: &[Frame], request: Option<u32>) -> Vec<Frame> {
    let of = |frame: &Frame| match frame {
        Frame::Control(_) => None,
        Frame::Data { request, .. } => Some(*request),
        Frame::Pushed { push, .. } => Some(*push),
    };
    let frames = frames.iter().filter(|frame| of(frame) == request);
    frames.cloned().collect()
}

/// One end: sends all frames, receives as many; the dialler then says goodbye.
async fn exchange(link: Box<dyn Link>, goodbye: Option<&str>) -> (Vec<Frame>, Option<LinkError>) {
    let (mut sender, mut receiver) = link.split();
    let receiving = tokio::spawn(async move {
        let mut got = Vec::new();
        while got.len() < frames().len() {
            receiver.receive(&mut got).await.unwrap();
        }
        (got, receiver)
    });
    for piece in frames().chunks(100) {
        let mut batch = piece.to_vec();
        sender.send(&mut batch, Urgency::Bulk).await.unwrap();
        assert!(batch.is_empty());
    }
    let (mut got, mut receiver) = receiving.await.unwrap();
    if let Some(reason) = goodbye {
        sender.close(reason).await;
        return (got, None);
    }
    let error = receiver.receive(&mut got).await.unwrap_err();
    let again = receiver.receive(&mut got).await.unwrap_err();
    assert_eq!(error, again);
    (got, Some(error))
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_the_reason_of_the_end_arrive_over_either_kind() {
    for kind in KINDS {
        let (one, other) = (node(1, kind).await, node(2, kind).await);
        let (out, inward) = meet(&one, &other).await;
        assert_eq!((out.kind(), inward.kind()), (kind, kind));
        assert_eq!((out.peer(), inward.peer()), (other.key(), one.key()));
        assert_eq!(out.remote().port(), other.port());
        assert!(inward.remote().ip().is_loopback());
        let reason = "enough for today";
        let ends = async { tokio::join!(exchange(out, Some(reason)), exchange(inward, None)) };
        let ((at_one, _), (at_other, error)) = timeout(PATIENCE, ends).await.unwrap();
        assert_eq!(error, Some(LinkError::Closed(reason.to_owned())), "{kind}");
        for request in (0..7).chain([9, u32::MAX]).map(Some).chain([None]) {
            let sent = order(&frames(), request);
            assert!(order(&at_one, request) == sent, "{kind} {request:?}");
            assert!(order(&at_other, request) == sent, "{kind} {request:?}");
        }
        one.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_arrives_after_what_was_sent_before_even_when_nothing_is_read() {
    for kind in KINDS {
        let (one, other) = (node(1, kind).await, node(2, kind).await);
        let (out, inward) = meet(&one, &other).await;
        let (mut sender, _unread) = out.split();
        let (mut answering, mut receiver) = inward.split();
        answering
            .send(&mut vec![data(1, false, 9)], Urgency::Bulk)
            .await
            .unwrap();
        let mut batch = vec![data(3, true, 1000), Frame::Control(Bytes::from("bye"))];
        sender.send(&mut batch, Urgency::Bulk).await.unwrap();
        let closing = tokio::spawn(async move { sender.close(&"long ".repeat(99)).await });
        let mut got = Vec::new();
        let error = loop {
            let received = timeout(PATIENCE, receiver.receive(&mut got)).await.unwrap();
            if let Err(error) = received {
                break error;
            }
        };
        assert_eq!(got.len(), 2, "{kind}");
        let shown = "long ".repeat(40).trim_end().to_owned();
        assert_eq!(error, LinkError::Closed(shown), "{kind}");
        drop((answering, receiver));
        closing.await.unwrap();
        one.close().await;
        other.close().await;
    }
}

// On one thread, so that the other side gets all of it at once, with the end of the handshake.
#[tokio::test]
async fn a_link_that_is_closed_at_once_gives_out_what_was_sent() {
    for kind in KINDS {
        let (one, other) = (node(1, kind).await, node(2, kind).await);
        let target = target(&other, Some(other.key()));
        let link = one.dial(&target).await.unwrap();
        let (mut sender, _) = link.split();
        let mut batch = vec![Frame::Control(Bytes::from("hello"))];
        sender.send(&mut batch, Urgency::Bulk).await.unwrap();
        sender.close("that is all").await;
        let link = timeout(PATIENCE, other.accept()).await.unwrap().unwrap();
        let (_keep, mut receiver) = link.split();
        let mut got = Vec::new();
        let error = loop {
            if let Err(error) = receiver.receive(&mut got).await {
                break error;
            }
        };
        assert_eq!(got, [Frame::Control(Bytes::from("hello"))], "{kind}");
        let reason = LinkError::Closed("that is all".to_owned());
        assert_eq!(error, reason, "{kind}");
        one.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_tells_its_source_and_its_round_trip_also_when_it_was_split() {
    for kind in KINDS {
        let (one, other) = (node(1, kind).await, node(2, kind).await);
        let (out, inward) = meet(&one, &other).await;
        assert_eq!(inward.source(), SourceAddr::of([127, 0, 0, 1].into()));
        let meters = [out.meter(), inward.meter()];
        let (mut sender, back) = out.split();
        let (forth, mut receiver) = inward.split();
        let mut batch = vec![Frame::Control(Bytes::from("hello"))];
        sender.send(&mut batch, Urgency::Bulk).await.unwrap();
        receiver.receive(&mut Vec::new()).await.unwrap();
        for meter in &meters {
            let measured = meter.round_trip().expect("it was measured");
            // A queue of a hundred milliseconds would be seen.
            let plausible = Duration::from_micros(1)..Duration::from_millis(50);
            assert!(plausible.contains(&measured), "{kind}: {measured:?}");
        }
        drop((sender, back, forth, receiver));
        one.close().await;
        other.close().await;
        for meter in &meters {
            assert_eq!(
                meter.round_trip(),
                None,
                "{kind}: it does not keep a link up"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_beyond_its_limit_is_not_sent() {
    for kind in KINDS {
        let (one, other) = (node(1, kind).await, node(2, kind).await);
        let (out, inward) = meet(&one, &other).await;
        let (mut sender, _) = out.split();
        let (_keep, mut receiver) = inward.split();
        let mut batch = vec![data(1, false, 1), data(1, false, DATA_BYTES_MAX + 1)];
        let error = sender.send(&mut batch, Urgency::Bulk).await.unwrap_err();
        assert!(matches!(error, LinkError::TooLong { .. }), "{error}");
        let mut batch = vec![Frame::Control(Bytes::from("next"))];
        sender.send(&mut batch, Urgency::Bulk).await.unwrap();
        let mut got = Vec::new();
        timeout(PATIENCE, receiver.receive(&mut got))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got, [Frame::Control(Bytes::from("next"))], "{kind}");
        one.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_another_key_is_refused() {
    for kind in KINDS {
        let (one, other) = (node(1, kind).await, node(2, kind).await);
        let wrong = target(&other, Some(key(3).publisher()));
        let dialled = timeout(PATIENCE, one.dial(&wrong)).await.unwrap();
        let error = dialled.err().unwrap();
        let text = error.to_string();
        match error {
            DialError::OtherKey { answered, .. } => assert_eq!(answered, other.key()),
            other => panic!("{kind}: {other}"),
        }
        assert!(text.contains(&key(3).publisher().to_string()), "{text}");
        one.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_dial_itself() {
    for kind in KINDS {
        let one = node(1, kind).await;
        for known in [Some(one.key()), None] {
            let dialled = one.dial(&target(&one, known)).await;
            let error = dialled.err().unwrap();
            assert!(matches!(error, DialError::Myself(_)), "{kind}: {error}");
        }
        one.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_of_a_host_is_remembered_and_a_changed_one_refused() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_peers");
        let one = Links::bind(LinkConfig {
            choice: Some(kind),
            known_peers: Some(file.clone()),
            ..config(1)
        });
        let one = one.await.unwrap();
        let other = node(2, kind).await;
        let unknown = target(&other, None);
        for _ in 0..2 {
            let link = timeout(PATIENCE, one.dial(&unknown)).await.unwrap();
            assert_eq!(link.unwrap().peer(), other.key());
        }
        let port = other.port();
        let line = format!("127.0.0.1:{port} {}\n", other.key());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
        other.close().await;
        drop(other);
        let changed = LinkConfig {
            port,
            choice: Some(kind),
            ..config(3)
        };
        let changed = Links::bind(changed).await.unwrap();
        let error = one.dial(&unknown).await.err().unwrap();
        let text = error.to_string();
        match error {
            DialError::KeyChanged { before, now, .. } => {
                assert_eq!((before, now), (key(2).publisher(), changed.key()));
                assert!(text.contains("known_peers"), "{text}");
            }
            other => panic!("{kind}: {other}"),
        }
        let named = target(&changed, Some(changed.key()));
        assert!(one.dial(&named).await.is_ok(), "a named key is right");
        one.close().await;
        changed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_node_is_told_apart() {
    let one = node(1, LinkKind::Tcp).await;
    let web = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = web.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = web.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let mut sink = Vec::new();
        stream.read_to_end(&mut sink).await.ok();
    });
    let somebody = key(9).publisher();
    let error = one.dial_key(somebody, &[at]).await.err().unwrap();
    assert!(error.to_string().contains("not a lavant node"), "{error}");
    serving.await.unwrap();
    let error = one.dial_key(somebody, &[at]).await.err().unwrap();
    assert!(error.to_string().contains("nothing listens"), "{error}");
    let nowhere: Target = "no-such-host.invalid:7778".parse().unwrap();
    let error = one.dial(&nowhere).await.err().unwrap();
    assert!(error.to_string().contains("no-such-host"), "{error}");
    one.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_refused_and_counted() {
    let (one, other) = (node(1, LinkKind::Tcp).await, node(2, LinkKind::Tcp).await);
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), other.port());
    let garbage = b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n".repeat(4000);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&garbage).await.ok();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .ok();
        assert!(answer.len() < 100, "no more than an alert");
    }
    meet(&one, &other).await;
    assert_eq!(other.refused(), 3);
    one.close().await;
    other.close().await;
}

/// A connection to the port of a node, from this address of the machine.
async fn connect_from(source: [u8; 4], to: &Links) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port());
    socket.connect(at).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_handshakes_end_and_stand_in_nobodys_way() {
    let other = Links::bind(LinkConfig {
        handshake_limit: Duration::from_millis(300),
        handshakes_per_source_max: 4,
        choice: Some(LinkKind::Tcp),
        ..config(2)
    });
    let other = other.await.unwrap();
    let one = node(1, LinkKind::Tcp).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(connect_from([127, 0, 0, 2], &other).await);
    }
    // Half a handshake: the header of a record that never comes.
    silent[5].write_all(&[22, 3, 1, 2, 0]).await.unwrap();
    meet(&one, &other).await;
    for mut stream in silent {
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        timeout(PATIENCE, read).await.unwrap().ok();
    }
    assert_eq!(other.refused(), 6, "two at once, four in the end");
    meet(&one, &other).await;
    one.close().await;
    other.close().await;
}

/// What a dialler says first.
async fn client_hello(dialler: &Links) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let listening = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        let length = stream.read(&mut hello).await.unwrap();
        hello.truncate(length);
        hello
    };
    let at = [at];
    let dialling = dialler.dial_key(key(9).publisher(), &at);
    tokio::join!(dialling, listening).1
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshakes_lock_nobody_out() {
    let (one, other) = (node(1, LinkKind::Tcp).await, node(2, LinkKind::Tcp).await);
    let hello = client_hello(&one).await;
    for begun in [false, true] {
        let mut half_open = Vec::new();
        // The dialler's own address among them, then twice as many others as there is room.
        let own = (0..100).map(|_| [127, 0, 0, 1]);
        for source in own.chain((0..256).map(|number| [127, 0, 1, number as u8])) {
            let mut stream = connect_from(source, &other).await;
            if begun {
                stream.write_all(&hello).await.unwrap();
            }
            half_open.push(stream);
        }
        let at = Instant::now();
        meet(&one, &other).await;
        let took = at.elapsed();
        assert!(took < Duration::from_secs(2), "begun: {begun}, {took:?}");
    }
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_ends_well_among_a_thousand_others_a_second() {
    let (one, other) = (node(1, LinkKind::Tcp).await, node(2, LinkKind::Tcp).await);
    let (one, other) = (Arc::new(one), Arc::new(other));
    let hello = client_hello(&one).await;
    let opened = Arc::new(AtomicUsize::new(0));
    let flood = tokio::spawn({
        let (other, opened) = (Arc::clone(&other), Arc::clone(&opened));
        async move {
            let mut beat = tokio::time::interval(Duration::from_millis(4));
            let mut held = VecDeque::new();
            for number in 0_u64.. {
                beat.tick().await;
                // From the dialler's own address and three more, half of them with a beginning.
                for last in 1..=4 {
                    let mut stream = connect_from([127, 0, 0, last], &other).await;
                    if number % 2 == 0 {
                        stream.write_all(&hello).await.ok();
                    }
                    held.push_back(stream);
                    opened.fetch_add(1, Ordering::Relaxed);
                }
                held.drain(..held.len().saturating_sub(400));
            }
        }
    });
    let full = async {
        while opened.load(Ordering::Relaxed) < 400 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.unwrap();
    // On a machine that has much else to do one may be pushed out: a few of them, not all.
    let (target, mut pushed_out) = (target(&other, Some(other.key())), 0);
    let met = async {
        for _ in 0..20 {
            loop {
                let dialled = one.dial(&target).await;
                let taken = timeout(Duration::from_secs(1), other.accept());
                if dialled.is_ok() && taken.await.is_ok() {
                    break;
                }
                pushed_out += 1;
            }
        }
    };
    timeout(PATIENCE, met).await.unwrap();
    assert!(pushed_out <= 10, "{pushed_out}");
    assert!(!flood.is_finished(), "it goes on");
    flood.abort();
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_without_a_stream_or_for_another_protocol_ends() {
    let other = Links::bind(LinkConfig {
        handshake_limit: Duration::from_millis(300),
        ..config(2)
    });
    let other = other.await.unwrap();
    let stranger = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal)
        .relay_mode(iroh::RelayMode::Disabled)
        .portmapper_config(iroh::endpoint::PortmapperConfig::Disabled)
        .bind()
        .await
        .unwrap();
    let id = iroh::PublicKey::from_bytes(&other.key().0).unwrap();
    let at = iroh::TransportAddr::Ip(other.listening()[0]);
    let to = iroh::EndpointAddr::from_parts(id, [at]);
    let refused = stranger.connect(to.clone(), b"something/else").await;
    assert!(refused.is_err());
    let silent = stranger.connect(to, b"lavant/1").await.unwrap();
    timeout(PATIENCE, silent.closed()).await.unwrap();
    let one = node(1, LinkKind::Quic).await;
    meet(&one, &other).await;
    assert_eq!(other.refused(), 2);
    stranger.close().await;
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_share_a_port_and_a_taken_one_is_named() {
    let other = Links::bind(LinkConfig::new(key(2))).await.unwrap();
    for kind in KINDS {
        let one = node(1, kind).await;
        let (out, _) = meet(&one, &other).await;
        assert_eq!((out.kind(), out.remote().port()), (kind, other.port()));
        if other.listening().iter().any(SocketAddr::is_ipv6) {
            let by_ipv6 = format!("{}@[::1]:{}", other.key(), other.port());
            let every = LinkConfig {
                choice: Some(kind),
                ..LinkConfig::new(key(4))
            };
            let every = Links::bind(every).await.unwrap();
            let link = every.dial(&by_ipv6.parse().unwrap()).await.unwrap();
            assert!(link.remote().is_ipv6(), "{kind}");
            every.close().await;
        }
        one.close().await;
    }
    assert!(!other.local_addresses().await.is_empty());
    let port = other.port();
    let taken = LinkConfig { port, ..config(3) };
    let error = Links::bind(taken.clone()).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("--relay-port"), "{error}");
    other.close().await;
    drop(other);
    let free = Links::bind(taken).await.unwrap();
    assert_eq!(free.port(), port, "what is closed gives its port free");
    free.close().await;
    let udp = udp_with_tcp_free();
    let port = udp.local_addr().unwrap().port();
    let error = Links::bind(LinkConfig { port, ..config(3) }).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("UDP") && text.contains("in use"), "{text}");
}

/// A UDP socket at a port that is free for TCP. A listener finds it: the ports that the system
/// gives to UDP sockets are among those that outgoing TCP connections have used of late.
fn udp_with_tcp_free() -> std::net::UdpSocket {
    loop {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = std::net::UdpSocket::bind(tcp.local_addr().unwrap()) {
            return udp;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nearby_nodes_meet_over_tcp_at_the_address_that_answers() {
    let impatient = LinkConfig {
        dial_limit: Duration::from_secs(1),
        ..config(1)
    };
    let one = Links::bind(impatient).await.unwrap();
    let other = Links::bind(config(2)).await.unwrap();
    let (out, _) = meet(&one, &other).await;
    assert_eq!(out.kind(), LinkKind::Tcp);
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1);
    let real = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), other.port());
    let dialled = one.dial_key(other.key(), &[at]).await;
    assert!(dialled.is_err(), "nothing is at port 1");
    let dialled = one.dial_key(other.key(), &[at, real]).await;
    assert_eq!(dialled.unwrap().kind(), LinkKind::Tcp);
    one.close().await;
    other.close().await;
    let rest = async { while other.accept().await.is_some() {} };
    timeout(PATIENCE, rest).await.expect("accepting ends too");
}
