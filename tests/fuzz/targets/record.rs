//! A record of the log: what is taken apart is put together to the same bytes; what was sealed opens, and
//! nothing else does.

#![no_main]

use countersign::domain::Position;
use countersign::log::record::{self, Header, KeySlot};
use countersign::seal::{DataKey, RecordKey};
use countersign_fuzz::{Input, with_checksum};
use libfuzzer_sys::fuzz_target;

fn taken_apart(bytes: &[u8], position: Position) {
    if let Ok((header, sealed)) = record::decode(bytes, position) {
        assert_eq!(header.position, position);
        assert!(record::encode(&header, sealed) == bytes);
    }
}

fn sealed(mut input: Input<'_>) {
    let key = DataKey::from_bytes([7; 32]);
    let (id, position) = (input.bytes(), Position(input.number()));
    let (damage, plaintext) = (input.bytes::<6>(), input.0);
    let record_key = RecordKey::derive(&key, &id);
    let commitment = *record_key.commitment();
    let header = Header { event_type: 1, position, slot: KeySlot(3), id, commitment };
    let Ok(sealed) = record_key.seal(plaintext, &header.to_bytes()) else { return };
    let bytes = record::encode(&header, &sealed);
    let open = |bytes: &[u8]| {
        let (header, sealed) = record::decode(bytes, position).ok()?;
        let record_key = RecordKey::derive(&key, &header.id);
        record_key.open(sealed, &header.to_bytes(), &header.commitment).ok()
    };
    assert!(open(&bytes).is_some_and(|opened| *opened == plaintext));

    let mut changed = bytes.clone();
    Input(&damage).damage(&mut changed);
    assert!(changed == bytes || open(&changed).is_none());
    with_checksum(&mut changed);
    assert!(changed == bytes || open(&changed).is_none());
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    if input.byte() & 1 == 0 {
        let mut bytes = input.0.to_vec();
        taken_apart(&bytes, Position(input.number()));
        with_checksum(&mut bytes);
        // Where it says itself that it is.
        let position = bytes.get(2..10).and_then(|position| position.try_into().ok());
        taken_apart(&bytes, Position(position.map_or(0, u64::from_be_bytes)));
    } else {
        sealed(input);
    }
});
