//! A later version takes the place of earlier ones.

use super::catalog::Content;
use super::convert::mark_superseded;
use super::error::StoreError;
use super::tx::Tx;

/// Marks earlier versions; they stay for a while, since playlists that name them are in use.
/// Returns whether one of them was pinned, as its content then is.
pub(super) fn supersede(tx: &mut Tx<'_>, newer: &Content) -> Result<bool, StoreError> {
    let key = &newer.key;
    let older: Vec<_> = tx
        .catalog()
        .versions(&key.publisher, &key.content_id)
        .filter(|c| !c.superseded && c.key.version < key.version)
        .cloned()
        .collect();
    let mut pinned = false;
    for before in older {
        let mut after = Content::clone(&before);
        pinned |= mark_superseded(&mut after, tx.now());
        tx.unpin(&after.key);
        tx.requeue(&before, after)?;
    }
    Ok(pinned)
}
