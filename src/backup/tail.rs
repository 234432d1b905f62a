//! The tail of an archive: the newest records, in a file that grows until it is a segment's worth.
//!
//! ```text
//! offset  bytes
//!      0     20  "countersign tail v1\n"
//!     20      8  position of the first record
//!     28     32  RFC 6962 root of all records before it
//!     60      4  CRC-32C of all before it
//!     64      n  records, each behind its length in 4 bytes
//! ```
//!
//! What of it the manifest does not state yet may be torn, and is cut off before more is added.

use super::segment::{Prefix, SegmentError, split};
use crate::domain::Position;
use crate::log::tree::Root;

const TITLE: &[u8; 20] = b"countersign tail v1\n";
const CHECKSUM_AT: usize = 60;

/// The length of what is before the records.
pub const HEADER_BYTES: usize = 64;

/// The beginning of a tail.
pub fn header(first: Position, before: &Root) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..20].copy_from_slice(TITLE);
    bytes[20..28].copy_from_slice(&first.0.to_be_bytes());
    bytes[28..60].copy_from_slice(before);
    let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
    bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The root over what is before a tail, as it says itself.
pub fn before(bytes: &[u8]) -> Result<Root, SegmentError> {
    bytes.get(28..CHECKSUM_AT).and_then(|root| root.try_into().ok()).ok_or(SegmentError::Form)
}

/// The good records that a tail begins with, and why they end where they do not end with the file.
/// `first` is what its name says.
pub fn decode<'a>(
    bytes: &'a [u8],
    first: Position,
    before: &Root,
) -> Result<Prefix<'a>, SegmentError> {
    let (start, records) = bytes.split_at_checked(HEADER_BYTES).ok_or(SegmentError::Form)?;
    if *start == header(first, before) {
        return Ok(split(records, first));
    }
    let checksum = crc32c::crc32c(&start[..CHECKSUM_AT]).to_be_bytes();
    let stated = start[20..28].try_into().map_or(0, u64::from_be_bytes);
    Err(if !start.starts_with(TITLE) || checksum != start[CHECKSUM_AT..] {
        SegmentError::Form
    } else if stated != first.0 {
        SegmentError::Misplaced(Position(stated))
    } else {
        SegmentError::Discontinuous(first)
    })
}

#[cfg(test)]
mod tests {
    use super::super::segment::tests::record;
    use super::*;

    #[test]
    fn each_flipped_bit_ends_it_before_the_record_and_each_cut_before_what_is_missing() {
        let framed = record(0).len() + 4;
        let mut bytes = header(Position(5), &[4; 32]).to_vec();
        for position in 5..8 {
            let record = record(position);
            bytes.extend_from_slice(&u32::try_from(record.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&record);
        }
        let good = |bytes: &[u8]| {
            let (records, result) = decode(bytes, Position(5), &[4; 32]).ok()?;
            assert!(records.iter().zip(5..).all(|(found, at)| *found == record(at)));
            Some((records.len(), result.is_ok()))
        };
        assert_eq!(good(&bytes), Some((3, true)));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let expected = (bit / 8).checked_sub(HEADER_BYTES).map(|at| (at / framed, false));
            assert_eq!(good(&changed), expected, "bit {bit}");
        }
        for length in 0..bytes.len() {
            let records = length.checked_sub(HEADER_BYTES);
            let expected = records.map(|at| (at / framed, at % framed == 0));
            assert_eq!(good(&bytes[..length]), expected, "length {length}");
        }
        assert_eq!(
            decode(&bytes, Position(6), &[4; 32]).unwrap_err(),
            SegmentError::Misplaced(Position(5))
        );
        assert_eq!(
            decode(&bytes, Position(5), &[3; 32]).unwrap_err(),
            SegmentError::Discontinuous(Position(5))
        );
    }
}
