//! Counts calls: which method, which code, how long until the last of the answer was handed on.
//!
//! Method and code come from fixed sets, so that no client can make the metrics grow.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{HeaderMap, StatusCode};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Answer;
use super::tiles;
use crate::metrics::{Listener, Metrics};
use crate::proto::DESCRIPTORS;

/// What a method that nobody knows is called. That of reflection is one.
const OTHER: &str = "other";
/// What the checkpoint and the tiles are called.
const TREE: &str = "tree";
/// The code of a call without an answer: its client went away, or its time was over.
const UNANSWERED: &str = "UNANSWERED";

/// The methods that are named, as `package.Service/Method`.
static METHODS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    // The descriptors are part of the software: if they were none, nothing would be served.
    [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]
        .into_iter()
        .filter_map(|descriptors| FileDescriptorSet::decode(descriptors).ok())
        .flat_map(|set| set.file)
        .flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let prefix = format!("{package}.{}", service.name());
                let names = service.method.into_iter();
                names.map(move |method| format!("{prefix}/{}", method.name())).collect::<Vec<_>>()
            })
        })
        .collect()
});

fn method(path: &str) -> &'static str {
    if tiles::is_static(path) {
        return TREE;
    }
    let known = path.strip_prefix('/').and_then(|name| METHODS.get(name));
    known.map_or(OTHER, String::as_str)
}

/// A code as the gRPC specification writes it.
fn code(headers: &HeaderMap) -> Option<&'static str> {
    Status::from_header_map(headers).map(|status| match status.code() {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    })
}

/// Counts the calls of a listener.
#[derive(Debug, Clone)]
pub(super) struct Measure {
    pub(super) listener: Listener,
    pub(super) metrics: Arc<Metrics>,
}

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Measured { inner, measure: self.clone() }
    }
}

/// A service behind [`Measure`].
#[derive(Debug, Clone)]
pub(super) struct Measured<S> {
    inner: S,
    measure: Measure,
}

impl<S> Service<http::Request<Body>> for Measured<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut call = Call {
            measure: self.measure.clone(),
            method: method(request.uri().path()),
            begun: Instant::now(),
            code: UNANSWERED,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if call.method == TREE {
                call.ended(match answer.status() {
                    StatusCode::OK => "OK",
                    StatusCode::SERVICE_UNAVAILABLE => "UNAVAILABLE",
                    StatusCode::FORBIDDEN => "PERMISSION_DENIED",
                    StatusCode::METHOD_NOT_ALLOWED => "UNIMPLEMENTED",
                    _ => "NOT_FOUND",
                });
                return Ok(answer);
            }
            if let Some(code) = code(answer.headers()) {
                // All of the answer is in its headers.
                call.ended(code);
                return Ok(answer);
            }
            Ok(answer.map(|inner| Body::new(MeasuredBody { inner, call })))
        })
    }
}

/// A call that is under way. It is counted when it is dropped, however it ended.
struct Call {
    measure: Measure,
    method: &'static str,
    begun: Instant,
    code: &'static str,
}

impl Call {
    fn ended(&mut self, code: &'static str) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Measure { listener, metrics } = &self.measure;
        metrics.called(*listener, self.method, self.code, self.begun.elapsed());
    }
}

/// An answer whose code comes after it, in its trailers.
struct MeasuredBody {
    inner: Body,
    call: Call,
}

impl HttpBody for MeasuredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
        {
            self.call.ended(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named_and_strangers_are_not() {
        for known in ["countersign.v1.ActivationService/Activate", "grpc.health.v1.Health/Check"] {
            assert_eq!(method(&format!("/{known}")), known);
        }
        for stranger in ["", "/", "/a/b", "/countersign.v1.ActivationService/activate"] {
            assert_eq!(method(stranger), OTHER);
        }
    }
}
