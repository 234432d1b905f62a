//! What a person asks for about their data, and how it is answered: opened, verified, approved by a
//! second member of staff where the policy says so, and fulfilled or refused, in time.

use super::{Access, ActorTag, Event, Note, Position, Rejection, RequestId, SubjectId, Timestamp};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// GDPR Art. 15, Swiss FADP Art. 25.
    Access,
    /// GDPR Art. 16, Swiss FADP Art. 32.
    Rectification,
    /// GDPR Art. 17, Swiss FADP Art. 32.
    Erasure,
    /// GDPR Art. 18.
    Restriction,
    /// GDPR Art. 21, Swiss FADP Art. 30.
    Objection,
    /// GDPR Art. 20, Swiss FADP Art. 28.
    Portability,
}

impl RequestKind {
    /// Its name in exports and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Rectification => "rectification",
            Self::Erasure => "erasure",
            Self::Restriction => "restriction",
            Self::Objection => "objection",
            Self::Portability => "portability",
        }
    }

    /// Whether the person gets what is held about them.
    pub const fn is_answered_by_an_export(self) -> bool {
        matches!(self, Self::Access | Self::Portability)
    }
}

/// What the rules need to know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrivacyRequest {
    /// Whose.
    pub subject: SubjectId,
    /// For what.
    pub kind: RequestKind,
    /// When it came in.
    pub received_at: Timestamp,
    /// Who opened it.
    pub opened_by: ActorTag,
    /// Where it was opened.
    pub opened: Position,
    /// Nobody was known by the address that it came with.
    pub is_unknown: bool,
    /// How far it has come.
    pub progress: Progress,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a step of its own, in any order
pub struct Progress {
    /// The person is who they say.
    pub verified: bool,
    /// A second member of staff agrees.
    pub approved: bool,
    /// It takes longer, and the person was told.
    pub extended: bool,
    /// The data was exported for it.
    pub exported: bool,
    /// It was refused.
    pub refused: bool,
    /// It was fulfilled.
    pub fulfilled: bool,
}

impl Progress {
    /// Whether nothing more can happen to it.
    pub const fn is_closed(self) -> bool {
        self.refused || self.fulfilled
    }

    /// As it is after a step.
    pub fn step(&mut self, step: &RequestStep) {
        match step {
            RequestStep::VerifiedByCode | RequestStep::VerifiedByReceipt => self.verified = true,
            RequestStep::Extended { .. } => self.extended = true,
            RequestStep::Approved => self.approved = true,
            RequestStep::Exported => self.exported = true,
            RequestStep::Refused { .. } => self.refused = true,
            RequestStep::Fulfilled => self.fulfilled = true,
        }
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestStep {
    /// The person knew a code that was sent to the stored address.
    VerifiedByCode,
    /// The person has a receipt of theirs.
    VerifiedByReceipt,
    /// It takes longer.
    Extended {
        /// Why, as the person was told.
        reason: Note,
    },
    /// A second member of staff agrees.
    Approved,
    /// All of the export was handed over.
    Exported,
    /// It is not fulfilled.
    Refused {
        /// Why, as the person was told.
        reason: Note,
        /// What shows that it is so.
        evidence: Note,
    },
    /// It is fulfilled.
    Fulfilled,
}

impl RequestStep {
    /// Whether nothing can follow it.
    pub const fn closes(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Fulfilled)
    }
}

/// A member of staff, and by what they are told from another.
#[derive(Debug, Clone)]
pub struct By {
    /// Who, as what, why, how.
    pub access: Access,
    /// The same for the same member of staff.
    pub tag: ActorTag,
}

/// GDPR Art. 12(3): a month.
const GDPR_MONTHS: u8 = 1;
/// GDPR Art. 12(3): two further months, told within the first.
const GDPR_FURTHER_MONTHS: u8 = 2;
/// Swiss DPO Art. 18(1): 30 days.
const SWISS_DAYS: u64 = 30;

/// When a request that came in then must be answered (GDPR Art. 12(3)).
pub fn gdpr_due(received_at: Timestamp, extended: bool) -> Timestamp {
    let further = if extended { GDPR_FURTHER_MONTHS } else { 0 };
    received_at.plus_months(GDPR_MONTHS + further)
}

/// When a request that came in then must be answered, or the person told when it will be (Swiss DPO
/// Art. 18).
pub fn swiss_due(received_at: Timestamp) -> Timestamp {
    received_at.plus(std::time::Duration::from_secs(SWISS_DAYS * 24 * 60 * 60))
}

impl PrivacyRequest {
    /// When it must be answered (GDPR Art. 12(3)).
    pub fn gdpr_due(&self) -> Timestamp {
        gdpr_due(self.received_at, self.progress.extended)
    }

    /// When it must be answered, or the person told when it will be (Swiss DPO Art. 18).
    pub fn swiss_due(&self) -> Timestamp {
        swiss_due(self.received_at)
    }

    /// Whether what it asks for may be done.
    pub fn may_be_fulfilled(&self, needs_approval: bool) -> Result<(), Rejection> {
        if self.progress.is_closed() {
            return Err(Rejection::RequestClosed);
        }
        if self.is_unknown {
            // That nothing is held is an answer, and nobody's data is at risk. Nothing else can be done.
            if !self.kind.is_answered_by_an_export() {
                return Err(Rejection::SubjectNotFound);
            }
        } else if !self.progress.verified {
            return Err(Rejection::IdentityNotVerified);
        }
        if needs_approval && !self.progress.approved {
            return Err(Rejection::ApprovalMissing);
        }
        Ok(())
    }

    /// Whether a step may be taken now. `Ok(false)`: it was taken already.
    fn may_step(
        &self,
        step: &RequestStep,
        by: ActorTag,
        now: Timestamp,
    ) -> Result<bool, Rejection> {
        if self.progress.is_closed() {
            return Err(Rejection::RequestClosed);
        }
        match step {
            RequestStep::VerifiedByCode | RequestStep::VerifiedByReceipt => {
                Ok(!self.progress.verified)
            }
            RequestStep::Extended { .. } if self.progress.extended => {
                Err(Rejection::RequestExtendedAlready)
            }
            RequestStep::Extended { .. } if now > self.gdpr_due() => {
                Err(Rejection::ExtensionTooLate)
            }
            RequestStep::Approved if by == self.opened_by => Err(Rejection::SecondActorNeeded),
            RequestStep::Approved => Ok(!self.progress.approved),
            RequestStep::Exported => Ok(!self.progress.exported),
            RequestStep::Extended { .. } | RequestStep::Refused { .. } | RequestStep::Fulfilled => {
                Ok(true)
            }
        }
    }

    /// What a step leads to, the record of who took it aside.
    pub(super) fn decide(
        &self,
        id: RequestId,
        step: &RequestStep,
        by: ActorTag,
        now: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        if !self.may_step(step, by, now)? {
            return Ok(Vec::new());
        }
        let mut events = vec![self.stepped(id, step.clone(), by, now)];
        if *step == RequestStep::Fulfilled {
            self.may_be_fulfilled(false)?;
            match self.kind {
                RequestKind::Access | RequestKind::Portability if !self.progress.exported => {
                    return Err(Rejection::NotExported);
                }
                RequestKind::Access | RequestKind::Portability => {}
                RequestKind::Rectification | RequestKind::Erasure => {
                    return Err(Rejection::RequestOfOtherKind);
                }
                RequestKind::Restriction | RequestKind::Objection => {
                    events.insert(
                        0,
                        Event::RestrictionChanged {
                            subject: self.subject,
                            kind: RestrictionKind::Restriction,
                            holds: true,
                            at: now,
                        },
                    );
                }
            }
        }
        Ok(events)
    }

    pub(super) fn stepped(
        &self,
        request: RequestId,
        step: RequestStep,
        by: ActorTag,
        at: Timestamp,
    ) -> Event {
        Event::RequestStepped { request, subject: self.subject, step, by, at }
    }
}

/// What narrows the use of a person's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestrictionKind {
    /// The person asked for it.
    Restriction,
    /// The law asks that nothing is erased.
    LegalHold,
}

impl RestrictionKind {
    /// Its name in exports and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restriction => "restriction",
            Self::LegalHold => "legal_hold",
        }
    }
}
