//! A slot of the vault's file: a key under a name, or the tombstone of one.
//!
//! ```text
//! offset  bytes                                        plaintext, 67 bytes
//!      0      1  state: 0 free, 1 live, 2 destroyed         0   1  kind of name
//!      1      1  version, 2                                 1   2  year, or 0
//!      2      4  epoch                                      3  16  owner
//!      6      2  zero                                      19  32  data key
//!      8     12  nonce                                     51  16  lookup tag, or zero
//!     20     83  sealed plaintext
//!    103      8  the log's head when the key was made
//!    111     13  zero
//!    124      4  CRC-32C of all before it
//! ```
//!
//! Numbers are big-endian. The plaintext is sealed with AES-256-GCM under the master key of the epoch:
//! every start opens every slot, and processors have instructions for this cipher. The nonce is random;
//! within an epoch a slot is sealed twice at most, live and as a tombstone. Slot number, epoch, state and
//! head are associated data, so that no slot passes for another. A free slot is 128 zeros. The plaintext
//! of a destroyed slot is a fingerprint of its key and zeros, and so is its head.
//!
//! A slot lies within one 512-byte sector, which a disk writes whole or not at all.

use std::io;
use std::ops::Range;

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::master::MasterKey;
use super::{Fingerprint, KeyName, NewKey, VaultError};
use crate::domain::{LicenseId, NoticeId, Position, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::cipher::{Cipher, NONCE_BYTES};
use crate::seal::{DataKey, LookupTag, TAG_BYTES};

/// The length of a slot.
pub(super) const SLOT_BYTES: usize = 128;
pub(super) const VERSION: u8 = 2;
pub(super) const LIVE: u8 = 1;
const DESTROYED: u8 = 2;
const NONCE: Range<usize> = 8..8 + NONCE_BYTES;
const SEALED: Range<usize> = NONCE.end..NONCE.end + PLAINTEXT_BYTES + TAG_BYTES;
const PLAINTEXT_BYTES: usize = 67;
const HEAD: Range<usize> = SEALED.end..SEALED.end + 8;
const CHECKSUM_AT: usize = SLOT_BYTES - 4;

pub(super) type Slot = [u8; SLOT_BYTES];
type Plaintext = Zeroizing<[u8; PLAINTEXT_BYTES]>;

/// What a slot holds.
pub(super) enum Content {
    /// The key that tags are made with.
    TagKey(DataKey),
    /// A key, and the log's head when it was made: what it seals is there or later.
    Key(NewKey, DataKey, Position),
    Destroyed(Fingerprint),
}

/// The master key, ready to seal and open slots.
pub(super) struct Wrap {
    key: Cipher,
    pub(super) epoch: u32,
}

impl Wrap {
    pub(super) fn new(master: &MasterKey) -> Result<Self, VaultError> {
        // It takes any 32 bytes, where there is memory.
        let key = Cipher::wrapping(&master.key)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { key, epoch: master.epoch })
    }

    pub(super) fn seal(
        &self,
        number: KeySlot,
        content: &Content,
        rng: &mut dyn CryptoRng,
    ) -> Result<Slot, VaultError> {
        let mut plaintext = content.to_bytes();
        let mut slot = [0; SLOT_BYTES];
        slot[0] = content.state();
        slot[1] = VERSION;
        slot[2..6].copy_from_slice(&self.epoch.to_be_bytes());
        slot[HEAD].copy_from_slice(&content.head().0.to_be_bytes());
        rng.fill_bytes(&mut slot[NONCE]);
        let tag = self
            .key
            .seal(nonce(&slot), &associated(number, &slot), plaintext.as_mut_slice())
            .map_err(|_| VaultError::Damaged(number))?;
        slot[SEALED][..PLAINTEXT_BYTES].copy_from_slice(plaintext.as_ref());
        slot[SEALED][PLAINTEXT_BYTES..].copy_from_slice(&tag);
        let checksum = crc32c::crc32c(&slot[..CHECKSUM_AT]);
        slot[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
        Ok(slot)
    }

    /// `None`: the slot is free.
    pub(super) fn open(&self, number: KeySlot, slot: &Slot) -> Result<Option<Content>, VaultError> {
        let mut plaintext = Plaintext::new([0; PLAINTEXT_BYTES]);
        let content = |plaintext: &_| Content::from_bytes(plaintext, head(slot));
        self.read(number, slot, &mut plaintext, content)
    }

    /// Looks into neighbours.
    pub(super) fn look(&self, first: u32, slots: &[Slot]) -> Vec<Opened> {
        let mut plaintext = Plaintext::new([0; PLAINTEXT_BYTES]);
        let slots = (first..).map(KeySlot).zip(slots);
        slots
            .map(|(number, slot)| self.read(number, slot, &mut plaintext, Found::from_bytes))
            .collect()
    }

    /// Decrypts a slot, and reads it. `None`: it is free.
    fn read<C: HasState>(
        &self,
        number: KeySlot,
        slot: &Slot,
        plaintext: &mut Plaintext,
        read: impl FnOnce(&[u8; PLAINTEXT_BYTES]) -> Option<C>,
    ) -> Result<Option<C>, VaultError> {
        if slot.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if !is_whole(slot) || slot[1] != VERSION || epoch(slot) != self.epoch {
            return Err(VaultError::Damaged(number));
        }
        let damaged = VaultError::Damaged(number);
        let Some((sealed, tag)) = slot[SEALED].split_last_chunk() else { return Err(damaged) };
        let (nonce, associated) = (nonce(slot), associated(number, slot));
        let opened = self.key.open(nonce, &associated, sealed, tag, plaintext.as_mut_slice());
        if opened.is_err() {
            return Err(damaged);
        }
        let content = read(plaintext).filter(|content| content.state() == slot[0]);
        content.map(Some).ok_or(damaged)
    }
}

/// What is in a slot, without the key: nothing of that may stay in memory.
pub(super) enum Found {
    TagKey,
    Key(NewKey),
    Destroyed,
}

/// What a slot's first byte says of its content.
trait HasState {
    fn state(&self) -> u8;
}

impl HasState for Content {
    fn state(&self) -> u8 {
        match self {
            Self::TagKey(_) | Self::Key(..) => LIVE,
            Self::Destroyed(_) => DESTROYED,
        }
    }
}

impl HasState for Found {
    fn state(&self) -> u8 {
        match self {
            Self::TagKey | Self::Key(_) => LIVE,
            Self::Destroyed => DESTROYED,
        }
    }
}

impl Found {
    fn from_bytes(bytes: &[u8; PLAINTEXT_BYTES]) -> Option<Self> {
        match bytes[0] {
            TOMBSTONE => Some(Self::Destroyed),
            TAG_KEY => Some(Self::TagKey),
            _ => Some(Self::Key(NewKey::from_bytes(bytes)?)),
        }
    }
}

impl NewKey {
    fn from_bytes(bytes: &[u8; PLAINTEXT_BYTES]) -> Option<Self> {
        let year = u16::from_be_bytes([bytes[1], bytes[2]]);
        let name = name_from_parts((bytes[0], year, bytes[3..19].try_into().ok()?))?;
        let tag: LookupTag = bytes[51..67].try_into().ok()?;
        Some(Self { name, tag: (tag != LookupTag::default()).then_some(tag) })
    }
}

/// What is in a slot; `None`: it is free.
pub(super) type Opened = Result<Option<Found>, VaultError>;

/// Whether a vault may begin with this slot.
pub(super) fn check_first(slot: &Slot) -> Result<(), VaultError> {
    match (slot[0], slot[1], is_whole(slot)) {
        (LIVE, VERSION, true) => Ok(()),
        (LIVE, VERSION, false) => Err(VaultError::Damaged(KeySlot(0))),
        (LIVE, other, true) => Err(VaultError::OtherFormat(other)),
        _ => Err(VaultError::Foreign),
    }
}

/// Whether the bytes are those that were written.
pub(super) fn is_whole(slot: &Slot) -> bool {
    crc32c::crc32c(&slot[..CHECKSUM_AT]).to_be_bytes() == slot[CHECKSUM_AT..]
}

fn nonce(slot: &Slot) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce.copy_from_slice(&slot[NONCE]);
    nonce
}

/// The epoch that a slot was written in.
pub(super) fn epoch(slot: &Slot) -> u32 {
    u32::from_be_bytes([slot[2], slot[3], slot[4], slot[5]])
}

fn head(slot: &Slot) -> Position {
    let mut head = [0; 8];
    head.copy_from_slice(&slot[HEAD]);
    Position(u64::from_be_bytes(head))
}

/// Slot number, epoch, state and head.
fn associated(number: KeySlot, slot: &Slot) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..4].copy_from_slice(&number.0.to_be_bytes());
    bytes[4..8].copy_from_slice(&slot[2..6]);
    bytes[8] = slot[0];
    bytes[9..].copy_from_slice(&slot[HEAD]);
    bytes
}

/// The kind of a name, its year and its owner.
type NameParts = (u8, u16, [u8; 16]);

/// The kinds of what has no name.
const TAG_KEY: u8 = 0;
const TOMBSTONE: u8 = 255;

fn name_to_parts(name: &KeyName) -> NameParts {
    match name {
        KeyName::Identity(subject) => (1, 0, *subject.as_bytes()),
        KeyName::License(license) => (2, 0, *license.as_bytes()),
        KeyName::Activations(subject, year) => (3, *year, *subject.as_bytes()),
        KeyName::Access(subject, year) => (4, *year, *subject.as_bytes()),
        KeyName::Name(subject) => (5, 0, *subject.as_bytes()),
        KeyName::System => (6, 0, [0; 16]),
        KeyName::Notice(notice) => (7, 0, *notice.as_bytes()),
        KeyName::Disclosures(subject) => (8, 0, *subject.as_bytes()),
    }
}

fn name_from_parts((kind, year, owner): NameParts) -> Option<KeyName> {
    let subject = SubjectId::from_bytes(owner);
    match kind {
        1 => Some(KeyName::Identity(subject)),
        2 => Some(KeyName::License(LicenseId::from_bytes(owner))),
        3 => Some(KeyName::Activations(subject, year)),
        4 => Some(KeyName::Access(subject, year)),
        5 => Some(KeyName::Name(subject)),
        6 => Some(KeyName::System),
        7 => Some(KeyName::Notice(NoticeId::from_bytes(owner))),
        8 => Some(KeyName::Disclosures(subject)),
        _ => None,
    }
}

impl Content {
    fn head(&self) -> Position {
        match self {
            Self::Key(_, _, head) => *head,
            Self::TagKey(_) | Self::Destroyed(_) => Position::ZERO,
        }
    }

    pub(super) fn to_bytes(&self) -> Plaintext {
        let mut bytes = Plaintext::new([0; PLAINTEXT_BYTES]);
        let (kind, year, owner) = match self {
            Self::TagKey(_) => (TAG_KEY, 0, [0; 16]),
            Self::Key(NewKey { name, .. }, ..) => name_to_parts(name),
            Self::Destroyed(_) => (TOMBSTONE, 0, [0; 16]),
        };
        bytes[0] = kind;
        bytes[1..3].copy_from_slice(&u16::to_be_bytes(year));
        bytes[3..19].copy_from_slice(&owner);
        match self {
            Self::TagKey(key) => bytes[19..51].copy_from_slice(key.expose()),
            Self::Key(NewKey { tag, .. }, key, _) => {
                bytes[19..51].copy_from_slice(key.expose());
                bytes[51..67].copy_from_slice(&tag.unwrap_or_default());
            }
            Self::Destroyed(fingerprint) => bytes[19..35].copy_from_slice(fingerprint),
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; PLAINTEXT_BYTES], head: Position) -> Option<Self> {
        let key = || bytes[19..51].try_into().ok().map(DataKey::from_bytes);
        match bytes[0] {
            TOMBSTONE => Some(Self::Destroyed(bytes[19..35].try_into().ok()?)),
            TAG_KEY => Some(Self::TagKey(key()?)),
            _ => Some(Self::Key(NewKey::from_bytes(bytes)?, key()?, head)),
        }
    }
}
