//! What is held about a person, put in order: from their events to one document. Pure.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use serde::{Serialize, Serializer};

use crate::domain::{
    self, ActivationId, Category, Change as NoticeChange, Event, LicenseId, NOTICE_KEPT, Note,
    RecordedActor, RequestId, RequestKind, RequestStep, Timestamp, gdpr_due, swiss_due,
};
use crate::policy::retention::{Span, seat_years};
use crate::policy::{CategoryPolicy, Controller, Policy, Right};

/// The form of the document. It changes when a member is removed or means something else.
pub(super) const SCHEMA: &str = "countersign/export/v1";

/// What the document says of decisions (GDPR Art. 15(1)(h), Art. 22).
const NO_AUTOMATED_DECISIONS: &str = "No decision about you is made by automated means alone, and no profile of you is made. That a \
     license allows no more activations than it has seats is a term of the license.";

/// Everything that is held about a person, and what they must be told with it.
#[derive(Serialize)]
pub(super) struct Document {
    pub schema: &'static str,
    /// The moment that all of this is as of.
    pub generated_at: Time,
    /// Whether anything is held about the person.
    pub data_held: bool,
    /// A restriction or a legal hold is in force: nothing is erased, and each end is the earliest.
    pub retention_paused: bool,
    pub controller: Controller,
    pub subject: Subject,
    pub categories: Vec<CategoryInfo>,
    pub licenses: Vec<License>,
    pub restrictions: Vec<Restriction>,
    pub requests: Vec<Request>,
    pub recipients: Vec<RecipientInfo>,
    pub disclosures: Vec<Disclosure>,
    pub notices: Vec<Notice>,
    pub accesses: Vec<Access>,
    pub rights: Vec<Right>,
    pub automated_decisions: AutomatedDecisions,
    pub completeness: Vec<Completeness>,
    /// `None`: the log's tree was not made when this was.
    pub log_proofs: Option<LogProofs>,
    pub policy_hash: String,
}

/// A datum that one category has, and until when it is kept.
#[derive(Serialize)]
pub(super) struct Datum {
    pub value: String,
    pub category: Category,
    pub since: Time,
    pub kept_until: Option<Time>,
}

#[derive(Serialize, Default)]
pub(super) struct Subject {
    pub email: Option<Datum>,
    pub name: Option<Datum>,
}

/// What holds for a kind of data (GDPR Art. 15(1)(a), (b), (d), (g)).
#[derive(Serialize)]
pub(super) struct CategoryInfo {
    #[serde(flatten)]
    pub policy: CategoryPolicy,
    pub recipients: Vec<String>,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names)] // the names are the document's
pub(super) struct License {
    pub category: Category,
    pub license_key: String,
    pub product: String,
    pub seats: u32,
    pub status: &'static str,
    pub issued_at: Time,
    pub expires_at: Option<Time>,
    pub updates_until: Option<Time>,
    /// `None`: for as long as the license can be used or an activation of it is kept, and the policy's
    /// days after.
    pub kept_until: Option<Time>,
    pub changes: Vec<Change>,
    pub activations: Vec<Activation>,
}

#[derive(Serialize)]
pub(super) struct Change {
    pub status: &'static str,
    pub at: Time,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names)] // the names are the document's
pub(super) struct Activation {
    pub category: Category,
    /// As in the receipt's `jti`.
    pub activation_id: String,
    pub activated_at: Time,
    /// The end of the receipt, where the product has a lease.
    pub lease_until: Option<Time>,
    pub deactivated_at: Option<Time>,
    pub deactivated_by: Option<&'static str>,
    /// `None`: for as long as a seat of the years that are kept together is held, and the policy's
    /// days after the end of that year.
    pub kept_until: Option<Time>,
}

#[derive(Serialize)]
pub(super) struct Restriction {
    pub category: Category,
    pub kind: &'static str,
    pub since: Time,
    /// When it was lifted. `None`: it holds.
    pub until: Option<Time>,
    /// `None`: until a request of that year is answered, and the policy's days after.
    pub kept_until: Option<Time>,
}

#[derive(Serialize)]
pub(super) struct Request {
    pub category: Category,
    pub kind: &'static str,
    pub received_at: Time,
    /// One month, or three where it was extended (GDPR Art. 12(3)).
    pub gdpr_due: Time,
    /// 30 days (Swiss DPO Art. 18).
    pub swiss_due: Time,
    pub steps: Vec<Step>,
    /// `None`: until it is answered, and the policy's days after.
    pub kept_until: Option<Time>,
    #[serde(skip)]
    opened_at: Timestamp,
}

#[derive(Serialize)]
pub(super) struct Step {
    pub what: &'static str,
    pub at: Time,
    pub reason: Option<String>,
    pub evidence: Option<String>,
}

/// Somebody whom data may be shared with (GDPR Art. 15(1)(c), (2)).
#[derive(Serialize)]
pub(super) struct RecipientInfo {
    pub name: String,
    pub purpose: String,
    pub data: Vec<Category>,
    pub country: String,
    pub safeguard: String,
    pub opt_out: String,
    /// When they got data of this person.
    pub got_data_at: Vec<Time>,
}

/// That a recipient got data of the person.
#[derive(Serialize)]
pub(super) struct Disclosure {
    pub category: Category,
    pub recipient: String,
    pub data: Vec<Category>,
    pub at: Time,
    /// As the address, so that the recipient can be told when it is erased.
    pub kept_until: Option<Time>,
}

/// That a recipient was, or is to be, told of a rectification (GDPR Art. 19).
#[derive(Serialize)]
pub(super) struct Notice {
    pub category: Category,
    pub recipient: String,
    pub state: &'static str,
    pub at: Time,
    /// The address that they know, for as long as they are to be told.
    pub email: Option<String>,
    /// The right one.
    pub new_email: Option<String>,
    pub kept_until: Option<Time>,
}

/// That a member of staff looked at or changed the data.
#[derive(Serialize)]
pub(super) struct Access {
    pub category: Category,
    pub role: &'static str,
    pub purpose: &'static str,
    pub operation: &'static str,
    pub at: Time,
    /// The name of the member of staff, which takes two keys to read.
    pub sealed_actor: Option<String>,
    /// `None`: until a request of that year is answered, and the policy's days after.
    pub kept_until: Option<Time>,
}

#[derive(Serialize)]
pub(super) struct AutomatedDecisions {
    pub exist: bool,
    pub explanation: &'static str,
}

/// How many records of a category the document was made of, and how many the log has.
#[derive(Serialize)]
pub(super) struct Completeness {
    pub category: Category,
    /// By event type.
    pub records: BTreeMap<&'static str, u64>,
    pub exported: u64,
    pub in_log: u64,
}

/// That the person's records are in the log (RFC 6962 §2.1.1). The hashes are base64, as in a
/// checkpoint.
#[derive(Serialize)]
pub(super) struct LogProofs {
    /// The signed note of the tree that all are in.
    pub checkpoint: String,
    /// The key that signed it, as a vkey (C2SP `signed-note`).
    pub log_key: String,
    pub records: Vec<LogProof>,
}

/// That one record is, and what it records.
#[derive(Serialize)]
pub(super) struct LogProof {
    pub category: Category,
    /// As `completeness` counts it.
    pub event: &'static str,
    pub at: Time,
    /// The `activation_id` or `license_key` that the event is of; `None`: its time says enough.
    pub of: Option<String>,
    /// Its position.
    pub log_index: u64,
    /// The leaf's hash.
    pub record: String,
    pub path: Vec<String>,
}

/// RFC 3339, always with milliseconds, so that the texts sort as the times do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a document is made of.
pub struct Facts<'a> {
    /// All of the person's events in the order of their positions; none where nobody is known.
    pub events: &'a [(domain::Position, Event)],
    /// What recipients are still to be told, and since when.
    pub waiting: &'a [(domain::Notice, Timestamp)],
    /// How many records the log has of each category.
    pub in_log: &'a BTreeMap<Category, u64>,
    /// That those events are in the log; `None`: that cannot be shown now.
    pub proofs: Option<&'a Proofs>,
    /// What holds.
    pub policy: &'a Policy,
    /// The moment that all of this is as of.
    pub now: Timestamp,
}

/// What shows that records are in the log.
pub struct Proofs {
    /// The signed note of the tree that all are in.
    pub checkpoint: String,
    /// The public key of the log.
    pub log_key: String,
    /// For each record.
    pub records: HashMap<domain::Position, Proof>,
}

/// What shows that one record is.
pub struct Proof {
    /// The hash of it.
    pub record: [u8; 32],
    /// The path from it to the tree's root.
    pub path: Vec<[u8; 32]>,
}

/// What the document calls an event; `None`: it names nobody, or comes apart.
fn kind(event: &Event) -> Option<(Category, &'static str)> {
    Some(match event {
        Event::SubjectRegistered { .. } | Event::EmailRecorded { .. } => {
            (Category::Email, "email_recorded")
        }
        Event::NameRecorded { .. } => (Category::Name, "name_recorded"),
        Event::LicenseIssued { .. } | Event::LicenseKept { .. } => {
            (Category::License, "license_issued")
        }
        Event::LicenseSuspended { .. }
        | Event::LicenseReinstated { .. }
        | Event::LicenseRevoked { .. } => (Category::License, "license_changed"),
        Event::Activated { .. } | Event::ActivationKept { .. } => {
            (Category::ActivationTime, "activated")
        }
        Event::Deactivated { .. } => (Category::ActivationTime, "deactivated"),
        Event::AccessRecorded { .. } => (Category::AccessRecord, "access_recorded"),
        Event::RestrictionChanged { .. } => (Category::AccessRecord, "restriction_changed"),
        Event::RequestOpened { .. } => (Category::AccessRecord, "request_opened"),
        Event::RequestStepped { .. } => (Category::AccessRecord, "request_stepped"),
        Event::Disclosed { .. } => (Category::AccessRecord, "disclosed"),
        Event::RecipientTold { .. } => (Category::AccessRecord, "recipient_told"),
        Event::ErasureBegun { .. }
        | Event::DataErased { .. }
        | Event::EpochMoved { .. }
        | Event::NoticeCreated { .. }
        | Event::NoticeSettled { .. }
        | Event::DayClosed { .. } => return None,
    })
}

/// Puts a document together.
pub(super) fn document(facts: &Facts<'_>) -> Result<Document, serde_json::Error> {
    let mut builder = Builder::new(facts)?;
    for (position, event) in facts.events {
        builder.add(event);
        if let Some(proof) = facts.proofs.and_then(|proofs| proofs.records.get(position)) {
            builder.prove(*position, event, proof);
        }
    }
    Ok(builder.finish(facts))
}

struct Builder<'a> {
    policy: &'a Policy,
    document: Document,
    /// Where in the document what is.
    licenses: HashMap<LicenseId, usize>,
    activations: HashMap<ActivationId, (usize, usize)>,
    requests: HashMap<RequestId, usize>,
    /// The years in which the requests that are open were opened.
    open: HashMap<RequestId, u16>,
    records: BTreeMap<Category, BTreeMap<&'static str, u64>>,
}

impl<'a> Builder<'a> {
    fn new(facts: &Facts<'a>) -> Result<Self, serde_json::Error> {
        let policy = facts.policy;
        let recipients_of = |category: Category| {
            let got = policy.recipients.iter().filter(|r| r.data.contains(&category));
            got.map(|recipient| recipient.name.clone()).collect()
        };
        let categories = policy.categories.iter().map(|category| CategoryInfo {
            policy: category.clone(),
            recipients: recipients_of(category.name),
        });
        let recipients = policy.recipients.iter().map(|recipient| RecipientInfo {
            name: recipient.name.clone(),
            purpose: recipient.purpose.clone(),
            data: recipient.data.clone(),
            country: recipient.country.clone(),
            safeguard: recipient.safeguard.clone(),
            opt_out: recipient.opt_out.clone(),
            got_data_at: Vec::new(),
        });
        let document = Document {
            schema: SCHEMA,
            generated_at: Time(facts.now),
            data_held: !facts.events.is_empty(),
            retention_paused: false,
            controller: policy.controller.clone(),
            subject: Subject::default(),
            categories: categories.collect(),
            licenses: Vec::new(),
            restrictions: Vec::new(),
            requests: Vec::new(),
            recipients: recipients.collect(),
            disclosures: Vec::new(),
            notices: Vec::new(),
            accesses: Vec::new(),
            rights: policy.rights.clone(),
            automated_decisions: AutomatedDecisions {
                exist: false,
                explanation: NO_AUTOMATED_DECISIONS,
            },
            completeness: Vec::new(),
            log_proofs: facts.proofs.map(|proofs| LogProofs {
                checkpoint: proofs.checkpoint.clone(),
                log_key: proofs.log_key.clone(),
                records: Vec::new(),
            }),
            policy_hash: BASE64URL.encode(policy.hash()?),
        };
        Ok(Self {
            policy,
            document,
            licenses: HashMap::new(),
            activations: HashMap::new(),
            requests: HashMap::new(),
            open: HashMap::new(),
            records: BTreeMap::new(),
        })
    }

    /// Says of an event that it is in the log.
    fn prove(&mut self, position: domain::Position, event: &Event, proof: &Proof) {
        let of = self.named(event);
        let (Some(proofs), Some((category, kind))) = (&mut self.document.log_proofs, kind(event))
        else {
            return;
        };
        proofs.records.push(LogProof {
            category,
            event: kind,
            at: Time(event.at()),
            of,
            log_index: position.0,
            record: BASE64.encode(proof.record),
            path: proof.path.iter().map(|hash| BASE64.encode(hash)).collect(),
        });
    }

    /// The id in the document of what an event is of.
    fn named(&self, event: &Event) -> Option<String> {
        match event {
            Event::LicenseIssued { license, .. }
            | Event::LicenseKept { license, .. }
            | Event::LicenseSuspended { license, .. }
            | Event::LicenseReinstated { license, .. }
            | Event::LicenseRevoked { license, .. } => {
                let &place = self.licenses.get(license)?;
                Some(self.document.licenses[place].license_key.clone())
            }
            Event::Activated { activation, .. }
            | Event::ActivationKept { activation, .. }
            | Event::Deactivated { activation, .. } => {
                Some(BASE64URL.encode(activation.as_bytes()))
            }
            _ => None,
        }
    }

    #[allow(clippy::too_many_lines)] // an arm for each event type
    fn add(&mut self, event: &Event) {
        if let Some((category, kind)) = kind(event) {
            *self.records.entry(category).or_default().entry(kind).or_default() += 1;
        }
        match event {
            Event::SubjectRegistered { email, at, .. } | Event::EmailRecorded { email, at, .. } => {
                self.document.subject.email = Some(Datum {
                    value: email.expose().to_owned(),
                    category: Category::Email,
                    since: Time(*at),
                    kept_until: None,
                });
            }
            Event::NameRecorded { name, at, .. } => {
                self.document.subject.name = Some(Datum {
                    value: name.expose().to_owned(),
                    category: Category::Name,
                    since: Time(*at),
                    kept_until: None,
                });
            }
            Event::LicenseIssued { license, key, terms, at, .. }
            | Event::LicenseKept { license, key, terms, at, .. } => {
                self.licenses.insert(*license, self.document.licenses.len());
                self.document.licenses.push(License {
                    category: Category::License,
                    license_key: key.expose(),
                    product: terms.product.as_str().to_owned(),
                    seats: terms.seats.get(),
                    status: "active",
                    issued_at: Time(*at),
                    expires_at: terms.expires_at.map(Time),
                    updates_until: terms.updates_until.map(Time),
                    kept_until: None,
                    changes: Vec::new(),
                    activations: Vec::new(),
                });
            }
            Event::Activated { license, activation, lease_until, at, .. }
            | Event::ActivationKept { license, activation, lease_until, at, .. } => {
                let Some(&place) = self.licenses.get(license) else { return };
                let activations = &mut self.document.licenses[place].activations;
                self.activations.insert(*activation, (place, activations.len()));
                activations.push(Activation {
                    category: Category::ActivationTime,
                    activation_id: BASE64URL.encode(activation.as_bytes()),
                    activated_at: Time(*at),
                    lease_until: lease_until.map(Time),
                    deactivated_at: None,
                    deactivated_by: None,
                    kept_until: None,
                });
            }
            Event::Deactivated { activation, by_staff, at, .. } => {
                let Some(&(license, place)) = self.activations.get(activation) else { return };
                let activation = &mut self.document.licenses[license].activations[place];
                activation.deactivated_at = Some(Time(*at));
                activation.deactivated_by = Some(if *by_staff { "staff" } else { "app" });
            }
            Event::LicenseSuspended { license, at } => self.change(*license, "suspended", *at),
            Event::LicenseReinstated { license, at } => self.change(*license, "active", *at),
            Event::LicenseRevoked { license, at } => self.change(*license, "revoked", *at),
            Event::AccessRecorded { access, at, .. } => {
                let sealed_actor = match &access.actor {
                    RecordedActor::Sealed(sealed) => Some(BASE64URL.encode(sealed.as_bytes())),
                    RecordedActor::Named(_) => None,
                };
                self.document.accesses.push(Access {
                    category: Category::AccessRecord,
                    role: access.role.name(),
                    purpose: access.purpose.name(),
                    operation: access.operation.name(),
                    at: Time(*at),
                    sealed_actor,
                    kept_until: None,
                });
            }
            Event::RestrictionChanged { kind, holds, at, .. } => {
                self.restriction(kind.name(), *holds, Time(*at));
            }
            Event::RequestOpened { request, kind, received_at, at, .. } => {
                self.requests.insert(*request, self.document.requests.len());
                self.open.insert(*request, at.year());
                self.document.requests.push(Request::new(*kind, *received_at, *at));
            }
            Event::RequestStepped { request, step, at, .. } => {
                if step.closes() {
                    self.open.remove(request);
                }
                if let Some(&place) = self.requests.get(request) {
                    self.document.requests[place].step(step, *at);
                }
            }
            Event::Disclosed { recipient, categories, at, .. } => {
                let recipients = &mut self.document.recipients;
                if let Some(known) = recipients.iter_mut().find(|r| r.name == recipient.as_str()) {
                    known.got_data_at.push(Time(*at));
                }
                self.document.disclosures.push(Disclosure {
                    category: Category::AccessRecord,
                    recipient: recipient.as_str().to_owned(),
                    data: categories.clone(),
                    at: Time(*at),
                    kept_until: None,
                });
            }
            Event::RecipientTold { recipient, outcome, at, .. } => {
                self.document.notices.push(Notice {
                    category: Category::AccessRecord,
                    recipient: recipient.as_str().to_owned(),
                    state: outcome.name(),
                    at: Time(*at),
                    email: None,
                    new_email: None,
                    kept_until: None,
                });
            }
            // They name nobody. What recipients are still to be told comes apart.
            Event::ErasureBegun { .. }
            | Event::DataErased { .. }
            | Event::EpochMoved { .. }
            | Event::NoticeCreated { .. }
            | Event::NoticeSettled { .. }
            | Event::DayClosed { .. } => {}
        }
    }

    fn change(&mut self, license: LicenseId, status: &'static str, at: Timestamp) {
        if let Some(&place) = self.licenses.get(&license) {
            let license = &mut self.document.licenses[place];
            license.status = status;
            license.changes.push(Change { status, at: Time(at) });
        }
    }

    fn restriction(&mut self, kind: &'static str, holds: bool, at: Time) {
        let restrictions = &mut self.document.restrictions;
        let held = restrictions.iter_mut().find(|held| held.kind == kind && held.until.is_none());
        match held {
            Some(held) if !holds => held.until = Some(at),
            None if holds => restrictions.push(Restriction {
                category: Category::AccessRecord,
                kind,
                since: at,
                until: None,
                kept_until: None,
            }),
            _ => {}
        }
    }

    /// Says until when what is kept, which only all events together tell.
    fn finish(mut self, facts: &Facts<'_>) -> Document {
        let address_kept_until = self.license_ends(facts.now);
        let document = &mut self.document;
        for datum in document.subject.email.iter_mut().chain(&mut document.subject.name) {
            datum.kept_until = address_kept_until(datum.category);
        }
        for disclosure in &mut document.disclosures {
            disclosure.kept_until = address_kept_until(Category::Email);
        }
        for notice in &mut document.notices {
            notice.kept_until = address_kept_until(Category::Email);
        }
        self.record_ends();
        let document = &mut self.document;
        document.retention_paused =
            document.restrictions.iter().any(|restriction| restriction.until.is_none());
        for (notice, at) in facts.waiting {
            document.notices.push(waiting(notice, *at));
            *self
                .records
                .entry(Category::Email)
                .or_default()
                .entry("notice_created")
                .or_default() += 1;
        }
        for category in self.policy.categories.iter().map(|category| category.name) {
            let records = self.records.remove(&category).unwrap_or_default();
            let exported = records.values().sum();
            let in_log = facts.in_log.get(&category).copied().unwrap_or_default();
            self.document.completeness.push(Completeness { category, records, exported, in_log });
        }
        self.document
    }

    /// The ends of licenses and activations, as the sweep has them. Gives the end of what is kept until
    /// some days after the last license.
    fn license_ends(&mut self, now: Timestamp) -> impl Fn(Category) -> Option<Time> + use<'a> {
        let policy = self.policy;
        let licenses = &mut self.document.licenses;
        let ends: Vec<Option<Timestamp>> = licenses.iter().map(License::end).collect();
        let spans = licenses.iter().zip(&ends).flat_map(|(license, end)| {
            license.activations.iter().map(move |activation| Span {
                begun: activation.activated_at.0,
                ended: activation.deactivated_at.map(|at| at.0).or(*end),
            })
        });
        let mut kept = HashMap::new();
        for together in seat_years(spans) {
            let until = together.ended.map(|ended| {
                Time(policy.kept_until(Category::ActivationTime, ended.end_of_year()))
            });
            kept.extend(together.years.into_iter().map(|year| (year, until)));
        }
        for (license, end) in licenses.iter_mut().zip(&ends) {
            let mut until = end.map(|end| Time(policy.kept_until(Category::License, end)));
            for activation in &mut license.activations {
                let year = activation.activated_at.0.year();
                activation.kept_until = kept.get(&year).copied().flatten();
                // A license stays for as long as something is said of it.
                until = until.zip(activation.kept_until).map(|(one, other)| one.max(other));
            }
            license.kept_until = until;
        }
        // Where no license is left, the address goes with the next sweep.
        let last_end = ends.into_iter().collect::<Option<Vec<_>>>();
        let last_end = last_end.map(|ends| ends.into_iter().max());
        move |category| {
            let until = |end: Option<Timestamp>| {
                Time(end.map_or(now, |end| policy.kept_until(category, end)))
            };
            last_end.map(until)
        }
    }

    /// The ends of what goes with the year that it was recorded in.
    fn record_ends(&mut self) {
        // The steps of an open request may be in any year from that on.
        let open = self.open.values().min().copied();
        let policy = self.policy;
        let kept_until = |at: Timestamp| {
            let until = Time(policy.kept_until(Category::AccessRecord, at.end_of_year()));
            open.is_none_or(|first| at.year() < first).then_some(until)
        };
        for access in &mut self.document.accesses {
            access.kept_until = kept_until(access.at.0);
        }
        for request in &mut self.document.requests {
            request.kept_until = kept_until(request.opened_at);
        }
        for restriction in &mut self.document.restrictions {
            restriction.kept_until = kept_until(restriction.until.unwrap_or(restriction.since).0);
        }
    }
}

/// A notice that has not come to its end.
fn waiting(notice: &domain::Notice, at: Timestamp) -> Notice {
    let new_email = match &notice.change {
        NoticeChange::Rectified { email } => email.as_ref(),
        NoticeChange::Erased => None,
    };
    Notice {
        category: Category::Email,
        recipient: notice.recipient.as_str().to_owned(),
        state: "waiting",
        at: Time(at),
        email: Some(notice.email.expose().to_owned()),
        new_email: new_email.map(|email| email.expose().to_owned()),
        kept_until: Some(Time(at.plus(NOTICE_KEPT))),
    }
}

impl License {
    /// When it ended or will end.
    fn end(&self) -> Option<Timestamp> {
        let revoked = self.changes.iter().find(|change| change.status == "revoked");
        let ends = [self.expires_at, revoked.map(|change| change.at)];
        ends.into_iter().flatten().min().map(|end| end.0)
    }
}

impl Request {
    fn new(kind: RequestKind, received_at: Timestamp, opened_at: Timestamp) -> Self {
        Self {
            category: Category::AccessRecord,
            kind: kind.name(),
            received_at: Time(received_at),
            gdpr_due: Time(gdpr_due(received_at, false)),
            swiss_due: Time(swiss_due(received_at)),
            steps: Vec::new(),
            kept_until: None,
            opened_at,
        }
    }

    fn step(&mut self, step: &RequestStep, at: Timestamp) {
        let text = |note: &Note| Some(note.expose().to_owned());
        let (what, reason, evidence) = match step {
            RequestStep::VerifiedByCode => ("verified_by_code", None, None),
            RequestStep::VerifiedByReceipt => ("verified_by_receipt", None, None),
            RequestStep::Extended { reason } => {
                self.gdpr_due = Time(gdpr_due(self.received_at.0, true));
                ("extended", text(reason), None)
            }
            RequestStep::Approved => ("approved", None, None),
            RequestStep::Exported => ("exported", None, None),
            RequestStep::Refused { reason, evidence } => ("refused", text(reason), text(evidence)),
            RequestStep::Fulfilled => ("fulfilled", None, None),
        };
        self.steps.push(Step { what, at: Time(at), reason, evidence });
    }
}
