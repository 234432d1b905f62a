//! `ActivationService`, on the public listener.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::bytes;
use super::status::{Fields, status};
use crate::domain::{Email, LicenseKey};
use crate::proto::v1::activation_service_server::ActivationService;
use crate::proto::v1::{
    ActivateRequest, ActivateResponse, CheckRequest, CheckResponse, DeactivateRequest,
    DeactivateResponse, GetSigningKeysRequest, GetSigningKeysResponse, RenewRequest, RenewResponse,
    Standing,
};
use crate::service::Service;
use crate::service::activation::{Activate, Standing as Found};

/// What apps call.
pub(super) struct ActivationHandler(pub Arc<Service>);

#[tonic::async_trait]
impl ActivationService for ActivationHandler {
    async fn activate(
        &self,
        request: Request<ActivateRequest>,
    ) -> Result<Response<ActivateResponse>, Status> {
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
        let activate = Activate { email, key, nonce, binding };
        let receipt = self.0.activate(activate).await.map_err(|error| status(&error))?;
        Ok(Response::new(ActivateResponse { receipt }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let receipt = self.0.renew(&request.into_inner().receipt).map_err(|e| status(&e))?;
        Ok(Response::new(RenewResponse { receipt }))
    }

    async fn deactivate(
        &self,
        request: Request<DeactivateRequest>,
    ) -> Result<Response<DeactivateResponse>, Status> {
        let receipt = request.into_inner().receipt;
        self.0.deactivate(&receipt).await.map_err(|error| status(&error))?;
        Ok(Response::new(DeactivateResponse {}))
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let found = self.0.check(&request.into_inner().receipt).map_err(|e| status(&e))?;
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
        Ok(Response::new(GetSigningKeysResponse { jwks: self.0.signing_keys() }))
    }
}
