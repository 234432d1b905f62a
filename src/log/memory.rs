//! A log in memory whose faults are told to it beforehand.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Append, Log, LogError};
use crate::domain::Position;

/// What goes wrong at an append.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The write or the sync fails.
    Failed,
    /// Another writer appends these first.
    Overtaken(Vec<Vec<u8>>),
    /// The reply is lost, and the records are in the log.
    LostAfter,
    /// The reply is lost, and the records are not in the log.
    LostBefore,
}

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Vec<u8>>,
    /// One for each append to come; `None`: nothing goes wrong.
    faults: VecDeque<Option<Fault>>,
}

impl MemoryLog {
    /// The next append without a fault told yet goes wrong like this.
    pub fn inject(&self, fault: Option<Fault>) {
        self.lock().faults.push_back(fault);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn head(&self) -> Position {
        Position(self.records.len() as u64)
    }
}

impl Log for MemoryLog {
    fn head(&self) -> Result<Position, LogError> {
        Ok(self.lock().head())
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let mut inner = self.lock();
        match inner.faults.pop_front().flatten() {
            Some(Fault::Failed) => return Err(io::Error::other("injected").into()),
            Some(Fault::Overtaken(theirs)) => inner.records.extend(theirs),
            Some(Fault::LostBefore) => return Ok(Append::Unknown),
            Some(Fault::LostAfter) if inner.head() == expected => {
                inner.records.extend_from_slice(records);
                return Ok(Append::Unknown);
            }
            Some(Fault::LostAfter) | None => {}
        }
        if inner.head() != expected {
            return Ok(Append::Conflict { head: inner.head() });
        }
        inner.records.extend_from_slice(records);
        Ok(Append::Appended)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let from = usize::try_from(from.0).unwrap_or(usize::MAX);
        Ok(self.lock().records.iter().skip(from).take(limit).cloned().collect())
    }
}
