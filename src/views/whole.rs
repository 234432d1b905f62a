//! Views of a whole log, from nothing.

use std::thread;

use super::changes::Changes;
use super::later::{Folded, Later};
use super::layers::Recent;
use super::row::{self, ROWS_OF_MANY};
use super::{Checkpoint, Views, ViewsError};
use crate::domain::{Event, Position};
use crate::parallel::ahead;

/// Takes in a whole log, where there are no views yet. There is nothing to read before its end; without
/// one, the views are of no use.
pub struct Whole<'v> {
    views: &'v Views,
    /// The rows that have a part in each other, which are few.
    few: Recent,
    later: Later,
}

impl Views {
    /// Begins to take in a whole log. `None`: something is in the views already.
    pub fn begin_whole(&self) -> Result<Option<Whole<'_>>, ViewsError> {
        if !self.is_empty()? {
            return Ok(None);
        }
        self.distrust()?;
        self.write_recent().fail("they are being made");
        let later = Later::new(&self.directory);
        Ok(Some(Whole { views: self, few: Recent::default(), later }))
    }
}

impl Whole<'_> {
    /// Takes in events that follow those before. What one of them says was erased must not be among them.
    pub fn apply<'e>(
        &mut self,
        events: impl IntoIterator<Item = (Position, &'e Event)>,
    ) -> Result<(), ViewsError> {
        let few = self.few.changes(&self.views.store)?;
        let mut changes = Changes::new(few, &|_| Ok(false)).later(&mut self.later);
        events.into_iter().try_for_each(|(position, event)| changes.apply(position, event))
    }

    /// Makes the views of what was taken in, up to `end`. `progress` is told how many of how many parts
    /// are done.
    pub fn finish(
        self,
        end: Checkpoint,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), ViewsError> {
        let Self { views, mut few, later } = self;
        let store = &views.store;
        store.write_batches(Folded::LISTS, |put| {
            thread::scope(|scope| {
                let folds = later.folds();
                let parts = folds.len() as u64;
                for (done, folded) in (1..).zip(ahead(scope, folds)) {
                    for (batch, rows) in folded?.lists().into_iter().enumerate() {
                        for (key, row) in rows {
                            put(batch, key, Some(row.into()))?;
                        }
                    }
                    progress(done, parts);
                }
                Ok(())
            })
        })?;
        Changes::new(few.changes(store)?, &|_| Ok(false)).checkpoint(end)?;
        few.settle_all(store)?;
        *views.write_recent() = Recent::default();
        views.trust()
    }

    /// Whether other views have, row for row, what comes of all that was taken in, up to `end`; instead
    /// of making it. `progress` is told how many of how many parts are compared.
    pub fn is_in(
        self,
        other: &Views,
        end: Checkpoint,
        progress: impl FnMut(u64, u64),
    ) -> Result<bool, ViewsError> {
        let Self { views, mut few, later } = self;
        let recent = other.read_recent();
        let other = recent.layers(&other.store)?;
        // Views of nothing have no checkpoint either.
        if end != Checkpoint::default() {
            Changes::new(few.changes(&views.store)?, &|_| Ok(false)).checkpoint(end)?;
        }
        let few = few.layers(&views.store)?;
        for keys in row::of_few() {
            let keys = &keys.start[..]..&keys.end[..];
            if !other.has(keys.clone(), few.range(keys))? {
                return Ok(false);
            }
        }
        for_each_fold(&later, progress, |folded| {
            let firsts = folded.firsts.clone();
            for (prefix, rows) in ROWS_OF_MANY.into_iter().zip(folded.lists()) {
                let keys = row::of_many(prefix, &firsts);
                if !other.has(&keys.start..&keys.end, rows.into_iter().map(Ok))? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Makes the rows of what was taken in, and keeps none: where there are no views to compare. `progress`
    /// is told how many of how many parts are made.
    pub fn can_be_made(self, progress: impl FnMut(u64, u64)) -> Result<(), ViewsError> {
        for_each_fold(&self.later, progress, |_| Ok(true)).map(drop)
    }
}

/// Makes the rows that were put off, and looks at them, on all processors, for as long as it finds them
/// good. Tells whether it found all so.
fn for_each_fold(
    later: &Later,
    mut progress: impl FnMut(u64, u64),
    is_good: impl Fn(Folded) -> Result<bool, ViewsError> + Copy + Send,
) -> Result<bool, ViewsError> {
    thread::scope(|scope| {
        let folds = later.folds();
        let parts = folds.len() as u64;
        let looks = folds.map(|fold| move || is_good(fold()?));
        for (done, good) in (1..).zip(ahead(scope, looks)) {
            if !good? {
                return Ok(false);
            }
            progress(done, parts);
        }
        Ok(true)
    })
}
