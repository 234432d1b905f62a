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

/// Where a look ends.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Before this person.
    Person(SubjectId),
    /// At this time, if there is one.
    Time(Option<Instant>),
}

impl Service {
    /// Erases what was kept for as long as the policy says; or counts it only. Goes on until `until` from a
    /// share on, and then comes to the end of the one it is at. After each look it rests for as long, so
    /// that calls have most of the processors.
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
            let bound = match swept.next {
                Some(share) => Bound::Person(share.first()),
                None => Bound::Time(until),
            };
            let page = reading(move || service.read_expired(from, bound)).await?;
            next = page.next;
            let rest = rests * began.elapsed();
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
            // After the last look too: sweeps may follow one another.
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            sleep(left.map_or(rest, |left| rest.min(left))).await;
            if swept.next.is_none() && is_over() {
                swept.next = next.and_then(Share::after);
            }
        }
        self.notices_created.notify_one();
        Ok(swept)
    }

    /// Looks through the persons from an id on, the first of them in any case.
    fn read_expired(&self, from: SubjectId, bound: Bound) -> Result<ExpiredPage, ServiceError> {
        let (now, policy) = (self.clock.now(), self.settings.policy.get());
        let page = self.store.views.subjects(from, PAGE)?;
        let mut next = page.last().filter(|_| page.len() == PAGE).and_then(SubjectId::next);
        let mut expired = Vec::new();
        for (number, subject) in page.into_iter().enumerate() {
            match bound {
                Bound::Person(end) if subject >= end => {
                    next = None;
                    break;
                }
                Bound::Time(Some(until)) if number > 0 && Instant::now() >= until => {
                    next = Some(subject);
                    break;
                }
                Bound::Person(_) | Bound::Time(_) => {}
            }
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
        Ok(ExpiredPage { expired, next })
    }
}
