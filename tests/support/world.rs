//! A server with a clock that is set, a log and a vault in memory, and real views.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign::domain::{
    Actor, Binding, Day, Email, LicenseKey, Nonce, Operation, Product, RequestId, RequestKind,
    RequestStep, Role, SealedActor, Seats, Terms, Timestamp,
};
use countersign::log::memory::MemoryLog;
use countersign::policy::{CurrentPolicy, Policy};
use countersign::receipt::KeyRing;
use countersign::seal::actor::{self, ActorKey, ActorSeal};
use countersign::service::activation::Activate;
use countersign::service::clock::Clock;
use countersign::service::requests::Proof;
use countersign::service::store::{SlotCounts, Store};
use countersign::service::sweep::{Share, Swept};
use countersign::service::writer::{self, Parts};
use countersign::service::{Service, ServiceError, Settings, Staff};
use countersign::vault::Vault;
use countersign::vault::memory::MemoryVault;
use countersign::views::Views;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

#[derive(Clone)]
pub struct SetClock(Arc<Mutex<Timestamp>>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// A server on a log and a vault that outlive it.
pub struct World {
    pub log: Arc<MemoryLog>,
    pub vault: Arc<dyn Vault>,
    clock: SetClock,
    views: tempfile::TempDir,
    pub policy: CurrentPolicy,
    /// The two keys that open the names of staff.
    actor_keys: [ActorKey; 2],
    /// How long receipts of the product are good for, where they have an end.
    pub lease: Option<Duration>,
}

pub fn at(text: &str) -> Timestamp {
    let day = Day::parse(text).unwrap();
    Timestamp::from_millis(i64::from(day.0) * 86_400_000).unwrap()
}

impl World {
    pub fn new(now: &str) -> Self {
        Self::with_policy(now, "")
    }

    pub fn with_policy(now: &str, more: &str) -> Self {
        let policy = [countersign::policy::DEFAULT, more].concat();
        Self {
            log: Arc::default(),
            vault: Arc::new(MemoryVault::new(&mut rand::rng())),
            clock: SetClock(Arc::new(Mutex::new(at(now)))),
            views: tempfile::tempdir().unwrap(),
            policy: Policy::parse(&policy).unwrap().into(),
            actor_keys: std::array::from_fn(|_| ActorKey::generate(&mut rand::rng())),
            lease: None,
        }
    }

    pub fn now_is(&self, text: &str) {
        *self.clock.0.lock().unwrap() = at(text);
    }

    /// The name of a member of staff, as who has both keys reads it.
    pub fn open_name(&self, sealed: &SealedActor) -> String {
        let actor = actor::open(sealed, self.actor_keys.each_ref()).unwrap();
        actor.expose().to_owned()
    }

    pub fn later(&self, by: Duration) {
        let mut now = self.clock.0.lock().unwrap();
        *now = now.plus(by);
    }

    /// A server whose views are built from nothing.
    pub fn server(&self) -> Arc<Service> {
        self.server_on(&rand::random::<u64>().to_string()).0
    }

    /// A server on views of that name.
    pub fn server_on(&self, views: &str) -> (Arc<Service>, Arc<Store>) {
        let views = Views::open(&self.views.path().join(views), 1 << 20).unwrap();
        let (vault, counts) = (Arc::clone(&self.vault), SlotCounts::default());
        let store = Arc::new(Store { log: self.log.clone(), vault, views, counts });
        store.catch_up(|_| ()).unwrap();
        let mut range = countersign::log::tree::CompactRange::default();
        countersign::log::scan(
            self.log.as_ref(),
            countersign::domain::Position::ZERO,
            |position, bytes| {
                range.push(countersign::log::record::hash(bytes));
                let (header, _) = countersign::log::record::decode(bytes, position).unwrap();
                store.counts.add(header.slot);
                Ok::<_, countersign::log::LogError>(())
            },
        )
        .unwrap();
        let (writer, _) = writer::spawn(Parts {
            store: Arc::clone(&store),
            tree: Arc::new(Mutex::new(range)),
            clock: Arc::new(self.clock.clone()),
            rng: Box::new(StdRng::from_rng(&mut rand::rng())),
            queue: 64,
            policy: self.policy.clone(),
        })
        .unwrap();
        let settings = Settings {
            issuer: "https://licenses.example.com".to_owned(),
            leases: self
                .lease
                .map(|lease| (Product::parse("App").unwrap(), lease))
                .into_iter()
                .collect(),
            policy: self.policy.clone(),
            actor_seal: ActorSeal::for_keys(self.actor_keys.each_ref()),
            webhooks: HashSet::new(),
        };
        let receipts = KeyRing::generate(&mut rand::rng());
        let clock = Arc::new(self.clock.clone());
        let service = Service::new(Arc::clone(&store), writer, clock, receipts, settings);
        (Arc::new(service), store)
    }
}

pub fn staff(role: Role) -> Staff {
    Staff { actor: Actor::parse(role.name()).unwrap(), role }
}

pub fn email(name: &str) -> Email {
    Email::parse(&format!("{name}@example.com")).unwrap()
}

pub async fn issue(server: &Service, name: &str, expires: Option<&str>) -> LicenseKey {
    let terms = Terms {
        product: Product::parse("App").unwrap(),
        seats: Seats::new(100).unwrap(),
        expires_at: expires.map(at),
        updates_until: None,
    };
    let nonce = Nonce::from_bytes(rand::random());
    server.issue(&staff(Role::Issuer), email(name), None, terms, nonce).await.unwrap().key
}

pub async fn activate(server: &Service, name: &str, key: &LicenseKey) -> String {
    let (nonce, binding) = (Nonce::from_bytes(rand::random()), Binding::from_bytes(rand::random()));
    let request = Activate { email: Some(email(name)), key: key.clone(), nonce, binding };
    server.activate(&request).await.unwrap()
}

pub fn reason(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::Rejected(rejection) => rejection.reason(),
        _ => "",
    }
}

/// Opens a request, and verifies the person.
pub async fn verified(server: &Service, name: &str, kind: RequestKind) -> RequestId {
    let officer = staff(Role::Privacy);
    let id = server.open_request(&officer, &email(name), kind, None).await.unwrap().id;
    let (code, _) = server.issue_code(&officer, id).await.unwrap();
    server.verify_identity(&officer, id, Proof::Code(code)).await.unwrap();
    id
}

pub async fn erase(server: &Service, name: &str) -> countersign::service::privacy::ErasureDetails {
    let officer = staff(Role::Privacy);
    let id = verified(server, name, RequestKind::Erasure).await;
    let second = Staff { actor: Actor::parse("second").unwrap(), role: Role::Privacy };
    let approved = server.step(&second, id, RequestStep::Approved, Operation::ApproveRequest).await;
    approved.unwrap();
    server.erase(&officer, id, false, false).await.unwrap()
}

/// Sweeps until everybody was come by.
pub async fn sweep(server: &Arc<Service>, dry_run: bool) -> Result<Swept, ServiceError> {
    sweep_until(server, dry_run, Instant::now() + Duration::from_secs(4)).await
}

/// The same, with calls that end soon after that.
pub async fn sweep_until(
    server: &Arc<Service>,
    dry_run: bool,
    until: Instant,
) -> Result<Swept, ServiceError> {
    let (mut all, mut next) = (Swept::default(), Some(Share::FIRST));
    while let Some(from) = next {
        let swept = server.sweep(dry_run, from, until).await?;
        all.subjects += swept.subjects;
        for (category, records) in swept.records {
            *all.records.entry(category).or_default() += records;
        }
        next = swept.next;
    }
    Ok(all)
}
