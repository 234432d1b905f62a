//! What an append and a scan cost, beside a plain file: one write and one fdatasync of the same bytes; one
//! read of them, hashed.
//!
//! `cargo bench --bench log -- [--quick]`

#[path = "support/table.rs"]
mod table;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use countersign::domain::Position;
use countersign::log::record::{self, Header, KeySlot};
use countersign::log::sled::SledLog;
use countersign::log::{Append, Log, LogError, scan};
use criterion::{Criterion, Throughput};

use table::{COUNTERSIGN, FLOOR, Row};

const BATCHES: [u32; 3] = [1, 16, 256];
/// What of an activation is sealed: a padded length and a tag.
const SEALED_BYTES: usize = 128 + 16;
const SCANNED: u32 = 50_000;
const CACHE: u64 = 64 << 20;

fn main() {
    let mut criterion = table::criterion();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut rows: Vec<Row> =
        BATCHES.iter().map(|batch| append(&mut criterion, place.path(), *batch)).collect();
    rows.push(read(&mut criterion, place.path()));
    criterion.final_summary();
    table::report("log", "a plain file", &rows);
}

fn records(first: Position, count: u32) -> Vec<Vec<u8>> {
    let header = |position| Header {
        event_type: 1,
        position,
        slot: KeySlot(1),
        id: rand::random(),
        commitment: rand::random(),
    };
    (first.0..first.0 + u64::from(count))
        .map(|position| record::encode(&header(Position(position)), &[7; SEALED_BYTES]))
        .collect()
}

fn new_log(directory: &Path) -> SledLog {
    SledLog::create(directory).unwrap();
    SledLog::open(directory, CACHE).unwrap()
}

fn append(criterion: &mut Criterion, place: &Path, batch: u32) -> Row {
    let name = format!("append {batch}");
    let mut group = criterion.benchmark_group(&name);
    group.throughput(Throughput::Elements(batch.into()));
    let mut file = File::create(place.join(&name)).unwrap();
    group.bench_function(FLOOR, |bencher| {
        let bytes = records(Position::ZERO, batch).concat();
        bencher.iter(|| {
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
        });
    });
    let log = new_log(&place.join(format!("log {batch}")));
    group.bench_function(COUNTERSIGN, |bencher| {
        let mut head = log.head().unwrap();
        bencher.iter(|| {
            let records = records(head, batch);
            assert_eq!(log.append(head, &records).unwrap(), Append::Appended);
            head = head.plus(batch.into());
        });
    });
    group.finish();
    Row { name, count: batch, unit: "records, durable" }
}

/// Every record, checked and hashed.
fn read(criterion: &mut Criterion, place: &Path) -> Row {
    let log = new_log(&place.join("log"));
    let mut head = Position::ZERO;
    let mut file = File::create(place.join("file")).unwrap();
    while head.0 < SCANNED.into() {
        let records = records(head, 256);
        file.write_all(&records.concat()).unwrap();
        let _ = log.append(head, &records).unwrap();
        head = head.plus(256);
    }
    let count = u32::try_from(head.0).unwrap();
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(count.into()));
    group.bench_function(FLOOR, |bencher| {
        let length = records(Position::ZERO, 1)[0].len();
        bencher.iter(|| {
            let mut bytes = Vec::new();
            File::open(place.join("file")).unwrap().read_to_end(&mut bytes).unwrap();
            bytes.chunks(length).map(record::hash).fold(0, |sum, hash| sum ^ hash[0])
        });
    });
    group.bench_function(COUNTERSIGN, |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            scan(&log, Position::ZERO, |position, bytes| {
                record::decode(bytes, position).unwrap();
                sum ^= record::hash(bytes)[0];
                Ok::<_, LogError>(())
            })
            .unwrap();
            sum
        });
    });
    group.finish();
    Row { name: "scan".to_owned(), count, unit: "records" }
}
