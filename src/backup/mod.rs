//! Backups: a directory from which a server is rebuilt, up to the head that its manifest states.
//!
//! ```text
//! segments/<first position>.seg    records, for ever as they are: see [`segment`]
//! segments/<first position>.tail   the newest records, where an archive is still adding: see [`tail`]
//! vault                            a copy of the vault: slots as they are stored
//! ledger                           a copy of the erasure ledger, which only ever grows
//! manifest                         how far it goes, signed, replaced last: see [`manifest`]
//! lock                             held by who writes
//! ```
//!
//! A backup, however often repeated into the same directory, and the continuous archive of a running
//! server are the same thing and can follow each other. Each step writes records first, then the
//! vault, which by then has every key that they are sealed under, then the ledger, and states all of it
//! in the manifest at the end. So a step that is interrupted leaves what was stated before.
//!
//! No key of the operator's lies in it: to restore takes `keys/` as well.

mod archive;
mod backup_dir;
mod durable;
mod follow;
pub mod manifest;
mod restore;
pub mod segment;
pub mod tail;
mod vault_copy;

use std::io;
use std::path::PathBuf;

use crate::domain::Position;
use crate::log::LogError;
use crate::log::head::HeadError;
use crate::vault::VaultError;
use crate::vault::ledger::LedgerError;
use segment::SegmentError;

pub use archive::{Archive, Finish, Source};
pub use backup_dir::Backup;
pub use follow::{Archived, Follower};
pub use restore::{Restored, Target, restore};

/// A backup cannot be written, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk, or what lies between it and us.
    #[error("{} cannot be read or written: {error}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The directory holds something else.
    #[error("{} holds something, and no backup; name an empty or a new directory", .0.display())]
    Foreign(PathBuf),
    /// Another process or thread writes there.
    #[error("another backup or archive writes to {}; wait for its end, or name another directory", .0.display())]
    Busy(PathBuf),
    /// There is no manifest.
    #[error(
        "{} has no manifest, and so is no backup that came to its end; put it back, or use another \
         directory", .0.display()
    )]
    Unfinished(PathBuf),
    /// The manifest is not as it was written, or another log's.
    #[error("{} is damaged, or signed by another key than keys/log.key; use another backup, or put back the key", .0.display())]
    Manifest(PathBuf),
    /// A file of records is not as it was written.
    #[error("{} {error}; use another backup", path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: SegmentError,
    },
    /// Records are missing.
    #[error("{} has no file with the record at position {position}; put it back, or use another backup", directory.display())]
    Missing {
        /// Where it should be.
        directory: PathBuf,
        /// The first that is missing.
        position: Position,
    },
    /// All files are whole, and do not add up to what the manifest states.
    #[error("the {position} records in {} are not those that its manifest states; use another backup", directory.display())]
    Changed {
        /// The backup.
        directory: PathBuf,
        /// How many there are.
        position: Position,
    },
    /// The directory is of a log that went on differently.
    #[error(
        "{} holds records that this log does not have; keep it, and back up to another directory",
        .0.display()
    )]
    OtherLog(PathBuf),
    /// The vault's copy is cut short or of another time.
    #[error(
        "{} is of epoch {epoch} with {slots} slots, and the manifest states epoch {stated_epoch} with \
         {stated_slots}; use another backup", path.display()
    )]
    VaultCut {
        /// The copy.
        path: PathBuf,
        /// Its epoch.
        epoch: u32,
        /// How many slots it has.
        slots: u32,
        /// What the manifest says.
        stated_epoch: u32,
        /// What the manifest says.
        stated_slots: u32,
    },
    /// A record is sealed under a key that the vault does not have.
    #[error(
        "the record at position {0} is sealed under a key that the vault's copy does not have; use another backup"
    )]
    Keyless(Position),
    /// The master key that the copy is wrapped under is gone.
    #[error(
        "the vault's copy in {} is of epoch {epoch}, and the master key is not: since this backup an \
         erasure became final, and what is older opens nothing. Use a newer backup, or put back the \
         master key of that epoch if it was never destroyed", path.display()
    )]
    OlderEpoch {
        /// The backup.
        path: PathBuf,
        /// The copy's epoch.
        epoch: u32,
    },
    /// The data that is still there is newer.
    #[error(
        "the backup ends at position {backup}, and the data that is there had come to {known}: what is \
         newer would be lost. Use a newer backup, or say --lose-newer"
    )]
    Older {
        /// Where the backup ends.
        backup: Position,
        /// What the head file says.
        known: Position,
    },
    /// The head file that is still there is of other records.
    #[error(
        "the first {0} records of the backup are not those of the data that is there. Use a backup of \
         this server, or say --lose-newer"
    )]
    Diverged(Position),
    /// The head file that is still there does not tell how far the data had come.
    #[error(
        "{}: {error}; so it cannot be told whether the backup is older than the data. Say --lose-newer \
         to restore all the same", path.display()
    )]
    HeadUnreadable {
        /// The head file.
        path: PathBuf,
        /// Why.
        error: HeadError,
    },
    /// There is no thread for it.
    #[error("the system gives no thread for a backup: {0}; try again")]
    Thread(std::io::Error),
    /// Whoever asked for it has gone.
    #[error("the backup was stopped before its end; what was backed up before is as it was")]
    Stopped,
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The ledger of erasures.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The head file.
    #[error(transparent)]
    Head(#[from] HeadError),
}

#[cfg(test)]
mod tests;
