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
    /// The address is another person's.
    #[error("this e-mail address belongs to another person; ask them both")]
    EmailTaken,
    /// The person's data may be used for few purposes only.
    #[error("the person's data is under restriction; lift it first, if it may be")]
    Restricted,
    /// Nothing of the person's may be erased.
    #[error("the person's data is under a legal hold; lift it first, if it may be")]
    LegalHold,
    /// No such request.
    #[error("no such request; `privacy request list` shows those that are open")]
    RequestNotFound,
    /// It was fulfilled or refused already.
    #[error("the request is closed: it was fulfilled or refused already")]
    RequestClosed,
    /// What was called is for requests of another kind.
    #[error("the request asks for something else; use the call for what it asks for")]
    RequestOfOtherKind,
    /// A request cannot have come in later than now.
    #[error("the request cannot have come in later than now")]
    ReceivedInFuture,
    /// Who asks has not shown to be the person.
    #[error("the person's identity is not verified yet; verify it with a code or a receipt")]
    IdentityNotVerified,
    /// The code is not the one that was issued last, or it is used up.
    #[error("the code is wrong or used up; issue another one")]
    WrongCode,
    /// The receipt is not the person's.
    #[error("the receipt is not of a license of this person")]
    ForeignReceipt,
    /// It takes a second member of staff.
    #[error("a second member of staff must approve the request first")]
    ApprovalMissing,
    /// Who opened a request cannot approve it.
    #[error("whoever opened the request cannot approve it; ask another member of staff")]
    SecondActorNeeded,
    /// It was extended once.
    #[error("the request was extended already; it can be extended once")]
    RequestExtendedAlready,
    /// An extension must be told within the first month.
    #[error("the first month is over, and an extension must be announced within it")]
    ExtensionTooLate,
    /// The data was not exported for the request.
    #[error("the data was not exported for this request yet; export it first")]
    NotExported,
    /// The policy does not let names be stored.
    #[error("the policy does not let names be stored")]
    NamesOff,
    /// No such erasure.
    #[error("no such erasure")]
    ErasureNotFound,
    /// No such notice, or it has come to its end.
    #[error("no such notice; it may have been settled already")]
    NoticeNotFound,
    /// The policy does not let them have such data.
    #[error("the policy does not let this recipient have such data")]
    RecipientMayNotHave,
    /// The policy names no such recipient.
    #[error("the policy names no such recipient; `countersign policy show` lists them")]
    RecipientUnknown,
    /// The vault could not be prepared for a new master key.
    #[error("the vault cannot move to a new master key now; its operator has been told")]
    EpochNotMoved,
    /// What it would record is longer than a record.
    #[error("this is more than one record can hold; send less at once")]
    TooLong,
    /// The master key is not the server's to replace.
    #[error("the master key is a credential of the system; the operator must replace it")]
    MasterKeyFixed,
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
            Self::EmailTaken => "EMAIL_TAKEN",
            Self::Restricted => "RESTRICTED",
            Self::LegalHold => "LEGAL_HOLD",
            Self::RequestNotFound => "REQUEST_NOT_FOUND",
            Self::RequestClosed => "REQUEST_CLOSED",
            Self::RequestOfOtherKind => "REQUEST_OF_OTHER_KIND",
            Self::ReceivedInFuture => "RECEIVED_IN_FUTURE",
            Self::IdentityNotVerified => "IDENTITY_NOT_VERIFIED",
            Self::WrongCode => "WRONG_CODE",
            Self::ForeignReceipt => "FOREIGN_RECEIPT",
            Self::ApprovalMissing => "APPROVAL_MISSING",
            Self::SecondActorNeeded => "SECOND_ACTOR_NEEDED",
            Self::RequestExtendedAlready => "REQUEST_EXTENDED_ALREADY",
            Self::ExtensionTooLate => "EXTENSION_TOO_LATE",
            Self::NotExported => "NOT_EXPORTED",
            Self::NamesOff => "NAMES_OFF",
            Self::ErasureNotFound => "ERASURE_NOT_FOUND",
            Self::NoticeNotFound => "NOTICE_NOT_FOUND",
            Self::RecipientMayNotHave => "RECIPIENT_MAY_NOT_HAVE",
            Self::RecipientUnknown => "RECIPIENT_UNKNOWN",
            Self::EpochNotMoved => "EPOCH_NOT_MOVED",
            Self::TooLong => "TOO_LONG",
            Self::MasterKeyFixed => "MASTER_KEY_FIXED",
        }
    }
}
