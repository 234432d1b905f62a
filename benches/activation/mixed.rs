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

use crate::load::{endpoint, look, request};
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
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:40} {:.2} (aim {})", self.scenario, self.ratio, self.aim)
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
    let rate = async |staff| per_second(&workers, staff, length).await;

    let mut mixed = Vec::new();
    let mut beside = [(Background::Backup, Vec::new()), (Background::Sweep, Vec::new())];
    for _ in 0..rounds {
        let (apps, staff) = (rate(0.0).await, rate(1.0).await);
        // As long as both take one after the other.
        let expected = 1.0 / ((1.0 - STAFF) / apps + STAFF / staff);
        mixed.push(rate(STAFF).await / expected);
        for (background, ratios) in &mut beside {
            let before = rate(0.0).await;
            let busy = beside_work(server, *background, rate(0.0)).await;
            ratios.push(busy / f64::midpoint(before, rate(0.0).await));
        }
    }
    let (scenario, ratio) = ("nine calls of apps and one of staff", median(mixed.into_iter()));
    let mut mixes = vec![Mix { scenario, ratio, aim: 1.0 }];
    for (background, ratios) in beside {
        let scenario = match background {
            Background::Backup => "apps beside backups, one after another",
            Background::Sweep => "apps beside sweeps, one after another",
        };
        mixes.push(Mix { scenario, ratio: median(ratios.into_iter()), aim: AIM });
    }
    (mixes, activations.load(Ordering::Relaxed))
}

/// Calls a second.
#[allow(clippy::cast_precision_loss)] // far below 2^52
async fn per_second(workers: &[Worker], staff: f64, length: Duration) -> f64 {
    let (start, mut running) = (Instant::now(), JoinSet::new());
    for worker in workers {
        for _ in 0..IN_FLIGHT {
            running.spawn(worker.clone().run(staff, start + length));
        }
    }
    let calls: u64 = running.join_all().await.into_iter().sum();
    calls as f64 / start.elapsed().as_secs_f64()
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
