//! What peers say of contents, checked against the publisher's key before it is believed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::message::{Row, TrackName, place};
use crate::content::{
    Kind, Leaf, Manifest, Proof, SegmentRecord, SignedManifest, Unverified, Verified, verify_range,
};
use crate::ids::{ContentKey, Signature};
use crate::limits::MANIFEST_RECORDS_MAX;
use crate::numbers::{ContactNo, ContentNo};
use crate::runs::SequenceRun;
use crate::time::Time;

/// Most rows of manifests that are on their way: as many as one manifest may have.
const ROWS_MAX: usize = MANIFEST_RECORDS_MAX;
/// Manifests that are on their way at a time.
const ASSEMBLIES_MAX: usize = 256;
/// How far ahead of this node's clock something may have been made. What is dated later would
/// outlive everything else.
pub const EARLY_MAX: Duration = Duration::from_secs(86_400);
/// A clock that shows less was never set: 2026-01-01. Nothing can be said about the future then.
const CLOCK_SET: Time = Time::from_seconds(1_767_225_600);

/// What is wrong with something that a contact sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No honest node sends it.
    Lie(String),
    /// It cannot be taken now; one of the two clocks may be wrong.
    Early,
    /// Its time is over here: it passed on the way, or one of the two clocks is wrong.
    Over,
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::Lie(why)
    }
}

impl From<&str> for Wrong {
    fn from(why: &str) -> Self {
        Self::Lie(why.to_owned())
    }
}

/// Whether something is dated further in the future than clocks differ.
#[must_use]
pub fn is_early(created: Time, now: Time) -> bool {
    now >= CLOCK_SET && created.since(now) > EARLY_MAX
}

/// A manifest of which the rows are coming.
#[derive(Debug)]
pub struct Assembly {
    from: ContactNo,
    manifest: Verified<Manifest>,
    signature: Signature,
    hash: [u8; 32],
    /// They follow from the rows, but each takes a hash.
    leaves: Vec<Leaf>,
    rows: Vec<Row>,
}

impl Assembly {
    fn total(&self) -> u64 {
        // The sum was bounded when the manifest was decoded.
        let sizes = self.manifest.renditions.iter();
        sizes.map(|info| info.inits + info.segments).sum()
    }
}

impl Assembly {
    /// The manifest with its records. It takes about a microsecond a record.
    #[must_use]
    pub fn finish(self) -> Option<Complete> {
        let Self {
            manifest,
            signature,
            leaves,
            rows,
            ..
        } = self;
        // The leaves were proven when the rows came: this gives the records the type that says so.
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
}

/// All manifests on their way.
#[derive(Debug, Default)]
pub struct Assemblies(BTreeMap<ContentNo, Assembly>);

/// A manifest with all of its records.
#[derive(Debug)]
pub struct Complete {
    /// The manifest.
    pub signed: Verified<SignedManifest>,
    /// Its records, in its order.
    pub records: Vec<Verified<SegmentRecord>>,
}

/// How far a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many records it has.
    pub total: u64,
    /// How many of them are known.
    pub known: u64,
}

/// The hash by which nodes compare manifests.
#[must_use]
pub fn manifest_hash(manifest: &[u8], signature: &Signature) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(manifest).update(&signature.0);
    *hasher.finalize().as_bytes()
}

impl Assemblies {
    /// A manifest came. Rows that are here of the same one stay.
    pub fn manifest(
        &mut self,
        from: ContactNo,
        (no, key): (ContentNo, &ContentKey),
        (bytes, signature): (&[u8], Signature),
        now: Time,
    ) -> Result<Progress, Wrong> {
        let claim: Unverified<Manifest> =
            Manifest::decode(bytes).map_err(|error| format!("a manifest is damaged: {error}"))?;
        // What is cheap to see comes before the signature.
        if claim.claim().content != *key {
            return Err("it sent the manifest of another content".into());
        }
        let manifest = claim
            .verify_signature(&signature)
            .map_err(|_| "a manifest is not signed by its publisher".to_owned())?;
        if manifest.expires() <= now {
            return Err(Wrong::Over);
        }
        if is_early(manifest.created, now) {
            return Err(Wrong::Early);
        }
        // The same manifest from another contact: its rows go on where those of the first one
        // ended.
        let hash = manifest_hash(bytes, &signature);
        let known = match self.0.get(&no) {
            Some(held) if held.hash == hash => held.rows.len() as u64,
            _ => {
                self.make_room();
                let assembly = Assembly {
                    from,
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
        Ok(Progress { total, known })
    }

    fn make_room(&mut self) {
        let rows: usize = self.0.values().map(|held| held.rows.len()).sum();
        if rows >= ROWS_MAX || self.0.len() >= ASSEMBLIES_MAX {
            // The one that has the fewest rows loses the least work.
            self.let_one_go(None);
        }
    }

    /// Lets the shortest one go of the contact that has most of them: else one contact with many
    /// manifests, of each a few rows, would keep all others from ever getting their first row.
    fn let_one_go(&mut self, keep: Option<ContentNo>) -> bool {
        let others = || self.0.iter().filter(|(no, _)| Some(**no) != keep);
        let mut counts: BTreeMap<ContactNo, usize> = BTreeMap::new();
        for (_, held) in others() {
            *counts.entry(held.from).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let of_most = others().filter(|(_, held)| most.is_some_and(|(no, _)| held.from == no));
        let least = of_most.min_by_key(|(_, held)| held.rows.len());
        let least = least.map(|(no, _)| *no);
        least.is_some_and(|no| self.0.remove(&no).is_some())
    }

    /// Rows came. Returns how many are known then, out of how many.
    pub fn rows(
        &mut self,
        no: ContentNo,
        from: u64,
        rows: Vec<Row>,
        proof: &[[u8; 32]],
    ) -> Result<Option<Progress>, String> {
        let Some(held) = self.0.get_mut(&no) else {
            return Ok(None);
        };
        let total = held.total();
        // They came twice, or late. What is known says which are to be asked for next.
        if from != held.rows.len() as u64 {
            return Ok(Some(Progress {
                total,
                known: held.rows.len() as u64,
            }));
        }
        // All rows of a message are proven at once, before any of them is kept.
        let wrong = || "rows of a manifest are not what its publisher signed".to_owned();
        let mut leaves = Vec::with_capacity(rows.len());
        for (offset, row) in rows.iter().enumerate() {
            let record = row.record(&held.manifest, from + offset as u64);
            leaves.push(record.ok_or_else(wrong)?.leaf());
        }
        let root = held.manifest.records_root;
        // Without rows nothing is proven, and the same would be asked for once more.
        if rows.is_empty() || !verify_range(&root, total, from, &leaves, proof) {
            return Err(wrong());
        }
        held.leaves.extend(leaves);
        held.rows.extend(rows);
        let known = held.rows.len() as u64;
        self.keep_below(no);
        Ok(Some(Progress { total, known }))
    }

    /// Lets others go while there are more rows than there may be.
    fn keep_below(&mut self, no: ContentNo) {
        let rows = |all: &BTreeMap<ContentNo, Assembly>| -> usize {
            all.values().map(|held| held.rows.len()).sum()
        };
        // Not the one that grows: it would begin anew each time.
        while rows(&self.0) > ROWS_MAX && self.let_one_go(Some(no)) {}
    }

    /// Takes a manifest out of which every row is known.
    pub fn complete(&mut self, no: ContentNo) -> Option<Assembly> {
        let whole = self.0.get(&no)?;
        if whole.rows.len() as u64 != whole.total() {
            return None;
        }
        self.0.remove(&no)
    }

    /// Forgets a manifest.
    pub fn forget(&mut self, no: ContentNo) {
        self.0.remove(&no);
    }
}

/// Checks signed records of a run of a track. One that is wrong makes all of them suspect; those
/// whose time is over, or has not come, are left out.
pub fn records(
    key: &ContentKey,
    track: &TrackName,
    run: SequenceRun,
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
        // Signed, but of another segment, it says nothing about what was asked.
        let asked = record.content == *key
            && record.rendition == track.rendition
            && record.kind == track.kind
            && run.contains(record.sequence);
        if !asked {
            return Err("it sent a record that was not asked for".into());
        }
        // Left out and no lie: time passes on the way, and clocks differ.
        if record.expires() > now && !is_early(record.created, now) {
            verified.push((record, Proof::Signature(signature)));
        }
    }
    Ok(verified)
}

/// The position of a record in its manifest.
#[must_use]
pub fn position(manifest: &Manifest, name: &TrackName, sequence: u64) -> Option<u64> {
    let mut before = 0;
    for info in &manifest.renditions {
        if info.name == name.rendition {
            let at = match name.kind {
                Kind::Init => before + sequence,
                Kind::Media => before + info.inits + sequence.checked_sub(info.first)?,
            };
            let (found, kind, there) = place(manifest, at)?;
            // A number beyond the rendition falls into the next one, where it is another record.
            let same = found.name == name.rendition && kind == name.kind && there == sequence;
            return same.then_some(at);
        }
        before += info.inits + info.segments;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{MimeType, Priority, RenditionInfo, merkle_root};
    use crate::ids::{ContentId, Rendition, Root, SigningKey};
    use crate::runs::Run;

    const NOW: Time = Time::from_seconds(1_800_000_000);

    fn key() -> SigningKey {
        SigningKey::from_seed(&[3; 32])
    }

    fn content() -> ContentKey {
        ContentKey {
            publisher: key().publisher(),
            content_id: ContentId::new("film").unwrap(),
            version: 1,
        }
    }

    fn signed(created: Time) -> (Vec<u8>, Signature) {
        let record = SegmentRecord {
            content: content(),
            title: "A film".into(),
            target_duration: 6,
            rendition: Rendition::main(),
            kind: Kind::Media,
            sequence: 4,
            duration: 540_000,
            discontinuity: false,
            independent: true,
            init: None,
            mime: MimeType::TransportStream,
            priority: Priority::Vod,
            created,
            ttl: Duration::from_secs(3600),
            length: 1000,
            root: Root([1; 32]),
        };
        let (record, proof) = record.sign(&key()).unwrap();
        let Proof::Signature(signature) = proof else {
            unreachable!()
        };
        (record.encode(), signature)
    }

    fn learned(created: Time, now: Time) -> usize {
        let track = TrackName {
            rendition: Rendition::main(),
            kind: Kind::Media,
        };
        let claims = vec![signed(created)];
        let records = records(&content(), &track, Run::new(0, 9), claims, now);
        records.unwrap().len()
    }

    #[test]
    fn what_is_dated_far_in_the_future_is_left_out_and_is_no_lie() {
        assert_eq!(learned(NOW, NOW), 1);
        assert_eq!(learned(NOW.after(EARLY_MAX), NOW), 1);
        assert_eq!(learned(NOW.after(EARLY_MAX * 2), NOW), 0);
        assert_eq!(learned(Time(u64::MAX - 1), NOW), 0);
        // A node whose clock was never set can say nothing of the future.
        assert_eq!(learned(NOW, Time::from_seconds(60)), 1);
    }

    #[test]
    fn a_record_that_was_not_asked_for_is_a_lie() {
        let track = TrackName {
            rendition: Rendition::main(),
            kind: Kind::Init,
        };
        let asked = |track: &TrackName, run| {
            let claims = vec![signed(NOW)];
            records(&content(), track, run, claims, NOW)
        };
        assert!(asked(&track, Run::new(0, 9)).is_err());
        let media = TrackName {
            kind: Kind::Media,
            ..track
        };
        assert!(asked(&media, Run::new(0, 4)).is_err());
        assert!(asked(&media, Run::new(4, 5)).is_ok());
    }

    /// A manifest of a publisher's content with one segment, and what proves its row.
    fn manifest(seed: u8, id: &str, created: Time) -> (ContentKey, Vec<u8>, Signature, Row) {
        let signer = SigningKey::from_seed(&[seed; 32]);
        let key = ContentKey {
            publisher: signer.publisher(),
            content_id: ContentId::new(id).unwrap(),
            version: 1,
        };
        let row = Row {
            length: 1000,
            duration: 540_000,
            root: Root([1; 32]),
            discontinuity: false,
            independent: true,
            init: None,
            created,
            ttl: 3600,
        };
        let mut manifest = Manifest {
            content: key.clone(),
            title: "A film".into(),
            priority: Priority::Vod,
            created,
            ttl: Duration::from_secs(3600),
            target_duration: 6,
            to: Vec::new(),
            renditions: vec![RenditionInfo {
                name: Rendition::main(),
                mime: MimeType::TransportStream,
                bandwidth: 1000,
                average_bandwidth: 1000,
                codecs: String::new(),
                width: 0,
                height: 0,
                frame_rate_milli: 0,
                inits: 0,
                first: 0,
                segments: 1,
                duration: 540_000,
                bytes: 1000,
            }],
            records_root: [0; 32],
        };
        let claim: Unverified<Manifest> = Unverified::new(manifest.clone());
        let signature = manifest.sign(&signer).unwrap();
        let verified = claim.verify_signature(&signature).unwrap();
        let leaf = row.record(&verified, 0).unwrap().leaf();
        manifest.records_root = merkle_root(&[leaf]);
        let signature = manifest.sign(&signer).unwrap();
        (key, manifest.encode(), signature, row)
    }

    #[test]
    fn many_manifests_of_one_contact_take_no_room_of_another() {
        let mut all = Assemblies::default();
        let take = |all: &mut Assemblies, from: u32, no: u32, seed, id: &str| {
            let (key, bytes, signature, row) = manifest(seed, id, NOW);
            let no = ContentNo(no);
            let came = (&bytes[..], signature);
            let progress = all.manifest(ContactNo(from), (no, &key), came, NOW);
            assert_eq!(progress, Ok(Progress { total: 1, known: 0 }));
            row
        };
        let row = take(&mut all, 1, 0, 3, "film");
        for no in 1..2 * ASSEMBLIES_MAX as u32 {
            take(&mut all, 2, no, 4, &format!("f{no}"));
            assert!(all.0.len() <= ASSEMBLIES_MAX);
        }
        let known = all.rows(ContentNo(0), 0, vec![row], &[]).unwrap();
        assert_eq!(known, Some(Progress { total: 1, known: 1 }));
        assert!(all.complete(ContentNo(0)).is_some());
    }

    #[test]
    fn a_manifest_whose_time_is_over_here_is_no_lie() {
        let (key, bytes, signature, _) = manifest(3, "film", NOW);
        let mut all = Assemblies::default();
        let mut at = |now| {
            let came = (&bytes[..], signature);
            all.manifest(ContactNo(1), (ContentNo(1), &key), came, now)
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(at(NOW.after(hour)), Err(Wrong::Over));
        assert_eq!(
            at(Time(NOW.0 - 25 * hour.as_micros() as u64)),
            Err(Wrong::Early)
        );
        assert!(at(NOW).is_ok());
    }
}
