//! What sealing, opening, tags and receipts cost, beside the one primitive that each cannot do without.
//!
//! `cargo bench --bench seal -- [--quick]`

#[path = "support/table.rs"]
mod table;

use std::hint::black_box;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use countersign::domain::{Email, Position};
use countersign::log::record::{self, Header, KeySlot};
use countersign::seal::{DataKey, RecordKey, TagKey};
use criterion::{BatchSize, Criterion, Throughput};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use table::{COUNTERSIGN, FLOOR, Row};

/// The length of an activation, before it is padded.
const PLAINTEXT_BYTES: usize = 120;

fn main() {
    let mut criterion = table::criterion();
    let rows = [sealing(&mut criterion), opening(&mut criterion), tags(&mut criterion)];
    criterion.final_summary();
    table::report("seal", "the primitive", &rows);
}

fn row(name: &str, unit: &'static str) -> Row {
    Row { name: name.to_owned(), count: 1, unit }
}

fn header(commitment: [u8; 32]) -> Header {
    Header { event_type: 1, position: Position(7), slot: KeySlot(3), id: [5; 16], commitment }
}

/// A record out of an event; the floor encrypts as many bytes.
fn sealing(criterion: &mut Criterion) -> Row {
    let (key, plaintext) = (DataKey::from_bytes([1; 32]), [7; PLAINTEXT_BYTES]);
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    group.bench_function(FLOOR, |bencher| {
        let cipher = ChaCha20Poly1305::new(&[1; 32].into());
        let encrypt = |mut buffer: [u8; 128]| {
            let sealed =
                cipher.encrypt_inout_detached(&Nonce::default(), b"", buffer.as_mut_slice().into());
            (sealed.unwrap(), buffer)
        };
        bencher.iter_batched(|| [7; 128], encrypt, BatchSize::SmallInput);
    });
    group.bench_function(COUNTERSIGN, |bencher| {
        bencher.iter(|| {
            let record_key = RecordKey::derive(&key, &[5; 16]);
            let header = header(*record_key.commitment());
            let sealed = record_key.seal(black_box(&plaintext), &header.to_bytes()).unwrap();
            record::encode(&header, &sealed)
        });
    });
    group.finish();
    row("seal", "records")
}

/// An event out of a record; the floor decrypts as many bytes.
fn opening(criterion: &mut Criterion) -> Row {
    let key = DataKey::from_bytes([1; 32]);
    let record_key = RecordKey::derive(&key, &[5; 16]);
    let header = header(*record_key.commitment());
    let sealed = record_key.seal(&[7; PLAINTEXT_BYTES], &header.to_bytes()).unwrap();
    let bytes = record::encode(&header, &sealed);
    let cipher = ChaCha20Poly1305::new(&[1; 32].into());
    let mut encrypted = [7; 128];
    let tag =
        cipher.encrypt_inout_detached(&Nonce::default(), b"", encrypted.as_mut_slice().into());
    let tag = tag.unwrap();

    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Elements(1));
    group.bench_function(FLOOR, |bencher| {
        let decrypt = |mut buffer: [u8; 128]| {
            let nonce = Nonce::default();
            cipher.decrypt_inout_detached(&nonce, b"", buffer.as_mut_slice().into(), &tag).unwrap();
            buffer
        };
        bencher.iter_batched(|| encrypted, decrypt, BatchSize::SmallInput);
    });
    group.bench_function(COUNTERSIGN, |bencher| {
        bencher.iter(|| {
            let (header, sealed) = record::decode(black_box(&bytes), Position(7)).unwrap();
            let record_key = RecordKey::derive(&key, &header.id);
            record_key.open(sealed, &header.to_bytes(), &header.commitment).unwrap()
        });
    });
    group.finish();
    row("open", "records")
}

/// What an address is looked up by; the floor is its HMAC.
fn tags(criterion: &mut Criterion) -> Row {
    let key = TagKey::from_key(&DataKey::from_bytes([1; 32]));
    let mut group = criterion.benchmark_group("tag");
    group.throughput(Throughput::Elements(1));
    group.bench_function(FLOOR, |bencher| {
        bencher.iter(|| {
            let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&[1; 32]).unwrap();
            mac.update(black_box(b"email\x01ada@example.com"));
            mac.finalize()
        });
    });
    group.bench_function(COUNTERSIGN, |bencher| {
        bencher.iter(|| key.email(&Email::parse(black_box("Ada@Example.com")).unwrap()));
    });
    group.finish();
    row("tag", "addresses, from their text on")
}
