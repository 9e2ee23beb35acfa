//! Limit on open descriptors of this process, and how many of them are kept back.

use std::fs;
use std::fs::DirEntry;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// So many are kept back from clients: the process that owns the disk takes five while
/// it is started, a hand-over three and one for each new address, checking the next
/// configuration six, and the next program some fifteen before it accepts a connection.
const KEPT_BACK: u64 = 32;

/// Where the limit is low, no more than this part of it is kept back.
const PART: u64 = 4;

/// This part of what is kept back from clients is for workers, one of whom may be an
/// administrator.
const FOR_WORKERS: u64 = 4;

/// The kind of peer that a descriptor is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    Client,
    Worker,
}

/// Lets this process have as many as it may: the lower limit that shells and systemd
/// set is for programs that break beyond 1024, which this one does not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where that is not allowed, the lower one is what there is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// The limit of the process, as it is now; another process may change it.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The warning where that many connections do not fit, while so many are open.
pub fn warning(connections: usize, open: usize) -> Option<String> {
    let limit = limit();
    let first_kept_back = first_kept_back(limit, Use::Client);
    let fit = first_kept_back.saturating_sub(own(open, first_kept_back));
    (fit < connections as u64).then(|| {
        format!(
            "limits.connections is {connections}, and this process may have {limit} files open, which is enough \
             for {fit}: raise `LimitNOFILE=` of the unit, or the hard limit (`ulimit -Hn`)"
        )
    })
}

/// How many descriptors with a number below the end the daemon has open for itself, beside
/// one for each of so many connections: listeners, the lock, epoll, signals, the log.
fn own(connections: usize, end: u64) -> u64 {
    let number = |entry: io::Result<DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u64>().ok();
    // The list takes one while it is read. Without `/proc` there was no start.
    let of_list = next(io::stdin());
    let counts = |number: &u64| *number < end && Some(*number) != of_list;
    let open = fs::read_dir("/proc/self/fd").map_or(0, |list| list.filter_map(number).filter(counts).count());
    open.saturating_sub(connections) as u64
}

/// The number of the first descriptor that is not for such a use. The kernel gives out
/// the lowest that is free, so the number shows how many there are.
pub fn first_kept_back(limit: u64, what: Use) -> u64 {
    let kept_back = KEPT_BACK.min(limit / PART);
    match what {
        Use::Client => limit - kept_back,
        Use::Worker => limit - kept_back + kept_back / FOR_WORKERS,
    }
}

/// The number that the next descriptor gets; none, where there is none left. `any` is
/// one that is open.
pub fn next(any: impl AsFd) -> Option<u64> {
    let next = fcntl_dupfd_cloexec(any, 0).ok()?;
    Some(number(&next))
}

/// The number of a descriptor.
pub fn number(descriptor: &impl AsRawFd) -> u64 {
    u64::try_from(descriptor.as_raw_fd()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_descriptors_few_are_kept_back() {
        let of = |limit| [first_kept_back(limit, Use::Client), first_kept_back(limit, Use::Worker)];
        assert_eq!(of(16_384), [16_352, 16_360]);
        assert_eq!(of(40), [30, 32]);
        assert_eq!(of(0), [0, 0]);
    }
}
