//! What other nodes asked for: the most urgent first, every contact in turn, never above the
//! limits.

use super::contact::{Job, Place};
use super::engine::Relay;
use super::io::{ContactNo, Output};
use super::message::Message;
use super::tell::serving_rank;
use crate::runs::Run;
use crate::verify::CHUNK_GROUP_BYTES;

/// Most bytes that a link holds of what is to be served: enough to keep it busy.
const IN_LINK_MAX: u64 = 2 << 20;
/// Most unanswered requests of one contact: more than it asks for within its window.
const JOBS_MAX: usize = 2048;
/// A chunk group with its proofs and framing, as it is counted against the limits.
pub(super) const GROUP_ON_LINK: u64 = CHUNK_GROUP_BYTES + 128;

impl Relay {
    /// A contact asks for chunk groups.
    pub(super) fn get(&mut self, no: ContactNo, request: u32, place: Place, groups: Run) {
        let Some(contact) = self.contacts.get(&no) else {
            return;
        };
        if contact.jobs.len() >= JOBS_MAX {
            return self.leave(no, "it asks for too much at a time".into());
        }
        if !contact.may_ask(place.no) {
            return self.leave(no, "it asked for a content that it was not told of".into());
        }
        let entry = self.entries.get(&place.no);
        let track = entry.and_then(|entry| entry.tracks.get(usize::from(place.track)));
        let here = track.is_some_and(|track| {
            track.here.contains(place.sequence)
                || track
                    .pending
                    .get(&place.sequence)
                    .is_some_and(|pending| pending.have.covers(groups.start, groups.end))
        });
        if !here || !self.grant(no, place.no) {
            return self.send(no, Message::Gone(request));
        }
        let priority = self.entries.get(&place.no).map(|entry| entry.priority);
        let rank = priority.map_or(2, serving_rank);
        if let Some(contact) = self.contacts.get_mut(&no) {
            let job = Job {
                request,
                place,
                asked: groups,
                groups,
            };
            contact.jobs.insert((rank, contact.next_job), job);
            contact.next_job += 1;
            self.work.insert(no);
        }
    }

    /// Gives a contact half of the copies that are left (binary spray, Spyropoulos et al. 2005).
    /// Whether it may have the content.
    fn grant(&mut self, no: ContactNo, at: u32) -> bool {
        let (Some(contact), Some(entry)) = (self.contacts.get_mut(&no), self.entries.get_mut(&at))
        else {
            return false;
        };
        let limited = self.config.copies[usize::from(entry.priority.rank())] > 0;
        if !limited || contact.interest.names(&entry.key) || contact.granted.contains(&at) {
            return true;
        }
        if entry.copies_left <= 1 {
            return false;
        }
        entry.copies_left -= entry.copies_left / 2;
        contact.granted.insert(at);
        true
    }

    pub(super) fn cancel(&mut self, no: ContactNo, request: u32) {
        if let Some(contact) = self.contacts.get_mut(&no) {
            contact.jobs.retain(|_, job| job.request != request);
        }
    }

    /// The link took bytes.
    pub(super) fn sent(&mut self, no: ContactNo, bytes: u64) {
        if let Some(contact) = self.contacts.get_mut(&no) {
            contact.in_link = contact.in_link.saturating_sub(bytes);
            contact.taken = self.now;
            self.work.insert(no);
        }
    }

    /// Serves every contact in turn, a quantum at a time, as long as links and limits allow.
    pub(super) fn serve(&mut self) {
        let mut idle = 0;
        while !self.contacts.is_empty() && idle < self.contacts.len() {
            let next = self
                .contacts
                .range(ContactNo(self.turn.0.wrapping_add(1))..)
                .next()
                .or_else(|| self.contacts.first_key_value());
            let Some((no, _)) = next else {
                return;
            };
            self.turn = *no;
            if self.serve_one(self.turn) {
                idle = 0;
            } else {
                idle += 1;
            }
        }
    }

    fn serve_one(&mut self, no: ContactNo) -> bool {
        let now = self.now;
        let Some(contact) = self.contacts.get_mut(&no) else {
            return false;
        };
        let quantum = self.config.quantum;
        let busy = contact.in_link > 0 && contact.in_link + quantum * GROUP_ON_LINK > IN_LINK_MAX;
        if contact.jobs.is_empty() || busy {
            return false;
        }
        let allowed = self.upload.allows(now).min(contact.upload.allows(now));
        if allowed < GROUP_ON_LINK {
            let when = self
                .upload
                .when(now, GROUP_ON_LINK)
                .max(contact.upload.when(now, GROUP_ON_LINK));
            self.wake = self.wake.min(when);
            return false;
        }
        let Some((at, mut job)) = contact.jobs.pop_first() else {
            return false;
        };
        let count = quantum.min(allowed / GROUP_ON_LINK).min(job.groups.count());
        let groups = Run::new(job.groups.start, job.groups.start + count);
        let bytes = count * GROUP_ON_LINK;
        if contact.in_link == 0 {
            contact.taken = now;
            self.timer = self.timer.min(now.after(self.config.patience.stuck));
        }
        contact.in_link += bytes;
        contact.stats.sent += count * CHUNK_GROUP_BYTES;
        contact.upload.take(now, bytes);
        self.upload.take(now, bytes);
        job.groups.start += count;
        self.out.push_back(Output::Serve {
            contact: no,
            request: job.request,
            place: job.place,
            asked: job.asked,
            groups,
            last: job.groups.count() == 0,
        });
        if job.groups.count() > 0 {
            contact.jobs.insert(at, job);
            return true;
        }
        let (label, place) = (contact.label(), job.place);
        if self.config.count_copies
            && let Some(entry) = self.entries.get_mut(&place.no)
            && let Some(track) = entry.tracks.get_mut(usize::from(place.track))
        {
            track.saw_more(label, Run::new(place.sequence, place.sequence + 1));
            self.counted.insert(place.no);
        }
        true
    }

    /// How many bytes an [`Output::Serve`] of so many chunk groups counts for; to be reported
    /// with [`super::Input::Sent`] once the link took them.
    #[must_use]
    pub const fn serve_bytes(groups: &Run) -> u64 {
        groups.count() * GROUP_ON_LINK
    }
}
