//! What commits change, told to whoever listens, and what is here.

use std::ops::RangeInclusive;

use lavant_proto::content::Kind;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::catalog::Content;
use super::change::Change;
use super::engine::Store;
use super::error::StoreError;
use super::locked::lock;
use super::rows::{SegmentKey, SegmentRow};

/// The segments of one kind of a rendition that are here, as runs of sequences.
pub type Held = (u16, Kind, Vec<RangeInclusive<u64>>);

impl Store {
    /// What every commit changes from now on, one batch for each, told when it is durable. Whoever
    /// asks must listen, since the batches wait in memory.
    #[must_use]
    pub fn subscribe(&self) -> UnboundedReceiver<Vec<Change>> {
        let (sender, receiver) = unbounded_channel();
        lock(&self.shared.listeners).push(sender);
        receiver
    }

    /// The segments of a content that are here. Of a rendition of which all are, no row is read.
    pub fn holdings(&self, content: &Content) -> Result<Vec<Held>, StoreError> {
        let mut held: Vec<Held> = Vec::new();
        for (no, state) in content.renditions.iter().enumerate() {
            let no = no as u16;
            if state.info.inits > 0 {
                held.push((no, Kind::Init, self.runs_here(content.no, no, Kind::Init)?));
            }
            let media = if state.present == 0 {
                Vec::new()
            } else if state.is_whole() {
                vec![state.first..=state.next - 1]
            } else {
                self.runs_here(content.no, no, Kind::Media)?
            };
            held.push((no, Kind::Media, media));
        }
        held.retain(|(.., runs)| !runs.is_empty());
        Ok(held)
    }

    fn runs_here(
        &self,
        content_no: u64,
        rendition_no: u16,
        kind: Kind,
    ) -> Result<Vec<RangeInclusive<u64>>, StoreError> {
        let range = SegmentKey::range(content_no, Some((rendition_no, kind)));
        let table = self.segments()?;
        let mut runs: Vec<RangeInclusive<u64>> = Vec::new();
        for entry in table.range(range.start().as_slice()..=range.end().as_slice())? {
            let (key, row) = entry?;
            if !SegmentRow::is_present(row.value()) {
                continue;
            }
            let SegmentKey { sequence, .. } = SegmentKey::from_bytes(key.value())?;
            match runs.last_mut() {
                Some(run) if run.end() + 1 == sequence => *run = *run.start()..=sequence,
                _ => runs.push(sequence..=sequence),
            }
        }
        Ok(runs)
    }
}
