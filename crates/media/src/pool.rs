//! Buffers that are used again: fresh memory costs a page fault for every 4 KiB of a segment.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Most buffers that are kept.
const KEPT: usize = 3;
/// The largest buffer that is kept: with the number above, 36 MiB in all.
const KEPT_BYTES: usize = 12 << 20;

/// A few buffers of past segments, for the next ones. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn take(&self, capacity: usize) -> Vec<u8> {
        // The lock is held for a moment only: memory is reserved after it.
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        buffer.reserve(capacity);
        buffer
    }

    /// Shares the bytes of a buffer; it comes back when the last of them is dropped.
    #[must_use]
    pub fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent {
            buffer,
            pool: self.clone(),
        })
    }
}

struct Lent {
    buffer: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Nobody reads it any more: this is the last of those that shared it.
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut kept = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A buffer of one large segment would be kept for ever, so it goes.
        if kept.len() < KEPT && (1..=KEPT_BYTES).contains(&buffer.capacity()) {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_reader_and_only_a_few_are_kept() {
        let pool = Pool::default();
        let mut buffer = pool.take(100_000);
        buffer.extend_from_slice(b"content");
        let place = buffer.as_ptr();
        let (one, two) = (pool.lend(buffer), Bytes::new());
        let three = one.slice(3..);
        drop((one, two));
        assert_eq!(&three[..], b"tent");
        assert!(pool.0.lock().unwrap().is_empty());
        drop(three);
        let again = pool.take(10);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        let lent: Vec<Bytes> = (0..9).map(|_| pool.lend(vec![1; 10])).collect();
        drop(lent);
        drop(pool.lend(vec![1; KEPT_BYTES + 1]));
        assert_eq!(pool.0.lock().unwrap().len(), KEPT);
    }
}
