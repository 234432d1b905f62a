//! The names of staff, sealed apart from what they did: the server can write them and not read them.
//! To read one takes two private keys, each of which another person keeps.
//!
//! A sealed name is `ephemeral public key || ChaCha20-Poly1305(name, padded)`. Its key is HKDF-SHA-256
//! (RFC 5869) of the two X25519 shared secrets (RFC 7748 §6.1), one after the other, with all three
//! public keys in the info. A key seals one name, so the nonce is zero.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use hkdf::Hkdf;
use rand::CryptoRng;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{PAD_START, TAG_BYTES, cipher};
use crate::domain::{Actor, SealedActor};

const INFO: &[u8] = b"countersign/actor/v1";
const KEY_BYTES: usize = 32;
/// One more than the longest name.
const PADDED_BYTES: usize = 65;

const PUBLIC_PREFIX: &str = "countersign-actor-public-v1";
const PRIVATE_PREFIX: &str = "countersign-actor-private-v1";

/// What names are sealed with.
#[derive(Clone)]
pub struct ActorSeal([PublicKey; 2]);

/// One of the two keys that open names. Prints `[redacted]`.
pub struct ActorKey(StaticSecret);

/// Why a text is no such key, or a sealed name does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ActorKeyError {
    /// Not the two public keys.
    #[error(
        "is not two lines {PUBLIC_PREFIX}:<43 characters of base64>; put it back from its copy"
    )]
    Public,
    /// Not a private key.
    #[error("is not one line {PRIVATE_PREFIX}:<43 characters of base64>; ask for the whole line")]
    Private,
    /// Sealed for other keys, or changed since.
    #[error("does not open with these two keys")]
    Closed,
}

impl ActorSeal {
    /// The seal that these two keys open.
    pub fn for_keys(keys: [&ActorKey; 2]) -> Self {
        Self(keys.map(|key| PublicKey::from(&key.0)))
    }

    /// Reads the form that [`ActorSeal::to_text`] writes.
    pub fn parse(text: &str) -> Result<Self, ActorKeyError> {
        let mut lines = text.lines().map(|line| read_key(line, PUBLIC_PREFIX));
        match (lines.next().flatten(), lines.next().flatten(), lines.next()) {
            (Some(first), Some(second), None) if first != second => {
                Ok(Self([first, second].map(|key| PublicKey::from(*key))))
            }
            _ => Err(ActorKeyError::Public),
        }
    }

    /// The public keys, a line each.
    pub fn to_text(&self) -> String {
        let line = |key: &PublicKey| format!("{PUBLIC_PREFIX}:{}\n", BASE64.encode(key.as_bytes()));
        self.0.iter().map(line).collect()
    }

    /// Seals a name.
    pub fn seal(&self, actor: &Actor, rng: &mut dyn CryptoRng) -> SealedActor {
        let ephemeral = ActorKey::generate(rng);
        let ephemeral_public = PublicKey::from(&ephemeral.0);
        let secrets = self.0.each_ref().map(|key| ephemeral.0.diffie_hellman(key).to_bytes());
        let key = name_key(&ephemeral_public, &self.0, &Zeroizing::new(secrets));
        let mut sealed = ephemeral_public.as_bytes().to_vec();
        sealed.extend_from_slice(actor.expose().as_bytes());
        sealed.push(PAD_START);
        sealed.resize(KEY_BYTES + PADDED_BYTES, 0);
        let tag = cipher::seal(&key, cipher::ONCE, &[], &mut sealed[KEY_BYTES..]);
        debug_assert!(tag.is_ok(), "65 bytes are below the cipher's limit");
        // A name that nobody can read is better than one that everybody can.
        let tag = tag.unwrap_or_else(|_| {
            sealed[KEY_BYTES..].fill(0);
            [0; TAG_BYTES]
        });
        sealed.extend_from_slice(&tag);
        SealedActor::from_bytes(sealed)
    }
}

impl ActorKey {
    /// A fresh key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(bytes.as_mut());
        Self(StaticSecret::from(*bytes))
    }

    /// Reads the form that [`ActorKey::expose`] writes.
    pub fn parse(text: &str) -> Result<Self, ActorKeyError> {
        let key = read_key(text.trim(), PRIVATE_PREFIX).ok_or(ActorKeyError::Private)?;
        Ok(Self(StaticSecret::from(*key)))
    }

    /// The key as one line of text, for the person who keeps it.
    pub fn expose(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(BASE64.encode(self.0.as_bytes()));
        Zeroizing::new(format!("{PRIVATE_PREFIX}:{}\n", *encoded))
    }
}

/// Opens a name, which takes both keys, in whichever order.
pub fn open(sealed: &SealedActor, keys: [&ActorKey; 2]) -> Result<Actor, ActorKeyError> {
    let [first, second] = keys;
    open_in_order(sealed, [first, second]).or_else(|_| open_in_order(sealed, [second, first]))
}

fn open_in_order(sealed: &SealedActor, keys: [&ActorKey; 2]) -> Result<Actor, ActorKeyError> {
    let (ephemeral, body) =
        sealed.as_bytes().split_first_chunk::<KEY_BYTES>().ok_or(ActorKeyError::Closed)?;
    let (body, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(ActorKeyError::Closed)?;
    let ephemeral = PublicKey::from(*ephemeral);
    let secrets = keys.map(|key| key.0.diffie_hellman(&ephemeral).to_bytes());
    let (secrets, publics) = (Zeroizing::new(secrets), keys.map(|key| PublicKey::from(&key.0)));
    let key = name_key(&ephemeral, &publics, &secrets);
    let name = cipher::open(&key, cipher::ONCE, &[], body, tag);
    let name = name.map_err(|_| ActorKeyError::Closed)?;
    let end = name.iter().rposition(|&byte| byte == PAD_START).ok_or(ActorKeyError::Closed)?;
    let name = std::str::from_utf8(&name[..end]).ok().and_then(Actor::parse);
    name.ok_or(ActorKeyError::Closed)
}

fn name_key(
    ephemeral: &PublicKey,
    keys: &[PublicKey; 2],
    secrets: &[[u8; KEY_BYTES]; 2],
) -> Zeroizing<[u8; KEY_BYTES]> {
    let secrets = Zeroizing::new(secrets.concat());
    let info = [INFO, ephemeral.as_bytes(), keys[0].as_bytes(), keys[1].as_bytes()];
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let expanded = Hkdf::<Sha256>::new(None, &secrets).expand_multi_info(&info, key.as_mut());
    debug_assert!(expanded.is_ok(), "32 bytes are below HKDF's limit");
    key
}

fn read_key(line: &str, prefix: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let encoded = line.strip_prefix(prefix)?.strip_prefix(':')?;
    let bytes = Zeroizing::new(BASE64.decode(encoded).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

impl fmt::Debug for ActorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActorKey[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_both_keys() {
        let mut rng = rand::rng();
        let keys: [ActorKey; 3] = std::array::from_fn(|_| ActorKey::generate(&mut rng));
        let seal = ActorSeal::for_keys([&keys[0], &keys[1]]);
        let seal = ActorSeal::parse(&seal.to_text()).unwrap();
        for name in ["a", &"b".repeat(64)] {
            let actor = Actor::parse(name).unwrap();
            let sealed = seal.seal(&actor, &mut rng);
            assert_eq!(sealed.as_bytes().len(), SealedActor::BYTES);
            assert_ne!(sealed, seal.seal(&actor, &mut rng));
            for pair in [[0, 1], [1, 0]] {
                let pair = pair.map(|number| &keys[number]);
                assert_eq!(open(&sealed, pair).unwrap(), actor);
            }
            for pair in [[0, 0], [1, 1], [0, 2], [2, 1]] {
                let pair = pair.map(|number| &keys[number]);
                assert_eq!(open(&sealed, pair), Err(ActorKeyError::Closed));
            }
            let mut changed = sealed.as_bytes().to_vec();
            changed[40] ^= 1;
            let changed = SealedActor::from_bytes(changed);
            assert_eq!(open(&changed, [&keys[0], &keys[1]]), Err(ActorKeyError::Closed));
        }
    }

    #[test]
    fn keys_read_back() {
        let key = ActorKey::generate(&mut rand::rng());
        let read = ActorKey::parse(&key.expose()).unwrap();
        assert_eq!(read.0.as_bytes(), key.0.as_bytes());
        let line = ActorSeal::for_keys([&key, &key]).to_text();
        for wrong in ["", "x", &line, &line.replace('\n', ""), &key.expose()] {
            assert!(ActorSeal::parse(wrong).is_err(), "{wrong}");
        }
        assert!(ActorKey::parse(&line).is_err());
    }
}
