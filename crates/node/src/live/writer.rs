//! What is written behind a live stream: its segments, signed, in the store.

use std::time::Duration;

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, Priority};
use lavant_proto::ids::Rendition;
use tokio::sync::mpsc;

use super::stream::{Ended, Stream, Write};
use crate::store::{AsyncStore, NewSegment, Shown, StoreError};

/// Pause before a segment is tried again that the disk did not take.
const AGAIN: Duration = Duration::from_secs(2);

/// Writes what comes until nothing more can. The order is kept: a segment never comes before its
/// init segment.
pub(super) async fn run(
    stream: &Stream,
    store: &AsyncStore,
    replay: Duration,
    mut writes: mpsc::UnboundedReceiver<Write>,
) {
    let mut shown = Shown::default();
    while let Some(write) = writes.recv().await {
        if let Write::Init { shown: of, .. } = &write {
            shown.clone_from(of);
        }
        let (length, no) = match &write {
            Write::Init { .. } => (0, None),
            Write::Segment { no, data, .. } => (data.len(), Some(*no)),
        };
        let new = segment(stream, write, &shown, replay);
        loop {
            let again = new.clone();
            let appended = store.attempt(move |store| store.append(again)).await;
            let Err(refused) = appended else {
                stream.stored(no, length);
                break;
            };
            // Its content is gone or has been finished: nothing of it can be kept any more.
            let is_final = matches!(
                refused,
                StoreError::Removed(_) | StoreError::Conflict(_) | StoreError::Invalid(_)
            );
            if is_final {
                stream.end(Ended::Store(refused.to_string()));
            }
            if !stream.refused(&refused.to_string()) || is_final {
                stream.lost(length);
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn segment(stream: &Stream, write: Write, shown: &Shown, replay: Duration) -> NewSegment {
    let key = &stream.key;
    let new = NewSegment {
        content_id: key.content_id.clone(),
        version: Some(key.version),
        title: stream.title().to_owned(),
        priority: Priority::Live,
        target_duration: Some(write.target_duration()),
        rendition: Rendition::main(),
        kind: Kind::Init,
        sequence: 0,
        duration: 0,
        discontinuity: false,
        independent: true,
        init: None,
        mime: MimeType::Mp4,
        ttl: Some(replay),
        shown: shown.clone(),
        payload: Bytes::new(),
    };
    match write {
        Write::Init { no, data, .. } => NewSegment {
            sequence: no,
            payload: data,
            ..new
        },
        Write::Segment {
            no,
            init,
            duration,
            discontinuity,
            independent,
            data,
            ..
        } => NewSegment {
            kind: Kind::Media,
            sequence: no,
            duration,
            discontinuity,
            independent,
            init: Some(init),
            payload: data,
            ..new
        },
    }
}
