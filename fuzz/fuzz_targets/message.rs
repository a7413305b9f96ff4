//! Messages of a hostile peer: never a panic, whatever is decoded encodes to the same message, and
//! a relay that hears them does a bounded amount of work for each.
#![no_main]

use std::time::Duration;

use lavant_proto::content::{Kind, Priority};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition};
use lavant_proto::relay::hello::{Hello, Interest};
use lavant_proto::relay::message::{Message, TrackName};
use lavant_proto::relay::{Config, ContactNo, Facts, Input, Known, Output, Relay};
use lavant_proto::runs::{Run, Runs};
use lavant_proto::time::Time;
use libfuzzer_sys::fuzz_target;

const PEER: ContactNo = ContactNo(1);
const OUTPUTS_MAX: usize = 4096;
const MESSAGES_MAX: usize = 64;

// The first byte says how the relay is set up; then come messages, each after its length.
fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    let Some((setup, mut rest)) = data.split_first() else {
        return;
    };
    let mut now = Time::from_seconds(1_700_000_000);
    let mut relay = ready(*setup, now);
    for _ in 0..MESSAGES_MAX {
        let Some((length, tail)) = rest.split_first_chunk::<2>() else {
            return;
        };
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (bytes, tail) = tail.split_at(length);
        rest = tail;
        let input = match Message::decode(bytes) {
            Ok(message) => {
                let again = message.encode();
                assert_eq!(Message::decode(&again), Ok(message.clone()));
                Input::Message(PEER, message)
            }
            // What is no message stands for time, or for bytes that came.
            Err(_) => match bytes {
                [0, ..] => Input::Tick,
                [1, request, ..] => Input::Arrived(PEER, u32::from(*request), Run::new(0, 1)),
                [2, request, ..] => Input::Damaged(PEER, u32::from(*request)),
                [3, bytes, ..] => Input::Sent(PEER, u64::from(*bytes) << 12),
                _ => Input::Lied(ContactNo(9), String::new()),
            },
        };
        now = now.after(Duration::from_millis(length as u64));
        relay.handle(now, input);
        answer(&mut relay, now);
    }
});

/// A relay with something stored, and a contact on which both have said hello.
fn ready(setup: u8, now: Time) -> Relay {
    let mut config = Config::new(PublisherKey([7; 32]));
    config.interest.all = setup & 1 == 0;
    config.copies = [if setup & 2 == 0 { 0 } else { 8 }; 3];
    config.hops = [if setup & 4 == 0 { 0 } else { 2 }; 3];
    config.upload = (setup & 8 != 0).then_some(100_000);
    config.download = (setup & 16 != 0).then_some(100_000);
    let mut relay = Relay::new(config, now);
    for number in 0..20u8 {
        let key = ContentKey {
            publisher: PublisherKey([number % 3; 32]),
            content_id: ContentId::from_title(&format!("film {number}")),
            version: 1,
        };
        let no = relay.no(&key);
        let facts = Facts {
            priority: Priority::Vod,
            expires: Time::MAX,
            manifest: (number % 2 == 0).then_some(([number; 32], now)),
            own: number % 3 == 0,
            complete: number % 4 == 0,
        };
        relay.handle(now, Input::Content(no, facts));
        let name = TrackName {
            rendition: Rendition::main(),
            kind: Kind::Media,
        };
        if let Some(track) = relay.track(no, &name) {
            let run = Run::new(0, 1 + u64::from(number));
            relay.handle(now, Input::Stored(no, track, run));
        }
    }
    let (node, dialled) = (PublisherKey([9; 32]), setup & 32 != 0);
    relay.handle(
        now,
        Input::Up {
            contact: PEER,
            node,
            dialled,
        },
    );
    let hello = Hello {
        version: 1,
        name: "peer".into(),
        interest: Interest::everything(),
        proof: None,
    };
    relay.handle(now, Input::Message(PEER, Message::Hello(hello)));
    answer(&mut relay, now);
    relay
}

/// Does what a driver would, as far as the relay hears of it.
fn answer(relay: &mut Relay, now: Time) {
    let mut count = 0;
    while let Some(output) = relay.poll() {
        count += 1;
        assert!(count <= OUTPUTS_MAX, "a message makes too much work");
        let input = match output {
            Output::Send(_, message) => {
                let bytes = message.encode();
                assert_eq!(Message::decode(&bytes), Ok(message));
                continue;
            }
            Output::LearnRecords(from, no, track, run, records) => {
                let known = |(at, (record, _)): (u64, (Vec<u8>, _))| Known {
                    sequence: run.start + at,
                    length: record.len() as u64 * 9000,
                    have: Runs::new(),
                };
                let known = (0..).zip(records).map(known).collect();
                Input::Learned(Some(from), no, track, run, known)
            }
            Output::Recall(no, track, run) => Input::Learned(None, no, track, run, Vec::new()),
            Output::LearnManifest(_, no, bytes, _) => {
                Input::Manifest(no, hash_of(&bytes), bytes.len() as u64, 0)
            }
            Output::LearnRows(_, no, from, rows, _) => Input::Rows(no, from + rows.len() as u64),
            Output::Adopt(place, _) => {
                let run = Run::new(place.sequence, place.sequence + 1);
                Input::Stored(place.no, place.track, run)
            }
            _ => continue,
        };
        relay.handle(now, input);
    }
}

/// Stands for the hash of a manifest.
fn hash_of(bytes: &[u8]) -> [u8; 32] {
    lavant_proto::verify::seal(bytes).root.0
}
