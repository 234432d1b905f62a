//! Promise: nothing is kept for longer than the policy says, erasures are final within a day, and what
//! is counted outlives both. With a clock that is set, a log and a vault in memory, and real views.

#[path = "support/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use countersign::domain::{
    Category, Day, Event, Nonce, NoticeOutcome, Operation, Product, Purpose, RequestKind,
    RequestStep, RestrictionKind, Role, Seats, Terms,
};
use countersign::log::memory::Fault;
use countersign::policy::Policy;
use countersign::service::history::Person;
use countersign::service::sweep::Share;
use countersign::service::{Service, ServiceError};
use tokio::time::Instant;
use world::{
    World, activate, at, email, erase, issue, reason, staff, sweep, sweep_until, verified,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How many activations a person's first license shows; `None`: there is nobody.
async fn shown(server: &Arc<Service>, name: &str) -> Option<u64> {
    let person = Person::Email(email(name));
    let history = server.history(&staff(Role::Support), person, Purpose::CustomerSupport).await;
    history.ok().map(|history| history.licenses.first().map_or(0, |first| first.activations_total))
}

#[tokio::test]
async fn activation_times_go_two_years_after_the_year_in_which_the_seat_was_freed() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let key = issue(&server, "ada", None).await;
    let short = activate(&server, "ada", &key).await;
    server.deactivate(&short).await.unwrap();
    let long = activate(&server, "ada", &key).await;
    world.now_is("2027-06-01");
    let held = activate(&server, "ada", &key).await;
    server.deactivate(&long).await.unwrap();

    // 2026 and 2027 hang together by the seat that was held over the turn of the year; in 2027 one
    // was taken that is still held.
    world.now_is("2040-01-01");
    assert_eq!(sweep(&server, true).await.unwrap().records.get(&Category::ActivationTime), None);
    server.deactivate(&held).await.unwrap();
    world.now_is("2042-12-31");
    assert_eq!(sweep(&server, true).await.unwrap().records.get(&Category::ActivationTime), None);
    world.now_is("2043-01-01");
    let dry = sweep(&server, true).await.unwrap();
    assert_eq!(dry.records[&Category::ActivationTime], 6);
    assert_eq!(shown(&server, "ada").await, Some(3), "it was counted only");
    let swept = sweep(&server, false).await.unwrap();
    assert_eq!(swept.records, dry.records);
    for server in [Arc::clone(&server), world.server()] {
        assert_eq!(shown(&server, "ada").await, Some(0));
        assert!(server.check(&held).is_err());
        assert_eq!(
            sweep(&server, true).await.unwrap().records.get(&Category::ActivationTime),
            None
        );
    }
    // The license is as good as before.
    activate(&server, "ada", &key).await;
    assert_eq!(shown(&server, "ada").await, Some(1));
}

#[tokio::test]
async fn address_and_license_go_after_the_license_ends_and_nothing_of_others() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let key = issue(&server, "ada", Some("2027-03-01")).await;
    activate(&server, "ada", &key).await;
    issue(&server, "grace", None).await;
    // Two years after the end: the address. Nobody finds the person by it any more.
    world.now_is("2029-02-27");
    assert_eq!(shown(&server, "ada").await, Some(1));
    let dry = sweep(&server, true).await.unwrap();
    assert_eq!((dry.subjects, dry.records.contains_key(&Category::Email)), (0, false));
    world.now_is("2029-02-28");
    let swept = sweep(&server, false).await.unwrap();
    assert_eq!((swept.subjects, swept.records[&Category::Email]), (1, 1));
    assert_eq!(shown(&server, "ada").await, None);
    // The end of the year of the end: the seat. Ten years after the end: the license.
    world.now_is("2030-01-02");
    assert_eq!(sweep(&server, false).await.unwrap().records[&Category::ActivationTime], 1);
    world.now_is("2037-02-25");
    let license = [Category::License];
    let of_license = |swept: &countersign::service::sweep::Swept| {
        license.map(|category| swept.records.get(&category).copied())
    };
    assert_eq!(of_license(&sweep(&server, true).await.unwrap()), [None]);
    world.now_is("2037-02-26");
    assert_eq!(of_license(&sweep(&server, false).await.unwrap()), [Some(1)]);
    for server in [server, world.server()] {
        assert_eq!(shown(&server, "grace").await, Some(0));
        let left = sweep(&server, true).await.unwrap();
        assert!(!left.records.contains_key(&Category::License), "{:?}", left.records);
    }
}

#[tokio::test]
async fn names_go_when_the_policy_turns_them_off() {
    let world = World::new("2026-03-01");
    let off = world.policy.get();
    let on = countersign::policy::DEFAULT.replace("enabled = false", "enabled = true");
    world.policy.replace(Policy::parse(&on).unwrap());
    let server = world.server();
    let terms = Terms {
        product: Product::parse("App").unwrap(),
        seats: Seats::new(1).unwrap(),
        expires_at: None,
        updates_until: None,
    };
    let name = countersign::domain::PersonName::parse("Ada Lovelace").unwrap();
    let nonce = Nonce::from_bytes(rand::random());
    let issuer = staff(Role::Issuer);
    server.issue(&issuer, email("ada"), Some(name), terms, nonce).await.unwrap();
    assert_eq!(sweep(&server, false).await.unwrap().subjects, 0);
    // As a reload does it: services, sweeps and the writer that is there go by it.
    world.policy.replace(Policy::clone(&off));
    let swept = sweep(&server, false).await.unwrap().records;
    assert_eq!(swept, std::collections::BTreeMap::from([(Category::Name, 1)]));
    assert_eq!(shown(&server, "ada").await, Some(0));
}

#[tokio::test]
async fn an_address_does_not_outlive_all_licenses_however_short_they_are_kept() {
    let world = World::with_policy("2026-03-01", "[category.license]\nretention_days = 30\n");
    let server = world.server();
    issue(&server, "ada", Some("2027-03-01")).await;
    world.now_is("2027-04-01");
    assert_eq!(sweep(&server, false).await.unwrap().records[&Category::License], 1);
    assert_eq!(sweep(&server, false).await.unwrap().records[&Category::Email], 1);
    assert_eq!(shown(&server, "ada").await, None);
}

#[tokio::test]
async fn access_records_go_three_years_after_their_year_but_not_under_an_open_request() {
    let world = World::new("2026-03-01");
    let server = world.server();
    issue(&server, "ada", None).await;
    let opened =
        server.open_request(&staff(Role::Privacy), &email("ada"), RequestKind::Access, None).await;
    let id = opened.unwrap().id;
    world.now_is("2029-12-31");
    let records = sweep(&server, true).await.unwrap().records;
    assert_eq!(records.get(&Category::AccessRecord), None, "the request is open");
    let note = |text| countersign::domain::Note::parse(text).unwrap();
    let refused = RequestStep::Refused { reason: note("late"), evidence: note("none") };
    server.step(&staff(Role::Privacy), id, refused, Operation::RefuseRequest).await.unwrap();
    assert_eq!(sweep(&server, false).await.unwrap().records[&Category::AccessRecord], 3);
    assert_eq!(world.server().open_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn nothing_expires_under_a_restriction_or_a_legal_hold() {
    for kind in [RestrictionKind::Restriction, RestrictionKind::LegalHold] {
        let world = World::new("2026-03-01");
        let server = world.server();
        issue(&server, "ada", Some("2027-03-01")).await;
        let officer = staff(Role::Privacy);
        server.restrict(&officer, &email("ada"), kind, true).await.unwrap();
        world.now_is("2060-01-01");
        assert_eq!(sweep(&server, false).await.unwrap().subjects, 0);
        server.restrict(&officer, &email("ada"), kind, false).await.unwrap();
        assert_eq!(sweep(&server, false).await.unwrap().subjects, 1);
    }
}

#[tokio::test]
async fn a_sweep_that_stops_anywhere_is_ended_with_the_same_counts() {
    let mut expected = None;
    // Without a fault, and with one at each append; the keys are destroyed before the last.
    for appended in [usize::MAX, 0, 1, 2, 3] {
        let world = World::new("2026-03-01");
        let (server, store) = world.server_on("views");
        let key = issue(&server, "ada", Some("2027-03-01")).await;
        activate(&server, "ada", &key).await;
        activate(&server, "ada", &key).await;
        world.now_is("2040-01-01");
        // The views on disk are of before the sweep.
        store.views.close().unwrap();
        if appended < usize::MAX {
            (0..appended).for_each(|_| world.log.inject(None));
            world.log.inject(Some(Fault::Failed));
        }
        let swept = sweep(&server, false).await;
        let stopped = swept.is_err();
        assert_eq!(stopped, appended < 3, "{appended}");
        drop((server, store));
        let (server, store) = world.server_on("views");
        if appended == 0 {
            // It was not begun.
            sweep(&server, false).await.unwrap();
        }
        let head = countersign::log::Log::head(world.log.as_ref()).unwrap();
        let last = store.event(countersign::domain::Position(head.0 - 1)).unwrap().event;
        let Event::DataErased { records, .. } = last else { panic!("{appended}: {last:?}") };
        assert_eq!(*expected.get_or_insert(records.clone()), records, "{appended}");
        assert_eq!(shown(&server, "ada").await, None);
    }
}

#[tokio::test]
async fn what_a_sweep_began_is_not_more_under_another_policy() {
    let world = World::new("2026-03-01");
    let (server, store) = world.server_on("views");
    let key = issue(&server, "ada", Some("2039-12-01")).await;
    let receipt = activate(&server, "ada", &key).await;
    server.deactivate(&receipt).await.unwrap();
    world.now_is("2040-01-01");
    store.views.close().unwrap();
    // The keys are destroyed, and nothing says so.
    for fault in [None, None, Some(Fault::Failed)] {
        world.log.inject(fault);
    }
    assert!(sweep(&server, false).await.is_err());
    drop((server, store));

    let days = ["license", "email"].map(|of| format!("[category.{of}]\nretention_days = 1\n"));
    let shorter = [countersign::policy::DEFAULT, &days[0], &days[1]].concat();
    world.policy.replace(Policy::parse(&shorter).unwrap());
    let (server, store) = world.server_on("views");
    let head = countersign::log::Log::head(world.log.as_ref()).unwrap();
    let last = store.event(countersign::domain::Position(head.0 - 1)).unwrap().event;
    let Event::DataErased { records, .. } = last else { panic!("{last:?}") };
    // The seat, taken and freed, and that the license was issued by staff.
    assert_eq!(records.iter().map(|(_, count)| count).sum::<u64>(), 3);
    assert_eq!(shown(&server, "ada").await, Some(0));
    // A sweep of its own takes the rest.
    sweep(&server, false).await.unwrap();
    sweep(&server, false).await.unwrap();
    assert_eq!(shown(&server, "ada").await, None);
}

#[tokio::test]
async fn a_sweep_comes_by_everybody() {
    let world = World::new("2026-03-01");
    let server = world.server();
    for number in 0..300 {
        issue(&server, &format!("person{number}"), Some("2027-03-01")).await;
    }
    for number in [7, 100, 250] {
        erase(&server, &format!("person{number}")).await;
    }
    world.now_is("2060-01-01");
    assert_eq!(sweep(&server, true).await.unwrap().subjects, 297);
    // Each call is over as soon as it has begun.
    let now = Instant::now();
    let first = server.sweep(true, Share::FIRST, now).await.unwrap();
    assert!(first.subjects < 297 && first.next.is_some());
    assert_eq!(sweep_until(&server, true, now).await.unwrap().subjects, 297);
    assert_eq!(sweep_until(&server, false, now).await.unwrap().subjects, 297);
    assert_eq!(sweep(&server, true).await.unwrap().subjects, 0);
}

#[tokio::test]
async fn no_erasure_is_final_while_a_notice_about_the_person_waits() {
    let world = World::new("2026-03-01");
    let server = world.server();
    issue(&server, "old", None).await;
    let support = staff(Role::Support);
    server.record_disclosure(&support, &email("old"), "ZenDesk", Vec::new(), None).await.unwrap();
    let id = verified(&server, "old", RequestKind::Rectification).await;
    server.rectify(&staff(Role::Privacy), id, Some(email("new")), None).await.unwrap();
    let erasure = erase(&server, "new").await.id;
    let waiting = server.waiting_notices().unwrap();
    assert_eq!(waiting.len(), 2);
    assert_eq!(server.erasure(erasure).unwrap().to_be_told.len(), 1, "one recipient");
    // The erasure's own notice comes to its end, and an epoch later the rectification's.
    for details in waiting.into_iter().rev() {
        for server in [Arc::clone(&server), world.server()] {
            assert!(server.erasure(erasure).unwrap().final_at.is_none());
        }
        server.settle(details.notice.id, NoticeOutcome::ByHand).await.unwrap();
        issue(&server, "other", None).await;
        erase(&server, "other").await;
        world.later(DAY);
        server.finish_erasures().await.unwrap();
    }
    let final_at = server.erasure(erasure).unwrap().final_at;
    assert_eq!(final_at, Some(at("2026-03-03")));
    assert_eq!(world.server().erasure(erasure).unwrap().final_at, final_at);
}

#[tokio::test]
async fn what_a_server_left_half_done_is_ended_before_the_next_one_serves() {
    let world = World::new("2026-03-01");
    let server = world.server();
    issue(&server, "old", None).await;
    let id = verified(&server, "old", RequestKind::Rectification).await;
    // That it begins is appended; what comes next is not.
    for fault in [None, Some(Fault::Failed)] {
        world.log.inject(fault);
    }
    let rectified = server.rectify(&staff(Role::Privacy), id, Some(email("new")), None).await;
    assert!(matches!(rectified, Err(ServiceError::Stopped)));
    let tag = |name| world.vault.tag_key().email(&email(name));
    assert!(world.vault.subject_by_email(&tag("old")).is_some());
    let next = world.server();
    assert!(world.vault.subject_by_email(&tag("old")).is_none());
    assert_eq!((shown(&next, "old").await, shown(&next, "new").await), (None, Some(0)));
}

#[tokio::test]
async fn an_erasure_is_final_within_a_day_or_when_all_recipients_are_told() {
    let world = World::new("2026-03-01");
    let server = world.server();
    for name in ["ada", "grace"] {
        issue(&server, name, None).await;
    }
    let support = staff(Role::Support);
    let disclosed =
        server.record_disclosure(&support, &email("grace"), "ZenDesk", Vec::new(), None).await;
    disclosed.unwrap();
    let [ada, grace] = [erase(&server, "ada").await, erase(&server, "grace").await];
    assert!(ada.final_at.is_none() && ada.to_be_told.is_empty());
    assert_eq!(grace.to_be_told.len(), 1);
    world.later(Duration::from_secs(22 * 60 * 60));
    server.finish_erasures().await.unwrap();
    assert!(server.erasure(ada.id).unwrap().final_at.is_none());
    world.later(Duration::from_secs(60 * 60));
    server.finish_erasures().await.unwrap();
    let server = world.server();
    let certified = server.erasure(ada.id).unwrap();
    assert!(certified.final_at.is_some() && certified.certificate.is_some());
    assert!(server.erasure(grace.id).unwrap().final_at.is_none(), "a notice holds the address");

    // A notice that nobody takes is given up after a month, and erased.
    world.later(DAY * 29);
    server.tidy_notices().await.unwrap();
    assert_eq!(server.waiting_notices().unwrap().len(), 1);
    world.later(DAY);
    server.tidy_notices().await.unwrap();
    assert_eq!(server.waiting_notices().unwrap().len(), 0);
    server.finish_erasures().await.unwrap();
    let server = world.server();
    assert!(server.erasure(grace.id).unwrap().certificate.is_some());
    let unknown =
        server.settle(countersign::domain::NoticeId::from_bytes([1; 16]), NoticeOutcome::ByHand);
    assert_eq!(reason(&unknown.await.unwrap_err()), "NOTICE_NOT_FOUND");
}

#[tokio::test]
async fn counts_outlive_what_they_count_and_small_ones_are_not_told() {
    let world = World::new("2026-03-01");
    let server = world.server();
    let mut keys = Vec::new();
    for number in 0..12 {
        let name = format!("person{number}");
        let key = issue(&server, &name, None).await;
        activate(&server, &name, &key).await;
        keys.push(key);
    }
    let all = || Day(i32::MIN)..=Day(i32::MAX);
    assert!(server.statistics(all()).await.unwrap().is_empty(), "the day is not over");
    // One who is erased on the day itself is counted all the same.
    erase(&server, "person3").await;
    let key = issue(&server, "late", None).await;
    activate(&server, "late", &key).await;
    world.now_is("2026-03-02");
    for _ in 0..9 {
        activate(&server, "late", &key).await;
    }
    world.now_is("2026-03-03");
    for number in 4..9 {
        erase(&server, &format!("person{number}")).await;
    }
    for server in [Arc::clone(&server), world.server()] {
        let days = server.statistics(all()).await.unwrap();
        let days: Vec<_> = days
            .iter()
            .map(|of| (of.day.to_string(), of.product.as_str(), of.licenses, of.activations))
            .collect();
        assert_eq!(
            days,
            [
                ("2026-03-01".to_owned(), "App", Some(13), Some(13)),
                ("2026-03-02".to_owned(), "App", None, None),
            ]
        );
        let day = Day::parse("2026-03-02").unwrap();
        assert_eq!(server.statistics(day..=day).await.unwrap().len(), 1);
        let backwards = day..=Day(day.0 - 1);
        assert_eq!(server.statistics(backwards).await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn the_clocks_of_a_request_run_as_the_law_says() {
    let world = World::new("2026-01-31");
    let server = world.server();
    issue(&server, "ada", None).await;
    let officer = staff(Role::Privacy);
    let received = at("2026-01-31");
    let future = at("2026-02-01");
    let open = async |received| {
        server.open_request(&officer, &email("ada"), RequestKind::Access, Some(received)).await
    };
    assert_eq!(reason(&open(future).await.err().unwrap()), "RECEIVED_IN_FUTURE");
    let [first, second] = [open(received).await.unwrap(), open(received).await.unwrap()];
    assert_eq!(first.request.gdpr_due(), at("2026-02-28"));
    assert_eq!(first.request.swiss_due(), at("2026-03-02"));
    let extend = async |id| {
        let reason = countersign::domain::Note::parse("many systems").unwrap();
        let step = RequestStep::Extended { reason };
        server.step(&officer, id, step, Operation::ExtendRequest).await
    };
    world.now_is("2026-02-28");
    let extended = extend(first.id).await.unwrap().request;
    assert_eq!(extended.gdpr_due(), at("2026-04-30"));
    let twice = extend(first.id).await.err().unwrap();
    assert_eq!(reason(&twice), "REQUEST_EXTENDED_ALREADY");
    world.now_is("2026-03-01");
    let late = extend(second.id).await.err().unwrap();
    assert_eq!(reason(&late), "EXTENSION_TOO_LATE");
    let listed = world.server().open_requests().await.unwrap();
    assert!(listed.iter().map(|details| details.id).eq([second.id, first.id]), "by due date");
}
