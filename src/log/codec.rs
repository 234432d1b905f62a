//! Events to protobuf and back. The one place that knows both.

use prost::Message as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::domain::{
    Access, Actor, Email, Event, LicenseKey, Operation, Product, Purpose, Role, Seats, Terms,
    Timestamp,
};
use crate::proto::events as wire;
use crate::proto::events::event::Kind;

/// Stored bytes that are no event this version knows. Names the field; holds nothing of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or not valid")]
pub struct DecodeError(&'static str);

/// The event as protobuf, and its type for the header.
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
                actor: access.actor.expose().to_owned(),
                role: access.role.name().to_owned(),
                purpose: purpose_to_wire(access.purpose).into(),
                operation: operation_to_wire(access.operation).into(),
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
            terms: Terms {
                product: Product::parse(&e.product).map_err(|_| DecodeError("product"))?,
                seats: Seats::new(e.seats).map_err(|_| DecodeError("seats"))?,
                expires_at: e.expires_at_ms.map(time).transpose()?,
                updates_until: e.updates_until_ms.map(time).transpose()?,
            },
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
                actor: Actor::parse(&e.actor).ok_or(DecodeError("actor"))?,
                role: Role::from_name(&e.role).ok_or(DecodeError("role"))?,
                purpose: purpose_from_wire(e.purpose()).ok_or(DecodeError("purpose"))?,
                operation: operation_from_wire(e.operation()).ok_or(DecodeError("operation"))?,
            },
            at: time(e.at_ms)?,
        },
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
        _ => {}
    }
}

fn purpose_to_wire(purpose: Purpose) -> wire::AccessPurpose {
    match purpose {
        Purpose::CustomerSupport => wire::AccessPurpose::CustomerSupport,
        Purpose::AccessRequest => wire::AccessPurpose::AccessRequest,
        Purpose::LicenseAdministration => wire::AccessPurpose::LicenseAdministration,
        Purpose::FraudPrevention => wire::AccessPurpose::FraudPrevention,
    }
}

fn purpose_from_wire(purpose: wire::AccessPurpose) -> Option<Purpose> {
    match purpose {
        wire::AccessPurpose::Unspecified => None,
        wire::AccessPurpose::CustomerSupport => Some(Purpose::CustomerSupport),
        wire::AccessPurpose::AccessRequest => Some(Purpose::AccessRequest),
        wire::AccessPurpose::LicenseAdministration => Some(Purpose::LicenseAdministration),
        wire::AccessPurpose::FraudPrevention => Some(Purpose::FraudPrevention),
    }
}

fn operation_to_wire(operation: Operation) -> wire::Operation {
    match operation {
        Operation::IssueLicense => wire::Operation::IssueLicense,
        Operation::GetLicense => wire::Operation::GetLicense,
        Operation::SuspendLicense => wire::Operation::SuspendLicense,
        Operation::ReinstateLicense => wire::Operation::ReinstateLicense,
        Operation::RevokeLicense => wire::Operation::RevokeLicense,
        Operation::FreeSeat => wire::Operation::FreeSeat,
        Operation::GetHistory => wire::Operation::GetHistory,
        Operation::ListActivations => wire::Operation::ListActivations,
        Operation::ExportSubject => wire::Operation::ExportSubject,
    }
}

fn operation_from_wire(operation: wire::Operation) -> Option<Operation> {
    match operation {
        wire::Operation::Unspecified => None,
        wire::Operation::IssueLicense => Some(Operation::IssueLicense),
        wire::Operation::GetLicense => Some(Operation::GetLicense),
        wire::Operation::SuspendLicense => Some(Operation::SuspendLicense),
        wire::Operation::ReinstateLicense => Some(Operation::ReinstateLicense),
        wire::Operation::RevokeLicense => Some(Operation::RevokeLicense),
        wire::Operation::FreeSeat => Some(Operation::FreeSeat),
        wire::Operation::GetHistory => Some(Operation::GetHistory),
        wire::Operation::ListActivations => Some(Operation::ListActivations),
        wire::Operation::ExportSubject => Some(Operation::ExportSubject),
    }
}
