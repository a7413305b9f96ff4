//! Completing or removing what the last process was doing when it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lavant_proto::content::SegmentRecord;
use lavant_proto::ids::Root;
use redb::{ReadTransaction, ReadableTableMetadata, TableDefinition, TableHandle};

use super::catalog::{Catalog, Content, State};
use super::disk::Disk;
use super::error::StoreError;
use super::index::{self, Index};
use super::layout::{Layout, pin_line, root_of_path};
use super::rows::{ARRIVALS, GARBAGE, PAYLOADS};
use super::settings::Settings;
use super::standing::Standings;
use super::tx::Tx;
use super::{expire, manifest, partials, payload};

/// A table that an index may have and that is not used.
const UNUSED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("partials");

/// Returns whether the index changed. After a power cut names may be there that the index does not
/// know (`strays`).
pub(super) fn recover(
    settings: &Settings,
    index: &Index,
    catalog: &Catalog,
    strays: bool,
) -> Result<bool, StoreError> {
    let Settings { disk, layout, .. } = settings;
    let read = index.begin_read()?;
    // What was not acknowledged must not come back with the power: if the index were lost then, a
    // payload would have the same claim to its sequence as the one that is sent next, and a
    // manifest would end a content that grows.
    let mut lost = Lost(BTreeSet::new());
    // First, and for good: one that stayed after some of its payloads went would bring its content
    // back in part. Those that wait in `incoming/` for their place are no content yet.
    for path in disk.files_below(&layout.manifests()) {
        let no = path
            .file_name()
            .and_then(|name| u64::from_str_radix(name.to_str()?, 16).ok());
        if !no.is_some_and(|no| is_finished(catalog, no)) {
            lost.remove(disk, &path)?;
        }
    }
    lost.flush(disk)?;
    for path in disk.files_below(&layout.incoming()) {
        finish_move(settings, &read, (catalog, &mut lost), &path)?;
        // Unless it was moved, or if its place had its other name already.
        if disk.exists(&path) {
            remove(disk, &path)?;
        }
    }
    for path in disk.files_below(&layout.partials()) {
        finish_partial(settings, &read, &mut lost, &path)?;
    }
    disk.clear(&layout.snapshot());
    if strays {
        remove_strays(settings, &read, &mut lost)?;
    }
    lost.flush(disk)?;
    let garbage = read.open_table(GARBAGE)?.len()?;
    let arrivals = match read.open_table(ARRIVALS) {
        Ok(arrivals) => arrivals.len()?,
        // An index of an earlier version has none.
        Err(redb::TableError::TableDoesNotExist(_)) => 0,
        Err(error) => return Err(error.into()),
    };
    let unused = read
        .list_tables()?
        .any(|table| table.name() == UNUSED.name());
    drop(read);
    if garbage == 0 && arrivals == 0 && !unused {
        return Ok(false);
    }
    match clean_index(settings, index) {
        Ok(()) => Ok(true),
        // On a full disk this waits for a later start.
        Err(error) if error.is_disk_full() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The folders in which payloads and manifests lost their places.
struct Lost(BTreeSet<PathBuf>);

impl Lost {
    /// Takes its place from a file.
    fn remove(&mut self, disk: &Disk, place: &Path) -> Result<(), StoreError> {
        match disk.files.remove(place) {
            Ok(()) => self.0.extend(place.parent().map(Path::to_owned)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("remove an unfinished segment", error)),
        }
        Ok(())
    }

    fn flush(&mut self, disk: &Disk) -> Result<(), StoreError> {
        let mut folders = std::mem::take(&mut self.0).into_iter();
        let flushed = folders.try_for_each(|folder| disk.files.flush_folder(&folder));
        flushed.map_err(|error| StoreError::io("remove an unfinished segment", error))
    }
}

/// Moves a file in `incoming/` to its place when the index knows it; when it does not, takes the
/// place from it that it may have got already.
fn finish_move(
    settings: &Settings,
    read: &ReadTransaction,
    (catalog, lost): (&Catalog, &mut Lost),
    path: &Path,
) -> Result<(), StoreError> {
    let Settings { disk, layout, .. } = settings;
    let failed = |error: io::Error| StoreError::io("complete a segment", error);
    if Layout::is_incoming_manifest(path) {
        let content = manifest::read(disk, path).and_then(|stored| {
            let key = &stored.signed.manifest.content;
            catalog.find(Some(&key.publisher), &key.content_id, Some(key.version))
        });
        return match content.filter(|content| content.state == State::Finished) {
            Some(content) => {
                let moved = disk.files.rename(path, &layout.manifest(content.no));
                moved.map_err(failed)
            }
            None => Ok(()),
        };
    }
    // The index says what is pinned: see [`settle_pins`].
    if !Layout::is_incoming_payload(path) {
        return Ok(());
    }
    let Some((root, length)) = named_root(disk, path) else {
        return Ok(());
    };
    let place = layout.payload(&root);
    let known = read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some();
    if !known {
        return lost.remove(disk, &place);
    }
    let opened = disk.open(path);
    let intact = opened.and_then(|file| payload::is_intact(&*file, &root, length));
    match intact.map_err(failed)? {
        true => disk.files.rename(path, &place).map_err(failed),
        false => Ok(()),
    }
}

/// What the footer of a payload file names.
fn named_root(disk: &Disk, path: &Path) -> Option<(Root, u64)> {
    let footer = payload::read_footer(&*disk.open(path).ok()?).ok()??;
    let record = SegmentRecord::decode(&footer.record).ok()?;
    Some((record.claim().root, footer.length))
}

fn is_finished(catalog: &Catalog, no: u64) -> bool {
    catalog
        .get(no)
        .is_some_and(|content| content.state == State::Finished)
}

/// Finishes what a partial payload became: when the index knows the payload, its file belongs to
/// its place; when not, it has no place yet.
fn finish_partial(
    settings: &Settings,
    read: &ReadTransaction,
    lost: &mut Lost,
    path: &Path,
) -> Result<(), StoreError> {
    let Settings { disk, layout, .. } = settings;
    let failed = |error: io::Error| StoreError::io("complete a segment", error);
    let Some((root, length)) = partials::named(path) else {
        return remove(disk, path);
    };
    let place = layout.payload(&root);
    let known = read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some();
    match (known, same_file(disk, path, &place)) {
        (false, Some(true)) => lost.remove(disk, &place),
        (false, _) => Ok(()),
        (true, Some(true)) => remove(disk, path),
        (true, _) => {
            let file = disk.open(path).map_err(failed)?;
            let whole = payload::read_footer(&*file);
            let whole = whole.map_err(failed)?.is_some();
            if whole && expire::is_good(disk, path, &root, length)? {
                return disk.files.rename(path, &place).map_err(failed);
            }
            remove(disk, path)
        }
    }
}

/// Whether two names are of one file; `None` when the second is of none.
fn same_file(disk: &Disk, one: &Path, other: &Path) -> Option<bool> {
    let id = |path| disk.files.facts(path).map(|facts| facts.id).ok();
    let other = id(other)?;
    Some(id(one) == Some(other))
}

/// Removes payload files that the index does not know. A cut may have left the place of a file and
/// not its name in `incoming/`, or may have undone the removal of what was let go.
fn remove_strays(
    settings: &Settings,
    read: &ReadTransaction,
    lost: &mut Lost,
) -> Result<(), StoreError> {
    let Settings { disk, layout, .. } = settings;
    let payloads = read.open_table(PAYLOADS)?;
    for folder in disk.files.list(&layout.segments()).unwrap_or_default() {
        for path in disk.files.list(&folder).unwrap_or_default() {
            // What has no name of a payload is somebody else's.
            if let Some(root) = root_of_path(&path)
                && payloads.get(root.0.as_slice())?.is_none()
            {
                lost.remove(disk, &path)?;
            }
        }
    }
    Ok(())
}

/// Brings the files of pins to what the index says: one may be of a pin that never was durable, or
/// of one that was taken back. What fails, a later start does.
pub(super) fn settle_pins(settings: &Settings, catalog: &Catalog) {
    let Settings { disk, layout, .. } = settings;
    let pinned = catalog.all().filter(|content| content.pinned);
    let mut wanted: BTreeMap<PathBuf, String> = pinned
        .map(|content| (layout.pin(&content.key), pin_line(&content.key)))
        .collect();
    let mut changed = false;
    for path in disk.files_below(&layout.pins()) {
        let line = disk.read(&path).unwrap_or_default();
        match wanted.get(&path) {
            Some(text) if text.as_bytes() == line => drop(wanted.remove(&path)),
            Some(_) => {}
            None => changed |= disk.files.remove(&path).is_ok(),
        }
    }
    for (path, line) in wanted {
        changed |= disk.write(&path, line.as_bytes()).is_ok();
    }
    if changed {
        let _ = disk.files.flush_folder(&layout.pins());
    }
}

/// Notes what others are told of manifests in contents that an earlier program finished, so that
/// later starts read no files for it. Returns whether the index changed.
pub(super) fn note_manifests(
    settings: &Settings,
    index: &Index,
    catalog: &Catalog,
    standings: &Arc<Standings>,
) -> Result<bool, StoreError> {
    let Settings { disk, layout, .. } = settings;
    let unnoted =
        |content: &&Arc<Content>| content.state == State::Finished && content.manifest.is_none();
    let unnoted: Vec<_> = catalog.all().filter(unnoted).collect();
    let mut noted = unnoted.into_iter().filter_map(|content| {
        let facts = manifest::facts(disk, &layout.manifest(content.no))?;
        let mut content = Content::clone(content);
        content.manifest = Some(Arc::new(facts));
        Some(content)
    });
    let Some(first) = noted.next() else {
        return Ok(false);
    };
    let write = index.begin_write()?;
    {
        let mut tx = Tx::empty(&write, settings, standings)?;
        for content in std::iter::once(first).chain(noted) {
            tx.put_content(content)?;
        }
    }
    index::commit(settings, write)?;
    Ok(true)
}

fn clean_index(settings: &Settings, index: &Index) -> Result<(), StoreError> {
    let write = index.begin_write()?;
    {
        let mut tx = Tx::empty(&write, settings, &Arc::default())?;
        tx.give_all_arrivals_up()?;
        while let Some(root) = tx.take_garbage()? {
            let place = settings.layout.payload(&root);
            let _ = settings.disk.files.remove(&place);
        }
    }
    write.delete_table(UNUSED)?;
    index::commit(settings, write)?;
    Ok(())
}

fn remove(disk: &Disk, path: &Path) -> Result<(), StoreError> {
    let removed = disk.files.remove(path);
    removed.map_err(|error| StoreError::io("remove an unfinished segment", error))
}
