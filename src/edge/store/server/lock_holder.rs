//! The process that has the store locked while a new one waits for it.
//!
//! The daemon has its state directory to itself, so the holder is the store process of an earlier
//! daemon. It ends by itself; one that does not is hanging.

use std::fs;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::edge::store::child::ARGUMENT;

/// Kills it. False where there is none, where it is something else, or where the
/// kernel does not say.
pub(super) fn kill(handle: &File, directory: &Path) -> bool {
    let Ok(inode) = handle.metadata().map(|found| found.ino()) else { return false };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut holders = locks.lines().filter_map(|line| holder(line, inode));
    holders.any(|pid| kill_ours(pid, directory))
}

/// The holder of a lock on that inode, out of a line such as
/// `7: FLOCK  ADVISORY  WRITE 4711 fd:01:1310 0 EOF`. A process that waits for one
/// has an arrow before the kind.
fn holder(line: &str, inode: u64) -> Option<Pid> {
    let mut words = line.split_whitespace().skip(1);
    let kind = words.next()?;
    let (pid, place) = (words.nth(2)?, words.next()?);
    let of: u64 = place.rsplit(':').next()?.parse().ok()?;
    Pid::from_raw(pid.parse().ok()?).filter(|_| kind == "FLOCK" && of == inode)
}

fn kill_ours(pid: Pid, directory: &Path) -> bool {
    // First: the number may be given to another process at any time.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).skip_while(|word| *word != ARGUMENT.as_bytes());
    let is_ours = words.nth(1) == Some(directory.as_os_str().as_bytes());
    is_ours && pidfd_send_signal(process, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_of_a_lock_is_told_from_waiting_processes() {
        let line = "7: FLOCK  ADVISORY  WRITE 4711 fd:01:1310 0 EOF";
        assert_eq!(holder(line, 1310).map(Pid::as_raw_nonzero).map(i32::from), Some(4711));
        assert_eq!(holder(line, 1311), None);
        assert_eq!(holder("7: -> FLOCK  ADVISORY  WRITE 4711 fd:01:1310 0 EOF", 1310), None);
        assert_eq!(holder("8: POSIX  ADVISORY  WRITE 4711 fd:01:1310 0 EOF", 1310), None);
        assert_eq!(holder("7: FLOCK  ADVISORY  WRITE 0 fd:01:1310 0 EOF", 1310), None);
    }
}
