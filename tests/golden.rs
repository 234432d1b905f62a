//! Promise: every event ever written decodes for ever. A line of `events.txt` is never changed, only
//! added; a change of the format that this test finds would lose what customers have stored.

use countersign::domain::{
    Access, ActivationId, Actor, Email, Event, LicenseId, LicenseKey, Operation, Product, Purpose,
    Role, Seats, SigningKeyId, SubjectId, Terms, Timestamp,
};
use countersign::log::codec;

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
        actor: Actor::parse("grace.h").unwrap(),
        role: Role::Support,
        purpose: Purpose::CustomerSupport,
        operation: Operation::GetHistory,
    };
    vec![
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
        ("AccessRecorded", Event::AccessRecorded { subject, access, at }),
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
    types.dedup();
    assert_eq!(types, (1..=8).collect::<Vec<u8>>(), "every type is here");
    assert_eq!(events().len(), written.len());
}

#[test]
fn what_is_no_event_is_an_error() {
    for bytes in [&[][..], &[0xFF], b"nonsense", &[0x0A, 0x02, 0x08, 0x01]] {
        assert!(codec::decode(bytes).is_err(), "{bytes:?}");
    }
}
