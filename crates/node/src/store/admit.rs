//! Entering a finished content whose manifest came over a link, and what must not come back.

use std::collections::{BTreeMap, BTreeSet};

use lavant_proto::content::{Kind, Manifest, Proof, SegmentRecord, SignedManifest, Verified};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition};
use lavant_proto::time::Time;
use redb::ReadableTable;

use super::append::check_payload;
use super::catalog::{Content, State};
use super::change::Change;
use super::convert::{content_from, record_of, row_of};
use super::engine::Store;
use super::error::StoreError;
use super::insert::{check_date, check_new_content};
use super::manifest::places;
use super::removals::{check_comes_back, refuse_removed};
use super::rows::{REMOVALS, SegmentKey, SegmentRow, version_key};
use super::supersede::supersede;
use super::tx::Tx;

impl Store {
    /// Enters a finished content by its manifest and its records, in the manifest's order. Blocks.
    ///
    /// Payloads come later, by [`Store::adopt`]. A growing content of the same version becomes the
    /// finished one and keeps what is as the manifest says. Returns the content's number, also when
    /// it was here and finished already.
    pub fn admit(
        &self,
        signed: Verified<SignedManifest>,
        records: Vec<Verified<SegmentRecord>>,
    ) -> Result<u64, StoreError> {
        let rows = checked_rows(&signed, &records)?;
        self.write(move |tx| admit(tx, &signed, rows))
    }

    /// Lets contents come back over a link that the operator removed: those of a publisher, or of
    /// any. Blocks. Returns how many had been removed.
    pub fn forget_removals(
        &self,
        wanted: &BTreeSet<(ContentId, Option<PublisherKey>)>,
    ) -> Result<usize, StoreError> {
        let wanted = wanted.clone();
        if wanted.is_empty() {
            return Ok(0);
        }
        self.write(move |tx| {
            let mut found = Vec::new();
            for row in tx.tables().removals.iter()? {
                let key = row?.0.value().to_vec();
                let named = |(id, publisher): &(ContentId, Option<PublisherKey>)| match publisher {
                    Some(publisher) => key == version_key(publisher, id),
                    None => key.get(32..) == Some(id.as_str().as_bytes()),
                };
                if wanted.iter().any(named) {
                    found.push(key);
                }
            }
            for key in &found {
                tx.forget_removal(key)?;
            }
            Ok(found.len())
        })
    }
}

type Rows = Vec<(SegmentKey, SegmentRow)>;

/// The rows of the manifest's records, none of which is here yet. Refuses records that are not the
/// manifest's, or that say other things than it does.
fn checked_rows(
    signed: &SignedManifest,
    records: &[Verified<SegmentRecord>],
) -> Result<Rows, StoreError> {
    let manifest = &signed.manifest;
    let refused = |what: &str| {
        let id = manifest.content.content_id.as_str();
        Err(StoreError::Invalid(format!(
            "the manifest of {id:?} {what}"
        )))
    };
    let leaves = records.iter().map(|record| record.leaf());
    if records.len() != signed.leaves.len() || !leaves.eq(signed.leaves.iter().copied()) {
        return refused("came with other records than its own");
    }
    let content = content_from(0, manifest, Time(0), String::new(), false);
    let mut rows = Vec::with_capacity(records.len());
    for (key, record) in places(manifest).zip(records) {
        let row = SegmentRow {
            present: false,
            ..row_of(record, &Proof::Manifest)
        };
        if record_of(&content, key, &row) != **record {
            return refused("and its records contradict each other");
        }
        check_payload(row.length, row.duration, row.init)?;
        if !lasts_no_longer(manifest, &row) {
            return refused("has a segment that is longer than its target duration");
        }
        rows.push((key, row));
    }
    Ok(rows)
}

fn lasts_no_longer(manifest: &Manifest, row: &SegmentRow) -> bool {
    use lavant_proto::time::TICKS_PER_SECOND;
    let rounded = (row.duration + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND;
    rounded <= u64::from(manifest.target_duration)
}

fn admit(tx: &mut Tx<'_>, signed: &SignedManifest, mut rows: Rows) -> Result<u64, StoreError> {
    let manifest = &signed.manifest;
    let key = &manifest.content;
    let same = tx
        .catalog()
        .find(Some(&key.publisher), &key.content_id, Some(key.version))
        .cloned();
    if let Some(here) = same.as_ref().filter(|here| here.state == State::Finished) {
        return Ok(here.no);
    }
    if manifest.expires() <= tx.now() {
        return Err(StoreError::Conflict(format!(
            "the time of {:?} is over",
            key.content_id.as_str()
        )));
    }
    check_date(manifest.created, tx.now(), &key.content_id)?;
    check_comes_back(tx, key)?;
    if same.is_none() {
        check_new_content(tx, &key.publisher, &key.content_id)?;
    }
    let no = match &same {
        Some(here) => here.no,
        None => tx.next_content_no()?,
    };
    let mut content = content_from(no, manifest, tx.now(), String::new(), false);
    let mut held = match &same {
        Some(before) => {
            follow(&mut content, before);
            take_rows(tx, before)?
        }
        None => BTreeMap::new(),
    };
    for (place, row) in &mut rows {
        place.content_no = no;
        *row = row.clone().come(tx.now());
        let state = &content.renditions[usize::from(place.rendition_no)];
        let name = (state.info.name.clone(), place.kind, place.sequence);
        let listed = place.kind == Kind::Init || place.sequence >= state.first;
        if listed && held.get(&name).is_some_and(|old| old.root == row.root) {
            held.remove(&name);
            row.present = true;
        }
        tx.carry(&mut content, (*place, row))?;
    }
    for ((name, kind, sequence), row) in held {
        tx.drop_payload(&row.root)?;
        if let Some(rendition_no) = content.rendition_no(name.as_str()) {
            tx.tell(Change::Dropped {
                torn: false,
                content_no: no,
                rendition_no,
                kind,
                sequence,
            });
        }
    }
    let rows: Vec<SegmentRow> = rows.into_iter().map(|(_, row)| row).collect();
    tx.put_manifest(&mut content, signed, &rows);
    content.pinned |= supersede(tx, &content)?;
    if content.pinned {
        tx.pin(&content.key);
    }
    tx.put_content(content)?;
    tx.tell(Change::Admitted { content_no: no });
    Ok(no)
}

/// What of a growing content stays as it is when it is finished: its playlists never go back.
fn follow(content: &mut Content, before: &Content) {
    content.pinned = before.pinned;
    content.last_arrival = before.last_arrival;
    for state in &mut content.renditions {
        let Some(no) = before.rendition_no(state.info.name.as_str()) else {
            continue;
        };
        let old = &before.renditions[usize::from(no)];
        state.reached = old.reached.min(state.next).max(state.first);
        if old.first >= state.first {
            state.first = old.first.min(state.next);
            state.discontinuities_gone = old.discontinuities_gone;
        } else {
            state.discontinuities_gone = state.discontinuities_gone.max(old.discontinuities_gone);
        }
    }
}

type Named = (Rendition, Kind, u64);

/// Takes the rows of a content out of the index; those that are here are given back by name.
fn take_rows(tx: &mut Tx<'_>, before: &Content) -> Result<BTreeMap<Named, SegmentRow>, StoreError> {
    let mut held = BTreeMap::new();
    for (key, row) in tx.rows(before.no, None)? {
        tx.withdraw(before, (key, &row))?;
        if row.present {
            let info = &before.renditions[usize::from(key.rendition_no)].info;
            held.insert((info.name.clone(), key.kind, key.sequence), row);
        }
    }
    Ok(held)
}

impl Store {
    /// Refuses a version that the operator removed, and one of which a later version is here,
    /// before anything of it is fetched.
    pub fn check_comes_back(&self, key: &ContentKey) -> Result<(), StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let of = version_key(&key.publisher, &key.content_id);
        let removed = match index.begin_read()?.open_table(REMOVALS) {
            Ok(removals) => removals.get(of.as_slice())?.map(|row| row.value()),
            // A store to which nothing was written yet.
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        refuse_removed(removed, &self.catalog(), key, self.settings().clock.now())
    }
}
