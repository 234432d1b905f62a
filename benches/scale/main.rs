//! What size costs: a directory that grows by decades, and at each of them how long an activation and a
//! look at a history take, how long a start takes, and how much memory and disk there is to it. A tenth
//! as many persons as events, with a license each. Real processes, real TLS, a real disk, one call at a
//! time; each row is to be compared with the first.
//!
//! `cargo bench --bench scale -- [--events N] [--quick]`

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use countersign::domain::Position;
use countersign::log::scan;
use countersign::log::sled::SledLog;
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::{
    ActivateRequest, GetHistoryRequest, GetSigningKeysRequest, Purpose, get_history_request,
};
use hdrhistogram::Histogram;
use mimalloc::MiMalloc;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use support::servers::{Countersign, License, command};
use support::{micros, nanos, new_histogram};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Where growth begins, and where it ends if nothing else is said; and in a short run.
const FIRST: u64 = 10_000;
const LAST: u64 = 100_000;
const FIRST_QUICK: u64 = 500;
const LAST_QUICK: u64 = 2_000;

const EVENTS_A_PERSON: u64 = 10;
/// Activations on their way while the directory grows.
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;
/// How many calls are measured of each kind.
const CALLS: usize = 1000;
const CALLS_QUICK: usize = 50;
/// What the log keeps in memory when its records are counted.
const CACHE: u64 = 64 << 20;

/// What a size costs.
#[derive(Serialize)]
struct Row {
    events: u64,
    /// With those of the calls that were measured.
    recorded: u64,
    persons: u64,
    /// Events a second, while it grew to this size.
    growth_events_per_second: f64,
    activate_p50_us: f64,
    activate_p99_us: f64,
    history_p50_us: f64,
    history_p99_us: f64,
    memory_mib: f64,
    /// All of the directory, for each byte of a record.
    disk_bytes_per_record_byte: f64,
    /// Until the first answer, of one that was ended in order and of one that was killed.
    start_seconds: f64,
    start_after_kill_seconds: f64,
}

fn main() {
    let quick = support::is_asked("--quick");
    let (mut next, last, calls) = if quick {
        (FIRST_QUICK, LAST_QUICK, CALLS_QUICK)
    } else {
        (FIRST, support::number("--events").unwrap_or(LAST), CALLS)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = place.path().join("data");
    let mut licenses = Vec::new();
    let mut rows = Vec::new();
    while next <= last {
        let row = runtime.block_on(measure(&directory, next, &mut licenses, calls));
        print(&row);
        rows.push(row);
        next = if quick { next * 2 } else { next * 10 };
    }
    let whole: Vec<(&str, f64)> = [
        ("views rebuild", ["views", "rebuild"].as_slice()),
        ("verify --deep", &["verify", "--deep"]),
    ]
    .map(|(name, arguments)| (name, events_a_second(&directory, arguments, &rows)))
    .into();
    for (name, rate) in &whole {
        println!("{name}: {rate:.0} events a second");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scale.json");
    let numbers = serde_json::json!({ "sizes": rows, "events_per_second": whole });
    fs::write(&path, format!("{numbers:#}\n")).unwrap();
    println!("\nThe same as JSON: {}", path.display());
}

/// Lets the directory grow to a size, and measures it there.
async fn measure(directory: &Path, events: u64, licenses: &mut Vec<License>, calls: usize) -> Row {
    let server = Countersign::start(directory);
    let (before, begun) = (head(&server), Instant::now());
    let known = licenses.len() as u64;
    let addresses = (known..events / EVENTS_A_PERSON).map(|n| format!("person-{n}@example.com"));
    licenses.extend(server.issue_licenses(addresses).await);
    grow(&server, events.saturating_sub(head(&server)), licenses).await;
    let grown = head(&server) - before;
    let growth = begun.elapsed();

    let channel = public(&server).await;
    let mut activating = new_histogram();
    let mut looking = new_histogram();
    let mut support = HistoryServiceClient::new(server.staff("support").await);
    for _ in 0..calls {
        let license = &licenses[rand::random_range(0..licenses.len())];
        timed(&mut activating, activate(channel.clone(), license)).await;
        let person = Some(get_history_request::Person::Email(license.email.clone()));
        let request = GetHistoryRequest { person, purpose: Purpose::CustomerSupport.into() };
        timed(&mut looking, async { support.get_history(request).await.map(drop).unwrap() }).await;
    }
    let memory_mib = memory_mib(&server);
    let recorded = head(&server);
    terminate(server);
    let record_bytes = record_bytes(directory);
    let disk_bytes = bytes_below(directory);

    let (server, start) = started(directory).await;
    drop(server);
    let (server, start_after_kill) = started(directory).await;
    terminate(server);

    Row {
        events,
        recorded,
        persons: licenses.len() as u64,
        growth_events_per_second: per_second(grown, growth),
        activate_p50_us: micros(activating.value_at_quantile(0.5)),
        activate_p99_us: micros(activating.value_at_quantile(0.99)),
        history_p50_us: micros(looking.value_at_quantile(0.5)),
        history_p99_us: micros(looking.value_at_quantile(0.99)),
        memory_mib,
        disk_bytes_per_record_byte: ratio(disk_bytes, record_bytes),
        start_seconds: start.as_secs_f64(),
        start_after_kill_seconds: start_after_kill.as_secs_f64(),
    }
}

fn print(row: &Row) {
    let Row { events, persons, .. } = row;
    println!(
        "\n{events} events, {persons} persons; grown at {:.0}/s",
        row.growth_events_per_second
    );
    for (name, p50, p99) in [
        ("activate", row.activate_p50_us, row.activate_p99_us),
        ("history", row.history_p50_us, row.history_p99_us),
    ] {
        println!("  {name:9} p50 {p50:>6.0} µs   p99 {p99:>6.0} µs");
    }
    println!(
        "  start     {:.2} s, {:.2} s after a kill",
        row.start_seconds, row.start_after_kill_seconds
    );
    println!(
        "  memory    {:.0} MiB   disk {:.2} bytes a byte of a record",
        row.memory_mib, row.disk_bytes_per_record_byte
    );
}

async fn public(server: &Countersign) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(server.ca());
    let endpoint = Endpoint::from_shared(format!("https://{}", server.server.address)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

/// Activates licenses, chosen by chance, so many times.
async fn grow(server: &Countersign, activations: u64, licenses: &[License]) {
    let workers = CONNECTIONS * IN_FLIGHT;
    let each = activations.div_ceil(workers as u64);
    let mut growing = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = public(server).await;
        for _ in 0..IN_FLIGHT {
            let channel = channel.clone();
            let licenses: Vec<License> = (0..each)
                .map(|_| licenses[rand::random_range(0..licenses.len())].clone())
                .collect();
            growing.spawn(async move {
                for license in &licenses {
                    activate(channel.clone(), license).await;
                }
            });
        }
    }
    growing.join_all().await;
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

async fn timed(histogram: &mut Histogram<u64>, call: impl Future<Output = ()>) {
    let begun = Instant::now();
    call.await;
    histogram.saturating_record(nanos(begun.elapsed()));
}

/// A server on a directory that there is, and how long it took until it answered.
async fn started(directory: &Path) -> (Countersign, Duration) {
    let begun = Instant::now();
    let server = Countersign::start(directory);
    let mut app = ActivationServiceClient::new(public(&server).await);
    app.get_signing_keys(GetSigningKeysRequest {}).await.unwrap();
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
    let told = fs::read_to_string(server.directory.join("run/ops")).unwrap();
    let mut metrics = TcpStream::connect(told.strip_prefix("ops=").unwrap()).unwrap();
    metrics.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    metrics.read_to_string(&mut text).unwrap();
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
