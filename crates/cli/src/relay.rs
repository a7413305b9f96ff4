//! What a node can be told of other nodes, and `lavant peers`.

use std::net::IpAddr;
use std::process::ExitCode;

use lavant_node::config::{Layer, Size};
use lavant_node::http::PeerEntry;

use crate::content::NodeArgs;
use crate::output;

/// Whom a node meets and what it carries.
#[derive(clap::Args)]
#[command(next_help_heading = "Other nodes")]
pub(crate) struct RelayArgs {
    /// Meet nobody
    #[arg(long, env = "LAVANT_NO_RELAY")]
    no_relay: bool,
    /// Port of the links to other nodes, TCP and UDP [default: 7778]
    #[arg(long, env = "LAVANT_RELAY_PORT", value_name = "PORT")]
    relay_port: Option<u16>,
    /// Address that links come in at (repeat) [default: 0.0.0.0 and ::]
    #[arg(
        long,
        env = "LAVANT_RELAY_BIND",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    relay_bind: Option<Vec<IpAddr>>,
    /// Use only quic or only tcp; auto picks [default: auto]
    #[arg(long, env = "LAVANT_LINK", value_name = "KIND")]
    link: Option<String>,
    /// A node to meet: HOST:PORT or KEY@HOST:PORT (repeat)
    #[arg(long, env = "LAVANT_PEER", value_name = "PEER", value_delimiter = ',')]
    peer: Option<Vec<String>>,
    /// What is known of a link: "WHERE rate=300k delay=700ms mtu=500 half-duplex metered", WHERE
    /// being a node's key, an address or a network (repeat)
    #[arg(
        long,
        env = "LAVANT_LINK_PROFILE",
        value_name = "PROFILE",
        value_delimiter = ','
    )]
    link_profile: Option<Vec<String>>,
    /// Do not look for nodes on the same network
    #[arg(long, env = "LAVANT_NO_DISCOVERY")]
    no_discovery: bool,
    /// Meet only nodes with the same token; it is proven, never sent
    #[arg(
        long,
        env = "LAVANT_RELAY_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    relay_token: Option<String>,
    /// Meet only this node (repeat)
    #[arg(
        long,
        env = "LAVANT_ALLOW_NODE",
        value_name = "KEY",
        value_delimiter = ','
    )]
    allow_node: Option<Vec<String>>,
    /// Whose contents are carried for others: all, none, or KEY (repeat) [default: all]
    #[arg(
        long,
        env = "LAVANT_CARRY",
        value_name = "WHOSE",
        value_delimiter = ','
    )]
    carry: Option<Vec<String>>,
    /// A content to fetch: CONTENT_ID or KEY/CONTENT_ID (repeat)
    #[arg(
        long,
        env = "LAVANT_WANT",
        value_name = "CONTENT",
        value_delimiter = ','
    )]
    want: Option<Vec<String>>,
    /// A node of a group: what all of them have is the first to go when a store is full (repeat)
    #[arg(long, env = "LAVANT_GROUP", value_name = "KEY", value_delimiter = ',')]
    group: Option<Vec<String>>,
    /// Bytes a second sent to all nodes, such as 2M [default: no limit]
    #[arg(long, env = "LAVANT_UPLOAD_LIMIT", value_name = "RATE")]
    upload_limit: Option<Size>,
    /// Bytes a second fetched from all nodes [default: no limit]
    #[arg(long, env = "LAVANT_DOWNLOAD_LIMIT", value_name = "RATE")]
    download_limit: Option<Size>,
    /// Bytes a second sent to each node [default: no limit]
    #[arg(long, env = "LAVANT_PEER_UPLOAD_LIMIT", value_name = "RATE")]
    peer_upload_limit: Option<Size>,
    /// Bytes a second fetched from each node [default: no limit]
    #[arg(long, env = "LAVANT_PEER_DOWNLOAD_LIMIT", value_name = "RATE")]
    peer_download_limit: Option<Size>,
    /// Over how many nodes live contents are carried [default: any]
    #[arg(long, env = "LAVANT_HOPS_LIVE", value_name = "N")]
    hops_live: Option<u8>,
    /// Over how many nodes near-live contents are carried [default: any]
    #[arg(long, env = "LAVANT_HOPS_NEAR_LIVE", value_name = "N")]
    hops_near_live: Option<u8>,
    /// Over how many nodes on-demand contents are carried [default: any]
    #[arg(long, env = "LAVANT_HOPS_VOD", value_name = "N")]
    hops_vod: Option<u8>,
    /// How many copies are made of live contents [default: any]
    #[arg(long, env = "LAVANT_COPIES_LIVE", value_name = "N")]
    copies_live: Option<u16>,
    /// How many copies are made of near-live contents [default: any]
    #[arg(long, env = "LAVANT_COPIES_NEAR_LIVE", value_name = "N")]
    copies_near_live: Option<u16>,
    /// How many copies are made of on-demand contents [default: any]
    #[arg(long, env = "LAVANT_COPIES_VOD", value_name = "N")]
    copies_vod: Option<u16>,
    /// Share of the store that one unknown publisher may take [default: 50]
    #[arg(long, env = "LAVANT_PUBLISHER_SHARE", value_name = "PERCENT")]
    publisher_share: Option<u8>,
    /// Share of the store that all unknown publishers together may take [default: 80]
    #[arg(long, env = "LAVANT_STRANGERS_SHARE", value_name = "PERCENT")]
    strangers_share: Option<u8>,
    /// A publisher that may take all of the store (repeat)
    #[arg(long, env = "LAVANT_TRUST", value_name = "KEY", value_delimiter = ',')]
    trust: Option<Vec<String>>,
}

impl RelayArgs {
    /// As a layer of the configuration that says nothing else.
    pub(crate) fn layer(self) -> Layer {
        Layer {
            // A flag that is not given says nothing, so that the file below it can.
            relay: self.no_relay.then_some(false),
            discovery: self.no_discovery.then_some(false),
            relay_port: self.relay_port,
            relay_bind: self.relay_bind,
            link: self.link,
            peer: self.peer,
            link_profile: self.link_profile,
            relay_token: self.relay_token,
            allow_node: self.allow_node,
            carry: self.carry,
            want: self.want,
            group: self.group,
            upload_limit: self.upload_limit,
            download_limit: self.download_limit,
            peer_upload_limit: self.peer_upload_limit,
            peer_download_limit: self.peer_download_limit,
            hops_live: self.hops_live,
            hops_near_live: self.hops_near_live,
            hops_vod: self.hops_vod,
            copies_live: self.copies_live,
            copies_near_live: self.copies_near_live,
            copies_vod: self.copies_vod,
            publisher_share: self.publisher_share,
            strangers_share: self.strangers_share,
            trust: self.trust,
            ..Layer::default()
        }
    }
}

/// Arguments of `lavant peers`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lavant peers\n  \
    lavant peers --add ship.example:7778\n  \
    lavant peers --remove ship.example:7778")]
pub(crate) struct PeersArgs {
    /// Meet a node: HOST:PORT or KEY@HOST:PORT
    #[arg(long, value_name = "PEER", conflicts_with = "remove")]
    add: Option<String>,
    /// Forget a node that was named
    #[arg(long, value_name = "PEER")]
    remove: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) fn peers(args: &PeersArgs) -> anyhow::Result<ExitCode> {
    let client = args.node.client()?;
    for (method, peer) in [("POST", &args.add), ("DELETE", &args.remove)] {
        let Some(peer) = peer else { continue };
        let body = serde_json::json!({ "address": peer });
        let answer: serde_json::Value = client.call_with(method, "/peers", &body)?;
        if args.node.json {
            output::json(&answer)?;
        } else {
            let done = if method == "POST" {
                "will be met"
            } else {
                "is forgotten"
            };
            output::line(format_args!("{peer} {done}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let peers: Vec<PeerEntry> = client.get("/peers")?;
    if args.node.json {
        output::json(&peers)?;
        return Ok(ExitCode::SUCCESS);
    }
    if peers.is_empty() {
        output::line("no other node is known; name one with 'lavant peers --add HOST:PORT'");
    }
    for peer in &peers {
        let link = peer.link.as_deref().unwrap_or("-");
        output::line(format_args!(
            "{:<28} {:<10} {:<5} in {:>9}  out {:>9}  {}",
            peer.address,
            peer.state,
            link,
            output::bytes(peer.received_bytes),
            output::bytes(peer.sent_bytes),
            peer.name
        ));
        if let Some(error) = &peer.error {
            output::line(format_args!("  {error}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
