//! What an operator knows of links beforehand: `WHERE rate=2400 delay=700ms metered`.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use lavant_proto::contact::patience::{BATCH_BYTES_MIN, Profile};
use lavant_proto::ids::PublisherKey;

/// Longest time that a byte may take: to Pluto, and a little.
const DELAY_MAX: Duration = Duration::from_secs(12 * 3600);
/// Shortest message that a link may be said to carry.
const MTU_MIN: u32 = BATCH_BYTES_MIN as u32;

/// What is known of the links to a node or to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkProfile {
    to: Where,
    profile: Profile,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Node(PublisherKey),
    /// Addresses whose first bits are those of this one.
    Network(IpAddr, u8),
}

impl LinkProfile {
    /// What is known of the link to a node at an address: what is said of the node, or else of the
    /// smallest network that it is in.
    #[must_use]
    pub fn of(profiles: &[Self], node: &PublisherKey, address: IpAddr) -> Profile {
        let fits = profiles.iter().filter_map(|it| match it.to {
            Where::Node(key) => (key == *node).then_some((u8::MAX, it)),
            Where::Network(network, bits) => {
                is_inside(address.to_canonical(), network, bits).then_some((bits, it))
            }
        });
        let closest = fits.max_by_key(|(bits, _)| *bits);
        closest.map_or_else(Profile::default, |(_, it)| it.profile)
    }

    /// Reads what is said of links. `size` and `span` read numbers of bytes and times as the rest
    /// of the configuration does.
    pub fn parse(
        text: &str,
        size: impl Fn(&str) -> Option<u64>,
        span: impl Fn(&str) -> Option<Duration>,
    ) -> Result<Self, ProfileError> {
        let mut words = text.split_whitespace();
        let to = words.next().ok_or(ProfileError::Empty)?.parse()?;
        let mut profile = Profile::default();
        let mut any = false;
        for word in words {
            any = true;
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let bad = || ProfileError::Value(word.chars().take(100).collect());
            match (name, value) {
                ("half-duplex", "") => profile.half_duplex = true,
                ("metered", "") => profile.metered = true,
                ("rate", _) => {
                    let rate = size(value).filter(|rate| *rate > 0);
                    profile.rate = Some(rate.ok_or_else(bad)?);
                }
                ("delay", _) => {
                    let delay = span(value).filter(|delay| *delay <= DELAY_MAX);
                    profile.delay = delay.ok_or_else(bad)?;
                }
                ("mtu", _) => {
                    let bytes = size(value).and_then(|bytes| u32::try_from(bytes).ok());
                    let bytes = bytes.filter(|bytes| *bytes >= MTU_MIN);
                    profile.mtu = Some(bytes.ok_or_else(bad)?);
                }
                _ => return Err(bad()),
            }
        }
        if any {
            Ok(Self { to, profile })
        } else {
            Err(ProfileError::Nothing)
        }
    }
}

impl FromStr for Where {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let bad = || ProfileError::Where(text.chars().take(100).collect());
        if let Ok(key) = text.to_ascii_lowercase().parse() {
            return Ok(Self::Node(key));
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(bad());
        }
        Ok(Self::Network(address, bits))
    }
}

/// Whether the first bits of two addresses are the same.
fn is_inside(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (differs, length) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            // To the top of the number, where those of IPv6 begin.
            (u128::from(a.to_bits() ^ b.to_bits()) << 96, 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits(), 128),
        _ => return false,
    };
    bits <= length && differs.leading_zeros() >= u32::from(bits)
}

/// What is wrong with what was said of a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Nothing at all.
    #[error("it is empty; say where, and what is known: \"10.9.0.0/16 rate=300k delay=700ms\"")]
    Empty,
    /// Neither a key nor a network.
    #[error("'{0}' is neither a node's key nor an address nor a network such as 10.9.0.0/16")]
    Where(String),
    /// Only where.
    #[error(
        "it says where and nothing else; add rate=BYTES (a second), delay=TIME, mtu=BYTES, \
         half-duplex or metered"
    )]
    Nothing,
    /// A word that is not known, or its value.
    #[error(
        "'{0}' is none of rate=BYTES (a second), delay=TIME (at most 12 h), mtu=BYTES (at least \
         256), half-duplex, metered"
    )]
    Value(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LinkProfile, ProfileError> {
        let number = |text: &str| text.parse().ok();
        LinkProfile::parse(text, number, |text| number(text).map(Duration::from_millis))
    }

    #[test]
    fn what_is_closest_is_taken() {
        let key = lavant_proto::ids::SigningKey::from_seed(&[7; 32]).publisher();
        let other = PublisherKey([1; 32]);
        let profiles: Vec<LinkProfile> = [
            "0.0.0.0/0 rate=1000000".to_owned(),
            "10.9.0.0/16 rate=2400 delay=700 metered".to_owned(),
            "10.9.7.0/24 mtu=300 half-duplex".to_owned(),
            format!("{key} rate=37"),
            "fd00::/8 rate=5".to_owned(),
        ]
        .iter()
        .map(|text| parse(text).unwrap())
        .collect();
        let of = |node, address: &str| LinkProfile::of(&profiles, node, address.parse().unwrap());
        assert_eq!(of(&other, "192.168.1.1").rate, Some(1_000_000));
        let radio = of(&other, "10.9.1.1");
        let delay = Duration::from_millis(700);
        assert_eq!(
            (radio.rate, radio.delay, radio.metered),
            (Some(2400), delay, true)
        );
        assert_eq!(of(&other, "::ffff:10.9.1.1"), radio);
        let near = of(&other, "10.9.7.200");
        assert_eq!(
            (near.mtu, near.half_duplex, near.rate),
            (Some(300), true, None)
        );
        assert_eq!(of(&key, "10.9.7.200").rate, Some(37));
        assert_eq!(of(&other, "fd12::1").rate, Some(5));
        assert_eq!(of(&other, "fe12::1"), Profile::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(parse(" "), Err(ProfileError::Empty));
        assert_eq!(parse("10.0.0.1"), Err(ProfileError::Nothing));
        for place in [
            "ship",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "10.0.0.0/x",
        ] {
            let error = parse(&format!("{place} metered")).unwrap_err();
            assert_eq!(error, ProfileError::Where(place.to_owned()));
        }
        for word in [
            "rate=0",
            "rate",
            "mtu=255",
            "delay=99999999999",
            "metered=no",
            "fast",
        ] {
            let error = parse(&format!("10.0.0.1 {word}")).unwrap_err();
            assert_eq!(error, ProfileError::Value(word.to_owned()));
        }
    }
}
