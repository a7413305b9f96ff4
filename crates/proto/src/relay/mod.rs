//! Why a segment is kept or dropped.

pub mod evict;
