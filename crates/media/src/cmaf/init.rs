//! The init segment: tracks, their time scales and defaults.

use bytes::Bytes;

use super::boxes::{self, Children, Reader};
use super::entry;
use crate::codec::StreamInfo;
use crate::{Error, Kind};

/// The most tracks of an init segment.
const MAX_TRACKS: usize = 64;

/// A track of video or audio.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Track {
    pub(super) id: u32,
    pub(super) info: StreamInfo,
    pub(super) timescale: u32,
    pub(super) default_duration: u32,
    pub(super) default_flags: u32,
    pub(super) default_size: u32,
    /// Its first sample entry, whole.
    pub(super) entry: Bytes,
}

/// Reads the tracks of video and audio from the body of a `moov` box.
pub(super) fn tracks(moov: &[u8]) -> Result<Vec<Track>, Error> {
    let mut tracks = Vec::new();
    let mut defaults = None;
    for child in Children::of(moov) {
        match child? {
            (kind, body) if kind == *b"trak" => {
                if tracks.len() >= MAX_TRACKS {
                    return Err(Error::LimitReached {
                        what: "over 64 tracks",
                    });
                }
                tracks.extend(track(body)?);
            }
            (kind, body) if kind == *b"mvex" => defaults = Some(body),
            _ => {}
        }
    }
    // A file without this box has all of its samples in tables, and no fragments.
    let Some(defaults) = defaults else {
        return Err(Error::NotFragmented);
    };
    // After all tracks are known, in whichever order the boxes stand.
    for child in Children::of(defaults) {
        let (kind, body) = child?;
        if kind == *b"trex" {
            read_defaults(body, &mut tracks)?;
        }
    }
    Ok(tracks)
}

/// The track that segments are cut by: the first video, else the first audio.
pub(super) fn reference(tracks: &[Track]) -> Option<&Track> {
    tracks
        .iter()
        .find(|track| track.info.kind == Kind::Video)
        .or_else(|| tracks.first())
}

fn track(trak: &[u8]) -> Result<Option<Track>, Error> {
    let mut header = Reader::new(boxes::need(trak, b"tkhd")?);
    let (version, _) = header.full()?;
    header.skip(if version == 0 { 8 } else { 16 })?;
    let id = header.u32()?;
    let media = boxes::need(trak, b"mdia")?;
    let mut handler = Reader::new(boxes::need(media, b"hdlr")?);
    handler.skip(8)?;
    let kind = match &handler.array()? {
        b"vide" => Kind::Video,
        b"soun" => Kind::Audio,
        _ => return Ok(None),
    };
    let mut header = Reader::new(boxes::need(media, b"mdhd")?);
    let (version, _) = header.full()?;
    header.skip(if version == 0 { 8 } else { 16 })?;
    let timescale = header.u32()?;
    // All times are divided by it.
    if timescale == 0 {
        return Err(Error::malformed("a track's time scale is zero"));
    }
    let samples = boxes::need(boxes::need(media, b"minf")?, b"stbl")?;
    refuse_samples(samples)?;
    let entries = boxes::need(samples, b"stsd")?;
    let info = entry::describe(entries, kind)?;
    let entry = Bytes::copy_from_slice(entry::first(entries));
    Ok(info.map(|info| Track {
        id,
        info,
        timescale,
        default_duration: 0,
        default_flags: 0,
        default_size: 0,
        entry,
    }))
}

/// Samples in the sample table mean that media is outside of fragments.
fn refuse_samples(table: &[u8]) -> Result<(), Error> {
    let Some(times) = boxes::find(table, b"stts")? else {
        return Ok(());
    };
    let mut reader = Reader::new(times);
    reader.full()?;
    if reader.u32()? == 0 {
        Ok(())
    } else {
        Err(Error::NotFragmented)
    }
}

fn read_defaults(trex: &[u8], tracks: &mut [Track]) -> Result<(), Error> {
    let mut reader = Reader::new(trex);
    reader.full()?;
    let id = reader.u32()?;
    reader.skip(4)?;
    let duration = reader.u32()?;
    let size = reader.u32()?;
    let flags = reader.u32()?;
    if let Some(track) = tracks.iter_mut().find(|track| track.id == id) {
        track.default_duration = duration;
        track.default_flags = flags;
        track.default_size = size;
    }
    Ok(())
}
