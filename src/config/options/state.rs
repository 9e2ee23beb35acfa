//! `[state]`: what survives the process, and where.

use std::path::PathBuf;

use crate::config::pass::{EffectAfter, Section};
use crate::config::{Environment, paths};
use crate::features;

/// What survives the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateConfig {
    pub directory: PathBuf,
    /// systemd's directory for what outlives the process and not the machine.
    pub runtime: Option<PathBuf>,
    pub store: StoreKind,
}

/// What keeps messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    Sled,
    Memory,
}

impl StoreKind {
    const NAMES: [(&'static str, Self); 2] = [("sled", Self::Sled), ("memory", Self::Memory)];
}

/// A disk, where this build can use one.
impl Default for StoreKind {
    fn default() -> Self {
        if features::STORE.is_built_in { Self::Sled } else { Self::Memory }
    }
}

impl StateConfig {
    pub(super) fn defaults(environment: &Environment) -> Self {
        Self {
            directory: paths::state_directory(environment),
            runtime: environment.directory("RUNTIME_DIRECTORY"),
            store: StoreKind::default(),
        }
    }

    pub(super) fn options(&mut self, section: &mut Section<'_>) {
        section.needs(EffectAfter::Restart).path("directory", &mut self.directory, Ok);
        let location = section.location("store");
        section.needs(EffectAfter::Restart).choice("store", &mut self.store, &StoreKind::NAMES);
        if let (Some(location), StoreKind::Sled, false) = (location, self.store, features::STORE.is_built_in)
        {
            let message = format!("`state.store` cannot be \"sled\": {}", features::STORE.missing());
            section.complain(location, message);
        }
    }
}
