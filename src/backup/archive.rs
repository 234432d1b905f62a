//! Writes a backup: what is new in the log since the last step, and the vault as it is now.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::backup_dir::{Places, in_file};
use super::durable::{At as _, UNFINISHED, directory, replace};
use super::manifest::Manifest;
use super::segment::{self, Builder, FULL_BYTES};
use super::vault_copy::VaultCopy;
use super::{BackupError, tail};
use crate::domain::Position;
use crate::log::head::LogKey;
use crate::log::tree::CompactRange;
use crate::log::{Log, LogError, PAGE, record};
use crate::vault::file::FileVault;

/// What is backed up. A server goes on writing to it meanwhile.
#[derive(Clone)]
pub struct Source {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The vault that its records' keys are in.
    pub vault: Arc<FileVault>,
    /// The tree over the log's records, up to those that were acknowledged at least.
    pub tree: Arc<Mutex<CompactRange>>,
    /// What manifests are signed with.
    pub key: Arc<LogKey>,
}

/// What becomes of records that do not fill a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// They make a short one, which never changes any more: for a backup that is made now and then.
    Segment,
    /// They wait in the tail until there are enough: for an archive that is always behind.
    Tail,
}

/// A backup that is being written. After an error it is of no use; open it again.
pub struct Archive {
    source: Source,
    places: Places,
    /// The tree over the records that are written.
    tree: CompactRange,
    stated: Option<Manifest>,
    /// The records after the last segment.
    newest: Builder,
    /// The tail's file, and how many bytes of `newest` are in it.
    tail: Option<(File, usize)>,
    vault: VaultCopy,
    /// Kept until this is dropped.
    _lock: File,
}

impl Archive {
    /// Opens a directory for writing: a new or empty one, or a backup of this log.
    pub fn open(path: &Path, source: Source) -> Result<Self, BackupError> {
        let places = Places { directory: path.to_owned() };
        directory(path)?;
        if !places.segments().is_dir() && holds_something(path)? {
            return Err(BackupError::Foreign(path.to_owned()));
        }
        let lock = lock(&places)?;
        directory(&places.segments())?;
        let stated = places.read_manifest(&source.key)?;
        if stated.is_none() && places.hold_records()? {
            return Err(BackupError::Unfinished(path.to_owned()));
        }
        let tree = stated.as_ref().map(|stated| stated.tree.clone()).unwrap_or_default();
        if tree.size() > source.tree().size() {
            return Err(BackupError::OtherLog(path.to_owned()));
        }
        let newest = Builder::new(tree.size(), tree.root());
        let vault = VaultCopy::new(places.vault(), places.ledger());
        let mut archive =
            Self { source, places, tree, stated, newest, tail: None, vault, _lock: lock };
        archive.tidy()?;
        if archive.stated.is_none() {
            // Before any record: so records without a manifest are never ones of no account.
            archive.state()?;
        }
        Ok(archive)
    }

    /// Removes what a step that was interrupted left, and takes the tail in.
    fn tidy(&mut self) -> Result<(), BackupError> {
        let head = self.tree.size();
        for place in [self.places.directory.clone(), self.places.segments()] {
            for entry in fs::read_dir(&place).at(&place)? {
                let path = entry.at(&place)?.path();
                if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                    fs::remove_file(&path).at(&path)?;
                }
            }
        }
        let mut stated = self.places.list_segments()?;
        while let Some(first) = stated.pop_if(|first| *first >= head) {
            remove(&self.places.segment(first))?;
        }
        let mut end = Position::ZERO;
        if let Some(last) = stated.last() {
            let path = self.places.segment(*last);
            end = segment::end(&fs::read(&path).at(&path)?).map_err(in_file(&path))?;
            if end > head {
                // It was made of the tail, which is still there, or it is not what it was.
                end = *last;
                self.take_tail(end)?;
                remove(&path)?;
            }
        }
        if end < head && self.tail.is_none() {
            self.take_tail(end)?;
        }
        for first in self.places.list_tails()? {
            if self.tail.is_none() || first != end {
                remove(&self.places.tail(first))?;
            }
        }
        Ok(())
    }

    /// Goes on with the tail that begins there, as far as it is stated.
    fn take_tail(&mut self, first: Position) -> Result<(), BackupError> {
        let path = self.places.tail(first);
        if !path.exists() {
            let directory = self.places.segments();
            return Err(BackupError::Missing { directory, position: first });
        }
        let bytes = fs::read(&path).at(&path)?;
        let before = tail::before(&bytes).map_err(in_file(&path))?;
        let (records, rest) = tail::decode(&bytes, first, &before).map_err(in_file(&path))?;
        let count = self.tree.size().0.saturating_sub(first.0);
        let stated = usize::try_from(count).ok().and_then(|count| records.get(..count));
        let Some(stated) = stated else {
            rest.map_err(in_file(&path))?;
            let position = first.plus(records.len() as u64);
            return Err(BackupError::Missing { directory: self.places.segments(), position });
        };
        self.newest = Builder::new(first, before);
        for record in stated {
            self.newest.push(record).map_err(in_file(&path))?;
        }
        let length = self.newest.records().len();
        let file = OpenOptions::new().append(true).open(&path).at(&path)?;
        file.set_len((tail::HEADER_BYTES + length) as u64).at(&path)?;
        self.tail = Some((file, length));
        Ok(())
    }

    /// Writes all that was acknowledged before this was called, and states it. `progress` is told how
    /// many of how many records are written, and can end it. Returns how many there are then.
    pub fn advance(
        &mut self,
        finish: Finish,
        progress: &mut dyn FnMut(Position, Position) -> ControlFlow<()>,
    ) -> Result<Position, BackupError> {
        let goal = self.source.tree();
        let mut obsolete = Vec::new();
        while self.tree.size() < goal.size() {
            let from = self.tree.size();
            let limit = usize::try_from(goal.size().0 - from.0).unwrap_or(PAGE).min(PAGE);
            let page = self.source.log.read(from, limit)?;
            if page.is_empty() {
                return Err(LogError::Gap(from).into());
            }
            for bytes in &page {
                self.take(bytes)?;
                if self.newest.records().len() >= FULL_BYTES {
                    obsolete.extend(self.seal()?);
                }
            }
            if progress(self.tree.size(), goal.size()).is_break() {
                return Err(BackupError::Stopped);
            }
        }
        if self.tree != goal {
            return Err(BackupError::OtherLog(self.places.directory.clone()));
        }
        if finish == Finish::Tail {
            self.write_tail()?;
        } else if !self.newest.records().is_empty() {
            obsolete.extend(self.seal()?);
        }
        self.state()?;
        for tail in obsolete {
            remove(&tail)?;
        }
        Ok(self.tree.size())
    }

    /// Brings the vault's copy up, which then has the keys of all records that are written, and states
    /// both.
    fn state(&mut self) -> Result<(), BackupError> {
        let mark = self.vault.refresh(&self.source.vault)?;
        let now = Manifest { tree: self.tree.clone(), epoch: mark.epoch, slots: mark.slots };
        if self.stated.as_ref() != Some(&now) {
            replace(&self.places.manifest(), now.encode(&self.source.key).as_bytes())?;
            self.stated = Some(now);
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let position = self.tree.size();
        record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        self.tree.push(record::hash(bytes));
        let path = self.places.segment(self.newest.first());
        self.newest.push(bytes).map_err(in_file(&path))
    }

    /// Makes a segment of the newest records. The tail that they were in is of no use once that is
    /// stated.
    fn seal(&mut self) -> Result<Option<PathBuf>, BackupError> {
        let first = self.newest.first();
        replace(&self.places.segment(first), &self.newest.encode())?;
        self.newest = Builder::new(self.tree.size(), self.tree.root());
        Ok(self.tail.take().map(|_| self.places.tail(first)))
    }

    /// Adds the newest records to the tail, durably.
    fn write_tail(&mut self) -> Result<(), BackupError> {
        let (path, records) = (self.places.tail(self.newest.first()), self.newest.records());
        match &mut self.tail {
            Some((file, written)) if *written < records.len() => {
                file.write_all(&records[*written..]).and_then(|()| file.sync_data()).at(&path)?;
                *written = records.len();
            }
            None if !records.is_empty() => {
                let header = tail::header(self.newest.first(), self.newest.before());
                let file = replace(&path, &[header.as_slice(), records].concat())?;
                self.tail = Some((file, records.len()));
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

impl Source {
    fn tree(&self) -> CompactRange {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps every other writer from the directory.
fn lock(places: &Places) -> Result<File, BackupError> {
    let path = places.lock();
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(false).write(true).mode(0o600).open(&path).at(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(BackupError::Busy(places.directory.clone())),
        Err(fs::TryLockError::Error(error)) => Err(error).at(&path),
    }
}

/// What a directory may hold that no backup is in yet: a file system has the one, a first backup that
/// was refused leaves the other.
const NEUTRAL: [&str; 2] = ["lost+found", "lock"];

fn holds_something(directory: &Path) -> Result<bool, BackupError> {
    for entry in fs::read_dir(directory).at(directory)? {
        let name = entry.at(directory)?.file_name();
        if !NEUTRAL.iter().any(|neutral| name == *neutral) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove(path: &Path) -> Result<(), BackupError> {
    fs::remove_file(path).at(path)
}
