//! Replays a whole log against checkpoints of it, and names the first position that differs.
//!
//! A checkpoint says that something differs, not what. Tiles say what the records' hashes were; they
//! are signed by nobody, but where the root over them is a checkpoint's, they are what it was of.

use crate::domain::{Position, Timestamp};
use crate::log::head::Checkpoint;
use crate::log::record::{self, RecordHash};
use crate::log::tree::CompactRange;
use crate::log::{Log, LogError, scan};

/// How far a clock that was put right may go back.
const CLOCK_STEP_SECONDS: i64 = 60 * 60;

/// A checkpoint, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it states.
    pub checkpoint: Checkpoint,
    /// For whoever reads what differs.
    pub source: String,
}

/// The log is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    /// Another record is there than was.
    #[error(
        "the record at position {position} is not the one that was written: {source_} of {size} records \
         does not match; restore the log from a backup, and find out who changed it"
    )]
    Changed {
        /// The first that differs.
        position: Position,
        /// The size of the checkpoint that says so.
        size: Position,
        /// Where it is from.
        source_: String,
    },
    /// The same, and nothing tells which.
    #[error(
        "a record between the positions {from} and {to} is not the one that was written: {source_} does \
         not match; an older checkpoint, or the tiles of a mirror, would tell which"
    )]
    ChangedBetween {
        /// All before it are as they were.
        from: Position,
        /// The size of the checkpoint that says so.
        to: Position,
        /// Where it is from.
        source_: String,
    },
    /// It ends too early.
    #[error(
        "the log ends at position {head}, but {source_} is of {size} records: the newest were dropped, \
         or the log was restored from an older backup"
    )]
    Lost {
        /// Where it ends.
        head: Position,
        /// The size of the checkpoint that says so.
        size: Position,
        /// Where it is from.
        source_: String,
    },
    /// An event says that it was before one that the log had already.
    #[error(
        "the event at position {position} is backdated: it says {said}, but one before it was recorded \
         at {before}; or the clock was wrong then"
    )]
    Backdated {
        /// Where.
        position: Position,
        /// When it says it was.
        said: Timestamp,
        /// When one before it was.
        before: Timestamp,
    },
}

impl Difference {
    /// The position that is named.
    pub fn position(&self) -> Position {
        match self {
            Self::Changed { position, .. } | Self::Backdated { position, .. } => *position,
            Self::ChangedBetween { from, .. } => *from,
            Self::Lost { head, .. } => *head,
        }
    }
}

/// Reads the whole log. `tiles` are the hashes that its records had, as far as they are known; `recorded`
/// tells when an event was recorded, where it can be opened and says so. The tree over what is there,
/// if it is what all checkpoints are of.
pub fn replay<E: From<Difference> + From<LogError>>(
    log: &dyn Log,
    mut known: Vec<Known>,
    tiles: impl Iterator<Item = RecordHash>,
    mut recorded: impl FnMut(Position, &[u8]) -> Result<Option<Timestamp>, E>,
) -> Result<CompactRange, E> {
    known.sort_by_key(|known| known.checkpoint.size);
    let mut trees = Trees {
        log: CompactRange::default(),
        tiles: Some(CompactRange::default()),
        first_difference: None,
        matched: Position::ZERO,
    };
    let (mut hashes, mut checkpoints) = (tiles.fuse(), known.into_iter().peekable());
    trees.compare(&mut checkpoints)?;
    let mut newest: Option<Timestamp> = None;
    let mut backdated = None;
    let head = scan(log, Position::ZERO, |position, bytes| {
        record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        trees.add(record::hash(bytes), hashes.next());
        trees.compare(&mut checkpoints)?;
        if let Some(said) = recorded(position, bytes)? {
            if let Some(before) = newest
                && said.as_seconds() + CLOCK_STEP_SECONDS < before.as_seconds()
            {
                backdated.get_or_insert(Difference::Backdated { position, said, before });
            }
            newest = newest.max(Some(said));
        }
        Ok::<_, E>(())
    })?;
    // What else there was.
    let longest = checkpoints.clone().last();
    if let Some(Known { checkpoint, source }) = longest {
        let (size, source_) = (checkpoint.size, source);
        while let Some(tree) = &mut trees.tiles
            && tree.size() < size
        {
            match hashes.next() {
                Some(hash) => tree.push(hash),
                None => trees.tiles = None,
            }
        }
        let are_true = trees.tiles.as_ref().is_some_and(|tree| tree.root() == checkpoint.root);
        let difference = match trees.first_difference.filter(|_| are_true) {
            Some(position) => Difference::Changed { position, size, source_ },
            None => Difference::Lost { head, size, source_ },
        };
        return Err(difference.into());
    }
    backdated.map_or(Ok(trees.log), |backdated: Difference| Err(backdated.into()))
}

/// The tree over the records that are there, and the one over those that were.
struct Trees {
    log: CompactRange,
    /// `None`: there are no more hashes.
    tiles: Option<CompactRange>,
    first_difference: Option<Position>,
    /// The size of the last checkpoint that matched.
    matched: Position,
}

impl Trees {
    fn add(&mut self, hash: RecordHash, was: Option<RecordHash>) {
        if was.is_some_and(|was| was != hash) {
            self.first_difference.get_or_insert(self.log.size());
        }
        self.log.push(hash);
        match (was, &mut self.tiles) {
            (Some(was), Some(tree)) => tree.push(was),
            _ => self.tiles = None,
        }
    }

    /// Compares with the checkpoints of the size that is reached.
    fn compare(
        &mut self,
        known: &mut std::iter::Peekable<std::vec::IntoIter<Known>>,
    ) -> Result<(), Difference> {
        let size = self.log.size();
        while let Some(Known { checkpoint, source }) =
            known.next_if(|known| known.checkpoint.size == size)
        {
            if checkpoint.root == self.log.root() {
                self.matched = size;
                continue;
            }
            let are_true = self.tiles.as_ref().is_some_and(|tree| tree.root() == checkpoint.root);
            let source_ = source;
            return Err(match self.first_difference.filter(|_| are_true) {
                Some(position) => Difference::Changed { position, size, source_ },
                None => Difference::ChangedBetween { from: self.matched, to: size, source_ },
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::record::{Header, KeySlot, RecordError};
    use crate::log::tree::tests::tree_of;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    enum Bad {
        Difference(#[from] Difference),
        Log(#[from] LogError),
    }

    impl Bad {
        fn difference(self) -> Difference {
            match self {
                Self::Difference(difference) => difference,
                Self::Log(error) => panic!("{error}"),
            }
        }
    }

    const SOURCE: &str = "the checkpoint in a test";

    /// A record whose content is a number.
    fn record(position: u64, content: u8) -> Vec<u8> {
        let position = Position(position);
        let (slot, id, commitment) = (KeySlot(1), [content; 16], [0; 32]);
        record::encode(&Header { event_type: 1, position, slot, id, commitment }, &[content; 80])
    }

    fn records(contents: impl IntoIterator<Item = u8>) -> Vec<Vec<u8>> {
        (0..).zip(contents).map(|(position, content)| record(position, content)).collect()
    }

    fn known(records: &[Vec<u8>]) -> Known {
        let tree = tree_of(records);
        let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
        Known { checkpoint, source: SOURCE.to_owned() }
    }

    fn replayed(
        there: &[Vec<u8>],
        known: Vec<Known>,
        were: &[Vec<u8>],
    ) -> Result<CompactRange, Bad> {
        let log = MemoryLog::default();
        let _ = log.append(Position::ZERO, there).unwrap();
        replay(&log, known, were.iter().map(|bytes| record::hash(bytes)), |_, _| Ok(None))
    }

    #[test]
    fn a_log_that_goes_on_matches_all_its_checkpoints() {
        let all = records(0..20);
        let checkpoints = || [0, 1, 7, 20].map(|size| known(&all[..size])).to_vec();
        for tiles in [&all[..], &all[..5], &[]] {
            assert_eq!(replayed(&all, checkpoints(), tiles).unwrap(), tree_of(&all));
        }
        // Tiles are signed by nobody.
        let wrong = records(100..120);
        assert_eq!(replayed(&all, checkpoints(), &wrong).unwrap(), tree_of(&all));
    }

    #[test]
    fn each_way_to_change_it_is_named_by_its_first_position() {
        let all = records(0..20);
        let checkpoints = || [4, 12, 20].map(|size| known(&all[..size])).to_vec();
        let dropped = records((0..20).filter(|content| *content != 6));
        let edited = records((0..20).map(|content| if content == 6 { 99 } else { content }));
        let mut swapped: Vec<u8> = (0..20).collect();
        swapped.swap(6, 9);
        for there in [dropped, edited, records(swapped)] {
            let difference = replayed(&there, checkpoints(), &all).unwrap_err().difference();
            assert!(
                matches!(
                    &difference,
                    Difference::Changed { position: Position(6), size: Position(12), .. }
                ),
                "{difference}"
            );
            assert!(difference.to_string().contains(SOURCE), "{difference}");
            let without_tiles = replayed(&there, checkpoints(), &[]).unwrap_err().difference();
            assert!(
                matches!(
                    without_tiles,
                    Difference::ChangedBetween { from: Position(4), to: Position(12), .. }
                ),
                "{without_tiles}"
            );
            // Whoever changes the records may change the tiles as well.
            let forged = replayed(&there, checkpoints(), &there).unwrap_err().difference();
            assert_eq!(forged.position(), Position(4), "{forged}");
        }
        let truncated = replayed(&all[..15], checkpoints(), &all).unwrap_err().difference();
        assert!(matches!(
            truncated,
            Difference::Lost { head: Position(15), size: Position(20), .. }
        ));
        let mut shorter = records((0..15).map(|content| if content == 13 { 99 } else { content }));
        let both = replayed(&shorter, checkpoints(), &all).unwrap_err().difference();
        assert!(matches!(both, Difference::Changed { position: Position(13), .. }), "{both}");
        shorter[2][70] ^= 1;
        let damaged = replayed(&shorter, checkpoints(), &all).unwrap_err();
        let place = Position(2);
        assert!(matches!(
            damaged,
            Bad::Log(LogError::Damaged(at, RecordError::Checksum)) if at == place
        ));
    }

    #[test]
    fn an_event_with_a_time_before_those_before_it_is_named() {
        let log = MemoryLog::default();
        let _ = log.append(Position::ZERO, &records(0..6)).unwrap();
        let at = |hours: i64| Timestamp::from_millis(hours * 3_600_000 + 1_700_000_000_000);
        let replayed = |hours: [Option<i64>; 6]| {
            let recorded = |position: Position, _: &[u8]| {
                Ok::<_, Bad>(hours[usize::try_from(position.0).unwrap()].and_then(at))
            };
            replay(&log, Vec::new(), std::iter::empty(), recorded)
        };
        assert!(replayed([Some(0), None, Some(9), Some(8), Some(9), Some(10)]).is_ok());
        let backdated = replayed([Some(0), Some(9), None, Some(7), Some(9), Some(0)]);
        let backdated = backdated.unwrap_err().difference();
        assert_eq!(backdated.position(), Position(3), "{backdated}");
        let text = backdated.to_string();
        assert!(text.contains("position 3 is backdated: it says 2023-11-15T05"), "{text}");
    }
}
