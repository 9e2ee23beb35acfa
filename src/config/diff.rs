//! What one configuration says otherwise than another.
//!
//! Knows the settings by name, which of them were written down where, and which a
//! running daemon cannot change. Does not know what a change leads to.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::error::{Place, Problem};
use super::merge::{Entries, Value};
use super::{Config, Loaded, render};

/// Where settings were written down, by their names: `limits.burst`. What nobody
/// wrote is at its default, and not here.
pub type Places = BTreeMap<String, Place>;

/// One setting that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// `limits.burst`, or `channel "orders:*".count`.
    pub setting: String,
    /// As a file spells it.
    pub from: String,
    pub to: String,
}

/// What the daemon took hold of when it started. Changing one of these is refused as
/// a whole rather than put off: a reload that succeeds has changed all that was
/// asked for, and `systemctl reload` has nowhere to show a warning.
const FIXED: [&str; 4] = ["listen.http", "listen.worker", "state.directory", "state.store"];

/// Those of them without which another program has nothing to go on with.
const KEPT: [&str; 2] = ["state.directory", "state.store"];

/// All settings that were written down.
pub(super) fn places(entries: &Entries) -> Places {
    let mut places = Places::new();
    note(entries, "", &mut places);
    places
}

fn note(entries: &Entries, prefix: &str, places: &mut Places) {
    for (key, node) in entries {
        let name = format!("{prefix}{key}");
        match &node.value {
            Value::Table(within) => note(within, &format!("{name}."), places),
            _ => drop(places.insert(name, node.place.clone())),
        }
    }
}

impl Config {
    /// What `next` says otherwise, in the order of the example file. That an entry
    /// of `[[channel]]` came or went shows in the list of all.
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let was = render::settings(self);
        let is = render::settings(next).into_iter();
        is.filter_map(|(setting, to)| {
            let (_, from) = was.iter().find(|(name, from)| *name == setting && *from != to)?.clone();
            Some(Change { setting, from, to })
        })
        .collect()
    }
}

impl Loaded {
    /// Makes this the successor of a configuration that is in use, as far as a
    /// running daemon can take it over.
    ///
    /// `overruled` are the settings in whose place somebody else has said something: what
    /// they say changes nothing.
    ///
    /// # Errors
    /// Each setting that would take a restart, and where it is written, or was.
    pub fn succeed(&mut self, before: &Self, overruled: &[&str]) -> Result<Vec<Change>, Vec<Problem>> {
        self.stay_where(before);
        let mut changes = before.config.changes(&self.config);
        changes.retain(|change| !overruled.contains(&&*change.setting));
        let fixed = changes.iter().filter(|change| FIXED.contains(&&*change.setting));
        let problems: Vec<Problem> = fixed.filter_map(|change| self.takes_restart(before, change)).collect();
        if problems.is_empty() { Ok(changes) } else { Err(problems) }
    }

    /// What another program that begins with this would lose of what a running daemon has:
    /// each setting, and where it is written, or was.
    pub fn loses(mut self, before: &Self) -> Vec<Problem> {
        self.stay_where(before);
        let changes = before.config.changes(&self.config);
        let lost = changes.iter().filter(|change| KEPT.contains(&&*change.setting));
        lost.filter_map(|change| self.takes_restart(before, change)).collect()
    }

    /// Takes the places for which the daemon before has looked where nobody says.
    fn stay_where(&mut self, before: &Self) {
        let is_said =
            |setting: &str| self.places.contains_key(setting) || before.places.contains_key(setting);
        let (has_worker, has_directory) = (is_said("listen.worker"), is_said("state.directory"));
        if !has_worker {
            self.config.listen.worker.clone_from(&before.config.listen.worker);
        }
        self.config.state.runtime.clone_from(&before.config.state.runtime);
        if !has_directory {
            self.config.state.directory.clone_from(&before.config.state.directory);
        }
    }

    fn takes_restart(&self, before: &Self, change: &Change) -> Option<Problem> {
        let Change { setting, from, to } = change;
        let cannot = format!("cannot change while wshubd runs, from {from} to {to}: restart it");
        let (place, message) = match (self.places.get(setting), before.places.get(setting)) {
            (Some(place), _) => (place.clone(), format!("`{setting}` {cannot}")),
            (None, was) => {
                let place = match was? {
                    // Something else stands on that line now.
                    Place::Line { file, .. } => Place::File(Rc::clone(file)),
                    place => place.clone(),
                };
                (place, format!("`{setting}` is not set any more, and {cannot}"))
            }
        };
        Some(Problem::new(place, message))
    }
}
