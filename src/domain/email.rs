//! An e-mail address: kept as it was given, found by a normal form.
//!
//! The normal form is for lookup only: the domain by UTS 46 to ASCII, lower case, without a trailing
//! dot; the local part NFC and lower case in ASCII only, because Unicode's lower-casing makes
//! different mailboxes collide. Tags and dots stay: whether they matter is the mail host's affair.

use std::fmt;

use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroize;

/// The version of the normal form. It goes into each lookup tag, so that a change of rules cannot
/// make one address find another. A change after the first release needs another.
pub const NORMALISER_VERSION: u8 = 1;

/// RFC 5321 §4.5.3.1.3 gives a path 256 octets with its angle brackets.
const MAX_BYTES: usize = 254;
/// RFC 5321 §4.5.3.1.1.
const MAX_LOCAL_BYTES: usize = 64;

/// A well-formed e-mail address. Prints `[redacted]`.
#[derive(Clone)]
pub struct Email {
    given: String,
    normal: String,
}

/// Why a text is no e-mail address. Holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// Empty.
    #[error("is empty")]
    Empty,
    /// Longer than 254 bytes, or its local part longer than 64.
    #[error("is too long: at most 254 bytes, 64 of them before the @")]
    TooLong,
    /// No `@`, or nothing on one side of it.
    #[error("must have the form name@domain")]
    Form,
    /// A space, a control character, or one that needs quoting.
    #[error("has a character that cannot stand in an e-mail address")]
    Character,
    /// Not a domain name by UTS 46 and RFC 1035.
    #[error("has no valid domain after the @")]
    Domain,
}

impl Email {
    /// Reads an address, white space around it aside. Quoted local parts and address literals are
    /// not accepted: no shop sells to one.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let given = text.trim();
        if given.is_empty() {
            return Err(EmailError::Empty);
        }
        if given.len() > MAX_BYTES {
            return Err(EmailError::TooLong);
        }
        let (local, domain) = given.rsplit_once('@').ok_or(EmailError::Form)?;
        if local.is_empty() || domain.is_empty() {
            return Err(EmailError::Form);
        }
        if local.len() > MAX_LOCAL_BYTES {
            return Err(EmailError::TooLong);
        }
        if local.chars().any(|c| !is_shown(c) || c.is_whitespace() || "\"(),:;<>@[\\]".contains(c))
        {
            return Err(EmailError::Character);
        }
        let domain = normal_domain(domain).ok_or(EmailError::Domain)?;
        // Room for all of it: what is moved to a larger place is not overwritten where it was.
        let mut normal = String::with_capacity(local.len() + 1 + domain.len());
        if local.is_ascii() {
            // It is its own NFC, and most are.
            normal.push_str(local);
            normal.make_ascii_lowercase();
        } else {
            normal.extend(normal_local(local));
        }
        normal.push('@');
        normal.push_str(&domain);
        Ok(Self { given: given.to_owned(), normal })
    }

    /// The address as it was given. Calling this is the one way to its text.
    pub fn expose(&self) -> &str {
        &self.given
    }

    /// The form that lookups go by.
    pub fn expose_normal(&self) -> &str {
        &self.normal
    }
}

/// Whether a character is one that people see: no control, and none that changes the order of others, so
/// that an address could look like another.
fn is_shown(c: char) -> bool {
    let is_bidi =
        matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}');
    !c.is_control() && !is_bidi
}

/// NFC, and small letters where ASCII has them. NFC again, because a mark that goes with no capital may go
/// with its small letter.
fn normal_local(local: &str) -> impl Iterator<Item = char> {
    local.nfc().map(|c| c.to_ascii_lowercase()).nfc()
}

fn normal_domain(domain: &str) -> Option<String> {
    let ascii = idna::domain_to_ascii_strict(domain.strip_suffix('.').unwrap_or(domain)).ok()?;
    let labels_fit = ascii.split('.').all(|label| (1..=63).contains(&label.len()));
    (labels_fit && ascii.contains('.') && ascii.len() <= 253).then_some(ascii)
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email[redacted]")
    }
}

impl Drop for Email {
    fn drop(&mut self) {
        self.given.zeroize();
        self.normal.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> String {
        Email::parse(text).unwrap().expose_normal().to_owned()
    }

    #[test]
    fn one_mailbox_has_one_normal_form() {
        assert_eq!(normal(" Ada@Example.COM. "), "ada@example.com");
        assert_eq!(normal("ada@bücher.example.com"), "ada@xn--bcher-kva.example.com");
        assert_eq!(normal("ada@BÜCHER.example.com"), normal("ada@xn--bcher-kva.example.com"));
        assert_eq!(normal("e\u{301}a@example.com"), normal("\u{e9}a@example.com"));
        // There is a small t with a diaeresis, U+1E97, and no capital one.
        assert_eq!(normal("T\u{308}a@example.com"), normal("\u{1e97}a@example.com"));
    }

    proptest! {
        #[test]
        fn an_ascii_address_has_the_form_that_unicode_gives_it(local in "[!-~]{1,64}") {
            if let Ok(email) = Email::parse(&format!("{local}@example.com")) {
                let form: String = normal_local(&local).chain("@example.com".chars()).collect();
                prop_assert_eq!(email.expose_normal(), form);
            }
        }
    }

    #[test]
    fn different_mailboxes_stay_different() {
        assert_ne!(normal("a.da@example.com"), normal("ada@example.com"));
        assert_ne!(normal("ada+x@example.com"), normal("ada@example.com"));
        // U+0130 lower-cases to "i" with a dot above, U+212A (Kelvin) to "k"
        assert_ne!(normal("\u{130}da@example.com"), normal("ida@example.com"));
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        let cases = [
            ("", EmailError::Empty),
            ("   ", EmailError::Empty),
            ("ada", EmailError::Form),
            ("@example.com", EmailError::Form),
            ("ada@", EmailError::Form),
            ("a da@example.com", EmailError::Character),
            ("a\0da@example.com", EmailError::Character),
            ("\"ada\"@example.com", EmailError::Character),
            ("ada@eve@example.com", EmailError::Character),
            ("ada\u{202E}nomed@example.com", EmailError::Character),
            ("a\u{200B}da@example.com", EmailError::Character),
            ("ada@example", EmailError::Domain),
            ("ada@-example-.com", EmailError::Domain),
            ("ada@exa mple.com", EmailError::Domain),
            ("ada@..", EmailError::Domain),
        ];
        for (text, expected) in cases {
            assert_eq!(Email::parse(text).unwrap_err(), expected, "{text:?}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        assert_eq!(Email::parse(&long).unwrap_err(), EmailError::TooLong);
        let absurd = format!("a@{}com", "example.".repeat(100_000));
        assert_eq!(Email::parse(&absurd).unwrap_err(), EmailError::TooLong);
    }

    #[test]
    fn an_address_does_not_print_itself() {
        let email = Email::parse("ada@example.com").unwrap();
        assert_eq!(format!("{email:?}"), "Email[redacted]");
    }
}
