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
//! | who is met, may it stay, is it alive, what may it cost | [`contact`] |
//! | what is sent now, before what | [`uplink`] |
//! | which chunk group was asked of whom | [`piece`] |
//! | what is carried from node to node, kept, and what goes first | [`relay`] |
//! | how is all of it driven | [`delivery`] |
//! | what crosses a link | [`message`] |
//! | sets of numbers, and what numbers stand for | [`runs`], [`numbers`] |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod bucket;
pub mod contact;
pub mod content;
pub mod delivery;
pub mod ids;
pub mod limits;
pub mod message;
pub mod numbers;
pub mod piece;
pub mod relay;
pub mod runs;
pub mod time;
pub mod uplink;
pub mod verify;
pub mod wire;
