//! What the writer does beyond deciding and appending: it carries erasures to their end, moves the
//! vault to new epochs, ends notices, and counts days. Each is an append of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Answer, Granted, Job, Plan, Planned, Request, Writer, WriterError};
use crate::domain::{
    Day, ErasureId, ErasureReason, Event, NoticeId, NoticeOutcome, Rejection, State,
    SubjectCommand, SubjectId, Timestamp,
};
use crate::log::codec;
use crate::service::erasure;
use crate::service::store::StoreError;
use crate::vault::{KeyName, NewKey, VaultError};

/// How many products' counts fit a record.
const PRODUCTS_A_RECORD: usize = 10;

/// Who began an erasure that is to be carried to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// This process, a moment ago.
    Now,
    /// One before, which may have destroyed the keys and come no further.
    Earlier,
}

impl Writer {
    /// Carries to its end what the last process began.
    pub(super) fn recover(&mut self) -> Result<(), WriterError> {
        let store = Arc::clone(&self.store);
        let views = &store.views;
        for id in views.pending_erasures().map_err(StoreError::from)? {
            let Some(view) = views.erasure(id).map_err(StoreError::from)? else { continue };
            if view.erased.is_none() {
                let Event::ErasureBegun { reason, at, .. } = store.event(view.begun)?.event else {
                    return Err(StoreError::Mismatch(view.begun).into());
                };
                self.finish_erasure(id, view.subject, reason, at, Begun::Earlier)?;
            }
        }
        // Another server's notice could be on its way; it is one server that ends them.
        for (notice, key) in store.vault.notices() {
            if views.notice(notice).map_err(StoreError::from)?.is_none() {
                store.vault.destroy(&[key], &mut *self.rng).map_err(StoreError::from)?;
            }
        }
        if store.vault.epoch() > views.epoch().map_err(StoreError::from)? {
            self.epoch_moved()?;
        }
        Ok(())
    }

    /// Destroys the keys, and records that they are. What expires is what had when it began, under the
    /// policy of now: of more nobody would be told.
    pub(super) fn finish_erasure(
        &mut self,
        erasure: ErasureId,
        subject: SubjectId,
        reason: ErasureReason,
        begun_at: Timestamp,
        begun: Begun,
    ) -> Result<(), WriterError> {
        // What is erased must have been counted.
        self.close_days(Day(i32::MAX))?;
        let store = Arc::clone(&self.store);
        let keys = match reason {
            ErasureReason::Request => {
                let keys = erasure::keys(&store, subject)?;
                keys.into_iter().map(|(_, slot)| slot).collect()
            }
            ErasureReason::Rectification => erasure::replaced_keys(&store, subject),
            // They are destroyed, all of them, as one.
            ErasureReason::Retention
                if begun == Begun::Earlier && erasure::is_begun(&store, subject)? =>
            {
                Vec::new()
            }
            ErasureReason::Retention => {
                erasure::expired_keys(&store, &self.policy.get(), subject, begun_at)?
            }
        };
        let mut records = match begun {
            Begun::Now => BTreeMap::new(),
            Begun::Earlier => erasure::unstated_records(&store)?,
        };
        for (event_type, count) in erasure::records_under(&store, subject, &keys)? {
            *records.entry(event_type).or_default() += count;
        }
        let records = records.into_iter().collect();
        store.vault.destroy(&keys, &mut *self.rng).map_err(StoreError::from)?;
        self.state = State::default();
        let (epoch, at) = (store.vault.epoch(), self.clock.now());
        self.record(&Event::DataErased { erasure, subject, reason, records, epoch, at })
    }

    pub(super) fn move_epoch(&mut self) -> Result<Answer, WriterError> {
        match self.store.vault.move_epoch(&mut *self.rng) {
            Ok(()) => {}
            Err(VaultError::FixedMasterKey) => return Ok(Err(Rejection::MasterKeyFixed)),
            Err(error @ VaultError::NotMoved(_)) => {
                tracing::error!("{error}");
                return Ok(Err(Rejection::EpochNotMoved));
            }
            Err(error) => return Err(StoreError::from(error).into()),
        }
        self.epoch_moved()?;
        Ok(Ok(Granted::default()))
    }

    fn epoch_moved(&mut self) -> Result<(), WriterError> {
        let (epoch, at) = (self.store.vault.epoch(), self.clock.now());
        self.record(&Event::EpochMoved { epoch, at })
    }

    /// Records how a notice ended, and destroys what it held. A recipient of data that is still there is
    /// noted with it.
    pub(super) fn settle(
        &mut self,
        notice: NoticeId,
        outcome: NoticeOutcome,
    ) -> Result<Answer, WriterError> {
        let store = Arc::clone(&self.store);
        let Some(view) = store.views.notice(notice).map_err(StoreError::from)? else {
            return Ok(Err(Rejection::NoticeNotFound));
        };
        match store.event(view.created).map(|stored| stored.event) {
            Ok(Event::NoticeCreated { notice, .. }) => {
                let told = SubjectCommand::Told { recipient: notice.recipient, outcome };
                let (answer, _) = oneshot::channel();
                // An erased person has no record to note it in.
                self.commit(&[Job { request: Request::Subject(notice.subject, told), answer }])?;
            }
            Ok(_) => return Err(StoreError::Mismatch(view.created).into()),
            // What the notice said went with a ledger that is newer than the log.
            Err(StoreError::Erased(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let (subject, created, at) = (view.subject, view.created, self.clock.now());
        self.record(&Event::NoticeSettled { notice, subject, created, outcome, at })?;
        // Only now: views that are built without the notice must learn that it was there.
        if let Some(key) = store.vault.find(&KeyName::Notice(notice)) {
            store.vault.destroy(&[key], &mut *self.rng).map_err(StoreError::from)?;
        }
        Ok(Ok(Granted::default()))
    }

    /// Records what happened on each day before this one since it was last counted.
    pub(super) fn close_days(&mut self, before: Day) -> Result<(), WriterError> {
        loop {
            let mut counted = self.store.views.uncounted_days().map_err(StoreError::from)?;
            counted.retain(|day, _| *day < before);
            let Some((day, mut counts)) = counted.pop_first() else { return Ok(()) };
            counts.truncate(PRODUCTS_A_RECORD);
            let closed = Event::DayClosed { day, counts, at: self.clock.now() };
            if !self.append_alone(&closed)? {
                // Another writer may have counted the day, or added to it.
                self.catch_up()?;
            }
        }
    }

    /// Appends an event that nobody asked for, and that holds whatever other writers do.
    fn record(&mut self, event: &Event) -> Result<(), WriterError> {
        while !self.append_alone(event)? {
            self.catch_up()?;
        }
        Ok(())
    }

    /// False: another writer was first, and nothing is appended.
    fn append_alone(&mut self, event: &Event) -> Result<bool, WriterError> {
        let key = NewKey { name: KeyName::System, tag: None };
        let planned = Planned { event: event.clone(), encoded: codec::encode(event), key };
        let plan = Plan { events: vec![planned], ..Plan::default() };
        let records = self.seal(&plan.events)?;
        let is_there = self.append(&records)?;
        if is_there {
            self.publish(plan, &records)?;
        }
        Ok(is_there)
    }
}
