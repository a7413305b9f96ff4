//! Relays that meet, with and without faults.

use std::collections::BTreeMap;
use std::time::Duration;

use lavant_proto::content::Priority;
use lavant_proto::delivery::Config;
use lavant_proto::ids::PublisherKey;
use lavant_proto::time::Time;

use super::air::Share;
use super::report::{self, Options};
use super::trace::Trace;
use super::universe::{Faults, Meeting, Setup, Spec, Universe, View};
use super::world::{Outcome, World};
use crate::random::Random;

fn film(publisher: u32, segments: u64) -> Spec {
    Spec {
        publisher,
        priority: Priority::Vod,
        created: Time::from_seconds(1),
        ttl: Duration::from_secs(86_400),
        segments,
        length: 300_000,
        every: Duration::ZERO,
        to: None,
    }
}

fn setup(nodes: u32, specs: Vec<Spec>, meetings: Vec<Meeting>) -> Setup {
    Setup {
        seed: 1,
        nodes,
        universe: Universe::new(specs),
        meetings,
        rate: Some(1_000_000),
        delay: Duration::from_millis(10),
        capacity: None,
        capacities: BTreeMap::new(),
        share: Share::Nothing,
        config: Config::new(PublisherKey([0; 32])),
        views: Vec::new(),
        faults: Faults::default(),
        end: Time::from_seconds(10_000),
    }
}

fn meet(a: u32, b: u32, from: u64, to: u64) -> Meeting {
    Meeting {
        from: Time::from_seconds(from),
        to: Time::from_seconds(to),
        a,
        b,
    }
}

fn run(setup: &Setup) -> Outcome {
    World::new(setup.clone()).run()
}

#[test]
fn a_film_crosses_once_and_at_the_speed_of_the_link() {
    let setup = setup(2, vec![film(0, 100)], vec![meet(1, 0, 5, 45)]);
    let outcome = run(&setup);
    assert_eq!(outcome.delivered, 100, "{outcome:?}");
    assert_eq!(outcome.duplicate_bytes, 0);
    assert_eq!(outcome.closed.len(), 0, "{outcome:?}");
    // Segments of 19 chunk groups, each asked for in some parts and told of twice.
    assert!(outcome.messages < 100 * 10, "{outcome:?}");
    // 30 MB at 1 MB/s: the mean segment is there after half of that.
    let mean = outcome.delay_seconds / 100;
    assert!((17..22).contains(&mean), "{mean}");
}

#[test]
fn a_content_reaches_a_node_that_its_publisher_never_meets() {
    let meetings = vec![meet(0, 1, 5, 60), meet(2, 1, 100, 160)];
    let outcome = run(&setup(3, vec![film(0, 100)], meetings));
    assert_eq!(outcome.delivered, 200, "{outcome:?}");
}

#[test]
fn a_link_that_breaks_loses_at_most_a_chunk_group_each_time() {
    let meetings = (0..40).map(|n| meet(0, 1, 5 + 2 * n, 6 + 2 * n)).collect();
    let outcome = run(&setup(2, vec![film(0, 100)], meetings));
    assert_eq!(outcome.delivered, 100, "{outcome:?}");
    assert!(outcome.broken > 20);
    assert!(outcome.lost_bytes <= outcome.broken * 16_464, "{outcome:?}");
    assert_eq!(outcome.duplicate_bytes, 0);
}

#[test]
fn several_peers_fill_a_node_without_sending_anything_twice() {
    let mut meetings: Vec<Meeting> = (1..6).map(|n| meet(0, n, 2, 60)).collect();
    meetings.extend((1..6).map(|n| meet(n, 6, 100, 200)));
    let outcome = run(&setup(7, vec![film(0, 100)], meetings));
    assert_eq!(outcome.delivered, 600, "{outcome:?}");
    assert_eq!(outcome.duplicate_bytes, 0, "{outcome:?}");
}

#[test]
fn live_goes_before_near_live_and_on_demand() {
    let mut specs = vec![film(0, 100), film(0, 30), film(0, 30)];
    specs[1].priority = Priority::NearLive;
    specs[2].priority = Priority::Live;
    let outcome = run(&setup(2, specs, vec![meet(0, 1, 5, 25)]));
    assert_eq!(outcome.reached[3..6], [outcome.reached[3], 30, 30]);
    assert!(outcome.reached[3] < 40, "{outcome:?}");
}

#[test]
fn new_segments_of_a_stream_flow_at_once() {
    let mut stream = film(0, 200);
    stream.every = Duration::from_secs(2);
    stream.priority = Priority::Live;
    let outcome = run(&setup(2, vec![stream], vec![meet(1, 0, 0, 5000)]));
    assert_eq!(outcome.delivered, 200, "{outcome:?}");
    assert!(outcome.delay_seconds <= 20, "{outcome:?}");
}

#[test]
fn equal_nodes_say_little() {
    let specs: Vec<Spec> = (0..200).map(|_| film(0, 500)).collect();
    let mut setup = setup(2, specs, vec![meet(0, 1, 5, 4000), meet(0, 1, 5000, 5005)]);
    setup.rate = Some(100_000_000_000);
    let whole = run(&setup);
    assert_eq!(whole.delivered, 100_000);
    setup.meetings.pop();
    let once = run(&setup);
    let second = whole.message_bytes - once.message_bytes;
    assert!(second < 1000, "{second}");
}

/// Bytes of messages to learn of new contents beside 100,000 segments that both have.
fn cost_of_news(new: Vec<Spec>) -> u64 {
    let segments: u64 = new.iter().map(|spec| spec.segments).sum();
    let old = || (0..100).map(|_| film(0, 1000));
    let new = new.into_iter().map(|spec| Spec {
        created: Time::from_seconds(4500),
        ..spec
    });
    let meetings = vec![meet(0, 1, 5, 4000), meet(0, 1, 5000, 9000)];
    let mut setup = setup(2, old().chain(new).collect(), meetings);
    setup.rate = Some(100_000_000_000);
    let whole = run(&setup);
    assert_eq!(whole.delivered, 100_000 + segments, "{:?}", whole.closed);
    // What it costs to say which segments are asked for, and their rows, is not part of it.
    whole.told_bytes
}

#[test]
fn a_thousand_new_segments_are_told_in_few_bytes() {
    let old = cost_of_news(Vec::new());
    let film_of_thousand = cost_of_news(vec![film(0, 1000)]) - old;
    assert!(film_of_thousand < 2_000, "{film_of_thousand}");
    let thousand_films = cost_of_news((0..1000).map(|_| film(0, 1)).collect()) - old;
    // One side names each film, the other one answers with numbers.
    assert!(thousand_films < 64 << 10, "{thousand_films}");
}

#[test]
fn a_radio_at_300_bits_a_second_carries_a_segment() {
    let mut spec = film(0, 1);
    spec.length = 40_000;
    let mut setup = setup(2, vec![spec], vec![meet(1, 0, 5, 7200)]);
    setup.rate = Some(300 / 8);
    let outcome = run(&setup);
    assert_eq!(outcome.delivered, 1, "{outcome:?}");
    assert_eq!(outcome.closed.len(), 0, "{outcome:?}");
    assert_eq!(outcome.duplicate_bytes, 0, "{outcome:?}");
}

#[test]
fn a_link_to_mars_carries_a_film() {
    let mut setup = setup(2, vec![film(0, 50)], vec![meet(1, 0, 5, 36_000)]);
    setup.delay = Duration::from_secs(20 * 60);
    setup.end = Time::from_seconds(40_000);
    let outcome = run(&setup);
    assert_eq!(outcome.delivered, 50, "{outcome:?}");
    assert_eq!(outcome.closed.len(), 0, "{outcome:?}");
    assert_eq!(outcome.duplicate_bytes, 0, "{outcome:?}");
}

#[test]
fn hops_and_copies_are_limited_when_asked() {
    let meetings: Vec<Meeting> = (0..9u32)
        .map(|n| meet(n, n + 1, 10 + u64::from(n), 11 + u64::from(n)))
        .collect();
    let mut setup = setup(10, vec![film(0, 1)], meetings);
    setup.config.hops = [3; 3];
    assert_eq!(run(&setup).delivered, 3);
    setup.config.hops = [0; 3];
    assert_eq!(run(&setup).delivered, 9);
    setup.config.copies = [4; 3];
    // 4 copies: the publisher keeps 2, the next node 1 of the other 2 and gives 1 away.
    assert_eq!(run(&setup).delivered, 2);
}

/// Nodes 0 to 2 have a film, then all of them meet node 3 for 100 seconds.
fn one_from_three(limit: impl FnOnce(&mut Config)) -> u64 {
    let mut meetings = vec![meet(0, 1, 0, 10), meet(0, 2, 0, 10)];
    meetings.extend((0..3).map(|n| meet(3, n, 20, 120)));
    let mut setup = setup(4, vec![film(0, 400)], meetings);
    setup.rate = Some(50_000_000);
    let before = run(&Setup {
        end: Time::from_seconds(15),
        ..setup.clone()
    });
    assert_eq!(before.delivered, 800);
    limit(&mut setup.config);
    // The first meetings are under the same limit, and long enough.
    let (shift, hour) = (Duration::from_secs(3600), Time::from_seconds(3610));
    for (index, meeting) in setup.meetings.iter_mut().enumerate() {
        if index < 2 {
            meeting.to = hour;
        } else {
            (meeting.from, meeting.to) = (meeting.from.after(shift), meeting.to.after(shift));
        }
    }
    let outcome = run(&setup);
    outcome.payload_bytes - before.payload_bytes
}

#[test]
fn each_limit_holds_for_what_it_names() {
    let near = |bytes: u64, expected: u64| {
        assert!(bytes <= expected, "{bytes} of {expected}");
        assert!(bytes >= expected / 100 * 95, "{bytes} of {expected}");
    };
    near(
        one_from_three(|config| config.download = Some(500_000)),
        50_000_000,
    );
    near(
        one_from_three(|config| config.peer_download = Some(300_000)),
        90_000_000,
    );
    near(
        one_from_three(|config| config.peer_upload = Some(300_000)),
        90_000_000,
    );
    // Three nodes send.
    near(
        one_from_three(|config| config.upload = Some(250_000)),
        75_000_000,
    );
}

#[test]
fn nodes_that_met_one_source_have_different_segments_for_each_other() {
    let mut setup = setup(3, vec![film(0, 100)], Vec::new());
    setup.meetings = vec![meet(1, 0, 5, 15), meet(2, 0, 20, 30), meet(1, 2, 40, 80)];
    let apart = run(&Setup {
        end: Time::from_seconds(35),
        ..setup.clone()
    });
    assert!(apart.delivered > 60, "{apart:?}");
    // Each of them lacks all that the other one got.
    assert_eq!(run(&setup).delivered, 2 * apart.delivered);
}

#[test]
fn what_few_nodes_have_goes_before_what_many_have() {
    // Nodes 1 to 4 bring the first film to each other; node 5 comes with another one.
    let mut meetings: Vec<Meeting> = (1..5).map(|n| meet(0, n, 10, 300)).collect();
    meetings.extend((1..5).flat_map(|a| (a + 1..5).map(move |b| meet(a, b, 400, 500))));
    meetings.extend([meet(1, 5, 600, 700), meet(1, 6, 800, 810)]);
    let outcome = run(&setup(7, vec![film(0, 60), film(5, 60)], meetings));
    let newcomer = &outcome.reached[12..14];
    assert!(newcomer[1] > 25 && newcomer[0] <= 1, "{newcomer:?}");
}

#[test]
fn short_meetings_carry_nearly_what_they_would_if_all_knew_what_is_rarest() {
    // Worlds that are too short for everything to arrive. Without an order of its own, or where
    // parts of segments go before whole ones, the relay is far behind plain epidemic routing here.
    for (seed, hours) in [(1, 8.0), (2, 8.0), (1, 3.0), (2, 3.0)] {
        let mut options = Options::films();
        (options.seed, options.made.nodes) = (seed, 60);
        options.made.seconds = hours * 3600.0;
        let report = report::run(&options).unwrap();
        let (relay, rarest) = (report.relay.delivered, report.rarest.unwrap().delivered);
        assert!(relay * 100 >= rarest * 99, "{relay} of {rarest}");
        assert!(relay >= report.epidemic.unwrap().delivered);
    }
}

#[test]
fn what_lies_ahead_of_each_viewer_comes_first() {
    let mut setup = setup(2, vec![film(0, 100)], vec![meet(1, 0, 5, 15)]);
    let view = |sequence, at| View {
        at: Time::from_seconds(at),
        node: 1,
        content: 0,
        sequence,
    };
    // One viewer seeks to segment 40, one to 80; the first of them goes on while they come.
    setup.views = vec![view(40, 4), view(80, 4), view(41, 6), view(42, 8)];
    let mut world = World::new(setup);
    world.go();
    let here = &world.nodes[1].held[&0].here;
    let [first, second] = here.runs() else {
        panic!("{here:?}");
    };
    assert_eq!((first.start, second.start), (40, 80));
    assert!(first.count() >= 13 && second.count() >= 13, "{here:?}");
}

#[test]
fn what_lies_before_all_viewers_comes_last() {
    let mut setup = setup(2, vec![film(0, 30)], vec![meet(1, 0, 5, 100)]);
    setup.views = vec![View {
        at: Time::from_seconds(4),
        node: 1,
        content: 0,
        sequence: 20,
    }];
    assert_eq!(run(&setup).delivered, 30);
    setup.meetings[0].to = Time::from_seconds(10);
    let mut world = World::new(setup);
    world.go();
    let runs = world.nodes[1].held[&0].here.runs().to_vec();
    assert_eq!((runs[0].start, runs[1].start, runs[1].end), (0, 20, 30));
}

#[test]
fn a_damaged_segment_comes_again() {
    let mut setup = setup(2, vec![film(0, 100)], vec![meet(0, 1, 5, 5000)]);
    setup.rate = None;
    setup.faults.torn = 40;
    setup.end = Time::from_seconds(5000);
    let outcome = run(&setup);
    assert_eq!(outcome.delivered, 100);
    assert!(outcome.payload_bytes > 100 * 300_000, "none was damaged");
    assert_eq!(outcome.reached[1], 100);
}

#[test]
fn what_the_store_cannot_take_now_is_fetched_later() {
    let specs = (0..20).map(|_| film(0, 5)).collect();
    let mut setup = setup(2, specs, vec![meet(0, 1, 5, 5000)]);
    setup.faults.failures = 300;
    let outcome = run(&setup);
    assert_eq!(outcome.delivered, 100, "{:?}", outcome.closed);
}

#[test]
fn room_is_made_for_new_contents_when_old_ones_are_gone() {
    let specs = (0..45_000u64).map(|n| Spec {
        created: Time::from_seconds(10 + n / 10),
        ttl: Duration::from_secs(30),
        length: 1000,
        ..film(0, 1)
    });
    let mut setup = setup(2, specs.collect(), vec![meet(0, 1, 5, 9000)]);
    setup.rate = None;
    let outcome = run(&setup);
    assert_eq!(outcome.delivered, 45_000, "{:?}", outcome.closed);
}

fn random_meetings(random: &mut Random, nodes: u64, count: u64, seconds: u64) -> Vec<Meeting> {
    let meetings = (0..count).map(|_| {
        let (a, b) = (random.below(nodes), random.below(nodes - 1));
        let b = if b >= a { b + 1 } else { b };
        let from = random.below(seconds);
        meet(a as u32, b as u32, from, from + 1 + random.below(60))
    });
    meetings.collect()
}

/// 200 nodes with everything that can go wrong.
fn troubled(seed: u64) -> Setup {
    let mut random = Random::new(seed);
    let specs = (0..20)
        .map(|_| {
            let mut spec = film(random.below(200) as u32, 1 + random.below(30));
            spec.priority = Priority::ALL[random.below(3) as usize];
            spec.created = Time::from_seconds(random.below(1500));
            spec.length = 20_000 + random.below(400_000);
            if random.below(2) == 0 {
                spec.every = Duration::from_secs(2);
            }
            spec
        })
        .collect();
    let meetings = random_meetings(&mut random, 200, 4000, 5000);
    let mut setup = setup(200, specs, meetings);
    setup.seed = seed;
    setup.capacity = Some(20_000_000);
    setup.end = Time::from_seconds(5000);
    setup.faults = Faults {
        lies: 100,
        liars: 10,
        crashes: 100,
        clocks: Duration::from_secs(100),
        failures: 5,
        torn: 50,
        until: None,
    };
    setup
}

#[test]
fn a_troubled_world_stays_right_and_repeats_itself() {
    for seed in [7, 8, 9] {
        let setup = troubled(seed);
        let outcome = run(&setup);
        assert!(outcome.delivered > 1000, "seed {seed}: {outcome:?}");
        assert_eq!(run(&setup), outcome, "seed {seed}");
    }
}

#[test]
fn after_the_trouble_everything_arrives_everywhere() {
    for seed in [1, 2, 3] {
        let mut random = Random::new(seed);
        let nodes = 40;
        let mut setup = troubled(seed);
        // Every tenth node publishes; those after them lie.
        let specs = (0..10u32).map(|n| Spec {
            publisher: n % 4 * 10,
            priority: Priority::ALL[n as usize % 3],
            length: 20_000 + random.below(400_000),
            ..film(0, 1 + random.below(30))
        });
        setup.universe = Universe::new(specs.collect());
        setup.nodes = nodes;
        setup.capacity = None;
        setup.meetings = random_meetings(&mut random, nodes.into(), 800, 5000);
        // Then node 0 meets all others, one after another, three times.
        for round in 0..3 {
            let begin = 6000 + round * 10_000;
            let each = |n| {
                meet(
                    0,
                    n,
                    begin + u64::from(n) * 200,
                    begin + u64::from(n) * 200 + 190,
                )
            };
            setup.meetings.extend((1..nodes).map(each));
        }
        setup.end = Time::from_seconds(36_000);
        setup.faults.until = Some(Time::from_seconds(5500));
        let outcome = run(&setup);
        let whole: Vec<u32> = setup
            .universe
            .specs
            .iter()
            .map(|spec| spec.segments as u32)
            .collect();
        for (node, reached) in outcome.reached.chunks(whole.len()).enumerate() {
            assert_eq!(reached, whole, "seed {seed}, node {node}");
        }
    }
}

#[test]
fn without_limits_everything_arrives_that_can() {
    let report = report::run(&Options {
        rate: None,
        compare: false,
        ..Options::default()
    })
    .unwrap();
    let (delivered, reachable) = (report.relay.delivered, report.oracle.0);
    assert!(reachable > 50_000, "{reachable}");
    assert!(
        delivered * 1000 >= reachable * 999,
        "{delivered} of {reachable}"
    );
}

#[test]
fn small_buffers_and_short_meetings_are_used_better_than_by_plain_epidemic() {
    let mut options = Options {
        buffer: Some(10),
        ..Options::default()
    };
    (options.made.length, options.made.hourly) = (10.0, 10.0);
    let report = report::run(&options).unwrap();
    let (relay, epidemic) = (report.relay, report.epidemic.unwrap());
    assert!(
        relay.delivered * 2 >= epidemic.delivered * 3,
        "{} against {}",
        relay.delivered,
        epidemic.delivered
    );
}

#[test]
fn a_link_that_takes_time_to_come_up_carries_less() {
    let meetings = vec![meet(0, 1, 5, 15), meet(0, 1, 20, 21)];
    let names = vec!["a".into(), "b".into()];
    let options = Options {
        trace: Some(Trace { meetings, names }),
        contents: 1,
        segments: 1000,
        publish_until: 0,
        compare: false,
        ..Options::default()
    };
    let carried = |millis| {
        let link_up = Duration::from_millis(millis);
        let report = report::run(&Options {
            link_up,
            ..options.clone()
        })
        .unwrap();
        (report.meetings, report.relay.payload_bytes)
    };
    let ((all, most), (less, some)) = (carried(0), carried(1000));
    assert_eq!((all, less), (2, 1));
    // Eleven seconds, then nine.
    let part = some as f64 / most as f64;
    assert!((0.80..0.84).contains(&part), "{part}");
}

fn message(from: u32, to: u32) -> Spec {
    Spec {
        to: Some(to),
        segments: 1,
        ..film(from, 1)
    }
}

#[test]
fn a_message_is_carried_until_it_has_arrived_and_no_further() {
    let meetings = vec![
        meet(0, 1, 10, 40),
        meet(1, 2, 50, 80),
        // The one that carried it and the one that sent it learn that it has arrived.
        meet(0, 1, 90, 120),
        meet(0, 3, 130, 160),
        meet(1, 3, 170, 200),
    ];
    let mut setup = setup(4, Vec::new(), meetings);
    setup.universe = Universe::addressed(vec![message(0, 2)], 4);
    let outcome = World::new(setup).run();
    assert_eq!(outcome.delivered, 1);
    assert_eq!(outcome.reached, [1, 1, 1, 0]);
}

#[test]
fn copies_are_kept_when_a_meeting_is_too_short_for_them() {
    // Half a second is not enough for 300 kB at 250 kB a second.
    let mut meetings = vec![meet(0, 1, 10, 11), meet(0, 2, 20, 40), meet(2, 3, 50, 70)];
    meetings[0].to = meetings[0].from.after(Duration::from_millis(500));
    let mut setup = setup(4, Vec::new(), meetings);
    setup.rate = Some(250_000);
    setup.config.copies = [2; 3];
    setup.universe = Universe::addressed(vec![message(0, 3)], 4);
    let outcome = World::new(setup).run();
    assert_eq!(outcome.delivered, 1);
}

#[test]
fn one_air_carries_one_thing_at_a_time() {
    let meetings = vec![meet(0, 1, 10, 20), meet(0, 2, 10, 20)];
    let films = || vec![film(1, 100), film(2, 100)];
    let mut apart = setup(3, films(), meetings);
    apart.rate = Some(250_000);
    let [apart, shared] = [Share::Nothing, Share::Air].map(|share| {
        let setup = Setup {
            share,
            ..apart.clone()
        };
        World::new(setup).run().payload_bytes
    });
    // 10 s at 250 kB/s; apart, each of two directions to node 0 has that.
    assert!(apart > 3_000_000, "{apart}");
    assert!((1_500_000..2_500_000).contains(&shared), "{shared}");
}

#[test]
fn a_full_store_fetches_nothing_that_it_would_let_go_first() {
    let mut setup = setup(3, Vec::new(), vec![meet(0, 1, 10, 1000)]);
    setup.universe = Universe::addressed(vec![message(0, 2); 10], 3);
    setup.capacities.insert(1, 400_000);
    let outcome = World::new(setup).run();
    // One for which there was room, one by which it became known that there is no more, and what
    // had been asked for by then.
    assert_eq!(outcome.reached.iter().skip(10).take(10).sum::<u32>(), 1);
    assert!(outcome.payload_bytes <= 3 * 311_296, "{outcome:?}");
}
