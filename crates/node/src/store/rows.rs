//! The tables of the index and the rows in them.

use std::time::Duration;

use lavant_proto::content::Kind;
use lavant_proto::ids::{ContentId, PublisherKey, Root, Signature};
use lavant_proto::relay::evict::EvictionRank;
use lavant_proto::relay::learn::EARLY_MAX;
use lavant_proto::time::Time;
use lavant_proto::wire::{DecodeError, Reader, Writer};
use redb::TableDefinition;

use super::error::StoreError;

/// Facts about the store: `format`, `next_content`, and those below.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Bytes of all payload files, and how many there were then: a program that does not know the fact
/// changes the one and not the other.
pub(super) const USED: &str = "used";
pub(super) const USED_OF: &str = "used_of";
/// Content number -> JSON of the content.
pub(super) const CONTENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("contents");
/// [`SegmentKey`] -> [`SegmentRow`].
pub(super) const SEGMENTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("segments");
/// Deadline (8 bytes, microseconds) and [`SegmentKey`], in order of expiry.
pub(super) const DEADLINES: TableDefinition<'_, &[u8], ()> = TableDefinition::new("deadlines");
/// [`EvictionRank`] and [`SegmentKey`], in order of eviction.
pub(super) const EVICTION: TableDefinition<'_, &[u8], ()> = TableDefinition::new("eviction");
/// Root -> how many segments have this payload, and its length.
pub(super) const PAYLOADS: TableDefinition<'_, &[u8], (u32, u64)> =
    TableDefinition::new("payloads");
/// Roots whose files are to be removed.
pub(super) const GARBAGE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("garbage");

/// Content number -> JSON of a content that is removed while rows of it are left.
pub(super) const LEFTOVERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("leftovers");

/// Content number -> JSON of a content that is not here yet, while its rows come.
pub(super) const ARRIVALS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("arrivals");

/// Content number -> by what its segments may still stand in the queues, and which were moved.
pub(super) const REQUEUES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("requeues");

/// Publisher and content_id -> highest version that ever was here, so that a removed version never
/// comes back with other bytes: caches hold segments by version.
pub(super) const VERSIONS: TableDefinition<'_, &[u8], u32> = TableDefinition::new("versions");

/// Publisher and content_id -> highest version that the operator removed, and until when (in
/// microseconds) it does not come back over a link.
pub(super) const REMOVALS: TableDefinition<'_, &[u8], (u32, u64)> =
    TableDefinition::new("removals");

/// The version of everything in the store's folder.
pub(super) const STORE_FORMAT: u64 = 1;

/// What names a segment inside one store. Its bytes sort by content, rendition, kind, sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentKey {
    pub(super) content_no: u64,
    pub(super) rendition_no: u16,
    pub(super) kind: Kind,
    pub(super) sequence: u64,
}

impl SegmentKey {
    pub(super) const BYTES: usize = 19;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.content_no.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.rendition_no.to_be_bytes());
        bytes[10] = u8::from(self.kind == Kind::Media);
        bytes[11..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Index("a segment's key is damaged".into());
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| damaged())?;
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[..8]);
        let content_no = u64::from_be_bytes(eight);
        eight.copy_from_slice(&bytes[11..]);
        Ok(Self {
            content_no,
            rendition_no: u16::from_be_bytes([bytes[8], bytes[9]]),
            kind: if bytes[10] == 0 {
                Kind::Init
            } else {
                Kind::Media
            },
            sequence: u64::from_be_bytes(eight),
        })
    }

    /// The keys of all contents.
    pub(super) const fn everything() -> std::ops::RangeInclusive<[u8; Self::BYTES]> {
        [0; Self::BYTES]..=[u8::MAX; Self::BYTES]
    }

    /// The keys of a content, or of one kind of one rendition of it.
    pub(super) fn range(
        content_no: u64,
        within: Option<(u16, Kind)>,
    ) -> std::ops::RangeInclusive<[u8; Self::BYTES]> {
        let (low, high) = match within {
            Some((rendition_no, kind)) => ((rendition_no, kind), (rendition_no, kind)),
            None => ((0, Kind::Init), (u16::MAX, Kind::Media)),
        };
        let key = |(rendition_no, kind), sequence| {
            Self {
                content_no,
                rendition_no,
                kind,
                sequence,
            }
            .to_bytes()
        };
        key(low, 0)..=key(high, u64::MAX)
    }
}

/// What the index holds of a segment beyond its key and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
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
    /// For how long it is of use.
    pub ttl: Duration,
    /// Bytes of the payload.
    pub length: u64,
    /// BLAKE3 root of the payload.
    pub root: Root,
    /// Whether the payload is here; it may have been evicted.
    pub present: bool,
    /// On how many other nodes it is known to be, which decides what goes first.
    pub copies: u16,
    /// When it came, if it is said to be made later than that.
    pub arrived: Option<Time>,
    /// The publisher's signature, when the manifest does not vouch for it.
    pub signature: Option<Signature>,
}

impl SegmentRow {
    /// When it expires; what is dated so far ahead that it never would counts from its arrival.
    pub(super) fn expires(&self) -> Time {
        let far = |came: &Time| self.created.since(*came) > EARLY_MAX;
        let from = self.arrived.filter(far).unwrap_or(self.created);
        from.after(self.ttl)
    }

    /// Since when it is of use, for which nobody's word but this node's is taken.
    pub(super) fn since(&self) -> Time {
        self.created.min(self.arrived.unwrap_or(Time::MAX))
    }

    /// The same, having come now.
    pub(super) fn come(self, now: Time) -> Self {
        // A clock that was never set says nothing of when that is.
        let ahead = self.created.since(now);
        let arrived = (!ahead.is_zero() && ahead <= EARLY_MAX).then_some(now);
        Self { arrived, ..self }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        let counted = u8::from(self.copies > 0) << 2;
        let dated = u8::from(self.arrived.is_some()) << 3;
        let dependent = u8::from(!self.independent) << 4;
        let flags = u8::from(self.discontinuity) | u8::from(self.present) << 1 | dependent;
        w.number(self.duration).byte(flags | counted | dated);
        w.number(self.init.map_or(0, |init| init + 1));
        w.number(self.created.0)
            .number(self.ttl.as_secs())
            .number(self.length);
        if self.copies > 0 {
            w.number(u64::from(self.copies));
        }
        if let Some(arrived) = self.arrived {
            w.number(arrived.0);
        }
        w.bytes(&self.root.0);
        if let Some(signature) = &self.signature {
            w.bytes(&signature.0);
        }
        w.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Self::read(bytes).map_err(|error| StoreError::Index(format!("a segment's row: {error}")))
    }

    /// Whether an encoded row says that its payload is here. The flags stand behind a number.
    pub(super) fn is_present(bytes: &[u8]) -> bool {
        let flags = bytes.iter().position(|byte| byte & 0x80 == 0);
        let flags = flags.and_then(|last| bytes.get(last + 1));
        flags.is_some_and(|flags| flags & 2 != 0)
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let duration = r.number("duration", u64::MAX)?;
        let flags = r.byte("flags")?;
        let row = Self {
            duration,
            discontinuity: flags & 1 != 0,
            independent: flags & 16 == 0,
            present: flags & 2 != 0,
            init: r.number("init", u64::MAX)?.checked_sub(1),
            created: Time(r.number("created", u64::MAX)?),
            ttl: Duration::from_secs(r.number("ttl", u64::MAX)?),
            length: r.number("length", u64::MAX)?,
            copies: if flags & 4 != 0 {
                r.number("copies", u64::from(u16::MAX))? as u16
            } else {
                0
            },
            arrived: match flags & 8 {
                0 => None,
                _ => Some(Time(r.number("arrived", u64::MAX)?)),
            },
            root: Root(r.array("root")?),
            signature: None,
        };
        if r.end().is_ok() {
            return Ok(row);
        }
        let signature = Some(Signature(r.array("signature")?));
        r.end()?;
        Ok(Self { signature, ..row })
    }
}

/// The key of a content in [`VERSIONS`].
pub(super) fn version_key(publisher: &PublisherKey, id: &ContentId) -> Vec<u8> {
    [&publisher.0, id.as_str().as_bytes()].concat()
}

/// A key that sorts by deadline.
pub(super) fn deadline_key(expires: Time, key: SegmentKey) -> Vec<u8> {
    [&expires.0.to_be_bytes()[..], &key.to_bytes()].concat()
}

/// The inverse of [`deadline_key`].
pub(super) fn split_deadline(bytes: &[u8]) -> Result<(Time, SegmentKey), StoreError> {
    let (time, key) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| StoreError::Index("a deadline is damaged".into()))?;
    Ok((
        Time(u64::from_be_bytes(*time)),
        SegmentKey::from_bytes(key)?,
    ))
}

/// A key that sorts by eviction.
pub(super) fn eviction_key(rank: EvictionRank, key: SegmentKey) -> Vec<u8> {
    [&rank.to_bytes()[..], &key.to_bytes()].concat()
}

/// The inverse of [`eviction_key`].
pub(super) fn split_eviction(bytes: &[u8]) -> Result<(EvictionRank, SegmentKey), StoreError> {
    let (rank, key) = bytes
        .split_first_chunk::<{ EvictionRank::BYTES }>()
        .ok_or_else(|| StoreError::Index("a place in the eviction queue is damaged".into()))?;
    Ok((EvictionRank::from_bytes(rank), SegmentKey::from_bytes(key)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_keys_round_trip() {
        let row = SegmentRow {
            duration: 540_000,
            discontinuity: true,
            independent: false,
            init: Some(0),
            created: Time(1_700_000_000_000_000),
            ttl: Duration::from_secs(9),
            length: 77,
            root: Root([3; 32]),
            present: true,
            copies: 0,
            arrived: None,
            signature: None,
        };
        assert_eq!(SegmentRow::decode(&row.encode()), Ok(row.clone()));
        let signed = SegmentRow {
            signature: Some(Signature([9; 64])),
            present: false,
            copies: 300,
            arrived: Some(Time(5)),
            ..row.clone()
        };
        assert_eq!(SegmentRow::decode(&signed.encode()), Ok(signed.clone()));
        assert!(SegmentRow::decode(&signed.encode()[..100]).is_err());
        assert!(SegmentRow::is_present(&row.encode()) && !SegmentRow::is_present(&signed.encode()));
        assert!(!SegmentRow::is_present(&[]) && !SegmentRow::is_present(&[0x80]));
        let key = SegmentKey {
            content_no: 7,
            rendition_no: 1,
            kind: Kind::Media,
            sequence: 1 << 40,
        };
        assert_eq!(SegmentKey::from_bytes(&key.to_bytes()), Ok(key));
        let deadline = deadline_key(Time(5), key);
        assert_eq!(split_deadline(&deadline), Ok((Time(5), key)));
        assert!(SegmentKey::range(7, None).contains(&key.to_bytes()));
        assert!(!SegmentKey::range(7, Some((1, Kind::Init))).contains(&key.to_bytes()));
    }
}
