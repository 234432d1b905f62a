//! A log and a vault as years of use leave them, written without a server: persons with a license each, and
//! activations of these by chance.

#![allow(dead_code)] // each benchmark uses its part

use countersign::domain::{
    Access, ActivationId, Actor, Email, Event, LicenseId, LicenseKey, Operation, Position, Product,
    Purpose, RecordedActor, Role, Seats, SigningKeyId, SubjectId, Terms, Timestamp,
};
use countersign::log::record::{self, Header, KeySlot};
use countersign::log::sled::SledLog;
use countersign::log::{Append, Log as _, codec};
use countersign::seal::{DataKey, RecordKey};
use countersign::vault::file::FileVault;
use countersign::vault::{KeyName, NewKey, Vault as _};

pub(crate) const EVENTS_A_PERSON: u32 = 10;
const SEATS: u32 = 100_000;
/// Events of one append, and persons of one.
const BATCH: usize = 1024;
const PERSONS_AT_ONCE: u32 = 256;

/// What an app needs to activate.
pub(crate) struct License {
    pub(crate) email: String,
    pub(crate) key: String,
}

/// The persons that there are.
#[derive(Default)]
pub(crate) struct History {
    persons: Vec<Person>,
}

struct Person {
    license: LicenseId,
    key: LicenseKey,
    activations: KeySlot,
}

fn address(number: usize) -> String {
    format!("person-{number}@example.com")
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_795_000_000_000).unwrap()
}

impl History {
    pub(crate) fn persons(&self) -> usize {
        self.persons.len()
    }

    pub(crate) fn any_license(&self) -> License {
        self.license(rand::random_range(0..self.persons.len()))
    }

    pub(crate) fn first_license(&self) -> License {
        self.license(0)
    }

    fn license(&self, number: usize) -> License {
        License { email: address(number), key: self.persons[number].key.expose() }
    }

    /// Registers persons and issues their licenses, until there are so many.
    pub(crate) fn register(&mut self, log: &SledLog, vault: &FileVault, persons: u32) {
        while self.persons.len() < persons as usize {
            let missing = persons - u32::try_from(self.persons.len()).unwrap();
            self.register_some(log, vault, missing.min(PERSONS_AT_ONCE));
        }
    }

    fn register_some(&mut self, log: &SledLog, vault: &FileVault, count: u32) {
        let at = now();
        let mut keys = Vec::new();
        let mut events = Vec::new();
        for _ in 0..count {
            let (subject, license) =
                (SubjectId::from_bytes(rand::random()), LicenseId::from_bytes(rand::random()));
            let email = Email::parse(&address(self.persons.len())).unwrap();
            let key = LicenseKey::generate(rand::random);
            let (email_tag, key_tag) =
                (vault.tag_key().email(&email), vault.tag_key().license_key(&key));
            keys.extend([
                NewKey { name: KeyName::Identity(subject), tag: Some(email_tag) },
                NewKey { name: KeyName::License(license), tag: Some(key_tag) },
                NewKey { name: KeyName::Access(subject, at.year()), tag: None },
                NewKey { name: KeyName::Activations(subject, at.year()), tag: None },
            ]);
            let terms = Terms {
                product: Product::parse("Bench").unwrap(),
                seats: Seats::new(SEATS).unwrap(),
                expires_at: None,
                updates_until: None,
            };
            let access = Access {
                actor: RecordedActor::Named(Actor::parse("issuer-1").unwrap()),
                role: Role::Issuer,
                purpose: Purpose::CustomerSupport,
                operation: Operation::IssueLicense,
                request: None,
            };
            self.persons.push(Person { license, key: key.clone(), activations: KeySlot(0) });
            events.push(Event::SubjectRegistered { subject, email, at });
            events.push(Event::LicenseIssued { license, subject, key, terms, at });
            events.push(Event::AccessRecorded { subject, access, at });
            events.push(activation(license));
        }
        let head = log.head().unwrap();
        let slots = vault.create(&keys, head, &mut rand::rng()).unwrap();
        let first = self.persons.len() - count as usize;
        for (person, slots) in self.persons[first..].iter_mut().zip(slots.chunks(4)) {
            person.activations = slots[3];
        }
        append(log, vault, slots.into_iter().zip(events));
    }

    /// Activates licenses by chance, until there are so many events.
    pub(crate) fn activate(&self, log: &SledLog, vault: &FileVault, events: u32) {
        loop {
            let missing = u64::from(events).saturating_sub(log.head().unwrap().0);
            let batch = BATCH.min(usize::try_from(missing).unwrap());
            if batch == 0 {
                return;
            }
            let any = || &self.persons[rand::random_range(0..self.persons.len())];
            let events = std::iter::repeat_with(any).take(batch);
            append(log, vault, events.map(|of| (of.activations, activation(of.license))));
        }
    }
}

fn activation(license: LicenseId) -> Event {
    let activation = ActivationId::from_bytes(rand::random());
    let signing_key = SigningKeyId::from_bytes([0; 32]);
    Event::Activated { license, activation, signing_key, lease_until: None, at: now() }
}

fn append(log: &SledLog, vault: &FileVault, events: impl Iterator<Item = (KeySlot, Event)>) {
    let head = log.head().unwrap();
    let seal = |(position, (slot, event)): (u64, (KeySlot, Event))| {
        let key: DataKey = vault.key(slot).unwrap();
        let id = rand::random();
        let record_key = RecordKey::derive(&key, &id);
        let (event_type, plaintext) = codec::encode(&event);
        let (position, commitment) = (Position(position), *record_key.commitment());
        let header = Header { event_type, position, slot, id, commitment };
        record::encode(&header, &record_key.seal(&plaintext, &header.to_bytes()).unwrap())
    };
    let records: Vec<_> = (head.0..).zip(events).map(seal).collect();
    assert_eq!(log.append(head, &records).unwrap(), Append::Appended);
}
