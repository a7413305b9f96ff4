//! RTMP: publishers that connect, from OBS to cameras. Who may publish is in the stream key.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lavant_media::rtmp::{Config, Error, Event, Publish, Session};
use lavant_proto::ids::ContentId;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{Ended, Live, Publisher, Refused, SILENCE_MAX, locked};
use crate::authority::Applicant;
use crate::identity;

/// The most connections at a time that do not publish yet. A newcomer takes the place of the oldest
/// of whichever address has most of them: whoever opens many pushes out their own.
const WAITING_MAX: usize = 256;
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
    #[error("it does not speak TLS as this port does: {0}")]
    Tls(std::io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Listens for publishers.
pub struct Rtmp {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    live: Live,
}

/// What bytes come and go by: TCP, with TLS or without.
trait Wire: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Wire for T {}

/// A certificate with its key, for connections that are encrypted (RTMPS).
///
/// # Errors
/// When a file cannot be read, holds none, or they do not belong together; a sentence for people.
pub fn certificate(chain: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let failed = |path: &Path, error: &dyn Display| format!("{}: {error}", path.display());
    let read = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| failed(chain, &error))?;
    if certificates.is_empty() {
        return Err(failed(chain, &"it holds no certificate (PEM is expected)"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates, secret)
        .map_err(|error| failed(chain, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Rtmp {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken, or none of this machine's.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        live: Live,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            tls,
            live,
        })
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
        let waiting = Waiting::default();
        let mut logged: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    // A panic was logged where it happened; one that gave way says nothing.
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
            if waiting.make_room() && logged.is_none_or(|at| at.elapsed() > LOG_PAUSE) {
                tracing::warn!(%from, "too many RTMP connections do not publish: one gave way");
                logged = Some(Instant::now());
            }
            let (live, tls) = (self.live.clone(), self.tls.clone());
            let place = waiting.place(from.ip());
            let number = place.number;
            let task = connections.spawn(async move {
                let served = Connection::serve(stream, tls, from.ip(), live, place).await;
                served.err().map(|fault| (from, fault))
            });
            waiting.holds(number, task);
        }
    }
}

/// Connections that do not publish yet, in the order in which they came.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    next: u64,
    held: BTreeMap<u64, (IpAddr, Option<AbortHandle>)>,
}

/// A place among these, until this is dropped.
struct Place {
    waiting: Waiting,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.waiting.0).held.remove(&self.number);
    }
}

impl Waiting {
    fn place(&self, from: IpAddr) -> Place {
        let mut places = locked(&self.0);
        places.next += 1;
        let number = places.next;
        places.held.insert(number, (from, None));
        Place {
            waiting: self.clone(),
            number,
        }
    }

    /// Which task is at a place, unless it has left it already.
    fn holds(&self, number: u64, task: AbortHandle) {
        if let Some((_, slot)) = locked(&self.0).held.get_mut(&number) {
            *slot = Some(task);
        }
    }

    /// Ends one connection when all places are taken. False when none had to go.
    fn make_room(&self) -> bool {
        let mut places = locked(&self.0);
        if places.held.len() < WAITING_MAX {
            return false;
        }
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (from, _) in places.held.values() {
            *counts.entry(*from).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let oldest = places
            .held
            .iter()
            .find(|(_, (from, _))| most.is_some_and(|(of, _)| of == *from));
        let Some(oldest) = oldest.map(|(place, _)| *place) else {
            return false;
        };
        if let Some((_, Some(task))) = places.held.remove(&oldest) {
            task.abort();
        }
        true
    }
}

/// One connection.
struct Connection {
    stream: Box<dyn Wire>,
    from: IpAddr,
    session: Session,
    live: Live,
    publisher: Option<Publisher>,
    /// Its place among those that do not publish yet.
    place: Option<Place>,
    /// Since when it does not publish, if it does not.
    since: tokio::time::Instant,
}

impl Connection {
    async fn serve(
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        from: IpAddr,
        live: Live,
        place: Place,
    ) -> Result<(), Fault> {
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Wire> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let accepted = timeout(START_MAX, tls.accept(stream)).await;
                let accepted = accepted.map_err(|_| Fault::Slow)?;
                Box::new(accepted.map_err(Fault::Tls)?)
            }
        };
        let nonce = *blake3::hash(identity::random_id()?.as_bytes()).as_bytes();
        let session = Session::new(Config::default(), nonce);
        let mut connection = Self {
            stream,
            from,
            session,
            live,
            publisher: None,
            place: Some(place),
            since: tokio::time::Instant::now(),
        };
        let heard = connection.hear().await;
        if let Err(fault) = &heard {
            if let Some(publisher) = &connection.publisher {
                publisher.failed(&fault.to_string());
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
            if let Some(publisher) = &self.publisher {
                publisher.ready().await;
            }
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
        self.place = None;
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
        let sent = timeout(SEND_MAX, async {
            self.stream.write_all(&bytes).await?;
            // TLS may hold back what fills no record.
            self.stream.flush().await
        });
        Ok(sent.await.map_err(|_| Fault::Silent)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_opens_many_connections_pushes_out_their_own() {
        let waiting = Waiting::default();
        let mut tasks = JoinSet::new();
        let mut come = |from: &str| {
            let place = waiting.place(from.parse().unwrap());
            let number = place.number;
            let task = tasks.spawn(async move {
                std::future::pending::<()>().await;
                drop(place);
            });
            waiting.holds(number, task);
            number
        };
        let honest = come("192.0.2.1");
        let first = come("192.0.2.66");
        for _ in 2..WAITING_MAX {
            come("192.0.2.66");
        }
        assert!(waiting.make_room());
        let later = come("192.0.2.2");
        assert!(waiting.make_room());
        let held = locked(&waiting.0).held.clone();
        assert!(held.contains_key(&honest) && held.contains_key(&later));
        assert!(!held.contains_key(&first));
        // One that publishes, or is over, leaves a place.
        drop(waiting.place("192.0.2.66".parse().unwrap()));
        assert!(!waiting.make_room());
    }
}
