//! Completing or removing what the last process was doing when it stopped.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lavant_proto::content::SegmentRecord;
use lavant_proto::ids::Root;
use redb::{ReadTransaction, ReadableTableMetadata, TableDefinition, TableHandle};

use super::catalog::{Catalog, State};
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
    let layout = &settings.layout;
    let read = index.begin_read()?;
    for path in files_below(&layout.incoming()) {
        finish_move(layout, &read, catalog, &path)?;
        // Unless it was moved, or if its place had its other name already.
        if path.exists() {
            remove(&path)?;
        }
    }
    for path in files_below(&layout.manifests()) {
        let no = path
            .file_name()
            .and_then(|name| u64::from_str_radix(name.to_str()?, 16).ok());
        if !no.is_some_and(|no| is_finished(catalog, no)) {
            remove(&path)?;
        }
    }
    for path in files_below(&layout.partials()) {
        finish_partial(layout, &read, &path)?;
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
    layout: &Layout,
    read: &ReadTransaction,
    catalog: &Catalog,
    path: &Path,
) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::io("complete a segment", &error);
    if let Some(no) = Layout::incoming_manifest_no(path) {
        let known = manifest::read(path).is_some_and(|stored| {
            let content = catalog
                .get(no)
                .filter(|content| content.state == State::Finished);
            content.is_some_and(|content| content.key == stored.signed.manifest.content)
        });
        return match known {
            true => fs::rename(path, layout.manifest(no)).map_err(failed),
            false => Ok(()),
        };
    }
    let Some((root, length)) = named_root(path) else {
        return Ok(());
    };
    let place = layout.payload(&root);
    let known = read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some();
    if !known {
        return match fs::remove_file(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
    }
    let intact = File::open(path).and_then(|mut file| payload::is_intact(&mut file, &root, length));
    match intact.map_err(failed)? {
        true => fs::rename(path, place).map_err(failed),
        false => Ok(()),
    }
}

/// What the footer of a payload file names.
fn named_root(path: &Path) -> Option<(Root, u64)> {
    let footer = payload::read_footer(&mut File::open(path).ok()?).ok()??;
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
fn finish_partial(layout: &Layout, read: &ReadTransaction, path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::io("complete a segment", &error);
    let Some((root, length)) = partial::named(path) else {
        return remove(path);
    };
    let place = layout.payload(&root);
    let known = read.open_table(PAYLOADS)?.get(root.0.as_slice())?.is_some();
    match (known, same_file(path, &place)) {
        (false, Some(true)) => fs::remove_file(place).map_err(failed),
        (false, _) => Ok(()),
        (true, Some(true)) => remove(path),
        (true, _) => {
            let whole = payload::read_footer(&mut File::open(path).map_err(failed)?);
            let whole = whole.map_err(failed)?.is_some();
            if whole && expire::is_good(path, &root, length)? {
                return fs::rename(path, place).map_err(failed);
            }
            remove(path)
        }
    }
}

/// Whether two names are of one file; `None` when the second is of none.
fn same_file(one: &Path, other: &Path) -> Option<bool> {
    let id = |path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
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
            let _ = fs::remove_file(settings.layout.payload(&Root(root)));
        }
    }
    write.delete_table(UNUSED)?;
    write.commit()?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).map_err(|e| StoreError::io("remove an unfinished segment", &e))
}

/// The files of a folder, one level deep.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect()
}
