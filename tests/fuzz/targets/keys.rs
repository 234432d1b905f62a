//! Keys as text: sets of receipt keys, and the keys of log, vault and staff names. What is read is written
//! as the same text, or as one that is written the same again.

#![no_main]

use countersign::log::head::LogKey;
use countersign::receipt::{KeyRing, PublicKeys};
use countersign::seal::actor::{ActorKey, ActorSeal};
use countersign::vault::master::MasterKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(ring) = KeyRing::from_jwks(text) {
        let jwks = ring.to_jwks();
        let again = KeyRing::from_jwks(&jwks).unwrap();
        assert!(again.to_jwks() == jwks && again.current() == ring.current());
        let published = ring.public().to_jwks();
        assert!(!published.contains(r#""d""#), "a private key is published");
        assert_eq!(PublicKeys::from_jwks(&published).unwrap().to_jwks(), published);
        // It is private, so no public set.
        assert!(PublicKeys::from_jwks(text).is_err());
    }
    if let Ok(keys) = PublicKeys::from_jwks(text) {
        let jwks = keys.to_jwks();
        assert_eq!(PublicKeys::from_jwks(&jwks).unwrap().to_jwks(), jwks);
    }
    if let Ok(key) = LogKey::parse(text) {
        assert!(*key.expose() == text.trim());
    }
    if let Ok(key) = MasterKey::parse(text) {
        let exposed = key.expose();
        assert!(MasterKey::parse(&exposed).unwrap().expose() == exposed);
    }
    if let Ok(key) = ActorKey::parse(text) {
        assert!(key.expose().trim() == text.trim());
    }
    if let Ok(seal) = ActorSeal::parse(text) {
        let written = seal.to_text();
        assert_eq!(ActorSeal::parse(&written).unwrap().to_text(), written);
    }
});
