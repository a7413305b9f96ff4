//! Messages of a hostile peer: never a panic, whatever is decoded encodes to the same message, and
//! a node that hears them does a bounded amount of work for each.
#![no_main]

use std::time::Duration;

use lavant_proto::contact::Arrival;
use lavant_proto::contact::hello::{Hello, Interest};
use lavant_proto::contact::message::ContactMessage;
use lavant_proto::contact::patience::Profile;
use lavant_proto::content::{Kind, Priority};
use lavant_proto::delivery::{Config, Delivery, Facts, Input, Known, Output};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition, Root};
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, RequestNo};
use lavant_proto::relay::message::TrackName;
use lavant_proto::runs::{GroupRuns, Run};
use lavant_proto::time::Time;
use libfuzzer_sys::fuzz_target;

const PEER: ContactNo = ContactNo(1);
const OUTPUTS_MAX: usize = 4096;
const MESSAGES_MAX: usize = 64;

// The first byte says how the node is set up; then come messages, each after its length.
fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
    let Some((setup, mut rest)) = data.split_first() else {
        return;
    };
    let mut now = Time::from_seconds(1_700_000_000);
    let mut core = ready(*setup, now);
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
                hear(message)
            }
            // What is no message stands for time, or for bytes that came.
            Err(_) => match bytes {
                [0, ..] => Input::Tick,
                [1, request, ..] => Input::Arrived {
                    contact: PEER,
                    request: RequestNo(u32::from(*request)),
                    groups: Run::new(0, 1),
                },
                [2, request, ..] => Input::Damaged {
                    contact: PEER,
                    request: RequestNo(u32::from(*request)),
                },
                [3, bytes, ..] => Input::Sent {
                    contact: PEER,
                    bytes: u64::from(*bytes) << 12,
                },
                _ => Input::Lied {
                    contact: ContactNo(9),
                    why: String::new(),
                },
            },
        };
        now = now.after(Duration::from_millis(length as u64));
        core.handle(now, input);
        answer(&mut core, now);
    }
});

fn hear(message: Message) -> Input {
    Input::Message {
        contact: PEER,
        message: Box::new(message),
    }
}

/// A node with something stored, and a contact on which both have said hello.
fn ready(setup: u8, now: Time) -> Delivery {
    let mut config = Config::new(PublisherKey([7; 32]));
    config.interest.all = setup & 1 == 0;
    config.copies = [if setup & 2 == 0 { 0 } else { 8 }; 3];
    config.hops = [if setup & 4 == 0 { 0 } else { 2 }; 3];
    config.upload = (setup & 8 != 0).then_some(100_000);
    config.download = (setup & 16 != 0).then_some(100_000);
    let mut core = Delivery::new(config, now);
    for number in 0..20u8 {
        let key = ContentKey {
            publisher: PublisherKey([number % 3; 32]),
            content_id: ContentId::from_title(&format!("film {number}")),
            version: 1,
        };
        let content = core.no(&key);
        let facts = Facts {
            priority: Priority::Vod,
            expires: Time::MAX,
            manifest: (number % 2 == 0).then_some(([number; 32], now)),
            to: Vec::new(),
            own: number % 3 == 0,
            complete: number % 4 == 0,
        };
        core.handle(now, Input::Content { content, facts });
        let name = TrackName {
            rendition: Rendition::main(),
            kind: Kind::Media,
        };
        if let Some(track) = core.track(content, &name) {
            let run = Run::new(0, 1 + u64::from(number));
            let stored = Input::Stored {
                content,
                track,
                run,
            };
            core.handle(now, stored);
        }
    }
    let arrival = Arrival {
        node: PublisherKey([9; 32]),
        dialled: setup & 32 != 0,
        source: None,
        profile: Profile::default(),
    };
    core.handle(
        now,
        Input::Up {
            contact: PEER,
            arrival,
        },
    );
    let hello = Hello::new("peer".into(), Interest::everything(), None);
    core.handle(now, hear(ContactMessage::Hello(hello).into()));
    answer(&mut core, now);
    core
}

/// Does what a driver would, as far as the core hears of it.
fn answer(core: &mut Delivery, now: Time) {
    let mut count = 0;
    while let Some(output) = core.poll() {
        count += 1;
        assert!(count <= OUTPUTS_MAX, "a message makes too much work");
        let input = match output {
            Output::Send { message, .. } | Output::Ask { message, .. } => {
                let bytes = message.encode();
                assert_eq!(Message::decode(&bytes), Ok(*message));
                continue;
            }
            Output::LearnRecords {
                contact,
                content,
                track,
                run,
                records,
            } => {
                let known = |(at, (record, _)): (u64, (Vec<u8>, _))| Known {
                    sequence: run.start + at,
                    root: Root([at as u8 % 8; 32]),
                    length: record.len() as u64 * 9000,
                    have: GroupRuns::new(),
                };
                Input::Learned {
                    from: Some(contact),
                    content,
                    track,
                    run,
                    known: (0..).zip(records).map(known).collect(),
                }
            }
            Output::Recall {
                content,
                track,
                run,
            } => Input::Learned {
                from: None,
                content,
                track,
                run,
                known: Vec::new(),
            },
            Output::LearnManifest {
                content, manifest, ..
            } => Input::Manifest {
                content,
                total: manifest.len() as u64,
                known: 0,
            },
            Output::LearnRows {
                content,
                from,
                rows,
                ..
            } => Input::Rows {
                content,
                known: from + rows.len() as u64,
            },
            Output::Adopt { place, .. } => Input::Stored {
                content: place.content,
                track: place.track,
                run: Run::one(place.sequence),
            },
            _ => continue,
        };
        core.handle(now, input);
    }
}
