//! Publishes the log's tree: follows the log into tiles from a thread of its own, off the way of
//! everything that is acknowledged, signs a checkpoint at an interval and when one is asked for, and
//! answers with proofs.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::{Service, ServiceError, reading};
use crate::background;
use crate::domain::Position;
use crate::export;
use crate::log::head::{self, Checkpoint, LogKey};
use crate::log::note::VerifierKey;
use crate::log::record::{self, RecordHash};
use crate::log::tree::CompactRange;
use crate::log::{Log, LogError, PAGE};
use crate::telemetry::Trouble;
use crate::tlog::proof::{self, Hashes, InclusionProof, Nodes};
use crate::tlog::tiles::{KeptTiles, Tile, TileDirectory, TileWriter, TilesError};

/// The name of the newest checkpoint among the tiles.
const CHECKPOINT: &str = "checkpoint";
/// How long until tiles that could not be written are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long until all of a log that is not what it was is read again: first, and at most.
const REREAD: Duration = Duration::from_secs(60);
const LONGEST_REREAD: Duration = Duration::from_secs(60 * 60);
/// How long a call waits for a checkpoint that it needs, and for a look through the whole tree. With what it
/// waits for before, it is less than a call may take.
const WAIT: Duration = Duration::from_secs(4);
/// How many receipts whose record is to be proven are verified at once: many cost as much as activations.
const RECEIPTS: usize = 4;
/// How long a receipt waits for that.
const RECEIPT_WAIT: Duration = Duration::from_secs(1);
/// How many calls look through the whole tree at once: it costs a read of 32 bytes a record.
const SEARCHES: usize = 1;
/// The least time between two checkpoints, whoever asks: those who wait share one.
const SPACING: Duration = Duration::from_millis(10);
/// How long the last step may take when the server ends.
const LAST_STEP: Duration = Duration::from_secs(1);
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
    #[error("the server ends")]
    Ending,
}

impl PublishError {
    /// Whether what was published still stands: nothing more can be written for now.
    fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Tiles(TilesError::Io { .. }))
    }

    /// Whether the log is not what it was.
    fn is_of_the_log(&self) -> bool {
        match self {
            Self::Changed => true,
            Self::Log(error) => !matches!(error, LogError::Io(_)),
            Self::Tiles(_) | Self::Io(_) | Self::Ending => false,
        }
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
    /// When it must have ended, once that is known.
    end: Arc<OnceLock<Instant>>,
    thread: thread::JoinHandle<()>,
}

/// What can be asked of the tree.
pub struct Transparency {
    told: mpsc::SyncSender<Told>,
    published: watch::Receiver<Option<Arc<Published>>>,
    tiles: TileDirectory,
    tree: Arc<Mutex<CompactRange>>,
    log_key: VerifierKey,
    receipts: Arc<Semaphore>,
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
            receipts: Arc::new(Semaphore::new(RECEIPTS)),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            is_public: publication.is_public,
        };
        let end = Arc::new(OnceLock::new());
        let known_end = Arc::clone(&end);
        let run = move || publication.until_end(&orders, &publish, &known_end);
        let thread = thread::Builder::new().name("tiles".to_owned()).spawn(run)?;
        Ok((Self { told, end, thread }, transparency))
    }

    /// Publishes what is left, for a second at most: the next start goes on where this one stops.
    pub fn end(self) {
        self.end.get_or_init(|| Instant::now() + LAST_STEP);
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
        end: &OnceLock<Instant>,
    ) {
        let mut tiles = None;
        let mut trouble = Trouble::default();
        let mut reread = REREAD;
        let mut is_last = false;
        loop {
            let wait = match self.step(&mut tiles, publish, end) {
                Err(PublishError::Ending) => return,
                Ok(()) => {
                    if trouble.is_over() {
                        tracing::info!("checkpoints are published again");
                    }
                    reread = REREAD;
                    self.interval
                }
                Err(error) => {
                    // What a failed write left is not to be trusted.
                    tiles = None;
                    if !error.is_of_the_disk() {
                        publish.send_replace(None);
                    }
                    if trouble.is_new(&error.to_string()) {
                        tracing::error!("no checkpoint is published: {error}");
                    }
                    if error.is_of_the_log() {
                        // It takes a look at all of it, and hardly ever is another the next time.
                        if is_last || ends_within(reread, orders) {
                            return;
                        }
                        reread = LONGEST_REREAD.min(2 * reread);
                        continue;
                    }
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
        end: &OnceLock<Instant>,
    ) -> Result<(), PublishError> {
        let tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut writer = match tiles.take() {
            Some(writer) => writer,
            None => TileWriter::open(&self.directory)?,
        };
        self.follow(&mut writer, tree.size(), end)?;
        if writer.tree() != &tree {
            tracing::warn!("the tiles do not match the log; making them again");
            writer = writer.clear()?;
            self.follow(&mut writer, tree.size(), end)?;
            if writer.tree() != &tree {
                return Err(PublishError::Changed);
            }
        }
        *tiles = Some(writer);
        let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
        let is_new = publish.borrow().as_ref().is_none_or(|known| known.checkpoint != checkpoint);
        if is_new {
            let note = self.key.sign(&checkpoint);
            fs::create_dir_all(&self.directory)?;
            // An empty one would be compared with nothing at the next start.
            head::replace(&self.directory.join(CHECKPOINT), &note)?;
            publish.send_replace(Some(Arc::new(Published { checkpoint, note })));
        }
        Ok(())
    }

    /// Takes in the log's records up to a size, or as far as it comes until the end.
    fn follow(
        &self,
        tiles: &mut TileWriter,
        size: Position,
        end: &OnceLock<Instant>,
    ) -> Result<(), PublishError> {
        while let next = tiles.tree().size()
            && next < size
        {
            if end.get().is_some_and(|end| Instant::now() > *end) {
                tiles.flush()?;
                return Err(PublishError::Ending);
            }
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

/// Waits for all of the time, whatever else is ordered meanwhile. Whether the end was.
fn ends_within(wait: Duration, orders: &mpsc::Receiver<Told>) -> bool {
    let begun = Instant::now();
    loop {
        match orders.recv_timeout(wait.saturating_sub(begun.elapsed())) {
            Ok(Told::Publish | Told::Distrust) => {}
            Ok(Told::End) | Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

/// Waits for its turn, for so long at most.
async fn turn(
    turns: &Arc<Semaphore>,
    wait: Duration,
) -> Result<OwnedSemaphorePermit, ServiceError> {
    let turn = timeout(wait, Arc::clone(turns).acquire_owned()).await;
    turn.map_err(|_| ServiceError::Overloaded)?.map_err(|_| ServiceError::Stopped)
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

    /// A checkpoint whose tree has a position, if the log has it.
    async fn covering(&self, position: Position) -> Result<Arc<Published>, ServiceError> {
        match self.newest() {
            Some(newest) if position < newest.checkpoint.size => Ok(newest),
            _ => self.fresh().await,
        }
    }

    /// Where a record is, by its hash; at once, where a hint is right.
    async fn locate(
        self: &Arc<Self>,
        hash: RecordHash,
        hint: Option<Position>,
    ) -> Result<(Position, Arc<Published>), ServiceError> {
        if let Some(hint) = hint {
            let published = self.covering(hint).await?;
            if self.is_at(hint, hash, &published).await? {
                return Ok((hint, published));
            }
        }
        let published = self.fresh().await?;
        Ok((self.find(hash, &published).await?, published))
    }

    /// Verifies a receipt, on a thread that gives way. As few at once as may.
    async fn in_turn<T: Send + 'static>(
        &self,
        verify: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let turn = turn(&self.receipts, RECEIPT_WAIT).await?;
        let verified = background::run("proof", move || {
            let _turn = turn;
            verify()
        });
        verified.await.map_err(|_| ServiceError::Overloaded)
    }

    /// Whether a record is at a position, as far as the tiles tell: the path is still to show it.
    async fn is_at(
        self: &Arc<Self>,
        position: Position,
        hash: RecordHash,
        of: &Published,
    ) -> Result<bool, ServiceError> {
        if position >= of.checkpoint.size {
            return Ok(false);
        }
        let this = Arc::clone(self);
        reading(move || Ok(this.seen(this.tiles.node(0, position.0))? == hash)).await
    }

    /// Where a record is, by its hash alone. As few look at once as may, whoever has given up included:
    /// a look that nobody waits for ends.
    async fn find(
        self: &Arc<Self>,
        hash: RecordHash,
        of: &Published,
    ) -> Result<Position, ServiceError> {
        let search = turn(&self.searches, WAIT).await?;
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        let (this, checkpoint) = (Arc::clone(self), of.checkpoint);
        let found = background::run("search", move || {
            let _search = search;
            let is_wanted = || waiting.strong_count() > 0;
            this.seen(this.tiles.find(&hash, &checkpoint, is_wanted))
        });
        let found = found.await.map_err(|_| ServiceError::Overloaded)??;
        found.ok_or(ServiceError::NotInLog)
    }

    /// The path to a record, which is one of those.
    fn path(
        &self,
        nodes: &impl Nodes<Error = TilesError>,
        index: Position,
        hash: &RecordHash,
        of: &Published,
    ) -> Result<Hashes, TilesError> {
        let path = self.seen(proof::inclusion(nodes, index, of.checkpoint.size))?;
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

    /// The proof that the record that a receipt names is in the log. Erased or not: it is a hash. The
    /// hint says where it is, if the caller knows.
    pub async fn prove(
        self: &Arc<Self>,
        receipt: &str,
        hint: Option<Position>,
    ) -> Result<InclusionProof, ServiceError> {
        let transparency = Arc::clone(self.transparency()?);
        let (service, receipt) = (Arc::clone(self), receipt.to_owned());
        let verify = move || service.receipt_keys.verify(&receipt);
        let claims = transparency.in_turn(verify).await??;
        let hash = claims.record;
        let known = self.store.views.activation(claims.activation)?.map(|known| known.activated);
        let at = match known {
            Some(position) => {
                let (_, known) = self.store.header_and_hash(position)?;
                (known == hash).then_some(position)
            }
            None => None,
        };
        let (index, published) = match at {
            Some(at) => (at, transparency.covering(at).await?),
            // It was erased, or issued anew: the views do not know where it is. Only a receipt of this
            // server comes as far as this.
            None => transparency.locate(hash, hint).await?,
        };
        reading(move || {
            let path = transparency.path(&transparency.tiles, index, &hash, &published)?;
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
        hashes: impl Iterator<Item = (Position, RecordHash)>,
    ) -> Option<export::Proofs> {
        let transparency = self.transparency().ok()?;
        let published = Handle::current().block_on(transparency.fresh()).ok()?;
        let tiles = KeptTiles::new(&transparency.tiles, published.checkpoint.size);
        let mut records = HashMap::new();
        for (index, record) in hashes {
            let path = transparency.path(&tiles, index, &record, &published);
            let path = path.inspect_err(|error| tracing::warn!("an export has no proofs: {error}"));
            records.insert(index, export::Proof { record, path: path.ok()? });
        }
        let log_key = transparency.log_key.to_string();
        Some(export::Proofs { checkpoint: published.note.clone(), log_key, records })
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::log::Append;
    use crate::log::memory::MemoryLog;

    /// More than are read at once, and more than a tile has.
    const RECORDS: u64 = PAGE as u64 + 300;

    fn record_of(number: u64) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    fn hash_of(number: u64) -> RecordHash {
        record::hash(&record_of(number))
    }

    /// A log, and how often it was read from its beginning.
    #[derive(Default)]
    struct ReadAgain {
        log: MemoryLog,
        from_the_beginning: AtomicUsize,
    }

    impl Log for ReadAgain {
        fn head(&self) -> Result<Position, LogError> {
            self.log.head()
        }

        fn append(&self, expected: Position, records: &[Vec<u8>]) -> Result<Append, LogError> {
            self.log.append(expected, records)
        }

        fn read(&self, from: Position, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
            if from == Position::ZERO {
                self.from_the_beginning.fetch_add(1, Ordering::SeqCst);
            }
            self.log.read(from, limit)
        }
    }

    fn log_and_tree() -> (Arc<ReadAgain>, CompactRange) {
        let log = Arc::new(ReadAgain::default());
        let records: Vec<_> = (0..RECORDS).map(record_of).collect();
        assert_eq!(log.append(Position::ZERO, &records).unwrap(), Append::Appended);
        let mut tree = CompactRange::default();
        (0..RECORDS).for_each(|number| tree.push(hash_of(number)));
        (log, tree)
    }

    fn publication(directory: &Path, log: Arc<ReadAgain>, tree: CompactRange) -> Publication {
        Publication {
            directory: directory.to_owned(),
            log,
            tree: Arc::new(Mutex::new(tree)),
            key: Arc::new(LogKey::generate("log.example.com", &mut rand::rng()).unwrap()),
            interval: Duration::from_secs(3600),
            is_public: false,
        }
    }

    #[test]
    fn a_log_that_is_not_what_it_was_is_not_read_again_whoever_asks() {
        let place = tempfile::tempdir().unwrap();
        let (log, mut tree) = log_and_tree();
        tree.push([7; 32]);
        assert_eq!(log.append(Position(RECORDS), &[vec![1]]).unwrap(), Append::Appended);
        let publication = publication(place.path(), Arc::clone(&log), tree);
        let (publisher, transparency) = Publisher::spawn(publication).unwrap();
        for _ in 0..10 * ORDERS {
            publisher.told.send(Told::Publish).unwrap();
        }
        publisher.told.send(Told::Distrust).unwrap();
        publisher.end();
        assert!(transparency.newest().is_none());
        // Once into the tiles that are there, and once into new ones.
        assert_eq!(log.from_the_beginning.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_is_left_at_the_end_is_for_the_next_start() {
        let place = tempfile::tempdir().unwrap();
        let (log, tree) = log_and_tree();
        let publication = publication(place.path(), log, tree);
        let (publish, published) = watch::channel(None);
        let end = Instant::now();
        while Instant::now() <= end {}
        let stopped = publication.step(&mut None, &publish, &OnceLock::from(end));
        assert!(matches!(stopped, Err(PublishError::Ending)) && published.borrow().is_none());
        publication.step(&mut None, &publish, &OnceLock::new()).unwrap();
        let size = published.borrow().as_ref().map(|published| published.checkpoint.size.0);
        assert_eq!(size, Some(RECORDS));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn looks_through_the_tree_are_bounded_and_given_up_with_their_callers() {
        let place = tempfile::tempdir().unwrap();
        let (log, tree) = log_and_tree();
        let publication = publication(place.path(), Arc::clone(&log), tree);
        let (publisher, transparency) = Publisher::spawn(publication).unwrap();
        let transparency = Arc::new(transparency);
        let (last, stranger) = (RECORDS - 1, [7; 32]);
        let at = |located: Result<(Position, _), _>| located.map(|(position, _)| position.0).ok();
        assert_eq!(at(transparency.locate(hash_of(last), None).await), Some(last));
        assert!(matches!(transparency.locate(stranger, None).await, Err(ServiceError::NotInLog)));

        // However many are given up, there is room afterwards.
        let looks = (0..200).map(|_| {
            let transparency = Arc::clone(&transparency);
            tokio::spawn(async move { transparency.locate(stranger, None).await.is_ok() })
        });
        for look in looks.collect::<Vec<_>>() {
            look.abort();
            // One may have come to its end before.
            assert!(!look.await.unwrap_or(false));
        }
        assert_eq!(at(transparency.locate(hash_of(0), None).await), Some(0));

        // As many look at once as may: others are told to come again, but for those who know the place.
        let all = u32::try_from(SEARCHES).unwrap();
        let busy = Arc::clone(&transparency.searches).acquire_many_owned(all).await.unwrap();
        let hint = |position| Some(Position(position));
        let refused = [None, hint(3), hint(RECORDS), hint(u64::MAX)].map(|hint| {
            let transparency = Arc::clone(&transparency);
            tokio::spawn(async move { transparency.locate(hash_of(last), hint).await })
        });
        for refused in refused {
            assert!(matches!(refused.await.unwrap(), Err(ServiceError::Overloaded)));
        }
        assert_eq!(at(transparency.locate(hash_of(last), hint(last)).await), Some(last));
        drop(busy);
        publisher.end();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn as_few_receipts_are_verified_at_once_as_may() {
        let place = tempfile::tempdir().unwrap();
        let (log, tree) = log_and_tree();
        let (publisher, transparency) =
            Publisher::spawn(publication(place.path(), log, tree)).unwrap();
        let all = u32::try_from(RECEIPTS).unwrap();
        let busy = Arc::clone(&transparency.receipts).acquire_many_owned(all).await.unwrap();
        assert!(matches!(transparency.in_turn(|| 7).await, Err(ServiceError::Overloaded)));
        drop(busy);
        assert!(matches!(transparency.in_turn(|| 7).await, Ok(7)));
        publisher.end();
    }

    #[test]
    fn a_look_that_nobody_waits_for_says_nothing_of_the_tiles() {
        let place = tempfile::tempdir().unwrap();
        let (log, tree) = log_and_tree();
        let checkpoint = Checkpoint { size: tree.size(), root: tree.root() };
        let (publisher, transparency) =
            Publisher::spawn(publication(place.path(), Arc::clone(&log), tree)).unwrap();
        publisher.end();
        let found = transparency.tiles.find(&[7; 32], &checkpoint, || false);
        assert!(matches!(found, Err(TilesError::GivenUp)));
        let found = transparency.tiles.find(&[7; 32], &checkpoint, || true);
        assert!(matches!(found, Ok(None)));
    }
}
