//! What is written behind a live stream: its segments, signed, in the store.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use lavant_proto::content::{Kind, MimeType, Priority};
use lavant_proto::ids::Rendition;
use tokio::sync::mpsc;

use super::stream::{Ended, Stream, Write};
use crate::playlist::LOST;
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
    // Stand-ins that are written before the next segment that the store takes.
    let mut owed = VecDeque::new();
    while let Some(write) = writes.recv().await {
        if let Write::Init { shown: of, .. } = &write {
            shown.clone_from(of);
        }
        let (length, no) = match &write {
            Write::Init { .. } => (0, None),
            Write::Segment { no, data, .. } => (data.as_ref().map_or(0, Bytes::len), Some(*no)),
        };
        let is_lost = matches!(write, Write::Segment { data: None, .. });
        let new = segment(stream, write, &shown, replay);
        let mut is_taken = !is_lost;
        while is_taken && let Some(gap) = owed.front().cloned() {
            is_taken = append(stream, store, gap).await;
            if is_taken {
                owed.pop_front();
            }
        }
        if is_taken && append(stream, store, new.clone()).await {
            stream.stored(no, length);
            continue;
        }
        stream.lost(no, length);
        let payload = match no {
            Some(_) => Bytes::from_static(LOST),
            None => new.payload.clone(),
        };
        owed.push_back(NewSegment { payload, ..new });
    }
}

/// Gives a segment to the store, for as long as it may be tried. False when it is given up.
async fn append(stream: &Stream, store: &AsyncStore, new: NewSegment) -> bool {
    loop {
        let again = new.clone();
        let appended = store.attempt(move |store| store.append(again)).await;
        let Err(refused) = appended else { return true };
        // Its content is gone or has been finished: nothing of it can be kept any more.
        let is_final = matches!(
            refused,
            StoreError::Removed(_) | StoreError::Conflict(_) | StoreError::Invalid(_)
        );
        if is_final {
            stream.end(Ended::Store(refused.to_string()));
        }
        if !stream.refused(&refused.to_string()) || is_final {
            return false;
        }
        tokio::time::sleep(AGAIN).await;
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
            payload: data.unwrap_or_else(|| Bytes::from_static(LOST)),
            ..new
        },
    }
}
