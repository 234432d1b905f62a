//! Reads what a start did not: the records of a long log that were checked before. The server serves
//! meanwhile, and ends where something was changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;

use crate::background;
use crate::log::checked::check_again;
use crate::log::head::{Checkpoint, HeadError};
use crate::log::{Log, LogError};

/// Reads from a thread of its own until it is told to end.
pub struct Rereading {
    end: mpsc::Sender<()>,
    /// `None`: there is nothing to read.
    thread: Option<thread::JoinHandle<Result<(), HeadError>>>,
    /// Also where it was told to somebody who did not come to hear it.
    has_found: Arc<AtomicBool>,
}

/// What was found, if anything was.
pub struct Found(oneshot::Receiver<Result<(), HeadError>>);

impl Rereading {
    /// Starts, where there are records to read: those that the checkpoint is over.
    pub fn spawn(log: Arc<dyn Log>, unread: Option<Checkpoint>) -> std::io::Result<(Self, Found)> {
        let (end, ended) = mpsc::channel();
        let (tell, found) = oneshot::channel();
        let has_found = Arc::new(AtomicBool::new(false));
        let found_before = Arc::clone(&has_found);
        let Some(known) = unread else {
            let _ = tell.send(Ok(()));
            return Ok((Self { end, thread: None, has_found }, Found(found)));
        };
        let read = move || {
            let result = check_again(log.as_ref(), &known, &ended).map(|is_whole| {
                if is_whole {
                    tracing::info!(records = known.size.0, "the log was read again");
                } else {
                    tracing::info!(
                        "the log was not read to its end again; the next start begins anew"
                    );
                }
            });
            found_before.store(result.is_err(), Ordering::Release);
            // Where nobody waits for it any more, it is given to who ends this.
            tell.send(result).or_else(|result| result)
        };
        let thread = background::spawn("reread", read)?;
        Ok((Self { end, thread: Some(thread), has_found }, Found(found)))
    }

    /// Stops, if it is not done; an error if anything was found.
    pub fn end(self) -> Result<(), HeadError> {
        // An error means that it has ended already.
        let _ = self.end.send(());
        let Some(thread) = self.thread else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(unread()))?;
        if self.has_found.load(Ordering::Acquire) { Err(unread()) } else { Ok(()) }
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

/// It panicked, or what it found was not heard.
fn unread() -> HeadError {
    LogError::Engine("they do not all read as they were checked".to_owned()).into()
}
