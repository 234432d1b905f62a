//! A license: its terms, its status, its seats; and who may use one.

use std::time::Duration;

use super::{
    Access, ActivationId, Email, Event, LicenseId, LicenseKey, PersonName, Position, Rejection,
    SigningKeyId, State, SubjectId, Timestamp,
};

/// What a license is for: 1 to 64 of ASCII letters, digits, space and `. _ + -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Product(String);

/// How many activations a license allows at once: 1 to 100,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seats(u32);

/// Why a product name or a number of seats is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// The product name.
    #[error("must be 1 to 64 ASCII letters, digits, spaces and . _ + -, with no space at an end")]
    Product,
    /// The number of seats.
    #[error("must be 1 to {}", Seats::MAX)]
    Seats,
}

impl Product {
    /// Reads a product name.
    pub fn parse(name: &str) -> Result<Self, TermsError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b" ._+-".contains(&b);
        if (1..=64).contains(&name.len()) && name.bytes().all(allowed) && name.trim() == name {
            Ok(Self(name.to_owned()))
        } else {
            Err(TermsError::Product)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Seats {
    /// The most that a license can have.
    pub const MAX: u32 = 100_000;

    /// Reads a number of seats.
    pub fn new(seats: u32) -> Result<Self, TermsError> {
        if (1..=Self::MAX).contains(&seats) { Ok(Self(seats)) } else { Err(TermsError::Seats) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What a license grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// For what.
    pub product: Product,
    /// How often at once.
    pub seats: Seats,
    /// No activation from here on. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// The end of the maintenance window, for the app to judge. `None`: all versions are covered.
    pub updates_until: Option<Timestamp>,
}

/// Whether a license may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Active,
    /// Not until reinstated.
    Suspended,
    /// Never again.
    Revoked,
}

/// What the rules need to know of a license.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// Whose it is.
    pub subject: SubjectId,
    /// What it grants.
    pub terms: Terms,
    /// Whether it may be used.
    pub status: Status,
    /// Seats in use.
    pub used: u32,
    /// Where it was issued.
    pub issued: Position,
}

/// What can be asked of a license.
#[derive(Debug, Clone)]
pub enum LicenseCommand {
    /// Issue it.
    Issue(Issue),
    /// Take a seat, or find it taken by this very activation.
    Activate {
        /// The activation.
        activation: ActivationId,
        /// The key that will sign the receipt.
        signing_key: SigningKeyId,
        /// How long the receipt is good for. `None`: for ever.
        lease: Option<Duration>,
    },
    /// Free the seat that this activation holds.
    Deactivate {
        /// The activation.
        activation: ActivationId,
        /// The member of staff who frees it; `None`: the app that holds it.
        by: Option<Access>,
    },
    /// Refuse activations until reinstated.
    Suspend(Access),
    /// Lift a suspension.
    Reinstate(Access),
    /// End it for good.
    Revoke(Access),
}

/// A license to be issued.
#[derive(Debug, Clone)]
pub struct Issue {
    /// To whom; they are registered if they are not known yet.
    pub subject: SubjectId,
    /// Their address.
    pub email: Email,
    /// Their name, for those whose name is not known yet.
    pub name: Option<PersonName>,
    /// The key it gets.
    pub key: LicenseKey,
    /// What it grants.
    pub terms: Terms,
    /// Who issues it.
    pub by: Access,
}

impl License {
    /// Whether activations are refused now, and why.
    pub fn stands(&self, now: Timestamp) -> Result<(), Rejection> {
        self.not_withdrawn()?;
        match self.terms.expires_at {
            Some(end) if end <= now => Err(Rejection::LicenseExpired),
            _ => Ok(()),
        }
    }

    fn not_withdrawn(&self) -> Result<(), Rejection> {
        match self.status {
            Status::Active => Ok(()),
            Status::Suspended => Err(Rejection::LicenseSuspended),
            Status::Revoked => Err(Rejection::LicenseRevoked),
        }
    }

    /// The change to another status, if it is one. A revoked license stays revoked.
    fn change(
        &self,
        to: Status,
        change: Event,
        by: &Access,
        now: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        if self.status == Status::Revoked && to != Status::Revoked {
            return Err(Rejection::LicenseRevoked);
        }
        let change = (self.status != to).then_some(change);
        Ok(change.into_iter().chain([self.access(by, now)]).collect())
    }

    fn access(&self, by: &Access, now: Timestamp) -> Event {
        Event::AccessRecorded { subject: self.subject, access: by.clone(), at: now }
    }

    /// The end of a receipt that is leased now: never after the license's own.
    pub fn lease_until(&self, now: Timestamp, lease: Duration) -> Timestamp {
        let end = now.plus(lease);
        self.terms.expires_at.map_or(end, |expiry| expiry.min(end))
    }
}

pub(super) fn decide(
    state: &State,
    id: LicenseId,
    command: &LicenseCommand,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let license = || state.licenses.get(&id).ok_or(Rejection::LicenseNotFound);
    match command {
        LicenseCommand::Issue(issue) => decide_issue(state, id, issue, now),
        LicenseCommand::Activate { activation, signing_key, lease } => {
            let license = license()?;
            if !takes_a_seat(state, id, license, *activation, now)? {
                return Ok(Vec::new());
            }
            let lease_until = lease.map(|lease| license.lease_until(now, lease));
            let (activation, signing_key) = (*activation, *signing_key);
            Ok(vec![Event::Activated {
                license: id,
                activation,
                signing_key,
                lease_until,
                at: now,
            }])
        }
        LicenseCommand::Deactivate { activation, by } => {
            let license = license()?;
            let known = state.activations.get(activation).filter(|known| known.license == id);
            let holds_seat = known.ok_or(Rejection::ActivationNotFound)?.ended.is_none();
            let (activation, by_staff) = (*activation, by.is_some());
            let end = Event::Deactivated { license: id, activation, by_staff, at: now };
            let access = by.as_ref().map(|by| license.access(by, now));
            Ok(holds_seat.then_some(end).into_iter().chain(access).collect())
        }
        LicenseCommand::Suspend(by) => {
            let suspended = Event::LicenseSuspended { license: id, at: now };
            license()?.change(Status::Suspended, suspended, by, now)
        }
        LicenseCommand::Reinstate(by) => {
            let reinstated = Event::LicenseReinstated { license: id, at: now };
            license()?.change(Status::Active, reinstated, by, now)
        }
        LicenseCommand::Revoke(by) => {
            let revoked = Event::LicenseRevoked { license: id, at: now };
            license()?.change(Status::Revoked, revoked, by, now)
        }
    }
}

/// Issues the license, and registers the person where this is their first. The same license with
/// the same terms again is a retry.
fn decide_issue(
    state: &State,
    id: LicenseId,
    issue: &Issue,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let Issue { subject, email, name, key, terms, by } = issue.clone();
    let access = Event::AccessRecorded { subject, access: by, at: now };
    if let Some(license) = state.licenses.get(&id) {
        let is_retry = license.subject == subject && license.terms == terms;
        return if is_retry { Ok(vec![access]) } else { Err(Rejection::NonceReused) };
    }
    let known = state.subjects.get(&subject);
    let registered = Event::SubjectRegistered { subject, email, at: now };
    let registered = known.is_none().then_some(registered);
    let name = name.filter(|_| known.is_none_or(|known| known.name.is_none()));
    let name = name.map(|name| Event::NameRecorded { subject, name, at: now });
    let issued = Event::LicenseIssued { license: id, subject, key, terms, at: now };
    Ok(registered.into_iter().chain(name).chain([issued, access]).collect())
}

/// Whether this activation takes a seat of its own; if not, it already holds one.
fn takes_a_seat(
    state: &State,
    id: LicenseId,
    license: &License,
    activation: ActivationId,
    now: Timestamp,
) -> Result<bool, Rejection> {
    let known = state.activations.get(&activation);
    if known.is_some_and(|known| known.license != id) {
        return Err(Rejection::NonceReused);
    }
    license.not_withdrawn()?;
    if let Some(known) = known {
        return if known.ended.is_some() { Err(Rejection::ActivationEnded) } else { Ok(false) };
    }
    license.stands(now)?;
    let (seats, used) = (license.terms.seats, license.used);
    if used >= seats.get() { Err(Rejection::SeatsExhausted { seats, used }) } else { Ok(true) }
}
