//! Keeps the head file: rewrites it every few seconds while the log moves, and at the end. Where that
//! fails it says so, and tries again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::domain::Position;
use crate::log::head::{self, Checkpoint, HeadError, LogKey};
use crate::log::tree::CompactRange;

/// How far the head file may lag. Its two syncs compete with the log's, so not more often.
const INTERVAL: Duration = Duration::from_secs(5);

/// Writes the head file from a thread of its own until it is told to end.
pub struct Keeper {
    end: mpsc::Sender<()>,
    thread: thread::JoinHandle<Result<(), HeadError>>,
}

impl Keeper {
    /// Starts. `tree` is what the writer adds to; the head file is as of its size now or earlier.
    pub fn spawn(
        path: PathBuf,
        key: LogKey,
        tree: Arc<Mutex<CompactRange>>,
    ) -> std::io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("head".to_owned()).spawn(move || {
            let mut written = None;
            loop {
                let last = ended.recv_timeout(INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout);
                match write(&path, &key, &tree, written) {
                    Ok(size) => written = size,
                    Err(error) if last => return Err(error),
                    // Nothing that is acknowledged depends on it, and it is written whole each time.
                    Err(error) => tracing::error!("{error}; it is tried again"),
                }
                if last {
                    return Ok(());
                }
            }
        })?;
        Ok(Self { end, thread })
    }

    /// Writes the file a last time.
    pub fn end(self) -> Result<(), HeadError> {
        // An error means that it has ended already; its result says why.
        let _ = self.end.send(());
        self.thread.join().unwrap_or(Err(HeadError::Invalid))
    }
}

fn write(
    path: &std::path::Path,
    key: &LogKey,
    tree: &Mutex<CompactRange>,
    written: Option<Position>,
) -> Result<Option<Position>, HeadError> {
    let tree = tree.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if written != Some(tree.size()) {
        head::write(path, key, &Checkpoint { size: tree.size(), root: tree.root() })?;
    }
    Ok(Some(tree.size()))
}
