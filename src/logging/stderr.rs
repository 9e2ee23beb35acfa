//! Lines on standard error.
//!
//! Knows that nobody may be reading: a line that would have to wait is dropped and
//! counted. Does not know what they say.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{escape, is_wanted, prefix};

/// Writes to standard error.
pub(super) struct Lines {
    /// Each line begins with its priority, as systemd understands it.
    for_journal: bool,
    /// Lines that nobody took.
    lost: AtomicU64,
}

impl Lines {
    /// For a file or a pipe, with the level in words.
    pub(super) const fn plain() -> Self {
        Self { for_journal: false, lost: AtomicU64::new(0) }
    }

    /// For the stream that leads to systemd's journal.
    pub(super) const fn for_journal() -> Self {
        Self { for_journal: true, lost: AtomicU64::new(0) }
    }

    /// One more line is lost.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were lost since this was last asked.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// What is said of lines that nobody took.
pub(super) fn told_of(lost: u64) -> String {
    format!("{lost} lines before this one were lost: nobody read them")
}

/// Whether somebody takes a line now.
fn has_room(stream: impl AsFd) -> bool {
    let mut asked = [PollFd::new(&stream, PollFlags::OUT)];
    let asking = poll(&mut asked, Some(&Timespec::default()));
    asking.is_ok() && asked.iter().all(|one| one.revents() == PollFlags::OUT)
}

/// A logger for a terminal, which somebody may have stopped, or closed: it would
/// wait there, or end the daemon.
pub(super) struct Terminal<L>(pub(super) L);

impl<L: Log> Log for Terminal<L> {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        is_wanted(of)
    }

    fn log(&self, record: &Record<'_>) {
        if is_wanted(record.metadata()) && has_room(std::io::stderr()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {}
}

impl Log for Lines {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        is_wanted(of)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = match self.for_journal {
            true => prefix(record.level()),
            false => format!("{} ", record.level()),
        };
        escape(&record.args().to_string(), &mut line);
        line.push('\n');
        let mut stderr = std::io::stderr().lock();
        if !has_room(&stderr) {
            return self.lose();
        }
        let lost = self.take_lost();
        if lost > 0 {
            let _ = writeln!(stderr, "{}", told_of(lost));
        }
        // Nobody is left to tell if that fails.
        let _ = stderr.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
