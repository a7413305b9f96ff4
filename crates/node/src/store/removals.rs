//! What the operator removed, which does not come back over a link.

use std::time::Duration;

use lavant_proto::ids::ContentKey;
use lavant_proto::time::Time;
use redb::{ReadableTable, ReadableTableMetadata};

use super::catalog::{Catalog, Content};
use super::error::StoreError;
use super::rows::version_key;
use super::tx::Tx;

/// How long a removal is remembered at least.
const REMOVAL_MIN: Duration = Duration::from_secs(30 * 86_400);

/// Most removals that are remembered; the one that ends first is forgotten.
const REMOVALS_MAX: u64 = 100_000;

/// The same for a transaction.
pub(super) fn check_comes_back(tx: &Tx<'_>, key: &ContentKey) -> Result<(), StoreError> {
    let of = version_key(&key.publisher, &key.content_id);
    let removed = tx
        .tables()
        .removals
        .get(of.as_slice())?
        .map(|row| row.value());
    refuse_removed(removed, tx.catalog(), key, tx.now())
}

pub(super) fn refuse_removed(
    removed: Option<(u32, u64)>,
    catalog: &Catalog,
    key: &ContentKey,
    now: Time,
) -> Result<(), StoreError> {
    let id = key.content_id.as_str();
    if removed.is_some_and(|(version, until)| version >= key.version && Time(until) > now) {
        return Err(StoreError::Removed(format!(
            "{id:?} was removed here and does not come back by itself"
        )));
    }
    let mut versions = catalog.versions(&key.publisher, &key.content_id);
    if versions.any(|content| content.key.version > key.version) {
        return Err(StoreError::Conflict(format!(
            "a later version of {id:?} is here"
        )));
    }
    Ok(())
}

/// Remembers that the operator removed a version, until its segments are of no use.
pub(super) fn note_removal(tx: &mut Tx<'_>, content: &Content) -> Result<(), StoreError> {
    let key = version_key(&content.key.publisher, &content.key.content_id);
    let before = tx
        .tables()
        .removals
        .get(key.as_slice())?
        .map(|row| row.value());
    let (version, until) = before.unwrap_or_default();
    let end = content.expires.max(tx.now().after(REMOVAL_MIN));
    if before.is_none() && tx.tables().removals.len()? >= REMOVALS_MAX {
        let mut ends = Vec::new();
        for row in tx.tables().removals.iter()? {
            let (key, row) = row?;
            ends.push((row.value().1, key.value().to_vec()));
        }
        if let Some((_, first)) = ends.into_iter().min() {
            tx.forget_removal(&first)?;
        }
    }
    let row = (version.max(content.key.version), until.max(end.0));
    tx.put_removal(&key, row)
}
