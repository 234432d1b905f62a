//! What the outside brings to the log's tree: proofs, notes, public keys, and the paths of tiles. What is
//! read is written and read as the same.

#![no_main]

use countersign::domain::Position;
use countersign::log::note::{Note, VerifierKey};
use countersign::tlog::proof::InclusionProof;
use countersign::tlog::tiles::Tile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(proof) = InclusionProof::parse(text) {
        let written = proof.to_string();
        assert_eq!(InclusionProof::parse(&written).unwrap().to_string(), written);
    }
    if let Some(note) = Note::parse(text) {
        assert!(text.starts_with(note.text()));
    }
    if let Ok(key) = VerifierKey::parse(text) {
        let written = key.to_string();
        assert_eq!(VerifierKey::parse(&written).unwrap().to_string(), written);
    }
    if let Some(tile) = Tile::parse(text) {
        assert!(!tile.is_of(Position::ZERO));
    }
});
