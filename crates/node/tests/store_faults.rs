//! The store under faults that need processes and disks of their own: kill -9, a second process,
//! a read-only disk, a full disk.
//!
//! The test program runs itself again as a child, told by an environment variable what to do.
//! Tests that mount something are skipped, with the reason printed, when they are not run by root.

#![allow(clippy::print_stdout, reason = "a skipped test says why")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lavant_node::store::{
    Commit, CommitRendition, Content, NewSegment, NewUpload, Settings, Shown, Store, StoreError,
    UploadSegment,
};
use lavant_proto::content::{Kind, MimeType, Priority, Proof, SegmentRecord, Verified};
use lavant_proto::ids::{ContentId, ContentKey, Rendition, SigningKey};
use lavant_proto::verify::{FRAME_BYTES_MAX, FrameReader, FrameWriter, GroupRange, Seal, seal};

const ROLE: &str = "LAVANT_STORE_TEST_ROLE";
const FOLDER: &str = "LAVANT_STORE_TEST_FOLDER";
const FIRST: &str = "LAVANT_STORE_TEST_FIRST";

/// No reserve, so that a small disk can be used and filled to the last block.
fn settings(folder: &Path) -> Settings {
    let mut settings = Settings::new(folder);
    settings.min_free = 0;
    settings
}

fn open(settings: Settings) -> Store {
    Store::open(settings, SigningKey::from_seed(&[1; 32])).unwrap()
}

fn bytes(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

fn payload(sequence: u64) -> Bytes {
    bytes(sequence, 5_000 + (sequence as usize * 7919) % 60_000)
}

fn segment(content: &str, sequence: u64) -> NewSegment {
    NewSegment {
        version: None,
        ttl: None,
        content_id: ContentId::new(content).unwrap(),
        title: content.to_owned(),
        priority: Priority::Vod,
        target_duration: None,
        rendition: Rendition::main(),
        kind: Kind::Media,
        sequence,
        duration: 540_000,
        discontinuity: false,
        independent: true,
        init: None,
        mime: MimeType::TransportStream,
        shown: Shown::default(),
        payload: payload(sequence),
    }
}

fn read(store: &Store, content: &Content, sequence: u64) -> Option<Bytes> {
    let found = store.segment(content, 0, Kind::Media, sequence).unwrap()?;
    Some(store.read_verified(&found).unwrap())
}

fn find(store: &Store, id: &str) -> Option<std::sync::Arc<Content>> {
    let id = ContentId::new(id).unwrap();
    store.catalog().find(None, &id, None).cloned()
}

fn publish(store: &Store, number: u64, count: u64) -> Result<(), StoreError> {
    let name = format!("{number:032x}");
    store.begin_upload(
        &name,
        NewUpload {
            content_id: None,
            title: format!("film {number}"),
            priority: Priority::Vod,
            publisher: None,
            source: format!("source {number}"),
            expected_seconds: None,
            renditions: vec![(Rendition::main(), MimeType::TransportStream)],
            pin: false,
            to: Vec::new(),
        },
    )?;
    for sequence in 0..count {
        let segment = UploadSegment {
            rendition: "main".into(),
            kind: Kind::Media,
            sequence,
            duration: 540_000,
            discontinuity: false,
            init: None,
            payload: bytes(number << 32 | sequence, 30_000),
        };
        store.stage(&name, segment)?;
    }
    let rendition = CommitRendition {
        name: Rendition::main(),
        bandwidth: 2_000_000,
        average_bandwidth: 2_000_000,
        codecs: String::new(),
        width: 0,
        height: 0,
        frame_rate_milli: 0,
        inits: 0,
        segments: count,
    };
    let commit = Commit {
        target_duration: 6,
        renditions: vec![rendition],
        signature: None,
    };
    store.commit_upload(&name, commit).map(|_| ())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Runs this program's test `child` in a role.
fn start_child(role: &str, folder: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child does; nothing when the program is run as a test.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    match role.as_str() {
        "append" => append_for_ever(&folder, first),
        "upload" => upload_for_ever(&folder, first),
        "relay" => relay_for_ever(&folder, first),
        "hold" => {
            let store = open(settings(&folder));
            acknowledge(0);
            let _ = std::io::stdin().read(&mut [0]);
            drop(store);
        }
        other => panic!("unknown role {other}"),
    }
}

/// One line for what is durable. It starts a line of its own, whatever the test runner printed.
fn acknowledge(number: u64) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\nack {number}\n").as_bytes())
        .unwrap();
    out.flush().unwrap();
}

/// Two threads, so that commits are shared and moves overlap.
fn append_for_ever(folder: &Path, first: u64) {
    let store = open(settings(folder));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for sequence in (first + thread..).step_by(2) {
                    store.append(segment("film", sequence)).unwrap();
                    acknowledge(sequence);
                }
            });
        }
    });
}

fn upload_for_ever(folder: &Path, first: u64) {
    let store = open(settings(folder));
    for number in first.. {
        publish(&store, number, 3).unwrap();
        acknowledge(number);
    }
}

/// What another publisher says of a segment.
fn record(sequence: u64, seal: &Seal, length: u64) -> (Verified<SegmentRecord>, Proof) {
    let key = SigningKey::from_seed(&[2; 32]);
    let record = SegmentRecord {
        content: ContentKey {
            publisher: key.publisher(),
            content_id: ContentId::new("film").unwrap(),
            version: 1,
        },
        title: "A film".into(),
        target_duration: 18,
        rendition: Rendition::main(),
        kind: Kind::Media,
        sequence,
        duration: 540_000,
        discontinuity: false,
        independent: true,
        init: None,
        mime: MimeType::TransportStream,
        priority: Priority::Vod,
        created: lavant_node::store::Clock::system().now(),
        ttl: Duration::from_secs(3600),
        length,
        root: seal.root,
    };
    record.sign(&key).unwrap()
}

/// Takes segments over a link, group by group, in two threads. A chunk group that was written is
/// acknowledged as `sequence * 1000 + group + 1`, an adopted segment as `sequence * 1000`.
fn relay_for_ever(folder: &Path, first: u64) {
    let store = open(settings(folder));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for sequence in (first + thread..).step_by(2) {
                    relay(store, sequence);
                }
            });
        }
    });
}

/// A folder that nobody else can read, as a store's is to be.
fn private_folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let own = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(own).tempdir().unwrap()
}

fn relay(store: &Store, sequence: u64) {
    let payload = payload(sequence);
    let (length, seal) = (payload.len() as u64, seal(&payload));
    let groups = GroupRange::new(0, u64::MAX);
    let (record, proof) = record(sequence, &seal, length);
    let partial = store.partial_of(&record).unwrap();
    let mut writer = FrameWriter::new(length, groups);
    let mut reader = FrameReader::new(seal.root, length, groups);
    while !writer.is_done() {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let parts = writer.next(&seal.outboard, &mut frame).unwrap().unwrap();
        frame.truncate(parts.proof);
        frame.extend_from_slice(&payload[parts.leaf.start as usize..parts.leaf.end as usize]);
        let frame = reader.push(&frame).unwrap();
        partial.write_all(std::slice::from_ref(&frame)).unwrap();
        acknowledge(sequence * 1000 + frame.group() + 1);
    }
    store.adopt(record, proof, None, Shown::default()).unwrap();
    acknowledge(sequence * 1000);
}

/// Kills a child after it acknowledged so many, and returns everything that it acknowledged.
fn kill_after(mut child: Child, count: usize, pause: Duration) -> Vec<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let number = |line: String| {
        line.strip_prefix("ack ")
            .and_then(|n| n.parse::<u64>().ok())
    };
    while acknowledged.len() < count {
        let line = lines.next().expect("the child ended by itself").unwrap();
        acknowledged.extend(number(line));
    }
    // A random moment within a commit; nothing waits for it.
    std::thread::sleep(pause);
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged.extend(lines.map_while(Result::ok).filter_map(number));
    acknowledged
}

fn random_pause(round: u64) -> Duration {
    let random = bytes(round, 2);
    Duration::from_micros(u64::from(u16::from_le_bytes([random[0], random[1]])) / 3)
}

#[test]
fn no_acknowledged_segment_is_lost_when_the_process_is_killed() {
    let folder = private_folder();
    let mut acknowledged = std::collections::BTreeSet::new();
    let mut first = 0;
    for round in 0..20 {
        let child = start_child("append", folder.path(), first);
        acknowledged.extend(kill_after(
            child,
            1 + round as usize % 7,
            random_pause(round),
        ));
        let store = open(settings(folder.path()));
        assert_eq!(store.warnings(), Vec::<String>::new(), "round {round}");
        assert!(files(&folder.path().join("incoming")).is_empty());
        let content = find(&store, "film").unwrap();
        for sequence in &acknowledged {
            let got = read(&store, &content, *sequence);
            assert_eq!(
                got,
                Some(payload(*sequence)),
                "round {round}, segment {sequence}"
            );
        }
        let report = store.check(|_, _| true).unwrap();
        assert_eq!(
            (report.dropped, report.unknown_files),
            (0, 0),
            "round {round}"
        );
        first = content.renditions[0].next;
    }
    assert!(acknowledged.len() >= 20);
}

#[test]
fn no_chunk_group_that_came_over_a_link_is_lost_when_the_process_is_killed() {
    let folder = private_folder();
    let mut adopted = std::collections::BTreeSet::new();
    let mut first = 0;
    for round in 0..20 {
        let child = start_child("relay", folder.path(), first);
        let count = 1 + round as usize * 3 % 17;
        let acknowledged = kill_after(child, count, random_pause(round));
        let store = open(settings(folder.path()));
        assert_eq!(store.warnings(), Vec::<String>::new(), "round {round}");
        adopted.extend(
            acknowledged
                .iter()
                .filter(|n| *n % 1000 == 0)
                .map(|n| n / 1000),
        );
        for number in acknowledged {
            let (sequence, group) = (number / 1000, number % 1000);
            first = first.max(sequence + 1);
            let payload = payload(sequence);
            let length = payload.len() as u64;
            let here = store.have(&seal(&payload).root, length).unwrap().unwrap();
            assert!(
                group == 0 || here.contains(group - 1),
                "round {round}: {number}"
            );
        }
        let content = find(&store, "film");
        for sequence in &adopted {
            let got = read(&store, content.as_ref().unwrap(), *sequence);
            assert_eq!(got, Some(payload(*sequence)), "round {round}: {sequence}");
        }
        // What had come but for its last commit can be completed, and is not there twice.
        let report = store.check(|_, _| true).unwrap();
        assert_eq!(
            (report.dropped, report.unknown_files),
            (0, 0),
            "round {round}"
        );
        for file in files(&folder.path().join("partial")) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            let (root, length) = name.split_once('.').unwrap();
            let (root, length) = (root.parse().unwrap(), length.parse().unwrap());
            let found = (0..first + 20).find(|n| seal(&payload(*n)).root == root);
            let sequence = found.unwrap();
            relay(&store, sequence);
            adopted.insert(sequence);
            first = first.max(sequence + 1);
            assert!(!file.exists() && store.slice_file(&root, length).is_ok());
        }
    }
    assert!(adopted.len() >= 20);
}

#[test]
fn an_upload_is_there_as_a_whole_or_not_at_all_when_the_process_is_killed() {
    let folder = private_folder();
    let mut acknowledged = std::collections::BTreeSet::new();
    for round in 0..20 {
        let child = start_child("upload", folder.path(), round * 1000);
        acknowledged.extend(kill_after(child, round as usize % 3, random_pause(round)));
        let store = open(settings(folder.path()));
        assert_eq!(store.warnings(), Vec::<String>::new(), "round {round}");
        assert!(store.upload_progress().is_empty());
        for number in &acknowledged {
            assert!(
                find(&store, &format!("film_{number}")).is_some(),
                "round {round}: {number}"
            );
        }
        for content in store.catalog().all() {
            assert!(
                content.is_complete() && content.segment_count() == 3,
                "{content:?}"
            );
            assert!(store.manifest(content).is_some());
            let number: u64 = content.title.trim_start_matches("film ").parse().unwrap();
            for sequence in 0..3 {
                let got = read(&store, content, sequence);
                assert_eq!(got, Some(bytes(number << 32 | sequence, 30_000)));
            }
        }
        assert!(files(&folder.path().join("incoming")).is_empty());
        let manifests = files(&folder.path().join("manifests")).len();
        assert_eq!(manifests, store.catalog().len());
        assert_eq!(store.check(|_, _| true).unwrap().unknown_files, 0);
    }
    assert!(acknowledged.len() >= 10);
}

#[test]
fn a_second_process_is_refused_with_the_id_of_the_first() {
    let folder = private_folder();
    let mut child = start_child("hold", folder.path(), 0);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ack 0"));
    let key = SigningKey::from_seed(&[1; 32]);
    let error = Store::open(settings(folder.path()), key)
        .err()
        .unwrap()
        .to_string();
    let expected = format!(
        "the store {} is in use by another lavant (process {}); stop that one, or give this one \
         a store of its own with --store",
        folder.path().display(),
        child.id()
    );
    assert_eq!(error, expected);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    open(settings(folder.path()))
        .append(segment("film", 0))
        .unwrap();
}

/// A small file system of its own, taken away at the end whatever happens.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// None, with the reason printed, where mounting is not possible.
    fn new(mebibytes: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting a file system needs root");
            return None;
        }
        let disk = Self {
            folder: private_folder(),
        };
        let image = disk.folder.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        std::fs::create_dir(disk.path()).unwrap();
        let made = run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(&image));
        let mounted = made.and_then(|()| {
            run(Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(disk.path()))
        });
        match mounted {
            Ok(()) => Some(disk),
            Err(reason) => {
                println!("skipped: {reason}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        run(Command::new("mount")
            .args(["-o", &options])
            .arg(self.path()))
        .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

#[test]
fn a_read_only_disk_is_served_and_refuses_writes() {
    let Some(disk) = Disk::new(24) else { return };
    let folder = disk.path().join("store");
    let store = open(settings(&folder));
    publish(&store, 1, 3).unwrap();
    store.append(segment("film", 0)).unwrap();
    drop(store);
    disk.remount("ro");
    let store = open(settings(&folder));
    assert!(store.is_read_only());
    let warnings = store.warnings();
    assert_eq!(
        warnings,
        ["the store is read-only: nothing can be added or removed"]
    );
    let content = find(&store, "film_1").unwrap();
    assert!(content.is_complete());
    for sequence in 0..3 {
        assert_eq!(
            read(&store, &content, sequence),
            Some(bytes(1 << 32 | sequence, 30_000))
        );
    }
    assert_eq!(store.check(|_, _| true).unwrap().intact, 4);
    let read_only = "the store is read-only: its folder or disk does not allow writing";
    let refused = |outcome: Result<(), StoreError>| {
        assert_eq!(outcome.unwrap_err().to_string(), read_only);
    };
    refused(store.append(segment("film", 1)).map(|_| ()));
    refused(publish(&store, 2, 1));
    refused(store.remove(&content).map(|_| ()));
    refused(store.pin(content.no, true));
    refused(store.finish(&ContentId::new("film").unwrap()).map(|_| ()));
    refused(store.gc().map(|_| ()));
    drop(store);
    disk.remount("rw");
    let store = open(settings(&folder));
    assert!(!store.is_read_only());
    store.append(segment("film", 1)).unwrap();
}

#[test]
fn a_disk_that_fails_while_the_store_is_open_is_told_and_what_is_there_is_served() {
    let Some(disk) = Disk::new(24) else { return };
    let folder = disk.path().join("store");
    let store = open(settings(&folder));
    store.append(segment("film", 0)).unwrap();
    run(Command::new("mount")
        .args(["-o", "remount,abort"])
        .arg(disk.path()))
    .unwrap();
    for sequence in 1..4 {
        let error = store.append(segment("film", sequence)).unwrap_err();
        assert!(
            matches!(error, StoreError::ReadOnly | StoreError::Io { .. }),
            "{error:?}"
        );
    }
    let content = find(&store, "film").unwrap();
    assert_eq!(read(&store, &content, 0), Some(payload(0)));
}

#[test]
fn a_damaged_index_on_a_read_only_disk_is_told() {
    let Some(disk) = Disk::new(24) else { return };
    let folder = disk.path().join("store");
    let store = open(settings(&folder));
    store.append(segment("film", 0)).unwrap();
    drop(store);
    let index = folder.join("index.redb");
    let length = std::fs::metadata(&index).unwrap().len() as usize;
    std::fs::write(&index, bytes(1, length)).unwrap();
    disk.remount("ro");
    let key = SigningKey::from_seed(&[1; 32]);
    let error = Store::open(settings(&folder), key)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("is damaged or was not closed, and the store is read-only"),
        "{error}"
    );
    disk.remount("rw");
    let store = open(settings(&folder));
    assert_eq!(store.warnings().len(), 1);
    assert_eq!(
        read(&store, &find(&store, "film").unwrap(), 0),
        Some(payload(0))
    );
}

/// Fills a disk to the last block, but for so many bytes.
fn fill_up(file: &Path, room: u64) {
    let mut filler = std::fs::File::create(file).unwrap();
    let block = [1; 4096];
    while filler.write_all(&block).is_ok() {}
    let length = filler.metadata().unwrap().len();
    filler.set_len(length.saturating_sub(room)).unwrap();
    filler.sync_all().unwrap();
}

/// Removes a file and frees its blocks at once, even while a child that another test is starting
/// has it open.
fn free_up(file: &Path) {
    let emptied = std::fs::File::create(file).unwrap();
    emptied.sync_all().unwrap();
    rustix::fs::syncfs(emptied).unwrap();
    std::fs::remove_file(file).unwrap();
}

/// Appends until the disk is full. Returns what was acknowledged.
fn fill(store: &Store, first: u64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    for sequence in first.. {
        match store.append(segment("film", sequence)) {
            Ok(_) => acknowledged.push(sequence),
            Err(error) if error.is_disk_full() => break,
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

fn assert_intact(store: &Store, acknowledged: &[u64]) {
    let content = find(store, "film").unwrap();
    for sequence in acknowledged {
        assert_eq!(
            read(store, &content, *sequence),
            Some(payload(*sequence)),
            "{sequence}"
        );
    }
}

#[test]
fn a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room() {
    for min_free in [0, 2 << 20] {
        let Some(disk) = Disk::new(24) else { return };
        let folder = disk.path().join("store");
        let mut settings = settings(&folder);
        settings.min_free = min_free;
        let ballast = disk.path().join("ballast");
        std::fs::write(&ballast, bytes(7, 3 << 20)).unwrap();
        let store = open(settings.clone());
        publish(&store, 1, 3).unwrap();
        let mut acknowledged = fill(&store, 0);
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        // With no reserve, fill the last blocks so that the index cannot grow either.
        if min_free == 0 {
            fill_up(&disk.path().join("last"), 3 * 4096);
        }
        for n in 0..20 {
            let small = NewSegment {
                payload: bytes(n, 1),
                ..segment("small", n)
            };
            match store.append(small) {
                Ok(_) => {}
                Err(error) if error.is_disk_full() => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_intact(&store, &acknowledged);
        assert!(files(&folder.join("incoming")).is_empty());
        drop(store);

        let store = open(settings.clone());
        assert_eq!(store.warnings(), Vec::<String>::new());
        assert_intact(&store, &acknowledged);
        assert!(find(&store, "film_1").unwrap().is_complete());
        let text = publish(&store, 2, 2000).unwrap_err().to_string();
        assert!(
            text.starts_with("the disk that holds the store is full ("),
            "{text}"
        );
        store.abort_upload(&format!("{:032x}", 2)).unwrap();
        assert!(files(&folder.join("incoming")).is_empty());

        free_up(&ballast);
        free_up(&disk.path().join("last"));
        // Without a reserve a removal may need a few free blocks for the index itself.
        let spare = disk.path().join("spare");
        std::fs::write(&spare, vec![1; 256 * 1024]).unwrap();
        acknowledged.extend(fill(&store, acknowledged.len() as u64));
        assert_intact(&store, &acknowledged);
        free_up(&spare);
        let content = find(&store, "film_1").unwrap();
        store.remove(&content).unwrap();
        drop(store);
        let store = open(settings);
        assert_intact(&store, &acknowledged);
        assert!(find(&store, "film_1").is_none());
        let report = store.check(|_, _| true).unwrap();
        assert_eq!((report.dropped, report.unknown_files), (0, 0));
    }
}

#[test]
fn a_commit_that_meets_a_full_disk_publishes_nothing_and_can_be_repeated() {
    let Some(disk) = Disk::new(24) else { return };
    let folder = disk.path().join("store");
    let store = open(settings(&folder));
    let filler = disk.path().join("filler");
    let mut published = 0;
    for number in 0..30 {
        // Whatever the disk lacks: room for segments, for the manifest, or for the index.
        fill_up(&filler, number << 13);
        let outcome = publish(&store, number, 3);
        let name = format!("film_{number}");
        match outcome {
            Ok(()) => {
                published += 1;
                assert!(find(&store, &name).unwrap().is_complete());
                continue;
            }
            Err(error) if error.is_disk_full() => assert!(find(&store, &name).is_none()),
            Err(other) => panic!("{other}"),
        }
        free_up(&filler);
        publish(&store, number, 3).unwrap();
        assert!(find(&store, &name).unwrap().is_complete());
    }
    assert!(
        (1..30).contains(&published),
        "{published} of 30 fitted at once"
    );
    assert_eq!(store.catalog().len(), 30);
    assert!(files(&folder.join("incoming")).is_empty());
    assert_eq!(store.check(|_, _| true).unwrap().dropped, 0);
}

#[test]
fn an_index_that_cannot_grow_is_opened_again_when_there_is_room() {
    const WRITERS: u64 = 16;
    let Some(disk) = Disk::new(24) else { return };
    let store = open(settings(&disk.path().join("store")));
    // They share a payload, so that only the index grows; those who append share commits.
    let same = |sequence| NewSegment {
        payload: bytes(0, 10),
        ..segment("many", sequence)
    };
    store.append(segment("film", 0)).unwrap();
    store.append(same(0)).unwrap();
    let many = find(&store, "many").unwrap();
    let filler = disk.path().join("filler");
    fill_up(&filler, 2 * WRITERS * 4096);
    let (next, stored) = (AtomicU64::new(1), AtomicU64::new(1));
    let append = || loop {
        match store.append(same(next.fetch_add(1, Ordering::Relaxed))) {
            Ok(_) => stored.fetch_add(1, Ordering::Relaxed),
            Err(error) => break error.to_string(),
        };
    };
    let refused: Vec<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(append)).collect();
        writers.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let full = "the disk that holds the store is full (it could not write its index)";
    assert!(
        refused.iter().any(|text| text.starts_with(full)),
        "{refused:?}"
    );
    let pinned = find(&store, "many").unwrap().pinned;
    assert_intact(&store, &[0]);

    free_up(&filler);
    store.pin(many.no, !pinned).unwrap();
    assert_eq!(find(&store, "many").unwrap().pinned, !pinned);
    store.append(segment("film", 1)).unwrap();
    drop(store);
    let store = open(settings(&disk.path().join("store")));
    assert_eq!(store.warnings(), Vec::<String>::new());
    assert_eq!(find(&store, "many").unwrap().pinned, !pinned);
    assert_intact(&store, &[0, 1]);
    let report = store.check(|_, _| true).unwrap();
    assert_eq!(
        (report.intact, report.dropped, report.unknown_files),
        (stored.into_inner() + 2, 0, 0)
    );
}
