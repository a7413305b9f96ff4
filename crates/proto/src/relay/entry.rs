//! What this node knows of one content: what is here, what is on its way, what is refused.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Range};
use std::time::Duration;

use super::evict::EVERYWHERE;
use super::message::{ManifestHint, Question, TRACKS_MAX, TrackName};
use super::rarity::{Rarity, Said, Share};
use super::reconcile::{Item, Point};
use super::session::Remote;
use crate::content::{Kind, Priority};
use crate::delivery::{Config, Facts};
use crate::ids::{ContentKey, PublisherKey, Signature};
use crate::numbers::{ContactNo, TrackNo};
use crate::piece::{PieceNo, Pieces};
use crate::runs::{Run, SequenceRun, SequenceRuns};
use crate::time::Time;
use crate::wire::Writer;

/// Of how many other nodes it is remembered what they have of a track.
const ELSEWHERE_MAX: usize = 32;
/// For how long a viewer is taken to go on watching after its last request.
const WATCHED: Duration = Duration::from_secs(120);
/// Of how many viewers of a content the playhead is remembered.
const PLAYHEADS_MAX: usize = 8;
/// A request for a segment so far ahead of a playhead is that viewer's next.
const STEP_MAX: u64 = 8;

/// The place of a content among those that are fetched: by urgency, then by how rare is what a
/// contact has of it, then by an order that differs from node to node, so that nodes get different
/// contents first and have them for each other.
pub(super) type Rank = (u8, Share, u32);

/// A content.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: ContentKey,
    /// A hash of the key, which each contact has looked at.
    pub(super) name: [u8; 16],
    /// Its place among contents of the same urgency.
    order: u32,
    pub(super) priority: Priority,
    pub(super) expires: Time,
    /// Hash and time of the manifest that the store has.
    pub(super) manifest: Option<([u8; 32], Time)>,
    pub(super) tracks: Vec<Track>,
    /// It is not to be fetched: it was removed here, or what was said of it cannot be.
    pub(super) refused: bool,
    /// The nodes that it is for, as the manifest says, or a contact until it is known.
    pub(super) to: Vec<PublisherKey>,
    /// The store has it.
    pub(super) stored: bool,
    /// Where viewers are, and until when that counts; who asked last is at the end.
    playheads: Vec<(u64, Time)>,
    pub(super) hops: u8,
    /// How many copies this node may still make, itself included, where copies are counted.
    pub(super) copies_left: u16,
    pub(super) upgrade: Option<Box<Upgrade>>,
    /// The contact by whose word alone it is known; none once something of it was proven.
    pub(super) claimed: Option<ContactNo>,
    /// Nodes of the group that have all of it.
    pub(super) receipts: BTreeMap<PublisherKey, Signature>,
    /// All nodes of the group do.
    pub(super) everywhere: bool,
    digest: Option<[u8; 32]>,
}

/// A manifest on its way.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// Who is asked now.
    pub(super) contact: Option<ContactNo>,
    /// How many records it has, once it is here.
    pub(super) total: Option<u64>,
    /// How many of them are known.
    pub(super) known: u64,
}

/// Segments, or init segments, of one rendition.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) name: TrackName,
    pub(super) here: SequenceRuns,
    pub(super) more: More,
}

/// What is only known of a track of which something is on its way, or that another node has: of
/// most tracks in a large store that is nothing, which takes no memory.
#[derive(Debug, Default)]
pub(super) struct More(Option<Box<Transit>>);

/// See [`More`].
#[derive(Debug)]
pub(super) struct Transit {
    /// Segments that the store let go or refused.
    pub(super) refused: SequenceRuns,
    /// Segments whose record is known and whose bytes are not all here.
    pub(super) pending: BTreeMap<u64, Pending>,
    /// What other nodes have, those that were met last at the end.
    elsewhere: Vec<(u32, SequenceRuns)>,
    /// How rare its segments are among the nodes that were met.
    pub(super) rarity: Rarity,
    /// Records that were asked for: of a contact, or of the store.
    pub(super) asked: Vec<(Option<ContactNo>, SequenceRun)>,
}

impl Transit {
    const NONE: Self = Self {
        refused: SequenceRuns::new(),
        pending: BTreeMap::new(),
        elsewhere: Vec::new(),
        rarity: Rarity::NONE,
        asked: Vec::new(),
    };
}

impl More {
    /// To take something away: what has nothing stays so.
    pub(super) fn get_mut(&mut self) -> Option<&mut Transit> {
        self.0.as_deref_mut()
    }
}

impl Deref for More {
    type Target = Transit;

    fn deref(&self) -> &Transit {
        static NONE: Transit = Transit::NONE;
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for More {
    fn deref_mut(&mut self) -> &mut Transit {
        self.0.get_or_insert_with(|| Box::new(Transit::NONE))
    }
}

/// A segment on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) piece: PieceNo,
    pub(super) length: u64,
    /// Whether the store was told to take it.
    pub(super) adopting: bool,
}

impl Pending {
    /// Whether every chunk group of it is here.
    pub(super) fn is_whole(&self, pieces: &Pieces) -> bool {
        pieces.get(self.piece).is_some_and(|it| it.is_whole())
    }

    /// Whether some chunk groups of it are here, and some are not and nobody was asked for them.
    pub(super) fn is_begun(&self, pieces: &Pieces) -> bool {
        pieces.get(self.piece).is_some_and(|it| it.is_begun())
    }

    /// Whether chunk groups of it were asked for and have not come.
    pub(super) fn is_flying(&self, pieces: &Pieces) -> bool {
        pieces.get(self.piece).is_some_and(|it| it.is_flying())
    }
}

impl Track {
    pub(super) fn new(name: TrackName) -> Self {
        Self {
            name,
            here: SequenceRuns::new(),
            more: More::default(),
        }
    }

    /// Notes what a node has.
    pub(super) fn saw(&mut self, node: u32, there: &SequenceRuns) {
        self.more.elsewhere.retain(|(other, _)| *other != node);
        if self.more.elsewhere.len() >= ELSEWHERE_MAX {
            // The node that was met longest ago goes.
            self.more.elsewhere.remove(0);
        }
        self.more.elsewhere.push((node, there.clone()));
    }

    /// Notes that a node has some segments more.
    pub(super) fn saw_more(&mut self, node: u32, run: SequenceRun) {
        match self
            .more
            .elsewhere
            .iter_mut()
            .find(|(other, _)| *other == node)
        {
            Some((_, there)) => there.insert(run.start, run.end),
            None => self.saw(node, &SequenceRuns::of(run.start, run.end)),
        }
    }

    /// On how many other nodes each segment is known to be that is here: on every one of those that
    /// should have it, on those that carried it here, or on those that were seen to have it.
    pub(super) fn copies(&self, everywhere: bool, carried: Option<u16>) -> Vec<(SequenceRun, u16)> {
        let known = if everywhere {
            Some(EVERYWHERE)
        } else {
            carried
        };
        if let Some(copies) = known {
            let here = self.here.runs().iter();
            return here.map(|run| (*run, copies)).collect();
        }
        let mut copies = Vec::new();
        for here in self.here.runs() {
            // Between two edges of any run the same nodes have all of it: one look at its first
            // segment is enough.
            let mut bounds = vec![here.start, here.end];
            for (_, there) in &self.more.elsewhere {
                let edges = there.runs().iter().flat_map(|run| [run.start, run.end]);
                bounds.extend(edges.filter(|edge| (here.start..here.end).contains(edge)));
            }
            bounds.sort_unstable();
            bounds.dedup();
            for pair in bounds.windows(2) {
                let has = |(_, there): &&(u32, SequenceRuns)| there.contains(pair[0]);
                let count = self.more.elsewhere.iter().filter(has).count() as u16;
                copies.push((Run::new(pair[0], pair[1]), count));
            }
        }
        copies
    }

    /// What of `theirs` is neither here nor refused.
    pub(super) fn lacks(&self, theirs: &SequenceRuns) -> SequenceRuns {
        let missing = theirs.without(&self.here);
        // Nearly always so: then one set is made instead of two.
        if self.more.refused.is_empty() {
            return missing;
        }
        missing.without(&self.more.refused)
    }

    /// What of `theirs` is lacking and not even asked for.
    pub(super) fn unknown(&self, theirs: &SequenceRuns) -> SequenceRuns {
        let mut missing = self.lacks(theirs);
        for sequence in self.more.pending.keys() {
            missing.remove(*sequence, sequence + 1);
        }
        for (_, run) in &self.more.asked {
            missing.remove(run.start, run.end);
        }
        missing
    }
}

impl Entry {
    /// `own` is the key of this node.
    pub(super) fn new(
        key: ContentKey,
        priority: Priority,
        expires: Time,
        own: &PublisherKey,
    ) -> Self {
        let name = name_of(&key);
        let order = blake3::keyed_hash(&own.0, &name);
        let order = order.as_bytes().first_chunk();
        Self {
            key,
            name,
            order: order.map_or(0, |four| u32::from_le_bytes(*four)),
            priority,
            expires,
            manifest: None,
            tracks: Vec::new(),
            refused: false,
            to: Vec::new(),
            stored: false,
            playheads: Vec::new(),
            hops: 0,
            copies_left: 0,
            upgrade: None,
            claimed: None,
            receipts: BTreeMap::new(),
            everywhere: false,
            digest: None,
        }
    }

    /// Takes over what the store says.
    pub(super) fn update(&mut self, facts: &Facts) {
        (self.priority, self.expires) = (facts.priority, facts.expires);
        (self.manifest, self.stored) = (facts.manifest, true);
        self.to.clone_from(&facts.to);
        // All rows are here: nothing is asked about it any more.
        if self.manifest.is_some() {
            self.upgrade = None;
        }
        self.changed();
    }

    /// The number of a track; it is added when it is new. None when there are as many as a content
    /// may have.
    pub(super) fn track(&mut self, name: &TrackName) -> Option<TrackNo> {
        let at = self.tracks.iter().position(|track| track.name == *name);
        // Names come from others, who may invent them.
        if at.is_none() && self.tracks.len() as u64 >= TRACKS_MAX {
            return None;
        }
        let at = at.unwrap_or_else(|| {
            // Most contents have one track and never get another.
            self.tracks.reserve_exact(1);
            self.tracks.push(Track::new(name.clone()));
            self.tracks.len() - 1
        });
        Some(TrackNo(at as u16))
    }

    /// Takes back what was asked of a contact, so that others can be asked for it.
    pub(super) fn unask(&mut self, no: ContactNo) {
        for more in self.tracks.iter_mut().filter_map(|it| it.more.get_mut()) {
            more.asked.retain(|(asked, _)| *asked != Some(no));
        }
        if let Some(upgrade) = &mut self.upgrade
            && upgrade.contact == Some(no)
        {
            upgrade.contact = None;
        }
    }

    /// Takes back one question that a contact did not answer.
    pub(super) fn unask_one(&mut self, no: ContactNo, question: &Question) {
        match question {
            // Both belong to one upgrade: whoever leaves one of them unanswered gives it up.
            Question::Manifest(_) | Question::Rows(..) => {
                if let Some(upgrade) = &mut self.upgrade
                    && upgrade.contact == Some(no)
                {
                    upgrade.contact = None;
                }
            }
            Question::Records(_, track, run) => {
                let track = self.tracks.get_mut(track.at());
                if let Some(more) = track.and_then(|it| it.more.get_mut()) {
                    more.asked.retain(|asked| *asked != (Some(no), *run));
                }
            }
        }
    }

    /// What is here changed.
    pub(super) fn changed(&mut self) {
        self.digest = None;
    }

    /// Notes over how many nodes it comes, and how many copies come with it: of the contact that is
    /// asked last before its first segment is here.
    pub(super) fn came_by(&mut self, hops: u8, copies: u16) {
        if self.tracks.iter().all(|track| track.here.is_empty()) {
            self.hops = hops.saturating_add(1);
            self.copies_left = copies;
        }
    }

    /// Whether there is anything to tell others of.
    pub(super) fn is_held(&self) -> bool {
        let holds = self.tracks.iter().any(|track| !track.here.is_empty());
        // A manifest without segments is of use to others, too.
        holds || (self.stored && self.manifest.is_some())
    }

    /// Whether no segment of it is here or on its way, so that it may be forgotten. Chunk groups
    /// that came stay on the disk.
    pub(super) fn is_idle(&self, pieces: &Pieces) -> bool {
        // What is flying or handed to the store comes back as an input that names this content.
        let waits = |pending: &Pending| !pending.is_flying(pieces) && !pending.adopting;
        let idle = |track: &Track| track.here.is_empty() && track.more.pending.values().all(waits);
        !self.stored
            && self.tracks.iter().all(idle)
            && self
                .upgrade
                .as_ref()
                // Rows that came would have to be fetched again.
                .is_none_or(|upgrade| upgrade.known == 0)
    }

    /// Of the manifest that the store has.
    pub(super) fn hint(&self) -> Option<ManifestHint> {
        let (hash, _) = self.manifest.as_ref()?;
        hash.first_chunk().copied()
    }

    /// The start of its name, by which nodes ask for its summary.
    pub(super) fn short_name(&self) -> [u8; 8] {
        short(&self.name)
    }

    /// Where it stands in the order of reconciliation, and a digest of what is here: finished
    /// contents by time, those that still grow before them.
    pub(super) fn item(&mut self) -> Item {
        let time = self.manifest.map_or(Time(0), |(_, created)| created);
        let point = Point {
            time,
            name: self.name,
        };
        let Self {
            name,
            manifest,
            tracks,
            receipts,
            ..
        } = &*self;
        // Who carries what has arrived is of no interest: all would tell each other.
        let tracks = if self.is_delivered() {
            &[]
        } else {
            &tracks[..]
        };
        // Kept until something changes: it takes a hash over all runs, and each contact asks for
        // it.
        let made = self
            .digest
            .unwrap_or_else(|| digest(name, manifest.as_ref(), tracks, receipts));
        let digest = *self.digest.insert(made);
        Item { point, digest }
    }

    /// A viewer asked for a segment: the one who is a few segments before it, or another.
    pub(super) fn watch(&mut self, sequence: u64, now: Time) {
        // Viewers are not told apart. One who jumps counts as another, and the old playhead runs
        // out.
        let is_next = |head: u64| (head..=head.saturating_add(STEP_MAX)).contains(&sequence);
        let nearest = self
            .playheads
            .iter()
            .filter(|(head, _)| is_next(*head))
            .map(|(head, _)| *head)
            .max();
        self.playheads
            .retain(|(head, until)| *until > now && Some(*head) != nearest);
        if self.playheads.len() >= PLAYHEADS_MAX {
            self.playheads.remove(0);
        }
        self.playheads.push((sequence, now.after(WATCHED)));
    }

    /// The segments in the order in which they are of use: from each playhead to the next one, and
    /// last those before all of them, which is not said to lie ahead.
    pub(super) fn ahead(&self, now: Time) -> Vec<(Range<u64>, bool)> {
        let current = self.playheads.iter().filter(|(_, until)| *until > now);
        let mut heads: Vec<u64> = current.map(|(head, _)| *head).collect();
        heads.sort_unstable();
        let first = heads.first().copied().unwrap_or(0);
        let ends = heads.iter().skip(1).copied().chain([u64::MAX]);
        let mut parts: Vec<_> = heads
            .iter()
            .zip(ends)
            .map(|(head, end)| (*head..end, true))
            .collect();
        // Without a viewer all of it lies ahead.
        if parts.is_empty() {
            parts.push((0..u64::MAX, true));
        } else if first > 0 {
            parts.push((0..first, false));
        }
        parts
    }

    fn is_watched(&self, now: Time) -> bool {
        self.playheads.iter().any(|(_, until)| *until > now)
    }

    /// Whether somebody wants it here: it is watched, asked for by its name, or sent to this node.
    pub(super) fn is_for_here(&self, now: Time, config: &Config) -> bool {
        self.is_watched(now) || config.interest.names(&self.key) || self.is_own_mail(config)
    }

    /// Whether its segments are fetched one after another, from each playhead on: when somebody
    /// watches it here, or while it grows. All else goes by rarity.
    pub(super) fn in_order(&self, now: Time) -> bool {
        self.manifest.is_none() || self.is_watched(now)
    }

    /// Where this node begins with a track of so many segments when rarity says nothing: elsewhere
    /// than others.
    pub(super) const fn begin(&self, end: u64) -> u64 {
        // The order is a fraction of 2^32, here of the track.
        ((self.order as u128 * end as u128) >> 32) as u64
    }

    /// How the nodes that were met have its segments, for others; nothing while it grows.
    pub(super) fn said(&self) -> Vec<Said> {
        let known = |track: &Track| track.more.rarity.said();
        // While it grows its segments go by sequence, whatever is rare.
        let mut said: Vec<Said> = match self.manifest {
            Some(_) => self.tracks.iter().map(known).collect(),
            None => Vec::new(),
        };
        // What is missing at the end counts as nothing.
        while said.pop_if(|said| *said == Said::default()).is_some() {}
        said
    }

    /// The place of what a contact has of it; the lowest goes first. What is watched here goes
    /// before all else, then what is for this node by a publisher whom it trusts. Then it goes by
    /// priority, then by rarity; what is for other nodes by how many nodes it came over, but what
    /// was begun first.
    pub(super) fn rank(
        &self,
        remote: &Remote,
        (now, meeting): (Time, u32),
        (config, pieces): (&Config, &Pieces),
    ) -> Rank {
        if self.is_watched(now) {
            return (0, 0, self.order);
        }
        if self.is_own_mail(config) {
            return (1, 0, self.order);
        }
        // 0 is what is watched; so live is 1, near-live 2, on demand 3.
        let urgency = 3 - self.priority.rank();
        // By a stranger: naming this node gains no urgency.
        if self.is_for(&config.own) {
            return (urgency, 0, self.order);
        }
        let has_whole = |(ours, here): &(TrackNo, SequenceRuns)| {
            let track = self.tracks.get(ours.at());
            track.is_some_and(|track| !track.lacks(here).is_empty())
        };
        // Parts of segments are of use to nobody: who has no more than parts of it is asked last.
        if self.to.is_empty() && !remote.tracks.iter().any(has_whole) {
            return (urgency, Share::MAX, self.order);
        }
        if !self.to.is_empty() {
            let begun = self.tracks.iter().flat_map(|it| it.more.pending.values());
            let begun = begun.into_iter().any(|it| it.is_begun(pieces));
            let after = if begun {
                0
            } else {
                1 + Share::from(remote.hops)
            };
            return (urgency, after, self.order);
        }
        // It grows here and there: by sequence, without rarity.
        if self.manifest.is_none() && remote.manifest.is_none() {
            return (urgency, 0, self.order);
        }
        let of_track = |(ours, here): &(TrackNo, SequenceRuns)| {
            let track = self.tracks.get(ours.at())?;
            let least = track.more.rarity.least(&track.lacks(here))?;
            // No segment of the rendition plays without it, so it counts as rarest.
            let is_init = track.name.kind == Kind::Init;
            Some(if is_init {
                0
            } else {
                // Shares fade when they are looked at: a meeting does not touch every track.
                track.more.rarity.fade(least, meeting)
            })
        };
        let rarest = remote.tracks.iter().filter_map(of_track).min();
        (urgency, rarest.unwrap_or(0), self.order)
    }
}

/// The name of a content in the order of reconciliation.
pub(super) fn name_of(key: &ContentKey) -> [u8; 16] {
    let mut w = Writer::new();
    crate::content::record::write_content_key(&mut w, key);
    let mut name = [0; 16];
    name.copy_from_slice(&blake3::hash(&w.finish()).as_bytes()[..16]);
    name
}

/// The start of a name.
pub(super) fn short(name: &[u8; 16]) -> [u8; 8] {
    name.first_chunk().copied().unwrap_or_default()
}

fn digest(
    name: &[u8; 16],
    manifest: Option<&([u8; 32], Time)>,
    tracks: &[Track],
    receipts: &BTreeMap<PublisherKey, Signature>,
) -> [u8; 32] {
    let mut named: Vec<&Track> = tracks
        .iter()
        .filter(|track| !track.here.is_empty())
        .collect();
    // Each node learns of tracks in another order, and of some before it has anything of them:
    // equal holdings have equal digests all the same.
    named.sort_unstable_by_key(|track| &track.name);
    let mut w = Writer::new();
    w.bytes(name);
    w.bytes(&manifest.map_or([0; 32], |(hash, _)| *hash));
    for track in named {
        w.text(track.name.rendition.as_str());
        w.byte(u8::from(track.name.kind == Kind::Media));
        track.here.write(&mut w);
    }
    for node in receipts.keys() {
        w.bytes(&node.0);
    }
    *blake3::hash(&w.finish()).as_bytes()
}
