//! The manifest: what a publisher says of a finished content, signed once for all its segments.

use std::time::Duration;

use super::merkle::{Leaf, merkle_root};
use super::record::{
    read_addressees, read_content_key, read_mime, read_priority, read_rendition,
    read_target_duration, read_title, write_addressees, write_content_key,
};
use super::{MimeType, Priority, Unverified, Verified};
use crate::ids::{ContentKey, KeyError, PublisherKey, Rendition, Signature, SigningKey};
use crate::limits::{
    CODECS_BYTES_MAX, MANIFEST_BYTES_MAX, MANIFEST_RECORDS_MAX, RENDITIONS_MAX, SEQUENCE_MAX,
    TTL_SECONDS_MAX,
};
use crate::time::Time;
use crate::wire::{DecodeError, Reader, Writer};

/// Of a manifest for everybody, and of one for some nodes.
/// A manifest for everybody stays in the first one, which every version reads.
const FORMATS: [u8; 2] = [1, 2];
const DOMAIN: &[u8] = b"lavant manifest 1\0";
const PIXELS_MAX: u64 = 1 << 16;
const BITRATE_MAX: u64 = 1 << 40;

/// One row of a master playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenditionInfo {
    /// Its name.
    pub name: Rendition,
    /// What its segments are.
    pub mime: MimeType,
    /// Highest bit rate of a segment, in bit/s.
    pub bandwidth: u64,
    /// Mean bit rate, in bit/s.
    pub average_bandwidth: u64,
    /// RFC 6381 codec strings with commas between, or empty when unknown.
    pub codecs: String,
    /// Width in pixels, 0 without video.
    pub width: u32,
    /// Height in pixels, 0 without video.
    pub height: u32,
    /// Frames per 1000 seconds, 0 without video or when unknown.
    pub frame_rate_milli: u32,
    /// How many init segments it has.
    pub inits: u64,
    /// Sequence of its first segment: 0 but for a stream whose start had expired when it ended.
    pub first: u64,
    /// How many segments it has, numbered without gaps from the first.
    pub segments: u64,
    /// Sum of their durations, in ticks of 90 kHz.
    pub duration: u64,
    /// Sum of their lengths, in bytes, without init segments.
    pub bytes: u64,
}

/// What a publisher says of a finished content.
///
/// The leaves of the Merkle tree are the records of each rendition in the manifest's order, first
/// its init segments, then its segments, each by sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Publisher, content and version.
    pub content: ContentKey,
    /// The title shown to people.
    pub title: String,
    /// How urgent it is.
    pub priority: Priority,
    /// When it was made.
    pub created: Time,
    /// How long it is of use after that; whole seconds.
    pub ttl: Duration,
    /// Ceiling of its segments' durations, in whole seconds (`EXT-X-TARGETDURATION`).
    pub target_duration: u32,
    /// The nodes that it is for, in the order of their keys; everybody when there are none. All may
    /// read it: this says where it is to be carried, and when it has arrived.
    pub to: Vec<PublisherKey>,
    /// Its renditions, first the one that a plain path means.
    pub renditions: Vec<RenditionInfo>,
    /// Merkle root over all records.
    pub records_root: Leaf,
}

/// Why a manifest was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It could not be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is not signed by the publisher that it names.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The leaves given with it are not the ones that it was made over.
    #[error("the list of records does not match the manifest")]
    Leaves,
}

impl Manifest {
    /// The canonical bytes, over which the signature is made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.byte(FORMATS[usize::from(!self.to.is_empty())]);
        write_content_key(&mut w, &self.content);
        w.text(&self.title).byte(self.priority.rank());
        w.number(self.created.0).number(self.ttl.as_secs());
        w.number(u64::from(self.target_duration));
        if !self.to.is_empty() {
            write_addressees(&mut w, &self.to);
        }
        w.number(self.renditions.len() as u64);
        for rendition in &self.renditions {
            rendition.encode(&mut w);
        }
        w.bytes(&self.records_root);
        w.finish()
    }

    /// Decodes a manifest, which proves nothing yet.
    pub fn decode(bytes: &[u8]) -> Result<Unverified<Self>, DecodeError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(DecodeError::Limit("manifest"));
        }
        let mut r = Reader::new(bytes);
        let is_addressed = match r.byte("format")? {
            1 => false,
            2 => true,
            other => return Err(DecodeError::Format(other.into())),
        };
        let manifest = Self {
            content: read_content_key(&mut r)?,
            title: read_title(&mut r)?,
            priority: read_priority(&mut r)?,
            created: Time(r.number("created", u64::MAX)?),
            ttl: Duration::from_secs(r.number("ttl", TTL_SECONDS_MAX)?),
            target_duration: read_target_duration(&mut r)?,
            to: if is_addressed {
                read_addressees(&mut r)?
            } else {
                Vec::new()
            },
            renditions: (0..r.number("renditions", RENDITIONS_MAX as u64)?)
                .map(|_| RenditionInfo::decode(&mut r))
                .collect::<Result<_, _>>()?,
            records_root: r.array("records root")?,
        };
        r.end()?;
        // No addressees are written in format 1: this would be a second encoding.
        if is_addressed && manifest.to.is_empty() {
            return Err(DecodeError::Invalid("addressees"));
        }
        // Counts are what the signer says: here the memory for leaves gets its bound.
        if manifest.record_count() > MANIFEST_RECORDS_MAX as u64 {
            return Err(DecodeError::Limit("records"));
        }
        Ok(Unverified::new(manifest))
    }

    /// How many records it vouches for.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        // Saturating, as it is asked before the counts are checked.
        let counts = self
            .renditions
            .iter()
            .map(|r| r.inits.saturating_add(r.segments));
        counts.fold(0, u64::saturating_add)
    }

    /// When the content is no longer of use.
    #[must_use]
    pub fn expires(&self) -> Time {
        self.created.after(self.ttl)
    }

    /// Signs with the publisher's key, which must be the one that the manifest names.
    pub fn sign(&self, key: &SigningKey) -> Result<Signature, KeyError> {
        if key.publisher() != self.content.publisher {
            return Err(KeyError::BadSignature);
        }
        Ok(key.sign(DOMAIN, &self.encode()))
    }
}

/// A manifest with its signature and the leaves that it was made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// The publisher's signature.
    pub signature: Signature,
    /// One leaf per record, in the manifest's order.
    pub leaves: Vec<Leaf>,
}

impl Unverified<Manifest> {
    /// Checks the publisher's signature alone: what the manifest says is known then, and by its
    /// records root each record can be checked as it comes.
    pub fn verify_signature(
        self,
        signature: &Signature,
    ) -> Result<Verified<Manifest>, ManifestError> {
        let manifest = self.0;
        let publisher = manifest.content.publisher;
        publisher.verify(DOMAIN, &manifest.encode(), signature)?;
        Ok(Verified(manifest))
    }

    /// Checks signature and leaves.
    pub fn verify(
        self,
        signature: Signature,
        leaves: Vec<Leaf>,
    ) -> Result<Verified<SignedManifest>, ManifestError> {
        let manifest = self.0;
        let publisher = manifest.content.publisher;
        publisher.verify(DOMAIN, &manifest.encode(), &signature)?;
        // The signature was checked first: nobody has a tree of a million leaves hashed without
        // one.
        let counted = leaves.len() as u64 == manifest.record_count();
        if !counted || merkle_root(&leaves) != manifest.records_root {
            return Err(ManifestError::Leaves);
        }
        Ok(Verified(SignedManifest {
            manifest,
            signature,
            leaves,
        }))
    }
}

impl RenditionInfo {
    fn encode(&self, w: &mut Writer) {
        w.text(self.name.as_str()).byte(self.mime.code());
        w.number(self.bandwidth)
            .number(self.average_bandwidth)
            .text(&self.codecs);
        w.number(u64::from(self.width))
            .number(u64::from(self.height));
        w.number(u64::from(self.frame_rate_milli));
        w.number(self.inits)
            .number(self.first)
            .number(self.segments);
        w.number(self.duration).number(self.bytes);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let info = Self {
            name: read_rendition(r)?,
            mime: read_mime(r)?,
            bandwidth: r.number("bandwidth", BITRATE_MAX)?,
            average_bandwidth: r.number("average bandwidth", BITRATE_MAX)?,
            codecs: r.text("codecs", CODECS_BYTES_MAX)?.to_owned(),
            width: r.number("width", PIXELS_MAX)? as u32,
            height: r.number("height", PIXELS_MAX)? as u32,
            frame_rate_milli: r.number("frame rate", 1_000_000)? as u32,
            inits: r.number("inits", MANIFEST_RECORDS_MAX as u64)?,
            first: r.number("first", SEQUENCE_MAX)?,
            segments: r.number("segments", MANIFEST_RECORDS_MAX as u64)?,
            duration: r.number("duration", u64::MAX)?,
            bytes: r.number("bytes", u64::MAX)?,
        };
        // Codecs stand between quotes in a playlist: with a quote or a line feed a publisher could
        // write lines of it.
        let legal = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        if !info.codecs.bytes().all(legal) {
            return Err(DecodeError::Invalid("codecs"));
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::*;

    fn finished(key: &SigningKey, count: u64) -> (Manifest, Vec<Leaf>) {
        let leaves: Vec<Leaf> = (0..count).map(|n| record(key, n).leaf()).collect();
        let manifest = Manifest {
            content: record(key, 0).content,
            title: "A film".into(),
            priority: Priority::Vod,
            created: Time::from_seconds(1_700_000_000),
            ttl: Duration::from_secs(60),
            target_duration: 6,
            to: Vec::new(),
            renditions: vec![RenditionInfo {
                name: Rendition::main(),
                mime: MimeType::Mp4,
                bandwidth: 2_000_000,
                average_bandwidth: 1_500_000,
                codecs: "avc1.64001f,mp4a.40.2".into(),
                width: 1280,
                height: 720,
                frame_rate_milli: 25_000,
                inits: 0,
                first: 0,
                segments: count,
                duration: count * 540_000,
                bytes: count * 1234,
            }],
            records_root: merkle_root(&leaves),
        };
        (manifest, leaves)
    }

    #[test]
    fn one_signature_vouches_for_every_record() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (manifest, leaves) = finished(&key, 9);
        let signature = manifest.sign(&key).unwrap();
        let decoded = Manifest::decode(&manifest.encode()).unwrap();
        let signed = decoded.verify(signature, leaves).unwrap();
        let record = super::super::SegmentRecord::decode(&record(&key, 4).encode()).unwrap();
        assert!(record.clone().verify_leaf(&signed.leaves[4]).is_some());
        assert!(record.verify_leaf(&signed.leaves[5]).is_none());
    }

    #[test]
    fn missing_or_foreign_leaves_are_refused() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (manifest, leaves) = finished(&key, 9);
        let signature = manifest.sign(&key).unwrap();
        let verify = |leaves| Unverified::new(manifest.clone()).verify(signature, leaves);
        assert_eq!(verify(leaves[..8].to_vec()), Err(ManifestError::Leaves));
        let mut foreign = leaves.clone();
        foreign[2] = [0; 32];
        assert_eq!(verify(foreign), Err(ManifestError::Leaves));
        assert!(manifest.sign(&SigningKey::from_seed(&[2; 32])).is_err());
        assert!(verify(leaves).is_ok());
    }

    #[test]
    fn the_longest_manifest_fits_its_limit() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (mut manifest, _) = finished(&key, 1);
        let mut row = manifest.renditions[0].clone();
        row.codecs = "c".repeat(CODECS_BYTES_MAX);
        row.name = Rendition::new(&"r".repeat(32)).unwrap();
        (row.duration, row.bytes, row.bandwidth) = (u64::MAX, u64::MAX, BITRATE_MAX);
        manifest.renditions = vec![row; RENDITIONS_MAX];
        manifest.to = (0..16).map(|byte| PublisherKey([byte; 32])).collect();
        manifest.title = "t".repeat(crate::limits::TITLE_BYTES_MAX);
        assert!(Manifest::decode(&manifest.encode()).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(decoded) = Manifest::decode(&bytes) {
                prop_assert_eq!(decoded.claim().encode(), bytes);
            }
        }
    }

    #[test]
    fn addressees_are_signed_and_each_named_once_in_order() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (mut manifest, leaves) = finished(&key, 2);
        let nodes = [[9; 32], [3; 32], [9; 32]].map(PublisherKey);
        manifest.to = super::super::addressees(nodes.to_vec()).unwrap();
        assert_eq!(manifest.to, [[3; 32], [9; 32]].map(PublisherKey));
        let signature = manifest.sign(&key).unwrap();
        let decoded = Manifest::decode(&manifest.encode()).unwrap();
        let signed = decoded.verify(signature, leaves.clone()).unwrap();
        assert_eq!(signed.manifest.to, manifest.to);

        let mut other = manifest.clone();
        other.to.clear();
        let decoded = Manifest::decode(&other.encode()).unwrap();
        decoded.verify(signature, leaves).unwrap_err();
        for wrong in [[9, 3], [3, 3]] {
            other.to = wrong.map(|byte| PublisherKey([byte; 32])).to_vec();
            let error = Manifest::decode(&other.encode()).unwrap_err();
            assert_eq!(error, DecodeError::Invalid("addressees"));
        }
        let many = (0..17).map(|byte| PublisherKey([byte; 32])).collect();
        super::super::addressees(many).unwrap_err();
    }
}
