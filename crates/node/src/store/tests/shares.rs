//! What priorities and publishers may take of a store.

use lavant_proto::content::Proof;
use lavant_proto::ids::PublisherKey;

use super::partial::{pass_all, signed};
use super::*;

/// A store for so many segments.
pub(super) fn store_of(segments: u64, change: impl FnOnce(&mut Settings)) -> Bench {
    Bench::with(|settings| {
        settings.limit = Some(size(20_000) * segments);
        change(settings);
    })
}

pub(super) fn present(bench: &Bench, name: &str) -> Vec<u64> {
    let rows = bench.playlist(name).into_iter();
    rows.filter(|(_, here)| *here).map(|(n, _)| n).collect()
}

#[test]
fn a_stream_makes_room_within_its_share_and_films_stay() {
    let mut bench = store_of(20, |_| {});
    for sequence in 0..14 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    for sequence in 0..12 {
        bench.at(sequence);
        bench.store().append(live("cam", sequence)).unwrap();
    }
    assert_eq!(present(&bench, "cam"), [8, 9, 10, 11]);
    assert_eq!(present(&bench, "film").len(), 14);
    let classes = [14 * size(20_000), 0, 4 * size(20_000)];
    assert_eq!(bench.store().catalog().class_bytes(), classes);
    bench.reopen();
    assert_eq!(bench.store().catalog().class_bytes(), classes);
    bench.close();
    std::fs::remove_file(bench.path().join("index.redb")).unwrap();
    bench.reopen();
    assert_eq!(bench.store().catalog().class_bytes(), classes);
    bench.store().remove(&bench.content("film")).unwrap();
    assert_eq!(
        bench.store().catalog().class_bytes(),
        [0, 0, 4 * size(20_000)]
    );
}

#[test]
fn one_segment_may_be_larger_than_its_share() {
    let bench = store_of(4, |_| {});
    bench.store().append(live("cam", 0)).unwrap();
    bench.store().append(live("cam", 1)).unwrap();
    assert_eq!(present(&bench, "cam"), [1]);
}

#[test]
fn a_priority_beyond_its_share_gives_way_before_all_others() {
    let mut bench = store_of(10, |settings| settings.class_share = [100; 3]);
    for sequence in 0..6 {
        bench.store().append(live("cam", sequence)).unwrap();
    }
    for sequence in 0..4 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    // It was within its share when it came, but the operator gave it a smaller one.
    bench.settings.class_share = [100, 30, 20];
    bench.reopen();
    for sequence in 4..8 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    assert_eq!(present(&bench, "cam").len(), 2);
    assert_eq!(present(&bench, "film").len(), 8);
    bench.store().append(vod("film", 8)).unwrap();
    assert_eq!(
        present(&bench, "cam").len(),
        2,
        "no more than what is beyond its share"
    );
}

/// A node of another publisher.
pub(super) fn stranger(seed: u8) -> (Store, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path());
    settings.clock = Clock::manual(START);
    (Store::open(settings, key(seed)).unwrap(), folder)
}

pub(super) fn take(from: &Store, to: &Store, new: NewSegment) -> Result<bool, StoreError> {
    let (record, proof, root, length) = signed(from, new);
    to.partial_of(&record)?;
    pass_all(from, to, &root, length);
    assert!(matches!(proof, Proof::Signature(_)));
    to.adopt(record, proof, None, Shown::default())
}

pub(super) fn count_of(store: &Store, publisher: PublisherKey) -> u64 {
    let catalog = store.catalog();
    let of = catalog.all().filter(|c| c.key.publisher == publisher);
    of.map(|content| content.segment_count()).sum()
}

#[test]
fn a_publisher_that_is_not_trusted_has_its_share_and_hurts_nobody_else() {
    let (unknown, _unknown) = stranger(7);
    let (friend, _friend) = stranger(8);
    let bench = store_of(20, |settings| {
        settings.publisher_share = Some(25);
        settings.trusted = [key(8).publisher()].into();
    });
    for sequence in 0..5 {
        bench.store().append(vod("own", sequence)).unwrap();
        take(&friend, bench.store(), vod("friend", sequence)).unwrap();
    }
    for sequence in 0..9 {
        take(&unknown, bench.store(), vod(&format!("spam{sequence}"), 0)).unwrap();
    }
    assert_eq!(count_of(bench.store(), unknown.publisher()), 5);
    assert_eq!(count_of(bench.store(), friend.publisher()), 5);
    assert_eq!(present(&bench, "own").len(), 5);
    let large = NewSegment {
        payload: bytes(5, 200_000),
        ..vod("large", 0)
    };
    let text = take(&unknown, bench.store(), large)
        .unwrap_err()
        .to_string();
    assert!(text.contains("has reached its share of"), "{text}");
    assert_eq!(count_of(bench.store(), unknown.publisher()), 5);
    for sequence in 5..8 {
        take(&friend, bench.store(), vod("friend", sequence)).unwrap();
    }
    assert_eq!(count_of(bench.store(), friend.publisher()), 8);
}

#[test]
fn what_is_pinned_of_a_stranger_stays_and_counts() {
    let (unknown, _folder) = stranger(7);
    let bench = store_of(20, |settings| settings.publisher_share = Some(10));
    take(&unknown, bench.store(), vod("good", 0)).unwrap();
    take(&unknown, bench.store(), vod("good", 1)).unwrap();
    bench.store().pin(bench.content("good").no, true).unwrap();
    let refused = take(&unknown, bench.store(), vod("more", 0));
    assert!(
        matches!(refused, Err(StoreError::Share { .. })),
        "{refused:?}"
    );
    assert_eq!(present(&bench, "good"), [0, 1]);
}

#[test]
fn strangers_may_not_take_all_places_of_the_catalogue() {
    let (unknown, _folder) = stranger(7);
    let bench = Bench::with(|settings| settings.publisher_share = Some(0));
    let text = take(&unknown, bench.store(), vod("one", 0))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("has 0 contents here, which is its share"),
        "{text}"
    );
    assert!(bench.store().append(vod("one", 0)).unwrap());
}
