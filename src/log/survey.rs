//! What is left of a log whose engine does not open its file: the records that are whole in it. A record
//! says its position and ends in a checksum, so that it is found wherever it lies, by looking for one at
//! each byte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{chunk, record};
use crate::domain::Position;

/// What is looked at at once. The longest record fits.
const WINDOW: usize = 1 << 20;
/// The shortest record is longer.
const SHORTEST: usize = 64;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Survey {
    /// The first that is nowhere in the file; where there is none, the one after the last.
    pub(super) first_missing: Position,
    /// Whether there should be one, or is one after it.
    pub(super) is_missed: bool,
}

/// Looks through the file of a log that had come to `end`, as far as that is known.
pub(super) fn survey(file: &File, end: Option<Position>) -> io::Result<Survey> {
    let size = file.metadata()?.len();
    // More than fit are not there.
    let most = usize::try_from(size).unwrap_or(usize::MAX) / SHORTEST;
    let mut found: Vec<bool> = Vec::new();
    let mut window = vec![0; WINDOW + chunk::LONGEST];
    for start in (0..size).step_by(WINDOW) {
        let left = usize::try_from(size - start).unwrap_or(usize::MAX).min(window.len());
        let bytes = &mut window[..left];
        file.read_exact_at(bytes, start)?;
        for at in 0..left.min(WINDOW) {
            let Some(position) = whole(&bytes[at..], |position| {
                position < most && !found.get(position).is_some_and(|found| *found)
            }) else {
                continue;
            };
            if found.len() <= position {
                found.resize(position + 1, false);
            }
            found[position] = true;
        }
    }
    let first = found.iter().position(|found| !found).unwrap_or(found.len());
    let first_missing = Position(first as u64);
    let is_missed = first < found.len() || end.is_some_and(|end| first_missing < end);
    Ok(Survey { first_missing, is_missed })
}

/// The position of a record that begins here and is of interest.
fn whole(bytes: &[u8], is_of_interest: impl Fn(usize) -> bool) -> Option<usize> {
    let (record, _) = chunk::split_first(bytes)?;
    let position = record::said_position(record)?;
    let index = usize::try_from(position.0).ok().filter(|index| is_of_interest(*index))?;
    record::decode(record, position).ok().map(|_| index)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::log::chunk::{LENGTH_BYTES, chunk};
    use crate::log::record::tests::records;

    #[test]
    fn the_first_record_that_is_not_whole_is_found() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("db");
        let mut file = vec![9; WINDOW - 50];
        let mut starts = Vec::new();
        let records = records(40);
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (bytes, count) = chunk(rest).unwrap();
            starts.extend((0..count).map(|i| file.len() + i * (LENGTH_BYTES + records[0].len())));
            file.extend(bytes);
            // What an engine puts between them.
            file.extend([0, 1, 255, 3]);
            rest = &rest[count..];
        }
        let said = |file: &[u8], end: Option<u64>| {
            fs::write(&path, file).unwrap();
            let survey = survey(&File::open(&path).unwrap(), end.map(Position)).unwrap();
            (survey.first_missing.0, survey.is_missed)
        };
        assert_eq!(said(&file, Some(40)), (40, false));
        assert_eq!(said(&file, None), (40, false));
        assert_eq!(said(&file, Some(41)), (40, true));
        assert_eq!(said(&[], Some(1)), (0, true));
        for (position, start) in starts.iter().enumerate() {
            let mut changed = file.clone();
            changed[start + 70] ^= 4;
            assert_eq!(said(&changed, Some(40)), (position as u64, true));
            // Another copy of it is as good.
            let (copy, _) = chunk(&records[position..=position]).unwrap();
            changed.extend(copy);
            assert_eq!(said(&changed, Some(40)), (40, false));
        }
    }
}
