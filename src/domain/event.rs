//! What happened. An event, once appended, is a fact: it is never changed, and never refused.

use super::{
    Access, ActivationId, ActorTag, Category, Day, Email, ErasureId, LicenseId, LicenseKey, Notice,
    NoticeId, NoticeOutcome, PersonName, Product, RecipientName, RequestId, RequestKind,
    RequestStep, RestrictionKind, SealedActor, SigningKeyId, SubjectId, Terms, Timestamp,
};

/// The place of an event in the log: 0-based, gapless, global.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The first one.
    pub const ZERO: Self = Self(0);

    /// The place `n` further on. No log comes to the last place there is; a file that says so is
    /// damaged, and must not look as if it began at the first.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An event of a license, of a subject, or of the keys.
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
    /// This is the person's address from here on.
    EmailRecorded {
        /// Whose.
        subject: SubjectId,
        /// The address.
        email: Email,
        /// When.
        at: Timestamp,
    },
    /// This is the person's name from here on.
    NameRecorded {
        /// Whose.
        subject: SubjectId,
        /// The name.
        name: PersonName,
        /// When.
        at: Timestamp,
    },
    /// What a person's data may be used for was narrowed, or is not any more.
    RestrictionChanged {
        /// Whose.
        subject: SubjectId,
        /// How.
        kind: RestrictionKind,
        /// Whether it holds from here on.
        holds: bool,
        /// When.
        at: Timestamp,
    },
    /// A person asked for something about their data.
    RequestOpened {
        /// Which request.
        request: RequestId,
        /// Whose.
        subject: SubjectId,
        /// For what.
        kind: RequestKind,
        /// When it came in.
        received_at: Timestamp,
        /// Who opened it.
        by: ActorTag,
        /// Nobody is known by the address that it came with, and the address is not stored.
        is_unknown: bool,
        /// When.
        at: Timestamp,
    },
    /// A request went on.
    RequestStepped {
        /// Which.
        request: RequestId,
        /// Whose.
        subject: SubjectId,
        /// How.
        step: RequestStep,
        /// Who took the step.
        by: ActorTag,
        /// When.
        at: Timestamp,
    },
    /// Keys of a person are about to be destroyed.
    ErasureBegun {
        /// Which erasure.
        erasure: ErasureId,
        /// Whose.
        subject: SubjectId,
        /// Why.
        reason: ErasureReason,
        /// By whose word.
        authority: Authority,
        /// When.
        at: Timestamp,
    },
    /// The keys are destroyed, and with them what they sealed.
    DataErased {
        /// Which erasure.
        erasure: ErasureId,
        /// Whose.
        subject: SubjectId,
        /// Why.
        reason: ErasureReason,
        /// How many records of which event type.
        records: Vec<(u8, u64)>,
        /// The vault's epoch then: copies of the vault open until the next.
        epoch: u32,
        /// When.
        at: Timestamp,
    },
    /// The vault has another master key, so that all copies of what was erased are of no use.
    EpochMoved {
        /// The new epoch.
        epoch: u32,
        /// When.
        at: Timestamp,
    },
    /// A license that outlives the data of its person. It belongs to nobody known.
    LicenseKept {
        /// Which.
        license: LicenseId,
        /// A fresh id.
        subject: SubjectId,
        /// Its key.
        key: LicenseKey,
        /// What it grants.
        terms: Terms,
        /// Whether it is suspended.
        suspended: bool,
        /// When.
        at: Timestamp,
    },
    /// A seat that was in use when its license was kept.
    ActivationKept {
        /// Of which license.
        license: LicenseId,
        /// By which activation.
        activation: ActivationId,
        /// The key that signs the receipt.
        signing_key: SigningKeyId,
        /// The end of the receipt, where the product has a lease.
        lease_until: Option<Timestamp>,
        /// When the license was kept, not when the seat was taken.
        at: Timestamp,
    },
    /// A recipient got data of a person.
    Disclosed {
        /// Whose.
        subject: SubjectId,
        /// Who got it, as the policy names them.
        recipient: RecipientName,
        /// What.
        categories: Vec<Category>,
        /// When.
        at: Timestamp,
    },
    /// A recipient is to be told that a person's data was put right or erased.
    NoticeCreated {
        /// What they are to be told.
        notice: Notice,
        /// When.
        at: Timestamp,
    },
    /// A notice has come to its end.
    NoticeSettled {
        /// Which.
        notice: NoticeId,
        /// Whose it was.
        subject: SubjectId,
        /// Where it was created.
        created: Position,
        /// How.
        outcome: NoticeOutcome,
        /// When.
        at: Timestamp,
    },
    /// A recipient was told that a person's data was put right.
    RecipientTold {
        /// Whose.
        subject: SubjectId,
        /// Who was told.
        recipient: RecipientName,
        /// How.
        outcome: NoticeOutcome,
        /// When.
        at: Timestamp,
    },
    /// How much happened on a day, since it was last counted for that day.
    DayClosed {
        /// Which.
        day: Day,
        /// What, by product.
        counts: Vec<(Product, Counts)>,
        /// When.
        at: Timestamp,
    },
}

/// How much happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Licenses issued.
    pub licenses: u32,
    /// Seats taken.
    pub activations: u32,
    /// To how many persons the licenses were issued; at most [`Counts::PERSONS_APART`].
    pub license_persons: u32,
    /// Of how many persons the licenses are that the seats were taken of; at most as many.
    pub activation_persons: u32,
}

impl Counts {
    /// How many persons of a day and a product are told apart. With more a count is of a group that is
    /// large enough for any policy, and nothing more needs to be remembered.
    pub const PERSONS_APART: u32 = 100;
}

/// By whose word data is erased. It outlives the request, which is erased with the person.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authority {
    /// Who opened the request, sealed for two keys.
    pub opened_by: Option<SealedActor>,
    /// A second member of staff approved it.
    pub approved: bool,
    /// Who did, sealed for two keys.
    pub approved_by: Option<SealedActor>,
    /// Who carried it out, sealed for two keys.
    pub carried_out_by: Option<SealedActor>,
    /// The licenses live on, with nobody known.
    pub keeps_licenses: bool,
}

/// Why data is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureReason {
    /// The person asked for it: all of theirs.
    Request,
    /// An address or a name was put right: the one before.
    Rectification,
    /// It was kept for as long as the policy says.
    Retention,
}

impl ErasureReason {
    /// Its name in certificates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Rectification => "rectification",
            Self::Retention => "retention",
        }
    }
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
            | Self::AccessRecorded { at, .. }
            | Self::EmailRecorded { at, .. }
            | Self::NameRecorded { at, .. }
            | Self::RestrictionChanged { at, .. }
            | Self::RequestOpened { at, .. }
            | Self::RequestStepped { at, .. }
            | Self::ErasureBegun { at, .. }
            | Self::DataErased { at, .. }
            | Self::EpochMoved { at, .. }
            | Self::LicenseKept { at, .. }
            | Self::ActivationKept { at, .. }
            | Self::Disclosed { at, .. }
            | Self::NoticeCreated { at, .. }
            | Self::NoticeSettled { at, .. }
            | Self::RecipientTold { at, .. }
            | Self::DayClosed { at, .. } => *at,
        }
    }
}
