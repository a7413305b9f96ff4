//! Live packaging: frames in, parts and segments of CMAF out as they come.
//!
//! A [`Packager`] gets [`Item`](crate::frame::Item)s and gives [`Event`]s: an init segment, then
//! parts of a fraction of a second, of which each segment is the concatenation. Every frame is
//! copied once, into its part; nothing is decoded.
//!
//! # Lengths
//!
//! A segment is cut at the first key frame of the reference track (video, else audio) from
//! [`Config::segment`] on. The target duration of a playlist may never change, so it is fixed when
//! [`Event::Ready`] comes: by the distance of the first key frames, or earlier where the encoder
//! has written its key frame distance into the stream. A later distance that does not fit is cut at
//! a part, and that segment is not independent.
//!
//! Parts are slices of time: each but the last of a segment lasts 85 to 100 % of the part target
//! (RFC 8216bis section 4.4.4.9), also where frames come irregularly.
//!
//! # Time
//!
//! What goes out never goes back. Each track counts on by the lengths of its frames where its time
//! stamps agree with them, so that rounding to milliseconds makes neither gaps nor overlaps. A jump
//! of more than ten seconds begins another line of time, behind a discontinuity; a single frame
//! from elsewhere is dropped.

mod gate;
mod line;
mod packager;
mod plan;
mod stream;

pub use packager::{Event, Packager, Part};
pub use plan::Config;
