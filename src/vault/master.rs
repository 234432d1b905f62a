//! The master key: what the vault's slots are wrapped under. It lies outside the data directory, so
//! that a copy of the directory alone opens nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use rand::CryptoRng;
use zeroize::Zeroizing;

/// What the text form begins with.
const PREFIX: &str = "countersign-master-key-v1";

/// A key and the epoch it belongs to. Keys of earlier epochs are destroyed, and open nothing.
pub struct MasterKey {
    pub(super) epoch: u32,
    pub(super) key: Zeroizing<[u8; 32]>,
}

/// Why a text is no master key. Holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no master key: expected one line, {PREFIX}:<epoch>:<43 characters of base64>")]
pub struct MasterKeyError;

impl MasterKey {
    /// A fresh key of the first epoch.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut());
        Self { epoch: 1, key }
    }

    /// Reads the form that [`MasterKey::expose`] writes.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let rest = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(':'));
        let (epoch, encoded) = rest.and_then(|rest| rest.split_once(':')).ok_or(MasterKeyError)?;
        let epoch = epoch.parse().map_err(|_| MasterKeyError)?;
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| MasterKeyError)?);
        let key = bytes.as_slice().try_into().map_err(|_| MasterKeyError)?;
        Ok(Self { epoch, key: Zeroizing::new(key) })
    }

    /// The key as one line of text.
    pub fn expose(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(BASE64.encode(self.key.as_ref()));
        Zeroizing::new(format!("{PREFIX}:{}:{}\n", self.epoch, *encoded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_reads_back() {
        let key = MasterKey::generate(&mut rand::rng());
        let text = key.expose();
        let read = MasterKey::parse(&text).unwrap();
        assert!((read.epoch, read.key) == (key.epoch, key.key));
        for wrong in ["", "x", &text[1..], &text[..text.len() - 3], &text.replace(":1:", ":-1:")] {
            assert!(MasterKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
