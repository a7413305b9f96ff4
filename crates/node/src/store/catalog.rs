//! The contents of a store, kept in memory: a catalogue is small, its segments are many.

mod content;

use std::sync::Arc;

use immutable_chunkmap::map::NodeRef;
use lavant_proto::content::{Priority, SegmentRecord};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey};
use lavant_proto::relay::evict::Standing;
use lavant_proto::time::Time;

pub(super) use content::next_generation;
pub use content::{Content, ManifestFacts, RenditionState, Shown, State};

use super::standing::Standings;

/// How many neighbours of a map lie in one allocation: a change copies so many, and an entry costs
/// little more than its bytes.
const CHUNK: usize = 32;
/// A map of which a copy costs nothing and a change costs the logarithm of its size: each commit
/// makes a catalogue of its own, and whoever reads one keeps it as it was.
type Map<K, V> = immutable_chunkmap::map::Map<K, V, CHUNK>;
/// The same without values.
type Set<K> = immutable_chunkmap::set::Set<K, CHUNK>;
/// The hash of a text, with the number of a content.
type Hashed = (u64, u64);

/// All contents of a store at one moment.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    contents: Map<u64, Arc<Content>>,
    /// The contents by id, those of one id in order of arrival.
    names: Set<(ContentId, u64)>,
    /// The contents by what their ids look like.
    skeletons: Set<Hashed>,
    publishers: Map<PublisherKey, Part>,
    /// What publishers that are not trusted have and may go, of each in the order in which it goes.
    strangers: Set<(PublisherKey, u8, Time, u64)>,
    /// The contents that were made from a source, by its fingerprint.
    sources: Set<Hashed>,
    /// The contents to which more may come.
    growing: Set<u64>,
    /// The contents by their generation, and those that went by that of their end.
    changed: Map<u64, u64>,
    gone: Map<u64, ContentKey>,
    /// The highest generation of what went and is not remembered any more, and of all.
    forgotten: u64,
    generation: u64,
    /// Bytes of each priority, by its rank.
    classes: [u64; 3],
    /// Of strangers, of trusted publishers, and of the node itself.
    standing_parts: [Part; 3],
    /// Contents that no later version took the place of.
    current: u64,
    /// Segments that are here.
    segments: u64,
    /// When a segment came last; what was removed since still counts.
    last_arrival: Time,
    standings: Arc<Standings>,
}

/// Most contents that went and are remembered, for who follows what changes.
const GONE_MAX: usize = 4096;

/// What is other in a catalogue than in an older one.
#[derive(Debug)]
pub struct Changed<'a> {
    /// New or changed.
    pub contents: Vec<&'a Arc<Content>>,
    /// Not there any more.
    pub gone: Vec<&'a ContentKey>,
}

/// What a publisher has of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Contents, all versions counted.
    pub(super) contents: u64,
    /// Bytes of its segments; see [`Content::held_bytes`].
    pub(super) bytes: u64,
}

impl Part {
    const fn add(&mut self, content: &Content) {
        self.contents += 1;
        self.bytes += content.held_bytes;
    }

    const fn take(&mut self, content: &Content) {
        self.contents = self.contents.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(content.held_bytes);
    }
}

impl Catalog {
    /// One without contents.
    pub(super) fn new(standings: Arc<Standings>) -> Self {
        Self {
            standings,
            ..Self::default()
        }
    }

    /// All versions of all contents, in order of arrival.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.contents.into_iter().map(|(_, content)| content)
    }

    /// All versions of a publisher's content, in order of arrival.
    pub fn versions(
        &self,
        publisher: &PublisherKey,
        id: &ContentId,
    ) -> impl Iterator<Item = &Arc<Content>> {
        let contents = self.named(id);
        contents.filter(move |content| content.key.publisher == *publisher)
    }

    /// How many contents there are, all versions counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.len() == 0
    }

    /// The contents that were made from a source.
    pub(super) fn made_from(&self, source: &str) -> impl Iterator<Item = &Arc<Content>> {
        let contents = self.hashed(&self.sources, source);
        contents.filter(move |content| content.source == source)
    }

    /// The contents that stand in a set under the hash of a text. Others may have the same hash.
    fn hashed(&self, set: &Set<Hashed>, text: &str) -> impl Iterator<Item = &Arc<Content>> {
        let hash = hash_of(text);
        let found = part_of(set.root(), |it| it.0 < hash, |it| it.0 > hash);
        found.into_iter().filter_map(|((_, no), ())| self.get(*no))
    }

    /// The contents to which more may come.
    pub fn growing(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.growing.into_iter().filter_map(|no| self.get(*no))
    }

    /// A number that grows with every change of a content. It means nothing in another process.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What changed since an older catalogue of that generation; none when too much went since.
    #[must_use]
    pub fn changed_since(&self, generation: u64) -> Option<Changed<'_>> {
        if generation < self.forgotten {
            return None;
        }
        let is_older = |other: &u64| *other <= generation;
        let contents = part_of(self.changed.root(), is_older, |_| false);
        let contents = contents.into_iter();
        let gone = part_of(self.gone.root(), is_older, |_| false).into_iter();
        Some(Changed {
            contents: contents.filter_map(|(_, no)| self.get(*no)).collect(),
            gone: gone.map(|(_, key)| key).collect(),
        })
    }

    /// The contents of an id, in order of arrival.
    pub fn named(&self, id: &ContentId) -> impl Iterator<Item = &Arc<Content>> {
        let found = part_of(self.names.root(), |it| it.0 < *id, |it| it.0 > *id);
        found.into_iter().filter_map(|((_, no), ())| self.get(*no))
    }

    /// The current version of every content, by id.
    pub fn by_id(&self) -> impl Iterator<Item = &Arc<Content>> {
        let contents = self.names.into_iter().filter_map(|(_, no)| self.get(*no));
        contents.filter(|content| !content.superseded)
    }

    /// How many contents no later version took the place of.
    #[must_use]
    pub const fn current_count(&self) -> u64 {
        self.current
    }

    /// How many segments are here.
    #[must_use]
    pub const fn segment_count(&self) -> u64 {
        self.segments
    }

    /// When a segment came last.
    #[must_use]
    pub const fn last_arrival(&self) -> Time {
        self.last_arrival
    }

    /// The content with that number.
    #[must_use]
    pub fn get(&self, no: u64) -> Option<&Arc<Content>> {
        self.contents.get(&no)
    }

    /// The content that a path means: of the given publisher, or of the node itself, else of one
    /// that it trusts, else of the one whose content of that name was here first; the given
    /// version, or the current one.
    #[must_use]
    pub fn find(
        &self,
        publisher: Option<&PublisherKey>,
        id: &ContentId,
        version: Option<u32>,
    ) -> Option<&Arc<Content>> {
        let named: Vec<_> = self.named(id).collect();
        let best = || {
            let publishers = named.iter().map(|content| &content.key.publisher);
            publishers.min_by_key(|publisher| std::cmp::Reverse(self.standing(publisher)))
        };
        let publisher = publisher.or_else(best)?;
        let mut of_publisher = named
            .iter()
            .copied()
            .filter(|c| c.key.publisher == *publisher);
        match version {
            Some(version) => of_publisher.rfind(|c| c.key.version == version),
            None => of_publisher
                .filter(|c| !c.superseded)
                .max_by_key(|c| c.key.version),
        }
    }

    /// Whether nobody has said yet what the rendition of a record shows, and no manifest will have.
    #[must_use]
    pub fn lacks_shown(&self, record: &SegmentRecord) -> bool {
        let key = &record.content;
        let content = self.find(Some(&key.publisher), &key.content_id, Some(key.version));
        content.is_none_or(|content| {
            let no = content.rendition_no(record.rendition.as_str());
            let info = no.map(|no| &content.renditions[usize::from(no)].info);
            content.state == State::Open && info.is_none_or(|info| info.codecs.is_empty())
        })
    }

    /// A content that a reader could mistake for `id`, of publishers that `of` says.
    pub(super) fn look_alike(
        &self,
        id: &ContentId,
        of: impl Fn(&PublisherKey) -> bool,
    ) -> Option<&Content> {
        let skeleton = id.skeleton();
        let is_alike = |content: &&Arc<Content>| {
            let other = &content.key.content_id;
            other != id && of(&content.key.publisher) && other.skeleton() == skeleton
        };
        let found = self.hashed(&self.skeletons, &skeleton).find(is_alike);
        found.map(|content| &**content)
    }

    /// What a publisher is to the operator.
    pub(super) fn standing(&self, publisher: &PublisherKey) -> Standing {
        self.standings.of(publisher)
    }

    /// What publishers of that standing have together.
    pub(super) const fn of_standing(&self, standing: Standing) -> Part {
        self.standing_parts[standing as usize]
    }

    /// Bytes that the segments of each priority have, by its rank; see [`Content::held_bytes`].
    #[must_use]
    pub const fn class_bytes(&self) -> [u64; 3] {
        self.classes
    }

    /// What a publisher has.
    pub(super) fn of_publisher(&self, publisher: &PublisherKey) -> Part {
        self.publishers.get(publisher).copied().unwrap_or_default()
    }

    /// The contents of a publisher that is not trusted of which something may go for what has that
    /// priority, in the order in which they go.
    pub(super) fn yielding(
        &self,
        publisher: PublisherKey,
        priority: Priority,
    ) -> impl Iterator<Item = &Arc<Content>> {
        let start = (publisher, 0, Time(0), 0);
        let next = move |last: Option<&(PublisherKey, u8, Time, u64)>| {
            let is_before = |it: &_| last.map_or(*it < start, |last| it <= last);
            first_of(self.strangers.root(), &is_before)
        };
        let all = std::iter::successors(next(None), move |last| next(Some(last)));
        let highest = priority.rank();
        all.take_while(move |it| it.0 == publisher && it.1 <= highest)
            .filter_map(|it| self.get(it.3))
    }

    /// Where a content stands in the order in which those of strangers go.
    fn place_among_strangers(&self, content: &Content) -> Option<(PublisherKey, u8, Time, u64)> {
        let publisher = content.key.publisher;
        let goes = content.held_bytes > 0 && !content.pinned;
        (goes && self.standing(&publisher) == Standing::Stranger).then_some((
            publisher,
            content.priority.rank(),
            content.created,
            content.no,
        ))
    }

    /// It was read from the index: who followed another one begins anew.
    pub(super) fn begin(&mut self) {
        self.generation = next_generation();
        self.forgotten = self.generation;
    }

    fn count(&mut self, content: &Content) {
        self.classes[usize::from(content.priority.rank())] += content.held_bytes;
        let publisher = content.key.publisher;
        self.standing_parts[self.standings.of(&publisher) as usize].add(content);
        let mut part = self.of_publisher(&publisher);
        part.add(content);
        self.publishers.insert_cow(publisher, part);
        if let Some(place) = self.place_among_strangers(content) {
            self.strangers.insert_cow(place);
        }
        self.current += u64::from(!content.superseded);
        self.segments += content.segment_count();
        if content.state == State::Open {
            self.growing.insert_cow(content.no);
        }
        if !content.source.is_empty() {
            let source = hash_of(&content.source);
            self.sources.insert_cow((source, content.no));
        }
        self.last_arrival = self.last_arrival.max(content.last_arrival);
        self.changed.insert_cow(content.generation, content.no);
        self.generation = self.generation.max(content.generation);
    }

    fn uncount(&mut self, content: &Content) {
        let class = &mut self.classes[usize::from(content.priority.rank())];
        *class = class.saturating_sub(content.held_bytes);
        let publisher = content.key.publisher;
        self.standing_parts[self.standings.of(&publisher) as usize].take(content);
        let mut part = self.of_publisher(&publisher);
        part.take(content);
        if part.contents == 0 {
            self.publishers.remove_cow(&publisher);
        } else {
            self.publishers.insert_cow(publisher, part);
        }
        if let Some(place) = self.place_among_strangers(content) {
            self.strangers.remove_cow(&place);
        }
        let current = u64::from(!content.superseded);
        self.current = self.current.saturating_sub(current);
        self.segments = self.segments.saturating_sub(content.segment_count());
        self.changed.remove_cow(&content.generation);
        if content.state == State::Open {
            self.growing.remove_cow(&content.no);
        }
        if !content.source.is_empty() {
            let source = hash_of(&content.source);
            self.sources.remove_cow(&(source, content.no));
        }
    }

    pub(super) fn insert(&mut self, content: Content) {
        let (no, id) = (content.no, content.key.content_id.clone());
        if let Some(before) = self.contents.get(&no).cloned() {
            self.uncount(&before);
            self.count(&content);
            self.contents.insert_cow(no, Arc::new(content));
            return;
        }
        self.count(&content);
        self.contents.insert_cow(no, Arc::new(content));
        self.skeletons.insert_cow((hash_of(&id.skeleton()), no));
        self.names.insert_cow((id, no));
    }

    pub(super) fn remove(&mut self, no: u64) {
        let Some(content) = self.contents.get(&no).cloned() else {
            return;
        };
        self.contents.remove_cow(&no);
        self.uncount(&content);
        self.generation = next_generation();
        self.gone.insert_cow(self.generation, content.key.clone());
        let oldest = self.gone.into_iter().next().map(|(oldest, _)| *oldest);
        if self.gone.len() > GONE_MAX
            && let Some(first) = oldest
        {
            self.gone.remove_cow(&first);
            self.forgotten = first;
        }
        let id = content.key.content_id.clone();
        self.skeletons.remove_cow(&(hash_of(&id.skeleton()), no));
        self.names.remove_cow(&(id, no));
    }
}

/// The entries of a map that are neither before nor after a part of it, in order. The map's own
/// ranges pass by each node before the part, and so cost with all that there is.
fn part_of<'a, K: Ord + Clone, V: Clone>(
    root: Option<NodeRef<'a, K, V, CHUNK>>,
    is_before: impl Fn(&K) -> bool,
    is_after: impl Fn(&K) -> bool,
) -> Vec<(&'a K, &'a V)> {
    let mut found = Vec::new();
    add_part(root, &is_before, &is_after, &mut found);
    found
}

/// The first key of a map that is not before a part of it.
fn first_of<'a, K: Ord + Clone, V: Clone>(
    node: Option<NodeRef<'a, K, V, CHUNK>>,
    is_before: &impl Fn(&K) -> bool,
) -> Option<&'a K> {
    let node = node?;
    let mut pairs = node.pairs();
    let (first, _) = pairs.next()?;
    if !is_before(first) {
        return first_of(node.left(), is_before).or(Some(first));
    }
    let here = pairs.find(|(key, _)| !is_before(key)).map(|(key, _)| key);
    here.or_else(|| first_of(node.right(), is_before))
}

fn add_part<'a, K: Ord + Clone, V: Clone>(
    node: Option<NodeRef<'a, K, V, CHUNK>>,
    is_before: &impl Fn(&K) -> bool,
    is_after: &impl Fn(&K) -> bool,
    found: &mut Vec<(&'a K, &'a V)>,
) {
    let Some(node) = node else { return };
    // What is less than the first of a node is left of it, what is more than its last is right.
    if node.pairs().next().is_some_and(|(key, _)| !is_before(key)) {
        add_part(node.left(), is_before, is_after, found);
    }
    for (key, value) in node.pairs() {
        if is_after(key) {
            return;
        }
        if !is_before(key) {
            found.push((key, value));
        }
    }
    add_part(node.right(), is_before, is_after, found);
}

/// The start of the hash of a text. Two texts may have the same: whoever looks compares the texts.
fn hash_of(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    hash.as_bytes()
        .first_chunk()
        .map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use lavant_proto::content::{MimeType, Priority};
    use lavant_proto::ids::Rendition;

    use super::*;

    fn content(no: u64, publisher: u8, id: &str, bytes: u64) -> Content {
        let key = ContentKey {
            publisher: PublisherKey([publisher; 32]),
            content_id: ContentId::new(id).unwrap(),
            version: no as u32,
        };
        let mut state = RenditionState::new(Rendition::main(), MimeType::TransportStream);
        state.present = bytes % 7;
        Content {
            no,
            key,
            title: id.to_owned(),
            priority: [Priority::Vod, Priority::Live][no as usize % 2],
            created: Time(no),
            ttl: Duration::from_secs(1),
            expires: Time(0),
            hold_until: None,
            last_arrival: Time(no),
            target_duration: 2,
            state: [State::Open, State::Finished][(no as usize / 2) % 2],
            superseded: bytes.is_multiple_of(5),
            pinned: false,
            held_bytes: bytes,
            source: if no.is_multiple_of(3) {
                "film.mp4".into()
            } else {
                String::new()
            },
            manifest: None,
            renditions: vec![state],
            generation: next_generation(),
        }
    }

    /// Whether sums and lists are those of the contents.
    fn assert_is(catalog: &Catalog, model: &BTreeMap<u64, Content>) {
        let all = catalog.all().map(|content| &**content);
        assert!(all.eq(model.values()));
        let sum = |of: &dyn Fn(&Content) -> u64| model.values().map(of).sum::<u64>();
        assert_eq!(catalog.segment_count(), sum(&Content::segment_count));
        assert_eq!(
            catalog.current_count(),
            sum(&|it| u64::from(!it.superseded))
        );
        let classes = catalog.class_bytes().iter().sum::<u64>();
        assert_eq!(classes, sum(&|it| it.held_bytes));
        for publisher in 0..3 {
            let key = PublisherKey([publisher; 32]);
            let of = |it: &&Content| it.key.publisher == key;
            let part = Part {
                contents: model.values().filter(of).count() as u64,
                bytes: model.values().filter(of).map(|it| it.held_bytes).sum(),
            };
            assert_eq!(catalog.of_publisher(&key), part);
        }
        let growing = model.values().filter(|it| it.state == State::Open);
        let growing = growing.map(|it| it.no);
        assert!(catalog.growing().map(|it| it.no).eq(growing));
        let made = model.values().filter(|it| it.source == "film.mp4");
        let made = made.map(|it| it.no);
        assert!(catalog.made_from("film.mp4").map(|it| it.no).eq(made));
    }

    #[test]
    fn sums_and_lists_are_those_of_the_contents_whatever_happens() {
        let mut random = 88_172_645_463_325_252u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut catalog = Catalog::default();
        let mut model: BTreeMap<u64, Content> = BTreeMap::new();
        // What a reader was told, and until when.
        let (mut told, mut reader) = (BTreeMap::new(), catalog.generation());
        for step in 0..5000 {
            let no = next(40);
            let older = catalog.clone();
            if next(3) == 0 {
                catalog.remove(no);
                model.remove(&no);
            } else {
                // An id stays with its number, as it does in a store.
                let id = ["film", "f1lm", "news", "other"][no as usize % 4];
                let new = content(no, (no % 3) as u8, id, next(1000));
                model.insert(no, new.clone());
                catalog.insert(new);
            }
            assert!(older.generation() <= catalog.generation());
            assert_is(&catalog, &model);
            if next(20) == 0 {
                let changed = catalog.changed_since(reader).unwrap();
                for key in changed.gone {
                    told.remove(key);
                }
                for content in changed.contents {
                    told.insert(content.key.clone(), content.generation);
                }
                reader = catalog.generation();
                let now = model.values().map(|it| (it.key.clone(), it.generation));
                assert_eq!(told, now.collect(), "step {step}");
            }
        }
    }

    #[test]
    fn a_part_of_a_map_costs_no_more_than_itself() {
        let mut map = Map::default();
        for n in 0..100_000_u64 {
            map.insert_cow(n * 7919 % 100_000, n);
        }
        let looks = std::cell::Cell::new(0);
        for start in (0..100_000).step_by(997) {
            looks.set(0);
            let is_before = |key: &u64| {
                looks.set(looks.get() + 1);
                *key < start
            };
            let found = part_of(map.root(), is_before, |key| *key > start + 2);
            let keys: Vec<u64> = found.into_iter().map(|(key, _)| *key).collect();
            let expected: Vec<u64> = (start..(start + 3).min(100_000)).collect();
            assert_eq!(keys, expected);
            assert!(looks.get() < 1000, "{} looks", looks.get());
        }
    }

    #[test]
    fn who_did_not_look_for_too_long_begins_anew() {
        let mut catalog = Catalog::default();
        let old = catalog.generation();
        for no in 0..GONE_MAX as u64 + 10 {
            catalog.insert(content(1, 1, "film", no));
            catalog.remove(1);
        }
        assert!(catalog.changed_since(old).is_none());
        assert!(catalog.gone.len() <= GONE_MAX);
        let now = catalog.generation();
        catalog.insert(content(2, 1, "film", 1));
        assert_eq!(catalog.changed_since(now).unwrap().contents.len(), 1);
        catalog.begin();
        assert!(catalog.changed_since(now).is_none());
    }
}
