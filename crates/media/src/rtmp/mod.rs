//! RTMP, as a server hears a publisher: H.264, HEVC, AV1, VP9, AAC and Opus, by the legacy numbers
//! and by Enhanced RTMP.
//!
//! A [`Session`] is the whole protocol of one connection without its socket: bytes go in, and
//! [`Event`]s and bytes to send come out. [`Flv`] reads the same media from an FLV file.
//!
//! What is not spoken: playing (it is refused), AMF3, shared objects, encryption, and the
//! handshake with a digest, without which all encoders of today begin.

mod amf;
mod chunk;
mod codec;
mod error;
mod flv;
mod handshake;
mod metadata;
mod name;
mod notice;
mod session;
mod tags;
mod write;

pub use error::Error;
pub use flv::Flv;
pub use metadata::Metadata;
pub use notice::Notice;
pub use session::{Config, Event, Publish, Session};
