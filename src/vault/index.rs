//! What is found without opening a slot: names and tags.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::{KeyName, NewKey, VaultError};
use crate::domain::{LicenseId, NoticeId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::LookupTag;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// The newest key of each name.
    slots: HashMap<KeyName, KeySlot>,
    /// Older keys of a name that are still to be destroyed.
    superseded: HashMap<KeyName, Vec<KeySlot>>,
    emails: Tags<SubjectId>,
    license_keys: Tags<LicenseId>,
    /// Every year that a name has.
    years: BTreeSet<u16>,
}

/// What a tag leads to: the newest key that has it.
#[derive(Debug)]
struct Tags<T> {
    newest: HashMap<LookupTag, (T, KeySlot)>,
    /// Older keys with a tag that a newer one has too.
    older: HashMap<LookupTag, Vec<(T, KeySlot)>>,
}

impl<T> Default for Tags<T> {
    fn default() -> Self {
        Self { newest: HashMap::new(), older: HashMap::new() }
    }
}

impl<T: Copy> Tags<T> {
    fn insert(&mut self, tag: LookupTag, owner: T, slot: KeySlot) {
        if let Some(older) = self.newest.insert(tag, (owner, slot)) {
            self.older.entry(tag).or_default().push(older);
        }
    }

    /// Forgets a key; the tag leads to the next older one, if there is one.
    fn remove(&mut self, tag: &LookupTag, slot: KeySlot) {
        let mut left = self.older.remove(tag).unwrap_or_default();
        left.retain(|(_, at)| *at != slot);
        if self.newest.get(tag).is_some_and(|(_, at)| *at == slot) {
            match left.pop() {
                Some(newest) => self.newest.insert(*tag, newest),
                None => self.newest.remove(tag),
            };
        }
        if !left.is_empty() {
            self.older.insert(*tag, left);
        }
    }

    fn find(&self, tag: &LookupTag) -> Option<T> {
        self.newest.get(tag).map(|(owner, _)| *owner)
    }
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
                self.emails.insert(tag, subject, slot);
            }
            (KeyName::License(license), Some(tag)) => {
                self.license_keys.insert(tag, license, slot);
            }
            (KeyName::Activations(_, year) | KeyName::Access(_, year), _) => {
                self.years.insert(year);
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets a key.
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
        match (key.name, key.tag) {
            (KeyName::Identity(_), Some(tag)) => self.emails.remove(&tag, slot),
            (KeyName::License(_), Some(tag)) => self.license_keys.remove(&tag, slot),
            _ => {}
        }
    }

    pub(super) fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.slots.get(name).copied()
    }

    pub(super) fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.emails.find(tag)
    }

    pub(super) fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.license_keys.find(tag)
    }

    pub(super) fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)> {
        let by_year = self.years.iter().flat_map(|year| {
            [KeyName::Activations(subject, *year), KeyName::Access(subject, *year)]
        });
        let names =
            [KeyName::Identity(subject), KeyName::Name(subject), KeyName::Disclosures(subject)];
        let names = names.into_iter().chain(by_year);
        names
            .flat_map(|name| {
                let older = self.superseded.get(&name).into_iter().flatten();
                let slots = older.chain(self.slots.get(&name));
                slots.map(move |slot| (name, *slot)).collect::<Vec<_>>()
            })
            .collect()
    }

    pub(super) fn notices(&self) -> Vec<(NoticeId, KeySlot)> {
        let mut notices: Vec<_> = (self.slots.iter())
            .filter_map(|(name, slot)| match name {
                KeyName::Notice(notice) => Some((*notice, *slot)),
                _ => None,
            })
            .collect();
        notices.sort_unstable_by_key(|(_, slot)| *slot);
        notices
    }
}
