//! The listener for the operator's tools: plain HTTP, on the machine's own address only. `GET /metrics`
//! is all there is.
//!
//! Whoever is on the machine may read it, so it holds nothing that is not for everyone there; and
//! nobody on the machine may hold it up: few connections, one request each, little time.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// How many connections there may be. More wait in the system's backlog.
const CONNECTIONS: usize = 8;
/// How long a connection may last, its answer included.
const CONNECTION: Duration = Duration::from_secs(5);
/// Bytes of a request's headers; hyper's least.
const HEADER_BYTES: usize = 8192;
/// How long to wait when the system has no descriptor for another connection.
const BACK_OFF: Duration = Duration::from_millis(100);

/// An address that only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "SocketAddr", into = "SocketAddr")]
pub struct LoopbackAddr(SocketAddr);

/// Why an address is not one to listen on here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No address.
    #[error("must be an address and a port, such as 127.0.0.1:9464")]
    Form,
    /// Others reach it.
    #[error(
        "must be of this machine alone, such as 127.0.0.1:9464: metrics are served unencrypted"
    )]
    NotLoopback,
}

impl TryFrom<SocketAddr> for LoopbackAddr {
    type Error = AddressError;

    fn try_from(address: SocketAddr) -> Result<Self, AddressError> {
        if address.ip().is_loopback() { Ok(Self(address)) } else { Err(AddressError::NotLoopback) }
    }
}

impl FromStr for LoopbackAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        text.parse::<SocketAddr>().map_err(|_| AddressError::Form)?.try_into()
    }
}

impl From<LoopbackAddr> for SocketAddr {
    fn from(address: LoopbackAddr) -> Self {
        address.0
    }
}

impl fmt::Display for LoopbackAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text of a page. `None`: it cannot be made now.
pub type Page = Option<String>;

/// Makes the page of metrics at each request. It may take its time: it has a thread for it.
pub type Metrics = Arc<dyn Fn() -> Page + Send + Sync>;

/// Serves for as long as the process runs. `content_type` is that of the page.
pub async fn serve(listener: TcpListener, content_type: &'static str, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, content_type, Arc::clone(&metrics), place));
            }
            Err(error) => {
                tracing::warn!("the ops listener cannot accept a connection: {error}");
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    content_type: &'static str,
    metrics: Metrics,
    place: OwnedSemaphorePermit,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let metrics = Arc::clone(&metrics);
        async move {
            if let Err(status) = route(&request) {
                return Ok::<_, Infallible>(empty(status));
            }
            let page = tokio::task::spawn_blocking(move || metrics()).await;
            Ok(match page.unwrap_or_default() {
                Some(text) => page_of(content_type, text),
                None => empty(StatusCode::INTERNAL_SERVER_ERROR),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever goes wrong with it concerns nobody else.
    let _ = timeout(CONNECTION, connection).await;
    drop(place);
}

fn route<B>(request: &Request<B>) -> Result<(), StatusCode> {
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => Ok(()),
        ("/metrics", _) => Err(StatusCode::METHOD_NOT_ALLOWED),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

fn page_of(content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_is_one() {
        for good in ["127.0.0.1:9464", "127.8.0.1:0", "[::1]:9464"] {
            assert!(good.parse::<LoopbackAddr>().is_ok(), "{good}");
        }
        for (wrong, reason) in [
            ("0.0.0.0:9464", AddressError::NotLoopback),
            ("[::]:9464", AddressError::NotLoopback),
            ("192.0.2.1:9464", AddressError::NotLoopback),
            ("[::ffff:127.0.0.1]:9464", AddressError::NotLoopback),
            ("localhost:9464", AddressError::Form),
            ("", AddressError::Form),
        ] {
            assert_eq!(wrong.parse::<LoopbackAddr>(), Err(reason), "{wrong}");
        }
    }
}
