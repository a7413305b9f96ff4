//! Media in, segments and playlists out.
//!
//! A stream of bytes (MPEG-TS or fragmented MP4) is pushed into a [`Segmenter`]; independently
//! decodable segments come out. [`hls`] writes and reads the playlists that name them, and
//! [`ts::inspect`] and [`cmaf::inspect`] say what one segment holds. A publisher that sends frames
//! is heard by [`rtmp`].
//!
//! # Rules
//!
//! - Time is counted in ticks of 90 kHz ([`TICKS_PER_SECOND`]), as `u64`.
//! - A segment begins with a key frame of the reference stream: the first video stream, or the
//!   first audio stream where there is no video.
//! - A segment's duration reaches from its first decode time to that of the next segment, so the
//!   durations of a stream add up to the stream.
//! - The bytes of elementary streams are never changed: only tables (PAT, PMT) and container
//!   boxes that would be wrong after the cut are rewritten or left out.
//! - Nothing here panics or grows without a limit, whatever the input. A limit that is reached is
//!   an [`Error`] that says what to do.
//! - The same input gives the same output, however it is divided over calls of `push`.
//!
//! # What this crate does not know
//!
//! Peers, files, sockets, clocks, keys and publishers. It names no segment: sequence numbers and
//! URIs belong to the caller. It never decodes a picture or a sample.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cmaf;
pub mod codec;
pub mod frame;
pub mod hls;
pub mod live;
mod pool;
pub mod rtmp;
mod segment;
mod sniff;
mod timeline;
pub mod ts;

pub use codec::{Inspection, Kind, StreamInfo, codecs};
pub use pool::Pool;
pub use segment::{Config, Error, Event, Segment, Segmenter, TICKS_PER_SECOND};
pub use sniff::{Format, HEAD, refusal, sniff};
