//! How fast durable activations are, beside a floor measured in the same run: the same tonic
//! service behind the same acceptor and TLS, which stores nothing and makes one Ed25519 signature a
//! reply. Real processes, real TLS, a real disk; server and load share the machine, so only the ratio
//! means something.
//!
//! `cargo bench --bench activation -- [--seconds N] [--rounds N] [--quick]`

mod floor;
mod load;
mod servers;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use load::{License, Measured, Scenario, new_histogram};
use servers::{Countersign, Floor};

/// The scenarios, and the share of the floor that is aimed at.
const SCENARIOS: [(Scenario, Option<f64>); 3] = [
    (Scenario::Warm { connections: 1, in_flight: 1 }, None),
    (Scenario::Warm { connections: 8, in_flight: 16 }, Some(0.5)),
    (Scenario::NewConnections { workers: 16 }, Some(0.8)),
];

struct Options {
    seconds: u64,
    rounds: usize,
}

impl Options {
    /// What cargo and a test harness would add is ignored.
    fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let number = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name)?;
            arguments.get(at + 1)?.parse().ok()
        };
        let (seconds, rounds) =
            if arguments.iter().any(|argument| argument == "--quick") { (1, 1) } else { (5, 3) };
        Self {
            seconds: number("--seconds").unwrap_or(seconds),
            rounds: number("--rounds")
                .and_then(|rounds| usize::try_from(rounds).ok())
                .unwrap_or(rounds),
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
    let floor = Floor::start(&countersign.tls());
    let licenses = countersign.issue_licenses().await;
    let length = Duration::from_secs(options.seconds);
    let sync = sync_micros(place.path(), length);

    let mut acknowledged = 0;
    let mut rounds: Vec<Rounds> = SCENARIOS.iter().map(|_| Rounds::default()).collect();
    for _ in 0..options.rounds {
        for ((scenario, _), rounds) in SCENARIOS.iter().zip(&mut rounds) {
            let ca = countersign.ca();
            let [of_floor, of_countersign] = [&floor.address, &countersign.public]
                .map(|address| load::run(*scenario, address, &ca, &licenses, length));
            rounds.floor.push(of_floor.await);
            let measured = of_countersign.await;
            acknowledged += measured.calls;
            rounds.countersign.push(measured);
        }
    }
    report(&rounds, sync);
    let recorded = countersign.activations(&licenses).await;
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

/// The median of the rounds, by what `of` gives.
fn median(rounds: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(rounds: &[Rounds], sync: f64) {
    println!("one write and fdatasync of 300 bytes on this disk: {sync:.0} µs at the median\n");
    println!(
        "{:38} {:>9} {:>13} {:>6} {:>5}   {:>15} {:>19}",
        "scenario",
        "floor/s",
        "countersign/s",
        "ratio",
        "aim",
        "floor p50/p99",
        "countersign p50/p99"
    );
    let mut rows: Vec<Value> = Vec::new();
    for ((scenario, aim), rounds) in SCENARIOS.iter().zip(rounds) {
        let [floor, ours] = [&rounds.floor, &rounds.countersign]
            .map(|rounds| median(rounds, Measured::calls_per_second));
        let [floor_p50, floor_p99, our_p50, our_p99] = [
            median(&rounds.floor, |round| micros(round.latency.value_at_quantile(0.5))),
            median(&rounds.floor, |round| micros(round.latency.value_at_quantile(0.99))),
            median(&rounds.countersign, |round| micros(round.latency.value_at_quantile(0.5))),
            median(&rounds.countersign, |round| micros(round.latency.value_at_quantile(0.99))),
        ];
        let ratio = ours / floor;
        println!(
            "{:38} {floor:>9.0} {ours:>13.0} {ratio:>6.2} {:>5}   {:>15} {:>19}",
            scenario.to_string(),
            aim.map_or_else(|| "-".to_owned(), |aim| aim.to_string()),
            format!("{floor_p50:.0}/{floor_p99:.0} µs"),
            format!("{our_p50:.0}/{our_p99:.0} µs"),
        );
        rows.push(json!({
            "scenario": scenario.to_string(),
            "floor_per_second": floor,
            "countersign_per_second": ours,
            "ratio": ratio,
            "aim": aim,
            "floor_p50_us": floor_p50,
            "floor_p99_us": floor_p99,
            "countersign_p50_us": our_p50,
            "countersign_p99_us": our_p99,
        }));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("activation.json");
    let numbers = json!({ "write_and_fdatasync_p50_us": sync, "scenarios": rows });
    std::fs::write(&path, format!("{numbers:#}\n")).unwrap();
    println!("\nThe same as JSON: {}", path.display());
}

/// A license to activate.
fn address_of(license: usize) -> String {
    format!("bench-{license}@example.com")
}

/// The key of a license, with its address.
fn license(number: usize, key: String) -> License {
    License { email: address_of(number), key }
}
