//! A store in memory that has a limit and can fail whenever it is asked for something.

use std::collections::BTreeMap;
use std::rc::Rc;

use lavant_proto::content::{
    Manifest, MerkleTree, Proof, SegmentRecord, SignedManifest, Unverified, Verified,
};
use lavant_proto::delivery::Facts;
use lavant_proto::ids::{ContentKey, PublisherKey, Root, Signature};
use lavant_proto::relay::learn::{Complete, EARLY_MAX, manifest_hash};
use lavant_proto::relay::message::TrackName;
use lavant_proto::runs::GroupRuns;
use lavant_proto::time::Time;
use lavant_proto::verify::{PAIR_BYTES, VerifiedFrame, group_count, outboard_length, seal};

use super::film::{BEGUN, Blob, Film};
use crate::random::Random;

/// A segment of the store, or one that is known by a manifest.
pub(super) type Segment = (Verified<SegmentRecord>, Proof);

/// A manifest with what proves its rows.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) manifest: Manifest,
    pub(super) signature: Signature,
    pub(super) tree: MerkleTree,
}

/// What is here of a content.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) sheet: Option<Sheet>,
    pub(super) known: BTreeMap<(TrackName, u64), Segment>,
    pub(super) here: BTreeMap<(TrackName, u64), Root>,
}

/// Chunk groups of a payload that is not whole.
#[derive(Debug, Default)]
struct Partial {
    groups: BTreeMap<u64, Vec<u8>>,
    pairs: BTreeMap<u64, Vec<u8>>,
    have: GroupRuns,
}

/// Everything that one node keeps.
#[derive(Debug)]
pub(super) struct Store {
    own: PublisherKey,
    pub(super) contents: BTreeMap<ContentKey, Content>,
    blobs: BTreeMap<Root, Rc<Blob>>,
    partials: BTreeMap<(Root, u64), Partial>,
    limit: u64,
    pub(super) used: u64,
    random: Random,
    failures: u64,
    /// How often it failed.
    pub(super) failed: u32,
}

/// Why something was not stored.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It may be later.
    Now,
    /// It never will.
    Forever,
}

impl Store {
    pub(super) const fn new(own: PublisherKey, limit: u64, failures: u64, random: Random) -> Self {
        Self {
            own,
            contents: BTreeMap::new(),
            blobs: BTreeMap::new(),
            partials: BTreeMap::new(),
            limit,
            used: 0,
            random,
            failures,
            failed: 0,
        }
    }

    /// Whether it fails this time.
    pub(super) fn fails(&mut self) -> bool {
        let fails = self.failures > 0 && self.random.below(1000) < self.failures;
        self.failed += u32::from(fails);
        fails
    }

    /// Whether there is room for what has not come of a segment. That takes none until it comes.
    pub(super) fn expect(&mut self, root: &Root, length: u64) -> bool {
        let partial = self.partials.get(&(*root, length));
        let here: usize = partial.map_or(0, |it| it.groups.values().map(Vec::len).sum());
        let rest = length - (here as u64).min(length);
        !self.fails() && self.used.saturating_add(rest) <= self.limit
    }

    pub(super) fn write(&mut self, frame: &VerifiedFrame<'_>) {
        if self.blobs.contains_key(frame.root()) {
            return;
        }
        let key = (*frame.root(), frame.length());
        let partial = self.partials.entry(key).or_default();
        let (group, leaf) = (frame.group(), frame.leaf());
        // A chunk group that comes twice takes room once.
        if partial.groups.insert(group, leaf.to_vec()).is_none() {
            self.used += leaf.len() as u64;
        }
        let pairs = frame.pairs().map(|(at, pair)| (at, pair.to_vec()));
        partial.pairs.extend(pairs);
        partial.have.insert(group, group + 1);
    }

    /// The chunk groups that are here of a segment that is not whole.
    pub(super) fn have(&self, root: &Root, length: u64) -> GroupRuns {
        if self.blobs.contains_key(root) {
            return GroupRuns::of(0, group_count(length));
        }
        let partial = self.partials.get(&(*root, length));
        partial.map(|it| it.have.clone()).unwrap_or_default()
    }

    /// A payload as far as it is here.
    pub(super) fn blob(&self, root: &Root, length: u64) -> Option<Rc<Blob>> {
        if let Some(blob) = self.blobs.get(root) {
            return Some(Rc::clone(blob));
        }
        let partial = self.partials.get(&(*root, length))?;
        // It grows by what has come and not by what was announced.
        let last = partial.groups.last_key_value()?;
        let end = last.0 * lavant_proto::verify::CHUNK_GROUP_BYTES + last.1.len() as u64;
        let mut payload = vec![0; end as usize];
        for (group, bytes) in &partial.groups {
            let at = (group * lavant_proto::verify::CHUNK_GROUP_BYTES) as usize;
            payload[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let end = partial.pairs.last_key_value().map_or(0, |(at, _)| *at);
        let mut outboard = vec![0; end as usize + PAIR_BYTES];
        for (at, pair) in &partial.pairs {
            outboard[*at as usize..*at as usize + PAIR_BYTES].copy_from_slice(pair);
        }
        outboard.truncate(outboard_length(length) as usize);
        Some(Rc::new(Blob { payload, outboard }))
    }

    /// Makes a segment part of the store whose chunk groups have all come.
    pub(super) fn adopt(&mut self, (record, proof): Segment) -> Result<(), Refusal> {
        if self.fails() {
            return Err(Refusal::Now);
        }
        let (root, length) = (record.root, record.length);
        if !self.blobs.contains_key(&root) {
            let whole = self.have(&root, length).count() == group_count(length);
            assert!(whole, "a segment was to be adopted that is not whole");
            let partial = self.partials.remove(&(root, length)).ok_or(Refusal::Now)?;
            let payload: Vec<u8> = partial.groups.into_values().flatten().collect();
            // Hashed as a whole once more: the core had it adopted by what was proven piece by
            // piece.
            let sealed = seal(&payload);
            assert!(sealed.root == root && payload.len() as u64 == length);
            let outboard = sealed.outboard;
            self.blobs.insert(root, Rc::new(Blob { payload, outboard }));
        }
        self.insert(record, proof);
        Ok(())
    }

    fn insert(&mut self, record: Verified<SegmentRecord>, proof: Proof) {
        assert!(
            // A day ahead is taken; a second one is more than a run lasts.
            record.created.since(BEGUN) <= EARLY_MAX * 2,
            "it is of the far future"
        );
        let content = self.contents.entry(record.content.clone()).or_default();
        let place = (
            TrackName {
                rendition: record.rendition.clone(),
                kind: record.kind,
            },
            record.sequence,
        );
        content.here.insert(place.clone(), record.root);
        content.known.entry(place).or_insert((record, proof));
    }

    /// Makes a film that is this node's own.
    pub(super) fn make(&mut self, film: &Film) {
        for (record, blob) in film.records.iter().zip(&film.blobs) {
            let signed = record.clone().sign(&film.publisher).expect("it is its own");
            let (root, length) = (record.root, record.length);
            if !self.blobs.contains_key(&root) {
                // The liar has the film from the start, so parts of it may have come before it is
                // published.
                let came = self.partials.remove(&(root, length)).unwrap_or_default();
                let came: usize = came.groups.values().map(Vec::len).sum();
                self.used += length - came as u64;
            }
            let blob = Blob {
                payload: blob.payload.clone(),
                outboard: blob.outboard.clone(),
            };
            self.blobs.insert(root, Rc::new(blob));
            self.insert(signed.0, signed.1);
        }
        if film.finished {
            let manifest = film.manifest();
            let signature = manifest.sign(&film.publisher).expect("it is its own");
            let content = self.contents.entry(film.key.clone()).or_default();
            // From the manifest on it vouches for all records, as in a node.
            for (_, proof) in content.known.values_mut() {
                *proof = Proof::Manifest;
            }
            content.sheet = Some(Sheet {
                manifest,
                signature,
                tree: MerkleTree::new(film.leaves()),
            });
        }
    }

    /// Takes a manifest with all of its records.
    pub(super) fn admit(&mut self, complete: Complete) -> Result<(), Refusal> {
        if self.fails() {
            return Err(Refusal::Now);
        }
        let SignedManifest {
            manifest,
            signature,
            leaves,
        } = complete.signed.into_inner();
        let early = manifest.created.since(BEGUN) > EARLY_MAX * 2;
        assert!(!early, "it is of the far future");
        let content = self.contents.entry(manifest.content.clone()).or_default();
        for record in complete.records {
            let track = TrackName {
                rendition: record.rendition.clone(),
                kind: record.kind,
            };
            let place = (track, record.sequence);
            content.known.insert(place, (record, Proof::Manifest));
        }
        content.sheet = Some(Sheet {
            manifest,
            signature,
            tree: MerkleTree::new(leaves),
        });
        Ok(())
    }

    /// What the core is told of a content.
    pub(super) fn facts(&self, key: &ContentKey) -> Option<Facts> {
        let content = self.contents.get(key)?;
        let (first, _) = content.known.first_key_value()?.1;
        let manifest = content.sheet.as_ref().map(|sheet| {
            let hash = manifest_hash(&sheet.manifest.encode(), &sheet.signature);
            (hash, sheet.manifest.created)
        });
        Some(Facts {
            priority: first.priority,
            expires: first.expires(),
            manifest,
            to: Vec::new(),
            own: key.publisher == self.own,
            complete: manifest.is_some() && content.here.len() == content.known.len(),
        })
    }

    /// Whether everything that is stored is what its publisher signed, to the byte.
    pub(super) fn check(&self, now: Time) -> Result<(), String> {
        for (key, content) in &self.contents {
            for (place, root) in &content.here {
                let blob = self.blobs.get(root).ok_or("a payload is not there")?;
                let (record, proof) = content.known.get(place).ok_or("a record is not there")?;
                let claim = Unverified::new(SegmentRecord::clone(record));
                // Nothing that was noted at the time is believed: keys, leaves and hashes are
                // looked at again.
                let is_signed = match (proof, &content.sheet) {
                    (Proof::Signature(signature), _) => claim.verify(signature).is_ok(),
                    (Proof::Manifest, Some(sheet)) => {
                        sheet.tree.leaves().contains(&claim.claim().leaf())
                    }
                    (Proof::Manifest, None) => false,
                };
                let is_whole = seal(&blob.payload).root == record.root && record.root == *root;
                if !is_signed || !is_whole || record.content != *key || record.expires() <= now {
                    return Err(format!("{key:?} {place:?} is not what was signed"));
                }
            }
        }
        Ok(())
    }
}
