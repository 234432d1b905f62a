//! Accepts connections within bounds, which tonic's own listener does not have: a deadline for the
//! handshake, a cap on connections, an end for idle ones, and calm when descriptors run out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::Connection;
use super::tls::SharedConfig;

/// How long to wait when the system has no descriptor or memory for another connection.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often to say that connections are turned away.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// How many connections may wait for the server to take them. It takes them at once.
const READY: usize = 64;

/// The bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct AcceptLimits {
    /// For TLS handshake and HTTP/2 preface together.
    pub handshake: Duration,
    /// How long a connection may neither read nor write.
    pub idle: Duration,
    /// How many connections there may be, handshakes included. More are closed at once: an honest
    /// client hears so, and tries again, instead of waiting in the backlog for its timeout.
    pub connections: usize,
}

/// The connections of a listener. It closes when the stream is dropped.
pub(super) fn incoming(
    listener: TcpListener,
    tls: SharedConfig,
    limits: AcceptLimits,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY);
    let acceptor = Acceptor { tls, limits, ready };
    tokio::spawn(acceptor.run(listener));
    ReceiverStream::new(connections)
}

#[derive(Clone)]
struct Acceptor {
    tls: SharedConfig,
    limits: AcceptLimits,
    ready: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let mut complained: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.ready.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // The client went away between its connect and our accept.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!("connections cannot be accepted: {error}");
                    sleep(BACK_OFF).await;
                    continue;
                }
            };
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                tokio::spawn(self.clone().admit(stream, place));
            } else if complained.is_none_or(|last| last.elapsed() > COMPLAINT_INTERVAL) {
                complained = Some(Instant::now());
                let connections = self.limits.connections;
                tracing::warn!(connections, "connections are turned away: as many are open as may");
            }
        }
    }

    /// A handshake that fails concerns nobody else, so it is not an error of the listener.
    async fn admit(self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let handshake = async {
            stream.set_nodelay(true)?;
            let stream = TlsAcceptor::from(self.tls.load_full()).accept(stream).await?;
            Connection::new(stream, self.limits.idle, place).await
        };
        match timeout(self.limits.handshake, handshake).await {
            // The server may be gone.
            Ok(Ok(connection)) => drop(self.ready.send(Ok(connection)).await),
            Ok(Err(error)) => tracing::debug!("a handshake failed: {}", error.kind()),
            Err(_) => tracing::debug!("a handshake took too long"),
        }
    }
}
