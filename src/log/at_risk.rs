//! What sled overwrites when it opens, where it cannot read it: it takes that for what a power cut left. So
//! it is read before, and what cannot be read is found out while it is still there; sled's own reading is
//! then answered out of memory.
//!
//! sled 0.34 looks at the header of every segment, and reads those that were begun since its newest snapshot,
//! which it writes whenever it opens. The others it reads when a record is asked for, and then says
//! that it cannot.
//!
//! ```text
//! offset  bytes   of a segment of 512 KiB
//!      0      4   checksum
//!      4      8   its number in the order of all that were ever begun, in bytes, little-endian, inverted
//!                 but for its sign
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const SEGMENT: u32 = 512 * 1024;
const HEADER: usize = 12;
/// What the file of a snapshot is called, and the number behind it that it goes to, in hexadecimal.
const SNAPSHOT: &str = "snap.";

/// Reads all of that, in the directory of a log and its file.
pub(super) fn read(directory: &Path, file: &File) -> io::Result<()> {
    let mut segment = vec![0; SEGMENT as usize];
    for start in segments(directory, file)? {
        read_up_to(file, &mut segment, start)?;
    }
    Ok(())
}

/// Where they begin.
fn segments(directory: &Path, file: &File) -> io::Result<Vec<u64>> {
    let from = newest_snapshot(directory)?;
    let mut found = Vec::new();
    for start in (0..file.metadata()?.len()).step_by(SEGMENT as usize) {
        if number(file, start)?.is_none_or(|number| number >= from) {
            found.push(start);
        }
    }
    Ok(found)
}

/// Where the segment begins that the newest snapshot goes to; 0, where there is none.
fn newest_snapshot(directory: &Path) -> io::Result<i64> {
    let mut newest = 0;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(SNAPSHOT));
        let number = number.and_then(|number| i64::from_str_radix(number, 16).ok());
        newest = newest.max(number.unwrap_or(0));
    }
    Ok(newest - newest % i64::from(SEGMENT))
}

/// The number of a segment; `None`: it is cut off.
fn number(file: &File, start: u64) -> io::Result<Option<i64>> {
    let mut header = [0; HEADER];
    let is_whole = read_up_to(file, &mut header, start)? == HEADER;
    let number = header.last_chunk().map(|bytes| i64::from_le_bytes(*bytes) ^ i64::MAX);
    Ok(number.filter(|_| is_whole))
}

/// Reads as much as there is.
fn read_up_to(file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], start + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Position;
    use crate::log::sled::SledLog;
    use crate::log::{Append, Log as _};

    /// A segment full of it has no header that sled believes.
    const UNREADABLE: u8 = 0xEE;

    /// What cannot be read elsewhere when sled opens costs nothing once it can be read again.
    #[test]
    fn only_what_is_at_risk_is_lost_to_sled() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("log");
        SledLog::create(&place).unwrap();
        let mut records = Vec::new();
        let mut fill = |batches: u8| {
            let log = SledLog::open(&place, 1 << 20).unwrap();
            for byte in 0..batches {
                let batch: Vec<_> = (0..200).map(|_| vec![byte; 1000]).collect();
                let head = Position(records.len() as u64);
                assert_eq!(log.append(head, &batch).unwrap(), Append::Appended);
                records.extend(batch);
            }
        };
        fill(20);
        fill(0);
        fill(3);
        let db = place.join("db");
        let at_risk = segments(&place, &File::open(&db).unwrap()).unwrap();
        let whole = fs::read(&db).unwrap();
        let starts = (0..whole.len()).step_by(SEGMENT as usize);
        let elsewhere: Vec<_> =
            starts.filter(|start| !at_risk.contains(&(*start as u64))).collect();
        assert!(elsewhere.len() > 4, "{at_risk:?} of {}", whole.len());

        let range = |start: usize| start..whole.len().min(start + SEGMENT as usize);
        let mut unreadable = whole.clone();
        for start in &elsewhere {
            unreadable[range(*start)].fill(UNREADABLE);
        }
        fs::write(&db, unreadable).unwrap();
        drop(SledLog::open(&place, 1 << 20));
        let mut readable = fs::read(&db).unwrap();
        for start in elsewhere {
            let segment = &mut readable[range(start)];
            // What was free may be in use by now.
            if segment.iter().all(|byte| *byte == UNREADABLE) {
                segment.copy_from_slice(&whole[range(start)]);
            }
        }
        fs::write(&db, readable).unwrap();
        let log = SledLog::open(&place, 1 << 20).unwrap();
        assert_eq!(log.read(Position::ZERO, records.len() + 1).unwrap(), records);
    }

    #[test]
    fn a_segment_that_cannot_be_read_whole_is_read_as_far_as_it_is_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("db");
        fs::write(&path, vec![7; SEGMENT as usize + 5]).unwrap();
        fs::write(place.path().join("snap.0000000000090000"), "").unwrap();
        fs::write(place.path().join("snap.0000000000100000.generating"), "").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(newest_snapshot(place.path()).unwrap(), i64::from(SEGMENT));
        assert_eq!(segments(place.path(), &file).unwrap(), [0, u64::from(SEGMENT)]);
        read(place.path(), &file).unwrap();
    }
}
