//! Lines for the journal, a file or a pipe.
//!
//! Knows one line a record, whatever is in it, and that nobody may be reading: a
//! line that would have to wait is dropped and counted. Does not know which records
//! there are. On a terminal simple_logger does this;
//! elsewhere it would end the daemon with the first line that nobody takes.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What passes through the libraries' lower levels must not be written: tokens
/// are in it too.
const QUIET: [&str; 3] = ["tungstenite", "hyper", "jsonwebtoken"];

/// Writes to standard error.
struct Lines {
    /// Each line begins with its priority, as systemd understands it.
    for_journal: bool,
    /// Lines that nobody took.
    lost: AtomicU64,
}

/// Sets the logger: on a terminal the comfortable one.
pub fn start(is_terminal: bool, for_journal: bool) {
    if is_terminal {
        let mut logger = simple_logger::SimpleLogger::new().with_level(LevelFilter::Info).env();
        for library in QUIET {
            logger = logger.with_module_level(library, LevelFilter::Warn);
        }
        // Only a logger that is there already would refuse.
        let _ = logger.init();
        return;
    }
    static PLAIN: Lines = Lines { for_journal: false, lost: AtomicU64::new(0) };
    static JOURNAL: Lines = Lines { for_journal: true, lost: AtomicU64::new(0) };
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    if log::set_logger(if for_journal { &JOURNAL } else { &PLAIN }).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Info));
    }
}

/// What a line begins with for the journal (sd-daemon(3)).
pub fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

impl Log for Lines {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        let is_quiet = QUIET.iter().any(|library| of.target().starts_with(library));
        of.level() <= if is_quiet { Level::Warn } else { Level::Trace }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::new();
        if self.for_journal {
            line.push_str(priority(record.level()));
        } else {
            line.push_str(record.level().as_str());
            line.push(' ');
        }
        // A record is one line, and moves no cursor.
        for c in record.args().to_string().chars() {
            if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
        }
        line.push('\n');
        let mut stderr = std::io::stderr().lock();
        let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
        let has_room = poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        if !has_room {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(stderr, "{lost} lines before this one were lost: nobody read them");
        }
        // Nobody is left to tell if that fails.
        let _ = stderr.write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
