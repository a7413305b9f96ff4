//! Payloads that come in pieces.

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::ids::Root;
use lavant_proto::verify::{HaveRanges, decode_slice, group_count};

use super::*;

const LENGTH: usize = 300_000;

fn groups(start: u64, end: u64) -> HaveRanges {
    let mut groups = HaveRanges::new();
    groups.insert(start, end).unwrap();
    groups
}

/// A node that has one segment whole, and the record that it signed.
fn sender(payload: &Bytes) -> (Bench, Verified<SegmentRecord>, Proof) {
    let bench = Bench::new();
    bench
        .store()
        .append(NewSegment {
            payload: payload.clone(),
            ..vod("film", 0)
        })
        .unwrap();
    let content = bench.content("film");
    let segment = bench
        .store()
        .segment(&content, 0, Kind::Media, 0)
        .unwrap()
        .unwrap();
    let record = bench.store().record(&content, &segment);
    let signature = segment.row.signature.unwrap();
    let claim = lavant_proto::content::Unverified::new(record);
    (
        bench,
        claim.verify(&signature).unwrap(),
        Proof::Signature(signature),
    )
}

/// Moves chunk groups from one node to another.
fn pass(from: &Bench, to: &Bench, root: &Root, wanted: &HaveRanges) -> HaveRanges {
    let slice = from.store().slice(root, LENGTH as u64, wanted).unwrap();
    let slice = decode_slice(&slice, root, LENGTH as u64, wanted).unwrap();
    to.store().put_slice(root, LENGTH as u64, &slice).unwrap()
}

#[test]
fn a_broken_transfer_goes_on_with_any_node_after_any_restart() {
    let payload = bytes(1, LENGTH);
    let (one, record, proof) = sender(&payload);
    let (two, ..) = sender(&payload);
    let mut here = Bench::with(|_| {});
    let root = record.root;
    let count = group_count(LENGTH as u64);
    assert_eq!(here.store().have(&root, LENGTH as u64).unwrap(), None);
    for (turn, group) in [7, 0, 18, 3, 4, 11].into_iter().enumerate() {
        let from = if turn % 2 == 0 { &one } else { &two };
        let have = pass(from, &here, &root, &groups(group, group + 1));
        assert_eq!(have.count(), turn as u64 + 1);
        here.reopen();
        assert_eq!(here.store().have(&root, LENGTH as u64).unwrap(), Some(have));
    }
    let early = here
        .store()
        .adopt(record.clone(), proof.clone())
        .unwrap_err()
        .to_string();
    assert_eq!(early, "parts of the segment have not come yet");
    let onward = here
        .store()
        .slice(&root, LENGTH as u64, &groups(3, 5))
        .unwrap();
    assert!(decode_slice(&onward, &root, LENGTH as u64, &groups(3, 5)).is_ok());
    assert!(
        here.store()
            .slice(&root, LENGTH as u64, &groups(5, 6))
            .is_err(),
        "not here yet"
    );

    let missing = here
        .store()
        .have(&root, LENGTH as u64)
        .unwrap()
        .unwrap()
        .missing(count);
    for run in missing.runs() {
        pass(&two, &here, &root, &groups(run.start, run.end));
    }
    assert!(
        here.store().catalog().is_empty(),
        "nothing is seen before it is whole"
    );
    assert!(here.store().adopt(record.clone(), proof.clone()).unwrap());
    assert_eq!(here.read("film", 0), Some(payload.clone()));
    assert!(here.files("partial").is_empty() && here.files("incoming").is_empty());
    assert_eq!(here.store().stats().bytes, size(LENGTH as u64));
    assert!(!here.store().adopt(record, proof).unwrap());
    assert!(here.files("incoming").is_empty());
    here.reopen();
    assert_eq!(here.read("film", 0), Some(payload));
    let whole = here.store().have(&root, LENGTH as u64).unwrap().unwrap();
    assert_eq!(whole, HaveRanges::full(count));
}

#[test]
fn forged_bytes_do_not_reach_the_store() {
    let payload = bytes(1, LENGTH);
    let (one, record, _) = sender(&payload);
    let wanted = groups(2, 4);
    let mut slice = one
        .store()
        .slice(&record.root, LENGTH as u64, &wanted)
        .unwrap();
    let middle = slice.len() / 2;
    slice[middle] ^= 1;
    assert!(decode_slice(&slice, &record.root, LENGTH as u64, &wanted).is_err());
    let other = bytes(2, LENGTH);
    let (two, foreign, _) = sender(&other);
    let slice = two
        .store()
        .slice(&foreign.root, LENGTH as u64, &wanted)
        .unwrap();
    assert!(decode_slice(&slice, &record.root, LENGTH as u64, &wanted).is_err());
}

#[test]
fn a_partial_file_damaged_on_disk_is_dropped_and_not_adopted() {
    let payload = bytes(1, LENGTH);
    let (one, record, proof) = sender(&payload);
    let here = Bench::new();
    let all = HaveRanges::full(group_count(LENGTH as u64));
    pass(&one, &here, &record.root, &all);
    let file = here.files("partial").remove(0);
    let mut damaged = std::fs::read(&file).unwrap();
    damaged[100_000] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let text = here
        .store()
        .adopt(record.clone(), proof.clone())
        .unwrap_err()
        .to_string();
    assert!(text.contains("fetch them again"), "{text}");
    assert_eq!(
        here.store().have(&record.root, LENGTH as u64).unwrap(),
        None
    );
    assert!(here.files("partial").is_empty() && here.files("incoming").is_empty());
    pass(&one, &here, &record.root, &all);
    assert!(here.store().adopt(record, proof).unwrap());
    assert_eq!(here.read("film", 0), Some(payload));
}

#[test]
fn a_refused_adoption_keeps_the_parts() {
    let payload = bytes(1, LENGTH);
    let (one, record, proof) = sender(&payload);
    let here = Bench::new();
    publish(here.store(), "FILM", 9, 1).unwrap();
    let alike = here
        .store()
        .catalog()
        .all()
        .next()
        .unwrap()
        .key
        .content_id
        .clone();
    assert_eq!(
        alike.as_str(),
        "film",
        "the same id of another publisher is no look-alike"
    );
    here.store().remove(&here.content("film")).unwrap();
    here.store().append(vod("Film", 0)).unwrap();
    let all = HaveRanges::full(group_count(LENGTH as u64));
    pass(&one, &here, &record.root, &all);
    let text = here
        .store()
        .adopt(record.clone(), proof.clone())
        .unwrap_err()
        .to_string();
    assert!(text.contains("looks like"), "{text}");
    assert_eq!(
        here.store().have(&record.root, LENGTH as u64).unwrap(),
        Some(all)
    );
    assert!(here.files("incoming").is_empty());
    here.store().remove(&here.content("Film")).unwrap();
    assert!(here.store().adopt(record, proof).unwrap());
}

#[test]
fn partial_payloads_count_for_the_limit() {
    let payload = bytes(1, LENGTH);
    let (one, record, _) = sender(&payload);
    let here = Bench::with(|settings| settings.limit = Some(60_000));
    here.store().append(live("cam", 0)).unwrap();
    pass(&one, &here, &record.root, &groups(0, 2));
    let wanted = groups(2, 4);
    let slice = one
        .store()
        .slice(&record.root, LENGTH as u64, &wanted)
        .unwrap();
    let slice = decode_slice(&slice, &record.root, LENGTH as u64, &wanted).unwrap();
    let text = here
        .store()
        .put_slice(&record.root, LENGTH as u64, &slice)
        .unwrap_err();
    assert!(
        text.to_string().contains("limit of 60000 bytes is reached"),
        "{text}"
    );
    assert_eq!(here.store().stats().bytes, size(20_000) + 2 * 16_384);
}

#[test]
fn lengths_beyond_all_limits_are_refused() {
    let bench = Bench::new();
    let root = Root([1; 32]);
    assert!(bench.store().slice(&root, u64::MAX, &groups(0, 1)).is_err());
    let text = bench
        .store()
        .slice(&root, 1000, &groups(0, 1))
        .unwrap_err()
        .to_string();
    assert!(text.ends_with("is not here"), "{text}");
}

#[test]
fn what_a_stop_left_of_partial_payloads_is_put_in_order() {
    let payload = bytes(1, LENGTH);
    let (one, record, _) = sender(&payload);
    let mut here = Bench::new();
    pass(&one, &here, &record.root, &groups(0, 2));
    std::fs::write(here.path().join("partial").join("garbage"), "x").unwrap();
    std::fs::write(here.path().join("partial").join("ab".repeat(32)), "x").unwrap();
    here.reopen();
    assert_eq!(here.files("partial").len(), 1);
    here.close();
    std::fs::remove_file(here.path().join("partial").join(record.root.to_string())).unwrap();
    here.reopen();
    assert_eq!(
        here.store().have(&record.root, LENGTH as u64).unwrap(),
        None
    );
    assert_eq!(here.store().stats().bytes, 0);
}
