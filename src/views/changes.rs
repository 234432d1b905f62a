//! How events change the rows.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fold::{ActivationChange, Fold, LicenseChange, SubjectChange};
use super::later::Later;
use super::layers::ChangedLayers;
use super::row::{
    self, ActivationRow, CheckpointRow, CountsRow, EntryKind, EntryRow, ErasureRow, LicenseRow,
    NoticeRow, Owner, RequestRow, SCHEMA, SubjectRow, unreadable,
};
use super::store::Key;
use super::{Checkpoint, ViewsError};
use crate::domain::{
    ActivationId, Counts, Day, ErasureId, Event, LicenseId, NoticeId, Position, RequestId,
    RestrictionKind, Status, SubjectId,
};

/// Whether what is at a position is erased.
pub type IsErased<'a> = &'a dyn Fn(Position) -> Result<bool, ViewsError>;

/// The rows as events change them.
pub(super) struct Changes<'a> {
    rows: ChangedLayers<'a>,
    is_erased: IsErased<'a>,
    /// Where the changes of rows are put off that come of changes to them alone.
    later: Option<&'a mut Later>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(rows: ChangedLayers<'a>, is_erased: IsErased<'a>) -> Self {
        Self { rows, is_erased, later: None }
    }

    /// Puts changes off.
    pub(super) fn later(self, later: &'a mut Later) -> Self {
        Self { later: Some(later), ..self }
    }

    #[allow(clippy::too_many_lines)] // an arm for each event type
    pub(super) fn apply(&mut self, position: Position, event: &Event) -> Result<(), ViewsError> {
        match event {
            Event::SubjectRegistered { subject, .. } | Event::EmailRecorded { subject, .. } => {
                self.subject(*subject, position, SubjectChange::Email)
            }
            Event::NameRecorded { subject, .. } => {
                self.subject(*subject, position, SubjectChange::Name)
            }
            Event::LicenseIssued { license, subject, terms, at, .. } => {
                let product = terms.product.as_str();
                let is_new =
                    self.is_new_person(row::LICENSE_PERSONS, at.day(), product, *subject)?;
                let license_persons = is_new.into();
                let more = Counts { licenses: 1, license_persons, ..Counts::default() };
                self.count(row::counts(row::UNCOUNTED, at.day(), product), more)?;
                self.issued(*license, *subject, product, Status::Active, position)
            }
            Event::LicenseKept { license, subject, terms, suspended, .. } => {
                let status = if *suspended { Status::Suspended } else { Status::Active };
                self.issued(*license, *subject, terms.product.as_str(), status, position)
            }
            Event::Activated { license, activation, at, .. } => {
                let (product, subject) = self.activated(*license, *activation, position)?;
                let is_new =
                    self.is_new_person(row::ACTIVATION_PERSONS, at.day(), &product, subject)?;
                let activation_persons = is_new.into();
                let more = Counts { activations: 1, activation_persons, ..Counts::default() };
                self.count(row::counts(row::UNCOUNTED, at.day(), &product), more)
            }
            Event::ActivationKept { license, activation, .. } => {
                self.activated(*license, *activation, position).map(drop)
            }
            Event::Deactivated { license, activation, .. } => {
                let ended = ActivationChange::Ended;
                self.change::<ActivationRow>(*activation.as_bytes(), position, ended)?;
                self.license(*license, position, LicenseChange::Deactivated).map(drop)
            }
            Event::LicenseSuspended { license, .. } => {
                self.status(*license, position, Status::Suspended)
            }
            Event::LicenseReinstated { license, .. } => {
                self.status(*license, position, Status::Active)
            }
            Event::LicenseRevoked { license, .. } => {
                self.status(*license, position, Status::Revoked)
            }
            Event::RestrictionChanged { subject, kind, holds, .. } => {
                let change = match kind {
                    RestrictionKind::Restriction => SubjectChange::Restricted(*holds),
                    RestrictionKind::LegalHold => SubjectChange::Held(*holds),
                };
                self.subject(*subject, position, change)
            }
            Event::RequestOpened { request, subject, .. } => {
                let row = RequestRow {
                    subject: *subject.as_bytes(),
                    opened: position.0,
                    steps: Vec::new(),
                    is_closed: false,
                };
                self.put(row::request(*request), &row)?;
                self.put(row::open_request(*request), &())?;
                let kind = EntryKind::Requested { request: *request.as_bytes() };
                self.subject(*subject, position, SubjectChange::Entry(kind))
            }
            Event::RequestStepped { request, subject, step, .. } => {
                let closes = step.closes();
                self.request(*request, |row| {
                    row.steps.push(position.0);
                    row.is_closed |= closes;
                })?;
                if closes {
                    self.delete(row::open_request(*request));
                }
                self.subject(*subject, position, SubjectChange::Entry(EntryKind::Other))
            }
            Event::ErasureBegun { erasure, subject, .. } => {
                let row = ErasureRow {
                    subject: *subject.as_bytes(),
                    begun: position.0,
                    erased: None,
                    is_final: None,
                };
                self.put(row::erasure(*erasure), &row)?;
                self.put(row::erasure_of(*subject, *erasure), &())?;
                self.put(row::pending_erasure(*erasure), &())
            }
            Event::DataErased { erasure, subject, .. } => {
                self.erasure(*erasure, |row| row.erased = Some(position.0))?;
                self.forget(*subject)
            }
            Event::Disclosed { subject, .. } => {
                self.subject(*subject, position, SubjectChange::Entry(EntryKind::Disclosed))
            }
            Event::AccessRecorded { subject, .. } | Event::RecipientTold { subject, .. } => {
                self.subject(*subject, position, SubjectChange::Entry(EntryKind::Other))
            }
            Event::NoticeCreated { notice, .. } => {
                let subject = *notice.subject.as_bytes();
                self.put(row::notice(notice.id), &NoticeRow { subject, created: position.0 })
            }
            Event::NoticeSettled { notice, subject, created, .. } => {
                self.delete(row::notice(*notice));
                self.waited_for(*subject, *created)
            }
            Event::DayClosed { day, counts, at } => {
                let is_over = at.day() > *day;
                let mut counts = counts.iter();
                counts.try_for_each(|(product, counts)| {
                    self.close(*day, is_over, product.as_str(), *counts)
                })
            }
            Event::EpochMoved { epoch, .. } => {
                self.put(row::EPOCH.into(), epoch)?;
                self.finalise(position)
            }
        }
    }

    pub(super) fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ViewsError> {
        let Checkpoint { next, last } = checkpoint;
        let row = CheckpointRow { schema: SCHEMA, next: next.0, last };
        self.put(row::CHECKPOINT.into(), &row)
    }

    fn issued(
        &mut self,
        license: LicenseId,
        subject: SubjectId,
        product: &str,
        status: Status,
        position: Position,
    ) -> Result<(), ViewsError> {
        let issued = LicenseChange::Issued {
            subject: *subject.as_bytes(),
            product: product.to_owned(),
            status: row::status_to_row(status),
        };
        self.license(license, position, issued)?;
        if let Some(later) = &mut self.later {
            later.issued(license, subject, product);
        }
        let kind = EntryKind::Issued { license: *license.as_bytes() };
        self.subject(subject, position, SubjectChange::Entry(kind))
    }

    /// Takes a seat, and gives the product and whose license it is.
    fn activated(
        &mut self,
        license: LicenseId,
        activation: ActivationId,
        position: Position,
    ) -> Result<(String, SubjectId), ViewsError> {
        let begun = ActivationChange::Begun { license: *license.as_bytes() };
        self.change::<ActivationRow>(*activation.as_bytes(), position, begun)?;
        let change = LicenseChange::Activated { activation: *activation.as_bytes() };
        let of = match self.license(license, position, change)? {
            Some(Owner { row, .. }) => Some((row.product, SubjectId::from_bytes(row.subject))),
            None => self.later.as_ref().and_then(|later| later.license(license)),
        };
        of.ok_or_else(unreadable)
    }

    /// Adds to the counts of a day and a product. They are small, or their row is not what was written.
    fn count(&mut self, key: Key, more: Counts) -> Result<(), ViewsError> {
        let place = self.rows.bytes(key)?;
        let known: Option<CountsRow> = place.as_deref().map(row::read).transpose()?;
        let mut counts = known.unwrap_or_default();
        for (sum, more) in [
            (&mut counts.licenses, more.licenses),
            (&mut counts.activations, more.activations),
            (&mut counts.license_persons, more.license_persons),
            (&mut counts.activation_persons, more.activation_persons),
        ] {
            *sum = sum.checked_add(more).ok_or_else(unreadable)?;
        }
        *place = Some(row::to_bytes(&counts)?);
        Ok(())
    }

    /// Whether a person was not counted yet on a day, and notes that they are now.
    fn is_new_person(
        &mut self,
        prefix: &[u8],
        day: Day,
        product: &str,
        subject: SubjectId,
    ) -> Result<bool, ViewsError> {
        let persons = self.rows.bytes(row::counts(prefix, day, product))?.get_or_insert_default();
        let is_new = persons.len() < row::persons_bytes(Counts::PERSONS_APART)
            && !row::persons(persons)?.contains(subject.as_bytes());
        if is_new {
            persons.extend(subject.as_bytes());
        }
        Ok(is_new)
    }

    /// Takes a person out of those who were counted: the counts stand.
    fn forget_person(&mut self, subject: SubjectId) -> Result<(), ViewsError> {
        let end = [row::PERSONS, &[0xFF; 5]].concat();
        let rows: Vec<_> = self.rows.all().range(row::PERSONS..&end).collect::<Result<_, _>>()?;
        for (key, bytes) in rows {
            let mut persons = row::persons(&bytes)?.to_vec();
            persons.retain(|person| person != subject.as_bytes());
            let left = Some(persons.concat()).filter(|left| !left.is_empty());
            self.rows.newest.insert(key, left);
        }
        Ok(())
    }

    /// Takes in counts that an event states. What they were made of may be erased by now.
    fn close(
        &mut self,
        day: Day,
        is_over: bool,
        product: &str,
        more: Counts,
    ) -> Result<(), ViewsError> {
        self.delete(row::counts(row::UNCOUNTED, day, product));
        if is_over {
            self.delete(row::counts(row::LICENSE_PERSONS, day, product));
            self.delete(row::counts(row::ACTIVATION_PERSONS, day, product));
        }
        self.count(row::counts(row::COUNTED, day, product), more)
    }

    fn status(
        &mut self,
        license: LicenseId,
        position: Position,
        status: Status,
    ) -> Result<(), ViewsError> {
        let change = LicenseChange::Status(row::status_to_row(status));
        self.license(license, position, change).map(drop)
    }

    fn subject(
        &mut self,
        id: SubjectId,
        position: Position,
        change: SubjectChange,
    ) -> Result<(), ViewsError> {
        self.change::<Owner<SubjectRow>>(*id.as_bytes(), position, change).map(drop)
    }

    /// Changes a license, and gives it as it is now; `None`: that is put off.
    fn license(
        &mut self,
        id: LicenseId,
        position: Position,
        change: LicenseChange,
    ) -> Result<Option<Owner<LicenseRow>>, ViewsError> {
        self.change(*id.as_bytes(), position, change)
    }

    /// Changes a row, and gives it as it is now; `None`: that is put off.
    fn change<R: Fold>(
        &mut self,
        id: [u8; 16],
        position: Position,
        change: R::Change,
    ) -> Result<Option<R>, ViewsError> {
        if let Some(later) = &mut self.later {
            later.put_off::<R>(id, position, &change)?;
            return Ok(None);
        }
        let key = R::key(id);
        let (place, known) = if R::begins(&change) {
            (self.rows.newest.entry(key).or_default(), None)
        } else {
            let place = self.rows.bytes(key)?;
            let known = place.as_deref().map(R::read).transpose()?;
            (place, known)
        };
        let (row, page) = R::fold(known, position, change)?;
        *place = Some(row.to_bytes()?);
        self.put_page(&id, page)?;
        Ok(Some(row))
    }

    fn request(
        &mut self,
        id: RequestId,
        change: impl FnOnce(&mut RequestRow),
    ) -> Result<(), ViewsError> {
        // That it was opened may be erased, if it was opened in an earlier year.
        let known: Option<RequestRow> = self.rows.all().get(&row::request(id))?;
        let Some(mut row) = known else { return Ok(()) };
        change(&mut row);
        self.put(row::request(id), &row)
    }

    fn erasure(
        &mut self,
        id: ErasureId,
        change: impl FnOnce(&mut ErasureRow),
    ) -> Result<(), ViewsError> {
        let mut row: ErasureRow = self.row(&row::erasure(id))?;
        change(&mut row);
        self.put(row::erasure(id), &row)
    }

    /// While a notice waited no erasure of the person's was final. One that seems so is read from a log
    /// in which the notice is erased.
    fn waited_for(&mut self, subject: SubjectId, created: Position) -> Result<(), ViewsError> {
        for id in self.rows.all().ids_below(&row::erasures_of(subject))? {
            let id = ErasureId::from_bytes(id);
            let row: ErasureRow = self.row(&row::erasure(id))?;
            if row.is_final.is_some_and(|is_final| is_final > created.0) {
                self.erasure(id, |row| row.is_final = None)?;
                self.put(row::pending_erasure(id), &())?;
            }
        }
        Ok(())
    }

    /// What is erased by now is final, but for that of persons of whom recipients are still to be told:
    /// what they are to be told has keys of its own.
    fn finalise(&mut self, position: Position) -> Result<(), ViewsError> {
        let mut waiting = Vec::new();
        for id in self.rows.all().ids_below(row::NOTICES)? {
            let row: NoticeRow = self.row(&row::notice(NoticeId::from_bytes(id)))?;
            waiting.push(row.subject);
        }
        for id in self.rows.all().ids_below(row::PENDING_ERASURES)? {
            let id = ErasureId::from_bytes(id);
            let row: ErasureRow = self.row(&row::erasure(id))?;
            if row.erased.is_some() && !waiting.contains(&row.subject) {
                self.delete(row::pending_erasure(id));
                self.erasure(id, |row| row.is_final = Some(position.0))?;
            }
        }
        Ok(())
    }

    /// Takes what is erased of a person out of the rows: they are as if it had never been read.
    fn forget(&mut self, id: SubjectId) -> Result<(), ViewsError> {
        let Some(bytes) = self.rows.all().bytes(&row::subject(id))? else { return Ok(()) };
        let owner = Owner::<SubjectRow>::read(&bytes)?;
        let mut kept = Vec::new();
        for entry in self.take_entries(id.as_bytes(), &owner)? {
            let is_erased = (self.is_erased)(Position(entry.position))?;
            match entry.kind {
                EntryKind::Issued { license } => {
                    self.forget_license(LicenseId::from_bytes(license), is_erased)?;
                }
                EntryKind::Requested { request } if is_erased => {
                    let request = RequestId::from_bytes(request);
                    self.delete(row::request(request));
                    self.delete(row::open_request(request));
                }
                _ => {}
            }
            if !is_erased {
                kept.push(entry);
            }
        }
        if kept.is_empty() {
            self.delete(row::subject(id));
            return self.forget_person(id);
        }
        let mut row = owner.row;
        for position in [&mut row.email, &mut row.name] {
            if let Some(at) = *position
                && (self.is_erased)(Position(at))?
            {
                *position = None;
            }
        }
        self.put_owner(row::subject(id), id.as_bytes(), row, &kept)
    }

    fn forget_license(&mut self, id: LicenseId, is_erased: bool) -> Result<(), ViewsError> {
        let bytes = self.rows.all().bytes(&row::license(id))?.ok_or_else(unreadable)?;
        let owner = Owner::<LicenseRow>::read(&bytes)?;
        let entries = self.take_entries(id.as_bytes(), &owner)?;
        let (mut row, mut kept) = (owner.row, Vec::new());
        for entry in entries {
            if !(self.is_erased)(Position(entry.position))? {
                kept.push(entry);
                continue;
            }
            let EntryKind::Activated { activation } = entry.kind else { continue };
            let key = row::activation(ActivationId::from_bytes(activation));
            let activation: ActivationRow = self.row(&key)?;
            // A license that was kept has it now.
            if activation.activated == entry.position {
                self.delete(key);
            }
            row.activations = row.activations.checked_sub(1).ok_or_else(unreadable)?;
            if activation.ended.is_none() {
                row.used = row.used.checked_sub(1).ok_or_else(unreadable)?;
            }
        }
        if is_erased {
            self.delete(row::license(id));
            return Ok(());
        }
        self.put_owner(row::license(id), id.as_bytes(), row, &kept)
    }

    /// All entries of an owner, whose pages are gone afterwards.
    fn take_entries<R>(
        &mut self,
        id: &[u8; 16],
        owner: &Owner<R>,
    ) -> Result<Vec<EntryRow>, ViewsError> {
        let (first, end) = (row::page(id, Position::ZERO), row::pages_end(id));
        let pages: Vec<_> = self.rows.all().range(&first..&end).collect::<Result<_, _>>()?;
        if pages.len() as u64 != u64::from(owner.entries.pages) {
            return Err(unreadable());
        }
        let mut entries = Vec::new();
        for (key, page) in pages {
            entries.extend(row::read_entry_rows(&page)?);
            self.delete(key);
        }
        entries.extend(owner.newest_rows()?);
        Ok(entries)
    }

    /// Puts the row of a person or a license, with the entries that it has.
    fn put_owner<R: Serialize>(
        &mut self,
        key: Key,
        id: &[u8; 16],
        row: R,
        entries: &[EntryRow],
    ) -> Result<(), ViewsError> {
        let mut owner = Owner::new(row);
        for entry in entries {
            let page = owner.add(*entry)?;
            self.put_page(id, page)?;
        }
        self.rows.newest.insert(key, Some(owner.to_bytes()?));
        Ok(())
    }

    fn put_page(&mut self, owner: &[u8; 16], page: Option<Vec<u8>>) -> Result<(), ViewsError> {
        if let Some(page) = page {
            self.rows.newest.insert(row::page_of(owner, &page)?, Some(page));
        }
        Ok(())
    }

    /// The log names nothing that it did not introduce, so a row that is not there was lost.
    fn row<R: DeserializeOwned>(&self, key: &[u8]) -> Result<R, ViewsError> {
        self.rows.all().get(key)?.ok_or_else(unreadable)
    }

    fn put<R: Serialize>(&mut self, key: Key, row: &R) -> Result<(), ViewsError> {
        self.rows.newest.insert(key, Some(row::to_bytes(row)?));
        Ok(())
    }

    fn delete(&mut self, key: Key) {
        if self.later.is_some() {
            // There is nothing below that it would have to hide.
            self.rows.newest.remove(&key);
        } else {
            self.rows.newest.insert(key, None);
        }
    }
}
