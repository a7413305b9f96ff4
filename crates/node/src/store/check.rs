//! Checking and cleaning a store.

use std::path::PathBuf;

use lavant_proto::content::Kind;
use lavant_proto::ids::Root;
use redb::ReadableTable;

use super::catalog::Content;
use super::engine::Store;
use super::error::StoreError;
use super::expire;
use super::index::Index;
use super::layout::root_of_path;
use super::rebuild::payload_files;
use super::rows::{PAYLOADS, SegmentKey, SegmentRow};
use super::settings::Settings;

/// Most files that a report names.
const UNREADABLE_MAX: usize = 10;

/// What [`Store::check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Segments that were read and are what their root says.
    pub intact: u64,
    /// Segments whose file is torn, damaged or gone; they were dropped.
    pub dropped: u64,
    /// Files that the index does not know.
    pub unknown_files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// The caller ended it.
    pub interrupted: bool,
    /// Segments whose file cannot be read now, for another reason than damage; they stay.
    pub unreadable: u64,
    /// Some of these files.
    pub unreadable_files: Vec<PathBuf>,
}

impl CheckReport {
    const fn done(&self) -> u64 {
        self.intact + self.dropped + self.unreadable
    }
}

/// What [`Store::gc`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Files that the index did not know.
    pub removed_files: u64,
    /// Bytes that they took.
    pub removed_bytes: u64,
    /// Bytes by which the index became smaller.
    pub index_bytes: u64,
}

impl Store {
    /// Reads every payload and checks it against its root; drops what is damaged. Blocks.
    ///
    /// `progress` is told how many of how many segments are done; when it is false, the report is
    /// of what was done.
    pub fn check(
        &self,
        mut progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<CheckReport, StoreError> {
        let catalog = self.catalog();
        let total = catalog.segment_count();
        let mut report = CheckReport {
            interrupted: true,
            ..CheckReport::default()
        };
        for content in catalog.all() {
            for (no, kind) in places(content) {
                for (sequence, row) in self.rows(content, no, kind)? {
                    let key = SegmentKey {
                        content_no: content.no,
                        rendition_no: no,
                        kind,
                        sequence,
                    };
                    if !progress(report.done().min(total), total) {
                        return Ok(report);
                    }
                    self.check_one(key, &row, &mut report)?;
                }
            }
        }
        progress(total, total);
        report.interrupted = false;
        report.unknown_files = self.count_unknown()?;
        Ok(report)
    }

    fn check_one(
        &self,
        key: SegmentKey,
        row: &SegmentRow,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        if !row.present {
            return Ok(());
        }
        let root = row.root;
        let Settings { disk, layout, .. } = self.settings();
        let path = layout.payload(&root);
        let usable = match expire::is_usable(disk, &path, row) {
            Ok(usable) => usable,
            Err(StoreError::Io { .. }) => {
                report.unreadable += 1;
                if report.unreadable_files.len() < UNREADABLE_MAX {
                    report.unreadable_files.push(path);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if usable {
            report.intact += 1;
            report.bytes += row.length;
        } else if self.is_read_only() {
            report.dropped += 1;
        } else {
            // It may have expired meanwhile, which is no damage.
            report.dropped +=
                u64::from(self.write(move |tx| expire::lose_payload(tx, key, &root))?);
        }
        Ok(())
    }

    /// Removes files that the index does not know and makes the index small. Blocks.
    ///
    /// Only for a store that nobody else uses: the index is closed meanwhile.
    pub fn gc(&self) -> Result<GcReport, StoreError> {
        if self.is_read_only() {
            return Err(StoreError::ReadOnly);
        }
        // What is left of removed contents goes first, a step at a time: others write between.
        while self.write(|tx| tx.clear_some())? {}
        // In the writer, so that no segment is on its way to its place meanwhile.
        let mut report = self.write(|tx| {
            let known = |root: &Root| Ok(tx.tables().payloads.get(root.0.as_slice())?.is_some());
            remove_files(tx.settings(), unknown_files(tx.settings(), known)?)
        })?;
        let path = self.settings().layout.index();
        let files = &self.settings().disk.files;
        let size = || files.facts(&path).map_or(0, |facts| facts.length);
        let _ = files.remove(&path.with_extension("damaged"));
        let before = size();
        let mut index = self.shared.index.write().map_err(|_| StoreError::Closed)?;
        if let Index::Writable(database) = &mut *index {
            database.compact()?;
        }
        report.index_bytes = before.saturating_sub(size());
        Ok(report)
    }

    /// How many files the index does not know; one that is just being stored may be among them.
    fn count_unknown(&self) -> Result<u64, StoreError> {
        let index = self.shared.index.read().map_err(|_| StoreError::Closed)?;
        let payloads = index.begin_read()?.open_table(PAYLOADS)?;
        let known = |root: &Root| Ok(payloads.get(root.0.as_slice())?.is_some());
        Ok(unknown_files(self.settings(), known)?.len() as u64)
    }
}

fn unknown_files(
    settings: &Settings,
    known: impl Fn(&Root) -> Result<bool, StoreError>,
) -> Result<Vec<PathBuf>, StoreError> {
    let mut unknown = Vec::new();
    for path in payload_files(settings) {
        let is_known = match root_of_path(&path) {
            Some(root) => known(&root)?,
            None => false,
        };
        if !is_known {
            unknown.push(path);
        }
    }
    Ok(unknown)
}

fn remove_files(settings: &Settings, paths: Vec<PathBuf>) -> Result<GcReport, StoreError> {
    let mut report = GcReport::default();
    let files = &settings.disk.files;
    for path in paths {
        let bytes = files.facts(&path).map_or(0, |facts| facts.length);
        let removed = files.remove(&path);
        removed.map_err(|error| StoreError::io("remove a file", error))?;
        report.removed_files += 1;
        report.removed_bytes += bytes;
    }
    Ok(report)
}

/// The lists of segments that a content has.
fn places(content: &Content) -> impl Iterator<Item = (u16, Kind)> + use<> {
    let renditions = content.renditions.len() as u16;
    (0..renditions).flat_map(|no| [(no, Kind::Init), (no, Kind::Media)])
}
