//! The differences between two configurations, and those that a running daemon cannot take over.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::error::{Location, Problem};
use super::merge::{ConfigValue, TableEntries};
use super::pass::EffectAfter;
use super::{Config, Loaded};

/// Where settings were written, by their names: `limits.burst`. A setting that is written
/// nowhere has its default, and is not here.
pub type Locations = BTreeMap<String, Location>;

/// One setting that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OptionChange {
    /// `limits.burst`, or `channel "orders:*".count`.
    pub setting: String,
    /// As a file spells it.
    pub from: String,
    pub to: String,
}

/// All settings that were written.
pub(super) fn locations(entries: &TableEntries) -> Locations {
    let mut locations = Locations::new();
    note(entries, "", &mut locations);
    locations
}

fn note(entries: &TableEntries, prefix: &str, locations: &mut Locations) {
    for (key, node) in entries {
        let name = format!("{prefix}{key}");
        match &node.value {
            ConfigValue::Table(within) => note(within, &format!("{name}."), locations),
            _ => drop(locations.insert(name, node.location.clone())),
        }
    }
}

impl Config {
    /// The settings that `next` changes, in the order of the example file. That an entry of
    /// `[[channel]]` came or went shows in the list of all.
    pub fn changes(&self, next: &Self) -> Vec<OptionChange> {
        self.changes_with_effect(next).into_iter().map(|(change, _)| change).collect()
    }

    fn changes_with_effect(&self, next: &Self) -> Vec<(OptionChange, EffectAfter)> {
        let was = self.settings();
        let is = next.settings();
        is.iter().filter_map(|is| was.iter().find_map(|was| was.change_to(is))).collect()
    }
}

impl Loaded {
    /// Makes this the successor of a configuration that is in use, as far as a running
    /// daemon can take it over. A setting that takes a restart is an error for all rather
    /// than put off: a reload that succeeds has changed all that was asked for, and
    /// `systemctl reload` has nowhere to show a warning.
    ///
    /// `overruled` are settings without effect, since systemd has passed sockets in their
    /// stead: what they say changes nothing.
    ///
    /// # Errors
    /// Each setting that would take a restart, and where it is written, or was.
    pub fn succeed(&mut self, before: &Self, overruled: &[&str]) -> Result<Vec<OptionChange>, Vec<Problem>> {
        self.keep_unwritten_paths(before);
        let mut changes = before.config.changes_with_effect(&self.config);
        changes.retain(|(change, _)| !overruled.contains(&&*change.setting));
        let late = changes.iter().filter(|(_, effect)| *effect > EffectAfter::Reload);
        let problems: Vec<Problem> =
            late.filter_map(|(change, _)| self.takes_restart(before, change)).collect();
        let changes = changes.into_iter().map(|(change, _)| change).collect();
        if problems.is_empty() { Ok(changes) } else { Err(problems) }
    }

    /// The changes by which another program that begins with this would lose what a running
    /// daemon has: each setting, and where it is written, or was.
    pub fn losses(mut self, before: &Self) -> Vec<Problem> {
        self.keep_unwritten_paths(before);
        let changes = before.config.changes_with_effect(&self.config);
        let lost = changes.iter().filter(|(_, effect)| *effect > EffectAfter::Handover);
        lost.filter_map(|(change, _)| self.takes_restart(before, change)).collect()
    }

    /// Keeps the paths that the daemon before has found where none is written.
    fn keep_unwritten_paths(&mut self, before: &Self) {
        let is_written =
            |setting: &str| self.locations.contains_key(setting) || before.locations.contains_key(setting);
        let (has_worker, has_directory) = (is_written("listen.worker"), is_written("state.directory"));
        if !has_worker {
            self.config.listen.worker.clone_from(&before.config.listen.worker);
        }
        self.config.state.runtime.clone_from(&before.config.state.runtime);
        if !has_directory {
            self.config.state.directory.clone_from(&before.config.state.directory);
        }
    }

    fn takes_restart(&self, before: &Self, change: &OptionChange) -> Option<Problem> {
        let OptionChange { setting, from, to } = change;
        let cannot = format!("cannot change while wshubd runs, from {from} to {to}: restart it");
        let (location, message) = match (self.locations.get(setting), before.locations.get(setting)) {
            (Some(location), _) => (location.clone(), format!("`{setting}` {cannot}")),
            (None, was) => {
                let location = match was? {
                    // Something else stands on that line now.
                    Location::Line { file, .. } => Location::File(Rc::clone(file)),
                    location => location.clone(),
                };
                (location, format!("`{setting}` is not set any more, and {cannot}"))
            }
        };
        Some(Problem::new(location, message))
    }
}
