//! A node and a peer that lies, floods, stalls or asks for what is not there: it is left with a
//! sentence that the operator sees, and nothing of what it said is kept.

#[path = "common/peer.rs"]
#[allow(dead_code, reason = "each test file uses its part of what they share")]
mod peer;

use std::time::Duration;

use lavant_node::link::Frame;
use lavant_proto::contact::hello::{Hello, Interest, VERSION};
use lavant_proto::contact::message::ContactMessage;
use lavant_proto::contact::patience::Patience;
use lavant_proto::content::Priority;
use lavant_proto::limits::SEQUENCE_MAX;
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContentNo, RemoteNo, RequestNo, TrackNo};
use lavant_proto::relay::message::RelayMessage;
use lavant_proto::runs::Run;
use lavant_proto::time::Time;
use peer::{Film, Node, PATIENCE, Peer};

/// Limits that a test can wait for.
fn hurried() -> Patience {
    Patience {
        hello: Duration::from_millis(300),
        stuck: Duration::from_millis(300),
        nothing: Duration::from_millis(300),
        ..Patience::new()
    }
}

/// Gives what the node asks for until it has all of the film. How many chunk groups that were.
async fn give_the_rest(node: &Node, peer: &mut Peer, film: &Film) -> u64 {
    let mut given = 0;
    while !node.has(film) {
        let asked = tokio::time::timeout(Duration::from_millis(50), peer.asked_for_groups(1));
        if let Ok((request, sequence, groups)) = asked.await {
            given += groups.count();
            peer.send(film.frames(request, sequence, groups)).await;
        }
        assert!(given < 100);
    }
    given
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_its_publisher_did_not_sign() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 4, 1000);
    peer.offer(1, &film).await;
    let run = peer.asked_for_records(1).await;
    let mut records = film.records(run);
    records[1].1.0[7] ^= 1;
    peer.tell(run, records).await;
    peer.is_left(&node, "a segment's record is not signed by its publisher")
        .await;
    assert!(node.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_segment() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let (film, other) = (
        Film::of(&peer, "film", 4, 1000),
        Film::of(&peer, "other", 4, 1000),
    );
    peer.offer(1, &film).await;
    let run = peer.asked_for_records(1).await;
    peer.tell(run, other.records(run)).await;
    peer.is_left(&node, "it sent a record that was not asked for")
        .await;
    assert!(node.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_do_not_match_their_root() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 4, 40_000);
    peer.offer(1, &film).await;
    let run = peer.asked_for_records(1).await;
    peer.tell(run, film.records(run)).await;
    for _ in 0..3 {
        let (request, sequence, groups) = peer.asked_for_groups(1).await;
        let mut frames = film.frames(request, sequence, groups);
        peer::spoil(&mut frames[0]);
        peer.send(frames).await;
    }
    let why = "it sent bytes that do not match what their publisher signed";
    peer.is_left(&node, why).await;
    assert!(node.is_empty());
    let mut other = Peer::meet(&node, 8).await;
    other.reconcile().await;
    assert!(other.hears_nothing_of_contents().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_true_is_stored_and_what_came_before_a_lie_is_not_lost() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 1, 40_000);
    peer.offer(1, &film).await;
    let run = peer.asked_for_records(1).await;
    peer.tell(run, film.records(run)).await;
    let (request, sequence, groups) = peer.asked_for_groups(1).await;
    let mut frames = film.frames(request, sequence, groups);
    peer::spoil(frames.last_mut().unwrap());
    peer.send(frames).await;
    // The segment is taken for lost there until it is named again.
    let damaged = peer
        .hear_of(|m| matches!(m, RelayMessage::Damaged(..)).then_some(()))
        .await;
    assert!(damaged.is_some());
    peer.say(RelayMessage::Have(
        RemoteNo(1),
        TrackNo(0),
        Run::new(sequence, sequence + 1),
    ))
    .await;
    // Of three chunk groups the two that came before the lie are not asked for again.
    assert_eq!(give_the_rest(&node, &mut peer, &film).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_time_is_over() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film {
        created: Time::from_seconds(1_600_000_000),
        ..Film::of(&peer, "film", 4, 1000)
    };
    peer.offer(1, &film).await;
    let run = peer.asked_for_records(1).await;
    peer.tell(run, film.records(run)).await;
    assert!(
        peer.hears_nothing_of_contents().await,
        "nothing of it is asked for"
    );
    peer.offer_finished(2, &film).await;
    peer.say(film.manifest(2)).await;
    // It is not taken, and no lie: it may have become so on its way.
    assert!(peer.is_up().await);
    assert!(node.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_was_removed_here() {
    let mut node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 2, 1000);
    peer.offer(1, &film).await;
    peer.give(&node, 1, &film).await;
    node.remove("film");
    // Unasked, as records, as a manifest, and offered again on a new contact.
    let run = Run::new(0, 2);
    peer.tell(run, film.records(run)).await;
    peer.say(film.manifest(1)).await;
    peer.say(film.rows(1)).await;
    assert!(peer.hears_nothing_of_contents().await);
    peer.offer(1, &film).await;
    assert!(peer.hears_nothing_of_contents().await);
    assert!(node.is_empty());
    // A node that was started again finds out when it is about to store it.
    node.restart().await;
    let mut peer = Peer::meet(&node, 9).await;
    peer.offer_finished(1, &film).await;
    peer.answers_questions(1, &film).await;
    assert!(node.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_or_comes_out_of_turn() {
    let hello = |version| {
        Message::from(ContactMessage::Hello(Hello {
            version,
            ..Hello::new("x".into(), Interest::everything(), None)
        }))
    };
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::dial(&node, 1).await;
    peer.raw(b"").await;
    peer.is_left(
        &node,
        "it sent what is no message: the bytes end in the middle of way",
    )
    .await;
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::dial(&node, 2).await;
    peer.raw(&[hello(VERSION).encode(), vec![0]].concat()).await;
    peer.is_left_with(&node, |why| why.starts_with("it sent what is no message: "))
        .await;
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::dial(&node, 3).await;
    peer.say(ContactMessage::Ping(1)).await;
    peer.is_left(&node, "it spoke before it said hello").await;
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 4).await;
    peer.say(hello(VERSION)).await;
    peer.is_left(&node, "it said hello twice").await;
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::dial(&node, 5).await;
    peer.say(hello(7)).await;
    let why = "it speaks version 7 of the protocol, this node version 2; update the older one";
    peer.is_closed(&node, |other| other == why).await;
    // It is not left for that.
    assert!(Peer::meet(&node, 5).await.is_up().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_and_nobody_agreed_on_is_counted_and_passed_over() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 1, 40_000);
    peer.offer(1, &film).await;
    let run = peer.asked_for_records(1).await;
    peer.tell(run, film.records(run)).await;
    let (request, sequence, groups) = peer.asked_for_groups(1).await;
    // Its numbers are the sender's own: one that is also that of a request is not its answer.
    let pushed = Frame::Pushed {
        push: request.0,
        last: true,
        bytes: vec![7; 16_384].into(),
    };
    let mut frames = vec![pushed.clone(), pushed];
    frames.extend(film.frames(request, sequence, groups));
    peer.send(frames).await;
    give_the_rest(&node, &mut peer, &film).await;
    let known = node.peer().await;
    assert_eq!((known.stats.ignored, known.error), (2, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_says_nothing() {
    let node = Node::start(|config| config.patience = hurried()).await;
    let mut peer = Peer::dial(&node, 1).await;
    peer.is_closed(&node, |why| why == "it did not say hello in time")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_offers_and_never_answers() {
    // Asked for records, for a manifest, for rows, for bytes.
    for stage in 0..4 {
        let node = Node::start(|config| config.patience = hurried()).await;
        let mut peer = Peer::meet(&node, 9).await;
        let film = Film::of(&peer, "film", 2, 40_000);
        match stage {
            0 => peer.offer(1, &film).await,
            1 => peer.offer_finished(1, &film).await,
            2 => {
                peer.offer_finished(1, &film).await;
                peer.asked_for_manifest(1).await;
                peer.say(film.manifest(1)).await;
            }
            _ => {
                peer.offer(1, &film).await;
                let run = peer.asked_for_records(1).await;
                peer.tell(run, film.records(run)).await;
            }
        }
        peer.is_closed(&node, |why| why == "nothing came of what it offered")
            .await;
        assert!(node.is_empty());
        // Another peer is asked for the same.
        let mut other = Peer::meet(&node, 8).await;
        other.offer(5, &film).await;
        other.give(&node, 5, &film).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_asks_for_bytes_and_never_reads() {
    let node = Node::start(|config| config.patience = hurried()).await;
    // More than the system itself takes in for a connection.
    let segments = (peer::socket_bytes_max() + (24 << 20)) / (4 << 20);
    node.publish("film", segments, 4 << 20);
    let mut peer = Peer::meet(&node, 9).await;
    let no = peer.told_of_one().await;
    for sequence in 0..segments {
        let get = RelayMessage::Get {
            request: RequestNo(sequence as u32),
            content: ContentNo(no),
            track: TrackNo(0),
            sequence,
            groups: Run::new(0, 256),
        };
        peer.say(get).await;
    }
    let why = node.why_left(|why| !why.is_empty()).await;
    assert_eq!(why, "it does not read what it asked for");
    // What was handed over is in the system's buffers but for a megabyte.
    let sent = node.peer().await.stats.sent;
    assert!(sent <= peer::socket_bytes_max() + (3 << 20), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_asks_for_records_and_never_reads() {
    let node = Node::start(|_| {}).await;
    node.append("stream", 16, 100);
    let mut peer = Peer::meet(&node, 9).await;
    let no = peer.told_of_one().await;
    let ask = vec![
        Message::from(RelayMessage::GetRecords(
            ContentNo(no),
            TrackNo(0),
            Run::new(0, 16)
        ));
        8
    ];
    let asking = async {
        // Slow enough not to be taken for a flood.
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while peer.try_say(&ask).await.is_ok() {
            pace.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap();
    let why = node.why_left(|why| !why.is_empty()).await;
    assert_eq!(why, "it does not read what it asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_messages_is_read_more_slowly_than_it_comes() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let pong = vec![Message::from(ContactMessage::Pong(1)); 1000];
    // Nothing more is taken once the node has seen enough: what waits is on the flooder's side.
    let slow = Duration::from_millis(300);
    while let Ok(sent) = tokio::time::timeout(slow, peer.try_say(&pong)).await {
        sent.unwrap();
    }
    let mut honest = Peer::meet(&node, 8).await;
    assert!(honest.is_up().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_not_what_was_signed() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 9, 1000);
    peer.offer_finished(1, &film).await;
    peer.asked_for_manifest(1).await;
    peer.say(film.manifest(1)).await;
    let asked = peer.hear_of(|m| match m {
        RelayMessage::GetRows(ContentNo(1), run) => Some(*run),
        _ => None,
    });
    assert_eq!(asked.await, Some(Run::new(0, 9)));
    let RelayMessage::Rows(no, from, mut rows, proof) = film.rows(1) else {
        unreachable!()
    };
    rows[4].length += 1;
    peer.say(RelayMessage::Rows(no, from, rows, proof)).await;
    peer.is_left(
        &node,
        "rows of a manifest are not what its publisher signed",
    )
    .await;
    assert!(node.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_another_publisher_or_content() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 2, 1000);
    peer.offer_finished(1, &film).await;
    peer.asked_for_manifest(1).await;
    peer.say(Film::of(&peer, "other", 2, 1000).manifest(1))
        .await;
    peer.is_left(&node, "it sent the manifest of another content")
        .await;
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    peer.offer_finished(1, &film).await;
    peer.asked_for_manifest(1).await;
    let RelayMessage::Manifest(no, bytes, mut signature) = film.manifest(1) else {
        unreachable!()
    };
    signature.0[0] ^= 1;
    peer.say(RelayMessage::Manifest(no, bytes, signature)).await;
    peer.is_left(&node, "a manifest is not signed by its publisher")
        .await;
    assert!(node.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_contents_that_it_was_not_told_of() {
    let get = |no| RelayMessage::Get {
        request: RequestNo(1),
        content: ContentNo(no),
        track: TrackNo(0),
        sequence: 0,
        groups: Run::new(0, 1),
    };
    for ask in [
        get(77),
        RelayMessage::GetManifest(ContentNo(77)),
        RelayMessage::GetRows(ContentNo(77), Run::new(0, 5)),
        RelayMessage::GetRecords(ContentNo(77), TrackNo(0), Run::new(0, 5)),
    ] {
        let node = Node::start(|_| {}).await;
        let mut peer = Peer::meet(&node, 9).await;
        peer.say(ask).await;
        peer.is_left(&node, "it asked for a content that it was not told of")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_beyond_the_end() {
    let node = Node::start(|_| {}).await;
    node.publish("film", 2, 40_000);
    let mut peer = Peer::meet(&node, 9).await;
    let no = peer.told_of_one().await;
    // No such segment, no such track: it is gone.
    for (request, (track, sequence)) in [(0, 2), (0, SEQUENCE_MAX), (9, 0)].into_iter().enumerate()
    {
        let (request, groups) = (request as u32, Run::new(0, 1));
        peer.say(RelayMessage::Get {
            request: RequestNo(request),
            content: ContentNo(no),
            track: TrackNo(track),
            sequence,
            groups,
        })
        .await;
        assert!(peer.hears_gone(request).await);
    }
    let ends = Run::new(SEQUENCE_MAX - 1, SEQUENCE_MAX);
    peer.say(RelayMessage::GetRecords(ContentNo(no), TrackNo(0), ends))
        .await;
    peer.say(RelayMessage::GetRecords(
        ContentNo(no),
        TrackNo(60),
        Run::new(0, SEQUENCE_MAX),
    ))
    .await;
    peer.say(RelayMessage::GetRows(
        ContentNo(no),
        Run::new(1 << 19, 1 << 20),
    ))
    .await;
    let groups = Run::new(0, 1);
    peer.say(RelayMessage::Get {
        request: RequestNo(8),
        content: ContentNo(no),
        track: TrackNo(0),
        sequence: 0,
        groups,
    })
    .await;
    assert!(peer.hear_data(8).await, "it is still served");
    // Chunk groups that the segment does not have.
    let groups = Run::new(60_000, 65_536);
    peer.say(RelayMessage::Get {
        request: RequestNo(9),
        content: ContentNo(no),
        track: TrackNo(0),
        sequence: 0,
        groups,
    })
    .await;
    peer.is_left(&node, "it asked for more than a segment has")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_while_it_is_asked_for_is_no_lie() {
    let node = Node::start(|_| {}).await;
    node.publish("film", 2, 40_000);
    let mut peer = Peer::meet(&node, 9).await;
    let no = peer.told_of_one().await;
    node.remove("film");
    let removed = peer
        .hear_of(|m| matches!(m, RelayMessage::Removed(_)).then_some(()))
        .await;
    assert!(removed.is_some());
    // As if they had been under way.
    let groups = Run::new(0, 1);
    peer.say(RelayMessage::GetManifest(ContentNo(no))).await;
    peer.say(RelayMessage::GetRecords(
        ContentNo(no),
        TrackNo(0),
        Run::new(0, 2),
    ))
    .await;
    peer.say(RelayMessage::Get {
        request: RequestNo(3),
        content: ContentNo(no),
        track: TrackNo(0),
        sequence: 0,
        groups,
    })
    .await;
    assert!(peer.hears_gone(3).await);
    assert!(peer.hears_nothing_of_contents().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_renditions_than_a_content_may_have() {
    let node = Node::start(|_| {}).await;
    let mut peer = Peer::meet(&node, 9).await;
    let film = Film::of(&peer, "film", 2, 1000);
    for part in 0..4 {
        let names = (0..40).map(|n| format!("r{part}-{n}"));
        peer.offer_renditions(1, &film, names, Priority::Vod).await;
    }
    peer.offer(1, &film).await;
    assert!(peer.is_up().await);
    // What it says of the content is still a message that others can read.
    let honest = Film::of(&peer, "honest", 2, 1000);
    peer.offer(2, &honest).await;
    peer.give(&node, 2, &honest).await;
    let mut other = Peer::meet(&node, 8).await;
    other.reconcile().await;
    other.told_of_one().await;
}
