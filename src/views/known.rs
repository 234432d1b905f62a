//! Which activations there may be. Nearly every activation that is asked for is new, and to find that out
//! from sled takes as long as all else that the rules do, longer with each that there is.
//!
//! A Bloom filter: what it does not know is not there, what it knows may be. Activation ids are hashes,
//! so that parts of them do for its hash functions. It is in memory only, and filled in the background
//! when the views open; until then anything may be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use sled::Db;

use super::row;
use crate::domain::ActivationId;
use crate::log::contained::contain;

/// With so many bits an id, one in 400 that are not there seems to be; with half of them, one in 40.
const BITS_AN_ID: u64 = 16;
/// Room for so many more than there are.
const ROOM: u64 = 1 << 18;
/// The most bits, 64 MiB: from 30 million activations on it knows less and less well.
const MOST_BITS: u64 = 1 << 29;

struct Filter {
    words: Vec<AtomicU64>,
    /// Whether it knows all that were there at the beginning.
    is_filled: AtomicBool,
    is_dropped: AtomicBool,
}

impl Filter {
    /// For so many, and some more.
    fn new(ids: u64) -> Self {
        let bits = ids.saturating_add(ROOM).saturating_mul(BITS_AN_ID).min(MOST_BITS);
        let words = usize::try_from(bits.next_power_of_two() / 64).unwrap_or(usize::MAX);
        let words = std::iter::repeat_with(AtomicU64::default).take(words).collect();
        Self { words, is_filled: AtomicBool::new(false), is_dropped: AtomicBool::new(false) }
    }

    /// The words of an id, and the bit in each.
    fn bits(&self, id: &[u8; 16]) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let (parts, _) = id.as_chunks::<4>();
        parts.iter().map(|part| {
            let bit = u32::from_be_bytes(*part) as usize % (self.words.len() * 64);
            (&self.words[bit / 64], 1 << (bit % 64))
        })
    }

    fn insert(&self, id: &[u8; 16]) {
        for (word, bit) in self.bits(id) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn has(&self, id: &[u8; 16]) -> bool {
        self.bits(id).all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn fill(&self, db: &Db) {
        for key in db.scan_prefix(row::ACTIVATIONS).keys() {
            // What cannot be read is for whoever asks for it.
            let Ok(key) = key else { return };
            if self.is_dropped.load(Ordering::Relaxed) {
                return;
            }
            if let Ok(id) = key[row::ACTIVATIONS.len()..].try_into() {
                self.insert(id);
            }
        }
        self.is_filled.store(true, Ordering::Release);
    }
}

/// The activations that there may be.
pub(super) struct Known {
    filter: Arc<Filter>,
    /// Fills it. It must be gone before its database can be.
    filling: Option<JoinHandle<()>>,
}

impl Known {
    /// Begins to learn of all in `db`, of which there are no more than `most`, with room for `expected`.
    pub(super) fn of(db: &Db, most: u64, expected: u64) -> Self {
        let filter = Arc::new(Filter::new(most.max(expected)));
        if most == 0 {
            filter.is_filled.store(true, Ordering::Release);
            return Self { filter, filling: None };
        }
        let (db, filled) = (db.clone(), Arc::clone(&filter));
        let fill = move || {
            contain(|| filled.fill(&db));
        };
        // Without a thread it is never filled, and of no use, but of no harm either.
        let filling = thread::Builder::new().name("views-known".to_owned()).spawn(fill).ok();
        Self { filter, filling }
    }

    /// Learns of one more.
    pub(super) fn insert(&self, id: ActivationId) {
        self.filter.insert(id.as_bytes());
    }

    /// Whether it may be there.
    pub(super) fn may_have(&self, id: ActivationId) -> bool {
        !self.filter.is_filled.load(Ordering::Acquire) || self.filter.has(id.as_bytes())
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.filter.is_dropped.store(true, Ordering::Relaxed);
        if let Some(filling) = self.filling.take() {
            // What it may have panicked over is contained.
            let _ = filling.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn what_is_there_is_known_and_little_else() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut ids = || -> Vec<[u8; 16]> { (0..ROOM).map(|_| rng.random()).collect() };
        let (there, not_there) = (ids(), ids());
        let filter = Filter::new(0);
        for id in &there {
            filter.insert(id);
        }
        assert!(there.iter().all(|id| filter.has(id)));
        let mistaken = not_there.iter().filter(|id| filter.has(id)).count();
        assert!(mistaken < not_there.len() / 200, "{mistaken} of {}", not_there.len());
    }

    #[test]
    fn until_it_is_filled_anything_may_be_there() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let [stored, new, other] = [1, 2, 3].map(|byte| ActivationId::from_bytes([byte; 16]));
        db.insert(row::activation(stored), &[]).unwrap();
        let empty = Known::of(&db, 0, 0);
        assert!(!empty.may_have(new));
        let mut known = Known::of(&db, 1, 1);
        known.insert(new);
        known.filling.take().unwrap().join().unwrap();
        assert!(known.may_have(stored) && known.may_have(new) && !known.may_have(other));
        let rebuilt = Known::of(&db, 0, 10 * ROOM);
        let reopened = Known::of(&db, 10 * ROOM, 0);
        assert_eq!(rebuilt.filter.words.len(), reopened.filter.words.len());
        let unfilled = Known { filter: Arc::new(Filter::new(1)), filling: None };
        assert!(unfilled.may_have(other));
    }
}
