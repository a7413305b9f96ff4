//! Locks that a panic elsewhere does not keep closed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. What it guards is whole after every step, also after one that panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
