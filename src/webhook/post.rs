//! One POST over TLS, bounded in time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a try may take.
const TRY: Duration = Duration::from_secs(15);

/// Why a try failed. Holds nothing of what was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    /// The host cannot be reached, or its certificate is not trusted.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The connection broke, or this is no HTTP.
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer within {} s", TRY.as_secs())]
    Timeout,
    /// Another answer than 2xx.
    #[error("answered {0}")]
    Status(StatusCode),
    /// A defect in this software.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
}

/// Posts JSON. Any answer of 2xx is a success.
pub(super) async fn post<const N: usize>(
    url: &Uri,
    tls: Arc<ClientConfig>,
    headers: [(&'static str, String); N],
    body: String,
) -> Result<(), PostError> {
    timeout(TRY, try_post(url, tls, headers, body)).await.unwrap_or(Err(PostError::Timeout))
}

async fn try_post<const N: usize>(
    url: &Uri,
    tls: Arc<ClientConfig>,
    headers: [(&'static str, String); N],
    body: String,
) -> Result<(), PostError> {
    let host = url.host().unwrap_or_default();
    let tcp = TcpStream::connect((host, url.port_u16().unwrap_or(443))).await?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("countersign/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await;
    connection.abort();
    let status = answer?.status();
    if status.is_success() { Ok(()) } else { Err(PostError::Status(status)) }
}
