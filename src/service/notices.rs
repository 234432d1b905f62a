//! Recipients of data: who got what, and that they are told when it is put right or erased (GDPR
//! Art. 19).

use std::collections::HashSet;
use std::time::Duration;

use super::store::StoreError;
use super::writer::Request;
use super::{Service, ServiceError, Staff};
use crate::domain::{
    Category, Email, Event, NOTICE_KEPT, Notice, NoticeId, NoticeOutcome, Operation, Purpose,
    RecipientName, Rejection, Role, SubjectCommand, SubjectId, Timestamp,
};

/// When an erasure is final at the latest that recipients are to be told of.
pub const TOLD_WITHIN: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// What a recipient is still to be told.
pub struct NoticeDetails {
    /// What.
    pub notice: Notice,
    /// Since when.
    pub created_at: Timestamp,
    /// Whether the server tells them by itself.
    pub has_webhook: bool,
}

impl Service {
    /// Notes that a recipient got data of a person. No categories: all that the policy lets them have.
    pub async fn record_disclosure(
        &self,
        staff: &Staff,
        email: &Email,
        recipient: &str,
        categories: Vec<Category>,
        at: Option<Timestamp>,
    ) -> Result<(), ServiceError> {
        let policy = self.settings.policy.get();
        let known = policy.recipients.iter().find(|known| known.name == recipient);
        let known = known.ok_or(Rejection::RecipientUnknown)?;
        if !categories.iter().all(|category| known.data.contains(category)) {
            return Err(Rejection::RecipientMayNotHave.into());
        }
        let categories = if categories.is_empty() { known.data.clone() } else { categories };
        let recipient = RecipientName::parse(recipient).ok_or(Rejection::RecipientUnknown)?;
        let purpose = match staff.role {
            Role::Issuer => Purpose::LicenseAdministration,
            _ => Purpose::CustomerSupport,
        };
        let by = self.access(staff, purpose, Operation::RecordDisclosure);
        let subject = self.known(email, &by).await?;
        self.usable(subject, purpose)?;
        let at = at.unwrap_or_else(|| self.clock.now());
        let disclose = SubjectCommand::Disclose { recipient, categories, at, by };
        self.ask(Request::Subject(subject, disclose)).await.map(drop)
    }

    /// What recipients are still to be told, for staff. They see the addresses.
    pub async fn notices(&self, staff: &Staff) -> Result<Vec<NoticeDetails>, ServiceError> {
        let access = self.access(staff, Purpose::AccessRequest, Operation::ListNotices);
        self.may_see_all(&access, &[Category::Email])?;
        let notices = self.waiting_notices()?;
        let subjects: HashSet<SubjectId> =
            notices.iter().map(|details| details.notice.subject).collect();
        for subject in subjects {
            // Who is erased has no record to note it in.
            let is_there = self.store.views.subject(subject)?.is_some();
            let subject = if is_there { subject } else { SubjectId::NOBODY };
            let record = SubjectCommand::RecordAccess(access.clone());
            self.ask(Request::Subject(subject, record)).await?;
        }
        Ok(notices)
    }

    /// Notes that staff told a recipient.
    pub async fn settle_by_hand(&self, staff: &Staff, id: NoticeId) -> Result<(), ServiceError> {
        let access = self.access(staff, Purpose::AccessRequest, Operation::SettleNotice);
        let record = SubjectCommand::RecordAccess(access);
        self.ask(Request::Subject(SubjectId::NOBODY, record)).await?;
        self.settle(id, NoticeOutcome::ByHand).await
    }

    /// Notes how a notice came to its end, and erases what it held.
    pub async fn settle(&self, id: NoticeId, outcome: NoticeOutcome) -> Result<(), ServiceError> {
        self.ask(Request::Settle(id, outcome)).await.map(drop)
    }

    /// What recipients are still to be told, oldest first.
    pub fn waiting_notices(&self) -> Result<Vec<NoticeDetails>, StoreError> {
        let mut notices = Vec::new();
        for id in self.store.views.notices()? {
            let Some(view) = self.store.views.notice(id)? else { continue };
            match self.store.event(view.created).map(|stored| stored.event) {
                Ok(Event::NoticeCreated { notice, at }) => {
                    let has_webhook = self.settings.webhooks.contains(&notice.recipient);
                    notices.push(NoticeDetails { notice, created_at: at, has_webhook });
                }
                Ok(_) => return Err(StoreError::Mismatch(view.created)),
                // It was settled a moment ago, or is about to be.
                Err(StoreError::Erased(_)) => {}
                Err(error) => return Err(error),
            }
        }
        notices.sort_by_key(|details| details.created_at);
        Ok(notices)
    }

    /// Carries to their end the notices that were being settled when the last process ended, and gives
    /// up those that were kept for long enough.
    pub async fn tidy_notices(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        for id in self.store.views.notices()? {
            let Some(view) = self.store.views.notice(id)? else { continue };
            let event = match self.store.event(view.created) {
                Ok(stored) => Some(stored.event),
                Err(StoreError::Erased(_)) => None,
                Err(error) => return Err(error.into()),
            };
            match event {
                Some(event) if event.at().plus(NOTICE_KEPT) > now => continue,
                Some(Event::NoticeCreated { notice, .. }) => {
                    let recipient = notice.recipient.as_str();
                    let days = NOTICE_KEPT.as_secs() / (24 * 60 * 60);
                    tracing::error!(
                        recipient,
                        "a recipient was not told for {days} days, and the notice is given up: tell \
                         them to check what they have, and see that notices are delivered or settled"
                    );
                }
                _ => {}
            }
            self.settle(id, NoticeOutcome::GivenUp).await?;
        }
        Ok(())
    }

    /// Waits until there is something new to tell.
    pub async fn notice_created(&self) {
        self.notices_created.notified().await;
    }
}
