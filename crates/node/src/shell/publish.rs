//! Publishing a live stream to a node from outside, through losses of the connection.

mod feed;

use std::io::Read;
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, ClientError, encode};
use feed::{End, Feed};

/// The shortest and the longest pause before a node that is away is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How often a node is tried that believes in another publisher: the connection that was lost may
/// count as one for a while.
const BUSY_TRIES: u32 = 10;

/// What becomes known while a stream is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The node takes it.
    Taken,
    /// The node takes it again.
    TakenAgain,
    /// The connection was lost, for that reason; the node is tried until it takes what comes.
    Lost(String),
}

impl Client {
    /// Publishes what a reader gives (MPEG-TS or fragmented MP4) under a name until it ends, and
    /// then finishes the stream. A connection that is lost is made again, and the stream goes on
    /// with what comes then. Gives what the node says of it.
    ///
    /// # Errors
    /// See [`ClientError`]: when the node does not take it, or refuses it for good.
    pub fn publish(
        &self,
        name: &str,
        title: Option<&str>,
        source: impl Read + Send + 'static,
        told: &mut dyn FnMut(Progress),
    ) -> Result<Value, ClientError> {
        let path = format!("/api/v1/live/{}", encode(name));
        let query = title.map_or_else(String::new, |title| format!("?title={}", encode(title)));
        let mut session = Session {
            client: self,
            upload: format!("{path}{query}"),
            path,
            was_taken: false,
            is_lost: false,
            pause: PAUSES.0,
            busy: 0,
        };
        let mut feed = Feed::start(source);
        while feed.has_more() {
            session.once(&mut feed, told)?;
        }
        if let Some(error) = feed.fault() {
            return Err(ClientError::Source(error));
        }
        if !session.was_taken {
            let message = lavant_media::refusal(&[]).to_string();
            return Err(ClientError::Refused {
                status: 422,
                message,
            });
        }
        session.finish()
    }
}

struct Session<'a> {
    client: &'a Client,
    path: String,
    upload: String,
    was_taken: bool,
    is_lost: bool,
    pause: Duration,
    busy: u32,
}

impl Session<'_> {
    /// Sends what comes, until that ends or pauses, or the connection is lost.
    fn once(&mut self, feed: &mut Feed, told: &mut dyn FnMut(Progress)) -> Result<(), ClientError> {
        let progress = match (self.was_taken, self.is_lost) {
            (false, _) => Some(Progress::Taken),
            (true, true) => Some(Progress::TakenAgain),
            (true, false) => None,
        };
        feed.begin();
        let mut reader = Told {
            feed,
            was_asked: false,
            progress,
            told,
        };
        let sent = self.client.upload(&self.upload, &mut reader);
        let was_asked = reader.was_asked;
        if was_asked {
            (self.was_taken, self.is_lost) = (true, false);
            (self.pause, self.busy) = (PAUSES.0, 0);
        }
        match sent {
            Ok(()) => Ok(()),
            Err(error) => self.failed(error, was_asked, feed, told),
        }
    }

    /// Whether it is tried again: waits until then. `was_asked` says whether the node took it.
    fn failed(
        &mut self,
        error: ClientError,
        was_asked: bool,
        feed: &mut Feed,
        told: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        let error = match error {
            // The node may have closed the connection with a reason that was lost with it.
            ClientError::Unreachable { .. } | ClientError::Strange { .. } => {
                self.reason(was_asked).unwrap_or(error)
            }
            other => other,
        };
        let is_worth = match &error {
            _ if !self.was_taken => false,
            ClientError::Unreachable { .. } | ClientError::Strange { .. } => true,
            ClientError::Refused { status, .. } => match status {
                408 | 500.. => true,
                // In the midst of it: somebody ended it, or has its place.
                409 => !was_asked && self.busy < BUSY_TRIES,
                // What came before a pause may be too little for a stream.
                422 => feed.ended() == Some(End::Pause),
                _ => false,
            },
            _ => false,
        };
        if !is_worth || !feed.can_resume() {
            return Err(error);
        }
        if !std::mem::replace(&mut self.is_lost, true) {
            told(Progress::Lost(error.to_string()));
        }
        self.busy += u32::from(matches!(error, ClientError::Refused { status: 409, .. }));
        feed.resume();
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
        Ok(())
    }

    /// Why the node has cut the publisher off.
    fn reason(&self, was_asked: bool) -> Option<ClientError> {
        let entry: Value = self.client.get(&self.path).ok()?;
        // It waits for a publisher that is gone; what is over so soon was ended.
        if was_asked && entry["state"] == "ended" && entry["error"].is_null() {
            return Some(ClientError::Refused {
                status: 409,
                message: "the stream was stopped or finished at the node".to_owned(),
            });
        }
        let message = entry.get("error")?.as_str()?.to_owned();
        // Neither is a fault of what was sent.
        let is_of_way = ["nothing came for", "cut off"];
        let status = match is_of_way.iter().any(|it| message.contains(it)) {
            true => 408,
            false => 422,
        };
        Some(ClientError::Refused { status, message })
    }

    /// Finishes the stream, also at a node that is away for a moment.
    fn finish(&self) -> Result<Value, ClientError> {
        let mut tries = 0;
        loop {
            match self.client.call("POST", &format!("{}/finish", self.path)) {
                Err(ClientError::Unreachable { .. }) if tries < BUSY_TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSES.0);
                }
                finished => return finished,
            }
        }
    }
}

/// Tells when the node takes what comes, and it is a stream.
struct Told<'a> {
    feed: &'a mut Feed,
    /// Whether anything was asked for, which is so as soon as the node takes it.
    was_asked: bool,
    progress: Option<Progress>,
    told: &'a mut dyn FnMut(Progress),
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.was_asked = true;
        let len = self.feed.read(buffer);
        if self.feed.is_known()
            && let Some(progress) = self.progress.take()
        {
            (self.told)(progress);
        }
        Ok(len)
    }
}
