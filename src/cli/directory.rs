//! The one directory: what `init` makes and everything else works in.
//!
//! ```text
//! countersign.toml   policy.toml
//! keys/              master.key  receipt-keys.jwks  log.key      (not to be backed up with data/)
//!                    actors.pub  actor-1.key  actor-2.key        (the private ones: two people keep them)
//! tls/               certificates
//! data/              log/  vault  head  lock                     (the truth)
//!                    checked: what the last check of a long log found (made again when missing)
//! ledger/            erasures: what was erased, so that no backup brings it back
//! views/  tiles/                                                 (rebuilt when missing)
//! client/            the key pair of the command line, as an app has one
//! run/               listening, ops: the addresses of the running server
//!                    operator/socket: where it takes the operator's commands
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder};

use anyhow::{Context as _, anyhow, bail};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::dev_ca::{self, write_new};
use crate::backup::Source;
use crate::config::{Config, TEMPLATE};
use crate::domain::{Position, Timestamp};
use crate::log::checked::Checked;
use crate::log::head::{self, Checkpoint, HeadError, LogKey};
use crate::log::record::KeySlot;
use crate::log::sled::SledLog;
use crate::log::tree::CompactRange;
use crate::log::{Log as _, PAGE, durability};
use crate::policy::{self, Policy};
use crate::receipt::KeyRing;
use crate::seal::actor::{ActorKey, ActorSeal};
use crate::service::store::{SlotCounts, Store};
use crate::service::transparency;
use crate::tlog::tiles;
use crate::vault::file::{FileVault, Places};
use crate::vault::master::{KeyFile, MasterKey};
use crate::vault::{SlotState, Vault as _, VaultError};
use crate::views::Views;

/// The name that checkpoints of the log are signed with, where `init` is given none.
pub(super) const LOG_NAME: &str = "countersign";
/// The master key's name among systemd's credentials.
const CREDENTIAL: &str = "master.key";

/// A directory that `init` made.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

/// What is stored, opened by this process alone.
pub(super) struct Opened {
    /// Log, vault and views; the views are up to the log.
    pub store: Store,
    /// What backups are made of: the same log and vault.
    pub source: Source,
    /// Over the records that were checked before and not read again.
    pub unread: Option<Checkpoint>,
    /// Held for as long as the data is open.
    pub lock: File,
}

/// Log and vault, checked, and opened by this process alone.
pub(super) struct Truth {
    /// Both, with the tree over the log's records and the log's key.
    pub source: Source,
    /// How many records are sealed under which key.
    pub counts: SlotCounts,
    /// What of it was checked before and not read again.
    before: Option<Checked>,
    /// Held for as long as the data is open.
    pub lock: File,
}

impl Directory {
    /// The directory at a path, whatever is there.
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A place in it.
    pub(super) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Whether `init` has made it.
    pub(super) fn exists(&self) -> bool {
        self.join("countersign.toml").exists()
    }

    /// Makes it: keys, development certificates, configuration, policy and an empty log. It is
    /// whole or not there; what exists is never overwritten.
    pub(super) fn init(
        &self,
        log_name: &str,
        now: Timestamp,
        rng: &mut dyn CryptoRng,
    ) -> anyhow::Result<()> {
        let shown = self.0.display();
        match fs::read_dir(&self.0).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                bail!("{shown} is not empty; init never overwrites, so name another directory")
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("{shown} cannot be read")),
        }
        let parent = match self.0.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let name = self.0.file_name().ok_or_else(|| anyhow!("{shown} names no directory"))?;
        let mut unfinished = name.to_owned();
        unfinished.push(format!(".{:08x}.unfinished", rng.next_u32()));
        let unfinished = Self(parent.join(unfinished));
        make_directories(parent).with_context(|| format!("{shown} cannot be made"))?;
        let made = unfinished.make(log_name, now, rng).and_then(|()| {
            sync_directories(&unfinished.0)?;
            fs::rename(&unfinished.0, &self.0)?;
            Ok(File::open(parent)?.sync_all()?)
        });
        if made.is_err() {
            // What is left of it is of no use; that it cannot be removed is said by its name.
            let _ = fs::remove_dir_all(&unfinished.0);
        }
        made.with_context(|| format!("{shown} cannot be made"))
    }

    fn make(&self, log_name: &str, now: Timestamp, rng: &mut dyn CryptoRng) -> anyhow::Result<()> {
        fs::create_dir(&self.0)?;
        for private in ["keys", "data", "ledger", "client"] {
            fs::create_dir(self.join(private))?;
            fs::set_permissions(self.join(private), fs::Permissions::from_mode(0o700))?;
        }
        write_new(&self.join("countersign.toml"), TEMPLATE.as_bytes(), 0o644)?;
        write_new(&self.join("policy.toml"), policy::DEFAULT.as_bytes(), 0o644)?;
        dev_ca::write(&self.join("tls"), now.year())?;

        let master = MasterKey::generate(rng);
        let receipts = KeyRing::generate(rng);
        let log_key = LogKey::generate(log_name, rng)?;
        write_new(&self.join("keys/master.key"), master.expose().as_bytes(), 0o600)?;
        write_new(&self.receipt_keys_path(), receipts.to_jwks().as_bytes(), 0o600)?;
        write_new(&self.join("keys/log.key"), log_key.expose().as_bytes(), 0o600)?;
        let actor_keys = [ActorKey::generate(rng), ActorKey::generate(rng)];
        for (name, key) in ["actor-1.key", "actor-2.key"].iter().zip(&actor_keys) {
            write_new(&self.join("keys").join(name), key.expose().as_bytes(), 0o600)?;
        }
        let actor_seal = ActorSeal::for_keys(actor_keys.each_ref());
        write_new(&self.join("keys/actors.pub"), actor_seal.to_text().as_bytes(), 0o644)?;

        durability::make_flush_durable();
        SledLog::create(&self.join("data/log"))?;
        let ledger = self.join(crate::config::ERASURE_LEDGER);
        FileVault::create_new(&self.join("data/vault"), &ledger, &master, rng)?;
        let root = CompactRange::default().root();
        head::write(&self.head_path(), &log_key, &Checkpoint { size: Position::ZERO, root })?;
        Ok(())
    }

    /// The configuration.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let path = self.join("countersign.toml");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{} cannot be read; `countersign --dir {} init` makes such a directory",
                path.display(),
                self.0.display()
            )
        })?;
        Config::parse(&text).with_context(|| format!("{} is not valid", path.display()))
    }

    /// The policy.
    pub(super) fn policy(&self) -> anyhow::Result<Policy> {
        let path = self.join("policy.toml");
        Policy::parse(&read(&path)?).with_context(|| format!("{} is not valid", path.display()))
    }

    /// The keys of receipts.
    pub(super) fn receipt_keys(&self) -> anyhow::Result<KeyRing> {
        let path = self.receipt_keys_path();
        KeyRing::from_jwks(&read_secret(&path)?)
            .with_context(|| format!("{} is not valid", path.display()))
    }

    /// What the names of staff are sealed with.
    pub(super) fn actor_seal(&self) -> anyhow::Result<ActorSeal> {
        let path = self.join("keys/actors.pub");
        ActorSeal::parse(&read(&path)?).with_context(|| format!("{} is not valid", path.display()))
    }

    /// Where the keys of receipts are.
    pub(super) fn receipt_keys_path(&self) -> PathBuf {
        self.join("keys/receipt-keys.jwks")
    }

    /// Where the head file is.
    pub(super) fn head_path(&self) -> PathBuf {
        self.join("data/head")
    }

    /// Where the tree's tiles are, and the checkpoint that was published last.
    pub(super) fn tiles_path(&self) -> PathBuf {
        self.join("tiles")
    }

    /// Where the running server takes the operator's commands. The directory that it is in is this
    /// user's alone.
    pub(super) fn operator_socket(&self) -> PathBuf {
        self.join("run/operator/socket")
    }

    /// Where the running server says its addresses.
    pub(super) fn listening_path(&self) -> PathBuf {
        self.join("run/listening")
    }

    /// Where the running server says the address of its metrics, if it serves them.
    pub(super) fn ops_path(&self) -> PathBuf {
        self.join("run/ops")
    }

    /// Where the master key is.
    pub(super) fn master_key(&self) -> KeyFile {
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(|credentials| Path::new(&credentials).join(CREDENTIAL))
            .filter(|path| path.exists());
        match credential {
            Some(path) => KeyFile::credential(&path),
            None => KeyFile::file(&self.join("keys/master.key")),
        }
    }

    /// Keeps every other process from the data.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        lock_file(&self.join("data/lock"))?.with_context(|| {
            format!(
                "another countersign serves {}; stop it first, or name another directory",
                self.0.display()
            )
        })
    }

    /// The key of checkpoints.
    pub(super) fn log_key(&self) -> anyhow::Result<LogKey> {
        let path = self.join("keys/log.key");
        LogKey::parse(&read_secret(&path)?)
            .with_context(|| format!("{} is not valid", path.display()))
    }

    /// Opens log and vault, for one who has the lock, and checks all of both: every record's checksum and
    /// place, the root that the head file knows, every slot, and that each record has one. `each` is given
    /// what `open` makes of a page of records, before they are checked, and how many of how many are
    /// checked then.
    pub(super) fn open_truth<T: Send>(
        &self,
        lock: File,
        config: &Config,
        open: impl Fn(&FileVault, Position, &[Vec<u8>]) -> T + Copy + Send,
        each: impl FnMut(T, Position, Position),
    ) -> anyhow::Result<Truth> {
        self.truth(lock, config, None, open, each)
    }

    /// Opens log and vault, for one who has the lock. What the log holds is not checked.
    pub(super) fn log_and_vault(&self, config: &Config) -> anyhow::Result<(SledLog, FileVault)> {
        let places = Places {
            vault: self.join("data/vault"),
            ledger: self.join(&config.erasure_ledger),
            master_key: self.master_key(),
        };
        // The one mostly waits for the disk, and the other for the processors. What the vault finds that
        // was left half done, an erasure perhaps, it ends in any case, also where the log does not open.
        let open_vault = move || FileVault::open(places, &mut rand::rng());
        let (log, vault) = thread::scope(|scope| {
            let vault = Builder::new().spawn_scoped(scope, open_vault.clone());
            let log = SledLog::open(&self.join("data/log"), config.storage.log_cache_mib << 20);
            let vault = match vault {
                Ok(vault) => vault.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // Without a thread it takes its time here.
                Err(_) => open_vault(),
            };
            (log, vault)
        });
        let log =
            log.with_context(|| format!("{} cannot be opened", self.join("data/log").display()))?;
        let vault = vault
            .with_context(|| format!("{} cannot be opened", self.join("data/vault").display()))?;
        Ok((log, vault))
    }

    fn truth<T: Send>(
        &self,
        lock: File,
        config: &Config,
        before: Option<Checked>,
        open: impl Fn(&FileVault, Position, &[Vec<u8>]) -> T + Copy + Send,
        mut each: impl FnMut(T, Position, Position),
    ) -> anyhow::Result<Truth> {
        let log_key = self.log_key()?;
        let (log, vault) = self.log_and_vault(config)?;

        let end = log.head()?;
        let mut known = vec![head::read(&self.head_path(), &log_key)?];
        // Whoever has seen it will ask for a proof that the log goes on from there.
        known.extend(transparency::last_published(&self.tiles_path(), &log_key));
        let before = before.filter(|before| {
            // It is good for no more than the head file signs for, and a smaller checkpoint that was
            // published can only be compared where all is read.
            let is_enough = known.iter().all(|known| known.size >= before.tree.size());
            if !is_enough {
                tracing::info!("the last checkpoint is older than the last check: all is read");
            }
            is_enough
        });
        let (slots, mut unknown) = (vault.slots_used(), None);
        let mut check = |before: Option<&Checked>| {
            let tree = before.map_or_else(CompactRange::default, |before| before.tree.clone());
            let mut counts = before.map_or_else(Vec::new, |before| before.counts.clone());
            // A vault that is older than the check has fewer. Those that it lacks are found below.
            counts.resize(counts.len().max(slots as usize + 1), 0);
            let vault = &vault;
            let open = move |first, records: &[Vec<u8>]| open(vault, first, records);
            let tree = head::check(&log, &known, tree, open, |headers, opened| {
                for header in headers {
                    match counts.get_mut(header.slot.0 as usize) {
                        Some(count) => *count += 1,
                        None => drop(unknown.get_or_insert(header.slot)),
                    }
                }
                let done = headers.last().map_or(end, |header| header.position.plus(1));
                each(opened, done, end);
            })?;
            Ok::<_, HeadError>((tree, SlotCounts::from(counts)))
        };
        // What was checked before may be of another log: one that was restored, or put back by hand.
        let going_on = before.and_then(|before| {
            let checked = check(Some(&before)).inspect_err(|error| {
                tracing::warn!(
                    "what was checked before is not of this log, which is read whole: {error}"
                );
            });
            Some((checked.ok()?, before))
        });
        let ((tree, counts), before) = match going_on {
            Some((checked, before)) => (checked, Some(before)),
            None => (check(None)?, None),
        };
        let counted = (0..).map(KeySlot).zip(counts.to_vec());
        let mut used = counted.filter(|(_, count)| *count > 0).map(|(slot, _)| slot);
        let is_free = |slot: &KeySlot| vault.state(*slot) == SlotState::Free;
        if let Some(slot) = used.find(is_free).or(unknown) {
            return Err(VaultError::Missing(slot).into());
        }
        let source = Source {
            log: Arc::new(log),
            vault: Arc::new(vault),
            tree: Arc::new(Mutex::new(tree)),
            key: Arc::new(log_key),
        };
        Ok(Truth { source, counts, before, lock })
    }

    /// What an earlier check found, where the log is so long that it is not to be read whole.
    fn checked_before(&self, config: &Config) -> Option<Checked> {
        let checked = match fs::read(self.checked_path()) {
            Ok(bytes) => Checked::from_bytes(&bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(_) => None,
        };
        let Some(checked) = checked else {
            let path = self.checked_path();
            tracing::warn!("{} cannot be used: the log is read whole", path.display());
            return None;
        };
        (checked.tree.size().0 > config.storage.checked_first).then_some(checked)
    }

    /// Keeps what was checked of a long log for the next start, which without it takes longer and finds
    /// the same.
    pub(super) fn keep_checked(&self, source: &Source, counts: &SlotCounts, checked_first: u64) {
        let tree = source.tree.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if tree.size().0 <= checked_first {
            return;
        }
        let checked = Checked { tree, counts: counts.to_vec(), slots: source.vault.slots_used() };
        if let Err(error) = replace(&self.checked_path(), &checked.to_bytes(), 0o600) {
            tracing::warn!("the next start takes longer: {error:#}");
        }
    }

    /// Has the next start read everything.
    pub(super) fn forget_checked(&self) {
        match fs::remove_file(self.checked_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::error!("{} must be deleted: {error}", self.checked_path().display());
            }
            _ => {}
        }
    }

    fn checked_path(&self) -> PathBuf {
        self.join("data/checked")
    }

    /// Opens what is stored, checks it, and brings the views up to it. `progress` is told
    /// how many of how many records the views have taken in.
    pub(super) fn open(
        &self,
        config: &Config,
        progress: impl FnMut(Position, Position),
    ) -> anyhow::Result<Opened> {
        self.open_locked(self.lock()?, config, progress)
    }

    /// The same, for one who has the lock already.
    pub(super) fn open_locked(
        &self,
        lock: File,
        config: &Config,
        progress: impl FnMut(Position, Position),
    ) -> anyhow::Result<Opened> {
        let before = self.checked_before(config);
        let truth = self.truth(lock, config, before, |_, _, _| (), |(), _, _| ())?;
        let Truth { source, counts, before, lock } = truth;
        let size = source.tree.lock().unwrap_or_else(PoisonError::into_inner).size();
        // Keys that were made for records which never came to be.
        let sifted = before.as_ref().map_or(0, |before| before.slots);
        let is_used = |slot: KeySlot| slot.0 <= sifted || counts.get(slot) > 0;
        source.vault.destroy_unused(is_used, size, &mut rand::rng())?;
        if before.is_none() {
            self.keep_checked(&source, &counts, config.storage.checked_first);
        }
        let unread =
            before.map(|Checked { tree, .. }| Checkpoint { size: tree.size(), root: tree.root() });
        let (log, vault) = (Arc::clone(&source.log), Arc::clone(&source.vault));
        let views = self.views(config)?;
        let store = Store { log, vault, views, counts };
        let store = self.trusted_views(config, store, progress)?;
        Ok(Opened { store, source, unread, lock })
    }

    /// Brings the views up to the log; from nothing, if what they hold cannot be believed.
    fn trusted_views(
        &self,
        config: &Config,
        mut store: Store,
        mut progress: impl FnMut(Position, Position),
    ) -> anyhow::Result<Store> {
        let end = store.log.head()?;
        // What is behind by more than it has, a page at least, is made from nothing in less time.
        let has = store.views.checkpoint().map_or(0, |checkpoint| checkpoint.next.0);
        let is_far_behind = has > 0 && end.0.saturating_sub(has) > has.max(PAGE as u64);
        let believed = !is_far_behind && store.views_match().unwrap_or(false);
        if !(believed && store.catch_up(|done| progress(done, end)).is_ok()) {
            tracing::warn!("the views do not match the log, or are far behind it; rebuilding them");
            let Store { log, vault, views, counts } = store;
            drop(views);
            self.delete_views()?;
            store = Store { log, vault, views: self.views(config)?, counts };
            store.catch_up(|done| progress(done, end))?;
        }
        Ok(store)
    }

    fn views(&self, config: &Config) -> anyhow::Result<Views> {
        let path = self.join("views");
        let cache_bytes = config.storage.views_cache_mib << 20;
        Views::open(&path, cache_bytes).or_else(|error| {
            tracing::warn!("{error}; rebuilding them");
            self.delete_views()?;
            Ok(Views::open(&path, cache_bytes)?)
        })
    }

    /// Deletes the tiles; the server makes them again.
    pub(super) fn delete_tiles(&self) -> anyhow::Result<()> {
        let path = self.tiles_path();
        tiles::delete(&path).with_context(|| format!("{} cannot be deleted", path.display()))
    }

    /// Deletes the views; the next [`Directory::open`] rebuilds them.
    pub(super) fn delete_views(&self) -> anyhow::Result<()> {
        let path = self.join("views");
        Views::delete(&path).with_context(|| format!("{} cannot be deleted", path.display()))
    }
}

/// Takes the lock of a file, for as long as the file is open. `None`: another process has it.
pub(super) fn lock_file(path: &Path) -> anyhow::Result<Option<File>> {
    let shown = path.display();
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| {
        let directory = path.parent().and_then(Path::file_name).unwrap_or_default().display();
        format!("{shown} cannot be written; is {directory}/ there, and may this user write to it?")
    })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{shown} cannot be locked"))
        }
    }
}

/// Replaces a file: after a power cut it is the old one or the new one, whole.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let temporary = path.with_extension(format!("{:08x}.new", rand::random::<u32>()));
    let replaced = write_new(&temporary, content, mode).and_then(|()| {
        fs::rename(&temporary, path)?;
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        Ok(File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
    });
    if replaced.is_err() {
        // It may not have come to be.
        let _ = fs::remove_file(&temporary);
    }
    replaced.with_context(|| format!("{} cannot be written", path.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!("{} cannot be read; put it back, and let this user read it", path.display())
    })
}

/// Reads a key that nobody else may read.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let shown = path.display();
    let metadata = fs::metadata(path).with_context(|| {
        format!("{shown} cannot be read; put it back, nothing opens without it")
    })?;
    let others = metadata.permissions().mode() & 0o077;
    if others != 0 {
        bail!(
            "{shown} can be read by others; `chmod 600` it, and rotate it if they are not trusted"
        );
    }
    Ok(Zeroizing::new(read(path)?))
}

/// Makes a directory and those above it that are missing, durably: what `init` makes is of no use
/// after a power cut if a directory above it is gone.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_directories(parent)?;
    match fs::create_dir(path) {
        // Somebody else just made it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

/// The names in a directory are durable only when it is synced itself.
fn sync_directories(path: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    Ok(File::open(path)?.sync_all()?)
}
