//! What a world does with its store, drawn by chance.

use std::sync::OnceLock;
use std::time::Duration;

use lavant_proto::content::{
    Leaf, Manifest, Proof, RenditionInfo, SegmentRecord, SignedManifest, Verified, merkle_root,
};
use lavant_proto::verify::{
    FRAME_BYTES_MAX, FrameReader, FrameWriter, GroupRange, group_count, seal,
};

use super::super::random::Random;
use super::*;

/// Films of another publisher.
const FILMS: usize = 3;

/// One thing that is done.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Append(NewSegment),
    Begin(String, NewUpload),
    Stage(String, UploadSegment),
    Commit(String, u64),
    Abort(String),
    Finish(ContentId),
    Admit(usize),
    /// Chunk groups of a segment of another publisher.
    Pieces(Foreign, GroupRange),
    Adopt(Foreign),
    Pin(ContentKey, bool),
    Remove(ContentKey),
    Copies(ContentKey, u16),
    /// A content is removed while a snapshot names it.
    Snapshot(ContentKey),
    /// Time passes, and what is due goes.
    Wait(Time),
    Read(ContentKey, u64),
    Clean,
}

/// A segment that another publisher signed.
#[derive(Clone)]
pub(super) struct Foreign {
    pub(super) record: Verified<SegmentRecord>,
    proof: Proof,
    payload: Bytes,
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let record = &self.record;
        write!(f, "{} {}", record.content.content_id, record.sequence)
    }
}

/// A finished film of another publisher.
struct Film {
    signed: Verified<SignedManifest>,
    segments: Vec<Foreign>,
}

fn foreign_record(id: &str, priority: Priority, sequence: u64, payload: &Bytes) -> SegmentRecord {
    SegmentRecord {
        content: ContentKey {
            publisher: key(2).publisher(),
            content_id: super::id(id),
            version: 1,
        },
        title: "From elsewhere".into(),
        target_duration: 6,
        rendition: Rendition::main(),
        kind: Kind::Media,
        sequence,
        duration: TICKS,
        discontinuity: false,
        independent: true,
        init: None,
        mime: MimeType::TransportStream,
        priority,
        created: START,
        ttl: Duration::from_secs(100_000),
        length: payload.len() as u64,
        root: seal(payload).root,
    }
}

fn film(no: usize) -> Film {
    let payloads: Vec<Bytes> = (0..3 + no as u64)
        // The films share a payload.
        .map(|sequence| payload_of(5000 + sequence + no as u64))
        .collect();
    let id = format!("film-{no}");
    let record = |(sequence, payload): (usize, &Bytes)| {
        foreign_record(&id, Priority::Vod, sequence as u64, payload)
    };
    let records: Vec<SegmentRecord> = payloads.iter().enumerate().map(record).collect();
    let leaves: Vec<Leaf> = records.iter().map(SegmentRecord::leaf).collect();
    let bytes: u64 = records.iter().map(|record| record.length).sum();
    let info = RenditionInfo {
        name: Rendition::main(),
        mime: MimeType::TransportStream,
        bandwidth: 1000,
        average_bandwidth: 1000,
        codecs: String::new(),
        width: 0,
        height: 0,
        frame_rate_milli: 0,
        inits: 0,
        first: 0,
        segments: records.len() as u64,
        duration: TICKS * records.len() as u64,
        bytes,
    };
    let manifest = Manifest {
        content: records[0].content.clone(),
        title: records[0].title.clone(),
        priority: Priority::Vod,
        created: START,
        ttl: records[0].ttl,
        target_duration: 6,
        to: Vec::new(),
        renditions: vec![info],
        records_root: merkle_root(&leaves),
    };
    let signature = manifest.sign(&key(2)).unwrap();
    let claim = Manifest::decode(&manifest.encode()).unwrap();
    let signed = claim.verify(signature, leaves).unwrap();
    let segments = records.into_iter().zip(payloads).enumerate();
    let segments = segments.map(|(at, (record, payload))| {
        let claim = lavant_proto::content::Unverified::new(record);
        Foreign {
            record: claim.verify_leaf(&signed.leaves[at]).unwrap(),
            proof: Proof::Manifest,
            payload,
        }
    });
    Film {
        segments: segments.collect(),
        signed,
    }
}

fn films() -> &'static [Film] {
    static FILMS_MADE: OnceLock<Vec<Film>> = OnceLock::new();
    FILMS_MADE.get_or_init(|| (0..FILMS).map(film).collect())
}

/// Bytes that only this seed has, some of several chunk groups.
fn payload_of(seed: u64) -> Bytes {
    let length = match seed % 6 {
        0 => 17_000 + seed * 7919 % 40_000,
        _ => 200 + seed * 7919 % 5000,
    };
    bytes(seed, length as usize)
}

/// What is drawn from, and an upload that is open.
#[derive(Default)]
pub(super) struct Script {
    payloads: u64,
    uploads: u64,
    open: Option<Open>,
}

struct Open {
    name: String,
    segments: u64,
    staged: u64,
}

impl Script {
    /// What a stop ends.
    pub(super) fn stop(&mut self) {
        self.open = None;
    }

    pub(super) fn draw(&mut self, random: &mut Random, store: &Store) -> Operation {
        let one_of = |random: &mut Random| {
            let catalog = store.catalog();
            let all: Vec<_> = catalog.all().cloned().collect();
            (!all.is_empty()).then(|| all[random.below(all.len() as u64) as usize].key.clone())
        };
        match random.below(40) {
            0..9 => self.append(random, store),
            9..18 => self.upload(random),
            18..20 => {
                let name = ["vod-a", "vod-b"][random.below(2) as usize];
                Operation::Finish(id(name))
            }
            20..30 => self.foreign(random, store),
            30..36 => {
                let Some(key) = one_of(random) else {
                    return self.append(random, store);
                };
                match random.below(9) {
                    8 => Operation::Snapshot(key),
                    0..3 => Operation::Pin(key, random.below(2) == 0),
                    3..5 => Operation::Remove(key),
                    5 => Operation::Copies(key, random.below(4) as u16),
                    _ => Operation::Read(key, random.below(6)),
                }
            }
            36..39 => {
                let now = store.settings().clock.now();
                let most = [10, 10, 400, 4000, 60_000][random.below(5) as usize];
                Operation::Wait(now.after(Duration::from_secs(random.below(most) + 1)))
            }
            _ => Operation::Clean,
        }
    }

    fn append(&mut self, random: &mut Random, store: &Store) -> Operation {
        let (name, priority) = [
            ("vod-a", Priority::Vod),
            ("vod-b", Priority::Vod),
            ("near-a", Priority::NearLive),
            ("live-a", Priority::Live),
        ][random.below(4) as usize];
        let rendition = ["main", "main", "low"][random.below(3) as usize];
        let content_id = id(name);
        let catalog = store.catalog();
        let own = store.publisher();
        let content = catalog.find(Some(&own), &content_id, None);
        let next = content.and_then(|content| {
            let no = content.rendition_no(rendition)?;
            Some(content.renditions[usize::from(no)].next)
        });
        self.payloads += 1;
        Operation::Append(NewSegment {
            priority,
            rendition: Rendition::new(rendition).unwrap(),
            discontinuity: random.below(4) == 0,
            independent: true,
            payload: payload_of(1_000_000 + self.payloads),
            ..vod(name, next.unwrap_or(0) + random.below(8) / 7)
        })
    }

    fn upload(&mut self, random: &mut Random) -> Operation {
        let Some(open) = &mut self.open else {
            self.uploads += 1;
            let name = upload_id(self.uploads);
            let title = ["One", "Two", "Three"][random.below(3) as usize];
            let new = NewUpload {
                pin: random.below(3) == 0,
                ..upload(title, &format!("source {}", self.uploads))
            };
            self.open = Some(Open {
                name: name.clone(),
                segments: 1 + random.below(5),
                staged: 0,
            });
            return Operation::Begin(name, new);
        };
        if open.staged < open.segments {
            open.staged += 1;
            // From few, so that uploads share some.
            let payload = payload_of(2_000_000 + random.below(12));
            let segment = part(open.staged - 1, payload);
            return Operation::Stage(open.name.clone(), segment);
        }
        let Open { name, segments, .. } = self.open.take().unwrap();
        match random.below(12) {
            0 => Operation::Abort(name),
            _ => Operation::Commit(name, segments),
        }
    }

    fn foreign(&mut self, random: &mut Random, store: &Store) -> Operation {
        let no = random.below(FILMS as u64) as usize;
        let film = &films()[no];
        let id = &film.signed.manifest.content.content_id;
        let known = store.catalog().find(None, id, None).is_some();
        let foreign = match random.below(3) {
            0 => {
                let sequence = random.below(6);
                let payload = payload_of(3_000_000 + sequence);
                let record = foreign_record("far", Priority::NearLive, sequence, &payload);
                let (record, proof) = record.sign(&key(2)).unwrap();
                Foreign {
                    record,
                    proof,
                    payload,
                }
            }
            _ if !known => return Operation::Admit(no),
            _ => {
                let all = &film.segments;
                all[random.below(all.len() as u64) as usize].clone()
            }
        };
        let (root, length) = (foreign.record.root, foreign.record.length);
        let count = group_count(length);
        let here = store.have(&root, length).ok().flatten();
        match here {
            Some(have) if have.count() == count => Operation::Adopt(foreign),
            _ => {
                let start = random.below(count);
                let end = match random.below(2) {
                    0 => start + 1,
                    _ => count,
                };
                let groups = GroupRange::new(if end == count { 0 } else { start }, end);
                Operation::Pieces(foreign, groups)
            }
        }
    }
}

impl Operation {
    pub(super) fn apply(&self, store: &Store) -> Result<(), StoreError> {
        let find = |key: &ContentKey| -> Result<Arc<Content>, StoreError> {
            let catalog = store.catalog();
            let found = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
            let missing = || StoreError::NotFound("the content".into());
            found.cloned().ok_or_else(missing)
        };
        match self {
            Self::Append(new) => store.append(new.clone()).map(drop),
            Self::Begin(name, new) => store.begin_upload(name, new.clone()).map(drop),
            Self::Stage(name, segment) => store.stage(name, segment.clone()).map(drop),
            Self::Commit(name, segments) => store.commit_upload(name, commit(*segments)).map(drop),
            Self::Abort(name) => store.abort_upload(name),
            Self::Finish(id) => store.finish(id).map(drop),
            Self::Admit(no) => {
                let film = &films()[*no];
                let records = film.segments.iter().map(|segment| segment.record.clone());
                store
                    .admit(film.signed.clone(), records.collect())
                    .map(drop)
            }
            Self::Pieces(foreign, groups) => write_pieces(store, foreign, *groups),
            Self::Adopt(foreign) => {
                let (record, proof) = (foreign.record.clone(), foreign.proof.clone());
                store.adopt(record, proof, None, Shown::default()).map(drop)
            }
            Self::Pin(key, pinned) => store.pin(find(key)?.no, *pinned),
            Self::Remove(key) => store.remove(&*find(key)?).map(drop),
            Self::Snapshot(key) => {
                let content = find(key)?;
                let _snapshot = store.snapshot(|_, _| true)?;
                store.remove(&content).map(drop)
            }
            Self::Copies(key, copies) => {
                let no = find(key)?.no;
                store.set_copies(no, (0, Kind::Media), vec![(0..100, *copies)])
            }
            Self::Wait(until) => {
                store.settings().clock.set(*until);
                store.write(|_| Ok(()))
            }
            Self::Read(key, sequence) => {
                let content = find(key)?;
                match store.segment(&content, 0, Kind::Media, *sequence)? {
                    Some(segment) => store.read_verified(&segment).map(drop),
                    None => Ok(()),
                }
            }
            Self::Clean => store.gc().map(drop),
        }
    }
}

fn write_pieces(store: &Store, foreign: &Foreign, groups: GroupRange) -> Result<(), StoreError> {
    let partial = store.partial_of(&foreign.record)?;
    let sealed = seal(&foreign.payload);
    let length = foreign.payload.len() as u64;
    let mut writer = FrameWriter::new(length, groups);
    let mut frames = Vec::new();
    while !writer.is_done() {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let parts = writer.next(&sealed.outboard, &mut frame).unwrap().unwrap();
        let leaf = parts.leaf.start as usize..parts.leaf.end as usize;
        frame.truncate(parts.proof);
        frame.extend_from_slice(&foreign.payload[leaf]);
        frames.push(frame);
    }
    let mut reader = FrameReader::new(sealed.root, length, groups);
    let verified: Vec<_> = frames
        .iter()
        .map(|frame| reader.push(frame).unwrap())
        .collect();
    let written = partial.write_all(&verified);
    written.map_err(|error| StoreError::io("write pieces", error))
}
