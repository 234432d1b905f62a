//! Ids, and the two values a client makes its activation id from.
//!
//! The ids are random, or hashes of what is random; none is derived from personal data. Yet each
//! stands for one person's something, so none prints itself.

use std::fmt;

use sha2::{Digest, Sha256};

/// A byte string had another length than its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be {expected} bytes long, not {actual}")]
pub struct WrongLength {
    /// The length it must have.
    pub expected: usize,
    /// The length it has.
    pub actual: usize,
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Takes the bytes as they are.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = WrongLength;

            fn try_from(bytes: &[u8]) -> Result<Self, WrongLength> {
                let wrong = WrongLength { expected: $length, actual: bytes.len() };
                bytes.try_into().map(Self).map_err(|_| wrong)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "[redacted]"))
            }
        }
    };
}

bytes_type!(
    /// A person. Random.
    SubjectId, 16
);
bytes_type!(
    /// A license. Random, or the hash of a nonce that the issuer picked.
    LicenseId, 16
);
bytes_type!(
    /// One use of a seat.
    ActivationId, 16
);
bytes_type!(
    /// What a client picks once for an activation or a license, and repeats on retry.
    Nonce, 16
);
bytes_type!(
    /// The JWK thumbprint (RFC 7638) of an app's key pair: it goes into the receipt and is forgotten.
    Binding, 32
);
bytes_type!(
    /// What a person asked for about their data. Random.
    RequestId, 16
);
bytes_type!(
    /// An erasure. Random, and all that is told of it.
    ErasureId, 16
);
bytes_type!(
    /// Something that a recipient of data is to be told. Random.
    NoticeId, 16
);
bytes_type!(
    /// Tells one member of staff from another: a keyed hash of the name.
    ActorTag, 16
);
bytes_type!(
    /// The JWK thumbprint (RFC 7638) of a receipt signing key.
    SigningKeyId, 32
);

impl ActivationId {
    /// The activation that this nonce and binding stand for: the same for every retry, another one
    /// for the same nonce on another device.
    pub fn derive(nonce: &Nonce, binding: &Binding) -> Self {
        Self(truncated_hash(b"countersign/activation/v1", &[nonce.as_bytes(), binding.as_bytes()]))
    }
}

impl SubjectId {
    /// Who is looked for and not found: staff look at data of theirs too.
    pub const NOBODY: Self = Self([0; 16]);

    /// The id after this one; `None` after the last.
    pub fn next(&self) -> Option<Self> {
        Some(Self(u128::from_be_bytes(self.0).checked_add(1)?.to_be_bytes()))
    }
}

impl LicenseId {
    /// The license that this nonce stands for: the same for every retry.
    pub fn derive(nonce: &Nonce) -> Self {
        Self(truncated_hash(b"countersign/license/v1", &[nonce.as_bytes()]))
    }
}

fn truncated_hash(label: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(label);
    for part in parts {
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// A moment: milliseconds since the Unix epoch, UTC, from 0001-01-01 to 9999-12-30.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    /// 9999-12-30T22:00:00Z. jiff's own end is just below a second later, and is not read back from
    /// the milliseconds that it is stored in.
    const LAST: Self = Self(jiff::Timestamp::constant(253_402_207_200, 0));

    /// `None` where the moment lies outside the years 1 to 9999.
    pub fn from_millis(millis: i64) -> Option<Self> {
        let moment = jiff::Timestamp::from_millisecond(millis).ok()?;
        (1..=9999).contains(&utc_year(moment)).then_some(Self(moment))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Seconds since the Unix epoch, rounded down.
    pub fn as_seconds(self) -> i64 {
        self.0.as_millisecond().div_euclid(1000)
    }

    /// The calendar year, UTC.
    pub fn year(self) -> u16 {
        utc_year(self.0).unsigned_abs()
    }

    /// This moment and a while later; the end of time where that lies beyond it.
    #[must_use]
    pub fn plus(self, while_: std::time::Duration) -> Self {
        i64::try_from(while_.as_millis())
            .ok()
            .and_then(|millis| self.as_millis().checked_add(millis))
            .and_then(Self::from_millis)
            .unwrap_or(Self::LAST)
    }
}

impl Timestamp {
    /// The first moment of a year, UTC; the end of time where that lies beyond it.
    pub fn start_of_year(year: u16) -> Self {
        let year = i16::try_from(year.max(1)).ok();
        let start = year.and_then(|year| jiff::civil::Date::new(year, 1, 1).ok());
        let start =
            start.and_then(|date| jiff::tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok());
        start.map_or(Self::LAST, Self)
    }

    /// The first moment of the next year, UTC.
    #[must_use]
    pub fn end_of_year(self) -> Self {
        Self::start_of_year(self.year().saturating_add(1))
    }

    /// The calendar day, UTC.
    pub fn day(self) -> Day {
        Day(i32::try_from(self.as_seconds().div_euclid(SECONDS_PER_DAY)).unwrap_or(i32::MAX))
    }

    /// This moment and some calendar months later (UTC): the same day, or the last one of a month that
    /// has no such day.
    #[must_use]
    pub fn plus_months(self, months: u8) -> Self {
        let moment = jiff::tz::Offset::UTC.to_datetime(self.0);
        let later = moment.checked_add(jiff::Span::new().months(months));
        let later = later.and_then(|later| jiff::tz::Offset::UTC.to_timestamp(later));
        later.map_or(Self::LAST, Self)
    }
}

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// A calendar day: days since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

impl Day {
    /// Reads a day such as `2026-01-31`.
    pub fn parse(text: &str) -> Option<Self> {
        let date: jiff::civil::Date = text.parse().ok()?;
        let start = jiff::tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?;
        Timestamp(start).day().into()
    }
}

/// ISO 8601.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = jiff::Timestamp::from_second(i64::from(self.0) * SECONDS_PER_DAY);
        let date = jiff::tz::Offset::UTC.to_datetime(start.unwrap_or(jiff::Timestamp::MAX)).date();
        date.fmt(f)
    }
}

fn utc_year(moment: jiff::Timestamp) -> i16 {
    jiff::tz::Offset::UTC.to_datetime(moment).year()
}

/// RFC 3339, UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_nonce_with_another_binding_is_another_activation() {
        let nonce = Nonce::from_bytes([1; 16]);
        let [a, b] =
            [[2; 32], [3; 32]].map(|b| ActivationId::derive(&nonce, &Binding::from_bytes(b)));
        assert!(a != b);
        assert!(a == ActivationId::derive(&nonce, &Binding::from_bytes([2; 32])));
    }

    #[test]
    fn an_activation_id_is_the_documented_hash() {
        // python3 -c "import hashlib; print(hashlib.sha256(b'countersign/activation/v1'
        //   + b'\x01'*16 + b'\x02'*32).hexdigest()[:32])"
        let id = ActivationId::derive(&Nonce::from_bytes([1; 16]), &Binding::from_bytes([2; 32]));
        assert_eq!(u128::from_be_bytes(*id.as_bytes()), KNOWN_ID);
    }

    const KNOWN_ID: u128 = 0x5757_5CC8_EAFA_5FCE_1624_3EC2_E3A3_2B1B;

    #[test]
    fn a_timestamp_knows_its_year() {
        let last = Timestamp::from_millis(1_798_761_599_999).unwrap();
        assert_eq!((last.year(), last.to_string().as_str()), (2026, "2026-12-31T23:59:59.999Z"));
        assert_eq!(last.plus(std::time::Duration::from_millis(1)).year(), 2027);
        assert!(Timestamp::from_millis(i64::MAX).is_none());
    }

    #[test]
    fn the_end_of_time_reads_back() {
        let late = Timestamp::start_of_year(9999);
        for end in [late.plus(std::time::Duration::MAX), late.plus_months(12), late.end_of_year()] {
            assert_eq!(Timestamp::from_millis(end.as_millis()), Some(end), "{end}");
        }
        assert_eq!(late.plus(std::time::Duration::MAX).to_string(), "9999-12-30T22:00:00Z");
        assert!(late.end_of_year() > late);
    }

    #[test]
    fn a_month_ends_on_the_same_day_or_the_months_last() {
        let plus = |text: &str, months| {
            let moment: jiff::Timestamp = text.parse().unwrap();
            Timestamp(moment).plus_months(months).to_string()
        };
        assert_eq!(plus("2026-11-24T10:00:00Z", 1), "2026-12-24T10:00:00Z");
        assert_eq!(plus("2027-01-31T10:00:00Z", 1), "2027-02-28T10:00:00Z");
        assert_eq!(plus("2026-11-30T10:00:00Z", 3), "2027-02-28T10:00:00Z");
    }

    #[test]
    fn ids_do_not_print_themselves() {
        assert_eq!(format!("{:?}", SubjectId::from_bytes([7; 16])), "SubjectId[redacted]");
    }
}
