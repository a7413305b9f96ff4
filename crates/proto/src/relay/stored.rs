//! What the store says: segments came, went, were refused.

use std::time::Duration;

use super::Relay;
use super::message::Question;
use crate::delivery::{Base, Input};
use crate::numbers::{ContentNo, Place, TrackNo};
use crate::runs::{SequenceRun, SequenceRuns};

/// For how long nothing more of a content is fetched when the store could not take a segment.
const PAUSE: Duration = Duration::from_secs(30);

/// For how long a store that let something go is taken for full.
const CROWDED: Duration = Duration::from_secs(3600);

impl Relay {
    /// Takes what the store, or what verifies for it, says.
    pub(crate) fn store_said(&mut self, base: &mut Base, input: Input) {
        match input {
            Input::Content { content, facts } => self.content(base, content, &facts),
            Input::Stored {
                content,
                track,
                run,
            } => self.stored(base, (content, track), run),
            Input::Dropped {
                content,
                track,
                run,
                torn,
            } => self.dropped(base, (content, track), run, torn),
            Input::Removed { content } => {
                self.announce_loss(base, content, None);
                self.refuse_content(base, content);
            }
            Input::Refused { place, forever } => self.refused(base, place, forever),
            Input::RefusedContent { content, forever } => {
                if forever {
                    self.refuse_content(base, content);
                } else {
                    self.failed_content(base, content);
                }
            }
            Input::Learned {
                from,
                content,
                track,
                run,
                known,
            } => self.learned(base, from, (content, track), run, known),
            Input::Manifest {
                content,
                total,
                known,
                ..
            } => self.manifest(base, content, (total, known)),
            Input::Rows { content, known } => self.rows(base, content, known),
            Input::Watched { content, sequence } => self.watched(base, content, sequence),
            _ => {}
        }
    }

    /// Segments are in the store now.
    fn stored(&mut self, base: &mut Base, (at, track): (ContentNo, TrackNo), run: SequenceRun) {
        self.proven(base, at);
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let Some(ours) = entry.tracks.get_mut(track.at()) else {
            return;
        };
        self.room = None;
        ours.here.insert(run.start, run.end);
        // It is here all the same, whatever it was refused for.
        if let Some(more) = ours.more.get_mut() {
            more.refused.remove(run.start, run.end);
        }
        let came = ours.more.pending.range(run.start..run.end);
        let came: Vec<u64> = came.map(|(sequence, _)| *sequence).collect();
        entry.changed();
        if !entry.to.is_empty() && base.config.count_copies {
            self.counted.insert(at);
        }
        for sequence in came {
            let place = Place {
                content: at,
                track,
                sequence,
            };
            self.settle_pending(base, place);
        }
        self.announce(base, at, track, run);
        self.dirty.insert(at);
    }

    /// Segments are not in the store any more; whether they are welcome again.
    fn dropped(
        &mut self,
        base: &mut Base,
        (at, track): (ContentNo, TrackNo),
        run: SequenceRun,
        torn: bool,
    ) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let Some(ours) = entry.tracks.get_mut(track.at()) else {
            return;
        };
        self.room = None;
        ours.here.remove(run.start, run.end);
        // What was damaged is fetched again. What the store let go would only be let go again, and
        // shows that there is no room.
        if !torn {
            ours.more.refused.insert(run.start, run.end);
            base.crowded = base.now.after(CROWDED);
        }
        entry.changed();
        self.announce_loss(base, at, Some((track, run)));
        self.dirty.insert(at);
    }

    /// Nothing more of a content is wanted.
    fn refuse_content(&mut self, base: &mut Base, at: ContentNo) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        self.room = None;
        self.stored -= usize::from(entry.stored);
        (entry.refused, entry.stored, entry.manifest) = (true, false, None);
        entry.upgrade = None;
        for track in &mut entry.tracks {
            track.here = SequenceRuns::new();
            if let Some(more) = track.more.get_mut() {
                more.refused = SequenceRuns::new();
            }
        }
        entry.changed();
        for (place, piece) in self.take_pending(at) {
            self.let_go(base, place, piece);
        }
        self.dirty.insert(at);
    }

    /// A segment could not be taken. What was asked for it is taken back.
    fn refused(&mut self, base: &mut Base, place: Place, forever: bool) {
        // Its chunk groups are gone with it, so it begins anew when it is wanted again.
        self.settle_pending(base, place);
        if !forever {
            return self.pause(base, place.content);
        }
        if let Some(track) = self.track_mut(place) {
            track
                .more
                .refused
                .insert(place.sequence, place.sequence + 1);
        }
        self.dirty.insert(place.content);
        // Whole segments may have waited for this one.
        self.adopt_ready(base, place.content, place.track);
    }

    fn failed_content(&mut self, base: &mut Base, at: ContentNo) {
        let Self {
            entries, sessions, ..
        } = self;
        if let Some(entry) = entries.get_mut(&at) {
            entry.upgrade = None;
            for (index, track) in entry.tracks.iter_mut().enumerate() {
                // What was answered meanwhile is lost, and is asked for again.
                let Some(more) = track.more.get_mut() else {
                    continue;
                };
                more.asked.retain(|(asked, run)| {
                    let question = Question::Records(at, TrackNo(index as u16), *run);
                    let session = asked.and_then(|no| sessions.get(&no));
                    session.is_some_and(|it| it.owed.contains_key(&question))
                });
            }
        }
        self.pause(base, at);
    }

    fn pause(&mut self, base: &mut Base, at: ContentNo) {
        let until = base.now.after(PAUSE);
        self.paused.insert(at, until);
        // Nothing but time ends it.
        base.wake_at(until);
        self.dirty.insert(at);
    }
}
