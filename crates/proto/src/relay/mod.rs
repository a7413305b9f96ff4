//! Carrying contents from node to node, whenever two of them meet.
//!
//! [`Relay`] is a value that is stepped: [`Relay::handle`] takes an [`Input`], [`Relay::poll`]
//! gives what is to be done, [`Relay::deadline`] says when to call again. It knows what is here and
//! what the others say, and decides what is asked of whom and served to whom; verifying, storing
//! and sending are its driver's.
//!
//! | question | place |
//! |---|---|
//! | how do two nodes find out what they lack | [`reconcile`], `tell` |
//! | what is fetched next, from whom | `fetch` |
//! | what is sent next, to whom, how fast | `serve`, [`bucket`] |
//! | who may meet whom | `engine`, [`hello`] |
//! | what is said on a link | [`message`] |
//! | why was a segment dropped | [`evict`] |

pub mod bucket;
mod config;
mod contact;
mod copies;
mod engine;
mod entry;
pub mod evict;
mod fetch;
pub mod hello;
mod io;
pub mod message;
pub mod receipt;
pub mod reconcile;
mod serve;
mod stored;
mod tell;
mod upgrade;

pub use config::Config;
pub use contact::{Patience, Place, Stats};
pub use engine::{ContactInfo, Left, Relay};
pub use io::{ContactNo, Facts, Input, Known, Output};
