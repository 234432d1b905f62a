//! A file that is looked at now and then, because what it says must hold soon after it was written.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

/// How often it is looked at. A revoked certificate must be out within five seconds.
const EVERY: Duration = Duration::from_secs(1);

/// When it was written, and its length; `None` where it is not there.
type State = Option<(Option<SystemTime>, u64)>;

/// One file.
pub(super) struct WatchedFile {
    path: PathBuf,
    /// `None`: it is to be looked at again, whatever has become of it.
    known: Option<State>,
}

impl WatchedFile {
    /// A file as it is now.
    pub(super) fn new(path: PathBuf) -> Self {
        let known = Some(Self::state(&path));
        Self { path, known }
    }

    /// Returns once it is another than before, or is not there any more.
    pub(super) async fn changed(&mut self) {
        loop {
            sleep(EVERY).await;
            let now = Some(Self::state(&self.path));
            if now != self.known {
                self.known = now;
                return;
            }
        }
    }

    /// What it said was of no use: the next look counts as a change.
    pub(super) fn look_again(&mut self) {
        self.known = None;
    }

    fn state(path: &std::path::Path) -> State {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok(), metadata.len()))
    }
}
