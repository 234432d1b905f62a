//! Apps and staff: what they know, what they ask next, and what an answer must be.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign::domain::{
    Access, ActivationId, Actor, ActorTag, Authority, Binding, By, Category, Email, ErasureId,
    Event, LicenseCommand, LicenseId, LicenseKey, Nonce, Note, NoticeId, NoticeOutcome, Operation,
    PersonName, Position, Product, Purpose, RecipientName, RecordedActor, Rejection, RequestId,
    RequestKind, RequestStep, RestrictionKind, Role, Seats, Status, SubjectCommand, SubjectId,
    Terms, Timestamp,
};
use countersign::receipt::PublicKeys;
use countersign::service::activation::Activate;
use countersign::service::store::Store;
use countersign::service::writer::Request;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _};

use crate::model::{License, Model};
use crate::server::{Ask, Outcome};
use crate::witness::Witness;

/// Few, so that they meet.
const EMAILS: u32 = 5;
const PRODUCTS: [&str; 2] = ["App", "Leased"];

struct KnownLicense {
    id: LicenseId,
    email: u32,
    key: LicenseKey,
    terms: Terms,
    /// The server that was asked for it. Another one asked at the same time would make another key.
    server: usize,
}

#[derive(Clone)]
struct KnownActivation {
    license: usize,
    nonce: Nonce,
    binding: Binding,
}

/// What clients know.
#[derive(Default)]
pub(crate) struct Clients {
    licenses: Vec<KnownLicense>,
    activations: Vec<KnownActivation>,
    requests: Vec<(RequestId, RequestKind, SubjectId)>,
    /// The receipt that each activation got, and the hash of its record.
    pub(crate) receipts: BTreeMap<ActivationId, (String, [u8; 32])>,
    calls: u32,
}

/// What was asked, for judging the answer.
pub(crate) enum Asked {
    Activate { email: String, key: LicenseKey, activation: ActivationId },
    Deactivate { activation: ActivationId },
    Staff { marker: Option<String>, erasure: Option<ErasureId>, settles: Option<NoticeId> },
}

/// Who asks, and whom.
pub(crate) struct Scene<'a> {
    pub(crate) rng: &'a mut StdRng,
    pub(crate) store: &'a Store,
    pub(crate) now: Timestamp,
    pub(crate) server: usize,
    /// Other servers are on the same log.
    pub(crate) is_shared: bool,
}

fn email(number: u32) -> Email {
    Email::parse(&format!("person{number}@example.com")).unwrap()
}

fn random<const N: usize>(rng: &mut StdRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

impl Clients {
    /// Something that somebody may ask now.
    pub(crate) fn next(&mut self, scene: &mut Scene) -> (Asked, Ask) {
        loop {
            let asked = match scene.rng.random_range(0..100) {
                0..20 => self.activate_anew(scene),
                20..32 => self.activate_again(scene),
                32..42 => self.deactivate(scene),
                42..52 => Some(self.issue(scene)),
                52..54 => self.issue_again(scene),
                54..63 => self.change_license(scene),
                63..66 => self.free_seat(scene),
                66..70 => self.record_access(scene),
                70..73 => self.restrict(scene),
                73..75 => Some(asked_alone(Request::CloseDays(scene.now.day()))),
                75..80 => self.open_request(scene),
                80..100 if scene.is_shared => None,
                80..90 => self.advance_request(scene),
                90..93 => self.disclose(scene),
                93..95 => expire(scene),
                95..98 => settle(scene),
                _ => Some(asked_alone(Request::MoveEpoch)),
            };
            if let Some(asked) = asked {
                return asked;
            }
        }
    }

    /// A look that is recorded with nobody: it is always granted, and an append.
    pub(crate) fn touch(&mut self) -> (Asked, Ask) {
        let (marker, access) = self.access(Operation::GetHistory);
        staff(marker, Request::Subject(SubjectId::NOBODY, SubjectCommand::RecordAccess(access)))
    }

    /// Each call by staff has a name of its own, so that what it leaves can be counted.
    fn access(&mut self, operation: Operation) -> (String, Access) {
        self.calls += 1;
        let marker = format!("call{}", self.calls);
        let actor = RecordedActor::Named(Actor::parse(&marker).unwrap());
        let (role, purpose) = (Role::Privacy, Purpose::AccessRequest);
        (marker, Access { actor, role, purpose, operation, request: None })
    }

    fn by(&mut self, operation: Operation, who: u8) -> (String, By) {
        let (marker, access) = self.access(operation);
        (marker, By { access, tag: ActorTag::from_bytes([who; 16]) })
    }

    fn activate_anew(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let license = scene.rng.random_range(0..self.licenses.len().max(1));
        self.licenses.get(license)?;
        let (nonce, binding) = (random(scene.rng), random(scene.rng));
        let (nonce, binding) = (Nonce::from_bytes(nonce), Binding::from_bytes(binding));
        let activation = KnownActivation { license, nonce, binding };
        self.activations.push(activation.clone());
        Some(self.activate(scene, &activation))
    }

    fn activate_again(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let activation = self.activations.choose(scene.rng)?.clone();
        Some(self.activate(scene, &activation))
    }

    fn activate(&self, scene: &mut Scene, activation: &KnownActivation) -> (Asked, Ask) {
        let license = &self.licenses[activation.license];
        let owner = if scene.rng.random_bool(0.1) {
            // Somebody else's address.
            scene.rng.random_range(0..EMAILS)
        } else {
            license.email
        };
        let (email, key) = (email(owner), license.key.clone());
        let (nonce, binding) = (activation.nonce, activation.binding);
        let activation = ActivationId::derive(&nonce, &binding);
        let asked = Asked::Activate {
            email: email.expose_normal().to_owned(),
            key: key.clone(),
            activation,
        };
        (asked, Ask::Activate(Activate { email: Some(email), key, nonce, binding }))
    }

    fn deactivate(&self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let number = scene.rng.random_range(0..self.receipts.len().max(1));
        let (activation, (receipt, _)) = self.receipts.iter().nth(number)?;
        let asked = Asked::Deactivate { activation: *activation };
        Some((asked, Ask::Deactivate(receipt.clone())))
    }

    fn issue(&mut self, scene: &mut Scene) -> (Asked, Ask) {
        let rng = &mut *scene.rng;
        let expires = rng.random_bool(0.4).then(|| rng.random_range(1..600));
        let expires_at =
            expires.map(|days: u64| scene.now.plus(Duration::from_secs(days * 86_400)));
        let terms = Terms {
            product: Product::parse(PRODUCTS.choose(rng).unwrap()).unwrap(),
            seats: Seats::new(rng.random_range(1..4)).unwrap(),
            expires_at,
            updates_until: None,
        };
        let id = LicenseId::from_bytes(random(rng));
        let key = LicenseKey::generate(|| rng.random());
        let (email, server) = (rng.random_range(0..EMAILS), scene.server);
        self.licenses.push(KnownLicense { id, email, key, terms, server });
        self.issue_known(scene, self.licenses.len() - 1)
    }

    fn issue_again(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let number = scene.rng.random_range(0..self.licenses.len().max(1));
        let known = self.licenses.get(number)?;
        (known.server == scene.server).then(|| self.issue_known(scene, number))
    }

    fn issue_known(&mut self, scene: &mut Scene, number: usize) -> (Asked, Ask) {
        let (marker, by) = self.access(Operation::IssueLicense);
        let name = scene.rng.random_bool(0.2).then(|| PersonName::parse("Ada").unwrap());
        let KnownLicense { id, email: owner, key, terms, .. } = &self.licenses[number];
        let (license, email, key) = (*id, email(*owner), key.clone());
        staff(marker, Request::Issue { license, email, name, key, terms: terms.clone(), by })
    }

    /// A license as staff find it: a kept one goes by its new id.
    fn some_license(&self, scene: &mut Scene) -> Option<LicenseId> {
        let known = self.licenses.choose(scene.rng)?;
        let tag = scene.store.vault.tag_key().license_key(&known.key);
        scene.store.vault.license_by_key(&tag)
    }

    fn change_license(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let license = self.some_license(scene)?;
        let (marker, by) = self.access(Operation::SuspendLicense);
        let command = match scene.rng.random_range(0..10) {
            0..4 => LicenseCommand::Suspend(by),
            4..9 => LicenseCommand::Reinstate(by),
            _ => LicenseCommand::Revoke(by),
        };
        Some(staff(marker, Request::License(license, command)))
    }

    fn free_seat(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let KnownActivation { nonce, binding, .. } = self.activations.choose(scene.rng)?.clone();
        let activation = ActivationId::derive(&nonce, &binding);
        let license = scene.store.views.activation(activation).unwrap()?.license;
        let (marker, by) = self.access(Operation::FreeSeat);
        let command = LicenseCommand::Deactivate { activation, by: Some(by) };
        Some(staff(marker, Request::License(license, command)))
    }

    fn record_access(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let subject = some_subject(scene)?;
        let (marker, access) = self.access(Operation::GetHistory);
        let command = SubjectCommand::RecordAccess(access);
        Some(staff(marker, Request::Subject(subject, command)))
    }

    fn restrict(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let subject = some_subject(scene)?;
        let kinds = [RestrictionKind::Restriction, RestrictionKind::LegalHold];
        let (kind, holds) = (*kinds.choose(scene.rng)?, scene.rng.random_bool(0.3));
        let (marker, by) = self.access(Operation::SetRestriction);
        let command = SubjectCommand::Restrict { kind, holds, by };
        Some(staff(marker, Request::Subject(subject, command)))
    }

    fn open_request(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        const KINDS: [RequestKind; 8] = [
            RequestKind::Access,
            RequestKind::Rectification,
            RequestKind::Rectification,
            RequestKind::Erasure,
            RequestKind::Erasure,
            RequestKind::Restriction,
            RequestKind::Objection,
            RequestKind::Portability,
        ];
        let email = some_email(scene);
        // By the time that it is decided, nobody may have that address any more.
        let subject = subject_of(scene, &email)?;
        let kind = *KINDS.choose(scene.rng)?;
        let request = RequestId::from_bytes(random(scene.rng));
        self.requests.push((request, kind, subject));
        let (marker, by) = self.by(Operation::OpenRequest, 1);
        let received_at = scene.now;
        Some(staff(marker, Request::Open { email, request, kind, received_at, by }))
    }

    /// The next step of a request, mostly the right one.
    fn advance_request(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let (request, kind, subject) = *self.requests.choose(scene.rng)?;
        let is_verified = match scene.store.request(request) {
            Ok(Some(known)) => known.progress.verified,
            _ => return None,
        };
        let note = || Note::parse("a reason").unwrap();
        let step = |step| move |by| SubjectCommand::Step { request, step, by };
        let command: Box<dyn FnOnce(By) -> SubjectCommand> = match scene.rng.random_range(0..20) {
            0 => Box::new(step(RequestStep::Extended { reason: note() })),
            1 => Box::new(step(RequestStep::Refused { reason: note(), evidence: note() })),
            2..5 => Box::new(step(RequestStep::Approved)),
            5..8 => Box::new(step(RequestStep::VerifiedByReceipt)),
            _ if !is_verified => Box::new(step(RequestStep::VerifiedByCode)),
            _ => match kind {
                RequestKind::Erasure => return Some(self.erase(scene, request, subject)),
                RequestKind::Rectification => {
                    let erasure = ErasureId::from_bytes(random(scene.rng));
                    let new_email = scene.rng.random_range(0..2 * EMAILS);
                    let email = scene.rng.random_bool(0.7).then(|| email(new_email));
                    let name =
                        scene.rng.random_bool(0.4).then(|| PersonName::parse("Eve").unwrap());
                    let notices = Vec::new();
                    Box::new(move |by| SubjectCommand::Rectify {
                        request,
                        erasure,
                        email,
                        name,
                        notices,
                        authority: Authority::default(),
                        by,
                    })
                }
                RequestKind::Access | RequestKind::Portability if scene.rng.random_bool(0.5) => {
                    Box::new(step(RequestStep::Exported))
                }
                _ => Box::new(step(RequestStep::Fulfilled)),
            },
        };
        let who = scene.rng.random_range(1..4);
        let (marker, by) = self.by(Operation::FulfilRequest, who);
        let command = command(by);
        let erasure = match &command {
            SubjectCommand::Rectify { erasure, .. } => Some(*erasure),
            _ => None,
        };
        Some(erasing(marker, erasure, Request::Subject(subject, command)))
    }

    fn erase(&mut self, scene: &mut Scene, request: RequestId, subject: SubjectId) -> (Asked, Ask) {
        let (marker, by) = self.by(Operation::EraseSubject, 2);
        let erasure = ErasureId::from_bytes(random(scene.rng));
        let [needs_approval, keep_licenses] = [0.3, 0.5].map(|p| scene.rng.random_bool(p));
        let erase = Request::Erase { subject, request, erasure, needs_approval, keep_licenses, by };
        erasing(marker, Some(erasure), erase)
    }

    fn disclose(&mut self, scene: &mut Scene) -> Option<(Asked, Ask)> {
        let subject = some_subject(scene)?;
        let (marker, by) = self.access(Operation::RecordDisclosure);
        let recipients = ["FastSpring", "ZenDesk", "MailChimp"];
        let recipient = RecipientName::parse(recipients.choose(scene.rng)?)?;
        let (categories, at) = (vec![Category::Email], scene.now);
        let command = SubjectCommand::Disclose { recipient, categories, at, by };
        Some(staff(marker, Request::Subject(subject, command)))
    }

    /// Judges an answer by what is in the log.
    pub(crate) fn judge(
        &mut self,
        asked: &Asked,
        outcome: &Outcome,
        model: &Model,
        witness: &Witness,
        keys: &PublicKeys,
    ) {
        match (asked, outcome) {
            (Asked::Activate { activation, .. }, Outcome::Activated(Ok(receipt))) => {
                let claims = keys.verify(receipt).unwrap();
                assert!(claims.activation == *activation, "the receipt is of another activation");
                let (position, event) =
                    witness.only(&claims.record).expect("an acknowledged activation is not there");
                let (Event::Activated { activation: recorded, .. }
                | Event::ActivationKept { activation: recorded, .. }) = event
                else {
                    panic!("a receipt names a record of something else");
                };
                assert!(recorded == activation);
                if let Some((first, record)) = self.receipts.get(activation)
                    && let Some((before, _)) = witness.only(record)
                    && (before == position || !model.is_erased(before, witness))
                {
                    assert_eq!(first, receipt, "a retry got another receipt");
                }
                self.receipts.insert(*activation, (receipt.clone(), claims.record));
            }
            (Asked::Staff { marker, erasure, settles }, outcome) => {
                let recorded = marker.as_ref().and_then(|marker| model.accesses.get(marker));
                let recorded = recorded.copied().unwrap_or(0);
                match outcome {
                    Outcome::Staff(Ok(granted)) => {
                        for stored in &granted.events {
                            let (_, there) = witness
                                .only(&stored.hash)
                                .expect("an acknowledged event is not there");
                            let same = std::mem::discriminant(there)
                                == std::mem::discriminant(&stored.event);
                            assert!(same, "another event is there");
                        }
                        assert_eq!(recorded, u32::from(marker.is_some()), "recorded so often");
                        let begun = granted
                            .events
                            .iter()
                            .any(|stored| matches!(stored.event, Event::ErasureBegun { .. }));
                        if let (true, Some(erasure)) = (begun, erasure) {
                            assert!(model.erasures[erasure].is_done, "an erasure did not end");
                        }
                        if let Some(notice) = settles {
                            assert!(model.notices[notice], "a notice is not settled");
                        }
                    }
                    Outcome::Staff(Err(_)) => {
                        assert_eq!(recorded, 0, "what was refused is recorded");
                    }
                    _ => assert!(recorded <= 1, "what was asked once is recorded twice"),
                }
            }
            (Asked::Deactivate { activation }, Outcome::Deactivated(Ok(()))) => {
                let known = model.activations.get(activation);
                assert!(known.is_none_or(|known| known.has_ended), "a deactivation is lost");
            }
            _ => {}
        }
    }
}

/// What an app was refused. One of the states while it waited must be a reason.
pub(crate) struct Refusal<'a> {
    asked: &'a Asked,
    pub(crate) rejection: Rejection,
    pub(crate) has_reason: bool,
    /// Where the activation was in the state before.
    before: Option<Position>,
}

impl<'a> Refusal<'a> {
    pub(crate) fn new(asked: &'a Asked, rejection: Rejection, has_reason: bool) -> Self {
        Self { asked, rejection, has_reason, before: None }
    }

    /// Looks at the next state.
    pub(crate) fn look_at(&mut self, model: &Model, now: Timestamp) {
        let (Asked::Activate { activation, .. } | Asked::Deactivate { activation }) = self.asked
        else {
            return;
        };
        let there = model.activations.get(activation).map(|known| known.position);
        // What was found is erased a moment later, or went to a kept license.
        let went = self.before.is_some() && self.before != there;
        let went = went && self.rejection == Rejection::LicenseNotFound;
        self.has_reason |= went || is_reason(self.asked, self.rejection, model, now);
        self.before = there;
    }
}

/// Whether this state is a reason for the refusal.
fn is_reason(asked: &Asked, rejection: Rejection, model: &Model, now: Timestamp) -> bool {
    match asked {
        Asked::Activate { email, key, activation } => {
            let license = model.license_by_key(key);
            let known = model.activations.get(activation);
            let is = |test: &dyn Fn(&LicenseId, &License) -> bool| {
                license.is_some_and(|(id, license)| test(id, license))
            };
            match rejection {
                // It went to a kept license meanwhile.
                Rejection::LicenseNotFound if model.licenses_with(key) > 1 => true,
                Rejection::LicenseNotFound => !is(&|_, license| {
                    let owner = model.subjects[&license.subject].email.as_ref();
                    owner.is_none_or(|owner| owner == email)
                }),
                Rejection::SeatsExhausted { .. } => {
                    is(&|_, license| license.active.len() >= license.seats as usize)
                }
                Rejection::LicenseSuspended => is(&|_, l| l.status == Status::Suspended),
                Rejection::LicenseRevoked => is(&|_, l| l.status == Status::Revoked),
                Rejection::LicenseExpired => is(&|_, l| l.expires_at.is_some_and(|end| end <= now)),
                Rejection::ActivationEnded => known.is_some_and(|known| known.has_ended),
                Rejection::NonceReused => is(&|id, _| known.is_some_and(|k| k.license != *id)),
                _ => false,
            }
        }
        Asked::Deactivate { activation } => {
            let is_gone = !model.activations.contains_key(activation);
            is_gone
                && matches!(rejection, Rejection::LicenseNotFound | Rejection::ActivationNotFound)
        }
        Asked::Staff { .. } => true,
    }
}

fn staff(marker: String, request: Request) -> (Asked, Ask) {
    erasing(marker, None, request)
}

fn erasing(marker: String, erasure: Option<ErasureId>, request: Request) -> (Asked, Ask) {
    (Asked::Staff { marker: Some(marker), erasure, settles: None }, Ask::Staff(request))
}

fn asked_alone(request: Request) -> (Asked, Ask) {
    (Asked::Staff { marker: None, erasure: None, settles: None }, Ask::Staff(request))
}

fn expire(scene: &mut Scene) -> Option<(Asked, Ask)> {
    let subjects = scene.store.views.subjects(SubjectId::NOBODY, 100).unwrap();
    let subject = *subjects.choose(scene.rng)?;
    let erasure = ErasureId::from_bytes(random(scene.rng));
    let request =
        Request::Subject(subject, SubjectCommand::Expire { erasure, notices: Vec::new() });
    let asked = Asked::Staff { marker: None, erasure: Some(erasure), settles: None };
    Some((asked, Ask::Staff(request)))
}

fn settle(scene: &mut Scene) -> Option<(Asked, Ask)> {
    let notice = *scene.store.views.notices().unwrap().choose(scene.rng)?;
    let outcomes = [NoticeOutcome::Delivered, NoticeOutcome::ByHand, NoticeOutcome::GivenUp];
    let request = Request::Settle(notice, *outcomes.choose(scene.rng)?);
    let asked = Asked::Staff { marker: None, erasure: None, settles: Some(notice) };
    Some((asked, Ask::Staff(request)))
}

fn some_subject(scene: &mut Scene) -> Option<SubjectId> {
    let email = some_email(scene);
    subject_of(scene, &email)
}

fn some_email(scene: &mut Scene) -> Email {
    email(scene.rng.random_range(0..2 * EMAILS))
}

fn subject_of(scene: &Scene, email: &Email) -> Option<SubjectId> {
    scene.store.vault.subject_by_email(&scene.store.vault.tag_key().email(email))
}
