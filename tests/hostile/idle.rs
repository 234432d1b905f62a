//! Thousands of handshakes that do not end.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::ALONE;
use crate::client::{Target, attacker};
use crate::honest::Watched;
use crate::support::Place;

/// What the configuration says by default.
const CONNECTIONS: usize = 2048;
/// How many of one client's: fewer than it may have.
const OF_EACH: usize = 130;

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
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = place.start();
    let target = Target::of(&server);
    let watched = Watched::new(&server).await;
    let attack = async {
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let target = target.clone();
            clients.spawn(async move {
                let mut stream = target.tcp(attacker(number / OF_EACH)).await.unwrap();
                // The server ends it, at once or after its deadline.
                let _ = stream.write_all(&long_hello()).await;
                let _ = stream.read(&mut [0; 1024]).await;
            });
        }
        clients.join_all().await
    };
    watched.bears("long handshakes", CONNECTIONS, attack).await;
}
