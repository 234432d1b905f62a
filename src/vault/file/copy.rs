//! What a copy of the vault elsewhere is made and kept up with: slots as they are stored, and which of
//! them changed since.
//!
//! Slots are read while they cannot change, so that each is whole. Those that are made are durable
//! before they count, and no slot is used twice; so a copy lacks what came after its mark, and what was
//! destroyed since.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::super::slot::{SLOT_BYTES, VERSION, check_first, epoch, is_whole};
use super::{FileVault, TAG_KEY_SLOT, offset};
use crate::log::record::KeySlot;
use crate::vault::VaultError;
use crate::vault::ledger::Stored;

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The epoch that its slots are wrapped in.
    pub epoch: u32,
    /// How many slots it has.
    pub slots: u32,
    /// How many of those that were destroyed since the vault was opened it knows to be.
    overwritten: usize,
}

impl FileVault {
    /// How far a copy has come that is made from now on.
    pub fn mark(&self) -> Mark {
        let state = self.read();
        let (epoch, slots) = (state.wrap.epoch, state.known.next);
        Mark { epoch, slots, overwritten: state.overwritten.len() }
    }

    /// The slots that a copy at `mark` lacks, and the mark that it then has. `None`: another epoch has
    /// begun, and it lacks all.
    pub fn changed_since(&self, mark: Mark) -> Option<(Vec<Range<u32>>, Mark)> {
        let state = self.read();
        if state.wrap.epoch != mark.epoch {
            return None;
        }
        let overwritten = state.overwritten.iter().skip(mark.overwritten);
        let overwritten = overwritten.filter(|slot| slot.0 < mark.slots);
        let mut changed: Vec<Range<u32>> = overwritten.map(|slot| slot.0..slot.0 + 1).collect();
        if mark.slots < state.known.next {
            changed.push(mark.slots..state.known.next);
        }
        let (slots, overwritten) = (state.known.next, state.overwritten.len());
        Some((changed, Mark { slots, overwritten, ..mark }))
    }

    /// These slots as they are stored. `None`: another epoch has begun.
    pub fn stored_slots(
        &self,
        in_epoch: u32,
        slots: Range<u32>,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let state = self.read();
        if state.wrap.epoch != in_epoch {
            return Ok(None);
        }
        let mut bytes = vec![0; slots.len() * SLOT_BYTES];
        state.file.read_exact_at(&mut bytes, offset(slots.start))?;
        Ok(Some(bytes))
    }

    /// The erasure ledger as it is stored, between two lines.
    pub fn stored_ledger(&self) -> Result<Stored, VaultError> {
        Ok(self.changing().stored()?)
    }
}

/// Looks at a copy without its key: every slot's checksum, and that all are of this format and of one epoch.
pub fn inspect(path: &Path) -> Result<(u32, u32), VaultError> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let (slots, _) = bytes.as_chunks::<SLOT_BYTES>();
    let first = slots.first().ok_or(VaultError::Foreign)?;
    check_first(first)?;
    let of_first = epoch(first);
    let mut used = 0;
    for (number, slot) in (TAG_KEY_SLOT.0..).zip(slots) {
        let is_free = slot.iter().all(|&byte| byte == 0);
        if !is_free && (!is_whole(slot) || slot[1] != VERSION || epoch(slot) != of_first) {
            return Err(VaultError::Damaged(KeySlot(number)));
        }
        if !is_free {
            used = number + 1;
        }
    }
    Ok((of_first, used))
}

/// Where a slot begins in a copy.
pub fn place(slot: u32) -> u64 {
    offset(slot)
}
