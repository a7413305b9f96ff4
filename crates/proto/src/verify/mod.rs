//! Checking payloads against their BLAKE3 root: whole, or chunk group by chunk group.
//!
//! A payload is cut into chunk groups of 16 KiB. The hashes between them and the root (the
//! *outboard*, 64 bytes for each inner node, in pre-order) take 0.39 % of the payload and let any
//! range be verified alone.

mod frames;
mod ranges;

pub use bao_tree::io::sync::ReadAt;
pub use frames::{
    FRAME_BYTES_MAX, FrameParts, FrameReader, FrameWriter, PAIR_BYTES, SliceError, VerifiedFrame,
    valid_groups,
};
pub use ranges::{GroupRange, HaveRanges, RangesError};

use std::io;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::CreateOutboard as _;
use bao_tree::{BaoTree, BlockSize};

use crate::ids::Root;

/// Bytes in a chunk group: the smallest range that can be verified alone.
pub const CHUNK_GROUP_BYTES: u64 = 16 * 1024;

/// 2^4 chunks of 1 KiB: [`CHUNK_GROUP_BYTES`].
const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);

/// Number of chunk groups in a payload of `length` bytes; an empty payload has none.
#[must_use]
pub const fn group_count(length: u64) -> u64 {
    length.div_ceil(CHUNK_GROUP_BYTES)
}

/// Bytes of outboard for a payload of `length` bytes: 64 for each chunk group but one.
#[must_use]
pub fn outboard_length(length: u64) -> u64 {
    tree(length).outboard_size()
}

fn tree(length: u64) -> BaoTree {
    BaoTree::new(length, BLOCK_SIZE)
}

/// A payload's root and outboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// BLAKE3 hash of the payload.
    pub root: Root,
    /// Its outboard.
    pub outboard: Vec<u8>,
}

/// Hashes a payload that is in memory.
#[must_use]
pub fn seal(payload: &[u8]) -> Seal {
    let made = PreOrderMemOutboard::create(payload, BLOCK_SIZE);
    Seal {
        root: Root(*made.root.as_bytes()),
        outboard: made.data,
    }
}

/// Hashes a payload of `length` bytes as it is read, with memory for its outboard alone.
///
/// Fails when reading fails or when it ends early.
pub fn seal_reader(payload: impl io::Read, length: u64) -> io::Result<Seal> {
    let outboard = bao_tree::io::outboard::PreOrderOutboard::<Vec<u8>>::create_sized(
        payload, length, BLOCK_SIZE,
    )?;
    Ok(Seal {
        root: Root(*outboard.root.as_bytes()),
        outboard: outboard.data,
    })
}

/// Whether `payload` is what `root` names.
#[must_use]
pub fn matches_root(payload: &[u8], root: &Root) -> bool {
    blake3::hash(payload) == blake3::Hash::from_bytes(root.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn payload(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn the_root_is_the_plain_hash_and_the_outboard_has_its_length() {
        for length in [0, 1, 1024, 16_384, 16_385, 100_000, 1 << 20] {
            let payload = payload(length);
            let sealed = seal(&payload);
            assert!(matches_root(&payload, &sealed.root), "{length}");
            assert_eq!(
                sealed.outboard.len() as u64,
                outboard_length(length as u64),
                "{length}"
            );
            assert_eq!(
                seal_reader(&payload[..], length as u64).unwrap(),
                sealed,
                "{length}"
            );
        }
    }

    #[test]
    fn a_payload_that_ends_early_is_an_error() {
        assert!(seal_reader(&payload(10_000)[..], 20_000).is_err());
        assert!(seal_reader(&payload(40_000)[..], 50_000).is_err());
    }
}
