//! Promise: `activate` burns no seat. Whatever becomes of its call, of its answer or of the receipt's
//! file, the activation is asked for again with the same nonce until the receipt is there.

mod support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use countersign::proto::v1::activation_service_server::{
    ActivationService, ActivationServiceServer,
};
use countersign::proto::v1::{
    ActivateRequest, ActivateResponse, CheckRequest, CheckResponse, DeactivateRequest,
    DeactivateResponse, GetSigningKeysRequest, GetSigningKeysResponse, RenewRequest, RenewResponse,
};
use support::{Place, Server};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Identity;
use tonic::transport::server::{ServerTlsConfig, TcpIncoming};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const ADA: &str = "ada@example.com";
const KEY: &str = "00000-00000-00000-00000-000150";
const OTHER_KEY: &str = "00000-00000-00000-00000-000000";

/// What a stand-in for the server does: `None` is no answer at all.
type Answer = Box<dyn Fn(usize) -> Option<Result<String, Status>> + Send + Sync>;

/// A stand-in for a place's server, which is gone, connections and all, when it is dropped.
struct StandIn {
    _runtime: Runtime,
    calls: mpsc::Receiver<ActivateRequest>,
}

struct Service {
    answer: Answer,
    called: Mutex<(usize, mpsc::Sender<ActivateRequest>)>,
}

#[tonic::async_trait]
impl ActivationService for Service {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        let call = {
            let mut called = self.called.lock().unwrap();
            called.0 += 1;
            called.1.send(request.into_inner()).unwrap();
            called.0 - 1
        };
        let receipt = match (self.answer)(call) {
            Some(receipt) => receipt,
            None => std::future::pending().await,
        };
        receipt.map(|receipt| Response::new(ActivateResponse { receipt }))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Err(Status::cancelled("Timeout expired"))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::permission_denied(""))
    }

    async fn deactivate(
        &self,
        _: Request<DeactivateRequest>,
    ) -> Result<Response<DeactivateResponse>, Status> {
        Err(Status::internal("broken"))
    }

    async fn get_signing_keys(
        &self,
        _: Request<GetSigningKeysRequest>,
    ) -> Result<Response<GetSigningKeysResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl StandIn {
    fn start(
        place: &Place,
        answer: impl Fn(usize) -> Option<Result<String, Status>> + Send + Sync + 'static,
    ) -> Self {
        let pem = |name: &str| fs::read(place.directory().join("tls").join(name)).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(pem("server.pem"), pem("server.key")));
        let (sender, calls) = mpsc::channel();
        let service = Service { answer: Box::new(answer), called: (0, sender).into() };
        let runtime = Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let inside = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        let server = tonic::transport::Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(ActivationServiceServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener));
        runtime.spawn(server);
        drop(inside);
        fs::create_dir_all(place.directory().join("run")).unwrap();
        let line = format!("listening public={address} staff={address}");
        fs::write(place.directory().join("run/listening"), line).unwrap();
        Self { _runtime: runtime, calls }
    }

    fn nonces(&self) -> Vec<Vec<u8>> {
        self.calls.try_iter().map(|request| request.nonce).collect()
    }
}

fn activate(place: &Place, email: &str, key: &str, receipt: &str) -> Output {
    place.run(&["activate", "--email", email, "--key", key, "--receipt", receipt])
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The nonces that are kept beside the receipts of a place.
fn kept(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.beside("")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|kind| kind == "pending")).collect()
}

fn info(reason: &str) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, countersign::proto::ERROR_DOMAIN, HashMap::new())
}

fn busy() -> Status {
    let mut details = info("OVERLOADED");
    details.set_retry_info(Some(Duration::ZERO));
    Status::with_error_details(Code::Unavailable, "too many", details)
}

fn refused(reason: &str) -> Status {
    Status::with_error_details(Code::FailedPrecondition, "no", info(reason))
}

async fn used(server: &Server) -> u32 {
    server.history(ADA).await.unwrap().licenses[0].license.as_ref().unwrap().used
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_call_is_asked_again_after_its_restart() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 2).await;
    assert!(server.terminate().success());

    let dying = StandIn::start(&place, |_| None);
    let receipt = place.beside("receipt");
    let arguments = ["activate", "--email", ADA, "--key", &key, "--receipt"];
    let mut command = place.command();
    let command = command.args(arguments).arg(&receipt).stderr(Stdio::piped());
    let activate = command.stdout(Stdio::piped()).spawn().unwrap();
    let request = dying.calls.recv().unwrap();
    tokio::task::spawn_blocking(move || drop(dying)).await.unwrap();
    let server = place.start();
    let output = activate.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kept(&place), Vec::<PathBuf>::new());

    // The nonce is the one of the first call: it gives the same receipt.
    let answer = server.app().activate(request).await.unwrap().into_inner();
    assert_eq!(answer.receipt, fs::read_to_string(&receipt).unwrap());
    assert_eq!(used(&server).await, 1);
}

#[test]
fn a_nonce_is_kept_until_its_receipt_is_there() {
    let place = Place::new();
    let server = StandIn::start(&place, |call| match call {
        0..6 => Some(Err(busy())),
        6 => Some(Err(refused("SEATS_EXHAUSTED"))),
        7 => Some(Err(refused("LICENSE_NOT_FOUND"))),
        _ => Some(Ok("the receipt".to_owned())),
    });
    let receipt = place.beside("receipt");
    let receipt = receipt.to_str().unwrap();
    let busy = activate(&place, ADA, KEY, receipt);
    assert_eq!(busy.status.code(), Some(4), "{busy:?}");
    assert!(told(&busy).contains("takes no second seat"), "{busy:?}");
    let first = server.nonces();
    assert!(first.len() == 6 && first.iter().all(|nonce| *nonce == first[0]), "{first:?}");
    assert_eq!(kept(&place).len(), 1);

    // Another license has a nonce of its own, which holds nothing once it is refused.
    assert_eq!(activate(&place, ADA, OTHER_KEY, receipt).status.code(), Some(3));
    assert_ne!(server.nonces(), [first[0].clone()]);
    assert_eq!(kept(&place).len(), 1);

    // A typing error in the address does not lose it, and then it is repeated.
    assert_eq!(activate(&place, "eda@example.com", KEY, receipt).status.code(), Some(3));
    let done = activate(&place, ADA, KEY, receipt);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(server.nonces(), [first[0].clone(), first[0].clone()]);
    assert_eq!(fs::read_to_string(receipt).unwrap(), "the receipt");
    assert_eq!(kept(&place), Vec::<PathBuf>::new());

    // What is done is not repeated.
    assert!(activate(&place, ADA, KEY, receipt).status.success());
    assert_ne!(server.nonces(), [first[0].clone()]);
}

#[test]
fn what_was_activated_and_ended_since_is_activated_afresh() {
    let place = Place::new();
    let server = StandIn::start(&place, |call| match call {
        0..6 => Some(Err(busy())),
        6 => Some(Err(refused("ACTIVATION_ENDED"))),
        _ => Some(Ok("the receipt".to_owned())),
    });
    let receipt = place.beside("receipt");
    let receipt = receipt.to_str().unwrap();
    assert_eq!(activate(&place, ADA, KEY, receipt).status.code(), Some(4));
    assert!(activate(&place, ADA, KEY, receipt).status.success());
    let nonces = server.nonces();
    assert!(nonces[5] == nonces[6] && nonces[6] != nonces[7] && nonces.len() == 8, "{nonces:?}");
    assert_eq!(kept(&place), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_seat_is_taken_for_a_receipt_that_has_no_place() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 1).await;
    let directory = place.beside("");
    for file in ["/nonexistent/receipt", directory.to_str().unwrap(), "/dev/null", ".."] {
        let output = activate(&place, ADA, &key, file);
        assert_eq!(output.status.code(), Some(1), "{file}: {output:?}");
        assert!(told(&output).contains("nothing was activated"), "{output:?}");
    }
    assert_eq!(used(&server).await, 0);
}

#[test]
fn a_receipt_that_cannot_be_saved_after_all_is_printed() {
    let place = Place::new();
    let receipt = place.beside("receipt");
    let in_the_way = receipt.clone();
    let server = StandIn::start(&place, move |call| {
        if call == 0 {
            fs::create_dir(&in_the_way).unwrap();
        }
        Some(Ok("the receipt".to_owned()))
    });
    let output = activate(&place, ADA, KEY, receipt.to_str().unwrap());
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b"the receipt\n"[..]));
    assert!(told(&output).contains("it is on standard output"), "{output:?}");
    fs::remove_dir(&receipt).unwrap();
    assert!(activate(&place, ADA, KEY, receipt.to_str().unwrap()).status.success());
    let nonces = server.nonces();
    assert!(nonces.len() == 2 && nonces[0] == nonces[1], "{nonces:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_cannot_be_printed_is_had_again() {
    let place = Place::new();
    let server = place.start();
    let key = server.issue(ADA, "App", 2).await;
    let activate = ["activate", "--email", ADA, "--key", &key];
    let full = File::options().write(true).open("/dev/full").unwrap();
    let lost = place.command().args(activate).stdout(full).output().unwrap();
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert!(told(&lost).contains("takes no second seat"), "{lost:?}");
    assert!(place.run(&activate).status.success());
    assert_eq!(used(&server).await, 1);
    assert!(place.run(&activate).status.success());
    assert_eq!(used(&server).await, 2);
}

#[test]
fn what_the_transport_says_is_explained() {
    let place = Place::new();
    let _server = StandIn::start(&place, |_| None);
    let receipt = place.beside("receipt");
    fs::write(&receipt, "a receipt").unwrap();
    for (command, code, text) in [
        ("check", 4, "no answer came in time"),
        ("renew", 3, "PermissionDenied"),
        ("deactivate", 1, "broken"),
    ] {
        let output = place.run(&[command, "--receipt", receipt.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(told(&output).contains(text), "{output:?}");
    }
}
