//! Uploads: all or nothing.

use lavant_proto::content::{Manifest, RenditionInfo, SegmentRecord, merkle_root};
use lavant_proto::ids::Signature;

use super::*;
use crate::store::UploadInfo;

#[test]
fn nothing_is_seen_before_the_commit_and_all_after() {
    let mut bench = Bench::new();
    let name = upload_id(1);
    let begun = bench
        .store()
        .begin_upload(&name, upload("My Film", "a"))
        .unwrap();
    assert_eq!(begun.content.content_id.as_str(), "my_film");
    assert!(!begun.resumed && begun.segments.is_empty());
    for sequence in 0..3 {
        assert!(
            bench
                .store()
                .stage(&name, part(sequence, bytes(sequence, 30_000)))
                .unwrap()
                .1
        );
        assert!(
            !bench
                .store()
                .stage(&name, part(sequence, bytes(sequence, 30_000)))
                .unwrap()
                .1
        );
    }
    assert!(bench.store().catalog().is_empty());
    assert_eq!(bench.store().stats().bytes, 0);
    let progress = bench.store().upload_progress();
    assert_eq!((progress[0].segments, progress[0].bytes), (3, 90_000));
    assert_eq!(progress[0].seconds, 18.0);
    let published = bench.store().commit_upload(&name, commit(3)).unwrap();
    assert_eq!(published, begun.content);
    assert!(bench.store().upload_progress().is_empty());
    for _ in 0..2 {
        let content = bench.content("my_film");
        assert!(content.is_complete());
        assert_eq!(content.renditions[0].info.codecs, "avc1.64001f,mp4a.40.2");
        for sequence in 0..3 {
            assert_eq!(
                bench.read("my_film", sequence),
                Some(bytes(sequence, 30_000))
            );
        }
        let manifest = bench.store().manifest(&content).unwrap();
        assert_eq!(manifest.manifest.record_count(), 3);
        assert!(bench.files("incoming").is_empty());
        bench.reopen();
    }
}

#[test]
fn a_segment_can_be_replaced_before_the_commit() {
    let bench = Bench::new();
    let name = upload_id(1);
    bench
        .store()
        .begin_upload(&name, upload("Film", "a"))
        .unwrap();
    bench
        .store()
        .stage(&name, part(0, bytes(1, 9_000)))
        .unwrap();
    bench
        .store()
        .stage(&name, part(0, bytes(2, 8_000)))
        .unwrap();
    assert_eq!(bench.files("incoming").len(), 1);
    bench.store().commit_upload(&name, commit(1)).unwrap();
    assert_eq!(bench.read("film", 0), Some(bytes(2, 8_000)));
    assert_eq!(bench.store().stats().bytes, size(8_000));
}

#[test]
fn a_commit_with_something_missing_says_what_and_can_be_repeated() {
    let bench = Bench::new();
    let name = upload_id(1);
    bench
        .store()
        .begin_upload(&name, upload("Film", "a"))
        .unwrap();
    for sequence in [0, 2] {
        bench
            .store()
            .stage(&name, part(sequence, bytes(sequence, 9_000)))
            .unwrap();
    }
    let refused = |count| {
        bench
            .store()
            .commit_upload(&name, commit(count))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(3),
        "segment 1 of main is missing (3 were announced)"
    );
    bench
        .store()
        .stage(&name, part(1, bytes(1, 9_000)))
        .unwrap();
    assert_eq!(
        refused(2),
        "more than the 2 announced segments of main are here"
    );
    let short = Commit {
        target_duration: 5,
        ..commit(3)
    };
    let text = bench
        .store()
        .commit_upload(&name, short)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("longer than the target duration of 5 s"),
        "{text}"
    );
    assert!(bench.store().catalog().is_empty());
    bench.store().commit_upload(&name, commit(3)).unwrap();
    assert!(bench.content("film").is_complete());
}

#[test]
fn rolling_back_leaves_nothing() {
    let bench = Bench::new();
    let name = upload_id(1);
    bench
        .store()
        .begin_upload(&name, upload("Film", "a"))
        .unwrap();
    bench
        .store()
        .stage(&name, part(0, bytes(0, 9_000)))
        .unwrap();
    bench.store().abort_upload(&name).unwrap();
    assert!(bench.files("incoming").is_empty());
    assert!(bench.store().catalog().is_empty());
    let text = bench
        .store()
        .stage(&name, part(1, bytes(1, 9_000)))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("it was committed, rolled back, or the node was restarted"),
        "{text}"
    );
    assert!(bench.files("incoming").is_empty());
}

#[test]
fn the_same_source_resumes_with_what_it_had() {
    let mut bench = Bench::new();
    bench
        .store()
        .begin_upload(&upload_id(1), upload("Film", "a"))
        .unwrap();
    let (root, _) = bench
        .store()
        .stage(&upload_id(1), part(0, bytes(0, 9_000)))
        .unwrap();
    let again = bench
        .store()
        .begin_upload(&upload_id(2), upload("Film", "a"))
        .unwrap();
    assert!(again.resumed);
    assert_eq!(again.id, upload_id(1));
    assert_eq!(again.segments.len(), 1);
    assert_eq!(again.segments[0].record.root, root);
    let other = bench
        .store()
        .begin_upload(&upload_id(3), upload("Film", "b"))
        .unwrap();
    assert!(!other.resumed);
    assert_eq!(
        other.content.version, 2,
        "two at once do not meet in one version"
    );

    bench.reopen();
    assert!(bench.files("incoming").is_empty(), "a restart rolls back");
    let fresh = bench
        .store()
        .begin_upload(&upload_id(4), upload("Film", "a"))
        .unwrap();
    assert!(!fresh.resumed && fresh.segments.is_empty());
}

#[test]
fn an_idle_upload_is_rolled_back() {
    let bench = Bench::with(|settings| settings.upload_idle = std::time::Duration::ZERO);
    bench
        .store()
        .begin_upload(&upload_id(1), upload("Film", "a"))
        .unwrap();
    bench
        .store()
        .stage(&upload_id(1), part(0, bytes(0, 9_000)))
        .unwrap();
    bench.store().abort_idle_uploads();
    assert!(bench.store().upload_progress().is_empty());
    assert!(bench.files("incoming").is_empty());

    let patient = Bench::new();
    patient
        .store()
        .begin_upload(&upload_id(1), upload("Film", "a"))
        .unwrap();
    patient.store().abort_idle_uploads();
    assert_eq!(patient.store().upload_progress().len(), 1);
}

#[test]
fn the_same_source_is_not_published_twice() {
    let bench = Bench::new();
    publish(bench.store(), "Film", 1, 2).unwrap();
    let text = publish(bench.store(), "Film", 1, 2)
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("already here: \"film\" version 1"),
        "{text}"
    );
    assert_eq!(bench.store().catalog().len(), 1);
}

#[test]
fn ingesting_again_makes_a_version_and_the_old_one_stays_an_hour() {
    let bench = Bench::new();
    publish(bench.store(), "Film", 1, 2).unwrap();
    let old = bench.content("film");
    bench.store().pin(old.no, true).unwrap();
    bench.at(60);
    publish(bench.store(), "Film", 2, 3).unwrap();
    let new = bench.content("film");
    assert_eq!((new.key.version, new.segment_count()), (2, 3));
    assert!(new.pinned, "a pin is of the content, not of its version");
    assert_eq!(bench.store().catalog().current_count(), 1);
    let first = bench
        .store()
        .catalog()
        .find(None, &id("film"), Some(1))
        .cloned()
        .unwrap();
    assert!(first.superseded && !first.pinned);
    assert_eq!(
        read(bench.store(), &first, 0, Kind::Media, 0),
        Some(bytes(1000, 20_000))
    );
    bench.at(60 + 3600);
    bench.store().append(vod("tick", 0)).unwrap();
    assert!(
        bench
            .store()
            .catalog()
            .find(None, &id("film"), Some(1))
            .is_none()
    );
    assert_eq!(bench.read("film", 2), Some(bytes(2002, 20_000)));
}

#[test]
fn an_older_version_cannot_come_after_a_newer() {
    let bench = Bench::new();
    for n in [1, 2] {
        let source = format!("{n}");
        bench
            .store()
            .begin_upload(&upload_id(n), upload("Film", &source))
            .unwrap();
        bench
            .store()
            .stage(&upload_id(n), part(0, bytes(n, 9_000)))
            .unwrap();
    }
    bench
        .store()
        .commit_upload(&upload_id(2), commit(1))
        .unwrap();
    let text = bench
        .store()
        .commit_upload(&upload_id(1), commit(1))
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "version 2 of \"film\" was published meanwhile; ingest again"
    );
    assert_eq!(bench.store().catalog().current_count(), 1);
    assert_eq!(bench.read("film", 0), Some(bytes(2, 9_000)));
    assert!(bench.files("incoming").is_empty());
}

#[test]
fn derived_ids_are_told_apart_and_chosen_ones_refused_when_they_look_alike() {
    let bench = Bench::new();
    publish(bench.store(), "My Film", 1, 1).unwrap();
    let same = publish(bench.store(), "My: Film!", 2, 1).unwrap();
    assert!(
        same.content_id.as_str().starts_with("my_film-"),
        "{}",
        same.content_id
    );
    let alike = publish(bench.store(), "MyFilm", 3, 1).unwrap();
    assert!(
        alike.content_id.as_str().starts_with("myfilm-"),
        "{}",
        alike.content_id
    );
    let chosen = NewUpload {
        content_id: Some(id("My-Film")),
        ..upload("Other", "4")
    };
    let text = bench
        .store()
        .begin_upload(&upload_id(4), chosen)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("looks like \"my_film\", which is here"),
        "{text}"
    );
    assert_eq!(bench.store().catalog().len(), 3);
}

/// What a client signs: the manifest of its upload with [`commit`]'s facts.
fn manifest_of(upload: &UploadInfo) -> Manifest {
    let records: Vec<_> = upload
        .segments
        .iter()
        .map(|segment| SegmentRecord {
            target_duration: 6,
            ..segment.record.clone()
        })
        .collect();
    let leaves: Vec<_> = records.iter().map(|record| record.leaf()).collect();
    let rendition = commit(1).renditions.remove(0);
    let info = RenditionInfo {
        name: rendition.name,
        mime: MimeType::TransportStream,
        bandwidth: rendition.bandwidth,
        average_bandwidth: rendition.average_bandwidth,
        codecs: rendition.codecs,
        width: rendition.width,
        height: rendition.height,
        frame_rate_milli: rendition.frame_rate_milli,
        inits: 0,
        first: 0,
        segments: records.len() as u64,
        duration: records.iter().map(|record| record.duration).sum(),
        bytes: records.iter().map(|record| record.length).sum(),
    };
    Manifest {
        content: upload.content.clone(),
        title: upload.title.clone(),
        priority: upload.priority,
        created: upload.created,
        ttl: upload.ttl,
        target_duration: 6,
        to: Vec::new(),
        renditions: vec![info],
        records_root: merkle_root(&leaves),
    }
}

#[test]
fn another_publishers_content_needs_a_signature_by_its_key() {
    let bench = Bench::new();
    let theirs = key(7);
    let name = upload_id(1);
    let new = NewUpload {
        publisher: Some(theirs.publisher()),
        ..upload("Film", "a")
    };
    bench.store().begin_upload(&name, new).unwrap();
    bench
        .store()
        .stage(&name, part(0, bytes(0, 9_000)))
        .unwrap();
    let text = bench
        .store()
        .commit_upload(&name, commit(1))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("commit it with a signature by its key"),
        "{text}"
    );

    let manifest = manifest_of(&bench.store().upload(&name).unwrap());
    let with = |signature| Commit {
        signature: Some(signature),
        ..commit(1)
    };
    let forged = bench
        .store()
        .commit_upload(&name, with(Signature([3; 64])))
        .unwrap_err();
    assert!(
        forged.to_string().contains("signature does not match"),
        "{forged}"
    );
    assert!(bench.store().catalog().is_empty());
    bench
        .store()
        .commit_upload(&name, with(manifest.sign(&theirs).unwrap()))
        .unwrap();
    let content = bench.content("film");
    assert_eq!(content.key.publisher, theirs.publisher());
    assert!(bench.store().manifest(&content).is_some());
    assert_eq!(bench.read("film", 0), Some(bytes(0, 9_000)));
}

#[test]
fn a_plain_id_means_the_first_publisher_that_was_here() {
    let bench = Bench::new();
    publish(bench.store(), "Film", 1, 1).unwrap();
    let theirs = key(7).publisher();
    let new = NewUpload {
        publisher: Some(theirs),
        ..upload("Film", "a")
    };
    let begun = bench.store().begin_upload(&upload_id(9), new).unwrap();
    assert_eq!(
        (begun.content.publisher, begun.content.version),
        (theirs, 1)
    );
    assert_eq!(
        bench.content("film").key.publisher,
        bench.store().publisher()
    );
}

#[test]
fn cmaf_needs_the_init_segments_that_it_names() {
    let bench = Bench::new();
    let name = upload_id(1);
    let renditions = vec![(Rendition::main(), MimeType::Mp4)];
    let new = NewUpload {
        renditions,
        ..upload("Film", "a")
    };
    bench.store().begin_upload(&name, new).unwrap();
    let media = UploadSegment {
        init: Some(0),
        ..part(0, bytes(0, 9_000))
    };
    bench.store().stage(&name, media).unwrap();
    let mut whole = commit(1);
    whole.renditions[0].inits = 1;
    let text = bench
        .store()
        .commit_upload(&name, whole.clone())
        .unwrap_err()
        .to_string();
    assert!(text.contains("init segment 0 of main is missing"), "{text}");
    let init = UploadSegment {
        kind: Kind::Init,
        duration: 0,
        ..part(0, bytes(5, 900))
    };
    bench.store().stage(&name, init).unwrap();
    bench.store().commit_upload(&name, whole).unwrap();
    let content = bench.content("film");
    assert_eq!(
        read(bench.store(), &content, 0, Kind::Init, 0),
        Some(bytes(5, 900))
    );
    assert_eq!(content.segment_count(), 1);
}

#[test]
fn uploads_are_limited_in_number_and_shape() {
    let bench = Bench::new();
    for n in 0..16 {
        bench
            .store()
            .begin_upload(&upload_id(n), upload(&format!("Film {n}"), "x"))
            .unwrap();
    }
    let text = bench
        .store()
        .begin_upload(&upload_id(16), upload("More", "x"))
        .unwrap_err();
    assert!(
        text.to_string().contains("16 uploads are running"),
        "{text}"
    );
    let refuse = |new| {
        bench
            .store()
            .begin_upload(&upload_id(17), new)
            .unwrap_err()
            .to_string()
    };
    assert!(refuse(upload(" \u{202e} ", "y")).contains("title must not be empty"));
    assert!(refuse(upload("F", &"y".repeat(201))).contains("at most 200 bytes"));
    let twice = vec![
        (Rendition::main(), MimeType::Mp4),
        (Rendition::main(), MimeType::Mp4),
    ];
    let new = NewUpload {
        renditions: twice,
        ..upload("F", "y")
    };
    assert!(refuse(new).contains("same name"));
    let bad = UploadSegment {
        init: Some(u64::MAX),
        ..part(0, bytes(0, 10))
    };
    let text = bench
        .store()
        .stage(&upload_id(0), bad)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("init segments are numbered below 1000"),
        "{text}"
    );
    let text = bench
        .store()
        .stage(&upload_id(0), part(0, Bytes::new()))
        .unwrap_err();
    assert!(text.to_string().contains("must not be empty"), "{text}");
}

#[test]
fn stage_abort_and_commit_at_once_leave_no_file() {
    let bench = Bench::new();
    for round in 0..20 {
        let name = upload_id(round);
        bench
            .store()
            .begin_upload(&name, upload(&format!("Film {round}"), "a"))
            .unwrap();
        bench
            .store()
            .stage(&name, part(0, bytes(round, 9_000)))
            .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for sequence in 1..5 {
                    let _ = bench
                        .store()
                        .stage(&name, part(sequence, bytes(sequence, 9_000)));
                }
            });
            scope.spawn(|| {
                let _ = bench.store().commit_upload(&name, commit(1));
            });
            scope.spawn(|| {
                let _ = bench.store().abort_upload(&name);
            });
        });
        let _ = bench.store().abort_upload(&name);
        assert!(bench.files("incoming").is_empty(), "round {round}");
    }
    for content in bench.store().catalog().all() {
        assert_eq!(content.segment_count(), 1);
        assert!(read(bench.store(), content, 0, Kind::Media, 0).is_some());
    }
}
