//! `restore`: the data from a backup.

use std::path::PathBuf;

use serde_json::json;

use super::directory::Directory;
use super::output::print;
use super::progress::Bar;
use crate::backup::{self, Restored, Target};

/// Build the data again from a backup or an archive; data that is there is moved aside.
///
/// The directory must have its keys and configuration; the server must not run.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// The backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Restore also a backup that is older than the data that is there: what came later is lost
    #[arg(long)]
    lose_newer: bool,
}

impl Restore {
    /// Restores, with a progress bar on a terminal.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let config = directory.config()?;
        let log_key = directory.log_key()?;
        let data = directory.join("data");
        // Where there is no data there is no server.
        let lock = if data.is_dir() { Some(directory.lock()?) } else { None };
        let bar = Bar::new();
        let target = Target {
            data: &data,
            ledger: &directory.join(&config.erasure_ledger),
            master_key: directory.master_key(),
            log_key: &log_key,
            cache_bytes: config.storage.log_cache_mib << 20,
            lose_newer: self.lose_newer,
        };
        let Restored { head, moved_to } =
            backup::restore(&self.backup, target, |done, end| bar.show(done, end))?;
        // They are of what was there.
        directory.delete_views()?;
        directory.delete_tiles()?;
        drop((bar, lock));
        print(as_json, &json!({ "records": head.0, "moved_to": moved_to }), || {
            let moved = moved_to.as_ref().map_or_else(String::new, |path| {
                format!("; what was there is in {}, remove it when all is well", path.display())
            });
            format!("restored {head} records{moved}")
        })?;
        Ok(())
    }
}
