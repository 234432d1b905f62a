//! The erasure ledger: which keys were destroyed, and in which epoch the vault is. It lies apart from
//! the data, so that a vault from a backup cannot bring back what was erased since.
//!
//! A text file that only ever grows, a line a fact, each durable before it holds:
//!
//! ```text
//! countersign erasure ledger v1
//! erased <slot>:<fingerprint>,<slot>:<fingerprint>,… <CRC-32C of the line before it>
//! epoch <number> <CRC-32C of the line before it>
//! ```
//!
//! It names no person: a fingerprint is a hash of a random key that is gone.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Fingerprint;
use super::master::sync_parent;
use crate::log::durability::reread_from_disk;
use crate::log::record::KeySlot;

const TITLE: &str = "countersign erasure ledger v1";

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk, or what lies between it and us.
    #[error(
        "the erasure ledger {} cannot be read or written: {error}; put it back from where its copy \
         is: without it, what was erased could come back", path.display()
    )]
    Io {
        /// Where it should be.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A line is not as it was written.
    #[error("line {line} of the erasure ledger {} is damaged; put back a copy of it", path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// Which line, from one.
        line: usize,
    },
}

/// A ledger's file as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    path: PathBuf,
    text: String,
}

/// What is in a ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// Every key that was destroyed.
    pub(super) erased: Vec<(KeySlot, Fingerprint)>,
    /// The newest epoch.
    pub(super) epoch: u32,
}

/// An open ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
}

/// Makes an empty one for a vault of the first epoch. Its directory is the caller's to sync.
pub fn create_new(path: &Path) -> Result<(), LedgerError> {
    let create = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(format!("{TITLE}\n{}", line("epoch 1".to_owned())).as_bytes())?;
        file.sync_all()
    };
    create().map_err(|error| LedgerError::Io { path: path.to_owned(), error })
}

/// Has the ledger at `path` say all that another one says, durably on return; where there is none, it
/// becomes that one's text. What it says already stays.
pub fn merge(path: &Path, other: &Stored) -> Result<(), LedgerError> {
    let (theirs, Whole { text, lacks_end }) = other.entries()?;
    let io = |error| LedgerError::Io { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let end = if lacks_end { "\n" } else { "" };
            return create_whole(path, &[text, end].concat()).map_err(io);
        }
        // A link that leads nowhere is a disk that is not there: what its ledger says is not known.
        found => found.map_err(io)?,
    };
    let (mut ledger, ours) = Ledger::open(path)?;
    let known: HashSet<_> = ours.erased.iter().collect();
    let missing: Vec<_> =
        theirs.erased.into_iter().filter(|erased| !known.contains(erased)).collect();
    if !missing.is_empty() {
        ledger.erased(&missing)?;
    }
    if theirs.epoch > ours.epoch { ledger.epoch(theirs.epoch) } else { Ok(()) }
}

/// It has its name when it is whole: an empty one would be taken for one that is damaged.
fn create_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_parent(path)
}

impl Stored {
    /// Reads a file, and believes nothing of it yet.
    pub fn read(path: &Path) -> Result<Self, LedgerError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| LedgerError::Io { path: path.to_owned(), error })?;
        Ok(Self { path: path.to_owned(), text })
    }

    /// The newest epoch that it knows of.
    pub fn newest_epoch(&self) -> Result<u32, LedgerError> {
        Ok(self.entries()?.0.epoch)
    }

    fn entries(&self) -> Result<(Entries, Whole<'_>), LedgerError> {
        let whole = whole(&self.text);
        let damaged = |line| LedgerError::Damaged { path: self.path.clone(), line };
        Ok((Entries::parse(whole.text).map_err(damaged)?, whole))
    }
}

impl Ledger {
    /// Opens a ledger and reads all of it. A last line that a power cut interrupted is removed: what
    /// it was about had not begun. If it lacks nothing but its end, it gets that: it may be from a copy.
    pub(super) fn open(path: &Path) -> Result<(Self, Entries), LedgerError> {
        let io = |error| LedgerError::Io { path: path.to_owned(), error };
        let mut file = OpenOptions::new().append(true).open(path).map_err(io)?;
        reread_from_disk(&file).map_err(io)?;
        let stored = Stored::read(path)?;
        let (entries, Whole { text, lacks_end }) = stored.entries()?;
        if text.len() < stored.text.len() {
            file.set_len(text.len() as u64).and_then(|()| file.sync_all()).map_err(io)?;
        }
        if lacks_end {
            file.write_all(b"\n").and_then(|()| file.sync_all()).map_err(io)?;
        }
        Ok((Self { path: path.to_owned(), file }, entries))
    }

    /// All of it, as it is stored.
    pub(super) fn stored(&self) -> Result<Stored, LedgerError> {
        Stored::read(&self.path)
    }

    /// Says, durably, that these keys are destroyed.
    pub(super) fn erased(&mut self, keys: &[(KeySlot, Fingerprint)]) -> Result<(), LedgerError> {
        self.append(body(keys))
    }

    /// Says, durably, in which epoch the vault is.
    pub(super) fn epoch(&mut self, epoch: u32) -> Result<(), LedgerError> {
        self.append(format!("epoch {epoch}"))
    }

    fn append(&mut self, body: String) -> Result<(), LedgerError> {
        let written = self.file.write_all(line(body).as_bytes());
        let synced = written.and_then(|()| self.file.sync_all());
        synced.map_err(|error| LedgerError::Io { path: self.path.clone(), error })
    }
}

/// What the disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A ledger's text without what a power cut left of a last line.
struct Whole<'a> {
    text: &'a str,
    /// The last line is there but for its end.
    lacks_end: bool,
}

/// What is left of a line that a power cut interrupted is a beginning, or lacks sectors: what it is about
/// had not begun. What else is wrong with a line is damage.
fn whole(text: &str) -> Whole<'_> {
    let start = text.strip_suffix('\n').unwrap_or(text).rfind('\n').map_or(0, |end| end + 1);
    let (before, last) = text.split_at(start);
    if let Some(line) = last.strip_suffix('\n') {
        let text = if lacks_a_sector(line, start) { before } else { text };
        return Whole { text, lacks_end: false };
    }
    // Its end may be all that lay in the sector that is missing.
    let line = last.trim_end_matches('\0');
    let end = start + line.len();
    if is_good(line) && (end == text.len() || end.is_multiple_of(SECTOR_BYTES)) {
        return Whole { text: &text[..end], lacks_end: true };
    }
    let mut shorter = last.chars();
    shorter.next_back();
    let has_changed_end = is_good(shorter.as_str());
    Whole { text: if has_changed_end { text } else { before }, lacks_end: false }
}

/// Whether there is nothing in a sector's part of a line that begins there in the file.
fn lacks_a_sector(line: &str, start: usize) -> bool {
    let border = SECTOR_BYTES - start % SECTOR_BYTES;
    let (first, rest) = line.as_bytes().split_at(border.min(line.len()));
    let mut parts = std::iter::once(first).chain(rest.chunks(SECTOR_BYTES));
    parts.any(|part| !part.is_empty() && part.iter().all(|&byte| byte == 0))
}

fn is_good(line: &str) -> bool {
    Entries::default().add(line).is_some()
}

fn body(erased: &[(KeySlot, Fingerprint)]) -> String {
    let mut body = "erased ".to_owned();
    for (number, (slot, fingerprint)) in erased.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(body, "{comma}{}:{:032x}", slot.0, u128::from_be_bytes(*fingerprint));
    }
    body
}

fn line(mut body: String) -> String {
    let checksum = crc32c::crc32c(body.as_bytes());
    // Writing to a string does not fail.
    let _ = writeln!(body, " {checksum:08x}");
    body
}

impl Entries {
    /// An error is the number of the first line that is damaged.
    fn parse(text: &str) -> Result<Self, usize> {
        let mut entries = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let is_good = if number == 1 { line == TITLE } else { entries.add(line).is_some() };
            if !is_good {
                return Err(number);
            }
        }
        if entries.epoch == 0 { Err(1) } else { Ok(entries) }
    }

    fn add(&mut self, text: &str) -> Option<()> {
        let (body, _) = text.rsplit_once(' ')?;
        if line(body.to_owned()).strip_suffix('\n') != Some(text) {
            return None;
        }
        match body.split_once(' ')? {
            ("epoch", number) => self.epoch = self.epoch.max(number.parse().ok()?),
            ("erased", keys) => {
                for key in keys.split(',') {
                    let (slot, fingerprint) = key.split_once(':')?;
                    let fingerprint = u128::from_str_radix(fingerprint, 16).ok()?.to_be_bytes();
                    self.erased.push((KeySlot(slot.parse().ok()?), fingerprint));
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("erasures");
        create_new(&path).unwrap();
        let (mut ledger, entries) = Ledger::open(&path).unwrap();
        assert_eq!(entries, Entries { erased: vec![], epoch: 1 });
        ledger.erased(&[(KeySlot(7), [1; 16]), (KeySlot(9), [0xAB; 16])]).unwrap();
        ledger.epoch(2).unwrap();
        let text = fs::read(&path).unwrap();
        (directory, path, text)
    }

    #[test]
    fn it_reads_back() {
        let (_directory, path, _) = written();
        let (_, entries) = Ledger::open(&path).unwrap();
        let erased = vec![(KeySlot(7), [1; 16]), (KeySlot(9), [0xAB; 16])];
        assert_eq!(entries, Entries { erased, epoch: 2 });
    }

    #[test]
    fn an_unfinished_last_line_is_removed_and_the_rest_holds() {
        let (_directory, path, text) = written();
        let last = text[..text.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        for end in last..text.len() - 1 {
            fs::write(&path, &text[..end]).unwrap();
            let (mut ledger, entries) = Ledger::open(&path).unwrap();
            assert_eq!((entries.erased.len(), entries.epoch), (2, 1));
            ledger.epoch(2).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_last_line_that_lacks_its_end_gets_it() {
        let (_directory, path, text) = written();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        let (_, entries) = Ledger::open(&path).unwrap();
        assert_eq!((entries.erased.len(), entries.epoch), (2, 2));
        assert_eq!(fs::read(&path).unwrap(), text);
    }

    /// Keys whose line is so many bytes longer than the shortest.
    fn keys(longer: usize) -> Vec<(KeySlot, Fingerprint)> {
        let digits = |number: usize| longer.saturating_sub(6 * number).min(6);
        let slot = |number| KeySlot((0..digits(number)).fold(1, |slot, _| 10 * slot));
        (0..90).map(|number| (slot(number), [9; 16])).collect()
    }

    #[test]
    fn a_last_line_that_lacks_sectors_is_cut_off() {
        for at_border in [false, true] {
            let (_directory, path, text) = written();
            // With what length the end alone lies in the last sector.
            let shortest = line(body(&keys(0))).len() - 1;
            let rest = (text.len() + shortest) % SECTOR_BYTES;
            let keys = keys(if at_border { SECTOR_BYTES - rest } else { 0 });
            Ledger::open(&path).unwrap().0.erased(&keys).unwrap();
            let long = fs::read(&path).unwrap();
            let sectors = text.len() / SECTOR_BYTES..long.len().div_ceil(SECTOR_BYTES);
            assert!(sectors.len() > 2, "{sectors:?}");
            for missing in 1..1_u32 << sectors.len() {
                let mut torn = long.clone();
                for (number, sector) in sectors.clone().enumerate() {
                    if missing >> number & 1 == 1 {
                        let end = torn.len().min((sector + 1) * SECTOR_BYTES);
                        torn[text.len().max(sector * SECTOR_BYTES)..end].fill(0);
                    }
                }
                fs::write(&path, &torn).unwrap();
                let copy = path.with_extension(missing.to_string());
                merge(&copy, &Stored::read(&path).unwrap()).unwrap();
                let (mut ledger, entries) = Ledger::open(&path).unwrap();
                // All of it is there but the end.
                let holds = at_border && missing == 1 << (sectors.len() - 1);
                let expected = if holds { &long } else { &text };
                assert!(&fs::read(&path).unwrap() == expected, "{missing:b}");
                assert!(&fs::read(&copy).unwrap() == expected, "{missing:b}");
                assert_eq!(entries.erased.len(), if holds { 2 + keys.len() } else { 2 });
                if !holds {
                    ledger.erased(&keys).unwrap();
                    assert!(fs::read(&path).unwrap() == long);
                }
            }
        }
    }

    fn stored(text: &str) -> Stored {
        Stored { path: "ledger".into(), text: text.to_owned() }
    }

    #[test]
    fn merging_adds_what_is_missing_and_takes_nothing_away() {
        let (directory, path, text) = written();
        let text = String::from_utf8(text).unwrap();
        let copy = directory.path().join("copy");
        // What a power cut leaves of the first merge.
        let unfinished = directory.path().join("copy.unfinished");
        fs::write(&unfinished, &text[1..]).unwrap();
        merge(&copy, &stored(&text)).unwrap();
        assert_eq!(fs::read_to_string(&copy).unwrap(), text);
        assert!(!unfinished.exists(), "it is written there, and then gets its name");
        // Each of the two goes on by itself.
        Ledger::open(&copy).unwrap().0.erased(&[(KeySlot(1), [3; 16])]).unwrap();
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        ledger.erased(&[(KeySlot(2), [4; 16])]).unwrap();
        ledger.epoch(3).unwrap();
        for _ in 0..2 {
            merge(&copy, &ledger.stored().unwrap()).unwrap();
            let (_, entries) = Ledger::open(&copy).unwrap();
            let slots: Vec<u32> = entries.erased.iter().map(|(slot, _)| slot.0).collect();
            assert_eq!((slots, entries.epoch), (vec![7, 9, 1, 2], 3));
        }
        merge(&copy, &stored(&text)).unwrap();
        assert_eq!(Stored::read(&copy).unwrap().newest_epoch().unwrap(), 3);
        assert!(merge(&copy, &stored(&text[1..])).is_err());
    }

    #[test]
    fn a_ledger_whose_disk_is_not_there_is_not_replaced() {
        let (directory, path, _) = written();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("elsewhere/erasures"), &link).unwrap();
        let error = merge(&link, &Stored::read(&path).unwrap()).unwrap_err();
        assert!(matches!(error, LedgerError::Io { .. }), "{error}");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_copy_that_lacks_the_end_of_its_last_line_loses_nothing() {
        let (directory, _, text) = written();
        let text = String::from_utf8(text).unwrap();
        let copy = directory.path().join("copy");
        merge(&copy, &stored(text.trim_end())).unwrap();
        let (_, entries) = Ledger::open(&copy).unwrap();
        assert_eq!((entries.erased.len(), entries.epoch), (2, 2));
        assert_eq!(fs::read_to_string(&copy).unwrap(), text);
    }

    #[test]
    fn the_newest_epoch_is_the_highest() {
        let text = [TITLE, "\n", &line("epoch 3".to_owned()), &line("epoch 2".to_owned())].concat();
        assert_eq!(stored(&text).newest_epoch().unwrap(), 3);
    }

    #[test]
    fn a_changed_line_is_named() {
        let (_directory, path, text) = written();
        for at in 0..text.len() - 1 {
            if text[at] == b'\n' {
                continue;
            }
            let mut changed = text.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            let number = text[..=at].split(|&byte| byte == b'\n').count();
            let error = Ledger::open(&path).unwrap_err();
            assert!(
                matches!(error, LedgerError::Damaged { line, .. } if line == number),
                "byte {at}: {error}"
            );
        }
        let mut changed = text.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(&path, &changed).unwrap();
        assert!(matches!(Ledger::open(&path).unwrap_err(), LedgerError::Damaged { line: 4, .. }));
        fs::remove_file(&path).unwrap();
        assert!(Ledger::open(&path).unwrap_err().to_string().contains("put it back"));
    }
}
