//! One TLS connection, as the gRPC server sees it. It ends by itself when its client is of no use:
//! when no call ended for a while, however many bytes came and went; when its frames cost more than
//! its calls are worth; and when it must make room for others or its certificate is withdrawn.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::capped::Capped;
use super::places::Place;
use super::roles::identify;
use super::traffic::Traffic;
use crate::metrics::Connected as Counted;
use crate::service::Staff;
use crate::service::guessing::Client;

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who is at the other end. Never an address: those of clients are kept nowhere.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The member of staff; `None` on the public listener, and for a certificate that names nobody.
    pub staff: Option<Staff>,
    /// Whose guesses these are.
    pub client: Option<Client>,
}

/// A TLS stream whose client speaks HTTP/2: what it must send first has been read.
pub(super) struct Greeted(TlsStream<Capped>);

impl Greeted {
    /// Waits for the preface.
    pub(super) async fn new(mut stream: TlsStream<Capped>) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        if preface != *PREFACE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.get_mut().0.lift();
        Ok(Self(stream))
    }

    /// The client's certificate, and those between it and the CA.
    pub(super) fn certificates(&self) -> &[rustls::pki_types::CertificateDer<'static>] {
        self.0.get_ref().1.peer_certificates().unwrap_or_default()
    }
}

/// A connection. Holds its place among all until it is dropped.
pub struct Connection {
    stream: TlsStream<Capped>,
    /// The preface, read already, is read again by the HTTP/2 server.
    replayed: usize,
    peer: Peer,
    traffic: Traffic,
    /// How long it may be of no use, and since when it is.
    idle: Duration,
    last_use: Instant,
    /// Fires when it may have been of no use for long enough.
    alarm: Pin<Box<Sleep>>,
    place: Place,
    /// Whether tasks that were ready have had their turn since the last flush.
    has_yielded: bool,
    _counted: Option<Counted>,
}

impl Connection {
    /// A connection that began at `since`.
    pub(super) fn new(
        greeted: Greeted,
        client: Client,
        traffic: Traffic,
        idle: Duration,
        since: Instant,
        place: Place,
    ) -> Self {
        let staff = greeted.certificates().first().and_then(|certificate| {
            identify(certificate)
                .inspect_err(|error| tracing::info!("a staff certificate names nobody: {error}"))
                .ok()
        });
        Self {
            stream: greeted.0,
            replayed: 0,
            peer: Peer { staff, client: Some(client) },
            traffic,
            idle,
            last_use: since,
            alarm: Box::pin(sleep_until(since + idle)),
            place,
            has_yielded: false,
            _counted: None,
        }
    }

    /// Has it counted for as long as it is open.
    pub(super) fn counted(self, counted: Counted) -> Self {
        Self { _counted: Some(counted), ..self }
    }

    fn is_of_use(&mut self, now: Instant) {
        self.last_use = now;
        self.place.use_at(now);
    }

    /// Ready when the connection must end. The alarm is set anew only when it fires, which costs
    /// less than at each use.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.place.poll_lost(context).is_ready() {
            return Poll::Ready(());
        }
        loop {
            ready!(self.alarm.as_mut().poll(context));
            let end = self.last_use + self.idle;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(end);
        }
    }

    /// What cannot go on now goes on later, or never: a client that takes nothing must not hold a
    /// connection by that.
    fn unless_ended<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() && self.poll_end(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
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
        // Asked before the bytes: who sends some all the time is not of use by that.
        if self.poll_end(context).is_ready() {
            // A client that calls at this moment learns that its call was not taken.
            if let Some(farewell) = self.traffic.farewell() {
                let _ = Pin::new(&mut self.stream).poll_write(context, &farewell);
            }
            // Nothing read: to the server the client has gone.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let now = Instant::now();
        match self.traffic.received(&buffer.filled()[before..], now) {
            Ok(true) => self.is_of_use(now),
            Ok(false) => {}
            Err(abuse) => {
                tracing::debug!("a connection was ended: {abuse}");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, abuse)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Not vectored: the HTTP/2 server then copies frames of up to 1 KiB together, and an answer that is no longer,
/// its trailers included, is one TLS record and one write.
impl AsyncWrite for Connection {
    /// Where other calls wait for their answers, lets tasks that are ready have their turn first. The
    /// answers of a batch become ready together, and so leave in one write for each connection instead
    /// of one for each call.
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.has_yielded && self.traffic.has_several_calls() {
            self.has_yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        let count = ready!(self.unless_ended(context, written))?;
        if self.traffic.sent(&bytes[..count]) {
            self.is_of_use(Instant::now());
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        ready!(self.unless_ended(context, flushed))?;
        self.has_yielded = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.unless_ended(context, shut)
    }
}
