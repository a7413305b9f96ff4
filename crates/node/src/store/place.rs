//! Putting incoming files to their places before the index names them.
//!
//! A file gets its second name, in its place, before the commit, so that a full disk refuses the
//! commit instead of breaking it; its first name, in `incoming/`, goes after the commit. A stop in
//! between leaves both, and the next start knows by the index which one to keep.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Files;
use super::settings::Settings;

/// Files that have their places, for a commit that is about to come.
pub(super) struct Placed<'a> {
    settings: &'a Settings,
    files: Vec<(PathBuf, PathBuf, How)>,
}

/// How a file got its place.
enum How {
    /// It has both names.
    Linked,
    /// It has the new name only, where the file system knows no second ones.
    Renamed,
    /// Another file has the place and gives way after the commit, for which nothing is needed.
    Waits,
}

impl<'a> Placed<'a> {
    /// Places the files (place -> file) durably: all of them or, on an error, none.
    pub(super) fn new(
        settings: &'a Settings,
        moves: BTreeMap<PathBuf, PathBuf>,
    ) -> io::Result<Self> {
        let mut placed = Self {
            settings,
            files: Vec::new(),
        };
        match placed.fill(moves) {
            Ok(()) => Ok(placed),
            Err(error) => {
                placed.undo();
                Err(error)
            }
        }
    }

    fn fill(&mut self, moves: BTreeMap<PathBuf, PathBuf>) -> io::Result<()> {
        let manifests = self.settings.layout.manifests();
        let (last, first) = moves
            .into_iter()
            .partition(|(place, _)| place.starts_with(&manifests));
        // A manifest that has its place says that its payloads have theirs.
        self.put_all(first)?;
        self.put_all(last)
    }

    fn put_all(&mut self, moves: BTreeMap<PathBuf, PathBuf>) -> io::Result<()> {
        let files = &*self.settings.disk.files;
        let mut folders = Vec::new();
        for (place, file) in moves {
            let how = put(files, &file, &place)?;
            folders.push(match how {
                How::Waits => self.settings.layout.incoming(),
                How::Linked | How::Renamed => folder_of(&place),
            });
            self.files.push((file, place, how));
        }
        folders.sort_unstable();
        folders.dedup();
        folders
            .iter()
            .try_for_each(|folder| files.flush_folder(folder))
    }

    /// Nothing was committed: the files are incoming ones again.
    fn undo(self) {
        self.settle_known(|_| Some(false));
    }

    /// The commit failed, and what is in the index says whether it is there all the same: a place
    /// that the index knows is kept, and what may be known has both names until the next start.
    pub(super) fn settle_known(self, is_known: impl Fn(&Path) -> Option<bool>) {
        let (known, others): (Vec<_>, Vec<_>) = self
            .files
            .into_iter()
            .filter_map(|moved| Some((is_known(&moved.1)?, moved)))
            .partition(|(known, _)| *known);
        let of = |moved: Vec<(bool, _)>| Self {
            settings: self.settings,
            files: moved.into_iter().map(|(_, moved)| moved).collect(),
        };
        of(known).settle();
        of(others).take_back();
    }

    fn take_back(self) {
        let manifests = self.settings.layout.manifests();
        let (first, last) = self
            .files
            .into_iter()
            .partition(|(_, place, _)| place.starts_with(&manifests));
        // A manifest that stayed after some of its payloads went would bring its content back in
        // part, if the index were lost.
        take_back_all(self.settings, first);
        take_back_all(self.settings, last);
    }

    /// The commit succeeded. What fails here, the next start does.
    pub(super) fn settle(self) {
        let files = &self.settings.disk.files;
        for (file, place, how) in self.files {
            let settled = match how {
                How::Linked => files.remove(&file),
                How::Renamed => Ok(()),
                How::Waits => files.rename(&file, &place),
            };
            if let Err(error) = settled {
                tracing::warn!(%error, file = %file.display(), "a file stays until the next start");
            }
        }
    }
}

fn take_back_all(settings: &Settings, all: Vec<(PathBuf, PathBuf, How)>) {
    let files = &settings.disk.files;
    let mut folders = Vec::new();
    for (file, place, how) in all {
        let undone = match how {
            How::Linked => files.remove(&place),
            How::Renamed => files.rename(&place, &file),
            How::Waits => continue,
        };
        folders.push(folder_of(&place));
        if let Err(error) = undone {
            tracing::warn!(%error, place = %place.display(), "a file stays that nothing names");
        }
    }
    folders.sort_unstable();
    folders.dedup();
    // A place that comes back with the power would have no name in `incoming/`.
    for folder in folders {
        let _ = files.flush_folder(&folder);
    }
}

fn folder_of(place: &Path) -> PathBuf {
    place.parent().map(Path::to_owned).unwrap_or_default()
}

fn put(files: &dyn Files, file: &Path, place: &Path) -> io::Result<How> {
    let linked = files.link(file, place);
    match linked.as_ref().map_err(io::Error::kind) {
        Ok(()) => Ok(How::Linked),
        Err(io::ErrorKind::AlreadyExists) => Ok(How::Waits),
        Err(io::ErrorKind::NotFound) => {
            let folder = place.parent();
            folder.map_or(Ok(()), |folder| files.make_folder(folder))?;
            files.link(file, place).map(|()| How::Linked)
        }
        Err(_) => files.rename(file, place).map(|()| How::Renamed),
    }
}
