//! Single cuts, each where something was lost or left behind.

use super::*;

/// Everything that was done to names stays, as when the system wrote it just before.
const ALL: fn(&Path) -> bool = |_| true;
/// Nothing stays that was not flushed.
const NONE: fn(&Path) -> bool = |_| false;

fn settings(disk: &Simulated) -> Settings {
    let mut settings = Settings::new(Path::new("/data/store"));
    settings.clock = Clock::manual(START);
    settings.disk = disk.disk();
    settings
}

fn open(disk: &Simulated) -> Store {
    Store::open(settings(disk), key(1)).unwrap()
}

/// The same some seconds later.
fn open_later(disk: &Simulated) -> Store {
    let settings = settings(disk);
    settings.clock.set(Time::from_seconds(START.seconds() + 10));
    Store::open(settings, key(1)).unwrap()
}

fn new_disk() -> Simulated {
    Simulated::new(Clock::manual(START), 1)
}

/// A store that was made long ago.
fn old_store() -> (Simulated, Store) {
    let disk = new_disk();
    let store = open(&disk);
    for folder in ["/", "/data", "/data/store"] {
        disk.disk().files.flush_folder(Path::new(folder)).unwrap();
    }
    (disk, store)
}

fn find(store: &Store, id: &str) -> Option<Arc<Content>> {
    let id = super::super::id(id);
    store.catalog().find(None, &id, None).cloned()
}

/// Does something whose power goes with each of its changes in turn, and at its end. Of what was
/// not flushed what `stays` says is left. `then` gets the disk as it is after that, and whether
/// everything had been done.
fn at_every_change(
    prepare: impl Fn(&Store),
    operation: impl Fn(&Store) -> bool,
    stays: fn(&Path) -> bool,
    then: impl Fn(Simulated, bool),
) {
    for changes in 1.. {
        let (disk, store) = old_store();
        prepare(&store);
        disk.end_after(changes);
        // What is answered when the power is gone, nobody hears.
        let done = operation(&store) && !disk.is_off();
        let whole = !disk.is_off();
        disk.turn_off();
        drop(store);
        then(disk.after_cut_that_leaves(stays), done);
        if whole {
            return;
        }
    }
}

fn lose_index(disk: &Simulated) {
    disk.lose(Path::new("/data/store/index.redb"));
}

#[test]
fn a_store_that_was_just_made_is_there() {
    let disk = new_disk();
    let store = open(&disk);
    store.append(vod("film", 0)).unwrap();
    disk.turn_off();
    drop(store);
    let disk = disk.after_cut_that_leaves(NONE);
    let store = open(&disk);
    assert_eq!(store.warnings(), Vec::<String>::new());
    assert!(find(&store, "film").is_some());
    check(&store, &disk, false);
}

#[test]
fn a_place_whose_commit_never_came_is_taken_back() {
    let append = |store: &Store| store.append(vod("film", 1)).is_ok();
    let first = |store: &Store| assert!(store.append(vod("film", 0)).unwrap());
    let places = |path: &Path| path.starts_with("/data/store/segments");
    at_every_change(first, append, places, |disk, done| {
        let store = open(&disk);
        check(&store, &disk, false);
        let count = find(&store, "film").unwrap().segment_count();
        assert!(count == 2 || !done && count == 1);
    });
}

#[test]
fn what_was_let_go_does_not_come_back() {
    let fill = |store: &Store| {
        store.append(vod("film", 0)).unwrap();
        publish(store, "Other", 1, 2).unwrap();
    };
    let let_go = |store: &Store| {
        for id in ["film", "other"] {
            if let Some(content) = find(store, id)
                && store.remove(&content).is_err()
            {
                return false;
            }
        }
        store.append(vod("next", 0)).is_ok()
    };
    for stays in [NONE, ALL] {
        at_every_change(fill, let_go, stays, |disk, done| {
            let store = open(&disk);
            check(&store, &disk, false);
            assert!(!done || find(&store, "film").is_none() && find(&store, "other").is_none());
        });
    }
}

#[test]
fn a_store_that_was_closed_leaves_nothing_behind() {
    let (disk, store) = old_store();
    publish(&store, "Film", 1, 3).unwrap();
    let content = find(&store, "film").unwrap();
    store.pin(content.no, true).unwrap();
    store.remove(&content).unwrap();
    // Now the index no longer knows that the files were to be removed.
    store.append(vod("next", 0)).unwrap();
    drop(store);
    let disk = disk.after_cut_that_leaves(NONE);
    let store = open(&disk);
    check(&store, &disk, false);
}

#[test]
fn an_upload_is_here_as_a_whole_or_not_also_without_the_index() {
    let begin = |store: &Store| {
        publish(store, "Other", 2, 2).unwrap();
        let new = upload("Film", "source 1");
        store.begin_upload(&upload_id(1), new).unwrap();
        for sequence in 0..4 {
            let part = part(sequence, bytes(1000 + sequence, 3000));
            store.stage(&upload_id(1), part).unwrap();
        }
    };
    let publish = |store: &Store| store.commit_upload(&upload_id(1), commit(4)).is_ok();
    let manifests: fn(&Path) -> bool = |path| {
        let name = path.to_string_lossy();
        name.contains("manifest")
    };
    for stays in [manifests, NONE, ALL] {
        at_every_change(begin, publish, stays, |disk, done| {
            lose_index(&disk);
            let store = open(&disk);
            check(&store, &disk, true);
            let film = find(&store, "film");
            assert!(film.is_some() || !done, "it is lost");
            assert!(
                film.is_none_or(|film| film.is_complete()),
                "it is here in part"
            );
            assert!(find(&store, "other").unwrap().is_complete());
        });
    }
}

#[test]
fn a_pin_holds_from_its_answer_on_and_not_before() {
    for pinned in [true, false] {
        let prepare = |store: &Store| {
            store.append(vod("film", 0)).unwrap();
            if !pinned {
                store.pin(find(store, "film").unwrap().no, true).unwrap();
            }
        };
        let pin = |store: &Store| {
            let film = find(store, "film").unwrap();
            store.pin(film.no, pinned).is_ok()
        };
        for (stays, lost) in [(NONE, false), (NONE, true), (ALL, false), (ALL, true)] {
            at_every_change(prepare, pin, stays, |disk, done| {
                if lost {
                    lose_index(&disk);
                }
                let store = open(&disk);
                check(&store, &disk, false);
                assert!(!done || find(&store, "film").unwrap().pinned == pinned);
            });
        }
    }
}

#[test]
fn an_older_version_that_was_pinned_stays_so_without_the_index() {
    let (disk, store) = old_store();
    publish(&store, "Film", 1, 1).unwrap();
    publish(&store, "Film", 2, 2).unwrap();
    let older = id("film");
    let no = store.catalog().find(None, &older, Some(1)).unwrap().no;
    store.pin(no, true).unwrap();
    drop(store);
    lose_index(&disk);
    let store = open(&disk);
    let catalog = store.catalog();
    assert!(catalog.find(None, &older, Some(1)).unwrap().pinned);
    assert!(!catalog.find(None, &older, Some(2)).unwrap().pinned);
    check(&store, &disk, false);
}

#[test]
fn what_an_index_that_is_made_again_takes_is_durable() {
    for changes in 1..40 {
        let (disk, store) = old_store();
        store.append(vod("film", 0)).unwrap();
        disk.end_after(changes);
        let _ = store.append(vod("film", 1));
        // The process is killed, the system lives.
        let killed = disk.fork();
        disk.turn_off();
        drop(store);
        lose_index(&killed);
        let store = open(&killed);
        let count = find(&store, "film").unwrap().segment_count();
        killed.turn_off();
        drop(store);
        let disk = killed.after_cut_that_leaves(NONE);
        let store = open(&disk);
        check(&store, &disk, true);
        assert_eq!(find(&store, "film").unwrap().segment_count(), count);
    }
}

#[test]
fn what_was_never_acknowledged_does_not_take_the_place_of_what_was() {
    let first = |store: &Store| assert!(store.append(vod("film", 0)).unwrap());
    let append = |payload: u64| NewSegment {
        payload: bytes(payload, 900),
        ..vod("film", 1)
    };
    at_every_change(
        first,
        |store| store.append(append(1)).is_ok(),
        ALL,
        |disk, done| {
            let store = open_later(&disk);
            let taken = find(&store, "film").unwrap().segment_count() == 2;
            assert!(taken || !done);
            let second = store.append(append(2));
            assert_eq!(second.is_ok(), !taken);
            disk.turn_off();
            drop(store);
            for stays in [NONE, ALL] {
                let disk = disk.after_cut_that_leaves(stays);
                lose_index(&disk);
                let store = open(&disk);
                let content = find(&store, "film").unwrap();
                let wanted = append(if taken { 1 } else { 2 }).payload;
                assert_eq!(read(&store, &content, 0, Kind::Media, 1), Some(wanted));
            }
        },
    );
}

#[test]
fn an_end_that_was_never_acknowledged_does_not_come_back() {
    let first = |store: &Store| assert!(store.append(vod("film", 0)).unwrap());
    let finish = |store: &Store| store.finish(&id("film")).is_ok();
    at_every_change(first, finish, ALL, |disk, done| {
        let store = open(&disk);
        let finished = store.append(vod("film", 1)).is_err();
        assert!(finished || !done);
        disk.turn_off();
        drop(store);
        let disk = disk.after_cut_that_leaves(NONE);
        lose_index(&disk);
        let store = open(&disk);
        let count = find(&store, "film").unwrap().segment_count();
        assert_eq!(count, if finished { 1 } else { 2 });
    });
}

#[test]
fn a_commit_that_fails_leaves_files_as_the_index_says() {
    let (disk, store) = old_store();
    store.append(vod("film", 0)).unwrap();
    store
        .begin_upload(&upload_id(1), upload("Other", "x"))
        .unwrap();
    store.stage(&upload_id(1), part(0, bytes(7, 3000))).unwrap();
    disk.set_faults(Faults {
        broken_files: Some(|path| path.ends_with("index.redb")),
        ..Faults::default()
    });
    assert!(store.append(vod("film", 1)).is_err());
    assert!(store.commit_upload(&upload_id(1), commit(1)).is_err());
    let content = find(&store, "film").unwrap();
    assert!(store.pin(content.no, true).is_err());
    disk.set_faults(Faults::default());
    for disk in [
        disk.fork(),
        disk.after_cut_that_leaves(NONE),
        disk.after_cut_that_leaves(ALL),
    ] {
        let store = open(&disk);
        check(&store, &disk, false);
        assert!(find(&store, "film").is_some());
    }
    drop(store);
    let store = open(&disk);
    check(&store, &disk, false);
}

#[test]
fn nothing_is_done_to_files_before_a_commit_that_does_not_come() {
    let (disk, store) = old_store();
    store.append(vod("film", 0)).unwrap();
    let film = find(&store, "film").unwrap();
    let before = disk.changes();
    let failed: Result<(), _> = store.write(move |tx| {
        tx.pin(&film.key);
        tx.remove_content(film.no)?;
        Err(StoreError::Closed)
    });
    assert_eq!(failed, Err(StoreError::Closed));
    assert_eq!(disk.changes(), before);
    assert!(!find(&store, "film").unwrap().pinned);
    check(&store, &disk, false);
}

/// More than one commit moves in the queues.
const LONG: u64 = 70;

fn long_film(store: &Store) {
    for sequence in 0..LONG {
        let small = NewSegment {
            payload: bytes(100 + sequence, 200),
            ..vod("film", sequence)
        };
        store.append(small).unwrap();
    }
}

#[test]
fn a_long_content_moves_in_the_queues_with_several_commits_and_a_cut_between_them_is_no_harm() {
    let pin = |store: &Store| {
        let no = find(store, "film").unwrap().no;
        // The second while the first is under way.
        store.pin(no, true).is_ok() && store.pin(no, false).is_ok() && store.pin(no, true).is_ok()
    };
    for stays in [NONE, ALL] {
        at_every_change(long_film, pin, stays, |disk, done| {
            let store = open(&disk);
            assert!(!done || find(&store, "film").unwrap().pinned);
            check(&store, &disk, false);
        });
    }
}

#[test]
fn what_is_unpinned_makes_room_at_once_and_what_is_removed_takes_its_places_along() {
    let disk = new_disk();
    let mut settings = settings(&disk);
    settings.limit = Some(LONG * size(200) + size(200) / 2);
    let store = Store::open(settings, key(1)).unwrap();
    long_film(&store);
    let film = find(&store, "film").unwrap();
    store.pin(film.no, true).unwrap();
    assert!(store.append(vod("other", 0)).is_err());
    store.pin(film.no, false).unwrap();
    let small = NewSegment {
        payload: bytes(1, 200),
        ..vod("other", 0)
    };
    store.append(small).unwrap();
    assert_eq!(find(&store, "film").unwrap().segment_count(), LONG - 1);
    store.pin(film.no, true).unwrap();
    store.remove(&find(&store, "film").unwrap()).unwrap();
    check(&store, &disk, false);
}

#[test]
fn a_long_content_comes_as_a_whole_or_leaves_nothing() {
    let from = Bench::new();
    publish(from.store(), "Film", 1, 30).unwrap();
    let (manifest, records) = admit::said(from.store(), &from.content("film"));
    let admit = |store: &Store| store.admit(manifest.clone(), records.clone()).is_ok();
    for stays in [NONE, ALL] {
        at_every_change(
            |_| {},
            admit,
            stays,
            |disk, done| {
                let store = open(&disk);
                let film = find(&store, "film");
                assert!(film.is_some() || !done);
                if let Some(film) = film {
                    assert_eq!(store.rows(&film, 0, Kind::Media).unwrap().len(), 30);
                }
                check(&store, &disk, false);
            },
        );
    }
}

#[test]
fn a_long_content_that_is_given_up_leaves_nothing() {
    let (disk, store) = old_store();
    long_film(&store);
    let film = find(&store, "film").unwrap();
    let rows = store.rows_of(film.no, None).unwrap();
    let begun = store.write(move |tx| {
        let no = tx.begin_arrival(Content::clone(&film))?;
        for (key, row) in rows {
            let mut arriving = key;
            arriving.content_no = no;
            let gap = crate::store::SegmentRow {
                present: false,
                ..row
            };
            tx.arrive(arriving, &gap)?;
        }
        Ok(no)
    });
    let no = begun.unwrap();
    assert_eq!(store.catalog().len(), 1);
    store.write(move |tx| tx.give_arrival_up(no)).unwrap();
    // Rows that came say of nothing that it is here.
    let film = find(&store, "film").unwrap();
    assert_eq!(film.segment_count(), LONG);
    check(&store, &disk, false);
}

#[test]
fn a_start_after_a_kill_looks_for_what_nobody_names_only_if_the_disk_had_failed() {
    for has_failed in [false, true] {
        let (disk, store) = old_store();
        store.append(vod("film", 0)).unwrap();
        if has_failed {
            disk.set_faults(Faults {
                broken_files: Some(|path| path.ends_with("index.redb")),
                ..Faults::default()
            });
            assert!(store.append(vod("film", 1)).is_err());
            disk.set_faults(Faults::default());
        }
        let killed = disk.fork();
        let root = lavant_proto::ids::Root([7; 32]);
        let stray = store.settings().layout.payload(&root);
        killed.disk().write(&stray, b"stray").unwrap();
        let store = open(&killed);
        assert_eq!(killed.disk().exists(&stray), !has_failed);
        check(&store, &killed, !has_failed);
    }
}
