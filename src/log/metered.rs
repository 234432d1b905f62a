//! A log that tells how its appends went.

use std::sync::Arc;
use std::time::Instant;

use super::{Append, Log, LogError};
use crate::domain::Position;
use crate::metrics::Metrics;

/// A log, and where its appends are counted. Otherwise it is that log.
pub struct MeteredLog {
    log: Arc<dyn Log>,
    metrics: Arc<Metrics>,
}

impl MeteredLog {
    /// Counts the appends of a log.
    pub fn new(log: Arc<dyn Log>, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics }
    }
}

impl Log for MeteredLog {
    fn head(&self) -> Result<Position, LogError> {
        self.log.head()
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let begun = Instant::now();
        let append = self.log.append(expected, records)?;
        if append == Append::Appended {
            self.metrics.appended(records.len(), begun.elapsed());
        }
        Ok(append)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        self.log.read(from, limit)
    }
}
