//! Reads what a start did not: the records of a long log that were checked before. The server serves
//! meanwhile, and ends where something was changed.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use crate::log::checked::check_again;
use crate::log::head::{Checkpoint, HeadError};
use crate::log::{Log, LogError};

/// Reads from a thread of its own until it is told to end.
pub struct Rereading {
    end: mpsc::Sender<()>,
    /// `None`: there is nothing to read.
    thread: Option<thread::JoinHandle<Result<(), HeadError>>>,
}

/// What was found, if anything was.
pub struct Found(oneshot::Receiver<Result<(), HeadError>>);

impl Rereading {
    /// Starts, where there are records to read: those that the checkpoint is over.
    pub fn spawn(log: Arc<dyn Log>, unread: Option<Checkpoint>) -> std::io::Result<(Self, Found)> {
        let (end, ended) = mpsc::channel();
        let (tell, found) = oneshot::channel();
        let Some(known) = unread else {
            let _ = tell.send(Ok(()));
            return Ok((Self { end, thread: None }, Found(found)));
        };
        let read = move || {
            let result = check_again(log.as_ref(), &known, &ended);
            if result.is_ok() {
                tracing::info!(records = known.size.0, "the log was read again");
            }
            // Where nobody waits for it any more, it is given to who ends this.
            tell.send(result).or_else(|result| result)
        };
        let thread = thread::Builder::new().name("reread".to_owned()).spawn(read)?;
        Ok((Self { end, thread: Some(thread) }, Found(found)))
    }

    /// Stops, if it is not done; what was found and nobody was told of.
    pub fn end(self) -> Result<(), HeadError> {
        // An error means that it has ended already.
        let _ = self.end.send(());
        self.thread.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(unread())))
    }
}

impl Found {
    /// Waits for something that was changed; for ever, where nothing was.
    pub async fn next(self) -> HeadError {
        match self.0.await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(error)) => error,
            Err(_) => unread(),
        }
    }
}

/// It panicked.
fn unread() -> HeadError {
    LogError::Engine("they could not be read to the end".to_owned()).into()
}
