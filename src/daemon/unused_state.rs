//! State that was handed over to a process that does not go on with it: it is written to the
//! disk, as at a clean stop, and the next start finds it there.
//!
//! No configuration is needed: there may be none that can be read.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kept_state::SAVE_TIMEOUT;
use super::lock::lock;
use crate::edge::clock;
use crate::edge::handover::UnusedState;
use crate::edge::store;
use crate::edge::store::hub_checkpoint;
use crate::edge::store::{Engine, Store, StoreContext};
use crate::hub::{Effects, Hub, Input, Settings, StoreEvent};

/// Writes a state to the directory that it came from, which is locked for that;
/// `options` count if they are for that directory, and `kept` is a lock that this
/// process has already.
pub(super) fn save(state: UnusedState, options: Option<store::StoreOptions>, kept: Option<&File>) {
    match write(state, options, kept) {
        Ok(None) => {}
        Ok(Some(directory)) => log::info!("what was handed over is in {} now", directory.display()),
        Err(error) => log::error!("what was handed over is lost, but for what the disk had: {error}"),
    }
}

/// Returns the directory that holds it then; nothing, if it was never to be on a disk.
fn write(
    state: UnusedState,
    options: Option<store::StoreOptions>,
    kept: Option<&File>,
) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let UnusedState { hub, store } = state;
    let store = store?;
    let (Some(kept_in), Some(engine)) = (Store::place(&store)?, Engine::built_in()) else {
        return Ok(None);
    };
    let directory = kept_in.parent().unwrap_or(&kept_in).to_owned();
    let lock = lock(&directory, kept)?;
    let options = options.filter(|options| options.directory == kept_in);
    let options = options.unwrap_or_else(|| any_options(engine, &kept_in));
    let store = Store::import(Some(options), clock::now(), &store)?;
    // Without a hub the messages are there all the same.
    let hub = hub.map_err(Box::<dyn Error>::from).and_then(|hub| Ok(Hub::import_for_checkpoint(&hub)?));
    let (is_known, hub) = match hub {
        Ok(hub) => (true, hub),
        Err(error) => {
            log::error!("channels begin anew: {error}");
            (false, Hub::new(Settings::default(), clock::random()))
        }
    };
    let (store, hub) = write_out(store, hub);
    if store.unwritten_len() > 0 {
        let why = store.failure().unwrap_or("the disk is too slow");
        log::error!("{} messages are lost with this process: {why}", store.unwritten_len());
    }
    if let (true, Some(elapsed)) = (is_known, store.hub_clock()) {
        hub_checkpoint::write(&directory, elapsed.stamp(clock::now()), &hub.checkpoint_bytes())?;
    }
    drop(lock);
    Ok(Some(directory))
}

/// Options for a disk whose configuration is not known: everything that is not written yet is
/// written, whatever it takes.
fn any_options(engine: Engine, directory: &Path) -> store::StoreOptions {
    store::StoreOptions {
        engine,
        program: "/proc/self/exe".into(),
        directory: directory.to_owned(),
        write_delay: Duration::ZERO,
        bytes: u64::MAX,
        flash_budget: None,
        memory: usize::MAX,
    }
}

/// Writes everything that outlives a daemon. The hub takes in nothing but that.
fn write_out(mut store: Store, mut hub: Hub) -> (Store, Hub) {
    /// The store's deadlines are checked that often.
    const POLL: Duration = Duration::from_millis(100);
    let deadline = clock::now().moment + SAVE_TIMEOUT;
    let (mut inputs, mut ignored) = (VecDeque::new(), Effects::default());
    store.finish();
    loop {
        let now = clock::now();
        for act in [Store::ready, Store::tick] {
            act(&mut store, &mut StoreContext { now, hub: &hub, epoll: None, inputs: &mut inputs });
        }
        // The hub would act on others, such as that the disk takes less than there is.
        let is_stored = |input: &Input| matches!(input, Input::Store(StoreEvent::Stored { .. }));
        for input in inputs.drain(..).filter(is_stored) {
            hub.handle(now, input, &mut ignored);
            ignored.clear();
        }
        if store.is_finished() || deadline <= now.moment {
            return (store, hub);
        }
        store.wait(POLL);
    }
}
