//! One live stream: what its publisher sends, and what its viewers ask for.

mod intake;
mod status;
mod view;

pub use status::Status;
pub use view::{Answer, Ask, NoPlaylist};

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_media::StreamInfo;
use lavant_media::frame::Item;
use lavant_media::live::{self as cut, Packager};
use lavant_proto::ids::{ContentId, ContentKey};
use lavant_proto::time::Time;
use tokio::sync::{mpsc, watch};

use super::steady::Steady;
use super::window::Window;
use intake::Rate;

use crate::store::{Clock, Shown};

/// The most bytes of segments that wait for the disk. What comes while it takes none is watched
/// live all the same, and lacks in the replay.
const QUEUE_MAX: usize = 64 << 20;
/// A source that is so far ahead of time has to wait for the disk.
const AHEAD: Duration = Duration::from_secs(5);
/// How often it looks whether it still has to.
const LOOK: Duration = Duration::from_millis(50);
/// How long one waits until all of a stream is stored and finished.
pub(super) const FINISH_MAX: Duration = Duration::from_secs(10);
/// A publisher that was silent for so long gives way to another one.
const SILENCE: Duration = Duration::from_secs(3);

/// What is to be written behind the stream, in order.
#[derive(Debug)]
pub(super) enum Write {
    Init {
        no: u64,
        target_duration: u32,
        shown: Shown,
        data: Bytes,
    },
    Segment {
        no: u64,
        init: u64,
        duration: u64,
        target_duration: u32,
        discontinuity: bool,
        independent: bool,
        /// None when there was no room to let it wait: it is lost.
        data: Option<Bytes>,
    },
}

impl Write {
    pub(super) const fn target_duration(&self) -> u32 {
        match self {
            Self::Init {
                target_duration, ..
            }
            | Self::Segment {
                target_duration, ..
            } => *target_duration,
        }
    }
}

/// How a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its publisher is connected.
    Live,
    /// Its publisher is connected; the operator holds back what it sends.
    Paused,
    /// Its publisher is gone and may come back.
    Waiting,
    /// It is over.
    Ended,
}

/// Why a publisher is no longer heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Another one has its place.
    #[error("another publisher took the stream over, because this one was silent")]
    TakenOver,
    /// The operator ended the stream.
    #[error("the stream was stopped at this node")]
    Stopped,
    /// Its publisher ended it.
    #[error("it was finished")]
    Finished,
    /// Nobody published for too long.
    #[error("its publisher did not come back")]
    Gone,
    /// The node is ending.
    #[error("the node is ending")]
    Closed,
    /// What it sends cannot be packed.
    #[error(transparent)]
    Media(#[from] lavant_media::Error),
    /// Its content was removed.
    #[error("its content was removed at this node")]
    Removed,
    /// Nothing can be kept.
    #[error("{0}")]
    Store(String),
}

/// A stream that runs, or ended a moment ago.
#[derive(Debug)]
pub struct Stream {
    name: ContentId,
    title: String,
    clock: Clock,
    /// Which content it becomes.
    pub(super) key: ContentKey,
    /// What paths of its segments begin with.
    base: String,
    since: Time,
    inner: Mutex<Inner>,
    /// Another number after each change that viewers wait for.
    changed: watch::Sender<u64>,
    /// The publisher that is heard: each has a number.
    session: watch::Sender<u64>,
    done: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    packager: Packager,
    window: Window,
    steady: Steady,
    state: State,
    /// When the publisher was last heard, and since when nobody is connected.
    heard: Instant,
    by: String,
    /// When the first frame that counts came, and where in the stream it stands.
    anchor: Option<Time>,
    streams: Vec<StreamInfo>,
    video: [bool; lavant_media::frame::TRACKS_MAX],
    rate: Rate,
    last_key: Option<i64>,
    key_distance: u64,
    frames: u64,
    duration: u64,
    /// Media time that came from the publisher that is heard.
    came: Duration,
    /// When its first part came, and how much of `came` was there then.
    begun: Option<(Instant, Duration)>,
    stored: u64,
    lost: u64,
    fault: Option<String>,
    /// Why the latest publisher was cut off.
    error: Option<String>,
    /// What its publisher sends and is not taken.
    left_out: Vec<String>,
    /// Why publishers are no longer heard.
    ended: Option<Ended>,
    writes: Option<mpsc::UnboundedSender<Write>>,
    queued: usize,
    texts: [Option<Bytes>; 3],
}

/// What a stream begins with.
pub(super) struct Begin {
    pub(super) name: ContentId,
    pub(super) title: String,
    pub(super) clock: Clock,
    pub(super) key: ContentKey,
    pub(super) base: String,
    /// The first free number of a segment, and of an init segment.
    pub(super) next: (u64, u64),
    /// Ticks of the window.
    pub(super) window: u64,
    pub(super) cut: cut::Config,
}

impl Stream {
    pub(super) fn new(begin: Begin, writes: mpsc::UnboundedSender<Write>) -> Self {
        let mut packager = Packager::new(begin.cut);
        let (next, next_init) = begin.next;
        if next > 0 {
            packager.resume();
        }
        let now = Instant::now();
        Self {
            name: begin.name,
            title: begin.title,
            since: begin.clock.now(),
            clock: begin.clock,
            key: begin.key,
            base: begin.base,
            inner: Mutex::new(Inner {
                packager,
                window: Window::new(begin.window, next, next_init),
                steady: Steady::default(),
                state: State::Waiting,
                heard: now,
                by: String::new(),
                anchor: None,
                streams: Vec::new(),
                video: [false; lavant_media::frame::TRACKS_MAX],
                rate: Rate {
                    since: now,
                    bytes: 0,
                    bits: 0,
                },
                last_key: None,
                key_distance: 0,
                frames: 0,
                duration: 0,
                came: Duration::ZERO,
                begun: None,
                stored: 0,
                lost: 0,
                fault: None,
                error: None,
                left_out: Vec::new(),
                ended: None,
                writes: Some(writes),
                queued: 0,
                texts: [const { None }; 3],
            }),
            changed: watch::Sender::new(0),
            session: watch::Sender::new(0),
            done: watch::Sender::new(false),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &ContentId {
        &self.name
    }

    /// The version of its content.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.key.version
    }

    /// The title of its content.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// A panic while it was held would leave a window that is still one.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// A publisher comes. Gives its number; `None` when another one is heard.
    pub(super) fn join(&self, by: &str, now: Instant) -> Option<u64> {
        let mut inner = self.lock();
        let is_silent = now.duration_since(inner.heard) >= SILENCE;
        let is_taken = !inner.by.is_empty();
        if inner.state == State::Ended || (is_taken && !is_silent) {
            return None;
        }
        if is_taken {
            tracing::info!(stream = %self.name, "a silent publisher was replaced");
            self.pause_packager(&mut inner);
        }
        // A pause is the operator's: it holds for whoever publishes.
        if inner.state != State::Paused {
            inner.state = State::Live;
        }
        inner.heard = now;
        (inner.came, inner.begun) = (Duration::ZERO, None);
        by.clone_into(&mut inner.by);
        inner.error = None;
        inner.left_out.clear();
        let mut number = 0;
        self.session.send_modify(|session| {
            *session += 1;
            number = *session;
        });
        Some(number)
    }

    /// A publisher sent something.
    pub(super) fn push(&self, session: u64, item: Item, now: Instant) -> Result<(), Ended> {
        let mut inner = self.lock();
        if let Some(ended) = &inner.ended {
            return Err(ended.clone());
        }
        if *self.session.borrow() != session {
            return Err(Ended::TakenOver);
        }
        inner.heard = now;
        if let Item::LeftOut(what) = &item {
            inner.leave_out(&self.name, what);
        }
        inner.note(&item, now, self.clock.now());
        if inner.state == State::Paused && matches!(item, Item::Frame(_)) {
            return Ok(());
        }
        let pushed = inner.packager.push(item);
        if self.drain(&mut inner, now) {
            drop(inner);
            self.tell();
        }
        Ok(pushed?)
    }

    /// What the publisher sends next does not go on with what it sent.
    pub(super) fn discontinue(&self, session: u64) -> Result<(), Ended> {
        let mut inner = self.lock();
        if let Some(ended) = &inner.ended {
            return Err(ended.clone());
        }
        if *self.session.borrow() != session {
            return Err(Ended::TakenOver);
        }
        self.pause_packager(&mut inner);
        drop(inner);
        self.tell();
        Ok(())
    }

    /// Waits until the publisher of that number is no longer heard.
    pub(super) async fn replaced(&self, session: u64) -> Ended {
        let mut sessions = self.session.subscribe();
        let _ = sessions.wait_for(|current| *current != session).await;
        self.lock().ended.clone().unwrap_or(Ended::TakenOver)
    }

    /// A publisher is gone.
    pub(super) fn leave(&self, session: u64, now: Instant) {
        let mut inner = self.lock();
        if *self.session.borrow() != session || inner.ended.is_some() {
            return;
        }
        self.pause_packager(&mut inner);
        if inner.state == State::Live {
            inner.state = State::Waiting;
        }
        inner.heard = now;
        inner.by.clear();
        let is_empty = inner.frames == 0 && inner.window.edge() == 0;
        drop(inner);
        // There is nothing to go on with, so that it takes no place from others either.
        if is_empty {
            return self.end(Ended::Gone);
        }
        self.tell();
    }

    /// Notes why the publisher of that number is cut off. One that another took over from says
    /// nothing of the stream.
    pub(super) fn note_error(&self, session: u64, reason: &str) {
        let mut inner = self.lock();
        if *self.session.borrow() == session || inner.ended.is_some() {
            inner.error = Some(reason.to_owned());
        }
    }

    /// Everything that came so far is packed; what comes next begins anew.
    fn pause_packager(&self, inner: &mut Inner) {
        inner.packager.flush();
        self.drain(inner, Instant::now());
        inner.steady.reset();
        inner.anchor = None;
        inner.last_key = None;
        inner.video = [false; lavant_media::frame::TRACKS_MAX];
    }

    /// Moves what is packed into the window. True when something viewers wait for changed.
    fn drain(&self, inner: &mut Inner, now: Instant) -> bool {
        let mut is_changed = false;
        while let Some(event) = inner.packager.pop() {
            is_changed = true;
            inner.take(event, now);
        }
        if is_changed {
            inner.texts = [const { None }; 3];
        }
        is_changed
    }

    /// Waits until a whole segment can be watched.
    pub(super) async fn begun(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.lock().window.is_playable(false) {
                return;
            }
            let _ = changed.changed().await;
        }
    }

    /// Waits until a publisher that was heard says nothing for three seconds. Gives how it is
    /// connected.
    pub(super) async fn silent(&self) -> String {
        let mut was_heard = false;
        loop {
            let (heard, by) = {
                let inner = self.lock();
                (inner.heard, inner.by.clone())
            };
            let silence = heard.elapsed();
            match (by.is_empty(), silence >= SILENCE) {
                (false, true) if was_heard => return by,
                (false, false) => was_heard = true,
                // One that is gone is no longer silent; one that still is was told of.
                (true, _) => was_heard = false,
                (false, true) => {}
            }
            let rest = SILENCE.saturating_sub(silence);
            tokio::time::sleep(rest.max(SILENCE / 6)).await;
        }
    }

    /// Waits until the stream is over: at once, or when nobody published for `grace`.
    pub(super) async fn over(&self, grace: Duration) -> Ended {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let alone_since = {
                let inner = self.lock();
                if let Some(ended) = &inner.ended {
                    return ended.clone();
                }
                inner.by.is_empty().then_some(inner.heard)
            };
            let Some(since) = alone_since else {
                let _ = changed.changed().await;
                continue;
            };
            if since.elapsed() >= grace {
                self.end(Ended::Gone);
                continue;
            }
            let until = tokio::time::Instant::from_std(since + grace);
            let _ = tokio::time::timeout_at(until, changed.changed()).await;
        }
    }

    /// All of it is written, and finished in the store.
    pub(super) fn set_done(&self) {
        self.done.send_replace(true);
    }

    pub(super) async fn is_done(&self) {
        let mut done = self.done.subscribe();
        let _ = done.wait_for(|is_done| *is_done).await;
    }

    /// How long players may need to hear of its end.
    pub(super) fn tail(&self) -> Duration {
        Duration::from_secs(3 * self.lock().window.target_duration())
    }

    /// Ends the stream: nobody is heard any more, and no segment follows.
    pub(super) fn end(&self, why: Ended) {
        let mut inner = self.lock();
        if inner.ended.is_some() {
            return;
        }
        self.pause_packager(&mut inner);
        inner.ended = Some(why);
        inner.state = State::Ended;
        inner.window.has_ended = true;
        inner.by.clear();
        inner.texts = [const { None }; 3];
        // The writer goes on until all of it is written.
        inner.writes = None;
        drop(inner);
        self.session.send_modify(|session| *session += 1);
        self.tell();
    }

    /// Ends the stream as its publisher wishes, and waits until all of it is stored, if the disk
    /// takes it in time.
    pub async fn finish(&self) {
        self.end(Ended::Finished);
        let _ = tokio::time::timeout(FINISH_MAX, self.is_done()).await;
    }

    /// Holds back what the publisher sends from now on, or lets it through again.
    ///
    /// # Errors
    /// When the stream is over.
    pub fn pause(&self, is_paused: bool) -> Result<(), Ended> {
        let mut inner = self.lock();
        if let Some(ended) = &inner.ended {
            return Err(ended.clone());
        }
        if is_paused && inner.state != State::Paused {
            // The publisher stays, and does not say again what it sends.
            inner.packager.cut();
            self.drain(&mut inner, Instant::now());
            inner.steady.reset();
            (inner.anchor, inner.last_key, inner.begun) = (None, None, None);
            inner.state = State::Paused;
        } else if !is_paused && inner.state == State::Paused {
            inner.state = match inner.by.is_empty() {
                true => State::Waiting,
                false => State::Live,
            };
        }
        drop(inner);
        self.tell();
        Ok(())
    }

    /// A segment is in the store.
    pub(super) fn stored(&self, no: Option<u64>, length: usize) {
        let mut inner = self.lock();
        inner.queued = inner.queued.saturating_sub(length);
        inner.fault = None;
        if let Some(no) = no {
            inner.stored += 1;
            inner.window.stored(no);
        }
    }

    /// The store does not take a segment. Gives whether it may be tried again.
    pub(super) fn refused(&self, why: &str) -> bool {
        let mut inner = self.lock();
        if inner.fault.as_deref() != Some(why) {
            tracing::warn!(stream = %self.name, reason = why, "live segments cannot be stored");
        }
        inner.fault = Some(why.to_owned());
        // Once it is over nobody waits for the disk for ever.
        inner.queued <= QUEUE_MAX && inner.ended.is_none()
    }

    /// A segment is given up.
    pub(super) fn lost(&self, no: Option<u64>, length: usize) {
        let mut inner = self.lock();
        inner.queued = inner.queued.saturating_sub(length);
        if let Some(no) = no {
            inner.lost += 1;
            inner.window.lost(no);
        }
    }

    /// As if so many bytes waited for the disk.
    #[cfg(test)]
    pub(super) fn queue(&self, bytes: usize) {
        self.lock().queued = bytes;
    }

    /// A segment of it is no longer in the store.
    pub(super) fn dropped(&self, no: u64) {
        let mut inner = self.lock();
        inner.window.lost(no);
        inner.texts = [const { None }; 3];
        drop(inner);
        self.tell();
    }

    /// Waits while a source that runs ahead of time is further ahead than the disk can follow. One
    /// that sends as things happen is never held up: its viewers come before the replay.
    pub(super) async fn ready(&self, session: u64, begun: Instant) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let inner = self.lock();
                let is_current = *self.session.borrow() == session && inner.ended.is_none();
                let is_full = inner.queued > QUEUE_MAX / 2 && inner.fault.is_none();
                let ahead = inner.came.saturating_sub(begun.elapsed());
                if !is_current || !is_full || ahead < AHEAD {
                    return;
                }
            }
            // What is stored wakes nobody by itself when no viewer waits for it.
            let _ = tokio::time::timeout(LOOK, changed.changed()).await;
        }
    }
}
