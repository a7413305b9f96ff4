//! Finding nodes on the same network by multicast DNS.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use iroh::address_lookup::{AddressLookup, EndpointData};
use iroh::{PublicKey, TransportAddr};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use lavant_proto::ids::PublisherKey;
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

/// Announces this node and listens for others, until it is dropped.
pub struct Discovery {
    events: Box<dyn Stream<Item = DiscoveryEvent> + Send + Unpin>,
    ours: PublisherKey,
    announcing: JoinHandle<()>,
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
        })
    }

    /// The next sighting, or nothing when the search has ended. May be dropped early without
    /// loss.
    pub async fn next(&mut self) -> Option<Sighting> {
        loop {
            let sighting = match self.events.next().await? {
                DiscoveryEvent::Discovered { endpoint_info, .. } => Sighting::Found {
                    key: PublisherKey(*endpoint_info.endpoint_id.as_bytes()),
                    addresses: endpoint_info
                        .ip_addrs()
                        .copied()
                        .take(ADDRESSES_MAX)
                        .collect(),
                },
                DiscoveryEvent::Expired { endpoint_id } => Sighting::Lost {
                    key: PublisherKey(*endpoint_id.as_bytes()),
                },
                _ => continue,
            };
            let (Sighting::Found { key, .. } | Sighting::Lost { key }) = &sighting;
            if *key != self.ours {
                return Some(sighting);
            }
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
        let now = addresses::dialable(&listening).await;
        if now != said {
            let every = now.iter().copied().map(TransportAddr::Ip).collect();
            mdns.publish(&EndpointData::new(every));
            said = now;
        }
        tokio::time::sleep(REFRESH).await;
    }
}
