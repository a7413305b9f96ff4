//! Files of signed manifests: with one, a finished content is known again without the index.
//!
//! ```text
//! length of the manifest u32 | manifest | 64 bytes of signature | for each record, in the
//! manifest's order: length of its row u8, row as in the index
//! ```

use std::io;
use std::path::{Path, PathBuf};

use lavant_proto::content::{Kind, Leaf, Manifest, SignedManifest, Verified};
use lavant_proto::ids::Signature;
use lavant_proto::limits::MANIFEST_BYTES_MAX;
use lavant_proto::relay::learn::manifest_hash;
use lavant_proto::time::Time;

use super::catalog::ManifestFacts;
use super::convert::{content_from, record_of};
use super::disk::Disk;
use super::rows::{SegmentKey, SegmentRow};

/// What a manifest file holds; the keys name no content yet.
pub(super) struct Stored {
    pub(super) signed: Verified<SignedManifest>,
    pub(super) rows: Vec<(SegmentKey, SegmentRow)>,
}

/// The bytes of a manifest file. `rows` are its records, in its order.
fn encode<'r>(signed: &SignedManifest, rows: impl Iterator<Item = &'r SegmentRow>) -> Vec<u8> {
    let manifest = signed.manifest.encode();
    let mut bytes = (manifest.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&manifest);
    bytes.extend_from_slice(&signed.signature.0);
    for row in rows {
        let row = row.encode();
        bytes.push(row.len() as u8);
        bytes.extend_from_slice(&row);
    }
    bytes
}

/// A manifest on its way to its place. What is dropped before it is settled is removed.
pub(super) struct Draft<'a> {
    disk: &'a Disk,
    path: Option<PathBuf>,
}

impl<'a> Draft<'a> {
    /// Writes and flushes a file. `rows` are the records of the manifest, in its order.
    pub(super) fn write<'r>(
        disk: &'a Disk,
        path: PathBuf,
        signed: &SignedManifest,
        rows: impl Iterator<Item = &'r SegmentRow>,
    ) -> io::Result<Self> {
        let draft = Self {
            disk,
            path: Some(path),
        };
        disk.write(draft.path(), &encode(signed, rows))?;
        Ok(draft)
    }

    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// It is somebody else's to remove, or gets its place.
    pub(super) fn keep(mut self) -> PathBuf {
        self.path.take().unwrap_or_default()
    }

    /// It got its place, or goes.
    pub(super) fn settle(self, is_placed: bool) {
        if is_placed {
            self.keep();
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = self.disk.files.remove(path);
        }
    }
}

/// Reads a manifest file; `None` when it is torn or its signature does not fit.
pub(super) fn read(disk: &Disk, path: &Path) -> Option<Stored> {
    let bytes = disk.read(path).ok()?;
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (manifest, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (signature, mut rest) = rest.split_first_chunk::<64>()?;
    let claim = Manifest::decode(manifest).ok()?;
    let content = content_from(0, claim.claim(), Time(0), String::new(), false);
    let mut rows = Vec::new();
    for key in places(claim.claim()) {
        let (length, tail) = rest.split_first()?;
        let (row, tail) = tail.split_at_checked(usize::from(*length))?;
        rows.push((key, SegmentRow::decode(row).ok()?));
        rest = tail;
    }
    let leaves: Vec<Leaf> = rows
        .iter()
        .map(|(key, row)| record_of(&content, *key, row).leaf())
        .collect();
    let signed = claim.verify(Signature(*signature), leaves).ok()?;
    rest.is_empty().then_some(Stored { signed, rows })
}

/// Reads the manifest and its signature alone.
pub(super) fn read_head(disk: &Disk, path: &Path) -> io::Result<(Vec<u8>, Signature)> {
    let file = disk.open(path)?;
    let mut length = [0; 4];
    file.read_exact_at(0, &mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MANIFEST_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut manifest = vec![0; length];
    file.read_exact_at(4, &mut manifest)?;
    let mut signature = [0; 64];
    file.read_exact_at(4 + manifest.len() as u64, &mut signature)?;
    Ok((manifest, Signature(signature)))
}

/// What others are told of a manifest, by its file; none when that cannot be read.
pub(super) fn facts(disk: &Disk, path: &Path) -> Option<ManifestFacts> {
    let (bytes, signature) = read_head(disk, path).ok()?;
    let manifest = Manifest::decode(&bytes).ok()?;
    let claim = manifest.claim();
    Some(ManifestFacts {
        hash: manifest_hash(&bytes, &signature),
        created: claim.created,
        to: claim.to.clone(),
    })
}

/// The places of a manifest's records, in its order.
pub(super) fn places(manifest: &Manifest) -> impl Iterator<Item = SegmentKey> + '_ {
    manifest
        .renditions
        .iter()
        .enumerate()
        .flat_map(|(no, info)| {
            let key = move |kind| {
                move |sequence| SegmentKey {
                    content_no: 0,
                    rendition_no: no as u16,
                    kind,
                    sequence,
                }
            };
            let inits = (0..info.inits).map(key(Kind::Init));
            inits.chain((info.first..info.first + info.segments).map(key(Kind::Media)))
        })
}
