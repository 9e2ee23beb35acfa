//! Loggers to standard error: lines for a file, a pipe or the journal, and for a terminal.
//!
//! A line that would have to wait for a reader is dropped and counted.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{escape, is_wanted, prefix};

/// Writes to standard error.
pub(super) struct LineLogger {
    /// Each line begins with its priority, as systemd understands it.
    for_journal: bool,
    /// Lines that could not be written.
    lost: AtomicU64,
}

impl LineLogger {
    /// For a file or a pipe, with the level in words.
    pub(super) const fn plain() -> Self {
        Self { for_journal: false, lost: AtomicU64::new(0) }
    }

    /// For the stream that leads to systemd's journal.
    pub(super) const fn for_journal() -> Self {
        Self { for_journal: true, lost: AtomicU64::new(0) }
    }

    /// Counts one more lost line.
    pub(super) fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were lost since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// The line about lost lines.
pub(super) fn lost_lines(lost: u64) -> String {
    format!("{lost} lines before this one were lost: nobody read them")
}

/// Whether a line can be written without waiting.
fn has_room(stream: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&stream, PollFlags::OUT)];
    let result = poll(&mut polled, Some(&Timespec::default()));
    result.is_ok() && polled.iter().all(|one| one.revents() == PollFlags::OUT)
}

/// A logger for a terminal, which may be stopped or closed: the one within would wait there,
/// or end the daemon.
pub(super) struct TerminalLogger<L>(L);

impl<L> TerminalLogger<L> {
    pub(super) fn new(logger: L) -> Self {
        Self(logger)
    }
}

impl<L: Log> Log for TerminalLogger<L> {
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

impl Log for LineLogger {
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
            let _ = writeln!(stderr, "{}", lost_lines(lost));
        }
        // If that fails there is nowhere to report it.
        let _ = stderr.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
