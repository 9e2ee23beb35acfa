//! The state of the hub and the store from one process to the next: handed over, read from
//! the checkpoint of a clean stop, or new; written at the end.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Access;

use super::Error;
use super::store_options::store_options;
use super::unused_state;
use crate::config::Config;
use crate::edge::clock;
use crate::edge::event_loop::Edge;
use crate::edge::handover::ReceivedHandover;
use crate::edge::store::Store;
use crate::edge::store::hub_checkpoint;
use crate::edge::store::hub_checkpoint::HubCheckpoint;
use crate::hub::{Hub, Settings};

/// How long the disk may take at the end. systemd kills after 90 s.
pub(super) const SAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// A hub with its store, before the driver owns them.
pub(super) struct Begun {
    hub: Hub,
    store: Store,
    uses_hub_checkpoint: bool,
}

impl Begun {
    /// Whether they go on from a checkpoint, which is true once.
    pub(super) fn uses_hub_checkpoint(&self) -> bool {
        self.uses_hub_checkpoint
    }

    pub(super) fn into_parts(self) -> (Hub, Store) {
        (self.hub, self.store)
    }
}

/// A hub and a store that go on where those of another process were, or from the checkpoint
/// of a clean stop, or anew.
pub(super) fn begin(config: &Config, lock: &File, received: &mut ReceivedHandover) -> Begun {
    let settings = config.hub_settings();
    if let Some((hub, store)) = received.revive(&settings, store_options(config)) {
        return Begun { hub, store, uses_hub_checkpoint: false };
    }
    if let Some(unused) = received.take_unused() {
        unused_state::save(unused, store_options(config), Some(lock));
    }
    let checkpoint = read_hub_checkpoint(&config.state.directory);
    let mut store = open_store(config);
    if checkpoint.is_none() && !received.has_come() && store.was_killed(&config.positions()) {
        log::warn!(
            "the daemon before this one has not stopped but ended, and handed nothing over: its connections \
             are lost, and what no disk had"
        );
    }
    let hub = start_hub(settings, &mut store, checkpoint.as_ref());
    Begun { hub, store, uses_hub_checkpoint: checkpoint.is_some() }
}

/// The checkpoint of a clean stop, where it can be removed before a peer connects: it is
/// true once.
fn read_hub_checkpoint(directory: &Path) -> Option<HubCheckpoint> {
    let checkpoint = hub_checkpoint::read(directory).unwrap_or_else(|error| {
        log::error!("{}: what the last stop has left cannot be read: {error}", directory.display());
        None
    });
    let is_writable = || rustix::fs::access(directory, Access::WRITE_OK);
    checkpoint.filter(|_| match is_writable() {
        Ok(()) => true,
        Err(error) => {
            log::error!("{}: channels begin anew: {}", directory.display(), io::Error::from(error));
            false
        }
    })
}

/// Removes the checkpoint. With another store, or none, it would not be true the next time:
/// so it goes in any case.
pub(super) fn remove_hub_checkpoint(directory: &Path, is_in_use: bool) -> Result<(), Error> {
    match hub_checkpoint::remove(directory) {
        // Where nothing can be written nothing was taken from there either.
        Err(error) if is_in_use => Err(Error::State(directory.to_owned(), error)),
        _ => Ok(()),
    }
}

/// A hub that goes on from a checkpoint, or begins anew.
fn start_hub(settings: Settings, store: &mut Store, checkpoint: Option<&HubCheckpoint>) -> Hub {
    let seed = clock::random();
    let Some(checkpoint) = checkpoint else { return Hub::new(settings, seed) };
    let Some(shift) = store.restore_clock(&checkpoint.stamp) else { return Hub::new(settings, seed) };
    match Hub::revive(settings.clone(), seed, clock::now(), &checkpoint.hub, shift) {
        Ok(hub) => hub,
        Err(error) => {
            log::error!("the last stop has left what cannot be used: {error}");
            Hub::new(settings, seed)
        }
    }
}

fn open_store(config: &Config) -> Store {
    store_options(config).map_or_else(Store::in_memory, |options| Store::on_disk(options, clock::now()))
}

/// Writes what outlives the daemon.
pub(super) fn save(edge: &Edge, directory: &Path) {
    let mut driver = edge.driver.borrow_mut();
    let lost = driver.save(SAVE_TIMEOUT, &mut |now| edge.status.takes_longer(now, "writing what is kept"));
    if lost > 0 {
        let why = driver.trouble().unwrap_or("the disk is too slow");
        log::error!("{lost} messages are lost with this process: {why}");
    }
    let Some((stamp, hub)) = driver.remains() else { return };
    if let Err(error) = hub_checkpoint::write(directory, stamp, &hub) {
        log::error!("{}: positions are lost: {error}", directory.display());
    }
}
