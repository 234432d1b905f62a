//! What people type: addresses, license keys, names, products, days. What is read can be written and is
//! then read as the same; one mailbox has one normal form.

#![no_main]

use countersign::domain::{
    Actor, Day, Email, LicenseKey, Note, PersonName, Product, RecipientName, Role, Timestamp,
};
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fn email(text: &str) {
    let Ok(email) = Email::parse(text) else { return };
    let normal = email.expose_normal();
    let again = Email::parse(email.expose()).unwrap();
    assert_eq!((again.expose(), again.expose_normal()), (email.expose(), normal));
    // Composed characters may be longer than the others, and a domain in ASCII is.
    if let Ok(again) = Email::parse(normal) {
        assert_eq!(again.expose_normal(), normal);
    }
    // Case does not matter in ASCII, and elsewhere it does.
    if email.expose().is_ascii() {
        for other in [text.to_ascii_uppercase(), text.to_ascii_lowercase()] {
            assert_eq!(Email::parse(&other).unwrap().expose_normal(), normal);
        }
    }
    assert_eq!(format!("{email:?}"), "Email[redacted]");
}

fn license_key(text: &str) {
    let Ok(key) = LicenseKey::parse(text) else { return };
    let shown = key.expose();
    assert!(shown.len() == 30 && LicenseKey::parse(&shown) == Ok(key.clone()));
    // It says the same, but for what a person may mistake.
    let meant = |text: &str| {
        let meant = text.to_ascii_uppercase().replace(['I', 'L'], "1").replace('O', "0");
        meant.chars().filter(char::is_ascii_alphanumeric).collect::<String>()
    };
    assert_eq!(meant(text), meant(&shown));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        email(text);
        license_key(text);
        if let Ok(name) = PersonName::parse(text) {
            assert_eq!(name.expose(), text.trim());
            assert!(PersonName::parse(name.expose()) == Ok(name));
        }
        if let Ok(note) = Note::parse(text) {
            assert!(Note::parse(note.expose()) == Ok(note));
        }
        if let Ok(product) = Product::parse(text) {
            assert_eq!(product.as_str(), text);
        }
        if let Some(name) = RecipientName::parse(text) {
            assert_eq!(name.as_str(), text);
        }
        if let Some(actor) = Actor::parse(text) {
            assert_eq!(actor.expose(), text);
        }
        if let Some(role) = Role::from_name(text) {
            assert_eq!(role.name(), text);
        }
        if let Some(day) = Day::parse(text) {
            assert_eq!(Day::parse(&day.to_string()), Some(day), "{day}");
        }
    }
    // Any license key reads back, and any time is within the years that there are.
    let mut input = Input(data);
    license_key(&LicenseKey::generate(|| u128::from_be_bytes(input.bytes()) | 1 << 127).expose());
    let mut input = Input(data);
    let (millis, months) = (i64::from_be_bytes(input.bytes()), input.byte());
    if let Some(time) = Timestamp::from_millis(millis) {
        assert_eq!(time.as_millis(), millis);
        let wait = std::time::Duration::from_millis(input.number());
        for later in [time.plus_months(months), time.plus(wait), time.end_of_year()] {
            assert!(later >= time && later.year() <= 9999, "{later}");
            assert!(Timestamp::from_millis(later.as_millis()).is_some());
            assert_eq!(Day::parse(&later.day().to_string()), Some(later.day()));
        }
    }
});
