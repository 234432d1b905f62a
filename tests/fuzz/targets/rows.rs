//! The rows of the views, as they may be read from a disk: whatever is in them, events change them or they are
//! said to be unreadable; and what is read of a row is written and read as the same.

#![no_main]

use std::collections::BTreeMap;
use std::ops::Range;

use changes::Changes;
use countersign::domain::{self, Day, Position, Product};
use countersign::log::codec;
use countersign::views::{Checkpoint, ViewsError};
use countersign_fuzz::Input;
use layers::{Layers, Recent};
use libfuzzer_sys::fuzz_target;
use row::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::Store;

// Nobody's business but the views', so compiled in here; with a store in memory, as the files of theirs are
// read by others' code and have its checksums.
#[allow(dead_code)] // nothing is put off
#[path = "../../../src/views/changes.rs"]
mod changes;
#[path = "../../../src/views/fold.rs"]
mod fold;
#[allow(dead_code)] // nothing is put off
#[path = "../../../src/views/later.rs"]
mod later;
#[allow(dead_code)] // nothing is moved to the store behind events
#[path = "../../../src/views/layers.rs"]
mod layers;
#[allow(dead_code)] // keys of questions
#[path = "../../../src/views/row.rs"]
mod row;

/// Events and changes of rows in one run: after each of them all rows are read.
const MOST: u64 = 64;

mod store {
    use super::*;

    pub type Key = Vec<u8>;
    type Row<'a> = Result<(Key, &'a [u8]), ViewsError>;

    #[derive(Default)]
    pub struct Store(pub BTreeMap<Key, Vec<u8>>);

    impl Store {
        pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, ViewsError> {
            Ok(self.0.get(key).map(Vec::as_slice))
        }

        pub fn range(
            &self,
            range: Range<&[u8]>,
        ) -> impl DoubleEndedIterator<Item = Row<'_>> + use<'_> {
            let bounds = (range.start.to_vec(), range.end.to_vec());
            let is_empty = bounds.0 > bounds.1;
            let bounds = if is_empty { Default::default() } else { bounds };
            self.0.range(bounds.0..bounds.1).map(|(key, value)| Ok((key.clone(), value.as_slice())))
        }

        pub fn write(&self, _: &layers::Rows) -> Result<(), ViewsError> {
            unreachable!("too few rows for that")
        }
    }
}

/// Whether these are the bytes of a row.
fn is_read<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> bool {
    let Ok(row) = read::<T>(bytes) else { return false };
    let written = postcard::to_stdvec(&row).unwrap();
    // No row has more than one form that is written.
    assert!(written.len() <= bytes.len());
    let again: T = read(&written).unwrap();
    assert!(postcard::to_stdvec(&again).unwrap() == written);
    true
}

fn are_entries(bytes: &[u8]) -> bool {
    let Ok(entries) = read_entry_rows(bytes) else { return false };
    let written =
        entries.iter().try_fold(Vec::new(), |page, entry| postcard::to_extend(entry, page));
    let again = read_entry_rows(&written.unwrap()).unwrap();
    let positions =
        |entries: &[EntryRow]| -> Vec<u64> { entries.iter().map(|entry| entry.position).collect() };
    assert!(positions(&again) == positions(&entries));
    true
}

/// Whether these are the bytes of a person or of a license, with the newest entries of theirs.
fn is_owner<R: DeserializeOwned + Serialize>(bytes: &[u8]) -> bool {
    let Ok(owner) = Owner::<R>::read(bytes) else { return false };
    let written = owner.to_bytes().unwrap();
    assert!(written.len() <= bytes.len() && written.ends_with(&owner.newest));
    assert!(Owner::<R>::read(&written).unwrap().to_bytes().unwrap() == written);
    owner.newest_rows().is_ok()
}

/// Reads a row as what its key says that it is.
fn look(key: &[u8], bytes: &[u8]) -> bool {
    match key {
        CHECKPOINT => is_read::<CheckpointRow>(bytes),
        EPOCH => is_read::<u32>(bytes),
        [b's', ..] => is_owner::<SubjectRow>(bytes),
        [b'l', ..] => {
            let status = read::<LicenseRow>(bytes).ok().and_then(|row| status_from_row(row.status));
            assert!(
                status.is_none_or(|status| status_from_row(status_to_row(status)) == Some(status))
            );
            is_owner::<LicenseRow>(bytes)
        }
        [b'a', ..] => is_read::<ActivationRow>(bytes),
        [b'r', ..] => is_read::<RequestRow>(bytes),
        [b'e', ..] => is_read::<ErasureRow>(bytes),
        [b'n', ..] => is_read::<NoticeRow>(bytes),
        [b'p', ..] => are_entries(bytes),
        [b'd', b'u' | b'c', ..] => {
            let (day, product) = day_and_product(&key[..2], key).unwrap();
            assert!(counts(&key[..2], day, product) == key);
            // It is of the row of a license, which may be damaged.
            let _ = Product::parse(product);
            is_read::<CountsRow>(bytes)
        }
        [b'd', b'p', ..] => match persons(bytes) {
            Ok(persons) => persons.concat() == bytes,
            Err(_) => bytes.len() % 16 != 0,
        },
        [b'o' | b'x', ..] => true,
        _ => panic!("a key that nobody knows: {key:?}"),
    }
}

/// Any key of a count is of one day and product, in the order of the days.
fn keys(mut input: Input<'_>) {
    let days = [input.bytes(), input.bytes()].map(i32::from_be_bytes).map(Day);
    let product = str::from_utf8(input.0).unwrap_or_default();
    let keys = days.map(|day| counts(COUNTED, day, product));
    assert_eq!(keys[0].cmp(&keys[1]), days[0].cmp(&days[1]));
    assert_eq!(day_and_product(COUNTED, &keys[0]), Some((days[0], product)));
    let _ = day_and_product(COUNTED, input.0);
}

fn rows_of(layers: Layers<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    layers.range(ALL).map(|row| row.unwrap_or_else(|_| unreachable!("it is in memory"))).collect()
}

fuzz_target!(|data: &[u8]| {
    keys(Input(data));
    for kind in [b"c".as_slice(), b"v", b"s", b"l", b"a", b"r", b"e", b"n", b"p", b"dp"] {
        look(kind, data);
    }
    let (mut store, mut recent) = (Store::default(), Recent::default());
    let mut is_whole = true;
    for (position, piece) in (0..MOST).map(Position).zip(Input(data).pieces()) {
        let (how, piece) = piece.split_first().unwrap_or((&0, &[]));
        match how {
            // A row is another than it was, on the disk.
            1..8 => {
                let rows = rows_of(recent.layers(&store).unwrap());
                let (at, rest) = piece.split_first().unwrap_or((&0, &[]));
                let Some((key, was)) = rows.get(usize::from(*at)) else { continue };
                let mut changed = was.clone();
                if how & 1 == 0 {
                    changed = rest.to_vec()
                } else {
                    Input(rest).damage(&mut changed)
                }
                look(key, &changed);
                let key = key.clone();
                store = Store(rows.into_iter().collect());
                store.0.insert(key, changed);
                recent = Recent::default();
                is_whole = false;
            }
            _ => {
                let Ok(event) = codec::decode(piece) else { continue };
                let is_erased = |at: Position| Ok(at.0 & u64::from(*how >> 7) == 1);
                let mut changes = Changes::new(recent.changes(&store).unwrap(), &is_erased);
                let changed = changes.apply(position, &event);
                let end = Checkpoint { next: position.plus(1), last: [*how; 32] };
                if changed.and_then(|()| changes.checkpoint(end)).is_err() {
                    // The views begin anew then.
                    return;
                }
                let is_good = |(key, row): &(Vec<u8>, Vec<u8>)| look(key, row);
                let rows = rows_of(recent.layers(&store).unwrap());
                assert!(
                    rows.iter().all(is_good) || !is_whole,
                    "a row that was written is not read"
                );
                let newest = recent.layers(&store).unwrap().get::<CheckpointRow>(CHECKPOINT);
                assert!(newest.unwrap().unwrap().next == end.next.0);
            }
        }
    }
});
