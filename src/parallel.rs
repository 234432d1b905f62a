//! Work on all processors, whose results are taken in order.

use std::collections::VecDeque;
use std::iter;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::{self, Builder, Scope};

/// More at once would only wait in memory for the one who takes their results.
const MOST_AT_ONCE: usize = 9;

/// How many jobs are begun before the first of them is taken: two for each processor, as some wait for the
/// disk, and one that is done already.
fn at_once() -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    (processors * 2 + 1).min(MOST_AT_ONCE)
}

/// Does these jobs, some at a time, and gives their results in the order of the jobs. None begins before
/// there is a place for it, so that there may be any number of them.
pub fn ahead<'scope, T, J>(
    scope: &'scope Scope<'scope, '_>,
    jobs: impl IntoIterator<Item = J>,
) -> impl Iterator<Item = T>
where
    T: Send + 'scope,
    J: FnOnce() -> T + Clone + Send + 'scope,
{
    let at_once = at_once();
    let mut jobs = jobs.into_iter();
    let mut begun = VecDeque::new();
    iter::from_fn(move || {
        while begun.len() < at_once
            && let Some(job) = jobs.next()
        {
            begun.push_back((Builder::new().spawn_scoped(scope, job.clone()), job));
        }
        match begun.pop_front()? {
            (Ok(thread), _) => Some(thread.join().unwrap_or_else(|panic| resume_unwind(panic))),
            // Without a thread it takes its time here.
            (Err(_), job) => Some(job()),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn results_are_in_order_whichever_is_there_first() {
        let (tell, told) = mpsc::channel();
        let told = Mutex::new(told);
        thread::scope(|scope| {
            // The first waits for the second, which shows that both are at work.
            let jobs = (0..10).map(|number| {
                let (tell, told) = (tell.clone(), &told);
                move || {
                    match number {
                        0 => told.lock().unwrap().recv().unwrap(),
                        1 => tell.send(()).unwrap(),
                        _ => {}
                    }
                    number
                }
            });
            assert!(ahead(scope, jobs).eq(0..10));
        });
    }

    #[test]
    fn what_is_not_taken_is_not_begun() {
        let begun = AtomicUsize::new(0);
        thread::scope(|scope| {
            let jobs = iter::repeat(|| begun.fetch_add(1, Ordering::Relaxed));
            assert_eq!(ahead(scope, jobs).take(3).count(), 3);
        });
        assert!(begun.load(Ordering::Relaxed) <= 3 + at_once());
    }
}
