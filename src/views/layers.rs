//! Rows in memory above rows on disk. What is newest is changed in memory; when it has become enough, it
//! moves to disk in the background, and stays readable in memory until it is there.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::iter::Peekable;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use serde::de::DeserializeOwned;

use super::ViewsError;
use super::row::{read, unreadable};
use super::store::{Key, Store};

/// Rows by their keys. `None`: deleted.
pub(super) type Rows = BTreeMap<Key, Option<Vec<u8>>>;

/// How many rows wait in memory, some 200 bytes each. The longer they wait, the more of them are changed
/// again before they move; and the more a start takes in again of the log after the process was killed.
const RECENT_ROWS: usize = 64 * 1024;

/// Why rows are of no use after an error.
pub(super) const NOT_WRITTEN: &str = "an earlier change was not written";

/// The rows that are in memory.
pub(super) struct Recent {
    newest: Rows,
    /// How many of these wait for a move. With twice as many the disk is too slow for what happens, and is
    /// waited for.
    pub(super) waiting: usize,
    moving: Option<Moving>,
    /// Why nothing may be read from them or built on them: rows are missing, or half changed.
    unusable: Option<&'static str>,
}

/// Rows on their way to disk, or there already.
struct Moving {
    rows: Arc<Rows>,
    writing: JoinHandle<Result<(), ViewsError>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { newest: Rows::new(), waiting: RECENT_ROWS, moving: None, unusable: None }
    }
}

impl Recent {
    pub(super) fn layers<'a>(&'a self, store: &'a Store) -> Result<Layers<'a>, ViewsError> {
        self.is_whole()?;
        let moving = self.moving.as_ref().map(|moving| moving.rows.as_ref());
        Ok(Layers { newest: &self.newest, moving, store })
    }

    pub(super) fn changes<'a>(
        &'a mut self,
        store: &'a Store,
    ) -> Result<ChangedLayers<'a>, ViewsError> {
        self.is_whole()?;
        let moving = self.moving.as_ref().map(|moving| moving.rows.as_ref());
        Ok(ChangedLayers { newest: &mut self.newest, moving, store })
    }

    /// Has nothing read from the rows, or built on them, from here on.
    pub(super) fn fail(&mut self, why: &'static str) {
        self.unusable.get_or_insert(why);
    }

    fn is_whole(&self) -> Result<(), ViewsError> {
        self.unusable.map_or(Ok(()), |why| Err(ViewsError::Damaged(why.to_owned())))
    }

    /// Begins to move the newest rows, in one atomic batch, where there are enough of them.
    pub(super) fn settle(&mut self, store: &Arc<Store>) -> Result<(), ViewsError> {
        let is_moving = self.moving.as_ref().is_some_and(|moving| !moving.writing.is_finished());
        let is_urgent = self.newest.len() >= 2 * self.waiting;
        if self.newest.len() < self.waiting || (is_moving && !is_urgent) {
            return Ok(());
        }
        // So many are not freed where somebody waits.
        let moved = self.moving.as_ref().map(|moving| Arc::clone(&moving.rows));
        self.wait()?;
        let rows = Arc::new(std::mem::take(&mut self.newest));
        let (store_, rows_) = (Arc::clone(store), Arc::clone(&rows));
        let write = move || {
            drop(moved);
            store_.write(&rows_)
        };
        match thread::Builder::new().name("views".to_owned()).spawn(write) {
            Ok(writing) => self.moving = Some(Moving { rows, writing }),
            // Without a thread it takes its time here.
            Err(_) => self.written(store.write(&rows))?,
        }
        Ok(())
    }

    /// Moves all rows to disk.
    pub(super) fn settle_all(&mut self, store: &Store) -> Result<(), ViewsError> {
        self.wait()?;
        self.is_whole()?;
        let written = store.write(&self.newest);
        self.newest.clear();
        self.written(written)
    }

    fn wait(&mut self) -> Result<(), ViewsError> {
        let Some(moving) = self.moving.take() else { return Ok(()) };
        let written = moving.writing.join();
        self.written(
            written
                .unwrap_or_else(|_| Err(ViewsError::Damaged("they cannot be written".to_owned()))),
        )
    }

    fn written(&mut self, result: Result<(), ViewsError>) -> Result<(), ViewsError> {
        result.inspect_err(|_| self.fail(NOT_WRITTEN))
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        // Nobody is left to tell; the views are behind the log then, which the next start sees.
        let _ = self.wait();
    }
}

/// All rows, the recent ones above those on disk.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a> {
    newest: &'a Rows,
    moving: Option<&'a Rows>,
    store: &'a Store,
}

/// The same, the newest of which can be changed.
pub(super) struct ChangedLayers<'a> {
    pub(super) newest: &'a mut Rows,
    moving: Option<&'a Rows>,
    store: &'a Store,
}

impl ChangedLayers<'_> {
    pub(super) fn all(&self) -> Layers<'_> {
        Layers { newest: self.newest, moving: self.moving, store: self.store }
    }

    /// A row's bytes, to be changed where they are.
    pub(super) fn bytes(&mut self, key: Key) -> Result<&mut Option<Vec<u8>>, ViewsError> {
        match self.newest.entry(key) {
            Entry::Occupied(row) => Ok(row.into_mut()),
            Entry::Vacant(place) => {
                let bytes = older(self.moving, self.store, place.key())?;
                Ok(place.insert(bytes))
            }
        }
    }
}

impl<'a> Layers<'a> {
    pub(super) fn get<R: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<R>, ViewsError> {
        if let Some(bytes) = self.newest.get(key) {
            return bytes.as_deref().map(read).transpose();
        }
        older(self.moving, self.store, key)?.as_deref().map(read).transpose()
    }

    /// A row's bytes.
    pub(super) fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewsError> {
        match self.newest.get(key) {
            Some(bytes) => Ok(bytes.clone()),
            None => older(self.moving, self.store, key),
        }
    }

    /// The rows of a range, first to last.
    pub(super) fn range(
        self,
        range: Range<&[u8]>,
    ) -> impl Iterator<Item = Result<(Key, Vec<u8>), ViewsError>> + use<'a> {
        let (newest, moving) = self.recent(&range);
        let stored = self.store.range(range).map(stored);
        present(Merged::new(newest, Merged::new(moving, stored, false), false))
    }

    /// The rows of a range, last to first.
    pub(super) fn range_back(
        self,
        range: Range<&[u8]>,
    ) -> impl Iterator<Item = Result<(Key, Vec<u8>), ViewsError>> + use<'a> {
        let (newest, moving) = self.recent(&range);
        let stored = self.store.range(range).rev().map(stored);
        present(Merged::new(newest.rev(), Merged::new(moving.rev(), stored, true), true))
    }

    /// Whether it has these rows in a range, which are in the order of keys, and no others.
    pub(super) fn has(
        self,
        range: Range<&[u8]>,
        rows: impl IntoIterator<Item = Result<(Key, Vec<u8>), ViewsError>>,
    ) -> Result<bool, ViewsError> {
        let mut ours = self.range(range);
        for row in rows {
            match ours.next().transpose()? {
                Some(ours) if ours == row? => {}
                _ => return Ok(false),
            }
        }
        Ok(ours.next().is_none())
    }

    /// The ids that follow a prefix in the keys of rows.
    pub(super) fn ids_below(self, prefix: &[u8]) -> Result<Vec<[u8; 16]>, ViewsError> {
        let end = [prefix, &[0xFF; 17]].concat();
        self.range(prefix..&end)
            .map(|row| row?.0[prefix.len()..].try_into().map_err(|_| unreadable()))
            .collect()
    }

    /// The rows of a range that are in memory: the newest, and those that are moving.
    fn recent(
        self,
        range: &Range<&[u8]>,
    ) -> (
        impl DoubleEndedIterator<Item = Row> + use<'a>,
        impl DoubleEndedIterator<Item = Row> + use<'a>,
    ) {
        static NONE: Rows = Rows::new();
        let bounds = (Bound::Included(range.start), Bound::Excluded(range.end));
        let row = |(key, value): (&Key, &Option<Vec<u8>>)| Ok((key.clone(), value.clone()));
        let newest = self.newest.range::<[u8], _>(bounds).map(row);
        (newest, self.moving.unwrap_or(&NONE).range::<[u8], _>(bounds).map(row))
    }
}

fn older(moving: Option<&Rows>, store: &Store, key: &[u8]) -> Result<Option<Vec<u8>>, ViewsError> {
    match moving.and_then(|rows| rows.get(key)) {
        Some(bytes) => Ok(bytes.clone()),
        None => Ok(store.get(key)?.map(|bytes| bytes.to_vec())),
    }
}

/// A row of one layer. `None`: deleted.
type Row = Result<(Key, Option<Vec<u8>>), ViewsError>;

fn stored(row: Result<(Key, impl AsRef<[u8]>), ViewsError>) -> Row {
    // A long key of the engine's may be part of a whole block, which would stay as long as it.
    row.map(|(key, value)| (Key::from(&key[..]), Some(value.as_ref().to_vec())))
}

/// Those that are not deleted.
fn present(
    rows: impl Iterator<Item = Row>,
) -> impl Iterator<Item = Result<(Key, Vec<u8>), ViewsError>> {
    rows.filter_map(|row| row.map(|(key, value)| Some((key, value?))).transpose())
}

/// The rows of two layers, both in order; of two with one key the upper one.
struct Merged<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
    is_reversed: bool,
}

impl<U: Iterator<Item = Row>, L: Iterator<Item = Row>> Merged<U, L> {
    fn new(upper: U, lower: L, is_reversed: bool) -> Self {
        Self { upper: upper.peekable(), lower: lower.peekable(), is_reversed }
    }
}

impl<U: Iterator<Item = Row>, L: Iterator<Item = Row>> Iterator for Merged<U, L> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let (Some(Ok((upper, _))), Some(lower)) = (self.upper.peek(), self.lower.peek()) else {
            return self.upper.next().or_else(|| self.lower.next());
        };
        // What cannot be read is told first.
        let Ok((lower, _)) = lower else { return self.lower.next() };
        let order = upper.cmp(lower);
        match if self.is_reversed { order.reverse() } else { order } {
            Ordering::Less => self.upper.next(),
            Ordering::Greater => self.lower.next(),
            Ordering::Equal => {
                self.lower.next();
                self.upper.next()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn layers_are_read_as_one_wherever_the_rows_are() {
        let place = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(place.path(), 1 << 20, || ()).unwrap());
        let mut rng = StdRng::seed_from_u64(1);
        let mut recent = Recent::default();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut held: Option<mpsc::Sender<()>> = None;
        for round in 0..2000 {
            let key = vec![rng.random_range(0..60)];
            let before = model.get(&key).cloned();
            let value = rng.random_bool(0.6).then(|| vec![rng.random(); 3]);
            match &value {
                Some(value) => drop(model.insert(key.clone(), value.clone())),
                None => drop(model.remove(&key)),
            }
            let mut changes = recent.changes(&store).unwrap();
            let key = Key::from(key);
            assert_eq!(changes.bytes(key.clone()).unwrap().as_ref(), before.as_ref());
            changes.newest.insert(key, value);
            if rng.random_bool(0.05) {
                // Those that were held back get there, and the newest are.
                drop(held.take());
                recent.wait().unwrap();
                let rows = Arc::new(std::mem::take(&mut recent.newest));
                let (hold, go) = mpsc::channel();
                let (store, moved) = (Arc::clone(&store), Arc::clone(&rows));
                let writing = thread::spawn(move || {
                    let _ = go.recv();
                    store.write(&moved)
                });
                recent.moving = Some(Moving { rows, writing });
                held = Some(hold);
            } else if rng.random_bool(0.02) {
                drop(held.take());
                recent.settle_all(&store).unwrap();
            }

            let (from, to) = (vec![rng.random_range(0..60)], vec![rng.random_range(0..61)]);
            let range = || from.as_slice()..to.as_slice().max(&from);
            let expected = || {
                let bounds = (Bound::Included(range().start), Bound::Excluded(range().end));
                let row = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.into(), value.clone());
                model.range::<[u8], _>(bounds).map(row)
            };
            let layers = recent.layers(&store).unwrap();
            let rows = layers.range(range()).map(Result::unwrap);
            assert!(rows.eq(expected()), "round {round}");
            let rows = layers.range_back(range()).map(Result::unwrap);
            assert!(rows.eq(expected().rev()), "round {round}");
        }
        drop(held);
    }
}
