//! Promise: an operator sees how a server is, can have it end without losing a call, and can change its
//! policy while it serves; and what is in its memory stays there.

mod support;

use std::convert::Infallible;
use std::fs;
use std::future::{Future, poll_fn};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use countersign::proto::v1::license_service_client::LicenseServiceClient;
use countersign::proto::v1::{ActivateRequest, ActivateResponse, IssueLicenseRequest};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use prost::Message as _;
use support::{FOREVER, Place, Server, activation, http, reason};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

const EMAIL: &str = "ada@example.com";
/// What is left to do when calls are waited for no longer takes less, also on a slow machine.
const AFTER_DRAINING: Duration = Duration::from_secs(30);
const ACTIVATE: &str = "/countersign.v1.ActivationService/Activate";

fn with_metrics(place: &Place) -> (Server, String) {
    let server = place.start_with(&["--ops-listen", "127.0.0.1:0"]);
    let address = server.operator_address();
    (server, address)
}

/// The metrics, once a line is among them: a call is counted just after its answer was sent.
async fn metrics_with(address: &str, line: &str) -> String {
    let looked = Instant::now();
    loop {
        let (_, text) = http(address, "GET /metrics");
        if text.lines().any(|found| found == line) {
            return text;
        }
        assert!(looked.elapsed() < FOREVER, "{line}\n{text}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn metrics_say_what_happened_and_nothing_of_anybody() {
    let place = Place::new();
    let (server, address) = with_metrics(&place);
    let key = server.issue(EMAIL, "Sextant", 2).await;
    for nonce in 0..2 {
        server.app().activate(activation(EMAIL, &key, nonce)).await.unwrap();
    }
    let full = server.app().activate(activation(EMAIL, &key, 2)).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    // Support may not issue.
    let mut stranger = LicenseServiceClient::new(server.staff_channel("support"));
    let denied = stranger.issue_license(IssueLicenseRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    // What is no method of ours has no label of its own.
    for path in ["/who/knows", "/what/for"] {
        let request = http::Request::post(path).body(Body::empty()).unwrap();
        send(&mut server.channel(), request).await.await.unwrap();
    }

    let calls = |listener: &str, method: &str, code: &str, count: u32| {
        let labels = format!(r#"listener="{listener}",method="{method}",code="{code}""#);
        format!("countersign_call_seconds_count{{{labels}}} {count}")
    };
    let activate = ACTIVATE.trim_start_matches('/');
    let issue = "countersign.v1.LicenseService/IssueLicense";
    metrics_with(&address, &calls("public", activate, "OK", 2)).await;
    metrics_with(&address, &calls("public", activate, "RESOURCE_EXHAUSTED", 1)).await;
    metrics_with(&address, &calls("staff", issue, "OK", 1)).await;
    metrics_with(&address, &calls("staff", issue, "PERMISSION_DENIED", 1)).await;
    // One of all that is there.
    let checkpoint = place.run_async(&["log", "checkpoint"]).await;
    assert!(checkpoint.status.success(), "{checkpoint:?}");
    let text = metrics_with(&address, &calls("public", "other", "UNIMPLEMENTED", 2)).await;

    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name}\n{text}")).parse().unwrap()
    };
    assert!((value("countersign_writable") - 1.0).abs() < f64::EPSILON);
    assert!(value("countersign_log_head") >= 4.0);
    assert!(value("countersign_append_seconds_count") >= 3.0);
    assert!(value("countersign_append_events_sum") >= 4.0);
    assert!(value("countersign_vault_slots") >= 3.0);
    for nothing in [
        "view_lag",
        "checkpoint_lag",
        "queue_depth",
        "pending_erasures",
        "rate_limited_calls_total",
    ] {
        assert!(value(&format!("countersign_{nothing}")).abs() < f64::EPSILON, "{nothing}");
    }
    for secret in [EMAIL, "ada", "example.com", "Sextant", &key, "dev-", "who", "what/for"] {
        assert!(!text.contains(secret), "{secret}\n{text}");
    }

    // What is shown is explained.
    let docs = fs::read_to_string("docs/operating.md").unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let name = line.split(' ').next().unwrap();
        assert!(docs.contains(&format!("`{name}")), "docs/operating.md does not explain {name}");
    }
}

#[test]
fn there_is_nothing_beside_the_metrics() {
    let place = Place::new();
    let (server, address) = with_metrics(&place);
    let (head, _) = http(&address, "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("openmetrics-text"), "{head}");
    for (request, status) in [("GET /", "404"), ("POST /metrics", "405"), ("GET /metrics/x", "404")]
    {
        let (head, body) = http(&address, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.is_empty(), "{head}");
    }
    assert!(server.terminate().success());
    assert!(!place.directory().join("run/ops").exists(), "nobody looks for it there any more");
}

#[test]
fn metrics_are_served_to_this_machine_alone() {
    let place = Place::new();
    let refused = place.run(&["serve", "--ops-listen", "0.0.0.0:9464"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("this machine"), "{refused:?}");
    place.configure("[ops]\nlisten = \"192.0.2.1:9464\"");
    assert!(place.refusal().contains("this machine"));
}

#[test]
fn who_holds_the_ops_listener_up_is_turned_out() {
    let place = Place::new();
    let (_server, address) = with_metrics(&place);
    let mut slow: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").unwrap();
    }
    assert!(http(&address, "GET /metrics").0.starts_with("HTTP/1.1 200 "));
}

async fn watch(channel: Channel) -> Streaming<HealthCheckResponse> {
    let whole = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).watch(whole).await.unwrap().into_inner()
}

async fn next(health: &mut Streaming<HealthCheckResponse>) -> Option<ServingStatus> {
    let message = timeout(FOREVER, health.message()).await.expect("the health changes");
    message.unwrap().map(|answer| answer.status())
}

/// Waits for its end in another thread, so that a server that does not end fails its test.
async fn ended(server: Server) -> Option<i32> {
    let ended = tokio::task::spawn_blocking(move || server.wait().code());
    timeout(FOREVER, ended).await.expect("the server ends").unwrap()
}

#[tokio::test]
async fn health_says_that_the_server_ends_before_it_does() {
    let place = Place::new();
    let path = place.directory().join("countersign.toml");
    let config = fs::read_to_string(&path).unwrap();
    // Who watches does not hold the end up.
    fs::write(&path, config.replace("#= drain_seconds = 10", "drain_seconds = 600")).unwrap();
    let server = place.start();
    let names = ["countersign.v1.ActivationService", "countersign.v1.HistoryService"];
    let channels = [server.channel(), server.staff_channel("support")];
    let mut watching = Vec::new();
    for (channel, name) in channels.into_iter().zip(names) {
        let request = HealthCheckRequest { service: name.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{name}");
        let mut health = watch(channel).await;
        assert_eq!(next(&mut health).await, Some(ServingStatus::Serving));
        watching.push(health);
    }
    let ready = || place.run(&["ready"]).status.code();
    assert_eq!(ready(), Some(0));
    server.signal("TERM");
    for health in &mut watching {
        assert_eq!(next(health).await, Some(ServingStatus::NotServing));
        assert_eq!(next(health).await, None);
    }
    assert_eq!(ended(server).await, Some(0));
    assert_eq!(ready(), Some(4));
}

/// Sends a request as it is. On return it is on its way.
async fn send(
    channel: &mut Channel,
    request: http::Request<Body>,
) -> impl Future<Output = Result<http::Response<Body>, tonic::transport::Error>> + use<> {
    poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    channel.call(request)
}

/// A call whose message is held back.
struct Held {
    message: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    answer: JoinHandle<Result<ActivateResponse, Status>>,
}

impl Held {
    /// Begins a call. On return the server has its headers: what was asked after it is answered.
    async fn begin(server: &Server) -> Self {
        let mut channel = server.channel();
        let (message, frames) = mpsc::channel(1);
        let request = http::Request::post(ACTIVATE)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(StreamBody::new(ReceiverStream::new(frames))))
            .unwrap();
        let call = send(&mut channel, request).await;
        let answer = tokio::spawn(async move {
            let answer = call.await.map_err(|error| Status::unknown(error.to_string()))?;
            if let Some(status) = Status::from_header_map(answer.headers()) {
                return Err(status);
            }
            let whole = answer.into_body().collect().await?.to_bytes();
            // Behind the flag and the length.
            Ok(ActivateResponse::decode(&whole[5..]).unwrap())
        });
        let mut health = HealthClient::new(channel);
        health.check(HealthCheckRequest::default()).await.unwrap();
        Self { message, answer }
    }

    async fn finish(self, request: &ActivateRequest) -> Result<ActivateResponse, Status> {
        let message = request.encode_to_vec();
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        self.message.send(Ok(Frame::data(framed.into()))).await.unwrap();
        drop(self.message);
        timeout(FOREVER, self.answer).await.expect("it is answered").unwrap()
    }
}

/// Waits until the server takes no connection any more.
async fn draining(server: &Server) {
    let began = Instant::now();
    while TcpStream::connect(server.public_address()).is_ok() {
        assert!(began.elapsed() < FOREVER, "the listener is open still");
        tokio::task::yield_now().await;
    }
}

fn drain_within(place: &Place, seconds: u16) {
    let path = place.directory().join("countersign.toml");
    let config = fs::read_to_string(&path).unwrap();
    let config = config.replace("#= drain_seconds = 10", &format!("drain_seconds = {seconds}"));
    fs::write(
        &path,
        format!("{config}\n[public.limits]\ncall_seconds = 600\nidle_seconds = 601\n"),
    )
    .unwrap();
}

#[tokio::test]
async fn calls_under_way_are_answered_before_it_ends() {
    let place = Place::new();
    drain_within(&place, 600);
    let server = place.start();
    let key = server.issue(EMAIL, "App", 1).await;
    let held = Held::begin(&server).await;
    server.signal("TERM");
    draining(&server).await;
    let receipt = held.finish(&activation(EMAIL, &key, 7)).await.unwrap().receipt;
    assert_eq!(ended(server).await, Some(0));

    let server = place.start();
    let again = server.app().activate(activation(EMAIL, &key, 7)).await.unwrap().into_inner();
    assert_eq!(again.receipt, receipt);
}

#[tokio::test]
async fn who_never_finishes_does_not_hold_the_end_up() {
    let place = Place::new();
    drain_within(&place, 1);
    let server = place.start();
    server.issue(EMAIL, "App", 1).await;
    let held = Held::begin(&server).await;
    let told = Instant::now();
    server.signal("TERM");
    assert_eq!(ended(server).await, Some(0));
    let took = told.elapsed();
    println!("ended {took:.1?} after the signal, with a call that never ends");
    assert!(took < Duration::from_secs(1) + AFTER_DRAINING, "{took:?}");
    assert!(held.answer.await.unwrap().is_err());
    let log = fs::read_to_string(place.log_path()).unwrap();
    assert!(log.contains("still under way"), "{log}");
    // The writer and the views ended in order all the same.
    place.start();
    let log = fs::read_to_string(place.log_path()).unwrap();
    assert!(!log.contains("rebuilding"), "{log}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    drain_within(&place, 600);
    let server = place.start();
    let key = server.issue(EMAIL, "App", 1).await;
    let receipt = server.app().activate(activation(EMAIL, &key, 1)).await.unwrap().into_inner();
    let held = Held::begin(&server).await;
    server.signal("TERM");
    draining(&server).await;
    server.signal("INT");
    assert_eq!(ended(server).await, Some(1));
    assert!(held.answer.await.unwrap().is_err());

    let server = place.start();
    let again = server.app().activate(activation(EMAIL, &key, 1)).await.unwrap().into_inner();
    assert_eq!(again, receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_says_so_soon_and_goes_on() {
    const DEVICES: u32 = 200;
    let place = Place::new();
    place.configure("[storage]\nqueue = 1");
    let server = place.start();
    let key = server.issue(EMAIL, "App", DEVICES).await;
    let apps: Vec<_> = (0..4).map(|_| server.app()).collect();
    let mut calls = tokio::task::JoinSet::new();
    for nonce in 0..u128::from(DEVICES) {
        let number = usize::try_from(nonce).unwrap();
        let (mut app, request) =
            (apps[number % apps.len()].clone(), activation(EMAIL, &key, nonce));
        calls.spawn(async move { (nonce, app.activate(request).await) });
    }
    let mut refused = Vec::new();
    for (nonce, answer) in calls.join_all().await {
        let Err(status) = answer else { continue };
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "OVERLOADED"));
        let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
        assert!(!retry.is_zero() && retry < Duration::from_secs(60), "{retry:?}");
        refused.push(nonce);
    }
    println!("of {DEVICES} calls at once, with a queue of one, {} were refused", refused.len());
    assert!(!refused.is_empty(), "a queue of one is full before 200 calls are through");
    // Nothing has happened for them: each takes its seat now, and no other.
    for nonce in refused {
        server.app().activate(activation(EMAIL, &key, nonce)).await.unwrap();
    }
    let history = server.history(EMAIL).await.unwrap();
    assert_eq!(history.licenses[0].activations_total, u64::from(DEVICES));
}

#[tokio::test]
async fn a_policy_holds_from_its_reload_on_and_a_mistake_changes_nothing() {
    let place = Place::new();
    let server = place.start();
    server.issue(EMAIL, "App", 1).await;
    let mut health = watch(server.staff_channel("support")).await;
    assert_eq!(next(&mut health).await, Some(ServingStatus::Serving));
    let path = place.directory().join("policy.toml");
    let policy = fs::read_to_string(&path).unwrap();
    let hidden = format!("{policy}\n[category.activation_time.seen_by]\nsupport = []\n");
    let looked = Instant::now();

    assert!(server.history(EMAIL).await.is_ok());
    fs::write(&path, &hidden).unwrap();
    server.signal("HUP");
    let refusal = loop {
        match server.history(EMAIL).await {
            Err(refusal) => break refusal,
            Ok(_) => assert!(looked.elapsed() < FOREVER, "the policy is not taken up"),
        }
    };
    assert_eq!(reason(&refusal), "PURPOSE_NOT_ALLOWED");

    let mistake = format!("{policy}\n[category.license]\nretention_days = 0\n");
    fs::write(&path, &mistake).unwrap();
    server.signal("HUP");
    let line = format!("line {}: license is kept for at least 1", mistake.lines().count());
    while !fs::read_to_string(place.log_path()).unwrap().contains(&line) {
        assert!(looked.elapsed() < FOREVER, "the mistake is not told: {line}");
        tokio::task::yield_now().await;
    }
    assert_eq!(reason(&server.history(EMAIL).await.unwrap_err()), "PURPOSE_NOT_ALLOWED");

    fs::write(&path, &policy).unwrap();
    server.signal("HUP");
    while server.history(EMAIL).await.is_err() {
        assert!(looked.elapsed() < FOREVER, "the policy is not taken up");
    }
    // The connection was there all the time: its call has not ended.
    server.signal("TERM");
    assert_eq!(next(&mut health).await, Some(ServingStatus::NotServing));
}

/// Nobody, who owns nothing.
const NOBODY: u32 = 65534;

#[test]
fn nothing_of_its_memory_gets_into_a_file() {
    let place = Place::new();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        // To tell whose its files are from who runs it.
        let root = place.directory().parent().unwrap().to_owned();
        assert!(Command::new("chown").args(["-R", "65534"]).arg(root).status().unwrap().success());
    }
    // Nobody may not read where it was built.
    let binary = place.beside("countersign");
    let copy = [Path::new(env!("CARGO_BIN_EXE_countersign")), &binary];
    assert!(Command::new("cp").args(copy).status().unwrap().success());
    let server = place.start_through(|serve| {
        if is_root {
            let arguments: Vec<_> = serve.get_args().map(ToOwned::to_owned).collect();
            *serve = Command::new(&binary);
            serve.args(arguments).uid(NOBODY).gid(NOBODY);
        }
    });
    let process = format!("/proc/{}", server.id());
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let core: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(core, ["0", "0", "bytes"]);
    // The kernel gives the files of a process that may not be dumped to root (proc(5)).
    let owner = fs::metadata(format!("{process}/environ")).unwrap().uid();
    assert_eq!(owner, 0, "others of its user could read its memory");
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let ran_by = if is_root { NOBODY } else { fs::metadata("/proc/self").unwrap().uid() };
    assert!(status.contains(&format!("Uid:\t{ran_by}\t")), "{status}");
    assert!(server.terminate().success());
}

#[test]
fn the_unit_waits_for_longer_than_the_server_takes_to_end() {
    let unit = fs::read_to_string("packaging/countersign.service").unwrap();
    let set = |name: &str| {
        let value = unit.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        value.unwrap_or_else(|| panic!("{name} is not set")).to_owned()
    };
    let config = countersign::config::Config::parse(countersign::config::TEMPLATE).unwrap();
    // Calls, then the writer, the tiles and the archive, then what still reads: src/cli/serve.rs.
    let longest = u64::from(config.drain_seconds) + 10 + 1 + 10 + 1;
    assert!(set("TimeoutStopSec").parse::<u64>().unwrap() > longest);
    assert_eq!(set("LimitCORE"), "0");
    assert!(set("ExecReload").contains("-HUP"));
}

#[test]
fn there_are_descriptors_for_all_connections_or_a_warning() {
    let place = Place::new();
    place.configure("[public.limits]\nconnections = 400\n[staff.limits]\nconnections = 400");
    for (limit, is_enough) in [("-S -n 256", true), ("-n 512", false)] {
        let server = place.start_through(|serve| {
            let mut limited = Command::new("sh");
            limited.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
            limited.arg(serve.get_program()).args(serve.get_args());
            *serve = limited;
        });
        let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let [soft, hard] = [3, 4].map(|word| files.split_whitespace().nth(word).unwrap());
        assert_eq!(soft, hard, "the limit is raised to what is allowed");
        let log = fs::read_to_string(place.log_path()).unwrap();
        assert_eq!(!log.contains("LimitNOFILE"), is_enough, "{log}");
    }
}
