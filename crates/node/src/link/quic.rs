//! A link over QUIC: control frames on one stream each way, data frames on four more.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, try_join_all};
use iroh::endpoint::{
    BindOpts, Connection, ConnectionError, PortmapperConfig, QuicTransportConfig, RecvStream,
    SendStream, VarInt, WeakConnectionHandle, WriteError, presets,
};
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey, TransportAddr};
use lavant_proto::ids::{PublisherKey, SigningKey};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::frame::{FrameReader, close_frame, hello_frame, shown};
use super::tls::ALPN;
use super::uplinks::{Cutter, UpLinks, WAY_GONE, local_towards};
use super::{Frame, Link, LinkError, LinkKind, LinkMeter, LinkReceiver, LinkSender, Urgency};

/// Streams for data frames, each way; a request keeps to one of them. What is urgent has one for
/// each urgency, which goes before the others, and the rest is spread over those that are left.
const DATA_STREAMS: u32 = 4;
const BULK_STREAM: u32 = Urgency::Bulk as u32;
/// Bytes in flight on a stream: enough for 100 Mbit/s over 100 ms on each.
const STREAM_WINDOW: u32 = 1_250_000;
/// Bytes handed over and not yet acknowledged: what is urgent waits behind no more than these.
const SEND_WINDOW: u64 = 2 * STREAM_WINDOW as u64;
/// Beyond 2 MB the transport's reassembly gives up ("too many gaps in stream buffer").
const _: () = assert!(STREAM_WINDOW <= 2_000_000);
/// Time for what was sent, and the reason, to be acknowledged.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How long nothing may come: three of the beats that iroh sends.
const SILENCE_LIMIT_MS: u32 = 15_000;
/// With what code a link is closed in order, for a broken frame, and when its way is gone.
const CODE_CLOSED: u32 = 0;
const CODE_BROKEN: u32 = 1;
const CODE_WAY_GONE: u32 = 2;

/// Opens the UDP sockets. Contacts nobody: no relay, no port mapping, no lookup of addresses.
pub(super) async fn bind(
    key: &SigningKey,
    addresses: &[IpAddr],
    port: u16,
) -> Result<Endpoint, String> {
    let transport = QuicTransportConfig::builder()
        // As many as a node opens: nobody gets this one to hold more.
        .max_concurrent_uni_streams(VarInt::from_u32(DATA_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STREAM_WINDOW * (DATA_STREAMS + 1)))
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(VarInt::from_u32(SILENCE_LIMIT_MS).into()))
        .build();
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&key.seed()))
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .clear_address_lookup()
        .transport_config(transport)
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports();
    for ip in addresses {
        // A machine may be without IPv6.
        let needed = !(ip.is_ipv6() && ip.is_unspecified() && addresses.len() > 1);
        builder = builder
            .bind_addr_with_opts(
                SocketAddr::new(*ip, port),
                BindOpts::default().set_is_required(needed),
            )
            .map_err(|error| error.to_string())?;
    }
    builder.bind().await.map_err(|error| format!("{error:#}"))
}

/// Why a node was not reached by QUIC.
#[derive(Debug)]
pub(super) enum QuicDialError {
    /// It broke off, or is gone.
    BrokeOff,
    /// Nothing answered.
    TimedOut,
    /// It did not prove the key.
    NotProved,
    /// It speaks something else.
    OtherProtocol(String),
    /// The endpoint refused to try.
    Local(String),
}

/// Dials a node by its key at some addresses. The caller sets the time limit.
pub(super) async fn dial(
    endpoint: &Endpoint,
    key: PublisherKey,
    addresses: &[SocketAddr],
) -> Result<QuicLink, QuicDialError> {
    let local = |text: String| QuicDialError::Local(text);
    let id = PublicKey::from_bytes(&key.0).map_err(|error| local(error.to_string()))?;
    let to = EndpointAddr::from_parts(id, addresses.iter().copied().map(TransportAddr::Ip));
    let connecting = endpoint
        .connect_with_opts(to, ALPN, iroh::endpoint::ConnectOptions::new())
        .await
        .map_err(|error| local(format!("{error:#}")))?;
    let connection = connecting.await.map_err(|error| match error {
        iroh::endpoint::ConnectingError::ConnectionError { source, .. } => dial_error(&source),
        other => local(format!("{other:#}")),
    })?;
    let opened = async {
        let (mut control, receive) = connection.open_bi().await?;
        control.write_all(&hello_frame()).await?;
        Ok::<_, WriteError>((control, receive))
    };
    let (control, receive) = opened.await.map_err(|_| QuicDialError::BrokeOff)?;
    let remote = selected(&connection).or(addresses.first().copied());
    let remote = remote.unwrap_or_else(|| SocketAddr::new([0, 0, 0, 0].into(), 0));
    Ok(QuicLink::new(connection, control, receive, remote))
}

fn dial_error(error: &ConnectionError) -> QuicDialError {
    match error {
        ConnectionError::TimedOut => QuicDialError::TimedOut,
        ConnectionError::TransportError(error) => {
            // Codes from 0x100 on are TLS alerts (RFC 9001 section 4.8).
            let code = u64::from(error.code);
            let (no_protocol, alerts) = (0x100 + 120, 0x100..0x200);
            if code == no_protocol {
                QuicDialError::OtherProtocol("it speaks another protocol".to_owned())
            } else if alerts.contains(&code) {
                QuicDialError::NotProved
            } else {
                QuicDialError::OtherProtocol(shown(error.to_string().as_bytes()))
            }
        }
        ConnectionError::VersionMismatch => {
            QuicDialError::OtherProtocol("it speaks another version of QUIC".to_owned())
        }
        ConnectionError::ConnectionClosed(close) if close.error_code == no_protocol_code() => {
            QuicDialError::OtherProtocol("it speaks another protocol".to_owned())
        }
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
            QuicDialError::Local(error.to_string())
        }
        _ => QuicDialError::BrokeOff,
    }
}

fn no_protocol_code() -> iroh::endpoint::TransportErrorCode {
    iroh::endpoint::TransportErrorCode::crypto(120)
}

fn selected(connection: &Connection) -> Option<SocketAddr> {
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected());
    match path.as_ref()?.remote_addr() {
        TransportAddr::Ip(address) => Some(*address),
        _ => None,
    }
}

/// A QUIC link whose handshake is over.
pub(super) struct QuicLink {
    peer: PublisherKey,
    remote: SocketAddr,
    connection: Connection,
    control: SendStream,
    receive: RecvStream,
}

impl QuicLink {
    fn new(
        connection: Connection,
        control: SendStream,
        receive: RecvStream,
        remote: SocketAddr,
    ) -> Self {
        // What is said about the link goes before what it carries.
        control.set_priority(i32::MAX).ok();
        Self {
            peer: PublisherKey(*connection.remote_id().as_bytes()),
            remote,
            connection,
            control,
            receive,
        }
    }

    /// Waits for the first stream of a connection that came in. The caller sets the time limit.
    pub(super) async fn accepted(
        connection: Connection,
        remote: SocketAddr,
    ) -> Result<Self, ConnectionError> {
        let (control, receive) = connection.accept_bi().await?;
        Ok(Self::new(connection, control, receive, remote))
    }
}

impl QuicLink {
    /// Has it cut when the address of this machine that it uses is gone.
    pub(super) fn watched(self, up: &UpLinks) -> Self {
        let local = local_towards(self.remote);
        up.add(local, self.connection.weak_handle());
        self
    }
}

impl Cutter for WeakConnectionHandle {
    fn cut(&self) -> bool {
        let connection = self.upgrade();
        let cut = |it: Connection| it.close(VarInt::from_u32(CODE_WAY_GONE), WAY_GONE.as_bytes());
        connection.map(cut).is_some()
    }

    fn is_over(&self) -> bool {
        self.upgrade().is_none()
    }
}

impl Link for QuicLink {
    fn peer(&self) -> PublisherKey {
        self.peer
    }

    fn kind(&self) -> LinkKind {
        LinkKind::Quic
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn meter(&self) -> LinkMeter {
        LinkMeter::quic(self.connection.weak_handle())
    }

    fn split(self: Box<Self>) -> (Box<dyn LinkSender>, Box<dyn LinkReceiver>) {
        let accepting = accept_data(&self.connection);
        let sender = QuicSender {
            connection: self.connection.clone(),
            control: Lane::on(self.control),
            data: std::array::from_fn(Lane::of_data),
        };
        let receiver = QuicReceiver {
            connection: self.connection,
            streams: vec![Incoming::on(self.receive)],
            accepting: Some(accepting),
            reason: None,
            ended: None,
        };
        (Box::new(sender), Box::new(receiver))
    }
}

/// One stream out and what waits for it.
#[derive(Default)]
struct Lane {
    stream: Option<SendStream>,
    priority: i32,
    queue: VecDeque<Bytes>,
}

impl Lane {
    fn on(stream: SendStream) -> Self {
        Self {
            stream: Some(stream),
            ..Self::default()
        }
    }

    /// One of the streams for data: those for bulk have one priority, each before has a higher one.
    fn of_data(at: usize) -> Self {
        Self {
            priority: -(at.min(BULK_STREAM as usize) as i32),
            ..Self::default()
        }
    }

    fn push(&mut self, frame: Frame) {
        let (header, bytes) = frame.into_parts();
        self.queue.push_back(Bytes::copy_from_slice(&header));
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
    }

    /// Writes what waits. Dropped early, it knows how far it came.
    async fn flush(&mut self, connection: &Connection) -> Result<(), WriteError> {
        while !self.queue.is_empty() {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                // Opened with its first frame, as the other side sees a stream only then.
                none => {
                    let opened = none.insert(connection.open_uni().await?);
                    opened.set_priority(self.priority).ok();
                    opened
                }
            };
            // The chunks are advanced in place, so what was written in part goes on from there.
            let mut waiting = self.queue.make_contiguous();
            let before = waiting.len();
            stream.write_many_chunks(&mut waiting).await?;
            let written = before - waiting.len();
            self.queue.drain(..written);
        }
        Ok(())
    }

    /// Ends the stream; waits until all of it is acknowledged.
    async fn finish(&mut self) {
        if let Some(stream) = &mut self.stream
            && stream.finish().is_ok()
        {
            stream.stopped().await.ok();
        }
    }
}

struct QuicSender {
    connection: Connection,
    control: Lane,
    data: [Lane; DATA_STREAMS as usize],
}

impl QuicSender {
    fn lanes(&mut self) -> impl Iterator<Item = &mut Lane> {
        std::iter::once(&mut self.control).chain(&mut self.data)
    }

    /// Sends what is so urgent, or more so.
    async fn flush(&mut self, urgency: Urgency) -> Result<(), LinkError> {
        let connection = self.connection.clone();
        // The control lane and those up to this urgency; bulk is spread over all that are left.
        let lanes = match urgency {
            Urgency::Bulk => usize::MAX,
            _ => urgency as usize + 2,
        };
        // At the same time: a lane that waits for its window must not hold up the others.
        let flushes = self.lanes().take(lanes).map(|lane| lane.flush(&connection));
        let flushed = try_join_all(flushes).await;
        match flushed {
            Ok(_) => Ok(()),
            // A stream's error says only that it ended; the connection knows why.
            Err(error) => Err(match self.connection.close_reason() {
                Some(reason) => end_of(&reason),
                None => LinkError::Cut(error.to_string()),
            }),
        }
    }
}

impl LinkSender for QuicSender {
    fn send<'a>(
        &'a mut self,
        batch: &'a mut Vec<Frame>,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<(), LinkError>> {
        if let Some(error) = batch.iter().find_map(|frame| frame.check().err()) {
            return std::future::ready(Err(error)).boxed();
        }
        for frame in batch.drain(..) {
            match frame {
                Frame::Control(_) => self.control.push(frame),
                Frame::Data {
                    request: number, ..
                }
                | Frame::Pushed { push: number, .. } => {
                    let at = match urgency {
                        Urgency::Bulk => BULK_STREAM + number % (DATA_STREAMS - BULK_STREAM),
                        _ => urgency as u32,
                    };
                    self.data[at as usize].push(frame);
                }
            }
        }
        self.flush(urgency).boxed()
    }

    fn close<'a>(&'a mut self, reason: &'a str) -> BoxFuture<'a, ()> {
        async move {
            let goodbye = async {
                let frame = close_frame(reason);
                self.flush(Urgency::Bulk).await.ok();
                self.control.queue.push_back(Bytes::from(frame));
                self.flush(Urgency::Bulk).await.ok();
                // Until it is acknowledged: closing a connection drops what is still on its way.
                join_all(self.lanes().map(Lane::finish)).await;
            };
            timeout(CLOSE_LIMIT, goodbye).await.ok();
            // Said once more, for a side that has not read its streams to their end.
            let shown = &reason[..reason.floor_char_boundary(super::REASON_BYTES_MAX)];
            self.connection
                .close(VarInt::from_u32(CODE_CLOSED), shown.as_bytes());
        }
        .boxed()
    }
}

type Accepting = BoxFuture<'static, Result<RecvStream, ConnectionError>>;

fn accept_data(connection: &Connection) -> Accepting {
    let connection = connection.clone();
    async move { connection.accept_uni().await }.boxed()
}

/// One stream in.
struct Incoming {
    stream: RecvStream,
    frames: FrameReader,
    ended: bool,
}

impl Incoming {
    fn on(stream: RecvStream) -> Self {
        Self {
            stream,
            frames: FrameReader::default(),
            ended: false,
        }
    }

    /// Reads until frames are complete or nothing more is there.
    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<Frame>) -> Result<(), LinkError> {
        let before = out.len();
        while !self.ended && out.len() == before {
            // The future may be dropped: bytes are in the buffer as soon as they are read.
            let read = pin!(self.stream.read_buf(self.frames.space())).poll(cx);
            match read {
                Poll::Pending => break,
                // The connection's own reason is looked up when every stream has ended.
                Poll::Ready(Ok(0) | Err(_)) => self.ended = true,
                Poll::Ready(Ok(_)) => self.frames.take(out)?,
            }
        }
        Ok(())
    }
}

struct QuicReceiver {
    connection: Connection,
    streams: Vec<Incoming>,
    accepting: Option<Accepting>,
    reason: Option<String>,
    ended: Option<LinkError>,
}

impl QuicReceiver {
    fn poll(&mut self, cx: &mut Context<'_>, out: &mut Vec<Frame>) -> Poll<Result<(), LinkError>> {
        if let Some(error) = &self.ended {
            return Poll::Ready(Err(error.clone()));
        }
        let before = out.len();
        // Streams first, as what is to be read may be on a new one.
        while let Some(accepting) = &mut self.accepting
            && let Poll::Ready(accepted) = accepting.poll_unpin(cx)
        {
            self.accepting = match accepted {
                Ok(stream) => {
                    self.streams.push(Incoming::on(stream));
                    Some(accept_data(&self.connection))
                }
                Err(_) => None,
            };
        }
        for stream in &mut self.streams {
            match stream.poll(cx, out) {
                Ok(()) => {}
                // Other streams may hold frames that were sent before.
                Err(LinkError::Closed(reason)) => self.reason = Some(reason),
                Err(error) => {
                    let code = VarInt::from_u32(CODE_BROKEN);
                    self.connection.close(code, error.to_string().as_bytes());
                    self.ended = Some(error);
                    break;
                }
            }
        }
        self.streams.retain(|stream| !stream.ended);
        // Only when every stream is read to its end, so that nothing that came is lost.
        if self.ended.is_none() && self.accepting.is_none() && self.streams.is_empty() {
            self.ended = Some(self.end());
        }
        match &self.ended {
            _ if out.len() > before => Poll::Ready(Ok(())),
            Some(error) => Poll::Ready(Err(error.clone())),
            None => Poll::Pending,
        }
    }

    fn end(&mut self) -> LinkError {
        match (self.reason.take(), self.connection.close_reason()) {
            (Some(reason), _) => LinkError::Closed(reason),
            (None, Some(reason)) => end_of(&reason),
            (None, None) => LinkError::Cut("it ended without a reason".to_owned()),
        }
    }
}

fn end_of(error: &ConnectionError) -> LinkError {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            LinkError::Closed(shown(&close.reason))
        }
        ConnectionError::ApplicationClosed(_) => {
            LinkError::Cut("it ended without a reason".to_owned())
        }
        ConnectionError::LocallyClosed => LinkError::Closed("by this node".to_owned()),
        // Some tell what the other side said.
        other => LinkError::Cut(shown(other.to_string().as_bytes())),
    }
}

impl LinkReceiver for QuicReceiver {
    fn receive<'a>(&'a mut self, out: &'a mut Vec<Frame>) -> BoxFuture<'a, Result<(), LinkError>> {
        poll_fn(|cx| self.poll(cx, out)).boxed()
    }
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
