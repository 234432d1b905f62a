//! The rows, and the keys they are found by. Ids and positions only: never a tag, an address or a
//! time.

use serde::{Deserialize, Serialize};

use crate::domain::{ActivationId, LicenseId, Position, Status, SubjectId};

/// A change of any row or key. Views of another version are rebuilt.
pub(super) const SCHEMA: u32 = 2;

/// How far the log is in the views.
#[derive(Serialize, Deserialize)]
pub(super) struct CheckpointRow {
    pub(super) schema: u32,
    /// The position to go on from.
    pub(super) next: u64,
    /// The hash of the record before it.
    pub(super) last: [u8; 32],
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct LicenseRow {
    pub(super) subject: [u8; 16],
    pub(super) issued: u64,
    pub(super) status: u8,
    pub(super) used: u32,
    pub(super) activations: u64,
    pub(super) pages: PagesRow,
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct ActivationRow {
    pub(super) license: [u8; 16],
    pub(super) activated: u64,
    pub(super) ended: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SubjectRow {
    pub(super) registered: u64,
    pub(super) pages: PagesRow,
}

/// The pages of an owner's entries: of a person or a license.
#[derive(Serialize, Deserialize, Clone, Default)]
pub(super) struct PagesRow {
    /// The position of the newest page's first entry.
    pub(super) newest: u64,
    /// How many entries the newest page has; none where there is no page.
    pub(super) entries: u8,
}

/// One event of a person or of a license. A page is some of them, one after the other.
#[derive(Serialize, Deserialize)]
pub(super) struct EntryRow {
    pub(super) position: u64,
    pub(super) kind: EntryKind,
}

#[derive(Serialize, Deserialize)]
pub(super) enum EntryKind {
    Registered,
    Issued { license: [u8; 16] },
    Activated { activation: [u8; 16] },
    Deactivated,
    Changed,
    Access,
}

pub(super) const CHECKPOINT: &[u8] = b"c";

pub(super) fn subject(id: SubjectId) -> Vec<u8> {
    [b"s".as_slice(), id.as_bytes()].concat()
}

pub(super) fn license(id: LicenseId) -> Vec<u8> {
    [b"l".as_slice(), id.as_bytes()].concat()
}

pub(super) fn activation(id: ActivationId) -> Vec<u8> {
    [b"a".as_slice(), id.as_bytes()].concat()
}

/// The page of an owner's entries that begins at this position.
pub(super) fn page(owner: &[u8; 16], first: Position) -> Vec<u8> {
    [b"p".as_slice(), owner, &first.0.to_be_bytes()].concat()
}

/// A key after all pages of an owner.
pub(super) fn pages_end(owner: &[u8; 16]) -> Vec<u8> {
    [b"p".as_slice(), owner, &[0xFF; 9]].concat()
}

pub(super) fn status_to_row(status: Status) -> u8 {
    match status {
        Status::Active => 0,
        Status::Suspended => 1,
        Status::Revoked => 2,
    }
}

pub(super) fn status_from_row(status: u8) -> Option<Status> {
    match status {
        0 => Some(Status::Active),
        1 => Some(Status::Suspended),
        2 => Some(Status::Revoked),
        _ => None,
    }
}
