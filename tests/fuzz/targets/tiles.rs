//! The tiles of the log's tree on a disk: whatever becomes of their bytes, they are the tree that they were, or
//! are seen not to be; and then they are made again.

#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use countersign::domain::Position;
use countersign::log::head::Checkpoint;
use countersign::log::record;
use countersign::tlog::proof::{inclusion, verify_inclusion};
use countersign::tlog::tiles::{Tile, TileDirectory, TileWriter, TilesError};
use countersign_fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// More than two tiles have.
const MOST: usize = 600;

static LEAVES: LazyLock<Vec<[u8; 32]>> =
    LazyLock::new(|| (0..MOST).map(|i| record::hash(&i.to_be_bytes())).collect());

/// It is written at each run, so not to a disk.
static PLACE: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").unwrap());

/// Writes tiles of so many leaves.
fn write(place: &Path, leaves: &[[u8; 32]]) -> Checkpoint {
    let mut writer = TileWriter::open(place).unwrap();
    leaves.iter().for_each(|leaf| writer.push(*leaf).unwrap());
    writer.flush().unwrap();
    Checkpoint { size: writer.tree().size(), root: writer.tree().root() }
}

fn hold(place: &Path, leaves: &[[u8; 32]], tree: &Checkpoint, at: usize) {
    let tiles = TileDirectory::new(place);
    assert!(tiles.leaves().map(Result::unwrap).take(leaves.len()).eq(leaves.iter().copied()));
    let Some(leaf) = leaves.get(at % leaves.len().max(1)) else { return };
    let found = tiles.find(leaf, tree, || true).unwrap().unwrap();
    let path = inclusion(&tiles, found, tree.size).unwrap().unwrap();
    assert!(verify_inclusion(found, leaf, &path, tree));
}

fuzz_target!(|data: &[u8]| {
    if let Ok(path) = str::from_utf8(data)
        && let Some(tile) = Tile::parse(path)
    {
        assert!(!tile.is_of(Position::ZERO));
        let _ = tile.is_of(Position(u64::MAX));
    }
    let mut input = Input(data);
    let count = usize::from(u16::from_be_bytes(input.bytes())) % MOST;
    let (which, how, at) =
        (input.byte(), input.byte(), usize::from(u16::from_be_bytes(input.bytes())));
    let place = PLACE.path();
    let _ = fs::remove_dir_all(place.join("tile"));
    let leaves = &LEAVES[..count];
    let tree = write(place, leaves);
    hold(place, leaves, &tree, at);

    let names = ["0/000", "0/001", "0/002", "1/000", "0/000.p/9", "0/002.p/88", "2/000", "0/003"];
    let path: PathBuf = place.join("tile").join(names[usize::from(which % 8)]);
    let mut bytes = fs::read(&path).unwrap_or_default();
    match how % 4 {
        0 => bytes.truncate(at),
        1 => bytes.extend(input.0),
        2 => bytes = input.0.to_vec(),
        _ => input.damage(&mut bytes),
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &bytes).unwrap();

    // Whoever has them only to read sees what is there.
    let tiles = TileDirectory::new(place);
    let of_mirror = tiles.mirrored_leaves().take_while(Result::is_ok).count();
    assert!(of_mirror >= tiles.leaves().filter(Result::is_ok).count());
    if let Some(leaf) = leaves.get(at) {
        match tiles.find(leaf, &tree, || true) {
            Ok(found) => assert_eq!(found, Some(Position(at as u64))),
            Err(TilesError::Damaged(_) | TilesError::Untrue) => {}
            Err(error) => panic!("{error}"),
        }
        if let Ok(path) = inclusion(&tiles, Position(at as u64), tree.size) {
            // What follows from tiles that are wrong leads to no root of a checkpoint.
            let _ = verify_inclusion(Position(at as u64), leaf, &path.unwrap(), &tree);
        }
    }
    let Ok(writer) = TileWriter::open(place) else { return };
    let opened = Checkpoint { size: writer.tree().size(), root: writer.tree().root() };
    let there: Vec<_> = tiles.leaves().map(Result::unwrap).collect();
    assert_eq!(there.len() as u64, opened.size.0);
    assert_eq!(opened == tree, there == leaves);
    if opened == tree {
        hold(place, leaves, &tree, at);
    } else {
        drop(writer.clear().unwrap());
        assert!(write(place, leaves) == tree);
        hold(place, leaves, &tree, at);
    }
});
