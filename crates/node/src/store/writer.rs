//! The one thread that writes the index.
//!
//! Operations that wait at the same time share one durable commit, so that many small writes cost
//! one flush. Between operations the thread sleeps until the next segment expires.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lavant_proto::ids::Root;
use redb::{ReadableTable, ReadableTableMetadata};
use tokio::sync::oneshot;

use super::error::StoreError;
use super::place::Placed;
use super::rows::{DEADLINES, LEFTOVERS, split_deadline};
use super::tx::{Done, Tx};
use super::{Shared, expire, lock};

/// Most operations in one commit.
const BATCH_MAX: usize = 256;
/// The longest sleep: a clock that is set forward is noticed after this time.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Pause before the next try when expiring failed (a full disk, say).
const RETRY: Duration = Duration::from_secs(5);

/// Reports the outcome of an operation once its commit succeeded or failed.
type Report = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// An operation: changes the transaction, or refuses before it changed anything.
type Operation = Box<dyn FnOnce(&mut Tx<'_>) -> Step + Send>;

/// What an operation did.
struct Step {
    report: Report,
    /// It failed in the middle: nothing of the batch may be committed.
    failed: Option<StoreError>,
}

/// Hands operations to the writer thread; dropping it ends the thread and waits for its end, so
/// that the store can be opened again at once.
pub(super) struct Writer {
    queue: Option<Sender<Operation>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let (queue, inbox) = channel();
        let weak = Arc::downgrade(shared);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&inbox, &weak))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Queues an operation; the answer comes when its changes are durable.
    ///
    /// An operation that refuses must not have changed anything; an error for which
    /// [`StoreError::is_failure`] holds undoes the whole batch.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, StoreError>> {
        let (answer, receiver) = oneshot::channel();
        let boxed: Operation = Box::new(move |tx| {
            let outcome = operation(tx);
            let failed = outcome
                .as_ref()
                .err()
                .filter(|error| error.is_failure())
                .cloned();
            let report: Report = Box::new(move |committed| {
                let _ = answer.send(committed.and(outcome));
            });
            Step { report, failed }
        });
        if let Some(queue) = &self.queue {
            let _ = queue.send(boxed);
        }
        receiver
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

/// Runs until the store is dropped.
fn run(inbox: &Receiver<Operation>, shared: &Weak<Shared>) {
    let mut sleep = Duration::ZERO;
    let mut unlinked = Vec::new();
    loop {
        let first = match inbox.recv_timeout(sleep) {
            Ok(operation) => Some(operation),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut batch: Vec<Operation> = first.into_iter().collect();
        while batch.len() < BATCH_MAX {
            let Ok(operation) = inbox.try_recv() else {
                break;
            };
            batch.push(operation);
        }
        sleep = match run_batch(&shared, batch, &mut unlinked) {
            Ok(next) => next.min(SLEEP_MAX),
            Err(error) => {
                tracing::error!(%error, "the index could not be written");
                RETRY
            }
        };
    }
}

/// Runs the operations and expires what is due, in one commit. Returns how long to sleep then.
fn run_batch(
    shared: &Arc<Shared>,
    batch: Vec<Operation>,
    unlinked: &mut Vec<Root>,
) -> Result<Duration, StoreError> {
    if batch.is_empty() {
        let wait = time_to_next_deadline(shared).inspect_err(|_| shared.reopen_if_poisoned())?;
        if !wait.is_zero() {
            return Ok(wait);
        }
    }
    let mut reports = Vec::new();
    let outcome = commit_batch(shared, batch, &mut reports, unlinked);
    if outcome.is_err() {
        // Before anybody hears of it, who may read on at once.
        shared.reopen_if_poisoned();
    }
    for report in reports {
        report(outcome.as_ref().map(|_| ()).map_err(StoreError::clone));
    }
    outcome
}

fn commit_batch(
    shared: &Arc<Shared>,
    batch: Vec<Operation>,
    reports: &mut Vec<Report>,
    unlinked: &mut Vec<Root>,
) -> Result<Duration, StoreError> {
    let index = shared.index.read().map_err(|_| StoreError::Closed)?;
    let write = index.begin_write()?;
    let mut tx = Tx::open(&write, shared)?;
    for root in unlinked.iter() {
        tx.garbage.remove(root.0.as_slice())?;
    }
    let stepped = step_all(&mut tx, batch, reports).and_then(|()| tx.time_to_next_deadline());
    let mut done = tx.close();
    let moves = std::mem::take(&mut done.moves);
    let manifests = incoming_manifests(shared, &moves);
    let committed = stepped.and_then(|sleep| {
        commit(shared, write, moves)?;
        Ok(sleep)
    });
    match &committed {
        Ok(_) => *unlinked = settle(shared, done),
        // The transaction made them itself, so nobody else removes them.
        Err(_) => manifests
            .iter()
            .for_each(|file| drop(shared.settings.disk.files.remove(file))),
    }
    committed
}

/// Puts files to their places and makes the transaction durable: both or neither.
fn commit(
    shared: &Shared,
    write: redb::WriteTransaction,
    moves: BTreeMap<PathBuf, PathBuf>,
) -> Result<(), StoreError> {
    let placed = Placed::new(&shared.settings, moves)
        .map_err(|error| StoreError::io("put segments to their places", &error))?;
    match write.commit() {
        Ok(()) => {
            placed.settle();
            Ok(())
        }
        Err(error) => {
            placed.undo();
            Err(error.into())
        }
    }
}

fn step_all(
    tx: &mut Tx<'_>,
    batch: Vec<Operation>,
    reports: &mut Vec<Report>,
) -> Result<(), StoreError> {
    let mut failed = None;
    for operation in batch {
        let step = operation(tx);
        failed = failed.or(step.failed);
        reports.push(step.report);
    }
    failed.map_or_else(|| expire::expire_due(tx), Err)
}

fn incoming_manifests(shared: &Shared, moves: &BTreeMap<PathBuf, PathBuf>) -> Vec<PathBuf> {
    let manifests = shared.settings.layout.manifests();
    let moves = moves
        .iter()
        .filter(|(place, _)| place.starts_with(&manifests));
    moves.map(|(_, file)| file.clone()).collect()
}

/// Does what is left when a commit is durable. Returns the payloads whose files are gone.
fn settle(shared: &Shared, done: Done) -> Vec<Root> {
    shared.publish(done.catalog, done.used, done.unstaged, done.dropped);
    if !done.changes.is_empty() {
        lock(&shared.listeners).retain(|listener| listener.send(done.changes.clone()).is_ok());
    }
    for file in done.surplus {
        let _ = shared.settings.disk.files.remove(&file);
    }
    let mut unlinked = done.unlinks;
    unlinked.retain(|root| shared.forget(root));
    unlinked
}

fn time_to_next_deadline(shared: &Shared) -> Result<Duration, StoreError> {
    let index = shared.index.read().map_err(|_| StoreError::Closed)?;
    let read = index.begin_read()?;
    match read.open_table(LEFTOVERS) {
        Ok(leftovers) if !leftovers.is_empty()? => return Ok(Duration::ZERO),
        // An index of an earlier version has none.
        Ok(_) | Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let deadlines = read.open_table(DEADLINES)?;
    let Some((key, _)) = deadlines.first()? else {
        return Ok(SLEEP_MAX);
    };
    let (deadline, _) = split_deadline(key.value())?;
    Ok(deadline.since(shared.settings.clock.now()))
}

impl Tx<'_> {
    fn time_to_next_deadline(&self) -> Result<Duration, StoreError> {
        if self.has_leftovers()? {
            return Ok(Duration::ZERO);
        }
        let Some((key, _)) = self.deadlines.first()? else {
            return Ok(SLEEP_MAX);
        };
        let (deadline, _) = split_deadline(key.value())?;
        Ok(deadline.since(self.now))
    }
}
