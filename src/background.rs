//! Work that nobody waits for, or may wait longer for: its threads give way to those that answer calls. What
//! holds a lock that calls need is none of it.

use std::io;
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

use crate::telemetry::Complaint;

/// By how much they give way, by the scale of nice(2): beside threads that want all of a processor, one of
/// these gets a tenth of it, so that it comes to its end also on a busy machine.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Starts a thread that gives way.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        give_way();
        work()
    })
}

/// Waits for work that gives way. An error: there is no thread for it, or it has panicked.
pub async fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    static NO_THREAD: Complaint = Complaint::new();
    let (tell, result) = oneshot::channel();
    let work = move || {
        // Nobody may wait any more.
        let _ = tell.send(work());
    };
    spawn(name, work).inspect_err(|error| {
        if NO_THREAD.is_due() {
            tracing::warn!("the system gives no more threads: {error}");
        }
    })?;
    result.await.map_err(io::Error::other)
}

/// Linux has priorities for each thread; elsewhere they are the whole process's.
#[cfg(target_os = "linux")]
fn give_way() {
    // A sandbox may forbid it, and all works without it too.
    let _ = rustix::process::nice(NICER);
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_thread_at_work_gives_way() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        assert_eq!(run("work", niceness).await.unwrap(), (before + NICER).min(19));
        assert_eq!(niceness(), before);
        assert!(run("work", || panic!("this panic is part of the test")).await.is_err());
    }
}
