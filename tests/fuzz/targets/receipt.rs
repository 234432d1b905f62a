//! Receipts: what is read from one that the key signed can be signed, and reads back the same; nothing is
//! read from one that it did not sign.

#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign::receipt::{KeyRing, PublicKeys, ReceiptError};
use countersign_fuzz::Input;
use ed25519_dalek::{Signer as _, SigningKey};
use libfuzzer_sys::fuzz_target;

const SEED: [u8; 32] = [5; 32];
const HEADER: &str = r#"{"alg":"EdDSA","typ":"activation+jwt","kid":""#;

struct Keys {
    signing: SigningKey,
    ring: KeyRing,
    public: PublicKeys,
    /// A header that names the key.
    header: String,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let signing = SigningKey::from_bytes(&SEED);
    let [d, x] = [&SEED, signing.verifying_key().as_bytes()]
        .map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let ring = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","d":"{d}","x":"{x}"}}]}}"#);
    let ring = KeyRing::from_jwks(&ring).unwrap();
    let kid = BASE64_URL_SAFE_NO_PAD.encode(ring.current().as_bytes());
    Keys { signing, public: ring.public(), ring, header: format!(r#"{HEADER}{kid}"}}"#) }
});

fn signed(header: &[u8], payload: &[u8]) -> String {
    let [header, payload] = [header, payload].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let signed = format!("{header}.{payload}");
    let signature = KEYS.signing.sign(signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn read(receipt: &str) {
    let Ok(claims) = KEYS.public.verify(receipt) else { return };
    match KEYS.ring.sign(&KEYS.ring.current(), &claims) {
        Ok(again) => assert!(KEYS.public.verify(&again) == Ok(claims)),
        // The member names of the other may have been shorter by escapes.
        Err(error) => assert_eq!(error, ReceiptError::TooLong),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.byte() % 4 {
        0 => {
            if let Ok(text) = str::from_utf8(input.0) {
                assert!(KEYS.public.verify(text).is_err(), "nobody signed it");
            }
        }
        1 => read(&signed(KEYS.header.as_bytes(), input.0)),
        2 => {
            let length = u16::from_be_bytes(input.bytes());
            let header = input.take(length.into());
            read(&signed(header, input.0));
        }
        // One character of a good one is another.
        _ => {
            let [at, to] = [usize::from(u16::from_be_bytes(input.bytes())), input.byte().into()];
            let good = signed(KEYS.header.as_bytes(), input.0);
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = u8::try_from(to).unwrap_or(0);
            if let Ok(text) = str::from_utf8(&bytes) {
                assert!(text == good || KEYS.public.verify(text).is_err());
            }
        }
    }
});
