//! Making the queues of expiry and eviction again when what decides their order is not what it was:
//! whom the operator trusts, or how they are written.

use std::sync::Arc;

use lavant_proto::relay::learn::is_early;

use super::catalog::{Catalog, Content};
use super::error::StoreError;
use super::index::{self, Index};
use super::rows::{META, SegmentRow};
use super::settings::Settings;
use super::standing::Standings;
use super::tx::Tx;

/// The fact in [`META`] that says for what the queues were made.
pub(super) const MADE_FOR: &str = "queues";

/// Makes the queues again unless they are as they should be. Returns whether the index changed.
pub(super) fn bring_up(
    settings: &Settings,
    index: &Index,
    catalog: &Catalog,
    standings: &Arc<Standings>,
) -> Result<bool, StoreError> {
    let made_for = {
        let meta = index.begin_read()?.open_table(META)?;
        meta.get(MADE_FOR)?.map(|mark| mark.value())
    };
    if made_for == Some(standings.mark()) {
        return Ok(false);
    }
    match make(settings, index, catalog, standings) {
        Ok(()) => Ok(true),
        // A full disk must not keep the store closed: what the queues do not know stays, and a
        // later start makes them.
        Err(error) if error.is_disk_full() => Ok(false),
        Err(error) => Err(error),
    }
}

fn make(
    settings: &Settings,
    index: &Index,
    catalog: &Catalog,
    standings: &Arc<Standings>,
) -> Result<(), StoreError> {
    let write = index.begin_write()?;
    {
        let mut tx = Tx::empty(&write, settings, standings)?;
        tx.clear_queues()?;
        for content in catalog.all() {
            let mut content = Content::clone(content);
            let mut rows = tx.rows(content.no, None)?;
            let is_changed = mend(&mut content, rows.iter_mut().map(|(_, row)| row));
            for (key, row) in rows {
                tx.refill(&content, (key, &row), is_changed)?;
            }
            if is_changed {
                tx.put_content(content)?;
            }
        }
        tx.put_fact(MADE_FOR, standings.mark())?;
    }
    index::commit(settings, write)?;
    Ok(())
}

/// Takes what is dated far ahead of its arrival, and so would never go, as made when it came.
/// Whether something was. The arrival is compared, not the clock, which may have been set back.
fn mend<'a>(content: &mut Content, rows: impl Iterator<Item = &'a mut SegmentRow>) -> bool {
    let came = content.last_arrival;
    let mut mended = false;
    let mut last = content.created.min(came).after(content.ttl);
    for row in rows {
        if row.arrived.is_none() && is_early(row.created, came) {
            row.arrived = Some(came);
            mended = true;
        }
        last = last.max(row.expires());
    }
    if !mended && !is_early(content.created, came) {
        return false;
    }
    content.expires = content.expires.min(last);
    content.hold_until = content.hold_until.map(|until| until.min(last));
    true
}
