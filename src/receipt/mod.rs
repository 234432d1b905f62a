//! Receipts: what an app keeps of its activation, and verifies offline for ever after.
//!
//! A receipt is a JWS in compact form (RFC 7515 §7.1), signed with Ed25519 (RFC 8032, RFC 8037):
//!
//! ```text
//! {"alg":"EdDSA","typ":"activation+jwt","kid":"<RFC 7638 thumbprint of the signing key>"}
//! {"iss":…,"aud":…,"iat":…,"exp":…,"jti":…,"cnf":{"jkt":…},"license":{…},"record":…}
//! ```
//!
//! The same key and claims give the same bytes (RFC 8032 signatures are deterministic, the members
//! have a fixed order), so a retry is answered byte for byte with nothing kept but the event.

mod claims;
mod keys;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::Signature;
use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::domain::SigningKeyId;

pub use claims::{Claims, LicenseClaims, key_thumbprint};
pub use keys::{KeyError, KeyRing, PublicKeys};

/// The longest receipt there is. The claims of today take a quarter of it; what is longer is
/// refused before any work is done on it.
pub const MAX_BYTES: usize = 4096;

const TYPE: &str = "activation+jwt";
/// Where RFC 7515 §4.1.9 lets a type be shortened, it lets it be written out as well.
const MEDIA_TYPE: &str = "application/activation+jwt";

/// Why there is no receipt, or a text is none. Holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Longer than [`MAX_BYTES`].
    #[error("is longer than {MAX_BYTES} bytes; pass the receipt alone, as the server gave it")]
    TooLong,
    /// Not three parts, or one is not strict base64url.
    #[error("is not three parts of base64url with dots between; pass it whole and unchanged")]
    Form,
    /// The header is not the JSON that it must be.
    #[error("has a header that cannot be read; pass the receipt unchanged")]
    Header,
    /// `alg` is missing, or is neither `EdDSA` nor `Ed25519`.
    #[error("is not signed with Ed25519; accept no such token as a receipt")]
    Algorithm,
    /// `typ` is missing or another.
    #[error("is a token of another type; pass one of type {TYPE}")]
    Type,
    /// `crit` is there: RFC 7515 §4.1.11 forbids to ignore it.
    #[error("needs an extension that this version does not know; update this software")]
    Critical,
    /// `kid` is missing, or no key of the set has it.
    #[error("names no key of this set; fetch the server's keys again, or restore the missing one")]
    UnknownKey,
    /// The signature does not match: forged, or changed since.
    #[error("has a signature that does not match; do not trust it, activate again")]
    Signature,
    /// A claim is missing or malformed.
    #[error("lacks a claim, or has one that cannot be read; update this software")]
    Claims,
}

impl KeyRing {
    /// Makes the receipt that states `claims`, signed with the key that `key` names: a retry names
    /// the key of the first time. Whatever this returns, [`PublicKeys::verify`] reads.
    ///
    /// # Errors
    /// [`ReceiptError::UnknownKey`] where the ring does not hold the key, and
    /// [`ReceiptError::TooLong`] where the issuer's name is absurd.
    pub fn sign(&self, key: &SigningKeyId, claims: &Claims) -> Result<String, ReceiptError> {
        let receipt = self.sign_as(TYPE, key, &claims.to_json()?)?;
        if receipt.len() > MAX_BYTES { Err(ReceiptError::TooLong) } else { Ok(receipt) }
    }

    /// Signs another statement than a receipt with the current key. Its type tells it from a receipt
    /// (RFC 8725 §3.11).
    ///
    /// # Errors
    /// [`ReceiptError::Claims`] where the claims are no JSON.
    pub fn sign_statement(
        &self,
        typ: &str,
        claims: &impl Serialize,
    ) -> Result<String, ReceiptError> {
        let claims = serde_json::to_vec(claims).map_err(|_| ReceiptError::Claims)?;
        self.sign_as(typ, &self.current(), &claims)
    }

    fn sign_as(
        &self,
        typ: &str,
        key: &SigningKeyId,
        claims: &[u8],
    ) -> Result<String, ReceiptError> {
        let signing_key = self.find(key).ok_or(ReceiptError::UnknownKey)?;
        let kid = encode(key.as_bytes());
        let header = format!(r#"{{"alg":"EdDSA","typ":"{typ}","kid":"{kid}"}}"#);
        Ok(compact(signing_key, header.as_bytes(), claims))
    }
}

/// RFC 7515 §5.1, §7.1. An Ed25519 signature is the same bytes whoever makes it (RFC 8032 §5.1.6).
fn compact(key: &Ed25519KeyPair, header: &[u8], payload: &[u8]) -> String {
    let bytes = header.len() + payload.len() + Signature::BYTE_SIZE;
    // Four characters for three bytes, of each part up to three more for the rest, and two dots.
    let mut jws = String::with_capacity(bytes / 3 * 4 + 3 * 3 + 2);
    BASE64_URL_SAFE_NO_PAD.encode_string(header, &mut jws);
    jws.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(payload, &mut jws);
    let signature = key.sign(jws.as_bytes());
    jws.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
    jws
}

impl PublicKeys {
    /// Reads a receipt that one of these keys signed. Judges signature and form, and nothing else:
    /// whether it has expired is for [`Claims::expired_at`], and whether it was made for this
    /// device, this product and by this issuer is for the caller to compare.
    ///
    /// RFC 7515 §5.2, with the advice of RFC 8725: the type and the algorithms are fixed (§3.1,
    /// §3.11), keys that a header brings along are not looked at, the key is found by `kid` alone,
    /// and no claim is parsed before the signature is verified.
    pub fn verify(&self, receipt: &str) -> Result<Claims, ReceiptError> {
        if receipt.len() > MAX_BYTES {
            return Err(ReceiptError::TooLong);
        }
        let (signed, signature) = receipt.rsplit_once('.').ok_or(ReceiptError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(ReceiptError::Form)?;
        let header = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| ReceiptError::Form)?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| ReceiptError::Form)?;
        let signature = Signature::from_bytes(&decode(signature).ok_or(ReceiptError::Form)?);

        let key = self.find(&Header::read(&header)?).ok_or(ReceiptError::UnknownKey)?;
        // Strict (RFC 8032 §8.4): one signature for one message, and no key of small order.
        key.verify_strict(signed.as_bytes(), &signature).map_err(|_| ReceiptError::Signature)?;
        Claims::from_json(&payload)
    }
}

/// The members of a header that decide something (RFC 7515 §4.1). Others are ignored (§4).
#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    typ: Option<String>,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

impl Header {
    /// Which key is said to have signed, where all else is as it must be.
    fn read(json: &[u8]) -> Result<SigningKeyId, ReceiptError> {
        let header: Self = serde_json::from_slice(json).map_err(|_| ReceiptError::Header)?;
        if header.crit {
            return Err(ReceiptError::Critical);
        }
        // RFC 9864 §2.2 renames EdDSA to Ed25519; both mean the same with a key of that curve.
        if !matches!(header.alg.as_deref(), Some("EdDSA" | "Ed25519")) {
            return Err(ReceiptError::Algorithm);
        }
        let typ = header.typ.ok_or(ReceiptError::Type)?;
        if !typ.eq_ignore_ascii_case(TYPE) && !typ.eq_ignore_ascii_case(MEDIA_TYPE) {
            return Err(ReceiptError::Type);
        }
        let kid = header.kid.as_deref().and_then(decode).ok_or(ReceiptError::UnknownKey)?;
        Ok(SigningKeyId::from_bytes(kid))
    }
}

/// A member is there, be it `null`.
fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// RFC 7515 §2: base64url, all trailing `=` omitted.
fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The one text that [`encode`] makes of `N` bytes, and no other.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    decode_into(text, &mut bytes).then_some(bytes)
}

/// The same in place, for bytes that must leave no copy. False where the text is another.
fn decode_into(text: &str, bytes: &mut [u8]) -> bool {
    BASE64_URL_SAFE_NO_PAD.decode_slice(text, bytes).is_ok_and(|length| length == bytes.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;
    use crate::domain::{ActivationId, Binding, LicenseKey, Product, Timestamp};

    /// RFC 8037 Appendix A.1.
    const RFC_8037_KEY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519",
        "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    const HEADER: &str = r#"{"alg":"EdDSA","typ":"activation+jwt","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}"#;
    const PAYLOAD: &str = r#"{"iss":"https://licenses.example.com","aud":"Example Pro","iat":1700000000,"exp":1702592000,"jti":"AQEBAQEBAQEBAQEBAQEBAQ","cnf":{"jkt":"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI"},"license":{"key_thumbprint":"-R3fc2S8wi8PJ5RIMfGV3yMCbSjGtxpeHQBk7fzbCCM","seats":5,"expires_at":-1,"updates_until":1800000000},"record":"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ"}"#;

    fn ring() -> KeyRing {
        KeyRing::from_jwks(RFC_8037_KEY).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000).unwrap()
    }

    fn claims() -> Claims {
        let key = LicenseKey::parse("00000-00000-00000-00000-000150").unwrap();
        Claims {
            issuer: "https://licenses.example.com".to_owned(),
            product: Product::parse("Example Pro").unwrap(),
            issued_at: at(1_700_000_000),
            expires_at: Some(at(1_702_592_000)),
            activation: ActivationId::from_bytes([1; 16]),
            binding: Binding::from_bytes([2; 32]),
            license: LicenseClaims {
                key_thumbprint: key_thumbprint(&key),
                seats: 5,
                expires_at: Some(at(-1)),
                updates_until: Some(at(1_800_000_000)),
            },
            record: [4; 32],
        }
    }

    fn receipt() -> String {
        ring().sign(&ring().current(), &claims()).unwrap()
    }

    /// What verification makes of this header and payload, rightly signed.
    fn verify(header: &str, payload: &str) -> Result<Claims, ReceiptError> {
        let ring = ring();
        let key = ring.find(&ring.current()).unwrap();
        ring.public().verify(&compact(key, header.as_bytes(), payload.as_bytes()))
    }

    #[test]
    fn a_receipt_states_its_claims_in_whole_seconds() {
        assert_eq!(ring().public().verify(&receipt()), Ok(claims()));
        let endless = Claims {
            expires_at: None,
            license: LicenseClaims { expires_at: None, updates_until: None, ..claims().license },
            ..claims()
        };
        let receipt = ring().sign(&ring().current(), &endless).unwrap();
        assert_eq!(ring().public().verify(&receipt), Ok(endless));

        let issued_at = Timestamp::from_millis(1_700_000_000_999).unwrap();
        let precise = Claims { issued_at, ..claims() };
        assert_eq!(ring().sign(&ring().current(), &precise).unwrap(), self::receipt());
    }

    #[test]
    fn a_receipt_is_the_documented_bytes() {
        let receipt = receipt();
        let parts: Vec<_> = receipt.split('.').collect();
        assert_eq!(
            (parts[0], parts[1]),
            (&*encode(HEADER.as_bytes()), &*encode(PAYLOAD.as_bytes()))
        );
        // The same again, byte for byte.
        assert_eq!(self::receipt(), receipt);
    }

    #[test]
    fn a_license_key_thumbprint_is_the_documented_hash() {
        // printf countersign/license-key/v100000000000000000000000150 | sha256sum
        assert_eq!(
            encode(&claims().license.key_thumbprint),
            "-R3fc2S8wi8PJ5RIMfGV3yMCbSjGtxpeHQBk7fzbCCM"
        );
    }

    #[test]
    fn a_signature_is_that_of_rfc_8037_a4() {
        let ring = ring();
        let key = ring.find(&ring.current()).unwrap();
        let jws = compact(key, br#"{"alg":"EdDSA"}"#, b"Example of Ed25519 signing");
        assert_eq!(
            jws,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-\
             09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        );
    }

    #[test]
    fn each_flipped_bit_and_each_cut_is_refused() {
        let (keys, receipt) = (ring().public(), receipt());
        for bit in 0..receipt.len() * 8 {
            let mut changed = receipt.clone().into_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            // What is no longer UTF-8 cannot be asked about.
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(keys.verify(&changed).is_err(), "bit {bit}");
            }
        }
        for length in 0..receipt.len() {
            assert!(keys.verify(&receipt[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_header_of_another_kind_is_refused() {
        let cases = [
            (r#""EdDSA""#, r#""none""#, ReceiptError::Algorithm),
            (r#""EdDSA""#, r#""HS256""#, ReceiptError::Algorithm),
            (r#""EdDSA""#, r#""eddsa""#, ReceiptError::Algorithm),
            (r#""EdDSA""#, "null", ReceiptError::Algorithm),
            (r#""EdDSA""#, "1", ReceiptError::Header),
            (r#""alg":"EdDSA","#, "", ReceiptError::Algorithm),
            (r#""alg":"EdDSA""#, r#""alg":"EdDSA","alg":"EdDSA""#, ReceiptError::Header),
            ("activation+jwt", "JWT", ReceiptError::Type),
            (r#""typ":"activation+jwt","#, "", ReceiptError::Type),
            (r#"{"alg""#, r#"{"crit":["b64"],"b64":false,"alg""#, ReceiptError::Critical),
            (r#"{"alg""#, r#"{"crit":null,"alg""#, ReceiptError::Critical),
            ("kPrK", "kPrL", ReceiptError::UnknownKey),
            ("S4k\"", "S4l\"", ReceiptError::UnknownKey),
            (r#""kid""#, r#""key""#, ReceiptError::UnknownKey),
            ("}", "", ReceiptError::Header),
        ];
        for (part, other, error) in cases {
            assert!(HEADER.contains(part));
            assert_eq!(verify(&HEADER.replace(part, other), PAYLOAD), Err(error), "{other}");
        }
    }

    #[test]
    fn a_header_that_means_the_same_is_accepted() {
        let typ = "activation+jwt";
        for header in [
            HEADER.replace("EdDSA", "Ed25519"),
            HEADER.replace(typ, "Activation+JWT"),
            HEADER.replace(typ, "application/activation+jwt"),
            HEADER.replace('}', r#","jku":"https://evil.example","new":[1]}"#),
        ] {
            assert_eq!(verify(&header, PAYLOAD), Ok(claims()), "{header}");
        }
    }

    #[test]
    fn claims_that_cannot_be_read_are_refused_and_others_ignored() {
        let more = PAYLOAD
            .replace(r#""seats""#, r#""new":null,"seats""#)
            .replace(r#"{"iss"#, r#"{"nbf":[],"iss"#);
        assert_eq!(verify(HEADER, &more), Ok(claims()));
        let cases = [
            (r#""iss""#, r#""from""#),
            ("Example Pro", "Example/Pro"),
            (r#""Example Pro""#, r#"["Example Pro"]"#),
            ("1700000000", "1700000000.5"),
            ("1700000000", "9223372036854775807"),
            (r#""iat":1700000000"#, r#""iat":1700000000,"iat":1700000000"#),
            ("1702592000", "null"),
            ("1702592000", "\"1702592000\""),
            ("AQEBAQEBAQEBAQEBAQEBAQ", "AQEBAQEBAQEBAQEBAQEBAR"),
            ("AQEBAQEBAQEBAQEBAQEBAQ", "AQEBAQEBAQEBAQEBAQEBAQ=="),
            ("AQEBAQEBAQEBAQEBAQEBAQ", "AQEBAQEBAQEBAQEBAQEB"),
            (r#""jkt""#, r#""jwk""#),
            (r#""seats":5"#, r#""seats":-5"#),
            (r#""seats":5,"#, ""),
            (r#""expires_at":-1"#, r#""expires_at":null"#),
            (r#","record""#, r#","records""#),
            ("}", ""),
        ];
        for (part, other) in cases {
            assert!(PAYLOAD.contains(part));
            let payload = PAYLOAD.replace(part, other);
            assert_eq!(verify(HEADER, &payload), Err(ReceiptError::Claims), "{other}");
        }
    }

    #[test]
    fn what_is_too_long_or_not_three_parts_is_refused() {
        let (keys, receipt) = (ring().public(), receipt());
        assert_eq!(keys.verify(&"a".repeat(MAX_BYTES + 1)), Err(ReceiptError::TooLong));
        let issuer = "a".repeat(MAX_BYTES);
        let absurd = ring().sign(&ring().current(), &Claims { issuer, ..claims() });
        assert_eq!(absurd, Err(ReceiptError::TooLong));
        let unsigned = &receipt[..=receipt.rfind('.').unwrap()];
        let four = format!("{receipt}.");
        let padded = format!("{receipt}=");
        let spaced = format!("{receipt}\n");
        for text in ["", "..", "a.b", unsigned, &four, &padded, &spaced] {
            assert_eq!(keys.verify(text), Err(ReceiptError::Form), "{text}");
        }
    }

    #[test]
    fn rotation_keeps_receipts_and_retries() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut ring = KeyRing::generate(&mut rng);
        let (first, old_keys) = (ring.current(), ring.public());
        let receipt = ring.sign(&first, &claims()).unwrap();
        ring.rotate(&mut rng);
        ring.rotate(&mut rng);

        assert_eq!(ring.public().verify(&receipt), Ok(claims()));
        assert_eq!(ring.sign(&first, &claims()), Ok(receipt.clone()));
        let restored = KeyRing::from_jwks(&ring.to_jwks()).unwrap();
        assert_eq!(restored.current(), ring.current());
        assert_eq!(restored.sign(&first, &claims()), Ok(receipt));

        let new = ring.sign(&ring.current(), &claims()).unwrap();
        assert_eq!(old_keys.verify(&new), Err(ReceiptError::UnknownKey));
        let stranger = KeyRing::generate(&mut rng).current();
        assert_eq!(ring.sign(&stranger, &claims()), Err(ReceiptError::UnknownKey));
    }

    #[test]
    fn a_lease_is_over_from_its_end_on() {
        let end = 1_702_592_000;
        assert!(!claims().expired_at(at(end - 1)));
        assert!(claims().expired_at(at(end)));
        assert!(!Claims { expires_at: None, ..claims() }.expired_at(at(end)));
    }

    #[test]
    fn claims_do_not_print_themselves() {
        assert_eq!(format!("{:?}", claims()), "Claims[redacted]");
        assert_eq!(format!("{:?}", claims().license), "LicenseClaims[redacted]");
    }

    proptest! {
        #[test]
        fn any_text_is_an_error(
            text in "\\PC{0,300}",
            parts in "[A-Za-z0-9_-]{0,99}([.][A-Za-z0-9_-]{0,99}){0,3}",
        ) {
            prop_assert!(ring().public().verify(&text).is_err());
            prop_assert!(ring().public().verify(&parts).is_err());
        }

        #[test]
        fn any_header_and_payload_is_an_error(json in "[{}\\[\\]\":,a-z0-9.-]{0,99}") {
            prop_assert!(verify(&json, PAYLOAD).is_err());
            prop_assert_eq!(verify(HEADER, &json), Err(ReceiptError::Claims));
        }
    }
}
