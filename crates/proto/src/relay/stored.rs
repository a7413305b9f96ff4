//! What the store says: segments came, went, were refused.

use std::time::Duration;

use super::contact::Place;
use super::engine::Relay;
use super::entry::Track;
use crate::runs::{Run, Runs};

/// For how long nothing more of a content is fetched when the store could not take a segment.
const PAUSE: Duration = Duration::from_secs(30);

impl Relay {
    /// Segments are in the store now.
    pub(super) fn stored(&mut self, at: u32, track: u16, run: Run) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let Some(ours) = entry.tracks.get_mut(usize::from(track)) else {
            return;
        };
        ours.here.insert(run.start, run.end);
        ours.refused.remove(run.start, run.end);
        let came: Vec<u64> = ours
            .pending
            .range(run.start..run.end)
            .map(|(at, _)| *at)
            .collect();
        for sequence in came {
            ours.pending.remove(&sequence);
        }
        entry.changed();
        self.announce(at, track, run);
        self.reoffer(at);
    }

    /// Segments are not in the store any more; whether they are welcome again.
    pub(super) fn dropped(&mut self, at: u32, track: u16, run: Run, torn: bool) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let Some(ours) = entry.tracks.get_mut(usize::from(track)) else {
            return;
        };
        ours.here.remove(run.start, run.end);
        if !torn {
            ours.refused.insert(run.start, run.end);
        }
        entry.changed();
        self.announce_loss(at, Some((track, run)));
        self.reoffer(at);
    }

    pub(super) fn removed(&mut self, at: u32) {
        self.announce_loss(at, None);
        self.refuse_content(at);
    }

    /// Nothing more of a content is wanted.
    pub(super) fn refuse_content(&mut self, at: u32) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        (entry.refused, entry.stored, entry.manifest) = (true, false, None);
        entry.upgrade = None;
        for track in &mut entry.tracks {
            (track.here, track.refused) = (Runs::new(), Runs::new());
            track.pending.clear();
            track.asked.clear();
        }
        entry.changed();
        self.reoffer(at);
    }

    pub(super) fn refused(&mut self, place: Place) {
        if let Some(track) = self.track_mut(place) {
            track.pending.remove(&place.sequence);
            track.refused.insert(place.sequence, place.sequence + 1);
        }
        self.reoffer(place.no);
        self.adopt_ready(place.no, place.track);
    }

    pub(super) fn failed(&mut self, place: Place) {
        if let Some(track) = self.track_mut(place) {
            track.pending.remove(&place.sequence);
        }
        self.pause(place.no);
    }

    pub(super) fn failed_content(&mut self, at: u32) {
        if let Some(entry) = self.entries.get_mut(&at) {
            entry.upgrade = None;
            for track in &mut entry.tracks {
                track.asked.retain(|(asked, _)| asked.is_some());
            }
        }
        self.pause(at);
    }

    fn pause(&mut self, at: u32) {
        let until = self.now.after(PAUSE);
        self.paused.insert(at, until);
        self.wake = self.wake.min(until);
        self.reoffer(at);
    }

    fn track_mut(&mut self, place: Place) -> Option<&mut Track> {
        let entry = self.entries.get_mut(&place.no)?;
        entry.tracks.get_mut(usize::from(place.track))
    }
}
