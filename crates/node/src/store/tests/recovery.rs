//! Damage, stops in the middle, and what a start makes of them.

use std::fs;
use std::path::PathBuf;

use super::*;
use redb::ReadableTable;

use crate::store::Catalog;
use crate::store::rows::{CONTENTS, META, USED, USED_OF};

/// A store with a finished film, a growing one, a stream with a gap, and two contents that share
/// a payload; closed.
fn filled() -> Bench {
    let mut bench = Bench::new();
    publish(bench.store(), "My Film", 1, 4).unwrap();
    publish(bench.store(), "Same again", 1, 4).unwrap();
    for sequence in [0, 1, 3] {
        bench.at(sequence);
        bench.store().append(vod("growing", sequence)).unwrap();
    }
    for sequence in 5..9 {
        bench.at(sequence);
        bench.store().append(live("cam", sequence)).unwrap();
    }
    bench
        .store()
        .pin(bench.content("growing").no, true)
        .unwrap();
    bench.close();
    bench
}

/// Everything of [`filled`] is there, to the byte.
fn assert_filled(bench: &Bench) {
    for title in ["my_film", "same_again"] {
        let content = bench.content(title);
        assert!(content.is_complete(), "{title}");
        assert!(bench.store().manifest(&content).is_some(), "{title}");
        for sequence in 0..4 {
            assert_eq!(
                bench.read(title, sequence),
                Some(bytes(1000 + sequence, 20_000))
            );
        }
    }
    assert_eq!(bench.playlist("growing"), [(0, true), (1, true), (3, true)]);
    assert!(bench.content("growing").pinned);
    assert_eq!(
        bench.playlist("cam"),
        [(5, true), (6, true), (7, true), (8, true)]
    );
    assert_eq!(bench.content("cam").renditions[0].first, 5);
    for sequence in 5..9 {
        assert_eq!(
            bench.read("cam", sequence),
            Some(live("cam", sequence).payload)
        );
    }
    assert_eq!(bench.store().stats().segments, 15);
    assert_eq!(bench.store().stats().bytes, 11 * size(20_000));
    let report = bench.store().check(|_, _| true).unwrap();
    assert_eq!(
        (report.intact, report.dropped, report.unknown_files),
        (15, 0, 0)
    );
}

fn index(bench: &Bench) -> PathBuf {
    bench.path().join("index.redb")
}

#[test]
fn a_restart_keeps_everything() {
    let mut bench = filled();
    bench.reopen();
    assert_filled(&bench);
    assert!(bench.store().warnings().is_empty());
}

#[test]
fn a_damaged_index_is_made_again_from_the_files() {
    let whole = fs::read(index(&filled())).unwrap();
    let random = bytes(3, whole.len());
    let zeros = vec![0; whole.len()];
    let mut head = whole.clone();
    head[..4096].copy_from_slice(&random[..4096]);
    let mut tail = whole.clone();
    let half = tail.len() / 2;
    tail[half..].copy_from_slice(&random[half..]);
    let mut sprinkled = whole.clone();
    for at in (4096..sprinkled.len()).step_by(512) {
        sprinkled[at] ^= 0xff;
    }
    let cases: [(&str, &[u8]); 8] = [
        ("random bytes", &random),
        ("zeros", &zeros),
        ("a damaged header", &head),
        ("a damaged half", &tail),
        ("many flipped bits", &sprinkled),
        ("cut in half", &whole[..whole.len() / 2]),
        ("cut to some bytes", &whole[..100]),
        ("emptied", &[]),
    ];
    for (what, damage) in cases {
        let mut bench = filled();
        fs::write(index(&bench), damage).unwrap();
        bench.reopen();
        assert_filled(&bench);
        let warnings = bench.store().warnings();
        assert_eq!(warnings.len(), 1, "{what}");
        assert!(
            warnings[0].starts_with("the index of the store was "),
            "{warnings:?}"
        );
        assert!(
            warnings[0].ends_with("made again: 15 segments of 4 contents"),
            "{warnings:?}"
        );
        bench.reopen();
        assert!(
            bench.store().warnings().is_empty(),
            "{what}: made again only once"
        );
        assert_filled(&bench);
        bench.store().append(vod("growing", 2)).unwrap();
        bench.store().finish(&id("growing")).unwrap();
        assert!(bench.content("growing").is_complete());
    }
}

/// Writes an index as it was before the facts of manifests and the bytes in use were noted in it.
fn make_older(bench: &Bench) {
    let index = redb::Database::open(index(bench)).unwrap();
    let write = index.begin_write().unwrap();
    {
        let mut contents = write.open_table(CONTENTS).unwrap();
        let rows: Vec<(u64, Vec<u8>)> = contents
            .iter()
            .unwrap()
            .map(|row| row.map(|(no, row)| (no.value(), row.value().to_vec())))
            .collect::<Result<_, _>>()
            .unwrap();
        for (no, row) in rows {
            let mut row: serde_json::Value = serde_json::from_slice(&row).unwrap();
            row.as_object_mut().unwrap().remove("manifest");
            let row = serde_json::to_vec(&row).unwrap();
            contents.insert(no, row.as_slice()).unwrap();
        }
        let mut meta = write.open_table(META).unwrap();
        meta.remove(USED).unwrap();
        // Of a program that counts payloads and does not know the fact.
        meta.insert(USED_OF, 1).unwrap();
    }
    write.commit().unwrap();
}

#[test]
fn an_index_of_an_earlier_version_learns_what_it_lacks() {
    let mut bench = filled();
    bench.reopen();
    let (used, before) = (bench.store().stats().bytes, bench.store().catalog());
    bench.close();
    make_older(&bench);
    bench.reopen();
    assert_filled(&bench);
    assert_eq!(bench.store().stats().bytes, used);
    bench.reopen();
    // From the index alone: the files of manifests are not asked any more.
    let facts = |catalog: &Catalog| -> Vec<_> {
        let facts = catalog.all().map(|content| content.manifest.clone());
        facts.collect()
    };
    assert!(facts(&before).iter().any(Option::is_some));
    assert_eq!(facts(&bench.store().catalog()), facts(&before));
    assert_eq!(bench.store().stats().bytes, used);
}

#[test]
fn what_is_held_is_what_the_rows_say() {
    let mut bench = filled();
    bench.reopen();
    let held = |id: &str| -> Vec<Vec<std::ops::RangeInclusive<u64>>> {
        let content = bench.content(id);
        let held = bench.store().holdings(&content).unwrap().into_iter();
        held.map(|(no, kind, runs)| {
            let rows = bench.store().rows(&content, no, kind).unwrap();
            let here = rows.iter().filter(|(_, row)| row.present);
            let here: Vec<u64> = here.map(|(sequence, _)| *sequence).collect();
            assert_eq!(runs.iter().cloned().flatten().collect::<Vec<_>>(), here);
            runs
        })
        .collect()
    };
    assert_eq!(held("growing"), [vec![0..=1, 3..=3]]);
    assert_eq!(held("cam"), [vec![5..=8]]);
    assert_eq!(held("my_film"), [vec![0..=3]]);
}

#[test]
fn a_deleted_index_is_made_again_from_the_files() {
    let mut bench = filled();
    fs::remove_file(index(&bench)).unwrap();
    bench.reopen();
    assert_filled(&bench);
    let warnings = bench.store().warnings();
    assert_eq!(
        warnings,
        ["the index of the store was missing and was made again: 15 segments of 4 contents"]
    );
}

#[test]
fn one_flipped_bit_anywhere_in_the_index_loses_nothing() {
    let whole = fs::read(index(&filled())).unwrap();
    for n in 0..40 {
        let mut bench = filled();
        let seed = bytes(n, 8);
        let at = u64::from_le_bytes(seed[..].try_into().unwrap()) as usize % whole.len();
        let mut damaged = fs::read(index(&bench)).unwrap();
        let at = at % damaged.len();
        damaged[at] ^= 1 << (n % 8);
        fs::write(index(&bench), damaged).unwrap();
        bench.reopen();
        assert_filled(&bench);
    }
}

#[test]
fn a_rebuilt_index_takes_what_was_not_moved_yet_and_leaves_garbage() {
    let mut bench = filled();
    let payload = bench.files("segments").remove(0);
    fs::rename(&payload, bench.path().join("incoming").join("1-1")).unwrap();
    fs::write(bench.path().join("incoming").join("1-2"), "torn").unwrap();
    fs::write(
        bench.path().join("segments").join("a").join("stray"),
        "torn",
    )
    .unwrap();
    fs::remove_file(index(&bench)).unwrap();
    bench.reopen();
    assert!(bench.store().warnings()[0].ends_with("; 2 files could not be used"));
    assert!(bench.files("incoming").is_empty());
    let report = bench.store().gc().unwrap();
    assert_eq!((report.removed_files, report.removed_bytes), (1, 4));
    assert_filled(&bench);
}

#[test]
fn an_older_version_stays_superseded_when_the_index_is_made_again() {
    let mut bench = Bench::new();
    publish(bench.store(), "Film", 1, 1).unwrap();
    publish(bench.store(), "Film", 2, 2).unwrap();
    bench.close();
    fs::remove_file(index(&bench)).unwrap();
    bench.reopen();
    assert_eq!(bench.content("film").key.version, 2);
    assert_eq!(bench.store().catalog().current_count(), 1);
    bench.at(3601);
    bench.store().append(vod("tick", 0)).unwrap();
    assert!(
        bench
            .store()
            .catalog()
            .find(None, &id("film"), Some(1))
            .is_none()
    );
}

#[test]
fn the_numbers_of_a_playlist_do_not_go_back_when_the_index_is_made_again() {
    let mut bench = Bench::new();
    for sequence in 0..4 {
        bench.at(sequence * 600);
        bench
            .store()
            .append(NewSegment {
                discontinuity: true,
                independent: true,
                ..live("cam", sequence)
            })
            .unwrap();
    }
    bench.at(1800);
    bench.store().append(vod("tick", 0)).unwrap();
    let before = bench.content("cam").renditions[0].clone();
    bench.close();
    fs::remove_file(index(&bench)).unwrap();
    bench.reopen();
    let after = bench.content("cam").renditions[0].clone();
    assert!(after.first >= before.first && after.next >= before.next);
    assert!(after.discontinuities_gone >= before.discontinuities_gone);
}

#[test]
fn a_later_format_is_left_alone() {
    let mut bench = filled();
    {
        let database = redb::Database::create(index(&bench)).unwrap();
        let write = database.begin_write().unwrap();
        write
            .open_table(META)
            .unwrap()
            .insert("format", 99)
            .unwrap();
        write.commit().unwrap();
    }
    let before = fs::read(index(&bench)).unwrap().len();
    let error = Store::open(bench.settings.clone(), key(1))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("is not a store that this lavant can use: it has format 99"),
        "{error}"
    );
    assert_eq!(fs::read(index(&bench)).unwrap().len(), before);
    bench.close();
}

#[test]
fn what_was_on_its_way_in_is_removed_or_completed() {
    let mut bench = filled();
    let incoming = bench.path().join("incoming");
    fs::write(incoming.join("99-0"), "torn").unwrap();
    fs::write(incoming.join("99-1"), bytes(1, 50_000)).unwrap();
    fs::write(incoming.join("manifest-00000000000000ff"), "torn").unwrap();
    fs::write(
        bench.path().join("manifests").join("00000000000000ff"),
        "stale",
    )
    .unwrap();
    // As if the process had stopped between its commit and the move of the files.
    for (n, file) in bench.files("segments").iter().enumerate() {
        fs::rename(file, incoming.join(format!("98-{n}"))).unwrap();
    }
    for file in bench.files("manifests").iter().take(2) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        fs::rename(file, incoming.join(format!("manifest-{name}"))).unwrap();
    }
    bench.reopen();
    assert_filled(&bench);
    assert!(bench.files("incoming").is_empty());
    assert_eq!(bench.files("manifests").len(), 2);
    assert!(bench.store().warnings().is_empty());
}

#[test]
fn a_file_with_two_names_keeps_the_one_that_the_index_knows() {
    let mut bench = filled();
    let incoming = bench.path().join("incoming");
    for (n, file) in bench.files("segments").iter().enumerate() {
        fs::hard_link(file, incoming.join(format!("98-{n}"))).unwrap();
    }
    // Placed for a commit that never came.
    let mut other = Bench::new();
    other.store().append(vod("other", 0)).unwrap();
    other.close();
    let stray = other.files("segments").remove(0);
    let place = bench.path().join(stray.strip_prefix(other.path()).unwrap());
    fs::copy(&stray, incoming.join("98-stray")).unwrap();
    fs::hard_link(incoming.join("98-stray"), &place).unwrap();
    bench.reopen();
    assert!(!place.exists());
    assert!(bench.files("incoming").is_empty());
    assert_filled(&bench);
}

#[test]
fn a_flipped_bit_in_a_payload_is_never_served() {
    let mut bench = filled();
    bench.reopen();
    let content = bench.content("my_film");
    let segment = bench
        .store()
        .segment(&content, 0, Kind::Media, 2)
        .unwrap()
        .unwrap();
    let name = segment.row.root.to_string();
    let path = bench
        .path()
        .join("segments")
        .join(&name[..1])
        .join(&name[1..]);
    let mut damaged = fs::read(&path).unwrap();
    damaged[5_000] ^= 4;
    fs::write(&path, &damaged).unwrap();
    let text = bench
        .store()
        .read_verified(&segment)
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "segment 2 (its bytes are damaged, so it was dropped) is not here"
    );
    let report = bench.store().check(|_, _| true).unwrap();
    assert_eq!(
        (report.intact, report.dropped),
        (13, 1),
        "its other user is noticed too"
    );
    assert_eq!(bench.read("my_film", 2), None);
    assert_eq!(bench.read("same_again", 2), None);
    assert_eq!(bench.playlist("my_film")[2], (2, false));
    assert_eq!(bench.store().stats().dropped.torn, 2);
    assert!(!bench.content("my_film").is_complete());
    publish(bench.store(), "My Film", 1, 4).unwrap();
    assert_eq!(
        bench.read("my_film", 2),
        Some(bytes(1002, 20_000)),
        "ingesting again mends it"
    );
}

#[test]
fn sending_a_damaged_segment_again_mends_it_for_all() {
    let mut bench = filled();
    bench.reopen();
    let content = bench.content("same_again");
    let segment = bench
        .store()
        .segment(&content, 0, Kind::Media, 2)
        .unwrap()
        .unwrap();
    let name = segment.row.root.to_string();
    let path = bench
        .path()
        .join("segments")
        .join(&name[..1])
        .join(&name[1..]);
    fs::write(&path, fs::read(&path).unwrap().split_off(1)).unwrap();
    publish(bench.store(), "Third", 1, 4).unwrap();
    assert_filled_titles(&bench);
}

fn assert_filled_titles(bench: &Bench) {
    for title in ["my_film", "same_again", "third"] {
        for sequence in 0..4 {
            assert_eq!(
                bench.read(title, sequence),
                Some(bytes(1000 + sequence, 20_000))
            );
        }
    }
}

#[test]
fn torn_and_missing_payload_files_become_gaps() {
    let mut bench = filled();
    bench.reopen();
    let content = bench.content("cam");
    let place = |sequence| {
        let segment = bench
            .store()
            .segment(&content, 0, Kind::Media, sequence)
            .unwrap()
            .unwrap();
        let name = segment.row.root.to_string();
        (
            segment,
            bench
                .path()
                .join("segments")
                .join(&name[..1])
                .join(&name[1..]),
        )
    };
    let (torn, path) = place(6);
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(10_000)
        .unwrap();
    let (gone, path) = place(7);
    fs::remove_file(path).unwrap();
    let text = |segment| bench.store().open_payload(segment).unwrap_err().to_string();
    assert_eq!(
        text(&torn),
        "segment 6 (its file is torn, so it was dropped) is not here"
    );
    assert_eq!(
        text(&gone),
        "segment 7 (its file is gone, so it was dropped) is not here"
    );
    bench.store().append(vod("tick", 0)).unwrap();
    assert_eq!(
        bench.playlist("cam"),
        [(5, true), (6, false), (7, false), (8, true)]
    );
    assert_eq!(
        text(&gone),
        "segment 7 is not here",
        "an old handle does no harm"
    );
    let back = bench.store().append(live("cam", 7)).unwrap();
    assert!(back);
    assert_eq!(bench.read("cam", 7), Some(live("cam", 7).payload));
}

#[test]
fn check_drops_what_is_damaged_and_says_how_much() {
    let mut bench = filled();
    for (n, path) in bench.files("segments").iter().enumerate() {
        let mut file = fs::read(path).unwrap();
        match n % 4 {
            0 => file[77] ^= 1,
            1 => file.truncate(19_999),
            _ => continue,
        }
        fs::write(path, file).unwrap();
    }
    bench.reopen();
    let mut calls = 0;
    let report = bench
        .store()
        .check(|done, all| {
            calls += u64::from(done <= all);
            true
        })
        .unwrap();
    assert!(calls >= 15);
    assert_eq!(report.intact + report.dropped, 15);
    assert!(report.dropped >= 6);
    let again = bench.store().check(|_, _| true).unwrap();
    assert_eq!((again.dropped, again.intact), (0, report.intact));
    for content in bench.store().catalog().all() {
        for (sequence, row) in bench.store().rows(content, 0, Kind::Media).unwrap() {
            let read = read(bench.store(), content, 0, Kind::Media, sequence);
            assert_eq!(read.is_some(), row.present);
        }
    }
}

#[test]
fn gc_removes_strays_and_shrinks_the_index() {
    let mut bench = filled();
    bench.reopen();
    for n in 0..300 {
        let payload = bytes(n, 16);
        bench
            .store()
            .append(NewSegment {
                payload,
                ..vod("many", n)
            })
            .unwrap();
    }
    bench.store().remove(&bench.content("many")).unwrap();
    fs::write(bench.path().join("segments").join("0").join("ab"), "stray").unwrap();
    let report = bench.store().gc().unwrap();
    assert_eq!((report.removed_files, report.removed_bytes), (1, 5));
    assert_filled(&bench);
    bench.reopen();
    assert_filled(&bench);
}

#[test]
fn removed_files_are_not_remembered_for_ever() {
    let bench = Bench::new();
    for n in 0..3 {
        bench.store().append(vod("film", n)).unwrap();
        bench.store().remove(&bench.content("film")).unwrap();
    }
    bench.store().append(vod("film", 0)).unwrap();
    let garbage = bench
        .store()
        .write(|tx| Ok(redb::ReadableTableMetadata::len(&tx.tables().garbage)?));
    assert_eq!(garbage.unwrap(), 0);
}

#[test]
fn a_second_opening_is_refused_while_the_first_lives() {
    let mut bench = filled();
    bench.reopen();
    let error = Store::open(bench.settings.clone(), key(1))
        .err()
        .unwrap()
        .to_string();
    let pid = std::process::id();
    assert!(
        error.contains(&format!("is in use by another lavant (process {pid})")),
        "{error}"
    );
    assert_filled(&bench);
}

#[test]
fn a_failed_batch_leaves_nothing_behind() {
    let bench = Bench::new();
    bench.store().append(vod("film", 0)).unwrap();
    let fail = || -> Result<(), StoreError> { Err(StoreError::Index("made up".into())) };
    let failed = bench.store().write(move |tx| {
        let content = tx.content(1)?;
        tx.remove_content(content.no)?;
        fail()
    });
    assert_eq!(
        failed.unwrap_err().to_string(),
        "the index of the store failed: made up"
    );
    assert_eq!(bench.read("film", 0), Some(vod("film", 0).payload));
    bench.store().append(vod("film", 1)).unwrap();
    assert_eq!(bench.content("film").segment_count(), 2);
}

/// The index as a process leaves it that is killed now.
fn index_of_killed(bench: &Bench) -> (TempDir, PathBuf) {
    let folder = private_folder();
    let copy = folder.path().join("index.redb");
    fs::copy(index(bench), &copy).unwrap();
    (folder, copy)
}

#[test]
fn a_start_after_a_kill_does_not_read_all_of_a_large_index() {
    let reads_all = |large_index: u64| {
        let mut bench = Bench::with(|settings| settings.large_index = large_index);
        // Whatever wrote last: a start, a growing content, the writer by itself.
        let mut ways = Vec::new();
        for turn in 0..3 {
            bench.store().append(vod("film", turn)).unwrap();
            if turn == 2 {
                bench.store().remove(&bench.content("film")).unwrap();
            }
            let (_folder, copy) = index_of_killed(&bench);
            let mut builder = redb::Builder::new();
            builder.set_repair_callback(redb::RepairSession::abort);
            ways.push(builder.open(&copy).is_err());
            bench.reopen();
        }
        ways
    };
    assert_eq!(reads_all(0), [false; 3]);
    assert_eq!(reads_all(1 << 30), [true; 3]);
}

#[test]
fn damaged_bytes_that_many_contents_share_are_given_to_nobody() {
    let bench = Bench::new();
    let shared = |no: u64| NewSegment {
        payload: bytes(7, 20_000),
        ..vod(&format!("copy-{no}"), 0)
    };
    for no in 0..40 {
        bench.store().append(shared(no)).unwrap();
    }
    let content = bench.content("copy-0");
    let segment = bench.store().segment(&content, 0, Kind::Media, 0);
    let root = segment.unwrap().unwrap().row.root;
    let path = bench.store().settings().layout.payload(&root);
    let mut damaged = fs::read(&path).unwrap();
    damaged[5_000] ^= 4;
    fs::write(&path, &damaged).unwrap();
    assert!(bench.store().doubt(&root).unwrap());
    assert!(!path.exists());
    for no in 0..40 {
        let content = bench.content(&format!("copy-{no}"));
        if let Some(segment) = bench.store().segment(&content, 0, Kind::Media, 0).unwrap() {
            assert!(bench.store().read_verified(&segment).is_err(), "{no}");
        }
        bench.store().write(|_| Ok(())).unwrap();
        assert_eq!(bench.playlist(&format!("copy-{no}")), [(0, false)]);
    }
    bench.store().append(shared(0)).unwrap();
    assert_eq!(bench.read("copy-0", 0), Some(bytes(7, 20_000)));
}
