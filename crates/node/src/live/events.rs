//! What happens to live streams, for whoever wants to hear of it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

/// So many wait for a listener that is slow; it then hears how many it has missed.
const WAITING_MAX: usize = 1024;
/// The shortest time between two that anybody can cause as often as they like.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A publisher began, or came back.
    Published,
    /// The first segment can be watched.
    FirstSegment,
    /// A connected publisher has sent nothing for three seconds.
    Silent,
    /// The stream is over.
    Ended,
    /// A publisher was refused.
    Refused,
}

/// Something that happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What.
    pub what: What,
    /// Name of the stream; empty when whoever was refused named none.
    pub name: String,
    /// Version of its content; 0 when it is none.
    pub version: u32,
    /// How its publisher is or was connected.
    pub by: String,
    /// Why it ended, or was refused.
    pub reason: Option<String>,
}

/// Tells listeners what happens.
#[derive(Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<Happened>,
    refused: Mutex<Option<Instant>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(WAITING_MAX),
            refused: Mutex::default(),
        }
    }
}

impl Events {
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Happened> {
        self.sender.subscribe()
    }

    /// It is told to nobody when nobody listens.
    pub(super) fn tell(&self, happened: Happened) {
        let _ = self.sender.send(happened);
    }

    /// A publisher was refused.
    pub(super) fn refused(&self, name: &str, by: &str, reason: &str) {
        let mut last = super::locked(&self.refused);
        if last.is_some_and(|at| at.elapsed() < REFUSED_PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        self.tell(Happened {
            what: What::Refused,
            name: name.to_owned(),
            version: 0,
            by: by.to_owned(),
            reason: Some(reason.to_owned()),
        });
    }
}
