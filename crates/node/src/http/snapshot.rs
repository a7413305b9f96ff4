//! `/snapshot`: what a backup is made from, for as long as its caller stays.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Sender, channel};

use super::App;
use super::error::ApiError;
use crate::store::{AsyncStore, SnapshotFacts, StoreError};

/// How often a line is sent while nothing happens: a caller that went is noticed by the second one.
const BEAT: Duration = Duration::from_secs(1);
/// How long another snapshot is waited for, and the pause between two tries.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(50);
/// Lines that wait for the caller.
const LINES_MAX: usize = 16;

/// A line of the answer: how far it is, then that it is there, or why it is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotLine {
    /// So many of so many payload files are done.
    Progress(u64, u64),
    /// It is there until the caller goes.
    Ready {
        /// Its folder, in that of the store.
        folder: String,
        /// What it holds.
        facts: SnapshotFacts,
    },
    /// It could not be made.
    Error(String),
}

/// Makes a snapshot of the store in its own folder. Lines of JSON say how far it is; it goes when
/// the caller closes the connection.
#[utoipa::path(
    post, path = "/snapshot",
    responses((status = 200, content_type = "application/x-ndjson",
               description = "A line of JSON for each step; the snapshot goes when the connection \
                              is closed"))
)]
pub(super) async fn snapshot(State(app): State<App>) -> Result<Response, ApiError> {
    let (lines, waiting) = channel(LINES_MAX);
    let mut stopping = app.stopping.clone();
    let store = app.store.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = keep(&store, &lines) => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
    let body = stream::unfold(waiting, |mut waiting| async move {
        let line: SnapshotLine = waiting.recv().await?;
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        Some((
            Ok::<_, std::convert::Infallible>(Bytes::from(text)),
            waiting,
        ))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(body)).into_response())
}

/// Makes a snapshot and keeps it until nobody listens any more.
async fn keep(store: &AsyncStore, lines: &Sender<SnapshotLine>) {
    let begun = Instant::now();
    let made = loop {
        let told = lines.clone();
        let made = store.attempt(move |store| {
            store.snapshot(|done, total| {
                // A caller that is slow to read keeps no transaction open: it misses a line.
                let _ = told.try_send(SnapshotLine::Progress(done, total));
                !told.is_closed()
            })
        });
        match made.await {
            // The last one goes a moment after its caller went.
            Err(StoreError::Busy(_)) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(RETRY).await;
            }
            made => break made,
        }
    };
    let snapshot = match made {
        Ok(snapshot) => Kept(Some(snapshot)),
        Err(error) => {
            let _ = lines.send(SnapshotLine::Error(error.to_string())).await;
            return;
        }
    };
    let Some(made) = &snapshot.0 else { return };
    // The caller may be in another folder than the node.
    let folder = made.folder();
    let folder = folder.canonicalize().unwrap_or(folder);
    let mut line = SnapshotLine::Ready {
        folder: folder.display().to_string(),
        facts: made.facts,
    };
    while lines.send(line).await.is_ok() {
        let _ = tokio::time::timeout(BEAT, lines.closed()).await;
        line = SnapshotLine::Progress(made.facts.payloads, made.facts.payloads);
    }
}

/// A snapshot, given back on a thread that may block.
struct Kept(Option<crate::store::Snapshot>);

impl Drop for Kept {
    fn drop(&mut self) {
        let snapshot = self.0.take();
        tokio::task::spawn_blocking(move || drop(snapshot));
    }
}
