//! The state that commands are decided against, and the two functions that everything rests on.

use std::collections::HashMap;

use super::{
    ActivationId, Event, License, LicenseCommand, LicenseId, Position, PrivacyRequest, Progress,
    Rejection, RequestId, RestrictionKind, Status, Subject, SubjectCommand, SubjectId, Timestamp,
    license, subject,
};

/// The part of the world that the commands at hand touch. Whoever calls [`decide`] has put in what
/// exists of the license, the subject and the activation that the command names; what is not here
/// does not exist.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Persons.
    pub subjects: HashMap<SubjectId, Subject>,
    /// Licenses.
    pub licenses: HashMap<LicenseId, License>,
    /// Activations, ended ones included.
    pub activations: HashMap<ActivationId, Activation>,
    /// What persons asked for.
    pub requests: HashMap<RequestId, PrivacyRequest>,
}

/// What the rules need to know of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activation {
    /// Whose seat it took.
    pub license: LicenseId,
    /// Where it began.
    pub activated: Position,
    /// Where it ended.
    pub ended: Option<Position>,
}

/// A wish, which the rules grant or refuse.
#[derive(Debug, Clone)]
pub enum Command {
    /// About a license.
    License(LicenseId, LicenseCommand),
    /// About a person.
    Subject(SubjectId, SubjectCommand),
}

/// What happens if the command is carried out now: nothing yet has. No events: it already was.
pub fn decide(state: &State, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::License(id, command) => license::decide(state, *id, command, now),
        Command::Subject(id, command) => subject::decide(state, *id, command, now),
    }
}

/// The state after an event. Events are facts, so this refuses nothing; an event about a license
/// that is not in `state` concerns somebody else.
pub fn evolve(state: &mut State, position: Position, event: &Event) {
    let status = |state: &mut State, id: &LicenseId, status: Status| {
        if let Some(license) = state.licenses.get_mut(id) {
            license.status = status;
        }
    };
    match event {
        Event::SubjectRegistered { subject, .. } => {
            let registered = Subject { email: Some(position), ..Subject::default() };
            state.subjects.insert(*subject, registered);
        }
        Event::LicenseIssued { license, subject, terms, .. } => {
            let issued = License {
                subject: *subject,
                terms: terms.clone(),
                status: Status::Active,
                used: 0,
                issued: position,
            };
            state.licenses.insert(*license, issued);
        }
        Event::Activated { license, activation, .. }
        | Event::ActivationKept { license, activation, .. } => {
            let begun = Activation { license: *license, activated: position, ended: None };
            state.activations.insert(*activation, begun);
            if let Some(license) = state.licenses.get_mut(license) {
                license.used += 1;
            }
        }
        Event::Deactivated { license, activation, .. } => {
            if let Some(activation) = state.activations.get_mut(activation) {
                activation.ended = Some(position);
            }
            if let Some(license) = state.licenses.get_mut(license) {
                license.used = license.used.saturating_sub(1);
            }
        }
        Event::LicenseSuspended { license, .. } => status(state, license, Status::Suspended),
        Event::LicenseReinstated { license, .. } => status(state, license, Status::Active),
        Event::LicenseRevoked { license, .. } => status(state, license, Status::Revoked),
        Event::EmailRecorded { subject, .. } => {
            state.subjects.entry(*subject).or_default().email = Some(position);
        }
        Event::NameRecorded { subject, .. } => {
            state.subjects.entry(*subject).or_default().name = Some(position);
        }
        Event::RestrictionChanged { subject, kind, holds, .. } => {
            let subject = state.subjects.entry(*subject).or_default();
            match kind {
                RestrictionKind::Restriction => subject.restricted = *holds,
                RestrictionKind::LegalHold => subject.held = *holds,
            }
        }
        Event::RequestOpened { request, subject, kind, received_at, by, is_unknown, .. } => {
            state.subjects.entry(*subject).or_default();
            let opened = PrivacyRequest {
                subject: *subject,
                kind: *kind,
                received_at: *received_at,
                opened_by: *by,
                opened: position,
                is_unknown: *is_unknown,
                progress: Progress::default(),
            };
            state.requests.insert(*request, opened);
        }
        Event::RequestStepped { request, step, .. } => {
            if let Some(request) = state.requests.get_mut(request) {
                request.progress.step(step);
            }
        }
        // What of a person's is left is read again from where it is stored.
        Event::ErasureBegun { .. }
        | Event::DataErased { .. }
        | Event::EpochMoved { .. }
        // No rule depends on these.
        | Event::AccessRecorded { .. }
        | Event::Disclosed { .. }
        | Event::NoticeCreated { .. }
        | Event::NoticeSettled { .. }
        | Event::RecipientTold { .. }
        | Event::DayClosed { .. } => {}
        Event::LicenseKept { license, subject, terms, suspended, .. } => {
            let status = if *suspended { Status::Suspended } else { Status::Active };
            let terms = terms.clone();
            let kept = License { subject: *subject, terms, status, used: 0, issued: position };
            state.licenses.insert(*license, kept);
            state.subjects.insert(*subject, Subject::default());
        }
    }
}
