//! What two nodes say to each other during a contact (docs/protocol.md, "Relay").

use super::hello::{Hello, flag, read_key};
use super::receipt::Receipt;
use super::reconcile::Ranges;
use crate::content::record::{read_priority, read_rendition, write_content_key};
use crate::content::{Kind, Manifest, Priority, SegmentRecord};
use crate::ids::{ContentKey, PublisherKey, Rendition, Root, Signature};
use crate::limits::{
    MANIFEST_BYTES_MAX, MANIFEST_RECORDS_MAX, RECORD_BYTES_MAX, RENDITIONS_MAX, SEGMENT_BYTES_MAX,
    SEGMENT_TICKS_MAX, SEQUENCE_MAX, TTL_SECONDS_MAX,
};
use crate::runs::{Run, Runs};
use crate::time::Time;
use crate::verify::{CHUNK_GROUP_BYTES, group_count};
use crate::wire::{DecodeError, Reader, Writer};

/// Longest message: a manifest with its signature, or 512 rows of 60 bytes, fit three times.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Most rows of a manifest in one message.
pub const ROWS_MAX: u64 = 512;
/// Most single records in one message; 16 of 2,112 bytes fit.
pub const RECORDS_MAX: u64 = 16;
/// Most contents described in one message.
pub(super) const SUMMARIES_MAX: u64 = 256;
/// Most runs of segments in the description of one content: 4,096 of at most 10 bytes.
pub(super) const SUMMARY_RUNS_MAX: usize = 4096;
/// Most partial segments in the description of one content.
pub(super) const PARTIALS_MAX: u64 = 16;
/// Most receipts in the description of one content: as many nodes are in a group.
pub const RECEIPTS_MAX: u64 = 64;
/// Most runs of chunk groups of one partial segment.
pub(super) const PARTIAL_RUNS_MAX: usize = 64;
/// Most tracks: segments and init segments of every rendition.
pub(super) const TRACKS_MAX: u64 = 2 * RENDITIONS_MAX as u64;
/// Most hashes that prove a run of rows: two for each level of the tree.
const PROOF_MAX: u64 = 2 * (MANIFEST_RECORDS_MAX.ilog2() as u64 + 1);
/// Most names in a list of what is lacking.
const NAMES_MAX: u64 = 4096;
const GROUPS_MAX: u64 = SEGMENT_BYTES_MAX / CHUNK_GROUP_BYTES;

/// One kind of segments of one rendition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackName {
    /// The rendition.
    pub rendition: Rendition,
    /// Media or init.
    pub kind: Kind,
}

/// What a node has of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The sender's number for the content, used in its later messages and in requests to it.
    pub no: u32,
    /// The content.
    pub key: ContentKey,
    /// How urgent; believed until a signed record says it.
    pub priority: Priority,
    /// When the last of it expires; believed likewise.
    pub expires: Time,
    /// Hash of its manifest, when it is finished.
    pub manifest: Option<[u8; 32]>,
    /// Over how many nodes it came.
    pub hops: u8,
    /// How many copies the receiver may make; 0 stands for any number.
    pub copies: u16,
    /// Segments that are there, by track. A track's place in the list is its number.
    pub tracks: Vec<(TrackName, Runs)>,
    /// Segments that are there in part: track, sequence, chunk groups.
    pub partials: Vec<(u16, u64, Runs)>,
    /// Nodes of a group that have all of it.
    pub receipts: Vec<Receipt>,
}

/// One record of a finished content, without what its manifest and its place say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Ticks of 90 kHz.
    pub duration: u64,
    /// Whether it starts anew.
    pub discontinuity: bool,
    /// The init segment that it needs.
    pub init: Option<u64>,
    /// When it was made.
    pub created: Time,
    /// For how long it is of use, in seconds.
    pub ttl: u64,
    /// Bytes of the payload.
    pub length: u64,
    /// Root of the payload.
    pub root: Root,
}

impl Row {
    /// The row of a record.
    #[must_use]
    pub fn of(record: &SegmentRecord) -> Self {
        Self {
            duration: record.duration,
            discontinuity: record.discontinuity,
            init: record.init,
            created: record.created,
            ttl: record.ttl.as_secs(),
            length: record.length,
            root: record.root,
        }
    }

    /// The record that stands at `position` of the manifest; `None` beyond its end. It is to be
    /// checked against the records root.
    #[must_use]
    pub fn record(&self, manifest: &Manifest, position: u64) -> Option<SegmentRecord> {
        let (info, kind, sequence) = place(manifest, position)?;
        Some(SegmentRecord {
            content: manifest.content.clone(),
            title: manifest.title.clone(),
            target_duration: manifest.target_duration,
            rendition: info.name.clone(),
            kind,
            sequence,
            duration: self.duration,
            discontinuity: self.discontinuity,
            init: self.init,
            mime: info.mime,
            priority: manifest.priority,
            created: self.created,
            ttl: std::time::Duration::from_secs(self.ttl),
            length: self.length,
            root: self.root,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.number(self.duration).byte(u8::from(self.discontinuity));
        w.number(self.init.map_or(0, |init| init + 1));
        w.number(self.created.0)
            .number(self.ttl)
            .number(self.length)
            .bytes(&self.root.0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            duration: r.number("duration", SEGMENT_TICKS_MAX)?,
            discontinuity: flag(r, "discontinuity")?,
            init: r.number("init", SEQUENCE_MAX + 1)?.checked_sub(1),
            created: Time(r.number("created", u64::MAX)?),
            ttl: r.number("ttl", TTL_SECONDS_MAX)?,
            length: r.number("length", SEGMENT_BYTES_MAX)?,
            root: Root(r.array("root")?),
        })
    }
}

/// Rendition, kind and sequence of the record at `position` of a manifest.
#[must_use]
pub fn place(
    manifest: &Manifest,
    mut position: u64,
) -> Option<(&crate::content::RenditionInfo, Kind, u64)> {
    for info in &manifest.renditions {
        if position < info.inits {
            return Some((info, Kind::Init, position));
        }
        position -= info.inits;
        if position < info.segments {
            return Some((info, Kind::Media, info.first + position));
        }
        position -= info.segments;
    }
    None
}

/// A message on a link's control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first of each side.
    Hello(Hello),
    /// A step of the reconciliation of what both hold.
    Ranges(Ranges),
    /// Starts of names of contents that the sender lacks or has otherwise: send their summaries.
    Lacking(Vec<[u8; 8]>),
    /// What the sender has of some contents.
    Summaries(Vec<Summary>),
    /// Segments came: number, track, sequences.
    Have(u32, u16, Run),
    /// Segments went.
    Lost(u32, u16, Run),
    /// A content went as a whole.
    Removed(u32),
    /// Asks for a manifest.
    GetManifest(u32),
    /// A manifest as its publisher signed it.
    Manifest(u32, Vec<u8>, Signature),
    /// Asks for rows of a manifest, by their positions.
    GetRows(u32, Run),
    /// Rows from a position on, with the hashes that prove them.
    Rows(u32, u64, Vec<Row>, Vec<[u8; 32]>),
    /// Asks for records of a content that is not finished.
    GetRecords(u32, u16, Run),
    /// Those of the asked records that are there, as signed.
    Records(u32, u16, Run, Vec<(Vec<u8>, Signature)>),
    /// Asks for chunk groups of a segment, under a number of the asker.
    Get {
        /// The asker's number for the answer.
        request: u32,
        /// The content's number at the asked node.
        no: u32,
        /// The track's number at the asked node.
        track: u16,
        /// The segment.
        sequence: u64,
        /// Its chunk groups.
        groups: Run,
    },
    /// What a request asked for is not there (any more).
    Gone(u32),
    /// A request is no longer needed.
    Cancel(u32),
    /// What came of a segment does not match its root: number, track, sequence.
    Damaged(u32, u16, u64),
    /// Asks for a sign of life.
    Ping(u64),
    /// The sign of life.
    Pong(u64),
}

fn write_run(w: &mut Writer, run: &Run) {
    w.number(run.start).number(run.count());
}

fn read_run(r: &mut Reader<'_>, end_max: u64) -> Result<Run, DecodeError> {
    let start = r.number("run", end_max)?;
    let count = r.number("run", end_max)?;
    let end = start.saturating_add(count);
    if count == 0 || end > end_max {
        return Err(DecodeError::Invalid("run"));
    }
    Ok(Run::new(start, end))
}

fn read_no(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    Ok(r.number("content number", u64::from(u32::MAX))? as u32)
}

fn read_track(r: &mut Reader<'_>) -> Result<u16, DecodeError> {
    Ok(r.number("track", TRACKS_MAX - 1)? as u16)
}

impl Summary {
    /// About how many bytes it takes in a message, rather more than less.
    pub(super) fn size(&self) -> usize {
        let runs = |runs: &Runs| 2 + 10 * runs.runs().len();
        let tracks = self.tracks.iter().map(|(_, here)| 34 + runs(here));
        let partials = self.partials.iter().map(|(.., groups)| 10 + runs(groups));
        let receipts = 96 * self.receipts.len();
        210 + tracks.sum::<usize>() + partials.sum::<usize>() + receipts
    }

    fn write(&self, w: &mut Writer) {
        w.number(u64::from(self.no));
        write_content_key(w, &self.key);
        w.byte(self.priority.rank()).number(self.expires.0);
        w.byte(u8::from(self.manifest.is_some()));
        if let Some(hash) = &self.manifest {
            w.bytes(hash);
        }
        w.byte(self.hops).number(u64::from(self.copies));
        w.number(self.tracks.len() as u64);
        for (name, here) in &self.tracks {
            w.text(name.rendition.as_str());
            w.byte(u8::from(name.kind == Kind::Media));
            here.write(w);
        }
        w.number(self.partials.len() as u64);
        for (track, sequence, groups) in &self.partials {
            w.number(u64::from(*track)).number(*sequence);
            groups.write(w);
        }
        w.number(self.receipts.len() as u64);
        for receipt in &self.receipts {
            w.bytes(&receipt.node.0).bytes(&receipt.signature.0);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut summary = Self {
            no: read_no(r)?,
            key: read_key(r)?,
            priority: read_priority(r)?,
            expires: Time(r.number("expires", u64::MAX)?),
            manifest: None,
            hops: 0,
            copies: 0,
            tracks: Vec::new(),
            partials: Vec::new(),
            receipts: Vec::new(),
        };
        if flag(r, "manifest")? {
            summary.manifest = Some(r.array("manifest")?);
        }
        summary.hops = r.byte("hops")?;
        summary.copies = r.number("copies", u64::from(u16::MAX))? as u16;
        let mut runs_left = SUMMARY_RUNS_MAX;
        for _ in 0..r.number("tracks", TRACKS_MAX)? {
            let rendition = read_rendition(r)?;
            let kind = if flag(r, "kind")? {
                Kind::Media
            } else {
                Kind::Init
            };
            let here = Runs::read(r, SEQUENCE_MAX, runs_left)?;
            runs_left -= here.runs().len();
            summary.tracks.push((TrackName { rendition, kind }, here));
        }
        for _ in 0..r.number("partials", PARTIALS_MAX)? {
            let track = read_track(r)?;
            let sequence = r.number("sequence", SEQUENCE_MAX)?;
            let groups = Runs::read(r, GROUPS_MAX, PARTIAL_RUNS_MAX)?;
            summary.partials.push((track, sequence, groups));
        }
        for _ in 0..r.number("receipts", RECEIPTS_MAX)? {
            summary.receipts.push(Receipt {
                node: PublisherKey(r.array("node")?),
                signature: Signature(r.array("signature")?),
            });
        }
        Ok(summary)
    }
}

impl Message {
    /// The message as it crosses a link.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Hello(hello) => hello.write(w.byte(0)),
            Self::Ranges(ranges) => ranges.write(w.byte(1)),
            Self::Lacking(names) => {
                w.byte(2).number(names.len() as u64);
                for name in names {
                    w.bytes(name);
                }
            }
            Self::Summaries(summaries) => {
                w.byte(3).number(summaries.len() as u64);
                for summary in summaries {
                    summary.write(&mut w);
                }
            }
            Self::Have(no, track, run) => write_place(w.byte(4), *no, *track, run),
            Self::Lost(no, track, run) => write_place(w.byte(5), *no, *track, run),
            Self::Removed(no) => {
                w.byte(6).number(u64::from(*no));
            }
            Self::GetManifest(no) => {
                w.byte(7).number(u64::from(*no));
            }
            Self::Manifest(no, manifest, signature) => {
                w.byte(8).number(u64::from(*no)).blob(manifest);
                w.bytes(&signature.0);
            }
            Self::GetRows(no, run) => write_run(w.byte(9).number(u64::from(*no)), run),
            Self::Rows(no, from, rows, proof) => {
                w.byte(10).number(u64::from(*no)).number(*from);
                w.number(rows.len() as u64);
                for row in rows {
                    row.write(&mut w);
                }
                w.number(proof.len() as u64).bytes(proof.as_flattened());
            }
            Self::GetRecords(no, track, run) => write_place(w.byte(11), *no, *track, run),
            Self::Records(no, track, run, records) => {
                write_place(w.byte(12), *no, *track, run);
                w.number(records.len() as u64);
                for (record, signature) in records {
                    w.blob(record).bytes(&signature.0);
                }
            }
            other => other.write_short(&mut w),
        }
        w.finish()
    }

    /// Requests for chunk groups, and messages of a number or two.
    fn write_short(&self, w: &mut Writer) {
        match self {
            Self::Get {
                request,
                no,
                track,
                sequence,
                groups,
            } => {
                w.byte(13).number(u64::from(*request));
                w.number(u64::from(*no)).number(u64::from(*track));
                write_run(w.number(*sequence), groups);
            }
            Self::Gone(request) => {
                w.byte(14).number(u64::from(*request));
            }
            Self::Cancel(request) => {
                w.byte(15).number(u64::from(*request));
            }
            Self::Damaged(no, track, sequence) => {
                w.byte(18).number(u64::from(*no));
                w.number(u64::from(*track)).number(*sequence);
            }
            Self::Ping(stamp) => {
                w.byte(16).number(*stamp);
            }
            Self::Pong(stamp) => {
                w.byte(17).number(*stamp);
            }
            _ => {}
        }
    }

    /// The inverse of [`Message::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::Limit("message"));
        }
        let mut reader = Reader::new(bytes);
        let r = &mut reader;
        let message = match r.byte("message")? {
            0 => Self::Hello(Hello::read(r)?),
            1 => Self::Ranges(Ranges::read(r)?),
            2 => Self::Lacking(list(r, "names", NAMES_MAX, |r| r.array("name"))?),
            3 => Self::Summaries(list(r, "summaries", SUMMARIES_MAX, Summary::read)?),
            4 => Self::Have(read_no(r)?, read_track(r)?, read_run(r, SEQUENCE_MAX + 1)?),
            5 => Self::Lost(read_no(r)?, read_track(r)?, read_run(r, SEQUENCE_MAX + 1)?),
            6 => Self::Removed(read_no(r)?),
            7 => Self::GetManifest(read_no(r)?),
            8 => {
                let no = read_no(r)?;
                let manifest = r.blob("manifest", MANIFEST_BYTES_MAX)?.to_vec();
                Self::Manifest(no, manifest, Signature(r.array("signature")?))
            }
            9 => Self::GetRows(read_no(r)?, read_run(r, MANIFEST_RECORDS_MAX as u64)?),
            10 => {
                let (no, from) = (read_no(r)?, r.number("from", MANIFEST_RECORDS_MAX as u64)?);
                let rows = list(r, "rows", ROWS_MAX, Row::read)?;
                let proof = list(r, "proof", PROOF_MAX, |r| r.array("hash"))?;
                Self::Rows(no, from, rows, proof)
            }
            11 => Self::GetRecords(read_no(r)?, read_track(r)?, read_run(r, SEQUENCE_MAX + 1)?),
            12 => {
                let (no, track) = (read_no(r)?, read_track(r)?);
                let run = read_run(r, SEQUENCE_MAX + 1)?;
                let records = list(r, "records", RECORDS_MAX, |r| {
                    let record = r.blob("record", RECORD_BYTES_MAX)?.to_vec();
                    Ok((record, Signature(r.array("signature")?)))
                })?;
                Self::Records(no, track, run, records)
            }
            13 => Self::Get {
                request: read_no(r)?,
                no: read_no(r)?,
                track: read_track(r)?,
                sequence: r.number("sequence", SEQUENCE_MAX)?,
                groups: read_run(r, GROUPS_MAX)?,
            },
            14 => Self::Gone(read_no(r)?),
            15 => Self::Cancel(read_no(r)?),
            16 => Self::Ping(r.number("stamp", u64::MAX)?),
            17 => Self::Pong(r.number("stamp", u64::MAX)?),
            18 => Self::Damaged(
                read_no(r)?,
                read_track(r)?,
                r.number("sequence", SEQUENCE_MAX)?,
            ),
            _ => return Err(DecodeError::Invalid("message")),
        };
        reader.end()?;
        Ok(message)
    }
}

fn write_place(w: &mut Writer, no: u32, track: u16, run: &Run) {
    write_run(w.number(u64::from(no)).number(u64::from(track)), run);
}

fn list<'a, T>(
    r: &mut Reader<'a>,
    what: &'static str,
    max: u64,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut list = Vec::new();
    for _ in 0..r.number(what, max)? {
        list.push(read(r)?);
    }
    Ok(list)
}

/// How many chunk groups a run of a payload of `length` bytes may name.
#[must_use]
pub(super) fn groups_of(length: u64) -> Run {
    Run::new(0, group_count(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hello::Interest;
    use super::*;
    use crate::ids::ContentId;

    fn summary() -> Summary {
        let media = |name: &str, kind| TrackName {
            rendition: Rendition::new(name).unwrap(),
            kind,
        };
        Summary {
            no: 7,
            key: ContentKey {
                publisher: PublisherKey([3; 32]),
                content_id: ContentId::new("film").unwrap(),
                version: 2,
            },
            priority: Priority::Live,
            expires: Time::from_seconds(1_800_000_000),
            manifest: Some([9; 32]),
            hops: 3,
            copies: 16,
            tracks: vec![
                (media("main", Kind::Init), Runs::of(0, 1)),
                (media("main", Kind::Media), Runs::of(5, 900)),
            ],
            partials: vec![(1, 900, Runs::of(0, 12))],
            receipts: Vec::new(),
        }
    }

    fn examples() -> Vec<Message> {
        let row = Row {
            duration: 540_000,
            discontinuity: true,
            init: Some(0),
            created: Time(77),
            ttl: 60,
            length: 1234,
            root: Root([4; 32]),
        };
        let get = Message::Get {
            request: 1,
            no: 2,
            track: 3,
            sequence: 4,
            groups: Run::new(5, 9),
        };
        let run = Run::new(3, 90);
        vec![
            Message::Hello(Hello {
                version: 1,
                name: "ship".into(),
                interest: Interest::everything(),
                proof: Some([1; 32]),
            }),
            Message::Ranges(super::super::reconcile::begin(&[])),
            Message::Lacking(vec![[1; 8], [2; 8]]),
            Message::Summaries(vec![summary(), summary()]),
            Message::Have(1, 2, run),
            Message::Lost(1, 2, run),
            Message::Removed(4),
            Message::GetManifest(5),
            Message::Manifest(5, vec![1, 2, 3], Signature([7; 64])),
            Message::GetRows(5, run),
            Message::Rows(5, 3, vec![row.clone(), row], vec![[8; 32]]),
            Message::GetRecords(5, 1, run),
            Message::Records(5, 1, run, vec![(vec![1; 30], Signature([6; 64]))]),
            get,
            Message::Gone(9),
            Message::Cancel(9),
            Message::Damaged(1, 2, 3),
            Message::Ping(8),
            Message::Pong(8),
        ]
    }

    #[test]
    fn messages_round_trip_and_their_starts_are_refused() {
        for message in examples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err());
            }
        }
    }

    #[test]
    fn the_description_of_an_ordinary_content_is_small() {
        let bytes = Message::Summaries(vec![summary()]).encode();
        assert!(bytes.len() < 120, "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in 0u8..20, bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let bytes = [vec![kind], bytes].concat();
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert!(message.encode().len() <= bytes.len() + 64);
            }
        }
    }
}
