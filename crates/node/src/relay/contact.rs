//! The two tasks of one contact: what goes out, and what comes in.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lavant_proto::ids::Root;
use lavant_proto::relay::message::Message;
use lavant_proto::relay::{ContactNo, Relay};
use lavant_proto::runs::Run;
use lavant_proto::verify::{
    FRAME_BYTES_MAX, FrameParts, FrameReader, FrameWriter, VerifiedFrame, group_count,
};
use tokio::sync::Notify;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use super::driver::Event;
use crate::link::{Frame, LinkReceiver, LinkSender};
use crate::store::{Partial, SliceFile, Store, StoreError};

/// Bytes of frames that go out in one batch.
const BATCH_BYTES: u64 = 512 << 10;
/// Files kept open for answers that take several turns.
const FILES_MAX: usize = 8;
/// Unfinished answers; those that were cancelled stay among them until there are so many.
const ANSWERS_MAX: usize = 4096;
/// Buffers that are kept: as many as a link holds at a time.
const BUFFERS_MAX: usize = 8;
/// Bytes of chunk groups that are gathered before they are written, and for how long at most.
const GATHER_BYTES: usize = 512 << 10;
const GATHER_TIME: Duration = Duration::from_millis(5);

/// How long what was to be said before the end may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What the other side is told when this one ends.
pub(super) const STOPS: &str = "the node stops";

/// What a contact is to send.
enum Command {
    Control(Bytes),
    Serve(Serve),
    Close(String),
}

/// What is to be sent to a contact, and how many bytes of messages wait in it. How many chunk
/// groups wait, the relay knows.
#[derive(Clone)]
pub(super) struct Outbox {
    commands: UnboundedSender<Command>,
    waiting: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

/// The other end of an [`Outbox`].
pub(super) struct Queue {
    commands: UnboundedReceiver<Command>,
    waiting: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

impl Queue {
    /// Why the contact is closed, once that was asked for; what else waits is given up.
    async fn closed(&mut self) -> String {
        self.cut.notified().await;
        loop {
            match self.commands.recv().await {
                Some(Command::Close(why)) => return why,
                Some(_) => {}
                None => return STOPS.into(),
            }
        }
    }
}

impl Outbox {
    pub(super) fn new() -> (Self, Queue) {
        let (sender, commands) = unbounded_channel();
        let queue = Queue {
            commands,
            waiting: Arc::default(),
            cut: Arc::default(),
        };
        let outbox = Self {
            commands: sender,
            waiting: Arc::clone(&queue.waiting),
            cut: Arc::clone(&queue.cut),
        };
        (outbox, queue)
    }

    fn send(&self, command: Command) {
        // When the contact has ended there is nobody to send to.
        let _ = self.commands.send(command);
    }

    pub(super) fn serve(&self, serve: Serve) {
        self.send(Command::Serve(serve));
    }

    /// Ends the contact, even when the other side does not read what is being sent.
    pub(super) fn close(&self, why: String) {
        self.send(Command::Close(why));
        self.cut.notify_one();
    }

    pub(super) fn control(&self, message: &Message) {
        let bytes = message.encode();
        self.wait_for(bytes.len());
        self.send(Command::Control(bytes.into()));
    }

    /// Counts bytes as waiting, before they are made or when they are.
    pub(super) fn wait_for(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes as not waiting after all.
    pub(super) fn done_with(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Chunk groups to send for a request.
pub(super) struct Serve {
    pub(super) request: u32,
    pub(super) root: Root,
    pub(super) length: u64,
    /// All that was asked for with the request.
    pub(super) asked: Run,
    pub(super) groups: Run,
    pub(super) last: bool,
}

/// An answer that is expected.
pub(super) struct Expected {
    reader: FrameReader,
    partial: Arc<Partial>,
}

impl Expected {
    pub(super) fn new(root: Root, length: u64, groups: Run, partial: Arc<Partial>) -> Self {
        Self {
            reader: FrameReader::new(root, length, groups),
            partial,
        }
    }
}

/// The answers that a contact owes, by request.
#[derive(Clone, Default)]
pub(super) struct Expectations(Arc<Mutex<BTreeMap<u32, Expected>>>);

impl Expectations {
    pub(super) fn insert(&self, request: u32, expected: Expected) {
        self.lock().insert(request, expected);
    }

    pub(super) fn remove(&self, request: u32) -> Option<Expected> {
        self.lock().remove(&request)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what the relay wants sent, messages before segments, until the link or the relay ends.
pub(super) async fn send(
    no: ContactNo,
    mut link: Box<dyn LinkSender>,
    mut queue: Queue,
    events: Sender<Event>,
    store: Store,
) {
    let mut answers = Answers {
        store,
        writers: BTreeMap::new(),
        files: Vec::new(),
        buffers: Vec::new(),
    };
    while let Some(first) = queue.commands.recv().await {
        let (mut frames, mut data) = (Vec::new(), Vec::new());
        let (mut served, mut said, mut close) = (0, 0, None);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Control(bytes) => {
                    said += bytes.len();
                    frames.push(Frame::Control(bytes));
                }
                Command::Close(why) => close = Some(why),
                Command::Serve(serve) => {
                    served += Relay::serve_bytes(&serve.groups);
                    match answers.frames(&serve) {
                        Ok(more) => data.extend(more),
                        Err(error) => {
                            tracing::warn!(root = %serve.root, %error, "cannot be served");
                            let gone = Message::Gone(serve.request).encode();
                            frames.push(Frame::Control(gone.into()));
                        }
                    }
                }
            }
            next = if close.is_some() || served >= BATCH_BYTES {
                None
            } else {
                queue.commands.try_recv().ok()
            };
        }
        frames.append(&mut data);
        let closing = close.is_some();
        let sent = tokio::select! {
            biased;
            sent = link.send(&mut frames) => sent,
            why = queue.closed(), if !closing => {
                close = Some(why);
                Ok(())
            }
            () = tokio::time::sleep(LAST_WORDS), if closing => Ok(()),
        };
        queue.waiting.fetch_sub(said, Ordering::Relaxed);
        if let Some(why) = close {
            link.close(&why).await;
            return;
        }
        // The receiving task reports why a link ended.
        if sent.is_err() {
            return;
        }
        if served > 0 && events.send(Event::Sent(no, served)).await.is_err() {
            return;
        }
    }
    link.close(STOPS).await;
}

/// Answers that are being sent.
struct Answers {
    store: Store,
    writers: BTreeMap<u32, FrameWriter>,
    files: Vec<(Root, Arc<SliceFile>)>,
    /// Buffers of frames that were sent, once nobody holds them any more.
    buffers: Vec<Bytes>,
}

impl Answers {
    /// A buffer of at least so many bytes, whatever they are: one that was used before, if there
    /// is one, for the system is slow to give out memory.
    fn buffer(&mut self, length: usize) -> BytesMut {
        let free = self.buffers.iter().position(Bytes::is_unique);
        let used = free.map(|at| self.buffers.swap_remove(at));
        let mut buffer = used
            .and_then(|used| used.try_into_mut().ok())
            .unwrap_or_default();
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        buffer
    }

    /// Reads the frames that are to be sent now.
    fn frames(&mut self, serve: &Serve) -> Result<Vec<Frame>, StoreError> {
        let unread = |error| StoreError::io("read a segment", &error);
        let file = self.file(serve)?;
        let count = serve.groups.count() as usize;
        let mut buffer = self.buffer(count * FRAME_BYTES_MAX);
        if self.writers.len() >= ANSWERS_MAX {
            self.writers.clear();
        }
        let writer = self
            .writers
            .entry(serve.request)
            .or_insert_with(|| FrameWriter::new(serve.length, serve.asked));
        let mut leaves = Vec::with_capacity(count);
        let mut ends = Vec::with_capacity(count);
        let (mut rest, mut end, mut from) = (&mut buffer[..], 0, None);
        while ends.len() < count {
            let next = writer.next(&file.outboard, rest).map_err(unread)?;
            let Some(FrameParts { proof, leaf }) = next else {
                break;
            };
            let length = (leaf.end - leaf.start) as usize;
            let (this, tail) = rest.split_at_mut(proof + length);
            leaves.push(IoSliceMut::new(&mut this[proof..]));
            (rest, end) = (tail, end + proof + length);
            ends.push(end);
            from.get_or_insert(leaf.start);
        }
        // The chunk groups of a run stand next to each other.
        file.read(from.unwrap_or(0), &mut leaves).map_err(unread)?;
        let done = writer.is_done();
        if serve.last || done {
            self.writers.remove(&serve.request);
        }
        let bytes = buffer.freeze();
        if self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(bytes.clone());
        }
        let mut from = 0;
        let frames = ends.iter().map(|end| {
            let bytes = bytes.slice(from..*end);
            from = *end;
            Frame::Data {
                request: serve.request,
                last: done && *end == ends[ends.len() - 1],
                bytes,
            }
        });
        Ok(frames.collect())
    }

    fn file(&mut self, serve: &Serve) -> Result<Arc<SliceFile>, StoreError> {
        if let Some((_, file)) = self.files.iter().find(|(root, _)| *root == serve.root) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.store.slice_file(&serve.root, serve.length)?);
        if self.files.len() >= FILES_MAX {
            self.files.remove(0);
        }
        // What of a partial payload is here changes; a whole one does not.
        if file.have.count() == group_count(file.length) {
            self.files.push((serve.root, Arc::clone(&file)));
        }
        Ok(file)
    }
}

/// Takes what comes in until the link ends: verifies and keeps chunk groups, hands on messages.
pub(super) async fn receive(
    no: ContactNo,
    mut link: Box<dyn LinkReceiver>,
    expected: Expectations,
    events: Sender<Event>,
) {
    let mut frames = Vec::new();
    let mut until = None;
    loop {
        let came = link.receive(&mut frames);
        let ended = match until {
            None => came.await.err(),
            Some(until) => match timeout_at(until, came).await {
                Ok(came) => came.err(),
                Err(_) => None,
            },
        };
        let now = Instant::now();
        let limit = *until.get_or_insert(now + GATHER_TIME);
        if ended.is_none() && now < limit && is_worth_gathering(&frames) {
            continue;
        }
        until = None;
        let happened = take(no, &frames, &expected);
        frames.clear();
        for event in happened {
            if events.send(event).await.is_err() {
                return;
            }
        }
        if let Some(error) = ended {
            let _ = events.send(Event::Down(no, error.to_string())).await;
            return;
        }
    }
}

/// Whether chunk groups may wait for those that follow: many of them cost little more to write
/// than one.
fn is_worth_gathering(frames: &[Frame]) -> bool {
    let mut bytes = 0;
    let is_data = |frame: &Frame| match frame {
        Frame::Data { bytes: data, .. } => {
            bytes += data.len();
            true
        }
        Frame::Control(_) => false,
    };
    frames.iter().all(is_data) && bytes < GATHER_BYTES
}

/// Works through frames: chunk groups of one request are kept together, messages in their order
/// and after what came before them.
fn take(no: ContactNo, frames: &[Frame], expected: &Expectations) -> Vec<Event> {
    let mut happened = Vec::new();
    let mut answers: BTreeMap<u32, Vec<&Bytes>> = BTreeMap::new();
    for frame in frames {
        match frame {
            Frame::Data { request, bytes, .. } => answers.entry(*request).or_default().push(bytes),
            Frame::Control(bytes) => {
                for (request, answer) in std::mem::take(&mut answers) {
                    keep(no, request, &answer, expected, &mut happened);
                }
                happened.push(match Message::decode(bytes) {
                    Ok(message) => Event::Message(no, message),
                    Err(error) => Event::Lied(no, format!("it sent what is no message: {error}")),
                });
            }
        }
    }
    for (request, answer) in answers {
        keep(no, request, &answer, expected, &mut happened);
    }
    happened
}

fn keep(
    no: ContactNo,
    request: u32,
    frames: &[&Bytes],
    expected: &Expectations,
    happened: &mut Vec<Event>,
) {
    // An answer to a request that was given up is of no use.
    let Some(mut answer) = expected.remove(request) else {
        return;
    };
    let mut verified: Vec<VerifiedFrame<'_>> = Vec::new();
    let mut damaged = false;
    for bytes in frames {
        match answer.reader.push(bytes) {
            Ok(frame) => verified.push(frame),
            Err(error) => {
                tracing::warn!(contact = no.0, %error, "a peer sent damaged bytes");
                damaged = true;
                break;
            }
        }
    }
    if let (Some(first), Some(last)) = (verified.first(), verified.last()) {
        let groups = Run::new(first.group(), last.group() + 1);
        match answer.partial.write_all(&verified) {
            Ok(()) => happened.push(Event::Arrived(no, request, groups)),
            Err(error) => {
                tracing::error!(%error, "part of a segment cannot be written");
                happened.push(Event::Unwritten(no, request));
                return;
            }
        }
    }
    if damaged {
        happened.push(Event::Damaged(no, request));
    } else if !answer.reader.is_done() {
        expected.insert(request, answer);
    }
}
