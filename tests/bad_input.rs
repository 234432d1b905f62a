//! Promise: bad input and bad surroundings get a clear error that says what to do, and nothing is
//! lost or half done.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use countersign::proto::v1::{
    ActivateRequest, CheckRequest, GetHistoryRequest, GetLicenseRequest, IssueLicenseRequest,
    ListActivationsRequest, Purpose, SweepRetentionRequest,
};
use support::{Place, activation, reason};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const ADA: &str = "ada@example.com";

fn fields(status: &Status) -> Vec<String> {
    assert_eq!((status.code(), reason(status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let request = status.get_details_bad_request().unwrap();
    request.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_field_is_named() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 1).await;
    let good = activation(ADA, &key, 1);
    let mut typo = key.clone();
    let last = if typo.pop() == Some('0') { '1' } else { '0' };
    typo.push(last);
    let long = "a".repeat(300) + "@example.com";
    let mut cases: Vec<(ActivateRequest, &[&str])> =
        vec![(ActivateRequest::default(), &["license_key", "nonce", "binding"])];
    for email in [" ", "ada", "a\0b@example.com", &long, "ada@example..com"] {
        cases.push((ActivateRequest { email: email.to_owned(), ..good.clone() }, &["email"]));
    }
    for key in ["", "ключ", &typo, &key[1..], &key.repeat(40)] {
        let license_key = key.to_owned();
        cases.push((ActivateRequest { license_key, ..good.clone() }, &["license_key"]));
    }
    for length in [0, 15, 17, 4000] {
        cases.push((ActivateRequest { nonce: vec![1; length], ..good.clone() }, &["nonce"]));
        cases.push((ActivateRequest { binding: vec![1; length], ..good.clone() }, &["binding"]));
    }
    let mut app = server.app();
    for (request, wrong) in cases {
        let status = app.activate(request).await.unwrap_err();
        assert_eq!(fields(&status), wrong);
    }
    let huge = ActivateRequest { email: "a".repeat(1 << 20), ..good.clone() };
    assert_eq!(app.activate(huge).await.unwrap_err().code(), Code::OutOfRange);
    for receipt in ["", "a.b.c", "ключ", &"a".repeat(5000)] {
        let request = CheckRequest { receipt: receipt.to_owned() };
        assert_eq!(reason(&app.check(request).await.unwrap_err()), "RECEIPT_INVALID");
    }
    app.activate(good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_field_of_staff_is_named() {
    let place = Place::new();
    let server = place.start();
    let good = IssueLicenseRequest {
        email: ADA.to_owned(),
        product: "App".to_owned(),
        seats: 1,
        ..IssueLicenseRequest::default()
    };
    let absurd = prost_types::Timestamp { seconds: i64::MAX, nanos: -1 };
    let cases = [
        (IssueLicenseRequest { email: "ada".to_owned(), ..good.clone() }, "email"),
        (IssueLicenseRequest { product: String::new(), ..good.clone() }, "product"),
        (IssueLicenseRequest { product: "\u{202e}".to_owned(), ..good.clone() }, "product"),
        (IssueLicenseRequest { seats: 0, ..good.clone() }, "seats"),
        (IssueLicenseRequest { seats: u32::MAX, ..good.clone() }, "seats"),
        (IssueLicenseRequest { expires_at: Some(absurd), ..good.clone() }, "expires_at"),
        (IssueLicenseRequest { updates_until: Some(absurd), ..good.clone() }, "updates_until"),
        (IssueLicenseRequest { nonce: vec![1; 15], ..good.clone() }, "nonce"),
    ];
    for (request, wrong) in cases {
        let status = server.issuer().issue_license(request).await.unwrap_err();
        assert_eq!(fields(&status), [wrong]);
    }
    let status = server.support().get_history(GetHistoryRequest::default()).await.unwrap_err();
    assert_eq!(fields(&status), ["person", "purpose"]);
    let request = GetLicenseRequest { license_key: "x".to_owned(), purpose: 99 };
    let status = server.issuer().get_license(request).await.unwrap_err();
    assert_eq!(fields(&status), ["license_key", "purpose"]);
    let request = ListActivationsRequest {
        license_key: server.issue(ADA, "App", 1).await,
        purpose: Purpose::CustomerSupport.into(),
        page_size: 1001,
    };
    let status = server.support().list_activations(request).await.unwrap_err();
    assert_eq!(fields(&status), ["page_size"]);
    let sweep = SweepRetentionRequest { dry_run: false, share: 1 << 16 };
    let status = server.privacy().sweep_retention(sweep).await.unwrap_err();
    assert_eq!(fields(&status), ["share"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_wrong_address_are_one_answer() {
    let place = Place::new();
    let server = place.start();
    let hers = server.issue(ADA, "App", 1).await;
    let his = server.issue("bob@example.com", "App", 1).await;
    let unknown = "00000-00000-00000-00000-000000";
    let mut answers = Vec::new();
    for (email, key) in [
        (ADA, his.as_str()),
        (ADA, unknown),
        ("nobody@example.com", hers.as_str()),
        ("nobody@example.com", unknown),
    ] {
        let status = server.app().activate(activation(email, key, 1)).await.unwrap_err();
        assert_eq!(reason(&status), "LICENSE_NOT_FOUND");
        answers.push((status.code(), status.message().to_owned(), status.details().to_vec()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[test]
fn init_never_overwrites() {
    let place = Place::new();
    let before = fs::read(place.directory().join("keys/master.key")).unwrap();
    let again = place.run(&["init"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("never overwrites"), "{again:?}");
    assert_eq!(fs::read(place.directory().join("keys/master.key")).unwrap(), before);
}

#[test]
fn serve_makes_no_directory_and_no_log_by_itself() {
    let place = Place::empty();
    assert!(place.refusal().contains("init"));
    assert!(!place.directory().exists());

    let place = Place::new();
    fs::remove_dir_all(place.directory().join("data/log")).unwrap();
    assert!(place.refusal().contains("data/log cannot be opened"));
    assert!(!place.directory().join("data/log").exists());
}

#[test]
fn a_second_server_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let server = place.start();
    let refusal = place.refusal();
    assert!(refusal.contains("another countersign serves"), "{refusal}");
    let rebuild = place.run(&["views", "rebuild"]);
    assert!(String::from_utf8_lossy(&rebuild.stderr).contains("another countersign serves"));
    assert!(server.terminate().success());
}

#[test]
fn a_missing_wrong_or_open_master_key_is_told() {
    let place = Place::new();
    let path = place.directory().join("keys/master.key");
    let right = fs::read(&path).unwrap();

    let other = Place::new();
    fs::write(&path, fs::read(other.directory().join("keys/master.key")).unwrap()).unwrap();
    assert!(place.refusal().contains("master key does not open this vault"));
    fs::write(&path, b"nonsense").unwrap();
    assert!(place.refusal().contains("is no master key"));
    fs::write(&path, &right).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(place.refusal().contains("chmod 600"));
    fs::remove_file(&path).unwrap();
    assert!(place.refusal().contains("put it back"));

    fs::write(&path, &right).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.start().terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_is_never_served_and_the_message_says_what_to_do() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 9).await;
    for nonce in 0..9 {
        server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
    }
    assert!(server.terminate().success());
    let other = Place::new();
    let file = |place: &Place, name: &str| place.directory().join("data").join(name);
    let copy_back = |name: &str, whole: &[u8]| fs::write(file(&place, name), whole).unwrap();
    for (name, ruined) in [
        ("vault", &b"not a vault"[..]),
        ("vault", &[]),
        ("head", b"nonsense"),
        ("head", &fs::read(file(&other, "head")).unwrap()),
        ("vault", &fs::read(file(&other, "vault")).unwrap()),
        ("log/db", &[]),
    ] {
        let whole = fs::read(file(&place, name)).unwrap();
        fs::write(file(&place, name), ruined).unwrap();
        let refusal = place.refusal();
        assert!(refusal.contains("restore") || refusal.contains("put back"), "{name}: {refusal}");
        copy_back(name, &whole);
    }
    for name in ["vault", "head", "log"] {
        fs::rename(file(&place, name), place.beside("gone")).unwrap();
        let refusal = place.refusal();
        assert!(refusal.contains("missing") && refusal.contains("restore"), "{name}: {refusal}");
        fs::rename(place.beside("gone"), file(&place, name)).unwrap();
    }
    // The key of a record that is zeros: it is not taken for one that was never there. Without the last one the
    // vault is as it was before that was made.
    let whole = fs::read(file(&place, "vault")).unwrap();
    let is_used = |slot: &[u8]| slot.iter().any(|&byte| byte != 0);
    for slot in [1, whole.chunks(128).rposition(is_used).unwrap()] {
        let mut zeroed = whole.clone();
        zeroed[slot * 128..][..128].fill(0);
        copy_back("vault", &zeroed);
        let refusal = place.refusal();
        let missing = format!("slot {slot} of the vault holds no key");
        assert!(refusal.contains(&missing), "{refusal}");
    }
    copy_back("vault", &whole);
    // An older log, as a careless restore would bring it; and the head file with it.
    let older = |name: &str| {
        fs::rename(file(&place, name), place.beside(name)).unwrap();
        fs::rename(file(&other, name), file(&place, name)).unwrap();
    };
    older("log");
    let refusal = place.refusal();
    assert!(refusal.contains("records are lost"), "{refusal}");
    older("head");
    fs::rename(place.directory().join("keys"), place.beside("keys")).unwrap();
    fs::rename(other.directory().join("keys"), place.directory().join("keys")).unwrap();
    let master_key = place.beside("keys/master.key");
    fs::copy(master_key, place.directory().join("keys/master.key")).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("the log is older than the vault"), "{refusal}");
    for (name, back) in [("log", "data/log"), ("head", "data/head"), ("keys", "keys")] {
        let back = place.directory().join(back);
        if back.is_dir() { fs::remove_dir_all(&back) } else { fs::remove_file(&back) }.unwrap();
        fs::rename(place.beside(name), back).unwrap();
    }

    let server = place.start();
    assert_eq!(server.history(ADA).await.unwrap().licenses[0].activations_total, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_bit_of_a_record_is_served() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 90).await;
    for nonce in 0..40 {
        server.app().activate(activation(ADA, &key, nonce)).await.unwrap();
    }
    assert!(server.terminate().success());
    let path = place.directory().join("data/log/db");
    let whole = fs::read(&path).unwrap();
    let used = whole.iter().rposition(|&byte| byte != 0).unwrap();
    for part in 1..12 {
        let mut flipped = whole.clone();
        flipped[used * part / 12] ^= 0x10;
        fs::write(&path, flipped).unwrap();
        let output = place.run(&["views", "rebuild"]);
        if output.status.success() {
            // Harmless: sled no longer reads that byte. Then everything is there.
            let server = place.start();
            assert_eq!(server.history(ADA).await.unwrap().licenses[0].activations_total, 40);
            assert!(server.terminate().success());
        } else {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(message.contains("restore"), "{message}");
        }
    }
}

#[test]
fn a_mistake_in_a_file_is_told_with_its_line() {
    let place = Place::new();
    for name in ["countersign.toml", "policy.toml"] {
        let path = place.directory().join(name);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.clone() + "\nnonsense = true\n").unwrap();
        let refusal = place.refusal();
        assert!(refusal.contains(name) && refusal.contains("nonsense"), "{refusal}");
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn an_expired_or_foreign_certificate_is_told() {
    let place = Place::new();
    let tls = place.directory().join("tls");
    let pair = |not_after: i32| {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (expired, expired_key) = pair(2002);
    let (foreign, _) = pair(2100);
    let put = |name: &str, text: &str| fs::write(tls.join(name), text).unwrap();
    let (certificate, key) = (
        fs::read_to_string(tls.join("server.pem")).unwrap(),
        fs::read_to_string(tls.join("server.key")).unwrap(),
    );
    put("server.pem", &expired);
    put("server.key", &expired_key);
    assert!(place.refusal().contains("has expired at 2002-01-01"));
    put("server.key", &key);
    put("server.pem", &foreign);
    assert!(place.refusal().contains("cannot be used together"));
    put("server.pem", "nonsense");
    assert!(place.refusal().contains("holds no certificate"));
    put("server.pem", &certificate);
    fs::remove_file(tls.join("staff-ca.pem")).unwrap();
    assert!(place.refusal().contains("staff-ca.pem cannot be read"));
}

#[test]
fn a_read_only_directory_is_told() {
    let place = Place::new();
    // Root may write everywhere, so what cannot be written is a directory where a file should be.
    let lock = place.directory().join("data/lock");
    fs::create_dir(&lock).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("data/lock cannot be written"), "{refusal}");
    fs::remove_dir(&lock).unwrap();
    assert!(place.start().terminate().success());
    assert!(!place.directory().join("run/listening").exists());
}

#[test]
fn a_file_that_is_missing_is_named_with_what_to_do() {
    let place = Place::new();
    for (name, advice) in [
        ("policy.toml", "put it back"),
        ("keys/actors.pub", "put it back"),
        ("data", "is data/ there"),
        ("tls/server.key", "correct its path in countersign.toml"),
    ] {
        let path = place.directory().join(name);
        fs::rename(&path, place.beside("away")).unwrap();
        let refusal = place.refusal();
        assert!(refusal.contains(name) && refusal.contains(advice), "{name}: {refusal}");
        fs::rename(place.beside("away"), &path).unwrap();
    }
    let other = Place::new();
    let key = fs::read(other.directory().join("tls/server.key")).unwrap();
    fs::write(place.directory().join("tls/server.key"), key).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("put the key there that the certificate was made for"), "{refusal}");
}

/// Runs a client command that must fail, and gives its exit code and its message.
fn failure(place: &Place, arguments: &[&str]) -> (i32, String) {
    let output = place.run(arguments);
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_client_that_does_not_fit_the_server_is_told_why() {
    let place = Place::new();
    let server = place.start();
    let other = Place::new();
    let theirs = |name: &str| other.directory().join("tls").join(name).display().to_string();
    let history = ["history", "--email", ADA];

    let (certificate, key) = (theirs("staff/support.pem"), theirs("staff/support.key"));
    let foreign = [&history[..], &["--cert", &certificate, "--key", &key]].concat();
    let (code, told) = failure(&place, &foreign);
    assert!(code == 4 && told.contains("signed by its staff CA"), "{code} {told}");

    let public = format!("https://{}", server.public_address());
    let (code, told) = failure(&place, &[&history[..], &["--endpoint", &public]].concat());
    assert!(code == 3 && told.contains("not its staff listener"), "{code} {told}");

    let ca = theirs("server-ca.pem");
    let (code, told) = failure(&place, &[&history[..], &["--ca", &ca]].concat());
    assert!(code == 4 && told.contains("not of the CA in") && told.contains("--ca"), "{told}");

    let ours = place.directory().join("tls/staff/support.pem").display().to_string();
    let mixed = [&history[..], &["--cert", &ours, "--key", &key]].concat();
    let (code, told) = failure(&place, &mixed);
    assert!(code == 1 && told.contains("that the key is the certificate's"), "{code} {told}");
    assert!(server.terminate().success());
}

#[test]
fn nothing_is_sent_without_tls() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    for arguments in [
        &["activate", "--email", ADA, "--key", "00000-00000-00000-00000-000150"][..],
        &["check", "--receipt", "receipt"],
        &["history", "--email", ADA],
    ] {
        let (code, told) = failure(&place, &[arguments, &["--endpoint", &url]].concat());
        assert!(code == 2 && told.contains("nothing is sent without TLS"), "{code} {told}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_client_command_makes_no_directory() {
    let place = Place::empty();
    let activate = ["activate", "--email", ADA, "--key", "00000-00000-00000-00000-000150"];
    let (code, told) = failure(&place, &activate);
    assert!(code == 4 && told.contains("is it running?"), "{code} {told}");
    assert!(!place.directory().exists());

    let elsewhere = Place::new();
    let server = elsewhere.start();
    let url = format!("https://{}", server.public_address());
    let ca = elsewhere.directory().join("tls/server-ca.pem").display().to_string();
    let there = [&activate[..], &["--endpoint", &url, "--ca", &ca]].concat();
    let (code, told) = failure(&place, &there);
    assert!(code == 1 && told.contains("name it with --dir"), "{code} {told}");
    assert!(!place.directory().exists());
    place.start_dev();
}

#[test]
fn a_client_without_a_server_is_told() {
    let place = Place::new();
    let output = place.run(&["history", "--email", ADA]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is it running?"), "{output:?}");
    assert!(!Path::new(&place.directory()).join("run/listening").exists());
}
