//! What a contact says of contents, what it was told, and what it owes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::entry::Rank;
use super::message::{ManifestHint, Question};
use super::receipt::Receipt;
use super::reconcile::Item;
use crate::contact::budget::Claims;
use crate::numbers::{ContentNo, Place, RemoteNo, TrackNo};
use crate::runs::{GroupRuns, SequenceRun, SequenceRuns};
use crate::time::Time;

/// Most questions that one contact owes an answer to: each names at most 16 records or 512 rows.
pub(super) const OWED_MAX: usize = 64;
/// After how many unanswered questions about a content what a contact says of it is forgotten.
const FAILURES_MAX: u8 = 3;

/// What the other node has of one content.
#[derive(Debug, Default)]
pub(super) struct Remote {
    /// Its number for the content.
    pub(super) no: RemoteNo,
    pub(super) manifest: Option<ManifestHint>,
    pub(super) hops: u8,
    pub(super) copies: u16,
    /// Its tracks, in its order: our number, and what is there.
    pub(super) tracks: Vec<(TrackNo, SequenceRuns)>,
    /// Segments that are there in part, by our track number and sequence.
    pub(super) partials: BTreeMap<(TrackNo, u64), GroupRuns>,
    /// Receipts that came before the manifest was known here.
    pub(super) receipts: Vec<Receipt>,
    /// Bytes that all of it is counted with.
    pub(super) weight: usize,
    /// Not asked until then, because it did not answer.
    pub(super) rests: Time,
    /// How often it did not.
    pub(super) failures: u8,
}

impl Remote {
    /// Its number for our track, and what it has of it.
    pub(super) fn track(&self, ours: TrackNo) -> Option<(TrackNo, &SequenceRuns)> {
        let at = self.tracks.iter().position(|(track, _)| *track == ours)?;
        Some((TrackNo(at as u16), &self.tracks[at].1))
    }

    /// Our number for its track.
    pub(super) fn ours(&self, theirs: TrackNo) -> Option<TrackNo> {
        self.tracks.get(theirs.at()).map(|(ours, _)| *ours)
    }

    /// Whether it has a segment, whole or in part.
    pub(super) fn has(&self, track: TrackNo, sequence: u64) -> bool {
        let whole = self
            .track(track)
            .is_some_and(|(_, here)| here.contains(sequence));
        whole || self.partials.contains_key(&(track, sequence))
    }

    /// Takes a segment for gone there.
    pub(super) fn lost(&mut self, ours: TrackNo, run: SequenceRun) {
        for (track, here) in &mut self.tracks {
            if *track == ours {
                here.remove(run.start, run.end);
            }
        }
        self.partials
            .retain(|(track, at), _| *track != ours || !run.contains(*at));
    }

    /// It did not answer; whether too often to be believed.
    pub(super) const fn failed(&mut self, rests: Time) -> bool {
        self.rests = rests;
        // It is forgotten at a few of them, so this never overflows.
        self.failures += 1;
        self.failures >= FAILURES_MAX
    }

    /// It answered.
    pub(super) const fn answered(&mut self) {
        (self.failures, self.rests) = (0, Time(0));
    }
}

/// How an answer fits what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It was owed.
    Owed,
    /// It was asked for, and others have been asked meanwhile.
    Late,
    /// Nobody asked for it.
    Unasked,
}

/// What one contact says of contents, was told, and owes.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// What was here when the contact began, for reconciling.
    /// It does not follow what changes: the two sides would compare other lists in each round.
    pub(super) items: Option<Vec<(Item, ContentNo)>>,
    pub(super) reconciled: u32,
    pub(super) remote: BTreeMap<ContentNo, Remote>,
    /// Our numbers by its numbers; none for contents that are of no interest.
    pub(super) numbers: BTreeMap<RemoteNo, Option<ContentNo>>,
    pub(super) claims: Claims,
    /// Names of contents for which there was no room when it told of them.
    pub(super) deferred: BTreeSet<[u8; 8]>,
    /// Contents that it was told of, with how many tracks.
    pub(super) told: BTreeMap<ContentNo, usize>,
    /// Contents that it was told of and that went: what it asks of them before it knows is no lie.
    pub(super) withdrawn: BTreeSet<ContentNo>,
    /// What it was asked and has not answered, and when another one is asked.
    pub(super) owed: BTreeMap<Question, Time>,
    /// What it did not answer in time.
    /// The oldest first, which goes when there are too many.
    late: VecDeque<Question>,
    /// Contents that it is to be told of.
    pub(super) tell: BTreeSet<ContentNo>,
    /// Segments that came since it was told of their content.
    pub(super) news: BTreeMap<(ContentNo, TrackNo), SequenceRuns>,
    /// Contents of which it said something new, to be looked at.
    pub(super) dirty: BTreeSet<ContentNo>,
    /// Contents of which it has something that is lacking here, by rank.
    pub(super) offers: BTreeSet<(Rank, ContentNo)>,
    /// Where each content stands in `offers`: the two always agree.
    ranks: BTreeMap<ContentNo, Rank>,
    /// The segment that was asked of it last, and how urgent that was.
    pub(super) latest: Option<(Place, u8)>,
    /// How many copies were granted of contents.
    pub(super) granted: BTreeMap<ContentNo, u16>,
}

impl Session {
    /// Whether it was told of a content, though it may be gone meanwhile.
    pub(super) fn may_ask(&self, content: ContentNo) -> bool {
        self.told.contains_key(&content) || self.withdrawn.contains(&content)
    }

    /// Whether one more question may be asked.
    pub(super) fn can_owe(&self) -> bool {
        self.owed.len() < OWED_MAX
    }

    /// Notes a question; the answer is due by then.
    pub(super) fn owes(&mut self, question: Question, due: Time) {
        self.owed.insert(question, due);
    }

    /// Takes an answer.
    pub(super) fn answered(&mut self, question: &Question) -> Fit {
        // Exactly this question: an answer beside it must not stand for it.
        if self.owed.remove(question).is_some() {
            return Fit::Owed;
        }
        match self.late.iter().position(|late| late == question) {
            Some(at) => {
                self.late.remove(at);
                Fit::Late
            }
            None => Fit::Unasked,
        }
    }

    /// The questions that were to be answered by now. Their answers are late from now on.
    pub(super) fn overdue(&mut self, now: Time) -> Vec<Question> {
        let due = self.owed.iter().filter(|(_, due)| **due <= now);
        let due: Vec<Question> = due.map(|(question, _)| *question).collect();
        for question in &due {
            self.owed.remove(question);
            // Only so many are remembered. An older answer is of no use, and no lie either while
            // nothing is owed.
            if self.late.len() >= OWED_MAX {
                self.late.pop_front();
            }
            self.late.push_back(*question);
        }
        due
    }

    /// Takes a content in or out of the offers.
    pub(super) fn offer(&mut self, content: ContentNo, rank: Option<Rank>) {
        if let Some(before) = self.ranks.remove(&content) {
            self.offers.remove(&(before, content));
        }
        if let Some(rank) = rank {
            self.offers.insert((rank, content));
            self.ranks.insert(content, rank);
        }
    }

    /// Forgets what it said of a content. Returns the bytes that were counted for it.
    pub(super) fn forget(&mut self, content: ContentNo) -> usize {
        self.offer(content, None);
        let Some(remote) = self.remote.remove(&content) else {
            return 0;
        };
        if let Some(number) = self.numbers.get_mut(&remote.no) {
            // Its number stays known, so that what it says of it on the way is no lie.
            *number = None;
        }
        self.claims.bytes = self.claims.bytes.saturating_sub(remote.weight);
        remote.weight
    }
}
