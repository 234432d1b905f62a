//! The newest checkpoint and the tiles as plain HTTPS resources, in the paths of C2SP `tlog-tiles`.
//! There are no entries among them: what is in the log is nobody's business.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Bytes};
use tonic::body::Body;
use tower::{Layer, Service as TowerService};

use super::Answer;
use crate::service::{Service, ServiceError};
use crate::telemetry::Complaint;
use crate::tlog::tiles::Tile;

const CHECKPOINT: &str = "/checkpoint";
const TILES: &str = "/tile/";
/// A tile never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What anybody who asks for tiles can bring about.
static UNREAD: Complaint = Complaint::new();

/// Whether a path is one of these resources, and not of a service.
pub(super) fn is_static(path: &str) -> bool {
    path == CHECKPOINT || path.starts_with(TILES)
}

/// Answers for these resources; `None`: they are not served here, and not found.
#[derive(Clone)]
pub(super) struct Tiles(pub Option<Arc<Service>>);

impl<S> Layer<S> for Tiles {
    type Service = WithTiles<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithTiles { inner, tiles: self.0.clone() }
    }
}

/// A service beside [`Tiles`].
#[derive(Clone)]
pub(super) struct WithTiles<S> {
    inner: S,
    tiles: Option<Arc<Service>>,
}

impl<S> TowerService<http::Request<Body>> for WithTiles<S>
where
    S: TowerService<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if !is_static(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let service = self.tiles.clone();
        let (parts, _) = request.into_parts();
        Box::pin(async move {
            let whole = match service {
                Some(service) => answer(&service, &parts.method, parts.uri.path()).await,
                None => refusal(StatusCode::NOT_FOUND, "the log's tree is not shown here"),
            };
            Ok(if parts.method == Method::HEAD { without_body(whole) } else { whole })
        })
    }
}

/// What `HEAD` is answered with (RFC 9110 §9.3.2).
fn without_body(whole: http::Response<Body>) -> http::Response<Body> {
    let length = whole.body().size_hint().exact();
    let mut answer = whole.map(|_| Body::empty());
    answer.headers_mut().extend(length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length))));
    answer
}

/// The answer to one whose certificate names no role.
pub(super) fn forbidden() -> http::Response<Body> {
    refusal(StatusCode::FORBIDDEN, "your certificate names no role")
}

async fn answer(service: &Service, method: &Method, path: &str) -> http::Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let found = match path.strip_prefix(TILES) {
        None => {
            let newest = service.checkpoint(false).await;
            newest.map(|newest| Some((newest.note.clone().into_bytes(), TEXT, NOT_KEPT)))
        }
        Some(path) => match Tile::parse(path) {
            Some(tile) => {
                service.tile(tile).await.map(|tile| tile.map(|bytes| (bytes, BYTES, FOR_EVER)))
            }
            None => Ok(None),
        },
    };
    match found {
        Ok(Some((bytes, kind, kept))) => {
            let mut answer = http::Response::new(Body::new(Full::new(Bytes::from(bytes))));
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer.headers_mut().insert(CACHE_CONTROL, kept);
            answer
        }
        Ok(None) => refusal(StatusCode::NOT_FOUND, "no such tile"),
        Err(error) => {
            if !matches!(error, ServiceError::TreeBehind) && UNREAD.is_due() {
                tracing::error!("a tile could not be read: {error}");
            }
            refusal(StatusCode::SERVICE_UNAVAILABLE, "the tree is not made yet; ask again")
        }
    }
}

fn refusal(code: StatusCode, text: &'static str) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::new(Full::new(Bytes::from_static(text.as_bytes()))));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer.headers_mut().insert(CACHE_CONTROL, NOT_KEPT);
    answer
}
