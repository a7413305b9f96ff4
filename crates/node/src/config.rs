//! Configuration: defaults, then the file, then `LAVANT_*`, then flags.
//!
//! A [`Layer`] holds what one of these places says; layers are laid over each other and become a
//! [`Config`], in which everything has a value. `lavant.example.toml` lists every key.

mod live;
mod relay;
mod token;

pub use live::LiveConfig;
pub use relay::{DEFAULT_RELAY_PORT, RelayConfig, Shares, Target, TargetError};
pub use token::new_token;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason given.
        reason: String,
    },
    /// The file is not what it should be.
    #[error("the configuration file {path} is wrong: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A size that is no size.
    #[error("{0:?} is not a size; write for example 500M, 20G or 1T (units of 1000), or 0")]
    Size(String),
    /// A duration that is no duration.
    #[error("{0:?} is not a duration; write for example 30s, 30m, 6h or 30d")]
    Duration(String),
    /// A value that makes no sense.
    #[error("{0}")]
    Value(String),
}

/// A number of bytes, written as `500M` or `20GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl std::str::FromStr for Size {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Size(text.to_owned());
        let (digits, unit) = split_number(text).ok_or_else(bad)?;
        let unit: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1000,
            "m" | "mb" => 1_000_000,
            "g" | "gb" => 1_000_000_000,
            "t" | "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(bad()),
        };
        scale(digits, unit).map(Self).ok_or_else(bad)
    }
}

/// A length of time, written as `30m` or `6h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Duration(text.to_owned());
        let (digits, unit) = split_number(text).ok_or_else(bad)?;
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let span = scale(digits, unit)
            .map(Duration::from_millis)
            .ok_or_else(bad)?;
        let longest = Duration::from_secs(lavant_proto::limits::TTL_SECONDS_MAX);
        if span > longest {
            Err(bad())
        } else {
            Ok(Self(span))
        }
    }
}

fn split_number(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], text[end..].trim()))
}

/// A decimal number of units, without going through floating point for whole ones.
fn scale(digits: &str, unit: u64) -> Option<u64> {
    // A float has 53 bits, which a whole number of bytes may exceed.
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let number: f64 = digits.parse().ok()?;
    let scaled = number * unit as f64;
    (scaled.is_finite() && scaled < 1e18).then_some(scaled as u64)
}

macro_rules! from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

from_text!(Size, Span);

/// What one place says; absent keys leave the value to the place below.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Port of the HTTP API.
    pub port: Option<u16>,
    /// Address that the HTTP API listens on.
    pub bind: Option<IpAddr>,
    /// Folder of the store.
    pub store: Option<PathBuf>,
    /// Name of the node shown to people.
    pub node_id: Option<String>,
    /// Most bytes that the store may take.
    pub store_limit: Option<Size>,
    /// Bytes of the disk that stay free.
    pub min_free: Option<Size>,
    /// Memory for recent live segments.
    pub hot_memory: Option<Size>,
    /// Largest segment that is accepted.
    pub segment_limit: Option<Size>,
    /// Memory for all segments on their way in.
    pub ingest_memory: Option<Size>,
    /// Time to live of live segments.
    pub ttl_live: Option<Span>,
    /// Time to live of near-live segments.
    pub ttl_near_live: Option<Span>,
    /// Time to live of on-demand segments.
    pub ttl_vod: Option<Span>,
    /// When an upload to which nothing comes is rolled back.
    pub upload_idle: Option<Span>,
    /// When a growing on-demand content to which nothing comes is taken as finished.
    pub finish_after: Option<Span>,
    /// Where publishers by RTMP are listened for: a port, or an address and a port.
    pub rtmp: Option<String>,
    /// The same for RTMP in TLS, with a certificate and its key.
    pub rtmps: Option<String>,
    /// The certificates of this machine, with those between it and an authority (PEM).
    pub tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM).
    pub tls_key: Option<PathBuf>,
    /// Publishers by SRT that are listened for: a name, `=`, and a port with or without an address.
    pub srt: Option<Vec<String>>,
    /// Streams that the node fetches: a name, `=`, and a URL.
    pub pull: Option<Vec<String>>,
    /// Where streams are sent on: a name, `=`, and a URL.
    pub forward: Option<Vec<String>>,
    /// Whether streams may be fetched from addresses that are not of the open internet.
    pub allow_private: Option<bool>,
    /// Services that are told what happens to live streams.
    pub hook: Option<Vec<String>>,
    /// The service that decides who may publish and watch.
    pub authorize: Option<String>,
    /// What calls of these services are signed with.
    pub hook_secret: Option<String>,
    /// How much of a live stream its playlist lists.
    pub window: Option<Span>,
    /// How long a live stream waits for its publisher to come back.
    pub grace: Option<Span>,
    /// Length of a part of a live stream.
    pub part: Option<Span>,
    /// For how long a live stream can be watched afterwards.
    pub replay: Option<Span>,
    /// What a caller must send to change anything.
    pub api_token: Option<String>,
    /// Further host names that the node answers to.
    pub allow_host: Option<Vec<String>>,
    /// Web origins whose pages may use the API.
    pub allow_origin: Option<Vec<String>>,
    /// Most connections at a time.
    pub max_connections: Option<usize>,
    /// Whether the node meets others.
    pub relay: Option<bool>,
    /// Port of the links to other nodes.
    pub relay_port: Option<u16>,
    /// Addresses that links come in at.
    pub relay_bind: Option<Vec<IpAddr>>,
    /// `quic`, `tcp` or `auto`.
    pub link: Option<String>,
    /// Nodes to meet.
    pub peer: Option<Vec<String>>,
    /// What is known of links beforehand.
    pub link_profile: Option<Vec<String>>,
    /// Whether nodes on the same network are looked for.
    pub discovery: Option<bool>,
    /// What all nodes of the group know.
    pub relay_token: Option<String>,
    /// The only nodes that are met.
    pub allow_node: Option<Vec<String>>,
    /// Whose contents are carried for others.
    pub carry: Option<Vec<String>>,
    /// Contents that the node fetches for itself.
    pub want: Option<Vec<String>>,
    /// Nodes that should all have everything.
    pub group: Option<Vec<String>>,
    /// Bytes a second sent to all nodes.
    pub upload_limit: Option<Size>,
    /// Bytes a second fetched from all nodes.
    pub download_limit: Option<Size>,
    /// Bytes a second sent to each node.
    pub peer_upload_limit: Option<Size>,
    /// Bytes a second fetched from each node.
    pub peer_download_limit: Option<Size>,
    /// Over how many nodes live contents are carried.
    pub hops_live: Option<u8>,
    /// Over how many nodes near-live contents are carried.
    pub hops_near_live: Option<u8>,
    /// Over how many nodes on-demand contents are carried.
    pub hops_vod: Option<u8>,
    /// How many copies are made of live contents.
    pub copies_live: Option<u16>,
    /// How many copies are made of near-live contents.
    pub copies_near_live: Option<u16>,
    /// How many copies are made of on-demand contents.
    pub copies_vod: Option<u16>,
    /// Percent of the store that one unknown publisher may take.
    pub publisher_share: Option<u8>,
    /// Percent of the store that all of them together may take.
    pub strangers_share: Option<u8>,
    /// Publishers that may take all of the store.
    pub trust: Option<Vec<String>>,
}

impl Layer {
    /// Reads a TOML file; unknown keys are refused.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::parse(&text).map_err(|reason| ConfigError::Parse {
            path: path.to_owned(),
            reason,
        })
    }

    /// Parses TOML; the error names line, key and reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// This layer laid over `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            port: self.port.or(below.port),
            bind: self.bind.or(below.bind),
            store: self.store.or(below.store),
            node_id: self.node_id.or(below.node_id),
            store_limit: self.store_limit.or(below.store_limit),
            min_free: self.min_free.or(below.min_free),
            hot_memory: self.hot_memory.or(below.hot_memory),
            segment_limit: self.segment_limit.or(below.segment_limit),
            ingest_memory: self.ingest_memory.or(below.ingest_memory),
            ttl_live: self.ttl_live.or(below.ttl_live),
            ttl_near_live: self.ttl_near_live.or(below.ttl_near_live),
            ttl_vod: self.ttl_vod.or(below.ttl_vod),
            upload_idle: self.upload_idle.or(below.upload_idle),
            finish_after: self.finish_after.or(below.finish_after),
            rtmp: self.rtmp.or(below.rtmp),
            rtmps: self.rtmps.or(below.rtmps),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            srt: self.srt.or(below.srt),
            pull: self.pull.or(below.pull),
            forward: self.forward.or(below.forward),
            allow_private: self.allow_private.or(below.allow_private),
            hook: self.hook.or(below.hook),
            authorize: self.authorize.or(below.authorize),
            hook_secret: self.hook_secret.or(below.hook_secret),
            window: self.window.or(below.window),
            grace: self.grace.or(below.grace),
            part: self.part.or(below.part),
            replay: self.replay.or(below.replay),
            api_token: self.api_token.or(below.api_token),
            allow_host: self.allow_host.or(below.allow_host),
            allow_origin: self.allow_origin.or(below.allow_origin),
            max_connections: self.max_connections.or(below.max_connections),
            relay: self.relay.or(below.relay),
            relay_port: self.relay_port.or(below.relay_port),
            relay_bind: self.relay_bind.or(below.relay_bind),
            link: self.link.or(below.link),
            peer: self.peer.or(below.peer),
            link_profile: self.link_profile.or(below.link_profile),
            discovery: self.discovery.or(below.discovery),
            relay_token: self.relay_token.or(below.relay_token),
            allow_node: self.allow_node.or(below.allow_node),
            carry: self.carry.or(below.carry),
            want: self.want.or(below.want),
            group: self.group.or(below.group),
            upload_limit: self.upload_limit.or(below.upload_limit),
            download_limit: self.download_limit.or(below.download_limit),
            peer_upload_limit: self.peer_upload_limit.or(below.peer_upload_limit),
            peer_download_limit: self.peer_download_limit.or(below.peer_download_limit),
            hops_live: self.hops_live.or(below.hops_live),
            hops_near_live: self.hops_near_live.or(below.hops_near_live),
            hops_vod: self.hops_vod.or(below.hops_vod),
            copies_live: self.copies_live.or(below.copies_live),
            copies_near_live: self.copies_near_live.or(below.copies_near_live),
            copies_vod: self.copies_vod.or(below.copies_vod),
            publisher_share: self.publisher_share.or(below.publisher_share),
            strangers_share: self.strangers_share.or(below.strangers_share),
            trust: self.trust.or(below.trust),
        }
    }

    /// Fills in the defaults and checks the values against each other.
    pub fn resolve(mut self) -> Result<Config, ConfigError> {
        let mib = |n: u64| Size(n << 20);
        let (relay, shares) = (self.resolve_relay()?, self.resolve_shares()?);
        let live = self.resolve_live()?;
        let config = Config {
            listen: SocketAddr::new(
                self.bind.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                self.port.unwrap_or(DEFAULT_PORT),
            ),
            store: self.store.unwrap_or_else(|| PathBuf::from(DEFAULT_STORE)),
            node_id: self.node_id.unwrap_or_else(host_name),
            store_limit: self.store_limit.filter(|size| size.0 > 0),
            // 0 was written by an operator who wants no limit; only who wrote nothing gets this
            // one.
            disk_share: self.store_limit.is_none().then_some(DISK_SHARE),
            min_free: self.min_free.unwrap_or(mib(64)),
            hot_memory: self.hot_memory.unwrap_or(mib(32)),
            segment_limit: self.segment_limit.unwrap_or(mib(64)),
            ingest_memory: self.ingest_memory.unwrap_or(mib(256)),
            // By rank of priority, as everything that has one value for each.
            ttl: [
                ("ttl_vod", self.ttl_vod, 30 * 86_400),
                ("ttl_near_live", self.ttl_near_live, 6 * 3600),
                ("ttl_live", self.ttl_live, 30 * 60),
            ]
            .map(|(_, span, default)| span.map_or(Duration::from_secs(default), |span| span.0)),
            upload_idle: self
                .upload_idle
                .map_or(Duration::from_secs(3600), |span| span.0),
            finish_after: self
                .finish_after
                .map_or(Duration::from_secs(300), |span| span.0),
            live,
            api_token: self.api_token,
            allow_hosts: self.allow_host.unwrap_or_default(),
            allow_origins: self.allow_origin.unwrap_or_default(),
            max_connections: self.max_connections.unwrap_or(4096),
            relay,
            shares,
        };
        config.check()?;
        Ok(config)
    }
}

/// Port of the HTTP API unless configured.
pub const DEFAULT_PORT: u16 = 7777;
/// Folder of the store unless configured.
pub const DEFAULT_STORE: &str = ".lavant/store";
/// Percent of what the disk has free at the start that others may take when no limit is set.
const DISK_SHARE: u8 = 80;

/// Everything that a node needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the HTTP API listens.
    pub listen: SocketAddr,
    /// Folder of the store.
    pub store: PathBuf,
    /// Name of the node shown to people.
    pub node_id: String,
    /// Most bytes that the store may take.
    pub store_limit: Option<Size>,
    /// When nothing was said of a limit: percent of the disk's free space that others may take.
    pub disk_share: Option<u8>,
    /// Bytes of the disk that stay free.
    pub min_free: Size,
    /// Memory for recent live segments.
    pub hot_memory: Size,
    /// Largest segment that is accepted.
    pub segment_limit: Size,
    /// Memory for all segments on their way in.
    pub ingest_memory: Size,
    /// Time to live by rank of priority: on demand, near live, live.
    pub ttl: [Duration; 3],
    /// When an upload to which nothing comes is rolled back.
    pub upload_idle: Duration,
    /// When a growing on-demand content to which nothing comes is taken as finished.
    pub finish_after: Duration,
    /// How live streams are kept.
    pub live: LiveConfig,
    /// What a caller must send to change anything.
    pub api_token: Option<String>,
    /// Further host names that the node answers to.
    pub allow_hosts: Vec<String>,
    /// Web origins whose pages may use the API.
    pub allow_origins: Vec<String>,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Whom it meets and what it carries; none when it meets nobody.
    pub relay: Option<RelayConfig>,
    /// What the contents of others may take of the store.
    pub shares: Shares,
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what: String| Err(ConfigError::Value(what));
        // As many bytes as a hello has room for.
        if self.node_id.is_empty() || self.node_id.len() > 64 {
            return wrong("node_id must have 1 to 64 bytes".into());
        }
        if self.segment_limit.0 == 0
            || self.segment_limit.0 > lavant_proto::limits::SEGMENT_BYTES_MAX
        {
            return wrong("segment_limit must be between 1 byte and 1 GiB".into());
        }
        // A segment that may come but never fits would wait for its share in vain.
        if self.ingest_memory < self.segment_limit {
            return wrong("ingest_memory must be at least segment_limit".into());
        }
        if self.ttl.iter().any(|ttl| *ttl < Duration::from_secs(1)) {
            return wrong("a time to live must be at least 1s".into());
        }
        self.live.check()?;
        if self.max_connections == 0 {
            return wrong("max_connections must be at least 1".into());
        }
        let bad = |origin: &&String| !is_origin(origin);
        if let Some(origin) = self.allow_origins.iter().find(bad) {
            return wrong(format!(
                "allow_origin {origin:?} is not an origin; write for example https://example.org"
            ));
        }
        if self
            .api_token
            .as_ref()
            .is_some_and(|token| token.len() < crate::identity::TOKEN_MIN)
        {
            return wrong("api_token must have at least 16 characters".into());
        }
        Ok(())
    }
}

fn is_origin(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    // A browser sends an origin without a path; `*` would open the node to every page.
    rest.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*']))
}

/// The machine's name, or a stand-in.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    // The default of `node_id`, which has 1 to 64 bytes.
    if name.is_empty() || name.len() > 64 {
        "lavant-node".into()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        assert_eq!("500M".parse::<Size>().unwrap(), Size(500_000_000));
        assert_eq!("1.5 GiB".parse::<Size>().unwrap(), Size(3 << 29));
        assert_eq!("0".parse::<Size>().unwrap(), Size(0));
        assert_eq!("90s".parse::<Span>().unwrap().0, Duration::from_secs(90));
        assert_eq!(
            "30d".parse::<Span>().unwrap().0,
            Duration::from_secs(30 * 86_400)
        );
        for bad in ["", "G", "-1G", "5x", "1e9", "99999999999T"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for bad in ["5", "h", "1y", "9999999d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_file_lists_every_key_at_its_default() {
        let text = include_str!("../../../lavant.example.toml");
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix("#! ").unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        let layer = Layer::parse(&uncommented).unwrap();
        let all = format!("{layer:?}");
        assert!(
            !all.contains("None"),
            "a key is missing in lavant.example.toml: {all}"
        );
        let named = layer.resolve().unwrap();
        let default = Layer::default().resolve().unwrap();
        assert_eq!(named.listen, default.listen);
        assert_eq!(named.store, default.store);
        assert_eq!(named.ttl, default.ttl);
        assert_eq!(named.segment_limit, default.segment_limit);
        assert_eq!(named.ingest_memory, default.ingest_memory);
        assert_eq!(named.min_free, default.min_free);
        assert_eq!(named.hot_memory, default.hot_memory);
        assert_eq!(named.upload_idle, default.upload_idle);
        assert_eq!(named.finish_after, default.finish_after);
        assert_eq!(named.max_connections, default.max_connections);
        let live = LiveConfig {
            rtmp: default.live.rtmp,
            rtmps: None,
            srt: default.live.srt.clone(),
            pull: default.live.pull.clone(),
            forward: default.live.forward.clone(),
            hooks: default.live.hooks.clone(),
            authorize: None,
            hook_secret: None,
            ..named.live
        };
        assert_eq!(live, default.live);
        let (named, default) = (named.relay.unwrap(), default.relay.unwrap());
        assert_eq!(named.port, default.port);
        assert_eq!(named.addresses, default.addresses);
        assert_eq!(named.discovery, default.discovery);
        assert_eq!(named.interest.all, default.interest.all);
        assert_eq!(named.limits, default.limits);
        assert_eq!((named.hops, named.copies), (default.hops, default.copies));
        Layer::parse(text).unwrap();
    }

    #[test]
    fn errors_name_the_key() {
        let error = Layer::parse("prot = 1").unwrap_err();
        assert!(error.contains("prot"), "{error}");
        let error = Layer::parse("store_limit = \"many\"").unwrap_err();
        assert!(error.contains("500M"), "{error}");
        let layer = Layer {
            ingest_memory: Some(Size(1)),
            ..Layer::default()
        };
        assert!(
            layer
                .resolve()
                .unwrap_err()
                .to_string()
                .contains("ingest_memory")
        );
    }

    #[test]
    fn the_upper_layer_wins() {
        let upper = Layer {
            port: Some(1),
            ..Layer::default()
        };
        let below = Layer {
            port: Some(2),
            node_id: Some("n".into()),
            ..Layer::default()
        };
        let both = upper.over(below);
        assert_eq!((both.port, both.node_id.as_deref()), (Some(1), Some("n")));
    }
}
