//! Streams that this node fetches itself: an HLS playlist, a camera, whoever publishes by SRT.
//!
//! | question | place |
//! |---|---|
//! | what is pulled, and when it is tried again | here |
//! | which addresses may be asked | `address.rs` |
//! | how HTTP is spoken | `web.rs` |
//! | which segments of a playlist come next | `hls.rs` |
//! | how ffmpeg opens the rest | `program.rs` |

mod address;
mod hls;
mod program;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lavant_media::frame::Item;
use lavant_proto::ids::ContentId;
use reqwest::Url;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Ended, Live, Publisher, Refused, Source};
use crate::identity::IdentityError;
use program::Input;
use web::Web;

/// The most streams that are pulled at a time: each may be a program with 50 MB of memory.
const PULLS_MAX: usize = 64;
/// Pauses between two tries, at first and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A source that held for so long is tried at once again.
const HELD: Duration = Duration::from_secs(60);
/// With so many bytes it is clear what a server sends.
const HEAD: usize = 564;

/// Why a source is not, or no longer, pulled.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// It cannot be had.
    #[error("{0}")]
    Source(String),
    /// What a server answered.
    #[error("the server answers {0}")]
    Status(u16),
    /// It is locked.
    #[error("its segments are encrypted, which is not taken: publish it where it is not")]
    Encrypted,
    /// It has its sound in another playlist.
    #[error(
        "its sound is in a playlist of its own, which is not put together here: \
         'ffmpeg -i URL -c copy -f mpegts - | lavant live NAME -' does"
    )]
    SeparateAudio,
    /// Nothing comes.
    #[error("nothing came for 20 seconds")]
    Silent,
    /// The stream is over, or what comes cannot be packed.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The name is not free.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A pipe.
    #[error("the pipe to ffmpeg broke: {0}")]
    Io(#[from] std::io::Error),
    /// The passphrase cannot be read.
    #[error(transparent)]
    Secret(#[from] IdentityError),
}

impl From<lavant_media::Error> for Fault {
    fn from(error: lavant_media::Error) -> Self {
        Self::Ended(error.into())
    }
}

/// Why a stream cannot be pulled at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// The URL.
    #[error(
        "{0:?} cannot be pulled: give a URL of http(s), rtsp(s), rtmp(s), srt, rist, udp or rtp"
    )]
    Url(String),
    /// The name is taken.
    #[error("{0:?} is pulled already; 'lavant live stop {0}' ends that")]
    Taken(String),
    /// Too many.
    #[error("this node pulls {PULLS_MAX} streams, which is all that it takes")]
    TooMany,
    /// The node is ending.
    #[error("the node is ending")]
    Closed,
}

/// Where a stream comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A URL.
    Url {
        /// The URL.
        url: Url,
        /// Whether addresses may be asked that are not of the open internet.
        with_private: bool,
    },
    /// Whoever connects to an address by SRT, and has the secret of the stream key.
    Srt(SocketAddr),
}

/// How it is with a pulled stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being asked for.
    Asking,
    /// It comes.
    Running,
    /// It failed, and is tried again.
    Failed(String),
    /// It came to its end.
    Over,
}

/// A pulled stream, for people.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its name.
    pub name: ContentId,
    /// Where it is pulled from, without what may be secret.
    pub source: String,
    /// How it is.
    pub phase: Phase,
}

/// All streams that the node pulls; clones share them.
#[derive(Clone)]
pub struct Pulls {
    live: Live,
    running: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    pulls: BTreeMap<ContentId, Entry>,
    is_closed: bool,
}

struct Entry {
    source: String,
    /// Whether it waits for publishers, whoever they are, and asks nobody.
    listens: bool,
    phase: watch::Receiver<Phase>,
    task: AbortHandle,
}

impl Origin {
    /// Checks a URL.
    ///
    /// # Errors
    /// When it is none, or of a kind that is not pulled.
    pub fn url(text: &str, with_private: bool) -> Result<Self, Bad> {
        let bad = || Bad::Url(text.to_owned());
        let url: Url = text.parse().map_err(|_| bad())?;
        let is_known = matches!(url.scheme(), "http" | "https") || program::opens(url.scheme());
        if !is_known || url.host_str().is_none_or(str::is_empty) {
            return Err(bad());
        }
        Ok(Self::Url { url, with_private })
    }

    fn shown(&self) -> String {
        match self {
            Self::Url { url, .. } => shown(url),
            Self::Srt(address) => format!("srt://{address} (listening)"),
        }
    }
}

/// A URL without user, password and query, in which secrets stand.
fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}"));
    let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
    format!(
        "{scheme}://{host}{}{}",
        port.unwrap_or_default(),
        url.path()
    )
}

impl Pulls {
    /// None yet.
    #[must_use]
    pub fn new(live: Live) -> Self {
        Self {
            live,
            running: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to pull a stream, and goes on until it ends or is stopped: a source that breaks off
    /// is asked again and again. To be called in a runtime.
    ///
    /// # Errors
    /// See [`Bad`].
    pub fn add(
        &self,
        name: ContentId,
        title: Option<String>,
        from: Origin,
    ) -> Result<watch::Receiver<Phase>, Bad> {
        let mut running = self.lock();
        if running.is_closed {
            return Err(Bad::Closed);
        }
        running.pulls.retain(|_, entry| !entry.task.is_finished());
        if running.pulls.contains_key(&name) {
            return Err(Bad::Taken(name.to_string()));
        }
        if running.pulls.len() >= PULLS_MAX {
            return Err(Bad::TooMany);
        }
        let (tell, phase) = watch::channel(Phase::Asking);
        let (source, listens) = (from.shown(), matches!(from, Origin::Srt(_)));
        tracing::info!(stream = %name, %source, "a stream is pulled");
        let pull = Pull {
            live: self.live.clone(),
            name: name.clone(),
            title,
            from,
            tell,
        };
        let entry = Entry {
            source,
            listens,
            phase: phase.clone(),
            task: tokio::spawn(pull.keep()).abort_handle(),
        };
        running.pulls.insert(name, entry);
        Ok(phase)
    }

    /// Stops to pull a stream. False when it is not pulled. Publishers by SRT are listened for
    /// as long as the node runs: like others, they may come back after a while.
    #[must_use]
    pub fn remove(&self, name: &ContentId) -> bool {
        let mut running = self.lock();
        let is_pulled = running.pulls.get(name).is_some_and(|entry| !entry.listens);
        let Some(entry) = is_pulled.then(|| running.pulls.remove(name)).flatten() else {
            return false;
        };
        drop(running);
        let was_running = !entry.task.is_finished();
        entry.task.abort();
        was_running
    }

    /// The streams that are pulled.
    #[must_use]
    pub fn list(&self) -> Vec<Pulled> {
        let running = self.lock();
        let pulls = running.pulls.iter();
        let pulls = pulls.filter(|(_, entry)| !entry.task.is_finished());
        let pulled = pulls.map(|(name, entry)| Pulled {
            name: name.clone(),
            source: entry.source.clone(),
            phase: entry.phase.borrow().clone(),
        });
        pulled.collect()
    }

    /// Ends all, with the programs that they run.
    pub fn close(&self) {
        let mut running = self.lock();
        running.is_closed = true;
        for (_, entry) in std::mem::take(&mut running.pulls) {
            entry.task.abort();
        }
    }
}

/// What follows on a source's end.
enum Next {
    /// It is over for good.
    Over,
    /// It is asked again.
    Again,
    /// Nobody came; somebody may.
    Listen,
}

/// One pulled stream.
struct Pull {
    live: Live,
    name: ContentId,
    title: Option<String>,
    from: Origin,
    tell: watch::Sender<Phase>,
}

impl Pull {
    async fn keep(self) {
        let mut pause = PAUSE.0;
        loop {
            let begun = Instant::now();
            let ended = self.once().await;
            match ended {
                Ok(Next::Over) => break,
                Err(Fault::Ended(ended)) if self.is_last(&ended) => break,
                Ok(Next::Again) => self.failed("the source ended"),
                Ok(Next::Listen) => {
                    self.tell.send_replace(Phase::Asking);
                    continue;
                }
                Err(fault) => self.failed(&fault.to_string()),
            }
            // Whoever publishes by SRT is to find somebody who listens.
            let is_short = begun.elapsed() > HELD || matches!(self.from, Origin::Srt(_));
            pause = match is_short {
                true => PAUSE.0,
                false => (pause * 2).min(PAUSE.1),
            };
            tokio::time::sleep(pause).await;
        }
        self.tell.send_replace(Phase::Over);
        tracing::info!(stream = %self.name, "a stream is no longer pulled");
    }

    /// Whether nothing follows on such an end.
    fn is_last(&self, ended: &Ended) -> bool {
        match ended {
            Ended::Closed => true,
            // Whoever publishes by SRT may come back.
            Ended::Stopped | Ended::Finished | Ended::Removed => {
                !matches!(self.from, Origin::Srt(_))
            }
            _ => false,
        }
    }

    fn failed(&self, reason: &str) {
        let phase = Phase::Failed(reason.to_owned());
        // A source that is away for a day says that once.
        if *self.tell.borrow() != phase {
            tracing::warn!(stream = %self.name, source = %self.from.shown(), reason,
                "a stream cannot be pulled; it is tried again");
        }
        self.tell.send_replace(phase);
    }

    /// Pulls until the source ends.
    async fn once(&self) -> Result<Next, Fault> {
        let mut sink = Sink {
            pull: self,
            publisher: None,
            source: Source::default(),
        };
        match &self.from {
            Origin::Url { url, with_private } => match url.scheme() {
                "http" | "https" => self.web(url, *with_private, &mut sink).await,
                _ => {
                    program::run(Input::Url(url), *with_private, &mut sink).await?;
                    Ok(Next::Again)
                }
            },
            Origin::Srt(address) => {
                let passphrase = self.live.passphrase(&self.name).await?;
                let input = Input::Srt(*address, &passphrase);
                match program::run(input, true, &mut sink).await {
                    // Nobody came, which is how it is most of the time.
                    Err(Fault::Silent) if sink.publisher.is_none() => Ok(Next::Listen),
                    ended => ended.map(|()| Next::Again),
                }
            }
        }
    }

    async fn web(&self, url: &Url, with_private: bool, sink: &mut Sink<'_>) -> Result<Next, Fault> {
        let web = Web::new(with_private)?;
        let mut answer = web.get(url, None).await?;
        // Where it is after redirects: what a playlist names is beside that.
        let url = answer.url().clone();
        let mut head = Vec::new();
        while head.len() < HEAD
            && let Some(chunk) = Web::chunk(&mut answer).await?
        {
            head.extend_from_slice(&chunk);
        }
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
        if text.starts_with(b"#EXTM3U") {
            let text = text.to_vec();
            let text = Web::text(answer, text).await?;
            hls::run(&web, &text, url, sink).await?;
            if let Some(publisher) = &sink.publisher {
                publisher.stream().finish().await;
            }
            return Ok(Next::Over);
        }
        if lavant_media::sniff(&head) != Some(lavant_media::Format::TransportStream) {
            program::run(Input::Body(head, answer), with_private, sink).await?;
            return Ok(Next::Again);
        }
        sink.push(&head).await?;
        while let Some(chunk) = Web::chunk(&mut answer).await? {
            sink.push(&chunk).await?;
        }
        sink.finish()?;
        Ok(Next::Again)
    }
}

/// Where bytes of a source become a stream. It is published with the first of them, so that a
/// source that never comes takes no name.
struct Sink<'a> {
    pull: &'a Pull,
    publisher: Option<Publisher>,
    source: Source,
}

impl Sink<'_> {
    async fn push(&mut self, data: &[u8]) -> Result<(), Fault> {
        if self.publisher.is_none() {
            let Pull {
                live, name, title, ..
            } = self.pull;
            let by = match self.pull.from {
                Origin::Srt(_) => "srt",
                Origin::Url { .. } => "pull",
            };
            self.publisher = Some(live.publish(name, title.as_deref(), by).await?);
            self.pull.tell.send_replace(Phase::Running);
        }
        let Some(publisher) = &self.publisher else {
            return Ok(());
        };
        self.source
            .push::<Fault>(data, |item| give(publisher, item))
    }

    /// What is held back of the source is given, too.
    fn finish(&mut self) -> Result<(), Fault> {
        match &self.publisher {
            Some(publisher) => self.source.finish::<Fault>(|item| give(publisher, item)),
            None => Err(Fault::Source("nothing came".into())),
        }
    }

    /// What comes next is in a container of its own, and goes on in time.
    fn reset(&mut self) -> Result<(), Fault> {
        if let Some(publisher) = &self.publisher
            && self.source.is_begun()
        {
            match self.source.finish::<Fault>(|item| give(publisher, item)) {
                // A header whose segment could not be had.
                Err(Fault::Ended(Ended::Media(lavant_media::Error::NoFrames))) => {}
                finished => finished?,
            }
            self.source = Source::default();
        }
        Ok(())
    }

    /// What comes next does not go on with what came.
    fn discontinue(&mut self) -> Result<(), Fault> {
        self.reset()?;
        if let Some(publisher) = &self.publisher {
            publisher.discontinue()?;
        }
        Ok(())
    }
}

fn give(publisher: &Publisher, item: Item) -> Result<(), Fault> {
    Ok(publisher.push(item)?)
}
