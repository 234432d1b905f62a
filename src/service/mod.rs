//! The one path: a request becomes a command, the [`writer`] decides and appends, the answer goes
//! back. Reads go through the [`store`], and each read of personal data through the writer first.

pub mod activation;
pub mod clock;
mod erasure;
pub mod guessing;
pub mod history;
pub mod keeper;
pub mod license;
pub mod notices;
mod operation;
pub mod privacy;
pub mod requests;
pub mod rereading;
pub mod statistics;
pub mod store;
pub mod sweep;
pub mod transparency;
pub mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::domain::{
    Access, Actor, Category, Email, LicenseId, LicenseKey, Operation, Position, Product, Purpose,
    RecipientName, RecordedActor, Rejection, Role, SubjectCommand, SubjectId,
};
use crate::export::BundleError;
use crate::log::LogError;
use crate::policy::CurrentPolicy;
use crate::receipt::{KeyRing, PublicKeys, ReceiptError};
use crate::seal::actor::ActorSeal;
use crate::tlog::tiles::TilesError;
use crate::vault::VaultError;
use crate::views::ViewsError;
use clock::Clock;
use store::{Store, StoreError};
use transparency::Transparency;
use writer::{Granted, NoAnswer, Request, WriterHandle};

/// What all calls share.
pub struct Service {
    store: Arc<Store>,
    writer: WriterHandle,
    clock: Arc<dyn Clock>,
    receipts: KeyRing,
    receipt_keys: PublicKeys,
    settings: Settings,
    codes: requests::Codes,
    /// Wakes who tells recipients.
    notices_created: Notify,
    /// `None`: nothing is published.
    transparency: Option<Arc<Transparency>>,
    /// `None`: there is no archive.
    is_archived: Option<IsArchived>,
}

/// Whether the archive follows the log, as far as is known.
pub type IsArchived = Box<dyn Fn() -> bool + Send + Sync>;

/// What the vendor decides.
pub struct Settings {
    /// The `iss` of receipts. A retry is answered byte for byte only as long as it stays.
    pub issuer: String,
    /// How long the receipts of a product are good for; for ever where it is not named.
    pub leases: HashMap<Product, Duration>,
    /// What may be done with personal data.
    pub policy: CurrentPolicy,
    /// What the names of staff are sealed with.
    pub actor_seal: ActorSeal,
    /// The recipients that the server tells by itself.
    pub webhooks: HashSet<RecipientName>,
}

/// A member of staff who calls.
#[derive(Debug, Clone)]
pub struct Staff {
    /// Who.
    pub actor: Actor,
    /// As what.
    pub role: Role,
}

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The rules refuse it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The policy does not let this role see this for this purpose.
    #[error("your role may not see such data for this purpose")]
    PurposeNotAllowed,
    /// The receipt is none.
    #[error("the receipt {0}")]
    Receipt(#[from] ReceiptError),
    /// Only a receipt with an end can get a new one.
    #[error("the receipt has no end, so it needs no renewal")]
    NotLeased,
    /// Too many wait already; nothing has happened.
    #[error("the server is busy; call again")]
    Overloaded,
    /// The writer has stopped; what was asked may or may not have happened.
    #[error("the server is stopping; call again")]
    Stopped,
    /// An export cannot be made.
    #[error(transparent)]
    Export(#[from] BundleError),
    /// What is stored cannot be read. For the operator's log, not for the client.
    #[error(transparent)]
    Store(StoreError),
    /// The same of the tiles, which are made again.
    #[error(transparent)]
    Tiles(#[from] TilesError),
    /// The tree is not made as far as is asked for.
    #[error("the tree of the log is not made yet; call again")]
    TreeBehind,
    /// The log does not have what this server once signed for.
    #[error(
        "the log has no record of this receipt's activation, though this server signed it: the record \
         was changed or dropped; keep the receipt and any proof of it"
    )]
    NotInLog,
    /// The log never had so many records, or has lost some.
    #[error(
        "the log has {0} records, fewer than that; the checkpoint is of another history, or records \
         are lost"
    )]
    SizeAhead(Position),
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            // It was there a moment ago.
            StoreError::Erased(_) => Rejection::LicenseNotFound.into(),
            error => Self::Store(error),
        }
    }
}

impl From<ViewsError> for ServiceError {
    fn from(error: ViewsError) -> Self {
        Self::Store(error.into())
    }
}

impl From<LogError> for ServiceError {
    fn from(error: LogError) -> Self {
        Self::Store(error.into())
    }
}

impl From<VaultError> for ServiceError {
    fn from(error: VaultError) -> Self {
        Self::Store(error.into())
    }
}

impl From<NoAnswer> for ServiceError {
    fn from(reason: NoAnswer) -> Self {
        match reason {
            NoAnswer::Overloaded => Self::Overloaded,
            NoAnswer::Stopped => Self::Stopped,
        }
    }
}

impl Service {
    /// Puts the parts together.
    pub fn new(
        store: Arc<Store>,
        writer: WriterHandle,
        clock: Arc<dyn Clock>,
        receipts: KeyRing,
        settings: Settings,
    ) -> Self {
        let receipt_keys = receipts.public();
        let codes = requests::Codes::default();
        let notices_created = Notify::new();
        let (transparency, is_archived) = (None, None);
        Self {
            store,
            writer,
            clock,
            receipts,
            receipt_keys,
            settings,
            codes,
            notices_created,
            transparency,
            is_archived,
        }
    }

    /// The same, with the log's tree published.
    #[must_use]
    pub fn publishing(self, transparency: Transparency) -> Self {
        Self { transparency: Some(Arc::new(transparency)), ..self }
    }

    /// The same, with an archive beside the log.
    #[must_use]
    pub fn archived(self, is_archived: Option<IsArchived>) -> Self {
        Self { is_archived, ..self }
    }

    /// What is recorded of a call by staff. The name is sealed apart.
    fn access(&self, staff: &Staff, purpose: Purpose, operation: Operation) -> Access {
        let actor = self.settings.actor_seal.seal(&staff.actor, &mut rand::rng());
        let actor = RecordedActor::Sealed(actor);
        Access { actor, role: staff.role, purpose, operation, request: None }
    }

    /// A change of a license is its own purpose.
    fn administration(&self, staff: &Staff, operation: Operation) -> Access {
        self.access(staff, Purpose::LicenseAdministration, operation)
    }

    async fn ask(&self, request: Request) -> Result<Granted, ServiceError> {
        Ok(self.writer.ask(request).await??)
    }

    /// Whether the policy lets whoever asks see such data.
    fn may_see(&self, access: &Access, category: Category) -> bool {
        self.settings.policy.get().may_see(access.role, access.purpose, category)
    }

    /// Refuses whoever may not see all of this.
    fn may_see_all(&self, access: &Access, categories: &[Category]) -> Result<(), ServiceError> {
        let may_see = categories.iter().all(|category| self.may_see(access, *category));
        if may_see { Ok(()) } else { Err(ServiceError::PurposeNotAllowed) }
    }

    /// Records that a person's data is about to be read, if all of it may be.
    async fn record(
        &self,
        subject: SubjectId,
        access: Access,
        read: &[Category],
    ) -> Result<(), ServiceError> {
        self.may_see_all(&access, read)?;
        self.usable(subject, access.purpose)?;
        let command = SubjectCommand::RecordAccess(access);
        self.ask(Request::Subject(subject, command)).await.map(drop)
    }

    /// The person with this address. That somebody was looked for who is not known is recorded too,
    /// without the address.
    async fn known(&self, email: &Email, access: &Access) -> Result<SubjectId, ServiceError> {
        match self.find_subject(email) {
            Ok(subject) => Ok(subject),
            Err(rejection) => {
                let record = SubjectCommand::RecordAccess(access.clone());
                self.ask(Request::Subject(SubjectId::NOBODY, record)).await?;
                Err(rejection.into())
            }
        }
    }

    /// Whether a person's data may be used for this purpose: under restriction it may for few.
    fn usable(&self, subject: SubjectId, purpose: Purpose) -> Result<(), ServiceError> {
        let restricted = self.store.views.subject(subject)?.is_some_and(|known| known.restricted);
        if restricted && !self.settings.policy.get().restriction.purposes.contains(&purpose) {
            return Err(Rejection::Restricted.into());
        }
        Ok(())
    }

    /// The license with this key.
    fn find_license(&self, key: &LicenseKey) -> Result<LicenseId, Rejection> {
        let tag = self.store.vault.tag_key().license_key(key);
        self.store.vault.license_by_key(&tag).ok_or(Rejection::LicenseNotFound)
    }

    /// The person with this address.
    fn find_subject(&self, email: &Email) -> Result<SubjectId, Rejection> {
        let tag = self.store.vault.tag_key().email(email);
        self.store.vault.subject_by_email(&tag).ok_or(Rejection::SubjectNotFound)
    }
}

/// Runs what reads much from disk where it holds nobody up.
async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    // A read that panicked is a defect; the call it belongs to ends, and nothing was written.
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(ServiceError::Stopped))
}
