//! What records, manifests, rows and contents say of each other.

use std::time::Duration;

use lavant_proto::content::{Manifest, Proof, SegmentRecord};
use lavant_proto::time::{TICKS_PER_SECOND, Time};

use super::catalog::{Content, RenditionState, State};
use super::rows::{SegmentKey, SegmentRow};

/// How long a version stays after a later one took its place: playlists that name it are in use.
const SUPERSEDED_TTL: Duration = Duration::from_secs(3600);

/// A finished content of which nothing is here yet.
pub(super) fn content_from(
    no: u64,
    manifest: &Manifest,
    now: Time,
    source: String,
    pinned: bool,
) -> Content {
    let renditions = manifest.renditions.iter().map(|info| RenditionState {
        info: info.clone(),
        first: info.first,
        // No more discontinuities than segments can have left before the first.
        discontinuities_gone: info.first,
        next: info.first + info.segments,
        reached: info.first,
        ..RenditionState::new(info.name.clone(), info.mime)
    });
    Content {
        no,
        key: manifest.content.clone(),
        title: manifest.title.clone(),
        priority: manifest.priority,
        created: manifest.created,
        ttl: manifest.ttl,
        expires: manifest.expires(),
        hold_until: Some(manifest.expires()),
        last_arrival: now,
        target_duration: manifest.target_duration,
        state: State::Finished,
        superseded: false,
        pinned,
        held_bytes: 0,
        source,
        manifest: None,
        renditions: renditions.collect(),
        generation: 0,
    }
}

/// Leaves a version an hour. Returns whether it was pinned.
pub(super) fn mark_superseded(content: &mut Content, now: Time) -> bool {
    let soon = now.after(SUPERSEDED_TTL);
    let until = if content.pinned {
        soon
    } else {
        soon.min(content.expires)
    };
    content.superseded = true;
    content.hold_until = Some(until);
    content.expires = until;
    std::mem::take(&mut content.pinned)
}

/// The record of a stored segment.
pub(super) fn record_of(content: &Content, key: SegmentKey, row: &SegmentRow) -> SegmentRecord {
    let info = &content.renditions[usize::from(key.rendition_no)].info;
    SegmentRecord {
        content: content.key.clone(),
        title: content.title.clone(),
        target_duration: content.target_duration,
        rendition: info.name.clone(),
        kind: key.kind,
        sequence: key.sequence,
        duration: row.duration,
        discontinuity: row.discontinuity,
        independent: row.independent,
        init: row.init,
        mime: info.mime,
        priority: content.priority,
        created: row.created,
        ttl: row.ttl,
        length: row.length,
        root: row.root,
    }
}

/// Whether a record says of its content what the others do: from the content's facts and its own
/// row the record must come out as it was signed.
pub(super) fn is_of(record: &SegmentRecord, content: &Content) -> bool {
    content.title == record.title
        && content.priority == record.priority
        && content.target_duration == record.target_duration
}

pub(super) fn row_of(record: &SegmentRecord, proof: &Proof) -> SegmentRow {
    SegmentRow {
        duration: record.duration,
        discontinuity: record.discontinuity,
        independent: record.independent,
        init: record.init,
        created: record.created,
        ttl: record.ttl,
        length: record.length,
        root: record.root,
        present: true,
        copies: 0,
        arrived: None,
        signature: match proof {
            Proof::Signature(signature) => Some(*signature),
            Proof::Manifest => None,
        },
    }
}

/// Ticks in whole seconds, rounded as RFC 8216 compares durations with a target duration.
pub(super) const fn rounded_seconds(ticks: u64) -> u64 {
    ticks.saturating_add(TICKS_PER_SECOND / 2) / TICKS_PER_SECOND
}

/// Bit rate of `bytes` in `ticks`, rounded up, no more than a manifest can say; 0 when no time
/// passes.
pub(super) fn bits_per_second(bytes: u64, ticks: u64) -> u64 {
    let bits = u128::from(bytes) * 8 * u128::from(TICKS_PER_SECOND);
    let rate = if ticks == 0 {
        0
    } else {
        bits.div_ceil(ticks.into())
    };
    u64::try_from(rate).unwrap_or(BITRATE_MAX).min(BITRATE_MAX)
}

/// Highest bit rate that a manifest can say.
const BITRATE_MAX: u64 = 1 << 40;
