//! Descriptors: one for each connection, and some for the files of log, vault and views.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// What is open besides connections, with room to spare.
const FILES: u64 = 128;

/// Takes as many descriptors as the system lets this process have, and warns where all connections that
/// may be there would need more.
pub(super) fn provide(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // `None`: no limit.
    let Some(allowed) = (if raised.is_ok() { maximum } else { current }) else { return };
    let connections = [config.public.limits.connections, config.staff.limits.connections];
    let needed = connections.iter().fold(FILES, |sum, more| sum.saturating_add(*more as u64));
    if allowed < needed {
        tracing::warn!(
            "this process may open {allowed} files, and limits.connections of both listeners may need \
             {needed}: raise the one (LimitNOFILE, ulimit -n) or lower the others"
        );
    }
}
