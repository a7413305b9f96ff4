//! The one thread that writes the index.
//!
//! Operations that wait at the same time share one durable commit, so that many small writes cost
//! one flush. Between operations the thread sleeps until the next segment expires.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lavant_proto::ids::Root;
use redb::{ReadableTable, ReadableTableMetadata};
use tokio::sync::oneshot;

use super::catalog::State;
use super::effects::{Effects, Gone, Prepared};
use super::error::StoreError;
use super::expire;
use super::index;
use super::layout::root_of_path;
use super::locked::lock;
use super::rows::{DEADLINES, LEFTOVERS, PAYLOADS, REQUEUES, split_deadline};
use super::settings::Settings;
use super::shared::Shared;
use super::tx::{Done, Tx};

/// Most operations in one commit.
const BATCH_MAX: usize = 256;
/// The longest sleep: a clock that is set forward is noticed after this time.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Pause before the next try when expiring failed (a full disk, say).
const RETRY: Duration = Duration::from_secs(5);

/// Reports the outcome of an operation once its commit succeeded or failed.
type Report = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// An operation: changes the transaction, or refuses before it changed anything. It gets the reason
/// when there is no transaction.
type Operation = Box<dyn FnOnce(Result<&mut Tx<'_>, StoreError>) -> Step + Send>;

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
            let outcome = tx.and_then(operation);
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
        let alone = batch.is_empty();
        sleep = match run_batch(&shared, batch, &mut unlinked) {
            Ok(next) => next.min(SLEEP_MAX),
            // By itself the writer only removes, which makes room.
            Err(error) if alone && error.is_disk_full() && shared.spend_reserve() => Duration::ZERO,
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
    mut batch: Vec<Operation>,
    unlinked: &mut Vec<Root>,
) -> Result<Duration, StoreError> {
    if batch.is_empty() {
        let wait = time_to_next_deadline(shared).inspect_err(|_| shared.reopen_if_poisoned())?;
        if !wait.is_zero() {
            return Ok(wait);
        }
    }
    // The disk may be what it was again.
    if shared.is_frozen() {
        shared.reopen_if_poisoned();
    }
    let mut reports = Vec::new();
    let mut failed = None;
    let outcome = commit_batch(shared, &mut batch, (&mut reports, &mut failed), unlinked);
    shared.note_written(outcome.as_ref().map(|_| ()));
    if let Err(error) = &outcome {
        // There was no transaction for these.
        for operation in batch {
            reports.push(operation(Err(error.clone())).report);
        }
        // Before anybody hears of it, who may read on at once.
        shared.reopen_if_poisoned();
        if let Some(failed) = failed {
            undo(shared, failed);
        }
    }
    for report in reports {
        report(outcome.as_ref().map(|_| ()).map_err(StoreError::clone));
    }
    outcome
}

fn commit_batch<'a>(
    shared: &'a Arc<Shared>,
    batch: &mut Vec<Operation>,
    (reports, failed): (&mut Vec<Report>, &mut Option<Prepared<'a>>),
    unlinked: &mut Vec<Root>,
) -> Result<Duration, StoreError> {
    let index = shared.index.read().map_err(|_| StoreError::Closed)?;
    let write = index.begin_write()?;
    let mut tx = Tx::open(&write, shared.ground())?;
    for root in unlinked.iter() {
        tx.forget_garbage(root)?;
    }
    let stepped = step_all(&mut tx, std::mem::take(batch), reports).and_then(|()| {
        tx.note_used()?;
        tx.time_to_next_deadline()
    });
    let mut done = tx.close();
    let effects = std::mem::take(&mut done.effects);
    let committed = stepped.and_then(|sleep| {
        let gone = commit(&shared.settings, write, effects, failed)?;
        Ok((sleep, gone))
    });
    committed.map(|(sleep, gone)| {
        *unlinked = settle(shared, done, gone);
        sleep
    })
}

/// Does what the commit needs and makes the transaction durable. When a commit fails, the effects
/// stay as they were prepared: it may be there all the same, which only the index knows.
fn commit<'a>(
    settings: &'a Settings,
    write: redb::WriteTransaction,
    effects: Effects,
    failed: &mut Option<Prepared<'a>>,
) -> Result<Gone, StoreError> {
    let prepared = effects
        .prepare(settings)
        .map_err(|error| StoreError::io("put files to their places", error))?;
    match index::commit(settings, write) {
        Ok(()) => Ok(prepared.carry_out()),
        Err(error) => {
            *failed = Some(prepared);
            Err(error.into())
        }
    }
}

/// Takes back what a batch did to files, as far as the index does not know of it.
fn undo(shared: &Shared, failed: Prepared<'_>) {
    let layout = &shared.settings.layout;
    let catalog = shared.catalog();
    let read = shared.index.read().ok();
    let read = read.and_then(|index| index.begin_read().ok());
    let payloads = read.and_then(|read| read.open_table(PAYLOADS).ok());
    let mut named = BTreeSet::new();
    for content in catalog.all() {
        if content.state == State::Finished {
            named.insert(layout.manifest(content.no));
        }
        if content.pinned {
            named.insert(layout.pin(&content.key));
        }
    }
    failed.abort(|place| match root_of_path(place) {
        Some(root) => payloads
            .as_ref()?
            .get(root.0.as_slice())
            .ok()
            .map(|row| row.is_some()),
        None => payloads.as_ref().map(|_| named.contains(place)),
    });
}

fn step_all(
    tx: &mut Tx<'_>,
    batch: Vec<Operation>,
    reports: &mut Vec<Report>,
) -> Result<(), StoreError> {
    let mut failed = None;
    let count = batch.len();
    for operation in batch {
        let step = operation(Ok(&mut *tx));
        failed = failed.or(step.failed);
        reports.push(step.report);
    }
    failed.map_or_else(|| expire::expire_due(tx, count), Err)
}

/// Does what is left when a commit is durable. Returns the payloads whose files are gone.
fn settle(shared: &Shared, done: Done, gone: Gone) -> Vec<Root> {
    shared.publish(done.catalog, done.used, done.unstaged, done.dropped);
    if !done.changes.is_empty() {
        lock(&shared.listeners).retain(|listener| listener.send(done.changes.clone()).is_ok());
    }
    let Settings { disk, layout, .. } = &shared.settings;
    let mut unpinned = false;
    for file in gone.files {
        if shared.file_waits(&file) {
            continue;
        }
        let removed = disk.files.remove(&file).is_ok();
        unpinned |= removed && file.starts_with(layout.pins());
    }
    // A pin that came back would hold for an index that is made again.
    if unpinned {
        let _ = disk.files.flush_folder(&layout.pins());
    }
    let mut unlinked = gone.unlinks;
    unlinked.retain(|root| shared.forget(root));
    unlinked
}

fn time_to_next_deadline(shared: &Shared) -> Result<Duration, StoreError> {
    let index = shared.index.read().map_err(|_| StoreError::Closed)?;
    let read = index.begin_read()?;
    for work in [LEFTOVERS, REQUEUES] {
        match read.open_table(work) {
            Ok(work) if !work.is_empty()? => return Ok(Duration::ZERO),
            // An index of an earlier version has none.
            Ok(_) | Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
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
        if self.has_leftovers()? || self.has_moves()? {
            return Ok(Duration::ZERO);
        }
        let Some((key, _)) = self.tables().deadlines.first()? else {
            return Ok(SLEEP_MAX);
        };
        let (deadline, _) = split_deadline(key.value())?;
        Ok(deadline.since(self.now()))
    }
}
