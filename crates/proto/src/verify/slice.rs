//! Slices: some chunk groups of a payload with the hashes that prove them.
//!
//! A slice is what `bao-tree` calls a response: the inner nodes and leaves that the wanted groups
//! need, in pre-order, without a length in front.

use std::io;

use bao_tree::io::BaoContentItem;
use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{DecodeResponseIter, ReadAt, encode_ranges_validated};
use bao_tree::{ChunkNum, ChunkRanges};

use super::ranges::HaveRanges;
use super::{BLOCK_SIZE, tree};
use crate::ids::Root;

const CHUNKS_PER_GROUP: u64 = 16;

/// Why a slice was refused.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// A hash does not match: the sender lied or the bytes were damaged.
    #[error("the bytes do not match the segment's BLAKE3 root")]
    Mismatch,
    /// The bytes end before all wanted groups came.
    #[error("the slice ends early")]
    Truncated,
    /// The payload or its outboard could not be read.
    #[error("the payload could not be read: {0}")]
    Read(#[from] io::Error),
}

/// One thing that a verified slice gives, to be written at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifiedItem {
    /// 64 bytes of the outboard at `offset`.
    Outboard {
        /// Where in the outboard.
        offset: u64,
        /// The two child hashes.
        pair: [u8; 64],
    },
    /// Bytes of the payload at `offset`: one chunk group or the last, shorter one.
    Payload {
        /// Where in the payload.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// A slice whose every hash was checked. Only [`decode_slice`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSlice {
    items: Vec<VerifiedItem>,
    groups: HaveRanges,
}

impl VerifiedSlice {
    /// What to write, in order.
    #[must_use]
    pub fn items(&self) -> &[VerifiedItem] {
        &self.items
    }

    /// The chunk groups that it holds.
    #[must_use]
    pub const fn groups(&self) -> &HaveRanges {
        &self.groups
    }
}

/// Cuts the wanted chunk groups out of a payload, checking each against the root on the way.
///
/// The outboard needs to hold only the nodes above the wanted groups, so a partial payload can be
/// passed on. Fails when something of it is damaged or absent.
pub fn encode_slice(
    payload: impl ReadAt,
    outboard: impl ReadAt,
    root: &Root,
    length: u64,
    groups: &HaveRanges,
) -> Result<Vec<u8>, SliceError> {
    let outboard = PreOrderOutboard {
        root: blake3::Hash::from_bytes(root.0),
        tree: tree(length),
        data: outboard,
    };
    let mut slice = Vec::new();
    encode_ranges_validated(payload, &outboard, &chunk_ranges(groups), &mut slice).map_err(
        |error| match error {
            bao_tree::io::EncodeError::Io(error) => SliceError::Read(error),
            _ => SliceError::Mismatch,
        },
    )?;
    Ok(slice)
}

/// Checks a slice against the root; nothing of it is given out when any hash is wrong.
pub fn decode_slice(
    slice: &[u8],
    root: &Root,
    length: u64,
    groups: &HaveRanges,
) -> Result<VerifiedSlice, SliceError> {
    let tree = tree(length);
    let ranges = chunk_ranges(groups);
    let root = blake3::Hash::from_bytes(root.0);
    let mut rest = slice;
    let mut items = Vec::new();
    for item in DecodeResponseIter::new(root, tree, &mut rest, &ranges) {
        match item.map_err(refused)? {
            BaoContentItem::Parent(parent) => {
                let Some(index) = tree.pre_order_offset(parent.node) else {
                    continue;
                };
                let mut pair = [0; 64];
                pair[..32].copy_from_slice(parent.pair.0.as_bytes());
                pair[32..].copy_from_slice(parent.pair.1.as_bytes());
                items.push(VerifiedItem::Outboard {
                    offset: index * 64,
                    pair,
                });
            }
            BaoContentItem::Leaf(leaf) => {
                items.push(VerifiedItem::Payload {
                    offset: leaf.offset,
                    bytes: leaf.data.to_vec(),
                });
            }
        }
    }
    if rest.is_empty() {
        Ok(VerifiedSlice {
            items,
            groups: groups.clone(),
        })
    } else {
        Err(SliceError::Mismatch)
    }
}

fn refused(error: bao_tree::io::DecodeError) -> SliceError {
    use bao_tree::io::DecodeError as E;
    match error {
        E::ParentHashMismatch(_) | E::LeafHashMismatch(_) => SliceError::Mismatch,
        _ => SliceError::Truncated,
    }
}

fn chunk_ranges(groups: &HaveRanges) -> ChunkRanges {
    debug_assert_eq!(BLOCK_SIZE.chunk_log(), 4);
    let mut ranges = ChunkRanges::empty();
    for run in groups.runs() {
        let start = ChunkNum(run.start.saturating_mul(CHUNKS_PER_GROUP));
        let end = ChunkNum(run.end.saturating_mul(CHUNKS_PER_GROUP));
        ranges |= ChunkRanges::from(start..end);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::payload;
    use super::super::{group_count, outboard_length, seal};
    use super::*;

    fn groups(start: u64, end: u64) -> HaveRanges {
        let mut groups = HaveRanges::new();
        groups.insert(start, end).unwrap();
        groups
    }

    fn apply(slice: &VerifiedSlice, payload: &mut [u8], outboard: &mut [u8]) {
        for item in slice.items() {
            let (target, offset, bytes): (&mut [u8], _, &[u8]) = match item {
                VerifiedItem::Outboard { offset, pair } => (&mut *outboard, *offset, pair),
                VerifiedItem::Payload { offset, bytes } => (&mut *payload, *offset, bytes),
            };
            target[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    #[test]
    fn a_payload_can_be_put_together_from_slices_in_any_order() {
        let whole = payload(200_000);
        let sealed = seal(&whole);
        let length = whole.len() as u64;
        let count = group_count(length);
        let (mut got, mut outboard) = (
            vec![0; whole.len()],
            vec![0; outboard_length(length) as usize],
        );
        for group in [5, 0, 12, 3].into_iter().chain(0..count) {
            let wanted = groups(group, group + 1);
            let slice = encode_slice(
                &whole[..],
                &sealed.outboard[..],
                &sealed.root,
                length,
                &wanted,
            );
            let slice = decode_slice(&slice.unwrap(), &sealed.root, length, &wanted).unwrap();
            apply(&slice, &mut got, &mut outboard);
        }
        assert_eq!(got, whole);
        assert_eq!(outboard, sealed.outboard);
    }

    #[test]
    fn a_partial_payload_can_be_passed_on_but_not_what_it_lacks() {
        let whole = payload(200_000);
        let sealed = seal(&whole);
        let (mut got, mut outboard) = (vec![0; 200_000], vec![0; sealed.outboard.len()]);
        let held = groups(2, 5);
        let slice = encode_slice(
            &whole[..],
            &sealed.outboard[..],
            &sealed.root,
            200_000,
            &held,
        );
        let slice = decode_slice(&slice.unwrap(), &sealed.root, 200_000, &held).unwrap();
        apply(&slice, &mut got, &mut outboard);
        let pass = |wanted| encode_slice(&got[..], &outboard[..], &sealed.root, 200_000, &wanted);
        let onward = pass(groups(3, 4)).unwrap();
        assert!(decode_slice(&onward, &sealed.root, 200_000, &groups(3, 4)).is_ok());
        assert!(matches!(pass(groups(7, 8)), Err(SliceError::Mismatch)));
    }

    proptest! {
        #[test]
        fn damage_is_always_noticed(at: proptest::sample::Index, bit in 0u8..8) {
            let whole = payload(100_000);
            let sealed = seal(&whole);
            let wanted = groups(1, 4);
            let mut slice =
                encode_slice(&whole[..], &sealed.outboard[..], &sealed.root, 100_000, &wanted)
                    .unwrap();
            let at = at.index(slice.len());
            slice[at] ^= 1 << bit;
            prop_assert!(decode_slice(&slice, &sealed.root, 100_000, &wanted).is_err());
            prop_assert!(decode_slice(&slice[..at], &sealed.root, 100_000, &wanted).is_err());
        }
    }
}
