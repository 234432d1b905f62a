//! Promise: an acknowledged activation is there after a crash, once; and no seat is oversold.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use countersign::proto::v1::{ListActivationsRequest, Purpose};
use support::{Place, Server, activation};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const ADA: &str = "ada@example.com";
const ROUNDS: usize = 6;
const CLIENTS: u128 = 24;
/// How many acknowledgements a round waits for before the kill: another number each time, so that
/// the kill comes at another moment, which no test needs to know.
const ACKNOWLEDGED: [usize; ROUNDS] = [1, 40, 7, 173, 90, 301];

/// What is known of the activations that were asked for: the receipts that came.
#[derive(Default)]
struct Known {
    receipts: Mutex<HashMap<u128, String>>,
    count: AtomicUsize,
    enough: Notify,
}

fn load(server: &Server, key: &str, round: usize, known: &Arc<Known>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (mut app, key, known) = (server.app(), key.to_owned(), Arc::clone(known));
        clients.spawn(async move {
            for call in 0.. {
                let nonce = (round as u128) << 64 | client << 32 | call;
                let Ok(answer) = app.activate(activation(ADA, &key, nonce)).await else { return };
                known.receipts.lock().unwrap().insert(nonce, answer.into_inner().receipt);
                if known.count.fetch_add(1, Ordering::Relaxed) + 1 >= ACKNOWLEDGED[round] {
                    known.enough.notify_one();
                }
            }
        });
    }
    clients
}

async fn activation_ids(server: &Server, key: &str) -> Vec<Vec<u8>> {
    let request = ListActivationsRequest {
        license_key: key.to_owned(),
        purpose: Purpose::CustomerSupport.into(),
        page_size: 1000,
    };
    let mut pages = server.support().list_activations(request).await.unwrap().into_inner();
    let mut ids = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        ids.extend(page.activations.into_iter().map(|activation| activation.activation_id));
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_sigkill_exactly_once() {
    let place = Place::new();
    let mut server = place.start();
    let key = server.issue(ADA, "App", 100_000).await;
    let scarce = server.issue(ADA, "Scarce", 5).await;
    let mut acknowledged: HashMap<u128, String> = HashMap::new();
    for round in 0..ROUNDS {
        let known = Arc::new(Known::default());
        let clients = load(&server, &key, round, &known);
        // Nothing of this license is ever freed, so its last seats go in the first rounds.
        let nonce = u128::MAX - round as u128;
        let last = server.app().activate(activation(ADA, &scarce, nonce)).await;
        assert_eq!(last.is_ok(), round < 5, "round {round}: {last:?}");
        known.enough.notified().await;
        server.kill();
        clients.join_all().await;
        acknowledged.extend(known.receipts.lock().unwrap().drain());

        server = place.start();
        let ids = activation_ids(&server, &key).await;
        let mut distinct = ids.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(ids.len(), distinct.len(), "an activation is there twice");
        let keys = server.receipt_keys().await;
        for receipt in acknowledged.values() {
            let id = keys.verify(receipt).unwrap().activation.as_bytes().to_vec();
            assert!(distinct.binary_search(&id).is_ok(), "an acknowledged activation is lost");
        }
        let history = server.history(ADA).await.unwrap();
        for of in &history.licenses {
            let license = of.license.as_ref().unwrap();
            assert!(license.used <= license.seats);
            assert_eq!(u64::from(license.used), of.activations_total);
        }
        assert_eq!(history.licenses[0].activations_total, ids.len() as u64);
    }
    let (&nonce, receipt) = acknowledged.iter().next().unwrap();
    let again = server.app().activate(activation(ADA, &key, nonce)).await.unwrap().into_inner();
    assert_eq!(&again.receipt, receipt, "a retry after the crashes gives the first receipt");
    assert!(acknowledged.len() >= ACKNOWLEDGED.iter().sum());
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
        &|| std::fs::write(views.join("sled/db"), [0xFF; 5000]).unwrap(),
        &|| std::fs::write(views.join("trust"), "a power cut").unwrap(),
        &|| std::fs::write(views.join("sled/conf"), b"nonsense").unwrap(),
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
