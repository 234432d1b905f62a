//! What is found without opening a slot: names and tags.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::{KeyName, NewKey, VaultError};
use crate::domain::{LicenseId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::LookupTag;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// The newest key of each name.
    slots: HashMap<KeyName, KeySlot>,
    /// Older keys of a name that are still to be destroyed.
    superseded: HashMap<KeyName, Vec<KeySlot>>,
    emails: HashMap<LookupTag, (SubjectId, KeySlot)>,
    license_keys: HashMap<LookupTag, (LicenseId, KeySlot)>,
    /// Every year that a name has.
    years: BTreeSet<u16>,
}

impl Index {
    /// Takes in a key. Slots come in their order.
    pub(super) fn insert(&mut self, slot: KeySlot, key: &NewKey) -> Result<(), VaultError> {
        match self.slots.entry(key.name) {
            Entry::Occupied(mut newest) if key.name.can_be_replaced() => {
                let older = newest.insert(slot);
                self.superseded.entry(key.name).or_default().push(older);
            }
            Entry::Occupied(_) => return Err(VaultError::Duplicate(slot)),
            Entry::Vacant(place) => {
                place.insert(slot);
            }
        }
        match (key.name, key.tag) {
            (KeyName::Identity(subject), Some(tag)) => {
                self.emails.insert(tag, (subject, slot));
            }
            (KeyName::License(license), Some(tag)) => {
                self.license_keys.insert(tag, (license, slot));
            }
            (KeyName::Activations(_, year) | KeyName::Access(_, year), _) => {
                self.years.insert(year);
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets a key. A tag stays where it leads to another.
    pub(super) fn remove(&mut self, slot: KeySlot, key: &NewKey) {
        let older = self.superseded.remove(&key.name).unwrap_or_default();
        let mut left: Vec<KeySlot> = older.into_iter().filter(|older| *older != slot).collect();
        if self.slots.get(&key.name) == Some(&slot) {
            match left.pop() {
                Some(newest) => self.slots.insert(key.name, newest),
                None => self.slots.remove(&key.name),
            };
        }
        if !left.is_empty() {
            self.superseded.insert(key.name, left);
        }
        if let Some(tag) = key.tag {
            if self.emails.get(&tag).is_some_and(|(_, at)| *at == slot) {
                self.emails.remove(&tag);
            }
            if self.license_keys.get(&tag).is_some_and(|(_, at)| *at == slot) {
                self.license_keys.remove(&tag);
            }
        }
    }

    pub(super) fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.slots.get(name).copied()
    }

    pub(super) fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.emails.get(tag).map(|(subject, _)| *subject)
    }

    pub(super) fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.license_keys.get(tag).map(|(license, _)| *license)
    }

    pub(super) fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)> {
        let by_year = self.years.iter().flat_map(|year| {
            [KeyName::Activations(subject, *year), KeyName::Access(subject, *year)]
        });
        let names = [KeyName::Identity(subject), KeyName::Name(subject)].into_iter().chain(by_year);
        names
            .flat_map(|name| {
                let older = self.superseded.get(&name).into_iter().flatten();
                let slots = older.chain(self.slots.get(&name));
                slots.map(move |slot| (name, *slot)).collect::<Vec<_>>()
            })
            .collect()
    }
}
