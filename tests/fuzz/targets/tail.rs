//! How far the log had come, as its tail file says, and the rows of its engine, in which its records are: what
//! was written is read, and of what was changed nothing is believed that a checksum does not bear out; and what
//! is left of a file that the engine does not open.

#![no_main]

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::PathBuf;

use chunk::{CHUNK_BYTES, COMMIT, MORE, chunk, foreign, parts, position};
use countersign::domain::{self, Position};
use countersign::log::record::{Header, KeySlot};
use countersign::log::{LogError, record};
use countersign_fuzz::{Input, with_checksum};
use libfuzzer_sys::fuzz_target;
use survey::{Survey, survey};
use tail::Tail;

// Nobody's business but the log's, so compiled in here.
#[path = "../../../src/log/chunk.rs"]
mod chunk;
#[path = "../../../src/log/survey.rs"]
mod survey;
#[path = "../../../src/log/tail.rs"]
mod tail;

const TAIL_BYTES: usize = 12;

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
    tail: Tail,
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new({
        // It is written at each run, so not to a disk.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("tail");
        Place { tail: Tail::open(&path).unwrap(), path, _directory: directory }
    });
}

/// What a tail file with these bytes says.
fn read_tail(bytes: &[u8]) -> Option<Position> {
    PLACE.with_borrow(|place| {
        fs::write(&place.path, bytes).unwrap();
        let read = place.tail.read().unwrap();
        if let Some(position) = read {
            // No more than that is in it.
            place.tail.write(position).unwrap();
            assert!(fs::read(&place.path).unwrap() == bytes);
        }
        read
    })
}

fn tail(data: &[u8]) {
    let as_stored = &data[..data.len().min(TAIL_BYTES)];
    let read = read_tail(as_stored);
    let position = data.first_chunk().map(|bytes| Position(u64::from_be_bytes(*bytes)));
    assert!(read.is_none() || read == position);
    let mut right = as_stored.to_vec();
    with_checksum(&mut right);
    assert_eq!(read_tail(&right), position.filter(|_| right.len() == TAIL_BYTES));

    let mut input = Input(data);
    let position = Position(input.number());
    let mut bytes = PLACE.with_borrow(|place| {
        File::create(&place.path).unwrap();
        place.tail.write(position).unwrap();
        fs::read(&place.path).unwrap()
    });
    assert!(data.len() < TAIL_BYTES || bytes == right);
    // CRC-32C tells any change of four bytes in a row, and what is changed in itself alone.
    let at = [0, 1, 2, 3, 4, 8][usize::from(input.byte() % 6)];
    let whole = bytes.clone();
    for byte in &mut bytes[at..at + 4] {
        *byte ^= input.byte();
    }
    assert_eq!(read_tail(&bytes), (bytes == whole).then_some(position));
}

/// What is taken apart is put together to the same.
fn read_chunk(first: Position, bytes: &[u8]) {
    match parts(first, bytes) {
        Ok((records, mark)) => {
            let mut joined = Vec::new();
            for record in &records {
                joined.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
                joined.extend(*record);
            }
            joined.push(mark);
            assert!(joined == bytes);
        }
        Err(LogError::Damaged(at, _)) => {
            assert!(at >= first && at.0 - first.0 <= bytes.len() as u64 / 2);
        }
        Err(error) => panic!("{error}"),
    }
}

fn chunks(data: &[u8]) {
    let mut input = Input(data);
    let first = Position(input.number());
    read_chunk(first, input.0);
    match position(data) {
        Ok(position) => assert!(position.0.to_be_bytes() == data),
        Err(error) => assert!(data.len() != 8 && error.to_string() == foreign().to_string()),
    }

    // Records as they are appended.
    let records: Vec<Vec<u8>> = input.pieces().into_iter().map(<[u8]>::to_vec).collect();
    let (mut at, mut rest) = (first, records.as_slice());
    while !rest.is_empty() {
        let Ok((mut bytes, count)) = chunk(rest) else { unreachable!("none is too long") };
        assert!(count == 1 || bytes.len() < CHUNK_BYTES);
        let mark = if count == rest.len() { COMMIT } else { MORE };
        bytes.push(mark);
        let (read, its_mark) = parts(at, &bytes).unwrap();
        assert!(read == rest[..count] && its_mark == mark);
        for cut in [0, data.len() % bytes.len()] {
            read_chunk(at, &bytes[..cut]);
        }
        (at, rest) = (at.plus(count as u64), &rest[count..]);
    }
}

/// What a look through the engine's file finds: each record that is whole, and none that is not.
fn survey_of(bytes: &[u8], end: Option<u64>) -> Survey {
    PLACE.with_borrow(|place| {
        fs::write(&place.path, bytes).unwrap();
        survey(&File::open(&place.path).unwrap(), end.map(Position)).unwrap()
    })
}

fn surveys(data: &[u8]) {
    let mut input = Input(data);
    let at = usize::try_from(input.number() % 4096).unwrap();
    let bit = 1 << (input.byte() % 8);
    let records: Vec<Vec<u8>> = (0..)
        .zip(input.pieces())
        .map(|(number, piece)| {
            let (position, slot) = (Position(number), KeySlot(7));
            let header = Header { event_type: 1, position, slot, id: [5; 16], commitment: [6; 32] };
            record::encode(&header, &[&[0; 16], piece].concat())
        })
        .collect();
    let mut file = data[..data.len().min(64)].to_vec();
    let mut ends = vec![file.len()];
    let mut rest = records.as_slice();
    while !rest.is_empty() {
        let Ok((bytes, count)) = chunk(rest) else { unreachable!("none is too long") };
        for record in &rest[..count] {
            ends.push(ends[ends.len() - 1] + 2 + record.len());
        }
        file.extend(bytes);
        rest = &rest[count..];
    }
    let count = records.len() as u64;
    let all = Survey { first_missing: Position(count), is_missed: false };
    assert_eq!(survey_of(&file, Some(count)), all);
    // One bit makes one record less.
    if let Some(byte) = file.get_mut(at) {
        *byte ^= bit;
        let hit = ends.partition_point(|end| *end <= at) as u64;
        let first_missing = Position(if hit == 0 { count } else { hit - 1 });
        let is_missed = hit != 0;
        assert_eq!(survey_of(&file, Some(count)), Survey { first_missing, is_missed });
    }
    survey_of(data, None);
}

fuzz_target!(|data: &[u8]| {
    tail(data);
    chunks(data);
    surveys(data);
});
