//! The log, as lines for people: on a terminal, in the journal, in a file or a pipe.
//!
//! One record is one line, whatever is in it. On a terminal simple_logger does this.
//! Elsewhere it would end the daemon with the first line that cannot be written, and the
//! crates for the journal wait for it: one that has stopped would stop the daemon. So
//! neither is used there.
//!
//! How often a kind of line may be written is limited in `edge::driver::anomaly_log`.

mod journald;
mod stderr;

use std::fmt::Write;
use std::io::IsTerminal;

use log::kv;
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Metadata, Record};

use journald::JournalLogger;
use stderr::{LineLogger, TerminalLogger};

/// Libraries whose lower levels must not be written: tokens are in those lines too.
const QUIET: [&str; 2] = ["tungstenite", "hyper"];

/// Installs the logger that fits standard error.
pub fn start(level: LevelFilter) {
    if std::io::stderr().is_terminal() {
        let logger = simple_logger::SimpleLogger::new().with_level(LevelFilter::Trace);
        // Only a logger that is there already would refuse.
        let _ = log::set_boxed_logger(Box::new(TerminalLogger::new(logger)));
    } else if is_for_journal() {
        let _ = log::set_boxed_logger(Box::new(JournalLogger::new()));
    } else {
        let _ = log::set_boxed_logger(Box::new(LineLogger::plain()));
    }
    set_level(level);
}

/// Whether standard error leads to systemd's journal.
pub fn is_for_journal() -> bool {
    journald::is_behind(std::io::stderr())
}

/// The prefix of a line there (sd-daemon(3)).
pub fn prefix(level: Level) -> String {
    format!("<{}>", priority(level))
}

/// Writes records of this level and worse ones from now on. `RUST_LOG` wins.
pub fn set_level(level: LevelFilter) {
    let named = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    log::set_max_level(named.unwrap_or(level));
}

fn is_wanted(of: &Metadata<'_>) -> bool {
    let is_quiet = QUIET.iter().any(|library| of.target().starts_with(library));
    of.level() <= if is_quiet { Level::Warn } else { Level::Trace }
}

/// The priority in the numbers of `syslog`.
fn priority(level: Level) -> char {
    match level {
        Level::Error => '3',
        Level::Warn => '4',
        Level::Info => '6',
        Level::Debug | Level::Trace => '7',
    }
}

/// Appends text so that it is one line, and moves no cursor.
fn escape(text: &str, to: &mut String) {
    for c in text.chars() {
        if c.is_control() { to.extend(c.escape_default()) } else { to.push(c) }
    }
}

/// A record in the journal's native protocol: a field a line.
fn entry(record: &Record<'_>) -> String {
    let mut text = format!("PRIORITY={}\nSYSLOG_IDENTIFIER=wshubd\nMESSAGE=", priority(record.level()));
    escape(&record.args().to_string(), &mut text);
    text.push('\n');
    // Collecting into a string cannot fail.
    let _ = record.key_values().visit(&mut JournalFields(&mut text));
    text
}

/// Fields of ours, with our prefix.
struct JournalFields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for JournalFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        write!(self.0, "WSHUBD_{}=", key.as_str().to_ascii_uppercase())?;
        escape(&value.to_string(), self.0);
        self.0.push('\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_field_a_line_whatever_is_in_it() {
        let fields: [(&str, Value<'_>); 2] =
            [("user", Value::from("eve\nPRIORITY=0")), ("connection", Value::from("00c1"))];
        let record = Record::builder()
            .args(format_args!("closed\u{1b}[2J\nMESSAGE=forged"))
            .level(Level::Warn)
            .key_values(&fields)
            .build();
        let expected = "PRIORITY=4\nSYSLOG_IDENTIFIER=wshubd\nMESSAGE=closed\\u{1b}[2J\\nMESSAGE=forged\n\
                        WSHUBD_USER=eve\\nPRIORITY=0\nWSHUBD_CONNECTION=00c1\n";
        assert_eq!(entry(&record), expected);
    }

    #[test]
    fn levels_have_the_priorities_of_syslog() {
        let all = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        assert_eq!(all.map(priority), ['3', '4', '6', '7', '7']);
    }

    #[test]
    fn what_libraries_say_in_passing_is_not_written() {
        let of = |target, level| Metadata::builder().target(target).level(level).build();
        assert!(!is_wanted(&of("hyper::proto", Level::Info)));
        assert!(is_wanted(&of("hyper::proto", Level::Warn)));
        assert!(is_wanted(&of("wshubd", Level::Debug)));
    }
}
