//! Own before trusted before strangers: for room, for names, and whatever a date claims.

use std::time::Duration;

use lavant_proto::ids::PublisherKey;
use redb::ReadableTable;

use super::super::{Disk, Space};
use super::admit::said;
use super::partial::{pass_all, signed};
use super::shares::{count_of, present, store_of, stranger, take};
use super::*;

/// 1 July 2026, when clocks are set.
const SUMMER: Time = Time::from_seconds(1_782_864_000);

fn trusting(publishers: &[PublisherKey]) -> impl FnOnce(&mut Settings) + '_ {
    |settings| settings.trusted = publishers.iter().copied().collect()
}

#[test]
fn nobody_evicts_what_has_a_higher_standing() {
    let (unknown, _unknown) = stranger(7);
    let (friend, _friend) = stranger(8);
    let friends = [friend.publisher()];
    let bench = store_of(6, trusting(&friends));
    for sequence in 0..2 {
        bench.store().append(vod("own", sequence)).unwrap();
        take(&friend, bench.store(), vod("friend", sequence)).unwrap();
        take(&unknown, bench.store(), vod("spam", sequence)).unwrap();
    }
    let counts = || {
        [
            unknown.publisher(),
            friend.publisher(),
            bench.store().publisher(),
        ]
        .map(|publisher| count_of(bench.store(), publisher))
    };
    assert_eq!(counts(), [2, 2, 2]);
    let large = NewSegment {
        payload: bytes(3, 50_000),
        ..live("large", 0)
    };
    assert!(take(&unknown, bench.store(), large.clone()).is_err());
    assert_eq!(counts(), [2, 2, 2], "a refusal changes nothing");
    take(&unknown, bench.store(), live("urgent", 0)).unwrap();
    assert_eq!(counts(), [2, 2, 2]);
    take(&friend, bench.store(), vod("friend", 2)).unwrap();
    take(&friend, bench.store(), vod("friend", 3)).unwrap();
    assert_eq!(counts(), [0, 4, 2]);
    take(&friend, bench.store(), vod("friend", 4)).unwrap();
    assert_eq!(counts(), [0, 4, 2]);
    for sequence in 2..6 {
        bench.store().append(vod("own", sequence)).unwrap();
        assert_eq!(counts()[2], sequence + 1);
    }
    assert_eq!(counts(), [0, 0, 6]);
    assert!(take(&friend, bench.store(), live("friendly", 0)).is_err());
    assert_eq!(counts(), [0, 0, 6]);
}

#[test]
fn all_strangers_together_have_one_share() {
    let bench = store_of(20, |settings| {
        settings.publisher_share = Some(50);
        settings.strangers_share = Some(80);
    });
    let unknown: Vec<_> = (7..11).map(stranger).collect();
    for n in 0..12 {
        for (no, (from, _folder)) in unknown.iter().enumerate() {
            take(from, bench.store(), vod(&format!("spam{n}-{no}"), 0)).unwrap();
        }
    }
    let of = |(store, _): &(Store, TempDir)| count_of(bench.store(), store.publisher());
    assert_eq!(unknown.iter().map(of).sum::<u64>(), 16);
    assert_eq!(bench.store().stats().bytes, 16 * size(20_000));
}

#[test]
fn without_a_limit_strangers_leave_room_on_the_disk_and_own_content_is_not_limited() {
    let unit = size(20_000);
    let mut bench = Bench::with(|settings| {
        settings.disk_share = Some(80);
        settings.strangers_share = Some(100);
        settings.min_free = 2 * unit;
        settings.disk = Disk::manual(Space {
            free: 20 * unit,
            total: 20 * unit,
        });
    });
    assert_eq!(bench.store().stats().limit, Some(16 * unit));
    let (unknown, _folder) = stranger(7);
    for n in 0..20 {
        take(&unknown, bench.store(), vod(&format!("spam{n}"), 0)).unwrap();
    }
    assert_eq!(count_of(bench.store(), unknown.publisher()), 16);
    for sequence in 0..18 {
        bench.store().append(vod("own", sequence)).unwrap();
    }
    assert_eq!(count_of(bench.store(), unknown.publisher()), 0);
    assert_eq!(
        present(&bench, "own").len(),
        18,
        "beyond it, but it is the operator's"
    );
    let disk = bench.settings.disk.clone();
    let room = |free| {
        disk.set(Space {
            free,
            total: 20 * unit,
        })
    };
    room(4 * unit);
    let refused = take(&unknown, bench.store(), vod("late", 0)).unwrap_err();
    assert!(
        refused.to_string().starts_with("the disk that holds"),
        "{refused}"
    );
    bench.store().append(vod("own", 18)).unwrap();
    room(2 * unit);
    assert!(bench.store().append(vod("own", 19)).is_err());
    bench.reopen();
    let held = bench.store().stats().bytes;
    assert_eq!(
        bench.store().stats().limit,
        Some(held + 2 * unit * 80 / 100)
    );
}

#[test]
fn a_strangers_look_alike_keeps_nobodys_name_and_a_plain_id_is_the_operators() {
    let (unknown, _unknown) = stranger(7);
    let (friend, _friend) = stranger(8);
    let friends = [friend.publisher()];
    let bench = Bench::with(trusting(&friends));
    take(&unknown, bench.store(), vod("real-film", 0)).unwrap();
    take(&unknown, bench.store(), vod("news", 0)).unwrap();
    take(&friend, bench.store(), vod("real_film", 0)).unwrap();
    bench.store().append(vod("REALFILM", 0)).unwrap_err();
    let (elsewhere, _elsewhere) = stranger(7);
    let text = take(&elsewhere, bench.store(), vod("RealFilm", 0)).unwrap_err();
    assert!(text.to_string().contains("looks like"), "{text}");
    let plain = |id: &str| bench.content(id).key.publisher;
    assert_eq!(plain("news"), unknown.publisher());
    take(&friend, bench.store(), vod("news", 0)).unwrap();
    assert_eq!(plain("news"), friend.publisher());
    bench.store().append(vod("news", 0)).unwrap();
    assert_eq!(plain("news"), bench.store().publisher());
    take(&unknown, bench.store(), vod("harbour", 0)).unwrap();
    bench.store().append(vod("har-bour", 0)).unwrap();
}

#[test]
fn what_is_dated_far_ahead_is_refused_at_every_door() {
    let (unknown, _folder) = stranger(7);
    let bench = Bench::new();
    bench.clock.set(SUMMER);
    let ahead = SUMMER.after(Duration::from_secs(3 * 86_400));
    unknown.settings().clock.set(ahead);
    let (record, ..) = signed(&unknown, vod("future", 0));
    let text = bench.store().partial_of(&record).unwrap_err().to_string();
    assert!(
        text.contains("is dated 3 days ahead of the clock"),
        "{text}"
    );
    let text = take_anyway(&unknown, &bench, vod("future", 1));
    assert!(
        text.contains("is dated 3 days ahead of the clock"),
        "{text}"
    );
    publish(&unknown, "Film", 1, 1).unwrap();
    let catalog = unknown.catalog();
    let (manifest, records) = said(&unknown, catalog.find(None, &id("film"), None).unwrap());
    let text = bench
        .store()
        .admit(manifest, records)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("is dated 3 days ahead of the clock"),
        "{text}"
    );
    bench.clock.set(ahead);
    bench.store().append(vod("own", 0)).unwrap();
    bench.clock.set(SUMMER);
    let text = bench.store().append(vod("own", 1)).unwrap_err().to_string();
    assert!(text.contains("set the clocks right"), "{text}");
    assert!(bench.store().append(vod("other", 0)).unwrap());
}

/// Adopts what the first door would have refused.
fn take_anyway(from: &Store, to: &Bench, new: NewSegment) -> String {
    let (record, proof, root, length) = signed(from, new);
    pass_all(from, to.store(), &root, length);
    let adopted = to.store().adopt(record, proof, None, Shown::default());
    adopted.unwrap_err().to_string()
}

#[test]
fn a_date_a_little_ahead_does_not_make_a_segment_stay_longer_than_others() {
    let (sly, _sly) = stranger(7);
    let (unknown, _unknown) = stranger(8);
    let bench = store_of(2, |_| {});
    bench.clock.set(SUMMER);
    sly.settings()
        .clock
        .set(SUMMER.after(Duration::from_secs(80_000)));
    take(&sly, bench.store(), vod("sly", 0)).unwrap();
    let later = SUMMER.after(Duration::from_secs(60));
    for clock in [&bench.clock, &unknown.settings().clock] {
        clock.set(later);
    }
    take(&unknown, bench.store(), vod("honest", 0)).unwrap();
    take(&unknown, bench.store(), vod("honest", 1)).unwrap();
    assert_eq!(present(&bench, "honest"), [0, 1]);
    assert_eq!(count_of(bench.store(), sly.publisher()), 0);
}

/// Writes the queues of a store as programs did that knew no standing, and dates a content far
/// ahead.
fn make_old(bench: &Bench, dated: &str) {
    let no = bench.content(dated).no;
    let made = bench.store().write(move |tx| {
        for (key, row) in tx.rows(no, None)? {
            let content = tx.content(no)?;
            let dated = super::super::SegmentRow {
                created: Time(u64::MAX),
                ..row.clone()
            };
            tx.revise(&content, key, (&row, &dated))?;
            tx.put_content(Content {
                expires: Time::MAX,
                ..content
            })?;
        }
        let tables = tx.tables_mut();
        let keys: Result<Vec<Vec<u8>>, _> = tables
            .eviction
            .iter()?
            .map(|entry| entry.map(|(key, _)| key.value().to_vec()))
            .collect();
        for mut key in keys? {
            tables.eviction.remove(key.as_slice())?;
            key[0] %= 8;
            tables.eviction.insert(key.as_slice(), ())?;
        }
        tables.meta.remove("queues")?;
        Ok(())
    });
    made.unwrap();
}

#[test]
fn the_queues_of_an_older_store_are_made_again_and_dates_mended() {
    let (unknown, _unknown) = stranger(7);
    let mut bench = store_of(4, |_| {});
    bench.clock.set(SUMMER);
    unknown.settings().clock.set(SUMMER);
    bench.store().append(vod("own", 0)).unwrap();
    take(&unknown, bench.store(), vod("spam", 0)).unwrap();
    take(&unknown, bench.store(), vod("future", 0)).unwrap();
    make_old(&bench, "future");
    bench.reopen();
    bench.store().append(vod("own", 1)).unwrap();
    assert_eq!(present(&bench, "own"), [0, 1]);
    bench.store().append(vod("own", 2)).unwrap();
    assert_eq!(
        present(&bench, "own"),
        [0, 1, 2],
        "a stranger's goes before it"
    );
    assert_eq!(count_of(bench.store(), unknown.publisher()), 1);
    assert_eq!(bench.playlist("future"), [(0, true)], "it came last");
    bench
        .clock
        .set(SUMMER.after(Duration::from_secs(30 * 86_400)));
    bench.store().append(vod("tick", 0)).unwrap();
    assert!(bench.find("future").is_none());
}

#[test]
fn another_choice_of_whom_to_trust_moves_what_is_here() {
    let (one, _one) = stranger(7);
    let (two, _two) = stranger(8);
    let mut bench = store_of(2, |_| {});
    take(&one, bench.store(), vod("one", 0)).unwrap();
    bench.at(5);
    two.settings()
        .clock
        .set(Time::from_seconds(START.seconds() + 5));
    take(&two, bench.store(), vod("two", 0)).unwrap();
    bench.settings.trusted = [one.publisher()].into();
    bench.reopen();
    bench.store().append(vod("own", 0)).unwrap();
    assert_eq!(present(&bench, "one"), [0]);
    assert_eq!(count_of(bench.store(), two.publisher()), 0);
}

#[test]
fn only_the_owner_can_read_a_new_store_and_an_open_one_is_told_of() {
    let mut bench = Bench::new();
    let folder = bench.path().join("deep/store");
    let store = Store::open(Settings::new(&folder), key(1)).unwrap();
    store.append(vod("film", 0)).unwrap();
    store.finish(&id("film")).unwrap();
    let catalog = store.catalog();
    let content = catalog.find(None, &id("film"), None).unwrap();
    store.pin(content.no, true).unwrap();
    let partial = store.partial(&content_root(), 99, Priority::Vod, Time::MAX);
    partial.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [&folder, &folder.join("segments"), &folder.join("partial")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    let all = files(&folder);
    assert!(all.len() >= 6, "{all:?}");
    for file in all {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(store.warnings(), [""; 0]);
    bench.close();
    std::fs::set_permissions(bench.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    bench.reopen();
    let text = bench.store().warnings().join("");
    assert!(
        text.contains("can be read by other users (mode 755)"),
        "{text}"
    );
    assert_eq!(
        mode(bench.path()),
        0o755,
        "that is the operator's to change"
    );
}

fn content_root() -> lavant_proto::ids::Root {
    lavant_proto::ids::Root([5; 32])
}
