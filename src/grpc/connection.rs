//! One TLS connection, as the gRPC server sees it.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::roles::identify;
use crate::metrics::Connected as Counted;
use crate::service::Staff;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who is at the other end. Never an address: those of clients are kept nowhere.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The member of staff; `None` on the public listener, and for a certificate that names nobody.
    pub staff: Option<Staff>,
}

/// A connection whose TLS handshake is done and whose client speaks HTTP/2. It ends by itself when
/// nothing was read or written for a while, and holds its place among all connections until then.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// The preface, read already, is read again by the HTTP/2 server.
    replayed: usize,
    peer: Peer,
    idle: Duration,
    last_use: Instant,
    /// Fires when the connection may have been idle for long enough.
    alarm: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

impl Connection {
    /// Waits for the preface.
    pub(super) async fn new(
        mut stream: TlsStream<TcpStream>,
        idle: Duration,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        if preface != *PREFACE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let certificates = stream.get_ref().1.peer_certificates();
        let staff = certificates.and_then(|chain| chain.first()).and_then(|certificate| {
            identify(certificate)
                .inspect_err(|error| tracing::info!("a staff certificate names nobody: {error}"))
                .ok()
        });
        Ok(Self {
            stream,
            replayed: 0,
            peer: Peer { staff },
            idle,
            last_use: Instant::now(),
            alarm: Box::pin(sleep(idle)),
            _place: place,
            _counted: None,
        })
    }

    /// Has it counted for as long as it is open.
    pub(super) fn counted(self, counted: Counted) -> Self {
        Self { _counted: Some(counted), ..self }
    }

    /// Ready when nothing was read or written for too long. The alarm is set anew only when it
    /// fires, which costs less than at each use.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.alarm.as_mut().poll(context));
            let end = self.last_use + self.idle;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(end);
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replayed < PREFACE.len() {
            let rest = &PREFACE[self.replayed..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            self.replayed += count;
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.last_use = Instant::now();
            return Poll::Ready(read);
        }
        // Nothing read: to the server the client has gone.
        self.poll_idle(context).map(Ok)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.last_use = Instant::now();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        self.last_use = Instant::now();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
