//! Messages that are larger than they look, or never come in full.

use std::io::Read as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::uri::PathAndQuery;
use prost::bytes::BufMut as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::client::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Target, Wire, attacker, begin, call_fields, field,
    frame, message,
};
use crate::honest::Watched;
use crate::support::Server;

/// Sends bytes as they are.
struct Bytes;

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = ProstDecoder<()>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<(), ()>::default().decoder()
    }
}

/// Calls `Activate` with any bytes.
async fn send(server: &Server, bytes: Vec<u8>, encoding: Option<&'static str>) -> Status {
    let mut client = Grpc::new(server.channel());
    client.ready().await.unwrap();
    let mut request = Request::new(bytes);
    if let Some(encoding) = encoding {
        request.metadata_mut().insert("grpc-encoding", encoding.parse().unwrap());
    }
    let path = PathAndQuery::from_static("/countersign.v1.ActivationService/Activate");
    client.unary(request, path, Bytes).await.unwrap_err()
}

/// Bytes that open a group in a group, and so on.
fn nested(depth: usize) -> Vec<u8> {
    vec![0x7b; depth] // field 15, start of a group
}

/// A field inside a field, as deep as it goes.
fn long(length: usize) -> Vec<u8> {
    vec![b'a'; length]
}

/// What each compressed message would grow to; it comes in one frame.
const UNPACKED: u64 = 14 << 20;
/// Connections that bring such a message together.
const PACKED_AT_ONCE: usize = 8;

fn packed() -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(UNPACKED), &mut packed).unwrap();
    packed.finish().unwrap()
}

/// Calls whose messages are compressed. Every other does not say how.
async fn send_packed(target: &Target, packed: &[u8]) {
    let message = message(true, packed);
    let mut clients = JoinSet::new();
    for number in 0..PACKED_AT_ONCE {
        let mut fields = call_fields();
        if number % 2 == 0 {
            fields.extend(field("grpc-encoding", b"gzip"));
        }
        let headers = frame(HEADERS, END_HEADERS, 1, &fields);
        let call = [headers, frame(DATA, END_STREAM, 1, &message)].concat();
        let target = target.clone();
        clients.spawn(async move {
            let mut wire = Wire::open(&target, attacker(number), b"").await;
            wire.send(&call).await.unwrap();
            wire.find(&[HEADERS]).await.flags
        });
    }
    // Headers that end the call are a refusal.
    for flags in clients.join_all().await {
        assert_ne!(flags & END_STREAM, 0, "it is taken");
    }
}

/// Of those that send requests without their last byte.
const CLIENTS: usize = 48;
const ROUNDS: u32 = 8;
const OF_EACH_ROUND: u32 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_do_not_go_off() {
    let watched = Watched::start("").await;
    let server = &watched.server;
    let (target, packed) = (Target::of(server), packed());
    let bombs = async {
        for _ in 0..20 {
            let status = send(server, nested(16_000), None).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            let status = send(server, long(16 * 1024 + 1), None).await;
            assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
            let status = send(server, long(4 << 20), None).await;
            assert!(matches!(status.code(), Code::OutOfRange | Code::Cancelled), "{status:?}");
            for encoding in ["gzip", "deflate", "zstd"] {
                let status = send(server, long(1000), Some(encoding)).await;
                assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
            }
            send_packed(&target, &packed).await;
        }
    };
    watched.bears("bombs", 256, bombs).await;

    // Requests that lack their last byte, from many clients.
    let hoard = async {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let target = target.clone();
            clients.spawn(async move {
                let (mut reader, mut writer) = target.halves(attacker(number)).await.unwrap();
                let ends = tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 14];
                    while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
                });
                let mut body = message(false, &long(16 * 1024));
                body.truncate(16 * 1024 - 1);
                for round in 0..ROUNDS {
                    for number in 0..OF_EACH_ROUND {
                        let stream = 2 * (round * OF_EACH_ROUND + number) + 1;
                        let call = [begin(stream), frame(DATA, 0, stream, &body)].concat();
                        // That it has been turned out is seen below.
                        let _ = writer.write_all(&call).await;
                    }
                    let _ = writer.flush().await;
                    // Within the window: the server gives it back when it has read.
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
                ends.is_finished()
            });
        }
        clients.join_all().await.into_iter().filter(|is_out| *is_out).count()
    };
    let out = watched.bears("unfinished requests", 256, hoard).await;
    println!("{out} of {CLIENTS} were turned out");
    assert!(out > CLIENTS / 2, "{out}");
}
