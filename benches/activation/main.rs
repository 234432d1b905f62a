//! How fast durable activations are, beside a floor measured in the same run: tonic as it comes, with TLS,
//! which stores nothing and makes one Ed25519 signature a reply; and beside the server's own transport,
//! which stores nothing either. Real processes, real TLS, a real disk; server and load share the machine, so only
//! the ratio means something, and a machine that others use too is not equally fast for long: rounds are
//! short, and the ratio is the median of theirs.
//!
//! After that an open loop, at half of what eight connections got through, and at four times that; calls
//! of apps and staff mixed; and backups and sweeps meanwhile.
//!
//! With `--tree` it is compared with a server that makes no tiles of the log's tree, and publishes a
//! checkpoint each second, or every so many.
//!
//! `cargo bench --bench activation -- [--seconds N] [--rounds N] [--quick] [--tree [--interval N]]`

mod floor;
mod load;
mod mixed;
mod open;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
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

use floor::Floor;
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
    (PEAK, Some(0.85)),
    (Scenario::Warm { connections: 32, in_flight: 16 }, Some(0.85)),
    (Scenario::NewConnections { workers: 16 }, Some(0.95)),
    (Scenario::NewConnections { workers: 64 }, Some(0.95)),
];

/// The scenario whose throughput the open loop goes by, and the shares of it that are offered.
const PEAK: Scenario = Scenario::Warm { connections: 8, in_flight: 16 };
const OPEN_LOOPS: [f64; 2] = [0.5, 4.0];
/// How many rounds an open loop is as long as.
const OPEN_ROUNDS: u32 = 3;
/// How many requests may wait for the writer of a server that is to refuse: the usual queue never fills where
/// the load has the same processors.
const SHORT_QUEUE: u32 = 128;

/// What one call alone is to take: so often what the floor takes and a sync.
const AIM_ALONE: f64 = 1.5;

struct Options {
    seconds: u64,
    rounds: u64,
    tree: bool,
    interval: u64,
}

impl Options {
    fn from_arguments() -> Self {
        let (seconds, rounds) = if support::is_asked("--quick") { (1, 1) } else { (1, 9) };
        Self {
            seconds: support::number("--seconds").unwrap_or(seconds),
            rounds: support::number("--rounds").unwrap_or(rounds),
            tree: support::is_asked("--tree"),
            interval: support::number("--interval").unwrap_or(OFTEN),
        }
    }
}

fn main() {
    if let Some((floor, tls)) = floor::requested() {
        return floor::serve(floor, &tls);
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
    let others = if options.tree {
        let without = at_interval(&place.path().join("without"), Some(NEVER));
        let (ca, licenses) = (without.ca(), crate::licenses(&without).await);
        vec![Other { name: "no tree", server: without.server, ca, licenses }]
    } else {
        let floors = [("floor", Floor::Tonic), ("transport", Floor::Transport)];
        let other = |(name, floor)| Other {
            name,
            server: floor::start(floor, &countersign.tls()),
            ca: countersign.ca(),
            licenses: licenses.clone(),
        };
        floors.map(other).into()
    };
    let length = Duration::from_secs(options.seconds);
    let sync = sync_micros(place.path(), length);

    let mut acknowledged = 0;
    let mut compared: Vec<Compared> = SCENARIOS.iter().map(|_| Compared::new(&others)).collect();
    for _ in 0..options.rounds {
        for ((scenario, _), compared) in SCENARIOS.iter().zip(&mut compared) {
            for (Other { server, ca, licenses, .. }, (_, rounds)) in
                others.iter().zip(&mut compared.others)
            {
                rounds.push(load::run(*scenario, server, ca, licenses, length).await);
            }
            let (server, ca) = (&countersign.server, countersign.ca());
            let measured = load::run(*scenario, server, &ca, &licenses, length).await;
            acknowledged += measured.calls;
            compared.countersign.push(measured);
            load::settled(server).await;
        }
    }
    let mut open = Vec::new();
    if !options.tree {
        for factor in OPEN_LOOPS {
            let offered = OpenLoop::run(None, factor, &countersign, &licenses, length).await;
            acknowledged += offered.acknowledged;
            open.push(offered);
        }
        let directory = place.path().join("short");
        let config = format!("[storage]\nqueue = {SHORT_QUEUE}");
        let short = configured(&directory, Some(&config));
        let licenses = crate::licenses(&short).await;
        let queue = Some(SHORT_QUEUE);
        let offered = OpenLoop::run(queue, 4.0, &short, &licenses, length).await;
        let mismatch = mismatch(&short, &licenses, offered.acknowledged).await;
        if mismatch.is_some() {
            return mismatch;
        }
        open.push(offered);
    }
    let mut mixes = Vec::new();
    if !options.tree {
        let (measured, activations) =
            mixed::run(&countersign, &licenses, length, options.rounds).await;
        (mixes, acknowledged) = (measured, acknowledged + activations);
    }
    report(&compared, &open, &mixes, sync, options.tree);
    mismatch(&countersign, &licenses, acknowledged).await
}

/// What to say where a server has not recorded what it acknowledged.
async fn mismatch(server: &Countersign, licenses: &[License], acknowledged: u64) -> Option<String> {
    let recorded = activations(server, licenses).await;
    (recorded != acknowledged)
        .then(|| format!("{acknowledged} activations were acknowledged, {recorded} are recorded"))
}

/// An open loop, and what the server got through before and after it.
struct OpenLoop {
    /// How many requests may wait for the writer; `None`: as by default.
    queue: Option<u32>,
    factor: f64,
    /// Calls a second.
    peak: f64,
    outcome: Outcome,
    acknowledged: u64,
}

impl OpenLoop {
    async fn run(
        queue: Option<u32>,
        factor: f64,
        server: &Countersign,
        licenses: &[License],
        length: Duration,
    ) -> Self {
        let peak = async || load::run(PEAK, &server.server, &server.ca(), licenses, length).await;
        let before = peak().await;
        let rate = factor * before.calls_per_second();
        let outcome = open::run(server, licenses, rate, length * OPEN_ROUNDS).await;
        load::settled(&server.server).await;
        let after = peak().await;
        load::settled(&server.server).await;
        let peak = f64::midpoint(before.calls_per_second(), after.calls_per_second());
        let acknowledged = before.calls + outcome.calls() + after.calls;
        Self { queue, factor, peak, outcome, acknowledged }
    }

    /// How much of the peak was carried out.
    fn share(&self) -> f64 {
        self.outcome.accepted_per_second() / self.peak
    }
}

/// What the server is compared with.
struct Other {
    name: &'static str,
    server: Server,
    ca: Certificate,
    licenses: Vec<License>,
}

/// What all did in one scenario, a round each.
struct Compared {
    others: Vec<(&'static str, Vec<Measured>)>,
    countersign: Vec<Measured>,
}

impl Compared {
    fn new(others: &[Other]) -> Self {
        let others = others.iter().map(|other| (other.name, Vec::new())).collect();
        Self { others, countersign: Vec::new() }
    }

    /// The median of what the server did in a round beside what the other did in it.
    fn ratio(&self, other: &[Measured]) -> f64 {
        let rounds = self.countersign.iter().zip(other);
        median(rounds.map(|(ours, other)| ours.calls_per_second() / other.calls_per_second()))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
}

/// A server that publishes a checkpoint of its tree so often, in seconds; `None`: as by default.
fn at_interval(directory: &Path, seconds: Option<u64>) -> Countersign {
    let config = seconds.map(|seconds| format!("[transparency]\ncheckpoint_seconds = {seconds}"));
    configured(directory, config.as_deref())
}

/// A server with these settings besides those by default.
fn configured(directory: &Path, settings: Option<&str>) -> Countersign {
    if let Some(settings) = settings {
        assert!(command(directory).arg("init").status().unwrap().success());
        let mut config =
            File::options().append(true).open(directory.join("countersign.toml")).unwrap();
        writeln!(config, "\n{settings}").unwrap();
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
        let median = |of: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(of));
        Self {
            calls_per_second: median(&Measured::calls_per_second),
            p50_us: median(&|round| micros(round.latency.value_at_quantile(0.5))),
            p99_us: median(&|round| micros(round.latency.value_at_quantile(0.99))),
            server_cpu_us: median(&|round| round.cpu_per_call()[0]),
            client_cpu_us: median(&|round| round.cpu_per_call()[1]),
        }
    }
}

fn report(scenarios: &[Compared], open: &[OpenLoop], mixes: &[Mix], sync: f64, is_of_tree: bool) {
    println!("one write and fdatasync of 300 bytes on this disk: {sync:.0} µs at the median");
    let mut rows = Vec::new();
    for ((scenario, aim), compared) in SCENARIOS.iter().zip(scenarios) {
        let aim = aim.filter(|_| !is_of_tree);
        let aim = aim.map_or_else(String::new, |aim| format!(" (aim {aim} of the floor)"));
        let ratios: Vec<(&str, f64)> =
            compared.others.iter().map(|(name, rounds)| (*name, compared.ratio(rounds))).collect();
        let of = ratios.iter().map(|(name, ratio)| format!("{ratio:.2} of {name}"));
        println!("\n{scenario}: {}{aim}", of.collect::<Vec<_>>().join(", "));
        let all = compared.others.iter().map(|(name, rounds)| (*name, rounds));
        let all = all.chain([("countersign", &compared.countersign)]);
        let figures: Vec<(&str, Figures)> =
            all.map(|(name, rounds)| (name, Figures::of(rounds))).collect();
        for (name, of) in &figures {
            println!(
                "  {name:11} {:>8.0}/s   p50 {:>6.0} µs   p99 {:>6.0} µs   processor time a call: \
                 server {:>4.0} µs, client {:>4.0} µs",
                of.calls_per_second, of.p50_us, of.p99_us, of.server_cpu_us, of.client_cpu_us
            );
        }
        if let (Scenario::Warm { connections: 1, .. }, [(_, floor), .., (_, of)]) =
            (scenario, figures.as_slice())
            && !is_of_tree
        {
            let ratio = of.p50_us / (floor.p50_us + sync);
            println!("  p50 is {ratio:.2} of the floor's and a sync together (aim {AIM_ALONE})");
        }
        let ratios: BTreeMap<_, _> = ratios.into_iter().collect();
        let figures: BTreeMap<_, _> = figures.into_iter().collect();
        rows.push(json!({"scenario": scenario.to_string(), "servers": figures, "ratios": ratios}));
    }
    let mut loops = Vec::new();
    for offered in open {
        let OpenLoop { queue, factor, outcome, .. } = offered;
        let of = queue.map_or_else(String::new, |queue| format!(", with a queue of {queue}"));
        let share = offered.share();
        println!(
            "\nopen loop at {factor} of 8 x 16{of}: {share:.2} of its throughput\n  {outcome}"
        );
        loops.push(json!({
            "offered": factor, "queue": queue, "carried_out": share, "outcome": outcome.to_json(),
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
