//! The deterministic simulator: drives the policies of `lavant-proto` in virtual time.
//!
//! A run is a function of its seed and options alone; two runs with one seed are identical to the
//! byte, and each prints the hash of everything that happened, so that this can be seen.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod liars;
pub mod random;
pub mod relay;
pub mod retention;
