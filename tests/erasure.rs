//! Promise: erased is unrecoverable, put right is put right, and nothing of either is half done.

mod support;

use std::fs;

use countersign::proto::v1::{
    ApproveRequestRequest, CheckRequest, DeactivateRequest, EraseSubjectRequest, Erasure,
    GetErasureRequest, IssueLicenseRequest, RectifySubjectRequest, RequestKind, RestrictionKind,
    SetRestrictionRequest,
};
use support::{Place, Server, activation, exported_data, reason};
use tonic::Code;

const ADA: &str = "ada@example.com";
const GRACE: &str = "grace@example.com";

async fn check(server: &Server, receipt: &str) -> Result<&'static str, String> {
    let request = CheckRequest { receipt: receipt.to_owned() };
    let answer = server.app().check(request).await.map_err(|status| reason(&status))?;
    Ok(answer.into_inner().standing().as_str_name())
}

async fn receipt(server: &Server, email: &str, key: &str, nonce: u128) -> Result<String, String> {
    let answer = server.app().activate(activation(email, key, nonce)).await;
    Ok(answer.map_err(|status| reason(&status))?.into_inner().receipt)
}

fn count(erasure: &Erasure, category: &str) -> u64 {
    let count = erasure.records.iter().find(|count| count.category == category);
    count.map_or(0, |count| count.records)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_gone_for_everyone_and_for_good() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 3).await;
    let other = server.issue(GRACE, "App", 1).await;
    let receipts = [
        receipt(&server, ADA, &key, 1).await.unwrap(),
        receipt(&server, ADA, &key, 2).await.unwrap(),
    ];
    let others = receipt(&server, GRACE, &other, 3).await.unwrap();
    let end = DeactivateRequest { receipt: receipts[1].clone() };
    server.app().deactivate(end).await.unwrap();
    let master_key = server.read("keys/master.key");

    let erasure = server.erase(ADA, false, true).await;
    assert_eq!(count(&erasure, "email"), 1);
    assert_eq!(count(&erasure, "license"), 1);
    assert_eq!(count(&erasure, "activation_time"), 3);
    assert!(erasure.final_at.is_some() && erasure.final_by.is_none());
    assert!(erasure.remains.is_empty() && erasure.certificate.split('.').count() == 3);
    assert_ne!(server.read("keys/master.key"), master_key, "the old master key is gone");

    let gone = async |server: &Server| {
        assert_eq!(reason(&server.history(ADA).await.unwrap_err()), "SUBJECT_NOT_FOUND");
        for nonce in [1, 2, 9] {
            let refused = receipt(server, ADA, &key, nonce).await;
            assert_eq!(refused, Err("LICENSE_NOT_FOUND".to_owned()), "{nonce}");
        }
        let keys = server.receipt_keys().await;
        for receipt in &receipts {
            assert_eq!(check(server, receipt).await, Err("LICENSE_NOT_FOUND".to_owned()));
            keys.verify(receipt).unwrap();
        }
        assert_eq!(check(server, &others).await, Ok("STANDING_GOOD"));
        assert_eq!(server.history(GRACE).await.unwrap().licenses.len(), 1);
        let get = GetErasureRequest { erasure_id: erasure.erasure_id.clone() };
        let again = server.privacy().get_erasure(get).await.unwrap().into_inner();
        assert_eq!(again.erasure.as_ref(), Some(&erasure));
    };
    gone(&server).await;
    // Asked once more, it is noted; there is nobody to erase.
    let request_id = server.open(ADA, RequestKind::Erasure).await;
    let twice = EraseSubjectRequest { request_id, keep_licenses: false, wait: false };
    let refused = server.privacy().erase_subject(twice).await.unwrap_err();
    assert_eq!(reason(&refused), "SUBJECT_NOT_FOUND");

    assert!(server.terminate().success());
    let server = place.start();
    gone(&server).await;
    server.kill();
    fs::remove_dir_all(place.directory().join("views")).unwrap();
    let server = place.start();
    gone(&server).await;

    // They come back as somebody new.
    let key = server.issue(ADA, "App", 1).await;
    receipt(&server, ADA, &key, 1).await.unwrap();
    let history = server.history(ADA).await.unwrap();
    assert_eq!((history.licenses.len(), history.licenses[0].activations_total), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_takes_a_verified_person_and_a_second_member_of_staff() {
    let place = Place::new();
    let server = place.start();
    server.issue(ADA, "App", 1).await;
    let request_id = server.open(ADA, RequestKind::Erasure).await;
    let erase = async |request_id: &[u8]| {
        let request_id = request_id.to_vec();
        let request = EraseSubjectRequest { request_id, keep_licenses: false, wait: false };
        server.privacy().erase_subject(request).await.map_err(|status| reason(&status))
    };
    assert_eq!(erase(&request_id).await.unwrap_err(), "IDENTITY_NOT_VERIFIED");
    server.verify(&request_id).await;
    assert_eq!(erase(&request_id).await.unwrap_err(), "APPROVAL_MISSING");
    let approve = || ApproveRequestRequest { request_id: request_id.clone() };
    let refused = server.privacy().approve_request(approve()).await.unwrap_err();
    assert_eq!(reason(&refused), "SECOND_ACTOR_NEEDED");
    server.second_privacy().approve_request(approve()).await.unwrap();

    let access = server.ready(ADA, RequestKind::Access).await;
    assert_eq!(erase(&access).await.unwrap_err(), "REQUEST_OF_OTHER_KIND");
    assert_eq!(erase(&[1; 16]).await.unwrap_err(), "REQUEST_NOT_FOUND");
    for (kind, refusal) in
        [(RestrictionKind::LegalHold, "LEGAL_HOLD"), (RestrictionKind::Restriction, "RESTRICTED")]
    {
        let set = async |holds| {
            let email = ADA.to_owned();
            let request = SetRestrictionRequest { email, kind: kind.into(), holds };
            server.privacy().set_restriction(request).await.unwrap();
        };
        set(true).await;
        assert_eq!(erase(&request_id).await.unwrap_err(), refusal);
        assert_eq!(server.history(ADA).await.is_ok(), refusal == "LEGAL_HOLD");
        set(false).await;
    }
    assert_eq!(server.history(ADA).await.unwrap().licenses.len(), 1, "nothing happened yet");

    let erasure = erase(&request_id).await.unwrap().into_inner().erasure.unwrap();
    assert!(erasure.final_at.is_none() && erasure.certificate.is_empty());
    assert!(erasure.final_by.is_some() && erasure.remains.len() == 1);
    // With the person their requests are gone.
    assert_eq!(erase(&request_id).await.unwrap_err(), "REQUEST_NOT_FOUND");
    let unknown = GetErasureRequest { erasure_id: vec![9; 16] };
    let refused = server.privacy().get_erasure(unknown).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "ERASURE_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn licenses_that_are_kept_live_on_by_their_keys_alone() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 2).await;
    let revoked = server.issue(ADA, "Old", 1).await;
    let request = countersign::proto::v1::RevokeLicenseRequest { license_key: revoked.clone() };
    server.issuer().revoke_license(request).await.unwrap();
    let held = receipt(&server, ADA, &key, 1).await.unwrap();
    let ended = receipt(&server, ADA, &key, 2).await.unwrap();
    server.app().deactivate(DeactivateRequest { receipt: ended.clone() }).await.unwrap();

    server.erase(ADA, true, false).await;
    let lives_on = async |server: &Server, nonces: [u128; 2]| {
        assert_eq!(reason(&server.history(ADA).await.unwrap_err()), "SUBJECT_NOT_FOUND");
        assert_eq!(check(server, &held).await, Ok("STANDING_GOOD"));
        assert_eq!(check(server, &ended).await, Err("LICENSE_NOT_FOUND".to_owned()));
        // A retry still takes no seat, by whichever address.
        let again = receipt(server, ADA, &key, 1).await.unwrap();
        assert_eq!(receipt(server, "", &key, 1).await.unwrap(), again);
        let free = receipt(server, "", &key, nonces[0]).await.unwrap();
        let full = receipt(server, GRACE, &key, nonces[1]).await;
        assert_eq!(full, Err("SEATS_EXHAUSTED".to_owned()));
        server.app().deactivate(DeactivateRequest { receipt: free }).await.unwrap();
        let refused = receipt(server, "", &revoked, 7).await;
        assert_eq!(refused, Err("LICENSE_NOT_FOUND".to_owned()));
    };
    lives_on(&server, [11, 12]).await;
    server.kill();
    fs::remove_dir_all(place.directory().join("views")).unwrap();
    let server = place.start();
    lives_on(&server, [21, 22]).await;
    // One without an address finds nothing else.
    let other = server.issue(GRACE, "App", 1).await;
    assert_eq!(receipt(&server, "", &other, 5).await, Err("LICENSE_NOT_FOUND".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rectified_address_keeps_the_history_and_the_old_one_finds_nothing() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 2).await;
    server.issue(GRACE, "App", 1).await;
    let first = receipt(&server, ADA, &key, 1).await.unwrap();
    let rectify = async |server: &Server, request_id: &[u8], email: &str, name: &str| {
        let request = RectifySubjectRequest {
            request_id: request_id.to_vec(),
            email: email.to_owned(),
            name: name.to_owned(),
        };
        let answer = server.privacy().rectify_subject(request).await;
        answer.map(drop).map_err(|status| reason(&status))
    };
    let request = server.open(ADA, RequestKind::Rectification).await;
    let new = "ada.l@example.com";
    let refused = rectify(&server, &request, new, "").await;
    assert_eq!(refused, Err("IDENTITY_NOT_VERIFIED".to_owned()));
    server.verify(&request).await;
    assert_eq!(rectify(&server, &request, GRACE, "").await, Err("EMAIL_TAKEN".to_owned()));
    assert_eq!(rectify(&server, &request, new, "Ada").await, Err("NAMES_OFF".to_owned()));
    assert_eq!(rectify(&server, &request, "", "").await, Err("INVALID_FIELD".to_owned()));
    for holds in [true, false] {
        let kind = RestrictionKind::LegalHold.into();
        let hold = SetRestrictionRequest { email: ADA.to_owned(), kind, holds };
        server.privacy().set_restriction(hold).await.unwrap();
        if holds {
            // The old address would be erased.
            let held = rectify(&server, &request, new, "").await;
            assert_eq!(held, Err("LEGAL_HOLD".to_owned()));
        }
    }
    assert_eq!(server.history(ADA).await.unwrap().email, ADA, "nothing happened yet");
    rectify(&server, &request, new, "").await.unwrap();
    let closed = rectify(&server, &request, ADA, "").await;
    assert_eq!(closed, Err("REQUEST_CLOSED".to_owned()));

    let is_right = async |server: &Server| {
        assert_eq!(reason(&server.history(ADA).await.unwrap_err()), "SUBJECT_NOT_FOUND");
        let refused = receipt(server, ADA, &key, 1).await;
        assert_eq!(refused, Err("LICENSE_NOT_FOUND".to_owned()));
        let history = server.history(new).await.unwrap();
        assert_eq!((history.email.as_str(), history.licenses.len()), (new, 1));
        assert_eq!(history.licenses[0].activations_total, 1);
        assert_eq!(receipt(server, new, &key, 1).await.unwrap(), first);
    };
    is_right(&server).await;
    assert!(server.terminate().success());
    let server = place.start();
    is_right(&server).await;
    server.kill();
    fs::remove_dir_all(place.directory().join("views")).unwrap();
    let server = place.start();
    is_right(&server).await;

    // Another spelling of the same address, and a third one.
    for (from, to) in [(new, "Ada.L@Example.com"), ("ada.l@example.com", "third@example.com")] {
        let request = server.ready(from, RequestKind::Rectification).await;
        rectify(&server, &request, to, "").await.unwrap();
        assert_eq!(server.history(to).await.unwrap().email, to);
    }
    // The old address can be somebody else's now.
    server.issue(ADA, "App", 1).await;
    assert_eq!(server.history(ADA).await.unwrap().licenses[0].activations_total, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_stored_where_the_policy_says_so() {
    let place = Place::new();
    let path = place.directory().join("policy.toml");
    let policy = fs::read_to_string(&path).unwrap();
    fs::write(&path, policy.replace("enabled = false", "enabled = true")).unwrap();
    let server = place.start();
    let issue = |name: &str| IssueLicenseRequest {
        email: ADA.to_owned(),
        product: "App".to_owned(),
        seats: 1,
        name: name.to_owned(),
        ..IssueLicenseRequest::default()
    };
    server.issuer().issue_license(issue("Ada Lovelace")).await.unwrap();
    let refused = server.issuer().issue_license(issue("Ada\nLovelace")).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    let export = async |server: &Server| {
        let out = place.beside("export");
        let arguments = ["export", "--email", ADA, "--out", out.to_str().unwrap()];
        assert!(place.run(&arguments).status.success(), "{}", server.staff_address());
        let name = &exported_data(&out)["subject"]["name"];
        name["value"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!(export(&server).await.as_deref(), Some("Ada Lovelace"));
    let request_id = server.ready(ADA, RequestKind::Rectification).await;
    let (email, name) = (String::new(), "Ada King".to_owned());
    let rectify = RectifySubjectRequest { request_id, email, name };
    server.privacy().rectify_subject(rectify).await.unwrap();
    assert_eq!(export(&server).await.as_deref(), Some("Ada King"));
}
