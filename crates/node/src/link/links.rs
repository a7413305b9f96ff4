//! The links of a node: what it listens on, and what comes in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iroh::Endpoint;
use lavant_proto::ids::{PublisherKey, SigningKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::admit::Admission;
use super::network::{Network, NetworkChange};
use super::tls::TlsIdentity;
use super::uplinks::UpLinks;
use super::{BindError, KnownPeers, Link, LinkKind, addresses, listen, quic};

/// Links that wait to be accepted.
/// Few: what is not taken keeps its handshake in the pool, where it is counted.
const WAITING_MAX: usize = 16;
/// Ports that are tried before a free one is found for TCP and UDP together.
const PORT_TRIES: usize = 16;

/// Time for the sockets of a closed endpoint to be gone.
const SOCKETS_GONE_LIMIT: Duration = Duration::from_secs(1);

/// What a node listens on and how it dials.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Proves who this node is.
    pub key: SigningKey,
    /// Addresses to listen on.
    pub addresses: Vec<IpAddr>,
    /// The port, the same for TCP and UDP; 0 takes a free one.
    pub port: u16,
    /// The only kind of link that is dialled. With TCP alone, UDP is not even opened.
    pub choice: Option<LinkKind>,
    /// Where the keys of hosts are remembered that are dialled without one.
    pub known_peers: Option<PathBuf>,
    /// Time for a handshake that came in.
    pub handshake_limit: Duration,
    /// Time for a dial.
    pub dial_limit: Duration,
    /// Time after which the second kind of link is tried beside the first.
    pub second_kind_after: Duration,
    /// Most unfinished handshakes.
    pub handshakes_max: usize,
    /// Most unfinished handshakes of one source.
    pub handshakes_per_source_max: usize,
}

impl LinkConfig {
    /// Every address, any port, both kinds.
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        Self {
            key,
            addresses: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            port: 0,
            choice: None,
            known_peers: None,
            // A handshake takes two round trips; the rest is for packets that are lost.
            handshake_limit: Duration::from_secs(5),
            dial_limit: Duration::from_secs(10),
            second_kind_after: Duration::from_secs(2),
            // 16 KiB and an open file each.
            handshakes_max: 128,
            handshakes_per_source_max: 64,
        }
    }
}

/// Listens for links, and dials them. Everything stops when it is dropped; [`Links::close`] waits
/// for it. Links that are up over TCP go on.
pub struct Links {
    pub(super) key: PublisherKey,
    pub(super) config: LinkConfig,
    pub(super) tls: TlsIdentity,
    endpoint: Mutex<Option<Endpoint>>,
    pub(super) known: Option<Arc<KnownPeers>>,
    admission: Arc<Admission>,
    listening: Vec<SocketAddr>,
    pub(super) up: Arc<UpLinks>,
    /// How often an address of this machine came to be usable.
    pub(super) came: watch::Receiver<u64>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Box<dyn Link>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("key", &self.key)
            .field("listening", &self.listening)
            .finish_non_exhaustive()
    }
}

impl Links {
    /// Binds TCP and, unless TCP alone is wanted, UDP to one port. Needs a tokio runtime.
    pub async fn bind(config: LinkConfig) -> Result<Self, BindError> {
        let tls = TlsIdentity::new(&config.key).map_err(|error| BindError::Refused {
            address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.port),
            protocol: "TCP",
            reason: error.to_string(),
        })?;
        let (listeners, endpoint) = bind_both(&config).await?;
        let listening = listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect();
        let admission = Admission::new(config.handshakes_max, config.handshakes_per_source_max);
        let (sender, incoming) = mpsc::channel(WAITING_MAX);
        let up = Arc::<UpLinks>::default();
        let entry = listen::Entry {
            tls: tls.clone(),
            admission: Arc::clone(&admission),
            limit: config.handshake_limit,
            up: Arc::clone(&up),
            links: sender,
        };
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listen::tcp(listener, entry.clone()));
        }
        if let Some(endpoint) = &endpoint {
            tasks.spawn(listen::quic(endpoint.clone(), entry));
        }
        let (comes, came) = watch::channel(0);
        match Network::watch().await {
            Ok(network) => {
                tasks.spawn(follow(network, Arc::clone(&up), comes));
            }
            // Dead links are then found by the time-outs of their transports.
            Err(error) => tracing::info!(%error, "changes of the network are not noticed at once"),
        }
        Ok(Self {
            key: config.key.publisher(),
            known: config.known_peers.clone().map(KnownPeers::at).map(Arc::new),
            config,
            tls,
            endpoint: Mutex::new(endpoint),
            admission,
            listening,
            up,
            came,
            incoming: tokio::sync::Mutex::new(incoming),
            tasks: Mutex::new(tasks),
        })
    }

    /// The next link that came in, or nothing once this is closed. May be dropped early without
    /// loss.
    pub async fn accept(&self) -> Option<Box<dyn Link>> {
        self.incoming.lock().await.recv().await
    }

    /// This node's key.
    #[must_use]
    pub fn key(&self) -> PublisherKey {
        self.key
    }

    /// The port, the same for TCP and UDP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.listening.first().map_or(0, SocketAddr::port)
    }

    /// What is listened on, as it was bound.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Where others can dial this node.
    pub async fn local_addresses(&self) -> Vec<SocketAddr> {
        addresses::dialable(&self.listening).await
    }

    /// Changes whenever an address of this machine comes to be usable: what could not be reached
    /// before may be reached now.
    #[must_use]
    pub fn network_came(&self) -> watch::Receiver<u64> {
        self.came.clone()
    }

    /// How many connections came in and did not become links.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.admission.refused()
    }

    /// Stops listening and dialling, ends the links over QUIC, and gives the port free once those
    /// links are dropped. Waits a few seconds at most for other nodes to learn of it.
    pub async fn close(&self) {
        // In this order: nobody comes in, those who wait are dropped, then the endpoint ends.
        let mut tasks = std::mem::take(&mut *held(&self.tasks));
        tasks.shutdown().await;
        // Nobody can send any more, so this ends.
        while self.accept().await.is_some() {}
        let endpoint = held(&self.endpoint).take();
        if let Some(endpoint) = endpoint {
            close_endpoint(endpoint).await;
        }
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        held(&self.endpoint).clone()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(endpoint) = held(&self.endpoint).take()
            // Without a runtime nothing can be waited for; the sockets end with the process.
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(close_endpoint(endpoint));
        }
    }
}

/// Cuts the links whose way is gone, and tells when there may be a new one.
async fn follow(mut network: Network, up: Arc<UpLinks>, comes: watch::Sender<u64>) {
    loop {
        match network.changed().await {
            Ok(NetworkChange { came, gone }) => {
                // First, so that a dial to the same node does not find the dead link.
                let cut = up.cut(&gone);
                tracing::debug!(?came, ?gone, cut, "the network has changed");
                if !came.is_empty() {
                    comes.send_modify(|count| *count += 1);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "changes of the network are not noticed any more");
                return;
            }
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the endpoint and waits until its sockets are gone: their last owner closes them on
/// another thread.
async fn close_endpoint(endpoint: Endpoint) {
    let bound = endpoint.bound_sockets();
    endpoint.close().await;
    drop(endpoint);
    let free = async {
        for address in bound {
            while std::net::UdpSocket::bind(address).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(SOCKETS_GONE_LIMIT, free).await.ok();
}

type Bound = (Vec<tokio::net::TcpListener>, Option<Endpoint>);

/// Binds TCP first; a free port is only good when UDP has it free too.
async fn bind_both(config: &LinkConfig) -> Result<Bound, BindError> {
    // A port that the operator named is the one, or none.
    let mut tries = if config.port == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let listeners = listen::bind_tcp(&config.addresses, config.port);
        let bound = match listeners {
            Ok(listeners) => bind_udp(config, listeners).await,
            Err(error) => Err(error),
        };
        match bound {
            // The listeners are dropped with the error, so that the next try gets another port.
            Err(BindError::InUse { .. }) if tries > 0 => {}
            other => return other,
        }
    }
}

async fn bind_udp(
    config: &LinkConfig,
    listeners: Vec<tokio::net::TcpListener>,
) -> Result<Bound, BindError> {
    if config.choice == Some(LinkKind::Tcp) {
        return Ok((listeners, None));
    }
    let first = listeners.first().and_then(|first| first.local_addr().ok());
    let port = first.ok_or(BindError::NoAddress)?.port();
    match quic::bind(&config.key, &config.addresses, port).await {
        Ok(endpoint) => Ok((listeners, Some(endpoint))),
        Err(reason) => Err(why_no_udp(&config.addresses, port, reason)),
    }
}

/// The endpoint's error names neither the port nor the cause, so the system is asked again.
fn why_no_udp(addresses: &[IpAddr], port: u16, reason: String) -> BindError {
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        if let Err(error) = std::net::UdpSocket::bind(address) {
            return listen::bind_error(address, "UDP", &error);
        }
    }
    let ip = addresses.first().copied();
    BindError::Refused {
        address: SocketAddr::new(ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port),
        protocol: "UDP",
        reason,
    }
}
