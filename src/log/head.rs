//! The head file: how far the log had come, signed.
//!
//! A checkpoint in C2SP `tlog-checkpoint` form inside a C2SP `signed-note`: the log's name, the
//! number of records, the RFC 6962 root over them, and an Ed25519 signature. It is rewritten
//! atomically off the hot path, so it lags; but a log that ends before it, or has another root there,
//! has lost or changed something, and is not served.
//!
//! Formats: <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-checkpoint>.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::note::{Algorithm, KeyError, Note, SignerKey, VerifierKey};
use super::record::{self, Header};
use super::tree::{CompactRange, Root};
use super::{Log, LogError, pages};
use crate::domain::{Position, Timestamp};

/// The key that checkpoints are signed with, and the name of the log, which is the key's name.
pub struct LogKey(SignerKey);

/// What a checkpoint states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The number of records.
    pub size: Position,
    /// The root over them.
    pub root: Root,
}

/// The head file cannot be believed or written, or the log does not match it.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The file cannot be read or written.
    #[error("the head file cannot be read or written: {0}; check the disk, then start again")]
    Io(#[from] io::Error),
    /// There is no file.
    #[error(
        "the head file {} is missing: without it nobody would know that records are lost; restore it \
         from a backup", .0.display()
    )]
    Missing(PathBuf),
    /// Not a checkpoint signed by this log's key.
    #[error("the head file is damaged or signed by another key; restore it from a backup")]
    Invalid,
    /// The log ends too early.
    #[error(
        "the log ends at position {head}, but had come to {expected}: records are lost; restore it from a backup"
    )]
    Lost {
        /// Where it ends.
        head: Position,
        /// Where the head file says it was.
        expected: Position,
    },
    /// The log has other records.
    #[error(
        "the log's first {0} records are not those that were written; restore it from a backup"
    )]
    Changed(Position),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Checkpoint {
    /// The checkpoint in a note that this log's key signed, whoever signed it as well. `None`: it is
    /// no checkpoint (tlog-checkpoint, "Note text"), or of another log, or changed.
    pub fn verify(note: &str, key: &VerifierKey) -> Option<Self> {
        let note = Note::parse(note)?;
        note.verify(key).filter(|_| key.algorithm() == Algorithm::Ed25519)?;
        let mut lines = note.text().lines();
        let is_of_log = lines.next()? == key.name();
        let size = decimal(lines.next()?)?;
        let root = BASE64.decode(lines.next()?).ok()?.try_into().ok()?;
        // The lines after them nobody here writes, and none may be empty.
        (is_of_log && lines.all(|line| !line.is_empty()))
            .then_some(Self { size: Position(size), root })
    }

    /// The text that is signed, for the log of that name.
    pub fn text(&self, origin: &str) -> String {
        format!("{origin}\n{}\n{}\n", self.size, BASE64.encode(self.root))
    }
}

/// A number as these formats write it: without a sign or zeroes before it.
pub fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

impl LogKey {
    /// A fresh key for a log of that name: 1 to 255 bytes, no spaces, no `+`.
    pub fn generate(name: &str, rng: &mut dyn CryptoRng) -> Result<Self, KeyError> {
        SignerKey::generate(name, Algorithm::Ed25519, rng).map(Self)
    }

    /// Reads the form that [`LogKey::expose`] writes.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        SignerKey::parse(text, Algorithm::Ed25519).map(Self)
    }

    /// The key as text.
    pub fn expose(&self) -> Zeroizing<String> {
        self.0.expose()
    }

    /// What verifies its checkpoints.
    pub fn public(&self) -> &VerifierKey {
        self.0.public()
    }

    /// The signed note of a checkpoint.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.text(self.public().name());
        format!("{text}\n{}", self.0.sign(&text, Timestamp::EPOCH))
    }

    /// The checkpoint in a note that this key signed.
    pub fn verify(&self, note: &str) -> Result<Checkpoint, HeadError> {
        Checkpoint::verify(note, self.public()).ok_or(HeadError::Invalid)
    }
}

/// Rewrites the head file.
pub fn write(path: &Path, key: &LogKey, checkpoint: &Checkpoint) -> Result<(), HeadError> {
    Ok(replace(path, &key.sign(checkpoint))?)
}

/// Rewrites a file with a signed note: after a power cut it is the old one or the new one, whole.
pub(crate) fn replace(path: &Path, note: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// The checkpoint in the head file.
pub fn read(path: &Path, key: &LogKey) -> Result<Checkpoint, HeadError> {
    let note = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => HeadError::Missing(path.to_owned()),
        _ => error.into(),
    })?;
    key.verify(str::from_utf8(&note).map_err(|_| HeadError::Invalid)?)
}

/// Reads every record of the log that is not in the tree yet, checks its checksum and its place, and that
/// the log is the one that all checkpoints are of which are not older than the tree, or a continuation of
/// it. `each` sees every page that is read: the headers, and what `open` makes of the records, on all
/// processors and before they are checked.
pub fn check<T: Send>(
    log: &dyn Log,
    known: &[Checkpoint],
    tree: CompactRange,
    open: impl Fn(Position, &[Vec<u8>]) -> T + Copy + Send,
    mut each: impl FnMut(&[Header], T),
) -> Result<CompactRange, HeadError> {
    let mut range = tree;
    let mut known: Vec<_> = known.iter().filter(|known| known.size >= range.size()).collect();
    known.sort_by_key(|known| known.size);
    let mut known = known.into_iter().peekable();
    let mut compare = |range: &CompactRange| {
        while let Some(known) = known.next_if(|known| known.size == range.size()) {
            if known.root != range.root() {
                return Err(HeadError::Changed(known.size));
            }
        }
        Ok(known.peek().map(|known| known.size))
    };
    compare(&range)?;
    let check_page = move |first, records: &[Vec<u8>]| {
        let check = |(position, bytes): (Position, &Vec<u8>)| {
            let decoded = record::decode(bytes, position);
            let (header, _) = decoded.map_err(|error| LogError::Damaged(position, error))?;
            Ok::<_, LogError>((header, record::hash(bytes)))
        };
        let positions = (0..).map(|offset| Position::plus(first, offset));
        let checked: Vec<_> = positions.zip(records).map(check).collect();
        (checked, open(first, records))
    };
    thread::scope(|scope| {
        for page in pages(scope, log, range.size(), check_page) {
            let (checked, opened) = page?;
            let mut headers = Vec::with_capacity(checked.len());
            for checked in checked {
                let (header, hash) = checked?;
                range.push(hash);
                compare(&range)?;
                headers.push(header);
            }
            each(&headers, opened);
        }
        Ok::<_, HeadError>(())
    })?;
    let head = range.size();
    match compare(&range)? {
        Some(expected) => Err(HeadError::Lost { head, expected }),
        None => Ok(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Position;
    use crate::log::memory::MemoryLog;
    use crate::log::record::tests::records;
    use crate::log::tree::tests::tree_of;

    /// From the example of <https://c2sp.org/signed-note>.
    const EXAMPLE_KEY: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

    fn log(records: &[Vec<u8>]) -> MemoryLog {
        let log = MemoryLog::default();
        let _ = log.append(Position::ZERO, records).unwrap();
        log
    }

    fn checkpoint(records: &[Vec<u8>]) -> Checkpoint {
        let tree = tree_of(records);
        Checkpoint { size: tree.size(), root: tree.root() }
    }

    #[test]
    fn a_head_file_reads_back_and_each_changed_byte_is_found() {
        let key = LogKey::parse(EXAMPLE_KEY).unwrap();
        let stated = checkpoint(&records(5));
        let note = key.sign(&stated);
        assert_eq!(key.verify(&note).unwrap(), stated);
        for i in 0..note.len() {
            let mut changed = note.clone().into_bytes();
            changed[i] ^= 1;
            let valid = String::from_utf8(changed).is_ok_and(|note| key.verify(&note).is_ok());
            assert!(!valid, "byte {i}");
        }
    }

    #[test]
    fn a_log_that_lost_or_changed_records_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("head");
        let key = LogKey::generate("test", &mut rand::rng()).unwrap();
        let ten = records(10);
        write(&path, &key, &checkpoint(&ten[..7])).unwrap();
        let check = |records: &[Vec<u8>]| {
            let known = [read(&path, &key)?];
            check(&log(records), &known, CompactRange::default(), |_, _| (), |_, ()| ())
        };

        for continued in 7..=10 {
            assert_eq!(check(&ten[..continued]).unwrap().size(), Position(continued as u64));
        }
        for lost in 0..7 {
            let expected = Position(7);
            assert!(matches!(check(&ten[..lost]),
                Err(HeadError::Lost { head, expected: e }) if head.0 == lost as u64 && e == expected));
        }
        let mut other = ten.clone();
        other[2] = record::encode(
            &Header { event_type: 2, ..record::decode(&ten[2], Position(2)).unwrap().0 },
            &[7; 80],
        );
        assert!(matches!(check(&other), Err(HeadError::Changed(Position(7)))));
        other[4][20] ^= 1;
        let damaged = check(&other).unwrap_err().to_string();
        assert!(damaged.contains("position 4"), "{damaged}");
    }

    #[test]
    fn a_tree_that_is_known_is_gone_on_from_and_told_by_the_root() {
        let ten = records(10);
        for from in 0..=7 {
            let mut read = 0;
            let known = [checkpoint(&ten[..3]), checkpoint(&ten[..7])];
            let open = |first: Position, records: &[Vec<u8>]| (first.0, records.len());
            let whole =
                check(&log(&ten), &known, tree_of(&ten[..from]), open, |headers, opened| {
                    assert_eq!(opened, (from as u64, headers.len()));
                    read += headers.len();
                });
            assert_eq!(whole.unwrap(), tree_of(&ten));
            assert_eq!(read, 10 - from);
        }
        let other = CompactRange::from_parts(Position(4), vec![[7; 32]]).unwrap();
        let told = check(&log(&ten), &[checkpoint(&ten[..7])], other, |_, _| (), |_, ()| ());
        assert!(matches!(told, Err(HeadError::Changed(Position(7)))));
    }

    #[test]
    fn another_logs_head_file_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("head");
        let [ours, theirs] =
            ["a", "a"].map(|name| LogKey::generate(name, &mut rand::rng()).unwrap());
        write(&path, &theirs, &checkpoint(&[])).unwrap();
        assert!(matches!(read(&path, &ours), Err(HeadError::Invalid)));
        fs::write(&path, [0xFF; 100]).unwrap();
        assert!(matches!(read(&path, &ours), Err(HeadError::Invalid)));
        fs::remove_file(&path).unwrap();
        let missing = read(&path, &ours);
        assert!(matches!(missing, Err(HeadError::Missing(missing)) if missing == path));
    }
}
