//! The tree in tiles, as files: at each level every 256 hashes are one (C2SP `tlog-tiles`).
//!
//! A view of the log: whatever is wrong with it, it is made again. A file has the name of its full
//! tile and grows with it; of a partial tile it is the beginning. Nothing is synced: what a power cut
//! takes is found when the tiles are opened, because their root is compared with the log's.
//!
//! Format: <https://c2sp.org/tlog-tiles>, "Merkle Tree".

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::iter;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::proof::Nodes;
use crate::domain::Position;
use crate::log::head::{Checkpoint, decimal};
use crate::log::record::RecordHash;
use crate::log::tree::{CompactRange, Root, parent};

/// How many levels of the tree a tile spans, and so how many hashes a full one has.
const HEIGHT: u32 = 8;
const WIDTH: usize = 1 << HEIGHT;
const HASH_BYTES: usize = 32;
/// The highest level that a tile's path may name.
const TOP: u32 = 63;

/// The tiles cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TilesError {
    /// The disk.
    #[error("the tiles in {} cannot be read or written: {error}; check the disk", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// A hash is missing that must be there.
    #[error("the tile {} is damaged; remove the directory, and it is made again", .0.display())]
    Damaged(PathBuf),
    /// What follows from them is not what the checkpoint says.
    #[error("the tiles are not those of the log's tree; they are made again")]
    Untrue,
    /// Nothing is known: nobody waited for the end of a look through them.
    #[error("nobody waits for what was looked for in the tiles")]
    GivenUp,
}

/// A tile, by its place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    level: u32,
    index: u64,
    /// How many hashes; less than 256 where it is partial.
    width: usize,
}

impl Tile {
    /// The tile that the path after `tile/` names, as 1/x001/234 or 0/001.p/17; `None`: none.
    pub fn parse(path: &str) -> Option<Self> {
        let (path, width) = match path.split_once(".p/") {
            Some((path, width)) => (path, decimal(width).filter(|width| *width < WIDTH as u64)?),
            None => (path, WIDTH as u64),
        };
        let (level, index) = path.split_once('/')?;
        let level = u32::try_from(decimal(level)?).ok().filter(|level| *level <= TOP)?;
        let parts: Vec<&str> = index.split('/').collect();
        let (last, before) = parts.split_last()?;
        let mut index = 0u64;
        let elements = before.iter().map(|part| part.strip_prefix('x')).chain([Some(*last)]);
        for element in elements {
            let element = element.filter(|e| e.len() == 3 && e.bytes().all(|b| b.is_ascii_digit()));
            index = index.checked_mul(1000)?.checked_add(element?.parse().ok()?)?;
        }
        let width = usize::try_from(width).ok().filter(|width| (1..=WIDTH).contains(width))?;
        let tile = Self { level, index, width };
        // One path a tile: there are no more elements than the index needs.
        (tile.to_path() == path).then_some(tile)
    }

    /// The path of its file.
    fn to_path(self) -> String {
        let mut index = self.index;
        let mut path = format!("{:03}", index % 1000);
        while index >= 1000 {
            index /= 1000;
            path = format!("x{:03}/{path}", index % 1000);
        }
        format!("{}/{path}", self.level)
    }

    /// Whether a tree of that size has all of its hashes.
    pub fn is_of(self, size: Position) -> bool {
        let there = hashes_at(self.level, size);
        let end = self
            .index
            .checked_mul(WIDTH as u64)
            .and_then(|start| start.checked_add(self.width as u64));
        end.is_some_and(|end| end <= there)
    }
}

/// How many hashes a tree has at a level of tiles.
fn hashes_at(level: u32, size: Position) -> u64 {
    size.0.checked_shr(level * HEIGHT).unwrap_or(0)
}

/// Deletes a directory with tiles in it, if it is there.
pub fn delete(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The tiles of a directory, to read.
#[derive(Debug, Clone)]
pub struct TileDirectory(PathBuf);

impl TileDirectory {
    /// The tiles at a path, whatever is there.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn path(&self, tile: Tile) -> PathBuf {
        self.0.join("tile").join(tile.to_path())
    }

    /// A tile's bytes. Only those that the tree at hand has all of may be asked for.
    pub fn read(&self, tile: Tile) -> Result<Vec<u8>, TilesError> {
        let path = self.path(tile);
        let mut bytes = vec![0; tile.width * HASH_BYTES];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0));
        match read {
            Ok(()) => Ok(bytes),
            Err(error) if is_missing(&error) => Err(TilesError::Damaged(path)),
            Err(error) => Err(TilesError::Io { path, error }),
        }
    }

    /// The first hashes of a level's tile, as many as there are.
    fn beginning(&self, level: u32, index: u64) -> Result<Vec<Root>, TilesError> {
        let path = self.path(Tile { level, index, width: WIDTH });
        match fs::read(&path) {
            Ok(mut bytes) => {
                bytes.truncate(WIDTH * HASH_BYTES);
                Ok(bytes.as_chunks::<HASH_BYTES>().0.to_vec())
            }
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(error) => Err(TilesError::Io { path, error }),
        }
    }

    /// Every leaf in order, to the end of what is there.
    pub fn leaves(&self) -> Leaves<'_> {
        Leaves { tiles: self, is_mirror: false, next: Some(0), page: Vec::new().into_iter() }
    }

    /// The same, where they may have been fetched one by one: a partial tile is then a file of its own.
    pub fn mirrored_leaves(&self) -> Leaves<'_> {
        Leaves { is_mirror: true, ..self.leaves() }
    }

    /// The first hashes of a level's tile from the widest of the partial tiles that were fetched.
    fn widest_partial(&self, level: u32, index: u64) -> Result<Vec<Root>, TilesError> {
        let path = self.path(Tile { level, index, width: WIDTH }).with_extension("p");
        let widths = match fs::read_dir(&path) {
            Ok(entries) => entries
                .filter_map(|entry| decimal(entry.ok()?.file_name().to_str()?))
                .filter_map(|width| usize::try_from(width).ok()),
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            Err(error) => return Err(TilesError::Io { path, error }),
        };
        let Some(width) = widths.filter(|width| (1..WIDTH).contains(width)).max() else {
            return Ok(Vec::new());
        };
        let path = path.join(width.to_string());
        match fs::read(&path) {
            Ok(bytes) if bytes.len() == width * HASH_BYTES => {
                Ok(bytes.as_chunks::<HASH_BYTES>().0.to_vec())
            }
            Ok(_) => Err(TilesError::Damaged(path)),
            Err(error) => Err(TilesError::Io { path, error }),
        }
    }

    /// The position of a record, by its hash; all of the tree is looked through, for as long as it is
    /// wanted. `None`: all hashes of the tree were seen, and it is none of them.
    pub fn find(
        &self,
        hash: &RecordHash,
        tree: &Checkpoint,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Option<Position>, TilesError> {
        let mut range = CompactRange::default();
        while range.size() < tree.size {
            if !is_wanted() {
                return Err(TilesError::GivenUp);
            }
            let index = range.size().0 / WIDTH as u64;
            let left = usize::try_from(tree.size.0 - range.size().0).unwrap_or(WIDTH);
            let bytes = self.read(Tile { level: 0, index, width: left.min(WIDTH) })?;
            for known in bytes.as_chunks::<HASH_BYTES>().0 {
                if known == hash {
                    return Ok(Some(range.size()));
                }
                range.push(*known);
            }
        }
        // That it is not there is said of what the log's key signed, and not of a damaged file.
        if range.root() == tree.root { Ok(None) } else { Err(TilesError::Untrue) }
    }
}

/// The leaves of a directory's tiles.
pub struct Leaves<'a> {
    tiles: &'a TileDirectory,
    is_mirror: bool,
    /// The tile after `page`; `None`: `page` is the last.
    next: Option<u64>,
    page: std::vec::IntoIter<RecordHash>,
}

impl Iterator for Leaves<'_> {
    type Item = Result<RecordHash, TilesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0 {
            let index = self.next?;
            let page = match self.tiles.beginning(0, index) {
                Ok(page) if page.is_empty() && self.is_mirror => {
                    self.tiles.widest_partial(0, index)
                }
                page => page,
            };
            match page {
                Ok(page) => {
                    self.next = (page.len() == WIDTH).then_some(index + 1);
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.next = None;
                    return Some(Err(error));
                }
            }
        }
        self.page.next().map(Ok)
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

impl Nodes for TileDirectory {
    type Error = TilesError;

    fn node(&self, level: u32, index: u64) -> Result<Root, TilesError> {
        // The hashes at the tile's own level that the node is over, all in one tile.
        let hashes = 1usize << (level % HEIGHT);
        let first = index << (level % HEIGHT);
        let place = usize::try_from(first % WIDTH as u64).unwrap_or_default();
        let width = place + hashes;
        let tile = Tile { level: level / HEIGHT, index: first / WIDTH as u64, width };
        let bytes = self.read(tile)?;
        let mut range = CompactRange::default();
        for hash in &bytes.as_chunks::<HASH_BYTES>().0[place..] {
            range.push(*hash);
        }
        Ok(range.root())
    }
}

/// How many tiles are kept: the way to a record, and the tree's edge, have some ten.
const MOST_KEPT: usize = 64;

/// Tiles that are kept once they are read, for the proofs of many records of one tree. A proof takes some
/// twenty nodes, many of one tile, and most above the leaves are those of the proof before.
pub struct KeptTiles<'t> {
    tiles: &'t TileDirectory,
    size: Position,
    /// By level and index.
    kept: RefCell<HashMap<(u32, u64), NodesIn>>,
}

/// The nodes in a tile, those of its own level first, those above them next.
type NodesIn = Vec<Vec<Root>>;

impl<'t> KeptTiles<'t> {
    /// None yet, of a tree of so many leaves.
    pub fn new(tiles: &'t TileDirectory, size: Position) -> Self {
        Self { tiles, size, kept: RefCell::default() }
    }

    fn nodes(&self, level: u32, index: u64) -> Result<NodesIn, TilesError> {
        let left = hashes_at(level, self.size).saturating_sub(index.saturating_mul(WIDTH as u64));
        let width = usize::try_from(left).unwrap_or(WIDTH).min(WIDTH);
        let bytes = self.tiles.read(Tile { level, index, width })?;
        let own = bytes.as_chunks::<HASH_BYTES>().0.to_vec();
        let above = |nodes: &Vec<Root>| {
            let pairs = nodes.as_chunks::<2>().0;
            (!pairs.is_empty())
                .then(|| pairs.iter().map(|[left, right]| parent(left, right)).collect())
        };
        Ok(iter::successors(Some(own), above).collect())
    }
}

impl Nodes for KeptTiles<'_> {
    type Error = TilesError;

    fn node(&self, level: u32, index: u64) -> Result<Root, TilesError> {
        let (tile_level, above) = (level / HEIGHT, level % HEIGHT);
        let across = WIDTH as u64 >> above;
        let (tile_index, place) = (index / across, index % across);
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        let nodes = match kept.entry((tile_level, tile_index)) {
            Entry::Occupied(nodes) => nodes.into_mut(),
            Entry::Vacant(place) => place.insert(self.nodes(tile_level, tile_index)?),
        };
        let node =
            nodes.get(above as usize).and_then(|nodes| nodes.get(usize::try_from(place).ok()?));
        let tile = Tile { level: tile_level, index: tile_index, width: WIDTH };
        node.copied().ok_or_else(|| TilesError::Damaged(self.tiles.path(tile)))
    }
}

/// Adds to tiles.
pub struct TileWriter {
    tiles: TileDirectory,
    levels: Vec<Level>,
    tree: CompactRange,
}

/// The newest tile of a level, full or not.
#[derive(Default)]
struct Level {
    index: u64,
    hashes: Vec<Root>,
    /// How many of them are in the file.
    written: usize,
    /// The root over `hashes`.
    range: CompactRange,
}

impl TileWriter {
    /// Reads the tiles that are there, and puts right what follows from the leaves. Whether those
    /// are the log's, the caller asks the tree.
    pub fn open(path: &Path) -> Result<Self, TilesError> {
        let tiles = TileDirectory::new(path);
        let levels = Vec::new();
        let mut writer = Self { tiles: tiles.clone(), levels, tree: CompactRange::default() };
        for leaf in tiles.leaves() {
            writer.push(leaf?)?;
            // It is there; only above may something be missing.
            if let Some(leaves) = writer.levels.first_mut() {
                leaves.written = leaves.hashes.len();
            }
        }
        writer.flush()?;
        Ok(writer)
    }

    /// Removes the tiles, to begin with nothing.
    pub fn clear(self) -> Result<Self, TilesError> {
        let path = self.tiles.0;
        match delete(&path.join("tile")) {
            Ok(()) => Self::open(&path),
            Err(error) => Err(TilesError::Io { path, error }),
        }
    }

    /// The tree over all leaves.
    pub fn tree(&self) -> &CompactRange {
        &self.tree
    }

    /// Adds the next leaf. It is in the files after [`TileWriter::flush`].
    pub fn push(&mut self, leaf: RecordHash) -> Result<(), TilesError> {
        self.tree.push(leaf);
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Level::default());
            }
            let newest = &mut self.levels[level];
            if newest.hashes.len() == WIDTH {
                *newest = Level { index: newest.index + 1, ..Level::default() };
            }
            newest.hashes.push(hash);
            newest.range.push(hash);
            if newest.hashes.len() < WIDTH {
                return Ok(());
            }
            hash = newest.range.root();
            self.write(level)?;
        }
        Ok(())
    }

    /// Writes what is not in the files yet.
    pub fn flush(&mut self) -> Result<(), TilesError> {
        (0..self.levels.len()).try_for_each(|level| self.write(level))
    }

    fn write(&mut self, level: usize) -> Result<(), TilesError> {
        let newest = &mut self.levels[level];
        if newest.written == newest.hashes.len() {
            return Ok(());
        }
        let level = u32::try_from(level).unwrap_or(TOP);
        let path = self.tiles.path(Tile { level, index: newest.index, width: WIDTH });
        let bytes = newest.hashes[newest.written..].concat();
        let offset = (newest.written * HASH_BYTES) as u64;
        // Readers have what they may read already: nothing of it is written again with other bytes. What
        // was written must be there still, or there would be a hole before the rest.
        let is_begun = newest.written > 0;
        let open = || {
            let file =
                OpenOptions::new().write(true).create(!is_begun).truncate(false).open(&path)?;
            let is_whole = file.metadata()?.len() >= offset;
            if is_whole { Ok(file) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
        };
        let file = open().or_else(|error| match (error.kind(), path.parent()) {
            (io::ErrorKind::NotFound, Some(parent)) if !is_begun => {
                fs::create_dir_all(parent)?;
                open()
            }
            _ => Err(error),
        });
        file.and_then(|file| file.write_all_at(&bytes, offset)).map_err(|error| {
            if is_begun && is_missing(&error) {
                TilesError::Damaged(path)
            } else {
                TilesError::Io { path, error }
            }
        })?;
        newest.written = newest.hashes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tlog::proof::tests::{at, leaves};
    use crate::tlog::proof::{consistency, inclusion, root};

    #[test]
    fn a_path_is_one_tile_and_a_tile_has_one_path() {
        for (path, tile) in [
            ("0/000", Tile { level: 0, index: 0, width: 256 }),
            ("0/x001/x234/067", Tile { level: 0, index: 1_234_067, width: 256 }),
            ("3/x001/000.p/255", Tile { level: 3, index: 1000, width: 255 }),
            ("63/999.p/1", Tile { level: 63, index: 999, width: 1 }),
        ] {
            assert_eq!(Tile::parse(path), Some(tile), "{path}");
        }
        for path in [
            "",
            "0",
            "0/",
            "/000",
            "00/000",
            "64/000",
            "-1/000",
            "0/00",
            "0/0000",
            "0/x000/000",
            "0/001/000",
            "0/x001",
            "0/x1/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/000.p",
            "0/../000",
            "entries/000",
            "0/x018/x446/x744/x073/x709/x551/616",
            "0/00a",
            "0/000.p/1.p/1",
            "0/+01",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    /// The example of tlog-tiles, "Partial Tiles".
    #[test]
    fn a_tree_of_70_000_has_the_tiles_that_the_specification_names() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = TileWriter::open(place.path()).unwrap();
        let tree = leaves(70_000);
        for leaf in &tree.0 {
            writer.push(*leaf).unwrap();
        }
        writer.flush().unwrap();
        let tiles = TileDirectory::new(place.path());
        let size = Position(70_000);
        for (path, bytes) in [
            ("0/000", 8192),
            ("0/272", 8192),
            ("0/273.p/112", 112 * 32),
            ("1/000", 8192),
            ("1/001.p/17", 17 * 32),
            ("2/000.p/1", 32),
        ] {
            let tile = Tile::parse(path).unwrap();
            assert!(tile.is_of(size), "{path}");
            assert_eq!(tiles.read(tile).unwrap().len(), bytes, "{path}");
        }
        // A mirror has them under these names, and perhaps an older end of it as well.
        let mirror = tempfile::tempdir().unwrap();
        let fetch = |path: &str| {
            let file = mirror.path().join("tile").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, tiles.read(Tile::parse(path).unwrap()).unwrap()).unwrap();
        };
        (0..273).for_each(|index| fetch(&format!("0/{index:03}")));
        ["0/273.p/112", "0/273.p/9", "0/200.p/20"].into_iter().for_each(fetch);
        let mirror = TileDirectory::new(mirror.path());
        let mirrored: Result<Vec<_>, _> = mirror.mirrored_leaves().collect();
        assert!(mirrored.unwrap() == tree.0);
        assert_eq!(mirror.leaves().count(), 273 * 256);
        for path in ["0/273", "0/273.p/113", "0/274.p/1", "1/001.p/18", "2/000.p/2", "3/000.p/1"] {
            assert!(!Tile::parse(path).unwrap().is_of(size), "{path}");
        }
        assert_eq!(root(&tiles, 0, 70_000).unwrap(), writer.tree().root());
        let [all, less] = [size, Position(69_999)].map(|size| tree.checkpoint(size.0));
        let find = |hash: &RecordHash, of: &Checkpoint| tiles.find(hash, of, || true);
        assert_eq!(find(&tree.0[69_999], &all).unwrap(), Some(Position(69_999)));
        assert_eq!(find(&tree.0[69_999], &less).unwrap(), None);
        assert_eq!(find(&[0; 32], &all).unwrap(), None);
        // A damaged leaf is no answer.
        let path = place.path().join("tile/0/x000").with_file_name("100");
        let mut bytes = fs::read(&path).unwrap();
        bytes[5] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(find(&[0; 32], &all), Err(TilesError::Untrue)));
        fs::remove_file(&path).unwrap();
        assert!(matches!(find(&[0; 32], &all), Err(TilesError::Damaged(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn proofs_from_tiles_are_those_of_the_tree(
            sizes in prop::collection::vec(1u64..700, 1..4),
            leaf in any::<prop::sample::Index>(),
            old in any::<prop::sample::Index>(),
        ) {
            let place = tempfile::tempdir().unwrap();
            let size: u64 = sizes.iter().sum();
            let tree = leaves(size);
            let mut next = tree.0.iter();
            for size in sizes {
                // As after a restart.
                let mut writer = TileWriter::open(place.path()).unwrap();
                for leaf in next.by_ref().take(at(size)) {
                    writer.push(*leaf).unwrap();
                }
                writer.flush().unwrap();
            }
            let tiles = TileDirectory::new(place.path());
            let leaf = Position(leaf.index(at(size)) as u64);
            let old = Position(old.index(at(size) + 1) as u64);
            let size = Position(size);
            let Ok(expected) = inclusion(&tree, leaf, size);
            prop_assert_eq!(&inclusion(&tiles, leaf, size).unwrap(), &expected);
            let kept = KeptTiles::new(&tiles, size);
            prop_assert_eq!(&inclusion(&kept, leaf, size).unwrap(), &expected);
            for level in 0..=size.0.ilog2() {
                for index in 0..size.0 >> level {
                    let Ok(node) = tree.node(level, index);
                    prop_assert_eq!(kept.node(level, index).unwrap(), node);
                }
            }
            let Ok(expected) = consistency(&tree, old, size);
            prop_assert_eq!(consistency(&tiles, old, size).unwrap(), expected);
        }
    }

    #[test]
    fn what_a_power_cut_took_of_the_upper_levels_is_put_right_and_of_the_leaves_is_seen() {
        let place = tempfile::tempdir().unwrap();
        let mut writer = TileWriter::open(place.path()).unwrap();
        let tree = leaves(1500);
        for leaf in &tree.0 {
            writer.push(*leaf).unwrap();
        }
        writer.flush().unwrap();
        let expected = writer.tree().clone();
        let file = |path: &str| place.path().join("tile").join(path);
        let upper = fs::read(file("1/000")).unwrap();
        fs::write(file("1/000"), vec![0; upper.len() + 5]).unwrap();
        assert_eq!(TileWriter::open(place.path()).unwrap().tree(), &expected);
        assert_eq!(fs::read(file("1/000")).unwrap()[..upper.len()], upper);
        fs::remove_file(file("0/002")).unwrap();
        let cut = TileWriter::open(place.path()).unwrap();
        assert_eq!(cut.tree().size(), Position(512));
        let damaged = root(&TileDirectory::new(place.path()), 0, 520).unwrap_err().to_string();
        assert!(damaged.contains("is damaged"), "{damaged}");
        let empty = cut.clear().unwrap();
        assert_eq!(empty.tree().size(), Position::ZERO);
        assert!(!file("0/000").exists());
    }
}
