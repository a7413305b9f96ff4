//! A node from its start to its end.

mod streams;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use lavant_proto::ids::PublisherKey;

use crate::authority::BadHook;
use crate::config::{Config, RelayConfig};
use crate::delivery;
use crate::health::{Health, Part};
use crate::http::{ServeError, Server};
use crate::identity::{self, IdentityError};
use crate::link::{BindError, LinkConfig};
use crate::live::{BadPull, BadTarget};
use crate::store::{self, AsyncStore, OpenError, Settings, Store};

/// How often idle uploads and contents are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(20);

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The key.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The API.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The links to other nodes.
    #[error(transparent)]
    Links(#[from] BindError),
    /// The port for RTMP.
    #[error("cannot listen for RTMP on {0}: {1}; choose another with --rtmp")]
    Rtmp(SocketAddr, std::io::Error),
    /// The certificate.
    #[error("tls_cert and tls_key: {0}")]
    Certificate(String),
    /// A stream that it is to fetch.
    #[error("pull: {0}")]
    Pull(#[from] BadPull),
    /// A target of a stream.
    #[error("forward: {0}")]
    Forward(#[from] BadTarget),
    /// A service of the operator.
    #[error("hook or authorize: {0}")]
    Hook(#[from] BadHook),
    /// The runtime.
    #[error("the node could not be started: {0}")]
    Runtime(#[from] std::io::Error),
}

/// What a node says of itself once it listens.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where the API listens.
    pub address: SocketAddr,
    /// The node's key.
    pub publisher: PublisherKey,
    /// Whether changing anything needs a token.
    pub auth_required: bool,
    /// The file that holds this token; none when another one was given.
    pub token_file: Option<PathBuf>,
    /// The port that links of other nodes come in at; none when it meets nobody.
    pub relay_port: Option<u16>,
    /// Where publishers by RTMP are listened for; none when they are not.
    pub rtmp: Option<SocketAddr>,
    /// The same in TLS.
    pub rtmps: Option<SocketAddr>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

use streams::Streams;
#[cfg(test)]
pub(crate) use streams::settings as live_settings;
pub use tokio::runtime::Runtime;

/// The runtime that a node runs on: a thread for each core.
pub fn runtime() -> Result<Runtime, StartError> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// How a configuration shapes the store.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    Settings {
        limit: config.store_limit.map(|size| size.0),
        min_free: config.min_free.0,
        hot_memory: config.hot_memory.0,
        upload_idle: config.upload_idle,
        finish_after: config.finish_after,
        ttl: config.ttl,
        disk_share: config.disk_share,
        publisher_share: Some(config.shares.publisher),
        strangers_share: Some(config.shares.strangers),
        trusted: config.shares.trusted.clone(),
        ..Settings::new(&config.store)
    }
}

/// Opens the store of a configuration with the key of its node.
pub fn open_store(config: &Config) -> Result<Store, StartError> {
    open_with(settings(config))
}

/// The same; all of its index is checked, however long that takes.
pub fn open_checked(config: &Config) -> Result<Store, StartError> {
    open_with(Settings {
        check_index: true,
        ..settings(config)
    })
}

fn open_with(settings: Settings) -> Result<Store, StartError> {
    // Before a key is made there.
    store::refuse_other(&settings)?;
    let key = identity::key_at(&settings.layout.node_key())?;
    Ok(Store::open(settings, key)?)
}

/// Runs a node until `stop` is done. `ready` is called once it listens.
pub async fn run(
    config: Config,
    ready: impl FnOnce(&Ready),
    stop: impl Future<Output = ()>,
) -> Result<(), StartError> {
    // Opening may take a while, as after a crash, and blocks.
    let opening = config.clone();
    let store = tokio::task::spawn_blocking(move || open_store(&opening))
        .await
        .map_err(std::io::Error::other)??;
    let health = Health::default();
    let held = AsyncStore::new(store.clone());
    let streams = Streams::bind(&config, &store).await?;
    // Before the API, which answers for the relay; a port that is taken ends the start early.
    let relay = start_relay(&config, &store, &health).await?;
    let handle = relay.as_ref().map(delivery::Running::handle);
    let mut warnings = store.warnings();
    if let Some(handle) = &handle {
        warnings.extend_from_slice(handle.warnings());
    }
    let relay_port = handle.as_ref().map(delivery::Handle::port);
    let token_given = config.api_token.is_some();
    let server = Server::bind(config, held, streams.studio(), handle, health.clone());
    let server = match server.await {
        Ok(server) => server,
        Err(error) => {
            // Its links are closed in order, too.
            if let Some(relay) = relay {
                relay.stop().await;
            }
            return Err(error.into());
        }
    };
    // Whoever is told that the node is ready may end it at once: it listens for that from before,
    // or the signal would just kill it.
    let mut stop = std::pin::pin!(stop);
    let is_over = stop.as_mut().now_or_never().is_some();
    ready(&Ready {
        address: server.address()?,
        publisher: store.publisher(),
        auth_required: server.auth_required(),
        token_file: (server.auth_required() && !token_given)
            .then(|| store.settings().layout.api_token()),
        relay_port,
        rtmp: streams.rtmp(),
        rtmps: streams.rtmps(),
        warnings,
    });
    let streams = streams.start(health.part("live"))?;
    let (house, disk) = (health.part("housekeeping"), health.part("disk"));
    let keeper = tokio::spawn(keep_house(store, house, disk));
    let stop = async {
        if !is_over {
            stop.await;
        }
        // First, as their viewers wait in requests that the API would wait for.
        streams.close().await;
    };
    server.run(stop).await;
    // With it the connections of its publishers end, which have been told.
    drop(streams);
    // Nothing is half done by that: its work is on a thread, which goes on to its end.
    keeper.abort();
    if let Some(relay) = relay {
        relay.stop().await;
    }
    Ok(())
}

/// Begins to meet other nodes, unless the configuration says not to.
async fn start_relay(
    config: &Config,
    store: &Store,
    health: &Health,
) -> Result<Option<delivery::Running>, StartError> {
    let Some(wanted) = &config.relay else {
        return Ok(None);
    };
    let settings = delivery::Settings {
        relay: behaviour(config, wanted, store),
        peers: wanted.peers.clone(),
        discovery: wanted.discovery,
        profiles: wanted.profiles.clone(),
    };
    let links = LinkConfig {
        addresses: wanted.addresses.clone(),
        port: wanted.port,
        choice: wanted.link,
        known_peers: Some(store.settings().layout.known_peers()),
        ..LinkConfig::new(store.signing_key().clone())
    };
    if store.is_read_only() {
        tracing::warn!("the store is read-only: this node gives what it has and takes nothing");
    }
    Ok(Some(
        delivery::start(
            links,
            settings,
            AsyncStore::new(store.clone()),
            health.part("relay"),
        )
        .await?,
    ))
}

/// How a configuration shapes the core of the relay.
fn behaviour(
    config: &Config,
    wanted: &RelayConfig,
    store: &Store,
) -> lavant_proto::delivery::Config {
    let [upload, download, peer_upload, peer_download] = wanted.limits;
    lavant_proto::delivery::Config {
        name: config.node_id.clone(),
        interest: wanted.interest.clone(),
        token: wanted.token.clone(),
        allow: (!wanted.allow.is_empty()).then(|| wanted.allow.clone()),
        trusted: config.shares.trusted.clone(),
        upload,
        download,
        peer_upload,
        peer_download,
        hops: wanted.hops,
        copies: wanted.copies,
        group: wanted.group.clone(),
        signer: Some(store.signing_key().clone()),
        // They decide only what a full store lets go first. Without a limit that was set, it may
        // have one by what the disk has free.
        count_copies: store.stats().limit.is_some(),
        ..lavant_proto::delivery::Config::new(store.publisher())
    }
}

async fn keep_house(store: Store, part: Part, disk: Part) {
    let mut beat = tokio::time::interval(HOUSEKEEPING);
    // After a sleep of the machine one round is enough.
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let store = store.clone();
        // A panic in it comes back as an error, so that the next beat tries again.
        let work = tokio::task::spawn_blocking(move || {
            if !store.is_read_only() {
                store.abort_idle_uploads();
                store.finish_idle();
                store.drop_stale_partials();
                store.recheck_disk();
                store.keep_reserve();
            }
            store.disk_fault()
        });
        match work.await {
            Ok(fault) => {
                part.ok();
                fault.map_or_else(|| disk.ok(), |fault| disk.fail(fault));
            }
            Err(_) => {
                tracing::error!("housekeeping failed");
                part.fail("it failed and is tried again; the log says why");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    #[test]
    fn copies_are_counted_by_each_store_that_lets_go() {
        for (limit, is_counted) in [
            ("", true),
            ("store_limit = \"1G\"", true),
            ("store_limit = \"0\"", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = folder.path().join("store");
            let text = format!("store = {store:?}\n{limit}");
            let config = Layer::parse(&text).unwrap().resolve().unwrap();
            let store = open_store(&config).unwrap();
            let relay = config.relay.as_ref().unwrap();
            let behaviour = behaviour(&config, relay, &store);
            assert_eq!(behaviour.count_copies, is_counted, "{limit}");
        }
    }
}
