//! What players ask of a stream, and how they wait for it.

use std::time::Duration;

use bytes::Bytes;

use super::{Inner, State, Stream};
use crate::live::playlist::{self, Form};
use crate::live::window::{Found, Next};

/// The longest that a request waits for what is not there yet. Players give up after ten seconds.
const WAIT_MAX: Duration = Duration::from_secs(8);

/// What a player asks of a playlist (RFC 8216bis section 6.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// `_HLS_msn`.
    pub msn: Option<u64>,
    /// `_HLS_part`.
    pub part: Option<u64>,
    /// `_HLS_skip`.
    pub skip: bool,
}

/// A playlist for a player.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its text.
    pub text: Bytes,
    /// How long a cache may keep it (RFC 8216bis appendix B).
    pub max_age: Duration,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlaylist {
    /// What it asks makes no sense.
    #[error("{0}")]
    Bad(String),
    /// Nothing is there yet.
    #[error(
        "{0:?} has no segment yet: its publisher has just begun, or sends nothing, or makes key \
         frames too rarely (two seconds are good)"
    )]
    Empty(String),
    /// The rules of playlists would be broken.
    #[error("the playlist cannot be written: {0}")]
    Render(String),
}

impl Stream {
    /// The playlist, as soon as it has what is asked for.
    ///
    /// # Errors
    /// See [`NoPlaylist`].
    pub async fn playlist(&self, ask: Ask) -> Result<Answer, NoPlaylist> {
        if ask.part.is_some() && ask.msn.is_none() {
            let text = "_HLS_part needs _HLS_msn beside it";
            return Err(NoPlaylist::Bad(text.to_owned()));
        }
        let mut changed = self.changed.subscribe();
        let wait = {
            let inner = self.lock();
            Duration::from_secs(3 * inner.window.target_duration()).min(WAIT_MAX)
        };
        let until = tokio::time::Instant::now() + wait;
        let mut has_waited = false;
        loop {
            changed.mark_unchanged();
            if let Some(answer) = self.answer(ask, has_waited)? {
                return Ok(answer);
            }
            has_waited = true;
            if tokio::time::timeout_at(until, changed.changed())
                .await
                .is_err()
            {
                return self.late(ask);
            }
        }
    }

    /// The playlist if it has what is asked for.
    fn answer(&self, ask: Ask, has_waited: bool) -> Result<Option<Answer>, NoPlaylist> {
        let mut inner = self.lock();
        let window = &inner.window;
        let edge = window.edge();
        let is_over = window.has_ended;
        if let Some(msn) = ask.msn
            && !is_over
            && msn > edge.saturating_add(1)
        {
            return Err(NoPlaylist::Bad(format!(
                "_HLS_msn={msn} is too far ahead: segment {edge} comes next"
            )));
        }
        let is_playable = window.is_playable(ask.msn.is_some());
        let reaches = ask.msn.is_none_or(|msn| window.reaches(msn, ask.part));
        if is_over && !is_playable {
            return Err(NoPlaylist::Empty(self.name.to_string()));
        }
        if !is_playable || !(reaches || is_over) {
            return Ok(None);
        }
        let form = match (inner.is_low(), ask.skip) {
            (false, _) => Form::Plain,
            (true, false) => Form::Low,
            (true, true) => Form::Delta,
        };
        let target = Duration::from_secs(inner.window.target_duration());
        // What comes next is the same for all who ask for it, for as long as anybody does. All
        // other addresses mean the newest list, also that of the first part, with which players
        // begin.
        let is_next = ask.msn.is_some_and(|msn| has_waited || msn + 1 >= edge);
        let is_first = (ask.msn, ask.part) == (Some(0), Some(0));
        let max_age = match is_next && !is_first && !is_over {
            true => target * 6,
            false => target / 2,
        };
        let text = inner.text(&self.base, form)?;
        Ok(Some(Answer { text, max_age }))
    }

    /// The playlist for a player whose segment or part did not come in time: it goes on without
    /// the promises that were not kept.
    fn late(&self, ask: Ask) -> Result<Answer, NoPlaylist> {
        let mut inner = self.lock();
        if !inner.window.is_playable(ask.msn.is_some()) {
            return Err(NoPlaylist::Empty(self.name.to_string()));
        }
        let text = inner.text(&self.base, Form::Plain)?;
        let max_age = Duration::ZERO;
        Ok(Answer { text, max_age })
    }

    /// The part after `last`, with the number of the init segment that it needs; waits for it.
    /// `None` when the stream is over.
    pub(in crate::live) async fn after(
        &self,
        last: Option<(u64, u64)>,
    ) -> Option<(u64, (u64, u64), Bytes)> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            match self.lock().window.after(last) {
                Next::Part { init, place, data } => return Some((init, place, data)),
                Next::End => return None,
                Next::Wait => {}
            }
            changed.changed().await.ok()?;
        }
    }

    /// An init segment of the window.
    #[must_use]
    pub fn init(&self, no: u64) -> Option<Bytes> {
        self.lock().window.init_of(no)
    }

    /// A whole segment of the window that is in memory.
    #[must_use]
    pub fn segment(&self, no: u64) -> Option<Bytes> {
        self.lock().window.segment(no)
    }

    /// A part of a segment; the next one is waited for.
    pub async fn part(&self, no: u64, part: u64) -> Option<Bytes> {
        let mut changed = self.changed.subscribe();
        let until = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            changed.mark_unchanged();
            match self.lock().window.part_of(no, part) {
                Found::Here(data) => return Some(data),
                Found::Gone => return None,
                Found::Soon => {}
            }
            let waited = tokio::time::timeout_at(until, changed.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return None;
            }
        }
    }
}

impl Inner {
    /// Whether parts can be promised.
    pub(super) fn is_low(&self) -> bool {
        let target = self.window.targets.map_or(0, |(_, part)| part);
        self.state == State::Live && self.steady.is_steady(target)
    }

    fn text(&mut self, base: &str, form: Form) -> Result<Bytes, NoPlaylist> {
        let slot = form as usize;
        if let Some(Some(text)) = self.texts.get(slot) {
            return Ok(text.clone());
        }
        let text = playlist::render(&self.window, base, form)
            .map_err(|error| NoPlaylist::Render(error.to_string()))?;
        let text = Bytes::from(text);
        if let Some(slot) = self.texts.get_mut(slot) {
            *slot = Some(text.clone());
        }
        Ok(text)
    }
}
