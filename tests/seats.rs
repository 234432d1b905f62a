//! Promise: no seat is oversold, and a retry takes none.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use countersign::proto::v1::{
    CheckRequest, DeactivateRequest, FreeSeatRequest, IssueLicenseRequest, ReinstateLicenseRequest,
    RenewRequest, RevokeLicenseRequest, Standing, SuspendLicenseRequest,
};
use support::{Place, activation, reason};
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;

const ADA: &str = "ada@example.com";
const OVERLOADED: (Code, &str) = (Code::Unavailable, "OVERLOADED");

#[tokio::test(flavor = "multi_thread")]
async fn of_64_clients_racing_for_the_last_seat_one_wins() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 3).await;
    for nonce in [1, 2] {
        server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
    }
    let mut racers = JoinSet::new();
    for nonce in 100..164 {
        let (mut app, request) = (server.app(), activation(ADA, &key, nonce));
        racers.spawn(async move { app.activate(request).await });
    }
    let (won, lost): (Vec<_>, Vec<_>) =
        racers.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 63));
    for status in lost.into_iter().filter_map(Result::err) {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(reason(&status), "SEATS_EXHAUSTED");
        let metadata = status.get_details_error_info().unwrap().metadata;
        assert_eq!((metadata["seats"].as_str(), metadata["used"].as_str()), ("3", "3"));
    }
    let history = server.history(ADA).await.unwrap();
    assert_eq!(history.licenses[0].activations_total, 3);
    assert_eq!(history.licenses[0].license.as_ref().unwrap().used, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_storm_with_one_nonce_is_one_activation_and_one_receipt() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 1).await;
    let mut storm = JoinSet::new();
    for _ in 0..200 {
        let (mut app, request) = (server.app(), activation(ADA, &key, 1));
        storm.spawn(async move { app.activate(request).await.unwrap().into_inner().receipt });
    }
    let receipts: HashSet<String> = storm.join_all().await.into_iter().collect();
    assert_eq!(receipts.len(), 1);

    assert!(server.terminate().success());
    let server = place.start();
    let again = server.app().activate(activation(ADA, &key, 1)).await.unwrap().into_inner();
    assert!(receipts.contains(&again.receipt), "the same bytes after a restart");
    let history = server.history(ADA).await.unwrap();
    assert_eq!(history.licenses[0].activations_total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freed_seat_can_be_used_again_and_its_nonce_cannot() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 1).await;
    let mut app = server.app();
    let receipt = app.activate(activation(ADA, &key, 1)).await.unwrap().into_inner().receipt;
    for _ in 0..2 {
        app.deactivate(DeactivateRequest { receipt: receipt.clone() }).await.unwrap();
    }
    let check = CheckRequest { receipt: receipt.clone() };
    let standing = app.check(check).await.unwrap().into_inner().standing();
    assert!(standing == Standing::Deactivated);
    let again = app.activate(activation(ADA, &key, 1)).await.unwrap_err();
    assert_eq!(reason(&again), "ACTIVATION_ENDED");
    app.activate(activation(ADA, &key, 2)).await.unwrap();

    let history = server.history(ADA).await.unwrap();
    let newest = &history.licenses[0].activations[0];
    assert!(newest.deactivated_at.is_none());
    let request = FreeSeatRequest { activation_id: newest.activation_id.clone() };
    let freed = server.issuer().free_seat(request).await.unwrap().into_inner();
    assert_eq!(freed.license.unwrap().used, 0);
    let unknown = FreeSeatRequest { activation_id: vec![0; 16] };
    let status = server.issuer().free_seat(unknown).await.unwrap_err();
    assert_eq!(reason(&status), "ACTIVATION_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_license_is_suspended_reinstated_and_revoked() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 2).await;
    let license_key = || key.clone();
    let (mut app, mut issuer) = (server.app(), server.issuer());
    let receipt = app.activate(activation(ADA, &key, 1)).await.unwrap().into_inner().receipt;
    let check = || CheckRequest { receipt: receipt.clone() };
    let mut standings = vec![app.check(check()).await.unwrap().into_inner().standing()];

    issuer.suspend_license(SuspendLicenseRequest { license_key: license_key() }).await.unwrap();
    standings.push(app.check(check()).await.unwrap().into_inner().standing());
    for nonce in [1, 2] {
        let status = app.activate(activation(ADA, &key, nonce)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(reason(&status), "LICENSE_SUSPENDED");
    }
    issuer.reinstate_license(ReinstateLicenseRequest { license_key: license_key() }).await.unwrap();
    let again = app.activate(activation(ADA, &key, 1)).await.unwrap().into_inner().receipt;
    assert_eq!(again, receipt);

    issuer.revoke_license(RevokeLicenseRequest { license_key: license_key() }).await.unwrap();
    standings.push(app.check(check()).await.unwrap().into_inner().standing());
    let status = app.activate(activation(ADA, &key, 1)).await.unwrap_err();
    assert_eq!(reason(&status), "LICENSE_REVOKED");
    let status = issuer
        .reinstate_license(ReinstateLicenseRequest { license_key: license_key() })
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "LICENSE_REVOKED");
    assert!(standings == [Standing::Good, Standing::Suspended, Standing::Revoked]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_license_takes_no_new_activation() {
    let place = Place::new();
    let server = place.start();
    let request = IssueLicenseRequest {
        email: ADA.to_owned(),
        product: "App".to_owned(),
        seats: 1,
        expires_at: Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 }),
        ..IssueLicenseRequest::default()
    };
    let issued = server.issuer().issue_license(request).await.unwrap().into_inner();
    let key = issued.license.unwrap().license_key;
    let status = server.app().activate(activation(ADA, &key, 1)).await.unwrap_err();
    assert_eq!(reason(&status), "LICENSE_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_that_is_repeated_issues_one_license() {
    let place = Place::new();
    let server = place.start();
    let request = IssueLicenseRequest {
        email: ADA.to_owned(),
        product: "App".to_owned(),
        seats: 1,
        nonce: vec![5; 16],
        ..IssueLicenseRequest::default()
    };
    let mut keys = HashSet::new();
    for _ in 0..3 {
        let issued = server.issuer().issue_license(request.clone()).await.unwrap().into_inner();
        keys.insert(issued.license.unwrap().license_key);
    }
    assert_eq!(keys.len(), 1);
    let other = IssueLicenseRequest { seats: 2, ..request };
    let status = server.issuer().issue_license(other).await.unwrap_err();
    assert_eq!(reason(&status), "NONCE_REUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_receipt_is_renewed_and_another_is_not() {
    let place = Place::new();
    let path = place.directory().join("countersign.toml");
    let config = std::fs::read_to_string(&path).unwrap() + "\n[lease_days]\nLeased = 30\n";
    std::fs::write(&path, config).unwrap();
    let server = place.start();
    let keys = server.receipt_keys().await;
    let mut app = server.app();

    let key = server.issue(ADA, "Leased", 1).await;
    let leased = app.activate(activation(ADA, &key, 1)).await.unwrap().into_inner().receipt;
    let renewed = app.renew(RenewRequest { receipt: leased.clone() }).await.unwrap();
    let [first, second] =
        [&leased, &renewed.into_inner().receipt].map(|receipt| keys.verify(receipt).unwrap());
    let days = (first.expires_at.unwrap().as_seconds() - first.issued_at.as_seconds()) / 86_400;
    assert_eq!(days, 30);
    assert!(second.expires_at >= first.expires_at);
    assert!(second.activation == first.activation && second.binding == first.binding);
    assert_eq!(server.history(ADA).await.unwrap().licenses[0].activations_total, 1);

    let key = server.issue(ADA, "App", 1).await;
    let endless = app.activate(activation(ADA, &key, 2)).await.unwrap().into_inner().receipt;
    let status = app.renew(RenewRequest { receipt: endless }).await.unwrap_err();
    assert_eq!(reason(&status), "RECEIPT_NOT_LEASED");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_nonce_is_one_license() {
    let place = Place::new();
    let server = place.start();
    let [one, two] =
        [server.issue(ADA, "App", 1).await, server.issue("eve@example.com", "App", 1).await];
    server.app().activate(activation(ADA, &one, 1)).await.unwrap();
    let status = server.app().activate(activation("eve@example.com", &two, 1)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "NONCE_REUSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_says_when_to_come_again_and_a_retry_takes_one_seat() {
    let place = Place::new();
    let path = place.directory().join("countersign.toml");
    let config = std::fs::read_to_string(&path).unwrap() + "\n[storage]\nqueue = 1\n";
    std::fs::write(&path, config).unwrap();
    let server = place.start();
    let key = server.issue(ADA, "App", 1000).await;
    let mut refused = 0;
    let mut rounds = 0..10;
    while refused == 0 {
        let round = rounds.next().expect("a queue of one takes all of 64 at once");
        let mut clients = JoinSet::new();
        for client in 0..64 {
            let (mut app, key) = (server.app(), key.clone());
            clients.spawn(async move {
                let request = activation(ADA, &key, round * 64 + client);
                let mut refused = 0;
                while let Err(status) = app.activate(request.clone()).await {
                    assert_eq!((status.code(), reason(&status).as_str()), OVERLOADED);
                    let hint = status.get_details_retry_info().unwrap().retry_delay.unwrap();
                    assert!(hint > Duration::ZERO);
                    refused += 1;
                }
                refused
            });
        }
        refused += clients.join_all().await.into_iter().sum::<u32>();
        let activations = server.history(ADA).await.unwrap().licenses[0].activations_total;
        assert_eq!(u128::from(activations), (round + 1) * 64);
    }
}
