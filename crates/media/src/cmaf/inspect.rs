//! Says what an init segment and a segment of fragmented MP4 hold.

use super::boxes::{self, Children};
use super::fragment;
use super::init::{self, Track};
use crate::codec::{Inspection, Kind, StreamInfo};
use crate::{Error, TICKS_PER_SECOND};

/// The tracks of video and audio that an init segment describes.
///
/// # Errors
/// When `data` holds no readable `moov` box, or one of a file that is not fragmented.
pub fn inspect_init(data: &[u8]) -> Result<Vec<StreamInfo>, Error> {
    let tracks = tracks(data)?.ok_or(Error::NoInit)?;
    Ok(tracks.into_iter().map(|track| track.info).collect())
}

/// Says what one whole segment holds. Without `init`, the init segment must be within `data`.
///
/// # Errors
/// When there is no init segment, or `data` is no run of whole boxes with at least one fragment
/// of the reference track.
pub fn inspect(init: Option<&[u8]>, data: &[u8]) -> Result<Inspection, Error> {
    let tracks = tracks(init.unwrap_or(data))?.ok_or(Error::NoInit)?;
    let reference = init::reference(&tracks).ok_or(Error::NoMedia)?;
    let mut key = None;
    let mut sum = 0u64;
    let mut samples = 0u64;
    let mut span: Option<(u64, u64)> = None;
    for child in Children::of(data) {
        let (kind, body) = child?;
        if kind != *b"moof" {
            continue;
        }
        let Some(found) = fragment::read(body, reference)? else {
            continue;
        };
        key.get_or_insert(found.key);
        sum = sum.saturating_add(found.duration);
        samples = samples.saturating_add(found.samples);
        // A fragment without a time follows the one before.
        let time = found.time.or_else(|| span.map(|(_, end)| end)).unwrap_or(0);
        let first = span.map_or(time, |(first, _)| first);
        span = Some((first, time.saturating_add(found.duration)));
    }
    let (Some(key), Some((first, end))) = (key, span) else {
        return Err(Error::NoKeyFrame);
    };
    let scale = reference.timescale;
    let gapless = fragment::ticks(sum, scale);
    let spanned = fragment::ticks(end, scale).saturating_sub(fragment::ticks(first, scale));
    // Time stamps tell of gaps between fragments, unless they jump.
    let is_near = spanned.abs_diff(gapless) <= 10 * TICKS_PER_SECOND && end > first;
    let duration = if is_near { spanned } else { gapless };
    let id = reference.id;
    let streams = tracks
        .into_iter()
        .map(|track| describe(track, id, samples, gapless))
        .collect();
    Ok(Inspection {
        duration,
        starts_with_key_frame: key,
        streams,
    })
}

fn describe(track: Track, reference: u32, samples: u64, span: u64) -> StreamInfo {
    let mut info = track.info;
    // Only of the reference track are samples counted; one sample says nothing of a rate.
    let measured = track.id == reference && samples > 1 && span > 0;
    if info.kind == Kind::Video && info.frame_rate.is_none() && measured {
        info.frame_rate = Some(samples as f64 * TICKS_PER_SECOND as f64 / span as f64);
    }
    info
}

fn tracks(data: &[u8]) -> Result<Option<Vec<Track>>, Error> {
    boxes::find(data, b"moov")?.map(init::tracks).transpose()
}
