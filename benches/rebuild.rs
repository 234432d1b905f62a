//! How fast views are built from the log: a tenth as many persons as events, with a license each. The floor
//! reads every record and hashes it.
//!
//! `cargo bench --bench rebuild -- [--quick]`

#[path = "support/table.rs"]
mod table;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use countersign::domain::{
    ActivationId, Email, Event, LicenseId, LicenseKey, Position, Product, Seats, SigningKeyId,
    SubjectId, Terms, Timestamp,
};
use countersign::log::record::{self, Header};
use countersign::log::sled::SledLog;
use countersign::log::{Log as _, LogError, codec, scan};
use countersign::seal::RecordKey;
use countersign::service::store::{SlotCounts, Store};
use countersign::vault::file::{FileVault, Places};
use countersign::vault::master::{KeyFile, MasterKey};
use countersign::vault::{KeyName, NewKey, Vault as _};
use countersign::views::Views;
use criterion::{Criterion, Throughput};
use mimalloc::MiMalloc;

use table::{COUNTERSIGN, FLOOR, Row};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const EVENTS: u32 = 100_000;
const EVENTS_QUICK: u32 = 5_000;
const EVENTS_A_PERSON: u32 = 10;
const CACHE: u64 = 64 << 20;
const APPENDED_AT_ONCE: usize = 256;

fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let events = if is_quick { EVENTS_QUICK } else { EVENTS };
    let mut criterion = table::criterion();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, vault) = history(place.path(), events);
    let row = rebuild(&mut criterion, place.path(), &Arc::new(log), &Arc::new(vault), events);
    criterion.final_summary();
    table::report("rebuild", "read and hash", &[row]);
}

fn rebuild(
    criterion: &mut Criterion,
    place: &Path,
    log: &Arc<SledLog>,
    vault: &Arc<FileVault>,
    events: u32,
) -> Row {
    let mut group = criterion.benchmark_group("rebuild");
    group.throughput(Throughput::Elements(events.into()));
    group.bench_function(FLOOR, |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            scan(log.as_ref(), Position::ZERO, |_, bytes| {
                sum ^= record::hash(bytes)[0];
                Ok::<_, LogError>(())
            })
            .unwrap();
            sum
        });
    });
    group.bench_function(COUNTERSIGN, |bencher| {
        let path = place.join("views");
        bencher.iter(|| {
            Views::delete(&path).unwrap();
            let views = Views::open(&path, CACHE).unwrap();
            let (log, vault) = (Arc::clone(log), Arc::clone(vault));
            let store = Store { log, vault, views, counts: SlotCounts::default() };
            store.catch_up(|_| ()).unwrap();
            assert_eq!(store.views.checkpoint().unwrap().next, Position(events.into()));
            store.views.close().unwrap();
        });
    });
    group.finish();
    Row { name: "rebuild".to_owned(), count: events, unit: "events" }
}

/// Persons with a license each, and then activations of them by chance.
fn history(place: &Path, events: u32) -> (SledLog, FileVault) {
    SledLog::create(&place.join("log")).unwrap();
    let log = SledLog::open(&place.join("log"), CACHE).unwrap();
    let vault = new_vault(place);
    let at = Timestamp::from_millis(1_790_000_000_000).unwrap();
    let mut keys = Vec::new();
    let mut persons = Vec::new();
    let mut history = Vec::new();
    for number in 0..events / EVENTS_A_PERSON {
        let subject = SubjectId::from_bytes(rand::random());
        let license = LicenseId::from_bytes(rand::random());
        let email = Email::parse(&format!("person-{number}@example.com")).unwrap();
        let key = LicenseKey::generate(rand::random);
        let slot = keys.len();
        let tags = [vault.tag_key().email(&email), vault.tag_key().license_key(&key)];
        let names = [KeyName::Identity(subject), KeyName::License(license)];
        keys.extend(names.into_iter().zip(tags).map(|(name, tag)| NewKey { name, tag: Some(tag) }));
        keys.push(NewKey { name: KeyName::Activations(subject, at.year()), tag: None });
        let terms = Terms {
            product: Product::parse("Bench").unwrap(),
            seats: Seats::new(1000).unwrap(),
            expires_at: None,
            updates_until: None,
        };
        history.push((slot, Event::SubjectRegistered { subject, email, at }));
        history.push((slot + 1, Event::LicenseIssued { license, subject, key, terms, at }));
        persons.push((slot + 2, license));
    }
    let slots = vault.create(&keys, Position::ZERO, &mut rand::rng()).unwrap();
    let issued = u32::try_from(history.len()).unwrap();
    let signing_key = SigningKeyId::from_bytes([0; 32]);
    history.extend((issued..events).map(|_| {
        let (key, license) = persons[rand::random_range(0..persons.len())];
        let activation = ActivationId::from_bytes(rand::random());
        (key, Event::Activated { license, activation, signing_key, lease_until: None, at })
    }));
    for (first, events) in (0..).step_by(APPENDED_AT_ONCE).zip(history.chunks(APPENDED_AT_ONCE)) {
        let records = (first..).map(Position).zip(events).map(|(position, (key, event))| {
            let (slot, id) = (slots[*key], rand::random());
            let record_key = RecordKey::derive(&vault.key(slot).unwrap(), &id);
            let (event_type, plaintext) = codec::encode(event);
            let commitment = *record_key.commitment();
            let header = Header { event_type, position, slot, id, commitment };
            let sealed = record_key.seal(&plaintext, &header.to_bytes()).unwrap();
            record::encode(&header, &sealed)
        });
        let _ = log.append(Position(first), &records.collect::<Vec<_>>()).unwrap();
    }
    (log, vault)
}

fn new_vault(place: &Path) -> FileVault {
    let [vault, ledger, key] = ["vault", "ledger", "master.key"].map(|name| place.join(name));
    let master = MasterKey::generate(&mut rand::rng());
    fs::write(&key, master.expose().as_bytes()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    FileVault::create_new(&vault, &ledger, &master, &mut rand::rng()).unwrap();
    let places = Places { vault, ledger, master_key: KeyFile::file(&key) };
    FileVault::open(places, &mut rand::rng()).unwrap()
}
