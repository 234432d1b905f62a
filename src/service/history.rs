//! A person's activation history, for support staff.

use std::sync::Arc;

use super::erasure::subject_entries;
use super::license::LicenseDetails;
use super::store::{Store, StoreError};
use super::{Service, ServiceError, Staff, reading};
use crate::domain::{
    ActivationId, Category, Email, LicenseId, LicenseKey, Operation, Position, Purpose, Rejection,
    SubjectId, Timestamp,
};

/// How many activations of a license a history shows; the rest is listed in pages.
const NEWEST: usize = 100;
/// How many licenses a history shows. With their activations they stay below the 4 MiB that clients
/// take in one message.
const LICENSES: usize = 100;

/// Whose history.
pub enum Person {
    /// By their address.
    Email(Email),
    /// By a license key of theirs.
    LicenseKey(LicenseKey),
}

/// A person's history.
pub struct History {
    /// Their address, if it may be seen.
    pub email: Option<Email>,
    /// Their newest licenses, oldest first.
    pub licenses: Vec<LicenseHistory>,
    /// How many there are in all.
    pub licenses_total: u64,
}

/// The history of a license.
pub struct LicenseHistory {
    /// The license.
    pub license: LicenseDetails,
    /// Its newest activations, newest first.
    pub activations: Vec<ActivationDetails>,
    /// How many there are in all.
    pub activations_total: u64,
}

/// One use of a seat.
pub struct ActivationDetails {
    /// Which.
    pub id: ActivationId,
    /// When it began.
    pub activated_at: Timestamp,
    /// When it ended. `None`: it holds its seat.
    pub deactivated_at: Option<Timestamp>,
}

/// The activations of a license, a page at a time.
pub struct Activations {
    store: Arc<Store>,
    license: LicenseId,
    next: Option<Position>,
    page: usize,
}

impl Service {
    /// A person, their licenses, and the newest activations of each.
    pub async fn history(
        self: &Arc<Self>,
        staff: &Staff,
        person: Person,
        purpose: Purpose,
    ) -> Result<History, ServiceError> {
        let access = self.access(staff, purpose, Operation::GetHistory);
        let shown = [Category::License, Category::ActivationTime];
        // Before anything is looked up: it would tell who is known.
        self.may_see_all(&access, &shown)?;
        let subject = match person {
            Person::Email(email) => self.known(&email, &access).await?,
            Person::LicenseKey(key) => self.owned(&key)?.1,
        };
        let shows_email = self.may_see(&access, Category::Email);
        self.record(subject, access, &shown).await?;
        let service = Arc::clone(self);
        reading(move || service.read_history(subject, shows_email)).await
    }

    fn read_history(&self, subject: SubjectId, shows_email: bool) -> Result<History, ServiceError> {
        let email = if shows_email { self.store.email(subject)? } else { None };
        let mut licenses = Vec::new();
        let issued = subject_entries(&self.store, subject)?.into_iter();
        let issued: Vec<LicenseId> = issued.filter_map(|entry| entry.issued).collect();
        for &id in &issued[issued.len().saturating_sub(LICENSES)..] {
            let newest = self.store.views.newest_activations(id, NEWEST)?;
            let activations =
                newest.into_iter().map(|id| details(&self.store, id)).collect::<Result<_, _>>()?;
            let view = self.store.views.license(id)?.ok_or(Rejection::LicenseNotFound)?;
            licenses.push(LicenseHistory {
                license: self.details(id)?,
                activations,
                activations_total: view.activations,
            });
        }
        Ok(History { email, licenses, licenses_total: issued.len() as u64 })
    }

    /// All activations of a license, oldest first, `page` at a time.
    pub async fn activations(
        &self,
        staff: &Staff,
        key: &LicenseKey,
        purpose: Purpose,
        page: usize,
    ) -> Result<Activations, ServiceError> {
        let access = self.access(staff, purpose, Operation::ListActivations);
        self.may_see_all(&access, &[Category::ActivationTime])?;
        let (license, subject) = self.owned(key)?;
        self.record(subject, access, &[Category::ActivationTime]).await?;
        let store = Arc::clone(&self.store);
        Ok(Activations { store, license, next: Some(Position::ZERO), page })
    }
}

impl Activations {
    /// The next page; empty after the last.
    pub async fn next_page(mut self) -> Result<(Self, Vec<ActivationDetails>), ServiceError> {
        reading(move || {
            let page = self.read_page()?;
            Ok((self, page))
        })
        .await
    }

    fn read_page(&mut self) -> Result<Vec<ActivationDetails>, ServiceError> {
        let mut page = Vec::new();
        while page.len() < self.page
            && let Some(from) = self.next
        {
            let wanted = self.page - page.len();
            let entries = self.store.views.license_entries(self.license, from, wanted)?;
            self.next = entries.last().map(|entry| entry.position.plus(1));
            for id in entries.into_iter().filter_map(|entry| entry.activated) {
                page.push(details(&self.store, id)?);
            }
        }
        Ok(page)
    }
}

fn details(store: &Store, id: ActivationId) -> Result<ActivationDetails, ServiceError> {
    let activation = store.views.activation(id)?.ok_or(Rejection::ActivationNotFound)?;
    let at = |position| Ok::<_, StoreError>(store.event(position)?.event.at());
    Ok(ActivationDetails {
        id,
        activated_at: at(activation.activated)?,
        deactivated_at: activation.ended.map(at).transpose()?,
    })
}
