//! A client that sends whatever it likes: HTTP/2 frames by hand over real TLS.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{FOREVER, Server, activation};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
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
        Self::new(server, server.public_address(), None)
    }

    /// The staff port, for someone in this role.
    pub(crate) fn of_staff(server: &Server, role: &str) -> Self {
        Self::new(server, server.staff_address(), Some(role))
    }

    fn new(server: &Server, address: &str, role: Option<&str>) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = server.read("tls/server-ca.pem");
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if let Some(role) = role {
            let pem = |end| server.read(&format!("tls/staff/{role}.{end}"));
            let certificate = CertificateDer::from_pem_slice(&pem("pem")).unwrap();
            let key = PrivateKeyDer::from_pem_slice(&pem("key")).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { address: address.parse().unwrap(), tls: TlsConnector::from(Arc::new(config)) }
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

    /// HTTP/2, with these settings of the client's; nothing is read yet.
    async fn greeted(&self, from: Ipv4Addr, settings: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = self.tls(from).await?;
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        stream.write_all(&hello).await?;
        stream.flush().await?;
        Ok(stream)
    }

    /// HTTP/2 that the server has taken.
    pub(crate) async fn http2(
        &self,
        from: Ipv4Addr,
        settings: &[u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = self.greeted(from, settings).await?;
        // The server's SETTINGS.
        stream.read_exact(&mut [0; 9]).await?;
        Ok(stream)
    }

    /// HTTP/2, in two halves.
    pub(crate) async fn halves(&self, from: Ipv4Addr) -> io::Result<Halves> {
        Ok(tokio::io::split(self.http2(from, b"").await?))
    }
}

/// A frame of the server's.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Received {
    /// The number that begins there.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// What kind it is, of which stream, and the error that it tells if it is `RST_STREAM` or GOAWAY.
    pub(crate) fn outcome(&self) -> (u8, u32, Option<u32>) {
        let error = match self.kind {
            RST_STREAM => Some(self.number(0)),
            GOAWAY => Some(self.number(4)),
            _ => None,
        };
        (self.kind, self.stream, error)
    }
}

/// HTTP/2 whose frames are read one by one.
pub(crate) struct Wire(TlsStream<TcpStream>);

impl Wire {
    /// Connects, with these settings of the client's.
    pub(crate) async fn open(target: &Target, from: Ipv4Addr, settings: &[u8]) -> Self {
        Self(target.greeted(from, settings).await.unwrap())
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// The next frame; an error when the server has ended the connection.
    pub(crate) async fn next(&mut self) -> io::Result<Received> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).await?;
        let [l1, l2, l3, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l1, l2, l3]) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(Received { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of one of these types. What comes before it is passed over.
    pub(crate) async fn find(&mut self, kinds: &[u8]) -> Received {
        let found = async {
            loop {
                let frame = self.next().await.expect("the connection is there");
                if kinds.contains(&frame.kind) {
                    return frame;
                }
            }
        };
        timeout(FOREVER, found).await.expect("the server sends it")
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
    call_fields_of("/countersign.v1.ActivationService/Activate")
}

/// The header block of a call.
pub(crate) fn call_fields_of(path: &str) -> Vec<u8> {
    [
        field(":method", b"POST"),
        field(":scheme", b"https"),
        field(":path", path.as_bytes()),
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

/// The stream of the client's call with this number.
pub(crate) fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// `RST_STREAM` of a client that gives up a call.
pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
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
