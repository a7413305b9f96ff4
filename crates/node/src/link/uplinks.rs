//! The links that are up, by the address of this machine that they use: when that address cannot
//! be used any more, its links are cut at once. Left alone, a transport would wait for half a
//! minute, and then longer, until it tries again.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// Why such a link ended.
pub(super) const WAY_GONE: &str = "the network interface that it used is down";

/// What cuts a link; it does not keep it up.
pub(super) trait Cutter: Debug + Send {
    /// Whether there was still something to cut.
    fn cut(&self) -> bool;

    fn is_over(&self) -> bool;
}

/// The links that are up.
#[derive(Debug, Default)]
pub(super) struct UpLinks(Mutex<Vec<(IpAddr, Box<dyn Cutter>)>>);

impl UpLinks {
    /// Adds a link that uses this address of the machine. Those that are over go.
    pub(super) fn add(&self, local: Option<IpAddr>, cutter: impl Cutter + 'static) {
        // A link whose address is not known is not cut early; its own time-outs end it.
        let Some(local) = local else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Here, as links that are over do not say so.
        all.retain(|(_, cutter)| !cutter.is_over());
        all.push((local.to_canonical(), Box::new(cutter)));
    }

    /// Cuts the links of addresses that cannot be used any more; returns how many there were.
    pub(super) fn cut(&self, gone: &BTreeSet<IpAddr>) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out as they are cut: the address may come back, and with it new links.
        let of_gone = all.extract_if(.., |(local, _)| gone.contains(local));
        of_gone.filter(|(_, cutter)| cutter.cut()).count()
    }
}

/// The address of this machine from which the system sends to another one. Nothing is sent.
pub(super) fn local_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    // Connecting a UDP socket asks the routing table, and sends nothing.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
