//! A vault in memory.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rand::CryptoRng;

use super::index::Index;
use super::{KeyName, NewKey, SlotState, Vault, VaultError};
use crate::domain::{LicenseId, NoticeId, Position, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::{DataKey, LookupTag, TagKey};

/// Keys in memory.
pub struct MemoryVault {
    tag_key: TagKey,
    inner: RwLock<Inner>,
}

struct Inner {
    index: Index,
    /// `None`: destroyed.
    keys: HashMap<KeySlot, Option<(NewKey, DataKey)>>,
    next: u32,
    epoch: u32,
}

impl MemoryVault {
    /// An empty one.
    pub fn new(rng: &mut dyn CryptoRng) -> Self {
        let inner = Inner { index: Index::default(), keys: HashMap::new(), next: 1, epoch: 1 };
        let tag_key = TagKey::from_key(&DataKey::generate(rng));
        Self { tag_key, inner: RwLock::new(inner) }
    }

    /// Destroys the keys that no record is sealed under, as [`FileVault`](super::file::FileVault) does
    /// at a start.
    pub fn destroy_unused(
        &self,
        is_used: impl Fn(KeySlot) -> bool,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), VaultError> {
        let live = |(slot, key): (&KeySlot, &Option<_>)| key.is_some().then_some(*slot);
        let live: Vec<KeySlot> = self.read().keys.iter().filter_map(live).collect();
        let unused: Vec<KeySlot> = live.into_iter().filter(|slot| !is_used(*slot)).collect();
        self.destroy(&unused, rng)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault for MemoryVault {
    fn tag_key(&self) -> &TagKey {
        &self.tag_key
    }

    fn create(
        &self,
        keys: &[NewKey],
        _head: Position,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<KeySlot>, VaultError> {
        let mut inner = self.write();
        let create = |key: &NewKey| {
            let slot = KeySlot(inner.next);
            inner.next = inner.next.checked_add(1).ok_or(VaultError::Full)?;
            inner.index.insert(slot, key)?;
            inner.keys.insert(slot, Some((*key, DataKey::generate(rng))));
            Ok(slot)
        };
        keys.iter().map(create).collect()
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.read().index.find(name)
    }

    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError> {
        match self.read().keys.get(&slot) {
            Some(Some((_, key))) => Ok(key.clone()),
            Some(None) => Err(VaultError::Destroyed(slot)),
            None => Err(VaultError::Missing(slot)),
        }
    }

    fn state(&self, slot: KeySlot) -> SlotState {
        match self.read().keys.get(&slot) {
            Some(Some(_)) => SlotState::Live,
            Some(None) => SlotState::Destroyed,
            None => SlotState::Free,
        }
    }

    fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)> {
        self.read().index.of_subject(subject)
    }

    fn notices(&self) -> Vec<(NoticeId, KeySlot)> {
        self.read().index.notices()
    }

    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.read().index.subject_by_email(tag)
    }

    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.read().index.license_by_key(tag)
    }

    fn destroy(&self, slots: &[KeySlot], _rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        let mut inner = self.write();
        for slot in slots {
            let key = inner.keys.get_mut(slot).ok_or(VaultError::Missing(*slot))?.take();
            if let Some((key, _)) = key {
                inner.index.remove(*slot, &key);
            }
        }
        Ok(())
    }

    fn slots_used(&self) -> u32 {
        self.read().next - 1
    }

    fn epoch(&self) -> u32 {
        self.read().epoch
    }

    fn move_epoch(&self, _rng: &mut dyn CryptoRng) -> Result<(), VaultError> {
        self.write().epoch += 1;
        Ok(())
    }
}
