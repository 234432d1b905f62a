//! The master key: what the vault's slots are wrapped under. It lies outside the data directory, so
//! that a copy of the directory alone opens nothing.
//!
//! The vault moves to a new master key from time to time, and the old one is overwritten. In between
//! the new one lies beside the old: which of the two holds is told by the vault's epoch.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use rand::CryptoRng;
use zeroize::Zeroizing;

/// What the text form begins with.
const PREFIX: &str = "countersign-master-key-v1";

/// A key and the epoch it belongs to. Keys of earlier epochs are destroyed, and open nothing.
pub struct MasterKey {
    pub(super) epoch: u32,
    pub(super) key: Zeroizing<[u8; 32]>,
}

/// Why there is no master key. Holds nothing of the file's text.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// Not of the form.
    #[error(
        "is no master key: expected one line, {PREFIX}:<epoch>:<43 characters of base64>; put it \
         back from its copy"
    )]
    Form,
    /// The file cannot be read or written.
    #[error(
        "the master key {} cannot be read or written: {error}; put it back, nothing opens without it",
        path.display()
    )]
    Io {
        /// Where it should be.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The next key cannot be put beside the one that holds.
    #[error("the new master key {} cannot be written: {error}; check the disk", path.display())]
    Stage {
        /// Where it should be.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The file holds something else.
    #[error("{} {form}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        form: Box<MasterKeyError>,
    },
    /// Others may read it.
    #[error("{} can be read by others; `chmod 600` it, and move to a new epoch if they are not trusted", .0.display())]
    Exposed(PathBuf),
}

impl MasterKey {
    /// A fresh key of the first epoch.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::of_epoch(1, rng)
    }

    /// A fresh key of an epoch.
    pub(super) fn of_epoch(epoch: u32, rng: &mut dyn CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut());
        Self { epoch, key }
    }

    /// Reads the form that [`MasterKey::expose`] writes.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let rest = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(':'));
        let parts = rest.and_then(|rest| rest.split_once(':'));
        let (epoch, encoded) = parts.ok_or(MasterKeyError::Form)?;
        let epoch = epoch.parse().map_err(|_| MasterKeyError::Form)?;
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| MasterKeyError::Form)?);
        let key = bytes.as_slice().try_into().map_err(|_| MasterKeyError::Form)?;
        Ok(Self { epoch, key: Zeroizing::new(key) })
    }

    /// The key as one line of text.
    pub fn expose(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(BASE64.encode(self.key.as_ref()));
        Zeroizing::new(format!("{PREFIX}:{}:{}\n", self.epoch, *encoded))
    }
}

/// Where the master key lies.
#[derive(Debug, Clone)]
pub struct KeyFile {
    path: PathBuf,
    is_credential: bool,
}

/// What lies where the next key is put.
#[derive(Debug, PartialEq, Eq)]
enum Staged {
    Nothing,
    /// What a power cut left of one.
    Torn,
    /// A key of this epoch.
    Key(u32),
}

impl KeyFile {
    /// A file that is ours. Where it is a link, to a disk of its own perhaps, the file is what it leads
    /// to: the next key is to lie there too.
    pub fn file(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self { path, is_credential: false }
    }

    /// A credential that the system gives us, and that we cannot replace.
    pub fn credential(path: &Path) -> Self {
        Self { path: path.to_owned(), is_credential: true }
    }

    /// Whether a new master key can be put in its place.
    pub(super) fn can_be_replaced(&self) -> bool {
        !self.is_credential
    }

    /// The key for a vault of this epoch. A move to a new key that was interrupted is carried to its
    /// end where the vault has made it, and undone where it has not.
    pub(super) fn resolve(&self, epoch: u32) -> Result<MasterKey, MasterKeyError> {
        let staged = self.staged()?;
        if staged == Staged::Key(epoch) {
            self.commit()?;
        }
        // Who reads a credential is the system's affair, and its mode does not tell.
        let key = read(&self.path, !self.is_credential)?;
        // Where neither is the vault's, nothing is destroyed.
        let is_other = match staged {
            Staged::Key(other) => other != epoch,
            Staged::Torn => true,
            Staged::Nothing => false,
        };
        if is_other && key.epoch == epoch {
            let next = self.next();
            overwrite(&next).map_err(|error| MasterKeyError::Io { path: next, error })?;
        }
        Ok(key)
    }

    /// Whether there is a key of this epoch. It changes nothing.
    pub fn has(&self, epoch: u32) -> Result<bool, MasterKeyError> {
        let staged = self.staged()?;
        if staged == Staged::Key(epoch) {
            return Ok(true);
        }
        match read(&self.path, !self.is_credential) {
            Ok(key) => Ok(key.epoch == epoch),
            // A move that was interrupted overwrites it when the next one is there.
            Err(MasterKeyError::File { .. }) if matches!(staged, Staged::Key(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What lies beside the key that holds. What cannot be read now may be the only key to the vault.
    fn staged(&self) -> Result<Staged, MasterKeyError> {
        if !self.can_be_replaced() {
            return Ok(Staged::Nothing);
        }
        match read(&self.next(), true) {
            Ok(key) => Ok(Staged::Key(key.epoch)),
            Err(MasterKeyError::File { .. }) => Ok(Staged::Torn),
            Err(MasterKeyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Staged::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts the next key beside the one that holds, durably.
    pub(super) fn stage(&self, key: &MasterKey) -> Result<(), MasterKeyError> {
        let next = self.next();
        let stage = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&next)?;
            file.write_all(key.expose().as_bytes())?;
            file.sync_all()?;
            sync_parent(&next)
        };
        stage().map_err(|error| MasterKeyError::Stage { path: next.clone(), error })
    }

    /// Overwrites the key that held, and puts the next one in its place.
    pub(super) fn commit(&self) -> Result<(), MasterKeyError> {
        let commit = || {
            wipe(&self.path)?;
            fs::rename(self.next(), &self.path)?;
            sync_parent(&self.path)
        };
        commit().map_err(|error| MasterKeyError::Io { path: self.path.clone(), error })
    }

    fn next(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".next");
        name.into()
    }
}

fn read(path: &Path, must_be_private: bool) -> Result<MasterKey, MasterKeyError> {
    let io = |error| MasterKeyError::Io { path: path.to_owned(), error };
    if must_be_private && fs::metadata(path).map_err(io)?.permissions().mode() & 0o077 != 0 {
        return Err(MasterKeyError::Exposed(path.to_owned()));
    }
    let parsed = match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => MasterKey::parse(&text),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(MasterKeyError::Form),
        Err(error) => return Err(io(error)),
    };
    parsed.map_err(|form| MasterKeyError::File { path: path.to_owned(), form: Box::new(form) })
}

/// Overwrites a file in place, and removes it.
fn overwrite(path: &Path) -> io::Result<()> {
    wipe(path)?;
    fs::remove_file(path)?;
    sync_parent(path)
}

/// Overwrites a file's bytes where they are.
fn wipe(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    file.write_all(&vec![0; length])?;
    file.sync_all()
}

/// A name is durable when its directory is synced.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_reads_back() {
        let key = MasterKey::generate(&mut rand::rng());
        let text = key.expose();
        let read = MasterKey::parse(&text).unwrap();
        assert!((read.epoch, read.key) == (key.epoch, key.key));
        for wrong in ["", "x", &text[1..], &text[..text.len() - 3], &text.replace(":1:", ":-1:")] {
            assert!(MasterKey::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_move_that_was_interrupted_leaves_the_next_key_or_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let [first, second] = [1, 2].map(|epoch| MasterKey::of_epoch(epoch, &mut rand::rng()));
        let file = KeyFile::file(&path);
        let put = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        put(first.expose().as_bytes());
        file.stage(&second).unwrap();
        assert_eq!([1, 2, 3].map(|epoch| file.has(epoch).unwrap()), [true, true, false]);
        put(&[0; 72]);
        assert_eq!([1, 2, 3].map(|epoch| file.has(epoch).unwrap()), [false, true, false]);
        // One that cannot be read is not taken for one that does not matter.
        fs::set_permissions(file.next(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(file.has(2), Err(MasterKeyError::Exposed(_))));
        assert!(matches!(file.resolve(1), Err(MasterKeyError::Exposed(_))));
        fs::set_permissions(file.next(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(file.resolve(2).unwrap().epoch, 2);
        put(&[0; 72]);
        assert!(matches!(file.has(2), Err(MasterKeyError::File { .. })));
    }
}
