//! Sending payload files without reading them into memory.
//!
//! A response body is made of placeholder bytes that stand for ranges of a file. The connection
//! knows the placeholder's memory: where hyper asks it to write from there, it calls `sendfile(2)`
//! with the next range instead. Bytes of other memory are written as they are. The order of the
//! ranges is the order of the bodies on the connection, which HTTP/1.1 keeps.
//!
//! Where in the placeholder's memory a frame begins changes from one frame to the next, so the
//! connection sees that the bytes to be written stand for the range that is first in its queue. If
//! they ever do not (a body was given up half way, bytes were skipped), the connection is cut
//! rather than fed with another file's bytes.
//!
//! The placeholder holds zeros, so a body must only be given to a connection of this module;
//! handlers see by the [`FileQueue`] among a request's extensions that they may.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::pool::Activity;

/// Bytes of a file in one frame of a body.
const FRAME: usize = 512 * 1024;

/// Places where a frame may begin: more than hyper holds frames (16), and a prime, so that no
/// pattern of frames meets itself.
const PLACES: usize = 61;

static PLACEHOLDER: [u8; FRAME + PLACES] = [0; FRAME + PLACES];

/// How long a reader may take nothing before the connection is given up.
const STALL_MAX: Duration = Duration::from_secs(120);
/// The same for event streams, which have more to say every two seconds.
const STREAM_STALL_MAX: Duration = Duration::from_secs(10);
/// Bytes of events that the system may hold for a reader that does not read: with the reader's own
/// buffer these are filled before it counts as stalled. A catalogue of 100 films fits.
const STREAM_BUFFER: usize = 64 << 10;
/// How long a caller may take for the head of a request: for the first from when it is connected,
/// for the next ones from their first byte.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// The file ranges that a connection is to send, in order.
#[derive(Debug, Default)]
pub(super) struct FileQueue(Mutex<Ranges>);

#[derive(Debug, Default)]
struct Ranges {
    waiting: VecDeque<FileRange>,
    // Where the next frame begins.
    place: usize,
    // Whether the first range has been sent in part.
    begun: bool,
}

#[derive(Clone, Debug)]
struct FileRange {
    file: Arc<File>,
    offset: u64,
    /// The part of the placeholder that stands for it.
    stands: Range<usize>,
}

impl FileQueue {
    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a range of at most [`FRAME`] bytes; returns what stands for it.
    fn push(&self, file: Arc<File>, offset: u64, length: usize) -> &'static [u8] {
        let mut ranges = self.lock();
        // The next place at each frame, so that two frames that wait never stand at the same
        // address.
        ranges.place = (ranges.place + 1) % PLACES;
        let stands = ranges.place..ranges.place + length;
        ranges.waiting.push_back(FileRange {
            file,
            offset,
            stands: stands.clone(),
        });
        &PLACEHOLDER[stands]
    }

    /// The first range, which these bytes have to stand for.
    fn first(&self, bytes: &[u8]) -> io::Result<FileRange> {
        let ranges = self.lock();
        // The address says which frame it is; hyper hands on the rest of a frame that was sent in
        // part, which begins where `advance` has moved the range to.
        let first = ranges.waiting.front().filter(|range| {
            let stands = &PLACEHOLDER[range.stands.clone()];
            stands.as_ptr() == bytes.as_ptr() && bytes.len() <= stands.len()
        });
        first.cloned().ok_or_else(out_of_step)
    }

    /// Takes `sent` bytes off the first range.
    fn advance(&self, sent: usize) {
        let mut ranges = self.lock();
        // `first` was asked just before, so there is one.
        let Some(first) = ranges.waiting.front_mut() else {
            return;
        };
        first.offset += sent as u64;
        first.stands.start += sent;
        ranges.begun = !first.stands.is_empty();
        if !ranges.begun {
            ranges.waiting.pop_front();
        }
    }

    /// Bytes of other memory come only between frames.
    fn check_between(&self) -> io::Result<()> {
        if self.lock().begun {
            return Err(out_of_step());
        }
        Ok(())
    }
}

fn out_of_step() -> io::Error {
    tracing::error!("a file body is out of step with its connection, which is cut");
    io::Error::other("a file body is out of step")
}

/// A response body that is a range of a file.
#[derive(Debug)]
pub(super) struct FileBody {
    file: Arc<File>,
    range: Range<u64>,
    queue: Arc<FileQueue>,
}

impl FileBody {
    /// `range` of `file`, for the connection that `queue` belongs to.
    pub(super) const fn new(file: Arc<File>, range: Range<u64>, queue: Arc<FileQueue>) -> Self {
        Self { file, range, queue }
    }

    const fn remaining(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // Frames are bounded, so that a body of any length needs no more placeholder than one
        // frame.
        let length = self.remaining().min(FRAME as u64) as usize;
        if length == 0 {
            return Poll::Ready(None);
        }
        let stands = self.queue.push(self.file.clone(), self.range.start, length);
        self.range.start += length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(stands)))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining())
    }
}

/// A TCP connection that sends files for placeholders, and gives up callers that stall.
pub(super) struct Connection {
    stream: TcpStream,
    queue: Arc<FileQueue>,
    activity: Arc<Activity>,
    stall: Option<Pin<Box<Sleep>>>,
    /// Until when the head of the request of that number must have come.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    is_narrow: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, queue: Arc<FileQueue>, activity: Arc<Activity>) -> Self {
        let mut connection = Self {
            stream,
            queue,
            activity,
            stall: None,
            head: None,
            is_narrow: false,
        };
        // From the start, so that a connection which says nothing at all ends as soon as a slow
        // one.
        connection.await_head();
        connection
    }

    /// Begins to wait for the rest of a head.
    fn await_head(&mut self) {
        let number = self.activity.requests();
        // The time is not begun anew by each byte, or one byte at a time would hold a place for
        // ever.
        let is_awaited = self.head.as_ref().is_some_and(|(of, _)| *of == number);
        if !is_awaited {
            self.head = Some((number, Box::pin(tokio::time::sleep(HEAD_MAX))));
        }
    }

    /// Whether the head that is awaited has taken too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let number = self.activity.requests();
        // The head has come, whole, or another one after it: its time does not count any more.
        if self.activity.is_busy() || self.head.as_ref().is_some_and(|(of, _)| *of != number) {
            self.head = None;
        }
        match &mut self.head {
            Some((_, sleep)) => sleep.as_mut().poll(cx).is_ready(),
            None => false,
        }
    }

    /// Passes a write's outcome on; a write that waits for too long is an error.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let is_stream = self.activity.is_stream();
        // Once, at the first write: a handler says that it is a stream only when its request is in
        // work.
        if is_stream && !self.is_narrow {
            self.is_narrow = true;
            // A system that cannot do it holds more.
            let _ = SockRef::from(&self.stream).set_send_buffer_size(STREAM_BUFFER);
        }
        // Each write that moves something begins the time anew: slow readers are welcome.
        if outcome.is_ready() {
            self.stall = None;
            self.activity.touch();
            return outcome;
        }
        let most = if is_stream {
            STREAM_STALL_MAX
        } else {
            STALL_MAX
        };
        let until = Instant::now() + most;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sends what these bytes stand for, or less.
    fn poll_sendfile(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let range = self.queue.first(bytes)?;
        let sent = ready!(self.poll_socket(cx, || {
            // An offset of our own: the file is shared, and its position with it.
            let mut offset = range.offset;
            let sent =
                rustix::fs::sendfile(&self.stream, &*range.file, Some(&mut offset), bytes.len())?;
            Ok(sent)
        }))?;
        // The file is shorter than the index says: the length was promised, so the connection must
        // end.
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.queue.advance(sent);
        Poll::Ready(Ok(sent))
    }

    /// Sends a head whose file follows at once: the system puts them into one packet. A reader that
    /// is woken by the head alone reads while the file is being sent, each in the other's way: a
    /// third less throughput, for a server and a reader with a core each.
    fn poll_send_head(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.poll_socket(cx, || {
            let mut nothing = SendAncillaryBuffer::default();
            Ok(sendmsg(&self.stream, slices, &mut nothing, flags)?)
        })
    }

    /// Does what writes to the socket, as soon as it takes something.
    fn poll_socket(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            // `try_io` clears the readiness when the socket takes nothing, so the next turn waits
            // for it.
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, &mut write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

/// Whether these bytes stand for a file: hyper never copies or cuts out of other memory.
fn is_placeholder(bytes: &[u8]) -> bool {
    let memory = PLACEHOLDER.as_ptr_range();
    memory.contains(&bytes.as_ptr())
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        // Bytes that come between requests begin a head; those of a body come while it is busy.
        if outcome.is_ready() && buffer.filled().len() > before && !self.activity.is_busy() {
            self.await_head();
        }
        // Polled while nothing comes, which also registers the wake-up at the deadline.
        if outcome.is_pending() && self.is_late(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = if is_placeholder(bytes) {
            self.poll_sendfile(cx, bytes)
        } else {
            self.queue.check_between()?;
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        };
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let filled = |slice: &&IoSlice<'_>| !slice.is_empty();
        // What is written goes in order, so the first bytes alone decide; hyper asks again for the
        // rest.
        let outcome = match slices.iter().find(filled) {
            None => Poll::Ready(Ok(0)),
            Some(first) if is_placeholder(first) => self.poll_sendfile(cx, first),
            Some(_) => {
                self.queue.check_between()?;
                let memory = slices
                    .iter()
                    .take_while(|slice| !is_placeholder(slice))
                    .count();
                if memory < slices.len() {
                    self.poll_send_head(cx, &slices[..memory])
                } else {
                    Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
                }
            }
        };
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn file(length: usize, seed: u8) -> (Arc<File>, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|at| (at / 7) as u8 ^ seed).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (Arc::new(file), bytes)
    }

    /// A connection, its queue of files, the other end, and what its caller does.
    async fn ends() -> (Connection, Arc<FileQueue>, TcpStream, Arc<Activity>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialling = TcpStream::connect(listener.local_addr().unwrap());
        let (reader, accepted) = tokio::join!(dialling, listener.accept());
        let queue = Arc::new(FileQueue::default());
        let activity = Arc::new(Activity::new(std::time::Instant::now()));
        let stream = accepted.unwrap().0;
        let connection = Connection::new(stream, queue.clone(), activity.clone());
        (connection, queue, reader.unwrap(), activity)
    }

    async fn pair() -> (Connection, Arc<FileQueue>, TcpStream) {
        let (connection, queue, reader, _) = ends().await;
        (connection, queue, reader)
    }

    async fn frame(body: &mut FileBody) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn ranges_of_files_go_out_between_other_bytes_in_order() {
        let (mut connection, queue, mut reader) = pair().await;
        let (one, first) = file(3 * FRAME + 5, 1);
        let (other, second) = file(1000, 2);
        // More than the sockets hold, and more bodies than there are places.
        let mut whole = Vec::new();
        for round in 0..2 * PLACES {
            whole.extend_from_slice(b"head");
            whole.extend_from_slice(if round == 9 {
                &first[3..]
            } else {
                &second[10..20]
            });
        }
        let writing = tokio::spawn(async move {
            for round in 0..2 * PLACES {
                connection.write_all(b"head").await.unwrap();
                let (file, range) = match round {
                    9 => (one.clone(), 3..3 * FRAME as u64 + 5),
                    _ => (other.clone(), 10..20),
                };
                let mut body = FileBody::new(file, range, queue.clone());
                while !body.is_end_stream() {
                    connection.write_all(&frame(&mut body).await).await.unwrap();
                }
            }
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        writing.await.unwrap();
        assert!(got == whole);
    }

    #[tokio::test]
    async fn frames_that_wait_together_go_out_each_with_its_own_bytes() {
        let (mut connection, queue, mut reader) = pair().await;
        let (one, first) = file(100, 1);
        let (other, second) = file(100, 2);
        let frames = [
            Bytes::from_static(b"head"),
            frame(&mut FileBody::new(one, 0..50, queue.clone())).await,
            frame(&mut FileBody::new(other, 50..100, queue.clone())).await,
        ];
        let mut slices = frames.each_ref().map(|frame| IoSlice::new(frame));
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let sent = connection.write_vectored(left).await.unwrap();
            IoSlice::advance_slices(&mut left, sent);
        }
        drop(connection);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [b"head", &first[..50], &second[50..]].concat());
    }

    #[tokio::test]
    async fn a_head_waits_for_the_file_that_follows_it() {
        let (mut connection, queue, mut reader) = pair().await;
        let (one, first) = file(100, 1);
        let body = frame(&mut FileBody::new(one, 0..100, queue)).await;
        let slices = [IoSlice::new(b"head"), IoSlice::new(&body)];
        assert_eq!(connection.write_vectored(&slices).await.unwrap(), 4);
        let mut got = [0; 200];
        let early = reader.try_read(&mut got).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
        connection.write_all(&body).await.unwrap();
        assert_eq!(reader.read(&mut got).await.unwrap(), 104);
        assert_eq!(got[..104], [b"head", &first[..]].concat());
    }

    #[tokio::test]
    async fn a_body_that_was_given_up_does_not_get_into_the_next_one() {
        let (mut connection, queue, mut reader) = pair().await;
        let (secret, _) = file(100, 1);
        let (other, _) = file(100, 2);
        frame(&mut FileBody::new(secret, 0..100, queue.clone())).await;
        let next = frame(&mut FileBody::new(other, 0..100, queue.clone())).await;
        connection.write_all(&next).await.unwrap_err();
        let vectored = connection.write_vectored(&[IoSlice::new(&next)]).await;
        vectored.unwrap_err();
        drop(connection);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got.is_empty(), "{got:?}");
    }

    #[tokio::test]
    async fn bytes_that_were_skipped_or_stand_for_nothing_cut_the_connection() {
        let (mut connection, queue, _reader) = pair().await;
        connection.write_all(&PLACEHOLDER[..9]).await.unwrap_err();
        let (file, _) = file(100, 1);
        let whole = frame(&mut FileBody::new(file, 0..100, queue)).await;
        connection.write_all(&whole[1..]).await.unwrap_err();
        connection.write_all(&whole[..40]).await.unwrap();
        connection.write_all(b"HTTP/1.1 200 OK").await.unwrap_err();
        connection.write_all(&whole[41..]).await.unwrap_err();
        connection.write_all(&whole[40..]).await.unwrap();
        connection.write_all(b"HTTP/1.1 200 OK").await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_of_events_that_nobody_reads_ends_soon() {
        let (mut connection, _, _caller, activity) = ends().await;
        activity.carry_events();
        let begun = Instant::now();
        let sending = async {
            let event = [b'x'; 1000];
            let mut sent = 0_usize;
            loop {
                match connection.write_all(&event).await {
                    Ok(()) => sent += event.len(),
                    Err(error) => return (sent, error.kind()),
                }
            }
        };
        let (sent, error) = tokio::time::timeout(STREAM_STALL_MAX * 3, sending)
            .await
            .unwrap();
        assert_eq!(error, io::ErrorKind::TimedOut);
        assert!(
            begun.elapsed() >= STREAM_STALL_MAX && sent < 16 << 20,
            "{sent}"
        );
    }

    #[tokio::test]
    async fn heads_that_trickle_are_cut_and_whole_ones_are_not() {
        let (mut connection, _, mut caller, activity) = ends().await;
        let begun = Instant::now();
        let trickle = async {
            while caller.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let reading = async {
            let mut byte = [0];
            // The first request is in work, and takes as long as it likes.
            let busy = activity.begin();
            tokio::time::sleep(HEAD_MAX / 2).await;
            while begun.elapsed() < HEAD_MAX * 3 / 2 {
                connection.read_exact(&mut byte).await.unwrap();
            }
            drop(busy);
            loop {
                if let Err(error) = connection.read_exact(&mut byte).await {
                    return error.kind();
                }
            }
        };
        let reading = tokio::time::timeout(HEAD_MAX * 4, reading);
        tokio::select! {
            () = trickle => panic!("the caller ended"),
            error = reading => assert_eq!(error.unwrap(), io::ErrorKind::TimedOut),
        }
        let took = begun.elapsed();
        assert!(took >= HEAD_MAX * 2 && took < HEAD_MAX * 4, "{took:?}");
    }
}
