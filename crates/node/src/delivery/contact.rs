//! The two tasks of one contact: what goes out, and what comes in.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lavant_proto::delivery::Delivery;
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContactNo, PushNo, RequestNo};
use lavant_proto::runs::Run;
use lavant_proto::uplink::{Class, Serving};
use lavant_proto::verify::VerifiedFrame;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::answers::{Answers, Serve};
use super::event::{Event, Held, ReadingRoom};
use super::expected::Expectations;
use crate::link::{Frame, LinkReceiver, LinkSender, Urgency};
use crate::store::AsyncStore;

/// Bytes of frames that go out in one batch.
/// Each batch is a hop to a thread that may block, so it is to be worth it. What is urgent does not
/// wait for it: it overtakes in the link.
const BATCH_BYTES: u64 = 1 << 20;
/// Bytes of chunk groups that are gathered before they are written, and for how long at most.
const GATHER_BYTES: usize = 1 << 20;
const GATHER_TIME: Duration = Duration::from_millis(5);

/// How long what was to be said before the end may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Links that say good-bye at a time, which takes a second or two each; others are cut.
static GOODBYES: Semaphore = Semaphore::const_new(64);
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
}

/// The other end of an [`Outbox`].
pub(super) struct Queue {
    commands: UnboundedReceiver<Command>,
    waiting: Arc<AtomicUsize>,
}

impl Outbox {
    pub(super) fn new() -> (Self, Queue) {
        // Without a bound, as the driver must not wait for one contact. The core bounds what is
        // served, and the driver looks at `waiting` for the rest.
        let (sender, commands) = unbounded_channel();
        let queue = Queue {
            commands,
            waiting: Arc::default(),
        };
        let outbox = Self {
            commands: sender,
            waiting: Arc::clone(&queue.waiting),
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
    }

    pub(super) fn control(&self, message: &Message) {
        let bytes = message.encode();
        self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        self.send(Command::Control(bytes.into()));
    }

    pub(super) fn waiting(&self) -> usize {
        // A value that is a moment old does: it is compared with megabytes.
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Sends what the core wants sent, messages before segments and what is urgent before what has
/// time, until the link or the driver ends. What comes while the link is busy overtakes in the link
/// what is less urgent.
pub(super) async fn send(
    no: ContactNo,
    mut link: Box<dyn LinkSender>,
    mut queue: Queue,
    (events, store): (Sender<Event>, AsyncStore),
    receiving: AbortHandle,
) {
    let (mut answers, mut desk) = (Answers::default(), Desk::default());
    // One turn for each command or each batch that the link took: what is most urgent is chosen
    // anew.
    while desk.take_from(&mut queue).await {
        let mut frames = std::mem::take(&mut desk.messages);
        // What was said before goes first; segments that wait are of no use any more.
        if let Some(why) = desk.close {
            let last_words = link.send(&mut frames, Urgency::Live);
            let _ = timeout(LAST_WORDS, last_words).await;
            match GOODBYES.try_acquire() {
                Ok(_place) => link.close(&why).await,
                // A flood of links that end does not wait for each of them: a link whose both
                // directions are dropped is cut.
                Err(_) => receiving.abort(),
            }
            return;
        }
        // Nothing less urgent is read while this is on its way, so that a slow disk cannot hold it
        // up.
        let urgency = desk.urgency();
        let serves = desk.batch(urgency);
        if !serves.is_empty() {
            let read = answers.read(&store, serves).await;
            frames.extend(read.frames);
            if let Some(why) = read.lie
                && events.send(Event::Lied(no, why)).await.is_err()
            {
                return;
            }
        }
        // The send is dropped when something more is to be said. Nothing is lost: the link has
        // taken the frames and goes on with them, in its own order, at the next call.
        let sent = tokio::select! {
            // What the link takes at once is not put off by a command that came just then.
            biased;
            sent = link.send(&mut frames, urgency) => sent,
            command = queue.commands.recv() => match command {
                Some(command) => {
                    desk.add(command);
                    continue;
                }
                None => break,
            },
        };
        // `waiting` and `in_link` fall only now: before that, the bytes still take memory here.
        queue
            .waiting
            .fetch_sub(std::mem::take(&mut desk.said), Ordering::Relaxed);
        let served = std::mem::take(&mut desk.in_link[urgency as usize]);
        // The receiving task reports why a link ended.
        if sent.is_err() || (served > 0 && events.send(Event::Sent(no, served)).await.is_err()) {
            return;
        }
    }
    link.close(STOPS).await;
}

/// What is to be sent, and what the link is busy with.
#[derive(Default)]
struct Desk {
    messages: Vec<Frame>,
    /// Bytes of messages here and in the link.
    said: usize,
    serves: [VecDeque<Serve>; Urgency::COUNT],
    /// Bytes of chunk groups in the link, as they are counted against the limits.
    in_link: [u64; Urgency::COUNT],
    close: Option<String>,
}

impl Desk {
    /// Takes all that waits; waits for something when there is nothing to do. False when the driver
    /// has ended.
    async fn take_from(&mut self, queue: &mut Queue) -> bool {
        if self.is_idle() {
            match queue.commands.recv().await {
                Some(command) => self.add(command),
                None => return false,
            }
        }
        while self.close.is_none()
            && let Ok(command) = queue.commands.try_recv()
        {
            self.add(command);
        }
        true
    }

    fn is_idle(&self) -> bool {
        let serves_nothing = self.serves.iter().all(VecDeque::is_empty);
        self.in_link == [0; Urgency::COUNT]
            && serves_nothing
            && self.said == 0
            && self.close.is_none()
    }

    fn add(&mut self, command: Command) {
        match command {
            Command::Control(bytes) => {
                self.said += bytes.len();
                self.messages.push(Frame::Control(bytes));
            }
            Command::Serve(serve) => {
                let urgency = urgency(&serve.serving);
                self.serves[urgency as usize].push_back(serve);
            }
            Command::Close(why) => self.close = Some(why),
        }
    }

    /// Of the most urgent of what is to be read or is in the link.
    fn urgency(&self) -> Urgency {
        let waits = |urgency: &Urgency| {
            let at = *urgency as usize;
            self.in_link[at] > 0 || !self.serves[at].is_empty()
        };
        Urgency::ALL
            .into_iter()
            .find(waits)
            .unwrap_or(Urgency::Live)
    }

    /// What is read next of an urgency: nothing while the link is busy with some.
    fn batch(&mut self, urgency: Urgency) -> Vec<Serve> {
        let at = urgency as usize;
        let mut batch = Vec::new();
        if self.in_link[at] > 0 {
            return batch;
        }
        while self.in_link[at] < BATCH_BYTES
            && let Some(serve) = self.serves[at].pop_front()
        {
            self.in_link[at] += Delivery::serving_bytes(&serve.serving.groups);
            batch.push(serve);
        }
        batch
    }
}

/// How urgent the link takes it to be.
const fn urgency(serving: &Serving) -> Urgency {
    match (serving.class, serving.rank) {
        (Class::Live | Class::Repair, _) => Urgency::Live,
        (Class::Swarm, _) | (Class::Relay, 0) => Urgency::Soon,
        (Class::Relay, _) => Urgency::Bulk,
    }
}

/// Takes what comes in until the link ends: verifies and keeps chunk groups, hands on messages. It
/// reads nothing while the contact is slowed down, so that what it sends waits on its own side.
pub(super) async fn receive(
    no: ContactNo,
    mut link: Box<dyn LinkReceiver>,
    expected: Expectations,
    (events, store, room): (Sender<Event>, AsyncStore, ReadingRoom),
    mut slow: watch::Receiver<Option<Instant>>,
) {
    let mut frames = Vec::new();
    // Set while chunk groups are gathered: the time at which they are written at the latest.
    let mut until = None;
    loop {
        // Not while something is gathered: what came before the pause is worked through first.
        if until.is_none() && !pause(&mut slow).await {
            return;
        }
        // When the time is over, the call is dropped without loss, and what came is written.
        let came = link.receive(&mut frames);
        let ended = match until {
            None => came.await.err(),
            Some(until) => match timeout_at(until, came).await {
                Ok(came) => came.err(),
                Err(_) => None,
            },
        };
        let now = Instant::now();
        // Counted from the first of them, so that a steady trickle is not put off without end.
        let limit = *until.get_or_insert(now + GATHER_TIME);
        if ended.is_none() && now < limit && is_worth_gathering(&frames, expected.len()) {
            continue;
        }
        until = None;
        // Messages alone need neither hash nor file, and are spared the hop.
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
                Err(error) => vec![Happened::Event(Event::Down(no, error.to_string()))],
            }
        } else {
            take(no, &frames, &expected)
        };
        frames.clear();
        for happened in happened {
            let event = match happened {
                Happened::Event(event) => event,
                // Meanwhile nothing is read of this contact alone: its sender has to wait.
                Happened::Said(bytes) => match room.hold(bytes.len()).await {
                    Some(held) => heard(no, &bytes, held),
                    None => return,
                },
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
        // After all that came before the end, which counts.
        if let Some(error) = ended {
            let _ = events.send(Event::Down(no, error.to_string())).await;
            return;
        }
    }
}

/// Waits for as long as the contact is slowed down. False when the contact has ended.
async fn pause(slow: &mut watch::Receiver<Option<Instant>>) -> bool {
    loop {
        // Looked at again after each wait: the pause may have become longer meanwhile.
        let until = *slow.borrow_and_update();
        match until {
            Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
            _ => return slow.has_changed().is_ok(),
        }
    }
}

/// Whether chunk groups may wait for those that follow: many of them cost little more to write
/// than one. None follow when all answers that are expected have come.
fn is_worth_gathering(frames: &[Frame], expected: usize) -> bool {
    let (mut bytes, mut whole) = (0, 0);
    let is_data = |frame: &Frame| match frame {
        Frame::Data {
            bytes: data, last, ..
        } => {
            bytes += data.len();
            whole += usize::from(*last);
            true
        }
        Frame::Control(_) | Frame::Pushed { .. } => false,
    };
    // A message that came is not kept waiting for data.
    frames.iter().all(is_data) && bytes < GATHER_BYTES && whole < expected
}

/// What came of frames.
enum Happened {
    Event(Event),
    /// A message, which is read when there is room for what it says.
    Said(Bytes),
}

fn heard(no: ContactNo, bytes: &[u8], held: Held) -> Event {
    match Message::decode(bytes) {
        Ok(message) => Event::Message(no, Box::new(message), held),
        Err(error) => Event::Lied(no, format!("it sent what is no message: {error}")),
    }
}

/// Works through frames: chunk groups of one request are kept together, messages in their order
/// and after what came before them.
fn take(no: ContactNo, frames: &[Frame], expected: &Expectations) -> Vec<Happened> {
    let mut happened = Vec::new();
    let mut answers: BTreeMap<RequestNo, Vec<&Bytes>> = BTreeMap::new();
    for frame in frames {
        match frame {
            Frame::Data { request, bytes, .. } => {
                answers.entry(RequestNo(*request)).or_default().push(bytes);
            }
            Frame::Pushed { push, .. } => {
                happened.push(Happened::Event(Event::Pushed(no, PushNo(*push))));
            }
            Frame::Control(bytes) => {
                // A message may speak of what came before it, as *gone* does.
                for (request, answer) in std::mem::take(&mut answers) {
                    keep(no, request, &answer, expected, &mut happened);
                }
                happened.push(Happened::Said(bytes.clone()));
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
    happened: &mut Vec<Happened>,
) {
    // An answer to a request that was given up is of no use.
    // Taken out, so that hashing and writing do not hold the lock that the driver waits for.
    let Some(mut answer) = expected.take(request) else {
        return;
    };
    // They borrow the link's buffers: a payload is not copied before it is written.
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
    // Frames before a wrong one are good: they were verified by themselves.
    if let (Some(first), Some(last)) = (verified.first(), verified.last()) {
        // The reader takes them only in order, so they are one run.
        let groups = Run::new(first.group(), last.group() + 1);
        match answer.partial.write_all(&verified) {
            Ok(()) => happened.push(Happened::Event(Event::Arrived(no, request, groups))),
            Err(error) => {
                tracing::error!(%error, "part of a segment cannot be written");
                happened.push(Happened::Event(Event::Unwritten(no, request)));
                return expected.remove(request);
            }
        }
    }
    if damaged {
        happened.push(Happened::Event(Event::Damaged(no, request)));
        expected.remove(request);
    } else if answer.reader.is_done() {
        expected.remove(request);
    } else {
        expected.put_back(request, answer);
    }
}
