//! Tests of the store: what a user reads back, lists and is told.

mod admit;
mod append;
mod arriving;
mod disk;
mod partial;
mod power;
mod quota;
mod random;
mod recovery;
mod shares;
mod staging;
mod standing;
mod time;
mod uploads;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, Priority};
use lavant_proto::ids::{ContentId, ContentKey, Rendition, SigningKey};
use lavant_proto::time::Time;
use tempfile::TempDir;

use super::{
    Clock, Commit, CommitRendition, Content, NewSegment, NewUpload, Settings, Shown, Store,
    StoreError, UploadSegment, payload,
};

/// When all tests begin.
const START: Time = Time(1_700_000_000_000_000);
/// Six seconds.
const TICKS: u64 = 540_000;

/// A store in a folder of its own, with a clock that stands.
struct Bench {
    folder: TempDir,
    clock: Clock,
    settings: Settings,
    open: Option<Store>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = private_folder();
        let clock = Clock::manual(START);
        let mut settings = Settings::new(folder.path());
        settings.clock = clock.clone();
        change(&mut settings);
        let open = Some(Store::open(settings.clone(), key(1)).unwrap());
        Self {
            folder,
            clock,
            settings,
            open,
        }
    }

    fn store(&self) -> &Store {
        self.open.as_ref().unwrap()
    }

    fn close(&mut self) {
        self.open = None;
    }

    fn reopen(&mut self) {
        self.close();
        self.open = Some(Store::open(self.settings.clone(), key(1)).unwrap());
    }

    /// Moves the clock to so many seconds after the start.
    fn at(&self, seconds: u64) {
        self.clock
            .set(Time::from_seconds(START.seconds() + seconds));
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn content(&self, id: &str) -> Arc<Content> {
        self.find(id).unwrap_or_else(|| panic!("{id} is not here"))
    }

    fn find(&self, id: &str) -> Option<Arc<Content>> {
        self.store()
            .catalog()
            .find(None, &ContentId::new(id).unwrap(), None)
            .cloned()
    }

    /// The bytes of a segment of the current version, if it is here.
    fn read(&self, id: &str, sequence: u64) -> Option<Bytes> {
        read(self.store(), &*self.find(id)?, 0, Kind::Media, sequence)
    }

    /// The sequences that are known, and whether their bytes are here.
    fn playlist(&self, id: &str) -> Vec<(u64, bool)> {
        let rows = self
            .store()
            .rows(&self.content(id), 0, Kind::Media)
            .unwrap();
        rows.into_iter()
            .map(|(sequence, row)| (sequence, row.present))
            .collect()
    }

    /// Files below a folder of the store.
    fn files(&self, folder: &str) -> Vec<std::path::PathBuf> {
        files(&self.path().join(folder))
    }
}

/// A folder that only its owner can look into, as a node makes it.
fn private_folder() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let mode = std::fs::Permissions::from_mode(0o700);
    builder.permissions(mode).tempdir().unwrap()
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

fn read(store: &Store, content: &Content, no: u16, kind: Kind, sequence: u64) -> Option<Bytes> {
    let segment = store.segment(content, no, kind, sequence).unwrap()?;
    Some(store.read_verified(&segment).unwrap())
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn id(id: &str) -> ContentId {
    ContentId::new(id).unwrap()
}

/// Bytes that depend on `seed` and do not repeat.
fn bytes(seed: u64, length: usize) -> Bytes {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

/// What a payload of that length counts for.
fn size(length: u64) -> u64 {
    payload::disk_bytes(length)
}

/// An on-demand segment whose bytes depend on id and sequence.
fn vod(content_id: &str, sequence: u64) -> NewSegment {
    let seed = content_id
        .bytes()
        .fold(sequence, |sum, b| sum.rotate_left(7) ^ u64::from(b));
    NewSegment {
        version: None,
        ttl: None,
        content_id: id(content_id),
        title: format!("Title of {content_id}"),
        priority: Priority::Vod,
        target_duration: None,
        rendition: Rendition::main(),
        kind: Kind::Media,
        sequence,
        duration: TICKS,
        discontinuity: false,
        independent: true,
        init: None,
        mime: MimeType::TransportStream,
        shown: Shown::default(),
        payload: bytes(seed, 20_000),
    }
}

fn live(content_id: &str, sequence: u64) -> NewSegment {
    NewSegment {
        priority: Priority::Live,
        ..vod(content_id, sequence)
    }
}

fn upload(title: &str, source: &str) -> NewUpload {
    NewUpload {
        content_id: None,
        title: title.to_owned(),
        priority: Priority::Vod,
        publisher: None,
        source: source.to_owned(),
        expected_seconds: Some(18.0),
        renditions: vec![(Rendition::main(), MimeType::TransportStream)],
        pin: false,
        to: Vec::new(),
    }
}

fn part(sequence: u64, payload: Bytes) -> UploadSegment {
    UploadSegment {
        rendition: "main".into(),
        kind: Kind::Media,
        sequence,
        duration: TICKS,
        discontinuity: false,
        init: None,
        payload,
    }
}

fn commit(segments: u64) -> Commit {
    let rendition = CommitRendition {
        name: Rendition::main(),
        bandwidth: 2_000_000,
        average_bandwidth: 1_000_000,
        codecs: "avc1.64001f,mp4a.40.2".into(),
        width: 1280,
        height: 720,
        frame_rate_milli: 25_000,
        inits: 0,
        segments,
    };
    Commit {
        target_duration: 6,
        renditions: vec![rendition],
        signature: None,
    }
}

fn upload_id(number: u64) -> String {
    format!("{number:032x}")
}

/// Publishes a title of `count` segments, whose bytes depend on `seed`.
fn publish(store: &Store, title: &str, seed: u64, count: u64) -> Result<ContentKey, StoreError> {
    let name = upload_id(seed);
    store.begin_upload(&name, upload(title, &format!("source {seed}")))?;
    for sequence in 0..count {
        store.stage(&name, part(sequence, bytes(seed * 1000 + sequence, 20_000)))?;
    }
    store.commit_upload(&name, commit(count))
}
