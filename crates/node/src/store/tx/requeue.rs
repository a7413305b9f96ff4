//! Moving the segments of a content in the queues, some at a time.
//!
//! Where a segment stands in the queues is decided by its content: whether that is pinned, and when
//! all of it expires together. To move all segments of a long content in one commit would hold
//! everybody up. So the content changes at once, and a row in `requeues` says by what its segments
//! may still stand and which of them is next. Until the last one has moved, whoever finds an entry
//! that is not where the content says passes it over.

use std::ops::Bound;

use lavant_proto::content::Kind;
use lavant_proto::time::Time;
use redb::ReadableTable;

use super::{STEP, Tx};
use crate::store::catalog::Content;
use crate::store::error::StoreError;
use crate::store::rows::{SegmentKey, SegmentRow};

/// What of a content decides where its segments stand in the queues, beside what never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Placing {
    pub(super) pinned: bool,
    hold_until: Option<Time>,
}

impl Placing {
    pub(super) const fn of(content: &Content) -> Self {
        Self {
            pinned: content.pinned,
            // What is pinned stands nowhere.
            hold_until: match content.pinned {
                true => None,
                false => content.hold_until,
            },
        }
    }

    /// When a segment expires: with its content once that is finished or superseded, else on its
    /// own; init segments go with their content, pinned contents stay.
    pub(super) fn deadline(self, key: SegmentKey, row: &SegmentRow) -> Option<Time> {
        let stays = self.pinned || key.kind == Kind::Init;
        (!stays).then(|| self.hold_until.unwrap_or_else(|| row.expires()))
    }
}

/// What is left to be moved of a content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Requeue {
    /// By what its segments may stand, beside what the content says now. There are two states of a
    /// pin and three of an end, so these are few.
    placings: Vec<Placing>,
    /// The last one that was moved.
    done: Option<SegmentKey>,
}

impl Requeue {
    /// Number of placings, each as flags and a time, and the key of the last segment if there is
    /// one.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.placings.len() as u8];
        for placing in &self.placings {
            let held = u8::from(placing.hold_until.is_some()) << 1;
            bytes.push(u8::from(placing.pinned) | held);
            let time = placing.hold_until.unwrap_or(Time(0));
            bytes.extend_from_slice(&time.0.to_be_bytes());
        }
        bytes.extend(self.done.iter().flat_map(|key| key.to_bytes()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Index("what is to be moved in the queues is damaged".into());
        let (count, mut rest) = bytes.split_first().ok_or_else(damaged)?;
        let mut placings = Vec::new();
        for _ in 0..*count {
            let (flags, tail) = rest.split_first().ok_or_else(damaged)?;
            let (time, tail) = tail.split_first_chunk::<8>().ok_or_else(damaged)?;
            let time = Time(u64::from_be_bytes(*time));
            placings.push(Placing {
                pinned: flags & 1 != 0,
                hold_until: (flags & 2 != 0).then_some(time),
            });
            rest = tail;
        }
        let done = match rest {
            [] => None,
            key => Some(SegmentKey::from_bytes(key)?),
        };
        Ok(Self { placings, done })
    }
}

impl Tx<'_> {
    /// Changes a content in a way that moves its segments in the queues: some at once, others with
    /// the next commits.
    pub(in crate::store) fn requeue(
        &mut self,
        before: &Content,
        after: Content,
    ) -> Result<(), StoreError> {
        let (no, from) = (after.no, Placing::of(before));
        let moves = from != Placing::of(&after);
        self.put_content(after)?;
        if !moves {
            return Ok(());
        }
        let mut left = self.left_to_move(no)?.unwrap_or_default();
        if !left.placings.contains(&from) {
            left.placings.push(from);
        }
        left.done = None;
        self.move_on(no, left)
    }

    /// Gives all segments of a content their places in the queues, some at once.
    pub(in crate::store) fn queue_all(&mut self, no: u64) -> Result<(), StoreError> {
        let mut left = self.left_to_move(no)?.unwrap_or_default();
        left.done = None;
        self.move_on(no, left)
    }

    /// By what the segments of a content may stand in the queues beside what it says itself.
    pub(super) fn other_placings(&self, no: u64) -> Result<Vec<Placing>, StoreError> {
        Ok(self.left_to_move(no)?.unwrap_or_default().placings)
    }

    fn left_to_move(&self, no: u64) -> Result<Option<Requeue>, StoreError> {
        let row = self.tables.requeues.get(no)?;
        row.map(|row| Requeue::decode(row.value())).transpose()
    }

    /// The first content that has segments to be moved. One that is removed takes its own along.
    fn to_move(&self) -> Result<Option<(u64, Requeue)>, StoreError> {
        for entry in self.tables.requeues.iter()? {
            let (no, row) = entry?;
            if self.catalog.get(no.value()).is_some() {
                return Ok(Some((no.value(), Requeue::decode(row.value())?)));
            }
        }
        Ok(None)
    }

    /// Whether segments are to be moved in the queues.
    pub(in crate::store) fn has_moves(&self) -> Result<bool, StoreError> {
        Ok(self.to_move()?.is_some())
    }

    /// Moves some segments that stand where their content does not say. Whether there were some.
    pub(in crate::store) fn requeue_some(&mut self) -> Result<bool, StoreError> {
        let Some((no, left)) = self.to_move()? else {
            return Ok(false);
        };
        self.move_on(no, left)?;
        Ok(true)
    }

    /// Moves the next segments of a content.
    fn move_on(&mut self, no: u64, mut left: Requeue) -> Result<(), StoreError> {
        // First: whatever is taken out looks there for where it may stand.
        self.tables.requeues.insert(no, left.encode().as_slice())?;
        let content = self.content(no)?;
        let range = SegmentKey::range(no, None);
        let first = left.done.map(SegmentKey::to_bytes);
        let from = match &first {
            Some(done) => Bound::Excluded(done.as_slice()),
            None => Bound::Included(range.start().as_slice()),
        };
        let to = Bound::Included(range.end().as_slice());
        let rows = self.some_rows((from, to), STEP)?;
        for (key, row) in &rows {
            self.dequeue(&content, *key, row)?;
            self.enqueue(&content, *key, row)?;
        }
        self.rows_gone += rows.len();
        if rows.len() < STEP {
            self.tables.requeues.remove(no)?;
            return Ok(());
        }
        left.done = rows.last().map(|(key, _)| *key);
        self.tables.requeues.insert(no, left.encode().as_slice())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_be_moved_round_trips() {
        let key = SegmentKey {
            content_no: 3,
            rendition_no: 1,
            kind: Kind::Media,
            sequence: 70,
        };
        let placing = |pinned, hold_until| Placing { pinned, hold_until };
        for left in [
            Requeue::default(),
            Requeue {
                placings: vec![placing(true, None), placing(false, Some(Time(9)))],
                done: Some(key),
            },
        ] {
            assert_eq!(Requeue::decode(&left.encode()), Ok(left));
        }
        assert!(Requeue::decode(&[]).is_err() && Requeue::decode(&[1, 0]).is_err());
    }
}
