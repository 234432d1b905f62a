//! The vault: the data keys that records are sealed under, and the tags that people and licenses
//! are found by. To destroy a key here is to destroy what it sealed, wherever copies of it lie.
//!
//! An engine implements [`Vault`]: [`file::FileVault`] is the embedded one, [`memory::MemoryVault`]
//! the one for tests.

pub mod file;
mod index;
pub mod master;
pub mod memory;

use std::io;

use rand::CryptoRng;

use crate::domain::{LicenseId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::{DataKey, LookupTag, TagKey};

/// What a data key seals: one data category of one owner, by calendar year where it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyName {
    /// Who a person is.
    Identity(SubjectId),
    /// A license and what becomes of it.
    License(LicenseId),
    /// A person's activations in a year.
    Activations(SubjectId, u16),
    /// Who looked at a person's data in a year.
    Access(SubjectId, u16),
}

/// A key to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewKey {
    /// What for.
    pub name: KeyName,
    /// For an identity the tag of the address, for a license that of its key.
    pub tag: Option<LookupTag>,
}

/// Keeps data keys, and finds them.
///
/// Laws: a key is durable when [`create`](Vault::create) returns; a name has one key; a slot that
/// cannot be read is an error, and never "not there".
pub trait Vault: Send + Sync {
    /// What lookup tags are made with.
    fn tag_key(&self) -> &TagKey;

    /// Makes keys, all durable on return, and answers in the same order. The names must be new.
    fn create(&self, keys: &[NewKey], rng: &mut dyn CryptoRng) -> Result<Vec<KeySlot>, VaultError>;

    /// Where the key of that name is.
    fn find(&self, name: &KeyName) -> Option<KeySlot>;

    /// The key in a slot.
    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError>;

    /// Whether there is a key in a slot.
    fn is_live(&self, slot: KeySlot) -> bool;

    /// Whose address has this tag.
    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId>;

    /// Which license's key has this tag.
    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId>;
}

/// The vault cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The disk, or what lies between it and us.
    #[error("the vault cannot be read or written: {0}; check the disk, then start again")]
    Io(#[from] io::Error),
    /// The file is no vault.
    #[error("the vault's file is no vault, or is cut short; restore it from a backup")]
    Foreign,
    /// A slot's bytes changed.
    #[error("slot {} of the vault is damaged; restore the vault from a backup", .0.0)]
    Damaged(KeySlot),
    /// A slot that something is sealed under holds no key.
    #[error("slot {} of the vault holds no key; restore the vault from a backup", .0.0)]
    Missing(KeySlot),
    /// The master key opens nothing here.
    #[error("the master key does not open this vault; put back the one it was last used with")]
    WrongMasterKey,
    /// A name has a key already.
    #[error("slot {} of the vault has the same name as another; restore it from a backup", .0.0)]
    Duplicate(KeySlot),
    /// As many keys as a slot number can tell apart.
    #[error("the vault is full")]
    Full,
}
