//! `ActivationService`, on the public listener.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant as StdInstant};

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

use super::connection::Peer;
use super::convert::bytes;
use super::status::{Fields, status, too_many};
use crate::domain::{Email, LicenseKey, Rejection};
use crate::metrics::Metrics;
use crate::proto::v1::activation_service_server::ActivationService;
use crate::proto::v1::{
    ActivateRequest, ActivateResponse, CheckRequest, CheckResponse, DeactivateRequest,
    DeactivateResponse, GetSigningKeysRequest, GetSigningKeysResponse, RenewRequest, RenewResponse,
    Standing,
};
use crate::service::activation::{Activate, Standing as Found};
use crate::service::guessing::Guesses;
use crate::service::{Service, ServiceError};

/// When a license is said not to be found, after the call came in: far above what it takes to look. So
/// the answer tells nothing of what was there on the way to it; a key that exists was once told from one
/// that does not by 4 µs.
const NOT_FOUND_AFTER: Duration = Duration::from_millis(2);

/// Waits until a moment. Tokio's own timer will not do: it has the system wake an idle thread so many
/// whole milliseconds after the thread went to sleep, which is when the look was done; the answer would
/// come later by what the look took.
async fn not_before(moment: Instant) {
    if moment <= Instant::now() {
        return;
    }
    let wait =
        move || thread::sleep(moment.into_std().saturating_duration_since(StdInstant::now()));
    // It does not fail; if it did, no answer may come early.
    if spawn_blocking(wait).await.is_err() {
        sleep_until(moment).await;
    }
}

/// What apps call.
pub(super) struct ActivationHandler {
    pub service: Arc<Service>,
    /// Counted here, where it is known who calls. What needs a receipt needs no counting: a forged
    /// one is refused by its signature.
    pub guesses: Guesses,
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl ActivationService for ActivationHandler {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
        let began = Instant::now();
        let client = request.extensions().get::<Peer>().and_then(|peer| peer.client);
        let request = request.into_inner();
        let mut fields = Fields::default();
        let email = match request.email.as_str() {
            "" => Ok(None),
            email => Email::parse(email).map(Some),
        };
        let (Some(email), Some(key), Some(nonce), Some(binding)) = (
            fields.take("email", email),
            fields.take("license_key", LicenseKey::parse(&request.license_key)),
            fields.take("nonce", bytes(&request.nonce)),
            fields.take("binding", bytes(&request.binding)),
        ) else {
            return Err(fields.refusal());
        };
        if let Some(client) = client {
            let checked = self.guesses.check(client, &key, email.as_ref(), began.into_std());
            checked.map_err(|wait| {
                self.metrics.rate_limited();
                too_many(wait)
            })?;
        }
        let tried = Activate { email, key, nonce, binding };
        // A license that is not found is known before anything is waited for, so that calls at once
        // find out no more than one after the other.
        let activated = self.service.activate(&tried).await;
        let is_missing =
            matches!(&activated, Err(ServiceError::Rejected(Rejection::LicenseNotFound)));
        if is_missing {
            if let Some(client) = client {
                let (key, email) = (&tried.key, tried.email.as_ref());
                self.guesses.failed(client, key, email, began.into_std());
            }
            not_before(began + NOT_FOUND_AFTER).await;
        }
        let receipt = activated.map_err(|error| status(&error))?;
        Ok(Response::new(ActivateResponse { receipt }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let receipt = self.service.renew(&request.into_inner().receipt).map_err(|e| status(&e))?;
        Ok(Response::new(RenewResponse { receipt }))
    }

    async fn deactivate(
        &self,
        request: Request<DeactivateRequest>,
    ) -> Result<Response<DeactivateResponse>, Status> {
        let receipt = request.into_inner().receipt;
        self.service.deactivate(&receipt).await.map_err(|error| status(&error))?;
        Ok(Response::new(DeactivateResponse {}))
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let found = self.service.check(&request.into_inner().receipt).map_err(|e| status(&e))?;
        let standing = match found {
            Found::Good => Standing::Good,
            Found::Suspended => Standing::Suspended,
            Found::Revoked => Standing::Revoked,
            Found::Expired => Standing::Expired,
            Found::Deactivated => Standing::Deactivated,
        };
        Ok(Response::new(CheckResponse { standing: standing.into() }))
    }

    async fn get_signing_keys(
        &self,
        _: Request<GetSigningKeysRequest>,
    ) -> Result<Response<GetSigningKeysResponse>, Status> {
        Ok(Response::new(GetSigningKeysResponse { jwks: self.service.signing_keys() }))
    }
}
