//! Deadlines, pins and clocks.

use std::time::Duration;

use super::*;

/// Any write lets the reaper run with the clock as it stands.
fn reap(bench: &Bench) {
    let tick = bench
        .find("tick")
        .map_or(0, |content| content.renditions[0].next);
    bench
        .store()
        .append(NewSegment {
            payload: bytes(tick, 10),
            ..vod("tick", tick)
        })
        .unwrap();
}

#[test]
fn what_expires_keeps_up_with_what_comes_and_holds_up_few() {
    let bench = Bench::new();
    for sequence in 0..400 {
        let payload = bytes(sequence, 10);
        let segment = NewSegment {
            payload,
            ..live("cam", sequence)
        };
        bench.store().append(segment).unwrap();
    }
    bench.at(3600);
    let went = |operations| {
        let expire = move |tx: &mut super::super::tx::Tx<'_>| {
            let before = tx.rows_gone();
            super::super::expire::expire_due(tx, operations)?;
            Ok(tx.rows_gone() - before)
        };
        bench.store().write(expire).unwrap()
    };
    // A batch of few operations waits for few rows, one of many for twice as many.
    assert!((20..100).contains(&went(1)));
    assert!(went(100) >= 200);
    reap(&bench);
    while bench.find("cam").is_some() {
        reap(&bench);
    }
}

#[test]
fn segments_live_as_long_as_their_priority_says() {
    let bench = Bench::new();
    bench.store().append(live("live", 0)).unwrap();
    bench
        .store()
        .append(NewSegment {
            priority: Priority::NearLive,
            ..vod("near", 0)
        })
        .unwrap();
    bench.store().append(vod("film", 0)).unwrap();
    let cases = [("live", 30 * 60), ("near", 6 * 3600), ("film", 30 * 86_400)];
    for (name, seconds) in cases {
        assert_eq!(
            bench.content(name).expires,
            START.after(Duration::from_secs(seconds))
        );
        bench.at(seconds - 1);
        reap(&bench);
        assert!(bench.read(name, 0).is_some(), "{name}");
        bench.at(seconds);
        reap(&bench);
        assert!(bench.find(name).is_none(), "{name}");
    }
    assert_eq!(bench.store().stats().dropped.expired, 3);
}

#[test]
fn a_streams_playlist_moves_on_as_its_segments_expire() {
    let bench = Bench::new();
    for sequence in 10..16 {
        bench.at((sequence - 10) * 60);
        let discontinuity = sequence == 11 || sequence == 14;
        bench
            .store()
            .append(NewSegment {
                discontinuity,
                ..live("cam", sequence)
            })
            .unwrap();
    }
    let state = |bench: &Bench| {
        let state = bench.content("cam").renditions[0].clone();
        (
            state.first,
            state.discontinuities_gone,
            state.next,
            state.present,
        )
    };
    assert_eq!(state(&bench), (10, 0, 16, 6));
    bench.at(1800);
    reap(&bench);
    assert_eq!(state(&bench), (11, 0, 16, 5));
    bench.at(1860);
    reap(&bench);
    assert_eq!(state(&bench), (12, 1, 16, 4));
    bench.at(1800 + 4 * 60);
    reap(&bench);
    assert_eq!(state(&bench), (15, 2, 16, 1));
    assert_eq!(bench.playlist("cam"), [(15, true)]);
    assert_eq!(
        bench.files("segments").len(),
        1 + bench.playlist("tick").len()
    );
}

#[test]
fn a_segment_that_expires_behind_a_later_one_is_a_gap_until_the_front_passes_it() {
    let bench = Bench::new();
    let broken = NewSegment {
        discontinuity: true,
        independent: true,
        ..vod("film", 1)
    };
    bench.store().append(broken).unwrap();
    bench.at(100);
    bench.store().append(vod("film", 0)).unwrap();
    bench.store().append(vod("film", 2)).unwrap();
    let ttl = 30 * 86_400;
    bench.at(ttl);
    reap(&bench);
    assert_eq!(bench.playlist("film"), [(0, true), (1, false), (2, true)]);
    assert_eq!(bench.content("film").renditions[0].first, 0);
    bench.store().append(vod("film", 3)).unwrap();
    bench.at(ttl + 100);
    reap(&bench);
    let state = bench.content("film").renditions[0].clone();
    assert_eq!((state.first, state.discontinuities_gone), (3, 1));
    assert_eq!(bench.playlist("film"), [(3, true)]);
}

#[test]
fn the_numbers_of_a_playlist_survive_a_restart() {
    let mut bench = Bench::new();
    for sequence in 0..3 {
        bench.at(sequence * 60);
        bench
            .store()
            .append(NewSegment {
                discontinuity: true,
                independent: true,
                ..live("cam", sequence)
            })
            .unwrap();
    }
    bench.at(1860);
    reap(&bench);
    bench.reopen();
    let state = bench.content("cam").renditions[0].clone();
    assert_eq!(
        (state.first, state.discontinuities_gone, state.next),
        (2, 2, 3)
    );
}

#[test]
fn a_finished_content_expires_as_a_whole() {
    let bench = Bench::new();
    for sequence in 0..3 {
        bench.at(sequence * 1000);
        bench.store().append(vod("film", sequence)).unwrap();
    }
    bench.store().finish(&id("film")).unwrap();
    let ttl = 30 * 86_400;
    bench.at(2000 + ttl - 1);
    reap(&bench);
    assert!(bench.content("film").is_complete());
    bench.at(2000 + ttl);
    reap(&bench);
    assert!(bench.find("film").is_none());
    assert_eq!(bench.store().stats().dropped.expired, 3);
    assert!(bench.files("manifests").is_empty());
}

#[test]
fn what_expired_while_the_node_was_off_goes_at_its_start() {
    let mut bench = Bench::new();
    bench.store().append(live("cam", 0)).unwrap();
    bench.close();
    bench.at(10_000);
    bench.reopen();
    let changes = bench.store().changes();
    wait_until(changes, || bench.find("cam").is_none());
    // Its file goes right after the commit that is told of; the writer ends after that.
    bench.close();
    assert!(bench.files("segments").is_empty());
}

#[test]
fn pinned_contents_outlive_their_time_until_they_are_unpinned() {
    let mut bench = Bench::new();
    bench.store().append(live("cam", 0)).unwrap();
    bench.store().pin(bench.content("cam").no, true).unwrap();
    bench.at(10_000);
    reap(&bench);
    assert!(bench.content("cam").pinned);
    bench.reopen();
    reap(&bench);
    assert_eq!(bench.read("cam", 0), Some(live("cam", 0).payload));
    bench.store().pin(bench.content("cam").no, false).unwrap();
    assert!(bench.find("cam").is_none());
    assert!(bench.files("pins").is_empty());
    let text = bench.store().pin(77, true).unwrap_err().to_string();
    assert_eq!(text, "the content is not here");
}

#[test]
fn a_clock_set_back_expires_nothing_and_is_told() {
    let mut bench = Bench::new();
    bench.at(1000);
    bench.store().append(live("cam", 0)).unwrap();
    assert!(bench.store().warnings().is_empty());
    bench
        .clock
        .set(Time::from_seconds(START.seconds() - 5_000_000));
    bench.store().append(live("cam", 1)).unwrap();
    for _ in 0..2 {
        assert_eq!(bench.playlist("cam"), [(0, true), (1, true)]);
        let rows = bench
            .store()
            .rows(&bench.content("cam"), 0, Kind::Media)
            .unwrap();
        assert!(
            rows[1].1.created >= rows[0].1.created,
            "created never decreases"
        );
        let warnings = bench.store().warnings();
        assert_eq!(
            warnings,
            [
                "the clock is 5001000 s behind the newest segment in the store; segments stay \
                 longer until it is right"
            ]
        );
        bench.reopen();
    }
    bench.store().finish(&id("cam")).unwrap();
    let content = bench.content("cam");
    assert!(bench.store().manifest(&content).unwrap().manifest.created >= content.created);
    bench.at(1010);
    assert!(
        bench.store().warnings().is_empty(),
        "it goes when the clock is right"
    );
}

#[test]
fn a_clock_that_cannot_be_is_told_of() {
    let mut bench = Bench::new();
    bench.clock.set(Time::from_seconds(1_000_000_000));
    bench.reopen();
    let warnings = bench.store().warnings();
    assert!(
        warnings[0].contains("the clock says 2001-09-09"),
        "{warnings:?}"
    );
}

#[test]
fn the_reaper_wakes_by_itself_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path());
    settings.ttl = [Duration::from_secs(1); 3];
    let store = Store::open(settings, key(1)).unwrap();
    store.append(live("cam", 0)).unwrap();
    wait_until(store.changes(), || store.catalog().is_empty());
}

#[test]
fn a_store_at_rest_does_not_report_changes() {
    let bench = Bench::new();
    bench.store().append(vod("film", 0)).unwrap();
    let changes = bench.store().changes();
    assert!(!changes.has_changed().unwrap());
}

fn wait_until(mut changes: tokio::sync::watch::Receiver<u64>, done: impl Fn() -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !done() {
                changes.changed().await.unwrap();
            }
        });
        waited.await.expect("it did not happen in time");
    });
}
