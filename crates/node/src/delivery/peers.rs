//! Whom to meet: nodes that were named, nodes that were found, and when to dial them again.

use std::net::SocketAddr;
use std::time::Duration;

use lavant_proto::contact::Stats;
use lavant_proto::delivery::ContactInfo;
use lavant_proto::ids::PublisherKey;
use lavant_proto::numbers::ContactNo;
use lavant_proto::time::Time;

use crate::link::{LinkKind, Target};

/// The first pause after a dial that failed. It doubles up to a longest one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause before a node that may come back at any moment: a contact with it has just
/// ended, or this machine's network has just changed. To dial it costs a packet.
const PAUSE_MAX_SOON: Duration = Duration::from_secs(1);
/// The longest pause before a node that the operator named.
const PAUSE_MAX_NAMED: Duration = Duration::from_secs(5);
/// The longest pause before a node that was found, or that ends each contact at once.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// For how long after its contact ended, or after the network changed, a node is expected soon.
const SOON: Duration = Duration::from_secs(120);
/// Pause after a contact ended.
const PAUSE_AFTER_CONTACT: Duration = Duration::from_millis(500);
/// Most peers that are remembered.
pub(super) const PEERS_MAX: usize = 1024;
/// Most of them that dialled in and went without a hello.
const STRANGERS_MAX: usize = 32;

/// How a peer came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was named by `--peer` or through the API.
    Named,
    /// It was found on the network.
    Found,
    /// It dialled this node.
    Incoming,
}

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// A contact is up.
    Connected,
    /// It is being dialled.
    Dialling,
    /// It will be dialled again.
    Waiting,
    /// It is not dialled.
    Away,
}

/// A node that this one meets, or tries to.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its number in this node.
    pub id: u32,
    /// How it came to be known.
    pub source: Source,
    /// As it was named.
    pub target: Option<Target>,
    /// Its key, once known.
    pub node: Option<PublisherKey>,
    /// Its name, once it said it.
    pub name: String,
    /// Where it was found.
    pub addresses: Vec<SocketAddr>,
    /// What carries the contact, and where the other side is.
    pub link: Option<(LinkKind, SocketAddr)>,
    /// How it is.
    pub state: PeerState,
    /// Why the last dial or contact failed.
    pub error: Option<String>,
    /// Dials that failed since the last contact.
    pub failures: u32,
    /// When it is dialled next.
    pub next: Option<Time>,
    /// When a contact was last up.
    pub last_seen: Option<Time>,
    /// Counts of all contacts.
    pub stats: Stats,
    /// The time of a round trip.
    pub round_trip: Option<Duration>,
    /// Bytes a second that arrive.
    pub rate: u64,
    /// Its contacts, the newest at the end: two for a moment when both sides dial at once.
    live: Vec<Live>,
    /// Counts of contacts that ended.
    before: Stats,
    /// Until when it is to be left alone.
    not_before: Time,
    /// Until when it is expected to come back.
    soon_until: Time,
    /// Contacts that ended before they gave anything, without one between that did.
    useless: u32,
}

/// A contact that is up.
#[derive(Clone, Debug)]
struct Live {
    no: ContactNo,
    link: (LinkKind, SocketAddr),
    stats: Stats,
    /// Both sides have said hello, and this one let the other in.
    ready: bool,
}

fn sum(a: Stats, b: Stats) -> Stats {
    Stats {
        received: a.received + b.received,
        sent: a.sent + b.sent,
        duplicate: a.duplicate + b.duplicate,
        segments: a.segments + b.segments,
        ignored: a.ignored + b.ignored,
    }
}

impl Peer {
    fn new(source: Source) -> Self {
        Self {
            id: 0,
            source,
            target: None,
            node: None,
            name: String::new(),
            addresses: Vec::new(),
            link: None,
            state: PeerState::Away,
            error: None,
            failures: 0,
            next: None,
            last_seen: None,
            stats: Stats::default(),
            round_trip: None,
            rate: 0,
            live: Vec::new(),
            before: Stats::default(),
            not_before: Time(0),
            soon_until: Time(0),
            useless: 0,
        }
    }

    /// How long to wait after so many failures.
    fn pause(&self, now: Time) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        // First: a node that takes each contact and ends it at once must not be dialled each
        // second.
        let longest = if self.useless > 0 {
            PAUSE_MAX
        } else if now < self.soon_until {
            PAUSE_MAX_SOON
        } else if self.target.is_some() {
            PAUSE_MAX_NAMED
        } else {
            PAUSE_MAX
        };
        // 100 ms doubled 16 times is far above the longest pause, and does not overflow.
        let doublings = (self.failures - 1).min(16);
        (PAUSE_MIN * 2u32.saturating_pow(doublings)).min(longest)
    }

    /// Has it dialled at once, and again soon, unless it is met already.
    fn hurry(&mut self, now: Time) {
        (self.failures, self.useless) = (0, 0);
        self.soon_until = now.after(SOON);
        // One that is being dialled is left: the dial itself begins anew when the network changes.
        // A node that lied is left alone all the same.
        if self.state == PeerState::Waiting {
            self.next = Some(now.max(self.not_before));
        }
    }

    /// As a person would name it.
    #[must_use]
    pub fn label(&self) -> String {
        let found = || self.addresses.first().map(ToString::to_string);
        let link = || self.link.map(|(_, address)| address.to_string());
        let named = self.target.as_ref().map(ToString::to_string);
        named.or_else(link).or_else(found).unwrap_or_default()
    }
}

/// How to dial.
#[derive(Clone, Debug)]
pub(super) enum Dial {
    Target(Target),
    Key(PublisherKey, Vec<SocketAddr>),
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) all: Vec<Peer>,
    /// Peers that were removed while they were dialled.
    removed: Vec<u32>,
    next_id: u32,
    random: u64,
}

impl Peers {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            all: Vec::new(),
            removed: Vec::new(),
            next_id: 0,
            random: seed,
        }
    }

    fn push(&mut self, mut peer: Peer) -> usize {
        peer.id = self.next_id;
        self.next_id += 1;
        self.all.push(peer);
        self.all.len() - 1
    }

    fn at(&self, id: u32) -> Option<usize> {
        self.all.iter().position(|peer| peer.id == id)
    }

    /// An address of this machine came to be usable: nodes that were named are dialled at once.
    /// Discovery tells again of those that were found.
    pub(super) fn network_came(&mut self, now: Time) {
        let named = self.all.iter_mut().filter(|peer| peer.target.is_some());
        named.for_each(|peer| peer.hurry(now));
    }

    /// Adds a named peer, to be dialled at once. False when it is there already; it is then dialled
    /// at once, too.
    pub(super) fn name(&mut self, target: Target, now: Time) -> bool {
        let same = |peer: &&mut Peer| peer.target.as_ref() == Some(&target);
        if let Some(peer) = self.all.iter_mut().find(same) {
            peer.hurry(now);
            return false;
        }
        if self.all.len() >= PEERS_MAX {
            return false;
        }
        let node = target.key;
        self.push(Peer {
            target: Some(target),
            node,
            state: PeerState::Waiting,
            next: Some(now),
            ..Peer::new(Source::Named)
        });
        true
    }

    /// Forgets a named peer. Returns its contacts; none when it was not named.
    pub(super) fn forget(&mut self, target: &Target) -> Option<Vec<ContactNo>> {
        let at = self
            .all
            .iter()
            .position(|peer| peer.target.as_ref() == Some(target))?;
        let peer = self.all.remove(at);
        if peer.state == PeerState::Dialling {
            self.removed.push(peer.id);
        }
        Some(peer.live.iter().map(|live| live.no).collect())
    }

    /// A dial ended: whether its peer was removed meanwhile.
    pub(super) fn was_removed(&mut self, id: u32) -> bool {
        let at = self.removed.iter().position(|removed| *removed == id);
        at.map(|at| self.removed.swap_remove(at)).is_some()
    }

    /// A node was found on the network.
    pub(super) fn found(&mut self, node: PublisherKey, addresses: Vec<SocketAddr>, soon: Time) {
        let at = self.all.iter().position(|peer| peer.node == Some(node));
        if let Some(at) = at {
            let peer = &mut self.all[at];
            peer.addresses = addresses;
            // One that is being dialled gets the new addresses with its next dial.
            if peer.live.is_empty() && peer.state != PeerState::Dialling {
                // An announcement is not signed: whoever sends it for a node that lied does not
                // bring it back.
                let soon = soon.max(peer.not_before);
                (peer.state, peer.next) = (PeerState::Waiting, Some(soon));
                (peer.failures, peer.useless) = (0, 0);
                peer.soon_until = soon.after(SOON);
            }
            return;
        }
        if self.all.len() < PEERS_MAX {
            self.push(Peer {
                node: Some(node),
                addresses,
                state: PeerState::Waiting,
                next: Some(soon),
                ..Peer::new(Source::Found)
            });
        }
    }

    /// A node is not heard of any more on the network.
    pub(super) fn lost(&mut self, node: &PublisherKey) {
        // Named ones are dialled on, and contacts that are up need no announcement.
        self.all.retain(|peer| {
            peer.node != Some(*node) || peer.source != Source::Found || !peer.live.is_empty()
        });
    }

    /// A contact came up. `id` is the peer that was dialled.
    pub(super) fn up(
        &mut self,
        id: Option<u32>,
        node: PublisherKey,
        contact: ContactNo,
        link: (LinkKind, SocketAddr),
        now: Time,
    ) {
        // A node that dialled in may be one that was named or found.
        let known = || self.all.iter().position(|peer| peer.node == Some(node));
        // It may have been lost from the network while it was dialled, which the link disproves.
        let at = id.and_then(|id| self.at(id)).or_else(known);
        let at = at.unwrap_or_else(|| {
            self.forget_strangers();
            self.push(Peer::new(Source::Incoming))
        });
        let peer = &mut self.all[at];
        peer.node = Some(node);
        peer.live.push(Live {
            no: contact,
            link,
            stats: Stats::default(),
            ready: false,
        });
        (peer.link, peer.last_seen) = (Some(link), Some(now));
        (peer.state, peer.next) = (PeerState::Connected, None);
        // Only now is it known which node a target without a key is.
        self.merge(at);
    }

    /// Makes room for one more that dialled in: those that went without a hello are remembered for
    /// a while only, so that a flood of them shows and takes nobody's place.
    fn forget_strangers(&mut self) {
        let gone = |peer: &Peer| peer.source == Source::Incoming && peer.live.is_empty();
        // Only a hello brings a name. Strangers have a small part of the list, so that nodes which
        // were met stay in it.
        let stranger = |peer: &Peer| gone(peer) && peer.name.is_empty();
        let oldest = if self.all.iter().filter(|peer| stranger(peer)).count() >= STRANGERS_MAX {
            self.all.iter().position(stranger)
        } else if self.all.len() >= PEERS_MAX {
            self.all.iter().position(gone)
        } else {
            None
        };
        if let Some(oldest) = oldest {
            self.all.remove(oldest);
        }
    }

    /// Makes one of a named peer and an entry that turned out to be the same node.
    fn merge(&mut self, at: usize) {
        let Peer { id, node, .. } = self.all[at];
        let same = |peer: &Peer| peer.node == node && peer.id != id && peer.target.is_none();
        let Some(other) = self.all.iter().position(same) else {
            return;
        };
        let other = self.all.remove(other);
        if let Some(peer) = self.all.iter_mut().find(|peer| peer.id == id) {
            // In front, as the newest is at the end.
            peer.live.splice(..0, other.live);
            peer.before = sum(peer.before, other.before);
            peer.stats = sum(peer.stats, other.stats);
            if peer.addresses.is_empty() {
                peer.addresses = other.addresses;
            }
            if peer.name.is_empty() {
                peer.name = other.name;
            }
        }
    }

    /// The peer of a contact, and the contact's place among the peer's.
    fn of(&mut self, contact: ContactNo) -> Option<(&mut Peer, usize)> {
        self.all.iter_mut().find_map(|peer| {
            let at = peer.live.iter().position(|live| live.no == contact)?;
            Some((peer, at))
        })
    }

    /// A contact has proven what is asked of it.
    pub(super) fn ready(&mut self, contact: ContactNo) {
        if let Some((peer, at)) = self.of(contact) {
            peer.live[at].ready = true;
        }
    }

    /// A contact ended.
    pub(super) fn down(&mut self, contact: ContactNo, why: String, now: Time) {
        // Spread, or two nodes that lost each other would dial at the same moment, again and again.
        let pause = PAUSE_AFTER_CONTACT + self.jitter(PAUSE_AFTER_CONTACT);
        let Some((peer, at)) = self.of(contact) else {
            return;
        };
        let ended = peer.live.remove(at);
        peer.before = sum(peer.before, ended.stats);
        // The twin of two links that were made at once has ended: the contact goes on.
        if let Some(live) = peer.live.last() {
            peer.link = Some(live.link);
            return;
        }
        // A contact that was not let in on both sides is as good as a dial that failed. One that
        // was before may be cut in the middle of it, over and over, on a bad link.
        let useless = !ended.ready && peer.name.is_empty();
        if useless {
            (peer.failures, peer.useless) = (peer.failures + 1, peer.useless + 1);
        } else {
            (peer.failures, peer.useless) = (0, 0);
            peer.soon_until = now.after(SOON);
        }
        peer.error = Some(why);
        (peer.round_trip, peer.rate) = (None, 0);
        peer.last_seen = Some(now);
        let pause = pause.max(peer.pause(now));
        wait(peer, now.after(pause));
    }

    /// A dial failed.
    pub(super) fn failed(&mut self, id: u32, why: String, now: Time) {
        let share = self.jitter(PAUSE_MIN);
        let Some(peer) = self.all.iter_mut().find(|peer| peer.id == id) else {
            return;
        };
        peer.failures = peer.failures.saturating_add(1);
        peer.error = Some(why);
        let pause = peer.pause(now);
        // Up to a quarter more, so that nodes that lost each other do not dial in step.
        let extra = pause.mul_f64(share.as_secs_f64() / PAUSE_MIN.as_secs_f64() / 4.0);
        wait(peer, now.after(pause + extra));
    }

    /// A peer that is not to be dialled before then.
    pub(super) fn leave(&mut self, contact: ContactNo, until: Time) {
        if let Some((peer, _)) = self.of(contact) {
            peer.next = Some(until);
            peer.not_before = until;
        }
    }

    /// Takes a peer that is due out for dialling.
    pub(super) fn due(&mut self, now: Time) -> Option<(u32, Dial)> {
        // Two targets may lead to the same node, and one contact with it is enough.
        let connected: Vec<PublisherKey> = self
            .all
            .iter()
            .filter(|peer| !peer.live.is_empty())
            .filter_map(|peer| peer.node)
            .collect();
        for peer in &mut self.all {
            let due = peer.state == PeerState::Waiting && peer.next.is_some_and(|next| next <= now);
            if !due {
                continue;
            }
            if peer.node.is_some_and(|node| connected.contains(&node)) {
                // Looked at again after 30 s: that contact may have ended by then.
                peer.next = Some(now.after(PAUSE_MAX / 10));
                continue;
            }
            let dial = match (&peer.target, peer.node) {
                (Some(target), _) => Dial::Target(target.clone()),
                (None, Some(node)) => Dial::Key(node, peer.addresses.clone()),
                (None, None) => continue,
            };
            (peer.state, peer.next) = (PeerState::Dialling, None);
            return Some((peer.id, dial));
        }
        None
    }

    /// When the next peer is due.
    pub(super) fn next(&self) -> Option<Time> {
        let waiting = self
            .all
            .iter()
            .filter(|peer| peer.state == PeerState::Waiting);
        waiting.filter_map(|peer| peer.next).min()
    }

    /// Takes over the counts of a contact.
    pub(super) fn counted(&mut self, contact: ContactNo, stats: Stats) {
        if let Some((peer, at)) = self.of(contact) {
            peer.live[at].stats = stats;
            let live = peer.live.iter().map(|live| live.stats);
            peer.stats = live.fold(peer.before, sum);
        }
    }

    /// Takes over how a contact is.
    pub(super) fn count(&mut self, info: &ContactInfo) {
        self.counted(info.contact, info.stats);
        let Some((peer, _)) = self.of(info.contact) else {
            return;
        };
        // What a contact says before it has proven the token is not shown.
        if info.ready {
            peer.name.clone_from(&info.name);
            peer.round_trip = info.round_trip;
            peer.error = None;
        }
        peer.rate = info.rate;
    }

    /// Up to `most`, by SplitMix64.
    fn jitter(&mut self, most: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
        most.mul_f64((z >> 40) as f64 / (1u64 << 24) as f64)
    }
}

fn wait(peer: &mut Peer, until: Time) {
    // Nobody knows where a node listens that only dialled in.
    let dialled = peer.target.is_some() || !peer.addresses.is_empty();
    if dialled {
        (peer.state, peer.next) = (
            PeerState::Waiting,
            Some(until.max(peer.next.unwrap_or_default())),
        );
    } else {
        (peer.state, peer.next) = (PeerState::Away, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_a_contact_ends_them() {
        let mut peers = Peers::new(1);
        let target: Target = "ship:7778".parse().unwrap();
        let mut now = Time::from_seconds(100);
        assert!(peers.name(target.clone(), now));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let (id, _) = peers.due(now).expect("it is due");
            assert!(peers.due(now).is_none(), "it is being dialled");
            peers.failed(id, "no answer".into(), now);
            let next = peers.next().unwrap();
            pauses.push(next.since(now));
            now = next;
        }
        assert!(pauses[0] >= PAUSE_MIN && pauses[0] < PAUSE_MIN * 2);
        assert!(pauses[3] >= PAUSE_MIN * 8);
        let longest = PAUSE_MAX_NAMED;
        assert!(pauses[11] <= longest * 5 / 4 && pauses[11] >= longest);
        let (id, _) = peers.due(now).unwrap();
        let node = PublisherKey([1; 32]);
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.up(Some(id), node, ContactNo(1), link, now);
        peers.all[0].name = "ship".into();
        peers.down(ContactNo(1), "cut".into(), now);
        assert!(peers.next().unwrap().since(now) <= PAUSE_AFTER_CONTACT * 2);
        assert_eq!(peers.all[0].failures, 0);
        assert_eq!(peers.forget(&target), Some(Vec::new()));
        assert!(peers.all.is_empty());
    }

    /// The pause after a node was dialled in vain for so many times.
    fn pause_after(peers: &mut Peers, dials: usize, now: &mut Time) -> Duration {
        let mut pause = Duration::ZERO;
        for _ in 0..dials {
            *now = peers.next().unwrap();
            let (id, _) = peers.due(*now).unwrap();
            peers.failed(id, "no answer".into(), *now);
            pause = peers.next().unwrap().since(*now);
        }
        pause
    }

    #[test]
    fn a_node_that_was_met_or_may_be_there_again_is_dialled_often() {
        let mut peers = Peers::new(1);
        let target: Target = "ship:7778".parse().unwrap();
        let mut now = Time::from_seconds(100);
        peers.name(target.clone(), now);
        assert!(pause_after(&mut peers, 12, &mut now) >= PAUSE_MAX_NAMED);
        peers.network_came(now);
        assert_eq!(peers.next(), Some(now), "at once");
        let first = pause_after(&mut peers, 1, &mut now);
        assert!(first <= PAUSE_MIN * 5 / 4, "{first:?}");
        assert!(pause_after(&mut peers, 20, &mut now) <= PAUSE_MAX_SOON * 5 / 4);
        assert!(pause_after(&mut peers, 150, &mut now) >= PAUSE_MAX_NAMED);
        now = peers.next().unwrap();
        let (id, _) = peers.due(now).unwrap();
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.up(Some(id), PublisherKey([1; 32]), ContactNo(1), link, now);
        peers.count(&info(1, 100));
        peers.down(ContactNo(1), "cut".into(), now);
        assert!(pause_after(&mut peers, 20, &mut now) <= PAUSE_MAX_SOON * 5 / 4);
    }

    #[test]
    fn a_node_that_was_met_is_expected_soon_although_nobody_looked_at_it_meanwhile() {
        let mut peers = Peers::new(1);
        let now = Time::from_seconds(100);
        peers.name("ship:7778".parse().unwrap(), now);
        let (id, _) = peers.due(now).unwrap();
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.up(Some(id), PublisherKey([1; 32]), ContactNo(1), link, now);
        peers.ready(ContactNo(1));
        peers.down(ContactNo(1), "it is silent".into(), now);
        assert_eq!(peers.all[0].failures, 0);
        let mut then = now;
        assert!(pause_after(&mut peers, 20, &mut then) <= PAUSE_MAX_SOON * 5 / 4);
        peers.up(None, PublisherKey([1; 32]), ContactNo(2), link, then);
        let last = info(2, 100).stats;
        peers.counted(ContactNo(2), last);
        peers.down(ContactNo(2), "it is silent".into(), then);
        assert_eq!(peers.all[0].stats, last);
    }

    #[test]
    fn a_node_that_refuses_or_lied_is_not_dialled_often() {
        let mut peers = Peers::new(1);
        let target: Target = "ship:7778".parse().unwrap();
        let mut now = Time::from_seconds(100);
        peers.name(target.clone(), now);
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        for number in 0..14 {
            now = peers.next().unwrap();
            let (id, _) = peers.due(now).unwrap();
            peers.up(
                Some(id),
                PublisherKey([1; 32]),
                ContactNo(number),
                link,
                now,
            );
            peers.down(ContactNo(number), "its token is another one".into(), now);
        }
        assert!(peers.next().unwrap().since(now) >= PAUSE_MAX);
        now = peers.next().unwrap();
        let (id, _) = peers.due(now).unwrap();
        peers.up(Some(id), PublisherKey([1; 32]), ContactNo(99), link, now);
        let until = now.after(PAUSE_MAX * 2);
        peers.leave(ContactNo(99), until);
        peers.down(ContactNo(99), "it lied".into(), now);
        peers.name(target, now);
        assert_eq!(peers.next(), Some(until), "also when the network changes");
    }

    #[test]
    fn a_node_that_lied_is_left_alone_also_when_it_is_found_again() {
        let mut peers = Peers::new(1);
        let (node, now) = (PublisherKey([1; 32]), Time::from_seconds(5));
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.found(node, vec![link.1], now);
        let (id, _) = peers.due(now).unwrap();
        peers.up(Some(id), node, ContactNo(1), link, now);
        let until = now.after(PAUSE_MAX * 2);
        peers.leave(ContactNo(1), until);
        peers.down(ContactNo(1), "it lied".into(), now);
        peers.found(node, vec![link.1], now.after(SOON));
        assert_eq!(peers.next(), Some(until));
        peers.found(node, vec![link.1], until.after(SOON));
        assert_eq!(peers.next(), Some(until.after(SOON)));
    }

    #[test]
    fn a_peer_that_is_removed_while_it_is_dialled_stays_away() {
        let mut peers = Peers::new(1);
        let now = Time::from_seconds(5);
        let target: Target = "ship:7778".parse().unwrap();
        peers.name(target.clone(), now);
        let (id, _) = peers.due(now).unwrap();
        assert_eq!(peers.forget(&target), Some(Vec::new()));
        assert!(peers.was_removed(id));
        assert!(!peers.was_removed(id), "it is dialled once");
        // Named again, it is another one.
        peers.name(target.clone(), now);
        assert!(!peers.was_removed(peers.all[0].id));
        peers.forget(&target);
        assert!(peers.removed.is_empty(), "it was not being dialled");
    }

    #[test]
    fn strangers_that_come_and_go_take_nobodys_place() {
        let mut peers = Peers::new(1);
        let now = Time::from_seconds(5);
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.name("ship:7778".parse().unwrap(), now);
        peers.up(None, PublisherKey([1; 32]), ContactNo(0), link, now);
        peers.count(&info(0, 100));
        peers.down(ContactNo(0), "it stops".into(), now);
        for number in 1..5000u32 {
            let mut node = [7; 32];
            node[..4].copy_from_slice(&number.to_le_bytes());
            peers.up(None, PublisherKey(node), ContactNo(number), link, now);
            peers.down(ContactNo(number), "it said nothing".into(), now);
        }
        assert!(peers.all.len() <= 2 + STRANGERS_MAX, "{}", peers.all.len());
        assert!(peers.all.iter().any(|peer| peer.target.is_some()));
        assert!(peers.all.iter().any(|peer| peer.name == "ship"));
    }

    #[test]
    fn a_node_that_is_connected_is_not_dialled_again() {
        let mut peers = Peers::new(1);
        let (node, now) = (PublisherKey([1; 32]), Time::from_seconds(5));
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.up(None, node, ContactNo(1), link, now);
        peers.found(node, vec!["10.0.0.1:7778".parse().unwrap()], now);
        assert!(peers.due(now).is_none());
        peers.down(ContactNo(1), "cut".into(), now);
        assert!(peers.due(now.after(PAUSE_AFTER_CONTACT * 5)).is_some());
    }

    fn info(contact: u32, received: u64) -> ContactInfo {
        ContactInfo {
            contact: ContactNo(contact),
            node: PublisherKey([1; 32]),
            name: "ship".into(),
            ready: true,
            since: Time(0),
            round_trip: Some(Duration::ZERO),
            rate: 0,
            wanted: 0,
            stats: Stats {
                received,
                ..Stats::default()
            },
        }
    }

    #[test]
    fn a_second_link_to_a_node_changes_nothing_when_it_ends() {
        let mut peers = Peers::new(1);
        let (node, now) = (PublisherKey([1; 32]), Time::from_seconds(5));
        let link = |port| (LinkKind::Tcp, SocketAddr::from(([10, 0, 0, 1], port)));
        peers.found(node, vec![link(7778).1], now);
        peers.up(None, node, ContactNo(1), link(1), now);
        peers.count(&info(1, 100));
        peers.up(None, node, ContactNo(2), link(2), now);
        peers.down(ContactNo(2), "there is another link".into(), now);
        let [peer] = &peers.all[..] else {
            panic!("{peers:?}");
        };
        assert_eq!(
            (peer.state, peer.link),
            (PeerState::Connected, Some(link(1)))
        );
        assert_eq!((peer.stats.received, &peer.error), (100, &None));
        assert!(peers.due(now.after(PAUSE_MAX * 2)).is_none());
    }

    #[test]
    fn a_named_peer_that_is_a_known_node_is_one_with_it() {
        let mut peers = Peers::new(1);
        let (node, now) = (PublisherKey([1; 32]), Time::from_seconds(5));
        let link = |port| (LinkKind::Tcp, SocketAddr::from(([10, 0, 0, 1], port)));
        peers.found(node, vec![link(7778).1], now);
        let (found, _) = peers.due(now).unwrap();
        peers.up(Some(found), node, ContactNo(1), link(1), now);
        peers.count(&info(1, 100));
        peers.name("ship:7778".parse().unwrap(), now);
        let (named, _) = peers.due(now).unwrap();
        peers.up(Some(named), node, ContactNo(2), link(2), now);
        peers.down(ContactNo(1), "another link took its place".into(), now);
        peers.count(&info(2, 50));
        let [peer] = &peers.all[..] else {
            panic!("{peers:?}");
        };
        assert_eq!(
            (peer.label().as_str(), peer.name.as_str()),
            ("ship:7778", "ship")
        );
        assert_eq!(
            (peer.state, peer.stats.received),
            (PeerState::Connected, 150)
        );
        assert_eq!(
            peers.forget(&"ship:7778".parse().unwrap()),
            Some(vec![ContactNo(2)])
        );
    }
}
