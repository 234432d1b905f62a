//! A progress bar over records, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::domain::Position;

/// Shown until it is dropped.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// An empty one.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// So many of so many are done.
    pub(super) fn show(&self, done: Position, end: Position) {
        self.0.set_length(end.0);
        self.0.set_position(done.0);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
