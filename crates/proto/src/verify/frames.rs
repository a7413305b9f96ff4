//! Frames: some chunk groups of a payload, one after another, each with the hashes that prove it.
//!
//! A run of chunk groups is sent as one frame for each: the inner nodes that come before the chunk
//! group in pre-order, 64 bytes each, then the bytes of the chunk group. So whatever came before a
//! link broke is verified and kept. The frames of a run, joined, are what `bao-tree` calls a
//! response.

use std::io;
use std::ops::Range;

use bao_tree::io::sync::ReadAt;
use blake3::hazmat::{self, HasherExt as _};

use super::{CHUNK_GROUP_BYTES, GroupRange, HaveRanges, group_count};
use crate::ids::Root;

/// Bytes of one inner node: the hashes of its two children.
pub const PAIR_BYTES: usize = 64;

/// Most bytes of a frame: a chunk group and one inner node for each level of a tree over the
/// 65,536 chunk groups of the longest segment.
pub const FRAME_BYTES_MAX: usize = CHUNK_GROUP_BYTES as usize + 16 * PAIR_BYTES;

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// A hash does not match: the sender lied or the bytes were damaged.
    #[error("the bytes do not match the segment's BLAKE3 root")]
    Mismatch,
    /// The frame is shorter or longer than what it must hold.
    #[error("the frame has another length than its chunk group and the proof of it")]
    Length,
    /// Every chunk group of the run has come, or an earlier frame was refused.
    #[error("no frame is expected")]
    Unexpected,
}

/// A part of the tree over the chunk groups.
#[derive(Clone, Copy, Debug)]
struct Subtree {
    /// Its first chunk group.
    first: u64,
    /// How many chunk groups it has.
    count: u64,
    /// Place of its top node in the outboard, counted in nodes.
    node: u64,
}

impl Subtree {
    const fn whole(length: u64) -> Self {
        Self {
            first: 0,
            count: group_count(length),
            node: 0,
        }
    }

    const fn is_leaf(&self) -> bool {
        self.count == 1
    }

    /// The left half has the largest power of two that leaves something to the right.
    const fn halves(&self) -> (Self, Self) {
        let left = self.count.next_power_of_two() / 2;
        (
            Self {
                first: self.first,
                count: left,
                node: self.node + 1,
            },
            Self {
                first: self.first + left,
                count: self.count - left,
                // In pre-order the left half follows its top node. It has one inner node less than
                // leaves, so the right half begins that much later.
                node: self.node + left,
            },
        )
    }

    const fn meets(&self, groups: GroupRange) -> bool {
        self.first < groups.end && groups.start < self.first + self.count
    }
}

/// The run as far as the payload goes.
fn clipped(length: u64, groups: GroupRange) -> GroupRange {
    GroupRange::new(groups.start, groups.end.min(group_count(length)))
}

/// Length of a chunk group.
const fn group_length(length: u64, group: u64) -> usize {
    // Chunk groups come from a subtree over the same length, so none lies beyond it.
    let rest = length - group * CHUNK_GROUP_BYTES;
    if rest < CHUNK_GROUP_BYTES {
        rest as usize
    } else {
        CHUNK_GROUP_BYTES as usize
    }
}

/// Gives the frames of a run one after another. It hashes nothing: the receiver does.
#[derive(Clone, Debug)]
pub struct FrameWriter {
    length: u64,
    groups: GroupRange,
    pending: Vec<Subtree>,
}

/// What a frame is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameParts {
    /// Bytes of its proof.
    pub proof: usize,
    /// Where the chunk group that follows stands in the payload, in bytes.
    pub leaf: Range<u64>,
}

impl FrameWriter {
    /// For the chunk groups `groups` of a payload of `length` bytes.
    #[must_use]
    pub fn new(length: u64, groups: GroupRange) -> Self {
        let groups = clipped(length, groups);
        let whole = Subtree::whole(length);
        let any = whole.count > 0 && groups.start < groups.end;
        Self {
            length,
            groups,
            pending: if any { vec![whole] } else { Vec::new() },
        }
    }

    /// For what is left of a run when the frames before the chunk group `from` were given by
    /// another writer.
    #[must_use]
    pub fn resumed(length: u64, groups: GroupRange, from: u64) -> Self {
        let mut writer = Self::new(length, groups);
        // Before the first frame nothing is proven, not even the top: it is left whole.
        while from > writer.groups.start
            && let Some(top) = writer.pending.pop()
        {
            if top.first >= from {
                writer.pending.push(top);
                break;
            }
            if top.first + top.count > from {
                // A frame below it was given, and with it the proof of both halves.
                let (left, right) = top.halves();
                let halves = [right, left];
                let wanted = halves.iter().filter(|half| half.meets(writer.groups));
                writer.pending.extend(wanted);
            }
        }
        writer
    }

    /// Whether all frames were given.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Writes the proof of the next frame to the start of `out`; its chunk group belongs after
    /// it. `None` after the last. When the outboard or `out` is too short, the frame can be asked
    /// for again; [`FRAME_BYTES_MAX`] is long enough.
    pub fn next(&mut self, outboard: &[u8], out: &mut [u8]) -> io::Result<Option<FrameParts>> {
        let Some(top) = self.pending.pop() else {
            return Ok(None);
        };
        // The stack holds right halves that wait, each of which meets the run.
        let before = self.pending.len();
        let mut proof = 0;
        let mut subtree = top;
        while !subtree.is_leaf() {
            let copied = pair(outboard, subtree.node).and_then(|pair| {
                out.get_mut(proof..proof + PAIR_BYTES)?
                    .copy_from_slice(pair);
                Some(())
            });
            // What this frame pushed is taken back, so that it begins at its top when it is asked
            // for again.
            if copied.is_none() {
                self.pending.truncate(before);
                self.pending.push(top);
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            proof += PAIR_BYTES;
            let (left, right) = subtree.halves();
            subtree = match (left.meets(self.groups), right.meets(self.groups)) {
                (true, true) => {
                    self.pending.push(right);
                    left
                }
                (true, false) => left,
                // The part meets the run, so one of its halves does.
                _ => right,
            };
        }
        let start = subtree.first * CHUNK_GROUP_BYTES;
        let end = start + group_length(self.length, subtree.first) as u64;
        let leaf = start..end;
        Ok(Some(FrameParts { proof, leaf }))
    }
}

/// The inner node at this place in an outboard.
fn pair(outboard: &[u8], node: u64) -> Option<&[u8]> {
    let at = usize::try_from(node).ok()?.checked_mul(PAIR_BYTES)?;
    outboard.get(at..)?.get(..PAIR_BYTES)
}

/// One chunk group and its proof, every hash of which was checked. Only a [`FrameReader`] makes
/// one; it borrows the bytes that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedFrame<'a> {
    root: Root,
    length: u64,
    group: u64,
    offsets: Vec<u64>,
    pairs: &'a [u8],
    leaf: &'a [u8],
}

impl<'a> VerifiedFrame<'a> {
    /// The payload that it belongs to.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// Length of that payload.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Its chunk group.
    #[must_use]
    pub const fn group(&self) -> u64 {
        self.group
    }

    /// Where the chunk group stands in the payload.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.group * CHUNK_GROUP_BYTES
    }

    /// The bytes of the chunk group.
    #[must_use]
    pub const fn leaf(&self) -> &'a [u8] {
        self.leaf
    }

    /// The inner nodes that came with it: where in the outboard, and their bytes.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, &'a [u8])> + '_ {
        let places = self.offsets.iter().copied();
        places.zip(self.pairs.chunks_exact(PAIR_BYTES))
    }
}

/// Checks the frames of a run as they come.
#[derive(Clone, Debug)]
pub struct FrameReader {
    root: Root,
    length: u64,
    groups: GroupRange,
    pending: Vec<(Subtree, [u8; 32])>,
    failed: bool,
}

impl FrameReader {
    /// For the chunk groups `groups` of the payload that `root` names, of `length` bytes.
    #[must_use]
    pub fn new(root: Root, length: u64, groups: GroupRange) -> Self {
        let groups = clipped(length, groups);
        let whole = Subtree::whole(length);
        let any = whole.count > 0 && groups.start < groups.end;
        Self {
            root,
            length,
            groups,
            pending: if any {
                vec![(whole, root.0)]
            } else {
                Vec::new()
            },
            failed: false,
        }
    }

    /// Whether every frame came.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        // A refused frame has emptied the stack, too.
        self.pending.is_empty() && !self.failed
    }

    /// Checks the next frame. After one that was refused, every other is.
    pub fn push<'a>(&mut self, frame: &'a [u8]) -> Result<VerifiedFrame<'a>, SliceError> {
        let outcome = self.check(frame);
        if outcome.is_err() {
            // What follows would be proven by hashes of this frame, and those are wrong.
            self.pending.clear();
            self.failed = true;
        }
        outcome
    }

    fn check<'a>(&mut self, frame: &'a [u8]) -> Result<VerifiedFrame<'a>, SliceError> {
        // From the top down: each pair is compared with a hash that is proven, before anything
        // below it is looked at.
        let (mut subtree, mut expected) = self.pending.pop().ok_or(SliceError::Unexpected)?;
        let mut rest = frame;
        let mut offsets = Vec::new();
        while !subtree.is_leaf() {
            let (pair, tail) = rest
                .split_first_chunk::<PAIR_BYTES>()
                .ok_or(SliceError::Length)?;
            let (left_hash, right_hash) = split(pair);
            if join(&left_hash, &right_hash, subtree.node == 0) != expected {
                return Err(SliceError::Mismatch);
            }
            // The writer puts the pairs at these places of the outboard.
            offsets.push(subtree.node * PAIR_BYTES as u64);
            rest = tail;
            // Halves beside the run are left out: no frame will come of them.
            let (left, right) = subtree.halves();
            (subtree, expected) = match (left.meets(self.groups), right.meets(self.groups)) {
                (true, true) => {
                    self.pending.push((right, right_hash));
                    (left, left_hash)
                }
                (true, false) => (left, left_hash),
                _ => (right, right_hash),
            };
        }
        // The length first: what is too long is refused without being hashed.
        if rest.len() != group_length(self.length, subtree.first) {
            return Err(SliceError::Length);
        }
        if leaf_hash(subtree.first, rest, group_count(self.length) == 1) != expected {
            return Err(SliceError::Mismatch);
        }
        Ok(VerifiedFrame {
            root: self.root,
            length: self.length,
            group: subtree.first,
            pairs: &frame[..frame.len() - rest.len()],
            leaf: rest,
            offsets,
        })
    }
}

/// Which chunk groups of a payload are good: those that are proved by nodes of the outboard that
/// are good. What cannot be read is not.
#[must_use]
pub fn valid_groups(
    payload: &impl ReadAt,
    outboard: &impl ReadAt,
    root: &Root,
    length: u64,
) -> HaveRanges {
    let mut valid = HaveRanges::new();
    let whole = Subtree::whole(length);
    let mut pending = Vec::new();
    if whole.count > 0 {
        pending.push((whole, root.0));
    }
    // One buffer: memory does not grow with the payload.
    let mut buffer = vec![0; CHUNK_GROUP_BYTES as usize];
    while let Some((subtree, expected)) = pending.pop() {
        if subtree.is_leaf() {
            let leaf = &mut buffer[..group_length(length, subtree.first)];
            let read = payload.read_exact_at(subtree.first * CHUNK_GROUP_BYTES, leaf);
            let good = read.is_ok() && leaf_hash(subtree.first, leaf, whole.count == 1) == expected;
            // Half of the groups of the longest segment fit; beyond, what does not is not counted.
            if good && valid.insert(subtree.first, subtree.first + 1).is_err() {
                break;
            }
            continue;
        }
        let mut pair = [0; PAIR_BYTES];
        if outboard
            .read_exact_at(subtree.node * PAIR_BYTES as u64, &mut pair)
            .is_err()
        {
            // A hole: nothing below it can be proven.
            continue;
        }
        let (left_hash, right_hash) = split(&pair);
        if join(&left_hash, &right_hash, subtree.node == 0) == expected {
            let (left, right) = subtree.halves();
            // The left half on top, so that chunk groups come in order and runs grow at their end.
            pending.extend([(right, right_hash), (left, left_hash)]);
        }
    }
    valid
}

fn split(pair: &[u8; PAIR_BYTES]) -> ([u8; 32], [u8; 32]) {
    let (mut left, mut right) = ([0; 32], [0; 32]);
    left.copy_from_slice(&pair[..32]);
    right.copy_from_slice(&pair[32..]);
    (left, right)
}

fn join(left: &[u8; 32], right: &[u8; 32], is_root: bool) -> [u8; 32] {
    // BLAKE3 hashes the root in another way than all other nodes.
    if is_root {
        *hazmat::merge_subtrees_root(left, right, hazmat::Mode::Hash).as_bytes()
    } else {
        hazmat::merge_subtrees_non_root(left, right, hazmat::Mode::Hash)
    }
}

fn leaf_hash(group: u64, bytes: &[u8], is_root: bool) -> [u8; 32] {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    // Chunks are numbered from the start of the payload, so that no chunk group can be shown at the
    // place of another one.
    hasher.set_input_offset(group * CHUNK_GROUP_BYTES);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

#[cfg(test)]
mod tests {
    use bao_tree::io::outboard::PreOrderOutboard;
    use bao_tree::io::sync::encode_ranges_validated;
    use bao_tree::{ChunkNum, ChunkRanges};
    use proptest::prelude::*;

    use super::super::tests::payload;
    use super::super::{BLOCK_SIZE, Seal, outboard_length, seal};
    use super::*;

    fn run(start: u64, end: u64) -> GroupRange {
        GroupRange::new(start, end)
    }

    /// The next frame, with its chunk group; fails like the writer.
    fn frame(writer: &mut FrameWriter, whole: &[u8], outboard: &[u8]) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let Some(FrameParts { proof, leaf }) = writer.next(outboard, &mut frame)? else {
            return Ok(Vec::new());
        };
        frame.truncate(proof);
        frame.extend_from_slice(&whole[leaf.start as usize..leaf.end as usize]);
        Ok(frame)
    }

    fn frames(whole: &[u8], sealed: &Seal, groups: GroupRange) -> Vec<Vec<u8>> {
        let mut writer = FrameWriter::new(whole.len() as u64, groups);
        let mut frames = Vec::new();
        while !writer.is_done() {
            let frame = frame(&mut writer, whole, &sealed.outboard).unwrap();
            assert!(!frame.is_empty() && frame.len() <= FRAME_BYTES_MAX);
            frames.push(frame);
        }
        let mut room = [0; FRAME_BYTES_MAX];
        assert_eq!(writer.next(&sealed.outboard, &mut room).unwrap(), None);
        frames
    }

    /// The same by `bao-tree`, which this code must agree with.
    fn response(whole: &[u8], sealed: &Seal, groups: GroupRange) -> Vec<u8> {
        let outboard = PreOrderOutboard {
            root: blake3::Hash::from_bytes(sealed.root.0),
            tree: bao_tree::BaoTree::new(whole.len() as u64, BLOCK_SIZE),
            data: &sealed.outboard[..],
        };
        let chunks = ChunkNum(groups.start * 16)..ChunkNum(groups.end * 16);
        let mut bytes = Vec::new();
        encode_ranges_validated(whole, &outboard, &ChunkRanges::from(chunks), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn every_run_of_every_small_tree_is_what_bao_tree_sends_and_verifies() {
        for groups in 1..=9u64 {
            for odd in [0, 1, 5000] {
                let whole = payload((groups * 16_384 - odd) as usize);
                let sealed = seal(&whole);
                for start in 0..groups {
                    for end in start + 1..=groups {
                        let sent = frames(&whole, &sealed, run(start, end));
                        let joined = sent.concat();
                        assert_eq!(joined, response(&whole, &sealed, run(start, end)));
                        let mut reader =
                            FrameReader::new(sealed.root, whole.len() as u64, run(start, end));
                        for frame in &sent {
                            assert!(!reader.is_done());
                            reader.push(frame).unwrap();
                        }
                        assert!(reader.is_done());
                        assert_eq!(reader.push(&sent[0]), Err(SliceError::Unexpected));
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn runs_in_any_order_give_payload_and_outboard(
            length in 1usize..600_000,
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            backwards: bool,
        ) {
            let whole = payload(length);
            let sealed = seal(&whole);
            let count = group_count(length as u64);
            let mut edges: Vec<u64> = cuts.iter().map(|c| c.index(count as usize) as u64).collect();
            edges.extend([0, count]);
            edges.sort_unstable();
            edges.dedup();
            let mut runs: Vec<GroupRange> = edges.windows(2).map(|e| run(e[0], e[1])).collect();
            if backwards {
                runs.reverse();
            }
            let mut got = vec![0; length];
            let mut outboard = vec![0; outboard_length(length as u64) as usize];
            for (done, groups) in runs.iter().enumerate() {
                let mut reader = FrameReader::new(sealed.root, length as u64, *groups);
                for frame in frames(&whole, &sealed, *groups) {
                    let verified = reader.push(&frame).unwrap();
                    got[verified.offset() as usize..][..verified.leaf().len()]
                        .copy_from_slice(verified.leaf());
                    for (at, pair) in verified.pairs() {
                        outboard[at as usize..][..64].copy_from_slice(pair);
                    }
                }
                prop_assert!(reader.is_done());
                let valid = valid_groups(&&got[..], &&outboard[..], &sealed.root, length as u64);
                let mut expected = HaveRanges::new();
                for run in &runs[..=done] {
                    expected.insert(run.start, run.end).unwrap();
                }
                prop_assert_eq!(valid, expected);
            }
            prop_assert_eq!(got, whole);
            prop_assert_eq!(outboard, sealed.outboard);
        }

        #[test]
        fn damage_truncation_surplus_and_reordering_are_refused(
            at: proptest::sample::Index, bit in 0u8..8, start in 0u64..6, more in 1u64..4
        ) {
            let whole = payload(100_000);
            let sealed = seal(&whole);
            let groups = run(start, (start + more).min(7));
            let sent = frames(&whole, &sealed, groups);
            let reader = || FrameReader::new(sealed.root, 100_000, groups);
            let which = at.index(sent.len());
            let mut ready = reader();
            for frame in &sent[..which] {
                ready.push(frame).unwrap();
            }
            let frame = &sent[which];
            let mut damaged = frame.clone();
            damaged[at.index(frame.len())] ^= 1 << bit;
            prop_assert!(ready.clone().push(&damaged).is_err());
            prop_assert!(ready.clone().push(&frame[..at.index(frame.len())]).is_err());
            prop_assert!(ready.clone().push(&[&frame[..], &[0]].concat()).is_err());
            prop_assert!(ready.clone().push(&[&[0], &frame[..]].concat()).is_err());
            if let Some(later) = sent.get(which + 1) {
                prop_assert!(ready.clone().push(later).is_err());
            }
            let mut refused = ready.clone();
            let _ = refused.push(&damaged);
            prop_assert_eq!(refused.push(frame), Err(SliceError::Unexpected));
            prop_assert!(!refused.is_done());
            prop_assert!(ready.push(frame).is_ok());
            let mut foreign = FrameReader::new(Root([7; 32]), 100_000, groups);
            prop_assert!(foreign.push(&sent[0]).is_err());
        }
    }

    #[test]
    fn a_frame_whose_proof_was_not_there_can_be_asked_for_again() {
        let whole = payload(200_000);
        let sealed = seal(&whole);
        let groups = run(1, 12);
        for known in 0..sealed.outboard.len() / PAIR_BYTES {
            let mut writer = FrameWriter::new(200_000, groups);
            let part = &sealed.outboard[..known * PAIR_BYTES];
            let mut out = Vec::new();
            while let Ok(frame) = frame(&mut writer, &whole, part) {
                out.extend(frame);
            }
            assert!(writer.next(&sealed.outboard, &mut [0; 63]).is_err());
            while !writer.is_done() {
                out.extend(frame(&mut writer, &whole, &sealed.outboard).unwrap());
            }
            assert_eq!(out, response(&whole, &sealed, groups), "{known}");
        }
    }

    #[test]
    fn another_writer_goes_on_with_the_frames_that_are_left() {
        for groups in 1..=9u64 {
            let whole = payload((groups * 16_384 - 5000) as usize);
            let sealed = seal(&whole);
            for (start, end) in
                (0..groups).flat_map(|start| (start + 1..=groups).map(move |end| (start, end)))
            {
                let all = frames(&whole, &sealed, run(start, end));
                for given in 0..=all.len() {
                    let from = start + given as u64;
                    let mut writer =
                        FrameWriter::resumed(whole.len() as u64, run(start, end), from);
                    for left in &all[given..] {
                        let next = frame(&mut writer, &whole, &sealed.outboard).unwrap();
                        assert_eq!(next, *left, "{start}..{end} from {from}");
                    }
                    assert!(writer.is_done());
                }
            }
        }
    }

    #[test]
    fn a_run_is_clipped_and_an_empty_one_is_done() {
        let whole = payload(20_000);
        let sealed = seal(&whole);
        assert_eq!(frames(&whole, &sealed, run(0, u64::MAX)).len(), 2);
        for groups in [run(2, 9), run(1, 1), run(5, 1)] {
            assert!(FrameWriter::new(20_000, groups).is_done());
            assert!(FrameReader::new(sealed.root, 20_000, groups).is_done());
        }
        assert!(FrameReader::new(Root([0; 32]), 0, run(0, 1)).is_done());
    }
}
