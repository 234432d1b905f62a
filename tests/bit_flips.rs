//! Promise: one flipped bit anywhere in what the server keeps is found, or does no harm. A server is
//! never there with something missing or changed, never panics, and says what to do; views heal.
//!
//! Each trial copies a directory with some history, flips one bit of one file, and starts a real server
//! on it.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::{
    DeactivateRequest, GetHistoryResponse, RectifySubjectRequest, RequestKind,
    SuspendLicenseRequest,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::{FOREVER, LONG_LOG, Place, Server, activation, files, reason};
use tonic::transport::Channel;

/// How many bits are flipped; more with `COUNTERSIGN_FLIPS`.
const FLIPS: u64 = 300;
/// What the places of the flips come from; another with `COUNTERSIGN_FLIP_SEED`.
const SEED: u64 = 4;

const ADA: &str = "ada@example.com";
const GRACE: &str = "grace@example.com";
const GRACE_BEFORE: &str = "grace.before@example.com";
const SUSPENDED: &str = "suspended@example.com";
const ERASED: &str = "erased@example.com";

/// What is worth a flip, and how often it gets one of a hundred.
const PARTS: [(&str, u32); 11] = [
    ("data/log/db", 28),
    ("data/log/", 7),
    ("data/vault", 18),
    ("data/head", 7),
    ("data/checked", 6),
    ("ledger/erasures", 8),
    ("keys/master.key", 5),
    ("keys/", 5),
    ("views/rows/", 9),
    ("views/", 3),
    ("tiles/", 4),
];
/// Keys that the server does not read: they are for two people to keep.
const NOT_READ: [&str; 2] = ["actor-1.key", "actor-2.key"];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// An acknowledged activation, and what a retry must be answered with: the receipt, or a reason.
struct Acknowledged {
    email: &'static str,
    key: String,
    nonce: u128,
    answer: Result<String, &'static str>,
}

/// Activates, and remembers the answer.
async fn activate(
    app: &mut ActivationServiceClient<Channel>,
    email: &'static str,
    key: &str,
    nonce: u128,
) -> Acknowledged {
    let answer = app.activate(activation(email, key, nonce)).await.unwrap();
    let receipt = answer.into_inner().receipt;
    Acknowledged { email, key: key.to_owned(), nonce, answer: Ok(receipt) }
}

/// People with licenses and activations of all kinds, an erasure that is final, and one that is not.
async fn history(server: &Server) -> Vec<Acknowledged> {
    let mut app = server.app();
    let mut all = Vec::new();
    for (email, count) in
        [(ADA, 30), (GRACE_BEFORE, 12), (SUSPENDED, 4), (ERASED, 5), ("erased2@example.com", 3)]
    {
        let key = server.issue(email, "App", 60).await;
        for _ in 0..count {
            all.push(activate(&mut app, email, &key, all.len() as u128).await);
        }
    }
    for ended in [2, 3, 7] {
        let receipt = all[ended].answer.clone().unwrap();
        app.deactivate(DeactivateRequest { receipt }).await.unwrap();
        all[ended].answer = Err("ACTIVATION_ENDED");
    }
    server.erase(ERASED, false, true).await;
    server.erase("erased2@example.com", false, false).await;
    let request_id = server.ready(GRACE_BEFORE, RequestKind::Rectification).await;
    let rectify =
        RectifySubjectRequest { request_id, email: GRACE.to_owned(), ..Default::default() };
    server.privacy().rectify_subject(rectify).await.unwrap();
    for known in &mut all {
        match known.email {
            ERASED | "erased2@example.com" => known.answer = Err("LICENSE_NOT_FOUND"),
            GRACE_BEFORE => known.email = GRACE,
            SUSPENDED => known.answer = Err("LICENSE_SUSPENDED"),
            _ => {}
        }
    }
    let suspended = all.iter().find(|known| known.email == SUSPENDED).unwrap();
    let license_key = suspended.key.clone();
    server.issuer().suspend_license(SuspendLicenseRequest { license_key }).await.unwrap();
    all
}

/// Which of the acknowledged activations are answered otherwise than they were.
async fn differing(server: &Server, all: &[Acknowledged]) -> Vec<u128> {
    let mut app = server.app();
    let mut wrong = Vec::new();
    for known in all {
        let answer = app.activate(activation(known.email, &known.key, known.nonce)).await;
        let answer = answer.map(|given| given.into_inner().receipt);
        let is_right = match (&known.answer, &answer) {
            (Ok(receipt), Ok(given)) => receipt == given,
            (Err(expected), Err(status)) => reason(status) == *expected,
            _ => false,
        };
        if !is_right {
            wrong.push(known.nonce);
        }
    }
    wrong
}

/// What support is told of persons.
async fn seen(server: &Server) -> Vec<Result<GetHistoryResponse, String>> {
    let mut seen = Vec::new();
    for email in [ADA, GRACE, GRACE_BEFORE, SUSPENDED, ERASED] {
        seen.push(server.history(email).await.map_err(|status| reason(&status)));
    }
    seen
}

/// As long is each slot of the vault.
const SLOT_BYTES: usize = 128;

/// What a flip must leave as it is.
struct Known {
    activations: Vec<Acknowledged>,
    seen: Vec<Result<GetHistoryResponse, String>>,
}

/// What came of a flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The server does not start, and says why.
    Detected,
    /// It starts and has built the views again.
    Healed,
    /// It starts, and all is there.
    Harmless,
}

/// A directory that is put back after each trial.
struct Trials {
    place: Place,
    whole: PathBuf,
    /// Starts read again behind the serving server what was checked before.
    is_long: bool,
    rng: StdRng,
    outcomes: BTreeMap<String, BTreeMap<Outcome, u32>>,
    /// Flips of the log's file that were detected, and of them those named by a position.
    detected: [u32; 2],
}

impl Trials {
    /// Takes over a directory whose server has ended.
    fn new(place: Place, seed: u64) -> Self {
        let whole = place.beside("whole");
        copy(&place.directory(), &whole);
        let config = fs::read_to_string(whole.join("countersign.toml")).unwrap();
        let (is_long, rng) = (config.contains(LONG_LOG), StdRng::seed_from_u64(seed));
        Self { place, whole, is_long, rng, outcomes: BTreeMap::new(), detected: [0; 2] }
    }

    /// Flips a random bit of a random file; its name and the byte.
    fn flip(&mut self) -> (String, usize) {
        for part in ["data", "keys", "ledger", "views", "tiles"] {
            let to = self.place.directory().join(part);
            fs::remove_dir_all(&to).unwrap();
            copy(&self.whole.join(part), &to);
        }
        let total = PARTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..total);
        let chosen = PARTS.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        let directory = self.place.directory();
        let name = |path: &Path| path.strip_prefix(&directory).unwrap().display().to_string();
        let (part, _) = chosen.unwrap();
        let mut candidates: Vec<PathBuf> = files(&directory)
            .into_iter()
            .filter(|path| name(path).starts_with(part) && fs::metadata(path).unwrap().len() > 0)
            .filter(|path| !NOT_READ.iter().any(|other| path.ends_with(other)))
            .collect();
        // A process that was killed may not have come to write every kind of file.
        if candidates.is_empty() {
            return self.flip();
        }
        candidates.sort();
        let path = &candidates[self.rng.random_range(0..candidates.len())];
        let mut bytes = fs::read(path).unwrap();
        // Most in what is written, some in the zeros that a file was grown by.
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 1);
        let until = if self.rng.random_bool(0.85) { used } else { bytes.len() };
        let byte = self.rng.random_range(0..until);
        bytes[byte] ^= 1 << self.rng.random_range(0..8);
        fs::write(path, bytes).unwrap();
        (name(path), byte)
    }

    /// Starts a server on what is there, and says what came of it, or what is wrong with that.
    async fn outcome(&self, name: &str, byte: usize, known: &Known) -> Result<Outcome, String> {
        let mut server = match self.place.try_start() {
            Ok(server) => server,
            Err((Some(1), log)) if is_helpful(&log) && names_slot(name, byte, &log) => {
                return Ok(Outcome::Detected);
            }
            // What is only found when the views are open is healed by the next start.
            Err((Some(1), log))
                if log.contains("and they are rebuilt") && !log.contains("panicked") =>
            {
                self.place.try_start().map_err(|(code, log)| format!("{code:?} again: {log}"))?
            }
            Err((code, log)) => return Err(format!("exit code {code:?}, no help in: {log}")),
        };
        let wrong = differing(&server, &known.activations).await;
        let is_seen = seen(&server).await == known.seen;
        let log = || fs::read_to_string(self.place.log_path()).unwrap();
        if self.is_long {
            let read = ["the log was read again", "is read whole", "all is read"];
            let is_read = async {
                while !read.iter().any(|text| log().contains(text)) && !server.has_ended() {
                    tokio::task::yield_now().await;
                }
            };
            let in_time = tokio::time::timeout(FOREVER, is_read).await;
            if in_time.is_err() || server.has_ended() {
                return Err(format!("it ended by itself, or never read the log: {}", log()));
            }
        }
        let (ended, log) = (server.terminate(), log());
        if !is_seen {
            return Err(format!("served, and another history; {log}"));
        }
        if !wrong.is_empty() {
            return Err(format!("served, and another answer to {wrong:?}; {log}"));
        }
        if !ended.success() || log.contains("panicked") {
            return Err(format!("it ended with {ended}; {log}"));
        }
        Ok(if log.contains("rebuilding") { Outcome::Healed } else { Outcome::Harmless })
    }

    fn count(&mut self, name: &str, outcome: Outcome) {
        // The number in a snapshot's name is another each time.
        let name = if name.contains("/snap.") { name.rsplit_once('.').unwrap().0 } else { name };
        *self.outcomes.entry(name.to_owned()).or_default().entry(outcome).or_default() += 1;
    }

    /// Counts how often what is damaged is named to the record.
    fn count_named(&mut self) {
        let log = fs::read_to_string(self.place.log_path()).unwrap();
        self.detected[0] += 1;
        self.detected[1] += u32::from(names_position(&log));
    }

    /// How often views that were damaged were built again.
    fn healed(&self) -> u32 {
        let of_views = self.outcomes.iter().filter(|(name, _)| name.starts_with("views/"));
        of_views.filter_map(|(_, outcomes)| outcomes.get(&Outcome::Healed)).sum()
    }

    fn report(&self) {
        let [detected, named] = self.detected;
        println!("detected in the log's file: {detected}, {named} of them by a position");
        for (name, outcomes) in &self.outcomes {
            println!("{name}: {outcomes:?}");
        }
    }
}

/// What is damaged in the vault is named by its slot.
fn names_slot(name: &str, byte: usize, log: &str) -> bool {
    name != "data/vault" || log.contains(&format!("slot {} of the vault", byte / SLOT_BYTES))
}

/// Whether a record is named by its number.
fn names_position(log: &str) -> bool {
    let mut rest = log.split("position ").skip(1);
    rest.any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Whether a refusal names what is damaged and says what to do, and is no panic.
fn is_helpful(log: &str) -> bool {
    let names = ["position", "slot ", "line ", "data/log", "head file", "vault", "keys/"];
    let remedies = [
        "restore ",
        "put back",
        "put it back",
        "check that the file",
        "correct the kid",
        "keep other",
    ];
    let has = |words: &[&str]| words.iter().any(|word| log.contains(word));
    has(&names) && has(&remedies) && !log.contains("panicked")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A third of the trials are on a directory whose server ended in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_found_or_does_no_harm() {
    let place = Place::in_memory();
    let known = history_and_a_restart(&place).await;
    try_flips(place, &known, 0).await;
}

/// A third on one whose server was killed, so that the head file has not come to the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_after_a_crash_is_found_or_does_no_harm() {
    let place = Place::in_memory();
    let server = place.start();
    let activations = history(&server).await;
    let known = Known { activations, seen: seen(&server).await };
    server.kill();
    try_flips(place, &known, 1).await;
}

/// And a third on one whose log is read behind the serving server.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_of_a_long_log_is_found_or_does_no_harm() {
    let place = Place::in_memory();
    place.configure(LONG_LOG);
    let known = history_and_a_restart(&place).await;
    try_flips(place, &known, 2).await;
}

/// A history after an orderly end, with all that a restart leaves.
async fn history_and_a_restart(place: &Place) -> Known {
    let server = place.start();
    let activations = history(&server).await;
    assert!(server.terminate().success());
    let server = place.start();
    assert_eq!(differing(&server, &activations).await, []);
    let known = Known { activations, seen: seen(&server).await };
    assert!(server.terminate().success());
    known
}

async fn try_flips(place: Place, known: &Known, more: u64) {
    let seed = setting("COUNTERSIGN_FLIP_SEED", SEED) + more;
    let mut trials = Trials::new(place, seed);
    let mut failures = Vec::new();
    for trial in 0..setting("COUNTERSIGN_FLIPS", FLIPS).div_ceil(3) {
        let (name, byte) = trials.flip();
        match trials.outcome(&name, byte, known).await {
            Ok(outcome) => {
                if outcome == Outcome::Detected && name == "data/log/db" {
                    trials.count_named();
                }
                trials.count(&name, outcome);
            }
            Err(wrong) => {
                failures
                    .push(format!("trial {trial} of seed {seed}, byte {byte} of {name}: {wrong}"));
            }
        }
    }
    trials.report();
    let [detected, named] = trials.detected;
    assert_eq!(named, detected, "what is damaged in the log is not named by a position");
    assert!(failures.is_empty(), "{} went wrong:\n{}", failures.len(), failures.join("\n"));
    let has_many = setting("COUNTERSIGN_FLIPS", FLIPS) >= FLIPS;
    assert!(!has_many || trials.healed() > 0, "no flip had the server build its views again");
}
