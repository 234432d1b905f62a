//! How fast durable activations are, beside a floor measured in the same run: the same tonic
//! service behind the same acceptor and TLS, which stores nothing and makes one Ed25519 signature a
//! reply. Real processes, real TLS, a real disk; server and load share the machine, so only the ratio
//! means something.
//!
//! After that an open loop, at half of what eight connections got through, and at four times that; calls
//! of apps and staff mixed; and backups and sweeps meanwhile.
//!
//! With `--tree` the floor is the server itself where it makes no tiles of the log's tree, and the server
//! publishes a checkpoint each second, or every so many.
//!
//! `cargo bench --bench activation -- [--seconds N] [--rounds N] [--quick] [--tree [--interval N]]`

mod floor;
mod load;
mod mixed;
mod open;
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
use mimalloc::MiMalloc;
use tonic::transport::Certificate;

use load::{Measured, Scenario};
use mixed::Mix;
use open::Outcome;
use support::servers::{Countersign, License, Server, command};
use support::{micros, nanos, new_histogram};

// The floor has what the server has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How many licenses the load is spread over.
const LICENSES: usize = 64;

/// How often a checkpoint is published where the tree is measured, in seconds; and as good as never.
const OFTEN: u64 = 1;
const NEVER: u64 = 24 * 60 * 60;

/// The scenarios, and the share of the floor that is aimed at.
const SCENARIOS: [(Scenario, Option<f64>); 5] = [
    (Scenario::Warm { connections: 1, in_flight: 1 }, None),
    (Scenario::Warm { connections: 8, in_flight: 16 }, Some(0.5)),
    (Scenario::Warm { connections: 32, in_flight: 16 }, Some(0.5)),
    (Scenario::NewConnections { workers: 16 }, Some(0.8)),
    (Scenario::NewConnections { workers: 64 }, Some(0.8)),
];

/// The scenario whose throughput the open loop goes by, and the shares of it that are offered.
const PEAK: usize = 1;
const OPEN_LOOPS: [f64; 2] = [0.5, 4.0];

struct Options {
    seconds: u64,
    rounds: u64,
    tree: bool,
    interval: u64,
}

impl Options {
    fn from_arguments() -> Self {
        let (seconds, rounds) = if support::is_asked("--quick") { (1, 1) } else { (3, 3) };
        Self {
            seconds: support::number("--seconds").unwrap_or(seconds),
            rounds: support::number("--rounds").unwrap_or(rounds),
            tree: support::is_asked("--tree"),
            interval: support::number("--interval").unwrap_or(OFTEN),
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
    let countersign =
        at_interval(&place.path().join("data"), options.tree.then_some(options.interval));
    let licenses = licenses(&countersign).await;
    let floor = if options.tree {
        let without = at_interval(&place.path().join("without"), Some(NEVER));
        let licenses = crate::licenses(&without).await;
        Floor { ca: without.ca(), licenses, server: without.server }
    } else {
        let server = floor::start(&countersign.tls());
        Floor { ca: countersign.ca(), licenses: licenses.clone(), server }
    };
    let length = Duration::from_secs(options.seconds);
    let sync = sync_micros(place.path(), length);

    let mut acknowledged = 0;
    let mut rounds: Vec<Rounds> = SCENARIOS.iter().map(|_| Rounds::default()).collect();
    for _ in 0..options.rounds {
        for ((scenario, _), rounds) in SCENARIOS.iter().zip(&mut rounds) {
            let Floor { server, ca, licenses: of_floor } = &floor;
            rounds.floor.push(load::run(*scenario, server, ca, of_floor, length).await);
            let (server, ca) = (&countersign.server, countersign.ca());
            let measured = load::run(*scenario, server, &ca, &licenses, length).await;
            acknowledged += measured.calls;
            rounds.countersign.push(measured);
        }
    }
    let peak = Figures::of(&rounds[PEAK].countersign).calls_per_second;
    let mut open = Vec::new();
    if !options.tree {
        for factor in OPEN_LOOPS {
            let (server, ca) = (&countersign.server, countersign.ca());
            let outcome = open::run(server, &ca, &licenses, factor * peak, length).await;
            acknowledged += outcome.calls();
            open.push((factor, outcome));
        }
    }
    let mut mixes = Vec::new();
    if !options.tree {
        let (measured, activations) =
            mixed::run(&countersign, &licenses, length, options.rounds).await;
        (mixes, acknowledged) = (measured, acknowledged + activations);
    }
    report(&rounds, &open, &mixes, sync, options.tree);
    let recorded = activations(&countersign, &licenses).await;
    (recorded != acknowledged)
        .then(|| format!("{acknowledged} activations were acknowledged, {recorded} are recorded"))
}

/// What the server is compared with.
struct Floor {
    server: Server,
    ca: Certificate,
    licenses: Vec<License>,
}

/// A server that publishes a checkpoint of its tree so often, in seconds; `None`: as by default.
fn at_interval(directory: &Path, seconds: Option<u64>) -> Countersign {
    if let Some(seconds) = seconds {
        assert!(command(directory).arg("init").status().unwrap().success());
        let mut config =
            File::options().append(true).open(directory.join("countersign.toml")).unwrap();
        writeln!(config, "\n[transparency]\ncheckpoint_seconds = {seconds}").unwrap();
    }
    Countersign::start(directory)
}

async fn licenses(server: &Countersign) -> Vec<License> {
    let addresses = (0..LICENSES).map(|number| format!("bench-{number}@example.com"));
    server.issue_licenses(addresses).await
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
    for license in licenses {
        let history = support.get_history(load::look(license)).await.unwrap().into_inner();
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

fn report(rounds: &[Rounds], open: &[(f64, Outcome)], mixes: &[Mix], sync: f64, is_of_tree: bool) {
    println!("one write and fdatasync of 300 bytes on this disk: {sync:.0} µs at the median");
    let mut rows = Vec::new();
    for ((scenario, aim), rounds) in SCENARIOS.iter().zip(rounds) {
        let [floor, countersign] = [&rounds.floor, &rounds.countersign].map(|of| Figures::of(of));
        let ratio = countersign.calls_per_second / floor.calls_per_second;
        let aim = aim.filter(|_| !is_of_tree);
        let aim = aim.map_or_else(String::new, |aim| format!(" (aim {aim})"));
        println!("\n{scenario}: {ratio:.2} of the floor{aim}");
        let names = if is_of_tree { ["no tree", "with it"] } else { ["floor", "countersign"] };
        for (name, of) in names.into_iter().zip([&floor, &countersign]) {
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
    let peak = Figures::of(&rounds[PEAK].countersign).calls_per_second;
    let mut loops = Vec::new();
    for (factor, outcome) in open {
        let share = outcome.accepted_per_second() / peak;
        println!("\nopen loop at {factor} of 8 x 16: {share:.2} of its throughput\n  {outcome}");
        let [accepted, refused] = outcome.p99();
        loops.push(json!({
            "offered": factor, "carried_out": share,
            "accepted_p99_us": accepted, "refused_p99_us": refused,
        }));
    }
    if !mixes.is_empty() {
        println!("\nmixed, 8 x 16 in flight, beside what each takes alone");
    }
    for mix in mixes {
        println!("  {mix}");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("activation.json");
    let numbers = json!({
        "write_and_fdatasync_p50_us": sync, "scenarios": rows, "open_loops": loops, "mixes": mixes,
    });
    std::fs::write(&path, format!("{numbers:#}\n")).unwrap();
    println!("\nThe same as JSON: {}", path.display());
}
