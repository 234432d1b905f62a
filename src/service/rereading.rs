//! Reads what a start did not: the records of a long log that were checked before. The server serves
//! meanwhile, and ends where something was changed.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::log::Log;
use crate::log::checked::check_again;
use crate::log::head::{Checkpoint, HeadError};

/// Reads from a thread of its own until it is told to end.
pub struct Rereading {
    end: mpsc::Sender<()>,
    /// `None`: there is nothing to read.
    thread: Option<thread::JoinHandle<()>>,
}

/// What was found, if anything was.
pub struct Found(oneshot::Receiver<HeadError>);

impl Rereading {
    /// Starts, where there are records to read: those that the checkpoint is over.
    pub fn spawn(log: Arc<dyn Log>, unread: Option<Checkpoint>) -> std::io::Result<(Self, Found)> {
        let (end, ended) = mpsc::channel();
        let (tell, found) = oneshot::channel();
        let read = |known: Checkpoint| {
            move || match check_again(log.as_ref(), &known, &ended) {
                Ok(()) => tracing::info!(records = known.size.0, "the log was read again"),
                // Nobody listens to it any more where the server ends anyway.
                Err(error) => drop(tell.send(error)),
            }
        };
        let spawn = |read| thread::Builder::new().name("reread".to_owned()).spawn(read);
        let thread = unread.map(read).map(spawn).transpose()?;
        Ok((Self { end, thread }, Found(found)))
    }

    /// Stops, if it is not done.
    pub fn end(self) {
        // An error means that it has ended already.
        let _ = self.end.send(());
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

impl Found {
    /// Waits for something that was changed; for ever, where nothing was.
    pub async fn next(self) -> HeadError {
        match self.0.await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }
}
