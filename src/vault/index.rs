//! What is found without opening a slot: names and tags. There is a lot of it, so it is kept small: about
//! 200 bytes for a person with a license.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use super::{KeyName, NewKey, VaultError};
use crate::domain::{LicenseId, NoticeId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::LookupTag;

#[derive(Debug, Default)]
pub(super) struct Index {
    names: Names,
    /// Older keys of a name that are still to be destroyed.
    superseded: HashMap<KeyName, Vec<KeySlot>>,
    emails: Tags,
    license_keys: Tags,
    /// Every year that a name has.
    years: BTreeSet<u16>,
}

/// The names of keys, and the newest key of each name.
#[derive(Debug, Default)]
struct Names {
    by_slot: Vec<Option<KeyName>>,
    /// A map would have each name once more.
    newest: HashTable<KeySlot>,
    hasher: RandomState,
}

impl Names {
    fn of(&self, slot: KeySlot) -> Option<KeyName> {
        self.by_slot.get(slot.0 as usize).copied().flatten()
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        let is_named = |slot: &KeySlot| self.of(*slot) == Some(*name);
        self.newest.find(self.hasher.hash_one(name), is_named).copied()
    }

    /// Names a key, and makes it the newest of that name. The one that was.
    fn insert(&mut self, slot: KeySlot, name: KeyName) -> Option<KeySlot> {
        let before = self.forget_newest(&name);
        if self.by_slot.len() <= slot.0 as usize {
            self.by_slot.resize(slot.0 as usize + 1, None);
        }
        self.by_slot[slot.0 as usize] = Some(name);
        let Self { by_slot, newest, hasher } = self;
        newest.insert_unique(hasher.hash_one(name), slot, |slot| {
            by_slot[slot.0 as usize].map_or(0, |name| hasher.hash_one(name))
        });
        before
    }

    fn forget_newest(&mut self, name: &KeyName) -> Option<KeySlot> {
        let by_slot = &self.by_slot;
        let is_named = |slot: &KeySlot| by_slot[slot.0 as usize].as_ref() == Some(name);
        let entry = self.newest.find_entry(self.hasher.hash_one(name), is_named);
        entry.ok().map(|entry| entry.remove().0)
    }

    /// Takes the name off a key that is not the newest.
    fn remove(&mut self, slot: KeySlot) {
        if let Some(name) = self.by_slot.get_mut(slot.0 as usize) {
            *name = None;
        }
    }
}

/// What a tag leads to: the newest key that has it.
#[derive(Debug, Default)]
struct Tags {
    newest: HashMap<LookupTag, KeySlot>,
    /// Older keys with a tag that a newer one has too.
    older: HashMap<LookupTag, Vec<KeySlot>>,
}

impl Tags {
    fn insert(&mut self, tag: LookupTag, slot: KeySlot) {
        if let Some(older) = self.newest.insert(tag, slot) {
            self.older.entry(tag).or_default().push(older);
        }
    }

    /// Forgets a key; the tag leads to the next older one, if there is one.
    fn remove(&mut self, tag: &LookupTag, slot: KeySlot) {
        let mut left = self.older.remove(tag).unwrap_or_default();
        left.retain(|at| *at != slot);
        if self.newest.get(tag) == Some(&slot) {
            match left.pop() {
                Some(newest) => self.newest.insert(*tag, newest),
                None => self.newest.remove(tag),
            };
        }
        if !left.is_empty() {
            self.older.insert(*tag, left);
        }
    }
}

impl Index {
    /// Takes in a key. Slots come in their order.
    pub(super) fn insert(&mut self, slot: KeySlot, key: &NewKey) -> Result<(), VaultError> {
        if !key.name.can_be_replaced() && self.find(&key.name).is_some() {
            return Err(VaultError::Duplicate(slot));
        }
        if let Some(older) = self.names.insert(slot, key.name) {
            self.superseded.entry(key.name).or_default().push(older);
        }
        match (key.name, key.tag) {
            (KeyName::Identity(_), Some(tag)) => self.emails.insert(tag, slot),
            (KeyName::License(_), Some(tag)) => self.license_keys.insert(tag, slot),
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
        if self.find(&key.name) == Some(slot) {
            self.names.forget_newest(&key.name);
            if let Some(newest) = left.pop() {
                self.names.insert(newest, key.name);
            }
        }
        self.names.remove(slot);
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
        self.names.find(name)
    }

    pub(super) fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        match self.names.of(*self.emails.newest.get(tag)?)? {
            KeyName::Identity(subject) => Some(subject),
            _ => None,
        }
    }

    pub(super) fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        match self.names.of(*self.license_keys.newest.get(tag)?)? {
            KeyName::License(license) => Some(license),
            _ => None,
        }
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
                let slots = older.copied().chain(self.find(&name));
                slots.map(move |slot| (name, slot)).collect::<Vec<_>>()
            })
            .collect()
    }

    pub(super) fn notices(&self) -> Vec<(NoticeId, KeySlot)> {
        let mut notices: Vec<_> = (self.names.newest.iter())
            .filter_map(|slot| match self.names.of(*slot)? {
                KeyName::Notice(notice) => Some((notice, *slot)),
                _ => None,
            })
            .collect();
        notices.sort_unstable_by_key(|(_, slot)| *slot);
        notices
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn it_finds_what_a_search_through_all_keys_finds() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut index, mut all): (Index, Vec<(KeySlot, NewKey)>) = Default::default();
        for slot in (1..4000).map(KeySlot) {
            // Few of each, so that names come again and tags have several owners.
            let subject = SubjectId::from_bytes([rng.random_range(0..40); 16]);
            let license = LicenseId::from_bytes([rng.random(); 16]);
            let name = match rng.random_range(0..6) {
                0 => KeyName::Identity(subject),
                1 => KeyName::Name(subject),
                2 => KeyName::License(license),
                3 => KeyName::Activations(subject, rng.random_range(2024..2027)),
                4 => KeyName::Disclosures(subject),
                _ => KeyName::Notice(NoticeId::from_bytes([rng.random(); 16])),
            };
            let tag = [rng.random_range(0..20); 16];
            let key = NewKey { name, tag: rng.random_bool(0.8).then_some(tag) };
            let is_taken = all.iter().any(|(_, other)| other.name == name);
            let inserted = index.insert(slot, &key);
            assert_eq!(inserted.is_err(), is_taken && !name.can_be_replaced());
            if inserted.is_ok() {
                all.push((slot, key));
            }
            if rng.random_bool(0.4) {
                let (slot, key) = all.remove(rng.random_range(0..all.len()));
                index.remove(slot, &key);
            }

            let newest =
                |is: &dyn Fn(&NewKey) -> bool| all.iter().rev().find(|(_, key)| is(key)).copied();
            let named = newest(&|key| key.name == name);
            assert_eq!(index.find(&name), named.map(|(slot, _)| slot));
            let is_identity = |key: &NewKey| matches!(key.name, KeyName::Identity(_));
            let owner = newest(&|key| is_identity(key) && key.tag == Some(tag));
            let found = index.subject_by_email(&tag).map(KeyName::Identity);
            assert_eq!(found, owner.map(|(_, key)| key.name));
            let is_license = |key: &NewKey| matches!(key.name, KeyName::License(_));
            let owner = newest(&|key| is_license(key) && key.tag == Some(tag));
            let found = index.license_by_key(&tag).map(KeyName::License);
            assert_eq!(found, owner.map(|(_, key)| key.name));
            let of_subject = |name| match name {
                KeyName::Identity(of)
                | KeyName::Name(of)
                | KeyName::Activations(of, _)
                | KeyName::Disclosures(of) => of == subject,
                _ => false,
            };
            let mut found: Vec<_> =
                index.of_subject(subject).into_iter().map(|(_, slot)| slot).collect();
            found.sort_unstable();
            let expected = all.iter().filter(|(_, key)| of_subject(key.name));
            assert!(expected.map(|(slot, _)| *slot).eq(found));
        }
        let notices = index.notices().into_iter().map(|(_, slot)| slot);
        let expected = all.iter().filter(|(_, key)| matches!(key.name, KeyName::Notice(_)));
        assert!(expected.map(|(slot, _)| *slot).eq(notices));
    }
}
