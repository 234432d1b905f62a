//! The rows on disk: an LSM tree. Views are small rows with random keys, many of them written again and
//! again. A B-tree's cost of these grows with its size, as does what sled keeps in memory of it: at two
//! million activations 43 µs and 10 GB, where this one takes 11 µs and 190 MB.
//!
//! Rows come in sorted batches that are tables at once. The engine's journal and memtable are not used: what
//! they would keep is in memory above this, and in the log.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::ViewsError;
use super::layers::Rows;
use crate::log::contained::{Contained, contain_or_end, take_worker_panic};

const OPEN_FILES: usize = 128;
/// With so many tables that are not merged yet the next one waits: each is one more to look into.
const MOST_UNMERGED: usize = 24;
const POLL: Duration = Duration::from_millis(10);
const LAST_WORDS: &str = "the views are damaged; start again, and they are rebuilt";

/// A row's key. One of up to 20 bytes lies where a longer one has its address: where many are looked through,
/// each is at hand. An activation costs the server 8 % less than with keys that lie elsewhere.
pub(super) type Key = Slice;

/// Puts a row into a batch by its number, or the deletion of one.
pub(super) type Put<'a> = dyn FnMut(usize, Key, Option<Slice>) -> Result<(), ViewsError> + 'a;

/// The rows of one log's views.
pub(super) struct Store {
    engine: Contained<Engine>,
    has_failed: AtomicBool,
    /// What is done once something cannot be read or written.
    distrust: Box<dyn Fn() + Send + Sync>,
}

struct Engine {
    database: Database,
    rows: Keyspace,
}

impl Store {
    /// Opens the rows in a directory, or makes new ones. `cache_bytes` bounds what is kept in memory of
    /// what was read. `distrust` is called the first time that something cannot be read or written.
    pub(super) fn open(
        directory: &Path,
        cache_bytes: u64,
        distrust: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ViewsError> {
        let open = || {
            let database = Database::builder(directory)
                .cache_size(cache_bytes)
                .max_cached_files(Some(OPEN_FILES))
                .worker_threads(1)
                .open()?;
            let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
            Ok(Engine { database, rows })
        };
        // One before it had its own.
        take_worker_panic();
        // Files that are damaged may be more than the engine expects.
        let opened = contain_or_end(LAST_WORDS, open);
        let engine =
            opened.unwrap_or_else(|| Err(ViewsError::Damaged("they cannot be read".to_owned())))?;
        let (engine, has_failed) = (Contained::new(engine), AtomicBool::new(false));
        Ok(Self { engine, has_failed, distrust: Box::new(distrust) })
    }

    /// Whether something could not be read or written.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    fn noted<T>(&self, result: fjall::Result<T>) -> Result<T, ViewsError> {
        if result.is_err() && !self.has_failed.swap(true, Ordering::AcqRel) {
            (self.distrust)();
        }
        Ok(result?)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Slice>, ViewsError> {
        self.noted(self.engine.rows.get(key))
    }

    /// The rows of a range, in order.
    pub(super) fn range(
        &self,
        range: Range<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = Result<(Slice, Slice), ViewsError>> + use<'_> {
        self.engine.rows.range(range).map(|row| self.noted(row.into_inner()))
    }

    /// Writes rows in one atomic batch, the deleted ones as `None`.
    pub(super) fn write(&self, rows: &Rows) -> Result<(), ViewsError> {
        self.write_batches(1, |put| {
            let mut rows = rows.iter();
            rows.try_for_each(|(key, row)| put(0, key.clone(), row.as_deref().map(Slice::from)))
        })
    }

    /// Writes several batches at a time, of any size. `fill` puts rows into them, into each of them in
    /// the order of keys. They are there one after the other, each of them whole.
    pub(super) fn write_batches(
        &self,
        batches: usize,
        fill: impl FnOnce(&mut Put<'_>) -> Result<(), ViewsError>,
    ) -> Result<(), ViewsError> {
        let begin = || {
            self.persist(PersistMode::Buffer)?;
            while self.engine.rows.l0_table_count() >= MOST_UNMERGED {
                thread::sleep(POLL);
                self.persist(PersistMode::Buffer)?;
            }
            (0..batches).map(|_| self.engine.rows.start_ingestion()).collect::<Result<Vec<_>, _>>()
        };
        let mut tables = self.noted(begin())?;
        fill(&mut |batch, key, row| {
            self.noted(match row {
                Some(row) => tables[batch].write(key, row),
                None => tables[batch].write_tombstone(key),
            })
        })?;
        tables.into_iter().try_for_each(|table| self.noted(table.finish()))
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&self) -> Result<(), ViewsError> {
        self.noted(self.persist(PersistMode::SyncAll))
    }

    /// An error too where tables cannot be merged any more, which nothing else says.
    fn persist(&self, mode: PersistMode) -> fjall::Result<()> {
        if take_worker_panic() {
            return Err(fjall::Error::Poisoned);
        }
        self.engine.database.persist(mode)
    }
}

impl From<fjall::Error> for ViewsError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                Self::Io(error)
            }
            fjall::Error::Poisoned => {
                Self::Io(std::io::Error::other("an earlier write or sync failed"))
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}
