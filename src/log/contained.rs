//! An engine's panics end with it. sled 0.34 panics on many a damaged file when it opens, and on a disk that
//! fails when it closes. What was appended is synced by then, so that nothing depends on
//! its closing; and a damaged file is an error with a message, not a panic with a backtrace.

use std::cell::Cell;
use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

thread_local! {
    /// What this thread says if a panic cannot be contained; `None`: it runs nothing whose panics are.
    static CONTAINED: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// Whether what is contained has panicked.
    static HAS_PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// What the threads are called that the views' engine merges its tables with.
pub(crate) const WORKERS: &str = "fjall";
/// Whether one of them has panicked, which nobody who calls the engine is told.
static HAS_WORKER_PANICKED: AtomicBool = AtomicBool::new(false);

/// Whether a thread of the views' engine has panicked since this was asked the last time.
pub(crate) fn take_worker_panic() -> bool {
    HAS_WORKER_PANICKED.swap(false, Ordering::AcqRel)
}

/// An open database.
pub(crate) struct Contained<D> {
    /// `None` only while it is dropped.
    db: Option<D>,
}

impl<D> Contained<D> {
    pub(crate) fn new(db: D) -> Self {
        Self { db: Some(db) }
    }
}

impl<D> Deref for Contained<D> {
    type Target = D;

    fn deref(&self) -> &D {
        let Some(db) = &self.db else { unreachable!("nobody has a database that is dropped") };
        db
    }
}

impl<D> Drop for Contained<D> {
    fn drop(&mut self) {
        const WORDS: &str = "a database could not be closed in order; check the disk";
        let db = self.db.take();
        if contain_or_end(WORDS, || drop(db)).is_none() {
            tracing::warn!("{WORDS}");
        }
    }
}

/// Runs this; `None`: it panicked, and nothing was printed.
pub(crate) fn contain<T>(run: impl FnOnce() -> T) -> Option<T> {
    const LAST_WORDS: &str = "the log's files are damaged; restore the log from a backup";
    contain_or_end(LAST_WORDS, run)
}

/// The same. Where it panics again while it unwinds, which nothing can contain, these are the last words
/// of the process.
pub(crate) fn contain_or_end<T>(last_words: &'static str, run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    // A thread that panics already cannot exchange the hook.
    if !thread::panicking() {
        HOOK.call_once(|| {
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |info| match CONTAINED.get() {
                None if thread::current().name().is_some_and(|name| name.starts_with(WORKERS)) => {
                    HAS_WORKER_PANICKED.store(true, Ordering::Release);
                }
                None => print(info),
                Some(last_words) if HAS_PANICKED.replace(true) => {
                    tracing::error!("{last_words}");
                    process::exit(1);
                }
                Some(_) => {}
            }));
        });
    }
    let outer = CONTAINED.replace(Some(last_words));
    let has_panicked = HAS_PANICKED.replace(false);
    let result = catch_unwind(AssertUnwindSafe(run));
    HAS_PANICKED.set(has_panicked);
    CONTAINED.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_none_and_the_next_run_is_as_ever() {
        assert_eq!(contain(|| panic!("contained")), None::<()>);
        assert_eq!(contain(|| 7), Some(7));
    }
}
