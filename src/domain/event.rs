//! What happened. An event, once appended, is a fact: it is never changed, and never refused.

use super::{
    Access, ActivationId, Email, LicenseId, LicenseKey, SigningKeyId, SubjectId, Terms, Timestamp,
};

/// The place of an event in the log: 0-based, gapless, global.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The first one.
    pub const ZERO: Self = Self(0);

    /// The place `n` further on.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An event of a license or of a subject.
#[derive(Debug, Clone)]
pub enum Event {
    /// A person became known, by the first license issued to them.
    SubjectRegistered {
        /// Who.
        subject: SubjectId,
        /// Their address.
        email: Email,
        /// When.
        at: Timestamp,
    },
    /// A license was issued.
    LicenseIssued {
        /// Which.
        license: LicenseId,
        /// To whom.
        subject: SubjectId,
        /// Its key.
        key: LicenseKey,
        /// What it grants.
        terms: Terms,
        /// When.
        at: Timestamp,
    },
    /// A seat was taken.
    Activated {
        /// Of which license.
        license: LicenseId,
        /// By which activation.
        activation: ActivationId,
        /// The key that signs the receipt.
        signing_key: SigningKeyId,
        /// The end of the receipt, where the product has a lease.
        lease_until: Option<Timestamp>,
        /// When.
        at: Timestamp,
    },
    /// A seat was freed.
    Deactivated {
        /// Of which license.
        license: LicenseId,
        /// By the end of which activation.
        activation: ActivationId,
        /// By staff, and not by the app that held the seat.
        by_staff: bool,
        /// When.
        at: Timestamp,
    },
    /// A license was suspended.
    LicenseSuspended {
        /// Which.
        license: LicenseId,
        /// When.
        at: Timestamp,
    },
    /// A suspension was lifted.
    LicenseReinstated {
        /// Which.
        license: LicenseId,
        /// When.
        at: Timestamp,
    },
    /// A license ended for good.
    LicenseRevoked {
        /// Which.
        license: LicenseId,
        /// When.
        at: Timestamp,
    },
    /// Staff read or changed a person's data.
    AccessRecorded {
        /// Whose.
        subject: SubjectId,
        /// Who, as what, why, how.
        access: Access,
        /// When.
        at: Timestamp,
    },
}

impl Event {
    /// When it happened.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::SubjectRegistered { at, .. }
            | Self::LicenseIssued { at, .. }
            | Self::Activated { at, .. }
            | Self::Deactivated { at, .. }
            | Self::LicenseSuspended { at, .. }
            | Self::LicenseReinstated { at, .. }
            | Self::LicenseRevoked { at, .. }
            | Self::AccessRecorded { at, .. } => *at,
        }
    }
}
