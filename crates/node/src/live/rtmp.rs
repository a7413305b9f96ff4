//! RTMP: publishers that connect, from OBS to cameras. Who may publish is in the stream key.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lavant_media::rtmp::{Config, Error, Event, Publish, Session};
use lavant_proto::ids::ContentId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Ended, Live, Publisher, Refused, SILENCE_MAX};
use crate::authority::Applicant;
use crate::identity;

/// The most connections at a time, whether they publish or not.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may take until it publishes.
const START_MAX: Duration = Duration::from_secs(10);
/// How long it may take nothing of what is sent to it.
const SEND_MAX: Duration = Duration::from_secs(10);
/// Bytes that are read at a time.
const BUFFER: usize = 64 << 10;
/// Pause after a failed `accept`, which happens when no file can be opened any more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Shortest time between two lines of the log about connections that came to nothing: anybody can
/// make as many as they like.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Rtmp(#[from] Error),
    #[error(transparent)]
    Ended(#[from] Ended),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the stream key is wrong; `lavant live key NAME` prints the right one")]
    Key,
    #[error("the stream keys cannot be read: {0}")]
    Secret(#[from] identity::IdentityError),
    #[error("it did not begin to publish within {} seconds", START_MAX.as_secs())]
    Slow,
    #[error("nothing came for {} seconds", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Listens for publishers.
pub struct Rtmp {
    listener: TcpListener,
    live: Live,
}

impl Rtmp {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken, or none of this machine's.
    pub async fn bind(address: SocketAddr, live: Live) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, live })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped; all connections end with it.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    // A panic was logged where it happened.
                    let Ok(Some((from, fault))) = ended else { continue };
                    if logged.is_none_or(|at| at.elapsed() > LOG_PAUSE) {
                        tracing::info!(%from, reason = %fault, "an RTMP connection ended");
                        logged = Some(Instant::now());
                    }
                    continue;
                }
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "RTMP connections cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Whoever is one too many is not heard: its encoder tries again.
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let live = self.live.clone();
            connections.spawn(async move {
                let served = Connection::serve(stream, from.ip(), live).await;
                drop(place);
                served.err().map(|fault| (from, fault))
            });
        }
    }
}

/// One connection.
struct Connection {
    stream: TcpStream,
    from: IpAddr,
    session: Session,
    live: Live,
    publisher: Option<Publisher>,
    /// Since when it does not publish, if it does not.
    since: tokio::time::Instant,
}

impl Connection {
    async fn serve(stream: TcpStream, from: IpAddr, live: Live) -> Result<(), Fault> {
        let _ = stream.set_nodelay(true);
        let nonce = *blake3::hash(identity::random_id()?.as_bytes()).as_bytes();
        let session = Session::new(Config::default(), nonce);
        let mut connection = Self {
            stream,
            from,
            session,
            live,
            publisher: None,
            since: tokio::time::Instant::now(),
        };
        let heard = connection.hear().await;
        if let Err(fault) = &heard {
            if let Some(publisher) = &connection.publisher {
                publisher.stream().note_error(&fault.to_string());
            }
            // An encoder shows the reason to whoever runs it. It may be gone, or not read.
            connection.session.refuse(&fault.to_string());
            let _ = connection.send().await;
        }
        heard
    }

    /// Reads until the connection ends.
    async fn hear(&mut self) -> Result<(), Fault> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match &self.publisher {
                None => {
                    let until = self.since + START_MAX;
                    let read = tokio::time::timeout_at(until, self.stream.read(&mut buffer));
                    read.await.map_err(|_| Fault::Slow)?
                }
                Some(publisher) => tokio::select! {
                    read = timeout(SILENCE_MAX, self.stream.read(&mut buffer)) => {
                        read.map_err(|_| Fault::Silent)?
                    }
                    ended = publisher.replaced() => return Err(ended.into()),
                },
            };
            let read = read?;
            if read == 0 {
                return Ok(());
            }
            let pushed = self.session.push(buffer.get(..read).unwrap_or_default());
            self.take().await?;
            self.send().await?;
            pushed?;
        }
    }

    /// Takes what the session has found.
    async fn take(&mut self) -> Result<(), Fault> {
        while let Some(event) = self.session.pop() {
            match event {
                Event::Publish(publish) => self.publish(&publish).await?,
                Event::Item(item) => {
                    if let Some(publisher) = &self.publisher {
                        publisher.push(item)?;
                    }
                }
                Event::Notice(notice) => {
                    let name = self.publisher.as_ref().map(|it| it.stream().name());
                    tracing::warn!(stream = name.map(ContentId::as_str), "{notice}");
                }
                // It says what the headers of the codecs say better.
                Event::Metadata(_) => {}
                // The stream waits a while: whoever meant to end it may begin again.
                Event::Unpublish => {
                    self.publisher = None;
                    self.since = tokio::time::Instant::now();
                }
            }
        }
        Ok(())
    }

    async fn publish(&mut self, publish: &Publish) -> Result<(), Fault> {
        // One that waited for its own place would wait for itself.
        self.publisher = None;
        let name = self.name_of(&publish.key).await;
        let name = name.inspect_err(|fault| self.live.refused("", "rtmp", &fault.to_string()))?;
        self.publisher = Some(self.live.publish(&name, None, "rtmp").await?);
        self.session.accept();
        Ok(())
    }

    /// The name that a stream key opens. Where a service of the operator decides, it may be any
    /// name, with whatever that service wants to know behind a question mark.
    async fn name_of(&self, key: &str) -> Result<ContentId, Fault> {
        let (live, of) = (self.live.clone(), key.to_owned());
        let name = tokio::task::spawn_blocking(move || live.name_of(&of)).await;
        let name = name.map_err(std::io::Error::other)??;
        let authority = self.live.authority();
        if !authority.is_asked() {
            return name.ok_or(Fault::Key);
        }
        let plain = key.split('?').next().unwrap_or_default();
        let name = match name {
            Some(name) => name,
            None => ContentId::new(plain).map_err(|_| Fault::Key)?,
        };
        let asked = authority.may_publish(Applicant {
            name: name.as_str(),
            by: "rtmp",
            address: Some(self.from),
            key: Some(key),
        });
        asked.await.map_err(Refused::from)?;
        Ok(name)
    }

    async fn send(&mut self) -> Result<(), Fault> {
        let bytes = self.session.take_output();
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = timeout(SEND_MAX, self.stream.write_all(&bytes)).await;
        Ok(sent.map_err(|_| Fault::Silent)??)
    }
}
