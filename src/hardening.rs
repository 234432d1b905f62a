//! Keeps what is in memory from files: a process that dies leaves no core dump, and nobody but root
//! reads its memory.

use std::io;

/// Turns core dumps off for this process. Call it before any key is read.
///
/// The limit alone would not do: where the system hands cores to a program, it is not asked. That the
/// process is not dumpable also keeps other processes of the same user from attaching to it, and makes
/// its files in /proc root's.
#[cfg(target_os = "linux")]
pub fn forbid_core_dumps() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Elsewhere it is for who starts the process.
#[cfg(not(target_os = "linux"))]
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(())
}
