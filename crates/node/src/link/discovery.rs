//! Finding nodes on the same network by multicast DNS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use iroh::address_lookup::{AddressLookup, EndpointData};
use iroh::{PublicKey, TransportAddr};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use lavant_proto::ids::PublisherKey;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Links, addresses};

/// The name under which nodes announce themselves: `_lavant._udp.local`.
const SERVICE: &str = "lavant";
/// How often the machine's addresses are looked at.
const REFRESH: Duration = Duration::from_secs(10);

/// Why this network cannot be searched. A node goes on without it.
#[derive(Debug, thiserror::Error)]
#[error(
    "nodes on this network are not found by themselves: {0}; a multicast route may be missing. \
     Name them with --peer"
)]
pub struct DiscoveryError(String);

/// What was seen on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// A node is there, or its addresses have changed. Nothing of it is proved before it is
    /// dialled.
    Found {
        /// Its key.
        key: PublisherKey,
        /// Where it says it can be dialled; at most 16.
        addresses: Vec<SocketAddr>,
    },
    /// A node is no longer heard of.
    Lost {
        /// Its key.
        key: PublisherKey,
    },
}

/// Addresses of one node that are given out.
const ADDRESSES_MAX: usize = 16;

/// Nodes that are told of again.
/// What is announced is not proven, and one machine can announce any number of names.
const THERE_MAX: usize = 1024;

/// Announces this node and listens for others, until it is dropped.
pub struct Discovery {
    events: Box<dyn Stream<Item = DiscoveryEvent> + Send + Unpin>,
    ours: PublisherKey,
    announcing: JoinHandle<()>,
    came: watch::Receiver<u64>,
    /// Who is there, and whom of them to tell again.
    there: BTreeMap<PublisherKey, Vec<SocketAddr>>,
    again: Vec<PublisherKey>,
}

impl Discovery {
    /// Begins. Needs a tokio runtime.
    pub async fn start(links: &Links) -> Result<Self, DiscoveryError> {
        let ours = links.key();
        let id = PublicKey::from_bytes(&ours.0);
        let id = id.map_err(|error| DiscoveryError(error.to_string()))?;
        let mdns = MdnsAddressLookup::builder()
            .service_name(SERVICE)
            .build(id)
            .map_err(|error| DiscoveryError(format!("{error:#}")))?;
        let events = Box::new(mdns.subscribe().await.boxed());
        let listening = links.listening().to_vec();
        let announcing = tokio::spawn(announce(mdns, listening));
        Ok(Self {
            events,
            ours,
            announcing,
            came: links.network_came(),
            there: BTreeMap::new(),
            again: Vec::new(),
        })
    }

    /// The next sighting, or nothing when the search has ended. Whoever was found is told again
    /// when an address of this machine comes to be usable. May be dropped early without loss.
    pub async fn next(&mut self) -> Option<Sighting> {
        loop {
            if let Some(key) = self.again.pop() {
                // It may have been lost since the list was made.
                let Some(addresses) = self.there.get(&key).cloned() else {
                    continue;
                };
                return Some(Sighting::Found { key, addresses });
            }
            let event = tokio::select! {
                event = self.events.next() => event?,
                Ok(()) = self.came.changed() => {
                    // A dial that failed while the network was away is worth another one.
                    self.again = self.there.keys().copied().collect();
                    continue;
                }
            };
            if let Some(sighting) = self.seen(event) {
                return Some(sighting);
            }
        }
    }

    fn seen(&mut self, event: DiscoveryEvent) -> Option<Sighting> {
        match event {
            DiscoveryEvent::Discovered { endpoint_info, .. } => {
                let key = PublisherKey(*endpoint_info.endpoint_id.as_bytes());
                let addresses = endpoint_info.ip_addrs().copied();
                let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
                // Its own announcement comes back from the network.
                if key == self.ours {
                    return None;
                }
                // Beyond that a node is told of when it is seen, and not again.
                if self.there.len() < THERE_MAX || self.there.contains_key(&key) {
                    self.there.insert(key, addresses.clone());
                }
                Some(Sighting::Found { key, addresses })
            }
            DiscoveryEvent::Expired { endpoint_id } => {
                let key = PublisherKey(*endpoint_id.as_bytes());
                self.there.remove(&key);
                (key != self.ours).then_some(Sighting::Lost { key })
            }
            _ => None,
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.announcing.abort();
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}

/// Says where this node can be dialled, again whenever that changes.
async fn announce(mdns: MdnsAddressLookup, listening: Vec<SocketAddr>) {
    let mut said = Vec::new();
    loop {
        // Looked at again and again, as mDNS keeps announcing what it was told last.
        let now = addresses::dialable(&listening).await;
        if now != said {
            let every = now.iter().copied().map(TransportAddr::Ip).collect();
            mdns.publish(&EndpointData::new(every));
            said = now;
        }
        tokio::time::sleep(REFRESH).await;
    }
}
