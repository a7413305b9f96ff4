//! What a transaction does beside the index: names that files get, and names that they lose.
//!
//! Operations only note it. A file gets its place right before the commit, because the commit needs
//! it there and a full disk is to refuse it; when the commit fails, the place is taken back. Names
//! are removed after the commit, when nobody can need them any more.
//!
//! ```text
//! operations     note: places, pins, manifests, removals
//! prepare        pins are written and flushed in incoming/; all files get their places, whose
//!                folders are flushed: all or none
//! commit         of the index
//! carry out      first names go, then what is not needed any more
//! or abort       places are taken back that the index does not name; what was made here goes
//! ```
//!
//! Whatever ends the process in between, the next start settles both names by the index.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use lavant_proto::ids::{ContentKey, Root};

use super::disk::{Access, Files};
use super::layout::pin_line;
use super::place::Placed;
use super::settings::Settings;

/// What a transaction is to do beside the index.
#[derive(Default)]
pub(super) struct Effects {
    /// Files by the places that they get.
    places: BTreeMap<PathBuf, Origin>,
    /// Payloads whose files go after the commit.
    unlinks: Vec<Root>,
    /// Other files that go after it.
    surplus: Vec<PathBuf>,
}

/// Where a file comes from that gets a place.
enum Origin {
    /// It waits under that name, and was flushed.
    Waits(PathBuf),
    /// It is so small that it is made for the commit, under that name first.
    Made { name: PathBuf, bytes: Vec<u8> },
}

/// What is to go after a commit.
pub(super) struct Gone {
    pub(super) unlinks: Vec<Root>,
    pub(super) files: Vec<PathBuf>,
}

impl Effects {
    /// Gives a waiting file a place; one that was to have it is not needed.
    pub(super) fn place(&mut self, place: PathBuf, file: PathBuf) {
        self.unplace_by(place, Some(Origin::Waits(file)));
    }

    /// Makes a file with these bytes; `name` is what it is called before the commit.
    pub(super) fn make(&mut self, place: PathBuf, name: PathBuf, bytes: Vec<u8>) {
        self.surplus.retain(|file| *file != place);
        self.unplace_by(place, Some(Origin::Made { name, bytes }));
    }

    /// The file that was to have a place is not needed.
    pub(super) fn unplace(&mut self, place: PathBuf) {
        self.unplace_by(place, None);
    }

    fn unplace_by(&mut self, place: PathBuf, next: Option<Origin>) {
        let before = match next {
            Some(origin) => self.places.insert(place, origin),
            None => self.places.remove(&place),
        };
        // What was not made yet leaves nothing.
        if let Some(Origin::Waits(file)) = before {
            self.surplus.push(file);
        }
    }

    /// Whether a file gets that place.
    pub(super) fn is_placed(&self, place: &Path) -> bool {
        self.places.contains_key(place)
    }

    /// Removes a file that is not needed any more.
    pub(super) fn remove(&mut self, file: PathBuf) {
        self.surplus.push(file);
    }

    /// Removes the file of a payload.
    pub(super) fn unlink(&mut self, root: Root) {
        self.unlinks.push(root);
    }

    /// The payload is used again.
    pub(super) fn keep(&mut self, root: &Root) {
        self.unlinks.retain(|gone| gone != root);
    }

    /// Notes in a file that a content is pinned, for when the index must be made again.
    pub(super) fn pin(&mut self, settings: &Settings, content: &ContentKey) {
        let layout = &settings.layout;
        let (place, name) = (layout.pin(content), layout.incoming_pin(content));
        self.make(place, name, pin_line(content).into_bytes());
    }

    /// Takes that back.
    pub(super) fn unpin(&mut self, settings: &Settings, content: &ContentKey) {
        let place = settings.layout.pin(content);
        self.unplace(place.clone());
        self.remove(place);
    }

    /// Gives files their places, durably: all of them or, on an error, none.
    pub(super) fn prepare(self, settings: &Settings) -> io::Result<Prepared<'_>> {
        let mut prepared = Prepared {
            settings,
            made: Vec::new(),
            placed: None,
            gone: Gone {
                unlinks: self.unlinks,
                files: self.surplus,
            },
        };
        match prepared.fill(self.places) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.remove_made();
                Err(error)
            }
        }
    }
}

/// Effects for which all is done that a commit needs.
pub(super) struct Prepared<'a> {
    settings: &'a Settings,
    /// First names of what was made here.
    made: Vec<PathBuf>,
    placed: Option<Placed<'a>>,
    gone: Gone,
}

impl Prepared<'_> {
    fn fill(&mut self, places: BTreeMap<PathBuf, Origin>) -> io::Result<()> {
        let disk = &self.settings.disk;
        let mut moves = BTreeMap::new();
        for (place, origin) in places {
            let name = match origin {
                Origin::Waits(file) => {
                    // Of something that is gone: it would keep the place until after the commit.
                    if place.starts_with(self.settings.layout.manifests()) {
                        remove_stale(&*disk.files, &place)?;
                    }
                    file
                }
                Origin::Made { name, bytes } => {
                    match disk.read(&place) {
                        Ok(there) if there == bytes => {
                            make_durable(&*disk.files, &place)?;
                            continue;
                        }
                        // Torn: it says of nothing that it is pinned.
                        Ok(_) => disk.files.remove(&place)?,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        // It may be what the index asks for: it is not touched.
                        Err(error) => return Err(error),
                    }
                    self.made.push(name.clone());
                    disk.write(&name, &bytes)?;
                    name
                }
            };
            moves.insert(place, name);
        }
        self.placed = Some(Placed::new(self.settings, moves)?);
        Ok(())
    }

    fn remove_made(&self) {
        for name in &self.made {
            let _ = self.settings.disk.files.remove(name);
        }
    }

    /// The commit is durable. Returns what is to go.
    pub(super) fn carry_out(self) -> Gone {
        if let Some(placed) = self.placed {
            placed.settle();
        }
        self.gone
    }

    /// The commit failed. What is in the index says whether it is there all the same: places that
    /// it knows stay, and `None` means that this cannot be told.
    pub(super) fn abort(mut self, is_known: impl Fn(&Path) -> Option<bool>) {
        if let Some(placed) = self.placed.take() {
            placed.settle_known(is_known);
        }
        // Nobody else removes these.
        self.remove_made();
    }
}

fn remove_stale(files: &dyn Files, place: &Path) -> io::Result<()> {
    match files.remove(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make_durable(files: &dyn Files, place: &Path) -> io::Result<()> {
    files.open(place, Access::Read)?.flush()?;
    place
        .parent()
        .map_or(Ok(()), |folder| files.flush_folder(folder))
}
