//! `views rebuild`: the views from the log, from nothing.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::directory::Directory;
use super::output::print;

/// Work with the views.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ViewsCommand {
    /// Delete the views and build them from the log; the server must not run
    Rebuild,
}

impl ViewsCommand {
    /// Rebuilds, with a progress bar on a terminal.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let Self::Rebuild = self;
        let config = directory.config()?;
        // What a server uses must not be deleted under it.
        drop(directory.lock()?);
        directory.delete_views()?;
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}") {
            bar.set_style(style);
        }
        let opened = directory.open(&config, |done, end| {
            bar.set_length(end.0);
            bar.set_position(done.0);
        })?;
        opened.store.views.close()?;
        bar.finish_and_clear();
        let records = opened.store.views.checkpoint()?.next;
        print(as_json, &json!({ "records": records.0 }), || {
            format!("rebuilt the views from {records} records")
        });
        Ok(())
    }
}
