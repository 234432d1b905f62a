//! What the outside brings to the log's tree: proofs, notes, public keys, and evidence against a log. What is
//! read is written and read as the same; nothing is believed that no key signed, and no hashes show but what
//! is so.

#![no_main]

use std::convert::Infallible;
use std::sync::LazyLock;

use countersign::domain::{Position, Timestamp};
use countersign::log::head::{Checkpoint, LogKey};
use countersign::log::note::{Note, SignerKey, Verified, VerifierKey};
use countersign::log::record;
use countersign::log::tree::{CompactRange, Root};
use countersign::tlog::proof::{self, Hashes, InclusionProof, Nodes, Shown};
use countersign::tlog::witness::Evidence;
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// A key that has signed nothing.
static LOG: LazyLock<VerifierKey> =
    LazyLock::new(|| LogKey::generate("countersign", &mut rand::rng()).unwrap().public().clone());

static WITNESS: LazyLock<SignerKey> = LazyLock::new(countersign_fuzz::witness);

/// The leaves of a tree, and the roots over them.
struct Leaves(Vec<Root>);

static LEAVES: LazyLock<Leaves> =
    LazyLock::new(|| Leaves((0..70u64).map(|i| record::hash(&i.to_be_bytes())).collect()));

impl Nodes for Leaves {
    type Error = Infallible;

    fn node(&self, level: u32, index: u64) -> Result<Root, Infallible> {
        let start = usize::try_from(index << level).unwrap();
        let mut range = CompactRange::default();
        self.0[start..start + (1 << level)].iter().for_each(|leaf| range.push(*leaf));
        Ok(range.root())
    }
}

impl Leaves {
    fn tree(&self, size: u64) -> Checkpoint {
        let Ok(root) = proof::root(self, 0, size);
        Checkpoint { size: Position(size), root }
    }
}

/// The hashes of a proof, some of them changed, missing, or more; and whether they are.
fn damaged(hashes: &Hashes, input: Input<'_>) -> (Hashes, bool) {
    let mut bytes = hashes.concat();
    let kept = usize::from(Input(input.0).byte());
    input.damage(&mut bytes);
    let mut all = bytes.as_chunks().0.to_vec();
    if kept >= 128 {
        all.resize(kept - 128, [7; 32]);
    }
    let is_changed = all != *hashes;
    (all, is_changed)
}

/// What proofs of a tree show, and any hashes of trees of any size.
fn shown(mut input: Input<'_>) {
    let sizes = [input.byte(), input.byte()].map(|size| u64::from(size) % 71);
    let (old, new) = (LEAVES.tree(sizes[0].min(sizes[1])), LEAVES.tree(sizes[0].max(sizes[1])));
    let Ok(Some(hashes)) = proof::consistency(&*LEAVES, old.size, new.size) else {
        panic!("the one is the beginning of the other")
    };
    let (hashes, is_changed) = damaged(&hashes, Input(input.0));
    let expected = if is_changed { Shown::Nothing } else { Shown::Continuation };
    assert_eq!(proof::compare(&old, &new, &hashes), expected);
    // Of a size that takes no hashes to know its root, each other root is a fork.
    let is_known = old.size == Position::ZERO || old.size == new.size;
    let is_fork = is_known || (!is_changed && !old.size.0.is_power_of_two());
    let expected = if is_fork { Shown::Fork } else { Shown::Nothing };
    let forked = Checkpoint { root: [3; 32], ..old };
    assert_eq!(proof::compare(&forked, &new, &hashes), expected);

    let leaf = Position(input.number() % 71);
    let Ok(hashes) = proof::inclusion(&*LEAVES, leaf, new.size);
    assert_eq!(hashes.is_some(), leaf < new.size);
    if let Some(hashes) = hashes {
        let hash = &LEAVES.0[leaf.0 as usize];
        let (hashes, is_changed) = damaged(&hashes, Input(input.0));
        assert_eq!(proof::verify_inclusion(leaf, hash, &hashes, &new), !is_changed);
        assert!(!proof::verify_inclusion(leaf, &[9; 32], &hashes, &new));
    }

    let [first, second, third] = [input.number(), input.number(), input.number()].map(Position);
    let [old, new] = [first, second].map(|size| Checkpoint { size, root: input.bytes() });
    let hashes = input.0.as_chunks().0;
    let _ = proof::compare(&old, &new, hashes);
    let _ = proof::verify_inclusion(third, &[9; 32], hashes, &new);
}

/// A note that a witness signed says what it signed, and when.
fn cosigned(data: &[u8]) {
    let mut input = Input(data);
    let seconds = i64::from(u32::from_be_bytes(input.bytes()));
    let time = Timestamp::from_millis(seconds * 1000).unwrap();
    let text = LEAVES.tree(u64::from(input.byte() % 71)).text("countersign");
    let mut note = format!("{text}\n{}", WITNESS.sign(&text, time)).into_bytes();
    let whole = note.clone();
    input.damage(&mut note);
    let Ok(changed) = str::from_utf8(&note) else { return };
    let read =
        Note::parse(changed).and_then(|read| Some((read.text(), read.verify(WITNESS.public())?)));
    let said = Verified::Cosigned(seconds.unsigned_abs());
    assert_eq!(read.is_some(), note == whole);
    assert!(read.is_none_or(|read| read == (text.as_str(), said)));
}

fn read(text: &str) {
    if let Ok(proof) = InclusionProof::parse(text) {
        let written = proof.to_string();
        assert_eq!(InclusionProof::parse(&written).unwrap().to_string(), written);
    }
    if let Some(note) = Note::parse(text) {
        assert!(text.starts_with(note.text()));
        if let Some(Verified::Cosigned(seconds)) = note.verify(WITNESS.public()) {
            let time = i64::try_from(seconds * 1000).ok().and_then(Timestamp::from_millis).unwrap();
            assert!(text.contains(&WITNESS.sign(note.text(), time)), "nobody else has its key");
            let alone = note.signed_by(WITNESS.public()).unwrap();
            assert!(Note::parse(&alone).unwrap().text() == note.text());
        }
        assert!(note.verify(&LOG).is_none(), "nobody signed it");
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
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        read(text);
    }
    cosigned(data);
    shown(Input(data));
});
