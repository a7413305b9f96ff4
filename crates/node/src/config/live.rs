//! What is configured of live streams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lavant_proto::ids::ContentId;

use super::{ConfigError, Layer};

/// How live streams are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// Where publishers by RTMP are listened for; nowhere when there is none.
    pub rtmp: Option<SocketAddr>,
    /// Where publishers by RTMP in TLS are listened for, with the files of a certificate and its
    /// key.
    pub rtmps: Option<(SocketAddr, PathBuf, PathBuf)>,
    /// Where publishers by SRT are listened for, each for one stream.
    pub srt: Vec<(ContentId, SocketAddr)>,
    /// Streams that the node fetches, by their URLs.
    pub pull: Vec<(ContentId, String)>,
    /// Where streams are sent on.
    pub forward: Vec<(ContentId, String)>,
    /// Whether addresses may be asked for them that are not of the open internet.
    pub allow_private: bool,
    /// Services that are told what happens.
    pub hooks: Vec<String>,
    /// The service that decides who may publish and watch.
    pub authorize: Option<String>,
    /// What their calls are signed with.
    pub hook_secret: Option<String>,
    /// How much of a stream its playlist lists.
    pub window: Duration,
    /// How long a stream waits for its publisher to come back.
    pub grace: Duration,
    /// Length of a part.
    pub part: Duration,
    /// For how long a stream can be watched afterwards.
    pub replay: Duration,
}

impl Layer {
    /// Fills in the defaults for live streams.
    pub(super) fn resolve_live(&mut self) -> Result<LiveConfig, ConfigError> {
        Ok(LiveConfig {
            rtmp: self.rtmp.as_deref().map(listen_address).transpose()?,
            rtmps: match (
                self.rtmps.as_deref(),
                self.tls_cert.take(),
                self.tls_key.take(),
            ) {
                (None, ..) => None,
                (Some(to), Some(chain), Some(key)) => Some((listen_address(to)?, chain, key)),
                _ => {
                    let what = "rtmps needs a certificate and its key: tls_cert and tls_key";
                    return Err(ConfigError::Value(what.into()));
                }
            },
            srt: once(
                "srt",
                named(self.srt.take(), "srt", "harbour=9000", listen_address)?,
            )?,
            pull: once(
                "pull",
                named(self.pull.take(), "pull", "harbour=rtsp://10.0.0.5/cam", url)?,
            )?,
            forward: named(
                self.forward.take(),
                "forward",
                "harbour=rtmp://example.org/live/KEY",
                url,
            )?,
            allow_private: self.allow_private.unwrap_or(false),
            hooks: self.hook.take().unwrap_or_default(),
            authorize: self.authorize.take(),
            hook_secret: self.hook_secret.take(),
            window: self.window.map_or(Duration::from_secs(120), |span| span.0),
            grace: self.grace.map_or(Duration::from_secs(60), |span| span.0),
            part: self.part.map_or(Duration::from_millis(334), |span| span.0),
            replay: self
                .replay
                .map_or(Duration::from_secs(30 * 86_400), |span| span.0),
        })
    }
}

impl LiveConfig {
    /// Checks the values against each other.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what: String| Err(ConfigError::Value(what));
        let millis = |span: Duration| span.as_millis();
        if !(200..=1000).contains(&millis(self.part)) {
            return wrong("part must be 200ms to 1s: shorter ones cost more than they save".into());
        }
        if !(10_000..=3_600_000).contains(&millis(self.window)) {
            return wrong("window must be 10s to 1h; ?window=all lists all of a stream".into());
        }
        if !(1_000..=86_400_000).contains(&millis(self.grace)) {
            return wrong("grace must be 1s to 1d".into());
        }
        if self.replay < self.window {
            return wrong("replay must be at least as long as window".into());
        }
        let has_hooks = !self.hooks.is_empty() || self.authorize.is_some();
        let secret = self.hook_secret.as_deref().unwrap_or_default();
        if has_hooks && secret.len() < crate::identity::TOKEN_MIN {
            return wrong(
                "hook and authorize need a hook_secret of at least 16 characters, by which your \
                 service knows who calls"
                    .into(),
            );
        }
        Ok(())
    }
}

/// An address to listen on: `1935` is a port of this machine alone, `0.0.0.0:1935` one of all its
/// addresses.
fn listen_address(text: &str) -> Result<SocketAddr, ConfigError> {
    let port = |port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let found = text.parse().map(port).or_else(|_| text.parse());
    found.map_err(|_| {
        ConfigError::Value(format!(
            "{text:?} is no port, nor an address with one; write for example 1935 or 0.0.0.0:1935"
        ))
    })
}

/// What is a URL is known where it is used.
#[expect(clippy::unnecessary_wraps, reason = "it stands where others can fail")]
fn url(text: &str) -> Result<String, ConfigError> {
    Ok(text.to_owned())
}

/// Refuses a list that has a name twice.
fn once<T>(key: &str, list: Vec<(ContentId, T)>) -> Result<Vec<(ContentId, T)>, ConfigError> {
    let mut names = std::collections::BTreeSet::new();
    match list.iter().find(|(name, _)| !names.insert(name.clone())) {
        Some((name, _)) => Err(ConfigError::Value(format!(
            "{key} names {:?} twice",
            name.as_str()
        ))),
        None => Ok(list),
    }
}

/// A list of `NAME=VALUE`.
fn named<T>(
    list: Option<Vec<String>>,
    key: &str,
    example: &str,
    value: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<Vec<(ContentId, T)>, ConfigError> {
    let mut found: Vec<(ContentId, T)> = Vec::new();
    for text in list.unwrap_or_default() {
        let wrong = |why: &str| {
            let what = format!("{key} {text:?} {why}; write for example {example}");
            ConfigError::Value(what)
        };
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| wrong("names no stream"))?;
        let name = ContentId::new(name).map_err(|error| wrong(&error.to_string()))?;
        found.push((name, value(rest)?));
    }
    Ok(found)
}
