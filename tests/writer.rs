//! Promise: whatever the log does, nothing is acknowledged that is not in it, and nothing is in it
//! twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use countersign::domain::{
    Access, ActivationId, Actor, Day, Email, Event, LicenseCommand, LicenseId, LicenseKey,
    Operation, Position, Product, Purpose, RecordedActor, Rejection, Role, Seats, SigningKeyId,
    Terms,
};
use countersign::log::memory::{Fault, MemoryLog};
use countersign::log::tree::CompactRange;
use countersign::log::{Append, Log, scan};
use countersign::policy::Policy;
use countersign::service::clock::SystemClock;
use countersign::service::store::{SlotCounts, Store};
use countersign::service::writer::{
    self, Granted, NoAnswer, Parts, Request, Stopped, WriterHandle,
};
use countersign::vault::Vault;
use countersign::vault::memory::MemoryVault;
use countersign::views::Views;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

const LICENSE: LicenseId = LicenseId::from_bytes([1; 16]);

/// A log and a vault, and servers on them.
struct World {
    log: Arc<MemoryLog>,
    vault: Arc<dyn Vault>,
    views: tempfile::TempDir,
}

struct Server {
    writer: WriterHandle,
    stopped: Stopped,
    store: Arc<Store>,
    tree: Arc<Mutex<CompactRange>>,
}

impl World {
    fn new() -> Self {
        let vault = Arc::new(MemoryVault::new(&mut StdRng::seed_from_u64(1)));
        Self { log: Arc::default(), vault, views: tempfile::tempdir().unwrap() }
    }

    fn server(&self, name: &str, queue: usize) -> Server {
        let log: Arc<dyn Log> = self.log.clone();
        let views = Views::open(&self.views.path().join(name), 1 << 20).unwrap();
        let store = Arc::new(Store {
            log,
            vault: Arc::clone(&self.vault),
            views,
            counts: SlotCounts::default(),
        });
        store.catch_up(|_| ()).unwrap();
        let mut range = CompactRange::default();
        scan(self.log.as_ref(), Position::ZERO, |_, bytes| {
            range.push(countersign::log::record::hash(bytes));
            Ok::<_, countersign::log::LogError>(())
        })
        .unwrap();
        let tree = Arc::new(Mutex::new(range));
        let (writer, stopped) = writer::spawn(Parts {
            store: Arc::clone(&store),
            tree: Arc::clone(&tree),
            clock: Arc::new(SystemClock),
            rng: Box::new(StdRng::seed_from_u64(2)),
            queue,
            policy: Arc::new(Policy::parse(countersign::policy::DEFAULT).unwrap()),
        })
        .unwrap();
        Server { writer, stopped, store, tree }
    }

    /// Every event in the log, as a server that starts now reads it.
    fn events(&self) -> Vec<Event> {
        let head = self.log.head().unwrap().0;
        let server = self.server("reader", 1);
        let events = server.store.events((0..head).map(Position)).unwrap();
        events.into_iter().map(|(_, event)| event).collect()
    }

    fn activations(&self) -> Vec<ActivationId> {
        let activated = |event| match event {
            Event::Activated { activation, .. } => Some(activation),
            _ => None,
        };
        self.events().into_iter().filter_map(activated).collect()
    }
}

impl Server {
    async fn issue(&self, seats: u32) {
        let by = Access {
            actor: RecordedActor::Named(Actor::parse("grace").unwrap()),
            role: Role::Issuer,
            purpose: Purpose::LicenseAdministration,
            operation: Operation::IssueLicense,
            request: None,
        };
        let request = Request::Issue {
            license: LICENSE,
            email: Email::parse("ada@example.com").unwrap(),
            name: None,
            key: LicenseKey::generate(|| 0),
            terms: Terms {
                product: Product::parse("App").unwrap(),
                seats: Seats::new(seats).unwrap(),
                expires_at: None,
                updates_until: None,
            },
            by,
        };
        assert!(self.writer.ask(request).await.unwrap().is_ok());
    }

    async fn activate(&self, id: u8) -> Result<Result<Granted, Rejection>, NoAnswer> {
        self.writer.ask(activate(id)).await
    }
}

fn id(byte: u8) -> ActivationId {
    ActivationId::from_bytes([byte; 16])
}

fn activate(byte: u8) -> Request {
    let signing_key = SigningKeyId::from_bytes([0; 32]);
    let command = LicenseCommand::Activate { activation: id(byte), signing_key, lease: None };
    Request::License(LICENSE, command)
}

#[tokio::test]
async fn after_a_failed_append_nobody_is_answered_and_the_writer_ends() {
    let world = World::new();
    let server = world.server("a", 16);
    server.issue(10).await;
    assert!(server.activate(1).await.unwrap().is_ok());
    world.log.inject(Some(Fault::Failed));
    assert_eq!(server.activate(2).await.err(), Some(NoAnswer::Stopped));
    assert_eq!(server.activate(3).await.err(), Some(NoAnswer::Stopped));
    let ended = server.stopped.await.unwrap().unwrap_err();
    assert!(ended.to_string().contains("check the disk"), "{ended}");
    assert_eq!(world.activations(), [id(1)]);
}

#[tokio::test]
async fn a_lost_reply_is_looked_up_and_the_event_is_there_once() {
    for fault in [Fault::LostAfter, Fault::LostBefore] {
        let world = World::new();
        let server = world.server("a", 16);
        server.issue(10).await;
        world.log.inject(Some(fault));
        let granted = server.activate(1).await.unwrap().unwrap();
        assert_eq!(granted.events.len(), 1);
        assert!(server.activate(1).await.unwrap().unwrap().events.is_empty());
        assert_eq!(world.activations(), [id(1)]);
        let tree = server.tree.lock().unwrap().clone();
        assert_eq!(tree.size(), world.log.head().unwrap());
    }
}

#[tokio::test]
async fn two_servers_on_one_log_do_not_oversell_a_seat() {
    let world = World::new();
    let a = world.server("a", 16);
    a.issue(3).await;
    assert!(a.activate(1).await.unwrap().is_ok());
    let b = world.server("b", 16);
    assert!(b.activate(2).await.unwrap().is_ok());
    // A has not seen 2 yet; its next append conflicts, and it decides again.
    assert!(a.activate(3).await.unwrap().is_ok());
    let full = Rejection::SeatsExhausted { seats: Seats::new(3).unwrap(), used: 3 };
    assert_eq!(a.activate(4).await.unwrap().err(), Some(full));
    // To B a seat seems free, until its append conflicts too.
    assert_eq!(b.activate(5).await.unwrap().err(), Some(full));
    assert_eq!(world.activations(), [id(1), id(2), id(3)]);
    let trees = [&a.tree, &b.tree].map(|tree| tree.lock().unwrap().root());
    assert_eq!(trees[0], trees[1]);
}

#[tokio::test]
async fn a_day_that_two_servers_close_is_counted_once() {
    let world = World::new();
    let a = world.server("a", 16);
    a.issue(3).await;
    let b = world.server("b", 16);
    assert!(b.activate(1).await.unwrap().is_ok());
    // Neither has seen all that the other appended.
    for server in [&a, &b] {
        let close = Request::CloseDays(Day(i32::MAX));
        assert!(server.writer.ask(close).await.unwrap().is_ok());
    }
    let store = world.server("reader", 1).store;
    assert!(store.views.uncounted_days().unwrap().is_empty());
    let days = store.views.counted_days(Day(i32::MIN)..=Day(i32::MAX)).unwrap();
    let counts: Vec<_> = days.into_values().flatten().map(|(_, counts)| counts).collect();
    let licenses: u32 = counts.iter().map(|counts| counts.licenses).sum();
    let activations: u32 = counts.iter().map(|counts| counts.activations).sum();
    assert_eq!((licenses, activations), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_loses_nothing() {
    let world = World::new();
    let server = world.server("a", 1);
    server.issue(1000).await;
    let mut asked = tokio::task::JoinSet::new();
    for byte in 0..=255 {
        let writer = server.writer.clone();
        asked.spawn(async move { (byte, writer.ask(activate(byte)).await) });
    }
    let mut acknowledged = HashSet::new();
    for (byte, answer) in asked.join_all().await {
        match answer {
            Ok(granted) => assert!(granted.is_ok() && acknowledged.insert(id(byte))),
            Err(reason) => assert_eq!(reason, NoAnswer::Overloaded),
        }
    }
    let there = world.activations();
    assert_eq!(there.len(), acknowledged.len());
    assert!(there.into_iter().all(|id| acknowledged.contains(&id)));
}

#[tokio::test]
async fn the_writer_ends_in_order_when_the_last_handle_is_gone() {
    let world = World::new();
    let Server { writer, stopped, .. } = world.server("a", 16);
    drop(writer);
    assert!(stopped.await.unwrap().is_ok());
}

#[test]
fn the_fake_log_keeps_the_laws() {
    let log = MemoryLog::default();
    log.inject(Some(Fault::Overtaken(vec![vec![1]])));
    let conflict = Append::Conflict { head: Position(1) };
    assert_eq!(log.append(Position(0), &[vec![2]]).unwrap(), conflict);
    assert_eq!(log.append(Position(1), &[vec![2]]).unwrap(), Append::Appended);
    assert_eq!(log.read(Position(0), 9).unwrap(), [vec![1], vec![2]]);
}
