//! `views rebuild`: the views from the log, from nothing.

use serde_json::json;

use super::directory::Directory;
use super::output::print;
use super::progress::Bar;

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
        // What a server uses must not be deleted under it, and none may start in between.
        let lock = directory.lock()?;
        directory.delete_views()?;
        let bar = Bar::new();
        let opened = directory.open_locked(lock, &config, |done, end| bar.show(done, end))?;
        opened.store.views.close()?;
        drop(bar);
        let records = opened.store.views.checkpoint()?.next;
        print(as_json, &json!({ "records": records.0 }), || {
            format!("rebuilt the views from {records} records")
        })?;
        Ok(())
    }
}
