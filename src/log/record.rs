//! A record: an event sealed for storage, with its clear header.
//!
//! ```text
//! offset  bytes
//!      0      1  format, 1
//!      1      1  event type: the field number of the kind in `events.proto`
//!      2      8  position, big-endian
//!     10      4  key slot, big-endian
//!     14     16  record id
//!     30     32  commitment
//!     62      n  sealed event: a padded length and 16 bytes of tag
//!   62+n      4  CRC-32C of all before it, big-endian
//! ```
//!
//! The first 62 bytes are the associated data of the seal. The checksum finds damage also where the
//! key is gone for good.

use sha2::{Digest as _, Sha256};

use crate::domain::Position;
use crate::seal::{Commitment, RecordId, TAG_BYTES};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 62;
const CHECKSUM_BYTES: usize = 4;

/// The RFC 6962 §2.1 leaf hash of a record: `SHA-256(0x00 || record)`.
pub type RecordHash = [u8; 32];

/// Where the vault keeps the key that a record is sealed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeySlot(pub u32);

/// What of a record is not sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The kind of event.
    pub event_type: u8,
    /// Its place in the log.
    pub position: Position,
    /// Where its key is.
    pub slot: KeySlot,
    /// Names its record key.
    pub id: RecordId,
    /// Binds it to its data key.
    pub commitment: Commitment,
}

/// Why stored bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than the shortest record.
    #[error("is cut short")]
    Short,
    /// The checksum does not match.
    #[error("does not match its checksum")]
    Checksum,
    /// Written by a later version of this software.
    #[error("has format {0}, which this version does not know")]
    Format(u8),
    /// It says that it belongs elsewhere.
    #[error("says that it belongs at position {0}")]
    Misplaced(Position),
}

impl Header {
    /// The bytes that the seal binds.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = FORMAT;
        bytes[1] = self.event_type;
        bytes[2..10].copy_from_slice(&self.position.0.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.slot.0.to_be_bytes());
        bytes[14..30].copy_from_slice(&self.id);
        bytes[30..62].copy_from_slice(&self.commitment);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            event_type: *bytes.get(1)?,
            position: said_position(bytes)?,
            slot: KeySlot(u32::from_be_bytes(bytes.get(10..14)?.try_into().ok()?)),
            id: bytes.get(14..30)?.try_into().ok()?,
            commitment: bytes.get(30..62)?.try_into().ok()?,
        })
    }
}

/// Puts a record together.
pub fn encode(header: &Header, sealed: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + sealed.len() + CHECKSUM_BYTES);
    record.extend_from_slice(&header.to_bytes());
    record.extend_from_slice(sealed);
    let checksum = crc32c::crc32c(&record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

/// Takes a record apart: its header and what is sealed. `position` is where it was found.
pub fn decode(record: &[u8], position: Position) -> Result<(Header, &[u8]), RecordError> {
    let body = record
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .filter(|&end| end >= HEADER_BYTES + TAG_BYTES)
        .ok_or(RecordError::Short)?;
    let (body, checksum) = record.split_at(body);
    if crc32c::crc32c(body).to_be_bytes() != checksum {
        return Err(RecordError::Checksum);
    }
    if body[0] != FORMAT {
        return Err(RecordError::Format(body[0]));
    }
    let header = Header::from_bytes(body).ok_or(RecordError::Short)?;
    if header.position != position {
        return Err(RecordError::Misplaced(header.position));
    }
    Ok((header, &body[HEADER_BYTES..]))
}

/// The position that a record says it belongs at, whether or not it is whole.
pub fn said_position(record: &[u8]) -> Option<Position> {
    Some(Position(u64::from_be_bytes(record.get(2..10)?.try_into().ok()?)))
}

/// The leaf hash of a record as it is stored.
pub fn hash(record: &[u8]) -> RecordHash {
    Sha256::new_with_prefix([0]).chain_update(record).finalize().into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The first records of a log.
    pub(crate) fn records(count: u64) -> Vec<Vec<u8>> {
        let header = |position| {
            let (event_type, slot) = (1, KeySlot(1));
            Header { event_type, position, slot, id: [0; 16], commitment: [0; 32] }
        };
        (0..count).map(|i| encode(&header(Position(i)), &[7; 80])).collect()
    }

    fn header() -> Header {
        Header {
            event_type: 3,
            position: Position(41),
            slot: KeySlot(7),
            id: [1; 16],
            commitment: [2; 32],
        }
    }

    #[test]
    fn a_record_reads_back() {
        let record = encode(&header(), &[9; 144]);
        assert_eq!(decode(&record, Position(41)), Ok((header(), [9; 144].as_slice())));
    }

    #[test]
    fn each_flipped_bit_and_each_cut_is_found() {
        let record = encode(&header(), &[9; 144]);
        for bit in 0..record.len() * 8 {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&changed, Position(41)), Err(RecordError::Checksum), "bit {bit}");
        }
        for length in 0..record.len() {
            assert!(decode(&record[..length], Position(41)).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_record_moved_elsewhere_is_found() {
        let record = encode(&header(), &[9; 144]);
        assert_eq!(decode(&record, Position(40)), Err(RecordError::Misplaced(Position(41))));
    }
}
