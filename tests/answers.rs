//! Promise: what a person is told is true, whole, and theirs; and whoever must be told is. With a clock
//! that is set, a log and a vault in memory, and real views.

#[path = "support/world.rs"]
mod world;

use std::io::{Cursor, Read as _, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign::domain::{
    Category, Change, Day, LicenseKey, Nonce, Note, NoticeOutcome, Operation, Product, Purpose,
    RequestId, RequestKind, RequestStep, RestrictionKind, Role, Seats, Terms,
};
use countersign::receipt::PublicKeys;
use countersign::service::history::Person;
use countersign::service::privacy::Subject;
use countersign::service::{Service, ServiceError, Staff};
use serde_json::Value;
use world::{World, activate, at, email, erase, issue, reason, staff, sweep, verified};

/// All pieces of an export.
async fn pieces(server: &Arc<Service>, whose: Subject) -> Result<Vec<u8>, ServiceError> {
    let mut pieces = server.export(&staff(Role::Privacy), whose).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.recv().await {
        bytes.extend(piece?);
    }
    Ok(bytes)
}

fn data(zip: Vec<u8>) -> Value {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let mut text = String::new();
    archive.by_name("data.json").unwrap().read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn export(server: &Arc<Service>, name: &str) -> Value {
    let whose = Subject::Email(email(name), Purpose::AccessRequest);
    data(pieces(server, whose).await.unwrap())
}

async fn disclose(server: &Service, name: &str, recipient: &str) {
    let support = staff(Role::Support);
    let email = email(name);
    let disclosed = server.record_disclosure(&support, &email, recipient, Vec::new(), None);
    disclosed.await.unwrap();
}

fn second() -> Staff {
    let actor = countersign::domain::Actor::parse("second").unwrap();
    Staff { actor, role: Role::Privacy }
}

async fn step(server: &Service, id: RequestId, step: RequestStep) -> Result<(), &'static str> {
    let by = if step == RequestStep::Approved { second() } else { staff(Role::Privacy) };
    let stepped = server.step(&by, id, step, Operation::FulfilRequest).await;
    stepped.map(drop).map_err(|error| reason(&error))
}

fn is_whole(data: &Value) -> bool {
    let categories = data["completeness"].as_array().unwrap();
    categories.iter().all(|category| category["exported"] == category["in_log"])
}

#[tokio::test]
async fn who_got_the_address_is_known_for_as_long_as_the_address() {
    let world = World::new("2026-03-01");
    let server = world.server();
    issue(&server, "ada", Some("2031-03-01")).await;
    disclose(&server, "ada", "ZenDesk").await;
    let first = export(&server, "ada").await;
    assert_eq!(first["disclosures"][0]["kept_until"], first["subject"]["email"]["kept_until"]);
    // Access records of 2026 are gone by then.
    world.now_is("2031-01-01");
    assert!(sweep(&server, false).await.unwrap().records[&Category::AccessRecord] > 0);
    let server = world.server();
    let later = export(&server, "ada").await;
    assert_eq!(later["disclosures"], first["disclosures"]);
    assert!(is_whole(&later));
    let erased = erase(&server, "ada").await;
    assert_eq!(erased.to_be_told.len(), 1);
}

/// The ends of a license and of its activations, as an export states them.
async fn ends(server: &Arc<Service>, name: &str) -> (Value, Vec<Value>) {
    let license = &export(server, name).await["licenses"][0];
    let activations = license["activations"].as_array().unwrap();
    let kept = activations.iter().map(|activation| activation["kept_until"].clone());
    (license["kept_until"].clone(), kept.collect())
}

#[tokio::test]
async fn an_export_states_the_ends_that_the_sweep_keeps() {
    let world = World::with_policy("2026-03-01", "[category.license]\nretention_days = 30\n");
    let server = world.server();
    let key = issue(&server, "ada", Some("2027-03-01")).await;
    let freed = activate(&server, "ada", &key).await;
    server.deactivate(&freed).await.unwrap();
    let held = issue(&server, "grace", None).await;
    for is_held in [false, true] {
        let receipt = activate(&server, "grace", &held).await;
        if !is_held {
            server.deactivate(&receipt).await.unwrap();
        }
    }
    // A seat that is held keeps its year, and with it a seat of that year that is not.
    assert_eq!(ends(&server, "grace").await, (Value::Null, vec![Value::Null, Value::Null]));
    // A license of which something is said is kept for as long as that.
    let end = "2028-12-31T00:00:00.000Z";
    assert_eq!(ends(&server, "ada").await, (end.into(), vec![end.into()]));
    for (day, goes) in [("2028-12-30", false), ("2028-12-31", true)] {
        world.now_is(day);
        let records = sweep(&server, true).await.unwrap().records;
        for category in [Category::License, Category::ActivationTime] {
            assert_eq!(records.contains_key(&category), goes, "{day} {category:?}");
        }
    }
}

#[tokio::test]
async fn what_is_held_back_has_no_end() {
    let world = World::new("2026-03-01");
    let server = world.server();
    issue(&server, "ada", Some("2027-03-01")).await;
    let officer = staff(Role::Privacy);
    let opened = server.open_request(&officer, &email("ada"), RequestKind::Objection, None).await;
    let request = export(&server, "ada").await;
    assert_eq!(request["requests"][0]["kept_until"], Value::Null);
    assert_eq!(request["accesses"][0]["kept_until"], Value::Null);
    let note = |text| Note::parse(text).unwrap();
    let refused = RequestStep::Refused { reason: note("late"), evidence: note("none") };
    step(&server, opened.unwrap().id, refused).await.unwrap();
    let answered = export(&server, "ada").await;
    assert_eq!(answered["requests"][0]["kept_until"], "2029-12-31T00:00:00.000Z");
    assert_eq!(answered["retention_paused"], false);
    let hold = RestrictionKind::LegalHold;
    server.restrict(&officer, &email("ada"), hold, true).await.unwrap();
    assert_eq!(export(&server, "ada").await["retention_paused"], true);
}

#[tokio::test]
async fn who_is_not_known_is_answered_that_nothing_is_held() {
    let two = "[dual_control]\nexport = false";
    let mut world = World::new("2026-03-01");
    let policy = countersign::policy::DEFAULT.replace(two, "[dual_control]\nexport = true");
    world.policy = countersign::policy::Policy::parse(&policy).unwrap().into();
    let server = world.server();
    let officer = staff(Role::Privacy);
    let open = async |server: &Arc<Service>, kind| {
        server.open_request(&officer, &email("nobody"), kind, None).await.unwrap().id
    };
    let id = open(&server, RequestKind::Access).await;
    // The request is one: it has its clocks, and outlives a restart.
    let server = world.server();
    let listed = server.open_requests().await.unwrap();
    assert_eq!((listed.len(), listed[0].id), (1, id));
    assert_eq!(listed[0].request.swiss_due(), at("2026-03-31"));
    assert!(server.request(&officer, id).await.unwrap().1.is_none(), "no address is stored");
    let code = server.issue_code(&officer, id).await.err().unwrap();
    assert_eq!(reason(&code), "SUBJECT_NOT_FOUND");
    let missing = pieces(&server, Subject::Request(id)).await.unwrap_err();
    assert_eq!(reason(&missing), "APPROVAL_MISSING");
    assert_eq!(step(&server, id, RequestStep::Fulfilled).await, Err("NOT_EXPORTED"));
    step(&server, id, RequestStep::Approved).await.unwrap();
    let answer = data(pieces(&server, Subject::Request(id)).await.unwrap());
    assert_eq!(answer["data_held"], false);
    assert!(["requests", "accesses"].iter().all(|part| answer[part] == Value::Array(Vec::new())));
    step(&server, id, RequestStep::Fulfilled).await.unwrap();

    let id = open(&server, RequestKind::Erasure).await;
    step(&server, id, RequestStep::Approved).await.unwrap();
    let erased = server.erase(&officer, id, false, false).await.err().unwrap();
    assert_eq!(reason(&erased), "SUBJECT_NOT_FOUND");
    let note = |text| Note::parse(text).unwrap();
    let refused =
        RequestStep::Refused { reason: note("nothing is held"), evidence: note("search") };
    step(&server, id, refused).await.unwrap();
    assert!(world.server().open_requests().await.unwrap().is_empty());
    // Who comes to be known later is somebody else.
    issue(&server, "nobody", None).await;
    assert_eq!(sweep(&server, true).await.unwrap().subjects, 0);
    world.now_is("2030-01-01");
    assert_eq!(
        sweep(&server, false).await.unwrap().subjects,
        3,
        "the records of the requests go too"
    );
}

#[tokio::test]
async fn an_export_that_was_cut_off_was_not_handed_over() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let key = issue(&server, "ada", None).await;
    for _ in 0..1200 {
        let receipt = activate(&server, "ada", &key).await;
        server.deactivate(&receipt).await.unwrap();
    }
    let id = verified(&server, "ada", RequestKind::Access).await;
    let officer = staff(Role::Privacy);
    // Nothing of it is taken; and nothing but the first piece.
    for taken in 0..2 {
        let mut pieces = server.export(&officer, Subject::Request(id)).await.unwrap();
        for _ in 0..taken {
            pieces.recv().await.unwrap().unwrap();
        }
        drop(pieces);
        assert_eq!(step(&server, id, RequestStep::Fulfilled).await, Err("NOT_EXPORTED"));
    }
    let whole = pieces(&server, Subject::Request(id)).await.unwrap();
    assert!(whole.len() > 2 * 32 * 1024, "there was more than one piece: {}", whole.len());
    assert!(is_whole(&data(whole)));
    let server = world.server();
    let steps = &export(&server, "ada").await["requests"][0]["steps"];
    assert_eq!(steps[1]["what"], "exported");
    step(&server, id, RequestStep::Fulfilled).await.unwrap();
}

#[tokio::test]
async fn an_erasure_says_for_ever_by_whose_word_it_was() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let mut erased = Vec::new();
    for (day, name) in [("2026-03-01", "ada"), ("2026-03-02", "grace")] {
        world.now_is(day);
        issue(&server, name, None).await;
        erased.push(erase(&server, name).await.id);
    }
    for server in [Arc::clone(&server), world.server()] {
        let (listed, total) = server.erasures().await.unwrap();
        assert_eq!(total, 2);
        assert!(listed.iter().map(|details| details.id).eq([erased[1], erased[0]]), "newest first");
        for details in listed {
            let authority = details.authority;
            assert!(authority.approved && !authority.keeps_licenses);
            let names = [authority.opened_by, authority.approved_by, authority.carried_out_by];
            let names: Vec<_> =
                names.iter().map(|name| world.open_name(name.as_ref().unwrap())).collect();
            assert_eq!(names, ["privacy", "second", "privacy"]);
        }
    }
}

#[tokio::test]
async fn what_was_lifted_what_ends_and_who_is_to_be_told_are_in_the_export() {
    let mut world = World::new("2026-03-01");
    world.lease = Some(Duration::from_secs(30 * 24 * 60 * 60));
    let server = world.server();
    let key = issue(&server, "old", None).await;
    activate(&server, "old", &key).await;
    disclose(&server, "old", "ZenDesk").await;
    let officer = staff(Role::Privacy);
    for holds in [true, false] {
        let kind = RestrictionKind::Restriction;
        server.restrict(&officer, &email("old"), kind, holds).await.unwrap();
        world.now_is("2026-03-02");
    }
    let id = verified(&server, "old", RequestKind::Rectification).await;
    server.rectify(&officer, id, Some(email("new")), None).await.unwrap();
    let data = export(&server, "new").await;
    let restriction = &data["restrictions"][0];
    assert_eq!(restriction["since"], "2026-03-01T00:00:00.000Z");
    assert_eq!(restriction["until"], "2026-03-02T00:00:00.000Z");
    let lease = &data["licenses"][0]["activations"][0]["lease_until"];
    assert_eq!(*lease, "2026-03-31T00:00:00.000Z");
    let notice = &data["notices"][0];
    assert_eq!((&notice["state"], &notice["recipient"]), (&"waiting".into(), &"ZenDesk".into()));
    assert_eq!(notice["email"], "old@example.com");
    assert_eq!(notice["new_email"], "new@example.com");
    assert_eq!(notice["kept_until"], "2026-04-01T00:00:00.000Z");
    assert!(is_whole(&data));
    let email_records = &data["completeness"][0]["records"];
    assert_eq!(email_records["notice_created"], 1);

    let waiting = server.waiting_notices().unwrap();
    server.settle(waiting[0].notice.id, NoticeOutcome::ByHand).await.unwrap();
    let data = export(&server, "new").await;
    let told = &data["notices"][0];
    assert_eq!((&told["state"], &told["email"]), (&"by_hand".into(), &Value::Null));
    assert!(is_whole(&data));
}

#[tokio::test]
async fn a_recipient_is_told_when_retention_erases_the_address() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let key = issue(&server, "ada", Some("2027-03-01")).await;
    activate(&server, "ada", &key).await;
    disclose(&server, "ada", "ZenDesk").await;
    // Two years after the license: the address. What is left needs no notice when it goes.
    for (day, waiting) in [("2029-02-27", 0), ("2029-02-28", 1), ("2060-01-01", 1)] {
        world.now_is(day);
        sweep(&server, false).await.unwrap();
        let notices = world.server().waiting_notices().unwrap();
        assert_eq!(notices.len(), waiting, "{day}");
        for details in notices {
            assert_eq!(details.notice.email.expose(), "ada@example.com");
            assert!(matches!(details.notice.change, Change::Erased));
        }
    }
}

#[tokio::test]
async fn a_count_is_told_when_it_is_of_enough_persons() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let key = issue(&server, "busy", None).await;
    for name in ["gone", "gone too"] {
        for _ in 0..12 {
            activate(&server, "busy", &key).await;
        }
        // What is erased is counted first, and who was counted is not counted again.
        let name = name.replace(' ', ".");
        issue(&server, &name, None).await;
        erase(&server, &name).await;
    }
    world.now_is("2026-03-02");
    for number in 0..10 {
        let name = format!("person{number}");
        let key = issue(&server, &name, None).await;
        activate(&server, &name, &key).await;
        if number == 4 {
            erase(&server, "person3").await;
        }
    }
    world.now_is("2026-03-03");
    for server in [Arc::clone(&server), world.server()] {
        let days = server.statistics(Day(i32::MIN)..=Day(i32::MAX)).await.unwrap();
        let days: Vec<_> = days.iter().map(|of| (of.licenses, of.activations)).collect();
        assert_eq!(days, [(None, None), (Some(10), Some(10))]);
    }
}

#[tokio::test]
async fn nobody_sees_an_address_that_the_policy_keeps_from_them() {
    let narrow = "[category.email.seen_by]\nprivacy = []\n";
    let world = World::with_policy("2026-03-01", narrow);
    let server = world.server();
    issue(&server, "ada", None).await;
    let officer = staff(Role::Privacy);
    let opened = server.open_request(&officer, &email("ada"), RequestKind::Access, None).await;
    let id = opened.unwrap().id;
    assert!(server.request(&officer, id).await.unwrap().1.is_none());
    let code = server.issue_code(&officer, id).await.err();
    assert!(matches!(code, Some(ServiceError::PurposeNotAllowed)));
    let notices = server.notices(&officer).await.err();
    assert!(matches!(notices, Some(ServiceError::PurposeNotAllowed)));
}

#[tokio::test]
async fn who_may_not_see_learns_not_who_is_known() {
    let narrow = "[category.license.seen_by]\nsupport = []\n";
    let world = World::with_policy("2026-03-01", narrow);
    let server = world.server();
    let key = issue(&server, "ada", None).await;
    let receipt = activate(&server, "ada", &key).await;
    let support = staff(Role::Support);
    for name in ["ada", "nobody"] {
        let person = Person::Email(email(name));
        let history = server.history(&support, person, Purpose::CustomerSupport).await.err();
        assert!(matches!(history, Some(ServiceError::PurposeNotAllowed)), "{name}");
    }
    for key in [key, LicenseKey::generate(rand::random)] {
        let license = server.license(&support, &key, Purpose::CustomerSupport).await.err();
        assert!(matches!(license, Some(ServiceError::PurposeNotAllowed)));
    }
    let keys = PublicKeys::from_jwks(&server.signing_keys()).unwrap();
    let activation = keys.verify(&receipt).unwrap().activation;
    let freed = server.free_seat(&support, activation).await.err();
    assert!(matches!(freed, Some(ServiceError::PurposeNotAllowed)));
    server.check(&receipt).unwrap();
}

#[tokio::test]
async fn a_history_of_many_licenses_is_shown_in_part() {
    let world = World::new("2026-03-01");
    let server = world.server();
    for number in 0..103 {
        let terms = Terms {
            product: Product::parse(&format!("App {number}")).unwrap(),
            seats: Seats::new(1).unwrap(),
            expires_at: None,
            updates_until: None,
        };
        let nonce = Nonce::from_bytes(rand::random());
        server.issue(&staff(Role::Issuer), email("ada"), None, terms, nonce).await.unwrap();
    }
    let person = Person::Email(email("ada"));
    let support = staff(Role::Support);
    let history = server.history(&support, person, Purpose::CustomerSupport).await.unwrap();
    assert_eq!((history.licenses.len(), history.licenses_total), (100, 103));
    let product = |at: usize| history.licenses[at].license.terms.product.as_str();
    assert_eq!((product(0), product(99)), ("App 3", "App 102"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_whole_while_more_is_added_and_right_while_all_is_erased() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let key = issue(&server, "ada", None).await;
    let more = {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for _ in 0..100 {
                activate(&server, "ada", &key).await;
            }
        })
    };
    while !more.is_finished() {
        assert!(is_whole(&export(&server, "ada").await));
    }
    more.await.unwrap();
    let id = verified(&server, "ada", RequestKind::Access).await;
    let whose = Subject::Request(id);
    let (erased, exported) = tokio::join!(erase(&server, "ada"), pieces(&server, whose));
    assert_eq!(erased.records[&Category::ActivationTime], 100);
    match exported {
        Ok(zip) => {
            let data = data(zip);
            let held = data["licenses"].as_array().unwrap().len();
            assert_eq!(data["data_held"], held > 0);
        }
        Err(error) => {
            let reason = reason(&error);
            assert!(["REQUEST_NOT_FOUND", "SUBJECT_NOT_FOUND"].contains(&reason), "{error}");
        }
    }
}

/// Takes log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_notice_that_is_given_up_is_logged_without_the_person() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let world = World::new("2026-03-01");
    let server = world.server();
    issue(&server, "ada", None).await;
    disclose(&server, "ada", "ZenDesk").await;
    erase(&server, "ada").await;
    world.later(Duration::from_secs(30 * 24 * 60 * 60));
    let logged = tracing::subscriber::set_default(subscriber);
    server.tidy_notices().await.unwrap();
    drop(logged);
    assert!(server.waiting_notices().unwrap().is_empty());
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("ERROR") && text.contains("ZenDesk") && text.contains("given up"),
        "{text}"
    );
    assert!(!text.contains("ada"), "{text}");
}

#[tokio::test]
async fn who_took_a_step_is_told_apart_with_one_request_alone() {
    let world = World::new("2026-03-01");
    let actor = countersign::domain::Actor::parse("grace.h").unwrap();
    let tag = |request| world.vault.tag_key().actor(&actor, RequestId::from_bytes([request; 16]));
    assert_eq!(tag(1), tag(1));
    assert_ne!(tag(1), tag(2), "nobody is followed from one request to the next");
}
