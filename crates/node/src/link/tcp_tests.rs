//! Tests of a TCP link that need its inside: raw bytes, cuts, and changes of keys.

use lavant_proto::ids::SigningKey;
use rustls::ContentType;
use tokio::net::TcpListener;

use super::super::tls::{ALPN, TlsIdentity};
use super::*;

async fn pair() -> (TcpLink, TcpLink) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let identity = |seed| TlsIdentity::new(&SigningKey::from_seed(&[seed; 32])).unwrap();
    let out = async {
        let mut tcp = TcpStream::connect(at).await.unwrap();
        let opened = identity(1).dial(None, ALPN).unwrap().run(&mut tcp).await;
        TcpLink::new(tcp, at, opened.unwrap())
    };
    let inward = async {
        let (mut tcp, remote) = listener.accept().await.unwrap();
        let opened = identity(2).accept().unwrap().run(&mut tcp).await;
        TcpLink::new(tcp, remote, opened.unwrap())
    };
    tokio::join!(out, inward)
}

fn data(request: u32, length: usize) -> Frame {
    Frame::Data {
        request,
        last: false,
        bytes: Bytes::from(vec![request as u8; length]),
    }
}

async fn all(receiver: &mut TcpReceiver) -> (Vec<Frame>, LinkError) {
    let mut frames = Vec::new();
    loop {
        if let Err(error) = receiver.receive(&mut frames).await {
            return (frames, error);
        }
    }
}

#[tokio::test]
async fn a_cut_within_a_frame_gives_out_all_whole_frames() {
    let (one, other) = pair().await;
    let (mut sender, mut receiver) = (one.sender, other.receiver);
    let frames: Vec<Frame> = (0..9).map(|request| data(request, 18_000)).collect();
    let mut batch = frames.clone();
    let sending = async {
        sender.send(&mut batch, Urgency::Bulk).await.unwrap();
        let (header, bytes) = data(99, 18_000).into_parts();
        sender.put(&[&header, &bytes[..17_999]]).unwrap();
        sender.send_all(Urgency::Bulk).await.unwrap();
        drop((sender, one.receiver));
    };
    let ((), (got, error)) = tokio::join!(sending, all(&mut receiver));
    assert_eq!(got, frames);
    assert!(matches!(error, LinkError::Cut(_)), "{error}");
}

#[tokio::test]
async fn a_cut_within_a_record_gives_out_all_whole_frames() {
    let (one, other) = pair().await;
    let (mut sender, mut receiver) = (one.sender, other.receiver);
    let frames = vec![data(1, 1000), data(2, 0)];
    sender
        .send(&mut frames.clone(), Urgency::Bulk)
        .await
        .unwrap();
    let (header, bytes) = data(3, 100).into_parts();
    sender.put(&[&header, &bytes]).unwrap();
    sender.records[0].truncate(50);
    sender.send_all(Urgency::Bulk).await.unwrap();
    drop((sender, one.receiver));
    let (got, error) = all(&mut receiver).await;
    assert_eq!(got, frames);
    assert!(matches!(error, LinkError::Cut(_)), "{error}");
}

#[tokio::test]
async fn a_length_of_four_gigabytes_ends_the_link_without_memory() {
    let (one, other) = pair().await;
    let (mut sender, mut receiver) = (one.sender, other.receiver);
    sender
        .put(&[&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1], b"more"])
        .unwrap();
    sender.send_all(Urgency::Bulk).await.unwrap();
    let (got, error) = all(&mut receiver).await;
    assert!(got.is_empty());
    assert!(error.to_string().contains("4294967295 bytes"), "{error}");
}

#[tokio::test]
async fn keys_are_replaced_while_frames_flow() {
    let (one, other) = pair().await;
    let (mut sender, mut receiver) = (one.sender, other.receiver);
    sender.writer.replace_keys_after(3);
    let frames: Vec<Frame> = (0..40).map(|request| data(request, 18_000)).collect();
    let mut got = Vec::new();
    let receiving = async {
        while got.len() < frames.len() {
            receiver.receive(&mut got).await.unwrap();
        }
    };
    let mut batch = frames.clone();
    let (sent, ()) = tokio::join!(sender.send(&mut batch, Urgency::Bulk), receiving);
    sent.unwrap();
    assert_eq!(got, frames);
}

#[tokio::test]
async fn a_wish_for_new_keys_is_answered_before_the_next_frame() {
    let (mut one, mut other) = pair().await;
    let mut got = Vec::new();
    let before: Vec<Frame> = (0..5).map(|request| data(request, 9)).collect();
    for frame in &before {
        other
            .sender
            .send(&mut vec![frame.clone()], Urgency::Bulk)
            .await
            .unwrap();
    }
    while got.len() < before.len() {
        one.receiver.receive(&mut got).await.unwrap();
    }
    assert_eq!(one.receiver.reader.sequence(), 5);
    let wish = one.sender.writer.ask_for_new_keys();
    one.sender.records.push_back(wish);
    one.sender
        .send(&mut vec![data(7, 9)], Urgency::Bulk)
        .await
        .unwrap();
    other.receiver.receive(&mut got).await.unwrap();
    assert_eq!(got.pop(), Some(data(7, 9)), "by the new keys");
    for request in [8, 9] {
        other
            .sender
            .send(&mut vec![data(request, 9)], Urgency::Bulk)
            .await
            .unwrap();
        one.receiver.receive(&mut got).await.unwrap();
        assert_eq!(got.pop(), Some(data(request, 9)));
    }
    assert_eq!(one.receiver.reader.sequence(), 2, "new keys, taken once");
}

#[tokio::test]
async fn records_that_say_nothing_are_passed_over_but_not_without_end() {
    let ticket = [&[4, 0, 0, 20][..], &[0; 20]].concat();
    for (typ, bytes) in [
        (ContentType::ApplicationData, Vec::new()),
        (ContentType::Handshake, ticket),
        (ContentType::Handshake, vec![24, 0, 0, 1, 0]),
    ] {
        let (one, other) = pair().await;
        let (mut sender, mut receiver) = (one.sender, other.receiver);
        let mut got = Vec::new();
        for _ in 0..3 {
            for _ in 0..30 {
                let idle = if bytes.len() == 5 {
                    sender.writer.ask_for_new_keys()
                } else {
                    sender.writer.any(typ, &bytes)
                };
                sender.records.push_back(idle);
            }
            sender
                .send(&mut vec![data(1, 9)], Urgency::Bulk)
                .await
                .unwrap();
            receiver.receive(&mut got).await.unwrap();
            assert_eq!(got.pop(), Some(data(1, 9)), "{typ:?}");
        }
        for _ in 0..40 {
            let idle = sender.writer.any(ContentType::ApplicationData, &[]);
            sender.records.push_back(idle);
        }
        sender
            .send(&mut vec![data(2, 9)], Urgency::Bulk)
            .await
            .unwrap();
        let (got, error) = all(&mut receiver).await;
        assert!(got.is_empty());
        assert!(error.to_string().contains("say nothing"), "{error}");
    }
}

#[tokio::test]
async fn a_message_of_tls_that_is_none_ends_the_link() {
    for (typ, bytes) in [
        (ContentType::Handshake, &[24, 0, 0, 1, 2][..]),
        (
            ContentType::Handshake,
            &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0][..],
        ),
        (ContentType::Handshake, &[24][..]),
        (ContentType::Handshake, &[][..]),
        (ContentType::Alert, &[2, 40][..]),
        (ContentType::Alert, &[][..]),
        (ContentType::ChangeCipherSpec, &[1][..]),
    ] {
        let (one, other) = pair().await;
        let (mut sender, mut receiver) = (one.sender, other.receiver);
        let odd = sender.writer.any(typ, bytes);
        sender.records.push_back(odd);
        sender
            .send(&mut vec![data(1, 9)], Urgency::Bulk)
            .await
            .unwrap();
        let (got, error) = all(&mut receiver).await;
        assert!(got.is_empty());
        assert!(matches!(error, LinkError::Cut(_)), "{typ:?} {error}");
    }
}

#[tokio::test]
async fn a_changed_byte_ends_the_link() {
    for position in [5, 20, 100] {
        let (one, other) = pair().await;
        let (mut sender, mut receiver) = (one.sender, other.receiver);
        let (header, bytes) = data(3, 100).into_parts();
        sender.put(&[&header, &bytes]).unwrap();
        sender.records[0][position] ^= 1;
        sender.send_all(Urgency::Bulk).await.unwrap();
        let (got, error) = all(&mut receiver).await;
        assert!(got.is_empty());
        assert!(error.to_string().contains("changed on its way"), "{error}");
    }
}

#[tokio::test]
async fn a_send_that_is_dropped_early_is_finished_by_the_next() {
    let (one, other) = pair().await;
    let (mut sender, mut receiver) = (one.sender, other.receiver);
    // More than the sockets hold, so the first call cannot end while nobody reads.
    let frames: Vec<Frame> = (0..2000).map(|request| data(request, 18_000)).collect();
    let mut batch = frames.clone();
    let early = timeout(
        Duration::from_millis(50),
        sender.send(&mut batch, Urgency::Bulk),
    )
    .await;
    assert!(early.is_err(), "36 MB fit into the sockets");
    let mut got = Vec::new();
    let receiving = async {
        while got.len() < frames.len() {
            receiver.receive(&mut got).await.unwrap();
        }
    };
    let mut nothing = Vec::new();
    let (sent, ()) = tokio::join!(sender.send(&mut nothing, Urgency::Bulk), receiving);
    sent.unwrap();
    assert!(got == frames);
}

#[tokio::test]
async fn what_is_urgent_overtakes_what_waits_in_the_link() {
    let (one, other) = pair().await;
    let (mut sender, mut receiver) = (one.sender, other.receiver);
    let mut bulk: Vec<Frame> = (0..2000).map(|request| data(request, 18_000)).collect();
    let early = sender.send(&mut bulk, Urgency::Bulk);
    let early = timeout(Duration::from_millis(50), early).await;
    assert!(early.is_err(), "36 MB fit into the sockets");
    let mut got = Vec::new();
    let receiving = async {
        while got.len() < 2002 {
            receiver.receive(&mut got).await.unwrap();
        }
    };
    let said = Frame::Control(Bytes::from_static(b"said"));
    let mut urgent = vec![data(3000, 9), said.clone()];
    let sending = async {
        sender.send(&mut urgent, Urgency::Live).await.unwrap();
        sender.send(&mut urgent, Urgency::Bulk).await.unwrap();
    };
    tokio::join!(sending, receiving);
    let at = got.iter().position(|frame| *frame == said).unwrap();
    assert_eq!(got[at + 1], data(3000, 9));
    assert!(at < 1999, "{at}");
}

#[test]
fn what_the_system_may_hold_follows_what_the_link_takes() {
    let mut pace = Pace::new();
    let begun = pace.since;
    let after = |millis| begun + Duration::from_millis(millis);
    // 1 Mbit/s: 10 ms of it are less than the least.
    assert_eq!(pace.took(12_500, after(100)), None);
    assert_eq!(pace.unsent, UNSENT_MIN);
    // 4 MB/s, then a gigabyte a second.
    assert_eq!(pace.took(400_000, after(200)), Some(64 * 1024));
    assert_eq!(pace.took(100_000_000, after(300)), Some(UNSENT_MAX));
    assert_eq!(pace.took(1, after(350)), None);
    // A fast link is known before the span is over, a slow one with a full queue is not.
    let mut fast = Pace::new();
    let soon = fast.since + Duration::from_millis(1);
    assert_eq!(fast.took(200_000, soon), None);
    assert_eq!(fast.took(100_000, soon), Some(UNSENT_MAX));
    assert_eq!(pace.took(1, after(900)), Some(UNSENT_MIN));
}
