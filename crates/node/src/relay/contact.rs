//! The two tasks of one contact: what goes out, and what comes in.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lavant_proto::content::Kind;
use lavant_proto::delivery::Delivery;
use lavant_proto::ids::Root;
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, RequestNo};
use lavant_proto::piece::message::PieceMessage;
use lavant_proto::runs::{GroupRun, Run};
use lavant_proto::uplink::Serving;
use lavant_proto::verify::{
    FRAME_BYTES_MAX, FrameParts, FrameReader, FrameWriter, VerifiedFrame, group_count,
};
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::driver::Event;
use super::holdings::payload_of;
use crate::link::{Frame, LinkReceiver, LinkSender};
use crate::store::{AsyncStore, Content, Partial, SliceFile, Store, StoreError};

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
/// groups wait, the core knows.
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
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        self.send(Command::Control(bytes.into()));
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Chunk groups to send for a request.
pub(super) struct Serve {
    pub(super) serving: Serving,
    /// Where they are; none when they are gone.
    pub(super) payload: Option<Payload>,
}

/// Where the payload of a segment is.
pub(super) enum Payload {
    /// It is still coming itself.
    Partial { root: Root, length: u64 },
    /// It is a segment of the store.
    Stored {
        content: Arc<Content>,
        rendition_no: u16,
        kind: Kind,
        sequence: u64,
    },
}

impl Payload {
    /// Its root and length. Blocks.
    pub(super) fn find(&self, store: &Store) -> Result<(Root, u64), StoreError> {
        match self {
            Self::Partial { root, length } => Ok((*root, *length)),
            Self::Stored {
                content,
                rendition_no,
                kind,
                sequence,
            } => payload_of(store, content, (*rendition_no, *kind, *sequence)),
        }
    }
}

/// An answer that is expected.
pub(super) struct Expected {
    reader: FrameReader,
    partial: Arc<Partial>,
}

impl Expected {
    pub(super) fn new(root: Root, length: u64, groups: GroupRun, partial: Arc<Partial>) -> Self {
        Self {
            reader: FrameReader::new(root, length, groups),
            partial,
        }
    }
}

/// The answers that a contact owes, by request.
#[derive(Clone, Default)]
pub(super) struct Expectations(Arc<Mutex<BTreeMap<RequestNo, Expected>>>);

impl Expectations {
    pub(super) fn insert(&self, request: RequestNo, expected: Expected) {
        self.lock().insert(request, expected);
    }

    pub(super) fn remove(&self, request: RequestNo) -> Option<Expected> {
        self.lock().remove(&request)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RequestNo, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what the core wants sent, messages before segments, until the link or the driver ends.
pub(super) async fn send(
    no: ContactNo,
    mut link: Box<dyn LinkSender>,
    mut queue: Queue,
    events: Sender<Event>,
    store: AsyncStore,
) {
    let mut answers = Answers::default();
    while let Some(first) = queue.commands.recv().await {
        let Batch {
            mut frames,
            serves,
            said,
            served,
            mut close,
        } = gather(first, &mut queue);
        if !serves.is_empty() {
            let read = answers.read(&store, serves).await;
            frames.extend(read.frames);
            if let Some(why) = read.lie
                && events.send(Event::Lied(no, why)).await.is_err()
            {
                return;
            }
        }
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

/// What goes out in one batch.
struct Batch {
    frames: Vec<Frame>,
    serves: Vec<Serve>,
    /// Bytes of messages.
    said: usize,
    /// Bytes of chunk groups, as they are counted against the limits.
    served: u64,
    close: Option<String>,
}

/// Takes what waits, up to a batch.
fn gather(first: Command, queue: &mut Queue) -> Batch {
    let mut batch = Batch {
        frames: Vec::new(),
        serves: Vec::new(),
        said: 0,
        served: 0,
        close: None,
    };
    let mut next = Some(first);
    while let Some(command) = next {
        match command {
            Command::Control(bytes) => {
                batch.said += bytes.len();
                batch.frames.push(Frame::Control(bytes));
            }
            Command::Close(why) => batch.close = Some(why),
            Command::Serve(serve) => {
                batch.served += Delivery::serving_bytes(&serve.serving.groups);
                batch.serves.push(serve);
            }
        }
        next = if batch.close.is_some() || batch.served >= BATCH_BYTES {
            None
        } else {
            queue.commands.try_recv().ok()
        };
    }
    batch
}

/// What was read of answers.
#[derive(Default)]
struct Read {
    /// Messages first.
    frames: Vec<Frame>,
    /// What the other side asked for that no honest node asks for.
    lie: Option<String>,
}

/// An answer of which a part was sent.
struct Answer {
    root: Root,
    length: u64,
    writer: FrameWriter,
}

/// Answers that are being sent.
#[derive(Default)]
struct Answers {
    open: BTreeMap<RequestNo, Answer>,
    files: Vec<(Root, Arc<SliceFile>)>,
    /// Buffers of frames that were sent, once nobody holds them any more.
    buffers: Vec<Bytes>,
}

impl Answers {
    /// Reads what is to be sent, on a thread that may block.
    async fn read(&mut self, store: &AsyncStore, serves: Vec<Serve>) -> Read {
        let mut answers = std::mem::take(self);
        let requests: Vec<RequestNo> = serves.iter().map(|it| it.serving.request).collect();
        let read = store.run(move |store| {
            let (mut read, mut data) = (Read::default(), Vec::new());
            for serve in &serves {
                match answers.frames(store, serve) {
                    Ok(Ok(more)) => data.extend(more),
                    Ok(Err(lie)) => read.lie = Some(lie.to_owned()),
                    Err(error) => {
                        tracing::warn!(%error, "a segment cannot be served");
                        read.frames.push(gone(serve.serving.request));
                    }
                }
            }
            read.frames.append(&mut data);
            (answers, read)
        });
        match read.await {
            Ok((answers, read)) => {
                *self = answers;
                read
            }
            Err(_) => Read {
                frames: requests.into_iter().map(gone).collect(),
                lie: None,
            },
        }
    }

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

    /// Reads the frames that are to be sent now; or says what is wrong with the request. Blocks.
    fn frames(
        &mut self,
        store: &Store,
        serve: &Serve,
    ) -> Result<Result<Vec<Frame>, &'static str>, StoreError> {
        let unread = |error| StoreError::io("read a segment", &error);
        let Serving {
            request,
            asked,
            groups,
            last,
            ..
        } = serve.serving;
        if !self.open.contains_key(&request) {
            let found = serve.payload.as_ref().map(|payload| payload.find(store));
            let gone = || StoreError::NotFound("the segment".into());
            let (root, length) = found.ok_or_else(gone)??;
            if asked.end > group_count(length) {
                return Ok(Err("it asked for more than a segment has"));
            }
            if self.open.len() >= ANSWERS_MAX {
                self.open.clear();
            }
            let answer = Answer {
                root,
                length,
                writer: FrameWriter::new(length, asked),
            };
            self.open.insert(request, answer);
        }
        let Some(mut answer) = self.open.remove(&request) else {
            return Ok(Ok(Vec::new()));
        };
        let file = self.file(store, answer.root, answer.length)?;
        let count = groups.count() as usize;
        let mut buffer = self.buffer(count * FRAME_BYTES_MAX);
        let mut leaves = Vec::with_capacity(count);
        let mut ends = Vec::with_capacity(count);
        let (mut rest, mut end, mut from) = (&mut buffer[..], 0, None);
        while ends.len() < count {
            let next = answer.writer.next(&file.outboard, rest).map_err(unread)?;
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
        let done = answer.writer.is_done();
        let bytes = buffer.freeze();
        if self.buffers.len() < BUFFERS_MAX {
            self.buffers.push(bytes.clone());
        }
        let mut from = 0;
        let frames = ends.iter().map(|end| {
            let bytes = bytes.slice(from..*end);
            from = *end;
            Frame::Data {
                request: request.0,
                last: done && *end == ends[ends.len() - 1],
                bytes,
            }
        });
        let frames = frames.collect();
        if !last && !done {
            self.open.insert(request, answer);
        }
        Ok(Ok(frames))
    }

    fn file(
        &mut self,
        store: &Store,
        root: Root,
        length: u64,
    ) -> Result<Arc<SliceFile>, StoreError> {
        if let Some((_, file)) = self.files.iter().find(|(other, _)| *other == root) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(store.slice_file(&root, length)?);
        if self.files.len() >= FILES_MAX {
            self.files.remove(0);
        }
        // What of a partial payload is here changes; a whole one does not.
        if file.have.count() == group_count(file.length) {
            self.files.push((root, Arc::clone(&file)));
        }
        Ok(file)
    }
}

fn gone(request: RequestNo) -> Frame {
    let gone: Message = PieceMessage::Gone(request).into();
    Frame::Control(gone.encode().into())
}

/// Takes what comes in until the link ends: verifies and keeps chunk groups, hands on messages. It
/// reads nothing while the contact is slowed down, so that what it sends waits on its own side.
pub(super) async fn receive(
    no: ContactNo,
    mut link: Box<dyn LinkReceiver>,
    expected: Expectations,
    (events, store): (Sender<Event>, AsyncStore),
    mut slow: watch::Receiver<Option<Instant>>,
) {
    let mut frames = Vec::new();
    let mut until = None;
    loop {
        if until.is_none() && !pause(&mut slow).await {
            return;
        }
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
        let happened = if frames.iter().any(|it| matches!(it, Frame::Data { .. })) {
            let (came, expected) = (std::mem::take(&mut frames), expected.clone());
            // Hashing and writing take their time.
            let taken = store.run(move |_| {
                let happened = take(no, &came, &expected);
                (came, happened)
            });
            match taken.await {
                Ok((came, happened)) => {
                    frames = came;
                    happened
                }
                Err(error) => vec![Event::Down(no, error.to_string())],
            }
        } else {
            take(no, &frames, &expected)
        };
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

/// Waits for as long as the contact is slowed down. False when the contact has ended.
async fn pause(slow: &mut watch::Receiver<Option<Instant>>) -> bool {
    loop {
        let until = *slow.borrow_and_update();
        match until {
            Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
            _ => return slow.has_changed().is_ok(),
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
    let mut answers: BTreeMap<RequestNo, Vec<&Bytes>> = BTreeMap::new();
    for frame in frames {
        match frame {
            Frame::Data { request, bytes, .. } => {
                answers.entry(RequestNo(*request)).or_default().push(bytes);
            }
            Frame::Control(bytes) => {
                for (request, answer) in std::mem::take(&mut answers) {
                    keep(no, request, &answer, expected, &mut happened);
                }
                happened.push(match Message::decode(bytes) {
                    Ok(message) => Event::Message(no, Box::new(message)),
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
    request: RequestNo,
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
