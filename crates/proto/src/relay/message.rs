//! What two nodes say to each other about contents (docs/protocol.md, "Relay").
//!
//! Numbers are typed as the receiver reads them; see [`crate::numbers`].

use super::rarity::{Said, size_of, write_said};
use super::reconcile::Ranges;
pub use super::summary::Summary;
use super::summary::{read_summaries, write_summaries};
use crate::contact::hello::flag;
use crate::content::record::{flags, read_flags};
use crate::content::{Kind, Manifest, SegmentRecord};
use crate::ids::{Rendition, Root, Signature};
use crate::limits::{
    MANIFEST_BYTES_MAX, MANIFEST_RECORDS_MAX, RECORD_BYTES_MAX, RENDITIONS_MAX, SEGMENT_BYTES_MAX,
    SEGMENT_TICKS_MAX, SEQUENCE_MAX, TTL_SECONDS_MAX,
};
use crate::numbers::{ContentNo, RemoteNo, RequestNo, TrackNo};
use crate::piece::message::{read_groups, write_run};
use crate::runs::{GroupRun, PositionRun, Run, SequenceRun, SequenceRuns};
use crate::time::Time;
use crate::verify::CHUNK_GROUP_BYTES;
use crate::wire::{DecodeError, Reader, Writer};

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
/// Most echoes in one message.
pub(super) const ECHOES_MAX: u64 = 1024;
pub(super) const GROUPS_MAX: u64 = SEGMENT_BYTES_MAX / CHUNK_GROUP_BYTES;

/// One kind of segments of one rendition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackName {
    /// The rendition.
    pub rendition: Rendition,
    /// Media or init.
    pub kind: Kind,
}

/// The first bytes of the hash of a manifest and its signature: enough to see that two nodes have
/// the same one.
pub type ManifestHint = [u8; 8];

/// What a node has of a content that the receiver told it of, in fewer bytes than a [`Summary`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The receiver's number for the content.
    pub yours: ContentNo,
    /// The sender's number for it.
    pub no: RemoteNo,
    /// Whether the sender has the manifest that the receiver has.
    pub finished: bool,
    /// Over how many nodes it came.
    pub hops: u8,
    /// How many copies the receiver may make; 0 stands for any number.
    pub copies: u16,
    /// Segments that are there, by the receiver's numbers of their tracks. A track's place in the
    /// list is its number at the sender.
    pub tracks: Vec<(TrackNo, SequenceRuns)>,
    /// As in a [`Summary`].
    pub said: Vec<Said>,
}

/// A question about a content, by the number that the node has for it that is asked or that asks.
/// An answer is one to exactly this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Its manifest.
    Manifest(ContentNo),
    /// Rows of its manifest.
    Rows(ContentNo, PositionRun),
    /// Signed records of segments of a track.
    Records(ContentNo, TrackNo, SequenceRun),
}

impl Question {
    /// What it is about.
    #[must_use]
    pub const fn content(&self) -> ContentNo {
        match self {
            Self::Manifest(content) | Self::Rows(content, _) | Self::Records(content, ..) => {
                *content
            }
        }
    }
}

/// One record of a finished content, without what its manifest and its place say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Ticks of 90 kHz.
    pub duration: u64,
    /// Whether it starts anew.
    pub discontinuity: bool,
    /// Whether it can be decoded alone.
    pub independent: bool,
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
            independent: record.independent,
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
        // What the manifest says once for all is not in the rows, so a row takes some 60 bytes.
        Some(SegmentRecord {
            content: manifest.content.clone(),
            title: manifest.title.clone(),
            target_duration: manifest.target_duration,
            rendition: info.name.clone(),
            kind,
            sequence,
            duration: self.duration,
            discontinuity: self.discontinuity,
            independent: self.independent,
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
        w.number(self.duration)
            .byte(flags(self.discontinuity, self.independent));
        // 0 for none, so that an option has one encoding.
        w.number(self.init.map_or(0, |init| init + 1));
        w.number(self.created.0)
            .number(self.ttl)
            .number(self.length)
            .bytes(&self.root.0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let duration = r.number("duration", SEGMENT_TICKS_MAX)?;
        let (discontinuity, independent) = read_flags(r)?;
        Ok(Self {
            duration,
            discontinuity,
            independent,
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

/// What is said about contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayMessage {
    /// A step of the reconciliation of what both hold.
    Ranges(Ranges),
    /// Starts of names of contents that the sender lacks or has otherwise: send their summaries.
    Lacking(Vec<[u8; 8]>),
    /// What the sender has of some contents.
    Summaries(Vec<Summary>),
    /// The same, of contents that the receiver told of.
    Echoes(Vec<Echo>),
    /// Segments came.
    Have(RemoteNo, TrackNo, SequenceRun),
    /// Segments went.
    Lost(RemoteNo, TrackNo, SequenceRun),
    /// A content went as a whole.
    Removed(RemoteNo),
    /// Asks for a manifest.
    GetManifest(ContentNo),
    /// A manifest as its publisher signed it.
    Manifest(RemoteNo, Vec<u8>, Signature),
    /// Asks for rows of a manifest, by their positions.
    GetRows(ContentNo, PositionRun),
    /// Rows from a position on, with the hashes that prove them.
    Rows(RemoteNo, u64, Vec<Row>, Vec<[u8; 32]>),
    /// Asks for records of a content that is not finished.
    GetRecords(ContentNo, TrackNo, SequenceRun),
    /// Those of the asked records that are there, as signed.
    Records(RemoteNo, TrackNo, SequenceRun, Vec<(Vec<u8>, Signature)>),
    /// Asks for chunk groups of a segment.
    Get {
        /// The asker's number for the answer.
        request: RequestNo,
        /// The content.
        content: ContentNo,
        /// The track.
        track: TrackNo,
        /// The segment.
        sequence: u64,
        /// Its chunk groups.
        groups: GroupRun,
    },
    /// What came of a segment does not match its root: number, track, sequence.
    Damaged(ContentNo, TrackNo, u64),
}

fn read_run<K: Copy>(r: &mut Reader<'_>, end_max: u64) -> Result<Run<K>, DecodeError> {
    crate::piece::message::read_run(r, end_max)
}

fn read_sequences(r: &mut Reader<'_>) -> Result<SequenceRun, DecodeError> {
    read_run(r, SEQUENCE_MAX + 1)
}

fn read_no(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    Ok(r.number("content number", u64::from(u32::MAX))? as u32)
}

pub(super) fn read_remote(r: &mut Reader<'_>) -> Result<RemoteNo, DecodeError> {
    read_no(r).map(RemoteNo)
}

fn read_content(r: &mut Reader<'_>) -> Result<ContentNo, DecodeError> {
    read_no(r).map(ContentNo)
}

pub(super) fn read_track(r: &mut Reader<'_>) -> Result<TrackNo, DecodeError> {
    Ok(TrackNo(r.number("track", TRACKS_MAX - 1)? as u16))
}

/// Hops and copies.
pub(super) fn read_spread(r: &mut Reader<'_>) -> Result<(u8, u16), DecodeError> {
    Ok((
        r.byte("hops")?,
        r.number("copies", u64::from(u16::MAX))? as u16,
    ))
}

impl Echo {
    /// About how many bytes it takes in a message, rather more than less.
    pub(super) fn size(&self) -> usize {
        let tracks = self.tracks.iter();
        let tracks = tracks.map(|(_, here)| 4 + 10 * here.runs().len());
        18 + tracks.sum::<usize>() + size_of(&self.said)
    }

    fn write(&self, w: &mut Writer) {
        w.number(u64::from(self.yours.0))
            .number(u64::from(self.no.0));
        w.byte(u8::from(self.finished));
        w.byte(self.hops).number(u64::from(self.copies));
        w.number(self.tracks.len() as u64);
        for (track, here) in &self.tracks {
            w.number(u64::from(track.0));
            here.write(w);
        }
        write_said(&self.said, w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (yours, no) = (read_content(r)?, read_remote(r)?);
        let finished = flag(r, "finished")?;
        let (hops, copies) = read_spread(r)?;
        // The limit is for all tracks together: it bounds the memory that a content takes.
        let (mut tracks, mut runs_left) = (Vec::new(), SUMMARY_RUNS_MAX);
        for _ in 0..r.number("tracks", TRACKS_MAX)? {
            let track = read_track(r)?;
            let here = SequenceRuns::read(r, SEQUENCE_MAX, runs_left)?;
            runs_left -= here.runs().len();
            tracks.push((track, here));
        }
        Ok(Self {
            yours,
            no,
            finished,
            hops,
            copies,
            tracks,
            said: list(r, "said", TRACKS_MAX, Said::read)?,
        })
    }
}

impl RelayMessage {
    /// Kind and body, as they follow the way on a link.
    pub(crate) fn write(&self, w: &mut Writer) {
        match self {
            Self::Ranges(ranges) => ranges.write(w.byte(1)),
            Self::Lacking(names) => {
                w.byte(2).number(names.len() as u64);
                for name in names {
                    w.bytes(name);
                }
            }
            Self::Summaries(summaries) => write_summaries(summaries, w.byte(3)),
            Self::Have(no, track, run) => write_place(w.byte(4), no.0, *track, run),
            Self::Lost(no, track, run) => write_place(w.byte(5), no.0, *track, run),
            Self::Removed(no) => {
                w.byte(6).number(u64::from(no.0));
            }
            Self::GetManifest(no) => {
                w.byte(7).number(u64::from(no.0));
            }
            Self::Manifest(no, manifest, signature) => {
                w.byte(8).number(u64::from(no.0)).blob(manifest);
                w.bytes(&signature.0);
            }
            Self::GetRows(no, run) => write_run(w.byte(9).number(u64::from(no.0)), run),
            Self::Rows(no, from, rows, proof) => {
                w.byte(10).number(u64::from(no.0)).number(*from);
                w.number(rows.len() as u64);
                for row in rows {
                    row.write(w);
                }
                w.number(proof.len() as u64).bytes(proof.as_flattened());
            }
            Self::GetRecords(no, track, run) => write_place(w.byte(11), no.0, *track, run),
            Self::Records(no, track, run, records) => {
                write_place(w.byte(12), no.0, *track, run);
                w.number(records.len() as u64);
                for (record, signature) in records {
                    w.blob(record).bytes(&signature.0);
                }
            }
            Self::Get {
                request,
                content,
                track,
                sequence,
                groups,
            } => {
                w.byte(13).number(u64::from(request.0));
                w.number(u64::from(content.0)).number(u64::from(track.0));
                write_run(w.number(*sequence), groups);
            }
            Self::Damaged(no, track, sequence) => {
                w.byte(14).number(u64::from(no.0));
                w.number(u64::from(track.0)).number(*sequence);
            }
            Self::Echoes(echoes) => {
                w.byte(15).number(echoes.len() as u64);
                for echo in echoes {
                    echo.write(w);
                }
            }
        }
    }

    /// The inverse of [`RelayMessage::write`]; `None` for a kind that is not known.
    pub(crate) fn read(kind: u8, r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            1 => Self::Ranges(Ranges::read(r)?),
            2 => Self::Lacking(list(r, "names", NAMES_MAX, |r| r.array("name"))?),
            3 => Self::Summaries(read_summaries(r)?),
            4 => Self::Have(read_remote(r)?, read_track(r)?, read_sequences(r)?),
            5 => Self::Lost(read_remote(r)?, read_track(r)?, read_sequences(r)?),
            6 => Self::Removed(read_remote(r)?),
            7 => Self::GetManifest(read_content(r)?),
            8 => {
                let no = read_remote(r)?;
                // Kept as it came: manifests are compared by a hash over these bytes.
                let manifest = r.blob("manifest", MANIFEST_BYTES_MAX)?.to_vec();
                Self::Manifest(no, manifest, Signature(r.array("signature")?))
            }
            9 => Self::GetRows(read_content(r)?, read_run(r, MANIFEST_RECORDS_MAX as u64)?),
            10 => {
                let no = read_remote(r)?;
                let from = r.number("from", MANIFEST_RECORDS_MAX as u64)?;
                let rows = list(r, "rows", ROWS_MAX, Row::read)?;
                let proof = list(r, "proof", PROOF_MAX, |r| r.array("hash"))?;
                Self::Rows(no, from, rows, proof)
            }
            11 => Self::GetRecords(read_content(r)?, read_track(r)?, read_sequences(r)?),
            12 => {
                let (no, track) = (read_remote(r)?, read_track(r)?);
                let run = read_sequences(r)?;
                let records = list(r, "records", RECORDS_MAX, |r| {
                    let record = r.blob("record", RECORD_BYTES_MAX)?.to_vec();
                    Ok((record, Signature(r.array("signature")?)))
                })?;
                Self::Records(no, track, run, records)
            }
            13 => Self::Get {
                request: RequestNo(read_no(r)?),
                content: read_content(r)?,
                track: read_track(r)?,
                sequence: r.number("sequence", SEQUENCE_MAX)?,
                groups: read_groups(r)?,
            },
            14 => Self::Damaged(
                read_content(r)?,
                read_track(r)?,
                r.number("sequence", SEQUENCE_MAX)?,
            ),
            15 => Self::Echoes(list(r, "echoes", ECHOES_MAX, Echo::read)?),
            _ => return Ok(None),
        }))
    }
}

fn write_place(w: &mut Writer, no: u32, track: TrackNo, run: &SequenceRun) {
    write_run(w.number(u64::from(no)).number(u64::from(track.0)), run);
}

pub(super) fn list<'a, T>(
    r: &mut Reader<'a>,
    what: &'static str,
    max: u64,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    // The count is a claim: no memory is set aside for it.
    let mut list = Vec::new();
    for _ in 0..r.number(what, max)? {
        list.push(read(r)?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contact::hello::Way;
    use crate::content::Priority;
    use crate::ids::{ContentId, ContentKey, PublisherKey};
    use crate::message::Message;
    use crate::runs::GroupRuns;

    fn summary() -> Summary {
        let media = |name: &str, kind| TrackName {
            rendition: Rendition::new(name).unwrap(),
            kind,
        };
        Summary {
            no: RemoteNo(7),
            key: ContentKey {
                publisher: PublisherKey([3; 32]),
                content_id: ContentId::new("film").unwrap(),
                version: 2,
            },
            priority: Priority::Live,
            expires: Time::from_seconds(1_800_000_000),
            manifest: Some([9; 8]),
            hops: 3,
            copies: 16,
            to: vec![PublisherKey([4; 32])],
            tracks: vec![
                (media("main", Kind::Init), SequenceRuns::of(0, 1)),
                (media("main", Kind::Media), SequenceRuns::of(5, 900)),
            ],
            said: vec![Said::default()],
            partials: vec![(TrackNo(1), 900, GroupRuns::of(0, 12))],
            receipts: Vec::new(),
        }
    }

    fn examples() -> Vec<RelayMessage> {
        let row = Row {
            duration: 540_000,
            discontinuity: true,
            independent: true,
            init: Some(0),
            created: Time(77),
            ttl: 60,
            length: 1234,
            root: Root([4; 32]),
        };
        let get = RelayMessage::Get {
            request: RequestNo(1),
            content: ContentNo(2),
            track: TrackNo(3),
            sequence: 4,
            groups: Run::new(5, 9),
        };
        let echo = Echo {
            yours: ContentNo(300),
            no: RemoteNo(7),
            finished: true,
            hops: 1,
            copies: 0,
            tracks: vec![(TrackNo(0), SequenceRuns::of(0, 1))],
            said: Vec::new(),
        };
        let mut other = summary();
        other.key.publisher = PublisherKey([1; 32]);
        let (run, rows) = (Run::new(3, 90), Run::new(3, 90));
        let (no, track) = (RemoteNo(1), TrackNo(2));
        vec![
            RelayMessage::Ranges(super::super::reconcile::begin(&[])),
            RelayMessage::Lacking(vec![[1; 8], [2; 8]]),
            RelayMessage::Summaries(vec![summary(), other, summary()]),
            RelayMessage::Echoes(vec![echo.clone(), echo]),
            RelayMessage::Have(no, track, run),
            RelayMessage::Lost(no, track, run),
            RelayMessage::Removed(RemoteNo(4)),
            RelayMessage::GetManifest(ContentNo(5)),
            RelayMessage::Manifest(no, vec![1, 2, 3], Signature([7; 64])),
            RelayMessage::GetRows(ContentNo(5), rows),
            RelayMessage::Rows(no, 3, vec![row.clone(), row], vec![[8; 32]]),
            RelayMessage::GetRecords(ContentNo(5), track, run),
            RelayMessage::Records(no, track, run, vec![(vec![1; 30], Signature([6; 64]))]),
            get,
            RelayMessage::Damaged(ContentNo(1), track, 3),
        ]
    }

    #[test]
    fn messages_round_trip_and_their_starts_are_refused() {
        for message in examples() {
            let message = Message::Relay(message);
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for end in 1..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err(), "{end}");
            }
        }
    }

    #[test]
    fn the_description_of_an_ordinary_content_is_small() {
        let summary = || Summary {
            to: Vec::new(),
            ..summary()
        };
        let one = Message::Relay(RelayMessage::Summaries(vec![summary()])).encode();
        assert!(one.len() < 100, "{}", one.len());
        let two = Message::Relay(RelayMessage::Summaries(vec![summary(), summary()])).encode();
        assert!(two.len() - one.len() < 60, "{}", two.len() - one.len());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in 0u8..20, bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let bytes = [vec![Way::Relay.code(), kind], bytes].concat();
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert!(message.encode().len() <= bytes.len() + 64);
            }
        }
    }
}
