//! `[log]`: which lines the daemon writes.

use log::LevelFilter;

use crate::config::pass::Section;

/// Which lines the daemon writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Lines of this level, and of worse ones.
    pub level: LevelFilter,
    /// Whether a line is logged for each request and each end of a connection.
    pub access: bool,
}

/// As people expect them.
const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LevelFilter::Info, access: false }
    }
}

impl LogConfig {
    pub(super) fn options(&mut self, section: &mut Section<'_>) {
        section.choice("level", &mut self.level, &LEVELS);
        section.boolean("access", &mut self.access);
    }
}
