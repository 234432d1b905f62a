//! The views: what the log says, arranged for questions. Disposable: whatever is wrong with them,
//! they are deleted and built again from the log.
//!
//! They live in an engine of their own, whose syncs no request waits for. What a killed process
//! wrote is still in the kernel's hands, but after a power cut any part of it may be missing. So views
//! are believed only if they were closed in order, or were written since this machine's last boot.
//!
//! The newest rows wait in memory until there are enough for a batch: many of them are changed again and
//! again. They are lost with a killed process; the log has them.

mod changes;
mod fold;
mod later;
mod layers;
mod row;
mod store;
mod whole;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::de::DeserializeOwned;

use crate::domain::{
    Activation, ActivationId, Counts, Day, ErasureId, Event, LicenseId, NoticeId, Position,
    Product, RequestId, Status, Subject, SubjectId,
};
use crate::log::record::RecordHash;
use changes::Changes;
use layers::{NOT_WRITTEN, Recent};
use row::{
    ActivationRow, CheckpointRow, CountsRow, EntryKind, EntryRow, ErasureRow, LicenseRow,
    NoticeRow, Owner, RequestRow, SCHEMA, SubjectRow, read, read_entry_rows, unreadable,
};
use store::Store;

pub use changes::IsErased;
pub use whole::Whole;

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position to go on from.
    pub next: Position,
    /// The hash of the record before it; zeros where there is none.
    pub last: RecordHash,
}

/// The views of one log.
pub struct Views {
    store: Arc<Store>,
    /// Rows that are newer than those in `store`. Who reads both holds the lock, so that no row is seen
    /// twice or missed while they move.
    recent: RwLock<Recent>,
    directory: PathBuf,
}

/// Says during which boot the views were written, or that they were closed in order.
const TRUST: &str = "trust";
const CLOSED: &str = "closed";

impl Views {
    /// Opens the views in a directory, or new and empty ones where there are none. What cannot be
    /// believed is an error; then [`Views::delete`] and open again.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, ViewsError> {
        let rows = directory.join("rows");
        if directory.join("sled").exists() {
            return Err(ViewsError::Damaged("they have another version's form".to_owned()));
        }
        if rows.exists() {
            let trust = fs::read_to_string(directory.join(TRUST)).unwrap_or_default();
            if trust != CLOSED && Some(trust) != boot_id() {
                return Err(ViewsError::Damaged("they were not closed in order".to_owned()));
            }
        }
        fs::create_dir_all(directory)?;
        // Where the engine ends the process over them, they are not to be opened again.
        write_synced(&directory.join(TRUST), "")?;
        let trust = directory.join(TRUST);
        let distrust = move || {
            // Where this fails too, it is tried again when they are closed.
            let _ = write_synced(&trust, "");
        };
        let store = Arc::new(Store::open(&rows, cache_bytes, distrust)?);
        let views = Self { store, recent: RwLock::default(), directory: directory.to_owned() };
        views.trust()?;
        // Rows of another version are none of this one's.
        views.checkpoint()?;
        Ok(views)
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
        self.write_recent().settle_all(&self.store)?;
        self.store.sync()?;
        if self.store.has_failed() {
            self.distrust()?;
            return Err(ViewsError::Damaged("something could not be read before".to_owned()));
        }
        write_synced(&self.directory.join(TRUST), CLOSED)
    }

    /// Has the views believed at the next start of this boot.
    fn trust(&self) -> Result<(), ViewsError> {
        write_synced(&self.directory.join(TRUST), &boot_id().unwrap_or_default())
    }

    /// Has the views rebuilt at the next start.
    pub fn distrust(&self) -> Result<(), ViewsError> {
        write_synced(&self.directory.join(TRUST), "")
    }

    /// How far they have come.
    pub fn checkpoint(&self) -> Result<Checkpoint, ViewsError> {
        let recent = self.read_recent();
        let Some(row) = recent.layers(&self.store)?.get::<CheckpointRow>(row::CHECKPOINT)? else {
            return Ok(Checkpoint::default());
        };
        if row.schema != SCHEMA {
            return Err(ViewsError::Damaged("they have another version's form".to_owned()));
        }
        Ok(Checkpoint { next: Position(row.next), last: row.last })
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
        let ids = self.read_recent().layers(&self.store)?.ids_below(row::OPEN_REQUESTS)?;
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
        let ids = self.read_recent().layers(&self.store)?.ids_below(row::ERASURES)?;
        Ok(ids.into_iter().map(ErasureId::from_bytes).collect())
    }

    /// The erasures that are not final: to be carried to their end, or to wait for the next epoch.
    pub fn pending_erasures(&self) -> Result<Vec<ErasureId>, ViewsError> {
        let ids = self.read_recent().layers(&self.store)?.ids_below(row::PENDING_ERASURES)?;
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
        let ids = self.read_recent().layers(&self.store)?.ids_below(row::NOTICES)?;
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
        let (first, last) = (row::counts(prefix, first, ""), row::counts(prefix, last, "\u{7F}"));
        let mut days: BTreeMap<Day, ProductCounts> = BTreeMap::new();
        for row in self.read_recent().layers(&self.store)?.range(&first..&last) {
            let (key, value) = row?;
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
        let rows = recent.layers(&self.store)?.range(&row::subject(from)..row::SUBJECTS_END);
        rows.take(limit)
            .map(|row| SubjectId::try_from(&row?.0[1..]).map_err(|_| unreadable()))
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
        self.entries::<SubjectRow>(&row::subject(id), id.as_bytes(), from, limit)
    }

    /// At most `limit` of a license's events from a position on, its issue aside.
    pub fn license_entries(
        &self,
        id: LicenseId,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Entry>, ViewsError> {
        self.entries::<LicenseRow>(&row::license(id), id.as_bytes(), from, limit)
    }

    /// The newest activations of a license, newest first.
    pub fn newest_activations(
        &self,
        id: LicenseId,
        limit: usize,
    ) -> Result<Vec<ActivationId>, ViewsError> {
        let recent = self.read_recent();
        let layers = recent.layers(&self.store)?;
        let Some(bytes) = layers.bytes(&row::license(id))? else { return Ok(Vec::new()) };
        let license = Owner::<LicenseRow>::read(&bytes)?;
        let activated = |entry: Entry| entry.activated;
        let mut newest: Vec<_> = license
            .newest_rows()?
            .into_iter()
            .map(Entry::from)
            .rev()
            .filter_map(activated)
            .collect();
        if newest.len() < limit && license.entries.pages > 0 {
            let (first, end) =
                (row::page(id.as_bytes(), Position::ZERO), row::pages_end(id.as_bytes()));
            for page in layers.range_back(&first..&end) {
                newest.extend(read_page(&page?.1)?.rev().filter_map(activated));
                if newest.len() >= limit {
                    break;
                }
            }
        }
        newest.truncate(limit);
        Ok(newest)
    }

    fn entries<R: DeserializeOwned>(
        &self,
        key: &[u8],
        id: &[u8; 16],
        from: Position,
        limit: usize,
    ) -> Result<Vec<Entry>, ViewsError> {
        let recent = self.read_recent();
        let layers = recent.layers(&self.store)?;
        let Some(bytes) = layers.bytes(key)? else { return Ok(Vec::new()) };
        let owner = Owner::<R>::read(&bytes)?;
        let mut newest = owner.newest_rows()?.into_iter().map(Entry::from).peekable();
        let mut entries = Vec::new();
        if owner.entries.pages > 0 && newest.peek().is_none_or(|first| from < first.position) {
            // The page that `from` is in begins at it or before.
            let mut first = row::page(id, from);
            let before = layers.range_back(&row::page(id, Position::ZERO)..&first).next();
            if let Some((key, _)) = before.transpose()? {
                first = key;
            }
            for page in layers.range(&first..&row::pages_end(id)) {
                entries.extend(read_page(&page?.1)?.filter(|entry| entry.position >= from));
                if entries.len() >= limit {
                    break;
                }
            }
        }
        entries.extend(newest.filter(|entry| entry.position >= from));
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
        let mut changes = Changes::new(recent.changes(&self.store)?, is_erased);
        let changed = events
            .into_iter()
            .try_for_each(|(position, event)| changes.apply(position, event))
            .and_then(|()| changes.checkpoint(end));
        match changed {
            Ok(()) => recent.settle(&self.store),
            Err(error) => {
                recent.fail(NOT_WRITTEN);
                Err(error)
            }
        }
    }

    fn is_empty(&self) -> Result<bool, ViewsError> {
        let first = self.read_recent().layers(&self.store)?.range(row::ALL).next().transpose()?;
        Ok(first.is_none())
    }

    fn read_recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_recent(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, ViewsError> {
        self.read_recent().layers(&self.store)?.get(key)
    }
}

fn read_page(bytes: &[u8]) -> Result<impl DoubleEndedIterator<Item = Entry>, ViewsError> {
    Ok(read_entry_rows(bytes)?.into_iter().map(Entry::from))
}

impl From<EntryRow> for Entry {
    fn from(row: EntryRow) -> Self {
        let (issued, activated) = match row.kind {
            EntryKind::Issued { license } => (Some(LicenseId::from_bytes(license)), None),
            EntryKind::Activated { activation } => {
                (None, Some(ActivationId::from_bytes(activation)))
            }
            EntryKind::Requested { .. } | EntryKind::Disclosed | EntryKind::Other => (None, None),
        };
        let disclosed = matches!(row.kind, EntryKind::Disclosed);
        Self { position: Position(row.position), issued, activated, disclosed }
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
