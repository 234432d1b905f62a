//! Files that are there whole or not at all after a power cut, for this user's eyes only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::BackupError;

/// The ending of a file that is not finished.
pub(super) const UNFINISHED: &str = "unfinished";

/// Says which file an error is about.
pub(super) trait At<T> {
    fn at(self, path: &Path) -> Result<T, BackupError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, BackupError> {
        self.map_err(|error| BackupError::Io { path: path.to_owned(), error })
    }
}

/// Makes a directory and those above it, durably. It may be there.
pub(super) fn directory(path: &Path) -> Result<(), BackupError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        directory(parent)?;
    }
    DirBuilder::new().mode(0o700).create(path).at(path)?;
    sync_parent(path)
}

/// A name is durable when its directory is synced.
pub(super) fn sync_parent(path: &Path) -> Result<(), BackupError> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).at(parent)
}

/// A file that nothing is in yet.
pub(super) fn create(path: &Path) -> Result<File, BackupError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path).at(path)
}

/// Writes a file, or puts it in the place of one: it is the old one or the new one, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<File, BackupError> {
    let unfinished = unfinished(path);
    let mut file = create(&unfinished)?;
    file.write_all(bytes).at(&unfinished)?;
    finish(&file, &unfinished, path)?;
    Ok(file)
}

/// Gives a file that is written its name.
pub(super) fn finish(file: &File, unfinished: &Path, path: &Path) -> Result<(), BackupError> {
    file.sync_all().at(unfinished)?;
    fs::rename(unfinished, path).at(path)?;
    sync_parent(path)
}

/// Where a file is written that is not finished.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}
