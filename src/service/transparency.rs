//! Publishes the log's tree: follows the log into tiles from a thread of its own, off the way of
//! everything that is acknowledged, signs a checkpoint at an interval and when one is asked for, and
//! answers with proofs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::{Service, ServiceError, reading};
use crate::domain::Position;
use crate::export;
use crate::log::head::{Checkpoint, LogKey};
use crate::log::note::VerifierKey;
use crate::log::record::{self, Header, RecordHash};
use crate::log::tree::CompactRange;
use crate::log::{Log, LogError, PAGE, codec};
use crate::tlog::proof::{self, Hashes, InclusionProof};
use crate::tlog::tiles::{Tile, TileDirectory, TileWriter, TilesError};

/// The name of the newest checkpoint among the tiles.
const CHECKPOINT: &str = "checkpoint";
/// How long until tiles that could not be written are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a call waits for a checkpoint that it needs. Less than a call may take.
const WAIT: Duration = Duration::from_secs(5);
/// How many calls look through the whole tree at once: it costs a read of 32 bytes a record.
const SEARCHES: usize = 1;
/// The least time between two checkpoints, whoever asks: those who wait share one.
const SPACING: Duration = Duration::from_millis(10);
/// How many orders may wait. One that finds no room is as good as the ones before it.
const ORDERS: usize = 16;

/// A checkpoint that was given out.
#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    /// What it states. The tiles have all of its tree.
    pub checkpoint: Checkpoint,
    /// The signed note.
    pub note: String,
}

/// What is published, and of what.
pub struct Publication {
    /// Where the tiles are. They are made again where they are missing.
    pub directory: PathBuf,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The tree over its records, as far as they are durable.
    pub tree: Arc<Mutex<CompactRange>>,
    /// What checkpoints are signed with.
    pub key: Arc<LogKey>,
    /// How old the newest checkpoint may be while the log moves.
    pub interval: Duration,
    /// Whether apps may see it too.
    pub is_public: bool,
}

/// Nothing is published for now.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Tiles(#[from] TilesError),
    #[error("the checkpoint cannot be written: {0}; check the disk")]
    Io(#[from] io::Error),
    #[error(
        "the log is not what it was when the server started; stop, and run `countersign log verify`"
    )]
    Changed,
}

impl PublishError {
    /// Whether what was published still stands: nothing more can be written for now.
    fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Tiles(TilesError::Io { .. }))
    }
}

/// What the thread is told.
enum Told {
    /// A checkpoint of what is there now is waited for.
    Publish,
    /// The tiles hold something wrong.
    Distrust,
    End,
}

/// The thread that publishes.
pub struct Publisher {
    told: mpsc::SyncSender<Told>,
    thread: thread::JoinHandle<()>,
}

/// What can be asked of the tree.
pub struct Transparency {
    told: mpsc::SyncSender<Told>,
    published: watch::Receiver<Option<Arc<Published>>>,
    tiles: TileDirectory,
    tree: Arc<Mutex<CompactRange>>,
    log_key: VerifierKey,
    searches: Arc<Semaphore>,
    is_public: bool,
}

/// The checkpoint that was published last; `None`: there is none that can be read. It is not synced, so
/// that after a power cut it may be missing.
pub fn last_published(directory: &Path, key: &LogKey) -> Option<Checkpoint> {
    let note = fs::read_to_string(directory.join(CHECKPOINT)).ok()?;
    Checkpoint::verify(&note, key.public())
}

impl Publisher {
    /// Starts.
    pub fn spawn(publication: Publication) -> io::Result<(Self, Transparency)> {
        let (told, orders) = mpsc::sync_channel(ORDERS);
        let (publish, published) = watch::channel(None);
        let transparency = Transparency {
            told: told.clone(),
            published,
            tiles: TileDirectory::new(&publication.directory),
            tree: Arc::clone(&publication.tree),
            log_key: publication.key.public().clone(),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            is_public: publication.is_public,
        };
        let run = move || publication.until_end(&orders, &publish);
        let thread = thread::Builder::new().name("tiles".to_owned()).spawn(run)?;
        Ok((Self { told, thread }, transparency))
    }

    /// Publishes what is left.
    pub fn end(self) {
        // An error means that it has ended already, which it does not by itself.
        let _ = self.told.send(Told::End);
        if self.thread.join().is_err() {
            tracing::error!("the tiles' thread panicked; this is a defect, please report it");
        }
    }
}

impl Publication {
    fn until_end(
        &self,
        orders: &mpsc::Receiver<Told>,
        publish: &watch::Sender<Option<Arc<Published>>>,
    ) {
        let mut tiles = None;
        let mut last_failure: Option<String> = None;
        let mut is_last = false;
        loop {
            let wait = match self.step(&mut tiles, publish) {
                Ok(()) => {
                    last_failure = None;
                    self.interval
                }
                Err(error) => {
                    // What a failed write left is not to be trusted.
                    tiles = None;
                    if !error.is_of_the_disk() {
                        publish.send_replace(None);
                    }
                    let failure = error.to_string();
                    if last_failure.as_ref() != Some(&failure) {
                        tracing::error!("no checkpoint is published: {failure}");
                    }
                    last_failure = Some(failure);
                    RETRY
                }
            };
            if is_last {
                return;
            }
            let stepped = Instant::now();
            let mut order = orders.recv_timeout(wait);
            thread::sleep(SPACING.saturating_sub(stepped.elapsed()));
            loop {
                match order {
                    Ok(Told::Publish) | Err(RecvTimeoutError::Timeout) => {}
                    Ok(Told::Distrust) => {
                        tiles = None;
                        publish.send_replace(None);
                    }
                    Ok(Told::End) | Err(RecvTimeoutError::Disconnected) => is_last = true,
                }
                // One step is for all who wait.
                match orders.try_recv() {
                    Ok(next) => order = Ok(next),
                    Err(_) => break,
                }
            }
        }
    }

    fn step(
        &self,
        tiles: &mut Option<TileWriter>,
        publish: &watch::Sender<Option<Arc<Published>>>,
    ) -> Result<(), PublishError> {
        let tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut writer = match tiles.take() {
            Some(writer) => writer,
            None => TileWriter::open(&self.directory)?,
        };
        self.follow(&mut writer, tree.size())?;
        if writer.tree() != &tree {
            tracing::warn!("the tiles do not match the log; making them again");
            writer = writer.clear()?;
            self.follow(&mut writer, tree.size())?;
            if writer.tree() != &tree {
                return Err(PublishError::Changed);
            }
        }
        *tiles = Some(writer);
        let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
        let is_new = publish.borrow().as_ref().is_none_or(|known| known.checkpoint != checkpoint);
        if is_new {
            let note = self.key.sign(&checkpoint);
            let (path, new) =
                (self.directory.join(CHECKPOINT), self.directory.join("checkpoint.new"));
            fs::create_dir_all(&self.directory)?;
            fs::write(&new, &note)?;
            fs::rename(new, path)?;
            publish.send_replace(Some(Arc::new(Published { checkpoint, note })));
        }
        Ok(())
    }

    /// Takes in the log's records up to a size.
    fn follow(&self, tiles: &mut TileWriter, size: Position) -> Result<(), PublishError> {
        while let next = tiles.tree().size()
            && next < size
        {
            let limit = usize::try_from(size.0 - next.0).unwrap_or(PAGE).min(PAGE);
            let page = self.log.read(next, limit)?;
            if page.is_empty() {
                return Err(LogError::Gap(next).into());
            }
            for bytes in &page {
                tiles.push(record::hash(bytes))?;
            }
        }
        Ok(tiles.flush()?)
    }
}

impl Transparency {
    /// The newest checkpoint. `None`: there is none yet.
    pub fn newest(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }

    /// A checkpoint of all that is in the log now, or of more.
    pub async fn fresh(&self) -> Result<Arc<Published>, ServiceError> {
        let size = self.tree.lock().unwrap_or_else(PoisonError::into_inner).size();
        let is_enough = |published: &Option<Arc<Published>>| {
            published.as_ref().is_some_and(|published| published.checkpoint.size >= size)
        };
        let mut published = self.published.clone();
        if !is_enough(&published.borrow_and_update()) {
            // Where the thread is gone, the wait says so.
            let _ = self.told.try_send(Told::Publish);
        }
        let enough = timeout(WAIT, published.wait_for(is_enough)).await;
        let enough = enough.ok().and_then(Result::ok).and_then(|published| published.clone());
        enough.ok_or(ServiceError::TreeBehind)
    }

    /// Where a record is, by its hash alone. As few look at once as may, whoever has given up included:
    /// a look that nobody waits for ends.
    async fn find(
        self: &Arc<Self>,
        hash: RecordHash,
        of: &Published,
    ) -> Result<Position, ServiceError> {
        let search = timeout(WAIT, Arc::clone(&self.searches).acquire_owned()).await;
        let search = search.map_err(|_| ServiceError::Overloaded)?;
        let search = search.map_err(|_| ServiceError::Stopped)?;
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        let (this, checkpoint) = (Arc::clone(self), of.checkpoint);
        let found = reading(move || {
            let _search = search;
            let is_wanted = || waiting.strong_count() > 0;
            let found = this.tiles.find(&hash, &checkpoint, is_wanted);
            Ok(this.seen(found)?)
        });
        found.await?.ok_or(ServiceError::NotInLog)
    }

    /// The path to a record, which is one of those.
    fn path(
        &self,
        index: Position,
        hash: &RecordHash,
        of: &Published,
    ) -> Result<Hashes, TilesError> {
        let path = self.seen(proof::inclusion(&self.tiles, index, of.checkpoint.size))?;
        let path = path.filter(|path| proof::verify_inclusion(index, hash, path, &of.checkpoint));
        self.seen(path.ok_or(TilesError::Untrue))
    }

    /// The proof that a tree is a continuation of its first `size` records; `None`: it has fewer.
    fn continuation(&self, size: Position, of: &Published) -> Result<Option<Hashes>, TilesError> {
        let now = of.checkpoint.size;
        let Some(hashes) = self.seen(proof::consistency(&self.tiles, size, now))? else {
            return Ok(None);
        };
        let old = Checkpoint { size, root: self.seen(proof::root(&self.tiles, 0, size.0))? };
        // Damage here would look as if history had been rewritten.
        let is_good = proof::verify_consistency(&old, &of.checkpoint, &hashes);
        self.seen(if is_good { Ok(Some(hashes)) } else { Err(TilesError::Untrue) })
    }

    /// Has the tiles made again where they hold something wrong, or lack something.
    fn seen<T>(&self, result: Result<T, TilesError>) -> Result<T, TilesError> {
        if let Err(TilesError::Damaged(_) | TilesError::Untrue) = &result {
            let _ = self.told.try_send(Told::Distrust);
        }
        result
    }
}

/// A proof that a tree is a continuation of another.
pub struct Consistency {
    /// The newer tree.
    pub published: Arc<Published>,
    /// The hashes.
    pub hashes: Hashes,
}

impl Service {
    fn transparency(&self) -> Result<&Arc<Transparency>, ServiceError> {
        self.transparency.as_ref().ok_or(ServiceError::TreeBehind)
    }

    /// Whether the log's tree is shown to apps too.
    pub fn shows_tree_to_apps(&self) -> bool {
        self.transparency.as_ref().is_some_and(|transparency| transparency.is_public)
    }

    /// How many records the newest checkpoint is of.
    pub(super) fn published(&self) -> Position {
        let newest = self.transparency.as_ref().and_then(|transparency| transparency.newest());
        newest.map_or(Position::ZERO, |newest| newest.checkpoint.size)
    }

    /// The newest checkpoint, of all that is in the log now if it has to be.
    pub async fn checkpoint(&self, fresh: bool) -> Result<Arc<Published>, ServiceError> {
        let transparency = self.transparency()?;
        match transparency.newest() {
            Some(newest) if !fresh => Ok(newest),
            _ => transparency.fresh().await,
        }
    }

    /// The proof that the record that a receipt names is in the log. Erased or not: it is a hash.
    pub async fn prove(self: &Arc<Self>, receipt: &str) -> Result<InclusionProof, ServiceError> {
        let transparency = Arc::clone(self.transparency()?);
        let claims = self.receipt_keys.verify(receipt)?;
        let hash = claims.record;
        let known = self.store.views.activation(claims.activation)?.map(|known| known.activated);
        let at = match known {
            Some(position) => {
                let (_, known) = self.store.header_and_hash(position)?;
                (known == hash).then_some(position)
            }
            None => None,
        };
        let newest = transparency.newest();
        let published = match (newest, at) {
            (Some(newest), Some(at)) if at < newest.checkpoint.size => newest,
            _ => transparency.fresh().await?,
        };
        let index = match at {
            Some(at) => at,
            // It was erased, or issued anew: the views do not know where it was. Only a receipt of this
            // server comes as far as this.
            None => transparency.find(hash, &published).await?,
        };
        reading(move || {
            let path = transparency.path(index, &hash, &published)?;
            Ok(InclusionProof { index, path, checkpoint: published.note.clone() })
        })
        .await
    }

    /// The proof that the log is a continuation of its first `size` records.
    pub async fn consistency(&self, size: Position) -> Result<Consistency, ServiceError> {
        let transparency = Arc::clone(self.transparency()?);
        let now = transparency.tree.lock().unwrap_or_else(PoisonError::into_inner).size();
        if size > now {
            return Err(ServiceError::SizeAhead(now));
        }
        let published = match transparency.newest() {
            Some(newest) if size <= newest.checkpoint.size => newest,
            _ => transparency.fresh().await?,
        };
        let of = Arc::clone(&published);
        let hashes = reading(move || Ok(transparency.continuation(size, &of)?)).await?;
        let hashes = hashes.ok_or(ServiceError::SizeAhead(now))?;
        Ok(Consistency { published, hashes })
    }

    /// The proofs of these records, of what is in the log now; `None`: the tree is not made, and an
    /// answer to a person does not wait for it. On a thread that may wait.
    pub(super) fn prove_all(
        &self,
        positions: &[Position],
    ) -> Result<Option<export::Proofs>, ServiceError> {
        let Ok(transparency) = self.transparency() else { return Ok(None) };
        let Ok(published) = Handle::current().block_on(transparency.fresh()) else {
            return Ok(None);
        };
        let mut records = Vec::with_capacity(positions.len());
        for &index in positions {
            let (Header { event_type, .. }, record) = self.store.header_and_hash(index)?;
            let Some(category) = codec::category(event_type) else { continue };
            let path = transparency.path(index, &record, &published);
            let path = path.inspect_err(|error| tracing::warn!("an export has no proofs: {error}"));
            let Ok(path) = path else { return Ok(None) };
            records.push(export::Proof { category, index, record, path });
        }
        let log_key = transparency.log_key.to_string();
        Ok(Some(export::Proofs { checkpoint: published.note.clone(), log_key, records }))
    }

    /// The bytes of a tile; `None`: the newest checkpoint's tree has no such tile.
    pub async fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, ServiceError> {
        let transparency = Arc::clone(self.transparency()?);
        let newest = transparency.newest().ok_or(ServiceError::TreeBehind)?;
        if !tile.is_of(newest.checkpoint.size) {
            return Ok(None);
        }
        reading(move || Ok(Some(transparency.seen(transparency.tiles.read(tile))?))).await
    }
}
