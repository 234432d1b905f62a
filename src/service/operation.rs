//! What an operator asks of a server: how it is, whether it takes writes, and that it ends.

use super::{Service, ServiceError};
use crate::metrics::Reading;

impl Service {
    /// Returns when the writer has stopped: nothing is written any more.
    pub async fn writer_stopped(&self) {
        self.writer.stopped().await;
    }

    /// Has the writer answer what waits, and stop. What is asked from here on is told that it has.
    pub async fn end(&self) {
        self.writer.end().await;
    }

    /// How the server is now.
    pub fn look(&self) -> Result<Reading, ServiceError> {
        let store = &self.store;
        // The views are asked first: the log does not wait for the answer.
        let taken_in = store.views.checkpoint()?.next;
        let published = self.published();
        let head = store.log.head()?;
        Ok(Reading {
            writable: !self.writer.has_stopped(),
            queue_depth: self.writer.waiting() as u64,
            queue_limit: self.writer.limit() as u64,
            log_head: head.0,
            view_lag: head.0.saturating_sub(taken_in.0),
            checkpoint_lag: head.0.saturating_sub(published.0),
            vault_slots: store.vault.slots_used().into(),
            epoch: store.vault.epoch().into(),
            pending_erasures: store.views.pending_erasures()?.len() as u64,
            // The archive is not the service's.
            ..Reading::default()
        })
    }
}
