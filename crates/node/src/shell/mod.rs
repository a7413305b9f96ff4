//! The shell's side: what talks to a node from outside, over its HTTP API, from another process or
//! machine. It shares nothing with the node itself, whose rooms it does not enter.
//!
//! | question | place |
//! |---|---|
//! | how a file becomes segments, and these reach a node | [`ingest`] |
//! | how a node is asked and told | [`client`] |
//! | how a live stream is published from outside | [`publish`] |
//! | how one is watched | `watch.rs` |
//! | how it becomes a transport stream on the way | `remux.rs` |
//! | how long it waits | `agent.rs` |

mod agent;
pub mod client;
pub mod ingest;
pub mod publish;
mod remux;
mod watch;

pub use lavant_proto::content::is_hidden;
pub use lavant_proto::ids::ContentId;
pub use lavant_proto::limits::TITLE_BYTES_MAX;
pub use remux::TransportStream;
