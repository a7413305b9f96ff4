//! Why a segment is kept or dropped.

pub mod bucket;
pub mod evict;
pub mod reconcile;
pub mod runs;
