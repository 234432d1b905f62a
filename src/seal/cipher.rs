//! ChaCha20-Poly1305 (RFC 8439) and XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), by AWS-LC, which TLS
//! uses too: an event takes it a sixth of the time that portable code takes. AWS-LC overwrites its keys when
//! they are dropped.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::R20;
use chacha20::hchacha;
use zeroize::{Zeroize as _, Zeroizing};

use super::TAG_BYTES;

/// What the cipher did not do: it was changed, or sealed otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// The nonce of a key that seals one thing.
pub(super) const ONCE: [u8; 12] = [0; 12];

/// Encrypts in place; the tag.
pub(super) fn seal(
    key: &[u8; 32],
    nonce: [u8; 12],
    associated: &[u8],
    buffer: &mut [u8],
) -> Result<[u8; TAG_BYTES], Refused> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher(key)?.seal_in_place_separate_tag(nonce, Aad::from(associated), buffer);
    tag.map_err(|_| Refused)?.as_ref().try_into().map_err(|_| Refused)
}

/// Decrypts.
pub(super) fn open(
    key: &[u8; 32],
    nonce: [u8; 12],
    associated: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_BYTES],
) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let mut plaintext = Zeroizing::new(vec![0; sealed.len()]);
    open_into(key, nonce, associated, sealed, tag, &mut plaintext)?;
    Ok(plaintext)
}

/// Decrypts into a place of the same length.
fn open_into(
    key: &[u8; 32],
    nonce: [u8; 12],
    associated: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_BYTES],
    plaintext: &mut [u8],
) -> Result<(), Refused> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher(key)?
        .open_separate_gather(nonce, Aad::from(associated), sealed, tag, plaintext)
        .map_err(|_| Refused)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Refused> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| Refused)?))
}

/// A key that seals many things, under nonces that are random.
pub(crate) struct ExtendedKey(Zeroizing<[u8; 32]>);

impl ExtendedKey {
    /// The key with these bytes.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// Encrypts in place; the tag.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; 24],
        associated: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], Refused> {
        let (key, nonce) = self.of(nonce);
        seal(&key, nonce, associated, buffer)
    }

    /// Decrypts into a place of the same length.
    pub(crate) fn open(
        &self,
        nonce: &[u8; 24],
        associated: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_BYTES],
        plaintext: &mut [u8],
    ) -> Result<(), Refused> {
        let (key, nonce) = self.of(nonce);
        open_into(&key, nonce, associated, sealed, tag, plaintext)
    }

    /// The key and the nonce of the shorter cipher (§2.3): `HChaCha20(key, nonce[..16])`, and four zeros
    /// before the rest.
    fn of(&self, nonce: &[u8; 24]) -> (Zeroizing<[u8; 32]>, [u8; 12]) {
        let (first, rest) = nonce.split_at(16);
        let mut input = [0; 16];
        input.copy_from_slice(first);
        let mut derived = hchacha::<R20>((&*self.0).into(), &input.into());
        let key = Zeroizing::new(derived.into());
        derived.as_mut_slice().zeroize();
        let mut short = [0; 12];
        short[4..].copy_from_slice(rest);
        (key, short)
    }
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
    use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};

    use super::*;

    #[test]
    fn both_are_what_others_make_of_them() {
        for length in [0, 1, 64, 67, 128, 1000] {
            let (key, associated): ([u8; 32], [u8; 20]) = (rand::random(), rand::random());
            let (short, long): ([u8; 12], [u8; 24]) = (rand::random(), rand::random());
            let plaintext: Vec<u8> = (0..length).map(|_| rand::random()).collect();
            let extended = ExtendedKey::new(&key);

            let (mut ours, mut theirs) = (plaintext.clone(), plaintext.clone());
            let tag = seal(&key, short, &associated, &mut ours).unwrap();
            let cipher = ChaCha20Poly1305::new(&key.into());
            let theirs_tag = cipher.encrypt_inout_detached(
                &short.into(),
                &associated,
                theirs.as_mut_slice().into(),
            );
            assert_eq!((&ours, tag), (&theirs, theirs_tag.unwrap().into()));
            assert_eq!(*open(&key, short, &associated, &theirs, &tag).unwrap(), plaintext);
            assert!(open(&key, short, &associated[1..], &theirs, &tag).is_err());

            let (mut ours, mut theirs) = (plaintext.clone(), plaintext.clone());
            let tag = extended.seal(&long, &associated, &mut ours).unwrap();
            let cipher = XChaCha20Poly1305::new(&key.into());
            let theirs_tag = cipher.encrypt_inout_detached(
                &long.into(),
                &associated,
                theirs.as_mut_slice().into(),
            );
            assert_eq!((&ours, tag), (&theirs, theirs_tag.unwrap().into()));
            let mut opened = vec![0; length];
            extended.open(&long, &associated, &theirs, &tag, &mut opened).unwrap();
            assert_eq!(opened, plaintext);
            let mut other = tag;
            other[0] ^= 1;
            assert!(extended.open(&long, &associated, &theirs, &other, &mut opened).is_err());
        }
    }
}
