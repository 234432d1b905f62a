//! The listeners: TLS, who may call what, and the messages on the wire. Handlers parse, call the
//! service and map its answer; what a license may do is not decided here.

mod acceptor;
mod activation;
mod authorise;
mod capped;
mod connection;
mod convert;
mod frames;
mod health;
mod history;
mod license;
mod measure;
mod operator;
mod places;
mod privacy;
mod roles;
mod statistics;
mod status;
mod tiles;
pub mod tls;
mod traffic;
mod transparency;

use std::future::Future;
use std::io;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::transport::Server;

use crate::backup::Source;
use crate::metrics::{Listener, Metrics};
use crate::proto::DESCRIPTORS;
use crate::proto::v1::activation_service_server::{self, ActivationServiceServer};
use crate::proto::v1::history_service_server::{self, HistoryServiceServer};
use crate::proto::v1::license_service_server::{self, LicenseServiceServer};
use crate::proto::v1::operator_service_server::OperatorServiceServer;
use crate::proto::v1::privacy_service_server::{self, PrivacyServiceServer};
use crate::proto::v1::statistics_service_server::{self, StatisticsServiceServer};
use crate::proto::v1::transparency_service_server::{self, TransparencyServiceServer};
use crate::service::Service;
use crate::service::guessing::{GuessLimits, Guesses};
use acceptor::AcceptLimits;
use health::Health;
use measure::Measure;
use tls::Tls;
use traffic::Room;

pub use connection::{Connection, Peer};
pub use roles::{IdentityError, identify};

/// What a layer over the services answers with.
type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

/// The bounds of a listener: what one client may cost. `docs/attacks.md` says against what each is.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once, handshakes included. Beyond that those without a call for longest make
    /// room, or else more are closed at once. 2048.
    pub connections: usize,
    /// The same for one client, an IPv4 address or an IPv6 network of /64. 256.
    pub connections_of_client: usize,
    /// Seconds for the TLS handshake and the first bytes of HTTP/2. 5.
    pub handshake_seconds: u64,
    /// Seconds that a connection may be without a call that begins or ends, whatever bytes come; and that
    /// a client may not acknowledge what was sent to it. More than `call_seconds`. 12.
    pub idle_seconds: u64,
    /// Seconds that a call may take until its answer begins. 10.
    pub call_seconds: u64,
    /// Seconds after which a connection ends with its calls, and clients make a new one. 3600.
    pub connection_seconds: u64,
    /// Calls at once on one connection. 128.
    pub concurrent_streams: u32,
    /// Bytes of a request's headers. 8192.
    pub header_bytes: u32,
    /// Bytes of a request's message. 16384, four times the longest receipt.
    pub message_bytes: usize,
    /// Frames that a connection may send beside those its calls need. 1024.
    pub spare_frames: u32,
    /// MiB that requests hold which have not come in full, of all connections. Beyond that who holds
    /// more than one message is turned out. 16.
    pub unfinished_mib: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            connections_of_client: 256,
            handshake_seconds: 5,
            idle_seconds: 12,
            call_seconds: 10,
            connection_seconds: 60 * 60,
            concurrent_streams: 128,
            header_bytes: 8192,
            message_bytes: 16 * 1024,
            spare_frames: 1024,
            unfinished_mib: 16,
        }
    }
}

/// A setting, its value, and what it may be.
pub type Range = (&'static str, u64, RangeInclusive<u64>);

impl Limits {
    /// Each bound, with what serves nobody and what bounds nothing left out.
    pub fn ranges(&self) -> [Range; 11] {
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        [
            ("connections", wide(self.connections), 1..=1_000_000),
            ("connections_of_client", wide(self.connections_of_client), 1..=1_000_000),
            ("handshake_seconds", self.handshake_seconds, 1..=300),
            ("idle_seconds", self.idle_seconds, 1..=86_400),
            ("call_seconds", self.call_seconds, 1..=3600),
            ("connection_seconds", self.connection_seconds, 1..=86_400),
            ("concurrent_streams", self.concurrent_streams.into(), 1..=65_535),
            ("header_bytes", self.header_bytes.into(), 1024..=1 << 20),
            ("message_bytes", wide(self.message_bytes), 4096..=1 << 20),
            ("spare_frames", self.spare_frames.into(), 16..=1_000_000),
            ("unfinished_mib", wide(self.unfinished_mib), 1..=1 << 20),
        ]
    }
}

/// How many streams that a client resets a connection bears before they are looked at
/// (CVE-2023-44487), and how many that the server must reset. hyper's own values, which tonic turns
/// off.
const RESET_STREAMS: usize = 20;
const LOCAL_RESET_STREAMS: usize = 1024;
/// Bytes that a client may send before they are read: of one call and of all. Those of the
/// RFC, and a little for calls at once; hyper's own would be 1 MiB each.
const STREAM_WINDOW: u32 = 65_535;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// What is served on the public listener, and on the staff listener.
const PUBLIC_SERVICES: &[&str] = &[activation_service_server::SERVICE_NAME];
/// What is on the public listener as well where the vendor wants everybody to see the log's tree.
const PUBLIC_SERVICES_WITH_TREE: &[&str] =
    &[activation_service_server::SERVICE_NAME, transparency_service_server::SERVICE_NAME];
const STAFF_SERVICES: &[&str] = &[
    license_service_server::SERVICE_NAME,
    history_service_server::SERVICE_NAME,
    privacy_service_server::SERVICE_NAME,
    statistics_service_server::SERVICE_NAME,
    transparency_service_server::SERVICE_NAME,
];

/// Serves apps until `shutdown`, then answers what is under way.
pub async fn serve_public(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
    limits: Limits,
    guessing: GuessLimits,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let guesses = Guesses::new(guessing, Instant::now());
    let handler = activation::ActivationHandler {
        service: Arc::clone(&service),
        guesses,
        metrics: Arc::clone(&metrics),
    };
    let activation =
        ActivationServiceServer::new(handler).max_decoding_message_size(limits.message_bytes);
    let tree = service.shows_tree_to_apps().then(|| Arc::clone(&service));
    let transparency = tree.clone().map(|service| {
        TransparencyServiceServer::new(transparency::TransparencyHandler(service))
            .max_decoding_message_size(limits.message_bytes)
    });
    let services = if tree.is_some() { PUBLIC_SERVICES_WITH_TREE } else { PUBLIC_SERVICES };
    let (reporter, health) = tonic_health::server::health_reporter();
    let health = health.max_decoding_message_size(limits.message_bytes);
    let readiness = Health::serving(reporter, services).await;
    let connections = counted(connections(listener, tls, limits), Listener::Public, &metrics);
    transport(limits)
        .layer(Measure { listener: Listener::Public, metrics })
        .layer(tiles::Tiles(tree))
        .add_service(activation)
        .add_optional_service(transparency)
        .add_service(health)
        .serve_with_incoming_shutdown(connections, readiness.until(service, shutdown))
        .await
}

/// Serves staff until `shutdown`, then answers what is under way.
pub async fn serve_staff(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
    limits: Limits,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StaffError> {
    let license = LicenseServiceServer::new(license::LicenseHandler(Arc::clone(&service)))
        .max_decoding_message_size(limits.message_bytes);
    let history = HistoryServiceServer::new(history::HistoryHandler(Arc::clone(&service)))
        .max_decoding_message_size(limits.message_bytes);
    let statistics =
        StatisticsServiceServer::new(statistics::StatisticsHandler(Arc::clone(&service)))
            .max_decoding_message_size(limits.message_bytes);
    let privacy = privacy::PrivacyHandler {
        service: Arc::clone(&service),
        sweep: Duration::from_secs(limits.call_seconds) * 2 / 5,
    };
    let privacy =
        PrivacyServiceServer::new(privacy).max_decoding_message_size(limits.message_bytes);
    let transparency =
        TransparencyServiceServer::new(transparency::TransparencyHandler(Arc::clone(&service)))
            .max_decoding_message_size(limits.message_bytes);
    let (reporter, health) = tonic_health::server::health_reporter();
    let health = health.max_decoding_message_size(limits.message_bytes);
    let readiness = Health::serving(reporter, STAFF_SERVICES).await;
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(tonic_health::pb::health_server::SERVICE_NAME);
        STAFF_SERVICES.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let connections = counted(connections(listener, tls, limits), Listener::Staff, &metrics);
    transport(limits)
        .layer(Measure { listener: Listener::Staff, metrics })
        .layer(authorise::Authorise)
        .layer(tiles::Tiles(Some(Arc::clone(&service))))
        .add_service(license)
        .add_service(history)
        .add_service(privacy)
        .add_service(statistics)
        .add_service(transparency)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // Some clients of today still ask by the older name.
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(connections, readiness.until(service, shutdown))
        .await?;
    Ok(())
}

/// Serves the operator on this machine until `shutdown`. Who may connect is told by the socket's file.
pub async fn serve_operator(
    listener: UnixListener,
    source: Source,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .add_service(OperatorServiceServer::new(operator::OperatorHandler(source)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
        .await
}

/// The staff listener cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StaffError {
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors are not what reflection reads.
    #[error(transparent)]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// HTTP/2 within bounds, for services to be added to.
pub fn transport(limits: Limits) -> Server {
    Server::builder()
        .timeout(Duration::from_secs(limits.call_seconds))
        .max_connection_age(Duration::from_secs(limits.connection_seconds))
        .max_concurrent_streams(limits.concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(limits.header_bytes)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESET_STREAMS))
}

/// Counts connections while they are open.
fn counted(
    connections: ReceiverStream<io::Result<Connection>>,
    listener: Listener,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let metrics = Arc::clone(metrics);
    connections.map(move |connection| Ok(connection?.counted(metrics.connected(listener))))
}

/// The connections of a listener, within bounds. It closes when the stream is dropped.
pub fn connections(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
    limits: Limits,
) -> ReceiverStream<io::Result<Connection>> {
    let limits = AcceptLimits {
        handshake: Duration::from_secs(limits.handshake_seconds),
        idle: Duration::from_secs(limits.idle_seconds),
        connections: limits.connections,
        connections_of_client: limits.connections_of_client,
        room: Room::new(limits.unfinished_mib << 20, limits.message_bytes, limits.spare_frames),
    };
    acceptor::incoming(listener, tls, limits)
}
