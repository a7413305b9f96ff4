//! What a contact says of contents: what it has, and its answers to questions of ours.

use super::Relay;
use super::message::{Echo, Question, RelayMessage, SUMMARY_RUNS_MAX, Summary};
use super::rarity::Said;
use super::session::{Fit, Remote};
use crate::contact::Contact;
use crate::contact::budget::Claims;
use crate::delivery::{Base, Output};
use crate::limits::{CONTENTS_MAX, STORED_MAX};
use crate::numbers::{ContactNo, ContentNo, Place, RemoteNo, TrackNo};
use crate::runs::{Run, SequenceRun};

/// Bytes that a run more in what a contact has is counted with.
const RUN_BYTES: usize = 16;
/// Bytes of claims from which on a contact may have to go for another one.
const CLAIMS_LARGE: usize = 1 << 20;
/// Bytes that a number by which it names a content is counted with.
const NUMBER_BYTES: usize = 24;

impl Relay {
    pub(crate) fn message(&mut self, base: &mut Base, no: ContactNo, message: RelayMessage) {
        match message {
            RelayMessage::Ranges(ranges) => self.reconcile(base, no, &ranges),
            RelayMessage::Lacking(names) => self.lacking(base, no, &names),
            RelayMessage::Summaries(summaries) => {
                for summary in summaries {
                    self.summary(base, no, summary);
                }
            }
            RelayMessage::Echoes(echoes) => {
                for echo in echoes {
                    self.echo(base, no, echo);
                }
            }
            RelayMessage::Have(at, track, run) => self.remote_has(base, no, at, track, run),
            RelayMessage::Lost(at, track, run) => {
                self.remote_lost(no, at, track, run);
            }
            RelayMessage::Removed(at) => self.remote_removed(base, no, at),
            RelayMessage::GetManifest(content) => {
                self.asks(base, no, Question::Manifest(content));
            }
            RelayMessage::GetRows(content, run) => {
                self.asks(base, no, Question::Rows(content, run));
            }
            RelayMessage::GetRecords(content, track, run) => {
                self.asks(base, no, Question::Records(content, track, run));
            }
            RelayMessage::Get {
                request,
                content,
                track,
                sequence,
                groups,
            } => {
                let place = Place {
                    content,
                    track,
                    sequence,
                };
                self.get(base, no, (request, place, groups));
            }
            RelayMessage::Damaged(content, track, sequence) => {
                let place = Place {
                    content,
                    track,
                    sequence,
                };
                self.doubted(base, no, place);
            }
            answer => self.answer(base, no, answer),
        }
    }

    /// A contact asks about a content: the answer is read from the store.
    fn asks(&self, base: &mut Base, contact: ContactNo, question: Question) {
        if self.may_ask(base, contact, question.content()) {
            base.out.push_back(Output::Answer { contact, question });
        }
    }

    /// Answers to questions of ours. One that was asked is verified; one to something else is a lie
    /// while that is owed, so that nobody keeps a content away by answering beside the question.
    fn answer(&mut self, base: &mut Base, no: ContactNo, message: RelayMessage) {
        match message {
            RelayMessage::Manifest(theirs, manifest, signature) => {
                let question = |at| Question::Manifest(at);
                if let Some(content) = self.answered(base, no, theirs, question) {
                    base.out.push_back(Output::LearnManifest {
                        contact: no,
                        content,
                        manifest,
                        signature,
                    });
                }
            }
            RelayMessage::Rows(theirs, from, rows, proof) => {
                // It has to be the run that was asked for, to the last row: a part of it answers no
                // question.
                let run = Run::new(from, from.saturating_add(rows.len() as u64));
                let question = |at| Question::Rows(at, run);
                if let Some(content) = self.answered(base, no, theirs, question) {
                    base.out.push_back(Output::LearnRows {
                        contact: no,
                        content,
                        from,
                        rows,
                        proof,
                    });
                }
            }
            RelayMessage::Records(theirs, track, run, records) => {
                let at = self.ours(no, theirs);
                let remote = at.and_then(|at| self.sessions.get(&no)?.remote.get(&at));
                // Of a content that was forgotten here meanwhile there is nothing to blame it for.
                let Some(track) = remote.and_then(|remote| remote.ours(track)) else {
                    return;
                };
                let question = |at| Question::Records(at, track, run);
                if let Some(content) = self.answered(base, no, theirs, question) {
                    base.out.push_back(Output::LearnRecords {
                        contact: no,
                        content,
                        track,
                        run,
                        records,
                    });
                }
            }
            _ => {}
        }
    }

    /// Our number for the content of an answer; none when the answer is of no use.
    fn answered(
        &mut self,
        base: &mut Base,
        no: ContactNo,
        theirs: RemoteNo,
        question: impl FnOnce(ContentNo) -> Question,
    ) -> Option<ContentNo> {
        let at = self.ours(no, theirs)?;
        let session = self.sessions.get_mut(&no)?;
        let question = question(at);
        if session.answered(&question) == Fit::Unasked {
            // While nothing is owed about the content it may be an answer that is very late.
            let instead = session.owed.keys().any(|owed| owed.content() == at);
            if instead {
                base.leave(no, "it answered something that it was not asked".into());
            }
            return None;
        }
        if let Some(remote) = session.remote.get_mut(&at) {
            remote.answered();
        }
        let now = base.now;
        let more = !session.owed.is_empty() || base.pieces.asks(no);
        if let Some(contact) = base.contacts.get_mut(no) {
            contact.gave(now, more);
        }
        Some(at)
    }

    /// Counts what a contact says of a content. False when there is no room for it.
    fn charge(&mut self, base: &mut Base, no: ContactNo, more: usize, less: usize) -> bool {
        let Some(session) = self.sessions.get_mut(&no) else {
            return false;
        };
        // What it says anew of a content takes the place of what it said before.
        let own = session.claims.bytes.saturating_sub(less) + more;
        if own > Claims::BYTES_MAX {
            return false;
        }
        let all = self.claimed.saturating_sub(less) + more;
        if all > Claims::ALL_MAX && more > less {
            // The contact that says most goes, unless this one says about as much.
            let most = self.sessions.iter().max_by_key(|(_, it)| it.claims.bytes);
            if let Some((most, bytes)) = most.map(|(no, it)| (*no, it.claims.bytes))
                && bytes > CLAIMS_LARGE.max(own * 2)
            {
                let why = "what it says that it has takes more memory than there is";
                base.close(most, why.into());
            }
            // Memory of one that goes is free once its session has ended. What is said here is
            // asked for again.
            return false;
        }
        session.claims.bytes = own;
        self.claimed = all;
        true
    }

    fn summary(&mut self, base: &mut Base, no: ContactNo, mut summary: Summary) {
        let Some(session) = self.sessions.get(&no) else {
            return;
        };
        // Numbers are remembered also for what is of no interest: that, too, has a limit.
        let is_new = !session.numbers.contains_key(&summary.no);
        if session.numbers.len() >= STORED_MAX
            || (is_new && !self.charge(base, no, NUMBER_BYTES, 0))
        {
            return base.leave(no, "it speaks of too many contents".into());
        }
        let facts = (summary.priority, summary.expires);
        let at = self.offered(base, no, (&summary.key, &summary.to), facts);
        if let Some(session) = self.sessions.get_mut(&no) {
            // Also when it is none: what it says of this number later is no lie.
            session.numbers.insert(summary.no, at);
        }
        let Some(at) = at else {
            return;
        };
        let mut remote = Remote {
            no: summary.no,
            manifest: summary.manifest,
            hops: summary.hops,
            copies: summary.copies,
            weight: summary.weight(),
            ..Remote::default()
        };
        if let Some(entry) = self.entries.get_mut(&at) {
            // Hints, until something signed is here. Then the store says what they are.
            if !entry.stored && entry.tracks.iter().all(|track| track.here.is_empty()) {
                (entry.priority, entry.expires) = facts;
                entry.to.clone_from(&summary.to);
            }
            for (name, here) in summary.tracks {
                // One too many has a number that no track has.
                let ours = entry.track(&name).unwrap_or(TrackNo(u16::MAX));
                remote.tracks.push((ours, here));
            }
        }
        for (track, sequence, groups) in summary.partials {
            if let Some(ours) = remote.ours(track) {
                remote.partials.insert((ours, sequence), groups);
            }
        }
        // A receipt names the manifest, by which alone it can be checked who it has to be of.
        let known = self.entries.get(&at).and_then(|it| it.hint());
        if known.is_none() {
            remote.receipts = std::mem::take(&mut summary.receipts);
        }
        if self.note_remote(base, no, at, (remote, &summary.said))
            && let Some(manifest) = summary.manifest
        {
            self.receive(base, (no, at), &manifest, summary.receipts);
        }
    }

    /// A contact says what it has of a content that it was told of.
    fn echo(&mut self, base: &mut Base, no: ContactNo, echo: Echo) {
        if !self.may_ask(base, no, echo.yours) {
            return;
        }
        let entry = self.entries.get(&echo.yours);
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        let Some(entry) = entry else {
            session.numbers.insert(echo.no, None);
            return;
        };
        // Tracks are named by the numbers that it was told, so it can name no other one.
        if echo
            .tracks
            .iter()
            .any(|(it, _)| it.at() >= entry.tracks.len())
        {
            return base.leave(no, "it speaks of a track that it was not told of".into());
        }
        session.numbers.insert(echo.no, Some(echo.yours));
        let runs = echo.tracks.iter().map(|(_, here)| here.runs().len() + 1);
        let remote = Remote {
            no: echo.no,
            manifest: if echo.finished { entry.hint() } else { None },
            hops: echo.hops,
            copies: echo.copies,
            weight: 128 + RUN_BYTES * runs.sum::<usize>(),
            tracks: echo.tracks,
            ..Remote::default()
        };
        self.note_remote(base, no, echo.yours, (remote, &echo.said));
    }

    /// Notes what a contact has of a content; whether there is room for it.
    fn note_remote(
        &mut self,
        base: &mut Base,
        no: ContactNo,
        at: ContentNo,
        (mut remote, said): (Remote, &[Said]),
    ) -> bool {
        let before = self.sessions.get(&no).and_then(|it| it.remote.get(&at));
        let less = before.map_or(0, |before| before.weight);
        if let Some(before) = before {
            // A new summary does not end a rest, or who never answers would be asked without a
            // pause.
            (remote.rests, remote.failures) = (before.rests, before.failures);
        }
        // Paid before it is kept: what finds no room leaves nothing behind.
        if !self.charge(base, no, remote.weight, less) {
            self.turn_away(base, no, at);
            return false;
        }
        if let Some(session) = self.sessions.get_mut(&no) {
            session.remote.insert(at, remote);
            session.dirty.insert(at);
            base.work.insert(no);
        }
        self.compare(base, no, at, said);
        true
    }

    /// What a contact says of a content is not taken now. It is asked for again when there is room.
    fn turn_away(&mut self, base: &mut Base, no: ContactNo, at: ContentNo) {
        if let Some(session) = self.sessions.get_mut(&no) {
            self.claimed = self.claimed.saturating_sub(session.forget(at));
            let name = self.entries.get(&at).map(|it| it.short_name());
            if let Some(name) = name
                && session.deferred.len() < CONTENTS_MAX
            {
                session.deferred.insert(name);
            }
        }
        self.forget_idle(base, vec![at]);
    }

    fn remote_has(
        &mut self,
        base: &mut Base,
        no: ContactNo,
        theirs: RemoteNo,
        track: TrackNo,
        run: SequenceRun,
    ) {
        let Some(at) = self.ours(no, theirs) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        let Some(remote) = session.remote.get_mut(&at) else {
            return;
        };
        let Some((ours, here)) = remote.tracks.get_mut(track.at()) else {
            return base.leave(no, "it speaks of a track that it did not name".into());
        };
        let ours = *ours;
        let before = here.runs().len();
        here.insert(run.start, run.end);
        let after = here.runs().len();
        if after > SUMMARY_RUNS_MAX {
            // A summary could not say it either.
            return base.leave(no, "what it has is too scattered".into());
        }
        session.dirty.insert(at);
        // Runs that were joined give nothing back: it counts for too much rather than for too
        // little.
        if after > before {
            if !self.charge(base, no, RUN_BYTES, 0) {
                return self.turn_away(base, no, at);
            }
            // Counted once it is paid for: what is forgotten gives back what it weighs.
            let session = self.sessions.get_mut(&no);
            if let Some(remote) = session.and_then(|it| it.remote.get_mut(&at)) {
                remote.weight += RUN_BYTES;
            }
        }
        base.work.insert(no);
        let label = base.contacts.get(no).map(Contact::label);
        // Copies are counted for a store that may be full; for others it would be work for nothing.
        if let (Some(label), true) = (label, base.config.count_copies)
            && let Some(entry) = self.entries.get_mut(&at)
            && let Some(track) = entry.tracks.get_mut(ours.at())
        {
            track.saw_more(label, run);
            self.counted.insert(at);
        }
    }

    fn remote_lost(&mut self, no: ContactNo, theirs: RemoteNo, track: TrackNo, run: SequenceRun) {
        let Some(at) = self.ours(no, theirs) else {
            return;
        };
        let session = self.sessions.get_mut(&no);
        let remote = session.and_then(|session| session.remote.get_mut(&at));
        if let Some(remote) = remote
            && let Some(ours) = remote.ours(track)
        {
            remote.lost(ours, run);
        }
        self.dirty.insert(at);
    }

    fn remote_removed(&mut self, base: &mut Base, no: ContactNo, theirs: RemoteNo) {
        let Some(at) = self.ours(no, theirs) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&no) {
            self.claimed = self.claimed.saturating_sub(session.forget(at));
            if session.numbers.remove(&theirs).is_some() {
                session.claims.bytes = session.claims.bytes.saturating_sub(NUMBER_BYTES);
                self.claimed = self.claimed.saturating_sub(NUMBER_BYTES);
            }
            // It cannot answer any more and is not to be blamed for that.
            session.owed.retain(|owed, _| owed.content() != at);
        }
        if let Some(entry) = self.entries.get_mut(&at) {
            entry.unask(no);
            if entry.claimed == Some(no) {
                self.release_claim_of(no, at);
            }
        }
        self.calm(base, no);
        self.dirty.insert(at);
    }

    fn release_claim_of(&mut self, no: ContactNo, at: ContentNo) {
        if let Some(session) = self.sessions.get_mut(&no) {
            session.claims.unproven = session.claims.unproven.saturating_sub(1);
        }
        self.claim_again(at);
    }
}
