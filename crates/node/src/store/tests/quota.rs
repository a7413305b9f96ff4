//! The limit of the store: what goes first, what never goes.

use super::*;

/// Room for four segments of 20,000 bytes, of whatever priority.
fn four() -> Bench {
    Bench::with(|settings| {
        settings.limit = Some(4 * size(20_000));
        settings.class_share = [100; 3];
    })
}

#[test]
fn what_expired_goes_first() {
    let bench = four();
    bench.store().append(live("cam", 0)).unwrap();
    bench.at(10);
    for sequence in 0..3 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    bench.at(1801);
    bench.store().append(vod("film", 3)).unwrap();
    assert!(bench.find("cam").is_none());
    assert_eq!(bench.content("film").segment_count(), 4);
    let dropped = bench.store().stats().dropped;
    assert_eq!((dropped.expired, dropped.evicted), (1, 0));
}

#[test]
fn then_the_lowest_priority_then_the_oldest() {
    let bench = four();
    bench.store().append(live("cam", 0)).unwrap();
    bench.at(1);
    bench.store().append(vod("old", 0)).unwrap();
    bench.at(2);
    bench.store().append(vod("new", 0)).unwrap();
    bench.store().append(vod("new", 1)).unwrap();
    bench.at(3);
    bench.store().append(live("cam", 1)).unwrap();
    assert_eq!(
        bench.playlist("old"),
        [(0, false)],
        "the older film gave way"
    );
    assert_eq!(bench.content("new").segment_count(), 2);
    bench.store().append(live("cam", 2)).unwrap();
    assert_eq!(
        bench.playlist("new"),
        [(0, true), (1, false)],
        "the start of a film stays"
    );
    assert_eq!(bench.content("cam").segment_count(), 3);
    assert_eq!(bench.store().stats().bytes, 4 * size(20_000));
    assert_eq!(bench.files("segments").len(), 4);
}

#[test]
fn a_film_never_displaces_a_stream() {
    let bench = four();
    for sequence in 0..4 {
        bench.at(sequence);
        bench.store().append(live("cam", sequence)).unwrap();
    }
    let text = bench
        .store()
        .append(vod("film", 0))
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "the store's limit of 80256 bytes is reached and nothing that may go would make room for \
         20064 bytes more; raise --store-limit, remove content, or unpin some"
    );
    assert_eq!(bench.content("cam").segment_count(), 4);
    assert!(bench.find("film").is_none());
    assert!(bench.files("incoming").is_empty());
    bench.store().append(live("cam", 4)).unwrap();
    assert_eq!(bench.playlist("cam")[0], (0, false));
}

#[test]
fn pinned_contents_never_go() {
    let bench = four();
    for sequence in 0..4 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    bench.store().pin(bench.content("film").no, true).unwrap();
    let text = bench
        .store()
        .append(live("cam", 0))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("nothing that may go would make room"),
        "{text}"
    );
    assert_eq!(bench.content("film").segment_count(), 4);
    for sequence in 0..4 {
        assert_eq!(
            bench.read("film", sequence),
            Some(vod("film", sequence).payload)
        );
    }
    bench.store().pin(bench.content("film").no, false).unwrap();
    bench.store().append(live("cam", 0)).unwrap();
    assert_eq!(bench.content("film").segment_count(), 3);
}

#[test]
fn a_stream_that_fills_the_store_alone_keeps_its_playlist() {
    let bench = Bench::with(|settings| settings.limit = Some(size(20_000)));
    for sequence in 0..5 {
        bench.store().append(live("cam", sequence)).unwrap();
    }
    let content = bench.content("cam");
    assert_eq!((content.segment_count(), content.bytes()), (1, 20_000));
    assert_eq!(
        (content.renditions[0].first, content.renditions[0].next),
        (0, 5)
    );
    assert_eq!(bench.playlist("cam").last(), Some(&(4, true)));
    assert_eq!(bench.read("cam", 4), Some(live("cam", 4).payload));
}

#[test]
fn what_was_evicted_can_come_back_and_then_lives_its_own_time() {
    let bench = four();
    bench.store().append(live("cam", 0)).unwrap();
    for sequence in 1..5 {
        bench.at(sequence);
        bench.store().append(live("cam", sequence)).unwrap();
    }
    assert_eq!(bench.playlist("cam")[0], (0, false));
    bench.at(1000);
    let back = |n| bench.store().append(live("cam", n)).unwrap();
    assert!(back(0));
    assert_eq!(bench.read("cam", 0), Some(live("cam", 0).payload));
    bench.at(1801);
    bench.store().append(vod("tick", 0)).ok();
    assert_eq!(
        bench.read("cam", 0),
        Some(live("cam", 0).payload),
        "counted from its return"
    );
    assert_eq!(bench.content("cam").renditions[0].first, 0);
}

#[test]
fn a_lost_segment_of_a_finished_film_can_be_sent_again() {
    let bench = four();
    for sequence in 0..4 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    bench.store().finish(&id("film")).unwrap();
    bench.at(5);
    bench.store().append(live("cam", 0)).unwrap();
    assert_eq!(bench.playlist("film")[3], (3, false));
    bench.store().remove(&bench.content("cam")).unwrap();
    assert!(!bench.content("film").is_complete());
    assert!(bench.store().append(vod("film", 3)).unwrap());
    let content = bench.content("film");
    assert!(content.is_complete());
    let manifest = bench.store().manifest(&content).unwrap();
    let found = bench
        .store()
        .segment(&content, 0, Kind::Media, 3)
        .unwrap()
        .unwrap();
    assert_eq!(
        bench.store().record(&content, &found).leaf(),
        manifest.leaves[3]
    );
}

#[test]
fn segments_that_share_a_payload_go_together_or_not_at_all() {
    let bench = four();
    let shared = vod("one", 0).payload;
    bench.store().append(vod("one", 0)).unwrap();
    bench
        .store()
        .append(NewSegment {
            payload: shared.clone(),
            ..vod("two", 0)
        })
        .unwrap();
    bench.store().pin(bench.content("two").no, true).unwrap();
    bench.at(1);
    for sequence in 0..4 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    assert_eq!(
        bench.read("one", 0),
        Some(shared),
        "its going would free nothing"
    );
    assert_eq!(bench.content("film").segment_count(), 3);
}

#[test]
fn uploads_count_while_they_are_staged() {
    let bench = four();
    let name = upload_id(1);
    bench.store().append(vod("old", 0)).unwrap();
    bench.at(1);
    bench
        .store()
        .begin_upload(&name, upload("Film", "a"))
        .unwrap();
    for sequence in 0..3 {
        bench
            .store()
            .stage(&name, part(sequence, bytes(sequence, 20_000)))
            .unwrap();
    }
    assert_eq!(bench.read("old", 0), Some(vod("old", 0).payload));
    bench.store().append(vod("new", 0)).unwrap();
    assert_eq!(
        bench.playlist("old"),
        [(0, false)],
        "three staged and one new are the limit"
    );
    bench
        .store()
        .stage(&name, part(3, bytes(3, 20_000)))
        .unwrap();
    assert_eq!(bench.playlist("new"), [(0, false)]);
    let text = bench
        .store()
        .stage(&name, part(4, bytes(4, 20_000)))
        .unwrap_err()
        .to_string();
    assert!(text.contains("limit of 80256 bytes is reached"), "{text}");
    let text = bench
        .store()
        .append(live("cam", 0))
        .unwrap_err()
        .to_string();
    assert!(text.contains("limit of 80256 bytes is reached"), "{text}");
    bench.store().commit_upload(&name, commit(4)).unwrap();
    assert!(bench.content("film").is_complete());
    assert_eq!(bench.store().stats().bytes, 4 * size(20_000));
    bench.store().append(live("cam", 0)).unwrap();
    assert_eq!(bench.content("film").segment_count(), 3);
}

#[test]
fn what_a_rolled_back_upload_held_is_free_again() {
    let bench = four();
    let name = upload_id(1);
    bench
        .store()
        .begin_upload(&name, upload("Film", "a"))
        .unwrap();
    for sequence in 0..4 {
        bench
            .store()
            .stage(&name, part(sequence, bytes(sequence, 20_000)))
            .unwrap();
    }
    assert!(bench.store().append(vod("film2", 0)).is_err());
    bench.store().abort_upload(&name).unwrap();
    for sequence in 0..4 {
        bench.store().append(vod("film2", sequence)).unwrap();
    }
    assert_eq!(bench.store().stats().dropped.evicted, 0);
}

#[test]
fn an_upload_that_cannot_fit_drops_nothing() {
    let bench = four();
    bench.store().append(live("cam", 0)).unwrap();
    let text = publish(bench.store(), "Film", 1, 4)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("nothing that may go would make room"),
        "{text}"
    );
    assert_eq!(bench.read("cam", 0), Some(live("cam", 0).payload));
    assert_eq!(
        bench.store().upload_progress()[0].segments,
        3,
        "it can go on when there is room"
    );
    bench.store().remove(&bench.content("cam")).unwrap();
    bench
        .store()
        .stage(&upload_id(1), part(3, bytes(1003, 20_000)))
        .unwrap();
    bench
        .store()
        .commit_upload(&upload_id(1), commit(4))
        .unwrap();
    assert!(bench.content("film").is_complete());
}

#[test]
fn a_full_disk_refuses_before_it_writes() {
    let bench = Bench::with(|settings| settings.min_free = u64::MAX / 2);
    let text = bench
        .store()
        .append(vod("film", 0))
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("the disk that holds the store is full ("),
        "{text}"
    );
    assert!(
        text.ends_with("free some space or remove content"),
        "{text}"
    );
    bench
        .store()
        .begin_upload(&upload_id(1), upload("Film", "a"))
        .unwrap();
    assert!(
        bench
            .store()
            .stage(&upload_id(1), part(0, bytes(0, 100)))
            .is_err()
    );
    assert!(bench.files("incoming").is_empty());
}
