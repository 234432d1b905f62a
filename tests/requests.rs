//! Promise: a request is carried out for the person it is from, by whom the policy lets, and data under
//! restriction is used for nothing but what the policy lists.

mod support;

use std::fs;

use countersign::proto::v1::export_subject_request::Person;
use countersign::proto::v1::get_history_request::Person as WhoseHistory;
use countersign::proto::v1::history_service_client::HistoryServiceClient;
use countersign::proto::v1::verify_identity_request::Proof;
use countersign::proto::v1::{
    ApproveRequestRequest, ExportSubjectRequest, FreeSeatRequest, FulfilRequestRequest,
    GetHistoryRequest, IssueVerificationCodeRequest, Purpose, RequestKind, RestrictionKind,
    SetRestrictionRequest, SuspendLicenseRequest, VerifyIdentityRequest,
};
use support::{Place, Server, activation, reason};

const ADA: &str = "ada@example.com";
const GRACE: &str = "grace@example.com";

async fn verify(server: &Server, request_id: &[u8], proof: Proof) -> Result<(), String> {
    let verify = VerifyIdentityRequest { request_id: request_id.to_vec(), proof: Some(proof) };
    let answer = server.privacy().verify_identity(verify).await;
    answer.map(drop).map_err(|status| reason(&status))
}

async fn export(server: &Server, person: Person) -> Result<(), String> {
    let purpose = Purpose::AccessRequest.into();
    let request = ExportSubjectRequest { person: Some(person), purpose };
    let answer = server.privacy().export_subject(request).await;
    let mut pieces = answer.map_err(|status| reason(&status))?.into_inner();
    while pieces.message().await.unwrap().is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_person_can_show_to_be_the_person() {
    let place = Place::new();
    let server = place.start();
    let mut receipts = Vec::new();
    for (email, nonce) in [(ADA, 1), (GRACE, 2)] {
        let key = server.issue(email, "App", 1).await;
        let answer = server.app().activate(activation(email, &key, nonce)).await.unwrap();
        receipts.push(answer.into_inner().receipt);
    }
    let request_id = server.open(ADA, RequestKind::Access).await;
    let foreign = verify(&server, &request_id, Proof::Receipt(receipts[1].clone())).await;
    assert_eq!(foreign, Err("FOREIGN_RECEIPT".to_owned()));
    let forged = verify(&server, &request_id, Proof::Receipt("a.b.c".to_owned())).await;
    assert_eq!(forged, Err("RECEIPT_INVALID".to_owned()));
    let none = verify(&server, &request_id, Proof::Code("00000000".to_owned())).await;
    assert_eq!(none, Err("WRONG_CODE".to_owned()), "none was issued");
    let issue = || IssueVerificationCodeRequest { request_id: request_id.clone() };
    let first = server.privacy().issue_verification_code(issue()).await.unwrap().into_inner();
    assert_eq!(first.email, ADA);
    let second = server.privacy().issue_verification_code(issue()).await.unwrap().into_inner();
    if first.code != second.code {
        let old = verify(&server, &request_id, Proof::Code(first.code)).await;
        assert_eq!(old, Err("WRONG_CODE".to_owned()), "the newest alone is good");
    }
    let person = || Person::RequestId(request_id.clone());
    assert_eq!(export(&server, person()).await, Err("IDENTITY_NOT_VERIFIED".to_owned()));
    verify(&server, &request_id, Proof::Code(second.code)).await.unwrap();
    export(&server, person()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_takes_two_where_the_policy_says_so() {
    let place = Place::new();
    let path = place.directory().join("policy.toml");
    let policy = fs::read_to_string(&path).unwrap();
    fs::write(&path, policy.replace("export = false", "export = true")).unwrap();
    let server = place.start();
    server.issue(ADA, "App", 1).await;
    let missing = Err("APPROVAL_MISSING".to_owned());
    assert_eq!(export(&server, Person::Email(ADA.to_owned())).await, missing);
    let request_id = server.open(ADA, RequestKind::Portability).await;
    server.verify(&request_id).await;
    let person = || Person::RequestId(request_id.clone());
    assert_eq!(export(&server, person()).await, missing);
    let approve = ApproveRequestRequest { request_id: request_id.clone() };
    server.second_privacy().approve_request(approve).await.unwrap();
    export(&server, person()).await.unwrap();
    let fulfil = FulfilRequestRequest { request_id };
    server.privacy().fulfil_request(fulfil).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_under_restriction_is_stored_and_used_for_nothing_else() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 2).await;
    server.app().activate(activation(ADA, &key, 1)).await.unwrap();
    let request_id = server.ready(ADA, RequestKind::Objection).await;
    let fulfil = FulfilRequestRequest { request_id };
    server.privacy().fulfil_request(fulfil).await.unwrap();

    let restricted = "RESTRICTED".to_owned();
    let suspend = || SuspendLicenseRequest { license_key: key.clone() };
    let history = async |purpose: Purpose| {
        let person = Some(WhoseHistory::Email(ADA.to_owned()));
        let request = GetHistoryRequest { person, purpose: purpose.into() };
        let mut client = HistoryServiceClient::new(server.staff_channel("privacy"));
        let answer = client.get_history(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| reason(&status))
    };
    assert_eq!(reason(&server.history(ADA).await.unwrap_err()), restricted);
    assert_eq!(history(Purpose::CustomerSupport).await.err(), Some(restricted.clone()));
    let shown = history(Purpose::AccessRequest).await.unwrap();
    assert_eq!(reason(&server.issuer().suspend_license(suspend()).await.unwrap_err()), restricted);
    let activation_id = shown.licenses[0].activations[0].activation_id.clone();
    let free = FreeSeatRequest { activation_id };
    assert_eq!(reason(&server.issuer().free_seat(free).await.unwrap_err()), restricted);
    // What the person does themselves goes on.
    server.app().activate(activation(ADA, &key, 2)).await.unwrap();
    export(&server, Person::Email(ADA.to_owned())).await.unwrap();

    let kind = RestrictionKind::Restriction.into();
    let lift = SetRestrictionRequest { email: ADA.to_owned(), kind, holds: false };
    server.privacy().set_restriction(lift).await.unwrap();
    server.issuer().suspend_license(suspend()).await.unwrap();
    assert_eq!(server.history(ADA).await.unwrap().licenses[0].activations_total, 2);
}
