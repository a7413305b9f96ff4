//! The playlist of a live stream, from its window alone.

use lavant_media::hls::{
    LowLatency, MediaPlaylist, MediaSegment, OpenSegment, PlaylistError, PlaylistPart,
};
use lavant_media::live::Part;
use lavant_proto::time::TICKS_PER_SECOND;

use super::window::{Segment, Window};

/// Parts are listed of segments that end within so many target durations of the end (RFC 8216bis
/// section 4.4.4.9).
const PARTS_LISTED: u64 = 3;
/// The most entries with parts, the open segment among them. Some parsers count segments where the
/// rule counts time, and short segments would be too many for them.
const ENTRIES_WITH_PARTS: usize = 3;
/// A delta update leaves out what is further than so many target durations from the end
/// (RFC 8216bis section 4.4.3.8).
const SKIP: u64 = 6;

/// How a playlist is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Whole segments: nothing that needs steady arrival.
    Plain,
    /// With parts and the promise to wait for them.
    Low,
    /// The same as a delta update.
    Delta,
}

/// The text of a playlist. Paths of segments begin with `base`, which ends with a slash.
pub(super) fn render(window: &Window, base: &str, form: Form) -> Result<String, PlaylistError> {
    let (target_duration, part_target) = window.targets.unwrap_or((2, TICKS_PER_SECOND));
    let is_low = form != Form::Plain && !window.has_ended;
    let listed: u64 = window.segments.iter().map(|segment| segment.duration).sum();
    let skip_until = SKIP * target_duration * TICKS_PER_SECOND;
    let parts_from = PARTS_LISTED * target_duration * TICKS_PER_SECOND;
    let open = window.segments.back();
    let open = open.filter(|segment| segment.is_open && !segment.parts.is_empty());
    // Entries behind the one that is looked at: the hint of the next part counts as one.
    let mut behind = window.segments.iter().filter(|it| !it.is_open).count() + 1;
    let mut left = listed;
    let mut segments = Vec::new();
    let mut skipped = 0;
    for segment in window.segments.iter().filter(|segment| !segment.is_open) {
        left -= segment.duration;
        behind -= 1;
        if form == Form::Delta && left >= skip_until {
            skipped += 1;
            continue;
        }
        let parts = if is_low && left < parts_from && behind < ENTRIES_WITH_PARTS {
            parts(base, segment)
        } else {
            Vec::new()
        };
        segments.push(MediaSegment {
            uri: format!("{base}{}.m4s", segment.no),
            duration: segment.duration,
            discontinuity: segment.discontinuity,
            gap: false,
            init: Some(init_uri(base, segment.init)),
            date: Some(segment.date.rfc3339_millis()),
            parts,
        });
    }
    let low_latency = is_low.then(|| LowLatency {
        part_target,
        open: open.map(|open| OpenSegment {
            discontinuity: open.discontinuity,
            init: Some(init_uri(base, open.init)),
            date: Some(open.date.rfc3339_millis()),
            parts: parts(base, open),
        }),
        hint: Some(match open {
            Some(open) => part_uri(base, open.no, open.parts.len()),
            None => part_uri(base, window.edge(), 0),
        }),
    });
    let first = window.segments.front();
    let is_independent = |it: &Segment| it.independent || it.parts.is_empty() && it.is_open;
    MediaPlaylist {
        target_duration,
        media_sequence: first.map_or(window.edge(), |first| first.no),
        discontinuity_sequence: window.discontinuities_gone,
        independent_segments: window.segments.iter().all(is_independent),
        low_latency,
        // Below this nothing would ever be left out.
        skip_until: if is_low { skip_until } else { 0 },
        skipped,
        segments,
        end: window.has_ended,
        ..MediaPlaylist::default()
    }
    .render()
}

fn parts(base: &str, segment: &Segment) -> Vec<PlaylistPart> {
    let entry = |(index, part): (usize, &Part)| PlaylistPart {
        uri: part_uri(base, segment.no, index),
        duration: part.duration,
        independent: part.independent,
    };
    segment.parts.iter().enumerate().map(entry).collect()
}

fn init_uri(base: &str, no: u64) -> String {
    format!("{base}init-{no}.mp4")
}

fn part_uri(base: &str, no: u64, index: usize) -> String {
    format!("{base}{no}.{index}.m4s")
}
