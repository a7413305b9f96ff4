//! Entering a finished content whose manifest came over a link, and what must not come back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use lavant_proto::content::{Kind, Manifest, Proof, SegmentRecord, SignedManifest, Verified};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, Rendition};
use lavant_proto::time::Time;
use redb::ReadableTable;

use super::append::check_payload;
use super::catalog::{Content, State};
use super::change::Change;
use super::convert::{content_from, record_of, rounded_seconds, row_of};
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
        let key = &signed.manifest.content;
        let catalog = self.catalog();
        let here = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
        if let Some(here) = here.filter(|here| here.state == State::Finished) {
            return Ok(here.no);
        }
        let mut rows = checked_rows(&signed, &records)?;
        let now = self.settings().clock.now();
        for (_, row) in &mut rows {
            *row = row.clone().come(now);
        }
        let draft = self.draft_manifest(&signed, rows.iter().map(|(_, row)| row))?;
        let coming = Coming {
            signed,
            rows,
            file: draft.path().to_owned(),
        };
        let admitted = match here {
            None if coming.rows.len() > AT_ONCE => self.admit_long(coming),
            None => self.write(move |tx| admit(tx, &coming)),
            Some(before) => self.admit_grown(before, coming),
        };
        // Somebody else may have admitted it meanwhile.
        let is_placed = matches!(admitted, Ok((_, true)));
        draft.settle(is_placed);
        admitted.map(|(no, _)| no)
    }

    /// Enters a new content whose rows would take long: they come first, some at a time, and nobody
    /// sees them before the content. What of them is left without it goes like a removed content.
    fn admit_long(&self, mut coming: Coming) -> Result<(u64, bool), StoreError> {
        let begun = self.write(move |tx| {
            let checked = check(tx, &coming.signed.manifest);
            let no = match checked {
                Ok(None) => {
                    let content = content_of(0, &coming.signed.manifest, tx.now());
                    tx.begin_arrival(content)?
                }
                Ok(Some(_)) => 0,
                Err(error) => return Err(error),
            };
            Ok((no, coming))
        });
        let (no, back) = begun?;
        coming = back;
        if no == 0 {
            return self.write(move |tx| admit(tx, &coming));
        }
        for (key, _) in &mut coming.rows {
            key.content_no = no;
        }
        let admitted = self.arrive(no, coming);
        if !matches!(admitted, Ok((number, true)) if number == no) {
            // What fails here, the next start does.
            let _ = self.write(move |tx| tx.give_arrival_up(no));
        }
        admitted
    }

    fn arrive(&self, no: u64, coming: Coming) -> Result<(u64, bool), StoreError> {
        for rows in coming.rows.chunks(AT_ONCE) {
            let rows = rows.to_vec();
            self.write(move |tx| rows.iter().try_for_each(|(key, row)| tx.arrive(*key, row)))?;
        }
        self.write(move |tx| {
            if check(tx, &coming.signed.manifest)?.is_some() {
                return admit(tx, &coming);
            }
            tx.end_arrival(no)?;
            let content = content_of(no, &coming.signed.manifest, tx.now());
            enter(tx, content, &coming, None)?;
            tx.queue_all(no)?;
            Ok((no, true))
        })
    }

    /// Enters a content of which segments came while it grew. What of it is as the manifest says
    /// stays where it is, and only what has not come is entered.
    fn admit_grown(&self, before: &Content, coming: Coming) -> Result<(u64, bool), StoreError> {
        let mut missing: BTreeMap<SegmentKey, SegmentRow> = coming.rows.iter().cloned().collect();
        let mut content = content_of(before.no, &coming.signed.manifest, before.last_arrival);
        follow(&mut content, before);
        let mut fits = carry_counts(&mut content, before);
        for (key, row) in self.rows_of(before.no, None)? {
            let place = SegmentKey {
                content_no: 0,
                ..key
            };
            let state = content.renditions.get(usize::from(key.rendition_no));
            let listed = |first| key.kind == Kind::Init || key.sequence >= first;
            let stays = state.is_some_and(|state| listed(state.first));
            let said = missing.remove(&place);
            fits &= stays && said.is_some_and(|said| is_same(&said, &row));
        }
        let generation = before.generation;
        self.write(move |tx| {
            let same = check(tx, &coming.signed.manifest)?;
            let unchanged = same.filter(|same| same.generation == generation);
            let Some(before) = unchanged.filter(|_| fits) else {
                return admit(tx, &coming);
            };
            for (place, row) in &missing {
                let key = SegmentKey {
                    content_no: before.no,
                    ..*place
                };
                tx.arrive(key, row)?;
            }
            enter(tx, content, &coming, Some(&before))?;
            if !missing.is_empty() {
                tx.queue_all(before.no)?;
            }
            Ok((before.no, true))
        })
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

/// Rows that are entered in one commit: a few milliseconds of work. In tests contents are short.
const AT_ONCE: usize = if cfg!(test) { 4 } else { 256 };

/// A content that comes by its manifest.
struct Coming {
    signed: Verified<SignedManifest>,
    /// Its records, none of which is here; they name no content yet.
    rows: Rows,
    /// Where its manifest waits.
    file: PathBuf,
}

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
    rounded_seconds(row.duration) <= u64::from(manifest.target_duration)
}

/// Refuses a content that must not come. Returns the growing one, or the finished one, that is here
/// by its key.
fn check(tx: &Tx<'_>, manifest: &Manifest) -> Result<Option<Arc<Content>>, StoreError> {
    let key = &manifest.content;
    let catalog = tx.catalog();
    let same = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
    if same.is_some_and(|here| here.state == State::Finished) {
        return Ok(same.cloned());
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
    Ok(same.cloned())
}

fn content_of(no: u64, manifest: &Manifest, now: Time) -> Content {
    content_from(no, manifest, now, String::new(), false)
}

/// Enters all of a content at once. Returns its number, and whether it was not finished before.
fn admit(tx: &mut Tx<'_>, coming: &Coming) -> Result<(u64, bool), StoreError> {
    let manifest = &coming.signed.manifest;
    let same = check(tx, manifest)?;
    if let Some(here) = same.as_ref().filter(|here| here.state == State::Finished) {
        return Ok((here.no, false));
    }
    let no = match &same {
        Some(here) => here.no,
        None => tx.next_content_no()?,
    };
    let mut content = content_of(no, manifest, tx.now());
    let mut held = match &same {
        Some(before) => {
            follow(&mut content, before);
            take_rows(tx, before)?
        }
        None => BTreeMap::new(),
    };
    for (place, row) in &coming.rows {
        let place = SegmentKey {
            content_no: no,
            ..*place
        };
        let state = &content.renditions[usize::from(place.rendition_no)];
        let name = (state.info.name.clone(), place.kind, place.sequence);
        let listed = place.kind == Kind::Init || place.sequence >= state.first;
        let mut row = row.clone();
        if listed && held.get(&name).is_some_and(|old| old.root == row.root) {
            held.remove(&name);
            row.present = true;
        }
        tx.carry(&mut content, (place, &row))?;
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
    enter(tx, content, coming, None)?;
    Ok((no, true))
}

/// Enters a content whose rows are there. One that grew says where they stand in the queues.
fn enter(
    tx: &mut Tx<'_>,
    mut content: Content,
    coming: &Coming,
    grew: Option<&Content>,
) -> Result<(), StoreError> {
    let content_no = content.no;
    tx.put_manifest(&mut content, &coming.signed, coming.file.clone());
    content.pinned |= supersede(tx, &content)?;
    if content.pinned {
        tx.pin(&content.key);
    }
    tx.tell(Change::Admitted { content_no });
    match grew {
        Some(before) => tx.requeue(before, content),
        None => tx.put_content(content),
    }
}

/// Takes over what is counted of a growing content, whose renditions have to have the same numbers.
/// Whether they have.
fn carry_counts(content: &mut Content, before: &Content) -> bool {
    content.held_bytes = before.held_bytes;
    for (no, old) in before.renditions.iter().enumerate() {
        let Some(state) = content.renditions.get_mut(no) else {
            return false;
        };
        if state.info.name != old.info.name {
            return false;
        }
        (state.present, state.present_duration) = (old.present, old.present_duration);
        state.present_bytes = old.present_bytes;
    }
    true
}

/// Whether a row that is here says what the manifest says of it.
fn is_same(said: &SegmentRow, here: &SegmentRow) -> bool {
    let plain = |row: &SegmentRow| SegmentRow {
        present: false,
        copies: 0,
        arrived: None,
        signature: None,
        ..row.clone()
    };
    plain(said) == plain(here)
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
