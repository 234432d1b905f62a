//! Keys as text: sets of receipt keys, and the keys of log, vault and staff names. What is read is written
//! as the same text, or as one that is written the same again. And the names that the last ones seal.

#![no_main]

use std::sync::LazyLock;

use countersign::domain::{Actor, SealedActor};
use countersign::log::head::LogKey;
use countersign::receipt::{KeyRing, PublicKeys};
use countersign::seal::actor::{ActorKey, ActorSeal, open};
use countersign::vault::master::MasterKey;
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

static KEYS: LazyLock<[ActorKey; 2]> = LazyLock::new(|| {
    let mut rng = StdRng::seed_from_u64(1);
    [ActorKey::generate(&mut rng), ActorKey::generate(&mut rng)]
});

/// A sealed name opens to itself, and changed to none.
fn names(data: &[u8]) {
    let [first, second] = &*KEYS;
    let any = SealedActor::from_bytes(data.to_vec());
    assert!(open(&any, [first, second]).is_err(), "nobody sealed it");
    let mut input = Input(data);
    let length = input.byte().into();
    let Some(actor) = str::from_utf8(input.take(length)).ok().and_then(Actor::parse) else {
        return;
    };
    let seal = ActorSeal::for_keys([first, second]);
    let sealed = seal.seal(&actor, &mut StdRng::seed_from_u64(input.number()));
    assert_eq!(sealed.as_bytes().len(), SealedActor::BYTES);
    let opened = open(&sealed, [second, first]).unwrap();
    assert!(opened.expose() == actor.expose());
    let mut changed = sealed.as_bytes().to_vec();
    input.damage(&mut changed);
    let is_changed = changed != sealed.as_bytes();
    assert_eq!(open(&SealedActor::from_bytes(changed), [first, second]).is_err(), is_changed);
}

fuzz_target!(|data: &[u8]| {
    names(data);
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
