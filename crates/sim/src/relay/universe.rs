//! The contents of a simulation, and what a run is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use lavant_proto::contact::patience::Profile;
use lavant_proto::content::Priority;
use lavant_proto::delivery::Config;
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, SigningKey};
use lavant_proto::time::Time;

use super::air::Share;

/// Links slower than this, in bytes a second, and longer than this, are told as such.
const ORDINARY_RATE: u64 = 10_000;
const ORDINARY_DELAY: Duration = Duration::from_secs(1);

/// A content: segments of equal length, published by a node at one time, or one after another.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The node that publishes it.
    pub publisher: u32,
    /// How urgent.
    pub priority: Priority,
    /// When its first segment is there.
    pub created: Time,
    /// For how long it is of use, after its last segment.
    pub ttl: Duration,
    /// How many segments it has.
    pub segments: u64,
    /// Bytes of each.
    pub length: u64,
    /// Time from one segment to the next; zero for a content that is finished at once.
    pub every: Duration,
    /// The node that it is for; all when absent.
    pub to: Option<u32>,
}

impl Spec {
    /// When a segment is published.
    #[must_use]
    pub fn published(&self, sequence: u64) -> Time {
        let steps = u32::try_from(sequence).unwrap_or(u32::MAX);
        self.created.after(self.every.saturating_mul(steps))
    }

    /// When it is of no use any more.
    #[must_use]
    pub fn expires(&self) -> Time {
        self.published(self.segments.saturating_sub(1))
            .after(self.ttl)
    }

    /// Whether all of it is published at once, with a manifest.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.every.is_zero()
    }
}

/// All contents of a run, with their names.
#[derive(Clone, Debug, Default)]
pub struct Universe {
    /// The contents.
    pub specs: Vec<Spec>,
    keys: Vec<ContentKey>,
    numbers: BTreeMap<ContentKey, u32>,
    /// The nodes' keys, where they sign.
    signers: Vec<SigningKey>,
}

/// The key of a simulated node that signs nothing.
fn node_key(node: u32) -> PublisherKey {
    // Spread like real keys: the core remembers nodes by the first bytes.
    PublisherKey(*blake3::hash(&node.to_le_bytes()).as_bytes())
}

impl Universe {
    /// Names contents of which some are for one node each: the nodes sign that they have them.
    #[must_use]
    pub fn addressed(specs: Vec<Spec>, nodes: u32) -> Self {
        // The core checks receipts, so these nodes have keys that sign. Others save the time.
        let seed = |node: u32| *blake3::hash(&node.to_le_bytes()).as_bytes();
        let signers = (0..nodes).map(|node| SigningKey::from_seed(&seed(node)));
        Self::named(specs, signers.collect())
    }

    /// Names the contents.
    #[must_use]
    pub fn new(specs: Vec<Spec>) -> Self {
        Self::named(specs, Vec::new())
    }

    /// The key of a node.
    #[must_use]
    pub fn node_key(&self, node: u32) -> PublisherKey {
        let signer = self.signers.get(node as usize);
        signer.map_or_else(|| node_key(node), SigningKey::publisher)
    }

    /// What a node signs with, where nodes sign.
    #[must_use]
    pub fn signer(&self, node: u32) -> Option<&SigningKey> {
        self.signers.get(node as usize)
    }

    /// Whether contents are for one node each.
    #[must_use]
    pub const fn is_addressed(&self) -> bool {
        !self.signers.is_empty()
    }

    fn named(specs: Vec<Spec>, signers: Vec<SigningKey>) -> Self {
        let mut universe = Self {
            signers,
            ..Self::default()
        };
        let keys: Vec<ContentKey> = specs
            .iter()
            .enumerate()
            .filter_map(|(index, spec)| {
                Some(ContentKey {
                    publisher: universe.node_key(spec.publisher),
                    content_id: ContentId::new(&format!("c{index}")).ok()?,
                    version: 1,
                })
            })
            .collect();
        let numbers = keys
            .iter()
            .enumerate()
            .map(|(index, key)| (key.clone(), index as u32))
            .collect();
        (universe.specs, universe.keys, universe.numbers) = (specs, keys, numbers);
        universe
    }

    /// The name of a content.
    #[must_use]
    pub fn key(&self, content: u32) -> &ContentKey {
        &self.keys[content as usize]
    }

    /// The content of that name.
    #[must_use]
    pub fn number(&self, key: &ContentKey) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// How many segments all contents have.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.specs.iter().map(|spec| spec.segments).sum()
    }

    /// How many bytes all segments have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.specs
            .iter()
            .map(|spec| spec.segments * spec.length)
            .sum()
    }
}

/// The time during which two nodes can talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meeting {
    /// When it begins.
    pub from: Time,
    /// When it ends.
    pub to: Time,
    /// One node.
    pub a: u32,
    /// The other.
    pub b: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of a thousand answers, how many are damaged when a lying node gives them.
    pub lies: u64,
    /// Every how many nodes one lies; 0 for none.
    pub liars: u64,
    /// How many crashes there are during the run; a crashed node is back after a minute.
    pub crashes: u64,
    /// By how much clocks may be wrong, either way.
    pub clocks: Duration,
    /// Of a thousand times that the store is to take something, how often it cannot.
    pub failures: u64,
    /// How many segments are found damaged during the run.
    pub torn: u64,
    /// When the last crash or damage comes, when not at the end of the run.
    pub until: Option<Time>,
}

/// A viewer asks a node for a segment.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// When.
    pub at: Time,
    /// Which node.
    pub node: u32,
    /// Of which content.
    pub content: u32,
    /// Which segment.
    pub sequence: u64,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides what is left to chance.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u32,
    /// What they publish.
    pub universe: Universe,
    /// When they meet.
    pub meetings: Vec<Meeting>,
    /// Bytes a second of each direction of a link; none for as fast as can be.
    pub rate: Option<u64>,
    /// How long a byte is on its way.
    pub delay: Duration,
    /// Bytes that a node can store of other nodes' contents; none for any number. Of contents that
    /// are for one node, its own and parts of segments count, too.
    pub capacity: Option<u64>,
    /// The same for single nodes.
    pub capacities: BTreeMap<u32, u64>,
    /// What contacts of one node share.
    pub share: Share,
    /// How every relay behaves; the key is each node's own.
    pub config: Config,
    /// What viewers ask for.
    pub views: Vec<View>,
    /// What goes wrong.
    pub faults: Faults,
    /// When the run ends.
    pub end: Time,
}

impl Setup {
    /// Bytes that a node can store.
    pub(super) fn capacity_of(&self, node: u32) -> Option<u64> {
        self.capacities.get(&node).copied().or(self.capacity)
    }

    /// How a node's relay behaves.
    pub(super) fn config_of(&self, node: u32) -> Config {
        Config {
            own: self.universe.node_key(node),
            signer: self.universe.signer(node).cloned(),
            ..self.config.clone()
        }
    }

    /// What nodes are told of their links: nothing of ordinary ones, else rate and delay.
    pub(super) fn profile(&self) -> Profile {
        // A profile makes time-outs longer. On ordinary links they hold as they are.
        let is_slow = |rate: &u64| *rate < ORDINARY_RATE;
        Profile {
            rate: self.rate.filter(is_slow),
            delay: if self.delay < ORDINARY_DELAY {
                Duration::ZERO
            } else {
                self.delay
            },
            half_duplex: self.share == Share::Air,
            ..Profile::default()
        }
    }
}
