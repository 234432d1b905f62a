//! Promise: every event ever written decodes for ever. A line of `events.txt` is never changed, only
//! added; a change of the format that this test finds would lose what customers have stored.

use countersign::domain::{
    Access, ActivationId, Actor, ActorTag, Authority, Category, Change, Counts, Day, Email,
    ErasureId, ErasureReason, Event, LicenseId, LicenseKey, Note, Notice, NoticeId, NoticeOutcome,
    Operation, PersonName, Position, Product, Purpose, RecipientName, RecordedActor, RequestId,
    RequestKind, RequestStep, RestrictionKind, Role, SealedActor, Seats, SigningKeyId, SubjectId,
    Terms, Timestamp,
};
use countersign::log::codec;
use countersign::proto::EVENT_CATEGORIES;

const FILE: &str = include_str!("golden/events.txt");

fn events() -> Vec<(&'static str, Event)> {
    let subject = SubjectId::from_bytes([1; 16]);
    let license = LicenseId::from_bytes([2; 16]);
    let activation = ActivationId::from_bytes([3; 16]);
    let signing_key = SigningKeyId::from_bytes([4; 32]);
    let at = Timestamp::from_millis(1_795_464_278_803).unwrap();
    let later = Some(Timestamp::from_millis(4_102_444_800_000).unwrap());
    let email = Email::parse("Ada@Example.com").unwrap();
    let key = LicenseKey::parse("00000-00000-00000-00000-000150").unwrap();
    let terms = |expires_at, updates_until| Terms {
        product: Product::parse("App").unwrap(),
        seats: Seats::new(5).unwrap(),
        expires_at,
        updates_until,
    };
    let issued = |terms| Event::LicenseIssued { license, subject, key: key.clone(), terms, at };
    let activated =
        |lease_until| Event::Activated { license, activation, signing_key, lease_until, at };
    let deactivated = |by_staff| Event::Deactivated { license, activation, by_staff, at };
    let access = Access {
        actor: RecordedActor::Named(Actor::parse("grace.h").unwrap()),
        role: Role::Support,
        purpose: Purpose::CustomerSupport,
        operation: Operation::GetHistory,
        request: None,
    };
    let mut events = vec![
        ("SubjectRegistered", Event::SubjectRegistered { subject, email, at }),
        ("LicenseIssued", issued(terms(None, None))),
        ("LicenseIssued, with ends", issued(terms(later, later))),
        ("Activated", activated(None)),
        ("Activated, leased", activated(later)),
        ("Deactivated, by the app", deactivated(false)),
        ("Deactivated, by staff", deactivated(true)),
        ("LicenseSuspended", Event::LicenseSuspended { license, at }),
        ("LicenseReinstated", Event::LicenseReinstated { license, at }),
        ("LicenseRevoked", Event::LicenseRevoked { license, at }),
        ("AccessRecorded", Event::AccessRecorded { subject, access: access.clone(), at }),
    ];
    events.extend(privacy_events(subject, license, activation, signing_key, &key, access, at));
    events
}

#[allow(clippy::too_many_lines)] // a line for each event
fn privacy_events(
    subject: SubjectId,
    license: LicenseId,
    activation: ActivationId,
    signing_key: SigningKeyId,
    key: &LicenseKey,
    access: Access,
    at: Timestamp,
) -> Vec<(&'static str, Event)> {
    let request = RequestId::from_bytes([5; 16]);
    let erasure = ErasureId::from_bytes([6; 16]);
    let by = ActorTag::from_bytes([7; 16]);
    let note = |text| Note::parse(text).unwrap();
    let (reason, records) = (ErasureReason::Request, vec![(1, 1), (3, 200)]);
    let name = PersonName::parse("Ada Lovelace").unwrap();
    let later = Timestamp::from_millis(4_102_444_800_000);
    let actor = RecordedActor::Sealed(SealedActor::from_bytes(vec![8; SealedActor::BYTES]));
    let sealed = Access { actor, ..access.clone() };
    let answering = Access { request: Some(request), ..access };
    let (kind, received_at) = (RequestKind::Erasure, at);
    let opened = |is_unknown| Event::RequestOpened {
        request,
        subject,
        kind,
        received_at,
        by,
        is_unknown,
        at,
    };
    let begun = |authority| Event::ErasureBegun { erasure, subject, reason, authority, at };
    let name_of = |byte| Some(SealedActor::from_bytes(vec![byte; SealedActor::BYTES]));
    let authority = Authority {
        opened_by: name_of(1),
        approved: true,
        approved_by: name_of(2),
        carried_out_by: name_of(3),
        keeps_licenses: true,
    };
    let stepped = |step| Event::RequestStepped { request, subject, step, by, at };
    let restricted = |kind, holds| Event::RestrictionChanged { subject, kind, holds, at };
    let settled = |subject, created| Event::NoticeSettled {
        notice: NoticeId::from_bytes([9; 16]),
        subject,
        created,
        outcome: NoticeOutcome::ByHand,
        at,
    };
    let kept = |suspended, end| Event::LicenseKept {
        license,
        subject,
        key: key.clone(),
        terms: Terms {
            product: Product::parse("App").unwrap(),
            seats: Seats::new(5).unwrap(),
            expires_at: end,
            updates_until: end,
        },
        suspended,
        at,
    };
    let kept_activation =
        |lease_until| Event::ActivationKept { license, activation, signing_key, lease_until, at };
    let email = Email::parse("ada@example.com").unwrap();
    let notice = NoticeId::from_bytes([9; 16]);
    let outcome = NoticeOutcome::ByHand;
    let recipient = || RecipientName::parse("ZenDesk").unwrap();
    let categories = vec![Category::Email, Category::License];
    let counts = |license_persons, activation_persons| {
        let of = |product, licenses, activations| {
            let counts = Counts { licenses, activations, license_persons, activation_persons };
            (Product::parse(product).unwrap(), counts)
        };
        vec![of("App", 2, 300), of("Other", 0, 1)]
    };
    let closed = |counts| Event::DayClosed { day: Day(20_781), counts, at };
    let noticed = |change| {
        let (recipient, email) = (recipient(), email.clone());
        let notice = Notice { id: notice, subject, erasure, recipient, email, change };
        Event::NoticeCreated { notice, at }
    };
    vec![
        ("AccessRecorded, for a request", Event::AccessRecorded { subject, access: answering, at }),
        ("AccessRecorded, sealed", Event::AccessRecorded { subject, access: sealed, at }),
        ("EmailRecorded", Event::EmailRecorded { subject, email: email.clone(), at }),
        ("NameRecorded", Event::NameRecorded { subject, name, at }),
        ("RestrictionChanged", restricted(RestrictionKind::Restriction, true)),
        ("RestrictionChanged, lifted", restricted(RestrictionKind::LegalHold, false)),
        ("RequestOpened", opened(false)),
        ("RequestStepped, verified", stepped(RequestStep::VerifiedByCode)),
        ("RequestStepped, verified otherwise", stepped(RequestStep::VerifiedByReceipt)),
        ("RequestStepped, extended", stepped(RequestStep::Extended { reason: note("many") })),
        ("RequestStepped, approved", stepped(RequestStep::Approved)),
        (
            "RequestStepped, refused",
            stepped(RequestStep::Refused { reason: note("unfounded"), evidence: note("letter 7") }),
        ),
        ("RequestStepped, fulfilled", stepped(RequestStep::Fulfilled)),
        ("ErasureBegun", begun(Authority::default())),
        ("DataErased", Event::DataErased { erasure, subject, reason, records, epoch: 1, at }),
        ("EpochMoved", Event::EpochMoved { epoch: 2, at }),
        ("LicenseKept", kept(false, None)),
        ("LicenseKept, suspended, with ends", kept(true, later)),
        ("ActivationKept", kept_activation(None)),
        ("ActivationKept, leased", kept_activation(later)),
        ("Disclosed", Event::Disclosed { subject, recipient: recipient(), categories, at }),
        ("NoticeCreated, erased", noticed(Change::Erased)),
        ("NoticeCreated, rectified", noticed(Change::Rectified { email: Some(email.clone()) })),
        ("NoticeCreated, another name", noticed(Change::Rectified { email: None })),
        ("NoticeSettled", settled(SubjectId::NOBODY, Position::ZERO)),
        ("NoticeSettled, of a person", settled(subject, Position(41))),
        ("RecipientTold", Event::RecipientTold { subject, recipient: recipient(), outcome, at }),
        ("DayClosed", closed(counts(0, 0))),
        ("RequestOpened, by somebody unknown", opened(true)),
        ("RequestStepped, exported", stepped(RequestStep::Exported)),
        ("ErasureBegun, by whose word", begun(authority)),
        ("DayClosed, with persons", closed(counts(2, 100))),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[test]
fn every_event_ever_written_decodes_to_what_it_was() {
    let written: Vec<(&str, &str)> =
        FILE.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let mut types = Vec::new();
    for ((name, event), (golden_name, golden)) in events().iter().zip(&written) {
        let (event_type, encoded) = codec::encode(event);
        assert_eq!((*name, hex(&encoded).as_str()), (*golden_name, *golden));
        let (again, bytes) = codec::encode(&codec::decode(&encoded).unwrap());
        assert_eq!((again, hex(&bytes)), (event_type, hex(&encoded)), "{name}");
        types.push(event_type);
    }
    types.sort_unstable();
    types.dedup();
    let all: Vec<u8> = EVENT_CATEGORIES.iter().map(|(event_type, _)| *event_type).collect();
    assert_eq!(types, all, "every type is here");
    assert_eq!(events().len(), written.len());
}

#[test]
fn what_is_no_event_is_an_error() {
    for bytes in [&[][..], &[0xFF], b"nonsense", &[0x0A, 0x02, 0x08, 0x01]] {
        assert!(codec::decode(bytes).is_err(), "{bytes:?}");
    }
}
