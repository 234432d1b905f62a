//! What the outside brings to the log's tree: proofs, notes, public keys, the paths of tiles, and evidence
//! against a log. What is
//! read is written and read as the same.

#![no_main]

use std::sync::LazyLock;

use countersign::domain::Position;
use countersign::log::head::LogKey;
use countersign::log::note::{Note, VerifierKey};
use countersign::tlog::proof::InclusionProof;
use countersign::tlog::tiles::Tile;
use countersign::tlog::witness::Evidence;
use libfuzzer_sys::fuzz_target;

/// A key that has signed nothing.
static LOG: LazyLock<VerifierKey> =
    LazyLock::new(|| LogKey::generate("countersign", &mut rand::rng()).unwrap().public().clone());

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(proof) = InclusionProof::parse(text) {
        let written = proof.to_string();
        assert_eq!(InclusionProof::parse(&written).unwrap().to_string(), written);
    }
    if let Some(note) = Note::parse(text) {
        assert!(text.starts_with(note.text()));
    }
    if let Ok(evidence) = Evidence::parse(text) {
        let written = evidence.to_json().unwrap();
        assert_eq!(Evidence::parse(&written), Ok(evidence.clone()));
        assert!(evidence.judge(&LOG).is_err_and(|alarm| !alarm.is_proven()), "nobody signed it");
    }
    if let Ok(key) = VerifierKey::parse(text) {
        let written = key.to_string();
        assert_eq!(VerifierKey::parse(&written).unwrap().to_string(), written);
    }
    if let Some(tile) = Tile::parse(text) {
        assert!(!tile.is_of(Position::ZERO));
    }
});
