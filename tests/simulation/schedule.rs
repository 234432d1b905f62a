//! One run: everything that happens follows from its seed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign::domain::{Email, Position, Status, SubjectId, Timestamp};
use countersign::log::Log as _;
use countersign::log::tree::Root;
use countersign::service::activation::Standing;
use countersign::vault::{KeyName, SlotState, Vault as _};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::clients::{Asked, Clients, Refusal, Scene};
use crate::faults::{self, Counted, Fault, Left, Tally, When, lock};
use crate::model::Model;
use crate::picture::picture;
use crate::server::{Ask, Outcome, Server, Waiters, World};

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;
const DAY: Duration = Duration::from_millis(DAY_MILLIS);

/// What a run ended with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) head: Position,
    pub(crate) root: Root,
    pub(crate) ends: u32,
    pub(crate) tally: Tally,
}

/// Runs a seed. Panics where a promise is broken.
pub(crate) fn run(seed: u64) -> End {
    let mut run = Run::new(seed);
    for _ in 0..run.rng.random_range(10..30) {
        run.step();
    }
    run.finish()
}

struct Run {
    rng: StdRng,
    world: World,
    servers: Vec<Arc<Mutex<Server>>>,
    clients: Clients,
    model: Model,
    /// How often a server ended by a fault.
    ends: u32,
    /// How many clients gave up while a call was slow.
    gave_up: u64,
}

/// What was asked of a server, and what came back.
type Heard = Vec<(Asked, Outcome)>;

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let begin = 1_760_000_000_000 + rng.random_range(0..400) * 86_400_000;
        let is_shared = rng.random_bool(0.35);
        let world = World::new(Timestamp::from_millis(begin).unwrap(), is_shared, &mut rng);
        let server = |name| Arc::new(Mutex::new(world.server(name, seed)));
        let servers: Vec<_> = (1..=if is_shared { 2 } else { 1 }).map(server).collect();
        for server in &servers {
            assert!(lock(server).start(&world));
        }
        let (clients, model) = (Clients::default(), Model::default());
        Self { rng, world, servers, clients, model, ends: 0, gave_up: 0 }
    }

    fn is_shared(&self) -> bool {
        self.servers.len() > 1
    }

    fn step(&mut self) {
        self.time_passes();
        for number in 0..self.servers.len() {
            self.tend(number);
        }
        let number = self.rng.random_range(0..self.servers.len());
        if lock(&self.servers[number]).running.is_none() {
            return;
        }
        let (asked, asks) = self.asks(number);
        let others = self.other_goes_on(number);
        let mut heard = {
            let server = Arc::clone(&self.servers[number]);
            let mut server = lock(&server);
            let waiters = Waiters::new(server.running.as_ref(), asks);
            let waiters = if others.is_some() {
                Arc::new(Mutex::new(waiters))
            } else {
                self.arm(&server, waiters)
            };
            server.answer(&waiters);
            // Where it came to no append, what was to happen meanwhile happens now.
            if let Some(meanwhile) = server.faults.calm() {
                meanwhile();
                server.answer(&waiters);
            }
            let mut waiters = lock(&waiters);
            self.gave_up += u64::from(waiters.lost_patience());
            asked.into_iter().zip(waiters.heard()).collect::<Heard>()
        };
        if let Some(others) = others {
            heard.extend(std::mem::take(&mut *lock(&others)));
        }
        self.check(&heard);
        // Of two servers one has not seen yet what the other did, and one that ended has a start before it.
        let is_settled = !self.is_shared() && lock(&self.servers[number]).running.is_some();
        if is_settled {
            self.compare(number);
        }
    }

    fn time_passes(&mut self) {
        let while_ = match self.rng.random_range(0..20) {
            0 => DAY * self.rng.random_range(300..1500),
            1..3 => DAY * self.rng.random_range(1..40),
            _ => Duration::from_millis(self.rng.random_range(0..5000)),
        };
        self.world.clock.pass(while_);
    }

    fn now(&self) -> Timestamp {
        *lock(&self.world.clock.0)
    }

    /// Servers end, with and without their views, are started, and leave views that lag.
    fn tend(&mut self, number: usize) {
        let mut server = lock(&self.servers[number]);
        if let Some(running) = &server.running {
            match self.rng.random_range(0..40) {
                0..4 => running.store.views.close().unwrap(),
                4 => server.kill(),
                5 => server.kill_and_lose_views(),
                _ => {}
            }
        }
        if server.running.is_some() || self.rng.random_bool(0.3) {
            return;
        }
        self.ends += 1;
        if self.rng.random_bool(0.3) {
            server.kill_and_lose_views();
        }
        server.faults.calm();
        if self.rng.random_bool(0.3) {
            let calls = self.rng.random_range(0..12);
            let counted = if self.rng.random() { Counted::Any } else { Counted::Changes };
            server.faults.arm(counted, calls, ending(&mut self.rng));
            if !server.start(&self.world) {
                return;
            }
        } else {
            assert!(server.start(&self.world), "a server does not start, and nothing is wrong");
        }
        server.faults.calm();
        drop(server);
        self.check(&[]);
        self.compare(number);
    }

    fn asks(&mut self, number: usize) -> (Vec<Asked>, Vec<Ask>) {
        let server = lock(&self.servers[number]);
        let Some(running) = &server.running else { return (Vec::new(), Vec::new()) };
        let mut scene = Scene {
            store: &running.store,
            now: *lock(&self.world.clock.0),
            server: number,
            is_shared: self.servers.len() > 1,
            rng: &mut self.rng,
        };
        let count = scene.rng.random_range(1..6);
        (0..count).map(|_| self.clients.next(&mut scene)).unzip()
    }

    /// Has another server asked while this one appends.
    fn other_goes_on(&mut self, number: usize) -> Option<Arc<Mutex<Heard>>> {
        let other = (number + 1) % self.servers.len();
        if other == number || self.rng.random_bool(0.4) {
            return None;
        }
        let (asked, asks) = self.asks(other);
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (server, told) = (Arc::clone(&self.servers[other]), Arc::clone(&heard));
        if self.rng.random_bool(0.3) {
            self.arm_fault(&lock(&server));
        }
        let meanwhile = Box::new(move || {
            let mut server = lock(&server);
            let outcomes = server.ask(asks);
            server.faults.calm();
            *lock(&told) = asked.into_iter().zip(outcomes).collect();
        });
        let when = when(&mut self.rng);
        let calls = self.rng.random_range(0..2);
        let server = lock(&self.servers[number]);
        server.faults.arm(Counted::Appends, calls, Fault::Slow(when, meanwhile));
        Some(heard)
    }

    /// Something goes wrong, or the disk is slow, or all is well.
    fn arm(&mut self, server: &Server, waiters: Waiters) -> Arc<Mutex<Waiters>> {
        if self.rng.random_bool(0.8) {
            self.arm_fault(server);
            return Arc::new(Mutex::new(waiters));
        }
        let rng = &mut self.rng;
        let early = rng.random_range(1..6);
        let gives_up = rng.random_bool(0.3).then(|| rng.random_range(0..6));
        let (waiters, come) = waiters.come_late(early, gives_up);
        let millis = if rng.random_bool(0.9) { 20_000 } else { 40 * DAY_MILLIS };
        let (clock, while_) = (self.world.clock.clone(), rng.random_range(0..millis));
        let meanwhile = Box::new(move || {
            clock.pass(Duration::from_millis(while_));
            come();
        });
        let counted = if rng.random() { Counted::Appends } else { Counted::Changes };
        server.faults.arm(counted, rng.random_range(0..2), Fault::Slow(when(rng), meanwhile));
        waiters
    }

    fn arm_fault(&mut self, server: &Server) {
        let rng = &mut self.rng;
        match rng.random_range(0..20) {
            0..3 => {
                let calls = rng.random_range(0..3);
                server.faults.arm(Counted::Appends, calls, Fault::Lost(when(rng)));
            }
            3..7 => {
                let calls = rng.random_range(0..8);
                server.faults.arm(Counted::Changes, calls, ending(rng));
            }
            7..9 => {
                let calls = rng.random_range(0..30);
                server.faults.arm(Counted::Any, calls, ending(rng));
            }
            _ => {}
        }
    }

    /// Everything that must hold after each step.
    fn check(&mut self, heard: &[(Asked, Outcome)]) {
        let (now, is_shared) = (self.now(), self.is_shared());
        let witness = Arc::clone(&self.world.witness);
        let witness = lock(&witness);
        assert_eq!(self.world.log.head().unwrap(), witness.head(), "not all appends were seen");
        let mut refusals: Vec<Refusal> = Vec::new();
        for (asked, outcome) in heard {
            if let Outcome::Activated(Err(rejection)) | Outcome::Deactivated(Err(rejection)) =
                outcome
            {
                // A server that has not seen what another one appended may refuse by what was.
                refusals.push(Refusal::new(asked, *rejection, is_shared));
            }
        }
        self.model.follow(&witness, |model| {
            for refusal in &mut refusals {
                refusal.look_at(model, now);
            }
        });
        for Refusal { rejection, has_reason, .. } in refusals {
            assert!(has_reason, "refused without a reason: {rejection}");
        }
        let (clients, keys) = (&mut self.clients, &self.world.receipt_keys);
        for (asked, outcome) in heard {
            clients.judge(asked, outcome, &self.model, &witness, keys);
        }
        for server in &self.servers {
            if let Some(running) = &lock(server).running {
                let tree = lock(&running.tree);
                assert_eq!(tree.root(), witness.root(tree.size()), "a server has another root");
                assert!(is_shared || tree.size() == witness.head());
            }
        }
        for (id, subject) in self.model.subjects.iter().filter(|(_, s)| s.is_erased) {
            assert!(self.world.vault.of_subject(*id).is_empty(), "an erased person has keys");
            let is_found = |email: &String| self.find(email) == Some(*id);
            assert!(!subject.emails.iter().any(is_found), "an erased person is found");
            assert!(subject.positions.is_empty(), "something about an erased person is readable");
        }
    }

    fn find(&self, email: &str) -> Option<SubjectId> {
        let vault = &self.world.vault;
        vault.subject_by_email(&vault.tag_key().email(&Email::parse(email).unwrap()))
    }

    /// What one server shows must be what the log says.
    fn compare(&mut self, number: usize) {
        let witness = Arc::clone(&self.world.witness);
        let witness = lock(&witness);
        witness.assert_kept(self.world.log.as_ref());
        for (position, seen) in witness.seen.iter().enumerate() {
            let is_erased = self.model.is_erased(Position(position as u64), &witness);
            let expected = if is_erased { SlotState::Destroyed } else { SlotState::Live };
            assert_eq!(self.world.vault.state(seen.slot), expected, "the key of {position}");
        }
        for (notice, is_settled) in &self.model.notices {
            let is_gone = self.world.vault.find(&KeyName::Notice(*notice)).is_none();
            assert_eq!(is_gone, *is_settled, "a notice's key outlives it, or the reverse");
        }
        drop(witness);
        let server = lock(&self.servers[number]);
        let Some(running) = &server.running else { return };
        let (views, service) = (&running.store.views, &running.service);
        let replay = self.world.replay();
        let shown = [views, &replay.views].map(|views| picture(views, &self.model));
        assert_eq!(shown[0], shown[1], "the views are not what a replay from zero makes");

        for (id, license) in &self.model.licenses {
            let view = views.license(*id).unwrap().expect("a license is missing");
            assert_eq!(view.used as usize, license.active.len(), "other seats are in use");
            assert_eq!(view.status, license.status);
        }
        for id in &self.model.all_licenses {
            let is_there = views.license(*id).unwrap().is_some();
            assert_eq!(is_there, self.model.licenses.contains_key(id));
        }
        for id in &self.model.all_activations {
            let (view, known) = (views.activation(*id).unwrap(), self.model.activations.get(id));
            assert_eq!(view.is_some(), known.is_some());
            if let (Some(view), Some(known)) = (view, known) {
                assert!(view.license == known.license && view.activated == known.position);
                assert_eq!(view.ended.is_some(), known.has_ended);
            }
        }
        for (id, subject) in &self.model.subjects {
            let view = views.subject(*id).unwrap();
            assert_eq!(view.is_some(), !subject.positions.is_empty());
            let has_email = view.is_some_and(|view| view.email.is_some());
            assert_eq!(has_email, subject.email.is_some());
            for email in &subject.emails {
                let is_theirs = subject.email.as_ref() == Some(email);
                let found = self.find(email) == Some(*id);
                assert_eq!(found, is_theirs, "a person is found by another address than theirs");
            }
        }
        assert!(self.model.erasures.values().all(|erasure| erasure.is_done));
        assert_eq!(views.epoch().unwrap(), self.world.vault.epoch(), "an epoch is not recorded");
        let mut counts = self.model.counted.clone();
        for (day, products) in views.uncounted_days().unwrap() {
            for (product, more) in products {
                let counted = counts.entry((day, product.as_str().to_owned())).or_default();
                counted.0 += more.licenses;
                counted.1 += more.activations;
            }
        }
        assert_eq!(counts, self.model.happened, "what is counted is not what happened");

        for (activation, (receipt, _)) in &self.clients.receipts {
            let standing = service.check(receipt);
            let Some(known) = self.model.activations.get(activation) else {
                assert!(standing.is_err(), "an erased activation is known");
                continue;
            };
            let license = &self.model.licenses[&known.license];
            let is_over = license.expires_at.is_some_and(|end| end <= self.now());
            let expected = match license.status {
                Status::Suspended => Standing::Suspended,
                Status::Revoked => Standing::Revoked,
                Status::Active if known.has_ended => Standing::Deactivated,
                Status::Active if is_over => Standing::Expired,
                Status::Active => Standing::Good,
            };
            assert_eq!(standing.unwrap(), expected);
        }
    }

    fn finish(mut self) -> End {
        for number in 0..self.servers.len() {
            let server = Arc::clone(&self.servers[number]);
            lock(&server).faults.calm();
            if lock(&server).running.is_none() {
                assert!(lock(&server).start(&self.world), "a server does not start at the end");
            }
            let (asked, ask) = self.clients.touch();
            let outcome = lock(&server).ask(vec![ask]).remove(0);
            assert!(matches!(outcome, Outcome::Staff(Ok(_))));
            self.check(&[(asked, outcome)]);
            self.compare(number);
        }
        let witness = lock(&self.world.witness);
        let (head, root) = (witness.head(), witness.root(witness.head()));
        let torn = self.world.cut_off.load(Ordering::Relaxed);
        let mut tally =
            Tally::from([("torn appends cut off", torn), ("clients who gave up", self.gave_up)]);
        for server in &self.servers {
            faults::add(&mut tally, lock(server).faults.tally());
        }
        End { head, root, ends: self.ends, tally }
    }
}

fn when(rng: &mut StdRng) -> When {
    if rng.random() { When::Before } else { When::After }
}

/// Something that ends a server.
fn ending(rng: &mut StdRng) -> Fault {
    let left = [Left::Nothing, Left::Part, Left::All][rng.random_range(0..3)];
    if rng.random() { Fault::Crash(left) } else { Fault::Fail(left) }
}
