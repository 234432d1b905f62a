//! What is found without opening a slot: names and tags. There is a lot of it, so it is kept small: about
//! 200 bytes for a person with a license.

use std::hash::BuildHasher as _;
use std::iter;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::{KeyName, NewKey, VaultError};
use crate::domain::{LicenseId, NoticeId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::LookupTag;

#[derive(Debug, Default)]
pub(super) struct Index {
    names: Names,
    emails: Tags,
    license_keys: Tags,
}

/// Whose keys there are. Those of a person are made together, mostly, and so are found together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Subject(SubjectId),
    License(LicenseId),
    Notice(NoticeId),
    System,
}

impl From<&KeyName> for Owner {
    fn from(name: &KeyName) -> Self {
        match name {
            KeyName::Identity(subject)
            | KeyName::Name(subject)
            | KeyName::Activations(subject, _)
            | KeyName::Access(subject, _)
            | KeyName::Disclosures(subject) => Self::Subject(*subject),
            KeyName::License(license) => Self::License(*license),
            KeyName::Notice(notice) => Self::Notice(*notice),
            KeyName::System => Self::System,
        }
    }
}

/// The names of keys, and the keys of each owner.
#[derive(Debug, Default)]
struct Names {
    by_slot: Vec<Option<Named>>,
    /// The newest key of each owner. A map would have each owner once more.
    newest: HashTable<KeySlot>,
    hasher: DefaultHashBuilder,
}

#[derive(Debug, Clone, Copy)]
struct Named {
    name: KeyName,
    /// The owner's key before it.
    before: KeySlot,
}

/// The slot of no name, where there is none before.
const NO_KEY: KeySlot = KeySlot(0);

fn named(by_slot: &[Option<Named>], slot: KeySlot) -> Option<Named> {
    by_slot.get(slot.0 as usize).copied().flatten()
}

/// The keys of an owner, from the newest on.
fn chain(by_slot: &[Option<Named>], newest: KeySlot) -> impl Iterator<Item = (KeyName, KeySlot)> {
    let mut next = newest;
    iter::from_fn(move || {
        let Named { name, before } = named(by_slot, next)?;
        Some((name, std::mem::replace(&mut next, before)))
    })
}

/// Whether a key is this owner's.
fn is_of(by_slot: &[Option<Named>], slot: KeySlot, owner: Owner) -> bool {
    by_slot[slot.0 as usize].is_some_and(|named| Owner::from(&named.name) == owner)
}

impl Names {
    fn of(&self, slot: KeySlot) -> Option<Named> {
        named(&self.by_slot, slot)
    }

    /// The keys of an owner, newest first.
    fn of_owner(&self, owner: Owner) -> impl Iterator<Item = (KeyName, KeySlot)> {
        let is_owner = |slot: &KeySlot| is_of(&self.by_slot, *slot, owner);
        let newest = self.newest.find(self.hasher.hash_one(owner), is_owner).copied();
        chain(&self.by_slot, newest.unwrap_or(NO_KEY))
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.of_owner(name.into()).find(|(other, _)| other == name).map(|(_, slot)| slot)
    }

    /// Names a key, which is the newest of its owner; unless there is one of that name, and it may not be
    /// replaced. Tells whether it did.
    fn insert(&mut self, slot: KeySlot, name: KeyName) -> bool {
        let owner = Owner::from(&name);
        let Self { by_slot, newest, hasher } = self;
        let is_owner = |slot: &KeySlot| is_of(by_slot, *slot, owner);
        let hash = |slot: &KeySlot| {
            let named = &by_slot[slot.0 as usize];
            named.map_or(0, |named| hasher.hash_one(Owner::from(&named.name)))
        };
        let before = match newest.entry(hasher.hash_one(owner), is_owner, hash) {
            Entry::Occupied(mut newest) => {
                let mut names = chain(by_slot, *newest.get()).map(|(other, _)| other);
                if !name.can_be_replaced() && names.any(|other| other == name) {
                    return false;
                }
                std::mem::replace(newest.get_mut(), slot)
            }
            Entry::Vacant(place) => {
                place.insert(slot);
                NO_KEY
            }
        };
        if by_slot.len() <= slot.0 as usize {
            by_slot.resize(slot.0 as usize + 1, None);
        }
        by_slot[slot.0 as usize] = Some(Named { name, before });
        true
    }

    /// Takes the name off a key.
    fn remove(&mut self, slot: KeySlot) {
        let Some(Named { name, before }) = self.of(slot) else { return };
        let owner = Owner::from(&name);
        let after = self.of_owner(owner).map(|(_, other)| other).take_while(|other| *other != slot);
        if let Some(after) = after.last() {
            if let Some(Some(after)) = self.by_slot.get_mut(after.0 as usize) {
                after.before = before;
            }
        } else {
            let is_owner = |slot: &KeySlot| is_of(&self.by_slot, *slot, owner);
            let newest = self.newest.find_entry(self.hasher.hash_one(owner), is_owner);
            match newest {
                Ok(newest) if before == NO_KEY => drop(newest.remove()),
                Ok(mut newest) => *newest.get_mut() = before,
                Err(_) => {}
            }
        }
        self.by_slot[slot.0 as usize] = None;
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
    /// One that has room for so many keys: to grow would cost as much as to fill it. Of most persons there
    /// are four, with one license: address, license, and a year's activations and accesses.
    pub(super) fn with_capacity(keys: usize) -> Self {
        let names = Names {
            by_slot: Vec::with_capacity(keys),
            newest: HashTable::with_capacity(keys / 2),
            hasher: DefaultHashBuilder::default(),
        };
        let tags = || Tags { newest: HashMap::with_capacity(keys / 4), ..Tags::default() };
        Self { names, emails: tags(), license_keys: tags() }
    }

    /// Takes in a key. Slots come in their order.
    pub(super) fn insert(&mut self, slot: KeySlot, key: &NewKey) -> Result<(), VaultError> {
        if !self.names.insert(slot, key.name) {
            return Err(VaultError::Duplicate(slot));
        }
        match (key.name, key.tag) {
            (KeyName::Identity(_), Some(tag)) => self.emails.insert(tag, slot),
            (KeyName::License(_), Some(tag)) => self.license_keys.insert(tag, slot),
            _ => {}
        }
        Ok(())
    }

    /// Forgets a key.
    pub(super) fn remove(&mut self, slot: KeySlot, key: &NewKey) {
        self.names.remove(slot);
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
        match self.names.of(*self.emails.newest.get(tag)?)?.name {
            KeyName::Identity(subject) => Some(subject),
            _ => None,
        }
    }

    pub(super) fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        match self.names.of(*self.license_keys.newest.get(tag)?)?.name {
            KeyName::License(license) => Some(license),
            _ => None,
        }
    }

    pub(super) fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)> {
        let mut keys: Vec<_> = self.names.of_owner(Owner::Subject(subject)).collect();
        keys.reverse();
        keys
    }

    pub(super) fn notices(&self) -> Vec<(NoticeId, KeySlot)> {
        let named = (0..).map(KeySlot).zip(&self.names.by_slot);
        named
            .filter_map(|(slot, named)| match named.as_ref()?.name {
                KeyName::Notice(notice) => Some((notice, slot)),
                _ => None,
            })
            .collect()
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
            let found = index.of_subject(subject);
            let expected = all.iter().filter(|(_, key)| of_subject(key.name));
            assert!(expected.map(|(slot, key)| (key.name, *slot)).eq(found));
        }
        let notices = index.notices().into_iter().map(|(_, slot)| slot);
        let expected = all.iter().filter(|(_, key)| matches!(key.name, KeyName::Notice(_)));
        assert!(expected.map(|(slot, _)| *slot).eq(notices));
    }
}
