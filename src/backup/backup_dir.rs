//! A backup as it lies there: where its files are, and its records in order, each checked.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::durable::At as _;
use super::manifest::Manifest;
use super::segment::{self, SegmentError};
use super::{BackupError, tail};
use crate::domain::Position;
use crate::log::head::LogKey;
use crate::log::record;
use crate::log::tree::{CompactRange, Root};
use crate::vault::file::inspect;
use crate::vault::ledger::Stored;

const SEGMENT: &str = "seg";
const TAIL: &str = "tail";

/// A finished backup.
#[derive(Debug)]
pub struct Backup {
    places: Places,
    manifest: Manifest,
}

/// Where what lies in a backup.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// All of it.
    pub(super) directory: PathBuf,
}

impl Places {
    pub(super) fn segments(&self) -> PathBuf {
        self.directory.join("segments")
    }

    pub(super) fn segment(&self, first: Position) -> PathBuf {
        self.segments().join(format!("{:020}.{SEGMENT}", first.0))
    }

    pub(super) fn tail(&self, first: Position) -> PathBuf {
        self.segments().join(format!("{:020}.{TAIL}", first.0))
    }

    pub(super) fn vault(&self) -> PathBuf {
        self.directory.join("vault")
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.directory.join("ledger")
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.directory.join("manifest")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// What is stated; `None`: nothing yet.
    pub(super) fn read_manifest(&self, key: &LogKey) -> Result<Option<Manifest>, BackupError> {
        let path = self.manifest();
        match fs::read_to_string(&path) {
            Ok(text) => Manifest::decode(&text, key).map(Some).ok_or(BackupError::Manifest(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(BackupError::Manifest(path))
            }
            Err(error) => Err(error).at(&path),
        }
    }

    /// Where the segments begin, in order.
    pub(super) fn list_segments(&self) -> Result<Vec<Position>, BackupError> {
        self.list(SEGMENT)
    }

    /// Where the tails begin, in order.
    pub(super) fn list_tails(&self) -> Result<Vec<Position>, BackupError> {
        self.list(TAIL)
    }

    /// Whether there are any records.
    pub(super) fn hold_records(&self) -> Result<bool, BackupError> {
        Ok(!self.list_segments()?.is_empty() || !self.list_tails()?.is_empty())
    }

    fn list(&self, extension: &str) -> Result<Vec<Position>, BackupError> {
        let directory = self.segments();
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).at(&directory)? {
            let path = PathBuf::from(entry.at(&directory)?.file_name());
            if path.extension() == Some(OsStr::new(extension)) {
                let number = path.file_stem().and_then(OsStr::to_str).and_then(|n| n.parse().ok());
                found.extend(number.map(Position));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Says which file of records an error is about.
pub(super) fn in_file(path: &Path) -> impl FnOnce(SegmentError) -> BackupError {
    |error| BackupError::Segment { path: path.to_owned(), error }
}

impl Backup {
    /// Opens a backup that the log's key signed.
    pub fn open(directory: &Path, key: &LogKey) -> Result<Self, BackupError> {
        let places = Places { directory: directory.to_owned() };
        let manifest = places.read_manifest(key)?;
        let manifest = manifest.ok_or_else(|| BackupError::Unfinished(directory.to_owned()))?;
        Ok(Self { places, manifest })
    }

    /// How many records it has.
    pub fn head(&self) -> Position {
        self.manifest.tree.size()
    }

    /// The root over them.
    pub fn root(&self) -> Root {
        self.manifest.tree.root()
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Calls `each` with every record, in order, and with the tree over it and those before it. The
    /// records are those that were backed up only when this returns without an error.
    pub fn records<E: From<BackupError>>(
        &self,
        mut each: impl FnMut(Position, &[u8], &CompactRange) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut tree = CompactRange::default();
        for first in self.places.list_segments()? {
            if first >= self.head() || first != tree.size() {
                // Not stated, or there is a gap, of which is told below.
                break;
            }
            let path = self.places.segment(first);
            let bytes = fs::read(&path).at(&path)?;
            let records = segment::decode(&bytes, first, &tree.root()).map_err(in_file(&path))?;
            self.take(&records, &mut tree, &mut each)?;
        }
        let tail = self.places.tail(tree.size());
        if tree.size() < self.head() && tail.exists() {
            let bytes = fs::read(&tail).at(&tail)?;
            let (records, rest) =
                tail::decode(&bytes, tree.size(), &tree.root()).map_err(in_file(&tail))?;
            self.take(&records, &mut tree, &mut each)?;
            if tree.size() < self.head() {
                rest.map_err(in_file(&tail))?;
            }
        }
        if tree.size() < self.head() {
            let (directory, position) = (self.places.segments(), tree.size());
            return Err(BackupError::Missing { directory, position }.into());
        }
        if tree == self.manifest.tree {
            Ok(())
        } else {
            let directory = self.places.directory.clone();
            Err(BackupError::Changed { directory, position: tree.size() }.into())
        }
    }

    /// Takes in the records that are stated.
    fn take<E>(
        &self,
        records: &[&[u8]],
        tree: &mut CompactRange,
        each: &mut impl FnMut(Position, &[u8], &CompactRange) -> Result<(), E>,
    ) -> Result<(), E> {
        for bytes in records {
            let position = tree.size();
            if position >= self.head() {
                break;
            }
            tree.push(record::hash(bytes));
            each(position, bytes, tree)?;
        }
        Ok(())
    }

    /// Checks the copies of vault and ledger, as far as that can be done without a key, and gives the
    /// vault's epoch.
    pub fn check_vault(&self) -> Result<u32, BackupError> {
        let path = self.places.vault();
        let (epoch, slots) = inspect(&path)?;
        let Manifest { epoch: stated_epoch, slots: stated_slots, .. } = self.manifest;
        if epoch < stated_epoch || slots < stated_slots {
            return Err(BackupError::VaultCut { path, epoch, slots, stated_epoch, stated_slots });
        }
        Stored::read(&self.places.ledger())?.newest_epoch()?;
        Ok(epoch)
    }
}
