//! Promise: the command line does what the README says, in forms that scripts can use.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};

use countersign::domain::{ActivationId, Binding, LicenseKey, Product, Timestamp};
use countersign::receipt::{Claims, KeyRing, LicenseClaims, key_thumbprint};
use serde_json::Value;
use support::{Place, exported_data};

const ADA: &str = "ada@example.com";

fn text(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(place, &[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn the_commands_that_dev_prints_work_as_they_are() {
    let place = Place::empty();
    let (_server, commands) = place.start_dev();
    let mut shell = Command::new("sh");
    let tour = shell.args(["-ec", &commands]).current_dir(place.beside("")).output().unwrap();
    assert!(tour.status.success(), "{tour:?}");
    let text = String::from_utf8(tour.stdout).unwrap();
    assert!(text.contains("valid: App activated at") && text.contains("1 of 2 seats in use"));
    let export = exported_data(&place.beside("ada.zip"));
    assert_eq!(export["completeness"][2]["records"]["activated"], 1);
}

#[test]
fn a_license_goes_its_way_from_issue_to_export() {
    let place = Place::new();
    let server = place.start();
    let issued = text(
        &place,
        &[
            "license",
            "issue",
            "--email",
            ADA,
            "--product",
            "App",
            "--seats",
            "1",
            "--expires",
            "2100-01-01",
        ],
    );
    let key = issued.trim_end();
    assert!(countersign::domain::LicenseKey::parse(key).is_ok() && issued.lines().count() == 1);

    let receipt = place.beside("receipt");
    let receipt = receipt.to_str().unwrap();
    text(&place, &["activate", "--email", ADA, "--key", key, "--receipt", receipt]);
    assert_eq!(json(&place, &["check", "--receipt", receipt])["standing"], "good");
    let full = place.run(&["activate", "--email", ADA, "--key", key]);
    assert_eq!(full.status.code(), Some(3));
    assert!(full.stdout.is_empty() && !full.stderr.is_empty());

    let verified = json(&place, &["receipt", "verify", receipt]);
    assert_eq!((&verified["valid"], &verified["product"]), (&true.into(), &"App".into()));
    assert_eq!(verified["license_expires_at"], "2100-01-01T00:00:00Z");
    let jwks = place.beside("jwks");
    fs::write(&jwks, text(&place, &["keys", "show"])).unwrap();
    text(&place, &["receipt", "verify", receipt, "--jwks", jwks.to_str().unwrap()]);
    let forged = place.beside("forged");
    fs::write(&forged, fs::read_to_string(receipt).unwrap() + "A").unwrap();
    let refused = place.run(&["receipt", "verify", forged.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");

    let history = json(&place, &["history", "--email", ADA]);
    assert_eq!(history["licenses"][0]["activations_total"], 1);
    assert_eq!(history["licenses"][0]["license"]["license_key"], key);
    let shown = json(&place, &["license", "show", key]);
    assert_eq!((&shown["used"], &shown["status"]), (&1.into(), &"active".into()));
    assert_eq!(json(&place, &["license", "suspend", key])["status"], "suspended");
    let check = place.run(&["check", "--receipt", receipt]);
    assert_eq!((check.status.code(), &check.stdout[..]), (Some(3), &b"suspended\n"[..]));
    assert!(String::from_utf8_lossy(&check.stderr).contains("contact the vendor"), "{check:?}");
    assert_eq!(json(&place, &["license", "reinstate", key])["status"], "active");
    text(&place, &["deactivate", "--receipt", receipt]);
    assert_eq!(json(&place, &["license", "show", key])["used"], 0);

    let out = place.beside("export.zip");
    text(&place, &["export", "--email", ADA, "--out", out.to_str().unwrap()]);
    let export = exported_data(&out);
    assert_eq!(export["subject"]["email"]["value"], ADA);
    let activation = &export["licenses"][0]["activations"][0];
    assert_eq!(activation["activation_id"], verified["activation_id"]);
    assert_eq!(activation["deactivated_by"], "app");
    let operations: Vec<&str> = export["accesses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|access| access["operation"].as_str().unwrap())
        .collect();
    let expected = [
        "IssueLicense",
        "GetHistory",
        "GetLicense",
        "SuspendLicense",
        "ReinstateLicense",
        "GetLicense",
        "ExportSubject",
    ];
    assert_eq!(operations, expected);
    let sealed = export["accesses"][1]["sealed_actor"].as_str().unwrap();
    let [first, second] = [1, 2].map(|n| place.directory().join(format!("keys/actor-{n}.key")));
    let [first, second] = [first.to_str().unwrap(), second.to_str().unwrap()];
    let open = ["privacy", "actor", "--sealed", sealed, "--keys", first, second];
    assert_eq!(text(&place, &open).trim(), "dev-support");
    let one = place.run(&["privacy", "actor", "--sealed", sealed, "--keys", first, first]);
    assert_eq!(one.status.code(), Some(1), "{one:?}");
    assert_eq!(export["accesses"][1]["role"], "support");
    assert_eq!(export["accesses"][1]["purpose"], "customer_support");
    assert_eq!(export["recipients"][0]["name"], "FastSpring");
    assert_eq!(export["completeness"][3]["records"]["access_recorded"], 7);
    for category in export["completeness"].as_array().unwrap() {
        assert_eq!(category["exported"], category["in_log"]);
    }

    assert_eq!(json(&place, &["license", "revoke", key])["status"], "revoked");
    let check = place.run(&["check", "--receipt", receipt, "--json"]);
    assert_eq!(check.status.code(), Some(3), "{check:?}");
    assert_eq!(serde_json::from_slice::<Value>(&check.stdout).unwrap()["standing"], "revoked");
    assert!(server.terminate().success());
}

#[test]
fn a_request_goes_its_way_from_opening_to_a_final_erasure() {
    let place = Place::new();
    let server = place.start();
    let issue = ["license", "issue", "--email", ADA, "--product", "App", "--seats", "1"];
    let key = text(&place, &issue).trim().to_owned();
    let receipt = place.beside("receipt");
    let receipt = receipt.to_str().unwrap();
    text(&place, &["activate", "--email", ADA, "--key", &key, "--receipt", receipt]);
    let privacy = |arguments: &[&str]| json(&place, &[&["privacy"], arguments].concat());
    let open = |kind: &str| {
        let opened = ["privacy", "request", "open", "--email", ADA, "--kind", kind];
        text(&place, &opened).trim().to_owned()
    };

    let access = open("access");
    assert_eq!(privacy(&["request", "show", &access])["email"], ADA);
    let verified = privacy(&["request", "verify", &access, "--receipt", receipt]);
    assert_eq!(verified["verified"], true);
    let zip = place.beside("ada.zip");
    let fulfil = ["request", "fulfil", &access, "--out", zip.to_str().unwrap()];
    assert_eq!(privacy(&fulfil)["state"], "fulfilled");
    assert_eq!(exported_data(&zip)["subject"]["email"]["value"], ADA);

    let objection = open("objection");
    let extended = privacy(&["request", "extend", &objection, "--reason", "many"]);
    assert_eq!(extended["extended"], true);
    let refuse = ["request", "refuse", &objection, "--reason", "no", "--evidence", "letter"];
    assert_eq!(privacy(&refuse)["state"], "refused");

    let rectification = open("rectification");
    let code = privacy(&["request", "code", &rectification])["code"].as_str().unwrap().to_owned();
    privacy(&["request", "verify", &rectification, "--code", &code]);
    let new = "ada.l@example.com";
    assert_eq!(privacy(&["rectify", &rectification, "--email", new])["state"], "fulfilled");

    privacy(&["disclose", "--email", new, "--recipient", "ZenDesk", "--categories", "email"]);
    privacy(&["restrict", "--email", new, "--kind", "legal_hold"]);
    let opened = ["privacy", "request", "open", "--email", new, "--kind", "erasure"];
    let erasure = text(&place, &opened).trim().to_owned();
    let listed = privacy(&["request", "list"]);
    assert_eq!(listed["requests"][0]["request_id"], erasure.as_str());
    privacy(&["request", "verify", &erasure, "--receipt", receipt]);
    assert_eq!(privacy(&["request", "approve", &erasure])["approved"], true);
    let held = place.run(&["privacy", "erase", &erasure]);
    assert_eq!(held.status.code(), Some(3), "{held:?}");
    privacy(&["restrict", "--email", new, "--kind", "legal_hold", "--lift"]);
    let erased = privacy(&["erase", &erasure, "--wait"]);
    assert_eq!(erased["records"]["activation_time"], 1);
    assert_eq!(erased["remains"].as_array().unwrap().len(), 2, "ZenDesk is to be told");

    let notice = &privacy(&["notice", "list"])["notices"][0];
    assert_eq!((&notice["recipient"], &notice["email"]), (&"ZenDesk".into(), &new.into()));
    privacy(&["notice", "settle", notice["notice_id"].as_str().unwrap()]);
    assert_eq!(privacy(&["notice", "list"])["notices"].as_array().unwrap().len(), 0);
    let id = erased["erasure_id"].as_str().unwrap();
    assert_eq!(privacy(&["erasure", id])["remains"].as_array().unwrap().len(), 1);
    let listed = privacy(&["erasures"]);
    let [newest, first] = [0, 1].map(|at| &listed["erasures"][at]);
    assert_eq!((&newest["erasure_id"], &newest["reason"]), (&id.into(), &"request".into()));
    assert_eq!((&first["reason"], &listed["total"]), (&"rectification".into(), &2.into()));
    assert_eq!((&newest["approved"], &newest["keeps_licenses"]), (&true.into(), &false.into()));
    let keys = [1, 2].map(|n| place.directory().join(format!("keys/actor-{n}.key")));
    let keys = keys.each_ref().map(|path| path.to_str().unwrap());
    let named = |by: &str| {
        let sealed = newest[by].as_str().unwrap();
        let open = ["privacy", "actor", "--sealed", sealed, "--keys", keys[0], keys[1]];
        text(&place, &open).trim().to_owned()
    };
    let names = ["opened_by", "approved_by", "carried_out_by"].map(named);
    assert_eq!(names, ["dev-privacy", "dev-privacy-2", "dev-privacy"]);
    assert_eq!(privacy(&["sweep", "--dry-run"])["subjects"], 0);
    assert_eq!(json(&place, &["stats"])["days"].as_array().unwrap().len(), 0);
    let gone = place.run(&["history", "--email", new]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
    let policy = place.directory().join("policy.toml");
    assert_eq!(json(&place, &["policy", "check", policy.to_str().unwrap()])["valid"], true);
    assert_eq!(json(&place, &["policy", "show"])["recipients"][1]["name"], "ZenDesk");
    assert!(server.terminate().success());
}

#[test]
fn a_log_with_nothing_in_it_is_good() {
    let place = Place::new();
    let views = || json(&place, &["verify", "--deep"])["views"].clone();
    assert_eq!(views(), "will be rebuilt at the next start");
    assert!(place.start().terminate().success());
    assert_eq!(views(), "match the log");
}

#[test]
fn a_directory_that_is_none_is_told_and_left_alone() {
    let place = Place::empty();
    for arguments in [&["verify"][..], &["verify", "--deep"], &["backup", "b"]] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("init` makes such a directory"), "{told}");
        assert!(!place.directory().exists());
    }
}

#[test]
fn keys_rotate_and_old_receipts_stay_good() {
    let place = Place::new();
    let server = place.start();
    let key =
        text(&place, &["license", "issue", "--email", ADA, "--product", "App", "--seats", "2"]);
    let [old, new] = ["old", "new"].map(|name| place.beside(name));
    let [old, new] = [old.to_str().unwrap(), new.to_str().unwrap()];
    text(&place, &["activate", "--email", ADA, "--key", key.trim(), "--receipt", old]);
    assert!(server.terminate().success());
    let kid = json(&place, &["keys", "rotate"])["kid"].as_str().unwrap().to_owned();
    let server = place.start();
    text(&place, &["activate", "--email", ADA, "--key", key.trim(), "--receipt", new]);
    for receipt in [old, new] {
        assert_eq!(json(&place, &["receipt", "verify", receipt])["valid"], true);
        assert_eq!(json(&place, &["check", "--receipt", receipt])["standing"], "good");
    }
    let keys: Value = serde_json::from_str(&text(&place, &["keys", "show"])).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(keys["keys"][0]["kid"], kid.as_str());
    assert!(server.terminate().success());
}

#[test]
fn usage_errors_are_told_apart_from_others() {
    let place = Place::empty();
    assert_eq!(place.run(&["nonsense"]).status.code(), Some(2));
    assert_eq!(place.run(&["history"]).status.code(), Some(2));
    assert_eq!(place.run(&["config", "show"]).status.code(), Some(1));
    assert_eq!(json(&place, &["version"])["version"], env!("CARGO_PKG_VERSION"));
    let help = text(&place, &["help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for code in ["0 done", "1 error", "2 usage", "3 refused", "4 the server"] {
        assert!(help.contains(code), "{help}");
    }
}

/// Runs a command whose output nobody can store.
fn unprinted(place: &Place, arguments: &[&str]) -> Output {
    let full = File::options().write(true).open("/dev/full").unwrap();
    place.command().args(arguments).stdout(full).output().unwrap()
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let place = Place::new();
    let server = place.start();
    for arguments in [
        &["license", "issue", "--email", ADA, "--product", "App", "--seats", "1"][..],
        &["keys", "show"],
        &["version"],
    ] {
        let output = unprinted(&place, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("the output cannot be written"), "{told}");
    }
    assert!(server.terminate().success());
}

#[test]
fn a_receipt_of_a_license_that_has_expired_is_not_good() {
    let place = Place::new();
    let keys = fs::read_to_string(place.directory().join("keys/receipt-keys.jwks")).unwrap();
    let keys = KeyRing::from_jwks(&keys).unwrap();
    let moment = |seconds: i64| Timestamp::from_millis(seconds * 1000);
    let (past, future) = (moment(1_000_000_000), moment(4_102_444_800));
    let key = LicenseKey::parse("00000-00000-00000-00000-000150").unwrap();
    let verify = |license_expires_at, updates_until| {
        let claims = Claims {
            issuer: "https://licenses.example.com".to_owned(),
            product: Product::parse("App").unwrap(),
            issued_at: past.unwrap(),
            expires_at: None,
            activation: ActivationId::from_bytes([1; 16]),
            binding: Binding::from_bytes([2; 32]),
            license: LicenseClaims {
                key_thumbprint: key_thumbprint(&key),
                seats: 1,
                expires_at: license_expires_at,
                updates_until,
            },
            record: [3; 32],
        };
        let file = place.beside("receipt");
        fs::write(&file, keys.sign(&keys.current(), &claims).unwrap()).unwrap();
        place.run(&["receipt", "verify", file.to_str().unwrap()])
    };
    let good = verify(future, past);
    assert!(good.status.success(), "{good:?}");
    let shown = String::from_utf8(good.stdout).unwrap();
    assert!(shown.contains("licensed until 2100-01-01"), "{shown}");
    assert!(shown.contains("updates until 2001-09-09"), "{shown}");
    let expired = verify(past, None);
    assert_eq!((expired.status.code(), &expired.stdout[..]), (Some(3), &b""[..]));
    let told = String::from_utf8(expired.stderr).unwrap();
    assert!(told.contains("the license has expired at 2001-09-09"), "{told}");
}

#[test]
fn a_server_on_all_addresses_is_found() {
    let place = Place::new();
    let server = place.start();
    let everywhere = |address: &str| address.replace("127.0.0.1", "0.0.0.0");
    let [public, staff] = [server.public_address(), server.staff_address()].map(everywhere);
    let line = format!("listening public={public} staff={staff}");
    fs::write(place.directory().join("run/listening"), line).unwrap();
    let issue = ["license", "issue", "--email", ADA, "--product", "App", "--seats", "1"];
    let key = text(&place, &issue);
    text(&place, &["activate", "--email", ADA, "--key", key.trim()]);
    assert!(server.terminate().success());
}

#[test]
fn who_calls_as_an_app_has_no_certificate_to_name() {
    let place = Place::new();
    for command in ["activate", "deactivate", "renew", "check"] {
        let help = text(&place, &[command, "--help"]);
        assert!(help.contains("--endpoint") && !help.contains("--cert"), "{help}");
    }
}

/// Whether a process has locked a file.
fn is_locked(file: &Path) -> bool {
    let inode = format!(":{}", fs::metadata(file).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|lock| lock.split_whitespace().any(|word| word.ends_with(&inode)))
}

#[test]
fn no_server_can_start_while_the_views_are_rebuilt() {
    let place = Place::new();
    assert!(place.start().terminate().success());
    // It takes a while to delete them.
    let many = place.directory().join("views/many");
    fs::create_dir(&many).unwrap();
    for n in 0..20_000 {
        File::create(many.join(n.to_string())).unwrap();
    }
    let lock = place.directory().join("data/lock");
    let mut rebuild = place.command().args(["views", "rebuild"]).spawn().unwrap();
    let (mut was_locked, mut releases) = (false, 0);
    let status = loop {
        let ended = rebuild.try_wait().unwrap();
        // The list may be read while it changes.
        let locked = ended.is_none() && (0..5).any(|_| is_locked(&lock));
        releases += u32::from(was_locked && !locked);
        was_locked = locked;
        if let Some(status) = ended {
            break status;
        }
    };
    assert!(status.success());
    assert_eq!(releases, 1, "it is held from before the views are deleted until the end");
}
