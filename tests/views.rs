//! Promise: views that are made of a whole log are those that were kept up with it.

#[path = "support/world.rs"]
mod world;

use std::sync::{Arc, OnceLock};

use countersign::domain::Position;
use countersign::log::memory::MemoryLog;
use countersign::log::{Append, Log, LogError, PAGE};
use countersign::service::Service;
use countersign::service::store::{Page, SlotCounts, Store};
use countersign::views::Views;
use tokio::runtime::Handle;
use world::{World, activate, erase, issue};

const PERSONS: usize = 20;
const ACTIVATIONS: usize = 24;

/// Some days of a server, longer than is taken in at a time. Each of some persons has a license a day and
/// activations of it, of which some end.
async fn live(world: &World, server: &Service) {
    for day in ["2026-01-01", "2026-01-02", "2026-01-03"] {
        world.now_is(day);
        for person in 0..PERSONS {
            let name = format!("person-{person}");
            let key = issue(server, &name, None).await;
            for number in 0..ACTIVATIONS {
                let receipt = activate(server, &name, &key).await;
                if number % 5 == 0 {
                    server.deactivate(&receipt).await.unwrap();
                }
            }
        }
        server.count_days().await.unwrap();
    }
    assert!(world.log.head().unwrap() > Position(PAGE as u64));
}

/// Whether the views are, row for row, what all of the log says.
fn are_of_log(views: &Views, world: &World) -> bool {
    let place = tempfile::tempdir().unwrap();
    let scratch = Views::open(place.path(), 1 << 20).unwrap();
    let mut whole = scratch.begin_whole().unwrap().unwrap();
    let records = world.log.read(Position::ZERO, usize::MAX).unwrap();
    let page = Page::open(world.vault.as_ref(), Position::ZERO, &records).unwrap();
    whole.apply(page.pairs()).unwrap();
    whole.is_in(views, page.end().unwrap(), |_, _| ()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_log_makes_the_views_that_followed_it() {
    let world = World::new("2026-01-01");
    let (server, followed) = world.server_on("followed");
    live(&world, &server).await;
    erase(&server, "person-3").await;
    issue(&server, "person-3", None).await;
    world.now_is("2026-01-04");
    server.count_days().await.unwrap();
    server.finish_erasures().await.unwrap();

    let (_, whole) = world.server_on("whole");
    assert!(are_of_log(&followed.views, &world));
    assert!(are_of_log(&whole.views, &world));
    // They go on alike.
    server.finish_erasures().await.unwrap();
    erase(&server, "person-4").await;
    assert!(are_of_log(&followed.views, &world));
    assert!(!are_of_log(&whole.views, &world));
    whole.catch_up(|_| ()).unwrap();
    assert!(are_of_log(&whole.views, &world));
}

/// A log that is read while another server erases a person.
struct ErasedMeanwhile {
    log: Arc<MemoryLog>,
    erase: Box<dyn Fn() + Send + Sync>,
    erased: OnceLock<()>,
}

impl Log for ErasedMeanwhile {
    fn head(&self) -> Result<Position, LogError> {
        self.log.head()
    }

    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        self.log.append(expected, records)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        if from > Position::ZERO {
            self.erased.get_or_init(&self.erase);
        }
        self.log.read(from, limit)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_while_views_are_made_is_not_in_them() {
    let world = World::new("2026-01-01");
    let (server, followed) = world.server_on("followed");
    live(&world, &server).await;
    let runtime = Handle::current();
    let erase = move || drop(runtime.block_on(erase(&server, "person-3")));
    let log = ErasedMeanwhile {
        log: Arc::clone(&world.log),
        erase: Box::new(erase),
        erased: OnceLock::new(),
    };
    let place = tempfile::tempdir().unwrap();
    let store = Store {
        log: Arc::new(log),
        vault: Arc::clone(&world.vault),
        views: Views::open(place.path(), 1 << 20).unwrap(),
        counts: SlotCounts::default(),
    };
    let whole = tokio::task::spawn_blocking(move || {
        store.catch_up(|_| ()).unwrap();
        store
    });
    let whole = whole.await.unwrap();
    assert_eq!(whole.views.pending_erasures().unwrap().len(), 1);
    assert!(are_of_log(&followed.views, &world));
    assert!(are_of_log(&whole.views, &world));
}
