//! How events change one row. The rows of persons, licenses and activations have most of what happens,
//! and each of them comes of changes to it alone, in the order of their positions. So a change is made at
//! once, or put off until all changes of its row are together ([`later`](super::later)).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ViewsError;
use super::row::{
    self, ActivationRow, EntryKind, EntryRow, LicenseRow, Owner, SubjectRow, unreadable,
};
use super::store::Key;
use crate::domain::{ActivationId, LicenseId, Position, SubjectId};

/// What is stored of a row.
pub(super) trait Stored: Sized {
    fn read(bytes: &[u8]) -> Result<Self, ViewsError>;

    fn to_bytes(&self) -> Result<Vec<u8>, ViewsError>;
}

impl Stored for ActivationRow {
    fn read(bytes: &[u8]) -> Result<Self, ViewsError> {
        row::read(bytes)
    }

    fn to_bytes(&self) -> Result<Vec<u8>, ViewsError> {
        row::to_bytes(self)
    }
}

impl<R: Serialize + DeserializeOwned> Stored for Owner<R> {
    fn read(bytes: &[u8]) -> Result<Self, ViewsError> {
        Self::read(bytes)
    }

    fn to_bytes(&self) -> Result<Vec<u8>, ViewsError> {
        self.to_bytes()
    }
}

/// A row after a change; and the page of its entries that is full by it, if one is.
type Changed<R> = Result<(R, Option<Vec<u8>>), ViewsError>;

/// A row that comes of changes to it alone.
pub(super) trait Fold: Stored {
    /// What an event changes of it.
    type Change: Serialize + DeserializeOwned;

    /// Tells such rows from others; in the order of their keys.
    const KIND: u8;

    /// Where the row is that belongs to this id.
    fn key(id: [u8; 16]) -> Key;

    /// Whether the row begins with this change, whatever it was before.
    fn begins(change: &Self::Change) -> bool;

    /// Makes a change.
    fn fold(known: Option<Self>, position: Position, change: Self::Change) -> Changed<Self>;
}

#[derive(Serialize, Deserialize)]
pub(super) enum ActivationChange {
    Begun { license: [u8; 16] },
    Ended,
}

impl Fold for ActivationRow {
    type Change = ActivationChange;

    const KIND: u8 = 0;

    fn key(id: [u8; 16]) -> Key {
        row::activation(ActivationId::from_bytes(id))
    }

    fn begins(change: &ActivationChange) -> bool {
        matches!(change, ActivationChange::Begun { .. })
    }

    fn fold(known: Option<Self>, position: Position, change: ActivationChange) -> Changed<Self> {
        let row = match change {
            ActivationChange::Begun { license } => {
                Self { license, activated: position.0, ended: None }
            }
            ActivationChange::Ended => {
                Self { ended: Some(position.0), ..known.ok_or_else(unreadable)? }
            }
        };
        Ok((row, None))
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum LicenseChange {
    /// Issued, or kept under a new key. Its entries begin behind it.
    Issued {
        subject: [u8; 16],
        product: String,
        status: u8,
    },
    /// A seat was taken, with this activation.
    Activated {
        activation: [u8; 16],
    },
    /// A seat is free again.
    Deactivated,
    Status(u8),
}

impl Fold for Owner<LicenseRow> {
    type Change = LicenseChange;

    const KIND: u8 = 1;

    fn key(id: [u8; 16]) -> Key {
        row::license(LicenseId::from_bytes(id))
    }

    fn begins(change: &LicenseChange) -> bool {
        matches!(change, LicenseChange::Issued { .. })
    }

    fn fold(known: Option<Self>, position: Position, change: LicenseChange) -> Changed<Self> {
        let known = known.ok_or_else(unreadable);
        let (mut license, kind) = match change {
            LicenseChange::Issued { subject, product, status } => {
                let issued = position.0;
                let (used, activations) = (0, 0);
                let row = LicenseRow { subject, issued, status, used, activations, product };
                return Ok((Self::new(row), None));
            }
            LicenseChange::Activated { activation } => {
                let mut license = known?;
                let LicenseRow { activations, used, .. } = &mut license.row;
                *activations = activations.checked_add(1).ok_or_else(unreadable)?;
                *used = used.checked_add(1).ok_or_else(unreadable)?;
                (license, EntryKind::Activated { activation })
            }
            LicenseChange::Deactivated => {
                let mut license = known?;
                let used = license.row.used.checked_sub(1);
                license.row.used = used.ok_or_else(unreadable)?;
                (license, EntryKind::Other)
            }
            LicenseChange::Status(status) => {
                let mut license = known?;
                license.row.status = status;
                (license, EntryKind::Other)
            }
        };
        let page = license.add(EntryRow { position: position.0, kind })?;
        Ok((license, page))
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum SubjectChange {
    Email,
    Name,
    Restricted(bool),
    Held(bool),
    /// Nothing but an entry.
    Entry(EntryKind),
}

impl Fold for Owner<SubjectRow> {
    type Change = SubjectChange;

    const KIND: u8 = 2;

    fn key(id: [u8; 16]) -> Key {
        row::subject(SubjectId::from_bytes(id))
    }

    fn begins(_: &SubjectChange) -> bool {
        false
    }

    /// What is the first of theirs may be anything: what came before it may be erased.
    fn fold(known: Option<Self>, position: Position, change: SubjectChange) -> Changed<Self> {
        let mut subject = known.unwrap_or_else(|| Self::new(SubjectRow::default()));
        let mut kind = EntryKind::Other;
        match change {
            SubjectChange::Email => subject.row.email = Some(position.0),
            SubjectChange::Name => subject.row.name = Some(position.0),
            SubjectChange::Restricted(holds) => subject.row.restricted = holds,
            SubjectChange::Held(holds) => subject.row.held = holds,
            SubjectChange::Entry(entry) => kind = entry,
        }
        let page = subject.add(EntryRow { position: position.0, kind })?;
        Ok((subject, page))
    }
}
