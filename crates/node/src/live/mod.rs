//! Live streams of this node: from a publisher's frames to what players ask for, and to the store
//! behind that.
//!
//! | question | place |
//! |---|---|
//! | which streams there are, who may publish | here |
//! | how bytes of a publisher become frames | `source.rs`, `rtmp.rs` |
//! | what this node fetches itself | `pull.rs` |
//! | what a stream is, how it waits for a publisher that is gone | `stream.rs` |
//! | what is in memory, under which numbers | `window.rs` |
//! | what a player is told | `playlist.rs` |
//! | whether parts come steadily | `steady.rs` |
//! | how segments become durable | `writer.rs` |
//! | who hears of what happens | `events.rs` |
//! | where else a stream is sent | `forward.rs` |
//! | how ffmpeg is run | `program.rs` |
//!
//! Viewers are served from memory: a store that is slow, full or broken delays nobody who watches
//! live, and the replay then lacks what it did not take.

mod events;
mod forward;
mod playlist;
mod program;
mod publisher;
mod pull;
mod rtmp;
mod source;
mod steady;
mod stream;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lavant_media::live::Config as Cut;
use lavant_proto::content::{Kind, Priority};
use lavant_proto::ids::{ContentId, ContentKey, Rendition};
use lavant_proto::time::TICKS_PER_SECOND;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

pub use events::{Happened, What};
pub use forward::{BadTarget, Forward, Forwards};
pub use publisher::Publisher;
pub use pull::{Bad as BadPull, Origin, Phase, Pulled, Pulls};
pub use rtmp::{Rtmp, certificate};
pub use source::Source;
pub use stream::{Answer, Ask, Ended, NoPlaylist, State, Status, Stream};

use crate::authority::{Authority, Denied};
use crate::identity::{self, IdentityError};
use crate::playlist::reference_of;
use crate::store::{AsyncStore, Change, Clock, StoreError};
use events::Events;
use stream::{Begin, FINISH_MAX, Write};

/// How long a publisher may say nothing before its connection is given up, as the network behind
/// it may be gone. After three seconds another one may take its place.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// The most streams at a time.
const STREAMS_MAX: usize = 1000;
/// How long a stream that the operator ended takes no publisher: encoders come again by themselves.
const STOPPED: Duration = Duration::from_secs(60);
/// How long the writer may go on after the end of the node.
const DRAIN: Duration = Duration::from_secs(3);
/// What the secret of a node is used for here (BLAKE3's context string).
const KEY_CONTEXT: &str = "lavant 2026-11-29 stream keys";
/// Hex digits of a stream key's secret part.
const SECRET_DIGITS: usize = 24;

/// How streams are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the list of segments is that players get.
    pub window: Duration,
    /// How long a stream waits for its publisher to come back.
    pub grace: Duration,
    /// For how long its segments stay for a replay.
    pub replay: Duration,
    /// How long a part is to be.
    pub part: Duration,
    /// The file of the secret that stream keys are made from.
    pub secret: PathBuf,
    /// Who decides beside the keys.
    pub authority: Arc<Authority>,
}

/// Why nobody can publish under a name.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another one does.
    #[error("{0:?} is being published by another one; stop that one first, or use another name")]
    Busy(String),
    /// The operator ended it a moment ago.
    #[error("{0:?} was stopped at this node; it can be published again in a minute")]
    Stopped(String),
    /// Too many.
    #[error("this node has {STREAMS_MAX} live streams, which is all that it takes")]
    TooMany,
    /// The node is ending.
    #[error("the node is ending")]
    Closed,
    /// The operator's service.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All live streams of a node; clones share them.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    store: AsyncStore,
    settings: Settings,
    streams: Mutex<Streams>,
    /// One publisher begins at a time, as two could begin the same stream.
    begin: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
    events: Events,
}

#[derive(Default)]
struct Streams {
    running: BTreeMap<ContentId, Arc<Stream>>,
    /// When streams were stopped by the operator.
    stopped: BTreeMap<ContentId, Instant>,
    is_closed: bool,
}

/// Live streams, with those that the node fetches and those that it sends on; clones share them.
#[derive(Clone)]
pub struct Studio {
    /// All streams.
    pub live: Live,
    /// What the node fetches.
    pub pulls: Pulls,
    /// What it sends on.
    pub forwards: Forwards,
}

impl Studio {
    /// A studio for these streams, which fetches and sends nothing yet.
    #[must_use]
    pub fn new(live: Live) -> Self {
        Self {
            pulls: Pulls::new(live.clone()),
            forwards: Forwards::new(live.clone()),
            live,
        }
    }

    /// Ends everything; what came is written.
    pub async fn close(&self) {
        self.pulls.close();
        // It sends what it has until its stream ends.
        self.live.close().await;
        self.forwards.close();
    }
}

impl Live {
    /// No streams yet. What was live when the node ended the last time is finished after a while,
    /// unless its publisher comes back. To be called in a runtime.
    #[must_use]
    pub fn new(store: AsyncStore, settings: Settings) -> Self {
        let live = Self(Arc::new(Inner {
            store,
            settings,
            streams: Mutex::default(),
            begin: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
            events: Events::default(),
        }));
        let left = live.clone();
        live.tasks().spawn(async move { left.finish_left().await });
        let heard = live.clone();
        let changes = live.0.store.subscribe();
        live.tasks().spawn(async move { heard.hear(changes).await });
        live
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        locked(&self.0.streams)
    }

    /// What happens to streams from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Happened> {
        self.0.events.subscribe()
    }

    /// The clock that dates are from.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.store.settings().clock.clone()
    }

    /// Whether a service of the operator decides who publishes and watches.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.0.settings.authority
    }

    /// The stream of a name, while it runs and a moment longer.
    #[must_use]
    pub fn stream(&self, name: &ContentId) -> Option<Arc<Stream>> {
        self.lock().running.get(name).cloned()
    }

    /// All streams, by name.
    #[must_use]
    pub fn streams(&self) -> Vec<Arc<Stream>> {
        self.lock().running.values().cloned().collect()
    }

    /// Somebody was not let in who wanted to publish, and why.
    pub fn refused(&self, name: &str, by: &str, reason: &str) {
        self.0.events.refused(name, by, reason);
    }

    /// Begins to publish under a name, or goes on. `by` says how, such as `rtmp`.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn publish(
        &self,
        name: &ContentId,
        title: Option<&str>,
        by: &str,
    ) -> Result<Publisher, Refused> {
        let begun = self.admit(name, title, by).await;
        match &begun {
            Ok(publisher) => self.tell(What::Published, publisher.stream(), by, None),
            Err(refused) => self.refused(name.as_str(), by, &refused.to_string()),
        }
        begun
    }

    fn tell(&self, what: What, stream: &Stream, by: &str, reason: Option<String>) {
        self.0.events.tell(Happened {
            what,
            name: stream.name().to_string(),
            version: stream.version(),
            by: by.to_owned(),
            reason,
        });
    }

    async fn admit(
        &self,
        name: &ContentId,
        title: Option<&str>,
        by: &str,
    ) -> Result<Publisher, Refused> {
        let _turn = self.0.begin.lock().await;
        {
            let mut streams = self.lock();
            if streams.is_closed {
                return Err(Refused::Closed);
            }
            streams.stopped.retain(|_, at| at.elapsed() < STOPPED);
            if streams.stopped.contains_key(name) {
                return Err(Refused::Stopped(name.to_string()));
            }
            if let Some(stream) = streams.running.get(name)
                && stream.status().state != State::Ended
            {
                let stream = stream.clone();
                let Some(session) = stream.join(by, Instant::now()) else {
                    return Err(Refused::Busy(name.to_string()));
                };
                return Ok(Publisher::new(stream, session, Instant::now()));
            }
            if streams.running.len() >= STREAMS_MAX {
                // Those that are over stay only for whoever still asks for their end.
                let is_over = |stream: &Stream| stream.status().state == State::Ended;
                streams.running.retain(|_, stream| !is_over(stream));
            }
            if streams.running.len() >= STREAMS_MAX {
                return Err(Refused::TooMany);
            }
        }
        self.finished(name).await;
        let begin = self.begin(name, title).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let stream = Arc::new(Stream::new(begin, sender));
        let session = stream.join(by, Instant::now()).ok_or(Refused::Closed)?;
        let mut streams = self.lock();
        if streams.is_closed {
            return Err(Refused::Closed);
        }
        streams.running.insert(name.clone(), stream.clone());
        drop(streams);
        let mut tasks = self.tasks();
        // Those that are over are taken out, or the set would grow with each stream.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(keep(self.clone(), stream.clone(), receiver));
        tracing::info!(stream = %name, by, "a publisher began");
        Ok(Publisher::new(stream, session, Instant::now()))
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        locked(&self.0.tasks)
    }

    /// Waits until the broadcast of before is finished in the store, too.
    async fn finished(&self, name: &ContentId) {
        let before = self.stream(name);
        if let Some(before) = before {
            // A store that is stuck is no reason to wait: the broadcast then goes on.
            let _ = tokio::time::timeout(FINISH_MAX, before.is_done()).await;
        }
    }

    /// Where a stream of that name begins: behind what is open under it, else as a new version.
    async fn begin(&self, name: &ContentId, title: Option<&str>) -> Result<Begin, Refused> {
        let Inner {
            store, settings, ..
        } = &*self.0;
        let id = name.clone();
        let growing = store.attempt(move |store| store.growing(&id)).await?;
        let publisher = store.publisher();
        let reference = reference_of(&store.catalog(), &publisher, name);
        let key = ContentKey {
            publisher,
            content_id: name.clone(),
            version: growing.version,
        };
        Ok(Begin {
            name: name.clone(),
            title: title.unwrap_or(name.as_str()).to_owned(),
            clock: store.settings().clock.clone(),
            base: format!("/segment/{reference}/{}/{}/", key.version, Rendition::MAIN),
            key,
            next: (growing.next, growing.next_init),
            window: ticks(settings.window),
            cut: Cut {
                part: ticks(settings.part),
                target: growing.target_duration.map(u64::from),
                ..Cut::default()
            },
        })
    }

    /// Ends a stream by the operator's wish. False when there is none of that name.
    #[must_use]
    pub fn stop(&self, name: &ContentId) -> bool {
        let mut streams = self.lock();
        let Some(stream) = streams.running.get(name).cloned() else {
            return false;
        };
        if stream.status().state == State::Ended {
            return false;
        }
        streams.stopped.insert(name.clone(), Instant::now());
        drop(streams);
        stream.end(Ended::Stopped);
        true
    }

    /// The stream key of a name. Who has it may publish under the name. Blocks.
    ///
    /// # Errors
    /// When the file of the secret cannot be used.
    pub fn stream_key(&self, name: &ContentId) -> Result<String, IdentityError> {
        let secret = identity::token_at(&self.0.settings.secret)?;
        let key = blake3::derive_key(KEY_CONTEXT, secret.as_bytes());
        let digest = blake3::keyed_hash(&key, name.as_str().as_bytes()).to_hex();
        Ok(format!("{name}-{}", &digest[..SECRET_DIGITS]))
    }

    /// The passphrase with which a stream is published by SRT: the secret part of its key.
    ///
    /// # Errors
    /// When the file of the secret cannot be used.
    pub async fn passphrase(&self, name: &ContentId) -> Result<String, IdentityError> {
        let (live, of) = (self.clone(), name.clone());
        let key = tokio::task::spawn_blocking(move || live.stream_key(&of)).await;
        let key = key.map_err(|error| IdentityError::Io {
            path: self.0.settings.secret.clone(),
            source: std::io::Error::other(error),
        })??;
        Ok(key.rsplit('-').next().unwrap_or_default().to_owned())
    }

    /// The name that a stream key is for; none when it is no key of this node. Blocks.
    ///
    /// # Errors
    /// When the file of the secret cannot be used.
    pub fn name_of(&self, stream_key: &str) -> Result<Option<ContentId>, IdentityError> {
        let name = stream_key.rsplit_once('-').map(|(name, _)| name);
        let Some(Ok(name)) = name.map(ContentId::new) else {
            return Ok(None);
        };
        let right = self.stream_key(&name)?;
        // Comparing hashes takes the same time wherever the key differs.
        let is_right = blake3::hash(right.as_bytes()) == blake3::hash(stream_key.as_bytes());
        Ok(is_right.then_some(name))
    }

    /// Hears what goes from the store, which is then listed no longer.
    async fn hear(&self, mut changes: mpsc::UnboundedReceiver<Vec<Change>>) {
        while let Some(batch) = changes.recv().await {
            for change in batch {
                match change {
                    Change::Dropped {
                        content_no,
                        kind: Kind::Media,
                        sequence,
                        ..
                    } => {
                        let catalog = self.0.store.catalog();
                        let content = catalog.get(content_no);
                        if let Some(stream) = content.and_then(|it| self.of(&it.key)) {
                            stream.dropped(sequence);
                        }
                    }
                    Change::Removed { key, .. } => {
                        let Some(stream) = self.of(&key) else {
                            continue;
                        };
                        // Its encoder would bring it back at once.
                        let mut streams = self.lock();
                        streams.stopped.insert(key.content_id, Instant::now());
                        drop(streams);
                        stream.end(Ended::Removed);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The stream that becomes a content, while it runs.
    fn of(&self, key: &ContentKey) -> Option<Arc<Stream>> {
        let stream = self.stream(&key.content_id);
        stream.filter(|it| it.key == *key && it.status().state != State::Ended)
    }

    /// Finishes what was live when the node ended the last time and has no publisher since. Returns
    /// after `grace`.
    async fn finish_left(&self) {
        let Inner {
            store, settings, ..
        } = &*self.0;
        let publisher = store.publisher();
        let catalog = store.catalog();
        let left: Vec<ContentId> = catalog
            .growing()
            .filter(|content| content.key.publisher == publisher)
            .filter(|content| content.priority == Priority::Live && !content.superseded)
            .map(|content| content.key.content_id.clone())
            .collect();
        if left.is_empty() {
            return;
        }
        let start = store.settings().clock.now();
        tokio::time::sleep(settings.grace).await;
        for name in left {
            let catalog = store.catalog();
            let found = catalog.find(Some(&publisher), &name, None);
            let is_idle = found.is_some_and(|content| content.last_arrival < start);
            if is_idle && self.stream(&name).is_none() {
                finish(store, &name).await;
            }
        }
    }

    /// Ends all streams without finishing them: their publishers may come back after the next
    /// start. What came is written before.
    pub async fn close(&self) {
        let running = {
            let mut streams = self.lock();
            streams.is_closed = true;
            std::mem::take(&mut streams.running)
        };
        for stream in running.values() {
            stream.end(Ended::Closed);
        }
        let written = async {
            for stream in running.values() {
                stream.is_done().await;
            }
        };
        if tokio::time::timeout(DRAIN, written).await.is_err() {
            tracing::warn!("the last seconds of a live stream were not written in time");
        }
        self.tasks().abort_all();
    }
}

/// A panic while one of these was held would leave what it was a list of.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a stream until it is over, and players have heard of that.
async fn keep(live: Live, stream: Arc<Stream>, writes: mpsc::UnboundedReceiver<Write>) {
    let Inner {
        store, settings, ..
    } = &*live.0;
    let writing = writer::run(&stream, store, settings.replay, writes);
    let telling = async {
        stream.begun().await;
        live.tell(What::FirstSegment, &stream, &stream.status().by, None);
        loop {
            let by = stream.silent().await;
            live.tell(What::Silent, &stream, &by, None);
        }
    };
    let over = async {
        tokio::select! {
            why = stream.over(settings.grace) => why,
            () = telling => unreachable!("it has no end"),
        }
    };
    let (why, ()) = tokio::join!(over, writing);
    let name = &stream.key.content_id;
    tracing::info!(stream = %name, reason = %why, "a live stream is over");
    live.tell(What::Ended, &stream, "", Some(why.to_string()));
    if !matches!(why, Ended::Closed | Ended::Removed) {
        finish(store, name).await;
    }
    stream.set_done();
    // So long, whoever watches gets the list with its end: the one of the store begins with an
    // earlier number, which no player accepts that has seen this one.
    tokio::time::sleep(stream.tail()).await;
    let mut streams = live.lock();
    let is_same = |running: &Arc<Stream>| Arc::ptr_eq(running, &stream);
    if streams.running.get(name).is_some_and(is_same) {
        streams.running.remove(name);
    }
}

async fn finish(store: &AsyncStore, name: &ContentId) {
    let id = name.clone();
    match store.attempt(move |store| store.finish(&id)).await {
        Ok(_) => {}
        // Nothing of it was stored, or it is gone: there is nothing to finish.
        Err(StoreError::NotFound(_)) => {}
        Err(error) => tracing::warn!(stream = %name, %error, "a stream could not be finished"),
    }
}

fn ticks(span: Duration) -> u64 {
    let ticks = span.as_micros() * u128::from(TICKS_PER_SECOND) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
