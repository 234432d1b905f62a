//! What size costs: a directory that grows by decades, and at each of them how long an activation and a
//! look at a history take, how long a start takes, and how much memory and disk there is to it. A tenth
//! as many persons as events, with a license each. It grows without a server; what is measured is real
//! processes, real TLS, a real disk, one call at a time. Each row is to be compared with the first.
//!
//! `cargo bench --bench scale -- [--events N] [--quick]`

#[path = "../support/history.rs"]
mod history;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use countersign::domain::Position;
use countersign::log::sled::SledLog;
use countersign::log::{Log as _, scan};
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::privacy_service_client::PrivacyServiceClient;
use countersign::proto::v1::{
    ActivateRequest, ExportSubjectRequest, GetHistoryRequest, Purpose, export_subject_request,
    get_history_request,
};
use countersign::vault::file::{FileVault, Places};
use countersign::vault::master::KeyFile;
use hdrhistogram::Histogram;
use mimalloc::MiMalloc;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use history::{EVENTS_A_PERSON, History, License};
use support::servers::{Countersign, command};
use support::{micros, nanos, new_histogram};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Where growth begins, and where it ends if nothing else is said; and in a short run.
const FIRST: u32 = 10_000;
const LAST: u32 = 100_000;
const FIRST_QUICK: u32 = 500;
const LAST_QUICK: u32 = 2_000;

/// How many calls are measured of each kind, how many exports, and of how many events of a person.
const CALLS: usize = 1000;
const CALLS_QUICK: usize = 50;
const EXPORTS: usize = 50;
const EXPORTS_QUICK: usize = 5;
const EXPORTED: usize = 1000;
/// What the log keeps in memory when its records are counted.
const CACHE: u64 = 64 << 20;

/// What a size costs.
#[derive(Serialize)]
struct Row {
    events: u32,
    /// With those of the calls that were measured.
    recorded: u64,
    persons: usize,
    /// Events a second that the server took in at its first start, for which nothing was checked before.
    first_start_events_per_second: f64,
    /// Of the server that was started first, and has just read all there is.
    warm: Calls,
    /// Of one that was just started again: it reads from the disk, and reads the log again behind them.
    cold: Calls,
    /// All of the directory, for each byte of a record.
    disk_bytes_per_record_byte: f64,
    /// Until the first activation, of one that was ended in order and of one that was killed.
    start_seconds: f64,
    start_after_kill_seconds: f64,
}

/// What calls took, and what memory the server has after them.
#[derive(Serialize)]
struct Calls {
    activate_p50_us: f64,
    activate_p99_us: f64,
    history_p50_us: f64,
    history_p99_us: f64,
    export_p50_us: f64,
    memory_mib: f64,
}

fn main() {
    let quick = support::is_asked("--quick");
    let (mut next, last, calls, exports) = if quick {
        (FIRST_QUICK, LAST_QUICK, CALLS_QUICK, EXPORTS_QUICK)
    } else {
        let last = support::number("--events").map_or(LAST, |last| u32::try_from(last).unwrap());
        (FIRST, last, CALLS, EXPORTS)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = place.path().join("data");
    assert!(command(&directory).arg("init").stdout(Stdio::null()).status().unwrap().success());
    let mut history = History::default();
    let mut rows = Vec::new();
    while next <= last {
        let row = runtime.block_on(measure(&directory, next, &mut history, (calls, exports)));
        rows.push(row);
        print(&rows);
        next = if quick { next * 2 } else { next * 10 };
    }
    let whole: Vec<(&str, f64)> = [
        ("views rebuild", ["views", "rebuild"].as_slice()),
        ("verify --deep", &["verify", "--deep"]),
    ]
    .map(|(name, arguments)| (name, events_a_second(&directory, arguments, &rows)))
    .into();
    for (name, rate) in &whole {
        println!("{name}: {rate:.0} events a second (300000)");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scale.json");
    let numbers = serde_json::json!({ "sizes": rows, "events_per_second": whole });
    fs::write(&path, format!("{numbers:#}\n")).unwrap();
    println!("\nThe same as JSON: {}", path.display());
}

/// Lets the directory grow to a size, and measures it there.
async fn measure(
    directory: &Path,
    events: u32,
    history: &mut History,
    sample: (usize, usize),
) -> Row {
    let before = grow(directory, events, history);
    let (server, first_start) = started(directory, history).await;
    // In a short run the calls may have made more of them than the next size has.
    let taken_in = u64::from(events).saturating_sub(before);
    published(&server).await;
    if before == 0 {
        let (channel, busy) = (public(&server).await, history.first_license());
        for _ in 0..EXPORTED {
            activate(channel.clone(), &busy).await;
        }
    }
    let warm = measure_calls(&server, history, sample).await;
    published(&server).await;
    terminate(server);

    let (server, start) = started(directory, history).await;
    let cold = measure_calls(&server, history, sample).await;
    let recorded = head(&server);
    published(&server).await;
    terminate(server);
    let record_bytes = record_bytes(directory);
    let disk_bytes = bytes_below(directory);

    let (server, _) = started(directory, history).await;
    drop(server);
    let (server, start_after_kill) = started(directory, history).await;
    terminate(server);

    Row {
        events,
        recorded,
        persons: history.persons(),
        first_start_events_per_second: per_second(taken_in, first_start),
        warm,
        cold,
        disk_bytes_per_record_byte: ratio(disk_bytes, record_bytes),
        start_seconds: start.as_secs_f64(),
        start_after_kill_seconds: start_after_kill.as_secs_f64(),
    }
}

async fn measure_calls(
    server: &Countersign,
    history: &History,
    (calls, exports): (usize, usize),
) -> Calls {
    let channel = public(server).await;
    let [mut activating, mut looking, mut exporting] = [(); 3].map(|()| new_histogram());
    let mut support = HistoryServiceClient::new(server.staff("support").await);
    for _ in 0..calls {
        let license = history.any_license();
        timed(&mut activating, activate(channel.clone(), &license)).await;
        let person = Some(get_history_request::Person::Email(license.email.clone()));
        let request = GetHistoryRequest { person, purpose: Purpose::CustomerSupport.into() };
        timed(&mut looking, async { support.get_history(request).await.map(drop).unwrap() }).await;
    }
    let privacy = PrivacyServiceClient::new(server.staff("privacy").await);
    for _ in 0..exports {
        timed(&mut exporting, export(privacy.clone(), &history.first_license().email)).await;
    }
    Calls {
        activate_p50_us: micros(activating.value_at_quantile(0.5)),
        activate_p99_us: micros(activating.value_at_quantile(0.99)),
        history_p50_us: micros(looking.value_at_quantile(0.5)),
        history_p99_us: micros(looking.value_at_quantile(0.99)),
        export_p50_us: micros(exporting.value_at_quantile(0.5)),
        memory_mib: memory_mib(server),
    }
}

/// Prints the last size, beside the first where that says something.
fn print(rows: &[Row]) {
    let (Some(first), Some(row)) = (rows.first(), rows.last()) else { return };
    println!("\n{} events, {} persons (aim)", row.events, row.persons);
    for (state, calls, first) in
        [("warm", &row.warm, &first.warm), ("cold", &row.cold, &first.cold)]
    {
        let figures = [
            ("activate p50", calls.activate_p50_us, first.activate_p50_us),
            ("activate p99", calls.activate_p99_us, first.activate_p99_us),
            ("history p50", calls.history_p50_us, first.history_p50_us),
            ("history p99", calls.history_p99_us, first.history_p99_us),
        ];
        for (name, micros, first) in figures {
            let of_first = micros / first;
            println!(
                "  {state}: {name:14} {micros:>8.0} µs   {of_first:.2} of the first size (1.3)"
            );
        }
        println!(
            "  {state}: export of {EXPORTED} events, p50 {:>8.0} µs (20000)",
            calls.export_p50_us
        );
        println!("  {state}: memory {:.0} MiB (512)", calls.memory_mib);
    }
    println!("  first start, which takes in all: {:.0}/s", row.first_start_events_per_second);
    println!(
        "  start until an activation: {:.2} s, {:.2} s after a kill (2)",
        row.start_seconds, row.start_after_kill_seconds
    );
    println!("  disk: {:.2} bytes a byte of a record (2)", row.disk_bytes_per_record_byte);
}

async fn public(server: &Countersign) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(server.ca());
    let endpoint = Endpoint::from_shared(format!("https://{}", server.server.address)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

/// Adds to the log, until it has so many events; how many it had. No server may run.
fn grow(directory: &Path, events: u32, history: &mut History) -> u64 {
    let log = SledLog::open(&directory.join("data/log"), CACHE).unwrap();
    let places = Places {
        vault: directory.join("data/vault"),
        ledger: directory.join("ledger/erasures"),
        master_key: KeyFile::file(&directory.join("keys/master.key")),
    };
    let vault = FileVault::open(places, &mut rand::rng()).unwrap();
    let before = log.head().unwrap().0;
    history.register(&log, &vault, events / EVENTS_A_PERSON);
    history.activate(&log, &vault, events);
    before
}

async fn activate(channel: Channel, license: &License) {
    let request = ActivateRequest {
        email: license.email.clone(),
        license_key: license.key.clone(),
        nonce: rand::random::<[u8; 16]>().to_vec(),
        binding: rand::random::<[u8; 32]>().to_vec(),
    };
    ActivationServiceClient::new(channel).activate(request).await.unwrap();
}

async fn export(mut privacy: PrivacyServiceClient<Channel>, email: &str) {
    let person = Some(export_subject_request::Person::Email(email.to_owned()));
    let request = ExportSubjectRequest { person, purpose: Purpose::AccessRequest.into() };
    let mut pieces = privacy.export_subject(request).await.unwrap().into_inner();
    while pieces.message().await.unwrap().is_some() {}
}

/// Waits until all records are in a published checkpoint: a server that was ended before reads its whole log
/// at the next start.
async fn published(server: &Countersign) {
    let size = || {
        let checkpoint = fs::read_to_string(server.directory.join("tiles/checkpoint")).ok()?;
        checkpoint.lines().nth(1)?.parse().ok()
    };
    while size() < Some(head(server)) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn timed(histogram: &mut Histogram<u64>, call: impl Future<Output = ()>) {
    let begun = Instant::now();
    call.await;
    histogram.saturating_record(nanos(begun.elapsed()));
}

/// A server on a directory that there is, and how long it took until its first activation.
async fn started(directory: &Path, history: &History) -> (Countersign, Duration) {
    let license = history.any_license();
    let begun = Instant::now();
    let server = Countersign::start(directory);
    activate(public(&server).await, &license).await;
    (server, begun.elapsed())
}

/// How fast a command goes through all events. No server may run.
fn events_a_second(directory: &Path, arguments: &[&str], rows: &[Row]) -> f64 {
    let mut command = command(directory);
    let begun = Instant::now();
    let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "{arguments:?}");
    per_second(rows.last().map_or(0, |row| row.recorded), begun.elapsed())
}

/// How many records there are, as its metrics say.
fn head(server: &Countersign) -> u64 {
    let text = server.metrics();
    let head = text.lines().find_map(|line| line.strip_prefix("countersign_log_head "));
    head.unwrap().parse().unwrap()
}

/// The memory that it has now; zero where there is no `/proc`.
#[allow(clippy::cast_precision_loss)] // far below 2^52
fn memory_mib(server: &Countersign) -> f64 {
    let status = format!("/proc/{}/status", server.server.pid);
    let status = fs::read_to_string(status).unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.unwrap_or_default() as f64 / 1024.0
}

/// SIGTERM, and waits for the end.
fn terminate(mut server: Countersign) {
    let pid = Pid::from_child(&server.server.child);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(server.server.child.wait().unwrap().success());
}

/// The length of all records together. No server may run.
fn record_bytes(directory: &Path) -> u64 {
    let log = SledLog::open(&directory.join("data/log"), CACHE).unwrap();
    let mut bytes = 0;
    scan(&log, Position::ZERO, |_, record| {
        bytes += record.len() as u64;
        Ok::<_, countersign::log::LogError>(())
    })
    .unwrap();
    bytes
}

fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            metadata if metadata.is_dir() => bytes_below(&entry.path()),
            metadata => metadata.len(),
        })
        .sum()
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}
