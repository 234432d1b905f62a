//! Promise: what was acknowledged is there after a crash, once; what was refused is not; and no seat
//! is oversold.

mod known;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use known::{Issued, License};
use load::{Client, Progress};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::{LONG_LOG, Place, Server, activation};
use tokio::task::JoinSet;

const ADA: &str = "ada@example.com";

/// How often the server is killed; more with `COUNTERSIGN_KILL_ROUNDS`.
const ROUNDS: u64 = 12;
/// What the load and the moments of the kills come from; another with `COUNTERSIGN_KILL_SEED`.
const SEED: u64 = 4;
const CLIENTS: u64 = 24;
/// Seats of each client's own license, and of the one that they all compete for.
const OWN_SEATS: u32 = 40;
const SHARED_SEATS: u32 = 30;
/// After so many rounds the clients get fresh licenses, so that a round's check stays short. The old
/// ones are checked at the end again.
const GENERATION: u64 = 20;
/// The most acknowledgements that a round waits for before the kill, as a power of two.
const MOST_ACKNOWLEDGED: u32 = 9;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The clients of some rounds, and the license that they share.
struct Generation {
    clients: Vec<Client>,
    /// All that the clients know of it together.
    shared: License,
}

impl Generation {
    async fn new(server: &Server, round: u64, rng: &mut StdRng) -> Self {
        let shared =
            License::issue(server, &format!("shared{round}@example.com"), SHARED_SEATS).await;
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let email = format!("own{number}-{round}@example.com");
            let own = License::issue(server, &email, OWN_SEATS).await;
            let issued =
                Issued { email: format!("more{number}-{round}@example.com"), ..Issued::default() };
            clients.push(Client::new(own, shared.clone(), issued, rng.random()));
        }
        Self { clients, shared }
    }

    /// Load until enough is acknowledged, and then SIGKILL.
    async fn round(&mut self, server: Server, progress: &Arc<Progress>) {
        let server = Arc::new(server);
        let mut running = JoinSet::new();
        for client in self.clients.drain(..) {
            let (server, progress) = (Arc::clone(&server), Arc::clone(progress));
            running.spawn(async move { client.run(&server, progress).await });
        }
        progress.bell.notified().await;
        server.signal("KILL");
        self.clients = running.join_all().await;
        Arc::into_inner(server).expect("the clients are gone").wait();
        self.shared.activations.clear();
        for client in &mut self.clients {
            self.shared.activations.append(&mut client.shared.activations);
        }
    }

    /// Compares all that the clients know with the server. How many unanswered activations were asked
    /// for again.
    async fn check(&mut self, server: &Server, rng: &mut StdRng) -> usize {
        let keys = server.receipt_keys().await;
        let mut retried = 0;
        // Asking again comes before the look at what is there, or after it.
        let retry_first = rng.random();
        for client in &mut self.clients {
            if retry_first {
                retried += client.own.retry_unknown(server, false).await;
            }
            client.own.check(server, &keys).await;
            client.issued.check(server).await;
        }
        let shared = &mut self.shared;
        if retry_first {
            retried += shared.retry_unknown(server, true).await;
        }
        shared.check(server, &keys).await;
        for client in &mut self.clients {
            client.own.retry_unknown(server, false).await;
        }
        self.hand_out(rng);
        retried
    }

    /// Gives each client a part of the shared activations to go on with.
    fn hand_out(&mut self, rng: &mut StdRng) {
        for activation in &self.shared.activations {
            let client = rng.random_range(0..self.clients.len());
            self.clients[client].shared.activations.push(activation.clone());
        }
    }
}

/// Configuration by which every log is short, and read whole at a start.
const SHORT_LOG: &str = "[storage]\nchecked_first = 4294967295";

/// Whether the next starts take the log for a long one, or read it whole.
fn set_long(place: &Place, is_long: bool) {
    let path = place.directory().join("countersign.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let (from, to) = if is_long { (SHORT_LOG, LONG_LOG) } else { (LONG_LOG, SHORT_LOG) };
    std::fs::write(&path, config.replace(from, to)).unwrap();
}

/// Starts the server; in some rounds it is killed first while it starts, at any moment of it.
fn start(place: &Place, rng: &mut StdRng) -> Server {
    while rng.random_bool(0.15) {
        let mut child = place.serve().spawn().unwrap();
        thread::sleep(Duration::from_millis(rng.random_range(0..40)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    place.start()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_sigkill_exactly_once() {
    let rounds = setting("COUNTERSIGN_KILL_ROUNDS", ROUNDS);
    let seed = setting("COUNTERSIGN_KILL_SEED", SEED);
    println!("COUNTERSIGN_KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    place.configure(LONG_LOG);
    let mut server = place.start();
    let mut generation = Generation::new(&server, 0, &mut rng).await;
    let mut former: Vec<Generation> = Vec::new();
    let (mut acknowledged, mut refused, mut unknown, mut retried) = (0, 0, 0, 0);
    for round in 0..rounds {
        if round > 0 && round % GENERATION == 0 {
            let next = Generation::new(&server, round, &mut rng).await;
            former.push(std::mem::replace(&mut generation, next));
        }
        set_long(&place, round % 2 == 0);
        let enough = 1 << rng.random_range(0..=MOST_ACKNOWLEDGED);
        let enough = rng.random_range(1..=enough);
        let progress = Arc::new(Progress { enough, ..Progress::default() });
        generation.round(server, &progress).await;
        server = start(&place, &mut rng);
        retried += generation.check(&server, &mut rng).await;
        acknowledged += progress.acknowledged.load(Ordering::Relaxed);
        refused += progress.refused.load(Ordering::Relaxed);
        unknown += progress.unknown.load(Ordering::Relaxed);
    }
    former.push(generation);
    for generation in &mut former {
        generation.check(&server, &mut rng).await;
    }
    let receipts = receipts_are_the_same(&server, &former).await;
    println!(
        "{rounds} kills: {acknowledged} calls acknowledged, {refused} refused, {unknown} unknown, \
         {retried} activations asked for again, {receipts} receipts the same at the end"
    );
    assert!(acknowledged >= rounds && unknown >= rounds);
}

/// Each activation that holds its seat is given again, byte for byte.
async fn receipts_are_the_same(server: &Server, generations: &[Generation]) -> usize {
    let mut app = server.app();
    let mut seen = HashSet::new();
    for generation in generations {
        let own = generation.clients.iter().map(|client| &client.own);
        for license in own.chain([&generation.shared]) {
            for known in &license.activations {
                let Some(receipt) = &known.receipt else { continue };
                if known.ended != known::Fact::No || license.suspended != known::Fact::No {
                    continue;
                }
                let request = activation(&license.email, &license.key, known.nonce);
                let again = app.activate(request).await.unwrap().into_inner();
                assert_eq!(&again.receipt, receipt);
                assert!(seen.insert(receipt.clone()), "two activations have one receipt");
            }
        }
    }
    seen.len()
}

fn overwrite_files_below(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            overwrite_files_below(&path);
        } else {
            std::fs::write(path, [0xFF; 5000]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_are_lost_or_damaged_come_back_by_themselves() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 10).await;
    for nonce in 0..5 {
        server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
    }
    assert!(server.terminate().success());
    let views = place.directory().join("views");
    let ruin: [&dyn Fn(); 4] = [
        &|| std::fs::remove_dir_all(&views).unwrap(),
        &|| overwrite_files_below(&views.join("rows")),
        &|| std::fs::write(views.join("trust"), "a power cut").unwrap(),
        &|| std::fs::remove_dir_all(views.join("rows/keyspaces")).unwrap(),
    ];
    for (used, ruin) in (5..).zip(ruin) {
        ruin();
        let server = place.start();
        let history = server.history(ADA).await.unwrap();
        assert_eq!(history.licenses[0].activations_total, used);
        server.app().activate(activation(ADA, &key, u128::from(used))).await.unwrap();
        assert!(server.terminate().success());
    }
    let rebuilt = place.run(&["views", "rebuild", "--json"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert_eq!(place.start().history(ADA).await.unwrap().licenses[0].activations_total, 9);
}
