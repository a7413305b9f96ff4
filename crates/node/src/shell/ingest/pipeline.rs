//! Moves media from a source through segmenters into a sink.
//!
//! Each rendition has a lane of two threads: one reads and cuts, one sends. Between them stands at
//! most one segment, so memory is bounded by three segments a lane whatever the film's length, and
//! a slow sink holds the source back.

use std::ffi::OsString;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use lavant_proto::time::ticks_to_seconds;

use super::Progress;
use super::child::TICK;
use super::error::IngestError;
use super::ffmpeg::{self, Ffmpeg, Report};
use super::plan::Plan;
use super::reach::Reach;
use super::segments::{self, Cut, Piece, Summary};
use super::upload::Sink;

/// Messages on their way to the user.
const MESSAGES: usize = 64;
/// How often the user's wish to stop is looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How long ffmpeg may take to end after its last byte.
const CONCLUDE: Duration = Duration::from_secs(30);
/// How long a segment that is being sent may take once all is stopped.
const SETTLE: Duration = Duration::from_secs(5);

/// What is read.
pub(super) enum Feed {
    /// Bytes that are cut as they are.
    Native(Box<dyn Read + Send>),
    /// Whatever ffmpeg makes of an input.
    Ffmpeg {
        input: OsString,
        stdin: Option<Box<dyn Read + Send>>,
    },
}

/// How a source is moved.
pub(super) struct Job<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cut: Cut,
    /// What ffmpeg may open.
    pub(super) reach: Arc<Reach>,
    pub(super) sink: Arc<dyn Sink>,
    /// The longest silence of the source.
    pub(super) patience: Option<Duration>,
}

enum Message {
    Sent {
        lane: usize,
        sequence: u64,
        bytes: u64,
        media_seconds: f64,
        is_new: bool,
    },
    Report(Report),
    Done {
        lane: usize,
        result: Result<Summary, IngestError>,
    },
}

/// What the threads of a job share.
#[derive(Clone)]
struct Shared {
    sink: Arc<dyn Sink>,
    stop: Arc<AtomicBool>,
    /// Segments being sent now.
    sending: Arc<AtomicUsize>,
    messages: SyncSender<Message>,
}

/// Moves everything; the answer has a summary for each rendition.
pub(super) fn run(
    job: &Job<'_>,
    feed: Feed,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Vec<Summary>, IngestError> {
    let (messages, inbox) = sync_channel(MESSAGES);
    let shared = Shared {
        sink: Arc::clone(&job.sink),
        stop: Arc::default(),
        sending: Arc::default(),
        messages,
    };
    let (readers, mut ffmpeg) = start(job, feed, &shared)?;
    for (lane, reader) in readers.into_iter().enumerate() {
        start_lane(job, lane, reader, &shared);
    }
    let Shared {
        stop,
        sending,
        messages,
        ..
    } = shared;
    // With the last sender of the threads the inbox ends: a thread that is lost is noticed.
    drop(messages);
    let result = watch(job, &inbox, on_progress, cancel);
    // Threads that still send meet an error and end, instead of waiting for room.
    drop(inbox);
    match (result, &mut ffmpeg) {
        (Ok(summaries), None) => Ok(summaries),
        (Ok(summaries), Some(ffmpeg)) => {
            if let Some(complaint) = ffmpeg.conclude(CONCLUDE, cancel)? {
                on_progress(Progress::Notice(format!("ffmpeg complained: {complaint}")));
            }
            job.reach.check()?;
            Ok(summaries)
        }
        (Err(error), ffmpeg) => {
            // In this order: nothing new is sent, ffmpeg ends, and what is being sent is waited
            // for.
            // In the one order of all threads that `send` counts in, or `settle` could miss a
            // piece whose thread has not seen the stop.
            stop.store(true, Ordering::SeqCst);
            let error = explain(error, ffmpeg.as_mut(), cancel);
            settle(&sending);
            job.reach.check()?;
            Err(error)
        }
    }
}

type Readers = Vec<Box<dyn Read + Send>>;

fn start(
    job: &Job<'_>,
    feed: Feed,
    shared: &Shared,
) -> Result<(Readers, Option<Ffmpeg>), IngestError> {
    let (input, stdin) = match feed {
        Feed::Native(reader) => return Ok((vec![reader], None)),
        Feed::Ffmpeg { input, stdin } => (input, stdin),
    };
    let (child, outputs) = Ffmpeg::start(job, &input, stdin)?;
    let messages = shared.messages.clone();
    std::thread::spawn(move || {
        ffmpeg::follow(outputs.progress, |report| {
            messages.send(Message::Report(report)).is_ok()
        });
    });
    let boxed = |pipe| Box::new(pipe) as Box<dyn Read + Send>;
    Ok((outputs.media.into_iter().map(boxed).collect(), Some(child)))
}

fn start_lane(job: &Job<'_>, lane: usize, reader: Box<dyn Read + Send>, shared: &Shared) {
    let cut = job.cut;
    let name = job
        .plan
        .renditions
        .get(lane)
        .map(|r| r.name.clone())
        .unwrap_or_default();
    let (pieces, taken) = sync_channel(1);
    std::thread::spawn(move || segments::cut(reader, cut, &pieces));
    let shared = shared.clone();
    std::thread::spawn(move || {
        let result = send(lane, &name, cut, &taken, &shared);
        let _ = shared.messages.send(Message::Done { lane, result });
    });
}

/// Sends the pieces of one rendition.
fn send(
    lane: usize,
    rendition: &str,
    cut: Cut,
    pieces: &Receiver<Result<Piece, IngestError>>,
    shared: &Shared,
) -> Result<Summary, IngestError> {
    let mut summary = Summary::default();
    while let Ok(piece) = pieces.recv() {
        // By this thread, while the other one cuts on.
        let piece = piece?.hashed();
        // Counted before `stop` is read, so that `settle` waits for a piece that did not see the
        // stop.
        shared.sending.fetch_add(1, Ordering::SeqCst);
        let stopped = shared.stop.load(Ordering::SeqCst);
        let sent = match stopped {
            true => Err(IngestError::Cancelled),
            false => shared.sink.put(rendition, &piece, &shared.stop),
        };
        shared.sending.fetch_sub(1, Ordering::SeqCst);
        let is_new = sent?;
        summary.add(&piece, cut);
        if piece.fact.is_init {
            continue;
        }
        let message = Message::Sent {
            lane,
            sequence: piece.fact.sequence,
            bytes: piece.fact.length,
            media_seconds: ticks_to_seconds(summary.duration),
            is_new,
        };
        if shared.messages.send(message).is_err() {
            return Err(IngestError::Cancelled);
        }
    }
    Ok(summary)
}

/// Tells the user what happens until all lanes are done or one has failed.
fn watch(
    job: &Job<'_>,
    inbox: &Receiver<Message>,
    on_progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Vec<Summary>, IngestError> {
    let mut done: Vec<Option<Summary>> = vec![None; job.plan.renditions.len()];
    let mut latest = Report::default();
    let mut moved = Instant::now();
    while done.iter().any(Option::is_none) {
        if cancel.load(Ordering::Relaxed) {
            return Err(IngestError::Cancelled);
        }
        // At once, and not at the end: ffmpeg passes over a part that it may not fetch.
        job.reach.check()?;
        let message = match inbox.recv_timeout(WATCH) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(patience) = job.patience.filter(|most| moved.elapsed() > *most) {
                    return Err(IngestError::Stalled(patience.as_secs()));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Err(lost_thread()),
        };
        let mut has_moved = true;
        match message {
            Message::Sent {
                lane,
                sequence,
                bytes,
                media_seconds,
                is_new,
            } => {
                let rendition = job.plan.renditions[lane].name.clone();
                on_progress(Progress::Segment {
                    rendition,
                    sequence,
                    bytes,
                    media_seconds,
                    is_new,
                });
            }
            Message::Report(report) => {
                // ffmpeg reports twice a second, also when its source gives nothing.
                has_moved = report.media_seconds > latest.media_seconds;
                latest = report;
                let Report {
                    media_seconds,
                    speed,
                } = report;
                on_progress(Progress::Encoded {
                    media_seconds,
                    speed,
                });
            }
            Message::Done { lane, result } => done[lane] = Some(result?),
        }
        if has_moved {
            moved = Instant::now();
        }
    }
    Ok(done.into_iter().flatten().collect())
}

fn lost_thread() -> IngestError {
    IngestError::io("a worker thread ended early")(std::io::Error::other("see the log"))
}

/// An error of cutting often only follows from one of ffmpeg's, which then tells more.
fn explain(error: IngestError, ffmpeg: Option<&mut Ffmpeg>, cancel: &AtomicBool) -> IngestError {
    let Some(ffmpeg) = ffmpeg else { return error };
    use lavant_media::Error::{KeyFrameGap, SegmentTooLarge};
    let is_ours = matches!(
        error,
        IngestError::Media(KeyFrameGap { .. } | SegmentTooLarge { .. })
    );
    // ffmpeg knows nothing of these, so it is not waited for.
    if is_ours || !matches!(error, IngestError::Media(_)) {
        ffmpeg.kill();
        return error;
    }
    match ffmpeg.conclude(SETTLE, cancel) {
        Err(reason) => reason,
        Ok(_) => error,
    }
}

/// Waits for segments that are being sent, so that a rollback comes after them.
fn settle(sending: &AtomicUsize) {
    // Not for ever, as the node may hang. What comes after the rollback is refused.
    let deadline = Instant::now() + SETTLE;
    while sending.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(TICK);
    }
}
