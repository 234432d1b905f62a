//! Files of records in backups: what is taken apart is put together to the same bytes, and a file that
//! changed is no file or says where.

#![no_main]

use countersign::backup::segment::{self, Builder};
use countersign::backup::tail;
use countersign::domain::Position;
use countersign::log::record::{self, Header, KeySlot};
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

const BEFORE: [u8; 32] = [4; 32];

/// The records of a segment or a tail, each behind its length.
fn framed(records: &[&[u8]]) -> Vec<u8> {
    let mut builder = Builder::new(Position::ZERO, BEFORE);
    records.iter().for_each(|record| builder.push(record).unwrap());
    builder.records().to_vec()
}

fn read_segment(bytes: &[u8], first: Position) -> bool {
    let Ok(records) = segment::decode(bytes, first, &BEFORE) else { return false };
    let mut builder = Builder::new(first, BEFORE);
    records.iter().for_each(|record| builder.push(record).unwrap());
    assert!(builder.encode() == bytes);
    true
}

fn read_tail(bytes: &[u8], first: Position) {
    let _ = tail::before(bytes);
    let Ok((records, result)) = tail::decode(bytes, first, &BEFORE) else { return };
    let (whole, good) = (&bytes[tail::HEADER_BYTES..], framed(&records));
    assert!(whole.starts_with(&good));
    assert_eq!(result.is_ok(), whole.len() == good.len());
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (kind, first) = (input.byte(), Position(input.number()));
    if kind & 1 == 0 {
        read_segment(input.0, first);
        read_tail(input.0, first);
        return;
    }
    // A good one, and then damage.
    let mut builder = Builder::new(first, BEFORE);
    let last = first.0.saturating_add((input.byte() % 4).into());
    for position in first.0..last {
        let header = Header {
            event_type: input.byte(),
            position: Position(position),
            slot: KeySlot(1),
            id: [9; 16],
            commitment: [8; 32],
        };
        let length = 16 + usize::from(input.byte());
        builder.push(&record::encode(&header, &vec![7; length])).unwrap();
    }
    let good = builder.encode();
    assert!(read_segment(&good, first));
    let mut changed = good.clone();
    Input(input.0).damage(&mut changed);
    assert!(changed == good || !read_segment(&changed, first));
    if let Some((body, hash)) = changed.split_last_chunk_mut::<32>() {
        *hash = Sha256::digest(body).into();
    }
    read_segment(&changed, first);

    let mut tail = tail::header(first, &BEFORE).to_vec();
    tail.extend_from_slice(builder.records());
    let whole = tail.clone();
    Input(input.0).damage(&mut tail);
    read_tail(&tail, first);
    read_tail(&whole[..usize::from(kind).min(whole.len())], first);
});
