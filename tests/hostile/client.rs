//! A client that sends whatever it likes: HTTP/2 frames by hand over real TLS.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Server, activation};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What every HTTP/2 client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes that the kernel keeps for an attacker that does not read.
const RECEIVE_BUFFER: u32 = 16 * 1024;

/// Where attackers are: not where honest clients are, and as many as wanted.
pub(crate) fn attacker(number: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(number + 1).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 66, high, low)
}

/// Where the server is, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    tls: TlsConnector,
}

impl Target {
    /// The public port.
    pub(crate) fn of(server: &Server) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = server.read("tls/server-ca.pem");
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let address = server.public_address().parse().unwrap();
        Self { address, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// TCP alone.
    pub(crate) async fn tcp(&self, from: Ipv4Addr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // So that the kernel does not take for it what it never reads.
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(self.address).await
    }

    /// TLS alone.
    pub(crate) async fn tls(&self, from: Ipv4Addr) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        self.tls.connect(name, self.tcp(from).await?).await
    }

    /// HTTP/2, with these settings of the client's.
    pub(crate) async fn http2(
        &self,
        from: Ipv4Addr,
        settings: &[u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = self.tls(from).await?;
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        stream.write_all(&hello).await?;
        stream.flush().await?;
        // The server's SETTINGS.
        stream.read_exact(&mut [0; 9]).await?;
        Ok(stream)
    }

    /// HTTP/2, in two halves.
    pub(crate) async fn halves(&self, from: Ipv4Addr) -> io::Result<Halves> {
        Ok(tokio::io::split(self.http2(from, b"").await?))
    }
}

pub(crate) type Halves = (ReadHalf<TlsStream<TcpStream>>, WriteHalf<TlsStream<TcpStream>>);

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field that is not put into any table (RFC 7541 §6.2.2). Short ones only.
pub(crate) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.as_bytes());
    // A length that fills its prefix goes on in groups of seven bits.
    if let Some(mut rest) = value.len().checked_sub(127) {
        field.push(127);
        while rest >= 128 {
            field.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        field.push(u8::try_from(rest).unwrap());
    } else {
        field.push(u8::try_from(value.len()).unwrap());
    }
    field.extend(value);
    field
}

/// The header block of a call of `Activate`.
pub(crate) fn call_fields() -> Vec<u8> {
    [
        field(":method", b"POST"),
        field(":scheme", b"https"),
        field(":path", b"/countersign.v1.ActivationService/Activate"),
        field(":authority", b"localhost"),
        field("content-type", b"application/grpc"),
        field("te", b"trailers"),
    ]
    .concat()
}

/// HEADERS that begin a call.
pub(crate) fn begin(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call_fields())
}

/// A message as gRPC frames it.
pub(crate) fn message(is_compressed: bool, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![u8::from(is_compressed)];
    message.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    message.extend(bytes);
    message
}

/// A whole call, with a license that is not there.
pub(crate) fn call(stream: u32) -> Vec<u8> {
    let request = activation("nobody@example.com", "no key", u128::from(stream)).encode_to_vec();
    [begin(stream), frame(DATA, END_STREAM, stream, &message(false, &request))].concat()
}
