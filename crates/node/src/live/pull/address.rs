//! Which addresses a stream may be pulled from: those of the open internet, and others only where
//! the operator says so. Whoever can name a URL could otherwise make this node ask machines that
//! only it reaches (server-side request forgery, OWASP).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Whether an address belongs to the open internet (the registries of RFC 6890).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let is_special = match v4.octets() {
        // "This network", shared by a carrier's customers (RFC 6598), protocol assignments.
        [0, ..] | [192, 0, 0, _] => true,
        [100, second, ..] => (64..128).contains(&second),
        // Benchmarks (RFC 2544), and what is reserved.
        [198, 18 | 19, ..] | [240..=255, ..] => true,
        _ => false,
    };
    !(is_special
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_documentation())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    // Global unicast is 2000::/3 alone; 2001:db8::/32 is for documentation.
    let [first, second, ..] = v6.segments();
    first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0xdb8)
}

/// The address of version 4 that one of version 6 stands for: mapped, NAT64 (RFC 6052), and 6to4
/// (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(join(g, h)),
        (0x2002, ..) => Some(join(b, c)),
        _ => None,
    }
}

/// What is told of an address that is not to be asked.
pub(super) fn refusal(host: &str) -> String {
    format!(
        "{host} is no address of the open internet; add --allow-private if streams of this \
         network may be pulled"
    )
}

/// Addresses of a host that may be asked.
///
/// # Errors
/// When there are none, with the reason.
pub(super) async fn resolve(
    host: &str,
    port: u16,
    with_private: bool,
) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| format!("{host} is not found: {error}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    if !with_private {
        let all = found.len();
        found.retain(|address| is_public(address.ip()));
        if found.is_empty() && all > 0 {
            return Err(refusal(host));
        }
    }
    if found.is_empty() {
        return Err(format!("{host} has no address"));
    }
    Ok(found)
}

/// Looks names up for the HTTP client. It connects to what this gives, so that a name cannot mean
/// another address after it was looked at (DNS rebinding).
pub(super) struct Guard {
    pub(super) with_private: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let with_private = self.with_private;
        Box::pin(async move {
            // The client puts the port of its URL in.
            let found = resolve(name.as_str(), 0, with_private).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_internet_is_public() {
        for public in ["8.8.8.8", "193.0.6.139", "2a00:1450::1", "64:ff9b::808:808"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.20.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }
}
