//! Writing and reading pieces of a file that stand next to each other at once.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::OpenFile;

/// Most pieces that are written or read at once; the system takes 1024.
const PIECES_MAX: usize = 512;
/// Most bytes that are written into the page cache at once: the system puts small writes into pages
/// of memory that were in use lately, large ones into fresh memory, which a virtual machine has to
/// get from its host.
const CACHED_MAX: usize = 32 * 1024;
/// Fewer bytes are left to the page cache, which gathers them for the disk.
const PAST_MIN: u64 = 128 * 1024;

/// Whether a file system is known to write past its page cache, or may.
pub(super) struct PastCache(AtomicBool);

impl PastCache {
    /// It may.
    pub(super) const fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gathers bytes that stand next to each other in a file, so that they are written at once.
pub(super) struct Pieces<'a> {
    file: &'a dyn OpenFile,
    at: u64,
    length: u64,
    pieces: Vec<IoSlice<'a>>,
    past: Option<&'a PastCache>,
}

impl<'a> Pieces<'a> {
    /// With `past`, runs that are long enough for the disk are written past the page cache.
    pub(super) const fn new(file: &'a dyn OpenFile, past: Option<&'a PastCache>) -> Self {
        Self {
            file,
            at: 0,
            length: 0,
            pieces: Vec::new(),
            past,
        }
    }

    /// Adds bytes that belong at `at`; they must stay where they are until [`Pieces::write`].
    pub(super) fn add(&mut self, at: u64, bytes: &'a [u8]) -> io::Result<()> {
        if self.pieces.len() >= PIECES_MAX || at != self.at + self.length {
            self.write()?;
            self.at = at;
        }
        self.pieces.push(IoSlice::new(bytes));
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes what was added.
    pub(super) fn write(&mut self) -> io::Result<()> {
        use io::ErrorKind::{Interrupted, InvalidInput, Unsupported};
        let mut pieces = &mut self.pieces[..];
        let mut at = self.at;
        let past = self.past.filter(|_| self.length >= PAST_MIN);
        while !pieces.is_empty() {
            let outcome = match past.filter(|past| past.is_known()) {
                Some(past) => match self.file.write_past_cache(pieces, at) {
                    Err(error) if matches!(error.kind(), Unsupported | InvalidInput) => {
                        past.0.store(false, Ordering::Relaxed);
                        continue;
                    }
                    other => other,
                },
                None => self.file.write_pieces(&pieces[..few(pieces)], at),
            };
            let written = match outcome {
                Err(error) if error.kind() == Interrupted => continue,
                other => other?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            IoSlice::advance_slices(&mut pieces, written);
        }
        self.pieces.clear();
        self.at += self.length;
        self.length = 0;
        Ok(())
    }
}

/// How many of the pieces go into the page cache at once.
fn few(pieces: &[IoSlice<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |piece: &&IoSlice<'_>| {
        bytes += piece.len();
        bytes <= CACHED_MAX
    };
    pieces.iter().take_while(fits).count().max(1)
}

/// Fills pieces with the bytes of a file from `at` on; fails when it ends before.
pub(super) fn read_pieces(
    file: &dyn OpenFile,
    mut at: u64,
    mut pieces: &mut [IoSliceMut<'_>],
) -> io::Result<()> {
    while !pieces.is_empty() {
        let some = pieces.len().min(PIECES_MAX);
        let read = match file.read_pieces(&mut pieces[..some], at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if read == 0 && pieces.iter().any(|piece| !piece.is_empty()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += read as u64;
        IoSliceMut::advance_slices(&mut pieces, read);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn bytes_stand_where_they_belong_whatever_the_file_system_can() {
        let bytes: Vec<u8> = (0..1_000_003u32).map(|n| (n % 251) as u8).collect();
        let places = [std::env::temp_dir(), Path::new("/dev/shm").to_owned()];
        for place in places.iter().filter(|place| place.is_dir()) {
            for (piece, past) in [(64, true), (16_384, true), (300_000, true), (16_384, false)] {
                let file = tempfile::tempfile_in(place).unwrap();
                let known = PastCache::new();
                let mut pieces = Pieces::new(&file, past.then_some(&known));
                for (at, part) in bytes.chunks(piece).enumerate() {
                    pieces.add((at * piece) as u64, part).unwrap();
                }
                pieces.add(2_000_000, b"end").unwrap();
                pieces.write().unwrap();
                drop(pieces);
                let mut read = vec![1; 2_000_003];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
                assert!(read[..bytes.len()] == bytes[..], "{}", place.display());
                assert!(read[bytes.len()..2_000_000].iter().all(|byte| *byte == 0));
                assert_eq!(&read[2_000_000..], b"end");
                let mut again = vec![1; 2_000_003];
                let mut pieces: Vec<_> = again.chunks_mut(piece).map(IoSliceMut::new).collect();
                read_pieces(&file, 0, &mut pieces).unwrap();
                assert!(again == read, "{}", place.display());
                let mut beyond = [0; 10];
                let error = read_pieces(&file, 1_999_999, &mut [IoSliceMut::new(&mut beyond)]);
                assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }
}
