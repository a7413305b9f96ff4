//! Range-based set reconciliation (Meyer, "Range-Based Set Reconciliation", 2022).
//!
//! Both sides hold a sorted list of items. One sends the fingerprint of a range; where it differs
//! the other cuts the range in sixteen, or lists it when it is short. The cost grows with the
//! difference, not with the lists. A fingerprint is the sum of the items' digests, hashed, so that
//! sums of many ranges come from one pass.

use crate::time::Time;
use crate::wire::{DecodeError, Reader, Writer};

/// Into how many parts a range is cut.
const PARTS: usize = 16;
/// A range of at most so many items is listed instead.
const LIST_MAX: usize = 16;
/// Most ranges in one message: each takes at most 50 bytes.
const RANGES_MAX: u64 = 512;
/// Most items listed in one message: each takes at most 34 bytes.
/// Both at most come to 60 KB, which is less than a message may have.
const ITEMS_MAX: u64 = 1024;

/// Where an item stands: by time, then by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// When it was made.
    pub time: Time,
    /// The first half of a hash of its name.
    pub name: [u8; 16],
}

impl Point {
    const END: Self = Self {
        time: Time::MAX,
        name: [0xff; 16],
    };
}

/// One item: where it stands and a digest of all that is to be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it stands.
    pub point: Point,
    /// Digest of its state.
    pub digest: [u8; 32],
}

/// What is said of one range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is to be done for it.
    Skip,
    /// The hash of the sum of its items' digests and their count.
    Fingerprint([u8; 16]),
    /// Its items, each with the start of its digest.
    List(Vec<(Point, [u8; 8])>),
}

/// Ranges that follow each other, each up to its bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Where the first range begins.
    pub from: Point,
    /// Bound (exclusive) and what is said of the range below it.
    pub ranges: Vec<(Point, Mode)>,
}

/// What a round of reconciliation found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Items, by index, that the other side lacks or has otherwise.
    pub mine: Vec<usize>,
    /// Items that this side lacks or has otherwise.
    pub theirs: Vec<Point>,
    /// Items, by index, that are equal on both sides.
    pub equal: Vec<usize>,
}

/// The first message: one fingerprint over everything.
#[must_use]
pub fn begin(items: &[Item]) -> Ranges {
    Ranges {
        from: Point::default(),
        ranges: vec![(Point::END, Mode::Fingerprint(fingerprint(items)))],
    }
}

/// Answers the other side's ranges. `items` are sorted by point. The answer is empty when nothing
/// is left to find out.
#[must_use]
pub fn answer(items: &[Item], theirs: &Ranges) -> (Vec<Ranges>, Found) {
    let mut found = Found::default();
    let mut answers = Answers::default();
    let mut lower = theirs.from;
    for (upper, mode) in &theirs.ranges {
        let (lo, hi) = (index(items, lower), index(items, *upper));
        // Bounds rise in what was decoded; a slice must not panic on others either.
        let hi = hi.max(lo);
        match mode {
            Mode::Skip => answers.push(lower, *upper, Mode::Skip),
            Mode::Fingerprint(other) if fingerprint(&items[lo..hi]) == *other => {
                found.equal.extend(lo..hi);
                answers.push(lower, *upper, Mode::Skip);
            }
            Mode::Fingerprint(_) => split(items, (lo, hi), (lower, *upper), &mut answers),
            Mode::List(list) => {
                compare(items, (lo, hi), list, &mut found);
                answers.push(lower, *upper, Mode::Skip);
            }
        }
        lower = *upper;
    }
    (answers.finish(), found)
}

fn index(items: &[Item], point: Point) -> usize {
    // Nothing lies beyond the end, not even an item that stands exactly there.
    if point == Point::END {
        return items.len();
    }
    items.partition_point(|item| item.point < point)
}

fn split(
    items: &[Item],
    (lo, hi): (usize, usize),
    (lower, upper): (Point, Point),
    out: &mut Answers,
) {
    let inside = &items[lo..hi];
    // An empty list is said, too: the other side then tells of all that it has there.
    if inside.len() <= LIST_MAX {
        let list = inside.iter().map(|item| (item.point, short(&item.digest)));
        out.push(lower, upper, Mode::List(list.collect()));
        return;
    }
    let mut from = lower;
    for part in 0..PARTS {
        // Parts of equally many items, not of equal times: the rounds do not depend on where items
        // lie.
        let (a, b) = (
            inside.len() * part / PARTS,
            inside.len() * (part + 1) / PARTS,
        );
        // Bounds are said with the ranges, so the other side cuts at the same points whatever it
        // has.
        let bound = inside.get(b).map_or(upper, |next| next.point);
        let sum = fingerprint(&inside[a..b]);
        out.push(from, bound, Mode::Fingerprint(sum));
        from = bound;
    }
}

fn compare(items: &[Item], (lo, hi): (usize, usize), list: &[(Point, [u8; 8])], found: &mut Found) {
    let mut listed = list.iter().peekable();
    for (offset, item) in items[lo..hi].iter().enumerate() {
        while let Some((point, _)) = listed.next_if(|(point, _)| *point < item.point) {
            found.theirs.push(*point);
        }
        match listed.next_if(|(point, _)| *point == item.point) {
            Some((_, digest)) if *digest == short(&item.digest) => found.equal.push(lo + offset),
            // Both have it, each otherwise: both have something to tell of it.
            Some((point, _)) => {
                found.theirs.push(*point);
                found.mine.push(lo + offset);
            }
            None => found.mine.push(lo + offset),
        }
    }
    found.theirs.extend(listed.map(|(point, _)| *point));
}

fn short(digest: &[u8; 32]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest[..8]);
    short
}

/// Sum of the digests modulo 2^256, hashed together with their count.
fn fingerprint(items: &[Item]) -> [u8; 16] {
    let mut sum = [0u64; 4];
    for item in items {
        let mut carry = false;
        for (word, bytes) in sum.iter_mut().zip(item.digest.as_chunks::<8>().0) {
            // Modulo 2^256, whose last carry is dropped, so that the order of items does not
            // matter.
            let (added, first) = word.overflowing_add(u64::from_le_bytes(*bytes));
            let (added, second) = added.overflowing_add(u64::from(carry));
            (*word, carry) = (added, first || second);
        }
    }
    let mut hasher = blake3::Hasher::new();
    for word in sum {
        hasher.update(&word.to_le_bytes());
    }
    hasher.update(&(items.len() as u64).to_le_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    half
}

/// Collects ranges into messages of a bounded size; what is to be skipped at their ends is left
/// out.
#[derive(Default)]
struct Answers {
    done: Vec<Ranges>,
    open: Ranges,
    items: u64,
}

impl Answers {
    fn push(&mut self, lower: Point, upper: Point, mode: Mode) {
        let items = match &mode {
            Mode::List(list) => list.len() as u64,
            _ => 0,
        };
        let full = self.open.ranges.len() as u64 >= RANGES_MAX;
        // What does not fit any more begins another message.
        if full || self.items + items > ITEMS_MAX {
            self.flush();
        }
        if self.open.ranges.is_empty() {
            // What is to be skipped in front is left out: `from` says where the first range begins.
            if mode == Mode::Skip {
                return;
            }
            self.open.from = lower;
        }
        self.items += items;
        // Skips that follow each other are one range.
        if let (Mode::Skip, Some((bound, Mode::Skip))) = (&mode, self.open.ranges.last_mut()) {
            *bound = upper;
        } else {
            self.open.ranges.push((upper, mode));
        }
    }

    fn flush(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        self.items = 0;
        while open
            .ranges
            .pop_if(|(_, mode)| *mode == Mode::Skip)
            .is_some()
        {}
        if !open.ranges.is_empty() {
            self.done.push(open);
        }
    }

    fn finish(mut self) -> Vec<Ranges> {
        self.flush();
        self.done
    }
}

impl Ranges {
    pub(super) fn write(&self, w: &mut Writer) {
        write_point(w, Time(0), &self.from);
        w.number(self.ranges.len() as u64);
        let mut last = self.from.time;
        for (bound, mode) in &self.ranges {
            match mode {
                Mode::Skip => {
                    w.byte(0);
                }
                Mode::Fingerprint(sum) => {
                    w.byte(1).bytes(sum);
                }
                Mode::List(list) => {
                    w.byte(2).number(list.len() as u64);
                    for (point, digest) in list {
                        write_point(w, last, point);
                        w.bytes(digest);
                        last = point.time;
                    }
                }
            }
            w.byte(u8::from(*bound == Point::END));
            if *bound != Point::END {
                write_point(w, last, bound);
                last = bound.time;
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let from = read_point(r, Time(0))?;
        let count = r.number("ranges", RANGES_MAX)?;
        let (mut last, mut lower, mut listed) = (from.time, from, 0);
        let mut ranges = Vec::new();
        for _ in 0..count {
            let mode = match r.byte("mode")? {
                0 => Mode::Skip,
                1 => Mode::Fingerprint(r.array("fingerprint")?),
                2 => {
                    let length = r.number("list", ITEMS_MAX)?;
                    listed += length;
                    let mut list = Vec::new();
                    for _ in 0..length {
                        let point = read_point(r, last)?;
                        let previous = list.last().map(|(point, _)| *point);
                        // Sorted, as `compare` walks through two sorted lists and would pass over
                        // others.
                        if point < lower || previous.is_some_and(|before| before >= point) {
                            return Err(DecodeError::Invalid("list"));
                        }
                        list.push((point, r.array("digest")?));
                        last = point.time;
                    }
                    Mode::List(list)
                }
                _ => return Err(DecodeError::Invalid("mode")),
            };
            let bound = match r.byte("bound")? {
                0 => read_point(r, last)?,
                1 => Point::END,
                _ => return Err(DecodeError::Invalid("bound")),
            };
            if bound < lower || listed > ITEMS_MAX {
                return Err(DecodeError::Invalid("bound"));
            }
            last = if bound == Point::END {
                last
            } else {
                bound.time
            };
            lower = bound;
            ranges.push((bound, mode));
        }
        Ok(Self { from, ranges })
    }
}

/// A point, its time as the distance from the one before.
fn write_point(w: &mut Writer, last: Time, point: &Point) {
    // Points come in order, so what is made here never wraps.
    w.number(point.time.0.wrapping_sub(last.0))
        .bytes(&point.name);
}

fn read_point(r: &mut Reader<'_>, last: Time) -> Result<Point, DecodeError> {
    // A sum that wraps comes out before the last one, which is refused.
    let time = Time(last.0.wrapping_add(r.number("time", u64::MAX)?));
    let name = r.array("name")?;
    if time < last {
        return Err(DecodeError::Invalid("time"));
    }
    Ok(Point { time, name })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn item(time: u64, state: u8) -> Item {
        let name = blake3::hash(&time.to_le_bytes());
        let mut point = Point {
            time: Time(time / 3),
            name: [0; 16],
        };
        point.name.copy_from_slice(&name.as_bytes()[..16]);
        let mut state_of = [state; 40];
        state_of[..16].copy_from_slice(&point.name);
        Item {
            point,
            digest: *blake3::hash(&state_of).as_bytes(),
        }
    }

    fn sorted(items: impl Iterator<Item = Item>) -> Vec<Item> {
        let mut items: Vec<Item> = items.collect();
        items.sort_unstable_by_key(|item| item.point);
        items
    }

    fn bytes_of(ranges: &Ranges) -> Vec<u8> {
        let mut w = Writer::new();
        ranges.write(&mut w);
        w.finish()
    }

    struct Outcome {
        /// What each side knows that the other needs to hear of.
        mine: [Vec<Point>; 2],
        bytes: usize,
        rounds: usize,
    }

    /// Runs both sides; what one side finds missing in itself is asked of the other.
    fn reconcile(sides: [&[Item]; 2]) -> Outcome {
        let mut queue = vec![begin(sides[0])];
        let mut outcome = Outcome {
            mine: [Vec::new(), Vec::new()],
            bytes: 0,
            rounds: 0,
        };
        let mut turn = 1;
        while !queue.is_empty() {
            outcome.rounds += 1;
            let mut next = Vec::new();
            for message in queue {
                let bytes = bytes_of(&message);
                outcome.bytes += bytes.len();
                let mut reader = Reader::new(&bytes);
                assert_eq!(Ranges::read(&mut reader), Ok(message.clone()));
                let (answers, found) = answer(sides[turn], &message);
                let mine = found.mine.iter().map(|at| sides[turn][*at].point);
                outcome.mine[turn].extend(mine);
                outcome.bytes += found.theirs.len() * 8;
                outcome.mine[1 - turn].extend(found.theirs);
                next.extend(answers);
            }
            queue = next;
            turn = 1 - turn;
        }
        outcome
    }

    fn check(a: &[Item], b: &[Item]) -> Outcome {
        let mut outcome = reconcile([a, b]);
        let state = |items: &[Item]| -> BTreeMap<Point, [u8; 32]> {
            items.iter().map(|item| (item.point, item.digest)).collect()
        };
        for (side, (own, other)) in [(a, b), (b, a)].into_iter().enumerate() {
            let other = state(other);
            let differs = own
                .iter()
                .filter(|item| other.get(&item.point) != Some(&item.digest));
            let expected: Vec<Point> = differs.map(|item| item.point).collect();
            let known: Vec<Point> = own.iter().map(|item| item.point).collect();
            outcome.mine[side].retain(|point| known.contains(point));
            outcome.mine[side].sort_unstable();
            assert_eq!(outcome.mine[side], expected, "side {side}");
        }
        outcome
    }

    #[test]
    fn equal_lists_cost_one_fingerprint() {
        let all = sorted((0..20_000).map(|n| item(n, 0)));
        let outcome = reconcile([&all, &all]);
        assert!(outcome.bytes < 64, "{}", outcome.bytes);
        assert_eq!(outcome.rounds, 1);
    }

    #[test]
    fn new_items_at_the_end_cost_little() {
        let old = sorted((0..20_000).map(|n| item(n, 0)));
        let new = sorted((0..20_010).map(|n| item(n, u8::from(n == 77))));
        for (a, b) in [(&old, &new), (&new, &old)] {
            let outcome = check(a, b);
            assert!(outcome.bytes < 6_000, "{}", outcome.bytes);
            assert!(outcome.rounds <= 7, "{}", outcome.rounds);
        }
    }

    proptest! {
        #[test]
        fn every_difference_is_found(
            a in proptest::collection::btree_map(0u64..3000, 0u8..2, 0..300),
            b in proptest::collection::btree_map(0u64..3000, 0u8..2, 0..300),
            both in proptest::collection::btree_set(3000u64..9000, 0..600),
        ) {
            let side = |own: BTreeMap<u64, u8>| {
                let own = own.into_iter().map(|(n, state)| item(n, state));
                sorted(own.chain(both.iter().map(|n| item(*n, 0))))
            };
            check(&side(a), &side(b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ranges) = Ranges::read(&mut Reader::new(&bytes)) {
                let items = sorted((0..40).map(|n| item(n, 0)));
                let _ = answer(&items, &ranges);
            }
        }
    }
}
