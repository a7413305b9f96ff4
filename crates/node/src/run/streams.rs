//! What belongs to live streams, from the start of a node to its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lavant_proto::ids::ContentId;
use reqwest::Url;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use super::StartError;
use crate::authority::{Authority, BadHook, Caller};
use crate::config::Config;
use crate::health::Part;
use crate::hooks;
use crate::live::{
    BadPull, BadTarget, Forwards, Live, Origin, Rtmp, Settings, Studio, certificate,
};
use crate::store::{AsyncStore, Store};

/// How often it is looked whether what is live is stored.
const BEAT: Duration = Duration::from_secs(2);

/// Live streams of a node that does not take any yet.
pub(super) struct Streams {
    studio: Studio,
    targets: BTreeMap<ContentId, Vec<Url>>,
    rtmp: Option<Rtmp>,
    rtmps: Option<Rtmp>,
    origins: Vec<(ContentId, Origin)>,
    callers: Vec<Caller>,
    node: String,
}

/// Live streams of a node that runs. Its connections end when it is dropped.
pub(super) struct Running {
    studio: Studio,
    _listeners: JoinSet<()>,
    _hooks: JoinSet<()>,
}

impl Streams {
    /// Checks what the configuration says, and takes its ports.
    pub(super) async fn bind(config: &Config, store: &Store) -> Result<Self, StartError> {
        let (origins, targets) = (origins(config)?, targets(config)?);
        let callers = config.live.hooks.iter().map(|url| caller(config, url));
        let callers = callers.collect::<Result<_, _>>()?;
        let live = Live::new(AsyncStore::new(store.clone()), settings(config, store)?);
        let rtmp = match config.live.rtmp {
            Some(address) => Some(listen(address, None, &live).await?),
            None => None,
        };
        let rtmps = match &config.live.rtmps {
            Some((address, chain, key)) => {
                let tls = certificate(chain, key).map_err(StartError::Certificate)?;
                Some(listen(*address, Some(tls), &live).await?)
            }
            None => None,
        };
        Ok(Self {
            studio: Studio::new(live),
            targets,
            rtmp,
            rtmps,
            origins,
            callers,
            node: store.publisher().to_string(),
        })
    }

    /// For the API.
    pub(super) fn studio(&self) -> Studio {
        self.studio.clone()
    }

    /// Where publishers by RTMP are listened for.
    pub(super) fn rtmp(&self) -> Option<SocketAddr> {
        self.rtmp.as_ref().and_then(|rtmp| rtmp.address().ok())
    }

    /// Where publishers by RTMP in TLS are listened for.
    pub(super) fn rtmps(&self) -> Option<SocketAddr> {
        self.rtmps.as_ref().and_then(|rtmps| rtmps.address().ok())
    }

    /// Takes publishers from now on.
    pub(super) fn start(self, part: Part) -> Result<Running, StartError> {
        // Before anybody publishes, or a service would not hear of it.
        let hooks = hooks::start(self.callers, &self.studio.live, &self.node);
        for (name, urls) in &self.targets {
            self.studio.forwards.set(name, urls)?;
        }
        for (name, origin) in self.origins {
            let _ = self.studio.pulls.add(name, None, origin)?;
        }
        let mut listeners = JoinSet::new();
        listeners.spawn(watch(self.studio.live.clone(), part));
        for rtmp in [self.rtmp, self.rtmps].into_iter().flatten() {
            listeners.spawn(rtmp.run());
        }
        Ok(Running {
            studio: self.studio,
            _listeners: listeners,
            _hooks: hooks,
        })
    }
}

impl Running {
    /// Ends all streams; what came of them is written.
    pub(super) async fn close(&self) {
        self.studio.close().await;
    }
}

async fn listen(
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    live: &Live,
) -> Result<Rtmp, StartError> {
    let bound = Rtmp::bind(address, tls, live.clone()).await;
    bound.map_err(|error| StartError::Rtmp(address, error))
}

/// Says whether the disk takes what is live: who watches now does not see it.
async fn watch(live: Live, part: Part) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let streams = live.streams();
        let faults = streams.iter().filter_map(|stream| {
            let status = stream.status();
            let fault = status.fault?;
            Some(format!("{:?} is not stored: {fault}", status.name.as_str()))
        });
        let faults: Vec<String> = faults.collect();
        match faults.first() {
            None => part.ok(),
            Some(first) if faults.len() == 1 => part.fail(first.clone()),
            Some(first) => part.fail(format!("{first}; and {} more", faults.len() - 1)),
        }
    }
}

/// The streams that the configuration says to fetch, and those by SRT that it says to listen for.
fn origins(config: &Config) -> Result<Vec<(ContentId, Origin)>, BadPull> {
    let live = &config.live;
    let mut origins = Vec::new();
    for (name, url) in &live.pull {
        origins.push((name.clone(), Origin::url(url, live.allow_private)?));
    }
    let listening = live.srt.iter();
    origins.extend(listening.map(|(name, address)| (name.clone(), Origin::Srt(*address))));
    Ok(origins)
}

/// Where the configuration says to send streams on.
fn targets(config: &Config) -> Result<BTreeMap<ContentId, Vec<Url>>, BadTarget> {
    let mut targets: BTreeMap<ContentId, Vec<Url>> = BTreeMap::new();
    for (name, url) in &config.live.forward {
        let urls = targets.entry(name.clone()).or_default();
        urls.push(Forwards::target(url)?);
    }
    Ok(targets)
}

/// Who calls a service of the operator.
fn caller(config: &Config, url: &str) -> Result<Caller, BadHook> {
    Caller::new(url, config.live.hook_secret.as_deref().unwrap_or_default())
}

/// How a configuration shapes live streams.
pub(crate) fn settings(config: &Config, store: &Store) -> Result<Settings, BadHook> {
    let authorize = config.live.authorize.as_deref();
    let authorize = authorize.map(|url| caller(config, url)).transpose()?;
    Ok(Settings {
        window: config.live.window,
        grace: config.live.grace,
        replay: config.live.replay,
        part: config.live.part,
        secret: store.settings().layout.live_key(),
        authority: Arc::new(Authority::new(authorize)),
    })
}
