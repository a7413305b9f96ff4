//! The relay as a value that is stepped: inputs go in, outputs come out, and it says when it wants
//! to be called next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::bucket::Bucket;
use super::config::Config;
use super::contact::{Contact, Flow, Place, Stats};
use super::entry::Entry;
use super::hello::{Hello, VERSION};
use super::io::{ContactNo, Facts, Input, Output};
use super::message::{Message, TrackName};
use super::receipt::Receipt;
use crate::ids::{ContentKey, PublisherKey};
use crate::runs::Run;
use crate::time::Time;

/// Most contents that are known, here or elsewhere.
const ENTRIES_MAX: usize = 40_000;
/// How often it is looked which of them may be forgotten, when there are too many.
const SWEEP: Duration = Duration::from_secs(1);
/// Most contacts at a time.
const CONTACTS_MAX: usize = 256;

/// What can be seen of a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactInfo {
    /// Its number.
    pub contact: ContactNo,
    /// The other node.
    pub node: PublisherKey,
    /// The other node's name.
    pub name: String,
    /// Whether both have said hello.
    pub ready: bool,
    /// Since when.
    pub since: Time,
    /// The time of a round trip.
    pub round_trip: Duration,
    /// Bytes a second that arrive.
    pub rate: u64,
    /// Segments that it has and that are lacking here, by contents.
    pub wanted: usize,
    /// Counts.
    pub stats: Stats,
}

/// A node that is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Until when.
    pub until: Time,
    /// Why.
    pub why: String,
}

/// The relay of one node.
#[derive(Debug)]
pub struct Relay {
    pub(super) config: Config,
    pub(super) now: Time,
    pub(super) entries: BTreeMap<u32, Entry>,
    keys: BTreeMap<ContentKey, u32>,
    next_no: u32,
    /// Boxed, because one is taken out and put back with each step.
    pub(super) contacts: BTreeMap<ContactNo, Box<Contact>>,
    pub(super) out: VecDeque<Output>,
    pub(super) upload: Bucket,
    pub(super) download: Bucket,
    /// Contacts that may ask for more, may be served more, or are to be told something.
    pub(super) work: BTreeSet<ContactNo>,
    /// When a bucket has room again.
    pub(super) wake: Time,
    /// When a contact has to be looked at.
    pub(super) timer: Time,
    left: BTreeMap<PublisherKey, Left>,
    /// Contents of which other nodes got something.
    pub(super) counted: BTreeSet<u32>,
    /// Contents of which nothing is fetched until then, because the store could not take it.
    pub(super) paused: BTreeMap<u32, Time>,
    /// When [`Relay::forget_gone`] may look again.
    next_sweep: Time,
    /// Where the round of serving goes on.
    pub(super) turn: ContactNo,
}

impl Relay {
    /// A relay that knows nothing yet.
    #[must_use]
    pub fn new(mut config: Config, now: Time) -> Self {
        config.interest.publishers.insert(config.own);
        Self {
            upload: Bucket::new(config.upload, now),
            download: Bucket::new(config.download, now),
            config,
            now,
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_no: 0,
            contacts: BTreeMap::new(),
            out: VecDeque::new(),
            work: BTreeSet::new(),
            wake: Time::MAX,
            timer: Time::MAX,
            left: BTreeMap::new(),
            counted: BTreeSet::new(),
            paused: BTreeMap::new(),
            next_sweep: Time(0),
            turn: ContactNo(0),
        }
    }

    /// The number of a content, which stays until the relay ends.
    pub fn no(&mut self, key: &ContentKey) -> u32 {
        if let Some(no) = self.keys.get(key) {
            return *no;
        }
        let vod = crate::content::Priority::Vod;
        let entry = Entry::new(key.clone(), vod, Time::MAX, &self.config.own);
        self.insert(entry)
    }

    fn insert(&mut self, entry: Entry) -> u32 {
        let no = self.next_no;
        self.next_no += 1;
        self.keys.insert(entry.key.clone(), no);
        self.entries.insert(no, entry);
        no
    }

    /// The content with that number.
    #[must_use]
    pub fn key(&self, no: u32) -> Option<&ContentKey> {
        self.entries.get(&no).map(|entry| &entry.key)
    }

    /// The number of a track of a content; it is added when it is new. None for a content that is
    /// not known, or has as many tracks as it may.
    pub fn track(&mut self, no: u32, name: &TrackName) -> Option<u16> {
        self.entries.get_mut(&no)?.track(name)
    }

    /// The track with that number.
    #[must_use]
    pub fn track_name(&self, no: u32, track: u16) -> Option<&TrackName> {
        let entry = self.entries.get(&no)?;
        entry
            .tracks
            .get(usize::from(track))
            .map(|track| &track.name)
    }

    /// How the contacts are.
    pub fn contacts(&self) -> impl Iterator<Item = ContactInfo> + '_ {
        self.contacts.iter().map(|(no, contact)| ContactInfo {
            contact: *no,
            node: contact.node,
            name: contact.name.clone(),
            ready: contact.ready,
            since: contact.since,
            round_trip: contact.flow.round_trip,
            rate: contact.flow.rate,
            wanted: contact.offers.len(),
            stats: contact.stats,
        })
    }

    /// Why a node is left alone, if it is.
    #[must_use]
    pub fn left(&self, node: &PublisherKey) -> Option<&Left> {
        self.left.get(node).filter(|left| left.until > self.now)
    }

    /// Something to do, if there is anything.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When the relay wants to be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.timer.min(self.wake)
    }

    /// Takes an input. Everything that follows from it is then to be had from [`Relay::poll`].
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Up {
                contact,
                node,
                dialled,
            } => self.up(contact, node, dialled),
            Input::Down(contact) => self.down(contact),
            Input::Message(contact, message) => self.message(contact, message),
            Input::Arrived(contact, request, groups) => self.arrived(contact, request, groups),
            Input::Damaged(contact, request) => self.damaged(contact, request),
            Input::Sent(contact, bytes) => self.sent(contact, bytes),
            Input::Content(no, facts) => self.content(no, &facts),
            Input::Stored(no, track, run) => self.stored(no, track, run),
            Input::Dropped(no, track, run) => self.dropped(no, track, run, false),
            Input::Torn(no, track, run) => self.dropped(no, track, run, true),
            Input::Removed(no) => self.removed(no),
            Input::Refused(place) => self.refused(place),
            Input::RefusedContent(no) => self.refuse_content(no),
            Input::FailedContent(no) => self.failed_content(no),
            Input::Failed(place) => self.failed(place),
            Input::Learned(contact, no, track, run, known) => {
                self.learned(contact, no, track, run, known);
            }
            Input::Manifest(no, hash, total, known) => self.manifest(no, hash, total, known),
            Input::Rows(no, known) => self.rows(no, known),
            Input::Lied(contact, why) => self.leave(contact, why),
            Input::Watched(no, sequence) => self.watched(no, sequence),
            Input::Tick => {}
        }
        if self.now >= self.timer {
            self.look_at_contacts();
        }
        if self.now >= self.wake {
            self.wake = Time::MAX;
            self.work.extend(self.contacts.keys());
            self.resume();
        }
        self.do_work();
    }

    /// Takes contents up again whose pause is over.
    fn resume(&mut self) {
        let now = self.now;
        let over: Vec<u32> = self
            .paused
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(no, _)| *no)
            .collect();
        for no in over {
            self.paused.remove(&no);
            self.reoffer(no);
        }
        for until in self.paused.values() {
            self.wake = self.wake.min(*until);
        }
    }

    fn do_work(&mut self) {
        if self.work.is_empty() {
            return;
        }
        for contact in std::mem::take(&mut self.work) {
            self.tell(contact);
            self.fill(contact);
        }
        self.serve();
    }

    fn up(&mut self, no: ContactNo, node: PublisherKey, dialled: bool) {
        if let Some(left) = self.left(&node) {
            let why = format!("this node is left alone for a while: {}", left.why);
            return self.out.push_back(Output::Close(no, why));
        }
        let allowed = self.config.allow.as_ref();
        if node == self.config.own || allowed.is_some_and(|allow| !allow.contains(&node)) {
            let why = "this node is not allowed here".to_owned();
            return self.out.push_back(Output::Close(no, why));
        }
        if self.contacts.len() >= CONTACTS_MAX {
            let why = format!("{CONTACTS_MAX} contacts are the limit");
            return self.out.push_back(Output::Close(no, why));
        }
        let twin = self
            .contacts
            .iter()
            .find(|(_, other)| other.node == node)
            .map(|(no, other)| (*no, other.dialled));
        if let Some((other, other_dialled)) = twin {
            // Both dialled at once: both sides keep the link that the smaller key dialled. A
            // second link in the same direction replaces one that died unnoticed.
            let keeps_new = other_dialled == dialled || dialled == (self.config.own < node);
            let why = "there is another link to this node".to_owned();
            if !keeps_new {
                return self.out.push_back(Output::Close(no, why));
            }
            self.close(other, why);
        }
        let limits = (self.config.peer_upload, self.config.peer_download);
        let contact = Contact::new(node, dialled, self.now, limits);
        self.contacts.insert(no, Box::new(contact));
        self.timer = self.timer.min(self.now.after(self.config.patience.hello));
        let proof = self.config.token.as_ref();
        let hello = Hello {
            version: VERSION,
            name: self.config.name.clone(),
            interest: self.config.interest.clone(),
            proof: proof.map(|token| token.proof(&self.config.own, &node)),
        };
        self.send(no, Message::Hello(hello));
    }

    pub(super) fn send(&mut self, contact: ContactNo, message: Message) {
        self.out.push_back(Output::Send(contact, message));
    }

    pub(super) fn hello(&mut self, no: ContactNo, hello: Hello) {
        let Some(contact) = self.contacts.get_mut(&no) else {
            return;
        };
        let node = contact.node;
        if contact.ready {
            return self.leave(no, "it said hello twice".into());
        }
        if hello.version != VERSION {
            let why = format!(
                "it speaks version {} of the protocol, this node version {VERSION}; update the \
                 older one",
                hello.version
            );
            return self.close(no, why);
        }
        let refused = match (&self.config.token, hello.proof) {
            (None, None) => None,
            (Some(token), Some(proof)) if token.accepts(&proof, &node, &self.config.own) => None,
            (Some(_), Some(_)) => Some("its --relay-token is another one than here"),
            (Some(_), None) => Some("it has no --relay-token, and one is needed here"),
            (None, Some(_)) => Some("it has a --relay-token, and none is set here"),
        };
        if let Some(why) = refused {
            return self.close(no, why.into());
        }
        (contact.ready, contact.name, contact.interest) = (true, hello.name, hello.interest);
        contact.heard = self.now;
        let dialled = contact.dialled;
        self.schedule(self.now.after(self.config.keep_alive));
        if dialled {
            self.begin_reconciling(no);
        }
    }

    /// Ends a contact for a reason that may pass.
    pub(super) fn close(&mut self, no: ContactNo, why: String) {
        if self.contacts.contains_key(&no) {
            self.out.push_back(Output::Close(no, why));
            self.down(no);
        }
    }

    /// Ends a contact with a node that broke the rules, and keeps away from it for a while.
    pub(super) fn leave(&mut self, no: ContactNo, why: String) {
        let Some(contact) = self.contacts.get(&no) else {
            return;
        };
        let until = self.now.after(self.config.patience.left);
        let now = self.now;
        self.left.retain(|_, left| left.until > now);
        let left = Left {
            until,
            why: why.clone(),
        };
        self.left.insert(contact.node, left);
        self.close(no, why);
    }

    fn down(&mut self, no: ContactNo) {
        let Some(contact) = self.contacts.remove(&no) else {
            return;
        };
        self.count_copies();
        for request in contact.requests.values() {
            self.unfly(request.place, request.groups);
        }
        let contents: BTreeSet<u32> = contact.remote.keys().copied().collect();
        for at in &contents {
            if let Some(entry) = self.entries.get_mut(at) {
                entry.unask(no);
            }
        }
        self.forget_idle(contents);
        self.work.remove(&no);
        self.work.extend(self.contacts.keys());
    }

    /// Forgets contents of which nothing is here and that nobody offers any more.
    fn forget_idle(&mut self, contents: BTreeSet<u32>) {
        for no in contents {
            let entry = self.entries.get(&no);
            if entry.is_some_and(|entry| entry.is_idle() && !entry.refused) {
                self.forget(no);
            }
        }
    }

    /// Makes room for new contents: forgets those that are gone from here and not offered. The
    /// store remembers what must not come back.
    fn forget_gone(&mut self) {
        if self.now < self.next_sweep {
            return;
        }
        self.next_sweep = self.now.after(SWEEP);
        let idle = self.entries.iter().filter(|(_, entry)| entry.is_idle());
        for no in idle.map(|(no, _)| *no).collect::<Vec<u32>>() {
            self.forget(no);
        }
    }

    /// Forgets a content, unless a contact offers it.
    fn forget(&mut self, no: u32) {
        let offers = |contact: &Contact| contact.remote.contains_key(&no);
        if self.contacts.values().any(|contact| offers(contact)) {
            return;
        }
        if let Some(entry) = self.entries.remove(&no) {
            self.keys.remove(&entry.key);
            self.paused.remove(&no);
            self.out.push_back(Output::Forgotten(no));
        }
    }

    /// The number of a content that a peer offers; none when it is of no interest here.
    pub(super) fn offered(
        &mut self,
        key: &ContentKey,
        priority: crate::content::Priority,
        expires: Time,
    ) -> Option<u32> {
        if let Some(no) = self.keys.get(key) {
            return Some(*no);
        }
        if !self.config.interest.covers(key) {
            return None;
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.forget_gone();
        }
        (self.entries.len() < ENTRIES_MAX).then(|| {
            let entry = Entry::new(key.clone(), priority, expires, &self.config.own);
            self.insert(entry)
        })
    }

    fn content(&mut self, no: u32, facts: &Facts) {
        let Some(entry) = self.entries.get_mut(&no) else {
            return;
        };
        let before = (entry.stored, entry.manifest);
        entry.update(facts);
        if !before.0 {
            let limit = self.config.copies[usize::from(facts.priority.rank())];
            if facts.own {
                (entry.hops, entry.copies_left) = (0, limit);
            } else if entry.hops == 0 {
                (entry.hops, entry.copies_left) = (1, entry.copies_left.max(1));
            }
        }
        let mut news = before.1 != entry.manifest;
        if let (Some((hash, _)), true, Some(signer)) =
            (entry.manifest, facts.complete, &self.config.signer)
            && self.config.group.contains(&self.config.own)
            && !entry.receipts.contains_key(&self.config.own)
        {
            let Receipt { node, signature } = Receipt::sign(signer, &entry.key, &hash);
            entry.receipts.insert(node, signature);
            entry.changed();
            news = true;
        }
        if news {
            self.retell(no);
            self.look_everywhere(no);
        }
        self.reoffer(no);
    }

    fn watched(&mut self, no: u32, sequence: u64) {
        let now = self.now;
        if let Some(entry) = self.entries.get_mut(&no) {
            entry.watch(sequence, now);
            self.reoffer(no);
        }
    }

    /// Makes sure that [`Relay::look_at_contacts`] runs by then.
    pub(super) fn schedule(&mut self, by: Time) {
        self.timer = self.timer.min(by);
    }

    /// Asks quiet contacts for a sign of life and ends those that are dead, stuck or useless.
    fn look_at_contacts(&mut self) {
        let (now, keep_alive) = (self.now, self.config.keep_alive);
        let patience = self.config.patience;
        let mut ends = Vec::new();
        let mut pings = Vec::new();
        let mut quiet = false;
        let mut next = Time::MAX;
        for (no, contact) in &mut self.contacts {
            match contact.trouble(now, keep_alive, &patience) {
                Ok(by) => next = next.min(by),
                Err(why) => ends.push((*no, why)),
            }
            let quiet_since = contact.heard.max(contact.pinged);
            if contact.ready && now.since(quiet_since) >= keep_alive {
                contact.pinged = now;
                // A contact that is quiet has reconciled.
                contact.items = None;
                quiet = true;
                pings.push(*no);
            }
            if contact.ready {
                next = next.min(contact.heard.max(contact.pinged).after(keep_alive));
            }
        }
        self.timer = next;
        if quiet {
            self.count_copies();
        }
        for no in pings {
            self.send(no, Message::Ping(now.0));
        }
        for (no, why) in ends {
            self.close(no, why.into());
        }
    }

    /// Chunk groups that were asked for may be asked of others.
    pub(super) fn unfly(&mut self, place: Place, groups: Run) {
        if let Some(entry) = self.entries.get_mut(&place.no)
            && let Some(track) = entry.tracks.get_mut(usize::from(place.track))
            && let Some(pending) = track.pending.get_mut(&place.sequence)
        {
            pending.flying.remove(groups.start, groups.end);
        }
    }

    pub(super) fn pong(&mut self, no: ContactNo, stamp: u64) {
        if let Some(contact) = self.contacts.get_mut(&no) {
            let trip = self.now.since(Time(stamp));
            let Flow { round_trip, .. } = &mut contact.flow;
            // The shortest of late: queues in front of the link do not count.
            *round_trip = trip.min(*round_trip * 5 / 4).min(Duration::from_secs(30));
        }
    }
}
