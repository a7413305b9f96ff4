//! What the store has, in the core's numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use lavant_proto::content::{Kind, Proof, SegmentRecord, Verified};
use lavant_proto::delivery::{Delivery, Facts, Input};
use lavant_proto::ids::{ContentKey, Root};
use lavant_proto::numbers::{ContentNo, TrackNo};
use lavant_proto::relay::message::TrackName;
use lavant_proto::runs::{GroupRuns, SequenceRun};
use lavant_proto::time::Time;

use crate::store::{AsyncStore, Content, Store, StoreError};

/// Something that the store says.
pub(super) enum Told {
    /// The store has a content, or something of it changed.
    Content(u64, ContentKey, Facts),
    /// Segments came.
    Stored(u64, TrackName, SequenceRun),
    /// Segments went; they were damaged or not.
    Dropped(u64, TrackName, SequenceRun, bool),
    /// A content is finished, new, or went: what was kept of its manifest is of no use.
    Changed(u64),
    /// A content went, or a later version took its place.
    Removed(u64),
    /// All that was there at the start was told.
    Begun,
}

/// A verified record, with the chunk groups of its segment that are here.
pub(super) struct Verdict {
    pub(super) record: Verified<SegmentRecord>,
    pub(super) proof: Proof,
    pub(super) have: GroupRuns,
}

impl Verdict {
    /// Looks up what is here. Blocks.
    pub(super) fn of(store: &Store, record: Verified<SegmentRecord>, proof: Proof) -> Self {
        let have = store.have(&record.root, record.length);
        // What cannot be read counts as missing: it is fetched again, which costs time and harms
        // nobody.
        let have = have.unwrap_or(None).unwrap_or_default();
        Self {
            record,
            proof,
            have: have.as_runs().clone(),
        }
    }
}

/// The store's number for the rendition of a track.
pub(super) fn rendition_no(content: &Content, name: &TrackName) -> Option<u16> {
    content.rendition_no(name.rendition.as_str())
}

/// The contents of the store that the core knows, by both numbers.
#[derive(Default)]
pub(super) struct Holdings {
    // Both always hold the same pairs.
    by_store: BTreeMap<u64, ContentNo>,
    by_core: BTreeMap<ContentNo, u64>,
}

impl Holdings {
    /// Tells the core something that the store says.
    pub(super) fn tell(&mut self, core: &mut Delivery, told: Told, now: Time) {
        match told {
            Told::Content(content_no, key, facts) => {
                let content = core.no(&key);
                self.by_store.insert(content_no, content);
                self.by_core.insert(content, content_no);
                core.handle(now, Input::Content { content, facts });
            }
            Told::Stored(content_no, name, run) => {
                if let Some((content, track)) = self.track(core, content_no, &name) {
                    let stored = Input::Stored {
                        content,
                        track,
                        run,
                    };
                    core.handle(now, stored);
                }
            }
            Told::Dropped(content_no, name, run, torn) => {
                if let Some((content, track)) = self.track(core, content_no, &name) {
                    let dropped = Input::Dropped {
                        content,
                        track,
                        run,
                        torn,
                    };
                    core.handle(now, dropped);
                }
            }
            Told::Removed(content_no) => {
                if let Some(content) = self.by_store.remove(&content_no) {
                    self.by_core.remove(&content);
                    core.handle(now, Input::Removed { content });
                }
            }
            Told::Changed(_) | Told::Begun => {}
        }
    }

    fn track(
        &self,
        core: &mut Delivery,
        content_no: u64,
        name: &TrackName,
    ) -> Option<(ContentNo, TrackNo)> {
        // A superseded version has no number here, so that what changes of it is passed over.
        let content = *self.by_store.get(&content_no)?;
        Some((content, core.track(content, name)?))
    }

    /// The store's content for a number of the core.
    pub(super) fn stored(&self, store: &AsyncStore, at: ContentNo) -> Option<Arc<Content>> {
        store.catalog().get(*self.by_core.get(&at)?).cloned()
    }

    /// The core's number for a content of the store.
    pub(super) fn relayed(&self, content_no: u64) -> Option<ContentNo> {
        self.by_store.get(&content_no).copied()
    }
}

/// A segment of the store, when its payload is here: its root and length. Blocks.
pub(super) fn payload_of(
    store: &Store,
    content: &Content,
    (rendition_no, kind, sequence): (u16, Kind, u64),
) -> Result<(Root, u64), StoreError> {
    let segment = store.segment(content, rendition_no, kind, sequence)?;
    let segment = segment.ok_or_else(|| StoreError::NotFound(format!("segment {sequence}")))?;
    Ok((segment.row.root, segment.row.length))
}
