//! C2SP signed notes: the keys that verify them, and the signatures of log and witness.
//!
//! Formats: <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-cosignature>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::domain::Timestamp;

const PRIVATE_KEY_PREFIX: &str = "PRIVATE+KEY";
const KEY_ID_BYTES: usize = 4;
const TIME_BYTES: usize = 8;
/// How long a note may be. One with 16 signatures, as many as must be read, has a tenth of it.
const LONGEST: usize = 32 * 1024;

/// What a key's signature states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// That of a log: Ed25519 over the text.
    Ed25519,
    /// That of a witness: `cosignature/v1`, Ed25519 over the text and a time.
    Cosignature,
}

impl Algorithm {
    /// The signature type (signed-note, "Signature types").
    const fn number(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::Cosignature => 4,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        [Self::Ed25519, Self::Cosignature].into_iter().find(|known| known.number() == number)
    }
}

/// A key that verifies notes, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    algorithm: Algorithm,
    key: VerifyingKey,
}

/// A key that signs notes, and its name.
pub struct SignerKey {
    public: VerifierKey,
    key: SigningKey,
}

/// Why a text is no key. Holds nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a private key.
    #[error(
        "is not a log key: expected PRIVATE+KEY+<name>+<hash>+<key> on one line; put it back from its copy"
    )]
    Private,
    /// Not a public key.
    #[error(
        "is not a verifier key: expected <name>+<hash>+<key> on one line, as `countersign log key` \
         and `countersign witness key` print it"
    )]
    Public,
    /// Not a name.
    #[error("a key's name must have 1 to 255 bytes, and no space, `+` or control character")]
    Name,
}

/// A signed note, apart. Nothing of it is to be believed before [`Note::verify`].
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// With its last newline.
    text: &'a str,
    signatures: &'a str,
}

/// What a note's signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The key signed it.
    Signed,
    /// The witness's key signed it, and says that this was at that time, in seconds since 1970.
    Cosigned(u64),
}

fn is_name(name: &str) -> bool {
    let is_allowed = |c: char| c != '+' && !c.is_whitespace() && !c.is_control();
    (1..=255).contains(&name.len()) && name.chars().all(is_allowed)
}

impl VerifierKey {
    /// Reads `<name>+<hash>+<base64 of the type and the key>`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::Public);
        };
        let bytes = BASE64.decode(encoded).map_err(|_| KeyError::Public)?;
        let key = bytes.split_first().and_then(|(&number, key)| {
            let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
            Some(Self { name: name.to_owned(), algorithm: Algorithm::of_number(number)?, key })
        });
        key.filter(|key| is_name(name) && key.hex_id() == id).ok_or(KeyError::Public)
    }

    /// The key's name; a log's is the log's too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its signatures state.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The first bytes of the hash of name, type and key (signed-note, "Signatures").
    fn id(&self) -> [u8; KEY_ID_BYTES] {
        let digest = Sha256::new_with_prefix(&self.name)
            .chain_update([b'\n', self.algorithm.number()])
            .chain_update(self.key)
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    fn hex_id(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id()))
    }
}

/// The form that [`VerifierKey::parse`] reads.
impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = [self.algorithm.number(); 33];
        bytes[1..].copy_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, self.hex_id(), BASE64.encode(bytes))
    }
}

impl SignerKey {
    /// A fresh key of that name.
    pub fn generate(
        name: &str,
        algorithm: Algorithm,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Ok(Self::new(name, algorithm, &seed))
    }

    fn new(name: &str, algorithm: Algorithm, seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = VerifierKey { name: name.to_owned(), algorithm, key: key.verifying_key() };
        Self { public, key }
    }

    /// Reads the form that [`SignerKey::expose`] writes.
    pub fn parse(text: &str, algorithm: Algorithm) -> Result<Self, KeyError> {
        let parts: Vec<&str> = text.trim().splitn(5, '+').collect();
        let [private, key, name, _id, encoded] = parts[..] else { return Err(KeyError::Private) };
        if [private, key].join("+") != PRIVATE_KEY_PREFIX || !is_name(name) {
            return Err(KeyError::Private);
        }
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| KeyError::Private)?);
        let seed = match bytes.split_first() {
            Some((&number, seed)) if number == algorithm.number() => {
                seed.try_into().map_err(|_| KeyError::Private)?
            }
            _ => return Err(KeyError::Private),
        };
        let key = Self::new(name, algorithm, seed);
        if *key.expose() == text.trim() { Ok(key) } else { Err(KeyError::Private) }
    }

    /// The key as text, in the form of Go's `note` package:
    /// `PRIVATE+KEY+<name>+<hash>+<base64 of the type and the seed>`.
    pub fn expose(&self) -> Zeroizing<String> {
        let VerifierKey { name, algorithm, .. } = &self.public;
        let mut bytes = Zeroizing::new([algorithm.number(); 33]);
        bytes[1..].copy_from_slice(self.key.as_bytes());
        let encoded = Zeroizing::new(BASE64.encode(bytes.as_ref()));
        let id = self.public.hex_id();
        Zeroizing::new(format!("{PRIVATE_KEY_PREFIX}+{name}+{id}+{}", *encoded))
    }

    /// What verifies its signatures.
    pub fn public(&self) -> &VerifierKey {
        &self.public
    }

    /// The line with the signature of a text. `now` is of interest to a witness's signature alone.
    pub fn sign(&self, text: &str, now: Timestamp) -> String {
        let mut bytes = self.public.id().to_vec();
        match self.public.algorithm {
            Algorithm::Ed25519 => {
                bytes.extend_from_slice(&self.key.sign(text.as_bytes()).to_bytes());
            }
            Algorithm::Cosignature => {
                let time = now.as_seconds().unsigned_abs();
                bytes.extend_from_slice(&time.to_be_bytes());
                let signature = self.key.sign(cosigned(text, time).as_bytes());
                bytes.extend_from_slice(&signature.to_bytes());
            }
        }
        format!("\u{2014} {} {}\n", self.public.name, BASE64.encode(bytes))
    }
}

/// What a witness signs (tlog-cosignature, "Ed25519 signed message").
fn cosigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

impl<'a> Note<'a> {
    /// Takes a note apart. `None`: it is none.
    pub fn parse(note: &'a str) -> Option<Self> {
        let is_allowed = |c: char| c == '\n' || c >= ' ';
        if note.len() > LONGEST || !note.chars().all(is_allowed) || !note.ends_with('\n') {
            return None;
        }
        // The text may have empty lines, the signatures have none.
        let end = note.rfind("\n\n")?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        let is_signature = |line: &str| line.starts_with("\u{2014} ");
        let are_signatures = !signatures.is_empty() && signatures.lines().all(is_signature);
        are_signatures.then_some(Self { text, signatures })
    }

    /// What is signed.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Whether the key signed it. `None`: it did not, or one of its signatures is wrong.
    pub fn verify(&self, key: &VerifierKey) -> Option<Verified> {
        self.verified_line(key).map(|(_, verified)| verified)
    }

    /// The note with no signature but the key's, so that it is no longer than it must be. `None`: the
    /// key did not sign it.
    pub fn signed_by(&self, key: &VerifierKey) -> Option<String> {
        self.verified_line(key).map(|(line, _)| format!("{}\n{line}\n", self.text))
    }

    /// The line of the key's signature, and what it is worth.
    fn verified_line(&self, key: &VerifierKey) -> Option<(&'a str, Verified)> {
        let prefix = format!("\u{2014} {} ", key.name);
        let mut verified = None;
        for line in self.signatures.lines() {
            let Some(Ok(bytes)) = line.strip_prefix(&prefix).map(|line| BASE64.decode(line)) else {
                continue;
            };
            let Some((id, signature)) = bytes.split_at_checked(KEY_ID_BYTES) else { continue };
            if id == key.id() {
                verified = Some((line, self.verify_signature(key, signature)?));
            }
        }
        verified
    }

    fn verify_signature(&self, key: &VerifierKey, signature: &[u8]) -> Option<Verified> {
        let (message, signature, verified) = match key.algorithm {
            Algorithm::Ed25519 => (self.text.to_owned(), signature, Verified::Signed),
            Algorithm::Cosignature => {
                let (time, signature) = signature.split_at_checked(TIME_BYTES)?;
                let time = u64::from_be_bytes(time.try_into().ok()?);
                (cosigned(self.text, time), signature, Verified::Cosigned(time))
            }
        };
        let signature = Signature::from_slice(signature).ok()?;
        key.key.verify_strict(message.as_bytes(), &signature).ok().map(|()| verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the example of <https://c2sp.org/signed-note>.
    const EXAMPLE_KEY: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const EXAMPLE_PUBLIC: &str =
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const EXAMPLE_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn keys_and_signatures_are_those_of_gos_note_package() {
        let key = SignerKey::parse(EXAMPLE_KEY, Algorithm::Ed25519).unwrap();
        assert_eq!(*key.expose(), EXAMPLE_KEY);
        assert_eq!(key.public().to_string(), EXAMPLE_PUBLIC);
        assert_eq!(VerifierKey::parse(EXAMPLE_PUBLIC).as_ref(), Ok(key.public()));
        let note = Note::parse(EXAMPLE_NOTE).unwrap();
        assert_eq!(note.verify(key.public()), Some(Verified::Signed));
        let now = Timestamp::from_millis(0).unwrap();
        assert_eq!(format!("{}\n{}", note.text(), key.sign(note.text(), now)), EXAMPLE_NOTE);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "PRIVATE+KEY+a+b", &EXAMPLE_KEY.replace("c74f", "c74e"), "x+y+a+b+c"] {
            let read = SignerKey::parse(text, Algorithm::Ed25519);
            assert_eq!(read.err(), Some(KeyError::Private), "{text}");
        }
        assert!(SignerKey::parse(EXAMPLE_KEY, Algorithm::Cosignature).is_err());
        for text in ["", "a+b", &EXAMPLE_PUBLIC.replace("c74f", "c74e"), "a b+00000000+AQ=="] {
            assert_eq!(VerifierKey::parse(text), Err(KeyError::Public), "{text}");
        }
        for name in ["", "a b", "a+b", "a\n", &"a".repeat(256)] {
            let made = SignerKey::generate(name, Algorithm::Ed25519, &mut rand::rng());
            assert_eq!(made.err(), Some(KeyError::Name), "{name}");
        }
    }

    #[test]
    fn a_cosignature_holds_the_time_and_is_not_the_logs() {
        let witness =
            SignerKey::generate("w.example.com/1", Algorithm::Cosignature, &mut rand::rng());
        let witness = witness.unwrap();
        let text = "log.example.com\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
        let time = Timestamp::from_millis(1_700_000_000_123).unwrap();
        let signed = format!("{text}\n{}", witness.sign(text, time));
        let note = Note::parse(&signed).unwrap();
        assert_eq!(note.verify(witness.public()), Some(Verified::Cosigned(1_700_000_000)));
        for i in 0..signed.len() {
            let mut changed = signed.clone().into_bytes();
            changed[i] ^= 1;
            let changed = String::from_utf8(changed).ok();
            let verified = changed.as_deref().and_then(Note::parse);
            let verified = verified.and_then(|note| note.verify(witness.public()));
            assert_eq!(verified, None, "byte {i}");
        }
    }

    #[test]
    fn other_signatures_are_ignored_and_a_wrong_one_of_the_key_refuses_the_note() {
        let key = VerifierKey::parse(EXAMPLE_PUBLIC).unwrap();
        let other = SignerKey::generate("PeterNeumann", Algorithm::Ed25519, &mut rand::rng());
        let note = Note::parse(EXAMPLE_NOTE).unwrap();
        let now = Timestamp::from_millis(0).unwrap();
        let more =
            format!("{EXAMPLE_NOTE}{}\u{2014} x ???\n", other.unwrap().sign(note.text(), now));
        assert_eq!(Note::parse(&more).unwrap().verify(&key), Some(Verified::Signed));
        assert_eq!(Note::parse(&more).unwrap().signed_by(&key).as_deref(), Some(EXAMPLE_NOTE));
        let wrong = more.replace("x08go/ZJ", "x08go/ZK");
        assert_eq!(Note::parse(&wrong).unwrap().verify(&key), None);
        assert_eq!(Note::parse(&wrong).unwrap().signed_by(&key), None);
        for none in ["", "a", "a\n", "a\n\n", "a\n\nb\n", "\n\n", "a\r\n\n\u{2014} a b\n"] {
            assert!(Note::parse(none).is_none(), "{none:?}");
        }
    }
}
