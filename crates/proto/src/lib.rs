//! The sans-IO core of lavant: identities, records, verification and the policies of delivery.
//!
//! Nothing here opens a socket or a file, reads a clock, starts a thread or draws a random number:
//! time, bytes and seeds come in as arguments, so a test, the simulator and a node drive the same
//! code. Input from outside is never trusted: decoders return errors, never panic, and allocate no
//! more than [`limits`] says.
//!
//! | question | place |
//! |---|---|
//! | who signed, what is it called | [`ids`] |
//! | what does a segment or a finished content say of itself | [`content`] |
//! | how is that written down | [`wire`] |
//! | are these the bytes that were signed | [`verify`] |
//! | what is fetched, sent, kept, and what goes first | [`relay`] |
//! | sets of numbers | [`runs`] |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod content;
pub mod ids;
pub mod limits;
pub mod relay;
pub mod runs;
pub mod time;
pub mod verify;
pub mod wire;
