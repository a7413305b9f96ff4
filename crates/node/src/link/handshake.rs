//! The TLS handshake of a TCP link: rustls is fed with bytes until both keys are proved, then
//! gives up its secrets to the record layer.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lavant_proto::ids::PublisherKey;
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{AlertDescription, Error, ExtractedSecrets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::raw_key::key_in;
use super::record::{RecordKeys, Secrets};

/// Bytes of a handshake that are held: one record of the greatest length (RFC 8446 section 5.2)
/// and its header. Ours has less than 2 KiB.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 16_384 + 256 + 5;

/// Where a verifier leaves a key that is not the expected one.
pub(super) type OtherKey = Arc<Mutex<Option<PublisherKey>>>;

/// Why a handshake failed.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The connection broke.
    Io(io::Error),
    /// The other side broke off before its key was proved.
    BrokeOff,
    /// The other side is not of our kind.
    NotLavant(String),
    /// The other side has this key, not the expected one.
    OtherKey(PublisherKey),
}

impl HandshakeError {
    fn of(error: Error) -> Self {
        Self::NotLavant(match error {
            Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
            Error::NoApplicationProtocol
            | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                "it speaks another protocol".to_owned()
            }
            other => other.to_string(),
        })
    }
}

/// What a handshake leaves.
pub(super) struct Opened {
    /// The key that was proved.
    pub(super) peer: PublisherKey,
    /// What both sides agreed to speak.
    pub(super) alpn: Vec<u8>,
    /// The secrets of both directions.
    pub(super) keys: RecordKeys,
    /// What the other side said already.
    pub(super) early: Vec<u8>,
    /// The beginning of a record.
    pub(super) rest: Vec<u8>,
}

enum Side {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// Where a handshake stands.
enum Progress {
    /// Call again with what is left.
    Again,
    /// Send what was put out, then call again.
    Flush,
    /// More bytes are needed.
    Blocked,
    /// It is over.
    Open,
}

/// A handshake under way.
pub(super) struct Handshake {
    side: Side,
    other: OtherKey,
    outgoing: Vec<u8>,
    early: Vec<u8>,
}

impl Handshake {
    pub(super) fn client(connection: UnbufferedClientConnection, other: OtherKey) -> Self {
        Self::new(Side::Client(Box::new(connection)), other)
    }

    pub(super) fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(Side::Server(Box::new(connection)), OtherKey::default())
    }

    fn new(side: Side, other: OtherKey) -> Self {
        Self {
            side,
            other,
            outgoing: Vec::new(),
            early: Vec::new(),
        }
    }

    /// Runs it to its end. The caller sets the time limit.
    pub(super) async fn run(self, tcp: &mut TcpStream) -> Result<Opened, HandshakeError> {
        self.run_telling(tcp, || ()).await
    }

    /// Runs it to its end and tells when the other side has said something that makes sense.
    pub(super) async fn run_telling(
        mut self,
        tcp: &mut TcpStream,
        begun: impl Fn(),
    ) -> Result<Opened, HandshakeError> {
        // Of a fixed size, so that nobody who has proven nothing can have more.
        let mut incoming = vec![0; HANDSHAKE_BYTES_MAX];
        let mut filled = 0;
        loop {
            let (used, progress) = self.step(&mut incoming[..filled]);
            // rustls counts from the start of what it is given.
            incoming.copy_within(used..filled, 0);
            filled -= used;
            match progress {
                Ok(Progress::Again) => {}
                Ok(Progress::Flush) => {
                    // Something is to be sent, so what came was understood: a server speaks only
                    // after a ClientHello.
                    begun();
                    self.flush(tcp).await?;
                }
                Ok(Progress::Blocked) => {
                    // rustls needs more than a whole record: no handshake of ours does.
                    if filled == incoming.len() {
                        let reason = "its handshake is too long".to_owned();
                        return Err(HandshakeError::NotLavant(reason));
                    }
                    let read = tcp.read(&mut incoming[filled..]).await;
                    match read.map_err(HandshakeError::Io)? {
                        0 => return Err(HandshakeError::BrokeOff),
                        read => filled += read,
                    }
                }
                // What is left over belongs to the record layer, which reads on from it.
                Ok(Progress::Open) => {
                    self.flush(tcp).await?;
                    incoming.truncate(filled);
                    return self.open(incoming);
                }
                Err(error) => {
                    self.alert(tcp, &mut incoming[..filled]).await;
                    // The verifier can tell rustls only that it refuses; which key it saw, it
                    // leaves here.
                    let other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
                    return Err(match *other {
                        Some(key) => HandshakeError::OtherKey(key),
                        None => HandshakeError::of(error),
                    });
                }
            }
        }
    }

    fn step(&mut self, incoming: &mut [u8]) -> (usize, Result<Progress, Error>) {
        let (out, early) = (&mut self.outgoing, &mut self.early);
        match &mut self.side {
            Side::Client(c) => settle(c.process_tls_records(incoming), out, early),
            Side::Server(c) => settle(c.process_tls_records(incoming), out, early),
        }
    }

    async fn flush(&mut self, tcp: &mut TcpStream) -> Result<(), HandshakeError> {
        let written = tcp.write_all(&self.outgoing).await;
        self.outgoing.clear();
        written.map_err(HandshakeError::Io)
    }

    /// Tells the other side why, as far as its socket takes it. What is left of the bytes goes
    /// in again, as rustls remembers places in it; none of it is read while something is to be
    /// sent.
    async fn alert(&mut self, tcp: &mut TcpStream, left: &mut [u8]) {
        while self.wants_write() {
            let (_, Ok(Progress::Again)) = self.step(left) else {
                break;
            };
        }
        // The other side may be gone: then there is nobody to tell.
        self.flush(tcp).await.ok();
        tcp.shutdown().await.ok();
    }

    fn wants_write(&self) -> bool {
        match &self.side {
            Side::Client(c) => c.wants_write(),
            Side::Server(c) => c.wants_write(),
        }
    }

    fn open(self, rest: Vec<u8>) -> Result<Opened, HandshakeError> {
        let (shown, alpn) = match &self.side {
            Side::Client(c) => (c.peer_certificates(), c.alpn_protocol()),
            Side::Server(c) => (c.peer_certificates(), c.alpn_protocol()),
        };
        let unproved = || HandshakeError::NotLavant("it proved no key".to_owned());
        let shown = shown.and_then(<[_]>::first).ok_or_else(unproved)?;
        let peer = key_in(shown).map_err(|_| unproved())?;
        // Where no protocol is offered, TLS lets the handshake pass.
        let silent = || HandshakeError::NotLavant("it names no protocol".to_owned());
        let alpn = alpn.ok_or_else(silent)?.to_vec();
        // Last, as it takes the connection apart.
        let keys = match self.side {
            Side::Client(c) => record_keys(c.dangerous_into_kernel_connection()),
            Side::Server(c) => record_keys(c.dangerous_into_kernel_connection()),
        };
        Ok(Opened {
            peer,
            alpn,
            keys: keys.map_err(HandshakeError::of)?,
            early: self.early,
            rest,
        })
    }
}

/// What a finished handshake leaves to the record layer.
fn record_keys<D: Send + 'static>(
    finished: Result<(ExtractedSecrets, KernelConnection<D>), Error>,
) -> Result<RecordKeys, Error> {
    let (secrets, mut connection) = finished?;
    let suite = connection.negotiated_cipher_suite();
    let next = move |which| match which {
        Secrets::Ours => connection.update_tx_secret(),
        Secrets::Theirs => connection.update_rx_secret(),
    };
    RecordKeys::new(suite, secrets, Box::new(next))
}

fn settle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    early: &mut Vec<u8>,
) -> (usize, Result<Progress, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let state = match state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let progress = match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let used = outgoing.len();
            // A message is at most one record.
            outgoing.resize(used + HANDSHAKE_BYTES_MAX, 0);
            match data.encode(&mut outgoing[used..]) {
                Ok(written) => outgoing.truncate(used + written),
                Err(error) => return (discard, Err(Error::General(error.to_string()))),
            }
            Progress::Again
        }
        // Told as done already now: the caller writes `outgoing` before it steps again.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Progress::Flush
        }
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        early.extend_from_slice(record.payload);
                    }
                    Err(error) => return (discard, Err(error)),
                }
            }
            Progress::Again
        }
        ConnectionState::WriteTraffic(_) => Progress::Open,
        ConnectionState::BlockedHandshake => Progress::Blocked,
        // A short link may have said all it has to say. What it said counts.
        ConnectionState::PeerClosed => Progress::Again,
        _ => {
            let ended = Error::General("it ended the handshake".to_owned());
            return (discard, Err(ended));
        }
    };
    (discard, Ok(progress))
}
