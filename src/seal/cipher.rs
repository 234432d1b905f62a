//! ChaCha20-Poly1305 (RFC 8439) for what has a key of its own, and AES-256-GCM for keys that are wrapped under one
//! that lasts, both by AWS-LC, which TLS uses too: an event takes it a sixth of the time that portable code
//! takes. AWS-LC overwrites its keys when they are dropped.

use aws_lc_rs::aead::{
    AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use zeroize::Zeroizing;

use super::TAG_BYTES;

/// What the cipher did not do: it was changed, or sealed otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// The length of a nonce, of both ciphers.
pub(crate) const NONCE_BYTES: usize = NONCE_LEN;

/// The nonce of a key that seals one thing.
pub(super) const ONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

/// Encrypts in place under a key of its own; the tag.
pub(super) fn seal(
    key: &[u8; 32],
    nonce: [u8; NONCE_BYTES],
    associated: &[u8],
    buffer: &mut [u8],
) -> Result<[u8; TAG_BYTES], Refused> {
    Cipher::new(&CHACHA20_POLY1305, key)?.seal(nonce, associated, buffer)
}

/// Decrypts.
pub(super) fn open(
    key: &[u8; 32],
    nonce: [u8; NONCE_BYTES],
    associated: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_BYTES],
) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let mut plaintext = Zeroizing::new(vec![0; sealed.len()]);
    Cipher::new(&CHACHA20_POLY1305, key)?.open(nonce, associated, sealed, tag, &mut plaintext)?;
    Ok(plaintext)
}

/// A cipher with its key, ready for use.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    /// AES-256-GCM (NIST SP 800-38D), for a key that seals many things under nonces that are random, of
    /// which it bears 2^32 (§8.3).
    pub(crate) fn wrapping(key: &[u8; 32]) -> Result<Self, Refused> {
        Self::new(&AES_256_GCM, key)
    }

    fn new(algorithm: &'static Algorithm, key: &[u8; 32]) -> Result<Self, Refused> {
        Ok(Self(LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| Refused)?)))
    }

    /// Encrypts in place; the tag.
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], Refused> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(associated), buffer);
        tag.map_err(|_| Refused)?.as_ref().try_into().map_err(|_| Refused)
    }

    /// Decrypts into a place of the same length.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_BYTES],
        plaintext: &mut [u8],
    ) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened =
            self.0.open_separate_gather(nonce, Aad::from(associated), sealed, tag, plaintext);
        opened.map_err(|_| Refused)
    }
}

#[cfg(test)]
mod tests {
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::ChaCha20Poly1305;
    use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};

    use super::*;

    #[test]
    fn both_are_what_others_make_of_them() {
        for length in [0, 1, 64, 67, 128, 1000] {
            let (key, associated): ([u8; 32], [u8; 20]) = (rand::random(), rand::random());
            let nonce: [u8; 12] = rand::random();
            let plaintext: Vec<u8> = (0..length).map(|_| rand::random()).collect();

            let (mut ours, mut theirs) = (plaintext.clone(), plaintext.clone());
            let tag = seal(&key, nonce, &associated, &mut ours).unwrap();
            let theirs_tag = ChaCha20Poly1305::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), &associated, theirs.as_mut_slice().into())
                .unwrap();
            assert_eq!((&ours, tag), (&theirs, theirs_tag.into()));
            assert_eq!(*open(&key, nonce, &associated, &theirs, &tag).unwrap(), plaintext);
            assert!(open(&key, nonce, &associated[1..], &theirs, &tag).is_err());

            let wrapping = Cipher::wrapping(&key).unwrap();
            let (mut ours, mut theirs) = (plaintext.clone(), plaintext.clone());
            let tag = wrapping.seal(nonce, &associated, &mut ours).unwrap();
            let theirs_tag = Aes256Gcm::new(&key.into())
                .encrypt_inout_detached(&nonce.into(), &associated, theirs.as_mut_slice().into())
                .unwrap();
            assert_eq!((&ours, tag), (&theirs, theirs_tag.into()));
            let mut opened = vec![0; length];
            wrapping.open(nonce, &associated, &theirs, &tag, &mut opened).unwrap();
            assert_eq!(opened, plaintext);
            assert!(wrapping.open(nonce, &associated[1..], &theirs, &tag, &mut opened).is_err());
            let mut other = tag;
            other[0] ^= 1;
            assert!(wrapping.open(nonce, &associated, &theirs, &other, &mut opened).is_err());
        }
    }
}
