//! Carrying contents from node to node, whenever two of them meet.
//!
//! [`Relay`] knows what is here and what the others say, and decides what is asked of whom and
//! given to whom. It stands on the machines that all ways share ([`crate::delivery::Base`]).
//!
//! | question | place |
//! |---|---|
//! | which contents are known, and whose word for it counts | `contents` |
//! | what does a contact say, owe, get told | `session` |
//! | how do two nodes find out what they lack | [`reconcile`], `tell` |
//! | what is believed of what a contact says | `hear` |
//! | what is fetched next, from whom | `choose`, `rarity` |
//! | what becomes of what came | `take` |
//! | what is given, and how many copies | `give` |
//! | what is said on a link | [`message`] |
//! | is it signed | [`learn`] |
//! | why was a segment dropped | [`evict`] |

mod addressed;
mod choose;
mod contents;
mod copies;
mod entry;
pub mod evict;
mod give;
mod hear;
pub mod learn;
pub mod message;
mod rarity;
pub mod receipt;
pub mod reconcile;
mod session;
mod stored;
mod summary;
mod take;
mod tell;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use crate::delivery::Base;
use crate::numbers::{ContactNo, ContentNo, Place, RemoteNo};
use crate::time::Time;
use entry::{Entry, Track};
use session::Session;

/// What is carried from node to node.
#[derive(Debug, Default)]
pub struct Relay {
    entries: BTreeMap<ContentNo, Box<Entry>>,
    /// The entries by a hash of their keys.
    names: BTreeMap<[u8; 16], ContentNo>,
    next_no: u32,
    /// How many of the entries the store has.
    stored: usize,
    sessions: BTreeMap<ContactNo, Session>,
    /// Contents of which other nodes got something.
    counted: BTreeSet<ContentNo>,
    /// Contents of which nothing is fetched until then, because the store could not take it.
    paused: BTreeMap<ContentNo, Time>,
    /// Contents of which something changed, so that offers have to be looked at again.
    dirty: BTreeSet<ContentNo>,
    /// When contents that are gone may be looked for again.
    next_sweep: Time,
    /// How many contacts there were.
    meetings: u32,
    /// Bytes that the claims of all contacts are counted with.
    claimed: usize,
    /// See [`Relay::hops_with_room`]; none when it has to be looked up.
    room: Option<u8>,
}

impl Relay {
    /// A contact has proven what is asked of it.
    pub(crate) fn ready(&mut self, base: &mut Base, no: ContactNo) {
        self.sessions.insert(no, Session::default());
        self.meetings = self.meetings.saturating_add(1);
        // One side begins, or both would ask the same of each other.
        if base.contacts.get(no).is_some_and(|it| it.dialled) {
            self.begin_reconciling(base, no);
        }
    }

    /// A contact ended; of the `unsent` contents it did not get all that it asked for.
    pub(crate) fn down(&mut self, base: &mut Base, no: ContactNo, unsent: &BTreeSet<ContentNo>) {
        // What was counted is told now and then, and not with each segment: the end of a contact is
        // such a moment.
        self.count_copies(base);
        let Some(session) = self.sessions.remove(&no) else {
            return;
        };
        if self.sessions.is_empty() {
            // An empty map that was used keeps memory for eleven.
            self.sessions = BTreeMap::new();
        }
        self.claimed = self.claimed.saturating_sub(session.claims.bytes);
        self.take_back(session.granted, unsent);
        let contents: Vec<ContentNo> = session.remote.keys().copied().collect();
        for at in &contents {
            if let Some(entry) = self.entries.get_mut(at) {
                // Or it would be waited for until nobody has it any more.
                entry.unask(no);
                if entry.claimed == Some(no) {
                    self.claim_again(*at);
                }
            }
        }
        // Only now that its session is gone: what a session names is not forgotten.
        self.forget_idle(base, contents);
        self.dirty.extend(session.remote.into_keys());
    }

    /// Takes contents up again whose pause is over.
    pub(crate) fn resume(&mut self, base: &mut Base) {
        let now = base.now;
        let over = self.paused.iter().filter(|(_, until)| **until <= now);
        for at in over.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.paused.remove(&at);
            self.dirty.insert(at);
        }
        // The wake-up was cleared, also for those whose pause goes on.
        if let Some(next) = self.paused.values().min() {
            base.wake_at(*next);
        }
    }

    /// Looks again at what is offered of contents of which something changed.
    pub(crate) fn settle(&mut self, base: &mut Base) {
        // What changed here concerns all contacts; what one of them said, itself alone.
        for at in std::mem::take(&mut self.dirty) {
            self.reoffer(base, at);
        }
        let changed = self
            .sessions
            .iter_mut()
            .filter(|(_, it)| !it.dirty.is_empty());
        let changed: Vec<(ContactNo, BTreeSet<ContentNo>)> = changed
            .map(|(no, session)| (*no, std::mem::take(&mut session.dirty)))
            .collect();
        for (no, contents) in changed {
            for at in contents {
                self.reoffer_of(base, no, at);
            }
        }
    }

    /// Of how many contents a contact has something that is lacking here.
    pub(crate) fn wanted(&self, no: ContactNo) -> usize {
        self.sessions.get(&no).map_or(0, |it| it.offers.len())
    }

    /// Our number for a content of which a contact speaks by its own number.
    fn ours(&self, no: ContactNo, theirs: RemoteNo) -> Option<ContentNo> {
        self.sessions.get(&no)?.numbers.get(&theirs).copied()?
    }

    fn track_mut(&mut self, place: Place) -> Option<&mut Track> {
        let entry = self.entries.get_mut(&place.content)?;
        entry.tracks.get_mut(place.track.at())
    }
}
