//! Flushing the files of an upload in the background.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::disk::DiskFile;
use super::error::StoreError;

/// Most files that wait to be flushed; the next segment waits for one of them.
const QUEUE: usize = 4;

/// A thread that flushes files, for as long as there are some.
#[derive(Default)]
pub(super) struct Flusher(Option<(SyncSender<DiskFile>, JoinHandle<io::Result<()>>)>);

impl Flusher {
    /// Where files to flush go.
    pub(super) fn queue(&mut self) -> Result<SyncSender<DiskFile>, StoreError> {
        if let Some((queue, _)) = &self.0 {
            return Ok(queue.clone());
        }
        let (queue, files) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-flusher".into())
            .spawn(move || flush_all(&files))
            .map_err(|error| StoreError::io("start a thread", error))?;
        self.0 = Some((queue.clone(), thread));
        Ok(queue)
    }

    /// Waits until every file is durable; the first error of any.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        let Some((queue, thread)) = self.0.take() else {
            return Ok(());
        };
        drop(queue);
        match thread.join() {
            Ok(flushed) => flushed.map_err(|error| StoreError::io("flush a segment", error)),
            Err(_) => Err(StoreError::Closed),
        }
    }
}

/// Flushes every file even after one failed, so that senders never block; reports the first error.
fn flush_all(files: &Receiver<DiskFile>) -> io::Result<()> {
    let mut outcome = Ok(());
    for file in files {
        let flushed = file.flush();
        outcome = outcome.and(flushed);
    }
    outcome
}
