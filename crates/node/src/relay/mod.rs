//! The relay of a node: contents reach every node that can be reached.
//!
//! What is decided is decided in `lavant_proto::relay`; here links, store and clock are joined to
//! it.
//!
//! | question | place |
//! |---|---|
//! | what is done with what the relay wants | `driver.rs` |
//! | how bytes go out and come in | `contact.rs` |
//! | what is served, expected, adopted | `segments.rs` |
//! | how records and manifests are checked and sent | `learn.rs`, `supply.rs` |
//! | what the relay knows of the store | `holdings.rs` |
//! | who is dialled, and when again | `peers.rs` |

mod contact;
mod driver;
mod holdings;
mod learn;
mod peers;
mod segments;
mod supply;

pub use peers::{Peer, PeerState, Source};

use std::sync::Arc;

use lavant_proto::relay::Config;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::link::{BindError, Discovery, LinkConfig, Links, Target};
use crate::store::Store;

/// Reports of tasks that wait for the relay.
const EVENTS_MAX: usize = 1024;
/// Questions that wait for the relay.
const ASKS_MAX: usize = 256;

/// How a node relays.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits, token, interests.
    pub relay: Config,
    /// Nodes to meet.
    pub peers: Vec<Target>,
    /// Whether nodes on the same network are looked for.
    pub discovery: bool,
}

/// Something that is asked of the relay.
enum Ask {
    Peers(oneshot::Sender<Vec<Peer>>),
    Name(Target, oneshot::Sender<bool>),
    Forget(Target, oneshot::Sender<bool>),
    Watched(u64, u64),
    Stop,
}

/// A running relay; clones share it.
#[derive(Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    port: u16,
    warnings: Arc<Vec<String>>,
}

/// The task of a relay.
pub struct Running {
    task: JoinHandle<()>,
    handle: Handle,
}

/// Binds the links and begins to relay.
pub async fn start(
    links: LinkConfig,
    settings: Settings,
    store: Store,
) -> Result<Running, BindError> {
    let links = Arc::new(Links::bind(links).await?);
    let mut warnings = Vec::new();
    let discovery = if settings.discovery {
        match Discovery::start(&links).await {
            Ok(discovery) => Some(discovery),
            Err(error) => {
                warnings.push(error.to_string());
                None
            }
        }
    } else {
        None
    };
    let (events, reports) = mpsc::channel(EVENTS_MAX);
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let handle = Handle {
        asks,
        port: links.port(),
        warnings: Arc::new(warnings),
    };
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed).is_err() {
        tracing::warn!("the system gives no random numbers; pauses are not spread");
    }
    let (removed, wanted) = (store.clone(), settings.relay.interest.contents.clone());
    let lifted = tokio::task::spawn_blocking(move || removed.forget_removals(&wanted)).await;
    if let Ok(Err(error)) = lifted {
        tracing::error!(%error, "what was removed and is wanted now stays away");
    }
    let changes = store.subscribe();
    tokio::spawn(hurry(links.network_came(), handle.clone()));
    let seed = u64::from_le_bytes(seed);
    let driver = driver::Driver::new(store, links, settings, events, seed);
    let task = tokio::spawn(driver.run(reports, asked, changes, discovery));
    Ok(Running { task, handle })
}

/// Has the nodes that were named dialled at once whenever an address of this machine comes to be
/// usable; ends with the relay. Discovery tells again of those that were found.
async fn hurry(mut came: watch::Receiver<u64>, relay: Handle) {
    while came.changed().await.is_ok() {
        for peer in relay.peers().await {
            if let Some(target) = peer.target {
                relay.name(target).await;
            }
        }
    }
}

impl Running {
    /// What can be asked of the relay.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Says good-bye to all peers and ends.
    pub async fn stop(self) {
        let _ = self.handle.asks.send(Ask::Stop).await;
        let _ = self.task.await;
    }
}

impl Handle {
    /// The port that links come in at.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What the operator should know.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// All peers; empty when the relay has ended.
    pub async fn peers(&self) -> Vec<Peer> {
        let (answer, peers) = oneshot::channel();
        let _ = self.asks.send(Ask::Peers(answer)).await;
        peers.await.unwrap_or_default()
    }

    /// Adds a peer, to be dialled at once. False when it is there already.
    pub async fn name(&self, target: Target) -> bool {
        let (answer, added) = oneshot::channel();
        let _ = self.asks.send(Ask::Name(target, answer)).await;
        added.await.unwrap_or(false)
    }

    /// Forgets a named peer and ends its contact. False when it is not known.
    pub async fn forget(&self, target: Target) -> bool {
        let (answer, known) = oneshot::channel();
        let _ = self.asks.send(Ask::Forget(target, answer)).await;
        known.await.unwrap_or(false)
    }

    /// A viewer asked for a segment of a content: what lies ahead of it is fetched first.
    pub fn watched(&self, content_no: u64, sequence: u64) {
        // When the relay has more to do than it can, one position of a playhead is not missed.
        let _ = self.asks.try_send(Ask::Watched(content_no, sequence));
    }
}
