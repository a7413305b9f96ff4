//! How a run is laid out: by its seed alone, with and without a liar alike.

use std::time::Duration;

use crate::random::Random;

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    seed: u64,
    /// Honest nodes; the first one publishes. The liar comes after them.
    pub(super) honest: usize,
    /// Who dials whom, and after how long.
    pub(super) links: Vec<(usize, usize, Duration)>,
    /// When the film is there.
    pub(super) published: Duration,
    /// Bytes a second of each direction of a link, and how long a byte is on its way.
    pub(super) rate: u64,
    pub(super) delay: Duration,
    /// Bytes that a store takes.
    pub(super) limit: u64,
    /// Of a thousand times that a store is asked for something, how often it fails.
    pub(super) failures: u64,
    /// Whether the liar does something by itself as time passes.
    pub(super) busy: bool,
}

impl Plan {
    pub(super) fn new(seed: u64, limit: u64) -> Self {
        // A stream of its own: the film, which is made before, does not change who meets whom.
        let mut random = Random::new(seed ^ 0x11a5);
        let honest = 2 + random.below(8) as usize;
        let soon = |random: &mut Random| Duration::from_millis(random.below(2000));
        let mut links = Vec::new();
        for node in 1..honest {
            // Each one is linked to one before it, so that all are, and to some others.
            let before = random.below(node as u64) as usize;
            links.push((node, before, soon(&mut random)));
            for other in 0..node {
                if other != before && random.below(3) == 0 {
                    links.push((other, node, soon(&mut random)));
                }
            }
        }
        for node in 0..honest {
            let after = soon(&mut random) / 2;
            // The liar meets all of them, from either side: who dials and who is dialled learn at
            // different times.
            links.push(match random.below(2) {
                0 => (honest, node, after),
                _ => (node, honest, after),
            });
        }
        Self {
            seed,
            honest,
            links,
            published: soon(&mut random),
            rate: 500_000 + random.below(5_000_000),
            delay: Duration::from_millis(1 + random.below(100)),
            limit,
            failures: 0,
            busy: false,
        }
    }

    /// Over how many links the film comes to the node that is farthest from its publisher.
    pub(super) fn hops(&self) -> u32 {
        let mut hops = vec![u32::MAX; self.honest];
        hops[0] = 0;
        // No way has more links than there are nodes.
        for _ in 0..self.honest {
            for (a, b, _) in self
                .links
                .iter()
                .filter(|(a, b, _)| *a.max(b) < self.honest)
            {
                hops[*a] = hops[*a].min(hops[*b].saturating_add(1));
                hops[*b] = hops[*b].min(hops[*a].saturating_add(1));
            }
        }
        hops.into_iter().max().unwrap_or(0)
    }

    /// Chance of the store of a node.
    pub(super) const fn random_of(&self, node: usize) -> Random {
        // Of each node apart: one that fails more does not change when others fail.
        Random::new(self.seed ^ (0x5704e + node as u64))
    }
}
