//! A link over TCP: frames in TLS records.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lavant_proto::ids::PublisherKey;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frame::{FrameReader, HEADER_BYTES, SPARE_MIN, Waiting, close_frame};
use super::handshake::{HANDSHAKE_BYTES_MAX, Opened};
use super::record::{Reading, RecordReader, RecordWriter};
use super::uplinks::{Cutter, UpLinks, WAY_GONE};
use super::{Frame, Link, LinkError, LinkKind, LinkMeter, LinkReceiver, LinkSender, Urgency};

/// Bytes that are read at once: what they say fits into what a reader of frames has free. A link
/// that never says so much does with less.
const INCOMING_BYTES: usize = SPARE_MIN;
const INCOMING_START: usize = 32 * 1024;
const _: () = assert!(INCOMING_START > HANDSHAKE_BYTES_MAX);
/// Bytes that the system holds unsent, and as many that are encrypted at once, before they are
/// written: what is urgent waits behind no more than these. They are 10 ms of what the link takes,
/// so that a fast one is filled in few steps. What is under way, which a long path needs, does not
/// count.
const UNSENT_MIN: u32 = 4 * 1024;
const UNSENT_MAX: u32 = 256 * 1024;
const UNSENT_TIME: Duration = Duration::from_millis(10);
/// Over which time it is measured what a link takes.
const PACE_SPAN: Duration = Duration::from_millis(100);
/// Steps after which it is known earlier: more than a slow path has under way.
const QUICK_STEPS: u64 = 64;
/// Pieces of one system call; Linux takes 1024.
const SLICES_MAX: usize = 64;
/// Time for what was sent, and the reason, to leave; and for the other side to close too.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long what was sent may stay without an answer, and how often a silent link is probed. What
/// takes longer than this is over; to dial anew costs two round trips, while a transport that has
/// lost its path for half a minute lets as much pass again before it looks whether it is back.
const UNANSWERED_LIMIT: Duration = Duration::from_secs(15);
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// What both directions of a link share.
#[derive(Debug)]
struct Shared {
    tcp: Arc<TcpStream>,
    closing: AtomicBool,
    cut: AtomicBool,
}

impl Shared {
    /// Ends the link at once, as its way is gone.
    fn cut(&self) {
        // First the reason, then the end, which wakes the reader that asks for it.
        self.cut.store(true, Ordering::Release);
        rustix::net::shutdown(&self.tcp, rustix::net::Shutdown::Both).ok();
    }
}

impl Cutter for Weak<Shared> {
    fn cut(&self) -> bool {
        self.upgrade().map(|shared| shared.cut()).is_some()
    }

    fn is_over(&self) -> bool {
        self.strong_count() == 0
    }
}

/// Has the system notice that the other side is gone.
fn set_limits(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    #[cfg(target_os = "linux")]
    {
        // A system without these notices a dead link later, and holds more unsent.
        socket.set_tcp_notsent_lowat(UNSENT_MIN).ok();
        socket.set_tcp_user_timeout(Some(UNANSWERED_LIMIT)).ok();
    }
    let probes = socket2::TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_AFTER);
    socket.set_tcp_keepalive(&probes).ok();
}

/// What a link takes, and how much the system may hold of it.
#[derive(Debug)]
struct Pace {
    bytes: u64,
    since: Instant,
    unsent: u32,
}

impl Pace {
    fn new() -> Self {
        Self {
            bytes: 0,
            since: Instant::now(),
            unsent: UNSENT_MIN,
        }
    }

    /// Notes what was taken. Returns how much the system may hold, when that is something else now.
    fn took(&mut self, bytes: usize, now: Instant) -> Option<u32> {
        self.bytes += bytes as u64;
        let span = now.duration_since(self.since);
        // What is taken so fast is no slow link, and need not wait for the end of the span: until
        // then it would be filled in small steps.
        if span < PACE_SPAN && self.bytes < u64::from(self.unsent) * QUICK_STEPS {
            return None;
        }
        // In 128 bits, as bytes times microseconds may exceed 64.
        let during = u128::from(self.bytes) * UNSENT_TIME.as_micros() / span.as_micros().max(1);
        (self.bytes, self.since) = (0, now);
        let during = u32::try_from(during).unwrap_or(UNSENT_MAX);
        // In powers of two, so that the system is told of it seldom.
        let wanted = during.clamp(UNSENT_MIN, UNSENT_MAX).next_power_of_two();
        let changed = wanted != self.unsent;
        self.unsent = wanted;
        changed.then_some(wanted)
    }
}

/// A TCP link whose handshake is over.
pub(super) struct TcpLink {
    remote: SocketAddr,
    peer: PublisherKey,
    sender: TcpSender,
    receiver: TcpReceiver,
}

impl TcpLink {
    pub(super) fn new(tcp: TcpStream, remote: SocketAddr, opened: Opened) -> Self {
        set_limits(&tcp);
        let shared = Arc::new(Shared {
            tcp: Arc::new(tcp),
            closing: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        });
        let mut frames = FrameReader::default();
        // The dialler may say its first frames with the end of the handshake.
        frames.space().extend_from_slice(&opened.early);
        let filled = opened.rest.len();
        // More than a handshake holds, so the rest of one fits.
        let mut incoming = vec![0; INCOMING_START];
        incoming[..filled].copy_from_slice(&opened.rest);
        Self {
            remote,
            peer: opened.peer,
            sender: TcpSender {
                shared: Arc::clone(&shared),
                writer: opened.keys.writer,
                waiting: Waiting::default(),
                records: VecDeque::new(),
                written: 0,
                pace: Pace::new(),
            },
            receiver: TcpReceiver {
                shared,
                reader: opened.keys.reader,
                incoming,
                filled,
                frames,
                ended: None,
            },
        }
    }
}

impl TcpLink {
    /// Has it cut when the address of this machine that it uses is gone.
    pub(super) fn watched(self, up: &UpLinks) -> Self {
        let shared = &self.sender.shared;
        let local = shared.tcp.local_addr().ok().map(|local| local.ip());
        up.add(local, Arc::downgrade(shared));
        self
    }
}

impl Link for TcpLink {
    fn peer(&self) -> PublisherKey {
        self.peer
    }

    fn kind(&self) -> LinkKind {
        LinkKind::Tcp
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn meter(&self) -> LinkMeter {
        LinkMeter::tcp(Arc::downgrade(&self.sender.shared.tcp))
    }

    fn split(self: Box<Self>) -> (Box<dyn LinkSender>, Box<dyn LinkReceiver>) {
        (Box::new(self.sender), Box::new(self.receiver))
    }
}

struct TcpSender {
    shared: Arc<Shared>,
    writer: RecordWriter,
    // Not yet encrypted.
    waiting: Waiting,
    // Not yet written, the first one from `written` on.
    records: VecDeque<Vec<u8>>,
    written: usize,
    pace: Pace,
}

impl TcpSender {
    /// Sends what is so urgent, or more so.
    async fn send_all(&mut self, urgency: Urgency) -> Result<(), LinkError> {
        let cut = |error: io::Error| LinkError::Cut(error.to_string());
        loop {
            // Records that were begun go first: the other side can read none behind half of one.
            self.flush().await.map_err(cut)?;
            if !self.waiting.has(urgency) {
                return Ok(());
            }
            // What is encrypted can be overtaken no more, so that is done at the last moment.
            self.room().await.map_err(cut)?;
            self.encrypt()?;
        }
    }

    /// Waits until the system holds little that is unsent: it takes a write of any size while it
    /// holds less than the limit, and appends to the last packet even then. A link that fills the
    /// limit in a moment is not asked.
    async fn room(&self) -> io::Result<()> {
        if self.pace.unsent >= UNSENT_MAX {
            return Ok(());
        }
        let tcp = &*self.shared.tcp;
        loop {
            // tokio remembers that the socket took something; only the system knows whether it
            // would now.
            let asked = tcp.try_io(Interest::WRITABLE, || {
                let mut socket = [PollFd::new(tcp, PollFlags::OUT)];
                match rustix::event::poll(&mut socket, Some(&Timespec::default())) {
                    Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            });
            match asked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Encrypts what is sent next, the most urgent first. It gets records of its own: one that also
    /// holds what is less urgent is read only when all of that has come.
    fn encrypt(&mut self) -> Result<(), LinkError> {
        let mut parts: Vec<([u8; HEADER_BYTES], Bytes)> = Vec::new();
        let mut total = 0;
        let first = self.waiting.first();
        // At least one frame or part of one; never a frame of another urgency.
        let most = self.pace.unsent as usize;
        while total < most
            && self.waiting.first() == first
            && let Some((header, bytes)) = self.waiting.next(most)
        {
            total += HEADER_BYTES + bytes.len();
            parts.push((header, bytes));
        }
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(2 * parts.len());
        for (header, bytes) in &parts {
            pieces.push(header);
            pieces.push(bytes);
        }
        self.put(&pieces)
    }

    fn put(&mut self, pieces: &[&[u8]]) -> Result<(), LinkError> {
        let records = &mut self.records;
        self.writer
            .write(pieces, |record| records.push_back(record))
            .map_err(|error| LinkError::Cut(error.to_string()))
    }

    /// Writes all records. Dropped early, it knows how far it came.
    async fn flush(&mut self) -> io::Result<()> {
        while !self.records.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut skip = self.written;
            let mut count = 0;
            for (slice, record) in slices.iter_mut().zip(&self.records) {
                *slice = IoSlice::new(&record[skip..]);
                skip = 0;
                count += 1;
            }
            match self.shared.tcp.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shared.tcp.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, written: usize) {
        #[cfg(target_os = "linux")]
        if let Some(unsent) = self.pace.took(written, Instant::now()) {
            let socket = socket2::SockRef::from(&*self.shared.tcp);
            socket.set_tcp_notsent_lowat(unsent).ok();
        }
        self.written += written;
        // A write may end within any record.
        while let Some(first) = self.records.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            self.records.pop_front();
        }
    }

    async fn say_goodbye(&mut self, reason: &str) -> Result<(), LinkError> {
        // Bulk, which is everything.
        self.send_all(Urgency::Bulk).await?;
        self.put(&[&close_frame(reason)])?;
        // Without it the other side ends by the close frame all the same.
        if let Ok(record) = self.writer.close_notify() {
            self.records.push_back(record);
        }
        self.send_all(Urgency::Bulk).await
    }

    /// Reads on until the other side has closed too: a socket that is closed with bytes unread
    /// resets the connection, and the reason could be lost.
    async fn linger(&self) {
        let mut scratch = [0; 2048];
        while self.shared.tcp.readable().await.is_ok() {
            match self.shared.tcp.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl LinkSender for TcpSender {
    fn send<'a>(
        &'a mut self,
        batch: &'a mut Vec<Frame>,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<(), LinkError>> {
        if let Some(error) = batch.iter().find_map(|frame| frame.check().err()) {
            return std::future::ready(Err(error)).boxed();
        }
        for frame in batch.drain(..) {
            self.waiting.push(frame, urgency);
        }
        self.send_all(urgency).boxed()
    }

    fn close<'a>(&'a mut self, reason: &'a str) -> BoxFuture<'a, ()> {
        async move {
            // A side that does not read must not hold up the end.
            let said = timeout(CLOSE_LIMIT, self.say_goodbye(reason)).await;
            // Before the shutdown, so that our own reader tells who has closed.
            self.shared.closing.store(true, Ordering::Release);
            rustix::net::shutdown(&self.shared.tcp, rustix::net::Shutdown::Write).ok();
            if matches!(said, Ok(Ok(()))) {
                timeout(CLOSE_LIMIT, self.linger()).await.ok();
            }
            rustix::net::shutdown(&self.shared.tcp, rustix::net::Shutdown::Both).ok();
        }
        .boxed()
    }
}

struct TcpReceiver {
    shared: Arc<Shared>,
    reader: RecordReader,
    incoming: Vec<u8>,
    filled: usize,
    frames: FrameReader,
    ended: Option<LinkError>,
}

impl TcpReceiver {
    async fn receive_some(&mut self, out: &mut Vec<Frame>) -> Result<(), LinkError> {
        // In this order: what was decrypted is given out before an error that came after it is
        // told.
        let before = out.len();
        loop {
            if self.ended.is_none() {
                self.decrypt();
            }
            let taken = self.frames.take(out);
            if let Err(error) = taken {
                self.ended = Some(error);
            }
            if out.len() > before {
                return Ok(());
            }
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            if let Err(error) = self.read().await {
                self.ended = Some(error);
            }
        }
    }

    fn decrypt(&mut self) {
        let whole = &mut self.incoming[..self.filled];
        let (used, reading) = self.reader.read(whole, self.frames.space());
        // Half a record is left at most.
        self.incoming.copy_within(used..self.filled, 0);
        self.filled -= used;
        self.ended = match reading {
            Ok(Reading::Open) => None,
            Ok(Reading::Ended) => Some(LinkError::Cut("it ended without a reason".to_owned())),
            Err(reason) => Some(LinkError::Cut(reason)),
        };
    }

    async fn read(&mut self) -> Result<(), LinkError> {
        loop {
            let readable = self.shared.tcp.readable().await;
            readable.map_err(|error| LinkError::Cut(error.to_string()))?;
            if self.shared.closing.load(Ordering::Acquire) {
                return Err(LinkError::Closed("by this node".to_owned()));
            }
            if self.shared.cut.load(Ordering::Acquire) {
                return Err(LinkError::Cut(WAY_GONE.to_owned()));
            }
            match self.shared.tcp.try_read(&mut self.incoming[self.filled..]) {
                Ok(0) => return Err(LinkError::Cut("the connection ended".to_owned())),
                Ok(read) => {
                    self.filled += read;
                    // It filled the buffer, so there is more to come: a larger one saves system
                    // calls.
                    if self.filled == self.incoming.len() {
                        self.incoming.resize(INCOMING_BYTES, 0);
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Cut(error.to_string())),
            }
        }
    }
}

impl LinkReceiver for TcpReceiver {
    fn receive<'a>(&'a mut self, out: &'a mut Vec<Frame>) -> BoxFuture<'a, Result<(), LinkError>> {
        self.receive_some(out).boxed()
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
