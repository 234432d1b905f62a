//! The keys that sign receipts, and the public keys that verify them, as JWK sets (RFC 7517) of
//! octet key pairs (RFC 8037 §2).
//!
//! A key's id is its thumbprint (RFC 7638, RFC 8037 §2), so it cannot be given to another key.

use std::alloc::{Layout, handle_alloc_error};
use std::fmt;

use aws_lc_rs::signature::Ed25519KeyPair;
use ed25519_dalek::{SigningKey, VerifyingKey};
use rand::CryptoRng;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{decode, decode_into, encode};
use crate::domain::SigningKeyId;

/// Why a JWK set cannot be used. Keys are counted from 1; none of their bytes is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the JSON of a JWK set.
    #[error("is not a JWK set: look at line {line}, and check that the file is whole")]
    Json {
        /// Where reading stopped.
        line: usize,
    },
    /// No key that signs receipts.
    #[error("holds no Ed25519 signing key; make one, or restore the file from its backup")]
    Empty,
    /// A key ring holds a key that is not for Ed25519 signatures.
    #[error("key {0} is not for Ed25519 signatures; keep other keys in a file of their own")]
    Other(usize),
    /// `x` or `d` is missing, or not 32 bytes in strict base64url.
    #[error(
        "key {0} has not the 32 bytes each of x and d in base64url; restore it from its backup"
    )]
    Length(usize),
    /// `x` is no point of the curve that can be a public key.
    #[error("key {0} has an x that is no Ed25519 public key; restore it from where it came")]
    Point(usize),
    /// `x` and `d` are of different keys.
    #[error("key {0} has an x that does not belong to its d; restore it from its backup")]
    Mismatch(usize),
    /// `kid` is not the key's thumbprint.
    #[error("key {0} has a kid that is not its RFC 7638 thumbprint; correct the kid or remove it")]
    KeyId(usize),
    /// An earlier key is the same.
    #[error("key {0} is in the set already; remove one of the two")]
    Duplicate(usize),
    /// A set of public keys holds a private one.
    #[error(
        "key {0} is a private key; publish the public set, and replace this key if others saw it"
    )]
    Private(usize),
}

/// The private keys: the first signs new receipts, the others sign retries of those they signed.
/// Never empty. Prints `[redacted]`, and is overwritten when dropped.
pub struct KeyRing {
    current: RingKey,
    older: Vec<RingKey>,
}

struct RingKey {
    id: SigningKeyId,
    /// In a box, so that a growing `Vec` leaves no copy behind.
    key: Box<SigningKey>,
    /// The same key, where a signature takes half the time; its memory is overwritten when it is given
    /// back, as all of AWS-LC's.
    signer: Ed25519KeyPair,
}

/// The public keys of a ring: what verifies a receipt. Never empty.
#[derive(Clone)]
pub struct PublicKeys(Vec<(SigningKeyId, VerifyingKey)>);

impl RingKey {
    fn new(seed: &[u8; 32]) -> Self {
        let key = Box::new(SigningKey::from_bytes(seed));
        // Any 32 bytes are a seed, so that there was no memory for it.
        let signer = Ed25519KeyPair::from_seed_unchecked(seed)
            .unwrap_or_else(|_| handle_alloc_error(Layout::new::<Ed25519KeyPair>()));
        Self { id: thumbprint(&key.verifying_key()), key, signer }
    }

    fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::new(&seed)
    }
}

impl KeyRing {
    /// A ring of one fresh key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self { current: RingKey::generate(rng), older: Vec::new() }
    }

    /// Puts a fresh key in front. The old ones stay: receipts are good for ever, and so are retries.
    pub fn rotate(&mut self, rng: &mut dyn CryptoRng) {
        let old = std::mem::replace(&mut self.current, RingKey::generate(rng));
        self.older.insert(0, old);
    }

    /// Reads a private JWK set as [`KeyRing::to_jwks`] writes it; the first key is the current one.
    /// All of it must be understood: a ring that silently lost a key could not answer a retry.
    pub fn from_jwks(json: &str) -> Result<Self, KeyError> {
        let set: JwkSet<Jwk<'_>> = read(json)?;
        let mut ring: Vec<RingKey> = Vec::with_capacity(set.keys.len());
        for (jwk, number) in set.keys.iter().zip(1..) {
            if !jwk.signs_with_ed25519() {
                return Err(KeyError::Other(number));
            }
            let mut seed = Zeroizing::new([0; 32]);
            if !jwk.d.is_some_and(|d| decode_into(d, seed.as_mut())) {
                return Err(KeyError::Length(number));
            }
            let x: [u8; 32] = jwk.x.and_then(decode).ok_or(KeyError::Length(number))?;
            let key = RingKey::new(&seed);
            if key.key.verifying_key().as_bytes() != &x {
                return Err(KeyError::Mismatch(number));
            }
            jwk.check_id(&key.id, number)?;
            if ring.iter().any(|other| other.id == key.id) {
                return Err(KeyError::Duplicate(number));
            }
            ring.push(key);
        }
        let mut ring = ring.into_iter();
        let current = ring.next().ok_or(KeyError::Empty)?;
        Ok(Self { current, older: ring.collect() })
    }

    /// The private JWK set, to be kept where nobody else reads it.
    pub fn to_jwks(&self) -> Zeroizing<String> {
        let count = 1 + self.older.len();
        let mut jwks =
            Zeroizing::new(String::with_capacity(count * JWK_BYTES + "{\"keys\":[]}".len()));
        let keys = self.keys().map(|RingKey { id, key, .. }| {
            (id, key.verifying_key(), Some(Zeroizing::new(encode(key.as_bytes()))))
        });
        write(&mut jwks, keys);
        jwks
    }

    /// The key that signs new receipts.
    pub fn current(&self) -> SigningKeyId {
        self.current.id
    }

    /// What verifies the receipts of all keys in the ring.
    pub fn public(&self) -> PublicKeys {
        PublicKeys(self.keys().map(|key| (key.id, key.key.verifying_key())).collect())
    }

    pub(super) fn find(&self, id: &SigningKeyId) -> Option<&Ed25519KeyPair> {
        self.keys().find(|key| key.id == *id).map(|key| &key.signer)
    }

    fn keys(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.current).chain(&self.older)
    }
}

impl PublicKeys {
    /// Reads a JWK set. Members that are not known are ignored, and so are keys that cannot have
    /// signed a receipt: of other types or uses, or with another `kid` than their thumbprint
    /// (RFC 7517 §5). A private key is refused (RFC 8037 §2).
    pub fn from_jwks(json: &str) -> Result<Self, KeyError> {
        let set: JwkSet<Value> = read(json)?;
        let mut keys: Vec<(SigningKeyId, VerifyingKey)> = Vec::new();
        for (value, number) in set.keys.iter().zip(1..) {
            let Ok(jwk) = Jwk::deserialize(value) else { continue };
            if !jwk.signs_with_ed25519() {
                continue;
            }
            if jwk.d.is_some() {
                return Err(KeyError::Private(number));
            }
            let x = jwk.x.and_then(decode).ok_or(KeyError::Length(number))?;
            let key = VerifyingKey::from_bytes(&x).map_err(|_| KeyError::Point(number))?;
            if key.is_weak() {
                return Err(KeyError::Point(number));
            }
            let id = thumbprint(&key);
            if jwk.check_id(&id, number).is_err() {
                continue;
            }
            if keys.iter().any(|(other, _)| *other == id) {
                return Err(KeyError::Duplicate(number));
            }
            keys.push((id, key));
        }
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(Self(keys)) }
    }

    /// The JWK set, for all to read. The same keys give the same bytes.
    pub fn to_jwks(&self) -> String {
        let mut jwks = String::new();
        write(&mut jwks, self.0.iter().map(|(id, key)| (id, *key, None)));
        jwks
    }

    pub(super) fn find(&self, id: &SigningKeyId) -> Option<&VerifyingKey> {
        self.0.iter().find(|(other, _)| other == id).map(|(_, key)| key)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing[redacted]")
    }
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKeys[{}]", self.0.len())
    }
}

/// RFC 7638 §3, with the members that RFC 8037 §2 names.
fn thumbprint(key: &VerifyingKey) -> SigningKeyId {
    let x = encode(key.as_bytes());
    let json = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    SigningKeyId::from_bytes(Sha256::digest(json).into())
}

#[derive(Deserialize)]
struct JwkSet<T> {
    keys: Vec<T>,
}

/// The members that matter. None of their values needs an escape in JSON, so all are borrowed and
/// reading copies no private key.
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    crv: Option<&'a str>,
    alg: Option<&'a str>,
    #[serde(rename = "use")]
    usage: Option<&'a str>,
    kid: Option<&'a str>,
    x: Option<&'a str>,
    d: Option<&'a str>,
}

impl Jwk<'_> {
    fn signs_with_ed25519(&self) -> bool {
        self.kty == "OKP"
            && self.crv == Some("Ed25519")
            && matches!(self.alg, None | Some("EdDSA" | "Ed25519"))
            && matches!(self.usage, None | Some("sig"))
    }

    /// A `kid` is optional (RFC 7517 §4.5).
    fn check_id(&self, id: &SigningKeyId, number: usize) -> Result<(), KeyError> {
        let matches = self.kid.is_none_or(|kid| kid == encode(id.as_bytes()));
        if matches { Ok(()) } else { Err(KeyError::KeyId(number)) }
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<JwkSet<T>, KeyError> {
    serde_json::from_str(json).map_err(|error| KeyError::Json { line: error.line() })
}

/// More than one JWK takes, so that a set of private keys is never moved while it is written.
const JWK_BYTES: usize = 256;

/// Writes a JWK set. Its values are base64url, which needs no escaping.
fn write<'a>(
    jwks: &mut String,
    keys: impl Iterator<Item = (&'a SigningKeyId, VerifyingKey, Option<Zeroizing<String>>)>,
) {
    jwks.push_str(r#"{"keys":["#);
    for (i, (id, public, private)) in keys.enumerate() {
        jwks.push_str(if i == 0 { "" } else { "," });
        jwks.push_str(r#"{"kty":"OKP","crv":"Ed25519","x":""#);
        jwks.push_str(&encode(public.as_bytes()));
        if let Some(d) = private {
            jwks.push_str(r#"","d":""#);
            jwks.push_str(&d);
        }
        jwks.push_str(r#"","kid":""#);
        jwks.push_str(&encode(id.as_bytes()));
        jwks.push_str(r#"","alg":"EdDSA","use":"sig"}"#);
    }
    jwks.push_str("]}");
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// RFC 8037 Appendices A.1 to A.3.
    const D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const KID: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

    fn private(more: &str) -> String {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","d":"{D}","x":"{X}"{more}}}"#)
    }

    fn public(x: &str, more: &str) -> String {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{more}}}"#)
    }

    fn set(keys: &[String]) -> String {
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    fn ring_error(keys: &[String]) -> KeyError {
        KeyRing::from_jwks(&set(keys)).unwrap_err()
    }

    #[test]
    fn a_key_id_is_the_thumbprint_of_rfc_8037_a3() {
        let ring = KeyRing::from_jwks(&set(&[private("")])).unwrap();
        assert_eq!(encode(ring.current().as_bytes()), KID);
        let rest = format!(r#","kid":"{KID}","alg":"EdDSA","use":"sig""#);
        assert_eq!(*ring.to_jwks(), set(&[public(X, &format!(r#","d":"{D}"{rest}"#))]));
        assert_eq!(ring.public().to_jwks(), set(&[public(X, &rest)]));
    }

    #[test]
    fn sets_read_back_in_their_order_and_are_published_without_secrets() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut ring = KeyRing::generate(&mut rng);
        let first = ring.current();
        for _ in 0..3 {
            ring.rotate(&mut rng);
            assert!(ring.current() != first && ring.find(&first).is_some());
        }
        let json = ring.to_jwks();
        assert!(json.len() <= 4 * JWK_BYTES);
        let again = KeyRing::from_jwks(&json).unwrap();
        assert_eq!((again.current(), &*again.to_jwks()), (ring.current(), &*json));

        let published = ring.public().to_jwks();
        assert!(!published.contains(r#""d""#));
        assert_eq!(PublicKeys::from_jwks(&published).unwrap().to_jwks(), published);
        assert_eq!(format!("{ring:?} {:?}", ring.public()), "KeyRing[redacted] PublicKeys[4]");
    }

    #[test]
    fn a_ring_that_cannot_be_used_is_told_why() {
        let good = private("");
        assert_eq!(KeyRing::from_jwks("{\n}").unwrap_err(), KeyError::Json { line: 2 });
        assert_eq!(KeyRing::from_jwks("").unwrap_err(), KeyError::Json { line: 1 });
        assert_eq!(ring_error(&[]), KeyError::Empty);
        assert_eq!(ring_error(&[good.clone(), good.clone()]), KeyError::Duplicate(2));
        assert_eq!(ring_error(&[public(X, "")]), KeyError::Length(1));
        for (part, other, error) in [
            (D, D.trim_end_matches('A'), KeyError::Length(2)),
            (D, &*format!("{D}="), KeyError::Length(2)),
            (D, &*format!("{D}AA"), KeyError::Length(2)),
            (X, "", KeyError::Length(2)),
            (X, &*X.replace('o', "p"), KeyError::Length(2)),
            (X, &*X.replace("11q", "11r"), KeyError::Mismatch(2)),
            (D, &*D.replace("nWG", "nWH"), KeyError::Mismatch(2)),
            ("OKP", "RSA", KeyError::Other(2)),
            ("Ed25519", "X25519", KeyError::Other(2)),
        ] {
            let mut rng = StdRng::seed_from_u64(1);
            let sound = KeyRing::generate(&mut rng).to_jwks();
            let sound = sound.trim_start_matches(r#"{"keys":["#).trim_end_matches("]}").to_owned();
            assert_eq!(ring_error(&[sound, good.replace(part, other)]), error, "{other}");
        }
        assert_eq!(ring_error(&[private(r#","use":"enc""#)]), KeyError::Other(1));
        assert_eq!(ring_error(&[private(r#","kid":"2026""#)]), KeyError::KeyId(1));
    }

    #[test]
    fn a_public_set_may_hold_keys_of_others() {
        let json = set(&[
            r#"{"kty":"RSA","n":"AQ","e":"AQAB"}"#.to_owned(),
            r#"{"kty":"new","x":{"y":[1]},"kid":7}"#.to_owned(),
            "7".to_owned(),
            public(X, r#","kid":"2026""#),
            public(X, r#","use":"enc""#),
            public(X, r#","x5c":[],"key_ops":["verify"]"#),
        ]);
        let keys = PublicKeys::from_jwks(&json).unwrap();
        assert_eq!(keys.0.len(), 1);
        assert_eq!(encode(keys.0[0].0.as_bytes()), KID);
    }

    #[test]
    fn a_public_set_that_cannot_be_used_is_told_why() {
        let error = |keys: &[String]| PublicKeys::from_jwks(&set(keys)).map(drop).unwrap_err();
        assert_eq!(error(&[]), KeyError::Empty);
        assert_eq!(error(&[r#"{"kty":"RSA"}"#.to_owned()]), KeyError::Empty);
        assert_eq!(error(&[private("")]), KeyError::Private(1));
        assert_eq!(error(&[public("AAAA", "")]), KeyError::Length(1));
        // y = 2 is on no point of the curve; y = 1 is its neutral element, of order 1.
        for y in [2, 1] {
            let mut bytes = [0; 32];
            bytes[0] = y;
            assert_eq!(error(&[public(&encode(&bytes), "")]), KeyError::Point(1));
        }
        assert_eq!(error(&[public(X, ""), public(X, "")]), KeyError::Duplicate(2));
        assert_eq!(PublicKeys::from_jwks("[[").map(drop).unwrap_err(), KeyError::Json { line: 1 });
    }
}
