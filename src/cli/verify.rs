//! `verify`: whether what is stored is whole. Names the first bad position.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use serde_json::json;

use super::directory::{Directory, Truth};
use super::output::print;
use super::progress::Bar;
use crate::backup::segment::SegmentError;
use crate::backup::{Backup, BackupError};
use crate::config::Config;
use crate::domain::Position;
use crate::log::LogError;
use crate::log::head::HeadError;
use crate::service::store::{Page, SlotCounts, Store, StoreError, half_made, half_read};
use crate::tlog::replay::Difference;
use crate::vault::VaultError;
use crate::vault::file::FileVault;
use crate::vault::ledger::LedgerError;
use crate::views::{Checkpoint, Views};

/// Check what is stored, or a backup: records, root, vault, views; the server must not run.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// A backup, instead of the data
    #[arg(value_name = "BACKUP", conflicts_with = "deep")]
    backup: Option<PathBuf>,
    /// Open every record too, and compare the views with what comes of all of them
    #[arg(long)]
    deep: bool,
}

/// What is stored is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Bad(String);

impl Bad {
    /// What is not as it was.
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// What is known of the views.
enum Found {
    Match,
    /// They match as far as was looked.
    LookGood,
    /// The next start rebuilds them by itself.
    ToBeRebuilt,
}

impl Verify {
    /// Verifies, with a progress bar on a terminal.
    pub(super) fn run(self, directory: &Directory, as_json: bool) -> anyhow::Result<()> {
        let bar = Bar::new();
        let verified = match &self.backup {
            Some(path) => verify_backup(directory, path, &bar).map(|head| (head, None)),
            None => verify_data(directory, self.deep, &bar).map(|(head, v)| (head, Some(v))),
        };
        drop(bar);
        match verified {
            Ok((records, views)) => {
                let views = views.map(|views| match views {
                    Found::Match => "match the log",
                    Found::LookGood => "end where the log says",
                    Found::ToBeRebuilt => "will be rebuilt at the next start",
                });
                let value = json!({ "good": true, "records": records.0, "views": views });
                print(as_json, &value, || match views {
                    Some(views) => {
                        format!("good: {records} records, each with its key; the views {views}")
                    }
                    None => format!("good: {records} records, and the vault's copy"),
                })?;
                Ok(())
            }
            Err(error) => told(error, as_json),
        }
    }
}

/// The error of a check: that what is stored is bad, which is told to programs as well, or another.
pub(super) fn told(error: anyhow::Error, as_json: bool) -> anyhow::Result<()> {
    let Some(Finding(position)) = finding(&error) else { return Err(error) };
    let text = super::message(&error);
    if as_json {
        let position = position.map(|position| position.0);
        let value = json!({ "good": false, "position": position, "problem": text });
        print(true, &value, String::new)?;
    }
    Err(Bad(text).into())
}

fn verify_backup(directory: &Directory, path: &Path, bar: &Bar) -> anyhow::Result<Position> {
    let key = directory.log_key()?;
    loop {
        let backup = Backup::open(path, &key)?;
        let checked = backup.records(|position, _, _| {
            bar.show(position, backup.head());
            Ok::<_, BackupError>(())
        });
        let checked = checked.and_then(|()| backup.check_vault().map(drop));
        let Err(error) = checked else { return Ok(backup.head()) };
        // Whoever writes to it may just have put a segment in the place of a tail.
        if Backup::open(path, &key)?.head() == backup.head() {
            return Err(error.into());
        }
    }
}

fn verify_data(directory: &Directory, deep: bool, bar: &Bar) -> anyhow::Result<(Position, Found)> {
    let (config, lock) = (directory.config()?, directory.lock()?);
    if deep {
        let scratch = directory.join("views.verify");
        // Until it is gone, nobody else makes one.
        let _held = lock.try_clone()?;
        Views::delete(&scratch)?;
        let verified = verify_deep(directory, lock, &config, &scratch, bar);
        Views::delete(&scratch)?;
        return verified;
    }
    let show = |(), done, end| bar.show(done, end);
    let truth = directory.open_truth(lock, &config, |_, _, _| (), show)?;
    let found = match live_views(directory, &config, &truth) {
        Some(store) if store.views_match()? => {
            store.views.close()?;
            Found::LookGood
        }
        _ => Found::ToBeRebuilt,
    };
    Ok((truth.source.log.head()?, found))
}

/// The same, and opens every record, makes the rows of views of all of them, and compares those that are
/// there. What is put off on the way is in `scratch`.
fn verify_deep(
    directory: &Directory,
    lock: File,
    config: &Config,
    scratch: &Path,
    bar: &Bar,
) -> anyhow::Result<(Position, Found)> {
    let views = Views::open(scratch, cache_bytes(config))?;
    let Some(mut whole) = views.begin_whole()? else {
        bail!("{} is not empty; delete it", scratch.display());
    };
    let (mut taken_in, mut checkpoint) = (Ok(()), Checkpoint::default());
    let open = |vault: &FileVault, first, records: &[Vec<u8>]| Page::open(vault, first, records);
    let truth = directory.open_truth(lock, config, open, |page, done, end| {
        bar.show(half_read(done), end);
        // A record that does not open is told of where it, and all others, are what was written.
        if taken_in.is_ok() {
            taken_in = page.and_then(|page| {
                checkpoint = page.end().unwrap_or(checkpoint);
                Ok(whole.apply(page.pairs())?)
            });
        }
    })?;
    taken_in?;
    let end = checkpoint.next;
    let live = live_views(directory, config, &truth);
    // What a start does: the newest rows of a server that was killed are only in the log.
    let live =
        live.filter(|live| live.views_match().unwrap_or(false) && live.catch_up(|_| ()).is_ok());
    let show = |done, parts| bar.show(half_made(end, done, parts), end);
    let Some(live) = live else {
        whole.can_be_made(show)?;
        return Ok((end, Found::ToBeRebuilt));
    };
    if !whole.is_in(&live.views, checkpoint, show)? {
        let text = "the views are not what the log says; run `countersign views rebuild`";
        return Err(Bad(text.to_owned()).into());
    }
    live.views.close()?;
    Ok((end, Found::Match))
}

/// The views that are there; `None`: they are not, or cannot be believed.
fn live_views(directory: &Directory, config: &Config, truth: &Truth) -> Option<Store> {
    let path = directory.join("views");
    let views = path.exists().then(|| Views::open(&path, cache_bytes(config)));
    Some(with_views(truth, views?.ok()?))
}

fn with_views(truth: &Truth, views: Views) -> Store {
    let (log, vault) = (Arc::clone(&truth.source.log), Arc::clone(&truth.source.vault));
    Store { log, vault, views, counts: SlotCounts::default() }
}

fn cache_bytes(config: &Config) -> u64 {
    config.storage.views_cache_mib << 20
}

/// What is stored is bad, at a position where it has one.
struct Finding(Option<Position>);

const NOWHERE: Option<Finding> = Some(Finding(None));

/// Whether an error says that what is stored is bad; `None`: it is about something else.
fn finding(error: &anyhow::Error) -> Option<Finding> {
    if error.is::<Bad>() {
        return NOWHERE;
    }
    if let Some(error) = error.downcast_ref::<HeadError>() {
        return of_head(error);
    }
    if let Some(error) = error.downcast_ref::<LogError>() {
        return of_log(error);
    }
    if let Some(difference) = error.downcast_ref::<Difference>() {
        return Some(Finding(Some(difference.position())));
    }
    if let Some(error) = error.downcast_ref::<VaultError>() {
        return of_vault(error);
    }
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::Sealed(position, _) | StoreError::Event(position, _)) => {
            return Some(Finding(Some(*position)));
        }
        Some(StoreError::Log(error)) => return of_log(error),
        Some(StoreError::Vault(error)) => return of_vault(error),
        _ => {}
    }
    match error.downcast_ref::<BackupError>()? {
        BackupError::Segment { error: SegmentError::Record(position, _), .. }
        | BackupError::Missing { position, .. } => Some(Finding(Some(*position))),
        BackupError::Segment { .. }
        | BackupError::Manifest(_)
        | BackupError::Unfinished(_)
        | BackupError::Changed { .. }
        | BackupError::VaultCut { .. }
        | BackupError::Ledger(LedgerError::Damaged { .. }) => NOWHERE,
        BackupError::Vault(error) => of_vault(error),
        _ => None,
    }
}

fn of_head(error: &HeadError) -> Option<Finding> {
    match error {
        HeadError::Io(_) => None,
        HeadError::Missing(_) | HeadError::Invalid | HeadError::Changed(_) => NOWHERE,
        HeadError::Lost { head, .. } => Some(Finding(Some(*head))),
        HeadError::Log(error) => of_log(error),
    }
}

fn of_log(error: &LogError) -> Option<Finding> {
    match error {
        LogError::Io(_) => None,
        LogError::Missing(_) | LogError::Engine(_) => NOWHERE,
        LogError::Lost { head, .. } => Some(Finding(Some(*head))),
        LogError::Gap(position) | LogError::Damaged(position, _) => Some(Finding(Some(*position))),
    }
}

fn of_vault(error: &VaultError) -> Option<Finding> {
    match error {
        VaultError::Gone(_)
        | VaultError::Foreign
        | VaultError::Damaged(_)
        | VaultError::Missing(_)
        | VaultError::Outdated { .. }
        | VaultError::NewerThanLog { .. }
        | VaultError::Duplicate(_)
        | VaultError::Ledger(LedgerError::Damaged { .. }) => NOWHERE,
        _ => None,
    }
}
