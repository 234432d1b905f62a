//! What staff call about licenses. Each call leaves an access record with the person concerned.

use super::store::Issued;
use super::writer::Request;
use super::{Service, ServiceError, Staff};
use crate::domain::{
    ActivationId, Category, Email, LicenseCommand, LicenseId, LicenseKey, Nonce, Operation,
    PersonName, Purpose, Rejection, Role, Status, SubjectId, Terms, Timestamp,
};

/// A license as staff see it.
pub struct LicenseDetails {
    /// Its key.
    pub key: LicenseKey,
    /// What it grants.
    pub terms: Terms,
    /// Whether it may be used.
    pub status: Status,
    /// Seats in use.
    pub used: u32,
    /// When it was issued.
    pub issued_at: Timestamp,
}

impl Service {
    /// Issues a license. The same nonce and terms again give the license of the first time.
    pub async fn issue(
        &self,
        staff: &Staff,
        email: Email,
        name: Option<PersonName>,
        terms: Terms,
        nonce: Nonce,
    ) -> Result<LicenseDetails, ServiceError> {
        self.names_allowed(name.as_ref())?;
        let license = LicenseId::derive(&nonce);
        let key = LicenseKey::generate(rand::random);
        let by = self.administration(staff, Operation::IssueLicense);
        self.ask(Request::Issue { license, email, name, key, terms, by }).await?;
        self.details(license)
    }

    /// A license by its key.
    pub async fn license(
        &self,
        staff: &Staff,
        key: &LicenseKey,
        purpose: Purpose,
    ) -> Result<LicenseDetails, ServiceError> {
        let access = self.access(staff, purpose, Operation::GetLicense);
        self.may_see_all(&access, &[Category::License])?;
        let (license, subject) = self.owned(key)?;
        self.record(subject, access, &[Category::License]).await?;
        self.details(license)
    }

    /// Refuses a license's activations until it is reinstated.
    pub async fn suspend(
        &self,
        staff: &Staff,
        key: &LicenseKey,
    ) -> Result<LicenseDetails, ServiceError> {
        let by = self.administration(staff, Operation::SuspendLicense);
        self.change(key, LicenseCommand::Suspend(by)).await
    }

    /// Lifts a suspension.
    pub async fn reinstate(
        &self,
        staff: &Staff,
        key: &LicenseKey,
    ) -> Result<LicenseDetails, ServiceError> {
        let by = self.administration(staff, Operation::ReinstateLicense);
        self.change(key, LicenseCommand::Reinstate(by)).await
    }

    /// Ends a license for good.
    pub async fn revoke(
        &self,
        staff: &Staff,
        key: &LicenseKey,
    ) -> Result<LicenseDetails, ServiceError> {
        let by = self.administration(staff, Operation::RevokeLicense);
        self.change(key, LicenseCommand::Revoke(by)).await
    }

    /// Ends an activation, so that its seat can be used again.
    pub async fn free_seat(
        &self,
        staff: &Staff,
        activation: ActivationId,
    ) -> Result<LicenseDetails, ServiceError> {
        let by = match staff.role {
            Role::Issuer => self.administration(staff, Operation::FreeSeat),
            _ => self.access(staff, Purpose::CustomerSupport, Operation::FreeSeat),
        };
        // The answer shows the license.
        self.may_see_all(&by, &[Category::License])?;
        let known = self.store.views.activation(activation)?;
        let license = known.ok_or(Rejection::ActivationNotFound)?.license;
        let view = self.store.views.license(license)?.ok_or(Rejection::ActivationNotFound)?;
        self.usable(view.subject, by.purpose)?;
        let command = LicenseCommand::Deactivate { activation, by: Some(by) };
        self.ask(Request::License(license, command)).await?;
        self.details(license)
    }

    async fn change(
        &self,
        key: &LicenseKey,
        command: LicenseCommand,
    ) -> Result<LicenseDetails, ServiceError> {
        let (license, subject) = self.owned(key)?;
        self.usable(subject, Purpose::LicenseAdministration)?;
        self.ask(Request::License(license, command)).await?;
        self.details(license)
    }

    pub(super) fn owned(&self, key: &LicenseKey) -> Result<(LicenseId, SubjectId), ServiceError> {
        let license = self.find_license(key)?;
        let view = self.store.views.license(license)?.ok_or(Rejection::LicenseNotFound)?;
        Ok((license, view.subject))
    }

    pub(super) fn details(&self, id: LicenseId) -> Result<LicenseDetails, ServiceError> {
        let view = self.store.views.license(id)?.ok_or(Rejection::LicenseNotFound)?;
        let Issued { key, terms, at } = self.store.issued(&view)?;
        Ok(LicenseDetails { key, terms, status: view.status, used: view.used, issued_at: at })
    }
}
