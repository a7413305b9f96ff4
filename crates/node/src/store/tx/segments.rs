//! Segments in the index: whatever changes one keeps its row, the queues, the uses of its payload,
//! the counters of its content, and what is told of it, in step.

use std::ops::Bound;
use std::path::PathBuf;

use lavant_proto::content::Kind;
use lavant_proto::ids::Root;
use lavant_proto::relay::evict::{EvictionRank, Holding};
use lavant_proto::time::Time;
use redb::ReadableTable;

use super::Tx;
use super::requeue::Placing;
use crate::store::catalog::Content;
use crate::store::change::Change;
use crate::store::counts::{count, uncount};
use crate::store::error::StoreError;
use crate::store::payload;
use crate::store::rows::{SegmentKey, SegmentRow, deadline_key, eviction_key};

/// Why a payload goes whose segment stays known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Why {
    /// Its time is over.
    Expired,
    /// It makes room.
    Evicted,
    /// Its file is damaged or gone.
    Torn,
}

impl Tx<'_> {
    /// Enters a segment that came: its payload is used once more, and `content` counts it. `held`
    /// is its row if it was known before. A content whose sums hold it already, because a manifest
    /// said them, says so by `is_counted`.
    pub(in crate::store) fn enter(
        &mut self,
        content: &mut Content,
        (key, row): (SegmentKey, &SegmentRow),
        (held, is_counted): (Option<&SegmentRow>, bool),
        file: Option<PathBuf>,
    ) -> Result<(), StoreError> {
        if let Some(held) = held {
            self.dequeue(content, key, held)?;
        }
        count(content, key, row, is_counted);
        self.add_payload(&row.root, row.length, file)?;
        self.put_segment(key, row)?;
        self.enqueue(content, key, row)?;
        self.changes.push(Change::stored(key, row));
        Ok(())
    }

    /// Takes the payload of a segment away, which stays known: its playlist shows a gap. Whose time
    /// is over has no place in a queue any more.
    pub(in crate::store) fn leave(
        &mut self,
        content: &mut Content,
        (key, row): (SegmentKey, &SegmentRow),
        why: Why,
    ) -> Result<(), StoreError> {
        self.dequeue(content, key, row)?;
        if !row.present {
            return Ok(());
        }
        self.drop_payload(&row.root)?;
        uncount(content, key, row);
        let gap = SegmentRow {
            present: false,
            ..row.clone()
        };
        self.put_segment(key, &gap)?;
        match why {
            Why::Expired => self.dropped.expired += 1,
            Why::Evicted => self.dropped.evicted += 1,
            Why::Torn => self.dropped.torn += 1,
        }
        if why != Why::Expired {
            self.enqueue(content, key, &gap)?;
        }
        self.changes.push(Change::dropped(key, why == Why::Torn));
        Ok(())
    }

    /// Takes the row of a segment out. What its payload is used for, the caller says.
    pub(in crate::store) fn withdraw(
        &mut self,
        content: &Content,
        (key, row): (SegmentKey, &SegmentRow),
    ) -> Result<(), StoreError> {
        self.dequeue(content, key, row)?;
        self.tables.segments.remove(key.to_bytes().as_slice())?;
        Ok(())
    }

    /// Enters a row whose payload, if it is here, is used by it already: it was withdrawn.
    pub(in crate::store) fn carry(
        &mut self,
        content: &mut Content,
        (key, row): (SegmentKey, &SegmentRow),
    ) -> Result<(), StoreError> {
        if row.present {
            count(content, key, row, true);
        }
        self.put_segment(key, row)?;
        self.enqueue(content, key, row)
    }

    /// Enters a row of an index that is made again; its content was counted.
    pub(in crate::store) fn restore(
        &mut self,
        content: &Content,
        (key, row): (SegmentKey, &SegmentRow),
    ) -> Result<(), StoreError> {
        if row.present {
            self.add_payload(&row.root, row.length, None)?;
        }
        self.put_segment(key, row)?;
        self.enqueue(content, key, row)
    }

    /// Changes what is noted of a segment beside its payload.
    pub(in crate::store) fn revise(
        &mut self,
        content: &Content,
        key: SegmentKey,
        (before, after): (&SegmentRow, &SegmentRow),
    ) -> Result<(), StoreError> {
        self.dequeue(content, key, before)?;
        self.put_segment(key, after)?;
        self.enqueue(content, key, after)
    }

    /// Empties both queues, to fill them anew.
    pub(in crate::store) fn clear_queues(&mut self) -> Result<(), StoreError> {
        self.tables.deadlines.retain(|_, ()| false)?;
        self.tables.eviction.retain(|_, ()| false)?;
        self.tables.requeues.retain(|_, _| false)?;
        Ok(())
    }

    /// Enters a segment into queues that were emptied, and its row if that was changed.
    pub(in crate::store) fn refill(
        &mut self,
        content: &Content,
        (key, row): (SegmentKey, &SegmentRow),
        is_changed: bool,
    ) -> Result<(), StoreError> {
        if is_changed {
            self.put_segment(key, row)?;
        }
        self.enqueue(content, key, row)
    }

    /// Takes a deadline out whose segment may be gone.
    pub(in crate::store) fn pass_deadline(
        &mut self,
        due: Time,
        key: SegmentKey,
    ) -> Result<(), StoreError> {
        let at = deadline_key(due, key);
        self.tables.deadlines.remove(at.as_slice())?;
        Ok(())
    }

    pub(in crate::store) fn segment(
        &self,
        key: SegmentKey,
    ) -> Result<Option<SegmentRow>, StoreError> {
        let row = self.tables.segments.get(key.to_bytes().as_slice())?;
        row.map(|row| SegmentRow::decode(row.value())).transpose()
    }

    pub(super) fn put_segment(
        &mut self,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        self.tables
            .segments
            .insert(key.to_bytes().as_slice(), row.encode().as_slice())?;
        Ok(())
    }

    /// Enters a segment into the queues of expiry and eviction.
    pub(super) fn enqueue(
        &mut self,
        content: &Content,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        if let Some(deadline) = deadline(content, key, row) {
            self.tables
                .deadlines
                .insert(deadline_key(deadline, key).as_slice(), ())?;
        }
        if let Some(rank) = self.rank(content, key, row) {
            self.tables
                .eviction
                .insert(eviction_key(rank, key).as_slice(), ())?;
        }
        Ok(())
    }

    /// Takes a segment out of both queues, wherever in them it may stand.
    pub(super) fn dequeue(
        &mut self,
        content: &Content,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        let mut placings = self.other_placings(key.content_no)?;
        placings.push(Placing::of(content));
        for placing in placings {
            if let Some(deadline) = placing.deadline(key, row) {
                self.tables
                    .deadlines
                    .remove(deadline_key(deadline, key).as_slice())?;
            }
            if let Some(rank) = self.rank_by(content, placing, (key, row)) {
                self.tables
                    .eviction
                    .remove(eviction_key(rank, key).as_slice())?;
            }
        }
        Ok(())
    }

    /// Counts one more use of a payload. The file that waits, if there is one, takes the place of
    /// one that is here already: it was verified just now, and the other may have been damaged.
    fn add_payload(
        &mut self,
        root: &Root,
        length: u64,
        file: Option<PathBuf>,
    ) -> Result<(), StoreError> {
        let uses = self
            .tables
            .payloads
            .get(root.0.as_slice())?
            .map_or(0, |row| row.value().0);
        self.tables
            .payloads
            .insert(root.0.as_slice(), (uses + 1, length))?;
        if uses == 0 {
            self.used += payload::disk_bytes(length);
            self.effects.keep(root);
            self.tables.garbage.remove(root.0.as_slice())?;
        }
        if let Some(file) = file {
            let place = self.settings.layout.payload(root);
            self.effects.place(place, file);
        }
        Ok(())
    }

    /// Counts one use of a payload less; its file goes with the last. For a row that was withdrawn:
    /// [`Tx::leave`] does it by itself.
    pub(in crate::store) fn drop_payload(&mut self, root: &Root) -> Result<(), StoreError> {
        let Some((uses, length)) = self
            .tables
            .payloads
            .get(root.0.as_slice())?
            .map(|row| row.value())
        else {
            return Ok(());
        };
        if uses > 1 {
            self.tables
                .payloads
                .insert(root.0.as_slice(), (uses - 1, length))?;
            return Ok(());
        }
        self.tables.payloads.remove(root.0.as_slice())?;
        self.used = self.used.saturating_sub(payload::disk_bytes(length));
        self.effects.unplace(self.settings.layout.payload(root));
        self.tables.garbage.insert(root.0.as_slice(), ())?;
        self.effects.unlink(*root);
        Ok(())
    }

    /// The segments of a content, in order.
    pub(in crate::store) fn rows(
        &self,
        content_no: u64,
        within: Option<(u16, Kind)>,
    ) -> Result<Vec<(SegmentKey, SegmentRow)>, StoreError> {
        let range = SegmentKey::range(content_no, within);
        let (from, to) = (range.start().as_slice(), range.end().as_slice());
        self.some_rows((Bound::Included(from), Bound::Included(to)), usize::MAX)
    }

    /// The first segments of a range of keys, at most so many.
    pub(super) fn some_rows(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        most: usize,
    ) -> Result<Vec<(SegmentKey, SegmentRow)>, StoreError> {
        let mut rows = Vec::new();
        for entry in self.tables.segments.range::<&[u8]>(range)?.take(most) {
            let (key, row) = entry?;
            rows.push((
                SegmentKey::from_bytes(key.value())?,
                SegmentRow::decode(row.value())?,
            ));
        }
        Ok(rows)
    }

    /// Takes away rows of a removed content, at most so many.
    pub(super) fn clear(&mut self, content: &Content, most: usize) -> Result<(), StoreError> {
        let range = SegmentKey::range(content.no, None);
        let (from, to) = (range.start().as_slice(), range.end().as_slice());
        let rows = self.some_rows((Bound::Included(from), Bound::Included(to)), most)?;
        for (key, row) in &rows {
            self.dequeue(content, *key, row)?;
            if row.present {
                self.drop_payload(&row.root)?;
            }
            self.tables.segments.remove(key.to_bytes().as_slice())?;
        }
        self.rows_gone += rows.len();
        if rows.len() < most {
            self.tables.leftovers.remove(content.no)?;
            self.tables.requeues.remove(content.no)?;
        }
        Ok(())
    }

    /// The place of a segment in the queue of eviction; none when it is not here or stays.
    pub(in crate::store) fn rank(
        &self,
        content: &Content,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Option<EvictionRank> {
        self.rank_by(content, Placing::of(content), (key, row))
    }

    fn rank_by(
        &self,
        content: &Content,
        placing: Placing,
        (key, row): (SegmentKey, &SegmentRow),
    ) -> Option<EvictionRank> {
        if !row.present {
            return None;
        }
        let rank = EvictionRank::of(&Holding {
            priority: content.priority,
            copies: row.copies,
            created: row.since(),
            sequence: key.sequence,
            pinned: placing.pinned || key.kind == Kind::Init,
        });
        let standing = self.catalog.standing(&content.key.publisher);
        rank.map(|rank| rank.with_standing(standing))
    }
}

/// When a segment expires, as its content says; none when it stays.
pub(in crate::store) fn deadline(
    content: &Content,
    key: SegmentKey,
    row: &SegmentRow,
) -> Option<Time> {
    Placing::of(content).deadline(key, row)
}
