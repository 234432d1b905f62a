//! The sweep: what was kept for as long as the policy says is erased.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::erasure::{expired_keys, records_under};
use super::privacy::{Counts, by_category};
use super::store::StoreError;
use super::writer::Request;
use super::{Service, ServiceError, reading};
use crate::domain::{ErasureId, SubjectCommand, SubjectId};

/// How many persons are looked at between two rests.
const PAGE: usize = 256;

/// A share of all persons: those whose ids begin with these two bytes. Ids are random, so that no share is
/// much larger than another, and tells of nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u16);

impl Share {
    /// Where a sweep begins.
    pub const FIRST: Self = Self(0);

    /// The lowest id in it.
    fn first(self) -> SubjectId {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&self.0.to_be_bytes());
        SubjectId::from_bytes(id)
    }

    /// The share after that of a person; `None`: theirs is the last.
    fn after(subject: SubjectId) -> Option<Self> {
        let [high, low, ..] = *subject.as_bytes();
        u16::from_be_bytes([high, low]).checked_add(1).map(Self)
    }
}

/// What a sweep erased, or would erase.
#[derive(Default)]
pub struct Swept {
    /// Of how many persons.
    pub subjects: u64,
    /// What.
    pub records: Counts,
    /// Where the next sweep is to go on. `None`: this one came by everybody.
    pub next: Option<Share>,
}

/// Some persons of whom something can go.
struct ExpiredPage {
    expired: Vec<(SubjectId, Counts)>,
    /// Where the next page begins.
    next: Option<SubjectId>,
}

impl Service {
    /// Erases what was kept for as long as the policy says; or counts it only. Looks at whole shares, from
    /// one of them on, and ends soon after `until`. After each look it rests for as long, so that calls
    /// have most of the processors.
    pub async fn sweep(
        self: &Arc<Self>,
        dry_run: bool,
        from: Share,
        until: Instant,
    ) -> Result<Swept, ServiceError> {
        self.sweep_with_rests(dry_run, from, Some(until), 1).await
    }

    /// Comes by everybody when nobody waits for it: rests for three times as long as it looks.
    pub async fn sweep_daily(self: &Arc<Self>) -> Result<Swept, ServiceError> {
        self.sweep_with_rests(false, Share::FIRST, None, 3).await
    }

    async fn sweep_with_rests(
        self: &Arc<Self>,
        dry_run: bool,
        from: Share,
        until: Option<Instant>,
        rests: u32,
    ) -> Result<Swept, ServiceError> {
        let mut swept = Swept::default();
        let is_over = || until.is_some_and(|until| Instant::now() >= until);
        let mut next = Some(from.first());
        while let Some(from) = next {
            let (service, began) = (Arc::clone(self), Instant::now());
            let end = swept.next.map(Share::first);
            let page = reading(move || service.read_expired(from, end)).await?;
            if page.next.is_some() {
                sleep(rests * began.elapsed()).await;
            }
            next = page.next;
            for (subject, records) in page.expired {
                if swept.next.is_none() && is_over() {
                    swept.next = Share::after(subject);
                }
                if swept.next.is_some_and(|end| subject >= end.first()) {
                    next = None;
                    break;
                }
                if !dry_run {
                    let erasure = ErasureId::from_bytes(rand::random());
                    let expire = SubjectCommand::Expire { erasure, notices: Vec::new() };
                    match self.ask(Request::Subject(subject, expire)).await {
                        // Whatever changed since is for the next sweep.
                        Ok(_) | Err(ServiceError::Rejected(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                swept.subjects += 1;
                for (category, count) in records {
                    *swept.records.entry(category).or_default() += count;
                }
            }
            if swept.next.is_none() && is_over() {
                swept.next = next.and_then(Share::after);
            }
        }
        self.notices_created.notify_one();
        Ok(swept)
    }

    /// Looks through the persons from an id on, and before the end if there is one.
    fn read_expired(
        &self,
        from: SubjectId,
        end: Option<SubjectId>,
    ) -> Result<ExpiredPage, ServiceError> {
        let (now, policy) = (self.clock.now(), self.settings.policy.get());
        let page = self.store.views.subjects(from, PAGE)?;
        let next = page.last().filter(|_| page.len() == PAGE).and_then(SubjectId::next);
        let is_before_end = |subject: &SubjectId| end.is_none_or(|end| *subject < end);
        let mut expired = Vec::new();
        for subject in page.into_iter().take_while(is_before_end) {
            let keys = match expired_keys(&self.store, &policy, subject, now) {
                // Something of theirs is being erased. What is left is for the next sweep.
                Err(StoreError::Erased(_)) => continue,
                keys => keys?,
            };
            if !keys.is_empty() {
                let records = records_under(&self.store, subject, &keys)?;
                expired.push((subject, by_category(records)));
            }
        }
        Ok(ExpiredPage { expired, next: next.filter(is_before_end) })
    }
}
