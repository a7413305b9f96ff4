//! What a contact is told: reconciliation, summaries, news.

use super::Relay;
use super::copies::receipts_of;
use super::entry::{Entry, short};
use super::message::{
    ECHOES_MAX, Echo, PARTIAL_RUNS_MAX, PARTIALS_MAX, RelayMessage, SUMMARIES_MAX,
    SUMMARY_RUNS_MAX, Summary,
};
use super::reconcile::{self, Item, Ranges};
use super::session::{Remote, Session};
use crate::contact::Contact;
use crate::contact::budget::Claims;
use crate::delivery::Base;
use crate::numbers::{ContactNo, ContentNo, TrackNo};
use crate::piece::Pieces;
use crate::runs::{GroupRuns, SequenceRun, SequenceRuns};

/// Most reconciliation messages of one contact: a million contents take a hundred.
const ROUNDS_MAX: u32 = 2000;
/// Most names in one list of what is lacking: 8 bytes each.
const NAMES: usize = 4096;
/// Most names that are asked for at a time of those for which there was no room.
const DEFERRED: usize = 256;
impl Relay {
    /// Whether a contact is told of a content: when both take it, and copies and hops are left.
    fn is_visible(base: &Base, contact: &Contact, entry: &Entry) -> bool {
        let config = &base.config;
        let is_end = entry.is_for(&contact.node);
        let takes = is_end || contact.interest.covers(&entry.key);
        // A node passes on what it takes itself, or is to get.
        if !takes || !(config.interest.covers(&entry.key) || entry.is_for(&config.own)) {
            return false;
        }
        let rank = usize::from(entry.priority.rank());
        let hops = config.hops[rank];
        // Whoever got it would be one node further.
        if hops > 0 && entry.hops >= hops {
            return false;
        }
        // The last copy is for the end of its way alone (spray and wait).
        config.copies[rank] == 0
            || entry.copies_left > 1
            || is_end
            || entry.is_delivered()
            || contact.interest.names(&entry.key)
    }

    /// What is here of what a contact may know, in the order of reconciliation.
    fn items(&mut self, base: &mut Base, no: ContactNo) -> Vec<(Item, ContentNo)> {
        let session = self.sessions.get_mut(&no);
        if let Some(kept) = session.and_then(|session| session.items.take()) {
            return kept;
        }
        // All contents are looked at for it, at the cost of the contact. It may be left for that.
        base.spend(no, self.entries.len() as u64 / 4);
        let Some(contact) = base.contacts.get(no) else {
            return Vec::new();
        };
        let visible = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_held() && Self::is_visible(base, contact, entry));
        let items = visible.map(|(at, entry)| (entry.item(), *at));
        let mut items: Vec<(Item, ContentNo)> = items.collect();
        items.sort_unstable_by_key(|(item, _)| item.point);
        items
    }

    fn keep_items(&mut self, no: ContactNo, items: Vec<(Item, ContentNo)>) {
        if let Some(session) = self.sessions.get_mut(&no) {
            session.items = Some(items);
        }
    }

    pub(super) fn begin_reconciling(&mut self, base: &mut Base, no: ContactNo) {
        let items = self.items(base, no);
        let only: Vec<Item> = items.iter().map(|(item, _)| *item).collect();
        base.send(no, RelayMessage::Ranges(reconcile::begin(&only)));
        self.keep_items(no, items);
    }

    /// Counts the steps of reconciliation and leaves a contact that takes too many.
    fn is_endless(&mut self, base: &mut Base, no: ContactNo) -> bool {
        let Some(session) = self.sessions.get_mut(&no) else {
            return true;
        };
        session.reconciled += 1;
        let endless = session.reconciled > ROUNDS_MAX;
        if endless {
            base.leave(no, "it goes on reconciling for ever".into());
        }
        endless
    }

    pub(super) fn reconcile(&mut self, base: &mut Base, no: ContactNo, ranges: &Ranges) {
        if self.is_endless(base, no) {
            return;
        }
        let items = self.items(base, no);
        let only: Vec<Item> = items.iter().map(|(item, _)| *item).collect();
        // Fingerprints are sums over all items that a range has.
        base.spend(no, only.len() as u64 / 16);
        let (answers, found) = reconcile::answer(&only, ranges);
        for answer in answers {
            base.send(no, RelayMessage::Ranges(answer));
        }
        let starts = found.theirs.iter().map(|point| short(&point.name));
        let names: Vec<[u8; 8]> = starts.collect();
        for part in names.chunks(NAMES) {
            base.send(no, RelayMessage::Lacking(part.to_vec()));
        }
        // That it has the same is known without a summary.
        for at in found.equal {
            self.seen_on(base, no, items[at].1);
        }
        let mine = found.mine.iter().map(|at| items[*at].1);
        self.tell_of(base, no, mine.collect(), false);
        self.keep_items(no, items);
    }

    pub(super) fn lacking(&mut self, base: &mut Base, no: ContactNo, names: &[[u8; 8]]) {
        if self.is_endless(base, no) {
            return;
        }
        // Only among what it may know: a name that it has got somewhere tells it nothing.
        let items = self.items(base, no);
        base.spend(no, items.len() as u64 / 16 + names.len() as u64 / 4);
        let starts = items
            .iter()
            .map(|(item, at)| (short(&item.point.name), *at));
        let mut by_name: Vec<([u8; 8], ContentNo)> = starts.collect();
        // Thousands of names are looked up among tens of thousands.
        by_name.sort_unstable();
        let lacked = names.iter().flat_map(|name| {
            let from = by_name.partition_point(|(other, _)| other < name);
            let same = by_name[from..].iter();
            // Names are cut to eight bytes: two may begin alike, and both are told of.
            let same = same.take_while(move |(other, _)| other == name);
            same.map(|(_, at)| *at)
        });
        self.tell_of(base, no, lacked.collect(), true);
        self.keep_items(no, items);
    }

    /// Has a contact told of contents; of those that it was told of only when it asks for them.
    fn tell_of(&mut self, base: &mut Base, no: ContactNo, contents: Vec<ContentNo>, asked: bool) {
        if let Some(session) = self.sessions.get_mut(&no) {
            let told = &session.told;
            let new = contents.into_iter();
            let new = new.filter(|at| asked || !told.contains_key(at));
            session.tell.extend(new);
            base.work.insert(no);
        }
    }

    /// Has every contact told of a content again: it became a finished one, say.
    pub(super) fn retell(&mut self, base: &mut Base, at: ContentNo) {
        for no in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.tell_one(base, no, at);
        }
    }

    fn tell_one(&mut self, base: &mut Base, no: ContactNo, at: ContentNo) {
        let (Some(session), Some(entry)) = (self.sessions.get_mut(&no), self.entries.get(&at))
        else {
            return;
        };
        let Some(contact) = base.contacts.get(no) else {
            return;
        };
        let visible = session.told.contains_key(&at) || Self::is_visible(base, contact, entry);
        if visible && entry.is_held() {
            session.tell.insert(at);
            base.work.insert(no);
        }
    }

    /// Tells all contacts that segments came.
    pub(super) fn announce(
        &mut self,
        base: &mut Base,
        at: ContentNo,
        track: TrackNo,
        run: SequenceRun,
    ) {
        for no in self.sessions.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.sessions.get_mut(&no) else {
                continue;
            };
            let told = session.told.get(&at).copied();
            // It has no number for the content, or not for this track: a summary gives it both.
            if told.is_none_or(|tracks| track.at() >= tracks) {
                self.tell_one(base, no, at);
                continue;
            }
            let remote = session.remote.get(&at);
            let has = remote.and_then(|remote| remote.track(track));
            // It has them itself; it may have given them.
            if has.is_some_and(|(_, here)| here.covers(run.start, run.end)) {
                continue;
            }
            let news = session.news.entry((at, track)).or_default();
            news.insert(run.start, run.end);
            base.work.insert(no);
        }
    }

    /// Tells all contacts that were told of a content that something of it, or all, went.
    pub(super) fn announce_loss(
        &mut self,
        base: &mut Base,
        at: ContentNo,
        lost: Option<(TrackNo, SequenceRun)>,
    ) {
        for (no, session) in &mut self.sessions {
            let Some(tracks) = session.told.get(&at).copied() else {
                continue;
            };
            let message = match lost {
                Some((track, _)) if track.at() >= tracks => continue,
                Some((track, run)) => {
                    // What was not told yet would come after its loss.
                    if let Some(news) = session.news.get_mut(&(at, track)) {
                        news.remove(run.start, run.end);
                    }
                    RelayMessage::Lost(at.told(), track, run)
                }
                None => {
                    session.told.remove(&at);
                    session.withdrawn.insert(at);
                    session.tell.remove(&at);
                    session.news.retain(|(other, _), _| *other != at);
                    RelayMessage::Removed(at.told())
                }
            };
            base.send(*no, message);
        }
    }

    /// Sends a contact what it is to be told, and asks for what there was no room for.
    pub(crate) fn tell(&mut self, base: &mut Base, no: ContactNo) {
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        // Not until half of its quota is free: else it would be asked for one at a time.
        let room = Claims::UNPROVEN_MAX / 2;
        if !session.deferred.is_empty() && session.claims.unproven < room {
            let names: Vec<_> = session.deferred.iter().take(DEFERRED).copied().collect();
            for name in &names {
                // One for which there is no room comes back among them when its summary comes.
                session.deferred.remove(name);
            }
            base.send(no, RelayMessage::Lacking(names));
        }
        if session.tell.is_empty() && session.news.is_empty() {
            return;
        }
        // Contents before news: news name tracks by the numbers that summaries give them.
        // All at once: publishers are named once a message.
        let contents = std::mem::take(&mut session.tell);
        self.tell_contents(base, no, contents.into_iter().collect());
        let news = match self.sessions.get_mut(&no) {
            Some(session) => std::mem::take(&mut session.news),
            None => return,
        };
        for ((at, track), runs) in news {
            for run in runs.runs() {
                base.send(no, RelayMessage::Have(at.told(), track, *run));
            }
        }
    }

    fn tell_contents(&mut self, base: &mut Base, no: ContactNo, contents: Vec<ContentNo>) {
        let (mut summaries, mut echoes) = (Vec::new(), Vec::new());
        let (mut of_summaries, mut of_echoes) = (0, 0);
        let profile = base.contacts.get(no).map(|contact| contact.profile);
        let most = profile.unwrap_or_default().batch_bytes();
        for at in contents {
            // An echo where it can be one: it names content and tracks by numbers.
            if let Some(echo) = self.echo_of(base, no, at) {
                let size = echo.size();
                let full = echoes.len() as u64 >= ECHOES_MAX;
                if (full || of_echoes + size > most) && !echoes.is_empty() {
                    base.send(no, RelayMessage::Echoes(std::mem::take(&mut echoes)));
                    of_echoes = 0;
                }
                of_echoes += size;
                echoes.push(echo);
            } else if let Some(summary) = self.summarise(base, no, at) {
                let size = summary.size();
                let full = summaries.len() as u64 >= SUMMARIES_MAX;
                if (full || of_summaries + size > most) && !summaries.is_empty() {
                    let batch = std::mem::take(&mut summaries);
                    base.send(no, RelayMessage::Summaries(batch));
                    of_summaries = 0;
                }
                of_summaries += size;
                summaries.push(summary);
            }
        }
        if !summaries.is_empty() {
            base.send(no, RelayMessage::Summaries(summaries));
        }
        if !echoes.is_empty() {
            base.send(no, RelayMessage::Echoes(echoes));
        }
    }

    /// How many copies a contact is offered of a content.
    fn copies_for(base: &Base, entry: &Entry) -> u16 {
        if base.config.copies[usize::from(entry.priority.rank())] == 0 {
            return 0;
        }
        // 0 would stand for any number.
        (entry.copies_left / 2).max(1)
    }

    fn summarise(&mut self, base: &Base, no: ContactNo, at: ContentNo) -> Option<Summary> {
        let entry = self.entries.get(&at)?;
        let session = self.sessions.get_mut(&no)?;
        // The receipts are what is told of it; nobody is to fetch it any more.
        let mut runs_left = if entry.is_delivered() {
            0
        } else {
            SUMMARY_RUNS_MAX
        };
        let tracks = entry.tracks.iter().map(|track| {
            let shown = track.here.first_runs(runs_left);
            runs_left -= shown.runs().len();
            (track.name.clone(), shown)
        });
        let tracks: Vec<_> = tracks.collect();
        // Tracks that are added later have numbers that it does not know. What is news until now is
        // in the summary.
        session.told.insert(at, tracks.len());
        session.news.retain(|(other, _), _| *other != at);
        Some(Summary {
            no: at.told(),
            key: entry.key.clone(),
            priority: entry.priority,
            expires: entry.expires,
            manifest: entry.hint(),
            hops: entry.hops,
            copies: Self::copies_for(base, entry),
            to: entry.to.clone(),
            tracks,
            said: entry.said(),
            partials: partials(entry, &base.pieces),
            receipts: receipts_of(entry),
        })
    }

    /// What is said of a content to whoever told of it, where few words are enough.
    fn echo_of(&mut self, base: &Base, no: ContactNo, at: ContentNo) -> Option<Echo> {
        let entry = self.entries.get(&at)?;
        let session = self.sessions.get_mut(&no)?;
        let remote = session.remote.get(&at)?;
        let finished = entry.manifest.is_some();
        // An echo only says whether it is the same manifest, and has no place for receipts and
        // parts of segments.
        let same = !finished || entry.hint() == remote.manifest;
        let more = !entry.receipts.is_empty() || !partials(entry, &base.pieces).is_empty();
        if !same || more {
            return None;
        }
        let mut runs_left = SUMMARY_RUNS_MAX;
        let mut tracks = Vec::new();
        for (index, track) in entry.tracks.iter().enumerate() {
            // A track that it did not name has no number there: only a summary can tell of it.
            let (theirs, _) = remote.track(TrackNo(index as u16))?;
            let shown = track.here.first_runs(runs_left);
            runs_left -= shown.runs().len();
            tracks.push((theirs, shown));
        }
        let yours = remote.no.asked();
        session.told.insert(at, tracks.len());
        session.news.retain(|(other, _), _| *other != at);
        Some(Echo {
            yours,
            no: at.told(),
            finished,
            hops: entry.hops,
            copies: Self::copies_for(base, entry),
            tracks,
            said: entry.said(),
        })
    }

    /// Looks again at which contacts have something of a content that is lacking here.
    pub(super) fn reoffer(&mut self, base: &mut Base, at: ContentNo) {
        for no in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.reoffer_of(base, no, at);
        }
    }

    pub(super) fn reoffer_of(&mut self, base: &mut Base, no: ContactNo, at: ContentNo) {
        let room = self.hops_with_room(base);
        let Some(entry) = self.entries.get(&at) else {
            return;
        };
        let config = &base.config;
        let wanted = (config.interest.covers(&entry.key) || entry.is_own_mail(config))
            && !entry.refused
            && !self.paused.contains_key(&at)
            && entry.expires > base.now;
        let metered = base.contacts.get(no).is_some_and(|it| it.profile.metered);
        let wanted = wanted && (!metered || entry.is_for_here(base.now, config));
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        let Session { remote, .. } = session;
        let lacking = remote
            .get(&at)
            .filter(|remote| wanted && entry.fits(remote, room, &config.own))
            .filter(|remote| is_lacking(entry, remote));
        let rank = lacking
            .map(|remote| entry.rank(remote, (base.now, self.meetings), (config, &base.pieces)));
        // Also with none, which takes it out of the offers.
        session.offer(at, rank);
        if rank.is_some() {
            base.work.insert(no);
        }
    }
}

/// Whether a contact has something of a content that is lacking here.
pub(super) fn is_lacking(entry: &Entry, remote: &Remote) -> bool {
    // Before all else: receipts, by which it is known to have arrived, need the manifest.
    if entry.manifest.is_none() && remote.manifest.is_some() {
        return true;
    }
    if entry.is_delivered() {
        return false;
    }
    let has = |(track, here): &(TrackNo, SequenceRuns)| {
        let ours = entry.tracks.get(track.at());
        ours.is_some_and(|track| !track.lacks(here).is_empty())
    };
    let part = |(track, sequence): &(TrackNo, u64)| {
        entry.tracks.get(track.at()).is_some_and(|track| {
            !track.here.contains(*sequence) && !track.more.refused.contains(*sequence)
        })
    };
    remote.tracks.iter().any(has) || remote.partials.keys().any(part)
}

fn partials(entry: &Entry, pieces: &Pieces) -> Vec<(TrackNo, u64, GroupRuns)> {
    let mut partials = Vec::new();
    for (index, track) in entry.tracks.iter().enumerate() {
        for (sequence, pending) in &track.more.pending {
            let Some(have) = pieces.get(pending.piece).map(|it| it.have()) else {
                continue;
            };
            // What came in many pieces takes many bytes to tell and is soon different.
            let worth = !have.is_empty() && have.runs().len() <= PARTIAL_RUNS_MAX;
            if worth && (partials.len() as u64) < PARTIALS_MAX {
                partials.push((TrackNo(index as u16), *sequence, have.clone()));
            }
        }
    }
    partials
}
