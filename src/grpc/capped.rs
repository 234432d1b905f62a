//! A TCP stream that gives only so many bytes, until the cap is lifted. Whoever has not finished the
//! handshake must not fill memory: the TLS library keeps up to 64 KiB of one that comes in parts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of TLS handshake and HTTP/2 preface. A client's certificates are the most of it: some chains
/// have 8 KiB.
const HANDSHAKE_BYTES: usize = 24 * 1024;

/// The stream.
pub(super) struct Capped {
    stream: TcpStream,
    /// `None`: as many as come.
    left: Option<usize>,
}

impl Capped {
    /// For a handshake.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, left: Some(HANDSHAKE_BYTES) }
    }

    /// The handshake is done.
    pub(super) fn lift(&mut self) {
        self.left = None;
    }
}

impl AsyncRead for Capped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = self.left else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        let left = left.checked_sub(count).ok_or(io::ErrorKind::InvalidData)?;
        self.left = Some(left);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Capped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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
