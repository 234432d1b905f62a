//! Promise: a wrong key, a wrong address and an unknown person are refused with the same bytes, in the
//! same time: nobody can learn who is a customer. Nor does it take another time to be told that nothing is
//! held about somebody.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use countersign::domain::LicenseKey;
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::privacy_service_client::PrivacyServiceClient;
use countersign::proto::v1::{ExportSubjectRequest, Purpose, export_subject_request};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use support::{Place, Server, activation, reason};
use tokio::sync::Mutex;
use tonic::transport::Channel;

/// Calls, of all kinds together.
const CALLS: usize = 10_000;
/// Not measured, of each kind: caches fill.
const WARM_UP: usize = 300;
/// How many standard deviations tell a difference. By chance alone one run in 50,000 has one.
const TOLD_APART: f64 = 4.5;

/// Exports, of a person who is known and of one who is not.
const EXPORTS: usize = 300;

/// What is timed is alone: the tests of this file would disturb each other.
static ALONE: Mutex<()> = Mutex::const_new(());

const KINDS: [&str; 3] = ["a wrong key", "a wrong address", "an unknown person"];
const ADA: &str = "ada@example.com";

/// Makes what is refused. Everything is of the same length, and tried once.
struct Refused {
    app: ActivationServiceClient<Channel>,
    keys: Vec<String>,
}

impl Refused {
    async fn new(server: &Server) -> Self {
        let mut keys = Vec::new();
        for number in 0..16 {
            keys.push(server.issue(&format!("p{number:02}@example.com"), "App", 1).await);
        }
        server.issue(ADA, "App", 1).await;
        Self { app: server.app(), keys }
    }

    /// Calls, and gives the answer's bytes and how long it took.
    async fn call(&mut self, kind: usize, number: usize) -> (Vec<u8>, Duration) {
        let none = LicenseKey::generate(rand::random).expose();
        let key = &self.keys[number % self.keys.len()];
        let (email, key) = match kind {
            0 => (ADA, none.as_str()),
            1 => (ADA, key.as_str()),
            _ => ("eve@example.com", key.as_str()),
        };
        let request = activation(email, key, rand::random());
        let before = Instant::now();
        let status = self.app.activate(request).await.unwrap_err();
        let took = before.elapsed();
        assert_eq!(reason(&status), "LICENSE_NOT_FOUND");
        let mut answer = status.code().to_string().into_bytes();
        answer.extend(status.message().as_bytes());
        answer.extend(status.details());
        for name in status.metadata().keys() {
            let value = status.metadata().get(match name {
                tonic::metadata::KeyRef::Ascii(name) => name.as_str(),
                tonic::metadata::KeyRef::Binary(name) => name.as_str(),
            });
            let name = format!("{name:?}");
            // The time of day is another each second.
            if !name.contains("date") {
                answer.extend(name.as_bytes());
                answer.extend(value.map(|value| value.as_bytes().to_vec()).unwrap_or_default());
            }
        }
        (answer, took)
    }
}

/// Among pairs of times that were taken beside each other in random order: by how many standard
/// deviations the first is longer more often than half of the times (the sign test). What disturbs the
/// machine disturbs both alike, and outliers count once.
fn distance(first: &[Duration], second: &[Duration]) -> f64 {
    let differing = first.iter().zip(second).filter(|(a, b)| a != b);
    let (mut longer, mut all) = (0u32, 0u32);
    for (a, b) in differing {
        all += 1;
        longer += u32::from(a > b);
    }
    (f64::from(longer) - f64::from(all) / 2.0) / (f64::from(all).sqrt() / 2.0)
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn the_statistic_tells_apart_what_differs() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut noisy = || -> Vec<Duration> {
        (0..3333).map(|_| Duration::from_nanos(rng.random_range(300_000..500_000))).collect()
    };
    let (first, same) = (noisy(), noisy());
    let slower: Vec<_> = same.iter().map(|took| *took + Duration::from_micros(10)).collect();
    assert!(distance(&first, &same).abs() < TOLD_APART);
    assert!(distance(&slower, &first) > TOLD_APART);
}

#[tokio::test]
async fn refusals_cannot_be_told_apart() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let path = place.directory().join("countersign.toml");
    let config = fs::read_to_string(&path).unwrap();
    let off = "[public.guessing]\nof_client = 0\nof_target = 0\n";
    fs::write(&path, format!("{config}\n{off}")).unwrap();
    let server = place.start();
    let mut refused = Refused::new(&server).await;

    let mut order = [0, 1, 2];
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut answers = Vec::new();
    for round in 0..WARM_UP + CALLS.div_ceil(KINDS.len()) {
        order.shuffle(&mut rand::rng());
        for kind in order {
            let (answer, took) = refused.call(kind, round).await;
            if round >= WARM_UP {
                times[kind].push(took);
            }
            if !answers.contains(&answer) {
                answers.push(answer);
            }
        }
    }
    assert_eq!(answers.len(), 1, "one answer, byte for byte");
    let pairs = [(0, 1), (0, 2), (1, 2)].map(|(first, second)| {
        let distance = distance(&times[first], &times[second]);
        let [a, b] = [first, second].map(|kind| (KINDS[kind], median(&times[kind])));
        println!("{a:?} and {b:?}: {distance:.2} standard deviations");
        (a, b, distance)
    });
    for (a, b, distance) in pairs {
        assert!(distance.abs() < TOLD_APART, "{a:?} and {b:?}: {distance}");
    }
}

/// Exports what is held about a person, and gives how long it took until the answer began.
async fn export(privacy: &mut PrivacyServiceClient<Channel>, email: &str) -> Duration {
    let person = Some(export_subject_request::Person::Email(email.to_owned()));
    let request = ExportSubjectRequest { person, purpose: Purpose::AccessRequest.into() };
    let before = Instant::now();
    let mut pieces = privacy.export_subject(request).await.unwrap().into_inner();
    assert!(pieces.message().await.unwrap().is_some());
    let took = before.elapsed();
    while pieces.message().await.unwrap().is_some() {}
    took
}

#[tokio::test]
async fn that_nothing_is_held_takes_no_other_time() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = place.start();
    let mut privacy = server.privacy();
    let mut persons = Vec::new();
    for number in 0..EXPORTS {
        let (known, unknown) =
            (format!("k{number:03}@example.com"), format!("u{number:03}@example.com"));
        let key = server.issue(&known, "App", 1).await;
        server.app().activate(activation(&known, &key, number as u128)).await.unwrap();
        persons.push((known, unknown));
    }
    let mut times: [Vec<Duration>; 2] = Default::default();
    for (known, unknown) in persons {
        let mut order = [(0, known), (1, unknown)];
        order.shuffle(&mut rand::rng());
        for (kind, email) in order {
            times[kind].push(export(&mut privacy, &email).await);
        }
    }
    let distance = distance(&times[0], &times[1]);
    let medians = times.map(|times| median(&times));
    println!("known and unknown {medians:?}: {distance:.2} standard deviations");
    assert!(distance.abs() < TOLD_APART, "{medians:?}: {distance}");
}
