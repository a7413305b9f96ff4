//! Connections that come in: each has its handshake in a task of its own, within limits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iroh::Endpoint;
use iroh::endpoint::{Incoming, IncomingAddr};
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::admit::{Admission, Permit, Stage};
use super::frame::shown;
use super::handshake::HandshakeError;
use super::quic::QuicLink;
use super::tcp::TcpLink;
use super::tls::{ALPN, TlsIdentity};
use super::uplinks::UpLinks;
use super::{BindError, Link};

/// Connections that the system holds until they are looked at.
const BACKLOG: i32 = 256;
/// Pause after the system refused to give out a connection (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection needs to become a link.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) tls: TlsIdentity,
    pub(super) admission: Arc<Admission>,
    pub(super) limit: Duration,
    pub(super) up: Arc<UpLinks>,
    pub(super) links: mpsc::Sender<Box<dyn Link>>,
}

/// Listens on one port at all addresses. IPv6 may be missing where every address is meant.
pub(super) fn bind_tcp(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for ip in addresses {
        // A free port that the first address got is the one for all of them.
        let first = listeners.first().and_then(|first| first.local_addr().ok());
        let address = SocketAddr::new(*ip, first.map_or(port, |first| first.port()));
        match bind_one(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let in_use = error.kind() == io::ErrorKind::AddrInUse;
                // What the operator named has to work; of *all addresses* one family may be
                // missing, but never because somebody else has the port.
                if listeners.is_empty() || !ip.is_unspecified() || in_use {
                    return Err(bind_error(address, "TCP", &error));
                }
                tracing::info!(%address, %error, "not listening there");
            }
        }
    }
    if listeners.is_empty() {
        return Err(BindError::NoAddress);
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A node that is started again must not wait until the connections of the last one are
    // forgotten.
    set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // IPv4 has its own socket on the same port.
        set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

pub(super) fn bind_error(
    address: SocketAddr,
    protocol: &'static str,
    error: &io::Error,
) -> BindError {
    if error.kind() == io::ErrorKind::AddrInUse {
        let port = address.port();
        return BindError::InUse { port, protocol };
    }
    BindError::Refused {
        address,
        protocol,
        reason: error.to_string(),
    }
}

/// Takes connections until it is aborted.
pub(super) async fn tcp(listener: TcpListener, entry: Entry) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => match entry.admission.enter(remote.ip(), Stage::Silent) {
                    Ok(permit) => {
                        handshakes.spawn(tcp_handshake(stream, remote, entry.clone(), permit));
                    }
                    Err(reason) => entry.admission.refuse(remote, reason),
                },
                Err(error) => {
                    entry.admission.refuse("TCP", error);
                    // The error comes back at once, and this loop would keep a core busy.
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // Tasks that have ended are taken out, or the set would grow with each connection.
            Some(_) = handshakes.join_next() => {}
        }
    }
}

async fn tcp_handshake(mut tcp: TcpStream, remote: SocketAddr, entry: Entry, permit: Permit) {
    // A system that cannot do it is slower, and no worse.
    tcp.set_nodelay(true).ok();
    let shaken = async {
        let handshake = entry.tls.accept();
        let handshake = handshake.map_err(|error| HandshakeError::NotLavant(error.to_string()))?;
        let begun = || permit.reached(Stage::Begun);
        handshake.run_telling(&mut tcp, begun).await
    };
    let reason = match within(entry.limit, &permit, shaken).await {
        Ok(Ok(opened)) if opened.alpn == ALPN => {
            permit.reached(Stage::Proved);
            // Watched before it is handed on, as its address may go in between.
            let link = TcpLink::new(tcp, canonical(remote), opened).watched(&entry.up);
            let link = Box::new(link);
            // The permit is held until the link is taken: links that nobody takes count against the
            // pool. The send fails only when the node is stopping.
            entry.links.send(link).await.ok();
            return;
        }
        // One that only wanted to know the key.
        Ok(Ok(_)) => return,
        Ok(Err(HandshakeError::Io(error))) => error.to_string(),
        Ok(Err(HandshakeError::BrokeOff)) => "it broke off".to_owned(),
        Ok(Err(HandshakeError::OtherKey(key))) => format!("it has the key {key}"),
        Ok(Err(HandshakeError::NotLavant(reason))) => reason,
        Err(reason) => reason.to_owned(),
    };
    entry.admission.refuse(remote, reason);
}

/// A handshake until its time is over or another one takes its place.
async fn within<T>(
    limit: Duration,
    permit: &Permit,
    shaken: impl Future<Output = T>,
) -> Result<T, &'static str> {
    tokio::select! {
        shaken = timeout(limit, shaken) => shaken.map_err(|_| "its handshake took too long"),
        () = permit.pushed_out() => Err("newer handshakes took its place"),
    }
}

/// Takes connections until the endpoint is closed.
pub(super) async fn quic(endpoint: Endpoint, entry: Entry) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = endpoint.accept() => match accepted {
                Some(incoming) => {
                    if let Some((incoming, remote, permit)) = admit(incoming, &entry) {
                        handshakes.spawn(quic_handshake(incoming, remote, entry.clone(), permit));
                    }
                }
                None => return,
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
}

fn admit(incoming: Incoming, entry: &Entry) -> Option<(Incoming, SocketAddr, Permit)> {
    // Other ways than UDP are switched off, so that nobody honest comes by one.
    let IncomingAddr::Ip(remote) = incoming.remote_addr() else {
        incoming.refuse();
        return None;
    };
    // A datagram's source is easily forged, so a crowd has to show that it can be answered.
    if entry.admission.is_busy() && !incoming.remote_addr_validated() {
        incoming.retry().ok();
        return None;
    }
    // Its source was proven, as a TCP connection proves it before it says anything.
    let stage = if incoming.remote_addr_validated() {
        Stage::Begun
    } else {
        Stage::Silent
    };
    match entry.admission.enter(remote.ip(), stage) {
        Ok(permit) => Some((incoming, remote, permit)),
        Err(reason) => {
            entry.admission.refuse(remote, reason);
            incoming.refuse();
            None
        }
    }
}

async fn quic_handshake(incoming: Incoming, remote: SocketAddr, entry: Entry, permit: Permit) {
    let shaken = async {
        // What these say may come from the other side.
        let told = |error: String| shown(error.as_bytes());
        let connection = incoming.await.map_err(|error| told(format!("{error:#}")))?;
        QuicLink::accepted(connection, canonical(remote))
            .await
            .map_err(|error| told(error.to_string()))
    };
    let reason = match within(entry.limit, &permit, shaken).await {
        Ok(Ok(link)) => {
            permit.reached(Stage::Proved);
            let link = Box::new(link.watched(&entry.up));
            entry.links.send(link).await.ok();
            return;
        }
        Ok(Err(reason)) => reason,
        Err(reason) => reason.to_owned(),
    };
    entry.admission.refuse(remote, reason);
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
