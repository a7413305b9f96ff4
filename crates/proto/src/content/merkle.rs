//! One hash over many records: the binary Merkle tree of RFC 9162 section 2.1, with BLAKE3.

use std::ops::Range;

/// The hash of one encoded record.
pub type Leaf = [u8; 32];

/// The leaf hash of an encoded record: BLAKE3 of 0x00 and the bytes.
#[must_use]
pub fn leaf(record: &[u8]) -> Leaf {
    let mut hasher = blake3::Hasher::new();
    // The first byte tells leaves from inner nodes: no inner node can be shown as a record (RFC
    // 9162 section 2.1.1).
    hasher.update(&[0]).update(record);
    *hasher.finalize().as_bytes()
}

/// The root over the leaves in order; the root of no leaf is BLAKE3 of nothing.
///
/// An inner node is BLAKE3 of 0x01 and its two children. A node without a sibling moves up as it
/// is, which gives the same tree as the standard's split at the largest power of two.
#[must_use]
pub fn merkle_root(leaves: &[Leaf]) -> Leaf {
    if leaves.is_empty() {
        return *blake3::hash(b"").as_bytes();
    }
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = level.chunks(2).map(parent).collect();
    }
    level[0]
}

fn parent(children: &[Leaf]) -> Leaf {
    let [left, right] = children else {
        return children[0];
    };
    join(left, right)
}

fn join(left: &Leaf, right: &Leaf) -> Leaf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[1]).update(left).update(right);
    *hasher.finalize().as_bytes()
}

/// All nodes of a tree, for proving many ranges of the same leaves.
#[derive(Clone, Debug)]
pub struct MerkleTree(Vec<Vec<Leaf>>);

impl MerkleTree {
    /// The tree over the leaves.
    #[must_use]
    pub fn new(leaves: Vec<Leaf>) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            levels.push(level.chunks(2).map(parent).collect());
        }
        Self(levels)
    }

    /// The leaves.
    #[must_use]
    pub fn leaves(&self) -> &[Leaf] {
        &self.0[0]
    }

    /// What proves the leaves of `range` to who knows the root: the nodes beside the paths to them,
    /// from the left to the right, at most two for each level. Empty when the range is or goes
    /// beyond the leaves.
    #[must_use]
    pub fn prove(&self, range: Range<usize>) -> Vec<Leaf> {
        let mut proof = Vec::new();
        let total = self.leaves().len();
        if range.start < range.end && range.end <= total {
            self.add(0..total, &range, &mut proof);
        }
        proof
    }

    fn add(&self, part: Range<usize>, range: &Range<usize>, proof: &mut Vec<Leaf>) {
        if range.start <= part.start && part.end <= range.end {
            return;
        }
        if part.end <= range.start || range.end <= part.start {
            // Halves are cut at powers of two, so a part stands aligned to its size on that level.
            // A node without a sibling moved up to it as it is.
            let level = (part.end - part.start).next_power_of_two().ilog2() as usize;
            proof.push(self.0[level][part.start >> level]);
            return;
        }
        let middle = part.start + left_half(part.end - part.start);
        self.add(part.start..middle, range, proof);
        self.add(middle..part.end, range, proof);
    }
}

/// [`MerkleTree::prove`] for one range.
#[must_use]
pub fn prove_range(leaves: &[Leaf], range: Range<usize>) -> Vec<Leaf> {
    MerkleTree::new(leaves.to_vec()).prove(range)
}

/// Whether `leaves` stand at `from` in the tree over `total` leaves that `root` names, by a proof
/// of [`prove_range`].
#[must_use]
pub fn verify_range(root: &Leaf, total: u64, from: u64, leaves: &[Leaf], proof: &[Leaf]) -> bool {
    let end = from.checked_add(leaves.len() as u64);
    // An empty run would prove nothing, and what lies beyond the leaves has no place.
    let Some(end) = end.filter(|end| !leaves.is_empty() && *end <= total) else {
        return false;
    };
    let mut rest = Rest { leaves, proof };
    // Nothing may be left over, or one run would have many proofs.
    rest.node(0..total, &(from..end)) == Some(*root) && rest.is_used_up()
}

/// Leaves and proof that were not used yet.
struct Rest<'a> {
    leaves: &'a [Leaf],
    proof: &'a [Leaf],
}

impl Rest<'_> {
    /// The node over a part of the tree. As deep as the tree is high, 64 levels at most.
    fn node(&mut self, part: Range<u64>, range: &Range<u64>) -> Option<Leaf> {
        let count = part.end - part.start;
        if range.start <= part.start && part.end <= range.end {
            let (leaves, rest) = self.leaves.split_at_checked(usize::try_from(count).ok()?)?;
            self.leaves = rest;
            return Some(merkle_root(leaves));
        }
        if part.end <= range.start || range.end <= part.start {
            let (node, rest) = self.proof.split_first()?;
            self.proof = rest;
            return Some(*node);
        }
        // The run begins or ends inside of this part, so it has two leaves at least, as `left_half`
        // needs.
        let middle = part.start + left_half(usize::try_from(count).ok()?) as u64;
        let left = self.node(part.start..middle, range)?;
        let right = self.node(middle..part.end, range)?;
        Some(join(&left, &right))
    }

    const fn is_used_up(&self) -> bool {
        self.leaves.is_empty() && self.proof.is_empty()
    }
}

/// The largest power of two that leaves something to the right.
const fn left_half(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The recursive definition of the standard, written independently of the code above.
    fn by_definition(leaves: &[Leaf]) -> Leaf {
        match leaves.len() {
            1 => leaves[0],
            n => {
                let split = n.next_power_of_two() / 2;
                let (left, right) = leaves.split_at(split);
                let pair = [&[1][..], &by_definition(left), &by_definition(right)].concat();
                *blake3::hash(&pair).as_bytes()
            }
        }
    }

    #[test]
    fn root_follows_the_standard_for_every_small_count() {
        for count in 1..40u8 {
            let leaves: Vec<Leaf> = (0..count).map(|i| leaf(&[i])).collect();
            assert_eq!(
                merkle_root(&leaves),
                by_definition(&leaves),
                "{count} leaves"
            );
        }
    }

    proptest! {
        #[test]
        fn every_range_is_proved_and_nothing_else(
            total in 1usize..200,
            edges: (proptest::sample::Index, proptest::sample::Index),
            other: proptest::sample::Index,
        ) {
            let leaves: Vec<Leaf> = (0..total).map(|i| leaf(&i.to_le_bytes())).collect();
            let root = merkle_root(&leaves);
            let from = edges.0.index(total);
            let end = from + 1 + edges.1.index(total - from);
            let proof = prove_range(&leaves, from..end);
            prop_assert!(proof.len() <= 2 * (total.next_power_of_two().ilog2() as usize));
            let verify = |total: usize, from: usize, leaves: &[Leaf], proof: &[Leaf]| {
                verify_range(&root, total as u64, from as u64, leaves, proof)
            };
            let given = &leaves[from..end];
            prop_assert!(verify(total, from, given, &proof));
            let mut wrong = given.to_vec();
            wrong[other.index(given.len())][3] ^= 1;
            prop_assert!(!verify(total, from, &wrong, &proof));
            prop_assert!(!verify(total, from + 1, given, &proof));
            prop_assert!(!verify(total, from, &given[1..], &proof));
            prop_assert!(!verify(total, from, given, &[&proof[..], &[root]].concat()));
            if !proof.is_empty() {
                prop_assert!(!verify(total, from, given, &proof[1..]));
                let mut wrong = proof.clone();
                wrong[other.index(proof.len())][0] ^= 1;
                prop_assert!(!verify(total, from, given, &wrong));
            }
            prop_assert!(!verify(total, from, &[], &[]));
        }

        #[test]
        fn hostile_proofs_are_refused(
            total: u64, from: u64,
            leaves in proptest::collection::vec(any::<Leaf>(), 0..5),
            proof in proptest::collection::vec(any::<Leaf>(), 0..70),
        ) {
            prop_assert!(!verify_range(&[7; 32], total, from, &leaves, &proof));
        }
    }

    #[test]
    fn no_range_beyond_the_leaves_is_proved() {
        let leaves = [leaf(&[1]), leaf(&[2])];
        assert!(prove_range(&leaves, 1..3).is_empty());
        assert!(prove_range(&[], 0..1).is_empty());
    }

    #[test]
    fn order_and_presence_of_each_leaf_matter() {
        let leaves: Vec<Leaf> = (0..5u8).map(|i| leaf(&[i])).collect();
        let mut swapped = leaves.clone();
        swapped.swap(1, 2);
        assert_ne!(merkle_root(&leaves), merkle_root(&swapped));
        assert_ne!(merkle_root(&leaves), merkle_root(&leaves[..4]));
    }
}
