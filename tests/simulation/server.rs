//! A server without threads and without time: what waits is polled by hand, and the writer takes a step
//! when it is told to.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use countersign::domain::{Position, Product, Rejection, Timestamp};
use countersign::log::memory::MemoryLog;
use countersign::log::tree::CompactRange;
use countersign::log::{LogError, record, scan};
use countersign::policy::{CurrentPolicy, Policy};
use countersign::receipt::{KeyRing, PublicKeys};
use countersign::seal::actor::{ActorKey, ActorSeal};
use countersign::service::activation::Activate;
use countersign::service::clock::Clock;
use countersign::service::store::{SlotCounts, Store, StoreError};
use countersign::service::writer::{
    Granted, NoAnswer, Parts, Request, Writer, WriterError, WriterHandle,
};
use countersign::service::{Service, ServiceError, Settings};
use countersign::vault::memory::MemoryVault;
use countersign::vault::{SlotState, Vault as _};
use countersign::views::Views;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::faults::{Crash, Faults, Meanwhile, SimLog, SimVault, Torn, lock};
use crate::witness::Witness;

/// More than a step ever asks.
const QUEUE: usize = 64;
/// Far more than a seed's views need.
const VIEWS_CACHE: u64 = 1 << 20;

/// A clock that is set.
#[derive(Clone)]
pub(crate) struct SetClock(pub(crate) Arc<Mutex<Timestamp>>);

impl SetClock {
    pub(crate) fn pass(&self, while_: Duration) {
        let mut now = lock(&self.0);
        *now = now.plus(while_);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *lock(&self.0)
    }
}

/// What outlives servers.
pub(crate) struct World {
    pub(crate) log: Arc<MemoryLog>,
    /// How often a torn append was cut off.
    pub(crate) cut_off: AtomicU64,
    torn: Option<Arc<Torn>>,
    pub(crate) vault: Arc<MemoryVault>,
    pub(crate) witness: Arc<Mutex<Witness>>,
    pub(crate) clock: SetClock,
    pub(crate) policy: CurrentPolicy,
    pub(crate) receipt_keys: PublicKeys,
    receipts: String,
    views: tempfile::TempDir,
}

/// A server, running or not.
pub(crate) struct Server {
    pub(crate) faults: Arc<Faults>,
    pub(crate) running: Option<Running>,
    views: PathBuf,
    /// How often it was started.
    starts: u64,
    seed: u64,
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) store: Arc<Store>,
    pub(crate) service: Arc<Service>,
    pub(crate) tree: Arc<Mutex<CompactRange>>,
    handle: WriterHandle,
    writer: Writer,
}

/// What a client asks.
pub(crate) enum Ask {
    Activate(Activate),
    Deactivate(String),
    Staff(Request),
}

/// What a client hears.
pub(crate) enum Outcome {
    Activated(Result<String, Rejection>),
    Deactivated(Result<(), Rejection>),
    Staff(Result<Granted, Rejection>),
    /// Nothing: it may or may not have happened.
    Unknown,
    /// What is stored could not be read.
    Broken(ServiceError),
}

type Waiting = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl World {
    pub(crate) fn new(now: Timestamp, is_shared: bool, rng: &mut StdRng) -> Self {
        let receipts = KeyRing::generate(rng);
        let mut place = tempfile::Builder::new();
        place.prefix("countersign-simulation-");
        // The cost is in the views' files, so they are in memory where the system has a place there.
        let views = place.tempdir_in("/dev/shm").or_else(|_| place.tempdir()).unwrap();
        Self {
            log: Arc::default(),
            cut_off: AtomicU64::default(),
            torn: (!is_shared).then(Arc::default),
            vault: Arc::new(MemoryVault::new(rng)),
            witness: Arc::default(),
            clock: SetClock(Arc::new(Mutex::new(now))),
            policy: Policy::parse(countersign::policy::DEFAULT).unwrap().into(),
            receipt_keys: receipts.public(),
            receipts: receipts.to_jwks().to_string(),
            views,
        }
    }

    pub(crate) fn server(&self, name: u64, seed: u64) -> Server {
        let views = self.views.path().join(name.to_string());
        Server {
            faults: Arc::default(),
            running: None,
            views,
            starts: 0,
            seed: seed ^ (name << 56),
        }
    }

    /// Views that are built from nothing.
    pub(crate) fn replay(&self) -> Arc<Store> {
        let views = self.views.path().join("replay");
        Views::delete(&views).unwrap();
        let store = self.store(&Arc::default(), Views::open(&views, VIEWS_CACHE).unwrap());
        store.catch_up(|_| ()).unwrap();
        Arc::new(store)
    }

    fn store(&self, faults: &Arc<Faults>, views: Views) -> Store {
        let [faults, vault_faults] = [faults, faults].map(Arc::clone);
        let [log_witness, witness] = [&self.witness, &self.witness].map(Arc::clone);
        let (log, vault) = (Arc::clone(&self.log), Arc::clone(&self.vault));
        let (torn, log_vault) = (self.torn.clone(), Arc::clone(&vault));
        let log = SimLog { log, torn, vault: log_vault, witness: log_witness, faults };
        let vault = SimVault { vault, witness, faults: vault_faults };
        Store { log: Arc::new(log), vault: Arc::new(vault), views, counts: SlotCounts::default() }
    }

    /// Opens what is there, as the program does at its start.
    fn open(&self, server: &Server) -> Result<Running, WriterError> {
        let mut rng = StdRng::seed_from_u64(server.seed.wrapping_add(server.starts << 32));
        let was_torn = self.torn.as_ref().is_some_and(|torn| torn.cut_off());
        self.cut_off.fetch_add(was_torn.into(), Ordering::Relaxed);
        let open_views = || {
            Views::open(&server.views, VIEWS_CACHE).or_else(|_| {
                Views::delete(&server.views).unwrap();
                Views::open(&server.views, VIEWS_CACHE)
            })
        };
        let mut store = self.store(&server.faults, open_views().map_err(StoreError::from)?);
        let mut tree = CompactRange::default();
        scan(store.log.as_ref(), Position::ZERO, |position, bytes| {
            let (header, _) = record::decode(bytes, position)
                .map_err(|error| LogError::Damaged(position, error))?;
            assert_ne!(self.vault.state(header.slot), SlotState::Free, "a record has no key");
            store.counts.add(header.slot);
            tree.push(record::hash(bytes));
            Ok::<_, LogError>(())
        })?;
        let (vault, witness) = (Arc::clone(&self.vault), Arc::clone(&self.witness));
        SimVault { vault, witness, faults: Arc::clone(&server.faults) }
            .destroy_unused(|slot| store.counts.get(slot) > 0, &mut rng)
            .map_err(StoreError::from)?;
        let believed = store.views_match().unwrap_or(false);
        if !(believed && store.catch_up(|_| ()).is_ok()) {
            let Store { log, vault, views, counts } = store;
            drop(views);
            Views::delete(&server.views).unwrap();
            let views = open_views().map_err(StoreError::from)?;
            store = Store { log, vault, views, counts };
            store.catch_up(|_| ())?;
        }
        let (store, tree) = (Arc::new(store), Arc::new(Mutex::new(tree)));
        let actor_keys: [ActorKey; 2] = std::array::from_fn(|_| ActorKey::generate(&mut rng));
        let (handle, writer) = Writer::new(Parts {
            store: Arc::clone(&store),
            tree: Arc::clone(&tree),
            clock: Arc::new(self.clock.clone()),
            rng: Box::new(rng),
            queue: QUEUE,
            policy: self.policy.clone(),
        })?;
        let leased = Product::parse("Leased").unwrap();
        let settings = Settings {
            issuer: "https://licenses.example.com".to_owned(),
            leases: HashMap::from([(leased, Duration::from_secs(14 * 24 * 60 * 60))]),
            policy: self.policy.clone(),
            actor_seal: ActorSeal::for_keys(actor_keys.each_ref()),
            webhooks: HashSet::new(),
        };
        let service = Arc::new(Service::new(
            Arc::clone(&store),
            handle.clone(),
            Arc::new(self.clock.clone()),
            KeyRing::from_jwks(&self.receipts).unwrap(),
            settings,
        ));
        Ok(Running { store, service, tree, handle, writer })
    }
}

impl Server {
    /// Starts; false where a fault ended that.
    pub(crate) fn start(&mut self, world: &World) -> bool {
        assert!(self.running.is_none());
        self.starts += 1;
        match catch_unwind(AssertUnwindSafe(|| world.open(self))) {
            Ok(Ok(running)) => self.running = Some(running),
            Ok(Err(error)) => self.excused(&error),
            Err(panic) => assert_crash(panic),
        }
        self.running.is_some()
    }

    /// A server ends by a fault alone.
    fn excused(&self, error: &WriterError) {
        assert!(self.faults.has_struck(), "a server ended, and nothing was wrong: {error}");
    }

    /// Ends as a killed process does.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Loses the views with it.
    pub(crate) fn kill_and_lose_views(&mut self) {
        self.kill();
        Views::delete(&self.views).unwrap();
    }

    /// Asks all at once, and hears what comes back until nobody waits or the server has ended.
    pub(crate) fn ask(&mut self, asks: Vec<Ask>) -> Vec<Outcome> {
        let waiters = Mutex::new(Waiters::new(self.running.as_ref(), asks));
        self.answer(&waiters);
        lock(&waiters).heard()
    }

    /// Steps until all who have come have an answer, or the server has ended.
    pub(crate) fn answer(&mut self, waiters: &Mutex<Waiters>) {
        let Some(running) = &mut self.running else { return };
        let step = AssertUnwindSafe(|| {
            while lock(waiters).poll() {
                if let Err(error) = running.writer.step() {
                    return Some(error);
                }
            }
            None
        });
        match catch_unwind(step) {
            Ok(None) => {}
            Ok(Some(error)) => {
                self.excused(&error);
                self.kill();
                assert!(!lock(waiters).poll(), "somebody waits for an ended server");
            }
            Err(panic) => {
                assert_crash(panic);
                self.kill();
            }
        }
        let waiters = lock(waiters);
        for (number, outcome) in waiters.outcomes.iter().enumerate().take(waiters.come) {
            if matches!(outcome, Outcome::Unknown) {
                let has_reason = self.running.is_none() || waiters.gave_up == Some(number);
                assert!(has_reason, "a server goes on and has not answered");
            }
            if let Outcome::Broken(error) = outcome {
                assert!(self.faults.has_struck(), "an app is told, and nothing was wrong: {error}");
            }
        }
    }
}

fn assert_crash(panic: Box<dyn std::any::Any + Send>) {
    if !panic.is::<Crash>() {
        resume_unwind(panic);
    }
}

/// Those who ask a server, and what they heard.
pub(crate) struct Waiters {
    waiting: Vec<Option<Waiting>>,
    outcomes: Vec<Outcome>,
    /// So many have come.
    come: usize,
    /// One who waited and does no more.
    gave_up: Option<usize>,
}

impl Waiters {
    /// All come at once. One that asks where no server runs hears nothing.
    pub(crate) fn new(running: Option<&Running>, asks: Vec<Ask>) -> Self {
        let outcomes = asks.iter().map(|_| Outcome::Unknown).collect();
        let waiting: Vec<Option<Waiting>> =
            asks.into_iter().map(|ask| Some(running?.wait_for(ask))).collect();
        Self { come: waiting.len(), waiting, outcomes, gave_up: None }
    }

    /// Whether one gave up.
    pub(crate) fn lost_patience(&self) -> bool {
        self.gave_up.is_some()
    }

    /// What they heard.
    pub(crate) fn heard(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// All but the first `early` come when `meanwhile` is called, and who is named gives up then.
    pub(crate) fn come_late(
        mut self,
        early: usize,
        gives_up: Option<usize>,
    ) -> (Arc<Mutex<Self>>, Meanwhile) {
        self.come = early;
        let waiters = Arc::new(Mutex::new(self));
        let theirs = Arc::clone(&waiters);
        let meanwhile = Box::new(move || {
            let mut waiters = lock(&theirs);
            waiters.come = waiters.waiting.len();
            waiters.poll();
            let is_waiting = |number: &usize| matches!(waiters.waiting.get(*number), Some(Some(_)));
            waiters.gave_up = gives_up.filter(is_waiting);
            if let Some(number) = waiters.gave_up {
                waiters.waiting[number] = None;
            }
        });
        (waiters, meanwhile)
    }

    /// Whether somebody who has come still waits.
    fn poll(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let come = self.waiting.iter_mut().take(self.come);
        for (waiting, outcome) in come.zip(&mut self.outcomes) {
            if let Some(future) = waiting
                && let Poll::Ready(heard) = future.as_mut().poll(&mut context)
            {
                (*outcome, *waiting) = (heard, None);
            }
        }
        self.waiting.iter().take(self.come).any(Option::is_some)
    }
}

impl Running {
    fn wait_for(&self, ask: Ask) -> Waiting {
        let (service, handle) = (Arc::clone(&self.service), self.handle.clone());
        match ask {
            Ask::Activate(request) => {
                Box::pin(
                    async move { answered(service.activate(&request).await, Outcome::Activated) },
                )
            }
            Ask::Deactivate(receipt) => Box::pin(async move {
                answered(service.deactivate(&receipt).await, Outcome::Deactivated)
            }),
            Ask::Staff(request) => Box::pin(async move {
                match handle.ask(request).await {
                    Ok(answer) => Outcome::Staff(answer),
                    Err(NoAnswer::Stopped) => Outcome::Unknown,
                    Err(NoAnswer::Overloaded) => panic!("the queue is too short"),
                }
            }),
        }
    }
}

fn answered<T>(
    answer: Result<T, ServiceError>,
    heard: fn(Result<T, Rejection>) -> Outcome,
) -> Outcome {
    match answer {
        Ok(answer) => heard(Ok(answer)),
        Err(ServiceError::Rejected(rejection)) => heard(Err(rejection)),
        Err(ServiceError::Stopped) => Outcome::Unknown,
        Err(error) => Outcome::Broken(error),
    }
}
