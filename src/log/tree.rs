//! The RFC 6962 Merkle tree over the records, as a compact range: the roots of the perfect subtrees
//! that the leaves so far fill, left to right. It takes a leaf in constant amortised time.

use sha2::{Digest as _, Sha256};

use super::record::RecordHash;
use crate::domain::Position;

/// The root of a tree.
pub type Root = [u8; 32];

/// The tree over the first records of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompactRange {
    size: u64,
    subtrees: Vec<Root>,
}

impl CompactRange {
    /// The tree of so many leaves whose perfect subtrees have these roots; `None`: so many leaves fill
    /// another number of them.
    pub fn from_parts(size: Position, subtrees: Vec<Root>) -> Option<Self> {
        let is_right = usize::try_from(size.0.count_ones()) == Ok(subtrees.len());
        is_right.then_some(Self { size: size.0, subtrees })
    }

    /// The roots of the perfect subtrees, left to right.
    pub fn subtrees(&self) -> &[Root] {
        &self.subtrees
    }

    /// How many leaves it has: the position of the next.
    pub fn size(&self) -> Position {
        Position(self.size)
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: RecordHash) {
        let mut node = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                node = parent(&left, &node);
            }
        }
        self.subtrees.push(node);
        self.size += 1;
    }

    /// The root (RFC 6962 §2.1).
    pub fn root(&self) -> Root {
        self.subtrees
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| parent(&left, &right))
            .unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// The root over two subtrees: `SHA-256(0x01 || left || right)`.
pub fn parent(left: &Root, right: &Root) -> Root {
    Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::log::record;

    /// The tree over records.
    pub(crate) fn tree_of(records: &[Vec<u8>]) -> CompactRange {
        let mut tree = CompactRange::default();
        for bytes in records {
            tree.push(record::hash(bytes));
        }
        tree
    }

    /// RFC 6962 §2.1, word for word.
    fn reference(leaves: &[&[u8]]) -> Root {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => record::hash(leaf),
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                parent(&reference(&leaves[..split]), &reference(&leaves[split..]))
            }
        }
    }

    #[test]
    fn roots_are_those_of_rfc_6962() {
        let leaves: Vec<Vec<u8>> = (0..130u8).map(|i| vec![i; usize::from(i)]).collect();
        let leaves: Vec<&[u8]> = leaves.iter().map(Vec::as_slice).collect();
        let mut range = CompactRange::default();
        for size in 0..leaves.len() {
            assert_eq!(range.root(), reference(&leaves[..size]), "size {size}");
            let mut parts = range.subtrees().to_vec();
            let again = CompactRange::from_parts(range.size(), parts.clone());
            assert_eq!(again, Some(range.clone()));
            parts.push([0; 32]);
            assert_eq!(CompactRange::from_parts(range.size(), parts), None);
            range.push(record::hash(leaves[size]));
        }
    }

    #[test]
    fn a_published_root_comes_out() {
        let mut range = CompactRange::default();
        for leaf in REFERENCE_LEAVES {
            range.push(record::hash(leaf));
        }
        let root = range.root();
        let (high, low) = root.split_at(16);
        assert_eq!(u128::from_be_bytes(high.try_into().unwrap()), PUBLISHED.0);
        assert_eq!(u128::from_be_bytes(low.try_into().unwrap()), PUBLISHED.1);
    }

    /// Certificate Transparency's reference tree of eight leaves.
    pub(crate) const REFERENCE_LEAVES: [&[u8]; 8] = [
        b"",
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[
            0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
            0x6e, 0x6f,
        ],
    ];

    const PUBLISHED: (u128, u128) =
        (0x5DC9_DA79_A706_59A9_AD55_9CB7_01DE_D9A2, 0xAB9D_823A_AD2F_4960_CFE3_70EF_F460_4328);
}
