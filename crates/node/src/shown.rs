//! What the bytes of a segment show of its rendition: codecs, and the size of the picture. The
//! store keeps bytes and what it is told of them; this looks into them.

use std::io::{self, IoSliceMut};

use bytes::Bytes;
use lavant_media::{Inspection, Kind as StreamKind, StreamInfo, cmaf, ts};
use lavant_proto::content::{Kind, MimeType, SegmentRecord};

use crate::store::{Content, Shown, Store};

/// Longest segment that is looked into: all of it is in memory meanwhile.
const INSPECT_MAX: u64 = 64 << 20;

/// What an inspection says of a rendition.
pub(crate) fn of(inspection: &Inspection) -> Shown {
    of_streams(&inspection.streams)
}

/// What these streams say of a rendition.
pub(crate) fn of_streams(streams: &[StreamInfo]) -> Shown {
    let video = streams
        .iter()
        .find(|stream| stream.kind == StreamKind::Video);
    let size = video.map_or((0, 0), |video| {
        (video.width.unwrap_or(0), video.height.unwrap_or(0))
    });
    Shown {
        codecs: lavant_media::codecs(streams).unwrap_or_default(),
        size,
    }
}

/// What a segment shows whose payload came over a link, if its rendition lacks it still: a manifest
/// says it of a finished content, and the first segment of a growing one. Blocks.
pub(crate) fn by_arrived(store: &Store, record: &SegmentRecord) -> Shown {
    let catalog = store.catalog();
    if record.kind == Kind::Init || record.length > INSPECT_MAX || !catalog.lacks_shown(record) {
        return Shown::default();
    }
    let key = &record.content;
    let content = catalog.find(Some(&key.publisher), &key.content_id, Some(key.version));
    let inspected = payload(store, record)
        .ok()
        .and_then(|bytes| match record.mime {
            MimeType::TransportStream => ts::inspect(&bytes).ok(),
            MimeType::Mp4 | MimeType::Mp4Audio => {
                let init = init_of(store, content?, record)?;
                cmaf::inspect(Some(&init), &bytes).ok()
            }
        });
    inspected.as_ref().map_or_else(Shown::default, of)
}

fn payload(store: &Store, record: &SegmentRecord) -> io::Result<Vec<u8>> {
    let file = store.slice_file(&record.root, record.length);
    let length = usize::try_from(record.length).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let file = file.map_err(io::Error::other)?;
    file.read(0, &mut [IoSliceMut::new(&mut bytes)])?;
    Ok(bytes)
}

fn init_of(store: &Store, content: &Content, record: &SegmentRecord) -> Option<Bytes> {
    let no = content.rendition_no(record.rendition.as_str())?;
    let init = store
        .segment(content, no, Kind::Init, record.init?)
        .ok()??;
    store.read_verified(&init).ok()
}
