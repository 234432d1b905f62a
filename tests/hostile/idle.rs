//! Thousands of connections that do nothing, and of handshakes that do not end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{Target, attacker};
use crate::honest::Watched;

/// What the configuration says by default.
const CONNECTIONS: usize = 2048;
const OF_ONE_CLIENT: usize = 256;
/// So many make room at once: those who look now and then may see that many fewer.
const MADE_FREE: usize = CONNECTIONS / 32;
/// More than there may be.
const IDLE: usize = 2600;
/// How many of one client's: fewer than it may have.
const OF_EACH: usize = 130;
/// Handshakes at once.
const AT_ONCE: usize = 4;
/// So many bytes of a handshake the server may keep.
const KEPT: usize = 24 << 10;
/// Waves of handshakes come for so long.
const LASTS: Duration = Duration::from_secs(5);

/// A `ClientHello` that claims 64 KiB and brings all but the end, in TLS records of 16 KiB.
fn long_hello() -> Vec<u8> {
    let mut records = Vec::new();
    for number in 0..4 {
        records.extend([0x16, 3, 1, 0x3f, 0xf0]);
        let start = records.len();
        if number == 0 {
            records.extend([1, 0, 0xff, 0xfb, 3, 3]);
        }
        records.resize(start + 0x3ff0 - usize::from(number == 3), 0);
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_handshakes_fill_no_memory() {
    let watched = Watched::start("").await;
    let target = Target::of(&watched.server);
    let hello: Arc<[u8]> = long_hello().into();
    let attack = async {
        // One wave is over before honest clients have called often enough.
        let (began, mut begun) = (Instant::now(), 0);
        while began.elapsed() < LASTS {
            let mut clients = JoinSet::new();
            for number in 0..CONNECTIONS {
                let (target, hello) = (target.clone(), Arc::clone(&hello));
                clients.spawn(async move {
                    let (kept, rest) = hello.split_at(KEPT);
                    let mut stream = target.tcp(attacker(number / OF_EACH)).await.unwrap();
                    // What the server may have to keep of it is on its way.
                    let is_taken = stream.write_all(kept).await.is_ok();
                    // The server ends it, at once or after its deadline.
                    let _ = stream.write_all(rest).await;
                    let _ = stream.read(&mut [0; 1024]).await;
                    is_taken
                });
            }
            begun += clients.join_all().await.into_iter().filter(|is_taken| *is_taken).count();
        }
        begun
    };
    let begun = watched.bears("long handshakes", CONNECTIONS, attack).await;
    println!("{begun} were begun");
    assert!(begun > CONNECTIONS / 2, "{begun}");
    watched.is_alone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_keep_nobody_out() {
    let watched = Watched::start("").await;
    let target = Target::of(&watched.server);
    // What came to be is held: only the server ends it.
    let open = |count: usize, of_each: usize| {
        let target = target.clone();
        async move {
            let at_once = Arc::new(Semaphore::new(AT_ONCE));
            let mut connections = JoinSet::new();
            for number in 0..count {
                let (target, at_once) = (target.clone(), Arc::clone(&at_once));
                connections.spawn(async move {
                    let _place = at_once.acquire().await.unwrap();
                    // The server may have none for it.
                    target.http2(attacker(number / of_each), b"").await.ok()
                });
            }
            connections.join_all().await.into_iter().flatten().collect::<Vec<_>>()
        }
    };
    let held = watched.bears("idle connections", CONNECTIONS, open(IDLE, OF_EACH)).await;
    println!("{} of {IDLE} came to be", held.len());
    assert!(held.len() > IDLE / 2, "{}", held.len());
    let peak = watched.peak();
    assert!(peak >= CONNECTIONS - MADE_FREE, "the bound was not reached: {peak}");
    watched.is_alone().await;
    let one = open(2 * OF_ONE_CLIENT, usize::MAX);
    let held_too = watched.bears("idle connections of one client", OF_ONE_CLIENT, one).await;
    watched.is_alone().await;
    drop((held, held_too));
}
