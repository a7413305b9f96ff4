//! Completing or removing what the last process was doing when it stopped.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use lavant_proto::content::SegmentRecord;
use lavant_proto::ids::Root;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::catalog::{Catalog, State};
use super::error::StoreError;
use super::layout::Layout;
use super::open::Index;
use super::partial::forget_partial;
use super::rows::{GARBAGE, PARTIALS, PAYLOADS};
use super::tx::Tx;
use super::{Settings, manifest, payload};

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
    let lost = lost_partials(layout, &read)?;
    let garbage = read.open_table(GARBAGE)?.len()?;
    drop(read);
    if lost.is_empty() && garbage == 0 {
        return Ok(false);
    }
    match clean_index(settings, index, &lost) {
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

/// Removes partial files that the index does not know; returns the partials whose file is gone.
fn lost_partials(layout: &Layout, read: &ReadTransaction) -> Result<Vec<Root>, StoreError> {
    let partials = read.open_table(PARTIALS)?;
    for path in files_below(&layout.partials()) {
        let root: Option<Root> = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        let known = match root {
            Some(root) => partials.get(root.0.as_slice())?.is_some(),
            None => false,
        };
        if !known {
            remove(&path)?;
        }
    }
    let mut lost = Vec::new();
    for entry in partials.iter()? {
        let Ok(root) = entry?.0.value().try_into().map(Root) else {
            continue;
        };
        if !layout.partial(&root).exists() {
            lost.push(root);
        }
    }
    Ok(lost)
}

fn clean_index(settings: &Settings, index: &Index, lost: &[Root]) -> Result<(), StoreError> {
    let write = index.begin_write()?;
    {
        let mut tx = Tx::empty(&write, settings)?;
        while let Some((root, _)) = tx.garbage.pop_first()? {
            let Ok(root) = <[u8; 32]>::try_from(root.value()) else {
                continue;
            };
            let _ = fs::remove_file(settings.layout.payload(&Root(root)));
        }
        for root in lost {
            forget_partial(&mut tx, root)?;
        }
    }
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
