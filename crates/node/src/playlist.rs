//! Playlists of stored contents, by the rules of RFC 8216bis.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use lavant_media::hls::{
    MasterPlaylist, MediaPlaylist, MediaSegment, PlaylistError, PlaylistType, Start, Variant,
};
use lavant_proto::content::{Kind, Priority};
use lavant_proto::ids::{ContentId, ContentKey, PublisherKey};
use lavant_proto::time::TICKS_PER_SECOND;

use crate::store::{Catalog, Content, RenditionState, SegmentRow, State, Store, StoreError};

/// Most bytes of playlists kept ready: a film of two hours takes 50 kB, the longest 12 MB.
const READY_BYTES_MAX: usize = 32 << 20;

/// What stands in the store for a live segment that it did not take: without it the content could
/// never be finished, as a manifest has no holes. An empty box (ISO/IEC 14496-12 section 8.1.2),
/// which players pass over where they are not told that it is a gap.
pub const LOST: &[u8; 8] = b"\0\0\0\x08free";

/// Why there is no playlist.
#[derive(Debug, thiserror::Error)]
pub enum Unplayable {
    /// Nothing to list.
    #[error("no segment of {0:?} is here yet; it is still on its way")]
    Empty(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rules of playlists would be broken.
    #[error("the playlist of {0:?} cannot be written: {1}")]
    Render(String, PlaylistError),
}

/// A playlist, ready to be sent.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Its text.
    pub text: Bytes,
    /// Its entity tag, with quotes.
    pub etag: String,
}

/// Playlists that were rendered and still hold, by content and rendition, each with the
/// generation of its content.
#[derive(Debug, Default)]
pub struct Ready(Mutex<BTreeMap<Place, (u64, Rendered)>>);

/// The number of a content, and that of a rendition unless the master playlist is meant.
type Place = (u64, Option<u16>);

impl Ready {
    /// The playlist of a rendition, or the master playlist, if it is ready.
    pub fn held(&self, content: &Content, rendition_no: Option<u16>) -> Option<Rendered> {
        let ready = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (generation, rendered) = ready.get(&(content.no, rendition_no))?;
        // A generation is never used again, so equal ones mean the same content.
        (*generation == content.generation).then(|| rendered.clone())
    }

    /// The playlist of a rendition, or the master playlist; rendered again only after a change.
    /// Blocks.
    pub fn get(
        &self,
        store: &Store,
        catalog: &Catalog,
        content: &Content,
        rendition_no: Option<u16>,
    ) -> Result<Rendered, Unplayable> {
        // Whoever asked at the same time may have made it while this one waited for a thread.
        if let Some(rendered) = self.held(content, rendition_no) {
            return Ok(rendered);
        }
        let key = (content.no, rendition_no);
        let text = match rendition_no {
            Some(no) => media(store, catalog, content, no)?,
            None => master(catalog, content)?,
        };
        // Of the text, so that a playlist that is made again without a change keeps its tag.
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let etag = format!("\"{}\"", &hash[..32]);
        let rendered = Rendered {
            text: Bytes::from(text),
            etag,
        };
        let mut ready = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let held: usize = ready.values().map(|(_, other)| other.text.len()).sum();
        // All go, without a note of who used what: those in use are made again in a moment.
        if held + rendered.text.len() > READY_BYTES_MAX {
            ready.clear();
        }
        ready.insert(key, (content.generation, rendered.clone()));
        Ok(rendered)
    }
}

/// The reference of a content in paths: its id, with the publisher before it when the plain id
/// means another publisher's content.
#[must_use]
pub fn reference(catalog: &Catalog, content: &Content) -> String {
    let ContentKey {
        publisher,
        content_id,
        ..
    } = &content.key;
    reference_of(catalog, publisher, content_id)
}

/// The same of a content that may not be here yet.
#[must_use]
pub fn reference_of(catalog: &Catalog, publisher: &PublisherKey, id: &ContentId) -> String {
    let first = catalog.find(None, id, None);
    if first.is_none_or(|first| first.key.publisher == *publisher) {
        return id.to_url();
    }
    format!("{publisher}/{}", id.to_url())
}

/// The path of one segment.
#[must_use]
pub fn segment_path(
    reference: &str,
    content: &Content,
    state: &RenditionState,
    kind: Kind,
    sequence: u64,
) -> String {
    let (version, name) = (content.key.version, &state.info.name);
    match kind {
        Kind::Init => format!("/segment/{reference}/{version}/{name}/init-{sequence}.mp4"),
        Kind::Media => {
            let extension = state.info.mime.extension();
            format!("/segment/{reference}/{version}/{name}/{sequence}.{extension}")
        }
    }
}

fn master(catalog: &Catalog, content: &Content) -> Result<String, Unplayable> {
    let reference = reference(catalog, content);
    let variants = content
        .renditions
        .iter()
        // A player that picks a rendition without segments would stall.
        .filter(|state| state.present > 0)
        .map(|state| {
            let info = &state.info;
            let rate = f64::from(info.frame_rate_milli) / 1000.0;
            Variant {
                uri: format!("/play/{reference}/{}.m3u8", info.name),
                // The attribute has to be there, also where the rate is not known (RFC 8216bis
                // section 4.4.6.2).
                bandwidth: info.bandwidth.max(1),
                average_bandwidth: (info.average_bandwidth > 0).then_some(info.average_bandwidth),
                codecs: (!info.codecs.is_empty()).then(|| info.codecs.clone()),
                resolution: (info.width > 0).then_some((info.width, info.height)),
                frame_rate: (info.frame_rate_milli > 0).then_some(rate),
            }
        });
    let variants: Vec<_> = variants.collect();
    let id = content.key.content_id.to_string();
    if variants.is_empty() {
        return Err(Unplayable::Empty(id));
    }
    let playlist = MasterPlaylist {
        independent_segments: true,
        variants,
    };
    playlist
        .render()
        .map_err(|error| Unplayable::Render(id, error))
}

fn media(
    store: &Store,
    catalog: &Catalog,
    content: &Content,
    rendition_no: u16,
) -> Result<String, Unplayable> {
    let id = content.key.content_id.to_string();
    let state = &content.renditions[usize::from(rendition_no)];
    let rows = store.rows(content, rendition_no, Kind::Media)?;
    if rows.is_empty() || state.reached <= state.first {
        return Err(Unplayable::Empty(id));
    }
    let reference = reference(catalog, content);
    let uri = |kind, sequence| segment_path(&reference, content, state, kind, sequence);
    let independent_segments = rows.iter().all(|(_, row)| row.independent);
    let listed = state.first..state.reached;
    let is_here = |(at, row): &&(u64, SegmentRow)| row.present && listed.contains(at);
    let here = rows.iter().filter(is_here).count() as u64;
    let segments = entries(content, state, rows, uri);
    // The index that the rows are from may be newer than the content: what it lacks counts.
    let whole = state.is_whole() && here >= state.reached - state.first;
    let complete = content.state == State::Finished && whole;
    // All of a finished content is known, so what is still on its way only ever adds to its list.
    let arriving = match content.state {
        State::Finished => !complete,
        State::Open => content.priority == Priority::Vod && state.first == 0,
    };
    let playlist = MediaPlaylist {
        target_duration: u64::from(content.target_duration),
        media_sequence: state.first,
        // Kept by the store as segments go, as the rows that are gone cannot be counted any more.
        discontinuity_sequence: state.discontinuities_gone,
        kind: match (complete, arriving) {
            (true, _) => Some(PlaylistType::Vod),
            (_, true) => Some(PlaylistType::Event),
            _ => None,
        },
        // A film that is still arriving starts at its beginning, not at its end.
        start: arriving.then_some(Start {
            offset: 0,
            precise: false,
        }),
        independent_segments,
        segments,
        end: complete,
        ..MediaPlaylist::default()
    };
    playlist
        .render()
        .map_err(|error| Unplayable::Render(id, error))
}

/// Whether a segment is a stand-in for one that was lost.
fn is_lost(row: &SegmentRow) -> bool {
    row.length == LOST.len() as u64 && row.root.0 == *blake3::hash(LOST).as_bytes()
}

/// One entry for each sequence from the first to the last that ever was here; what is not here of
/// them is a gap.
fn entries(
    content: &Content,
    state: &RenditionState,
    rows: Vec<(u64, SegmentRow)>,
    uri: impl Fn(Kind, u64) -> String,
) -> Vec<MediaSegment> {
    let mut nominal = rows
        .first()
        .map_or(TICKS_PER_SECOND, |(_, row)| row.duration);
    let mut init = rows.first().and_then(|(_, row)| row.init);
    let mut rows = rows.into_iter().peekable();
    let mut segments = Vec::new();
    for sequence in state.first..state.reached {
        // The index may be newer than `state`; rows from before the first one are passed over.
        while rows.next_if(|(at, _)| *at < sequence).is_some() {}
        let row = rows.next_if(|(at, _)| *at == sequence).map(|(_, row)| row);
        if let Some(row) = &row {
            // A gap is as long as the segment before it, and has its init segment.
            (nominal, init) = (row.duration, row.init);
        }
        let ceiling = u64::from(content.target_duration) * TICKS_PER_SECOND;
        segments.push(MediaSegment {
            uri: uri(Kind::Media, sequence),
            // Rounded to whole seconds, a duration must not exceed the target (RFC 8216bis section
            // 4.4.3.1).
            duration: nominal.min(ceiling + TICKS_PER_SECOND / 2 - 1),
            discontinuity: row.as_ref().is_some_and(|row| row.discontinuity),
            gap: !row.is_some_and(|row| row.present && !is_lost(&row)),
            init: init.map(|init| uri(Kind::Init, init)),
            ..MediaSegment::default()
        });
    }
    segments
}
