//! What must be, computed from what the witness saw by rules of its own, much simpler than the product's.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use countersign::domain::{
    ActivationId, Day, ErasureId, ErasureReason, Event, LicenseId, LicenseKey, NoticeId, Position,
    RecordedActor, RequestId, Status, SubjectId, Timestamp,
};
use countersign::log::record::KeySlot;

use crate::witness::{Seen, Witness};

#[derive(Default)]
pub(crate) struct Subject {
    /// In normal form.
    pub(crate) email: Option<String>,
    /// Every address there ever was.
    pub(crate) emails: BTreeSet<String>,
    /// Where something about them is.
    pub(crate) positions: Vec<Position>,
    /// All of theirs is gone.
    pub(crate) is_erased: bool,
}

pub(crate) struct License {
    pub(crate) subject: SubjectId,
    pub(crate) key: LicenseKey,
    pub(crate) product: String,
    pub(crate) seats: u32,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) status: Status,
    pub(crate) active: BTreeSet<ActivationId>,
    pub(crate) issued: Position,
}

#[derive(Clone, Copy)]
pub(crate) struct Activation {
    pub(crate) license: LicenseId,
    pub(crate) position: Position,
    pub(crate) has_ended: bool,
}

pub(crate) struct Erasure {
    pub(crate) subject: SubjectId,
    pub(crate) reason: ErasureReason,
    pub(crate) is_done: bool,
}

/// Licenses issued, seats taken.
pub(crate) type Counts = BTreeMap<(Day, String), (u32, u32)>;

/// What is there now, and what was.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) subjects: BTreeMap<SubjectId, Subject>,
    /// Those that are not erased.
    pub(crate) licenses: BTreeMap<LicenseId, License>,
    /// Those that are not erased.
    pub(crate) activations: BTreeMap<ActivationId, Activation>,
    pub(crate) erasures: BTreeMap<ErasureId, Erasure>,
    /// Whether each is settled.
    pub(crate) notices: BTreeMap<NoticeId, bool>,
    pub(crate) requests: BTreeSet<RequestId>,
    closed_requests: BTreeSet<RequestId>,
    /// How often each access is recorded.
    pub(crate) accesses: BTreeMap<String, u32>,
    pub(crate) happened: Counts,
    pub(crate) counted: Counts,
    /// Every license there ever was.
    pub(crate) all_licenses: BTreeSet<LicenseId>,
    pub(crate) all_activations: BTreeSet<ActivationId>,
    epoch: u32,
    destroyed: HashSet<KeySlot>,
    /// Keys destroyed since an erasure last stated what went.
    unstated: HashSet<KeySlot>,
    next: usize,
    next_destroyed: usize,
}

impl Model {
    /// Takes in what is new, an event at a time; `each` sees every state between, the first and the
    /// last included.
    pub(crate) fn follow(&mut self, witness: &Witness, mut each: impl FnMut(&Self)) {
        each(self);
        while let Some(seen) = witness.seen.get(self.next) {
            let position = Position(self.next as u64);
            self.destroy_until(position, witness);
            self.apply(position, seen, witness);
            self.next += 1;
            each(self);
        }
        self.destroy_until(witness.head(), witness);
    }

    /// Takes in the keys that were destroyed before the event at a position.
    fn destroy_until(&mut self, position: Position, witness: &Witness) {
        let destroyed = &witness.destroyed[self.next_destroyed..];
        for (_, slot) in destroyed.iter().take_while(|(at, _)| *at <= position) {
            self.next_destroyed += 1;
            if self.destroyed.insert(*slot) {
                self.unstated.insert(*slot);
            }
        }
    }

    /// Whether what is at a position is erased.
    pub(crate) fn is_erased(&self, position: Position, witness: &Witness) -> bool {
        self.destroyed.contains(&witness.seen[usize::try_from(position.0).unwrap()].slot)
    }

    pub(crate) fn license_by_key(&self, key: &LicenseKey) -> Option<(&LicenseId, &License)> {
        // Of two the newer one counts.
        let with_key = self.licenses.iter().filter(|(_, license)| license.key == *key);
        with_key.max_by_key(|(_, license)| license.issued)
    }

    /// While an erasure is under way a kept license has the key too.
    pub(crate) fn licenses_with(&self, key: &LicenseKey) -> usize {
        self.licenses.values().filter(|license| license.key == *key).count()
    }

    #[allow(clippy::too_many_lines)] // an arm for each event type
    fn apply(&mut self, position: Position, seen: &Seen, witness: &Witness) {
        match &seen.event {
            Event::SubjectRegistered { subject, email, .. } => {
                assert!(!self.subjects.contains_key(subject), "a person is registered twice");
                let email = email.expose_normal().to_owned();
                let others = self.subjects.values().filter(|s| s.email.as_ref() == Some(&email));
                assert_eq!(others.count(), 0, "an address is registered twice");
                self.address(*subject, email);
                self.about(*subject, position);
            }
            Event::EmailRecorded { subject, email, .. } => {
                self.address(*subject, email.expose_normal().to_owned());
                self.about(*subject, position);
            }
            Event::LicenseIssued { license, subject, key, terms, at } => {
                let count = self.happened.entry((at.day(), terms.product.as_str().to_owned()));
                count.or_default().0 += 1;
                let (key, product) = (key.clone(), terms.product.as_str().to_owned());
                let license_is = License {
                    subject: *subject,
                    key,
                    product,
                    seats: terms.seats.get(),
                    expires_at: terms.expires_at,
                    status: Status::Active,
                    active: BTreeSet::new(),
                    issued: position,
                };
                self.license(*license, license_is);
            }
            Event::LicenseKept { license, subject, key, terms, suspended, .. } => {
                let license_is = License {
                    subject: *subject,
                    key: key.clone(),
                    product: terms.product.as_str().to_owned(),
                    seats: terms.seats.get(),
                    expires_at: terms.expires_at,
                    status: if *suspended { Status::Suspended } else { Status::Active },
                    active: BTreeSet::new(),
                    issued: position,
                };
                self.license(*license, license_is);
            }
            Event::Activated { license, activation, at, .. } => {
                let known = self.activations.contains_key(activation);
                assert!(!known, "an activation is there twice");
                self.activated(*license, *activation, position);
                let license = &self.licenses[license];
                assert_eq!(license.status, Status::Active, "a withdrawn license was activated");
                let is_over = license.expires_at.is_some_and(|end| end <= *at);
                assert!(!is_over, "an expired license was activated");
                let count = self.happened.entry((at.day(), license.product.clone()));
                count.or_default().1 += 1;
            }
            Event::ActivationKept { license, activation, .. } => {
                self.activated(*license, *activation, position);
            }
            Event::Deactivated { license, activation, .. } => {
                let known = self.activations.get_mut(activation).unwrap();
                assert!(known.license == *license && !known.has_ended, "a seat was freed twice");
                known.has_ended = true;
                let license = self.licenses.get_mut(license).unwrap();
                assert!(license.active.remove(activation));
                let subject = license.subject;
                self.about(subject, position);
            }
            Event::LicenseSuspended { license, .. } => {
                self.status(*license, Status::Suspended, position);
            }
            Event::LicenseReinstated { license, .. } => {
                self.status(*license, Status::Active, position);
            }
            Event::LicenseRevoked { license, .. } => {
                self.status(*license, Status::Revoked, position);
            }
            Event::AccessRecorded { subject, access, .. } => {
                if let RecordedActor::Named(actor) = &access.actor {
                    *self.accesses.entry(actor.expose().to_owned()).or_default() += 1;
                }
                if *subject != SubjectId::NOBODY {
                    self.about(*subject, position);
                }
            }
            Event::NameRecorded { subject, .. }
            | Event::RestrictionChanged { subject, .. }
            | Event::Disclosed { subject, .. }
            | Event::RecipientTold { subject, .. } => self.about(*subject, position),
            Event::RequestOpened { request, subject, .. } => {
                assert!(self.requests.insert(*request), "a request was opened twice");
                self.about(*subject, position);
            }
            Event::RequestStepped { request, subject, step, .. } => {
                assert!(!self.closed_requests.contains(request), "a closed request went on");
                if step.closes() {
                    self.closed_requests.insert(*request);
                }
                self.about(*subject, position);
            }
            Event::ErasureBegun { erasure, subject, reason, .. } => {
                let erasure_is = Erasure { subject: *subject, reason: *reason, is_done: false };
                let known = self.erasures.insert(*erasure, erasure_is);
                assert!(known.is_none(), "an erasure began twice");
            }
            Event::DataErased { erasure, records, .. } => {
                let known = self.erasures.get_mut(erasure).unwrap();
                assert!(!known.is_done, "an erasure ended twice");
                known.is_done = true;
                if known.reason == ErasureReason::Request {
                    let subject = known.subject;
                    self.subjects.get_mut(&subject).unwrap().is_erased = true;
                }
                let stated: u64 = records.iter().map(|(_, count)| count).sum();
                assert_eq!(stated, self.forget(witness), "an erasure states what did not go");
            }
            Event::EpochMoved { epoch, .. } => {
                assert!(*epoch > self.epoch.max(1), "an epoch was recorded twice");
                self.epoch = *epoch;
            }
            Event::NoticeCreated { notice, .. } => {
                assert!(self.notices.insert(notice.id, false).is_none());
            }
            Event::NoticeSettled { notice, .. } => {
                let before = self.notices.insert(*notice, true);
                assert_eq!(before, Some(false), "a notice was settled twice");
            }
            Event::DayClosed { day, counts, .. } => {
                for (product, counts) in counts {
                    let key = (*day, product.as_str().to_owned());
                    let (licenses, activations) = self.counted.entry(key).or_default();
                    *licenses += counts.licenses;
                    *activations += counts.activations;
                }
            }
        }
    }

    fn address(&mut self, subject: SubjectId, email: String) {
        let known = self.subjects.entry(subject).or_default();
        known.emails.insert(email.clone());
        known.email = Some(email);
    }

    fn about(&mut self, subject: SubjectId, position: Position) {
        let known = self.subjects.entry(subject).or_default();
        assert!(!known.is_erased, "something is recorded about an erased person");
        known.positions.push(position);
    }

    fn license(&mut self, id: LicenseId, license: License) {
        self.about(license.subject, license.issued);
        self.all_licenses.insert(id);
        let known = self.licenses.insert(id, license);
        assert!(known.is_none(), "a license was issued twice");
    }

    fn status(&mut self, id: LicenseId, status: Status, position: Position) {
        let license = self.licenses.get_mut(&id).unwrap();
        assert_ne!(license.status, Status::Revoked, "a revoked license changed");
        license.status = status;
        let subject = license.subject;
        self.about(subject, position);
    }

    fn activated(&mut self, license: LicenseId, activation: ActivationId, position: Position) {
        let begun = Activation { license, position, has_ended: false };
        self.activations.insert(activation, begun);
        self.all_activations.insert(activation);
        let license = self.licenses.get_mut(&license).unwrap();
        license.active.insert(activation);
        assert!(license.active.len() <= license.seats as usize, "a seat is oversold");
        let subject = license.subject;
        self.about(subject, position);
    }

    /// Takes out what is erased; how many records went, notices aside.
    fn forget(&mut self, witness: &Witness) -> u64 {
        let unstated = std::mem::take(&mut self.unstated);
        let gone = |position: Position| {
            self.destroyed.contains(&witness.seen[usize::try_from(position.0).unwrap()].slot)
        };
        self.activations.retain(|_, activation| !gone(activation.position));
        self.licenses.retain(|_, license| !gone(license.issued));
        for (id, license) in &mut self.licenses {
            let is_there = |activation: &ActivationId| {
                self.activations.get(activation).is_some_and(|known| known.license == *id)
            };
            license.active.retain(is_there);
        }
        for subject in self.subjects.values_mut() {
            subject.positions.retain(|position| !gone(*position));
            let address = |position: &&Position| {
                let seen = &witness.seen[usize::try_from(position.0).unwrap()];
                let (Event::SubjectRegistered { .. } | Event::EmailRecorded { .. }) = seen.event
                else {
                    return false;
                };
                true
            };
            if subject.positions.iter().rfind(address).is_none() {
                subject.email = None;
            }
        }
        let went = witness.seen[..self.next].iter().filter(|seen| {
            unstated.contains(&seen.slot) && !matches!(seen.event, Event::NoticeCreated { .. })
        });
        went.count() as u64
    }
}
