//! Accepts connections within bounds, which tonic's own listener does not have: a deadline for the
//! handshake, a cap on connections, of one client and of all, an end for those that are of no use, and
//! calm when descriptors run out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::capped::Capped;
use super::connection::{Connection, Greeted};
use super::places::{Place, Places};
use super::tls::Tls;
use super::traffic::{Room, Traffic};
use crate::service::guessing::{Client, Salt};
use crate::telemetry::Complaint;

/// How long to wait when the system has no descriptor or memory for another connection.
const BACK_OFF: Duration = Duration::from_millis(100);
/// So many bytes of answers the kernel keeps that it cannot send. Unbounded they are megabytes for each
/// client that does not read.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 64 * 1024;
/// For no longer, whatever connections may: about what the kernel does by itself.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(15 * 60);
/// How many connections may wait for the server to take them. It takes them at once.
const READY: usize = 64;

/// The bounds of a listener.
pub(super) struct AcceptLimits {
    /// For TLS handshake and HTTP/2 preface together.
    pub handshake: Duration,
    /// How long a connection may be of no use.
    pub idle: Duration,
    /// How many connections there may be, handshakes included. When none can make room, more are
    /// closed at once: an honest client hears so, and tries again, instead of waiting in the
    /// backlog for its timeout.
    pub connections: usize,
    /// The same for one client.
    pub connections_of_client: usize,
    /// What all connections share.
    pub room: Room,
}

/// The connections of a listener. It closes when the stream is dropped.
pub(super) fn incoming(
    listener: TcpListener,
    tls: watch::Receiver<Arc<Tls>>,
    limits: AcceptLimits,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY);
    let acceptor = Acceptor {
        tls,
        handshake: limits.handshake,
        idle: limits.idle,
        places: Places::new(limits.connections, limits.connections_of_client),
        room: Arc::new(limits.room),
        salt: Salt::default(),
        ready,
    };
    tokio::spawn(acceptor.run(listener));
    ReceiverStream::new(connections)
}

#[derive(Clone)]
struct Acceptor {
    tls: watch::Receiver<Arc<Tls>>,
    handshake: Duration,
    idle: Duration,
    places: Arc<Places>,
    room: Arc<Room>,
    salt: Salt,
    ready: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        let (out_of_descriptors, full) = (Complaint::default(), Complaint::default());
        let mut may_change = true;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.ready.closed() => return,
                changed = self.tls.changed(), if may_change => {
                    // An error means that nobody will change it any more.
                    may_change = changed.is_ok();
                    let tls = Arc::clone(&self.tls.borrow_and_update());
                    self.places.keep_only(|chain| tls.admits(chain));
                    continue;
                }
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                // The client went away between its connect and our accept.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if out_of_descriptors.is_due() {
                        tracing::warn!("connections cannot be accepted: {error}");
                    }
                    sleep(BACK_OFF).await;
                    continue;
                }
            };
            let client = self.salt.client(address.ip());
            if let Some(place) = self.places.take(client, Instant::now()) {
                tokio::spawn(self.clone().admit(stream, client, place));
            } else if full.is_due() {
                tracing::warn!("connections are turned away: as many are open as may");
            }
        }
    }

    /// A handshake that fails concerns nobody else, so it is not an error of the listener.
    async fn admit(mut self, stream: TcpStream, client: Client, mut place: Place) {
        let since = Instant::now();
        let tls = Arc::clone(&self.tls.borrow_and_update());
        let handshake = async {
            stream.set_nodelay(true)?;
            bound_unread(&stream, self.idle);
            let acceptor = TlsAcceptor::from(Arc::clone(&tls.server));
            Greeted::new(acceptor.accept(Capped::new(stream)).await?).await
        };
        let greeted = tokio::select! {
            ended = timeout(self.handshake, handshake) => match ended {
                Ok(Ok(greeted)) => greeted,
                Ok(Err(error)) => {
                    tracing::debug!("a handshake failed: {}", error.kind());
                    return;
                }
                Err(_) => {
                    tracing::debug!("a handshake took too long");
                    return;
                }
            },
            () = place.lost() => return,
        };
        if !greeted.certificates().is_empty() {
            place.certify(greeted.certificates());
            // From here on it is looked at when certificates are withdrawn; before, it was not.
            let is_admitted = || self.tls.borrow().admits(greeted.certificates());
            if self.tls.has_changed().unwrap_or(false) && !is_admitted() {
                return;
            }
        }
        let traffic = Traffic::new(Arc::clone(&self.room), since);
        let connection = Connection::new(greeted, client, traffic, self.idle, since, place);
        // The server may be gone.
        drop(self.ready.send(Ok(connection)).await);
    }
}

/// Bounds what the kernel keeps for a client that does not read: how much, and, also when the connection
/// has been closed, how long. Without it the kernel's own bounds hold.
#[cfg(target_os = "linux")]
fn bound_unread(stream: &TcpStream, idle: Duration) {
    static REFUSED: Complaint = Complaint::new();
    let socket = SockRef::from(stream);
    let bounded = socket
        .set_tcp_notsent_lowat(UNSENT)
        .and_then(|()| socket.set_tcp_user_timeout(Some(idle.min(UNACKNOWLEDGED))));
    if let Err(error) = bounded
        && REFUSED.is_due()
    {
        tracing::warn!("the kernel does not bound what clients do not read: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn bound_unread(_: &TcpStream, _: Duration) {}
