//! Films with real payloads, records, signatures and proofs.

use std::time::Duration;

use lavant_proto::content::{
    Kind, Leaf, Manifest, MerkleTree, MimeType, Priority, Proof, RenditionInfo, SegmentRecord,
    merkle_root,
};
use lavant_proto::ids::{ContentId, ContentKey, Rendition, Root, Signature, SigningKey};
use lavant_proto::numbers::{RemoteNo, RequestNo, TrackNo};
use lavant_proto::relay::learn::manifest_hash;
use lavant_proto::relay::message::{RelayMessage, Row, Summary, TrackName};
use lavant_proto::runs::{GroupRun, PositionRun, SequenceRun, SequenceRuns};
use lavant_proto::time::Time;
use lavant_proto::verify::{FRAME_BYTES_MAX, FrameWriter, seal};

use crate::random::Random;

/// When every run begins: clocks are set, so that the future can be told.
pub(super) const BEGUN: Time = Time::from_seconds(1_800_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// The only track of a film.
pub(super) fn track() -> TrackName {
    TrackName {
        rendition: Rendition::main(),
        kind: Kind::Media,
    }
}

/// A payload with what proves its chunk groups.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) payload: Vec<u8>,
    pub(super) outboard: Vec<u8>,
}

impl Blob {
    /// The next frames of an answer, at most so many.
    pub(super) fn frames(&self, writer: &mut FrameWriter, most: u64) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while !writer.is_done() && (frames.len() as u64) < most {
            let mut bytes = vec![0; FRAME_BYTES_MAX];
            let Ok(Some(parts)) = writer.next(&self.outboard, &mut bytes) else {
                break;
            };
            bytes.truncate(parts.proof);
            let leaf = parts.leaf.start as usize..parts.leaf.end as usize;
            // Of a partial payload only what has come is there.
            let Some(group) = self.payload.get(leaf) else {
                break;
            };
            bytes.extend_from_slice(group);
            frames.push(bytes);
        }
        frames
    }
}

/// A content with everything that its publisher signs.
#[derive(Debug)]
pub(super) struct Film {
    pub(super) publisher: SigningKey,
    pub(super) key: ContentKey,
    /// It has a manifest.
    pub(super) finished: bool,
    pub(super) created: Time,
    pub(super) records: Vec<SegmentRecord>,
    pub(super) blobs: Vec<Blob>,
}

impl Film {
    pub(super) fn new(
        publisher: &SigningKey,
        id: &str,
        finished: bool,
        random: &mut Random,
    ) -> Self {
        Self::dated(publisher, (id, BEGUN), finished, random)
    }

    /// One that says that it was made at some time.
    pub(super) fn dated(
        publisher: &SigningKey,
        (id, created): (&str, Time),
        finished: bool,
        random: &mut Random,
    ) -> Self {
        let key = ContentKey {
            publisher: publisher.publisher(),
            content_id: ContentId::new(id).expect("the id is one"),
            version: 1,
        };
        let (mut records, mut blobs) = (Vec::new(), Vec::new());
        for sequence in 0..4 + random.below(5) {
            let length = 1 + random.below(300_000) as usize;
            // Bytes of chance, so that no two payloads are alike.
            let payload: Vec<u8> = (0..length.div_ceil(8))
                .flat_map(|_| random.next().to_le_bytes())
                .take(length)
                .collect();
            let sealed = seal(&payload);
            let outboard = sealed.outboard;
            blobs.push(Blob { payload, outboard });
            records.push(record(&key, (sequence, created), length, sealed.root));
        }
        Self {
            publisher: publisher.clone(),
            key,
            finished,
            created,
            records,
            blobs,
        }
    }

    pub(super) const fn count(&self) -> u64 {
        self.records.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.records.iter().map(|record| record.length).sum()
    }

    pub(super) fn leaves(&self) -> Vec<Leaf> {
        self.records.iter().map(SegmentRecord::leaf).collect()
    }

    pub(super) fn manifest(&self) -> Manifest {
        Manifest {
            content: self.key.clone(),
            title: "A film".into(),
            priority: Priority::Vod,
            created: self.created,
            ttl: DAY,
            target_duration: 2,
            to: Vec::new(),
            renditions: vec![RenditionInfo {
                name: Rendition::main(),
                mime: MimeType::TransportStream,
                bandwidth: 1_000_000,
                average_bandwidth: 1_000_000,
                codecs: String::new(),
                width: 0,
                height: 0,
                frame_rate_milli: 0,
                inits: 0,
                first: 0,
                segments: self.count(),
                duration: 180_000 * self.count(),
                bytes: self.bytes(),
            }],
            records_root: merkle_root(&self.leaves()),
        }
    }

    pub(super) fn signed_manifest(&self) -> (Vec<u8>, Signature) {
        let manifest = self.manifest();
        let signature = manifest.sign(&self.publisher).expect("it is its own");
        (manifest.encode(), signature)
    }

    /// A record as its publisher signs it.
    pub(super) fn signed_record(&self, sequence: u64) -> Option<(Vec<u8>, Signature)> {
        let record = self.records.get(sequence as usize)?.clone();
        let (record, proof) = record.sign(&self.publisher).ok()?;
        match proof {
            Proof::Signature(signature) => Some((record.encode(), signature)),
            Proof::Manifest => None,
        }
    }

    /// Says that all of it is here.
    pub(super) fn offer(&self, no: u32) -> Summary {
        let (manifest, signature) = self.signed_manifest();
        let hint = manifest_hash(&manifest, &signature).first_chunk().copied();
        Summary {
            no: RemoteNo(no),
            key: self.key.clone(),
            priority: Priority::Vod,
            expires: BEGUN.after(DAY),
            manifest: hint.filter(|_| self.finished),
            hops: 0,
            copies: 0,
            to: Vec::new(),
            tracks: vec![(track(), SequenceRuns::of(0, self.count()))],
            said: Vec::new(),
            partials: Vec::new(),
            receipts: Vec::new(),
        }
    }

    /// True answers to questions about it.
    pub(super) fn tell_manifest(&self, no: u32) -> RelayMessage {
        let (manifest, signature) = self.signed_manifest();
        RelayMessage::Manifest(RemoteNo(no), manifest, signature)
    }

    pub(super) fn tell_rows(&self, no: u32, run: PositionRun) -> RelayMessage {
        // A run may go beyond the last segment.
        let end = run.end.min(self.count());
        let at = run.start.min(end) as usize..end as usize;
        let proof = MerkleTree::new(self.leaves()).prove(at.clone());
        let rows = self.records[at].iter().map(Row::of).collect();
        RelayMessage::Rows(RemoteNo(no), run.start, rows, proof)
    }

    pub(super) fn tell_records(&self, no: u32, track: TrackNo, run: SequenceRun) -> RelayMessage {
        let records =
            (run.start..run.end.min(self.count())).filter_map(|at| self.signed_record(at));
        RelayMessage::Records(RemoteNo(no), track, run, records.collect())
    }

    /// Frames that answer a request for chunk groups.
    pub(super) fn frames(&self, request: RequestNo, sequence: u64, groups: GroupRun) -> Vec<Frame> {
        let Some(blob) = self.blobs.get(sequence as usize) else {
            return Vec::new();
        };
        let mut writer = FrameWriter::new(blob.payload.len() as u64, groups);
        let frames = blob.frames(&mut writer, u64::MAX).into_iter();
        frames.map(|bytes| Frame::Data { request, bytes }).collect()
    }
}

fn record(
    key: &ContentKey,
    (sequence, created): (u64, Time),
    length: usize,
    root: Root,
) -> SegmentRecord {
    SegmentRecord {
        content: key.clone(),
        title: "A film".into(),
        target_duration: 2,
        rendition: Rendition::main(),
        kind: Kind::Media,
        sequence,
        duration: 180_000,
        discontinuity: false,
        independent: true,
        init: None,
        mime: MimeType::TransportStream,
        priority: Priority::Vod,
        created,
        ttl: DAY,
        length: length as u64,
        root,
    }
}

/// What crosses a link.
#[derive(Clone, Debug)]
pub(super) enum Frame {
    /// A message as it is encoded.
    Control(Vec<u8>),
    /// A chunk group of an answer, with what proves it.
    Data { request: RequestNo, bytes: Vec<u8> },
}

impl Frame {
    pub(super) const fn bytes(&self) -> u64 {
        let (Self::Control(bytes) | Self::Data { bytes, .. }) = self;
        bytes.len() as u64 + 8
    }
}
