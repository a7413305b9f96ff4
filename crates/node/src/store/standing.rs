//! What publishers are to the operator: the node itself, trusted, or strangers.

use std::collections::BTreeSet;

use lavant_proto::ids::PublisherKey;
use lavant_proto::relay::evict::Standing;

/// How the queues of the index are written; another number has them made again.
const QUEUES: u8 = 2;

/// Who is who.
#[derive(Debug, Default)]
pub(super) struct Standings {
    own: Option<PublisherKey>,
    trusted: BTreeSet<PublisherKey>,
}

impl Standings {
    pub(super) const fn new(own: PublisherKey, trusted: BTreeSet<PublisherKey>) -> Self {
        Self {
            own: Some(own),
            trusted,
        }
    }

    pub(super) fn of(&self, publisher: &PublisherKey) -> Standing {
        if self.own.as_ref() == Some(publisher) {
            Standing::Own
        } else if self.trusted.contains(publisher) {
            Standing::Trusted
        } else {
            Standing::Stranger
        }
    }

    /// Another number for whatever gives segments another place in the queues.
    pub(super) fn mark(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[QUEUES]);
        for key in self.own.iter().chain(&self.trusted) {
            hasher.update(&key.0);
        }
        let mut mark = [0; 8];
        hasher.finalize_xof().fill(&mut mark);
        u64::from_le_bytes(mark)
    }
}
