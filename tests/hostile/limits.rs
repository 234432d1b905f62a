//! What one call and one connection may have, and how long they may last: each bound is reached, and
//! gone past.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use countersign::proto::v1::activation_service_client::ActivationServiceClient;
use countersign::proto::v1::{ActivateRequest, ActivateResponse, GetSigningKeysRequest};
use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::ALONE;
use crate::client::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, Target,
    WINDOW_UPDATE, Wire, attacker, begin, call, call_fields, call_fields_of, cancel, frame,
    message, stream,
};
use crate::support::{FOREVER, Place, Server};

/// Acknowledges PING and SETTINGS.
const ACK: u8 = 1;
/// Settings (RFC 9113 §6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// Errors (RFC 9113 §7).
const NO_ERROR: u32 = 0;
const FLOW_CONTROL_ERROR: u32 = 3;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What the configuration says by default, and `src/grpc/mod.rs`.
const STREAMS: u32 = 128;
const ERRORS: usize = 1024;
const STREAM_WINDOW: usize = 65_535;
const CONNECTION_WINDOW: usize = 256 * 1024;

/// The connection itself has no window smaller than this (RFC 9113 §6.9.2).
const FIRST_WINDOW: usize = 65_535;
/// A frame may have so many bytes if nothing else is said (RFC 9113 §6.5.2).
const FRAME: usize = 16_384;
/// Past a window by more than the few messages that the server reads, whose bytes it gives back.
const BEYOND: usize = 1024;
/// For what a busy machine does to a bound of one second; far below the 12 s of silence.
const LATE: Duration = Duration::from_secs(6);

fn start(place: &Place, limits: &str) -> Server {
    place.configure(&format!("[public.limits]\n{limits}"));
    place.start()
}

/// The settings that the server announces.
async fn settings(wire: &mut Wire) -> HashMap<u16, u32> {
    let announced = wire.find(&[SETTINGS]).await.payload;
    let (settings, _) = announced.as_chunks::<6>();
    settings
        .iter()
        .map(|[i1, i2, value @ ..]| (u16::from_be_bytes([*i1, *i2]), u32::from_be_bytes(*value)))
        .collect()
}

#[tokio::test]
async fn calls_that_never_end_are_answered() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = start(&place, "call_seconds = 1");
    let channel = server.channel();
    let mut calls = JoinSet::new();
    for _ in 0..STREAMS {
        let mut client = Grpc::new(channel.clone());
        calls.spawn(async move {
            client.ready().await.unwrap();
            let path = PathAndQuery::from_static("/countersign.v1.ActivationService/Activate");
            let codec = ProstCodec::<ActivateRequest, ActivateResponse>::default();
            let request = Request::new(tokio_stream::pending());
            let began = Instant::now();
            let status = client.client_streaming(request, path, codec).await.unwrap_err();
            (status, began.elapsed())
        });
    }
    for (status, took) in calls.join_all().await {
        assert_eq!((status.code(), status.message()), (Code::Cancelled, "Timeout expired"));
        assert!((Duration::from_secs(1)..LATE).contains(&took), "{took:?}");
    }
    // They hold no place of the connection's any more.
    let mut app = ActivationServiceClient::new(channel);
    app.get_signing_keys(GetSigningKeysRequest {}).await.unwrap();
}

#[tokio::test]
async fn calls_beyond_those_announced_are_refused_and_then_the_connection_ends() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    // So that none of them is over before all are counted.
    let server = start(&place, "call_seconds = 60\nidle_seconds = 61");
    let mut wire = Wire::open(&Target::of(&server), attacker(0), b"").await;
    assert_eq!(settings(&mut wire).await[&MAX_CONCURRENT_STREAMS], STREAMS);

    wire.send(&(0..=STREAMS).map(stream).flat_map(begin).collect::<Vec<_>>()).await.unwrap();
    let refused = wire.find(&[RST_STREAM, HEADERS, GOAWAY]).await;
    assert_eq!(refused.outcome(), (RST_STREAM, stream(STREAMS), Some(REFUSED_STREAM)));
    // One that is given up makes room for another.
    let next = stream(STREAMS + 1);
    wire.send(&[cancel(stream(0)), call(next)].concat()).await.unwrap();
    let answer = wire.find(&[RST_STREAM, HEADERS, GOAWAY]).await;
    assert_eq!(answer.outcome(), (HEADERS, next, None));

    // Whole requests, which earn the frames that they cost: only that they are refused is counted.
    wire.send(&begin(next + 2)).await.unwrap();
    let mut refused = 1;
    let mut next = next + 4;
    'refusing: while refused <= 2 * ERRORS {
        let batch = (0..64).map(|number| {
            frame(HEADERS, END_HEADERS | END_STREAM, next + 2 * number, &call_fields())
        });
        wire.send(&batch.collect::<Vec<_>>().concat()).await.unwrap();
        for _ in 0..64 {
            let frame = wire.find(&[RST_STREAM, HEADERS, GOAWAY]).await;
            if frame.kind == GOAWAY {
                assert_eq!(frame.outcome(), (GOAWAY, 0, Some(ENHANCE_YOUR_CALM)));
                break 'refusing;
            }
            assert_eq!(frame.outcome(), (RST_STREAM, frame.stream, Some(REFUSED_STREAM)));
            refused += 1;
        }
        next += 128;
    }
    assert_eq!(refused, ERRORS);
}

/// A call of reflection whose answers the client has no window for: from some of its messages on
/// the server reads nothing of it, so that what else comes stays in the windows.
fn unread(number: u32, bytes: usize) -> Vec<u8> {
    /// More messages than the server reads before it stops, each in a frame of its own.
    const MESSAGES: usize = 16;
    // ServerReflectionRequest.list_services, which is empty.
    let ask = message(false, &[0x3a, 0]);
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let stream = stream(number);
    let mut frames = frame(HEADERS, END_HEADERS, stream, &call_fields_of(path));
    frames.extend(frame(DATA, 0, stream, &ask).repeat(MESSAGES));
    let rest = vec![0; bytes - MESSAGES * ask.len()];
    frames.extend(rest.chunks(FRAME).flat_map(|part| frame(DATA, 0, stream, part)));
    frames
}

/// A connection whose answers find no window.
async fn stuck(server: &Server) -> Wire {
    let target = Target::of_staff(server, "support");
    let no_window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &0u32.to_be_bytes()].concat();
    let mut wire = Wire::open(&target, attacker(0), &no_window).await;
    let window = settings(&mut wire).await[&INITIAL_WINDOW_SIZE];
    assert_eq!(window as usize, STREAM_WINDOW);
    let more = wire.find(&[WINDOW_UPDATE]).await;
    assert_eq!((more.stream, more.number(0) as usize), (0, CONNECTION_WINDOW - FIRST_WINDOW));
    wire.send(&frame(SETTINGS, ACK, 0, b"")).await.unwrap();
    wire
}

/// Whether the server takes what was sent and goes on: it answers a PING, and ends nothing before.
async fn goes_on(wire: &mut Wire) -> bool {
    wire.send(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    wire.find(&[PING, RST_STREAM, GOAWAY]).await.kind == PING
}

#[tokio::test]
async fn a_call_has_no_more_bytes_in_flight_than_its_window() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = place.start();
    let mut wire = stuck(&server).await;
    wire.send(&unread(0, STREAM_WINDOW)).await.unwrap();
    assert!(goes_on(&mut wire).await, "the whole window may be used");
    wire.send(&frame(DATA, 0, stream(0), &[0; BEYOND])).await.unwrap();
    let ended = wire.find(&[RST_STREAM, GOAWAY]).await;
    assert_eq!(ended.outcome(), (RST_STREAM, stream(0), Some(FLOW_CONTROL_ERROR)));
    // Only that call is ended.
    assert!(goes_on(&mut wire).await);
}

#[tokio::test]
async fn a_connection_has_no_more_bytes_in_flight_than_its_window() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = place.start();
    let mut wire = stuck(&server).await;
    let full = u32::try_from(CONNECTION_WINDOW / STREAM_WINDOW).unwrap();
    for number in 0..full {
        wire.send(&unread(number, STREAM_WINDOW)).await.unwrap();
    }
    assert!(goes_on(&mut wire).await, "the whole window may be used");
    wire.send(&unread(full, BEYOND)).await.unwrap();
    let ended = wire.find(&[RST_STREAM, GOAWAY]).await;
    assert_eq!(ended.outcome(), (GOAWAY, 0, Some(FLOW_CONTROL_ERROR)));
}

#[tokio::test]
async fn old_connections_end_with_their_calls() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = start(&place, "connection_seconds = 1");
    let began = Instant::now();
    let mut wire = Wire::open(&Target::of(&server), attacker(0), b"").await;
    wire.send(&begin(1)).await.unwrap();
    let farewell = wire.find(&[GOAWAY, HEADERS, RST_STREAM]).await;
    assert_eq!(farewell.outcome(), (GOAWAY, 0, Some(NO_ERROR)));
    assert!((Duration::from_secs(1)..LATE).contains(&began.elapsed()), "{:?}", began.elapsed());
    let ping = wire.find(&[PING]).await;
    wire.send(&frame(PING, ACK, 0, &ping.payload)).await.unwrap();
    // From here on nothing new is taken, and what was begun is answered.
    assert_eq!(wire.find(&[GOAWAY]).await.number(0), 1);
    wire.send(&call(3)).await.unwrap();
    wire.send(&frame(DATA, END_STREAM, 1, &message(false, b""))).await.unwrap();
    let answer = wire.find(&[HEADERS, RST_STREAM]).await;
    assert_eq!(answer.outcome(), (HEADERS, 1, None));
    let ended = async { while wire.next().await.is_ok() {} };
    timeout(FOREVER, ended).await.expect("the connection ends with its last call");
}

#[tokio::test]
async fn old_connections_end_whatever_their_clients_do() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = start(&place, "connection_seconds = 1");
    // Calls again and again, and answers nothing.
    let mut wire = Wire::open(&Target::of(&server), attacker(0), b"").await;
    let began = Instant::now();
    let mut number = 0;
    let stays = async {
        while wire.send(&call(stream(number))).await.is_ok() {
            number += 1;
            loop {
                match wire.next().await {
                    Ok(frame) if frame.kind == HEADERS => break,
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        }
    };
    timeout(Duration::from_secs(15), stays).await.expect("it stays");
    println!("out after {:.1?}, {number} calls", began.elapsed());
}

#[tokio::test]
async fn clients_whose_connections_grow_old_make_new_ones() {
    let _alone = ALONE.lock().await;
    let place = Place::new();
    let server = start(&place, "connection_seconds = 1");
    let mut app = server.app();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let Err(status) = app.get_signing_keys(GetSigningKeysRequest {}).await else { continue };
        // This client may take a connection that ends at this moment. It says then that it has sent
        // nothing, and the next call finds a new one.
        assert_eq!(status.code(), Code::Cancelled, "{status:?}");
        app.get_signing_keys(GetSigningKeysRequest {}).await.expect("the call goes through");
    }
}
