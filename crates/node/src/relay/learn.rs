//! What peers say of contents, checked against the publisher's key before it is believed.

use std::collections::BTreeMap;
use std::sync::Arc;

use lavant_proto::content::{
    Kind, Leaf, Manifest, MerkleTree, Proof, SegmentRecord, SignedManifest, Unverified, Verified,
    verify_range,
};
use lavant_proto::ids::{ContentKey, Signature};
use lavant_proto::limits::MANIFEST_RECORDS_MAX;
use lavant_proto::relay::message::{Row, TrackName, place};
use lavant_proto::runs::Run;
use lavant_proto::time::Time;

/// Most rows of manifests that are on their way: as many as one manifest may have.
const ROWS_MAX: usize = MANIFEST_RECORDS_MAX;
/// Manifests that are on their way at a time.
const ASSEMBLIES_MAX: usize = 256;

/// A manifest of which the rows are coming.
pub(super) struct Assembly {
    manifest: Verified<Manifest>,
    signature: Signature,
    hash: [u8; 32],
    leaves: Vec<Leaf>,
    rows: Vec<Row>,
}

impl Assembly {
    fn total(&self) -> u64 {
        let sizes = self.manifest.renditions.iter();
        sizes.map(|info| info.inits + info.segments).sum()
    }
}

/// All manifests on their way, by the relay's numbers of their contents.
#[derive(Default)]
pub(super) struct Assemblies(BTreeMap<u32, Assembly>);

/// A manifest with all of its records.
pub(super) struct Complete {
    pub(super) signed: Verified<SignedManifest>,
    pub(super) records: Vec<Verified<SegmentRecord>>,
}

/// How far a manifest is: its hash, how many records it has, how many are known.
pub(super) struct Progress {
    pub(super) hash: [u8; 32],
    pub(super) total: u64,
    pub(super) known: u64,
}

/// The hash by which nodes compare manifests.
pub(super) fn manifest_hash(manifest: &[u8], signature: &Signature) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(manifest).update(&signature.0);
    *hasher.finalize().as_bytes()
}

impl Assemblies {
    /// A manifest came. Rows that are here of the same one stay.
    pub(super) fn manifest(
        &mut self,
        no: u32,
        key: &ContentKey,
        bytes: &[u8],
        signature: Signature,
        now: Time,
    ) -> Result<Progress, String> {
        let claim: Unverified<Manifest> =
            Manifest::decode(bytes).map_err(|error| format!("a manifest is damaged: {error}"))?;
        if claim.claim().content != *key {
            return Err("it sent the manifest of another content".into());
        }
        let manifest = claim
            .verify_signature(&signature)
            .map_err(|_| "a manifest is not signed by its publisher".to_owned())?;
        if manifest.expires() <= now {
            return Err("it sent a manifest whose time is over".into());
        }
        let hash = manifest_hash(bytes, &signature);
        let known = match self.0.get(&no) {
            Some(held) if held.hash == hash => held.rows.len() as u64,
            _ => {
                self.make_room();
                let assembly = Assembly {
                    manifest,
                    signature,
                    hash,
                    leaves: Vec::new(),
                    rows: Vec::new(),
                };
                self.0.insert(no, assembly);
                0
            }
        };
        let total = self.0.get(&no).map_or(0, Assembly::total);
        Ok(Progress { hash, total, known })
    }

    fn make_room(&mut self) {
        let rows: usize = self.0.values().map(|held| held.rows.len()).sum();
        if rows >= ROWS_MAX || self.0.len() >= ASSEMBLIES_MAX {
            let least = self.0.iter().min_by_key(|(_, held)| held.rows.len());
            if let Some((no, _)) = least.map(|(no, held)| (*no, held)) {
                self.0.remove(&no);
            }
        }
    }

    /// Rows came. Returns how many are known then, out of how many.
    pub(super) fn rows(
        &mut self,
        no: u32,
        from: u64,
        rows: Vec<Row>,
        proof: &[[u8; 32]],
    ) -> Result<Option<(u64, u64)>, String> {
        let Some(held) = self.0.get_mut(&no) else {
            return Ok(None);
        };
        let total = held.total();
        if from != held.rows.len() as u64 {
            return Ok(Some((held.rows.len() as u64, total)));
        }
        let wrong = || "rows of a manifest are not what its publisher signed".to_owned();
        let mut leaves = Vec::with_capacity(rows.len());
        for (offset, row) in rows.iter().enumerate() {
            let record = row.record(&held.manifest, from + offset as u64);
            leaves.push(record.ok_or_else(wrong)?.leaf());
        }
        let root = held.manifest.records_root;
        if rows.is_empty() || !verify_range(&root, total, from, &leaves, proof) {
            return Err(wrong());
        }
        held.leaves.extend(leaves);
        held.rows.extend(rows);
        Ok(Some((held.rows.len() as u64, total)))
    }

    /// Takes a manifest out of which every row is known.
    pub(super) fn complete(&mut self, no: u32) -> Option<Complete> {
        let whole = self.0.get(&no)?;
        if whole.rows.len() as u64 != whole.total() {
            return None;
        }
        let Assembly {
            manifest,
            signature,
            leaves,
            rows,
            ..
        } = self.0.remove(&no)?;
        let records: Option<Vec<_>> = rows
            .iter()
            .zip(&leaves)
            .enumerate()
            .map(|(position, (row, leaf))| {
                let record = row.record(&manifest, position as u64)?;
                Unverified::new(record).verify_leaf(leaf)
            })
            .collect();
        let claim = Unverified::new(manifest.into_inner());
        let signed = claim.verify(signature, leaves).ok()?;
        Some(Complete {
            signed,
            records: records?,
        })
    }

    /// Forgets a manifest.
    pub(super) fn forget(&mut self, no: u32) {
        self.0.remove(&no);
    }
}

/// Checks signed records of a run of a track. One that is wrong makes all of them suspect; those
/// whose time is over are left out.
pub(super) fn records(
    key: &ContentKey,
    track: &TrackName,
    run: Run,
    claims: Vec<(Vec<u8>, Signature)>,
    now: Time,
) -> Result<Vec<(Verified<SegmentRecord>, Proof)>, String> {
    let mut verified = Vec::new();
    for (bytes, signature) in claims {
        let claim = SegmentRecord::decode(&bytes)
            .map_err(|error| format!("a segment's record is damaged: {error}"))?;
        let record = claim
            .verify(&signature)
            .map_err(|_| "a segment's record is not signed by its publisher".to_owned())?;
        let asked = record.content == *key
            && record.rendition == track.rendition
            && record.kind == track.kind
            && (run.start..run.end).contains(&record.sequence);
        if !asked {
            return Err("it sent a record that was not asked for".into());
        }
        if record.expires() > now {
            verified.push((record, Proof::Signature(signature)));
        }
    }
    Ok(verified)
}

/// The position of a record in its manifest.
pub(super) fn position(manifest: &Manifest, name: &TrackName, sequence: u64) -> Option<u64> {
    let mut before = 0;
    for info in &manifest.renditions {
        if info.name == name.rendition {
            let at = match name.kind {
                Kind::Init => before + sequence,
                Kind::Media => before + info.inits + sequence.checked_sub(info.first)?,
            };
            let (found, kind, there) = place(manifest, at)?;
            let same = found.name == name.rendition && kind == name.kind && there == sequence;
            return same.then_some(at);
        }
        before += info.inits + info.segments;
    }
    None
}

/// A manifest with what proves its records.
pub(super) struct Sheet {
    pub(super) manifest: Manifest,
    pub(super) tree: MerkleTree,
}

/// Manifests of contents that are being fetched or served, verified once.
#[derive(Default)]
pub(super) struct Sheets(Vec<(u64, Arc<Sheet>)>);

/// How many are kept: a record takes 64 bytes.
const SHEETS_MAX: usize = 8;

impl Sheets {
    /// The manifest of a content, by its number in the store.
    pub(super) fn get(
        &mut self,
        content_no: u64,
        read: impl FnOnce() -> Option<Verified<SignedManifest>>,
    ) -> Option<Arc<Sheet>> {
        if let Some(at) = self.0.iter().position(|(no, _)| *no == content_no) {
            let sheet = self.0.remove(at);
            let kept = Arc::clone(&sheet.1);
            self.0.push(sheet);
            return Some(kept);
        }
        let SignedManifest {
            manifest, leaves, ..
        } = read()?.into_inner();
        let sheet = Arc::new(Sheet {
            manifest,
            tree: MerkleTree::new(leaves),
        });
        if self.0.len() >= SHEETS_MAX {
            self.0.remove(0);
        }
        self.0.push((content_no, Arc::clone(&sheet)));
        Some(sheet)
    }

    /// Forgets the manifest of a content that changed.
    pub(super) fn forget(&mut self, content_no: u64) {
        self.0.retain(|(no, _)| *no != content_no);
    }
}
