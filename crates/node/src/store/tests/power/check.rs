//! What must hold of a store that has come up again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use lavant_proto::ids::Root;
use redb::ReadableTable;

use super::super::super::catalog::State;
use super::super::super::disk::simulated::Simulated;
use super::super::super::partials;
use super::super::super::rows::{
    REMOVALS, SEGMENTS, SegmentKey, SegmentRow, VERSIONS, deadline_key, eviction_key,
};
use super::super::super::tx::{Tx, deadline};
use super::*;

/// All that a store says of what it has.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    pub(super) contents: BTreeMap<ContentKey, (Content, Vec<(SegmentKey, SegmentRow)>)>,
    versions: Vec<(Vec<u8>, u32)>,
    removals: Vec<(Vec<u8>, (u32, u64))>,
}

impl Snapshot {
    pub(super) fn of(store: &Store) -> Self {
        let index = store.shared.index.read().unwrap();
        let read = index.begin_read().unwrap();
        let segments = read.open_table(SEGMENTS).unwrap();
        let mut contents = BTreeMap::new();
        for content in store.catalog().all() {
            let mut content = Content::clone(content);
            content.generation = 0;
            let range = SegmentKey::range(content.no, None);
            let rows = segments.range(range.start().as_slice()..=range.end().as_slice());
            let rows = rows.unwrap().map(|entry| {
                let (key, row) = entry.unwrap();
                let key = SegmentKey::from_bytes(key.value()).unwrap();
                (key, SegmentRow::decode(row.value()).unwrap())
            });
            let rows = rows.collect();
            contents.insert(content.key.clone(), (content, rows));
        }
        let versions = read.open_table(VERSIONS).unwrap();
        let versions = versions.iter().unwrap().map(|entry| {
            let (key, row) = entry.unwrap();
            (key.value().to_vec(), row.value())
        });
        let removals = read.open_table(REMOVALS).unwrap();
        let removals = removals.iter().unwrap().map(|entry| {
            let (key, row) = entry.unwrap();
            (key.value().to_vec(), row.value())
        });
        Self {
            contents,
            versions: versions.collect(),
            removals: removals.collect(),
        }
    }

    /// What of it is another's: for the message of a failed test.
    pub(super) fn unlike(&self, other: &Self) -> String {
        let mut said = Vec::new();
        let keys: BTreeSet<_> = self.contents.keys().chain(other.contents.keys()).collect();
        for key in keys {
            let id = &key.content_id;
            match (self.contents.get(key), other.contents.get(key)) {
                (Some((one, rows)), Some((two, others))) => {
                    if one != two {
                        said.push(format!("{id}: {one:?} and {two:?}"));
                    }
                    let both = rows.iter().zip(others);
                    let differ = both.filter(|(one, two)| one != two);
                    said.extend(differ.map(|(one, two)| format!("{id}: {one:?} and {two:?}")));
                    if rows.len() != others.len() {
                        said.push(format!("{id}: {} and {} rows", rows.len(), others.len()));
                    }
                }
                (one, _) => said.push(format!("{id} is here: {}", one.is_some())),
            }
        }
        if said.is_empty() && self != other {
            said.push("versions or removals".into());
        }
        said.join("\n")
    }

    fn named(&self, key: &ContentKey) -> BTreeMap<(String, Kind, u64), &SegmentRow> {
        let Some((content, rows)) = self.contents.get(key) else {
            return BTreeMap::new();
        };
        let named = rows.iter().map(|(key, row)| {
            let info = &content.renditions[usize::from(key.rendition_no)].info;
            ((info.name.as_str().to_owned(), key.kind, key.sequence), row)
        });
        named.collect()
    }

    /// Whether all that both `before` and `after` have is here, although the index was lost: what
    /// was let go may be back, and counts of other nodes are forgotten. When the power was `cut`,
    /// files of what was let go may be back, too, and a playlist begins with them.
    pub(super) fn assert_keeps(&self, before: &Self, after: &Self, (pins, cut): (bool, bool)) {
        for (key, (content, _)) in &before.contents {
            let (rows, others) = (before.named(key), after.named(key));
            let here = self.named(key);
            let mut any = false;
            for (name, row) in rows {
                let stays = others.get(&name).is_some_and(|other| other.present);
                if !row.present || !stays {
                    continue;
                }
                any = true;
                let found = here.get(&name).map(|found| SegmentRow {
                    copies: row.copies,
                    arrived: row.arrived,
                    ..SegmentRow::clone(found)
                });
                let id = &key.content_id;
                assert_eq!(found.as_ref(), Some(row), "{id} {name:?} is not here");
            }
            if !any {
                continue;
            }
            let (other, _) = &after.contents[key];
            let (now, _) = &self.contents[key];
            if content.state == State::Finished && other.state == State::Finished {
                assert_eq!(now.state, State::Finished, "{}", key.content_id);
            }
            if pins && content.pinned == other.pinned {
                assert_eq!(now.pinned, content.pinned, "{} is pinned", key.content_id);
            }
            for state in &content.renditions {
                let no = now.rendition_no(state.info.name.as_str());
                let now = no.map(|no| &now.renditions[usize::from(no)]);
                let first = now.map_or(0, |now| now.first);
                let is_later = now.is_none() || cut || first >= state.first;
                assert!(is_later, "{}", key.content_id);
            }
        }
    }
}

/// Checks all that must hold of a store that was just opened. Files that nothing names may be there
/// only when the index was made again.
pub(super) fn check(store: &Store, disk: &Simulated, made_again: bool) {
    // What is left of removed contents is no fault: it goes with the next commits, and its files
    // right after them.
    while store
        .write(|tx| Ok(tx.clear_some()? || tx.requeue_some()?))
        .unwrap()
    {}
    let report = store.check(|_, _| true).unwrap();
    assert_eq!(report.dropped, 0, "a segment is damaged");
    assert!(made_again || report.unknown_files == 0, "{report:?}");
    let used = store.stats().bytes;
    let gathered = store.write(move |tx| Ok(check_index(tx, used)));
    let names = gathered.unwrap_or_else(|error| panic!("{error}"));
    let layout = &store.settings().layout;
    let files =
        |folder: PathBuf| -> BTreeSet<PathBuf> { disk.files_of(&folder).into_keys().collect() };
    let payloads = files(layout.segments());
    let missing: Vec<_> = names.payloads.difference(&payloads).collect();
    assert!(missing.is_empty(), "no file: {missing:?}");
    assert!(
        made_again || payloads == names.payloads,
        "files that nothing names"
    );
    assert_eq!(files(layout.incoming()), BTreeSet::new(), "incoming");
    assert_eq!(files(layout.manifests()), names.manifests, "manifests");
    assert_eq!(files(layout.pins()), names.pins, "pins");
    for path in files(layout.partials()) {
        assert!(partials::named(&path).is_some(), "{}", path.display());
    }
    for content in store.catalog().all() {
        let finished = content.state == State::Finished;
        assert!(
            !finished || store.manifest(content).is_some(),
            "no manifest"
        );
    }
}

/// The files that an index names.
struct Names {
    payloads: BTreeSet<PathBuf>,
    manifests: BTreeSet<PathBuf>,
    pins: BTreeSet<PathBuf>,
}

fn check_index(tx: &mut Tx<'_>, used: u64) -> Names {
    let mut uses: BTreeMap<Root, (u32, u64)> = BTreeMap::new();
    let (mut deadlines, mut ranks) = (BTreeSet::new(), BTreeSet::new());
    let mut names = Names {
        payloads: BTreeSet::new(),
        manifests: BTreeSet::new(),
        pins: BTreeSet::new(),
    };
    let layout = &tx.settings().layout;
    let mut of_class = [0; 3];
    let mut segments = 0;
    for content in tx.catalog().all() {
        let mut held = 0;
        let mut sums = vec![(0, 0, 0); content.renditions.len()];
        for (key, row) in tx.rows(content.no, None).unwrap() {
            segments += 1;
            deadlines.extend(deadline(content, key, &row).map(|time| deadline_key(time, key)));
            ranks.extend(
                tx.rank(content, key, &row)
                    .map(|rank| eviction_key(rank, key)),
            );
            if !row.present {
                continue;
            }
            held += size(row.length);
            let used = uses.entry(row.root).or_insert((0, row.length));
            used.0 += 1;
            names.payloads.insert(layout.payload(&row.root));
            if key.kind == Kind::Media {
                let sum = &mut sums[usize::from(key.rendition_no)];
                *sum = (sum.0 + 1, sum.1 + row.duration, sum.2 + row.length);
                let state = &content.renditions[usize::from(key.rendition_no)];
                assert!(key.sequence >= state.first, "before the playlist's first");
                assert!(
                    key.sequence < state.next.min(state.reached),
                    "behind its end"
                );
            }
        }
        assert_eq!(content.held_bytes, held, "{}", content.key.content_id);
        of_class[usize::from(content.priority.rank())] += held;
        for (state, sum) in content.renditions.iter().zip(sums) {
            let counted = (state.present, state.present_duration, state.present_bytes);
            assert_eq!(counted, sum, "{}", content.key.content_id);
        }
        if content.state == State::Finished {
            names.manifests.insert(layout.manifest(content.no));
        }
        if content.pinned {
            names.pins.insert(layout.pin(&content.key));
        }
    }
    let mut payloads = BTreeMap::new();
    for entry in tx.tables().payloads.iter().unwrap() {
        let (root, row) = entry.unwrap();
        payloads.insert(Root(root.value().try_into().unwrap()), row.value());
    }
    assert_eq!(payloads, uses, "uses of payloads");
    let bytes: u64 = uses.values().map(|(_, length)| size(*length)).sum();
    assert_eq!(used, bytes, "bytes of payloads");
    assert_eq!(tx.catalog().class_bytes(), of_class);
    assert_eq!(
        tx.tables().segments.iter().unwrap().count(),
        segments,
        "rows of no content"
    );
    let keys = |entry: Result<(redb::AccessGuard<'_, &[u8]>, _), redb::StorageError>| {
        entry.map(|(key, _): (_, redb::AccessGuard<'_, ()>)| key.value().to_vec())
    };
    let queued: Result<BTreeSet<_>, _> = tx.tables().deadlines.iter().unwrap().map(keys).collect();
    assert_eq!(queued.unwrap(), deadlines, "the queue of expiry");
    let queued: Result<BTreeSet<_>, _> = tx.tables().eviction.iter().unwrap().map(keys).collect();
    assert_eq!(queued.unwrap(), ranks, "the queue of eviction");
    names
}
