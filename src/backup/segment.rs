//! A segment: records of the log, one after the other, in a file that never changes.
//!
//! ```text
//! offset  bytes
//!      0     23  "countersign segment v1\n"
//!     23      8  position of the first record
//!     31     32  RFC 6962 root of all records before it
//!     63      8  number of records
//!     71      n  the records, each behind its length in 4 bytes
//!   71+n     32  SHA-256 of all before it
//! ```
//!
//! Numbers are big-endian. The hash finds any damage, the root that a segment goes on where those
//! before it end, and each record says itself where it belongs.

use sha2::{Digest as _, Sha256};

use crate::domain::Position;
use crate::log::record::{self, RecordError};
use crate::log::tree::Root;

const TITLE: &[u8; 23] = b"countersign segment v1\n";
const HEADER_BYTES: usize = 71;
const COUNT_AT: usize = 63;
const HASH_BYTES: usize = 32;

/// A record's length stands before it.
pub(super) type Length = u32;

/// When a segment is full. Large enough that a log of millions of records is some hundreds of files,
/// and small enough to be held in memory.
pub(super) const FULL_BYTES: usize = 4 << 20;

/// Why a file of records is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Not written by this software, or too short to tell.
    #[error("is no file of records, or is cut short")]
    Form,
    /// A record is not as it was written.
    #[error("is damaged: the record at position {0} {1}")]
    Record(Position, RecordError),
    /// Something else in it is not.
    #[error("is damaged: it does not match its checksum, though its {0} records match theirs")]
    Checksum(u64),
    /// It says that it begins elsewhere.
    #[error("says that it begins at position {0}; was it renamed?")]
    Misplaced(Position),
    /// It is not of this log, or of this backup.
    #[error("does not go on where those before it end, at position {0}: it is another log's")]
    Discontinuous(Position),
}

/// Records that are put together.
#[derive(Debug)]
pub struct Builder {
    first: Position,
    before: Root,
    count: u64,
    records: Vec<u8>,
}

impl Builder {
    /// None yet; the first will be at that position, and the root over those before it is `before`.
    pub fn new(first: Position, before: Root) -> Self {
        Self { first, before, count: 0, records: Vec::new() }
    }

    /// Adds the next.
    pub fn push(&mut self, record: &[u8]) -> Result<(), SegmentError> {
        let length = Length::try_from(record.len()).map_err(|_| SegmentError::Form)?;
        self.records.extend_from_slice(&length.to_be_bytes());
        self.records.extend_from_slice(record);
        self.count += 1;
        Ok(())
    }

    /// Where it begins.
    pub fn first(&self) -> Position {
        self.first
    }

    /// The root over what is before it.
    pub fn before(&self) -> &Root {
        &self.before
    }

    /// The records, each behind its length.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.records.len() + HASH_BYTES);
        bytes.extend_from_slice(TITLE);
        bytes.extend_from_slice(&self.first.0.to_be_bytes());
        bytes.extend_from_slice(&self.before);
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes.extend_from_slice(&self.records);
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        bytes
    }
}

/// Takes a segment apart whose name says that it begins at `first`, and that must go on from `before`.
pub fn decode<'a>(
    bytes: &'a [u8],
    first: Position,
    before: &Root,
) -> Result<Vec<&'a [u8]>, SegmentError> {
    let end = bytes.len().checked_sub(HASH_BYTES).filter(|&end| end >= HEADER_BYTES);
    let end = end.ok_or(SegmentError::Form)?;
    if !bytes.starts_with(TITLE) {
        return Err(SegmentError::Form);
    }
    let (body, hash) = bytes.split_at(end);
    let (records, result) = split(&body[HEADER_BYTES..], first);
    if Sha256::digest(body)[..] != *hash {
        // Which record it is helps whoever looks for what is lost.
        result?;
        return Err(SegmentError::Checksum(records.len() as u64));
    }
    let number = |at: usize| body[at..at + 8].try_into().map_or(0, u64::from_be_bytes);
    let stated = Position(number(TITLE.len()));
    if stated != first {
        return Err(SegmentError::Misplaced(stated));
    }
    if body[COUNT_AT - 32..COUNT_AT] != *before {
        return Err(SegmentError::Discontinuous(first));
    }
    result?;
    if number(COUNT_AT) == records.len() as u64 { Ok(records) } else { Err(SegmentError::Form) }
}

/// The position after the last record of a segment, as its header says.
pub(super) fn end(bytes: &[u8]) -> Result<Position, SegmentError> {
    let header = bytes.get(..HEADER_BYTES).filter(|header| header.starts_with(TITLE));
    let header = header.ok_or(SegmentError::Form)?;
    let number = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_be_bytes);
    number(TITLE.len()).checked_add(number(COUNT_AT)).map(Position).ok_or(SegmentError::Form)
}

/// The good records that bytes begin with, and why they end where they do not end with the bytes.
pub type Prefix<'a> = (Vec<&'a [u8]>, Result<(), SegmentError>);

/// Takes records apart, each behind its length.
pub(super) fn split(mut bytes: &[u8], first: Position) -> Prefix<'_> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let position = first.plus(records.len() as u64);
        let next = bytes.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(Length::from_be_bytes(*length)).ok()?)
        });
        let Some((record, rest)) = next else {
            return (records, Err(SegmentError::Record(position, RecordError::Short)));
        };
        if let Err(error) = record::decode(record, position) {
            return (records, Err(SegmentError::Record(position, error)));
        }
        records.push(record);
        bytes = rest;
    }
    (records, Ok(()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::log::record::{Header, KeySlot};
    use crate::log::tree::CompactRange;

    pub(in super::super) fn record(position: u64) -> Vec<u8> {
        let header = Header {
            event_type: 1,
            position: Position(position),
            slot: KeySlot(1),
            id: [9; 16],
            commitment: [8; 32],
        };
        record::encode(&header, &[7; 80])
    }

    fn segment(first: u64, count: u64, before: Root) -> Vec<u8> {
        let mut builder = Builder::new(Position(first), before);
        for position in first..first + count {
            builder.push(&record(position)).unwrap();
        }
        builder.encode()
    }

    #[test]
    fn a_segment_reads_back() {
        let bytes = segment(5, 3, [4; 32]);
        let records = decode(&bytes, Position(5), &[4; 32]).unwrap();
        assert_eq!(records, [record(5), record(6), record(7)]);
        let empty = segment(0, 0, CompactRange::default().root());
        let none = decode(&empty, Position(0), &CompactRange::default().root()).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn each_flipped_bit_and_each_cut_is_found_and_a_record_named() {
        let bytes = segment(5, 3, [4; 32]);
        let framed = record(0).len() + 4;
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&changed, Position(5), &[4; 32]).unwrap_err();
            let expected = (bit / 8).checked_sub(HEADER_BYTES).map(|at| 5 + (at / framed) as u64);
            match error {
                SegmentError::Record(at, _) => assert_eq!(Some(at.0), expected, "bit {bit}"),
                SegmentError::Form => assert!(bit / 8 < TITLE.len(), "bit {bit}"),
                SegmentError::Checksum(3) => assert!(expected.is_none_or(|at| at == 8), "{bit}"),
                other => panic!("bit {bit}: {other}"),
            }
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], Position(5), &[4; 32]).is_err(), "length {length}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(decode(&longer, Position(5), &[4; 32]).is_err());
    }

    #[test]
    fn a_segment_that_belongs_elsewhere_is_found() {
        let bytes = segment(5, 3, [4; 32]);
        let renamed = decode(&bytes, Position(8), &[4; 32]);
        assert_eq!(renamed, Err(SegmentError::Misplaced(Position(5))));
        let other = decode(&bytes, Position(5), &[3; 32]);
        assert_eq!(other, Err(SegmentError::Discontinuous(Position(5))));
    }

    #[test]
    fn a_name_with_the_last_position_there_is_does_no_harm() {
        let mut builder = Builder::new(Position(u64::MAX), [4; 32]);
        builder.push(&record(u64::MAX)).unwrap();
        builder.push(&record(0)).unwrap();
        let error = decode(&builder.encode(), Position(u64::MAX), &[4; 32]).unwrap_err();
        assert!(matches!(error, SegmentError::Record(Position(u64::MAX), _)), "{error}");
    }
}
