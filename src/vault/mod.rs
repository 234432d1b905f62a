//! The vault: the data keys that records are sealed under, and the tags that people and licenses
//! are found by. To destroy a key here is to destroy what it sealed, wherever copies of it lie.
//!
//! An engine implements [`Vault`]: [`file::FileVault`] is the embedded one, [`memory::MemoryVault`]
//! the one for tests.

pub mod file;
mod index;
pub mod ledger;
pub mod master;
pub mod memory;
mod slot;

use std::io;
use std::path::PathBuf;

use rand::CryptoRng;
use sha2::{Digest as _, Sha256};

use crate::domain::{Category, LicenseId, NoticeId, Position, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::{DataKey, LookupTag, TagKey};
use ledger::LedgerError;
use master::MasterKeyError;
use slot::VERSION;

/// What a data key seals: one data category of one owner, by calendar year where it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyName {
    /// A person's address. A newer key takes the place of an older one, which is then destroyed.
    Identity(SubjectId),
    /// A person's name. As with the address.
    Name(SubjectId),
    /// A license and what becomes of it.
    License(LicenseId),
    /// A person's activations in a year.
    Activations(SubjectId, u16),
    /// Who looked at a person's data in a year, and what they asked for.
    Access(SubjectId, u16),
    /// Who got a person's data. It is kept for as long as their address, so that each can be told.
    Disclosures(SubjectId),
    /// What a recipient of data is to be told about a person.
    Notice(NoticeId),
    /// What tells nothing about a person.
    System,
}

impl KeyName {
    /// The kind of data that it seals; `None` where that is nobody's.
    pub const fn category(&self) -> Option<Category> {
        match self {
            Self::Identity(_) | Self::Notice(_) => Some(Category::Email),
            Self::Name(_) => Some(Category::Name),
            Self::License(_) => Some(Category::License),
            Self::Activations(..) => Some(Category::ActivationTime),
            Self::Access(..) | Self::Disclosures(_) => Some(Category::AccessRecord),
            Self::System => None,
        }
    }

    /// Whether a newer key of the same name may take its place.
    const fn can_be_replaced(&self) -> bool {
        matches!(self, Self::Identity(_) | Self::Name(_))
    }
}

/// A key to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewKey {
    /// What for.
    pub name: KeyName,
    /// For an identity the tag of the address, for a license that of its key.
    pub tag: Option<LookupTag>,
}

/// What is in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing yet.
    Free,
    /// A key.
    Live,
    /// The tombstone of a key: what it sealed was erased.
    Destroyed,
}

/// Keeps data keys, and finds them.
///
/// Laws: a key is durable when [`create`](Vault::create) returns, and gone for good when
/// [`destroy`](Vault::destroy) does; a name has one key, but for the addresses and names that are
/// just being replaced; a slot that cannot be read is an error, and never "not there" or "destroyed".
pub trait Vault: Send + Sync {
    /// What lookup tags are made with.
    fn tag_key(&self) -> &TagKey;

    /// Makes keys, all durable on return, and answers in the same order. The names must be new, or
    /// such as can be replaced. `head` is the log's: what the keys seal is appended there or later.
    fn create(
        &self,
        keys: &[NewKey],
        head: Position,
        rng: &mut dyn CryptoRng,
    ) -> Result<Vec<KeySlot>, VaultError>;

    /// Where the newest key of that name is.
    fn find(&self, name: &KeyName) -> Option<KeySlot>;

    /// The key in a slot.
    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError>;

    /// What is in a slot.
    fn state(&self, slot: KeySlot) -> SlotState;

    /// Every key of a person, those of their licenses aside.
    fn of_subject(&self, subject: SubjectId) -> Vec<(KeyName, KeySlot)>;

    /// Every key of a notice. It looks at all keys there are, those included that another server has made
    /// and not used yet.
    fn notices(&self) -> Vec<(NoticeId, KeySlot)>;

    /// Whose address has this tag.
    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId>;

    /// Which license's key has this tag.
    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId>;

    /// Overwrites keys with tombstones. All are gone, or will be at the next start. Those that are
    /// gone already stay so.
    fn destroy(&self, slots: &[KeySlot], rng: &mut dyn CryptoRng) -> Result<(), VaultError>;

    /// The epoch of the master key.
    fn epoch(&self) -> u32;

    /// How many slots were ever used, those of destroyed keys included.
    fn slots_used(&self) -> u32;

    /// Moves to a new master key and destroys the old one: copies of the vault that are older open
    /// nothing from here on. [`VaultError::FixedMasterKey`] and [`VaultError::NotMoved`] leave all as it
    /// was.
    fn move_epoch(&self, rng: &mut dyn CryptoRng) -> Result<(), VaultError>;
}

/// Tells a destroyed key from others, and nothing about it.
pub type Fingerprint = [u8; 16];

fn fingerprint(key: &DataKey) -> Fingerprint {
    let digest = Sha256::new_with_prefix(b"countersign/tombstone/v1").chain_update(key.expose());
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(&digest.finalize()[..16]);
    fingerprint
}

/// The vault cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The disk, or what lies between it and us.
    #[error("the vault cannot be read or written: {0}; check the disk, then start again")]
    Io(#[from] io::Error),
    /// There is no file.
    #[error("the vault {} is missing; restore it from a backup", .0.display())]
    Gone(PathBuf),
    /// The file is no vault.
    #[error(
        "the vault's file is no vault, is cut short, or slot 0 of the vault is damaged; restore it from a \
         backup"
    )]
    Foreign,
    /// The vault is of a format that an earlier or later build writes.
    #[error(
        "the vault is of format {0}, and this build reads format {VERSION}: go on with the build that wrote \
         it; nothing was changed"
    )]
    OtherFormat(u8),
    /// A slot's bytes changed.
    #[error("slot {} of the vault is damaged; restore the vault from a backup", .0.0)]
    Damaged(KeySlot),
    /// A slot that something is sealed under holds no key.
    #[error("slot {} of the vault holds no key; restore the vault from a backup", .0.0)]
    Missing(KeySlot),
    /// A slot's key was destroyed.
    #[error("the key in slot {} of the vault was destroyed", .0.0)]
    Destroyed(KeySlot),
    /// The master key opens nothing here.
    #[error("the master key does not open this vault; put back the one it was last used with")]
    WrongMasterKey,
    /// The vault is a copy from before an erasure.
    #[error(
        "the vault is of epoch {vault}, and the erasure ledger knows epoch {ledger}: what was erased \
         since would be back; put the newest copy of the vault in its place"
    )]
    Outdated {
        /// The vault's epoch.
        vault: u32,
        /// The newest that the ledger knows.
        ledger: u32,
    },
    /// The log is a copy from before the vault's newest keys.
    #[error(
        "the vault has a key that was made when the log had {made_at} records, and it has {head}: the \
         log is older than the vault; put back the newest copy of the log, or restore both from one \
         backup"
    )]
    NewerThanLog {
        /// The log's head when the key was made.
        made_at: Position,
        /// Its head now.
        head: Position,
    },
    /// The master key is not ours to replace.
    #[error("the master key is a credential of the system, which the server cannot replace")]
    FixedMasterKey,
    /// The vault could not be prepared for another master key. It is as it was.
    #[error("the vault cannot move to a new master key: {0}; it goes on with the old one")]
    NotMoved(Box<VaultError>),
    /// The master key cannot be read.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// The ledger of erasures cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A name has a key already.
    #[error("slot {} of the vault has the same name as another; restore it from a backup", .0.0)]
    Duplicate(KeySlot),
    /// As many keys as a slot number can tell apart.
    #[error("the vault is full")]
    Full,
}
