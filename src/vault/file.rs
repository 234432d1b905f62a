//! The vault in one file of slots; `slot.rs` says what is in one.
//!
//! Slot 0 holds the key that tags are made with. Slots are written in order and the file grows in
//! chunks of zeros, each durable before it is used. No slot is used twice.
//!
//! To destroy a key is to say so in the ledger, durably, and then to overwrite its slot. To move to
//! another master key is to write every slot again into another file, and to exchange the two.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;

use rand::CryptoRng;

use super::index::Index;
use super::ledger::{self, Entries, Ledger};
use super::master::{KeyFile, MasterKey, sync_parent};
use super::slot::{Content, Found, SLOT_BYTES, Slot, Wrap, check_first, epoch};
use super::{Fingerprint, KeyName, NewKey, SlotState, Vault, VaultError, fingerprint};
use crate::domain::{LicenseId, NoticeId, Position, SubjectId};
use crate::log::durability::reread_from_disk;
use crate::log::record::KeySlot;
use crate::parallel::ahead;
use crate::seal::{DataKey, LookupTag, TagKey};

/// How many slots the file grows by: 128 KiB, so that growth costs one sync in a thousand keys.
const CHUNK_SLOTS: u32 = 1024;
/// How many slots a thread reads and opens at a time: 1 MiB.
const OPENED_AT_ONCE: u32 = 8 * 1024;
const TAG_KEY_SLOT: KeySlot = KeySlot(0);

/// Where a vault and what belongs to it lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// The slots.
    pub vault: PathBuf,
    /// What was erased. Apart from the vault, so that no backup of the one brings back the other.
    pub ledger: PathBuf,
    /// The master key.
    pub master_key: KeyFile,
}

/// A vault in a file.
pub struct FileVault {
    places: Places,
    tag_key: TagKey,
    /// Who changes the vault holds this from the beginning to the end.
    ledger: Mutex<Ledger>,
    /// Changed by who holds `ledger`, and read by everyone.
    state: RwLock<State>,
}

struct State {
    file: File,
    wrap: Wrap,
    known: Known,
    /// The slots that were destroyed since the file was opened, in that order.
    overwritten: Vec<KeySlot>,
    /// How many slots the file has, all of them durable.
    slots: u32,
}

/// What is known of slots without opening them.
struct Known {
    index: Index,
    /// Every slot that was destroyed, by its number.
    destroyed: HashSet<KeySlot>,
    /// Free slots between others: a power cut stopped the making of several keys, of which none is
    /// used then.
    holes: HashSet<KeySlot>,
    /// The first slot never used.
    next: u32,
}

impl FileVault {
    /// Makes a new vault and its ledger. The files must not exist yet; their directories are the
    /// caller's to sync.
    pub fn create_new(
        path: &Path,
        ledger: &Path,
        master: &MasterKey,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), VaultError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let content = Content::TagKey(DataKey::generate(rng));
        let slot = Wrap::new(master)?.seal(TAG_KEY_SLOT, &content, rng)?;
        file.set_len(u64::from(CHUNK_SLOTS) * SLOT_BYTES as u64)?;
        file.write_all_at(&slot, 0)?;
        file.sync_all()?;
        Ok(ledger::create_new(ledger)?)
    }

    /// Opens a vault, reads every slot, and destroys what the ledger says was destroyed.
    pub fn open(places: Places, rng: &mut dyn CryptoRng) -> Result<Self, VaultError> {
        let (mut ledger, entries) = Ledger::open(&places.ledger)?;
        let file = OpenOptions::new().read(true).write(true).open(&places.vault);
        let file = file.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => VaultError::Gone(places.vault.clone()),
            _ => error.into(),
        })?;
        reread_from_disk(&file)?;
        // A remainder is growth that a power cut interrupted; it was never used.
        let slots = file.metadata()?.len() / SLOT_BYTES as u64;
        let slots = u32::try_from(slots).map_err(|_| VaultError::Foreign)?;
        if slots == 0 {
            return Err(VaultError::Foreign);
        }
        let [first] = &read_slots(&file, TAG_KEY_SLOT.0, 1)?[..] else {
            return Err(VaultError::Foreign);
        };
        check_first(first)?;
        let vault = epoch(first);
        if vault < entries.epoch {
            return Err(VaultError::Outdated { vault, ledger: entries.epoch });
        }
        let wrap = Wrap::new(&places.master_key.resolve(vault)?)?;
        // The bytes are those that were written, so it is the key that is not.
        let Ok(Some(Content::TagKey(tag_key))) = wrap.open(TAG_KEY_SLOT, first) else {
            return Err(VaultError::WrongMasterKey);
        };
        if vault > entries.epoch {
            ledger.epoch(vault)?;
        }
        let known = Known::read(&file, &wrap, slots)?;
        // What the next key's bytes would be is not for others to find in a file that is left over.
        remove_if_there(&staged(&places.vault))?;
        let tag_key = TagKey::from_key(&tag_key);
        let state = RwLock::new(State { file, wrap, known, overwritten: Vec::new(), slots });
        let vault = Self { places, tag_key, ledger: Mutex::new(ledger), state };
        vault.destroy_again(&entries, rng)?;
        Ok(vault)
    }

    /// Destroys the keys that no record is sealed under: a process that made them ended before the
    /// records were in the log. Their tags must not be found. `head` is the log's; a key that was made
    /// later tells that records are missing.
    pub fn destroy_unused(
        &self,
        is_used: impl Fn(KeySlot) -> bool,
        head: Position,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), VaultError> {
        let _changing = self.changing();
        let mut unused = Vec::new();
        for slot in (1..self.read().known.next).map(KeySlot).filter(|slot| !is_used(*slot)) {
            if let Some(Content::Key(_, key, made_at)) = self.read().content(slot)? {
                if made_at > head {
                    return Err(VaultError::NewerThanLog { made_at, head });
                }
                unused.push((slot, fingerprint(&key)));
            }
        }
        // Nothing is lost with them that the ledger would have to keep from coming back.
        self.write().overwrite(&unused, rng)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an erasure that was interrupted left, or a copy of the vault brought back.
    fn destroy_again(&self, entries: &Entries, rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        let mut back = Vec::new();
        for (slot, erased) in &entries.erased {
            if self.state(*slot) == SlotState::Live && fingerprint(&self.key(*slot)?) == *erased {
                back.push((*slot, *erased));
            }
        }
        self.write().overwrite(&back, rng)
    }
}

impl Known {
    /// Looks into each slot of the file, on all processors.
    fn read(file: &File, wrap: &Wrap, slots: u32) -> Result<Self, VaultError> {
        let index = Index::with_capacity(slots as usize);
        let mut known = Self { index, destroyed: HashSet::new(), holes: HashSet::new(), next: 1 };
        thread::scope(|scope| {
            let firsts = (1..slots).step_by(OPENED_AT_ONCE as usize);
            let looks = firsts.map(|first| {
                move || {
                    let bytes = read_slots(file, first, OPENED_AT_ONCE.min(slots - first))?;
                    Ok::<_, VaultError>((first, wrap.look(first, &bytes)))
                }
            });
            for looked in ahead(scope, looks) {
                let (first, found) = looked?;
                for (number, found) in (first..).map(KeySlot).zip(found) {
                    known.found(number, found?.as_ref())?;
                }
            }
            Ok(known)
        })
    }

    /// Takes in what is in a slot. They come in their order.
    fn found(&mut self, number: KeySlot, found: Option<&Found>) -> Result<(), VaultError> {
        match found {
            Some(Found::Key(key)) => self.index.insert(number, key)?,
            Some(Found::Destroyed) => {
                self.destroyed.insert(number);
            }
            Some(Found::TagKey) => return Err(VaultError::Damaged(number)),
            None => return Ok(()),
        }
        self.holes.extend((self.next..number.0).map(KeySlot));
        self.next = number.0 + 1;
        Ok(())
    }
}

impl State {
    fn is_used(&self, slot: KeySlot) -> bool {
        slot != TAG_KEY_SLOT && slot.0 < self.known.next
    }

    fn content(&self, slot: KeySlot) -> Result<Option<Content>, VaultError> {
        if !self.is_used(slot) {
            return Ok(None);
        }
        let mut bytes = [0; SLOT_BYTES];
        self.file.read_exact_at(&mut bytes, offset(slot.0))?;
        self.wrap.open(slot, &bytes)
    }

    /// Puts tombstones, durable on return.
    fn overwrite(
        &mut self,
        keys: &[(KeySlot, Fingerprint)],
        rng: &mut dyn CryptoRng,
    ) -> Result<(), VaultError> {
        for (slot, fingerprint) in keys {
            let Some(Content::Key(key, ..)) = self.content(*slot)? else { continue };
            let tombstone = self.wrap.seal(*slot, &Content::Destroyed(*fingerprint), rng)?;
            self.file.write_all_at(&tombstone, offset(slot.0))?;
            self.known.index.remove(*slot, &key);
            self.known.destroyed.insert(*slot);
            self.overwritten.push(*slot);
        }
        if keys.is_empty() { Ok(()) } else { Ok(self.file.sync_data()?) }
    }

    /// Writes every slot, wrapped anew, into another file, durable on return.
    fn rewrap(
        &self,
        wrap: &Wrap,
        path: &Path,
        rng: &mut dyn CryptoRng,
    ) -> Result<File, VaultError> {
        remove_if_there(path)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        for first in (0..self.slots).step_by(CHUNK_SLOTS as usize) {
            // The last chunk is shorter in a copy, and where a power cut interrupted the file's growth.
            let count = CHUNK_SLOTS.min(self.slots - first);
            let mut slots = read_slots(&self.file, first, count)?;
            for (number, slot) in (first..).map(KeySlot).zip(&mut slots) {
                if let Some(content) = self.wrap.open(number, slot)? {
                    *slot = wrap.seal(number, &content, rng)?;
                }
            }
            file.write_all(slots.as_flattened())?;
        }
        file.sync_all()?;
        Ok(file)
    }
}

fn read_slots(file: &File, first: u32, count: u32) -> Result<Vec<Slot>, VaultError> {
    let mut slots = vec![[0; SLOT_BYTES]; count as usize];
    file.read_exact_at(slots.as_flattened_mut(), offset(first))?;
    Ok(slots)
}

/// Makes room up to `slots`, durably.
fn grow(file: &File, from: u32, slots: u32) -> Result<u32, VaultError> {
    let to = slots.checked_next_multiple_of(CHUNK_SLOTS).ok_or(VaultError::Full)?;
    let zeros = vec![0; (to - from) as usize * SLOT_BYTES];
    file.write_all_at(&zeros, offset(from))?;
    file.sync_all()?;
    Ok(to)
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * SLOT_BYTES as u64
}

/// Where the vault of the next epoch is written.
fn staged(path: &Path) -> PathBuf {
    path.with_extension("next")
}

fn remove_if_there(path: &Path) -> Result<(), VaultError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

impl Vault for FileVault {
    fn tag_key(&self) -> &TagKey {
        &self.tag_key
    }

    fn create(
        &self,
        keys: &[NewKey],
        head: Position,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<KeySlot>, VaultError> {
        let _changing = self.changing();
        let (first, slots) = {
            let state = self.read();
            let first = state.known.next;
            let count = u32::try_from(keys.len()).map_err(|_| VaultError::Full)?;
            let end = first.checked_add(count).ok_or(VaultError::Full)?;
            let slots =
                if end > state.slots { grow(&state.file, state.slots, end)? } else { state.slots };
            let mut bytes = Vec::with_capacity(keys.len() * SLOT_BYTES);
            for (number, key) in (first..).map(KeySlot).zip(keys) {
                let content = Content::Key(*key, DataKey::generate(rng), head);
                bytes.extend_from_slice(&state.wrap.seal(number, &content, rng)?);
            }
            state.file.write_all_at(&bytes, offset(first))?;
            state.file.sync_data()?;
            (first, slots)
        };
        let mut state = self.write();
        state.slots = slots;
        (first..)
            .map(KeySlot)
            .zip(keys)
            .map(|(number, key)| {
                state.known.next = number.0 + 1;
                state.known.index.insert(number, key).map(|()| number)
            })
            .collect()
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.read().known.index.find(name)
    }

    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError> {
        match self.read().content(slot)? {
            Some(Content::Key(_, key, _)) => Ok(key),
            Some(Content::Destroyed(_)) => Err(VaultError::Destroyed(slot)),
            Some(Content::TagKey(_)) | None => Err(VaultError::Missing(slot)),
        }
    }

    fn state(&self, slot: KeySlot) -> SlotState {
        let state = self.read();
        if !state.is_used(slot) || state.known.holes.contains(&slot) {
            SlotState::Free
        } else if state.known.destroyed.contains(&slot) {
            SlotState::Destroyed
        } else {
            SlotState::Live
        }
    }

    fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)> {
        self.read().known.index.of_subject(subject)
    }

    fn notices(&self) -> Vec<(NoticeId, KeySlot)> {
        self.read().known.index.notices()
    }

    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.read().known.index.subject_by_email(tag)
    }

    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.read().known.index.license_by_key(tag)
    }

    fn destroy(&self, slots: &[KeySlot], rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        let mut ledger = self.changing();
        let mut keys = Vec::with_capacity(slots.len());
        for slot in slots {
            match self.key(*slot) {
                Ok(key) => keys.push((*slot, fingerprint(&key))),
                Err(VaultError::Destroyed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        ledger.erased(&keys)?;
        self.write().overwrite(&keys, rng)
    }

    fn slots_used(&self) -> u32 {
        self.read().known.next - 1
    }

    fn epoch(&self) -> u32 {
        self.read().wrap.epoch
    }

    fn move_epoch(&self, rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        let Places { vault, master_key, .. } = &self.places;
        if !master_key.can_be_replaced() {
            return Err(VaultError::FixedMasterKey);
        }
        let mut ledger = self.changing();
        let next = MasterKey::of_epoch(self.epoch().checked_add(1).ok_or(VaultError::Full)?, rng);
        let not_moved = |error| VaultError::NotMoved(Box::new(error));
        let wrap = Wrap::new(&next).map_err(not_moved)?;
        // Until the vault is exchanged, what is there of the next epoch is removed at the next start.
        let mut prepare = || {
            master_key.stage(&next)?;
            self.read().rewrap(&wrap, &staged(vault), rng)
        };
        let file = prepare().map_err(not_moved)?;
        fs::rename(staged(vault), vault)?;
        sync_parent(vault)?;
        master_key.commit()?;
        ledger.epoch(next.epoch)?;
        let mut state = self.write();
        state.file = file;
        state.wrap = wrap;
        Ok(())
    }
}

mod copy;
pub use copy::{Mark, inspect, place};

#[cfg(test)]
mod tests;
