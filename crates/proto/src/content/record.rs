//! The segment record: what a publisher says of one segment.

use std::time::Duration;

use super::merkle::{Leaf, leaf};
use super::{MimeType, Priority, Unverified, Verified};
use crate::ids::{
    ContentId, ContentKey, KeyError, PublisherKey, Rendition, Root, Signature, SigningKey,
};
use crate::limits::{
    ADDRESSEES_MAX, CONTENT_ID_BYTES_MAX, RECORD_BYTES_MAX, RENDITION_BYTES_MAX, SEGMENT_BYTES_MAX,
    SEGMENT_TICKS_MAX, SEQUENCE_MAX, TARGET_SECONDS_MAX, TITLE_BYTES_MAX, TTL_SECONDS_MAX,
};
use crate::time::Time;
use crate::wire::{DecodeError, Reader, Writer};

const FORMAT: u8 = 1;
/// Each kind of statement has a domain of its own, so that a signature of one is never one of
/// another. The zero keeps one domain from being the beginning of another.
const DOMAIN: &[u8] = b"lavant segment record 1\0";
const FLAG_DISCONTINUITY: u8 = 1;
/// It needs segments before it. Not the other way round: what has no flags is the usual.
const FLAG_DEPENDENT: u8 = 2;

/// What a payload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The header that CMAF segments need (`EXT-X-MAP`).
    Init,
    /// A few seconds of media.
    Media,
}

/// What a publisher says of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Publisher, content and version that it belongs to.
    pub content: ContentKey,
    /// The title shown to people.
    pub title: String,
    /// Ceiling of the durations of its content's segments, in whole seconds, so that every node
    /// writes the same playlist (`EXT-X-TARGETDURATION`).
    pub target_duration: u32,
    /// The rendition that it belongs to.
    pub rendition: Rendition,
    /// Media or init.
    pub kind: Kind,
    /// Position in the rendition, counted apart for init segments.
    pub sequence: u64,
    /// Length in ticks of 90 kHz; 0 for init segments.
    pub duration: u64,
    /// Whether timestamps or coding parameters break before it.
    pub discontinuity: bool,
    /// Whether it can be decoded without those before it. Only live segments may not: theirs are
    /// cut elsewhere when no key frame comes in time.
    pub independent: bool,
    /// The sequence of the init segment that it needs.
    pub init: Option<u64>,
    /// What its bytes are.
    pub mime: MimeType,
    /// How urgent it is.
    pub priority: Priority,
    /// When it was made.
    pub created: Time,
    /// How long it is of use after that; whole seconds.
    pub ttl: Duration,
    /// Length of the payload in bytes.
    pub length: u64,
    /// BLAKE3 root of the payload.
    pub root: Root,
}

/// What vouches for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The publisher's own signature of this record.
    Signature(Signature),
    /// It is a leaf of a finished content's signed manifest.
    Manifest,
}

/// Why a record was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It could not be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is not signed by the publisher that it names.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl SegmentRecord {
    /// When it is no longer of use.
    #[must_use]
    pub fn expires(&self) -> Time {
        self.created.after(self.ttl)
    }

    /// The canonical bytes, over which signatures and leaf hashes are made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.byte(FORMAT).byte(u8::from(self.kind == Kind::Media));
        write_content_key(&mut w, &self.content);
        w.text(&self.title)
            .number(u64::from(self.target_duration))
            .text(self.rendition.as_str());
        w.number(self.sequence).number(self.duration);
        w.byte(flags(self.discontinuity, self.independent));
        // 0 for none, so that an option has one encoding.
        w.number(self.init.map_or(0, |init| init + 1));
        w.byte(self.mime.code()).byte(self.priority.rank());
        w.number(self.created.0).number(self.ttl.as_secs());
        w.number(self.length).bytes(&self.root.0);
        w.finish()
    }

    /// Decodes a record, which proves nothing yet.
    pub fn decode(bytes: &[u8]) -> Result<Unverified<Self>, DecodeError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(DecodeError::Limit("record"));
        }
        let mut r = Reader::new(bytes);
        // The format comes first, as all that follows depends on it.
        match r.byte("format")? {
            FORMAT => {}
            other => return Err(DecodeError::Format(other.into())),
        }
        let kind = match r.byte("kind")? {
            0 => Kind::Init,
            1 => Kind::Media,
            _ => return Err(DecodeError::Invalid("kind")),
        };
        let content = read_content_key(&mut r)?;
        let title = read_title(&mut r)?;
        let target_duration = read_target_duration(&mut r)?;
        let rendition = read_rendition(&mut r)?;
        let sequence = r.number("sequence", SEQUENCE_MAX)?;
        let duration = r.number("duration", SEGMENT_TICKS_MAX)?;
        let (discontinuity, independent) = read_flags(&mut r)?;
        let record = Self {
            content,
            title,
            target_duration,
            rendition,
            kind,
            sequence,
            duration,
            discontinuity,
            independent,
            init: r.number("init", SEQUENCE_MAX + 1)?.checked_sub(1),
            mime: read_mime(&mut r)?,
            priority: read_priority(&mut r)?,
            // Any time: there is no clock here. `relay::learn` judges dates.
            created: Time(r.number("created", u64::MAX)?),
            ttl: Duration::from_secs(r.number("ttl", TTL_SECONDS_MAX)?),
            length: r.number("length", SEGMENT_BYTES_MAX)?,
            root: Root(r.array("root")?),
        };
        r.end()?;
        Ok(Unverified::new(record))
    }

    /// Signs this record with the publisher's key.
    ///
    /// The record must name that key as its publisher; a record of another publisher is refused.
    pub fn sign(self, key: &SigningKey) -> Result<(Verified<Self>, Proof), KeyError> {
        // Everybody would refuse it: it names the key that it is checked against.
        if key.publisher() != self.content.publisher {
            return Err(KeyError::BadSignature);
        }
        let signature = key.sign(DOMAIN, &self.encode());
        Ok((Verified(self), Proof::Signature(signature)))
    }

    /// The leaf of this record in a manifest's Merkle tree.
    #[must_use]
    pub fn leaf(&self) -> Leaf {
        leaf(&self.encode())
    }
}

impl Unverified<SegmentRecord> {
    /// Checks the publisher's signature over the record.
    pub fn verify(self, signature: &Signature) -> Result<Verified<SegmentRecord>, KeyError> {
        // Encoded anew for the signature: a value has one encoding, so these are the bytes that
        // came.
        let record = self.0;
        record
            .content
            .publisher
            .verify(DOMAIN, &record.encode(), signature)?;
        Ok(Verified(record))
    }

    /// Takes the record as part of a content whose verified manifest holds its leaf.
    #[must_use]
    pub fn verify_leaf(self, expected: &Leaf) -> Option<Verified<SegmentRecord>> {
        (self.0.leaf() == *expected).then_some(Verified(self.0))
    }
}

/// The Arabic letter mark, which shifts what stands beside it.
const LETTER_MARK: char = '\u{61c}';

/// A title as it may be shown: control characters and bidirectional overrides become spaces, and
/// it is cut to [`TITLE_BYTES_MAX`] bytes at a character's boundary.
#[must_use]
pub fn clean_title(title: &str) -> String {
    // They could change what stands beside the title: on a page, or on a terminal.
    let visible = title
        .chars()
        // That one mark stays: titles with it are signed already, and what is not clean is refused.
        .map(|c| {
            if is_hidden(c) && c != LETTER_MARK {
                ' '
            } else {
                c
            }
        })
        .collect::<String>();
    let mut clean = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    clean.truncate(clean.floor_char_boundary(TITLE_BYTES_MAX));
    // The cut may leave a space at the end, and what is clean stays the same when it is cleaned
    // again: a decoder refuses all else.
    clean.truncate(clean.trim_end().len());
    clean
}

/// Whether a character shows nothing itself and changes what stands beside it: of a text from
/// elsewhere, no such one is shown on a terminal, on a page or in a log.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    // Zero-width characters and marks, overrides and isolates of direction: with these two titles
    // look alike, or text runs backwards.
    c.is_control()
        || matches!(
            c,
            '\u{200b}' | '\u{200e}' | '\u{200f}' | LETTER_MARK | '\u{feff}'
        )
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// Writes the keys of nodes that a content is for.
pub(crate) fn write_addressees(w: &mut Writer, to: &[PublisherKey]) {
    w.number(to.len() as u64);
    for node in to {
        w.bytes(&node.0);
    }
}

/// Reads what [`write_addressees`] wrote: each key once, in their order.
pub(crate) fn read_addressees(r: &mut Reader<'_>) -> Result<Vec<PublisherKey>, DecodeError> {
    let count = r.number("addressees", ADDRESSEES_MAX as u64)?;
    let to: Vec<PublisherKey> = (0..count)
        .map(|_| r.array("addressee").map(PublisherKey))
        .collect::<Result<_, _>>()?;
    // A set of nodes has one order, and so one encoding.
    if !to.is_sorted_by(|a, b| a < b) {
        return Err(DecodeError::Invalid("addressees"));
    }
    Ok(to)
}

pub(crate) fn write_content_key(w: &mut Writer, key: &ContentKey) {
    w.bytes(&key.publisher.0)
        .text(key.content_id.as_str())
        .number(u64::from(key.version));
}

pub(crate) fn read_content_key(r: &mut Reader<'_>) -> Result<ContentKey, DecodeError> {
    let publisher = PublisherKey(r.array("publisher")?);
    let id = r.text("content_id", CONTENT_ID_BYTES_MAX)?;
    let content_id = ContentId::new(id).map_err(|_| DecodeError::Invalid("content_id"))?;
    let version = r.number("version", u64::from(u32::MAX))? as u32;
    Ok(ContentKey {
        publisher,
        content_id,
        version,
    })
}

pub(super) fn read_title(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    let title = r.text("title", TITLE_BYTES_MAX)?;
    // Refused and not cleaned: another title is not the one that was signed.
    if clean_title(title) != title {
        return Err(DecodeError::Invalid("title"));
    }
    Ok(title.to_owned())
}

pub(super) fn read_target_duration(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match r.number("target duration", TARGET_SECONDS_MAX)? {
        0 => Err(DecodeError::Invalid("target duration")),
        seconds => Ok(seconds as u32),
    }
}

pub(crate) fn read_rendition(r: &mut Reader<'_>) -> Result<Rendition, DecodeError> {
    let name = r.text("rendition", RENDITION_BYTES_MAX)?;
    Rendition::new(name).map_err(|_| DecodeError::Invalid("rendition"))
}

/// The flags of a segment, as a byte.
pub(crate) fn flags(discontinuity: bool, independent: bool) -> u8 {
    let dependent = if independent { 0 } else { FLAG_DEPENDENT };
    (u8::from(discontinuity) * FLAG_DISCONTINUITY) | dependent
}

/// Whether it is a discontinuity, and whether it is independent.
pub(crate) fn read_flags(r: &mut Reader<'_>) -> Result<(bool, bool), DecodeError> {
    let flags = r.byte("flags")?;
    if flags & !(FLAG_DISCONTINUITY | FLAG_DEPENDENT) != 0 {
        return Err(DecodeError::Invalid("flags"));
    }
    let (discontinuity, dependent) = (flags & FLAG_DISCONTINUITY, flags & FLAG_DEPENDENT);
    Ok((discontinuity != 0, dependent == 0))
}

pub(super) fn read_mime(r: &mut Reader<'_>) -> Result<MimeType, DecodeError> {
    MimeType::from_code(r.byte("MIME type")?).ok_or(DecodeError::Invalid("MIME type"))
}

pub(crate) fn read_priority(r: &mut Reader<'_>) -> Result<Priority, DecodeError> {
    Priority::from_rank(r.byte("priority")?).ok_or(DecodeError::Invalid("priority"))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn record(key: &SigningKey, sequence: u64) -> SegmentRecord {
        SegmentRecord {
            content: ContentKey {
                publisher: key.publisher(),
                content_id: ContentId::new("film").unwrap(),
                version: 1,
            },
            title: "A film".into(),
            target_duration: 6,
            rendition: Rendition::main(),
            kind: Kind::Media,
            sequence,
            duration: 540_000,
            discontinuity: sequence == 3,
            independent: sequence != 4,
            init: Some(0),
            mime: MimeType::Mp4,
            priority: Priority::Vod,
            created: Time::from_seconds(1_700_000_000),
            ttl: Priority::Vod.default_ttl(),
            length: 1234,
            root: Root([5; 32]),
        }
    }

    #[test]
    fn signed_record_round_trips() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (record, proof) = record(&key, 3).sign(&key).unwrap();
        let Proof::Signature(signature) = proof else {
            panic!("no signature")
        };
        let decoded = SegmentRecord::decode(&record.encode()).unwrap();
        assert_eq!(decoded.verify(&signature).unwrap(), record);
    }

    #[test]
    fn another_key_cannot_sign_or_vouch() {
        let (key, other) = (
            SigningKey::from_seed(&[1; 32]),
            SigningKey::from_seed(&[2; 32]),
        );
        assert!(record(&key, 0).sign(&other).is_err());
        let forged = other.sign(DOMAIN, &record(&key, 0).encode());
        let decoded = SegmentRecord::decode(&record(&key, 0).encode()).unwrap();
        assert_eq!(decoded.verify(&forged), Err(KeyError::BadSignature));
    }

    #[test]
    fn the_longest_record_fits_its_limit() {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut longest = record(&key, SEQUENCE_MAX);
        longest.content.content_id = ContentId::new(&"x".repeat(CONTENT_ID_BYTES_MAX)).unwrap();
        longest.content.version = u32::MAX;
        longest.title = "t".repeat(TITLE_BYTES_MAX);
        longest.target_duration = TARGET_SECONDS_MAX as u32;
        longest.rendition = Rendition::new(&"r".repeat(RENDITION_BYTES_MAX)).unwrap();
        longest.created = Time::MAX;
        longest.init = Some(SEQUENCE_MAX);
        longest.length = SEGMENT_BYTES_MAX;
        let bytes = longest.encode();
        assert!(bytes.len() <= RECORD_BYTES_MAX, "{}", bytes.len());
        assert_eq!(SegmentRecord::decode(&bytes).unwrap().claim(), &longest);
    }

    #[test]
    fn a_target_duration_is_a_second_to_an_hour() {
        let key = SigningKey::from_seed(&[1; 32]);
        for (seconds, error) in [
            (0, DecodeError::Invalid("target duration")),
            (3601, DecodeError::Limit("target duration")),
        ] {
            let mut record = record(&key, 0);
            record.target_duration = seconds;
            assert_eq!(SegmentRecord::decode(&record.encode()), Err(error));
        }
    }

    #[test]
    fn titles_lose_what_cannot_be_seen() {
        assert_eq!(clean_title(" a\n\u{202e}b\0 c "), "a b c");
        assert_eq!(clean_title(&"\u{e9}".repeat(300)).len(), TITLE_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn every_changed_byte_is_noticed(at in 0usize..200, bit in 0u8..8) {
            let key = SigningKey::from_seed(&[1; 32]);
            let (record, proof) = record(&key, 3).sign(&key).unwrap();
            let Proof::Signature(signature) = proof else { panic!("no signature") };
            let mut bytes = record.encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(decoded) = SegmentRecord::decode(&bytes) {
                prop_assert!(decoded.verify(&signature).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_decode_canonically(
            bytes in proptest::collection::vec(any::<u8>(), 0..400)
        ) {
            if let Ok(decoded) = SegmentRecord::decode(&bytes) {
                prop_assert_eq!(decoded.claim().encode(), bytes);
            }
        }
    }
}
