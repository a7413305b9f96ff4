//! Tests of a QUIC link that need its inside: raw bytes and cuts.

use std::net::Ipv4Addr;

use super::*;

async fn pair() -> ([Endpoint; 2], QuicSender, QuicReceiver) {
    let ips = [IpAddr::from(Ipv4Addr::LOCALHOST)];
    let one = SigningKey::from_seed(&[1; 32]);
    let other = SigningKey::from_seed(&[2; 32]);
    let ends = [
        bind(&one, &ips, 0).await.unwrap(),
        bind(&other, &ips, 0).await.unwrap(),
    ];
    let at = ends[1].bound_sockets();
    let accepting = async {
        let connection = ends[1].accept().await.unwrap().await.unwrap();
        QuicLink::accepted(connection, at[0]).await.unwrap()
    };
    let dialling = dial(&ends[0], other.publisher(), &at);
    let (inward, out) = tokio::join!(accepting, dialling);
    let out = out.unwrap();
    let sender = QuicSender {
        connection: out.connection.clone(),
        control: Lane::on(out.control),
        data: std::array::from_fn(Lane::of_data),
    };
    let receiver = QuicReceiver {
        accepting: Some(accept_data(&inward.connection)),
        connection: inward.connection,
        streams: vec![Incoming::on(inward.receive)],
        reason: None,
        ended: None,
    };
    (ends, sender, receiver)
}

fn data(request: u32, length: usize) -> Frame {
    Frame::Data {
        request,
        last: false,
        bytes: Bytes::from(vec![request as u8; length]),
    }
}

async fn all(receiver: &mut QuicReceiver) -> (Vec<Frame>, LinkError) {
    let mut frames = Vec::new();
    loop {
        if let Err(error) = receiver.receive(&mut frames).await {
            frames.sort_by_key(|frame| match frame {
                Frame::Control(_) => 0,
                Frame::Data {
                    request: number, ..
                }
                | Frame::Pushed { push: number, .. } => *number,
            });
            return (frames, error);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_within_a_frame_gives_out_all_whole_frames() {
    let (ends, mut sender, mut receiver) = pair().await;
    let frames: Vec<Frame> = (0..50).map(|request| data(request, 18_000)).collect();
    sender
        .send(&mut frames.clone(), Urgency::Bulk)
        .await
        .unwrap();
    let (header, bytes) = data(101, 18_000).into_parts();
    let lane = &mut sender.data[1];
    lane.queue.push_back(Bytes::copy_from_slice(&header));
    lane.queue.push_back(bytes.slice(..17_000));
    sender.flush(Urgency::Bulk).await.unwrap();
    for lane in &mut sender.data {
        lane.finish().await;
    }
    sender.connection.close(VarInt::from_u32(0), b"");
    let (got, error) = all(&mut receiver).await;
    assert_eq!(got, frames);
    assert!(matches!(error, LinkError::Cut(_)), "{error}");
    for end in ends {
        end.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_of_four_gigabytes_ends_the_link_without_memory() {
    let (ends, mut sender, mut receiver) = pair().await;
    let header = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1]);
    sender.data[0].queue.push_back(header);
    sender.flush(Urgency::Bulk).await.unwrap();
    let (got, error) = all(&mut receiver).await;
    assert!(got.is_empty());
    assert!(error.to_string().contains("4294967295 bytes"), "{error}");
    let told = end_of(&sender.connection.closed().await);
    assert!(told.to_string().contains("4294967295 bytes"), "{told}");
    for end in ends {
        end.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_of_the_connection_is_cleaned_too() {
    let (ends, sender, mut receiver) = pair().await;
    let said = b"\x1b[31mOWNED\r\nERROR \xe2\x80\xaeforged".repeat(20);
    sender.connection.close(VarInt::from_u32(7), &said);
    let (_, error) = all(&mut receiver).await;
    let LinkError::Closed(reason) = error else {
        panic!("{error}")
    };
    assert!(reason.starts_with("[31mOWNED ERROR forged"), "{reason}");
    assert!(!reason.contains(char::is_control), "{reason:?}");
    assert!(reason.len() <= crate::link::REASON_BYTES_MAX);
    for end in ends {
        end.close().await;
    }
}
