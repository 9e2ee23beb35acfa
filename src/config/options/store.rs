//! `[store]`: how the disk is used.

use std::time::Duration;

use super::{GIB, HOUR, MAX_MEMORY, MIB};
use crate::config::pass::Section;

/// How the disk is used. How much it may hold is `limits.hub.kept_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    pub write_delay: Duration,
    /// Bytes written a day; none: as many as it takes.
    pub flash_budget: Option<u64>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { write_delay: Duration::from_secs(1), flash_budget: Some(256 * MIB) }
    }
}

impl StoreConfig {
    /// `kept_bytes` are those of the hub's limits.
    pub(super) fn options(&mut self, kept_bytes: &mut usize, section: &mut Section<'_>) {
        section.duration("write_delay", &mut self.write_delay, Duration::ZERO..=Duration::from_secs(HOUR));
        section.size("bytes", kept_bytes, 4 * MIB..=MAX_MEMORY);
        let mut budget = self.flash_budget.unwrap_or_default();
        section.size("flash_budget", &mut budget, 0..=1024 * GIB);
        self.flash_budget = Some(budget).filter(|budget| *budget > 0);
    }
}
