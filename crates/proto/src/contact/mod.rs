//! Contacts: who is met, whether it has proven what is asked of it, whether it is alive, what it
//! may cost. All ways of delivery share them.
//!
//! | question | place |
//! |---|---|
//! | who is let in, and who goes for it | `Contacts::admit` |
//! | what does each side say of itself | [`hello`] |
//! | how long is waited | [`patience`] |
//! | what may it cost | [`budget`] |
//! | is it alive | `Contact::look` |

pub mod budget;
pub mod hello;
pub mod message;
pub mod patience;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::PublisherKey;
use crate::limits::{
    CONTACTS_KEPT, CONTACTS_MAX, CONTACTS_OF_SOURCE_MAX, UNPROVEN_MAX, UNPROVEN_OF_SOURCE_MAX,
};
use crate::numbers::ContactNo;
use crate::time::Time;
use budget::{SourceAddr, Work};
use hello::Interest;
use patience::{Patience, Profile};

/// What the round trip is taken for until it was measured.
const TRIP_UNKNOWN: Duration = Duration::from_millis(100);
/// Two links that come up within this time of each other were dialled from both sides at once; one
/// that comes up later takes the place of one that died unnoticed.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A link that came up.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The other node, whose key was proven.
    pub node: PublisherKey,
    /// Whether this side dialled.
    pub dialled: bool,
    /// Where the link comes from, where that is known.
    pub source: Option<SourceAddr>,
    /// What the link can do.
    pub profile: Profile,
}

/// Counts of one contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of payload that came, verified.
    pub received: u64,
    /// Bytes of payload that were sent.
    pub sent: u64,
    /// Bytes of payload that came although they were here.
    pub duplicate: u64,
    /// Segments that came whole.
    pub segments: u64,
    /// Messages of ways that were not agreed on, or of kinds that are not known here.
    pub ignored: u64,
}

/// One contact.
#[derive(Debug)]
pub struct Contact {
    pub(crate) node: PublisherKey,
    pub(crate) dialled: bool,
    pub(crate) source: Option<SourceAddr>,
    pub(crate) since: Time,
    /// Its hello came and was accepted.
    pub(crate) ready: bool,
    pub(crate) name: String,
    pub(crate) interest: Interest,
    /// Codes of the ways that both sides speak.
    pub(crate) ways: BTreeSet<u8>,
    pub(crate) patience: Patience,
    pub(crate) profile: Profile,
    work: Work,
    /// When something came from it last.
    pub(crate) heard: Time,
    /// When it was asked for a sign of life last, and whether it owes it still.
    pinged: (Time, bool),
    /// The round trip, once it was measured.
    pub(crate) trip: Option<Duration>,
    /// Since when something is owed of which nothing came.
    pub(crate) waiting: Option<Time>,
    /// Damaged answers.
    pub(crate) strikes: u32,
    /// How often it said that something of ours is damaged.
    pub(crate) doubts: u32,
    pub(crate) stats: Stats,
}

/// What is to be done about a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing until then.
    Later(Time),
    /// Ask it for a sign of life.
    Ping,
    /// End it for a reason.
    End(&'static str),
}

impl Contact {
    fn new(arrival: Arrival, patience: &Patience, now: Time) -> Self {
        Self {
            node: arrival.node,
            dialled: arrival.dialled,
            source: arrival.source,
            since: now,
            ready: false,
            name: String::new(),
            interest: Interest::default(),
            ways: BTreeSet::new(),
            patience: patience.on(&arrival.profile),
            profile: arrival.profile,
            work: Work::of_contact(now),
            heard: now,
            pinged: (now, false),
            trip: None,
            waiting: None,
            strikes: 0,
            doubts: 0,
            stats: Stats::default(),
        }
    }

    /// The round trip, measured or not.
    pub(crate) fn round_trip(&self) -> Duration {
        let unknown = TRIP_UNKNOWN.max(self.profile.delay * 2);
        self.trip.unwrap_or(unknown)
    }

    /// Within which time an answer is to come.
    pub(crate) fn answer_within(&self) -> Duration {
        self.patience.answer_within(self.round_trip())
    }

    /// A short name of the other node, for remembering what it has.
    pub(crate) fn label(&self) -> u32 {
        // Two nodes that begin alike count as one: that shifts an order of eviction, and nothing
        // else.
        let start = self.node.0.first_chunk();
        start.map_or(0, |four| u32::from_le_bytes(*four))
    }

    /// Something came from it.
    pub(crate) const fn hear(&mut self, now: Time) {
        self.heard = now;
    }

    /// Something of what it owed came.
    pub(crate) const fn gave(&mut self, now: Time, owes_more: bool) {
        self.heard = now;
        self.waiting = if owes_more { Some(now) } else { None };
    }

    /// Something is asked of it.
    pub(crate) fn owes(&mut self, now: Time) {
        // It waits since the first thing that is owed.
        self.waiting.get_or_insert(now);
    }

    /// A sign of life is asked for now.
    pub(crate) const fn ping(&mut self, now: Time) {
        self.pinged = (now, true);
    }

    /// The sign of life came for a question of that time; one that was not asked for counts for
    /// nothing.
    pub(crate) fn pong(&mut self, now: Time, stamp: Time) {
        if self.pinged != (stamp, true) {
            return;
        }
        self.pinged.1 = false;
        let trip = now.since(stamp);
        // The shortest of late: what queues in front of the link does not count.
        let before = self.trip.unwrap_or(Duration::MAX);
        // It may grow by a quarter at a time, or a way that became longer would never be noticed.
        let trip = trip.min(before.saturating_mul(5) / 4);
        // Time-outs follow it: who answers late on purpose cannot make its own ones longer without
        // end.
        self.trip = Some(trip.min(self.patience.nothing));
    }

    /// Whether it is alive, as far as can be said. `taken` is when its link took something last,
    /// when there is more to take: a link that takes what is sent is slow, and not dead.
    pub(crate) fn look(&self, now: Time, taken: Option<Time>) -> Look {
        let Patience {
            hello,
            nothing,
            keep_alive,
            probe,
            alive,
            ..
        } = self.patience;
        if !self.ready {
            // Before its hello it owes nothing else.
            let by = self.since.after(hello);
            return if now >= by {
                Look::End("it did not say hello in time")
            } else {
                Look::Later(by)
            };
        }
        let mut by = Time::MAX;
        if let Some(taken) = taken {
            let end = taken.after(self.patience.stuck);
            if now >= end {
                return Look::End("it does not read what it asked for");
            }
            by = by.min(end);
        }
        if let Some(since) = self.waiting {
            let end = since.after(nothing);
            if now >= end {
                return Look::End("nothing came of what it offered");
            }
            by = by.min(end);
        }
        let (pinged, unanswered) = self.pinged;
        // Anything that came since is a sign of life, too.
        if unanswered && pinged >= self.heard {
            // While its link takes what is sent, the question may stand behind that.
            let since = taken.map_or(pinged, |taken| taken.max(pinged));
            let end = since.after(alive.max(self.round_trip() * 8));
            if now >= end {
                return Look::End("it was silent for too long");
            }
            return Look::Later(by.min(end));
        }
        // Who owes something is asked after a few round trips, who owes nothing now and then.
        let pause = if self.waiting.is_some() {
            probe.max(self.round_trip() * 2)
        } else {
            keep_alive
        };
        let ask = self.heard.max(pinged).after(pause);
        if now >= ask {
            return Look::Ping;
        }
        Look::Later(by.min(ask))
    }
}

/// A node that is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shunned {
    /// Until when.
    pub until: Time,
    /// Why.
    pub why: String,
}

/// All contacts of a node.
#[derive(Debug, Default)]
pub struct Contacts {
    all: BTreeMap<ContactNo, Box<Contact>>,
    shunned: BTreeMap<PublisherKey, Shunned>,
    sources: BTreeMap<SourceAddr, Work>,
}

/// Most nodes that are remembered as liars; the one whose time is over first goes.
const SHUNNED_MAX: usize = 4096;

impl Contacts {
    pub(crate) fn get(&self, no: ContactNo) -> Option<&Contact> {
        self.all.get(&no).map(|contact| &**contact)
    }

    pub(crate) fn get_mut(&mut self, no: ContactNo) -> Option<&mut Contact> {
        self.all.get_mut(&no).map(|contact| &mut **contact)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ContactNo, &Contact)> + '_ {
        self.all.iter().map(|(no, contact)| (*no, &**contact))
    }

    pub(crate) fn numbers(&self) -> Vec<ContactNo> {
        self.all.keys().copied().collect()
    }

    pub(crate) fn remove(&mut self, no: ContactNo) -> Option<Box<Contact>> {
        let gone = self.all.remove(&no)?;
        if let Some(source) = gone.source
            && !self.all.values().any(|other| other.source == Some(source))
        {
            // What a source used up is remembered for as long as a contact of it is there, so that
            // the number of sources is bounded by that of contacts.
            self.sources.remove(&source);
        }
        Some(gone)
    }

    /// Why a node is left alone, if it is.
    pub(crate) fn shunned(&self, node: &PublisherKey, now: Time) -> Option<&Shunned> {
        self.shunned.get(node).filter(|it| it.until > now)
    }

    /// Leaves a node alone.
    pub(crate) fn shun(&mut self, node: PublisherKey, until: Time, why: String, now: Time) {
        // Those whose time is over first. Keys cost nothing, so a liar may fill the rest.
        self.shunned.retain(|_, it| it.until > now);
        if self.shunned.len() >= SHUNNED_MAX {
            let first = self.shunned.iter().min_by_key(|(_, it)| it.until);
            if let Some(node) = first.map(|(node, _)| *node) {
                self.shunned.remove(&node);
            }
        }
        self.shunned.insert(node, Shunned { until, why });
    }

    /// Takes a contact in. Returns those that go for it, with the reason; or why it is refused.
    ///
    /// Inbound contacts that have proven nothing share a small pool, in which the oldest goes
    /// first, that of the same source before others. `own` is this node's key.
    pub(crate) fn admit(
        &mut self,
        no: ContactNo,
        arrival: Arrival,
        own: &PublisherKey,
        patience: &Patience,
        now: Time,
    ) -> Result<Vec<(ContactNo, String)>, String> {
        // First of all: who is left alone must not cost another contact its place.
        if let Some(shunned) = self.shunned(&arrival.node, now) {
            let why = &shunned.why;
            return Err(format!("this node is left alone for a while: {why}"));
        }
        let mut ends = Vec::new();
        if let Some(twin) = self.twin(&arrival, own, now)? {
            ends.push((twin, "there is another link to this node".to_owned()));
        }
        // What this node dials it has chosen itself: no other contact goes for it.
        if !arrival.dialled {
            let full = "too many nodes that have not said hello are waiting".to_owned();
            let oldest = self.oldest_unproven(arrival.source);
            // One that goes is counted once, or there would be one contact more than may be.
            let oldest = oldest.filter(|oldest| ends.iter().all(|(no, _)| no != oldest));
            ends.extend(oldest.map(|oldest| (oldest, full)));
        }
        // Those that go are still counted among all.
        if self.all.len() - ends.len() >= CONTACTS_MAX {
            return Err(format!("{CONTACTS_MAX} contacts are the limit"));
        }
        let contact = Contact::new(arrival, patience, now);
        self.all.insert(no, Box::new(contact));
        Ok(ends)
    }

    /// The other link to the same node that goes, if there is one. Both sides keep the link that
    /// the smaller key dialled when both dialled at once.
    fn twin(
        &self,
        arrival: &Arrival,
        own: &PublisherKey,
        now: Time,
    ) -> Result<Option<ContactNo>, String> {
        let same = |(_, other): &(ContactNo, &Contact)| other.node == arrival.node;
        let Some((no, other)) = self.iter().find(same) else {
            return Ok(None);
        };
        // Later the new one is right: nobody dials whom it still has a link to.
        let at_once = now.since(other.since) < AT_ONCE && other.dialled != arrival.dialled;
        if at_once && arrival.dialled != (*own < arrival.node) {
            return Err("there is another link to this node".into());
        }
        Ok(Some(no))
    }

    /// The inbound contact without a hello that goes for another one of `source`, if one has to.
    fn oldest_unproven(&self, source: Option<SourceAddr>) -> Option<ContactNo> {
        let unproven = || self.iter().filter(|(_, it)| !it.ready && !it.dialled);
        let oldest = |of_source: bool| {
            let some = unproven().filter(|(_, it)| !of_source || it.source == source);
            some.min_by_key(|(no, it)| (it.since, *no))
                .map(|(no, _)| no)
        };
        // A source that floods pays with its own links first.
        let of_source = unproven().filter(|(_, it)| it.source == source).count();
        if source.is_some() && of_source >= UNPROVEN_OF_SOURCE_MAX {
            return oldest(true);
        }
        (unproven().count() >= UNPROVEN_MAX).then(|| oldest(false))?
    }

    /// Why a contact that proved what was asked may not stay all the same: strangers that dial in
    /// leave slots for others, and each source for other sources.
    pub(crate) fn refusal(&self, no: ContactNo, is_known: bool) -> Option<String> {
        let contact = self.get(no)?;
        // The slots that are kept are for these.
        if contact.dialled || is_known {
            return None;
        }
        // The contact itself is not ready yet, and so not counted.
        let inbound = || self.iter().filter(|(_, it)| it.ready && !it.dialled);
        if inbound().count() >= CONTACTS_MAX - CONTACTS_KEPT {
            return Some("there are as many contacts as strangers may have".into());
        }
        let same = inbound().filter(|(_, it)| it.source == contact.source);
        if contact.source.is_some() && same.count() >= CONTACTS_OF_SOURCE_MAX {
            return Some(format!(
                "{CONTACTS_OF_SOURCE_MAX} contacts from one address are the limit"
            ));
        }
        None
    }

    /// Counts work that a contact caused. Returns for how long it is to be read no further.
    pub(crate) fn spend(&mut self, no: ContactNo, now: Time, micros: u64) -> Duration {
        let Some(contact) = self.all.get_mut(&no) else {
            return Duration::ZERO;
        };
        let own = contact.work.spend(now, micros);
        let Some(source) = contact.source else {
            return own;
        };
        let all = self.sources.entry(source);
        let all = all.or_insert_with(|| Work::of_source(now));
        // Both are used up: many contacts from one address have no more than its share.
        own.max(all.spend(now, micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: PublisherKey = PublisherKey([100; 32]);

    fn arrival(node: u8, dialled: bool, source: &str) -> Arrival {
        Arrival {
            node: PublisherKey([node; 32]),
            dialled,
            source: source.parse().ok().map(SourceAddr::of),
            profile: Profile::default(),
        }
    }

    fn admit(all: &mut Contacts, no: u32, it: Arrival, at: u64) -> Result<Vec<u32>, String> {
        let patience = Patience::new();
        let ends = all.admit(ContactNo(no), it, &OWN, &patience, Time::from_seconds(at))?;
        let ends: Vec<u32> = ends.iter().map(|(no, _)| no.0).collect();
        for end in &ends {
            all.remove(ContactNo(*end));
        }
        Ok(ends)
    }

    #[test]
    fn strangers_without_a_hello_make_room_for_each_other_only() {
        let mut all = Contacts::default();
        let honest = arrival(1, false, "10.0.0.1");
        assert_eq!(admit(&mut all, 0, honest, 0), Ok(vec![]));
        // One source floods: its own oldest goes, the honest one stays.
        for n in 0..200u32 {
            let it = Arrival {
                node: PublisherKey([101 + (n % 150) as u8; 32]),
                ..arrival(0, false, "10.0.0.2")
            };
            let gone = admit(&mut all, n + 1, it, 1).unwrap();
            assert!(!gone.contains(&0));
        }
        assert_eq!(all.iter().count(), 1 + UNPROVEN_OF_SOURCE_MAX);
        // What this node dials is let in whatever there is.
        assert_eq!(
            admit(&mut all, 900, arrival(2, true, "10.0.0.2"), 2),
            Ok(vec![])
        );
    }

    #[test]
    fn a_node_that_dials_again_replaces_its_link_and_two_dials_at_once_leave_one() {
        for (node, keeps_dialled) in [(1, false), (200, true)] {
            let mut all = Contacts::default();
            admit(&mut all, 0, arrival(node, true, "10.0.0.1"), 0).unwrap();
            let second = admit(&mut all, 1, arrival(node, false, "10.0.0.1"), 1);
            assert_eq!(second.is_err(), keeps_dialled, "{second:?}");
            // Later the new one is right whoever dialled: the other side has lost the old one.
            let later = admit(&mut all, 2, arrival(node, false, "10.0.0.1"), 60).unwrap();
            assert_eq!(later.len(), 1);
            assert_eq!(all.iter().count(), 1);
        }
    }

    #[test]
    fn one_source_leaves_slots_for_others_and_all_strangers_for_known_nodes() {
        let mut all = Contacts::default();
        let mut no = 0;
        let mut stay = |all: &mut Contacts, source: &str| {
            no += 1;
            let mut it = arrival(0, false, source);
            it.node.0[..4].copy_from_slice(&u32::to_le_bytes(no));
            admit(all, no, it, 0).unwrap();
            let why = all.refusal(ContactNo(no), false);
            let known = all.refusal(ContactNo(no), true);
            assert_eq!(known, None);
            match why {
                None => all.get_mut(ContactNo(no)).unwrap().ready = true,
                Some(_) => drop(all.remove(ContactNo(no))),
            }
            why.is_none()
        };
        let from_one = (0..300).filter(|_| stay(&mut all, "10.0.0.1")).count();
        assert_eq!(from_one, CONTACTS_OF_SOURCE_MAX);
        let from_many = (0..300).filter(|n| stay(&mut all, &format!("10.0.1.{}", n / 2)));
        assert_eq!(from_one + from_many.count(), CONTACTS_MAX - CONTACTS_KEPT);
    }

    #[test]
    fn a_dead_link_is_told_from_a_quiet_one() {
        let patience = Patience::new();
        let mut contact = Contact::new(arrival(1, true, "10.0.0.1"), &patience, Time(0));
        contact.ready = true;
        contact.trip = Some(Duration::from_millis(20));
        let second = Time::from_seconds;
        // Quiet: asked after ten seconds, and again.
        assert_eq!(contact.look(second(9), None), Look::Later(second(10)));
        assert_eq!(contact.look(second(10), None), Look::Ping);
        contact.ping(second(10));
        contact.hear(Time(second(10).0 + 20_000));
        contact.pong(Time(second(10).0 + 20_000), second(10));
        assert_eq!(contact.trip, Some(Duration::from_millis(20)));
        // It owes something: asked after half a second, dead five seconds later.
        contact.owes(second(11));
        assert_eq!(contact.look(second(11), None), Look::Ping);
        contact.ping(second(11));
        assert!(matches!(contact.look(second(15), None), Look::Later(_)));
        assert!(matches!(contact.look(second(16), None), Look::End(_)));
        // A link that still takes what is sent is slow.
        let taken = Some(second(15));
        assert!(matches!(contact.look(second(16), taken), Look::Later(_)));
    }
}
