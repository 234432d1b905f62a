//! How fast views are built from the log: a tenth as many persons as events, with a license each. The floor
//! reads every record and hashes it.
//!
//! `cargo bench --bench rebuild -- [--quick]`

#[path = "support/history.rs"]
mod history;
#[path = "support/table.rs"]
mod table;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use countersign::domain::Position;
use countersign::log::record;
use countersign::log::sled::SledLog;
use countersign::log::{LogError, scan};
use countersign::service::store::{SlotCounts, Store};
use countersign::vault::file::{FileVault, Places};
use countersign::vault::master::{KeyFile, MasterKey};
use countersign::views::Views;
use criterion::{Criterion, Throughput};
use mimalloc::MiMalloc;

use history::{EVENTS_A_PERSON, History};
use table::{COUNTERSIGN, FLOOR, Row};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const EVENTS: u32 = 100_000;
const EVENTS_QUICK: u32 = 5_000;
const CACHE: u64 = 64 << 20;

fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let events = if is_quick { EVENTS_QUICK } else { EVENTS };
    let mut criterion = table::criterion();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, vault) = new_history(place.path(), events);
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

fn new_history(place: &Path, events: u32) -> (SledLog, FileVault) {
    SledLog::create(&place.join("log")).unwrap();
    let log = SledLog::open(&place.join("log"), CACHE).unwrap();
    let [vault, ledger, key] = ["vault", "ledger", "master.key"].map(|name| place.join(name));
    let master = MasterKey::generate(&mut rand::rng());
    fs::write(&key, master.expose().as_bytes()).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    FileVault::create_new(&vault, &ledger, &master, &mut rand::rng()).unwrap();
    let places = Places { vault, ledger, master_key: KeyFile::file(&key) };
    let vault = FileVault::open(places, &mut rand::rng()).unwrap();
    let mut history = History::default();
    history.register(&log, &vault, events / EVENTS_A_PERSON);
    history.activate(&log, &vault, events);
    (log, vault)
}
