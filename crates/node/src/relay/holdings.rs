//! What the store has, in the relay's numbers.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use lavant_proto::content::{Kind, Manifest};
use lavant_proto::relay::message::TrackName;
use lavant_proto::relay::{Facts, Input, Place, Relay};
use lavant_proto::runs::Run;
use lavant_proto::time::Time;

use super::learn::manifest_hash;
use crate::store::{Change, Content, Segment, State, Store, StoreError};

/// The contents of the store that the relay knows, by both numbers.
#[derive(Default)]
pub(super) struct Holdings {
    by_store: BTreeMap<u64, u32>,
    by_relay: BTreeMap<u32, u64>,
    /// Hash and time of manifests, by the store's numbers.
    manifests: BTreeMap<u64, ([u8; 32], Time)>,
}

impl Holdings {
    /// Tells the relay of everything that is in the store.
    pub(super) fn begin(&mut self, store: &Store, relay: &mut Relay, now: Time) {
        for content in store.catalog().all() {
            let Some(no) = self.content(store, relay, content, now) else {
                continue;
            };
            let runs = match store.holdings(content) {
                Ok(runs) => runs,
                Err(error) => {
                    tracing::error!(%error, "a content cannot be relayed");
                    continue;
                }
            };
            for (rendition_no, kind, runs) in runs {
                let Some(track) = track(relay, no, content, rendition_no, kind) else {
                    continue;
                };
                for run in runs {
                    relay.handle(now, Input::Stored(no, track, run_of(&run)));
                }
            }
        }
    }

    /// Tells the relay what the store says of a content. A version that has a later one is not
    /// relayed.
    fn content(
        &mut self,
        store: &Store,
        relay: &mut Relay,
        content: &Content,
        now: Time,
    ) -> Option<u32> {
        if content.superseded {
            return None;
        }
        let no = relay.no(&content.key);
        self.by_store.insert(content.no, no);
        self.by_relay.insert(no, content.no);
        let finished = content.state == State::Finished;
        if finished && !self.manifests.contains_key(&content.no) {
            let (manifest, signature) = store.manifest_head(content)?;
            let hash = manifest_hash(&manifest, &signature);
            let created = Manifest::decode(&manifest).ok()?.claim().created;
            self.manifests.insert(content.no, (hash, created));
        }
        let facts = Facts {
            priority: content.priority,
            expires: if content.pinned {
                Time::MAX
            } else {
                content.expires
            },
            manifest: self.manifests.get(&content.no).copied(),
            own: content.key.publisher == store.publisher(),
            complete: content.is_complete(),
        };
        relay.handle(now, Input::Content(no, facts));
        Some(no)
    }

    /// Tells the relay what a commit changed.
    pub(super) fn changes(
        &mut self,
        store: &Store,
        relay: &mut Relay,
        changes: Vec<Change>,
        now: Time,
    ) {
        let catalog = store.catalog();
        let mut told = None;
        for change in changes {
            match change {
                Change::Admitted { content_no } => {
                    if let Some(content) = catalog.get(content_no) {
                        self.content(store, relay, content, now);
                        self.drop_superseded(store, relay, content, now);
                    }
                }
                Change::Stored {
                    content_no,
                    rendition_no,
                    kind,
                    sequence,
                    ..
                } => {
                    let Some(content) = catalog.get(content_no) else {
                        continue;
                    };
                    if told != Some(content_no) {
                        self.content(store, relay, content, now);
                        told = Some(content_no);
                    }
                    let run = Run::new(sequence, sequence + 1);
                    if let Some((no, track)) = self.track(relay, content, rendition_no, kind) {
                        relay.handle(now, Input::Stored(no, track, run));
                    }
                }
                Change::Dropped {
                    torn,
                    content_no,
                    rendition_no,
                    kind,
                    sequence,
                } => {
                    let content = catalog.get(content_no);
                    let at =
                        content.and_then(|content| self.track(relay, content, rendition_no, kind));
                    let run = Run::new(sequence, sequence + 1);
                    match at {
                        Some((no, track)) if torn => {
                            relay.handle(now, Input::Torn(no, track, run));
                        }
                        Some((no, track)) => relay.handle(now, Input::Dropped(no, track, run)),
                        None => {}
                    }
                }
                Change::Removed { content_no, .. } => self.removed(relay, content_no, now),
            }
        }
    }

    fn removed(&mut self, relay: &mut Relay, content_no: u64, now: Time) {
        self.manifests.remove(&content_no);
        if let Some(no) = self.by_store.remove(&content_no) {
            self.by_relay.remove(&no);
            relay.handle(now, Input::Removed(no));
        }
    }

    /// Versions that a new one took the place of are not relayed any more.
    fn drop_superseded(&mut self, store: &Store, relay: &mut Relay, newer: &Content, now: Time) {
        let catalog = store.catalog();
        let older: Vec<u64> = catalog
            .all()
            .filter(|content| {
                content.superseded
                    && content.key.publisher == newer.key.publisher
                    && content.key.content_id == newer.key.content_id
            })
            .map(|content| content.no)
            .collect();
        for content_no in older {
            self.removed(relay, content_no, now);
        }
    }

    /// The relay's numbers for a track.
    fn track(
        &self,
        relay: &mut Relay,
        content: &Content,
        rendition_no: u16,
        kind: Kind,
    ) -> Option<(u32, u16)> {
        let no = *self.by_store.get(&content.no)?;
        Some((no, track(relay, no, content, rendition_no, kind)?))
    }

    /// The store's content for a number of the relay.
    pub(super) fn stored(&self, store: &Store, no: u32) -> Option<Arc<Content>> {
        store.catalog().get(*self.by_relay.get(&no)?).cloned()
    }

    /// The relay's number for a content of the store.
    pub(super) fn relayed(&self, content_no: u64) -> Option<u32> {
        self.by_store.get(&content_no).copied()
    }

    /// A segment of the store by its place, when its payload is here.
    pub(super) fn segment(
        &self,
        store: &Store,
        relay: &Relay,
        place: Place,
    ) -> Result<Option<(Arc<Content>, Segment)>, StoreError> {
        let Some(content) = self.stored(store, place.no) else {
            return Ok(None);
        };
        let Some((rendition_no, kind)) = rendition(relay, &content, place.no, place.track) else {
            return Ok(None);
        };
        let segment = store.segment(&content, rendition_no, kind, place.sequence)?;
        Ok(segment.map(|segment| (content, segment)))
    }
}

/// Rendition number and kind of a track.
pub(super) fn rendition(
    relay: &Relay,
    content: &Content,
    no: u32,
    track: u16,
) -> Option<(u16, Kind)> {
    let name = relay.track_name(no, track)?;
    let rendition_no = content.rendition_no(name.rendition.as_str())?;
    Some((rendition_no, name.kind))
}

fn track(
    relay: &mut Relay,
    no: u32,
    content: &Content,
    rendition_no: u16,
    kind: Kind,
) -> Option<u16> {
    let state = content.renditions.get(usize::from(rendition_no))?;
    let name = TrackName {
        rendition: state.info.name.clone(),
        kind,
    };
    relay.track(no, &name)
}

fn run_of(range: &RangeInclusive<u64>) -> Run {
    Run::new(*range.start(), *range.end() + 1)
}
