//! Finished contents whose manifest comes over a link, removals, and the feed of changes.

use lavant_proto::content::{
    Proof, SegmentRecord, SignedManifest, Unverified, Verified, prove_range, verify_range,
};

use super::super::Change;
use super::partial::{pass_all, signed};
use super::*;

pub(super) type Said = (Verified<SignedManifest>, Vec<Verified<SegmentRecord>>);

/// What a node says of a content that is complete there.
pub(super) fn said(store: &Store, content: &Content) -> Said {
    let manifest = store.manifest(content).unwrap();
    let mut records = Vec::new();
    for no in 0..content.renditions.len() as u16 {
        for kind in [Kind::Init, Kind::Media] {
            for (sequence, _) in store.rows(content, no, kind).unwrap() {
                let segment = store.segment(content, no, kind, sequence).unwrap().unwrap();
                let record = Unverified::new(store.record(content, &segment));
                let leaf = &manifest.leaves[records.len()];
                records.push(record.verify_leaf(leaf).unwrap());
            }
        }
    }
    (manifest, records)
}

/// Takes over segments of a manifest that was admitted.
pub(super) fn fetch(from: &Store, to: &Store, records: &[Verified<SegmentRecord>]) {
    for record in records {
        pass_all(from, to, &record.root, record.length);
        to.adopt(record.clone(), Proof::Manifest, None, Shown::default())
            .unwrap();
    }
}

#[test]
fn a_finished_content_comes_by_its_manifest_and_segment_by_segment() {
    let (from, mut here) = (Bench::new(), Bench::new());
    publish(from.store(), "Film", 1, 5).unwrap();
    let original = from.content("film");
    let (manifest, records) = said(from.store(), &original);
    let mut feed = here.store().subscribe();
    let no = here
        .store()
        .admit(manifest.clone(), records.clone())
        .unwrap();
    assert_eq!(
        feed.try_recv().unwrap(),
        [Change::Admitted { content_no: no }]
    );
    assert!(feed.try_recv().is_err());
    let content = here.content("film");
    assert_eq!(
        (content.key.clone(), content.no),
        (original.key.clone(), no)
    );
    assert_eq!(content.renditions[0].info, original.renditions[0].info);
    assert!(!content.is_complete() && content.segment_count() == 0);
    assert!(here.store().holdings(&content).unwrap().is_empty());
    let again = here.store().admit(manifest.clone(), records.clone());
    assert_eq!(again, Ok(no), "a second time changes nothing");
    fetch(from.store(), here.store(), &records[1..3]);
    let stored = Change::Stored {
        content_no: no,
        rendition_no: 0,
        kind: Kind::Media,
        sequence: 1,
        length: records[1].length,
        root: records[1].root,
    };
    assert_eq!(feed.try_recv().unwrap(), [stored]);
    here.reopen();
    let content = here.content("film");
    let held = here.store().holdings(&content).unwrap();
    assert_eq!(held, [(0, Kind::Media, vec![1..=2])]);
    fetch(from.store(), here.store(), &records);
    assert!(here.content("film").is_complete());
    here.close();
    std::fs::remove_file(here.path().join("index.redb")).unwrap();
    here.reopen();
    assert!(here.content("film").is_complete());
    for sequence in 0..5 {
        assert_eq!(here.read("film", sequence), from.read("film", sequence));
    }
    let (passed_on, _) = said(here.store(), &here.content("film"));
    assert_eq!(passed_on, manifest);
    let proof = prove_range(&manifest.leaves, 1..3);
    let root = manifest.manifest.records_root;
    assert!(verify_range(&root, 5, 1, &manifest.leaves[1..3], &proof));
}

#[test]
fn a_growing_content_becomes_the_finished_one_and_keeps_what_it_has() {
    let (from, here) = (Bench::new(), Bench::new());
    let of = |name: &str, sequence| NewSegment {
        rendition: Rendition::new(name).unwrap(),
        payload: bytes(name.len() as u64 * 100 + sequence, 20_000),
        ..vod("film", sequence)
    };
    let mut came = Vec::new();
    for name in ["low", "high"] {
        came.extend((0..3).map(|n| signed(from.store(), of(name, n))));
    }
    // Its renditions come in another order than in the manifest.
    for (record, proof, root, length) in came.iter().skip(2).rev() {
        pass_all(from.store(), here.store(), root, *length);
        here.store()
            .adopt(record.clone(), proof.clone(), None, Shown::default())
            .unwrap();
    }
    let growing = here.content("film");
    assert_eq!(growing.renditions[0].info.name.as_str(), "high");
    here.store().pin(growing.no, true).unwrap();
    from.store().finish(&id("film")).unwrap();
    let (manifest, records) = said(from.store(), &from.content("film"));
    let no = here.store().admit(manifest, records.clone()).unwrap();
    assert_eq!(no, growing.no);
    let content = here.content("film");
    assert_eq!(content.renditions[0].info.name.as_str(), "low");
    assert!(content.pinned && content.state == super::super::State::Finished);
    let held = here.store().holdings(&content).unwrap();
    assert_eq!(
        held,
        [(0, Kind::Media, vec![2..=2]), (1, Kind::Media, vec![0..=2])]
    );
    fetch(from.store(), here.store(), &records[..2]);
    assert!(here.content("film").is_complete());
    let stats = here.store().stats();
    assert_eq!((stats.bytes, stats.segments), (6 * size(20_000), 6));
    let report = here.store().check(|_, _| true).unwrap();
    assert_eq!((report.intact, report.unknown_files), (6, 0));
    let high = read(here.store(), &here.content("film"), 1, Kind::Media, 1);
    assert_eq!(high, Some(bytes(401, 20_000)));
}

#[test]
fn what_disagrees_with_the_manifest_is_replaced() {
    let (from, here) = (Bench::new(), Bench::new());
    let (first, proof, root, length) = signed(from.store(), vod("film", 0));
    pass_all(from.store(), here.store(), &root, length);
    here.store()
        .adopt(first, proof, None, Shown::default())
        .unwrap();
    // The publisher's own node lost its store and publishes other bytes as the same version.
    let other = Bench::new();
    let new = NewSegment {
        payload: bytes(77, 30_000),
        ..vod("film", 0)
    };
    other.store().append(new).unwrap();
    other.store().finish(&id("film")).unwrap();
    let (manifest, records) = said(other.store(), &other.content("film"));
    let mut feed = here.store().subscribe();
    let no = here.store().admit(manifest, records.clone()).unwrap();
    let dropped = Change::Dropped {
        torn: false,
        content_no: no,
        rendition_no: 0,
        kind: Kind::Media,
        sequence: 0,
    };
    let admitted = Change::Admitted { content_no: no };
    assert_eq!(feed.try_recv().unwrap(), [dropped, admitted]);
    assert_eq!(here.store().stats().bytes, 0);
    assert!(here.files("segments").is_empty());
    fetch(other.store(), here.store(), &records);
    assert_eq!(here.read("film", 0), Some(bytes(77, 30_000)));
}

#[test]
fn the_playlist_of_a_stream_that_ended_does_not_go_back() {
    let (from, here) = (Bench::new(), Bench::new());
    let came: Vec<_> = (0..6)
        .map(|n| signed(from.store(), live("cam", n)))
        .collect();
    for (record, proof, root, length) in &came[3..5] {
        pass_all(from.store(), here.store(), root, *length);
        here.store()
            .adopt(record.clone(), proof.clone(), Some(3), Shown::default())
            .unwrap();
    }
    from.store().finish(&id("cam")).unwrap();
    let (manifest, records) = said(from.store(), &from.content("cam"));
    here.store().admit(manifest, records.clone()).unwrap();
    assert_eq!(here.content("cam").renditions[0].first, 3);
    let early = here
        .store()
        .adopt(records[0].clone(), Proof::Manifest, None, Shown::default());
    pass_all(
        from.store(),
        here.store(),
        &records[0].root,
        records[0].length,
    );
    assert!(early.is_err());
    let early = here
        .store()
        .adopt(records[0].clone(), Proof::Manifest, None, Shown::default());
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    fetch(from.store(), here.store(), &records[5..]);
    assert!(here.content("cam").is_complete());
}

#[test]
fn a_removed_content_does_not_come_back_by_itself() {
    let (from, mut here) = (Bench::new(), Bench::new());
    let (record, proof, root, length) = signed(from.store(), vod("clip", 0));
    publish(from.store(), "Film", 1, 1).unwrap();
    let (manifest, records) = said(from.store(), &from.content("film"));
    let mut feed = here.store().subscribe();
    let adopt = |store: &Store| {
        pass_all(from.store(), store, &root, length);
        store.adopt(record.clone(), proof.clone(), None, Shown::default())
    };
    let admit = |store: &Store| store.admit(manifest.clone(), records.clone());
    assert!(adopt(here.store()).unwrap() && admit(here.store()).is_ok());
    for name in ["clip", "film"] {
        here.store().remove(&here.content(name)).unwrap();
    }
    let mut removed = Vec::new();
    while let Ok(batch) = feed.try_recv() {
        removed.extend(batch.into_iter().filter_map(|change| match change {
            Change::Removed { key, .. } => Some(key.content_id.to_string()),
            _ => None,
        }));
    }
    assert_eq!(removed, ["clip", "film"]);
    here.reopen();
    assert!(matches!(admit(here.store()), Err(StoreError::Removed(_))));
    let early = here.store().partial_of(&record);
    assert!(matches!(early, Err(StoreError::Removed(_))), "{early:?}");
    let text = adopt(here.store()).unwrap_err().to_string();
    assert_eq!(
        text,
        "\"clip\" was removed here and does not come back by itself"
    );
    assert!(here.store().catalog().is_empty());
    let forget = |name, publisher| {
        let wanted = [(id(name), publisher)].into_iter().collect();
        here.store().forget_removals(&wanted).unwrap()
    };
    assert_eq!(forget("clip", Some(key(2).publisher())), 0);
    assert_eq!(forget("clip", Some(key(1).publisher())), 1);
    assert_eq!(forget("clip", None), 0, "it is forgotten");
    assert!(adopt(here.store()).unwrap());
    // What the publisher makes anew does come, and what the node itself makes.
    from.store().remove(&from.content("film")).unwrap();
    publish(from.store(), "Film", 2, 1).unwrap();
    let (manifest, records) = said(from.store(), &from.content("film"));
    assert_eq!(manifest.manifest.content.version, 2);
    assert!(here.store().admit(manifest, records).is_ok());
}

#[test]
fn a_later_version_takes_the_place_of_the_earlier_and_not_the_other_way() {
    let (from, here) = (Bench::new(), Bench::new());
    publish(from.store(), "Film", 1, 2).unwrap();
    let (first, first_records) = said(from.store(), &from.content("film"));
    publish(from.store(), "Film", 2, 2).unwrap();
    let (second, second_records) = said(from.store(), &from.content("film"));
    here.store()
        .admit(first.clone(), first_records.clone())
        .unwrap();
    fetch(from.store(), here.store(), &first_records);
    here.store().admit(second, second_records).unwrap();
    assert_eq!(here.content("film").key.version, 2);
    let old = here.store().catalog();
    assert!(
        old.all()
            .any(|content| content.superseded && content.key.version == 1)
    );
    drop(old);
    let late = Bench::new();
    let (second, second_records) = said(from.store(), &from.content("film"));
    late.store().admit(second, second_records).unwrap();
    let text = late
        .store()
        .admit(first, first_records)
        .unwrap_err()
        .to_string();
    assert_eq!(text, "a later version of \"film\" is here");
}

#[test]
fn manifests_that_cannot_be_used_are_refused() {
    let (from, here) = (Bench::new(), Bench::new());
    publish(from.store(), "Film", 1, 2).unwrap();
    let (manifest, records) = said(from.store(), &from.content("film"));
    let admit = |records: &[_]| here.store().admit(manifest.clone(), records.to_vec());
    for wrong in [
        &records[..1],
        &[],
        &[records[1].clone(), records[0].clone()],
    ] {
        assert!(matches!(admit(wrong), Err(StoreError::Invalid(_))));
    }
    here.store().append(vod("Fi_lm", 0)).unwrap();
    let text = admit(&records).unwrap_err().to_string();
    assert!(text.contains("looks like"), "{text}");
    here.store().remove(&here.content("Fi_lm")).unwrap();
    here.at(31 * 86_400);
    assert_eq!(
        admit(&records).unwrap_err().to_string(),
        "the time of \"film\" is over"
    );
    here.at(0);
    assert!(admit(&records).is_ok());
}

#[test]
fn what_goes_is_told_once_it_is_durable() {
    let here = Bench::new();
    let mut feed = here.store().subscribe();
    here.store().append(live("cam", 0)).unwrap();
    let batch = feed.try_recv().unwrap();
    assert!(matches!(
        batch[..],
        [
            Change::Admitted { content_no: 1 },
            Change::Stored { sequence: 0, .. }
        ]
    ));
    here.store().append(live("cam", 0)).unwrap();
    assert!(feed.try_recv().is_err(), "the same again is no change");
    here.at(31 * 60);
    here.store().append(live("cam", 1)).unwrap();
    let batch = feed.try_recv().unwrap();
    let dropped = Change::Dropped {
        torn: false,
        content_no: 1,
        rendition_no: 0,
        kind: Kind::Media,
        sequence: 0,
    };
    assert!(batch.contains(&dropped), "{batch:?}");
    drop(feed);
    here.store().append(live("cam", 2)).unwrap();
    assert!(super::super::lock(&here.store().shared.listeners).is_empty());
}

#[test]
fn what_is_known_elsewhere_goes_first() {
    let here = Bench::with(|settings| settings.limit = Some(size(20_000) * 4));
    for content in ["old", "new"] {
        for sequence in 0..2 {
            here.store().append(vod(content, sequence)).unwrap();
        }
        here.at(10);
    }
    let known = |copies| {
        let no = here.content("new").no;
        let main = (0, Kind::Media);
        here.store().set_copies(no, main, vec![(0..9, copies)])
    };
    known(3).unwrap();
    here.store().append(vod("more", 0)).unwrap();
    assert_eq!(here.playlist("new"), [(0, true), (1, false)]);
    known(0).unwrap();
    here.store().append(vod("more", 1)).unwrap();
    assert_eq!(here.playlist("old"), [(0, true), (1, false)]);
    let nowhere = here.store().set_copies(99, (0, Kind::Media), Vec::new());
    assert!(nowhere.is_err());
}
