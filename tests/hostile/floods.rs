//! Frames that cost the server more than the client.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PRIORITY, SETTINGS, Target, WINDOW_UPDATE,
    attacker, begin, call, call_fields, cancel, frame, stream,
};
use crate::honest::Watched;

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_millis(1500);
/// How many connections flood at once.
const FLOODING: usize = 2;
/// So many frames are sent at once.
const BATCH: u32 = 64;
/// More than the kernel holds between the two: who may send so many is not bounded.
const WITHOUT_END: u32 = 1_000_000;

/// Makes the frame with this number.
type Next = fn(u32) -> Vec<u8>;

const FLOODS: [(&str, Next); 10] = [
    ("rapid reset of whole calls", |n| [call(stream(n)), cancel(stream(n))].concat()),
    ("rapid reset of calls begun", |n| [begin(stream(n)), cancel(stream(n))].concat()),
    ("PING flood", |_| frame(PING, 0, 0, &[0; 8])),
    ("SETTINGS flood", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
    ("PRIORITY flood", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
    ("WINDOW_UPDATE flood", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ("flood of unknown frames", |_| frame(0x42, 0, 0, &[])),
    ("empty DATA flood", |n| if n == 0 { begin(1) } else { frame(DATA, 0, 1, &[]) }),
    ("CONTINUATION flood", |n| {
        if n == 0 { frame(HEADERS, 0, 1, &call_fields()) } else { frame(CONTINUATION, 0, 1, &[]) }
    }),
    ("header bomb", |n| {
        // One long field put into the table, and named again for as long as the frame is (RFC 7541 §6).
        let mut block = call_fields();
        block.extend([0x40, 1, b'x', 0x7f, 0xad, 0x1a]);
        block.extend([b'y'; 3500]);
        block.resize(16_000, 0xbe);
        frame(HEADERS, END_HEADERS, stream(n), &block)
    }),
];

/// Floods connection after connection. Gives how many the server ended.
async fn flood(target: Target, number: usize, next: Next) -> usize {
    let until = Instant::now() + FLOOD;
    let mut ended = 0;
    while Instant::now() < until {
        let Ok((mut reader, mut writer)) = target.halves(attacker(number)).await else { continue };
        let server_ends = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 14];
            while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
        let mut sent = 0;
        while !server_ends.is_finished() {
            let frames: Vec<u8> = (sent..sent + BATCH).flat_map(next).collect();
            if writer.write_all(&frames).await.is_err() {
                break;
            }
            sent += BATCH;
            assert!(sent < WITHOUT_END, "the server bears it without end");
        }
        ended += 1;
    }
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_the_connection_that_sends_them() {
    let watched = Watched::start("").await;
    let [public, staff] =
        [Target::of(&watched.server), Target::of_staff(&watched.server, "support")];
    let floods = FLOODS.iter().map(|(name, next)| ((*name).to_owned(), *next, &public));
    let by_staff = FLOODS.iter().map(|(name, next)| (format!("{name}, by staff"), *next, &staff));
    for (name, next, target) in floods.chain(by_staff) {
        let floods = async {
            let flooding = (0..FLOODING).map(|n| tokio::spawn(flood(target.clone(), n, next)));
            let mut ended = 0;
            for flood in flooding.collect::<Vec<_>>() {
                ended += flood.await.unwrap();
            }
            ended
        };
        assert!(watched.bears(&name, 256, floods).await > 0, "{name}");
    }
}
