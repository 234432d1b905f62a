//! Promise: whatever the log does, nothing is acknowledged that is not in it, and nothing is in it
//! twice.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use countersign::domain::{
    Access, ActivationId, Actor, Category, Day, Email, Event, LicenseCommand, LicenseId,
    LicenseKey, Operation, Position, Product, Purpose, RecipientName, RecordedActor, Rejection,
    Role, Seats, SigningKeyId, SubjectCommand, Terms, Timestamp,
};
use countersign::log::memory::{Fault, MemoryLog};
use countersign::log::tree::CompactRange;
use countersign::log::{Append, Log, LogError, scan};
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
        self.server_on(self.log.clone(), name, queue)
    }

    fn server_on(&self, log: Arc<dyn Log>, name: &str, queue: usize) -> Server {
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
            policy: Policy::parse(countersign::policy::DEFAULT).unwrap().into(),
        })
        .unwrap();
        Server { writer, stopped, store, tree }
    }

    /// Every event in the log, as a server that starts now reads it.
    fn events(&self) -> Vec<Event> {
        let head = self.log.head().unwrap().0;
        let server = self.server("reader", 1);
        let events = server.store.events((0..head).map(Position)).unwrap();
        events.into_iter().map(|(_, stored)| stored.event).collect()
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
        let by = by(Operation::IssueLicense);
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

fn by(operation: Operation) -> Access {
    Access {
        actor: RecordedActor::Named(Actor::parse("grace").unwrap()),
        role: Role::Issuer,
        purpose: Purpose::LicenseAdministration,
        operation,
        request: None,
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
async fn what_is_not_in_the_log_is_not_in_the_views() {
    let world = World::new();
    let server = world.server("a", 16);
    server.issue(10).await;
    assert!(server.activate(1).await.unwrap().is_ok());
    world.log.inject(Some(Fault::Failed));
    assert_eq!(server.activate(2).await.err(), Some(NoAnswer::Stopped));
    let views = &server.store.views;
    assert_eq!(views.checkpoint().unwrap().next, world.log.head().unwrap());
    assert!(views.activation(id(1)).unwrap().is_some());
    assert!(views.activation(id(2)).unwrap().is_none());
    assert_eq!(views.license(LICENSE).unwrap().unwrap().used, 1);
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
async fn what_no_record_can_hold_is_refused_and_the_writer_goes_on() {
    let world = World::new();
    let server = world.server("a", 16);
    server.issue(10).await;
    let subject = world.events().iter().find_map(|event| match event {
        Event::SubjectRegistered { subject, .. } => Some(*subject),
        _ => None,
    });
    let disclose = SubjectCommand::Disclose {
        recipient: RecipientName::parse("ZenDesk").unwrap(),
        categories: vec![Category::Email; 1100],
        at: Timestamp::EPOCH,
        by: by(Operation::RecordDisclosure),
    };
    let refused = server.writer.ask(Request::Subject(subject.unwrap(), disclose)).await.unwrap();
    assert_eq!(refused.err(), Some(Rejection::TooLong));
    assert!(server.activate(1).await.unwrap().is_ok());
}

/// A log whose appends wait until they are let through.
struct Gated {
    log: Arc<MemoryLog>,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Log for Gated {
    fn head(&self) -> Result<Position, LogError> {
        self.log.head()
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        self.gate.lock().unwrap().recv().unwrap();
        self.log.append(expected, records)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        self.log.read(from, limit)
    }
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

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_loses_nothing() {
    let world = World::new();
    let (open, gate) = mpsc::channel();
    let gated = Arc::new(Gated { log: Arc::clone(&world.log), gate: Mutex::new(gate) });
    let server = world.server_on(gated, "a", 1);
    open.send(()).unwrap();
    server.issue(1000).await;
    // One is with the writer, one waits, and there is no place for another.
    let (first, second, third, ()) =
        tokio::join!(server.activate(1), server.activate(2), server.activate(3), async {
            (0..2).for_each(|_| open.send(()).unwrap());
        });
    let mut acknowledged = Vec::new();
    for (byte, answer) in (1..).zip([first, second, third]) {
        match answer {
            Ok(granted) => acknowledged.extend(granted.map(|_| id(byte))),
            Err(reason) => assert_eq!(reason, NoAnswer::Overloaded),
        }
    }
    assert!((1..=2).contains(&acknowledged.len()), "{}", acknowledged.len());
    assert_eq!(world.activations(), acknowledged);
}

/// A log whose appends wait until they may.
struct GatedLog {
    log: Arc<MemoryLog>,
    /// An append begins; an append may go on.
    gate: Mutex<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

impl Log for GatedLog {
    fn head(&self) -> Result<Position, LogError> {
        self.log.head()
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let gate = self.gate.lock().unwrap();
        gate.0.send(()).unwrap();
        gate.1.recv().unwrap();
        self.log.append(expected, records)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        self.log.read(from, limit)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_not_decided() {
    let world = World::new();
    let (begins, begun) = mpsc::channel();
    let (go_on, may) = mpsc::channel();
    let log = GatedLog { log: Arc::clone(&world.log), gate: Mutex::new((begins, may)) };
    let server = world.server_on(Arc::new(log), "a", 16);
    go_on.send(()).unwrap();
    server.issue(10).await;
    begun.recv().unwrap();

    let writer = server.writer.clone();
    let first = tokio::spawn(async move { writer.ask(activate(1)).await });
    begun.recv().unwrap();
    // The writer is busy: these two wait, and one of them gives up.
    let given_up = tokio::time::timeout(Duration::ZERO, server.activate(2)).await;
    assert!(given_up.is_err());
    let writer = server.writer.clone();
    let third = tokio::spawn(async move { writer.ask(activate(3)).await });
    go_on.send(()).unwrap();
    begun.recv().unwrap();
    go_on.send(()).unwrap();
    for answer in [first, third] {
        assert!(answer.await.unwrap().unwrap().is_ok());
    }
    assert_eq!(world.activations(), [id(1), id(3)]);
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
