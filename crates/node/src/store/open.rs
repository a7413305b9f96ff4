//! Opening a store: the lock, the index, and what a stop in the middle left behind.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use lavant_proto::ids::SigningKey;
use redb::{DatabaseError, ReadableTable, ReadableTableMetadata};
use tokio::sync::watch;

use super::catalog::{Catalog, Content};
use super::disk::{Access, Disk};
use super::engine::Store;
use super::error::{OpenError, StoreError};
use super::index::{Index, is_large};
use super::layout::{self, Layout};
use super::limit::Limit;
use super::lock_file::{LastEnd, Lock, in_use};
use super::partials::Partials;
use super::queues::bring_up;
use super::recover::{note_manifests, recover, settle_pins};
use super::rows::{CONTENTS, META, PAYLOADS, STORE_FORMAT, USED, USED_OF};
use super::settings::Settings;
use super::shared::Shared;
use super::standing::Standings;
use super::tx::Dropped;
use super::uploads::Uploads;
use super::writer::Writer;
use super::{hot, payload, rebuild};

/// How long another process may hold the lock before the store is said to be in use.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two tries to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

impl Store {
    /// Opens the store in its folder, making it when it is not there.
    ///
    /// The lock is taken, a damaged index is made again from the payload files, and what was on its
    /// way in when the last process stopped is completed or removed. A folder that cannot be
    /// written is opened for reading. `key` is the node's, which signs what it appends.
    ///
    /// Another process that holds the lock is waited for, but not longer than a second: it may be
    /// on its way out.
    pub fn open(settings: Settings, key: SigningKey) -> Result<Self, OpenError> {
        let start = Instant::now();
        loop {
            match Self::try_open(settings.clone(), key.clone()) {
                Err(OpenError::InUse { .. }) if start.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(LOCK_RETRY);
                }
                opened => return opened,
            }
        }
    }

    fn try_open(settings: Settings, key: SigningKey) -> Result<Self, OpenError> {
        let layout = settings.layout.clone();
        let mut warnings = Vec::new();
        if let Some(mode) = layout::exposed(&settings.disk, layout.root()) {
            let folder = layout.root().display();
            warnings.push(format!(
                "the store {folder} can be read by other users (mode {mode:o}); unless that is \
                 wanted, run: chmod 700 {folder}"
            ));
        }
        let standings = Arc::new(Standings::new(key.publisher(), settings.trusted.clone()));
        let (lock, writable) = match lock_for_writing(&settings.disk, &layout) {
            Ok(lock) => (lock, true),
            Err(error) if is_refused(&error) && settings.disk.exists(&layout.index()) => {
                warnings.push("the store is read-only: nothing can be added or removed".into());
                (Lock::none(), false)
            }
            Err(error) => return Err(error),
        };
        refuse_other(&settings)?;
        let (index, catalog, used) = if writable {
            let opened = open_writable(&settings, &standings, lock.last_end(), &mut warnings)?;
            settle_pins(&settings, &opened.1);
            opened
        } else {
            open_read_only(&settings, &standings)?
        };
        let (partials, staged) = if writable {
            Partials::take_up(&settings)
        } else {
            (Partials::default(), 0)
        };
        let shared = Arc::new(Shared {
            limit: Limit::of(&settings, used.saturating_add(staged)),
            standings,
            partials,
            hot: Mutex::new(hot::Hot::new(settings.hot_memory)),
            waiting: Mutex::new(None),
            settings,
            is_writable: writable,
            index: RwLock::new(index),
            catalog: RwLock::new(Arc::new(catalog)),
            used: AtomicU64::new(used),
            staged: AtomicU64::new(staged),
            dropped: Mutex::new(Dropped::default()),
            changes: watch::Sender::new(0),
            listeners: Mutex::new(Vec::new()),
            warnings: Mutex::new(warnings),
            unwritten: Mutex::new(None),
            lock,
        });
        let writer = writable.then(|| Writer::start(&shared)).transpose();
        Ok(Self {
            writer: writer
                .map_err(OpenError::io(Path::new("the writer thread")))?
                .map(Arc::new),
            shared,
            uploads: Arc::new(Mutex::new(Uploads::default())),
            key: Arc::new(key),
        })
    }
}

/// Refuses a folder that has the form of a store and is something else.
pub fn refuse_other(settings: &Settings) -> Result<(), OpenError> {
    let Settings { disk, layout, .. } = settings;
    let refused = |reason: &str| {
        Err(OpenError::Format {
            path: layout.root().to_owned(),
            reason: reason.to_owned(),
        })
    };
    if disk.exists(&layout.restoring()) {
        return refused("a backup was not brought back whole; run 'lavant store restore' again");
    }
    if disk.exists(&layout.backup()) {
        return refused("it is a backup; make a store of it with 'lavant store restore'");
    }
    Ok(())
}

fn lock_for_writing(disk: &Disk, layout: &Layout) -> Result<Lock, OpenError> {
    let failed = || OpenError::io(layout.root());
    layout::make_root(disk, layout.root()).map_err(failed())?;
    let lock = Lock::take(disk, layout)?;
    layout.create(disk).map_err(failed())?;
    Ok(lock)
}

fn is_refused(error: &OpenError) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error, OpenError::Io { source, .. }
        if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
}

fn open_read_only(
    settings: &Settings,
    standings: &Arc<Standings>,
) -> Result<(Index, Catalog, u64), OpenError> {
    let layout = &settings.layout;
    let damaged = || OpenError::CorruptReadOnly(layout.root().to_owned());
    let opened = guarded(|| {
        let opened = settings.disk.files.index_to_read(&layout.index());
        let index = Index::ReadOnly(opened.map_err(fault_of)?);
        if !has_format(&index)? {
            return Err(IndexFault::Damaged("it holds nothing".into()));
        }
        Ok((load(&index, standings)?, index))
    });
    match opened {
        Ok(((catalog, used), index)) => Ok((index, catalog, used)),
        Err(IndexFault::Damaged(_)) => Err(damaged()),
        Err(other) => Err(other.into_error(settings)),
    }
}

fn open_writable(
    settings: &Settings,
    standings: &Arc<Standings>,
    last_end: LastEnd,
    warnings: &mut Vec<String>,
) -> Result<(Index, Catalog, u64), OpenError> {
    let layout = &settings.layout;
    let existed = settings.disk.exists(&layout.index());
    let failed = OpenError::Unfinished;
    let stopped = Arc::new(AtomicBool::new(false));
    let opened = guarded(|| {
        let mut index = open_noting(settings, Arc::clone(&stopped))?;
        if existed {
            check_pages(settings, &mut index)?;
        }
        if has_format(&index)? {
            return Ok((Some(load(&index, standings)?), index));
        }
        Ok((None, index))
    });
    match opened {
        Ok((Some((catalog, used)), index)) => {
            let strays = match last_end {
                LastEnd::Killed => false,
                LastEnd::Cut => true,
                // The disk may have been too full to note that it was opened.
                LastEnd::Closed => stopped.load(Ordering::Relaxed),
            };
            let recovered = recover(settings, &index, &catalog, strays).map_err(failed)?;
            let made = bring_up(settings, &index, &catalog, standings).map_err(failed)?;
            let noted = note_manifests(settings, &index, &catalog, standings).map_err(failed)?;
            if !recovered && !made && !noted {
                return Ok((index, catalog, used));
            }
            let loaded = load(&index, standings);
            let (catalog, used) = loaded.map_err(|fault| fault.into_error(settings))?;
            Ok((index, catalog, used))
        }
        Ok((None, index)) => rebuilt((settings, standings), index, "was missing", warnings),
        Err(IndexFault::Damaged(reason)) => {
            tracing::warn!(reason, "the index of the store is damaged");
            let path = layout.index();
            let aside = path.with_extension("damaged");
            let moved = settings.disk.files.rename(&path, &aside);
            moved.map_err(OpenError::io(&path))?;
            let index = open_index(settings).map_err(|fault| fault.into_error(settings))?;
            rebuilt((settings, standings), index, "was damaged", warnings)
        }
        Err(other) => Err(other.into_error(settings)),
    }
}

/// Fills a new index. A store in which nothing was is a new one, or was left while it was made.
fn rebuilt(
    (settings, standings): (&Settings, &Arc<Standings>),
    index: Index,
    why: &str,
    warnings: &mut Vec<String>,
) -> Result<(Index, Catalog, u64), OpenError> {
    let report = rebuild::rebuild(settings, &index, standings).map_err(OpenError::Unfinished)?;
    if !report.is_empty() {
        let text = format!("the index of the store {why} and was made again: {report}");
        tracing::warn!("{text}");
        warnings.push(text);
    }
    let loaded = load(&index, standings).map_err(|fault| fault.into_error(settings));
    loaded.map(|(catalog, used)| (index, catalog, used))
}

/// Why an index could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexFault {
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Format(String),
    #[error("it is in use")]
    InUse,
    #[error("{0}")]
    Damaged(String),
}

impl IndexFault {
    fn into_error(self, settings: &Settings) -> OpenError {
        let layout = &settings.layout;
        match self {
            Self::Io(source) => OpenError::Io {
                path: layout.index(),
                source,
            },
            Self::Format(reason) => OpenError::Format {
                path: layout.root().to_owned(),
                reason,
            },
            Self::InUse => in_use(&settings.disk, layout),
            Self::Damaged(reason) => OpenError::Index(reason),
        }
    }
}

impl From<StoreError> for IndexFault {
    /// What the index says of itself is damage; what the disk says of it is not.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Index(reason) => Self::Damaged(reason),
            StoreError::Io { source, .. } => Self::Io(io::Error::new(source.kind(), source)),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

/// A damaged index can make its reader panic; that is damage like any other.
fn guarded<T>(read: impl FnOnce() -> Result<T, IndexFault>) -> Result<T, IndexFault> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(IndexFault::Damaged("it cannot be read".into())))
}

fn fault_of(error: DatabaseError) -> IndexFault {
    match error {
        DatabaseError::DatabaseAlreadyOpen => IndexFault::InUse,
        DatabaseError::UpgradeRequired(version) => {
            IndexFault::Format(format!("its index has format {version}"))
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            IndexFault::Io(error)
        }
        other => IndexFault::Damaged(other.to_string()),
    }
}

/// Opens or makes the index; a new one has no format yet.
fn open_index(settings: &Settings) -> Result<Index, IndexFault> {
    open_noting(settings, Arc::default())
}

/// The same; notes whether the last process did not close it.
fn open_noting(settings: &Settings, stopped: Arc<AtomicBool>) -> Result<Index, IndexFault> {
    let mut builder = redb::Builder::new();
    builder.set_repair_callback(move |_| stopped.store(true, Ordering::Relaxed));
    builder.set_cache_size(usize::try_from(settings.index_memory).unwrap_or(usize::MAX));
    let path = settings.layout.index();
    // An empty file is a new index, and only its owner can read this one.
    let files = &settings.disk.files;
    match files.open(&path, Access::New) {
        Ok(_) => {
            let flushed = files.flush_folder(settings.layout.root());
            flushed.map_err(IndexFault::Io)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(IndexFault::Io(error)),
    }
    let opened = files.index(&path, &builder).map_err(fault_of)?;
    Ok(Index::Writable(opened))
}

/// Checks the hash of every page, unless there are so many that a start would wait for it: then
/// `lavant store check` does it.
fn check_pages(settings: &Settings, index: &mut Index) -> Result<(), IndexFault> {
    if !settings.check_index && is_large(settings) {
        return Ok(());
    }
    match index {
        Index::Writable(database) => match database.check_integrity().map_err(fault_of)? {
            true => Ok(()),
            false => Err(IndexFault::Damaged("some pages were damaged".into())),
        },
        Index::ReadOnly(_) | Index::Frozen(..) | Index::Closed => Ok(()),
    }
}

/// Whether the index was filled, by a program that wrote as this one does.
fn has_format(index: &Index) -> Result<bool, IndexFault> {
    let read = index.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(false),
        Err(error) => return Err(StoreError::from(error).into()),
    };
    match meta
        .get("format")
        .map_err(StoreError::from)?
        .map(|value| value.value())
    {
        Some(STORE_FORMAT) => Ok(true),
        Some(other) => Err(IndexFault::Format(format!(
            "it has format {other}, and this lavant knows format {STORE_FORMAT}"
        ))),
        None => Ok(false),
    }
}

/// Reads the catalogue, and how many bytes payload files have.
fn load(index: &Index, standings: &Arc<Standings>) -> Result<(Catalog, u64), IndexFault> {
    let read = index.begin_read()?;
    let loaded: Result<_, StoreError> = (|| {
        let mut catalog = Catalog::new(Arc::clone(standings));
        for entry in read.open_table(CONTENTS)?.iter()? {
            let (no, row) = entry?;
            catalog.insert(Content::decode(no.value(), row.value())?);
        }
        catalog.begin();
        Ok((catalog, used(&read)?))
    })();
    Ok(loaded?)
}

/// The bytes of payload files, as noted by the last commit; added up when none noted them.
fn used(read: &redb::ReadTransaction) -> Result<u64, StoreError> {
    let (meta, payloads) = (read.open_table(META)?, read.open_table(PAYLOADS)?);
    let noted = |fact| Ok::<_, StoreError>(meta.get(fact)?.map(|value| value.value()));
    if let Some(used) = noted(USED)?
        && noted(USED_OF)? == Some(payloads.len()?)
    {
        return Ok(used);
    }
    let mut used = 0;
    for entry in payloads.iter()? {
        used += payload::disk_bytes(entry?.1.value().1);
    }
    Ok(used)
}

impl Shared {
    /// Whether the index is only read since the disk could not be written.
    pub(super) fn is_frozen(&self) -> bool {
        let index = self.index.read();
        index.is_ok_and(|index| matches!(*index, Index::Frozen(..)))
    }

    /// Opens the index again when a failed write left it unusable, and reads what is in it.
    pub(super) fn reopen_if_poisoned(&self) {
        let Ok(mut index) = self.index.write() else {
            return;
        };
        if let Ok(write) = index.begin_write()
            && write.abort().is_ok()
        {
            return;
        }
        // One that can be read stays open until there is one that can be written.
        if !matches!(*index, Index::Frozen(..)) {
            *index = Index::Closed;
        }
        let opened = guarded(|| {
            let opened = open_index(&self.settings)?;
            Ok((load(&opened, &self.standings)?, opened))
        });
        let opened = match opened {
            Err(IndexFault::Io(error)) if matches!(*index, Index::Closed) => {
                tracing::error!(%error, "the index cannot be written; what is there is served");
                guarded(|| {
                    let opened = open_frozen(&self.settings, error)?;
                    Ok((load(&opened, &self.standings)?, opened))
                })
            }
            Err(_) if matches!(*index, Index::Frozen(..)) => return,
            opened => opened,
        };
        match opened {
            Ok(((catalog, used), opened)) => {
                *index = opened;
                self.publish(catalog, used, 0, Dropped::default());
            }
            Err(error) => tracing::error!(%error, "the index could not be opened again"),
        }
    }
}

/// Opens the index to be read, as the disk cannot be written.
fn open_frozen(settings: &Settings, reason: io::Error) -> Result<Index, IndexFault> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(usize::try_from(settings.index_memory).unwrap_or(usize::MAX));
    let path = settings.layout.index();
    let opened = settings
        .disk
        .frozen_index(&path, &builder)
        .map_err(fault_of)?;
    Ok(Index::Frozen(
        opened,
        StoreError::io("write its index", reason),
    ))
}
