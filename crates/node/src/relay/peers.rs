//! Whom to meet: nodes that were named, nodes that were found, and when to dial them again.

use std::net::SocketAddr;
use std::time::Duration;

use lavant_proto::ids::PublisherKey;
use lavant_proto::relay::{ContactNo, Stats};
use lavant_proto::time::Time;

use crate::link::{LinkKind, Target};

/// The first pause after a dial that failed, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Pause after a contact ended.
const PAUSE_AFTER_CONTACT: Duration = Duration::from_millis(500);
/// Most peers that are remembered.
pub(super) const PEERS_MAX: usize = 1024;

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
    pub(super) contact: Option<ContactNo>,
    /// Counts of contacts that ended.
    before: Stats,
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
            contact: None,
            before: Stats::default(),
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
    next_id: u32,
    random: u64,
}

impl Peers {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            all: Vec::new(),
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

    /// Adds a named peer, to be dialled at once. False when it is there already.
    pub(super) fn name(&mut self, target: Target, now: Time) -> bool {
        let same = |peer: &Peer| peer.target.as_ref() == Some(&target);
        if self.all.iter().any(same) || self.all.len() >= PEERS_MAX {
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

    /// Forgets a named peer. Returns its contact, if one is up.
    pub(super) fn forget(&mut self, target: &Target) -> Option<Option<ContactNo>> {
        let at = self
            .all
            .iter()
            .position(|peer| peer.target.as_ref() == Some(target))?;
        Some(self.all.remove(at).contact)
    }

    /// A node was found on the network.
    pub(super) fn found(&mut self, node: PublisherKey, addresses: Vec<SocketAddr>, soon: Time) {
        let at = self.all.iter().position(|peer| peer.node == Some(node));
        if let Some(at) = at {
            let peer = &mut self.all[at];
            peer.addresses = addresses;
            if peer.contact.is_none() && peer.state != PeerState::Dialling {
                (peer.state, peer.next) = (PeerState::Waiting, Some(soon));
                peer.failures = 0;
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
        self.all.retain(|peer| {
            peer.node != Some(*node) || peer.source != Source::Found || peer.contact.is_some()
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
        let known = || self.all.iter().position(|peer| peer.node == Some(node));
        let at = id.and_then(|id| self.at(id)).or_else(known);
        let at = at.unwrap_or_else(|| {
            let idle = |peer: &Peer| peer.source == Source::Incoming && peer.contact.is_none();
            if self.all.len() >= PEERS_MAX
                && let Some(oldest) = self.all.iter().position(idle)
            {
                self.all.remove(oldest);
            }
            self.push(Peer::new(Source::Incoming))
        });
        let peer = &mut self.all[at];
        peer.node = Some(node);
        (peer.state, peer.contact) = (PeerState::Connected, Some(contact));
        (peer.link, peer.last_seen) = (Some(link), Some(now));
        peer.next = None;
    }

    /// A contact ended.
    pub(super) fn down(&mut self, contact: ContactNo, why: String, now: Time) {
        let pause = PAUSE_AFTER_CONTACT + self.jitter(PAUSE_AFTER_CONTACT);
        let Some(peer) = self
            .all
            .iter_mut()
            .find(|peer| peer.contact == Some(contact))
        else {
            return;
        };
        // A contact that gave nothing is as good as a dial that failed.
        let useless = peer.name.is_empty() && peer.stats == peer.before;
        peer.failures = if useless { peer.failures + 1 } else { 0 };
        peer.before = peer.stats;
        (peer.contact, peer.error) = (None, Some(why));
        (peer.round_trip, peer.rate) = (None, 0);
        peer.last_seen = Some(now);
        let pause = pause.max(pause_after(peer.failures));
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
        let pause = pause_after(peer.failures);
        // Up to a quarter more, so that nodes that lost each other do not dial in step.
        let extra = pause.mul_f64(share.as_secs_f64() / PAUSE_MIN.as_secs_f64() / 4.0);
        wait(peer, now.after(pause + extra));
    }

    /// A peer that is not to be dialled before then.
    pub(super) fn leave(&mut self, contact: ContactNo, until: Time) {
        if let Some(peer) = self
            .all
            .iter_mut()
            .find(|peer| peer.contact == Some(contact))
        {
            peer.next = Some(until);
        }
    }

    /// Takes a peer that is due out for dialling.
    pub(super) fn due(&mut self, now: Time) -> Option<(u32, Dial)> {
        let connected: Vec<PublisherKey> = self
            .all
            .iter()
            .filter(|peer| peer.contact.is_some())
            .filter_map(|peer| peer.node)
            .collect();
        for peer in &mut self.all {
            let due = peer.state == PeerState::Waiting && peer.next.is_some_and(|next| next <= now);
            if !due {
                continue;
            }
            if peer.node.is_some_and(|node| connected.contains(&node)) {
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

    /// Takes over what a contact counts.
    pub(super) fn count(&mut self, info: &lavant_proto::relay::ContactInfo) {
        let found = self
            .all
            .iter_mut()
            .find(|peer| peer.contact == Some(info.contact));
        let Some(peer) = found else {
            return;
        };
        let (before, now) = (peer.before, info.stats);
        peer.stats = Stats {
            received: before.received + now.received,
            sent: before.sent + now.sent,
            duplicate: before.duplicate + now.duplicate,
            segments: before.segments + now.segments,
        };
        if info.ready {
            peer.name.clone_from(&info.name);
            peer.round_trip = Some(info.round_trip);
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

fn pause_after(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    (PAUSE_MIN * 2u32.saturating_pow((failures - 1).min(16))).min(PAUSE_MAX)
}

fn wait(peer: &mut Peer, until: Time) {
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
        assert!(!peers.name(target.clone(), now), "a peer is named once");
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
        assert!(pauses[11] <= PAUSE_MAX * 5 / 4 && pauses[11] >= PAUSE_MAX);
        let (id, _) = peers.due(now).unwrap();
        let node = PublisherKey([1; 32]);
        let link = (LinkKind::Tcp, "127.0.0.1:1".parse().unwrap());
        peers.up(Some(id), node, ContactNo(1), link, now);
        peers.all[0].name = "ship".into();
        peers.down(ContactNo(1), "cut".into(), now);
        assert!(peers.next().unwrap().since(now) <= PAUSE_AFTER_CONTACT * 2);
        assert_eq!(peers.all[0].failures, 0);
        assert_eq!(peers.forget(&target), Some(None));
        assert!(peers.all.is_empty());
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
}
