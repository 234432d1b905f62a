//! A sled database whose panics end with it. sled 0.34 panics on many a damaged file when it opens, and
//! on a disk that fails when it closes. What was appended is synced by then, so that nothing depends on
//! its closing; and a damaged file is an error with a message, not a panic with a backtrace.

use std::cell::Cell;
use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::thread;

use ::sled::Db;

thread_local! {
    /// Whether this thread runs something whose panics are contained.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// An open database.
pub(crate) struct Contained {
    /// `None` only while it is dropped.
    db: Option<Db>,
}

impl Contained {
    pub(super) fn new(db: Db) -> Self {
        Self { db: Some(db) }
    }
}

impl Deref for Contained {
    type Target = Db;

    fn deref(&self) -> &Db {
        let Some(db) = &self.db else { unreachable!("nobody has a database that is dropped") };
        db
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let db = self.db.take();
        if contain(|| drop(db)).is_none() {
            tracing::warn!("sled could not sync a file when it closed it; check the disk");
        }
    }
}

/// Runs this; `None`: it panicked, and nothing was printed.
pub(crate) fn contain<T>(run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    // A thread that panics already cannot exchange the hook.
    if !thread::panicking() {
        HOOK.call_once(|| {
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !CONTAINED.get() {
                    print(info);
                }
            }));
        });
    }
    CONTAINED.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CONTAINED.set(false);
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
