//! What apps call.

use super::store::{StoreError, Stored};
use super::writer::{Granted, Request};
use super::{Service, ServiceError};
use crate::domain::{
    ActivationId, Binding, Email, Event, License, LicenseCommand, LicenseId, LicenseKey, Nonce,
    Position, Rejection, SubjectId, Terms,
};
use crate::receipt::{Claims, LicenseClaims, key_thumbprint};

/// What an app sends to activate.
pub struct Activate {
    /// The address the license was bought with. `None`: the license belongs to nobody known.
    pub email: Option<Email>,
    /// The license's key.
    pub key: LicenseKey,
    /// Picked once, repeated on retry.
    pub nonce: Nonce,
    /// The thumbprint of the app's key pair. Goes into the receipt, and nowhere else.
    pub binding: Binding,
}

/// What became of an activation and its license.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The license is active and the activation holds its seat.
    Good,
    /// The license is suspended.
    Suspended,
    /// The license is revoked.
    Revoked,
    /// The license has expired.
    Expired,
    /// The activation's seat was freed.
    Deactivated,
}

impl Service {
    /// Uses a seat, durably, and answers with the receipt: for a retry with that of the first time.
    pub async fn activate(&self, request: &Activate) -> Result<String, ServiceError> {
        let license = self.licensed(request)?;
        let activation = ActivationId::derive(&request.nonce, &request.binding);
        let command = LicenseCommand::Activate {
            activation,
            signing_key: self.receipts.current(),
            lease: self.lease(license)?,
        };
        let Granted { events, license, activation } =
            self.ask(Request::License(license, command)).await?;
        let terms = license.ok_or(Rejection::LicenseNotFound)?.terms;
        let position = activation.ok_or(Rejection::ActivationNotFound)?.activated;
        match events.first() {
            Some(stored) => self.receipt(request, terms, position, stored),
            // Asked for before.
            None => self.receipt(request, terms, position, &self.store.event(position)?),
        }
    }

    /// The receipt of an activation, as it was recorded.
    fn receipt(
        &self,
        request: &Activate,
        terms: Terms,
        position: Position,
        stored: &Stored,
    ) -> Result<String, ServiceError> {
        let (Event::Activated { activation, signing_key, lease_until, at, .. }
        | Event::ActivationKept { activation, signing_key, lease_until, at, .. }) = stored.event
        else {
            return Err(StoreError::Mismatch(position).into());
        };
        let claims = Claims {
            issuer: self.settings.issuer.clone(),
            product: terms.product,
            issued_at: at,
            expires_at: lease_until,
            activation,
            binding: request.binding,
            license: LicenseClaims {
                key_thumbprint: key_thumbprint(&request.key),
                seats: terms.seats.get(),
                expires_at: terms.expires_at,
                updates_until: terms.updates_until,
            },
            record: stored.hash,
        };
        Ok(self.receipts.sign(&signing_key, &claims)?)
    }

    /// The license that key and address belong to. One of nobody known is used by its key alone.
    /// Whatever does not match, the work is the same: two tags, two lookups, two looks into the views.
    fn licensed(&self, request: &Activate) -> Result<LicenseId, ServiceError> {
        let (vault, tag_key) = (&self.store.vault, self.store.vault.tag_key());
        let email_tag = match &request.email {
            Some(email) => tag_key.email(email),
            // A tag that is nobody's.
            None => tag_key.license_key(&request.key),
        };
        let subject = vault.subject_by_email(&email_tag);
        let license = self.find_license(&request.key);
        let nobodys = LicenseId::from_bytes([0; 16]);
        let view = self.store.views.license(license.unwrap_or(nobodys))?;
        let owner = view.map_or(SubjectId::from_bytes([0; 16]), |view| view.subject);
        let belongs_to_nobody =
            self.store.views.subject(owner)?.is_some_and(|owner| owner.email.is_none());
        match (license, view) {
            (Ok(license), Some(_)) if belongs_to_nobody || subject == Some(owner) => Ok(license),
            _ => Err(Rejection::LicenseNotFound.into()),
        }
    }

    /// How long a receipt of this license is good for.
    fn lease(&self, license: LicenseId) -> Result<Option<std::time::Duration>, ServiceError> {
        if self.settings.leases.is_empty() {
            return Ok(None);
        }
        let license = self.store.license(license)?.ok_or(Rejection::LicenseNotFound)?;
        Ok(self.settings.leases.get(&license.terms.product).copied())
    }

    /// Gives a receipt that ends a new end, if its license still stands. Where the product has no
    /// lease any more the new one has no end.
    pub fn renew(&self, receipt: &str) -> Result<String, ServiceError> {
        let claims = self.receipt_keys.verify(receipt)?;
        if claims.expires_at.is_none() {
            return Err(ServiceError::NotLeased);
        }
        let (id, license, ended) = self.activated(&claims)?;
        let now = self.clock.now();
        license.stands(now)?;
        if ended {
            return Err(Rejection::ActivationEnded.into());
        }
        let expires_at = self.lease(id)?.map(|lease| license.lease_until(now, lease));
        let renewed = Claims { issued_at: now, expires_at, ..claims };
        Ok(self.receipts.sign(&self.receipts.current(), &renewed)?)
    }

    /// Ends the receipt's activation. That it has ended already is no error.
    pub async fn deactivate(&self, receipt: &str) -> Result<(), ServiceError> {
        let claims = self.receipt_keys.verify(receipt)?;
        let (license, ..) = self.activated(&claims)?;
        let command = LicenseCommand::Deactivate { activation: claims.activation, by: None };
        self.ask(Request::License(license, command)).await.map(drop)
    }

    /// What became of the receipt's activation. Nothing is stored of this question.
    pub fn check(&self, receipt: &str) -> Result<Standing, ServiceError> {
        let claims = self.receipt_keys.verify(receipt)?;
        let (_, license, ended) = self.activated(&claims)?;
        Ok(match license.stands(self.clock.now()) {
            Err(Rejection::LicenseSuspended) => Standing::Suspended,
            Err(Rejection::LicenseRevoked) => Standing::Revoked,
            _ if ended => Standing::Deactivated,
            Err(_) => Standing::Expired,
            Ok(()) => Standing::Good,
        })
    }

    /// The license that a receipt's activation uses, and whether that activation has ended.
    fn activated(&self, claims: &Claims) -> Result<(LicenseId, License, bool), ServiceError> {
        let activation = self.store.views.activation(claims.activation)?;
        let activation = activation.ok_or(Rejection::LicenseNotFound)?;
        let license = self.store.license(activation.license)?;
        let license = license.ok_or(Rejection::LicenseNotFound)?;
        Ok((activation.license, license, activation.ended.is_some()))
    }

    /// The public keys of receipts, as a JWK Set.
    pub fn signing_keys(&self) -> String {
        self.receipt_keys.to_jwks()
    }
}
