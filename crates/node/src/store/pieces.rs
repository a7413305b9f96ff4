//! Writing pieces of a file that stand next to each other at once.

use std::fs::File;
use std::io::{self, IoSlice};

/// Most pieces that are written at once; the system takes 1024.
const PIECES_MAX: usize = 512;
/// Most bytes that are written at once: the system puts small writes into pages of memory that were
/// in use lately, large ones into fresh memory, which a virtual machine has to get from its host.
const BYTES_MAX: u64 = 32 * 1024;

/// Gathers bytes that stand next to each other in a file, so that they are written at once.
pub(super) struct Pieces<'a> {
    file: &'a File,
    at: u64,
    length: u64,
    pieces: Vec<IoSlice<'a>>,
}

impl<'a> Pieces<'a> {
    pub(super) const fn new(file: &'a File) -> Self {
        Self {
            file,
            at: 0,
            length: 0,
            pieces: Vec::new(),
        }
    }

    /// Adds bytes that belong at `at`; they must stay where they are until [`Pieces::write`].
    pub(super) fn add(&mut self, at: u64, bytes: &'a [u8]) -> io::Result<()> {
        let full = self.pieces.len() >= PIECES_MAX || self.length >= BYTES_MAX;
        if full || at != self.at + self.length {
            self.write()?;
            self.at = at;
        }
        self.pieces.push(IoSlice::new(bytes));
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes what was added.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let mut pieces = &mut self.pieces[..];
        let mut at = self.at;
        while !pieces.is_empty() {
            let written = match rustix::io::pwritev(self.file, pieces, at) {
                Err(rustix::io::Errno::INTR) => continue,
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
