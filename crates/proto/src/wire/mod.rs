//! How records are written: one canonical byte string for each value (docs/protocol.md).
//!
//! Integers are unsigned LEB128 in their shortest form, strings and lists carry their length in
//! front, keys and hashes are bare bytes. A value has exactly one encoding, and a decoder refuses
//! any other, so that a hash over the bytes is a hash over the value.

mod reader;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the bytes end in the middle of {0}")]
    Truncated(&'static str),
    /// Bytes are left over after the value.
    #[error("bytes follow after the end")]
    Trailing,
    /// The first byte names a format that this program does not know.
    #[error("format {0} is not known here; a newer program wrote this")]
    Format(u64),
    /// A length, count or number beyond what the limits allow.
    #[error("{0} is beyond its limit")]
    Limit(&'static str),
    /// A value outside the set of meaningful ones, or not in its only legal form.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}
