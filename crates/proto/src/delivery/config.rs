//! How a node delivers.

use std::collections::BTreeSet;

use crate::contact::hello::{Interest, Token};
use crate::contact::patience::Patience;
use crate::ids::{PublisherKey, SigningKey};

/// How a node delivers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's own key.
    pub own: PublisherKey,
    /// Its name, for people.
    pub name: String,
    /// What it takes from others.
    pub interest: Interest,
    /// What all nodes of the group know.
    pub token: Option<Token>,
    /// The only nodes that it meets; all when absent.
    pub allow: Option<BTreeSet<PublisherKey>>,
    /// Publishers that go before strangers, for entries and slots.
    pub trusted: BTreeSet<PublisherKey>,
    /// Bytes a second that it sends, to all.
    pub upload: Option<u64>,
    /// Bytes a second that it sends to each contact.
    pub peer_upload: Option<u64>,
    /// Bytes a second that it fetches, from all.
    pub download: Option<u64>,
    /// Bytes a second that it fetches from each contact.
    pub peer_download: Option<u64>,
    /// Over how many nodes contents of each priority (by rank) are carried; 0 for any number.
    pub hops: [u8; 3],
    /// How many copies are made of contents of each priority (by rank); 0 for any number.
    pub copies: [u16; 3],
    /// Nodes that should all have everything: what all of them have goes first.
    pub group: BTreeSet<PublisherKey>,
    /// The node's secret key, for its receipts.
    pub signer: Option<SigningKey>,
    /// Whether it is told on how many other nodes segments are, for a store that may be full.
    pub count_copies: bool,
    /// How many chunk groups are handed to a link at a time, at most.
    pub quantum: u64,
    /// How long is waited.
    pub patience: Patience,
}

impl Config {
    /// A node that takes everything, without limits.
    #[must_use]
    pub const fn new(own: PublisherKey) -> Self {
        Self {
            own,
            name: String::new(),
            interest: Interest {
                all: true,
                publishers: BTreeSet::new(),
                contents: BTreeSet::new(),
            },
            token: None,
            allow: None,
            trusted: BTreeSet::new(),
            upload: None,
            peer_upload: None,
            download: None,
            peer_download: None,
            hops: [0; 3],
            copies: [0; 3],
            group: BTreeSet::new(),
            signer: None,
            count_copies: true,
            quantum: 32,
            patience: Patience::new(),
        }
    }

    /// Whether a node, or a publisher, goes before strangers.
    #[must_use]
    pub fn is_trusted(&self, key: &PublisherKey) -> bool {
        // An allow-list names those whom the operator knows, and lets nobody else in.
        let allowed = || self.allow.as_ref().is_some_and(|it| it.contains(key));
        *key == self.own || self.trusted.contains(key) || self.group.contains(key) || allowed()
    }
}
