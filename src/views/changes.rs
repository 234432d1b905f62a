//! How events change the rows.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sled::Db;

use super::row::{
    self, ActivationRow, CheckpointRow, EntryKind, EntryRow, LicenseRow, PagesRow, SCHEMA,
    SubjectRow,
};
use super::{Checkpoint, Rows, ViewsError, get, read_bytes, unreadable};
use crate::domain::{Event, LicenseId, Position, Status, SubjectId};

/// How many entries a page has. sled's cost is by the row, so that a row for each entry would make
/// up half of what an activation costs the views; longer pages would be rewritten for too long.
pub(super) const PAGE_ENTRIES: u8 = 32;

/// The rows as events change them: the recent ones, above those on disk.
pub(super) struct Changes<'a> {
    db: &'a Db,
    rows: &'a mut Rows,
}

impl<'a> Changes<'a> {
    pub(super) fn new(db: &'a Db, rows: &'a mut Rows) -> Self {
        Self { db, rows }
    }

    pub(super) fn apply(&mut self, position: Position, event: &Event) -> Result<(), ViewsError> {
        match event {
            Event::SubjectRegistered { subject, .. } => {
                let row = SubjectRow { registered: position.0, pages: PagesRow::default() };
                self.put(row::subject(*subject), &row)?;
                self.of_subject(*subject, position, EntryKind::Registered)
            }
            Event::LicenseIssued { license, subject, .. } => {
                let row = LicenseRow {
                    subject: *subject.as_bytes(),
                    issued: position.0,
                    status: row::status_to_row(Status::Active),
                    used: 0,
                    activations: 0,
                    pages: PagesRow::default(),
                };
                self.put(row::license(*license), &row)?;
                let kind = EntryKind::Issued { license: *license.as_bytes() };
                self.of_subject(*subject, position, kind)
            }
            Event::Activated { license, activation, .. } => {
                let row = ActivationRow {
                    license: *license.as_bytes(),
                    activated: position.0,
                    ended: None,
                };
                self.put(row::activation(*activation), &row)?;
                let kind = EntryKind::Activated { activation: *activation.as_bytes() };
                self.of_license(*license, position, kind, |row| {
                    row.activations += 1;
                    row.used = row.used.checked_add(1)?;
                    Some(())
                })
            }
            Event::Deactivated { license, activation, .. } => {
                let mut row: ActivationRow = self.row(&row::activation(*activation))?;
                row.ended = Some(position.0);
                self.put(row::activation(*activation), &row)?;
                self.of_license(*license, position, EntryKind::Deactivated, |row| {
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
                self.of_subject(*subject, position, EntryKind::Access)
            }
        }
    }

    pub(super) fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), ViewsError> {
        let Checkpoint { next, last } = checkpoint;
        let row = CheckpointRow { schema: SCHEMA, next: next.0, last };
        self.put(row::CHECKPOINT.to_vec(), &row)
    }

    fn status(
        &mut self,
        license: LicenseId,
        position: Position,
        status: Status,
    ) -> Result<(), ViewsError> {
        self.of_license(license, position, EntryKind::Changed, |row| {
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
        let mut row: LicenseRow = self.row(&row::license(id))?;
        change(&mut row).ok_or_else(unreadable)?;
        self.entry(id.as_bytes(), &mut row.pages, position, kind)?;
        self.put(row::license(id), &row)
    }

    fn of_subject(
        &mut self,
        id: SubjectId,
        position: Position,
        kind: EntryKind,
    ) -> Result<(), ViewsError> {
        let mut row: SubjectRow = self.row(&row::subject(id))?;
        self.entry(id.as_bytes(), &mut row.pages, position, kind)?;
        self.put(row::subject(id), &row)
    }

    /// Adds to the newest page, or begins one.
    fn entry(
        &mut self,
        owner: &[u8; 16],
        pages: &mut PagesRow,
        position: Position,
        kind: EntryKind,
    ) -> Result<(), ViewsError> {
        let page = match pages.entries {
            0 | PAGE_ENTRIES => {
                *pages = PagesRow { newest: position.0, entries: 0 };
                Vec::new()
            }
            _ => {
                let newest = row::page(owner, Position(pages.newest));
                read_bytes(self.rows, self.db, &newest)?.ok_or_else(unreadable)?
            }
        };
        pages.entries += 1;
        let row = EntryRow { position: position.0, kind };
        let page = postcard::to_extend(&row, page).map_err(|_| unreadable())?;
        self.rows.insert(row::page(owner, Position(pages.newest)), page);
        Ok(())
    }

    /// The log names nothing that it did not introduce, so a row that is not there was lost.
    fn row<R: DeserializeOwned>(&self, key: &[u8]) -> Result<R, ViewsError> {
        get(self.rows, self.db, key)?.ok_or_else(unreadable)
    }

    fn put<R: Serialize>(&mut self, key: Vec<u8>, row: &R) -> Result<(), ViewsError> {
        self.rows.insert(key, postcard::to_stdvec(row).map_err(|_| unreadable())?);
        Ok(())
    }
}
