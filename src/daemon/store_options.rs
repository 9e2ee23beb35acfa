//! The options of the store, from the configuration.

use crate::config::{Config, StoreKind, paths};
use crate::edge::store;
use crate::edge::store::Engine;

/// How the disk is to be used, if it is.
pub(super) fn store_options(config: &Config) -> Option<store::StoreOptions> {
    let engine = Engine::built_in().filter(|_| config.state.store == StoreKind::Sled);
    engine.map(|engine| store::StoreOptions {
        engine,
        // The file may have been replaced by a newer one; this one is what runs.
        program: "/proc/self/exe".into(),
        directory: config.state.directory.join(paths::STORE),
        write_delay: config.store.write_delay,
        bytes: config.limits.hub.kept_bytes as u64,
        flash_budget: config.store.flash_budget,
        memory: config.limits.hub.memory / 4,
    })
}
