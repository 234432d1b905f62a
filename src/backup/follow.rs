//! The continuous archive: follows the log into a backup directory, from a thread of its own, for as
//! long as the server runs. Whatever becomes of its disk, the server goes on; the log says so, and it
//! is tried again.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::BackupError;
use super::archive::{Archive, Finish, Source};
use crate::background;
use crate::domain::Position;
use crate::telemetry::Trouble;

/// How far the archive may lag. Each step that has something to write costs it four syncs.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long until a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the last step may take when the server ends.
const LAST_STEP: Duration = Duration::from_secs(10);
/// For how long a step is believed to be followed by another.
const CURRENT: Duration = Duration::from_secs(30);

/// How far the archive has come. For those who watch the server.
#[derive(Debug, Default)]
pub struct Archived {
    head: AtomicU64,
    is_failing: AtomicBool,
    /// When the last step succeeded; `None`: none has, or the last one failed.
    stepped: Mutex<Option<Instant>>,
}

impl Archived {
    /// How many records are archived for certain.
    pub fn head(&self) -> Position {
        Position(self.head.load(Ordering::Relaxed))
    }

    /// Whether the last step failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Whether it follows the log: its last step succeeded, and was not long ago.
    pub fn is_current(&self) -> bool {
        let stepped = *self.stepped.lock().unwrap_or_else(PoisonError::into_inner);
        stepped.is_some_and(|stepped| stepped.elapsed() < CURRENT)
    }

    /// Takes in what a step came to; `None`: it failed.
    fn note(&self, step: Option<Position>) {
        if let Some(head) = step {
            self.head.store(head.0, Ordering::Relaxed);
        }
        let stepped = step.map(|_| Instant::now());
        *self.stepped.lock().unwrap_or_else(PoisonError::into_inner) = stepped;
        self.is_failing.store(stepped.is_none(), Ordering::Relaxed);
    }
}

/// The thread of an archive.
pub struct Follower {
    end: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
    archived: Arc<Archived>,
}

impl Follower {
    /// Starts to archive into a directory.
    pub fn spawn(directory: &Path, source: Source) -> std::io::Result<Self> {
        let (end, told_to_end) = mpsc::channel();
        let (tell_ended, ended) = mpsc::channel();
        let archived = Arc::new(Archived::default());
        let directory = directory.to_owned();
        let run = Run { directory, source, archived: Arc::clone(&archived) };
        background::spawn("archive", move || {
            run.until(&told_to_end);
            // Nobody may wait any more.
            let _ = tell_ended.send(());
        })?;
        Ok(Self { end, ended, archived })
    }

    /// How far it has come.
    pub fn archived(&self) -> Arc<Archived> {
        Arc::clone(&self.archived)
    }

    /// Archives what is left, if the disk lets it.
    pub fn end(self) {
        // An error means that it has ended already.
        let _ = self.end.send(());
        if self.ended.recv_timeout(LAST_STEP).is_err() {
            tracing::error!("the archive did not come to its end in {} s", LAST_STEP.as_secs());
        }
    }
}

struct Run {
    directory: PathBuf,
    source: Source,
    archived: Arc<Archived>,
}

impl Run {
    fn until(&self, told_to_end: &mpsc::Receiver<()>) {
        let mut archive = None;
        let mut trouble = Trouble::default();
        let mut is_last = false;
        loop {
            let wait = match self.step(&mut archive) {
                Ok(head) => {
                    self.archived.note(Some(head));
                    if trouble.is_over() {
                        tracing::info!(head = head.0, "the archive is up to the log again");
                    }
                    INTERVAL
                }
                Err(error) => {
                    // What a failed write or sync left is not to be trusted.
                    archive = None;
                    self.archived.note(None);
                    if trouble.is_new(&error.to_string()) {
                        tracing::error!("the archive does not go on: {error}");
                    }
                    RETRY
                }
            };
            if is_last {
                return;
            }
            is_last = told_to_end.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout);
        }
    }

    fn step(&self, archive: &mut Option<Archive>) -> Result<Position, BackupError> {
        let archive = match archive {
            Some(archive) => archive,
            None => archive.insert(Archive::open(&self.directory, self.source.clone())?),
        };
        archive.advance(Finish::Tail, &mut |_, _| ControlFlow::Continue(()))
    }
}
