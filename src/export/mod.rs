//! The export: all that is held about a person, machine readable. Pure: from the person's events to
//! a document.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Serialize, Serializer};

use crate::domain::{
    ActivationId, Event, LicenseId, Note, RecordedActor, RequestId, RequestStep, Timestamp,
};
use crate::policy::Policy;

/// The form of the document. It changes when a member is removed or means something else.
const SCHEMA: &str = "countersign/export/v1";

/// The answer to a data subject access request.
#[derive(Serialize)]
pub struct Document<'a> {
    schema: &'static str,
    generated_at: Time,
    subject: Subject,
    licenses: Vec<License>,
    /// What narrows the use of the data, and since when.
    restrictions: Vec<Restriction>,
    /// What was asked for before.
    requests: Vec<Request>,
    accesses: Vec<Access>,
    /// How many records of which kind this was made of.
    records: Records,
    policy: &'a Policy,
}

#[derive(Serialize, Default)]
struct Subject {
    email: Option<String>,
    /// Since when this is the address.
    email_since: Option<Time>,
    name: Option<String>,
}

#[derive(Serialize)]
struct Restriction {
    kind: &'static str,
    since: Time,
}

#[derive(Serialize)]
struct Request {
    kind: &'static str,
    received_at: Time,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    what: &'static str,
    at: Time,
    reason: Option<String>,
    evidence: Option<String>,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names)] // the names are the document's
struct License {
    license_key: String,
    product: String,
    seats: u32,
    status: &'static str,
    issued_at: Time,
    expires_at: Option<Time>,
    updates_until: Option<Time>,
    changes: Vec<Change>,
    activations: Vec<Activation>,
}

#[derive(Serialize)]
struct Change {
    status: &'static str,
    at: Time,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names)] // the names are the document's
struct Activation {
    /// As in the receipt's `jti`.
    activation_id: String,
    activated_at: Time,
    deactivated_at: Option<Time>,
    deactivated_by: Option<&'static str>,
}

#[derive(Serialize)]
struct Access {
    /// The name of the member of staff, which takes two keys to read.
    sealed_actor: Option<String>,
    role: &'static str,
    purpose: &'static str,
    operation: &'static str,
    at: Time,
}

#[derive(Serialize, Default)]
struct Records {
    email_recorded: u64,
    name_recorded: u64,
    restriction_changed: u64,
    request_opened: u64,
    request_stepped: u64,
    license_issued: u64,
    license_changed: u64,
    activated: u64,
    deactivated: u64,
    access_recorded: u64,
}

/// RFC 3339, always with milliseconds, so that the texts sort as the times do.
#[derive(Clone, Copy)]
struct Time(Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.3}", self.0))
    }
}

impl<'a> Document<'a> {
    /// Makes the document of all of a person's events, in the order of their positions.
    pub fn new<'e>(
        events: impl IntoIterator<Item = &'e Event>,
        policy: &'a Policy,
        now: Timestamp,
    ) -> Self {
        let mut document = Self {
            schema: SCHEMA,
            generated_at: Time(now),
            subject: Subject::default(),
            licenses: Vec::new(),
            restrictions: Vec::new(),
            requests: Vec::new(),
            accesses: Vec::new(),
            records: Records::default(),
            policy,
        };
        let mut places = Places::default();
        for event in events {
            document.add(event, &mut places);
        }
        document
    }

    fn add(&mut self, event: &Event, places: &mut Places) {
        match event {
            Event::SubjectRegistered { email, at, .. } | Event::EmailRecorded { email, at, .. } => {
                self.records.email_recorded += 1;
                self.subject.email = Some(email.expose().to_owned());
                self.subject.email_since = Some(Time(*at));
            }
            Event::NameRecorded { name, .. } => {
                self.records.name_recorded += 1;
                self.subject.name = Some(name.expose().to_owned());
            }
            Event::RestrictionChanged { kind, holds, at, .. } => {
                self.records.restriction_changed += 1;
                let kind = kind.name();
                self.restrictions.retain(|restriction| restriction.kind != kind);
                if *holds {
                    self.restrictions.push(Restriction { kind, since: Time(*at) });
                }
            }
            Event::RequestOpened { request, kind, received_at, .. } => {
                self.records.request_opened += 1;
                places.requests.insert(*request, self.requests.len());
                let (kind, received_at) = (kind.name(), Time(*received_at));
                self.requests.push(Request { kind, received_at, steps: Vec::new() });
            }
            Event::RequestStepped { request, step, at, .. } => {
                self.records.request_stepped += 1;
                let place = places.requests.get(request);
                if let Some(request) = place.and_then(|place| self.requests.get_mut(*place)) {
                    request.steps.push(Step::new(step, *at));
                }
            }
            // What is left of an erasure names nobody.
            Event::ErasureBegun { .. } | Event::DataErased { .. } | Event::EpochMoved { .. } => {}
            Event::LicenseIssued { license, key, terms, at, .. }
            | Event::LicenseKept { license, key, terms, at, .. } => {
                self.records.license_issued += 1;
                places.licenses.insert(*license, self.licenses.len());
                self.licenses.push(License {
                    license_key: key.expose(),
                    product: terms.product.as_str().to_owned(),
                    seats: terms.seats.get(),
                    status: "active",
                    issued_at: Time(*at),
                    expires_at: terms.expires_at.map(Time),
                    updates_until: terms.updates_until.map(Time),
                    changes: Vec::new(),
                    activations: Vec::new(),
                });
            }
            Event::Activated { license, activation, at, .. }
            | Event::ActivationKept { license, activation, at, .. } => {
                self.records.activated += 1;
                if let Some(license) = self.license(*license, places) {
                    places.activations.insert(*activation, license.activations.len());
                    license.activations.push(Activation {
                        activation_id: BASE64URL.encode(activation.as_bytes()),
                        activated_at: Time(*at),
                        deactivated_at: None,
                        deactivated_by: None,
                    });
                }
            }
            Event::Deactivated { license, activation, by_staff, at } => {
                self.records.deactivated += 1;
                let place = places.activations.get(activation).copied();
                if let Some(license) = self.license(*license, places)
                    && let Some(place) = place
                    && let Some(activation) = license.activations.get_mut(place)
                {
                    activation.deactivated_at = Some(Time(*at));
                    activation.deactivated_by = Some(if *by_staff { "staff" } else { "app" });
                }
            }
            Event::LicenseSuspended { license, at } => {
                self.change(*license, "suspended", *at, places);
            }
            Event::LicenseReinstated { license, at } => {
                self.change(*license, "active", *at, places);
            }
            Event::LicenseRevoked { license, at } => {
                self.change(*license, "revoked", *at, places);
            }
            Event::AccessRecorded { access, at, .. } => {
                self.records.access_recorded += 1;
                self.accesses.push(Access {
                    sealed_actor: match &access.actor {
                        RecordedActor::Sealed(sealed) => Some(BASE64URL.encode(sealed.as_bytes())),
                        RecordedActor::Named(_) => None,
                    },
                    role: access.role.name(),
                    purpose: access.purpose.name(),
                    operation: access.operation.name(),
                    at: Time(*at),
                });
            }
        }
    }

    fn change(&mut self, license: LicenseId, status: &'static str, at: Timestamp, places: &Places) {
        self.records.license_changed += 1;
        if let Some(license) = self.license(license, places) {
            license.status = status;
            license.changes.push(Change { status, at: Time(at) });
        }
    }

    fn license(&mut self, id: LicenseId, places: &Places) -> Option<&mut License> {
        places.licenses.get(&id).and_then(|&place| self.licenses.get_mut(place))
    }
}

/// Where in the document what is.
#[derive(Default)]
struct Places {
    licenses: HashMap<LicenseId, usize>,
    activations: HashMap<ActivationId, usize>,
    requests: HashMap<RequestId, usize>,
}

impl Step {
    fn new(step: &RequestStep, at: Timestamp) -> Self {
        let text = |note: &Note| Some(note.expose().to_owned());
        let (what, reason, evidence) = match step {
            RequestStep::VerifiedByCode => ("verified_by_code", None, None),
            RequestStep::VerifiedByReceipt => ("verified_by_receipt", None, None),
            RequestStep::Extended { reason } => ("extended", text(reason), None),
            RequestStep::Approved => ("approved", None, None),
            RequestStep::Refused { reason, evidence } => ("refused", text(reason), text(evidence)),
            RequestStep::Fulfilled => ("fulfilled", None, None),
        };
        Self { what, at: Time(at), reason, evidence }
    }
}
