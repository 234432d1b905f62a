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
mod row;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::de::DeserializeOwned;
use sled::{Batch, Db, IVec};

use crate::domain::{
    Activation, ActivationId, Event, LicenseId, Position, Status, Subject, SubjectId,
};
use crate::log::LogError;
use crate::log::record::RecordHash;
use crate::log::sled::{open_contained, plain};
use changes::{Changes, PAGE_ENTRIES};
use row::{ActivationRow, CheckpointRow, EntryKind, EntryRow, LicenseRow, SCHEMA, SubjectRow};

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
    db: Db,
    /// Rows that are newer than `db`. Who reads both holds the lock, so that no row is seen twice or
    /// missed while they move.
    recent: RwLock<Rows>,
    directory: PathBuf,
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The keys of an owner's pages.
struct Pages {
    on_disk: Range<Vec<u8>>,
    in_memory: Range<Vec<u8>>,
}

impl Pages {
    /// From the first that is in memory on, all are: only the newest page ever changes.
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
        let recent = RwLock::default();
        let views = Self { db, recent, directory: directory.to_owned() };
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
        self.settle(&mut self.write_recent())?;
        self.db.flush().map_err(engine)?;
        fs::File::open(self.directory.join("sled/db"))?.sync_all()?;
        write_synced(&self.directory.join(TRUST), CLOSED)
    }

    /// Has the views rebuilt at the next start.
    pub fn distrust(&self) -> Result<(), ViewsError> {
        write_synced(&self.directory.join(TRUST), "")
    }

    /// How far they have come.
    pub fn checkpoint(&self) -> Result<Checkpoint, ViewsError> {
        let Some(row) = self.get::<CheckpointRow>(row::CHECKPOINT)? else {
            return Ok(Checkpoint { next: Position::ZERO, last: RecordHash::default() });
        };
        if row.schema != SCHEMA {
            return Err(ViewsError::Damaged("they have another version's form".to_owned()));
        }
        Ok(Checkpoint { next: Position(row.next), last: row.last })
    }

    /// What is known of a person.
    pub fn subject(&self, id: SubjectId) -> Result<Option<Subject>, ViewsError> {
        let row = self.get::<SubjectRow>(&row::subject(id))?;
        Ok(row.map(|row| Subject { registered: Position(row.registered) }))
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
        let newer = recent.range(pages.in_memory).rev().map(|(_, page)| read_page(page));
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
            if let Some((page, _)) = recent.range(in_memory.start.clone()..=until).next_back() {
                in_memory.start.clone_from(page);
            }
            on_disk.end.clone_from(&on_disk.start);
        } else if let Some(page) = self.db.range(on_disk.start.clone()..=until).next_back() {
            on_disk.start = page.map_err(engine)?.0.to_vec();
        }
        let older = self.db.range(on_disk).map(read_stored_page);
        let newer = recent.range(in_memory).map(|(_, page)| read_page(page));
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

    /// Takes in events that follow the checkpoint, and moves it. `last` is the hash of the last
    /// one's record. After an error the rows are no longer of use.
    pub fn apply<'e>(
        &self,
        events: impl IntoIterator<Item = (Position, &'e Event)>,
        last: RecordHash,
    ) -> Result<(), ViewsError> {
        let mut recent = self.write_recent();
        let mut changes = Changes::new(&self.db, &mut recent);
        let mut end = None;
        for (position, event) in events {
            changes.apply(position, event)?;
            end = Some(position);
        }
        let Some(end) = end else { return Ok(()) };
        changes.checkpoint(Checkpoint { next: end.plus(1), last })?;
        if recent.len() >= RECENT_ROWS { self.settle(&mut recent) } else { Ok(()) }
    }

    /// Moves the recent rows to disk in one atomic batch. The checkpoint is among them.
    fn settle(&self, recent: &mut Rows) -> Result<(), ViewsError> {
        let mut batch = Batch::default();
        for (key, value) in std::mem::take(recent) {
            batch.insert(key, value);
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

fn get<R: DeserializeOwned>(recent: &Rows, db: &Db, key: &[u8]) -> Result<Option<R>, ViewsError> {
    read_bytes(recent, db, key)?.map(|bytes| read(&bytes)).transpose()
}

fn read_bytes(recent: &Rows, db: &Db, key: &[u8]) -> Result<Option<Vec<u8>>, ViewsError> {
    match recent.get(key) {
        Some(bytes) => Ok(Some(bytes.clone())),
        None => Ok(db.get(key).map_err(engine)?.map(|bytes| bytes.to_vec())),
    }
}

fn read_stored_page(row: sled::Result<(IVec, IVec)>) -> Result<Vec<Entry>, ViewsError> {
    read_page(&row.map_err(engine)?.1)
}

fn read_page(mut bytes: &[u8]) -> Result<Vec<Entry>, ViewsError> {
    let mut entries = Vec::with_capacity(PAGE_ENTRIES.into());
    while !bytes.is_empty() {
        let (row, rest): (EntryRow, _) =
            postcard::take_from_bytes(bytes).map_err(|_| unreadable())?;
        bytes = rest;
        let (issued, activated) = match row.kind {
            EntryKind::Issued { license } => (Some(LicenseId::from_bytes(license)), None),
            EntryKind::Activated { activation } => {
                (None, Some(ActivationId::from_bytes(activation)))
            }
            _ => (None, None),
        };
        entries.push(Entry { position: Position(row.position), issued, activated });
    }
    Ok(entries)
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
mod tests {
    use super::*;
    use crate::domain::{Email, SigningKeyId, Timestamp};
    use crate::domain::{LicenseKey, Product, Seats, Terms};

    const SUBJECT: SubjectId = SubjectId::from_bytes([1; 16]);
    const LICENSE: LicenseId = LicenseId::from_bytes([2; 16]);

    fn activation(byte: u8) -> ActivationId {
        ActivationId::from_bytes([byte; 16])
    }

    fn events() -> Vec<(Position, Event)> {
        let at = Timestamp::from_millis(0).unwrap();
        let activated = |byte| Event::Activated {
            license: LICENSE,
            activation: activation(byte),
            signing_key: SigningKeyId::from_bytes([0; 32]),
            lease_until: None,
            at,
        };
        let events = [
            Event::SubjectRegistered {
                subject: SUBJECT,
                email: Email::parse("ada@example.com").unwrap(),
                at,
            },
            Event::LicenseIssued {
                license: LICENSE,
                subject: SUBJECT,
                key: LicenseKey::generate(|| 0),
                terms: Terms {
                    product: Product::parse("p").unwrap(),
                    seats: Seats::new(3).unwrap(),
                    expires_at: None,
                    updates_until: None,
                },
                at,
            },
            activated(10),
            activated(11),
            Event::Deactivated {
                license: LICENSE,
                activation: activation(10),
                by_staff: false,
                at,
            },
            Event::LicenseSuspended { license: LICENSE, at },
        ];
        (0..).map(Position).zip(events).collect()
    }

    fn pairs(events: &[(Position, Event)]) -> impl Iterator<Item = (Position, &Event)> {
        events.iter().map(|(position, event)| (*position, event))
    }

    fn assert_as_expected(views: &Views) {
        assert_eq!(views.checkpoint().unwrap(), Checkpoint { next: Position(6), last: [9; 32] });
        assert_eq!(views.subject(SUBJECT).unwrap().unwrap().registered, Position(0));
        let license = views.license(LICENSE).unwrap().unwrap();
        assert_eq!((license.used, license.activations), (1, 2));
        assert_eq!((license.status, license.issued), (Status::Suspended, Position(1)));
        let ended = views.activation(activation(10)).unwrap().unwrap();
        assert_eq!((ended.activated, ended.ended), (Position(2), Some(Position(4))));
        assert_eq!(views.newest_activations(LICENSE, 9).unwrap(), [activation(11), activation(10)]);
        assert_eq!(views.newest_activations(LICENSE, 1).unwrap(), [activation(11)]);
        let positions = |entries: Vec<Entry>| -> Vec<u64> {
            entries.iter().map(|entry| entry.position.0).collect()
        };
        assert_eq!(positions(views.subject_entries(SUBJECT, Position(0), 9).unwrap()), [0, 1]);
        assert_eq!(positions(views.license_entries(LICENSE, Position(3), 2).unwrap()), [3, 4]);
    }

    #[test]
    fn one_batch_or_many_give_the_same_views() {
        let place = tempfile::tempdir().unwrap();
        let one = Views::open(&place.path().join("one"), 1 << 20).unwrap();
        one.apply(pairs(&events()), [9; 32]).unwrap();
        assert_as_expected(&one);
        let many = Views::open(&place.path().join("many"), 1 << 20).unwrap();
        for event in events() {
            many.apply(pairs(&[event]), [9; 32]).unwrap();
        }
        assert_as_expected(&many);
    }

    #[test]
    fn rows_in_memory_and_on_disk_are_one_view() {
        let place = tempfile::tempdir().unwrap();
        let views = Views::open(place.path(), 1 << 20).unwrap();
        let (at, signing_key) =
            (Timestamp::from_millis(0).unwrap(), SigningKeyId::from_bytes([0; 32]));
        let id = |number: u64| {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&number.to_be_bytes());
            ActivationId::from_bytes(id)
        };
        views.apply(pairs(&events()[..2]), [0; 32]).unwrap();
        let total = RECENT_ROWS as u64;
        for number in 2..total {
            let (license, activation, lease_until) = (LICENSE, id(number), None);
            let event = Event::Activated { license, activation, signing_key, lease_until, at };
            views.apply([(Position(number), &event)], [9; 32]).unwrap();
            // Each is there at once, wherever the border between memory and disk is.
            assert_eq!(views.activation(activation).unwrap().unwrap().activated, Position(number));
            let newest = views.newest_activations(LICENSE, 3).unwrap();
            let expected: Vec<_> = (2..=number).rev().take(3).map(id).collect();
            assert_eq!(newest, expected);
        }
        assert!(views.read_recent().len() < RECENT_ROWS);
        let on_disk: Position = Position(
            read::<CheckpointRow>(&views.db.get(row::CHECKPOINT).unwrap().unwrap()).unwrap().next,
        );
        assert!(Position(2) < on_disk && on_disk < Position(total), "{on_disk}");
        for (from, limit) in (0..total).step_by(7).flat_map(|from| [(from, 3), (from, usize::MAX)])
        {
            let entries = views.license_entries(LICENSE, Position(from), limit).unwrap();
            let positions = entries.iter().map(|entry| entry.position.0);
            assert!(positions.eq((from.max(2)..total).take(limit)), "{limit} from {from}");
        }
        drop(views);

        let killed = Views::open(place.path(), 1 << 20).unwrap();
        assert_eq!(killed.checkpoint().unwrap().next, on_disk);
        let used = killed.license(LICENSE).unwrap().unwrap().used;
        assert_eq!(u64::from(used), on_disk.0 - 2, "rows and checkpoint are of one moment");
    }

    #[test]
    fn views_are_believed_when_closed_but_not_after_a_power_cut() {
        let place = tempfile::tempdir().unwrap();
        drop(Views::open(place.path(), 1 << 20).unwrap());
        fs::write(place.path().join(TRUST), "another boot").unwrap();
        assert!(matches!(Views::open(place.path(), 1 << 20), Err(ViewsError::Damaged(_))));
        Views::delete(place.path()).unwrap();
        let views = Views::open(place.path(), 1 << 20).unwrap();
        assert_eq!(views.checkpoint().unwrap().next, Position(0));
        views.apply(pairs(&events()), [9; 32]).unwrap();
        views.close().unwrap();
        drop(views);
        assert_eq!(fs::read_to_string(place.path().join(TRUST)).unwrap(), CLOSED);
        assert_as_expected(&Views::open(place.path(), 1 << 20).unwrap());
    }

    #[test]
    fn distrusted_views_do_not_open() {
        let place = tempfile::tempdir().unwrap();
        let views = Views::open(place.path(), 1 << 20).unwrap();
        views.distrust().unwrap();
        drop(views);
        assert!(Views::open(place.path(), 1 << 20).is_err());
    }
}
