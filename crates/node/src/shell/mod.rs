//! The shell's side: what talks to a node from outside, over its HTTP API, from another process or
//! machine. It shares nothing with the node itself, whose rooms it does not enter.
//!
//! | question | place |
//! |---|---|
//! | how a file becomes segments, and these reach a node | [`ingest`] |
//! | how a node is asked and told | [`client`] |
//! | how a live stream is published and watched from outside | `live.rs` |
//! | how it becomes a transport stream on the way | `remux.rs` |
//! | how long it waits | `agent.rs` |

mod agent;
pub mod client;
pub mod ingest;
mod live;
mod remux;

pub use lavant_proto::content::is_hidden;
pub use lavant_proto::ids::ContentId;
pub use remux::TransportStream;
