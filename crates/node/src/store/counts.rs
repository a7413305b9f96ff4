//! The counters of a content, as segments come and go.

use lavant_proto::content::{Kind, RenditionInfo};

use super::catalog::Content;
use super::convert::bits_per_second;
use super::payload;
use super::rows::{SegmentKey, SegmentRow};

/// Counts a segment that came, or came back.
pub(super) fn count(content: &mut Content, key: SegmentKey, row: &SegmentRow, came_back: bool) {
    content.held_bytes += payload::disk_bytes(row.length);
    let state = &mut content.renditions[usize::from(key.rendition_no)];
    if key.kind == Kind::Init {
        state.info.inits = state.info.inits.max(key.sequence + 1);
        return;
    }
    state.next = state.next.max(key.sequence + 1);
    state.reached = state.reached.max(key.sequence + 1);
    state.present += 1;
    state.present_duration += row.duration;
    state.present_bytes += row.length;
    if came_back {
        return;
    }
    let RenditionInfo {
        bandwidth,
        average_bandwidth,
        segments,
        duration,
        bytes,
        ..
    } = &mut state.info;
    *segments += 1;
    *duration += row.duration;
    *bytes += row.length;
    *bandwidth = (*bandwidth).max(bits_per_second(row.length, row.duration));
    *average_bandwidth = bits_per_second(*bytes, *duration);
}

/// Counts a segment that left as no longer present.
pub(super) fn uncount(content: &mut Content, key: SegmentKey, row: &SegmentRow) {
    let bytes = payload::disk_bytes(row.length);
    content.held_bytes = content.held_bytes.saturating_sub(bytes);
    if key.kind == Kind::Init {
        return;
    }
    let state = &mut content.renditions[usize::from(key.rendition_no)];
    state.present = state.present.saturating_sub(1);
    state.present_duration = state.present_duration.saturating_sub(row.duration);
    state.present_bytes = state.present_bytes.saturating_sub(row.length);
}
