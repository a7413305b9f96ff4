//! One hash over many records: the binary Merkle tree of RFC 9162 section 2.1, with BLAKE3.

/// The hash of one encoded record.
pub type Leaf = [u8; 32];

/// The leaf hash of an encoded record: BLAKE3 of 0x00 and the bytes.
#[must_use]
pub fn leaf(record: &[u8]) -> Leaf {
    let mut hasher = blake3::Hasher::new();
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
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[1]).update(left).update(right);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn order_and_presence_of_each_leaf_matter() {
        let leaves: Vec<Leaf> = (0..5u8).map(|i| leaf(&[i])).collect();
        let mut swapped = leaves.clone();
        swapped.swap(1, 2);
        assert_ne!(merkle_root(&leaves), merkle_root(&swapped));
        assert_ne!(merkle_root(&leaves), merkle_root(&leaves[..4]));
    }
}
