//! Restore: the data directory is built again from a backup, beside whatever is there, checked, and
//! put in its place last. Nothing is overwritten: data that is there is moved aside.
//!
//! What was erased since the backup stays erased. The ledger that is there gets what the backup's says
//! too, and the vault's copy is opened with it, which destroys again what it names. A copy from before
//! the newest epoch is refused; its master key is gone, and nothing would open.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::backup_dir::Backup;
use super::durable::{At as _, create, directory, sync_parent};
use crate::domain::Position;
use crate::log::head::{self, Checkpoint, LogKey};
use crate::log::record::{self, KeySlot};
use crate::log::sled::SledLog;
use crate::log::tree::CompactRange;
use crate::log::{Append, Log as _, LogError, PAGE, durability};
use crate::vault::file::{FileVault, Places, inspect};
use crate::vault::ledger::{self, Stored};
use crate::vault::master::KeyFile;
use crate::vault::{Vault as _, VaultError};

/// Where to restore to, and with which keys.
pub struct Target<'a> {
    /// The directory of log, vault and head file. Nobody uses it.
    pub data: &'a Path,
    /// The erasure ledger.
    pub ledger: &'a Path,
    /// The key of the vault.
    pub master_key: KeyFile,
    /// What manifests and head files are signed with.
    pub log_key: &'a LogKey,
    /// What the log may keep in memory meanwhile.
    pub cache_bytes: u64,
    /// Whether what is newer than the backup may be lost.
    pub lose_newer: bool,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// How many records.
    pub head: Position,
    /// Where the data is now that was there before.
    pub moved_to: Option<PathBuf>,
}

/// Restores a backup. `progress` is told how many of how many records are there.
pub fn restore(
    from: &Path,
    target: Target<'_>,
    mut progress: impl FnMut(Position, Position),
) -> Result<Restored, BackupError> {
    let backup = Backup::open(from, target.log_key)?;
    let known = if target.lose_newer { None } else { known(&target)? };
    if let Some(known) = known.filter(|known| known.size > backup.head()) {
        return Err(BackupError::Older { backup: backup.head(), known: known.size });
    }
    let epoch = backup.check_vault()?;
    let vault = vault(&backup, epoch, &target)?;

    let unfinished = target.data.with_extension("unfinished");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at(&unfinished)?,
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&unfinished).at(&unfinished)?;
    let keys = restore_log(&backup, &target, &unfinished, known, &mut progress)?;
    restore_vault(&backup, &vault, target.ledger, target.master_key, &unfinished, &keys)?;
    let checkpoint = Checkpoint { size: backup.head(), root: backup.root() };
    head::write(&unfinished.join("head"), target.log_key, &checkpoint)?;
    File::open(&unfinished).and_then(|directory| directory.sync_all()).at(&unfinished)?;

    let moved_to = put_in_place(&unfinished, target.data)?;
    Ok(Restored { head: backup.head(), moved_to })
}

/// Segments are good for ever, and the vault is only of the newest epoch: that which is there, if it is
/// not the backup's. Of two the newer one: to open the older would undo a move that was interrupted.
fn vault(backup: &Backup, epoch: u32, target: &Target<'_>) -> Result<PathBuf, BackupError> {
    let has = |epoch| target.master_key.has(epoch).map_err(VaultError::from);
    let there = target.data.join("vault");
    let is_newer = match inspect(&there) {
        Ok((of_there, _)) => of_there > epoch && has(of_there)?,
        // It is damaged, or not there.
        Err(_) => false,
    };
    if is_newer {
        return Ok(there);
    }
    if has(epoch)? {
        return Ok(backup.places().vault());
    }
    Err(BackupError::OlderEpoch { path: backup.places().directory.clone(), epoch })
}

/// How far the data had come that is there; `None`: there is none.
fn known(target: &Target<'_>) -> Result<Option<Checkpoint>, BackupError> {
    let is_data = |entry: &fs::DirEntry| entry.file_name() != "lock";
    match fs::read_dir(target.data) {
        Ok(mut entries) => {
            if !entries.any(|entry| entry.is_ok_and(|entry| is_data(&entry))) {
                return Ok(None);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at(target.data),
    }
    let path = target.data.join("head");
    let read = || target.log_key.verify(&String::from_utf8_lossy(&fs::read(&path)?));
    match read() {
        Ok(known) => Ok(Some(known)),
        Err(error) => Err(BackupError::HeadUnreadable { path, error }),
    }
}

/// Where the first record is that is sealed under each key.
type Keys = HashMap<KeySlot, Position>;

fn restore_log(
    backup: &Backup,
    target: &Target<'_>,
    to: &Path,
    known: Option<Checkpoint>,
    progress: &mut dyn FnMut(Position, Position),
) -> Result<Keys, BackupError> {
    durability::make_flush_durable();
    let place = to.join("log");
    SledLog::create(&place)?;
    let log = SledLog::open(&place, target.cache_bytes)?;
    let mut keys = Keys::new();
    let mut page: Vec<Vec<u8>> = Vec::with_capacity(PAGE);
    let mut flush = |page: &mut Vec<Vec<u8>>, end: Position| {
        let first = Position(end.0 - page.len() as u64);
        match log.append(first, page)? {
            Append::Appended => page.clear(),
            // It is ours alone.
            Append::Conflict { .. } | Append::Unknown => return Err(LogError::Gap(first)),
        }
        progress(end, backup.head());
        Ok(())
    };
    let is_known = |tree: &CompactRange| {
        known.is_none_or(|known| known.size != tree.size() || known.root == tree.root())
    };
    backup.records(|position, bytes, tree| {
        let (header, _) =
            record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        keys.entry(header.slot).or_insert(position);
        if !is_known(tree) {
            return Err(BackupError::Diverged(tree.size()));
        }
        page.push(bytes.to_vec());
        if page.len() == PAGE {
            flush(&mut page, tree.size())?;
        }
        Ok(())
    })?;
    flush(&mut page, backup.head())?;
    Ok(keys)
}

fn restore_vault(
    backup: &Backup,
    copy: &Path,
    ledger: &Path,
    master_key: KeyFile,
    to: &Path,
    keys: &Keys,
) -> Result<(), BackupError> {
    let path = to.join("vault");
    let mut from = File::open(copy).at(copy)?;
    let mut file = create(&path)?;
    std::io::copy(&mut from, &mut file).and_then(|_| file.sync_all()).at(&path)?;
    if let Some(parent) = ledger.parent() {
        directory(parent)?;
    }
    ledger::merge(ledger, &Stored::read(&backup.places().ledger())?)?;
    let places = Places { vault: path, ledger: ledger.to_owned(), master_key };
    let vault = FileVault::open(places, &mut rand::rng())?;
    for (slot, position) in keys {
        match vault.key(*slot) {
            Ok(_) | Err(VaultError::Destroyed(_)) => {}
            Err(VaultError::Missing(_)) => return Err(BackupError::Keyless(*position)),
            Err(error) => return Err(error.into()),
        }
    }
    // The vault was copied after the log, and may have keys of what came later.
    let of_any_time = Position(u64::MAX);
    vault.destroy_unused(|slot| keys.contains_key(&slot), of_any_time, &mut rand::rng())?;
    Ok(())
}

/// Has the restored data where the data is, in one step; what was there goes by another name then, which
/// is returned.
fn put_in_place(restored: &Path, data: &Path) -> Result<Option<PathBuf>, BackupError> {
    let aside = (1u32..).map(|number| data.with_extension(format!("before-restore-{number}")));
    let aside = aside.into_iter().find(|aside| !aside.exists()).filter(|_| data.exists());
    match &aside {
        None => fs::rename(restored, data).at(data)?,
        Some(aside) => {
            fs::rename(restored, aside).at(aside)?;
            if let Err(error) = exchange(aside, data) {
                // It is looked for there by who tries again.
                fs::rename(aside, restored).at(restored)?;
                return Err(error).at(data);
            }
        }
    }
    sync_parent(data)?;
    Ok(aside)
}

/// Each gets the other's name.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;

    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        // A file system that cannot.
        Err(Errno::INVAL | Errno::NOSYS) => exchange_in_steps(one, other),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
use exchange_in_steps as exchange;

/// Where a step fails, those before it are undone.
fn exchange_in_steps(one: &Path, other: &Path) -> io::Result<()> {
    let between = one.with_extension("exchanged");
    fs::rename(other, &between)?;
    if let Err(error) = fs::rename(one, other) {
        fs::rename(&between, other)?;
        return Err(error);
    }
    if let Err(error) = fs::rename(&between, one) {
        fs::rename(other, one)?;
        fs::rename(&between, other)?;
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_in_steps_is_one_or_none() {
        let place = tempfile::tempdir().unwrap();
        let (one, other) = (place.path().join("data.one"), place.path().join("data"));
        for (path, what) in [(&one, "restored"), (&other, "before")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("what"), what).unwrap();
        }
        let names = || fs::read_dir(&place).unwrap().count();
        let what = |path: &Path| fs::read_to_string(path.join("what")).unwrap();
        exchange_in_steps(&one, &other).unwrap();
        assert_eq!((what(&one), what(&other), names()), ("before".into(), "restored".into(), 2));

        fs::remove_dir_all(&one).unwrap();
        assert!(exchange_in_steps(&one, &other).is_err());
        assert_eq!((what(&other), names()), ("restored".into(), 1));
    }
}
