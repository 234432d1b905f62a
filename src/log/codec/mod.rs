//! Events to protobuf and back. The one place that knows both.

mod values;

use prost::Message as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::domain::{
    Access, Actor, Authority, Category, Change, Counts, Day, Email, Event, LicenseKey, Note,
    Notice, PersonName, Position, Product, RecipientName, RecordedActor, RequestStep, Role,
    SealedActor, Seats, SubjectId, Terms, TermsError, Timestamp,
};
use crate::proto::EVENT_CATEGORIES;
use crate::proto::events as wire;
use crate::proto::events::event::Kind;
use values::known;

/// Stored bytes that are no event this version knows. Names the field; holds nothing of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or not valid")]
pub struct DecodeError(&'static str);

/// What kind of personal data events of this type hold; `None`: none.
pub fn category(event_type: u8) -> Option<Category> {
    let (_, name) = EVENT_CATEGORIES.iter().find(|(known, _)| *known == event_type)?;
    Category::ALL.into_iter().find(|category| category.name() == *name)
}

/// The type of [`Event::NoticeCreated`].
pub const NOTICE_CREATED: u8 = 20;

/// The event as protobuf, and its type for the header.
#[allow(clippy::too_many_lines)] // an arm for each event type
pub fn encode(event: &Event) -> (u8, Zeroizing<Vec<u8>>) {
    let at_ms = event.at().as_millis();
    let (event_type, kind) = match event {
        Event::SubjectRegistered { subject, email, .. } => (
            1,
            Kind::SubjectRegistered(wire::SubjectRegistered {
                subject_id: subject.as_bytes().to_vec(),
                email: email.expose().to_owned(),
                at_ms,
            }),
        ),
        Event::LicenseIssued { license, subject, key, terms, .. } => (
            2,
            Kind::LicenseIssued(wire::LicenseIssued {
                license_id: license.as_bytes().to_vec(),
                subject_id: subject.as_bytes().to_vec(),
                license_key: key.expose(),
                product: terms.product.as_str().to_owned(),
                seats: terms.seats.get(),
                expires_at_ms: terms.expires_at.map(Timestamp::as_millis),
                updates_until_ms: terms.updates_until.map(Timestamp::as_millis),
                at_ms,
            }),
        ),
        Event::Activated { license, activation, signing_key, lease_until, .. } => (
            3,
            Kind::Activated(wire::Activated {
                license_id: license.as_bytes().to_vec(),
                activation_id: activation.as_bytes().to_vec(),
                at_ms,
                signing_key: signing_key.as_bytes().to_vec(),
                lease_until_ms: lease_until.map(Timestamp::as_millis),
            }),
        ),
        Event::Deactivated { license, activation, by_staff, .. } => (
            4,
            Kind::Deactivated(wire::Deactivated {
                license_id: license.as_bytes().to_vec(),
                activation_id: activation.as_bytes().to_vec(),
                at_ms,
                by_staff: *by_staff,
            }),
        ),
        Event::LicenseSuspended { license, .. } => {
            let license_id = license.as_bytes().to_vec();
            (5, Kind::LicenseSuspended(wire::LicenseSuspended { license_id, at_ms }))
        }
        Event::LicenseReinstated { license, .. } => {
            let license_id = license.as_bytes().to_vec();
            (6, Kind::LicenseReinstated(wire::LicenseReinstated { license_id, at_ms }))
        }
        Event::LicenseRevoked { license, .. } => {
            let license_id = license.as_bytes().to_vec();
            (7, Kind::LicenseRevoked(wire::LicenseRevoked { license_id, at_ms }))
        }
        Event::AccessRecorded { subject, access, .. } => (
            8,
            Kind::AccessRecorded(wire::AccessRecorded {
                subject_id: subject.as_bytes().to_vec(),
                actor: match &access.actor {
                    RecordedActor::Named(actor) => actor.expose().to_owned(),
                    RecordedActor::Sealed(_) => String::new(),
                },
                sealed_actor: sealed_to_wire(access.actor.sealed()),
                role: access.role.name().to_owned(),
                purpose: wire::AccessPurpose::from(access.purpose).into(),
                operation: wire::Operation::from(access.operation).into(),
                at_ms,
                request_id: access.request.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            }),
        ),
        Event::EmailRecorded { subject, email, .. } => {
            let (subject_id, email) = (subject.as_bytes().to_vec(), email.expose().to_owned());
            (9, Kind::EmailRecorded(wire::EmailRecorded { subject_id, email, at_ms }))
        }
        Event::NameRecorded { subject, name, .. } => {
            let (subject_id, name) = (subject.as_bytes().to_vec(), name.expose().to_owned());
            (10, Kind::NameRecorded(wire::NameRecorded { subject_id, name, at_ms }))
        }
        Event::RestrictionChanged { subject, kind, holds, .. } => (
            11,
            Kind::RestrictionChanged(wire::RestrictionChanged {
                subject_id: subject.as_bytes().to_vec(),
                kind: wire::RestrictionKind::from(*kind).into(),
                holds: *holds,
                at_ms,
            }),
        ),
        Event::RequestOpened { request, subject, kind, received_at, by, is_unknown, .. } => (
            12,
            Kind::RequestOpened(wire::RequestOpened {
                request_id: request.as_bytes().to_vec(),
                subject_id: subject.as_bytes().to_vec(),
                kind: wire::RequestKind::from(*kind).into(),
                received_at_ms: received_at.as_millis(),
                actor_tag: by.as_bytes().to_vec(),
                at_ms,
                is_unknown: *is_unknown,
            }),
        ),
        Event::RequestStepped { request, subject, step, by, .. } => {
            let (step, reason, evidence) = step_to_wire(step);
            (
                13,
                Kind::RequestStepped(wire::RequestStepped {
                    request_id: request.as_bytes().to_vec(),
                    subject_id: subject.as_bytes().to_vec(),
                    step: step.into(),
                    reason: reason.map(|note| note.expose().to_owned()).unwrap_or_default(),
                    evidence: evidence.map(|note| note.expose().to_owned()).unwrap_or_default(),
                    actor_tag: by.as_bytes().to_vec(),
                    at_ms,
                }),
            )
        }
        Event::ErasureBegun { erasure, subject, reason, authority, .. } => (
            14,
            Kind::ErasureBegun(wire::ErasureBegun {
                erasure_id: erasure.as_bytes().to_vec(),
                subject_id: subject.as_bytes().to_vec(),
                reason: wire::ErasureReason::from(*reason).into(),
                at_ms,
                opened_by: sealed_to_wire(authority.opened_by.as_ref()),
                approved: authority.approved,
                approved_by: sealed_to_wire(authority.approved_by.as_ref()),
                carried_out_by: sealed_to_wire(authority.carried_out_by.as_ref()),
                keeps_licenses: authority.keeps_licenses,
            }),
        ),
        Event::DataErased { erasure, subject, reason, records, epoch, .. } => (
            15,
            Kind::DataErased(wire::DataErased {
                erasure_id: erasure.as_bytes().to_vec(),
                subject_id: subject.as_bytes().to_vec(),
                reason: wire::ErasureReason::from(*reason).into(),
                records: records
                    .iter()
                    .map(|(event_type, count)| wire::ErasedRecords {
                        event_type: u32::from(*event_type),
                        count: *count,
                    })
                    .collect(),
                epoch: *epoch,
                at_ms,
            }),
        ),
        Event::EpochMoved { epoch, .. } => {
            (16, Kind::EpochMoved(wire::EpochMoved { epoch: *epoch, at_ms }))
        }
        Event::LicenseKept { license, subject, key, terms, suspended, .. } => (
            17,
            Kind::LicenseKept(wire::LicenseKept {
                license_id: license.as_bytes().to_vec(),
                subject_id: subject.as_bytes().to_vec(),
                license_key: key.expose(),
                product: terms.product.as_str().to_owned(),
                seats: terms.seats.get(),
                expires_at_ms: terms.expires_at.map(Timestamp::as_millis),
                updates_until_ms: terms.updates_until.map(Timestamp::as_millis),
                suspended: *suspended,
                at_ms,
            }),
        ),
        Event::ActivationKept { license, activation, signing_key, lease_until, .. } => (
            18,
            Kind::ActivationKept(wire::ActivationKept {
                license_id: license.as_bytes().to_vec(),
                activation_id: activation.as_bytes().to_vec(),
                at_ms,
                signing_key: signing_key.as_bytes().to_vec(),
                lease_until_ms: lease_until.map(Timestamp::as_millis),
            }),
        ),
        Event::Disclosed { subject, recipient, categories, .. } => (
            19,
            Kind::Disclosed(wire::Disclosed {
                subject_id: subject.as_bytes().to_vec(),
                recipient: recipient.as_str().to_owned(),
                categories: categories
                    .iter()
                    .map(|category| wire::Category::from(*category).into())
                    .collect(),
                at_ms,
            }),
        ),
        Event::NoticeCreated { notice, .. } => {
            (NOTICE_CREATED, Kind::NoticeCreated(notice_to_wire(notice, at_ms)))
        }
        Event::NoticeSettled { notice, subject, created, outcome, .. } => (
            21,
            Kind::NoticeSettled(wire::NoticeSettled {
                notice_id: notice.as_bytes().to_vec(),
                subject_id: match *subject {
                    SubjectId::NOBODY => Vec::new(),
                    subject => subject.as_bytes().to_vec(),
                },
                created: created.0,
                outcome: wire::NoticeOutcome::from(*outcome).into(),
                at_ms,
            }),
        ),
        Event::RecipientTold { subject, recipient, outcome, .. } => (
            22,
            Kind::RecipientTold(wire::RecipientTold {
                subject_id: subject.as_bytes().to_vec(),
                recipient: recipient.as_str().to_owned(),
                outcome: wire::NoticeOutcome::from(*outcome).into(),
                at_ms,
            }),
        ),
        Event::DayClosed { day, counts, .. } => (
            23,
            Kind::DayClosed(wire::DayClosed {
                day: day.0,
                products: counts
                    .iter()
                    .map(|(product, counts)| wire::ProductCounts {
                        product: product.as_str().to_owned(),
                        licenses: counts.licenses,
                        activations: counts.activations,
                        license_persons: counts.license_persons,
                        activation_persons: counts.activation_persons,
                    })
                    .collect(),
                at_ms,
            }),
        ),
    };
    let mut message = wire::Event { kind: Some(kind) };
    let bytes = Zeroizing::new(message.encode_to_vec());
    wipe(&mut message);
    (event_type, bytes)
}

/// The event in these bytes.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let mut message = wire::Event::decode(bytes).map_err(|_| DecodeError("the event"))?;
    let event = message.kind.as_ref().ok_or(DecodeError("kind")).and_then(from_wire);
    wipe(&mut message);
    event
}

#[allow(clippy::too_many_lines)] // an arm for each event type
fn from_wire(kind: &Kind) -> Result<Event, DecodeError> {
    Ok(match kind {
        Kind::SubjectRegistered(e) => Event::SubjectRegistered {
            subject: id(&e.subject_id, "subject_id")?,
            email: Email::parse(&e.email).map_err(|_| DecodeError("email"))?,
            at: time(e.at_ms)?,
        },
        Kind::LicenseIssued(e) => Event::LicenseIssued {
            license: id(&e.license_id, "license_id")?,
            subject: id(&e.subject_id, "subject_id")?,
            key: LicenseKey::parse(&e.license_key).map_err(|_| DecodeError("license_key"))?,
            terms: terms(&e.product, e.seats, e.expires_at_ms, e.updates_until_ms)?,
            at: time(e.at_ms)?,
        },
        Kind::Activated(e) => Event::Activated {
            license: id(&e.license_id, "license_id")?,
            activation: id(&e.activation_id, "activation_id")?,
            signing_key: id(&e.signing_key, "signing_key")?,
            lease_until: e.lease_until_ms.map(time).transpose()?,
            at: time(e.at_ms)?,
        },
        Kind::Deactivated(e) => Event::Deactivated {
            license: id(&e.license_id, "license_id")?,
            activation: id(&e.activation_id, "activation_id")?,
            by_staff: e.by_staff,
            at: time(e.at_ms)?,
        },
        Kind::LicenseSuspended(e) => Event::LicenseSuspended {
            license: id(&e.license_id, "license_id")?,
            at: time(e.at_ms)?,
        },
        Kind::LicenseReinstated(e) => Event::LicenseReinstated {
            license: id(&e.license_id, "license_id")?,
            at: time(e.at_ms)?,
        },
        Kind::LicenseRevoked(e) => {
            Event::LicenseRevoked { license: id(&e.license_id, "license_id")?, at: time(e.at_ms)? }
        }
        Kind::AccessRecorded(e) => Event::AccessRecorded {
            subject: id(&e.subject_id, "subject_id")?,
            access: Access {
                actor: if let Some(sealed) = sealed_from_wire(&e.sealed_actor) {
                    RecordedActor::Sealed(sealed)
                } else {
                    RecordedActor::Named(Actor::parse(&e.actor).ok_or(DecodeError("actor"))?)
                },
                role: Role::from_name(&e.role).ok_or(DecodeError("role"))?,
                purpose: known(e.purpose(), "purpose")?,
                operation: known(e.operation(), "operation")?,
                request: match e.request_id.as_slice() {
                    [] => None,
                    bytes => Some(id(bytes, "request_id")?),
                },
            },
            at: time(e.at_ms)?,
        },
        Kind::EmailRecorded(e) => Event::EmailRecorded {
            subject: id(&e.subject_id, "subject_id")?,
            email: Email::parse(&e.email).map_err(|_| DecodeError("email"))?,
            at: time(e.at_ms)?,
        },
        Kind::NameRecorded(e) => Event::NameRecorded {
            subject: id(&e.subject_id, "subject_id")?,
            name: PersonName::parse(&e.name).map_err(|_| DecodeError("name"))?,
            at: time(e.at_ms)?,
        },
        Kind::RestrictionChanged(e) => Event::RestrictionChanged {
            subject: id(&e.subject_id, "subject_id")?,
            kind: known(e.kind(), "kind")?,
            holds: e.holds,
            at: time(e.at_ms)?,
        },
        Kind::RequestOpened(e) => Event::RequestOpened {
            request: id(&e.request_id, "request_id")?,
            subject: id(&e.subject_id, "subject_id")?,
            kind: known(e.kind(), "kind")?,
            received_at: time(e.received_at_ms)?,
            by: id(&e.actor_tag, "actor_tag")?,
            is_unknown: e.is_unknown,
            at: time(e.at_ms)?,
        },
        Kind::RequestStepped(e) => Event::RequestStepped {
            request: id(&e.request_id, "request_id")?,
            subject: id(&e.subject_id, "subject_id")?,
            step: step_from_wire(e)?,
            by: id(&e.actor_tag, "actor_tag")?,
            at: time(e.at_ms)?,
        },
        Kind::ErasureBegun(e) => Event::ErasureBegun {
            erasure: id(&e.erasure_id, "erasure_id")?,
            subject: id(&e.subject_id, "subject_id")?,
            reason: known(e.reason(), "reason")?,
            authority: Authority {
                opened_by: sealed_from_wire(&e.opened_by),
                approved: e.approved,
                approved_by: sealed_from_wire(&e.approved_by),
                carried_out_by: sealed_from_wire(&e.carried_out_by),
                keeps_licenses: e.keeps_licenses,
            },
            at: time(e.at_ms)?,
        },
        Kind::DataErased(e) => Event::DataErased {
            erasure: id(&e.erasure_id, "erasure_id")?,
            subject: id(&e.subject_id, "subject_id")?,
            reason: known(e.reason(), "reason")?,
            records: e
                .records
                .iter()
                .map(|records| Ok((u8::try_from(records.event_type)?, records.count)))
                .collect::<Result<_, std::num::TryFromIntError>>()
                .map_err(|_| DecodeError("records"))?,
            epoch: e.epoch,
            at: time(e.at_ms)?,
        },
        Kind::EpochMoved(e) => Event::EpochMoved { epoch: e.epoch, at: time(e.at_ms)? },
        Kind::LicenseKept(e) => Event::LicenseKept {
            license: id(&e.license_id, "license_id")?,
            subject: id(&e.subject_id, "subject_id")?,
            key: LicenseKey::parse(&e.license_key).map_err(|_| DecodeError("license_key"))?,
            terms: terms(&e.product, e.seats, e.expires_at_ms, e.updates_until_ms)?,
            suspended: e.suspended,
            at: time(e.at_ms)?,
        },
        Kind::ActivationKept(e) => Event::ActivationKept {
            license: id(&e.license_id, "license_id")?,
            activation: id(&e.activation_id, "activation_id")?,
            signing_key: id(&e.signing_key, "signing_key")?,
            lease_until: e.lease_until_ms.map(time).transpose()?,
            at: time(e.at_ms)?,
        },
        Kind::Disclosed(e) => Event::Disclosed {
            subject: id(&e.subject_id, "subject_id")?,
            recipient: recipient(&e.recipient)?,
            categories: e
                .categories()
                .map(|category| known(category, "categories"))
                .collect::<Result<_, _>>()?,
            at: time(e.at_ms)?,
        },
        Kind::NoticeCreated(e) => {
            Event::NoticeCreated { notice: notice_from_wire(e)?, at: time(e.at_ms)? }
        }
        Kind::NoticeSettled(e) => Event::NoticeSettled {
            notice: id(&e.notice_id, "notice_id")?,
            subject: match e.subject_id.as_slice() {
                [] => SubjectId::NOBODY,
                subject => id(subject, "subject_id")?,
            },
            created: Position(e.created),
            outcome: known(e.outcome(), "outcome")?,
            at: time(e.at_ms)?,
        },
        Kind::RecipientTold(e) => Event::RecipientTold {
            subject: id(&e.subject_id, "subject_id")?,
            recipient: recipient(&e.recipient)?,
            outcome: known(e.outcome(), "outcome")?,
            at: time(e.at_ms)?,
        },
        Kind::DayClosed(e) => Event::DayClosed {
            day: Day(e.day),
            counts: e
                .products
                .iter()
                .map(|of| {
                    let counts = Counts {
                        licenses: of.licenses,
                        activations: of.activations,
                        license_persons: of.license_persons,
                        activation_persons: of.activation_persons,
                    };
                    Ok((Product::parse(&of.product)?, counts))
                })
                .collect::<Result<_, TermsError>>()
                .map_err(|_| DecodeError("product"))?,
            at: time(e.at_ms)?,
        },
    })
}

/// Empty: there is none.
fn sealed_to_wire(actor: Option<&SealedActor>) -> Vec<u8> {
    actor.map(|sealed| sealed.as_bytes().to_vec()).unwrap_or_default()
}

fn sealed_from_wire(bytes: &[u8]) -> Option<SealedActor> {
    (!bytes.is_empty()).then(|| SealedActor::from_bytes(bytes.to_vec()))
}

fn recipient(name: &str) -> Result<RecipientName, DecodeError> {
    RecipientName::parse(name).ok_or(DecodeError("recipient"))
}

fn notice_to_wire(notice: &Notice, at_ms: i64) -> wire::NoticeCreated {
    let (email, erased) = match &notice.change {
        Change::Erased => (None, true),
        Change::Rectified { email } => (email.as_ref(), false),
    };
    wire::NoticeCreated {
        notice_id: notice.id.as_bytes().to_vec(),
        subject_id: notice.subject.as_bytes().to_vec(),
        erasure_id: notice.erasure.as_bytes().to_vec(),
        recipient: notice.recipient.as_str().to_owned(),
        email: notice.email.expose().to_owned(),
        new_email: email.map(|email| email.expose().to_owned()).unwrap_or_default(),
        erased,
        at_ms,
    }
}

fn notice_from_wire(e: &wire::NoticeCreated) -> Result<Notice, DecodeError> {
    let email = |text: &str| Email::parse(text).map_err(|_| DecodeError("email"));
    let new_email = Some(&e.new_email).filter(|text| !text.is_empty());
    let change = if e.erased {
        Change::Erased
    } else {
        Change::Rectified { email: new_email.map(|text| email(text)).transpose()? }
    };
    Ok(Notice {
        id: id(&e.notice_id, "notice_id")?,
        subject: id(&e.subject_id, "subject_id")?,
        erasure: id(&e.erasure_id, "erasure_id")?,
        recipient: recipient(&e.recipient)?,
        email: email(&e.email)?,
        change,
    })
}

fn terms(
    product: &str,
    seats: u32,
    expires_at_ms: Option<i64>,
    updates_until_ms: Option<i64>,
) -> Result<Terms, DecodeError> {
    Ok(Terms {
        product: Product::parse(product).map_err(|_| DecodeError("product"))?,
        seats: Seats::new(seats).map_err(|_| DecodeError("seats"))?,
        expires_at: expires_at_ms.map(time).transpose()?,
        updates_until: updates_until_ms.map(time).transpose()?,
    })
}

fn step_to_wire(step: &RequestStep) -> (wire::RequestStep, Option<&Note>, Option<&Note>) {
    match step {
        RequestStep::VerifiedByCode => (wire::RequestStep::VerifiedByCode, None, None),
        RequestStep::VerifiedByReceipt => (wire::RequestStep::VerifiedByReceipt, None, None),
        RequestStep::Extended { reason } => (wire::RequestStep::Extended, Some(reason), None),
        RequestStep::Approved => (wire::RequestStep::Approved, None, None),
        RequestStep::Exported => (wire::RequestStep::Exported, None, None),
        RequestStep::Refused { reason, evidence } => {
            (wire::RequestStep::Refused, Some(reason), Some(evidence))
        }
        RequestStep::Fulfilled => (wire::RequestStep::Fulfilled, None, None),
    }
}

fn step_from_wire(e: &wire::RequestStepped) -> Result<RequestStep, DecodeError> {
    let note = |text, field| Note::parse(text).map_err(|_| DecodeError(field));
    Ok(match e.step() {
        wire::RequestStep::VerifiedByCode => RequestStep::VerifiedByCode,
        wire::RequestStep::VerifiedByReceipt => RequestStep::VerifiedByReceipt,
        wire::RequestStep::Extended => RequestStep::Extended { reason: note(&e.reason, "reason")? },
        wire::RequestStep::Approved => RequestStep::Approved,
        wire::RequestStep::Exported => RequestStep::Exported,
        wire::RequestStep::Refused => RequestStep::Refused {
            reason: note(&e.reason, "reason")?,
            evidence: note(&e.evidence, "evidence")?,
        },
        wire::RequestStep::Fulfilled => RequestStep::Fulfilled,
        wire::RequestStep::Unspecified => return Err(DecodeError("step")),
    })
}

fn id<'a, T: TryFrom<&'a [u8]>>(bytes: &'a [u8], field: &'static str) -> Result<T, DecodeError> {
    T::try_from(bytes).map_err(|_| DecodeError(field))
}

fn time(millis: i64) -> Result<Timestamp, DecodeError> {
    Timestamp::from_millis(millis).ok_or(DecodeError("a time"))
}

/// Personal data does not stay behind in freed memory.
fn wipe(message: &mut wire::Event) {
    match &mut message.kind {
        Some(Kind::SubjectRegistered(e)) => e.email.zeroize(),
        Some(Kind::LicenseIssued(e)) => e.license_key.zeroize(),
        Some(Kind::AccessRecorded(e)) => e.actor.zeroize(),
        Some(Kind::EmailRecorded(e)) => e.email.zeroize(),
        Some(Kind::NameRecorded(e)) => e.name.zeroize(),
        Some(Kind::RequestStepped(e)) => {
            e.reason.zeroize();
            e.evidence.zeroize();
        }
        Some(Kind::LicenseKept(e)) => e.license_key.zeroize(),
        Some(Kind::NoticeCreated(e)) => {
            e.email.zeroize();
            e.new_email.zeroize();
        }
        _ => {}
    }
}
