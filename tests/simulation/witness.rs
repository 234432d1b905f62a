//! Sees each record at the moment it is appended, while its key is there, and each key that goes: what
//! servers say later is compared with this.

use countersign::domain::{Event, Position};
use countersign::log::record::{self, KeySlot, RecordHash};
use countersign::log::tree::{CompactRange, Root};
use countersign::log::{Log, codec};
use countersign::seal::RecordKey;
use countersign::vault::Vault;

/// A record as it was appended.
pub(crate) struct Seen {
    pub(crate) event: Event,
    pub(crate) slot: KeySlot,
    pub(crate) hash: RecordHash,
}

/// All that ever happened to log and vault.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) seen: Vec<Seen>,
    /// Keys that were destroyed, and how long the log was then.
    pub(crate) destroyed: Vec<(Position, KeySlot)>,
    /// The root over the first so many records, less one.
    roots: Vec<Root>,
    tree: CompactRange,
}

impl Witness {
    /// Each record must be in its place, open under a live key, and be an event.
    pub(crate) fn appended(&mut self, first: Position, records: &[Vec<u8>], vault: &dyn Vault) {
        assert_eq!(first, self.head(), "an append left a gap, or was made twice");
        for (bytes, position) in records.iter().zip(first.0..) {
            let (header, sealed) = record::decode(bytes, Position(position)).unwrap();
            let key = vault.key(header.slot).unwrap();
            let plaintext = RecordKey::derive(&key, &header.id)
                .open(sealed, &header.to_bytes(), &header.commitment)
                .unwrap();
            let event = codec::decode(&plaintext).unwrap();
            let hash = record::hash(bytes);
            self.seen.push(Seen { event, slot: header.slot, hash });
            self.tree.push(hash);
            self.roots.push(self.tree.root());
        }
    }

    pub(crate) fn destroyed(&mut self, slots: &[KeySlot]) {
        let head = self.head();
        self.destroyed.extend(slots.iter().map(|slot| (head, *slot)));
    }

    pub(crate) fn head(&self) -> Position {
        Position(self.seen.len() as u64)
    }

    /// The root over the first `size` records.
    pub(crate) fn root(&self, size: Position) -> Root {
        match usize::try_from(size.0).unwrap().checked_sub(1) {
            Some(last) => self.roots[last],
            None => CompactRange::default().root(),
        }
    }

    /// The event with this record's hash: there is one, in one place.
    pub(crate) fn only(&self, hash: &RecordHash) -> Option<(Position, &Event)> {
        let mut found = (0..).map(Position).zip(&self.seen).filter(|(_, seen)| seen.hash == *hash);
        let first = found.next().map(|(position, seen)| (position, &seen.event));
        assert!(found.next().is_none(), "a record is there twice");
        first
    }

    /// What was appended is there, unchanged, and nothing else is.
    pub(crate) fn assert_kept(&self, log: &dyn Log) {
        let records = log.read(Position::ZERO, usize::MAX).unwrap();
        assert_eq!(records.len(), self.seen.len(), "the log has another length");
        for ((bytes, seen), position) in records.iter().zip(&self.seen).zip(0..) {
            record::decode(bytes, Position(position)).unwrap();
            assert!(record::hash(bytes) == seen.hash, "record {position} changed");
        }
    }
}
