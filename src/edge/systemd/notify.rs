//! Notifications to systemd. One may get lost: a daemon to which systemd does not listen goes on.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

/// systemd, which wants to be notified of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    /// After so much silence it kills the process.
    watchdog: Option<Duration>,
}

impl Notify {
    /// None where it is not systemd that has started it.
    pub fn of_process() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        Some(Self { watchdog: sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) })
    }

    /// For tests: one with this watchdog.
    #[cfg(test)]
    pub(super) fn with_watchdog(watchdog: Option<Duration>) -> Self {
        Self { watchdog }
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

    /// Connections are accepted from now on.
    pub fn ready(self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// What an administrator reads in `systemctl status`.
    pub fn status(self, status: &str) {
        send(&[NotifyState::Status(status)]);
    }

    /// The process is going to end.
    pub fn stopping(self, status: &str) {
        send(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Starting or stopping goes on, and wants so much time from now on at least.
    pub fn extend(self, time: Duration) {
        send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))]);
    }

    /// The process is not stuck.
    pub fn alive(self) {
        send(&[NotifyState::Watchdog]);
    }

    /// Gives descriptors to systemd, which passes them to the next process of the unit
    /// by this name, as many as `FileDescriptorStoreMax=` allows; beyond that they
    /// are closed without a word. They are kept whatever happens at their other end:
    /// as a rule systemd would drop one that hangs up.
    ///
    /// # Errors
    /// systemd does not listen any more.
    pub fn keep(self, name: &str, descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        sd_notify::notify_with_fds(&states, descriptors)
    }

    /// Closes what systemd keeps by this name.
    pub fn forget(self, name: &str) {
        send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }

    /// Waits until systemd has carried out all that was sent before
    /// (sd_notify_barrier(3)).
    ///
    /// # Errors
    /// It does not listen any more, or not in time.
    pub fn wait(self) -> std::io::Result<()> {
        /// Far longer than it ever takes; nothing is served meanwhile.
        const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
        drop(theirs);
        // It closes its end when it comes to this message.
        let mut ends = [PollFd::new(&ours, PollFlags::empty())];
        let closed = poll(&mut ends, Some(&PATIENCE))?;
        if closed == 0 { Err(std::io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

fn send(states: &[NotifyState<'_>]) {
    // It listens again after its own restart; nothing is gained by giving up, or by a
    // line in a journal that is gone as well.
    let _ = sd_notify::notify(states);
}
