//! What could be reached at best: foremost journeys, with unlimited buffers and rates.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use lavant_proto::time::Time;

use super::universe::{Meeting, Universe};

/// The meetings of each node.
pub struct Oracle {
    of_node: Vec<Vec<Meeting>>,
}

impl Oracle {
    /// Sorts the meetings by node.
    #[must_use]
    pub fn new(nodes: u32, meetings: &[Meeting]) -> Self {
        let mut of_node = vec![Vec::new(); nodes as usize];
        for meeting in meetings {
            of_node[meeting.a as usize].push(*meeting);
            of_node[meeting.b as usize].push(*meeting);
        }
        Self { of_node }
    }

    /// When something that is at `source` at `start` can be at each node at the earliest.
    #[must_use]
    pub fn arrivals(&self, source: u32, start: Time) -> Vec<Option<Time>> {
        let mut arrivals = vec![None; self.of_node.len()];
        let mut queue = BinaryHeap::from([Reverse((start, source))]);
        while let Some(Reverse((at, node))) = queue.pop() {
            // The earliest comes out of the queue first; later ones are of no interest.
            if arrivals[node as usize].is_some() {
                continue;
            }
            arrivals[node as usize] = Some(at);
            for meeting in &self.of_node[node as usize] {
                // Of two ends and one of them, the other one is left.
                let other = meeting.a ^ meeting.b ^ node;
                // A meeting that goes on carries it at once, also when it began before.
                if meeting.to > at && arrivals[other as usize].is_none() {
                    queue.push(Reverse((meeting.from.max(at), other)));
                }
            }
        }
        arrivals
    }

    /// How many segments can reach nodes that did not publish them before they expire, and the sum
    /// of their delays in seconds.
    #[must_use]
    pub fn reachable(&self, universe: &Universe, end: Time) -> (u64, u64) {
        let (mut count, mut delay) = (0, 0);
        let mut known: BTreeMap<(u32, Time), Vec<Option<Time>>> = BTreeMap::new();
        for spec in &universe.specs {
            let until = spec.expires().min(end);
            // All segments of a finished content are there at one time.
            let steps = if spec.is_finished() { 1 } else { spec.segments };
            let each = spec.segments / steps.max(1);
            for sequence in 0..steps {
                let start = spec.published(sequence);
                // Contents of one node and one time arrive alike: it is worked out once for them.
                let arrivals = known
                    .entry((spec.publisher, start))
                    .or_insert_with(|| self.arrivals(spec.publisher, start));
                for (node, at) in arrivals.iter().enumerate() {
                    if let Some(at) = at.filter(|at| *at < until)
                        && node as u32 != spec.publisher
                        && spec.to.is_none_or(|to| to == node as u32)
                    {
                        count += each;
                        delay += each * at.since(start).as_secs();
                    }
                }
            }
        }
        (count, delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journeys_respect_time() {
        let meeting = |a, b, from, to| Meeting {
            from: Time(from),
            to: Time(to),
            a,
            b,
        };
        let meetings = [
            meeting(1, 2, 0, 5),
            meeting(0, 1, 3, 4),
            meeting(2, 3, 1, 2),
            meeting(2, 3, 9, 10),
        ];
        let arrivals = Oracle::new(5, &meetings).arrivals(0, Time(0));
        let expected = [Some(0), Some(3), Some(3), Some(9), None];
        assert_eq!(arrivals, expected.map(|at| at.map(Time)));
    }
}
