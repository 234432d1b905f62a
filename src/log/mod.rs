//! The log: records in order, durable. With the vault, the only truth.
//!
//! An engine implements [`Log`] and nothing else of it shows: [`sled::SledLog`] is the embedded one,
//! [`memory::MemoryLog`] the one whose faults are told to it; [`metered::MeteredLog`] counts the appends
//! of another. What an engine returns is not yet believed: whoever reads a record checks its checksum, its position and its seal.

mod at_risk;
pub mod checked;
mod chunk;
pub mod codec;
pub(crate) mod contained;
pub mod durability;
pub mod head;
pub mod memory;
pub mod metered;
pub mod note;
pub mod record;
pub mod sled;
mod survey;
mod tail;
pub mod tree;

use std::io;
use std::iter;
use std::path::PathBuf;
use std::thread::Scope;

use crate::domain::Position;
use crate::parallel::ahead;
use record::RecordError;

/// An append-only sequence of records.
///
/// Laws: positions are gapless from 0; [`append`](Log::append) is atomic, and durable when it
/// returns [`Append::Appended`]; a record once read never changes.
pub trait Log: Send + Sync {
    /// The next position: how many records there are.
    fn head(&self) -> Result<Position, LogError>;

    /// Appends the records, all or none, if the head is still `expected`.
    ///
    /// After an error nothing is known about the engine any more, and it must not be written to
    /// again by this process.
    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError>;

    /// At most `limit` records from `from` on, fewer only at the end of the log.
    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError>;
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Append {
    /// All records are in the log and durable.
    Appended,
    /// None is: another writer got there first, and the head is here now.
    Conflict {
        /// The next position.
        head: Position,
    },
    /// It cannot be told. The caller reads the log again before it answers anyone.
    Unknown,
}

/// The log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk, or what lies between it and us.
    #[error("the log cannot be read or written: {0}; check the disk, then start again")]
    Io(#[from] io::Error),
    /// There are no files.
    #[error("{} is missing; restore the log from a backup", .0.display())]
    Missing(PathBuf),
    /// The engine found its files damaged, or is not the engine that wrote them.
    #[error("the log's files are damaged: {0}; restore them from a backup")]
    Engine(String),
    /// A record is not where it must be.
    #[error(
        "the log has no record at position {0}, though it has later ones; restore it from a backup"
    )]
    Gap(Position),
    /// The log ends too early.
    #[error(
        "the log ends at position {head}, but had come to {expected}: records are lost; restore it from a backup"
    )]
    Lost {
        /// Where it ends.
        head: Position,
        /// Where it had come to.
        expected: Position,
    },
    /// A record is there, but changed.
    #[error("the record at position {0} {1}; restore the log from a backup")]
    Damaged(Position, RecordError),
}

/// How many records a scan reads at a time.
pub const PAGE: usize = 1024;

/// The pages of a log from a position to its end, in order, as `open` has them. It opens them ahead, on
/// all processors.
pub fn pages<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    log: &'scope dyn Log,
    from: Position,
    open: impl Fn(Position, &[Vec<u8>]) -> T + Copy + Send + 'scope,
) -> impl Iterator<Item = Result<T, LogError>> {
    let page = move |first| {
        let records = log.read(first, PAGE)?;
        Ok((open(first, &records), records.len() < PAGE))
    };
    // Many logs have but one, and need no threads.
    let first = page(from);
    let others = iter::successors(Some(from), |first| Some(first.plus(PAGE as u64))).skip(1);
    let others = ahead(scope, others.map(move |first| move || page(first)));
    let mut pages = iter::once(first).chain(others);
    let mut is_over = false;
    iter::from_fn(move || {
        if is_over {
            return None;
        }
        let page = pages.next()?;
        is_over = page.as_ref().map_or(true, |(_, is_last)| *is_last);
        Some(page.map(|(page, _)| page))
    })
}

/// Calls `each` with every record from `from` to the end, in order.
pub fn scan<E: From<LogError>>(
    log: &dyn Log,
    from: Position,
    mut each: impl FnMut(Position, &[u8]) -> Result<(), E>,
) -> Result<Position, E> {
    let mut position = from;
    loop {
        let page = log.read(position, PAGE)?;
        for record in &page {
            each(position, record)?;
            position = position.plus(1);
        }
        if page.len() < PAGE {
            return Ok(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::memory::MemoryLog;
    use super::record::tests::records;
    use super::*;

    /// A log that notes where it was read.
    struct Noting {
        log: MemoryLog,
        read: Mutex<Vec<u64>>,
    }

    impl Log for Noting {
        fn head(&self) -> Result<Position, LogError> {
            self.log.head()
        }

        fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
            self.log.append(expected, records)
        }

        fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
            self.read.lock().unwrap().push(from.0);
            self.log.read(from, limit)
        }
    }

    #[test]
    fn pages_are_all_records_in_order_and_one_page_takes_one_read() {
        let page = PAGE as u64;
        for (from, count) in [(0, 0), (0, 5), (3, 5), (0, page), (7, 3 * page), (0, 3 * page + 1)] {
            let log = Noting { log: MemoryLog::default(), read: Mutex::default() };
            let all = records(count);
            let _ = log.append(Position::ZERO, &all).unwrap();
            let opened: Vec<_> = thread::scope(|scope| {
                let open = |first: Position, records: &[Vec<u8>]| (first.0, records.to_vec());
                pages(scope, &log, Position(from), open).map(Result::unwrap).collect()
            });
            let firsts = opened.iter().map(|(first, _)| *first);
            assert!(firsts.eq((from..=count).step_by(PAGE)), "{count} from {from}");
            let found = opened.into_iter().flat_map(|(_, records)| records);
            assert!(found.eq(all.into_iter().skip(usize::try_from(from).unwrap())));
            if count - from < page {
                assert_eq!(*log.read.lock().unwrap(), [from]);
            }
        }
    }
}
