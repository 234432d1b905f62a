//! The manifest: how far a backup goes, and what of the vault it needs.
//!
//! ```text
//! countersign backup v1
//! vault <epoch> <slots>
//! tree <roots of the perfect subtrees over the records, base64>,…
//! check <CRC-32C of the lines before>
//! <the checkpoint: a signed note, as in the head file>
//! ```
//!
//! The tree is what the next backup goes on from; its root is in the checkpoint, which the log's key
//! signed. The vault's copy has a checksum in each slot, so none is stated over all of it: an archive
//! overwrites slots in place.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::log::head::{Checkpoint, LogKey};
use crate::log::tree::{CompactRange, Root};

const TITLE: &str = "countersign backup v1";

/// What a backup states of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The tree over its records.
    pub tree: CompactRange,
    /// The epoch of the vault's copy; it may be newer, never older.
    pub epoch: u32,
    /// How many slots the copy has at least.
    pub slots: u32,
}

impl Manifest {
    /// The file's text.
    pub fn encode(&self, key: &LogKey) -> String {
        let roots: Vec<String> =
            self.tree.subtrees().iter().map(|root| BASE64.encode(root)).collect();
        let mut text = format!("{TITLE}\nvault {} {}\n", self.epoch, self.slots);
        // Writing to a string does not fail.
        let _ = writeln!(text, "tree {}", roots.join(","));
        let checksum = crc32c::crc32c(text.as_bytes());
        let checkpoint = Checkpoint { size: self.tree.size(), root: self.tree.root() };
        let _ = write!(text, "check {checksum:08x}\n{}", key.sign(&checkpoint));
        text
    }

    /// Reads it; `None`: it is damaged, or another key's.
    pub fn decode(text: &str, key: &LogKey) -> Option<Self> {
        let (stated, rest) = text.split_once("check ")?;
        let (checksum, note) = rest.split_once('\n')?;
        if checksum != format!("{:08x}", crc32c::crc32c(stated.as_bytes())) {
            return None;
        }
        let [title, vault, tree] = stated.lines().collect::<Vec<_>>()[..] else { return None };
        let (epoch, slots) = vault.strip_prefix("vault ")?.split_once(' ')?;
        let roots = tree.strip_prefix("tree ")?;
        let roots: Option<Vec<Root>> = match roots {
            "" => Some(Vec::new()),
            roots => {
                roots.split(',').map(|root| BASE64.decode(root).ok()?.try_into().ok()).collect()
            }
        };
        let checkpoint = key.verify(note).ok()?;
        let tree = CompactRange::from_parts(checkpoint.size, roots?)?;
        let is_good = title == TITLE && tree.root() == checkpoint.root;
        is_good.then_some(Self { tree, epoch: epoch.parse().ok()?, slots: slots.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::tests::record;
    use super::*;
    use crate::log::record::hash;

    #[test]
    fn it_reads_back_and_each_changed_byte_is_found() {
        let key = LogKey::generate("test", &mut rand::rng()).unwrap();
        let mut tree = CompactRange::default();
        for size in 0..6 {
            let manifest = Manifest { tree: tree.clone(), epoch: 3, slots: 70 };
            let text = manifest.encode(&key);
            assert_eq!(Manifest::decode(&text, &key), Some(manifest));
            for at in 0..text.len() {
                let mut changed = text.clone().into_bytes();
                changed[at] ^= 1;
                let read = String::from_utf8(changed).ok();
                let read = read.and_then(|text| Manifest::decode(&text, &key));
                assert_eq!(read, None, "{size}: byte {at}");
                let cut = text.get(..at).and_then(|cut| Manifest::decode(cut, &key));
                // The last line need not end.
                assert!(cut.is_none() || at == text.len() - 1, "{size}: cut at {at}");
            }
            tree.push(hash(&record(size)));
        }
        let theirs = LogKey::generate("test", &mut rand::rng()).unwrap();
        let text = Manifest { tree, epoch: 3, slots: 70 }.encode(&theirs);
        assert_eq!(Manifest::decode(&text, &key), None);
    }
}
