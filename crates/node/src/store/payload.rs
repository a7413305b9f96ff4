//! Payload files: the payload, its outboard, and a footer that says what it is.
//!
//! ```text
//! payload | outboard | record, 0 or 64 bytes of signature | payload length u64,
//!                                  record length u16, signature length u8, magic "lavant1"
//! ```
//!
//! The footer lets the index be made again from the files alone; integers are little-endian.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lavant_proto::content::{Proof, SegmentRecord};
use lavant_proto::ids::{Root, Signature};
use lavant_proto::limits::{RECORD_BYTES_MAX, SEGMENT_BYTES_MAX};
use lavant_proto::verify::{self, Seal};

use super::disk::{Access, Disk, DiskFile, FromStart, OpenFile};

const MAGIC: &[u8; 7] = b"lavant1";
const TRAILER_BYTES: u64 = 8 + 2 + 1 + MAGIC.len() as u64;

/// What the footer of a payload file says.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) length: u64,
    pub(super) record: Vec<u8>,
    pub(super) signature: Option<Signature>,
}

/// Bytes that are written and hashed in one go, while they are in the processor's cache. Small ones
/// also go into pages of memory that were in use lately, large ones into fresh memory, which a
/// virtual machine first has to get from its host.
const PIECE: usize = 32 * 1024;

/// A payload file that still lacks outboard and footer. Dropped before it is finished, it is
/// removed.
pub(super) struct Draft<'a> {
    disk: &'a Disk,
    file: DiskFile,
    path: PathBuf,
    length: u64,
    seal: Seal,
    finished: bool,
}

impl<'a> Draft<'a> {
    /// Writes a payload to a new file and hashes it on the way.
    pub(super) fn write(disk: &'a Disk, path: &Path, payload: &[u8]) -> io::Result<Self> {
        let file = disk.files.open(path, Access::New)?;
        let length = payload.len() as u64;
        let mut draft = Self {
            disk,
            file,
            path: path.to_owned(),
            length,
            seal: Seal {
                root: Root([0; 32]),
                outboard: Vec::new(),
            },
            finished: false,
        };
        let pieces = WrittenPieces {
            file: &*draft.file,
            at: 0,
            unwritten: payload,
            written: &[],
        };
        draft.seal = verify::seal_reader(pieces, length)?;
        Ok(draft)
    }

    /// Root of the payload.
    pub(super) const fn root(&self) -> Root {
        self.seal.root
    }

    /// Completes the file. It is not durable before it is flushed.
    pub(super) fn finish(mut self, record: &SegmentRecord, proof: &Proof) -> io::Result<DiskFile> {
        let footer = footer_bytes(self.length, record, proof);
        let outboard = &self.seal.outboard;
        self.file.write_all_at(self.length, outboard)?;
        let end = self.length + outboard.len() as u64;
        self.file.write_all_at(end, &footer)?;
        self.finished = true;
        Ok(Arc::clone(&self.file))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.disk.files.remove(&self.path);
        }
    }
}

/// Gives out a payload for hashing; each piece is written to the file before.
struct WrittenPieces<'a> {
    file: &'a dyn OpenFile,
    at: u64,
    unwritten: &'a [u8],
    written: &'a [u8],
}

impl Read for WrittenPieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.written.is_empty() {
            let (piece, rest) = self.unwritten.split_at(self.unwritten.len().min(PIECE));
            self.file.write_all_at(self.at, piece)?;
            self.at += piece.len() as u64;
            (self.written, self.unwritten) = (piece, rest);
        }
        self.written.read(buffer)
    }
}

/// The footer for a payload of `length` bytes.
pub(super) fn footer_bytes(length: u64, record: &SegmentRecord, proof: &Proof) -> Vec<u8> {
    let record = record.encode();
    let signature: &[u8] = match proof {
        Proof::Signature(signature) => &signature.0,
        Proof::Manifest => &[],
    };
    let mut footer = record.clone();
    footer.extend_from_slice(signature);
    footer.extend_from_slice(&length.to_le_bytes());
    footer.extend_from_slice(&(record.len() as u16).to_le_bytes());
    footer.push(signature.len() as u8);
    footer.extend_from_slice(MAGIC);
    footer
}

/// Reads and checks the footer; `None` when the file is torn or of something else.
pub(super) fn read_footer(file: &dyn OpenFile) -> io::Result<Option<Footer>> {
    let size = file.facts()?.length;
    let Some(trailer_at) = size.checked_sub(TRAILER_BYTES) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.read_exact_at(trailer_at, &mut trailer)?;
    let (numbers, magic) = trailer.split_at(11);
    if magic != MAGIC {
        return Ok(None);
    }
    let mut length = [0; 8];
    length.copy_from_slice(&numbers[..8]);
    let length = u64::from_le_bytes(length);
    let record_length = u64::from(u16::from_le_bytes([numbers[8], numbers[9]]));
    let signature_length = u64::from(numbers[10]);
    if length > SEGMENT_BYTES_MAX || record_length > RECORD_BYTES_MAX as u64 {
        return Ok(None);
    }
    let record_at = length + verify::outboard_length(length);
    if record_at + record_length + signature_length != trailer_at {
        return Ok(None);
    }
    let mut rest = vec![0; (record_length + signature_length) as usize];
    file.read_exact_at(record_at, &mut rest)?;
    let signature = match rest.split_off(record_length as usize).try_into() {
        Ok(bytes) => Some(Signature(bytes)),
        Err(_) if signature_length == 0 => None,
        Err(_) => return Ok(None),
    };
    Ok(Some(Footer {
        length,
        record: rest,
        signature,
    }))
}

/// Hashes the payload again; whether it still is what `root` names.
pub(super) fn is_intact(file: &dyn OpenFile, root: &Root, length: u64) -> io::Result<bool> {
    match verify::seal_reader(
        io::BufReader::with_capacity(256 * 1024, FromStart::new(file).take(length)),
        length,
    ) {
        Ok(seal) => Ok(seal.root == *root),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bytes that a payload of `length` bytes counts for: its own and those of its outboard.
pub(super) fn disk_bytes(length: u64) -> u64 {
    length + verify::outboard_length(length)
}
