//! `LicenseService`, on the staff listener.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::authorise::staff;
use super::convert::{bytes, license, purpose, time};
use super::status::{Fields, status};
use crate::domain::{Email, LicenseKey, Nonce, PersonName, Product, Seats, Terms};
use crate::proto::v1::license_service_server::LicenseService;
use crate::proto::v1::{
    FreeSeatRequest, FreeSeatResponse, GetLicenseRequest, GetLicenseResponse, IssueLicenseRequest,
    IssueLicenseResponse, ReinstateLicenseRequest, ReinstateLicenseResponse, RevokeLicenseRequest,
    RevokeLicenseResponse, SuspendLicenseRequest, SuspendLicenseResponse,
};
use crate::service::Service;

/// What staff call about licenses.
pub(super) struct LicenseHandler(pub Arc<Service>);

fn license_key(text: &str) -> Result<LicenseKey, Status> {
    let mut fields = Fields::default();
    let key = fields.take("license_key", LicenseKey::parse(text));
    key.ok_or_else(|| fields.refusal())
}

#[tonic::async_trait]
impl LicenseService for LicenseHandler {
    async fn issue_license(
        &self,
        request: Request<IssueLicenseRequest>,
    ) -> Result<Response<IssueLicenseResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let nonce = if request.nonce.is_empty() {
            Ok(Nonce::from_bytes(rand::random()))
        } else {
            bytes(&request.nonce)
        };
        let mut fields = Fields::default();
        let name = match request.name.as_str() {
            "" => Ok(None),
            name => PersonName::parse(name).map(Some),
        };
        let (
            Some(email),
            Some(name),
            Some(product),
            Some(seats),
            Some(expires_at),
            Some(updates_until),
            Some(nonce),
        ) = (
            fields.take("email", Email::parse(&request.email)),
            fields.take("name", name),
            fields.take("product", Product::parse(&request.product)),
            fields.take("seats", Seats::new(request.seats)),
            fields.take("expires_at", time(request.expires_at)),
            fields.take("updates_until", time(request.updates_until)),
            fields.take("nonce", nonce),
        )
        else {
            return Err(fields.refusal());
        };
        let terms = Terms { product, seats, expires_at, updates_until };
        let issued = self.0.issue(&staff, email, name, terms, nonce).await;
        let issued = issued.map_err(|e| status(&e))?;
        Ok(Response::new(IssueLicenseResponse { license: Some(license(&issued)) }))
    }

    async fn get_license(
        &self,
        request: Request<GetLicenseRequest>,
    ) -> Result<Response<GetLicenseResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let (Some(key), Some(purpose)) = (
            fields.take("license_key", LicenseKey::parse(&request.license_key)),
            fields.take("purpose", purpose(request.purpose)),
        ) else {
            return Err(fields.refusal());
        };
        let found = self.0.license(&staff, &key, purpose).await.map_err(|e| status(&e))?;
        Ok(Response::new(GetLicenseResponse { license: Some(license(&found)) }))
    }

    async fn suspend_license(
        &self,
        request: Request<SuspendLicenseRequest>,
    ) -> Result<Response<SuspendLicenseResponse>, Status> {
        let staff = staff(&request)?;
        let key = license_key(&request.into_inner().license_key)?;
        let changed = self.0.suspend(&staff, &key).await.map_err(|e| status(&e))?;
        Ok(Response::new(SuspendLicenseResponse { license: Some(license(&changed)) }))
    }

    async fn reinstate_license(
        &self,
        request: Request<ReinstateLicenseRequest>,
    ) -> Result<Response<ReinstateLicenseResponse>, Status> {
        let staff = staff(&request)?;
        let key = license_key(&request.into_inner().license_key)?;
        let changed = self.0.reinstate(&staff, &key).await.map_err(|e| status(&e))?;
        Ok(Response::new(ReinstateLicenseResponse { license: Some(license(&changed)) }))
    }

    async fn revoke_license(
        &self,
        request: Request<RevokeLicenseRequest>,
    ) -> Result<Response<RevokeLicenseResponse>, Status> {
        let staff = staff(&request)?;
        let key = license_key(&request.into_inner().license_key)?;
        let changed = self.0.revoke(&staff, &key).await.map_err(|e| status(&e))?;
        Ok(Response::new(RevokeLicenseResponse { license: Some(license(&changed)) }))
    }

    async fn free_seat(
        &self,
        request: Request<FreeSeatRequest>,
    ) -> Result<Response<FreeSeatResponse>, Status> {
        let staff = staff(&request)?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let Some(activation) = fields.take("activation_id", bytes(&request.activation_id)) else {
            return Err(fields.refusal());
        };
        let changed = self.0.free_seat(&staff, activation).await.map_err(|e| status(&e))?;
        Ok(Response::new(FreeSeatResponse { license: Some(license(&changed)) }))
    }
}
