//! Proofs over the tree: that a record is in it, and that one tree is a continuation of another.
//!
//! They are made as RFC 6962 §2.1.1 and §2.1.2 define them, and verified by the other way round,
//! the algorithms of RFC 9162 §2.1.3.2 and §2.1.4.2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::domain::Position;
use crate::log::head::{Checkpoint, decimal};
use crate::log::note::VerifierKey;
use crate::log::record::RecordHash;
use crate::log::tree::{CompactRange, Root, parent};

/// What the first line of a proof's file is.
const FORMAT: &str = "c2sp.org/tlog-proof@v1";
/// As many hashes as a proof in a tree of 2^64 leaves has.
const MOST_HASHES: usize = 64;

/// The hashes of a proof, from the leaves up.
pub type Hashes = Vec<Root>;

/// Where the roots of perfect subtrees come from.
pub trait Nodes {
    /// Why there is none.
    type Error;

    /// The root over the `2^level` leaves from `index * 2^level` on, all of which are there.
    fn node(&self, level: u32, index: u64) -> Result<Root, Self::Error>;
}

/// The path from a leaf to the root of the first `size` leaves; `None`: the leaf is not one of them.
pub fn inclusion<N: Nodes>(
    nodes: &N,
    leaf: Position,
    size: Position,
) -> Result<Option<Hashes>, N::Error> {
    if leaf >= size {
        return Ok(None);
    }
    let (mut low, mut high) = (0, size.0);
    let mut path = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if leaf.0 < middle {
            path.push(root(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(root(nodes, low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// What shows that the tree of `new` leaves begins with that of `old`; `None`: `old` is more.
pub fn consistency<N: Nodes>(
    nodes: &N,
    old: Position,
    new: Position,
) -> Result<Option<Hashes>, N::Error> {
    if old > new {
        return Ok(None);
    }
    if old == Position::ZERO || old == new {
        return Ok(Some(Vec::new()));
    }
    let (mut low, mut high) = (0, new.0);
    let mut path = Vec::new();
    while high != old.0 {
        let middle = low + split(high - low);
        if old.0 <= middle {
            path.push(root(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(root(nodes, low, middle)?);
            low = middle;
        }
    }
    // Whoever verifies knows the old tree's own root.
    if low > 0 {
        path.push(root(nodes, low, high)?);
    }
    path.reverse();
    Ok(Some(path))
}

/// The root over the leaves from `low` up to `high`.
pub fn root<N: Nodes>(nodes: &N, low: u64, high: u64) -> Result<Root, N::Error> {
    let leaves = high - low;
    if leaves == 0 {
        return Ok(CompactRange::default().root());
    }
    if leaves.is_power_of_two() {
        return nodes.node(leaves.trailing_zeros(), low / leaves);
    }
    let middle = low + split(leaves);
    Ok(parent(&root(nodes, low, middle)?, &root(nodes, middle, high)?))
}

/// The largest power of two below a number of leaves, at least 2.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Whether a path leads from the leaf to the root (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(
    leaf: Position,
    hash: &RecordHash,
    path: &[Root],
    tree: &Checkpoint,
) -> bool {
    let Some(last) = tree.size.0.checked_sub(1).filter(|last| leaf.0 <= *last) else {
        return false;
    };
    let (mut way, mut node) = (Way { place: leaf.0, last }, *hash);
    for other in path {
        node = match way.up() {
            Some(Side::Left) => parent(other, &node),
            Some(Side::Right) => parent(&node, other),
            None => return false,
        };
    }
    way.last == 0 && node == tree.root
}

/// The way from a node to the root of a tree.
struct Way {
    /// The node's place in its level.
    place: u64,
    /// The last place of that level; 0 at the root.
    last: u64,
}

/// Where the next hash of a path is of the node that the way has come to.
enum Side {
    Left,
    Right,
}

impl Way {
    /// Goes on to the next node that has one beside it, and to the one above both. `None`: it is the root.
    fn up(&mut self) -> Option<Side> {
        if self.last == 0 {
            return None;
        }
        let is_right = self.place & 1 == 1 || self.place == self.last;
        if is_right {
            while self.place & 1 == 0 && self.place != 0 {
                self.rise();
            }
        }
        self.rise();
        Some(if is_right { Side::Left } else { Side::Right })
    }

    fn rise(&mut self) {
        self.place >>= 1;
        self.last >>= 1;
    }
}

/// What two trees that a log's key signed, and hashes given with them, show to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The new tree begins with the old one.
    Continuation,
    /// It does not: there are no records that both are of.
    Fork,
    /// Neither: the hashes are not of these trees.
    Nothing,
}

/// What the hashes show (RFC 9162 §2.1.4.2). Where they lead to the new root they are the new tree's, and
/// so is the root over its beginning that follows from them; that it is not the old one proves a fork.
/// Where the old size is a power of two the hashes are given without that root, and prove none.
pub fn compare(old: &Checkpoint, new: &Checkpoint, path: &[Root]) -> Shown {
    if old.size > new.size {
        return Shown::Nothing;
    }
    // What the old tree must be, where it takes no hashes to know it.
    let known = if old.size == new.size {
        Some(new.root)
    } else {
        (old.size == Position::ZERO).then(|| CompactRange::default().root())
    };
    let found = match known {
        Some(known) if known == old.root && !path.is_empty() => None,
        Some(known) => Some(known),
        None => roots(old, new, path).filter(|(_, whole)| *whole == new.root).map(|(root, _)| root),
    };
    match found {
        Some(root) if root == old.root => Shown::Continuation,
        Some(_) => Shown::Fork,
        None => Shown::Nothing,
    }
}

/// The roots that the hashes lead to, of the beginning of the new tree and of all of it. `None`: they are
/// too many or too few.
fn roots(old: &Checkpoint, new: &Checkpoint, path: &[Root]) -> Option<(Root, Root)> {
    let first = old.size.0.is_power_of_two().then_some(&old.root);
    let mut path = first.into_iter().chain(path);
    let mut way = Way { place: old.size.0.checked_sub(1)?, last: new.size.0.checked_sub(1)? };
    while way.place & 1 == 1 {
        way.rise();
    }
    let &start = path.next()?;
    let (mut old_node, mut new_node) = (start, start);
    for other in path {
        match way.up()? {
            Side::Left => {
                old_node = parent(other, &old_node);
                new_node = parent(other, &new_node);
            }
            Side::Right => new_node = parent(&new_node, other),
        }
    }
    (way.last == 0).then_some((old_node, new_node))
}

/// Whether the hashes show that the new tree begins with the old one.
pub fn verify_consistency(old: &Checkpoint, new: &Checkpoint, path: &[Root]) -> bool {
    compare(old, new, path) == Shown::Continuation
}

/// A proof that a record is in the log, as a file: C2SP `tlog-proof`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The record's position.
    pub index: Position,
    /// The path to the root.
    pub path: Hashes,
    /// The signed note of the tree.
    pub checkpoint: String,
}

/// Why a proof shows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not of the form.
    #[error("is not a proof of the form {FORMAT}; save it again")]
    Form,
    /// The checkpoint is not the log's.
    #[error(
        "has a checkpoint that the log's key did not sign; is the log's key the right one (--log-key)?"
    )]
    Checkpoint,
    /// The path leads elsewhere.
    #[error(
        "does not show that the record is in the log: it is of another receipt, or was changed"
    )]
    Path,
}

impl InclusionProof {
    /// Reads the form that `Display` writes. Extra data, which is not of this software, is skipped.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let (proof, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Form)?;
        let mut lines = proof.lines().peekable();
        if lines.next() != Some(FORMAT) {
            return Err(ProofError::Form);
        }
        lines.next_if(|line| line.starts_with("extra "));
        let index = lines.next().and_then(|line| decimal(line.strip_prefix("index ")?));
        let path: Option<Hashes> =
            lines.map(|line| BASE64.decode(line).ok()?.try_into().ok()).collect();
        match (index, path) {
            (Some(index), Some(path)) if path.len() <= MOST_HASHES => {
                let (index, checkpoint) = (Position(index), checkpoint.to_owned());
                Ok(Self { index, path, checkpoint })
            }
            _ => Err(ProofError::Form),
        }
    }

    /// Checks that the record of this hash is in the log of this key. Gives the tree it is in.
    pub fn verify(&self, hash: &RecordHash, key: &VerifierKey) -> Result<Checkpoint, ProofError> {
        let tree = Checkpoint::verify(&self.checkpoint, key).ok_or(ProofError::Checkpoint)?;
        if !verify_inclusion(self.index, hash, &self.path, &tree) {
            return Err(ProofError::Path);
        }
        Ok(tree)
    }
}

/// The file.
impl std::fmt::Display for InclusionProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{FORMAT}\nindex {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::log::head::LogKey;
    use crate::log::record;
    use crate::log::tree::tests::REFERENCE_LEAVES;

    /// A tree whose leaves are all in memory.
    pub(crate) struct Leaves(pub Vec<RecordHash>);

    impl Nodes for Leaves {
        type Error = Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Root, Infallible> {
            let start = usize::try_from(index << level).unwrap();
            let mut range = CompactRange::default();
            for leaf in &self.0[start..start + (1 << level)] {
                range.push(*leaf);
            }
            Ok(range.root())
        }
    }

    pub(crate) fn leaves(n: u64) -> Leaves {
        Leaves((0..n).map(|i| record::hash(&i.to_be_bytes())).collect())
    }

    impl Leaves {
        pub(crate) fn checkpoint(&self, size: u64) -> Checkpoint {
            let Ok(root) = root(self, 0, size);
            Checkpoint { size: Position(size), root }
        }
    }

    pub(crate) fn at(place: u64) -> usize {
        usize::try_from(place).unwrap()
    }

    fn hex(hash: &Root) -> String {
        hash.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// Certificate Transparency's reference tree of eight leaves, and the paths that RFC 6962's
    /// reference implementation publishes with it.
    #[test]
    fn published_paths_come_out() {
        let tree = Leaves(REFERENCE_LEAVES.iter().map(|leaf| record::hash(leaf)).collect());
        let path = |leaf, size| {
            let Ok(path) = inclusion(&tree, Position(leaf), Position(size));
            path.unwrap().iter().map(hex).collect::<Vec<_>>()
        };
        assert!(path(0, 1).is_empty());
        assert_eq!(
            path(0, 8),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
        assert_eq!(
            path(5, 8),
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            path(2, 3),
            ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]
        );
        assert_eq!(
            path(1, 5),
            [
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ]
        );
        let path = |old, new| {
            let Ok(path) = consistency(&tree, Position(old), Position(new));
            path.unwrap().iter().map(hex).collect::<Vec<_>>()
        };
        assert!(path(1, 1).is_empty());
        assert_eq!(
            path(1, 8),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
        assert_eq!(
            path(6, 8),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        assert_eq!(
            path(2, 5),
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ]
        );
    }

    #[test]
    fn every_proof_of_small_trees_verifies_for_its_own_leaf_and_trees_alone() {
        let tree = leaves(40);
        let roots: Vec<Checkpoint> = (0..=40).map(|size| tree.checkpoint(size)).collect();
        for new in 0..=40 {
            for leaf in 0..new {
                let Ok(path) = inclusion(&tree, Position(leaf), Position(new));
                let path = path.unwrap();
                for (other, hash) in (0..).zip(&tree.0) {
                    let holds = verify_inclusion(Position(other), hash, &path, &roots[at(new)]);
                    assert_eq!(holds, other == leaf, "{leaf} as {other} of {new}");
                }
            }
            assert_eq!(inclusion(&tree, Position(new), Position(new)), Ok(None));
            for old in 0..=new {
                let Ok(path) = consistency(&tree, Position(old), Position(new));
                let path = path.unwrap();
                for (other, known) in roots.iter().enumerate() {
                    let holds = verify_consistency(known, &roots[at(new)], &path);
                    let is_right = other as u64 == old
                        // They need no hashes.
                        || path.is_empty() && (other == 0 || other as u64 == new);
                    assert_eq!(holds, is_right, "{old} as {other} to {new}");
                    let shown = compare(known, &roots[at(new)], &path);
                    assert_ne!(shown, Shown::Fork, "{old} as {other} to {new}");
                }
            }
            assert_eq!(consistency(&tree, Position(new + 1), Position(new)), Ok(None));
        }
    }

    #[test]
    fn hashes_of_another_history_prove_a_fork_and_wrong_ones_prove_none() {
        let tree = leaves(40);
        for new in 1..=40 {
            for changed in 0..new {
                let mut other = leaves(40);
                other.0[at(changed)] = [7; 32];
                for old in 1..=new {
                    let (known, stated) = (tree.checkpoint(old), other.checkpoint(new));
                    let Ok(path) = consistency(&other, Position(old), Position(new));
                    let path = path.unwrap();
                    let is_same_so_far = changed >= old;
                    let expected = if is_same_so_far {
                        Shown::Continuation
                    } else if old.is_power_of_two() && old < new {
                        Shown::Nothing
                    } else {
                        Shown::Fork
                    };
                    let which = format!("{changed} of {old} to {new}");
                    assert_eq!(compare(&known, &stated, &path), expected, "{which}");
                    if old < new {
                        // Those of the first history lead to the root of the second nowhere.
                        let Ok(path) = consistency(&tree, Position(old), Position(new));
                        let shown = compare(&known, &stated, &path.unwrap());
                        assert_eq!(shown, Shown::Nothing, "{which}");
                        assert_eq!(compare(&known, &stated, &[]), Shown::Nothing, "{which}");
                    }
                }
            }
        }
        let other = Checkpoint { size: Position::ZERO, root: [7; 32] };
        assert_eq!(compare(&other, &tree.checkpoint(3), &[]), Shown::Fork);
    }

    proptest! {
        #[test]
        fn a_proof_of_any_size_verifies_and_a_changed_one_does_not(
            new in 1u64..3000,
            leaf in any::<prop::sample::Index>(),
            old in any::<prop::sample::Index>(),
            change in any::<(prop::sample::Index, u8, u8)>(),
        ) {
            let tree = leaves(new);
            let leaf = leaf.index(at(new)) as u64;
            let old = old.index(at(new) + 1) as u64;
            let (known, stated) = (tree.checkpoint(old), tree.checkpoint(new));
            let hash = &tree.0[at(leaf)];
            let Ok(path) = inclusion(&tree, Position(leaf), Position(new));
            let mut path = path.unwrap();
            prop_assert!(verify_inclusion(Position(leaf), hash, &path, &stated));
            let Ok(shown) = consistency(&tree, Position(old), Position(new));
            let mut shown = shown.unwrap();
            prop_assert!(verify_consistency(&known, &stated, &shown));
            let (at, byte, bit) = change;
            for hashes in [&mut path, &mut shown] {
                if !hashes.is_empty() {
                    let at = at.index(hashes.len());
                    hashes[at][usize::from(byte % 32)] ^= 1 << (bit % 8);
                }
            }
            if !path.is_empty() {
                prop_assert!(!verify_inclusion(Position(leaf), hash, &path, &stated));
            }
            if !shown.is_empty() {
                prop_assert_eq!(compare(&known, &stated, &shown), Shown::Nothing);
            }
            path.push([0; 32]);
            shown.push([0; 32]);
            prop_assert!(!verify_inclusion(Position(leaf), hash, &path, &stated));
            prop_assert_eq!(compare(&known, &stated, &shown), Shown::Nothing);
        }

        #[test]
        fn any_text_is_a_proof_or_an_error(text in "(?s).{0,200}") {
            if let Ok(proof) = InclusionProof::parse(&text) {
                prop_assert!(proof.path.len() <= MOST_HASHES);
            }
        }
    }

    #[test]
    fn a_proofs_file_reads_back_and_is_for_one_record_of_one_log() {
        let tree = leaves(7);
        let key = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        let Ok(path) = inclusion(&tree, Position(3), Position(7));
        let checkpoint = key.sign(&tree.checkpoint(7));
        let proof = InclusionProof { index: Position(3), path: path.unwrap(), checkpoint };
        let text = proof.to_string();
        assert_eq!(InclusionProof::parse(&text), Ok(proof.clone()));
        let extra = text.replacen("index", "extra AAAA\nindex", 1);
        assert_eq!(InclusionProof::parse(&extra), Ok(proof.clone()));
        let mutated = [
            text.replacen("v1", "v2", 1),
            text.replacen("index 3", "index 03", 1),
            text.replacen("index 3", "index x", 1),
            text.replacen("\n\n", "\n", 1),
            String::new(),
        ];
        for text in mutated {
            assert!(
                InclusionProof::parse(&text)
                    .and_then(|p| p.verify(&tree.0[3], key.public()))
                    .is_err(),
                "{text}"
            );
        }
        assert_eq!(proof.verify(&tree.0[3], key.public()), Ok(tree.checkpoint(7)));
        assert_eq!(proof.verify(&tree.0[4], key.public()), Err(ProofError::Path));
        let other = LogKey::generate("log.example.com", &mut rand::rng()).unwrap();
        assert_eq!(proof.verify(&tree.0[3], other.public()), Err(ProofError::Checkpoint));
    }
}
