//! What is stored: the log, the vault and the views, and how an event is read back.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{
    Email, Event, License, LicenseId, LicenseKey, Position, SubjectId, Terms, Timestamp,
};
use crate::log::codec::{self, DecodeError};
use crate::log::record::{self, KeySlot, RecordHash};
use crate::log::{Log, LogError, PAGE};
use crate::seal::{DataKey, OpenError, RecordKey};
use crate::vault::{KeyName, Vault, VaultError};
use crate::views::{LicenseView, Views, ViewsError};

/// What is stored cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The views.
    #[error("{0}; check the disk, and they are rebuilt at the next start")]
    Views(#[from] ViewsError),
    /// A record does not open.
    #[error("the record at position {0} was {1}; restore log and vault from one backup")]
    Sealed(Position, OpenError),
    /// A record opens, and holds no event.
    #[error("the event at position {0} cannot be read: {1}; was it written by a later version?")]
    Event(Position, DecodeError),
    /// What one part names, another does not have.
    #[error("position {0} holds another event than the views say")]
    Mismatch(Position),
}

/// The log, the vault and the views.
pub struct Store {
    /// The records.
    pub log: Arc<dyn Log>,
    /// Their keys.
    pub vault: Arc<dyn Vault>,
    /// What they say.
    pub views: Views,
}

/// An event in the log.
pub struct Stored {
    /// What happened.
    pub event: Event,
    /// The hash of its record.
    pub hash: RecordHash,
}

/// A license as it was issued.
pub struct Issued {
    /// Its key.
    pub key: LicenseKey,
    /// What it grants.
    pub terms: Terms,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// The event at a position.
    pub fn event(&self, position: Position) -> Result<Stored, StoreError> {
        let page = self.log.read(position, 1)?;
        let bytes = page.first().ok_or(LogError::Gap(position))?;
        Reader::new(self.vault.as_ref()).read(position, bytes)
    }

    /// Events at many positions.
    pub fn events(
        &self,
        positions: impl IntoIterator<Item = Position>,
    ) -> Result<Vec<(Position, Event)>, StoreError> {
        let mut reader = Reader::new(self.vault.as_ref());
        let read = |position| {
            let page = self.log.read(position, 1)?;
            let bytes = page.first().ok_or(LogError::Gap(position))?;
            Ok((position, reader.read(position, bytes)?.event))
        };
        positions.into_iter().map(read).collect()
    }

    /// How a license was issued.
    pub fn issued(&self, license: &LicenseView) -> Result<Issued, StoreError> {
        match self.event(license.issued)?.event {
            Event::LicenseIssued { key, terms, at, .. } => Ok(Issued { key, terms, at }),
            _ => Err(StoreError::Mismatch(license.issued)),
        }
    }

    /// What the rules need to know of a license.
    pub fn license(&self, id: LicenseId) -> Result<Option<License>, StoreError> {
        let Some(view) = self.views.license(id)? else { return Ok(None) };
        let terms = self.issued(&view)?.terms;
        let LicenseView { subject, issued, status, used, .. } = view;
        Ok(Some(License { subject, terms, status, used, issued }))
    }

    /// A person's address.
    pub fn email(&self, id: SubjectId) -> Result<Option<Email>, StoreError> {
        let Some(subject) = self.views.subject(id)? else { return Ok(None) };
        match self.event(subject.registered)?.event {
            Event::SubjectRegistered { email, .. } => Ok(Some(email)),
            _ => Err(StoreError::Mismatch(subject.registered)),
        }
    }

    /// Brings the views up to the log. `progress` is told each position.
    pub fn catch_up(&self, mut progress: impl FnMut(Position)) -> Result<(), StoreError> {
        let mut reader = Reader::new(self.vault.as_ref());
        let mut next = self.views.checkpoint()?.next;
        loop {
            let page = self.log.read(next, PAGE)?;
            let mut events = Vec::with_capacity(page.len());
            let mut last = RecordHash::default();
            for bytes in &page {
                let stored = reader.read(next, bytes)?;
                events.push((next, stored.event));
                last = stored.hash;
                next = next.plus(1);
            }
            self.views.apply(events.iter().map(|(position, event)| (*position, event)), last)?;
            progress(next);
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Whether the views are of this log: it has the record that they ended with.
    pub fn views_match(&self) -> Result<bool, StoreError> {
        let checkpoint = self.views.checkpoint()?;
        let Some(last) = checkpoint.next.0.checked_sub(1) else { return Ok(true) };
        let page = self.log.read(Position(last), 1)?;
        Ok(page.first().is_some_and(|bytes| record::hash(bytes) == checkpoint.last))
    }
}

/// Opens records, and keeps the data keys of those it just opened: neighbours often share one.
struct Reader<'a> {
    vault: &'a dyn Vault,
    keys: HashMap<KeySlot, DataKey>,
}

/// How many data keys a reader keeps.
const KEYS_KEPT: usize = 4096;

impl<'a> Reader<'a> {
    fn new(vault: &'a dyn Vault) -> Self {
        Self { vault, keys: HashMap::new() }
    }

    fn read(&mut self, position: Position, bytes: &[u8]) -> Result<Stored, StoreError> {
        let (header, sealed) =
            record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        if self.keys.len() >= KEYS_KEPT {
            self.keys.clear();
        }
        let key = match self.keys.entry(header.slot) {
            std::collections::hash_map::Entry::Occupied(key) => key.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(self.vault.key(header.slot)?)
            }
        };
        let plaintext = RecordKey::derive(key, &header.id)
            .open(sealed, &header.to_bytes(), &header.commitment)
            .map_err(|error| StoreError::Sealed(position, error))?;
        let event =
            codec::decode(&plaintext).map_err(|error| StoreError::Event(position, error))?;
        Ok(Stored { event, hash: record::hash(bytes) })
    }
}

/// The key that an event is sealed under. `subject` is whose license it is about.
pub(super) fn key_name(event: &Event, subject: SubjectId) -> KeyName {
    match event {
        Event::SubjectRegistered { subject, .. } => KeyName::Identity(*subject),
        Event::LicenseIssued { license, .. }
        | Event::LicenseSuspended { license, .. }
        | Event::LicenseReinstated { license, .. }
        | Event::LicenseRevoked { license, .. } => KeyName::License(*license),
        Event::Activated { at, .. } | Event::Deactivated { at, .. } => {
            KeyName::Activations(subject, at.year())
        }
        Event::AccessRecorded { subject, at, .. } => KeyName::Access(*subject, at.year()),
    }
}
