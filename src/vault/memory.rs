//! A vault in memory.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rand::CryptoRng;

use super::index::Index;
use super::{KeyName, NewKey, Vault, VaultError};
use crate::domain::{LicenseId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::{DataKey, LookupTag, TagKey};

/// Keys in memory.
pub struct MemoryVault {
    tag_key: TagKey,
    inner: RwLock<(Index, Vec<DataKey>)>,
}

impl MemoryVault {
    /// An empty one.
    pub fn new(rng: &mut dyn CryptoRng) -> Self {
        Self { tag_key: TagKey::from_key(&DataKey::generate(rng)), inner: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, (Index, Vec<DataKey>)> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, (Index, Vec<DataKey>)> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vault for MemoryVault {
    fn tag_key(&self) -> &TagKey {
        &self.tag_key
    }

    fn create(&self, keys: &[NewKey], rng: &mut dyn CryptoRng) -> Result<Vec<KeySlot>, VaultError> {
        let mut inner = self.write();
        keys.iter()
            .map(|key| {
                let slot =
                    u32::try_from(inner.1.len()).map(KeySlot).map_err(|_| VaultError::Full)?;
                inner.0.insert(slot, key)?;
                inner.1.push(DataKey::generate(rng));
                Ok(slot)
            })
            .collect()
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.read().0.slots.get(name).copied()
    }

    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError> {
        self.read().1.get(slot.0 as usize).cloned().ok_or(VaultError::Missing(slot))
    }

    fn is_live(&self, slot: KeySlot) -> bool {
        (slot.0 as usize) < self.read().1.len()
    }

    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.read().0.emails.get(tag).copied()
    }

    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.read().0.license_keys.get(tag).copied()
    }
}
