//! The rows, and the keys they are found by. Ids and positions only: never a tag, an address or a
//! time.

use std::iter::once;
use std::ops::{Range, RangeInclusive};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ViewsError;
use super::store::Key;
use crate::domain::{
    ActivationId, Day, ErasureId, LicenseId, NoticeId, Position, RequestId, Status, SubjectId,
};

/// A change of any row or key. Views of another version are rebuilt.
pub(super) const SCHEMA: u32 = 9;

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
    pub(super) product: String,
}

#[derive(Serialize, Deserialize, Clone)]
pub(super) struct ActivationRow {
    pub(super) license: [u8; 16],
    pub(super) activated: u64,
    pub(super) ended: Option<u64>,
}

#[derive(Serialize, Deserialize, Default)]
pub(super) struct SubjectRow {
    pub(super) email: Option<u64>,
    pub(super) name: Option<u64>,
    pub(super) restricted: bool,
    pub(super) held: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct RequestRow {
    pub(super) subject: [u8; 16],
    pub(super) opened: u64,
    /// The positions of its steps, oldest first.
    pub(super) steps: Vec<u64>,
    pub(super) is_closed: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ErasureRow {
    pub(super) subject: [u8; 16],
    pub(super) begun: u64,
    /// Where it ended. `None`: it is to be carried to its end.
    pub(super) erased: Option<u64>,
    /// Where the epoch after it began.
    pub(super) is_final: Option<u64>,
}

/// A notice that has not come to its end.
#[derive(Serialize, Deserialize)]
pub(super) struct NoticeRow {
    pub(super) subject: [u8; 16],
    pub(super) created: u64,
}

/// How much happened on a day with a product.
#[derive(Serialize, Deserialize, Default)]
pub(super) struct CountsRow {
    pub(super) licenses: u32,
    pub(super) activations: u32,
    pub(super) license_persons: u32,
    pub(super) activation_persons: u32,
}

/// How many entries a page has. The engine's cost is by the row, so that a row for each entry would make
/// up half of what an activation costs the views; what is longer would be rewritten for too long.
pub(super) const PAGE_ENTRIES: u8 = 32;

/// The row of a person or a license, whose entries these are. The newest are in the same bytes, behind it:
/// whoever changes the row adds to them. With one more than a page has they become one, a row of its own.
pub(super) struct Owner<R> {
    pub(super) row: R,
    pub(super) entries: EntriesRow,
    /// As in a page.
    pub(super) newest: Vec<u8>,
}

/// What an owner without entries mostly fits into.
const OWNER_BYTES: usize = 64;

/// Where an owner's entries are.
#[derive(Serialize, Deserialize, Clone, Copy, Default)]
pub(super) struct EntriesRow {
    /// So many pages.
    pub(super) pages: u32,
    /// So many that are in no page yet; none only where there is no page.
    pub(super) newest: u8,
}

impl<R> Owner<R> {
    /// One who has no entries.
    pub(super) fn new(row: R) -> Self {
        Self { row, entries: EntriesRow::default(), newest: Vec::new() }
    }

    /// Adds an entry; gives those before it, where they are a page now.
    pub(super) fn add(&mut self, entry: EntryRow) -> Result<Option<Vec<u8>>, ViewsError> {
        let mut page = None;
        if self.entries.newest == PAGE_ENTRIES {
            self.newest_rows()?;
            self.entries.pages = self.entries.pages.checked_add(1).ok_or_else(unreadable)?;
            self.entries.newest = 0;
            page = Some(std::mem::take(&mut self.newest));
        }
        self.entries.newest = self.entries.newest.checked_add(1).ok_or_else(unreadable)?;
        let newest = std::mem::take(&mut self.newest);
        self.newest = postcard::to_extend(&entry, newest).map_err(|_| unreadable())?;
        Ok(page)
    }

    /// The newest entries, as many as it says and in order.
    pub(super) fn newest_rows(&self) -> Result<Vec<EntryRow>, ViewsError> {
        let rows = read_entry_rows(&self.newest)?;
        let is_whole = rows.len() == usize::from(self.entries.newest)
            && rows.is_sorted_by(|one, next| one.position < next.position);
        if is_whole { Ok(rows) } else { Err(unreadable()) }
    }
}

impl<R: DeserializeOwned> Owner<R> {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ViewsError> {
        let ((row, entries), newest): ((R, EntriesRow), _) =
            postcard::take_from_bytes(bytes).map_err(|_| unreadable())?;
        let is_possible = entries.newest <= PAGE_ENTRIES
            && (entries.newest > 0 || entries.pages == 0)
            && (entries.newest == 0) == newest.is_empty();
        if is_possible {
            Ok(Self { row, entries, newest: newest.to_vec() })
        } else {
            Err(unreadable())
        }
    }
}

impl<R: Serialize> Owner<R> {
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ViewsError> {
        let bytes = Vec::with_capacity(OWNER_BYTES + self.newest.len());
        let head = &(&self.row, self.entries);
        let mut bytes = postcard::to_extend(head, bytes).map_err(|_| unreadable())?;
        bytes.extend_from_slice(&self.newest);
        Ok(bytes)
    }
}

/// One event of a person or of a license. A page is some of them, one after the other.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub(super) struct EntryRow {
    pub(super) position: u64,
    pub(super) kind: EntryKind,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
pub(super) enum EntryKind {
    Issued { license: [u8; 16] },
    Activated { activation: [u8; 16] },
    Requested { request: [u8; 16] },
    Disclosed,
    Other,
}

/// Between the first key that there may be and what follows the last.
pub(super) const ALL: std::ops::Range<&[u8]> = b""..b"\xFF";

/// What the keys of most rows begin with, before their id: activations, licenses, pages, persons.
pub(super) const ROWS_OF_MANY: [u8; 4] = *b"alps";

/// The keys of those of one kind whose ids begin with one of these bytes.
pub(super) fn of_many(prefix: u8, firsts: &RangeInclusive<u8>) -> Range<Vec<u8>> {
    // A key with no id behind its prefix, which there should not be, is looked for among the first.
    let start = Some(*firsts.start()).filter(|first| *first > 0);
    let end = firsts.end().checked_add(1);
    let end = end.map_or_else(|| vec![prefix + 1], |next| vec![prefix, next]);
    once(prefix).chain(start).collect()..end
}

/// The keys of all other rows, which lie between those.
pub(super) fn of_few() -> impl Iterator<Item = Range<Vec<u8>>> {
    let starts = once(ALL.start.to_vec()).chain(ROWS_OF_MANY.map(|prefix| vec![prefix + 1]));
    let ends = ROWS_OF_MANY.map(|prefix| vec![prefix]).into_iter().chain(once(ALL.end.to_vec()));
    starts.zip(ends).map(|(start, end)| start..end)
}

pub(super) const CHECKPOINT: &[u8] = b"c";
/// The vault's epoch, as far as the log tells.
pub(super) const EPOCH: &[u8] = b"v";

/// Most keys: none of them is too long for a [`Key`] that has no place of its own.
fn of_id(prefix: u8, id: &[u8; 16]) -> Key {
    let mut key = [prefix; 17];
    key[1..].copy_from_slice(id);
    key.into()
}

pub(super) fn subject(id: SubjectId) -> Key {
    of_id(b's', id.as_bytes())
}

/// A key after those of all persons.
pub(super) const SUBJECTS_END: &[u8] = b"t";

pub(super) fn license(id: LicenseId) -> Key {
    of_id(b'l', id.as_bytes())
}

pub(super) fn activation(id: ActivationId) -> Key {
    of_id(b'a', id.as_bytes())
}

pub(super) fn request(id: RequestId) -> Key {
    of_id(b'r', id.as_bytes())
}

/// Says that a request is still open.
pub(super) fn open_request(id: RequestId) -> Key {
    [OPEN_REQUESTS, id.as_bytes()].concat().into()
}

pub(super) fn erasure(id: ErasureId) -> Key {
    [ERASURES, id.as_bytes()].concat().into()
}

/// Says that an erasure is one of this person's.
pub(super) fn erasure_of(subject: SubjectId, id: ErasureId) -> Key {
    [erasures_of(subject).as_slice(), id.as_bytes()].concat().into()
}

/// What the keys of a person's erasures begin with.
pub(super) fn erasures_of(subject: SubjectId) -> Key {
    of_id(b'x', subject.as_bytes())
}

/// Says that an erasure is not final yet.
pub(super) fn pending_erasure(id: ErasureId) -> Key {
    [PENDING_ERASURES, id.as_bytes()].concat().into()
}

/// A notice that has not come to its end.
pub(super) fn notice(id: NoticeId) -> Key {
    [NOTICES, id.as_bytes()].concat().into()
}

/// The counts of a day and a product.
pub(super) fn counts(prefix: &[u8], day: Day, product: &str) -> Key {
    // With the sign turned, days sort as numbers do.
    let day = (day.0 ^ i32::MIN).to_be_bytes();
    [prefix, &day, product.as_bytes()].concat().into()
}

/// The day and the product of such a key.
pub(super) fn day_and_product<'k>(prefix: &[u8], key: &'k [u8]) -> Option<(Day, &'k str)> {
    let (day, product) = key.strip_prefix(prefix)?.split_first_chunk::<4>()?;
    Some((Day(i32::from_be_bytes(*day) ^ i32::MIN), std::str::from_utf8(product).ok()?))
}

/// What the keys of notices begin with.
pub(super) const NOTICES: &[u8] = b"n";
/// What the keys of counts begin with that no event states yet.
pub(super) const UNCOUNTED: &[u8] = b"du";
/// What the keys of counts begin with that events state.
pub(super) const COUNTED: &[u8] = b"dc";

/// What the keys of who was counted begin with, by what. Such a row is ids, one after the other, no more
/// of them than are told apart: nobody is counted twice.
pub(super) const PERSONS: &[u8] = b"dp";
pub(super) const LICENSE_PERSONS: &[u8] = b"dpl";
pub(super) const ACTIVATION_PERSONS: &[u8] = b"dpa";

/// The persons in such a row.
pub(super) fn persons(row: &[u8]) -> Result<&[[u8; 16]], ViewsError> {
    match row.as_chunks() {
        (persons, []) => Ok(persons),
        _ => Err(unreadable()),
    }
}

/// The length of a row of so many persons.
pub(super) const fn persons_bytes(count: u32) -> usize {
    count as usize * size_of::<[u8; 16]>()
}

/// What the keys of erasures begin with.
pub(super) const ERASURES: &[u8] = b"e";
/// What the keys of open requests begin with.
pub(super) const OPEN_REQUESTS: &[u8] = b"or";
/// What the keys of erasures that are not final begin with.
pub(super) const PENDING_ERASURES: &[u8] = b"oe";

/// The page of an owner's entries that begins at this position.
pub(super) fn page(owner: &[u8; 16], first: Position) -> Key {
    [b"p".as_slice(), owner, &first.0.to_be_bytes()].concat().into()
}

/// A key after all pages of an owner.
pub(super) fn pages_end(owner: &[u8; 16]) -> Key {
    [b"p".as_slice(), owner, &[0xFF; 9]].concat().into()
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

/// The entries of a page.
pub(super) fn read_entry_rows(mut bytes: &[u8]) -> Result<Vec<EntryRow>, ViewsError> {
    let mut entries = Vec::with_capacity(PAGE_ENTRIES.into());
    while !bytes.is_empty() {
        let (row, rest) = postcard::take_from_bytes(bytes).map_err(|_| unreadable())?;
        bytes = rest;
        entries.push(row);
    }
    Ok(entries)
}

/// The page of an owner that these entries are.
pub(super) fn page_of(owner: &[u8; 16], entries: &[u8]) -> Result<Key, ViewsError> {
    let (first, _) = postcard::take_from_bytes::<EntryRow>(entries).map_err(|_| unreadable())?;
    Ok(page(owner, Position(first.position)))
}

/// Reads a row.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ViewsError> {
    postcard::from_bytes(bytes).map_err(|_| unreadable())
}

/// The bytes that [`read`] reads.
pub(super) fn to_bytes<T: Serialize>(row: &T) -> Result<Vec<u8>, ViewsError> {
    postcard::to_stdvec(row).map_err(|_| unreadable())
}

/// Why a row cannot be what was written.
pub(super) fn unreadable() -> ViewsError {
    ViewsError::Damaged("a row is missing or cannot be read".to_owned())
}
