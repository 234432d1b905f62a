//! Why a command is refused. Each has a stable reason that the wire shows and apps act on.

use super::Seats;

/// A command that the rules refuse. Nothing has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such license; also what a wrong e-mail address or a wrong key is told.
    #[error("no license matches; check the e-mail address and the license key")]
    LicenseNotFound,
    /// Every seat is in use.
    #[error("all {used} of {} seats are in use; deactivate another device first", seats.get())]
    SeatsExhausted {
        /// How many there are.
        seats: Seats,
        /// How many are in use.
        used: u32,
    },
    /// The license is suspended.
    #[error("the license is suspended; contact the vendor")]
    LicenseSuspended,
    /// The license is revoked.
    #[error("the license is revoked; contact the vendor")]
    LicenseRevoked,
    /// The license has expired.
    #[error("the license has expired; renew it with the vendor")]
    LicenseExpired,
    /// This activation has ended; its nonce is used up.
    #[error("this activation has ended; pick a fresh nonce to activate again")]
    ActivationEnded,
    /// This nonce already stands for something else.
    #[error("this nonce already stands for something else; pick a fresh one")]
    NonceReused,
    /// No such activation.
    #[error("no such activation")]
    ActivationNotFound,
    /// No such person.
    #[error("no data is held about this person")]
    SubjectNotFound,
}

impl Rejection {
    /// The stable name of the reason, for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::LicenseNotFound => "LICENSE_NOT_FOUND",
            Self::SeatsExhausted { .. } => "SEATS_EXHAUSTED",
            Self::LicenseSuspended => "LICENSE_SUSPENDED",
            Self::LicenseRevoked => "LICENSE_REVOKED",
            Self::LicenseExpired => "LICENSE_EXPIRED",
            Self::ActivationEnded => "ACTIVATION_ENDED",
            Self::NonceReused => "NONCE_REUSED",
            Self::ActivationNotFound => "ACTIVATION_NOT_FOUND",
            Self::SubjectNotFound => "SUBJECT_NOT_FOUND",
        }
    }
}
