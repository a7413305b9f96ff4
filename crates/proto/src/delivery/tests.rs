//! What strangers can do to a node, and what they cannot.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::contact::Arrival;
use crate::contact::budget::{Claims, SourceAddr};
use crate::contact::hello::{Hello, Interest};
use crate::contact::message::ContactMessage;
use crate::contact::patience::Profile;
use crate::content::{Kind, Priority};
use crate::ids::{ContentId, Rendition, Root, Signature};
use crate::numbers::{PushNo, RemoteNo};
use crate::relay::message::Summary;
use crate::runs::{Run, SequenceRun, SequenceRuns};

const LENGTH: u64 = 1 << 20;

/// A node, and what it wants done.
struct Bench {
    core: Delivery,
    now: Time,
    contacts: u32,
    said: Vec<(ContactNo, Message)>,
    closed: Vec<(ContactNo, String)>,
    /// Of contacts that were closed.
    last_counts: Vec<(ContactNo, Stats)>,
    slowed: usize,
}

impl Bench {
    fn new() -> Self {
        Self {
            core: Delivery::new(Config::new(PublisherKey([255; 32])), Time(0)),
            now: Time::from_seconds(1),
            contacts: 0,
            said: Vec::new(),
            closed: Vec::new(),
            last_counts: Vec::new(),
            slowed: 0,
        }
    }

    fn up(&mut self, source: u8) -> ContactNo {
        self.up_on(source, Profile::default())
    }

    fn up_on(&mut self, source: u8, profile: Profile) -> ContactNo {
        let contact = ContactNo(self.contacts);
        self.contacts += 1;
        let mut node = [0; 32];
        node[..4].copy_from_slice(&contact.0.to_le_bytes());
        let arrival = Arrival {
            node: PublisherKey(node),
            dialled: false,
            source: Some(SourceAddr::of(Ipv4Addr::new(10, 0, 0, source).into())),
            profile,
        };
        self.input(Input::Up { contact, arrival });
        contact
    }

    fn meet(&mut self, source: u8) -> ContactNo {
        self.meet_on(source, Profile::default())
    }

    fn meet_on(&mut self, source: u8, profile: Profile) -> ContactNo {
        let contact = self.up_on(source, profile);
        let hello = Hello::new("x".into(), Interest::everything(), None);
        self.hear(contact, ContactMessage::Hello(hello));
        contact
    }

    fn hear(&mut self, contact: ContactNo, message: impl Into<Message>) {
        let message = Box::new(message.into());
        self.input(Input::Message { contact, message });
    }

    fn input(&mut self, input: Input) {
        self.core.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Send { contact, message }
                | Output::Ask {
                    contact, message, ..
                } => self.said.push((contact, *message)),
                Output::Close {
                    contact,
                    why,
                    stats,
                } => {
                    self.closed.push((contact, why));
                    self.last_counts.push((contact, stats));
                }
                Output::Slow { .. } => self.slowed += 1,
                _ => {}
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.core.deadline() < end {
            self.now = self.now.max(self.core.deadline());
            self.input(Input::Tick);
        }
        self.now = end;
        self.input(Input::Tick);
    }

    /// Tells of contents with segments.
    fn offer(&mut self, contact: ContactNo, contents: &[(u32, &str)], here: &SequenceRuns) {
        let summaries = contents.iter().map(|(no, id)| summary(*no, id, here));
        self.hear(contact, RelayMessage::Summaries(summaries.collect()));
    }

    /// Whether a contact was asked something of one of its contents since the last look.
    fn was_asked(&mut self, contact: ContactNo, no: u32) -> bool {
        let asked = self.said.iter().any(|(to, message)| {
            let at = match message {
                Message::Relay(
                    RelayMessage::GetManifest(at)
                    | RelayMessage::GetRecords(at, ..)
                    | RelayMessage::Get { content: at, .. },
                ) => *at,
                _ => return false,
            };
            (*to, at.0) == (contact, no)
        });
        self.said.clear();
        asked
    }

    fn was_closed(&self, contact: ContactNo) -> Option<&str> {
        let it = self.closed.iter().find(|(no, _)| *no == contact);
        it.map(|(_, why)| why.as_str())
    }

    /// Takes records of a run for verified.
    fn learn(&mut self, contact: ContactNo, id: &str, run: SequenceRun) {
        let content = self.core.no(&key(id));
        let known = (run.start..run.end).map(|sequence| Known {
            sequence,
            root: Root([(16 * id.len() as u64 + sequence) as u8; 32]),
            length: LENGTH,
            have: Default::default(),
        });
        self.input(Input::Learned {
            from: Some(contact),
            content,
            track: TrackNo(0),
            run,
            known: known.collect(),
        });
    }
}

fn key(id: &str) -> ContentKey {
    ContentKey {
        publisher: PublisherKey([7; 32]),
        content_id: ContentId::new(id).unwrap(),
        version: 1,
    }
}

fn summary(no: u32, id: &str, here: &SequenceRuns) -> Summary {
    let track = TrackName {
        rendition: Rendition::main(),
        kind: Kind::Media,
    };
    Summary {
        no: RemoteNo(no),
        key: key(id),
        priority: Priority::Vod,
        expires: Time::MAX,
        manifest: None,
        hops: 0,
        copies: 0,
        to: Vec::new(),
        tracks: vec![(track, here.clone())],
        said: Vec::new(),
        partials: Vec::new(),
        receipts: Vec::new(),
    }
}

fn finished(no: u32, id: &str, here: &SequenceRuns) -> RelayMessage {
    RelayMessage::Summaries(vec![Summary {
        manifest: Some([1; 8]),
        ..summary(no, id, here)
    }])
}

/// Invents contents on one contact.
fn invent(bench: &mut Bench, contact: ContactNo, count: u32, here: &SequenceRuns) {
    for from in (0..count).step_by(100) {
        let names: Vec<(u32, String)> = (from..from + 100)
            .map(|no| (no, format!("invented-{}-{no}", contact.0)))
            .collect();
        let names: Vec<(u32, &str)> = names.iter().map(|(no, id)| (*no, id.as_str())).collect();
        bench.offer(contact, &names, here);
    }
}

#[test]
fn invented_contents_leave_room_for_those_of_others() {
    let mut bench = Bench::new();
    let here = SequenceRuns::of(0, 3);
    let liar = bench.meet(1);
    invent(&mut bench, liar, 39_900, &here);
    assert!(bench.core.contents() <= Claims::UNPROVEN_MAX);
    let honest = bench.meet(2);
    bench.said.clear();
    bench.offer(honest, &[(5, "film")], &here);
    assert!(bench.was_asked(honest, 5), "{:?}", bench.closed);
}

#[test]
fn a_contact_that_is_closed_leaves_its_counts() {
    let mut bench = Bench::new();
    let (contact, refused) = (bench.meet(1), bench.up(2));
    for push in 0..3 {
        let push = PushNo(push);
        bench.input(Input::Pushed { contact, push });
    }
    for contact in [contact, refused] {
        // Before its own hello the second one speaks out of turn; the first one says it twice.
        bench.hear(contact, ContactMessage::Ping(1));
        let hello = Hello::new("x".into(), Interest::everything(), None);
        bench.hear(contact, ContactMessage::Hello(hello));
    }
    let counted = Stats {
        ignored: 3,
        ..Stats::default()
    };
    assert_eq!(
        bench.last_counts,
        [(contact, counted), (refused, Stats::default())]
    );
}

#[test]
fn names_of_a_trusted_publisher_are_invented_within_bounds() {
    let mut bench = Bench::new();
    let mut config = Config::new(PublisherKey([255; 32]));
    config.trusted.insert(key("any").publisher);
    bench.core = Delivery::new(config, Time(0));
    let here = SequenceRuns::of(0, 3);
    let liar = bench.meet(1);
    invent(&mut bench, liar, 39_900, &here);
    assert!(bench.core.contents() <= Claims::UNPROVEN_WITH_TRUSTED_MAX);
}

#[test]
fn many_liars_together_leave_room_too() {
    let mut bench = Bench::new();
    let here = SequenceRuns::of(0, 3);
    let liars: Vec<ContactNo> = (1..23).map(|source| bench.meet(source)).collect();
    for liar in liars {
        invent(&mut bench, liar, 2_000, &here);
    }
    let full = bench.core.contents();
    assert!(full <= crate::limits::CONTENTS_MAX, "{full}");
    let honest = bench.meet(99);
    bench.said.clear();
    let names: Vec<String> = (0..50).map(|n| format!("film-{n}")).collect();
    let films: Vec<(u32, &str)> = (0..50).zip(names.iter().map(String::as_str)).collect();
    bench.offer(honest, &films, &here);
    assert!(bench.was_asked(honest, 0), "{:?}", bench.closed);
}

#[test]
fn what_a_node_has_no_room_for_is_asked_for_later() {
    let mut bench = Bench::new();
    let here = SequenceRuns::of(0, 1);
    let contact = bench.meet(1);
    invent(&mut bench, contact, 3_000, &here);
    bench.said.clear();
    // Half of them turn out to be true.
    for no in 0..1_500 {
        bench.learn(contact, &format!("invented-0-{no}"), Run::new(0, 1));
    }
    let lacking = bench.said.iter().find_map(|(_, message)| match message {
        Message::Relay(RelayMessage::Lacking(names)) => Some(names.len()),
        _ => None,
    });
    assert!(lacking.is_some_and(|names| names > 0));
}

#[test]
fn claims_take_bounded_memory_whatever_is_said() {
    let mut bench = Bench::new();
    let mut scattered = SequenceRuns::new();
    for at in 0..4_096 {
        scattered.insert(at * 2, at * 2 + 1);
    }
    for source in 0..12 {
        let liar = bench.meet(source);
        for no in 0..400 {
            bench.offer(liar, &[(no, &format!("x-{source}-{no}"))], &scattered);
        }
        assert!(bench.core.claimed() <= Claims::ALL_MAX);
        assert!(bench.core.claimed() <= Claims::BYTES_MAX * (usize::from(source) + 1));
    }
    // An honest one has its claims heard all the same.
    let honest = bench.meet(200);
    for no in 0..3 {
        let id = format!("film-{no}");
        bench.offer(honest, &[(no, &id)], &SequenceRuns::of(0, 3));
    }
    assert!(bench.was_closed(honest).is_none());
    assert!(
        (0..3).any(|no| bench.was_asked(honest, no)),
        "{:?}",
        bench.closed
    );
}

#[test]
fn news_is_taken_at_a_pace() {
    let mut bench = Bench::new();
    let contact = bench.meet(1);
    bench.offer(contact, &[(1, "stream")], &SequenceRuns::of(0, 1));
    // A million in no time: it is read no further long before.
    let mut heard = 0;
    while bench.slowed == 0 && heard < 1_000_000 {
        let run = Run::one(heard % 5);
        bench.hear(contact, RelayMessage::Have(RemoteNo(1), TrackNo(0), run));
        heard += 1;
    }
    assert!(heard < 400_000, "{heard}");
    assert!(bench.was_closed(contact).is_none());
}

#[test]
fn an_answer_to_something_else_is_a_lie_and_another_contact_is_asked() {
    let here = SequenceRuns::of(0, 3);
    let wrong_records = RelayMessage::Records(RemoteNo(1), TrackNo(0), Run::new(90, 99), vec![]);
    let rows = RelayMessage::Rows(RemoteNo(1), 0, Vec::new(), Vec::new());
    for (is_finished, wrong) in [(false, wrong_records), (true, rows)] {
        let mut bench = Bench::new();
        let (liar, honest) = (bench.meet(1), bench.meet(2));
        for contact in [liar, honest] {
            if is_finished {
                bench.hear(contact, finished(1, "film", &here));
            } else {
                bench.offer(contact, &[(1, "film")], &here);
            }
        }
        assert!(bench.was_asked(liar, 1));
        bench.hear(liar, wrong);
        let why = "it answered something that it was not asked";
        assert_eq!(bench.was_closed(liar), Some(why));
        assert!(bench.was_asked(honest, 1));
    }
}

#[test]
fn who_does_not_answer_keeps_a_content_away_for_five_seconds_at_most() {
    for is_finished in [false, true] {
        let mut bench = Bench::new();
        let here = SequenceRuns::of(0, 3);
        let (silent, honest) = (bench.meet(1), bench.meet(2));
        for contact in [silent, honest] {
            if is_finished {
                bench.hear(contact, finished(1, "film", &here));
            } else {
                bench.offer(contact, &[(1, "film")], &here);
            }
        }
        assert!(bench.was_asked(silent, 1));
        assert!(!bench.was_asked(honest, 1));
        bench.wait(Duration::from_secs(5));
        assert!(bench.was_asked(honest, 1), "finished: {is_finished}");
        // An answer that comes late is no lie.
        let late = match is_finished {
            true => RelayMessage::Manifest(RemoteNo(1), Vec::new(), Signature([0; 64])),
            false => RelayMessage::Records(RemoteNo(1), TrackNo(0), Run::new(0, 3), Vec::new()),
        };
        bench.hear(silent, late);
        assert_eq!(bench.was_closed(silent), None);
    }
}

#[test]
fn records_that_the_store_could_not_look_up_are_asked_for_again() {
    let mut bench = Bench::new();
    let (contact, here) = (bench.meet(1), SequenceRuns::of(0, 3));
    bench.offer(contact, &[(1, "film")], &here);
    assert!(bench.was_asked(contact, 1));
    let (at, track, run) = (RemoteNo(1), TrackNo(0), Run::new(0, 3));
    bench.hear(contact, RelayMessage::Records(at, track, run, Vec::new()));
    let content = bench.core.no(&key("film"));
    let forever = false;
    bench.input(Input::RefusedContent { content, forever });
    assert!(!bench.was_asked(contact, 1));
    for _ in 0..4 {
        bench.wait(Duration::from_secs(8));
        bench.hear(contact, ContactMessage::Pong(0));
    }
    assert!(bench.was_asked(contact, 1));
}

#[test]
fn what_one_contact_withholds_is_soon_asked_of_another() {
    let mut bench = Bench::new();
    let here = SequenceRuns::of(0, 4);
    let (miser, honest) = (bench.meet(1), bench.meet(2));
    for contact in [miser, honest] {
        bench.offer(contact, &[(1, "film")], &here);
    }
    let miser_asked_first = bench.was_asked(miser, 1);
    assert!(miser_asked_first);
    bench.said.clear();
    bench.learn(miser, "film", Run::new(0, 4));
    let mut given = std::collections::BTreeSet::new();
    let begun = bench.now;
    // The honest one gives at once what it is asked for; the other one nothing.
    while given.len() < 4 * LENGTH.div_ceil(crate::verify::CHUNK_GROUP_BYTES) as usize {
        assert!(
            bench.now.since(begun) < Duration::from_secs(20),
            "{given:?}"
        );
        let asked: Vec<_> = std::mem::take(&mut bench.said)
            .into_iter()
            .filter_map(|(to, message)| match message {
                Message::Relay(RelayMessage::Get {
                    request,
                    sequence,
                    groups,
                    ..
                }) if to == honest => Some((request, sequence, groups)),
                _ => None,
            })
            .collect();
        if asked.is_empty() {
            bench.wait(Duration::from_millis(100));
        }
        for (request, sequence, groups) in asked {
            given.extend((groups.start..groups.end).map(|group| (sequence, group)));
            bench.input(Input::Arrived {
                contact: honest,
                request,
                groups,
            });
        }
    }
    // What the miser held back came within seconds of its being asked.
    assert!(bench.now.since(begun) < Duration::from_secs(10));
}

#[test]
fn what_the_store_refuses_frees_its_contact_for_something_else() {
    let mut bench = Bench::new();
    let contact = bench.meet(1);
    // More of the first content than is asked for at a time, and then a second one.
    bench.offer(contact, &[(1, "film")], &SequenceRuns::of(0, 9));
    bench.learn(contact, "film", Run::new(0, 9));
    bench.offer(contact, &[(2, "other")], &SequenceRuns::of(0, 1));
    bench.learn(contact, "other", Run::new(0, 1));
    bench.said.clear();
    let content = bench.core.no(&key("film"));
    for sequence in 0..9 {
        let place = crate::numbers::Place {
            content,
            track: TrackNo(0),
            sequence,
        };
        let forever = false;
        bench.input(Input::Refused { place, forever });
    }
    assert!(bench.was_asked(contact, 2));
}

#[test]
fn strangers_that_say_nothing_leave_room_for_one_that_does() {
    let mut bench = Bench::new();
    for _ in 0..300 {
        bench.up(1);
    }
    let honest = bench.meet(2);
    assert_eq!(bench.was_closed(honest), None);
    assert!(
        bench
            .core
            .contacts()
            .any(|it| it.contact == honest && it.ready)
    );
    // One that dials is told nothing before it has said hello.
    bench.said.clear();
    bench.up(3);
    bench.wait(Duration::from_secs(11));
    let told = bench.said.iter().any(|(no, _)| no.0 == honest.0 + 1);
    assert!(!told);
}

#[test]
fn a_peer_of_the_first_version_is_told_that_it_is_too_old() {
    let mut bench = Bench::new();
    let old = bench.up(1);
    let hello = [0, 1, 3, b'o', b'l', b'd', 1, 0, 0, 0];
    bench.hear(old, Message::decode(&hello).unwrap());
    let why = "it speaks version 1 of the protocol, this node version 2; update it";
    assert_eq!(bench.was_closed(old), Some(why));
}

#[test]
fn what_was_not_agreed_on_is_counted_and_passed_over() {
    let mut bench = Bench::new();
    let contact = bench.meet(1);
    for (way, kind) in [(9, 1), (2, 99), (0, 77)] {
        bench.hear(contact, Message::Unknown { way, kind });
    }
    let push = PushNo(1);
    bench.input(Input::Pushed { contact, push });
    assert_eq!(bench.was_closed(contact), None);
    let info = bench.core.contacts().next().unwrap();
    assert_eq!(info.stats.ignored, 4);
    // Before it has proven anything, it is a lie as any other message is.
    let stranger = bench.up(2);
    let contact = stranger;
    bench.input(Input::Pushed { contact, push });
    let why = "it spoke before it said hello";
    assert_eq!(bench.was_closed(stranger), Some(why));
}

#[test]
fn over_a_link_that_costs_money_goes_only_what_is_wanted_here() {
    let metered = Profile {
        metered: true,
        ..Profile::default()
    };
    let mut bench = Bench::new();
    let mut config = Config::new(PublisherKey([9; 32]));
    let wanted = ContentId::new("wanted").unwrap();
    config.interest.contents.insert((wanted, None));
    bench.core = Delivery::new(config, bench.now);
    let contact = bench.meet_on(1, metered);
    let here = SequenceRuns::of(0, 3);
    bench.offer(contact, &[(1, "wanted"), (2, "carried")], &here);
    let asked = |bench: &mut Bench, no| {
        let said = bench.said.clone();
        let asked = bench.was_asked(contact, no);
        bench.said = said;
        asked
    };
    assert!(asked(&mut bench, 1) && !asked(&mut bench, 2));
    // Somebody watches it here.
    let content = bench.core.no(&key("carried"));
    let sequence = 0;
    bench.input(Input::Watched { content, sequence });
    assert!(asked(&mut bench, 2));
    // What costs nothing is taken at once.
    let free = bench.meet(2);
    bench.offer(free, &[(1, "other")], &here);
    assert!(bench.was_asked(free, 1));
}

#[test]
fn a_slow_link_is_asked_for_few_records_at_a_time() {
    for (rate, most) in [(None, 16), (Some(300), 3), (Some(37), 1)] {
        let mut bench = Bench::new();
        let profile = Profile {
            rate,
            ..Profile::default()
        };
        let contact = bench.meet_on(1, profile);
        bench.offer(contact, &[(1, "film")], &SequenceRuns::of(0, 100));
        let runs = bench.said.iter().filter_map(|(_, message)| match message {
            Message::Relay(RelayMessage::GetRecords(_, _, run)) => Some(run.count()),
            _ => None,
        });
        assert_eq!(runs.max(), Some(most), "{rate:?}");
    }
}

#[test]
fn a_stranger_that_names_this_node_does_not_decide_what_it_takes() {
    for trusted in [false, true] {
        let mut bench = Bench::new();
        let mut config = Config::new(PublisherKey([9; 32]));
        config.interest.all = false;
        if trusted {
            config.trusted.insert(key("letter").publisher);
        }
        bench.core = Delivery::new(config, bench.now);
        let contact = bench.meet(1);
        let letter = Summary {
            to: vec![PublisherKey([9; 32])],
            ..summary(1, "letter", &SequenceRuns::of(0, 3))
        };
        bench.hear(contact, RelayMessage::Summaries(vec![letter]));
        assert_eq!(bench.was_asked(contact, 1), trusted);
    }
}
