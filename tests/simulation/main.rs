//! Promise: whatever fails, crashes, is lost or comes at a bad moment, nothing acknowledged is lost or
//! there twice, no seat is oversold, and what is erased stays erased.
//!
//! A simulation: writer, services, views and vault as they are, a log and a vault in memory with faults
//! by schedule, a clock that is set, no threads. Everything follows from one seed, so a failure comes
//! back with its seed. `COUNTERSIGN_SEEDS` says how many seeds are run, `COUNTERSIGN_SEED` which is the
//! first.
//!
//! A crash is possible before, within and after each call that the writer makes to log or vault, and with
//! the reply to the client lost; views then are as of their last orderly close, or gone. Between two such
//! calls nothing that lasts changes, so a crash there is one of these. Where a call is slow, time passes,
//! more clients come, and some give up.
//!
//! In a third of the runs two servers share the log, and one goes on while the other appends. They share
//! a vault too, which only ever holds keys: what destroys keys or replaces them (erasure, rectification,
//! retention, notices, a new epoch) is for one server alone, and not in these runs; nor are two servers
//! asked for one license at the same time.

mod clients;
mod faults;
mod model;
mod picture;
mod schedule;
mod server;
mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use faults::{KINDS, Tally, lock};

/// How many seeds are run where nothing else is said.
const SEEDS: u64 = 2000;
/// As many as the smallest machine has processors.
const THREADS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn nothing_acknowledged_is_lost() {
    let first = number("COUNTERSIGN_SEED").unwrap_or(1);
    let seeds = number("COUNTERSIGN_SEEDS").unwrap_or(SEEDS);
    let (next, has_failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let [events, ends] = [const { AtomicU64::new(0) }; 2];
    let tally: Mutex<Tally> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..THREADS.min(seeds) {
            scope.spawn(|| {
                while !has_failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let Ok(end) = catch_unwind(AssertUnwindSafe(|| schedule::run(seed))) else {
                        has_failed.store(true, Ordering::Relaxed);
                        eprintln!(
                            "seed {seed} (number {}) fails; again: COUNTERSIGN_SEED={seed} \
                             COUNTERSIGN_SEEDS=1 cargo test --test simulation",
                            seed - first + 1
                        );
                        break;
                    };
                    events.fetch_add(end.head.0, Ordering::Relaxed);
                    ends.fetch_add(end.ends.into(), Ordering::Relaxed);
                    faults::add(&mut lock(&tally), end.tally);
                }
            });
        }
    });
    assert!(!has_failed.into_inner(), "a seed fails; it is named above");
    let [events, ends] = [events, ends].map(AtomicU64::into_inner);
    println!("{seeds} seeds, {events} events, {ends} restarts; {:?}", lock(&tally));
    let had_all = KINDS.iter().all(|kind| lock(&tally).get(kind).is_some_and(|count| *count > 0));
    assert!(had_all || seeds < SEEDS, "not all kinds of fault took place");
}

#[test]
fn the_same_seed_is_the_same_log() {
    for seed in 1..=20 {
        assert_eq!(schedule::run(seed), schedule::run(seed), "seed {seed}");
    }
}
