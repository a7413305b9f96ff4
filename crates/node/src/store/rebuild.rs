//! Making the index again from manifests, payload files and pins.
//!
//! A finished content comes back as its manifest says, a growing one as far as its payload files
//! say: when two growing contents had the same payload, its file tells of one of them only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lavant_proto::content::{Kind, Priority, Proof, SegmentRecord};
use lavant_proto::ids::{ContentKey, Root, Signature};
use lavant_proto::time::Time;

use super::catalog::{Content, ManifestFacts, RenditionState, State};
use super::convert::{content_from, mark_superseded, row_of};
use super::counts::count;
use super::error::StoreError;
use super::index::{self, Index};
use super::layout::{Layout, pin_line, root_of_path};
use super::manifest::{self, Stored};
use super::payload;
use super::queues::MADE_FOR;
use super::rows::{STORE_FORMAT, SegmentKey, SegmentRow};
use super::settings::Settings;
use super::standing::Standings;
use super::tx::Tx;

/// What a rebuild found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    contents: u64,
    segments: u64,
    unusable: u64,
}

impl Report {
    /// Whether there was nothing to find.
    pub(super) const fn is_empty(&self) -> bool {
        self.contents == 0 && self.unusable == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} segments of {} contents",
            self.segments, self.contents
        )?;
        if self.unusable > 0 {
            write!(f, "; {} files could not be used", self.unusable)?;
        }
        Ok(())
    }
}

/// A content as it is put together again, and its segments.
struct Found {
    content: Content,
    rows: BTreeMap<SegmentKey, SegmentRow>,
}

/// A payload file that is what its name and record say.
struct Payload {
    path: PathBuf,
    record: SegmentRecord,
    signature: Option<Signature>,
}

/// Fills an empty index. Every payload is hashed, every record checked against its publisher.
pub(super) fn rebuild(
    settings: &Settings,
    index: &Index,
    standings: &Arc<Standings>,
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let mut payloads = Vec::new();
    for path in payload_files(settings)
        .into_iter()
        .chain(incoming_payloads(settings))
    {
        match read_payload(settings, path) {
            Some(payload) => payloads.push(payload),
            None => report.unusable += 1,
        }
    }
    let roots: BTreeSet<Root> = payloads.iter().map(|payload| payload.record.root).collect();
    let mut found = finished_contents(settings, &roots);
    let incoming = settings.layout.incoming();
    report.unusable += add_growing(&mut found, &payloads, &incoming);
    found.retain(|_, found| found.content.segment_count() > 0);
    supersede_older(&mut found, settings.clock.now());
    // An older version whose pin is here was pinned after a later one had come.
    let pins = read_pins(settings);
    for (key, found) in &mut found {
        found.content.pinned = pins.contains(&pin_line(key));
    }
    place_files(settings, &found, &payloads)?;
    write((settings, standings), index, found, report)
}

/// All files below `segments/`.
pub(super) fn payload_files(settings: &Settings) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let disk = &settings.disk;
    let folders = disk.files.list(&settings.layout.segments());
    for folder in folders.unwrap_or_default() {
        files.extend(disk.files_below(&folder));
    }
    files.sort_unstable();
    files
}

/// The payloads that were on their way in: an acknowledged one may not have been moved yet.
fn incoming_payloads(settings: &Settings) -> impl Iterator<Item = PathBuf> + use<> {
    let files = settings.disk.files_below(&settings.layout.incoming());
    let files = files.into_iter();
    files.filter(|path| Layout::is_incoming_payload(path))
}

/// Reads a payload file, when its payload is intact and its signature, if any, good.
fn read_payload(settings: &Settings, path: PathBuf) -> Option<Payload> {
    let file = settings.disk.open(&path).ok()?;
    let footer = payload::read_footer(&*file).ok()??;
    let claim = SegmentRecord::decode(&footer.record).ok()?;
    let record = claim.claim().clone();
    let incoming = settings.layout.incoming();
    let named = path.starts_with(incoming) || root_of_path(&path) == Some(record.root);
    let fits = named && record.length == footer.length;
    if !fits || !payload::is_intact(&*file, &record.root, record.length).ok()? {
        return None;
    }
    if let Some(signature) = &footer.signature {
        claim.verify(signature).ok()?;
    }
    Some(Payload {
        path,
        record,
        signature: footer.signature,
    })
}

fn finished_contents(settings: &Settings, roots: &BTreeSet<Root>) -> BTreeMap<ContentKey, Found> {
    let (disk, layout) = (&settings.disk, &settings.layout);
    let places = disk
        .files_below(&layout.manifests())
        .into_iter()
        .filter_map(|path| {
            let no = u64::from_str_radix(path.file_name()?.to_str()?, 16).ok()?;
            Some((no, path))
        });
    let mut contents = BTreeMap::new();
    // One in `incoming/` belongs to nothing that was acknowledged: its payloads may be missing.
    for (no, path) in places {
        let Some(Stored { signed, rows }) = manifest::read(disk, &path) else {
            continue;
        };
        let now = settings.clock.now();
        let mut content = content_from(no, &signed.manifest, now, String::new(), false);
        content.manifest = Some(Arc::new(ManifestFacts::of(&signed)));
        let mut found = BTreeMap::new();
        for (place, row) in rows {
            let row = SegmentRow {
                present: roots.contains(&row.root),
                ..row
            };
            if row.present {
                count(&mut content, place, &row, true);
            }
            found.insert(place, row);
        }
        contents.insert(
            content.key.clone(),
            Found {
                content,
                rows: found,
            },
        );
    }
    contents
}

/// Adds the contents that no manifest tells of. Returns how many payloads belong to nothing.
fn add_growing(
    found: &mut BTreeMap<ContentKey, Found>,
    payloads: &[Payload],
    incoming: &Path,
) -> u64 {
    let finished: BTreeSet<ContentKey> = found.keys().cloned().collect();
    let vouched: BTreeSet<Root> = found
        .values()
        .flat_map(|found| found.rows.values().map(|row| row.root))
        .collect();
    let mut growing: Vec<&Payload> = Vec::new();
    let mut unusable = 0;
    for payload in payloads {
        if payload.signature.is_some() && !finished.contains(&payload.record.content) {
            growing.push(payload);
        } else if !vouched.contains(&payload.record.root) {
            unusable += 1;
        }
    }
    // A file that never got its place may be of an append that was refused: it gives way.
    growing.sort_by_key(|payload| {
        let waits = payload.path.starts_with(incoming);
        (waits, payload.record.created, payload.record.sequence)
    });
    let mut next_no = 1 + found
        .values()
        .map(|found| found.content.no)
        .max()
        .unwrap_or(0);
    for payload in growing {
        let found = found
            .entry(payload.record.content.clone())
            .or_insert_with(|| {
                next_no += 1;
                Found {
                    content: Content::growing(next_no - 1, &payload.record, Time(0)),
                    rows: BTreeMap::new(),
                }
            });
        found.add(payload);
    }
    for found in found
        .values_mut()
        .filter(|found| found.content.state == State::Open)
    {
        found.start_playlists();
    }
    unusable
}

impl Found {
    fn add(
        &mut self,
        Payload {
            record, signature, ..
        }: &Payload,
    ) {
        let content = &mut self.content;
        let name = record.rendition.as_str();
        let rendition_no = content.rendition_no(name).unwrap_or_else(|| {
            content
                .renditions
                .push(RenditionState::new(record.rendition.clone(), record.mime));
            (content.renditions.len() - 1) as u16
        });
        let SegmentRecord { kind, sequence, .. } = *record;
        let place = SegmentKey {
            content_no: content.no,
            rendition_no,
            kind,
            sequence,
        };
        if self.rows.contains_key(&place) {
            return;
        }
        let row = row_of(record, &signature.map_or(Proof::Manifest, Proof::Signature));
        count(content, place, &row, false);
        content.expires = content.expires.max(row.expires());
        content.last_arrival = content.last_arrival.max(row.created);
        self.rows.insert(place, row);
    }

    /// A stream whose index was lost starts at the first segment that is left. No more
    /// discontinuities than segments can have left before it, so neither number goes back. What
    /// grows on demand starts at 0, where a segment may still be missing.
    fn start_playlists(&mut self) {
        if self.content.priority == Priority::Vod {
            return;
        }
        for (no, state) in self.content.renditions.iter_mut().enumerate() {
            let first = self
                .rows
                .keys()
                .find(|place| usize::from(place.rendition_no) == no && place.kind == Kind::Media);
            state.first = first.map_or(0, |place| place.sequence);
            state.discontinuities_gone = state.first;
        }
    }
}

fn read_pins(settings: &Settings) -> BTreeSet<String> {
    let disk = &settings.disk;
    let files = disk.files_below(&settings.layout.pins()).into_iter();
    let texts = files.filter_map(|path| String::from_utf8(disk.read(&path).ok()?).ok());
    texts.map(|text| text.trim().to_owned()).collect()
}

fn supersede_older(found: &mut BTreeMap<ContentKey, Found>, now: Time) {
    let keys: Vec<ContentKey> = found.keys().cloned().collect();
    for pair in keys.windows(2) {
        let same =
            pair[0].publisher == pair[1].publisher && pair[0].content_id == pair[1].content_id;
        if let Some(older) = found.get_mut(&pair[0]).filter(|_| same) {
            mark_superseded(&mut older.content, now);
        }
    }
}

/// Moves incoming payloads that are used to their places, and removes the others.
fn place_files(
    settings: &Settings,
    found: &BTreeMap<ContentKey, Found>,
    payloads: &[Payload],
) -> Result<(), StoreError> {
    let Settings { disk, layout, .. } = settings;
    let used: BTreeSet<Root> = found
        .values()
        .flat_map(|found| found.rows.values().map(|row| row.root))
        .collect();
    for Payload { path, record, .. } in payloads {
        if path.starts_with(layout.incoming()) && used.contains(&record.root) {
            // The process may have been stopped before it flushed it.
            let flushed = disk.open(path).and_then(|file| file.flush());
            let place = layout.payload(&record.root);
            let placed = flushed.and_then(|()| disk.files.rename(path, &place));
            placed.map_err(|error| StoreError::io("complete a segment", error))?;
        }
    }
    for folder in [layout.incoming(), layout.partials()] {
        for path in disk.files_below(&folder) {
            let _ = disk.files.remove(&path);
        }
    }
    let finished = found
        .values()
        .filter(|found| found.content.state == State::Finished);
    let manifests: BTreeSet<PathBuf> = finished
        .map(|found| layout.manifest(found.content.no))
        .collect();
    for path in disk.files_below(&layout.manifests()) {
        if !manifests.contains(&path) {
            let _ = disk.files.remove(&path);
        }
    }
    let flushed = layout.flush(disk);
    flushed.map_err(|error| StoreError::io("complete a segment", error))
}

/// Writes all in one transaction: a stop in the middle leaves an index without a format, which
/// the next start makes again.
fn write(
    (settings, standings): (&Settings, &Arc<Standings>),
    index: &Index,
    found: BTreeMap<ContentKey, Found>,
    mut report: Report,
) -> Result<Report, StoreError> {
    let write = index.begin_write()?;
    let mut tx = Tx::empty(&write, settings, standings)?;
    let mut next = 1;
    for Found { content, rows } in found.into_values() {
        next = next.max(content.no + 1);
        report.contents += 1;
        report.segments += content.segment_count();
        for (place, row) in &rows {
            let place = SegmentKey {
                content_no: content.no,
                ..*place
            };
            tx.restore(&content, (place, row))?;
        }
        tx.put_content(content)?;
    }
    tx.put_fact("next_content", next)?;
    tx.put_fact(MADE_FOR, standings.mark())?;
    tx.put_fact("format", STORE_FORMAT)?;
    tx.note_used()?;
    drop(tx);
    index::commit(settings, write)?;
    Ok(report)
}
