//! How fast durable activations are, beside a floor measured in the same run: the same tonic
//! service behind the same acceptor and TLS, which stores nothing and makes one Ed25519 signature a
//! reply. Real processes, real TLS, a real disk; server and load share the machine, so only the ratio
//! means something.
//!
//! `cargo bench --bench activation -- [--seconds N] [--rounds N] [--quick]`

mod floor;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::{GetHistoryRequest, Purpose, get_history_request};
use mimalloc::MiMalloc;

use load::{Measured, Scenario};
use support::servers::{Countersign, License};
use support::{micros, nanos, new_histogram};

// The floor has what the server has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How many licenses the load is spread over.
const LICENSES: usize = 64;

/// The scenarios, and the share of the floor that is aimed at.
const SCENARIOS: [(Scenario, Option<f64>); 5] = [
    (Scenario::Warm { connections: 1, in_flight: 1 }, None),
    (Scenario::Warm { connections: 8, in_flight: 16 }, Some(0.5)),
    (Scenario::Warm { connections: 32, in_flight: 16 }, Some(0.5)),
    (Scenario::NewConnections { workers: 16 }, Some(0.8)),
    (Scenario::NewConnections { workers: 64 }, Some(0.8)),
];

struct Options {
    seconds: u64,
    rounds: u64,
}

impl Options {
    fn from_arguments() -> Self {
        let (seconds, rounds) = if support::is_asked("--quick") { (1, 1) } else { (3, 3) };
        Self {
            seconds: support::number("--seconds").unwrap_or(seconds),
            rounds: support::number("--rounds").unwrap_or(rounds),
        }
    }
}

/// What both servers did in one scenario, a round each.
#[derive(Default)]
struct Rounds {
    floor: Vec<Measured>,
    countersign: Vec<Measured>,
}

fn main() {
    if let Some(tls) = floor::requested() {
        return floor::serve(&tls);
    }
    let options = Options::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mismatch = runtime.block_on(run(&options));
    if let Some(mismatch) = mismatch {
        eprintln!("{mismatch}");
        std::process::exit(1);
    }
}

async fn run(options: &Options) -> Option<String> {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let countersign = Countersign::start(&place.path().join("data"));
    let floor = floor::start(&countersign.tls());
    let licenses = countersign
        .issue_licenses((0..LICENSES).map(|number| format!("bench-{number}@example.com")))
        .await;
    let length = Duration::from_secs(options.seconds);
    let sync = sync_micros(place.path(), length);

    let mut acknowledged = 0;
    let mut rounds: Vec<Rounds> = SCENARIOS.iter().map(|_| Rounds::default()).collect();
    for _ in 0..options.rounds {
        for ((scenario, _), rounds) in SCENARIOS.iter().zip(&mut rounds) {
            let ca = countersign.ca();
            let [of_floor, of_countersign] = [&floor, &countersign.server]
                .map(|server| load::run(*scenario, server, &ca, &licenses, length));
            rounds.floor.push(of_floor.await);
            let measured = of_countersign.await;
            acknowledged += measured.calls;
            rounds.countersign.push(measured);
        }
    }
    report(&rounds, sync);
    let recorded = activations(&countersign, &licenses).await;
    (recorded != acknowledged)
        .then(|| format!("{acknowledged} activations were acknowledged, {recorded} are recorded"))
}

/// The median of a write and fdatasync of a record's length.
fn sync_micros(place: &Path, length: Duration) -> f64 {
    let mut file = File::create(place.join("sync")).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.sync_all().unwrap();
    let mut histogram = new_histogram();
    let start = Instant::now();
    for at in (0..).step_by(300) {
        let begun = Instant::now();
        file.write_all_at(&[1; 300], at).unwrap();
        file.sync_data().unwrap();
        histogram.saturating_record(nanos(begun.elapsed()));
        if start.elapsed() > length {
            break;
        }
    }
    micros(histogram.value_at_quantile(0.5))
}

/// How many activations the server says there are.
async fn activations(server: &Countersign, licenses: &[License]) -> u64 {
    let mut support = HistoryServiceClient::new(server.staff("support").await);
    let mut activations = 0;
    for License { email, .. } in licenses {
        let request = GetHistoryRequest {
            person: Some(get_history_request::Person::Email(email.clone())),
            purpose: Purpose::CustomerSupport.into(),
        };
        let history = support.get_history(request).await.unwrap().into_inner();
        activations += history.licenses[0].activations_total;
    }
    activations
}

/// The medians of the rounds.
#[derive(Serialize)]
struct Figures {
    calls_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    server_cpu_us: f64,
    client_cpu_us: f64,
}

impl Figures {
    fn of(rounds: &[Measured]) -> Self {
        let median = |of: &dyn Fn(&Measured) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            calls_per_second: median(&Measured::calls_per_second),
            p50_us: median(&|round| micros(round.latency.value_at_quantile(0.5))),
            p99_us: median(&|round| micros(round.latency.value_at_quantile(0.99))),
            server_cpu_us: median(&|round| round.cpu_per_call()[0]),
            client_cpu_us: median(&|round| round.cpu_per_call()[1]),
        }
    }
}

fn report(rounds: &[Rounds], sync: f64) {
    println!("one write and fdatasync of 300 bytes on this disk: {sync:.0} µs at the median");
    let mut rows = Vec::new();
    for ((scenario, aim), rounds) in SCENARIOS.iter().zip(rounds) {
        let [floor, countersign] = [&rounds.floor, &rounds.countersign].map(|of| Figures::of(of));
        let ratio = countersign.calls_per_second / floor.calls_per_second;
        let aim = aim.map_or_else(String::new, |aim| format!(" (aim {aim})"));
        println!("\n{scenario}: {ratio:.2} of the floor{aim}");
        for (name, of) in [("floor", &floor), ("countersign", &countersign)] {
            println!(
                "  {name:11} {:>8.0}/s   p50 {:>6.0} µs   p99 {:>6.0} µs   processor time a call: \
                 server {:>4.0} µs, client {:>4.0} µs",
                of.calls_per_second, of.p50_us, of.p99_us, of.server_cpu_us, of.client_cpu_us
            );
        }
        rows.push(json!({
            "scenario": scenario.to_string(),
            "floor": floor,
            "countersign": countersign,
            "ratio": ratio,
        }));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("activation.json");
    let numbers = json!({ "write_and_fdatasync_p50_us": sync, "scenarios": rows });
    std::fs::write(&path, format!("{numbers:#}\n")).unwrap();
    println!("\nThe same as JSON: {}", path.display());
}
