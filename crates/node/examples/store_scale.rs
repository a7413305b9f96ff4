//! Measures the store: size on disk, rate of durable writes, memory and start of a large one.
//!
//! ```text
//! cargo run -p lavant-node --release --example store_scale -- FOLDER [SEGMENTS]
//! cargo run -p lavant-node --release --example store_scale -- FOLDER contents [CONTENTS [EACH]]
//! cargo run -p lavant-node --release --example store_scale -- FOLDER killed [APPENDS]
//! cargo run -p lavant-node --release --example store_scale -- FOLDER hold [SEGMENTS]
//! ```
//!
//! The first measures a store of so many segments, the second one of so many contents, EACH of so
//! many segments that all have the same payload; the third what so many appends to what is there
//! cost, one after another, and how long a start takes after the process was killed; the fourth how
//! long another writer waits while a content of so many segments is pinned, finished, admitted or
//! removed. FOLDER is made; the second goes on with what is there. The figures are printed one to a
//! line.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_node::store::{
    Clock, Commit, CommitRendition, Content, NewSegment, NewUpload, Settings, Shown, Store,
    UploadSegment,
};
use lavant_proto::content::{
    Kind, MimeType, Priority, SegmentRecord, SignedManifest, Unverified, Verified,
};
use lavant_proto::ids::{ContentId, Rendition, SigningKey};
use lavant_proto::time::Time;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder")?;
    let second = arguments.next();
    if second.as_deref() == Some("read") {
        return read_many(Path::new(&folder));
    }
    if let Some(way @ ("killed" | "appends")) = second.as_deref() {
        let count = arguments.next().map_or(Ok(1000), |count| count.parse())?;
        return match way {
            "killed" => killed(Path::new(&folder), count),
            _ => appends(Path::new(&folder), count),
        };
    }
    if second.as_deref() == Some("contents") {
        let mut count = |default| arguments.next().map_or(Ok(default), |count| count.parse());
        return fill(Path::new(&folder), count(100_000)?, count(1)?);
    }
    if second.as_deref() == Some("hold") {
        let segments = arguments.next().map_or(Ok(10_000), |count| count.parse())?;
        return hold(Path::new(&folder), segments);
    }
    let count = second.map_or(Ok(100_000), |count| count.parse())?;
    ratio(&Path::new(&folder).join("film"))?;
    rate(&Path::new(&folder).join("rate"))?;
    scale(&Path::new(&folder).join("scale"), count)
}

fn open(folder: &Path) -> Result<Store, Box<dyn Error>> {
    Ok(Store::open(
        Settings::new(folder),
        SigningKey::from_seed(&[1; 32]),
    )?)
}

fn payload(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

fn segment(content: &str, sequence: u64, payload: Bytes) -> Result<NewSegment, Box<dyn Error>> {
    Ok(NewSegment {
        version: None,
        ttl: None,
        content_id: ContentId::new(content)?,
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
        payload,
    })
}

fn upload(store: &Store, title: &str, number: u64, count: u64, length: usize) -> Outcome {
    let name = format!("{number:032x}");
    store.begin_upload(
        &name,
        NewUpload {
            content_id: None,
            title: title.to_owned(),
            priority: Priority::Vod,
            publisher: None,
            source: String::new(),
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
            payload: payload(number << 32 | sequence, length),
        };
        store.stage(&name, segment)?;
    }
    let rendition = CommitRendition {
        name: Rendition::main(),
        bandwidth: 2_000_000,
        average_bandwidth: 2_000_000,
        codecs: "avc1.64001f".into(),
        width: 1280,
        height: 720,
        frame_rate_milli: 25_000,
        inits: 0,
        segments: count,
    };
    let commit = Commit {
        target_duration: 6,
        renditions: vec![rendition],
        signature: None,
    };
    store.commit_upload(&name, commit)?;
    Ok(())
}

/// Bytes that a folder takes on disk.
fn disk_usage(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = std::fs::symlink_metadata(folder)?.blocks() * 512;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => disk_usage(&entry.path())?,
            false => entry.metadata()?.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// A film of 77 MB, stored by both ways in.
fn ratio(folder: &Path) -> Outcome {
    let (count, length) = (48, 1_600_000);
    let bytes = count * length as u64;
    for way in ["upload", "append"] {
        let folder = folder.join(way);
        let store = open(&folder)?;
        let start = Instant::now();
        if way == "upload" {
            upload(&store, "film", 1, count, length)?;
        } else {
            for sequence in 0..count {
                store.append(segment("film", sequence, payload(sequence, length))?)?;
            }
        }
        let rate = bytes as f64 / 1e6 / start.elapsed().as_secs_f64();
        let open = disk_usage(&folder)? as f64 / bytes as f64;
        drop(store);
        let closed = disk_usage(&folder)? as f64 / bytes as f64;
        println!("{way}: {open:.4} x the payload on disk ({closed:.4} closed), {rate:.0} MB/s");
    }
    Ok(())
}

/// Durable appends per second, by one writer and by eight.
fn rate(folder: &Path) -> Outcome {
    let store = open(folder)?;
    for writers in [1, 8] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let store = store.clone();
                scope.spawn(move || {
                    for n in 0..300 {
                        let seed = writers << 40 | writer << 32 | n;
                        let made = segment(&format!("c{writers}-{writer}"), n, payload(seed, 2048));
                        let _ = made.map(|segment| store.append(segment));
                    }
                });
            }
        });
        let rate = (300 * writers) as f64 / start.elapsed().as_secs_f64();
        println!("append, {writers} writers: {rate:.0} segments/s");
    }
    Ok(())
}

/// Many contents, entered by as many writers as share a commit; then a fresh process opens them.
fn fill(folder: &Path, contents: u64, segments: u64) -> Outcome {
    const WRITERS: u64 = 64;
    const WORDS: [&str; 8] = [
        "harbour", "tide", "ferry", "market", "school", "weather", "storm", "village",
    ];
    let store = open(folder)?;
    let begun = store.catalog().len() as u64;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = store.clone();
            scope.spawn(move || {
                for no in (begun..contents).filter(|no| no % WRITERS == writer) {
                    for sequence in 0..segments {
                        let made = segment(&format!("c{no}"), sequence, payload(1, 512));
                        let Ok(mut segment) = made else { return };
                        let word = |at: u64| WORDS[(at % 8) as usize];
                        segment.title = format!("The {} {} {no}", word(no), word(no >> 3));
                        if store.append(segment).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    let took = start.elapsed().as_secs_f64();
    println!("{contents} contents of {segments} segments stored in {took:.1} s");
    drop(store);
    reopen(folder)
}

/// Appends one after another in a process that is then killed, and has another one open the store.
fn killed(folder: &Path, count: u64) -> Outcome {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(folder)
        .args(["appends", &count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().ok_or("no output")?;
    for line in BufReader::new(said).lines() {
        let line = line?;
        println!("{line}");
        if line.starts_with("append:") {
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    println!("killed");
    reopen(folder)
}

/// Appends to a content of its own, and waits for the end of its input.
fn appends(folder: &Path, count: u64) -> Outcome {
    let start = Instant::now();
    let store = open(folder)?;
    println!("opened in {:.3} s", start.elapsed().as_secs_f64());
    let name = format!("grow-{}", std::process::id());
    let (start, before) = (Instant::now(), cpu_seconds()?);
    for sequence in 0..count {
        let seed = u64::from(std::process::id()) << 32 | sequence;
        store.append(segment(&name, sequence, payload(seed, 512))?)?;
    }
    let each = |seconds: f64| seconds * 1e3 / count as f64;
    println!(
        "append: {:.3} ms of CPU, {:.3} ms",
        each(cpu_seconds()? - before),
        each(start.elapsed().as_secs_f64())
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// CPU time of this process so far.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(") ").next().ok_or("no figures")?;
    let ticks = after.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// Does something to a long content while another writer appends, and prints the longest that this
/// one waited; and the longest of as many appends while nothing was done.
fn beside(store: &Store, what: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    let (done, round) = (AtomicBool::new(false), std::process::id());
    let name = what.replace(' ', "-");
    let append = |sequence| {
        let start = Instant::now();
        let seed = u64::from(round) << 32 | sequence;
        let made = segment(&format!("beside-{name}"), sequence, payload(seed, 512));
        let _ = made.map(|segment| store.append(segment));
        start.elapsed()
    };
    let (waits, took) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut waits = Vec::new();
            // As long again: the rest of the work may be done afterwards.
            let mut more = 0;
            while more < 200 {
                waits.push(append(waits.len() as u64));
                more += usize::from(done.load(Ordering::SeqCst));
            }
            waits
        });
        std::thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        let outcome = work();
        done.store(true, Ordering::SeqCst);
        let took = start.elapsed();
        (writer.join(), outcome.map(|()| took))
    });
    let mut waits = waits.map_err(|_| "the writer panicked")?;
    waits.sort_unstable();
    let (longest, median) = (waits[waits.len() - 1], waits[waits.len() / 2]);
    println!(
        "{what}: took {:.1} ms; another writer waited {:.1} ms at most, {:.1} ms in the median",
        took?.as_secs_f64() * 1e3,
        longest.as_secs_f64() * 1e3,
        median.as_secs_f64() * 1e3
    );
    Ok(())
}

/// A manifest and its records, as they come over a link.
type Said = (Verified<SignedManifest>, Vec<Verified<SegmentRecord>>);

fn said(store: &Store, content: &Content) -> Result<Said, Box<dyn Error>> {
    let manifest = store.manifest(content).ok_or("no manifest")?;
    let mut records = Vec::new();
    for leaf in manifest.leaves.clone() {
        let sequence = records.len() as u64;
        let found = store.segment(content, 0, Kind::Media, sequence)?;
        let record = store.record(content, &found.ok_or("a segment is gone")?);
        records.push(
            Unverified::new(record)
                .verify_leaf(&leaf)
                .ok_or("another record")?,
        );
    }
    Ok((manifest, records))
}

/// How long another writer waits while something is done to a content of so many segments.
fn hold(folder: &Path, segments: u64) -> Outcome {
    let open = |name: &str| -> Result<Store, Box<dyn Error>> {
        let mut settings = Settings::new(&folder.join(name));
        // The same records in each store.
        settings.clock = Clock::manual(Time(1_700_000_000_000_000));
        Ok(Store::open(settings, SigningKey::from_seed(&[1; 32]))?)
    };
    let (one, other, new) = (open("one")?, open("other")?, open("new")?);
    for store in [&one, &other] {
        std::thread::scope(|scope| {
            for writer in 0..64 {
                scope.spawn(move || {
                    for sequence in (writer..segments).step_by(64) {
                        let made = segment("film", sequence, payload(sequence, 512));
                        let _ = made.map(|segment| store.append(segment));
                    }
                });
            }
        });
    }
    let id = ContentId::new("film")?;
    let film = |store: &Store| {
        let catalog = store.catalog();
        catalog.find(None, &id, None).cloned().ok_or("no film")
    };
    let no = film(&one)?.no;
    beside(&one, "nothing", || {
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    })?;
    beside(&one, "pin", || Ok(one.pin(no, true)?))?;
    beside(&one, "unpin", || Ok(one.pin(no, false)?))?;
    beside(&one, "finish", || Ok(one.finish(&id).map(drop)?))?;
    let (manifest, records) = said(&one, &*film(&one)?)?;
    for (store, what) in [(&new, "admit a new one"), (&other, "admit one that grew")] {
        let (manifest, records) = (manifest.clone(), records.clone());
        beside(store, what, || {
            Ok(store.admit(manifest, records).map(drop)?)
        })?;
    }
    let content = film(&one)?;
    beside(&one, "remove", || Ok(one.remove(&content).map(drop)?))
}

/// Many small segments in contents of a thousand; then a fresh process opens and reads them.
fn scale(folder: &Path, count: u64) -> Outcome {
    let store = open(folder)?;
    let start = Instant::now();
    for number in 0..count.div_ceil(1000) {
        upload(
            &store,
            &format!("film {number}"),
            number,
            1000.min(count - number * 1000),
            2048,
        )?;
    }
    println!(
        "{count} segments stored in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    drop(store);
    reopen(folder)
}

/// Has a fresh process open a store and read from it.
fn reopen(folder: &Path) -> Outcome {
    let index = std::fs::metadata(folder.join("index.redb"))?.len();
    println!("index: {:.1} MB", index as f64 / 1e6);
    let child = Command::new(std::env::current_exe()?)
        .arg(folder)
        .arg("read")
        .status()?;
    if child.success() {
        Ok(())
    } else {
        Err("the reader failed".into())
    }
}

fn read_many(folder: &Path) -> Outcome {
    let start = Instant::now();
    let store = open(folder)?;
    println!("opened in {:.3} s", start.elapsed().as_secs_f64());
    println!("RSS after opening: {}", rss()?);
    let catalog = store.catalog();
    let contents: Vec<_> = catalog.all().collect();
    let start = Instant::now();
    let mut state = 7u64;
    for _ in 0..1000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let content = contents[(state >> 33) as usize % contents.len()];
        let sequence = (state >> 13) % content.renditions[0].next;
        let found = store
            .segment(content, 0, Kind::Media, sequence)?
            .ok_or("a segment is gone")?;
        store.read_verified(&found)?;
    }
    println!(
        "1000 random reads in {:.3} s",
        start.elapsed().as_secs_f64()
    );
    println!("RSS after reading: {}", rss()?);
    Ok(())
}

fn rss() -> std::io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.unwrap_or("unknown").trim().to_owned())
}
