//! Apps and staff at the same time, and apps beside what an operator does meanwhile.
//!
//! Of the calls of a mix nine of ten are activations and checks, and one is a history that staff look at. It
//! is compared with what these calls cost alone. Work in the background goes on for as long as the load
//! does, and finds nothing to erase in the case of the sweep; the load is compared with itself, before and
//! after without it.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::privacy_service_client::PrivacyServiceClient;
use countersign::proto::v1::{CheckRequest, SweepRetentionRequest};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::load::{cpu_from_now, endpoint, look, request};
use crate::median;
use crate::support::servers::{Countersign, License, command};

const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 16;
/// The share of staff's calls in a mix.
const STAFF: f64 = 0.1;
/// What work in the background must leave of the throughput.
const AIM: f64 = 0.85;

/// What an operator does while apps activate.
#[derive(Clone, Copy)]
enum Background {
    Backup,
    Sweep,
}

#[derive(Clone)]
struct Worker {
    app: ActivationServiceClient<Channel>,
    support: HistoryServiceClient<Channel>,
    licenses: Arc<[License]>,
    /// Acknowledged.
    activations: Arc<AtomicU64>,
}

impl Worker {
    /// Calls until the end; how often. `staff` is the share of histories.
    async fn run(mut self, staff: f64, end: Instant) -> u64 {
        let (mut receipt, mut calls) = (None, 0);
        while Instant::now() < end {
            if rand::random_bool(staff) {
                let license = &self.licenses[rand::random_range(0..self.licenses.len())];
                self.support.get_history(look(license)).await.unwrap();
            } else if let Some(receipt) = receipt.take() {
                self.app.check(CheckRequest { receipt }).await.unwrap();
            } else {
                let answer = self.app.activate(request(&self.licenses)).await.unwrap();
                receipt = Some(answer.into_inner().receipt);
                self.activations.fetch_add(1, Ordering::Relaxed);
            }
            calls += 1;
        }
        calls
    }
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Mix {
    scenario: &'static str,
    ratio: f64,
    aim: f64,
    /// Processor time of server and clients that a call takes, beside what it would take by what it is
    /// compared with. What the ratio has lost besides is time in which processors are idle, or others'.
    processor_time_ratio: f64,
}

/// What calls take.
#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    /// Of server and clients, for a call.
    processor_micros: f64,
}

impl Rate {
    /// Of both taken one after the other, so many shares of the calls being the other's.
    fn with(self, other: Self, share: f64) -> Self {
        let mean = |of: fn(Self) -> f64| (1.0 - share) * of(self) + share * of(other);
        Self {
            per_second: 1.0 / mean(|rate| 1.0 / rate.per_second),
            processor_micros: mean(|rate| rate.processor_micros),
        }
    }

    /// Throughput, and processor time of a call, beside another's.
    fn beside(self, other: Self) -> [f64; 2] {
        [self.per_second / other.per_second, self.processor_micros / other.processor_micros]
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, ratio, aim, processor_time_ratio } = self;
        write!(
            f,
            "{scenario:40} {ratio:.2} (aim {aim}); processor time a call {processor_time_ratio:.2}"
        )
    }
}

/// The mixes, and how many activations were acknowledged.
pub(crate) async fn run(
    server: &Countersign,
    licenses: &[License],
    length: Duration,
    rounds: u64,
) -> (Vec<Mix>, u64) {
    let mut workers = Vec::new();
    let activations = Arc::new(AtomicU64::new(0));
    for _ in 0..CONNECTIONS {
        let app = endpoint(&server.server.address, &server.ca()).connect().await.unwrap();
        workers.push(Worker {
            app: ActivationServiceClient::new(app),
            support: HistoryServiceClient::new(server.staff("support").await),
            licenses: licenses.into(),
            activations: Arc::clone(&activations),
        });
    }
    let rate = async |staff| measure(server, &workers, staff, length).await;

    let mut mixed = Vec::new();
    let mut beside = [(Background::Backup, Vec::new()), (Background::Sweep, Vec::new())];
    for _ in 0..rounds {
        let (apps, staff) = (rate(0.0).await, rate(1.0).await);
        mixed.push(rate(STAFF).await.beside(apps.with(staff, STAFF)));
        for (background, ratios) in &mut beside {
            let before = rate(0.0).await;
            let busy = beside_work(server, *background, rate(0.0)).await;
            ratios.push(busy.beside(before.with(rate(0.0).await, 0.5)));
        }
    }
    let mut mixes = vec![Mix::new("nine calls of apps and one of staff", 1.0, &mixed)];
    for (background, ratios) in beside {
        let scenario = match background {
            Background::Backup => "apps beside backups, one after another",
            Background::Sweep => "apps beside sweeps, one after another",
        };
        mixes.push(Mix::new(scenario, AIM, &ratios));
    }
    (mixes, activations.load(Ordering::Relaxed))
}

impl Mix {
    fn new(scenario: &'static str, aim: f64, rounds: &[[f64; 2]]) -> Self {
        let [ratio, processor_time_ratio] =
            [0, 1].map(|of| median(rounds.iter().map(|round| round[of])));
        Self { scenario, ratio, aim, processor_time_ratio }
    }
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
async fn measure(server: &Countersign, workers: &[Worker], staff: f64, length: Duration) -> Rate {
    let cpu = cpu_from_now(&server.server);
    let (start, mut running) = (Instant::now(), JoinSet::new());
    for worker in workers {
        for _ in 0..IN_FLIGHT {
            running.spawn(worker.clone().run(staff, start + length));
        }
    }
    let calls: u64 = running.join_all().await.into_iter().sum();
    let (elapsed, cpu) = (start.elapsed(), cpu().into_iter().sum::<Duration>());
    Rate {
        per_second: calls as f64 / elapsed.as_secs_f64(),
        processor_micros: cpu.as_secs_f64() * 1e6 / calls as f64,
    }
}

/// The load's figure, while the background's work is done over and over.
async fn beside_work<T>(
    server: &Countersign,
    background: Background,
    load: impl Future<Output = T>,
) -> T {
    let is_over = AtomicBool::new(false);
    let load = async {
        let result = load.await;
        is_over.store(true, Ordering::Relaxed);
        result
    };
    let work = async {
        let mut privacy = PrivacyServiceClient::new(server.staff("privacy").await);
        while !is_over.load(Ordering::Relaxed) {
            match background {
                Background::Backup => back_up(&server.directory).await,
                Background::Sweep => {
                    let request = SweepRetentionRequest::default();
                    privacy.sweep_retention(request).await.unwrap();
                }
            }
        }
    };
    tokio::join!(load, work).0
}

/// A whole backup, to a place of its own.
async fn back_up(directory: &Path) {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = command(directory);
    command.arg("backup").arg(place.path().join("backup"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let status = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}
