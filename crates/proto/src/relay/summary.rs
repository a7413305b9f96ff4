//! The description of what a node has of a content, as it crosses the wire.

use super::message::{
    GROUPS_MAX, ManifestHint, PARTIAL_RUNS_MAX, PARTIALS_MAX, RECEIPTS_MAX, SUMMARIES_MAX,
    SUMMARY_RUNS_MAX, TRACKS_MAX, TrackName, list, read_remote, read_spread, read_track,
};
use super::rarity::{Said, size_of, write_said};
use super::receipt::Receipt;
use crate::contact::hello::flag;
use crate::content::record::{read_addressees, read_priority, read_rendition, write_addressees};
use crate::content::{Kind, Priority};
use crate::ids::{ContentId, ContentKey, PublisherKey, Signature};
use crate::limits::{CONTENT_ID_BYTES_MAX, SEQUENCE_MAX};
use crate::numbers::{RemoteNo, TrackNo};
use crate::runs::{GroupRuns, SequenceRuns};
use crate::time::Time;
use crate::wire::{DecodeError, Reader, Writer};

/// What a node has of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The sender's number for the content, used in its later messages and in requests to it.
    pub no: RemoteNo,
    /// The content.
    pub key: ContentKey,
    /// How urgent; believed until a signed record says it.
    pub priority: Priority,
    /// When the last of it expires; believed likewise.
    pub expires: Time,
    /// Of its manifest, when it is finished.
    pub manifest: Option<ManifestHint>,
    /// Over how many nodes it came.
    pub hops: u8,
    /// How many copies the receiver may make; 0 stands for any number.
    pub copies: u16,
    /// The nodes that it is for; believed until the manifest says it.
    pub to: Vec<PublisherKey>,
    /// Segments that are there, by track. A track's place in the list is its number.
    pub tracks: Vec<(TrackName, SequenceRuns)>,
    /// How many of the nodes that the sender met have them, by track; of the first ones at least.
    pub said: Vec<Said>,
    /// Segments that are there in part: track, sequence, chunk groups.
    pub partials: Vec<(TrackNo, u64, GroupRuns)>,
    /// Nodes of a group, and of those that it is for, that have all of it.
    pub receipts: Vec<Receipt>,
}

/// Summaries, with each publisher's key named once.
pub(super) fn write_summaries(summaries: &[Summary], w: &mut Writer) {
    let mut publishers: Vec<PublisherKey> = summaries.iter().map(|it| it.key.publisher).collect();
    // Most contents that a node tells of have few publishers, and a key takes 32 bytes.
    publishers.sort_unstable();
    publishers.dedup();
    w.number(publishers.len() as u64);
    for publisher in &publishers {
        w.bytes(&publisher.0);
    }
    w.number(summaries.len() as u64);
    for summary in summaries {
        // Sorted, each once, and this one is among them.
        let at = publishers.partition_point(|key| *key < summary.key.publisher);
        w.number(at as u64);
        summary.write(w);
    }
}

pub(super) fn read_summaries(r: &mut Reader<'_>) -> Result<Vec<Summary>, DecodeError> {
    let publishers = list(r, "publishers", SUMMARIES_MAX, |r| {
        Ok(PublisherKey(r.array("publisher")?))
    })?;
    list(r, "summaries", SUMMARIES_MAX, |r| {
        let at = r.number("publisher", SUMMARIES_MAX)?;
        let publisher = usize::try_from(at)
            .ok()
            .and_then(|at| publishers.get(at).copied());
        Summary::read(publisher.ok_or(DecodeError::Invalid("publisher"))?, r)
    })
}

impl Summary {
    /// About how many bytes it takes in a message, rather more than less.
    pub(super) fn size(&self) -> usize {
        let runs = |count: usize| 2 + 10 * count;
        let tracks = self
            .tracks
            .iter()
            .map(|(_, here)| 34 + runs(here.runs().len()));
        let partials = self.partials.iter();
        let partials = partials.map(|(.., groups)| 10 + runs(groups.runs().len()));
        let more = 96 * self.receipts.len() + 32 * self.to.len() + size_of(&self.said);
        210 + tracks.sum::<usize>() + partials.sum::<usize>() + more
    }

    /// Bytes of memory that it takes once it is believed, rather more than less.
    pub(super) fn weight(&self) -> usize {
        let runs: usize = self.tracks.iter().map(|(_, here)| here.runs().len()).sum();
        let parts: usize = self.partials.iter().map(|(.., it)| it.runs().len()).sum();
        let keys = 96 * self.receipts.len() + 32 * self.to.len();
        128 + 16 * (self.tracks.len() + runs + parts) + 64 * self.partials.len() + keys
    }

    fn write(&self, w: &mut Writer) {
        w.number(u64::from(self.no.0));
        w.text(self.key.content_id.as_str());
        w.number(u64::from(self.key.version));
        w.byte(self.priority.rank()).number(self.expires.0);
        let is_addressed = u8::from(!self.to.is_empty());
        w.byte(u8::from(self.manifest.is_some()) | (is_addressed << 1));
        if let Some(hint) = &self.manifest {
            w.bytes(hint);
        }
        if !self.to.is_empty() {
            write_addressees(w, &self.to);
        }
        w.byte(self.hops).number(u64::from(self.copies));
        w.number(self.tracks.len() as u64);
        for (name, here) in &self.tracks {
            w.text(name.rendition.as_str());
            w.byte(u8::from(name.kind == Kind::Media));
            here.write(w);
        }
        write_said(&self.said, w);
        w.number(self.partials.len() as u64);
        for (track, sequence, groups) in &self.partials {
            w.number(u64::from(track.0)).number(*sequence);
            groups.write(w);
        }
        w.number(self.receipts.len() as u64);
        for receipt in &self.receipts {
            w.bytes(&receipt.node.0).bytes(&receipt.signature.0);
        }
    }

    fn read(publisher: PublisherKey, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let no = read_remote(r)?;
        let content_id = r.text("content_id", CONTENT_ID_BYTES_MAX)?;
        let key = ContentKey {
            publisher,
            content_id: ContentId::new(content_id)
                .map_err(|_| DecodeError::Invalid("content_id"))?,
            version: read_version(r)?,
        };
        let mut summary = Self {
            no,
            key,
            priority: read_priority(r)?,
            expires: Time(r.number("expires", u64::MAX)?),
            manifest: None,
            hops: 0,
            copies: 0,
            to: Vec::new(),
            tracks: Vec::new(),
            said: Vec::new(),
            partials: Vec::new(),
            receipts: Vec::new(),
        };
        let flags = r.byte("manifest and addressees")?;
        if flags > 3 {
            return Err(DecodeError::Invalid("manifest and addressees"));
        }
        if flags & 1 > 0 {
            summary.manifest = Some(r.array("manifest")?);
        }
        if flags & 2 > 0 {
            summary.to = read_addressees(r)?;
        }
        // An empty list is said by the flag alone: this would be a second encoding.
        if summary.to.is_empty() && flags & 2 > 0 {
            return Err(DecodeError::Invalid("addressees"));
        }
        (summary.hops, summary.copies) = read_spread(r)?;
        // The limit is for all tracks together: it bounds the memory that a content takes.
        let mut runs_left = SUMMARY_RUNS_MAX;
        for _ in 0..r.number("tracks", TRACKS_MAX)? {
            let rendition = read_rendition(r)?;
            let kind = if flag(r, "kind")? {
                Kind::Media
            } else {
                Kind::Init
            };
            let here = SequenceRuns::read(r, SEQUENCE_MAX, runs_left)?;
            runs_left -= here.runs().len();
            summary.tracks.push((TrackName { rendition, kind }, here));
        }
        summary.said = list(r, "said", TRACKS_MAX, Said::read)?;
        for _ in 0..r.number("partials", PARTIALS_MAX)? {
            let track = read_track(r)?;
            let sequence = r.number("sequence", SEQUENCE_MAX)?;
            let groups = GroupRuns::read(r, GROUPS_MAX, PARTIAL_RUNS_MAX)?;
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

fn read_version(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    Ok(r.number("version", u64::from(u32::MAX))? as u32)
}
