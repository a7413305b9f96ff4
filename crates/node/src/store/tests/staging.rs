//! Room for what arrives in pieces: announcing takes nothing, and what came counts exactly.

use std::sync::atomic::Ordering;

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::verify::group_count;

use super::super::Partial;
use super::partial::{pass, run, signed, try_pass};
use super::random::Random;
use super::shares::{present, store_of, stranger};
use super::*;

/// A segment of another node, large enough for many chunk groups.
fn large(from: &Store, name: &str, seed: u64, length: usize) -> (Verified<SegmentRecord>, Proof) {
    let new = NewSegment {
        payload: bytes(seed, length),
        priority: Priority::Live,
        ..vod(name, 0)
    };
    let (record, proof, ..) = signed(from, new);
    (record, proof)
}

fn staged(bench: &Bench) -> u64 {
    bench.store().shared.staged.load(Ordering::Acquire)
}

#[test]
fn records_without_payload_take_nothing_of_anybody() {
    let (unknown, _folder) = stranger(7);
    let bench = store_of(12, |_| {});
    for sequence in 0..7 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    let mut open = Vec::new();
    for n in 0..8 {
        let (record, _) = large(&unknown, &format!("spam{n}"), n, 90_000);
        open.extend(bench.store().partial_of(&record));
    }
    assert_eq!(open.len(), 8, "each of them would fit");
    assert_eq!((present(&bench, "film").len(), staged(&bench)), (7, 0));
    bench.store().append(vod("film", 7)).unwrap();
    assert_eq!(present(&bench, "film").len(), 8);
}

#[test]
fn what_comes_takes_room_step_by_step_and_no_more_than_there_is() {
    let (unknown, _folder) = stranger(7);
    let mut bench = store_of(150, |_| {});
    let (record, proof) = large(&unknown, "big", 1, 2_900_000);
    let (root, length) = (record.root, record.length);
    drop(bench.store().partial_of(&record).unwrap());
    let mut before = 0;
    for group in 0..group_count(length) {
        pass(
            &unknown,
            bench.store(),
            &root,
            length,
            run(group, group + 1),
        );
        let came = (group + 1) * 17 * 1024;
        assert!(staged(&bench) <= 2 * came, "{} for {came}", staged(&bench));
        assert!(staged(&bench) >= before);
        before = staged(&bench);
    }
    assert_eq!(before, size(length));
    bench.reopen();
    assert!(staged(&bench) <= size(length));
    assert!(
        bench
            .store()
            .adopt(record, proof, None, Shown::default())
            .unwrap()
    );
    assert_eq!(
        (staged(&bench), bench.store().stats().bytes),
        (0, size(length))
    );
}

#[test]
fn what_gets_no_room_is_refused_while_it_comes_and_can_go_on_later() {
    let (unknown, _folder) = stranger(7);
    let bench = store_of(10, |_| {});
    let (record, proof) = large(&unknown, "big", 1, 150_000);
    let partial: Arc<Partial> = bench.store().partial_of(&record).unwrap();
    for sequence in 0..9 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    let all = run(0, group_count(record.length));
    let refused = try_pass(&unknown, &partial, all);
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("nothing that may go would make room"),
        "{text}"
    );
    assert_eq!((present(&bench, "film").len(), staged(&bench)), (9, 0));
    bench.store().remove(&bench.content("film")).unwrap();
    try_pass(&unknown, &partial, all).unwrap();
    assert!(
        bench
            .store()
            .adopt(record, proof, None, Shown::default())
            .unwrap()
    );
}

#[test]
fn any_order_of_arrivals_is_counted_exactly() {
    let (unknown, _unknown) = stranger(7);
    let (friend, _friend) = stranger(8);
    let mut bench = store_of(40, |settings| {
        settings.trusted = [key(8).publisher()].into();
        settings.publisher_share = Some(50);
        settings.strangers_share = Some(60);
    });
    let mut random = Random(11);
    let mut coming = Vec::new();
    for n in 0..12 {
        let from = if n % 3 == 0 { &friend } else { &unknown };
        let length = 20_000 + 17_001 * n as usize;
        let said = large(from, &format!("c{n}"), n, length);
        coming.push((from, said.0, said.1));
    }
    let limit = bench.settings.limit.unwrap();
    let mut open = Vec::new();
    let (mut own, mut restarts) = (0, 0);
    for _ in 0..400 {
        let (from, record, proof) = &coming[random.below(12) as usize];
        let (root, length) = (record.root, record.length);
        let before = present_of_own(&bench);
        let what = random.below(12);
        match what {
            0..3 => open.extend(bench.store().partial_of(record)),
            3..8 => {
                let first = random.below(group_count(length));
                let groups = run(first, (first + 3).min(group_count(length)));
                if let Ok(partial) = bench.store().partial_of(record) {
                    let _ = try_pass(from, &partial, groups);
                    assert_eq!((*partial.root(), partial.length()), (root, length));
                }
            }
            8 => drop(
                bench
                    .store()
                    .adopt(record.clone(), proof.clone(), None, Shown::default()),
            ),
            9 => open.clear(),
            10 => {
                bench.store().append(vod("own", own)).unwrap();
                own += 1;
            }
            _ => {
                open.clear();
                bench.reopen();
                restarts += 1;
            }
        }
        assert!(
            what == 10 || present_of_own(&bench) == before,
            "own made room"
        );
        let taken = bench.store().stats().bytes + staged(&bench);
        // A file system counts whole blocks, so a start may find more than was counted before.
        let slack = if restarts > 0 { 12 * 16 * 4096 } else { 0 };
        assert!(taken <= limit + slack, "{taken} of {limit}");
        let counted = bench.store().shared.partials.counted();
        assert_eq!(staged(&bench), counted);
    }
    assert!(restarts > 0 && own > 5);
}

fn present_of_own(bench: &Bench) -> usize {
    bench.find("own").map_or(0, |_| present(bench, "own").len())
}

#[test]
fn what_of_a_strangers_waits_for_the_rest_goes_before_anything_of_the_nodes_own() {
    let (unknown, _folder) = stranger(7);
    let bench = store_of(10, |_| {});
    for n in 0..2 {
        let (record, _) = large(&unknown, &format!("spam{n}"), n, 100_000);
        let partial = bench.store().partial_of(&record).unwrap();
        try_pass(&unknown, &partial, run(0, 4)).unwrap();
    }
    assert!(staged(&bench) > 0);
    for sequence in 0..10 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    assert_eq!((present(&bench, "film").len(), staged(&bench)), (10, 0));
}
