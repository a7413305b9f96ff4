//! Adding segments one by one, reading them, finishing, removing.

use super::*;

fn error(store: &Store, segment: NewSegment) -> String {
    store.append(segment).unwrap_err().to_string()
}

#[test]
fn a_segment_is_read_back_as_it_was_sent() {
    let bench = Bench::new();
    let sent = vod("film", 0);
    assert!(bench.store().append(sent.clone()).unwrap());
    assert_eq!(bench.read("film", 0), Some(sent.payload));
    let content = bench.content("film");
    assert_eq!(content.title, "Title of film");
    assert_eq!((content.segment_count(), content.bytes()), (1, 20_000));
    assert_eq!(bench.files("incoming"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_same_segment_twice_changes_nothing() {
    let bench = Bench::new();
    assert!(bench.store().append(vod("film", 0)).unwrap());
    let before = bench.store().stats();
    assert!(!bench.store().append(vod("film", 0)).unwrap());
    assert_eq!(bench.store().stats().bytes, before.bytes);
    assert_eq!(bench.playlist("film"), [(0, true)]);
    assert!(bench.files("incoming").is_empty());
}

#[test]
fn other_bytes_under_a_known_number_are_refused() {
    let bench = Bench::new();
    bench.store().append(vod("film", 0)).unwrap();
    let text = error(
        bench.store(),
        NewSegment {
            payload: bytes(9, 100),
            ..vod("film", 0)
        },
    );
    assert_eq!(
        text,
        "segment 0 of \"film\" is here with other bytes; a published segment never changes"
    );
    assert_eq!(bench.read("film", 0), Some(vod("film", 0).payload));
    assert!(bench.files("incoming").is_empty());
}

#[test]
fn a_stream_begins_with_what_comes_first_and_never_goes_back() {
    let bench = Bench::new();
    bench.store().append(live("cam", 70_000)).unwrap();
    assert_eq!(bench.content("cam").renditions[0].first, 70_000);
    let text = error(bench.store(), live("cam", 69_999));
    assert!(
        text.contains("comes before the first of its playlist (70000)"),
        "{text}"
    );
    bench.store().append(live("cam", 70_002)).unwrap();
    assert_eq!(bench.playlist("cam"), [(70_000, true), (70_002, true)]);
    bench.store().append(live("cam", 70_001)).unwrap();
    assert_eq!(bench.content("cam").renditions[0].next, 70_003);
}

#[test]
fn an_init_segment_before_the_stream_does_not_fix_its_start() {
    let bench = Bench::new();
    let cmaf = |segment| NewSegment {
        mime: MimeType::Mp4,
        ..segment
    };
    let init = NewSegment {
        kind: Kind::Init,
        duration: 0,
        ..cmaf(live("cam", 0))
    };
    bench.store().append(init.clone()).unwrap();
    let media = NewSegment {
        init: Some(0),
        ..cmaf(live("cam", 50_000))
    };
    bench.store().append(media.clone()).unwrap();
    let content = bench.content("cam");
    assert_eq!(content.renditions[0].first, 50_000);
    assert_eq!(
        read(bench.store(), &content, 0, Kind::Init, 0),
        Some(init.payload)
    );
    assert_eq!(bench.read("cam", 50_000), Some(media.payload));
}

#[test]
fn what_no_playlist_can_hold_is_refused_with_the_reason() {
    let bench = Bench::new();
    let store = bench.store();
    store
        .append(NewSegment {
            target_duration: Some(6),
            ..vod("film", 0)
        })
        .unwrap();
    let seconds = |s: u64| NewSegment {
        duration: s * 90_000,
        ..vod("film", 1)
    };
    assert!(
        store
            .append(NewSegment {
                duration: 6 * 90_000 + 40_000,
                ..vod("film", 1)
            })
            .unwrap()
    );
    let second = || vod("film", 2);
    let cases = [
        (
            NewSegment {
                sequence: 2,
                ..seconds(7)
            },
            "lasts 7.000 s, longer than the playlist's target duration of 6 s",
        ),
        (vod("film", 1 << 40), "is too far from the others (0 to 2)"),
        (vod("film", u64::MAX), "a sequence is at most"),
        (
            NewSegment {
                init: Some(u64::MAX),
                ..second()
            },
            "init segments are numbered below 1000",
        ),
        (
            NewSegment {
                payload: Bytes::new(),
                ..second()
            },
            "must not be empty",
        ),
        (
            NewSegment {
                duration: u64::MAX,
                ..second()
            },
            "at most an hour",
        ),
        (
            NewSegment {
                mime: MimeType::Mp4,
                ..second()
            },
            "cannot follow",
        ),
        (
            NewSegment {
                target_duration: Some(0),
                ..second()
            },
            "1 to 3600 s",
        ),
    ];
    for (segment, reason) in cases {
        let text = error(store, segment);
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(bench.playlist("film"), [(0, true), (1, true)]);
    assert!(bench.files("incoming").is_empty());
}

#[test]
fn a_film_may_come_out_of_order_and_holes_keep_it_open() {
    let bench = Bench::new();
    for sequence in [3, 0, 2] {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    assert_eq!(bench.playlist("film"), [(0, true), (2, true), (3, true)]);
    assert!(!bench.content("film").is_complete());
    let text = bench.store().finish(&id("film")).unwrap_err().to_string();
    assert_eq!(
        text,
        "segment 1 of \"film\" has not come; send it and finish again"
    );
    bench.store().append(vod("film", 1)).unwrap();
    bench.store().finish(&id("film")).unwrap();
    assert!(bench.content("film").is_complete());
}

#[test]
fn a_finished_content_has_a_manifest_that_vouches_for_every_segment() {
    let mut bench = Bench::new();
    for sequence in 0..3 {
        bench.at(sequence);
        bench.store().append(vod("film", sequence)).unwrap();
    }
    bench.store().finish(&id("film")).unwrap();
    for reopened in [false, true] {
        if reopened {
            bench.reopen();
        }
        let content = bench.content("film");
        let manifest = bench.store().manifest(&content).unwrap();
        assert_eq!(manifest.manifest.renditions[0].segments, 3);
        assert_eq!(manifest.manifest.renditions[0].duration, 3 * TICKS);
        for sequence in 0..3 {
            let found = bench
                .store()
                .segment(&content, 0, Kind::Media, sequence)
                .unwrap();
            let record = bench.store().record(&content, &found.unwrap());
            assert_eq!(record.leaf(), manifest.leaves[sequence as usize]);
            assert_eq!(
                bench.read("film", sequence),
                Some(vod("film", sequence).payload)
            );
        }
        assert_eq!(content.created, START);
        assert!(content.is_complete());
    }
    let text = error(bench.store(), vod("film", 3));
    assert!(
        text.contains("is finished and takes no more segments"),
        "{text}"
    );
    assert!(
        !bench.store().append(vod("film", 2)).unwrap(),
        "a repeated one is no error"
    );
    let repeated = bench.store().finish(&id("film")).unwrap();
    assert_eq!(repeated, bench.content("film").key);
}

#[test]
fn finishing_needs_every_init_segment() {
    let bench = Bench::new();
    let cmaf = |segment| NewSegment {
        mime: MimeType::Mp4,
        ..segment
    };
    let init = |n| NewSegment {
        kind: Kind::Init,
        duration: 0,
        ..cmaf(vod("film", n))
    };
    let media = |n, init| NewSegment {
        init,
        ..cmaf(vod("film", n))
    };
    bench.store().append(init(1)).unwrap();
    bench.store().append(media(10, Some(1))).unwrap();
    for sequence in 0..10 {
        bench.store().append(media(sequence, Some(0))).unwrap();
    }
    let finish = || {
        bench
            .store()
            .finish(&id("film"))
            .map_err(|error| error.to_string())
    };
    assert!(
        finish()
            .unwrap_err()
            .contains("init segment 0 of \"film\" has not come")
    );
    bench.store().append(init(0)).unwrap();
    finish().unwrap();
    assert!(bench.store().manifest(&bench.content("film")).is_some());

    bench
        .store()
        .append(NewSegment {
            content_id: id("other"),
            ..media(0, None)
        })
        .unwrap();
    let text = bench.store().finish(&id("other")).unwrap_err().to_string();
    assert!(text.contains("names no init segment"), "{text}");
}

#[test]
fn a_content_finishes_by_itself_when_nothing_comes_and_nothing_is_missing() {
    let bench = Bench::new();
    bench.store().append(vod("whole", 0)).unwrap();
    bench.store().append(vod("hole", 1)).unwrap();
    bench.store().append(live("cam", 0)).unwrap();
    bench.at(299);
    bench.store().finish_idle();
    assert!(!bench.content("whole").is_complete());
    bench.at(300);
    bench.store().finish_idle();
    assert!(bench.content("whole").is_complete());
    assert!(!bench.content("hole").is_complete());
    assert!(!bench.content("cam").is_complete());
}

#[test]
fn ids_that_look_alike_are_refused() {
    let bench = Bench::new();
    bench.store().append(vod("paypal", 0)).unwrap();
    let text = error(bench.store(), vod("p\u{430}ypal", 0));
    assert!(
        text.contains("looks like \"paypal\", which is here"),
        "{text}"
    );
    let paypal = bench.content("paypal");
    bench.store().remove(&paypal).unwrap();
    assert!(bench.store().append(vod("p\u{430}ypal", 0)).unwrap());
}

#[test]
fn removing_frees_the_disk_and_the_name() {
    let bench = Bench::new();
    for sequence in 0..3 {
        bench.store().append(vod("film", sequence)).unwrap();
    }
    let removed = bench.store().remove(&bench.content("film")).unwrap();
    assert_eq!(removed, (3, 3 * size(20_000)));
    assert!(bench.find("film").is_none());
    assert_eq!(bench.store().stats().bytes, 0);
    assert!(bench.files("segments").is_empty());
    assert!(bench.store().append(vod("film", 0)).unwrap());
}

/// Waits until nothing is left of what was removed.
fn cleared(bench: &Bench, bytes: u64) {
    let mut changes = bench.store().changes();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let all = async {
        changes
            .wait_for(|_| bench.store().stats().bytes == bytes)
            .await
            .is_ok()
    };
    assert!(runtime.unwrap().block_on(all));
}

#[test]
fn a_long_film_is_gone_at_once_and_its_files_go_bit_by_bit() {
    let mut bench = Bench::new();
    let long = |id: &str, sequence| NewSegment {
        version: None,
        ttl: None,
        payload: Bytes::from(format!("{id} {sequence}")),
        ..vod(id, sequence)
    };
    for id in ["film", "other"] {
        for sequence in 0..400 {
            bench.store().append(long(id, sequence)).unwrap();
        }
    }
    let half = bench.store().stats().bytes / 2;
    assert_eq!(bench.store().remove(&bench.content("film")).unwrap().0, 400);
    // The first commit takes few of them, so that others do not wait.
    assert!(bench.store().stats().bytes > half);
    assert!(bench.find("film").is_none());
    // The end of the process in the middle changes nothing, and the name is free.
    bench.reopen();
    assert!(bench.find("film").is_none());
    bench.store().append(long("film", 0)).unwrap();
    assert_eq!(bench.content("film").key.version, 2);
    let lengths = (0..400).map(|no| long("other", no).payload.len() as u64);
    cleared(&bench, lengths.sum::<u64>() + b"film 0".len() as u64);
    // The files of a commit go right after it, and before the next one.
    bench.store().append(long("film", 1)).unwrap();
    assert_eq!(bench.files("segments").len(), 402);
    let report = bench.store().check(|_, _| true).unwrap();
    assert_eq!(
        (report.intact, report.dropped, report.unknown_files),
        (402, 0, 0)
    );
}

#[test]
fn what_is_left_of_a_removed_film_gives_way_before_anything_is_evicted() {
    let mut bench = Bench::with(|settings| settings.limit = Some(300 * size(1000)));
    let small = |id: &str, sequence: u64| NewSegment {
        payload: payload_of(id, sequence),
        ..vod(id, sequence)
    };
    for sequence in 0..280 {
        bench.store().append(small("film", sequence)).unwrap();
    }
    bench.store().append(small("kept", 0)).unwrap();
    bench.store().remove(&bench.content("film")).unwrap();
    bench.reopen();
    for sequence in 0..290 {
        bench.store().append(small("new", sequence)).unwrap();
    }
    assert!(bench.read("kept", 0).is_some());
    assert_eq!(bench.store().stats().dropped.evicted, 0);
}

fn payload_of(id: &str, sequence: u64) -> Bytes {
    let mut bytes = vec![0; 1000];
    let name = format!("{id} {sequence}");
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes.into()
}

#[test]
fn a_removed_version_never_comes_back() {
    let mut bench = Bench::new();
    for version in 1..4 {
        bench.store().append(vod("film", 0)).unwrap();
        assert_eq!(bench.content("film").key.version, version);
        bench.store().remove(&bench.content("film")).unwrap();
        bench.reopen();
    }
}

#[test]
fn a_payload_that_two_contents_share_stays_until_both_are_gone() {
    let bench = Bench::new();
    let shared = vod("one", 0).payload;
    bench.store().append(vod("one", 0)).unwrap();
    bench
        .store()
        .append(NewSegment {
            payload: shared.clone(),
            ..vod("two", 0)
        })
        .unwrap();
    assert_eq!(bench.store().stats().bytes, size(20_000));
    assert_eq!(bench.files("segments").len(), 1);
    bench.store().remove(&bench.content("one")).unwrap();
    assert_eq!(bench.read("two", 0), Some(shared));
    bench.store().remove(&bench.content("two")).unwrap();
    assert!(bench.files("segments").is_empty());
}

#[test]
fn many_writers_at_once_agree_on_one_content() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = bench.store().clone();
            scope.spawn(move || {
                for n in 0..10 {
                    let mut segment = vod("film", n * 8 + thread);
                    segment.title = format!("Title {thread}");
                    assert!(store.append(segment).unwrap());
                }
            });
        }
    });
    let content = bench.content("film");
    assert_eq!(content.segment_count(), 80);
    bench.store().finish(&content.key.content_id).unwrap();
    let content = bench.content("film");
    assert!(bench.store().manifest(&content).is_some());
    for sequence in 0..80 {
        let found = bench
            .store()
            .segment(&content, 0, Kind::Media, sequence)
            .unwrap()
            .unwrap();
        let record = bench.store().record(&content, &found);
        let signature = found.row.signature.unwrap();
        let claim = lavant_proto::content::Unverified::new(record);
        claim
            .verify(&signature)
            .expect("the signature fits what the store says of the segment");
    }
}

#[test]
fn a_reader_beside_the_writer_never_loses_a_segment() {
    let bench = Bench::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let Some(content) = bench.find("film") else {
                    continue;
                };
                for sequence in 0..200 {
                    let found = bench
                        .store()
                        .segment(&content, 0, Kind::Media, sequence)
                        .unwrap();
                    let Some(segment) = found else { break };
                    bench.store().open_payload(&segment).unwrap();
                    read += 1;
                }
            }
            read
        });
        for sequence in 0..200 {
            bench.store().append(vod("film", sequence)).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(bench.content("film").segment_count(), 200);
    assert_eq!(
        bench.store().stats().dropped,
        crate::store::Dropped::default()
    );
}

#[test]
fn live_segments_are_in_memory_while_they_are_new() {
    let bench = Bench::with(|settings| settings.hot_memory = 50_000);
    for sequence in 0..4 {
        bench.store().append(live("cam", sequence)).unwrap();
    }
    let hot = |sequence| {
        let content = bench.content("cam");
        let found = bench
            .store()
            .segment(&content, 0, Kind::Media, sequence)
            .unwrap()
            .unwrap();
        bench.store().hot(&found.row.root)
    };
    assert_eq!(hot(3), Some(live("cam", 3).payload));
    assert_eq!(hot(0), None);
    assert_eq!(bench.store().stats().hot_bytes, 40_000);
    bench.store().append(vod("film", 0)).unwrap();
    assert_eq!(bench.store().stats().hot_bytes, 40_000, "films are not");
    bench.store().remove(&bench.content("cam")).unwrap();
    assert_eq!(bench.store().stats().hot_bytes, 0);
}
