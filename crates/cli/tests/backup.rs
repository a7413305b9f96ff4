//! Backups of a store that is in use, and what is made of them.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Node, lavant, payload, text, until};
use serde_json::Value;

/// Sends a segment of a growing film.
fn send(node: &Node, id: &str, sequence: u64) {
    let query = format!("content_id={id}&priority=vod&duration=1&sequence={sequence}");
    node.post(&query, &bytes(id, sequence)).ok();
}

fn bytes(id: &str, sequence: u64) -> Vec<u8> {
    let seed = id
        .bytes()
        .fold(sequence, |seed, byte| seed * 31 + u64::from(byte));
    payload(seed, 20_000)
}

/// All segments that a node serves, checked against what was sent.
fn served(node: &Node) -> BTreeMap<String, Vec<u64>> {
    let of = |id: String| {
        let sequences = node.playlist(&id).sequences();
        for sequence in &sequences {
            let got = node.get(&format!("/segment/{id}/{sequence}")).ok().body;
            assert!(got == bytes(&id, *sequence), "{id} {sequence}");
        }
        (id, sequences)
    };
    node.contents().into_iter().map(of).collect()
}

fn back_up(node: &Node, folder: &Path, more: &[&str]) -> Value {
    let flags = [
        "--store",
        text(&node.store),
        "--daemon",
        &node.url,
        "--json",
    ];
    let args = [&["store", "backup", text(folder)], &flags[..], more].concat();
    lavant(&args).ok().json()
}

fn restore(folder: &Path, store: &Path) -> Value {
    let args = [
        "store",
        "restore",
        text(folder),
        "--store",
        text(store),
        "--json",
    ];
    lavant(&args).ok().json()
}

#[test]
fn a_backup_is_what_the_store_was_and_a_later_one_adds_what_is_new() {
    let node = Node::start(&[]);
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    for sequence in 0..5 {
        send(&node, "film", sequence);
        send(&node, "other", sequence);
    }
    node.call("PUT", "/content/other/pin", &[], b"").ok();
    node.call("POST", "/ingest/film/finish", &[], b"").ok();
    let key = node.ready["publisher"].clone();
    let first = back_up(&node, &backup, &[]);
    assert_eq!(first["segments"], 10);
    assert_eq!(first["removed"], 0);

    // What went and came since is in the later one alone.
    node.call("DELETE", "/content/film", &[], b"").ok();
    send(&node, "other", 5);
    let restored = place.path().join("restored");
    assert_eq!(restore(&backup, &restored)["segments"], 10);
    let second = back_up(&node, &backup, &["--copy"]);
    assert_eq!(second["segments"], 6);
    assert_eq!(second["removed"], 6, "five payloads and a manifest");
    until("nothing is left of the snapshot", || {
        let left = fs::read_dir(node.store.join("snapshot")).unwrap().count();
        (left == 0).then_some(())
    });

    let all: Vec<u64> = (0..5).collect();
    let again = Node::on(&restored, &[]);
    let expected = [("film".to_owned(), all.clone()), ("other".to_owned(), all)];
    assert_eq!(served(&again), BTreeMap::from(expected));
    assert_eq!(again.ready["publisher"], key);
    assert_eq!(again.json("/content/film")["state"], "finished");
    assert_eq!(again.json("/content/other")["pinned"], true);

    let later = place.path().join("later");
    restore(&backup, &later);
    let later = Node::on(&later, &[]);
    assert_eq!(
        served(&later),
        BTreeMap::from([("other".to_owned(), (0..6).collect())])
    );
    // The backup stands for itself: the first one shared its files with the store.
    let mut own = 0;
    for entry in fs::read_dir(backup.join("segments")).unwrap() {
        for file in fs::read_dir(entry.unwrap().path()).unwrap() {
            own += 1;
            assert_eq!(file.unwrap().metadata().unwrap().nlink(), 1);
        }
    }
    assert_eq!(own, 6);
}

#[test]
fn a_backup_of_a_busy_store_is_whole() {
    let node = Node::start(&[]);
    let place = tempfile::tempdir().unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Contents come and go while backups are made.
            for round in 0.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let id = format!("c{}", round % 7);
                for sequence in 0..4 {
                    send(&node, &id, sequence);
                }
                node.call(
                    "DELETE",
                    &format!("/content/c{}", (round + 3) % 7),
                    &[],
                    b"",
                );
            }
        });
        // Also when something below fails.
        let _end = End(&ended);
        let backup = place.path().join("backup");
        for round in 0..4 {
            let said = back_up(&node, &backup, &[]);
            let store = place.path().join(format!("store{round}"));
            restore(&backup, &store);
            let check = ["store", "check", "--store", text(&store), "--json"];
            let report = lavant(&check).ok().json();
            assert_eq!(report["intact"], said["segments"]);
            assert_eq!(
                (&report["dropped"], &report["unknown_files"]),
                (&0.into(), &0.into())
            );
        }
    });
}

#[test]
fn what_a_backup_lacks_is_said_and_what_is_left_over_stays_behind() {
    let node = Node::start(&[]);
    for sequence in 0..4 {
        send(&node, "film", sequence);
    }
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    back_up(&node, &backup, &["--copy"]);
    // What a backup that was cut leaves is not brought back, and goes with the next one.
    let left = backup.join("segments/a").join("b".repeat(63));
    fs::write(&left, "left over").unwrap();
    let first = place.path().join("first");
    assert_eq!(restore(&backup, &first)["segments"], 4);
    assert!(!first.join("segments/a").join("b".repeat(63)).exists());
    assert_eq!(back_up(&node, &backup, &["--copy"])["kept"], 4);
    assert!(!left.exists());

    let serve = lavant(&["serve", "--store", text(&backup), "--port", "0"]).exits(1);
    assert!(
        serve.reason().contains("it is a backup"),
        "{}",
        serve.reason()
    );
    let file = lost(&backup);
    fs::remove_file(&file).unwrap();
    let second = place.path().join("second");
    let args = [
        "store",
        "restore",
        text(&backup),
        "--store",
        text(&second),
        "--json",
    ];
    let done = lavant(&args).exits(1);
    assert_eq!(done.json()["missing"], 1);
    assert!(done.err.contains("lavant store check"), "{}", done.err);

    let third = place.path().join("third");
    let args = ["store", "restore", text(&backup), "--store", text(&third)];
    let marker = fs::read(backup.join("backup.json")).unwrap();
    fs::write(backup.join("backup.json"), "{\"lavant_backup\":2}").unwrap();
    let done = lavant(&args).exits(1);
    assert!(done.reason().contains("another form"), "{}", done.reason());
    fs::write(backup.join("backup.json"), marker).unwrap();
    fs::remove_file(backup.join("node.key")).unwrap();
    let done = lavant(&args).exits(1);
    assert!(done.reason().contains("node.key"), "{}", done.reason());
    // A store that lacks a file says so, too.
    fs::remove_file(lost(&node.store)).unwrap();
    let other = place.path().join("other");
    let flags = [
        "--store",
        text(&node.store),
        "--daemon",
        &node.url,
        "--json",
    ];
    let args = [&["store", "backup", text(&other)], &flags[..]].concat();
    assert_eq!(lavant(&args).exits(1).json()["missing"], 1);
}

/// A payload file below a store.
fn lost(store: &Path) -> std::path::PathBuf {
    let folders = fs::read_dir(store.join("segments")).unwrap();
    let mut files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.next().unwrap().unwrap().path()
}

/// Ends a thread that works beside a test.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_cannot_be_a_backup_or_a_store_is_refused() {
    let node = Node::start(&[]);
    send(&node, "film", 0);
    let place = tempfile::tempdir().unwrap();
    let full = place.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter"), "dear").unwrap();
    let refused = |args: &[&str], says: &str| {
        let done = lavant(args).exits(1);
        assert!(done.reason().contains(says), "{}", done.reason());
    };
    let store = text(&node.store);
    let at = ["--store", store, "--daemon", &node.url];
    let into = |folder: &Path, says: &str| {
        refused(
            &[&["store", "backup", text(folder)], &at[..]].concat(),
            says,
        );
    };
    into(&full, "neither empty nor a backup");
    into(&node.store.join("inside"), "lies in the folder");
    refused(
        &["store", "backup", "x", "--store", text(&full)],
        "is no store",
    );
    refused(
        &["store", "restore", text(&full), "--store", "y"],
        "is no backup",
    );
    let other = Node::start(&[]);
    let wrong = [
        "store", "backup", "x", "--store", store, "--daemon", &other.url,
    ];
    refused(&wrong, "uses another store");
    let good = place.path().join("good");
    back_up(&node, &good, &[]);
    refused(
        &["store", "restore", text(&good), "--store", store],
        "is not empty",
    );
    refused(
        &["store", "restore", text(&good), "--store", text(&full)],
        "is not empty",
    );
    // A restore that was cut is no store until it has gone on.
    let cut = place.path().join("cut");
    fs::create_dir(&cut).unwrap();
    fs::write(cut.join("restore.part"), "").unwrap();
    refused(
        &["store", "stats", "--store", text(&cut)],
        "run 'lavant store restore' again",
    );
    assert_eq!(restore(&good, &cut)["segments"], 1);
    assert!(full.join("letter").exists());
}
