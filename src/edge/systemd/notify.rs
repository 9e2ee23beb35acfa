//! What systemd is told.
//!
//! Knows how each message is spelled and that it may get lost: a daemon whose
//! overseer does not listen goes on. Does not know when something is to be told.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState as Say;

/// Whoever started this process wants to hear of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    /// After so much silence it kills the process.
    pub(super) watchdog: Option<Duration>,
}

impl Notify {
    /// None where nobody listens.
    pub fn of_process() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        Some(Self { watchdog: sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) })
    }

    /// After how much silence the process is killed, if it is at all.
    pub fn watchdog(self) -> Option<Duration> {
        self.watchdog
    }

    /// systemd has promised to keep descriptors of this unit. Versions before 254
    /// promise nothing, and may keep them.
    pub fn keeps_descriptors() -> bool {
        std::env::var_os("FDSTORE").is_some_and(|most| most != "0")
    }

    /// Whoever connects is served from now on.
    pub fn ready(self, status: &str) {
        tell(&[Say::Ready, Say::Status(status)]);
    }

    /// What an administrator reads in `systemctl status`.
    pub fn status(self, status: &str) {
        tell(&[Say::Status(status)]);
    }

    /// The process is going to end.
    pub fn stopping(self, status: &str) {
        tell(&[Say::Stopping, Say::Status(status)]);
    }

    /// Starting or stopping goes on, and wants so much time from now on at least.
    pub fn extend(self, time: Duration) {
        tell(&[Say::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
    }

    /// The process is not stuck.
    pub fn alive(self) {
        tell(&[Say::Watchdog]);
    }

    /// Gives descriptors to systemd, which passes them to the next process of the unit
    /// by this name, as many as `FileDescriptorStoreMax=` allows; beyond that they
    /// are closed without a word. They are kept whatever happens at their other end:
    /// as a rule systemd would drop one that hangs up.
    ///
    /// # Errors
    /// systemd does not listen any more.
    pub fn keep(self, name: &str, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let say = [Say::FdStore, Say::FdName(name), Say::Custom("FDPOLL=0")];
        sd_notify::notify_with_fds(&say, descriptors)
    }

    /// Closes what systemd keeps by this name.
    pub fn forget(self, name: &str) {
        tell(&[Say::FdStoreRemove, Say::FdName(name)]);
    }

    /// Waits until systemd has carried out all that it was told before
    /// (sd_notify_barrier(3)).
    ///
    /// # Errors
    /// It does not listen any more, or not in time.
    pub fn wait(self) -> std::io::Result<()> {
        /// Far longer than it ever takes; whoever waits serves nobody.
        const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        sd_notify::notify_with_fds(&[Say::Custom("BARRIER=1")], &[theirs.as_fd()])?;
        drop(theirs);
        // It closes its end when it comes to this message.
        let mut ends = [PollFd::new(&ours, PollFlags::empty())];
        let closed = poll(&mut ends, Some(&PATIENCE))?;
        if closed == 0 { Err(std::io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

fn tell(say: &[Say<'_>]) {
    // It listens again after its own restart; nothing is gained by giving up, or by a
    // line in a journal that is gone as well.
    let _ = sd_notify::notify(say);
}
