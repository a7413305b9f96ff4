//! Fragmented MP4 (ISO/IEC 14496-12, CMAF): a segmenter and an inspector.
//!
//! The init segment is `ftyp` and `moov`; a segment is one or more fragments (`moof` and `mdat`)
//! whose first sample of the reference track is a key frame. Boxes that would be wrong in another
//! file (`sidx`, `mfra`, `styp` of single fragments) are left out.

mod boxes;
mod config;
mod demux;
mod entry;
mod fragment;
pub(crate) mod init;
mod inspect;
pub(crate) mod mux;
pub(crate) mod sample;
mod segmenter;
pub(crate) mod write;

pub(crate) use config::Configuration;
pub use demux::Demuxer;
pub use inspect::{inspect, inspect_init};
pub use segmenter::Segmenter;
