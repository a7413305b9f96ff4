//! Ending a growing content of the node's own.
//!
//! Its manifest is made, signed and flushed beside the writer, which only has to see that nothing
//! of the content changed meanwhile.

use lavant_proto::content::{
    Kind, Leaf, Manifest, Priority, SignedManifest, Verified, merkle_root,
};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey, SigningKey};
use lavant_proto::time::Time;

use super::catalog::{Content, RenditionState, State};
use super::change::Change;
use super::convert::{bits_per_second, record_of};
use super::engine::Store;
use super::error::StoreError;
use super::publish::sign_or_check;
use super::rows::{SegmentKey, SegmentRow};
use super::tx::Tx;

/// How often a manifest is made anew because its content changed meanwhile. Then the writer makes
/// it, for which others wait.
const TRIES: usize = 4;

type Rows = Vec<(SegmentKey, SegmentRow)>;

impl Store {
    /// Ends a growing content of the node's own, for everybody. Blocks.
    pub fn finish(&self, id: &ContentId) -> Result<ContentKey, StoreError> {
        self.finish_for(id, Vec::new())
    }

    /// Ends a growing content of the node's own, for these nodes; for everybody when there are
    /// none. Blocks.
    pub fn finish_for(
        &self,
        id: &ContentId,
        to: Vec<PublisherKey>,
    ) -> Result<ContentKey, StoreError> {
        let key = self.finish_in_turn(id, &to)?;
        // It may have been finished before, for others; a manifest is signed once.
        let catalog = self.catalog();
        let content = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
        let head = content.and_then(|content| self.manifest_head(content));
        let read = head.and_then(|(manifest, _)| Manifest::decode(&manifest).ok());
        if !to.is_empty() && read.is_some_and(|it| it.claim().to != to) {
            let id = key.content_id.as_str();
            return Err(StoreError::Conflict(format!(
                "{id:?} is finished already, and not for these nodes; remove it first, or use \
                 another content_id"
            )));
        }
        Ok(key)
    }

    /// Ends on-demand contents to which nothing was added for a while and that have no gap.
    pub fn finish_idle(&self) {
        let now = self.settings().clock.now();
        let after = self.settings().finish_after;
        let publisher = self.publisher();
        let catalog = self.catalog();
        let idle = catalog.growing().filter(|content| {
            !content.superseded
                && content.priority == Priority::Vod
                && content.key.publisher == publisher
                && now.since(content.last_arrival) >= after
                && content.renditions.iter().all(RenditionState::is_whole)
        });
        for content in idle {
            match self.finish(&content.key.content_id) {
                Ok(key) => tracing::info!(content = %key.content_id, "finished: nothing came"),
                Err(error) => tracing::warn!(%error, "a growing content could not be finished"),
            }
        }
    }

    fn finish_in_turn(
        &self,
        id: &ContentId,
        to: &[PublisherKey],
    ) -> Result<ContentKey, StoreError> {
        for _ in 0..TRIES {
            let catalog = self.catalog();
            let found = catalog.find(Some(&self.publisher()), id, None);
            let before = found.ok_or_else(|| not_here(id))?;
            if before.state == State::Finished {
                return Ok(before.key.clone());
            }
            let rows = |no, kind| self.rows_of(before.no, Some((no, kind)));
            let end = End::of(before, rows, (&self.key, to), self.settings().clock.now())?;
            let draft = self.draft_manifest(&end.signed, end.rows.iter())?;
            let file = draft.path().to_owned();
            let generation = before.generation;
            let ended = self.write(move |tx| {
                let now = tx.content(end.content.no);
                if now.map_or(true, |now| now.generation != generation) {
                    return Ok(false);
                }
                end.put(tx, file).map(|()| true)
            });
            draft.settle(ended == Ok(true));
            if ended? {
                return Ok(before.key.clone());
            }
        }
        let (id, to, signer) = (id.clone(), to.to_owned(), self.key.clone());
        let store = self.clone();
        self.write(move |tx| {
            let found = tx.catalog().find(Some(&signer.publisher()), &id, None);
            let before = found.cloned().ok_or_else(|| not_here(&id))?;
            if before.state == State::Finished {
                return Ok(before.key.clone());
            }
            let rows = |no, kind| tx.rows(before.no, Some((no, kind)));
            let end = End::of(&before, rows, (&signer, &to), tx.now())?;
            let draft = store.draft_manifest(&end.signed, end.rows.iter())?;
            end.put(tx, draft.keep())?;
            Ok(before.key.clone())
        })
    }
}

fn not_here(id: &ContentId) -> StoreError {
    StoreError::NotFound(format!("content {:?}", id.as_str()))
}

/// A content as it is when it is finished.
struct End {
    content: Content,
    signed: Verified<SignedManifest>,
    rows: Vec<SegmentRow>,
}

impl End {
    /// Of a growing content and its rows, for these nodes.
    fn of(
        before: &Content,
        rows_of: impl Fn(u16, Kind) -> Result<Rows, StoreError>,
        (signer, to): (&SigningKey, &[PublisherKey]),
        now: Time,
    ) -> Result<Self, StoreError> {
        let mut content = before.clone();
        let mut rows = Vec::new();
        for (no, state) in content.renditions.iter_mut().enumerate() {
            let no = no as u16;
            let (inits, media) = (rows_of(no, Kind::Init)?, rows_of(no, Kind::Media)?);
            rows.extend(finish_rendition(before, state, inits, media)?);
        }
        let leaves: Vec<Leaf> = rows
            .iter()
            .map(|(key, row)| record_of(before, *key, row).leaf())
            .collect();
        let infos = content.renditions.iter().map(|state| state.info.clone());
        let manifest = Manifest {
            content: content.key.clone(),
            title: content.title.clone(),
            priority: content.priority,
            created: now.max(content.last_arrival),
            ttl: content.ttl,
            target_duration: content.target_duration,
            to: to.to_vec(),
            renditions: infos.collect(),
            records_root: merkle_root(&leaves),
        };
        let signed = sign_or_check(signer, manifest, leaves, None)?;
        content.state = State::Finished;
        content.hold_until = Some(signed.manifest.expires());
        content.expires = signed.manifest.expires();
        Ok(Self {
            content,
            signed,
            rows: rows.into_iter().map(|(_, row)| row).collect(),
        })
    }

    fn put(self, tx: &mut Tx<'_>, file: std::path::PathBuf) -> Result<(), StoreError> {
        let mut content = self.content;
        let content_no = content.no;
        let before = tx.content(content_no)?;
        tx.put_manifest(&mut content, &self.signed, file);
        tx.tell(Change::Admitted { content_no });
        tx.requeue(&before, content)
    }
}

/// Brings the sums of a rendition to what its manifest row says; returns its rows.
fn finish_rendition(
    content: &Content,
    state: &mut RenditionState,
    mut rows: Rows,
    media: Rows,
) -> Result<Rows, StoreError> {
    let missing = |what: &str, sequence: u64| {
        Err(StoreError::Conflict(format!(
            "{what} {sequence} of {:?} has not come; send it and finish again",
            content.key.content_id.as_str()
        )))
    };
    let inits = rows.len() as u64;
    if let Some(gap) = first_gap(&rows, 0, state.info.inits) {
        return missing("init segment", gap);
    }
    if let Some(gap) = first_gap(&media, state.first, state.next) {
        return missing("segment", gap);
    }
    (state.info.duration, state.info.bytes) = (0, 0);
    for (key, row) in &media {
        if state.info.mime.needs_init() && row.init.is_none_or(|init| init >= inits) {
            return Err(StoreError::Conflict(format!(
                "segment {} of {:?} names no init segment that has come; send it and finish again",
                key.sequence,
                content.key.content_id.as_str()
            )));
        }
        state.info.duration += row.duration;
        state.info.bytes += row.length;
    }
    state.info.first = state.first;
    state.info.segments = state.next - state.first;
    state.info.average_bandwidth = bits_per_second(state.info.bytes, state.info.duration);
    rows.extend(media);
    Ok(rows)
}

/// The first sequence of `from..to` that no row has.
fn first_gap(rows: &[(SegmentKey, SegmentRow)], from: u64, to: u64) -> Option<u64> {
    let held = rows.iter().map(|(key, _)| key.sequence);
    let whole = held
        .zip(from..to)
        .take_while(|(held, wanted)| held == wanted)
        .count() as u64;
    (from + whole < to).then_some(from + whole)
}
