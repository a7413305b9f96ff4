//! What a store says and does on a disk that is slow, cannot be read now and then, or cannot be
//! written from some moment on.

use std::io::ErrorKind;
use std::time::Duration;

use super::super::disk::simulated::{Faults, Simulated};
use super::*;

fn store_on(change: impl FnOnce(&mut Settings)) -> (Simulated, Store) {
    let clock = Clock::manual(START);
    let disk = Simulated::new(clock.clone(), 1);
    let mut settings = Settings::new(Path::new("/data/store"));
    settings.clock = clock;
    settings.disk = disk.disk();
    settings.min_free = 0;
    change(&mut settings);
    (disk, Store::open(settings, key(1)).unwrap())
}

fn find(store: &Store, content_id: &str) -> Option<Arc<Content>> {
    let catalog = store.catalog();
    catalog.find(None, &id(content_id), None).cloned()
}

#[test]
fn on_a_slow_disk_those_who_write_at_a_time_share_its_flushes() {
    const WRITERS: u64 = 32;
    let (disk, store) = store_on(|_| {});
    store.append(vod("film", 0)).unwrap();
    let before = disk.flushes();
    store.append(vod("film", 1)).unwrap();
    let alone = disk.flushes() - before;
    disk.set_faults(Faults {
        slow: Duration::from_millis(20),
        ..Faults::default()
    });
    let before = disk.flushes();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = store.clone();
            scope.spawn(move || store.append(vod(&format!("c{writer}"), 0)).unwrap());
        }
    });
    let together = disk.flushes() - before;
    // Each has a file of its own; what comes after that they share.
    let shared = together - WRITERS;
    let apart = WRITERS * (alone - 1);
    assert!(
        shared < apart / 2,
        "{shared} flushes, {apart} if they did not"
    );
    assert_eq!(store.catalog().len() as u64, 1 + WRITERS);
    assert_eq!((store.disk_fault(), store.warnings()), (None, Vec::new()));
}

#[test]
fn who_reads_does_not_wait_for_the_flush_of_who_writes() {
    let (disk, store) = store_on(|_| {});
    store.append(vod("film", 0)).unwrap();
    disk.set_faults(Faults {
        slow: Duration::from_millis(100),
        ..Faults::default()
    });
    let writing = store.clone();
    let writer = std::thread::spawn(move || writing.append(vod("film", 1)).unwrap());
    let film = find(&store, "film").unwrap();
    let mut reads = 0;
    while !writer.is_finished() {
        assert!(read(&store, &film, 0, Kind::Media, 0).is_some());
        reads += 1;
    }
    writer.join().unwrap();
    assert!(reads > 10, "{reads} reads beside one write");
}

#[test]
fn a_disk_that_turns_read_only_is_told_of_and_what_is_there_is_served() {
    let (disk, store) = store_on(|_| {});
    store.append(vod("film", 0)).unwrap();
    let film = find(&store, "film").unwrap();
    assert_eq!(store.disk_fault(), None);
    disk.set_faults(Faults {
        read_only: true,
        ..Faults::default()
    });
    for refused in [
        store.append(vod("film", 1)).map(drop),
        store.remove(&film).map(drop),
        store.pin(film.no, true),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(
            error.io_kind(),
            Some(ErrorKind::ReadOnlyFilesystem),
            "{error}"
        );
        assert!(error.is_read_only() && error.to_string().starts_with("the store is read-only"));
    }
    assert!(read(&store, &film, 0, Kind::Media, 0).is_some());
    assert!(!find(&store, "film").unwrap().pinned);
    store.recheck_disk();
    let fault = store.disk_fault().unwrap();
    assert!(
        fault.contains("cannot be written: the store is read-only"),
        "{fault}"
    );
    // It can be written again, and nobody has to write for that to be seen.
    disk.set_faults(Faults::default());
    store.recheck_disk();
    assert_eq!(store.disk_fault(), None);
    store.append(vod("film", 1)).unwrap();
}

#[test]
fn a_disk_that_fails_to_flush_is_told_of_until_it_does() {
    let (disk, store) = store_on(|_| {});
    store.append(vod("film", 0)).unwrap();
    disk.set_faults(Faults {
        flush: 1000,
        ..Faults::default()
    });
    let error = store.append(vod("film", 1)).unwrap_err();
    assert!(
        error.io_kind().is_some() && !error.is_read_only(),
        "{error}"
    );
    let fault = store.disk_fault().unwrap();
    assert!(fault.contains("could not write a segment"), "{fault}");
    disk.set_faults(Faults::default());
    store.append(vod("film", 1)).unwrap();
    assert_eq!(store.disk_fault(), None);
}

#[test]
fn a_disk_that_cannot_be_read_now_and_then_gives_an_error_or_the_right_bytes() {
    let (disk, store) = store_on(|_| {});
    for sequence in 0..20 {
        store.append(vod("film", sequence)).unwrap();
    }
    let film = find(&store, "film").unwrap();
    disk.set_faults(Faults {
        read: 100,
        ..Faults::default()
    });
    let mut failed = 0;
    for sequence in (0..20).cycle().take(100) {
        let read = store.segment(&film, 0, Kind::Media, sequence);
        match read.and_then(|found| found.map(|it| store.read_verified(&it)).transpose()) {
            Ok(Some(bytes)) => assert_eq!(bytes, vod("film", sequence).payload),
            Ok(None) => {}
            Err(error) => {
                let told = matches!(error, StoreError::NotFound(_)) || error.io_kind().is_some();
                assert!(told, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    disk.set_faults(Faults::default());
    store.recheck_disk();
    assert_eq!(store.disk_fault(), None);
    // What was dropped is a gap; all else is there.
    let film = find(&store, "film").unwrap();
    let report = store.check(|_, _| true).unwrap();
    assert_eq!((report.intact, report.dropped), (film.segment_count(), 0));
}

#[test]
fn on_a_disk_that_is_full_to_the_last_byte_something_can_be_removed() {
    for kept in [false, true] {
        let (disk, store) = store_on(|_| {});
        for sequence in 0..60 {
            store.append(vod("film", sequence)).unwrap();
        }
        if kept {
            store.keep_reserve();
        }
        // Others have taken all the rest.
        let full = Faults {
            room: Some(disk.taken()),
            ..Faults::default()
        };
        disk.set_faults(full);
        while store.append(vod("other", 0)).is_ok() {}
        let refused = store.append(vod("film", 60)).unwrap_err();
        assert!(refused.is_disk_full(), "{refused}");
        let film = find(&store, "film").unwrap();
        let removed = store.remove(&film);
        assert_eq!(removed.is_ok(), kept, "{removed:?}");
        if !kept {
            assert!(find(&store, "film").is_some());
            continue;
        }
        // All of it goes, one commit after the other, and there is room for something else.
        while store.stats().bytes > 0 {
            store.write(|_| Ok(())).unwrap();
        }
        for sequence in 0..20 {
            store.append(vod("next", sequence)).unwrap();
        }
    }
}

#[test]
fn room_for_removals_is_kept_by_large_stores_alone_and_made_again() {
    let (disk, store) = store_on(|_| {});
    let reserve = || {
        disk.files_of(Path::new("/data/store/reserve"))
            .into_values()
            .next()
    };
    store.append(vod("film", 0)).unwrap();
    store.keep_reserve();
    assert_eq!(reserve(), None);
    for sequence in 1..40 {
        store.append(vod("film", sequence)).unwrap();
    }
    store.keep_reserve();
    let kept = reserve().unwrap().len() as u64;
    assert!(kept > 0 && kept <= store.stats().bytes);
    assert!(store.shared.spend_reserve() && reserve().is_none());
    disk.set_faults(Faults {
        room: Some(disk.taken() + kept),
        ..Faults::default()
    });
    store.keep_reserve();
    assert_eq!(reserve(), None, "the little that is free is left to others");
    disk.set_faults(Faults::default());
    store.keep_reserve();
    assert!(reserve().is_some());
    store.remove(&find(&store, "film").unwrap()).unwrap();
    while store.stats().bytes > 0 {
        store.write(|_| Ok(())).unwrap();
    }
    store.keep_reserve();
    assert_eq!(reserve(), None);
}
