//! Payloads that come in pieces.

use std::io::IoSliceMut;
use std::sync::atomic::{AtomicU64, Ordering};

use lavant_proto::content::{Proof, SegmentRecord, Verified};
use lavant_proto::ids::Root;
use lavant_proto::verify::{
    FRAME_BYTES_MAX, FrameReader, FrameWriter, GroupRange, HaveRanges, VerifiedFrame, group_count,
};

use super::super::limit::Claim;
use super::super::{Partial, SliceFile};
use super::*;

const LENGTH: u64 = 300_000;

pub(super) fn run(start: u64, end: u64) -> GroupRange {
    GroupRange::new(start, end)
}

fn groups(start: u64, end: u64) -> HaveRanges {
    let mut groups = HaveRanges::new();
    groups.insert(start, end).unwrap();
    groups
}

/// A segment that a node has whole, with what another one needs to take it over.
pub(super) fn signed(
    store: &Store,
    new: NewSegment,
) -> (Verified<SegmentRecord>, Proof, Root, u64) {
    let (id, kind, sequence) = (new.content_id.clone(), new.kind, new.sequence);
    let name = new.rendition.clone();
    store.append(new).unwrap();
    let catalog = store.catalog();
    let content = catalog.find(None, &id, None).unwrap();
    let no = content.rendition_no(name.as_str()).unwrap();
    let segment = store.segment(content, no, kind, sequence).unwrap().unwrap();
    let record = store.record(content, &segment);
    let signature = segment.row.signature.unwrap();
    let claim = lavant_proto::content::Unverified::new(record);
    let record = claim.verify(&signature).unwrap();
    let (root, length) = (record.root, record.length);
    (record, Proof::Signature(signature), root, length)
}

/// A node that has one segment whole, and the record that it signed.
fn sender(payload: &Bytes) -> (Bench, Verified<SegmentRecord>, Proof) {
    let bench = Bench::new();
    let new = NewSegment {
        payload: payload.clone(),
        ..vod("film", 0)
    };
    let (record, proof, ..) = signed(bench.store(), new);
    (bench, record, proof)
}

fn frames(file: &SliceFile, groups: GroupRange) -> Vec<Vec<u8>> {
    let mut writer = FrameWriter::new(file.length, groups);
    let mut frames = Vec::new();
    while !writer.is_done() {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let parts = writer.next(&file.outboard, &mut frame).unwrap().unwrap();
        let length = (parts.leaf.end - parts.leaf.start) as usize;
        frame.truncate(parts.proof + length);
        let mut leaf = [IoSliceMut::new(&mut frame[parts.proof..])];
        file.read(parts.leaf.start, &mut leaf).unwrap();
        frames.push(frame);
    }
    frames
}

impl Store {
    /// The node's own, of no record.
    pub(super) fn partial(
        &self,
        root: &Root,
        length: u64,
        priority: Priority,
        expires: Time,
    ) -> Result<Arc<Partial>, StoreError> {
        self.claimed_partial((*root, length), (Claim::own(priority), false), expires)
    }
}

fn partial(to: &Store, root: &Root, length: u64) -> Arc<Partial> {
    to.partial(root, length, Priority::Vod, Time::MAX).unwrap()
}

/// Moves chunk groups from one node to another.
pub(super) fn pass(from: &Store, to: &Store, root: &Root, length: u64, groups: GroupRange) {
    let sent = frames(&from.slice_file(root, length).unwrap(), groups);
    let mut reader = FrameReader::new(*root, length, groups);
    let verified: Vec<VerifiedFrame<'_>> = sent
        .iter()
        .map(|frame| reader.push(frame).unwrap())
        .collect();
    partial(to, root, length).write_all(&verified).unwrap();
}

/// Moves chunk groups into a partial payload that may refuse them.
pub(super) fn try_pass(from: &Store, to: &Partial, groups: GroupRange) -> std::io::Result<()> {
    let (root, length) = (*to.root(), to.length());
    let sent = frames(&from.slice_file(&root, length).unwrap(), groups);
    let mut reader = FrameReader::new(root, length, groups);
    let verified: Vec<VerifiedFrame<'_>> = sent
        .iter()
        .map(|frame| reader.push(frame).unwrap())
        .collect();
    to.write_all(&verified)
}

/// Moves a whole payload.
pub(super) fn pass_all(from: &Store, to: &Store, root: &Root, length: u64) {
    pass(from, to, root, length, run(0, group_count(length)));
}

#[test]
fn a_broken_transfer_goes_on_with_any_node_after_any_restart() {
    let payload = bytes(1, LENGTH as usize);
    let (one, record, proof) = sender(&payload);
    let (two, ..) = sender(&payload);
    let mut here = Bench::new();
    let root = record.root;
    let count = group_count(LENGTH);
    assert_eq!(here.store().have(&root, LENGTH).unwrap(), None);
    let mut expected = HaveRanges::new();
    for (turn, group) in [7, 0, 18, 3, 4, 11].into_iter().enumerate() {
        let from = if turn % 2 == 0 { &one } else { &two };
        pass(
            from.store(),
            here.store(),
            &root,
            LENGTH,
            run(group, group + 1),
        );
        expected.insert(group, group + 1).unwrap();
        let have = here.store().have(&root, LENGTH).unwrap();
        assert_eq!(have.as_ref(), Some(&expected));
        here.reopen();
        assert!(here.store().partials().is_empty(), "not looked at yet");
        let have = here.store().have(&root, LENGTH).unwrap();
        assert_eq!(have.as_ref(), Some(&expected));
        assert_eq!(here.store().partials(), [(root, LENGTH, expected.clone())]);
    }
    let adopt = || {
        here.store()
            .adopt(record.clone(), proof.clone(), None, Shown::default())
    };
    let early = adopt().unwrap_err().to_string();
    assert_eq!(early, "parts of the segment have not come yet");
    let onward = here.store().slice_file(&root, LENGTH).unwrap();
    assert_eq!(onward.have, expected);
    let sent = frames(&onward, run(3, 5));
    let mut reader = FrameReader::new(root, LENGTH, run(3, 5));
    assert!(sent.iter().all(|frame| reader.push(frame).is_ok()));
    for gap in expected.missing(count).runs() {
        pass(two.store(), here.store(), &root, LENGTH, *gap);
    }
    assert!(
        here.store().catalog().is_empty(),
        "nothing is seen before it is whole"
    );
    assert!(adopt().unwrap());
    assert_eq!(here.read("film", 0), Some(payload.clone()));
    assert!(here.files("partial").is_empty() && here.files("incoming").is_empty());
    assert_eq!(here.store().stats().bytes, size(LENGTH));
    assert_eq!(here.store().shared.staged.load(Ordering::Acquire), 0);
    assert!(!adopt().unwrap());
    here.reopen();
    assert_eq!(here.read("film", 0), Some(payload));
    let whole = here.store().have(&root, LENGTH).unwrap();
    assert_eq!(whole, Some(HaveRanges::full(count)));
    let report = here.store().check(|_, _| true).unwrap();
    assert_eq!((report.intact, report.unknown_files), (1, 0));
}

#[test]
fn an_adopted_segment_survives_the_loss_of_the_index() {
    let payload = bytes(1, LENGTH as usize);
    let (one, record, proof) = sender(&payload);
    let mut here = Bench::new();
    pass_all(one.store(), here.store(), &record.root, LENGTH);
    here.store()
        .adopt(record, proof, None, Shown::default())
        .unwrap();
    here.close();
    std::fs::remove_file(here.path().join("index.redb")).unwrap();
    here.reopen();
    assert_eq!(here.read("film", 0), Some(payload));
}

#[test]
fn a_frame_of_another_segment_is_refused() {
    let (one, record, _) = sender(&bytes(1, LENGTH as usize));
    let (two, foreign, _) = sender(&bytes(2, LENGTH as usize));
    let here = Bench::new();
    let target = partial(here.store(), &record.root, LENGTH);
    let sent = frames(
        &two.store().slice_file(&foreign.root, LENGTH).unwrap(),
        run(0, 1),
    );
    let mut reader = FrameReader::new(foreign.root, LENGTH, run(0, 1));
    let verified = reader.push(&sent[0]).unwrap();
    assert!(target.write_all(&[verified]).is_err());
    assert!(target.have().runs().is_empty());
    pass(one.store(), here.store(), &record.root, LENGTH, run(2, 5));
    assert_eq!(target.have(), groups(2, 5));
    pass(one.store(), here.store(), &record.root, LENGTH, run(0, 4));
    assert_eq!(target.have(), groups(0, 5), "one handle for all");
}

#[test]
fn what_is_damaged_on_disk_is_not_taken_up_again_and_doubt_finds_it() {
    let payload = bytes(1, LENGTH as usize);
    let (one, record, proof) = sender(&payload);
    let mut here = Bench::new();
    let root = record.root;
    pass(one.store(), here.store(), &root, LENGTH, run(0, 9));
    let damage = |here: &Bench, folder| {
        let file = here.files(folder).remove(0);
        let mut damaged = std::fs::read(&file).unwrap();
        damaged[100_000] ^= 1;
        std::fs::write(&file, damaged).unwrap();
    };
    damage(&here, "partial");
    assert_eq!(
        here.store().have(&root, LENGTH).unwrap(),
        Some(groups(0, 9))
    );
    assert!(here.store().doubt(&root).unwrap());
    let mut left = groups(0, 6);
    left.insert(7, 9).unwrap();
    assert_eq!(here.store().have(&root, LENGTH).unwrap(), Some(left));
    assert!(!here.store().doubt(&root).unwrap());
    pass(one.store(), here.store(), &root, LENGTH, run(6, 7));
    damage(&here, "partial");
    here.reopen();
    assert_eq!(
        here.store().have(&root, LENGTH).unwrap().unwrap().count(),
        8
    );
    pass_all(one.store(), here.store(), &root, LENGTH);
    assert!(
        here.store()
            .adopt(record.clone(), proof.clone(), None, Shown::default())
            .unwrap()
    );
    assert!(!here.store().doubt(&root).unwrap());
    damage(&here, "segments");
    assert!(here.store().doubt(&root).unwrap());
    assert_eq!(here.playlist("film"), [(0, false)]);
    assert_eq!(here.store().stats().dropped.torn, 1);
    pass_all(one.store(), here.store(), &root, LENGTH);
    assert!(
        here.store()
            .adopt(record, proof, None, Shown::default())
            .unwrap()
    );
    assert_eq!(here.read("film", 0), Some(payload));
}

#[test]
fn a_refused_adoption_keeps_the_parts() {
    let payload = bytes(1, LENGTH as usize);
    let (one, record, proof) = sender(&payload);
    let here = Bench::new();
    here.store().append(vod("Film", 0)).unwrap();
    pass_all(one.store(), here.store(), &record.root, LENGTH);
    let adopt = || {
        here.store()
            .adopt(record.clone(), proof.clone(), None, Shown::default())
    };
    let text = adopt().unwrap_err().to_string();
    assert!(text.contains("looks like"), "{text}");
    let have = here.store().have(&record.root, LENGTH).unwrap();
    assert_eq!(have, Some(HaveRanges::full(group_count(LENGTH))));
    assert_eq!(
        here.store().shared.staged.load(Ordering::Acquire),
        size(LENGTH)
    );
    let manifest = here
        .store()
        .adopt(record.clone(), Proof::Manifest, None, Shown::default());
    assert!(manifest.is_err());
    here.store().remove(&here.content("Film")).unwrap();
    let unvouched = here
        .store()
        .adopt(record.clone(), Proof::Manifest, None, Shown::default());
    assert!(
        unvouched
            .unwrap_err()
            .to_string()
            .starts_with("the manifest of \"film\"")
    );
    assert!(adopt().unwrap());
}

#[test]
fn a_segment_whose_time_is_over_is_refused() {
    let (one, record, proof) = sender(&bytes(1, LENGTH as usize));
    let here = Bench::new();
    pass_all(one.store(), here.store(), &record.root, LENGTH);
    here.at(31 * 86_400);
    let text = here
        .store()
        .adopt(record, proof, None, Shown::default())
        .unwrap_err()
        .to_string();
    assert_eq!(text, "the time of segment 0 of \"film\" is over");
    here.store().drop_stale_partials();
    assert!(here.files("partial").is_empty());
    assert_eq!(here.store().shared.staged.load(Ordering::Acquire), 0);
}

#[test]
fn one_payload_of_two_segments_comes_once() {
    let from = Bench::new();
    let same = |sequence| NewSegment {
        payload: bytes(1, LENGTH as usize),
        ..vod("film", sequence)
    };
    let (first, proof, root, length) = signed(from.store(), same(0));
    let (second, second_proof, ..) = signed(from.store(), same(1));
    let here = Bench::new();
    pass_all(from.store(), here.store(), &root, length);
    assert!(
        here.store()
            .adopt(second, second_proof, None, Shown::default())
            .unwrap()
    );
    assert!(
        here.store()
            .adopt(first, proof, None, Shown::default())
            .unwrap()
    );
    assert_eq!(here.store().stats().bytes, size(length));
    assert_eq!(here.playlist("film"), [(0, true), (1, true)]);
}

#[test]
fn partial_payloads_count_for_the_limit_and_the_stalest_gives_way_last() {
    let payload = bytes(1, LENGTH as usize);
    let (one, record, proof) = sender(&payload);
    let mut here = Bench::with(|settings| settings.limit = Some(size(LENGTH) * 2));
    for sequence in 0..8 {
        here.store().append(vod("old", sequence)).unwrap();
    }
    let other = bytes(9, LENGTH as usize);
    let (two, second, _) = sender(&other);
    let all = run(0, group_count(LENGTH));
    pass(two.store(), here.store(), &second.root, LENGTH, run(0, 8));
    let first = partial(here.store(), &second.root, LENGTH);
    assert_eq!(
        here.playlist("old")
            .iter()
            .filter(|(_, here)| *here)
            .count(),
        8
    );
    pass_all(one.store(), here.store(), &record.root, LENGTH);
    let another = || {
        here.store()
            .partial(&Root([2; 32]), LENGTH, Priority::Vod, Time::MAX)
    };
    assert!(present_of(&here, "old") > 0, "not more than was needed");
    pass(two.store(), here.store(), &second.root, LENGTH, all);
    assert_eq!(present_of(&here, "old"), 0, "they made room");
    let both = partial(here.store(), &record.root, LENGTH);
    let text = another().unwrap_err().to_string();
    assert!(text.contains("limit of"), "{text}");
    drop(both);
    here.store()
        .adopt(record, proof, None, Shown::default())
        .unwrap();
    let (three, third, _) = sender(&bytes(10, LENGTH as usize));
    pass_all(three.store(), here.store(), &third.root, LENGTH);
    assert!(
        here.find("film")
            .is_none_or(|film| film.segment_count() == 0),
        "a segment goes before what is on its way"
    );
    drop(first);
    here.reopen();
    assert_eq!(here.files("partial").len(), 2);
    assert!(here.store().shared.staged.load(Ordering::Acquire) <= 2 * size(LENGTH));
}

fn present_of(bench: &Bench, name: &str) -> u64 {
    bench
        .find(name)
        .map_or(0, |content| content.segment_count())
}

#[test]
fn an_idle_partial_payload_gives_way_when_nothing_else_may() {
    let here = Bench::with(|settings| settings.limit = Some(size(LENGTH) * 2));
    let store = here.store();
    let mut roots = Vec::new();
    for n in 0..5 {
        here.at(n);
        let (from, record, _) = sender(&bytes(n, LENGTH as usize));
        pass_all(from.store(), store, &record.root, LENGTH);
        roots.push(record.root);
    }
    let mut left: Vec<Root> = store.partials().iter().map(|(root, ..)| *root).collect();
    left.sort_by_key(|left| roots.iter().position(|root| root == left));
    assert_eq!(left, roots[3..]);
    assert_eq!(here.files("partial").len(), 2);
    assert_eq!(
        store.shared.staged.load(Ordering::Acquire),
        2 * size(LENGTH)
    );
}

#[test]
fn a_full_disk_refuses_parts_with_a_sentence() {
    let here = Bench::with(|settings| settings.min_free = u64::MAX / 2);
    let refused = here
        .store()
        .partial(&Root([1; 32]), LENGTH, Priority::Vod, Time::MAX);
    let text = refused.err().unwrap().to_string();
    assert!(
        text.starts_with("the disk that holds the store is full"),
        "{text}"
    );
    assert!(here.files("partial").is_empty());
    assert_eq!(here.store().shared.staged.load(Ordering::Acquire), 0);
}

#[test]
fn lengths_beyond_all_limits_are_refused() {
    let bench = Bench::new();
    let root = Root([1; 32]);
    for length in [0, (1 << 30) + 1, u64::MAX] {
        assert!(
            bench
                .store()
                .partial(&root, length, Priority::Vod, Time::MAX)
                .is_err()
        );
        assert!(bench.store().slice_file(&root, length).is_err());
    }
    let text = bench
        .store()
        .slice_file(&root, 1000)
        .unwrap_err()
        .to_string();
    assert!(text.ends_with("is not here"), "{text}");
}

#[test]
fn what_a_stop_left_of_partial_payloads_is_put_in_order() {
    let (one, record, proof) = sender(&bytes(1, LENGTH as usize));
    let mut here = Bench::new();
    let root = record.root;
    let name = here.path().join("partial").join(format!("{root}.{LENGTH}"));
    let place = here.path().join("segments");
    let hex = root.to_string();
    let place = place.join(&hex[..1]).join(&hex[1..]);
    pass(one.store(), here.store(), &root, LENGTH, run(0, 2));
    std::fs::write(here.path().join("partial").join("garbage"), "x").unwrap();
    std::fs::write(here.path().join("partial").join("ab".repeat(32)), "x").unwrap();
    here.reopen();
    assert_eq!(here.files("partial"), std::slice::from_ref(&name));
    // It was linked to its place, but the commit did not come.
    std::fs::hard_link(&name, &place).unwrap();
    here.reopen();
    assert!(!place.exists() && name.exists());
    pass_all(one.store(), here.store(), &root, LENGTH);
    here.store()
        .adopt(record, proof, None, Shown::default())
        .unwrap();
    // The commit came, but the first name stayed, or has to give its bytes back.
    std::fs::hard_link(&place, &name).unwrap();
    here.reopen();
    assert!(place.exists() && !name.exists());
    here.close();
    std::fs::rename(&place, &name).unwrap();
    here.reopen();
    assert!(place.exists() && !name.exists());
    assert!(here.read("film", 0).is_some());
    std::fs::remove_file(here.path().join("segments").join(&hex[..1]).join(&hex[1..])).unwrap();
    let gone = bench_without_file(&mut here, &root);
    assert_eq!(gone, None);
}

/// A partial payload whose file somebody removed is not known.
fn bench_without_file(here: &mut Bench, root: &Root) -> Option<HaveRanges> {
    let other = Root([9; 32]);
    drop(partial(here.store(), &other, LENGTH));
    std::fs::remove_file(here.files("partial").remove(0)).unwrap();
    assert_ne!(*root, other);
    here.store().have(&other, LENGTH).unwrap()
}

#[test]
fn many_adoptions_share_their_commits() {
    let from = Bench::new();
    let here = Bench::new();
    let mut segments = Vec::new();
    for sequence in 0..32 {
        let (record, proof, root, length) = signed(from.store(), vod("film", sequence));
        pass_all(from.store(), here.store(), &root, length);
        segments.push((record, proof));
    }
    let new = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (record, proof) in segments {
            let (store, new) = (here.store(), &new);
            scope.spawn(move || {
                let adopted = store.adopt(record, proof, None, Shown::default()).unwrap();
                new.fetch_add(u64::from(adopted), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(new.load(Ordering::Relaxed), 32);
    assert_eq!(here.content("film").segment_count(), 32);
    assert_eq!(here.store().shared.staged.load(Ordering::Acquire), 0);
    assert_eq!(here.store().stats().bytes, 32 * size(20_000));
}

#[test]
fn a_stream_that_comes_over_a_link_starts_where_it_is_said_to() {
    let from = Bench::new();
    let here = Bench::new();
    let sent: Vec<_> = (4..9)
        .map(|sequence| signed(from.store(), live("cam", sequence)))
        .collect();
    let take = |sequence: usize, start| {
        let (record, proof, root, length) = sent[sequence - 4].clone();
        pass_all(from.store(), here.store(), &root, length);
        here.store().adopt(record, proof, start, Shown::default())
    };
    // The newest comes first, and those before it while it is watched.
    assert!(take(7, Some(5)).unwrap());
    assert_eq!(here.content("cam").renditions[0].first, 5);
    assert!(take(6, Some(5)).unwrap() && take(5, None).unwrap() && take(8, None).unwrap());
    let text = take(4, Some(0)).unwrap_err().to_string();
    assert!(
        text.contains("comes before the first of its playlist (5)"),
        "{text}"
    );
    assert_eq!(
        here.playlist("cam"),
        [(5, true), (6, true), (7, true), (8, true)]
    );
    assert!(here.store().stats().hot_bytes > 0);
}
