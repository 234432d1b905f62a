//! A row of the log's tree in sled: records of one append, each behind its length, and a mark; its key is
//! the position of the first.

use std::io;

use super::LogError;
use super::record::RecordError;
use crate::domain::Position;

/// The mark of an append's last chunk, and of those before it. No flipped bit makes one the other.
pub(super) const COMMIT: u8 = 0xA5;
pub(super) const MORE: u8 = 0x5A;

/// How long a chunk may get. sled moves what is longer than 128 KiB into files that it never syncs, and
/// up to 17 chunks go into one node, which it writes and reads as a whole: longer ones make appends of hundreds
/// of records a little cheaper, and each look at one record of a long log dearer.
pub(super) const CHUNK_BYTES: usize = 2048;

/// A record's length stands before it.
type Length = u16;
pub(super) const LENGTH_BYTES: usize = size_of::<Length>();
/// A record and its length have at most so many bytes.
pub(super) const LONGEST: usize = LENGTH_BYTES + Length::MAX as usize;

/// Puts records together, as many as fit a chunk, with its mark still to come.
pub(super) fn chunk(records: &[Vec<u8>]) -> Result<(Vec<u8>, usize), LogError> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut count = 0;
    for record in records {
        let is_full = chunk.len() + LENGTH_BYTES + record.len() >= CHUNK_BYTES;
        if is_full && count > 0 {
            break;
        }
        let length = Length::try_from(record.len()).map_err(|_| too_long())?;
        chunk.extend_from_slice(&length.to_be_bytes());
        chunk.extend_from_slice(record);
        count += 1;
    }
    Ok((chunk, count))
}

fn too_long() -> LogError {
    io::Error::new(io::ErrorKind::InvalidInput, "a record is longer than 65,535 bytes").into()
}

/// The records in a chunk, whose first is at `position`, and its mark.
pub(super) fn parts(position: Position, value: &[u8]) -> Result<(Vec<&[u8]>, u8), LogError> {
    let damaged = |records: &[&[u8]]| {
        LogError::Damaged(position.plus(records.len() as u64), RecordError::Short)
    };
    let mut records: Vec<&[u8]> = Vec::with_capacity(CHUNK_BYTES / 256);
    let (&mark, mut rest) = value.split_last().ok_or_else(|| damaged(&records))?;
    while !rest.is_empty() {
        let (record, after) = split_first(rest).ok_or_else(|| damaged(&records))?;
        records.push(record);
        rest = after;
    }
    if records.is_empty() { Err(damaged(&records)) } else { Ok((records, mark)) }
}

/// The record that bytes begin with, behind its length, and what comes after it.
pub(super) fn split_first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(Length::from_be_bytes(*length).into())
}

pub(super) fn foreign() -> LogError {
    LogError::Engine("they hold what this software did not write".to_owned())
}

pub(super) fn position(key: &[u8]) -> Result<Position, LogError> {
    Ok(Position(u64::from_be_bytes(key.try_into().map_err(|_| foreign())?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_ends_within_a_record_names_its_position() {
        let (mut value, _) = chunk(&[vec![1; 10], vec![2; 10]]).unwrap();
        value.push(COMMIT);
        value.remove(15);
        let damaged = parts(Position(5), &value).unwrap_err();
        assert!(matches!(damaged, LogError::Damaged(Position(6), RecordError::Short)), "{damaged}");
        for value in [&[][..], &[COMMIT]] {
            assert!(matches!(parts(Position(5), value), Err(LogError::Damaged(Position(5), _))));
        }
    }
}
