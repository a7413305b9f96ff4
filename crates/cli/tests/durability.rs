//! Power cuts and full disks: what was acknowledged stays, what was not leaves nothing behind.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::media::{count, film_of, frames, mp4};
use common::{Node, PATIENCE, Random, payload, text, until};
use rustix::process::Signal;

/// What the random moments follow from; LAVANT_TEST_SEED gives others.
fn seed() -> u64 {
    let given = std::env::var("LAVANT_TEST_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("a seed is a number"));
    given.unwrap_or(20_261_121)
}

const KILLS: u64 = 10;

/// Length of a made-up segment.
fn length(sequence: u64) -> usize {
    1000 + (sequence as usize * 7919) % 90_000
}

fn query(sequence: u64) -> String {
    format!("/ingest?content_id=film&priority=vod&duration=1&target_duration=1&sequence={sequence}")
}

/// Sends segments one after the other until the node is gone; gives those that it acknowledged,
/// and the one that it may or may not have.
fn send_until_cut(node: &Node, from: u64) -> (u64, u64) {
    let mut connection = node.connect();
    for sequence in from.. {
        let body = payload(sequence, length(sequence));
        let kind = [("content-type", "video/mp2t")];
        let sent = connection.send("POST", &query(sequence), &kind, &body);
        match sent.and_then(|()| connection.read("POST")) {
            Ok(reply) => drop(reply.ok()),
            Err(_) => return (sequence, sequence + 1),
        }
    }
    unreachable!("sequences do not end");
}

/// Asserts that what was acknowledged is served as it was sent, and nothing that was never sent.
#[track_caller]
fn assert_kept(node: &Node, acknowledged: &BTreeSet<u64>, sent: u64) {
    let mut connection = node.connect();
    let listed = node.playlist("film");
    let there: BTreeSet<u64> = listed.sequences().into_iter().collect();
    assert!(
        there.is_superset(acknowledged),
        "lost: {:?}",
        acknowledged - &there
    );
    assert!(there.iter().all(|sequence| *sequence < sent));
    for sequence in &there {
        let path = format!("/segment/film/1/main/{sequence}.ts");
        let body = connection.get(&path).ok().body;
        assert!(
            body == payload(*sequence, length(*sequence)),
            "segment {sequence} changed"
        );
    }
    assert!(node.incoming().is_empty());
    let entry = node.json("/content/film");
    assert_eq!(entry["segment_count"], there.len());
}

#[test]
fn acknowledged_segments_survive_kill_9() {
    let mut random = Random(seed());
    let mut node = Node::start(&[]);
    let (mut next, mut acknowledged) = (0, BTreeSet::new());
    for _ in 0..KILLS {
        let begun = next;
        std::thread::scope(|scope| {
            let sender = scope.spawn({
                let node = &node;
                move || send_until_cut(node, begun)
            });
            // At least one is acknowledged, then the power goes at any moment.
            until("a segment", || {
                (node.get("/segment/film/0").status == 200).then_some(())
            });
            std::thread::sleep(Duration::from_micros(random.below(150_000)));
            node.signal(Signal::KILL);
            let (failed, sent) = sender.join().expect("sending does not panic");
            acknowledged.extend(begun..failed);
            next = sent;
        });
        node.kill9();
        node.start_again();
        assert_kept(&node, &acknowledged, next);
    }
    assert!(
        acknowledged.len() as u64 >= KILLS,
        "{} in all",
        acknowledged.len()
    );
    node.stop();
    let check = common::lavant(&["store", "check", "--json", "--store", text(&node.store)]);
    assert_eq!(check.ok().json()["dropped"], 0);
}

#[test]
fn a_film_is_there_as_a_whole_or_not_at_all_after_kill_9() {
    let mut random = Random(seed() + 1);
    let file = film_of(
        "minute.ts",
        &mp4(6),
        "-stream_loop 9 -i {} -c copy -f mpegts",
    );
    let pictures = count(text(&file), "v");
    let mut node = Node::start(&[]);
    // How long it takes here sets the times at which it is cut.
    let args = [
        "ingest",
        text(&file),
        "--segment-seconds",
        "1",
        "--content-id",
    ];
    let begun = Instant::now();
    node.lavant(&[&args[..], &["whole"]].concat()).ok();
    let usual = begun.elapsed();
    let mut whole = vec!["whole".to_owned()];
    for round in 0..10 {
        let id = format!("film-{round}");
        let ingest = node.command_on(&[&args[..], &[&id]].concat()).spawn();
        let cut = usual.mul_f64((300 + random.below(900)) as f64 / 1000.0);
        std::thread::sleep(cut);
        node.kill9();
        let done = ingest.wait();
        node.start_again();
        assert!(node.incoming().is_empty());
        assert!(node.uploads().is_empty());
        let there = node.contents().contains(&id);
        if done.code == Some(0) {
            assert!(there, "{id} was published and is gone");
        }
        if there {
            whole.push(id);
        }
        for id in &whole {
            let entry = node.json(&format!("/content/{id}"));
            assert_eq!(entry["complete"], true, "{entry}");
            assert_eq!(count(&node.play_url(id), "v"), pictures, "{id}");
        }
    }
    assert!(frames(text(&file), "v") == frames(&node.play_url("whole"), "v"));
}

/// A small disk, gone when dropped.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// None where this user may not mount one.
    fn mount(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let disk = Self { folder };
        let (image, point) = (disk.folder.path().join("image"), disk.point());
        std::fs::create_dir(&point).expect("a folder can be made");
        let file = std::fs::File::create(&image).expect("a file can be made");
        file.set_len(mebibytes << 20).expect("it can be sized");
        let path = format!(
            "{}:/usr/sbin:/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let call = |words: &[&str]| {
            let status = Command::new(words[0])
                .args(&words[1..])
                .env("PATH", &path)
                .output();
            status.is_ok_and(|output| output.status.success())
        };
        let made = call(&["mkfs.ext4", "-q", "-F", "-m", "0", text(&image)])
            && call(&["mount", "-o", "loop", text(&image), text(&point)]);
        made.then_some(disk)
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.point()).output();
    }
}

#[test]
#[allow(clippy::print_stderr)]
fn a_full_disk_refuses_and_loses_nothing() {
    let Some(disk) = Disk::mount(24) else {
        eprintln!("skipped: only root can mount a small disk");
        return;
    };
    // Without a reserve the disk itself refuses; with one the node does so in time.
    for (name, reserve) in [("bare", "0"), ("kept", "2MiB")] {
        let store = disk.point().join(name);
        let mut node = Node::on(&store, &["--min-free", reserve]);
        fill_and_free(&mut node);
        node.stop();
        std::fs::remove_dir_all(&store).expect("it can be removed");
    }
}

/// Sends segments of 500,000 bytes until one is refused.
fn fill(node: &Node, id: &str, from: u64) -> u64 {
    for sequence in from.. {
        let query = format!("content_id={id}&priority=vod&duration=1&sequence={sequence}");
        let reply = node.post(&query, &payload(sequence, 500_000));
        if reply.status != 200 {
            assert_eq!(reply.status, 507, "{}", reply.text());
            assert!(reply.sentence().contains("full"), "{}", reply.text());
            return sequence;
        }
    }
    unreachable!("a disk ends");
}

#[track_caller]
fn assert_all(node: &Node, id: &str, segments: u64) {
    for sequence in 0..segments {
        let bytes = node.bytes(&format!("/segment/{id}/{sequence}"));
        assert!(
            bytes == payload(sequence, 500_000),
            "segment {sequence} changed"
        );
    }
}

fn fill_and_free(node: &mut Node) {
    let full = fill(node, "film", 0);
    assert!(full > 10, "{full} segments on a disk of 24 MiB");
    assert_all(node, "film", full);
    // It is still full for whoever tries again, by whatever way, and nothing is lost by that.
    assert_eq!(fill(node, "film", full), full);
    let refused = node.lavant(&["ingest", text(&mp4(6)), "--content-id", "other"]);
    if refused.code != Some(0) {
        let refused = refused.exits(3);
        assert!(refused.reason().contains("full"), "{}", refused.err);
    }
    assert!(node.uploads().is_empty());
    node.kill9();
    node.start_again();
    assert_all(node, "film", full);
    node.lavant(&["rm", "film"]).ok();
    assert_eq!(node.get("/play/film").status, 404);
    let again = fill(node, "again", 0);
    assert!(again + 2 >= full, "{again} segments after {full}");
    assert_all(node, "again", again);
}

#[test]
fn a_torn_file_is_dropped_and_its_playlist_shows_a_gap() {
    let mut node = Node::start(&[]);
    for sequence in 0..4 {
        let kind = [("content-type", "video/mp2t")];
        let body = payload(sequence, length(sequence));
        node.call("POST", &query(sequence), &kind, &body).ok();
    }
    node.call("POST", "/ingest/film/finish", &[], &[]).ok();
    node.stop();
    let file = node.payload_file(&payload(2, length(2)));
    let whole = std::fs::read(&file).expect("it is there");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("it can be written");
    node.start_again();
    let reply = node.get("/segment/film/2");
    assert!(
        reply.status == 404 || reply.status == 500,
        "{}",
        reply.status
    );
    let playlist = until("a gap", || {
        let playlist = node.playlist("film");
        playlist.gaps()[2].then_some(playlist)
    });
    assert_eq!(playlist.gaps(), [false, false, true, false]);
    assert!(!playlist.has_end());
    until("a content that is not complete", || {
        (node.json("/content/film")["complete"] == false).then_some(())
    });
}

#[test]
fn nothing_waits_for_ever_to_be_published() {
    let node = Node::start(&["--upload-idle", "1s"]);
    let body =
        r#"{"title":"Film","source":"","renditions":[{"name":"main","mime_type":"video/mp2t"}]}"#;
    let upload = node
        .call("POST", "/uploads", &[], body.as_bytes())
        .is(201)
        .json();
    let id = upload["upload_id"].as_str().unwrap();
    let path = format!("/uploads/{id}/segments/main/0?duration=90000");
    node.call("PUT", &path, &[], &payload(0, 5000)).ok();
    common::within(PATIENCE, "the upload to be rolled back", || {
        node.uploads().is_empty().then_some(())
    });
    assert_eq!(node.get(&format!("/uploads/{id}")).status, 404);
    until("an empty incoming/", || {
        node.incoming().is_empty().then_some(())
    });
}
