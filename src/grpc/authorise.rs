//! Who may call what, before anything of the request is read.

use std::future::ready;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::{Request, Status};
use tower::{Layer, Service};

use super::Answer;
use super::connection::Peer;
use super::roles::may_call;
use super::status::denied;
use super::tiles;
use crate::service::Staff;

/// Lets a call through if the role in the caller's certificate may make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authorise;

impl<S> Layer<S> for Authorise {
    type Service = Authorised<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authorised(inner)
    }
}

/// A service behind [`Authorise`].
#[derive(Debug, Clone)]
pub(super) struct Authorised<S>(S);

impl<S> Service<http::Request<Body>> for Authorised<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        match peer.and_then(|peer| peer.staff.clone()) {
            Some(staff) if may_call(staff.role, request.uri().path()) => {
                request.extensions_mut().insert(staff);
                Box::pin(self.0.call(request))
            }
            // No gRPC client asks for these: the refusal is one of HTTP.
            _ if tiles::is_static(request.uri().path()) => Box::pin(ready(Ok(tiles::forbidden()))),
            Some(_) => refuse("your role may not call this"),
            None => refuse("your certificate names no role; ask for one with a staff URI name"),
        }
    }
}

fn refuse<E: Send + 'static>(text: &str) -> Answer<E> {
    Box::pin(ready(Ok(denied(text).into_http())))
}

/// The member of staff who calls.
pub(super) fn staff<T>(request: &Request<T>) -> Result<Staff, Status> {
    let staff = request.extensions().get::<Staff>().cloned();
    staff.ok_or_else(|| denied("your certificate names no role"))
}
