//! Promise: what the privacy policy does not allow is not stored: it does not even build; and nobody
//! sees what the policy does not give them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign::proto::v1::{
    GetHistoryRequest, GetLicenseRequest, Purpose, get_history_request::Person,
};
use countersign::proto::v1::{
    history_service_client::HistoryServiceClient, license_service_client::LicenseServiceClient,
};
use support::{Place, files, reason};
use tonic::Code;

/// A copy of the source, without what it was built into.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut paths = vec![];
        for directory in ["src", "proto", "benches"] {
            paths.extend(files(&source.join(directory)));
        }
        paths.extend(["build.rs", "Cargo.toml", "Cargo.lock"].map(|file| source.join(file)));
        for path in paths {
            let to = copy.path(path.strip_prefix(source).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(path, to).unwrap();
        }
        copy
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// What `cargo build` says where this replacement was made. It must fail.
    fn refusal(&self, name: &str, from: &str, to: &str) -> String {
        let original = fs::read_to_string(self.path(name)).unwrap();
        assert!(original.contains(from), "{from}");
        fs::write(self.path(name), original.replacen(from, to, 1)).unwrap();
        // With the dependencies that are built already.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let built = Command::new(env!("CARGO"))
            .args(["build", "--lib", "--offline", "--locked"])
            .env("CARGO_TARGET_DIR", target)
            .current_dir(self.0.path())
            .output()
            .unwrap();
        fs::write(self.path(name), original).unwrap();
        let said = String::from_utf8(built.stderr).unwrap();
        assert!(!built.status.success(), "{said}");
        said.lines().filter(|line| line.starts_with("error: countersign")).collect()
    }
}

#[test]
fn a_field_that_the_policy_does_not_allow_does_not_build() {
    let copy = Copy::new();
    let events = "proto/countersign/events/v1/events.proto";
    let message = "message Activated {\n";
    let ip_address = format!("{message}  string ip_address = 9;\n");
    let said = copy.refusal(events, message, &ip_address);
    for part in [
        events,
        "Activated.ip_address has no data category",
        "ip_address = 9 [(category) = CATEGORY_",
        "src/policy/allowed.toml allows: email, name, license, activation_time, access_record",
        "may not be stored",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }

    let unspecified = ip_address.replace(";\n", " [(category) = CATEGORY_UNSPECIFIED];\n");
    let said = copy.refusal(events, message, &unspecified);
    assert!(said.contains("Activated.ip_address has no data category"), "{said}");

    let mixed = ip_address.replace(";\n", " [(category) = CATEGORY_EMAIL];\n");
    let said = copy.refusal(events, message, &mixed);
    assert!(said.contains("Activated has data of several categories"), "{said}");
    assert!(said.contains("ip_address (email)"), "{said}");

    let import = "import \"countersign/events/v1/policy_options.proto\";\n";
    let original = fs::read_to_string(copy.path(events)).unwrap();
    let timestamp = format!("{import}import \"google/protobuf/timestamp.proto\";\n");
    fs::write(copy.path(events), original.replacen(import, &timestamp, 1)).unwrap();
    let elsewhere = "elsewhere = 9 [(category) = CATEGORY_ACTIVATION_TIME];";
    let moment = format!("{message}  google.protobuf.Timestamp {elsewhere}\n");
    let said = copy.refusal(events, message, &moment);
    assert!(
        said.contains("Activated.elsewhere is of the type google.protobuf.Timestamp"),
        "{said}"
    );
    // A later version of the events is checked as this one is.
    let next = "syntax = \"proto3\";\npackage countersign.events.v2;\n\
                message Next { string ip_address = 1; }\n";
    fs::create_dir_all(copy.path("proto/countersign/events/v2")).unwrap();
    fs::write(copy.path("proto/countersign/events/v2/events.proto"), next).unwrap();
    let second = format!("{import}import \"countersign/events/v2/events.proto\";\n");
    fs::write(copy.path(events), original.replacen(import, &second, 1)).unwrap();
    let next = format!("{message}  countersign.events.v2.Next {elsewhere}\n");
    let said = copy.refusal(events, message, &next);
    assert!(said.contains("events/v2/events.proto: Next.ip_address has no data"), "{said}");
    fs::write(copy.path(events), original).unwrap();

    let said = copy.refusal("src/policy/allowed.toml", "\"activation_time\"", "\"telephone\"");
    assert!(said.contains("Activated.at_ms has the data category activation_time"), "{said}");

    let envelope = "activated = 3 [(category) = CATEGORY_ACTIVATION_TIME]";
    let said = copy.refusal(events, envelope, &envelope.replace("ACTIVATION_TIME", "TECHNICAL"));
    assert!(said.contains("Event.activated has the data category technical"), "{said}");
}

#[test]
fn what_is_persisted_prints_technical_fields_alone() {
    use countersign::proto::events::{Activated, Event, event::Kind};
    let activated = Activated {
        license_id: vec![201; 16],
        activation_id: vec![202; 16],
        at_ms: 203,
        signing_key: vec![204],
        lease_until_ms: Some(205),
    };
    let printed = format!("{activated:?}");
    assert_eq!(
        printed,
        "Activated { license_id: [redacted], activation_id: [redacted], at_ms: [redacted], \
         signing_key: [204], lease_until_ms: [redacted] }"
    );
    let event = Event { kind: Some(Kind::Activated(activated)) };
    assert_eq!(format!("{event:?}"), "Event [redacted]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_sees_only_what_the_policy_gives_it_for_the_stated_purpose() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue("ada@example.com", "App", 1).await;
    let purposes = [
        Purpose::CustomerSupport,
        Purpose::AccessRequest,
        Purpose::LicenseAdministration,
        Purpose::FraudPrevention,
    ];
    for (role, license_for, history_for) in [
        ("issuer", &purposes[2..3], &[][..]),
        ("support", &[purposes[0], purposes[3]], &[purposes[0], purposes[3]]),
        ("privacy", &purposes[..2], &purposes[..2]),
    ] {
        for purpose in purposes {
            let channel = server.staff_channel(role);
            let request = GetLicenseRequest { license_key: key.clone(), purpose: purpose.into() };
            let answer = LicenseServiceClient::new(channel.clone()).get_license(request).await;
            assert_eq!(
                answer.is_ok(),
                license_for.contains(&purpose),
                "{role} {}",
                purpose.as_str_name()
            );
            if let Err(status) = answer {
                assert_eq!(status.code(), Code::PermissionDenied);
                assert_eq!(reason(&status), "PURPOSE_NOT_ALLOWED");
            }
            let request = GetHistoryRequest {
                person: Some(Person::LicenseKey(key.clone())),
                purpose: purpose.into(),
            };
            let answer = HistoryServiceClient::new(channel).get_history(request).await;
            assert_eq!(
                answer.is_ok(),
                history_for.contains(&purpose),
                "{role} {}",
                purpose.as_str_name()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_keep_the_address_from_support() {
    let place = Place::new();
    let path = place.directory().join("policy.toml");
    let policy = fs::read_to_string(&path).unwrap();
    fs::write(&path, policy + "\n[category.email.seen_by]\nsupport = []\n").unwrap();
    let server = place.start();
    server.issue("ada@example.com", "App", 1).await;
    let history = server.history("ada@example.com").await.unwrap();
    assert_eq!((history.email.as_str(), history.licenses.len()), ("", 1));
}

#[test]
fn a_mistake_in_the_policy_stops_the_server_with_its_line() {
    let place = Place::new();
    let path = place.directory().join("policy.toml");
    let policy = fs::read_to_string(&path).unwrap();
    let line = policy.lines().count() + 2;
    fs::write(&path, policy + "[category.email]\nretention_days = 9999\n").unwrap();
    let said = place.refusal();
    assert!(said.contains("policy.toml is not valid"), "{said}");
    assert!(said.contains(&format!("line {line}: email is kept for")), "{said}");
    let checked = place.run(&["policy", "check", path.to_str().unwrap()]);
    let message = String::from_utf8(checked.stderr).unwrap();
    assert!(message.contains(&format!("line {line}:")), "{message}");
    assert_eq!(checked.status.code(), Some(1));
}
