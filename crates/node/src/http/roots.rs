//! Roots of what live streams have in memory, so that each is computed once for all who fetch it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// The most roots that are kept: those of a minute of some dozens of streams.
const KEPT: usize = 1024;

/// What identifies a piece of memory, while whoever asks holds it.
type Place = (usize, usize);

/// The latest roots, by path.
#[derive(Default)]
pub(super) struct Roots(Mutex<VecDeque<(String, Place, blake3::Hash)>>);

impl Roots {
    /// The BLAKE3 root of what is at a path.
    pub(super) fn of(&self, path: &str, bytes: &Bytes) -> blake3::Hash {
        // A path is used again where a broadcast goes on behind a segment that was lost.
        let place = (bytes.as_ptr().addr(), bytes.len());
        let found = self.lock().iter().rev().find_map(|(of, at, root)| {
            let is_same = *at == place && of == path;
            is_same.then_some(*root)
        });
        if let Some(root) = found {
            return root;
        }
        // Not while it is locked: hashing takes a while.
        let root = blake3::hash(bytes);
        let mut roots = self.lock();
        if roots.len() >= KEPT {
            roots.pop_front();
        }
        roots.push_back((path.to_owned(), place, root));
        root
    }

    /// A panic while it was held would leave a list that is still one.
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, Place, blake3::Hash)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_of_the_bytes_that_are_there_now() {
        let roots = Roots::default();
        let (one, other) = (Bytes::from(vec![1; 10]), Bytes::from(vec![2; 10]));
        for _ in 0..2 {
            assert_eq!(roots.of("a", &one), blake3::hash(&one));
            assert_eq!(roots.of("a", &other), blake3::hash(&other));
        }
        assert_eq!(roots.lock().len(), 2);
        for n in 0..2 * KEPT {
            roots.of(&n.to_string(), &one);
        }
        assert_eq!(roots.lock().len(), KEPT);
    }
}
