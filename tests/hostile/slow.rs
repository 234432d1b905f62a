//! Clients that hold a connection by being slow, at each stage of it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, Target,
    WINDOW_UPDATE, attacker, begin, call, call_fields, call_fields_of, frame, message,
};
use crate::honest::Watched;
use crate::support::FOREVER;

/// Each must be out so long after it did anything. The longest that one may stay is 12 s; the rest is for a
/// slow machine.
const OUT: Duration = Duration::from_secs(15);
/// Who reads again after a silence must find by then that it is out.
const OUT_BY: Duration = Duration::from_secs(20);
/// How often a slow client sends a little.
const PACE: Duration = Duration::from_millis(500);
/// Who never reads makes so many calls at a time, and waits, so that the server can answer each.
const CALLS: u32 = 32;
const ANSWERED: Duration = Duration::from_millis(5);
/// Long before so many calls, what holds answers on their way must be full, and what holds calls.
const MOST_CALLS: u32 = 48_000;
/// For so long it does not read. With 12 s more it would be out too late.
const SILENCE: Duration = Duration::from_secs(17);
/// So many calls whose answers have a message are too much for what may be on its way, and not more than may
/// be under way.
const BLOCKING: u32 = 640;
/// What a connection may have on its way to a client that said nothing (RFC 9113 §6.9.2).
const WINDOW: u32 = 65_535;
/// So many of each kind.
const OF_EACH: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Slow {
    Silent,
    HalfOpenHandshake,
    SilentAfterHandshake,
    Preface,
    Idle,
    Alive,
    Headers,
    Body,
    NeverReads,
    Blocks,
    NoWindow,
}

const ALL: [Slow; 11] = [
    Slow::Silent,
    Slow::HalfOpenHandshake,
    Slow::SilentAfterHandshake,
    Slow::Preface,
    Slow::Idle,
    Slow::Alive,
    Slow::Headers,
    Slow::Body,
    Slow::NeverReads,
    Slow::Blocks,
    Slow::NoWindow,
];

/// Sends a piece at each pace until the server ends the connection.
async fn dribble<S: AsyncRead + AsyncWrite + Send + 'static>(
    stream: S,
    begin: Vec<u8>,
    piece: Vec<u8>,
) {
    let (mut reader, mut writer) = split(stream);
    let ends = async move {
        let mut buffer = [0; 4096];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    let sends = async move {
        let mut next = begin;
        loop {
            // That the server is gone is seen by reading.
            let _ = writer.write_all(&next).await;
            let _ = writer.flush().await;
            sleep(PACE).await;
            next.clone_from(&piece);
        }
    };
    tokio::select! {
        () = ends => {}
        () = sends => {}
    }
}

/// Is slow until it is turned out; how long after it did anything of use.
async fn be(slow: Slow, target: &Target, from: Ipv4Addr) -> Duration {
    let began = Instant::now();
    let http2 = || async { target.http2(from, b"").await.unwrap() };
    match slow {
        Slow::Silent => dribble(target.tcp(from).await.unwrap(), vec![], vec![]).await,
        Slow::HalfOpenHandshake => {
            // A record of 512 bytes, of which one comes at a time.
            let record = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            dribble(target.tcp(from).await.unwrap(), record, vec![0]).await;
        }
        Slow::SilentAfterHandshake => {
            dribble(target.tls(from).await.unwrap(), vec![], vec![]).await;
        }
        Slow::Preface => {
            let most = PREFACE[..PREFACE.len() - 1].to_vec();
            dribble(target.tls(from).await.unwrap(), most, vec![]).await;
        }
        Slow::Idle => dribble(http2().await, vec![], vec![]).await,
        Slow::Alive => dribble(http2().await, vec![], frame(PING, 0, 0, &[0; 8])).await,
        Slow::Headers => {
            let headers = frame(HEADERS, 0, 1, &call_fields());
            dribble(http2().await, headers, frame(CONTINUATION, 0, 1, &[])).await;
        }
        Slow::Body => dribble(http2().await, begin(1), frame(DATA, 0, 1, &[0])).await,
        Slow::NeverReads => return never_read(http2().await).await,
        Slow::Blocks => return block(http2().await).await,
        Slow::NoWindow => {
            // SETTINGS_INITIAL_WINDOW_SIZE 0: the answers' messages cannot be sent.
            let stream = target.http2(from, &[0, 4, 0, 0, 0, 0]).await.unwrap();
            dribble(stream, keys_call(1), frame(PING, 0, 0, &[0; 8])).await;
        }
    }
    began.elapsed()
}

/// Calls, and is answered for as long as there is room on the way for answers that it does not read:
/// little, so that those who do this hold little of the machine's memory.
async fn never_read<S: AsyncWrite + Unpin>(mut stream: S) -> Duration {
    let mut called = Instant::now();
    for number in 0.. {
        called = Instant::now();
        if stream.write_all(&call(client::stream(number))).await.is_err() {
            break;
        }
        assert!(number < MOST_CALLS, "so many calls were taken by the server, or wait for it");
        if number % CALLS == CALLS - 1 {
            sleep(ANSWERED).await;
        }
    }
    called.elapsed()
}

/// Calls often enough that the answers cannot all be on their way, asks whether the server is there,
/// and reads late.
async fn block<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Duration {
    let all = (u32::MAX >> 1) - WINDOW;
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &all.to_be_bytes())).await.unwrap();
    for number in 0..BLOCKING {
        stream.write_all(&keys_call(client::stream(number))).await.unwrap();
        if number % CALLS == CALLS - 1 {
            sleep(ANSWERED).await;
        }
    }
    let called = Instant::now();
    let pings = async {
        loop {
            // That the server is gone is seen by reading.
            let _ = stream.write_all(&frame(PING, 0, 0, &[0; 8])).await;
            sleep(PACE).await;
        }
    };
    // A connection that is not of use for 12 s has ended by then. One that has not goes on as soon as it can,
    // and would be of use again.
    let _: Result<(), _> = timeout(SILENCE, pings).await;
    while stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
    called.elapsed()
}

/// A call whose answer has a message.
fn keys_call(stream: u32) -> Vec<u8> {
    let fields = call_fields_of("/countersign.v1.ActivationService/GetSigningKeys");
    let end = frame(DATA, END_STREAM, stream, &message(false, b""));
    [frame(HEADERS, END_HEADERS, stream, &fields), end].concat()
}

/// Turned out where apps are served, and where staff are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_turned_out() {
    let watched = Watched::start("").await;
    let server = &watched.server;
    for (target, name) in [
        (Target::of(server), "slow clients"),
        (Target::of_staff(server, "support"), "slow clients of the staff's port"),
    ] {
        let attack = async {
            let mut clients = JoinSet::new();
            for (kind, slow) in ALL.into_iter().enumerate() {
                for _ in 0..OF_EACH {
                    let target = target.clone();
                    clients.spawn(async move {
                        let out = timeout(FOREVER, be(slow, &target, attacker(kind))).await;
                        let took = out.unwrap_or_else(|_| panic!("{slow:?} is still there"));
                        let by = if matches!(slow, Slow::Blocks) { OUT_BY } else { OUT };
                        assert!(took < by, "{slow:?} was out after {took:?}");
                        (slow, took)
                    });
                }
            }
            clients.join_all().await
        };
        let out = watched.bears(name, ALL.len() * OF_EACH + 16, attack).await;
        for kind in ALL {
            let same = out.iter().filter(|(slow, _)| format!("{slow:?}") == format!("{kind:?}"));
            println!("{kind:?}: out after {:.1?}", same.map(|(_, took)| took).max().unwrap());
        }
        watched.is_alone().await;
    }
}
