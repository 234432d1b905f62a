//! The rules, under random commands: no license ever has more activations than seats, replaying the
//! events gives the state, a retry changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use countersign::domain::{
    Access, ActivationId, Actor, Command, Email, Event, Issue, LicenseCommand, LicenseId,
    LicenseKey, Operation, Position, Product, Purpose, RecordedActor, Rejection, Role, Seats,
    SigningKeyId, State, Status, SubjectCommand, SubjectId, Terms, Timestamp, decide, evolve,
};
use proptest::prelude::*;

/// Few enough that commands meet.
const LICENSES: u8 = 3;
const ACTIVATIONS: u8 = 8;
const SUBJECTS: u8 = 2;

/// A state, its log, and the clock.
#[derive(Default)]
struct World {
    state: State,
    log: Vec<Event>,
    now: i64,
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + self.now).unwrap()
    }

    fn run(&mut self, command: &Command) -> Result<Vec<Event>, Rejection> {
        let events = decide(&self.state, command, self.now())?;
        for event in &events {
            evolve(&mut self.state, Position(self.log.len() as u64), event);
            self.log.push(event.clone());
        }
        Ok(events)
    }

    fn replayed(&self) -> State {
        let mut state = State::default();
        for (position, event) in self.log.iter().enumerate() {
            evolve(&mut state, Position(position as u64), event);
        }
        state
    }
}

fn access(operation: Operation) -> Access {
    Access {
        actor: RecordedActor::Named(Actor::parse("alice").unwrap()),
        role: Role::Issuer,
        purpose: Purpose::LicenseAdministration,
        operation,
        request: None,
    }
}

fn license_id(n: u8) -> LicenseId {
    LicenseId::from_bytes([n; 16])
}

fn activation_id(n: u8) -> ActivationId {
    ActivationId::from_bytes([n; 16])
}

fn subject_id(n: u8) -> SubjectId {
    SubjectId::from_bytes([n; 16])
}

fn issue(license: u8, subject: u8, seats: u32, expires_in: Option<i64>, world_now: i64) -> Command {
    let terms = Terms {
        product: Product::parse("iMazing").unwrap(),
        seats: Seats::new(seats).unwrap(),
        expires_at: expires_in
            .map(|after| Timestamp::from_millis(1_700_000_000_000 + world_now + after).unwrap()),
        updates_until: None,
    };
    let issue = Issue {
        subject: subject_id(subject),
        name: None,
        email: Email::parse(&format!("person{subject}@example.com")).unwrap(),
        key: LicenseKey::generate({
            let mut bits = u128::from(license) << 100;
            move || {
                bits += 1 << 8;
                bits
            }
        }),
        terms,
        by: access(Operation::IssueLicense),
    };
    Command::License(license_id(license), LicenseCommand::Issue(issue))
}

fn activate(license: u8, activation: u8) -> Command {
    let command = LicenseCommand::Activate {
        activation: activation_id(activation),
        signing_key: SigningKeyId::from_bytes([9; 32]),
        lease: Some(Duration::from_secs(60)),
    };
    Command::License(license_id(license), command)
}

fn deactivate(license: u8, activation: u8, by_staff: bool) -> Command {
    let command = LicenseCommand::Deactivate {
        activation: activation_id(activation),
        by: by_staff.then(|| access(Operation::FreeSeat)),
    };
    Command::License(license_id(license), command)
}

/// What a random step does, with the clock moving on in between.
#[derive(Debug, Clone)]
enum Step {
    Issue { license: u8, subject: u8, seats: u32, expires_in: Option<i64> },
    Activate { license: u8, activation: u8 },
    Deactivate { license: u8, activation: u8, by_staff: bool },
    Suspend(u8),
    Reinstate(u8),
    Revoke(u8),
    Read(u8),
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let license = 0..LICENSES;
    let activation = 0..ACTIVATIONS;
    prop_oneof![
        2 => (license.clone(), 0..SUBJECTS, 1..4u32, proptest::option::of(0..200i64)).prop_map(
            |(license, subject, seats, expires_in)| Step::Issue { license, subject, seats, expires_in }
        ),
        10 => (license.clone(), activation.clone())
            .prop_map(|(license, activation)| Step::Activate { license, activation }),
        4 => (license.clone(), activation, any::<bool>()).prop_map(
            |(license, activation, by_staff)| Step::Deactivate { license, activation, by_staff }
        ),
        1 => license.clone().prop_map(Step::Suspend),
        2 => license.clone().prop_map(Step::Reinstate),
        1 => license.prop_map(Step::Revoke),
        1 => (0..SUBJECTS).prop_map(Step::Read),
        2 => (0..50i64).prop_map(Step::Wait),
    ]
}

fn command(step: &Step, now: i64) -> Option<Command> {
    let on = |license: u8, command| Some(Command::License(license_id(license), command));
    match *step {
        Step::Issue { license, subject, seats, expires_in } => {
            Some(issue(license, subject, seats, expires_in, now))
        }
        Step::Activate { license, activation } => Some(activate(license, activation)),
        Step::Deactivate { license, activation, by_staff } => {
            Some(deactivate(license, activation, by_staff))
        }
        Step::Suspend(license) => {
            on(license, LicenseCommand::Suspend(access(Operation::SuspendLicense)))
        }
        Step::Reinstate(license) => {
            on(license, LicenseCommand::Reinstate(access(Operation::ReinstateLicense)))
        }
        Step::Revoke(license) => {
            on(license, LicenseCommand::Revoke(access(Operation::RevokeLicense)))
        }
        Step::Read(subject) => Some(Command::Subject(
            subject_id(subject),
            SubjectCommand::RecordAccess(access(Operation::GetHistory)),
        )),
        Step::Wait(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_license_has_more_activations_than_seats(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::default();
        for step in &steps {
            if let Step::Wait(millis) = step {
                world.now += millis;
                continue;
            }
            let Some(command) = command(step, world.now) else { continue };
            let before = world.state.clone();
            let outcome = world.run(&command);
            if outcome.as_ref().map_or(true, Vec::is_empty) {
                prop_assert_eq!(&world.state, &before, "what is refused changes nothing");
            }

            let mut held: HashMap<LicenseId, u32> = HashMap::new();
            for activation in world.state.activations.values().filter(|a| a.ended.is_none()) {
                *held.entry(activation.license).or_default() += 1;
            }
            for (id, license) in &world.state.licenses {
                let held = held.get(id).copied().unwrap_or(0);
                prop_assert_eq!(license.used, held);
                prop_assert!(held <= license.terms.seats.get());
            }
        }
        prop_assert_eq!(world.replayed(), world.state);
    }

    #[test]
    fn a_retry_changes_nothing(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::default();
        for step in &steps {
            if let Step::Wait(millis) = step {
                world.now += millis;
                continue;
            }
            let Some(command) = command(step, world.now) else { continue };
            if world.run(&command).is_err() {
                continue;
            }
            let state = world.state.clone();
            let again = world.run(&command).expect("what was granted is granted again at once");
            prop_assert_eq!(&world.state, &state);
            let only_access = again.iter().all(|e| matches!(e, Event::AccessRecorded { .. }));
            prop_assert!(only_access, "a retry adds nothing but the record of the access");
        }
    }
}

fn one_license(seats: u32, expires_in: Option<i64>) -> World {
    let mut world = World::default();
    world.run(&issue(1, 1, seats, expires_in, 0)).unwrap();
    world
}

#[test]
fn a_retry_is_granted_when_the_seats_are_full_and_after_expiry() {
    let mut world = one_license(1, Some(10));
    assert_eq!(world.run(&activate(1, 1)).unwrap().len(), 1);
    let full = Rejection::SeatsExhausted { seats: Seats::new(1).unwrap(), used: 1 };
    assert_eq!(world.run(&activate(1, 2)).unwrap_err(), full);
    assert!(world.run(&activate(1, 1)).unwrap().is_empty());
    world.now = 10;
    assert!(world.run(&activate(1, 1)).unwrap().is_empty());
    assert_eq!(world.run(&activate(1, 2)).unwrap_err(), Rejection::LicenseExpired);
}

#[test]
fn an_ended_activation_is_not_revived_by_its_nonce() {
    let mut world = one_license(2, None);
    world.run(&activate(1, 1)).unwrap();
    world.run(&deactivate(1, 1, false)).unwrap();
    assert_eq!(world.run(&activate(1, 1)).unwrap_err(), Rejection::ActivationEnded);
    assert!(world.run(&deactivate(1, 1, false)).unwrap().is_empty());
}

#[test]
fn an_activation_belongs_to_one_license() {
    let mut world = one_license(2, None);
    world.run(&issue(2, 1, 2, None, 0)).unwrap();
    world.run(&activate(1, 1)).unwrap();
    assert_eq!(world.run(&activate(2, 1)).unwrap_err(), Rejection::NonceReused);
    assert_eq!(world.run(&deactivate(2, 1, false)).unwrap_err(), Rejection::ActivationNotFound);
}

#[test]
fn a_withdrawn_license_grants_nothing_and_a_revoked_one_never_again() {
    let mut world = one_license(2, None);
    world.run(&activate(1, 1)).unwrap();
    let on = |command| Command::License(license_id(1), command);
    let suspend = on(LicenseCommand::Suspend(access(Operation::SuspendLicense)));
    let reinstate = on(LicenseCommand::Reinstate(access(Operation::ReinstateLicense)));
    let revoke = on(LicenseCommand::Revoke(access(Operation::RevokeLicense)));

    world.run(&suspend).unwrap();
    for activation in [1, 2] {
        let refused = world.run(&activate(1, activation)).unwrap_err();
        assert_eq!(refused, Rejection::LicenseSuspended);
    }
    world.run(&reinstate).unwrap();
    world.run(&activate(1, 2)).unwrap();
    world.run(&revoke).unwrap();
    assert_eq!(world.run(&reinstate).unwrap_err(), Rejection::LicenseRevoked);
    assert_eq!(world.run(&activate(1, 1)).unwrap_err(), Rejection::LicenseRevoked);
    assert_eq!(world.state.licenses[&license_id(1)].status, Status::Revoked);
    world.run(&deactivate(1, 1, true)).unwrap();
    assert_eq!(world.state.licenses[&license_id(1)].used, 1);
}

#[test]
fn a_lease_never_outlives_the_license() {
    let mut world = one_license(1, Some(10));
    let events = world.run(&activate(1, 1)).unwrap();
    let [Event::Activated { lease_until, .. }] = events.as_slice() else { panic!("one event") };
    assert_eq!(*lease_until, world.state.licenses[&license_id(1)].terms.expires_at);
}

#[test]
fn each_act_of_staff_is_recorded_with_the_person() {
    let mut world = one_license(1, None);
    world.run(&activate(1, 1)).unwrap();
    world.run(&deactivate(1, 1, true)).unwrap();
    world.run(&deactivate(1, 1, true)).unwrap();
    let operations: Vec<_> = world
        .log
        .iter()
        .filter_map(|event| match event {
            Event::AccessRecorded { subject, access, .. } => {
                assert!(*subject == subject_id(1));
                Some(access.operation)
            }
            _ => None,
        })
        .collect();
    assert_eq!(operations, [Operation::IssueLicense, Operation::FreeSeat, Operation::FreeSeat]);
}

#[test]
fn the_same_license_with_other_terms_is_refused() {
    let mut world = one_license(1, None);
    assert_eq!(world.run(&issue(1, 1, 2, None, 0)).unwrap_err(), Rejection::NonceReused);
    assert_eq!(world.run(&issue(1, 0, 1, None, 0)).unwrap_err(), Rejection::NonceReused);
}
