//! The views: what the log says, arranged for questions. Disposable: whatever is wrong with them,
//! they are deleted and built again from the log.
//!
//! They live in a sled of their own and are never synced while they serve. What a killed process
//! wrote is still in the kernel's hands, but after a power cut any part of it may be missing, and
//! sled does not always tell. So views are believed only if they were closed in order, or were
//! written since this machine's last boot.
//!
//! A batch costs sled two writes and two syncs, however small. So the newest rows wait in memory
//! until there are enough for a batch, and are lost with a killed process: the log has them.

mod changes;
mod known;
mod row;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::de::DeserializeOwned;
use sled::{Batch, Db, IVec};

use crate::domain::{
    Activation, ActivationId, Counts, Day, ErasureId, Event, LicenseId, NoticeId, Position,
    Product, RequestId, Status, Subject, SubjectId,
};
use crate::log::LogError;
use crate::log::record::RecordHash;
use crate::log::sled::{Contained, open_contained, plain};
use changes::{Changes, PAGE_ENTRIES};
use known::Known;
use row::{
    ActivationRow, CheckpointRow, CountsRow, EntryKind, EntryRow, ErasureRow, LicenseRow,
    NoticeRow, RequestRow, SCHEMA, SubjectRow,
};

pub use changes::IsErased;

/// The views cannot be read or written. They can be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum ViewsError {
    /// The disk, or what lies between it and us.
    #[error("the views cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// Their files are damaged.
    #[error("the views are damaged: {0}")]
    Damaged(String),
}

/// What the views know of a license; its terms are in its record.
#[derive(Debug, Clone, Copy)]
pub struct LicenseView {
    /// Whose it is.
    pub subject: SubjectId,
    /// The position of its issue.
    pub issued: Position,
    /// Whether it may be used.
    pub status: Status,
    /// Seats in use.
    pub used: u32,
    /// Activations in all, ended ones included.
    pub activations: u64,
}

/// One event of a person or of a license.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// The license it issued, where it did.
    pub issued: Option<LicenseId>,
    /// The activation that began with it, where one did.
    pub activated: Option<ActivationId>,
    /// Whether a recipient got data.
    pub disclosed: bool,
}

/// What the views know of a notice that has not come to its end.
#[derive(Debug, Clone, Copy)]
pub struct NoticeView {
    /// Whose data it is about.
    pub subject: SubjectId,
    /// Where it was created.
    pub created: Position,
}

/// How much happened with each product.
pub type ProductCounts = Vec<(Product, Counts)>;

/// What the views know of a request; what was asked is in its record.
#[derive(Debug, Clone)]
pub struct RequestView {
    /// Whose.
    pub subject: SubjectId,
    /// Where it was opened.
    pub opened: Position,
    /// Its steps, oldest first.
    pub steps: Vec<Position>,
}

/// What the views know of an erasure.
#[derive(Debug, Clone, Copy)]
pub struct ErasureView {
    /// Whose data.
    pub subject: SubjectId,
    /// Where it began.
    pub begun: Position,
    /// Where it ended. `None`: it is to be carried to its end.
    pub erased: Option<Position>,
    /// Where the next epoch began.
    pub is_final: Option<Position>,
}

/// How far the views have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position to go on from.
    pub next: Position,
    /// The hash of the record before it; zeros where there is none.
    pub last: RecordHash,
}

/// The views of one log.
pub struct Views {
    /// Of `db`, which it must not outlive.
    known: Known,
    db: Contained,
    /// Rows that are newer than `db`. Who reads both holds the lock, so that no row is seen twice or
    /// missed while they move.
    recent: RwLock<Rows>,
    directory: PathBuf,
}

/// `None`: deleted.
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The keys of an owner's pages.
struct Pages {
    on_disk: Range<Vec<u8>>,
    in_memory: Range<Vec<u8>>,
}

impl Pages {
    /// From the first that is in memory on, all are: only the newest page ever changes, or all do.
    fn of(owner: &[u8; 16], recent: &Rows) -> Self {
        let (first, end) = (row::page(owner, Position::ZERO), row::pages_end(owner));
        let in_memory = recent.range(first.clone()..end.clone()).next();
        let border = in_memory.map_or_else(|| end.clone(), |(key, _)| key.clone());
        Self { on_disk: first..border.clone(), in_memory: border..end }
    }
}

/// How many rows wait in memory. The longer they wait, the more of them are changed again before they
/// move; but while they move, some milliseconds for so many, activations wait.
const RECENT_ROWS: usize = 2048;

/// Says during which boot the views were written, or that they were closed in order.
const TRUST: &str = "trust";
const CLOSED: &str = "closed";

impl Views {
    /// Opens the views in a directory, or new and empty ones where there are none. What cannot be
    /// believed is an error; then [`Views::delete`] and open again.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, ViewsError> {
        Self::open_for(directory, cache_bytes, Position::ZERO)
    }

    /// The same, for a log that has come to `head`, which they are to catch up with.
    pub fn open_for(
        directory: &Path,
        cache_bytes: u64,
        head: Position,
    ) -> Result<Self, ViewsError> {
        let store = directory.join("sled");
        let boot = boot_id();
        if store.exists() {
            let trust = fs::read_to_string(directory.join(TRUST)).unwrap_or_default();
            if trust != CLOSED && Some(trust) != boot {
                return Err(ViewsError::Damaged("they were not closed in order".to_owned()));
            }
        }
        fs::create_dir_all(directory)?;
        write_synced(&directory.join(TRUST), boot.as_deref().unwrap_or_default())?;
        let config =
            sled::Config::new().path(store).cache_capacity(cache_bytes).flush_every_ms(None);
        let db = open_contained(&config).map_err(|error| match error {
            LogError::Io(error) => ViewsError::Io(error),
            LogError::Engine(text) => ViewsError::Damaged(text),
            other => ViewsError::Damaged(other.to_string()),
        })?;
        let known = Known::of(&db, checkpoint(&Rows::new(), &db)?.next.0, head.0);
        Ok(Self { known, db, recent: RwLock::default(), directory: directory.to_owned() })
    }

    /// Deletes the views in a directory.
    pub fn delete(directory: &Path) -> io::Result<()> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the views durable, so that they are believed at the next start, even after a power cut.
    pub fn close(&self) -> Result<(), ViewsError> {
        self.settle(&mut self.write_recent())?;
        self.db.flush().map_err(engine)?;
        fs::File::open(self.directory.join("sled/db"))?.sync_all()?;
        write_synced(&self.directory.join(TRUST), CLOSED)
    }

    /// Whether both hold the same, row for row.
    pub fn same_as(&self, other: &Self) -> Result<bool, ViewsError> {
        for views in [self, other] {
            views.settle(&mut views.write_recent())?;
        }
        let mut theirs = other.db.iter();
        for ours in self.db.iter() {
            let ours = ours.map_err(engine)?;
            match theirs.next().transpose().map_err(engine)? {
                Some(theirs) if theirs == ours => {}
                _ => return Ok(false),
            }
        }
        Ok(theirs.next().is_none())
    }

    /// Has the views rebuilt at the next start.
    pub fn distrust(&self) -> Result<(), ViewsError> {
        write_synced(&self.directory.join(TRUST), "")
    }

    /// How far they have come.
    pub fn checkpoint(&self) -> Result<Checkpoint, ViewsError> {
        checkpoint(&self.read_recent(), &self.db)
    }

    /// What is known of a person.
    pub fn subject(&self, id: SubjectId) -> Result<Option<Subject>, ViewsError> {
        let row = self.get::<SubjectRow>(&row::subject(id))?;
        Ok(row.map(|row| Subject {
            email: row.email.map(Position),
            name: row.name.map(Position),
            restricted: row.restricted,
            held: row.held,
        }))
    }

    /// What is known of a request.
    pub fn request(&self, id: RequestId) -> Result<Option<RequestView>, ViewsError> {
        let row = self.get::<RequestRow>(&row::request(id))?;
        Ok(row.map(|row| RequestView {
            subject: SubjectId::from_bytes(row.subject),
            opened: Position(row.opened),
            steps: row.steps.into_iter().map(Position).collect(),
        }))
    }

    /// The requests that are neither fulfilled nor refused.
    pub fn open_requests(&self) -> Result<Vec<RequestId>, ViewsError> {
        let ids = ids_below(&self.read_recent(), &self.db, row::OPEN_REQUESTS)?;
        Ok(ids.into_iter().map(RequestId::from_bytes).collect())
    }

    /// What is known of an erasure.
    pub fn erasure(&self, id: ErasureId) -> Result<Option<ErasureView>, ViewsError> {
        let row = self.get::<ErasureRow>(&row::erasure(id))?;
        Ok(row.map(|row| ErasureView {
            subject: SubjectId::from_bytes(row.subject),
            begun: Position(row.begun),
            erased: row.erased.map(Position),
            is_final: row.is_final.map(Position),
        }))
    }

    /// Every erasure that there was, in no order.
    pub fn erasures(&self) -> Result<Vec<ErasureId>, ViewsError> {
        let ids = ids_below(&self.read_recent(), &self.db, row::ERASURES)?;
        Ok(ids.into_iter().map(ErasureId::from_bytes).collect())
    }

    /// The erasures that are not final: to be carried to their end, or to wait for the next epoch.
    pub fn pending_erasures(&self) -> Result<Vec<ErasureId>, ViewsError> {
        let ids = ids_below(&self.read_recent(), &self.db, row::PENDING_ERASURES)?;
        Ok(ids.into_iter().map(ErasureId::from_bytes).collect())
    }

    /// What is known of a notice; `None`: it has come to its end.
    pub fn notice(&self, id: NoticeId) -> Result<Option<NoticeView>, ViewsError> {
        let row = self.get::<NoticeRow>(&row::notice(id))?;
        Ok(row.map(|row| NoticeView {
            subject: SubjectId::from_bytes(row.subject),
            created: Position(row.created),
        }))
    }

    /// The notices that have not come to their end.
    pub fn notices(&self) -> Result<Vec<NoticeId>, ViewsError> {
        let ids = ids_below(&self.read_recent(), &self.db, row::NOTICES)?;
        Ok(ids.into_iter().map(NoticeId::from_bytes).collect())
    }

    /// What happened on which day that no event states yet.
    pub fn uncounted_days(&self) -> Result<BTreeMap<Day, ProductCounts>, ViewsError> {
        self.days(row::UNCOUNTED, Day(i32::MIN)..=Day(i32::MAX))
    }

    /// What happened on these days, as events state it.
    pub fn counted_days(
        &self,
        days: RangeInclusive<Day>,
    ) -> Result<BTreeMap<Day, ProductCounts>, ViewsError> {
        self.days(row::COUNTED, days)
    }

    fn days(
        &self,
        prefix: &[u8],
        days: RangeInclusive<Day>,
    ) -> Result<BTreeMap<Day, ProductCounts>, ViewsError> {
        if days.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (first, last) = days.into_inner();
        let range = row::counts(prefix, first, "")..row::counts(prefix, last, "\u{7F}");
        let mut days: BTreeMap<Day, ProductCounts> = BTreeMap::new();
        for (key, value) in read_rows(&self.read_recent(), &self.db, range)? {
            let (day, product) = row::day_and_product(prefix, &key).ok_or_else(unreadable)?;
            let product = Product::parse(product).map_err(|_| unreadable())?;
            let CountsRow { licenses, activations, license_persons, activation_persons } =
                read(&value)?;
            let counts = Counts { licenses, activations, license_persons, activation_persons };
            days.entry(day).or_default().push((product, counts));
        }
        Ok(days)
    }

    /// The vault's epoch, as far as the log tells.
    pub fn epoch(&self) -> Result<u32, ViewsError> {
        Ok(self.get(row::EPOCH)?.unwrap_or(1))
    }

    /// Persons from an id on, at most `limit`, and fewer only where there are no more.
    pub fn subjects(&self, from: SubjectId, limit: usize) -> Result<Vec<SubjectId>, ViewsError> {
        let recent = self.read_recent();
        let (first, end) = (row::subject(from), row::subject(SubjectId::from_bytes([0xFF; 16])));
        let mut ids: BTreeSet<Vec<u8>> = BTreeSet::new();
        for key in self.db.range(first.clone()..=end.clone()).keys() {
            let key = key.map_err(engine)?.to_vec();
            // What is in memory may be that it is deleted.
            if !recent.contains_key(&key) {
                ids.insert(key);
            }
            if ids.len() == limit {
                break;
            }
        }
        let in_memory = recent.range(first..=end).filter(|(_, row)| row.is_some());
        ids.extend(in_memory.take(limit).map(|(key, _)| key.clone()));
        ids.into_iter()
            .take(limit)
            .map(|key| SubjectId::try_from(&key[1..]).map_err(|_| unreadable()))
            .collect()
    }

    /// What is known of a license.
    pub fn license(&self, id: LicenseId) -> Result<Option<LicenseView>, ViewsError> {
        let Some(row) = self.get::<LicenseRow>(&row::license(id))? else { return Ok(None) };
        let status = row::status_from_row(row.status).ok_or_else(unreadable)?;
        Ok(Some(LicenseView {
            subject: SubjectId::from_bytes(row.subject),
            issued: Position(row.issued),
            status,
            used: row.used,
            activations: row.activations,
        }))
    }

    /// What is known of an activation.
    pub fn activation(&self, id: ActivationId) -> Result<Option<Activation>, ViewsError> {
        if !self.known.may_have(id) {
            return Ok(None);
        }
        let row = self.get::<ActivationRow>(&row::activation(id))?;
        Ok(row.map(|row| Activation {
            license: LicenseId::from_bytes(row.license),
            activated: Position(row.activated),
            ended: row.ended.map(Position),
        }))
    }

    /// At most `limit` of a person's own events from a position on: their registration, their
    /// licenses' issue, and each access.
    pub fn subject_entries(
        &self,
        id: SubjectId,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Entry>, ViewsError> {
        self.entries(id.as_bytes(), from, limit)
    }

    /// At most `limit` of a license's events from a position on, its issue aside.
    pub fn license_entries(
        &self,
        id: LicenseId,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Entry>, ViewsError> {
        self.entries(id.as_bytes(), from, limit)
    }

    /// The newest activations of a license, newest first.
    pub fn newest_activations(
        &self,
        id: LicenseId,
        limit: usize,
    ) -> Result<Vec<ActivationId>, ViewsError> {
        let recent = self.read_recent();
        let pages = Pages::of(id.as_bytes(), &recent);
        let newer = recent.range(pages.in_memory).rev();
        let newer = newer.filter_map(|(_, page)| page.as_deref()).map(read_page);
        let older = self.db.range(pages.on_disk).rev().map(read_stored_page);
        let mut newest = Vec::new();
        for page in newer.chain(older) {
            newest.extend(page?.into_iter().rev().filter_map(|entry| entry.activated));
            if newest.len() >= limit {
                break;
            }
        }
        newest.truncate(limit);
        Ok(newest)
    }

    fn entries(
        &self,
        owner: &[u8; 16],
        from: Position,
        limit: usize,
    ) -> Result<Vec<Entry>, ViewsError> {
        let recent = self.read_recent();
        let Pages { mut on_disk, mut in_memory } = Pages::of(owner, &recent);
        // The page that `from` is in begins at it or before.
        let until = row::page(owner, from);
        if in_memory.start <= until {
            let mut before = recent.range(in_memory.start.clone()..=until).rev();
            if let Some((page, _)) = before.find(|(_, page)| page.is_some()) {
                in_memory.start.clone_from(page);
            }
            on_disk.end.clone_from(&on_disk.start);
        } else if let Some(page) = self.db.range(on_disk.start.clone()..=until).next_back() {
            on_disk.start = page.map_err(engine)?.0.to_vec();
        }
        let older = self.db.range(on_disk).map(read_stored_page);
        let newer = recent.range(in_memory);
        let newer = newer.filter_map(|(_, page)| page.as_deref()).map(read_page);
        let mut entries = Vec::new();
        for page in older.chain(newer) {
            entries.extend(page?.into_iter().filter(|entry| entry.position >= from));
            if entries.len() >= limit {
                break;
            }
        }
        entries.truncate(limit);
        Ok(entries)
    }

    /// Takes in events that follow the checkpoint, and moves it to `end`, before which there may also
    /// be events that are erased. `last` is the hash of the last record. `is_erased` tells of earlier
    /// positions. After an error the rows are no longer of use.
    pub fn apply<'e>(
        &self,
        events: impl IntoIterator<Item = (Position, &'e Event)>,
        end: Checkpoint,
        is_erased: IsErased<'_>,
    ) -> Result<(), ViewsError> {
        let mut recent = self.write_recent();
        let mut changes = Changes::new(&self.db, &mut recent, &self.known, is_erased);
        for (position, event) in events {
            changes.apply(position, event)?;
        }
        changes.checkpoint(end)?;
        if recent.len() >= RECENT_ROWS { self.settle(&mut recent) } else { Ok(()) }
    }

    /// Moves the recent rows to disk in one atomic batch. The checkpoint is among them.
    fn settle(&self, recent: &mut Rows) -> Result<(), ViewsError> {
        let mut batch = Batch::default();
        for (key, value) in std::mem::take(recent) {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(engine)
    }

    fn read_recent(&self) -> RwLockReadGuard<'_, Rows> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_recent(&self) -> RwLockWriteGuard<'_, Rows> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, ViewsError> {
        get(&self.read_recent(), &self.db, key)
    }
}

fn checkpoint(recent: &Rows, db: &Db) -> Result<Checkpoint, ViewsError> {
    let Some(row) = get::<CheckpointRow>(recent, db, row::CHECKPOINT)? else {
        return Ok(Checkpoint { next: Position::ZERO, last: RecordHash::default() });
    };
    if row.schema != SCHEMA {
        return Err(ViewsError::Damaged("they have another version's form".to_owned()));
    }
    Ok(Checkpoint { next: Position(row.next), last: row.last })
}

fn get<R: DeserializeOwned>(recent: &Rows, db: &Db, key: &[u8]) -> Result<Option<R>, ViewsError> {
    read_bytes(recent, db, key)?.map(|bytes| read(&bytes)).transpose()
}

fn read_bytes(recent: &Rows, db: &Db, key: &[u8]) -> Result<Option<Vec<u8>>, ViewsError> {
    match recent.get(key) {
        Some(bytes) => Ok(bytes.clone()),
        None => Ok(db.get(key).map_err(engine)?.map(|bytes| bytes.to_vec())),
    }
}

fn read_stored_page(row: sled::Result<(IVec, IVec)>) -> Result<Vec<Entry>, ViewsError> {
    read_page(&row.map_err(engine)?.1)
}

fn read_page(bytes: &[u8]) -> Result<Vec<Entry>, ViewsError> {
    let entries = read_entry_rows(bytes)?.into_iter().map(|row| {
        let (issued, activated) = match row.kind {
            EntryKind::Issued { license } => (Some(LicenseId::from_bytes(license)), None),
            EntryKind::Activated { activation } => {
                (None, Some(ActivationId::from_bytes(activation)))
            }
            EntryKind::Requested { .. } | EntryKind::Disclosed | EntryKind::Other => (None, None),
        };
        let disclosed = matches!(row.kind, EntryKind::Disclosed);
        Entry { position: Position(row.position), issued, activated, disclosed }
    });
    Ok(entries.collect())
}

fn read_entry_rows(mut bytes: &[u8]) -> Result<Vec<EntryRow>, ViewsError> {
    let mut entries = Vec::with_capacity(PAGE_ENTRIES.into());
    while !bytes.is_empty() {
        let (row, rest) = postcard::take_from_bytes(bytes).map_err(|_| unreadable())?;
        bytes = rest;
        entries.push(row);
    }
    Ok(entries)
}

/// The rows of a range, the recent ones above those on disk.
fn read_rows(
    recent: &Rows,
    db: &Db,
    range: Range<Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, ViewsError> {
    let mut rows = BTreeMap::new();
    for row in db.range(range.clone()) {
        let (key, value) = row.map_err(engine)?;
        rows.insert(key.to_vec(), value.to_vec());
    }
    for (key, value) in recent.range(range) {
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
    Ok(rows)
}

/// The ids that follow a prefix in the keys of rows.
fn ids_below(recent: &Rows, db: &Db, prefix: &[u8]) -> Result<Vec<[u8; 16]>, ViewsError> {
    let end = [prefix, &[0xFF; 17]].concat();
    let rows = read_rows(recent, db, prefix.to_vec()..end)?;
    rows.into_keys().map(|key| key[prefix.len()..].try_into().map_err(|_| unreadable())).collect()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ViewsError> {
    postcard::from_bytes(bytes).map_err(|_| unreadable())
}

fn unreadable() -> ViewsError {
    ViewsError::Damaged("a row is missing or cannot be read".to_owned())
}

fn engine(error: sled::Error) -> ViewsError {
    match error {
        sled::Error::Io(error) => ViewsError::Io(plain(error)),
        other => ViewsError::Damaged(other.to_string()),
    }
}

fn write_synced(path: &Path, text: &str) -> Result<(), ViewsError> {
    fs::write(path, text)?;
    Ok(fs::File::open(path)?.sync_all()?)
}

/// Names the running kernel's boot; `None` where the system does not tell.
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests;
