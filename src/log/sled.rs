//! The log on sled 0.34: one tree of chunks. A chunk is some records of one append, each behind its
//! length, and a mark; its key is the position of the first, big-endian. sled's cost is by the row, so
//! that a row for each record would cost as much as all else of a full batch.
//!
//! An append is plain inserts and one flush, and the mark on its last chunk commits it. sled recovers
//! its writes in the order in which they were made, up to the first that did not reach the disk, so
//! that of an append that a power cut stopped a beginning may be left: it has no commit mark behind
//! it, and is removed when the log opens. sled's own batches would do the same for one more write and
//! one more sync each.
//!
//! What sled 0.34 does not do by itself is done here: its flush is made durable
//! ([`durability`](super::durability)); its `conf` file and its directories are synced once after
//! creation, without which it refuses to open after a power cut; a torn `snap.*.generating` file,
//! which blocks it for ever, is removed before it opens; and its panics are
//! contained. And that sled lost the end of a log without a word is told by the tail
//! file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ::sled::Db;

use super::at_risk;
use super::chunk::{COMMIT, MORE, chunk, foreign, parts, position};
use super::contained::{Contained, contain};
use super::durability::{Flush, make_flush_durable, reread_from_disk};
use super::survey::survey;
use super::tail::Tail;
use super::{Append, Log, LogError};
use crate::domain::Position;

/// A log in a directory of its own.
pub struct SledLog {
    db: Contained<Db>,
    /// sled's file, where its flush does not sync it.
    sync: Option<File>,
    /// How far the log has come.
    tail: Tail,
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
        let path = directory.join("db");
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LogError::Missing(path),
            _ => error.into(),
        })?;
        reread_from_disk(&file)?;
        at_risk::read(directory, &file)?;
        let tail = Tail::open(&directory.join("tail"))?;
        for torn in torn_snapshots(directory)? {
            fs::remove_file(torn)?;
        }
        let flush = make_flush_durable();
        let db = open_db(directory, cache_bytes).map_err(|error| surveyed(error, &file, &tail))?;
        let log = Self { db, sync: (flush == Flush::NeedsSync).then_some(file), tail };
        log.remove_uncommitted()?;
        let head = log.head()?;
        match log.tail.read()? {
            Some(expected) if head < expected => return Err(LogError::Lost { head, expected }),
            _ => log.tail.write(head)?,
        }
        Ok(log)
    }

    fn remove_uncommitted(&self) -> Result<(), LogError> {
        while let Some((key, value)) = self.db.last().map_err(engine)? {
            match parts(position(&key)?, &value)?.1 {
                COMMIT => break,
                MORE => self.db.remove(key).map_err(engine)?,
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

fn open_db(directory: &Path, cache_bytes: u64) -> Result<Contained<Db>, LogError> {
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
fn open_contained(config: &::sled::Config) -> Result<Contained<Db>, LogError> {
    let start = Instant::now();
    loop {
        let opened = contain(|| config.open())
            .ok_or_else(|| LogError::Engine("sled cannot read them".to_owned()))?;
        match opened {
            Err(::sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && start.elapsed() < RELEASE =>
            {
                thread::sleep(RELEASE_POLL);
            }
            opened => return opened.map(Contained::new).map_err(engine),
        }
    }
}

/// Adds to what sled says what it does not: which record is lost.
fn surveyed(error: LogError, file: &File, tail: &Tail) -> LogError {
    let LogError::Engine(what) = &error else { return error };
    let Ok(survey) = tail.read().and_then(|end| survey(file, end)) else { return error };
    let position = survey.first_missing;
    LogError::Engine(if survey.is_missed {
        format!("{what}, and the record at position {position} is nowhere whole in data/log/db")
    } else {
        format!("{what}, though each record before position {position} is whole in data/log/db")
    })
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

/// The same, where it is about the records from a position on.
fn engine_at(error: ::sled::Error, position: Position) -> LogError {
    match engine(error) {
        LogError::Engine(what) => LogError::Engine(format!("{what} from position {position} on")),
        other => other,
    }
}

/// sled wraps an error of the system as the debug form of it, which has what people are told.
fn plain(error: io::Error) -> io::Error {
    let text = error.to_string();
    let message = text.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    match (message, error.kind()) {
        (Some((message, _)), kind) => io::Error::new(kind, message.to_owned()),
        (None, io::ErrorKind::Other) => error,
        (None, kind) => kind.into(),
    }
}

impl Log for SledLog {
    fn head(&self) -> Result<Position, LogError> {
        let Some((key, value)) = self.db.last().map_err(engine)? else { return Ok(Position::ZERO) };
        let first = position(&key)?;
        Ok(first.plus(parts(first, &value)?.0.len() as u64))
    }

    /// The directory belongs to one process, and there the writer alone appends, so that the head
    /// cannot move between the look at it and the inserts.
    fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
        let head = self.head()?;
        if head != expected {
            return Ok(Append::Conflict { head });
        }
        let (mut at, mut rest) = (expected, records);
        while !rest.is_empty() {
            let (mut value, count) = chunk(rest)?;
            rest = &rest[count..];
            value.push(if rest.is_empty() { COMMIT } else { MORE });
            self.db.insert(at.0.to_be_bytes(), value).map_err(engine)?;
            at = at.plus(count as u64);
        }
        self.sync()?;
        self.tail.write(at)?;
        Ok(Append::Appended)
    }

    fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let mut records = Vec::with_capacity(limit.min(super::PAGE));
        let is_scan = limit > 1;
        // The chunk that `from` is in begins at it or before.
        let containing = self.db.range(..=from.0.to_be_bytes()).next_back();
        let Some((key, _)) = containing.transpose().map_err(|error| engine_at(error, from))? else {
            // What there is begins later, if there is anything.
            return if self.db.is_empty() { Ok(records) } else { Err(LogError::Gap(from)) };
        };
        let mut next = position(&key)?;
        for entry in self.db.range(key..) {
            if records.len() == limit {
                break;
            }
            let (key, value) = entry.map_err(|error| engine_at(error, next.max(from)))?;
            let first = position(&key)?;
            if first != next {
                return Err(LogError::Gap(next.max(from)));
            }
            let (chunk, _) = parts(first, &value)?;
            next = first.plus(chunk.len() as u64);
            if is_scan {
                // sled counts what is asked for in 256 queues, and lets pages go when 64 of one are full: of
                // pages that are asked for once it would keep 16,384, whatever its cache is to hold.
                self.db.get(&key).map_err(|error| engine_at(error, first.max(from)))?;
            }
            let skipped = usize::try_from(from.0.saturating_sub(first.0)).unwrap_or(usize::MAX);
            let wanted = chunk.into_iter().skip(skipped).take(limit - records.len());
            records.extend(wanted.map(<[u8]>::to_vec));
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::super::chunk::CHUNK_BYTES;
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
            let long = vec![vec![3; CHUNK_BYTES / 2]; 3];
            assert_eq!(log.append(Position(2), &long).unwrap(), Append::Appended);
            assert!(log.db.remove(4u64.to_be_bytes()).unwrap().is_some());
            assert_eq!(log.head().unwrap(), Position(4));
            log.tail.write(Position(2)).unwrap();
        }
        {
            let log = log(&place);
            assert_eq!(log.read(Position(0), 9).unwrap(), [vec![1], vec![2]]);
            assert_eq!(log.append(Position(2), &[vec![4]]).unwrap(), Append::Appended);
            assert_eq!(log.read(Position(2), 9).unwrap(), [vec![4]]);
            log.db.insert(2u64.to_be_bytes(), vec![0, 1, 4, COMMIT ^ 1]).unwrap();
        }
        assert!(matches!(SledLog::open(&place, 1 << 20), Err(LogError::Engine(_))));
    }

    #[test]
    fn a_log_that_sled_lost_the_end_of_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        {
            let log = log(&place);
            assert_eq!(log.append(Position(0), &[vec![1], vec![2]]).unwrap(), Append::Appended);
            assert_eq!(log.append(Position(2), &[vec![3]]).unwrap(), Append::Appended);
            assert!(log.db.remove(2u64.to_be_bytes()).unwrap().is_some());
        }
        // Not only once: what is lost stays lost.
        for _ in 0..2 {
            let lost = SledLog::open(&place, 1 << 20).err();
            let (at, expected) = (Position(2), Position(3));
            assert!(
                matches!(lost, Some(LogError::Lost { head, expected: e }) if head == at && e == expected)
            );
        }
    }

    /// A power cut while an append is on its way: of the sectors that it writes any may have reached
    /// the disk, in whatever order.
    #[test]
    fn an_append_that_a_power_cut_stops_is_there_whole_or_not_at_all() {
        const SECTOR: usize = 512;
        const BEFORE: usize = 60;
        const APPENDED: usize = 40;
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
        let long = vec![vec![1; CHUNK_BYTES / 3]; 6];
        assert_eq!(log.append(Position(0), &long).unwrap(), Append::Appended);
        assert_eq!(log.append(Position(6), &[vec![2]]).unwrap(), Append::Appended);
        let removed = log.db.remove(2u64.to_be_bytes()).unwrap();
        assert_eq!(parts(Position(2), &removed.unwrap()).unwrap().0.len(), 2);
        assert_eq!(log.read(Position(0), 2).unwrap().len(), 2);
        for from in [0, 1, 2] {
            let gap = log.read(Position(from), 9);
            assert!(matches!(gap, Err(LogError::Gap(Position(2)))), "{from}");
        }
        assert!(matches!(log.read(Position(3), 9), Err(LogError::Gap(Position(3)))));
        assert_eq!(log.read(Position(4), 9).unwrap().len(), 3);
        log.db.remove(0u64.to_be_bytes()).unwrap();
        assert!(matches!(log.read(Position(0), 9), Err(LogError::Gap(Position(0)))));
    }

    #[test]
    fn records_of_all_lengths_read_back_from_anywhere() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("log");
        SledLog::create(&place).unwrap();
        let log = log(&place);
        let mut rng = StdRng::seed_from_u64(2);
        let mut records: Vec<Vec<u8>> = Vec::new();
        while records.len() < 400 {
            let mut batch = Vec::new();
            for _ in 0..rng.random_range(1..60) {
                batch.push(vec![rng.random(); rng.random_range(1..1107)]);
            }
            let head = Position(records.len() as u64);
            assert_eq!(log.append(head, &batch).unwrap(), Append::Appended);
            records.extend(batch);
            assert_eq!(log.head().unwrap(), Position(records.len() as u64));
        }
        for from in 0..=records.len() {
            let limit = rng.random_range(1..80);
            let expected = &records[from..records.len().min(from + limit)];
            assert_eq!(log.read(Position(from as u64), limit).unwrap(), expected, "{from}");
        }
        let longest = log.db.iter().values().map(|value| value.unwrap().len()).max();
        assert!(longest.unwrap() <= CHUNK_BYTES);
        assert!(log.append(log.head().unwrap(), &[vec![0; 70_000]]).is_err());
    }

    #[test]
    fn no_log_is_made_by_opening_one() {
        let place = tempfile::tempdir().unwrap();
        assert!(SledLog::open(&place.path().join("log"), 1 << 20).is_err());
        assert!(!place.path().join("log").exists());
    }
}
