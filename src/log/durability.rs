//! What makes sure that what is believed is on the disk: that sled's `flush` reaches it, and that a start
//! reads from it.
//!
//! On Linux sled 0.34 ends a flush in `sync_file_range(2)`, which flushes neither the drive's cache
//! nor the file's metadata, and then reuses segments as if it had. Where that call answers `ENOSYS`
//! it falls back to a real `fdatasync`, in its own write order. So a seccomp rule answers `ENOSYS`
//! to it, for the whole process and for good; nothing else of the process is restricted. Whether the
//! rule holds is asked, not assumed: where it does not, the log syncs sled's file itself after each
//! flush.

use std::fs::File;
use std::io;

/// Has what is read of a file from here on come from the disk. Where a sync failed in an earlier process,
/// the kernel may keep what was to be written in its cache as if it were on the disk, and never write
/// it: what is built on that is gone with the next power cut. What waits there to be written is
/// synced first.
pub fn reread_from_disk(file: &File) -> io::Result<()> {
    file.sync_data()?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Whether a flush of sled alone is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// It is.
    Durable,
    /// It is not; sled's file must be synced after it.
    NeedsSync,
}

/// Arranges it for this process. Call it before sled opens anything; calling it again costs nothing.
pub fn make_flush_durable() -> Flush {
    static FLUSH: std::sync::OnceLock<Flush> = std::sync::OnceLock::new();
    *FLUSH.get_or_init(|| {
        let flush = arrange();
        if flush == Flush::NeedsSync {
            tracing::warn!("sync_file_range cannot be turned off; the log syncs its file itself");
        }
        flush
    })
}

#[cfg(target_os = "linux")]
fn arrange() -> Flush {
    match linux::install_rule() {
        Ok(()) if linux::rule_holds() => Flush::Durable,
        _ => Flush::NeedsSync,
    }
}

/// Elsewhere sled's flush ends in a real sync of the file.
#[cfg(not(target_os = "linux"))]
fn arrange() -> Flush {
    Flush::Durable
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::env::consts::ARCH;

    use rustix::fs::Advice;
    use rustix::io::Errno;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule,
    };

    /// The rule covers one more call, for asking whether it holds: `fadvise64`, which only advises,
    /// at an offset that no caller has a reason to name. There is no safe way to call
    /// `sync_file_range` itself, and both answers come from the same program.
    const PROBE_OFFSET: u64 = 0x5EC0_4B1D_0FF5_E700;

    pub(super) fn install_rule() -> Result<(), seccompiler::Error> {
        seccompiler::apply_filter_all_threads(&program()?)
    }

    fn program() -> Result<BpfProgram, BackendError> {
        let at_probe_offset =
            SeccompCondition::new(1, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, PROBE_OFFSET)?;
        let rules = BTreeMap::from([
            (libc::SYS_sync_file_range, Vec::new()),
            (libc::SYS_fadvise64, vec![SeccompRule::new(vec![at_probe_offset])?]),
        ]);
        SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs()),
            ARCH.try_into()?,
        )?
        .try_into()
    }

    pub(super) fn rule_holds() -> bool {
        let Ok(file) = std::fs::File::open("/dev/null") else { return false };
        rustix::fs::fadvise(&file, PROBE_OFFSET, None, Advice::Normal) == Err(Errno::NOSYS)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_rule_holds_once_installed() {
            // A filter holds for good, so it goes to a thread that ends.
            std::thread::spawn(|| {
                seccompiler::apply_filter(&program().unwrap()).unwrap();
                assert!(rule_holds());
            })
            .join()
            .unwrap();
        }
    }
}
