//! The log on sled 0.34: one tree, big-endian positions for keys, a record and a mark for a value.
//!
//! An append is plain inserts and one flush, and the mark on its last record commits it. sled recovers
//! its writes in the order in which they were made, up to the first that did not reach the disk, so
//! that of an append that a power cut stopped a beginning may be left: it has no commit mark behind
//! it, and is removed when the log opens. sled's own batches would do the same for one more write and
//! one more sync each.
//!
//! What sled 0.34 does not do by itself is done here: its flush is made durable
//! ([`durability`](super::durability)); its `conf` file and its directories are synced once after
//! creation, without which it refuses to open after a power cut; a torn `snap.*.generating` file,
//! which blocks it for ever, is removed before it opens; and a panic while it opens damaged files is
//! an error.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ::sled::Db;

use super::durability::{Flush, make_flush_durable};
use super::{Append, Log, LogError};
use crate::domain::Position;

/// A log in a directory of its own.
pub struct SledLog {
    db: Db,
    /// sled's file, where its flush does not sync it.
    sync: Option<File>,
}

impl SledLog {
    /// Makes a new, empty log. The directory must not exist yet.
    pub fn create(directory: &Path) -> Result<(), LogError> {
        fs::create_dir(directory)?;
        drop(open_db(directory, CREATION_CACHE)?);
        for name in ["conf", "db", "blobs", "."] {
            File::open(directory.join(name))?.sync_all()?;
        }
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
    }

    /// Opens a log that was made before. `cache_bytes` bounds what sled keeps in memory.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, LogError> {
        let file = File::open(directory.join("db"))?;
        for torn in torn_snapshots(directory)? {
            fs::remove_file(torn)?;
        }
        let flush = make_flush_durable();
        let db = open_db(directory, cache_bytes)?;
        let log = Self { db, sync: (flush == Flush::NeedsSync).then_some(file) };
        log.remove_uncommitted()?;
        Ok(log)
    }

    fn remove_uncommitted(&self) -> Result<(), LogError> {
        while let Some((key, value)) = self.db.last().map_err(engine)? {
            match parts(&value)? {
                (_, COMMIT) => break,
                (_, MORE) => self.db.remove(key).map_err(engine)?,
                _ => return Err(foreign()),
            };
        }
        self.sync()
    }

    fn sync(&self) -> Result<(), LogError> {
        self.db.flush().map_err(engine)?;
        if let Some(file) = &self.sync {
            file.sync_data()?;
        }
        Ok(())
    }
}

/// Creation writes next to nothing.
const CREATION_CACHE: u64 = 1 << 20;

fn open_db(directory: &Path, cache_bytes: u64) -> Result<Db, LogError> {
    let config = ::sled::Config::new()
        .path(directory)
        .cache_capacity(cache_bytes)
        // Each append flushes; a flush beside it would only compete.
        .flush_every_ms(None);
    open_contained(&config)
}

/// How long a database that this process just closed may still be held by sled's own threads.
const RELEASE: Duration = Duration::from_secs(5);
const RELEASE_POLL: Duration = Duration::from_millis(10);

/// Opens a database, whatever state its files are in: sled panics on some. That no other process
/// has it open is the caller's to know.
pub(crate) fn open_contained(config: &::sled::Config) -> Result<Db, LogError> {
    let start = Instant::now();
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| LogError::Engine("sled cannot read them".to_owned()))?;
        match opened {
            Err(::sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && start.elapsed() < RELEASE =>
            {
                thread::sleep(RELEASE_POLL);
            }
            opened => return opened.map_err(engine),
        }
    }
}

fn torn_snapshots(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut torn = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("snap.") && text.ends_with(".generating") {
            torn.push(directory.join(name));
        }
    }
    Ok(torn)
}

fn engine(error: ::sled::Error) -> LogError {
    match error {
        ::sled::Error::Io(error) => LogError::Io(plain(error)),
        ::sled::Error::Corruption { .. } => LogError::Engine("sled finds them corrupt".to_owned()),
        other => LogError::Engine(other.to_string()),
    }
}

/// sled wraps an error of the system in the debug form of another; its kind says the same to people.
pub(crate) fn plain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Other => error,
        kind => kind.into(),
    }
}

/// The mark of an append's last record, and of those before it. No flipped bit makes one the other.
const COMMIT: u8 = 0xA5;
const MORE: u8 = 0x5A;

fn parts(value: &[u8]) -> Result<(&[u8], u8), LogError> {
    let (mark, record) = value.split_last().ok_or_else(foreign)?;
    Ok((record, *mark))
}

fn foreign() -> LogError {
    LogError::Engine("they hold what this software did not write".to_owned())
}

fn position(key: &[u8]) -> Result<Position, LogError> {
    Ok(Position(u64::from_be_bytes(key.try_into().map_err(|_| foreign())?)))
}

impl Log for SledLog {
    fn head(&self) -> Result<Position, LogError> {
        match self.db.last().map_err(engine)? {
            Some((key, _)) => Ok(position(&key)?.plus(1)),
            None => Ok(Position::ZERO),
        }
    }

    /// The directory belongs to one process, and there the writer alone appends, so that the head
    /// cannot move between the look at it and the batch.
    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let head = self.head()?;
        if head != expected {
            return Ok(Append::Conflict { head });
        }
        for (position, record) in (expected.0..).zip(records) {
            let last = position == expected.0 + records.len() as u64 - 1;
            let mark = if last { COMMIT } else { MORE };
            let value = [record.as_slice(), &[mark]].concat();
            self.db.insert(position.to_be_bytes(), value).map_err(engine)?;
        }
        self.sync()?;
        Ok(Append::Appended)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let mut records = Vec::new();
        for (entry, expected) in self.db.range(from.0.to_be_bytes()..).take(limit).zip(from.0..) {
            let (key, value) = entry.map_err(engine)?;
            if position(&key)? != Position(expected) {
                return Err(LogError::Gap(Position(expected)));
            }
            records.push(parts(&value)?.0.to_vec());
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn log(directory: &Path) -> SledLog {
        SledLog::open(directory, 1 << 20).unwrap()
    }

    #[test]
    fn what_was_appended_is_there_after_a_reopening() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        {
            let log = log(&place);
            assert_eq!(log.append(Position(0), &[vec![1], vec![2]]).unwrap(), Append::Appended);
            assert_eq!(log.append(Position(2), &[vec![3]]).unwrap(), Append::Appended);
        }
        let log = log(&place);
        assert_eq!(log.head().unwrap(), Position(3));
        assert_eq!(log.read(Position(1), 9).unwrap(), [vec![2], vec![3]]);
        assert_eq!(log.read(Position(0), 1).unwrap(), [vec![1]]);
    }

    #[test]
    fn another_head_is_a_conflict_and_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        let log = log(&place);
        let conflict = Append::Conflict { head: Position(0) };
        assert_eq!(log.append(Position(1), &[vec![1]]).unwrap(), conflict);
        assert_eq!(log.head().unwrap(), Position(0));
    }

    #[test]
    fn the_beginning_of_an_append_that_was_cut_short_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        {
            let log = log(&place);
            assert_eq!(log.append(Position(0), &[vec![1], vec![2]]).unwrap(), Append::Appended);
            assert_eq!(log.append(Position(2), &vec![vec![3]; 3]).unwrap(), Append::Appended);
            log.db.remove(4u64.to_be_bytes()).unwrap();
        }
        {
            let log = log(&place);
            assert_eq!(log.read(Position(0), 9).unwrap(), [vec![1], vec![2]]);
            assert_eq!(log.append(Position(2), &[vec![4]]).unwrap(), Append::Appended);
            assert_eq!(log.read(Position(2), 9).unwrap(), [vec![4]]);
            log.db.insert(2u64.to_be_bytes(), vec![4, COMMIT ^ 1]).unwrap();
        }
        assert!(matches!(SledLog::open(&place, 1 << 20), Err(LogError::Engine(_))));
    }

    /// A power cut while an append is on its way: of the sectors that it writes any may have reached
    /// the disk, in whatever order.
    #[test]
    fn an_append_that_a_power_cut_stops_is_there_whole_or_not_at_all() {
        const SECTOR: usize = 512;
        const BEFORE: usize = 60;
        const APPENDED: usize = 9;
        let records: Vec<Vec<u8>> =
            (0..).take(BEFORE + APPENDED).map(|byte: u8| vec![byte; 231]).collect();
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("log");
        SledLog::create(&place).unwrap();
        {
            let log = log(&place);
            for batch in (0..BEFORE).collect::<Vec<_>>().chunks(4) {
                let position = Position(batch[0] as u64);
                let appended = log.append(position, &records[batch[0]..=batch[batch.len() - 1]]);
                assert_eq!(appended.unwrap(), Append::Appended);
            }
        }
        let copy = |to: &str| {
            let to = root.path().join(to);
            let _ = fs::remove_dir_all(&to);
            fs::create_dir_all(to.join("blobs")).unwrap();
            for entry in fs::read_dir(&place).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
                }
            }
            to
        };
        // What is there when the log has opened again is synced; the append is what a cut may stop.
        let opened = copy("opened");
        drop(log(&opened));
        let appended = copy("appended");
        let last = Position(BEFORE as u64);
        assert_eq!(log(&appended).append(last, &records[BEFORE..]).unwrap(), Append::Appended);
        let [before, after] = [&opened, &appended].map(|place| fs::read(place.join("db")).unwrap());
        let sector = |bytes: &[u8], at: usize| {
            let mut sector = bytes.get(at..).unwrap_or_default().to_vec();
            sector.resize(SECTOR, 0);
            sector
        };
        let changed: Vec<usize> = (0..after.len().max(before.len()))
            .step_by(SECTOR)
            .filter(|&at| sector(&before, at) != sector(&after, at))
            .collect();
        assert!(changed.len() > APPENDED * 231 / SECTOR, "{changed:?}");

        let mut rng = StdRng::seed_from_u64(1);
        let mut outcomes = [0, 0];
        for trial in 0..200 {
            let cut = copy("cut");
            let mut db = before.clone();
            db.resize(before.len().max(after.len()), 0);
            let reached = rng.random_range(0..=changed.len());
            for (i, &at) in changed.iter().enumerate() {
                // A beginning of them in some trials, and any of them in others.
                let there = if trial % 2 == 0 { i < reached } else { rng.random_bool(0.8) };
                if there {
                    let end = (at + SECTOR).min(db.len());
                    db[at..end].copy_from_slice(&sector(&after, at)[..end - at]);
                }
            }
            fs::write(cut.join("db"), db).unwrap();
            let log = log(&cut);
            let read = log.read(Position(0), usize::MAX).unwrap();
            assert!(read.len() == BEFORE || read.len() == BEFORE + APPENDED, "{}", read.len());
            assert_eq!(read, records[..read.len()]);
            outcomes[usize::from(read.len() > BEFORE)] += 1;
        }
        assert!(outcomes.iter().all(|&outcome| outcome > 0), "{outcomes:?}");
    }

    #[test]
    fn a_torn_snapshot_is_no_obstacle() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        fs::write(place.join("snap.00000000000000FF.generating"), b"torn").unwrap();
        assert_eq!(log(&place).head().unwrap(), Position(0));
    }

    #[test]
    fn a_gap_is_found_and_never_read_over() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        let log = log(&place);
        assert_eq!(log.append(Position(0), &vec![vec![1]; 5]).unwrap(), Append::Appended);
        log.db.remove(3u64.to_be_bytes()).unwrap();
        assert!(matches!(log.read(Position(0), 9), Err(LogError::Gap(Position(3)))));
        assert!(matches!(log.read(Position(3), 9), Err(LogError::Gap(Position(3)))));
    }

    #[test]
    fn no_log_is_made_by_opening_one() {
        let place = tempfile::tempdir().unwrap();
        assert!(SledLog::open(&place.path().join("log"), 1 << 20).is_err());
        assert!(!place.path().join("log").exists());
    }
}
