//! How a relay behaves.

use std::collections::BTreeSet;
use std::time::Duration;

use super::contact::Patience;
use super::hello::{Interest, Token};
use crate::ids::{PublisherKey, SigningKey};

/// How a relay behaves.
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
    /// How many chunk groups are handed to a link at a time.
    pub quantum: u64,
    /// After how long a quiet contact is asked for a sign of life; it is left after three and a
    /// half times as long.
    pub keep_alive: Duration,
    /// How long other things may take.
    pub patience: Patience,
}

impl Config {
    /// A relay that takes everything, without limits.
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
            keep_alive: Duration::from_secs(10),
            patience: Patience::new(),
        }
    }
}
