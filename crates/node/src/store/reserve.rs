//! Room on the disk that is kept for removals.
//!
//! To remove something the index needs pages, of which a disk that is full to the last byte has
//! none. So a large store keeps a file of its own that is good for nothing else: a removal that
//! finds no room takes it, and it is made again when there is room.

use std::io;

use super::disk::Access;
use super::engine::Store;
use super::error::StoreError;
use super::settings::Settings;
use super::shared::Shared;

/// Stores with fewer bytes of payload keep none: the file would be much of what they take. In tests
/// stores are small.
const FROM: u64 = if cfg!(test) { 256 << 10 } else { 1 << 30 };
/// One byte in so many of the payload is kept: 0.2 %.
const PART: u64 = if cfg!(test) { 1 } else { 500 };
/// Most bytes: a removal takes away some dozens of rows with each commit, for which it writes some
/// hundred pages of 4 KiB, and frees the payloads of these rows right after it.
const MOST: u64 = 4 << 20;
/// How many times the file there has to be room for before it is made again.
const SPACIOUS: u64 = 4;

impl Shared {
    /// Gives the room up. Whether there was some.
    pub(super) fn spend_reserve(&self) -> bool {
        let Settings { disk, layout, .. } = &self.settings;
        let spent = disk.files.remove(&layout.reserve()).is_ok();
        if spent {
            tracing::warn!("the disk is full: the room that is kept for removals is used");
        }
        spent
    }

    fn make_reserve(&self, bytes: u64) -> io::Result<()> {
        let Settings { disk, layout, .. } = &self.settings;
        // Not zeros, which some file systems keep without taking room for them.
        let mut filler = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"reserve").finalize_xof().fill(&mut filler);
        let path = layout.reserve();
        let file = disk.files.open(&path, Access::Anew)?;
        let written = file.write_all_at(0, &filler).and_then(|()| file.flush());
        if written.is_err() {
            let _ = disk.files.remove(&path);
        }
        written
    }
}

impl Store {
    /// Keeps room on the disk for removals, if the store is large and there is room. Blocks.
    pub fn keep_reserve(&self) {
        let shared = &self.shared;
        let Settings {
            disk,
            layout,
            min_free,
            ..
        } = &shared.settings;
        let used = self.stats().bytes;
        let wanted = (used / PART).min(MOST);
        let kept = disk
            .files
            .facts(&layout.reserve())
            .map(|facts| facts.length);
        if used < FROM {
            if kept.is_ok() {
                let _ = disk.files.remove(&layout.reserve());
            }
            return;
        }
        let free = disk.space(layout.root()).free;
        let is_spacious = free >= min_free.saturating_add(SPACIOUS * wanted);
        // One that is half as long as it could be does; it is not made longer all the time.
        let does = kept.is_ok_and(|kept| kept >= wanted / 2);
        if !does && is_spacious {
            // What fails now is tried again.
            let _ = shared.make_reserve(wanted);
        }
    }

    /// Does what removes something, and once more with the reserve when the disk is full.
    pub(super) fn write_with_reserve<T>(
        &self,
        removal: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match removal() {
            Err(error) if error.is_disk_full() && self.shared.spend_reserve() => removal(),
            outcome => outcome,
        }
    }
}
