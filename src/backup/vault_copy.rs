//! The vault's copy in a backup. Made whole at first and in each new epoch; then only what changed is
//! written, in place: a slot lies within one sector, which a disk writes whole or not at all.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::BackupError;
use super::durable::{At as _, create, finish, unfinished};
use crate::vault::file::{FileVault, Mark, place};
use crate::vault::ledger::{self, Stored};

/// How many slots are read at a time: 128 KiB, for which whoever changes the vault may have to wait.
const CHUNK_SLOTS: u32 = 1024;

/// A copy of a vault and of its ledger.
pub(super) struct VaultCopy {
    vault: PathBuf,
    ledger: PathBuf,
    /// The copy and how far it has come. `None`: it is to be made whole.
    written: Option<(File, Mark)>,
    /// The ledger that the copy has all of.
    merged: Option<Stored>,
}

impl VaultCopy {
    /// Whatever lies there is replaced, but for the ledger, which is added to.
    pub(super) fn new(vault: PathBuf, ledger: PathBuf) -> Self {
        Self { vault, ledger, written: None, merged: None }
    }

    /// Brings the copy up to the vault: it then has every key that was there when this was called.
    /// After an error it is made whole again.
    pub(super) fn refresh(&mut self, vault: &FileVault) -> Result<Mark, BackupError> {
        loop {
            let Some(mark) = self.refresh_slots(vault)? else { continue };
            let ledger = vault.stored_ledger()?;
            if self.merged.as_ref() == Some(&ledger) {
                return Ok(mark);
            }
            // The vault has moved meanwhile, and what was copied opens nothing.
            if ledger.newest_epoch()? > mark.epoch {
                continue;
            }
            ledger::merge(&self.ledger, &ledger)?;
            self.merged = Some(ledger);
            return Ok(mark);
        }
    }

    /// `None`: the vault moved to another epoch meanwhile.
    fn refresh_slots(&mut self, vault: &FileVault) -> Result<Option<Mark>, BackupError> {
        let written = match self.written.take() {
            Some(written) => Some(written),
            None => self.copy(vault)?,
        };
        let Some((file, mark)) = written else { return Ok(None) };
        let Some((changed, now)) = vault.changed_since(mark) else { return Ok(None) };
        for slots in &changed {
            if !write(vault, mark.epoch, slots.clone(), &file, &self.vault)? {
                return Ok(None);
            }
        }
        if !changed.is_empty() {
            file.sync_all().at(&self.vault)?;
        }
        self.written = Some((file, now));
        Ok(Some(now))
    }

    /// Makes it whole; the file of before stays until the new one is there.
    fn copy(&self, vault: &FileVault) -> Result<Option<(File, Mark)>, BackupError> {
        let mark = vault.mark();
        let unfinished = unfinished(&self.vault);
        let file = create(&unfinished)?;
        if !write(vault, mark.epoch, 0..mark.slots, &file, &unfinished)? {
            return Ok(None);
        }
        finish(&file, &unfinished, &self.vault)?;
        Ok(Some((file, mark)))
    }
}

/// Writes slots as they are stored; `false`: another epoch has begun.
fn write(
    vault: &FileVault,
    epoch: u32,
    slots: Range<u32>,
    file: &File,
    path: &std::path::Path,
) -> Result<bool, BackupError> {
    for first in slots.clone().step_by(CHUNK_SLOTS as usize) {
        let end = slots.end.min(first.saturating_add(CHUNK_SLOTS));
        let Some(bytes) = vault.stored_slots(epoch, first..end)? else { return Ok(false) };
        file.write_all_at(&bytes, place(first)).at(path)?;
    }
    Ok(true)
}
