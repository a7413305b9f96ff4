//! An index on a disk that cannot be written. What is written to it is kept in memory and lost:
//! an index that was not closed writes a few pages when it is opened, and nothing after that.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;

use super::DiskFile;
use crate::store::locked::lock;

/// Bytes that are kept together.
const BLOCK: u64 = 4096;

/// The file of an index, with what was written over it.
#[derive(Debug)]
pub(super) struct Frozen {
    file: DiskFile,
    length: AtomicU64,
    written: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Frozen {
    pub(super) fn new(file: DiskFile) -> io::Result<Self> {
        Ok(Self {
            length: AtomicU64::new(file.facts()?.length),
            file,
            written: Mutex::default(),
        })
    }

    /// A block as it is in the file; zeros behind its end.
    fn read_block(&self, block: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK as usize];
        let mut done = 0;
        while done < bytes.len() {
            let at = block * BLOCK + done as u64;
            match self.file.read_at(&mut bytes[done..], at) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}

/// The blocks that a range of bytes touches: of each its number, the part of it, and where that
/// stands in the range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, usize)> {
    let end = offset + length as u64;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let (from, to) = (offset.max(block * BLOCK), end.min((block + 1) * BLOCK));
        let within = (from - block * BLOCK) as usize..(to - block * BLOCK) as usize;
        (block, within, (from - offset) as usize)
    })
}

impl StorageBackend for Frozen {
    fn len(&self) -> io::Result<u64> {
        Ok(self.length.load(Ordering::SeqCst))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.length.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let written = lock(&self.written);
        if written.is_empty() {
            drop(written);
            return self.file.read_exact_at(offset, out);
        }
        for (block, within, at) in parts(offset, out.len()) {
            let out = &mut out[at..at + within.len()];
            match written.get(&block) {
                Some(bytes) => out.copy_from_slice(&bytes[within]),
                None => out.copy_from_slice(&self.read_block(block)?[within]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.length.store(len, Ordering::SeqCst);
        lock(&self.written).retain(|block, _| block * BLOCK < len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = lock(&self.written);
        for (block, within, at) in parts(offset, data.len()) {
            if let Entry::Vacant(entry) = written.entry(block) {
                entry.insert(self.read_block(block)?);
            }
            if let Some(bytes) = written.get_mut(&block) {
                bytes[within.clone()].copy_from_slice(&data[at..at + within.len()]);
            }
        }
        Ok(())
    }
}
