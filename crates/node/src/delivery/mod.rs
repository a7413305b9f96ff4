//! The relay of a node: contents reach every node that can be reached.
//!
//! What is decided is decided in `lavant_proto::delivery`; here links, store and clock are joined
//! to it.
//!
//! | question | place |
//! |---|---|
//! | what is done with what the core wants | `driver.rs` |
//! | what tasks report to it | `event.rs` |
//! | what happens when the driver fails | `supervise` in this file |
//! | who comes and goes | `contacts.rs` |
//! | how bytes go out and come in | `contact.rs`, `answers.rs`, `expected.rs` |
//! | what is given, expected, adopted, doubted | `segments.rs`, `pending.rs` |
//! | how questions about contents are read | `questions.rs`, `library.rs` |
//! | how records and manifests are learned | `supply.rs` |
//! | what the core knows of the store | `holdings.rs`, `feed.rs` |
//! | who is dialled, and when again | `peers.rs` |

mod answers;
mod contact;
mod contacts;
mod driver;
mod event;
mod expected;
mod feed;
mod holdings;
mod library;
mod peers;
mod pending;
mod pulse;
mod questions;
mod segments;
mod supply;

pub use peers::{Peer, PeerState, Source};
pub use pulse::Pulse;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lavant_proto::delivery::Config;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::health::Part;
use crate::link::{BindError, Discovery, LinkConfig, LinkProfile, Links, Target};
use crate::store::AsyncStore;

/// Reports of tasks that wait for the driver. A full queue makes the tasks of the contacts wait,
/// and by that their links: a flood is held up at its sender, and not in the memory of this node.
const EVENTS_MAX: usize = 1024;
/// Questions that wait for the driver.
const ASKS_MAX: usize = 256;
/// Pause before the driver is started again, after it failed; it doubles with each failure up to
/// the longest one, until the driver has run for that long.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a node relays.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits, token, interests.
    pub relay: Config,
    /// Nodes to meet.
    pub peers: Vec<Target>,
    /// Whether nodes on the same network are looked for.
    pub discovery: bool,
    /// What is known of links beforehand.
    pub profiles: Vec<LinkProfile>,
}

/// Something that is asked of the relay.
enum Ask {
    Load(oneshot::Sender<Load>),
    Peers(oneshot::Sender<Vec<Peer>>),
    Name(Target, oneshot::Sender<bool>),
    Forget(Target, oneshot::Sender<bool>),
    Watched(u64, u64),
    #[cfg(test)]
    Panic,
    Stop,
}

/// How much the core holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Contents that are known, here or elsewhere.
    pub contents: u64,
    /// Bytes of memory that the claims of all contacts take.
    pub claimed: u64,
}

/// What outlives a driver that fails.
struct Parts {
    store: AsyncStore,
    links: Arc<Links>,
    /// Changes when an address of this machine comes to be usable.
    came: watch::Receiver<u64>,
    settings: Settings,
    /// Nodes to meet, also those that were named while the node ran.
    named: Vec<Target>,
    asks: mpsc::Receiver<Ask>,
    discovery: Option<Discovery>,
    seed: u64,
}

/// A running relay; clones share it.
#[derive(Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    port: u16,
    warnings: Arc<Vec<String>>,
    pulse: Pulse,
}

/// The task of a relay.
pub struct Running {
    task: JoinHandle<()>,
    handle: Handle,
}

/// Binds the links and begins to relay. `part` says how it is from then on.
pub async fn start(
    links: LinkConfig,
    settings: Settings,
    store: AsyncStore,
    part: Part,
) -> Result<Running, BindError> {
    let links = Arc::new(Links::bind(links).await?);
    let mut warnings = Vec::new();
    // Without multicast the node goes on: named peers are met all the same, and the operator is
    // told.
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
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let handle = Handle {
        asks,
        port: links.port(),
        warnings: Arc::new(warnings),
        pulse: Pulse::default(),
    };
    // With one seed for all, nodes that lost each other would dial in step. Nothing secret hangs on
    // it.
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed).is_err() {
        tracing::warn!("the system gives no random numbers; pauses are not spread");
    }
    let wanted = settings.relay.interest.contents.clone();
    // An operator who names a content to be fetched wants it back, although it was removed once.
    // Before the feed begins, so that the store refuses nothing that the core asks for.
    let lifted = store.attempt(move |store| store.forget_removals(&wanted));
    if let Err(error) = lifted.await {
        tracing::error!(%error, "what was removed and is wanted now stays away");
    }
    let parts = Parts {
        store,
        came: links.network_came(),
        links,
        named: settings.peers.clone(),
        settings,
        asks: asked,
        discovery,
        seed: u64::from_le_bytes(seed),
    };
    let task = tokio::spawn(supervise(parts, handle.pulse.clone(), part));
    Ok(Running { task, handle })
}

/// Runs the driver, and runs it again when it fails: a fault in it must not leave a node that meets
/// nobody and says that it is well.
async fn supervise(mut parts: Parts, pulse: Pulse, part: Part) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        // Each run has its own channel and feed: late reports to a driver that failed would fit
        // contacts of the next one, whose numbers begin anew, and a new core has to hear of all
        // contents.
        let (events, reports) = mpsc::channel(EVENTS_MAX);
        let feed = tokio::spawn(feed::feed(parts.store.clone(), events.clone()));
        let driver = driver::Driver::new(&parts, events);
        part.ok();
        // What a panic leaves half done ends with the driver. `parts` is changed in whole steps
        // only.
        let run = AssertUnwindSafe(driver.run(reports, &mut parts)).catch_unwind();
        let ended = pulse.watch(Box::pin(run)).await;
        // It would read all of a large store for nobody.
        feed.abort();
        let Err(panic) = ended else {
            return;
        };
        let why = reason(&*panic);
        tracing::error!(why, "the relay failed and is started again");
        part.fail(format!(
            "the relay failed and is being started again: {why}"
        ));
        // A fault that comes back at once must not keep a core busy; a rare one is to cost little
        // time.
        if begun.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        // A search tells of each node once, and the new driver knows none. Without one the node
        // goes on.
        parts.discovery = match parts.settings.discovery {
            true => Discovery::start(&parts.links).await.ok(),
            false => None,
        };
    }
}

/// What a panic said.
fn reason(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it did not say why")
}

impl Running {
    /// What can be asked of the relay.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Says good-bye to all peers and ends.
    pub async fn stop(self) {
        // These fail only when the task has ended already, which is what is wanted.
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

    /// How long the steps of its task take.
    #[must_use]
    pub const fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// How much the core holds; nothing when the relay has ended.
    pub async fn load(&self) -> Load {
        // A send that fails drops the question with `answer` in it, so that the wait after it ends
        // at once. The same holds for all that is asked here.
        let (answer, load) = oneshot::channel();
        let _ = self.asks.send(Ask::Load(answer)).await;
        load.await.unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use lavant_proto::ids::SigningKey;

    use super::*;
    use crate::health::Health;
    use crate::link::LinkKind;
    use crate::store::{Settings as StoreSettings, Store};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_driver_that_fails_is_started_again_and_said_to_be_down_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings::new(&folder.path().join("store"));
        let key = SigningKey::from_seed(&[5; 32]);
        let store = Store::open(settings, key.clone()).unwrap();
        let links = LinkConfig {
            addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
            choice: Some(LinkKind::Tcp),
            ..LinkConfig::new(key)
        };
        let settings = Settings {
            relay: Config::new(store.publisher()),
            peers: Vec::new(),
            discovery: false,
            profiles: Vec::new(),
        };
        let health = Health::default();
        let (store, part) = (AsyncStore::new(store), health.part("relay"));
        let running = start(links, settings, store, part).await.unwrap();
        let relay = running.handle();
        assert!(relay.name("127.0.0.1:9".parse().unwrap()).await);
        assert_eq!(health.failures(), []);
        relay.asks.send(Ask::Panic).await.unwrap();
        let failed = async {
            while health.failures().is_empty() {
                tokio::task::yield_now().await;
            }
            health.failures()
        };
        let failed = tokio::time::timeout(PAUSE_MAX, failed).await.unwrap();
        assert!(failed[0].reason.contains("a test wants it"), "{failed:?}");
        // What was named stays named, by a driver that answers.
        let peers = tokio::time::timeout(PAUSE_MAX, relay.peers())
            .await
            .unwrap();
        assert_eq!(peers.len(), 1, "{peers:?}");
        assert_eq!(health.failures(), []);
        running.stop().await;
    }
}
