//! What a contact is told and what it tells: reconciliation, summaries, news.

use super::contact::{Contact, Remote};
use super::copies::receipts_of;
use super::engine::Relay;
use super::entry::Entry;
use super::io::{ContactNo, Output};
use super::message::{
    Message, PARTIAL_RUNS_MAX, PARTIALS_MAX, SUMMARIES_MAX, SUMMARY_RUNS_MAX, Summary,
};
use super::reconcile::{self, Item, Ranges};
use crate::content::Priority;
use crate::runs::{Run, Runs};

/// Most reconciliation messages of one contact: a million contents take a hundred.
const ROUNDS_MAX: u32 = 2000;
/// Most contents that a contact may speak of.
const SPOKEN_MAX: usize = 40_000;
/// Bytes after which a message of summaries is sent.
const SUMMARIES_BYTES: usize = 24 * 1024;
/// Most names in one list of what is lacking: 8 bytes each.
const NAMES: usize = 4096;

impl Relay {
    pub(super) fn message(&mut self, no: ContactNo, message: Message) {
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        contact.heard = self.now;
        if contact.is_flooding(self.now, &message) {
            return self.leave(no, "it floods this node with messages".into());
        }
        if !contact.ready {
            return match message {
                Message::Hello(hello) => self.hello(no, hello),
                _ => self.leave(no, "it spoke before it said hello".into()),
            };
        }
        match message {
            Message::Hello(hello) => self.hello(no, hello),
            Message::Ranges(ranges) => self.reconcile(no, &ranges),
            Message::Lacking(names) => self.lacking(no, &names),
            Message::Summaries(summaries) => {
                for summary in summaries {
                    self.summary(no, summary);
                }
            }
            Message::Have(at, track, run) => self.remote_has(no, at, track, run),
            Message::Lost(at, track, run) => self.remote_lost(no, at, Some((track, run))),
            Message::Removed(at) => self.remote_lost(no, at, None),
            Message::Ping(stamp) => self.send(no, Message::Pong(stamp)),
            Message::Pong(stamp) => self.pong(no, stamp),
            Message::Gone(request) => self.gone(no, request),
            Message::Cancel(request) => self.cancel(no, request),
            other => self.exchange(no, other),
        }
    }

    /// Questions about contents, and the answers to ours.
    fn exchange(&mut self, no: ContactNo, message: Message) {
        match message {
            Message::GetManifest(at) => self.asked_for(no, at, Output::SendManifest(no, at)),
            Message::GetRows(at, run) => self.asked_for(no, at, Output::SendRows(no, at, run)),
            Message::GetRecords(at, track, run) => {
                self.asked_for(no, at, Output::SendRecords(no, at, track, run));
            }
            Message::Manifest(at, manifest, signature) => {
                if let Some(at) = self.asked(no, at) {
                    let learn = Output::LearnManifest(no, at, manifest, signature);
                    self.out.push_back(learn);
                }
            }
            Message::Rows(at, from, rows, proof) => {
                if let Some(at) = self.asked(no, at) {
                    let learn = Output::LearnRows(no, at, from, rows, proof);
                    self.out.push_back(learn);
                }
            }
            Message::Records(at, track, run, records) => {
                self.records(no, at, track, run, records);
            }
            Message::Get {
                request,
                no: at,
                track,
                sequence,
                groups,
            } => {
                let place = super::Place {
                    no: at,
                    track,
                    sequence,
                };
                self.get(no, request, place, groups);
            }
            Message::Damaged(at, track, sequence) => {
                if self
                    .contacts
                    .get_mut(&no)
                    .is_some_and(|contact| contact.doubts_too_much())
                {
                    return self.leave(no, "it doubts too much of what it gets".into());
                }
                let place = super::Place {
                    no: at,
                    track,
                    sequence,
                };
                self.out.push_back(Output::Doubt(place));
            }
            _ => {}
        }
    }

    /// Our number for a content of which a contact speaks by its own number.
    pub(super) fn ours(&self, no: ContactNo, theirs: u32) -> Option<u32> {
        self.contacts.get(&no)?.numbers.get(&theirs).copied()?
    }

    fn asked_for(&mut self, no: ContactNo, at: u32, answer: Output) {
        let told = self
            .contacts
            .get(&no)
            .is_some_and(|contact| contact.may_ask(at));
        if told {
            self.out.push_back(answer);
        } else {
            self.leave(no, "it asked for a content that it was not told of".into());
        }
    }

    /// Whether a contact is told of a content: when both take it, and copies and hops are left.
    fn is_visible(&self, contact: &Contact, entry: &Entry) -> bool {
        if !contact.interest.covers(&entry.key) || !self.config.interest.covers(&entry.key) {
            return false;
        }
        let rank = usize::from(entry.priority.rank());
        let hops = self.config.hops[rank];
        if hops > 0 && entry.hops >= hops {
            return false;
        }
        self.config.copies[rank] == 0 || entry.copies_left > 1 || contact.interest.names(&entry.key)
    }

    /// What is here of what a contact may know, in the order of reconciliation.
    fn items(&mut self, no: ContactNo) -> Vec<(Item, u32)> {
        let Some(contact) = self.contacts.remove(&no) else {
            return Vec::new();
        };
        let visible: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_held() && self.is_visible(&contact, entry))
            .map(|(at, _)| *at)
            .collect();
        self.contacts.insert(no, contact);
        let mut items: Vec<(Item, u32)> = visible
            .into_iter()
            .filter_map(|at| Some((self.entries.get_mut(&at)?.item(), at)))
            .collect();
        items.sort_unstable_by_key(|(item, _)| item.point);
        items
    }

    fn with_items(&mut self, no: ContactNo) -> Vec<(Item, u32)> {
        let kept = self
            .contacts
            .get_mut(&no)
            .and_then(|contact| contact.items.take());
        kept.unwrap_or_else(|| self.items(no))
    }

    fn keep_items(&mut self, no: ContactNo, items: Vec<(Item, u32)>) {
        if let Some(contact) = self.contacts.get_mut(&no) {
            contact.items = Some(items);
        }
    }

    pub(super) fn begin_reconciling(&mut self, no: ContactNo) {
        let items = self.with_items(no);
        let only: Vec<Item> = items.iter().map(|(item, _)| *item).collect();
        self.send(no, Message::Ranges(reconcile::begin(&only)));
        self.keep_items(no, items);
    }

    /// Counts the steps of reconciliation and leaves a contact that takes too many.
    fn is_endless(&mut self, no: ContactNo) -> bool {
        let Some(contact) = self.contacts.get_mut(&no) else {
            return true;
        };
        contact.reconciled += 1;
        let endless = contact.reconciled > ROUNDS_MAX;
        if endless {
            self.leave(no, "it goes on reconciling for ever".into());
        }
        endless
    }

    fn reconcile(&mut self, no: ContactNo, ranges: &Ranges) {
        if self.is_endless(no) {
            return;
        }
        let items = self.with_items(no);
        let only: Vec<Item> = items.iter().map(|(item, _)| *item).collect();
        let (answers, found) = reconcile::answer(&only, ranges);
        for answer in answers {
            self.send(no, Message::Ranges(answer));
        }
        let names: Vec<[u8; 8]> = found
            .theirs
            .iter()
            .filter_map(|point| point.name.first_chunk().copied())
            .collect();
        for part in names.chunks(NAMES) {
            self.send(no, Message::Lacking(part.to_vec()));
        }
        for at in found.equal {
            self.seen_on(no, items[at].1);
        }
        let mine = found.mine.iter().map(|at| items[*at].1);
        self.tell_of(no, mine.collect());
        self.keep_items(no, items);
    }

    fn lacking(&mut self, no: ContactNo, names: &[[u8; 8]]) {
        if self.is_endless(no) {
            return;
        }
        let items = self.with_items(no);
        let mut by_name: Vec<([u8; 8], u32)> = items
            .iter()
            .filter_map(|(item, at)| Some((*item.point.name.first_chunk()?, *at)))
            .collect();
        by_name.sort_unstable();
        let lacked = names.iter().flat_map(|name| {
            let from = by_name.partition_point(|(other, _)| other < name);
            let same = by_name[from..]
                .iter()
                .take_while(move |(other, _)| other == name);
            same.map(|(_, at)| *at)
        });
        self.tell_of(no, lacked.collect());
        self.keep_items(no, items);
    }

    fn tell_of(&mut self, no: ContactNo, contents: Vec<u32>) {
        if let Some(contact) = self.contacts.get_mut(&no) {
            let new = contents
                .into_iter()
                .filter(|at| !contact.told.contains_key(at));
            contact.tell.extend(new);
            self.work.insert(no);
        }
    }

    /// Has every contact told of a content again: it became a finished one, say.
    pub(super) fn retell(&mut self, at: u32) {
        let contacts: Vec<ContactNo> = self.contacts.keys().copied().collect();
        for no in contacts {
            self.tell_one(no, at);
        }
    }

    fn tell_one(&mut self, no: ContactNo, at: u32) {
        let (Some(contact), Some(entry)) = (self.contacts.get(&no), self.entries.get(&at)) else {
            return;
        };
        let visible = contact.told.contains_key(&at) || self.is_visible(contact, entry);
        if !contact.ready || !visible || !entry.is_held() {
            return;
        }
        if let Some(contact) = self.contacts.get_mut(&no) {
            contact.tell.insert(at);
            self.work.insert(no);
        }
    }

    /// Tells all contacts that segments came.
    pub(super) fn announce(&mut self, at: u32, track: u16, run: Run) {
        let contacts: Vec<ContactNo> = self.contacts.keys().copied().collect();
        for no in contacts {
            let Some(contact) = self.contacts.get_mut(&no) else {
                continue;
            };
            let told = contact.told.get(&at).copied();
            if told.is_none_or(|tracks| usize::from(track) >= tracks) {
                self.tell_one(no, at);
                continue;
            }
            let remote = contact.remote.get(&at);
            let has = remote.and_then(|remote| remote.track(track));
            if has.is_some_and(|(_, here)| here.covers(run.start, run.end)) {
                continue;
            }
            let news = contact.news.entry((at, track)).or_default();
            news.insert(run.start, run.end);
            self.work.insert(no);
        }
    }

    /// Tells all contacts that were told of a content that something of it, or all, went.
    pub(super) fn announce_loss(&mut self, at: u32, lost: Option<(u16, Run)>) {
        for (no, contact) in &mut self.contacts {
            let Some(tracks) = contact.told.get(&at).copied() else {
                continue;
            };
            let message = match lost {
                Some((track, _)) if usize::from(track) >= tracks => continue,
                Some((track, run)) => {
                    if let Some(news) = contact.news.get_mut(&(at, track)) {
                        news.remove(run.start, run.end);
                    }
                    Message::Lost(at, track, run)
                }
                None => {
                    contact.told.remove(&at);
                    contact.withdrawn.insert(at);
                    contact.tell.remove(&at);
                    contact.news.retain(|(other, _), _| *other != at);
                    Message::Removed(at)
                }
            };
            self.out.push_back(Output::Send(*no, message));
        }
    }

    /// Sends a contact what it is to be told.
    pub(super) fn tell(&mut self, no: ContactNo) {
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        if contact.tell.is_empty() && contact.news.is_empty() {
            return;
        }
        let contents = std::mem::take(&mut contact.tell);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for at in contents {
            let Some(summary) = self.summarise(no, at) else {
                continue;
            };
            let size = summary.size();
            let full = batch.len() as u64 >= SUMMARIES_MAX || bytes + size > SUMMARIES_BYTES;
            if full && !batch.is_empty() {
                self.send(no, Message::Summaries(std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += size;
            batch.push(summary);
        }
        if !batch.is_empty() {
            self.send(no, Message::Summaries(batch));
        }
        let news = match self.contacts.get_mut(&no) {
            Some(contact) => std::mem::take(&mut contact.news),
            None => return,
        };
        for ((at, track), runs) in news {
            for run in runs.runs() {
                self.send(no, Message::Have(at, track, *run));
            }
        }
    }

    fn summarise(&mut self, no: ContactNo, at: u32) -> Option<Summary> {
        let entry = self.entries.get(&at)?;
        let contact = self.contacts.get_mut(&no)?;
        let mut runs_left = SUMMARY_RUNS_MAX;
        let tracks = entry.tracks.iter().map(|track| {
            let shown = track.here.first_runs(runs_left);
            runs_left -= shown.runs().len();
            (track.name.clone(), shown)
        });
        let tracks: Vec<_> = tracks.collect();
        contact.told.insert(at, tracks.len());
        contact.news.retain(|(other, _), _| *other != at);
        let limited = self.config.copies[usize::from(entry.priority.rank())] > 0;
        let copies = if limited {
            (entry.copies_left / 2).max(1)
        } else {
            0
        };
        Some(Summary {
            no: at,
            key: entry.key.clone(),
            priority: entry.priority,
            expires: entry.expires,
            manifest: entry.manifest.map(|(hash, _)| hash),
            hops: entry.hops,
            copies,
            tracks,
            partials: partials(entry),
            receipts: receipts_of(entry),
        })
    }

    fn summary(&mut self, no: ContactNo, summary: Summary) {
        let Some(contact) = self.contacts.get(&no) else {
            return;
        };
        if contact.numbers.len() >= SPOKEN_MAX {
            return self.leave(no, "it speaks of too many contents".into());
        }
        let at = self.offered(&summary.key, summary.priority, summary.expires);
        let entry = at.and_then(|at| self.entries.get_mut(&at));
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        contact.numbers.insert(summary.no, at);
        let (Some(at), Some(entry)) = (at, entry) else {
            return;
        };
        if !entry.stored && entry.tracks.iter().all(|track| track.here.is_empty()) {
            (entry.priority, entry.expires) = (summary.priority, summary.expires);
        }
        let mut remote = Remote {
            no: summary.no,
            manifest: summary.manifest,
            hops: summary.hops,
            copies: summary.copies,
            ..Remote::default()
        };
        for (name, here) in summary.tracks {
            // One too many has a number that no track has.
            remote
                .tracks
                .push((entry.track(&name).unwrap_or(u16::MAX), here));
        }
        for (track, sequence, groups) in summary.partials {
            if let Some((ours, _)) = remote.tracks.get(usize::from(track)) {
                remote.partials.insert((*ours, sequence), groups);
            }
        }
        contact.remote.insert(at, remote);
        self.compare(no, at);
        if let Some(manifest) = summary.manifest {
            self.receive(no, at, &manifest, summary.receipts);
        }
        self.reoffer(at);
    }

    fn remote_has(&mut self, no: ContactNo, theirs: u32, track: u16, run: Run) {
        let Some(at) = self.ours(no, theirs) else {
            return;
        };
        let remote = self
            .contacts
            .get_mut(&no)
            .and_then(|contact| contact.remote.get_mut(&at));
        let Some((_, here)) = remote.and_then(|remote| remote.tracks.get_mut(usize::from(track)))
        else {
            return self.leave(no, "it speaks of a track that it did not name".into());
        };
        here.insert(run.start, run.end);
        if here.runs().len() > SUMMARY_RUNS_MAX {
            return self.leave(no, "what it has is too scattered".into());
        }
        self.compare(no, at);
        self.reoffer(at);
    }

    fn remote_lost(&mut self, no: ContactNo, theirs: u32, lost: Option<(u16, Run)>) {
        let Some(at) = self.ours(no, theirs) else {
            return;
        };
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        match lost {
            Some((track, run)) => {
                let remote = contact.remote.get_mut(&at);
                let ours = remote
                    .as_ref()
                    .and_then(|remote| Some(remote.tracks.get(usize::from(track))?.0));
                if let (Some(remote), Some(ours)) = (remote, ours) {
                    remote.lost(ours, run);
                }
            }
            None => {
                contact.remote.remove(&at);
                contact.numbers.remove(&theirs);
                contact.owed.remove(&at);
                if let Some(entry) = self.entries.get_mut(&at) {
                    entry.unask(no);
                }
            }
        }
        self.reoffer(at);
    }

    /// Looks again at which contacts have something of a content that is lacking here.
    pub(super) fn reoffer(&mut self, at: u32) {
        let Some(entry) = self.entries.get(&at) else {
            return;
        };
        let wanted = self.config.interest.covers(&entry.key)
            && !entry.refused
            && !self.paused.contains_key(&at)
            && entry.expires > self.now;
        let rank = entry.rank(self.now);
        for (no, contact) in &mut self.contacts {
            let Some(remote) = contact.remote.get(&at) else {
                contact.offer(at, None);
                continue;
            };
            let lacking = wanted && is_lacking(entry, remote);
            contact.offer(at, lacking.then_some(rank));
            if lacking {
                self.work.insert(*no);
            }
        }
    }
}

/// Whether a contact has something of a content that is lacking here.
pub(super) fn is_lacking(entry: &Entry, remote: &Remote) -> bool {
    if entry.manifest.is_none() && remote.manifest.is_some() {
        return true;
    }
    let has = |(track, here): &(u16, Runs)| {
        entry
            .tracks
            .get(usize::from(*track))
            .is_some_and(|track| !track.lacks(here).is_empty())
    };
    let part = |(track, sequence): &(u16, u64)| {
        entry.tracks.get(usize::from(*track)).is_some_and(|track| {
            !track.here.contains(*sequence) && !track.refused.contains(*sequence)
        })
    };
    remote.tracks.iter().any(has) || remote.partials.keys().any(part)
}

fn partials(entry: &Entry) -> Vec<(u16, u64, Runs)> {
    let mut partials = Vec::new();
    for (index, track) in entry.tracks.iter().enumerate() {
        for (sequence, pending) in &track.pending {
            let worth = !pending.have.is_empty() && pending.have.runs().len() <= PARTIAL_RUNS_MAX;
            if worth && (partials.len() as u64) < PARTIALS_MAX {
                partials.push((index as u16, *sequence, pending.have.clone()));
            }
        }
    }
    partials
}

/// The rank of a priority among what is served: 0 goes first.
pub(super) const fn serving_rank(priority: Priority) -> u8 {
    2 - priority.rank()
}
