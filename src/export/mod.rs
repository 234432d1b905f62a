//! The export: all that is held about a person, machine readable. Pure: from the person's events to
//! a document.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Serialize, Serializer};

use crate::domain::{ActivationId, Event, LicenseId, Timestamp};
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
    accesses: Vec<Access>,
    /// How many records of which kind this was made of.
    records: Records,
    policy: &'a Policy,
}

#[derive(Serialize, Default)]
struct Subject {
    email: Option<String>,
    registered_at: Option<Time>,
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
    actor: String,
    role: &'static str,
    purpose: &'static str,
    operation: &'static str,
    at: Time,
}

#[derive(Serialize, Default)]
struct Records {
    subject_registered: u64,
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
            Event::SubjectRegistered { email, at, .. } => {
                self.records.subject_registered += 1;
                self.subject.email = Some(email.expose().to_owned());
                self.subject.registered_at = Some(Time(*at));
            }
            Event::LicenseIssued { license, key, terms, at, .. } => {
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
            Event::Activated { license, activation, at, .. } => {
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
                    actor: access.actor.expose().to_owned(),
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
}
