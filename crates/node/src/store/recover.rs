//! Completing or removing what the last process was doing when it stopped.

use std::io;
use std::path::Path;
use std::sync::Arc;

use lavant_proto::content::SegmentRecord;
use lavant_proto::ids::Root;
use redb::{ReadTransaction, ReadableTableMetadata, TableDefinition, TableHandle};

use super::catalog::{Catalog, State};
use super::disk::Disk;
use super::error::StoreError;
use super::layout::Layout;
use super::open::Index;
use super::rows::{GARBAGE, PAYLOADS};
use super::tx::Tx;
use super::{Settings, expire, manifest, partial, payload};

/// A table that an index may have and that is not used.
const UNUSED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("partials");

/// Returns whether the index changed.
pub(super) fn recover(
    settings: &Settings,
    index: &Index,
    catalog: &Catalog,
) -> Result<bool, StoreError> {
    let Settings { disk, layout, .. } = settings;
    let read = index.begin_read()?;
    for path in disk.files_below(&layout.incoming()) {
        finish_move(settings, &read, catalog, &path)?;
        // Unless it was moved, or if its place had its other name already.
        if disk.exists(&path) {
            remove(disk, &path)?;
        }
    }
    for path in disk.files_below(&layout.manifests()) {
        let no = path
            .file_name()
            .and_then(|name| u64::from_str_radix(name.to_str()?, 16).ok());
        if !no.is_some_and(|no| is_finished(catalog, no)) {
            remove(disk, &path)?;
        }
    }
    for path in disk.files_below(&layout.partials()) {
        finish_partial(settings, &read, &path)?;
    }
    let garbage = read.open_table(GARBAGE)?.len()?;
    let unused = read
        .list_tables()?
        .any(|table| table.name() == UNUSED.name());
    drop(read);
    if garbage == 0 && !unused {
        return Ok(false);
    }
    match clean_index(settings, index) {
        Ok(()) => Ok(true),
        // On a full disk this waits for a later start.
        Err(StoreError::DiskFull { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves a file in `incoming/` to its place when the index knows it; when it does not, takes the
/// place from it that it may have got already.
fn finish_move(
    settings: &Settings,
    read: &ReadTransaction,
    catalog: &Catalog,
    path: &Path,
) -> Result<(), StoreError> {
    let Settings { disk, layout, .. } = settings;
    let failed = |error: io::Error| StoreError::io("complete a segment", &error);
    if let Some(no) = Layout::incoming_manifest_no(path) {
        let known = manifest::read(disk, path).is_some_and(|stored| {
            let content = catalog
                .get(no)
                .filter(|content| content.state == State::Finished);
            content.is_some_and(|content| content.key == stored.signed.manifest.content)
        });
        return match known {
            true => disk
                .files
                .rename(path, &layout.manifest(no))
                .map_err(failed),
            false => Ok(()),
        };
    }
    let Some((root, length)) = named_root(disk, path) else {
        return Ok(());
    };
    let place = layout.payload(&root);
    let known = read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some();
    if !known {
        return match disk.files.remove(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
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
    path: &Path,
) -> Result<(), StoreError> {
    let Settings { disk, layout, .. } = settings;
    let failed = |error: io::Error| StoreError::io("complete a segment", &error);
    let Some((root, length)) = partial::named(path) else {
        return remove(disk, path);
    };
    let place = layout.payload(&root);
    let known = read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some();
    match (known, same_file(disk, path, &place)) {
        (false, Some(true)) => disk.files.remove(&place).map_err(failed),
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

fn clean_index(settings: &Settings, index: &Index) -> Result<(), StoreError> {
    let write = index.begin_write()?;
    {
        let mut tx = Tx::empty(&write, settings, &Arc::default())?;
        while let Some((root, _)) = tx.garbage.pop_first()? {
            let Ok(root) = <[u8; 32]>::try_from(root.value()) else {
                continue;
            };
            let place = settings.layout.payload(&Root(root));
            let _ = settings.disk.files.remove(&place);
        }
    }
    write.delete_table(UNUSED)?;
    write.commit()?;
    Ok(())
}

fn remove(disk: &Disk, path: &Path) -> Result<(), StoreError> {
    let removed = disk.files.remove(path);
    removed.map_err(|error| StoreError::io("remove an unfinished segment", &error))
}
