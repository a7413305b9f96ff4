//! The part of the configuration that says whom a node meets and what it carries.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lavant_proto::contact::hello::{CONTENTS_MAX, Interest, NAMES_MAX, Token};
use lavant_proto::ids::{ContentId, PublisherKey};
use lavant_proto::relay::message::RECEIPTS_MAX;

use super::{ConfigError, Layer, token};
use crate::link::{LinkKind, LinkProfile};
pub use crate::link::{Target, TargetError};

/// Port of the relay unless configured.
pub const DEFAULT_RELAY_PORT: u16 = 7778;
/// Percent of the store that one unknown publisher may take unless configured.
const PUBLISHER_SHARE: u8 = 50;
/// Percent of the store that all of them together may take unless configured.
const STRANGERS_SHARE: u8 = 80;

/// Whom a node meets and what it carries.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Where links come in.
    pub addresses: Vec<IpAddr>,
    /// Port of the links, for TCP and UDP.
    pub port: u16,
    /// The only kind of link, if there is only one.
    pub link: Option<LinkKind>,
    /// Nodes to meet.
    pub peers: Vec<Target>,
    /// What is known of links beforehand.
    pub profiles: Vec<LinkProfile>,
    /// Whether nodes on the same network are looked for.
    pub discovery: bool,
    /// What all nodes of the group know.
    pub token: Option<Token>,
    /// The only nodes that are met; all when empty.
    pub allow: BTreeSet<PublisherKey>,
    /// Whose contents are taken from others.
    pub interest: Interest,
    /// Nodes that should all have everything.
    pub group: BTreeSet<PublisherKey>,
    /// Bytes a second sent to all, fetched from all, sent to each, fetched from each.
    pub limits: [Option<u64>; 4],
    /// Over how many nodes contents are carried, by rank of priority; 0 for any number.
    pub hops: [u8; 3],
    /// How many copies are made, by rank of priority; 0 for any number.
    pub copies: [u16; 3],
}

/// What of the configuration is the store's.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Percent of the store's limit that one unknown publisher may take.
    pub publisher: u8,
    /// Percent that all of them together may take.
    pub strangers: u8,
    /// Publishers that may take all of it.
    pub trusted: BTreeSet<PublisherKey>,
}

fn wrong(key: &str, what: impl std::fmt::Display) -> ConfigError {
    ConfigError::Value(format!("{key}: {what}"))
}

fn keys(name: &str, texts: Option<&[String]>) -> Result<BTreeSet<PublisherKey>, ConfigError> {
    let parse = |text: &String| text.parse().map_err(|error| wrong(name, error));
    texts.unwrap_or_default().iter().map(parse).collect()
}

fn group(nodes: BTreeSet<PublisherKey>) -> Result<BTreeSet<PublisherKey>, ConfigError> {
    // A summary has room for one receipt of each of them.
    if nodes.len() as u64 > RECEIPTS_MAX {
        return Err(wrong(
            "group",
            format!("a group has at most {RECEIPTS_MAX} nodes"),
        ));
    }
    Ok(nodes)
}

impl Layer {
    /// The relay's part, with its defaults; none when the relay is switched off.
    pub(super) fn resolve_relay(&self) -> Result<Option<RelayConfig>, ConfigError> {
        if self.relay == Some(false) {
            return Ok(None);
        }
        let link = match self.link.as_deref() {
            None | Some("auto") => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|error| wrong("link", format!("{error}, or 'auto'")))?,
            ),
        };
        let peers = self.peer.as_deref().unwrap_or_default().iter();
        let peers: Result<Vec<Target>, _> = peers
            .map(|text| text.parse().map_err(|error| wrong("peer", error)))
            .collect();
        let token = match self.relay_token.as_deref() {
            None | Some("") => None,
            Some(text) => Some(token::of_text(text).map_err(|error| wrong("relay_token", error))?),
        };
        let any = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        // 0 stands for no limit.
        let limit = |size: Option<super::Size>| size.map(|size| size.0).filter(|rate| *rate > 0);
        Ok(Some(RelayConfig {
            addresses: self.relay_bind.clone().unwrap_or(any),
            port: self.relay_port.unwrap_or(DEFAULT_RELAY_PORT),
            link,
            peers: peers?,
            profiles: self.profiles()?,
            discovery: self.discovery.unwrap_or(true),
            token,
            allow: keys("allow_node", self.allow_node.as_deref())?,
            interest: self.interest()?,
            group: group(keys("group", self.group.as_deref())?)?,
            limits: [
                self.upload_limit,
                self.download_limit,
                self.peer_upload_limit,
                self.peer_download_limit,
            ]
            .map(limit),
            hops: [self.hops_vod, self.hops_near_live, self.hops_live]
                .map(|hops| hops.unwrap_or(0)),
            copies: [self.copies_vod, self.copies_near_live, self.copies_live]
                .map(|copies| copies.unwrap_or(0)),
        }))
    }

    fn profiles(&self) -> Result<Vec<LinkProfile>, ConfigError> {
        let texts = self.link_profile.as_deref().unwrap_or_default().iter();
        let size = |text: &str| text.parse().ok().map(|size: super::Size| size.0);
        let span = |text: &str| text.parse().ok().map(|span: super::Span| span.0);
        texts
            .map(|text| {
                LinkProfile::parse(text, size, span).map_err(|error| wrong("link_profile", error))
            })
            .collect()
    }

    fn interest(&self) -> Result<Interest, ConfigError> {
        let mut interest = Interest::default();
        let carry = self.carry.as_deref().unwrap_or(&[]);
        match carry {
            // A node carries what it meets unless its operator says otherwise.
            [] => interest.all = true,
            [one] if one == "all" => interest.all = true,
            [one] if one == "none" => {}
            _ => {
                interest.publishers = keys("carry", Some(carry))
                    .map_err(|error| ConfigError::Value(format!("{error}; or all, or none")))?;
            }
        }
        for text in self.want.as_deref().unwrap_or_default() {
            let (publisher, id) = match text.split_once('/') {
                Some((key, id)) => {
                    let key = key.parse().map_err(|error| wrong("want", error))?;
                    (Some(key), id)
                }
                None => (None, text.as_str()),
            };
            let id = ContentId::new(id).map_err(|error| wrong("want", error))?;
            interest.contents.insert((id, publisher));
        }
        // A hello has room for no more: every other node would take a longer one for a lie. The
        // node's own key comes to the publishers.
        let most = [
            ("carry", interest.publishers.len() as u64, NAMES_MAX - 1),
            ("want", interest.contents.len() as u64, CONTENTS_MAX),
        ];
        for (key, count, most) in most {
            if count > most {
                let what = format!("{count} are named, and other nodes can be told of {most}");
                return Err(wrong(key, what));
            }
        }
        Ok(interest)
    }

    pub(super) fn resolve_shares(&self) -> Result<Shares, ConfigError> {
        let share = |name: &str, percent: Option<u8>, default: u8| {
            let percent = percent.unwrap_or(default);
            let fits = (1..=100).contains(&percent).then_some(percent);
            fits.ok_or_else(|| wrong(name, "a share is 1 to 100 percent"))
        };
        Ok(Shares {
            publisher: share("publisher_share", self.publisher_share, PUBLISHER_SHARE)?,
            strangers: share("strangers_share", self.strangers_share, STRANGERS_SHARE)?,
            trusted: keys("trust", self.trust.as_deref())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use lavant_proto::contact::hello::Hello;
    use lavant_proto::contact::message::ContactMessage;
    use lavant_proto::ids::SigningKey;
    use lavant_proto::message::Message;

    use super::*;

    fn layer(text: &str) -> Layer {
        Layer::parse(text).unwrap()
    }

    #[test]
    fn everything_is_carried_unless_told_otherwise() {
        let interest = |text| layer(text).resolve_relay().unwrap().unwrap().interest;
        assert!(interest("").all);
        assert!(interest("carry = [\"all\"]").all);
        let some = interest("carry = [\"none\"]\nwant = [\"film\"]");
        assert!(!some.all && some.publishers.is_empty());
        assert_eq!(some.contents.len(), 1);
        let key = SigningKey::from_seed(&[1; 32]).publisher();
        let some = interest(&format!("carry = [\"{key}\"]\nwant = [\"{key}/film\"]"));
        assert_eq!(some.publishers.len(), 1);
        assert!(layer("relay = false").resolve_relay().unwrap().is_none());
    }

    #[test]
    fn no_more_is_named_than_a_hello_has_room_for() {
        let interest = |text: &str| {
            let relay = layer(text).resolve_relay();
            relay.map(|relay| relay.unwrap().interest)
        };
        let carry = |count: u16| {
            let keys = (0..count).map(|n| {
                let mut seed = [0; 32];
                seed[..2].copy_from_slice(&n.to_le_bytes());
                format!("\"{}\"", SigningKey::from_seed(&seed).publisher())
            });
            format!("carry = [{}]", keys.collect::<Vec<_>>().join(","))
        };
        let want = |count: u16| {
            let ids = (0..count).map(|n| format!("\"{n:0>100}\""));
            format!("want = [{}]", ids.collect::<Vec<_>>().join(","))
        };
        let mut most = interest(&format!("{}\n{}", carry(511), want(256))).unwrap();
        most.publishers.insert(PublisherKey([255; 32]));
        let hello = Hello::new("ship".into(), most, None);
        let message = Message::from(ContactMessage::Hello(hello));
        assert_eq!(Message::decode(&message.encode()), Ok(message));
        for (key, text) in [("carry", carry(512)), ("want", want(257))] {
            let said = interest(&text).unwrap_err().to_string();
            assert!(said.contains(key) && said.contains("are named"), "{said}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |text| layer(text).resolve_relay().unwrap_err().to_string();
        assert!(error("link = \"udp\"").contains("quic"));
        assert!(error("peer = [\"ship\"]").contains("HOST:PORT"));
        let profile = error("link_profile = [\"10.0.0.0/8 rate=slow\"]");
        assert!(
            profile.starts_with("link_profile: 'rate=slow' is none of rate=BYTES"),
            "{profile}"
        );
        let short = error("relay_token = \"short\"");
        assert!(
            short.contains("12 characters") && short.contains("lavant key token"),
            "{short}"
        );
        assert!(error("carry = [\"some\"]").contains("64 hexadecimal"));
        assert!(error("want = [\"a/b\"]").contains("64 hexadecimal"));
        let share = layer("publisher_share = 0").resolve_shares();
        assert!(share.unwrap_err().to_string().contains("percent"));
    }
}
