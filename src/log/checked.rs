//! What a check of the whole log found, kept so that the next start need not read all of a long log
//! before it serves.
//!
//! That its tree is the log's, the signed head file tells: the root there is over it and what came after.
//! What has become of the records on the disk since then, only reading them tells, which
//! [`check_again`] does behind the serving server.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::head::{Checkpoint, HeadError};
use super::record;
use super::tree::{CompactRange, Root};
use super::{Log, LogError, PAGE};
use crate::domain::Position;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The tree over the records that were read.
    pub tree: CompactRange,
    /// How many of them are sealed under which key, by its slot.
    pub counts: Vec<u32>,
    /// How many slots the vault had used. Each of them has a record, or is of no use to anyone.
    pub slots: u32,
}

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u8,
    size: u64,
    subtrees: Vec<Root>,
    counts: Vec<u32>,
    slots: u32,
}

impl Checked {
    /// What to store: the content, and its SHA-256.
    pub fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored {
            version: VERSION,
            size: self.tree.size().0,
            subtrees: self.tree.subtrees().to_vec(),
            counts: self.counts.clone(),
            slots: self.slots,
        };
        // Numbers and lists alone, which always have a form.
        let mut bytes = postcard::to_stdvec(&stored).unwrap_or_default();
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        bytes
    }

    /// `None`: it is damaged, or of another version. Then all is to be checked.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (content, hash) = bytes.split_last_chunk::<32>()?;
        if Sha256::digest(content)[..] != hash[..] {
            return None;
        }
        let stored: Stored = postcard::from_bytes(content).ok()?;
        let Stored { version, size, subtrees, counts, slots } = stored;
        let tree = CompactRange::from_parts(Position(size), subtrees)?;
        (version == VERSION).then_some(Self { tree, counts, slots })
    }
}

/// How much longer than for reading a page it waits before the next: it leaves the machine to others.
const WAIT_FACTOR: u32 = 4;

/// Reads the records again that a checkpoint is over, little by little, and tells whether it came to
/// their end. It returns early when it is told to end, and then has found nothing.
pub fn check_again(
    log: &dyn Log,
    known: &Checkpoint,
    ended: &Receiver<()>,
) -> Result<bool, HeadError> {
    let mut tree = CompactRange::default();
    while tree.size() < known.size {
        let begun = Instant::now();
        let left = usize::try_from(known.size.0 - tree.size().0).unwrap_or(usize::MAX);
        let page = log.read(tree.size(), left.min(PAGE))?;
        if page.is_empty() {
            return Err(HeadError::Lost { head: tree.size(), expected: known.size });
        }
        for bytes in &page {
            record::decode(bytes, tree.size())
                .map_err(|error| LogError::Damaged(tree.size(), error))?;
            tree.push(record::hash(bytes));
        }
        let pause = begun.elapsed().min(Duration::from_secs(1)) * WAIT_FACTOR;
        if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return Ok(false);
        }
    }
    if tree.root() == known.root { Ok(true) } else { Err(HeadError::Changed(known.size)) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::record::tests::records;
    use crate::log::tree::tests::tree_of;

    #[test]
    fn it_reads_back_and_each_changed_byte_is_found() {
        let checked =
            Checked { tree: tree_of(&records(11)), counts: vec![0, 7, 300, 0, 1], slots: 4 };
        let bytes = checked.to_bytes();
        assert_eq!(Checked::from_bytes(&bytes), Some(checked));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Checked::from_bytes(&changed), None, "byte {at}");
            assert_eq!(Checked::from_bytes(&bytes[..at]), None);
        }
    }

    #[test]
    fn what_was_changed_or_lost_since_is_found() {
        let all = records(PAGE as u64 + 10);
        let known = |records: &[Vec<u8>]| {
            let tree = tree_of(records);
            Checkpoint { size: tree.size(), root: tree.root() }
        };
        let (_end, ended) = mpsc::channel();
        let check = |there: &[Vec<u8>], known: &Checkpoint| {
            let log = MemoryLog::default();
            let _ = log.append(Position::ZERO, there).unwrap();
            check_again(&log, known, &ended)
        };
        // What came later is for others.
        for size in [0, 1, PAGE, all.len()] {
            assert!(check(&all, &known(&all[..size])).unwrap());
        }
        let lost = check(&all[..5], &known(&all));
        assert!(matches!(lost, Err(HeadError::Lost { head: Position(5), .. })));
        let mut other = all.clone();
        let (header, _) = record::decode(&all[3], Position(3)).unwrap();
        other[3] = record::encode(&header, &[8; 80]);
        let changed = check(&other, &known(&all));
        assert!(matches!(changed, Err(HeadError::Changed(size)) if size.0 == all.len() as u64));
        other[PAGE][70] ^= 1;
        let damaged = check(&other, &known(&all)).unwrap_err().to_string();
        assert!(damaged.contains(&format!("position {PAGE}")), "{damaged}");
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let log = MemoryLog::default();
        let all = records(3);
        let _ = log.append(Position::ZERO, &all).unwrap();
        let (end, ended) = mpsc::channel();
        drop(end);
        // Nothing of that size is there, which it does not come to see.
        let known = Checkpoint { size: Position(9), root: [0; 32] };
        assert!(!check_again(&log, &known, &ended).unwrap());
    }
}
