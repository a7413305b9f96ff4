//! What belongs to live streams, from the start of a node to its end.

use std::net::SocketAddr;

use lavant_proto::ids::ContentId;
use tokio::task::JoinSet;

use super::StartError;
use crate::config::Config;
use crate::live::{BadPull, Live, Origin, Pulls, Rtmp, Settings};
use crate::store::{AsyncStore, Store};

/// Live streams of a node that does not take any yet.
pub(super) struct Streams {
    pulls: Pulls,
    rtmp: Option<Rtmp>,
    origins: Vec<(ContentId, Origin)>,
}

/// Live streams of a node that runs. Its connections end when it is dropped.
pub(super) struct Running {
    pulls: Pulls,
    _listeners: JoinSet<()>,
}

impl Streams {
    /// Checks what the configuration says, and takes its ports.
    pub(super) async fn bind(config: &Config, store: &Store) -> Result<Self, StartError> {
        let origins = origins(config)?;
        let live = Live::new(AsyncStore::new(store.clone()), settings(config, store));
        let rtmp = match config.live.rtmp {
            Some(address) => {
                let bound = Rtmp::bind(address, live.clone()).await;
                Some(bound.map_err(|error| StartError::Rtmp(address, error))?)
            }
            None => None,
        };
        Ok(Self {
            pulls: Pulls::new(live),
            rtmp,
            origins,
        })
    }

    /// For the API.
    pub(super) fn pulls(&self) -> Pulls {
        self.pulls.clone()
    }

    /// Where publishers by RTMP are listened for.
    pub(super) fn rtmp(&self) -> Option<SocketAddr> {
        self.rtmp.as_ref().and_then(|rtmp| rtmp.address().ok())
    }

    /// Takes publishers from now on.
    pub(super) fn start(self) -> Result<Running, StartError> {
        for (name, origin) in self.origins {
            let _ = self.pulls.add(name, None, origin)?;
        }
        let mut listeners = JoinSet::new();
        if let Some(rtmp) = self.rtmp {
            listeners.spawn(rtmp.run());
        }
        Ok(Running {
            pulls: self.pulls,
            _listeners: listeners,
        })
    }
}

impl Running {
    /// Ends all streams; what came of them is written.
    pub(super) async fn close(&self) {
        self.pulls.close();
        self.pulls.live().close().await;
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

/// How a configuration shapes live streams.
pub(crate) fn settings(config: &Config, store: &Store) -> Settings {
    Settings {
        window: config.live.window,
        grace: config.live.grace,
        replay: config.live.replay,
        part: config.live.part,
        secret: store.settings().layout.live_key(),
    }
}
