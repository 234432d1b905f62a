//! Sealing: encryption of an event under its data key, so that destroying the key destroys what it
//! sealed, wherever copies lie.
//!
//! Each record has a key of its own: `record key || commitment = HKDF-Expand(data key,
//! "countersign/record/v1" || record id)` (RFC 5869 §2.3, SHA-256), with a random 16-byte record id.
//! The record key seals one plaintext with ChaCha20-Poly1305 (RFC 8439), so its nonce is zero. The
//! commitment is stored beside the ciphertext and checked first: ChaCha20-Poly1305 alone lets one
//! ciphertext open under two keys, and a hash over it would then bind nothing.

pub mod actor;
pub(crate) mod cipher;

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, Zeroizing};

use crate::domain::{Actor, ActorTag, Email, LicenseKey, NORMALISER_VERSION, RequestId};

const RECORD_INFO: &[u8] = b"countersign/record/v1";

/// The length of a tag, of both ciphers.
pub const TAG_BYTES: usize = 16;

/// The lengths that plaintexts are padded to, so that a record's length tells little of its
/// content. The last is the longest event, with a wide margin, and far below sled's blob threshold.
const PADDED_LENGTHS: [usize; 5] = [64, 128, 256, 512, 1024];

/// The longest plaintext that can be sealed.
pub const MAX_PLAINTEXT_BYTES: usize = PADDED_LENGTHS[PADDED_LENGTHS.len() - 1] - 1;

/// A key that seals the events of one (subject or license, data category, period). 256 random bits.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// A fresh key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut());
        Self(key)
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for wrapping.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey[redacted]")
    }
}

/// Names a record's key. Random.
pub type RecordId = [u8; 16];
/// Binds a record to one data key.
pub type Commitment = [u8; 32];

/// What does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Sealed under another key.
    #[error("sealed under another key")]
    WrongKey,
    /// Changed since it was sealed, or moved to another position.
    #[error("changed since it was sealed")]
    Changed,
}

/// The plaintext is longer than the longest padded length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of {0} bytes is longer than a record may be")]
pub struct TooLong(pub usize);

/// One record's key and commitment.
pub struct RecordKey {
    key: Zeroizing<[u8; 32]>,
    commitment: Commitment,
}

impl RecordKey {
    /// Derives the key of the record with this id.
    pub fn derive(key: &DataKey, id: &RecordId) -> Self {
        let mut output = Zeroizing::new([0; 64]);
        let expanded = Hkdf::<Sha256>::from_prk(key.expose())
            .ok()
            .and_then(|hkdf| hkdf.expand_multi_info(&[RECORD_INFO, id], output.as_mut()).ok());
        debug_assert!(expanded.is_some(), "32 bytes are a PRK, and 64 below HKDF's limit");
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&output[..32]);
        let mut commitment = [0; 32];
        commitment.copy_from_slice(&output[32..]);
        Self { key, commitment }
    }

    /// Binds what is sealed to the data key.
    pub fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// Pads and encrypts. `associated` is the clear header and the position.
    pub fn seal(&self, plaintext: &[u8], associated: &[u8]) -> Result<Vec<u8>, TooLong> {
        let mut buffer = pad(plaintext)?;
        let tag = cipher::seal(&self.key, cipher::ONCE, associated, &mut buffer)
            .map_err(|_| TooLong(plaintext.len()))?;
        buffer.extend_from_slice(&tag);
        Ok(buffer)
    }

    /// Decrypts and takes the padding off. `commitment` is the stored one.
    pub fn open(
        &self,
        sealed: &[u8],
        associated: &[u8],
        commitment: &Commitment,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if !bool::from(self.commitment.ct_eq(commitment)) {
            return Err(OpenError::WrongKey);
        }
        let (body, tag) = sealed.split_last_chunk().ok_or(OpenError::Changed)?;
        let mut plaintext = cipher::open(&self.key, cipher::ONCE, associated, body, tag)
            .map_err(|_| OpenError::Changed)?;
        let length = plaintext.iter().rposition(|&b| b == PAD_START).ok_or(OpenError::Changed)?;
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

/// Padding is this byte and zeros (ISO/IEC 7816-4).
const PAD_START: u8 = 0x80;

fn pad(plaintext: &[u8]) -> Result<Vec<u8>, TooLong> {
    let length = PADDED_LENGTHS.into_iter().find(|&length| plaintext.len() < length);
    let length = length.ok_or(TooLong(plaintext.len()))?;
    let mut padded = Vec::with_capacity(length + TAG_BYTES);
    padded.extend_from_slice(plaintext);
    padded.push(PAD_START);
    padded.resize(length, 0);
    Ok(padded)
}

/// What the vault finds a person or a license by, without knowing the address or the key:
/// HMAC-SHA-256 (RFC 2104) under the vault's tag key, truncated to 128 bits (§5).
pub type LookupTag = [u8; 16];

/// Makes lookup tags.
pub struct TagKey(Zeroizing<[u8; 32]>);

impl TagKey {
    /// The tag key with these bytes.
    pub fn from_key(key: &DataKey) -> Self {
        Self(Zeroizing::new(*key.expose()))
    }

    /// The tag of an address, in its normal form.
    pub fn email(&self, email: &Email) -> LookupTag {
        self.tag(&[b"email", &[NORMALISER_VERSION], email.expose_normal().as_bytes()])
    }

    /// The tag of a license key.
    pub fn license_key(&self, key: &LicenseKey) -> LookupTag {
        let mut symbols = key.symbols();
        let tag = self.tag(&[b"license key", &[0], &symbols]);
        symbols.zeroize();
        tag
    }

    /// The tag of a member of staff, which tells them from others with one request. It says nothing
    /// across requests. Whoever has the vault and the master key can try names on it, one request at a
    /// time: it cannot be sealed for two keys, because the server must compare it.
    pub fn actor(&self, actor: &Actor, request: RequestId) -> ActorTag {
        let name = actor.expose().as_bytes();
        ActorTag::from_bytes(self.tag(&[b"actor", &[1], request.as_bytes(), name]))
    }

    fn tag(&self, parts: &[&[u8]]) -> LookupTag {
        let mut tag = LookupTag::default();
        if let Ok(mut mac) = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.0.as_ref()) {
            for part in parts {
                mac.update(part);
            }
            tag.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        }
        tag
    }
}

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagKey[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey::from_bytes([byte; 32])
    }

    #[test]
    fn what_is_sealed_opens_and_lengths_are_few() {
        let record = RecordKey::derive(&key(1), &[2; 16]);
        for length in [0, 1, 63, 64, 127, 128, 200, 1023] {
            let plaintext = vec![0x80; length];
            let sealed = record.seal(&plaintext, b"header").unwrap();
            assert!(PADDED_LENGTHS.contains(&(sealed.len() - TAG_BYTES)));
            let opened = record.open(&sealed, b"header", record.commitment()).unwrap();
            assert_eq!(*opened, plaintext);
        }
        assert_eq!(record.seal(&[0; 1024], b""), Err(TooLong(1024)));
        assert!(record.seal(&[0; MAX_PLAINTEXT_BYTES], b"").is_ok());
    }

    #[test]
    fn another_key_header_or_byte_does_not_open() {
        let record = RecordKey::derive(&key(1), &[2; 16]);
        let sealed = record.seal(b"event", b"header").unwrap();
        let commitment = record.commitment();
        for other in [RecordKey::derive(&key(2), &[2; 16]), RecordKey::derive(&key(1), &[3; 16])] {
            assert_eq!(other.open(&sealed, b"header", commitment), Err(OpenError::WrongKey));
        }
        assert_eq!(record.open(&sealed, b"other", commitment), Err(OpenError::Changed));
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(record.open(&changed, b"header", commitment), Err(OpenError::Changed));
        }
        assert_eq!(record.open(&[], b"header", commitment), Err(OpenError::Changed));
    }

    /// Compiles only where it holds, which takes the `zeroize` features of these crates.
    #[test]
    fn ciphers_and_keys_are_overwritten_when_dropped() {
        fn overwritten<T: zeroize::ZeroizeOnDrop>() {}
        fn holds<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        overwritten::<Zeroizing<[u8; 32]>>();
        // What `rand::rng()` is made of.
        overwritten::<chacha20::ChaChaCore<chacha20::R12, chacha20::variants::Legacy>>();
        overwritten::<ed25519_dalek::SigningKey>();
        overwritten::<x25519_dalek::StaticSecret>();
        let data = key(1);
        holds(&data.0);
        holds(&TagKey::from_key(&data).0);
        holds(&RecordKey::derive(&data, &[2; 16]).key);
    }

    #[test]
    fn a_tag_is_the_documented_hmac() {
        let tag = TagKey::from_key(&key(7)).email(&Email::parse("Ada@Example.com").unwrap());
        // python3 -c "import hmac; print(hmac.digest(b'\x07'*32, b'email\x01ada@example.com',
        //   'sha256').hex()[:32])"
        assert_eq!(u128::from_be_bytes(tag), KNOWN_TAG);
    }

    const KNOWN_TAG: u128 = 0x3B6C_3E77_589B_561E_1DB0_DDC9_9BC1_0616;
}
