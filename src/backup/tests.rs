use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::segment::tests::record;
use super::*;
use crate::domain::SubjectId;
use crate::log::head::LogKey;
use crate::log::memory::MemoryLog;
use crate::log::record::{KeySlot, hash};
use crate::log::tree::CompactRange;
use crate::log::{Append, Log as _};
use crate::vault::file::{FileVault, Places};
use crate::vault::master::{KeyFile, MasterKey};
use crate::vault::{KeyName, NewKey, SlotState, Vault as _};

/// A log and a vault, and a place for backups.
struct Server {
    root: tempfile::TempDir,
    log: Arc<MemoryLog>,
    source: Source,
}

impl Server {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let master = MasterKey::generate(&mut rand::rng());
        fs::write(path("master.key"), master.expose().as_bytes()).unwrap();
        fs::set_permissions(path("master.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let (vault, ledger) = (path("vault"), path("ledger"));
        FileVault::create_new(&vault, &ledger, &master, &mut rand::rng()).unwrap();
        let master_key = KeyFile::file(&path("master.key"));
        let vault = FileVault::open(Places { vault, ledger, master_key }, &mut rand::rng());
        let log = Arc::new(MemoryLog::default());
        let source = Source {
            log: Arc::<MemoryLog>::clone(&log),
            vault: Arc::new(vault.unwrap()),
            tree: Arc::new(Mutex::new(CompactRange::default())),
            key: Arc::new(LogKey::generate("test", &mut rand::rng()).unwrap()),
        };
        let server = Self { root, log, source };
        server.keys(1);
        server
    }

    fn keys(&self, count: u8) -> Vec<KeySlot> {
        let names = (0..count).map(|_| SubjectId::from_bytes(rand::random()));
        let keys: Vec<NewKey> =
            names.map(|id| NewKey { name: KeyName::Identity(id), tag: None }).collect();
        let head = self.log.head().unwrap();
        self.source.vault.create(&keys, head, &mut rand::rng()).unwrap()
    }

    /// Appends so many records.
    fn append(&self, count: u64) {
        let head = self.log.head().unwrap();
        let records: Vec<Vec<u8>> = (head.0..head.0 + count).map(record).collect();
        assert_eq!(self.log.append(head, &records).unwrap(), Append::Appended);
        let mut tree = self.source.tree.lock().unwrap();
        for bytes in &records {
            tree.push(hash(bytes));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn open(&self, backup: &Path) -> Result<Archive, BackupError> {
        Archive::open(backup, self.source.clone())
    }

    fn read(&self, backup: &Path) -> Result<u64, BackupError> {
        let backup = Backup::open(backup, &self.source.key)?;
        backup.check_vault()?;
        let mut count = 0;
        backup.records(|position, bytes, _| {
            assert_eq!(bytes, record(position.0));
            count += 1;
            Ok::<_, BackupError>(())
        })?;
        Ok(count)
    }
}

fn advance(archive: &mut Archive, finish: Finish) -> Result<Position, BackupError> {
    archive.advance(finish, &mut |_, _| ControlFlow::Continue(()))
}

type Files = Vec<(PathBuf, Vec<u8>)>;

fn snapshot(directory: &Path) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}

fn names(files: &[(PathBuf, Vec<u8>)], extension: &str) -> Vec<PathBuf> {
    let paths = files.iter().map(|(path, _)| path.clone());
    paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

/// Makes a directory hold these files and no others.
fn put(directory: &Path, files: &[(PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(directory).unwrap();
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn backups_and_an_archive_go_on_from_each_other() {
    let server = Server::new();
    let path = server.path("backup");
    let steps = [Finish::Segment, Finish::Tail, Finish::Tail, Finish::Segment, Finish::Tail];
    for (number, finish) in (1..).zip(steps) {
        server.append(10);
        let mut archive = server.open(&path).unwrap();
        assert!(matches!(server.open(&path), Err(BackupError::Busy(_))));
        for _ in 0..3 {
            server.append(3);
            advance(&mut archive, finish).unwrap();
        }
        assert_eq!(server.read(&path).unwrap(), number * 19);
    }
    let files = snapshot(&path);
    assert_eq!((names(&files, "seg").len(), names(&files, "tail").len()), (6, 1));
    // Nothing new: nothing is written.
    let mut archive = server.open(&path).unwrap();
    advance(&mut archive, Finish::Tail).unwrap();
    assert_eq!(snapshot(&path), files);
}

#[test]
fn a_full_tail_becomes_a_segment() {
    let server = Server::new();
    let path = server.path("backup");
    let mut archive = server.open(&path).unwrap();
    let full = (segment::FULL_BYTES / (record(0).len() + 4)) as u64 + 1;
    for count in [full - 1, 1, 5, 2 * full] {
        server.append(count);
        advance(&mut archive, Finish::Tail).unwrap();
        assert_eq!(server.read(&path).unwrap(), server.log.head().unwrap().0);
    }
    let files = snapshot(&path);
    assert_eq!((names(&files, "seg").len(), names(&files, "tail").len()), (3, 1));
}

#[test]
fn a_step_that_stops_anywhere_leaves_what_was_stated_and_the_next_goes_on() {
    let server = Server::new();
    let path = server.path("backup");
    server.append(8);
    advance(&mut server.open(&path).unwrap(), Finish::Segment).unwrap();
    server.append(5);
    advance(&mut server.open(&path).unwrap(), Finish::Tail).unwrap();
    let before = snapshot(&path);
    server.keys(3);
    server.append(4);
    for finish in [Finish::Segment, Finish::Tail] {
        put(&path, &before);
        advance(&mut server.open(&path).unwrap(), finish).unwrap();
        let after = snapshot(&path);
        // In the order in which they are written.
        let order = ["seg", "tail", "vault", "ledger", "manifest"];
        let kind = |path: &Path| {
            let of = path.extension().or(path.file_name()).unwrap().to_str().unwrap().to_owned();
            order.iter().position(|name| *name == of)
        };
        let mut changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
        changed.retain(|(path, _)| kind(path).is_some());
        changed.sort_by_key(|(path, _)| kind(path));
        assert_eq!(kind(&changed.last().unwrap().0), Some(4), "the manifest is last");
        for stopped in 0..=changed.len() {
            for torn in [false, true] {
                // What is removed after the manifest is still there.
                let mut files = before.clone();
                for (number, (name, bytes)) in changed[..stopped].iter().enumerate() {
                    files.retain(|(path, _)| path != name);
                    let is_torn = torn && number + 1 == stopped && kind(name) != Some(4);
                    match kind(name) {
                        // These grow in place.
                        Some(1 | 2) if is_torn => {
                            files.push((name.clone(), bytes[..bytes.len() - 7].to_vec()));
                        }
                        // These get their name when they are whole.
                        _ if is_torn => {
                            let old = before.iter().find(|(path, _)| path == name);
                            files.extend(old.cloned());
                            let unfinished = durable::unfinished(name);
                            files.push((unfinished, bytes[..bytes.len() - 7].to_vec()));
                        }
                        _ => files.push((name.clone(), bytes.clone())),
                    }
                }
                put(&path, &files);
                let expected = if stopped == changed.len() { 17 } else { 13 };
                assert_eq!(server.read(&path).unwrap(), expected, "{finish:?} {stopped} {torn}");
                for next in [Finish::Tail, Finish::Segment] {
                    put(&path, &files);
                    advance(&mut server.open(&path).unwrap(), next).unwrap();
                    assert_eq!(server.read(&path).unwrap(), 17, "{finish:?} {stopped} {torn}");
                    let tails = names(&snapshot(&path), "tail").len();
                    assert!(tails <= usize::from(next == Finish::Tail), "{tails}");
                }
            }
        }
    }
}

#[test]
fn the_vaults_copy_follows_what_is_made_destroyed_and_moved() {
    let server = Server::new();
    let path = server.path("backup");
    let mut archive = server.open(&path).unwrap();
    let slots = server.keys(9);
    let vault = &server.source.vault;
    let same = || {
        let [copy, whole] =
            [path.join("vault"), server.path("vault")].map(|p| fs::read(p).unwrap());
        assert_eq!(copy, whole[..copy.len()]);
        assert!(whole[copy.len()..].iter().all(|&byte| byte == 0), "all that is used is there");
        let [copy, ledger] = [path.join("ledger"), server.path("ledger")];
        assert_eq!(fs::read_to_string(copy).unwrap(), fs::read_to_string(ledger).unwrap());
    };
    let changes: [&dyn Fn(); 6] = [
        &|| (),
        &|| drop(server.keys(200)),
        &|| vault.destroy(&slots[2..5], &mut rand::rng()).unwrap(),
        &|| vault.move_epoch(&mut rand::rng()).unwrap(),
        &|| vault.destroy(&slots[6..7], &mut rand::rng()).unwrap(),
        &|| {
            drop(server.keys(200));
            vault.move_epoch(&mut rand::rng()).unwrap();
            drop(server.keys(200));
        },
    ];
    for change in changes {
        change();
        advance(&mut archive, Finish::Tail).unwrap();
        same();
        server.append(1);
        server.read(&path).unwrap();
    }
    let (epoch, slots) = crate::vault::file::inspect(&path.join("vault")).unwrap();
    assert_eq!((epoch, slots), (3, 1 + 1 + 9 + 600));
    // The copy is a vault.
    let places = Places {
        vault: path.join("vault"),
        ledger: path.join("ledger"),
        master_key: KeyFile::file(&server.path("master.key")),
    };
    let copy = FileVault::open(places, &mut rand::rng()).unwrap();
    assert_eq!(copy.key(KeySlot(2)).unwrap().expose(), vault.key(KeySlot(2)).unwrap().expose());
    assert_eq!(copy.state(KeySlot(4)), SlotState::Destroyed);
    copy.move_epoch(&mut rand::rng()).unwrap();
}

#[test]
fn another_directory_or_another_log_is_not_written_to() {
    let server = Server::new();
    let path = server.path("foreign");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("notes.txt"), "mine").unwrap();
    assert!(matches!(server.open(&path), Err(BackupError::Foreign(_))));
    let path = server.path("backup");
    server.append(6);
    advance(&mut server.open(&path).unwrap(), Finish::Segment).unwrap();
    let before = snapshot(&path);

    let other = Server::new();
    other.append(9);
    assert!(matches!(other.open(&path), Err(BackupError::Manifest(_))), "another key");
    let key = Arc::clone(&server.source.key);
    let mut shorter = server.source.clone();
    shorter.tree = Arc::default();
    assert!(matches!(Archive::open(&path, shorter), Err(BackupError::OtherLog(_))));
    // The same key, and records that differ in the first.
    let mut tree = CompactRange::default();
    tree.push([1; 32]);
    (1..9).for_each(|position| tree.push(hash(&record(position))));
    let source = Source { key, tree: Arc::new(Mutex::new(tree)), ..other.source.clone() };
    let mut archive = Archive::open(&path, source).unwrap();
    let refused = advance(&mut archive, Finish::Segment);
    assert!(matches!(refused, Err(BackupError::OtherLog(_))));
    drop(archive);
    assert_eq!(server.read(&path).unwrap(), 6);
    assert_eq!(snapshot(&path), before);
    // Nothing is removed because it is not stated by a manifest that was lost.
    fs::remove_file(path.join("manifest")).unwrap();
    let without = snapshot(&path);
    assert!(matches!(server.open(&path), Err(BackupError::Unfinished(_))));
    assert_eq!(snapshot(&path), without);
}
