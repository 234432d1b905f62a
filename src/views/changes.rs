//! How events change the rows.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::layers::ChangedLayers;
use super::row::{
    self, ActivationRow, CheckpointRow, CountsRow, EntryKind, EntryRow, ErasureRow, LicenseRow,
    NoticeRow, Owner, RequestRow, SCHEMA, SubjectRow, unreadable,
};
use super::{Checkpoint, ViewsError};
use crate::domain::{
    ActivationId, Counts, Day, ErasureId, Event, LicenseId, NoticeId, Position, RequestId, Status,
    SubjectId,
};

/// Whether what is at a position is erased.
pub type IsErased<'a> = &'a dyn Fn(Position) -> Result<bool, ViewsError>;

/// The rows as events change them.
pub(super) struct Changes<'a> {
    rows: ChangedLayers<'a>,
    is_erased: IsErased<'a>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(rows: ChangedLayers<'a>, is_erased: IsErased<'a>) -> Self {
        Self { rows, is_erased }
    }

    #[allow(clippy::too_many_lines)] // an arm for each event type
    pub(super) fn apply(&mut self, position: Position, event: &Event) -> Result<(), ViewsError> {
        match event {
            Event::SubjectRegistered { subject, .. } | Event::EmailRecorded { subject, .. } => self
                .of_subject(*subject, position, EntryKind::Other, |row| {
                    row.email = Some(position.0);
                }),
            Event::NameRecorded { subject, .. } => {
                self.of_subject(*subject, position, EntryKind::Other, |row| {
                    row.name = Some(position.0);
                })
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
                let mut row: ActivationRow = self.row(&row::activation(*activation))?;
                row.ended = Some(position.0);
                self.put(row::activation(*activation), &row)?;
                self.of_license(*license, position, EntryKind::Other, |row| {
                    row.used = row.used.checked_sub(1)?;
                    Some(())
                })
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
            Event::AccessRecorded { subject, .. } => {
                self.of_subject(*subject, position, EntryKind::Other, |_| ())
            }
            Event::RestrictionChanged { subject, kind, holds, .. } => {
                self.of_subject(*subject, position, EntryKind::Other, |row| {
                    *row.restriction(*kind) = *holds;
                })
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
                self.of_subject(*subject, position, kind, |_| ())
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
                self.of_subject(*subject, position, EntryKind::Other, |_| ())
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
                self.of_subject(*subject, position, EntryKind::Disclosed, |_| ())
            }
            Event::RecipientTold { subject, .. } => {
                self.of_subject(*subject, position, EntryKind::Other, |_| ())
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
                self.put(row::EPOCH.to_vec(), epoch)?;
                self.finalise(position)
            }
        }
    }

    pub(super) fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ViewsError> {
        let Checkpoint { next, last } = checkpoint;
        let row = CheckpointRow { schema: SCHEMA, next: next.0, last };
        self.put(row::CHECKPOINT.to_vec(), &row)
    }

    fn issued(
        &mut self,
        license: LicenseId,
        subject: SubjectId,
        product: &str,
        status: Status,
        position: Position,
    ) -> Result<(), ViewsError> {
        let row = LicenseRow {
            subject: *subject.as_bytes(),
            issued: position.0,
            status: row::status_to_row(status),
            used: 0,
            activations: 0,
            product: product.to_owned(),
        };
        self.put_owner(row::license(license), license.as_bytes(), row, &[])?;
        let kind = EntryKind::Issued { license: *license.as_bytes() };
        self.of_subject(subject, position, kind, |_| ())
    }

    /// Takes a seat, and gives the product and whose license it is.
    fn activated(
        &mut self,
        license: LicenseId,
        activation: ActivationId,
        position: Position,
    ) -> Result<(String, SubjectId), ViewsError> {
        let row =
            ActivationRow { license: *license.as_bytes(), activated: position.0, ended: None };
        self.put(row::activation(activation), &row)?;
        let kind = EntryKind::Activated { activation: *activation.as_bytes() };
        let (mut product, mut subject) = (String::new(), SubjectId::NOBODY);
        self.of_license(license, position, kind, |row| {
            product.clone_from(&row.product);
            subject = SubjectId::from_bytes(row.subject);
            row.activations = row.activations.checked_add(1)?;
            row.used = row.used.checked_add(1)?;
            Some(())
        })?;
        Ok((product, subject))
    }

    /// Adds to the counts of a day and a product. They are small, or their row is not what was written.
    fn count(&mut self, key: Vec<u8>, more: Counts) -> Result<(), ViewsError> {
        let mut counts: CountsRow = self.rows.all().get(&key)?.unwrap_or_default();
        for (sum, more) in [
            (&mut counts.licenses, more.licenses),
            (&mut counts.activations, more.activations),
            (&mut counts.license_persons, more.license_persons),
            (&mut counts.activation_persons, more.activation_persons),
        ] {
            *sum = sum.checked_add(more).ok_or_else(unreadable)?;
        }
        self.put(key, &counts)
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
        self.of_license(license, position, EntryKind::Other, |row| {
            row.status = row::status_to_row(status);
            Some(())
        })
    }

    /// Changes a license and adds to its entries. `change` is `None` where the row cannot be right.
    fn of_license(
        &mut self,
        id: LicenseId,
        position: Position,
        kind: EntryKind,
        change: impl FnOnce(&mut LicenseRow) -> Option<()>,
    ) -> Result<(), ViewsError> {
        let entry = EntryRow { position: position.0, kind };
        self.of_owner(row::license(id), id.as_bytes(), entry, |known: Option<Owner<_>>| {
            let mut license = known?;
            change(&mut license.row)?;
            Some(license)
        })
    }

    /// Changes a person and adds to their entries. What is the first of theirs may be anything:
    /// what came before it may be erased.
    fn of_subject(
        &mut self,
        id: SubjectId,
        position: Position,
        kind: EntryKind,
        change: impl FnOnce(&mut SubjectRow),
    ) -> Result<(), ViewsError> {
        let entry = EntryRow { position: position.0, kind };
        self.of_owner(row::subject(id), id.as_bytes(), entry, |known| {
            let mut subject = known.unwrap_or_else(|| Owner::new(SubjectRow::default()));
            change(&mut subject.row);
            Some(subject)
        })
    }

    /// Changes the row of a person or a license and adds to its entries. `change` is `None` where the row
    /// cannot be right.
    fn of_owner<R: Serialize + DeserializeOwned>(
        &mut self,
        key: Vec<u8>,
        id: &[u8; 16],
        entry: EntryRow,
        change: impl FnOnce(Option<Owner<R>>) -> Option<Owner<R>>,
    ) -> Result<(), ViewsError> {
        let place = self.rows.bytes(key)?;
        let known = place.as_deref().map(Owner::read).transpose()?;
        let mut owner = change(known).ok_or_else(unreadable)?;
        let page = owner.add(entry)?;
        *place = Some(owner.to_bytes()?);
        self.put_page(id, page)
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
        key: Vec<u8>,
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

    fn put<R: Serialize>(&mut self, key: Vec<u8>, row: &R) -> Result<(), ViewsError> {
        self.rows.newest.insert(key, Some(postcard::to_stdvec(row).map_err(|_| unreadable())?));
        Ok(())
    }

    fn delete(&mut self, key: Vec<u8>) {
        self.rows.newest.insert(key, None);
    }
}
