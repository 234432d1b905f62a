//! The vault in one file of slots.
//!
//! ```text
//! offset  bytes                       plaintext, 67 bytes
//!      0      1  state: 0 free, 1 live        0   1  kind of name
//!      1      1  version, 1                   1   2  year, or 0
//!      2      4  epoch                        3  16  owner
//!      6      2  zero                        19  32  data key
//!      8     24  nonce                       51  16  lookup tag, or zero
//!     32     83  sealed plaintext
//!    115      9  zero
//!    124      4  CRC-32C of all before it
//! ```
//!
//! Numbers are big-endian. The plaintext is sealed with XChaCha20-Poly1305 under the master key of
//! the epoch; slot number, epoch and state are its associated data, so that no slot passes for
//! another. Slot 0 holds the key that tags are made with. A free slot is 128 zeros.
//!
//! A slot lies within one 512-byte sector, which a disk writes whole or not at all. Slots are written
//! in order and the file grows in chunks of zeros, each durable before it is used.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::index::Index;
use super::master::MasterKey;
use super::{KeyName, NewKey, Vault, VaultError};
use crate::domain::{LicenseId, SubjectId};
use crate::log::record::KeySlot;
use crate::seal::{DataKey, LookupTag, TAG_BYTES, TagKey};

const SLOT_BYTES: usize = 128;
/// How many slots the file grows by: 128 KiB, so that growth costs one sync in a thousand keys.
const CHUNK_SLOTS: u32 = 1024;
const VERSION: u8 = 1;
const LIVE: u8 = 1;
const SEALED: std::ops::Range<usize> = 32..32 + PLAINTEXT_BYTES + TAG_BYTES;
const PLAINTEXT_BYTES: usize = 67;
const CHECKSUM_AT: usize = SLOT_BYTES - 4;
const TAG_KEY_SLOT: KeySlot = KeySlot(0);

type Slot = [u8; SLOT_BYTES];
type Plaintext = Zeroizing<[u8; PLAINTEXT_BYTES]>;

/// What a slot holds.
enum Content {
    /// The key that tags are made with.
    TagKey(DataKey),
    Key(NewKey, DataKey),
}

/// A vault in a file.
pub struct FileVault {
    file: File,
    wrap: Wrap,
    tag_key: TagKey,
    /// Changed by `create` alone, and read by everyone.
    state: RwLock<State>,
}

struct State {
    index: Index,
    /// The first slot never used.
    next: u32,
    /// How many slots the file has, all of them durable.
    slots: u32,
}

/// The master key, ready to seal and open slots.
struct Wrap {
    cipher: XChaCha20Poly1305,
    epoch: u32,
}

impl FileVault {
    /// Makes a new vault. The file must not exist yet; its directory is the caller's to sync.
    pub fn create_new(
        path: &Path,
        master: &MasterKey,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), VaultError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let content = Content::TagKey(DataKey::generate(rng));
        let slot = Wrap::new(master).seal(TAG_KEY_SLOT, &content, rng)?;
        file.set_len(u64::from(CHUNK_SLOTS) * SLOT_BYTES as u64)?;
        file.write_all_at(&slot, 0)?;
        Ok(file.sync_all()?)
    }

    /// Opens a vault and reads every slot.
    pub fn open(path: &Path, master: &MasterKey) -> Result<Self, VaultError> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let wrap = Wrap::new(master);
        // A remainder is growth that a power cut interrupted; it was never used.
        let (slots, _) = bytes.as_chunks::<SLOT_BYTES>();
        let (first, rest) = slots.split_first().ok_or(VaultError::Foreign)?;
        if first[0] != LIVE || first[1] != VERSION {
            return Err(VaultError::Foreign);
        }
        if !is_whole(first) {
            return Err(VaultError::Damaged(TAG_KEY_SLOT));
        }
        // The bytes are those that were written, so it is the key that is not.
        let Ok(Some(Content::TagKey(tag_key))) = wrap.open(TAG_KEY_SLOT, first) else {
            return Err(VaultError::WrongMasterKey);
        };
        let mut state = State { index: Index::default(), next: 1, slots: 0 };
        state.slots = u32::try_from(slots.len()).map_err(|_| VaultError::Foreign)?;
        for (number, slot) in (1..).map(KeySlot).zip(rest) {
            match wrap.open(number, slot)? {
                Some(Content::Key(key, _)) => {
                    state.index.insert(number, &key)?;
                    state.next = number.0 + 1;
                }
                Some(Content::TagKey(_)) => return Err(VaultError::Damaged(number)),
                None => {}
            }
        }
        let tag_key = TagKey::from_key(&tag_key);
        Ok(Self { file, wrap, tag_key, state: RwLock::new(state) })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room up to `slots`, durably.
    fn grow(&self, from: u32, slots: u32) -> Result<u32, VaultError> {
        let to = slots.checked_next_multiple_of(CHUNK_SLOTS).ok_or(VaultError::Full)?;
        let zeros = vec![0; (to - from) as usize * SLOT_BYTES];
        self.file.write_all_at(&zeros, u64::from(from) * SLOT_BYTES as u64)?;
        self.file.sync_all()?;
        Ok(to)
    }
}

impl Vault for FileVault {
    fn tag_key(&self) -> &TagKey {
        &self.tag_key
    }

    fn create(&self, keys: &[NewKey], rng: &mut dyn CryptoRng) -> Result<Vec<KeySlot>, VaultError> {
        let (first, mut slots) = {
            let state = self.read();
            (state.next, state.slots)
        };
        let count = u32::try_from(keys.len()).map_err(|_| VaultError::Full)?;
        let end = first.checked_add(count).ok_or(VaultError::Full)?;
        if end > slots {
            slots = self.grow(slots, end)?;
        }
        let mut bytes = Vec::with_capacity(keys.len() * SLOT_BYTES);
        for (number, key) in (first..).map(KeySlot).zip(keys) {
            let content = Content::Key(*key, DataKey::generate(rng));
            bytes.extend_from_slice(&self.wrap.seal(number, &content, rng)?);
        }
        self.file.write_all_at(&bytes, u64::from(first) * SLOT_BYTES as u64)?;
        self.file.sync_data()?;

        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.next = end;
        state.slots = slots;
        (first..)
            .map(KeySlot)
            .zip(keys)
            .map(|(number, key)| state.index.insert(number, key).map(|()| number))
            .collect()
    }

    fn find(&self, name: &KeyName) -> Option<KeySlot> {
        self.read().index.slots.get(name).copied()
    }

    fn key(&self, slot: KeySlot) -> Result<DataKey, VaultError> {
        if !self.is_live(slot) {
            return Err(VaultError::Missing(slot));
        }
        let mut bytes = [0; SLOT_BYTES];
        self.file.read_exact_at(&mut bytes, u64::from(slot.0) * SLOT_BYTES as u64)?;
        match self.wrap.open(slot, &bytes)? {
            Some(Content::Key(_, key)) => Ok(key),
            Some(Content::TagKey(_)) | None => Err(VaultError::Missing(slot)),
        }
    }

    /// Holes that a power cut left count as live here, and are missing when asked for.
    fn is_live(&self, slot: KeySlot) -> bool {
        slot != TAG_KEY_SLOT && slot.0 < self.read().next
    }

    fn subject_by_email(&self, tag: &LookupTag) -> Option<SubjectId> {
        self.read().index.emails.get(tag).copied()
    }

    fn license_by_key(&self, tag: &LookupTag) -> Option<LicenseId> {
        self.read().index.license_keys.get(tag).copied()
    }
}

impl Wrap {
    fn new(master: &MasterKey) -> Self {
        let cipher = XChaCha20Poly1305::new((&*master.key).into());
        Self { cipher, epoch: master.epoch }
    }

    fn seal(
        &self,
        number: KeySlot,
        content: &Content,
        rng: &mut dyn CryptoRng,
    ) -> Result<Slot, VaultError> {
        let mut plaintext = content.to_bytes();
        let mut slot = [0; SLOT_BYTES];
        slot[0] = LIVE;
        slot[1] = VERSION;
        slot[2..6].copy_from_slice(&self.epoch.to_be_bytes());
        rng.fill_bytes(&mut slot[8..32]);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                &nonce(&slot),
                &associated(number, &slot),
                plaintext.as_mut_slice().into(),
            )
            .map_err(|_| VaultError::Damaged(number))?;
        slot[SEALED][..PLAINTEXT_BYTES].copy_from_slice(plaintext.as_ref());
        slot[SEALED][PLAINTEXT_BYTES..].copy_from_slice(&tag);
        let checksum = crc32c::crc32c(&slot[..CHECKSUM_AT]);
        slot[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
        Ok(slot)
    }

    /// `None`: the slot is free.
    fn open(&self, number: KeySlot, slot: &Slot) -> Result<Option<Content>, VaultError> {
        if slot.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if !is_whole(slot) || slot[..2] != [LIVE, VERSION] || epoch(slot) != self.epoch {
            return Err(VaultError::Damaged(number));
        }
        let mut plaintext = Plaintext::new([0; PLAINTEXT_BYTES]);
        plaintext.copy_from_slice(&slot[SEALED][..PLAINTEXT_BYTES]);
        let tag = slot[SEALED][PLAINTEXT_BYTES..].try_into();
        let tag = tag.map_err(|_| VaultError::Damaged(number))?;
        self.cipher
            .decrypt_inout_detached(
                &nonce(slot),
                &associated(number, slot),
                plaintext.as_mut_slice().into(),
                &tag,
            )
            .map_err(|_| VaultError::Damaged(number))?;
        Content::from_bytes(&plaintext).map(Some).ok_or(VaultError::Damaged(number))
    }
}

fn is_whole(slot: &Slot) -> bool {
    crc32c::crc32c(&slot[..CHECKSUM_AT]).to_be_bytes() == slot[CHECKSUM_AT..]
}

fn nonce(slot: &Slot) -> XNonce {
    let mut nonce = XNonce::default();
    nonce.copy_from_slice(&slot[8..32]);
    nonce
}

fn epoch(slot: &Slot) -> u32 {
    u32::from_be_bytes([slot[2], slot[3], slot[4], slot[5]])
}

/// Slot number, epoch and state.
fn associated(number: KeySlot, slot: &Slot) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[..4].copy_from_slice(&number.0.to_be_bytes());
    bytes[4..8].copy_from_slice(&slot[2..6]);
    bytes[8] = slot[0];
    bytes
}

impl Content {
    fn to_bytes(&self) -> Plaintext {
        let mut bytes = Plaintext::new([0; PLAINTEXT_BYTES]);
        let (kind, year, owner, key, tag) = match self {
            Self::TagKey(key) => (0, 0, [0; 16], key, None),
            Self::Key(NewKey { name, tag }, key) => match name {
                KeyName::Identity(subject) => (1, 0, *subject.as_bytes(), key, *tag),
                KeyName::License(license) => (2, 0, *license.as_bytes(), key, *tag),
                KeyName::Activations(subject, year) => (3, *year, *subject.as_bytes(), key, *tag),
                KeyName::Access(subject, year) => (4, *year, *subject.as_bytes(), key, *tag),
            },
        };
        bytes[0] = kind;
        bytes[1..3].copy_from_slice(&u16::to_be_bytes(year));
        bytes[3..19].copy_from_slice(&owner);
        bytes[19..51].copy_from_slice(key.expose());
        bytes[51..67].copy_from_slice(&tag.unwrap_or_default());
        bytes
    }

    fn from_bytes(bytes: &Plaintext) -> Option<Self> {
        let year = u16::from_be_bytes([bytes[1], bytes[2]]);
        let owner: [u8; 16] = bytes[3..19].try_into().ok()?;
        let key = DataKey::from_bytes(bytes[19..51].try_into().ok()?);
        let tag: LookupTag = bytes[51..67].try_into().ok()?;
        let name = match bytes[0] {
            0 => return Some(Self::TagKey(key)),
            1 => KeyName::Identity(SubjectId::from_bytes(owner)),
            2 => KeyName::License(LicenseId::from_bytes(owner)),
            3 => KeyName::Activations(SubjectId::from_bytes(owner), year),
            4 => KeyName::Access(SubjectId::from_bytes(owner), year),
            _ => return None,
        };
        let tag = (tag != LookupTag::default()).then_some(tag);
        Some(Self::Key(NewKey { name, tag }, key))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn subject(byte: u8) -> SubjectId {
        SubjectId::from_bytes([byte; 16])
    }

    fn identity(byte: u8) -> NewKey {
        NewKey { name: KeyName::Identity(subject(byte)), tag: Some([byte; 16]) }
    }

    struct Place {
        _directory: tempfile::TempDir,
        path: std::path::PathBuf,
        master: MasterKey,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("vault");
            let master = MasterKey::generate(&mut rand::rng());
            FileVault::create_new(&path, &master, &mut rand::rng()).unwrap();
            Self { _directory: directory, path, master }
        }

        fn open(&self) -> Result<FileVault, VaultError> {
            FileVault::open(&self.path, &self.master)
        }
    }

    #[test]
    fn keys_names_and_tags_are_there_after_a_reopening() {
        let place = Place::new();
        let license = LicenseId::from_bytes([9; 16]);
        let activations = KeyName::Activations(subject(1), 2026);
        let (before, slots) = {
            let vault = place.open().unwrap();
            let keys = [
                identity(1),
                NewKey { name: KeyName::License(license), tag: Some([2; 16]) },
                NewKey { name: activations, tag: None },
            ];
            let slots = vault.create(&keys, &mut rand::rng()).unwrap();
            let keys: Vec<_> = slots.iter().map(|&slot| vault.key(slot).unwrap()).collect();
            (keys, slots)
        };
        let vault = place.open().unwrap();
        for (&slot, key) in slots.iter().zip(&before) {
            assert_eq!(vault.key(slot).unwrap().expose(), key.expose());
        }
        assert_ne!(before[0].expose(), before[1].expose());
        assert_eq!(vault.subject_by_email(&[1; 16]), Some(subject(1)));
        assert_eq!(vault.license_by_key(&[2; 16]), Some(license));
        assert_eq!(vault.license_by_key(&[1; 16]), None);
        assert_eq!(vault.find(&activations), Some(slots[2]));
        assert_eq!(vault.find(&KeyName::Activations(subject(1), 2027)), None);
    }

    #[test]
    fn it_grows_beyond_a_chunk() {
        let place = Place::new();
        let names = |n: u16| KeyName::Access(subject(3), n);
        {
            let vault = place.open().unwrap();
            for years in (0..3000).collect::<Vec<_>>().chunks(700) {
                let keys: Vec<_> =
                    years.iter().map(|&n| NewKey { name: names(n), tag: None }).collect();
                vault.create(&keys, &mut rand::rng()).unwrap();
            }
        }
        let vault = place.open().unwrap();
        for n in 0..3000 {
            vault.key(vault.find(&names(n)).unwrap()).unwrap();
        }
    }

    #[test]
    fn each_flipped_bit_is_found_and_its_slot_named() {
        let place = Place::new();
        place.open().unwrap().create(&[identity(1)], &mut rand::rng()).unwrap();
        let whole = fs::read(&place.path).unwrap();
        for bit in 0..2 * SLOT_BYTES * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            fs::write(&place.path, changed).unwrap();
            let error = place.open().err().unwrap();
            let named = match error {
                VaultError::Damaged(slot) => slot.0 as usize == bit / 8 / SLOT_BYTES,
                VaultError::Foreign => bit / 8 < 2,
                _ => false,
            };
            assert!(named, "bit {bit}: {error}");
        }
    }

    #[test]
    fn another_master_key_opens_nothing_and_says_so() {
        let place = Place::new();
        let other = MasterKey::generate(&mut rand::rng());
        assert!(matches!(FileVault::open(&place.path, &other), Err(VaultError::WrongMasterKey)));
        let later = MasterKey { epoch: 2, key: place.master.key.clone() };
        assert!(matches!(FileVault::open(&place.path, &later), Err(VaultError::WrongMasterKey)));
    }

    #[test]
    fn a_foreign_or_empty_file_is_no_vault() {
        let place = Place::new();
        for content in [Vec::new(), vec![0; 4096], b"not a vault at all".repeat(100)] {
            fs::write(&place.path, content).unwrap();
            assert!(matches!(place.open(), Err(VaultError::Foreign)));
        }
    }

    #[test]
    fn a_slot_copied_elsewhere_does_not_open() {
        let place = Place::new();
        place.open().unwrap().create(&[identity(1), identity(2)], &mut rand::rng()).unwrap();
        let mut bytes = fs::read(&place.path).unwrap();
        bytes.copy_within(SLOT_BYTES..2 * SLOT_BYTES, 3 * SLOT_BYTES);
        fs::write(&place.path, bytes).unwrap();
        assert!(matches!(place.open(), Err(VaultError::Damaged(KeySlot(3)))));
    }

    #[test]
    fn no_key_or_tag_lies_in_the_file_in_clear() {
        let place = Place::new();
        let vault = place.open().unwrap();
        let slot = vault.create(&[identity(0xA7)], &mut rand::rng()).unwrap()[0];
        let bytes = fs::read(&place.path).unwrap();
        for secret in [vault.key(slot).unwrap().expose().as_slice(), &[0xA7; 16]] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}
