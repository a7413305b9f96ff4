//! Recent live segments, held in memory because many viewers ask for them at once.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use lavant_proto::ids::Root;

/// A queue of payloads: the oldest leaves when the limit is reached.
#[derive(Debug)]
pub(super) struct Hot {
    limit: u64,
    bytes: u64,
    payloads: HashMap<Root, Bytes>,
    order: VecDeque<Root>,
}

impl Hot {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            payloads: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, root: &Root) -> Option<Bytes> {
        self.payloads.get(root).cloned()
    }

    pub(super) fn insert(&mut self, root: Root, payload: Bytes) {
        let length = payload.len() as u64;
        if length > self.limit || self.payloads.contains_key(&root) {
            return;
        }
        while self.bytes + length > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.bytes -= self
                .payloads
                .remove(&oldest)
                .map_or(0, |gone| gone.len() as u64);
        }
        self.bytes += length;
        self.payloads.insert(root, payload);
        self.order.push_back(root);
    }

    pub(super) fn remove(&mut self, root: &Root) {
        if let Some(payload) = self.payloads.remove(root) {
            self.bytes -= payload.len() as u64;
            self.order.retain(|other| other != root);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaves_first_and_the_limit_holds() {
        let mut hot = Hot::new(100);
        for n in 0..4u8 {
            hot.insert(Root([n; 32]), Bytes::from(vec![n; 40]));
            assert!(hot.bytes() <= 100);
        }
        assert!(hot.get(&Root([1; 32])).is_none());
        assert_eq!(hot.get(&Root([3; 32])).unwrap()[0], 3);
        hot.insert(Root([9; 32]), Bytes::from(vec![9; 101]));
        assert!(hot.get(&Root([9; 32])).is_none());
        hot.remove(&Root([3; 32]));
        assert_eq!(hot.bytes(), 40);
    }
}
