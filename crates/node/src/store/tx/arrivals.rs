//! Rows of a long content that come before it, some at a time.
//!
//! Nobody sees rows whose content is not there. It is written down in `arrivals` meanwhile, so that
//! they go like those of a removed content when it does not come: the caller gave up, or the
//! process ended.

use redb::ReadableTable;

use super::Tx;
use crate::store::catalog::Content;
use crate::store::error::StoreError;
use crate::store::rows::{SegmentKey, SegmentRow};

impl Tx<'_> {
    /// Begins with a content. Returns its number.
    pub(in crate::store) fn begin_arrival(
        &mut self,
        mut content: Content,
    ) -> Result<u64, StoreError> {
        content.no = self.next_content_no()?;
        self.tables
            .arrivals
            .insert(content.no, content.encode().as_slice())?;
        Ok(content.no)
    }

    /// Enters a row whose payload is not here, without a place in the queues.
    pub(in crate::store) fn arrive(
        &mut self,
        key: SegmentKey,
        row: &SegmentRow,
    ) -> Result<(), StoreError> {
        self.put_segment(key, row)
    }

    /// All rows are there, and the content comes with this transaction.
    pub(in crate::store) fn end_arrival(&mut self, no: u64) -> Result<(), StoreError> {
        self.tables.arrivals.remove(no)?;
        Ok(())
    }

    /// The content does not come: its rows go with the next commits.
    pub(in crate::store) fn give_arrival_up(&mut self, no: u64) -> Result<(), StoreError> {
        let row = self.tables.arrivals.remove(no)?;
        if let Some(row) = row.map(|row| row.value().to_vec()) {
            self.tables.leftovers.insert(no, row.as_slice())?;
        }
        Ok(())
    }

    /// The process ended that had them come.
    pub(in crate::store) fn give_all_arrivals_up(&mut self) -> Result<(), StoreError> {
        loop {
            let first = self.tables.arrivals.first()?.map(|(no, _)| no.value());
            let Some(no) = first else {
                return Ok(());
            };
            self.give_arrival_up(no)?;
        }
    }
}
