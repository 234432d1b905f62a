//! License keys and addresses, tried one after the other.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use countersign::domain::LicenseKey;
use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::client::attacker;
use crate::honest::Watched;
use crate::support::{Server, activation, reason};

/// What the configuration says by default.
const OF_CLIENT: usize = 60;
const OF_TARGET: usize = 20;

const ADA: &str = "ada@example.com";

async fn app_at(server: &Server, from: Ipv4Addr) -> ActivationServiceClient<Channel> {
    let endpoint = server.public_endpoint().local_address(Some(IpAddr::V4(from)));
    ActivationServiceClient::new(endpoint.connect().await.unwrap())
}

/// A key that no license has.
fn wrong_key() -> String {
    LicenseKey::generate(rand::random).expose()
}

async fn guess(
    app: &mut ActivationServiceClient<Channel>,
    email: &str,
    key: &str,
) -> Result<(), Status> {
    app.activate(activation(email, key, rand::random())).await.map(drop)
}

fn is_too_many(result: Result<(), Status>) -> bool {
    let status = result.unwrap_err();
    match reason(&status).as_str() {
        "LICENSE_NOT_FOUND" => false,
        "TOO_MANY_ATTEMPTS" => {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
            true
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_from_one_address_are_slowed_and_nobody_else_is() {
    let watched = Watched::start("[ops]\nlisten = \"127.0.0.1:0\"").await;
    let server = &watched.server;
    let key = server.issue(ADA, "App", 1000).await;
    let attack = async {
        let mut guesser = app_at(server, attacker(0)).await;
        let mut tried = 0;
        let email = |number| format!("p{number}@example.com");
        while !is_too_many(guess(&mut guesser, &email(tried), &wrong_key()).await) {
            tried += 1;
        }
        tried
    };
    let tried = watched.bears("guesses from one address", 1, attack).await;
    // One more is forgiven every ten seconds.
    assert!((OF_CLIENT..OF_CLIENT + 6).contains(&tried), "{tried}");

    // From here on it learns nothing, not even that it is right; by another connection neither.
    let mut again = app_at(server, attacker(0)).await;
    let right = guess(&mut again, ADA, &key).await.unwrap_err();
    let wrong = guess(&mut again, ADA, &wrong_key()).await.unwrap_err();
    assert_eq!((right.code(), right.message()), (wrong.code(), wrong.message()));
    assert!(is_too_many(Err(right)) && is_too_many(Err(wrong)));
    // As the operator sees it: the one that ended the loop, and these two.
    let limited = "countersign_rate_limited_calls_total 3";
    assert!(server.metrics().lines().any(|line| line == limited), "{}", server.metrics());

    let mut honest = app_at(server, attacker(1)).await;
    for _ in 0..3 * OF_CLIENT {
        guess(&mut honest, ADA, &key).await.expect("what is right does not count");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_from_many_addresses_are_slowed_and_the_customer_is_not_locked_out() {
    let watched = Watched::start("").await;
    let server = &watched.server;
    let key = server.issue(ADA, "App", 10).await;
    // Keys for an address that is known, and addresses for a key that is.
    for (what, is_key_known) in [("keys", false), ("e-mail addresses", true)] {
        let attack = async {
            let mut looked_up = 0;
            let mut refused = HashSet::new();
            for number in 0..40 {
                let mut guesser = app_at(server, attacker(number)).await;
                for again in 0..3 {
                    let guessed = if is_key_known {
                        guess(&mut guesser, &format!("p{number}.{again}@example.com"), &key).await
                    } else {
                        guess(&mut guesser, ADA, &wrong_key()).await
                    };
                    if is_too_many(guessed) {
                        refused.insert(number);
                    } else {
                        looked_up += 1;
                    }
                }
            }
            (looked_up, refused)
        };
        let name = format!("guesses of {what} from many addresses");
        let (looked_up, refused) = watched.bears(&name, 40, attack).await;
        // Until then three each, and after it the first of each.
        let most = OF_TARGET + 40;
        assert!((OF_TARGET..most).contains(&looked_up) && refused.len() > 30, "{looked_up}");

        let mut honest = app_at(server, attacker(99)).await;
        guess(&mut honest, ADA, &key).await.expect("the customer is not locked out");
    }
}
