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

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::record::{self, Header};
use super::tree::{CompactRange, Root};
use super::{Log, LogError, scan};
use crate::domain::Position;

/// Ed25519 in a signed note's key.
const ALGORITHM: u8 = 1;
const PRIVATE_KEY_PREFIX: &str = "PRIVATE+KEY";

/// The key that checkpoints are signed with, and the name of the log, which is the key's name.
pub struct LogKey {
    name: String,
    key: SigningKey,
}

/// Why a log key is not one. Holds nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a log key: expected PRIVATE+KEY+<name>+<hash>+<key> on one line; put it back from its copy"
)]
pub struct LogKeyError;

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

impl LogKey {
    /// A fresh key for a log of that name: no spaces, no `+`.
    pub fn generate(name: &str, rng: &mut dyn CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self { name: name.to_owned(), key: SigningKey::from_bytes(&seed) }
    }

    /// Reads the form that [`LogKey::expose`] writes.
    pub fn parse(text: &str) -> Result<Self, LogKeyError> {
        let parts: Vec<&str> = text.trim().splitn(5, '+').collect();
        let [private, key, name, _hash, encoded] = parts[..] else { return Err(LogKeyError) };
        if [private, key].join("+") != PRIVATE_KEY_PREFIX || name.is_empty() {
            return Err(LogKeyError);
        }
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| LogKeyError)?);
        let seed = match bytes.split_first() {
            Some((&ALGORITHM, seed)) => seed.try_into().map_err(|_| LogKeyError)?,
            _ => return Err(LogKeyError),
        };
        let key = Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) };
        if *key.expose() == text.trim() { Ok(key) } else { Err(LogKeyError) }
    }

    /// The key as text, in the form of Go's `note` package:
    /// `PRIVATE+KEY+<name>+<hash>+<base64 of 1 and the seed>`.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([ALGORITHM; 33]);
        bytes[1..].copy_from_slice(self.key.as_bytes());
        let hash = u32::from_be_bytes(self.hash());
        let encoded = Zeroizing::new(BASE64.encode(bytes.as_ref()));
        Zeroizing::new(format!("{PRIVATE_KEY_PREFIX}+{}+{hash:08x}+{}", self.name, *encoded))
    }

    fn hash(&self) -> [u8; 4] {
        let digest = Sha256::new_with_prefix(&self.name)
            .chain_update([b'\n', ALGORITHM])
            .chain_update(self.key.verifying_key())
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// The signed note of a checkpoint.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let (name, size) = (&self.name, checkpoint.size);
        let body = format!("{name}\n{size}\n{}\n", BASE64.encode(checkpoint.root));
        let mut signature = self.hash().to_vec();
        signature.extend_from_slice(&self.key.sign(body.as_bytes()).to_bytes());
        format!("{body}\n\u{2014} {name} {}\n", BASE64.encode(signature))
    }

    /// The checkpoint in a note that this key signed.
    pub fn verify(&self, note: &str) -> Result<Checkpoint, HeadError> {
        let checkpoint = self.parse_note(note).ok_or(HeadError::Invalid)?;
        Ok(checkpoint)
    }

    fn parse_note(&self, note: &str) -> Option<Checkpoint> {
        let (body, signatures) = note.split_once("\n\n")?;
        let body = format!("{body}\n");
        let prefix = format!("\u{2014} {} ", self.name);
        let signed = signatures.lines().filter_map(|line| line.strip_prefix(&prefix)).any(|line| {
            BASE64.decode(line).ok().is_some_and(|bytes| match bytes.split_at_checked(4) {
                Some((hash, signature)) => {
                    hash == self.hash()
                        && Signature::from_slice(signature).is_ok_and(|signature| {
                            self.key
                                .verifying_key()
                                .verify_strict(body.as_bytes(), &signature)
                                .is_ok()
                        })
                }
                None => false,
            })
        });
        let mut lines = body.lines();
        let is_ours = signed && lines.next()? == self.name;
        let size = Position(lines.next()?.parse().ok()?);
        let root = BASE64.decode(lines.next()?).ok()?.try_into().ok()?;
        is_ours.then_some(Checkpoint { size, root })
    }
}

/// Rewrites the head file: after a power cut it is the old one or the new one, whole.
pub fn write(path: &Path, key: &LogKey, checkpoint: &Checkpoint) -> Result<(), HeadError> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(key.sign(checkpoint).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
}

/// Reads every record of the log, checks its checksum and its place, and that the log is the one the
/// head file knows or a continuation of it. `each` sees every header.
pub fn check(
    log: &dyn Log,
    path: &Path,
    key: &LogKey,
    mut each: impl FnMut(&Header),
) -> Result<CompactRange, HeadError> {
    let note = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => HeadError::Missing(path.to_owned()),
        _ => error.into(),
    })?;
    let known = key.verify(str::from_utf8(&note).map_err(|_| HeadError::Invalid)?)?;
    let mut range = CompactRange::default();
    let mut matches = known.root == range.root() && known.size == Position::ZERO;
    let head = scan(log, Position::ZERO, |position, bytes| {
        let (header, _) =
            record::decode(bytes, position).map_err(|error| LogError::Damaged(position, error))?;
        range.push(record::hash(bytes));
        if range.size() == known.size {
            matches = range.root() == known.root;
        }
        each(&header);
        Ok::<_, HeadError>(())
    })?;
    if head < known.size {
        return Err(HeadError::Lost { head, expected: known.size });
    }
    if matches { Ok(range) } else { Err(HeadError::Changed(known.size)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Position;
    use crate::log::memory::MemoryLog;
    use crate::log::record::KeySlot;

    /// From the example of <https://c2sp.org/signed-note>.
    const EXAMPLE_KEY: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

    fn records(n: u64) -> Vec<Vec<u8>> {
        let header = |position| Header {
            event_type: 1,
            position,
            slot: KeySlot(1),
            id: [0; 16],
            commitment: [0; 32],
        };
        (0..n).map(|i| record::encode(&header(Position(i)), &[7; 80])).collect()
    }

    fn log(records: &[Vec<u8>]) -> MemoryLog {
        let log = MemoryLog::default();
        let _ = log.append(Position::ZERO, records).unwrap();
        log
    }

    fn checkpoint(records: &[Vec<u8>]) -> Checkpoint {
        let mut range = CompactRange::default();
        for bytes in records {
            range.push(record::hash(bytes));
        }
        Checkpoint { size: range.size(), root: range.root() }
    }

    #[test]
    fn a_key_reads_back_as_the_form_gos_note_package_writes() {
        let key = LogKey::parse(EXAMPLE_KEY).unwrap();
        assert_eq!(*key.expose(), EXAMPLE_KEY);
        for text in ["", "PRIVATE+KEY+a+b", &EXAMPLE_KEY.replace("c74f", "c74e"), "x+y+a+b+c"] {
            assert_eq!(LogKey::parse(text).err(), Some(LogKeyError), "{text}");
        }
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
        let key = LogKey::generate("test", &mut rand::rng());
        let ten = records(10);
        write(&path, &key, &checkpoint(&ten[..7])).unwrap();
        let check = |records: &[Vec<u8>]| check(&log(records), &path, &key, |_| ());

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
    fn another_logs_head_file_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("head");
        let [ours, theirs] = ["a", "a"].map(|name| LogKey::generate(name, &mut rand::rng()));
        write(&path, &theirs, &checkpoint(&[])).unwrap();
        assert!(matches!(check(&log(&[]), &path, &ours, |_| ()), Err(HeadError::Invalid)));
        fs::write(&path, [0xFF; 100]).unwrap();
        assert!(matches!(check(&log(&[]), &path, &ours, |_| ()), Err(HeadError::Invalid)));
        fs::remove_file(&path).unwrap();
        let missing = check(&log(&[]), &path, &ours, |_| ());
        assert!(matches!(missing, Err(HeadError::Missing(missing)) if missing == path));
    }
}
