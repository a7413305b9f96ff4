//! Addresses of this machine, and what kind of network an address is on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Whether an address is on this machine or in a private network, where TCP costs least and no
/// address translation is in the way.
#[must_use]
pub fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Where others can dial a node that listens on these addresses: an unspecified one stands for
/// all of the machine's. Those of this machine alone are given only when there are no others.
pub(super) async fn dialable(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut every: Option<Vec<IpAddr>> = None;
    for address in listening {
        if !address.ip().is_unspecified() {
            addresses.push(*address);
            continue;
        }
        if every.is_none() {
            every = Some(of_machine().await);
        }
        for ip in every.iter().flatten() {
            // IPv6 sockets take no IPv4 here, so that each stands for its own family.
            if ip.is_ipv4() == address.is_ipv4() {
                addresses.push(SocketAddr::new(*ip, address.port()));
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    // A loopback address would lead each node that hears it to itself.
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        addresses.retain(|address| !address.ip().is_loopback());
    }
    addresses
}

/// Addresses of this machine's interfaces. Those of a link alone (`fe80::`) are left out: they
/// cannot be dialled without the name of an interface.
async fn of_machine() -> Vec<IpAddr> {
    let state = netwatch::interfaces::State::new().await;
    let mut every = state.local_addresses.regular;
    if every.is_empty() {
        every = state.local_addresses.loopback;
    }
    if every.is_empty() {
        every.push(Ipv4Addr::LOCALHOST.into());
    }
    let is_link_alone = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    every.retain(|ip| !is_link_alone(ip));
    every
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_networks_are_near() {
        for (text, near) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.168.0.1", true),
            ("172.31.255.255", true),
            ("169.254.1.1", true),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::ffff:10.0.0.1", true),
            ("172.32.0.1", false),
            ("8.8.8.8", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_near(text.parse().unwrap()), near, "{text}");
        }
    }

    #[tokio::test]
    async fn an_unspecified_address_stands_for_those_of_the_machine() {
        let listening = ["0.0.0.0:7", "[::]:7"].map(|text| text.parse().unwrap());
        let addresses = dialable(&listening).await;
        assert!(!addresses.is_empty());
        for address in addresses {
            assert!(!address.ip().is_unspecified(), "{address}");
            assert_eq!(address.port(), 7);
        }
        let one = ["192.0.2.1:7".parse().unwrap()];
        assert_eq!(dialable(&one).await, one);
    }
}
