//! Keeps the head file: rewrites it every few seconds while the log moves, and at the end. Where that
//! fails it is tried again: until then a loss of the newest records would not be noticed.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
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
        key: Arc<LogKey>,
        tree: Arc<Mutex<CompactRange>>,
    ) -> std::io::Result<Self> {
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("head".to_owned()).spawn(move || {
            let write = |checkpoint: &Checkpoint| head::write(&path, &key, checkpoint);
            keep(&tree, write, &ended, INTERVAL)
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

/// Writes at each interval and when it ends, if there is something new.
fn keep(
    tree: &Mutex<CompactRange>,
    mut write: impl FnMut(&Checkpoint) -> Result<(), HeadError>,
    ended: &Receiver<()>,
    interval: Duration,
) -> Result<(), HeadError> {
    let mut written: Option<Position> = None;
    loop {
        let is_last = ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout);
        let tree = tree.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let size = tree.size();
        let result = if written == Some(size) {
            Ok(())
        } else {
            write(&Checkpoint { size, root: tree.root() })
        };
        match result {
            result if is_last => return result,
            Ok(()) => written = Some(size),
            Err(error) => tracing::error!("{error}; it is tried again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let tree = Mutex::new(CompactRange::default());
        tree.lock().unwrap().push([1; 32]);
        let (end, ended) = mpsc::channel();
        let mut tried = 0;
        let write = |checkpoint: &Checkpoint| {
            assert_eq!(checkpoint.size, Position(1));
            tried += 1;
            match tried {
                1 => return Err(std::io::Error::other("no descriptor").into()),
                2 => end.send(()).unwrap(),
                _ => panic!("it was written, and there is nothing new"),
            }
            Ok(())
        };
        keep(&tree, write, &ended, Duration::from_millis(1)).unwrap();
        assert_eq!(tried, 2);
    }

    #[test]
    fn that_the_last_one_fails_is_told() {
        let tree = Mutex::new(CompactRange::default());
        let (end, ended) = mpsc::channel();
        end.send(()).unwrap();
        let write = |_: &Checkpoint| Err(std::io::Error::other("no descriptor").into());
        assert!(keep(&tree, write, &ended, Duration::from_secs(60)).is_err());
    }
}
