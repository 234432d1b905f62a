//! A person: known by the first license issued to them. Each access to their data is recorded, and so
//! is what they ask for about it.

use super::request::{By, PrivacyRequest, RequestKind, RequestStep, RestrictionKind};
use super::{
    Access, ActivationId, ActorTag, Authority, Category, Email, ErasureId, ErasureReason, Event,
    LicenseId, LicenseKey, Notice, NoticeOutcome, PersonName, Position, RecipientName, Rejection,
    RequestId, SigningKeyId, State, SubjectId, Terms, Timestamp,
};

/// What the rules need to know of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subject {
    /// Where their address is. `None`: it is erased, or they are nobody known.
    pub email: Option<Position>,
    /// Where their name is.
    pub name: Option<Position>,
    /// Their data may be used for few purposes only.
    pub restricted: bool,
    /// Nothing of theirs may be erased.
    pub held: bool,
}

/// What can be asked of a person's record.
#[derive(Debug, Clone)]
pub enum SubjectCommand {
    /// Staff are about to read the person's data.
    RecordAccess(Access),
    /// A recipient got data of the person.
    Disclose {
        /// Who, as the policy names them.
        recipient: RecipientName,
        /// What.
        categories: Vec<Category>,
        /// When.
        at: Timestamp,
        /// Who says so.
        by: Access,
    },
    /// A recipient was told that the person's data was put right.
    Told {
        /// Who.
        recipient: RecipientName,
        /// How.
        outcome: NoticeOutcome,
    },
    /// The person asked for something about their data. One who is not known may ask too: under an id
    /// that is theirs from here on, and without an address.
    OpenRequest {
        /// A fresh id.
        request: RequestId,
        /// What for.
        kind: RequestKind,
        /// When it came in.
        received_at: Timestamp,
        /// Who opens it.
        by: By,
    },
    /// All of an export was handed over. The read itself is recorded already.
    Exported {
        /// The request that it answers.
        request: RequestId,
        /// Who exported.
        by: ActorTag,
    },
    /// A request goes on.
    Step {
        /// Which.
        request: RequestId,
        /// How.
        step: RequestStep,
        /// Who takes the step.
        by: By,
    },
    /// The address or the name is put right, and the request for it fulfilled.
    Rectify {
        /// The request.
        request: RequestId,
        /// A fresh id, for the erasure of what it was before.
        erasure: ErasureId,
        /// The right address.
        email: Option<Email>,
        /// The right name.
        name: Option<PersonName>,
        /// Whom to tell, and what.
        notices: Vec<Notice>,
        /// Who opened and who approved the request.
        authority: Authority,
        /// Who puts it right.
        by: By,
    },
    /// All of the person's data is erased, and the request for it fulfilled.
    Erase {
        /// The request.
        request: RequestId,
        /// A fresh id.
        erasure: ErasureId,
        /// Whether it takes a second member of staff.
        needs_approval: bool,
        /// The licenses that outlive the person's data, with fresh ids.
        keep: Vec<KeptLicense>,
        /// Whom to tell, and what.
        notices: Vec<Notice>,
        /// Who opened and who approved the request.
        authority: Authority,
        /// Who erases.
        by: By,
    },
    /// Data that was kept for long enough is erased.
    Expire {
        /// A fresh id.
        erasure: ErasureId,
        /// Whom to tell, and what.
        notices: Vec<Notice>,
    },
    /// The use of the person's data is narrowed, or not any more.
    Restrict {
        /// How.
        kind: RestrictionKind,
        /// Whether it holds from here on.
        holds: bool,
        /// Who says so.
        by: Access,
    },
}

/// A license that outlives its person's data.
#[derive(Debug, Clone)]
pub struct KeptLicense {
    /// A fresh id.
    pub license: LicenseId,
    /// A fresh id, of nobody known.
    pub subject: SubjectId,
    /// Its key, as before.
    pub key: LicenseKey,
    /// What it grants, as before.
    pub terms: Terms,
    /// Whether it is suspended, as before.
    pub suspended: bool,
    /// The seats in use.
    pub activations: Vec<KeptActivation>,
}

/// A seat in use of a license that outlives its person's data.
#[derive(Debug, Clone, Copy)]
pub struct KeptActivation {
    /// The activation.
    pub activation: ActivationId,
    /// The key that signs its receipt.
    pub signing_key: SigningKeyId,
    /// The end of its receipt.
    pub lease_until: Option<Timestamp>,
}

#[allow(clippy::too_many_lines)] // an arm for each command
pub(super) fn decide(
    state: &State,
    id: SubjectId,
    command: &SubjectCommand,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let accessed =
        |access: &Access| Event::AccessRecorded { subject: id, access: access.clone(), at: now };
    let begun = |erasure: &ErasureId, reason, authority| Event::ErasureBegun {
        erasure: *erasure,
        subject: id,
        reason,
        authority,
        at: now,
    };
    let authority = |open: &PrivacyRequest, authority: &Authority, by: &By| Authority {
        approved: open.progress.approved,
        carried_out_by: by.access.actor.sealed().cloned(),
        ..authority.clone()
    };
    let created = |notices: &[Notice]| -> Vec<Event> {
        let created = |notice: &Notice| Event::NoticeCreated { notice: notice.clone(), at: now };
        notices.iter().map(created).collect()
    };
    let known = state.subjects.get(&id);
    let subject = match (command, known) {
        (_, Some(known)) => *known,
        // Whoever asks need not be known, and neither whoever is looked for.
        (SubjectCommand::OpenRequest { .. }, None) => Subject::default(),
        (SubjectCommand::RecordAccess(_), None) if id == SubjectId::NOBODY => Subject::default(),
        (_, None) => return Err(Rejection::SubjectNotFound),
    };
    match command {
        SubjectCommand::RecordAccess(access) => Ok(vec![accessed(access)]),
        SubjectCommand::Disclose { recipient, categories, at, by } => {
            if *at > now {
                return Err(Rejection::ReceivedInFuture);
            }
            let (recipient, categories, at) = (recipient.clone(), categories.clone(), *at);
            let disclosed = Event::Disclosed { subject: id, recipient, categories, at };
            Ok(vec![disclosed, accessed(by)])
        }
        SubjectCommand::Told { recipient, outcome } => {
            let (recipient, outcome) = (recipient.clone(), *outcome);
            Ok(vec![Event::RecipientTold { subject: id, recipient, outcome, at: now }])
        }
        SubjectCommand::OpenRequest { request, kind, received_at, by } => {
            if *received_at > now {
                return Err(Rejection::ReceivedInFuture);
            }
            let opened = Event::RequestOpened {
                request: *request,
                subject: id,
                kind: *kind,
                received_at: *received_at,
                by: by.tag,
                is_unknown: known.is_none(),
                at: now,
            };
            Ok(vec![opened, accessed(&by.access)])
        }
        SubjectCommand::Exported { request, by } => {
            let open = of_subject(state, id, *request)?;
            open.decide(*request, &RequestStep::Exported, *by, now)
        }
        SubjectCommand::Step { request, step, by } => {
            let open = of_subject(state, id, *request)?;
            let mut events = open.decide(*request, step, by.tag, now)?;
            events.push(accessed(&by.access));
            Ok(events)
        }
        SubjectCommand::Rectify { request, erasure, email, name, notices, authority: of, by } => {
            let open = of_kind(state, id, *request, RequestKind::Rectification)?;
            open.may_be_fulfilled(false)?;
            // What is replaced is erased.
            if subject.held {
                return Err(Rejection::LegalHold);
            }
            let mut events = created(notices);
            if let Some(email) = email {
                events.push(Event::EmailRecorded { subject: id, email: email.clone(), at: now });
            }
            if let Some(name) = name {
                events.push(Event::NameRecorded { subject: id, name: name.clone(), at: now });
            }
            events.push(open.stepped(*request, RequestStep::Fulfilled, by.tag, now));
            events.push(accessed(&by.access));
            // A name that is the first replaces none.
            if email.is_some() || name.is_some() && subject.name.is_some() {
                let by = authority(open, of, by);
                events.push(begun(erasure, ErasureReason::Rectification, by));
            }
            Ok(events)
        }
        SubjectCommand::Erase {
            request,
            erasure,
            needs_approval,
            keep,
            notices,
            authority: of,
            by,
        } => {
            let open = of_kind(state, id, *request, RequestKind::Erasure)?;
            open.may_be_fulfilled(*needs_approval)?;
            subject.may_be_erased()?;
            let mut events = created(notices);
            for license in keep {
                license.events(now, &mut events);
            }
            events.push(open.stepped(*request, RequestStep::Fulfilled, by.tag, now));
            events.push(accessed(&by.access));
            let by = authority(open, of, by);
            events.push(begun(erasure, ErasureReason::Request, by));
            Ok(events)
        }
        SubjectCommand::Expire { erasure, notices } => {
            subject.may_be_erased()?;
            let mut events = created(notices);
            events.push(begun(erasure, ErasureReason::Retention, Authority::default()));
            Ok(events)
        }
        SubjectCommand::Restrict { kind, holds, by } => {
            let changes = subject.is_under(*kind) != *holds;
            let (kind, holds) = (*kind, *holds);
            let change = Event::RestrictionChanged { subject: id, kind, holds, at: now };
            Ok(changes.then_some(change).into_iter().chain([accessed(by)]).collect())
        }
    }
}

fn of_subject(
    state: &State,
    subject: SubjectId,
    request: RequestId,
) -> Result<&PrivacyRequest, Rejection> {
    let request = state.requests.get(&request).filter(|request| request.subject == subject);
    request.ok_or(Rejection::RequestNotFound)
}

fn of_kind(
    state: &State,
    subject: SubjectId,
    request: RequestId,
    kind: RequestKind,
) -> Result<&PrivacyRequest, Rejection> {
    let request = of_subject(state, subject, request)?;
    if request.kind == kind { Ok(request) } else { Err(Rejection::RequestOfOtherKind) }
}

impl Subject {
    /// Whether such a restriction holds.
    pub const fn is_under(&self, kind: RestrictionKind) -> bool {
        match kind {
            RestrictionKind::Restriction => self.restricted,
            RestrictionKind::LegalHold => self.held,
        }
    }

    fn may_be_erased(&self) -> Result<(), Rejection> {
        if self.held {
            Err(Rejection::LegalHold)
        } else if self.restricted {
            Err(Rejection::Restricted)
        } else {
            Ok(())
        }
    }
}

impl KeptLicense {
    fn events(&self, at: Timestamp, events: &mut Vec<Event>) {
        let Self { license, subject, key, terms, suspended, activations } = self.clone();
        events.push(Event::LicenseKept { license, subject, key, terms, suspended, at });
        events.extend(activations.into_iter().map(|kept| Event::ActivationKept {
            license,
            activation: kept.activation,
            signing_key: kept.signing_key,
            lease_until: kept.lease_until,
            at,
        }));
    }
}
