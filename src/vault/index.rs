//! What is found without opening a slot: names and tags.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{KeyName, NewKey, VaultError};
use crate::domain::{LicenseId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::LookupTag;

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) slots: HashMap<KeyName, KeySlot>,
    pub(super) emails: HashMap<LookupTag, SubjectId>,
    pub(super) license_keys: HashMap<LookupTag, LicenseId>,
}

impl Index {
    pub(super) fn insert(&mut self, slot: KeySlot, key: &NewKey) -> Result<(), VaultError> {
        match self.slots.entry(key.name) {
            Entry::Occupied(_) => return Err(VaultError::Duplicate(slot)),
            Entry::Vacant(place) => place.insert(slot),
        };
        match (key.name, key.tag) {
            (KeyName::Identity(subject), Some(tag)) => {
                self.emails.insert(tag, subject);
            }
            (KeyName::License(license), Some(tag)) => {
                self.license_keys.insert(tag, license);
            }
            _ => {}
        }
        Ok(())
    }
}
